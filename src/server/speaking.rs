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
use tracing::debug;

use super::arriving::Arrived;
use super::head_timer::HeadTimer;
use super::lane::{self, Exchanges, Lane};
use super::{Manners, Peer};
use crate::interim::{Interim, Turn, WithInterim};
use crate::proxy::Proxy;

/// HTTP/1.1, until the client or the end of the process ends it.
pub async fn http1<F, Answer, B>(
    arrived: Arrived,
    manners: Manners,
    watcher: Watcher,
    knowing: Option<Arc<Proxy>>,
    answer: F,
) where
    F: Fn(Request<Incoming>, &Peer, Option<Turn>) -> Answer + Send + Sync,
    Answer: Future<Output = Response<B>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Arrived { stream, peer } = arrived;
    let interim = Interim::default();
    let own = interim.clone();
    let exchanges = Arc::new(Exchanges::default());
    let stream = Lane::new(stream, knowing, peer.clone(), exchanges.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        exchanges.begin(&mut request);
        // RFC 9110 §15.2: never to an HTTP/1.0 client.
        let turn = (request.version() == Version::HTTP_11).then(|| own.turn());
        let answered = own.clone().before(answer(request, &peer, turn));
        let exchanges = exchanges.clone();
        answered.map(move |answer| Ok::<_, Infallible>(lane::answering(answer, exchanges)))
    });
    let connection = http1::Builder::new()
        .timer(HeadTimer::default())
        .header_read_timeout(manners.header_timeout)
        .max_headers(manners.fields)
        .max_buf_size(manners.head.max(8 * 1024))
        .serve_connection(TokioIo::new(WithInterim::new(stream, interim)), service);
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "a client's connection ended early");
    }
}
