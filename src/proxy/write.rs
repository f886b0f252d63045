//! A write: held, forwarded once, finished, and only then answered. It runs in a task that outlives its client:
//! once it may have left, what it purges does not depend on who still waits.

use std::sync::Arc;

use http::Response;
use http::header::HeaderMap;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::plan::{self, By};
use super::{Client, Setup, pass, present};
use crate::body::RequestBody;
use crate::caching::cache_status::Forward;
use crate::caching::invalidation;
use crate::coherence::turnstile::Entered;
use crate::coherence::{Finished, Outcome, Refused, StateKey, WithoutStore, Writing, protocol};
use crate::config::WhenStoreIsDown;
use crate::error::{Error, UpstreamFailure};
use crate::reply::Reply;
use crate::route::Decoded;
use crate::upstream::UpstreamBody;

pub async fn write(
    setup: &Arc<Setup>,
    client: Arc<Client>,
    body: RequestBody,
    states: Vec<StateKey>,
    by: By,
) -> Result<Reply, Error> {
    // Not in the task: a client that leaves while it waits here has sent nothing, and is done.
    let entered = setup.turnstile.enter(&states).await;
    let (tell, told) = oneshot::channel();
    let own = setup.clone();
    setup.writes.spawn(async move {
        let answered = held(&own, &client, body, states, by, entered).await;
        // A client that has gone does not hear of it; the write is finished all the same.
        let _ = tell.send(answered);
    });
    let response = told.await.unwrap_or(Err(UpstreamFailure::Lost.into()))?;
    Ok(pass::streamed(response, Forward::Method, None))
}

/// Hold, forward, finish.
async fn held(
    setup: &Arc<Setup>,
    client: &Client,
    body: RequestBody,
    states: Vec<StateKey>,
    by: By,
    mut entered: Entered,
) -> Result<Response<UpstreamBody>, Error> {
    // The slot first: a write that waits in the queue holds nothing.
    let slot = setup.upstream.slot().await?;
    let without_store = match setup.config.when_store_is_down {
        WhenStoreIsDown::RefuseWrites => WithoutStore::Refuse,
        WhenStoreIsDown::Forward => WithoutStore::Forward,
    };
    let writing = setup.coherence.begin(states.clone(), without_store);
    let writing = writing.await.map_err(|Refused| Error::StoreAway)?;
    let answered = setup
        .upstream
        .send(slot, present::pass(&setup.config, client, body))
        .await;
    let outcome = match &answered {
        Ok(response) => match by {
            By::Operator => protocol::outcome_of_status(response.status()),
            By::Http => invalidation::outcome(response.status()),
        },
        Err(failure) => protocol::outcome_of_failure(*failure),
    };
    entered.came_to(outcome);
    if let (Ok(response), By::Http, Outcome::Changed) = (&answered, by, outcome) {
        drop_named(setup, client, response.headers(), &states).await;
    }
    finish(setup, client, writing, outcome, &states).await?;
    Ok(answered?)
}

/// What the answer names beside the target: RFC 9111 §4.4 allows to drop it, so the answer does not depend on it.
async fn drop_named(setup: &Setup, client: &Client, answer: &HeaderMap, already: &[StateKey]) {
    let Some(target) = client.url() else {
        return;
    };
    for url in invalidation::named(&target, answer) {
        let path = Decoded::of(url.path());
        let mut states = plan::drops(&setup.config, &client.method, &path).states;
        states.retain(|state| !already.contains(state));
        if !states.is_empty() && setup.coherence.purge(&states).await.is_err() {
            warn!(
                path = url.path(),
                "what an answer named in Location or Content-Location is not dropped: the store is away"
            );
        }
    }
}

async fn finish(
    setup: &Setup,
    client: &Client,
    writing: Writing,
    outcome: Outcome,
    states: &[StateKey],
) -> Result<(), Error> {
    let finished = setup.coherence.finish(writing, outcome).await;
    let names = || {
        states
            .iter()
            .map(StateKey::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    };
    match (finished, outcome) {
        (Finished::Confirmed, Outcome::Unchanged) => {}
        (Finished::Confirmed, Outcome::Changed | Outcome::Ambiguous) => {
            info!(states = names(), cause = "write", method = %client.method, path = client.target.path(),
                ambiguous = outcome == Outcome::Ambiguous, "purged");
        }
        (Finished::Owed | Finished::Unconfirmed, _) => {
            warn!(states = names(), cause = "write", method = %client.method, path = client.target.path(),
                "purge owed: the store is away, and will be told before it is used again");
        }
    }
    match finished {
        Finished::Confirmed | Finished::Owed => Ok(()),
        Finished::Unconfirmed => Err(Error::Unconfirmed),
    }
}
