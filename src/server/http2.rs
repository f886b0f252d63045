//! HTTP/2 on a connection that has arrived: hyper's server, with every bound that it has set on purpose. RFC 9113.
//! (Not hyper-util's auto builder: it guesses the protocol from the bytes, whatever ALPN chose.)

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tracing::debug;

use super::frames::Metered;
use super::lingering::linger;
use super::{Brought, Manners, Peer};

/// Of one stream: what a write's content is read whole up to, so that such a write needs no further window.
const STREAM_WINDOW: u32 = 64 * 1024;

/// Of all streams of a connection: what a client can have us hold that nobody reads, as its requests wait.
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// Bytes of an answer's content taken over before the client's window lets them out. What is beyond stays where it is:
/// in the store's copy, which all share, or with the upstream.
const SEND_BUFFER: usize = 64 * 1024;

/// The smallest that a receiver must take, and more would only make streams wait for each other.
const FRAME: u32 = 16 * 1024;

/// What the protocol begins with, and clients make the most of.
const TABLE: u32 = 4 * 1024;

/// Streams that were reset before anybody looked at them: no client has a use for many (CVE-2023-44487).
const RESET_BEFORE_ACCEPT: usize = 20;

/// Malformed requests and the like that one connection may send in all. A proxy in front brings those of many clients.
const OWN_RESETS: usize = 256;

/// A silent connection is asked whether it is there, and ended if no answer comes.
const ASKED_AFTER: Duration = Duration::from_secs(30);
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// How long a connection without a stream stays: at least this, at most twice.
const IDLE: Duration = Duration::from_secs(60);

/// How long an answer may wait for a client that opens no window.
const STALLED: Duration = Duration::from_secs(30);

/// Until the client ends it, has been idle, or `end` comes: then it is told (GOAWAY), and what is under way finished.
pub async fn serve<S, F, Answer, B>(
    (stream, peer): (S, Peer),
    manners: Manners,
    (_watched, mut end): (Watcher, watch::Receiver<bool>),
    answer: F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Brought, &Peer) -> Answer + Send + Sync,
    Answer: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let streams = Streams::default();
    let service = service_fn(move |request: Request<Incoming>| {
        // hyper has no way to send an interim answer by HTTP/2.
        let brought = Brought::by_hyper(request, None, None);
        let to_head = brought.head.method == Method::HEAD;
        answer(brought, &peer).map(move |answered| {
            ANSWERED.set(true);
            Ok::<_, Infallible>(answered.map(|body| Told { body, to_head }))
        })
    });
    let mut stream = Metered::new(stream);
    let (mut seen, mut told) = (0, false);
    let ended = {
        let connection = TokioIo::new(&mut stream);
        let connection = builder(manners, streams.clone()).serve_connection(connection, service);
        let mut connection = pin!(connection);
        let mut idle = tokio::time::interval_at(Instant::now() + IDLE, IDLE);
        loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                _ = end.wait_for(|end| *end), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = idle.tick() => match streams.since(seen) {
                    Since::Idle if told => return,
                    Since::Idle => {
                        told = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Since::Busy { ended } => seen = ended,
                }
            }
        }
    };
    match ended {
        // Who reads an answer sends all the while, if only windows.
        Ok(()) if streams.since(seen) != Since::Idle => linger(&mut stream).await,
        Ok(()) => {}
        Err(error) => debug!(%error, "a client's connection ended early"),
    }
}

fn builder(manners: Manners, streams: Streams) -> Builder<Streams> {
    // Each field counts for 32 bytes more than it has (§6.5.2), and a cookie may come in crumbs: what is between this
    // and the limits is refused in our words.
    let list = manners.head + 2 * 32 * manners.fields + manners.target;
    let mut builder = Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(manners.streams)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .header_table_size(TABLE)
        .max_frame_size(FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPT)
        .max_local_error_reset_streams(OWN_RESETS)
        .keep_alive_interval(ASKED_AFTER)
        .keep_alive_timeout(ANSWERS_WITHIN);
    builder
}

/// The streams of one connection, each in a task of its own.
#[derive(Debug, Default, Clone)]
struct Streams(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    opened: AtomicU64,
    ended: AtomicU64,
}

#[derive(Debug, PartialEq, Eq)]
enum Since {
    /// No stream is under way, and none has ended since so many had.
    Idle,
    Busy {
        ended: u64,
    },
}

