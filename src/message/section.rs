//! The header section of a request (RFC 9110 §6.3), shared by all who look at it, and what was made of it.
//!
//! One client's requests mostly differ in their first line alone. So a thread keeps the sections that come to it again, by
//! their bytes (`kept`), and with each what was last sent upstream for it: neither is then read, made or written field by field.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::forwarded::Via;
use super::heads;
use crate::recurring::{LONGEST, Recurring};

/// A request's method, target, version and fields.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub fields: Section,
}

impl From<Parts> for Head {
    fn from(parts: Parts) -> Head {
        Head {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            fields: parts.headers.into(),
        }
    }
}

/// Fields, which nobody changes but for himself.
#[derive(Clone, Default)]
pub struct Section(Arc<Shared>);

#[derive(Default)]
struct Shared {
    fields: HeaderMap,
    /// It has come again, and what is made of it is worth keeping.
    is_kept: bool,
    length: OnceLock<usize>,
    lines: OnceLock<Lines>,
    sent: Mutex<Option<(Under, Section)>>,
}

/// As it is written in HTTP/1, and what decides whether it may be.
struct Lines {
    bytes: Box<[u8]>,
    says: Says,
}

/// What is said of a message's framing and connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Says {
    pub upgrade: bool,
    pub length: bool,
    /// Connection or Transfer-Encoding.
    pub connection: bool,
}

impl Says {
    fn of(fields: &HeaderMap) -> Says {
        let has = |name: HeaderName| fields.contains_key(name);
        Says {
            upgrade: has(header::UPGRADE),
            length: has(header::CONTENT_LENGTH),
            connection: has(header::CONNECTION) || has(header::TRANSFER_ENCODING),
        }
    }
}

/// All that decides what is sent upstream for a section, beside its own fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Under {
    /// The configuration.
    pub setup: u64,
    pub purpose: Purpose,
    /// How the client came.
    pub via: Via,
    pub host: HeaderValue,
    /// Whether the request is told by an id of ours.
    pub has_id: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// To fill a copy of that route, whose key holds these fields.
    Fill {
        route: usize,
        varied: Vec<HeaderName>,
    },
    /// To be passed on, with content that is there whole or not.
    Pass { version: Version, is_whole: bool },
}

impl Deref for Section {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.0.fields
    }
}

impl From<HeaderMap> for Section {
    fn from(fields: HeaderMap) -> Section {
        Section(Arc::new(Shared {
            fields,
            ..Shared::default()
        }))
    }
}

/// Their names alone: among the values are credentials.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

impl Section {
    fn kept(fields: HeaderMap) -> Section {
        Section(Arc::new(Shared {
            fields,
            is_kept: true,
            ..Shared::default()
        }))
    }

    /// Whether both are one.
    #[cfg(test)]
    pub fn is(&self, other: &Section) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// To be changed: from now on it is this one's alone, and nothing is known of it.
    pub fn to_mut(&mut self) -> &mut HeaderMap {
        let fields = match Arc::get_mut(&mut self.0) {
            Some(own) => std::mem::take(&mut own.fields),
            None => self.0.fields.clone(),
        };
        *self = fields.into();
        let own = Arc::get_mut(&mut self.0).expect("nobody else has it yet");
        &mut own.fields
    }

    /// Bytes of its lines in HTTP/1.
    pub fn length(&self) -> usize {
        *self.0.length.get_or_init(|| {
            let lines = self.iter();
            lines
                .map(|(name, value)| name.as_str().len() + value.len() + 4)
                .sum()
        })
    }

    pub fn says(&self) -> Says {
        match self.lines() {
            Some(lines) => lines.says,
            None => Says::of(self),
        }
    }

    /// Appends its lines.
    pub fn write(&self, into: &mut Vec<u8>) {
        match self.lines() {
            Some(lines) => into.extend_from_slice(&lines.bytes),
            None => heads::write_fields(self, into),
        }
    }

    /// Ready to be written, where it will be again.
    fn lines(&self) -> Option<&Lines> {
        self.0.is_kept.then(|| {
            self.0.lines.get_or_init(|| {
                let mut bytes = Vec::with_capacity(self.length());
                heads::write_fields(self, &mut bytes);
                Lines {
                    bytes: bytes.into(),
                    says: Says::of(self),
                }
            })
        })
    }

    /// What is sent upstream for it: as the last time, if that was under the same, or made anew.
    pub fn sent(&self, under: impl FnOnce() -> Under, make: impl Fn() -> HeaderMap) -> Section {
        if !self.0.is_kept {
            return make().into();
        }
        let under = under();
        let mut sent = self.0.sent.lock();
        if let Some((as_then, section)) = &mut *sent
            && *as_then == under
        {
            debug_assert!(**section == make());
            if !section.0.is_kept {
                *section = Section::kept(section.0.fields.clone());
            }
            return section.clone();
        }
        // Not kept yet: it is not said that the next will be under the same.
        let section = Section::from(make());
        *sent = Some((under, section.clone()));
        section
    }
}

/// A section as it came, up to its empty line.
pub struct Raw<'r> {
    bytes: &'r [u8],
    hash: u64,
}

struct Kept {
    bytes: Box<[u8]>,
    section: Section,
    content: u64,
}

