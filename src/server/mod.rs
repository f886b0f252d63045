//! Listening: connections in, requests to whoever answers them, and an orderly end.

mod arriving;
mod head_timer;
pub mod lane;
mod speaking;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::interim::Turn;
use crate::metrics::Gauge;
use crate::proxy::Proxy;
use crate::tls::server::{Acceptor, Agreed};

/// Connections that the kernel may keep for us until we accept them.
const BACKLOG: u32 = 4096;

/// How a listener treats its clients.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    pub connections: usize,
    /// Fields of a request's head; hyper answers 431 beyond it.
    pub fields: usize,
    /// Bytes of a request's head; hyper answers 431 beyond it.
    pub head: usize,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    /// How long requests under way may take once the end was announced.
    pub drain: Duration,
    /// Where open connections are counted.
    pub open: Option<&'static Gauge>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: IpAddr,
    /// `None`: it speaks plain HTTP.
    pub tls: Option<Agreed>,
}

/// Takes the port; nothing is accepted yet.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `end` turns true, then lets what is under way finish. `knowing`: who may know requests by their bytes.
pub async fn serve<F, Answer, B>(
    listener: TcpListener,
    manners: Manners,
    tls: Option<Acceptor>,
    mut end: watch::Receiver<bool>,
    knowing: Option<Arc<Proxy>>,
    answer: F,
) where
    F: Fn(Request<Incoming>, &Peer, Option<Turn>) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(manners.connections));
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
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
        let (answer, watcher, tls) = (answer.clone(), graceful.watcher(), tls.clone());
        let knowing = knowing.clone();
        tokio::spawn(async move {
            let _place = place;
            let _open = manners.open.map(Gauge::one);
            let patience = manners.handshake_timeout;
            if let Some(arrived) = arriving::arrive(stream, from, tls.as_ref(), patience).await {
                speaking::http1(arrived, manners, watcher, knowing, answer).await;
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(manners.drain, graceful.shutdown())
        .await
        .is_err()
    {
        warn!(after = ?manners.drain, "requests were still under way at the end");
    }
}
