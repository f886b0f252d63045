//! The store in Redis 7.0+: what each operation says to the server, and what its answers mean.
//! `link` is one connection, `connecting` makes it and `keeper` keeps it.

mod batched;
mod connecting;
pub mod frame;
mod keeper;
mod link;
mod pipe;
pub mod probe;
mod script;
mod secret;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::tier::{self, Leasing, Standing, Tier};
use super::{Away, Found, Health, Lifetimes, Listed, SeenStates, codec, timed};
use crate::caching::cache_status::Reason;
use crate::caching::key::HashingSecret;
use crate::caching::stored::Stored;
use crate::clock::{self, Timestamp};
use crate::coherence::lease::{self, Lease, Registry};
use crate::coherence::life::{How, Lives, Record};
use crate::coherence::protocol::{Incarnation, Reply, Seen, Step};
use crate::coherence::{Epochs, Journal, NOTICE, StateKey, States, fresh_bits};
use crate::config::{Redis as Settings, RedisEndpoint};
use crate::metrics::Command;
use connecting::NoLink;
use link::{INCARNATION_KEY, Link, bytes, integer, text, words};
use script::Entered;

/// What a user of the server must be allowed, as `ACL SETUSER` takes it.
pub fn rights(prefix: &str) -> String {
    format!("~{prefix}:* +@read +@write +@scripting +@connection -@dangerous +info +time")
}

/// The deployment's own keys live a week from their last renewal.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// So long a mark stays at least: our clock may be ahead, and the token good for longer than it says.
const A_MINUTE: Duration = Duration::from_secs(60);

