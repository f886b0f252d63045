//! What does each room on a hit's way cost by itself? `cargo bench --bench rooms`, in the order of the way.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri, Version};
use larder::caching::cache_status::Handling;
use larder::caching::directives::Directives;
use larder::caching::freshness::Exchange;
use larder::caching::head::Head;
use larder::caching::key::HashingSecret;
use larder::caching::reuse::{Terms, reuse};
use larder::caching::stored::Stored;
use larder::caching::storing::{self, Policy};
use larder::clock::{self, Timestamp};
use larder::coherence::{Epoch, States};
use larder::config::{Config, file};
use larder::message::forwarded::{self, Scheme};
use larder::message::target::{self, TargetUri};
use larder::metrics::OfRoute;
use larder::proxy::plan::{self, Plan};
use larder::proxy::present::{self, Asked, Presented};
use larder::proxy::{Client, Served};
use larder::reply::{self, Asking};
use larder::route::Captures;
use larder::store::codec;
use larder::store::memory::Memory;

const SECRET: HashingSecret = HashingSecret([7; 32]);

criterion_group!(
    name = rooms;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = message, route, present, caching, store, reply, counted
);
criterion_main!(rooms);

fn message(criterion: &mut Criterion) {
    let (uri, fields) = (Uri::from_static("/api/users/7/"), fields_of_a_browser());
    criterion.bench_function("message: take the target", |b| {
        b.iter(|| take(black_box(&uri), black_box(&fields)))
    });
}

fn route(criterion: &mut Criterion) {
    let config = config();
    for (name, path) in [
        ("route: the first of two", "/api/users/"),
        ("route: the second of two", "/api/users/7/"),
        ("route: none", "/api/orders/7/"),
    ] {
        let target = take(&Uri::from_static(path), &fields_of_a_browser());
        criterion.bench_function(name, |b| {
            b.iter(|| plan::plan(&config, &Method::GET, black_box(&target), false))
        });
    }
}

fn present(criterion: &mut Criterion) {
    let config = config();
    let anonymous = client("/api/users/7/", fields_of_a_browser());
    let mut fields = fields_of_a_browser();
    fields.insert(header::AUTHORIZATION, HeaderValue::from_static(TOKEN));
    let known = client("/api/users/?page=2&role=admin", fields);
    for (name, client) in [
        ("present: the shared copy", anonymous),
        ("present: by credential and query, hashed", known),
    ] {
        let (route, captures) = planned(&config, &client);
        criterion.bench_function(name, |b| {
            let served = Served::new(&config, &config.routes[route]);
            b.iter(|| asked_of(&config, &served, black_box(&captures), black_box(&client)))
        });
    }
}

fn caching(criterion: &mut Criterion) {
    let now = clock::now();
    let copy = copy(&States::new(), now);
    let mut fields = copy.head.fields();
    fields.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=60, s-maxage=3600"),
    );
    criterion.bench_function("caching: directives", |b| {
        b.iter(|| Directives::of(black_box(&fields)))
    });
    criterion.bench_function("caching: may it be stored", |b| {
        let policy = Policy {
            ttl: Duration::from_secs(3600),
            override_origin: false,
            negative_ttl: None,
            max_body: 4 << 20,
            vary: &[],
            targeted: &[],
            credentials: &[],
        };
        let exchange = Exchange {
            request_time: now,
            response_time: now,
        };
        b.iter(|| {
            let fields = black_box(&fields);
            let nominated = storing::nominated(&policy, fields);
            storing::storable(
                &policy,
                &nominated,
                StatusCode::OK,
                fields,
                Some(300),
                exchange,
            )
        })
    });
    criterion.bench_function("caching: may it be served", |b| {
        b.iter(|| {
            let copy = black_box(&copy);
            copy.is_of("http://api.example.org")
                .then(|| reuse(copy, Terms::default(), now, || 0))
        })
    });
}

fn store(criterion: &mut Criterion) {
    let config = config();
    let client = client("/api/users/7/", fields_of_a_browser());
    let (route, captures) = planned(&config, &client);
    let Asked {
        copy: key, depends, ..
    } = asked(&config, route, &captures, &client);
    let states = depends.states;
    let copy = copy(&states, clock::now());
    criterion.bench_function("store: encode a copy", |b| {
        b.iter(|| codec::encode(key.as_bytes(), black_box(&copy)))
    });
    let value = Bytes::from(codec::encode(key.as_bytes(), &copy));
    criterion.bench_function("store: decode a copy", |b| {
        b.iter(|| codec::decode(key.as_bytes(), black_box(&value), &states))
    });
    let memory = Memory::new(64 << 20);
    memory.open(&states);
    memory.put(&key, Arc::new(copy));
    criterion.bench_function("store: look up in memory", |b| {
        b.iter(|| memory.look_up(black_box(&key), &states, None))
    });
}