thread_local! {
    static KEPT: RefCell<Recurring<Kept>> = const { RefCell::new(Recurring::NOTHING) };
}

impl<'r> Raw<'r> {
    /// `None`: it is too long to be kept.
    pub fn of(bytes: &'r [u8]) -> Option<Raw<'r>> {
        (bytes.len() <= LONGEST).then(|| Raw {
            bytes,
            hash: xxh3_64(bytes),
        })
    }

    /// What these bytes were read as before, and how much content they declare.
    pub fn known(&self) -> Option<(Section, u64)> {
        KEPT.with_borrow(|kept| {
            let kept = kept.get(self.hash)?;
            (*kept.bytes == *self.bytes).then(|| (kept.section.clone(), kept.content))
        })
    }

    /// They were read so, and declare so much content. They are kept, if they have come to this thread before; what is kept of
    /// them already stays, and with it what was sent for it.
    pub fn keep(&self, fields: &HeaderMap, content: u64) {
        KEPT.with_borrow_mut(|kept| {
            let is_kept = kept
                .get(self.hash)
                .is_some_and(|kept| *kept.bytes == *self.bytes);
            if !is_kept
                && kept.comes_again(self.hash)
                && let Some(fields) = heads::compact(fields)
            {
                let new = Kept {
                    bytes: self.bytes.into(),
                    section: Section::kept(fields),
                    content,
                };
                kept.keep(self.hash, new);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::forwarded::Scheme;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        lines.iter().map(line).collect()
    }

    fn under(setup: u64) -> Under {
        Under {
            setup,
            purpose: Purpose::Pass {
                version: Version::HTTP_11,
                is_whole: false,
            },
            via: Via {
                chain: ["203.0.113.7".parse().unwrap()].into_iter().collect(),
                scheme: Scheme::Http,
                untrusted_https: false,
            },
            host: HeaderValue::from_static("a"),
            has_id: false,
        }
    }

    #[test]
    fn a_section_is_known_from_the_second_time_that_it_was_read() {
        let raw = |bytes| Raw::of(bytes).unwrap();
        let (bytes, fields) = (b"a: 1\r\n\r\n", fields(&[("a", "1")]));
        for _ in 0..2 {
            assert!(raw(bytes).known().is_none());
            raw(bytes).keep(&fields, 7);
        }
        let (section, content) = raw(bytes).known().unwrap();
        assert_eq!((&*section, content), (&fields, 7));
        raw(bytes).keep(&fields, 7);
        assert!(raw(bytes).known().unwrap().0.is(&section));
        assert!(raw(b"a: 2\r\n\r\n").known().is_none());
        assert!(Raw::of(&[b'x'; LONGEST + 1]).is_none());
    }

    #[test]
    fn who_changes_a_section_changes_nobody_elses() {
        let shared = Section::from(fields(&[("a", "1")]));
        let mut own = shared.clone();
        assert_eq!(own.length(), 6);
        own.to_mut().insert("b", HeaderValue::from_static("22"));
        assert_eq!(*shared, fields(&[("a", "1")]));
        assert_eq!(*own, fields(&[("a", "1"), ("b", "22")]));
        assert_eq!((shared.length(), own.length()), (6, 13));
        own.to_mut().remove("a");
        assert_eq!(own.length(), 7);
    }

    #[test]
    fn what_is_sent_for_a_section_is_made_anew_under_anything_else() {
        let section = Section::kept(fields(&[("a", "1")]));
        let sent = |setup, says| {
            let made = || fields(&[("a", says)]);
            section.sent(|| under(setup), made)
        };
        assert_eq!(*sent(1, "x"), fields(&[("a", "x")]));
        let again = sent(1, "x");
        assert!(again.is(&sent(1, "x")));
        assert_eq!(*sent(2, "y"), fields(&[("a", "y")]));
        let mut own = sent(2, "y");
        own.to_mut().insert("a", HeaderValue::from_static("z"));
        assert_eq!(*sent(2, "y"), fields(&[("a", "y")]));
    }

    #[test]
    fn no_value_is_told_to_who_prints_a_section() {
        let section = Section::kept(fields(&[("authorization", "Token secret")]));
        section.write(&mut Vec::new());
        assert_eq!(format!("{section:?}"), "[\"authorization\"]");
    }

    #[test]
    fn a_section_is_written_the_same_whether_it_is_kept_or_not() {
        let says = [
            (header::UPGRADE, (true, false, false)),
            (header::CONTENT_LENGTH, (false, true, false)),
            (header::CONNECTION, (false, false, true)),
            (header::TRANSFER_ENCODING, (false, false, true)),
            (header::HOST, (false, false, false)),
        ];
        for (name, (upgrade, length, connection)) in says {
            let mut fields = fields(&[("a", "1"), ("b", "")]);
            fields.append(name, HeaderValue::from_static("x"));
            let (plain, kept) = (Section::from(fields.clone()), Section::kept(fields));
            let (mut one, mut other) = (Vec::new(), Vec::new());
            plain.write(&mut one);
            kept.write(&mut other);
            assert_eq!(one, other);
            assert_eq!(one.len(), plain.length());
            let expected = Says {
                upgrade,
                length,
                connection,
            };
            assert_eq!((plain.says(), kept.says()), (expected, expected));
        }
    }
}
