//! An upstream's answer as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Connection;
use super::plain;
use super::sender::{Http1, Sender};
use super::{Slot, Visit};
use crate::body::{Broken, Silence, is_cut};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// By whom an answer's content is read.
pub(super) enum Content {
    Plain(plain::Content),
    Hyper(Incoming),
    /// By a stream of HTTP/2. (A RST_STREAM with NO_ERROR may stand behind a whole answer, RFC 9113 §8.1: its end is seen all
    /// the same.)
    Stream(Incoming),
}

/// What is held until an answer is at its end.
#[expect(dead_code, reason = "they are held for what comes of their drop")]
pub(super) enum Held {
    Slot(Slot),
    /// One of the places of event streams.
    Place(OwnedSemaphorePermit),
}

/// An answer's content. Holds its slot and its place at the upstream, and gives the connection back at the end.
pub struct UpstreamBody {
    content: Content,
    silence: Silence,
    connection: Option<Connection>,
    /// That it has broken off, to be said next.
    broken: Option<BoxError>,
    visit: Visit,
    _held: Held,
}

impl UpstreamBody {
    /// Without a connection there is none to be given back.
    pub(super) fn new(
        content: Content,
        silence: Silence,
        connection: Option<Connection>,
        visit: Visit,
        held: Held,
    ) -> UpstreamBody {
        UpstreamBody {
            content,
            silence,
            connection,
            broken: None,
            visit,
            _held: held,
        }
    }

    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.visit.give_back(connection);
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // By HTTP/2 a frame with nothing in it may be left to end it.
        if self.content.is_at_its_end() || self.content.size_hint().exact() == Some(0) {
            self.give_back();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        if let Some(error) = body.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            return match body.content.poll_frame(cx, body.connection.as_mut()) {
                Poll::Ready(Some(Ok(frame))) => {
                    body.silence.broken();
                    match frame.is_data() {
                        true => Poll::Ready(Some(Ok(frame))),
                        // Trailers end here.
                        false => continue,
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    body.connection = None;
                    body.broken = Some(error);
                    // In the next turn: what came before goes out first, or an answer that breaks off would look like none at all.
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Ready(None) => {
                    body.give_back();
                    Poll::Ready(None)
                }
                Poll::Pending => match body.silence.poll_over(cx) {
                    Poll::Ready(()) => {
                        body.connection = None;
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
        self.content.is_at_its_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

impl Content {
    /// The next piece of it, from the connection that brings it if it is one of HTTP/1.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        connection: Option<&mut Connection>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let http1 = connection.and_then(|connection| match &mut connection.sender {
            Sender::Http1(http1) => Some(http1),
            Sender::Http2(..) => None,
        });
        match (self, http1) {
            (Content::Plain(content), http1) => {
                let plain = http1.and_then(|http1| match http1 {
                    Http1::Plain(plain) => Some(plain),
                    Http1::Hyper(_) => None,
                });
                let piece = content.poll_piece(cx, plain);
                piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece?))))
            }
            (Content::Hyper(incoming), Some(Http1::Hyper(driven))) => {
                driven.poll_frame(cx, incoming).map_err(BoxError::from)
            }
            (Content::Hyper(incoming), _) => {
                let frame = Pin::new(incoming).poll_frame(cx);
                frame.map_err(BoxError::from)
            }
            (Content::Stream(incoming), _) => {
                // Not by its own error, whose code hyper would tell a client of HTTP/2 of the client's own stream.
                let cut = || Broken("the upstream's stream was reset in the middle of its answer");
                match Pin::new(&mut *incoming).poll_frame(cx) {
                    Poll::Ready(None) if is_cut(incoming) => {
                        Poll::Ready(Some(Err(Box::new(cut()))))
                    }
                    frame => frame.map_err(|_| cut().into()),
                }
            }
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Content::Plain(content) => SizeHint::with_exact(content.left()),
            Content::Hyper(incoming) | Content::Stream(incoming) => incoming.size_hint(),
        }
    }

    pub fn is_at_its_end(&self) -> bool {
        match self {
            Content::Plain(content) => content.is_at_its_end(),
            Content::Hyper(incoming) | Content::Stream(incoming) => incoming.is_end_stream(),
        }
    }
}
