//! A certificate with its key, as two PEM files have them; or what is wrong with them, and the remedy.
//! Of a private key nothing is ever told.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::clock::Timestamp;
use crate::config::CertificateFiles;

/// What is shown to clients, and what is known of it.
#[derive(Debug)]
pub struct Pair {
    pub certified: Arc<CertifiedKey>,
    pub about: About,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Lower case, with wildcards as they stand there.
    pub names: Vec<String>,
    pub begins: Timestamp,
    pub ends: Timestamp,
    /// Certificates behind the server's own.
    pub issuers: usize,
    /// Nobody but itself has signed it.
    pub self_signed: bool,
}

/// Which of the two files is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Certificate,
    Key,
}

/// Why a pair cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub which: Which,
    pub cause: String,
    pub remedy: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.remedy)
    }
}

/// Both files as they stood at one moment.
#[derive(PartialEq, Eq)]
pub struct Written {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Written {
    pub fn read(files: &CertificateFiles) -> Result<Written, Wrong> {
        Ok(Written {
            certificate: read(&files.cert, Which::Certificate)?,
            key: read(&files.key, Which::Key)?,
        })
    }

    /// By which a later reading is known to be the same.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::hash(&self.certificate).as_bytes());
        hasher.update(&self.key);
        hasher.finalize()
    }

    /// The pair, if clients can be shown it at this time.
    pub fn pair(&self, files: &CertificateFiles, now: Timestamp) -> Result<Pair, Wrong> {
        let chain = chain(&self.certificate, &files.cert)?;
        let about = About::of(&chain, &files.cert)?;
        let key = key(&self.key, &files.key)?;
        let certified = certified(chain, key, files)?;
        about.is_in_time(&files.cert, now)?;
        Ok(Pair {
            certified: Arc::new(certified),
            about,
        })
    }
}

impl About {
    fn of(chain: &[CertificateDer<'_>], file: &Path) -> Result<About, Wrong> {
        let unreadable = || {
            certificate(
                format!("`{}` holds a certificate that is damaged", file.display()),
                "compare it with what its issuer has sent: `openssl x509 -noout -text -in FILE` reads a good one",
            )
        };
        let own = chain.first().ok_or_else(unreadable)?;
        let (_, own) = X509Certificate::from_der(own).map_err(|_| unreadable())?;
        let mut names = Vec::new();
        if let Ok(Some(alternatives)) = own.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                    GeneralName::IPAddress(octets) => names.extend(address(octets)),
                    _ => {}
                }
            }
        }
        let time = |seconds: i64| {
            Timestamp::from_micros(
                u64::try_from(seconds)
                    .unwrap_or(0)
                    .saturating_mul(1_000_000),
            )
        };
        Ok(About {
            names,
            begins: time(own.validity.not_before.timestamp()),
            ends: time(own.validity.not_after.timestamp()),
            issuers: chain.len() - 1,
            self_signed: own.issuer == own.subject,
        })
    }

    fn is_in_time(&self, file: &Path, now: Timestamp) -> Result<(), Wrong> {
        let file = file.display();
        if now > self.ends {
            let cause = format!(
                "the certificate in `{file}` has expired at {}",
                day(self.ends)
            );
            return Err(certificate(cause, "renew it, or name the new one"));
        }
        if now < self.begins {
            let begins = day(self.begins);
            let cause = format!("the certificate in `{file}` is not valid before {begins}");
            let remedy = "wait until then, or look whether this machine's clock is right";
            return Err(certificate(cause, remedy));
        }
        Ok(())
    }

    /// Whether a client that asks for this host is content with it. RFC 6125 §6.4.3: a wildcard stands for one label.
    pub fn covers(&self, host: &str) -> Covers {
        if self.names.iter().any(|name| name == host) {
            return Covers::Exactly;
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let wild = |name: &String| name.strip_prefix("*.").is_some_and(|of| Some(of) == parent);
        match self.names.iter().any(wild) {
            true => Covers::ByWildcard,
            false => Covers::Not,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covers {
    Exactly,
    ByWildcard,
    Not,
}

impl Pair {
    /// Whether a client that takes these signatures can make use of it.
    pub fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }
}

/// As `2026-11-25 21:40 UTC`.
pub fn day(time: Timestamp) -> String {
    let text = humantime::format_rfc3339_seconds(time.to_system_time()).to_string();
    let minutes = text.get(..16).unwrap_or(&text).replace('T', " ");
    format!("{minutes} UTC")
}

fn wrong(which: Which, cause: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    Wrong {
        which,
        cause: cause.into(),
        remedy: remedy.into(),
    }
}

fn certificate(cause: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    wrong(Which::Certificate, cause, remedy)
}

fn read(file: &Path, which: Which) -> Result<Vec<u8>, Wrong> {
    std::fs::read(file).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "look at the path; it counts from where Larder is started, unless it begins with `/`"
            }
            std::io::ErrorKind::PermissionDenied => {
                "let the user that Larder runs as read it, and the folders above it, too"
            }
            _ => "name a file in PEM",
        };
        wrong(which, format!("`{}` cannot be read: {error}", file.display()), remedy)
    })
}