pub struct Redis {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

struct Shared {
    settings: Settings,
    prefix: String,
    timeout: Duration,
    /// They only grow while the process runs: what was kept for longer is still there.
    lifetimes: ArcSwap<Lifetimes>,
    /// The states that all copies of this process's configurations depend on, known to every instance under the prefix.
    registered: ArcSwap<Vec<StateKey>>,
    journal: Arc<Journal>,
    link: ArcSwapOption<Link>,
    /// Copies in this process, if it keeps some.
    tier: Option<Tier>,
    secret: ArcSwapOption<HashingSecret>,
    /// The file's, if it names one.
    by_file: Option<HashingSecret>,
    health: Mutex<Health>,
    /// Who the server was, at the last connection.
    last_who: Mutex<Option<Option<String>>>,
    lives: Arc<Lives>,
    /// Whose turn it is to begin a life in the place of one that was put back.
    beginning: tokio::sync::Mutex<()>,
    /// Before then nothing is trusted, on the last link and on one that follows it at once.
    trusted_from: Mutex<tokio::time::Instant>,
    /// Since when there is no link.
    away_since: Mutex<Option<tokio::time::Instant>>,
    /// There is one but for what has come to be owed while it was told what is owed.
    at_hand: watch::Sender<bool>,
}

impl Redis {
    /// Connects once. Refused is the operator's to mend; unreachable is tried again in the background.
    pub async fn start(
        store: &crate::config::Store,
        settings: &Settings,
        lifetimes: Lifetimes,
        registered: Vec<StateKey>,
        journal: Arc<Journal>,
    ) -> Result<Redis, String> {
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            prefix: store.prefix.clone(),
            timeout: store.timeout,
            lifetimes: ArcSwap::from_pointee(lifetimes),
            registered: ArcSwap::from_pointee(registered),
            journal,
            link: ArcSwapOption::empty(),
            tier: store.memory.map(Tier::new),
            secret: ArcSwapOption::empty(),
            by_file: store.secret.as_ref().map(HashingSecret::of),
            health: Mutex::new(Health::Down("not connected yet".to_owned())),
            last_who: Mutex::new(None),
            lives: Arc::default(),
            beginning: tokio::sync::Mutex::default(),
            trusted_from: Mutex::new(tokio::time::Instant::now()),
            away_since: Mutex::new(Some(tokio::time::Instant::now())),
            at_hand: watch::Sender::new(false),
        });
        let first = match shared.connect().await {
            Ok(link) => Some(link),
            Err(NoLink::Refused(why)) => return Err(why),
            Err(NoLink::Unreachable(why)) => {
                shared.lost(Health::Down(why));
                None
            }
        };
        if let Some(link) = &first {
            // Nobody could owe anything yet.
            shared.publish(link);
        }
        let keeper = tokio::spawn(shared.clone().keep(first));
        Ok(Redis { shared, keeper })
    }

    pub fn health(&self) -> Health {
        let health = self.shared.health.lock().clone();
        let link = self.shared.link.load();
        match health {
            Health::Up if link.as_ref().is_some_and(|link| !link.is_trusted()) => Health::Settling,
            health => health,
        }
    }

    pub fn secret(&self) -> Option<HashingSecret> {
        self.shared.secret.load().as_deref().copied()
    }

    pub async fn look_up(&self, copy: &str, states: &States) -> Result<Found, Away> {
        match &self.shared.tier {
            None => {
                let link = self.shared.link()?;
                let read = self.shared.read(&link, Some(copy), states).await;
                read.map(|(found, _)| found)
            }
            // Boxed, or every look-up would carry room for what it does not need.
            Some(tier) => Box::pin(self.look_up_by(tier, copy, states)).await,
        }
    }

    /// What is here, and is known to be valid for a request that has come by now; where that is not for long, what comes next is
    /// asked for behind it. `own`: the first state's name, where that is another.
    pub fn look_up_now(&self, copy: &str, states: &States, own: Option<&str>) -> Option<Found> {
        let tier = self.shared.tier.as_ref()?;
        tier.term()?;
        let now = clock::uptime();
        let link = self.shared.link.load();
        let link = link.as_ref()?;
        let life = link.standing.life.last();
        let (found, ends_soon) = tier.find(copy, states, own, now, link.number, life)?;
        if ends_soon {
            self.ask_ahead(tier, link, &found.states, now);
        }
        Some(found)
    }

    fn ask_ahead(
        &self,
        tier: &Tier,
        link: &Arc<Link>,
        seen: &[(StateKey, Seen)],
        now: clock::Uptime,
    ) {
        let states: States = seen.iter().map(|(state, _)| state.clone()).collect();
        tier.follow(&states, now);
        let (shared, link) = (self.shared.clone(), link.clone());
        tokio::spawn(async move {
            if let Some(tier) = &shared.tier {
                // Without an answer the lease just ends.
                let asked = shared.states(tier, &link, &states, now);
                let _ = timed(Command::LookUp, asked).await;
            }
        });
    }

    /// Of whoever has not been answered by `look_up_now`.
    async fn look_up_by(&self, tier: &Tier, copy: &str, states: &States) -> Result<Found, Away> {
        // The request has come.
        let now = clock::uptime();
        let shared = &self.shared;
        let link = shared.link()?;
        if !states.is_empty()
            && let Some(stored) = tier.fresh(copy)
        {
            let seen = shared.states(tier, &link, states, now).await?;
            match tier::standing(&stored, &seen) {
                Standing::Valid => return Ok(tier.hit(stored, seen)),
                Standing::Gone => {
                    return Ok(Found {
                        copy: Ok(stored),
                        states: seen,
                    });
                }
                Standing::Replaced => {}
            }
        }
        let (found, _) = shared.read(&link, Some(copy), states).await?;
        if let Ok(stored) = &found.copy
            && !states.is_empty()
            && tier::standing(stored, &found.states) == Standing::Valid
        {
            tier.keep(copy, stored);
        }
        Ok(found)
    }

    pub fn tier(&self) -> Option<tier::Use> {
        self.shared.tier.as_ref().map(Tier::usage)
    }

    /// After a look-up that has shown some of these states: those that it has shown as current are not asked about again, and all
    /// others are opened in one round trip. What a lease has shown may be older than the look-up.
    pub async fn open_after(
        &self,
        states: &States,
        seen: &[(StateKey, Seen)],
    ) -> Result<SeenStates, Away> {
        let link = self.shared.link()?;
        let is_current = |state| matches!(seen_of(seen, state), Some(Seen::Current(_)));
        let is_new = |(_, seen): &(StateKey, Seen)| !matches!(seen, Seen::Current(_));
        if seen.iter().any(is_new) && link.is_trusted() && self.shared.term().is_none() {
            let asked = states.iter().filter(|state| !is_current(state));
            let asked: States = asked.cloned().collect();
            let life = link.standing.life.last();
            let opened = link.enter(&self.shared, &asked, life, fresh_bits() as u32);
            if let Entered::Opened(opened) = opened.await? {
                let opened: SeenStates = asked.into_iter().zip(opened).collect();
                return Ok(merged(states, &opened, seen, life));
            }
        }
        self.open_anew(&link, states).await
    }

    /// The states, with an epoch made for each that has neither epoch nor hold.
    pub async fn open(&self, states: &States) -> Result<SeenStates, Away> {
        let link = self.shared.link()?;
        self.open_anew(&link, states).await
    }

    /// First what they are, and which life this is.
    async fn open_anew(&self, link: &Link, states: &States) -> Result<SeenStates, Away> {
        let (trusted, before) = (link.is_trusted(), link.standing.life.last());
        let names = states.iter().map(StateKey::as_str);
        let keys = std::iter::once(INCARNATION_KEY).chain(names);
        let reply = link.pipe.mget(None, &self.shared.prefix, keys);
        let reply = reply.await.map_err(|_| Away)?;
        let mut values = link.values(&reply)?;
        let life = values.next().ok_or(Away)?;
        let life = life.and_then(|text| Record::parse(std::str::from_utf8(text).ok()?));
        // Another instance may have found that the store lives another life; or the key was evicted, or put back.
        let life = life.map(|record| record.life);
        let life = match life.filter(|life| link.standing.life.hear(before, *life)) {
            Some(life) => life,
            None => {
                let who = link.who().await;
                let entered = link.incarnate(&self.shared, who.as_deref(), How::Again);
                entered.await.map_err(|_| Away)?.0
            }
        };
        let seen = values.map(|value| link::seen(value).by_link(trusted, life));
        let found: SeenStates = states.iter().cloned().zip(seen).collect();
        // A held one is asked, too: its hold may be overdue, and whoever asks sweeps it.
        let asked = found
            .iter()
            .filter(|(_, seen)| !matches!(seen, Seen::Current(_)));
        let asked: States = asked.map(|(state, _)| state.clone()).collect();
        if asked.is_empty() || !trusted {
            return Ok(found);
        }
        let step = Step::Open {
            incarnation: life,
            fresh: fresh_bits() as u32,
        };
        let replies = link.step(&self.shared, &asked, step).await?;
        let opened = replies.into_iter().map(|reply| reply.seen);
        let opened: SeenStates = asked.into_iter().zip(opened).collect();
        Ok(merged(states, &opened, &found, life))
    }

    /// Since when the store has been away, if it is.
    pub fn away_since(&self) -> Option<tokio::time::Instant> {
        *self.shared.away_since.lock()
    }

    /// Waits for a link that is at hand, but not for long: each write that began meanwhile would have to be told first, and with enough
    /// of them there would never be one.
    pub async fn soon(&self) {
        let mut at_hand = self.shared.at_hand.subscribe();
        let is_settled = at_hand.wait_for(|at_hand| !at_hand);
        // Err: it was too long.
        let _ = tokio::time::timeout(NOTICE, is_settled).await;
    }

    pub async fn step(&self, states: &[StateKey], step: Step) -> Result<Vec<Reply>, Away> {
        let link = self.shared.link()?;
        let done = link.step(&self.shared, states, step).await;
        if done.is_err() {
            self.shared.distrust(&link);
        }
        done
    }

    pub async fn announce(&self, states: &[StateKey], step: Step) -> Result<Duration, Away> {
        let link = self.shared.link()?;
        let done = link.announce(&self.shared, states, step).await;
        if done.is_err() {
            self.shared.distrust(&link);
        }
        done
    }

    pub async fn longest_lease(&self) -> Duration {
        let asked = async {
            let link = self.shared.link()?;
            let mut get = Cmd::new();
            get.arg("GET").arg(self.shared.key(lease::KEY));
            let terms = link.run(&self.shared, &get).await?;
            Ok::<_, Away>(link.wait_for(bytes(&terms), self.shared.term()))
        };
        // Whoever has a lease has it by a link that was there.
        asked.await.unwrap_or(Registry::wait(None))
    }

    /// As `step`, on a link that is trusted.
    pub async fn renew(&self, states: &[StateKey], step: Step) -> Result<Vec<Reply>, Away> {
        match self.shared.link()?.is_trusted() {
            true => self.step(states, step).await,
            false => Err(Away),
        }
    }

    pub async fn put(
        &self,
        copy: &str,
        stored: &Arc<Stored>,
        lasting: Duration,
    ) -> Result<(), Reason> {
        let link = self.shared.link().map_err(|Away| Reason::StoreAway)?;
        link.put(&self.shared, copy, stored, lasting).await?;
        if let Some(tier) = &self.shared.tier {
            tier.keep(copy, stored);
        }
        Ok(())
    }

    pub fn forget_here(&self, copy: &str) {
        if let Some(tier) = &self.shared.tier {
            tier.forget(copy);
        }
    }

    pub fn prolong(&self, epochs: &Epochs) {
        if let Ok(link) = self.shared.link() {
            link.prolong(&self.shared, epochs);
        }
    }

    pub async fn notes(&self, name: &str) -> Result<Vec<String>, Away> {
        let mut members = Cmd::new();
        members.arg("SMEMBERS").arg(self.shared.key(name));
        let link = self.shared.link()?;
        match link.ask(&members).await {
            Ok(reply) => Ok(words(&reply)),
            // Nothing of ours stands there.
            Err(refused) if refused.code() == Some("WRONGTYPE") => Ok(Vec::new()),
            Err(error) => Err(link.trouble(&self.shared, &error)),
        }
    }

    pub async fn note(&self, name: &str, words: &[&str]) -> Result<(), Away> {
        let key = self.shared.key(name);
        let mut note = Pipeline::new();
        note.cmd("SADD")
            .arg(&key)
            .arg(words)
            .cmd("EXPIRE")
            .arg(&key)
            .arg(A_WEEK.as_secs());
        self.shared
            .link()?
            .run_all(&self.shared, &note)
            .await
            .map(drop)
    }

    /// By our clock or by the server's, whichever is the later: whoever revokes may be far from the instances, and its clock off.
    pub async fn mark(&self, name: &str, until: Timestamp) -> Result<(), Reason> {
        let link = self.shared.link().map_err(|Away| Reason::StoreAway)?;
        let theirs = link.time(&self.shared).await;
        let theirs = theirs.map_err(|Away| Reason::StoreAway)?;
        let left = until.since(clock::now()).max(until.since(theirs));
        let mut set = Cmd::new();
        set.arg("SET").arg(self.shared.key(name)).arg("1");
        set.arg("PX").arg(left.max(A_MINUTE).as_millis() as u64);
        match link.ask(&set).await {
            Ok(Value::Okay) => Ok(()),
            Ok(_) => Err(Reason::StoreAway),
            Err(refused) if refused.code() == Some("OOM") => Err(Reason::StoreRefused),
            Err(error) => {
                link.trouble(&self.shared, &error);
                Err(Reason::StoreAway)
            }
        }
    }

    pub async fn is_marked(&self, name: &str) -> Result<bool, Away> {
        let mut exists = Cmd::new();
        exists.arg("EXISTS").arg(self.shared.key(name));
        match self.shared.link()?.run(&self.shared, &exists).await? {
            Value::Int(found) => Ok(found > 0),
            _ => Err(Away),
        }
    }

    pub async fn confirm_secret(&self) -> Result<bool, Away> {
        self.shared.confirm_secret().await
    }

    pub async fn list(
        &self,
        start: &str,
        most: usize,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Listed>, Away> {
        let link = self.shared.link()?;
        let pattern: String = start
            .chars()
            .flat_map(|c| "*?[]\\^".contains(c).then_some('\\').into_iter().chain([c]))
            .chain(['*'])
            .collect();
        let (mut listed, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let mut scan = Cmd::new();
            scan.arg("SCAN")
                .arg(&cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1000);
            let Value::Array(page) = link.run(&self.shared, &scan).await? else {
                return Err(Away);
            };
            let [next, keys] = page.as_slice() else {
                return Err(Away);
            };
            let mut keys = words(keys);
            keys.retain(|key| is_wanted(key));
            if !keys.is_empty() {
                let mut facts = Pipeline::new();
                for key in &keys {
                    facts.cmd("PTTL").arg(key).cmd("STRLEN").arg(key);
                }
                let facts = link.run_all(&self.shared, &facts).await?;
                listed.extend(keys.into_iter().zip(facts.chunks(2)).map(|(key, facts)| {
                    Listed {
                        key,
                        ttl: integer(&facts[0])
                            .and_then(|ms| u64::try_from(ms).ok())
                            .map(Duration::from_millis),
                        bytes: integer(&facts[1])
                            .and_then(|bytes| u64::try_from(bytes).ok())
                            .unwrap_or(0),
                    }
                }));
            }
            cursor = text(next).unwrap_or_else(|| "0".to_owned());
            if cursor == "0" || listed.len() >= most {
                break;
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed.dedup_by(|a, b| a.key == b.key);
        listed.truncate(most);
        Ok(listed)
    }

    /// Known to the other instances at once, or as soon as the store is there.
    pub async fn adopt(&self, lifetimes: Lifetimes, states: &[StateKey]) {
        let shared = &self.shared;
        shared
            .lifetimes
            .store(Arc::new(shared.lifetimes.load().and(lifetimes)));
        let mut registered = shared.registered.load().as_ref().clone();
        let known = registered.len();
        registered.extend(states.iter().cloned());
        registered.sort();
        registered.dedup();
        if registered.len() == known {
            return;
        }
        shared.registered.store(Arc::new(registered));
        if let Ok(link) = shared.link()
            && let Err(why) = shared.renew(&link).await
        {
            // They are when the next link is made.
            warn!(%why, "the routes are not made known to the other instances yet");
            link.standing.failing.store(true, Ordering::Relaxed);
        }
    }

    pub async fn all_states(&self, ours: &[StateKey]) -> Result<Vec<StateKey>, Away> {
        let mut states: Vec<StateKey> = self
            .notes("~routes")
            .await?
            .into_iter()
            .map(StateKey::new)
            .collect();
        states.extend(ours.iter().cloned());
        states.sort();
        states.dedup();
        Ok(states)
    }
}

impl Shared {
    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    fn link(&self) -> Result<Arc<Link>, Away> {
        self.link.load_full().ok_or(Away)
    }

    /// How long this instance takes a state for good that it has read, if at all.
    fn term(&self) -> Option<Duration> {
        self.tier.as_ref().and_then(Tier::term)
    }

    /// The states alone. With a lease, those who come together ask together.
    async fn states(
        self: &Arc<Self>,
        tier: &Tier,
        link: &Arc<Link>,
        states: &States,
        now: clock::Uptime,
    ) -> Result<SeenStates, Away> {
        if tier.term().is_none() {
            let (read, _) = self.read(link, None, states).await?;
            return Ok(read.states);
        }
        let (answer, is_own) = tier.ask(states, now, link.number, || {
            let (shared, link, states) = (self.clone(), link.clone(), states.clone());
            Box::pin(async move {
                let (read, leasing) = shared.read(&link, None, &states).await?;
                Ok((read.states, leasing))
            })
        });
        let read = answer.clone().await;
        tier.answered(states, &answer);
        match read? {
            (_, Leasing::Refused) if !is_own => {
                let (read, _) = self.read(link, None, states).await?;
                Ok(read.states)
            }
            (seen, _) => Ok(seen),
        }
    }

    /// One round trip: the copy, if it is asked for, and the states; and, where they may give leases, whether others
    /// know of it.
    async fn read(
        &self,
        link: &Link,
        copy: Option<&str>,
        states: &States,
    ) -> Result<(Found, Leasing), Away> {
        let term = self.term();
        // Before it is sent: a lease counts from here.
        let asked = term.map(|_| clock::uptime());
        let trusted = link.is_trusted();
        let names = states.iter().map(StateKey::as_str);
        let names = names.chain(term.map(|_| lease::KEY));
        let reply = link.pipe.mget(copy, &self.prefix, names);
        let reply = reply.await.map_err(|_| Away)?;
        let mut values = link.values(&reply)?;
        let value = copy.and_then(|key| Some((key, values.next().flatten()?)));
        let copy = match value {
            Some((key, value)) => {
                let value = match self.tier {
                    // Kept, it must not keep what else was read with it.
                    Some(_) => Bytes::copy_from_slice(value),
                    None => reply.slice_ref(value),
                };
                codec::decode(key.as_bytes(), &value, states)
                    .map(Arc::new)
                    .ok_or(Reason::Foreign)
            }
            None => Err(Reason::Absent),
        };
        let states: SeenStates = states
            .iter()
            .cloned()
            .zip(values.by_ref().map(|value| link.seen(value, trusted)))
            .collect();
        let mut leasing = Leasing::Refused;
        if let (Some(tier), Some(term), Some(asked)) = (&self.tier, term, asked) {
            match values.next().flatten() {
                Some(terms) if Registry::names(terms, term) => {
                    let link = link.number;
                    tier.lease(&states, Lease { asked, link });
                    leasing = Leasing::Given;
                }
                _ => link.terms_are_due.store(true, Ordering::Relaxed),
            }
        }
        Ok((Found { copy, states }, leasing))
    }
}

/// The states as they were opened, or else seen before, as they count in this life of the store.
fn merged(
    states: &States,
    opened: &[(StateKey, Seen)],
    seen: &[(StateKey, Seen)],
    life: Incarnation,
) -> SeenStates {
    let now = |state: &StateKey| {
        let seen = seen_of(opened, state).or_else(|| seen_of(seen, state));
        seen.map_or(Seen::Absent, |seen| seen.in_life(life))
    };
    states
        .iter()
        .map(|state| (state.clone(), now(state)))
        .collect()
}

fn seen_of(seen: &[(StateKey, Seen)], state: &StateKey) -> Option<Seen> {
    let (_, seen) = seen.iter().find(|(name, _)| name == state)?;
    Some(*seen)
}

/// Where the store is, for people, without its credentials.
struct Place<'s>(&'s Settings);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.endpoint {
            RedisEndpoint::Tcp { host, port } => {
                write!(f, "redis://{host}:{port}/{}", self.0.database)
            }
            RedisEndpoint::Tls { host, port, .. } => {
                write!(f, "rediss://{host}:{port}/{}", self.0.database)
            }
            RedisEndpoint::Unix(path) => write!(
                f,
                "redis+unix://{}, database {}",
                path.display(),
                self.0.database
            ),
        }
    }
}
