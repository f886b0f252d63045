//! How many requests one client, or one credential, may make: the generic cell rate algorithm, one instant kept for each.
//!
//! Every request counts that is well-formed, hits as well, for it is this process that is spared, too. One that is refused
//! does not, so that who waits for as long as it is told is served.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use quick_cache::sync::Cache;

use super::Client;
use crate::access::credential;
use crate::clock;
use crate::config::{self, Config, Per};
use crate::message::forwarded::Via;
use crate::message::subscriber::Subscriber;

/// Clients that are remembered. Who is forgotten begins anew.
const KNOWN: usize = 100_000;

pub struct Rate {
    per: Per,
    cell: Cell,
    since: Instant,
    /// Keyed, so that nobody can choose to share another's.
    hasher: RandomState,
    known: Cache<u64, Arc<AtomicU64>>,
}

/// What one request costs, and how far ahead of its time one may be.
#[derive(Debug, Clone, Copy)]
struct Cell {
    cost: u64,
    burst: u64,
}

impl Cell {
    fn of(settings: &config::Rate) -> Cell {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let cost = (nanos(settings.window) / u64::from(settings.requests)).max(1);
        Cell {
            cost,
            burst: cost.saturating_mul(u64::from(settings.burst)),
        }
    }

    /// When all that was asked for by now would have been due, with one request more; or how long that has to wait.
    fn admits(self, due: u64, now: u64) -> Result<u64, Duration> {
        let due = due.max(now) + self.cost;
        match (due - now).checked_sub(self.burst) {
            None | Some(0) => Ok(due),
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }
}

impl Rate {
    pub fn new(settings: config::Rate) -> Rate {
        Rate {
            per: settings.per,
            cell: Cell::of(&settings),
            since: clock::stopwatch(),
            hasher: RandomState::new(),
            known: Cache::new(KNOWN),
        }
    }

    /// Counts one request, or says how long its client has to wait. A trusted proxy that does not say for whom it asks is nobody.
    pub fn admit(&self, config: &Config, fields: &HeaderMap, via: &Via) -> Result<(), Duration> {
        let Some(who) = self.who(config, fields, via) else {
            return Ok(());
        };
        let known = match self.known.get(&who) {
            Some(known) => known,
            None => {
                let known = Arc::<AtomicU64>::default();
                self.known.insert(who, known.clone());
                known
            }
        };
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut early = Duration::ZERO;
        let counted = known.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
            self.cell.admits(due, now).map_err(|wait| early = wait).ok()
        });
        counted.map(drop).map_err(|_| early)
    }

    /// The same without counting it.
    pub fn would_admit(&self, config: &Config, client: &Client) -> Result<(), Duration> {
        let known = self
            .who(config, &client.fields, &client.via)
            .and_then(|who| self.known.get(&who));
        let Some(known) = known else {
            return Ok(());
        };
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.cell
            .admits(known.load(Ordering::Relaxed), now)
            .map(drop)
    }

    fn who(&self, config: &Config, fields: &HeaderMap, via: &Via) -> Option<u64> {
        if self.per == Per::Credential {
            let mut parts = credential::parts(config, fields).peekable();
            if parts.peek().is_some() {
                let parts: Vec<_> = parts.take(credential::MOST).collect();
                return Some(self.hasher.hash_one(parts));
            }
        }
        let address = via.client(&config.trusted_proxies)?;
        Some(self.hasher.hash_one(Subscriber::of(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn cell(requests: u32, seconds: u64, burst: u32) -> Cell {
        Cell::of(&config::Rate {
            per: Per::Address,
            requests,
            window: Duration::from_secs(seconds),
            burst,
        })
    }

    #[test]
    fn so_many_at_once_and_then_one_each_time_it_is_due() {
        let (cell, mut due) = (cell(10, 1, 3), 0);
        for _ in 0..3 {
            due = cell.admits(due, SECOND).unwrap();
        }
        assert_eq!(cell.admits(due, SECOND), Err(Duration::from_millis(100)));
        let later = SECOND + SECOND / 10;
        due = cell.admits(due, later).unwrap();
        assert_eq!(cell.admits(due, later), Err(Duration::from_millis(100)));
        // Who was away has its burst again, and no more.
        for _ in 0..3 {
            due = cell.admits(due, 100 * SECOND).unwrap();
        }
        assert!(cell.admits(due, 100 * SECOND).is_err());
    }

    #[test]
    fn over_a_long_time_it_is_the_rate_whatever_is_tried() {
        let (cell, mut due, mut admitted) = (cell(10, 1, 20), 0, 0);
        for millisecond in 0..10_000 {
            if let Ok(next) = cell.admits(due, millisecond * (SECOND / 1000)) {
                due = next;
                admitted += 1;
            }
        }
        assert_eq!(admitted, 10 * 10 + 20 - 1);
    }
}
