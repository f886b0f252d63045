//! What passes through a proxy and what must not: fields, hosts, methods, targets, raw bytes; and how it ends.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use support::client::{Answer, Connection, HOST, head};
use support::larder::{self, Larder};
use support::origin::{self, Origin, Request};
use support::{Framing, Gate, PATIENCE, eventually, users_api};

const LIST: &str = "/api/users/";

#[test]
fn what_no_route_names_is_forwarded_untouched() {
    let (origin, larder) = echo("");
    let target = "/any/p%61th;a=1/..%2f/x?b=2&a=1&&b=%20+&=&c";
    let fields = [
        ("X-Same", "1"),
        ("x-same", "2, 3"),
        ("X-Empty", ""),
        ("X-Bytes", "caf\u{e9}"),
        ("Accept", "text/html"),
        ("Accept-Encoding", "gzip, br"),
        ("Cache-Control", "no-cache"),
        ("If-None-Match", "\"x\""),
        ("Range", "bytes=0-1"),
        ("Authorization", "Token a"),
        ("Cookie", "a=1; b=2"),
    ];
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
        let body: &[u8] = if matches!(method, "POST" | "PUT" | "PATCH") {
            b"\0\xff{}"
        } else {
            b""
        };
        larder.request(method, target, &fields, body);
        let asked = origin.last();
        assert_eq!(
            (asked.method.as_str(), asked.target.as_str()),
            (method, target)
        );
        assert_eq!(asked.content.start, body, "{method}");
        assert_eq!(asked.fields.all("x-same").join(", "), "1, 2, 3", "{method}");
        assert_eq!(
            asked.fields.get("x-bytes"),
            Some("caf\u{c3}\u{a9}"),
            "{method}"
        );
        for (name, value) in &fields[4..] {
            assert_eq!(asked.fields.all(name), [*value], "{method} {name}");
        }
        assert_eq!(asked.fields.get("x-empty"), Some(""), "{method}");
        assert_eq!(asked.fields.all("host"), [HOST], "{method}");
    }
}

