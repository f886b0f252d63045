//! Requests that are known again by their bytes: answered as any hit is, looked up anew each time, and never taken for one where
//! their bytes are something else: content, a second request, the middle of another.

#[macro_use]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use support::client::{Answer, Connection};
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::redis::RedisServer;
use support::{Gate, eventually, users_api};

const HEAD: &str = "GET /api/users/7/ HTTP/1.1\r\nHost: a\r\nUser-Agent: poller\r\n\r\n";

fn start(yaml: String) -> Larder {
    Larder::with(yaml).env("RUST_LOG", "trace").start()
}

/// How many requests were known again, or others of their shape.
fn known(larder: &Larder) -> usize {
    larder.output().matches("known again").count()
}

fn of_user(n: usize) -> String {
    HEAD.replace("/7/", &format!("/{n}/"))
}

fn ask(connection: &mut Connection, head: &str) -> Answer {
    connection.send(head.as_bytes());
    connection.answer("GET")
}

/// Asks until the connection's thread knows the head again.
#[track_caller]
fn becomes_known(larder: &Larder, connection: &mut Connection, head: &str) {
    let before = known(larder);
    eventually("it is known again", || {
        ask(connection, head);
        known(larder) > before
    });
}

fn version(number: &AtomicUsize) -> origin::Answer {
    let number = number.load(Ordering::SeqCst);
    origin::json(format!("{{\"version\":{number}}}")).field("ETag", "\"e\"")
}

on_both_stores! {
    one_that_is_known_again_is_answered_as_any_hit
    nothing_is_older_than_a_write_however_well_its_request_is_known
    a_request_is_known_by_all_its_bytes
    whoever_asks_for_another_user_as_others_have_is_known_at_once
    only_a_number_as_it_may_be_looked_up_is_known_by_that_of_another
    what_is_known_and_no_hit_is_answered_as_what_is_not_known
    each_request_counts_against_its_own_clients_rate_however_well_its_bytes_are_known
    whatever_comes_however_it_is_cut_each_request_has_its_own_answer_in_its_turn
}

fn one_that_is_known_again_is_answered_as_any_hit(store: &str) {
    let number = Arc::new(AtomicUsize::new(1));
    let says = number.clone();
    let origin = Origin::start(move |_| version(&says));
    let larder = start(users_api(&origin, store, ""));
    let mut connection = larder.connect();
    ask(&mut connection, HEAD);
    let told = |answer: &Answer| {
        let mut fields = answer.fields.0.clone();
        // Each has one of its own.
        assert_eq!(answer.fields.all("x-request-id").len(), 1);
        let own = ["age", "cache-status", "x-request-id"];
        fields.retain(|(name, _)| !own.contains(&name.as_str()));
        fields.sort();
        (answer.status, answer.text(), fields)
    };
    let first = ask(&mut connection, HEAD);
    assert!(first.is_hit());
    assert_eq!(known(&larder), 0);
    becomes_known(&larder, &mut connection, HEAD);
    let before = known(&larder);
    // Whichever thread has the connection: what is known there is answered as what is not.
    eventually("it is known again", || {
        let again = ask(&mut connection, HEAD);
        assert!(again.is_hit(), "{}", again.cache_status());
        assert_eq!(told(&again), told(&first));
        assert!(again.fields.has("age"));
        assert!(again.cache_status().starts_with("larder; hit; ttl="));
        known(&larder) > before
    });
    assert_eq!(origin.requests().len(), 1);
}

fn nothing_is_older_than_a_write_however_well_its_request_is_known(store: &str) {
    let number = Arc::new(AtomicUsize::new(1));
    let says = number.clone();
    let origin = Origin::start(move |request| {
        if request.method == "PUT" {
            says.fetch_add(1, Ordering::SeqCst);
        }
        version(&says)
    });
    let larder = start(users_api(&origin, store, ""));
    let mut connection = larder.connect();
    for round in 1..20 {
        becomes_known(&larder, &mut connection, HEAD);
        let shown = ask(&mut connection, HEAD);
        assert_eq!(shown.text(), format!("{{\"version\":{round}}}"));
        match round % 3 {
            0 => larder.write("PUT", "/api/users/7/"),
            // On the very connection.
            _ => connection.request("PUT", "/api/users/7/", &[], b"{}"),
        };
        let shown = ask(&mut connection, HEAD);
        assert_eq!(shown.text(), format!("{{\"version\":{}}}", round + 1));
    }
    becomes_known(&larder, &mut connection, HEAD);
    number.fetch_add(1, Ordering::SeqCst);
    larder.purge(&["users:detail:7"]);
    assert_eq!(ask(&mut connection, HEAD).text(), "{\"version\":21}");
}

