//! Which write may begin now, and which waits a moment: a flood of refused writes must not keep a family uncached.
//! Decisions are values and `now` is an argument; `Turnstile`, at the end, is the shell that waits.
//!
//! While a write is held, nothing that it touches is served from the store. A write that the upstream refuses changes
//! nothing, but that is known only afterwards: some dozens of clients that post such writes in a loop hold a family
//! without a gap, and every read of it goes upstream.
//!
//! A **turn** of a state begins with the first write that enters while none is under way, and ends with its last.
//! Once most of what it came to was refused, nobody else enters it. After such a turn the state **rests**, twice as
//! long as the turn lasted, and reads have it for themselves. So a write waits only where most of those before it were
//! refused, and never longer than `PATIENCE`. Writes that are not refused, and one that comes alone, do not wait.
//!
//! A write whose fate is unknown (an upload that breaks off, a 503) is not one of those that were refused: it leaves what it touches
//! held until it can come to pass no more, so a rest after it would be no reader's, and would slow the writes of an API that restarts.
//!
//! Nothing here is needed for coherence: a write that entered too early would hold all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::{Outcome, StateKey};

/// Longer than this no write waits, whatever others do.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The longest rest: with a turn of three times as long before it, a write still waits less than `PATIENCE`.
pub const LONGEST_REST: Duration = Duration::from_millis(250);

/// States of which something is remembered before those that are at rest no more are forgotten.
const REMEMBERED: usize = 1024;

/// What a write is told that would like to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It has entered, and must leave.
    Entered,
    /// It asks again then, or as soon as a turn that it waits for keeps nobody any more.
    WaitUntil(Instant),
}

/// The turns of all states of which there is something to remember.
#[derive(Default)]
pub struct Turns {
    states: HashMap<StateKey, Turn, RandomState>,
    /// How many states it takes before some are forgotten.
    forget_at: usize,
}

/// The turn that is under way, or the last one.
#[derive(Debug)]
struct Turn {
    began: Instant,
    under_way: usize,
    refused: usize,
    others: usize,
    rests_until: Instant,
    /// Wakes those whom it keeps, once it does no more, and nobody who waits for another: they may be thousands. Made by the
    /// first of them.
    keeps: Option<Arc<Notify>>,
}

impl Turns {
    /// A write that has waited since `since` would like to begin. It enters the turns of all its states, or of none.
    pub fn ask(&mut self, states: &[StateKey], since: Instant, now: Instant) -> Entry {
        let at_the_latest = since + PATIENCE;
        let wait = states
            .iter()
            .filter_map(|state| self.states.get(state)?.wait(at_the_latest, now))
            .max();
        match wait {
            Some(until) if now < at_the_latest => Entry::WaitUntil(until.min(at_the_latest)),
            _ => {
                self.enter(states, now);
                Entry::Entered
            }
        }
    }

    /// When the turn that keeps a write from beginning does so no more, if it is not a rest alone.
    fn end(&mut self, states: &[StateKey]) -> Option<OwnedNotified> {
        let state = states
            .iter()
            .find(|state| self.states.get(state).is_some_and(Turn::keeps_others))?;
        let turn = self.states.get_mut(state)?;
        Some(turn.keeps.get_or_insert_default().clone().notified_owned())
    }

    /// A write that had entered is over.
    pub fn leave(&mut self, states: &[StateKey], outcome: Outcome, now: Instant) {
        for state in states {
            let Some(turn) = self.states.get_mut(state) else {
                continue;
            };
            turn.leave(outcome, now);
            if !turn.keeps_others()
                && let Some(waiting) = turn.keeps.take()
            {
                waiting.notify_waiters();
            }
            if turn.under_way == 0 && !turn.is_remembered(now) {
                self.states.remove(state);
            }
        }
    }

    fn enter(&mut self, states: &[StateKey], now: Instant) {
        if self.states.len() >= self.forget_at.max(REMEMBERED) {
            self.states.retain(|_, turn| turn.is_remembered(now));
            self.forget_at = self.states.len() * 2;
        }
        for state in states {
            let turn = self
                .states
                .entry(state.clone())
                .or_insert_with(|| Turn::begun(now));
            if turn.under_way == 0 {
                *turn = Turn::begun(now);
            }
            turn.under_way += 1;
        }
    }
}

