//! Heads of answers that come again. Those of one API mostly differ in their Date and Content-Length alone: so a thread keeps
//! what it has read, by the bytes around these two values, and puts the new ones into a copy of it.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

use crate::message::{framing, heads};
use crate::recurring::{LONGEST, Recurring};

/// A head, from its first byte to its empty line, and where its two values stand.
#[derive(Debug)]
pub(super) struct Outline<'r> {
    bytes: &'r [u8],
    date: Option<Range<usize>>,
    length: Option<Range<usize>>,
    hash: u64,
}

/// What a head says beside its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub status: StatusCode,
    pub length: Option<u64>,
    /// The connection closes after it.
    pub closes: bool,
}

struct Kept {
    /// The bytes around its two values.
    pieces: [Box<[u8]>; 3],
    said: Said,
    fields: HeaderMap,
}

thread_local! {
    static KEPT: RefCell<Recurring<Kept>> = const { RefCell::new(Recurring::NOTHING) };
}

impl<'r> Outline<'r> {
    /// Of the head that these bytes begin with. `None`: it is not whole, or too long to be kept.
    pub fn of(read: &'r [u8]) -> Option<Outline<'r>> {
        let read = &read[..read.len().min(LONGEST)];
        let (mut date, mut length) = (None, None);
        let mut ends = memchr::memchr_iter(b'\n', read);
        let mut begins = ends.next()? + 1;
        for end in ends {
            let line = &read[begins..end];
            let value = |name: &HeaderName| {
                let value = of_line(line, name.as_str().as_bytes())?;
                Some(begins + value.start..begins + value.end)
            };
            match line {
                [b'\r'] => {
                    let bytes = &read[..=end];
                    return Some(Outline::around(bytes, date, length));
                }
                [_, _, _, _, b':', ..] if date.is_none() => date = value(&header::DATE),
                line if line.get(14) == Some(&b':') && length.is_none() => {
                    length = value(&header::CONTENT_LENGTH);
                }
                _ => {}
            }
            begins = end + 1;
        }
        None
    }

    fn around(
        bytes: &'r [u8],
        date: Option<Range<usize>>,
        length: Option<Range<usize>>,
    ) -> Outline<'r> {
        let mut outline = Outline {
            bytes,
            date,
            length,
            hash: 0,
        };
        let [a, b, c] = outline.pieces().map(xxh3_64);
        outline.hash = a ^ b.rotate_left(21) ^ c.rotate_left(42);
        outline
    }

    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// What is said in a head with this outline, with which `read` begins, if that is known.
    pub fn known(&self, read: &Bytes) -> Option<(Said, HeaderMap)> {
        let (mut said, mut fields) = KEPT.with_borrow(|kept| {
            let kept = kept.get(self.hash)?;
            let mut pieces = kept.pieces.iter().zip(self.pieces());
            let is_same = pieces.all(|(kept, own)| **kept == *own);
            is_same.then(|| (kept.said, kept.fields.clone()))
        })?;
        if let Some(length) = &self.length {
            said.length = Some(framing::length(&self.bytes[length.clone()])?);
        }
        for (name, value) in [
            (header::DATE, &self.date),
            (header::CONTENT_LENGTH, &self.length),
        ] {
            if let Some(value) = value {
                let value = read.slice(value.clone());
                *fields.get_mut(name)? = HeaderValue::from_maybe_shared(value).ok()?;
            }
        }
        Some((said, fields))
    }

    /// It was read so. It is kept, if it has come to this thread before.
    pub fn keep(&self, said: Said, fields: &HeaderMap) {
        // Of several, nobody knows here which is masked.
        if fields.get_all(header::DATE).iter().nth(1).is_some() {
            return;
        }
        KEPT.with_borrow_mut(|kept| {
            if kept.comes_again(self.hash)
                && let Some(fields) = heads::compact(fields)
            {
                let pieces = self.pieces().map(Box::from);
                let new = Kept {
                    pieces,
                    said,
                    fields,
                };
                kept.keep(self.hash, new);
            }
        });
    }

    fn pieces(&self) -> [&'r [u8]; 3] {
        let end = self.bytes.len()..self.bytes.len();
        let values = [&self.date, &self.length].map(|value| value.clone().unwrap_or(end.clone()));
        let [mut first, mut second] = values;
        if second.start < first.start {
            std::mem::swap(&mut first, &mut second);
        }
        [
            &self.bytes[..first.start],
            &self.bytes[first.end..second.start],
            &self.bytes[second.end..],
        ]
    }
}

/// Where the value stands in a line `name: value` and CR, if nothing is around it but that one space.
fn of_line(line: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let (spelt, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b": ")?.strip_suffix(b"\r")?;
    let is_bare = !value.is_empty()
        && value.trim_ascii().len() == value.len()
        && memchr::memchr2(b'\t', b'\r', value).is_none();
    (is_bare && spelt.eq_ignore_ascii_case(name))
        .then(|| name.len() + 2..name.len() + 2 + value.len())
}
