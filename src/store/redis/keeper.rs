//! The keeper: has the link made, replays the journal before anybody may use it, watches it, and has the next made.
//!
//! While there is no link, every command fails at once: an outage costs one time limit for the instance, not one
//! for each request.
//!
//! There is no timer per command. While commands are on their way, a heartbeat keeps one more among them on each connection.
//! If those are not back after half the time limit, a fresh connection is asked: if nobody answers there either, the server hangs.
//! If somebody does, it is this process that is late, starved of CPU perhaps, and the store is not blamed for it;
//! unless it goes on, for then it is this one connection that is stuck.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::connecting::NoLink;
use super::link::{INCARNATION_KEY, Link, Probe};
use super::pipe;
use super::{Place, Shared};
use crate::caching::key::SECRET_STATE;
use crate::coherence::{NOTICE, StateKey};
use crate::metrics::COUNTED;
use crate::store::{Away, Health};

const LOST: &str = "the connection was lost";

const RENEWED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// So old at most is what a hit knows of the store's life.
const DOUBTED_EVERY: Duration = Duration::from_secs(1);

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
            if let Some(fault) = link.standing.fault() {
                return fault.to_owned();
            }
            if link.is_lost() {
                return LOST.to_owned();
            }
            if doubted.elapsed() >= DOUBTED_EVERY {
                doubted = Instant::now();
                link.doubt(self);
            }
            probe = match probe.take() {
                None => (!link.is_idle()).then(|| (link.probe(self), 0)),
                Some((mut sent, beats)) => match (&mut sent).now_or_never() {
                    Some(true) => None,
                    Some(false) => return link.standing.fault().unwrap_or(LOST).to_owned(),
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
}
