//! Both ends of Larder's connections, as hyper has them: clients over HTTP/1 or HTTP/2, with TLS or without, and an origin that
//! speaks all of it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::server::conn::{http1 as http1_server, http2 as http2_server};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::rig::servers;

pub const HOST: &str = "api.example.org";

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    Http1,
    /// A connection for each request.
    Http1Anew,
    Tls,
    TlsAnew,
    /// HTTP/2 over TLS, sixteen at a time on each connection.
    Http2,
}

impl Talk {
    fn is_tls(self) -> bool {
        matches!(self, Talk::Tls | Talk::TlsAnew | Talk::Http2)
    }

    fn is_anew(self) -> bool {
        matches!(self, Talk::Http1Anew | Talk::TlsAnew)
    }

    /// Clients on one connection.
    fn streams(self) -> usize {
        match self {
            Talk::Http2 => 16,
            Talk::Http1 | Talk::Http1Anew | Talk::Tls | Talk::TlsAnew => 1,
        }
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub fields: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// What it must be answered with.
    pub status: u16,
}

impl Ask {
    pub fn new(method: Method, path: impl Into<String>) -> Ask {
        Ask {
            method,
            path: path.into(),
            fields: Vec::new(),
            body: Bytes::new(),
            status: 200,
        }
    }

