//! The tables. A row is a technique, its frames, and what may come of it. Streams begin at 1.

use super::support::client::HOST;
use super::support::h2::{
    ACK, ALL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITIZED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
    integer, literal, settings,
};

/// What may come of a row.
pub enum Expected {
    /// One of these answers; nothing arrives.
    Answered(&'static [u16]),
    /// The stream is reset; nothing arrives.
    Reset,
    /// The connection ends, told why if there was time; nothing arrives, nor what follows.
    Ended,
    /// Its head was in order: it may arrive as one that breaks off, never as a whole. Answered, reset or ended.
    Broken,
    /// It arrives once, as it is, and without these fields.
    Forwarded {
        method: &'static str,
        target: String,
        content: Vec<u8>,
        without: &'static [&'static str],
    },
}

pub struct Row {
    pub technique: &'static str,
    pub frames: Vec<u8>,
    /// In place of the preface and the settings before it.
    pub instead: bool,
    pub expected: Expected,
}

const BAD: Expected = Expected::Answered(&[400]);
const CACHED: &str = "/api/users/";

pub fn every() -> Vec<Row> {
    [
        pseudo_fields(),
        paths(),
        hosts(),
        fields(),
        lengths(),
        dropped(),
        frames(),
        streams(),
        compression(),
        limits(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn row(technique: &'static str, frames: Vec<u8>, expected: Expected) -> Row {
    Row {
        technique,
        frames,
        instead: false,
        expected,
    }
}

fn forwarded(method: &'static str, target: &str, content: &[u8]) -> Expected {
    forwarded_without(method, target, content, &[])
}

fn forwarded_without(
    method: &'static str,
    target: &str,
    content: &[u8],
    without: &'static [&'static str],
) -> Expected {
    Expected::Forwarded {
        method,
        target: target.to_owned(),
        content: content.to_vec(),
        without,
    }
}

type Lines<'a> = Vec<(&'a [u8], &'a [u8])>;

fn lines<'a>(pairs: &[(&'a str, &'a str)]) -> Lines<'a> {
    let bytes = |(name, value): &(&'a str, &'a str)| (name.as_bytes(), value.as_bytes());
    pairs.iter().map(bytes).collect()
}

/// The head of a good request, whose fields are to be spoilt.
fn good(method: &'static str, target: &'static str) -> Lines<'static> {
    lines(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", target),
    ])
}

fn get() -> Lines<'static> {
    good("GET", CACHED)
}

/// All of a request without content.
fn alone(fields: &Lines) -> Vec<u8> {
    frame(HEADERS, ALL, 1, block(fields))
}

/// With content, in one frame.
fn with(fields: &Lines, content: &[u8]) -> Vec<u8> {
    [
        frame(HEADERS, END_HEADERS, 1, block(fields)),
        frame(DATA, END_STREAM, 1, content),
    ]
    .concat()
}

/// A good request with something in place of one of its fields, or without it.
fn but<'a>(name: &'a str, value: Option<&'a [u8]>) -> Lines<'a> {
    let spoil = |(known, good): (&'a [u8], &'a [u8])| match known == name.as_bytes() {
        true => value.map(|value| (known, value)),
        false => Some((known, good)),
    };
    get().into_iter().filter_map(spoil).collect()
}

/// A good request with more fields behind.
fn and<'a>(more: &[(&'a str, &'a str)]) -> Lines<'a> {
    [get(), lines(more)].concat()
}

fn posted<'a>(more: &[(&'a str, &'a str)]) -> Lines<'a> {
    [good("POST", "/other/"), lines(more)].concat()
}

