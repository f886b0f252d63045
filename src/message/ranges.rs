//! A part of a representation that is here as a whole: Range, If-Range, Content-Range. RFC 9110 §14 and §13.1.5.

use std::ops::Range;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::date;
use crate::clock::Timestamp;

/// What a request's Range comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranged {
    /// None was asked for, or none that is answered with a part: all of it is sent.
    All,
    Part(Range<usize>),
    Unsatisfiable,
}

/// Fields that a 416 in the place of a 200 repeats: none of them is about the content.
const OF_A_416: [HeaderName; 5] = [
    header::DATE,
    header::VARY,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// Fields that speak of the bytes of the message itself, and so not of a part of it.
const OF_THE_WHOLE: [HeaderName; 3] = [
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
];

/// How long before its Date a Last-Modified must be to be a strong validator, whichever clocks they are of (§8.8.2.2).
const STRONG_AFTER: Duration = Duration::from_secs(60);

/// For a GET of a 200 with these fields and so many bytes.
pub fn ranged(request: &HeaderMap, fields: &HeaderMap, length: usize) -> Ranged {
    let mut lines = request.get_all(header::RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(range), None) if may_be_continued(request, fields) => part(range, length),
        _ => Ranged::All,
    }
}

/// §14.1.2, of one range; of several, as of what cannot be read, all is sent: §14.2 lets a server ignore it.
fn part(range: &HeaderValue, length: usize) -> Ranged {
    let set = range.to_str().ok().and_then(|range| range.split_once('='));
    let Some((unit, set)) = set else {
        return Ranged::All;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Ranged::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ranged::All;
    }
    match (first, number(first), last, number(last)) {
        ("", _, _, Some(0)) => Ranged::Unsatisfiable,
        // Of nothing there is no last byte that a Content-Range could name.
        ("", _, _, Some(_)) if length == 0 => Ranged::All,
        ("", _, _, Some(suffix)) => Ranged::Part(length.saturating_sub(suffix)..length),
        (_, Some(first), _, Some(last)) if last < first => Ranged::All,
        (_, Some(first), "", _) | (_, Some(first), _, Some(_)) if first >= length => {
            Ranged::Unsatisfiable
        }
        (_, Some(first), "", _) => Ranged::Part(first..length),
        (_, Some(first), _, Some(last)) => Ranged::Part(first..last.saturating_add(1).min(length)),
        _ => Ranged::All,
    }
}

/// Digits only; what is too large for us is larger than any content.
fn number(digits: &str) -> Option<usize> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(usize::MAX))
}

/// §13.1.5: what the client has a part of is what is here, to the byte.
fn may_be_continued(request: &HeaderMap, fields: &HeaderMap) -> bool {
    let mut lines = request.get_all(header::IF_RANGE).iter();
    let validator = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(validator), None) => validator,
        (Some(_), Some(_)) => return false,
    };
    let tag = validator.as_bytes().trim_ascii();
    if tag.starts_with(b"\"") {
        // Strong comparison: a weak tag begins otherwise on both sides.
        return fields
            .get(header::ETAG)
            .is_some_and(|stored| stored.as_bytes().trim_ascii() == tag);
    }
    // A year of two digits is one near the time the response is of.
    let sent = date::of(fields, &header::DATE, Timestamp::default());
    let around = sent.unwrap_or_default();
    match (
        date::parse(validator.as_bytes(), around),
        date::of(fields, &header::LAST_MODIFIED, around),
        sent,
    ) {
        (Some(validator), Some(modified), Some(sent)) => {
            validator == modified && modified.plus(STRONG_AFTER) <= sent
        }
        _ => false,
    }
}

/// Makes the fields of a 200 those of its 206.
pub fn of_a_206(fields: &mut HeaderMap, part: &Range<usize>, length: usize) {
    for name in &OF_THE_WHOLE {
        fields.remove(name);
    }
    let range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
    fields.insert(header::CONTENT_RANGE, value(range));
}