fn a_request_is_known_by_all_its_bytes(store: &str) {
    let origin = Origin::start(|request: &Request| {
        let credential = request.fields.get("authorization").unwrap_or("nobody");
        let host = request.fields.get("host").unwrap_or_default();
        origin::json(format!(
            "[\"{credential}\", \"{host}\", \"{}\"]",
            request.target
        ))
    });
    let larder = start(users_api(&origin, store, ""));
    let mut connection = larder.connect();
    let heads: Vec<(String, String)> = ["/api/users/7/", "/api/users/8/", "/api/users/?page=1"]
        .iter()
        .flat_map(|target| ["alice", "alicf", ""].map(|who| (target, who)))
        .flat_map(|(target, who)| ["a", "b"].map(|host| (target, who, host)))
        .map(|(target, who, host)| {
            let credential = match who {
                "" => String::new(),
                who => format!("Authorization: Bearer {who}\r\n"),
            };
            let who = match who {
                "" => "nobody".to_owned(),
                who => format!("Bearer {who}"),
            };
            (
                format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{credential}\r\n"),
                format!("[\"{who}\", \"{host}\", \"{target}\"]"),
            )
        })
        .collect();
    for _ in 0..6 {
        // One host after the other: a copy holds one origin's links.
        for host in ["Host: a", "Host: b"] {
            for _ in 0..4 {
                for (head, expected) in heads.iter().filter(|(head, _)| head.contains(host)) {
                    assert_eq!(&ask(&mut connection, head).text(), expected);
                }
            }
        }
    }
    assert!(known(&larder) > 0);
}

fn whoever_asks_for_another_user_as_others_have_is_known_at_once(store: &str) {
    let number = Arc::new(AtomicUsize::new(1));
    let says = number.clone();
    let origin = Origin::start(move |request| {
        let number = match request.method.as_str() {
            "PUT" => says.fetch_add(1, Ordering::SeqCst) + 1,
            _ => says.load(Ordering::SeqCst),
        };
        origin::json(format!("[\"{}\", {number}]", request.target))
    });
    let larder = start(users_api(&origin, store, "logs: {access: true}"));
    let mut connection = larder.connect();
    becomes_known(&larder, &mut connection, HEAD);
    for n in 10..30 {
        // By whatever thread.
        ask(&mut larder.connect(), &of_user(n));
    }
    let mut at_once = 0;
    for n in 10..30 {
        let before = known(&larder);
        let answer = ask(&mut connection, &of_user(n));
        assert!(answer.is_hit(), "{}", answer.cache_status());
        assert_eq!(answer.text(), format!("[\"/api/users/{n}/\", 1]"));
        eventually("it is logged as its own", || {
            let id = answer.field("x-request-id").unwrap_or("none");
            let path = format!("\"path\":\"/api/users/{n}/\"");
            let output = larder.output();
            let mut events = output.lines().filter(|line| line.contains(id));
            events.any(|line| line.contains(&path))
        });
        at_once += known(&larder) - before;
    }
    assert!(at_once > 0, "the thread may be another, but not each time");
    // What is written to one is dropped of that one.
    larder.write("PUT", "/api/users/11/");
    for (n, expected) in [(11, 2), (12, 1)] {
        let answer = ask(&mut connection, &of_user(n));
        assert_eq!(answer.text(), format!("[\"/api/users/{n}/\", {expected}]"));
    }
}

