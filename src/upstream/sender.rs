//! HTTP towards an upstream in either version, and what the loss of a request means.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response, header};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::task::unconstrained;

use super::again::Again;
use super::body::Content;
use super::connection::Unconnected;
use super::draft::Draft;
use super::plain::{self, Came, Plain};
use crate::body::{ContentError, Progress, RequestBody};
use crate::error::UpstreamFailure;
use crate::tls;

/// A slow reader must not have us buffer much of an answer.
pub(super) const READ_BUFFER: usize = 64 * 1024;

/// The same for each stream; the connection has room for as many as there can be, or slow readers would stop the others.
const STREAM_WINDOW: u32 = 64 * 1024;

/// h2 ends a connection on which more small DATA frames wait to be read than half its window allows for, each at what it lacks of 256
/// bytes: with so much more of it for each that may be `Unfinished`, none where they have 16 bytes each.
const FOR_SMALL_FRAMES: u32 = 64;

/// Streams whose readers have left: of so many, for a second each, what still comes is dropped. Of those beyond, the upstream is
/// told with each frame that it is not wanted.
const LEFT: usize = 1024;

/// How a connection that is lost without a word is noticed, though others of its streams are not waited for.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// Takes requests for one connection.
pub(super) enum Sender {
    /// One after the other.
    Http1(Http1),
    /// As many at once as the upstream allows; whoever is beyond that waits.
    Http2(http2::SendRequest<RequestBody>, Scheme, Arc<Unfinished>),
}

/// How many streams of a connection have not come to their end: those under way, and those whose readers have left. What comes for
/// these h2 counts as if it waited to be read for ever, so there is another connection before they are too many.
pub(super) struct Unfinished {
    now: AtomicUsize,
    most: usize,
}

/// A connection of HTTP/1, which is carried on by whoever has it in hand: a task of its own would have to be woken for each
/// request and for each answer, and would have to wake who waits for it. While nobody has it, nothing is done on it.
///
/// It begins plain. By the first exchange that is not, it becomes hyper's, and stays so.
pub(super) enum Http1 {
    Plain(Plain),
    Hyper(Driven),
}

/// A connection that hyper speaks on.
pub(super) struct Driven {
    requests: http1::SendRequest<RequestBody>,
    /// None when the connection has ended, or has a task of its own.
    driving: Option<Driving>,
    /// How far the content of the latest request has gone, where it travels by and by.
    content: Option<Arc<Progress>>,
}

/// An upstream that has answered before it has read all of a request, and reads nothing more for so long, reads no more.
const UNREAD: Duration = Duration::from_secs(60);

type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What was lost.
pub(super) struct Lost {
    /// It provably never ran, and is still there.
    pub unsent: Option<RequestBody>,
    pub why: UpstreamFailure,
    /// As a kept connection is lost when its server closes it.
    pub by_closing: bool,
}

