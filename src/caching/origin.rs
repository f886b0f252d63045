//! May this answer be kept, by its origin's word alone? RFC 9111 §3, under `policy: http`.
//! (`storing` says it for a route with a `ttl`, by the operator's.)

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use url::Url;

use super::cache_status::Reason;
use super::directives::{Directives, RequestDirectives};
use super::freshness::{self, Exchange, Lifetime};
use super::stored::{Freshness, Stored};
use super::storing::speaks_of_the_request;
use super::targeted;
use super::variance::{self, Nominated};
use crate::clock::Timestamp;
use crate::message::conditions::CONDITIONS;

/// What the RFC leaves to whoever runs the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// The fields that are read in place of Cache-Control (RFC 9213), the first that is there.
    pub targeted: Vec<HeaderName>,
    /// §4.2.2: the longest lifetime that may be guessed from Last-Modified; `None`: none is guessed.
    pub heuristic: Option<Duration>,
    /// Whether an answer with Set-Cookie may be kept.
    pub set_cookie: bool,
    /// Whether parts (206) are kept.
    pub parts: bool,
    /// Whether what a request's Cache-Control asks for counts.
    pub client_directives: bool,
    /// How long after its time an answer may stand in for an error, where the origin does not say.
    pub stale_if_error: Duration,
}

/// The request that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'r> {
    pub method: &'r Method,
    pub target: &'r Url,
    pub fields: &'r HeaderMap,
}

/// An answer that may be kept, and how it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepable {
    pub lifetime: Duration,
    pub initial_age: Duration,
    pub terms: Terms,
    /// By what a request selects it.
    pub nominated: Vec<HeaderName>,
}

/// How a stored response may be used, apart from its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// §5.2.2.4: not without asking the origin, however fresh.
    pub validate_always: bool,
    /// §4.2.4: never stale, whatever a client or the operator would take.
    pub never_stale: bool,
    /// RFC 5861 §3.
    pub while_revalidate: Duration,
    /// RFC 5861 §4.
    pub if_error: Duration,
}

impl Terms {
    pub fn of(choices: &Choices, directives: &Directives) -> Terms {
        let never_stale = directives.forbid_stale();
        let window = |seconds: Option<super::directives::Seconds>| match never_stale {
            true => Some(Duration::ZERO),
            false => seconds.map(|seconds| seconds.valid().unwrap_or_default()),
        };
        Terms {
            validate_always: directives.no_cache,
            never_stale,
            while_revalidate: window(directives.stale_while_revalidate).unwrap_or_default(),
            if_error: window(directives.stale_if_error).unwrap_or(choices.stale_if_error),
        }
    }
}

/// What a valid stored response is good for now, for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Fresh {
        left: Duration,
    },
    /// Stale, and served; `refresh`: the origin is asked in the background.
    Stale {
        stale: Duration,
        refresh: bool,
    },
    /// The origin is asked first.
    Ask,
}

/// §4.2 and §5.2.1, RFC 5861 §3.
pub fn usable(
    choices: &Choices,
    stored: &Stored,
    wants: &RequestDirectives,
    now: Timestamp,
) -> Use {
    let age = stored.age(now);
    let too_old = wants.max_age.is_some_and(|most| age > most);
    if wants.no_cache || wants.no_store {
        return Use::Ask;
    }
    match stored.freshness(now) {
        Freshness::Fresh { left }
            if too_old || wants.min_fresh.is_some_and(|least| left < least) =>
        {
            Use::Ask
        }
        Freshness::Fresh { left } => Use::Fresh { left },
        Freshness::Stale { stale } => {
            let terms = terms(choices, stored);
            let accepted = wants.max_stale.is_some_and(|most| stale <= most);
            let undemanding = wants.max_age.is_none() && wants.min_fresh.is_none();
            match () {
                () if terms.never_stale || too_old => Use::Ask,
                () if terms.while_revalidate > stale && undemanding => Use::Stale {
                    stale,
                    refresh: true,
                },
                () if accepted => Use::Stale {
                    stale,
                    refresh: false,
                },
                () => Use::Ask,
            }
        }
    }
}

/// RFC 5861 §4: whether it may stand in for an origin that cannot be reached or answers 500, 502, 503 or 504. An error
/// stands in for none.
pub fn stands_in(choices: &Choices, stored: &Stored, now: Timestamp) -> bool {
    let terms = terms(choices, stored);
    let may = match stored.freshness(now) {
        Freshness::Fresh { .. } => !terms.validate_always,
        Freshness::Stale { stale } => terms.if_error > stale && !terms.never_stale,
    };
    may && !stored.status.is_server_error()
}

