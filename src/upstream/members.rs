//! The upstreams as they are: each with its address, its idle connections and how it stands; and a request's visit to one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::{self, Connection, Unconnected, Versions};
use super::fleet::{Came, Change, Choice, Errand, Fleet, Standing};
use super::sender::Sender;
use crate::config::{Upstream as Settings, UpstreamAddress};
use crate::error::UpstreamFailure;
use crate::tls::renewed::Renewed;

/// No connection is used for longer, so that a name that has moved is followed.
const LONGEST_USE: Duration = Duration::from_secs(60);

pub(super) struct Members {
    all: Vec<Member>,
    /// What is decided about them; of one alone nothing is.
    fleet: Mutex<Fleet>,
    tls: Option<Arc<Renewed>>,
    connect: Duration,
    pool_idle: Duration,
    total: Duration,
    silent: Duration,
    versions: Versions,
}

/// How often idle connections are looked after.
const LOOKED_AFTER_EVERY: Duration = Duration::from_secs(1);

/// One upstream.
pub(super) struct Member {
    address: UpstreamAddress,
    idle: Mutex<Vec<Idle>>,
    /// Somebody looks after those.
    is_watched: AtomicBool,
    /// The one connection of HTTP/2, which all share.
    shared: Mutex<Option<Connection>>,
    /// Whoever makes it; the others wait for it rather than make one each. When that failed last, and why.
    making: tokio::sync::Mutex<Option<(Instant, UpstreamFailure)>>,
    /// Asked whether it speaks HTTP/2, it last chose HTTP/1.1.
    chose_http1: AtomicBool,
    /// Bytes that have come from it, on all connections.
    heard: Arc<AtomicU64>,
    /// Why no connection could be made, as it was told last.
    told: Mutex<Option<Instant>>,
}

/// How one upstream stands at the moment, for whoever looks.
pub struct Stands {
    pub address: String,
    pub standing: Standing,
    /// Requests under way there; counted where there are several.
    pub under_way: usize,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Members {
    pub fn new(settings: &Settings) -> Arc<Members> {
        let needs_tls = settings.addresses.iter().any(UpstreamAddress::is_tls);
        let (ca_file, own) = (settings.ca_file.as_deref(), settings.client_cert.as_ref());
        let member = |address: &UpstreamAddress| Member {
            address: address.clone(),
            idle: Mutex::default(),
            is_watched: AtomicBool::new(false),
            shared: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            chose_http1: AtomicBool::new(false),
            heard: Arc::default(),
            told: Mutex::default(),
        };
        Arc::new(Members {
            all: settings.addresses.iter().map(member).collect(),
            fleet: Mutex::new(Fleet::new(
                settings.addresses.len(),
                settings.health.is_some(),
            )),
            tls: needs_tls.then(|| Renewed::new(ca_file, own)),
            connect: settings.connect,
            pool_idle: settings.pool_idle,
            total: settings.total,
            silent: settings.silent,
            versions: match settings.http2 {
                false => Versions::Http1,
                true => Versions::Http2 {
                    streams: settings.max_connections,
                },
            },
        })
    }

    pub fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    pub fn standings(&self) -> Vec<Stands> {
        let fleet = self.fleet.lock();
        let standing = |(place, member): (usize, &Member)| Stands {
            address: member.address.to_string(),
            standing: fleet.standing(place),
            under_way: fleet.under_way(place),
        };
        self.all.iter().enumerate().map(standing).collect()
    }

    /// Begins a visit to the upstream that is to be asked next, none that was `asked` already.
    pub fn visit(self: &Arc<Self>, errand: Errand, asked: &[usize]) -> Option<Visit> {
        let choice = match self.are_several() {
            true => self.fleet.lock().choose(errand, asked, Instant::now())?,
            false if asked.is_empty() => Choice {
                member: 0,
                trial: None,
            },
            false => return None,
        };
        Some(Visit {
            members: self.clone(),
            choice,
            began: self.are_several().then(Instant::now),
            heard: false,
            lost: None,
        })
    }

    /// Until this upstream, of which something is asked, has said nothing to anybody for the whole of a `silent`. That
    /// counts as a failure.
    pub async fn silence(&self, choice: Choice) {
        let member = &self.all[choice.member];
        let mut heard = member.heard.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(self.silent).await;
            let now = member.heard.load(Ordering::Relaxed);
            if now == heard {
                break;
            }
            heard = now;
        }
        self.conclude(choice, Came::Failure);
    }

