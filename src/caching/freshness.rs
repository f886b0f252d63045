//! How old a stored response is and how long it may be used. RFC 9111 §4.2.

use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderMap};

use super::directives::{Directives, Seconds};
use super::targeted::{By, Said};
use crate::clock::Timestamp;
use crate::message::date;

/// When the request left and its answer came: what ages are reckoned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    pub request_time: Timestamp,
    pub response_time: Timestamp,
}

/// §4.2.3 `corrected_initial_age`: how old the answer was when it came.
pub fn initial_age(exchange: Exchange, fields: &HeaderMap) -> Duration {
    let apparent_age = date::of(fields, &header::DATE, exchange.response_time)
        .map_or(Duration::ZERO, |date| exchange.response_time.since(date));
    let response_delay = exchange.response_time.since(exchange.request_time);
    apparent_age.max(age_value(fields) + response_delay)
}

/// §5.1: the first member of the first Age line; not all digits: ignored.
fn age_value(fields: &HeaderMap) -> Duration {
    let first = fields.get(header::AGE).map(|age| {
        age.as_bytes()
            .split(|&b| b == b',')
            .next()
            .unwrap_or_default()
            .trim_ascii()
    });
    match first
        .filter(|text| !text.starts_with(b"\""))
        .map(|text| super::directives::seconds(Some(text)))
    {
        Some(Seconds::Valid(seconds)) => Duration::from_secs(seconds),
        Some(Seconds::Invalid) | None => Duration::ZERO,
    }
}

/// What the origin itself says of an answer's lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginLifetime {
    /// Nothing: the route's ttl decides.
    Unsaid,
    Said(Duration),
    /// Something that cannot be understood: not to be stored.
    Bad,
}

/// §4.2.1: s-maxage, else max-age, else Expires − Date.
pub fn origin_lifetime(
    directives: &Directives,
    fields: &HeaderMap,
    exchange: Exchange,
) -> OriginLifetime {
    match directives.s_maxage.or(directives.max_age) {
        Some(Seconds::Valid(seconds)) => return OriginLifetime::Said(Duration::from_secs(seconds)),
        Some(Seconds::Invalid) => return OriginLifetime::Bad,
        None => {}
    }
    if !fields.contains_key(header::EXPIRES) {
        return OriginLifetime::Unsaid;
    }
    // §5.3: exactly one valid line, measured against the origin's own Date; anything else has expired.
    let now = exchange.response_time;
    let date = date::of(fields, &header::DATE, now).unwrap_or(now);
    let expires = date::of(fields, &header::EXPIRES, now);
    OriginLifetime::Said(expires.map_or(Duration::ZERO, |expires| expires.since(date)))
}

/// The same by whichever field counts.
pub fn explicit(said: &Said, fields: &HeaderMap, exchange: Exchange) -> OriginLifetime {
    match said.by {
        By::CacheControl => origin_lifetime(&said.directives, fields, exchange),
        // RFC 9213 §2.2: Expires is as if it was not there.
        By::Target => origin_lifetime(&said.directives, &HeaderMap::new(), exchange),
    }
}

/// How long an answer is fresh under `policy: http`, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The origin says so, if only that it is stale.
    Explicit(Duration),
    /// §4.2.2: guessed from Last-Modified.
    Heuristic(Duration),
    Unknown,
}

impl Lifetime {
    pub fn span(self) -> Duration {
        match self {
            Lifetime::Explicit(span) | Lifetime::Heuristic(span) => span,
            Lifetime::Unknown => Duration::ZERO,
        }
    }
}

/// §4.2.1, by the origin alone. What it says and cannot be understood is stale. `most`: the longest lifetime to guess, if any.
pub fn by_origin(
    said: &Said,
    status: StatusCode,
    fields: &HeaderMap,
    exchange: Exchange,
    most: Option<Duration>,
) -> Lifetime {
    match explicit(said, fields, exchange) {
        OriginLifetime::Said(lifetime) => Lifetime::Explicit(lifetime),
        OriginLifetime::Bad => Lifetime::Explicit(Duration::ZERO),
        OriginLifetime::Unsaid if is_heuristically_cacheable(status) || said.directives.public => {
            most.and_then(|most| guessed(fields, exchange, most))
                .map_or(Lifetime::Unknown, Lifetime::Heuristic)
        }
        OriginLifetime::Unsaid => Lifetime::Unknown,
    }
}

/// §4.2.2: a tenth of the time since the last change, as of Date.
fn guessed(fields: &HeaderMap, exchange: Exchange, most: Duration) -> Option<Duration> {
    let now = exchange.response_time;
    let date = date::of(fields, &header::DATE, now).unwrap_or(now);
    let last_modified = date::of(fields, &header::LAST_MODIFIED, now)?;
    Some((date.since(last_modified) / 10).min(most))
}

