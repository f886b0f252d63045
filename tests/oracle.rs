//! The rules of `policy: http` beside those of another implementation, the crate http-cache-semantics: how long is a response
//! fresh for, when it comes? Over all combinations of what an origin may say, each difference has one of the reasons below,
//! and each reason is needed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName};
use http::{Method, Request, Response, StatusCode};
use http_cache_semantics::CachePolicy;
use larder::caching::freshness::Exchange;
use larder::caching::origin::{Asked, Choices, keepable};
use larder::clock::Timestamp;
use url::Url;

/// Tue, 25 Nov 2025 00:00:00 GMT
const NOW: u64 = 1_764_028_800;

const CACHE_CONTROL: [&str; 32] = [
    "",
    "foo",
    "max-age=60",
    "MAX-AGE=60",
    "max-age=0",
    "max-age=0060",
    "max-age=\"60\"",
    "max-age='60'",
    "max-age=-1",
    "max-age=1.5",
    "max-age=x",
    "max-age",
    "max-age=99999999999",
    "max-age=60, max-age=30",
    "s-maxage=30, max-age=60",
    "s-maxage=x, max-age=60",
    "public",
    "public, max-age=60",
    "private, max-age=60",
    "no-store, max-age=60",
    "No-Store, max-age=60",
    "no-cache, max-age=60",
    "no-cache=\"a\", max-age=60",
    "must-revalidate, max-age=60",
    "proxy-revalidate, max-age=60",
    "must-understand, no-store, max-age=60",
    "must-understand, max-age=60",
    "x=\"a, no-store\", max-age=60",
    "x=\"a, max-age=9\", max-age=60",
    "immutable",
    "immutable, max-age=60",
    "stale-while-revalidate=9, max-age=60",
];

const OTHER: [&[(&str, &str)]; 18] = [
    &[],
    &[("expires", "Tue, 25 Nov 2025 00:02:00 GMT")],
    &[("expires", "Tue, 25 Nov 2025 00:00:00 GMT")],
    &[("expires", "Mon, 24 Nov 2025 00:00:00 GMT")],
    &[("expires", "0")],
    &[("expires", "Tue, 25 Nov 2025 00:02:00 UTC")],
    &[("expires", "Tuesday, 25-Nov-25 00:02:00 GMT")],
    &[("expires", "Tue Nov 25 00:02:00 2025")],
    &[("expires", "Tue, 25 Nov 2025 00:02:00 +0000")],
    &[
        ("expires", "Tue, 25 Nov 2025 00:02:00 GMT"),
        ("expires", "Tue, 25 Nov 2025 00:02:00 GMT"),
    ],
    &[("last-modified", "Mon, 24 Nov 2025 00:00:00 GMT")],
    &[("last-modified", "Tue, 25 Nov 2014 00:00:00 GMT")],
    &[("last-modified", "yesterday")],
    &[
        ("pragma", "no-cache"),
        ("last-modified", "Mon, 24 Nov 2025 00:00:00 GMT"),
    ],
    &[("vary", "*")],
    &[("vary", "Accept, *")],
    &[("vary", "Accept")],
    &[("set-cookie", "a=b")],
];

const AGES: [&[(&str, &str)]; 6] = [
    &[("date", "Tue, 25 Nov 2025 00:00:00 GMT")],
    &[("date", "Tue, 25 Nov 2025 00:00:00 GMT"), ("age", "20")],
    &[("date", "Tue, 25 Nov 2025 00:00:00 GMT"), ("age", "20, 0")],
    &[("date", "Tue, 25 Nov 2025 00:00:00 GMT"), ("age", "x")],
    &[("date", "Mon, 24 Nov 2025 23:59:50 GMT")],
    &[],
];

const STATUSES: [u16; 10] = [200, 201, 206, 301, 302, 404, 418, 500, 599, 999];

struct Case {
    cache_control: &'static str,
    status: u16,
    authorization: bool,
    fields: HeaderMap,
}

