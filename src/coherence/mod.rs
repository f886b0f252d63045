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
//!   *ambiguous* drops it and leaves the state held until the hold's deadline, for the upstream may commit late. One hold
//!   stands for all such writes, or else a state would grow with them.
//!   Where the API's own reads lag its writes, *changed* leaves the state held for that long, too, and by the same one hold.
//! * Between its holds and its forwarding a write waits until no instance may show from its own memory what it has read
//!   of a state before (`lease`).
//! * A *purge by hand* drops the epoch and keeps the holds (`purge`); a soft one counts its generation up, so that what
//!   was fetched before is still valid, but outdated.
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
//! the journal's own lock; whoever owes something afterwards finds the link and pays at once, before it answers. Which life it is
//! is asked again by misses, and once a second by the next hit; so is whether the server's history is the one that it was.
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
//! run id is taken for another after every reconnect; an instance that connects to it for the first time cannot tell, nor
//! one whose link lasts while it is the copy of another and becomes itself again. Data of before that are put back into a server that
//! lives on are known only by who has heard of another life in between.
//!
//! # How it is shown
//! `tests/explore.rs` runs these very machines (`protocol`, `writing`, `journal`, `life`, `Fence`) through every order of steps
//! and faults in small worlds; `tests/history.rs` tries the whole on real servers.

pub mod flights;
pub mod journal;
pub mod lease;
pub mod life;
pub mod protocol;
pub mod turnstile;
pub mod writing;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use journal::Journal;
pub use protocol::{Epoch, Epochs, HoldId, Outcome, Seen, StateKey};
pub use writing::{WithoutStore, Writing};

use crate::caching::cache_status::Reason;
use crate::caching::stored::{Mark, Stored};
use crate::clock::Timestamp;
use crate::store::{Away, Found, SeenStates, Store};
use protocol::{Step, Validity};
use writing::{Act, Event};

/// How long a hold counts if its writer never comes back, given how long the upstream may take: a minute,
/// or longer where a write may take longer.
pub fn hold_for(upstream_total: Duration) -> Duration {
    (upstream_total + Duration::from_secs(30)).max(Duration::from_secs(60))
}

/// How long after the store went away, or began another life, every instance has noticed.
pub const NOTICE: Duration = Duration::from_millis(500);

/// The states of one look-up; nearly always one or two.
pub type States = SmallVec<[StateKey; 2]>;

/// What the copies of a read depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depends {
    /// First the own states, then those whose epochs a create would drop, which a negative copy names, too.
    pub states: States,
    /// How many are own.
    pub own: usize,
    /// The paths whose copies these are.
    pub mark: Mark,
}

impl Depends {
    pub fn own(&self) -> &[StateKey] {
        &self.states[..self.own]
    }

    /// None but the own states.
    pub fn on(states: States) -> Depends {
        let own = states.len();
        let mark = Mark::default();
        Depends { states, own, mark }
    }
}

/// The protocol over a store.
#[derive(Clone)]
pub struct Coherence {
    store: Arc<Store>,
    journal: Arc<Journal>,
    /// How long a hold counts: see `hold_for`.
    hold: Duration,
    /// For how long after a write's answer, or a purge by hand, what is read may still be of before it.
    lag: Duration,
    /// What is outdated once more only then.
    behind: TaskTracker,
}

/// What a look-up came to.
#[derive(Debug, Clone)]
pub enum LookUp {
    /// A copy that nothing has invalidated; fresh or stale, which is `caching::reuse`'s to judge.
    Valid(Arc<Stored>),
    /// The same, but a soft purge wants it fetched anew, however fresh.
    Outdated(Arc<Stored>),
    /// And what it has shown of the states on the way; boxed, or a hit would carry room for it.
    Miss(Reason, Option<Box<Shown>>),
}

/// States as a look-up has found them.
pub type Shown = SeenStates;

impl Coherence {
    pub fn new(store: Arc<Store>, journal: Arc<Journal>, hold: Duration) -> Self {
        Coherence {
            store,
            journal,
            hold,
            lag: Duration::ZERO,
            behind: TaskTracker::new(),
        }
    }

    /// The same protocol over the same store, with another time for which a hold counts, and another lag of what is read.
    pub fn holding(&self, hold: Duration, lag: Duration) -> Coherence {
        Coherence {
            hold,
            lag,
            ..self.clone()
        }
    }

