//! Bodies on their way: huge ones cost no memory, broken ones are never stored nor shown as complete,
//! and a write reaches the origin exactly once whatever becomes of its connection.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use support::client::{Answer, head};
use support::larder::Larder;
use support::origin::{self, Origin, huge};
use support::redis::RedisServer;
use support::{Framing, Gate, eventually, pattern, users_api};

const LIST: &str = "/api/users/";
const MIB: u64 = 1 << 20;

/// A gigabyte, of which some seconds are worth it: what is held by mistake shows only where there is much of it.
const HUGE: u64 = 1 << 30;

#[test]
fn a_huge_answer_passes_without_being_held() {
    let origin = Origin::start(|request| match request.parameter("framing") {
        Some("chunked") => huge(HUGE).chunked(),
        Some("close") => huge(HUGE / 8).until_close(),
        _ => huge(HUGE),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    larder.get("/warm-up/?framing=close").assert_whole_pattern();
    // On no route, and on a route whose `max_body` it exceeds.
    for target in ["/media/film", LIST] {
        for framing in ["length", "chunked", "close"] {
            let before = larder.memory();
            larder.forget_peak();
            let answer = larder.get(&format!("{target}?framing={framing}"));
            answer.assert_whole_pattern();
            let growth = larder.peak_memory().saturating_sub(before);
            assert!(
                growth < 32 * MIB,
                "{target} {framing}: memory grew by {} MiB",
                growth / MIB
            );
            if framing == "length" {
                assert_eq!(answer.framing, Framing::Length(HUGE), "{target}");
            }
        }
    }
    assert!(!larder.get(LIST).is_hit());
}

#[test]
fn a_huge_answer_to_a_slow_reader_is_not_held_either() {
    let origin = Origin::start(|_| huge(HUGE));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/media/film", LIST] {
        let mut client = larder.connect();
        client.send(head("GET", target, &[], None).as_bytes());
        client.try_head("GET").unwrap();
        let before = larder.memory();
        larder.forget_peak();
        // It reads nothing for a while, and everything that will be buffered has been.
        thread::sleep(Duration::from_millis(500));
        let growth = larder.peak_memory().saturating_sub(before);
        assert!(
            growth < 32 * MIB,
            "{target}: memory grew by {} MiB",
            growth / MIB
        );
    }
}

#[test]
fn a_huge_upload_passes_without_being_held() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/media/", LIST] {
        let mut client = larder.connect();
        let before = larder.memory();
        larder.forget_peak();
        client.send(head("POST", target, &[], Some(HUGE)).as_bytes());
        for at in (0..HUGE).step_by(pattern::BLOCK) {
            client.send(pattern::at(at, pattern::BLOCK));
        }
        assert_eq!(client.answer("POST").status, 200);
        let growth = larder.peak_memory().saturating_sub(before);
        assert!(
            growth < 32 * MIB,
            "{target}: memory grew by {} MiB",
            growth / MIB
        );
        let asked = origin.last();
        assert_eq!(asked.framing, Framing::Length(HUGE));
        assert!(asked.content.whole && asked.content.is_pattern);
    }
}

#[test]
fn an_answer_beyond_max_body_passes_whole_and_is_not_kept() {
    for_both_stores(|store| {
        let origin = Origin::start(|request| match request.parameter("framing") {
            Some("chunked") => huge(200_000).chunked(),
            Some("close") => huge(200_000).until_close(),
            _ => huge(200_000),
        });
        let larder = Larder::start(limited_to(&origin, store, "100kB"));
        for framing in ["length", "chunked", "close"] {
            for _ in 0..2 {
                let answer = larder.get(&format!("{LIST}?framing={framing}"));
                assert!(
                    answer.content.whole
                        && answer.content.is_pattern
                        && answer.content.length == 200_000
                );
                assert!(!answer.is_hit(), "{framing}");
            }
        }
        let larder = Larder::start(limited_to(&origin, store, "1MB"));
        for framing in ["length", "chunked", "close"] {
            let target = format!("{LIST}?framing={framing}");
            larder.get(&target);
            let answer = larder.get(&target);
            assert!(
                answer.is_hit() && answer.content.is_pattern && answer.content.length == 200_000,
                "{framing}"
            );
        }
    });
}

