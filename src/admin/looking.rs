//! What changes nothing: how the process is, what stands in the store, what was dropped lately.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Parameters, Told, failed, value};
use crate::config::StoreAddress;
use crate::metrics;
use crate::operations;
use crate::proxy::{Proxy, Setup};
use crate::purges;
use crate::store::{Health, Listed};
use crate::upstream::Stands;

/// So many keys are looked at in one request.
const MOST_KEYS: usize = operations::COUNTED;

/// Ready as long as requests can be answered at all, store or not; but it says how the store is.
pub(super) fn ready(proxy: &Proxy, setup: &Setup, draining: bool) -> Told {
    let health = setup.coherence.store().health();
    let mut store =
        json!({ "kind": setup.coherence.store().kind(), "status": metrics::state(&health) });
    if let StoreAddress::Redis(redis) = &setup.config.store.address {
        store["database"] = redis.database.into();
        store["prefix"] = setup.config.store.prefix.as_str().into();
    }
    match &health {
        Health::Up => {}
        Health::Settling => store["detail"] = "just reached: nothing in it is trusted yet".into(),
        Health::Down(why) | Health::Refused(why) => store["detail"] = why.as_str().into(),
    }
    let word = match (draining, &health) {
        (true, _) => "draining",
        (false, Health::Up | Health::Settling) => "ready",
        (false, Health::Down(_) | Health::Refused(_)) => "passing-through",
    };
    let status = match draining {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    };
    let mut told = json!({ "status": word, "store": store, "upstream": setup.upstream.load(), "connections": proxy.connections.now(), "purges_owed": setup.coherence.owed() });
    let upstreams = setup.upstream.standings();
    if upstreams.len() > 1 {
        let stands = |stands: &Stands| json!({ "address": stands.address, "status": stands.standing.word(), "under_way": stands.under_way });
        told["upstreams"] = upstreams.iter().map(stands).collect();
    }
    if let Some(source) = proxy.source() {
        told["reloads"] = source.told();
    }
    (status, told)
}

pub(super) async fn keys(setup: &Setup, query: Parameters<'_>) -> Told {
    let start = query.get("start").unwrap_or_default();
    let most = query.number("limit", 1000, MOST_KEYS);
    match operations::keys(&setup.config, &setup.coherence, &start, most).await {
        Ok((keys, more)) => {
            let told = |listed: &Listed| json!({ "key": listed.key, "bytes": listed.bytes, "ttl_seconds": listed.ttl.map(|ttl| ttl.as_secs()) });
            let keys: Vec<Value> = keys.iter().map(told).collect();
            (StatusCode::OK, json!({ "keys": keys, "more": more }))
        }
        Err(error) => failed(&error),
    }
}

/// The families that have copies, and how many.
pub(super) async fn families(setup: &Setup, query: Parameters<'_>) -> Told {
    let start = query.get("start").unwrap_or_default();
    let most = query.number("limit", 10_000, MOST_KEYS);
    let (keys, more) = match operations::keys(&setup.config, &setup.coherence, &start, most).await {
        Ok(listed) => listed,
        Err(error) => return failed(&error),
    };
    let mut families: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for listed in &keys {
        if let Some(family) = operations::family_of(&setup.config, &listed.key) {
            let (copies, bytes) = families.entry(family).or_default();
            *copies += 1;
            *bytes += listed.bytes;
        }
    }
    let told = families.into_iter().map(
        |(family, (copies, bytes))| json!({ "family": family, "copies": copies, "bytes": bytes }),
    );
    (
        StatusCode::OK,
        json!({ "families": told.collect::<Vec<_>>(), "more": more }),
    )
}

pub(super) fn purges(query: Parameters<'_>) -> Told {
    let last = purges::last(query.number("limit", 50, 1000));
    (StatusCode::OK, json!({ "purges": value(last) }))
}

/// One copy: what is known of it, or its body alone.
pub(super) enum Looked {
    Body(Bytes),
    Told(Told),
}

pub(super) async fn entry(setup: &Setup, key: &str, query: Parameters<'_>) -> Looked {
    Looked::Told(
        match operations::get(&setup.config, &setup.coherence, key).await {
            Ok(Some(entry)) if query.get("body").is_some() => return Looked::Body(entry.body),
            Ok(Some(entry)) => {
                let mut told = value(&entry);
                told["body"] = serde_json::from_slice(&entry.body).unwrap_or_else(|_| {
                    Value::String(String::from_utf8_lossy(&entry.body).into_owned())
                });
                (StatusCode::OK, told)
            }
            Ok(None) => (
                StatusCode::NOT_FOUND,
                json!({ "detail": "there is no copy at this key" }),
            ),
            Err(error) => failed(&error),
        },
    )
}
