//! Limits, each reached: who asks for too much is refused or cut off, and everybody else is served.

mod support;

use std::io::Write;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use support::client::{Answer, Connection, head};
use support::larder::Larder;
use support::origin::{self, Origin, huge};
use support::redis::RedisServer;
use support::{Framing, Gate, eventually, users_api};

const LIST: &str = "/api/users/";

/// A GET on a connection of its own, for a client that a trusted proxy names.
fn asked_by(client: &str, larder: &Larder, target: &str) -> Connection {
    let mut connection = larder.connect();
    let fields = [("X-Forwarded-For", client)];
    connection.send(head("GET", target, &fields, None).as_bytes());
    connection
}

fn answers(mut connection: Connection) -> JoinHandle<Answer> {
    thread::spawn(move || connection.answer("GET"))
}

/// One slot, and so many places in the queue.
fn one_at_a_time(origin: &Origin, queue: usize) -> Larder {
    let file = users_api(origin, "memory:", "");
    let upstream = format!(
        "upstream: {{url: \"{}\", max_connections: 1, queue: {queue}}}",
        origin.url()
    );
    Larder::start(file.replace(&format!("upstream: {}", origin.url()), &upstream))
}

#[test]
fn one_client_cannot_keep_the_others_out_of_the_queue() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 3);
    let flood = "198.51.100.1";
    let first = answers(asked_by(flood, &larder, "/flood/0"));
    eventually("the first is under way", || origin.count() == 1);
    let mut waiting: Vec<_> = (1..=3)
        .map(|n| {
            let connection = asked_by(flood, &larder, &format!("/flood/{n}"));
            eventually("it waits", || larder.waiting() == n);
            connection
        })
        .collect();
    // The queue is full of its own requests: one more is refused.
    let refused = asked_by(flood, &larder, "/flood/4").answer("GET");
    assert_eq!(
        (refused.status, refused.field("retry-after")),
        (503, Some("1"))
    );
    assert!(refused.cache_status().contains("queue-full"), "{refused:?}");
    // Another's is not: the latest of the flood gives up its place.
    let good = asked_by("198.51.100.2", &larder, "/good/");
    let sent_away = waiting.pop().unwrap().answer("GET");
    assert_eq!(sent_away.status, 503);
    assert!(sent_away.cache_status().contains("queue-full"));
    let waiting: Vec<_> = waiting.into_iter().map(answers).collect();
    let good = answers(good);
    gate.open();
    for one in [first, good].into_iter().chain(waiting) {
        assert_eq!(one.join().unwrap().status, 200);
    }
    // In turns: the flood's oldest, then the other, then the rest of the flood.
    let order: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(order, ["/flood/0", "/flood/1", "/good/", "/flood/2"]);
}

#[test]
fn a_fetch_that_others_wait_for_does_not_wait_behind_the_flood_of_who_asked_first() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 10);
    let flood = "198.51.100.1";
    let mut under_way: Vec<_> = (0..4)
        .map(|n| {
            let connection = asked_by(flood, &larder, &format!("/flood/{n}"));
            eventually("it waits", || origin.count() + larder.waiting() == n + 1);
            connection
        })
        .collect();
    under_way.push(asked_by(flood, &larder, LIST));
    eventually("its fetch waits", || larder.waiting() == 4);
    let good = answers(asked_by("198.51.100.2", &larder, LIST));
    eventually("another waits for it, too", || {
        larder.readiness()["upstream"]["waiting_clients"] == 2
    });
    gate.open();
    assert_eq!(good.join().unwrap().status, 200);
    for one in under_way.into_iter().map(answers) {
        assert_eq!(one.join().unwrap().status, 200);
    }
    let order: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(
        order,
        ["/flood/0", "/flood/1", LIST, "/flood/2", "/flood/3"]
    );
}

