//! The operator's listener: health, metrics, looking at entries, purging, and a page for people. Never on the public port.
//!
//! `SERVED` is all that it answers, and `openapi.json` describes it, for `GET /openapi.json`; a test holds the two together.
//!
//! Anything but the health checks, the page and the description asks for `Authorization: Bearer TOKEN` where
//! `admin_token` is set, or for a client certificate where `admin_tls.client_ca` is (either will do). Whatever changes something asks for `Content-Type: application/json` or is a PURGE, neither of which
//! a page in a browser can send elsewhere unasked. Without a token it answers to localhost and to addresses alone.

mod changing;
mod looking;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::body::{Content, ReplyBody};
use crate::metrics;
use crate::operations::OperationError;
use crate::proxy::{Proxy, Setup};
use crate::server::Peer;

/// A request to the operator's listener holds at most this.
const LARGEST: usize = 16 * 1024 * 1024;

/// It must have arrived in this time.
const LONGEST: Duration = Duration::from_secs(30);

const PAGE: &str = include_str!("page.html");
const OPENAPI: &str = include_str!("openapi.json");

/// The page has all that it needs in itself, and asks nobody but this listener.
const PAGE_MAY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the operator's listener speaks for.
#[derive(Clone)]
pub struct Admin {
    pub proxy: Arc<Proxy>,
    /// Where clients are served: whatever is warmed is asked for there.
    pub listen: SocketAddr,
    pub draining: watch::Receiver<bool>,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Page,
    OpenApi,
    Healthy,
    Ready,
    Metrics,
    Overview,
    Keys,
    Families,
    Entry,
    Set,
    Purges,
    Purge,
    PurgePath,
    Explain,
    Warm,
    Reload,
}

/// Whether something is told to everybody who reaches the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Token,
    /// And `Content-Type: application/json`.
    TokenAndJson,
}

/// Method, path and what it is; `{key}` and `{path}` are the rest of a path.
const SERVED: [(&str, &str, Operation, Needs); 16] = {
    use Needs::{Nothing, Token, TokenAndJson};
    [
        ("GET", "/", Operation::Page, Nothing),
        ("GET", "/openapi.json", Operation::OpenApi, Nothing),
        ("GET", "/healthz", Operation::Healthy, Nothing),
        ("GET", "/readyz", Operation::Ready, Nothing),
        ("GET", "/metrics", Operation::Metrics, Token),
        ("GET", "/overview", Operation::Overview, Token),
        ("GET", "/keys", Operation::Keys, Token),
        ("GET", "/families", Operation::Families, Token),
        ("GET", "/entries/{key}", Operation::Entry, Token),
        ("PUT", "/entries/{key}", Operation::Set, TokenAndJson),
        ("GET", "/purges", Operation::Purges, Token),
        ("POST", "/purge", Operation::Purge, TokenAndJson),
        ("PURGE", "/{path}", Operation::PurgePath, Token),
        ("POST", "/explain", Operation::Explain, TokenAndJson),
        ("POST", "/warm", Operation::Warm, TokenAndJson),
        ("POST", "/reload", Operation::Reload, TokenAndJson),
    ]
};

/// A status and JSON.
type Told = (StatusCode, Value);

pub fn answer(
    admin: &Admin,
    peer: &Peer,
    request: Request<Content>,
) -> impl Future<Output = Response<ReplyBody>> + Send + use<> {
    let who = Who {
        certified: peer.tls.as_ref().is_some_and(|agreed| agreed.certified),
        is_local: peer.address.is_loopback(),
    };
    answered(admin.clone(), who, request)
}

/// What a connection says of who asks.
#[derive(Clone, Copy)]
struct Who {
    /// By a certificate of `admin_tls.client_ca`.
    certified: bool,
    /// From this very machine.
    is_local: bool,
}

