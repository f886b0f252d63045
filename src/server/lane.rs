//! The short way of a hit: beneath HTTP's own machinery, between two of its requests.
//!
//! A client that asks again mostly sends the very bytes that it, or another like it, has sent before. Where they are known
//! (`proxy::known`), what they ask for is looked up at once, and a hit is written from here; whatever else they come to, who
//! comes next (`plain`, or the machinery) has the bytes as if it had read them itself. It knows nothing of requests that were
//! answered here.
//!
//! All hangs on one question: is this the first byte of a request? It is, if of what the machinery was handed nothing can be
//! left in its buffers: every request so far was one head, read off its own bytes without any doubt, and as much content as it
//! declares; each was answered, and its answer is written. A single read that does not fit, and the connection is the
//! machinery's alone until it ends.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Peer;
use super::pulse::Pulse;
use crate::body;
use crate::message::heads;
use crate::proxy::Proxy;
use crate::proxy::known::{self, Foreseen, Hit, LookingUp, Outcome};

/// Bodies up to this are copied behind their heads: one piece is cheaper to send than two.
pub(super) const COPIED: usize = 4 * 1024;

/// What was seen of a request from here.
pub enum Beneath {
    /// The bytes of its head, for whoever wants to know it again.
    Head(Bytes),
    /// It is known, and looked up.
    Foreseen(Box<Foreseen>),
}

impl Beneath {
    /// What can be said of a request whose head was read so, with whatever stands behind it.
    pub fn of(head: &[u8], read: &[u8], foreseen: Option<Box<Foreseen>>) -> Option<Beneath> {
        match (head.len() == read.len(), foreseen) {
            (true, Some(foreseen)) => Some(Beneath::Foreseen(foreseen)),
            (true, None) => known::worth_knowing(head).map(Beneath::Head),
            (false, _) => None,
        }
    }
}

/// What the machinery's side says of its requests.
#[derive(Default)]
pub struct Exchanges {
    /// How many it has begun.
    begun: AtomicU64,
    /// How many answers it has let go of, written or on their way.
    answered: AtomicU64,
    /// Bytes of content of the latest; `UNKNOWN` if that cannot be said.
    content: AtomicU64,
    /// Anything has been read at all.
    spoken: AtomicBool,
    /// What is to be said of the next.
    beneath: Mutex<Option<Beneath>>,
}

const UNKNOWN: u64 = u64::MAX;

impl Exchanges {
    pub fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    /// The machinery has read a request. What was seen of it from here.
    pub fn begin<B: Body>(&self, request: &Request<B>) -> Option<Beneath> {
        let length = match request.headers().contains_key(header::TRANSFER_ENCODING)
            || !persists(request.version(), request.headers())
        {
            true => None,
            false => request.body().size_hint().exact(),
        };
        self.content
            .store(length.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.beneath.lock().take()
    }
}

/// Whether another request may follow, without any doubt.
pub fn persists(version: Version, fields: &HeaderMap) -> bool {
    let stays = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    version == Version::HTTP_11 && fields.get_all(header::CONNECTION).iter().all(stays)
}

pin_project! {
    /// An answer's body, which says when it is let go of.
    pub struct Answering<B> {
        #[pin]
        body: B,
        until: Until,
    }
}

struct Until(Arc<Exchanges>);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer as the machinery is given it.
pub fn answering<B>(answer: Response<B>, exchanges: Arc<Exchanges>) -> Response<Answering<B>> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        || !persists(Version::HTTP_11, answer.headers())
    {
        // What follows is no request.
        exchanges.content.store(UNKNOWN, Ordering::Relaxed);
    }
    let until = Until(exchanges);
    answer.map(|body| Answering { body, until })
}

impl<B: Body> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// What is read next is the first byte of a request.
    Between,
    /// The machinery was handed one whole head, and so many bytes behind it; `begun` had said so many before.
    Handed { begun: u64, beyond: u64 },
    /// Nobody here can tell any more where a request begins.
    Lost,
}

/// A client's stream.
pub struct Lane<S> {
    stream: S,
    /// It is told of requests that the machinery does not see.
    pulse: Arc<Pulse>,
    /// Who may know requests; nobody, on the operator's listener.
    knowing: Option<Arc<Proxy>>,
    peer: Peer,
    exchanges: Arc<Exchanges>,
    place: Place,
    under_way: Option<UnderWay>,
    /// Read already, for the machinery, which was not there; and what is known of it.
    unread: Bytes,
    foreseen: Option<Box<Foreseen>>,
    /// The machinery has not written all that it has flushed.
    is_flushing: bool,
    /// It closes the connection.
    is_closing: bool,
}

