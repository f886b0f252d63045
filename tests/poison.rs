//! Nobody can put an answer where another client reads it, but the one that this client would have got alone.
//! The origin writes into each answer all that it was asked, so whatever got through is in it.

#[path = "poison/cases.rs"]
mod cases;
#[path = "raw/line.rs"]
mod line;
#[macro_use]
mod support;

use std::collections::BTreeSet;

use cases::{LURES, PAIRS, poisoners};
use support::PURGE;
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::redis::RedisServer;

on_both_stores! {
    whatever_is_asked_before_a_reader_gets_what_it_would_have_got_alone
    whatever_is_asked_before_the_origins_word_on_what_it_varies_by_counts
    what_one_was_lured_to_nobody_else_can_read
    two_targets_never_share_an_answer
    an_empty_query_is_none_and_is_asked_for_as_none
}

fn whatever_is_asked_before_a_reader_gets_what_it_would_have_got_alone(store: &str) {
    let (_origin, larder) = telling(store, Policy::Ttl);
    unharmed(&larder);
}

/// Here all fields travel, and what keeps readers apart is the Vary of an origin that names each field it was sent.
fn whatever_is_asked_before_the_origins_word_on_what_it_varies_by_counts(store: &str) {
    let (_origin, larder) = telling(store, Policy::Http);
    unharmed(&larder);
}

