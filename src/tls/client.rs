//! TLS towards an upstream: whom we trust, who we are, made once and used for every connection.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{private_roots, public_roots};
use crate::config::ClientCertificate;

pub struct Client {
    http1: TlsConnector,
    /// Leaves the choice of HTTP/2 or HTTP/1.1 to the other side.
    http2: TlsConnector,
}

impl Client {
    /// Verifies against `ca_file` alone if there is one, else against the system's roots and Mozilla's.
    pub fn new(ca_file: Option<&Path>, own: Option<&ClientCertificate>) -> io::Result<Client> {
        let roots = match ca_file {
            Some(file) => private_roots(file)?,
            None => public_roots(),
        };
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let (chain, key) = identity(own).map_err(io::Error::other)?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(io::Error::other)?
            }
        };
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Client {
            http1: offering(&[b"http/1.1"]),
            http2: offering(&[b"h2", b"http/1.1"]),
        })
    }

    /// `host` is the SNI, and the name that the certificate must have.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
        may_be_http2: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = match may_be_http2 {
            true => &self.http2,
            false => &self.http1,
        };
        connector.connect(name, stream).await
    }
}

/// Whether the other side chose HTTP/2.
pub fn chose_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// What is wrong with a certificate of our own and its key. Tells nothing of the key.
#[derive(Debug)]
pub enum Unusable {
    Certificate(String),
    Key(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Certificate(why) | Unusable::Key(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unusable {}

/// A certificate with its chain, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads both files, and looks whether they belong together.
pub fn identity(own: &ClientCertificate) -> Result<Identity, Unusable> {
    let (cert, key) = (own.cert.display(), own.key.display());
    let chain: Vec<CertificateDer<'static>> = std::fs::read(&own.cert)
        .map_err(|error| Unusable::Certificate(format!("`{cert}` cannot be read: {error}")))
        .map(|pem| {
            CertificateDer::pem_slice_iter(&pem)
                .filter_map(Result::ok)
                .collect()
        })?;
    if chain.is_empty() {
        let why = format!("`{cert}` holds no certificate");
        return Err(Unusable::Certificate(why));
    }
    let pem = std::fs::read(&own.key)
        .map_err(|error| Unusable::Key(format!("`{key}` cannot be read: {error}")))?;
    let secret = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| Unusable::Key(format!("`{key}` holds no private key that can be read")))?;
    let signs = rustls::crypto::ring::sign::any_supported_type(&secret)
        .map_err(|_| Unusable::Key(format!("the key in `{key}` is of a kind that is not known")))?;
    match CertifiedKey::new(chain.clone(), signs).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok((chain, secret))
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(Unusable::Key(format!(
            "the key in `{key}` is not that of the certificate in `{cert}`"
        ))),
        Err(_) => Err(Unusable::Certificate(format!(
            "`{cert}` holds no certificate that can be read"
        ))),
    }
}

/// Whether the other side ended the connection by an alert: it wants a certificate of ours, or another one.
pub fn was_refused(error: &io::Error) -> bool {
    let inner = error.get_ref();
    matches!(
        inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()),
        Some(rustls::Error::AlertReceived(_))
    )
}