impl Turn {
    fn begun(now: Instant) -> Turn {
        Turn {
            began: now,
            under_way: 0,
            refused: 0,
            others: 0,
            rests_until: now,
            keeps: None,
        }
    }

    /// Until when a newcomer waits, if it does. The end of a turn cannot be foreseen: its waiters are woken.
    fn wait(&self, at_the_latest: Instant, now: Instant) -> Option<Instant> {
        match self.under_way {
            0 => (now < self.rests_until).then_some(self.rests_until),
            _ => self.keeps_others().then_some(at_the_latest),
        }
    }

    fn leave(&mut self, outcome: Outcome, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        match outcome {
            Outcome::Unchanged => self.refused += 1,
            Outcome::Changed | Outcome::Ambiguous => self.others += 1,
        }
        if self.under_way == 0 && self.was_mostly_refused() {
            self.rests_until = now + ((now - self.began) * 2).min(LONGEST_REST);
        }
    }

    /// Most, and not all: one write that succeeds among a thousand that do not is no leave for all of them.
    fn was_mostly_refused(&self) -> bool {
        self.refused > self.others
    }

    /// Until it ends, or more of its writes have come to something.
    fn keeps_others(&self) -> bool {
        self.under_way > 0 && self.was_mostly_refused()
    }

    fn is_remembered(&self, now: Instant) -> bool {
        self.under_way > 0 || now < self.rests_until
    }
}

/// The turns of this instance; each instance has its own.
#[derive(Default)]
pub struct Turnstile {
    turns: Mutex<Turns>,
}

/// A write that has entered. Dropped, it leaves.
pub struct Entered {
    turnstile: Arc<Turnstile>,
    states: Vec<StateKey>,
    outcome: Outcome,
}

impl Turnstile {
    /// Waits for this write's turn. Whoever gives up waiting has left nothing behind.
    pub async fn enter(self: &Arc<Self>, states: &[StateKey]) -> Entered {
        let since = Instant::now();
        loop {
            let (until, end) = {
                let mut turns = self.turns.lock();
                match turns.ask(states, since, Instant::now()) {
                    Entry::Entered => break,
                    // Both at once, or a turn that ends in between would wake nobody.
                    Entry::WaitUntil(until) => (until, turns.end(states)),
                }
            };
            match end {
                Some(end) => drop(tokio::time::timeout_at(until, end).await),
                None => tokio::time::sleep_until(until).await,
            }
        }
        Entered {
            turnstile: self.clone(),
            states: states.to_vec(),
            // A write that came to nothing changed nothing.
            outcome: Outcome::Unchanged,
        }
    }
}

