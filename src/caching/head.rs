//! The fields of a copy: as they are kept, and ready to be sent.
//!
//! The heads of a route's answers are mostly the same but for a date and a tag. What they share is one text, which
//! is read once and then known again; a hit copies what is ready and fills in what is its own.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

use super::cache_status::CACHE_STATUS;
use super::directives::Directives;
use super::stored::Mark;
use super::targeted;
use crate::hexadecimal;
use crate::message::fields::append_via;

/// Fields that differ from one answer of a route to the next.
static OWN: [HeaderName; 4] = [
    header::DATE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::EXPIRES,
];

/// Texts that a thread knows again.
const KNOWN: usize = 64;

/// The fields of one copy, end to end, complete with Date and without Age; where it is from, and what splits its key.
#[derive(Debug, Clone)]
pub struct Head {
    shared: Arc<Shared>,
    date: Option<Date>,
    /// What else is its own, and a Date that is none.
    own: Box<[(HeaderName, HeaderValue)]>,
    /// Its part of what it shares, in bytes: of many copies each is charged with an eighth, so that an entry's weight is about
    /// its own, and few that are left of many do not weigh next to nothing. Settled when it is made, for a weight must not change.
    part: u32,
}

/// A Date as it is to be sent (RFC 9110 §5.6.7), which is always as long: where its copy is, as each hit has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Date([u8; 29]);

/// What is the same for many copies.
#[derive(Debug)]
struct Shared {
    /// `origin=…⇥vary=…⇥of=…⇥name: value⇥…`, as it is stored.
    text: Bytes,
    origin: String,
    varied: Vec<HeaderName>,
    mark: Mark,
    /// With Via, and with places for Date, Age and Cache-Status.
    ready: HeaderMap,
    /// The same as lines, without those places and without Content-Length.
    lines: Vec<u8>,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.shared == other.shared && self.date == other.date && self.own == other.own
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Head {
    /// `origin`: scheme://host under which it was asked, as its links may hold it. `varied`: the request fields by
    /// which the answer varies and its key splits.
    pub fn new(fields: HeaderMap, origin: &str, varied: &[HeaderName]) -> Head {
        Head::of(Mark::default(), &fields, origin, varied)
    }

    /// As `new`, for a copy of the paths with this mark alone.
    pub fn of(mark: Mark, fields: &HeaderMap, origin: &str, varied: &[HeaderName]) -> Head {
        let (mut date, mut own) = (None, Vec::new());
        for name in &OWN {
            let mut values = fields.get_all(name).iter();
            if let (Some(value), None) = (values.next(), values.next()) {
                match Date::of(value.as_bytes()) {
                    its @ Some(_) if *name == header::DATE => date = its,
                    _ => own.push((name.clone(), alone(value))),
                }
            }
        }
        let is_own = |name: &HeaderName| match date {
            Some(_) if *name == header::DATE => true,
            _ => own.iter().any(|(own, _)| own == name),
        };
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(b"origin=");
        text.extend_from_slice(origin.as_bytes());
        text.extend_from_slice(b"\tvary=");
        for (n, name) in varied.iter().enumerate() {
            text.extend_from_slice(if n > 0 { b"," } else { b"" });
            text.extend_from_slice(name.as_str().as_bytes());
        }
        text.extend_from_slice(b"\tof=");
        hexadecimal::write(&mut text, mark.0);
        for (name, value) in fields {
            if !is_own(name) {
                write_field(&mut text, name, value);
            }
        }
        let shared = Shared::known(&text).expect("what was written is read again");
        Head::sharing(shared, date, own)
    }

    pub fn origin(&self) -> &str {
        &self.shared.origin
    }

    pub fn varied(&self) -> &[HeaderName] {
        &self.shared.varied
    }

    pub fn mark(&self) -> Mark {
        self.shared.mark
    }

    /// The fields as they came.
    pub fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(self.shared.ready.len() + 2);
        fields.extend(self.date.map(|date| (header::DATE, date.value())));
        fields.extend(self.own.iter().cloned());
        let kept = self.shared.text.split(|&byte| byte == b'\t').skip(3);
        for (name, value) in kept.filter_map(|word| read_field(&self.shared.text, word)) {
            fields.append(name, value);
        }
        fields
    }

