//! Requests that nobody can read in two ways, answered without HTTP's machinery.
//!
//! Nearly all are like this: a head whose lines end in CRLF, in one of five methods, with no field that says anything of the
//! connection, and all of the content that it declares behind it, and nothing more. Such a request is read here, and its answer
//! written. Whatever else comes, malformed or merely unusual, the machinery reads from its first byte on: so here is nothing to
//! refuse, and no error to answer. RFC 9112.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, Response, StatusCode, Uri, Version};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::lane::{self, Beneath, COPIED, Lane};
use super::{Brought, Manners};
use crate::body::Content;
use crate::clock;
use crate::interim::Interim;
use crate::message::section::{self, Head};
use crate::message::{date, framing, heads, target};
use crate::proxy::known::Foreseen;

/// Fields of a head that is read here, at most.
const FIELDS: usize = 64;

/// Bytes that are put together before they are written, at most; and what is kept of such a buffer for the next answer.
const TOGETHER: usize = 16 * 1024;

/// What stands in an answer that may have no content. RFC 9110 §15.3.5, §15.4.5.
const WITHOUT_CONTENT: [StatusCode; 2] = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];

/// Reads a request that is plain, which all of `read` is. `None`: it is the machinery's.
pub fn read(
    read: &Bytes,
    foreseen: &mut Option<Box<Foreseen>>,
    interim: &Interim,
    manners: &Manners,
) -> Option<Brought> {
    let (head, content) = match again(read, manners) {
        Some(head) => head,
        None => anew(read, manners)?,
    };
    let end = read.len() - content.len();
    Some(Brought {
        head,
        content: Content::Whole(content),
        upgrade: None,
        interim: Some(interim.turn()),
        beneath: Beneath::of(&read[..end], read, foreseen.take()),
    })
}

/// As a head whose first line stands before fields that were read before.
fn again(read: &Bytes, manners: &Manners) -> Option<(Head, Bytes)> {
    let line = memchr::memchr2(b'\r', b'\n', read)? + 2;
    let end = heads::blank(read)?;
    let (fields, content) = section::kept(read.get(line..end)?)?;
    if end > manners.head || fields.len() > manners.fields || content != (read.len() - end) as u64 {
        return None;
    }
    let (method, target) = METHODS.iter().find_map(|(spelt, method)| {
        let target = read[..line].strip_prefix(spelt.as_bytes())?;
        Some((method, target.strip_suffix(b" HTTP/1.1\r\n")?))
    })?;
    if !target::is_usual(target) {
        return None;
    }
    let head = Head {
        method: method.clone(),
        uri: Uri::from_maybe_shared(read.slice_ref(target)).ok()?,
        version: Version::HTTP_11,
        fields,
    };
    Some((head, read.slice(end..)))
}

/// By its methods' names, with the space behind them.
static METHODS: [(&str, Method); 5] = [
    ("GET ", Method::GET),
    ("POST ", Method::POST),
    ("PUT ", Method::PUT),
    ("PATCH ", Method::PATCH),
    ("DELETE ", Method::DELETE),
];

fn anew(read: &Bytes, manners: &Manners) -> Option<(Head, Bytes)> {
    let end = heads::end(read)?;
    let (head, content) = (read.slice(..end), read.slice(end..));
    let mut found = [MaybeUninit::uninit(); FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let parsed_whole = parsed.parse_with_uninit_headers(&head, &mut found);
    if parsed_whole != Ok(httparse::Status::Complete(end)) || parsed.version != Some(1) {
        return None;
    }
    let method = match parsed.method? {
        "GET" => Method::GET,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => return None,
    };
    let target = parsed.path.filter(|target| target.starts_with('/'))?;
    if end > manners.head || parsed.headers.len() > manners.fields {
        return None;
    }
    let fields = heads::fields(parsed.headers, &head)?;
    if !is_plain(&fields, content.len()) {
        return None;
    }
    let uri = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).ok()?;
    if let Some(line) = memchr::memchr(b'\n', &head) {
        section::keep(&head[line + 1..], content.len() as u64, fields_of);
    }
    let head = Head {
        method,
        uri,
        version: Version::HTTP_11,
        fields: fields.into(),
    };
    Some((head, content))
}

