//! Where copies and states are kept: in this process, or in Redis; or in Redis with copies in this process, too (`tier`).
//! Two of a kind, so an enum.
//! A store does single steps; what they mean is `coherence`'s.

pub mod codec;
pub mod copies;
pub mod memory;
pub mod redis;
pub mod tier;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::caching::cache_status::Reason;
use crate::caching::key::HashingSecret;
use crate::caching::stored::Stored;
use crate::clock::{self, Timestamp};
use crate::coherence::protocol::{Reply, Seen, Step};
use crate::coherence::{Epochs, StateKey, States, hold_for};
use crate::config::{Access, Config, Route};
use crate::metrics::{COUNTED, Command};

/// The store cannot be reached, or does not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

/// What one look-up read.
#[derive(Debug)]
pub struct Found {
    /// The copy, or why there is none: absent, or not one of ours.
    pub copy: Result<Arc<Stored>, Reason>,
    pub states: SeenStates,
}

/// How long what a state protects may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    pub hold: Duration,
    pub longest_ttl: Duration,
}

impl Lifetimes {
    pub fn of(config: &Config) -> Lifetimes {
        let lasting = |route: &Route| {
            let ttl = route.ttl.max(route.negative_ttl.unwrap_or_default());
            let verdict = match &route.access {
                Access::Verify(verify) => verify.lasting.max(verify.refusing),
                // A token may be good for longer: then its state is made anew, which costs one verification.
                Access::PerCredential | Access::Public | Access::Jwt(_) => Duration::ZERO,
            };
            (ttl + route.stale_while_revalidate.max(route.stale_if_error)).max(verdict)
        };
        let longest = config.routes.iter().map(lasting).max();
        Lifetimes {
            hold: hold_for(config.upstream.total),
            longest_ttl: longest.unwrap_or_default(),
        }
    }

    /// Enough for both.
    fn and(self, other: Lifetimes) -> Lifetimes {
        Lifetimes {
            hold: self.hold.max(other.hold),
            longest_ttl: self.longest_ttl.max(other.longest_ttl),
        }
    }

    /// How long a state lives that was opened to fetch something, in milliseconds: beyond the fetch, which waits and is
    /// answered within less than a hold each. Who keeps what came of it prolongs that.
    fn opened(&self) -> u64 {
        (self.hold * 2).as_millis() as u64
    }

    /// How long a state lives on which something that is kept depends, in milliseconds: beyond every copy and hold.
    fn state(&self) -> u64 {
        self.state_of(Duration::ZERO)
    }

    /// The same of a state on which a copy depends that is kept for so long: the API's own word may be longer than any of
    /// the configuration.
    fn state_of(&self, kept: Duration) -> u64 {
        let longest = self.longest_ttl.max(kept);
        (longest + self.hold + Duration::from_secs(60)).as_millis() as u64
    }
}

pub type SeenStates = SmallVec<[(StateKey, Seen); 2]>;

/// These states, the first of which goes by its `own` name, where that is another. The copy mostly knows it: then nothing is
/// made, and the very same text need not be read to be compared.
fn named_by(
    copy: Option<&Stored>,
    states: &[StateKey],
    own: Option<&str>,
) -> impl Iterator<Item = StateKey> {
    let first = own.map(|name| {
        let mut known = copy.into_iter().flat_map(|copy| &copy.epochs);
        let known = known.find(|(state, _)| state.as_str() == name);
        known.map_or_else(|| StateKey::new(name), |(state, _)| state.clone())
    });
    let others = &states[usize::from(first.is_some()).min(states.len())..];
    first.into_iter().chain(others.iter().cloned())
}

/// How the store is, for `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Reached, but nothing in it is trusted yet: other instances may still have to say what they wrote.
    Settling,
    /// Not reached; requests pass through.
    Down(String),
    /// It answers, but refuses us; needs a change of the configuration.
    Refused(String),
}

/// A key as `larder keys` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    pub ttl: Option<Duration>,
}

pub enum Store {
    Memory(memory::Memory),
    Redis(redis::Redis),
}

