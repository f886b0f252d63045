//! What may be kept, and for how long. Input: the status; then field lines of an answer.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use larder::caching::freshness::{self, Exchange};
use larder::caching::origin::{self, Asked, Choices};
use larder::caching::storing::{self, Policy};
use larder::caching::targeted::{self, By};
use larder::caching::variance;
use larder::clock::Timestamp;
use url::Url;

const TARGETED: HeaderName = HeaderName::from_static("cdn-cache-control");

pub fn holds(data: &[u8]) {
    let mut lines = super::lines(data);
    let status = lines.next().map(StatusCode::from_bytes);
    let status = status.and_then(Result::ok).unwrap_or(StatusCode::OK);
    let fields = super::fields(lines);
    let _ = variance::nominated(&fields);
    for override_origin in [false, true] {
        by_ttl(override_origin, status, &fields);
    }
    for set_cookie in [false, true] {
        by_origin(set_cookie, status, &fields);
    }
}

fn by_ttl(override_origin: bool, status: StatusCode, fields: &HeaderMap) {
    let targets = [TARGETED];
    let policy = Policy {
        ttl: Duration::from_secs(3600),
        override_origin,
        negative_ttl: Some(Duration::from_secs(10)),
        max_body: 1000,
        vary: &[],
        targeted: &targets,
        credentials: &[],
    };
    let kept = |fields: &HeaderMap| {
        let length = fields.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let nominated = storing::nominated(&policy, fields);
        storing::storable(&policy, &nominated, status, fields, length, exchange())
    };
    let storable = kept(fields);
    if let Ok(storable) = &storable {
        assert!(!fields.contains_key(header::SET_COOKIE));
        assert!(!matches!(status.as_u16(), 206 | 304 | 400 | 405 | 412..=414 | 416 | 431 | 500..));
        let validated = storable.lifetime.is_zero();
        assert!(validated || storable.lifetime > storable.initial_age);
    }
    for (name, value) in [
        ("cache-control", "no-store"),
        ("cache-control", "private"),
        ("cache-control", "no-cache"),
        ("cache-control", "max-age=x"),
        ("set-cookie", "a=b"),
        ("vary", "*"),
    ] {
        for more in spellings(fields, name, value) {
            let stricter = kept(&more);
            // `no-cache` may allow more than its own form with names: to be kept, and never used unasked.
            let made = stricter.as_ref().is_ok_and(|kept| !kept.lifetime.is_zero());
            assert!(
                !made || storable.is_ok(),
                "{name}: {value} made it storable: {fields:?}"
            );
            let binds = name != "cache-control"
                || targeted::said(fields, &targets).by == By::CacheControl
                    && matches!(value, "no-store" | "private");
            assert!(
                !binds || stricter.is_err(),
                "kept despite {name}: {value}: {more:?}"
            );
        }
    }
    // What is older is not kept for longer.
    if let (Ok(young), Ok(old)) = (&storable, kept(&aged(fields))) {
        assert!(old.lifetime <= young.lifetime.max(policy.ttl));
        assert!(old.initial_age >= young.initial_age || fields.contains_key(header::AGE));
    }
}

fn by_origin(set_cookie: bool, status: StatusCode, fields: &HeaderMap) {
    let choices = Choices {
        targeted: vec![TARGETED],
        heuristic: Some(Duration::from_secs(86_400)),
        set_cookie,
        parts: true,
        client_directives: false,
        stale_if_error: Duration::ZERO,
    };
    let target = Url::parse("http://api.example.org/api/users/").expect("a URL");
    for (method, authorization) in [
        (Method::GET, false),
        (Method::GET, true),
        (Method::POST, false),
    ] {
        let mut request = HeaderMap::new();
        if authorization {
            request.insert(
                header::AUTHORIZATION,
                HeaderValue::from_static("Token secret"),
            );
        }
        let asked = Asked {
            method: &method,
            target: &target,
            fields: &request,
        };
        let kept =
            |fields: &HeaderMap| origin::keepable(&choices, &asked, status, fields, exchange());
        let keepable = kept(fields).is_ok();
        for (name, value) in [
            ("cache-control", "no-store"),
            ("cache-control", "private"),
            ("cache-control", "no-cache"),
            ("set-cookie", "a=b"),
            ("vary", "*"),
        ] {
            for more in spellings(fields, name, value) {
                // `no-cache` may be what makes an answer explicit: kept, and never used unasked.
                let made = kept(&more).is_ok_and(|kept| !kept.terms.validate_always) && !keepable;
                assert!(!made, "{name}: {value} made it storable: {fields:?}");
            }
        }
    }
    let _ = freshness::by_origin(
        &targeted::said(fields, &choices.targeted),
        status,
        fields,
        exchange(),
        choices.heuristic,
    );
}

/// The line before all others, behind them, and in one line with the first.
fn spellings(fields: &HeaderMap, name: &'static str, value: &'static str) -> Vec<HeaderMap> {
    let name = HeaderName::from_static(name);
    let mut behind = fields.clone();
    behind.append(&name, HeaderValue::from_static(value));
    let mut before = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
    for (other, value) in fields {
        before.append(other, value.clone());
    }
    let mut all = vec![behind, before];
    let mut within = fields.clone();
    if let Some(first) = within.get_mut(&name) {
        let joined = [value.as_bytes(), b", ", first.as_bytes()].concat();
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            *first = joined;
            all.push(within);
        }
    }
    all
}

fn aged(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    fields.insert(header::AGE, HeaderValue::from_static("7"));
    fields
}

fn exchange() -> Exchange {
    Exchange {
        request_time: Timestamp::from_micros(1_795_000_000_000_000),
        response_time: Timestamp::from_micros(1_795_000_001_000_000),
    }
}