async fn answered(admin: Admin, who: Who, request: Request<Content>) -> Response<ReplyBody> {
    let setup = admin.proxy.setup();
    let (head, content) = request.into_parts();
    let path = percent_decode_str(head.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let asked = (&head.method, path.as_str());
    let (operation, rest) = match find(asked, &setup, who, &head.headers) {
        Ok(found) => found,
        Err(told) => return as_json(told),
    };
    let query = Parameters(head.uri.query());
    let body = match operation {
        Operation::Set | Operation::Purge | Operation::Explain | Operation::Warm => {
            match whole(content).await {
                Ok(body) => body,
                Err(told) => return as_json(told),
            }
        }
        _ => Bytes::new(),
    };
    as_json(match operation {
        Operation::Page => return page(setup.config.admin_token.is_some() && !who.certified),
        Operation::OpenApi => return text("application/json", OPENAPI.into()),
        Operation::Metrics => {
            return text(
                metrics::CONTENT_TYPE,
                metrics::exposition(&admin.proxy).into(),
            );
        }
        Operation::Entry => match looking::entry(&setup, rest, query).await {
            looking::Looked::Body(body) => return text("application/json", body),
            looking::Looked::Told(told) => told,
        },
        Operation::Healthy => (StatusCode::OK, json!({ "status": "ok" })),
        Operation::Ready => looking::ready(&admin.proxy, &setup, *admin.draining.borrow()),
        Operation::Overview => (StatusCode::OK, value(metrics::overview(&admin.proxy))),
        Operation::Keys => looking::keys(&setup, query).await,
        Operation::Families => looking::families(&setup, query).await,
        Operation::Purges => looking::purges(query),
        Operation::Set => changing::set(&setup, rest, body).await,
        Operation::Purge => changing::purge(&setup, &body).await,
        Operation::PurgePath => {
            // As it stands: what is read of it depends on how it is spelt.
            changing::purge_path(&setup, head.uri.path(), &head.headers).await
        }
        Operation::Explain => changing::explain(&setup, &body).await,
        Operation::Warm => {
            let (proxy, listen) = (&admin.proxy, admin.listen);
            changing::warm(&setup, proxy.certificates.clone(), listen, &body).await
        }
        Operation::Reload => changing::reload(admin.proxy.clone()).await,
    })
}

/// What is asked for, and the rest of its path; or why not.
fn find<'p>(
    (method, path): (&Method, &'p str),
    setup: &Setup,
    who: Who,
    fields: &HeaderMap,
) -> Result<(Operation, &'p str), Told> {
    let named = served(method, path);
    let needs = named.map_or(Needs::Token, |(_, _, needs)| needs);
    if needs != Needs::Nothing && !(who.certified || is_allowed(setup, who, fields)) {
        return Err((
            StatusCode::UNAUTHORIZED,
            json!({ "detail": "send `Authorization: Bearer TOKEN` with the `admin_token` of proxy.yaml, or show a certificate of `admin_tls.client_ca`" }),
        ));
    }
    if needs != Needs::Nothing && !is_named_here(setup, fields) {
        return Err((
            StatusCode::MISDIRECTED_REQUEST,
            json!({ "detail": "without `admin_token` this listener is asked as localhost or by its address: else a page of a site whose name leads here could ask it" }),
        ));
    }
    let Some((operation, rest, _)) = named else {
        let all: Vec<String> = SERVED
            .iter()
            .map(|(method, path, ..)| format!("{method} {path}"))
            .collect();
        let detail = format!("there is: {}", all.join(", "));
        return Err((StatusCode::NOT_FOUND, json!({ "detail": detail })));
    };
    if needs == Needs::TokenAndJson && !is_json(fields) {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            json!({ "detail": "send `Content-Type: application/json`" }),
        ));
    }
    Ok((operation, rest))
}

fn served<'p>(method: &Method, path: &'p str) -> Option<(Operation, &'p str, Needs)> {
    let method = match *method {
        Method::HEAD => "GET",
        ref other => other.as_str(),
    };
    SERVED
        .iter()
        .filter(|(of, ..)| *of == method)
        .find_map(|(_, pattern, operation, needs)| {
            let rest = match pattern.split_once('{') {
                // A path keeps its first slash.
                Some(("/", _)) => Some(path),
                Some((start, _)) => path.strip_prefix(start),
                None => (path == *pattern).then_some(""),
            };
            rest.map(|rest| (*operation, rest, *needs))
        })
}

/// The parameters of a query.
#[derive(Clone, Copy)]
struct Parameters<'q>(Option<&'q str>);

impl Parameters<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.0?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })?;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    fn number(&self, name: &str, otherwise: usize, most: usize) -> usize {
        let number = self.get(name).and_then(|value| value.parse().ok());
        number.unwrap_or(otherwise).min(most)
    }
}

