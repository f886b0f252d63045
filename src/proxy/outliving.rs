//! What goes on when nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Carried on by whoever waits for it, which nearly always is to its end; if that one leaves, it becomes a task of its own. Counted
/// as one of `tasks` from the beginning.
pub struct Outliving<T: Send + 'static> {
    rest: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    counted: TaskTrackerToken,
}

impl<T: Send + 'static> Outliving<T> {
    pub fn new(whole: impl Future<Output = T> + Send + 'static, tasks: &TaskTracker) -> Self {
        Outliving {
            rest: Some(Box::pin(whole)),
            counted: tasks.token(),
        }
    }
}

impl<T: Send + 'static> Future for Outliving<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(rest) = &mut self.rest else {
            return Poll::Pending;
        };
        let done = std::task::ready!(rest.as_mut().poll(cx));
        self.rest = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for Outliving<T> {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let counted = self.counted.clone();
            runtime.spawn(async move {
                drop(rest.await);
                drop(counted);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn who_waits_to_the_end_is_told_and_nothing_is_left() {
        let tasks = TaskTracker::new();
        assert_eq!(Outliving::new(async { 7 }, &tasks).await, 7);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn it_is_done_though_nobody_waits_any_more_and_is_counted_until_then() {
        let tasks = TaskTracker::new();
        let ((go_on, gone_on), (tell, told)) = (oneshot::channel(), oneshot::channel());
        let whole = async move {
            let _: Result<(), _> = gone_on.await;
            let _ = tell.send(7);
        };
        let mut outliving = Outliving::new(whole, &tasks);
        assert!(futures_util::poll!(&mut outliving).is_pending());
        drop(outliving);
        assert_eq!(tasks.len(), 1);
        go_on.send(()).unwrap();
        assert_eq!(told.await, Ok(7));
        tasks.close();
        tasks.wait().await;
    }
}
