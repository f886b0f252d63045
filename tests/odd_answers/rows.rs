//! The tables. A row is a kind of oddity, its bytes, and what a client may see of it.

// Every test binary compiles this for itself, and one of them only counts.
#![allow(dead_code)]

use crate::line::Line;

/// What a client may see of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// 502, or an answer that breaks off.
    Broken,
    /// It passes, whole, to the one who asked; nobody else ever gets it.
    Unshared,
    /// The same on a route with a `ttl`; by the origin's word it may be kept.
    UnsharedByTtl,
    /// A sound answer, with bytes after it or otherwise odd: it counts, they do not.
    Surplus,
}

pub struct Row {
    pub line: Line,
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub shown: Shown,
}

pub const SOUND: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n\"good\"";

/// C5, unless the row says otherwise.
pub fn row(name: &'static str, bytes: impl AsRef<[u8]>, shown: Shown) -> Row {
    Row {
        line: Line::C5,
        name,
        bytes: bytes.as_ref().to_vec(),
        shown,
    }
}

/// All but what breaks off at each byte.
pub fn rows() -> Vec<Row> {
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
    for (name, status, fields) in [
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
        let body = if status.starts_with("304") {
            ""
        } else {
            "1234"
        };
        let bytes =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}\r\n{body}");
        let by_http = fields.contains("max-age");
        rows.push(Row {
            line: Line::C2,
            ..row(
                name,
                bytes,
                if by_http {
                    Shown::UnsharedByTtl
                } else {
                    Shown::Unshared
                },
            )
        });
    }
    rows.extend(for_one_alone());
    rows.extend(unreadable_freshness());
    rows.extend(errors());
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

/// C2: what is one client's alone.
fn for_one_alone() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, fields) in [
        ("a cookie", "Set-Cookie: sessionid=a"),
        ("a cookie", "set-cookie: csrftoken=a; Path=/"),
        ("a cookie", "Set-Cookie: "),
        (
            "a cookie",
            "Set-Cookie: a=b\r\nCache-Control: public, max-age=3600",
        ),
        ("private", "Cache-Control: private"),
        ("private", "Cache-Control: PRIVATE, max-age=3600"),
        (
            "private",
            "Cache-Control: max-age=3600\r\nCache-Control: private",
        ),
        ("private", "Cache-Control: private=\"x-a\", max-age=3600"),
        ("private", "Cache-Control: max-age=3600,private"),
        ("no-store", "Cache-Control: no-store"),
        ("no-store", "Cache-Control: max-age=3600, No-Store"),
        ("no-store", "Cache-Control: x=\"a,b\", no-store"),
        ("no-store", "Cache-Control:\tno-store\t"),
        ("no-store", "Cache-Control: ,,no-store,,"),
        ("no-cache without a validator", "Cache-Control: no-cache"),
        (
            "no-cache without a validator",
            "Cache-Control: no-cache=\"x-a\"",
        ),
        ("it varies by anything", "Vary: *"),
        ("it varies by anything", "Vary: Accept, *"),
        ("it varies by anything", "Vary: Accept\r\nVary: *"),
        ("it varies by what is no name", "Vary: Accept Cookie"),
        ("it varies by what is no name", "Vary: \"Accept\""),
        ("it varies by what is no name", "Vary: X-\u{e9}"),
    ] {
        // By the origin's word, no-cache may be kept, and is asked about before each use.
        let shown = Shown::Unshared;
        rows.push(with_freshness(Line::C2, name, "200 OK", fields, shown));
    }
    for (name, fields) in [
        ("it varies by what no key holds", "Vary: User-Agent"),
        ("it varies by what no key holds", "Vary: X-Tenant, Accept"),
        ("it is encoded", "Content-Encoding: br"),
    ] {
        let shown = Shown::UnsharedByTtl;
        rows.push(with_freshness(Line::C2, name, "200 OK", fields, shown));
    }
    rows
}

/// C3: what the origin says of freshness and nobody can read, or not in one way.
fn unreadable_freshness() -> Vec<Row> {
    let mut rows = Vec::new();
    for said in [
        "max-age=",
        "max-age",
        "max-age=x",
        "max-age=-1",
        "max-age=+60",
        "max-age=1.5",
        "max-age=60s",
        "max-age=0x3c",
        "max-age='60'",
        "max-age=\"60",
        "max-age=60\"",
        "max-age=\"\"60\"\"",
        "max-age=60 60",
        "max-age==60",
        "max-age=60;",
        "max-age=60; public",
        "max-age=\u{661}",
        "s-maxage=x, max-age=60",
        "s-maxage=, max-age=60",
        "max-age=60, max-age=x",
        "max-age=60, max-age=0",
        "max-age=0, max-age=60",
        "max-age=60, s-maxage=0",
    ] {
        let fields = format!("Cache-Control: {said}");
        let name = "a lifetime that is none";
        rows.push(odd(Line::C3, name, "200 OK", &fields, Shown::Unshared));
    }
    // Not one directive of these can be read, and any might have forbidden it.
    for said in [
        "no-store;",
        "no-store; private",
        "no store",
        "\"no-store\"",
        "'no-store'",
        "no-store\"",
        "\"no-store",
        "x=\"a, no-store",
        "x=\"a\\\", no-store",
        "(no-store)",
        "no-store:1",
        "=no-store",
        "private/x",
        "no-st\u{f6}re",
        "\u{a0}no-store",
        "[private]",
    ] {
        let fields = format!("Cache-Control: {said}");
        let name = "a directive that is none";
        rows.push(odd(Line::C3, name, "200 OK", &fields, Shown::Unshared));
    }
    for fields in [
        "Expires: 0",
        "Expires: -1",
        "Expires: ",
        "Expires: tomorrow",
        "Expires: Thu, 01 Jan 1970 00:00:00 GMT",
        "Expires: Thu, 31 Dec 2099 00:00:00 CET",
        "Expires: 2099-12-31T00:00:00Z",
        "Expires: Thu, 31 Dec 2099 00:00:00 GMT\r\nExpires: 0",
    ] {
        let name = "an Expires that is none, or past";
        rows.push(odd(Line::C3, name, "200 OK", fields, Shown::Unshared));
    }
    rows
}

/// C4: an error is nobody else's, whatever it says of itself.
fn errors() -> Vec<Row> {
    let mut rows = Vec::new();
    for status in [
        400, 401, 403, 405, 406, 408, 411, 413, 414, 415, 417, 421, 422, 425, 426, 428, 429, 431,
        451, 500, 501, 502, 503, 504, 505, 507, 508, 511,
    ] {
        for (fields, shown) in [
            ("X: 1", Shown::Unshared),
            ("Cache-Control: public, max-age=3600", Shown::UnsharedByTtl),
        ] {
            let line = format!("{status} Odd");
            rows.push(odd(Line::C4, "an error", &line, fields, shown));
        }
    }
    rows
}

/// As it would be kept, but for these fields.
fn with_freshness(line: Line, name: &'static str, status: &str, fields: &str, shown: Shown) -> Row {
    let fields = match fields.contains("Cache-Control") {
        true => fields.to_owned(),
        false => format!("{fields}\r\nCache-Control: max-age=3600"),
    };
    odd(line, name, status, &fields, shown)
}

fn odd(line: Line, name: &'static str, status: &str, fields: &str, shown: Shown) -> Row {
    let bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}\r\nContent-Length: 6\r\n\r\n\"mine\""
    );
    Row {
        line,
        ..row(name, bytes, shown)
    }
}