#[test]
fn any_final_answer_passes_back() {
    let origin = Origin::start(|request| {
        let status = request.target.trim_matches('/').parse().unwrap();
        origin::status(status, "x")
            .field("Set-Cookie", "a=1")
            .field("Set-Cookie", "b=2")
            .field("X-Bytes", "\u{fc}")
            .field("Server", "gunicorn")
            .field("Content-Encoding", "gzip")
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for status in [
        200, 201, 202, 203, 204, 206, 299, 300, 301, 304, 307, 400, 401, 404, 418, 451, 499, 500,
        502, 503, 504, 599, 999,
    ] {
        let answer = larder.get(&format!("/{status}/"));
        assert_eq!(answer.status, status);
        assert!(answer.content.whole);
        assert_eq!(answer.fields.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(answer.field("x-bytes"), Some("\u{c3}\u{bc}"));
        assert_eq!(
            (answer.field("server"), answer.field("content-encoding")),
            (Some("gunicorn"), Some("gzip"))
        );
        assert!(answer.field("cache-status").is_some());
    }
}

#[test]
fn hop_by_hop_fields_and_those_named_in_connection_stop_here() {
    let (origin, larder) = echo("");
    for target in ["/other/", LIST, "/api/users/9/"] {
        for method in ["GET", "POST"] {
            let fields = [
                ("Connection", "X-Hop, keep-alive, , X-Second"),
                ("X-Hop", "1"),
                ("X-Second", "2"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("TE", "trailers"),
                ("Trailer", "X-T"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
                ("X-Kept", "1"),
                ("X_Underscore", "1"),
            ];
            let before = origin.count();
            let answer = larder.request(method, target, &fields, b"");
            assert!(
                answer.status == 200 && origin.count() == before + 1,
                "{method} {target}: {answer:?}"
            );
            let asked = origin.last();
            for name in [
                "x-hop",
                "x-second",
                "keep-alive",
                "proxy-connection",
                "te",
                "trailer",
                "upgrade",
                "http2-settings",
                "x_underscore",
            ] {
                assert!(
                    !asked.fields.has(name),
                    "{method} {target}: {name} in {:?}",
                    asked.fields
                );
            }
            // A fill is our own request and takes along what its key holds, nothing else.
            if method == "POST" || target == "/other/" {
                assert_eq!(asked.fields.get("x-kept"), Some("1"), "{method} {target}");
            }
            larder.purge_everything();
        }
    }
}

#[test]
fn nobody_can_have_a_field_removed_that_decides_something() {
    let (origin, larder) = echo("");
    let fields = [
        (
            "Connection",
            "close, Host, Content-Length, Authorization, Cookie, Cache-Control, X-Api-Key",
        ),
        ("Authorization", "Token a"),
        ("Cookie", "sessionid=a"),
        ("Cache-Control", "no-transform"),
    ];
    for (method, target) in [
        ("POST", "/other/"),
        ("PATCH", "/api/users/7/"),
        ("GET", "/other/"),
    ] {
        let body: &[u8] = if method == "GET" { b"" } else { b"12345" };
        let answer = larder.request(method, target, &fields, body);
        if answer.status == 400 {
            continue; // Refused whole: nothing was removed.
        }
        let asked = origin.last();
        assert_eq!(asked.fields.get("authorization"), Some("Token a"));
        assert_eq!(asked.fields.get("cookie"), Some("sessionid=a"));
        assert_eq!(asked.fields.get("cache-control"), Some("no-transform"));
        assert_eq!(asked.fields.all("host"), [HOST]);
        assert_eq!(asked.content.length, body.len() as u64);
    }
}

#[test]
fn via_is_told_both_ways() {
    let origin = Origin::start(|_| origin::json("[]").field("Via", "1.1 behind"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/other/", LIST, LIST] {
        let answer = larder.get_with(target, &[("Via", "1.0 before")]);
        let back = answer.fields.all("via").join(", ");
        assert!(back.starts_with("1.1 behind, 1.1 "), "{target}: {back}");
        let there = origin.last().fields.all("via").join(", ");
        assert!(
            there == "1.1 larder" && target == LIST || there.starts_with("1.0 before, 1.1 "),
            "{target}: {there}"
        );
    }
}

#[test]
fn a_client_by_ipv4_is_named_by_its_ipv4_address_also_where_all_addresses_are_listened_at() {
    let origin = Origin::start(|_| origin::json("[]"));
    let file = users_api(&origin, "memory:", "");
    let both = format!("listen: \"[::]:${{LISTEN_PORT}}\"\nadmin: ${{ADMIN}}\n{file}");
    let larder = Larder::start(both);
    for target in ["/other/", LIST] {
        larder.get(target);
        let asked = origin.last();
        for name in ["x-forwarded-for", "x-real-ip"] {
            assert_eq!(asked.fields.all(name), ["127.0.0.1"], "{target}");
        }
        let forwarded = asked.fields.all("forwarded").join(", ");
        assert!(forwarded.starts_with("for=127.0.0.1;"), "{forwarded}");
    }
}

#[test]
fn who_is_not_trusted_is_not_believed_about_where_a_request_comes_from() {
    let spoofed = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "6666"),
        ("Forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Script-Name", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("X-HTTP-Method-Override", "EVIL"),
        ("X-Accel-Redirect", "/evil"),
        ("X-Sendfile", "/evil"),
    ];
    let (origin, larder) = echo("trusted_proxies: []");
    for (method, target) in [("GET", "/other/"), ("GET", LIST), ("POST", LIST)] {
        larder.request(method, target, &spoofed, b"");
        let asked = origin.last();
        let all = format!("{:?}", asked.fields);
        assert!(
            !all.contains("6.6.6.6")
                && !all.contains("evil")
                && !all.contains("EVIL")
                && !all.contains("6666"),
            "{all}"
        );
        assert_eq!(
            asked.fields.all("x-forwarded-for"),
            ["127.0.0.1"],
            "{target}"
        );
        assert_eq!(asked.fields.all("x-forwarded-host"), [HOST], "{target}");
        assert_eq!(asked.fields.all("x-forwarded-proto"), ["http"], "{target}");
        // Whoever reads the one must not read otherwise in the other.
        for forwarded in asked.fields.all("forwarded") {
            assert!(
                forwarded.contains("for=127.0.0.1")
                    && forwarded.contains("proto=http")
                    && !forwarded.contains("https"),
                "{forwarded}"
            );
        }
    }
}

#[test]
fn who_is_trusted_is_believed() {
    let (origin, larder) = echo("");
    let fields = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "api.example.org"),
    ];
    for (method, target) in [("GET", "/other/"), ("POST", LIST)] {
        larder.request(method, target, &fields, b"");
        let asked = origin.last();
        assert_eq!(
            asked.fields.all("x-forwarded-for").join(", "),
            "203.0.113.9, 127.0.0.1"
        );
        assert_eq!(asked.fields.all("x-forwarded-proto"), ["https"]);
    }
}

#[test]
fn only_the_hosts_on_the_list_are_answered() {
    let (origin, larder) = echo("hosts: [api.example.org, \"local.example:8080\"]");
    for host in [
        "api.example.org",
        "API.Example.Org",
        "api.example.org:8080",
        "local.example:8080",
    ] {
        assert_eq!(
            larder.get_with("/other/", &[("Host", host)]).status,
            200,
            "{host}"
        );
    }
    let before = origin.count();
    for host in [
        "evil.example",
        "api.example.org.evil.example",
        "local.example",
        "local.example:81",
    ] {
        for target in ["/other/", LIST] {
            assert_eq!(
                larder.get_with(target, &[("Host", host)]).status,
                421,
                "{host}"
            );
            assert_eq!(
                larder
                    .request("POST", target, &[("Host", host)], b"")
                    .status,
                421,
                "{host}"
            );
        }
    }
    assert_eq!(origin.count(), before);
}

#[test]
fn a_request_without_exactly_one_right_host_is_refused() {
    let (origin, larder) = echo("");
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
        "Host: a?b\r\n",
        "Host: a:99999\r\n",
        "Host: a:b\r\n",
        "Host: \r\n",
        "Host: a,b\r\n",
        "Host: a\\b\r\n",
    ] {
        let answer = raw(
            &larder,
            format!("GET /other/ HTTP/1.1\r\n{hosts}\r\n").as_bytes(),
        );
        assert_eq!(answer.status, 400, "{hosts:?}: {answer:?}");
    }
    for target in [
        "http://b.example/other/",
        "ftp://h/x",
        "javascript:alert(1)",
        "x",
        "//",
        "http://",
    ] {
        let answer = try_raw(
            &larder,
            format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes(),
        );
        if target == "//" {
            continue; // A path of two slashes: odd, and forwarded as it is.
        }
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
    }
    assert!(
        origin.requests().iter().all(|asked| asked.target == "//"),
        "{:?}",
        origin.requests()
    );
}

#[test]
fn the_absolute_form_is_understood_and_forwarded_as_a_path() {
    let (origin, larder) = echo("");
    let answer = raw(
        &larder,
        b"GET http://api.example.org/api/users/?b=1&a=2 HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(origin.last().target, "/api/users/?a=2&b=1");
    assert_eq!(origin.last().fields.all("host"), ["api.example.org"]);
}

#[test]
fn a_method_that_is_not_listed_is_refused() {
    let (origin, larder) = echo("");
    for method in ["BREW", "PURGE", "PROPFIND", "TRACE", "get", "CONNECT"] {
        let target = if method == "CONNECT" {
            "api.example.org:443"
        } else {
            LIST
        };
        let answer = larder.connect().request(method, target, &[], b"");
        assert!(
            matches!(answer.status, 400 | 405 | 501),
            "{method}: {answer:?}"
        );
        if method == "BREW" {
            assert_eq!(answer.status, 501);
        }
    }
    assert_eq!(origin.count(), 0);
    let (origin, larder) = echo("methods: any");
    assert_eq!(larder.request("BREW", "/other/", &[], b"").status, 200);
    for method in ["TRACE", "CONNECT"] {
        let target = if method == "CONNECT" {
            "api.example.org:443"
        } else {
            LIST
        };
        let answer = larder.connect().request(method, target, &[], b"");
        assert!(
            matches!(answer.status, 400 | 405 | 501),
            "{method}: {answer:?}"
        );
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_unclear_framing_is_refused_and_the_connection_closed() {
    let (origin, larder) = echo("");
    for fields in [
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Content-Length: 05",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Content-Length: 0x5",
        "X: 1\r\n Folded: 1",
    ] {
        let request = format!(
            "POST {LIST} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let mut client = larder.connect();
        client.send(request.as_bytes());
        let answer = client.try_answer("POST").expect(fields);
        assert!(matches!(answer.status, 400 | 501), "{fields}: {answer:?}");
        assert!(
            client.try_answer("GET").is_err(),
            "{fields}: the rest was taken for a request"
        );
    }
    let smuggled: Vec<Request> = origin.requests();
    assert!(smuggled.is_empty(), "{smuggled:?}");
}

#[test]
fn what_is_too_long_is_refused_with_its_own_status() {
    let (origin, larder) = echo("limits: {content: 100kB}");
    let long = "x".repeat(9_000);
    assert_eq!(larder.get(&format!("/{long}")).status, 414);
    for length in [33_000, 40_000, 100_000] {
        assert_eq!(
            larder
                .get_with("/", &[("X-Long", &"x".repeat(length))])
                .status,
            431,
            "a head of {length} bytes"
        );
    }
    let many: Vec<(String, String)> = (0..150)
        .map(|number| (format!("X-{number}"), "1".to_owned()))
        .collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(larder.get_with("/", &many).status, 431);
    for target in ["/other/", LIST] {
        let mut client = larder.connect();
        client.send(head("POST", target, &[], Some(100_001)).as_bytes());
        assert_eq!(client.answer("POST").status, 413, "{target}");
    }
    assert_eq!(origin.count(), 0);
    // Where the length is not told beforehand, what is too much is noticed on its way.
    let mut client = larder.connect();
    client.send(head("POST", "/other/", &[("Transfer-Encoding", "chunked")], None).as_bytes());
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    for part in [chunk.as_bytes(), chunk.as_bytes(), b"0\r\n\r\n"] {
        client.send(part);
    }
    assert_eq!(client.answer("POST").status, 413);
    assert!(origin.requests().iter().all(|asked| !asked.content.whole));
}

#[test]
fn who_is_still_sending_when_it_is_refused_reads_why() {
    let (_origin, larder) = echo("limits: {content: 100kB}");
    let post = head("POST", "/other/", &[], Some(8_000_000));
    let long = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ".to_owned();
    for (begun, status) in [(post, 413), (long, 431)] {
        let mut client = larder.connect();
        client.send(begun.as_bytes());
        // No reset comes in between, however much nobody wants.
        client.send(&[b'x'; 8_000_000]);
        assert_eq!(client.answer("GET").status, status);
        assert!(client.is_closed());
    }
}

#[test]
fn content_that_stops_coming_is_given_up() {
    let (origin, larder) = echo("limits: {content_idle: 1s}");
    // One that is read whole before anything else happens, and one that is on its way to the upstream already.
    for length in [1_000, 1_000_000] {
        for target in ["/other/", LIST] {
            let mut client = larder.connect();
            client.send(head("POST", target, &[], Some(length)).as_bytes());
            client.send(&support::pattern::of(length as usize / 2));
            assert_eq!(
                client.answer("POST").status,
                408,
                "{target} of {length} bytes"
            );
            assert!(client.is_closed());
        }
    }
    assert!(origin.requests().iter().all(|asked| !asked.content.whole));
}

#[test]
fn a_control_byte_in_a_target_is_refused() {
    let (origin, larder) = echo("");
    for target in [
        "/a%00b",
        "/a%0d%0aX:1",
        "/a%0ab",
        "/a\\b",
        "/a%5cb",
        "/a\tb",
        "/a b",
    ] {
        let answer = raw(
            &larder,
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
        );
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
    }
    let answer = raw(&larder, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(
        answer.status == 400 || !origin.last().target.contains('#'),
        "{answer:?}"
    );
    assert!(
        origin
            .requests()
            .iter()
            .all(|asked| !asked.target.contains('#'))
    );
}

#[test]
fn expect_is_answered_here() {
    let (origin, larder) = echo("");
    for target in ["/other/", LIST] {
        let mut client = larder.connect();
        client.send(head("POST", target, &[("Expect", "100-continue")], Some(5)).as_bytes());
        client.send(b"12345");
        let answer = client.answer("POST");
        assert_eq!(
            (answer.status, answer.interim.as_slice()),
            (200, &[100][..]),
            "{target}"
        );
        let asked = origin.last();
        assert!(
            !asked.fields.has("expect") && asked.content.text() == "12345",
            "{asked:?}"
        );
    }
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let (origin, larder) = echo("");
    let mut client = larder.connect();
    for _ in 0..3 {
        assert_eq!(client.get(LIST).status, 200);
        assert_eq!(client.request("POST", "/other/", &[], b"x").status, 200);
        assert_eq!(client.request("HEAD", LIST, &[], b"").status, 200);
        assert_eq!(client.get("/api/users/?x=1").status, 200);
    }
    // Several sent before the first is answered.
    let two = [
        head("GET", "/first/", &[], None),
        head("GET", "/second/", &[], None),
    ]
    .concat();
    client.send(two.as_bytes());
    assert!(client.answer("GET").text().contains("/first/"));
    assert!(client.answer("GET").text().contains("/second/"));
    assert!(origin.count() >= 7);
}

#[test]
fn an_http_1_0_client_gets_a_body_that_it_can_read() {
    let origin = Origin::start(|_| origin::json("0123456789").chunked());
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/other/", LIST, LIST] {
        let mut client = larder.connect();
        client.send(format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes());
        let answer = client.answer("GET");
        assert_ne!(answer.framing, Framing::Chunked, "{target}");
        assert_eq!(answer.text(), "0123456789", "{target}");
    }
}

#[test]
fn the_upstream_is_asked_so_many_at_once_and_no_more() {
    let gate = Gate::new();
    let door = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&door));
    let upstream = format!(
        "upstream: {{url: \"{}\", max_connections: 3, queue: 2}}",
        origin.url()
    );
    let larder = Larder::start(
        users_api(&origin, "memory:", "")
            .replace(&format!("upstream: {}", origin.url()), &upstream),
    );
    let mut clients: Vec<Connection> = (0..10).map(|_| larder.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(head("GET", &format!("/{number}/"), &[], None).as_bytes());
    }
    // Three are asked, two wait, and five are told at once that there is no room.
    origin.wait_for(3);
    let mut refused = 0;
    for client in &mut clients {
        client.patience(Duration::from_millis(700));
        match client.try_head("GET") {
            Ok(answer) => {
                assert_eq!(answer.status, 503);
                refused += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        client.patience(PATIENCE);
    }
    assert_eq!((refused, origin.count()), (5, 3));
    // A write that finds the queue full has not left, and so has purged nothing (G8).
    assert_eq!(larder.write("POST", LIST).status, 503);
    gate.open();
    eventually("all that waited have been asked", || origin.count() == 5);
}

#[test]
fn an_upstream_that_says_nothing_is_a_504() {
    let gate = Gate::new();
    let door = gate.clone();
    let origin = Origin::start(move |request| match request.method.as_str() {
        "GET" if request.target.contains("users") => origin::json(request.number.to_string()),
        _ => origin::json("late").behind(&door),
    });
    let upstream = format!(
        "upstream: {{url: \"{}\", first_byte: 300ms, total: 2s}}",
        origin.url()
    );
    let larder = Larder::start(
        users_api(&origin, "memory:", "")
            .replace(&format!("upstream: {}", origin.url()), &upstream),
    );
    assert_eq!(larder.get("/other/").status, 504);
    // A write that was not answered may be committed later: nothing from before is shown again.
    let before = larder.get(LIST).text();
    assert!(larder.get(LIST).is_hit());
    assert_eq!(larder.write("PATCH", "/api/users/7/").status, 504);
    for _ in 0..3 {
        let answer = larder.get(LIST);
        assert!(!answer.is_hit() && answer.text() != before, "{answer:?}");
    }
    assert_eq!(origin.count_of("PATCH"), 1);
    gate.open();
}

#[test]
fn an_upload_may_take_longer_than_the_upstream_may_before_it_answers() {
    let gate = Gate::new();
    let door = gate.clone();
    let origin = Origin::start(move |request| match request.method.as_str() {
        "GET" => origin::json("late").behind(&door),
        _ => origin::json("{}"),
    });
    let upstream = format!(
        "upstream: {{url: \"{}\", first_byte: 300ms, total: 20s}}",
        origin.url()
    );
    let larder = Larder::start(
        users_api(&origin, "memory:", "")
            .replace(&format!("upstream: {}", origin.url()), &upstream),
    );
    let half = [b'x'; 50_000];
    let mut client = larder.connect();
    client.send(head("POST", LIST, &[], Some(100_000)).as_bytes());
    client.send(&half);
    // For as long as this takes, twice.
    for _ in 0..2 {
        assert_eq!(larder.get("/other/").status, 504);
    }
    client.send(&half);
    let answer = client.answer("POST");
    assert_eq!(answer.status, 200, "{answer:?}");
    gate.open();
}

#[test]
fn the_operators_listener_is_not_on_the_public_one() {
    let (origin, larder) = echo("");
    for target in ["/healthz", "/readyz", "/keys", "/entries/users:list"] {
        larder.get(target);
        assert_eq!(
            origin.last().target,
            target,
            "answered here instead of being forwarded"
        );
    }
    let answer = larder.request(
        "POST",
        "/purge",
        &[("Content-Type", "application/json")],
        b"{\"all\":true}",
    );
    assert!(answer.text().contains("/purge"), "{answer:?}");
}

#[test]
fn the_operators_listener_asks_for_its_token_and_for_json() {
    let (_origin, larder) = echo("admin_token: an-admin-token-of-32-characters");
    let ask = |method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]| {
        Connection::open(larder.admin_address())
            .request(method, target, fields, body)
            .status
    };
    let json = ("Content-Type", "application/json");
    let right = ("Authorization", "Bearer an-admin-token-of-32-characters");
    larder.get(LIST);
    for wrong in [
        &[json][..],
        &[json, ("Authorization", "Bearer x")],
        &[json, ("Authorization", "an-admin-token-of-32-characters")],
    ] {
        assert_eq!(
            ask("POST", "/purge", wrong, b"{\"all\":true}"),
            401,
            "{wrong:?}"
        );
        assert_eq!(
            ask("GET", "/entries/users:list", wrong, b""),
            401,
            "{wrong:?}"
        );
        assert_eq!(ask("GET", "/keys", wrong, b""), 401, "{wrong:?}");
    }
    // Health checks come from where no token is.
    assert_eq!(
        (
            ask("GET", "/healthz", &[], b""),
            ask("GET", "/readyz", &[], b"")
        ),
        (200, 200)
    );
    assert!(larder.get(LIST).is_hit());
    // A page in a browser can send this to localhost, and must achieve nothing with it.
    assert_eq!(
        ask(
            "POST",
            "/purge",
            &[right, ("Content-Type", "text/plain")],
            b"{\"all\":true}"
        ),
        415
    );
    assert!(larder.get(LIST).is_hit());
    assert_eq!(
        ask("POST", "/purge", &[right, json], b"{\"all\":true}"),
        200
    );
    assert!(!larder.get(LIST).is_hit());
}

#[test]
fn sigterm_finishes_what_is_under_way_and_accepts_nothing_new() {
    let gate = Gate::new();
    let door = gate.clone();
    let origin = Origin::start(move |_| origin::json("done").behind(&door));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut idle = larder.connect();
    let mut clients = [larder.connect(), larder.connect(), larder.connect()];
    for (client, (method, target)) in clients.iter_mut().zip([
        ("GET", "/other/"),
        ("GET", LIST),
        ("PATCH", "/api/users/7/"),
    ]) {
        client.send(head(method, target, &[], Some(0)).as_bytes());
    }
    origin.wait_for(3);
    let address = larder.address();
    larder.terminate();
    eventually("new connections are refused", || {
        Connection::try_open(address).is_err()
    });
    assert!(idle.is_closed());
    gate.open();
    for (mut client, method) in clients.into_iter().zip(["GET", "GET", "PATCH"]) {
        let answer = client.answer(method);
        assert!(
            answer.is_complete_success() && answer.text() == "done",
            "{answer:?}"
        );
    }
    let exit = larder.exit();
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

#[test]
fn sigint_ends_it_as_well() {
    let (_origin, larder) = echo("");
    larder.get(LIST);
    support::redis::signal("-INT", larder.pid());
    assert_eq!(larder.exit().status.code(), Some(0));
}

#[test]
fn the_command_line_wins_over_the_file() {
    let (first, second) = (
        Origin::start(|_| origin::json("first")),
        Origin::start(|_| origin::json("second")),
    );
    let larder = Larder::with(users_api(&first, "redis://127.0.0.1:1", ""))
        .argument(&format!("--upstream={}", second.url()))
        .argument("--store=memory:")
        .start();
    assert_eq!(larder.get(LIST).text(), "second");
    assert!(larder.get(LIST).is_hit());
}

#[test]
fn health_is_told_by_exit_status() {
    let (_origin, larder) = echo("");
    let file = larder.file().to_str().unwrap().to_owned();
    assert!(larder::run(&["health", "-c", &file], &[]).status.success());
    let kept = std::fs::read_to_string(&file).unwrap();
    larder.kill();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, kept).unwrap();
    assert_eq!(
        larder::run(&["health", "-c", file.to_str().unwrap()], &[])
            .status
            .code(),
        Some(1)
    );
}

/// An origin that answers with the target it was asked for.
fn echo(more: &str) -> (Origin, Larder) {
    let origin =
        Origin::start(|request| origin::json(format!("{{\"target\":\"{}\"}}", request.target)));
    let larder = Larder::start(users_api(&origin, "memory:", more));
    (origin, larder)
}

/// Sends these bytes and reads an answer.
#[track_caller]
fn raw(larder: &Larder, bytes: &[u8]) -> Answer {
    try_raw(larder, bytes).expect("an answer")
}

fn try_raw(larder: &Larder, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut client = larder.connect();
    client.try_send(bytes)?;
    client.try_answer("GET")
}
