//! The memory tier: copies that are kept in this process beside a shared store, and what is known of their states.
//!
//! A copy here is as good as one in the store: its epochs decide. They are asked for at each hit, without the copy; or,
//! with a lease (`coherence::lease`), once in three quarters of a term. Whoever comes while they are being asked for waits for that answer if a
//! lease that is counted from that question covers its request; whom the lease before covers still need not.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::copies::Copies;
use super::{Away, Found, SeenStates};
use crate::caching::stored::Stored;
use crate::clock::{self, Uptime};
use crate::coherence::lease::Lease;
use crate::coherence::protocol::{self, Epoch, Incarnation, Seen, Validity};
use crate::coherence::{StateKey, States};
use crate::config::MemoryTier;

const SHARDS: usize = 32;

/// Of the bytes, the part that what is known of states may take.
const FOR_LEASES: u64 = 8;

pub struct Tier {
    copies: Copies,
    leases: Cache<StateKey, Leased, ByLength>,
    term: Duration,
    asking: Vec<Mutex<HashMap<States, Question>>>,
    hasher: RandomState,
    hits: Count,
}

/// How much is in it, and how often it was of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    pub entries: usize,
    pub bytes: u64,
    /// Hits that it gave.
    pub hits: u64,
}

/// What is to be made of a copy by its states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Valid,
    /// Others are current: the store may have a copy of theirs.
    Replaced,
    /// Nothing can be valid.
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct Leased {
    epoch: Epoch,
    lease: Lease,
    /// The next one is being asked for.
    followed: bool,
}

impl Leased {
    fn is_to_be_followed(&self, now: Uptime, term: Duration) -> bool {
        !self.followed && self.lease.ends_soon(now, term)
    }
}

#[derive(Clone)]
struct ByLength;

impl Weighter<StateKey, Leased> for ByLength {
    fn weight(&self, state: &StateKey, _: &Leased) -> u64 {
        // The name with its counts, the two words that point at it, the lease, and what the cache keeps for an entry.
        (state.as_str().len() + 32 + size_of::<Leased>() + 112) as u64
    }
}

/// States that are being asked for.
struct Question {
    lease: Lease,
    answer: Answer,
}

/// What was read, and whether a lease came with it: without one it is for who has asked alone.
pub type Read = Result<(SeenStates, Leasing), Away>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leasing {
    Given,
    /// Nobody waits for this instance: its term does not stand in the store.
    Refused,
}

type Asking = Pin<Box<dyn Future<Output = Read> + Send>>;

pub type Answer = Shared<Asking>;

/// Questions of a shard before those are forgotten that nobody can join any more.
const REMEMBERED: usize = 256;

impl Tier {
    pub fn new(settings: MemoryTier) -> Tier {
        let MemoryTier { size, lease } = settings;
        let for_leases = match lease.is_zero() {
            true => 0,
            false => size / FOR_LEASES,
        };
        Tier {
            copies: Copies::within(size - for_leases),
            leases: Cache::with_weighter(
                (for_leases / 300).max(64) as usize,
                for_leases.max(1),
                ByLength,
            ),
            term: lease,
            asking: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            hits: Count::default(),
        }
    }

    /// For how long a state that was read is good; not at all, or for a while.
    pub fn term(&self) -> Option<Duration> {
        (!self.term.is_zero()).then_some(self.term)
    }

    /// The copy and its states, if all of them are leased to a request that has come by now; and whether a lease of theirs ends
    /// soon, and is not `followed`. `now` is read before this is asked, and after the request has come. `own`: the first state's
    /// name, where that is another.
    pub fn find(
        &self,
        copy: &str,
        states: &States,
        own: Option<&str>,
        now: Uptime,
        link: u64,
        life: Incarnation,
    ) -> Option<(Found, bool)> {
        let stored = self.fresh(copy)?;
        let states = super::named_by(Some(&stored), states, own);
        let (seen, ends_soon) = self.leased(states, now, link, life)?;
        match standing(&stored, &seen) {
            Standing::Valid => Some((self.hit(stored, seen), ends_soon)),
            Standing::Replaced | Standing::Gone => None,
        }
    }

    /// A copy that need not be looked for in the store: once it is stale, another instance may have fetched it anew.
    pub fn fresh(&self, copy: &str) -> Option<Arc<Stored>> {
        let stored = self.copies.get(copy)?;
        stored.is_fresh(clock::now()).then_some(stored)
    }

    pub fn hit(&self, stored: Arc<Stored>, states: SeenStates) -> Found {
        self.hits.add();
        Found {
            copy: Ok(stored),
            states,
        }
    }

