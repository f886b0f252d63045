//! May this answer be kept, and for how long? RFC 9111 §3, under a route with a `ttl`
//! (an operator's word where the origin says nothing: DRF sends no Cache-Control at all).

use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};

use super::cache_status::Reason;
use super::directives::are_readable;
use super::freshness::{self, Exchange, OriginLifetime};
use super::stored::is_negative;
use super::targeted::{self, By};
use super::validation::can_be_validated;
use crate::message::accept::is_event_stream;
use crate::message::date;
use crate::message::fields::{X_REQUEST_ID, is_ours, list_members};

/// What of a route's word bears on storing.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'r> {
    pub ttl: Duration,
    pub override_origin: bool,
    /// How long a 404 or 410 is kept; `None`: never.
    pub negative_ttl: Option<Duration>,
    pub max_body: u64,
    /// Request fields that the route's key always holds.
    pub vary: &'r [HeaderName],
    /// The fields that are read in place of Cache-Control (RFC 9213), the first that is there.
    pub targeted: &'r [HeaderName],
    /// Fields that hold a credential, beside Authorization.
    pub credentials: &'r [HeaderName],
}

/// An answer that may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storable {
    pub lifetime: Duration,
    /// The route's, and not the origin's.
    pub lifetime_is_ours: bool,
    pub initial_age: Duration,
    /// Fields that the answer varies by and that the key must therefore hold.
    pub varied: Vec<HeaderName>,
}

/// The fields by which a key may come to split once an answer is seen to vary by them.
pub static LEARNABLE: [HeaderName; 2] = [header::ACCEPT_LANGUAGE, header::ORIGIN];

/// Decides by status, fields and times; `content_length` is `None` where the body's end is not announced, and `nominated` what
/// its Vary says.
pub fn storable(
    policy: &Policy,
    nominated: &Nominated,
    status: StatusCode,
    fields: &HeaderMap,
    content_length: Option<u64>,
    exchange: Exchange,
) -> Result<Storable, Reason> {
    let said = targeted::said(fields, policy.targeted);
    let directives = &said.directives;
    // What concerns one client alone comes first: an answer that is not storable for its *status* may be
    // shared with those who wait for it, one that is not for its *fields* never.
    if fields.contains_key(header::SET_COOKIE) {
        return Err(Reason::SetCookie);
    }
    if grants(policy.credentials, fields) {
        return Err(Reason::Credential);
    }
    if directives.no_store {
        return Err(Reason::NoStore);
    }
    if directives.private {
        return Err(Reason::Private);
    }
    if nominated.anything || !nominated.unkeyed.is_empty() {
        return Err(Reason::VaryUnkeyed);
    }
    if is_event_stream(fields) {
        return Err(Reason::EventStream);
    }
    let ttl = ttl_of(policy, status)?;
    if fields
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .flat_map(list_members)
        .any(|c| !c.eq_ignore_ascii_case("identity"))
    {
        return Err(Reason::Encoded);
    }
    if content_length.is_some_and(|length| length > policy.max_body) {
        return Err(Reason::TooLarge);
    }
    let initial_age = freshness::initial_age(exchange, fields);
    let storable = |lifetime, lifetime_is_ours| Storable {
        lifetime,
        lifetime_is_ours,
        initial_age,
        varied: nominated.learnable.clone(),
    };
    if directives.no_cache && !policy.override_origin && can_be_validated(status, fields) {
        // Never fresh: the origin is asked before each use, and need not send it again.
        return Ok(storable(Duration::ZERO, false));
    }
    let (lifetime, ours) = match (freshness::explicit(&said, fields, exchange), ttl) {
        (_, Some(ttl)) if policy.override_origin => (ttl, true),
        _ if directives.no_cache || !directives.no_cache_fields.is_empty() => {
            return Err(Reason::NoCache);
        }
        _ if said.by == By::CacheControl && !are_readable(fields) => {
            return Err(Reason::BadFreshness);
        }
        (OriginLifetime::Unsaid, Some(ttl)) => (ttl, true),
        (OriginLifetime::Unsaid, None) => return Err(Reason::Status),
        (OriginLifetime::Said(lifetime), _) => (lifetime, false),
        (OriginLifetime::Bad, _) => return Err(Reason::BadFreshness),
    };
    match lifetime > initial_age {
        true => Ok(storable(lifetime, ours)),
        false => Err(Reason::Stale),
    }
}