#[test]
fn an_answer_that_the_upstream_cut_short_is_neither_stored_nor_shown_as_complete() {
    for_both_stores(|store| {
        let broken = |request: &origin::Request| {
            let whole = || origin::json(String::from_utf8(vec![b'x'; 50_000]).unwrap());
            let at = request.parameter("at").unwrap().parse().unwrap();
            match request.parameter("break").unwrap() {
                "short" => whole().cut_after(at),
                "chunked" => whole().chunked().cut_after(at),
                "reset" => whole().reset_after(at),
                "chunked-and-reset" => whole().chunked().reset_after(at),
                "bad-chunk" => origin::raw(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nx\r\n0\r\n\r\n",
                ),
                "no-last-chunk" => origin::raw(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
                ),
                "half-a-head" => origin::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Cut"),
                other => panic!("{other}"),
            }
        };
        let origin = Origin::start(broken);
        let larder = Larder::start(users_api(&origin, store, ""));
        for what in [
            "short",
            "chunked",
            "reset",
            "chunked-and-reset",
            "bad-chunk",
            "no-last-chunk",
            "half-a-head",
        ] {
            for at in ["0", "1", "30000", "49999"] {
                for target in [LIST, "/api/users/7/", "/other/"] {
                    for _ in 0..2 {
                        let target = format!("{target}?at={at}&break={what}");
                        match larder.connect().try_request("GET", &target, &[], b"") {
                            Ok(answer) => {
                                assert!(
                                    !answer.is_complete_success(),
                                    "{what} at {at} on {target}: {answer:?}"
                                );
                                assert!(!answer.is_hit(), "{what} at {at} on {target}: {answer:?}");
                            }
                            // Closed before any byte of an answer: not shown as complete either.
                            Err(error) => assert_ne!(
                                error.kind(),
                                std::io::ErrorKind::WouldBlock,
                                "{what} at {at} hangs"
                            ),
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn an_answer_without_a_length_that_ends_in_a_reset_is_not_stored() {
    for_both_stores(|store| {
        let origin = Origin::start(|_| origin::json("0123456789").until_close().resetting());
        let larder = Larder::start(users_api(&origin, store, ""));
        for _ in 0..2 {
            let hit = larder
                .connect()
                .try_request("GET", LIST, &[], b"")
                .is_ok_and(|answer| answer.is_hit());
            assert!(!hit);
        }
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_short_in_the_store() {
    for_both_stores(|store| {
        let origin = Origin::start(|request| match request.number {
            1 => huge(3 * MIB).trickling(64 * 1024, Duration::from_millis(20)),
            _ => huge(3 * MIB),
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        let mut client = larder.connect();
        client.send(head("GET", LIST, &[], None).as_bytes());
        client.try_head("GET").unwrap();
        assert!(client.read_some(&mut [0; 1000]).unwrap() > 0);
        client.reset();
        // Whether the fill ran on and was stored whole, or was given up: what comes next is whole.
        for _ in 0..3 {
            larder.get(LIST).assert_whole_pattern();
        }
    });
}

#[test]
fn a_client_that_leaves_on_an_uncached_path_stops_the_upstream() {
    let origin = Origin::start(|_| huge(1 << 40));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut client = larder.connect();
    client.send(head("GET", "/endless/", &[], None).as_bytes());
    client.try_head("GET").unwrap();
    client.reset();
    eventually("the upstream's endless answer is given up", || {
        origin.abandoned() == 1
    });
}

#[test]
fn a_trickling_upload_holds_nothing() {
    for_both_stores(|store| {
        let origin = Origin::start(|request| origin::json(request.number.to_string()));
        // One slot towards the upstream: whoever held it would be noticed.
        let one_slot = format!(
            "upstream: {{url: \"{}\", max_connections: 1}}",
            origin.url()
        );
        let yaml = users_api(&origin, store, "")
            .replace(&format!("upstream: {}", origin.url()), &one_slot);
        let larder = Larder::start(yaml);
        larder.get(LIST);
        let mut client = larder.connect();
        client.send(head("POST", LIST, &[], Some(10)).as_bytes());
        client.send(b"01234");
        // The list is neither held nor purged, and others are served.
        for _ in 0..5 {
            assert!(larder.get(LIST).is_hit());
            assert!(larder.get("/other/").is_complete_success());
            assert_eq!(larder.write("PATCH", "/api/users/7/").status, 200);
            larder.get(LIST);
        }
        assert_eq!(origin.count_of("POST"), 0);
        client.send(b"56789");
        assert_eq!(client.answer("POST").status, 200);
        let asked = origin.last();
        assert_eq!(
            (asked.framing, asked.content.text().as_str()),
            (Framing::Length(10), "0123456789")
        );
        assert!(!larder.get(LIST).is_hit());
    });
}

#[test]
fn an_upload_keeps_its_content_length() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for length in [0, 1, 65_535, 65_536, 65_537, 300_000] {
        for (method, target) in [
            ("POST", LIST),
            ("PUT", "/api/users/7/"),
            ("PATCH", "/other/"),
        ] {
            let answer = larder.request(method, target, &[], &pattern::of(length));
            assert_eq!(answer.status, 200, "{method} of {length} bytes");
            let asked = origin.last();
            assert_eq!(
                asked.framing,
                Framing::Length(length as u64),
                "{method} of {length} bytes"
            );
            assert!(asked.content.is_pattern && asked.content.length == length as u64);
        }
    }
}

#[test]
fn a_small_chunked_upload_gets_a_content_length() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in [LIST, "/other/"] {
        let mut client = larder.connect();
        client.send(head("POST", target, &[("Transfer-Encoding", "chunked")], None).as_bytes());
        client.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
        assert_eq!(client.answer("POST").status, 200);
        let asked = origin.last();
        assert_eq!(
            (asked.framing, asked.content.text().as_str()),
            (Framing::Length(11), "hello world"),
            "{target}"
        );
        assert!(!asked.fields.has("transfer-encoding"), "{:?}", asked.fields);
    }
}

#[test]
fn an_upload_that_breaks_off_is_never_completed_towards_the_upstream() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    larder.get(LIST);
    for length in [100, 1_000_000] {
        let mut client = larder.connect();
        client.send(head("POST", LIST, &[], Some(length)).as_bytes());
        client.send(&pattern::of(length as usize - 1));
        drop(client);
    }
    for chunks in [
        "5\r\nhello\r\n",
        "5\r\nhello\r\nxyz\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
    ] {
        let mut client = larder.connect();
        client.send(head("POST", LIST, &[("Transfer-Encoding", "chunked")], None).as_bytes());
        client.send(chunks.as_bytes());
        client.finish_sending();
        if let Ok(answer) = client.try_answer("POST") {
            assert_eq!(answer.status, 400, "{chunks:?}: {answer:?}");
        }
    }
    // A request that follows on another connection has been served, so the ones before were decided.
    assert!(larder.get("/other/").is_complete_success());
    assert!(
        origin
            .requests()
            .iter()
            .filter(|asked| asked.method == "POST")
            .all(|asked| !asked.content.whole)
    );
}

#[test]
fn a_write_is_sent_once_whatever_becomes_of_its_connection() {
    for_both_stores(|store| {
        let origin =
            Origin::start(
                |request| match (request.method.as_str(), request.fields.get("x-end")) {
                    ("GET", _) => origin::json(request.number.to_string()),
                    (_, Some("close")) => origin::hang_up(),
                    (_, Some("reset")) => origin::hang_up().resetting(),
                    (_, Some("half a head")) => origin::raw("HTTP/1.1 2"),
                    (_, Some("no http")) => origin::raw("SSH-2.0-OpenSSH\r\n\r\n"),
                    _ => panic!("{request:?}"),
                },
            );
        let larder = Larder::start(users_api(&origin, store, ""));
        for end in ["close", "reset", "half a head", "no http"] {
            for (method, target) in [
                ("POST", LIST),
                ("PUT", "/api/users/7/"),
                ("PATCH", "/api/users/7/"),
                ("DELETE", "/api/users/7/"),
                ("POST", "/other/"),
                ("DELETE", "/other/"),
            ] {
                // On a connection that is open already: there a client library is tempted to send again.
                assert!(larder.get("/other/").is_complete_success());
                let before = origin.count();
                let answer = larder.request(
                    method,
                    target,
                    &[("X-End", end)],
                    if method == "DELETE" { b"" } else { b"{}" },
                );
                assert_eq!(answer.status, 502, "{method} {target}, {end}: {answer:?}");
                assert_eq!(origin.count() - before, 1, "{method} {target}, {end}");
            }
        }
    });
}

#[test]
fn a_write_is_sent_once_to_a_connection_that_closed_while_idle() {
    for_both_stores(|store| {
        // Says keep-alive, and closes: as gunicorn's sync worker or an expired keep-alive does.
        let origin = Origin::start(|request| {
            let answer = origin::json(request.number.to_string());
            if request.method == "GET" {
                answer.closing()
            } else {
                answer
            }
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        for _ in 0..50 {
            assert!(larder.get("/other/").is_complete_success());
            let before = origin.count();
            let answer = larder.write("PATCH", "/api/users/7/");
            // Either it met a new connection, or the closing one, and then nobody knows whether it arrived.
            assert!(answer.status == 200 || answer.status == 502, "{answer:?}");
            let sent = origin.count() - before;
            assert!(
                sent == 1 || (sent == 0 && answer.status == 502),
                "sent {sent} times: {answer:?}"
            );
        }
    });
}

#[test]
fn a_get_lost_on_a_connection_that_was_kept_open_is_sent_again_once() {
    let origin = Origin::start(|request| {
        // The second request on a connection meets its end.
        if request.on_connection > 1 {
            origin::hang_up()
        } else {
            origin::json(request.number.to_string())
        }
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for _ in 0..20 {
        let before = origin.count();
        let answer = larder.get("/other/");
        assert!(answer.is_complete_success(), "{answer:?}");
        assert!(origin.count() - before <= 2);
    }
}

#[test]
fn a_get_is_not_sent_again_for_ever() {
    let origin = Origin::start(|request| match request.target.as_str() {
        "/never/" => origin::hang_up(),
        _ => origin::json("{}"),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    assert!(larder.get("/other/").is_complete_success());
    let before = origin.count();
    assert_eq!(larder.get("/never/").status, 502);
    assert!(
        origin.count() - before <= 2,
        "sent {} times",
        origin.count() - before
    );
}

#[test]
fn a_get_whose_answer_had_begun_is_not_sent_again() {
    let origin = Origin::start(|request| match request.on_connection {
        1 => origin::json("{}"),
        _ => origin::raw("HTTP/1.1 200 O"),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    larder.get("/other/");
    let before = origin.count();
    let answer = larder.get("/other/");
    assert_eq!(
        (answer.status, origin.count() - before),
        (502, 1),
        "{answer:?}"
    );
}

#[test]
fn bytes_after_an_answer_never_become_the_next_one() {
    for_both_stores(|store| {
        let origin = Origin::start(|request| match request.number {
            1 => origin::raw(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
            ),
            _ => origin::json("next"),
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        assert_eq!(larder.get("/other/").text(), "[]");
        for _ in 0..3 {
            assert_eq!(larder.get("/other/").text(), "next");
            assert_eq!(larder.get(LIST).text(), "next");
        }
    });
}

#[test]
fn an_answer_is_passed_on_while_it_arrives() {
    let second_half = Gate::new();
    let gate = second_half.clone();
    let origin = Origin::start(move |_| huge(200).pausing_after(100, &gate));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/other/", LIST] {
        second_half.close();
        let mut client = larder.connect();
        client.send(head("GET", target, &[], None).as_bytes());
        client.try_head("GET").unwrap();
        let mut half = [0; 100];
        let mut read = 0;
        while read < half.len() {
            let part = client.read_some(&mut half[read..]).unwrap();
            assert!(part > 0, "{target}: closed after {read} bytes");
            read += part;
        }
        second_half.open();
        assert_eq!(client.read_some(&mut [0; 200]).unwrap(), 100, "{target}");
    }
}

/// Server-sent events tell each reader what happens from when it came, or from the last one that it has seen, for as long as it stays.
#[test]
fn each_reader_of_an_event_stream_has_its_own_and_for_longer_than_an_answer_may_take() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let origin = Origin::start({
            let gate = gate.clone();
            move |_| origin::events(&gate)
        });
        let file = users_api(&origin, store, "");
        let upstream = format!(
            "{{url: \"{}\", connect: 300ms, first_byte: 300ms, total: 300ms, idle: 500ms}}",
            origin.url()
        );
        let larder = Larder::start(file.replacen(&origin.url(), &upstream, 1));
        let events = [("Accept", "text/event-stream"), ("Last-Event-ID", "6")];
        let mut readers: Vec<_> = [&[][..], &[], &events]
            .into_iter()
            .map(|fields| {
                let mut reader = larder.connect();
                reader.send(head("GET", LIST, fields, None).as_bytes());
                let begun = reader.try_head("GET").unwrap();
                let detail = "detail=event-stream";
                assert!(begun.cache_status().ends_with(detail), "{begun:?}");
                reader
            })
            .collect();
        assert_eq!(origin.count(), 3);
        assert_eq!(origin.last().fields.get("last-event-id"), Some("6"));
        thread::sleep(Duration::from_millis(700));
        gate.open();
        for reader in &mut readers {
            let content = reader.content(Framing::Chunked);
            assert!(content.whole);
            assert_eq!(content.start, b"data: 1\n\ndata: 2\n\n");
        }
    });
}

/// Whatever its own word says of how long it may be kept.
#[test]
fn an_event_stream_is_not_kept_by_the_apis_own_word_either() {
    let gate = Gate::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |_| origin::events(&gate).field("Cache-Control", "max-age=60")
    });
    let larder = Larder::start(format!(
        "upstream: {{url: \"{}\", total: 300ms, first_byte: 300ms, connect: 300ms}}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: \"/<path:rest>\", policy: http}}\n",
        origin.url()
    ));
    let mut readers = [(); 2].map(|()| {
        let mut reader = larder.connect();
        reader.send(head("GET", "/events/", &[], None).as_bytes());
        let begun = reader.try_head("GET").unwrap();
        let detail = "detail=event-stream";
        assert!(begun.cache_status().ends_with(detail), "{begun:?}");
        reader
    });
    thread::sleep(Duration::from_millis(700));
    gate.open();
    for reader in &mut readers {
        assert!(reader.content(Framing::Chunked).whole);
    }
    assert_eq!(origin.count(), 2);
}

/// Or as many pages as there are places would be the end of all other answers.
#[test]
fn who_reads_events_keeps_nobody_from_the_api() {
    let gate = Gate::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |request| match &*request.target {
            "/events/" => origin::status(200, "data: 1\n\ndata: 2\n\n")
                .field("Content-Type", "text/event-stream")
                .chunked()
                .pausing_after(9, &gate),
            _ => origin::json("{}"),
        }
    });
    let upstream = format!("{{url: \"{}\", max_connections: 1}}", origin.url());
    let file = users_api(&origin, "memory:", "").replacen(&origin.url(), &upstream, 1);
    let larder = Larder::start(file);
    let mut readers: Vec<_> = [(); 3]
        .map(|()| {
            let mut reader = larder.connect();
            reader.send(head("GET", "/events/", &[], None).as_bytes());
            assert_eq!(reader.try_head("GET").unwrap().status, 200);
            reader
        })
        .into();
    assert!(larder.get(LIST).is_complete_success());
    assert_eq!(larder.write("PATCH", "/api/users/7/").status, 200);
    gate.open();
    for reader in &mut readers {
        assert!(reader.content(Framing::Chunked).whole);
    }
}

#[test]
fn an_upstream_that_is_not_there_is_a_502_and_comes_back() {
    for_both_stores(|store| {
        let mut origin = Origin::start(|request| origin::json(request.number.to_string()));
        let larder = Larder::start(users_api(&origin, store, ""));
        larder.get(LIST);
        origin.stop();
        for (method, target) in [
            ("GET", "/other/"),
            ("GET", "/api/users/7/"),
            ("POST", "/other/"),
            ("POST", LIST),
        ] {
            let answer = larder.request(method, target, &[], b"");
            assert_eq!(answer.status, 502, "{method} {target}");
            assert!(answer.content.whole && !answer.is_hit());
        }
        // A write that never left has changed nothing (G8), and what is stored is still served.
        assert!(larder.get(LIST).is_hit());
        origin.start_again();
        for (method, target) in [("GET", "/other/"), ("GET", "/api/users/7/"), ("POST", LIST)] {
            assert_eq!(
                larder.request(method, target, &[], b"").status,
                200,
                "{method} {target}"
            );
        }
    });
}

#[test]
fn an_upstream_on_a_unix_socket_is_asked_alike() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gunicorn.sock");
    let origin =
        Origin::start_on_unix_socket(&socket, |request| origin::json(request.number.to_string()));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    assert_eq!(larder.get(LIST).text(), "1");
    assert!(larder.get(LIST).is_hit());
    assert_eq!(larder.write("POST", LIST).status, 200);
    assert_eq!(larder.get(LIST).text(), "3");
    assert_eq!(
        origin.last().fields.get("host"),
        Some(support::client::HOST)
    );
}

/// Where a closed connection is all that tells of an answer's end, one that breaks off must not end so: what stands in front, as nginx
/// does, would keep it.
#[test]
fn an_answer_that_breaks_off_looks_whole_to_no_client_of_http_1_0() {
    // Piece by piece, or it would be an error before its head has gone out.
    let pause = Duration::from_millis(20);
    let origin = Origin::start(move |_| {
        huge(10_000)
            .chunked()
            .cut_after(8_000)
            .trickling(1_000, pause)
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/other/", LIST] {
        let mut stream = TcpStream::connect(larder.address()).unwrap();
        let head = format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let error = stream
            .read_to_end(&mut Vec::new())
            .map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::ConnectionReset), "{target}");
    }
}

#[test]
fn an_answer_that_was_whole_is_not_lost_when_its_connection_has_been_idle_for_too_long() {
    let origin = Origin::start(|_| huge(100_000));
    let larder = Larder::start(users_api(&origin, "memory:", "limits: {keep_alive: 1s}"));
    let mut stream = TcpStream::connect(larder.address()).unwrap();
    let head = format!("GET {LIST} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let read = stream.read_to_end(&mut Vec::new()).expect("no reset");
    assert!(read > 100_000, "{read}");
}

fn for_both_stores(test: impl Fn(&str)) {
    test("memory:");
    test(&RedisServer::start().url());
}

fn limited_to(origin: &Origin, store: &str, max_body: &str) -> String {
    format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nttl: 1h\n\
         routes:\n  - {{path: /api/users/, key: users:list, max_body: {max_body}}}\n",
        origin.url()
    )
}

trait Whole {
    fn assert_whole_pattern(&self);
}

impl Whole for Answer {
    #[track_caller]
    fn assert_whole_pattern(&self) {
        assert_eq!(self.status, 200);
        assert!(
            self.content.whole,
            "it broke off after {} bytes",
            self.content.length
        );
        assert!(
            self.content.is_pattern,
            "some of {} bytes are not what was sent",
            self.content.length
        );
    }
}
