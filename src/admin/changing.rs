//! What changes something, or asks the API: purging, setting, warming, explaining, reloading.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Told, failed, value};
use crate::coherence::StateKey;
use crate::explain::Question;
use crate::explain::ask::ask;
use crate::operations::{self, Named, OperationError, Purging};
use crate::proxy::{Proxy, Setup, hottest};
use crate::reload::{self, NotReloaded, Reloaded};
use crate::tls::certificates::Certificates;
use crate::warming::{Warmer, as_json};

/// Of the copies that a purge would drop so many are named.
const NAMED: usize = 20;

/// So many paths are warmed by one request.
const MOST_TARGETS: usize = 10_000;

/// The purge that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    #[serde(default)]
    keys: Vec<String>,
    /// Patterns as in the file.
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    all: bool,
    /// Lines as a request has them.
    #[serde(default)]
    credentials: Vec<String>,
    #[serde(default)]
    soft: bool,
    /// Nothing is dropped: it is told what would be.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Warm {
    targets: Vec<String>,
    #[serde(default)]
    fields: Vec<(String, String)>,
    #[serde(default)]
    concurrency: Option<u16>,
}

pub(super) async fn set(setup: &Setup, key: &str, body: Bytes) -> Told {
    match operations::set(&setup.config, &setup.coherence, key, body).await {
        Ok(ttl) => (StatusCode::OK, json!({ "ttl_seconds": ttl.as_secs() })),
        Err(error) => failed(&error),
    }
}

pub(super) async fn purge(setup: &Arc<Setup>, body: &[u8]) -> Told {
    let asked: Purge = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        // The parser's own words could repeat a credential.
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return wrong(format!(
                "{{\"keys\": [...]}} or {{\"all\": true}} is expected: line {line}, column {column}"
            ));
        }
    };
    let named = match named(setup, &asked) {
        Ok(named) => named,
        Err(error) => return failed(&error),
    };
    if named.is_empty() && asked.credentials.is_empty() {
        return wrong("nothing is named: {\"keys\": [...]} or {\"all\": true}".to_owned());
    }
    if asked.dry_run {
        return match would_purge(setup, named).await {
            Ok(told) => (StatusCode::OK, told),
            Err(error) => failed(&error),
        };
    }
    let purged = match drop_all(setup, named, asked.soft).await {
        Ok(purged) => purged,
        Err(error) => return failed(&error),
    };
    let mut told = json!({ "purged": purged });
    if !asked.credentials.is_empty() {
        let lines = asked.credentials.join("\n");
        match operations::revoke(&setup.config, &setup.coherence, &lines).await {
            Ok(parts) => told["revoked"] = parts.into(),
            Err(error) => return failed(&error),
        }
    }
    (StatusCode::OK, told)
}

/// `PURGE /api/users/7/`, as for other caches; with `Soft-Purge: 1` softly.
pub(super) async fn purge_path(setup: &Arc<Setup>, path: &str, fields: &HeaderMap) -> Told {
    let soft = fields.get("soft-purge").is_some_and(|value| value == "1");
    let named = match operations::named(&setup.config, path) {
        Ok(named) => named,
        Err(error) => return failed(&error),
    };
    match drop_all(setup, vec![named], soft).await {
        Ok(purged) => (StatusCode::OK, json!({ "purged": purged })),
        Err(error) => failed(&error),
    }
}

fn named(setup: &Setup, asked: &Purge) -> Result<Vec<Named>, OperationError> {
    if asked.all {
        return Ok(vec![Named::Everything]);
    }
    let keys = asked.keys.iter();
    let keys = keys.map(|key| operations::named(&setup.config, key));
    let routes = asked.routes.iter();
    let routes = routes.map(|pattern| operations::named_route(&setup.config, pattern));
    keys.chain(routes).collect()
}

