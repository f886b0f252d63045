//! A link to Redis: one connection for what requests ask and one for everything else, both to the same server, and all that
//! was learnt on them. When either is lost, so is the link with all commands under way, and nothing here sends one twice.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tracing::debug;

use super::batched::Batched;
use super::connecting::NoLink;
use super::pipe::{Due, Group, Pipe, Standing};
use super::{A_WEEK, Place, Shared, frame, script};
use crate::caching::cache_status::Reason;
use crate::caching::stored::Stored;
use crate::clock::Timestamp;
use crate::coherence::lease::{self, Registry};
use crate::coherence::life::{Heard, How, Lives};
use crate::coherence::protocol::{Incarnation, Reply, Seen, Step};
use crate::coherence::{Epochs, NOTICE, StateKey, fresh_bits};
use crate::store::{Away, codec};

/// Commands that may be on their way at once. What waits here has not been sent, and so is no sign of a slow store.
const IN_FLIGHT: usize = 512;

const INCARNATION: &str = include_str!("incarnation.lua");

const LEASES: &str = include_str!("leases.lua");

/// Where nobody has a lease, there is nothing to sweep; a write that finds one says so.
const NEVER_MIND: Duration = Duration::from_secs(24 * 3600);

/// A copy of at most so many bytes goes out with what requests ask; a larger one would make them wait for it.
const SMALL: usize = 64 * 1024;

/// Where the store's present life stands, below the prefix.
pub(super) const INCARNATION_KEY: &str = "~incarnation";

/// Upstash locks only the script's keys when told so; Redis refuses a flag that it does not know.
pub(super) const SHEBANGS: [&str; 2] = [
    "#!lua flags=allow-oom,allow-key-locking\n",
    "#!lua flags=allow-oom\n",
];

/// What INFO says of who a server is.
pub(super) const SECTIONS: [&str; 2] = ["server", "replication"];

