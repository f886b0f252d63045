//! HTTP/2 from a client: the same cache, the same guarantees, and what only HTTP/2 has.

mod support;

use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;
use support::client::{Connection, HOST};
use support::h2::{
    self, Client, DATA, END_HEADERS, END_STREAM, Event, HEADERS, PREFACE, RST_STREAM, Raw,
    WINDOW_UPDATE, block, frame, settings,
};
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::tls::{Authority, Kind};
use support::{Gate, PATIENCE, eventually, pattern, users_api};

const LIST: &str = "/api/users/";

fn start(
    more: &str,
    script: impl Fn(&Request) -> origin::Answer + Send + Sync + 'static,
) -> (Origin, Larder) {
    let origin = Origin::start(script);
    let larder = Larder::start(users_api(&origin, "memory:", &format!("h2c: true\n{more}")));
    (origin, larder)
}

/// Tells what it was asked as how many.
fn counting(request: &Request) -> origin::Answer {
    origin::json(format!("{} {}", request.number, request.target))
}

fn is_hit(answer: &h2::Answer) -> bool {
    answer.cache_status().contains("; hit")
}

#[test]
fn a_copy_is_one_whatever_version_asks_for_it_and_a_write_over_either_drops_it() {
    let (_origin, larder) = start("", counting);
    let client = Client::open(larder.address());
    let miss = client.get(LIST);
    assert_eq!((miss.status, miss.text()), (200, format!("1 {LIST}")));
    assert!(miss.cache_status().contains("stored"), "{miss:?}");
    let hit = client.get(LIST);
    assert!(is_hit(&hit) && hit.text() == miss.text(), "{hit:?}");
    assert_eq!(hit.field("via"), Some("1.1 larder"), "{hit:?}");
    assert!(hit.field("age").is_some() && hit.field("date").is_some());
    assert!(larder.get(LIST).is_hit());

    let written = client.request("POST", LIST, &[], b"{}");
    assert_eq!(written.status, 200, "{written:?}");
    let anew = client.get(LIST);
    assert_eq!(anew.text(), format!("3 {LIST}"));
    larder.write("PATCH", "/api/users/7/");
    let anew = client.get(LIST);
    assert_eq!(anew.text(), format!("5 {LIST}"));
}