    /// Whether what is read may lag what is written.
    pub fn lags(&self) -> bool {
        !self.lag.is_zero()
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// How many purges the store is owed.
    pub fn owed(&self) -> usize {
        self.journal.len()
    }

    /// As `look_up`, where nobody need be asked: with a store in this process, or one that has been asked a moment ago.
    /// `own`: the first state's name, where that is another than in `depends`.
    pub fn look_up_now(
        &self,
        copy: &str,
        depends: &Depends,
        own: Option<&str>,
        origin: &str,
    ) -> Option<LookUp> {
        let found = self.store.look_up_now(copy, &depends.states, own)?;
        Some(judge(found, depends, origin))
    }

    /// One round trip: the copy, if it is valid and right under `origin`.
    pub async fn look_up(&self, copy: &str, depends: &Depends, origin: &str) -> LookUp {
        match self.store.look_up(copy, &depends.states).await {
            Ok(found) => judge(found, depends, origin),
            Err(Away) => LookUp::Miss(Reason::StoreAway, None),
        }
    }

    /// As `look_up`, in the same round trip, for who is admitted under these epochs. `None`: no more.
    pub async fn look_up_admitted(
        &self,
        copy: &str,
        depends: &Depends,
        origin: &str,
        admitted: &Epochs,
    ) -> Option<LookUp> {
        let mut states = depends.states.clone();
        states.extend(admitted.iter().map(|(state, _)| state.clone()));
        let Ok(mut found) = self.store.look_up(copy, &states).await else {
            return Some(LookUp::Miss(Reason::StoreAway, None));
        };
        let (_, credential) = found.states.split_at(depends.states.len());
        let is_admitted = protocol::validity(admitted, credential) == Validity::Valid;
        found.states.truncate(depends.states.len());
        is_admitted.then(|| judge(found, depends, origin))
    }

    /// Whether whoever was admitted under these epochs still is, as the store says now. `nothing`: a key without a copy.
    pub async fn is_admitted(&self, nothing: &str, admitted: &Epochs) -> bool {
        let states: States = admitted.iter().map(|(state, _)| state.clone()).collect();
        if states.is_empty() {
            return true;
        }
        let looked = self.store.look_up(nothing, &states).await;
        looked.is_ok_and(|found| protocol::validity(admitted, &found.states) == Validity::Valid)
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

    /// Stores a copy under the epochs that it carries, until `keep` after it has become stale.
    pub async fn commit(
        &self,
        copy: &str,
        stored: Arc<Stored>,
        keep: Duration,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let left = (stored.lifetime + keep).saturating_sub(stored.age(now));
        self.store.put(copy, stored, left).await
    }

    /// Something is kept under these epochs other than as a copy: they live as long as for one.
    pub fn prolong(&self, epochs: &Epochs) {
        self.store.prolong(epochs);
    }

    /// Announces a write on every state it touches; confirmed, or else it is refused or forwarded unheld.
    pub async fn begin(
        &self,
        states: Vec<StateKey>,
        without_store: WithoutStore,
    ) -> Result<Writing, Refused> {
        if self.is_away() {
            // Boxed, or every write would carry room for it.
            Box::pin(self.store.soon()).await;
        }
        self.begin_for(self.hold, states, without_store).await
    }

    async fn begin_for(
        &self,
        lasting: Duration,
        states: Vec<StateKey>,
        without_store: WithoutStore,
    ) -> Result<Writing, Refused> {
        let (mut writing, first) = self.journal.with(|book| {
            // 63 bits: never `HoldId::AMBIGUOUS`.
            let (hold, now) = (HoldId(fresh_bits() >> 1), Instant::now());
            let away = self.is_away();
            Writing::begin(states, hold, lasting, without_store, book, away, now)
        });
        match self.go_on(&mut writing, first, Taken::ByItsFinish).await {
            Act::Forward => Ok(writing),
            _ => Err(Refused),
        }
    }

    /// Confirms what became of a write. What could not be confirmed is in the journal.
    pub async fn finish(&self, mut writing: Writing, outcome: Outcome) -> Finished {
        if outcome == Outcome::Changed && self.lags() {
            Box::pin(self.drop_behind(writing.states())).await;
        }
        self.end(&mut writing, outcome, Taken::ByItsFinish).await
    }

    /// Drops the epochs, and leaves the states held until what is read is of no earlier than now: as after an ambiguous write
    /// that comes to pass by then.
    async fn drop_behind(&self, states: &[StateKey]) -> Finished {
        let begun = self.begin_for(self.lag, states.to_vec(), WithoutStore::Forward);
        match begun.await {
            Ok(mut writing) => {
                let outcome = Outcome::Ambiguous;
                self.end(&mut writing, outcome, Taken::ByItsFinish).await
            }
            Err(Refused) => Finished::Unconfirmed,
        }
    }

    /// Waits for what is outdated behind.
    pub async fn caught_up(&self) {
        self.behind.close();
        self.behind.wait().await;
    }

    async fn end(&self, writing: &mut Writing, outcome: Outcome, taken: Taken) -> Finished {
        let ended = Event::Ended(outcome);
        let first = self
            .journal
            .with(|book| writing.next(ended, book, self.is_away()));
        match self.go_on(writing, first, taken).await {
            Act::Answer { owed: false } => Finished::Confirmed,
            Act::Answer { owed: true } => Finished::Owed,
            _ => Finished::Unconfirmed,
        }
    }

    /// As `finish` after a write that has changed something; and the epochs that begin with it, to keep its answer under, if
    /// nothing else was written since `before` was opened, which was before the write began.
    pub async fn finish_renewed(
        &self,
        mut writing: Writing,
        before: &Epochs,
    ) -> (Finished, Option<Epochs>) {
        if self.lags() {
            // Held for the lag, nothing is kept.
            return (self.finish(writing, Outcome::Changed).await, None);
        }
        let mut taken = Taken::ByItsFinish;
        let renewed = self.renew(&writing, before, &mut taken).await;
        // Renewed, the old epochs are dropped and the hold is gone: nothing is left to be changed.
        let outcome = match renewed {
            Some(_) => Outcome::Unchanged,
            None => Outcome::Changed,
        };
        (self.end(&mut writing, outcome, taken).await, renewed)
    }

    async fn renew(&self, writing: &Writing, before: &Epochs, taken: &mut Taken) -> Option<Epochs> {
        let life = before.first()?.1.incarnation();
        let (hold, states) = (writing.hold(), writing.states());
        let all_opened = states
            .iter()
            .all(|state| before.iter().any(|(opened, _)| opened == state));
        if !all_opened {
            return None;
        }
        let step = Step::Renew {
            hold,
            incarnation: life,
            fresh: fresh_bits() as u32,
        };
        let replies = self.store.renew(states, step).await.ok()?;
        if replies.iter().all(|reply| reply.own_hold) {
            *taken = Taken::Before;
        }
        let mut epochs = before.clone();
        for (state, reply) in states.iter().zip(replies) {
            let Seen::Current(epoch) = reply.seen else {
                return None;
            };
            let of_it = epochs.iter_mut().filter(|(opened, _)| opened == state);
            of_it.for_each(|(_, opened)| *opened = epoch);
        }
        Some(epochs)
    }

    /// Does what a write says, until it says something that is not for the store.
    async fn go_on(&self, writing: &mut Writing, mut act: Act, taken: Taken) -> Act {
        // The longest term, if it was read after the holds were there.
        let mut longest = None;
        loop {
            let event = match act {
                Act::Tell(step @ Step::Begin { .. }) => {
                    match self.store.announce(writing.states(), step).await {
                        Ok(term) => {
                            longest = Some(term);
                            Event::Told
                        }
                        Err(Away) => Event::Untold,
                    }
                }
                Act::Tell(step) => match self.store.step(writing.states(), step).await {
                    Ok(replies) => {
                        let lost = replies.iter().any(|reply| !reply.own_hold);
                        let mattered = matches!(step, Step::Finish { outcome, .. } if outcome != Outcome::Unchanged);
                        match lost && mattered && taken == Taken::ByItsFinish {
                            true => {
                                info!(states = %Names(writing.states()), "a write's hold was lost before it finished");
                                Event::ToldUnheld
                            }
                            false => Event::Told,
                        }
                    }
                    Err(Away) => Event::Untold,
                },
                Act::Lapse => {
                    let term = match longest.take() {
                        Some(term) => term,
                        None => self.store.longest_lease().await,
                    };
                    lapse(term).await;
                    Event::Lapsed
                }
                Act::Notice => {
                    self.notice().await;
                    Event::Noticed
                }
                other => return other,
            };
            act = self
                .journal
                .with(|book| writing.next(event, book, self.is_away()));
        }
    }

    /// Under the journal's lock this does not change.
    fn is_away(&self) -> bool {
        self.store.away_since().is_some()
    }

    /// Waits until the store has been away for the notice time, if it is.
    async fn notice(&self) {
        if let Some(since) = self.store.away_since() {
            tokio::time::sleep_until(since + NOTICE).await;
        }
    }

    /// A purge by hand: complete and race-safe at any moment, in the middle of a fill or of a write; also in every
    /// instance's own memory.
    pub async fn purge(&self, states: &[StateKey]) -> Result<(), Away> {
        if self.lags() && !self.is_away() {
            return match Box::pin(self.drop_behind(states)).await {
                Finished::Confirmed => Ok(()),
                Finished::Owed | Finished::Unconfirmed => Err(Away),
            };
        }
        lapse(self.store.announce(states, Step::Purge).await?).await;
        Ok(())
    }

    /// A soft purge: what is there is outdated from now on, and so is what is being fetched.
    pub async fn outdate(&self, states: &[StateKey]) -> Result<(), Away> {
        self.outdate_now(states).await?;
        if self.lags() {
            let (coherence, states) = (self.clone(), states.to_vec());
            self.behind.spawn(async move {
                tokio::time::sleep(coherence.lag).await;
                if coherence.outdate_now(&states).await.is_err() {
                    warn!(
                        ?states,
                        "what was fetched within `upstream.lag` of a soft purge could not be outdated: it may be of before until its ttl is over; purge it once more"
                    );
                }
            });
        }
        Ok(())
    }

    async fn outdate_now(&self, states: &[StateKey]) -> Result<(), Away> {
        // Twice: what was to be of the next generation, and was left there by who failed to begin that, is not of this one.
        self.store.step(states, Step::Outdate).await?;
        lapse(self.store.announce(states, Step::Outdate).await?).await;
        Ok(())
    }

    /// A soft purge with which a generation begins that a copy is there for already. Not if another came first: then that copy
    /// is outdated, too.
    pub async fn outdate_for(&self, to_come: &(StateKey, Epoch)) -> Result<bool, Away> {
        let (state, to_come) = to_come;
        let state = std::slice::from_ref(state);
        let replies = self.store.step(state, Step::Outdate).await?;
        let is_later = |reply: &protocol::Reply| match reply.seen {
            Seen::Current(epoch) => epoch.is_of(*to_come) && epoch != *to_come,
            Seen::Held | Seen::Absent => false,
        };
        if replies.iter().any(is_later) {
            return Ok(false);
        }
        lapse(self.store.longest_lease().await).await;
        Ok(true)
    }
}

/// What took a write's own holds away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    ByItsFinish,
    /// All of them, and they were there: its finish does not find them.
    Before,
}

/// Waits until leases of this term are good no more.
async fn lapse(term: Duration) {
    if !term.is_zero() {
        tokio::time::sleep(term).await;
    }
}

/// The store is away, and writes are refused meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Whether the store has been told how a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Confirmed,
    /// It is told before it is used again; the client may have its answer.
    Owed,
    /// The same, but the client must not take it for done.
    Unconfirmed,
}

