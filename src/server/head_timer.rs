//! The time limit for a request's head, without a timer set and taken back for each request.
//!
//! hyper wants a sleep until the head must be there, and drops it when it is. All sleeps of one connection share one
//! timer, which stands at the deadline of some earlier head: when it goes off too early, it is set anew.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// One connection's.
#[derive(Default)]
pub struct HeadTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

struct Until {
    deadline: Instant,
    timer: Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until {
            deadline,
            timer: self.0.clone(),
        })
    }
}

impl Sleep for Until {}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let mut timer = self.timer.lock();
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // It would go off too late for this one.
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        if timer.deadline() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sleep_lasts_until_its_own_deadline_whatever_was_dropped_before_it() {
        let timer = HeadTimer::default();
        for (ahead, of_which_slept) in [(10, 3), (10, 10), (5, 5), (60, 1), (2, 2)] {
            let started = tokio::time::Instant::now();
            let deadline = started + Duration::from_secs(ahead);
            let sleep = timer.sleep_until(deadline.into_std());
            let patience = Duration::from_secs(of_which_slept);
            let slept = tokio::time::timeout_at(started + patience, sleep).await;
            assert_eq!(slept.is_ok(), ahead == of_which_slept);
            assert!(started.elapsed() >= patience && started.elapsed() < patience * 2);
        }
    }
}