/// All fields of a section, up to its empty line.
fn fields_of(section: &Bytes) -> Option<HeaderMap> {
    let mut found = [httparse::EMPTY_HEADER; FIELDS];
    match httparse::parse_headers(section, &mut found) {
        Ok(httparse::Status::Complete((end, found))) if end == section.len() => {
            heads::fields(found, section)
        }
        _ => None,
    }
}

/// Whether these fields leave nothing to be settled with the client, and so many bytes behind them are the content.
fn is_plain(fields: &HeaderMap, content: usize) -> bool {
    const OF_THE_CONNECTION: [HeaderName; 3] =
        [header::TRANSFER_ENCODING, header::EXPECT, header::UPGRADE];
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let declared = match (lengths.next(), lengths.next()) {
        (None, _) => Some(0),
        (Some(length), None) => framing::length(length.as_bytes()),
        (Some(_), Some(_)) => None,
    };
    declared == Some(content as u64)
        && OF_THE_CONNECTION
            .iter()
            .all(|name| !fields.contains_key(name))
        && lane::persists(Version::HTTP_11, fields)
}

/// Waits for the answer, which comes after all interim ones are written, and writes it. Whether another request may follow; not after `end` was announced.
pub async fn exchange<S, Answer, B>(
    lane: &mut Lane<S>,
    interim: &Interim,
    mut answer: Pin<Box<Answer>>,
    end: &watch::Receiver<bool>,
) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Answer: Future<Output = Response<B>>,
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut is_flushed = true;
    let answered = poll_fn(|cx| {
        loop {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            if !interim.waits() {
                is_flushed = is_flushed || lane.stream().poll_flush(cx)?.is_ready();
                return lane.poll_left(cx).map(Err);
            }
            if interim.poll_write(lane.stream(), cx)?.is_pending() {
                return lane.poll_left(cx).map(Err);
            }
            is_flushed = false;
        }
    });
    let answered = answered.await?;
    drop(answer);
    let stays = !*end.borrow() && lane::persists(Version::HTTP_11, answered.headers());
    let (head, body) = answered.into_parts();
    let mut framed = Framed::of(&head, &body);
    let mut writing = Writing::default();
    write_head(&head, framed, stays, &mut writing.first);
    drop(head);
    let mut body = pin!(Some(body));
    while !framed.is_at_its_end() {
        let next = poll_fn(|cx| {
            let frame = match body.as_mut().as_pin_mut() {
                Some(body) => body.poll_frame(cx),
                None => Poll::Ready(None),
            };
            if let Poll::Ready(frame) = frame {
                return Poll::Ready(Ok(frame.map(|frame| frame.map_err(io::Error::other))));
            }
            // What there is goes out meanwhile.
            ready!(writing.poll(lane.stream(), cx))?;
            lane.poll_left(cx).map(Err)
        });
        match next.await? {
            None => break,
            Some(Ok(frame)) => {
                // Trailers end here.
                let Ok(mut data) = frame.into_data() else {
                    continue;
                };
                let data = data.copy_to_bytes(data.remaining());
                framed = framed.less(data.len())?;
                writing.add(framed, data);
            }
            Some(Err(error)) => {
                poll_fn(|cx| writing.poll(lane.stream(), cx)).await?;
                return Err(error);
            }
        }
        if writing.is_much() {
            poll_fn(|cx| writing.poll(lane.stream(), cx)).await?;
        }
    }
    // It holds what others may wait for.
    body.set(None);
    match framed {
        Framed::Length(1..) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Framed::Length(0) | Framed::Without => {}
        Framed::Chunked => writing.first.extend_from_slice(b"0\r\n\r\n"),
    }
    poll_fn(|cx| writing.poll(lane.stream(), cx)).await?;
    // It may have been announced since the head was written.
    Ok(stays && !*end.borrow())
}