fn terms(choices: &Choices, stored: &Stored) -> Terms {
    let said = targeted::said(&stored.head.fields(), &choices.targeted);
    Terms::of(choices, &said.directives)
}

/// Decides by the request, status, fields and times.
pub fn keepable(
    choices: &Choices,
    asked: &Asked,
    status: StatusCode,
    fields: &HeaderMap,
    exchange: Exchange,
) -> Result<Keepable, Reason> {
    let said = targeted::said(fields, &choices.targeted);
    let directives = &said.directives;
    if choices.client_directives && RequestDirectives::of(asked.fields).no_store {
        return Err(Reason::NoStore);
    }
    if !is_kept_at_all(choices, directives, status) || is_of_one_request(asked.fields, status) {
        return Err(Reason::Status);
    }
    // §5.2.2.3: for who understands the status, must-understand takes no-store back.
    if directives.no_store && !(directives.must_understand && is_understood(status)) {
        return Err(Reason::NoStore);
    }
    if directives.private {
        return Err(Reason::Private);
    }
    if fields.contains_key(header::SET_COOKIE) && !choices.set_cookie {
        return Err(Reason::SetCookie);
    }
    // §3.5
    if asked.fields.contains_key(header::AUTHORIZATION)
        && !(directives.public || directives.s_maxage.is_some() || directives.must_revalidate)
    {
        return Err(Reason::Authorization);
    }
    let Nominated::Fields(nominated) = variance::nominated(fields) else {
        return Err(Reason::VaryUnkeyed);
    };
    let lifetime = freshness::by_origin(&said, status, fields, exchange, choices.heuristic);
    match *asked.method {
        Method::GET => {}
        Method::POST if answers_a_get(asked.target, status, fields, lifetime) => {}
        _ => return Err(Reason::Method),
    }
    // §3, the last condition: the answer says that it may be kept, or its status does.
    if !matches!(lifetime, Lifetime::Explicit(_))
        && !directives.public
        && !freshness::is_heuristically_cacheable(status)
    {
        return Err(Reason::Status);
    }
    let terms = Terms::of(choices, directives);
    let keepable = Keepable {
        // What is to be validated before each use is never fresh.
        lifetime: match terms.validate_always {
            true => Duration::ZERO,
            false => lifetime.span(),
        },
        initial_age: freshness::initial_age(exchange, fields),
        terms,
        nominated,
    };
    match keepable.is_of_use(status, fields) {
        true => Ok(keepable),
        false if directives.no_cache => Err(Reason::NoCache),
        false => Err(Reason::Stale),
    }
}

impl Keepable {
    /// How long it is worth keeping once it is stale.
    pub fn keep_stale(&self, status: StatusCode, fields: &HeaderMap) -> Duration {
        const A_DAY: Duration = Duration::from_secs(86_400);
        const FOR_WHO_TAKES_IT: Duration = Duration::from_secs(3600);
        let windows = self.terms.while_revalidate.max(self.terms.if_error);
        match super::validation::can_be_validated(status, fields) {
            true => windows.max(A_DAY),
            false if self.terms.never_stale => Duration::ZERO,
            false => windows.max(FOR_WHO_TAKES_IT),
        }
    }

    /// Fresh for a while, or can be validated, or may stand in when it is stale.
    fn is_of_use(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        let fresh = self.lifetime > self.initial_age && !self.terms.validate_always;
        let stands_in = self.lifetime + self.terms.if_error.max(self.terms.while_revalidate)
            > self.initial_age
            && !self.terms.never_stale;
        fresh || stands_in || super::validation::can_be_validated(status, fields)
    }
}

/// §3: a final status; a part only if parts are kept; with must-understand only what is understood.
fn is_kept_at_all(choices: &Choices, directives: &Directives, status: StatusCode) -> bool {
    match status {
        _ if status.is_informational() => false,
        StatusCode::NOT_MODIFIED => false,
        StatusCode::PARTIAL_CONTENT => choices.parts,
        _ => !directives.must_understand || is_understood(status),
    }
}

