//! Interim answers (1xx) on their way from the upstream's connection to the client's: before the final answer or not
//! at all. RFC 9110 §15.2, RFC 8297.
//!
//! hyper's server writes none, so they are written beneath it: it flushes its stream whenever it has been polled and
//! nothing of its own waits to be written, and then what waits here goes out first (`server::plain` writes its own). A final answer is held back until
//! that is done, and ends the turn of its request: whatever comes later is dropped.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::message::{fields, heads};

/// Bytes of interim answers that one request may have waiting; what is beyond is dropped.
const MOST: usize = 16 * 1024;

/// One client connection's place for interim answers.
#[derive(Debug, Default, Clone)]
pub struct Interim(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether anything waits: all that an answer without any looks at.
    waits: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Which request of the connection may have interim answers.
    turn: u64,
    waiting: Vec<u8>,
    written: usize,
    /// The connection's task.
    task: Option<Waker>,
}

/// The right of one request to send interim answers, for as long as it has not been answered.
#[derive(Debug, Clone)]
pub struct Turn {
    interim: Interim,
    number: u64,
}

impl Interim {
    /// The turn of the request that is read now.
    pub fn turn(&self) -> Turn {
        Turn {
            interim: self.clone(),
            number: self.0.state.lock().turn,
        }
    }

    /// The final answer, once all interim ones that came before it are written.
    pub fn before<Answer: Future>(self, answer: Answer) -> Before<Answer> {
        Before {
            interim: self,
            answer,
            answered: None,
        }
    }

    /// Whether anything waits to be written.
    pub fn waits(&self) -> bool {
        self.0.waits.load(Ordering::Acquire)
    }

    /// Writes what waits, and wakes who holds an answer back for it.
    pub fn poll_write(
        &self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.state.lock();
        while state.written < state.waiting.len() {
            let rest = &state.waiting[state.written..];
            match ready!(stream.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => state.written += written,
            }
        }
        (state.waiting, state.written) = (Vec::new(), 0);
        self.0.waits.store(false, Ordering::Release);
        if let Some(task) = state.task.take() {
            task.wake();
        }
        Poll::Ready(Ok(()))
    }
}

pin_project! {
    /// A final answer on its way. By hand, for an `async fn` would hold room for the answer's future twice, and every hit
    /// would move both.
    pub struct Before<Answer: Future> {
        interim: Interim,
        #[pin]
        answer: Answer,
        answered: Option<Answer::Output>,
    }
}

impl<Answer: Future> Future for Before<Answer> {
    type Output = Answer::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer::Output> {
        let this = self.project();
        if this.answered.is_none() {
            match this.answer.poll(cx) {
                Poll::Ready(answer) => *this.answered = Some(answer),
                Poll::Pending => {
                    this.interim.0.state.lock().task = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        let mut state = this.interim.0.state.lock();
        if !state.waiting.is_empty() {
            state.task = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.turn += 1;
        drop(state);
        match this.answered.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl Turn {
    /// Sends one, unless the request has been answered. 100 and 101 are of the hop.
    pub fn send(&self, status: StatusCode, fields: &HeaderMap) {
        if matches!(status.as_u16(), 100 | 101) {
            return;
        }
        let message = message(status, fields);
        let mut state = self.interim.0.state.lock();
        if state.turn != self.number || state.waiting.len() + message.len() > MOST {
            return;
        }
        state.waiting.extend_from_slice(&message);
        self.interim.0.waits.store(true, Ordering::Release);
        if let Some(task) = &state.task {
            task.wake_by_ref();
        }
    }
}

fn message(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut fields = fields.clone();
    fields::strip_hop_by_hop(&mut fields);
    // RFC 9110 §8.6: it has no content, and who believed that it has would look for the final answer behind that.
    fields.remove(header::CONTENT_LENGTH);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut message = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    heads::write_fields(&fields, &mut message);
    message.extend_from_slice(b"\r\n");
    message
}

/// A client's stream, with what waits written whenever the server flushes.
pub struct WithInterim<S> {
    stream: S,
    interim: Interim,
}

impl<S> WithInterim<S> {
    pub fn new(stream: S, interim: Interim) -> Self {
        WithInterim { stream, interim }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithInterim<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithInterim<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let WithInterim { stream, interim } = self.get_mut();
        if interim.waits() {
            ready!(interim.poll_write(Pin::new(stream), cx))?;
        }
        Pin::new(stream).poll_flush(cx)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early(link: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert("link", link.parse().unwrap());
        fields.insert("connection", "close".parse().unwrap());
        fields
    }

    #[test]
    fn an_interim_answer_is_written_end_to_end() {
        let message = message(StatusCode::EARLY_HINTS, &early("</a>"));
        assert_eq!(message, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    }

    #[tokio::test]
    async fn one_that_comes_after_the_final_answer_is_dropped() {
        let interim = Interim::default();
        let (first, other) = (interim.turn(), interim.turn());
        assert_eq!(interim.clone().before(async { 1 }).await, 1);
        first.send(StatusCode::EARLY_HINTS, &early("</late>"));
        other.send(StatusCode::PROCESSING, &HeaderMap::new());
        assert!(interim.0.state.lock().waiting.is_empty());
        let turn = interim.turn();
        turn.send(StatusCode::CONTINUE, &HeaderMap::new());
        assert!(interim.0.state.lock().waiting.is_empty(), "of the hop");
        turn.send(StatusCode::PROCESSING, &HeaderMap::new());
        assert!(!interim.0.state.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_final_answer_waits_until_those_before_it_are_written() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (client, server) = tokio::io::duplex(64);
        let interim = Interim::default();
        let mut stream = WithInterim::new(server, interim.clone());
        interim
            .turn()
            .send(StatusCode::EARLY_HINTS, &early(&"x".repeat(200)));
        let own = interim.clone();
        let answered = tokio::spawn(async move { own.before(async {}).await });
        tokio::task::yield_now().await;
        assert!(!answered.is_finished());
        let reading = tokio::spawn(async move {
            let (mut client, mut text) = (client, String::new());
            client.read_to_string(&mut text).await.unwrap();
            text
        });
        stream.flush().await.unwrap();
        answered.await.unwrap();
        drop(stream);
        assert!(reading.await.unwrap().ends_with("xx\r\n\r\n"));
    }

    #[test]
    fn what_waits_is_bounded() {
        let interim = Interim::default();
        let turn = interim.turn();
        for _ in 0..1_000 {
            turn.send(StatusCode::EARLY_HINTS, &early(&"x".repeat(1_000)));
        }
        assert!(interim.0.state.lock().waiting.len() <= MOST);
    }
}
