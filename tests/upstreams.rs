//! Several upstreams: who is asked, who is left alone, what is sent to a second one, and what never is.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use support::client::Answer;
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::{Gate, PATIENCE, eventually, users_api};

const LIST: &str = "/api/users/";

/// Larder before these, with `more` said of its upstreams.
fn before(origins: &[&Origin], more: &str) -> Larder {
    Larder::start(file(origins, more))
}

fn file(origins: &[&Origin], more: &str) -> String {
    let urls: Vec<String> = origins.iter().map(|origin| origin.url()).collect();
    let one = format!("upstream: {}\n", origins[0].url());
    let all = format!("upstream: {{urls: [{}], {more}}}\n", urls.join(", "));
    users_api(origins[0], "memory:", "").replacen(&one, &all, 1)
}

fn named(name: &'static str) -> Origin {
    Origin::start(move |_| origin::json(format!("\"{name}\"")))
}

fn all_of(origins: &[&Origin]) -> usize {
    origins.iter().map(|origin| origin.count()).sum()
}

#[track_caller]
fn is_well(answer: &Answer) {
    assert!(answer.is_complete_success(), "{answer:?}");
}

/// How /readyz says that the upstreams stand, in the order of the file.
fn standings(larder: &Larder) -> Vec<String> {
    let told = larder.readiness()["upstreams"].clone();
    let each = told.as_array().expect("several").iter();
    each.map(|stands| stands["status"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_idle_connection_that_the_upstream_closes_is_closed_though_nobody_asks_for_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (idle, is_idle) = mpsc::channel();
    let upstream = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        connection.write_all(answer).unwrap();
        is_idle.recv().unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.read(&mut [0]).map_err(|error| error.kind())
    });
    let larder = Larder::start(format!(
        "upstream: http://{address}\nstore: {{url: 'memory:', prefix: t}}\nttl: 1h\nroutes: []\n"
    ));
    is_well(&larder.get("/other/"));
    idle.send(()).unwrap();
    assert_eq!(upstream.join().unwrap(), Ok(0));
}

#[test]
fn a_connection_goes_on_after_answers_of_every_kind_and_what_it_is_asked_stays_the_same() {
    let script = |request: &Request| match request.parameter("how") {
        Some("chunks") => origin::json("[1, 2]").chunked(),
        Some("hints") => origin::json("[1, 2]").early("HTTP/1.1 103 Early Hints\r\n\r\n"),
        Some("nothing") => origin::status(204, ""),
        _ => origin::json("[1, 2]"),
    };
    let directory = tempfile::tempdir().unwrap();
    let origins = [
        Origin::start(script),
        Origin::start_on_unix_socket(&directory.path().join("api"), script),
    ];
    for origin in origins {
        let larder = Larder::start(users_api(&origin, "memory:", ""));
        let mut client = larder.connect();
        let ways = [
            "plain", "nothing", "plain", "chunks", "plain", "hints", "nothing", "plain",
        ];
        for how in ways {
            for method in ["GET", "POST", "HEAD"] {
                let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
                let fields = [("X-Request-Id", "a"), ("X-Odd", "b"), ("Via", "1.0 c")];
                let target = format!("/other/?how={how}");
                let answer = client.request(method, &target, &fields, body);
                is_well(&answer);
                let empty = how == "nothing" || method == "HEAD";
                assert_eq!(answer.text(), if empty { "" } else { "[1, 2]" }, "{how}");
            }
        }
        let asked = origin.requests();
        assert_eq!(asked.len(), 3 * ways.len());
        for (place, request) in asked.iter().enumerate() {
            let first = &asked[place % 3];
            assert_eq!(request.connection, 1);
            assert_eq!(request.method, first.method);
            assert_eq!(request.fields.0, first.fields.0);
            assert_eq!(request.content.text(), first.content.text());
        }
    }
}