/// Whether it may be about this one request, of which no key holds what it is about, and not about the target: the error that
/// comes to conditions or a range (RFC 9110 §13, §14), and whatever speaks of the request itself.
fn is_of_one_request(asked: &HeaderMap, status: StatusCode) -> bool {
    let says_so = speaks_of_the_request(status);
    let is_error = status.as_u16() >= 400;
    let has = |name: &HeaderName| asked.contains_key(name);
    says_so || is_error && (has(&header::RANGE) || CONDITIONS.iter().any(has))
}

/// The statuses of RFC 9110 that a cache can keep by what they say.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=206 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

/// RFC 9110 §9.3.3: the answer to a POST stands for a later GET only if it says so by Content-Location, and for how long.
fn answers_a_get(target: &Url, status: StatusCode, fields: &HeaderMap, lifetime: Lifetime) -> bool {
    let mut locations = fields.get_all(header::CONTENT_LOCATION).iter();
    let is_the_target = match (locations.next(), locations.next()) {
        (Some(location), None) => location
            .to_str()
            .is_ok_and(|location| target.join(location).is_ok_and(|url| url == *target)),
        _ => false,
    };
    status.is_success()
        && status != StatusCode::PARTIAL_CONTENT
        && is_the_target
        && matches!(lifetime, Lifetime::Explicit(_))
}

