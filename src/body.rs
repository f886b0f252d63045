//! Content on its way: towards the upstream, towards clients, and shared by all who wait for one fetch.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::error::Refusal;
use crate::upstream::UpstreamBody;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that ended before its end: hyper cuts the connection, so that nobody takes it for whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// What a client is sent.
pub enum ReplyBody {
    Empty,
    Whole(Option<Bytes>),
    Shared(Reader),
    Streamed(Box<UpstreamBody>),
}

impl ReplyBody {
    pub fn whole(bytes: Bytes) -> Self {
        match bytes.is_empty() {
            true => ReplyBody::Empty,
            false => ReplyBody::Whole(Some(held_for_its_reader(bytes))),
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ReplyBody::Empty => Poll::Ready(None),
            ReplyBody::Whole(bytes) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            ReplyBody::Shared(reader) => Pin::new(reader).poll_frame(cx),
            ReplyBody::Streamed(body) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Empty | ReplyBody::Whole(None) => true,
            ReplyBody::Whole(Some(_)) | ReplyBody::Shared(_) => false,
            ReplyBody::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Empty | ReplyBody::Whole(None) => SizeHint::with_exact(0),
            ReplyBody::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Shared(reader) => reader.size_hint(),
            ReplyBody::Streamed(body) => body.size_hint(),
        }
    }
}

/// What a client sends behind a request's head.
pub enum Content {
    /// As it comes.
    Incoming(Incoming),
    /// As it comes by a stream of HTTP/2.
    Stream(Incoming),
    /// It came with the head, all of it.
    Whole(Bytes),
}

impl Content {
    /// Whether it is cut short where it has nothing more to say.
    fn is_cut(&self) -> bool {
        match self {
            Content::Stream(stream) => is_cut(stream),
            Content::Incoming(_) | Content::Whole(_) => false,
        }
    }
}

/// Whether what comes by a stream of HTTP/2 has nothing more to say and did not come to its end: hyper reads a RST_STREAM with
/// NO_ERROR as the end of what came before.
pub fn is_cut(stream: &Incoming) -> bool {
    !stream.is_end_stream()
}

impl Body for Content {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Content::Incoming(incoming) | Content::Stream(incoming) => {
                Pin::new(incoming).poll_frame(cx)
            }
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Content::Incoming(incoming) | Content::Stream(incoming) => incoming.is_end_stream(),
            Content::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Incoming(incoming) | Content::Stream(incoming) => incoming.size_hint(),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// What goes upstream.
pub enum RequestBody {
    Empty,
    Whole(Option<Bytes>),
    Streamed(Box<ClientBody>),
}

impl RequestBody {
    /// The same again, if that can be.
    pub fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Empty => Some(RequestBody::Empty),
            RequestBody::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            RequestBody::Streamed(_) => None,
        }
    }

    /// How far a streamed body has come.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            RequestBody::Streamed(body) => Some(body.progress.clone()),
            RequestBody::Empty | RequestBody::Whole(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(bytes) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            RequestBody::Streamed(body) => Pin::new(body.as_mut())
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty | RequestBody::Whole(None) => true,
            RequestBody::Whole(Some(_)) => false,
            RequestBody::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty | RequestBody::Whole(None) => SizeHint::with_exact(0),
            RequestBody::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Streamed(body) => body.size_hint(),
        }
    }
}

/// A client's content, bounded in size and in silence.
pub struct ClientBody {
    /// Read before it was known that the rest is streamed.
    head: Bytes,
    incoming: Content,
    received: u64,
    most: u64,
    pace: Pace,
    /// How long it was waited for, in all and now.
    waited: Duration,
    waits_since: Option<Instant>,
    silence: Silence,
    progress: Arc<Progress>,
}

/// How fast content must come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest silence within it.
    pub idle: Duration,
    /// Bytes a second on the whole, once it was waited for as long as `idle` in all.
    pub least: u64,
}

impl Pace {
    /// Whether so much is too little for having been waited for so long.
    fn is_too_slow(self, received: u64, waited: Duration) -> bool {
        let owed = waited.saturating_sub(self.idle).as_secs() * self.least;
        received < owed
    }
}

/// Seen by whoever waits for an answer while the content still travels.
#[derive(Default)]
pub struct Progress {
    pub bytes: AtomicU64,
    pub done: AtomicBool,
    /// What was wrong with it.
    pub refused: OnceLock<Refusal>,
}

/// What is wrong with a client's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentError(pub Refusal);

impl std::fmt::Display for ContentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(crate::error::Error::Refused(self.0).answer().detail)
    }
}

impl std::error::Error for ContentError {}