/// Whether an answer hands its client a credential, as an API does that renews tokens by the way.
fn grants(credentials: &[HeaderName], fields: &HeaderMap) -> bool {
    static GRANTING: [HeaderName; 3] = [
        header::AUTHORIZATION,
        HeaderName::from_static("authentication-info"),
        HeaderName::from_static("proxy-authentication-info"),
    ];
    let mut granting = GRANTING.iter().chain(credentials);
    granting.any(|name| fields.contains_key(name))
}

/// How long an answer of this status is kept where the origin says nothing; `None`: it must say. An error or a redirect
/// that is kept by mistake outlives its cause.
fn ttl_of(policy: &Policy, status: StatusCode) -> Result<Option<Duration>, Reason> {
    match status.as_u16() {
        200 | 203 | 204 => Ok(Some(policy.ttl)),
        206 => Err(Reason::Status),
        201..=299 | 301..=303 | 307 | 308 => Ok(None),
        _ if is_negative(status) => policy.negative_ttl.map(Some).ok_or(Reason::Status),
        _ => Err(Reason::Status),
    }
}

/// What Vary nominates, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nominated {
    /// The key comes to hold these.
    pub learnable: Vec<HeaderName>,
    /// No key holds these, and no fill carries them.
    pub unkeyed: Vec<HeaderName>,
    /// `*`, or something that is no field name.
    pub anything: bool,
}

/// Reads Vary. Accept is always in the key, Accept-Encoding is asked as identity, Cookie and Authorization are
/// in the credential's partition or not sent at all.
pub fn nominated(policy: &Policy, fields: &HeaderMap) -> Nominated {
    static SATISFIED: [HeaderName; 4] = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::COOKIE,
        header::AUTHORIZATION,
    ];
    let mut found = Nominated::default();
    for line in fields.get_all(header::VARY) {
        found.anything |= line.to_str().is_err();
        for member in list_members(line) {
            match HeaderName::from_bytes(member.as_bytes()) {
                _ if member == "*" => found.anything = true,
                Err(_) => found.anything = true,
                Ok(name) if SATISFIED.contains(&name) || policy.vary.contains(&name) => {}
                Ok(name) if LEARNABLE.contains(&name) => found.learnable.push(name),
                Ok(name) => found.unkeyed.push(name),
            }
        }
    }
    found.learnable.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    found.learnable.dedup();
    found
}

/// What is to be done about answers that vary by these.
pub fn remedy(unkeyed: &[impl AsRef<str>]) -> String {
    let named = |name: &&str| HeaderName::from_bytes(name.as_bytes());
    let names: Vec<&str> = unkeyed.iter().map(AsRef::as_ref).collect();
    let ours: Vec<&str> = names
        .iter()
        .filter(|name| named(name).is_ok_and(|name| is_ours(&name)))
        .copied()
        .collect();
    match ours.is_empty() {
        true => format!("add `vary: [{}]` to the route", names.join(", ")),
        false => format!(
            "{} is Larder's own word to the API, and no key can hold it: let the API vary by something else",
            ours.join(", ")
        ),
    }
}

/// May an answer that is not stored go to others who asked the same and were waiting? Not where its status is about who
/// asked: a throttle counts by address, and others have their own.
pub fn shareable(reason: Reason, status: StatusCode) -> bool {
    reason == Reason::Status && !speaks_of_the_request(status)
}

/// Whether a status speaks of a request's content, fields, pace or connection (RFC 9110 §15.5; RFC 6585 §3 to §6 forbids to
/// store its own; RFC 8470 §5.2), and not of the target.
pub(super) fn speaks_of_the_request(status: StatusCode) -> bool {
    matches!(status.as_u16(), 407 | 408 | 411..=413 | 415..=417 | 425 | 428 | 429 | 431 | 511)
}