#[test]
fn a_request_whose_client_leaves_leaves_the_queue() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 2);
    let first = answers(asked_by("198.51.100.1", &larder, "/first/"));
    eventually("the first is under way", || origin.count() == 1);
    let left = asked_by("198.51.100.1", &larder, "/left/");
    eventually("it waits", || larder.waiting() == 1);
    drop(left);
    eventually("it has left the queue", || larder.waiting() == 0);
    gate.open();
    assert_eq!(first.join().unwrap().status, 200);
    assert_eq!(larder.get("/next/").status, 200);
    let order: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(order, ["/first/", "/next/"]);
}

#[test]
fn a_client_that_closes_its_sending_side_has_left_and_a_write_of_its_runs_on() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 2);
    let ask = |method: &str| {
        let mut client = larder.connect();
        client.send(head(method, LIST, &[("Content-Length", "0")], None).as_bytes());
        client
    };
    let mut write = ask("POST");
    eventually("the write is under way", || origin.count() == 1);
    let mut read = ask("GET");
    eventually("the read waits", || larder.waiting() == 1);
    for client in [&mut write, &mut read] {
        client.finish_sending();
        assert!(client.is_closed());
    }
    eventually("the read has left the queue", || larder.waiting() == 0);
    gate.open();
    eventually("the write is answered", || {
        larder.readiness()["upstream"]["under_way"] == 0
    });
    assert_eq!(origin.count(), 1);
}

#[test]
fn one_client_leaves_a_quarter_of_the_slots_to_others() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |request| match request.target.starts_with("/slow/") {
        true => origin::json("{}").behind(&behind),
        false => origin::json("{}"),
    });
    let file = users_api(&origin, "memory:", "");
    let upstream = format!(
        "upstream: {{url: \"{}\", max_connections: 4}}",
        origin.url()
    );
    let larder = Larder::start(file.replace(&format!("upstream: {}", origin.url()), &upstream));
    let slow: Vec<_> = (0..6)
        .map(|n| asked_by("198.51.100.1", &larder, &format!("/slow/{n}")))
        .collect();
    eventually("it has its share, and the rest waits", || {
        (origin.count(), larder.waiting()) == (3, 3)
    });
    for n in 0..5 {
        let good = asked_by("198.51.100.2", &larder, &format!("/good/{n}")).answer("GET");
        assert_eq!(good.status, 200);
    }
    gate.open();
    for one in slow.into_iter().map(answers) {
        assert_eq!(one.join().unwrap().status, 200);
    }
}

/// A proxy to which this machine is a client like any other.
fn larder(origin: &Origin, limits: &str) -> Larder {
    let more = format!("trusted_proxies: []\nlimits: {{{limits}}}");
    Larder::start(users_api(origin, "memory:", &more))
}

fn connections(larder: &Larder, what: &str) -> u64 {
    larder.readiness()["connections"][what]
        .as_u64()
        .expect(what)
}

/// A connection that has been served once, and is idle.
fn idle(larder: &Larder) -> Connection {
    let mut connection = larder.connect();
    assert_eq!(connection.get("/any/").status, 200);
    connection
}

#[test]
fn who_is_refused_and_then_neither_sends_nor_closes_gives_its_place_back() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = larder(&origin, "content: 1kB");
    let mut client = larder.connect();
    client.send(head("POST", "/any/", &[], Some(2_000)).as_bytes());
    assert_eq!(client.answer("POST").status, 413);
    eventually("its place is free", || connections(&larder, "open") == 0);
}

#[test]
fn one_client_has_so_many_connections_and_one_more_is_closed_at_once() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = larder(&origin, "connections_per_address: 3");
    eventually("the first look has gone", || {
        connections(&larder, "open") == 0
    });
    let mut open: Vec<_> = (0..3).map(|_| idle(&larder)).collect();
    assert!(larder.connect().is_closed());
    assert_eq!(connections(&larder, "refused"), 1);
    for one in &mut open {
        assert_eq!(one.get("/any/").status, 200);
    }
    open.pop();
    eventually("there is a place again", || {
        connections(&larder, "open") == 2
    });
    idle(&larder);
    assert!(larder.output().contains("limits.connections_per_address"));
    // A trusted proxy has as many as it likes, for it has them for its clients.
    let trusting = Larder::start(users_api(
        &origin,
        "memory:",
        "limits: {connections_per_address: 3}",
    ));
    let _open: Vec<_> = (0..9).map(|_| idle(&trusting)).collect();
    assert_eq!(connections(&trusting, "refused"), 0);
}