/// Known bytes that came to no hit, and what they came to.
type ToBeRead = (Bytes, Box<Foreseen>);

/// What became of known bytes, while it takes its time.
enum UnderWay {
    LookingUp(Bytes, LookingUp),
    Writing {
        head: Bytes,
        body: Bytes,
    },
    /// TLS may hold back some of what it has taken.
    Flushing,
}

impl<S> Lane<S> {
    pub fn new(
        stream: S,
        pulse: Arc<Pulse>,
        knowing: Option<Arc<Proxy>>,
        peer: Peer,
        exchanges: Arc<Exchanges>,
    ) -> Self {
        Lane {
            stream,
            pulse,
            place: match knowing {
                Some(_) => Place::Between,
                None => Place::Lost,
            },
            knowing,
            peer,
            exchanges,
            under_way: None,
            unread: Bytes::new(),
            foreseen: None,
            is_flushing: false,
            is_closing: false,
        }
    }

    pub fn exchanges(&self) -> Arc<Exchanges> {
        self.exchanges.clone()
    }

    /// Whether the machinery has nothing left to do: what comes next begins a request.
    pub fn is_free(&self) -> bool {
        self.place == Place::Between
            && self.under_way.is_none()
            && self.unread.is_empty()
            && !self.is_flushing
            && !self.is_closing
    }

    /// What was read is read again, by the machinery.
    pub fn gives_again(&mut self, read: Bytes, foreseen: Option<Box<Foreseen>>) {
        (self.unread, self.foreseen) = (read, foreseen);
    }

    /// The machinery is handed what was read.
    fn hand(&mut self, read: &[u8], foreseen: Option<Box<Foreseen>>) {
        self.place = match self.place {
            Place::Between => match heads::end(read) {
                Some(head) => {
                    // It is certain that the next request that is begun is this one, and no other.
                    *self.exchanges.beneath.lock() = Beneath::of(&read[..head], read, foreseen);
                    Place::Handed {
                        begun: self.exchanges.begun.load(Ordering::Relaxed),
                        beyond: (read.len() - head) as u64,
                    }
                }
                None => Place::Lost,
            },
            Place::Handed { begun, beyond } => Place::Handed {
                begun,
                beyond: beyond + read.len() as u64,
            },
            Place::Lost => Place::Lost,
        };
    }

    /// The machinery has nothing left to write.
    fn flushed(&mut self) {
        let Place::Handed { begun, beyond } = self.place else {
            return;
        };
        let exchanges = &self.exchanges;
        let has_begun = exchanges.begun.load(Ordering::Relaxed);
        if has_begun == begun || exchanges.answered.load(Ordering::Relaxed) != has_begun {
            return;
        }
        // Whoever still reads the content has it without the machinery, which hands on each piece as it reads it.
        let content = exchanges.content.load(Ordering::Relaxed);
        self.place = match has_begun == begun + 1 && content == beyond {
            true => Place::Between,
            false => Place::Lost,
        };
    }
}

impl<S: AsyncWrite + Unpin> Lane<S> {
    /// Writes a hit, as much as goes at once; the rest is under way.
    fn write(&mut self, hit: Hit, cx: &mut Context<'_>) -> io::Result<()> {
        self.pulse.is_answered_beneath();
        known::with_head(&hit, |head| {
            let body = hit.body();
            let written = match body.len() <= COPIED {
                true => {
                    head.extend_from_slice(body);
                    Pin::new(&mut self.stream).poll_write(cx, head)
                }
                false => {
                    let both = [IoSlice::new(head), IoSlice::new(body)];
                    Pin::new(&mut self.stream).poll_write_vectored(cx, &both)
                }
            };
            let written = match written {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => 0,
            };
            let body = match body.len() <= COPIED {
                true => Bytes::new(),
                false => body.slice(written.saturating_sub(head.len())..),
            };
            let head = &head[written.min(head.len())..];
            if !head.is_empty() || !body.is_empty() {
                let (head, body) = (
                    Bytes::copy_from_slice(head),
                    body::held_for_its_reader(body),
                );
                self.under_way = Some(UnderWay::Writing { head, body });
            } else if self.peer.tls.is_some() {
                self.under_way = Some(UnderWay::Flushing);
            }
            Ok(())
        })
    }