    /// What is known of all these states, if it is good for a request that has come by `now`; and whether some of it is not
    /// for long, and nobody asks for more.
    pub fn leased(
        &self,
        states: impl Iterator<Item = StateKey>,
        now: Uptime,
        link: u64,
        life: Incarnation,
    ) -> Option<(SeenStates, bool)> {
        let (mut seen, mut ends_soon) = (SeenStates::new(), false);
        for state in states {
            let leased = self.leases.get(&state)?;
            let covers = leased.lease.covers(now, self.term, link);
            if !covers || leased.epoch.incarnation() != life {
                return None;
            }
            ends_soon |= leased.is_to_be_followed(now, self.term);
            seen.push((state, Seen::Current(leased.epoch)));
        }
        Some((seen, ends_soon))
    }

    /// The next leases of these states are being asked for, and nobody else need ask for them.
    pub fn follow(&self, states: &States, now: Uptime) {
        for state in states {
            if let Some(leased) = self.leases.peek(state)
                && leased.is_to_be_followed(now, self.term)
            {
                let followed = true;
                self.leases
                    .insert(state.clone(), Leased { followed, ..leased });
            }
        }
    }

    /// Notes what was read: a state that is current, and whose lease is not older than one that is known.
    pub fn lease(&self, seen: &[(StateKey, Seen)], lease: Lease) {
        for (state, seen) in seen {
            let Seen::Current(epoch) = *seen else {
                continue;
            };
            let known = self.leases.peek(state);
            let is_older = known.is_some_and(|known| {
                known.lease.link == lease.link && known.lease.asked > lease.asked
            });
            if !is_older {
                let leased = Leased {
                    epoch,
                    lease,
                    followed: false,
                };
                self.leases.insert(state.clone(), leased);
            }
        }
    }

    /// The answer to a question after these states that covers a request which has come by `now`: of one that is under
    /// way already, or of the one that `ask` makes, which is counted from `now`. Whether it is this one's own.
    pub fn ask(
        &self,
        states: &States,
        now: Uptime,
        link: u64,
        ask: impl FnOnce() -> Asking,
    ) -> (Answer, bool) {
        let mut asking = self.shard(states).lock();
        if let Some(question) = asking.get(states)
            && question.lease.covers(now, self.term, link)
        {
            return (question.answer.clone(), false);
        }
        if asking.len() >= REMEMBERED {
            // Who had asked may have gone.
            asking.retain(|_, question| question.lease.covers(now, self.term, link));
        }
        let answer = ask().shared();
        let lease = Lease { asked: now, link };
        let question = Question {
            lease,
            answer: answer.clone(),
        };
        asking.insert(states.clone(), question);
        (answer, true)
    }

    /// Nobody else need wait for this answer any more.
    pub fn answered(&self, states: &States, answer: &Answer) {
        let mut asking = self.shard(states).lock();
        if asking
            .get(states)
            .is_some_and(|question| question.answer.ptr_eq(answer))
        {
            asking.remove(states);
        }
    }

    /// Keeps a copy that shares its bytes with nothing else; one that is stale from the beginning, as a HEAD may have made it,
    /// takes the place of what was fresh, and need not be kept for that.
    pub fn keep(&self, copy: &str, stored: &Arc<Stored>) {
        match stored.is_fresh(clock::now()) {
            true => self.copies.put(copy, stored.clone()),
            false => self.copies.drop(copy),
        }
    }

    pub fn forget(&self, copy: &str) {
        self.copies.drop(copy);
    }

    pub fn usage(&self) -> Use {
        Use {
            entries: self.copies.len(),
            bytes: self.copies.weight() + self.leases.weight(),
            hits: self.hits.sum(),
        }
    }

    fn shard(&self, states: &States) -> &Mutex<HashMap<States, Question>> {
        &self.asking[self.hasher.hash_one(states) as usize % SHARDS]
    }
}

/// What the states that it names make of a copy.
pub fn standing(stored: &Stored, seen: &[(StateKey, Seen)]) -> Standing {
    let names = |state: &StateKey| stored.epochs.iter().any(|(named, _)| named == state);
    match protocol::validity_of_named(&stored.epochs, seen) {
        Validity::Valid => Standing::Valid,
        _ if seen
            .iter()
            .any(|(state, seen)| names(state) && !matches!(seen, Seen::Current(_))) =>
        {
            Standing::Gone
        }
        // One that is to come is not kept here, for another may be put in its place.
        Validity::ToCome | Validity::Outdated | Validity::Invalid => Standing::Replaced,
    }
}

