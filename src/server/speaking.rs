//! HTTP on a connection that has arrived.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::FutureExt;
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::Watcher;
use tokio::sync::watch;
use tracing::debug;

use super::arriving::Arrived;
use super::ending::Ending;
use super::head_timer::HeadTimer;
use super::lane::{self, Exchanges, Lane};
use super::{Manners, Peer, http2, preface};
use crate::interim::{Interim, Turn, WithInterim};
use crate::proxy::Proxy;
use crate::tls::server::{Protocol, Stream};

/// In the version that the client has chosen, until it or the end of the process ends it.
pub async fn speak<F, Answer, B>(
    arrived: Arrived,
    manners: Manners,
    (watcher, mut end): (Watcher, watch::Receiver<bool>),
    knowing: Option<Arc<Proxy>>,
    answer: F,
) where
    F: Fn(Request<Incoming>, &Peer, Option<Turn>) -> Answer + Send + Sync,
    Answer: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let protocol = match (&arrived.stream, &arrived.peer.tls) {
        (_, Some(agreed)) => Some(agreed.protocol),
        (Stream::Plain(stream), None) if manners.h2c => tokio::select! {
            protocol = preface::protocol(stream.inner(), manners.patience.header) => protocol,
            _ = end.wait_for(|end| *end) => None,
        },
        (_, None) => Some(Protocol::Http1),
    };
    match protocol {
        Some(Protocol::Http1) => {
            let ending = Ending::new(watcher, end);
            http1(arrived, manners, ending, knowing, answer).await;
        }
        Some(Protocol::Http2) => {
            let Arrived { stream, peer, .. } = arrived;
            // Boxed, or each connection of HTTP/1 would hold room for it.
            Box::pin(http2::serve(
                (stream, peer),
                manners,
                (watcher, end),
                answer,
            ))
            .await;
        }
        None => debug!("a client's connection ended before it had said anything"),
    }
}

/// HTTP/1.1.
async fn http1<F, Answer, B>(
    arrived: Arrived,
    manners: Manners,
    watcher: Ending,
    knowing: Option<Arc<Proxy>>,
    answer: F,
) where
    F: Fn(Request<Incoming>, &Peer, Option<Turn>) -> Answer + Send + Sync,
    Answer: Future<Output = Response<B>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Arrived {
        stream,
        pulse,
        peer,
    } = arrived;
    let interim = Interim::default();
    let own = interim.clone();
    let exchanges = Arc::new(Exchanges::default());
    let spoken = exchanges.clone();
    let stream = Lane::new(
        stream,
        pulse.clone(),
        knowing,
        peer.clone(),
        exchanges.clone(),
    );
    let service = service_fn(move |mut request: Request<Incoming>| {
        exchanges.begin(&mut request);
        // RFC 9110 §15.2: never to an HTTP/1.0 client.
        let turn = (request.version() == Version::HTTP_11).then(|| own.turn());
        let answered = own.clone().before(answer(request, &peer, turn));
        let exchanges = exchanges.clone();
        answered.map(move |answer| Ok::<_, Infallible>(lane::answering(answer, exchanges)))
    });
    let connection = http1::Builder::new()
        .timer(HeadTimer::new(pulse))
        .header_read_timeout(manners.patience.header)
        .max_headers(manners.fields)
        .max_buf_size(manners.head.max(8 * 1024))
        .serve_connection(TokioIo::new(WithInterim::new(stream, interim)), service)
        .with_upgrades();
    if let Err(error) = watcher
        .watch_http1(connection, || spoken.has_spoken())
        .await
    {
        debug!(%error, "a client's connection ended early");
    }
}