/// Two connections and what was learnt on them.
pub(super) struct Link {
    /// No other has it.
    pub(super) number: u64,
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    /// Look-ups, steps and small copies go here.
    pub(super) pipe: Pipe,
    in_flight: Semaphore,
    sent: AtomicU64,
    answered: AtomicU64,
    pub(super) standing: Arc<Standing>,
    pub(super) script: String,
    pub(super) script_sha: String,
    /// Before then no epoch is made or trusted.
    pub(super) trusted_from: tokio::time::Instant,
    pub(super) trusted: AtomicBool,
    /// Before then a write waits for the longest lease that there may be: the store has just begun this life, and what
    /// stands in it of terms may be older.
    pub(super) young_until: tokio::time::Instant,
    /// When the terms of leases are to be looked after, at the latest; and whether that is now.
    pub(super) terms_next: Mutex<tokio::time::Instant>,
    pub(super) terms_are_due: AtomicBool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// `pipe` is ready for commands.
    pub(super) async fn over<S>(stream: S, pipe: S, lives: Arc<Lives>) -> Result<Link, String>
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
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let now = tokio::time::Instant::now();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let standing = Arc::new(Standing {
            life: Heard::on(number, lives),
            ..Standing::default()
        });
        Ok(Link {
            number,
            connection,
            driver: tokio::spawn(driver),
            pipe: Pipe::over(pipe, standing.clone()),
            in_flight: Semaphore::new(IN_FLIGHT),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            standing,
            script: String::new(),
            script_sha: String::new(),
            trusted_from: now,
            trusted: AtomicBool::new(false),
            young_until: now,
            terms_next: Mutex::new(now),
            terms_are_due: AtomicBool::new(false),
        })
    }

    /// A command whose refusal means something to the caller.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let _sent = self.send().await.map_err(|Away| gone())?;
        match self.connection.clone().req_packed_command(command).await? {
            Value::ServerError(refused) => Err(refused.into()),
            value => Ok(value),
        }
    }

    /// The same for several in one round trip.
    pub(super) async fn ask_all(
        &self,
        commands: &Pipeline,
    ) -> Result<Vec<Result<Value, RedisError>>, NoLink> {
        let lost = |_| NoLink::Unreachable("the connection was lost".to_owned());
        let _sent = self.send().await.map_err(|Away| lost(gone()))?;
        let (mut connection, count) = (self.connection.clone(), commands.len());
        let values = connection.req_packed_commands(commands, 0, count).await;
        let each = |value| match value {
            Value::ServerError(refused) => Err(refused.into()),
            value => Ok(value),
        };
        Ok(values.map_err(lost)?.into_iter().map(each).collect())
    }

    pub(super) async fn run(&self, shared: &Shared, command: &Cmd) -> Result<Value, Away> {
        let asked = self.ask(command).await;
        asked.map_err(|error| self.trouble(shared, &error))
    }

    /// A pipeline; an answer that is an error stands in its place as `Value::ServerError`.
    pub(super) async fn run_all(
        &self,
        shared: &Shared,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, Away> {
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

    pub(super) fn is_idle(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == self.answered.load(Ordering::Relaxed)
            && self.pipe.is_idle()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.driver.is_finished() || self.pipe.is_lost()
    }

    /// A word on its way on each connection; in the end, whether both came back.
    pub(super) fn probe(&self, shared: &Shared) -> Probe {
        let mut connection = self.connection.clone();
        let hit = self
            .pipe
            .mget(Some(&shared.key(INCARNATION_KEY)), "", std::iter::empty());
        let standing = self.standing.clone();
        Box::pin(async move {
            let ping = Cmd::new().arg("PING").to_owned();
            let (ping, hit) = tokio::join!(connection.req_packed_command(&ping), hit);
            let is_answer = match &ping {
                Ok(Value::ServerError(_)) => true,
                Ok(Value::SimpleString(pong)) if pong == "PONG" => true,
                Ok(_) => {
                    standing.out_of_step.store(true, Ordering::Relaxed);
                    false
                }
                Err(_) => false,
            };
            is_answer && hit.is_ok()
        })
    }

    /// Whether this is the life still is asked again, in front of the next look-up: of a server that lives on as the copy of another,
    /// or was one for a while, or whose life somebody who was elsewhere has ended, nobody who only hits would learn.
    pub(super) fn doubt(&self, shared: &Shared) {
        let said = |words: &[&str]| {
            let mut ask = BytesMut::new();
            frame::command(&mut ask, words.len());
            for word in words {
                frame::argument(&mut ask, &[word.as_bytes()]);
            }
            ask.freeze()
        };
        let (key, week) = (shared.key(INCARNATION_KEY), A_WEEK.as_secs().to_string());
        let life = said(&["GETEX", &key, "EX", &week]);
        // The record itself may have come back with an older copy.
        let is_told = self.standing.history.get().is_some();
        self.pipe
            .doubt(life, is_told.then(|| said(&["INFO", SECTIONS[1]])));
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
    pub(super) fn give_up(&self) {
        self.in_flight.close();
        self.driver.abort();
        self.pipe.give_up();
    }

    /// What the server's clock says.
    pub(super) async fn time(&self, shared: &Shared) -> Result<Timestamp, Away> {
        let mut time = Cmd::new();
        time.arg("TIME");
        let told = words(&self.run(shared, &time).await?);
        let mut numbers = told.iter().map(|word| word.parse::<u64>().ok());
        let mut number = || numbers.next().flatten().ok_or(Away);
        let (seconds, micros) = (number()?, number()?);
        let seconds = seconds.checked_mul(1_000_000).ok_or(Away)?;
        Ok(Timestamp::from_micros(seconds.saturating_add(micros)))
    }

    /// The same step on each state.
    pub(super) async fn step(
        &self,
        shared: &Shared,
        states: &[StateKey],
        step: Step,
    ) -> Result<Vec<Reply>, Away> {
        let told = self.tell(shared, states, step).await?;
        Ok(told.replies)
    }

    /// As `step`; and how long to wait for those who have seen the states before, as it stood after the steps.
    pub(super) async fn announce(
        &self,
        shared: &Shared,
        states: &[StateKey],
        step: Step,
    ) -> Result<Duration, Away> {
        let told = self.tell(shared, states, step).await?;
        Ok(self.wait_for(told.terms.as_deref(), shared.term()))
    }

    /// How long to wait by these terms, of which one may be this instance's own.
    pub(super) fn wait_for(&self, terms: Option<&[u8]>, own: Option<Duration>) -> Duration {
        let now = tokio::time::Instant::now();
        let wait = Registry::wait(terms);
        // Somebody must name what was lost, and sweep what is overdue.
        let is_watched = own.is_some() || *self.terms_next.lock() <= now + lease::STANDS_FOR * 2;
        if terms.is_none() || (!wait.is_zero() && !is_watched) {
            self.terms_are_due.store(true, Ordering::Relaxed);
        }
        wait.max(self.young_until.saturating_duration_since(now))
    }

    /// Some at a time, each lot confirmed before the next is sent: so the terms are as they stood after all of them, and who
    /// fails in the middle has told nobody for certain.
    async fn tell(
        &self,
        shared: &Shared,
        states: &[StateKey],
        step: Step,
    ) -> Result<script::Told, Away> {
        let mut told = script::Told::default();
        let mut rest = states;
        loop {
            let (some, others) = rest.split_at(rest.len().min(script::AT_ONCE));
            let (reply, part) = self.call(shared, script::Ask::Step(step), some).await?;
            let mut of_some = part.told(&reply).ok_or(Away)?;
            told.replies.append(&mut of_some.replies);
            told.terms = of_some.terms;
            rest = others;
            if rest.is_empty() {
                return Ok(told);
            }
        }
    }

    /// Opens these states if the store still lives the life that is known here.
    pub(super) async fn enter(
        &self,
        shared: &Shared,
        states: &[StateKey],
        life: Incarnation,
        fresh: u32,
    ) -> Result<script::Entered, Away> {
        let ask = script::Ask::Enter { life, fresh };
        let (reply, part) = self.call(shared, ask, states).await?;
        part.entered(&reply).ok_or(Away)
    }

    /// One call of the script, along with what others ask of it in the same turn: so what many write to is read and written once.
    /// Gives the text that it returns, and what of that is the answer to this.
    async fn call(
        &self,
        shared: &Shared,
        ask: script::Ask,
        states: &[StateKey],
    ) -> Result<(Bytes, script::Part), Away> {
        let (lifetime, prefix) = (shared.lifetimes.load().opened(), &shared.prefix);
        let group = |call| Group::of(call, &self.script_sha, prefix, lifetime);
        let (reply, part) = self.pipe.tell(ask, states, group);
        let reply = reply.await.map_err(|_| Away)?;
        if let Some(text) = self.text_of(shared, &reply)? {
            return Ok((reply.slice_ref(text), part));
        }
        let (call, part) = script::Call::new(ask, states);
        let by = script::By::Text(&self.script);
        let reply = self
            .pipe
            .say(1, Due::Script, |out| call.write(out, by, prefix, lifetime));
        let reply = reply.await.map_err(|_| Away)?;
        let text = self.text_of(shared, &reply)?.ok_or(Away)?;
        Ok((reply.slice_ref(text), part))
    }

    /// What a call of the script has returned. `None`: the server has forgotten it (SCRIPT FLUSH, a restart behind a proxy), and
    /// it did not run.
    fn text_of<'r>(&self, shared: &Shared, reply: &'r [u8]) -> Result<Option<&'r [u8]>, Away> {
        match frame::reply(reply) {
            Ok(frame::Reply::Text(text)) => Ok(Some(text)),
            Ok(frame::Reply::Error("NOSCRIPT")) => Ok(None),
            Ok(frame::Reply::Error(code)) => {
                self.note_failing(code);
                debug!(store = %Place(&shared.settings), code, "the store refused a step");
                Err(Away)
            }
            _ => Err(Away),
        }
    }

    /// A copy, after its states have been given time: a state outlives its copies, also one that is stored late. GT never
    /// makes one of nothing.
    pub(super) async fn put(
        &self,
        shared: &Shared,
        copy: &str,
        stored: &Stored,
        lasting: Duration,
    ) -> Result<(), Reason> {
        let (value, prefix) = (codec::encode(copy.as_bytes(), stored), &shared.prefix);
        let lifetime = shared.lifetimes.load().state_of(lasting).to_string();
        let lasting = lasting.as_millis().max(1).to_string();
        if value.len() > SMALL {
            let mut put = Pipeline::new();
            for (state, _) in &stored.epochs {
                let mut expire = Cmd::new();
                expire.arg("PEXPIRE").write_arg_pair(prefix, state);
                put.add_command(expire.arg(&lifetime).arg("GT").to_owned());
            }
            let set = put.cmd("SET").arg(copy).arg(value).arg("PX");
            let answers = self.run_all(shared, set.arg(&lasting)).await;
            let answers = answers.map_err(|Away| Reason::StoreAway)?;
            return match answers.last() {
                Some(Value::ServerError(refused)) => Err(not_put(refused.code())),
                _ => Ok(()),
            };
        }
        let commands = stored.epochs.len() + 1;
        let answer = self.pipe.say(commands, Due::Any, |out| {
            prolong(out, prefix, &stored.epochs, &lifetime);
            frame::command(out, 5);
            for word in [b"SET", copy.as_bytes(), &value, b"PX", lasting.as_bytes()] {
                frame::argument(out, &[word]);
            }
        });
        let answer = answer.await.map_err(|_| Reason::StoreAway)?;
        match frame::reply(&answer) {
            Ok(frame::Reply::Error(code)) => {
                self.note_failing(code);
                Err(not_put(code))
            }
            Ok(_) => Ok(()),
            Err(frame::Malformed) => Err(Reason::StoreAway),
        }
    }

    /// As for a copy, of what is kept elsewhere.
    pub(super) fn prolong(&self, shared: &Shared, epochs: &Epochs) {
        if epochs.is_empty() {
            return;
        }
        let lifetime = shared.lifetimes.load().state().to_string();
        drop(self.pipe.say(epochs.len(), Due::Any, |out| {
            prolong(out, &shared.prefix, epochs, &lifetime);
        }));
    }

    /// The values of a reply.
    pub(super) fn values<'r>(&self, reply: &'r [u8]) -> Result<frame::Values<'r>, Away> {
        match frame::reply(reply) {
            Ok(frame::Reply::Values(values)) => Ok(values),
            Ok(frame::Reply::Error(code)) => {
                self.note_failing(code);
                Err(Away)
            }
            _ => Err(Away),
        }
    }

    /// A state as it counts on this link, which was trusted or not when it was asked.
    pub(super) fn seen(&self, value: Option<&[u8]>, trusted: bool) -> Seen {
        seen(value).by_link(trusted, self.standing.life.last())
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// Learns which life of the store this is, and for how long nothing is to be trusted yet.
    pub(super) async fn incarnate(
        &self,
        shared: &Shared,
        who: Option<&str>,
        how: How,
    ) -> Result<(Incarnation, Duration), NoLink> {
        let (life, wait, may_be) = self.incarnate_once(shared, who, how).await?;
        if may_be {
            return Ok((life, wait));
        }
        // What stands there was put back from before. Of all who find that, one begins another life.
        let _turn = shared.beginning.lock().await;
        let last = self.standing.life.last();
        if last != Incarnation::default() {
            return Ok((last, Duration::ZERO));
        }
        // Or another instance has.
        let (life, wait, may_be) = self.incarnate_once(shared, who, How::Again).await?;
        if may_be {
            return Ok((life, wait));
        }
        let (life, wait, _) = self.incarnate_once(shared, who, How::Anew).await?;
        Ok((life, wait))
    }

    /// As `incarnate`; and whether that life may be: not one that was seen to end.
    async fn incarnate_once(
        &self,
        shared: &Shared,
        who: Option<&str>,
        how: How,
    ) -> Result<(Incarnation, Duration, bool), NoLink> {
        let before = self.standing.life.last();
        let mut ask = Cmd::new();
        ask.arg("EVAL")
            .arg(format!("{}{INCARNATION}", SHEBANGS[1]))
            .arg(1)
            .arg(shared.key(INCARNATION_KEY));
        ask.arg(who.unwrap_or("unknown"))
            .arg(format!("{:08x}", fresh_bits() as u32));
        ask.arg(A_WEEK.as_millis() as u64)
            .arg(how.word())
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
        let (life, wait) = (Incarnation(life), u64::try_from(wait).unwrap_or(0));
        let may_be = self.standing.life.hear(before, life);
        Ok((life, Duration::from_millis(wait).min(NOTICE), may_be))
    }

    /// Names this instance's term, if it has one, and sweeps what is overdue. Again when the first of what stands there
    /// will be.
    pub(super) async fn look_after_terms(&self, shared: &Shared) -> Result<(), NoLink> {
        self.terms_are_due.store(false, Ordering::Relaxed);
        // Should it fail: not at once.
        *self.terms_next.lock() = tokio::time::Instant::now() + Duration::from_secs(1);
        let own = shared.term();
        let mut ask = Cmd::new();
        ask.arg("EVAL")
            .arg(format!("{}{LEASES}", SHEBANGS[1]))
            .arg(1)
            .arg(shared.key(lease::KEY));
        ask.arg(own.map_or(0, lease::in_millis))
            .arg(lease::in_millis(lease::STANDS_FOR))
            .arg(lease::in_millis(lease::LONGEST));
        ask.arg(A_WEEK.as_millis() as u64);
        let told = self.ask(&ask).await;
        let told = told.map_err(|e| shared.refusal("EVAL", &e))?;
        let overdue = match &told {
            Value::Array(parts) => parts.get(1).and_then(integer),
            _ => None,
        };
        let overdue = overdue.and_then(|millis| u64::try_from(millis).ok());
        let overdue = overdue.map(|millis| Duration::from_millis(millis + 1));
        let at_the_latest = match own {
            Some(_) => lease::RENEWED_EVERY,
            None => NEVER_MIND,
        };
        *self.terms_next.lock() = tokio::time::Instant::now()
            + overdue.map_or(at_the_latest, |overdue| overdue.min(at_the_latest));
        Ok(())
    }

    /// The server's own word for itself and for its history.
    pub(super) async fn who(&self) -> Option<String> {
        let mut words = Pipeline::new();
        for section in SECTIONS {
            words.cmd("INFO").arg(section);
        }
        let told = self.ask_all(&words).await.ok()?;
        let [server, replication] = told.as_slice() else {
            return None;
        };
        let told = [server, replication].map(|told| told.as_ref().ok().and_then(text));
        who(told.each_ref().map(Option::as_deref))
    }

    pub(super) fn trouble(&self, shared: &Shared, error: &RedisError) -> Away {
        if let Some(code) = error.code() {
            self.note_failing(code);
            debug!(store = %Place(&shared.settings), code, "the store refused a command");
        }
        Away
    }

    /// Answers that mean that no command will do for now: the link is given up, and made anew when it can be.
    pub(super) fn note_failing(&self, code: &str) {
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
            self.standing.failing.store(true, Ordering::Relaxed);
        }
    }
}

