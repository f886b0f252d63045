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
//! # When the store is lost
//! An epoch names the **life** of the store in which it was made. A server that is not the one it was (a restart, a
//! failover, a return from a snapshot: it says so by its run id and replication id), or that was left for another, lives another life, in which
//! no older epoch is trusted: that purges everything, on every instance, also on one that connects for the first
//! time. Before an instance uses a link again it puts back the holds of its writes in flight and of ambiguous ones,
//! and replays what it could not confirm (the **journal**); for the **notice time** after a life began, nobody makes
//! or trusts an epoch, so that every instance has done so. A link is published only while nothing is owed, under
//! the journal's own lock; whoever owes something afterwards finds the link and pays at once, before it answers.
//!
//! While the store is away, reads go upstream, and writes by `when_store_is_down`: refused; or forwarded, after
//! the store has been away for the notice time, without a hold.
//!
//! # Its limits
//! With `forward`, an instance that is cut off alone serves its writes, and the others the past, until it is back; so
//! does one that had asked nothing while the store hung, if it reaches it before the one that wrote meanwhile.
//! A hold that the store loses while its write is in flight, without the instance losing its link (eviction, flush,
//! a DEL of that very key), protects no longer until the write is finished. A hold that runs out while its write is
//! still on the way protects no longer: an upload that is streamed for longer than `hold_for`. A store that hides its
//! run id is taken for another after every reconnect; an instance that connects to it for the first time cannot tell.

pub mod flights;
pub mod protocol;
pub mod turnstile;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;
use tracing::{info, warn};

pub use protocol::{Epoch, Epochs, HoldId, Outcome, Seen, StateKey};

use crate::caching::cache_status::Reason;
use crate::caching::stored::{Stored, usable};
use crate::clock::Timestamp;
use crate::store::{Away, Found, Store};
use protocol::Step;

/// How long a hold counts if its writer never comes back, given how long the upstream may take: a minute,
/// or longer where a write may take longer.
pub fn hold_for(upstream_total: Duration) -> Duration {
    (upstream_total + Duration::from_secs(30)).max(Duration::from_secs(60))
}