#[test]
fn when_there_is_no_room_the_connection_that_was_idle_for_longest_makes_it() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = larder(&origin, "connections: 64, connections_per_address: 1000");
    eventually("the first look has gone", || {
        connections(&larder, "open") == 0
    });
    let mut first = idle(&larder);
    // Those that never say anything count as well.
    let _silent: Vec<_> = (0..200).map(|_| larder.connect()).collect();
    for _ in 0..3 {
        assert_eq!(larder.get("/any/").status, 200);
    }
    assert!(first.is_closed());
    assert!(connections(&larder, "open") <= 64);
    assert!(connections(&larder, "made_room") >= 64);
}

#[test]
fn where_descriptors_are_few_idle_connections_make_room_before_they_run_out() {
    let origin = Origin::start(|_| origin::json("[]"));
    let few = ["sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""];
    let larder = Larder::with(users_api(&origin, "memory:", ""));
    let larder = larder.under(few).start();
    let _crowd: Vec<Connection> = (0..100).map(|_| larder.connect()).collect();
    for target in ["/api/users/", "/api/users/7/", "/about/"] {
        assert_eq!(larder.get(target).status, 200);
    }
    assert!(connections(&larder, "made_room") > 0);
    assert!(
        !larder.output().contains("cannot accept"),
        "{}",
        larder.output()
    );
}

#[test]
fn a_connection_without_a_request_is_closed_in_its_time_and_not_before() {
    let origin = Origin::start(|_| origin::json("{}"));
    let short = larder(&origin, "keep_alive: 1s, header_timeout: 1h");
    assert!(idle(&short).is_closed());
    let long = larder(&origin, "keep_alive: 1h, header_timeout: 1s");
    // What has not asked for anything has no more than a head's time.
    let mut silent = long.connect();
    let mut kept = idle(&long);
    assert!(silent.is_closed());
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(kept.get("/any/").status, 200);
    // Nor has a head that does not end, be it the second.
    kept.send(b"GET /any/ HTTP/1.1\r\nHost: api.exam");
    assert!(kept.is_closed());
}

#[test]
fn a_head_that_trickles_is_given_up_on_both_listeners() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = larder(&origin, "header_timeout: 1s");
    for address in [larder.address(), larder.admin_address()] {
        let mut slow = Connection::open(address);
        let mut sent = 0;
        eventually("it is closed", || {
            sent += 1;
            thread::sleep(Duration::from_millis(50));
            slow.try_send(b"G").is_err() || (sent > 10 && slow.has_ended())
        });
        assert_eq!(larder.get("/any/").status, 200);
        assert_eq!(larder.admin("GET", "/healthz").status, 200);
    }
}