impl ClientBody {
    pub fn new(incoming: Content, most: u64, pace: Pace) -> Self {
        ClientBody {
            head: Bytes::new(),
            incoming,
            received: 0,
            most,
            pace,
            waited: Duration::ZERO,
            waits_since: None,
            silence: Silence::new(pace.idle),
            progress: Arc::default(),
        }
    }

    /// Reads it whole if it is at most `whole` bytes; else what was read goes first in the stream.
    /// A trickling client holds nothing meanwhile.
    pub async fn read(mut self, whole: usize) -> Result<RequestBody, Refusal> {
        // Pieces are copied: each would keep all of the buffer that it was read into, however small it is.
        let (mut first, mut read) = (Bytes::new(), BytesMut::new());
        if self.incoming.size_hint().lower() > self.most {
            return Err(Refusal::ContentTooLarge);
        }
        if self.incoming.size_hint().lower() > whole as u64 {
            return Ok(RequestBody::Streamed(Box::new(self)));
        }
        while let Some(data) = std::future::poll_fn(|cx| self.poll_data(cx)).await {
            let data = data.map_err(|ContentError(refusal)| refusal)?;
            if first.is_empty() && read.is_empty() {
                first = data;
            } else {
                read.extend_from_slice(&std::mem::take(&mut first));
                read.extend_from_slice(&data);
            }
            if first.len().max(read.len()) > whole {
                self.head = if read.is_empty() {
                    first
                } else {
                    read.freeze()
                };
                return Ok(RequestBody::Streamed(Box::new(self)));
            }
        }
        Ok(match (first.is_empty(), read.is_empty()) {
            (true, true) => RequestBody::Empty,
            (false, _) => RequestBody::Whole(Some(first)),
            (true, false) => RequestBody::Whole(Some(read.freeze())),
        })
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ContentError>>> {
        loop {
            return match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.broken();
                    if let Some(since) = self.waits_since.take() {
                        self.waited += since.elapsed();
                    }
                    // Trailers end here.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.received += data.len() as u64;
                    Poll::Ready(Some(if self.received > self.most {
                        Err(ContentError(Refusal::ContentTooLarge))
                    } else if self.pace.is_too_slow(self.received, self.waited) {
                        Err(ContentError(Refusal::ContentTimeout))
                    } else {
                        Ok(data)
                    }))
                }
                Poll::Ready(Some(Err(_))) => {
                    Poll::Ready(Some(Err(ContentError(Refusal::BadContent))))
                }
                Poll::Ready(None) if self.incoming.is_cut() => {
                    Poll::Ready(Some(Err(ContentError(Refusal::BadContent))))
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => {
                    self.waits_since.get_or_insert_with(Instant::now);
                    match self.silence.poll_over(cx) {
                        Poll::Ready(()) => {
                            Poll::Ready(Some(Err(ContentError(Refusal::ContentTimeout))))
                        }
                        Poll::Pending => Poll::Pending,
                    }
                }
            };
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let body = self.get_mut();
        let next = match body.head.is_empty() {
            false => Poll::Ready(Some(Ok(std::mem::take(&mut body.head)))),
            true => body.poll_data(cx),
        };
        match &next {
            Poll::Ready(Some(Ok(data))) => drop(
                body.progress
                    .bytes
                    .fetch_add(data.len() as u64, Ordering::Relaxed),
            ),
            Poll::Ready(Some(Err(ContentError(refusal)))) => {
                body.progress.refused.get_or_init(|| *refusal);
            }
            Poll::Ready(None) => body.progress.done.store(true, Ordering::Relaxed),
            Poll::Pending => {}
        }
        if body.is_end_stream() {
            body.progress.done.store(true, Ordering::Relaxed);
        }
        next.map(|data| data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let head = self.head.len() as u64;
        let rest = self.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(head + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(head + upper);
        }
        hint
    }
}

/// A time limit on silence, armed only while nothing comes.
pub struct Silence {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Silence {
    pub fn new(limit: Duration) -> Self {
        Silence {
            limit,
            timer: None,
            waiting: false,
        }
    }

    pub fn broken(&mut self) {
        self.waiting = false;
    }

    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = || Instant::now() + self.limit;
        match &mut self.timer {
            Some(timer) if !self.waiting => timer.as_mut().reset(deadline()),
            Some(_) => {}
            None => self.timer = Some(Box::pin(tokio::time::sleep(self.limit))),
        }
        self.waiting = true;
        self.timer
            .as_mut()
            .map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }
}

/// A small piece would keep all of the buffer that it was read into.
pub fn compact(piece: Bytes) -> Bytes {
    match is_compact(&piece) {
        true => Bytes::copy_from_slice(&piece),
        false => piece,
    }
}

/// Whether a piece that was made compact is alone in its buffer.
pub fn is_compact(piece: &Bytes) -> bool {
    const SMALL: usize = 2048;
    piece.len() < SMALL
}

/// Bytes of whole answers that are held for their readers, in all of the process: no request carries a handle to it.
static HELD: AtomicU64 = AtomicU64::new(0);

/// Smaller answers fit into what the kernel takes at once.
const COUNTED: usize = 64 * 1024;

pub fn held() -> u64 {
    HELD.load(Ordering::Relaxed)
}

/// Counts an answer until the last of it was taken, if it is a larger one.
pub fn held_for_its_reader(bytes: Bytes) -> Bytes {
    match bytes.len() {
        COUNTED.. => Held::count(bytes),
        _ => bytes,
    }
}

/// An answer that is counted until the last of it was taken, however long that takes.
struct Held(Bytes);

impl Held {
    fn count(bytes: Bytes) -> Bytes {
        HELD.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Bytes::from_owner(Held(bytes))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0.len() as u64, Ordering::Relaxed);
    }
}

/// A growing body that one fetch writes and any number of clients read, each at its own pace.
#[derive(Clone)]
pub struct SharedBody(Arc<Mutex<Growing>>);

struct Growing {
    chunks: Vec<Bytes>,
    end: Option<End>,
    /// The announced length.
    length: Option<u64>,
    wakers: Vec<Option<Waker>>,
}

enum End {
    Whole,
    Broken(Broken),
    /// It grew beyond what is kept: the first reader to get there goes on alone.
    Rest(Option<Box<UpstreamBody>>),
}

impl SharedBody {
    pub fn new(length: Option<u64>) -> Self {
        SharedBody(Arc::new(Mutex::new(Growing {
            chunks: Vec::new(),
            end: None,
            length,
            wakers: Vec::new(),
        })))
    }