    /// What the origin says of its use; in the first of the `targeted` fields, if it says so in one.
    pub fn directives(&self, targeted: &[HeaderName]) -> Directives {
        targeted::said(&self.shared.ready, targeted).directives
    }

    /// The fields of a hit.
    pub fn of_a_hit(&self, age: HeaderValue, cache_status: HeaderValue) -> HeaderMap {
        let mut fields = self.shared.ready.clone();
        if let Some(date) = self.date {
            fields.insert(header::DATE, date.value());
        }
        for (name, value) in &self.own {
            fields.insert(name, value.clone());
        }
        fields.insert(header::AGE, age);
        // After those of the origin, if it has sent some.
        if let Entry::Occupied(mut lines) = fields.entry(CACHE_STATUS)
            && let Some(last) = lines.iter_mut().next_back()
        {
            *last = cache_status;
        }
        fields
    }

    /// Whether a hit's fields are those of `ready`, its own and Age alone: what it has twice needs a second look.
    pub fn is_plain(&self) -> bool {
        self.date.is_some() || self.own.iter().any(|(name, _)| *name == header::DATE)
    }

    /// Appends the lines of a hit's fields: those of `of_a_hit` without Cache-Status, and Content-Length.
    pub fn write_hit(&self, into: &mut Vec<u8>, length: usize, age: u64) {
        into.extend_from_slice(&self.shared.lines);
        if let Some(Date(date)) = &self.date {
            write_line(into, &header::DATE, date);
        }
        for (name, value) in &self.own {
            write_line(into, name, value.as_bytes());
        }
        let mut number = itoa::Buffer::new();
        let length = number.format(length);
        write_line(into, &header::CONTENT_LENGTH, length.as_bytes());
        let age = number.format(age);
        write_line(into, &header::AGE, age.as_bytes());
    }

    /// Appends ` ⇥name: value` for each field of its own, and then the shared text.
    pub fn write(&self, into: &mut Vec<u8>) {
        if let Some(Date(date)) = &self.date {
            into.extend_from_slice(WRITTEN_DATE);
            into.extend_from_slice(date);
        }
        for (name, value) in &self.own {
            write_field(into, name, value);
        }
        into.push(b'\t');
        into.extend_from_slice(&self.shared.text);
    }

    /// Reads what `write` has written, without the first tab; a value of its own shares the bytes of `text`.
    pub fn read(text: &Bytes) -> Option<Head> {
        let (mut date, mut own, mut rest) = (None, Vec::new(), &text[..]);
        while !rest.starts_with(b"origin=") {
            let end = memchr::memchr(b'\t', rest)?;
            let word = &rest[..end];
            match word.strip_prefix(&WRITTEN_DATE[1..]).and_then(Date::of) {
                of_the_copy @ Some(_) => date = of_the_copy,
                None => own.push(read_field(text, word)?),
            }
            rest = &rest[end + 1..];
        }
        Some(Head::sharing(Shared::known(rest)?, date, own))
    }

    fn sharing(
        shared: Arc<Shared>,
        date: Option<Date>,
        own: Vec<(HeaderName, HeaderValue)>,
    ) -> Head {
        // One of those who have it is the list of known ones.
        let copies = (Arc::strong_count(&shared) - 1).clamp(1, 8);
        let part = shared.weight().div_ceil(copies) as u32;
        Head {
            shared,
            date,
            own: own.into_boxed_slice(),
            part,
        }
    }

    /// Bytes it takes in memory, roughly but never less.
    pub fn weight(&self) -> usize {
        self.part as usize + self.own.len() * 128
    }
}

