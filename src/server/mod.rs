//! Listening: connections in, requests to whoever answers them, and an orderly end.

mod head_timer;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use crate::interim::{Interim, Turn, WithInterim};
use head_timer::HeadTimer;

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
    pub header_timeout: Duration,
    /// How long requests under way may take once the end was announced.
    pub drain: Duration,
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

/// Serves until `end` turns true, then lets what is under way finish.
pub async fn serve<F, Answer, B>(
    listener: TcpListener,
    manners: Manners,
    mut end: watch::Receiver<bool>,
    answer: F,
) where
    F: Fn(Request<Incoming>, IpAddr, Option<Turn>) -> Answer + Clone + Send + Sync + 'static,
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
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting helps, spinning does not.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (answer, interim) = (answer.clone(), Interim::default());
        let own = interim.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            // RFC 9110 §15.2: never to an HTTP/1.0 client.
            let turn = (request.version() == Version::HTTP_11).then(|| own.turn());
            let answered = own.clone().before(answer(request, peer.ip(), turn));
            answered.map(Ok::<_, Infallible>)
        });
        let connection = http1::Builder::new()
            .timer(HeadTimer::default())
            .header_read_timeout(manners.header_timeout)
            .max_headers(manners.fields)
            .max_buf_size(manners.head.max(8 * 1024))
            .serve_connection(TokioIo::new(WithInterim::new(stream, interim)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                debug!(%error, "a client's connection ended early");
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