/// How an answer's end is told. RFC 9112 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framed {
    /// Its status says that nothing follows.
    Without,
    /// So many bytes follow.
    Length(u64),
    Chunked,
}

impl Framed {
    fn of(head: &Parts, body: &impl Body) -> Framed {
        if WITHOUT_CONTENT.contains(&head.status) {
            return Framed::Without;
        }
        if body.is_end_stream() {
            return Framed::Length(0);
        }
        let declared = || {
            let declared = head.headers.get(header::CONTENT_LENGTH)?;
            declared.to_str().ok()?.parse().ok()
        };
        let length = body.size_hint().exact().or_else(declared);
        length.map_or(Framed::Chunked, Framed::Length)
    }

    fn is_at_its_end(self) -> bool {
        matches!(self, Framed::Without | Framed::Length(0))
    }

    /// After so many bytes more.
    fn less(self, bytes: usize) -> io::Result<Framed> {
        match self {
            Framed::Length(left) => {
                let left = left.checked_sub(bytes as u64);
                left.map(Framed::Length)
                    .ok_or_else(|| io::Error::other("more content than was declared"))
            }
            Framed::Chunked | Framed::Without => Ok(self),
        }
    }
}

fn write_head(head: &Parts, framed: Framed, stays: bool, into: &mut Vec<u8>) {
    let (status, fields) = (head.status, &head.headers);
    into.extend_from_slice(b"HTTP/1.1 ");
    into.extend_from_slice(status.as_str().as_bytes());
    into.push(b' ');
    // As the machinery has it.
    into.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    into.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        // RFC 9110 §8.6: a 304 may say how long the content would be.
        let is_framing = match *name {
            header::CONTENT_LENGTH => status != StatusCode::NOT_MODIFIED,
            header::TRANSFER_ENCODING => true,
            _ => false,
        };
        if !is_framing {
            heads::write_field(name.as_str(), value.as_bytes(), into);
        }
    }
    match framed {
        Framed::Without => {}
        Framed::Length(length) => {
            let mut digits = itoa::Buffer::new();
            let length = digits.format(length).as_bytes();
            heads::write_field("content-length", length, into);
        }
        Framed::Chunked => heads::write_field("transfer-encoding", b"chunked", into),
    }
    if !stays && !fields.contains_key(header::CONNECTION) {
        heads::write_field("connection", b"close", into);
    }
    if !fields.contains_key(header::DATE) {
        with_date(|date| heads::write_field("date", date.as_bytes(), into));
    }
    into.extend_from_slice(b"\r\n");
}

/// Spelled once a second.
fn with_date(then: impl FnOnce(&HeaderValue)) {
    thread_local!(static SPELLED: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) });
    let now = clock::now();
    SPELLED.with_borrow_mut(|(second, date)| {
        if std::mem::replace(second, now.as_millis() / 1000) != now.as_millis() / 1000 {
            *date = date::format(now);
        }
        then(date);
    });
}

/// What of an answer is put together, and waits to be written.
struct Writing {
    first: Vec<u8>,
    /// A larger piece, which is not copied, and what stands behind it.
    then: Bytes,
    last: &'static [u8],
    /// Bytes of all three that are written.
    written: usize,
    is_flushed: bool,
}

thread_local!(static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });

impl Default for Writing {
    fn default() -> Self {
        Writing {
            first: BUFFER.take(),
            then: Bytes::new(),
            last: b"",
            written: 0,
            is_flushed: true,
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.first);
        if buffer.capacity() <= TOGETHER {
            buffer.clear();
            BUFFER.set(buffer);
        }
    }
}

impl Writing {
    fn add(&mut self, framed: Framed, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if framed == Framed::Chunked {
            // RFC 9112 §7.1.
            let _ = write!(self.first, "{:x}\r\n", data.len());
            self.last = b"\r\n";
        }
        match data.len() <= COPIED {
            true => {
                self.first.extend_from_slice(&data);
                self.first.extend_from_slice(std::mem::take(&mut self.last));
            }
            false => self.then = data,
        }
    }

    /// It must be written before more is added.
    fn is_much(&self) -> bool {
        !self.then.is_empty() || self.first.len() >= TOGETHER
    }