impl Streams {
    fn since(&self, seen: u64) -> Since {
        let ended = self.0.ended.load(Ordering::Acquire);
        let opened = self.0.opened.load(Ordering::Acquire);
        match opened == ended && ended == seen {
            true => Since::Idle,
            false => Since::Busy { ended },
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        self.0.opened.fetch_add(1, Ordering::Release);
        tokio::spawn(Stream {
            stream,
            answered: false,
            progress: Instant::now(),
            stalled: None,
            _ending: Ending(self.0.clone()),
        });
    }
}

struct Ending(Arc<Count>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

thread_local! {
    /// Set by a stream's service, in the very poll that answers.
    static ANSWERED: Cell<bool> = const { Cell::new(false) };
    /// Set by an answer's body that has nothing for now, in the very poll that asks it.
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

pin_project! {
    /// A body that tells when it is waited for. To a HEAD nothing of it is sent, which hyper sees to over HTTP/1.1 alone.
    struct Told<B> {
        #[pin]
        body: B,
        to_head: bool,
    }
}

impl<B: Body> Body for Told<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if self.to_head {
            return Poll::Ready(None);
        }
        let polled = self.project().body.poll_frame(cx);
        if polled.is_pending() {
            AWAITED.set(true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.to_head || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// A stream that is given up if its client takes nothing of the answer for too long: nobody polls a body that no
    /// window is open for, and an answer that the upstream still sends keeps others from it. Until there is an answer, or more
    /// of it, the upstream's own time limits count.
    struct Stream<F> {
        #[pin]
        stream: F,
        answered: bool,
        progress: Instant,
        stalled: Option<Pin<Box<Sleep>>>,
        _ending: Ending,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        ANSWERED.set(false);
        AWAITED.set(false);
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        *this.answered |= ANSWERED.get();
        if !*this.answered {
            return Poll::Pending;
        }
        let now = Instant::now();
        let timer = this.stalled.get_or_insert_with(|| {
            *this.progress = now;
            Box::pin(tokio::time::sleep(STALLED))
        });
        if timer.as_mut().poll(cx).is_pending() {
            // It was not the timer that woke it.
            *this.progress = now;
            return Poll::Pending;
        }
        if AWAITED.get() {
            *this.progress = now;
        }
        let deadline = *this.progress + STALLED;
        if deadline <= now {
            debug!("a client takes nothing of its answer: the stream is reset");
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_if_nothing_has_ended_since_and_nothing_is_under_way() {
        let streams = Streams::default();
        assert_eq!(streams.since(0), Since::Idle);
        let (opened, ended) = (&streams.0.opened, &streams.0.ended);
        opened.store(1, Ordering::Relaxed);
        assert_eq!(streams.since(0), Since::Busy { ended: 0 }, "under way");
        ended.store(1, Ordering::Relaxed);
        assert_eq!(streams.since(0), Since::Busy { ended: 1 }, "since then");
        assert_eq!(streams.since(1), Since::Idle);
    }

    /// Answers at once, and then waits to be let on.
    async fn sends(windows: Arc<tokio::sync::Semaphore>, pieces: u32) {
        ANSWERED.set(true);
        for _ in 0..pieces {
            windows.acquire().await.unwrap().forget();
        }
    }

    async fn lasts(stream: impl Future<Output = ()> + Send + 'static) -> u64 {
        let (streams, begun) = (Streams::default(), Instant::now());
        streams.execute(stream);
        while streams.0.ended.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_takes_nothing_and_not_while_it_takes_some() {
        let stalled = STALLED.as_secs();
        let windows = Arc::new(tokio::sync::Semaphore::new(0));
        let lasted = lasts(sends(windows.clone(), 1)).await;
        assert!((stalled..=stalled + 2).contains(&lasted), "{lasted}");
        let opening = windows.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(STALLED * 2 / 3).await;
                opening.add_permits(1);
            }
        });
        let lasted = lasts(sends(windows, 6)).await;
        let all = 5 * stalled * 2 / 3 + stalled;
        assert!((all..=all + 3).contains(&lasted), "{lasted}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_more_of_an_answer_is_not_given_up() {
        let silent = futures_util::stream::once(async {
            tokio::time::sleep(STALLED * 5).await;
            Ok::<_, Infallible>(Frame::data(bytes::Bytes::new()))
        });
        let mut body = Box::pin(Told {
            body: http_body_util::StreamBody::new(silent),
            to_head: false,
        });
        let lasted = lasts(async move {
            ANSWERED.set(true);
            std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        });
        assert!(lasted.await >= STALLED.as_secs() * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_is_not_given_up() {
        let lasted = lasts(tokio::time::sleep(STALLED * 5)).await;
        assert!(lasted >= STALLED.as_secs() * 5);
    }
}
