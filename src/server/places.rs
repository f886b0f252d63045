//! Room for connections: so many in all, and so many for one client. When there is no more, the connection that has done
//! nothing for longest makes room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::pulse::Pulse;
use crate::body;
use crate::message::forwarded;
use crate::message::subscriber::Subscriber;

/// How often it is seen whether anybody has become idle, while there is no room.
const AGAIN: Duration = Duration::from_millis(100);

/// Of one listener.
pub struct Places {
    free: Arc<Semaphore>,
    terms: ArcSwap<Terms>,
    taken: Mutex<Taken>,
    said: Mutex<Option<Instant>>,
    pub counts: Arc<Counts>,
}

/// What may change while it runs.
struct Terms {
    /// Of one client.
    most: usize,
    trusted: Vec<IpNet>,
}

/// What has come of connections.
#[derive(Debug, Default)]
pub struct Counts {
    pub open: AtomicUsize,
    /// Closed at once, as their client had as many as it may have.
    pub refused: AtomicU64,
    /// Closed for doing nothing while others waited for a place.
    pub made_room: AtomicU64,
    /// Cut off for taking nothing of their answer.
    pub readers_cut: AtomicU64,
    /// Closed for what they said, or did not say, before HTTP.
    pub bad_headers: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub open: usize,
    pub refused: u64,
    pub made_room: u64,
    pub readers_cut: u64,
    pub held_bytes: u64,
    pub bad_headers: u64,
}

impl Counts {
    pub fn now(&self) -> Counted {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            open: self.open.load(Ordering::Relaxed),
            refused: count(&self.refused),
            made_room: count(&self.made_room),
            readers_cut: count(&self.readers_cut),
            held_bytes: body::held(),
            bad_headers: count(&self.bad_headers),
        }
    }
}

#[derive(Default)]
struct Taken {
    last: u64,
    connections: HashMap<u64, Arc<Pulse>>,
    clients: HashMap<Subscriber, usize>,
}

/// One connection's place, given back when dropped.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    client: Option<Subscriber>,
    _permit: OwnedSemaphorePermit,
}

/// Its client has as many connections as it may have.
#[derive(Debug)]
pub struct TooMany;

impl Places {
    pub fn new(all: usize, of_one_client: usize, trusted: Vec<IpNet>, counts: Arc<Counts>) -> Self {
        Places {
            free: Arc::new(Semaphore::new(all)),
            terms: ArcSwap::from_pointee(Terms {
                most: of_one_client,
                trusted,
            }),
            taken: Mutex::default(),
            said: Mutex::default(),
            counts,
        }
    }

    /// From the next connection on.
    pub fn are_now(&self, of_one_client: usize, trusted: Vec<IpNet>) {
        self.terms.store(Arc::new(Terms {
            most: of_one_client,
            trusted,
        }));
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        forwarded::trusts(&self.terms.load().trusted, address)
    }

    /// Waits for a place to be free, and sees to it.
    pub async fn free(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                return permit;
            }
            self.make_room();
            let free = self.free.clone().acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(AGAIN, free).await {
                return permit;
            }
        }
    }

    pub fn take(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        address: IpAddr,
        pulse: Arc<Pulse>,
    ) -> Result<Place, TooMany> {
        let number = {
            let mut taken = self.taken.lock();
            taken.last += 1;
            let number = taken.last;
            taken.connections.insert(number, pulse);
            number
        };
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        let mut place = Place {
            places: self.clone(),
            number,
            client: None,
            _permit: permit,
        };
        place.is_of(address)?;
        Ok(place)
    }

    /// Those that have done nothing for longest: more than one, so that not each new connection looks through all.
    fn make_room(&self) {
        let pulses: Vec<Arc<Pulse>> = self.taken.lock().connections.values().cloned().collect();
        let idle = |pulse: Arc<Pulse>| pulse.idle_since().map(|since| (since, pulse));
        let mut idle: Vec<(Instant, Arc<Pulse>)> = pulses.into_iter().filter_map(idle).collect();
        idle.sort_by_key(|(since, _)| *since);
        for (_, pulse) in idle.iter().take(1 + idle.len() / 64) {
            pulse.leave();
            self.counts.made_room.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Cuts off those readers that have taken nothing for longest, while more is held for all of them than may be. They are not
    /// asked how much is theirs: a tenth of them, or one, and the next tenth when it is looked at again.
    pub fn relieve(&self, most: u64) {
        if body::held() <= most {
            return;
        }
        let pulses: Vec<Arc<Pulse>> = self.taken.lock().connections.values().cloned().collect();
        let stalled = |pulse: Arc<Pulse>| pulse.stalled_since().map(|since| (since, pulse));
        let mut stalled: Vec<(Instant, Arc<Pulse>)> =
            pulses.into_iter().filter_map(stalled).collect();
        stalled.sort_by_key(|(since, _)| *since);
        for (_, pulse) in stalled.iter().take(stalled.len().div_ceil(10)) {
            pulse.cut();
        }
    }

    fn refuse(&self, client: Subscriber) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock();
        if said.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            *said = Some(Instant::now());
            warn!(
                ?client,
                most = self.terms.load().most,
                "one client has as many connections as `limits.connections_per_address` allows: others of it are closed at once; \
                if it is a proxy of yours, add it to `trusted_proxies`"
            );
        }
    }
}