    fn poll<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let (first, then) = (self.first.len(), self.then.len());
        while self.written < first + then + self.last.len() {
            let written = self.written;
            let of_first = &self.first[written.min(first)..];
            let of_then = &self.then[written.saturating_sub(first).min(then)..];
            let of_last = &self.last[written.saturating_sub(first + then)..];
            let wrote = match of_then.is_empty() && of_last.is_empty() {
                true => stream.as_mut().poll_write(cx, of_first),
                false => {
                    let all = [of_first, of_then, of_last].map(IoSlice::new);
                    stream.as_mut().poll_write_vectored(cx, &all)
                }
            };
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => self.written += wrote,
            }
            self.is_flushed = false;
        }
        self.first.clear();
        (self.then, self.last, self.written) = (Bytes::new(), b"", 0);
        if !self.is_flushed {
            ready!(stream.poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::Request;
    use http_body_util::{BodyExt, Full};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::server::pulse::Patience;

    /// What one makes of a request.
    #[derive(Debug, PartialEq)]
    struct Understood {
        method: Method,
        uri: Uri,
        fields: HeaderMap,
        content: Bytes,
    }

    fn manners() -> Manners {
        let second = Duration::from_secs(1);
        Manners {
            h2c: false,
            streams: 1,
            target: 8 * 1024,
            fields: 100,
            head: 16 * 1024,
            handshake_timeout: second,
            patience: Patience {
                header: second,
                keep_alive: second,
                write_idle: second,
            },
            proxy_protocol: false,
            held: 0,
            drain: second,
        }
    }

    fn here(bytes: &[u8]) -> Option<Understood> {
        let bytes = Bytes::copy_from_slice(bytes);
        let brought = read(&bytes, &mut None, &Interim::default(), &manners())?;
        let Content::Whole(content) = brought.content else {
            return None;
        };
        Some(understood((brought.head, content)))
    }

    fn understood((mut head, content): (Head, Bytes)) -> Understood {
        Understood {
            method: head.method,
            uri: head.uri,
            fields: std::mem::take(head.fields.to_mut()),
            content,
        }
    }

    /// All that hyper makes of it: of a single request, one.
    async fn by_hyper(bytes: &[u8]) -> Vec<Understood> {
        let understood = Mutex::new(Vec::new());
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let service = service_fn(|request: Request<hyper::body::Incoming>| async {
            let (head, content) = request.into_parts();
            let content = content.collect().await.map(|all| all.to_bytes());
            if let Ok(content) = content {
                understood.lock().push(Understood {
                    method: head.method,
                    uri: head.uri,
                    fields: head.headers,
                    content,
                });
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let served = http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let mut answers = Vec::new();
        let _ = tokio::join!(served, client.read_to_end(&mut answers));
        understood.into_inner()
    }

    /// Each with what is likely to be plain first.
    const METHODS: [&str; 6] = ["GET ", "POST ", "PATCH ", "DELETE ", "get ", "OPTIONS "];
    const TARGETS: [&str; 7] = [
        "/api/users/7/",
        "/?a=b&c",
        "/%zz",
        "*",
        "http://a/",
        "/a b",
        "/#f",
    ];
    const VERSIONS: [&str; 4] = [
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        " HTTP/2.0\r\n",
        " HTTP/1.1\n",
    ];
    const LINES: [&str; 22] = [
        "Host: a\r\n",
        "host:a\r\n",
        "Accept: */*\r\n",
        "X-Empty:\r\n",
        "X-Long: \t a\t b \r\n",
        "X_Under: 1\r\n",
        "X: \u{e9}\r\n",
        "Connection: keep-alive\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "content-length: 03\r\n",
        "Content-Length: 3, 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Expect: 100-continue\r\n",
        "Bad(Name): 1\r\n",
        "Host : a\r\n",
        " folded\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
    ];
    const ENDS: [&str; 6] = [
        "\r\n",
        "\r\nabc",
        "\r\nabcd",
        "\r\nab",
        "\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
    ];

    /// Mostly one of the first `likely`.
    fn one_of(all: &'static [&'static str], likely: usize) -> impl Strategy<Value = &'static str> {
        prop_oneof![5 => prop::sample::select(&all[..likely]), 1 => prop::sample::select(all)]
    }

    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let start = (
            one_of(&METHODS, 4),
            one_of(&TARGETS, 3),
            one_of(&VERSIONS, 1),
        );
        let lines = prop::collection::vec(one_of(&LINES, 9), 0..5);
        let change = (any::<u8>(), any::<prop::sample::Index>(), 0..4);
        (start, lines, one_of(&ENDS, 2), change).prop_map(
            |((method, target, version), lines, end, (byte, at, change))| {
                let all = [method, target, version, &lines.concat(), end].concat();
                let mut bytes = all.into_bytes();
                if change == 0 {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            },
        )
    }

    #[test]
    fn what_is_read_here_hyper_reads_no_other_way() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let mut runner = TestRunner::new(Config {
            failure_persistence: None,
            ..Config::with_cases(20_000)
        });
        let (read_here, read_again) = (Cell::new(0), Cell::new(0));
        let checked = runner.run(&messages(), |bytes| {
            // Its fields may have come before, on another line or on the same.
            let all = Bytes::copy_from_slice(&bytes);
            if let Some(again) = again(&all, &manners()) {
                read_again.set(read_again.get() + 1);
                let anew = anew(&all, &manners()).map(understood);
                prop_assert_eq!(anew, Some(understood(again)));
            }
            if let Some(here) = here(&bytes) {
                read_here.set(read_here.get() + 1);
                // Its fields are known by now, also behind another first line.
                let _ = (anew(&all, &manners()), anew(&all, &manners()));
                let line = memchr::memchr(b'\n', &bytes).unwrap_or(0);
                let other = Bytes::from([b"GET /other HTTP/1.1\r", &bytes[line..]].concat());
                let known = again(&other, &manners()).map(understood);
                prop_assert!(known.is_some());
                prop_assert_eq!(known, anew(&other, &manners()).map(understood));
                let by_hyper = runtime.block_on(by_hyper(&bytes));
                prop_assert_eq!(by_hyper, [here], "{:?}", String::from_utf8_lossy(&bytes));
            }
            Ok(())
        });
        checked.unwrap();
        let (here, again) = (read_here.get(), read_again.get());
        assert!(here > 200, "{here} of them were plain");
        assert!(again > 200, "the fields of {again} had come before");
    }

    #[test]
    fn what_is_plain_is_read_and_what_asks_for_anything_more_is_not() {
        let plain = "PATCH /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc";
        let understood = here(plain.as_bytes()).unwrap();
        assert_eq!(understood.method, Method::PATCH);
        assert_eq!(understood.uri, "/a?b");
        assert_eq!(understood.content, "abc");
        assert_eq!(understood.fields.len(), 3);
        for (from, to) in [
            ("PATCH", "HEAD"),
            ("PATCH", "OPTIONS"),
            ("/a?b", "http://a/"),
            ("/a?b", "*"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("\r\nHost", "\nHost"),
            ("Length: 3", "Length: 2"),
            ("Length: 3", "Length: 4"),
            ("Length: 3", "Length: 03"),
            ("Length: 3", "Length: +3"),
            ("Content-Length", "X-Length"),
            ("Connection: keep-alive", "Connection: close"),
            ("Connection: keep-alive", "Connection: x-a"),
            ("Connection: keep-alive", "Expect: 100-continue"),
            ("Connection: keep-alive", "Transfer-Encoding: chunked"),
            ("Connection: keep-alive", "Upgrade: websocket"),
            ("Connection: keep-alive", "Content-Length: 3"),
            ("Host: a", "Host : a"),
            ("Host: a", "Host: a\r\n b"),
            ("Host: a", "Host: a\0"),
        ] {
            let changed = plain.replacen(from, to, 1);
            assert_ne!(changed, plain);
            assert_eq!(here(changed.as_bytes()), None, "{changed:?}");
        }
    }
}
