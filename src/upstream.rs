//! The existing API behind us: a pool of connections, a cap with a bounded queue, and time limits.
//! No request is sent twice, but for a bodyless GET or HEAD that was lost to a closing connection, once;
//! and one that provably never left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::body::{Broken, ContentError, Progress, RequestBody, Silence};
use crate::clock;
use crate::config::{Upstream as Settings, UpstreamAddress};
use crate::error::UpstreamFailure;
use crate::interim::Turn;
use crate::message::framing;
use crate::message::target::ForwardUri;
use crate::metrics::COUNTED;
use crate::proxy::told::Notes;

/// A slow reader must not have us buffer much of an answer.
const READ_BUFFER: usize = 64 * 1024;

pub struct Upstream {
    settings: Settings,
    slots: Arc<Semaphore>,
    queued: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection, free to take a request.
struct Connection {
    sender: SendRequest<RequestBody>,
    /// Bytes that have come over it.
    received: Arc<AtomicU64>,
}

/// The right to have one request under way.
pub struct Slot(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// A request as it will be sent: its fields are final.
pub struct Outgoing {
    pub method: Method,
    pub target: ForwardUri,
    pub fields: HeaderMap,
    pub body: RequestBody,
    /// Where interim answers go, if anywhere.
    pub interim: Option<Turn>,
    /// Where the time that it takes is noted.
    pub notes: Option<Arc<Notes>>,
}

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub in_flight: usize,
    pub queued: usize,
    /// What may be in flight at once.
    pub most: usize,
}

impl Upstream {
    pub fn new(settings: Settings) -> Arc<Upstream> {
        Arc::new(Upstream {
            slots: Arc::new(Semaphore::new(settings.max_connections)),
            queued: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            settings,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn load(&self) -> Load {
        let most = self.settings.max_connections;
        Load {
            in_flight: most.saturating_sub(self.slots.available_permits()),
            queued: self.queued.load(Ordering::Relaxed),
            most,
        }
    }

    /// Waits in the queue for the right to send.
    pub async fn slot(&self) -> Result<Slot, UpstreamFailure> {
        let slot = self.place().await;
        slot.inspect_err(|failure| COUNTED.upstream.failures.count([failure.word()]))
    }

    async fn place(&self) -> Result<Slot, UpstreamFailure> {
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Ok(Slot(permit));
        }
        let _place =
            Place::take(&self.queued, self.settings.queue).ok_or(UpstreamFailure::QueueFull)?;
        match tokio::time::timeout(self.settings.total, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot(permit)),
            Ok(Err(_)) | Err(_) => Err(UpstreamFailure::QueueTimeout),
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(
        self: &Arc<Self>,
        slot: Slot,
        request: Outgoing,
    ) -> Result<Response<UpstreamBody>, UpstreamFailure> {
        let (sent, notes) = (clock::stopwatch(), request.notes.clone());
        let answered = self.answer(slot, request).await;
        let took = sent.elapsed();
        match &answered {
            Ok(response) => COUNTED.upstream.answered(response.status(), took),
            Err(failure) => COUNTED.upstream.failures.count([failure.word()]),
        }
        if let Some(notes) = notes {
            notes.upstream_took(took);
        }
        answered
    }

    async fn answer(
        self: &Arc<Self>,
        slot: Slot,
        request: Outgoing,
    ) -> Result<Response<UpstreamBody>, UpstreamFailure> {
        let progress = request.body.progress();
        let exchange = self.exchange(request);
        let response = match progress {
            None => tokio::time::timeout(self.settings.total, exchange)
                .await
                .map_err(|_| UpstreamFailure::TotalTimeout)??,
            Some(progress) => self.while_streaming(exchange, &progress).await?,
        };
        let (response, connection) = response;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            || !framing::of_an_answer_is_clear(response.version(), response.headers())
        {
            return Err(UpstreamFailure::Malformed);
        }
        Ok(response.map(|incoming| UpstreamBody {
            incoming,
            silence: Silence::new(self.settings.idle),
            returning: Some(Returning {
                upstream: self.clone(),
                connection,
            }),
            _slot: slot,
        }))
    }

    /// The time limits count from the content's end; before it, only from the last sign of life.
    async fn while_streaming<T>(
        &self,
        exchange: impl Future<Output = Result<T, UpstreamFailure>>,
        progress: &Progress,
    ) -> Result<T, UpstreamFailure> {
        tokio::pin!(exchange);
        let mut seen = (u64::MAX, false);
        loop {
            let now = (
                progress.bytes.load(Ordering::Relaxed),
                progress.done.load(Ordering::Relaxed),
            );
            if now == seen {
                return Err(UpstreamFailure::TotalTimeout);
            }
            seen = now;
            if let Ok(done) = tokio::time::timeout(self.settings.total, &mut exchange).await {
                return done;
            }
        }
    }

    async fn exchange(
        &self,
        request: Outgoing,
    ) -> Result<(Response<Incoming>, Connection), UpstreamFailure> {
        let resendable = matches!(request.method, Method::GET | Method::HEAD)
            && matches!(request.body, RequestBody::Empty);
        let Outgoing {
            method,
            target,
            fields,
            body,
            interim,
            notes: _,
        } = request;
        let build = |body: RequestBody| {
            let mut request = Request::new(body);
            *request.method_mut() = method.clone();
            *request.uri_mut() = target
                .as_str()
                .parse()
                .map_err(|_| UpstreamFailure::Malformed)?;
            *request.headers_mut() = fields.clone();
            if let Some(turn) = interim.clone() {
                hyper::ext::on_informational(&mut request, move |answer| {
                    turn.send(answer.status(), answer.headers());
                });
            }
            Ok::<_, UpstreamFailure>(request)
        };
        let mut request = build(body)?;
        while let Some(mut connection) = self.pooled().await {
            let before = connection.received.load(Ordering::Relaxed);
            match self
                .first_byte(connection.sender.try_send_request(request))
                .await?
            {
                Ok(response) => return Ok((response, connection)),
                Err(mut lost) => match lost.take_message() {
                    // It never left: the connection was closed before.
                    Some(unsent) => request = unsent,
                    // Lost to a connection that its server closed, before any byte of an answer.
                    None if resendable
                        && is_lost(lost.error())
                        && connection.received.load(Ordering::Relaxed) == before =>
                    {
                        request = build(RequestBody::Empty)?;
                        break;
                    }
                    None => return Err(failure(lost.error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        match self
            .first_byte(connection.sender.try_send_request(request))
            .await?
        {
            Ok(response) => Ok((response, connection)),
            Err(mut lost) => Err(match lost.take_message() {
                Some(_) => UpstreamFailure::Connect,
                None => failure(lost.error()),
            }),
        }
    }

    async fn first_byte<T>(&self, answer: impl Future<Output = T>) -> Result<T, UpstreamFailure> {
        // For a streamed body this would count its content too: `while_streaming` watches that.
        match self.settings.first_byte >= self.settings.total {
            true => Ok(answer.await),
            false => tokio::time::timeout(self.settings.first_byte, answer)
                .await
                .map_err(|_| UpstreamFailure::FirstByteTimeout),
        }
    }

    /// An idle connection that is still good, the latest used first.
    async fn pooled(&self) -> Option<Connection> {
        loop {
            let mut idle = self.idle.lock().pop()?;
            if idle.since.elapsed() < self.settings.pool_idle
                && !idle.connection.sender.is_closed()
                && idle.connection.sender.ready().await.is_ok()
            {
                return Some(idle.connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, UpstreamFailure> {
        tokio::time::timeout(self.settings.connect, async {
            match &self.settings.address {
                UpstreamAddress::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port))
                        .await
                        .map_err(|_| UpstreamFailure::Connect)?;
                    let _ = stream.set_nodelay(true);
                    handshake(stream).await
                }
                UpstreamAddress::Unix(path) => {
                    handshake(
                        UnixStream::connect(path)
                            .await
                            .map_err(|_| UpstreamFailure::Connect)?,
                    )
                    .await
                }
            }
        })
        .await
        .map_err(|_| UpstreamFailure::ConnectTimeout)?
    }

    fn put_back(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut idle = self.idle.lock();
        idle.retain(|idle| now - idle.since < self.settings.pool_idle);
        idle.push(Idle {
            connection,
            since: now,
        });
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, UpstreamFailure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let received = Arc::new(AtomicU64::new(0));
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(Counted {
            stream,
            received: received.clone(),
        }))
        .await
        .map_err(|_| UpstreamFailure::Connect)?;
    // Its errors reach whoever waits for an answer.
    tokio::spawn(async { drop(connection.await) });
    Ok(Connection { sender, received })
}

/// A stream that counts what it reads: whether an answer had begun is not in hyper's errors.
struct Counted<S> {
    stream: S,
    received: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, into);
        self.received
            .fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }
}

/// Lost without a byte of an answer, as a kept-alive connection is when its server closes it.
fn is_lost(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io_kind(error).is_some()
}

fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>().map(io::Error::kind)
}

fn failure(error: &hyper::Error) -> UpstreamFailure {
    let content =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<ContentError>());
    match content {
        Some(ContentError(refusal)) => UpstreamFailure::Content(*refusal),
        None if error.is_parse() => UpstreamFailure::Malformed,
        None => UpstreamFailure::Lost,
    }
}

/// A place in the queue, given back when dropped.
struct Place<'q>(&'q AtomicUsize);

impl<'q> Place<'q> {
    fn take(queued: &'q AtomicUsize, most: usize) -> Option<Place<'q>> {
        let place = Place(queued);
        (queued.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's content as it comes. Holds its slot, and gives the connection back at the end.
pub struct UpstreamBody {
    incoming: Incoming,
    silence: Silence,
    returning: Option<Returning>,
    _slot: Slot,
}

struct Returning {
    upstream: Arc<Upstream>,
    connection: Connection,
}

impl UpstreamBody {
    fn give_back(&mut self) {
        if let Some(Returning {
            upstream,
            connection,
        }) = self.returning.take()
        {
            upstream.put_back(connection);
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        loop {
            return match Pin::new(&mut body.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    body.silence.broken();
                    match frame.is_data() {
                        true => Poll::Ready(Some(Ok(frame))),
                        // Trailers end here.
                        false => continue,
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    body.returning = None;
                    Poll::Ready(Some(Err(error.into())))
                }
                Poll::Ready(None) => {
                    body.give_back();
                    Poll::Ready(None)
                }
                Poll::Pending => match body.silence.poll_over(cx) {
                    Poll::Ready(()) => {
                        body.returning = None;
                        Poll::Ready(Some(Err(Box::new(Broken(
                            "the upstream fell silent in the middle of its answer",
                        )))))
                    }
                    Poll::Pending => Poll::Pending,
                },
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