fn only_a_number_as_it_may_be_looked_up_is_known_by_that_of_another(store: &str) {
    let origin = Origin::start(|request| origin::json(format!("\"{}\"", request.target)));
    let larder = start(users_api(&origin, store, ""));
    let mut connection = larder.connect();
    becomes_known(&larder, &mut connection, HEAD);
    for (odd, cache_status) in [
        ("07", "fwd=bypass"),
        ("%37", "fwd=bypass"),
        ("+7", "fwd=bypass"),
        ("-7", "fwd=bypass"),
        ("7.0", "fwd=bypass"),
        ("7;a", "fwd=bypass"),
        ("7/7", "fwd=bypass"),
        ("x/../7", "fwd=bypass"),
        ("", "fwd=bypass"),
        ("me", "fwd=bypass"),
        ("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "fwd=bypass"),
        ("1000000000000000000000000", "fwd=uri-miss"),
    ] {
        let target = format!("/api/users/{odd}/");
        for _ in 0..2 {
            let answer = ask(&mut connection, &HEAD.replace("/api/users/7/", &target));
            assert_eq!(answer.text(), format!("\"{target}\""));
            if cache_status == "fwd=bypass" {
                assert!(answer.cache_status().contains(cache_status), "{target}");
            }
        }
    }
    // By then all is in the log that came before.
    becomes_known(&larder, &mut connection, HEAD);
    let output = larder.output();
    let mut known = output.lines().filter(|line| line.contains("known again"));
    assert!(
        known.all(|line| line.contains("\"t:users:detail:7\"")),
        "a hit of none of them"
    );
}

fn what_is_known_and_no_hit_is_answered_as_what_is_not_known(store: &str) {
    let number = Arc::new(AtomicUsize::new(1));
    let says = number.clone();
    let origin = Origin::start(move |_| version(&says));
    let yaml = users_api(&origin, store, "").replace(
        "key: \"users:detail:{id}\"",
        "key: \"users:detail:{id}\", stale_while_revalidate: 1h",
    );
    let larder = start(yaml);
    let mut connection = larder.connect();
    becomes_known(&larder, &mut connection, HEAD);
    let before = origin.count();
    let mut missed = |head: &str, detail: &str| {
        let answer = ask(&mut connection, head);
        let expected = format!("detail={detail}");
        assert!(
            answer.cache_status().contains(&expected),
            "{}",
            answer.cache_status()
        );
        assert_eq!(
            answer.text(),
            format!("{{\"version\":{}}}", number.load(Ordering::SeqCst))
        );
        assert!(ask(&mut connection, head).is_hit());
    };
    // Nobody has asked for this one.
    missed(&of_user(8), "absent");
    number.fetch_add(1, Ordering::SeqCst);
    larder.purge(&["users:detail:7"]);
    missed(HEAD, "purged");
    assert_eq!(origin.count(), before + 2);
    // Outdated: what is there is shown once more, and fetched anew.
    number.fetch_add(1, Ordering::SeqCst);
    larder.purge_softly(&["users:detail:7"]);
    let stale = ask(&mut connection, HEAD);
    assert_eq!(stale.text(), "{\"version\":2}");
    eventually("it is fetched anew", || {
        ask(&mut connection, HEAD).text() == "{\"version\":3}"
    });
}

fn each_request_counts_against_its_own_clients_rate_however_well_its_bytes_are_known(store: &str) {
    const EACH: usize = 60;
    let origin = Origin::start(|_| origin::json("{}"));
    let more = format!("trusted_proxies: []\nlimits: {{rate: {{requests: {EACH}, window: 1h}}}}");
    let larder = start(users_api(&origin, store, &more));
    let mut clients = ["127.0.0.1", "127.0.0.2"].map(|address| larder.connect_from(address));
    for turn in 0..EACH {
        // One that is known and comes to no hit is one request, too.
        if turn % 10 == 9 {
            larder.purge(&["users:detail:7"]);
        }
        for client in &mut clients {
            assert_eq!(ask(client, HEAD).status, 200, "{turn}");
        }
    }
    assert!(known(&larder) > 0);
    for client in &mut clients {
        let refused = ask(client, HEAD);
        assert_eq!(refused.status, 429);
        assert!(refused.fields.has("retry-after"));
    }
    let mut another = larder.connect_from("127.0.0.3");
    assert!(ask(&mut another, HEAD).is_hit());
}

/// What was looked up beneath is not looked up once more, though it led to nothing.
#[test]
fn a_miss_of_a_known_request_asks_the_store_as_often_as_any() {
    let origin = Origin::start(|_| origin::json("{}"));
    let redis = RedisServer::start();
    let larder = start(users_api(&origin, &redis.url(), ""));
    let mgets = |head: &str| {
        larder.purge(&["users:detail:7"]);
        redis.run(&["CONFIG", "RESETSTAT"]).unwrap_ok();
        assert!(!ask(&mut larder.connect(), head).is_hit());
        let stats = redis.run(&["INFO", "commandstats"]).text();
        let mut lines = stats.lines();
        let line = lines.find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
        let count: Option<u64> = line.and_then(|line| line.split(',').next()?.parse().ok());
        count.expect("it was asked")
    };
    // A heartbeat may fall into one of them, but not into all.
    let least = |head: &dyn Fn(usize) -> String| (0..20).map(|n| mgets(&head(n))).min();
    let unknown = least(&|n| HEAD.replace("poller", &format!("new {n}")));
    // Both threads know it.
    for _ in 0..10 {
        becomes_known(&larder, &mut larder.connect(), HEAD);
    }
    assert_eq!(least(&|_| HEAD.to_owned()), unknown);
}

/// Such a connection ends with its answer, known or not.
#[test]
fn one_of_http_1_0_is_never_known() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = start(users_api(&origin, "memory:", ""));
    for _ in 0..6 {
        let mut connection = larder.connect();
        let answer = ask(&mut connection, &HEAD.replace("HTTP/1.1", "HTTP/1.0"));
        assert_eq!(answer.status, 200);
        assert!(connection.has_ended());
    }
    assert_eq!(known(&larder), 0);
}

