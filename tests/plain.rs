//! Requests that are answered without HTTP's machinery, for nobody can read them in two ways. Whether one is does not show:
//! the same request with a word on its connection, which only the machinery reads, has the same answer.

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::client::{Answer, Connection};
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::{Gate, eventually, users_api};

/// Larger than what is copied behind a head, and than what is put together.
const LARGE: usize = 100_000;

/// What an API may say, by the path's last part.
fn answer(request: &Request) -> origin::Answer {
    let large = || "x".repeat(LARGE);
    match request.target.trim_end_matches('/').rsplit('/').next() {
        Some("small") => origin::json("{}"),
        Some("large") => origin::json(large()),
        Some("chunked") => origin::json("{\"in\": \"chunks\"}").chunked(),
        Some("large-chunked") => origin::json(large()).chunked(),
        Some("until-close") => origin::json(large()).until_close(),
        Some("empty") => origin::json(""),
        Some("none") => origin::status(204, ""),
        Some("unmodified") => origin::status(304, "").field("ETag", "\"e\""),
        Some("unknown") => origin::status(299, "so it is"),
        Some("undated") => origin::json("{}").without("Date"),
        Some("early") => origin::json("{}").early(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n",
        ),
        Some("hung-up") => origin::hang_up(),
        Some("echo") => origin::json(format!("{} {:?}", request.method, request.content)),
        _ => origin::json("{}"),
    }
}

/// What of an answer is not its own each time.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String, Vec<u16>) {
    let mut fields = answer.fields.0.clone();
    assert_eq!(
        answer.fields.all("date").len(),
        1,
        "each is dated, and once"
    );
    fields.retain(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    fields.sort();
    (answer.status, fields, answer.text(), answer.interim.clone())
}

#[test]
fn an_answer_is_the_same_whoever_has_read_its_request() {
    let origin = Origin::start(answer);
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for what in [
        "small",
        "large",
        "chunked",
        "large-chunked",
        "until-close",
        "empty",
        "none",
        "unmodified",
        "unknown",
        "undated",
        "early",
        "hung-up",
        "echo",
    ] {
        for (method, content) in [
            ("GET", ""),
            ("POST", "{\"a\": 1}"),
            ("PUT", ""),
            ("PATCH", "b"),
            ("DELETE", ""),
        ] {
            let length = match content {
                "" => String::new(),
                _ => format!("Content-Length: {}\r\n", content.len()),
            };
            let request = |more| {
                format!(
                    "{method} /elsewhere/{what} HTTP/1.1\r\nHost: a\r\n{more}{length}\r\n{content}"
                )
            };
            let (plain, other) = (request(""), request("Connection: keep-alive, x-none\r\n"));
            let (mut by_us, mut by_the_machinery) = (larder.connect(), larder.connect());
            // Each connection goes on behind it, too.
            for _ in 0..2 {
                by_us.send(plain.as_bytes());
                by_the_machinery.send(other.as_bytes());
                let answers = (by_us.answer(method), by_the_machinery.answer(method));
                assert_eq!(told(&answers.0), told(&answers.1), "{method} {what}");
            }
        }
    }
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_its_client() {
    for chunked in [true, false] {
        let origin = Origin::start(move |_| {
            let answer = origin::json("x".repeat(LARGE));
            let answer = if chunked { answer.chunked() } else { answer };
            answer.cut_after(LARGE as u64 / 2)
        });
        let larder = Larder::start(users_api(&origin, "memory:", ""));
        let mut connection = larder.connect();
        connection.send(b"GET /elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = connection.try_head("GET").unwrap();
        assert_eq!(head.status, 200, "chunked: {chunked}");
        assert!(!connection.content(head.framing).whole);
    }
}

#[test]
fn what_is_asked_while_an_answer_is_made_has_its_own_in_its_turn() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |request| {
        let answer = origin::json(format!("{:?}", request.target));
        match request.target.contains("slow") {
            true => answer.behind(&held),
            false => answer,
        }
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    connection.send(b"GET /elsewhere/slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is asked", || origin.count() == 1);
    for n in 0..3 {
        let next = format!("GET /elsewhere/{n} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.send(next.as_bytes());
    }
    gate.open();
    assert_eq!(connection.answer("GET").text(), "\"/elsewhere/slow\"");
    for n in 0..3 {
        assert_eq!(
            connection.answer("GET").text(),
            format!("\"/elsewhere/{n}\"")
        );
    }
    connection.send(b"GET /elsewhere/last HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.answer("GET").text(), "\"/elsewhere/last\"");
}

#[test]
fn a_client_that_leaves_is_not_answered_and_its_place_upstream_is_free() {
    let gate = Gate::new();
    let (held, asked) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = asked.clone();
    let origin = Origin::start(move |request| {
        if !request.target.contains("slow") {
            return origin::json("{}");
        }
        counted.fetch_add(1, Ordering::SeqCst);
        origin::json("{}").behind(&held)
    });
    let yaml = users_api(&origin, "memory:", "").replace(
        &format!("upstream: {}", origin.url()),
        &format!("upstream: {{url: '{}', max_connections: 1}}", origin.url()),
    );
    let larder = Larder::start(yaml);
    for n in 1..=3 {
        let mut connection = larder.connect();
        connection.send(b"GET /elsewhere/slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it is asked", || asked.load(Ordering::SeqCst) == n);
        drop(connection);
    }
    // There is one place, and nobody has given an answer.
    assert_eq!(larder.get("/elsewhere/fast").status, 200);
    gate.open();
}

#[test]
fn an_answer_that_is_made_when_the_end_is_announced_is_given_and_says_that_it_is_the_last() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&held));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    connection.send(b"GET /elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is asked", || origin.count() == 1);
    larder.terminate();
    let is_refused = || Connection::try_open(larder.address()).is_err();
    eventually("nobody else is let in", is_refused);
    gate.open();
    let answer = connection.answer("GET");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(connection.has_ended());
}