#[test]
fn heads_parts_conditions_and_codings_are_as_over_http_1() {
    let origin = Origin::start(|_| origin::json("0123456789".repeat(100)).field("ETag", "\"a\""));
    let upstream = origin.url();
    let larder = Larder::start(format!(
        "upstream: {upstream}\nh2c: true\nroutes: [{{path: /api/users/, key: users, compress: true}}]"
    ));
    let client = Client::open(larder.address());
    client.get(LIST);
    let head = client.request("HEAD", LIST, &[], b"");
    assert!(is_hit(&head) && head.body.is_empty(), "{head:?}");
    assert_eq!(head.field("content-length"), Some("1000"));
    let part = client.request("GET", LIST, &[("range", "bytes=2-4")], b"");
    assert_eq!((part.status, part.text()), (206, "234".to_owned()));
    assert_eq!(part.field("content-range"), Some("bytes 2-4/1000"));
    let beyond = client.request("GET", LIST, &[("range", "bytes=5000-")], b"");
    assert_eq!(beyond.status, 416);
    let same = client.request("GET", LIST, &[("if-none-match", "\"a\"")], b"");
    assert!(same.status == 304 && is_hit(&same), "{same:?}");
    let encoded = client.request("GET", LIST, &[("accept-encoding", "br")], b"");
    assert_eq!(encoded.field("content-encoding"), Some("br"));
    assert!(encoded.body.len() < 100 && encoded.whole);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_request_arrives_as_http_1_says_it() {
    let (origin, larder) = start("", counting);
    let client = Client::open(larder.address());
    let crumbs = [
        ("cookie", "a=1"),
        ("x-same", "1"),
        ("cookie", "b=2; c=3"),
        ("x-same", "2"),
        ("cookie", "d=4"),
        ("te", "trailers"),
        ("x-forwarded-for", "6.6.6.6"),
        ("expect", "100-continue"),
    ];
    let target = "/any/p%61th;a=1/..%2f/x?b=2&a=1&&b=%20+";
    let answer = client.request("PUT", target, &crumbs, b"content");
    assert_eq!(answer.status, 200, "{answer:?}");
    let asked = origin.last();
    assert_eq!((&asked.method[..], &asked.target[..]), ("PUT", target));
    assert_eq!(asked.content.start, b"content");
    assert_eq!(asked.fields.all("host"), [HOST]);
    assert_eq!(asked.fields.all("cookie"), ["a=1; b=2; c=3; d=4"]);
    assert_eq!(asked.fields.all("x-same").join(", "), "1, 2");
    assert_eq!(asked.fields.all("via"), ["2 larder"]);
    assert_eq!(asked.fields.all("x-forwarded-proto"), ["http"]);
    assert_eq!(asked.fields.all("x-forwarded-host"), [HOST]);
    assert!(!asked.fields.has("te") && !asked.fields.has("expect"));
}

#[test]
fn the_crumbs_of_a_cookie_are_one_credential() {
    let (origin, larder) = start("", counting);
    let client = Client::open(larder.address());
    let whole = [("cookie", "s=1; t=2")];
    let first = client.request("GET", LIST, &whole, b"");
    let crumbs = [("cookie", "s=1"), ("cookie", "t=2")];
    let second = client.request("GET", LIST, &crumbs, b"");
    assert!(is_hit(&second) && second.text() == first.text());
    let other = client.request("GET", LIST, &[("cookie", "s=1")], b"");
    assert!(!is_hit(&other), "{other:?}");
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_listener_without_h2c_speaks_no_http_2() {
    let origin = Origin::start(counting);
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut connection = Connection::open(larder.address());
    connection.send(&[PREFACE, &settings(&[])].concat());
    // hyper closes without a word.
    assert!(connection.is_closed());
    assert_eq!(larder.get(LIST).status, 200);
    // Nor is what an upgrade asks for done.
    let fields = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ];
    assert_eq!(larder.get_with(LIST, &fields).status, 200);
}

#[test]
fn a_listener_with_h2c_tells_http_2_by_its_preface_however_it_arrives() {
    let (_origin, larder) = start("", counting);
    assert_eq!(larder.get(LIST).status, 200);
    assert_eq!(larder.request("PATCH", LIST, &[], b"{}").status, 200);
    let mut raw = Raw::bare(larder.address());
    for byte in PREFACE {
        raw.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    raw.send(&settings(&[(1, 0)]));
    raw.get(1, LIST);
    let answered = raw.until(|event| matches!(event, Event::Head { .. }));
    let head = Event::Head {
        stream: 1,
        status: 200,
        end: false,
    };
    assert_eq!(answered.last(), Some(&head));
    // Almost a preface is a request that is none.
    let mut connection = Connection::open(larder.address());
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX");
    let answer = connection.answer("GET");
    assert!([400, 501, 505].contains(&answer.status), "{answer:?}");
    // And a part of one is nothing.
    let mut raw = Raw::bare(larder.address());
    raw.send(&PREFACE[..10]);
    raw.finish_sending();
    assert!(larder.get(LIST).status == 200);
}

#[test]
fn the_protocol_that_alpn_chose_is_the_one_that_is_served() {
    let (authority, origin) = (Authority::new(), Origin::start(counting));
    authority.write("server", &authority.issue(Kind::Ecdsa, &[HOST]));
    let tls = format!("tls: {}", authority.pair("server"));
    let larder = Larder::start(users_api(&origin, "memory:", &tls));
    let connect = |names: &[&str]| {
        let client = authority.client().alpn(names);
        client.connect(larder.address(), HOST).expect("a handshake")
    };
    for names in [&["h2"][..], &["h2", "http/1.1"], &["http/1.1", "h2"]] {
        let mut client = connect(names);
        assert_eq!(client.stream().conn.alpn_protocol(), Some(&b"h2"[..]));
        let mut raw = Raw::on(client.stream());
        raw.begin();
        raw.get(1, LIST);
        let heads = raw.until(|event| matches!(event, Event::Head { .. }));
        assert!(matches!(
            heads.last(),
            Some(Event::Head { status: 200, .. })
        ));
        // Of another host than the connection was made for.
        let other = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "other.example"),
            (":path", LIST),
        ];
        raw.send(&frame(HEADERS, h2::ALL, 3, block(&other)));
        let heads = raw.until(|event| matches!(event, Event::Head { stream: 3, .. }));
        assert!(matches!(
            heads.last(),
            Some(Event::Head { status: 421, .. })
        ));
    }
    assert_eq!(origin.last().fields.get("x-forwarded-proto"), Some("https"));
    // Who has chosen one and speaks the other is not understood.
    let mut client = connect(&["h2"]);
    client.send(format!("GET {LIST} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes());
    let told = Raw::on(client.stream()).until_closed();
    let answers = |event: &Event| matches!(event, Event::Head { .. });
    assert!(!told.iter().any(answers), "{told:?}");
    for names in [&["http/1.1"][..], &[]] {
        let mut client = connect(names);
        assert_eq!(client.get(LIST).status, 200);
        let mut client = connect(names);
        client.send(&[PREFACE, &settings(&[])].concat());
        assert_eq!(Raw::on(client.stream()).until_closed(), []);
    }
}

#[test]
fn a_hundred_requests_at_once_on_one_connection_are_each_answered_their_own() {
    let (_origin, larder) = start("", counting);
    let client = Client::open(larder.address());
    let targets: Vec<String> = (0..100).map(|n| format!("/other/{n}/")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    for (answer, target) in client.together(&targets).iter().zip(&targets) {
        assert!(answer.status == 200 && answer.text().ends_with(target));
    }
}

#[test]
fn content_of_any_length_passes_both_ways() {
    let (origin, larder) = start("", |request| match request.method.as_str() {
        "GET" => origin::huge(20_000_000),
        _ => origin::json("{}"),
    });
    let client = Client::open(larder.address());
    let answer = client.get("/large/");
    assert!(answer.whole && answer.body.len() == 20_000_000 && pattern::holds(0, &answer.body));
    let content = pattern::of(5_000_000);
    assert_eq!(client.request("PUT", "/large/", &[], &content).status, 200);
    let arrived = origin.last().content;
    assert!(arrived.whole && arrived.is_pattern && arrived.length == 5_000_000);
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let (_origin, larder) = start("", |_| origin::huge(1_000_000).cut_after(300_000));
    let client = Client::open(larder.address());
    for target in ["/other/", LIST] {
        match client.try_request("GET", target, &[], b"") {
            Ok(answer) => assert!(answer.status == 502 || !answer.whole, "{answer:?}"),
            Err(error) => assert!(error.is_user() || !error.is_parse(), "{error}"),
        }
    }
    assert!(!is_hit(&client.request("HEAD", LIST, &[], b"")));
}

#[test]
fn trailers_of_a_request_end_here() {
    let (origin, larder) = start("", counting);
    let mut raw = Raw::open(larder.address());
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", "/other/"),
        ("trailer", "x-late"),
    ];
    raw.send(&frame(HEADERS, END_HEADERS, 1, block(&fields)));
    raw.send(&frame(DATA, 0, 1, "content"));
    raw.send(&frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        block(&[("x-late", "1")]),
    ));
    let events = raw.until(|event| matches!(event, Event::Head { .. }));
    assert!(matches!(
        events.last(),
        Some(Event::Head { status: 200, .. })
    ));
    let asked = origin.last();
    assert_eq!(asked.content.start, b"content");
    assert!(!asked.fields.has("x-late") && !asked.fields.has("trailer"));
}

#[test]
fn interim_answers_are_left_out_and_the_final_one_comes() {
    let (_origin, larder) = start("", |request| {
        counting(request).early("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    });
    let mut raw = Raw::open(larder.address());
    raw.get(1, LIST);
    let heads = raw.until(|event| matches!(event, Event::Head { .. }));
    assert!(matches!(
        heads.last(),
        Some(Event::Head { status: 200, .. })
    ));
}

#[test]
fn more_streams_than_the_limit_are_refused_and_those_within_it_served() {
    let gate = Gate::new();
    let behind = gate.clone();
    let (origin, larder) = start("limits: {streams: 3}", move |request| {
        counting(request).behind(&behind)
    });
    let mut raw = Raw::open(larder.address());
    for stream in [1, 3, 5, 7] {
        raw.get(stream, &format!("/other/{stream}/"));
    }
    let refused = raw.until(|event| matches!(event, Event::Reset { .. }));
    // REFUSED_STREAM: the client may send it again.
    assert_eq!(refused.last(), Some(&Event::Reset { stream: 7, code: 7 }));
    gate.open();
    let mut answered = 0;
    raw.until(|event| {
        answered += usize::from(matches!(event, Event::Head { status: 200, .. }));
        answered == 3
    });
    assert_eq!((answered, origin.count()), (3, 3));
}

/// Whether a request finds the queue full. One that does not waits a little there, and leaves.
fn the_queue_is_full(larder: &Larder) -> bool {
    let mut probe = larder.connect();
    probe.patience(Duration::from_millis(200));
    let answer = probe.try_request("GET", "/probe/", &[], b"");
    answer.is_ok_and(|answer| answer.status == 503)
}

#[test]
fn a_request_whose_stream_is_cancelled_in_the_queue_never_leaves() {
    for method in ["GET", "POST", "DELETE"] {
        let gate = Gate::new();
        let behind = gate.clone();
        let origin = Origin::start(move |request| match request.target.as_str() {
            "/first/" => counting(request).behind(&behind),
            _ => counting(request),
        });
        let (upstream, more) = (origin.url(), "max_connections: 1, queue: 1");
        let larder = Larder::start(format!(
            "upstream: {{url: {upstream}, {more}}}\nh2c: true\nroutes: []\npurge: []"
        ));
        let mut first = larder.connect();
        first.send(format!("GET /first/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes());
        origin.wait_for(1);
        let (mut raw, mut stream) = (Raw::open(larder.address()), 1);
        eventually("it waits in the queue", || {
            stream += 2;
            raw.ask(method, stream, "/cancelled/");
            let answered = |events: Vec<Event>| {
                let heads = |event: &Event| matches!(event, Event::Head { .. });
                events.iter().any(heads)
            };
            // A probe may have been before it, and then it is answered 503 itself.
            let before = answered(raw.ping());
            let full = the_queue_is_full(&larder);
            !answered(raw.ping()) && !before && full
        });
        raw.send(&frame(RST_STREAM, 0, stream, [0, 0, 0, 8]));
        eventually("its place is free again", || !the_queue_is_full(&larder));
        gate.open();
        assert_eq!(first.answer("GET").status, 200);
        // Whatever had waited would have gone before this one.
        eventually("the next is served", || larder.get("/next/").status == 200);
        let left = origin.requests();
        let cancelled = left.iter().filter(|r| r.target == "/cancelled/");
        assert_eq!(cancelled.count(), 0, "{method}");
    }
}

#[test]
fn a_write_that_has_left_runs_on_when_its_stream_is_cancelled() {
    let gate = Gate::new();
    let behind = gate.clone();
    let (origin, larder) = start("", move |request| match request.method.as_str() {
        "POST" => counting(request).behind(&behind),
        _ => counting(request),
    });
    let client = Client::open(larder.address());
    client.get(LIST);
    let origin = std::sync::Arc::new(origin);
    let own = origin.clone();
    client.cancel(("POST", LIST, b"{}"), move || {
        eventually("the write has arrived", || own.count_of("POST") == 1);
    });
    gate.open();
    eventually("the write has dropped the list", || {
        client.get(LIST).text() != format!("1 {LIST}")
    });
    eventually("the list is kept again", || is_hit(&client.get(LIST)));
}

#[test]
fn at_the_end_a_client_is_told_and_what_is_under_way_finished() {
    let gate = Gate::new();
    let behind = gate.clone();
    let (origin, larder) = start("", move |request| counting(request).behind(&behind));
    let mut raw = Raw::open(larder.address());
    raw.get(1, "/other/");
    origin.wait_for(1);
    larder.terminate();
    let told = raw.until(|event| matches!(event, Event::GoAway { .. }));
    assert_eq!(told.last(), Some(&Event::GoAway { code: 0 }));
    gate.open();
    let rest = raw.until_closed();
    let answered = |event: &Event| matches!(event, Event::Head { status: 200, .. });
    assert!(rest.iter().any(answered), "{rest:?}");
    assert!(larder.exit().status.success());
}

/// Bytes that nobody has read make the kernel reset a connection that is closed, and forget what it had still to send.
#[test]
fn at_the_end_who_reads_an_answer_and_opens_windows_has_all_of_it() {
    const LENGTH: u64 = 1 << 20;
    let (_origin, larder) = start("", |_| origin::huge(LENGTH));
    let stream = TcpStream::connect(larder.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // So the end of what it is sent is still on the other side when that is all written.
    let room = SockRef::from(&stream).set_recv_buffer_size(16 << 10);
    room.unwrap();
    let mut raw = Raw::on(stream);
    let window = frame(WINDOW_UPDATE, 0, 0, (LENGTH as u32).to_be_bytes());
    let open = settings(&[(1, 0), (4, LENGTH as u32)]);
    raw.send(&[PREFACE, &open, &window].concat());
    raw.get(1, "/media/film");
    raw.until(|event| matches!(event, Event::Head { .. }));
    larder.terminate();
    eventually("it ends", || larder.readiness()["status"] == "draining");
    let mut length = 0;
    while let Some(event) = raw.next() {
        if let Event::Data { bytes, .. } = event {
            length += bytes.len() as u64;
            raw.send(&frame(
                WINDOW_UPDATE,
                0,
                0,
                (bytes.len() as u32).to_be_bytes(),
            ));
        }
    }
    assert_eq!(length, LENGTH);
    drop(raw);
    assert!(larder.exit().status.success());
}

#[test]
fn a_connection_without_a_request_does_not_keep_the_process() {
    let (_origin, larder) = start("", counting);
    let mut raw = Raw::open(larder.address());
    raw.get(1, "/other/");
    raw.until(|event| matches!(event, Event::Data { end: true, .. }));
    let mut silent = Raw::bare(larder.address());
    silent.send(&PREFACE[..5]);
    larder.terminate();
    let rest = raw.until_closed();
    assert!(rest.contains(&Event::GoAway { code: 0 }), "{rest:?}");
    assert!(larder.exit().status.success());
    assert_eq!(silent.until_closed(), []);
}

#[test]
fn a_stream_that_its_client_resets_is_not_answered_and_the_others_are() {
    let gate = Gate::new();
    let behind = gate.clone();
    let (origin, larder) = start("", move |request| counting(request).behind(&behind));
    let mut raw = Raw::open(larder.address());
    raw.get(1, "/one/");
    raw.get(3, "/three/");
    origin.wait_for(2);
    raw.send(&frame(RST_STREAM, 0, 1, [0, 0, 0, 8]));
    raw.ping();
    gate.open();
    let events = raw.until(|event| matches!(event, Event::Data { end: true, .. }));
    let heads: Vec<&Event> = events
        .iter()
        .filter(|event| matches!(event, Event::Head { .. }))
        .collect();
    let three = Event::Head {
        stream: 3,
        status: 200,
        end: false,
    };
    assert_eq!(heads, [&three]);
}

#[test]
fn a_head_that_comes_to_an_error_is_answered_without_content() {
    let (_origin, larder) = start("", |_| origin::hang_up());
    let mut raw = Raw::open(larder.address());
    for (stream, target, status) in [(1, LIST, 502), (3, "/other/", 502), (5, "/%00/", 400)] {
        raw.ask("HEAD", stream, target);
        let end = true;
        let head = Event::Head {
            stream,
            status,
            end,
        };
        let answered = raw.until(|event| matches!(event, Event::Head { .. }));
        assert_eq!(answered.last(), Some(&head));
    }
}

/// A view of REST framework that returns something with 204 has it announced.
#[test]
fn a_204_has_no_length_whatever_the_origin_says() {
    let (_origin, larder) = start("", |_| {
        origin::raw("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
    });
    let client = Client::open(larder.address());
    for method in ["GET", "HEAD", "DELETE"] {
        for target in ["/api/users/7/", "/other/"] {
            let answer = client.request(method, target, &[], b"");
            assert_eq!((answer.status, answer.field("content-length")), (204, None));
            let answer = larder.request(method, target, &[], b"");
            assert_eq!((answer.status, answer.field("content-length")), (204, None));
        }
    }
}

#[test]
fn a_write_whose_stream_is_reset_before_its_end_is_not_made_whatever_the_code() {
    const NO_ERROR: u8 = 0;
    const CANCEL: u8 = 8;
    let (origin, larder) = start("", counting);
    let post = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", LIST),
    ];
    // Read whole, and passed on as it comes.
    for pieces in [1, 7] {
        for code in [NO_ERROR, CANCEL] {
            let mut raw = Raw::open(larder.address());
            raw.send(&frame(HEADERS, END_HEADERS, 1, block(&post)));
            for _ in 0..pieces {
                raw.send(&frame(DATA, 0, 1, [b'x'; 10_000]));
                raw.ping();
            }
            raw.send(&frame(RST_STREAM, 0, 1, [0, 0, 0, code]));
            raw.ping();
            assert_eq!(larder.get("/other/").status, 200);
        }
    }
    let whole = |request: &Request| request.method == "POST" && request.content.whole;
    assert_eq!(origin.requests().iter().filter(|r| whole(r)).count(), 0);
}
