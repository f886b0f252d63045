//! A sample of the hits beside the API (`shadow` in the file): what was given from the store is asked of the API, too, as its client
//! would have asked, and a difference is counted and told. Whatever differs was changed past the proxy, or by a write that no rule names,
//! or hangs on something that the key does not hold.
//!
//! A write that comes between is no difference: through the proxy it drops the copy, so a copy that still stands after the API has said
//! something else, twice, is of the past. The client waits for none of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use super::present::{self, Asked};
use super::{Client, Setup};
use crate::body::RequestBody;
use crate::caching::stored::Stored;
use crate::clock;
use crate::coherence::LookUp;
use crate::message::conditions;
use crate::upstream::Asker;

/// Compared at once; a hit that is drawn beyond them is not.
const AT_ONCE: usize = 4;

/// Of the differences under one route, at most one in this time is in the log; all are counted.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Draws hits.
pub struct Sample {
    /// Of all 64-bit numbers, those below it.
    below: u64,
    seen: AtomicU64,
    free: Arc<Semaphore>,
    told: Mutex<Vec<(usize, Instant)>>,
}

/// What came of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Same,
    Differs,
    /// The API itself says something else each time.
    Unsteady,
    /// The copy was dropped or replaced meanwhile.
    Changed,
    /// The API gave no answer, or an error of its own.
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 5] = [
        Outcome::Same,
        Outcome::Differs,
        Outcome::Unsteady,
        Outcome::Changed,
        Outcome::Failed,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Outcome::Same => "same",
            Outcome::Differs => "differs",
            Outcome::Unsteady => "unsteady",
            Outcome::Changed => "changed",
            Outcome::Failed => "failed",
        }
    }
}

impl Sample {
    /// `share` of all hits, above 0 and at most 1.
    pub fn new(share: f64) -> Sample {
        Sample {
            below: (share * u64::MAX as f64) as u64,
            seen: AtomicU64::new(clock::now().as_micros()),
            free: Arc::new(Semaphore::new(AT_ONCE)),
            told: Mutex::default(),
        }
    }

    fn draws(&self) -> bool {
        let number = self.seen.fetch_add(1, Relaxed);
        xxh3_64(&number.to_le_bytes()) <= self.below
    }

    fn may_tell(&self, route: usize) -> bool {
        let now = clock::stopwatch();
        let mut told = self.told.lock();
        told.retain(|(_, at)| now.duration_since(*at) < TELL_EVERY);
        let first = told.iter().all(|(of, _)| *of != route);
        if first {
            told.push((route, now));
        }
        first
    }
}

/// Compares this hit in the background, if it is drawn.
pub fn perhaps(
    setup: &Arc<Setup>,
    route: usize,
    client: &Client,
    asked: &Asked,
    stored: &Arc<Stored>,
) {
    let Some(sample) = &setup.sample else {
        return;
    };
    if !is_comparable(client) || !sample.draws() {
        return;
    }
    let Ok(permit) = sample.free.clone().try_acquire_owned() else {
        return;
    };
    let (setup, asked, stored) = (setup.clone(), asked.clone(), stored.clone());
    let client = Client {
        interim: None,
        notes: None,
        head: None,
        ..client.clone()
    };
    tokio::spawn(async move {
        let outcome = compare(&setup, route, &client, &asked, &stored).await;
        setup.served[route].counts.compared.count([outcome.word()]);
        drop(permit);
    });
}

/// A GET for all of it.
fn is_comparable(client: &Client) -> bool {
    let fields = &client.fields;
    client.method == Method::GET
        && !conditions::are_any_in(fields)
        && !fields.contains_key(header::RANGE)
}

async fn compare(
    setup: &Setup,
    route: usize,
    client: &Client,
    asked: &Asked,
    stored: &Stored,
) -> Outcome {
    let most = setup.served[route].route.max_body;
    let Some(says) = ask(setup, client, most).await else {
        return Outcome::Failed;
    };
    let (status, body) = &says;
    if *status == stored.status && *body == stored.body {
        return Outcome::Same;
    }
    if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS {
        return Outcome::Failed;
    }
    match ask(setup, client, most).await {
        None => return Outcome::Failed,
        Some(again) if again != says => return Outcome::Unsteady,
        Some(_) => {}
    }
    let looked = setup
        .coherence
        .look_up(&asked.copy, &asked.depends, &asked.origin);
    match looked.await {
        LookUp::Valid(still) if still.body == stored.body && still.status == stored.status => {}
        _ => return Outcome::Changed,
    }
    if let Some(sample) = &setup.sample
        && sample.may_tell(route)
    {
        let same = stored.body.iter().zip(body);
        warn!(
            route = setup.config.routes[route].path.as_str(),
            path = client.target.path(),
            age = stored.age(clock::now()).as_secs(),
            status = stored.status.as_u16(),
            bytes = stored.body.len(),
            api_status = status.as_u16(),
            api_bytes = body.len(),
            from_byte = same.take_while(|(ours, its)| ours == its).count(),
            "a hit is not what the API says: something writes past the proxy, or a write is missing under `purge`, or the answer hangs on \
             what the key does not hold (`query`, `vary`, `access`); `larder check --against` and `larder explain` narrow it down"
        );
    }
    Outcome::Differs
}

/// What the API says to this client, whole. `None`: nothing, or more than a copy may be.
async fn ask(setup: &Setup, client: &Client, most: u64) -> Option<(StatusCode, Bytes)> {
    let mut outgoing = present::pass(&setup.config, client, RequestBody::Empty);
    // As it is stored.
    let identity = header::HeaderValue::from_static("identity");
    let fields = outgoing.fields.to_mut();
    fields.insert(header::ACCEPT_ENCODING, identity);
    let slot = setup.upstream.slot(Asker::Unknown).await.ok()?;
    let response = setup.upstream.send(slot, outgoing).await.ok()?;
    let (head, body) = response.into_parts();
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let whole = Limited::new(body, most).collect();
    let whole = tokio::time::timeout(setup.upstream.settings().total, whole);
    let whole = whole.await.ok()?.ok()?;
    Some((head.status, whole.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_drawn_as_were_asked_for() {
        for share in [0.01, 0.25, 1.0] {
            let sample = Sample::new(share);
            let drawn = (0..100_000).filter(|_| sample.draws()).count() as f64;
            assert!((drawn / 100_000.0 - share).abs() < 0.01, "{share}: {drawn}");
        }
        let all = Sample::new(1.0);
        assert!((0..10_000).all(|_| all.draws()));
    }

    #[test]
    fn one_difference_in_a_second_is_told_of_each_route() {
        let sample = Sample::new(1.0);
        assert!(sample.may_tell(0) && sample.may_tell(1));
        assert!(!sample.may_tell(0) && !sample.may_tell(1));
    }
}