#[test]
fn a_connection_closes_after_an_answer_that_was_being_written_when_the_end_was_announced() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |_| origin::json("x".repeat(LARGE)).pausing_after(10, &held));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut connection = larder.connect();
    connection.send(b"GET /elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = connection.try_head("GET").unwrap();
    larder.terminate();
    let is_refused = || Connection::try_open(larder.address()).is_err();
    eventually("nobody else is let in", is_refused);
    gate.open();
    assert!(connection.content(head.framing).whole);
    assert!(connection.has_ended());
}

/// Whatever is left of it between the two when the answer has been given, in the kernel's buffers or in ours.
#[test]
fn what_a_client_has_sent_reaches_the_api_though_that_has_answered_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api");
    let listener = UnixListener::bind(&path).unwrap();
    let origin = Origin::start(|_| origin::json("{}"));
    let yaml = users_api(&origin, "memory:", "");
    let api = format!("http+unix://{}", path.display());
    let larder = Larder::start(yaml.replace(&origin.url(), &api));
    for length in (70_000..700_000).step_by(7_000) {
        let (sent, answered) = (Gate::new(), Gate::new());
        let mut connection = larder.connect();
        let came = thread::scope(|scope| {
            let api = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                sent.wait();
                // However far it has come by now, one of the lengths is between the two.
                thread::sleep(Duration::from_millis(5));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                stream.write_all(answer).unwrap();
                answered.wait();
                let mut content = vec![0; length];
                stream.read_exact(&mut content).map(|()| content)
            });
            let head =
                format!("POST /elsewhere/ HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            connection.send(head.as_bytes());
            connection.send(&vec![b'x'; length]);
            sent.open();
            assert_eq!(connection.answer("POST").status, 200);
            answered.open();
            api.join().unwrap()
        });
        let content = came.unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        assert!(content.iter().all(|byte| *byte == b'x'));
    }
}

/// The same bytes but for their first line, from several clients and for several purposes, often enough for every thread to know
/// them: what the API is told is each one's own.
#[test]
fn fields_that_come_again_are_told_to_the_api_as_each_clients_own() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", "drop_headers: [X-Secret]"));
    let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let token = "Token 7";
    let fields = [("Authorization", token), ("X-Secret", "s"), ("X-Own", "o")];
    let mut ids = HashSet::new();
    for turn in 0..10 {
        for (n, address) in addresses.iter().enumerate() {
            let mut client = larder.connect_from(address);
            let id = 10 * turn + n;
            let (passed, filled) = (format!("/other/{id}/"), format!("/api/users/{id}/"));
            for (method, target) in [("GET", &passed), ("GET", &filled), ("DELETE", &filled)] {
                let answer = client.request(method, target, &fields, b"");
                let told = origin.last();
                assert_eq!((&told.method[..], &told.target), (method, target));
                let all = |name| told.fields.all(name);
                assert_eq!(all("x-real-ip"), [*address]);
                assert_eq!(all("x-forwarded-for"), [*address]);
                assert_eq!(all("authorization"), [token]);
                assert_eq!(all("x-secret"), [""; 0]);
                let is_fill = method == "GET" && target == &filled;
                assert_eq!(all("x-own").is_empty(), is_fill, "{method} {target}");
                let request = all("x-request-id");
                assert_eq!(request, answer.fields.all("x-request-id"));
                assert!(ids.insert(request.concat()), "each has an id of its own");
            }
        }
    }
}
