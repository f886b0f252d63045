//! Never stale after a write: the one room that knows epochs and holds.
//!
//! # The story
//! Each **family** of copies (all queries, credentials and languages of one key) has a small **state** in
//! the store, and so has each group of families that can be purged together (`users:detail:*`). A state
//! has an **epoch** and the **holds** of the writes in flight. A copy carries the epochs that were current
//! *before* its fetch began and is valid only while all of them still are; so a purge need not find the
//! copies, and a late fill needs no guarding: it stores a copy that is not valid.
//!
//! * A *hit* reads the copy and its states in one round trip (`look_up`).
//! * A *miss* makes the epochs that are absent (`open`), fetches, and stores under them (`commit`).
//! * A *write* puts a hold on every state it touches, confirmed, before it is forwarded (`begin`), and takes
//!   it back before the client's first byte (`finish`): *changed* drops the epoch, *unchanged* does not,
//!   *ambiguous* drops it and leaves the hold until its deadline, for the upstream may commit late.
//! * A *purge by hand* drops the epoch and keeps the holds (`purge`).
//! * Reads of one key share one fetch (`flights`), but only under the epochs that each has itself just
//!   seen; without epochs, only a fetch that has not left yet.
//!
//! # The races it closes
//! A fill that began before a write and ends after it carries the old epoch. Two concurrent writes cannot
//! clear each other's holds, which have names. A missing epoch is a new one, never a fixed start: eviction,
//! restart, flush and a DEL of the state key are purges. An epoch is made by one script from the server's
//! time and fresh random bits, never twice.
//!
//! # Its limits today
//! While the store cannot be reached, writes are forwarded without a hold and their purges kept in a
//! journal, which is replayed before the store is used again; another instance that still reaches the store
//! serves the past until then. A store that restarts from an older snapshot or fails over to a replica that
//! missed a purge is not yet told from the one that was left. A hold that runs out while its write is still
//! on the way (60 s) protects no longer.

pub mod flights;
pub mod protocol;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tracing::{info, warn};

pub use protocol::{Epoch, Epochs, HoldId, Outcome, Seen, StateKey};

use crate::caching::cache_status::Reason;
use crate::caching::stored::{Stored, usable};
use crate::clock::Timestamp;
use crate::store::{Away, Found, Store};
use protocol::{Reply, Step};

/// How long a hold counts if its writer never comes back, given how long the upstream may take: a minute,
/// or longer where a write may take longer.
pub fn hold_for(upstream_total: Duration) -> Duration {
    (upstream_total + Duration::from_secs(30)).max(Duration::from_secs(60))
}

/// States kept in the journal before it becomes "all of them".
const JOURNAL_CAPACITY: usize = 100_000;

/// The states of one look-up; nearly always one or two.
pub type States = SmallVec<[StateKey; 2]>;

/// The protocol over a store.
pub struct Coherence {
    store: Arc<Store>,
    journal: Arc<Journal>,
    /// How long a hold counts: see `hold_for`.
    hold: Duration,
}

/// What a look-up came to.
#[derive(Debug)]
pub enum LookUp {
    /// A valid copy, fresh for so long.
    Hit(Arc<Stored>, Duration),
    Miss(Reason),
}