fn judge(found: Found, depends: &Depends, origin: &str) -> LookUp {
    let own = depends.own;
    let missed = |reason, needed: usize, states: SeenStates| {
        let held = states[..needed].iter().any(|(_, seen)| *seen == Seen::Held);
        let reason = if held { Reason::Held } else { reason };
        LookUp::Miss(reason, Some(Box::new(states)))
    };
    let copy = match found.copy {
        Ok(copy) => copy,
        Err(reason) => return missed(reason, own, found.states),
    };
    let needed = match copy.is_negative() {
        true => found.states.len(),
        false => own,
    };
    let validity = protocol::validity(&copy.epochs, &found.states[..needed]);
    match validity {
        Validity::Invalid => missed(Reason::Purged, needed, found.states),
        _ if copy.head.mark() != depends.mark => LookUp::Miss(Reason::Foreign, None),
        _ if !copy.is_of(origin) => LookUp::Miss(Reason::OtherOrigin, None),
        Validity::Valid | Validity::ToCome => LookUp::Valid(copy),
        Validity::Outdated => LookUp::Outdated(copy),
    }
}

/// 64 bits that nobody has used before.
pub fn fresh_bits() -> u64 {
    /// Asked of the system at once: it costs a system call, and each miss and each write wants some.
    const BATCH: usize = 64;
    thread_local! {
        static LEFT: RefCell<SmallVec<[u64; BATCH]>> = const { RefCell::new(SmallVec::new_const()) };
    }
    LEFT.with_borrow_mut(|left| {
        if let Some(bits) = left.pop() {
            return bits;
        }
        let mut bytes = [0; 8 * BATCH];
        getrandom::fill(&mut bytes).expect("the system has random bits");
        let (first, others) = bytes
            .as_chunks::<8>()
            .0
            .split_first()
            .expect("there are some");
        left.extend(others.iter().map(|bits| u64::from_le_bytes(*bits)));
        u64::from_le_bytes(*first)
    })
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