impl Sender {
    pub fn http1<S>(stream: S) -> Sender
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Sender::Http1(Http1::Plain(Plain::new(stream)))
    }

    pub async fn http2<S>(stream: S, scheme: Scheme, streams: usize) -> Result<Sender, Unconnected>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unfinished = Arc::new(Unfinished {
            now: AtomicUsize::new(0),
            most: streams.saturating_mul(2),
        });
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let window = STREAM_WINDOW
            .saturating_mul(streams)
            .saturating_mul(FOR_SMALL_FRAMES)
            .min((1 << 31) - 1);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Until it has said how many it allows: it refuses those beyond, and on the next new connection again.
            .initial_max_send_streams(1)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .max_send_buf_size(READ_BUFFER)
            .max_header_list_size(64 * 1024)
            // What was on its way to those who have left is no fault of the upstream's, and no reason to end it for the others.
            .max_concurrent_reset_streams(LEFT)
            .max_local_error_reset_streams(None)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Unconnected::Io(std::io::Error::other(error)))?;
        tokio::spawn(async { drop(connection.await) });
        Ok(Sender::Http2(sender, scheme, unfinished))
    }

    /// The same connection for another request, where it takes several.
    pub fn shared(&self) -> Option<Sender> {
        match self {
            Sender::Http1(_) => None,
            Sender::Http2(sender, scheme, unfinished) => Some(Sender::Http2(
                sender.clone(),
                scheme.clone(),
                unfinished.clone(),
            )),
        }
    }

    /// Whether it takes no further requests.
    pub fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(Http1::Plain(plain)) => !plain.is_open(),
            Sender::Http1(Http1::Hyper(driven)) => driven.requests.is_closed(),
            Sender::Http2(sender, _, unfinished) => {
                sender.is_closed() || unfinished.now.load(Ordering::Relaxed) >= unfinished.most
            }
        }
    }

    /// An answer has come to its end.
    pub fn has_finished(&self) {
        if let Sender::Http2(_, _, unfinished) = self {
            unfinished.now.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether it takes a request now.
    pub async fn is_ready(&mut self) -> bool {
        match self {
            Sender::Http1(http1) => http1.is_open(),
            Sender::Http2(sender, ..) => !sender.is_closed() && sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(
        &mut self,
        draft: &Draft,
        body: RequestBody,
    ) -> Result<Response<Content>, Lost> {
        let mut written = 0;
        if let Sender::Http1(Http1::Plain(plain)) = self
            && draft.is_plain(&body)
        {
            match plain.exchange(draft, &body).await {
                Came::Answer(response) => return Ok(response.map(Content::Plain)),
                Came::Other { written: so_far } => written = so_far,
                Came::Unsent => return Err(Lost::before_it_left(body)),
                Came::Lost(error) => return Err(Lost::with(error.as_ref())),
            }
        }
        // Boxed, or plain requests would carry room for it.
        match self {
            Sender::Http1(http1) => {
                let sent = Box::pin(http1.send_by_hyper(draft, body, written)).await;
                sent.map(|response| response.map(Content::Hyper))
            }
            Sender::Http2(sender, scheme, unfinished) => {
                unfinished.now.fetch_add(1, Ordering::Relaxed);
                let sent = Box::pin(send_http2(sender, scheme, draft.request(body))).await;
                if sent.is_err() {
                    self.has_finished();
                }
                sent.map(|response| response.map(Content::Stream))
            }
        }
    }
}

impl Http1 {
    /// Whether it takes a request, as far as that can be said without asking the system: what a plain one's server has said
    /// meanwhile, or that it has closed, is noticed when the request is sent, of which then nothing has left.
    pub fn is_open(&mut self) -> bool {
        match self {
            Http1::Plain(plain) => plain.is_open(),
            Http1::Hyper(driven) => driven.is_free(),
        }
    }

    /// Whether it takes a request now. What its server has said meanwhile, or that it has closed, is noticed here.
    pub fn is_free(&mut self) -> bool {
        match self {
            Http1::Plain(plain) => plain.is_free(),
            Http1::Hyper(driven) => driven.is_free(),
        }
    }

    /// No further request is sent on it. What is still under way goes on by itself.
    pub fn let_go(&mut self) {
        match self {
            Http1::Plain(plain) => plain.end(),
            Http1::Hyper(driven) => driven.let_go(),
        }
    }

    /// From now on it goes on by itself, whatever becomes of the rest.
    pub async fn go_on_alone(&mut self) {
        if let Some(driven) = self.by_hyper(Bytes::new()).await
            && let Some(driving) = driven.driving.take()
        {
            tokio::spawn(driving);
        }
    }

    /// So much of the request has been `written` before.
    async fn send_by_hyper(
        &mut self,
        draft: &Draft,
        body: RequestBody,
        written: usize,
    ) -> Result<Response<Incoming>, Lost> {
        let again = match written {
            0 => Bytes::new(),
            _ => plain::written(draft, &body, written),
        };
        let Some(driven) = self.by_hyper(again).await else {
            return Err(Lost::with(None));
        };
        let mut sent = driven.send(draft.request(body)).await;
        if let Err(lost) = &mut sent
            && written > 0
        {
            // By hyper's word it has not left.
            lost.unsent = None;
        }
        sent
    }

    /// The same connection as hyper's, on which this was `written` of a request that is now sent by it.
    pub async fn by_hyper(&mut self, written: Bytes) -> Option<&mut Driven> {
        if let Http1::Plain(plain) = self {
            *self = Http1::Hyper(Driven::new(plain.leave(written)).await.ok()?);
        }
        match self {
            Http1::Hyper(driven) => Some(driven),
            Http1::Plain(_) => None,
        }
    }
}

pin_project! {
    /// A request on its way, until the head of its answer.
    struct Sending<'s, F> {
        #[pin]
        answer: F,
        driven: &'s mut Driven,
    }
}

impl<F> Future for Sending<'_, F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
{
    type Output = Result<Response<Incoming>, Lost>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut sending = self.project();
        let mut answer = sending.answer.as_mut();
        let answered = sending.driven.poll_with(cx, |cx| answer.as_mut().poll(cx));
        answered.map_err(lost)
    }
}

impl Driven {
    async fn new(stream: Again<Box<dyn plain::Stream>>) -> Result<Driven, hyper::Error> {
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Driven {
            requests,
            // Its errors reach whoever waits for an answer.
            driving: Some(Box::pin(async { drop(connection.with_upgrades().await) })),
            content: None,
        })
    }

    /// Whether it takes a request now. What its server has said meanwhile, or that it has closed, is noticed here.
    fn is_free(&mut self) -> bool {
        if let Some(driving) = &mut self.driving {
            let mut cx = Context::from_waker(Waker::noop());
            if pin!(unconstrained(driving.as_mut()))
                .poll(&mut cx)
                .is_ready()
            {
                self.driving = None;
            }
        }
        self.requests.is_ready() && !self.requests.is_closed()
    }

    /// From now on it goes on by itself, for as long as the rest does.
    fn let_go(&mut self) {
        if let Some(driving) = self.driving.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(while_it_goes_on(driving, self.content.take()));
        }
    }

    /// Carries the connection on, and says what `wanted` comes to: what that waits for is done by the connection alone, so it
    /// wakes nobody.
    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut nobody = Context::from_waker(Waker::noop());
        match &mut self.driving {
            None => return wanted(cx),
            Some(driving) => {
                if let Poll::Ready(done) = wanted(&mut nobody) {
                    return Poll::Ready(done);
                }
                if driving.as_mut().poll(cx).is_pending() {
                    return wanted(&mut nobody);
                }
            }
        }
        self.driving = None;
        wanted(cx)
    }

    fn send<'s>(
        &'s mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Lost>> + use<'s> {
        self.content = request.body().progress();
        Sending {
            // A budget that has run out would wake nobody either.
            answer: unconstrained(self.requests.try_send_request(request)),
            driven: self,
        }
    }

    /// The next piece of an answer that this connection brings.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.poll_with(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx))
    }
}

