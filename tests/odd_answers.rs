//! Odd answers of the upstream, byte for byte: never stored, never shown as a complete success, and no byte beyond one
//! answer ever becomes part of the next.

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use support::larder::Larder;
use support::origin::{self, Origin};
use support::users_api;

/// What a client may see of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// 502, or an answer that breaks off.
    Broken,
    /// It passes, whole, to the one who asked; nobody else ever gets it.
    Unshared,
    /// A sound answer, with bytes after it or otherwise odd: it counts, they do not.
    Surplus,
}

struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    shown: Shown,
}

const SOUND: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n\"good\"";

#[test]
fn an_odd_answer_is_never_stored_and_never_a_complete_success() {
    let wrong = wrong(&rows(), &["/api/users/?n=", "/other/?n="]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_answer_that_breaks_off_at_any_byte_is_never_stored_and_never_a_complete_success() {
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\"go\r\n3;x=y\r\nod\"\r\n0\r\n\r\n";
    let cut: Vec<Row> = [SOUND, chunked]
        .iter()
        .flat_map(|whole| (0..whole.len()).map(|end| &whole[..end]))
        .map(|part| row("it breaks off", part, Shown::Broken))
        .collect();
    let wrong = wrong(&cut, &["/api/users/?n="]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

/// Each row is the answer to one request; whoever asks for the same next gets a sound one, from the upstream.
fn wrong(rows: &[Row], targets: &[&str]) -> Vec<String> {
    let next: Arc<Mutex<Option<origin::Answer>>> = Arc::default();
    let script = Arc::clone(&next);
    // A GET that was lost with its connection is sent once more and meets the same answer: it stays until it is taken back.
    let origin = Origin::start(move |_| {
        let odd = script.lock().unwrap().clone();
        odd.unwrap_or_else(|| origin::raw(SOUND).staying())
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut wrong = Vec::new();
    for target in targets {
        for (number, row) in rows.iter().enumerate() {
            let target = format!("{target}{number}");
            let odd = origin::raw(&row.bytes);
            *next.lock().unwrap() = Some(match row.shown {
                Shown::Surplus => odd.staying(),
                Shown::Broken | Shown::Unshared => odd,
            });
            let shown = larder.connect().try_request("GET", &target, &[], b"");
            *next.lock().unwrap() = None;
            let fault = match (row.shown, &shown) {
                (Shown::Broken, Ok(answer)) => answer.is_complete_success(),
                (Shown::Broken, Err(_)) => false,
                (Shown::Unshared, Ok(answer)) => !answer.content.whole,
                (Shown::Surplus, Ok(answer)) => answer.text() != "\"good\"",
                (Shown::Unshared | Shown::Surplus, Err(_)) => true,
            };
            let asked = origin.count();
            let second = larder.get(&target);
            let stored = row.shown != Shown::Surplus && origin.count() == asked;
            if fault || stored || second.status != 200 || second.text() != "\"good\"" {
                let bytes = String::from_utf8_lossy(&row.bytes[..row.bytes.len().min(200)]);
                wrong.push(format!(
                    "{} ({target}): shown {shown:?}, then {second:?}\n    {bytes:?}",
                    row.name
                ));
            }
        }
    }
    wrong
}

fn row(name: &'static str, bytes: impl AsRef<[u8]>, shown: Shown) -> Row {
    Row {
        name,
        bytes: bytes.as_ref().to_vec(),
        shown,
    }
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, bytes) in [
        ("nothing", ""),
        ("a CRLF", "\r\n"),
        ("no HTTP", "hello"),
        ("no HTTP", "<html>hello</html>\r\n\r\n"),
        ("no HTTP", "{\"users\": []}"),
        ("no HTTP", "+OK\r\n\r\n"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        ("no HTTP", "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{46}"),
        ("no HTTP", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another version", "HTTP/0.9 200 OK\r\n\r\n\"good\""),
        (
            "another version",
            "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "another version",
            "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "another version",
            "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "another version",
            "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "another version",
            "HTTP/1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "another version",
            "HTTP/11 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "another version",
            "ICY 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 -200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a status that is none",
            "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a control byte in the reason",
            "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a control byte in the reason",
            "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "a space before",
            " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "an interim answer and no other",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ),
        (
            "an interim answer and no other",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        ),
    ] {
        rows.push(row(name, bytes, Shown::Broken));
    }
    rows.push(row(
        "a coding in HTTP/1.0",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\"good\"\r\n0\r\n\r\n",
        Shown::Broken,
    ));
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
    rows.push(row(
        "a thousand interim answers and no other",
        hints,
        Shown::Broken,
    ));
    let mut with = |name, fields: &str, body: &str| {
        let bytes =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}\r\n\r\n{body}");
        rows.push(row(name, bytes, Shown::Broken));
    };
    for (name, fields, body) in [
        ("a short body", "Content-Length: 7", "\"good\""),
        (
            "a short body",
            "Content-Length: 9223372036854775807",
            "\"good\"",
        ),
        ("a short body", "Content-Length: 6", ""),
        ("a length that is none", "Content-Length: x", "\"good\""),
        ("a length that is none", "Content-Length: -1", "\"good\""),
        ("a length that is none", "Content-Length: +6", "\"good\""),
        ("a length that is none", "Content-Length: 0x6", "\"good\""),
        ("a length that is none", "Content-Length: ", "\"good\""),
        ("a length that is none", "Content-Length: 6, 7", "\"good\""),
        ("a length that is none", "Content-Length: 6.0", "\"good\""),
        (
            "a length that is none",
            "Content-Length: 99999999999999999999",
            "\"good\"",
        ),
        (
            "two lengths",
            "Content-Length: 6\r\nContent-Length: 7",
            "\"good\"",
        ),
        (
            "two lengths",
            "Content-Length: 7\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "two lengths",
            "Content-Length: 0\r\nContent-Length: 6",
            "\"good\"",
        ),
        ("a space before the colon", "Content-Length : 6", "\"good\""),
        (
            "a folded field",
            "X: 1\r\n folded\r\nContent-Length: 6",
            "\"good\"",
        ),
        ("a folded field", "Content-Length:\r\n 6", "\"good\""),
        ("a bare CR", "X: 1\rY: 2\r\nContent-Length: 6", "\"good\""),
        (
            "a control byte in a value",
            "X: \0\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a control byte in a value",
            "X: a\u{1}b\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a control byte in a value",
            "X: a\u{7f}b\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a name that is none",
            "X Y: 1\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a name that is none",
            ": 1\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a name that is none",
            "X\0: 1\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a line that is no field",
            "no field\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "no last chunk",
            "Transfer-Encoding: chunked",
            "6\r\n\"good\"\r\n",
        ),
        (
            "no end of the trailers",
            "Transfer-Encoding: chunked",
            "6\r\n\"good\"\r\n0\r\n",
        ),
        (
            "a bad chunk size",
            "Transfer-Encoding: chunked",
            "x\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a bad chunk size",
            "Transfer-Encoding: chunked",
            "-6\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a bad chunk size",
            "Transfer-Encoding: chunked",
            "\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a bad chunk size",
            "Transfer-Encoding: chunked",
            "0x6\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a bad chunk size",
            "Transfer-Encoding: chunked",
            "10000000000000006\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a bare LF after a size",
            "Transfer-Encoding: chunked",
            "6\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a long chunk",
            "Transfer-Encoding: chunked",
            "5\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "a short chunk",
            "Transfer-Encoding: chunked",
            "7\r\n\"good\"\r\n0\r\n\r\n",
        ),
        (
            "no CRLF after a chunk",
            "Transfer-Encoding: chunked",
            "6\r\n\"good\"0\r\n\r\n",
        ),
        (
            "chunked, and no chunk",
            "Transfer-Encoding: chunked",
            "\"good\"",
        ),
        (
            "a length beside chunks",
            "Transfer-Encoding: chunked\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a coding twice",
            "Transfer-Encoding: chunked, chunked",
            "\"good\"",
        ),
    ] {
        with(name, fields, body);
    }
    // What hyper reads, one way or another, and a second reader another way.
    let chunks = "6\r\n\"good\"\r\n0\r\n\r\n";
    for (name, fields, body) in [
        (
            "a length beside chunks, the same",
            "Transfer-Encoding: chunked\r\nContent-Length: 6",
            chunks,
        ),
        (
            "a length beside chunks, and shorter",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            chunks,
        ),
        (
            "a length beside chunks, and longer",
            "Content-Length: 600\r\nTransfer-Encoding: chunked",
            chunks,
        ),
        (
            "a coding twice in a line",
            "Transfer-Encoding: chunked, chunked",
            chunks,
        ),
        (
            "a coding on two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            chunks,
        ),
        (
            "a coding that nobody undoes",
            "Transfer-Encoding: gzip, chunked",
            chunks,
        ),
        (
            "a coding that is none",
            "Transfer-Encoding: identity",
            "\"good\"",
        ),
        (
            "a coding that is none",
            "Transfer-Encoding: xchunked",
            "\"good\"",
        ),
        ("a coding that is none", "Transfer-Encoding: ", "\"good\""),
        (
            "a coding that is none beside a length",
            "Transfer-Encoding: identity\r\nContent-Length: 6",
            "\"good\"",
        ),
        (
            "a length with a zero before it",
            "Content-Length: 06",
            "\"good\"",
        ),
        ("a list of lengths", "Content-Length: 6, 6", "\"good\""),
    ] {
        with(name, fields, body);
    }
    let huge = "x".repeat(2 << 20);
    with(
        "a huge field",
        &format!("X: {huge}\r\nContent-Length: 6"),
        "\"good\"",
    );
    with(
        "a huge name",
        &format!("{huge}: 1\r\nContent-Length: 6"),
        "\"good\"",
    );
    let many: String = (0..1000).map(|n| format!("X-{n}: 1\r\n")).collect();
    with(
        "a thousand fields",
        &format!("{many}Content-Length: 6"),
        "\"good\"",
    );
    for (name, line, fields) in [
        (
            "206 that nobody asked for",
            "206 Partial Content",
            "Content-Range: bytes 0-3/9\r\nContent-Length: 4\r\n",
        ),
        (
            "206 that nobody asked for",
            "206 Partial Content",
            "Content-Range: bytes 0-3/4\r\nCache-Control: max-age=9\r\nContent-Length: 4\r\n",
        ),
        (
            "206 that nobody asked for",
            "206 Partial Content",
            "Content-Length: 4\r\n",
        ),
        (
            "304 that nobody asked for",
            "304 Not Modified",
            "ETag: \"a\"\r\n",
        ),
        (
            "412 that nobody asked for",
            "412 Precondition Failed",
            "Content-Length: 4\r\n",
        ),
        (
            "416 that nobody asked for",
            "416 Range Not Satisfiable",
            "Content-Range: bytes */9\r\nContent-Length: 4\r\n",
        ),
        (
            "a status without a meaning",
            "299 Odd",
            "Content-Length: 4\r\n",
        ),
        (
            "a status without a meaning",
            "999 Odd",
            "Content-Length: 4\r\n",
        ),
    ] {
        let body = if line.starts_with("304") { "" } else { "1234" };
        let bytes =
            format!("HTTP/1.1 {line}\r\nContent-Type: application/json\r\n{fields}\r\n{body}");
        rows.push(row(name, bytes, Shown::Unshared));
    }
    for surplus in [
        "x",
        "\r\n",
        "\0",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n666",
        "HTTP/1.1 500 No\r\n\r\n",
    ] {
        rows.push(row(
            "surplus bytes",
            format!("{SOUND}{surplus}"),
            Shown::Surplus,
        ));
    }
    // RFC 9112 §2.2 lets a bare LF end a line of a head.
    rows.push(row("bare LFs", SOUND.replace("\r\n", "\n"), Shown::Surplus));
    rows
}