/// One request of a connection's bytes, and what it is answered.
#[derive(Debug, Clone)]
enum Piece {
    Known,
    /// Another user, whom this thread may never have heard of.
    Other(usize),
    Head,
    /// What its content looks like is none of our business.
    Write {
        chunked: bool,
    },
    Unread,
    BareLf,
}

impl Piece {
    fn bytes(&self) -> String {
        let chunk = format!("{:x}\r\n{HEAD}\r\n0\r\n\r\n", HEAD.len());
        match self {
            Piece::Known => HEAD.to_owned(),
            Piece::Other(n) => of_user(*n),
            Piece::Head => HEAD.replace("GET", "HEAD"),
            Piece::Write { chunked: false } => format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{HEAD}",
                HEAD.len()
            ),
            Piece::Write { chunked: true } => format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
            ),
            Piece::Unread => "DELETE /echo HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            Piece::BareLf => "GET /echo HTTP/1.1\nHost: a\n\n".to_owned(),
        }
    }

    fn method(&self) -> &'static str {
        match self {
            Piece::Head => "HEAD",
            _ => "GET",
        }
    }

    fn answer(&self) -> String {
        match self {
            Piece::Known => "\"/api/users/7/\"".to_owned(),
            Piece::Other(n) => format!("\"/api/users/{n}/\""),
            Piece::Head => String::new(),
            Piece::Write { .. } | Piece::Unread | Piece::BareLf => "\"/echo\"".to_owned(),
        }
    }
}