impl Shared {
    /// Roughly but never less.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.lines.capacity() + self.ready.capacity() * 128
    }

    /// The same as last time, if this thread has seen the text before.
    fn known(text: &[u8]) -> Option<Arc<Shared>> {
        thread_local! {
            static SEEN: RefCell<[Option<Arc<Shared>>; KNOWN]> = const { RefCell::new([const { None }; KNOWN]) };
        }
        SEEN.with_borrow_mut(|seen| {
            let place = &mut seen[xxh3_64(text) as usize % KNOWN];
            if let Some(shared) = place
                && shared.text == text
            {
                return Some(shared.clone());
            }
            let shared = Arc::new(Shared::read(Bytes::copy_from_slice(text))?);
            *place = Some(shared.clone());
            Some(shared)
        })
    }

    fn read(text: Bytes) -> Option<Shared> {
        let mut words = text.split(|&byte| byte == b'\t');
        let mut named = |name: &str| std::str::from_utf8(words.next()?).ok()?.strip_prefix(name);
        let (origin, varied) = (named("origin=")?.to_owned(), named("vary=")?);
        let mark = Mark(u64::from_str_radix(named("of=")?, 16).ok()?);
        let varied = varied
            .split(',')
            .filter(|name| !name.is_empty())
            .map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect::<Option<_>>()?;
        let mut ready = HeaderMap::with_capacity(16);
        for word in words {
            let (name, value) = read_field(&text, word)?;
            ready.append(name, value);
        }
        let mut lines = Vec::new();
        let mut sent = ready.clone();
        append_via(&mut sent);
        for (name, value) in &sent {
            if !matches!(*name, header::CONTENT_LENGTH | header::AGE) {
                write_line(&mut lines, name, value.as_bytes());
            }
        }
        ready.append(header::DATE, HeaderValue::from_static(""));
        ready.append(header::AGE, HeaderValue::from_static(""));
        append_via(&mut ready);
        ready.append(CACHE_STATUS, HeaderValue::from_static(""));
        Some(Shared {
            origin,
            varied,
            mark,
            ready,
            lines,
            text,
        })
    }
}

/// How a Date stands in the text, before its value.
const WRITTEN_DATE: &[u8] = b"\tdate: ";

impl Date {
    /// What is as long and needs no escape.
    fn of(value: &[u8]) -> Option<Date> {
        let date: [u8; 29] = value.try_into().ok()?;
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
        date.iter().all(is_plain).then_some(Date(date))
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("it is visible ASCII")
    }
}

