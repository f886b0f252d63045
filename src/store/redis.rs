//! The store in Redis 7.0+: one multiplexed connection, its own time limit and breaker.
//!
//! A `Link` is one connection and all that was learnt on it; when it is lost, so are the commands under way,
//! and nothing here sends one twice. A keeper task makes the next link and, before anybody may use it,
//! replays the journal. While there is none, every command fails at once: an outage costs one time limit
//! for the instance, not one for each request.
//!
//! There is no timer per command. While commands are on their way, a heartbeat keeps one PING among them. If it is
//! not back after half the time limit, a fresh connection is asked: if nobody answers there either, the server hangs.
//! If somebody does, it is this process that is late, starved of CPU perhaps, and the store is not blamed for it;
//! unless it goes on, for then it is this one connection that is stuck.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use super::batched::Batched;
use super::{Away, Found, Health, Listed, SeenStates, codec};
use crate::caching::cache_status::Reason;
use crate::caching::key::HashingSecret;
use crate::caching::stored::Stored;
use crate::coherence::protocol::{Incarnation, Outcome, Reply, Seen, State, Step};
use crate::coherence::{Journal, StateKey, States, fresh_bits};
use crate::config::{Redis as Settings, RedisEndpoint};

/// The deployment's own keys live a week from their last renewal.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const RENEWED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Heartbeats in one time limit.
const BEATS: u32 = 10;

/// Heartbeats after which one connection is stuck, although the server answers on others.
const STUCK: u32 = 8 * BEATS;

/// Commands that may be on their way at once. What waits here has not been sent, and so is no sign of a slow store.
const IN_FLIGHT: usize = 512;

const SCRIPT: &str = include_str!("state.lua");
const INCARNATION: &str = include_str!("incarnation.lua");

/// Where the store's present life stands, below the prefix.
const INCARNATION_KEY: &str = "~incarnation";

/// How long after the beginning of another life of the store no epoch is made or trusted: by then every
/// instance has noticed, and put back the holds of its writes in flight.
const NOTICE: Duration = crate::coherence::NOTICE;

/// An absence shorter than this costs nothing: nobody forwards a write without a hold so soon.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Upstash locks only the script's keys when told so; Redis refuses a flag that it does not know.
const SHEBANGS: [&str; 2] = [
    "#!lua flags=allow-oom,allow-key-locking\n",
    "#!lua flags=allow-oom\n",
];

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
    lifetimes: Lifetimes,
    /// The states that all copies of this configuration depend on, known to every instance under the prefix.
    registered: Vec<StateKey>,
    journal: Arc<Journal>,
    link: ArcSwapOption<Link>,
    secret: ArcSwapOption<HashingSecret>,
    health: Mutex<Health>,
    /// Who the server was, at the last connection.
    last_who: Mutex<Option<Option<String>>>,
    /// Since when there is no link.
    away_since: Mutex<Option<tokio::time::Instant>>,
}

/// How long what a state protects may last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    pub hold: Duration,
    pub longest_ttl: Duration,
}

impl Lifetimes {
    /// How long a state lives after it was last needed, in milliseconds: beyond every copy and hold.
    fn state(&self) -> u64 {
        (self.longest_ttl + self.hold + Duration::from_secs(60)).as_millis() as u64
    }
}

