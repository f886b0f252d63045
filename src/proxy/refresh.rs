//! Refreshing a copy in the background: one at a time per key and instance, for nobody in particular. Whoever
//! asks meanwhile and may not have the old copy joins it as any other fetch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::debug;

use super::fetch::{Answer, Fetch};
use super::present::Asked;
use super::{Client, Setup, read};
use crate::caching::stored::Stored;
use crate::clock;
use crate::coherence::flights::Turn;
use crate::route::Captures;

/// After a refresh that came to nothing, the next one waits so long.
const PAUSE: Duration = Duration::from_secs(1);

/// The keys that are being refreshed, or have just been in vain.
#[derive(Default, Clone)]
pub struct Refreshes(Arc<Mutex<HashMap<String, Refresh>>>);

enum Refresh {
    UnderWay,
    NotBefore(Instant),
}

impl Refreshes {
    /// The duty to refresh it, unless somebody has it or it was in vain just now.
    pub(super) fn begin(&self, copy: &str, now: Instant) -> Option<Duty> {
        let mut refreshes = self.0.lock();
        match refreshes.get(copy) {
            Some(Refresh::UnderWay) => return None,
            Some(Refresh::NotBefore(then)) if now < *then => return None,
            _ => {}
        }
        // The vain ones of keys that nobody asks for any more.
        refreshes.retain(|_, refresh| !matches!(refresh, Refresh::NotBefore(then) if *then <= now));
        refreshes.insert(copy.to_owned(), Refresh::UnderWay);
        Some(Duty {
            refreshes: self.clone(),
            copy: copy.to_owned(),
        })
    }
}

/// Dropped, it was in vain.
pub(super) struct Duty {
    refreshes: Refreshes,
    copy: String,
}

impl Duty {
    pub(super) fn done(self) {
        self.refreshes.0.lock().remove(&self.copy);
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(refresh) = self.refreshes.0.lock().get_mut(&self.copy) {
            *refresh = Refresh::NotBefore(clock::stopwatch() + PAUSE);
        }
    }
}

/// Refreshes what is stored for `asked`, unless that is being done.
pub fn refresh(
    setup: &Arc<Setup>,
    route: usize,
    captures: &Captures,
    client: &Client,
    asked: &Asked,
    stored: Arc<Stored>,
) {
    let Some(duty) = setup.refreshes.begin(&asked.copy, clock::stopwatch()) else {
        return;
    };
    let fetch = (
        setup.clone(),
        captures.clone(),
        Arc::new(Client {
            interim: None,
            notes: None,
            ..client.clone()
        }),
        asked.clone(),
    );
    tokio::spawn(async move {
        let (setup, captures, client, asked) = fetch;
        let refreshed = run(&setup, route, captures, client, asked, Some(stored)).await;
        debug!(copy = duty.copy, refreshed, "refreshed in the background");
        if refreshed {
            duty.done();
        }
    });
}

/// Whether there is something new. `replacing`: what is to be replaced by it, if there is anything.
pub(super) async fn run(
    setup: &Arc<Setup>,
    route: usize,
    captures: Captures,
    client: Arc<Client>,
    asked: Asked,
    replacing: Option<Arc<Stored>>,
) -> bool {
    let since = setup.flights.now();
    let (epochs, fence) = read::open(setup, &setup.served[route], &asked.depends, None).await;
    if epochs.is_err() {
        return false;
    }
    match setup.flights.join(&asked.flight(), &fence, since) {
        // Somebody who could not be given the old copy is at it.
        Turn::Follow(_) => true,
        Turn::Lead {
            fill, mut follower, ..
        } => {
            let fetch = Fetch {
                setup: setup.clone(),
                route,
                captures,
                client,
                asked: Arc::new(asked),
                epochs,
                absence: fence.absence,
                replacing,
                look_again: true,
            };
            fetch.run(fill).await;
            match follower.answer(|_| true).await {
                Some(Answer::Fetched(fetched)) => fetched.not_stored.is_none(),
                Some(Answer::Found(..) | Answer::Varied(_)) => true,
                _ => false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_refreshed_once_at_a_time_and_after_a_vain_try_not_at_once() {
        let (refreshes, now) = (Refreshes::default(), Instant::now());
        let duty = refreshes.begin("k", now).unwrap();
        assert!(refreshes.begin("k", now).is_none());
        assert!(refreshes.begin("other", now).is_some());
        duty.done();
        drop(refreshes.begin("k", now).unwrap());
        assert!(refreshes.begin("k", now).is_none());
        assert!(refreshes.begin("k", now + 2 * PAUSE).is_some());
    }
}
