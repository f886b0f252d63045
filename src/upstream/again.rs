//! A connection on which part of an exchange has been, for hyper to go on with as if nothing had: it writes the request once
//! more, which goes nowhere, and reads once more what has been read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct Again<S> {
    stream: S,
    /// To be read once more.
    read: Bytes,
    /// To be written once more, by the same bytes or not at all.
    written: Bytes,
    /// Who would read. An answer to what hyper has not written yet would be none to it, so that comes first.
    waiting: Option<Waker>,
}

impl<S> Again<S> {
    pub fn new(stream: S, written: Bytes, read: Bytes) -> Again<S> {
        Again {
            stream,
            read,
            written,
            waiting: None,
        }
    }

    /// Takes back what has been written before.
    fn swallow(&mut self, from: &[u8]) -> io::Result<usize> {
        let length = from.len().min(self.written.len());
        if from[..length] != self.written[..length] {
            let why = "another request than the one that was written";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.written.advance(length);
        if self.written.is_empty()
            && let Some(waiting) = self.waiting.take()
        {
            waiting.wake();
        }
        Ok(length)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Again<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.written.is_empty() {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !self.read.is_empty() {
            let length = self.read.len().min(into.remaining());
            into.put_slice(&self.read.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Again<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.written.is_empty() {
            true => Pin::new(&mut self.stream).poll_write(cx, from),
            false => Poll::Ready(self.swallow(from)),
        }
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
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.written.is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        }
        let first = from.iter().find(|piece| !piece.is_empty());
        Poll::Ready(self.swallow(first.map_or(&[], |piece| &piece[..])))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_has_been_written_goes_nowhere_and_what_has_been_read_comes_again_after_it() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut again = Again::new(ours, Bytes::from("asked"), Bytes::from("ans"));
        theirs.write_all(b"wer").await.unwrap();
        assert!(again.read_u8().now_or_never().is_none());
        let pieces = [IoSlice::new(b""), IoSlice::new(b"ask")];
        assert_eq!(again.write_vectored(&pieces).await.unwrap(), 3);
        assert!(again.read_u8().now_or_never().is_none());
        again.write_all(b"ed more").await.unwrap();
        let mut read = [0; 6];
        again.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"answer");
        let mut came = [0; 5];
        theirs.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b" more");
    }

    #[tokio::test]
    async fn who_waits_to_read_is_woken_when_all_has_been_written_again() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let again = Again::new(ours, Bytes::from("asked"), Bytes::from("a"));
        let (mut read, mut write) = tokio::io::split(again);
        let reading = tokio::spawn(async move { read.read_u8().await.unwrap() });
        tokio::task::yield_now().await;
        write.write_all(b"asked").await.unwrap();
        assert_eq!(reading.await.unwrap(), b'a');
    }

    #[tokio::test]
    async fn another_request_is_not_taken_for_the_one_that_was_written() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut again = Again::new(ours, Bytes::from("asked"), Bytes::new());
        assert!(again.write_all(b"asker").await.is_err());
    }
}