    /// Goes on with what is under way. `Some`: bytes that are the machinery's after all, and what is known of them.
    fn poll_under_way(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<ToBeRead>>> {
        loop {
            match &mut self.under_way {
                None => return Poll::Ready(Ok(None)),
                Some(UnderWay::LookingUp(_, looking_up)) => {
                    let outcome = ready!(looking_up.as_mut().poll(cx));
                    let Some(UnderWay::LookingUp(head, _)) = self.under_way.take() else {
                        return Poll::Ready(Ok(None));
                    };
                    match outcome {
                        Outcome::Hit(hit) => self.write(hit, cx)?,
                        Outcome::Foreseen(foreseen) => {
                            return Poll::Ready(Ok(Some((head, foreseen))));
                        }
                    }
                }
                Some(UnderWay::Writing { head, body }) => {
                    while head.has_remaining() || body.has_remaining() {
                        let both = [IoSlice::new(head), IoSlice::new(body)];
                        let stream = Pin::new(&mut self.stream);
                        let written = ready!(stream.poll_write_vectored(cx, &both))?;
                        if written == 0 {
                            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                        }
                        let of_head = written.min(head.len());
                        head.advance(of_head);
                        body.advance(written - of_head);
                    }
                    self.under_way = Some(UnderWay::Flushing);
                }
                Some(UnderWay::Flushing) => {
                    ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                    self.under_way = None;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    /// Answers what it can. What it cannot is in `into`, with what is known of it; nothing at all at the end.
    pub fn poll_unanswered(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Box<Foreseen>>>> {
        let before = into.filled().len();
        loop {
            if let Some((head, foreseen)) = ready!(self.poll_under_way(cx))? {
                if into.remaining() < head.len() {
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                }
                into.put_slice(&head);
                return Poll::Ready(Ok(Some(foreseen)));
            }
            ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
            let read = &into.filled()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(None));
            }
            self.exchanges.spoken.store(true, Ordering::Relaxed);
            if self.place != Place::Between {
                return Poll::Ready(Ok(None));
            }
            let known = |proxy: &Arc<Proxy>| proxy.known(read, &self.peer);
            match self.knowing.as_ref().and_then(known) {
                Some(known::Found::Now(Outcome::Hit(hit))) => {
                    self.write(hit, cx)?;
                    into.set_filled(before);
                }
                Some(known::Found::Now(Outcome::Foreseen(foreseen))) => {
                    return Poll::Ready(Ok(Some(foreseen)));
                }
                Some(known::Found::LookingUp(head, looking_up)) => {
                    self.under_way = Some(UnderWay::LookingUp(head, looking_up));
                    into.set_filled(before);
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// While an answer to a request is made elsewhere: whether its client has left. What it has asked meanwhile waits.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.unread.is_empty() {
            return Poll::Pending;
        }
        let mut bytes = [MaybeUninit::uninit(); 1024];
        let mut into = ReadBuf::uninit(&mut bytes);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into)) {
            Ok(()) if into.filled().is_empty() => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(()) => {
                self.unread = Bytes::copy_from_slice(into.filled());
                Poll::Pending
            }
            Err(error) => Poll::Ready(error),
        }
    }

    /// What an answer is written to that is made elsewhere.
    pub fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(&mut self.stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Lane<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let lane = self.get_mut();
        let before = into.filled().len();
        let foreseen = match lane.unread.is_empty() {
            true => ready!(lane.poll_unanswered(cx, into))?,
            false => {
                let length = into.remaining().min(lane.unread.len());
                into.put_slice(&lane.unread.split_to(length));
                lane.pulse.has_received();
                lane.foreseen.take()
            }
        };
        let read = &into.filled()[before..];
        if !read.is_empty() {
            lane.hand(read, foreseen);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lane<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, from)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lane = self.get_mut();
        lane.flushed();
        let flushed = Pin::new(&mut lane.stream).poll_flush(cx);
        lane.is_flushing = flushed.is_pending();
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lane = self.get_mut();
        lane.is_closing = true;
        // Who asked before we were told to end has its answer, if we have it.
        ready!(lane.poll_under_way(cx))?;
        Pin::new(&mut lane.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, from)
    }
}