/// RFC 9113 §8.3: what a request is about.
pub fn pseudo_fields() -> Vec<Row> {
    use Expected::{Answered, Ended, Reset};
    let mut rows = vec![
        row("no :method", alone(&but(":method", None)), Reset),
        row("no :scheme", alone(&but(":scheme", None)), Reset),
        row("no :path", alone(&but(":path", None)), Reset),
        row("an empty block", frame(HEADERS, ALL, 1, b""), Reset),
        row(
            "regular fields alone",
            alone(&lines(&[("host", HOST)])),
            Reset,
        ),
        row("an empty :method", alone(&but(":method", Some(b""))), Ended),
        row("an empty :scheme", alone(&but(":scheme", Some(b""))), BAD),
        row("an empty :path", alone(&but(":path", Some(b""))), Reset),
        row(
            "a pseudo-field that nobody knows",
            alone(&[lines(&[(":host", HOST)]), get()].concat()),
            Ended,
        ),
        row(
            "a pseudo-field of answers",
            alone(&[lines(&[(":status", "200")]), get()].concat()),
            Reset,
        ),
        row(
            "a pseudo-field in upper case",
            alone(&[lines(&[(":Path", "/evil/")]), get()].concat()),
            Ended,
        ),
        row(
            "a pseudo-field with no name",
            alone(&[lines(&[(":", "x")]), get()].concat()),
            Ended,
        ),
        row(
            "a pseudo-field with a space in its name",
            alone(&[lines(&[(":path ", "/evil/")]), get()].concat()),
            Ended,
        ),
    ];
    for (technique, name, value) in [
        (":method twice", ":method", "GET"),
        (":method twice, differing", ":method", "DELETE"),
        (":scheme twice", ":scheme", "http"),
        (":path twice", ":path", CACHED),
        (":path twice, differing", ":path", "/evil/"),
        (":authority twice", ":authority", HOST),
        (":authority twice, differing", ":authority", "evil.example"),
    ] {
        let twice = [get(), lines(&[(name, value)])].concat();
        rows.push(row(technique, alone(&twice), Reset));
    }
    for (technique, name) in [
        (":method after a field", ":method"),
        (":scheme after a field", ":scheme"),
        (":path after a field", ":path"),
        (":authority after a field", ":authority"),
    ] {
        let mut late = but(name, None);
        let own = get();
        let (_, value) = own.iter().find(|(n, _)| *n == name.as_bytes()).unwrap();
        late.push((b"x", b"1"));
        late.push((name.as_bytes(), value));
        rows.push(row(technique, alone(&late), Reset));
    }
    rows.extend([
        row(
            "a second :path behind a field",
            alone(&and(&[("x", "1"), (":path", "/evil/")])),
            Reset,
        ),
        row(
            ":protocol on a GET",
            alone(&[lines(&[(":protocol", "websocket")]), get()].concat()),
            Reset,
        ),
        row(
            "extended CONNECT",
            frame(
                HEADERS,
                END_HEADERS,
                1,
                block(
                    &[
                        lines(&[(":protocol", "websocket")]),
                        but(":method", Some(b"CONNECT")),
                    ]
                    .concat(),
                ),
            ),
            Reset,
        ),
        row(
            "CONNECT",
            alone(&lines(&[
                (":method", "CONNECT"),
                (":authority", "evil.example:443"),
            ])),
            Answered(&[405]),
        ),
        row(
            "CONNECT that stays open",
            frame(
                HEADERS,
                END_HEADERS,
                1,
                block(&lines(&[
                    (":method", "CONNECT"),
                    (":authority", "evil.example:443"),
                ])),
            ),
            Answered(&[405]),
        ),
        row(
            "CONNECT to nobody",
            alone(&lines(&[(":method", "CONNECT")])),
            Answered(&[405]),
        ),
        row(
            "CONNECT with :path and :scheme",
            alone(&but(":method", Some(b"CONNECT"))),
            Reset,
        ),
        row(
            "CONNECT with a length",
            with(
                &lines(&[
                    (":method", "CONNECT"),
                    (":authority", "evil.example:443"),
                    ("content-length", "5"),
                ]),
                b"hello",
            ),
            Ended,
        ),
        row(
            "TRACE",
            alone(&but(":method", Some(b"TRACE"))),
            Answered(&[405]),
        ),
    ]);
    for (technique, method, expected) in [
        ("a method in lower case", &b"get"[..], Answered(&[501])),
        ("a method that is not served", b"PURGE", Answered(&[501])),
        ("the method of the preface", b"PRI", Answered(&[501])),
        ("a method with a space", b"GET /evil/ HTTP/1.1", Ended),
        ("a method with a space behind", b"GET ", Ended),
        (
            "a request in the method",
            b"GET /smuggled/ HTTP/1.1\r\nHost: evil.example\r\n\r\nGET",
            Ended,
        ),
        ("a control byte in the method", b"G\x01T", Ended),
        ("a NUL in the method", b"GET\0", Ended),
        ("a method outside ASCII", b"G\xc9T", Ended),
    ] {
        let spoilt = but(":method", Some(method));
        rows.push(row(technique, alone(&spoilt), expected));
    }
    rows.push(row(
        "a method of a thousand bytes",
        alone(&but(":method", Some(&[b'A'; 1000]))),
        Answered(&[501]),
    ));
    for (technique, scheme, expected) in [
        ("another scheme", &b"ftp"[..], BAD),
        ("a scheme that runs something", b"javascript", BAD),
        ("a scheme with a colon", b"http:", Reset),
        ("a URL for a scheme", b"http://evil.example/", Reset),
        ("a space in the scheme", b"ht tp", Reset),
        ("a CR LF in the scheme", b"http\r\nX: 1", Reset),
        ("a NUL in the scheme", b"http\0", Reset),
        ("a scheme outside ASCII", b"htt\xfd", Ended),
    ] {
        let spoilt = but(":scheme", Some(scheme));
        rows.push(row(technique, alone(&spoilt), expected));
    }
    rows.push(row(
        "a scheme of a thousand bytes",
        alone(&but(":scheme", Some(&[b'h'; 1000]))),
        Reset,
    ));
    rows
}

/// A path is one that begins with a slash; odd ones go on as they are.
pub fn paths() -> Vec<Row> {
    use Expected::{Ended, Reset};
    let mut rows = Vec::new();
    for (technique, path, expected) in [
        ("a path without its slash", &b"api/users/"[..], Reset),
        ("a query for a path", b"?page=1", BAD),
        ("the asterisk on a GET", b"*", BAD),
        ("a dot path", b"../api/users/", Reset),
        (
            "a URL for a path",
            b"http://api.example.org/api/users/",
            Reset,
        ),
        (
            "the URL of another for a path",
            b"http://evil.example/api/users/",
            Reset,
        ),
        ("an authority for a path", b"api.example.org:80", Reset),
        ("an escaped slash for a path", b"%2fapi%2fusers%2f", Reset),
        ("a space in the path", b"/api/users/ HTTP/1.1", Reset),
        ("a space before the path", b" /api/users/", Reset),
        (
            "a request in the path",
            b"/other/ HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /smuggled/",
            Reset,
        ),
        ("a CR in the path", b"/api/users/\r", Reset),
        ("an LF in the path", b"/api\n/users/", Reset),
        ("a NUL in the path", b"/api/users/\0", Reset),
        ("a tab in the path", b"/api/\tusers/", Reset),
        ("a control byte in the path", b"/api/\x1busers/", Reset),
        ("a DEL in the path", b"/api/users/\x7f", Reset),
        ("an escaped NUL", b"/api/users/%00", BAD),
        ("an escaped CR LF", b"/api/users/%0d%0aHost:%20evil", BAD),
        ("a backslash", b"/api\\users/", BAD),
        ("an escaped backslash", b"/api/users/%5c..", BAD),
        ("a space in the query", b"/api/users/?a=1 HTTP/1.1", Reset),
        ("a CR LF in the query", b"/api/users/?a=1\r\nX: 1", Reset),
        ("bytes that are no UTF-8", b"/api/users/\xff\xfe", Ended),
    ] {
        let spoilt = but(":path", Some(path));
        rows.push(row(technique, alone(&spoilt), expected));
    }
    for (technique, path) in [
        ("two slashes go on", "//evil.example/api/users/"),
        ("dots go on", "/api/users/../users/"),
        ("escaped dots go on", "/api/users/7/%2e%2e/"),
        ("an escaped slash goes on", "/api/users/7%2f"),
        ("a parameter of the path goes on", "/api/users/7/;x.css"),
        ("a broken escape goes on", "/api/users/%zz/"),
        ("a leading zero goes on", "/api/users/07/"),
    ] {
        let spoilt = but(":path", Some(path.as_bytes()));
        rows.push(row(technique, alone(&spoilt), forwarded("GET", path, b"")));
    }
    rows.extend([
        row(
            "the asterisk on OPTIONS goes on",
            alone(&good("OPTIONS", "*")),
            forwarded("OPTIONS", "*", b""),
        ),
        row(
            "what follows a # is dropped",
            alone(&good("GET", "/other/#/../smuggled/")),
            forwarded("GET", "/other/", b""),
        ),
    ]);
    rows
}

