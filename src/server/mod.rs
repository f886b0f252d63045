//! Listening: connections in, requests to whoever answers them, and an orderly end.

mod alone;
mod arriving;
mod ending;
mod frames;
mod head_timer;
mod http2;
pub mod lane;
mod lingering;
pub mod places;
pub mod plain;
mod preface;
mod proxied;
pub mod pulse;
mod speaking;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tracing::warn;

use crate::body::Content;
use crate::config::Config;
use crate::interim::Turn;
use crate::message::section::Head;
use crate::proxy::Proxy;
use crate::tls::server::{Acceptor, Agreed};
use lane::Beneath;
use places::Places;
use pulse::{Patience, Pulse, Watched};

/// Connections that the kernel may keep for us until we accept them.
const BACKLOG: u32 = 4096;

/// How often it is seen whether too much is held for readers.
const LOOKS: Duration = Duration::from_millis(250);

/// Bytes of an answer that the kernel may keep for a reader beyond what is on its way.
const UNSENT: u32 = 128 * 1024;

/// How a listener treats its clients.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Whether HTTP/2 is spoken with who begins with it, unasked.
    pub h2c: bool,
    /// Requests under way at once on one connection of HTTP/2.
    pub streams: u32,
    /// Bytes of a request's target; more are refused in our words.
    pub target: usize,
    /// Fields of a request's head; hyper answers 431 beyond it.
    pub fields: usize,
    /// Bytes of a request's head; hyper answers 431 beyond it.
    pub head: usize,
    pub handshake_timeout: Duration,
    pub patience: Patience,
    /// A trusted proxy says first for whom a connection is, and nobody else may connect.
    pub proxy_protocol: bool,
    /// Bytes of answers that may be held for slow readers.
    pub held: u64,
    /// How long requests under way may take once the end was announced.
    pub drain: Duration,
}

impl Manners {
    /// Of the public listener.
    pub fn of(config: &Config) -> Manners {
        let limits = &config.limits;
        Manners {
            h2c: config.h2c,
            streams: limits.streams,
            target: limits.target,
            fields: limits.fields,
            head: limits.head,
            handshake_timeout: limits.handshake_timeout,
            patience: limits.patience,
            proxy_protocol: config.proxy_protocol,
            held: limits.held,
            drain: limits.drain,
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Of IPv4 where it is by IPv4, whatever it is listened at.
    pub address: IpAddr,
    /// `None`: it speaks plain HTTP.
    pub tls: Option<Agreed>,
}

/// A request as its connection brings it.
pub struct Brought {
    pub head: Head,
    pub content: Content,
    /// There only where the client asks for another protocol.
    pub upgrade: Option<OnUpgrade>,
    /// Where interim answers to it go, if anywhere.
    pub interim: Option<Turn>,
    pub beneath: Option<Beneath>,
}

impl Brought {
    /// By the machinery.
    fn by_hyper(
        request: Request<Incoming>,
        interim: Option<Turn>,
        beneath: Option<Beneath>,
    ) -> Brought {
        let (mut head, content) = request.into_parts();
        Brought {
            upgrade: head.extensions.remove::<OnUpgrade>(),
            content: match head.version {
                Version::HTTP_2 => Content::Stream(content),
                _ => Content::Incoming(content),
            },
            head: head.into(),
            interim,
            beneath,
        }
    }

    /// As any request.
    pub fn into_request(mut self) -> Request<Content> {
        let mut request = Request::new(self.content);
        *request.method_mut() = self.head.method;
        *request.uri_mut() = self.head.uri;
        *request.version_mut() = self.head.version;
        *request.headers_mut() = std::mem::take(self.head.fields.to_mut());
        request
    }
}

/// Sees to it that readers who do not take their answers do not fill the memory with them.
async fn relieve(places: Arc<Places>, manners: watch::Receiver<Manners>) {
    let mut looks = tokio::time::interval(LOOKS);
    loop {
        looks.tick().await;
        let most = manners.borrow().held;
        places.relieve(most);
    }
}

/// Takes the port; nothing is accepted yet.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    // Connections have it from their listener: what a slow reader leaves in the kernel is no more than this.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `end` turns true, then lets what is under way finish. `knowing`: who may know requests by their bytes.
pub async fn serve<F, Answer, B>(
    listener: TcpListener,
    manners: watch::Receiver<Manners>,
    places: Arc<Places>,
    tls: Option<Acceptor>,
    mut end: watch::Receiver<bool>,
    knowing: Option<Arc<Proxy>>,
    answer: F,
) where
    F: Fn(Brought, &Peer) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let relief = tokio::spawn(relieve(places.clone(), manners.clone()));
    loop {
        let free = tokio::select! {
            free = places.free() => free,
            _ = end.wait_for(|end| *end) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = end.wait_for(|end| *end) => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting helps, spinning does not.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (answer, ending) = (answer.clone(), (graceful.watcher(), end.clone()));
        // As they are now; a connection keeps those that it came under.
        let (manners, tls) = (*manners.borrow(), tls.clone());
        let pulse = Pulse::new(manners.patience, places.counts.clone());
        let Ok(mut place) = places.take(free, from.ip(), pulse.clone()) else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let stream = Watched::new(stream, pulse);
        let knowing = knowing.clone();
        tokio::spawn(async move {
            if let Some(arrived) =
                arriving::arrive(stream, from, tls.as_ref(), &manners, &mut place).await
            {
                speaking::speak(arrived, manners, ending, knowing, answer).await;
            }
        });
    }
    drop(listener);
    relief.abort();
    let manners = *manners.borrow();
    if tokio::time::timeout(manners.drain, graceful.shutdown())
        .await
        .is_err()
    {
        warn!(after = ?manners.drain, "requests were still under way at the end");
    }
}