/// The value without the buffer that it was read into, all of which a slice would keep.
fn alone(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

fn write_line(into: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

/// A tab may stand in a field's value, but is our separator.
fn write_field(into: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    into.push(b'\t');
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    let mut rest = value.as_bytes();
    while let Some(at) = memchr::memchr2(b'\t', b'\\', rest) {
        into.extend_from_slice(&rest[..at]);
        into.extend_from_slice(if rest[at] == b'\t' { b"\\t" } else { b"\\\\" });
        rest = &rest[at + 1..];
    }
    into.extend_from_slice(rest);
}

/// One field of `text`, sharing its bytes wherever nothing was escaped.
fn read_field(text: &Bytes, word: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memmem::find(word, b": ")?;
    let (name, written) = (&word[..colon], &word[colon + 2..]);
    let name = HeaderName::from_bytes(name).ok()?;
    if memchr::memchr(b'\\', written).is_none() {
        let value = HeaderValue::from_maybe_shared(text.slice_ref(written)).ok()?;
        return Some((name, value));
    }
    let mut plain = Vec::with_capacity(written.len());
    let mut bytes = written.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b't' => b'\t',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some((name, HeaderValue::from_bytes(&plain).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MONDAY: &str = "Mon, 24 Nov 2025 08:00:00 GMT";

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn written(head: &Head) -> Bytes {
        let mut text = Vec::new();
        head.write(&mut text);
        Bytes::from(text).slice(1..)
    }

    #[test]
    fn what_differs_from_answer_to_answer_is_not_in_what_they_share() {
        let head = |date: &str, tag: &str| {
            let fields = map(&[("date", date), ("vary", "Accept"), ("etag", tag)]);
            Head::new(fields, "http://h", &[header::ORIGIN])
        };
        let (one, other) = (head(MONDAY, "\"a\""), head("Tue", "\"b\""));
        assert!(Arc::ptr_eq(&one.shared, &other.shared));
        assert_ne!(one, other);
        assert_eq!(one.fields()["etag"], "\"a\"");
        assert_eq!(one.fields()["date"], MONDAY);
        assert_eq!(other.fields()["date"], "Tue");
        assert_eq!(
            (one.origin(), one.varied()),
            ("http://h", &[header::ORIGIN][..])
        );
    }

    #[test]
    fn a_copy_keeps_no_buffer_that_its_answer_was_read_into() {
        let buffer = Bytes::from(vec![b'1'; 8192]);
        let of_it = |length| HeaderValue::from_maybe_shared(buffer.slice(..length)).unwrap();
        let fields = HeaderMap::from_iter([
            (header::DATE, of_it(29)),
            (header::ETAG, of_it(32)),
            (header::ALLOW, "GET".parse().unwrap()),
        ]);
        let head = Head::new(fields, "http://h", &[]);
        assert!(buffer.is_unique());
        let many: Vec<Head> = (0..8)
            .map(|_| Head::read(&written(&head)).unwrap())
            .collect();
        assert!(
            many[7].weight() < head.weight() / 2,
            "they share what is the same"
        );
    }

    #[test]
    fn a_hit_has_its_age_and_says_so_after_what_the_origin_said() {
        let fields = map(&[
            ("date", MONDAY),
            ("cache-status", "origin; hit"),
            ("via", "1.1 vegur"),
            ("content-type", "application/json"),
        ]);
        let head = Head::new(fields.clone(), "http://h", &[]);
        let hit = head.of_a_hit(7.into(), HeaderValue::from_static("larder; hit; ttl=1"));
        let all = |name: &str| -> Vec<_> { hit.get_all(name).iter().cloned().collect() };
        assert_eq!(all("cache-status"), ["origin; hit", "larder; hit; ttl=1"]);
        assert_eq!(all("via"), ["1.1 vegur", "1.1 larder"]);
        assert_eq!(all("age"), ["7"]);
        assert_eq!(all("date"), [MONDAY]);
        assert_eq!(hit.len(), 7);
        assert_eq!(head.fields(), fields);
    }

    #[test]
    fn a_date_that_was_sent_twice_stays_twice() {
        let fields = map(&[("etag", "\"a\""), ("etag", "\"b\"")]);
        let head = Head::new(fields.clone(), "http://h", &[]);
        assert_eq!(Head::read(&written(&head)).unwrap().fields(), fields);
    }

    proptest! {
        #[test]
        fn any_fields_are_read_as_they_were_written(values in proptest::collection::vec(
            ("[a-z][a-z0-9-]{0,8}|date|etag|via|cache-status", prop_oneof![
                proptest::collection::vec(prop_oneof![Just(b'\t'), 32u8..=126, 128u8..], 0..20),
                "[ -~]{29}".prop_map(String::into_bytes),
            ]), 0..8))
        {
            let mut fields = HeaderMap::new();
            for (name, value) in &values {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    fields.append(name.parse::<HeaderName>().unwrap(), value);
                }
            }
            let head = Head::new(fields.clone(), "http://h", &[]);
            prop_assert_eq!(&head.fields(), &fields);
            let read = Head::read(&written(&head)).unwrap();
            prop_assert_eq!(&read, &head);
            prop_assert_eq!(read.fields(), fields);
        }

        #[test]
        fn reading_anything_does_not_panic(text in proptest::collection::vec(prop_oneof![Just(b'\t'), Just(b':'), Just(b' '), Just(b'\\'), any::<u8>()], 0..60)) {
            let _ = Head::read(&Bytes::from([&text[..], b"origin=a\tvary=\t", &text].concat()));
        }
    }
}
