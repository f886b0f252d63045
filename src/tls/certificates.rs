//! The certificates that a listener shows, chosen by the name that a client asks for, and exchanged while it serves.
//!
//! An exchange is one swap: a handshake under way keeps what it was given, a connection that is open never looks again.
//! What cannot be used is not taken: the pair from before stays until the files are mended.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pair::{Covers, Pair, Written, Wrong};
use crate::clock;
use crate::config::{CertificateFiles, Tls};

/// What is shown at the moment; at least one pair.
pub struct Certificates {
    shown: ArcSwap<Vec<Shown>>,
}

#[derive(Clone)]
pub(super) struct Shown {
    pub files: CertificateFiles,
    pub read: Read,
}

/// A pair as it was read.
#[derive(Clone)]
pub(super) struct Read {
    pub pair: Arc<Pair>,
    pub hash: blake3::Hash,
}

impl Read {
    pub fn of(files: &CertificateFiles, written: &Written) -> Result<Read, Wrong> {
        Ok(Read {
            pair: Arc::new(written.pair(files, clock::now())?),
            hash: written.hash(),
        })
    }
}

/// Which pair of the list cannot be used, and why.
#[derive(Debug)]
pub struct WrongPair {
    pub place: usize,
    pub wrong: Wrong,
}

impl fmt::Display for WrongPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wrong.fmt(f)
    }
}

impl Certificates {
    pub fn read(tls: &Tls) -> Result<Certificates, WrongPair> {
        read(tls).map(|shown| Certificates {
            shown: ArcSwap::from_pointee(shown),
        })
    }

    /// Shows these from now on, or, if one of them cannot be used, what was shown before.
    pub fn reload(&self, tls: &Tls) -> Result<(), WrongPair> {
        self.shown.store(Arc::new(read(tls)?));
        Ok(())
    }

    /// What is shown, and from where.
    pub fn pairs(&self) -> Vec<(CertificateFiles, Arc<Pair>)> {
        let shown = self.shown.load();
        let pairs = shown.iter();
        pairs
            .map(|shown| (shown.files.clone(), shown.read.pair.clone()))
            .collect()
    }

    /// Whether this is the server's own certificate of one of the pairs.
    pub(super) fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        let shown = self.shown.load();
        let mut own = shown
            .iter()
            .map(|shown| shown.read.pair.certified.cert.first());
        own.any(|own| own == Some(certificate))
    }

    /// What the commands on the listener's own machine show in their turn.
    pub(super) fn first(&self) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        shown.first().map(|shown| shown.read.pair.certified.clone())
    }

    /// In the place of the pair of these files, unless another one has been put there since `from` was shown.
    pub(super) fn exchange(&self, files: &CertificateFiles, from: blake3::Hash, read: &Read) {
        self.shown.rcu(|shown| {
            let mut shown = shown.as_ref().clone();
            for own in &mut shown {
                if own.files == *files && own.read.hash == from {
                    own.read = read.clone();
                }
            }
            shown
        });
    }

    pub(super) fn shown(&self) -> Arc<Vec<Shown>> {
        self.shown.load_full()
    }

    fn choose(&self, name: Option<&str>, suits: impl Fn(&Pair) -> bool) -> Option<Arc<Pair>> {
        let shown = self.shown.load();
        let pairs = || shown.iter().map(|shown| &shown.read.pair);
        let covering = |name, how| pairs().filter(move |pair| pair.about.covers(name) == how);
        let for_name: Vec<&Arc<Pair>> = match name {
            Some(name) => covering(name, Covers::Exactly)
                .chain(covering(name, Covers::ByWildcard))
                .collect(),
            None => pairs().collect(),
        };
        // Of several for one name, as RSA beside ECDSA, the first that the client can make use of.
        let usable = for_name.iter().copied().find(|pair| suits(pair));
        let chosen = usable.or(for_name.first().copied());
        chosen.or(pairs().next()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let pair = self.choose(hello.server_name(), |pair| pair.suits(schemes))?;
        Some(pair.certified.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

fn read(tls: &Tls) -> Result<Vec<Shown>, WrongPair> {
    let pairs = tls.pairs.iter().enumerate();
    pairs
        .map(|(place, files)| {
            let read = Written::read(files).and_then(|written| Read::of(files, &written));
            let read = read.map_err(|wrong| WrongPair { place, wrong })?;
            let files = files.clone();
            Ok(Shown { files, read })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_for_one_name_a_client_is_shown_the_one_that_it_can_make_use_of() {
        use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PSS_SHA256};
        let files = |name: &str| CertificateFiles {
            cert: format!("tests/config/tls/{name}.pem").into(),
            key: format!("tests/config/tls/{name}.key").into(),
        };
        let pairs = vec![files("server"), files("rsa")];
        let certificates = Certificates::read(&Tls { pairs }).unwrap();
        let pairs = certificates.pairs();
        let (ecdsa, rsa) = (&pairs[0].1, &pairs[1].1);
        for (schemes, shown) in [
            (&[RSA_PSS_SHA256][..], rsa),
            (&[ECDSA_NISTP256_SHA256], ecdsa),
            (&[RSA_PSS_SHA256, ECDSA_NISTP256_SHA256], ecdsa),
            (&[], ecdsa),
        ] {
            for name in [Some("api.example.org"), None] {
                let chosen = certificates.choose(name, |pair| pair.suits(schemes));
                assert!(Arc::ptr_eq(&chosen.unwrap(), shown), "{name:?} {schemes:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_used_leaves_what_is_shown() {
        let good = CertificateFiles {
            cert: "tests/config/tls/server.pem".into(),
            key: "tests/config/tls/server.key".into(),
        };
        let bad = CertificateFiles {
            key: "tests/config/tls/other.key".into(),
            ..good.clone()
        };
        let one = |files: &CertificateFiles| Tls {
            pairs: vec![files.clone()],
        };
        let certificates = Certificates::read(&one(&good)).unwrap();
        let pairs = vec![good.clone(), bad];
        let wrong = certificates.reload(&Tls { pairs }).unwrap_err();
        assert_eq!(wrong.place, 1);
        assert_eq!(certificates.pairs().len(), 1);
        let pairs = vec![good.clone(), good];
        certificates.reload(&Tls { pairs }).unwrap();
        assert_eq!(certificates.pairs().len(), 2);
    }
}
