//! Making a link: the server is reached, the user introduced, what requests will ask for tried, and found out which life of the
//! store this is. What is refused on the way is worded here, with its remedy.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Cmd, Pipeline, RedisError, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::frame::{self, Reply};
use super::link::{self, INCARNATION_KEY, Link, SECTIONS, SHEBANGS, text};
use super::pipe;
use super::script::SCRIPT;
use super::{A_WEEK, Shared};
use crate::coherence::lease;
use crate::coherence::life::{self, How};
use crate::coherence::{NOTICE, StateKey};
use crate::config::RedisEndpoint;

/// Attempts to connect that are under way beside each other.
const MOST_ATTEMPTS: usize = 8;

/// While nobody asks: what stands in between (a NAT, a load balancer) forgets a connection that is silent for some minutes and tells
/// nobody, and the next request would have to find out.
const KEPT_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10));

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
    /// So long nothing may be heard of a server that is being connected to.
    pub(super) fn patience(&self) -> Duration {
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

    pub(super) async fn open(&self) -> std::io::Result<Stream> {
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
        .map_err(|error| self.unheard(&error))?;
        Ok((Link::over(first, second, self.lives.clone()).await?, said))
    }

    /// Why there was no answer on a connection. What ends one at the first word may have waited for another one.
    fn unheard(&self, error: &std::io::Error) -> String {
        use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
        match (&self.settings.endpoint, error.kind()) {
            (RedisEndpoint::Tcp { .. }, ConnectionReset | UnexpectedEof) => {
                format!("{error}; does that port speak TLS? Then it is `rediss://`")
            }
            _ => error.to_string(),
        }
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

    pub(super) fn auth(&self) -> Option<Cmd> {
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
                Err(refused) if is_denied(&refused) => {
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
    fn tried(&self) -> [(&'static str, Cmd); 10] {
        let (nothing, no_script) = (self.key("~none"), "0".repeat(40));
        let commands: [(_, &[&str]); 10] = [
            ("TIME", &[]),
            ("GET", &[&nothing]),
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
        // The script asks for it; a set takes none.
        words.cmd("APPEND").arg(&routes).arg("");
        words.cmd("EXPIRE").arg(&routes).arg(week);
        let mut told = link.ask_all(&words).await?;
        let is_of_another = |said: &Result<_, RedisError>| matches!(said, Err(refused) if refused.code() == Some("WRONGTYPE"));
        if told.first().is_some_and(is_of_another) {
            let mut del = Pipeline::new();
            del.cmd("DEL").arg(&routes);
            link.ask_all(&del).await?;
            told = link.ask_all(&words).await?;
        }
        // Else not everything could be purged, nor anything written to.
        for (name, told) in ["SADD", "APPEND", "EXPIRE"].into_iter().zip(told) {
            match told {
                Err(refused) if is_denied(&refused) => {
                    return Err(self.refusal(name, &refused));
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

/// Not for this moment: the user may not run it, or the server does not know it (`rename-command`).
fn is_denied(refused: &RedisError) -> bool {
    let said = refused.detail().unwrap_or_default();
    match refused.code() {
        Some("NOPERM") => true,
        Some("ERR") => said.starts_with("unknown command"),
        _ => false,
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