/// The server's own certificate, then those that signed it.
fn chain(text: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let path = file.display();
    // A block that does not end is passed over in silence if another one begins behind it.
    let begun = memchr::memmem::find_iter(text, "-----BEGIN CERTIFICATE-----").count();
    let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let Some(chain) = read.ok().filter(|chain| chain.len() == begun) else {
        return Err(certificate(
            format!("`{path}` is damaged: a block of PEM in it does not end, or is no Base64"),
            "copy it anew, with all lines from `-----BEGIN CERTIFICATE-----` to `-----END CERTIFICATE-----`",
        ));
    };
    match (chain.is_empty(), holds(text, "PRIVATE KEY-----")) {
        (false, _) => Ok(chain),
        (true, true) => Err(certificate(
            format!("`{path}` holds a key and no certificate"),
            "name the certificate with `cert` and the key with `key`: are the two swapped?",
        )),
        (true, false) => Err(certificate(
            format!("`{path}` holds no certificate in PEM"),
            "it begins with `-----BEGIN CERTIFICATE-----`; from DER make it by `openssl x509 -inform der -in FILE`",
        )),
    }
}

fn key(text: &[u8], file: &Path) -> Result<PrivateKeyDer<'static>, Wrong> {
    let path = file.display();
    if holds(text, "ENCRYPTED PRIVATE KEY-----") || holds(text, "Proc-Type: 4,ENCRYPTED") {
        return Err(wrong(
            Which::Key,
            format!("the key in `{path}` is encrypted, and nobody is there to type the password"),
            "write it without one, readable for Larder alone: `openssl pkey -in FILE -out NEW`",
        ));
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound if holds(text, "BEGIN CERTIFICATE-----") => wrong(
            Which::Key,
            format!("`{path}` holds a certificate and no key"),
            "name the certificate with `cert` and the key with `key`: are the two swapped?",
        ),
        pem::Error::NoItemsFound => wrong(
            Which::Key,
            format!("`{path}` holds no private key in PEM"),
            "it begins with `-----BEGIN PRIVATE KEY-----`; from DER make it by `openssl pkey -inform der -in FILE`",
        ),
        // Its own words could quote the key.
        _ => wrong(
            Which::Key,
            format!("`{path}` is damaged: a block of PEM in it does not end, or is no Base64"),
            "copy it anew, with all its lines",
        ),
    })
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    files: &CertificateFiles,
) -> Result<CertifiedKey, Wrong> {
    let (cert, path) = (files.cert.display(), files.key.display());
    let Ok(key) = ring::sign::any_supported_type(&key) else {
        return Err(wrong(
            Which::Key,
            format!("the key in `{path}` is of a kind that is not used for TLS here"),
            "take ECDSA (P-256 or P-384), Ed25519, or RSA of 2048 to 8192 bits",
        ));
    };
    let certified = CertifiedKey::new(chain, key);
    let at = |place: usize| {
        let one = vec![certified.cert[place].clone()];
        CertifiedKey::new(one, certified.key.clone()).keys_match()
    };
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) if (1..certified.cert.len()).any(|n| at(n).is_ok()) => {
            Err(certificate(
                format!("the server's own certificate is not the first in `{cert}`"),
                "put it first, and behind it those that signed it",
            ))
        }
        Err(Error::InconsistentKeys(_)) => Err(wrong(
            Which::Key,
            format!("the key in `{path}` is not that of the certificate in `{cert}`"),
            "name the key that the certificate was asked for with, or ask for a new certificate",
        )),
        Err(_) => Err(certificate(
            format!("the certificate in `{cert}` is none that TLS can use"),
            "it must be X.509 version 3: with `openssl x509 -req` give `-extfile` and a subjectAltName",
        )),
    }
}

fn holds(text: &[u8], mark: &str) -> bool {
    memchr::memmem::find(text, mark.as_bytes()).is_some()
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| std::net::IpAddr::from(octets).to_string());
    let v6 = <[u8; 16]>::try_from(octets).map(|octets| std::net::IpAddr::from(octets).to_string());
    v4.or(v6).ok()
}
