//! Heads of HTTP/1.1 as they go over the wire: those that every reader must read alike, and none other. RFC 9112 §2 to §5.
//! Whatever is not read here is hyper's to read, or to refuse.

use std::cell::RefCell;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem::Finder;

/// Where the first empty line behind another ends.
pub fn blank(read: &[u8]) -> Option<usize> {
    static BLANK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
    BLANK.find(read).map(|at| at + 4)
}

/// How long the head is that these bytes begin with, if it is strict.
pub fn end(read: &[u8]) -> Option<usize> {
    blank(read).filter(|end| is_strict(&read[..*end]))
}

/// Whether the lines of a head end in CRLF, nothing else is a line's end, and the first is not empty.
pub fn is_strict(head: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &head[at..]) {
        at += found;
        if head.get(at..at + 2) != Some(b"\r\n") || at == 0 {
            return false;
        }
        at += 2;
    }
    true
}

/// Fields that were found in `head`, whose bytes they share. `None`: one of them is none.
pub fn fields(found: &[httparse::Header<'_>], head: &Bytes) -> Option<HeaderMap> {
    NAMES.with_borrow_mut(|names| {
        let mut fields = HeaderMap::with_capacity(found.len());
        for field in found {
            let name = names.find(field.name)?;
            let value = match field.value {
                [] => Bytes::new(),
                value => head.slice_ref(value),
            };
            let value = HeaderValue::from_maybe_shared(value).ok()?;
            fields.try_append(name, value).ok()?;
        }
        Some(fields)
    })
}

/// The same fields, without the bytes of all that was read, which their values share.
pub fn compact(fields: &HeaderMap) -> Option<HeaderMap> {
    let mut compact = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        compact.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(compact)
}

thread_local! {
    static NAMES: RefCell<Names> = const { RefCell::new(Names([const { None }; 64])) };
}

/// Names as they were last read on this thread, each in its place: one head is much like the next, and to compare a name costs
/// less than to read it.
struct Names([Option<(Box<str>, HeaderName)>; 64]);

impl Names {
    fn find(&mut self, spelt: &str) -> Option<HeaderName> {
        let text = spelt.as_bytes();
        // Numbers by which the usual names have places of their own.
        let place = match text {
            [first, .., last] => usize::from(*first) + 55 * usize::from(*last) + 17 * text.len(),
            _ => 0,
        };
        let known = &mut self.0[place % 64];
        if let Some((as_then, name)) = known
            && **as_then == *spelt
        {
            return Some(name.clone());
        }
        let name = HeaderName::from_bytes(text).ok()?;
        if text.len() <= LONGEST {
            *known = Some((spelt.into(), name.clone()));
        }
        Some(name)
    }
}

/// A longer name is hardly one that comes again.
const LONGEST: usize = 64;

/// Each on a line of its own.
pub fn write_fields(fields: &HeaderMap, into: &mut Vec<u8>) {
    for (name, value) in fields {
        write_field(name.as_str(), value.as_bytes(), into);
    }
}

pub fn write_field(name: &str, value: &[u8], into: &mut Vec<u8>) {
    into.reserve(name.len() + value.len() + 4);
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_if_no_other_end_of_a_line_is_in_it() {
        for (read, ends) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(27)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nmore\n", Some(27)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", None),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", None),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ] {
            assert_eq!(end(read.as_bytes()), ends, "{read:?}");
        }
    }

    #[test]
    fn a_name_that_was_read_before_is_what_it_would_be_if_read_anew() {
        let mut names = Names([const { None }; 64]);
        let long = "x".repeat(LONGEST + 1);
        let all = [
            "Date", "date", "DATE", "X-A", "x-a", "X-B", "a", "", "b c", &long,
        ];
        for _ in 0..3 {
            for spelt in all {
                let anew = HeaderName::from_bytes(spelt.as_bytes()).ok();
                assert_eq!(names.find(spelt), anew, "{spelt:?}");
            }
        }
    }

    #[test]
    fn fields_are_read_and_written_in_their_order_and_share_their_bytes() {
        let head = Bytes::from_static(b"Via: a\r\nX-Empty:  \r\nvia: \xe9\r\n\r\n");
        let mut found = [httparse::EMPTY_HEADER; 4];
        let httparse::Status::Complete((_, found)) =
            httparse::parse_headers(&head, &mut found).unwrap()
        else {
            panic!("not all of it");
        };
        let fields = fields(found, &head).unwrap();
        let via: Vec<&[u8]> = fields.get_all("via").iter().map(|v| v.as_bytes()).collect();
        assert_eq!(via, [&b"a"[..], b"\xe9"]);
        assert_eq!(fields["x-empty"], "");
        let mut written = Vec::new();
        write_fields(&fields, &mut written);
        assert_eq!(written, b"via: a\r\nvia: \xe9\r\nx-empty: \r\n");
    }
}
