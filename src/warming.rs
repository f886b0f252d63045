//! Asking a running proxy, as any client would, for what is about to be wanted, so that its first reader is given a hit:
//! `larder warm`, and `warm:` in the file.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::caching::cache_status::CACHE_STATUS;
use crate::config::{Config, Warm};
use crate::explain::assumed_host;
use crate::message::target;
use crate::proxy::Proxy;
use crate::tls::certificates::Certificates;
use crate::tls::own;

/// The running proxy, and how it is asked.
#[derive(Clone)]
pub struct Warmer {
    pub address: SocketAddr,
    fields: HeaderMap,
    /// What comes before HTTP.
    first: &'static [u8],
    /// What it shows, if it speaks TLS.
    certificates: Option<Arc<Certificates>>,
    patience: Duration,
}

/// What came of one request.
pub struct Told {
    /// `None`: it has no whole answer.
    pub status: Option<u16>,
    /// It is in the store now.
    pub kept: bool,
    pub cache_status: String,
    /// Why it has none.
    pub error: Option<String>,
}

/// What came of asking for that target, for who reads by a program.
pub fn as_json(target: &str, told: &Told) -> Value {
    let mut said = json!({
        "target": target, "status": told.status, "kept": told.kept, "cache_status": told.cache_status,
    });
    if let Some(error) = &told.error {
        said["error"] = error.as_str().into();
    }
    said
}

/// Why a request has no answer.
enum Unanswered {
    /// Nobody can be asked.
    Unreachable(String),
    Failed(String),
}

impl Unanswered {
    fn failed(error: impl ToString) -> Unanswered {
        Unanswered::Failed(error.to_string())
    }
}

impl Warmer {
    /// Asks at `listen`, under the host that clients most likely use, if `fields` name none.
    pub fn new(
        config: &Config,
        listen: SocketAddr,
        certificates: Option<Arc<Certificates>>,
        mut fields: HeaderMap,
    ) -> Warmer {
        if !fields.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&assumed_host(config))
        {
            fields.insert(header::HOST, host);
        }
        Warmer {
            address: reachable(listen),
            fields,
            first: match config.proxy_protocol {
                true => b"PROXY UNKNOWN\r\n",
                false => b"",
            },
            certificates,
            patience: config.upstream.total * 2 + Duration::from_secs(5),
        }
    }

    /// Asks for all, so many at once; `tell` hears of each as it comes. How many are kept, of how many. `Err`: why nobody can be
    /// asked.
    pub async fn warm(
        &self,
        targets: Vec<String>,
        at_once: u16,
        mut tell: impl FnMut(&str, &Told),
    ) -> Result<(usize, usize), String> {
        let (slots, asked) = (Arc::new(Semaphore::new(at_once.into())), targets.len());
        let mut asking = JoinSet::new();
        for target in targets {
            let (own, slots) = (self.clone(), slots.clone());
            asking.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let answered = tokio::time::timeout(own.patience, own.ask(&target)).await;
                (
                    target,
                    answered.unwrap_or_else(|_| Err(Unanswered::failed("no answer in time"))),
                )
            });
        }
        let mut kept = 0;
        while let Some(Ok((target, answered))) = asking.join_next().await {
            let told = match answered {
                Ok(told) => told,
                Err(Unanswered::Failed(why)) => Told {
                    status: None,
                    kept: false,
                    cache_status: String::new(),
                    error: Some(why),
                },
                Err(Unanswered::Unreachable(why)) => return Err(why),
            };
            kept += usize::from(told.kept);
            tell(&target, &told);
        }
        Ok((kept, asked))
    }

    async fn ask(&self, target: &str) -> Result<Told, Unanswered> {
        let unreachable = |error: io::Error| Unanswered::Unreachable(error.to_string());
        let stream = TcpStream::connect(self.address).await;
        let mut stream = stream.map_err(unreachable)?;
        let first = stream.write_all(self.first).await;
        first.map_err(unreachable)?;
        match &self.certificates {
            None => self.ask_on(stream, target).await,
            Some(certificates) => {
                let host = self
                    .fields
                    .get(header::HOST)
                    .and_then(|host| host.to_str().ok());
                let host = target::name(host.unwrap_or_default());
                let stream = own::connect(certificates, host, stream).await;
                let stream =
                    stream.map_err(|error| Unanswered::Unreachable(format!("TLS: {error}")))?;
                self.ask_on(stream, target).await
            }
        }
    }

    async fn ask_on<S>(&self, stream: S, target: &str) -> Result<Told, Unanswered>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Unanswered::failed)?;
        tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = Uri::try_from(target).map_err(Unanswered::failed)?;
        *request.headers_mut() = self.fields.clone();
        let response = sender
            .send_request(request)
            .await
            .map_err(Unanswered::failed)?;
        let (head, mut body) = response.into_parts();
        while let Some(frame) = body.frame().await {
            frame.map_err(Unanswered::failed)?;
        }
        let ours = head.headers.get_all(CACHE_STATUS).iter().next_back();
        let said = ours.and_then(|value| value.to_str().ok());
        let said = said.unwrap_or_default().trim_start_matches("larder; ");
        Ok(Told {
            status: Some(head.status.as_u16()),
            kept: said
                .split("; ")
                .any(|word| word == "hit" || word == "stored"),
            cache_status: said.to_owned(),
            error: None,
        })
    }
}

/// An address that listens everywhere is asked at home.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv4() {
            true => std::net::Ipv4Addr::LOCALHOST.into(),
            false => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Does what `warm:` says, for as long as the process runs, and anew when it says something else.
pub async fn run(proxy: Arc<Proxy>, listen: SocketAddr) {
    let mut turns = proxy.turns();
    loop {
        let warm = proxy.setup().config.warm.clone();
        let mut running = JoinSet::new();
        for one in &warm {
            running.spawn(run_one(proxy.clone(), listen, one.clone()));
        }
        while proxy.setup().config.warm == warm {
            if turns.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Does what one entry says.
async fn run_one(proxy: Arc<Proxy>, listen: SocketAddr, warm: Warm) {
    let mut fields = HeaderMap::new();
    for (name, value) in &warm.fields {
        if let Ok(mut value) = HeaderValue::from_str(value.expose()) {
            value.set_sensitive(true);
            fields.append(name, value);
        }
    }
    if warm.at_start {
        once(&proxy, listen, &fields, &warm).await;
    }
    while let Some(every) = warm.every {
        tokio::time::sleep(every).await;
        once(&proxy, listen, &fields, &warm).await;
    }
}

async fn once(proxy: &Proxy, listen: SocketAddr, fields: &HeaderMap, warm: &Warm) {
    // Before that nothing is kept.
    proxy.setup().coherence.store().settled().await;
    // Host and manners are those of the configuration that is in force by now.
    let warmer = {
        let (setup, certificates) = (proxy.setup(), proxy.certificates.clone());
        Warmer::new(&setup.config, listen, certificates, fields.clone())
    };
    let started = Instant::now();
    let tell = |target: &str, told: &Told| {
        // A query may hold what is nobody's business.
        let path = target.split('?').next().unwrap_or(target);
        debug!(
            path,
            status = told.status,
            kept = told.kept,
            cache = told.cache_status,
            error = told.error,
            "warmed"
        );
    };
    let warmed = warmer.warm(warm.targets.clone(), warm.concurrency, tell);
    match warmed.await {
        Ok((kept, asked)) => {
            let ms = started.elapsed().as_millis() as u64;
            info!(kept, asked, ms, "warmed");
        }
        Err(why) => warn!(%why, "not warmed"),
    }
}