/// How long after the store went away, or began another life, every instance has noticed.
pub const NOTICE: Duration = Duration::from_millis(500);

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
        // Once more if the store came back in the meantime.
        for _ in 0..2 {
            let hold = HoldId(fresh_bits());
            // Known before it is sent, so that a reconnect in between puts it back.
            self.journal.hold(hold, &states, self.hold);
            let begin = Step::Begin {
                hold,
                lasting: self.hold,
            };
            if self.store.step(&states, begin).await.is_ok() {
                return Ok(Write {
                    states,
                    hold: Some(hold),
                });
            }
            // Some of it may have arrived: taken back as unchanged, at the latest when the store is there again.
            self.settle(&states, Some((hold, Outcome::Unchanged)))
                .await?;
        }
        Err(Away)
    }

    /// A write that goes ahead without a hold, because the store is away: its purge is owed. It waits until every
    /// instance has had the time to notice that the store is away.
    pub async fn begin_unheld(&self, states: Vec<StateKey>) -> Write {
        self.notice().await;
        Write { states, hold: None }
    }

    /// Confirms what became of a write. `Err` when the store could not be reached: then it is in the journal.
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
                if let Some(hold) = write.hold {
                    self.journal.finished(hold, outcome);
                    if replies.iter().any(|reply| !reply.own_hold) {
                        info!(states = %Names(&write.states), "a write's hold was lost before it finished");
                    }
                }
                Ok(())
            }
            Err(Away) => {
                self.settle(&write.states, write.hold.map(|hold| (hold, outcome)))
                    .await
            }
        }
    }

    /// Notes what the store is owed. If it came back in the meantime it is told now; else before it is used again.
    async fn settle(
        &self,
        states: &[StateKey],
        hold: Option<(HoldId, Outcome)>,
    ) -> Result<(), Away> {
        self.journal.add(states, hold);
        if self.store.away_since().is_some() {
            return Err(Away);
        }
        let step = match hold {
            Some((hold, outcome)) => Step::Finish {
                hold,
                outcome,
                lasting: self.hold,
            },
            None => Step::Purge,
        };
        self.store.step(states, step).await?;
        self.journal.settled(states, hold);
        Ok(())
    }

    /// Waits until the store has been away for the notice time, or is back.
    pub async fn notice(&self) {
        if let Some(since) = self.store.away_since() {
            tokio::time::sleep_until(since + NOTICE).await;
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

/// What the store must be told when it is back: the holds of writes in flight, which a restart may have lost, and
/// what could not be confirmed. Replayed before the store is used again.
#[derive(Default)]
pub struct Journal(Mutex<Book>);

#[derive(Default)]
struct Book {
    /// Writes in flight, and ambiguous ones until their deadline.
    holds: HashMap<HoldId, (Vec<StateKey>, Instant)>,
    finishes: Vec<(HoldId, Vec<StateKey>, Outcome)>,
    purges: BTreeSet<StateKey>,
    everything: bool,
}

/// What is owed at one moment.
pub struct Owed {
    /// Holds to put back, each for as long as it has left.
    pub holds: Vec<(HoldId, Vec<StateKey>, Duration)>,
    pub finishes: Vec<(HoldId, Vec<StateKey>, Outcome)>,
    pub purges: BTreeSet<StateKey>,
    /// Too many to remember: everything is to be purged.
    pub everything: bool,
}

impl Journal {
    fn hold(&self, hold: HoldId, states: &[StateKey], lasting: Duration) {
        let now = Instant::now();
        let mut book = self.0.lock();
        if book.holds.len() >= 1024 {
            book.holds.retain(|_, (_, deadline)| *deadline > now);
        }
        book.holds.insert(hold, (states.to_vec(), now + lasting));
    }

    /// A finish was confirmed: an ambiguous one leaves its hold.
    fn finished(&self, hold: HoldId, outcome: Outcome) {
        if outcome != Outcome::Ambiguous {
            self.0.lock().holds.remove(&hold);
        }
    }

    fn add(&self, states: &[StateKey], hold: Option<(HoldId, Outcome)>) {
        let mut book = self.0.lock();
        if book.purges.len() + book.finishes.len() >= JOURNAL_CAPACITY && !book.everything {
            warn!(
                "too many purges are owed to the store: everything will be purged when it is back"
            );
            (book.everything, book.purges) = (true, BTreeSet::new());
            book.finishes.clear();
        }
        match hold {
            // Its hold may stand in the store: only its own finish takes it back.
            Some((hold, outcome)) => book.finishes.push((hold, states.to_vec(), outcome)),
            None if book.everything => {}
            None => book.purges.extend(states.iter().cloned()),
        }
    }

    /// What was added is paid already.
    fn settled(&self, states: &[StateKey], hold: Option<(HoldId, Outcome)>) {
        let mut book = self.0.lock();
        match hold {
            Some((hold, outcome)) => {
                book.finishes.retain(|(owed, _, _)| *owed != hold);
                if outcome != Outcome::Ambiguous {
                    book.holds.remove(&hold);
                }
            }
            None => book.purges.retain(|state| !states.contains(state)),
        }
    }

    /// What is owed now. It stays owed until `paid`.
    pub fn owed(&self) -> Owed {
        let (now, book) = (Instant::now(), self.0.lock());
        let left = |(hold, (states, deadline)): (&HoldId, &(Vec<StateKey>, Instant))| {
            let left = deadline.checked_duration_since(now)?;
            Some((*hold, states.clone(), left))
        };
        Owed {
            holds: book.holds.iter().filter_map(left).collect(),
            finishes: book.finishes.clone(),
            purges: book.purges.clone(),
            everything: book.everything,
        }
    }

    /// Takes out what was replayed; what came since stays.
    pub fn paid(&self, paid: &Owed) {
        let mut book = self.0.lock();
        for (hold, _, outcome) in &paid.finishes {
            book.finishes.retain(|(owed, _, _)| owed != hold);
            if *outcome != Outcome::Ambiguous {
                book.holds.remove(hold);
            }
        }
        book.purges.retain(|purge| !paid.purges.contains(purge));
        book.everything &= !paid.everything;
    }

    /// Does it if nothing is owed, so that nothing can come to be owed in between. Whether it was done.
    pub fn if_nothing_is_owed(&self, then: impl FnOnce()) -> bool {
        let book = self.0.lock();
        let nothing = book.finishes.is_empty() && book.purges.is_empty() && !book.everything;
        if nothing {
            then();
        }
        nothing
    }

    /// How many purges and finishes are owed.
    pub fn len(&self) -> usize {
        let book = self.0.lock();
        book.finishes.len() + book.purges.len() + usize::from(book.everything)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
