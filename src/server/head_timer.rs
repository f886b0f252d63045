//! The time limits for a request's head to arrive, and between two requests, without a timer set and taken back for
//! each request.
//!
//! hyper wants a sleep until the head must be there, from the end of the request before, and drops it when it is. All sleeps
//! of one connection share one timer, which stands at the deadline of some earlier head: when it goes off too early, it is set
//! anew. A head's own limit begins with its first byte; until then the connection is idle.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use super::pulse::Pulse;

/// One connection's.
pub struct HeadTimer(Arc<Pulse>);

impl HeadTimer {
    pub fn new(pulse: Arc<Pulse>) -> Self {
        HeadTimer(pulse)
    }
}

/// The wait for one head.
pub struct Until {
    since: Instant,
    deadline: Instant,
    /// Nothing of the head has come.
    idle: bool,
    pulse: Arc<Pulse>,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(self.until(deadline))
    }
}

impl HeadTimer {
    /// The same, for who waits without the machinery.
    pub fn begins_to_wait(&self) -> Until {
        self.until(Instant::now() + self.0.patience.header)
    }

    fn until(&self, deadline: Instant) -> Until {
        let (pulse, patience) = (&self.0, self.0.patience);
        let since = deadline - patience.header;
        // The first head must come at once: who only opens connections waits for nothing.
        let idle = pulse.had_a_request.swap(true, Ordering::Relaxed);
        pulse.received.store(false, Ordering::Relaxed);
        pulse.beneath.store(false, Ordering::Relaxed);
        let carried = pulse.waiting.lock().carried.take();
        Until {
            since,
            deadline: match (carried, idle) {
                (Some(carried), _) => carried,
                (None, true) => since + patience.keep_alive,
                (None, false) => deadline,
            },
            idle: idle && carried.is_none(),
            pulse: pulse.clone(),
        }
    }
}

impl Until {
    /// The machinery goes on waiting for this head.
    pub fn is_carried_on(&self) {
        let is_idle = self.idle || self.pulse.beneath.load(Ordering::Relaxed);
        self.pulse.waiting.lock().carried = (!is_idle).then_some(self.deadline);
    }
}

impl Sleep for Until {}

impl Future for Until {
    type Output = ();

    /// Polled after a read that gave nothing, or not all of a head.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let pulse = &this.pulse;
        if pulse.beneath.load(Ordering::Relaxed) {
            pulse.beneath.store(false, Ordering::Relaxed);
            this.since = Instant::now();
            this.deadline = this.since + pulse.patience.keep_alive;
            this.idle = true;
        }
        let received = pulse.received.load(Ordering::Relaxed);
        if this.idle && received {
            this.idle = false;
            this.deadline = Instant::now() + pulse.patience.header;
        }
        let mut waiting = pulse.waiting.lock();
        waiting.since = this.since;
        if !waiting
            .task
            .as_ref()
            .is_some_and(|task| task.will_wake(cx.waker()))
        {
            waiting.task = Some(cx.waker().clone());
        }
        if !received && pulse.is_to_leave.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        loop {
            let deadline = tokio::time::Instant::from_std(this.deadline);
            let timer = waiting
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // It would go off too late for this one.
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() < deadline {
                timer.as_mut().reset(deadline);
            } else if this.idle && pulse.unsent.load(Ordering::Relaxed) {
                // It still reads the answer before: that has its own limit.
                this.deadline = Instant::now() + pulse.patience.keep_alive;
            } else {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pulse::Patience;

    const HEADER: Duration = Duration::from_secs(10);
    const KEEP_ALIVE: Duration = Duration::from_secs(60);

    fn timer() -> (HeadTimer, Arc<Pulse>) {
        let patience = Patience {
            header: HEADER,
            keep_alive: KEEP_ALIVE,
            write_idle: HEADER,
        };
        let pulse = Pulse::new(patience, Arc::default());
        (HeadTimer::new(pulse.clone()), pulse)
    }

    /// As hyper begins to wait for a head, by tokio's clock, which stands still here.
    fn waits(timer: &HeadTimer) -> Pin<Box<dyn Sleep>> {
        let now = tokio::time::Instant::now().into_std();
        timer.sleep_until(now + HEADER)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_its_time_from_the_beginning_and_a_later_one_the_time_between_two() {
        let (timer, _) = timer();
        for lasts in [HEADER, KEEP_ALIVE, KEEP_ALIVE] {
            let started = tokio::time::Instant::now();
            waits(&timer).await;
            assert!(started.elapsed() >= lasts && started.elapsed() < lasts + HEADER);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_lasts_until_its_own_end_whatever_was_dropped_before_it() {
        let (timer, _) = timer();
        drop(waits(&timer));
        for slept in [3, 59, 1, 60, 2] {
            let started = tokio::time::Instant::now();
            let patience = Duration::from_secs(slept);
            let over = tokio::time::timeout(patience, waits(&timer)).await;
            assert_eq!(over.is_ok(), patience == KEEP_ALIVE);
            assert!(started.elapsed() >= patience && started.elapsed() < patience * 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_no_more_time_for_having_been_waited_for_without_the_machinery() {
        let (timer, _) = timer();
        let now = || tokio::time::Instant::now().into_std();
        let started = tokio::time::Instant::now();
        let alone = timer.until(now() + HEADER);
        tokio::time::sleep(HEADER / 2).await;
        alone.is_carried_on();
        waits(&timer).await;
        assert!(started.elapsed() >= HEADER && started.elapsed() < HEADER + HEADER / 4);
        // Once one was answered, the machinery waits for the next as it always has.
        let started = tokio::time::Instant::now();
        timer.until(now() + HEADER).is_carried_on();
        waits(&timer).await;
        assert!(started.elapsed() >= KEEP_ALIVE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_idle_leaves_when_asked_and_who_has_begun_a_head_does_not() {
        let (timer, pulse) = timer();
        let mut waits = waits(&timer);
        let patience = Duration::from_secs(1);
        assert!(tokio::time::timeout(patience, &mut waits).await.is_err());
        pulse.received.store(true, Ordering::Relaxed);
        pulse.leave();
        assert!(tokio::time::timeout(patience, &mut waits).await.is_err());
        pulse.received.store(false, Ordering::Relaxed);
        assert!(tokio::time::timeout(patience, &mut waits).await.is_ok());
    }
}