fn failed(error: &OperationError) -> Told {
    let status = match error {
        OperationError::Unknown(_) => StatusCode::BAD_REQUEST,
        OperationError::Held => StatusCode::CONFLICT,
        OperationError::StoreAway | OperationError::NotKept(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, json!({ "detail": error.to_string() }))
}

/// Compared as hashes, which takes the same time wherever they differ.
fn is_allowed(setup: &Setup, who: Who, fields: &HeaderMap) -> bool {
    let Some(token) = &setup.config.admin_token else {
        // Where certificates are taken, one is needed if there is no token. Where neither is, the file has `admin` on loopback; but
        // a socket that was passed on may be elsewhere.
        return !takes_certificates(setup) && who.is_local;
    };
    let given = fields
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| blake3::hash(given) == blake3::hash(token.expose().as_bytes()))
}

fn takes_certificates(setup: &Setup) -> bool {
    let tls = setup.config.admin_tls.as_ref();
    tls.is_some_and(|tls| tls.client_ca.is_some())
}

/// DNS rebinding: to a browser a page of a name that leads to this machine is of the same origin as what is answered here.
/// It has no token and no certificate; where none is asked for, such a name is nobody's.
fn is_named_here(setup: &Setup, fields: &HeaderMap) -> bool {
    if setup.config.admin_token.is_some() || takes_certificates(setup) {
        return true;
    }
    let host = fields.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = host.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
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

async fn whole(content: Content) -> Result<Bytes, Told> {
    let read = Limited::new(content, LARGEST).collect();
    let Ok(read) = tokio::time::timeout(LONGEST, read).await else {
        let detail = json!({ "detail": "the content took too long to arrive" });
        return Err((StatusCode::REQUEST_TIMEOUT, detail));
    };
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err((
            StatusCode::BAD_REQUEST,
            json!({ "detail": error.to_string() }),
        )),
    }
}

fn value(told: impl serde::Serialize) -> Value {
    serde_json::to_value(told).unwrap_or_default()
}

fn as_json((status, told): Told) -> Response<ReplyBody> {
    let mut response = text("application/json", format!("{told}\n").into());
    *response.status_mut() = status;
    response
}

fn text(kind: &'static str, text: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(text));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// It knows from the start whether to ask for the token, and so is never refused.
fn page(asks_for_token: bool) -> Response<ReplyBody> {
    let html = match asks_for_token {
        true => PAGE.replacen("<html", "<html data-token", 1).into(),
        false => PAGE.into(),
    };
    let mut response = text("text/html; charset=utf-8", html);
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_MAY),
    );
    fields.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_served_is_described_and_what_is_described_is_served() {
        let told: Value = serde_json::from_str(OPENAPI).expect("the description is JSON");
        let mut described = BTreeSet::new();
        for (path, item) in told["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let mut add = |method: &str, operation: &Value| {
                    assert!(operation["summary"].is_string(), "{method} {path}");
                    assert!(operation["responses"].is_object(), "{method} {path}");
                    let open = operation["security"] == json!([]);
                    described.insert((method.to_uppercase(), path.clone(), open));
                };
                match method.as_str() {
                    "additionalOperations" => {
                        let others = operation.as_object().unwrap();
                        others.iter().for_each(|(name, of)| add(name, of));
                    }
                    "parameters" => {}
                    method => add(method, operation),
                }
            }
        }
        let served: BTreeSet<_> = SERVED
            .iter()
            .map(|(method, path, _, needs)| {
                let open = *needs == Needs::Nothing;
                ((*method).to_owned(), (*path).to_owned(), open)
            })
            .collect();
        assert_eq!(described, served);
    }

    #[test]
    fn a_key_is_the_rest_of_its_path_and_a_path_keeps_its_slash() {
        let of = |method: &str, path| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            served(&method, path).map(|(operation, rest, _)| (operation, rest))
        };
        assert_eq!(of("GET", "/keys"), Some((Operation::Keys, "")));
        assert_eq!(of("HEAD", "/healthz"), Some((Operation::Healthy, "")));
        assert_eq!(
            of("GET", "/entries/users:list"),
            Some((Operation::Entry, "users:list"))
        );
        assert_eq!(
            of("GET", "/entries//api/users/"),
            Some((Operation::Entry, "/api/users/"))
        );
        let path = "/api/users/7/";
        assert_eq!(of("PURGE", path), Some((Operation::PurgePath, path)));
        assert_eq!(of("GET", "/keys/"), None);
        assert_eq!(of("DELETE", "/keys"), None);
    }
}
