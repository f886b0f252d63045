//! The embedded store: copies bounded by bytes, and the same states and steps as in Redis, in this process.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::{Mutex, RwLock};

use super::copies::Copies;
use super::{Found, Listed, SeenStates};
use crate::caching::cache_status::Reason;
use crate::caching::key::HashingSecret;
use crate::caching::stored::{Freshness, Stored};
use crate::clock::{self, Timestamp};
use crate::coherence::protocol::{Incarnation, Reply, Seen, State, Step};
use crate::coherence::{StateKey, States, fresh_bits};

const SHARDS: usize = 64;

/// States kept per shard, or as many as there is room for copies of a few hundred bytes; beyond it those without a hold, or whose
/// holds have all run out, are forgotten, which is a purge and so always safe.
const STATES_PER_SHARD: usize = 8_192;

/// And of their names, whose length a client may have a hand in, so many bytes, or half of what copies may take.
const NAMES_PER_SHARD: usize = 64 * STATES_PER_SHARD;

#[derive(Default)]
struct Shard {
    states: HashMap<StateKey, State, RandomState>,
    /// Bytes of all their names.
    names: usize,
}

pub struct Memory {
    copies: Copies,
    states: Vec<RwLock<Shard>>,
    states_per_shard: usize,
    names_per_shard: usize,
    hasher: RandomState,
    /// Marked names, each until when.
    marks: Mutex<HashMap<String, Timestamp>>,
    secret: HashingSecret,
    /// The states that all copies depend on, of every configuration that there was.
    adopted: Mutex<BTreeSet<StateKey>>,
}

impl Memory {
    /// A store of at most `bytes` for copies.
    pub fn new(bytes: u64) -> Self {
        Memory {
            copies: Copies::within(bytes),
            states: (0..SHARDS).map(|_| RwLock::default()).collect(),
            // Each copy may have a family of its own: fewer states than copies, and copies are kept that are never valid.
            states_per_shard: STATES_PER_SHARD.max((bytes / 1_000) as usize / SHARDS),
            names_per_shard: NAMES_PER_SHARD.max((bytes / 2) as usize / SHARDS),
            hasher: RandomState::default(),
            marks: Mutex::default(),
            secret: HashingSecret::random(),
            adopted: Mutex::default(),
        }
    }

    /// With the file's secret in place of a random one.
    pub fn keyed(self, secret: Option<HashingSecret>) -> Self {
        let secret = secret.unwrap_or(self.secret);
        Memory { secret, ..self }
    }

    pub fn secret(&self) -> HashingSecret {
        self.secret
    }

    /// `own`: the first state's name, where that is another.
    pub fn look_up(&self, copy: &str, states: &States, own: Option<&str>) -> Found {
        // The copy first: a state that changes in between makes the look-up a miss, never a stale hit.
        let copy = self.copies.get(copy).ok_or(Reason::Absent);
        let states = super::named_by(copy.as_deref().ok(), states, own).map(|state| {
            let seen = self.seen(&state);
            (state, seen)
        });
        Found {
            states: states.collect(),
            copy,
        }
    }

    pub fn open(&self, states: &States) -> SeenStates {
        states
            .iter()
            .map(|state| match self.seen(state) {
                current @ Seen::Current(_) => (state.clone(), current),
                Seen::Held | Seen::Absent => (
                    state.clone(),
                    self.apply(
                        state,
                        Step::Open {
                            incarnation: Incarnation::default(),
                            fresh: fresh_bits() as u32,
                        },
                    )
                    .seen,
                ),
            })
            .collect()
    }

    pub fn step(&self, states: &[StateKey], step: Step) -> Vec<Reply> {
        states.iter().map(|state| self.apply(state, step)).collect()
    }

    pub fn put(&self, copy: &str, stored: Arc<Stored>) {
        self.copies.put(copy, stored);
    }

    /// Never forgotten before its time, as people set it: what is over makes room.
    pub fn mark(&self, name: &str, until: Timestamp) {
        let now = clock::now();
        let mut marks = self.marks.lock();
        marks.retain(|_, until| now < *until);
        marks.insert(name.to_owned(), until);
    }

    pub fn is_marked(&self, name: &str) -> bool {
        let marks = self.marks.lock();
        marks.get(name).is_some_and(|until| clock::now() < *until)
    }

    pub fn list(&self, start: &str, most: usize, is_wanted: impl Fn(&str) -> bool) -> Vec<Listed> {
        let now = clock::now();
        let mut listed: Vec<Listed> = self
            .copies
            .iter()
            .filter(|(key, _)| key.starts_with(start) && is_wanted(key))
            .filter_map(|(key, stored)| match stored.freshness(now) {
                Freshness::Fresh { left } => Some(Listed {
                    key,
                    bytes: stored.body.len() as u64,
                    ttl: Some(left),
                }),
                Freshness::Stale { .. } => None,
            })
            .take(most)
            .collect();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed
    }

    pub fn adopt(&self, states: &[StateKey]) {
        self.adopted.lock().extend(states.iter().cloned());
    }