/// The fields of a 416 in place of a 200; with those that `also` names.
pub fn of_a_416(fields: &HeaderMap, also: &[HeaderName], length: usize) -> HeaderMap {
    let mut repeated = HeaderMap::new();
    for name in OF_A_416.iter().chain(also) {
        for value in fields.get_all(name) {
            repeated.append(name, value.clone());
        }
    }
    repeated.insert(header::CONTENT_RANGE, value(format!("bytes */{length}")));
    repeated
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("a Content-Range is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn of(range: &str, length: usize) -> Ranged {
        ranged(&map(&[(header::RANGE, range)]), &HeaderMap::new(), length)
    }

    #[test]
    fn a_single_range_is_a_part() {
        for (range, length, expected, sentence) in [
            ("bytes=0-499", 1000, 0..500, "the first 500 bytes"),
            ("bytes=500-999", 1000, 500..1000, "the second 500 bytes"),
            ("bytes=-500", 1000, 500..1000, "the final 500 bytes"),
            ("bytes=500-", 1000, 500..1000, "from an offset to the end"),
            ("bytes=0-0", 1000, 0..1, "the first byte only"),
            ("bytes=-1", 1000, 999..1000, "the last byte only"),
            (
                "bytes=900-2000",
                1000,
                900..1000,
                "a last-pos beyond the end is the end",
            ),
            (
                "bytes=-2000",
                1000,
                0..1000,
                "a suffix longer than all is all",
            ),
            ("Bytes=0-0", 1000, 0..1, "range units are case-insensitive"),
            (
                "bytes=1-99999999999999999999999",
                2,
                1..2,
                "any number of digits is a number",
            ),
        ] {
            assert_eq!(of(range, length), Ranged::Part(expected), "{sentence}");
        }
    }

    #[test]
    fn what_has_no_byte_of_it_cannot_be_satisfied() {
        for (range, length, sentence) in [
            ("bytes=1000-", 1000, "a first-pos at the current length"),
            ("bytes=1000-1001", 1000, "or beyond it"),
            ("bytes=99999999999999999999999-", 1000, "or far beyond it"),
            ("bytes=-0", 1000, "a suffix of no bytes"),
            ("bytes=0-", 0, "nothing has no first byte"),
        ] {
            assert_eq!(of(range, length), Ranged::Unsatisfiable, "{sentence}");
        }
    }

    #[test]
    fn whatever_else_it_is_all_is_sent() {
        for (range, length, sentence) in [
            ("bytes=0-0,-1", 1000, "several ranges"),
            ("items=0-4", 1000, "a unit that is not understood"),
            (
                "bytes=5-4",
                1000,
                "an invalid range: it ends before it begins",
            ),
            ("bytes=-", 1000, "neither first nor last"),
            ("bytes=", 1000, "no range at all"),
            ("bytes", 1000, "no set"),
            ("bytes=a-b", 1000, "no numbers"),
            ("bytes=+1-2", 1000, "a sign is no digit"),
            ("bytes=1-2-3", 1000, "more than a range"),
            ("bytes=--1", 1000, "no number at the end"),
            ("bytes=1-b", 1000, "a last-pos that is none"),
            ("bytes=-5", 0, "a suffix of nothing"),
        ] {
            assert_eq!(of(range, length), Ranged::All, "{sentence}");
        }
        let twice = map(&[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=2-3")]);
        assert_eq!(ranged(&twice, &HeaderMap::new(), 9), Ranged::All);
        assert_eq!(
            ranged(&HeaderMap::new(), &HeaderMap::new(), 9),
            Ranged::All,
            "no Range"
        );
    }

    #[test]
    fn if_range_needs_the_same_strong_validator() {
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        let stored = |etag: &str, date: &str| {
            map(&[
                (header::ETAG, etag),
                (header::LAST_MODIFIED, modified),
                (header::DATE, date),
            ])
        };
        let (later, at_once) = (
            "Sun, 06 Nov 1994 08:50:37 GMT",
            "Sun, 06 Nov 1994 08:50:36 GMT",
        );
        for (if_range, stored, continued, sentence) in [
            ("\"a\"", stored("\"a\"", later), true, "the same strong tag"),
            ("\"b\"", stored("\"a\"", later), false, "another tag"),
            (
                "W/\"a\"",
                stored("W/\"a\"", later),
                false,
                "a weak tag never",
            ),
            (
                "\"a\"",
                stored("W/\"a\"", later),
                false,
                "one of the two weak",
            ),
            (
                modified,
                stored("\"a\"", later),
                true,
                "the exact date, strong by its age",
            ),
            (
                modified,
                stored("\"a\"", at_once),
                false,
                "a date that may hide a second change",
            ),
            (
                later,
                stored("\"a\"", later),
                false,
                "a later date is not the exact one",
            ),
            ("a", stored("a", later), false, "neither tag nor date"),
            ("\"a\"", map(&[]), false, "no validator here"),
            (
                modified,
                map(&[(header::DATE, later)]),
                false,
                "no date here",
            ),
        ] {
            let request = map(&[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, if_range)]);
            let expected = match continued {
                true => Ranged::Part(0..1),
                false => Ranged::All,
            };
            assert_eq!(ranged(&request, &stored, 9), expected, "{sentence}");
        }
        let without_range = map(&[(header::IF_RANGE, "\"a\"")]);
        assert_eq!(
            ranged(&without_range, &stored("\"a\"", later), 9),
            Ranged::All,
            "If-Range without Range is ignored"
        );
    }

    #[test]
    fn a_206_says_which_part_and_nothing_that_only_the_whole_is() {
        let mut fields = map(&[
            (header::ETAG, "\"a\""),
            (header::CONTENT_LENGTH, "10"),
            (header::CONTENT_RANGE, "odd"),
            (OF_THE_WHOLE[1].clone(), "x"),
            (OF_THE_WHOLE[2].clone(), "x"),
        ]);
        of_a_206(&mut fields, &(2..5), 10);
        let expected = map(&[
            (header::ETAG, "\"a\""),
            (header::CONTENT_RANGE, "bytes 2-4/10"),
        ]);
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_416_says_how_long_it_is_and_nothing_of_the_content() {
        let fields = map(&[
            (header::CONTENT_TYPE, "a/b"),
            (header::ETAG, "\"a\""),
            (header::CACHE_CONTROL, "max-age=9"),
            (header::VARY, "Accept"),
            (header::AGE, "1"),
        ]);
        let expected = map(&[
            (header::VARY, "Accept"),
            (header::AGE, "1"),
            (header::CONTENT_RANGE, "bytes */10"),
        ]);
        assert_eq!(of_a_416(&fields, &[header::AGE], 10), expected);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_beyond_the_end(range in "(bytes=)?[0-9 ,=-]{0,24}", length in 0usize..40) {
            if let Ranged::Part(part) = of(&range, length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
