//! What Larder was told to do: validated, typed, with every default filled in.
//! `file` mirrors the YAML and turns it into these types; nothing else reads the file.
//! Whatever stands here is possible: no value needs checking again.

pub mod file;
pub mod nearest;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use xxhash_rust::xxh3::xxh3_64;

use crate::caching::origin::Choices;
use crate::caching::stored::Mark;
use crate::message::codings::Coding;
use crate::route::{FamilyPattern, KeyTemplate, PathPattern};
use crate::server::pulse::Patience;

/// The whole of proxy.yaml.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// What `listen` shows of itself; `None`: it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Whether `listen` speaks HTTP/2 with who begins with it, unasked and without TLS.
    pub h2c: bool,
    /// Health, looking at entries, purging. `None` with `admin: off`.
    pub admin: Option<SocketAddr>,
    pub admin_tls: Option<AdminTls>,
    /// Asked of every admin request but the health checks, if set; needed when `admin` is not on loopback, unless
    /// clients show certificates there.
    pub admin_token: Option<Secret>,
    pub upstream: Upstream,
    pub store: Store,
    pub when_store_is_down: WhenStoreIsDown,
    /// Bytes that the embedded store may use for copies.
    pub memory_size: u64,
    pub routes: Vec<Route>,
    pub purge: Vec<PurgeRule>,
    /// Fields besides Authorization and Cookie that make a credential.
    pub credential_headers: Vec<HeaderName>,
    /// Cookies that are no credential: exact names, or prefixes ending in `*`.
    pub ignore_cookies: Vec<String>,
    /// The origin under which every fill is asked, if links in answers hold one.
    pub canonical_origin: Option<Origin>,
    /// Hosts answered at all (else 421); empty: any. Lower case; a port only where the operator wrote one.
    pub hosts: Vec<String>,
    pub methods: Methods,
    pub trusted_proxies: Vec<IpNet>,
    /// A trusted proxy says first for whom each connection is (PROXY protocol).
    pub proxy_protocol: bool,
    /// Request fields never forwarded (X-Original-URL and kin).
    pub drop_headers: Vec<HeaderName>,
    pub limits: Limits,
    pub websocket: WebSocket,
    /// The share of hits that the API is asked about, too.
    pub shadow: Option<f64>,
    pub logs: Logs,
    pub warm: Vec<Warm>,
}

/// What is asked for before anybody does.
#[derive(Debug, Clone, PartialEq)]
pub struct Warm {
    /// Paths with their queries.
    pub targets: Vec<String>,
    /// Of each request; the values may be credentials.
    pub fields: Vec<(HeaderName, Secret)>,
    pub at_start: bool,
    /// And then again and again.
    pub every: Option<Duration>,
    /// Requests at once.
    pub concurrency: u16,
}

/// The certificates of a listener, each with its key; at least one. A client is shown the one for the name it asks
/// for, and the first if it names none, or none that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub pairs: Vec<CertificateFiles>,
}

/// What `admin` shows of itself, and whose certificates it takes for the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTls {
    pub own: Tls,
    pub client_ca: Option<PathBuf>,
}

/// In PEM: the server's own certificate and those that signed it, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Where the existing API is, and how patiently it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// At least one; each of several can answer any request.
    pub addresses: Vec<UpstreamAddress>,
    /// Trusted alone for `https://`, in place of the system's and the webpki roots.
    pub ca_file: Option<PathBuf>,
    /// Shown to an `https://` upstream that asks for it.
    pub client_cert: Option<ClientCertificate>,
    /// HTTP/2: over `https://` where the upstream chooses it, else by prior knowledge.
    pub http2: bool,
    /// Requests under way at once, at all addresses together; more wait in the queue.
    pub max_connections: usize,
    /// Requests that may wait for a slot; more are refused with 503.
    pub queue: usize,
    pub connect: Duration,
    /// From the request's last byte to the answer's first.
    pub first_byte: Duration,
    /// Longest silence in the middle of a body, and how long a pooled connection is kept: see `pool_idle`.
    pub idle: Duration,
    /// How long an unused connection is kept. Below gunicorn's 2 s, or a request meets a closing one.
    pub pool_idle: Duration,
    /// From leaving the queue to the answer's head, and for an answer to be stored, to its end.
    pub total: Duration,
    /// How much longer than a write's answer its own reads may show what was before: those of a replica, say.
    pub lag: Duration,
    /// One of several that is asked and says nothing to anybody for so long is taken for hung.
    pub silent: Duration,
    /// How several are looked at beside the requests that they get.
    pub health: Option<HealthCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// `http://host:port`; a path in the URL is an error.
    Tcp { host: String, port: u16 },
    /// `https://host:port`, verified.
    Tls { host: String, port: u16 },
    /// `http+unix:///run/gunicorn.sock`
    Unix(PathBuf),
}