    pub fn all_states(&self, ours: &[StateKey]) -> Vec<StateKey> {
        let mut all = self.adopted.lock().clone();
        all.extend(ours.iter().cloned());
        all.into_iter().collect()
    }

    /// How many bytes the copies take.
    pub fn weight(&self) -> u64 {
        self.copies.weight()
    }

    pub fn count(&self) -> usize {
        self.copies.len()
    }

    fn seen(&self, state: &StateKey) -> Seen {
        self.shard(state)
            .read()
            .states
            .get(state)
            .map_or(Seen::Absent, State::seen)
    }

    fn apply(&self, state: &StateKey, step: Step) -> Reply {
        let mut shard = self.shard(state).write();
        let Shard { states, names } = &mut *shard;
        let entry = states.entry(state.clone()).or_insert_with(|| {
            *names += state.as_str().len();
            State::default()
        });
        // A clock that is set forward must not end the hold of a write that is still in flight.
        let now = clock::steady();
        let reply = entry.apply(step, now);
        if entry.is_empty() {
            states.remove(state);
            *names -= state.as_str().len();
        } else if states.len() > self.states_per_shard || *names > self.names_per_shard {
            let mut forget = states.len() / 2;
            states.retain(|key, other| {
                let keep = key == state || other.is_held_at(now) || forget == 0;
                if !keep {
                    forget -= 1;
                    *names -= key.as_str().len();
                }
                keep
            });
        }
        reply
    }

    fn shard(&self, state: &StateKey) -> &RwLock<Shard> {
        &self.states[self.hasher.hash_one(state) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caching::head::Head;
    use std::time::Duration;

    fn stored(bytes: usize) -> Arc<Stored> {
        Arc::new(Stored {
            status: http::StatusCode::OK,
            head: Head::new(http::HeaderMap::new(), "http://h", &[]),
            body: vec![b'x'; bytes].into(),
            response_time: clock::now(),
            took: Duration::ZERO,
            initial_age: Duration::ZERO,
            lifetime: Duration::from_secs(60),
            epochs: Default::default(),
        })
    }

    #[test]
    fn copies_never_take_more_than_the_size() {
        let memory = Memory::new(1 << 20);
        for n in 0..5_000 {
            memory.put(&format!("p:{n}"), stored(1_000));
        }
        assert!(memory.weight() <= 1 << 20, "{}", memory.weight());
        assert!(memory.list("p:", usize::MAX, |_| true).len() > 300);
    }

    #[test]
    fn states_are_bounded_and_a_held_one_is_never_forgotten() {
        let memory = Memory::new(1 << 20);
        let held = StateKey::new("held~state");
        memory.step(
            std::slice::from_ref(&held),
            Step::Begin {
                hold: crate::coherence::HoldId(1),
                lasting: Duration::from_secs(60),
            },
        );
        for n in 0..SHARDS * STATES_PER_SHARD * 2 {
            memory.apply(
                &StateKey::new(format!("f{n}~state")),
                Step::Open {
                    incarnation: Incarnation::default(),
                    fresh: 1,
                },
            );
        }
        assert_eq!(memory.seen(&held), Seen::Held);
        assert!(
            memory
                .states
                .iter()
                .map(|shard| shard.read().states.len())
                .sum::<usize>()
                <= SHARDS * (STATES_PER_SHARD + 1)
        );
    }

    #[test]
    fn however_long_their_names_are_they_take_no_more() {
        let memory = Memory::new(1 << 20);
        let opened = Step::Open {
            incarnation: Incarnation::default(),
            fresh: 1,
        };
        for n in 0..20_000 {
            let state = StateKey::new(format!("{n:07000}~state"));
            memory.apply(&state, opened);
            assert_ne!(memory.seen(&state), Seen::Absent, "the latest is kept");
        }
        for shard in &memory.states {
            let shard = shard.read();
            let names = shard.states.keys().map(|key| key.as_str().len());
            assert_eq!(names.sum::<usize>(), shard.names);
            assert!(shard.names <= NAMES_PER_SHARD);
            assert!(shard.states.len() > 20, "and not all are forgotten at once");
        }
    }

    /// Uploads that are broken off, each to another user, would fill the memory with them.
    #[test]
    fn a_state_whose_holds_have_run_out_is_forgotten_like_any() {
        let memory = Memory::new(1 << 20);
        let (hold, lasting) = (crate::coherence::HoldId(1), Duration::ZERO);
        let outcome = crate::coherence::Outcome::Ambiguous;
        for n in 0..SHARDS * (STATES_PER_SHARD + 100) {
            let state = StateKey::new(format!("f{n}~state"));
            memory.apply(&state, Step::Begin { hold, lasting });
            let finish = Step::Finish {
                hold,
                outcome,
                lasting,
            };
            memory.apply(&state, finish);
        }
        let states = memory.states.iter().map(|shard| shard.read().states.len());
        assert!(states.sum::<usize>() <= SHARDS * (STATES_PER_SHARD + 1));
    }
}