/// One connection and what was learnt on it.
struct Link {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    in_flight: Semaphore,
    sent: AtomicU64,
    answered: AtomicU64,
    /// It answers, but with errors that no retry on this link will mend.
    failing: AtomicBool,
    script: String,
    script_sha: String,
    /// The life of the store's data, as last seen.
    incarnation: AtomicU32,
    /// Before then no epoch is made or trusted.
    trusted_from: tokio::time::Instant,
    trusted: AtomicBool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why there is no link.
#[derive(Debug)]
pub enum NoLink {
    /// Nobody there, or no answer: tried again.
    Unreachable(String),
    /// It answers but refuses us; the text names the remedy.
    Refused(String),
}

impl fmt::Display for NoLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoLink::Unreachable(why) => write!(f, "the store cannot be reached: {why}"),
            NoLink::Refused(why) => f.write_str(why),
        }
    }
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
            lifetimes,
            registered,
            journal,
            link: ArcSwapOption::empty(),
            secret: ArcSwapOption::empty(),
            health: Mutex::new(Health::Down("not connected yet".to_owned())),
            last_who: Mutex::new(None),
            away_since: Mutex::new(Some(tokio::time::Instant::now())),
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
            shared.publish(link);
        }
        let keeper = tokio::spawn(shared.clone().keep(first));
        Ok(Redis { shared, keeper })
    }

    pub fn health(&self) -> Health {
        self.shared.health.lock().clone()
    }

    pub fn secret(&self) -> Option<HashingSecret> {
        self.shared.secret.load().as_deref().copied()
    }

    pub async fn look_up(&self, copy: &str, states: &States) -> Result<Found, Away> {
        let link = self.shared.link()?;
        let mut mget = Cmd::new();
        mget.arg("MGET").arg(copy);
        for state in states {
            mget.write_arg_pair(&self.shared.prefix, state);
        }
        let Value::Array(values) = link.run(&self.shared, &mget).await? else {
            return Err(Away);
        };
        let mut values = values.into_iter();
        let copy = match values.next() {
            Some(Value::BulkString(value)) => codec::decode(&Bytes::from(value), states)
                .map(Arc::new)
                .ok_or(Reason::Foreign),
            _ => Err(Reason::Absent),
        };
        let seen = states
            .iter()
            .cloned()
            .zip(values.map(|value| link.seen(&value)));
        Ok(Found {
            copy,
            states: seen.collect(),
        })
    }

    pub async fn open(&self, states: &States) -> Result<SeenStates, Away> {
        let link = self.shared.link()?;
        let mut mget = Cmd::new();
        mget.arg("MGET").arg(self.shared.key(INCARNATION_KEY));
        for state in states {
            mget.write_arg_pair(&self.shared.prefix, state);
        }
        let Value::Array(values) = link.run(&self.shared, &mget).await? else {
            return Err(Away);
        };
        let Some((life, values)) = values.split_first() else {
            return Err(Away);
        };
        // Another instance may have found that the store lives another life; or the key was evicted.
        match text(life).and_then(|text| parse_incarnation(&text)) {
            Some(life) => link.incarnation.store(life, Ordering::Relaxed),
            None => drop(
                link.incarnate(&self.shared, link.who().await.as_deref(), "first")
                    .await
                    .map_err(|_| Away)?,
            ),
        }
        let mut found: SeenStates = states
            .iter()
            .cloned()
            .zip(values.iter().map(|value| link.seen(value)))
            .collect();
        // A held one is asked, too: its hold may be overdue, and whoever asks sweeps it.
        let asked: Vec<StateKey> = found
            .iter()
            .filter(|(_, seen)| !matches!(seen, Seen::Current(_)))
            .map(|(state, _)| state.clone())
            .collect();
        if !asked.is_empty() && link.is_trusted() {
            let incarnation = Incarnation(link.incarnation.load(Ordering::Relaxed));
            let step = Step::Open {
                incarnation,
                fresh: fresh_bits() as u32,
            };
            for (state, reply) in asked
                .iter()
                .zip(link.step(&self.shared, &asked, step).await?)
            {
                for (_, seen) in found.iter_mut().filter(|(name, _)| name == state) {
                    *seen = reply.seen.in_life(incarnation);
                }
            }
        }
        Ok(found)
    }

    /// Since when the store has been away, if it is.
    pub fn away_since(&self) -> Option<tokio::time::Instant> {
        *self.shared.away_since.lock()
    }

    pub async fn step(&self, states: &[StateKey], step: Step) -> Result<Vec<Reply>, Away> {
        let link = self.shared.link()?;
        let done = link.step(&self.shared, states, step).await;
        if done.is_err() {
            self.shared.distrust(&link);
        }
        done
    }

    pub async fn put(&self, copy: &str, stored: &Stored, lasting: Duration) -> Result<(), Reason> {
        let mut put = Pipeline::new();
        put.cmd("SET")
            .arg(copy)
            .arg(codec::encode(stored))
            .arg("PX")
            .arg(lasting.as_millis().max(1) as u64);
        // A state outlives its copies: whoever stores a late copy gives it time. GT never makes one of nothing.
        for (state, _) in &stored.epochs {
            let mut expire = Cmd::new();
            expire
                .arg("PEXPIRE")
                .write_arg_pair(&self.shared.prefix, state);
            expire.arg(self.shared.lifetimes.state()).arg("GT");
            put.add_command(expire);
        }
        let link = self.shared.link().map_err(|Away| Reason::StoreAway)?;
        let replies = link
            .run_all(&self.shared, &put)
            .await
            .map_err(|Away| Reason::StoreAway)?;
        match replies.first() {
            Some(Value::ServerError(refused)) => {
                debug!(code = refused.code(), "the store did not take a copy");
                Err(Reason::StoreRefused)
            }
            _ => Ok(()),
        }
    }

    pub async fn notes(&self, name: &str) -> Result<Vec<String>, Away> {
        let mut members = Cmd::new();
        members.arg("SMEMBERS").arg(self.shared.key(name));
        let reply = self.shared.link()?.run(&self.shared, &members).await?;
        Ok(words(&reply))
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

    pub async fn list(&self, start: &str, most: usize) -> Result<Vec<Listed>, Away> {
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
            let keys = words(keys);
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

    /// The keeper's life: watch the link; when it is lost, make the next.
    async fn keep(self: Arc<Self>, mut link: Option<Arc<Link>>) {
        let mut pause = Duration::from_millis(50);
        let mut complained: Option<tokio::time::Instant> = None;
        loop {
            if let Some(link) = link.take() {
                let why = self.watch(&link).await;
                self.link.store(None);
                link.give_up();
                self.lost(Health::Down(why));
                pause = Duration::from_millis(50);
            }
            tokio::time::sleep(pause).await;
            match self.connect().await {
                Ok(new) => {
                    complained = None;
                    while !self.publish(&new) {
                        if self.replay(&new).await.is_err() {
                            // Never used: made anew, or what is owed would stay owed.
                            new.failing.store(true, Ordering::Relaxed);
                            break;
                        }
                    }
                    link = Some(new);
                }
                Err(NoLink::Unreachable(why)) => {
                    // Well below the notice time, so that no instance is late to put back its holds.
                    pause = (pause * 2).min(NOTICE / 2);
                    let mut health = self.health.lock();
                    if matches!(*health, Health::Refused(_)) {
                        *health = Health::Down(why);
                    }
                }
                Err(NoLink::Refused(why)) => {
                    pause = Duration::from_secs(1);
                    if complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
                        complained = Some(tokio::time::Instant::now());
                        error!("{why}. Requests pass through until then");
                    }
                    *self.health.lock() = Health::Refused(why);
                }
            }
        }
    }

    /// A step that could not be confirmed: nobody reads by this link any more until what is owed has been paid.
    fn distrust(&self, link: &Arc<Link>) {
        link.failing.store(true, Ordering::Relaxed);
        let is_this = |current: &Option<Arc<Link>>| {
            current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, link))
        };
        let before = self.link.rcu(|current| {
            if is_this(current) {
                None
            } else {
                current.clone()
            }
        });
        if is_this(&before) {
            self.away_since
                .lock()
                .get_or_insert_with(tokio::time::Instant::now);
        }
    }

    /// Lets everybody use the link, unless a purge has come to be owed since the journal was replayed.
    fn publish(&self, link: &Arc<Link>) -> bool {
        // Under the journal's lock: whoever owes something later finds that the store is not away.
        let published = self.journal.if_nothing_is_owed(|| {
            *self.away_since.lock() = None;
            self.link.store(Some(link.clone()));
        });
        if published {
            *self.health.lock() = Health::Up;
            info!(store = %Place(&self.settings), "store connected");
        }
        published
    }

    fn lost(&self, health: Health) {
        if let Health::Down(why) = &health {
            warn!(store = %Place(&self.settings), %why, "store away: requests pass through until it is back");
        }
        *self.health.lock() = health;
        self.away_since
            .lock()
            .get_or_insert_with(tokio::time::Instant::now);
    }

    /// Returns why the link is no good any more.
    async fn watch(&self, link: &Arc<Link>) -> String {
        let mut beat = tokio::time::interval(self.timeout / BEATS);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed = tokio::time::Instant::now();
        let mut probe: Option<(Probe, u32)> = None;
        loop {
            beat.tick().await;
            if !link.is_trusted() && tokio::time::Instant::now() >= link.trusted_from {
                link.trusted.store(true, Ordering::Relaxed);
            }
            if link.driver.is_finished() {
                return "the connection was lost".to_owned();
            }
            if link.failing.load(Ordering::Relaxed) {
                return "the server cannot be used at the moment (loading, read-only or out of its cluster)".to_owned();
            }
            probe = match probe.take() {
                None => (!link.is_idle()).then(|| (link.probe(), 0)),
                Some((mut sent, beats)) => match (&mut sent).now_or_never() {
                    Some(true) => None,
                    Some(false) => return "the connection was lost".to_owned(),
                    None if beats == STUCK
                        || (beats % BEATS == BEATS / 2 && !self.answers_elsewhere().await) =>
                    {
                        // It may have come back meanwhile.
                        match sent.now_or_never() {
                            Some(true) => None,
                            _ => {
                                return format!("no answer within {} ms", self.timeout.as_millis());
                            }
                        }
                    }
                    None => Some((sent, beats + 1)),
                },
            };
            if renewed.elapsed() > RENEWED_EVERY {
                renewed = tokio::time::Instant::now();
                let _ = self.renew(link).await;
            }
        }
    }

    /// Whether the server answers at all, be it with an error, on a fresh connection and within half the time limit.
    async fn answers_elsewhere(&self) -> bool {
        async fn any_word<S: AsyncRead + AsyncWrite + Unpin>(
            mut stream: S,
        ) -> std::io::Result<bool> {
            stream.write_all(b"PING\r\n").await?;
            Ok(stream.read(&mut [0; 1]).await? > 0)
        }
        let asked = async {
            match &self.settings.endpoint {
                RedisEndpoint::Tcp { host, port } => any_word(tcp(host, *port).await?).await,
                RedisEndpoint::Unix(path) => any_word(UnixStream::connect(path).await?).await,
                RedisEndpoint::Tls {
                    host,
                    port,
                    ca_file,
                } => {
                    let stream = tcp(host, *port).await?;
                    any_word(crate::tls::connect(host, ca_file.as_deref(), stream).await?).await
                }
            }
        };
        matches!(
            tokio::time::timeout(self.timeout / 2, asked).await,
            Ok(Ok(true))
        )
    }

    /// Connects, authenticates, selects, proves that it may write, and replays the journal.
    async fn connect(&self) -> Result<Arc<Link>, NoLink> {
        let patience = (self.timeout * 4).max(Duration::from_secs(1));
        match tokio::time::timeout(patience, self.reach()).await {
            Ok(Ok(link)) => match tokio::time::timeout(patience, self.prepare(link)).await {
                Ok(done) => done.map(Arc::new),
                Err(_) => Err(NoLink::Unreachable(format!(
                    "connected, but no answer within {} ms",
                    patience.as_millis()
                ))),
            },
            Ok(Err(why)) => Err(NoLink::Unreachable(why)),
            Err(_) => {
                let tls = matches!(self.settings.endpoint, RedisEndpoint::Tls { .. });
                let hint = if tls {
                    "; does that port speak TLS?"
                } else {
                    ""
                };
                let patience = patience.as_millis();
                Err(NoLink::Unreachable(format!(
                    "no connection within {patience} ms{hint}"
                )))
            }
        }
    }

    async fn reach(&self) -> Result<Link, String> {
        let words = |e: std::io::Error| e.to_string();
        match &self.settings.endpoint {
            RedisEndpoint::Tcp { host, port } => {
                Link::over(tcp(host, *port).await.map_err(words)?).await
            }
            RedisEndpoint::Unix(path) => {
                Link::over(UnixStream::connect(path).await.map_err(words)?).await
            }
            RedisEndpoint::Tls {
                host,
                port,
                ca_file,
            } => {
                let stream = tcp(host, *port).await.map_err(words)?;
                let stream = crate::tls::connect(host, ca_file.as_deref(), stream)
                    .await
                    .map_err(words)?;
                Link::over(stream).await
            }
        }
    }

    async fn prepare(&self, mut link: Link) -> Result<Link, NoLink> {
        if let Some(password) = &self.settings.password {
            let mut auth = Cmd::new();
            auth.arg("AUTH");
            if let Some(username) = &self.settings.username {
                auth.arg(username);
            }
            link.ask(auth.arg(password.expose()))
                .await
                .map_err(|e| self.refusal("AUTH", &e))?;
        }
        if self.settings.database != 0 {
            let mut select = Cmd::new();
            link.ask(select.arg("SELECT").arg(self.settings.database))
                .await
                .map_err(|e| self.refusal("SELECT", &e))?;
        }
        let mut loaded = Err(NoLink::Unreachable("no script was taken".to_owned()));
        for shebang in SHEBANGS {
            let mut load = Cmd::new();
            let script = format!("{shebang}{SCRIPT}");
            match link.ask(load.arg("SCRIPT").arg("LOAD").arg(&script)).await {
                Ok(sha) => {
                    (link.script_sha, link.script) = (text(&sha).unwrap_or_default(), script);
                    loaded = Ok(());
                    break;
                }
                Err(e) => loaded = Err(self.refusal("SCRIPT LOAD", &e)),
            }
        }
        loaded?;
        self.renew(&link).await?;
        let wait = self.enter(&link).await?;
        link.trusted_from = tokio::time::Instant::now() + wait;
        link.trusted = AtomicBool::new(wait.is_zero());
        self.replay(&link).await.map_err(|Away| {
            NoLink::Unreachable("it was lost while the journal was replayed".to_owned())
        })?;
        Ok(link)
    }

    /// Finds out which life of the store this is, and for how long nothing is to be trusted.
    async fn enter(&self, link: &Link) -> Result<Duration, NoLink> {
        let who = link.who().await;
        let last = self.last_who.lock().replace(who.clone());
        let how = match last {
            None => "first",
            // A server that was left for another has missed what that one was told, whatever its own key says; and
            // one that does not say who it is may be any.
            Some(last) if last != who || who.is_none() => "anew",
            Some(_) => "again",
        };
        let wait = link.incarnate(self, who.as_deref(), how).await?;
        // Who was away for longer than a moment may be back before an instance that has forwarded a write without a
        // hold meanwhile, and is still to say so.
        let away = self
            .away_since
            .lock()
            .map_or(Duration::ZERO, |since| since.elapsed());
        Ok(if how != "first" && away >= A_MOMENT {
            wait.max(NOTICE)
        } else {
            wait
        })
    }

    /// Makes or adopts the deployment's secret, and names this configuration's states to the other instances.
    async fn renew(&self, link: &Link) -> Result<(), NoLink> {
        let key = self.key("~secret");
        let own = self.secret.load().as_deref().copied().unwrap_or_else(|| {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).expect("the system has random bits");
            HashingSecret(secret)
        });
        let hex: String = own.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let set = |only_if_absent: bool| {
            let mut set = Cmd::new();
            set.arg("SET")
                .arg(&key)
                .arg(&hex)
                .arg("EX")
                .arg(A_WEEK.as_secs());
            if only_if_absent {
                set.arg("NX");
            }
            set
        };
        self.wrote(link.ask(&set(true)).await)?;
        let mut get = Cmd::new();
        let theirs = match link.ask(get.arg("GET").arg(&key)).await {
            Err(refused) if refused.code() == Some("WRONGTYPE") => None,
            answer => text(&answer.map_err(|e| self.refusal("GET", &e))?),
        };
        let secret = match theirs.as_deref().and_then(parse_secret) {
            Some(secret) => secret,
            None => {
                // Nothing, or no secret of ours, stands there: replaced, or no copy could be keyed.
                self.wrote(link.ask(&set(false)).await)?;
                own
            }
        };
        self.secret.store(Some(Arc::new(secret)));
        let routes = self.key("~routes");
        let mut register = Pipeline::new();
        register.cmd("EXPIRE").arg(&key).arg(A_WEEK.as_secs());
        if !self.registered.is_empty() {
            let names: Vec<&str> = self.registered.iter().map(StateKey::as_str).collect();
            register
                .cmd("SADD")
                .arg(&routes)
                .arg(names)
                .cmd("EXPIRE")
                .arg(&routes)
                .arg(A_WEEK.as_secs());
        }
        link.run_all(self, &register)
            .await
            .map(drop)
            .map_err(|Away| NoLink::Unreachable("it was lost".to_owned()))
    }

    /// A full store takes no new key, but may hold ours, and everything else works without memory to spare.
    fn wrote(&self, answer: Result<Value, RedisError>) -> Result<(), NoLink> {
        match answer {
            Err(refused) if refused.code() == Some("OOM") => Ok(()),
            answer => answer.map(drop).map_err(|e| self.refusal("SET", &e)),
        }
    }

    /// Puts back the holds of writes in flight and pays what is owed, before the link may serve anybody.
    async fn replay(&self, link: &Link) -> Result<(), Away> {
        let owed = self.journal.owed();
        for (hold, states, lasting) in &owed.holds {
            link.step(
                self,
                states,
                Step::Begin {
                    hold: *hold,
                    lasting: *lasting,
                },
            )
            .await?;
        }
        for (hold, states, outcome) in &owed.finishes {
            let step = Step::Finish {
                hold: *hold,
                outcome: *outcome,
                lasting: self.lifetimes.hold,
            };
            link.step(self, states, step).await?;
        }
        let purges: Vec<StateKey> = match owed.everything {
            true => self.registered.clone(),
            false => owed.purges.iter().cloned().collect(),
        };
        for some in purges.chunks(1000) {
            link.step(self, some, Step::Purge).await?;
        }
        if !owed.finishes.is_empty() || !purges.is_empty() {
            info!(
                finishes = owed.finishes.len(),
                purges = purges.len(),
                "purges owed to the store were replayed"
            );
        }
        self.journal.paid(&owed);
        Ok(())
    }

    /// What a refused command means to the operator.
    fn refusal(&self, command: &str, error: &RedisError) -> NoLink {
        let code = error.code().unwrap_or_default();
        let said = error.detail().unwrap_or_default();
        if error.is_io_error() || error.is_connection_dropped() {
            return NoLink::Unreachable("the connection was lost".to_owned());
        }
        let database = self.settings.database;
        NoLink::Refused(match (command, code) {
            (_, "LOADING" | "MASTERDOWN" | "READONLY" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN") => {
                return NoLink::Unreachable(format!("the server says {code} {said}"));
            }
            ("AUTH", _) | (_, "NOAUTH" | "WRONGPASS") => format!(
                "the store refused the login ({code}): check user and password in `store.url` \
                 (rediss://USER:PASSWORD@host:port; USER is `default` where none was made)"
            ),
            (_, "NOPERM") => format!(
                "the store's user may not run {command} ({code}): allow it `~{}:* +@read +@write +@scripting +@connection`",
                self.prefix
            ),
            ("SELECT", _) => format!(
                "the store has no database {database} (SELECT was refused: {code} {said}); a server with `databases 1`, as Upstash is, \
                 has only 0: write `database: 0` under `store:` (the prefix `{}` keeps Larder's keys apart)",
                self.prefix
            ),
            ("SCRIPT LOAD", _) => format!(
                "the store refused Larder's script ({code} {said}): Redis 7.0 or newer is needed"
            ),
            _ => return NoLink::Unreachable(format!("{command} was answered {code} {said}")),
        })
    }
}