impl UpstreamAddress {
    pub fn is_tls(&self) -> bool {
        matches!(self, UpstreamAddress::Tls { .. })
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            UpstreamAddress::Tcp { host, port } => ("http", host, port),
            UpstreamAddress::Tls { host, port } => ("https", host, port),
            UpstreamAddress::Unix(path) => return write!(f, "http+unix://{}", path.display()),
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// PEM files: a certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A GET that each upstream is asked now and then, and answers 2xx while it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub path: String,
    pub every: Duration,
    /// The Host it is asked under.
    pub host: String,
}

#[derive(Debug, Clone)]
pub struct Store {
    pub address: StoreAddress,
    /// Before every key, with a colon between.
    pub prefix: String,
    /// How long one store command may take.
    pub timeout: Duration,
    /// By which credentials are hashed in keys; `None`: one made at random and kept in the store.
    pub secret: Option<Secret>,
    /// Copies that are kept in this process beside those in Redis.
    pub memory: Option<MemoryTier>,
}

/// Copies in this process's memory, beside a shared store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryTier {
    /// Bytes that they may take.
    pub size: u64,
    /// How long a state that was read is good without asking again. Writes wait for it, at every instance.
    pub lease: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// `memory:`
    Memory,
    Redis(Redis),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    pub endpoint: RedisEndpoint,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub database: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisEndpoint {
    /// `redis://host:port`
    Tcp { host: String, port: u16 },
    /// `rediss://host:port`, verified against the system's and the webpki roots, or `ca_file` alone.
    Tls {
        host: String,
        port: u16,
        ca_file: Option<PathBuf>,
    },
    /// `redis+unix:///path/to.sock`
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStoreIsDown {
    Forward,
    RefuseWrites,
}

/// One kind of answer to keep: which GETs, under which key, for whom, for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub path: PathPattern,
    pub key: KeyTemplate,
    pub policy: Policy,
    pub ttl: Duration,
    pub access: Access,
    pub query: Query,
    /// Request fields that split the copy, always.
    pub vary: Vec<HeaderName>,
    /// A larger body is passed on and not kept.
    pub max_body: u64,
    /// The route's ttl over the origin's own freshness; never over `no-store` or `private`.
    pub override_origin: bool,
    /// The fields that are read in place of Cache-Control (RFC 9213), the first that is there.
    pub targeted: Vec<HeaderName>,
    /// How many of the hottest copies are fetched anew after a purge.
    pub warm: usize,
    /// An answer without an ETag gets a weak one, made of its body.
    pub etag: bool,
    /// The codings in which a client may be sent an answer, the first the best of equals; none: as it is.
    pub compress: Vec<Coding>,
    /// RFC 5861, where the origin says nothing: how long past its freshness a copy is served while it is refreshed.
    pub stale_while_revalidate: Duration,
    /// How long past its freshness a copy is served in the place of an error.
    pub stale_if_error: Duration,
    /// By up to which part of itself the route's ttl is shortened, at random, from copy to copy.
    pub jitter: f64,
    /// What is asked for is refreshed before it expires.
    pub early_refresh: bool,
    /// How long a 404 or 410 is kept; `None`: never.
    pub negative_ttl: Option<Duration>,
}

impl Route {
    pub fn is_by_http(&self) -> bool {
        matches!(self.policy, Policy::Http(_))
    }

    /// What tells its copies from those of other paths at the same key. By the origin's policy the key holds the target.
    pub fn mark(&self) -> Mark {
        match self.policy {
            Policy::Ttl => Mark(xxh3_64(self.path.as_str().as_bytes())),
            Policy::Http(_) => Mark::default(),
        }
    }
}

/// By whose word answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// The operator's, where the origin says nothing: the route's `ttl`.
    Ttl,
    /// The origin's alone, by RFC 9111.
    Http(Choices),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// A copy belongs to the credential that fetched it.
    PerCredential,
    /// One copy for all, fetched without credentials.
    Public,
    /// One copy for all whom the upstream admits.
    Verify(Verify),
    /// One copy for all whose token is good.
    Jwt(Jwt),
}

