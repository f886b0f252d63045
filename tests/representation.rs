//! An answer on its way out: what a client is sent of it, and in which form.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use support::client::{Answer, HOST};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{Gate, PATIENCE, PURGE, eventually};

const LIST: &str = "/api/users/";
const BODY: &str = r#"[{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]"#;

/// The users API with these keys on both its routes.
fn users(origin: &Origin, keys: &str) -> Larder {
    let upstream = origin.url();
    Larder::start(format!(
        r#"upstream: {upstream}
store: {{prefix: t}}
routes:
  - {{path: /api/users/, key: users:list, {keys}}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}", {keys}}}
{PURGE}"#
    ))
}

#[track_caller]
fn tag(answer: &Answer) -> String {
    let tags = answer.fields.all("etag");
    assert_eq!(tags.len(), 1, "{answer:?}");
    tags[0].to_owned()
}

#[test]
fn an_answer_without_an_etag_gets_a_weak_one_from_the_miss_on() {
    let origin = Origin::start(|_| origin::json(BODY));
    let larder = users(&origin, "etag: true");
    let miss = larder.get(LIST);
    assert!(!miss.is_hit() && tag(&miss).starts_with("W/\""), "{miss:?}");
    let hit = larder.get(LIST);
    assert!(hit.is_hit() && tag(&hit) == tag(&miss), "{hit:?}");
    let head = larder.request("HEAD", LIST, &[], b"");
    assert_eq!(tag(&head), tag(&miss), "{head:?}");
    let polled = larder.get_with(LIST, &[("If-None-Match", &tag(&miss))]);
    assert!(
        polled.status == 304 && tag(&polled) == tag(&miss),
        "{polled:?}"
    );
    // Without the key nothing is made.
    let larder = users(&origin, "etag: false");
    assert!(!larder.get(LIST).fields.has("etag"));
}

#[test]
fn a_client_that_polls_an_unchanged_list_is_told_so_after_a_purge_and_by_another_instance() {
    let origin = Origin::start(|_| origin::json(BODY));
    let larder = users(&origin, "etag: true");
    let known = tag(&larder.get(LIST));
    larder.write("POST", LIST);
    let polled = larder.get_with(LIST, &[("If-None-Match", &known)]);
    assert!(!polled.is_hit() && polled.status == 304, "{polled:?}");
    assert!(
        polled.cache_status().contains("detail=purged") && polled.cache_status().contains("stored"),
        "{polled:?}"
    );
    let polled = users(&origin, "etag: true").get_with(LIST, &[("If-None-Match", &known)]);
    assert_eq!(polled.status, 304, "{polled:?}");
}

#[test]
fn a_changed_list_is_sent_whole_with_another_etag() {
    let origin = Origin::start(|request| origin::json(format!("[{}]", request.number)));
    let larder = users(&origin, "etag: true");
    let known = tag(&larder.get(LIST));
    larder.write("POST", LIST);
    let polled = larder.get_with(LIST, &[("If-None-Match", &known)]);
    assert!(polled.status == 200 && tag(&polled) != known, "{polled:?}");
}

#[test]
fn an_etag_of_the_origin_stays_as_it_is() {
    let origin = Origin::start(|_| origin::json(BODY).field("ETag", "\"v1\""));
    let larder = users(&origin, "etag: true");
    for _ in 0..2 {
        assert_eq!(tag(&larder.get(LIST)), "\"v1\"");
    }
}

#[test]
fn an_answer_that_trickles_in_has_its_etag_all_the_same() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json(BODY).chunked().pausing_after(20, &behind));
    let larder = users(&origin, "etag: true");
    let mut client = larder.connect();
    client.send(support::client::head("GET", LIST, &[], None).as_bytes());
    origin.wait_for(1);
    gate.open();
    let miss = client.answer("GET");
    assert!(miss.text() == BODY && !tag(&miss).is_empty(), "{miss:?}");
}