impl Link {
    async fn over<S>(stream: S) -> Result<Link, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // No response timeout of the client's own: the heartbeat is the one time limit.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, Batched::new(stream), config)
                .await
                .map_err(|e| e.to_string())?;
        Ok(Link {
            connection,
            driver: tokio::spawn(driver),
            in_flight: Semaphore::new(IN_FLIGHT),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            script: String::new(),
            script_sha: String::new(),
            incarnation: AtomicU32::new(0),
            trusted_from: tokio::time::Instant::now(),
            trusted: AtomicBool::new(false),
        })
    }

    /// A command whose refusal means something to the caller.
    async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let _sent = self.send().await.map_err(|Away| gone())?;
        match self.connection.clone().req_packed_command(command).await? {
            Value::ServerError(refused) => Err(refused.into()),
            value => Ok(value),
        }
    }

    async fn run(&self, shared: &Shared, command: &Cmd) -> Result<Value, Away> {
        let asked = self.ask(command).await;
        asked.map_err(|error| self.trouble(shared, &error))
    }

    /// A pipeline; an answer that is an error stands in its place as `Value::ServerError`.
    async fn run_all(&self, shared: &Shared, commands: &Pipeline) -> Result<Vec<Value>, Away> {
        let _sent = self.send().await?;
        let count = commands.len();
        let values = self
            .connection
            .clone()
            .req_packed_commands(commands, 0, count)
            .await;
        let values = values.map_err(|error| self.trouble(shared, &error))?;
        for value in &values {
            if let Value::ServerError(error) = value {
                self.note_failing(error.code());
            }
        }
        Ok(values)
    }

    fn is_idle(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == self.answered.load(Ordering::Relaxed)
    }

    /// A PING on its way; in the end, whether it came back.
    fn probe(&self) -> Probe {
        let mut connection = self.connection.clone();
        Box::pin(async move {
            connection
                .req_packed_command(Cmd::new().arg("PING"))
                .await
                .is_ok()
        })
    }

    /// Waits until a command may go, and counts it until its answer is there or nobody waits for it any more.
    async fn send(&self) -> Result<Sent<'_>, Away> {
        let permit = self.in_flight.acquire().await.map_err(|_| Away)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(Sent {
            link: self,
            _permit: permit,
        })
    }

    /// Everyone who waits on this link learns at once that it is gone.
    fn give_up(&self) {
        self.in_flight.close();
        self.driver.abort();
    }

    async fn step(
        &self,
        shared: &Shared,
        states: &[StateKey],
        step: Step,
    ) -> Result<Vec<Reply>, Away> {
        let mut evals = Pipeline::new();
        for state in states {
            evals.add_command(self.eval(shared, state, step, false));
        }
        let mut values = self.run_all(shared, &evals).await?;
        // The server forgot the script (SCRIPT FLUSH, a restart behind a proxy): those did not run.
        let unknown: Vec<usize> = values
            .iter()
            .enumerate()
            .filter(|(_, value)| matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT"))
            .map(|(n, _)| n)
            .collect();
        if !unknown.is_empty() {
            let mut evals = Pipeline::new();
            for n in &unknown {
                evals.add_command(self.eval(shared, &states[*n], step, true));
            }
            for (n, value) in unknown.into_iter().zip(self.run_all(shared, &evals).await?) {
                values[n] = value;
            }
        }
        values.iter().map(reply).collect::<Option<_>>().ok_or(Away)
    }

    /// A state as it counts on this link now.
    fn seen(&self, value: &Value) -> Seen {
        match seen(value) {
            // While other instances put back their holds, a state without one may only have lost it.
            Seen::Current(_) if !self.is_trusted() => Seen::Held,
            seen => seen.in_life(Incarnation(self.incarnation.load(Ordering::Relaxed))),
        }
    }

    fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// Learns which life of the store this is. Gives for how long nothing is to be trusted yet.
    async fn incarnate(
        &self,
        shared: &Shared,
        who: Option<&str>,
        how: &str,
    ) -> Result<Duration, NoLink> {
        let mut ask = Cmd::new();
        ask.arg("EVAL")
            .arg(format!("{}{INCARNATION}", SHEBANGS[1]))
            .arg(1)
            .arg(shared.key(INCARNATION_KEY));
        ask.arg(who.unwrap_or("unknown"))
            .arg(format!("{:08x}", fresh_bits() as u32));
        ask.arg(A_WEEK.as_millis() as u64)
            .arg(how)
            .arg(NOTICE.as_millis() as u64);
        let told = self
            .ask(&ask)
            .await
            .map_err(|e| shared.refusal("EVAL", &e))?;
        let (life, wait) = match &told {
            Value::Array(parts) => match parts.as_slice() {
                [life, wait] => (
                    text(life).and_then(|life| u32::from_str_radix(&life, 16).ok()),
                    integer(wait),
                ),
                _ => (None, None),
            },
            _ => (None, None),
        };
        let (Some(life), Some(wait)) = (life, wait) else {
            return Err(NoLink::Unreachable(
                "it does not say which life this is".to_owned(),
            ));
        };
        self.incarnation.store(life, Ordering::Relaxed);
        Ok(Duration::from_millis(u64::try_from(wait).unwrap_or(0)).min(NOTICE))
    }

    /// The server's own word for itself and for its history. Some hide it.
    async fn who(&self) -> Option<String> {
        let mut word = String::new();
        for (section, name) in [("server", "run_id:"), ("replication", "master_replid:")] {
            let mut info = Cmd::new();
            let told = self.ask(info.arg("INFO").arg(section)).await.ok()?;
            let told = text(&told)?;
            let value = told
                .lines()
                .find_map(|line| line.strip_prefix(name))?
                .trim();
            if value.is_empty() || value.contains(char::is_whitespace) {
                return None;
            }
            word = if word.is_empty() {
                value.to_owned()
            } else {
                format!("{word}:{value}")
            };
        }
        Some(word)
    }

    fn eval(&self, shared: &Shared, state: &StateKey, step: Step, whole: bool) -> Cmd {
        let mut eval = Cmd::new();
        match whole {
            true => eval.arg("EVAL").arg(&self.script),
            false => eval.arg("EVALSHA").arg(&self.script_sha),
        };
        eval.arg(1).write_arg_pair(&shared.prefix, state);
        eval.arg(shared.lifetimes.state());
        match step {
            Step::Open { incarnation, fresh } => eval
                .arg("open")
                .arg(format!("{:08x}{fresh:08x}", incarnation.0)),
            Step::Begin { hold, lasting } => eval
                .arg("begin")
                .arg(hold.to_string())
                .arg(lasting.as_millis() as u64),
            Step::Finish {
                hold,
                outcome,
                lasting,
            } => {
                let word = match outcome {
                    Outcome::Changed => "changed",
                    Outcome::Unchanged => "unchanged",
                    Outcome::Ambiguous => "ambiguous",
                };
                eval.arg(word)
                    .arg(hold.to_string())
                    .arg(lasting.as_millis() as u64)
            }
            Step::Purge => eval.arg("purge").arg("-"),
        };
        eval
    }

    fn trouble(&self, shared: &Shared, error: &RedisError) -> Away {
        if let Some(code) = error.code() {
            self.note_failing(code);
            debug!(store = %Place(&shared.settings), code, "the store refused a command");
        }
        Away
    }

    /// Answers that mean that no command will do for now: the link is given up, and made anew when it can be.
    fn note_failing(&self, code: &str) {
        if matches!(
            code,
            "LOADING"
                | "READONLY"
                | "MASTERDOWN"
                | "CLUSTERDOWN"
                | "NOAUTH"
                | "NOPERM"
                | "MOVED"
                | "MISCONF"
        ) {
            self.failing.store(true, Ordering::Relaxed);
        }
    }
}