fn reply(criterion: &mut Criterion) {
    let now = clock::now();
    let (copy, fields) = (Arc::new(copy(&States::new(), now)), fields_of_a_browser());
    criterion.bench_function("reply: from a copy", |b| {
        b.iter(|| {
            let asking = Asking {
                method: &Method::GET,
                request: &fields,
                encoding: None,
            };
            let handling = Handling::Hit { ttl: 3599 };
            reply::hit(asking, black_box(&copy), handling, now).now_or_never()
        })
    });
}

const TOKEN: &str = "Token 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b";

/// The shipped file.
fn config() -> Config {
    file::parse("proxy.yaml", file::EXAMPLE, &|_| None)
        .expect("the shipped file is right")
        .config
}

fn fields_of_a_browser() -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        (header::HOST, "api.example.org"),
        (
            header::USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        (header::ACCEPT, "application/json, text/plain, */*"),
        (header::ACCEPT_LANGUAGE, "en-GB,en;q=0.5"),
        (header::ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
        (header::REFERER, "https://app.example.org/users"),
        (header::COOKIE, "csrftoken=abcdefghijklmnop; _ga=GA1.1.1.1"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    fields
}

fn take(uri: &Uri, fields: &HeaderMap) -> TargetUri {
    target::take(&Method::GET, uri.clone(), Version::HTTP_11, fields, 8192).expect("a good target")
}

/// What a hit pays for being counted, its clock apart; alone, and beside another core that counts the same.
fn counted(criterion: &mut Criterion) {
    let (counts, hit) = (Arc::new(OfRoute::new()), Handling::Hit { ttl: 3599 });
    let took = Duration::from_micros(80);
    let count = |counts: &OfRoute| counts.answered(black_box(hit), StatusCode::OK, black_box(took));
    criterion.bench_function("counted: the clock, twice", |b| {
        b.iter(|| clock::stopwatch().elapsed())
    });
    criterion.bench_function("counted: a hit", |b| b.iter(|| count(&counts)));
    let (over, beside) = (Arc::new(AtomicBool::new(false)), counts.clone());
    let ended = over.clone();
    let other = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            beside.answered(hit, StatusCode::OK, took);
        }
    });
    criterion.bench_function("counted: a hit, beside another", |b| {
        b.iter(|| count(&counts))
    });
    over.store(true, Ordering::Relaxed);
    other.join().expect("it ends");
}

fn client(target: &'static str, fields: HeaderMap) -> Client {
    Client {
        method: Method::GET,
        target: take(&Uri::from_static(target), &fields),
        via: forwarded::read(&fields, None, Scheme::Http, &[]),
        fields: fields.into(),
        version: http::Version::HTTP_11,
        interim: None,
        notes: None,
        head: None,
    }
}

fn planned(config: &Config, client: &Client) -> (usize, Captures) {
    match plan::plan(config, &client.method, &client.target, false) {
        Plan::Read { route, captures } => (route, captures),
        other => panic!("not a read: {other:?}"),
    }
}

fn asked(config: &Config, route: usize, captures: &Captures, client: &Client) -> Asked {
    let served = Served::new(config, &config.routes[route]);
    asked_of(config, &served, captures, client)
}

fn asked_of(config: &Config, served: &Served, captures: &Captures, client: &Client) -> Asked {
    match present::present(config, served, captures, client, &[], &SECRET, None) {
        Presented::Asked(asked) => asked,
        Presented::Pass(_) | Presented::Unverified | Presented::Refused(_) => {
            panic!("not to be looked up")
        }
    }
}

/// 300 bytes from Django.
fn copy(states: &States, now: Timestamp) -> Stored {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("vary", "Accept, Cookie"),
        ("allow", "GET, PUT, PATCH, DELETE, HEAD, OPTIONS"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("date", "Mon, 23 Nov 2026 12:00:00 GMT"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    let epoch = Epoch::new(now, Default::default(), 7);
    Stored {
        status: StatusCode::OK,
        head: Head::new(fields, "http://api.example.org", &[]),
        body: vec![b'x'; 300].into(),
        response_time: now,
        took: Duration::ZERO,
        initial_age: Duration::ZERO,
        lifetime: Duration::from_secs(3600),
        epochs: states.iter().map(|state| (state.clone(), epoch)).collect(),
    }
}