async fn while_it_goes_on(mut driving: Driving, content: Option<Arc<Progress>>) {
    let sent = || {
        content
            .as_ref()
            .map(|content| content.bytes.load(Ordering::Relaxed))
    };
    loop {
        let before = sent();
        if tokio::time::timeout(UNREAD, driving.as_mut()).await.is_ok() || sent() == before {
            return;
        }
    }
}

async fn send_http2(
    sender: &mut http2::SendRequest<RequestBody>,
    scheme: &Scheme,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Lost> {
    let sent = as_http2(request, scheme).map_err(|request| Lost {
        unsent: Some(request.into_body()),
        why: UpstreamFailure::Malformed,
        by_closing: false,
    })?;
    let (again, progress) = (sent.body().again(), sent.body().progress());
    sender.try_send_request(sent).await.map_err(|error| {
        let again = again.filter(|_| never_ran(error.error()));
        let mut lost = lost(error);
        lost.unsent = lost.unsent.or(again);
        // hyper resets the stream then, and keeps to itself why.
        if let Some(refusal) = progress.as_ref().and_then(|content| content.refused.get()) {
            lost.why = UpstreamFailure::Content(*refusal);
        }
        lost
    })
}

/// The host goes from its field to `:authority`.
fn as_http2(
    mut request: Request<RequestBody>,
    scheme: &Scheme,
) -> Result<Request<RequestBody>, Box<Request<RequestBody>>> {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host
        .as_ref()
        .and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let path = request.uri().path_and_query().cloned();
    let uri = Uri::builder()
        .scheme(scheme.clone())
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let uri = authority.and_then(|authority| uri.authority(authority).build().ok());
    let Some(uri) = uri else {
        return Err(Box::new(request));
    };
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}

/// The upstream itself says that it has not run: a stream that it refused, or one beyond the last that it will process, which
/// alone bears the error of its GOAWAY. RFC 9113 §8.7.
fn never_ran(error: &hyper::Error) -> bool {
    h2_source(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    })
}

impl Lost {
    /// To a connection that was closed, or of no use, before.
    fn before_it_left(body: RequestBody) -> Lost {
        Lost {
            unsent: Some(body),
            why: UpstreamFailure::Lost,
            by_closing: true,
        }
    }

    /// To a connection that ended, by this error if it was by one.
    fn with(error: Option<&std::io::Error>) -> Lost {
        Lost {
            unsent: None,
            why: match error.is_some_and(tls::client::was_refused) {
                true => UpstreamFailure::TlsRefused,
                false => UpstreamFailure::Lost,
            },
            by_closing: true,
        }
    }
}

fn lost(mut error: TrySendError<Request<RequestBody>>) -> Lost {
    Lost {
        unsent: error.take_message().map(Request::into_body),
        why: failure(error.error()),
        by_closing: is_lost(error.error()),
    }
}

/// Lost without a byte of an answer, as a kept-alive connection is when its server closes it.
fn is_lost(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || is_forgotten(error)
        || io_source(error).is_some()
        || h2_source(error).is_some_and(|error| error.is_io() || error.is_go_away())
}

/// A request that waits for a stream of HTTP/2 as its connection ends is dropped by hyper without a word: whether it had left,
/// nobody can tell.
fn is_forgotten(error: &hyper::Error) -> bool {
    error.is_user() && content_source(error).is_none()
}

fn content_source(error: &hyper::Error) -> Option<&ContentError> {
    std::error::Error::source(error)?.downcast_ref::<ContentError>()
}

fn h2_source(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()
}

fn io_source(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref::<std::io::Error>()
}

/// What it means to a request that its connection ended so.
fn failure(error: &hyper::Error) -> UpstreamFailure {
    match content_source(error) {
        Some(ContentError(refusal)) => UpstreamFailure::Content(*refusal),
        None if error.is_parse() => UpstreamFailure::Malformed,
        None if io_source(error).is_some_and(tls::client::was_refused) => {
            UpstreamFailure::TlsRefused
        }
        None if h2_source(error).is_some_and(|error| {
            error.is_library() || error.reason() == Some(h2::Reason::PROTOCOL_ERROR)
        }) =>
        {
            UpstreamFailure::Malformed
        }
        None => UpstreamFailure::Lost,
    }
}
