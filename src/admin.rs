//! The operator's listener: health, looking at entries, purging. Never on the public port.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /healthz` | 200 while the process runs |
//! | `GET /readyz` | how store and upstream are, in JSON; 503 only while draining |
//! | `GET /metrics` | what is counted, as Prometheus reads it |
//! | `GET /keys?start=users:` | the keys in the store |
//! | `GET /entries/KEY` | one copy and what is known of it; `?body` gives the body alone |
//! | `PUT /entries/KEY` | puts a JSON body there as the shared copy |
//! | `POST /explain` | what becomes of `{"method": "GET", "target": "/api/users/", "fields": [["Accept", "*/*"]]}`, and why |
//! | `POST /purge` | `{"credentials": ["Authorization: Bearer …"]}`: what the API said of them is forgotten everywhere |
//! | `POST /purge` | `{"keys": ["users:list", "users:detail:*", "/api/users/7/"]}` or `{"all": true}`; with `"soft": true`, copies are given until they are fetched anew |
//!
//! KEY is a key with or without the prefix, percent-encoded, or a path with its first slash (`/entries//api/users/`).
//! Anything but the health checks asks for `Authorization: Bearer TOKEN` where `admin_token` is set, and
//! whatever changes something for `Content-Type: application/json`, which no page in a browser can send unasked.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::body::ReplyBody;
use crate::explain::Question;
use crate::explain::ask::ask;
use crate::metrics;
use crate::operations::{self, Named, OperationError, Purging};
use crate::proxy::{Proxy, Setup, hottest};
use crate::store::Health;

/// A request to the operator's listener holds at most this.
const LARGEST: usize = 16 * 1024 * 1024;

/// The purge that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    all: bool,
    /// Lines as a request has them.
    #[serde(default)]
    credentials: Vec<String>,
    #[serde(default)]
    soft: bool,
}

