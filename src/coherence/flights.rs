//! One fetch for all who want the same now. Joining is fenced: a read may join a fetch only if it carries the
//! epochs that the read itself has just seen; without epochs, only one without epochs that has not left yet, so that
//! there is at most one such in flight and one waiting per key. (One with epochs may hold a copy of theirs, which a write
//! may have dropped since.)
//!
//! A fetch lives as long as somebody waits for it. Its leader carries it on itself, and nearly always to its end; if the
//! leader leaves or goes on to read while others still wait, it becomes a task of its own. A fetch that nobody wants any
//! more is given up and stores nothing.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::Epochs;

const SHARDS: usize = 32;

/// Places that remember when a fetch for one of their keys has ended.
const ENDS: usize = 4096;

/// The fetches under way, by what they are for.
pub struct Flights<A> {
    air: Arc<Air<A>>,
}

struct Air<A> {
    shards: Vec<Shard<A>>,
    hasher: RandomState,
    /// How many fetches have ended.
    ended: AtomicU64,
    /// Which of them was the last for a key in this place.
    ends: Vec<AtomicU64>,
}

/// A moment, in fetches that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

type Shard<A> = Mutex<HashMap<String, SmallVec<[Arc<Flight<A>>; 1]>, RandomState>>;

/// What a read has seen just now, and a fetch carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Of the copy's own states; `None` while one is held or the store is away.
    pub epochs: Option<Epochs>,
    /// Of the states that a create would purge, if all purge rules name such: under equal ones, even the
    /// absence of a thing can be shared with who came while the fetch was out.
    pub absence: Option<Epochs>,
}

/// What of a fetch's answer a read may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Share {
    /// What is storable by its status, and there: of anything else more than the epochs say could be of the past.
    Storable,
    Whatever,
}

impl Fence {
    /// Whether a fetch that carries this fence, and has left or not, is for a read that has just seen `mine`.
    pub fn admits(&self, mine: &Fence, left: bool) -> Option<Share> {
        let joinable = match (&self.epochs, &mine.epochs) {
            (Some(theirs), Some(mine)) => theirs == mine,
            (None, None) => !left,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let absence = mine.absence.is_some() && mine.absence == self.absence;
        joinable.then_some(match !left || absence {
            true => Share::Whatever,
            false => Share::Storable,
        })
    }
}

struct Flight<A> {
    fence: Fence,
    /// Changes under the shard's lock.
    left: Mutex<bool>,
    told: Mutex<Told<A>>,
    interest: Weak<Interest>,
}

/// What those who wait are told.
struct Told<A> {
    /// The latest.
    answer: Option<A>,
    /// Nothing more will be told.
    is_over: bool,
    /// Who waits, each in its place.
    waiting: Vec<Option<Waker>>,
}

impl<A> Flight<A> {
    fn tell(&self, tell: impl FnOnce(&mut Told<A>)) {
        let woken: SmallVec<[Waker; 4]> = {
            let mut told = self.told.lock();
            tell(&mut told);
            told.waiting.iter_mut().filter_map(Option::take).collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// An answer that is wanted, or `None` once there will be none; until then whoever asks is woken by what is told.
    async fn told(&self, is_wanted: impl Fn(&A) -> bool) -> Option<A>
    where
        A: Clone,
    {
        let mut place = Place {
            flight: self,
            number: None,
        };
        poll_fn(|cx| place.poll(&is_wanted, cx)).await
    }
}

/// Of one who waits. Nobody is woken there any more who has left.
struct Place<'f, A> {
    flight: &'f Flight<A>,
    number: Option<usize>,
}

impl<A: Clone> Place<'_, A> {
    fn poll(&mut self, is_wanted: impl Fn(&A) -> bool, cx: &mut Context<'_>) -> Poll<Option<A>> {
        let mut told = self.flight.told.lock();
        let answer = told.answer.as_ref().filter(|answer| is_wanted(answer));
        if answer.is_some() || told.is_over {
            return Poll::Ready(answer.cloned());
        }
        let place = *self.number.get_or_insert_with(|| {
            told.waiting.push(None);
            told.waiting.len() - 1
        });
        told.waiting[place] = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<A> Drop for Place<'_, A> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let left = self.flight.told.lock().waiting[number].take();
            drop(left);
        }
    }
}

/// Kept by all who wait; when the last one goes, so does the fetch.
pub struct Interest(Mutex<Option<AbortHandle>>);

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().take() {
            task.abort();
        }
    }
}

