//! An upstream's answer as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::Connection;
use super::sender::Sender;
use super::{Slot, Visit};
use crate::body::{Broken, Silence};

/// An answer's content. Holds its slot and its place at the upstream, and gives the connection back at the end.
pub struct UpstreamBody {
    incoming: Incoming,
    silence: Silence,
    connection: Option<Connection>,
    /// That it has broken off, to be said next.
    broken: Option<hyper::Error>,
    visit: Visit,
    _slot: Slot,
}

impl UpstreamBody {
    /// Without a connection there is none to be given back.
    pub(super) fn new(
        incoming: Incoming,
        silence: Silence,
        connection: Option<Connection>,
        visit: Visit,
        slot: Slot,
    ) -> UpstreamBody {
        UpstreamBody {
            incoming,
            silence,
            connection,
            broken: None,
            visit,
            _slot: slot,
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
        if let Some(error) = body.broken.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        loop {
            let next = match &mut body.connection {
                Some(Connection {
                    sender: Sender::Http1(http1),
                    ..
                }) => http1.poll_frame(cx, &mut body.incoming),
                _ => Pin::new(&mut body.incoming).poll_frame(cx),
            };
            return match next {
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
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
