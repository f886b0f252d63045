//! The keeper: makes the link, replays the journal before anybody may use it, watches it, and makes the next.
//!
//! While there is no link, every command fails at once: an outage costs one time limit for the instance, not one
//! for each request.
//!
//! There is no timer per command. While commands are on their way, a heartbeat keeps one more among them on each connection.
//! If those are not back after half the time limit, a fresh connection is asked: if nobody answers there either, the server hangs.
//! If somebody does, it is this process that is late, starved of CPU perhaps, and the store is not blamed for it;
//! unless it goes on, for then it is this one connection that is stuck.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use redis::{Cmd, Pipeline, RedisError, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tracing::{error, info, warn};

use super::frame::{self, Reply};
use super::link::{self, INCARNATION_KEY, Link, Probe, SECTIONS, SHEBANGS, text};
use super::pipe;
use super::script::SCRIPT;
use super::{A_WEEK, Place, Shared};
use crate::caching::key::SECRET_STATE;
use crate::coherence::lease;
use crate::coherence::life::{self, How};
use crate::coherence::{NOTICE, StateKey};
use crate::config::RedisEndpoint;
use crate::metrics::COUNTED;
use crate::store::{Away, Health};

const RENEWED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// So old at most is what a hit knows of the store's life.
const DOUBTED_EVERY: Duration = Duration::from_secs(1);

/// While nobody asks: what stands in between (a NAT, a load balancer) forgets a connection that is silent for some minutes and tells
/// nobody, and the next request would have to find out.
const KEPT_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10));

/// Heartbeats in one time limit.
const BEATS: u32 = 10;

/// Heartbeats after which one connection is stuck, although the server answers on others.
const STUCK: u32 = 8 * BEATS;

/// Between two attempts to connect.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no link is said again after so long.
const COMPLAINED_EVERY: Duration = Duration::from_secs(60);

/// Steps of the journal that are on their way to the store together.
const REPLAYED_AT_ONCE: usize = 512;

/// Attempts to connect that are under way beside each other.
const MOST_ATTEMPTS: usize = 8;

/// However the server is reached.
type Stream = Either<TcpStream, Either<UnixStream, TlsStream<TcpStream>>>;

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

