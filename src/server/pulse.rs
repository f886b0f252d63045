//! What is seen of one connection from below HTTP: whether bytes have come since it began to wait for a request, and
//! whether bytes wait to be taken. A reader that takes nothing is cut off.
//!
//! All of it is one allocation for each connection. A request costs a flag that is set, and no timer.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tracing::debug;

use super::places::Counts;
use crate::body::Silence;

/// A reader that takes less than this in `write_idle` takes nothing.
const LEAST: usize = 16 * 1024;

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a request's head to arrive, from its first byte on; and for the first one, from the beginning.
    pub header: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// For a reader to take more of what waits for it.
    pub write_idle: Duration,
}

#[derive(Debug)]
pub struct Pulse {
    pub patience: Patience,
    /// A head has been waited for before.
    pub(super) had_a_request: AtomicBool,
    /// Bytes have come since the connection began to wait for a head.
    pub(super) received: AtomicBool,
    /// A request was answered, and another may be waited for, without HTTP's machinery having seen it.
    pub(super) beneath: AtomicBool,
    /// Bytes wait for the reader to take them.
    pub(super) unsent: AtomicBool,
    /// Its place is wanted, if it does nothing.
    pub(super) is_to_leave: AtomicBool,
    /// What its reader does not take is given up.
    is_cut: AtomicBool,
    pub(super) waiting: Mutex<Waiting>,
    counts: Arc<Counts>,
}

/// The wait for a head.
#[derive(Debug)]
pub(super) struct Waiting {
    pub timer: Option<Pin<Box<Sleep>>>,
    pub since: Instant,
    /// Since when its reader has taken nothing.
    stalled: Option<Instant>,
    /// The connection's task.
    pub task: Option<Waker>,
    /// When a head must be there that had begun, or was to begin, before the machinery was.
    pub carried: Option<Instant>,
}

impl Pulse {
    pub fn new(patience: Patience, counts: Arc<Counts>) -> Arc<Pulse> {
        Arc::new(Pulse {
            patience,
            had_a_request: AtomicBool::new(false),
            received: AtomicBool::new(false),
            beneath: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
            is_to_leave: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            waiting: Mutex::new(Waiting {
                timer: None,
                since: Instant::now(),
                stalled: None,
                task: None,
                carried: None,
            }),
            counts,
        })
    }

    /// Since when nothing at all has come of a request, if that is how it is.
    pub fn idle_since(&self) -> Option<Instant> {
        let is_idle = !self.received.load(Ordering::Relaxed)
            && !self.unsent.load(Ordering::Relaxed)
            && !self.is_to_leave.load(Ordering::Relaxed);
        is_idle.then(|| self.waiting.lock().since)
    }

    pub fn stalled_since(&self) -> Option<Instant> {
        let is_stalled =
            self.unsent.load(Ordering::Relaxed) && !self.is_cut.load(Ordering::Relaxed);
        is_stalled.then(|| self.waiting.lock().stalled).flatten()
    }

    /// Gives up what its reader does not take.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        if let Some(task) = &self.waiting.lock().task {
            task.wake_by_ref();
        }
    }

    /// The machinery still waits for the head that it began to wait for before this request.
    pub fn is_answered_beneath(&self) {
        self.beneath.store(true, Ordering::Relaxed);
        self.received.store(false, Ordering::Relaxed);
    }

    /// Something of a head was received before.
    pub fn has_received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    fn stalls(&self, task: &Waker) {
        self.unsent.store(true, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        waiting.stalled = Some(Instant::now());
        waiting.task.get_or_insert_with(|| task.clone());
    }

    /// Asks it to close, unless a request has begun to arrive.
    pub fn leave(&self) {
        self.is_to_leave.store(true, Ordering::Relaxed);
        if let Some(task) = &self.waiting.lock().task {
            task.wake_by_ref();
        }
    }
}

/// A client's stream, watched.
pub struct Watched<S> {
    stream: S,
    pulse: Arc<Pulse>,
    silence: Silence,
    /// Taken since the reader was seen to stall; none if it does not.
    taken: Option<usize>,
}

impl<S: AsFd> Watched<S> {
    pub fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Watched {
            stream,
            silence: Silence::new(pulse.patience.write_idle),
            pulse,
            taken: None,
        }
    }

    /// Its end will be a reset, and nothing that the kernel still holds is sent.
    pub fn resets(&self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    pub fn inner(&self) -> &S {
        &self.stream
    }

    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// So much of what was offered has been written, or none of it can be.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        offered: impl Fn() -> usize,
    ) -> Poll<io::Result<usize>> {
        match (&written, self.taken) {
            (Poll::Ready(Ok(_)), None) => {}
            (Poll::Ready(Ok(length)), Some(taken)) => {
                let taken = taken + length;
                self.taken = match *length >= offered() {
                    true => {
                        self.pulse.unsent.store(false, Ordering::Relaxed);
                        None
                    }
                    false => Some(taken % LEAST),
                };
                if self.taken.is_none() || taken >= LEAST {
                    self.silence.broken();
                }
            }
            (Poll::Ready(Err(_)), _) => {}
            (Poll::Pending, _) => {
                if self.taken.is_none() {
                    self.taken = Some(0);
                    self.pulse.stalls(cx.waker());
                }
                let is_over = self.silence.poll_over(cx).is_ready();
                if is_over || self.pulse.is_cut.load(Ordering::Relaxed) {
                    self.resets();
                    self.pulse
                        .counts
                        .readers_cut
                        .fetch_add(1, Ordering::Relaxed);
                    debug!("a client that takes nothing of its answer is cut off");
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if read.is_ready() {
            self.pulse.received.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + AsFd + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.written(cx, written, || from.len())
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.written(cx, written, || from.iter().map(|slice| slice.len()).sum())
    }
}
