//! Client certificates on the operator's listener. Who shows none may come in, and is asked for the token.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificates::Certificates;
use super::private_roots;

/// Those of `client_ca`; and the listener's own, which the commands on its machine show: they read the same file.
#[derive(Debug)]
pub(super) struct Clients {
    issued: Arc<dyn ClientCertVerifier>,
    own: Arc<Certificates>,
}

impl Clients {
    pub fn new(client_ca: &Path, own: Arc<Certificates>) -> io::Result<Clients> {
        let (roots, provider) = (private_roots(client_ca)?, ring::default_provider());
        let issued = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.into())
            .allow_unauthenticated()
            .build()
            .map_err(io::Error::other)?;
        Ok(Clients { issued, own })
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The listener's own is of another authority.
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.own.holds(shown) {
            true => Ok(ClientCertVerified::assertion()),
            false => self.issued.verify_client_cert(shown, issuers, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}
