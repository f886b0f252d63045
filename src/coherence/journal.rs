//! What one instance has to tell the store: the holds of its writes, which a restart may have lost, and what it could
//! not confirm. A book, pure, with time as an argument; and the lock around it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::protocol::{HoldId, Outcome, StateKey, Step};

/// Purges and finishes kept before they become "everything": as many as are told well within the notice time.
const CAPACITY: usize = 10_000;

/// States of one purge, as many as the store is told of in one call.
const AT_ONCE: usize = 64;

/// The book behind its lock. What a write decides and what it notes for it happens under the lock, and so does the
/// publishing of a link: whoever owes something has either found the link, or is found by it.
#[derive(Default)]
pub struct Journal(Mutex<Book>);

impl Journal {
    pub fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.0.lock();
        let before = book.everything.is_some();
        let done = act(&mut book);
        if book.everything.is_some() && !before {
            warn!(
                "too many purges are owed to the store: everything will be purged when it is back"
            );
        }
        done
    }

    /// How many purges and finishes are owed.
    pub fn len(&self) -> usize {
        self.0.lock().ends()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a new link would be told anything.
    pub fn has_to_tell(&self, now: Instant) -> bool {
        self.0.lock().has_to_tell(now)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Book {
    /// Writes in flight, and those whose end is owed.
    holds: BTreeMap<HoldId, Held>,
    /// What ambiguous writes have left held, until the deadline of the last of them.
    ambiguous: BTreeMap<StateKey, Until>,
    /// How many of these it takes before those that have run out are forgotten.
    forget_at: usize,
    finishes: BTreeMap<HoldId, (Vec<StateKey>, Outcome)>,
    purges: BTreeMap<StateKey, Owing>,
    /// Too many to remember.
    everything: Option<Owing>,
}

/// Whether the store may have been told of a purge since it came to be owed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owing {
    Untold,
    BeingTold,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Held {
    states: Vec<StateKey>,
    deadline: Instant,
    /// Whether any of it may have reached a store.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Until {
    deadline: Instant,
    /// As for a hold.
    told: bool,
}

/// What is owed at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Owed {
    holds: Vec<(HoldId, Vec<StateKey>, Duration)>,
    ambiguous: Vec<(StateKey, Duration)>,
    finishes: Vec<(HoldId, Vec<StateKey>, Outcome)>,
    purges: Vec<StateKey>,
    everything: bool,
}

/// Some states, and what they are told.
pub type Telling = (Vec<StateKey>, Step);

impl Book {
    /// A write announces itself, before anybody is told: so a link that comes later puts its hold in place.
    /// `told`: it is going to be told at once.
    pub fn hold(
        &mut self,
        hold: HoldId,
        states: &[StateKey],
        lasting: Duration,
        now: Instant,
        told: bool,
    ) {
        // Now and then: each sweep walks them all.
        if self.holds.len() >= 1024 && self.holds.len().is_power_of_two() {
            self.holds.retain(|_, held| held.deadline > now);
        }
        if self.ambiguous.len() >= self.forget_at.max(1024) {
            self.ambiguous.retain(|_, until| until.deadline > now);
            self.forget_at = self.ambiguous.len() * 2;
        }
        let states = states.to_vec();
        let deadline = now + lasting;
        self.holds.insert(
            hold,
            Held {
                states,
                deadline,
                told,
            },
        );
    }

    /// The store knows how the write ended; of an ambiguous one is left until when its states are held.
    pub fn finished(&mut self, hold: HoldId, outcome: Outcome) {
        self.finishes.remove(&hold);
        let Some(held) = self.holds.remove(&hold) else {
            return;
        };
        if outcome == Outcome::Ambiguous {
            let (deadline, told) = (held.deadline, held.told);
            for state in held.states {
                let until = self.ambiguous.entry(state);
                let until = until.or_insert(Until { deadline, told });
                until.deadline = until.deadline.max(deadline);
                until.told &= told;
            }
        }
    }

    /// The store is owed the end of this write.
    pub fn owe(&mut self, hold: HoldId, states: &[StateKey], outcome: Outcome) {
        if self.purges.len() + self.finishes.len() >= CAPACITY {
            self.everything = Some(Owing::Untold);
            self.purges.clear();
            for (hold, (_, outcome)) in std::mem::take(&mut self.finishes) {
                // What stands of its hold in the store runs out there.
                self.finished(hold, outcome);
            }
        }
        if self.holds.get(&hold).is_some_and(|held| !held.told) {
            // Its hold stands nowhere. However many such writes there are, the states are told once.
            self.finished(hold, outcome);
            if outcome == Outcome::Unchanged {
                return;
            }
            match &mut self.everything {
                Some(everything) => *everything = Owing::Untold,
                None => {
                    let untold = |state: &StateKey| (state.clone(), Owing::Untold);
                    self.purges.extend(states.iter().map(untold));
                }
            }
        } else {
            self.finishes.insert(hold, (states.to_vec(), outcome));
        }
    }

    /// What is owed now. It stays owed until `paid`.
    pub fn owed(&mut self, now: Instant) -> Owed {
        self.holds.retain(|_, held| held.deadline > now);
        let holds = self.holds.iter_mut().map(|(hold, held)| {
            held.told = true;
            (*hold, held.states.clone(), held.deadline - now)
        });
        let holds = holds.collect();
        self.ambiguous.retain(|_, until| until.deadline > now);
        let ambiguous = self.ambiguous.iter_mut().map(|(state, until)| {
            until.told = true;
            (state.clone(), until.deadline - now)
        });
        let ambiguous = ambiguous.collect();
        let purges = self.purges.values_mut().chain(&mut self.everything);
        purges.for_each(|owing| *owing = Owing::BeingTold);
        let finishes = self.finishes.iter();
        Owed {
            holds,
            ambiguous,
            finishes: finishes
                .map(|(hold, (states, outcome))| (*hold, states.clone(), *outcome))
                .collect(),
            purges: self.purges.keys().cloned().collect(),
            everything: self.everything.is_some(),
        }
    }

    /// One step of what is owed was told: nobody need tell it again.
    pub fn told(&mut self, states: &[StateKey], step: Step) {
        match step {
            Step::Finish { hold, outcome, .. } => self.finished(hold, outcome),
            Step::Purge => self.purged(states),
            // A hold is put back by each link.
            Step::Begin { .. } | Step::Open { .. } | Step::Renew { .. } | Step::Outdate => {}
        }
    }

    fn purged(&mut self, states: &[StateKey]) {
        for state in states {
            if self.purges.get(state) == Some(&Owing::BeingTold) {
                self.purges.remove(state);
            }
        }
    }

    /// Takes out what was replayed; what came since stays, and so does what came once more.
    pub fn paid(&mut self, paid: &Owed) {
        for (hold, _, outcome) in &paid.finishes {
            self.finished(*hold, *outcome);
        }
        self.purged(&paid.purges);
        if paid.everything {
            self.everything.take_if(|owing| *owing == Owing::BeingTold);
        }
    }

    /// Whether a link may be published: no purge is owed, and no hold has been noted since it was replayed.
    pub fn owes_nothing(&self) -> bool {
        self.ends() == 0
            && self.holds.values().all(|held| held.told)
            && self.ambiguous.values().all(|until| until.told)
    }

    fn has_to_tell(&self, now: Instant) -> bool {
        self.ends() > 0
            || self.holds.values().any(|held| held.deadline > now)
            || self.ambiguous.values().any(|until| until.deadline > now)
    }

    /// How many purges and finishes are owed.
    fn ends(&self) -> usize {
        self.finishes.len() + self.purges.len() + usize::from(self.everything.is_some())
    }
}

impl Owed {
    /// What a new link is told before anybody may use it, one lot after the other, and of each all at once: first the holds, for
    /// their writes may still come to pass; then the ends of writes; then purges, of all the `registered` states if it has become
    /// too many. Holds come in the order of their ends and last to a whole second, so that one call has many.
    pub fn steps(&self, lasting: Duration, registered: &[StateKey]) -> [Vec<Telling>; 3] {
        let mut holds: Vec<_> = self.holds.iter().collect();
        holds.sort_by_key(|(_, _, left)| *left);
        let holds = holds.into_iter().map(|(hold, states, left)| {
            let (hold, lasting) = (*hold, whole_seconds(*left));
            (states.clone(), Step::Begin { hold, lasting })
        });
        // Likewise: so these are few, however many states.
        let mut ambiguous = BTreeMap::<Duration, Vec<StateKey>>::new();
        for (state, left) in &self.ambiguous {
            let states = ambiguous.entry(whole_seconds(*left)).or_default();
            states.push(state.clone());
        }
        let ambiguous = ambiguous.iter().flat_map(|(lasting, states)| {
            let (hold, lasting) = (HoldId::AMBIGUOUS, *lasting);
            let some = states.chunks(AT_ONCE);
            some.map(move |some| (some.to_vec(), Step::Begin { hold, lasting }))
        });
        let finishes = self.finishes.iter().map(|(hold, states, outcome)| {
            let (hold, outcome) = (*hold, *outcome);
            let step = Step::Finish {
                hold,
                outcome,
                lasting,
            };
            (states.clone(), step)
        });
        let purges: Vec<StateKey> = match self.everything {
            true => registered.to_vec(),
            false => self.purges.clone(),
        };
        let purges = purges.chunks(AT_ONCE);
        let purges = purges.map(|some| (some.to_vec(), Step::Purge));
        let all_holds = holds.chain(ambiguous);
        [all_holds.collect(), finishes.collect(), purges.collect()]
    }

    /// Beyond the holds.
    pub fn ends(&self) -> usize {
        self.finishes.len() + self.purges.len() + usize::from(self.everything)
    }
}

/// Not less.
fn whole_seconds(time: Duration) -> Duration {
    let begun = u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(time.as_secs() + begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(60);

    fn list() -> Vec<StateKey> {
        vec![StateKey::new("list~state")]
    }

    #[test]
    fn writes_of_a_long_outage_are_told_once_for_each_state() {
        let (mut book, now) = (Book::default(), Instant::now());
        for n in 0..1000 {
            book.hold(HoldId(n), &list(), LASTING, now, false);
            book.owe(HoldId(n), &list(), Outcome::Changed);
        }
        let owed = book.owed(now);
        assert_eq!(owed.steps(LASTING, &[]).concat(), [(list(), Step::Purge)]);
        book.paid(&owed);
        assert!(book.owes_nothing());
    }

    #[test]
    fn a_hold_that_was_noted_after_the_replay_keeps_the_link_from_being_published() {
        let (mut book, now) = (Book::default(), Instant::now());
        let owed = book.owed(now);
        book.hold(HoldId(1), &list(), LASTING, now, false);
        book.paid(&owed);
        assert!(!book.owes_nothing());
        assert_eq!(
            book.owed(now).steps(LASTING, &[]).concat(),
            [(
                list(),
                Step::Begin {
                    hold: HoldId(1),
                    lasting: LASTING
                }
            )]
        );
        assert!(book.owes_nothing());
    }

    #[test]
    fn an_ambiguous_write_is_held_again_after_its_end_was_told_and_not_beyond_its_deadline() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.hold(HoldId(1), &list(), LASTING, now, true);
        book.owe(HoldId(1), &list(), Outcome::Ambiguous);
        let owed = book.owed(now);
        book.paid(&owed);
        assert_eq!(
            book.owed(now).steps(LASTING, &[]).concat().len(),
            1,
            "its hold alone"
        );
        assert_eq!(book.owed(now + LASTING).steps(LASTING, &[]).concat(), []);
    }

    #[test]
    fn ambiguous_writes_are_held_again_by_one_hold_for_each_state_as_long_as_the_last_of_them() {
        let (mut book, now) = (Book::default(), Instant::now());
        let second = Duration::from_secs(1);
        for n in 0..1000 {
            let then = now + second * u32::from(n == 0);
            book.hold(HoldId(n), &list(), LASTING, then, true);
            book.finished(HoldId(n), Outcome::Ambiguous);
        }
        let hold = HoldId::AMBIGUOUS;
        let lasting = LASTING + second;
        assert_eq!(
            book.owed(now).steps(LASTING, &[]).concat(),
            [(list(), Step::Begin { hold, lasting })]
        );
        assert!(book.has_to_tell(now + LASTING) && !book.has_to_tell(now + lasting));
        assert_eq!(book.owed(now + lasting).steps(LASTING, &[]).concat(), []);
    }

    #[test]
    fn an_ambiguous_write_that_no_store_has_heard_of_keeps_the_link_from_being_published() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.hold(HoldId(1), &list(), LASTING, now, true);
        book.finished(HoldId(1), Outcome::Ambiguous);
        let owed = book.owed(now);
        book.hold(HoldId(2), &list(), LASTING, now, false);
        book.owe(HoldId(2), &list(), Outcome::Ambiguous);
        book.paid(&owed);
        assert!(!book.owes_nothing());
        let owed = book.owed(now);
        let hold = HoldId::AMBIGUOUS;
        let lasting = LASTING;
        assert_eq!(
            owed.steps(LASTING, &[]).concat(),
            [
                (list(), Step::Begin { hold, lasting }),
                (list(), Step::Purge)
            ]
        );
        book.paid(&owed);
        assert!(book.owes_nothing());
    }

    #[test]
    fn too_many_to_remember_become_everything() {
        let (mut book, now) = (Book::default(), Instant::now());
        for n in 0..=CAPACITY as u64 {
            book.hold(HoldId(n), &list(), LASTING, now, true);
            book.owe(HoldId(n), &list(), Outcome::Changed);
        }
        let owed = book.owed(now);
        assert_eq!(owed.finishes.len(), 1);
        assert!(
            owed.steps(LASTING, &list())
                .concat()
                .contains(&(list(), Step::Purge))
        );
    }

    #[test]
    fn what_comes_to_be_owed_again_while_it_is_told_is_told_again() {
        let (mut book, now) = (Book::default(), Instant::now());
        let unheld = |n, book: &mut Book| {
            book.hold(HoldId(n), &list(), LASTING, now, false);
            book.owe(HoldId(n), &list(), Outcome::Changed);
        };
        unheld(1, &mut book);
        let owed = book.owed(now);
        unheld(2, &mut book);
        book.paid(&owed);
        assert!(!book.owes_nothing());
        let owed = book.owed(now);
        assert_eq!(owed.steps(LASTING, &[]).concat(), [(list(), Step::Purge)]);
        book.paid(&owed);
        assert!(book.owes_nothing());
    }

    #[test]
    fn everything_is_told_again_after_a_write_that_ends_while_it_is_told() {
        let (mut book, now) = (Book::default(), Instant::now());
        let unheld = |n, book: &mut Book| {
            let own = [StateKey::new(format!("{n}~state"))];
            book.hold(HoldId(n), &own, LASTING, now, false);
            book.owe(HoldId(n), &own, Outcome::Changed);
        };
        for n in 0..CAPACITY as u64 * 2 {
            unheld(n, &mut book);
        }
        for is_written in [true, false] {
            let owed = book.owed(now);
            assert_eq!(
                owed.steps(LASTING, &list()).concat(),
                [(list(), Step::Purge)]
            );
            if is_written {
                unheld(u64::MAX, &mut book);
            }
            book.paid(&owed);
            assert_eq!(book.owes_nothing(), !is_written);
        }
    }

    #[test]
    fn what_was_told_before_the_link_was_lost_is_not_told_again_but_for_the_holds() {
        let (mut book, now) = (Book::default(), Instant::now());
        for (n, told) in [(1, true), (2, false), (3, true)] {
            book.hold(HoldId(n), &list(), LASTING, now, told);
        }
        for n in [1, 2] {
            book.owe(HoldId(n), &list(), Outcome::Changed);
        }
        let owed = book.owed(now);
        let [holds, ends, purges] = owed.steps(LASTING, &[]);
        assert_eq!((holds.len(), ends.len(), purges.len()), (2, 1, 1));
        for (states, step) in [holds, ends, purges].concat() {
            book.told(&states, step);
        }
        let hold = HoldId(3);
        let later = now + Duration::from_millis(1500);
        let lasting = LASTING - Duration::from_secs(1);
        let [holds, ends, purges] = book.owed(later).steps(LASTING, &[]);
        assert_eq!(holds, [(list(), Step::Begin { hold, lasting })]);
        assert_eq!([ends, purges].concat(), []);
    }
}