#[test]
fn content_that_trickles_is_given_up_however_steadily_it_comes() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = larder(&origin, "content_idle: 1s, content_rate: 10KiB");
    // Read whole before anything else happens, or passed on as it comes.
    for (length, word) in [(10_000, "refused"), (1 << 30, "content")] {
        let mut slow = larder.connect();
        slow.send(head("POST", LIST, &[], Some(length)).as_bytes());
        let trickle = slow.try_clone();
        let trickles = thread::spawn(move || {
            while (&trickle).write_all(b"{").is_ok() {
                thread::sleep(Duration::from_millis(100));
            }
        });
        let answer = slow.answer("POST");
        assert_eq!(answer.status, 408, "{answer:?}");
        assert!(answer.cache_status().contains(word), "{answer:?}");
        drop(slow);
        trickles.join().unwrap();
    }
    eventually("its slot is given back", || {
        larder.readiness()["upstream"]["under_way"] == 0
    });
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_and_all_it_held_is_given_back() {
    let origin = Origin::start(|_| huge(1 << 30));
    let larder = larder(&origin, "write_idle: 1s");
    let mut readers: Vec<_> = ["/media/film", LIST]
        .map(|target| {
            let mut reader = larder.connect();
            reader.send(head("GET", target, &[], None).as_bytes());
            reader
        })
        .into();
    for reader in &mut readers {
        assert_eq!(reader.try_head("GET").unwrap().status, 200);
    }
    eventually("both are cut off", || {
        connections(&larder, "readers_cut") == 2
    });
    eventually("their slots are given back", || {
        larder.readiness()["upstream"]["under_way"] == 0
    });
    for mut reader in readers {
        assert!(!reader.content(Framing::Length(1 << 30)).whole);
    }
}

#[test]
fn a_slow_reader_is_not_cut_off_as_idle() {
    let origin = Origin::start(|_| huge(4_000_000));
    let larder = larder(&origin, "keep_alive: 1s, header_timeout: 1s");
    assert_eq!(larder.get(LIST).status, 200);
    let mut slow = larder.connect();
    slow.send(head("GET", LIST, &[], None).as_bytes());
    let answer = slow.try_head("GET").unwrap();
    assert!(answer.is_hit());
    // Longer than both: all that is left for Larder to do is to write what waits.
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(500));
        let mut some = [0; 1000];
        assert!(slow.read_some(&mut some).unwrap() > 0);
    }
    let rest = slow.content(Framing::Length(4_000_000 - 6000));
    assert!(rest.whole);
}

#[test]
fn a_trusted_proxy_says_for_whom_it_connects() {
    let origin = Origin::start(|_| origin::json("{}"));
    let more = "proxy_protocol: true\nlimits: {connections_per_address: 2}";
    let larder = Larder::start(users_api(&origin, "memory:", more));
    let named = |header: &[u8]| {
        let mut connection = larder.connect();
        // It may come in pieces, or with the request behind it.
        let (start, rest) = header.split_at(header.len() / 2);
        connection.send(start);
        thread::sleep(Duration::from_millis(20));
        connection.send(&[rest, head("GET", "/any/", &[], None).as_bytes()].concat());
        connection
    };
    let v1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb";
    let mut open = Vec::new();
    for header in [&v1[..], v2] {
        let mut connection = named(header);
        assert_eq!(connection.answer("GET").status, 200);
        assert_eq!(
            origin.last().fields.get("x-forwarded-for"),
            Some("203.0.113.7")
        );
        open.push(connection);
    }
    // It is the client that has as many connections as it may have, and not the proxy.
    assert!(named(v1).has_ended());
    let mut check = named(b"PROXY UNKNOWN\r\n");
    assert_eq!(check.answer("GET").status, 200);
    assert_eq!(
        origin.last().fields.get("x-forwarded-for"),
        Some("127.0.0.1")
    );
    // Nobody gets in without saying so, and nothing of it gets through.
    let before = (origin.count(), connections(&larder, "bad_headers"));
    let mut without = larder.connect();
    without.send(head("GET", "/any/", &[], None).as_bytes());
    assert!(without.has_ended());
    assert_eq!(
        (origin.count(), connections(&larder, "bad_headers")),
        (before.0, before.1 + 1)
    );
}