/// A number to which many threads add, each in a place of its own, so that no core waits for another.
#[derive(Default)]
struct Count([Padded; 16]);

#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Count {
    fn add(&self) {
        thread_local! {
            static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if MINE.get() == usize::MAX {
            MINE.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        self.0[MINE.get() % self.0.len()]
            .0
            .fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        let each = self.0.iter().map(|mine| mine.0.load(Ordering::Relaxed));
        each.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caching::head::Head;
    use crate::clock::Timestamp;

    const TERM: Duration = Duration::from_millis(10);
    const LIFE: Incarnation = Incarnation(1);

    fn tier(size: u64, lease: Duration) -> Tier {
        Tier::new(MemoryTier { size, lease })
    }

    fn epoch(fresh: u32) -> Epoch {
        Epoch::new(Timestamp::from_micros(1), LIFE, fresh)
    }

    fn stored(bytes: usize, epochs: &[(&'static str, u32)]) -> Arc<Stored> {
        let named = epochs.iter();
        Arc::new(Stored {
            status: http::StatusCode::OK,
            head: Head::new(http::HeaderMap::new(), "http://h", &[]),
            body: vec![b'x'; bytes].into(),
            response_time: clock::now(),
            took: Duration::ZERO,
            initial_age: Duration::ZERO,
            lifetime: Duration::from_secs(60),
            epochs: named
                .map(|(state, fresh)| (StateKey::new(*state), epoch(*fresh)))
                .collect(),
        })
    }

    fn states(names: &[&'static str]) -> States {
        names.iter().map(|name| StateKey::new(*name)).collect()
    }

    fn up(millis: u64) -> Uptime {
        Uptime::from_nanos(millis * 1_000_000)
    }

    fn seen(states: &[(&'static str, Seen)]) -> SeenStates {
        let each = states.iter();
        each.map(|(state, seen)| (StateKey::new(*state), *seen))
            .collect()
    }

    #[test]
    fn a_copy_is_found_while_all_its_states_are_leased_and_its_epochs_are_theirs() {
        let tier = tier(1 << 20, TERM);
        let both = states(&["f", "all"]);
        tier.keep("copy", &stored(10, &[("f", 1), ("all", 2)]));
        let find = |now, link, life| tier.find("copy", &both, None, now, link, life).is_some();
        assert!(!find(up(100), 7, LIFE), "nothing is known of its states");
        let current = |fresh| Seen::Current(epoch(fresh));
        let lease = |asked| Lease { asked, link: 7 };
        tier.lease(&seen(&[("f", current(1))]), lease(up(100)));
        assert!(!find(up(100), 7, LIFE), "of one of them");
        tier.lease(&seen(&[("all", current(2))]), lease(up(102)));
        assert!(find(up(109), 7, LIFE));
        assert!(!find(up(110), 7, LIFE), "one lease is over");
        assert!(!find(up(105), 8, LIFE), "by another link");
        assert!(!find(up(105), 7, Incarnation(2)), "in another life");
        tier.lease(&seen(&[("f", current(3))]), lease(up(104)));
        assert!(!find(up(105), 7, LIFE), "its epoch is over");
        assert_eq!(tier.usage().hits, 1);
    }

    #[test]
    fn only_what_is_current_is_leased_and_never_by_an_older_answer() {
        let tier = tier(1 << 20, TERM);
        let one = states(&["f"]);
        let lease = |asked| Lease { asked, link: 7 };
        for not_current in [Seen::Held, Seen::Absent] {
            tier.lease(&seen(&[("f", not_current)]), lease(up(100)));
            let known = tier.leased(one.iter().cloned(), up(100), 7, LIFE);
            assert_eq!(known, None);
        }
        tier.lease(&seen(&[("f", Seen::Current(epoch(2)))]), lease(up(105)));
        tier.lease(&seen(&[("f", Seen::Current(epoch(1)))]), lease(up(101)));
        let known = tier.leased(one.iter().cloned(), up(106), 7, LIFE);
        let known = known.map(|(seen, _)| seen);
        assert_eq!(known, Some(seen(&[("f", Seen::Current(epoch(2)))])));
    }

    #[test]
    fn the_first_who_is_answered_by_a_lease_that_ends_soon_has_the_next_one_asked_for() {
        let tier = tier(1 << 20, TERM);
        let (f, both) = (states(&["f"]), states(&["f", "all"]));
        let ends_soon = |states: &States, now| {
            let known = tier.leased(states.iter().cloned(), now, 7, LIFE);
            known.map(|(_, ends_soon)| ends_soon)
        };
        let lease = |names: &[&'static str], asked| {
            let each = names.iter().map(|name| (*name, Seen::Current(epoch(1))));
            let seen = seen(&each.collect::<Vec<_>>());
            tier.lease(&seen, Lease { asked, link: 7 });
        };
        lease(&["f", "all"], up(100));
        assert_eq!(ends_soon(&both, up(107)), Some(false));
        assert_eq!(ends_soon(&both, up(108)), Some(true));
        tier.follow(&f, up(108));
        assert_eq!(ends_soon(&f, up(108)), Some(false), "it is asked for");
        assert_eq!(ends_soon(&both, up(108)), Some(true), "of the other");
        tier.follow(&both, up(108));
        assert_eq!(ends_soon(&both, up(109)), Some(false));
        assert_eq!(ends_soon(&both, up(110)), None, "and it ends all the same");
        lease(&["f"], up(108));
        lease(&["all"], up(109));
        assert_eq!(ends_soon(&both, up(115)), Some(false));
        assert_eq!(ends_soon(&both, up(116)), Some(true), "and so on");
    }

    #[test]
    fn without_a_lease_nothing_is_known_of_a_state() {
        let tier = tier(1 << 20, Duration::ZERO);
        let one = seen(&[("f", Seen::Current(epoch(1)))]);
        let asked = up(100);
        tier.lease(&one, Lease { asked, link: 7 });
        assert_eq!(
            tier.leased(states(&["f"]).into_iter(), asked, 7, LIFE),
            None
        );
        assert_eq!(tier.term(), None);
    }

    #[test]
    fn a_question_is_shared_by_those_whom_its_lease_covers() {
        let tier = tier(1 << 20, TERM);
        let asked = std::cell::Cell::new(0);
        let one = states(&["f"]);
        let ask = |now, link| {
            let (answer, _) = tier.ask(&one, now, link, || {
                asked.set(asked.get() + 1);
                Box::pin(std::future::pending())
            });
            answer
        };
        let first = ask(up(100), 7);
        assert!(ask(up(109), 7).ptr_eq(&first));
        assert!(!ask(up(110), 7).ptr_eq(&first), "it has come too late");
        let by_another = ask(up(110), 8);
        tier.answered(&one, &first);
        assert!(ask(up(111), 8).ptr_eq(&by_another), "which is still asked");
        assert_eq!(asked.get(), 3);
        tier.answered(&one, &by_another);
        assert!(!ask(up(111), 8).ptr_eq(&by_another));
    }

    #[test]
    fn a_copy_whose_states_say_that_nothing_is_valid_is_not_looked_for_elsewhere() {
        let copy = stored(1, &[("f", 1)]);
        let stands = |other, f| standing(&copy, &seen(&[("list", other), ("f", f)]));
        let current = |fresh| Seen::Current(epoch(fresh));
        for other in [Seen::Held, current(9)] {
            assert_eq!(stands(other, current(1)), Standing::Valid);
            assert_eq!(stands(other, current(2)), Standing::Replaced);
            assert_eq!(stands(other, Seen::Held), Standing::Gone);
            assert_eq!(stands(other, Seen::Absent), Standing::Gone);
        }
        let alone = standing(&copy, &seen(&[("list", current(1))]));
        assert_eq!(alone, Standing::Replaced, "its own state was not asked for");
    }

    #[test]
    fn what_was_made_stale_takes_the_place_of_what_was_fresh() {
        let tier = tier(1 << 20, TERM);
        let fresh = stored(10, &[("f", 1)]);
        tier.keep("copy", &fresh);
        assert!(tier.fresh("copy").is_some());
        let stale = Stored {
            lifetime: Duration::ZERO,
            ..Stored::clone(&fresh)
        };
        tier.keep("copy", &Arc::new(stale));
        assert!(tier.fresh("copy").is_none());
    }

    #[test]
    fn copies_and_leases_never_take_more_than_the_size() {
        let tier = tier(1 << 20, TERM);
        for n in 0..20_000 {
            tier.keep(&format!("copy:{n}"), &stored(1_000, &[("f", 1)]));
            let state = (StateKey::new(format!("f{n}")), Seen::Current(epoch(1)));
            let asked = up(1);
            tier.lease(&[state], Lease { asked, link: 1 });
        }
        let usage = tier.usage();
        assert!(usage.bytes <= 1 << 20, "{usage:?}");
        assert!(usage.entries > 300, "{usage:?}");
        tier.keep("large", &stored(2 << 20, &[("f", 1)]));
        assert!(tier.usage().bytes <= 1 << 20);
    }
}
