//! 1xx: passed on before the final answer, whoever asks for what; never stored, repeated or merged. RFC 9110 §15.2.

mod support;

use support::client::Connection;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{Gate, users_api};

const EARLY: &str = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nKeep-Alive: 5\r\n\r\n";

/// All that comes until the text ends so.
fn read_until(connection: &mut Connection, end: &str) -> String {
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.ends_with(end) {
        let read = connection.read_some(&mut bytes).expect("more");
        assert!(read > 0, "closed after {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    text
}

fn ask(larder: &Larder, request: &str) -> Connection {
    let mut connection = larder.connect();
    connection.send(request.as_bytes());
    connection
}

#[test]
fn interim_answers_come_with_their_fields_before_the_final_one_is_there() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |_| origin::json("[7]").early(EARLY).behind(&held));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for request in [
        "GET /api/users/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /api/users/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        gate.close();
        let mut connection = ask(&larder, request);
        let early = read_until(&mut connection, "rel=preload\r\n\r\n");
        assert_eq!(
            early,
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        );
        gate.open();
        let answer = read_until(&mut connection, "[7]");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.to_lowercase().contains("link:"), "{answer}");
    }
}

/// Whoever believed a length would take what follows for its content, and the end of that for an answer.
#[test]
fn an_interim_answer_says_nothing_of_content() {
    let framed = "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nLink: </a.css>\r\n\r\n";
    let origin = Origin::start(move |_| origin::json("[7]").early(framed));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for target in ["/api/users/", "/elsewhere"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let all = read_until(&mut ask(&larder, &request), "[7]");
        let (early, _) = all.split_once("\r\n\r\n").unwrap();
        assert_eq!(early, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>");
    }
}

#[test]
fn interim_answers_are_neither_stored_nor_repeated() {
    let origin = Origin::start(move |_| origin::json("[]").early(EARLY));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    assert_eq!(connection.get("/api/users/").interim, [102, 103]);
    let hit = connection.get("/api/users/");
    assert!(hit.is_hit() && hit.interim.is_empty(), "{hit:?}");
    assert_eq!(hit.field("link"), None);
    assert_eq!(connection.get("/elsewhere").interim, [102, 103]);
}

#[test]
fn an_old_client_is_sent_none() {
    let origin = Origin::start(move |_| origin::json("[]").early(EARLY));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut connection = ask(&larder, "GET /elsewhere HTTP/1.0\r\nHost: a\r\n\r\n");
    let answer = read_until(&mut connection, "[]");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
}

#[test]
fn interim_answers_stand_between_the_answers_of_pipelined_requests() {
    let origin = Origin::start(move |_| origin::json("[]").early(EARLY));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let one = "GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut connection = ask(&larder, &one.repeat(20));
    for _ in 0..20 {
        let answer = connection.answer("GET");
        assert_eq!((answer.status, answer.text().as_str()), (200, "[]"));
        assert_eq!(answer.interim, [102, 103]);
    }
}

#[test]
fn a_flood_of_interim_answers_is_bounded_and_the_final_one_comes() {
    let flood =
        "HTTP/1.1 103 Early Hints\r\nX-Long: 0123456789012345678901234567890123456789\r\n\r\n";
    let flood = flood.repeat(20_000);
    let origin = Origin::start(move |_| origin::json("[7]").early(&flood));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let answer = larder.get("/elsewhere");
    assert_eq!((answer.status, answer.text().as_str()), (200, "[7]"));
}