/// Lead or follow.
pub enum Turn<A> {
    Lead {
        fill: Fill<A>,
        follower: Follower<A>,
        /// A fetch for this copy may have ended since the leader has looked: it may be there.
        look_again: bool,
    },
    Follow(Follower<A>),
}

/// The duty to fetch for all who wait. Dropped, it gives the key free.
pub struct Fill<A> {
    flight: Arc<Flight<A>>,
    key: String,
    air: Arc<Air<A>>,
    hash: usize,
    /// The fetch that must be over before this one may leave.
    after: Option<Arc<Flight<A>>>,
}

/// A place among those who wait.
pub struct Follower<A> {
    flight: Arc<Flight<A>>,
    interest: Arc<Interest>,
    /// It is this one's own request that was sent.
    pub leads: bool,
    /// Whether an answer that is not storable for its status, or says that something is absent, may be shared with this one.
    pub may_share_status: bool,
    /// What is still to be done of the fetch, where it is this one's to do.
    fetch: Option<Fetching>,
}

type Fetching = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<A: Clone> Default for Flights<A> {
    fn default() -> Self {
        Flights {
            air: Arc::new(Air {
                shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
                hasher: RandomState::default(),
                ended: AtomicU64::new(0),
                ends: (0..ENDS).map(|_| AtomicU64::new(0)).collect(),
            }),
        }
    }
}

/// The same flights.
impl<A> Clone for Flights<A> {
    fn clone(&self) -> Self {
        Flights {
            air: self.air.clone(),
        }
    }
}

impl<A: Clone> Flights<A> {
    pub fn new() -> Self {
        Flights::default()
    }

    /// To be taken before a look-up.
    pub fn now(&self) -> Moment {
        Moment(self.air.ended.load(Ordering::Acquire))
    }

    /// For one who has looked for the copy after `since`, and found none.
    pub fn join(&self, key: &str, fence: &Fence, since: Moment) -> Turn<A> {
        let hash = self.air.hasher.hash_one(key) as usize;
        let mut flights = self.air.shard(hash).lock();
        let under_way = flights.entry(key.to_owned()).or_default();
        for flight in under_way.iter() {
            let left = *flight.left.lock();
            let Some(share) = flight.fence.admits(fence, left) else {
                continue;
            };
            let Some(interest) = flight.interest.upgrade() else {
                continue;
            };
            return Turn::Follow(Follower {
                flight: flight.clone(),
                interest,
                leads: false,
                may_share_status: share == Share::Whatever,
                fetch: None,
            });
        }
        let after = match fence.epochs {
            Some(_) => None,
            None => under_way
                .iter()
                .rfind(|flight| flight.fence.epochs.is_none())
                .cloned(),
        };
        let interest = Arc::new(Interest(Mutex::new(None)));
        let flight = Arc::new(Flight {
            fence: fence.clone(),
            left: Mutex::new(false),
            told: Mutex::new(Told {
                answer: None,
                is_over: false,
                waiting: Vec::new(),
            }),
            interest: Arc::downgrade(&interest),
        });
        under_way.push(flight.clone());
        let follower = Follower {
            flight: flight.clone(),
            interest,
            leads: true,
            may_share_status: true,
            fetch: None,
        };
        Turn::Lead {
            look_again: self.air.end(hash).load(Ordering::Acquire) > since.0,
            fill: Fill {
                flight,
                key: key.to_owned(),
                air: self.air.clone(),
                hash,
                after,
            },
            follower,
        }
    }
}

impl<A> Air<A> {
    fn shard(&self, hash: usize) -> &Shard<A> {
        &self.shards[hash % SHARDS]
    }

    fn end(&self, hash: usize) -> &AtomicU64 {
        &self.ends[hash / SHARDS % ENDS]
    }
}

impl<A: Clone> Fill<A> {
    /// What it is for.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn fence(&self) -> &Fence {
        &self.flight.fence
    }

    /// Waits until this fetch may leave.
    pub async fn turn(&mut self) {
        if let Some(before) = self.after.take() {
            // Answered or given up: either way it is over.
            before.told(|_| true).await;
        }
    }

    /// The fetch leaves now: from here on nobody joins it without its epochs.
    pub fn leave(&self) {
        let _shard = self.air.shard(self.hash).lock();
        *self.flight.left.lock() = true;
    }

    /// Tells everybody.
    pub fn answer(&self, answer: A) {
        self.flight.tell(|told| told.answer = Some(answer));
    }
}

