//! TLS with those who connect to us. 1.2 and 1.3, AEAD with ECDHE alone, and nothing before the handshake is over.

use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Certificates;
use super::clients::Clients;

/// What a listener needs to speak TLS.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// What the client and we have agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The host that the client wants to speak to (SNI), lower case; not all say it.
    pub host: Option<Box<str>>,
    pub protocol: Protocol,
    /// The client has shown a certificate that was asked for, and is known by it.
    pub certified: bool,
}

/// By ALPN. It is the one that is spoken, whatever the first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Agreed {
    /// Whether a request for this host may come by the connection. RFC 6066 §3; who said no name may ask for any.
    pub fn is_for(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let named = self.host.as_deref();
        named.is_none_or(|named| named.eq_ignore_ascii_case(host))
    }
}

impl Protocol {
    const fn name(self) -> &'static [u8] {
        match self {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        }
    }
}

impl Acceptor {
    /// `protocols`: what is offered, the best first. A client that names none of them is refused; one without ALPN is
    /// spoken to in HTTP/1.
    pub fn new(certificates: Arc<Certificates>, protocols: &[Protocol]) -> Acceptor {
        let mut config = versions()
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        let names = protocols.iter().map(|protocol| protocol.name().to_vec());
        config.alpn_protocols = names.collect();
        // Sessions are kept by the clients, sealed, and cost no memory here. Without a random source each begins anew.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Acceptor(TlsAcceptor::from(Arc::new(config)))
    }

    /// For the operator's listener: with `client_ca`, clients are asked for a certificate of it.
    pub fn for_admin(
        certificates: Arc<Certificates>,
        client_ca: Option<&Path>,
    ) -> io::Result<Acceptor> {
        let mut config = match client_ca {
            None => versions()
                .with_no_client_auth()
                .with_cert_resolver(certificates),
            Some(client_ca) => {
                let clients = Clients::new(client_ca, certificates.clone())?;
                versions()
                    .with_client_cert_verifier(Arc::new(clients))
                    .with_cert_resolver(certificates)
            }
        };
        config.alpn_protocols = vec![Protocol::Http1.name().to_vec()];
        // Who a client is, is looked at each time anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    pub async fn shake<S>(&self, stream: S) -> io::Result<(Stream<S>, Agreed)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.0.accept(stream).await?;
        let (_, session) = stream.get_ref();
        let protocol = match session.alpn_protocol() {
            Some(name) if name == Protocol::Http2.name() => Protocol::Http2,
            Some(_) | None => Protocol::Http1,
        };
        let host = session.server_name().map(Box::from);
        let agreed = Agreed {
            host,
            protocol,
            // Nothing that could not be verified comes as far as here.
            certified: session.peer_certificates().is_some(),
        };
        Ok((Stream::Tls(Box::new(stream)), agreed))
    }
}

fn versions() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring has suites for both versions")
}

/// A client's connection, plain or not.
pub enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S> Stream<S> {
    /// What it is carried by, where nothing of its own says how it ends.
    pub fn plain(&self) -> Option<&S> {
        match self {
            Stream::Plain(stream) => Some(stream),
            Stream::Tls(_) => None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, from),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, from),
        }
    }
}