    /// A connection of one's own, in HTTP/1.1 where `versions` says so.
    pub async fn connect_to(
        &self,
        place: usize,
        versions: Versions,
    ) -> Result<Connection, UpstreamFailure> {
        let member = &self.all[place];
        // Of one alone nobody asks whether it is silent.
        let heard = self.are_several().then_some(&member.heard);
        let tls = self.tls.as_deref();
        // Boxed: it costs round trips, and whoever finds a kept connection need not carry room for it.
        let connecting = Box::pin(connection::connect(&member.address, versions, tls, heard));
        match tokio::time::timeout(self.connect, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(Unconnected::Io(_))) => Err(UpstreamFailure::Connect),
            Ok(Err(Unconnected::Tls(error))) => {
                member.tell(&error);
                Err(UpstreamFailure::Tls)
            }
            Err(_) => Err(UpstreamFailure::ConnectTimeout),
        }
    }

    /// The versions of HTTP that the operator allows.
    pub fn versions(&self) -> Versions {
        self.versions
    }

    /// What came of a health check.
    pub fn checked(&self, place: usize, came: Came) {
        let change = self.fleet.lock().checked(place, came, Instant::now());
        self.log(place, change);
    }

    /// Lets go of idle connections that are not wanted any more, or that the upstream has closed, until there are none.
    fn watch_over_idle(self: &Arc<Self>, place: usize) {
        let (members, keep) = (Arc::downgrade(self), self.pool_idle);
        let member = &self.all[place];
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if member.is_watched.swap(true, Ordering::AcqRel) {
            return;
        }
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(LOOKED_AFTER_EVERY).await;
                let Some(members) = members.upgrade() else {
                    return;
                };
                let member = &members.all[place];
                let mut idle = member.idle.lock();
                idle.retain_mut(|idle| match &mut idle.connection.sender {
                    Sender::Http1(http1) => idle.since.elapsed() < keep && http1.is_free(),
                    Sender::Http2(..) => false,
                });
                if idle.is_empty() {
                    member.is_watched.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }

    fn conclude(&self, choice: Choice, came: Came) {
        if !self.are_several() {
            return;
        }
        let change = self.fleet.lock().heard(choice, came, Instant::now());
        self.log(choice.member, change);
    }

    fn log(&self, place: usize, change: Option<Change>) {
        let upstream = &self.all[place].address;
        match change {
            None => {}
            Some(Change::Rests(rest)) => {
                warn!(%upstream, ?rest, "upstream fails: the others are asked instead");
            }
            Some(Change::Down) => {
                warn!(%upstream, "upstream fails its health checks: the others are asked instead");
            }
            Some(Change::Back) => info!(%upstream, "upstream is back"),
        }
    }
}

impl Member {
    /// The connection of HTTP/2 that all share, if it is still good.
    fn shared(&self) -> Option<Connection> {
        let mut shared = self.shared.lock();
        let connection = shared.as_ref()?;
        if connection.sender.is_closed() || connection.made.elapsed() >= LONGEST_USE {
            *shared = None;
            return None;
        }
        connection.shared()
    }

    /// By a new connection: one of HTTP/2 is for all.
    fn has_chosen(&self, new: &Connection) {
        let shared = new.shared();
        self.chose_http1.store(shared.is_none(), Ordering::Relaxed);
        if shared.is_some() {
            *self.shared.lock() = shared;
        }
    }

    /// Why no secure connection can be made, once a minute.
    fn tell(&self, error: &io::Error) {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
            *told = Some(Instant::now());
            let upstream = &self.address;
            warn!(%upstream, %error, "no secure connection; `larder doctor` names the remedy");
        }
    }
}

/// One request's time with one upstream, from its choice to the end of the answer.
pub struct Visit {
    members: Arc<Members>,
    choice: Choice,
    /// Where there are several.
    began: Option<Instant>,
    /// What came of it is told.
    heard: bool,
    /// A kept connection was lost, of this age: a newer one it shall be.
    lost: Option<Instant>,
}