async fn drop_all(
    setup: &Arc<Setup>,
    named: Vec<Named>,
    soft: bool,
) -> Result<Vec<String>, OperationError> {
    let purging = match soft {
        true => Purging::Soft,
        false => Purging::Hard,
    };
    let states = operations::purge(&setup.config, &setup.coherence, named, purging).await?;
    hottest::purged(setup, &states);
    let purged = states.iter().map(|state| state.as_str().to_owned());
    Ok(purged.collect())
}

async fn would_purge(setup: &Setup, named: Vec<Named>) -> Result<Value, OperationError> {
    let states = operations::states(&setup.config, &setup.coherence, named).await?;
    let mut copies = operations::copies(&setup.config, &setup.coherence, &states).await?;
    let states: Vec<&str> = states.iter().map(StateKey::as_str).collect();
    let count = copies.len();
    copies.truncate(NAMED);
    Ok(json!({ "would_purge": states, "copies": count, "keys": copies }))
}

pub(super) async fn explain(setup: &Arc<Setup>, body: &[u8]) -> Told {
    // The parser's own words could repeat a field of the request.
    let Ok(question) = serde_json::from_slice::<Question>(body) else {
        return wrong(
            "{\"method\": \"GET\", \"target\": \"/api/users/\", \"fields\": [[\"Name\", \"value\"]]} is expected"
                .to_owned(),
        );
    };
    match ask(setup, &question).await {
        Ok(told) => (StatusCode::OK, value(&told)),
        Err(why) => wrong(why),
    }
}

/// Asks for these as any client would.
pub(super) async fn warm(
    setup: &Setup,
    certificates: Option<Arc<Certificates>>,
    listen: SocketAddr,
    body: &[u8],
) -> Told {
    let Ok(asked) = serde_json::from_slice::<Warm>(body) else {
        return wrong("{\"targets\": [\"/api/users/\"]} is expected".to_owned());
    };
    if asked.targets.len() > MOST_TARGETS
        || asked.targets.iter().any(|target| !target.starts_with('/'))
    {
        return wrong(format!(
            "at most {MOST_TARGETS} targets, each with its first slash"
        ));
    }
    let mut fields = HeaderMap::new();
    for (name, value) in &asked.fields {
        let name = HeaderName::try_from(name.as_str());
        let (Ok(name), Ok(mut value)) = (name, HeaderValue::try_from(value.as_str())) else {
            return wrong("a field's name or value cannot stand in a request".to_owned());
        };
        value.set_sensitive(name != header::HOST);
        fields.append(name, value);
    }
    let warmer = Warmer::new(&setup.config, listen, certificates, fields);
    let at_once = asked.concurrency.unwrap_or(4).clamp(1, 64);
    let mut each = Vec::new();
    let warmed = warmer.warm(asked.targets, at_once, |target, told| {
        each.push(as_json(target, told));
    });
    match warmed.await {
        Ok((kept, asked)) => (
            StatusCode::OK,
            json!({ "kept": kept, "asked": asked, "targets": each }),
        ),
        Err(why) => (StatusCode::BAD_GATEWAY, json!({ "detail": why })),
    }
}

/// In a task: a client that leaves does not leave it half done.
pub(super) async fn reload(proxy: Arc<Proxy>) -> Told {
    let reloading = tokio::spawn(async move { reload::reload(&proxy, "admin").await });
    match reloading.await {
        Ok(Ok(Reloaded { dropped, held_for })) => (
            StatusCode::OK,
            json!({ "dropped": dropped, "held_for": held_for }),
        ),
        Ok(Err(why)) => {
            let mut told = json!({ "detail": why.to_string() });
            if let NotReloaded::NeedsRestart(keys) = why {
                told["needs_restart"] = keys.into();
            }
            (StatusCode::UNPROCESSABLE_ENTITY, told)
        }
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            json!({ "detail": "the reload came to no end" }),
        ),
    }
}

fn wrong(why: String) -> Told {
    (StatusCode::BAD_REQUEST, json!({ "detail": why }))
}