/// A proxy behind the balancer is, and who merely comes through it is not.
#[test]
fn whom_a_balancer_names_is_believed_only_if_it_is_a_trusted_proxy_itself() {
    let origin = Origin::start(|_| origin::json("{}"));
    let more = "proxy_protocol: true\ntrusted_proxies: [127.0.0.0/8, 192.0.2.7]";
    let larder = Larder::start(users_api(&origin, "memory:", more));
    for (named, told) in [
        ("192.0.2.7", "203.0.113.7, 192.0.2.7"),
        ("192.0.2.8", "192.0.2.8"),
    ] {
        let mut connection = larder.connect();
        let header = format!("PROXY TCP4 {named} 198.51.100.1 56324 443\r\n");
        connection.send(header.as_bytes());
        let fields = [("X-Forwarded-For", "203.0.113.7")];
        connection.request("GET", "/any/", &fields, b"");
        let last = origin.last();
        assert_eq!(last.fields.get("x-forwarded-for"), Some(told));
    }
}

#[test]
fn who_is_no_trusted_proxy_cannot_say_for_whom_it_connects() {
    let origin = Origin::start(|_| origin::json("{}"));
    let more = "proxy_protocol: true\ntrusted_proxies: [192.0.2.0/24]";
    let larder = Larder::start(users_api(&origin, "memory:", more));
    let mut connection = larder.connect();
    let _ = connection.try_send(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n");
    let _ = connection.try_send(head("GET", "/any/", &[], None).as_bytes());
    assert!(connection.has_ended());
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_client_makes_so_many_requests_and_is_told_when_to_come_again() {
    let origin = Origin::start(|_| origin::json("{}"));
    let rate = "limits: {rate: {requests: 4, window: 1h}}";
    let larder = Larder::start(users_api(&origin, "memory:", rate));
    let ask = |client: &str, target: &str| larder.get_with(target, &[("X-Forwarded-For", client)]);
    // Hits count like all others.
    for _ in 0..4 {
        assert_eq!(ask("198.51.100.1", LIST).status, 200);
    }
    let refused = ask("198.51.100.1", LIST);
    assert_eq!(refused.status, 429);
    assert!(
        refused.cache_status().ends_with("; detail=rate-limited"),
        "{refused:?}"
    );
    let after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=900).contains(&after), "{after}");
    // Its connection stays, and everybody else is served: by address, an IPv6 one by its /64.
    assert_eq!(refused.field("connection"), None);
    assert_eq!(ask("198.51.100.2", LIST).status, 200);
    for n in 0..4 {
        assert_eq!(ask(&format!("2001:db8:1:2::{n}"), LIST).status, 200);
    }
    assert_eq!(ask("2001:db8:1:2:ffff::1", LIST).status, 429);
    assert_eq!(ask("2001:db8:1:3::1", LIST).status, 200);
    // A trusted proxy that names nobody asks for everybody.
    for _ in 0..9 {
        assert_eq!(larder.get(LIST).status, 200);
    }
    assert_eq!(origin.count(), 1);
    assert!(larder.output().contains("\"detail\":\"rate-limited\""));
}

/// What its proxy has written behind it counts, whatever it has sent itself.
#[test]
fn a_client_behind_a_trusted_proxy_cannot_hide_who_it_is() {
    let origin =
        Origin::start(|request| origin::json(request.fields.get("x-real-ip").unwrap_or("nobody")));
    let rate = "limits: {rate: {requests: 2, window: 1h}}";
    let larder = Larder::start(users_api(&origin, "memory:", rate));
    let ask = |sent: &[u8]| {
        let lines = [
            b"GET /elsewhere/ HTTP/1.1\r\nHost: a\r\n",
            sent,
            b"\r\n\r\n",
        ];
        let mut connection = larder.connect();
        connection.send(&lines.concat());
        let answer = connection.answer("GET");
        (answer.status, answer.text())
    };
    for sent in [
        &b"X-Forwarded-For: \xff, 203.0.113.9"[..],
        b"X-Forwarded-For: \xff\r\nX-Forwarded-For: 203.0.113.9:4711",
    ] {
        assert_eq!(ask(sent), (200, "203.0.113.9".to_owned()));
    }
    assert_eq!(ask(b"X-Forwarded-For: 203.0.113.9").0, 429);
}

