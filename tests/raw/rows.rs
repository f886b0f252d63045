//! The tables. A row is a technique, its bytes, and what may come of it.

// Every test binary compiles this for itself, and one of them only counts.
#![allow(dead_code)]

use crate::line::Line;

/// What may come of a row.
pub enum Expected {
    /// One of these answers, then the connection closes; nothing arrives, nor what follows it.
    Refused(&'static [u16]),
    /// One of these answers; nothing arrives. Its end is clear, so the connection may stay.
    Declined(&'static [u16]),
    /// As refused, but its head was in order: it may arrive as one that breaks off, never as a whole.
    Broken(&'static [u16]),
    /// It arrives once, as it is, and without these fields.
    Forwarded {
        method: &'static str,
        target: String,
        content: Vec<u8>,
        without: Vec<String>,
    },
}

impl Expected {
    /// Whether nobody knows where the next request begins.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Expected::Refused(_) | Expected::Broken(_))
    }

    pub fn is_forwarded(&self) -> bool {
        matches!(self, Expected::Forwarded { .. })
    }
}

pub struct Row {
    pub technique: &'static str,
    pub bytes: Vec<u8>,
    pub expected: Expected,
}

impl Row {
    /// Whether a stored value is the answer to this one, as it goes on.
    pub fn is_kept_as(&self, value: &[u8]) -> bool {
        match &self.expected {
            Expected::Forwarded {
                method: "GET",
                target,
                content,
                ..
            } => {
                let body = format!("GET {target} api.example.org\n");
                content.is_empty() && value.starts_with(body.as_bytes())
            }
            _ => false,
        }
    }
}

const BAD: &[u16] = &[400];
const HOST: &str = "Host: api.example.org";

/// Each table with the rule that its rows are of.
pub fn tables() -> Vec<(Line, Vec<Row>)> {
    vec![
        (Line::R1, start_lines()),
        (Line::R1, fields()),
        (Line::R2, framing()),
        (Line::R3, hosts()),
        (Line::R3, targets()),
        (Line::R4, methods()),
        (Line::R5, chunks()),
        (Line::R6, hop_by_hop()),
        (Line::R7, ours_to_say()),
        (Line::R8, limits()),
        (Line::R9, hidden_in_paths()),
        (Line::R9, odd_paths()),
    ]
}

fn row(technique: &'static str, bytes: impl AsRef<[u8]>, expected: Expected) -> Row {
    Row {
        technique,
        bytes: bytes.as_ref().to_vec(),
        expected,
    }
}

fn forwarded(method: &'static str, target: &str, content: &[u8]) -> Expected {
    Expected::Forwarded {
        method,
        target: target.to_owned(),
        content: content.to_vec(),
        without: Vec::new(),
    }
}

/// R2: exactly one Transfer-Encoding that is exactly `chunked`, or exactly one canonical Content-Length.
pub fn framing() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut post = |technique, fields: &str, statuses| {
        let bytes = format!("POST /other/ HTTP/1.1\r\n{HOST}\r\n{fields}\r\n\r\n0\r\n\r\n");
        rows.push(row(technique, bytes, Expected::Refused(statuses)));
    };
    for coding in [
        "identity, chunked",
        "identity,chunked",
        "chunked, chunked",
        "chunked,chunked",
        ",chunked",
        "chunked,",
        ", chunked",
        "gzip, chunked",
        "deflate, chunked",
        "compress, chunked",
        "br, chunked",
        "x, chunked",
        "trailers, chunked",
        "chunked, gzip",
        "chunked, identity",
        "identity",
        "gzip",
        "deflate",
        "xchunked",
        "chunkedx",
        "chunke",
        "chunked;q=1",
        "chunked; a=b",
        "chunked ;",
        "\"chunked\"",
        "'chunked'",
        "chunked chunked",
        "chunked\tchunked",
        "chu nked",
        "chunked=1",
        "cow",
        "0",
        "",
        " ",
        "*",
        "chunked\u{e9}",
        "\u{a0}chunked",
        "chunked\u{a0}",
        "(x) chunked",
    ] {
        post(
            "a coding that is not chunked alone",
            &format!("Transfer-Encoding: {coding}"),
            &[400, 501],
        );
    }
    for (first, second) in [
        ("chunked", "chunked"),
        ("chunked", "identity"),
        ("identity", "chunked"),
        ("gzip", "chunked"),
        ("chunked", ""),
        ("", "chunked"),
        ("x", "chunked"),
    ] {
        post(
            "two Transfer-Encoding fields",
            &format!("Transfer-Encoding: {first}\r\nTransfer-Encoding: {second}"),
            &[400, 501],
        );
    }
    for name in [
        "Transfer-Encoding ",
        "Transfer-Encoding\t",
        "Transfer-Encoding\u{b}",
        "Transfer-Encoding\0",
        " Transfer-Encoding",
        "\tTransfer-Encoding",
        "Transfer Encoding",
        "Transfer-Encoding\u{e9}",
        "Transfer-\u{212a}ncoding",
    ] {
        post(
            "a name that is nearly Transfer-Encoding",
            &format!("{name}: chunked"),
            BAD,
        );
    }
    for value in [
        "\u{b}chunked",
        "chunked\u{b}",
        "\0chunked",
        "chunked\0",
        "\u{c}chunked",
        "\u{7f}chunked",
        "\r\n chunked",
        "\r\n\tchunked",
        "chunked\r\n ",
        "chun\r\n ked",
        "\rchunked",
    ] {
        post(
            "a control byte or a fold in Transfer-Encoding",
            &format!("Transfer-Encoding: {value}"),
            &[400, 501],
        );
    }
    for length in [
        "05",
        "00",
        "005",
        "00000000000000000000",
        "+5",
        "-1",
        "-0",
        "+0",
        "0x5",
        "0X5",
        "5x",
        "x",
        "5.0",
        "5e0",
        "5,",
        ",5",
        "5, 5",
        "5,5",
        "5, 6",
        "5 5",
        "5;",
        "5; a=b",
        "\"5\"",
        "1_0",
        "",
        " ",
        "99999999999999999999",
        "18446744073709551616",
        "18446744073709551615",
        "9223372036854775808",
        "5\u{e9}",
        "\u{665}",
        "5\0",
        "\u{b}5",
        "5\u{c}",
        "0b1",
        "#5",
        "NaN",
    ] {
        post(
            "a length that is no canonical number",
            &format!("Content-Length: {length}"),
            &[400, 413, 431],
        );
    }
    for (first, second) in [
        ("5", "6"),
        ("6", "5"),
        ("0", "5"),
        ("5", "0"),
        ("5", ""),
        ("05", "5"),
        ("5", "x"),
    ] {
        post(
            "two Content-Length fields",
            &format!("Content-Length: {first}\r\nContent-Length: {second}"),
            BAD,
        );
    }
    for name in [
        "Content-Length ",
        "Content-Length\t",
        "Content-Length\0",
        " Content-Length",
        "Content Length",
        "Content-Length\u{b}",
    ] {
        post(
            "a name that is nearly Content-Length",
            &format!("{name}: 5"),
            BAD,
        );
    }
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked, identity",
        "Content-Length: 05\r\nTransfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: ",
        "Content-Length: 5\r\nTransfer-Encoding : chunked",
        "Content-Length: 5\r\nTransfer-Encoding:\u{b}chunked",
    ] {
        post("both framings, and one of them odd", fields, &[400, 501]);
    }
    for coding in ["chunked", "Chunked", "identity", "gzip, chunked"] {
        let bytes = format!(
            "POST /other/ HTTP/1.0\r\n{HOST}\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"
        );
        rows.push(row(
            "Transfer-Encoding in HTTP/1.0",
            bytes,
            Expected::Refused(&[400, 501]),
        ));
    }
    for (method, target) in [
        ("GET", "/api/users/"),
        ("HEAD", "/api/users/"),
        ("GET", "/api/users/7/"),
        ("DELETE", "/api/users/7/"),
        ("OPTIONS", "/api/users/"),
    ] {
        let bytes = format!(
            "{method} {target} HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"
        );
        rows.push(row(
            "unclear framing on a cached route",
            bytes,
            Expected::Refused(&[400, 501]),
        ));
    }
    // Whatever else there is to refuse, what is unclear is refused so that nothing behind it counts.
    for line in [
        "BREW /other/",
        "PURGE /api/users/",
        "TRACE /other/",
        "POST /a%00b",
        "POST other",
    ] {
        for fields in [
            "Transfer-Encoding: identity, chunked",
            "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: \u{e3}\r\nTransfer-Encoding: chunked",
        ] {
            let bytes = format!("{line} HTTP/1.1\r\n{HOST}\r\n{fields}\r\n\r\n0\r\n\r\n");
            rows.push(row(
                "unclear framing beside another fault",
                bytes,
                Expected::Refused(&[400, 405, 501]),
            ));
        }
    }
    for (technique, fields, content) in [
        (
            "one framing in another case",
            "transfer-encoding: CHUNKED",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "one framing in another case",
            "TRANSFER-ENCODING: Chunked",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        ("a tab before the value", "Content-Length:\t2", "hi"),
        ("nothing before the value", "Content-Length:2", "hi"),
        ("spaces about the value", "Content-Length:   2  ", "hi"),
        // hyper makes one of two that are the same number, before anybody sees the second: what arrives has one.
        (
            "the same length twice",
            "Content-Length: 2\r\nContent-Length: 2",
            "hi",
        ),
        (
            "the same length twice",
            "Content-Length: 2\r\nContent-Length: 02",
            "hi",
        ),
        (
            "both framings: chunked counts",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "both framings: chunked counts",
            "Transfer-Encoding: chunked\r\nContent-Length: 500",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
    ] {
        let bytes = format!("POST /other/ HTTP/1.1\r\n{HOST}\r\n{fields}\r\n\r\n{content}");
        rows.push(row(technique, bytes, forwarded("POST", "/other/", b"hi")));
    }
    rows
}

/// R5: malformed content is the client's fault, and its request is never completed.
pub fn chunks() -> Vec<Row> {
    let mut rows = Vec::new();
    for (technique, content) in [
        ("no size", "\r\nhi\r\n0\r\n\r\n"),
        ("no size", ";a=b\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "g\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "-2\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "+2\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "0x2\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "2h\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "2,2\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "2_0\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "\"2\"\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "2.0\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "\u{662}\r\nhi\r\n0\r\n\r\n"),
        ("a size that is no number", "\0\r\nhi\r\n0\r\n\r\n"),
        ("a space in a size", " 2\r\nhi\r\n0\r\n\r\n"),
        ("a space in a size", "\t2\r\nhi\r\n0\r\n\r\n"),
        ("a space in a size", "2 2\r\nhi\r\n0\r\n\r\n"),
        (
            "a size beyond all numbers",
            "10000000000000002\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "a size beyond all numbers",
            "fffffffffffffffffffff\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "a size beyond all numbers",
            "ffffffffffffffff0\r\nhi\r\n0\r\n\r\n",
        ),
        ("a bare LF after a size", "2\nhi\r\n0\r\n\r\n"),
        ("a bare LF after a size", "2;a\nhi\r\n0\r\n\r\n"),
        ("a bare LF after a size", "2\r\nhi\r\n0\n\r\n"),
        ("a bare CR after a size", "2\rhi\r\n0\r\n\r\n"),
        ("a bare CR after a size", "2\r\rhi\r\n0\r\n\r\n"),
        ("an LF in an extension", "2;a=\n\r\nhi\r\n0\r\n\r\n"),
        ("a CR in an extension", "2;a=\rb\r\nhi\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "2\r\nhi!\r\n0\r\n\r\n"),
        (
            "a chunk longer than its size",
            "2\r\nhi!!!!!!!!!!!!\r\n0\r\n\r\n",
        ),
        ("a chunk shorter than its size", "3\r\nhi\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", "4\r\nhi\r\n0\r\n\r\n"),
        ("no CRLF after a chunk", "2\r\nhi0\r\n\r\n"),
        ("no CRLF after a chunk", "2\r\nhi\n0\r\n\r\n"),
        ("no CRLF after a chunk", "2\r\nhi\r0\r\n\r\n"),
        ("no CRLF after a chunk", "2\r\nhi\n\r0\r\n\r\n"),
        (
            "a trailer that is no field",
            "2\r\nhi\r\n0\r\nno field\r\n\r\n",
        ),
        ("a trailer that is no field", "2\r\nhi\r\n0\r\n: x\r\n\r\n"),
        (
            "a trailer that is no field",
            "2\r\nhi\r\n0\r\nA : x\r\n\r\n",
        ),
        (
            "a trailer with a control byte",
            "2\r\nhi\r\n0\r\nA: \0\r\n\r\n",
        ),
        ("a folded trailer", "2\r\nhi\r\n0\r\nA: b\r\n c\r\n\r\n"),
    ] {
        for target in ["/other/", "/api/users/"] {
            let bytes = format!(
                "POST {target} HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{content}"
            );
            rows.push(row(technique, bytes, Expected::Broken(BAD)));
        }
    }
    for (technique, content) in [
        ("an extension", "2;a=b\r\nhi\r\n0\r\n\r\n"),
        ("an extension", "2;a=\"b;c\"\r\nhi\r\n0;z\r\n\r\n"),
        ("leading zeros", "0002\r\nhi\r\n000\r\n\r\n"),
        // To hyper a bare LF ends no trailer line; trailers go no further, so it is dropped with them.
        (
            "a bare LF in the trailers",
            "2\r\nhi\r\n0\r\nA: b\n\r\n\r\n",
        ),
        (
            "a size with zeros and an extension",
            "002;x\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "trailers that would decide",
            "2\r\nhi\r\n0\r\nHost: evil\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n",
        ),
        (
            "trailers that would decide",
            "2\r\nhi\r\n0\r\nAuthorization: Token a\r\nCookie: a=b\r\n\r\n",
        ),
    ] {
        let bytes = format!(
            "POST /other/ HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{content}"
        );
        rows.push(row(technique, bytes, forwarded("POST", "/other/", b"hi")));
    }
    // Content on a GET: passed on if at all, and its answer is nobody else's.
    for (target, fields, content) in [
        ("/api/users/", "Content-Length: 2", "hi"),
        ("/api/users/7/", "Content-Length: 2", "hi"),
        (
            "/api/users/",
            "Transfer-Encoding: chunked",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        ("/other/", "Content-Length: 2", "hi"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n{fields}\r\n\r\n{content}");
        rows.push(row(
            "content on a GET",
            bytes,
            forwarded("GET", target, b"hi"),
        ));
    }
    rows
}

/// R3: exactly one Host, and a valid one.
pub fn hosts() -> Vec<Row> {
    let mut rows = Vec::new();
    for (technique, hosts) in [
        ("no Host", ""),
        (
            "two Hosts",
            "Host: api.example.org\r\nHost: api.example.org\r\n",
        ),
        (
            "two Hosts",
            "Host: api.example.org\r\nHost: evil.example\r\n",
        ),
        (
            "two Hosts",
            "Host: evil.example\r\nHost: api.example.org\r\n",
        ),
        ("two Hosts", "Host: api.example.org\r\nhost: \r\n"),
        (
            "two Hosts",
            "Host: api.example.org\r\nX: 1\r\nHOST: evil.example\r\n",
        ),
        ("a name that is nearly Host", "Host : api.example.org\r\n"),
        ("a name that is nearly Host", "Host\t: api.example.org\r\n"),
        ("a name that is nearly Host", " Host: api.example.org\r\n"),
        ("a name that is nearly Host", "Host\0: api.example.org\r\n"),
        ("a name that is nearly Host", "Ho st: api.example.org\r\n"),
        (
            "a folded Host",
            "Host: api.example.org\r\n evil.example\r\n",
        ),
        ("a folded Host", "Host:\r\n api.example.org\r\n"),
        (
            "a Host before and folded",
            "Host: api.example.org\r\n\tHost: evil\r\n",
        ),
    ] {
        let bytes = format!("GET /other/ HTTP/1.1\r\n{hosts}\r\n");
        rows.push(row(technique, bytes, Expected::Refused(BAD)));
    }
    for host in [
        "",
        "a b",
        "a,b",
        "a/b",
        "a\\b",
        "a@b",
        "user:pw@a",
        "a?b",
        "a#b",
        "a<b",
        "a>b",
        "a\"b",
        "a'b",
        "a`b",
        "a{b",
        "a}b",
        "a|b",
        "a^b",
        "a;b",
        "a=b",
        "a&b",
        "a$b",
        "a!b",
        "a*b",
        "a(b)",
        "a+b",
        "a%00",
        "a%2eb",
        "a%",
        "http://a",
        "//a",
        "/",
        ".:",
        ":",
        ":80",
        "a:",
        "a:x",
        "a:80:80",
        "a:99999",
        "a:-1",
        "a:+80",
        "a: 80",
        "a :80",
        "a:8 0",
        "a:0x50",
        "a:80a",
        "a:65536",
        "a:80/",
        "[",
        "]",
        "[]",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[::1]:x",
        "[x]",
        "[::1%25eth0]",
        "[v1.x]",
        "[127.0.0.1]",
        "[::g]",
        "a[::1]",
        "b\u{fc}cher",
        "\u{ff0e}example",
        "a\0b",
        "a\tb",
        "a\u{7f}b",
        "a\u{b}b",
        "a\rb",
    ] {
        for field in ["/other/", "/api/users/"] {
            let bytes = format!("GET {field} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            rows.push(row("a Host that is none", bytes, Expected::Refused(BAD)));
        }
    }
    rows
}

/// R3: a target is a path, or an absolute one that agrees with Host.
pub fn targets() -> Vec<Row> {
    let mut rows = Vec::new();
    for (technique, target) in [
        (
            "an authority that is not Host's",
            "http://evil.example/other/",
        ),
        (
            "an authority that is not Host's",
            "http://evil.example/api/users/",
        ),
        (
            "an authority that is not Host's",
            "http://api.example.org:81/other/",
        ),
        (
            "an authority that is not Host's",
            "http://a@api.example.org/other/",
        ),
        (
            "an authority that is not Host's",
            "http://api.example.org@evil.example/",
        ),
        (
            "an authority that is not Host's",
            "http://api.example.org.evil.example/",
        ),
        ("another scheme", "ftp://api.example.org/x"),
        ("another scheme", "ws://api.example.org/x"),
        ("another scheme", "file:///etc/passwd"),
        ("another scheme", "gopher://api.example.org/"),
        ("another scheme", "unix:/run/x"),
        ("another scheme", "javascript:alert(1)"),
        ("another scheme", "data:,x"),
        ("no path", "x"),
        ("no path", "api/users/"),
        ("no path", "?x"),
        ("no path", "*"),
        ("no path", "api.example.org:80"),
        ("no path", "http://"),
        ("no path", "http:///x"),
        ("no path", "http:/api/users/"),
        ("no path", "http:api/users/"),
        ("no path", "%2fapi%2fusers%2f"),
        ("no path", "./api/users/"),
        ("no path", "../api/users/"),
        ("a space", "/a b"),
        ("a space", "/api/users/ /x"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row(technique, bytes, Expected::Refused(BAD)));
    }
    // An empty path is sent as `/` (RFC 9112 §3.2.1).
    for (target, arrives) in [
        ("http://api.example.org", "/"),
        ("http://api.example.org?a", "/?a"),
        ("HTTP://API.example.org/other/", "/other/"),
        ("https://api.example.org/other/", "/other/"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row(
            "an absolute target goes on as a path",
            bytes,
            forwarded("GET", arrives, b""),
        ));
    }
    rows
}

/// R9: what some server ends a path at, or takes for a separator, is in none.
pub fn hidden_in_paths() -> Vec<Row> {
    let mut rows = Vec::new();
    for (technique, target) in [
        ("a backslash", "/a\\b"),
        ("a backslash", "\\api\\users"),
        ("a backslash", "/\\evil.example/"),
        ("a backslash", "/a%5cb"),
        ("a backslash", "/a%5Cb"),
        ("a backslash", "/api/users/%5c../"),
        ("a NUL", "/a%00b"),
        ("a NUL", "/api/users/7/%00.css"),
        ("a NUL", "/a\0b"),
        ("a CR or LF", "/a%0db"),
        ("a CR or LF", "/a%0Ab"),
        ("a CR or LF", "/a%0d%0aHost:%20evil"),
        ("a CR or LF", "/a\rb"),
        ("a CR or LF", "/a\nb"),
        ("a control byte", "/a\u{1}b"),
        ("a control byte", "/a\u{8}b"),
        ("a control byte", "/a\tb"),
        ("a control byte", "/a\u{b}b"),
        ("a control byte", "/a\u{c}b"),
        ("a control byte", "/a\u{1b}b"),
        ("a control byte", "/a\u{7f}b"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row(technique, bytes, Expected::Refused(BAD)));
    }
    rows
}

/// R9: odd paths go on as they are.
pub fn odd_paths() -> Vec<Row> {
    let mut rows = Vec::new();
    for target in [
        "/api/users/07/",
        "/API/users/7/",
        "/api/users/7%2f",
        "/api/users/7%2F",
        "/api/users/7/.css",
        "/api/users/7/;x.css",
        "/api/users/7;x.css",
        "/api/users/7/%2e%2e/",
        "/api/users/../users/",
        "/api/users/./",
        "/api/./users/",
        "//api/users/",
        "/api//users/",
        "/api/users//",
        "/api/users/%37/",
        "/%61pi/users/",
        "/api/users/%",
        "/api/users/%zz/",
        "/api/users/..%2f7/",
        "/api/users/7/x.js",
        "/api/users/7/%20",
        "/api/users/7/%3f",
        "/api/users/7/%23",
        "/api/users/7//",
        "/api/users;/",
        "/api/users/7/%c0%af",
        "/api/users/7/%u002e",
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row(
            "an odd path goes on as it is",
            bytes,
            forwarded("GET", target, b""),
        ));
    }
    // A fragment is cut off by hyper, before anybody sees it: what is asked for, and kept, is the target without it.
    for (target, arrives) in [
        ("/other/#evil", "/other/"),
        ("/other/?a#?b", "/other/?a"),
        ("/other/#/../../x.css", "/other/"),
        ("http://api.example.org/other/#@evil.example", "/other/"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row(
            "a fragment goes no further",
            bytes,
            forwarded("GET", arrives, b""),
        ));
    }
    rows
}

/// R1: method, one space, target, one space, version.
pub fn start_lines() -> Vec<Row> {
    let mut rows = Vec::new();
    for (technique, line) in [
        ("two spaces", "GET  /other/ HTTP/1.1"),
        ("two spaces", "GET /other/  HTTP/1.1"),
        ("a tab for a space", "GET\t/other/ HTTP/1.1"),
        ("a tab for a space", "GET /other/\tHTTP/1.1"),
        ("a space before", " GET /other/ HTTP/1.1"),
        ("a tab before", "\tGET /other/ HTTP/1.1"),
        ("a space after", "GET /other/ HTTP/1.1 "),
        ("a word after", "GET /other/ HTTP/1.1 x"),
        ("a word between", "GET /other/ /x HTTP/1.1"),
        ("no version", "GET /other/"),
        ("no version", "GET /other/ "),
        ("no target", "GET HTTP/1.1"),
        ("no target", "GET  HTTP/1.1"),
        ("no method", " /other/ HTTP/1.1"),
        ("no method", "/other/ HTTP/1.1"),
        ("another version", "GET /other/ HTTP/0.9"),
        ("another version", "GET /other/ HTTP/1.2"),
        ("another version", "GET /other/ HTTP/1.9"),
        ("another version", "GET /other/ HTTP/2.0"),
        ("another version", "GET /other/ HTTP/2"),
        ("another version", "GET /other/ HTTP/3"),
        ("a version that is none", "GET /other/ HTTP/1"),
        ("a version that is none", "GET /other/ HTTP/1."),
        ("a version that is none", "GET /other/ HTTP/11"),
        ("a version that is none", "GET /other/ HTTP/1.10"),
        ("a version that is none", "GET /other/ HTTP/01.1"),
        ("a version that is none", "GET /other/ HTTP/1.1.1"),
        ("a version that is none", "GET /other/ HTTP/+1.1"),
        ("a version that is none", "GET /other/ HTTP/1,1"),
        ("a version that is none", "GET /other/ HTTP /1.1"),
        ("a version that is none", "GET /other/ HTTP/ 1.1"),
        ("a version that is none", "GET /other/ HTTP-1.1"),
        ("a version that is none", "GET /other/ http/1.1"),
        ("a version that is none", "GET /other/ Http/1.1"),
        ("a version that is none", "GET /other/ HTTPS/1.1"),
        ("a version that is none", "GET /other/ ICY/1.1"),
        ("a version that is none", "GET /other/ HTTP/\u{661}.1"),
        ("a version that is none", "GET /other/ x"),
        ("a control byte in it", "GET\0 /other/ HTTP/1.1"),
        ("a control byte in it", "GET /other/ HTTP/1.1\0"),
        ("a control byte in it", "G\u{1}ET /other/ HTTP/1.1"),
        ("a bare CR in it", "GET /other/ HTTP/1.1\rX: 1"),
        ("a bare CR in it", "GET\r/other/ HTTP/1.1"),
        ("an LF in it", "GET\n/other/ HTTP/1.1"),
        ("an answer", "HTTP/1.1 200 OK"),
        ("another protocol", "SSH-2.0-OpenSSH_9.6"),
        ("another protocol", "EHLO a.example"),
        ("another protocol", "*1\r\n$4\r\nPING"),
        ("another protocol", "PRI * HTTP/2.0"),
        ("another protocol", "\u{16}\u{3}\u{1}\u{2}\0\u{1}"),
        ("another protocol", "PROXY TCP4 1.1.1.1 2.2.2.2 3 4"),
        ("outside ASCII", "G\u{c9}T /other/ HTTP/1.1"),
        ("outside ASCII", "\u{feff}GET /other/ HTTP/1.1"),
        ("outside ASCII", "GET\u{a0}/other/\u{a0}HTTP/1.1"),
    ] {
        let bytes = format!("{line}\r\n{HOST}\r\n\r\n");
        rows.push(row(technique, bytes, Expected::Refused(&[400, 501, 505])));
    }
    rows
}

/// R1: one line for a field, and no control byte in it.
pub fn fields() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut bad = |technique, lines: &[u8]| {
        for target in ["/other/", "/api/users/"] {
            let head = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n");
            let bytes = [head.as_bytes(), lines, b"\r\n\r\n"].concat();
            rows.push(row(technique, bytes, Expected::Refused(&[400, 431])));
        }
    };
    for (technique, lines) in [
        ("a folded line", &b"X: 1\r\n Folded: 1"[..]),
        ("a folded line", b"X: 1\r\n\tFolded: 1"),
        ("a folded line", b"X:\r\n 1"),
        ("a folded line", b"X: 1\r\n  "),
        ("a space before the colon", b"X : 1"),
        ("a space before the colon", b"X\t: 1"),
        ("no colon", b"X"),
        ("no colon", b"X 1"),
        ("no colon", b"GET /smuggled/ HTTP/1.1"),
        ("no name", b": 1"),
        ("no name", b" : 1"),
        ("a bare CR", b"X: 1\rY: 2"),
        ("a bare CR", b"X: 1\r\rY: 2"),
        ("a bare CR", b"X\r: 1"),
        ("a NUL", b"X: \0"),
        ("a NUL", b"X\0: 1"),
        ("a control byte in a value", b"X: a\x01b"),
        ("a control byte in a value", b"X: a\x08b"),
        ("a control byte in a value", b"X: a\x0bb"),
        ("a control byte in a value", b"X: a\x0cb"),
        ("a control byte in a value", b"X: a\x1fb"),
        ("a control byte in a value", b"X: a\x7fb"),
    ] {
        bad(technique, lines);
    }
    for byte in b"\"(),/;<=>?@[\\]{}\x01\x0b\x1f\x7f\x80\xff" {
        bad(
            "a byte that no name has",
            &[b"X", &[*byte][..], b"X: 1"].concat(),
        );
    }
    // RFC 9112 §2.2 lets a bare LF end a line, and hyper does: what arrives has its CRs.
    for head in [
        format!("GET /other/ HTTP/1.1\n{HOST}\n\n"),
        format!("GET /other/ HTTP/1.1\r\n{HOST}\nX: 1\r\n\r\n"),
        format!("GET /other/ HTTP/1.1\r\n{HOST}\r\nX: 1\n\n"),
    ] {
        rows.push(row(
            "a bare LF ends a line",
            head,
            forwarded("GET", "/other/", b""),
        ));
    }
    rows
}

/// R4: the seven methods, and no other.
pub fn methods() -> Vec<Row> {
    let mut rows = Vec::new();
    for method in [
        "CONNECT",
        "TRACE",
        "TRACK",
        "DEBUG",
        "PURGE",
        "BAN",
        "REFRESH",
        "LINK",
        "UNLINK",
        "PROPFIND",
        "PROPPATCH",
        "MKCOL",
        "COPY",
        "MOVE",
        "LOCK",
        "UNLOCK",
        "SEARCH",
        "REPORT",
        "SUBSCRIBE",
        "M-SEARCH",
        "QUERY",
        "SOURCE",
        "BREW",
        "get",
        "Get",
        "GeT",
        "post",
        "head",
        "GET1",
        "XGET",
        "G",
        "GE",
        "GETS",
        "GET.",
        "GET!",
        "!GET",
        "POST~",
        "_GET",
        "GET_",
        "%47ET",
    ] {
        for target in ["/other/", "/api/users/"] {
            let bytes = format!("{method} {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
            rows.push(row(
                "a method that is not listed",
                bytes,
                Expected::Declined(&[400, 405, 501]),
            ));
        }
    }
    for method in [
        "G(ET", "G)ET", "G/ET", "G:ET", "G@ET", "G[ET", "G{ET", "G\"ET", "G;ET", "G,ET",
    ] {
        let bytes = format!("{method} /other/ HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row(
            "a method that is no token",
            bytes,
            Expected::Refused(&[400, 501]),
        ));
    }
    for target in [
        "api.example.org:443",
        "evil.example:443",
        "127.0.0.1:6379",
        "/",
    ] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\n{HOST}\r\n\r\n");
        rows.push(row("CONNECT", bytes, Expected::Declined(&[400, 405, 501])));
    }
    rows
}

/// These fields end here.
fn ends_here(technique: &'static str, lines: &str, names: &[&str]) -> Row {
    let bytes =
        format!("POST /other/ HTTP/1.1\r\n{HOST}\r\n{lines}\r\nContent-Length: 2\r\n\r\nhi");
    row(
        technique,
        bytes,
        Expected::Forwarded {
            method: "POST",
            target: "/other/".to_owned(),
            content: b"hi".to_vec(),
            without: names.iter().map(|name| (*name).to_owned()).collect(),
        },
    )
}

/// R6: what is hop by hop, or named to be, goes no further; nor does a name with an underscore.
pub fn hop_by_hop() -> Vec<Row> {
    let mut rows = Vec::new();
    for (lines, names) in [
        ("Connection: X-Hop\r\nX-Hop: 1", &["x-hop"][..]),
        ("Connection: close, X-Hop\r\nX-Hop: 1", &["x-hop"]),
        (
            "Connection: X-A\r\nConnection: X-B\r\nX-A: 1\r\nX-B: 1",
            &["x-a", "x-b"],
        ),
        ("Connection: ,,x-HOP ,\r\nX-Hop: 1", &["x-hop"]),
        ("Keep-Alive: timeout=5", &["keep-alive"]),
        ("Proxy-Connection: keep-alive", &["proxy-connection"]),
        ("TE: trailers", &["te"]),
        ("TE: chunked", &["te"]),
        ("Trailer: X-T", &["trailer"]),
        (
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ",
            &["upgrade", "http2-settings"],
        ),
        ("Upgrade: h2c", &["upgrade"]),
        ("Expect: 100-continue", &["expect"]),
    ] {
        rows.push(ends_here("a hop-by-hop field", lines, names));
    }
    for name in [
        "X_Underscore",
        "Content_Length",
        "Transfer_Encoding",
        "X_Forwarded_For",
        "REMOTE_USER",
        "_",
    ] {
        rows.push(ends_here(
            "a name with an underscore",
            &format!("{name}: 1"),
            &[&name.to_ascii_lowercase()],
        ));
    }
    rows
}

/// R7: what is ours to say, and what would change what is asked for, goes no further.
pub fn ours_to_say() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Accel-Redirect",
        "X-Sendfile",
        "X-Script-Name",
        "Script-Name",
        "Daphne-Root-Path",
        "X-Forwarded-Prefix",
        "X-Forwarded-Port",
        "X-Forwarded-Scheme",
        "X-Forwarded-Protocol",
        "X-Url-Scheme",
        "Front-End-Https",
    ] {
        rows.push(ends_here(
            "a field that would change what is asked for",
            &format!("{name}: /evil"),
            &[&name.to_ascii_lowercase()],
        ));
    }
    // The recorder never sees the word in a field.
    for line in [
        "X-Forwarded-For: evil",
        "X-Forwarded-For: evil, 127.0.0.1",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: evil",
        "X-Forwarded-Server: evil",
        "X-Forwarded-SSL: evil",
        "X-Real-IP: evil",
        "Forwarded: for=evil;host=evil.example;proto=https",
        "forwarded: for=127.0.0.1\r\nForwarded: for=evil",
    ] {
        rows.push(ends_here("who the client says it is", line, &[]));
    }
    rows
}

/// R8: each limit has its status.
pub fn limits() -> Vec<Row> {
    let mut rows = Vec::new();
    let get = |target: &str, more: &str| format!("GET {target} HTTP/1.1\r\n{HOST}\r\n{more}\r\n");
    let long = |length: usize| "a".repeat(length);
    for length in [8192, 8193, 9000, 16_000] {
        rows.push(row(
            "a long target",
            get(&format!("/{}", long(length)), ""),
            Expected::Declined(&[414]),
        ));
        rows.push(row(
            "a long query",
            get(&format!("/api/users/?a={}", long(length)), ""),
            Expected::Declined(&[414]),
        ));
    }
    for length in [33_000, 70_000] {
        for (technique, line) in [
            ("a long value", format!("X: {}\r\n", long(length))),
            ("a long name", format!("{}: 1\r\n", long(length))),
            ("a long cookie", format!("Cookie: a={}\r\n", long(length))),
        ] {
            rows.push(row(
                technique,
                get("/api/users/", &line),
                Expected::Declined(&[400, 431]),
            ));
        }
    }
    for many in [101, 120, 500] {
        let lines: String = (0..many)
            .map(|number| format!("X-{number}: 1\r\n"))
            .collect();
        rows.push(row(
            "many fields",
            get("/api/users/", &lines),
            Expected::Declined(&[431]),
        ));
    }
    for length in ["100001", "1000000", "9223372036854775807"] {
        for target in ["/other/", "/api/users/"] {
            rows.push(row(
                "a length beyond the limit",
                format!("POST {target} HTTP/1.1\r\n{HOST}\r\nContent-Length: {length}\r\n\r\n"),
                Expected::Declined(&[413]),
            ));
        }
    }
    rows
}