/// The fields to keep: end to end, with a Date (RFC 9110 §6.6.1), without Age.
pub fn kept_fields(mut kept: HeaderMap, exchange: Exchange) -> HeaderMap {
    kept.remove(header::AGE);
    // What the exchange was called that fetched it: none of those who are given it later had that one.
    kept.remove(X_REQUEST_ID);
    if !kept.contains_key(header::DATE) {
        kept.insert(header::DATE, date::format(exchange.response_time));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const TARGET: HeaderName = HeaderName::from_static("cdn-cache-control");
    const CREDENTIAL: HeaderName = HeaderName::from_static("x-auth-token");

    fn decide(status: u16, lines: &[(&str, &str)]) -> Result<Storable, Reason> {
        let fields: HeaderMap = lines
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_bytes(n.as_bytes()).unwrap(),
                    v.parse().unwrap(),
                )
            })
            .collect();
        let policy = Policy {
            ttl: Duration::from_secs(3600),
            override_origin: false,
            negative_ttl: None,
            max_body: 1000,
            vary: &[],
            targeted: &[TARGET],
            credentials: &[CREDENTIAL],
        };
        let at = Timestamp::from_micros(100_000_000);
        let length = fields
            .get(header::CONTENT_LENGTH)
            .map(|l| l.to_str().unwrap().parse().unwrap());
        storable(
            &policy,
            &nominated(&policy, &fields),
            StatusCode::from_u16(status).unwrap(),
            &fields,
            length,
            Exchange {
                request_time: at,
                response_time: at,
            },
        )
    }

    fn lifetime(lines: &[(&str, &str)]) -> Result<u64, Reason> {
        decide(200, lines).map(|storable| storable.lifetime.as_secs())
    }

    #[test]
    fn nobody_is_advised_to_split_by_what_larder_writes_itself() {
        assert_eq!(
            remedy(&["x-tenant", "x-zone"]),
            "add `vary: [x-tenant, x-zone]` to the route"
        );
        for name in [
            "X-Forwarded-For",
            "forwarded",
            "x-real-ip",
            "via",
            "host",
            "x-request-id",
            "te",
            "x_tenant",
        ] {
            assert!(
                remedy(&["x-tenant", name]).starts_with(&format!("{name} is Larder's own")),
                "{name}"
            );
        }
    }

    #[test]
    fn where_the_origin_says_nothing_the_routes_ttl_counts() {
        assert_eq!(lifetime(&[]), Ok(3600));
        assert_eq!(
            lifetime(&[("vary", "Accept, Cookie"), ("etag", "\"a\"")]),
            Ok(3600)
        );
    }

    #[test]
    fn an_answer_that_hands_out_a_credential_is_not_kept() {
        for name in [
            "authorization",
            "Authentication-Info",
            "proxy-authentication-info",
            "x-auth-token",
        ] {
            assert_eq!(lifetime(&[(name, "x")]), Err(Reason::Credential), "{name}");
        }
        assert!(!shareable(Reason::Credential, StatusCode::OK));
    }

    #[test]
    fn what_is_said_of_the_request_is_for_nobody_else() {
        for status in [408, 413, 417, 425, 429, 431] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(!shareable(Reason::Status, status), "{status}");
        }
        for status in [401, 403, 404, 500, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(shareable(Reason::Status, status), "{status}");
        }
    }

    #[test]
    fn an_explicit_directive_of_the_origin_wins_over_the_routes_ttl() {
        assert_eq!(lifetime(&[("cache-control", "max-age=60")]), Ok(60));
        assert_eq!(
            lifetime(&[("cache-control", "max-age=60"), ("age", "30")]),
            Ok(60)
        );
        assert_eq!(
            lifetime(&[("cache-control", "max-age=60"), ("age", "60")]),
            Err(Reason::Stale)
        );
        assert_eq!(
            lifetime(&[("cache-control", "max-age=0")]),
            Err(Reason::Stale)
        );
        assert_eq!(
            lifetime(&[("cache-control", "no-cache")]),
            Err(Reason::NoCache)
        );
        assert_eq!(
            lifetime(&[("cache-control", "max-age=x")]),
            Err(Reason::BadFreshness)
        );
    }

    #[test]
    fn what_concerns_one_client_alone_is_never_kept_whatever_its_status() {
        for status in [200, 404, 500] {
            assert_eq!(
                decide(status, &[("set-cookie", "s=1")]),
                Err(Reason::SetCookie)
            );
            assert_eq!(
                decide(status, &[("cache-control", "no-store, max-age=60")]),
                Err(Reason::NoStore)
            );
            assert_eq!(
                decide(status, &[("cache-control", "Private=\"x\"")]),
                Err(Reason::Private)
            );
        }
    }

    #[test]
    fn an_answer_that_varies_by_what_the_key_cannot_hold_is_not_kept() {
        for vary in [
            "*",
            "Accept, *",
            ", *",
            "User-Agent",
            "Accept, X-Tenant",
            "b\u{e4}d",
        ] {
            assert_eq!(
                lifetime(&[("vary", vary)]),
                Err(Reason::VaryUnkeyed),
                "{vary}"
            );
        }
        assert_eq!(
            decide(
                200,
                &[
                    ("vary", "accept, origin"),
                    ("vary", "Accept-Language, Cookie, ORIGIN")
                ]
            )
            .unwrap()
            .varied,
            [header::ACCEPT_LANGUAGE, header::ORIGIN]
        );
    }

    #[test]
    fn only_a_whole_success_of_bounded_size_in_no_encoding_is_kept_without_a_word() {
        for status in [200, 203, 204] {
            assert!(decide(status, &[]).is_ok(), "{status}");
        }
        for status in [
            201, 206, 301, 302, 304, 400, 401, 403, 404, 405, 410, 414, 431, 500, 501, 503, 599,
        ] {
            assert_eq!(decide(status, &[]), Err(Reason::Status), "{status}");
        }
        assert_eq!(
            lifetime(&[("content-length", "1001")]),
            Err(Reason::TooLarge)
        );
        assert_eq!(
            lifetime(&[("content-encoding", "gzip")]),
            Err(Reason::Encoded)
        );
    }

    #[test]
    fn other_successes_and_redirects_are_kept_if_the_origin_says_for_how_long_and_errors_never() {
        let fresh = [("cache-control", "max-age=60")];
        for status in [200, 201, 203, 204, 299, 301, 302, 303, 307, 308] {
            let storable = decide(status, &fresh).unwrap();
            assert_eq!(storable.lifetime, Duration::from_secs(60), "{status}");
        }
        for status in [
            206, 304, 400, 404, 405, 410, 413, 414, 431, 499, 500, 503, 599,
        ] {
            assert_eq!(decide(status, &fresh), Err(Reason::Status), "{status}");
        }
    }

    #[test]
    fn what_is_to_be_validated_before_each_use_is_kept_if_it_can_be() {
        let no_cache = ("cache-control", "no-cache, max-age=60");
        let kept = lifetime(&[no_cache, ("etag", "\"a\"")]);
        assert_eq!(kept, Ok(0), "never fresh");
        assert_eq!(lifetime(&[no_cache]), Err(Reason::NoCache));
        let named = ("cache-control", "no-cache=\"x\"");
        assert_eq!(lifetime(&[named, ("etag", "\"a\"")]), Err(Reason::NoCache));
    }

    #[test]
    fn a_targeted_field_alone_decides_where_it_is_valid() {
        let (yes, no) = (
            ("cache-control", "max-age=5"),
            ("cache-control", "no-store"),
        );
        let target = |value| ("cdn-cache-control", value);
        assert_eq!(lifetime(&[no, target("max-age=60")]), Ok(60));
        assert_eq!(lifetime(&[yes, target("no-store")]), Err(Reason::NoStore));
        assert_eq!(lifetime(&[yes, target("private")]), Err(Reason::Private));
        assert_eq!(
            lifetime(&[yes, target("max-age=-1")]),
            Err(Reason::BadFreshness)
        );
        assert_eq!(lifetime(&[yes, target("max-age=60,")]), Ok(5), "malformed");
        let expired = ("expires", "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(lifetime(&[expired, target("foo")]), Ok(3600));
    }

    proptest::proptest! {
        #[test]
        fn adding_no_store_or_private_never_makes_storable(other in "[a-z=0-9, \"-]{0,40}", status in 200u16..600) {
            for word in ["no-store", "private"] {
                let value = format!("{word}, {other}");
                proptest::prop_assert!(decide(status, &[("cache-control", &value)]).is_err());
            }
        }
    }
}
