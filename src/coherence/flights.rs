//! One fetch for all who want the same now. Joining is fenced: a read may join a fetch only if it carries the
//! epochs that the read itself has just seen; without epochs, only one that has not left yet, so that there is
//! at most one in flight and one waiting per key.
//!
//! A fetch lives as long as somebody waits for it. Its leader carries it on itself, and nearly always to its end; if the
//! leader leaves or goes on to read while others still wait, it becomes a task of its own. A fetch that nobody wants any
//! more is given up and stores nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Epochs;
use crate::clock::{self, Timestamp};

const SHARDS: usize = 32;

/// Groups of keys of each of which it is known when a fetch has last ended.
const GROUPS: usize = 1024;

/// The fetches under way, by the key of the copy they will make.
pub struct Flights<A> {
    shards: Arc<Vec<Shard<A>>>,
    /// The microseconds at which a fetch has last ended.
    ended: Arc<[AtomicU64]>,
    hasher: RandomState,
}

type Shard<A> = Mutex<HashMap<String, SmallVec<[Arc<Flight<A>>; 1]>>>;

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
    /// What is storable by its status: more than the epochs say could be of the past.
    Storable,
    Whatever,
}

impl Fence {
    /// Whether a fetch that carries this fence, and has left or not, is for a read that has just seen `mine`.
    pub fn admits(&self, mine: &Fence, left: bool) -> Option<Share> {
        let joinable = match (&self.epochs, &mine.epochs) {
            (Some(theirs), Some(mine)) => theirs == mine,
            (_, None) => !left,
            (None, Some(_)) => false,
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
    answer: watch::Sender<Option<A>>,
    interest: Weak<Interest>,
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
    Lead(Fill<A>, Follower<A>),
    Follow(Follower<A>),
}

/// The duty to fetch for all who wait. Dropped, it gives the key free.
pub struct Fill<A> {
    flight: Arc<Flight<A>>,
    key: String,
    shards: Arc<Vec<Shard<A>>>,
    shard: usize,
    ended: Arc<[AtomicU64]>,
    group: usize,
    /// As it stood when this one began.
    ended_before: Timestamp,
    /// The fetch that must be over before this one may leave.
    after: Option<watch::Receiver<Option<A>>>,
}

/// A place among those who wait.
pub struct Follower<A> {
    answer: watch::Receiver<Option<A>>,
    interest: Arc<Interest>,
    /// It is this one's own request that was sent.
    pub leads: bool,
    /// Whether an answer that is not storable for its status may be shared with this one.
    pub may_share_status: bool,
    /// What is still to be done of the fetch, where it is this one's to do.
    fetch: Option<Fetching>,
}

type Fetching = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<A: Clone> Default for Flights<A> {
    fn default() -> Self {
        Flights {
            shards: Arc::new((0..SHARDS).map(|_| Mutex::default()).collect()),
            ended: (0..GROUPS).map(|_| AtomicU64::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

/// The same flights.
impl<A> Clone for Flights<A> {
    fn clone(&self) -> Self {
        Flights {
            shards: self.shards.clone(),
            ended: self.ended.clone(),
            hasher: self.hasher.clone(),
        }
    }
}

impl<A: Clone> Flights<A> {
    pub fn new() -> Self {
        Flights::default()
    }

    pub fn join(&self, key: &str, fence: &Fence) -> Turn<A> {
        let hash = self.hasher.hash_one(key) as usize;
        let (shard, group) = (hash % SHARDS, hash / SHARDS % GROUPS);
        let mut flights = self.shards[shard].lock();
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
                answer: flight.answer.subscribe(),
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
                .map(|flight| flight.answer.subscribe()),
        };
        let interest = Arc::new(Interest(Mutex::new(None)));
        let flight = Arc::new(Flight {
            fence: fence.clone(),
            left: Mutex::new(false),
            answer: watch::Sender::new(None),
            interest: Arc::downgrade(&interest),
        });
        under_way.push(flight.clone());
        let follower = Follower {
            answer: flight.answer.subscribe(),
            interest,
            leads: true,
            may_share_status: true,
            fetch: None,
        };
        Turn::Lead(
            Fill {
                flight,
                key: key.to_owned(),
                shards: self.shards.clone(),
                shard,
                ended: self.ended.clone(),
                group,
                ended_before: Timestamp::from_micros(self.ended[group].load(Ordering::Relaxed)),
                after,
            },
            follower,
        )
    }
}

impl<A: Clone> Fill<A> {
    pub fn fence(&self) -> &Fence {
        &self.flight.fence
    }

    /// Whether another fetch may have stored what this one is for since a look-up that began then, and so did not see it. By
    /// another instance it may have, too, which is worth no second look.
    pub fn may_be_stored_since(&self, looked: Timestamp) -> bool {
        self.ended_before >= looked
    }

    /// Waits until this fetch may leave.
    pub async fn turn(&mut self) {
        if let Some(mut before) = self.after.take() {
            // Answered or given up: either way it is over.
            let _ = before.wait_for(Option::is_some).await;
        }
    }

    /// The fetch leaves now: from here on nobody joins it without its epochs.
    pub fn leave(&self) {
        let _shard = self.shards[self.shard].lock();
        *self.flight.left.lock() = true;
    }

    /// Tells everybody.
    pub fn answer(&self, answer: A) {
        self.flight.answer.send_replace(Some(answer));
    }
}

impl<A> Drop for Fill<A> {
    fn drop(&mut self) {
        let mut flights = self.shards[self.shard].lock();
        // Before it gives the key free: who leads next has looked up earlier, or knows of this.
        self.ended[self.group].store(clock::now().as_micros(), Ordering::Relaxed);
        if let Some(under_way) = flights.get_mut(&self.key) {
            under_way.retain(|flight| !Arc::ptr_eq(flight, &self.flight));
            if under_way.is_empty() {
                flights.remove(&self.key);
            }
        }
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
        let Follower { answer, fetch, .. } = self;
        let mut told = pin!(async {
            let told = answer.wait_for(|answer| answer.as_ref().is_some_and(&is_for_me));
            told.await.ok().and_then(|answer| answer.clone())
        });
        let Some(fetching) = fetch else {
            return told.await;
        };
        tokio::select! {
            biased;
            told = &mut told => return told,
            () = fetching => {}
        }
        *fetch = None;
        told.await
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
            Turn::Lead(fill, follower) => (fill, follower),
            Turn::Follow(_) => panic!("it follows"),
        }
    }

    fn follows(turn: Turn<u8>) -> Follower<u8> {
        match turn {
            Turn::Lead(..) => panic!("it leads"),
            Turn::Follow(follower) => follower,
        }
    }

    #[test]
    fn a_read_joins_a_fetch_that_carries_the_epochs_it_has_itself_seen_and_no_other() {
        let flights = Flights::new();
        let (fill, _one) = leads(flights.join("k", &fence(Some(1), None)));
        fill.leave();
        let _same = follows(flights.join("k", &fence(Some(1), None)));
        let (later, _c) = leads(flights.join("k", &fence(Some(2), None)));
        later.leave();
        let _unfenced = leads(flights.join("k", &fence(None, None)));
        let _other_key = leads(flights.join("j", &fence(Some(1), None)));
    }

    #[test]
    fn who_leads_looks_again_only_if_a_fetch_of_its_key_has_ended_since_its_look_up() {
        let flights = Flights::new();
        let looked = clock::now();
        let (first, _a) = leads(flights.join("k", &fence(Some(1), None)));
        assert!(!first.may_be_stored_since(looked));
        drop(first);
        let (second, _b) = leads(flights.join("k", &fence(Some(1), None)));
        assert!(second.may_be_stored_since(looked));
        let later = Timestamp::from_micros(clock::now().as_micros() + 1);
        assert!(!second.may_be_stored_since(later));
        let others = ["a", "b", "c", "d", "e", "f"].map(|key| {
            let (other, _c) = leads(flights.join(key, &fence(Some(1), None)));
            other.may_be_stored_since(looked)
        });
        assert!(others.contains(&false), "all are in one group: {others:?}");
    }

    #[test]
    fn without_epochs_only_a_fetch_that_has_not_left_is_joined() {
        let flights = Flights::new();
        let (first, _a) = leads(flights.join("k", &fence(None, None)));
        let _b = follows(flights.join("k", &fence(None, None)));
        first.leave();
        let (second, _c) = leads(flights.join("k", &fence(None, None)));
        let _d = follows(flights.join("k", &fence(None, None)));
        assert!(second.after.is_some(), "one in flight and one waiting");
    }

    #[test]
    fn the_absence_of_a_thing_is_shared_only_where_a_create_would_have_been_seen() {
        let flights = Flights::new();
        let (fill, _a) = leads(flights.join("k", &fence(Some(1), Some(5))));
        assert!(
            follows(flights.join("k", &fence(Some(1), Some(6)))).may_share_status,
            "it has not left"
        );
        fill.leave();
        assert!(follows(flights.join("k", &fence(Some(1), Some(5)))).may_share_status);
        assert!(!follows(flights.join("k", &fence(Some(1), Some(6)))).may_share_status);
        assert!(!follows(flights.join("k", &fence(Some(1), None))).may_share_status);
    }

    #[tokio::test]
    async fn a_fetch_that_nobody_waits_for_is_given_up_and_the_key_is_free() {
        let flights = Flights::new();
        let (fill, mut follower) = leads(flights.join("k", &fence(Some(1), None)));
        let (under_way, mut given_up) = watch::channel(());
        follower.carry(async move {
            let _both = (fill, under_way);
            std::future::pending::<()>().await;
        });
        let other = follows(flights.join("k", &fence(Some(1), None)));
        drop(follower);
        tokio::task::yield_now().await;
        assert!(given_up.has_changed().is_ok(), "somebody still waits");
        drop(other);
        assert!(given_up.changed().await.is_err());
        let _ = leads(flights.join("k", &fence(Some(1), None)));
    }

    #[tokio::test]
    async fn a_fetch_whose_leader_leaves_is_carried_on_for_those_who_stay() {
        let flights = Flights::new();
        let (fill, mut leader) = leads(flights.join("k", &fence(Some(1), None)));
        let (go_on, gone_on) = tokio::sync::oneshot::channel();
        leader.carry(async move {
            gone_on.await.unwrap();
            fill.answer(7);
        });
        let mut other = follows(flights.join("k", &fence(Some(1), None)));
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
        let (fill, mut leader) = leads(flights.join("k", &fence(Some(1), None)));
        leader.carry(async move {
            let _fill = fill;
            std::future::pending::<()>().await;
        });
        drop(leader);
        let _ = leads(flights.join("k", &fence(Some(1), None)));
    }

    #[tokio::test]
    async fn the_waiting_fetch_leaves_when_the_one_before_is_over_however_it_ended() {
        for answered in [true, false] {
            let flights = Flights::new();
            let (first, _a) = leads(flights.join("k", &fence(None, None)));
            first.leave();
            let (mut second, _b) = leads(flights.join("k", &fence(None, None)));
            if answered {
                first.answer(1);
            } else {
                drop(first);
            }
            second.turn().await;
        }
    }
}