#[test]
fn a_connection_is_not_used_again_after_a_close_or_bytes_beyond_an_answers_end() {
    let origin = Origin::start(|request| match request.parameter("how") {
        Some("close") => origin::json("{}").field("Connection", "close"),
        Some("surplus") => origin::raw("HTTP/1.1 204 No Content\r\n\r\nmore").staying(),
        _ => origin::json("{}"),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for (how, connection) in [
        ("none", 1),
        ("close", 1),
        ("none", 2),
        ("surplus", 2),
        ("none", 3),
        ("none", 3),
    ] {
        is_well(&larder.get(&format!("/other/?how={how}")));
        assert_eq!(origin.last().connection, connection, "{how}");
    }
}

#[test]
fn they_are_asked_in_turn_and_the_least_busy_first() {
    let gate = Gate::new();
    let closed = gate.clone();
    let held = Origin::start(move |request| match request.target.as_str() {
        "/held/" => origin::json("{}").behind(&closed),
        _ => origin::json("{}"),
    });
    let other = named("other");
    let larder = before(&[&held, &other], "silent: 1h");
    for _ in 0..4 {
        is_well(&larder.get("/other/"));
    }
    assert_eq!((held.count(), other.count()), (2, 2));
    let mut waiting = larder.connect();
    waiting.send(b"GET /held/ HTTP/1.1\r\nHost: a\r\n\r\n");
    held.wait_for(3);
    for _ in 0..4 {
        is_well(&larder.get("/other/"));
    }
    assert_eq!((held.count(), other.count()), (3, 6));
    gate.open();
    is_well(&waiting.answer("GET"));
}

#[test]
fn whatever_never_left_goes_to_another_a_write_too() {
    let (mut dead, alive) = (named("dead"), named("alive"));
    dead.stop();
    let larder = before(&[&dead, &alive], "");
    for round in 1..=10 {
        is_well(&larder.write("POST", LIST));
        is_well(&larder.write("DELETE", "/other/"));
        is_well(&larder.get(&format!("{LIST}{round}/")));
        assert_eq!(alive.count(), 3 * round);
    }
    assert!(larder.output().contains("upstream fails"));
    assert_eq!(standings(&larder), ["resting", "well"]);
}

#[test]
fn a_write_that_may_have_been_seen_is_sent_to_nobody_else() {
    let hanging_up = |reset: bool| {
        Origin::start(move |_| match reset {
            true => origin::hang_up().resetting(),
            false => origin::hang_up(),
        })
    };
    for reset in [false, true] {
        let (lossy, alive) = (hanging_up(reset), named("alive"));
        let larder = before(&[&lossy, &alive], "");
        let mut failed = 0;
        for sent in 1..=8 {
            let answer = match sent % 2 {
                0 => larder.write("PATCH", "/api/users/7/"),
                _ => larder.request("DELETE", "/other/", &[], b""),
            };
            failed += usize::from(answer.status == 502);
            assert!(answer.status == 502 || answer.status == 200, "{answer:?}");
            assert_eq!(all_of(&[&lossy, &alive]), sent);
        }
        assert_eq!(failed, lossy.count());
        assert!(failed > 0);
    }
}

#[test]
fn a_get_that_is_lost_goes_to_another_once() {
    let (lossy, alive) = (Origin::start(|_| origin::hang_up()), named("alive"));
    let larder = before(&[&lossy, &alive], "");
    for asked in 1..=20 {
        is_well(&larder.get(&format!("{LIST}{asked}/")));
        is_well(&larder.request("HEAD", "/other/", &[], b""));
        assert_eq!(alive.count(), asked * 2);
    }
    assert!(lossy.count() >= 3);
    // Where all lose it, two are asked and not three.
    let lossy: Vec<Origin> = (0..3)
        .map(|_| Origin::start(|_| origin::hang_up()))
        .collect();
    let lossy: Vec<&Origin> = lossy.iter().collect();
    let larder = before(&lossy, "");
    assert_eq!(larder.get("/other/").status, 502);
    assert_eq!(all_of(&lossy), 2);
}

#[test]
fn a_get_with_content_or_whose_answer_had_begun_is_sent_to_nobody_else() {
    let half = Origin::start(|_| origin::raw("HTTP/1.1 2"));
    let alive = named("alive");
    let larder = before(&[&half, &alive], "");
    let mut failed = 0;
    for sent in 1..=6 {
        let answer = larder.get("/other/");
        failed += usize::from(answer.status == 502);
        assert_eq!(all_of(&[&half, &alive]), sent);
    }
    assert_eq!(failed, half.count());
    assert!(failed > 0);

    let lossy = Origin::start(|_| origin::hang_up());
    let larder = before(&[&lossy, &named("alive")], "");
    let answers = [(); 2].map(|()| larder.request("GET", "/other/", &[], b"content").status);
    assert!(answers.contains(&502), "{answers:?}");
}

#[test]
fn where_the_origin_alone_decides_a_get_is_sent_to_nobody_else() {
    let (lossy, alive) = (Origin::start(|_| origin::hang_up()), named("alive"));
    let yaml = file(&[&lossy, &alive], "").replacen(
        "routes:",
        "routes:\n  - {path: \"/http/<path:rest>\", policy: http}",
        1,
    );
    let larder = Larder::start(yaml);
    let mut failed = 0;
    for sent in 1..=6 {
        failed += usize::from(larder.get(&format!("/http/{sent}")).status == 502);
        assert_eq!(all_of(&[&lossy, &alive]), sent);
    }
    assert_eq!(failed, lossy.count());
    assert!(failed > 0);
}

#[test]
fn an_error_of_one_is_an_answer_and_passes_back() {
    let failing = Origin::start(|_| origin::status(503, "busy"));
    let alive = named("alive");
    let larder = before(&[&failing, &alive], "");
    let answers = [(); 2].map(|()| larder.get("/other/").status);
    assert!(
        answers.contains(&503) && answers.contains(&200),
        "{answers:?}"
    );
    assert_eq!(all_of(&[&failing, &alive]), 2);
    // Three in a row, and it is left alone.
    eventually("the failing one rests", || {
        larder.get("/other/");
        standings(&larder) == ["resting", "well"]
    });
}

#[test]
fn a_get_whose_upstream_is_silent_is_asked_of_another_as_well() {
    let gate = Gate::new();
    let closed = gate.clone();
    let hung = Origin::start(move |_| origin::json("\"hung\"").behind(&closed));
    let alive = named("alive");
    let larder = before(&[&hung, &alive], "silent: 50ms, total: 1h, first_byte: 1h");
    for asked in 1..=12 {
        let answer = larder.get(&format!("{LIST}{asked}/"));
        is_well(&answer);
        assert_eq!(answer.text(), "\"alive\"");
    }
    assert!(hung.count() >= 3, "it was asked until it was left alone");
    assert!(larder.output().contains("upstream fails"));
    gate.open();
}

#[test]
fn the_first_answer_counts_also_if_it_is_that_of_the_silent_one() {
    let gates = [Gate::new(), Gate::new()];
    let behind = |gate: &Gate| {
        let gate = gate.clone();
        Origin::start(move |request: &Request| match request.target.as_str() {
            "/held/" => origin::json("\"late\"").behind(&gate),
            _ => origin::json("{}"),
        })
    };
    let (first, second) = (behind(&gates[0]), behind(&gates[1]));
    let larder = before(
        &[&first, &second],
        "silent: 50ms, total: 1h, first_byte: 1h",
    );
    let mut waiting = larder.connect();
    waiting.send(b"GET /held/ HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are asked", || all_of(&[&first, &second]) == 2);
    gates[0].open();
    assert_eq!(waiting.answer("GET").text(), "\"late\"");
    gates[1].open();
}

#[test]
fn a_write_whose_upstream_is_silent_waits_for_it() {
    let gate = Gate::new();
    let closed = gate.clone();
    let slow = Origin::start(move |_| origin::json("\"slow\"").behind(&closed));
    let other = named("other");
    let larder = before(&[&slow, &other], "silent: 10ms");
    let mut waiting = larder.connect();
    waiting.send(b"POST /api/users/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    slow.wait_for(1);
    for _ in 0..20 {
        is_well(&larder.get("/other/"));
    }
    assert_eq!(other.count_of("POST"), 0);
    gate.open();
    assert_eq!(waiting.answer("POST").text(), "\"slow\"");
}

#[test]
fn one_that_misses_its_health_checks_is_asked_nothing_until_it_answers_one() {
    let gate = Gate::new();
    let well = gate.clone();
    let sick = Origin::start(move |request| match request.target.as_str() {
        "/healthz/" if !well.is_open() => origin::status(500, "ill"),
        _ => origin::json("{}"),
    });
    let other = named("other");
    let check = "health: {path: /healthz/, every: 20ms, host: api.internal}";
    let larder = before(&[&sick, &other], check);
    eventually("it is down", || standings(&larder) == ["down", "well"]);
    let asked = |origin: &Origin| {
        let of_clients = |request: &&Request| request.target != "/healthz/";
        origin.requests().iter().filter(of_clients).count()
    };
    let before = asked(&sick);
    for _ in 0..10 {
        is_well(&larder.get("/other/"));
    }
    assert_eq!((asked(&sick), asked(&other) >= 10), (before, true));
    gate.open();
    eventually("it is back", || standings(&larder) == ["well", "well"]);
    for _ in 0..4 {
        is_well(&larder.get("/other/"));
    }
    assert!(asked(&sick) > before);
    let check = sick
        .requests()
        .into_iter()
        .find(|request| request.target == "/healthz/");
    assert_eq!(check.unwrap().fields.get("host"), Some("api.internal"));
    for said in ["fails its health checks", "upstream is back"] {
        assert!(larder.output().contains(said), "{said}");
    }
}

#[test]
fn where_all_are_dead_it_is_a_502_and_they_come_back() {
    let (mut one, mut two) = (named("one"), named("two"));
    one.stop();
    two.stop();
    let larder = before(&[&one, &two], "");
    for _ in 0..10 {
        assert_eq!(larder.get("/other/").status, 502);
        assert_eq!(larder.write("POST", LIST).status, 502);
    }
    one.start_again();
    is_well(&larder.get("/other/"));
    is_well(&larder.write("POST", LIST));
    assert_eq!(one.count(), 2);
}

#[test]
fn one_that_has_rested_is_tried_and_comes_back() {
    let (mut dead, alive) = (named("dead"), named("alive"));
    dead.stop();
    let larder = before(&[&dead, &alive], "");
    eventually("it rests", || {
        is_well(&larder.get("/other/"));
        standings(&larder) == ["resting", "well"]
    });
    dead.start_again();
    eventually("it is back", || {
        is_well(&larder.get("/other/"));
        standings(&larder) == ["well", "well"]
    });
}

#[test]
fn one_that_has_rested_is_tried_also_where_no_request_may_be_sent_to_two() {
    let (mut dead, alive) = (named("dead"), named("alive"));
    dead.stop();
    let by_its_origin = "routes:\n  - {path: \"/http/<path:rest>\", policy: http}";
    let yaml = file(&[&dead, &alive], "").replacen("routes:", by_its_origin, 1);
    let larder = Larder::start(yaml);
    eventually("it rests", || {
        is_well(&larder.get("/http/1"));
        standings(&larder) == ["resting", "well"]
    });
    dead.start_again();
    eventually("it is back", || {
        is_well(&larder.get("/http/1"));
        standings(&larder) == ["well", "well"]
    });
}

#[test]
fn a_name_with_several_addresses_is_asked_at_the_one_that_answers() {
    // `localhost` is ::1, too, where nobody listens.
    let origin = named("here");
    let url = origin.url().replace("127.0.0.1", "localhost");
    let yaml = users_api(&origin, "memory:", "").replacen(&origin.url(), &url, 1);
    let larder = Larder::start(yaml);
    is_well(&larder.get("/other/"));
    is_well(&larder.write("POST", LIST));
    assert_eq!(origin.count(), 2);
}

/// Must be seen and not only believed: `cargo test --release --test upstreams -- --ignored --nocapture`.
#[test]
#[ignore = "measures for a minute"]
fn one_of_three_is_killed_hung_slowed_under_load() {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    const CLIENTS: usize = 16;
    const TAKES: Duration = Duration::from_millis(5);
    const LASTS: Duration = Duration::from_secs(5);

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Fault {
        None,
        Killed,
        Hung,
        Slowed,
    }
    println!(
        "one of three upstreams, {CLIENTS} clients that send one GET after the other, each {TAKES:?} of work"
    );
    println!(
        "{:<8} {:>8} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "fault", "GETs", "failed", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
    );
    for (fault, more) in [
        (Fault::None, "silent: 500ms"),
        (Fault::Killed, "silent: 500ms"),
        (Fault::Hung, "silent: 500ms"),
        (
            Fault::Hung,
            "silent: 500ms, health: {path: /healthz/, every: 1s}",
        ),
        (Fault::Slowed, "silent: 500ms"),
    ] {
        // How long an answer of the first takes.
        let takes = Arc::new(AtomicU64::new(TAKES.as_millis() as u64));
        let own = takes.clone();
        let mut sick = Origin::start(move |_| {
            let takes = Duration::from_millis(own.load(Ordering::Relaxed));
            origin::json("{}").after(takes)
        });
        let well = [(); 2].map(|()| Origin::start(|_| origin::json("{}").after(TAKES)));
        let larder = before(&[&sick, &well[0], &well[1]], more);
        let (began, failed) = (Instant::now(), AtomicUsize::new(0));
        let took: Mutex<Vec<Duration>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let (mut connection, mut own) = (larder.connect(), Vec::new());
                    while began.elapsed() < LASTS {
                        let asked = Instant::now();
                        let answer = connection.get("/other/");
                        own.push(asked.elapsed());
                        if !answer.is_complete_success() {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    took.lock().unwrap().extend(own);
                });
            }
            // In the midst of it.
            std::thread::sleep(LASTS / 5);
            match fault {
                Fault::None => {}
                Fault::Killed => sick.stop(),
                Fault::Hung => takes.store(PATIENCE.as_millis() as u64, Ordering::Relaxed),
                Fault::Slowed => takes.store(200, Ordering::Relaxed),
            }
        });
        let (mut took, failed) = (took.into_inner().unwrap(), failed.into_inner());
        took.sort();
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let name = match more.contains("health") {
            true => format!("{fault:?}+"),
            false => format!("{fault:?}"),
        };
        println!(
            "{name:<8} {:>8} {failed:>7} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            took.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
        assert_eq!(failed, 0, "{fault:?}");
    }
    println!("(Hung+: with a health check every second)");
}
