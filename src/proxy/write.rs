//! A write: held, forwarded once, finished, and only then answered. It outlives its client: once it may have left, what it
//! purges does not depend on who still waits.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Response, StatusCode};
use tracing::{debug, warn};

use super::outliving::Outliving;
use super::plan::{self, By, Drops, Word};
use super::under_way::UnderWay;
use super::{Client, Setup, hottest, obey, pass, present, turnover};
use crate::body::RequestBody;
use crate::caching::cache_status::Forward;
use crate::caching::invalidation;
use crate::caching::key::{cache_group_state, is_of_a_credential};
use crate::coherence::turnstile::Entered;
use crate::coherence::{Finished, Outcome, Refused, StateKey, WithoutStore, protocol};
use crate::config::{Config, WhenStoreIsDown};
use crate::error::Error;
use crate::metrics::COUNTED;
use crate::purges::{self, ByWrite, Cause};
use crate::reply::Reply;
use crate::route::Decoded;
use crate::upstream::{Slot, UpstreamBody};

pub async fn write(
    setup: &Arc<Setup>,
    client: Arc<Client>,
    body: RequestBody,
    mut states: Vec<StateKey>,
    mut word: Word,
) -> Result<Reply, Error> {
    let (under_way, newer) = setup
        .writes
        .enter(setup.generation, client.clone(), &states);
    if let Some((more, newer)) = newer.and_then(|newer| dropped_by(setup, &newer, &client)) {
        states.extend(more);
        states.sort();
        states.dedup();
        word.by = match (word.by, newer.by) {
            (By::Http, newer) => newer,
            (_, By::Operator) => By::Operator,
            (by, _) => by,
        };
    }
    held_write(setup, client, body, states, word, under_way).await
}

/// A write that drops nothing, as the rules are.
pub async fn unheld(
    setup: &Arc<Setup>,
    client: Arc<Client>,
    body: RequestBody,
) -> Result<Reply, Error> {
    let (under_way, newer) = setup.writes.enter(setup.generation, client.clone(), &[]);
    if let Some((states, word)) = newer.and_then(|newer| dropped_by(setup, &newer, &client)) {
        return Box::pin(held_write(setup, client, body, states, word, under_way)).await;
    }
    let slot = match setup.upstream.slot(client.asker(&setup.config)).await {
        Ok(slot) => slot,
        Err(failure) => {
            under_way.came_to(protocol::outcome_of_failure(failure));
            return Err(failure.into());
        }
    };
    let passed = passed(setup.clone(), client, body, slot, under_way);
    Outliving::new(passed, &setup.writes.tasks).await
}

async fn passed(
    setup: Arc<Setup>,
    client: Arc<Client>,
    body: RequestBody,
    slot: Slot,
    under_way: UnderWay,
) -> Result<Reply, Error> {
    let (setup, client) = (&setup, &*client);
    let outgoing = present::pass_at(setup, client, body);
    let answered = setup.upstream.send(slot, outgoing).await;
    if let Ok(response) = &answered
        && invalidation::outcome(response.status()) == Outcome::Changed
    {
        let word = Word::nobodys();
        drop_named(setup, client, &word, response.headers(), &[]).await;
    }
    under_way.came_to(match &answered {
        Ok(response) => protocol::outcome_of_status(response.status()),
        Err(failure) => protocol::outcome_of_failure(*failure),
    });
    let reply = pass::streamed(answered?, Forward::Method, None);
    pass::warn_of_untrusted_https(setup, client, &reply);
    Ok(reply)
}

/// By the configuration that was announced last, where that is not the one that planned it.
fn dropped_by(setup: &Setup, newer: &Config, client: &Client) -> Option<(Vec<StateKey>, Word)> {
    let secret = setup.coherence.store().secret();
    turnover::dropped_by(newer, secret.as_ref(), client)
}

async fn held_write(
    setup: &Arc<Setup>,
    client: Arc<Client>,
    body: RequestBody,
    states: Vec<StateKey>,
    word: Word,
    under_way: UnderWay,
) -> Result<Reply, Error> {
    // Not in the task: a client that leaves while it waits here has sent nothing, and is done.
    let entered = setup.turnstile.enter(&states).await;
    // The slot before the hold: a write that waits in the queue holds nothing.
    let slot = setup.upstream.slot(client.asker(&setup.config)).await?;
    let turn = (slot, entered);
    let held = held(setup.clone(), client, body, states, word, turn, under_way);
    // A client that leaves does not hear of it; the write is finished all the same.
    match Outliving::new(held, &setup.writes.tasks).await? {
        Answered::Passed(response) => Ok(pass::streamed(response, Forward::Method, None)),
        Answered::Kept(reply) => Ok(reply),
    }
}

enum Answered {
    Passed(Response<UpstreamBody>),
    /// It stands for later GETs, too.
    Kept(Reply),
}

