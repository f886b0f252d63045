//! Certificates made now, and a client that speaks TLS over one TCP connection.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::PATIENCE;
use super::client::Connection;

pub type TlsConnection = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// A key of 2048 bits, for ring makes none.
const RSA: &str = include_str!("../config/tls/rsa.key");

/// A private authority, and the folder that its certificates are written to.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub chain: String,
    pub key: String,
    /// As clients are shown it.
    pub own: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters of a CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name
            .push(DnType::CommonName, "a private CA of Larder's tests");
        let key = KeyPair::generate().expect("a key");
        Authority {
            directory: tempfile::Builder::new()
                .prefix("larder-tls-")
                .tempdir()
                .expect("a temporary directory"),
            issuer: CertifiedIssuer::self_signed(ca, key).expect("a CA"),
        }
    }

    pub fn issue(&self, kind: Kind, names: &[&str]) -> Issued {
        self.issue_with(kind, names, |_| {})
    }

    pub fn issue_with(
        &self,
        kind: Kind,
        names: &[&str],
        with: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate(),
            Kind::Rsa => KeyPair::from_pem(RSA),
        }
        .expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters of a certificate");
        with(&mut params);
        let own = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            chain: own.pem() + &self.issuer.pem(),
            key: key.serialize_pem(),
            own: own.der().clone(),
        }
    }

    /// Writes them as NAME.pem and NAME.key, as `cp` does: one after the other, over what is there.
    pub fn write(&self, name: &str, issued: &Issued) {
        std::fs::write(self.cert(name), &issued.chain).expect("write a certificate");
        std::fs::write(self.key(name), &issued.key).expect("write a key");
    }

    /// Both in NAME.pem, from one moment to the next. Gives how proxy.yaml names it.
    pub fn put(&self, name: &str, issued: &Issued) -> String {
        let (both, file) = (self.directory.path().join("new"), self.cert(name));
        std::fs::write(&both, format!("{}\n{}", issued.chain, issued.key)).expect("write both");
        std::fs::rename(both, &file).expect("put it in its place");
        let file = file.display();
        format!("{{cert: \"{file}\", key: \"{file}\"}}")
    }

    pub fn cert(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pem"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.key"))
    }

    /// How proxy.yaml names them.
    pub fn pair(&self, name: &str) -> String {
        let quoted = |path: &Path| format!("\"{}\"", path.display());
        let (cert, key) = (quoted(&self.cert(name)), quoted(&self.key(name)));
        format!("{{cert: {cert}, key: {key}}}")
    }

    /// The file that holds the authority itself.
    pub fn file(&self) -> PathBuf {
        let file = self.directory.path().join("ca.pem");
        std::fs::write(&file, self.issuer.pem()).expect("write the authority");
        file
    }

    /// A client that trusts this authority alone.
    pub fn client(&self) -> TlsClient {
        self.client_of(rustls::ALL_VERSIONS)
    }

    /// That speaks these versions alone.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        let mut roots = RootCertStore::empty();
        let own = self.issuer.der().clone();
        roots.add(own).expect("a root certificate");
        TlsClient::of(roots, versions)
    }
}

/// Every connection with the same configuration, or rustls takes no session up again.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    fn of(roots: RootCertStore, versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("suites for these versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_early_data = true;
        let config = Arc::new(config);
        TlsClient { config }
    }

    pub fn alpn(mut self, names: &[&str]) -> TlsClient {
        let names = names.iter().map(|name| name.as_bytes().to_vec());
        Arc::make_mut(&mut self.config).alpn_protocols = names.collect();
        self
    }

    /// Takes sessions up again.
    pub fn resuming(mut self) -> TlsClient {
        Arc::make_mut(&mut self.config).resumption = Resumption::in_memory_sessions(32);
        self
    }

    /// Shows this one where it is asked for one.
    pub fn showing(mut self, issued: &Issued) -> TlsClient {
        let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
        let chain = chain.map(|one| one.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let own = CertifiedKey::from_der(chain, key, &ring::default_provider()).expect("a pair");
        let own = Arc::new(SingleCertAndKey::from(own));
        Arc::make_mut(&mut self.config).client_auth_cert_resolver = own;
        self
    }

    /// Connects and shakes hands. An IP address for a name sends no SNI.
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsConnection> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut session =
            ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        let mut stream = StreamOwned::new(session, stream);
        stream.flush()?;
        Ok(Connection::on(stream))
    }
}

impl TlsConnection {
    /// The certificate that the server has shown.
    pub fn shown(&mut self) -> CertificateDer<'static> {
        let shown = self.stream().conn.peer_certificates();
        shown.expect("a certificate")[0].clone().into_owned()
    }
}