impl Visit {
    pub(super) fn choice(&self) -> Choice {
        self.choice
    }

    /// A connection that there is already, and still good: the latest used first.
    pub(super) async fn kept(&self) -> Option<Connection> {
        if self.lost.is_some() {
            return None;
        }
        let member = self.member();
        if self.members.versions != Versions::Http1
            && let Some(shared) = member.shared()
        {
            return Some(shared);
        }
        let now = Instant::now();
        loop {
            let mut idle = member.idle.lock().pop()?;
            if now.saturating_duration_since(idle.since) < self.members.pool_idle
                && now.saturating_duration_since(idle.connection.made) < LONGEST_USE
                && idle.connection.sender.is_ready().await
            {
                return Some(idle.connection);
            }
        }
    }

    /// A new one. Of HTTP/2 there is one for all; `true`, if it is to be taken for a kept one, as somebody else made it.
    pub(super) async fn connect(&self) -> Result<(Connection, bool), UpstreamFailure> {
        let (place, versions) = (self.choice.member, self.members.versions);
        if versions == Versions::Http1 {
            let own = self.members.connect_to(place, versions).await?;
            return Ok((own, false));
        }
        let member = self.member();
        let chose_http1 = || member.chose_http1.load(Ordering::Relaxed);
        if !chose_http1() {
            let since = Instant::now();
            let mut failed = member.making.lock().await;
            if let Some(shared) = member.shared()
                && self.lost.is_none_or(|lost| shared.made > lost)
            {
                return Ok((shared, self.lost.is_none()));
            }
            // Who has waited for that has waited long enough.
            if let Some((at, why)) = *failed
                && at >= since
            {
                return Err(why);
            }
            // What was waited for may have told.
            if !chose_http1() {
                let new = self.members.connect_to(place, versions).await;
                let new = new.inspect_err(|why| *failed = Some((Instant::now(), *why)))?;
                member.has_chosen(&new);
                return Ok((new, false));
            }
        }
        // Each has one of its own.
        let own = self.members.connect_to(place, versions).await?;
        member.has_chosen(&own);
        Ok((own, false))
    }

    /// One that can be switched to another protocol.
    pub(super) async fn connect_alone(&self) -> Result<Connection, UpstreamFailure> {
        let place = self.choice.member;
        let mut own = self.members.connect_to(place, Versions::Http1).await?;
        if let Sender::Http1(http1) = &mut own.sender {
            http1.go_on_alone().await;
        }
        Ok(own)
    }

    /// A kept connection was lost: the next one shall be newer, and what is lost on that is lost.
    pub(super) fn forget_kept(&mut self, lost: &Connection) {
        self.lost = Some(lost.made);
    }

    /// What this connection brings may last for as long as it likes: the next requests get another, or there would come a time when
    /// it takes no more of them.
    pub(super) fn shares_no_longer(&self, connection: &Connection) {
        let is_this = |shared: &mut Connection| Arc::ptr_eq(&shared.received, &connection.received);
        drop(self.member().shared.lock().take_if(is_this));
    }

    fn member(&self) -> &Member {
        &self.members.all[self.choice.member]
    }

    pub(super) fn give_back(&self, mut connection: Connection) {
        let Sender::Http1(http1) = &mut connection.sender else {
            return connection.sender.has_finished();
        };
        if !http1.is_open() {
            // The answer came before all of the request's content had gone: the rest follows.
            return http1.let_go();
        }
        let since = Instant::now();
        let mut idle = self.member().idle.lock();
        idle.push(Idle { connection, since });
        if idle.len() == 1 {
            drop(idle);
            self.members.watch_over_idle(self.choice.member);
        }
    }

    pub(super) fn heard(&mut self, came: Came) {
        self.heard = true;
        self.members.conclude(self.choice, came);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Some(began) = self.began else {
            return;
        };
        // Given up by a time limit, and not by its client.
        if !self.heard && began.elapsed() >= self.members.total {
            self.heard(Came::Failure);
        }
        let mut fleet = self.members.fleet.lock();
        fleet.left(self.choice);
    }
}
