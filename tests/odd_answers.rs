//! Odd answers of the upstream, byte for byte: never stored, never shown as a complete success, and no byte beyond one
//! answer ever becomes part of the next.

#[path = "raw/line.rs"]
mod line;
#[path = "odd_answers/rows.rs"]
mod rows;
mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rows::{Row, SOUND, Shown, row, rows};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;

#[test]
fn an_odd_answer_is_never_stored_and_never_a_complete_success() {
    all(&rows(), &["/api/users/?n=", "/other/?n="]);
}

#[test]
fn an_answer_that_breaks_off_at_any_byte_is_never_stored_and_never_a_complete_success() {
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\"go\r\n3;x=y\r\nod\"\r\n0\r\n\r\n";
    let cut: Vec<Row> = [SOUND, chunked]
        .iter()
        .flat_map(|whole| (0..whole.len()).map(|end| &whole[..end]))
        .map(|part| row("it breaks off", part, Shown::Broken))
        .collect();
    all(&cut, &["/api/users/?n="]);
}

#[test]
fn the_table_has_sixty_rows_and_no_row_twice() {
    let rows = rows();
    let distinct: BTreeSet<&[u8]> = rows.iter().map(|row| &row.bytes[..]).collect();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    println!("{} answers of {} kinds", rows.len(), names.len());
    assert_eq!(distinct.len(), rows.len());
    assert!(rows.len() >= 60, "{} rows", rows.len());
}

/// By whose word the route keeps what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Ttl,
    Http,
}

fn all(rows: &[Row], targets: &[&str]) {
    let redis = RedisServer::start();
    for policy in [Policy::Ttl, Policy::Http] {
        redis.run(&["FLUSHDB"]).unwrap_ok();
        for store in [None, Some(&redis)] {
            let wrong = wrong(store, policy, rows, targets);
            let on = store.map_or("memory", |_| "Redis");
            assert!(wrong.is_empty(), "{policy:?}, {on}:\n{}", wrong.join("\n"));
        }
    }
}

/// Each row is the answer to one request; whoever asks for the same next gets a sound one, from the upstream.
fn wrong(
    redis: Option<&RedisServer>,
    policy: Policy,
    rows: &[Row],
    targets: &[&str],
) -> Vec<String> {
    let next: Arc<Mutex<Option<origin::Answer>>> = Arc::default();
    let script = Arc::clone(&next);
    // A GET that was lost with its connection is sent once more and meets the same answer: it stays until it is taken back.
    let origin = Origin::start(move |_| {
        let odd = script.lock().unwrap().clone();
        odd.unwrap_or_else(|| origin::raw(SOUND).staying())
    });
    let store = redis.map_or_else(|| "memory:".to_owned(), RedisServer::url);
    let (ttl, by) = match policy {
        Policy::Ttl => ("ttl: 1h", ""),
        Policy::Http => ("", ", policy: http"),
    };
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\n{ttl}\nroutes:\n  - {{path: /api/users/, key: users:list{by}}}\n",
        origin.url()
    ));
    let mut wrong = Vec::new();
    for target in targets {
        for (number, row) in rows.iter().enumerate() {
            let target = format!("{target}{number}");
            let bytes = match (policy, row.shown) {
                (Policy::Http, Shown::Broken | Shown::Surplus) => freshened(&row.bytes),
                _ => row.bytes.clone(),
            };
            let odd = origin::raw(&bytes);
            *next.lock().unwrap() = Some(match row.shown {
                Shown::Surplus => odd.staying(),
                Shown::Broken | Shown::Unshared | Shown::UnsharedByTtl => odd,
            });
            let shown = larder.connect().try_request("GET", &target, &[], b"");
            *next.lock().unwrap() = None;
            let fault = match (row.shown, &shown) {
                (Shown::Broken, Ok(answer)) => answer.is_complete_success(),
                (Shown::Broken, Err(_)) => false,
                (Shown::Unshared | Shown::UnsharedByTtl, Ok(answer)) => !answer.content.whole,
                (Shown::Surplus, Ok(answer)) => answer.text() != "\"good\"",
                (Shown::Unshared | Shown::UnsharedByTtl | Shown::Surplus, Err(_)) => true,
            };
            let may_be_stored = match row.shown {
                Shown::Broken | Shown::Unshared => false,
                Shown::UnsharedByTtl => policy == Policy::Http,
                Shown::Surplus => true,
            };
            let asked = origin.count();
            let second = larder.get(&target);
            let is_sound = second.status == 200 && second.text() == "\"good\"";
            let is_asked_for = origin.count() > asked;
            let is_right = match may_be_stored {
                true => is_sound || row.shown == Shown::UnsharedByTtl && !is_asked_for,
                false => is_sound && is_asked_for,
            };
            if fault || !is_right {
                let bytes = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
                wrong.push(format!(
                    "{} ({target}): shown {shown:?}, then {second:?}\n    {bytes:?}",
                    row.name
                ));
            }
        }
    }
    wrong.extend(redis.into_iter().flat_map(|redis| stored(redis, policy)));
    wrong
}

/// Copies that are none of the sound answer. (By the origin's word, an error that says for how long may be one.)
fn stored(redis: &RedisServer, policy: Policy) -> Vec<String> {
    let mut odd = Vec::new();
    for key in redis.keys() {
        let is_a_copy = key.starts_with("t:users:") && !key.ends_with("~state");
        let value = is_a_copy.then(|| redis.get(&key)).flatten();
        let is_sound = |value: &[u8]| {
            value.starts_with(b"\"good\"\n")
                || policy == Policy::Http
                    // `\n100`: no answer, but by what the answers there vary.
                    && [&b"\"mine\"\n"[..], b"1234\n", b"\n100\t"]
                        .iter()
                        .any(|allowed| value.starts_with(allowed))
        };
        if let Some(value) = value.filter(|value| !is_sound(value)) {
            odd.push(format!("stored at {key}: {}", value.escape_ascii()));
        }
    }
    odd
}

/// With a lifetime, or by the origin's word nothing at all would be kept. (What is whole and says so may be: RFC 9111 §3.)
fn freshened(bytes: &[u8]) -> Vec<u8> {
    const TYPE: &[u8] = b"Content-Type: application/json\r\n";
    let has = |what: &[u8]| bytes.windows(what.len()).position(|part| part == what);
    match (has(TYPE), has(b"Cache-Control")) {
        (Some(at), None) => {
            let fresh = b"Cache-Control: max-age=3600\r\n";
            [&bytes[..at], fresh, &bytes[at..]].concat()
        }
        _ => bytes.to_vec(),
    }
}