pub async fn answer(
    proxy: Arc<Proxy>,
    draining: watch::Receiver<bool>,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let setup = proxy.setup();
    let (head, content) = request.into_parts();
    let path = percent_decode_str(head.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let (status, body) = match (&head.method, path.as_str()) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, json!({ "status": "ok" })),
        (&Method::GET | &Method::HEAD, "/readyz") => ready(&setup, *draining.borrow()),
        _ if !is_allowed(&setup, &head.headers) => (
            StatusCode::UNAUTHORIZED,
            json!({ "detail": "send `Authorization: Bearer TOKEN` with the `admin_token` of proxy.yaml" }),
        ),
        (&Method::GET, "/metrics") => {
            return text(metrics::CONTENT_TYPE, metrics::exposition(&setup));
        }
        (&Method::GET, "/keys") => keys(&setup, head.uri.query()).await,
        (&Method::GET, key) if key.starts_with("/entries/") => {
            match operations::get(&setup.config, &setup.coherence, &key["/entries/".len()..]).await
            {
                Ok(Some(entry)) if head.uri.query() == Some("body") => return raw(entry.body),
                Ok(Some(entry)) => {
                    let mut told = serde_json::to_value(&entry).unwrap_or_default();
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
            }
        }
        (&Method::PUT, key) if key.starts_with("/entries/") && is_json(&head.headers) => {
            match whole(content).await {
                Ok(body) => match operations::set(
                    &setup.config,
                    &setup.coherence,
                    &key["/entries/".len()..],
                    body,
                )
                .await
                {
                    Ok(ttl) => (StatusCode::OK, json!({ "ttl_seconds": ttl.as_secs() })),
                    Err(error) => failed(&error),
                },
                Err(answer) => answer,
            }
        }
        (&Method::POST, "/purge") if is_json(&head.headers) => match whole(content).await {
            Ok(body) => purge(&setup, &body).await,
            Err(answer) => answer,
        },
        (&Method::POST, "/explain") if is_json(&head.headers) => match whole(content).await {
            Ok(body) => explain(&setup, &body).await,
            Err(answer) => answer,
        },
        (&Method::POST | &Method::PUT, _) if !is_json(&head.headers) => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            json!({ "detail": "send `Content-Type: application/json`" }),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            json!({ "detail": "GET /healthz /readyz /metrics /keys /entries/KEY, PUT /entries/KEY, POST /purge /explain" }),
        ),
    };
    let mut response = Response::new(ReplyBody::whole(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Ready as long as requests can be answered at all, store or not; but it says how the store is.
fn ready(setup: &Setup, draining: bool) -> (StatusCode, Value) {
    let store = match setup.coherence.store().health() {
        Health::Up => json!({ "kind": setup.coherence.store().kind(), "status": "up" }),
        Health::Settling => {
            json!({ "kind": setup.coherence.store().kind(), "status": "settling", "detail": "just reached: nothing in it is trusted yet" })
        }
        Health::Down(why) => {
            json!({ "kind": setup.coherence.store().kind(), "status": "down", "detail": why })
        }
        Health::Refused(why) => {
            json!({ "kind": setup.coherence.store().kind(), "status": "refused", "detail": why })
        }
    };
    let status = if draining {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let word = match (draining, &store["status"]) {
        (true, _) => "draining",
        (false, reached) if reached == "up" || reached == "settling" => "ready",
        (false, _) => "passing-through",
    };
    (
        status,
        json!({ "status": word, "store": store, "purges_owed": setup.coherence.owed() }),
    )
}

async fn keys(setup: &Setup, query: Option<&str>) -> (StatusCode, Value) {
    let start = query.and_then(|query| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix("start="))
    });
    let start = percent_decode_str(start.unwrap_or_default()).decode_utf8_lossy();
    match operations::keys(&setup.config, &setup.coherence, &start, 1000).await {
        Ok(keys) => {
            let told = |listed: &crate::store::Listed| json!({ "key": listed.key, "bytes": listed.bytes, "ttl_seconds": listed.ttl.map(|ttl| ttl.as_secs()) });
            (
                StatusCode::OK,
                json!({ "keys": keys.iter().map(told).collect::<Vec<_>>() }),
            )
        }
        Err(error) => failed(&error),
    }
}

async fn purge(setup: &Arc<Setup>, body: &[u8]) -> (StatusCode, Value) {
    let asked: Purge = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        // The parser's own words could repeat a credential.
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return (
                StatusCode::BAD_REQUEST,
                json!({ "detail": format!("{{\"keys\": [...]}} or {{\"all\": true}} is expected: line {line}, column {column}") }),
            );
        }
    };
    let mut named = Vec::new();
    for key in &asked.keys {
        match operations::named(&setup.config, key) {
            Ok(name) => named.push(name),
            Err(error) => return failed(&error),
        }
    }
    if asked.all {
        named = vec![Named::Everything];
    }
    if named.is_empty() && asked.credentials.is_empty() {
        return (
            StatusCode::BAD_REQUEST,
            json!({ "detail": "nothing is named: {\"keys\": [...]} or {\"all\": true}" }),
        );
    }
    let purging = match asked.soft {
        true => Purging::Soft,
        false => Purging::Hard,
    };
    let mut purged = Vec::new();
    for name in named {
        match operations::purge(&setup.config, &setup.coherence, name, purging).await {
            Ok(states) => {
                hottest::purged(setup, &states);
                purged.extend(states.iter().map(|state| state.as_str().to_owned()));
            }
            Err(error) => return failed(&error),
        }
    }
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

async fn explain(setup: &Arc<Setup>, body: &[u8]) -> (StatusCode, Value) {
    let wrong = |why: String| (StatusCode::BAD_REQUEST, json!({ "detail": why }));
    // The parser's own words could repeat a field of the request.
    let Ok(question) = serde_json::from_slice::<Question>(body) else {
        return wrong(
            "{\"method\": \"GET\", \"target\": \"/api/users/\", \"fields\": [[\"Name\", \"value\"]]} is expected"
                .to_owned(),
        );
    };
    match ask(setup, &question).await {
        Ok(told) => (
            StatusCode::OK,
            serde_json::to_value(&told).unwrap_or_default(),
        ),
        Err(why) => wrong(why),
    }
}

fn failed(error: &OperationError) -> (StatusCode, Value) {
    let status = match error {
        OperationError::Unknown(_) => StatusCode::BAD_REQUEST,
        OperationError::Held => StatusCode::CONFLICT,
        OperationError::StoreAway | OperationError::NotKept(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, json!({ "detail": error.to_string() }))
}

/// Compared as hashes, which takes the same time wherever they differ.
fn is_allowed(setup: &Setup, fields: &HeaderMap) -> bool {
    let Some(token) = &setup.config.admin_token else {
        return true;
    };
    let given = fields
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| blake3::hash(given) == blake3::hash(token.expose().as_bytes()))
}

fn is_json(fields: &HeaderMap) -> bool {
    let kind = fields
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    kind.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/json")
}

async fn whole(content: Incoming) -> Result<Bytes, (StatusCode, Value)> {
    match Limited::new(content, LARGEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err((
            StatusCode::BAD_REQUEST,
            json!({ "detail": error.to_string() }),
        )),
    }
}

fn text(kind: &'static str, text: String) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(text.into()));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn raw(body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