    pub fn get(path: impl Into<String>) -> Ask {
        Ask::new(Method::GET, path)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Ask {
        self.fields.push((name, value.into()));
        self
    }

    pub fn answered(self, status: u16) -> Ask {
        Ask { status, ..self }
    }

    pub fn content(mut self, body: impl Into<Bytes>) -> Ask {
        self.body = body.into();
        self.with("content-type", "application/json")
    }

    fn request(self, talk: Talk) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        let uri = match talk {
            Talk::Http2 => format!("https://{HOST}{}", self.path),
            _ => self.path,
        };
        *request.uri_mut() = Uri::try_from(uri).expect("a target");
        let fields = request.headers_mut();
        if talk != Talk::Http2 {
            fields.insert(header::HOST, HeaderValue::from_static(HOST));
        }
        let usual = [("accept", "*/*".to_owned())];
        for (name, value) in usual.into_iter().chain(self.fields) {
            let value = HeaderValue::try_from(value).expect("a value");
            fields.append(HeaderName::from_static(name), value);
        }
        request
    }
}

/// What came of a measurement.
#[derive(Debug, Default, Clone, Copy)]
pub struct Came {
    pub requests: u64,
    /// By `Cache-Status` (RFC 9211).
    pub hits: u64,
    /// Another status than was expected, or a connection that broke.
    pub failed: u64,
}

/// Clients that ask at the same time.
pub struct Clients {
    place: Arc<Place>,
    senders: Vec<Option<Sender>>,
}

/// Whom they ask, and how.
struct Place {
    address: SocketAddr,
    talk: Talk,
    tls: TlsConnector,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Clients {
    /// Connected, unless they are to connect for each request.
    pub async fn connect(
        address: SocketAddr,
        talk: Talk,
        count: usize,
        tls: TlsConnector,
    ) -> Clients {
        let place = Arc::new(Place { address, talk, tls });
        let mut senders: Vec<Option<Sender>> = Vec::new();
        while senders.len() < count {
            if talk.is_anew() {
                senders.push(None);
                continue;
            }
            let sender = place.connect().await.expect("a connection");
            if let Sender::Http2(sender) = &sender {
                let more = (1..talk.streams()).map(|_| Some(Sender::Http2(sender.clone())));
                senders.extend(more.take(count - senders.len() - 1));
            }
            senders.push(Some(sender));
        }
        Clients { place, senders }
    }

    /// Each takes its next turn as soon as it is answered.
    pub async fn ask(
        &mut self,
        turns: Range<u64>,
        until: Instant,
        ask: &Arc<dyn Fn(u64) -> Ask + Send + Sync>,
    ) -> Came {
        let next = Arc::new(AtomicU64::new(turns.start));
        let mut tasks = JoinSet::new();
        for mut sender in self.senders.drain(..) {
            let (place, next, ask) = (self.place.clone(), next.clone(), ask.clone());
            tasks.spawn(async move {
                let mut came = Came::default();
                while Instant::now() < until {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= turns.end {
                        break;
                    }
                    came.requests += 1;
                    match place.exchange(&mut sender, ask(turn)).await {
                        Ok(is_hit) => came.hits += u64::from(is_hit),
                        Err(_) => {
                            came.failed += 1;
                            sender = None;
                        }
                    }
                }
                (came, sender)
            });
        }
        let mut sum = Came::default();
        for (came, sender) in tasks.join_all().await {
            sum.requests += came.requests;
            sum.hits += came.hits;
            sum.failed += came.failed;
            self.senders.push(sender);
        }
        sum
    }
}

impl Place {
    /// Whether it was a hit.
    async fn exchange(&self, sender: &mut Option<Sender>, mut ask: Ask) -> Result<bool, Failure> {
        let expected = ask.status;
        if self.talk.is_anew() {
            *sender = None;
            ask = ask.with("connection", "close");
        }
        let open = match sender {
            Some(open) => open,
            None => sender.insert(self.connect().await?),
        };
        let request = ask.request(self.talk);
        let answer = match open {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        let status = answer.status();
        let says = answer.headers().get("cache-status");
        let is_hit = says.is_some_and(|value| value.to_str().unwrap_or("").contains("; hit"));
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        match status.as_u16() == expected {
            true => Ok(is_hit),
            false => Err(status.to_string().into()),
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if !self.talk.is_tls() {
            return self.shake_hands(stream).await;
        }
        let name = ServerName::try_from(HOST).expect("a name");
        let stream = self.tls.connect(name, stream).await?;
        self.shake_hands(stream).await
    }

    async fn shake_hands<S>(&self, stream: S) -> Result<Sender, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        if self.talk == Talk::Http2 {
            let shaken = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(shaken.1);
            return Ok(Sender::Http2(shaken.0));
        }
        let shaken = http1::handshake(stream).await?;
        tokio::spawn(shaken.1);
        Ok(Sender::Http1(shaken.0))
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A certificate of its own, which both Larder and the origin show, and Redis.
pub struct Certificate {
    chain: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// Made now, and written to that folder as `cert.pem` and `key.pem`.
    pub fn new(folder: &Path) -> Certificate {
        let names = ["localhost", "127.0.0.1", HOST].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let files = [
            ("cert.pem", made.cert.pem()),
            ("key.pem", made.signing_key.serialize_pem()),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("it can be written");
        }
        Certificate {
            chain: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        }
    }

    /// For clients who trust it alone.
    pub fn connector(&self, talk: Talk) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.chain.clone()).expect("a certificate");
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        if talk == Talk::Http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        Arc::new(config).into()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config
            .with_single_cert(vec![self.chain.clone()], key)
            .expect("a key to its certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

/// An origin, with TLS or without.
pub async fn origin(tls: Option<&Certificate>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = tls.map(Certificate::acceptor);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Some(acceptor) = acceptor else {
                    return serve(stream, false).await;
                };
                if let Ok(stream) = acceptor.accept(stream).await {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, is_http2).await;
                }
            });
        }
    });
    Ok(address)
}

async fn serve<S>(stream: S, is_http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stream, service) = (TokioIo::new(stream), service_fn(answer));
    let _ = match is_http2 {
        true => {
            http2_server::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
        false => {
            http1_server::Builder::new()
                .serve_connection(stream, service)
                .await
        }
    };
}

/// A user with the fields of Django with DRF, in 300 bytes or as many as the first segment of the path says.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let first = request.uri().path().split('/').nth(1).unwrap_or_default();
    let length = first.parse().unwrap_or(servers::BODY);
    let says_how_long = first == "standard";
    let is_head = *request.method() == Method::HEAD;
    let _ = request.into_body().collect().await;
    let body = match is_head {
        true => Bytes::new(),
        false => servers::user(length).into(),
    };
    let mut response = Response::new(Full::new(body));
    let fields: &mut HeaderMap = response.headers_mut();
    for (name, value) in servers::FIELDS {
        fields.insert(name, HeaderValue::from_static(value));
    }
    fields.insert(header::ETAG, HeaderValue::from_static("\"7\""));
    if says_how_long {
        let value = HeaderValue::from_static("public, max-age=3600");
        fields.insert(header::CACHE_CONTROL, value);
    }
    Ok(response)
}
