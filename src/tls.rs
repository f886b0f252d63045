//! TLS, and nobody else's business: which roots are trusted, and the handshake. rustls with ring.

pub mod certificates;
pub mod client;
mod clients;
pub mod follow;
pub mod own;
pub mod pair;
pub mod renewed;
pub mod server;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes ring the one provider of this process. Before anything else that speaks TLS.
pub fn install_provider() {
    // Err only says that it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Connects as a client to `host`, which is also the SNI; verified against `ca_file` alone if there is one,
/// else against the system's roots and Mozilla's.
pub async fn connect(
    host: &str,
    ca_file: Option<&Path>,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let roots = match ca_file {
        Some(file) => private_roots(file)?,
        None => public_roots(),
    };
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Why a handshake failed, as far as it can be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Whoever signed the certificate is not trusted.
    UnknownIssuer,
    /// The certificate is another name's.
    WrongName,
    /// Its time is over, or has not begun.
    OutOfTime,
    /// It is an authority's own, as `openssl req -x509` makes them, and no server's.
    OfAnAuthority,
    /// What came back is no TLS.
    NotTls,
    Other,
}

/// What to do about a certificate that is an authority's own.
pub const NOT_A_SERVERS: &str = "have one made that is a server's: signed by that CA, or by itself with `openssl req -x509 -addext basicConstraints=critical,CA:FALSE`, and then named as `ca_file`";

/// What the error of a `connect` comes from.
pub fn trouble(error: &io::Error) -> Trouble {
    use rustls::{CertificateError as C, Error as E};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<E>());
    match inner {
        Some(E::InvalidCertificate(why)) => match why {
            C::UnknownIssuer | C::BadSignature => Trouble::UnknownIssuer,
            C::NotValidForName | C::NotValidForNameContext { .. } => Trouble::WrongName,
            C::Expired
            | C::ExpiredContext { .. }
            | C::NotValidYet
            | C::NotValidYetContext { .. } => Trouble::OutOfTime,
            // By its words: its type is of a crate below rustls.
            C::Other(other) if other.to_string() == "CaUsedAsEndEntity" => Trouble::OfAnAuthority,
            _ => Trouble::Other,
        },
        Some(E::InvalidMessage(_)) => Trouble::NotTls,
        _ => Trouble::Other,
    }
}

/// The certificates of a PEM file.
pub fn private_roots(file: &Path) -> io::Result<RootCertStore> {
    let unreadable =
        |e: &dyn std::fmt::Display| io::Error::other(format!("{}: {e}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| unreadable(&e))? {
        roots
            .add(certificate.map_err(|e| unreadable(&e))?)
            .map_err(|e| unreadable(&e))?;
    }
    match roots.is_empty() {
        true => Err(unreadable(&"no certificate in it")),
        false => Ok(roots),
    }
}

fn public_roots() -> RootCertStore {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    // A system without readable roots still has Mozilla's.
    for certificate in rustls_native_certs::load_native_certs().certs {
        let _ = roots.add(certificate);
    }
    roots
}