impl Place {
    pub fn counts(&self) -> &Counts {
        &self.places.counts
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.places.trusts(address)
    }

    /// Whose it is. A trusted proxy is nobody: it has connections for its clients.
    pub fn is_of(&mut self, address: IpAddr) -> Result<(), TooMany> {
        let (places, before) = (self.places.clone(), self.client.take());
        let client = (!places.trusts(address)).then(|| Subscriber::of(address));
        let mut taken = places.taken.lock();
        taken.forget(before);
        let Some(client) = client else {
            return Ok(());
        };
        let count = taken.clients.entry(client).or_default();
        if *count >= places.terms.load().most {
            drop(taken);
            places.refuse(client);
            return Err(TooMany);
        }
        *count += 1;
        self.client = Some(client);
        Ok(())
    }
}

impl Taken {
    fn forget(&mut self, client: Option<Subscriber>) {
        if let Some(client) = client
            && let Some(count) = self.clients.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.connections.remove(&self.number);
        taken.forget(self.client);
        drop(taken);
        self.places.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pulse::Patience;

    fn places(all: usize, of_one: usize) -> Arc<Places> {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        Arc::new(Places::new(all, of_one, trusted, Arc::default()))
    }

    fn pulse() -> Arc<Pulse> {
        let second = Duration::from_secs(1);
        let patience = Patience {
            header: second,
            keep_alive: second,
            write_idle: second,
        };
        Pulse::new(patience, Arc::default())
    }

    async fn take(places: &Arc<Places>, address: &str) -> Result<Place, TooMany> {
        let permit = places.free().await;
        places.take(permit, address.parse().unwrap(), pulse())
    }

    #[tokio::test]
    async fn a_client_has_so_many_places_and_gets_them_back_and_a_trusted_proxy_any_number() {
        let places = places(9, 2);
        let first = take(&places, "192.0.2.1").await.unwrap();
        let _second = take(&places, "192.0.2.1").await.unwrap();
        assert!(take(&places, "192.0.2.1").await.is_err());
        assert_eq!(places.counts.now().open, 2);
        let _other = take(&places, "192.0.2.2").await.unwrap();
        drop(first);
        let _again = take(&places, "192.0.2.1").await.unwrap();
        let mut proxied = Vec::new();
        for _ in 0..4 {
            proxied.push(take(&places, "10.0.0.1").await.unwrap());
        }
        // What a proxy says of its client counts as that client's.
        assert!(
            proxied
                .pop()
                .unwrap()
                .is_of("192.0.2.1".parse().unwrap())
                .is_err()
        );
        assert!(
            proxied
                .pop()
                .unwrap()
                .is_of("192.0.2.3".parse().unwrap())
                .is_ok()
        );
        drop(proxied);
        assert_eq!(
            (places.counts.now().open, places.counts.now().refused),
            (3, 2)
        );
    }

    #[tokio::test]
    async fn when_there_is_no_room_who_has_been_idle_for_longest_is_asked_to_leave() {
        let places = places(3, 9);
        let pulses = [pulse(), pulse(), pulse()];
        let mut taken = Vec::new();
        for pulse in &pulses {
            let permit = places.free().await;
            let address = "192.0.2.1".parse().unwrap();
            taken.push(places.take(permit, address, pulse.clone()).unwrap());
        }
        // The first is being asked something.
        pulses[0].received.store(true, Ordering::Relaxed);
        let next = tokio::spawn({
            let places = places.clone();
            async move { take(&places, "192.0.2.2").await }
        });
        while !pulses[1].is_to_leave.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        assert!(!pulses[0].is_to_leave.load(Ordering::Relaxed));
        drop(taken.remove(1));
        assert!(next.await.unwrap().is_ok());
    }
}