impl<A> Drop for Fill<A> {
    fn drop(&mut self) {
        let mut flights = self.air.shard(self.hash).lock();
        // What it has stored was there before this.
        let ended = self.air.ended.fetch_add(1, Ordering::AcqRel) + 1;
        // Of two that share the place, the last.
        self.air.end(self.hash).fetch_max(ended, Ordering::AcqRel);
        if let Some(under_way) = flights.get_mut(&self.key) {
            under_way.retain(|flight| !Arc::ptr_eq(flight, &self.flight));
            if under_way.is_empty() {
                flights.remove(&self.key);
            }
        }
        drop(flights);
        self.flight.tell(|told| told.is_over = true);
    }
}

impl<A> Follower<A> {
    /// Takes on the fetch that its leader leads.
    pub fn carry(&mut self, fetch: impl Future<Output = ()> + Send + 'static) {
        self.fetch = Some(Box::pin(fetch));
    }

    /// The first answer that is for this one; `None` if the fetch was given up without.
    pub async fn answer(&mut self, is_for_me: impl Fn(&A) -> bool) -> Option<A>
    where
        A: Clone,
    {
        let Follower { flight, fetch, .. } = self;
        if let Some(fetching) = fetch {
            // All that is told is told by the fetch itself: nobody else would have to wake this one.
            let told = poll_fn(|cx| {
                if fetching.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                let told = flight.told.lock();
                match told.answer.as_ref().filter(|answer| is_for_me(answer)) {
                    Some(answer) => Poll::Ready(Some(answer.clone())),
                    None => Poll::Pending,
                }
            });
            if let Some(answer) = told.await {
                return Some(answer);
            }
            *fetch = None;
        }
        if let Some(flight) = Arc::get_mut(flight) {
            return flight.told.get_mut().answer.take().filter(is_for_me);
        }
        flight.told(is_for_me).await
    }

    /// To be kept by whoever still reads.
    pub fn interest(&self) -> Arc<Interest> {
        self.interest.clone()
    }
}