impl Coherence {
    pub fn new(store: Arc<Store>, journal: Arc<Journal>, hold: Duration) -> Self {
        Coherence {
            store,
            journal,
            hold,
        }
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// How many purges the store is owed.
    pub fn owed(&self) -> usize {
        self.journal.len()
    }

    /// One round trip: the copy, if it is valid and may be served under `origin` now.
    pub async fn look_up(
        &self,
        copy: &str,
        states: &States,
        origin: &str,
        now: Timestamp,
    ) -> LookUp {
        match self.store.look_up(copy, states).await {
            Ok(found) => judge(found, origin, now),
            Err(Away) => LookUp::Miss(Reason::StoreAway),
        }
    }

    /// The epochs to fetch under, made where absent. `Err` says why there are none: held, or the store away.
    pub async fn open(&self, states: &States) -> Result<Epochs, Reason> {
        let seen = self
            .store
            .open(states)
            .await
            .map_err(|Away| Reason::StoreAway)?;
        protocol::epochs(&seen).ok_or(Reason::Held)
    }

    /// Stores a copy under the epochs that it carries.
    pub async fn commit(
        &self,
        copy: &str,
        stored: Arc<Stored>,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let left = stored.lifetime.saturating_sub(stored.age(now));
        self.store.put(copy, stored, left).await
    }

    /// Announces a write on every state it touches. `Err` when that could not be confirmed.
    pub async fn begin(&self, states: Vec<StateKey>) -> Result<Write, Away> {
        let hold = HoldId(fresh_bits());
        let step = Step::Begin {
            hold,
            lasting: self.hold,
        };
        match self.store.step(&states, step).await {
            Ok(_) => Ok(Write {
                states,
                hold: Some(hold),
            }),
            Err(Away) => {
                // Some of it may have arrived: taken back as unchanged when the store is there again.
                self.journal.add(&states, Some((hold, Outcome::Unchanged)));
                Err(Away)
            }
        }
    }

    /// A write that goes ahead without a hold, because the store is away: its purge is owed.
    pub fn begin_unheld(&self, states: Vec<StateKey>) -> Write {
        Write { states, hold: None }
    }

    /// Confirms what became of a write. When the store cannot be reached the purge is journalled.
    pub async fn finish(&self, write: Write, outcome: Outcome) -> Result<(), Away> {
        let step = match (write.hold, outcome) {
            (Some(hold), outcome) => Step::Finish {
                hold,
                outcome,
                lasting: self.hold,
            },
            (None, Outcome::Unchanged) => return Ok(()),
            (None, Outcome::Changed | Outcome::Ambiguous) => Step::Purge,
        };
        match self.store.step(&write.states, step).await {
            Ok(replies) => {
                if write.hold.is_some() && replies.iter().any(|reply: &Reply| !reply.own_hold) {
                    info!(states = %Names(&write.states), "a write's hold was lost before it finished");
                }
                Ok(())
            }
            Err(Away) => {
                self.journal
                    .add(&write.states, write.hold.map(|hold| (hold, outcome)));
                Err(Away)
            }
        }
    }

    /// A purge by hand: complete and race-safe at any moment, in the middle of a fill or of a write.
    pub async fn purge(&self, states: &[StateKey]) -> Result<(), Away> {
        self.store.step(states, Step::Purge).await.map(drop)
    }
}

/// A write in flight, to be finished.
#[derive(Debug)]
pub struct Write {
    states: Vec<StateKey>,
    hold: Option<HoldId>,
}

fn judge(found: Found, origin: &str, now: Timestamp) -> LookUp {
    let copy = match found.copy {
        Ok(copy) => copy,
        Err(reason) => {
            let held = found.states.iter().any(|(_, seen)| *seen == Seen::Held);
            return LookUp::Miss(if held { Reason::Held } else { reason });
        }
    };
    if !protocol::valid(&copy.epochs, &found.states) {
        let held = found.states.iter().any(|(_, seen)| *seen == Seen::Held);
        return LookUp::Miss(if held { Reason::Held } else { Reason::Purged });
    }
    match usable(&copy, origin, now) {
        Ok(left) => LookUp::Hit(copy, left),
        Err(reason) => LookUp::Miss(reason),
    }
}

/// Purges that are owed to a store that was away. Replayed before the store is used again.
#[derive(Default)]
pub struct Journal(Mutex<Owed>);

#[derive(Default, Clone)]
pub struct Owed {
    /// Finishes of writes whose hold may stand in the store.
    pub finishes: Vec<(StateKey, HoldId, Outcome)>,
    pub purges: BTreeSet<StateKey>,
    /// Too many to remember: everything is to be purged.
    pub everything: bool,
}

impl Journal {
    fn add(&self, states: &[StateKey], hold: Option<(HoldId, Outcome)>) {
        let mut owed = self.0.lock();
        if owed.purges.len() + owed.finishes.len() >= JOURNAL_CAPACITY && !owed.everything {
            warn!(
                "too many purges are owed to the store: everything will be purged when it is back"
            );
            *owed = Owed {
                everything: true,
                ..Owed::default()
            };
        }
        if owed.everything {
            return;
        }
        match hold {
            Some((hold, outcome)) => owed
                .finishes
                .extend(states.iter().map(|s| (s.clone(), hold, outcome))),
            None => owed.purges.extend(states.iter().cloned()),
        }
    }

    /// What is owed now. It stays owed until `paid`.
    pub fn owed(&self) -> Owed {
        self.0.lock().clone()
    }

    /// Takes out what was replayed; what came since stays.
    pub fn paid(&self, paid: &Owed) {
        let mut owed = self.0.lock();
        owed.finishes
            .retain(|finish| !paid.finishes.contains(finish));
        owed.purges.retain(|purge| !paid.purges.contains(purge));
        owed.everything &= !paid.everything;
    }

    pub fn len(&self) -> usize {
        let owed = self.0.lock();
        owed.finishes.len() + owed.purges.len()
    }

    pub fn is_empty(&self) -> bool {
        let owed = self.0.lock();
        owed.finishes.is_empty() && owed.purges.is_empty() && !owed.everything
    }
}

impl Owed {
    pub fn is_empty(&self) -> bool {
        self.finishes.is_empty() && self.purges.is_empty() && !self.everything
    }
}

/// 64 bits that nobody has used before.
pub fn fresh_bits() -> u64 {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).expect("the system has random bits");
    u64::from_le_bytes(bits)
}

/// State names for a log line.
struct Names<'a>(&'a [StateKey]);

impl std::fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, state) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            f.write_str(state.as_str())?;
        }
        Ok(())
    }
}