/// RFC 9110 §15.1.
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(request: u64, response: u64) -> Exchange {
        let at = |s: u64| Timestamp::from_micros(s * 1_000_000);
        Exchange {
            request_time: at(request),
            response_time: at(response),
        }
    }

    fn map(lines: &[(header::HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.clone(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn an_answer_is_as_old_as_its_date_its_age_or_the_time_it_took_say() {
        let at_100 = "Thu, 01 Jan 1970 00:01:40 GMT";
        assert_eq!(
            initial_age(exchange(100, 103), &HeaderMap::new()),
            Duration::from_secs(3)
        );
        assert_eq!(
            initial_age(exchange(100, 103), &map(&[(header::AGE, "7, 9")])),
            Duration::from_secs(10)
        );
        assert_eq!(
            initial_age(exchange(130, 133), &map(&[(header::DATE, at_100)])),
            Duration::from_secs(33)
        );
        assert_eq!(
            initial_age(exchange(50, 51), &map(&[(header::DATE, at_100)])),
            Duration::from_secs(1),
            "a Date ahead of us"
        );
        assert_eq!(
            initial_age(exchange(100, 100), &map(&[(header::AGE, "x")])),
            Duration::ZERO
        );
    }

    #[test]
    fn s_maxage_wins_over_max_age_over_expires() {
        let lifetime = |lines: &[(header::HeaderName, &str)]| {
            let fields = map(lines);
            origin_lifetime(&Directives::of(&fields), &fields, exchange(100, 100))
        };
        let said = |s| OriginLifetime::Said(Duration::from_secs(s));
        let expires = (header::EXPIRES, "Thu, 01 Jan 1970 00:02:00 GMT");
        assert_eq!(lifetime(&[]), OriginLifetime::Unsaid);
        assert_eq!(
            lifetime(&[
                (header::CACHE_CONTROL, "max-age=1, s-maxage=2"),
                expires.clone()
            ]),
            said(2)
        );
        assert_eq!(
            lifetime(&[(header::CACHE_CONTROL, "max-age=1"), expires.clone()]),
            said(1)
        );
        assert_eq!(lifetime(std::slice::from_ref(&expires)), said(20));
        assert_eq!(lifetime(&[expires.clone(), expires.clone()]), said(0));
        assert_eq!(lifetime(&[(header::EXPIRES, "0")]), said(0));
        assert_eq!(
            lifetime(&[(header::CACHE_CONTROL, "max-age=-1"), expires]),
            OriginLifetime::Bad
        );
    }

    #[test]
    fn under_policy_http_the_origin_says_or_it_is_guessed() {
        let (last, day) = (
            (header::LAST_MODIFIED, "Thu, 01 Jan 1970 00:00:00 GMT"),
            Duration::from_secs(86_400),
        );
        let said = |status: u16, lines: &[(header::HeaderName, &str)], most| {
            let fields = map(lines);
            let said = crate::caching::targeted::said(
                &fields,
                &[header::HeaderName::from_static("cdn-cache-control")],
            );
            by_origin(
                &said,
                StatusCode::from_u16(status).unwrap(),
                &fields,
                exchange(1000, 1000),
                most,
            )
        };
        let (explicit, seconds) = (
            |s| Lifetime::Explicit(Duration::from_secs(s)),
            Duration::from_secs,
        );
        let expires = (header::EXPIRES, "Thu, 01 Jan 1970 00:20:00 GMT");
        let targeted = |value| (header::HeaderName::from_static("cdn-cache-control"), value);
        for (lines, expected) in [
            (&[(header::CACHE_CONTROL, "max-age=5")][..], explicit(5)),
            (
                &[(header::CACHE_CONTROL, "max-age=x"), expires.clone()],
                explicit(0),
            ),
            (std::slice::from_ref(&expires), explicit(200)),
            (&[targeted("max-age=7"), expires.clone()], explicit(7)),
            (&[targeted("foo"), expires.clone()], Lifetime::Unknown),
            (&[targeted("&"), expires.clone()], explicit(200)),
            (
                std::slice::from_ref(&last),
                Lifetime::Heuristic(seconds(100)),
            ),
            (&[], Lifetime::Unknown),
        ] {
            assert_eq!(said(200, lines, Some(day)), expected, "{lines:?}");
        }
        let last = std::slice::from_ref(&last);
        assert_eq!(
            said(200, last, Some(seconds(9))),
            Lifetime::Heuristic(seconds(9)),
            "capped"
        );
        assert_eq!(
            said(200, last, None),
            Lifetime::Unknown,
            "nothing is guessed"
        );
        assert_eq!(said(201, last, Some(day)), Lifetime::Unknown);
    }

    proptest::proptest! {
        #[test]
        fn age_never_decreases_and_is_never_less_than_was_said(
            (date, age) in (proptest::option::of(0u64..4_000), proptest::option::of(0u64..4_000)),
            (request, took, first, then) in (0u64..2_000, 0u64..50, 0u64..2_000, 0u64..2_000),
        ) {
            let mut fields = HeaderMap::new();
            if let Some(date) = date {
                fields.insert(header::DATE, date::format(Timestamp::from_micros(date * 1_000_000)));
            }
            if let Some(age) = age {
                fields.insert(header::AGE, age.into());
            }
            let exchange = exchange(request, request + took);
            let stored = crate::caching::stored::Stored {
                status: StatusCode::OK,
                head: crate::caching::head::Head::new(fields.clone(), "http://h", &[]),
                body: Default::default(),
                response_time: exchange.response_time,
                took: Duration::ZERO,
                initial_age: initial_age(exchange, &fields),
                lifetime: Duration::ZERO,
                epochs: Default::default(),
            };
            let at = |seconds| stored.age(exchange.response_time.plus(Duration::from_secs(seconds)));
            proptest::prop_assert!(at(first) <= at(first + then));
            proptest::prop_assert!(at(0) >= Duration::from_secs(age.unwrap_or(0) + took));
        }
    }
}