/// Why the two may differ, and where.
type Reason = (&'static str, fn(&Case) -> bool);

const REASONS: [Reason; 17] = [
    (
        "we keep a status that we do not know, if the origin says for how long; it does not",
        |case| matches!(case.status, 201 | 206 | 418 | 500 | 599 | 999) || case.status == 302,
    ),
    (
        "names of directives have no case; to it they have",
        |case| {
            case.cache_control
                .bytes()
                .any(|byte| byte.is_ascii_uppercase())
        },
    ),
    (
        "of a directive said twice the smaller value counts; to it the first",
        |case| case.cache_control == "max-age=60, max-age=30",
    ),
    (
        "text within quotes is no directive; it splits at every comma",
        |case| case.cache_control.contains("\"a, "),
    ),
    (
        "no-cache with fields is about these fields; to it, about all",
        |case| case.cache_control.contains("no-cache="),
    ),
    (
        "proxy-revalidate is about what is stale; it takes it for stale",
        |case| case.cache_control.contains("proxy-revalidate"),
    ),
    (
        "must-understand takes no-store back; it does not know it",
        |case| case.cache_control.contains("must-understand, no-store"),
    ),
    (
        "max-age without a value is wrong, and so stale; it goes on to Expires",
        |case| case.cache_control == "max-age",
    ),
    (
        "immutable says nothing of how long; it guesses a day",
        |case| case.cache_control == "immutable",
    ),
    (
        "lifetimes are clamped at 2^31 (RFC 9111 §1.2.2); its are not",
        |case| case.cache_control.contains("99999999999"),
    ),
    (
        "the two obsolete forms of a date are dates, and other zones are none; it reads RFC 2822",
        |case| {
            case.has("expires", |line| {
                line.ends_with('0')
                    || line.ends_with("2025")
                    || line.ends_with("UTC")
                    || line.starts_with("Tuesday")
            })
        },
    ),
    ("two Expires are none; it takes the first", |case| {
        case.fields.get_all("expires").iter().count() > 1
    }),
    (
        "a guessed lifetime is a day at most, as we are told; its is not bounded",
        |case| case.has("last-modified", |line| line.contains("2014")),
    ),
    (
        "Pragma in a response means nothing (RFC 9111 §5.4); to it no-cache",
        |case| case.fields.contains_key("pragma"),
    ),
    (
        "Set-Cookie may be kept where we are told so; it wants `public`",
        |case| case.fields.contains_key("set-cookie"),
    ),
    (
        "an Age of several members counts by its first, and an old Date counts; it knows neither",
        |case| {
            case.has("age", |line| line.contains(','))
                || case.has("date", |line| line.starts_with("Mon"))
        },
    ),
    (
        "a star among others matches no request; it knows only a lone one",
        |case| case.has("vary", |line| line == "Accept, *"),
    ),
];

impl Case {
    fn has(&self, name: &str, holds: impl Fn(&str) -> bool) -> bool {
        self.fields
            .get(name)
            .is_some_and(|line| holds(line.to_str().unwrap()))
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::get("http://h/a").body(()).unwrap();
        if self.authorization {
            request
                .headers_mut()
                .insert("authorization", "a".parse().unwrap());
        }
        request
    }

    fn ours(&self) -> u64 {
        let at = Timestamp::from_micros(NOW * 1_000_000);
        let choices = Choices {
            targeted: vec![],
            heuristic: Some(Duration::from_secs(86_400)),
            set_cookie: true,
            parts: true,
            client_directives: true,
            stale_if_error: Duration::ZERO,
        };
        let (url, request) = (Url::parse("http://h/a").unwrap(), self.request());
        let asked = Asked {
            method: &Method::GET,
            target: &url,
            fields: request.headers(),
        };
        let exchange = Exchange {
            request_time: at,
            response_time: at,
        };
        let status = StatusCode::from_u16(self.status).unwrap();
        keepable(&choices, &asked, status, &self.fields, exchange).map_or(0, |kept| {
            kept.lifetime.saturating_sub(kept.initial_age).as_secs()
        })
    }

    fn theirs(&self) -> u64 {
        let mut response = Response::builder().status(self.status).body(()).unwrap();
        *response.headers_mut() = self.fields.clone();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let policy = CachePolicy::new_options(&self.request(), &response, now, Default::default());
        match policy.is_storable() {
            true => policy.time_to_live(now).as_secs(),
            false => 0,
        }
    }
}

#[test]
fn every_difference_to_another_implementation_has_a_reason_and_every_reason_is_needed() {
    let (mut needed, mut compared, mut differ) = (BTreeMap::new(), 0, 0);
    for cache_control in CACHE_CONTROL {
        for (other, age) in OTHER
            .iter()
            .flat_map(|other| AGES.iter().map(move |age| (other, age)))
        {
            for (status, authorization) in STATUSES
                .iter()
                .flat_map(|status| [(*status, false), (*status, true)])
            {
                let mut fields = HeaderMap::new();
                let said = (!cache_control.is_empty()).then_some(("cache-control", cache_control));
                for (name, value) in said.iter().chain(*other).chain(*age) {
                    fields.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
                }
                let case = Case {
                    cache_control,
                    status,
                    authorization,
                    fields,
                };
                let (ours, theirs) = (case.ours(), case.theirs());
                compared += 1;
                if ours == theirs {
                    continue;
                }
                differ += 1;
                let why: Vec<&str> = REASONS
                    .iter()
                    .filter(|(_, holds)| holds(&case))
                    .map(|(why, _)| *why)
                    .collect();
                assert!(
                    !why.is_empty(),
                    "{ours} and {theirs}: {status} {authorization} {:?}",
                    case.fields
                );
                if let [only] = why[..] {
                    *needed.entry(only).or_insert(0) += 1;
                }
            }
        }
    }
    println!("{compared} compared, {differ} differ");
    for (why, _) in REASONS {
        let times = needed.get(why).copied().unwrap_or(0);
        println!("{times:6}  {why}");
        assert!(times > 0, "never the only reason: {why}");
    }
}