#[test]
fn a_credential_makes_so_many_requests_from_wherever_it_is_used() {
    let origin = Origin::start(|_| origin::json("{}"));
    let rate = "limits: {rate: {per: credential, requests: 1, window: 1h, burst: 3}}";
    let larder = Larder::start(users_api(&origin, "memory:", rate));
    let ask = |client: &str, token: &str| {
        let fields = [("X-Forwarded-For", client), ("Authorization", token)];
        larder.get_with(LIST, &fields).status
    };
    for client in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        assert_eq!(ask(client, "Token a"), 200);
    }
    assert_eq!(ask("198.51.100.4", "Token a"), 429);
    assert_eq!(ask("198.51.100.1", "Token b"), 200);
    // Without one, it is the address.
    let anonymous = || {
        larder
            .get_with(LIST, &[("X-Forwarded-For", "198.51.100.1")])
            .status
    };
    assert_eq!([(); 4].map(|()| anonymous()), [200, 200, 200, 429]);
}

#[test]
fn readers_that_take_nothing_do_not_fill_the_memory_with_their_answers() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| huge(1_000_000));
    let more = "trusted_proxies: []\nlimits: {held: 10MB, write_idle: 1h}";
    let larder = Larder::start(users_api(&origin, &redis.url(), more));
    assert_eq!(larder.get(LIST).status, 200);
    assert!(larder.get(LIST).is_hit());
    // Each hit from Redis is one reader's own.
    let _readers: Vec<_> = (0..60)
        .map(|_| {
            let mut reader = larder.connect();
            reader.send(head("GET", LIST, &[], None).as_bytes());
            let answer = reader.try_head("GET").unwrap();
            assert!(answer.is_hit(), "{answer:?}");
            reader
        })
        .collect();
    eventually("some are cut off, and the rest may stay", || {
        connections(&larder, "readers_cut") > 0 && connections(&larder, "held_bytes") <= 10_000_000
    });
    assert!(larder.get(LIST).content.whole);
}

#[test]
fn content_in_the_smallest_pieces_takes_no_more_memory_than_it_has_bytes() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = larder(&origin, "");
    let mut slow = larder.connect();
    slow.send(head("POST", LIST, &[], Some(30_000)).as_bytes());
    let before = larder.memory();
    for _ in 0..3_000 {
        slow.send(b"x");
        // So that each arrives by itself.
        thread::sleep(Duration::from_micros(300));
    }
    let growth = larder.memory().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} bytes for three thousand");
    slow.send(&[b'x'; 27_000]);
    assert_eq!(slow.answer("POST").status, 200);
    assert_eq!(origin.last().content.length, 30_000);
}

#[test]
fn hits_that_are_known_again_count_as_requests_to_the_time_limits() {
    let origin = Origin::start(|_| origin::json("{}"));
    let hits = |limits: &str| {
        let larder = larder(&origin, limits);
        assert_eq!(larder.get(LIST).status, 200);
        let mut connection = larder.connect();
        // The very same bytes, again and again: from the third time on they are looked up at once.
        for _ in 0..12 {
            assert!(connection.get(LIST).is_hit());
            thread::sleep(Duration::from_millis(200));
        }
        (larder, connection)
    };
    // Longer than a head may take, from the last that the machinery saw.
    let (_long, mut kept) = hits("keep_alive: 1h, header_timeout: 1s");
    thread::sleep(Duration::from_millis(1500));
    assert!(kept.get(LIST).is_hit());
    kept.send(b"GET /api/us");
    assert!(kept.is_closed());
    let (_short, mut idle) = hits("keep_alive: 1s, header_timeout: 1h");
    assert!(idle.is_closed());
    // Idle is idle: it makes room like any other.
    let (small, mut idle) = hits("connections: 64, connections_per_address: 1000");
    let _silent: Vec<_> = (0..100).map(|_| small.connect()).collect();
    assert_eq!(small.get(LIST).status, 200);
    assert!(idle.is_closed());
}