/// R3: one valid host, and `:authority` and Host agree.
pub fn hosts() -> Vec<Row> {
    use Expected::{Ended, Reset};
    let mut rows = Vec::new();
    for (technique, fields) in [
        (
            "Host differs from :authority",
            and(&[("host", "evil.example")]),
        ),
        (
            "Host differs from :authority by its port",
            and(&[("host", "api.example.org:81")]),
        ),
        (
            "Host differs from :authority by a dot",
            and(&[("host", "api.example.org.")]),
        ),
        ("an empty Host beside :authority", and(&[("host", "")])),
        (
            "two Hosts beside :authority",
            and(&[("host", HOST), ("host", HOST)]),
        ),
        (
            "the second of two Hosts differs",
            and(&[("host", HOST), ("host", "evil.example")]),
        ),
        (
            "a list for a Host",
            and(&[("host", "api.example.org, evil.example")]),
        ),
        (
            "a Host with a space before",
            and(&[("host", " api.example.org")]),
        ),
        (
            "a Host with a tab behind",
            and(&[("host", "api.example.org\t")]),
        ),
        ("neither :authority nor Host", but(":authority", None)),
        (
            "two Hosts and no :authority",
            [
                but(":authority", None),
                lines(&[("host", HOST), ("host", "evil.example")]),
            ]
            .concat(),
        ),
        (
            "a Host that is none and no :authority",
            [but(":authority", None), lines(&[("host", "a/b")])].concat(),
        ),
    ] {
        rows.push(row(technique, alone(&fields), BAD));
    }
    for (technique, authority, expected) in [
        ("an empty :authority", &b""[..], Reset),
        ("a user in :authority", b"evil@api.example.org", BAD),
        (
            "user and password in :authority",
            b"a:b@api.example.org",
            BAD,
        ),
        ("a space in :authority", b"api.example.org evil", Reset),
        ("a path in :authority", b"api.example.org/evil", Reset),
        ("a query in :authority", b"api.example.org?x", Reset),
        ("a fragment in :authority", b"api.example.org#x", Reset),
        ("a backslash in :authority", b"api.example.org\\x", Reset),
        (
            "a CR LF in :authority",
            b"api.example.org\r\nX-Evil: 1",
            Reset,
        ),
        ("a NUL in :authority", b"api.example.org\0", Reset),
        (
            "a list for :authority",
            b"api.example.org,evil.example",
            BAD,
        ),
        ("a port beyond all", b"api.example.org:99999", BAD),
        ("an empty port", b"api.example.org:", BAD),
        ("a port that is no number", b"api.example.org:http", BAD),
        ("two ports", b"api.example.org:80:81", Reset),
        ("a bracket left open", b"[::1", Reset),
        ("brackets around a name", b"[api.example.org]", BAD),
        ("an address with a zone", b"[fe80::1%25eth0]", BAD),
        ("an escape in :authority", b"%61pi.example.org", Reset),
        ("a URL for :authority", b"http://api.example.org", Reset),
        (":authority outside ASCII", b"\xc3\xa4pi.example.org", Reset),
        (":authority that is no UTF-8", b"api.example.org\xff", Ended),
        ("<> in :authority", b"<api.example.org>", Reset),
    ] {
        let spoilt = but(":authority", Some(authority));
        rows.push(row(technique, alone(&spoilt), expected));
    }
    let long = "a".repeat(300);
    rows.push(row(
        "a name of three hundred bytes",
        alone(&but(":authority", Some(long.as_bytes()))),
        BAD,
    ));
    rows.push(row(
        "Host alone will do",
        alone(
            &[
                good("GET", "/other/")[..2].to_vec(),
                lines(&[(":path", "/other/"), ("host", HOST)]),
            ]
            .concat(),
        ),
        forwarded("GET", "/other/", b""),
    ));
    rows.push(row(
        "Host that agrees in another case will do",
        alone(&[good("GET", "/other/"), lines(&[("host", HOST)])].concat()),
        forwarded("GET", "/other/", b""),
    ));
    rows
}