/// What asks Redis for more than a hit is boxed, or each miss and write would carry room for it, whatever the store.
impl Store {
    /// The copy and its states, in one round trip.
    pub async fn look_up(&self, copy: &str, states: &States) -> Result<Found, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.look_up(copy, states, None)),
            Store::Redis(redis) => match redis.look_up_now(copy, states, None) {
                Some(found) => Ok(found),
                None => timed(Command::LookUp, redis.look_up(copy, states)).await,
            },
        }
    }

    /// The same, if nobody need be asked. `own`: the first state's name, where that is another.
    pub fn look_up_now(&self, copy: &str, states: &States, own: Option<&str>) -> Option<Found> {
        match self {
            Store::Memory(memory) => Some(memory.look_up(copy, states, own)),
            Store::Redis(redis) => redis.look_up_now(copy, states, own),
        }
    }

    /// The states, with an epoch made for each that has neither epoch nor hold.
    pub async fn open(&self, states: &States) -> Result<SeenStates, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.open(states)),
            Store::Redis(redis) => timed(Command::Open, Box::pin(redis.open(states))).await,
        }
    }

    /// As `open`, for a read to which its own look-up has just shown some of these states.
    pub async fn open_after(
        &self,
        states: &States,
        seen: &[(StateKey, Seen)],
    ) -> Result<SeenStates, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.open(states)),
            Store::Redis(redis) => {
                timed(Command::Open, Box::pin(redis.open_after(states, seen))).await
            }
        }
    }

    /// Where the store is away and as good as back, waits for it.
    pub async fn soon(&self) {
        match self {
            Store::Memory(_) => {}
            Store::Redis(redis) => redis.soon().await,
        }
    }

    /// The same step on each state, each atomic by itself.
    pub async fn step(&self, states: &[StateKey], step: Step) -> Result<Vec<Reply>, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.step(states, step)),
            Store::Redis(redis) => timed(Command::Step, Box::pin(redis.step(states, step))).await,
        }
    }

    /// As `step`; and the longest term for which anybody may still show what was there before it.
    pub async fn announce(&self, states: &[StateKey], step: Step) -> Result<Duration, Away> {
        match self {
            Store::Memory(memory) => {
                memory.step(states, step);
                Ok(Duration::ZERO)
            }
            Store::Redis(redis) => {
                timed(Command::Step, Box::pin(redis.announce(states, step))).await
            }
        }
    }

    /// The longest term for which anybody may still show what was there until now.
    pub async fn longest_lease(&self) -> Duration {
        match self {
            Store::Memory(_) => Duration::ZERO,
            Store::Redis(redis) => redis.longest_lease().await,
        }
    }

    /// How what is kept in this process is used: the embedded store, whose hits are not counted, or the tier before Redis.
    pub fn in_memory(&self) -> Option<tier::Use> {
        match self {
            Store::Memory(memory) => Some(tier::Use {
                entries: memory.count(),
                bytes: memory.weight(),
                hits: 0,
            }),
            Store::Redis(redis) => redis.tier(),
        }
    }

    /// A step that begins an epoch: only where what is found is trusted.
    pub async fn renew(&self, states: &[StateKey], step: Step) -> Result<Vec<Reply>, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.step(states, step)),
            Store::Redis(redis) => timed(Command::Step, redis.renew(states, step)).await,
        }
    }

    /// Keeps a copy for so long. `Err` says why it was not kept.
    pub async fn put(
        &self,
        copy: &str,
        stored: Arc<Stored>,
        lasting: Duration,
    ) -> Result<(), Reason> {
        match self {
            Store::Memory(memory) => {
                memory.put(copy, stored);
                Ok(())
            }
            Store::Redis(redis) => {
                timed(Command::Put, Box::pin(redis.put(copy, &stored, lasting))).await
            }
        }
    }

    /// A copy is not kept in this process beside the shared store, where another may take its place.
    pub fn forget_here(&self, copy: &str) {
        match self {
            Store::Memory(_) => {}
            Store::Redis(redis) => redis.forget_here(copy),
        }
    }

    /// Something is kept in this process that depends on these epochs: they are given as long as those of a copy. Nobody
    /// waits for it, for an epoch that is gone is only made anew.
    pub fn prolong(&self, epochs: &Epochs) {
        match self {
            Store::Memory(_) => {}
            Store::Redis(redis) => redis.prolong(epochs),
        }
    }

    /// The names noted under `name`: the fields that a group's answers are known to vary by.
    pub async fn notes(&self, name: &str) -> Result<Vec<String>, Away> {
        match self {
            Store::Memory(_) => Ok(Vec::new()),
            Store::Redis(redis) => timed(Command::Notes, redis.notes(name)).await,
        }
    }

    /// Adds to the names noted under `name`, for the other instances.
    pub async fn note(&self, name: &str, words: &[&str]) -> Result<(), Away> {
        match self {
            Store::Memory(_) => Ok(()),
            Store::Redis(redis) => timed(Command::Notes, redis.note(name, words)).await,
        }
    }

    /// Whether the secret in use is the one that all instances have, asked of the store now.
    pub async fn confirm_secret(&self) -> Result<bool, Away> {
        match self {
            Store::Memory(_) => Ok(true),
            Store::Redis(redis) => redis.confirm_secret().await,
        }
    }

    /// Keeps until then that this name was marked; confirmed.
    pub async fn mark(&self, name: &str, until: Timestamp) -> Result<(), Reason> {
        match self {
            Store::Memory(memory) => {
                memory.mark(name, until);
                Ok(())
            }
            Store::Redis(redis) => redis.mark(name, until).await,
        }
    }

    /// Whether it is marked. A store that has lost it says no.
    pub async fn is_marked(&self, name: &str) -> Result<bool, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.is_marked(name)),
            Store::Redis(redis) => redis.is_marked(name).await,
        }
    }

    /// Waits while nothing in it is trusted yet: for the notice time at most.
    pub async fn settled(&self) {
        while self.health() == Health::Settling {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The deployment's hashing secret; none while a shared store was never reached.
    pub fn secret(&self) -> Option<HashingSecret> {
        match self {
            Store::Memory(memory) => Some(memory.secret()),
            Store::Redis(redis) => redis.secret(),
        }
    }

    /// Since when the store has been away, if it is.
    pub fn away_since(&self) -> Option<tokio::time::Instant> {
        match self {
            Store::Memory(_) => None,
            Store::Redis(redis) => redis.away_since(),
        }
    }

    pub fn health(&self) -> Health {
        match self {
            Store::Memory(_) => Health::Up,
            Store::Redis(redis) => redis.health(),
        }
    }

    /// `memory` or `redis`, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Store::Memory(_) => "memory",
            Store::Redis(_) => "redis",
        }
    }

    /// One copy as it is, valid or not.
    pub async fn get(&self, copy: &str) -> Result<Result<Arc<Stored>, Reason>, Away> {
        self.look_up(copy, &States::new())
            .await
            .map(|found| found.copy)
    }

    /// The keys below `start` that are wanted, at most so many.
    pub async fn list(
        &self,
        start: &str,
        most: usize,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Listed>, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.list(start, most, is_wanted)),
            Store::Redis(redis) => timed(Command::List, redis.list(start, most, is_wanted)).await,
        }
    }

    /// Another configuration is about to be in force: what lasts longer by it does from now on, and `states`, on which
    /// all its copies depend, are known beside those of before, whose copies may still be there.
    pub async fn adopt(&self, lifetimes: Lifetimes, states: &[StateKey]) {
        match self {
            Store::Memory(memory) => memory.adopt(states),
            Store::Redis(redis) => redis.adopt(lifetimes, states).await,
        }
    }

    /// Every state that all copies under the prefix depend on, whichever configuration made them.
    pub async fn all_states(&self, ours: &[StateKey]) -> Result<Vec<StateKey>, Away> {
        match self {
            Store::Memory(memory) => Ok(memory.all_states(ours)),
            Store::Redis(redis) => redis.all_states(ours).await,
        }
    }
}

/// Counts what a shared store is asked, and how long it takes.
async fn timed<T, E>(command: Command, asked: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let sent = clock::stopwatch();
    let answer = asked.await;
    COUNTED.store.told(command, sent.elapsed(), &answer);
    answer
}