#[test]
fn a_range_of_a_stored_answer_is_a_part_of_it_with_its_fields() {
    let origin = Origin::start(|_| {
        origin::json("0123456789")
            .field("ETag", "\"v1\"")
            .field("X-Total", "2")
    });
    let larder = users(&origin, "ttl: 1h");
    larder.get(LIST);
    for (range, content, content_range) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=8-", "89", "bytes 8-9/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
        ("bytes=0-", "0123456789", "bytes 0-9/10"),
    ] {
        let part = larder.get_with(LIST, &[("Range", range)]);
        assert!(part.status == 206 && part.is_hit(), "{part:?}");
        assert_eq!(part.text(), content, "{range}");
        assert_eq!(part.fields.all("content-range"), [content_range]);
        assert_eq!(
            part.fields.all("content-length"),
            [content.len().to_string()]
        );
        assert_eq!(part.field("x-total"), Some("2"), "{part:?}");
        assert!(tag(&part) == "\"v1\"" && part.fields.has("age"));
    }
    let beyond = larder.get_with(LIST, &[("Range", "bytes=10-")]);
    assert!(beyond.status == 416 && beyond.is_hit(), "{beyond:?}");
    assert_eq!(beyond.field("content-range"), Some("bytes */10"));
    assert!(!beyond.fields.has("content-type") && beyond.content.length == 0);
    let continued = [("Range", "bytes=8-"), ("If-Range", "\"v1\"")];
    assert_eq!(larder.get_with(LIST, &continued).text(), "89");
    let restarted = [("Range", "bytes=8-"), ("If-Range", "\"v0\"")];
    assert_eq!(larder.get_with(LIST, &restarted).status, 200);
    let several = larder.get_with(LIST, &[("Range", "bytes=0-0,-1")]);
    assert!(several.status == 200 && several.text() == "0123456789");
    let head = larder.request("HEAD", LIST, &[("Range", "bytes=0-3")], b"");
    assert!(head.status == 200 && head.field("content-length") == Some("10"));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_range_of_what_is_not_there_yet_fills_the_whole() {
    // An origin that knows ranges, and would send a part if it were asked for one.
    let origin = Origin::start(|request| match request.fields.has("range") {
        true => origin::status(206, "01").field("Content-Range", "bytes 0-1/10"),
        false => origin::json("0123456789"),
    });
    let larder = users(&origin, "ttl: 1h");
    let part = larder.get_with(LIST, &[("Range", "bytes=0-1")]);
    assert!(part.status == 206 && part.text() == "01", "{part:?}");
    assert_eq!(part.field("content-range"), Some("bytes 0-1/10"));
    assert!(part.cache_status().contains("stored"), "{part:?}");
    assert!(!origin.last().fields.has("range") && !origin.last().fields.has("if-range"));
    let whole = larder.get(LIST);
    assert!(whole.is_hit() && whole.status == 200 && whole.text() == "0123456789");
    // No route, no cache: the origin's own part.
    let passed = larder.get_with("/files/1", &[("Range", "bytes=0-1")]);
    assert!(passed.status == 206 && origin.last().fields.has("range"));
}

#[test]
fn a_range_of_what_still_comes_is_answered_with_the_whole() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("0123456789").pausing_after(4, &behind));
    let larder = users(&origin, "ttl: 1h");
    let mut client = larder.connect();
    let head = support::client::head("GET", LIST, &[("Range", "bytes=0-1")], None);
    client.send(head.as_bytes());
    // Its head comes before its end does.
    let early = client.try_head("GET").expect("a head");
    assert!(early.status == 200 && !early.fields.has("content-range"));
    gate.open();
    assert_eq!(client.content(early.framing).text(), "0123456789");
    assert!(larder.get_with(LIST, &[("Range", "bytes=0-1")]).status == 206);
}

/// 200 bytes and more, that are shorter when encoded.
/// Bytes of which no two pieces are the same, and a piece in another place is seen to be.
fn large(version: usize) -> String {
    (0..125_000)
        .map(|n| format!("{n:07}{version}"))
        .collect::<String>()
}