/// §8.2: names in lower case, values without control bytes, nothing of the connection.
pub fn fields() -> Vec<Row> {
    use Expected::{Ended, Reset};
    let mut rows = Vec::new();
    for (technique, name) in [
        ("a name in upper case", &b"X-EVIL"[..]),
        ("a name with one upper-case letter", b"x-eviL"),
        ("Host in upper case", b"Host"),
        ("Transfer-Encoding in upper case", b"Transfer-Encoding"),
        ("an empty name", b""),
        ("a space in a name", b"x evil"),
        ("a space behind a name", b"content-length "),
        ("a space before a name", b" transfer-encoding"),
        ("a tab in a name", b"x\tevil"),
        ("a colon in a name", b"x:evil"),
        ("a colon behind a name", b"host:"),
        ("a field in a name", b"x: 1\r\nx-evil"),
        ("an LF in a name", b"x\nevil"),
        ("a NUL in a name", b"x\0evil"),
        ("a DEL in a name", b"x\x7f"),
        ("a control byte in a name", b"x\x01"),
        ("a name outside ASCII", b"x-\xc3\xa4"),
        ("parentheses in a name", b"x(1)"),
        ("a slash in a name", b"x/1"),
    ] {
        let spoilt = [get(), vec![(name, &b"chunked"[..])]].concat();
        rows.push(row(technique, alone(&spoilt), Ended));
    }
    let quoted = [get(), vec![(&b"x\"1"[..], &b"1"[..])]].concat();
    rows.push(row("a quote in a name", alone(&quoted), BAD));
    for (technique, value) in [
        ("a CR LF in a value", &b"1\r\nx-evil: 1"[..]),
        (
            "a request in a value",
            b"1\r\n\r\nGET /smuggled/ HTTP/1.1\r\nHost: evil",
        ),
        ("a CR in a value", b"1\r2"),
        ("an LF in a value", b"1\n2"),
        ("a NUL in a value", b"1\x002"),
        ("a control byte in a value", b"1\x012"),
        ("a DEL in a value", b"1\x7f"),
        ("a folded value", b"1\r\n 2"),
    ] {
        let spoilt = [get(), vec![(&b"x"[..], value)]].concat();
        rows.push(row(technique, alone(&spoilt), Ended));
    }
    for (technique, value) in [
        ("a space before a value", " 1"),
        ("a space behind a value", "1 "),
        ("a tab before a value", "\t1"),
        ("a tab behind a value", "1\t"),
        ("a value of nothing but a space", " "),
    ] {
        rows.push(row(technique, alone(&and(&[("x", value)])), BAD));
    }
    for (technique, more) in [
        ("connection", &[("connection", "keep-alive")][..]),
        ("connection: close", &[("connection", "close")]),
        (
            "connection that names another",
            &[("connection", "authorization"), ("authorization", "a")],
        ),
        ("keep-alive", &[("keep-alive", "timeout=5")]),
        ("proxy-connection", &[("proxy-connection", "keep-alive")]),
        (
            "transfer-encoding: chunked",
            &[("transfer-encoding", "chunked")],
        ),
        (
            "transfer-encoding: identity",
            &[("transfer-encoding", "identity")],
        ),
        ("an empty transfer-encoding", &[("transfer-encoding", "")]),
        ("upgrade: websocket", &[("upgrade", "websocket")]),
        (
            "upgrade: h2c",
            &[("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")],
        ),
        ("te: chunked", &[("te", "chunked")]),
        ("te: trailers and more", &[("te", "trailers, gzip")]),
        ("te: TRAILERS", &[("te", "TRAILERS")]),
        ("an empty te", &[("te", "")]),
    ] {
        rows.push(row(technique, alone(&and(more)), Reset));
    }
    rows.push(row(
        "transfer-encoding with chunks for content",
        with(
            &posted(&[("transfer-encoding", "chunked")]),
            b"0\r\n\r\nGET /smuggled/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        ),
        Reset,
    ));
    rows
}

/// §8.1.1: a length is one canonical number, and that of the content.
pub fn lengths() -> Vec<Row> {
    use Expected::{Answered, Broken, Reset};
    let length = |value| posted(&[("content-length", value)]);
    let mut rows = vec![
        row(
            "a length twice",
            with(
                &posted(&[("content-length", "5"), ("content-length", "5")]),
                b"hello",
            ),
            BAD,
        ),
        row(
            "two lengths that differ",
            with(
                &posted(&[("content-length", "5"), ("content-length", "6")]),
                b"hello",
            ),
            Reset,
        ),
        row(
            "two lengths that are one number",
            with(
                &posted(&[("content-length", "5"), ("content-length", "05")]),
                b"hello",
            ),
            BAD,
        ),
        row(
            "a length with a zero before",
            with(&length("05"), b"hello"),
            BAD,
        ),
        row(
            "a length with twenty zeros before",
            with(&length("000000000000000000005"), b"hello"),
            Reset,
        ),
        row("two zeros for a length", with(&length("00"), b""), BAD),
    ];
    for (technique, value) in [
        ("a list of lengths", "5, 5"),
        ("a length with a sign", "+5"),
        ("a length below nothing", "-5"),
        ("a length in hexadecimal", "0x5"),
        ("a length with a point", "5.0"),
        ("a length with a space before", " 5"),
        ("a length with a space behind", "5 "),
        ("a length with a letter", "5a"),
        ("a length in other digits", "\u{665}"),
        ("a length beyond 2^64", "18446744073709551621"),
        (
            "a length of thirty digits",
            "100000000000000000000000000005",
        ),
    ] {
        rows.push(row(technique, with(&length(value), b"hello"), Reset));
    }
    rows.extend([
        row("an empty length", with(&length(""), b"hello"), Reset),
        row(
            "a length beyond 2^63",
            with(&length("9223372036854775808"), b"hello"),
            Reset,
        ),
        row(
            "a length beyond the content",
            with(&length("50"), b"hello"),
            Broken,
        ),
        row(
            "a length below the content",
            with(&length("3"), b"hello"),
            Broken,
        ),
        row(
            "a length of nothing and content",
            with(&length("0"), b"hello"),
            Broken,
        ),
        row("a length and no content", alone(&length("5")), Reset),
        row(
            "a length and no content on a GET",
            alone(&and(&[("content-length", "5")])),
            Reset,
        ),
        row(
            "a length and no content on a HEAD",
            alone(&[good("HEAD", "/other/"), lines(&[("content-length", "5")])].concat()),
            Reset,
        ),
        row(
            "a length that the trailers cut short",
            [
                frame(HEADERS, END_HEADERS, 1, block(&length("50"))),
                frame(DATA, 0, 1, b"hello"),
                frame(HEADERS, ALL, 1, block(&lines(&[("x", "1")]))),
            ]
            .concat(),
            Broken,
        ),
        row(
            "a length that many frames exceed",
            [
                frame(HEADERS, END_HEADERS, 1, block(&length("5"))),
                frame(DATA, 0, 1, b"hel"),
                frame(DATA, 0, 1, b"lo"),
                frame(DATA, END_STREAM, 1, b"GET /smuggled/ HTTP/1.1\r\n\r\n"),
            ]
            .concat(),
            Broken,
        ),
        row(
            "a length larger than is allowed",
            with(&length("100001"), b""),
            Reset,
        ),
        row(
            "a length larger than is allowed, announced alone",
            frame(HEADERS, END_HEADERS, 1, block(&length("100001"))),
            Answered(&[413]),
        ),
        row(
            "a length that is the content's goes on",
            with(&length("5"), b"hello"),
            forwarded("POST", "/other/", b"hello"),
        ),
        row(
            "content without a length goes on",
            with(&posted(&[]), b"hello"),
            forwarded("POST", "/other/", b"hello"),
        ),
        row(
            "a request for content goes on as content",
            with(
                &posted(&[]),
                b"GET /smuggled/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            ),
            forwarded(
                "POST",
                "/other/",
                b"GET /smuggled/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            ),
        ),
        row(
            "a last chunk for content goes on as content",
            with(&posted(&[]), b"0\r\n\r\n"),
            forwarded("POST", "/other/", b"0\r\n\r\n"),
        ),
        row(
            "content on a GET of a cached path goes on and stores nothing",
            with(&get(), b"evil"),
            forwarded("GET", CACHED, b"evil"),
        ),
    ]);
    rows
}

/// R6 and R7: what is of the connection, or ours to say.
pub fn dropped() -> Vec<Row> {
    let other =
        |more: &[(&'static str, &'static str)]| [good("GET", "/other/"), lines(more)].concat();
    let mut rows = Vec::new();
    for (technique, more, without) in [
        (
            "te: trailers ends here",
            &[("te", "trailers")][..],
            &["te"][..],
        ),
        ("trailer ends here", &[("trailer", "x")], &["trailer"]),
        (
            "http2-settings ends here",
            &[("http2-settings", "AAMAAABkAAQAAP__")],
            &["http2-settings"],
        ),
        (
            "expect ends here",
            &[("expect", "100-continue")],
            &["expect"],
        ),
        (
            "a name with an underscore ends here",
            &[
                ("x_forwarded_host", "evil.example"),
                ("content_length", "5"),
            ],
            &["x_forwarded_host", "content_length"],
        ),
        (
            "what names another target ends here",
            &[
                ("x-original-url", "/smuggled/"),
                ("x-rewrite-url", "/smuggled/"),
                ("x-http-method-override", "DELETE"),
            ],
            &["x-original-url", "x-rewrite-url", "x-http-method-override"],
        ),
        (
            "x-forwarded-port and its kin end here",
            &[("x-forwarded-port", "1"), ("x-forwarded-prefix", "/evil")],
            &["x-forwarded-port", "x-forwarded-prefix"],
        ),
    ] {
        let expected = forwarded_without("GET", "/other/", b"", without);
        rows.push(row(technique, alone(&other(more)), expected));
    }
    let post = block(&posted(&[]));
    rows.push(row(
        "trailers end here",
        [
            frame(HEADERS, END_HEADERS, 1, post.clone()),
            frame(DATA, 0, 1, b"hello"),
            frame(
                HEADERS,
                ALL,
                1,
                block(&lines(&[
                    ("x-late", "1"),
                    ("content-length", "3"),
                    ("host", "evil.example"),
                ])),
            ),
        ]
        .concat(),
        forwarded_without("POST", "/other/", b"hello", &["x-late"]),
    ));
    rows.push(row(
        "a pseudo-field in trailers ends here",
        [
            frame(HEADERS, END_HEADERS, 1, post.clone()),
            frame(DATA, 0, 1, b"hello"),
            frame(HEADERS, ALL, 1, block(&lines(&[(":path", "/smuggled/")]))),
        ]
        .concat(),
        forwarded("POST", "/other/", b"hello"),
    ));
    rows.push(row(
        "a pseudo-field behind a field in trailers",
        [
            frame(HEADERS, END_HEADERS, 1, post.clone()),
            frame(DATA, 0, 1, b"hello"),
            frame(
                HEADERS,
                ALL,
                1,
                block(&lines(&[("x", "1"), (":path", "/smuggled/")])),
            ),
        ]
        .concat(),
        Expected::Broken,
    ));
    for (technique, late) in [
        (
            "transfer-encoding in trailers",
            ("transfer-encoding", "chunked"),
        ),
        ("connection in trailers", ("connection", "close")),
    ] {
        rows.push(row(
            technique,
            [
                frame(HEADERS, END_HEADERS, 1, post.clone()),
                frame(DATA, 0, 1, b"hello"),
                frame(HEADERS, ALL, 1, block(&lines(&[late]))),
            ]
            .concat(),
            Expected::Broken,
        ));
    }
    rows
}

/// §4 to §6: frames that are none.
pub fn frames() -> Vec<Row> {
    use Expected::{Ended, Reset};
    let request = || alone(&good("GET", "/other/"));
    let mut rows = Vec::new();
    // Before a good request, which then comes too late.
    for (technique, frame) in [
        ("DATA of no stream", frame(DATA, END_STREAM, 0, b"x")),
        (
            "DATA of a stream that is none yet",
            frame(DATA, END_STREAM, 1, b"x"),
        ),
        (
            "HEADERS of no stream",
            frame(HEADERS, ALL, 0, block(&get())),
        ),
        (
            "HEADERS of an even stream",
            frame(HEADERS, ALL, 2, block(&get())),
        ),
        (
            "HEADERS with too long a padding",
            frame(HEADERS, ALL | PADDED, 1, b"\xff\x82"),
        ),
        (
            "HEADERS without its padding's length",
            frame(HEADERS, ALL | PADDED, 1, b""),
        ),
        (
            "HEADERS without all of its priority",
            frame(HEADERS, ALL | PRIORITIZED, 1, b"\0\0\0"),
        ),
        (
            "PRIORITY of no stream",
            frame(PRIORITY, 0, 0, [0, 0, 0, 0, 1]),
        ),
        ("RST_STREAM of no stream", frame(RST_STREAM, 0, 0, [0; 4])),
        (
            "RST_STREAM of a stream that is none yet",
            frame(RST_STREAM, 0, 1, [0; 4]),
        ),
        ("RST_STREAM of three bytes", frame(RST_STREAM, 0, 1, [0; 3])),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, b"")),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, [0; 5])),
        (
            "SETTINGS acknowledged with content",
            frame(SETTINGS, ACK, 0, [0; 6]),
        ),
        ("ENABLE_PUSH of two", settings(&[(2, 2)])),
        (
            "an initial window beyond all",
            settings(&[(4, 0x8000_0000)]),
        ),
        ("a frame size below the least", settings(&[(5, 16_383)])),
        ("a frame size beyond all", settings(&[(5, 0x0100_0000)])),
        (
            "PUSH_PROMISE from a client",
            frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                [&[0, 0, 0, 2][..], &block(&get())].concat(),
            ),
        ),
        ("PING of a stream", frame(PING, 0, 1, [0; 8])),
        ("PING of seven bytes", frame(PING, 0, 0, [0; 7])),
        ("PING of nine bytes", frame(PING, 0, 0, [0; 9])),
        ("GOAWAY of a stream", frame(GOAWAY, 0, 1, [0; 8])),
        ("GOAWAY of seven bytes", frame(GOAWAY, 0, 0, [0; 7])),
        (
            "WINDOW_UPDATE of three bytes",
            frame(WINDOW_UPDATE, 0, 0, [0; 3]),
        ),
        (
            "WINDOW_UPDATE by nothing",
            frame(WINDOW_UPDATE, 0, 0, [0; 4]),
        ),
        (
            "WINDOW_UPDATE beyond all",
            frame(WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0xff, 0xff]),
        ),
        (
            "WINDOW_UPDATE of a stream that is none yet",
            frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]),
        ),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, block(&get())),
        ),
        (
            "a frame larger than is allowed",
            frame(DATA, 0, 1, vec![0; 16_385]),
        ),
        (
            "HEADERS larger than is allowed",
            frame(HEADERS, ALL, 1, vec![0x82; 16_385]),
        ),
        (
            "a frame of no kind, larger than is allowed",
            frame(0xfa, 0, 0, vec![0; 20_000]),
        ),
    ] {
        rows.push(row(technique, [frame, request()].concat(), Ended));
    }
    for (technique, bytes) in [
        (
            "a preface in lower case",
            &b"pri * http/2.0\r\n\r\nsm\r\n\r\n"[..],
        ),
        ("a preface of HTTP/1.1", b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"),
        (
            "a preface with another end",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ),
        ("a preface that LF ends", b"PRI * HTTP/2.0\n\nSM\n\n"),
    ] {
        rows.push(Row {
            technique,
            frames: [bytes, &settings(&[]), &request()].concat(),
            instead: true,
            expected: Ended,
        });
    }
    for (technique, frames) in [
        ("no settings before a request", request()),
        (
            "a ping before settings",
            [frame(PING, 0, 0, [0; 8]), settings(&[]), request()].concat(),
        ),
        (
            "an acknowledgement before settings",
            [frame(SETTINGS, ACK, 0, b""), request()].concat(),
        ),
        (
            "HTTP/1 behind the preface",
            b"GET /smuggled/ HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(),
        ),
        ("the preface twice", [PREFACE, &settings(&[])].concat()),
    ] {
        rows.push(Row {
            technique,
            frames: [PREFACE, &frames].concat(),
            instead: true,
            expected: Ended,
        });
    }
    rows.push(row(
        "a priority that depends on itself",
        frame(
            HEADERS,
            ALL | PRIORITIZED,
            1,
            [&[0, 0, 0, 1, 0][..], &block(&get())].concat(),
        ),
        Reset,
    ));
    let padded = [&[3][..], &block(&good("GET", "/other/")), b"\0\0\0"].concat();
    let prioritized = [&[0, 0, 0, 0, 9][..], &block(&good("GET", "/other/"))].concat();
    let mut reserved = request();
    reserved[5] |= 0x80;
    for (technique, frames) in [
        (
            "padding is left out",
            frame(HEADERS, ALL | PADDED, 1, padded),
        ),
        (
            "a priority changes nothing",
            frame(HEADERS, ALL | PRIORITIZED, 1, prioritized),
        ),
        ("the reserved bit of a stream changes nothing", reserved),
        (
            "flags that nobody knows change nothing",
            frame(
                HEADERS,
                ALL | 0xd2 & !PRIORITIZED,
                1,
                block(&good("GET", "/other/")),
            ),
        ),
        (
            "a frame that nobody knows changes nothing",
            [frame(0xfa, 0xff, 0, b"evil"), request()].concat(),
        ),
        (
            "a setting that nobody knows changes nothing",
            [settings(&[(0xfafa, 7)]), request()].concat(),
        ),
    ] {
        rows.push(row(technique, frames, forwarded("GET", "/other/", b"")));
    }
    rows
}