impl Shared {
    /// The keeper's life: watch the link; when it is lost, make the next.
    pub(super) async fn keep(self: Arc<Self>, mut link: Option<Arc<Link>>) {
        let mut pause = SHORTEST_PAUSE;
        let (mut complained, mut told): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            if let Some(link) = link.take() {
                let why = self.watch(&link).await;
                self.lost(Health::Down(why));
                link.give_up();
                pause = SHORTEST_PAUSE;
            }
            self.rest(pause).await;
            match self.link_anew().await {
                Ok(new) => {
                    (complained, told) = (None, None);
                    link = Some(new);
                }
                Err(NoLink::Unreachable(why)) => {
                    // Well below the notice time, so that no instance is late to put back its holds.
                    pause = (pause * 2).min(NOTICE / 2);
                    // The first reason may be long over: it is the present one that is to be mended.
                    let now = Health::Down(why);
                    let before = std::mem::replace(&mut *self.health.lock(), now.clone());
                    if let Health::Down(why) = &now
                        && before != now
                        && told.is_none_or(|at| at.elapsed() >= COMPLAINED_EVERY)
                    {
                        told = Some(Instant::now());
                        warn!(store = %Place(&self.settings), %why, "store still away");
                    }
                }
                Err(NoLink::Refused(why)) => {
                    pause = Duration::from_secs(1);
                    if complained.is_none_or(|at| at.elapsed() >= COMPLAINED_EVERY) {
                        complained = Some(Instant::now());
                        error!("{why}. Requests pass through until then");
                    }
                    *self.health.lock() = Health::Refused(why);
                }
            }
        }
    }

    /// Connects, and lets everybody use the link once nothing is owed.
    async fn link_anew(&self) -> Result<Arc<Link>, NoLink> {
        let link = self.connect().await?;
        let published = self.tell_and_publish(&link).await;
        self.at_hand.send_replace(false);
        published.map_err(|Away| {
            NoLink::Unreachable("it was lost while the journal was replayed".to_owned())
        })?;
        Ok(link)
    }

    async fn tell_and_publish(&self, link: &Arc<Link>) -> Result<(), Away> {
        loop {
            self.replay(link).await?;
            if self.publish(link) {
                return Ok(());
            }
            self.at_hand.send_replace(true);
        }
    }

    /// Waits for so long before the next attempt, but only a little where the store is to be told something: others may have
    /// it back already, and show what we have replaced, or keep what we hold.
    async fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        // Who is refused is not let in for asking often.
        let a_little = match &*self.health.lock() {
            Health::Refused(_) => NOTICE / 2,
            _ => SHORTEST_PAUSE,
        };
        loop {
            tokio::time::sleep(a_little).await;
            let now = Instant::now();
            if now >= until || self.journal.has_to_tell(now) {
                return;
            }
        }
    }

    /// A step that could not be confirmed: nobody reads by this link any more until what is owed has been paid.
    pub(super) fn distrust(&self, link: &Arc<Link>) {
        link.standing.failing.store(true, Ordering::Relaxed);
        self.journal.with(|_| {
            let current = self.link.load();
            if current.as_ref().is_some_and(|one| Arc::ptr_eq(one, link)) {
                self.unlink();
            }
        });
    }

    /// There is no link from now on. Under the journal's lock, so that no write finds that the store is neither away
    /// nor there.
    fn unlink(&self) {
        let mut away_since = self.away_since.lock();
        away_since.get_or_insert_with(Instant::now);
        self.link.store(None);
    }

    /// Lets everybody use the link, unless a purge has come to be owed since the journal was replayed.
    pub(super) fn publish(&self, link: &Arc<Link>) -> bool {
        // Under the journal's lock: whoever owes something later finds that the store is not away.
        let published = self.journal.with(|book| {
            let published = book.owes_nothing();
            if published {
                *self.away_since.lock() = None;
                self.link.store(Some(link.clone()));
            }
            published
        });
        if published {
            *self.health.lock() = Health::Up;
            COUNTED.store.connected.count();
            info!(store = %Place(&self.settings), "store connected");
        }
        published
    }

    pub(super) fn lost(&self, health: Health) {
        if let Health::Down(why) = &health {
            warn!(store = %Place(&self.settings), %why, "store away: requests pass through until it is back");
        }
        *self.health.lock() = health;
        COUNTED.store.lost.count();
        self.journal.with(|_| self.unlink());
    }

    /// Returns why the link is no good any more.
    async fn watch(&self, link: &Arc<Link>) -> String {
        let mut beat = tokio::time::interval(self.timeout / BEATS);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut renewed, mut doubted) = (Instant::now(), Instant::now());
        let mut probe: Option<(Probe, u32)> = None;
        let (mut terms, mut renewing) = (None, None);
        loop {
            beat.tick().await;
            let are_due = link.terms_are_due.load(Ordering::Relaxed)
                || Instant::now() >= *link.terms_next.lock();
            if terms.is_none() && are_due {
                terms = Some(Box::pin(link.look_after_terms(self)));
            }
            if renewing.is_none() && renewed.elapsed() > RENEWED_EVERY {
                renewed = Instant::now();
                renewing = Some(Box::pin(self.renew(link)));
            }
            // Neither is waited for: the store may hang, and who is to say so is here.
            if let Some(under_way) = &mut terms
                && under_way.now_or_never().is_some()
            {
                terms = None;
            }
            if let Some(under_way) = &mut renewing
                && under_way.now_or_never().is_some()
            {
                renewing = None;
            }
            if !link.is_trusted() && Instant::now() >= link.trusted_from {
                link.trusted.store(true, Ordering::Relaxed);
            }
            if link.standing.failing.load(Ordering::Relaxed) {
                return "the server cannot be used at the moment (loading, read-only or out of its cluster)".to_owned();
            }
            if link.standing.is_another.load(Ordering::Relaxed) {
                return "its data has another history than when it was connected to: it has been the copy of another server, or has begun to be copied".to_owned();
            }
            if link.is_lost() {
                return "the connection was lost".to_owned();
            }
            if doubted.elapsed() >= DOUBTED_EVERY {
                doubted = Instant::now();
                link.doubt(self);
            }
            probe = match probe.take() {
                None => (!link.is_idle()).then(|| (link.probe(self), 0)),
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
        }
    }

    /// Whether the server answers, be it with an error, on a fresh connection and within half the time limit. It is asked by a write
    /// command, which changes nothing, in whatever database: while a server lets writes wait (CLIENT PAUSE), it is of no use.
    async fn answers_elsewhere(&self) -> bool {
        let mut ask = redis::cmd("GETEX");
        ask.arg(self.key(INCARNATION_KEY));
        let asked = async {
            let mut stream = self.open().await?;
            for word in self.auth().into_iter().chain([ask]) {
                let said = pipe::say(&mut stream, &[word]).await?;
                // Whom it has no room for it tells so, and hears no further.
                if said.iter().any(|reply| reply.starts_with(b"-")) {
                    break;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        matches!(
            tokio::time::timeout(self.timeout / 2, asked).await,
            Ok(Ok(()))
        )
    }

    /// So long nothing may be heard of a server that is being connected to.
    fn patience(&self) -> Duration {
        (self.timeout * 4).max(Duration::from_secs(1))
    }

    /// Connects, authenticates, selects, and proves that it may write.
    pub(super) async fn connect(&self) -> Result<Arc<Link>, NoLink> {
        let patience = self.patience();
        match tokio::time::timeout(patience, self.reach_soon()).await {
            Ok(Ok((link, said))) => {
                match tokio::time::timeout(patience, self.prepare(link, said)).await {
                    Ok(done) => done.map(Arc::new),
                    Err(_) => Err(NoLink::Unreachable(format!(
                        "connected, but no answer within {} ms",
                        patience.as_millis()
                    ))),
                }
            }
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

    async fn open(&self) -> std::io::Result<Stream> {
        Ok(match &self.settings.endpoint {
            RedisEndpoint::Tcp { host, port } => Either::Left(tcp(host, *port).await?),
            RedisEndpoint::Unix(path) => {
                Either::Right(Either::Left(UnixStream::connect(path).await?))
            }
            RedisEndpoint::Tls {
                host,
                port,
                ca_file,
            } => {
                let stream = tcp(host, *port).await?;
                let stream = crate::tls::connect(host, ca_file.as_deref(), stream).await?;
                Either::Right(Either::Right(stream))
            }
        })
    }

    /// An attempt that began while nothing came through may never hear of it when something does again; so another begins
    /// beside it, well within the notice time, and the first that is answered counts. Nothing is changed there by an attempt.
    async fn reach_soon(&self) -> Result<(Link, Vec<Bytes>), String> {
        let mut attempts = FuturesUnordered::from_iter([self.reach()]);
        loop {
            let another = tokio::time::sleep(NOTICE / 2);
            let room = attempts.len() < MOST_ATTEMPTS;
            tokio::select! {
                Some(reached) = attempts.next() => match reached {
                    Err(_) if !attempts.is_empty() => {}
                    reached => return reached,
                },
                () = another, if room => attempts.push(self.reach()),
            }
        }
    }

    /// Two connections to the same server: the one for everything, and the requests' own. Both have been answered on.
    async fn reach(&self) -> Result<(Link, Vec<Bytes>), String> {
        let words = |e: std::io::Error| e.to_string();
        let (mut first, mut second) = tokio::try_join!(self.open(), self.open()).map_err(words)?;
        let (ping, introduction) = ([redis::cmd("PING")], self.introduction());
        let (_, said) = tokio::try_join!(
            pipe::say(&mut first, &ping),
            pipe::say(&mut second, &introduction)
        )
        .map_err(words)?;
        Ok((Link::over(first, second).await?, said))
    }

    /// What is said on the requests' own connection before it is used. Its last two answers tell which server it is.
    fn introduction(&self) -> Vec<Cmd> {
        let info = SECTIONS.map(|section| redis::cmd("INFO").arg(section).to_owned());
        self.auth()
            .into_iter()
            .chain(self.select())
            .chain(info)
            .collect()
    }

    fn auth(&self) -> Option<Cmd> {
        let password = self.settings.password.as_ref()?;
        let mut auth = redis::cmd("AUTH");
        if let Some(username) = &self.settings.username {
            auth.arg(username);
        }
        auth.arg(password.expose());
        Some(auth)
    }

    fn select(&self) -> Option<Cmd> {
        let database = self.settings.database;
        (database != 0).then(|| redis::cmd("SELECT").arg(database).to_owned())
    }

    /// In few round trips, each of them several commands: while this instance is on its way, others may show what it has
    /// replaced. Nothing is written before it is certain where.
    async fn prepare(&self, mut link: Link, said: Vec<Bytes>) -> Result<Link, NoLink> {
        let (auth, select) = (self.auth(), self.select());
        let scripts = SHEBANGS.map(|shebang| format!("{shebang}{SCRIPT}"));
        let mut words = Pipeline::new();
        for command in auth.iter().chain(&select) {
            words.add_command(command.clone());
        }
        // Refused where no writes are taken, and changes nothing.
        words.cmd("GETEX").arg(self.key(INCARNATION_KEY));
        let tried = self.tried();
        for (_, command) in &tried {
            words.add_command(command.clone());
        }
        for script in &scripts {
            words.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        for section in SECTIONS {
            words.cmd("INFO").arg(section);
        }
        let mut answers = link.ask_all(&words).await?.into_iter();
        let mut answer = || answers.next().expect("each command has an answer");
        if auth.is_some() {
            answer().map_err(|e| self.refusal("AUTH", &e))?;
        }
        if select.is_some() {
            answer().map_err(|e| self.refusal("SELECT", &e))?;
        }
        match answer() {
            Err(other) if other.code() == Some("WRONGTYPE") => {}
            answer => drop(answer.map_err(|e| self.refusal("GETEX", &e))?),
        }
        for (name, _) in &tried {
            match answer() {
                Err(refused) if refused.code() == Some("NOPERM") => {
                    return Err(self.refusal(name, &refused));
                }
                _ => {}
            }
        }
        let mut loaded = Err(NoLink::Unreachable("no script was taken".to_owned()));
        for script in scripts {
            match (answer(), &loaded) {
                (Ok(sha), Err(_)) => {
                    (link.script_sha, link.script) = (text(&sha).unwrap_or_default(), script);
                    loaded = Ok(());
                }
                (Err(e), Err(_)) => loaded = Err(self.refusal("SCRIPT LOAD", &e)),
                (_, Ok(())) => {}
            }
        }
        loaded?;
        let told = SECTIONS.map(|_| answer().ok().as_ref().and_then(text));
        let who = link::who(told.each_ref().map(Option::as_deref));
        if identity(&said) != who {
            return Err(NoLink::Unreachable(
                "its two connections lead to two servers".to_owned(),
            ));
        }
        if let [_, Some(replication)] = &told
            && let Some(history) = link::history(replication).filter(|_| who.is_some())
        {
            let _ = link.standing.history.set(history.to_owned());
        }
        self.renew(&link).await?;
        let (wait, is_new_life) = self.enter(&link, who).await?;
        let now = Instant::now();
        if is_new_life {
            link.young_until = now + lease::LONGEST;
        }
        link.trusted_from = now + wait;
        link.trusted = AtomicBool::new(wait.is_zero());
        Ok(link)
    }

    /// What requests will ask for, in words that change nothing: were it refused only then, each of them would end the link. What the
    /// scripts ask for is among them, for what these may not do is told by no code of its own.
    fn tried(&self) -> [(&'static str, Cmd); 9] {
        let (nothing, no_script) = (self.key("~none"), "0".repeat(40));
        let commands: [(_, &[&str]); 9] = [
            ("TIME", &[]),
            ("PTTL", &[&nothing]),
            ("MGET", &[&nothing]),
            ("EXISTS", &[&nothing]),
            ("SMEMBERS", &[&nothing]),
            ("DEL", &[&nothing]),
            ("PEXPIRE", &[&nothing, "1", "GT"]),
            ("SET", &[&nothing, "", "XX", "PX", "1"]),
            ("EVALSHA", &[&no_script, "0"]),
        ];
        commands.map(|(name, arguments)| (name, redis::cmd(name).arg(arguments).to_owned()))
    }

    /// Finds out which life of the store this is: for how long nothing is to be trusted, and whether it has just begun.
    async fn enter(&self, link: &Link, who: Option<String>) -> Result<(Duration, bool), NoLink> {
        let last = self.last_who.lock().clone();
        let how = How::connected(last.as_ref().map(Option::as_deref), who.as_deref());
        let (_, life) = link.incarnate(self, who.as_deref(), how).await?;
        // Not before it is told: asked again, it is to be another than the last as well.
        *self.last_who.lock() = Some(who);
        let since = *self.away_since.lock();
        let away = since.map_or(Duration::ZERO, |since| since.elapsed());
        let (now, mut trusted_from) = (Instant::now(), self.trusted_from.lock());
        let left = trusted_from.saturating_duration_since(now);
        let wait = life::untrusted_for(life, how, away, left);
        *trusted_from = now + wait;
        Ok((wait, !life.is_zero()))
    }

    /// Settles the deployment's secret, and names this configuration's states to the other instances.
    pub(super) async fn renew(&self, link: &Link) -> Result<(), NoLink> {
        // At once, as a connect waits for it.
        let terms = link.look_after_terms(self);
        tokio::try_join!(self.settle_secret(link), self.register(link), terms).map(drop)
    }

    async fn register(&self, link: &Link) -> Result<(), NoLink> {
        let registered = self.registered.load();
        if registered.is_empty() {
            return Ok(());
        }
        let (routes, week) = (self.key("~routes"), A_WEEK.as_secs());
        let names: Vec<&str> = registered.iter().map(StateKey::as_str).collect();
        let mut words = Pipeline::new();
        words.cmd("SADD").arg(&routes).arg(names);
        words.cmd("EXPIRE").arg(&routes).arg(week);
        let mut told = link.ask_all(&words).await?;
        let is_of_another = |said: &Result<_, RedisError>| matches!(said, Err(refused) if refused.code() == Some("WRONGTYPE"));
        if told.iter().any(is_of_another) {
            let mut del = Pipeline::new();
            del.cmd("DEL").arg(&routes);
            link.ask_all(&del).await?;
            told = link.ask_all(&words).await?;
        }
        // Else not everything could be purged.
        for registered in told {
            match registered {
                Err(refused) if refused.code() == Some("NOPERM") => {
                    return Err(self.refusal("SADD", &refused));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A full store takes no new key, but may hold ours, and everything else works without memory to spare.
    pub(super) fn wrote(&self, answer: Result<Value, RedisError>) -> Result<(), NoLink> {
        match answer {
            Err(refused) if refused.code() == Some("OOM") => Ok(()),
            answer => answer.map(drop).map_err(|e| self.refusal("SET", &e)),
        }
    }

    /// Puts back the holds of writes in flight and pays what is owed, before the link may serve anybody. It goes on for as long
    /// as answers come, and what they confirm is not told again should they cease.
    async fn replay(&self, link: &Link) -> Result<(), Away> {
        let owed = self.journal.with(|book| book.owed(Instant::now()));
        let mut everything = self.registered.load().to_vec();
        // Every verdict depends on it, and some of what is owed may be the end of one.
        everything.push(StateKey::new(SECRET_STATE));
        for lot in owed.steps(self.lifetimes.load().hold, &everything) {
            // Those that are asked in one turn share calls.
            let told = stream::iter(lot).map(|(states, step)| async move {
                link.step(self, &states, step).await?;
                Ok((states, step))
            });
            let mut told = told.buffer_unordered(REPLAYED_AT_ONCE);
            loop {
                let next = tokio::time::timeout(self.patience(), told.next()).await;
                let Some(told) = next.map_err(|_| Away)? else {
                    break;
                };
                let (states, step) = told?;
                self.journal.with(|book| book.told(&states, step));
            }
        }
        if owed.ends() > 0 {
            info!(owed = owed.ends(), "purges owed to the store were replayed");
        }
        self.journal.with(|book| book.paid(&owed));
        Ok(())
    }

    /// What a refused command means to the operator.
    pub(super) fn refusal(&self, command: &str, error: &RedisError) -> NoLink {
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
                 (`USER:PASSWORD@` before the host; USER is `default` where none was made)"
            ),
            (_, "NOPERM") => format!(
                "the store's user may not run {command} ({code}): allow it `{}`",
                super::rights(&self.prefix)
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

/// Who answered an introduction.
fn identity(said: &[Bytes]) -> Option<String> {
    let [.., server, replication] = said else {
        return None;
    };
    let text = |reply| match frame::reply(reply) {
        Ok(Reply::Text(text)) => std::str::from_utf8(text).ok(),
        _ => None,
    };
    link::who([text(server), text(replication)])
}

async fn tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEPT_ALIVE)?;
    Ok(stream)
}