/// Hold, forward, finish.
async fn held(
    setup: Arc<Setup>,
    client: Arc<Client>,
    body: RequestBody,
    states: Vec<StateKey>,
    word: Word,
    (slot, mut entered): (Slot, Entered),
    under_way: UnderWay,
) -> Result<Answered, Error> {
    let (setup, client) = (&setup, &*client);
    let without_store = match setup.config.when_store_is_down {
        WhenStoreIsDown::RefuseWrites => WithoutStore::Refuse,
        WhenStoreIsDown::Forward => WithoutStore::Forward,
    };
    // What is rare is boxed, here and below, or every write would carry room for it, and zero and copy it.
    let keeping = match word.by {
        By::Http => {
            let prepared = Box::pin(obey::Keeping::prepare(setup, client)).await;
            prepared.map(Box::new)
        }
        By::Operator | By::Nobody => None,
    };
    let writing = setup.coherence.begin(states.clone(), without_store);
    let writing = writing.await.map_err(|Refused| Error::StoreAway)?;
    let _in_flight = COUNTED.holds.one();
    let answered = setup
        .upstream
        .send(slot, present::pass_at(setup, client, body))
        .await;
    let outcome = match &answered {
        // What is said of a credential ends with every write that was not refused, whoever's the path is.
        Ok(response) => match word.by == By::Http && !ends_a_verdict(&states) {
            true => invalidation::outcome(response.status()),
            false => protocol::outcome_of_status(response.status()),
        },
        Err(failure) => protocol::outcome_of_failure(*failure),
    };
    entered.came_to(outcome);
    under_way.came_to(outcome);
    if let (Ok(response), Outcome::Changed) = (&answered, outcome) {
        drop_named(setup, client, &word, response.headers(), &states).await;
    }
    if answered
        .as_ref()
        .is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED)
    {
        Box::pin(forget(setup, client, &states)).await;
    }
    let keeping = keeping.filter(|keeping| {
        let kept = answered
            .as_ref()
            .is_ok_and(|answer| keeping.may_keep(answer));
        kept && outcome == Outcome::Changed
    });
    let (finished, renewed) = match &keeping {
        Some(keeping) => {
            let before = &keeping.before;
            Box::pin(setup.coherence.finish_renewed(writing, before)).await
        }
        None => (setup.coherence.finish(writing, outcome).await, None),
    };
    tell(client, &word, finished, outcome, &states)?;
    if finished == Finished::Confirmed && outcome != Outcome::Unchanged {
        hottest::purged(setup, &states);
    }
    match (keeping, renewed) {
        (Some(keeping), Some(epochs)) => {
            let kept = Box::pin(keeping.keep(answered?, epochs)).await?;
            Ok(Answered::Kept(kept))
        }
        _ => Ok(Answered::Passed(answered?)),
    }
}

/// Whether what the API has said of a credential ends with a write that drops these.
pub fn ends_a_verdict(states: &[StateKey]) -> bool {
    states
        .iter()
        .any(|state| is_of_a_credential(state.as_str()))
}

/// A 401 drops no copy, but its credential is nobody's to the API; and a logout that has been done is answered so, too, by
/// django-allauth's headless API.
async fn forget(setup: &Setup, client: &Client, states: &[StateKey]) {
    let of_it = { states.iter() }.filter(|state| is_of_a_credential(state.as_str()));
    let of_it: Vec<StateKey> = of_it.cloned().collect();
    if of_it.is_empty() {
        return;
    }
    match setup.coherence.purge(&of_it).await {
        // No purge: nothing was dropped that anybody could look for, and there may be as many as somebody likes to send.
        Ok(()) => debug!(
            path = client.target.path(),
            "who was answered 401 is asked about anew"
        ),
        Err(_) => warn!(
            path = client.target.path(),
            "who was answered 401 may be admitted elsewhere until `for` is over: the store is away"
        ),
    }
}

/// What the answer names beside the target: RFC 9111 §4.4 and RFC 9875 allow to drop it, so the answer does not depend on it.
async fn drop_named(
    setup: &Setup,
    client: &Client,
    word: &Word,
    answer: &HeaderMap,
    already: &[StateKey],
) {
    let groups = invalidation::invalidated_groups(&client.method, answer);
    let mut states: Vec<StateKey> = groups
        .iter()
        .map(|group| StateKey::new(cache_group_state(&client.origin(), group)))
        .collect();
    let may_drop = |drops: &Drops| match word.by {
        By::Operator => false,
        By::Http => true,
        By::Nobody => drops.by != By::Operator,
    };
    if word.by != By::Operator
        && invalidation::names_any(answer)
        && let Some(target) = client.url()
    {
        for url in invalidation::named(&target, answer) {
            let path = Decoded::of(url.path());
            let drops = plan::drops(&setup.config, &client.method, &path);
            if may_drop(&drops) {
                states.extend(drops.states);
            }
        }
    }
    states.retain(|state| !already.contains(state));
    if states.is_empty() {
        return;
    }
    match Box::pin(setup.coherence.purge(&states)).await {
        Ok(()) => purged(client, word, Cause::Named, &states),
        Err(_) => warn!(
            path = client.target.path(),
            "what an answer named (Location, Content-Location, Cache-Group-Invalidation) is not dropped: the store is away"
        ),
    }
}

fn tell(
    client: &Client,
    word: &Word,
    finished: Finished,
    outcome: Outcome,
    states: &[StateKey],
) -> Result<(), Error> {
    let cause = match (finished, outcome) {
        (Finished::Confirmed, Outcome::Unchanged) => None,
        (Finished::Confirmed, Outcome::Changed) => Some(Cause::Write),
        (Finished::Confirmed, Outcome::Ambiguous) => Some(Cause::Ambiguous),
        (Finished::Owed | Finished::Unconfirmed, _) => Some(Cause::Owed),
    };
    if let Some(cause) = cause {
        purged(client, word, cause, states);
    }
    match finished {
        Finished::Confirmed | Finished::Owed => Ok(()),
        Finished::Unconfirmed => Err(Error::Unconfirmed),
    }
}

/// Says what was dropped, and by which of the rules.
fn purged(client: &Client, word: &Word, cause: Cause, states: &[StateKey]) {
    let notes = client.notes.as_ref();
    let write = ByWrite {
        method: client.method.clone(),
        path: client.target.path().to_owned(),
        rules: word.rules.clone(),
        request_id: notes.map(|notes| notes.id_text().to_owned()),
    };
    purges::by_write(cause, states, write);
}