impl<A> Drop for Follower<A> {
    fn drop(&mut self) {
        let Some(fetch) = self.fetch.take() else {
            return;
        };
        // Who joins after this look is told that the fetch was given up, and asks anew.
        let others = Arc::strong_count(&self.interest) > 1;
        if others && let Ok(runtime) = Handle::try_current() {
            *self.interest.0.lock() = Some(runtime.spawn(fetch).abort_handle());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::coherence::{Epoch, StateKey};

    fn fence(epoch: Option<u32>, absence: Option<u32>) -> Fence {
        let epochs = |name: &str, fresh| {
            [(
                StateKey::new(name),
                Epoch::new(Timestamp::from_micros(1), Default::default(), fresh),
            )]
            .into_iter()
            .collect()
        };
        Fence {
            epochs: epoch.map(|e| epochs("f~state", e)),
            absence: absence.map(|e| epochs("list~state", e)),
        }
    }

    fn leads(turn: Turn<u8>) -> (Fill<u8>, Follower<u8>) {
        match turn {
            Turn::Lead { fill, follower, .. } => (fill, follower),
            Turn::Follow(_) => panic!("it follows"),
        }
    }

    fn follows(turn: Turn<u8>) -> Follower<u8> {
        match turn {
            Turn::Lead { .. } => panic!("it leads"),
            Turn::Follow(follower) => follower,
        }
    }

    #[test]
    fn a_read_joins_a_fetch_that_carries_the_epochs_it_has_itself_seen_and_no_other() {
        let flights = Flights::new();
        let (fill, _one) = leads(flights.join("k", &fence(Some(1), None), flights.now()));
        fill.leave();
        let _same = follows(flights.join("k", &fence(Some(1), None), flights.now()));
        let (later, _c) = leads(flights.join("k", &fence(Some(2), None), flights.now()));
        later.leave();
        let _unfenced = leads(flights.join("k", &fence(None, None), flights.now()));
        let _other_key = leads(flights.join("j", &fence(Some(1), None), flights.now()));
    }

    #[test]
    fn only_who_looked_before_a_fetch_for_the_same_copy_had_ended_looks_again() {
        let flights = Flights::new();
        let looks_again = |key: &str, since| match flights.join(key, &fence(Some(1), None), since) {
            Turn::Lead { look_again, .. } => look_again,
            Turn::Follow(_) => panic!("it follows"),
        };
        let before = flights.now();
        let (fill, _one) = leads(flights.join("k", &fence(Some(1), None), before));
        let meanwhile = flights.now();
        fill.answer(1);
        drop(fill);
        assert!(looks_again("k", before) && looks_again("k", meanwhile));
        assert!(!looks_again("k", flights.now()));
        assert!(!looks_again("another", before));
    }

    #[test]
    fn without_epochs_only_a_fetch_that_has_not_left_is_joined() {
        let flights = Flights::new();
        let (first, _a) = leads(flights.join("k", &fence(None, None), flights.now()));
        let _b = follows(flights.join("k", &fence(None, None), flights.now()));
        first.leave();
        let (second, _c) = leads(flights.join("k", &fence(None, None), flights.now()));
        let _d = follows(flights.join("k", &fence(None, None), flights.now()));
        assert!(second.after.is_some(), "one in flight and one waiting");
    }

    #[test]
    fn the_absence_of_a_thing_is_shared_only_where_a_create_would_have_been_seen() {
        let flights = Flights::new();
        let (fill, _a) = leads(flights.join("k", &fence(Some(1), Some(5)), flights.now()));
        assert!(
            follows(flights.join("k", &fence(Some(1), Some(6)), flights.now())).may_share_status,
            "it has not left"
        );
        fill.leave();
        assert!(
            follows(flights.join("k", &fence(Some(1), Some(5)), flights.now())).may_share_status
        );
        assert!(
            !follows(flights.join("k", &fence(Some(1), Some(6)), flights.now())).may_share_status
        );
        assert!(!follows(flights.join("k", &fence(Some(1), None), flights.now())).may_share_status);
    }

    #[tokio::test]
    async fn a_fetch_that_nobody_waits_for_is_given_up_and_the_key_is_free() {
        let flights = Flights::new();
        let (fill, mut follower) = leads(flights.join("k", &fence(Some(1), None), flights.now()));
        let (under_way, mut given_up) = tokio::sync::watch::channel(());
        follower.carry(async move {
            let _both = (fill, under_way);
            std::future::pending::<()>().await;
        });
        let other = follows(flights.join("k", &fence(Some(1), None), flights.now()));
        drop(follower);
        tokio::task::yield_now().await;
        assert!(given_up.has_changed().is_ok(), "somebody still waits");
        drop(other);
        assert!(given_up.changed().await.is_err());
        let _ = leads(flights.join("k", &fence(Some(1), None), flights.now()));
    }

    #[tokio::test]
    async fn a_fetch_whose_leader_leaves_is_carried_on_for_those_who_stay() {
        let flights = Flights::new();
        let (fill, mut leader) = leads(flights.join("k", &fence(Some(1), None), flights.now()));
        let (go_on, gone_on) = tokio::sync::oneshot::channel();
        leader.carry(async move {
            gone_on.await.unwrap();
            fill.answer(7);
        });
        let mut other = follows(flights.join("k", &fence(Some(1), None), flights.now()));
        let a_while = std::time::Duration::from_millis(1);
        assert!(
            tokio::time::timeout(a_while, leader.answer(|_| true))
                .await
                .is_err()
        );
        drop(leader);
        go_on.send(()).unwrap();
        assert_eq!(other.answer(|_| true).await, Some(7));
    }

    #[tokio::test]
    async fn a_fetch_that_nobody_else_waits_for_ends_with_its_leader() {
        let flights = Flights::new();
        let (fill, mut leader) = leads(flights.join("k", &fence(Some(1), None), flights.now()));
        leader.carry(async move {
            let _fill = fill;
            std::future::pending::<()>().await;
        });
        drop(leader);
        let _ = leads(flights.join("k", &fence(Some(1), None), flights.now()));
    }

    #[tokio::test]
    async fn the_waiting_fetch_leaves_when_the_one_before_is_over_however_it_ended() {
        for answered in [true, false] {
            let flights = Flights::new();
            let (first, _a) = leads(flights.join("k", &fence(None, None), flights.now()));
            first.leave();
            let (mut second, _b) = leads(flights.join("k", &fence(None, None), flights.now()));
            if answered {
                first.answer(1);
            } else {
                drop(first);
            }
            second.turn().await;
        }
    }
}
