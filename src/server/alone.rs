//! A client's connection between two requests, without HTTP's machinery: that holds buffers and room for a request, which an
//! idle connection needs none of. It is made for what the lane does not answer itself, and let go of when it has nothing left.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head_timer::Until;
use super::lane::Lane;
use crate::proxy::known::Foreseen;

/// Bytes that are read at once.
const READ: usize = 8 * 1024;

/// What a connection that was left alone has read.
pub enum Alone {
    /// What the lane does not answer itself, and what is known of it.
    Spoken(Bytes, Option<Box<Foreseen>>),
    /// The client has closed it.
    Closed,
    /// It has said nothing for as long as it may, or is to make room.
    Silent,
}

/// Answers what it can, until there is something that it cannot.
pub fn poll_alone<S: AsyncRead + AsyncWrite + Unpin>(
    lane: &mut Lane<S>,
    patience: &mut Until,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Alone>> {
    // Nothing stays in it from one poll to the next.
    thread_local!(static READ_INTO: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    let read = READ_INTO.with_borrow_mut(|bytes| {
        bytes.resize(READ, 0);
        let mut into = ReadBuf::new(bytes);
        let read = lane.poll_unanswered(cx, &mut into);
        read.map_ok(|foreseen| (Bytes::copy_from_slice(into.filled()), foreseen))
    });
    match read {
        Poll::Ready(Ok((read, _))) if read.is_empty() => Poll::Ready(Ok(Alone::Closed)),
        Poll::Ready(Ok((read, foreseen))) => Poll::Ready(Ok(Alone::Spoken(read, foreseen))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Pin::new(patience).poll(cx).map(|()| Ok(Alone::Silent)),
    }
}

/// The lane as the machinery has it: it can be let go of without the connection.
pub struct Lent<S>(Arc<Mutex<Lane<S>>>);

impl<S> Lent<S> {
    pub fn of(lane: &Arc<Mutex<Lane<S>>>) -> Lent<S> {
        Lent(lane.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, from)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, from)
    }
}