/// §5.1 and §6.10: what may follow what.
pub fn streams() -> Vec<Row> {
    use Expected::{Broken, Ended, Reset};
    let post = || frame(HEADERS, END_HEADERS, 1, block(&good("POST", "/other/")));
    let whole = block(&good("GET", CACHED));
    let (half, rest) = whole.split_at(20);
    let begun = || frame(HEADERS, END_STREAM, 1, half);
    let continued = || frame(CONTINUATION, END_HEADERS, 1, rest);
    let mut rows = Vec::new();
    for (technique, frames) in [
        (
            "a ping within a header block",
            vec![begun(), frame(PING, 0, 0, [0; 8]), continued()],
        ),
        (
            "settings within a header block",
            vec![begun(), settings(&[]), continued()],
        ),
        (
            "DATA within a header block",
            vec![begun(), frame(DATA, 0, 1, b"x"), continued()],
        ),
        (
            "a frame of no kind within a header block",
            vec![begun(), frame(0xfa, 0, 1, b"x"), continued()],
        ),
        (
            "another request within a header block",
            vec![begun(), frame(HEADERS, ALL, 3, block(&get())), continued()],
        ),
        (
            "a header block continued on another stream",
            vec![begun(), frame(CONTINUATION, END_HEADERS, 3, rest)],
        ),
        (
            "a header block continued on no stream",
            vec![begun(), frame(CONTINUATION, END_HEADERS, 0, rest)],
        ),
        (
            "the head again within its block",
            vec![begun(), frame(HEADERS, ALL, 1, rest)],
        ),
    ] {
        rows.push(row(technique, frames.concat(), Ended));
    }
    for (technique, frames) in [
        (
            "content that never ends",
            vec![post(), frame(DATA, 0, 1, b"hello")],
        ),
        (
            "a request that is taken back",
            vec![
                post(),
                frame(DATA, 0, 1, b"hello"),
                frame(RST_STREAM, 0, 1, [0, 0, 0, 8]),
            ],
        ),
        (
            "padding longer than its frame",
            vec![post(), frame(DATA, END_STREAM | PADDED, 1, b"\x06hello")],
        ),
        (
            "padding without its length",
            vec![post(), frame(DATA, END_STREAM | PADDED, 1, b"")],
        ),
        (
            "a second head in the middle",
            vec![
                post(),
                frame(HEADERS, END_HEADERS, 1, block(&get())),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
        ),
        (
            "a window opened by nothing",
            vec![post(), frame(WINDOW_UPDATE, 0, 1, [0; 4])],
        ),
        (
            "a window opened beyond all",
            vec![post(), frame(WINDOW_UPDATE, 0, 1, [0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "an initial window beyond all, later",
            vec![
                post(),
                frame(WINDOW_UPDATE, 0, 1, [0x7f, 0xff, 0, 0]),
                settings(&[(4, 0x7fff_ffff)]),
            ],
        ),
    ] {
        rows.push(row(technique, frames.concat(), Broken));
    }
    let never = [&begun()[..], &frame(CONTINUATION, 0, 1, b"")].concat();
    rows.push(row("a header block that never ends", never, Ended));
    let down = [frame(RST_STREAM, 0, 5, [0; 4])].concat();
    let five = frame(HEADERS, END_HEADERS, 5, block(&good("POST", "/other/")));
    rows.push(row(
        "a stream below the last one",
        [five, down, alone(&get())].concat(),
        Ended,
    ));
    rows.push(row(
        "a header block in pieces is one",
        [
            frame(HEADERS, END_STREAM, 1, &block(&good("GET", "/other/"))[..9]),
            frame(CONTINUATION, 0, 1, &block(&good("GET", "/other/"))[9..11]),
            frame(CONTINUATION, 0, 1, b""),
            frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &block(&good("GET", "/other/"))[11..],
            ),
        ]
        .concat(),
        forwarded("GET", "/other/", b""),
    ));
    rows.push(row(
        "a malformed head in pieces",
        [
            frame(
                HEADERS,
                END_STREAM,
                1,
                &block(&and(&[("connection", "close")]))[..90],
            ),
            frame(
                CONTINUATION,
                END_HEADERS,
                1,
                &block(&and(&[("connection", "close")]))[90..],
            ),
        ]
        .concat(),
        Reset,
    ));
    rows.push(row(
        "content in pieces, padded, is one",
        [
            post(),
            frame(DATA, PADDED, 1, b"\x02he\0\0"),
            frame(DATA, 0, 1, b""),
            frame(DATA, PADDED, 1, b"\x00llo"),
            frame(DATA, END_STREAM, 1, b""),
        ]
        .concat(),
        forwarded("POST", "/other/", b"hello"),
    ));
    rows
}

/// RFC 7541: header blocks that cannot be read, or would say something when read leniently.
pub fn compression() -> Vec<Row> {
    use Expected::{Ended, Reset};
    let other = || block(&good("GET", "/other/"));
    let head = |more: &[u8]| frame(HEADERS, ALL, 1, [&block(&get()), more].concat());
    let first = |before: &[u8]| frame(HEADERS, ALL, 1, [before, &block(&get())].concat());
    let mut rows = Vec::new();
    for (technique, more) in [
        ("index zero", &b"\x80"[..]),
        ("an index beyond the table", b"\xff\x80\x01"),
        ("an entry that is not there", b"\xbe"),
        ("a name beyond the table", b"\x7f\x80\x01\x011"),
        (
            "a number without end",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ),
        ("a name longer than the block", b"\x00\x7f\x10x"),
        ("a value longer than the block", b"\x00\x01x\x7f\x10y"),
        ("a literal that breaks off", b"\x00\x01"),
        ("a table's size in the middle", b"\x3f\x9a\x0a"),
        (
            "Huffman with the end in it",
            b"\x00\x01x\x84\xff\xff\xff\xff",
        ),
        (
            "Huffman with a byte of padding",
            b"\x00\x01x\x83\x1f\xff\xff",
        ),
        ("Huffman padded with zeros", b"\x00\x01x\x81\x00"),
        // Of CR LF: thirty bits each begin with ones.
        (
            "Huffman for a CR LF",
            b"\x00\x01x\x88\xff\xff\xff\xfb\xff\xff\xff\xcf",
        ),
        ("Huffman for a name in upper case", b"\x00\x81\x87\x011"),
    ] {
        rows.push(row(technique, head(more), Ended));
    }
    for (technique, before) in [
        ("a table larger than is allowed", &b"\x3f\xe2\x1f"[..]),
        ("a table of four gigabytes", b"\x3f\xe0\xff\xff\xff\x0f"),
    ] {
        rows.push(row(technique, first(before), Ended));
    }
    rows.extend([
        // The static table's own `:status: 200` and `transfer-encoding`.
        row("a status by its index", first(b"\x88"), Reset),
        row(
            "transfer-encoding by its index",
            head(b"\x0f\x2a\x07chunked"),
            Reset,
        ),
        row(
            "transfer-encoding out of the table",
            [
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    [
                        &block(&good("POST", "/other/")),
                        &literal(0x40, b"transfer-encoding", b"chunked")[..],
                    ]
                    .concat(),
                ),
                frame(HEADERS, ALL, 3, [&block(&get())[..], b"\xbe"].concat()),
            ]
            .concat(),
            Reset,
        ),
        row("a second path by its index", head(b"\x84"), Reset),
        row("a second method by its index", first(b"\x83"), Reset),
        row(
            "a table of no size is used",
            frame(
                HEADERS,
                ALL,
                1,
                [
                    &b"\x20"[..],
                    &block(&get()),
                    &literal(0x40, b"x", b"1"),
                    b"\xbe",
                ]
                .concat(),
            ),
            Ended,
        ),
        row(
            "literals of every kind say the same",
            frame(
                HEADERS,
                ALL,
                1,
                [
                    &literal(0x10, b":method", b"GET")[..],
                    &literal(0x40, b":scheme", b"http"),
                    &literal(0x00, b":authority", HOST.as_bytes()),
                    &[&integer(4, 0x00, 4)[..], b"\x07/other/"].concat(),
                ]
                .concat(),
            ),
            forwarded("GET", "/other/", b""),
        ),
        row(
            "sizes of the table within what is allowed",
            frame(
                HEADERS,
                ALL,
                1,
                [&b"\x20\x3f\xe1\x1f"[..], &other()].concat(),
            ),
            forwarded("GET", "/other/", b""),
        ),
    ]);
    rows
}

/// R8: each limit has its status, or ends the connection.
pub fn limits() -> Vec<Row> {
    use Expected::{Answered, Broken, Ended};
    let long = format!("/{}", "a".repeat(9000));
    let large = "a".repeat(15_000);
    let names: Vec<String> = (0..101).map(|n| format!("x-{n}")).collect();
    let many: Lines = names
        .iter()
        .map(|name| (name.as_bytes(), &b"1"[..]))
        .collect();
    let three = and(&[("x-1", &large), ("x-2", &large), ("x-3", &large)]);
    let in_pieces = |block: Vec<u8>| {
        let mut frames = Vec::new();
        let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let last = if at + 1 == pieces.len() {
                END_HEADERS
            } else {
                0
            };
            let (kind, flags) = match at {
                0 => (HEADERS, END_STREAM | last),
                _ => (CONTINUATION, last),
            };
            frames.extend(frame(kind, flags, 1, piece));
        }
        frames
    };
    let entry = literal(0x40, b"x", &[b'a'; 4000]);
    let bomb = [&block(&get())[..], &entry, &[0xbe; 3000]].concat();
    let crumbs = "a".repeat(20);
    let crumbs: Lines = (0..2000)
        .map(|_| (&b"cookie"[..], crumbs.as_bytes()))
        .collect();
    vec![
        row(
            "a target beyond the limit",
            alone(&but(":path", Some(long.as_bytes()))),
            Answered(&[414]),
        ),
        row(
            "more fields than the limit",
            alone(&[get(), many].concat()),
            Answered(&[431]),
        ),
        row(
            "longer fields than the limit",
            in_pieces(block(&three)),
            Answered(&[431]),
        ),
        row(
            "a hundred kilobytes of crumbs",
            in_pieces(block(&[get(), crumbs].concat())),
            Answered(&[431]),
        ),
        row(
            "a header block that unfolds (HPACK bomb)",
            in_pieces(bomb),
            Ended,
        ),
        row(
            "more pieces of a head than the limit",
            [
                frame(HEADERS, END_STREAM, 1, block(&get())),
                frame(CONTINUATION, 0, 1, b"").repeat(20),
                frame(CONTINUATION, END_HEADERS, 1, b""),
            ]
            .concat(),
            Ended,
        ),
        row(
            "content of a whole window goes on",
            [
                frame(HEADERS, END_HEADERS, 1, block(&posted(&[]))),
                frame(DATA, 0, 1, vec![b'a'; 16_000]).repeat(4),
            ]
            .concat()
            .into_iter()
            .chain(frame(DATA, END_STREAM, 1, vec![b'a'; 1_400]))
            .collect(),
            forwarded("POST", "/other/", &[b'a'; 65_400]),
        ),
        row(
            "content beyond the window",
            [
                frame(HEADERS, END_HEADERS, 1, block(&posted(&[]))),
                frame(DATA, 0, 1, vec![b'a'; 16_384]).repeat(40),
            ]
            .concat(),
            Broken,
        ),
    ]
}
