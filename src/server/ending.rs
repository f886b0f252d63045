//! The end of a connection when the process ends: what is under way on it is finished, and nothing that may be on its way
//! to us is lost.
//!
//! hyper closes a connection on which nothing has come yet as soon as it is told to end. But who has just connected has
//! most likely sent a request, which we have not read: it, and a write among them, would fail. So a connection on which
//! nothing has come yet is given a moment for its first request.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::server::graceful::Watcher;
use tokio::sync::watch;

/// How long a first request may be on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

/// Between two looks whether it has come.
const LOOK: Duration = Duration::from_millis(10);

/// How one connection learns of the end, and who waits for it.
pub struct Ending {
    /// Until it is dropped the connection is waited for.
    _watcher: Watcher,
    end: watch::Receiver<bool>,
}

impl Ending {
    pub fn new(watcher: Watcher, end: watch::Receiver<bool>) -> Ending {
        Ending {
            _watcher: watcher,
            end,
        }
    }

    /// Until the machinery is done with the connection; `None`: it has nothing left to do, and can be let go of, as `is_free` says.
    /// `has_spoken`: whether anything has come from the client.
    pub async fn watch_http1<I, B, S>(
        &mut self,
        connection: &mut http1::UpgradeableConnection<I, S>,
        has_spoken: impl Fn() -> bool,
        is_free: impl Fn() -> bool,
    ) -> Option<hyper::Result<()>>
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
        B: Body + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        http1::UpgradeableConnection<I, S>: Unpin,
    {
        let until_free = poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if is_free() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            biased;
            done = until_free => return done,
            _ = self.end.wait_for(|end| *end) => {}
        }
        if let Some(done) = until_first_request(&mut *connection, has_spoken).await {
            return Some(done);
        }
        Pin::new(&mut *connection).graceful_shutdown();
        Some(connection.await)
    }

    /// The same without the machinery. `None`: the process ends, and nothing is under way. What is being answered is waited for.
    pub async fn watch_alone<T>(
        &mut self,
        mut alone: impl Future<Output = T> + Unpin,
        has_spoken: impl Fn() -> bool,
        is_answering: impl Fn() -> bool,
    ) -> Option<T> {
        tokio::select! {
            biased;
            done = &mut alone => return Some(done),
            _ = self.end.wait_for(|end| *end) => {}
        }
        if let Some(done) = until_first_request(&mut alone, has_spoken).await {
            return Some(done);
        }
        match is_answering() {
            true => Some(alone.await),
            false => None,
        }
    }

    /// Whoever answers looks here whether more may be asked.
    pub fn end(&self) -> watch::Receiver<bool> {
        self.end.clone()
    }
}

/// Gives the client a moment for its first request, if it has said nothing yet. What the connection came to, if that was its end.
async fn until_first_request<C: Future + Unpin>(
    mut connection: C,
    has_spoken: impl Fn() -> bool,
) -> Option<C::Output> {
    let until = tokio::time::Instant::now() + FIRST_REQUEST;
    while !has_spoken() && tokio::time::Instant::now() < until {
        if let Ok(done) = tokio::time::timeout(LOOK, &mut connection).await {
            return Some(done);
        }
    }
    None
}
