//! The upstreams as they are: each with its address, its idle connections and how it stands; and a request's visit to one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::{self, Connection, Unconnected};
use super::fleet::{Came, Change, Choice, Errand, Fleet, Standing};
use crate::config::{Upstream as Settings, UpstreamAddress};
use crate::error::UpstreamFailure;
use crate::tls;

/// No connection is used for longer, so that a name that has moved is followed.
const LONGEST_USE: Duration = Duration::from_secs(60);

pub(super) struct Members {
    all: Vec<Member>,
    /// What is decided about them; of one alone nothing is.
    fleet: Mutex<Fleet>,
    tls: Option<Result<tls::client::Client, io::Error>>,
    connect: Duration,
    pool_idle: Duration,
    total: Duration,
    silent: Duration,
}

/// One upstream.
pub(super) struct Member {
    address: UpstreamAddress,
    idle: Mutex<Vec<Idle>>,
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
            heard: Arc::default(),
            told: Mutex::default(),
        };
        Arc::new(Members {
            all: settings.addresses.iter().map(member).collect(),
            fleet: Mutex::new(Fleet::new(
                settings.addresses.len(),
                settings.health.is_some(),
            )),
            tls: needs_tls.then(|| tls::client::Client::new(ca_file, own)),
            connect: settings.connect,
            pool_idle: settings.pool_idle,
            total: settings.total,
            silent: settings.silent,
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
            skips_pool: false,
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

    pub async fn connect(&self, visit: &Visit) -> Result<Connection, UpstreamFailure> {
        self.connect_to(visit.choice.member).await
    }

    pub async fn connect_to(&self, place: usize) -> Result<Connection, UpstreamFailure> {
        let member = &self.all[place];
        let connecting = connection::connect(&member.address, self.tls.as_ref(), &member.heard);
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

    /// What came of a health check.
    pub fn checked(&self, place: usize, came: Came) {
        let change = self.fleet.lock().checked(place, came, Instant::now());
        self.log(place, change);
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
    /// A kept connection was lost: a new one it shall be.
    skips_pool: bool,
}

impl Visit {
    pub(super) fn choice(&self) -> Choice {
        self.choice
    }

    /// An idle connection that is still good, the latest used first.
    pub(super) async fn pooled(&self) -> Option<Connection> {
        if self.skips_pool {
            return None;
        }
        let member = &self.members.all[self.choice.member];
        loop {
            let mut idle = member.idle.lock().pop()?;
            if idle.since.elapsed() < self.members.pool_idle
                && idle.connection.made.elapsed() < LONGEST_USE
                && !idle.connection.sender.is_closed()
                && idle.connection.sender.ready().await.is_ok()
            {
                return Some(idle.connection);
            }
        }
    }

    pub(super) fn forget_pooled(&mut self) {
        self.skips_pool = true;
    }

    pub(super) fn give_back(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let (now, keep) = (Instant::now(), self.members.pool_idle);
        let mut idle = self.members.all[self.choice.member].idle.lock();
        idle.retain(|idle| now - idle.since < keep);
        idle.push(Idle {
            connection,
            since: now,
        });
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