type Probe = Pin<Box<dyn Future<Output = bool> + Send>>;

/// One command on its way.
struct Sent<'l> {
    link: &'l Link,
    _permit: SemaphorePermit<'l>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.link.answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn gone() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
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

/// `prefix:state` as one argument, without a string in between.
trait ArgPair {
    fn write_arg_pair(&mut self, prefix: &str, state: &StateKey) -> &mut Self;
}

impl ArgPair for Cmd {
    fn write_arg_pair(&mut self, prefix: &str, state: &StateKey) -> &mut Self {
        use redis::RedisWrite;
        self.write_arg_fmt(format_args!("{prefix}:{state}"));
        self
    }
}

async fn tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A state that is none of ours counts as absent.
fn seen(value: &Value) -> Seen {
    match value {
        Value::BulkString(text) => std::str::from_utf8(text)
            .ok()
            .and_then(State::parse)
            .map_or(Seen::Absent, |state| state.seen()),
        _ => Seen::Absent,
    }
}

/// The life in `who life trusted`.
fn parse_incarnation(text: &str) -> Option<u32> {
    let life = text.split(' ').nth(1).filter(|life| life.len() == 8)?;
    u32::from_str_radix(life, 16).ok()
}

fn reply(value: &Value) -> Option<Reply> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [state, own] = parts.as_slice() else {
        return None;
    };
    Some(Reply {
        seen: seen(state),
        own_hold: integer(own) == Some(1),
    })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) | Value::Set(values) => values.iter().filter_map(text).collect(),
        _ => Vec::new(),
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn parse_secret(hex: &str) -> Option<HashingSecret> {
    let mut secret = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (n, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(HashingSecret(secret))
}
