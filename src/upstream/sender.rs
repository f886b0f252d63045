//! HTTP towards an upstream in either version, and what the loss of a request means.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::Either;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response, header};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::task::unconstrained;

use super::connection::Unconnected;
use crate::body::{ContentError, RequestBody};
use crate::error::UpstreamFailure;
use crate::tls;

/// A slow reader must not have us buffer much of an answer.
const READ_BUFFER: usize = 64 * 1024;

/// The same for each stream; the connection has room for as many as there can be, or slow readers would stop the others.
const STREAM_WINDOW: u32 = 64 * 1024;

/// How a connection that is lost without a word is noticed, though others of its streams are not waited for.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// Takes requests for one connection.
pub(super) enum Sender {
    /// One after the other.
    Http1(Http1),
    /// As many at once as the upstream allows; whoever is beyond that waits.
    Http2(http2::SendRequest<RequestBody>, Scheme),
}

/// A connection of HTTP/1, which is carried on by whoever has it in hand: a task of its own would have to be woken for each
/// request and for each answer, and would have to wake who waits for it. While nobody has it, nothing is done on it.
pub(super) struct Http1 {
    requests: http1::SendRequest<RequestBody>,
    /// None when the connection has ended, or has a task of its own.
    driving: Option<Driving>,
}

type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What was lost.
pub(super) struct Lost {
    /// It provably never ran, and is still there.
    pub unsent: Option<Request<RequestBody>>,
    pub why: UpstreamFailure,
    /// As a kept connection is lost when its server closes it.
    pub by_closing: bool,
}

impl Sender {
    pub async fn http1<S>(stream: S) -> Result<Sender, Unconnected>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Unconnected::Io(std::io::Error::other(error)))?;
        Ok(Sender::Http1(Http1 {
            requests: sender,
            // Its errors reach whoever waits for an answer.
            driving: Some(Box::pin(async { drop(connection.with_upgrades().await) })),
        }))
    }

    pub async fn http2<S>(stream: S, scheme: Scheme, streams: usize) -> Result<Sender, Unconnected>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let window = STREAM_WINDOW.saturating_mul(streams).min((1 << 31) - 1);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .max_send_buf_size(READ_BUFFER)
            .max_header_list_size(64 * 1024)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Unconnected::Io(std::io::Error::other(error)))?;
        tokio::spawn(async { drop(connection.await) });
        Ok(Sender::Http2(sender, scheme))
    }

    /// The same connection for another request, where it takes several.
    pub fn shared(&self) -> Option<Sender> {
        match self {
            Sender::Http1(_) => None,
            Sender::Http2(sender, scheme) => Some(Sender::Http2(sender.clone(), scheme.clone())),
        }
    }

    pub fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(http1) => http1.requests.is_closed(),
            Sender::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Whether it takes a request now.
    pub async fn is_ready(&mut self) -> bool {
        match self {
            Sender::Http1(http1) => http1.is_free(),
            Sender::Http2(sender, _) => !sender.is_closed() && sender.ready().await.is_ok(),
        }
    }

    /// (No `async fn`: that would hold the request twice.)
    pub fn send<'s>(
        &'s mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Lost>> + use<'s> {
        match self {
            Sender::Http1(http1) => Either::Left(http1.send(request)),
            // Boxed, or every request of HTTP/1 would carry room for it.
            Sender::Http2(sender, scheme) => {
                Either::Right(Box::pin(send_http2(sender, scheme, request)))
            }
        }
    }
}

pin_project! {
    /// A request on its way, until the head of its answer.
    struct Sending<'s, F> {
        #[pin]
        answer: F,
        http1: &'s mut Http1,
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
        let answered = sending.http1.poll_with(cx, |cx| answer.as_mut().poll(cx));
        answered.map_err(lost)
    }
}

impl Http1 {
    /// Whether it takes a request now. What its server has said meanwhile, or that it has closed, is noticed here.
    pub fn is_free(&mut self) -> bool {
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

    /// From now on it goes on by itself, whatever becomes of the rest.
    pub fn let_go(&mut self) {
        if let Some(driving) = self.driving.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(driving);
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
        Sending {
            // A budget that has run out would wake nobody either.
            answer: unconstrained(self.requests.try_send_request(request)),
            http1: self,
        }
    }

    /// The next piece of an answer that this connection brings.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        self.poll_with(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx))
    }
}

async fn send_http2(
    sender: &mut http2::SendRequest<RequestBody>,
    scheme: &Scheme,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Lost> {
    let sent = as_http2(request, scheme).map_err(|request| Lost {
        unsent: Some(*request),
        why: UpstreamFailure::Malformed,
        by_closing: false,
    })?;
    let again = again(&sent);
    sender.try_send_request(sent).await.map_err(|error| {
        let again = again.filter(|_| never_ran(error.error()));
        let mut lost = lost(error);
        lost.unsent = lost.unsent.or(again);
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

/// A request whose content can be had a second time.
fn again(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    Some(Request::new(request.body().again()?))
}

/// The upstream itself says that it has not run: a stream that it refused, or one beyond the last that it will process, which
/// alone bears the error of its GOAWAY. RFC 9113 §8.7.
fn never_ran(error: &hyper::Error) -> bool {
    h2_source(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    })
}

fn lost(mut error: TrySendError<Request<RequestBody>>) -> Lost {
    Lost {
        unsent: error.take_message(),
        why: failure(error.error()),
        by_closing: is_lost(error.error()),
    }
}

/// Lost without a byte of an answer, as a kept-alive connection is when its server closes it.
fn is_lost(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io_source(error).is_some()
        || h2_source(error).is_some_and(|error| error.is_io() || error.is_go_away())
}

fn h2_source(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()
}

fn io_source(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref::<std::io::Error>()
}

/// What it means to a request that its connection ended so.
fn failure(error: &hyper::Error) -> UpstreamFailure {
    let content =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<ContentError>());
    match content {
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