/// §3.1: the fields to keep, with a Date and without Age, and without those that no-cache="…" names and what a
/// proxy says of itself.
pub fn kept_fields(choices: &Choices, fields: &HeaderMap, exchange: Exchange) -> HeaderMap {
    const OF_A_PROXY: [HeaderName; 3] = [
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("proxy-authentication-info"),
    ];
    let mut kept = super::storing::kept_fields(fields.clone(), exchange);
    let said = targeted::said(fields, &choices.targeted);
    for name in said.directives.no_cache_fields.iter().chain(&OF_A_PROXY) {
        kept.remove(name);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const LAST_MODIFIED: (&str, &str) = ("last-modified", "Mon, 24 Nov 2025 00:00:00 GMT");
    const DATE: (&str, &str) = ("date", "Tue, 25 Nov 2025 00:00:00 GMT");
    /// The Date above.
    const NOW: Timestamp = Timestamp::from_micros(1_764_028_800_000_000);

    fn choices() -> Choices {
        Choices {
            targeted: vec![HeaderName::from_static("cdn-cache-control")],
            heuristic: Some(Duration::from_secs(86_400)),
            set_cookie: true,
            parts: true,
            client_directives: true,
            stale_if_error: Duration::ZERO,
        }
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap()))
            .collect()
    }

    const EXCHANGE: Exchange = Exchange {
        request_time: NOW,
        response_time: NOW,
    };

    fn decide(
        choices: &Choices,
        (method, request): (&str, &[(&str, &str)]),
        status: u16,
        lines: &[(&str, &str)],
    ) -> Result<Keepable, Reason> {
        let asked = Asked {
            method: &Method::from_bytes(method.as_bytes()).unwrap(),
            target: &Url::parse("http://h/a?b=1").unwrap(),
            fields: &map(request),
        };
        keepable(
            choices,
            &asked,
            StatusCode::from_u16(status).unwrap(),
            &map(lines),
            EXCHANGE,
        )
    }

    fn lifetime(status: u16, lines: &[(&str, &str)]) -> Result<u64, Reason> {
        decide(&choices(), ("GET", &[]), status, lines).map(|kept| kept.lifetime.as_secs())
    }

    #[test]
    fn a_get_of_any_final_status_is_kept_if_the_origin_says_how_long() {
        for status in [
            200, 201, 203, 204, 206, 299, 301, 302, 303, 307, 308, 400, 401, 404, 410, 499, 500,
            502, 503, 504, 599, 999,
        ] {
            assert_eq!(
                lifetime(status, &[("cache-control", "max-age=5")]),
                Ok(5),
                "{status}"
            );
        }
        for status in [304, 102] {
            assert_eq!(
                lifetime(status, &[("cache-control", "max-age=5")]),
                Err(Reason::Status),
                "{status}"
            );
        }
    }

    #[test]
    fn what_is_said_of_one_request_is_not_kept() {
        let fresh = [("cache-control", "max-age=5, public")];
        for status in [
            407, 408, 411, 412, 413, 415, 416, 417, 425, 428, 429, 431, 511,
        ] {
            assert_eq!(lifetime(status, &fresh), Err(Reason::Status), "{status}");
        }
        for name in CONDITIONS.iter().chain(&[header::RANGE]) {
            let with = |status| {
                let request = ("GET", &[(name.as_str(), "x")][..]);
                decide(&choices(), request, status, &fresh).map(|_| ())
            };
            for status in [400, 404, 410, 500, 503, 999] {
                assert_eq!(with(status), Err(Reason::Status), "{status} to {name}");
            }
            for status in [200, 203, 206, 301] {
                assert_eq!(with(status), Ok(()), "{status} to {name}");
            }
        }
    }

    #[test]
    fn a_heuristically_cacheable_status_is_kept_for_a_tenth_of_its_age() {
        for status in [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(
                lifetime(status, &[LAST_MODIFIED, DATE]),
                Ok(8640),
                "{status}"
            );
        }
        for status in [
            201, 202, 302, 303, 307, 400, 401, 403, 500, 502, 503, 504, 599,
        ] {
            assert_eq!(
                lifetime(status, &[LAST_MODIFIED, DATE]),
                Err(Reason::Status),
                "{status}"
            );
            let public = ("cache-control", "public");
            assert_eq!(
                lifetime(status, &[LAST_MODIFIED, DATE, public]),
                Ok(8640),
                "{status} public"
            );
        }
    }

    #[test]
    fn without_freshness_and_without_a_validator_nothing_is_kept() {
        assert_eq!(lifetime(200, &[]), Err(Reason::Stale));
        assert_eq!(
            lifetime(200, &[("cache-control", "max-age=0")]),
            Err(Reason::Stale)
        );
        assert_eq!(
            lifetime(200, &[("cache-control", "max-age=x"), LAST_MODIFIED, DATE]),
            Ok(0),
            "to be validated"
        );
        assert_eq!(
            lifetime(200, &[("cache-control", "max-age=5"), ("age", "5")]),
            Err(Reason::Stale)
        );
        assert_eq!(
            lifetime(200, &[("etag", "\"a\"")]),
            Ok(0),
            "to be validated"
        );
    }

    #[test]
    fn what_the_origin_forbids_is_not_kept() {
        let fresh = ("cache-control", "max-age=5");
        for (lines, expected) in [
            (&[fresh, ("cache-control", "No-StOrE")][..], Reason::NoStore),
            (&[fresh, ("cache-control", "private")], Reason::Private),
            (&[fresh, ("vary", "*")], Reason::VaryUnkeyed),
            (&[fresh, ("vary", "a, *")], Reason::VaryUnkeyed),
            (&[fresh, ("cdn-cache-control", "no-store")], Reason::NoStore),
            (&[fresh, ("cdn-cache-control", "private")], Reason::Private),
            (&[fresh, ("cdn-cache-control", "no-cache")], Reason::NoCache),
            (&[("cache-control", "no-cache, max-age=5")], Reason::NoCache),
        ] {
            assert_eq!(lifetime(200, lines), Err(expected), "{lines:?}");
        }
        let overruled = [
            ("cache-control", "no-store"),
            ("cdn-cache-control", "max-age=7"),
        ];
        assert_eq!(
            lifetime(200, &overruled),
            Ok(7),
            "the targeted field alone decides"
        );
        let no_cache = decide(
            &choices(),
            ("GET", &[]),
            200,
            &[("cache-control", "no-cache"), ("etag", "\"a\"")],
        );
        assert!(
            no_cache.unwrap().terms.validate_always,
            "kept, but validated before each use"
        );
    }

    #[test]
    fn must_understand_takes_no_store_back_where_the_status_is_understood() {
        let said = [("cache-control", "max-age=5, no-store, must-understand")];
        assert_eq!(lifetime(200, &said), Ok(5));
        assert_eq!(lifetime(404, &said), Ok(5));
        assert_eq!(lifetime(599, &said), Err(Reason::Status));
        assert_eq!(
            lifetime(599, &[("cache-control", "max-age=5, must-understand")]),
            Err(Reason::Status)
        );
    }

    #[test]
    fn what_was_asked_with_authorization_is_kept_only_where_the_origin_shares_it() {
        let with = |said: &str| {
            let answer = decide(
                &choices(),
                ("GET", &[("authorization", "a")]),
                200,
                &[("cache-control", said)],
            );
            answer.map(|kept| kept.lifetime.as_secs())
        };
        assert_eq!(with("max-age=5"), Err(Reason::Authorization));
        for said in [
            "max-age=5, public",
            "max-age=5, must-revalidate",
            "s-maxage=5",
        ] {
            assert_eq!(with(said), Ok(5), "{said}");
        }
        assert_eq!(
            with("max-age=5, proxy-revalidate"),
            Err(Reason::Authorization)
        );
    }

    #[test]
    fn a_request_with_no_store_leaves_nothing_if_clients_are_heeded() {
        let (fresh, request) = (
            [("cache-control", "max-age=5")],
            ("GET", &[("cache-control", "no-store")][..]),
        );
        assert_eq!(
            decide(&choices(), request, 200, &fresh),
            Err(Reason::NoStore)
        );
        let deaf = Choices {
            client_directives: false,
            ..choices()
        };
        assert!(decide(&deaf, request, 200, &fresh).is_ok());
        let cookie = ("GET", &[("cookie", "a=b")][..]);
        assert!(
            decide(&choices(), cookie, 200, &fresh).is_ok(),
            "a Cookie does not by itself prevent reuse"
        );
    }

    #[test]
    fn a_post_answers_later_gets_only_if_it_says_so_and_for_how_long() {
        let here = ("content-location", "/a?b=1");
        let fresh = ("cache-control", "max-age=5");
        let post = |status, lines: &[(&str, &str)]| {
            decide(&choices(), ("POST", &[]), status, lines).map(|_| ())
        };
        assert_eq!(post(200, &[here, fresh]), Ok(()));
        assert_eq!(
            post(201, &[("content-location", "http://h/a?b=1"), fresh]),
            Ok(())
        );
        for (status, lines) in [
            (200, &[fresh][..]),
            (200, &[("content-location", "/a"), fresh]),
            (200, &[("content-location", "http://other/a?b=1"), fresh]),
            (200, &[here, here, fresh]),
            (200, &[here, LAST_MODIFIED, DATE]),
            (404, &[here, fresh]),
        ] {
            assert_eq!(post(status, lines), Err(Reason::Method), "{lines:?}");
        }
        for method in ["HEAD", "PUT", "DELETE", "FOO"] {
            assert_eq!(
                decide(&choices(), (method, &[]), 200, &[here, fresh]),
                Err(Reason::Method)
            );
        }
    }

    #[test]
    fn what_the_rfc_leaves_open_is_the_operators_choice() {
        let fresh = ("cache-control", "max-age=5");
        let safe = Choices {
            targeted: vec![],
            heuristic: None,
            set_cookie: false,
            parts: false,
            client_directives: false,
            stale_if_error: Duration::ZERO,
        };
        let decide = |status, lines: &[(&str, &str)]| {
            decide(&safe, ("GET", &[]), status, lines).map(|kept| kept.lifetime.as_secs())
        };
        assert_eq!(
            decide(200, &[fresh, ("set-cookie", "a=b")]),
            Err(Reason::SetCookie)
        );
        assert_eq!(decide(206, &[fresh]), Err(Reason::Status));
        assert_eq!(
            decide(200, &[fresh, ("cdn-cache-control", "max-age=7")]),
            Ok(5)
        );
        assert_eq!(
            decide(200, &[LAST_MODIFIED, DATE]),
            Ok(0),
            "to be validated"
        );
    }

    #[test]
    fn how_stale_it_may_be_used_is_the_origins_word_and_else_the_operators() {
        let terms = |said: &str| {
            let choices = Choices {
                stale_if_error: Duration::from_secs(60),
                ..choices()
            };
            let kept = decide(&choices, ("GET", &[]), 200, &[("cache-control", said)])
                .unwrap()
                .terms;
            (
                kept.while_revalidate.as_secs(),
                kept.if_error.as_secs(),
                kept.never_stale,
            )
        };
        for (said, expected) in [
            ("max-age=5", (0, 60, false)),
            ("max-age=5, stale-while-revalidate=7", (7, 60, false)),
            ("max-age=5, stale-if-error=8", (0, 8, false)),
            ("max-age=5, stale-if-error=0", (0, 0, false)),
            ("max-age=5, stale-if-error=x", (0, 0, false)),
            (
                "max-age=5, must-revalidate, stale-while-revalidate=7, stale-if-error=8",
                (0, 0, true),
            ),
            ("max-age=5, proxy-revalidate", (0, 0, true)),
            ("s-maxage=5", (0, 0, true)),
        ] {
            assert_eq!(terms(said), expected, "{said}");
        }
    }

    #[test]
    fn fields_that_no_cache_names_and_those_of_a_proxy_are_not_kept() {
        let fields = map(&[
            ("cache-control", "max-age=5, no-cache=\"a, B\""),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("age", "4"),
            ("proxy-authenticate", "x"),
            ("proxy-authentication-info", "x"),
            ("proxy-authorization", "x"),
            DATE,
        ]);
        let kept = kept_fields(&choices(), &fields, EXCHANGE);
        let expected = map(&[
            ("cache-control", "max-age=5, no-cache=\"a, B\""),
            ("c", "3"),
            DATE,
        ]);
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_a_client_asks_for_and_what_the_origin_allows_decide_together() {
        let seconds = Duration::from_secs;
        let stored = |said: &str, lifetime| Stored {
            status: StatusCode::OK,
            head: crate::caching::head::Head::new(map(&[("cache-control", said)]), "http://h", &[]),
            body: Default::default(),
            response_time: NOW,
            took: Duration::ZERO,
            initial_age: seconds(10),
            lifetime: seconds(lifetime),
            epochs: Default::default(),
        };
        let (fresh, stale) = (Use::Fresh { left: seconds(90) }, |refresh| Use::Stale {
            stale: seconds(5),
            refresh,
        });
        for (said, lifetime, wants, expected) in [
            ("", 100, "", fresh),
            ("", 100, "max-age=10", fresh),
            ("", 100, "max-age=9", Use::Ask),
            ("", 100, "min-fresh=90", fresh),
            ("", 100, "min-fresh=91", Use::Ask),
            ("", 100, "no-cache", Use::Ask),
            ("", 100, "no-store", Use::Ask),
            ("", 5, "", Use::Ask),
            ("", 5, "max-stale=4", Use::Ask),
            ("", 5, "max-stale=5", stale(false)),
            ("", 5, "max-stale", stale(false)),
            ("", 5, "max-stale, max-age=9", Use::Ask),
            ("must-revalidate", 5, "max-stale", Use::Ask),
            ("s-maxage=5", 5, "max-stale", Use::Ask),
            ("no-cache", 5, "max-stale", Use::Ask),
            ("stale-while-revalidate=6", 5, "", stale(true)),
            ("stale-while-revalidate=5", 5, "", Use::Ask),
            (
                "stale-while-revalidate=6, proxy-revalidate",
                5,
                "",
                Use::Ask,
            ),
            ("stale-while-revalidate=6", 5, "max-age=20", Use::Ask),
            ("stale-while-revalidate=6", 5, "no-cache", Use::Ask),
        ] {
            let wants = RequestDirectives::of(&map(&[("cache-control", wants)]));
            let found = usable(&choices(), &stored(said, lifetime), &wants, NOW);
            assert_eq!(found, expected, "{said:?} {lifetime} {wants:?}");
        }
        for (said, status, expected) in [
            ("stale-if-error=6", 200, true),
            ("stale-if-error=5", 200, false),
            ("", 200, false),
            ("stale-if-error=6, must-revalidate", 200, false),
            ("stale-if-error=6", 503, false),
        ] {
            let stored = Stored {
                status: StatusCode::from_u16(status).unwrap(),
                ..stored(said, 5)
            };
            assert_eq!(
                stands_in(&choices(), &stored, NOW),
                expected,
                "{said} {status}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn adding_no_store_or_private_never_makes_storable(
            said in "(max-age=[0-9]{1,3}|public|s-maxage=9|no-cache|must-revalidate|must-understand|x=\"a)?(, (max-age=[0-9]{1,3}|public|must-understand|foo))?",
            targeted in proptest::option::of("(max-age=9|no-store|foo|&)"),
            status in 200u16..600,
            authorization in proptest::bool::ANY,
        ) {
            let request: &[(&str, &str)] = if authorization { &[("authorization", "a")] } else { &[] };
            let with = |said: &str| {
                let mut lines = vec![("cache-control", said), ("etag", "\"a\"")];
                lines.extend(targeted.as_deref().map(|line| ("cdn-cache-control", line)));
                decide(&choices(), ("GET", request), status, &lines).is_ok()
            };
            for word in ["no-store", "private"] {
                proptest::prop_assert!(!with(&format!("{word}, {said}")) || with(&said), "{}, {}", word, said);
            }
        }
    }
}
