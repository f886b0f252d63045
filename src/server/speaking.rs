//! HTTP on a connection that has arrived.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::Watcher;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::yield_now;
use tracing::debug;

use super::alone::{self, Alone, Lent};
use super::arriving::Arrived;
use super::ending::Ending;
use super::head_timer::HeadTimer;
use super::lane::{self, Exchanges, Lane};
use super::lingering::linger;
use super::pulse::Pulse;
use super::{Brought, Manners, Peer, http2, plain, preface};
use crate::interim::{Interim, WithInterim};
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
    F: Fn(Brought, &Peer) -> Answer + Send + Sync,
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
    mut watcher: Ending,
    knowing: Option<Arc<Proxy>>,
    answer: F,
) where
    F: Fn(Brought, &Peer) -> Answer + Send + Sync,
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
    let exchanges = Arc::new(Exchanges::default());
    let lane = Lane::new(
        stream,
        pulse.clone(),
        knowing,
        peer.clone(),
        exchanges.clone(),
    );
    let mut lane = Arc::new(Mutex::new(lane));
    let has_spoken = || exchanges.has_spoken();
    let interim = Interim::default();
    let is_ended_by_closing = AtomicBool::new(false);
    let may_be_sending = AtomicBool::new(false);
    let ended = loop {
        if lane.lock().is_free() {
            // The machinery is gone, or was not there yet.
            let Some(lane) = Arc::get_mut(&mut lane).map(Mutex::get_mut) else {
                debug_assert!(false, "somebody still has the lane");
                return;
            };
            let answer = |brought| answer(brought, &peer);
            if !alone(lane, &pulse, &manners, &interim, &mut watcher, answer).await {
                return;
            }
        }
        let exchanges = &exchanges;
        let stream = WithInterim::new(Lent::of(&lane), interim.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let beneath = exchanges.begin(&request);
            let is_old = request.version() < Version::HTTP_11;
            is_ended_by_closing.store(is_old, Ordering::Relaxed);
            // RFC 9110 §15.2: never to an HTTP/1.0 client.
            let turn = (request.version() == Version::HTTP_11).then(|| interim.turn());
            let has_content = !request.body().is_end_stream();
            // Or the next one, which need not wait for this answer.
            let goes_on = lane::persists(request.version(), request.headers());
            may_be_sending.store(has_content || goes_on, Ordering::Relaxed);
            let brought = Brought::by_hyper(request, turn, beneath);
            let answered = interim.clone().before(answer(brought, &peer));
            let exchanges = exchanges.clone();
            async move {
                let answer = answered.await;
                if has_content {
                    // Of content that nobody reads any more the machinery learns in its next turn, and then the answer says that it
                    // is the last.
                    yield_now().await;
                }
                Ok::<_, Infallible>(lane::answering(answer, exchanges))
            }
        });
        // Boxed: it is not there while nothing is asked.
        let mut connection = Box::new(
            http1::Builder::new()
                .timer(HeadTimer::new(pulse.clone()))
                .header_read_timeout(manners.patience.header)
                .max_headers(manners.fields)
                .max_buf_size(manners.head.max(8 * 1024))
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades(),
        );
        let is_free = || lane.lock().is_free();
        let watched = watcher.watch_http1(&mut connection, has_spoken, is_free);
        if let Some(ended) = watched.await {
            break ended;
        }
    };
    // Nobody else has it any more, unless another protocol is spoken on it.
    let Some(lane) = Arc::get_mut(&mut lane).map(Mutex::get_mut) else {
        return;
    };
    // While the next head is waited for nothing of it has come.
    let is_sending = may_be_sending.into_inner() && pulse.received.load(Ordering::Relaxed);
    match ended {
        Ok(()) if is_sending => linger(lane.stream().get_mut()).await,
        Ok(()) => {}
        Err(error) => {
            debug!(%error, "a client's connection ended early");
            if error.is_parse() {
                linger(lane.stream().get_mut()).await;
            }
            // An end is all that an HTTP/1.0 client sees of an answer's end: what breaks off must not look whole to it.
            if error.is_user()
                && is_ended_by_closing.into_inner()
                && let Some(stream) = lane.stream().plain()
            {
                stream.resets();
            }
        }
    }
}

/// What a connection came to without the machinery.
enum Came {
    /// Something is for it to read.
    ForTheMachinery,
    /// By its client's last word.
    ToItsEnd,
    /// By ours, though its client may have asked for more.
    ToOurs,
    /// It has said nothing for too long, or is to make room.
    ToLeave,
}

/// Without the machinery, until something is for it to read. Else the connection has ended.
async fn alone<S, F, Answer, B>(
    lane: &mut Lane<S>,
    pulse: &Arc<Pulse>,
    manners: &Manners,
    interim: &Interim,
    ending: &mut Ending,
    answer: F,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Brought) -> Answer,
    Answer: Future<Output = Response<B>>,
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (exchanges, end) = (lane.exchanges(), ending.end());
    let came = {
        let is_answering = AtomicBool::new(false);
        let answering = pin!(async {
            loop {
                let mut patience = HeadTimer::new(pulse.clone()).begins_to_wait();
                let next = poll_fn(|cx| alone::poll_alone(lane, &mut patience, cx)).await?;
                let (read, mut foreseen) = match next {
                    Alone::Spoken(read, foreseen) => (read, foreseen),
                    Alone::Closed => return Ok(Came::ToItsEnd),
                    Alone::Silent => return Ok::<_, io::Error>(Came::ToLeave),
                };
                let Some(brought) = plain::read(&read, &mut foreseen, interim, manners) else {
                    patience.is_carried_on();
                    lane.gives_again(read, foreseen);
                    return Ok(Came::ForTheMachinery);
                };
                is_answering.store(true, Ordering::Relaxed);
                // Boxed: they are not there while nothing is asked. One by one, for what is in a box is not moved.
                let answered = Box::pin(interim.clone().before(answer(brought)));
                let exchange = Box::pin(plain::exchange(lane, interim, answered, &end));
                match exchange.await? {
                    true if lane.is_free() => is_answering.store(false, Ordering::Relaxed),
                    // More was asked meanwhile.
                    true => return Ok(Came::ForTheMachinery),
                    false => return Ok(Came::ToOurs),
                }
            }
        });
        let is_answering = || is_answering.load(Ordering::Relaxed);
        let has_spoken = || exchanges.has_spoken();
        ending
            .watch_alone(answering, has_spoken, is_answering)
            .await
    };
    // A hit may be on its way.
    let may_be_sending =
        matches!(came, Some(Ok(Came::ToOurs))) || came.is_none() && !lane.is_free();
    match came {
        Some(Ok(Came::ForTheMachinery)) => return true,
        Some(Ok(Came::ToLeave)) => debug!("a client's connection said nothing for too long"),
        Some(Ok(Came::ToItsEnd | Came::ToOurs)) | None => {
            let _ = lane.shutdown().await;
            if may_be_sending {
                linger(lane.stream().get_mut()).await;
            }
        }
        Some(Err(error)) => debug!(%error, "a client's connection ended early"),
    }
    false
}