impl Access {
    /// Whether a shared copy is given by a verdict on each credential.
    pub fn is_by_verdict(&self) -> bool {
        match self {
            Access::Verify(_) | Access::Jwt(_) => true,
            Access::PerCredential | Access::Public => false,
        }
    }
}

/// Which tokens are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// Whoever may have issued it; empty: anybody with the key.
    pub issuer: Vec<String>,
    /// For whom it may be; empty: for nobody in particular.
    pub audience: Vec<String>,
    /// How far the issuer's clock may be ahead of ours. It lengthens no token's life.
    pub leeway: Duration,
    /// JSON pointers into the claims: who differs in their values has a copy apart.
    pub scope: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// For HS256 and its kin.
    Secret(Secret),
    /// One public key in PEM.
    Pem(PathBuf),
    /// A set of public keys, RFC 7517.
    Jwks(PathBuf),
}

impl KeySource {
    pub fn path(&self) -> Option<&Path> {
        match self {
            KeySource::Secret(_) => None,
            KeySource::Pem(path) | KeySource::Jwks(path) => Some(path),
        }
    }
}

/// The upstream's own word on who is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// What is asked with the request's own credential; a 2xx admits it. With its query, if it has one.
    pub path: String,
    /// How long a 2xx is good for.
    pub lasting: Duration,
    /// How long anything else is.
    pub refusing: Duration,
    /// JSON pointers into the answer: who differs in their values has a copy apart.
    pub scope: Vec<String>,
}

/// Which parameters are in the key, and so in what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Every parameter.
    All,
    Allow {
        names: Vec<String>,
        other: OtherParameters,
    },
}

/// What becomes of a request with a parameter that `allow` does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherParameters {
    /// Left out of the key and of what is forwarded.
    Ignore,
    /// Forwarded whole, uncached.
    Bypass,
    /// 400.
    Reject,
}

/// Writes to these paths drop these families.
#[derive(Debug, Clone, PartialEq)]
pub struct PurgeRule {
    pub methods: Vec<Method>,
    pub path: PathPattern,
    pub keys: Vec<FamilyPattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub scheme: &'static str,
    /// host or host:port, as sent in Host.
    pub authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    Listed(Vec<Method>),
    Any,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's target; beyond: 414.
    pub target: usize,
    /// Fields of a request; beyond: 431.
    pub fields: usize,
    /// Bytes of a request's head; beyond: 431.
    pub head: usize,
    /// Bytes of a request's content; beyond: 413.
    pub content: u64,
    /// Open client connections.
    pub connections: usize,
    /// For a TLS handshake.
    pub handshake_timeout: Duration,
    /// Of one client that is no trusted proxy; more are closed at once.
    pub connections_per_address: usize,
    /// Requests under way at once on one connection of HTTP/2.
    pub streams: u32,
    /// For heads to arrive, between requests, and for answers to be taken.
    pub patience: Patience,
    /// Bytes of answers that may be held for readers who do not take them.
    pub held: u64,
    /// Longest silence within a request's content.
    pub content_idle: Duration,
    /// Bytes of a request's content that must arrive in a second, on the whole, once `content_idle` is over.
    pub content_rate: u64,
    /// How many requests one may make; `None`: any.
    pub rate: Option<Rate>,
    /// How long SIGTERM waits for requests under way.
    pub drain: Duration,
    /// How long `/readyz` says that we are about to end before we begin to.
    pub drain_delay: Duration,
    /// Copies of one family that one instance stores per ttl.
    pub copies: usize,
}

/// So many requests in each window, and so many at once; more are refused with 429.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub per: Per,
    pub requests: u32,
    pub window: Duration,
    pub burst: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    Address,
    /// Requests without one count for their address.
    Credential,
}

/// Connections that are switched to WebSocket, where no route names the path.
#[derive(Debug, Clone)]
pub struct WebSocket {
    /// At once; with none, no connection is switched.
    pub connections: usize,
    /// Longest silence of both sides.
    pub idle: Duration,
}

#[derive(Debug, Clone)]
pub struct Logs {
    pub format: LogFormat,
    /// A filter as in RUST_LOG, which wins over it.
    pub level: String,
    /// One event per request.
    pub access: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// A value that must never be shown: neither Debug nor Display tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