impl Entered {
    pub fn came_to(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut turns = self.turnstile.turns.lock();
        turns.leave(&self.states, self.outcome, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    const MS: Duration = Duration::from_millis(1);

    fn states(names: &[&str]) -> Vec<StateKey> {
        names.iter().map(|name| StateKey::new(*name)).collect()
    }

    fn has_ended(turns: &Turns, of: &[StateKey]) -> bool {
        let under_way = |state| {
            turns
                .states
                .get(state)
                .is_some_and(|turn| turn.under_way > 0)
        };
        !of.iter().any(under_way)
    }

    #[test]
    fn a_write_that_comes_alone_does_not_wait() {
        let (mut turns, list, start) = (Turns::default(), states(&["list"]), Instant::now());
        assert_eq!(turns.ask(&list, start, start), Entry::Entered);
        turns.leave(&list, Outcome::Unchanged, start + 10 * MS);
        let later = start + 31 * MS;
        assert_eq!(turns.ask(&list, later, later), Entry::Entered);
    }

    #[test]
    fn a_turn_takes_in_others_until_one_of_its_writes_was_refused() {
        let (mut turns, list, start) = (Turns::default(), states(&["list"]), Instant::now());
        for n in 0..3 {
            assert_eq!(turns.ask(&list, start, start + n * MS), Entry::Entered);
        }
        turns.leave(&list, Outcome::Unchanged, start + 5 * MS);
        let now = start + 6 * MS;
        assert_eq!(
            turns.ask(&list, now, now),
            Entry::WaitUntil(now + PATIENCE),
            "or until the turn has ended"
        );
    }

    #[test]
    fn after_a_turn_of_refused_writes_reads_have_twice_its_time() {
        let (mut turns, list, start) = (Turns::default(), states(&["list"]), Instant::now());
        for _ in 0..2 {
            turns.ask(&list, start, start);
        }
        turns.leave(&list, Outcome::Unchanged, start + 5 * MS);
        assert!(!has_ended(&turns, &list));
        turns.leave(&list, Outcome::Unchanged, start + 10 * MS);
        assert!(has_ended(&turns, &list));
        let now = start + 11 * MS;
        assert_eq!(
            turns.ask(&list, now, now),
            Entry::WaitUntil(start + 30 * MS)
        );
        assert_eq!(turns.ask(&list, now, start + 30 * MS), Entry::Entered);
    }

    #[test]
    fn writes_that_change_something_wait_for_nobody() {
        for outcome in [Outcome::Changed, Outcome::Ambiguous] {
            let (mut turns, list, start) = (Turns::default(), states(&["list"]), Instant::now());
            for n in 0..100 {
                let now = start + n * MS;
                assert_eq!(turns.ask(&list, now, now), Entry::Entered);
                assert_eq!(turns.ask(&list, now, now), Entry::Entered);
                turns.leave(&list, outcome, now + MS / 2);
                if n % 10 == 9 {
                    turns.leave(&list, outcome, now + MS / 2);
                }
            }
        }
    }

    #[test]
    fn one_success_among_many_refusals_does_not_open_the_turn_to_all() {
        let (mut turns, list, start) = (Turns::default(), states(&["list"]), Instant::now());
        for _ in 0..4 {
            turns.ask(&list, start, start);
        }
        turns.leave(&list, Outcome::Changed, start + MS);
        for _ in 0..2 {
            turns.leave(&list, Outcome::Unchanged, start + MS);
        }
        let now = start + 2 * MS;
        assert!(matches!(turns.ask(&list, now, now), Entry::WaitUntil(_)));
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_turn_that_it_waits_for_and_by_no_other() {
        let turnstile = Arc::new(Turnstile::default());
        let (list, user) = (states(&["list"]), states(&["user"]));
        let (first, second) = (turnstile.enter(&list).await, turnstile.enter(&list).await);
        drop(first);
        let woken = Arc::new(Woken::default());
        let (waker, times) = (woken.clone().into(), || woken.0.load(Ordering::Relaxed));
        let mut waits = pin!(turnstile.enter(&list));
        let mut polled = Context::from_waker(&waker);
        assert!(waits.as_mut().poll(&mut polled).is_pending());
        for _ in 0..100 {
            drop(turnstile.enter(&user).await);
        }
        assert_eq!(times(), 0);
        drop(second);
        assert_eq!(times(), 1);
        drop(waits.await);
    }

    #[tokio::test]
    async fn who_waits_is_woken_as_soon_as_the_turn_is_one_of_refused_writes_no_more() {
        let (turnstile, list) = (Arc::new(Turnstile::default()), states(&["list"]));
        let mut turn = Vec::new();
        for _ in 0..3 {
            turn.push(turnstile.enter(&list).await);
        }
        drop(turn.pop());
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut waits = pin!(turnstile.enter(&list));
        let mut polled = Context::from_waker(&waker);
        assert!(waits.as_mut().poll(&mut polled).is_pending());
        turn[0].came_to(Outcome::Changed);
        drop(turn.remove(0));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(waits.as_mut().poll(&mut polled).is_ready());
    }

    #[test]
    fn a_write_of_several_states_enters_all_of_them_or_none() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let (list, user, both) = (
            states(&["list"]),
            states(&["user"]),
            states(&["list", "user"]),
        );
        turns.ask(&list, start, start);
        turns.leave(&list, Outcome::Unchanged, start + 10 * MS);
        let now = start + 11 * MS;
        assert_eq!(
            turns.ask(&both, now, now),
            Entry::WaitUntil(start + 30 * MS)
        );
        // It is not under way on the other one, and so keeps nobody from it.
        assert_eq!(turns.ask(&user, now, now), Entry::Entered);
        turns.leave(&user, Outcome::Changed, now);
        assert!(has_ended(&turns, &user));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        for n in 0..100_000_u32 {
            let (user, now) = (states(&[&format!("user {n}")]), start + n * MS);
            turns.ask(&user, now, now);
            turns.leave(&user, Outcome::Unchanged, now + 10 * MS);
        }
        assert!(
            turns.states.len() <= 2 * REMEMBERED,
            "{}",
            turns.states.len()
        );
    }

    /// One client in a loop: how long the upstream takes, what it answers, and on which states.
    #[derive(Debug, Clone)]
    struct Looping {
        takes: u32,
        outcome: Outcome,
        on: usize,
    }

    enum Doing {
        Waiting { since: u32 },
        Writing { until: u32 },
    }

    /// Runs clients in loops, millisecond by millisecond; the longest wait, and how long `list` was held.
    fn run(clients: &[Looping], span: u32) -> (Duration, u32) {
        let sets = [
            states(&["list"]),
            states(&["user"]),
            states(&["list", "user"]),
        ];
        let (mut turns, start) = (Turns::default(), Instant::now());
        let at = |ms: u32| start + ms * MS;
        let mut doing: Vec<Doing> = clients
            .iter()
            .map(|_| Doing::Waiting { since: 0 })
            .collect();
        let (mut longest, mut held) = (0, 0);
        for now in 0..span {
            for (client, doing) in clients.iter().zip(&mut doing) {
                if let Doing::Writing { until } = doing
                    && *until == now
                {
                    turns.leave(&sets[client.on], client.outcome, at(now));
                    *doing = Doing::Waiting { since: now };
                }
            }
            for (client, doing) in clients.iter().zip(&mut doing) {
                if let Doing::Waiting { since } = doing {
                    longest = longest.max(now - *since);
                    if turns.ask(&sets[client.on], at(*since), at(now)) == Entry::Entered {
                        *doing = Doing::Writing {
                            until: now + client.takes,
                        };
                    }
                }
            }
            let holds_list = |(client, doing): (&Looping, &Doing)| {
                client.on != 1 && matches!(doing, Doing::Writing { .. })
            };
            held += u32::from(clients.iter().zip(&doing).any(holds_list));
        }
        (longest * MS, held)
    }

    fn looping(outcomes: impl Strategy<Value = Outcome>) -> impl Strategy<Value = Looping> {
        (1..60_u32, outcomes, 0..3_usize).prop_map(|(takes, outcome, on)| Looping {
            takes,
            outcome,
            on,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn nobody_waits_longer_than_patience(
            clients in prop::collection::vec(
                looping(prop_oneof![Just(Outcome::Unchanged), Just(Outcome::Changed), Just(Outcome::Ambiguous)]),
                1..40,
            ),
        ) {
            prop_assert!(run(&clients, 3_000).0 <= PATIENCE);
        }

        #[test]
        fn refused_writes_leave_a_family_two_thirds_of_the_time(
            clients in prop::collection::vec(looping(Just(Outcome::Unchanged)), 1..100),
        ) {
            // The last turn of the span may lack its rest.
            let (longest, held) = run(&clients, 3_000);
            prop_assert!(held <= 1_000 + 240, "{} ms", held);
            prop_assert!(longest <= PATIENCE);
        }

        #[test]
        fn writes_that_change_something_never_wait(
            clients in prop::collection::vec(looping(Just(Outcome::Changed)), 1..40),
        ) {
            prop_assert_eq!(run(&clients, 1_000).0, Duration::ZERO);
        }
    }
}