/// Each sends what it sends, twice; then comes a reader, and another, who is given a copy.
fn unharmed(larder: &Larder) {
    let alone = larder.get("/api/users/1/").text();
    let mut wrong = Vec::new();
    for (number, poisoner) in poisoners().iter().enumerate() {
        let target = format!("/api/users/{}/", 1000 + number);
        let fields: Vec<(&str, &str)> = poisoner
            .fields
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        let odd = format!("{target}{}", poisoner.suffix);
        // Twice: what the first one left must not be what the second one learns from.
        for _ in 0..2 {
            let _ = larder
                .connect()
                .try_request(poisoner.method, &odd, &fields, poisoner.content);
        }
        let read = larder.get(&target);
        let expected = alone.replace("/api/users/1/", &target);
        if read.status != 200 || read.text() != expected {
            wrong.push(format!("{}: {odd} {fields:?}: {read:?}", poisoner.name));
        }
        let again = larder.get(&target);
        if !again.is_hit() || again.text() != expected {
            wrong.push(format!("{}: {odd}: then {again:?}", poisoner.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn what_one_was_lured_to_nobody_else_can_read(store: &str) {
    for policy in [Policy::Ttl, Policy::Http] {
        let (_origin, larder) = telling(store, policy);
        let mut wrong = Vec::new();
        for base in ["/api/users/", "/api/users/7/", "/api/users/me/"] {
            for suffix in LURES {
                let target = format!("{base}{suffix}");
                for credential in [
                    ("Authorization", "Token secret"),
                    ("Cookie", "sessionid=secret"),
                ] {
                    let own = larder.get_with(&target, &[credential]);
                    for _ in 0..2 {
                        let read = larder.get(&target);
                        if read.text().contains("secret") {
                            wrong.push(format!("{target}: {own:?}, then {read:?}"));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{policy:?}: {}", wrong.join("\n"));
    }
}

fn two_targets_never_share_an_answer(store: &str) {
    for policy in [Policy::Ttl, Policy::Http] {
        let (_origin, larder) = telling(store, policy);
        let mut wrong = Vec::new();
        for (first, second) in PAIRS {
            for (kept, asked) in [(first, second), (second, first)] {
                larder.purge_everything();
                larder.get(kept);
                larder.get(kept);
                let read = larder.get(asked);
                let told = match policy {
                    Policy::Ttl => told(asked),
                    Policy::Http => format!("GET {asked}]"),
                };
                if read.is_hit() || !read.text().contains(&told) {
                    wrong.push(format!("{kept}, then {asked}: {read:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{policy:?}: {}", wrong.join("\n"));
    }
}

fn an_empty_query_is_none_and_is_asked_for_as_none(store: &str) {
    let (origin, larder) = telling(store, Policy::Ttl);
    for target in ["/api/users/", "/api/users/7/"] {
        for empty in ["?", "?&", "?&&"] {
            larder.purge_everything();
            larder.get(&format!("{target}{empty}"));
            assert_eq!(origin.last().target, target);
            let read = larder.get(target);
            assert!(read.text().contains(&told(target)), "{read:?}");
        }
    }
}

#[test]
fn the_tables_have_two_hundred_and_fifty_cases_and_none_twice() {
    let poisoners = poisoners();
    let distinct: BTreeSet<String> = poisoners
        .iter()
        .map(|p| format!("{} {} {:?} {:?}", p.method, p.suffix, p.fields, p.content))
        .collect();
    assert_eq!(distinct.len(), poisoners.len());
    let (lures, pairs) = (LURES.len(), PAIRS.len());
    let all = poisoners.len() + lures + pairs;
    println!(
        "{} poisoners, {lures} lures, {pairs} pairs: {all}",
        poisoners.len()
    );
    assert!(all >= 250, "{all}");
}

/// By whose word the routes keep what they keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Ttl,
    Http,
}

/// An origin that tells all it was asked, and takes offence at what is oversized.
fn telling(store: &str, policy: Policy) -> (Origin, Larder) {
    let origin = Origin::start(move |request: &Request| {
        let offended = request.fields.0.iter().any(|(_, value)| value.len() > 4000);
        let mut fields: Vec<String> = request
            .fields
            .0
            .iter()
            .map(|(name, value)| format!("{}: {}", name.to_ascii_lowercase(), of_larder(value)))
            .collect();
        fields.sort();
        let (method, target) = (&request.method, &request.target);
        let text = format!(
            "[{method} {target}] {fields:?} {:?}",
            request.content.text()
        );
        let answer = origin::status(if offended { 400 } else { 200 }, text)
            .field("Content-Type", "application/json");
        match policy {
            Policy::Ttl => answer,
            Policy::Http => {
                // By an id of larder's it would vary always, and never be kept.
                let sent = request.fields.0.iter();
                let names: Vec<&str> = sent
                    .filter(|(_, value)| of_larder(value) == value)
                    .map(|(name, _)| &name[..])
                    .collect();
                let fresh = answer.field("Cache-Control", "max-age=3600");
                fresh.field("Vary", &names.join(", "))
            }
        }
    });
    let (ttl, by) = match policy {
        Policy::Ttl => ("ttl: 1h", ""),
        Policy::Http => ("", ", policy: http"),
    };
    let larder = Larder::start(format!(
        r#"upstream: {}
store: {{url: "{store}", database: 1, prefix: t}}
{ttl}
trusted_proxies: []
routes:
  - {{path: /api/users/, key: users:list{by}}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}"{by}}}
{PURGE}"#,
        origin.url()
    ));
    (origin, larder)
}

/// The ids that Larder makes for its fills are unlike each other, and nobody chooses them. Any other is told.
fn of_larder(value: &str) -> &str {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match value.split_once('-') {
        Some((process, number)) if process.len() == 16 && is_hex(process) && is_hex(number) => {
            "an id of larder's"
        }
        _ => value,
    }
}

/// As the origin is asked for it: pairs in the order of their names.
fn told(target: &str) -> String {
    match target.split_once('?') {
        None => format!("GET {target}]"),
        Some((path, query)) => {
            let mut pairs: Vec<&str> = query.split('&').collect();
            pairs.sort_by_key(|pair| pair.split('=').next());
            match is_canonical(path) {
                true => format!("GET {path}?{}]", pairs.join("&")),
                false => format!("GET {target}]"),
            }
        }
    }
}

fn is_canonical(path: &str) -> bool {
    path == "/api/users/" || path == "/api/users/7/"
}