    pub fn push(&self, chunk: Bytes) {
        self.change(|growing| growing.chunks.push(chunk));
    }

    pub fn push_all(&self, chunks: &[Bytes]) {
        if !chunks.is_empty() {
            self.change(|growing| growing.chunks.extend_from_slice(chunks));
        }
    }

    pub fn finish(&self) {
        self.change(|growing| growing.end = Some(End::Whole));
    }

    pub fn break_off(&self, why: &'static str) {
        self.change(|growing| {
            growing.end.get_or_insert(End::Broken(Broken(why)));
        });
    }

    pub fn hand_over(&self, rest: UpstreamBody) {
        self.change(|growing| growing.end = Some(End::Rest(Some(Box::new(rest)))));
    }

    fn change(&self, change: impl FnOnce(&mut Growing)) {
        let wakers: Vec<Waker> = {
            let mut growing = self.0.lock();
            change(&mut growing);
            growing.wakers.iter_mut().filter_map(Option::take).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// `keep` lives as long as the reader: whoever reads keeps the fetch going.
    pub fn reader(&self, keep: Arc<dyn std::any::Any + Send + Sync>) -> Reader {
        let slot = {
            let mut growing = self.0.lock();
            growing.wakers.push(None);
            growing.wakers.len() - 1
        };
        Reader {
            body: self.0.clone(),
            next: 0,
            slot,
            rest: None,
            _keep: keep,
        }
    }
}

/// One client's place in a shared body.
pub struct Reader {
    body: Arc<Mutex<Growing>>,
    next: usize,
    slot: usize,
    rest: Option<Box<UpstreamBody>>,
    _keep: Arc<dyn std::any::Any + Send + Sync>,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let reader = self.get_mut();
        if let Some(rest) = &mut reader.rest {
            return Pin::new(rest.as_mut()).poll_frame(cx);
        }
        let mut growing = reader.body.lock();
        if let Some(chunk) = growing.chunks.get(reader.next) {
            reader.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        match &mut growing.end {
            None => {
                growing.wakers[reader.slot] = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken(broken)) => Poll::Ready(Some(Err(Box::new(*broken)))),
            Some(End::Rest(rest)) => match rest.take() {
                None => Poll::Ready(Some(Err(Box::new(Broken(
                    "its rest went to another client",
                ))))),
                Some(mut rest) => {
                    growing.chunks = Vec::new();
                    drop(growing);
                    let frame = Pin::new(rest.as_mut()).poll_frame(cx);
                    reader.rest = Some(rest);
                    frame
                }
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        let growing = self.body.lock();
        match growing.length {
            Some(length) => {
                let read: u64 = growing.chunks[..self.next.min(growing.chunks.len())]
                    .iter()
                    .map(|c| c.len() as u64)
                    .sum();
                SizeHint::with_exact(length.saturating_sub(read))
            }
            None => SizeHint::new(),
        }
    }
}