#[test]
fn a_large_copy_is_sent_whole_and_in_parts_again_and_again_and_a_new_one_in_its_place() {
    let origin = Origin::start(|request| origin::json(large(request.number)));
    let larder = users(&origin, "etag: true");
    let mut before = String::new();
    for version in ["first", "second"] {
        let whole = larder.get(LIST).text();
        assert!((0..4).any(|number| large(number) == whole) && whole != before);
        for _ in 0..3 {
            let hit = larder.get(LIST);
            assert!(hit.is_hit(), "{:?}", hit.fields);
            assert!(hit.text() == whole, "version {version}");
            for (from, to) in [(0, 999_999), (1, 150_000), (700_000, 900_000), (5, 9)] {
                let range = format!("bytes={from}-{to}");
                let part = larder.get_with(LIST, &[("Range", &range)]);
                assert_eq!(part.status, 206);
                assert!(part.text() == whole[from..=to], "{range} of {version}");
            }
            let head = larder.request("HEAD", LIST, &[], b"");
            assert!(head.is_hit() && head.text().is_empty());
        }
        larder.write("POST", LIST);
        before = whole;
    }
}

#[test]
fn many_read_a_large_copy_at_once_and_slowly_while_it_is_replaced() {
    let origin = Origin::start(|request| match request.method.as_str() {
        "GET" => origin::json(large(request.number)),
        _ => origin::json("{}"),
    });
    let larder = users(&origin, "etag: false");
    let whole = larder.get(LIST).text();
    assert!(larder.get(LIST).is_hit());
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let mut stream = TcpStream::connect(larder.address()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // Known by its bytes, or not.
            let more = if n % 2 == 0 { "" } else { "X-Other: 1\r\n" };
            let request =
                format!("GET {LIST} HTTP/1.1\r\nHost: {HOST}\r\n{more}Connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut firsts = Vec::new();
    for mut stream in readers {
        let mut first = vec![0; 1000];
        stream.read_exact(&mut first).unwrap();
        firsts.push((first, stream));
    }
    // What they read is dropped under them.
    larder.write("POST", LIST);
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    for (mut answer, mut stream) in firsts {
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        assert!(answer[head.unwrap() + 4..] == *whole.as_bytes());
    }
}

fn long() -> String {
    format!("[{}]", [BODY; 20].join(","))
}

/// What the client reads, in whatever coding it came.
#[track_caller]
fn decoded(answer: &Answer) -> String {
    let sent = &answer.content.start[..];
    assert_eq!(
        answer.field("content-length"),
        Some(sent.len().to_string().as_str())
    );
    let mut text = String::new();
    match answer.field("content-encoding") {
        None => return answer.text(),
        Some("gzip") => flate2::read::GzDecoder::new(sent).read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(sent, 4096).read_to_string(&mut text),
        Some(other) => panic!("{other}: {answer:?}"),
    }
    .expect("it is in the coding that it says");
    text
}

#[test]
fn an_answer_is_compressed_for_who_accepts_it_from_the_miss_on() {
    let origin = Origin::start(|_| origin::json(long()).field("ETag", "\"v1\""));
    let larder = users(&origin, "compress: true");
    for (n, (accepts, coding, etag)) in [
        ("gzip, br", Some("br"), "W/\"v1\""),
        ("gzip", Some("gzip"), "W/\"v1\""),
        ("gzip", Some("gzip"), "W/\"v1\""),
        ("br;q=0, *;q=0.1", Some("gzip"), "W/\"v1\""),
        ("identity", None, "\"v1\""),
        ("gzip;q=0", None, "\"v1\""),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = larder.get_with(LIST, &[("Accept-Encoding", accepts)]);
        assert_eq!(answer.is_hit(), n > 0, "{answer:?}");
        assert_eq!(answer.field("content-encoding"), coding, "{accepts}");
        assert_eq!((decoded(&answer), tag(&answer).as_str()), (long(), etag));
        let vary = answer.fields.all("vary").join(", ");
        assert_eq!(vary, "Accept, Cookie, Accept-Encoding", "{accepts}");
        // A HEAD says the same of it.
        let head = larder.request("HEAD", LIST, &[("Accept-Encoding", accepts)], b"");
        for name in ["content-encoding", "content-length", "etag", "vary"] {
            assert_eq!(head.fields.all(name), answer.fields.all(name), "{accepts}");
        }
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(
        origin.last().fields.get("accept-encoding"),
        Some("identity")
    );
}

#[test]
fn who_has_the_compressed_form_is_told_so_with_its_weak_etag() {
    let origin = Origin::start(|_| origin::json(long()).field("ETag", "\"v1\""));
    let larder = users(&origin, "compress: [gzip]");
    larder.get(LIST);
    for (accepts, known, etag) in [("gzip", "W/\"v1\"", "W/\"v1\""), ("br", "\"v1\"", "\"v1\"")] {
        let request = [("Accept-Encoding", accepts), ("If-None-Match", known)];
        let polled = larder.get_with(LIST, &request);
        assert!(polled.status == 304 && tag(&polled) == etag, "{polled:?}");
        let vary = polled.fields.all("vary").join(", ");
        assert!(vary.ends_with("Accept-Encoding"), "{polled:?}");
        assert!(!polled.fields.has("content-encoding"), "{polled:?}");
    }
}

#[test]
fn a_part_is_never_compressed() {
    let origin = Origin::start(|_| origin::json(long()));
    let larder = users(&origin, "compress: true");
    larder.get(LIST);
    let request = [("Accept-Encoding", "gzip"), ("Range", "bytes=0-249")];
    let part = larder.get_with(LIST, &request);
    assert!(part.status == 206 && !part.fields.has("content-encoding"));
    assert_eq!(part.text(), long()[..250]);
}

#[test]
fn what_is_short_compressed_already_or_not_to_be_transformed_stays_as_it_is() {
    let origin = Origin::start(|request| match request.parameter("as") {
        Some("short") => origin::json("[]"),
        Some("png") => origin::json(long())
            .without("Content-Type")
            .field("Content-Type", "image/png"),
        Some("untouched") => origin::json(long()).field("Cache-Control", "no-transform"),
        _ => origin::json(long()).field("Content-Encoding", "x-own"),
    });
    let larder = users(&origin, "compress: true");
    for what in ["short", "png", "untouched", "own"] {
        let target = format!("{LIST}?as={what}");
        for _ in 0..2 {
            let answer = larder.get_with(&target, &[("Accept-Encoding", "gzip")]);
            let expected = (what == "own").then_some("x-own");
            assert_eq!(answer.field("content-encoding"), expected, "{what}");
            let vary = answer.fields.all("vary").join(", ");
            assert_eq!(vary, "Accept, Cookie", "{what}");
        }
    }
}

#[test]
fn nothing_is_compressed_where_the_file_does_not_say_so() {
    let origin = Origin::start(|_| origin::json(long()));
    let larder = users(&origin, "compress: false");
    for _ in 0..2 {
        let answer = larder.get_with(LIST, &[("Accept-Encoding", "gzip")]);
        assert!(!answer.fields.has("content-encoding"));
        assert_eq!(answer.fields.all("vary"), ["Accept, Cookie"]);
    }
}

#[test]
fn an_answer_that_trickles_in_is_compressed_all_the_same() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json(long()).chunked().pausing_after(300, &behind));
    let larder = users(&origin, "compress: true");
    let mut client = larder.connect();
    let head = support::client::head("GET", LIST, &[("Accept-Encoding", "gzip")], None);
    client.send(head.as_bytes());
    origin.wait_for(1);
    gate.open();
    let miss = client.answer("GET");
    assert_eq!(miss.field("content-encoding"), Some("gzip"));
    assert_eq!(decoded(&miss), long());
}

#[test]
fn an_etag_of_our_own_is_not_asked_of_the_origin_and_does_not_hide_its_date() {
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::start(|request| match request.fields.has("if-modified-since") {
        true => origin::status(304, ""),
        false => origin::json(BODY).field("Last-Modified", MODIFIED),
    });
    let larder = users(&origin, "etag: true, ttl: 1s, stale_while_revalidate: 1h");
    let known = tag(&larder.get(LIST));
    eventually("the copy is stale and is validated", || {
        let answer = larder.get(LIST);
        assert!(tag(&answer) == known && answer.text() == BODY);
        origin.count() >= 2
    });
    let asked = origin.last();
    assert_eq!(asked.fields.get("if-modified-since"), Some(MODIFIED));
    assert!(!asked.fields.has("if-none-match"), "{asked:?}");
}