fn whatever_comes_however_it_is_cut_each_request_has_its_own_answer_in_its_turn(store: &str) {
    let origin = Origin::start(|request: &Request| {
        assert!(request.content.length == 0 || request.content.text() == HEAD);
        origin::json(format!("\"{}\"", request.target))
    });
    let larder = start(users_api(&origin, store, ""));
    for head in [HEAD.to_owned(), of_user(8)] {
        let mut connection = larder.connect();
        becomes_known(&larder, &mut connection, &head);
    }
    let piece = prop_oneof![
        4 => Just(Piece::Known),
        // Half of them are asked for by nobody before.
        3 => (8..200usize).prop_map(Piece::Other),
        1 => Just(Piece::Head),
        1 => any::<bool>().prop_map(|chunked| Piece::Write { chunked }),
        1 => Just(Piece::Unread),
        1 => Just(Piece::BareLf),
    ];
    // Whether the next is sent before this one was answered, and where it is cut in two.
    let sent = (
        piece,
        any::<bool>(),
        proptest::option::weighted(0.3, 0..400usize),
    );
    let strategy = proptest::collection::vec(sent, 1..12);
    let mut runner = TestRunner::new(Config {
        cases: 120,
        failure_persistence: None,
        ..Config::default()
    });
    let checked = runner.run(&strategy, |pieces| {
        let mut connection = larder.connect();
        let (mut together, mut waiting) = (Vec::new(), Vec::new());
        for (n, (piece, early, cut)) in pieces.iter().enumerate() {
            let bytes = piece.bytes().into_bytes();
            waiting.push(piece);
            match cut {
                Some(at) if *at < bytes.len() => {
                    together.extend_from_slice(&bytes[..*at]);
                    connection.send(&together);
                    together = bytes[*at..].to_vec();
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => together.extend_from_slice(&bytes),
            }
            if *early && n + 1 < pieces.len() {
                continue;
            }
            connection.send(&std::mem::take(&mut together));
            for piece in waiting.drain(..) {
                let answer = connection.answer(piece.method());
                prop_assert_eq!(answer.status, 200);
                prop_assert_eq!(answer.text(), piece.answer());
            }
        }
        Ok(())
    });
    checked.unwrap();
}

/// By another configuration it may be another request.
#[test]
fn nothing_is_known_any_more_after_a_reload() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    becomes_known(&larder, &mut connection, HEAD);
    let file = std::fs::read_to_string(larder.file()).unwrap();
    std::fs::write(larder.file(), format!("{file}hosts: [nobody.example]\n")).unwrap();
    let fields = [("Content-Type", "application/json")];
    let told = Connection::open(larder.admin_address()).request("POST", "/reload", &fields, b"");
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(ask(&mut connection, HEAD).status, 421);
}

#[test]
fn an_answer_that_is_no_plain_copy_is_never_taken_for_one() {
    let origin =
        Origin::start(|_| origin::status(404, "{}").field("Content-Type", "application/json"));
    let yaml = users_api(&origin, "memory:", "").replace(
        "key: \"users:detail:{id}\"",
        "key: \"users:detail:{id}\", negative_ttl: 1h",
    );
    let larder = start(yaml);
    let mut connection = larder.connect();
    for _ in 0..8 {
        assert_eq!(ask(&mut connection, HEAD).status, 404);
    }
    assert_eq!(origin.requests().len(), 1, "it is kept");
    assert_eq!(known(&larder), 0);
}

#[test]
fn one_that_is_sent_while_another_is_answered_waits_for_its_turn() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |request: &Request| {
        let answer = origin::json(format!("\"{}\"", request.target));
        match request.target.contains("slow") {
            true => answer.behind(&held),
            false => answer,
        }
    });
    let larder = start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    becomes_known(&larder, &mut connection, HEAD);
    gate.close();
    connection.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the first is asked", || origin.requests().len() == 2);
    connection.send(HEAD.as_bytes());
    connection.send(HEAD.as_bytes());
    gate.open();
    for expected in ["\"/slow\"", "\"/api/users/7/\"", "\"/api/users/7/\""] {
        assert_eq!(connection.answer("GET").text(), expected);
    }
}

#[test]
fn a_large_copy_comes_whole_to_a_slow_reader() {
    let body = format!("[\"{}\"]", "x".repeat(3_000_000));
    let says = body.clone();
    let origin = Origin::start(move |_| origin::json(&says));
    let larder = start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    becomes_known(&larder, &mut connection, HEAD);
    for _ in 0..3 {
        let answer = ask(&mut connection, HEAD);
        assert_eq!(answer.content.length as usize, body.len());
        assert!(answer.content.whole);
    }
    // Who leaves in the middle takes nobody along.
    connection.send(HEAD.as_bytes());
    connection.reset();
    assert!(ask(&mut larder.connect(), HEAD).is_hit());
}