fn prolong(out: &mut BytesMut, prefix: &str, epochs: &Epochs, lifetime: &str) {
    for (state, _) in epochs {
        frame::command(out, 4);
        frame::argument(out, &[b"PEXPIRE"]);
        frame::argument(out, &[prefix.as_bytes(), b":", state.as_str().as_bytes()]);
        frame::argument(out, &[lifetime.as_bytes()]);
        frame::argument(out, &[b"GT"]);
    }
}

/// Who a server is, by its INFO of `server` and of `replication`. Some hide it.
pub(super) fn who([server, replication]: [Option<&str>; 2]) -> Option<String> {
    Some(format!(
        "{}:{}",
        word(server?, "run_id:")?,
        history(replication?)?
    ))
}

/// Which history its data has, by its INFO of `replication`: another once it has been the copy of another server.
pub(super) fn history(replication: &str) -> Option<&str> {
    word(replication, "master_replid:")
}

fn word<'t>(told: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = told.lines();
    let word = lines.find_map(|line| line.strip_prefix(name))?.trim();
    let is_one = !word.is_empty() && !word.contains(char::is_whitespace);
    is_one.then_some(word)
}

pub(super) type Probe = Pin<Box<dyn Future<Output = bool> + Send>>;

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

fn not_put(code: &str) -> Reason {
    debug!(code, "the store did not take a copy");
    Reason::StoreRefused
}

fn gone() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
}

/// `prefix:state` as one argument, without a string in between.
pub(super) trait ArgPair {
    fn write_arg_pair(&mut self, prefix: &str, state: &StateKey) -> &mut Self;
}

impl ArgPair for Cmd {
    fn write_arg_pair(&mut self, prefix: &str, state: &StateKey) -> &mut Self {
        use redis::RedisWrite;
        self.write_arg_fmt(format_args!("{prefix}:{state}"));
        self
    }
}

/// A state that is none of ours counts as absent.
pub(super) fn seen(value: Option<&[u8]>) -> Seen {
    value.map_or(Seen::Absent, Seen::parse)
}

pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

pub(super) fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) | Value::Set(values) => values.iter().filter_map(text).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}
