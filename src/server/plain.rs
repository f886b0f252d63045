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
use crate::message::section::{Head, Raw};
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
    let end = heads::blank(read).filter(|end| *end <= manners.head)?;
    let line = memchr::memchr(b'\n', read)? + 1;
    let raw = Raw::of(&read[line..end]);
    let content = read.slice(end..);
    let head = match raw
        .as_ref()
        .and_then(|raw| again(read, line, raw, &content))
    {
        Some(head) => head,
        None => {
            let head = anew(read.slice(..end), &content)?;
            if let Some(raw) = raw {
                raw.keep(&head.fields, content.len() as u64);
            }
            head
        }
    };
    if head.fields.len() > manners.fields {
        return None;
    }
    Some(Brought {
        head,
        content: Content::Whole(content),
        upgrade: None,
        interim: Some(interim.turn()),
        beneath: Beneath::of(&read[..end], read, foreseen.take()),
    })
}

/// As a head whose first line stands before fields that were read before.
fn again(read: &Bytes, line: usize, fields: &Raw<'_>, content: &Bytes) -> Option<Head> {
    let (fields, declared) = fields.known()?;
    let (method, target) = METHODS.iter().find_map(|(spelt, method)| {
        let target = read[..line].strip_prefix(spelt.as_bytes())?;
        Some((method, target.strip_suffix(b" HTTP/1.1\r\n")?))
    })?;
    if declared != content.len() as u64 || !target::is_usual(target) {
        return None;
    }
    Some(Head {
        method: method.clone(),
        uri: Uri::from_maybe_shared(read.slice_ref(target)).ok()?,
        version: Version::HTTP_11,
        fields,
    })
}

/// By its methods' names, with the space behind them.
static METHODS: [(&str, Method); 5] = [
    ("GET ", Method::GET),
    ("POST ", Method::POST),
    ("PUT ", Method::PUT),
    ("PATCH ", Method::PATCH),
    ("DELETE ", Method::DELETE),
];

fn anew(head: Bytes, content: &Bytes) -> Option<Head> {
    if !heads::is_strict(&head) {
        return None;
    }
    let mut found = [MaybeUninit::uninit(); FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let parsed_whole = parsed.parse_with_uninit_headers(&head, &mut found);
    if parsed_whole != Ok(httparse::Status::Complete(head.len())) || parsed.version != Some(1) {
        return None;
    }
    let mut methods = METHODS.iter();
    let (_, method) = methods.find(|(spelt, _)| spelt.strip_suffix(' ') == parsed.method)?;
    let target = parsed.path.filter(|target| target.starts_with('/'))?;
    let fields = heads::fields(parsed.headers, &head)?;
    if !is_plain(&fields, content.len()) {
        return None;
    }
    let uri = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).ok()?;
    Some(Head {
        method: method.clone(),
        uri,
        version: Version::HTTP_11,
        fields: fields.into(),
    })
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
    use super::*;
    use crate::config::file;

    /// What is read is held by a property: tests/properties/plain.rs.
    #[test]
    fn fields_that_were_read_twice_are_known_behind_another_first_line() {
        let file = file::parse("a", "upstream: http://a\n", &|_| None).unwrap();
        let manners = Manners::of(&file.config);
        let fields = "Host: fields-read-twice\r\nContent-Length: 3\r\n\r\n";
        let read_behind = |line: &str| {
            let bytes = Bytes::from(format!("{line}\r\n{fields}abc"));
            read(&bytes, &mut None, &Interim::default(), &manners)
        };
        let known = || Raw::of(fields.as_bytes()).unwrap().known();
        for line in ["GET /a HTTP/1.1", "PUT /b HTTP/1.1"] {
            assert!(known().is_none());
            assert!(read_behind(line).is_some());
        }
        let (known, _) = known().unwrap();
        let brought = read_behind("DELETE /c HTTP/1.1").unwrap();
        assert_eq!(brought.head.method, Method::DELETE);
        assert_eq!(brought.head.uri, "/c");
        assert!(brought.head.fields.is(&known));
    }
}
