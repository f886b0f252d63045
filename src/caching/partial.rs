//! Parts of a representation: what a stored 206 answers, and how it is completed. RFC 9110 §14, §15.3.7; RFC 9111 §3.3, §3.4.
//! (A part of what is here as a whole is `message::ranges`' to give.)

use std::ops::Range;

use http::header::{self, HeaderMap, HeaderValue};

/// Where the content of a 206 lies in the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: u64,
    pub last: u64,
    pub whole: Option<u64>,
}

impl Part {
    /// §14.4: one `bytes first-last/whole`; several parts in one message are none.
    pub fn of(fields: &HeaderMap) -> Option<Part> {
        let mut lines = fields.get_all(header::CONTENT_RANGE).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return None;
        };
        let range = line.to_str().ok()?.trim().strip_prefix("bytes ")?;
        let (span, whole) = range.trim().split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let part = Part {
            first: number(first)?,
            last: number(last)?,
            whole: match whole {
                "*" => None,
                whole => Some(number(whole)?),
            },
        };
        let in_order = part.first <= part.last && part.whole.is_none_or(|whole| part.last < whole);
        in_order.then_some(part)
    }

    fn is_the_end(&self) -> bool {
        self.whole.is_some_and(|whole| self.last + 1 == whole)
    }

    fn is_complete(&self) -> bool {
        self.first == 0 && self.is_the_end()
    }

    /// What of the part's `length` bytes a request's Range asks for, and the Content-Range of the answer. `None`: something
    /// that is not in the part, or not known to be. A part that ends where the whole ends is counted from its end, too.
    pub fn cut(&self, length: usize, range: &HeaderValue) -> Option<(Range<usize>, HeaderValue)> {
        let set = range.to_str().ok()?.trim().strip_prefix("bytes=")?;
        let (first, last) = set.trim().split_once('-')?;
        let span = match (first, last) {
            ("", suffix) if self.is_the_end() => {
                let suffix = usize::try_from(number(suffix)?).ok()?;
                length.checked_sub(suffix)?..length
            }
            ("", _) => return None,
            (first, "") if self.is_the_end() => self.offset(number(first)?)?..length,
            (_, "") => return None,
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                let last = match self.whole {
                    Some(whole) => last.min(whole - 1),
                    None => last,
                };
                if last > self.last {
                    return None;
                }
                self.offset(first)?..self.offset(last)?.saturating_add(1).min(length)
            }
        };
        if span.is_empty() || span.end > length {
            return None;
        }
        let begins = match first {
            "" => self.last + 1 - span.len() as u64,
            _ => self.first + span.start as u64,
        };
        let ends = begins + span.len() as u64 - 1;
        let whole = self
            .whole
            .map_or_else(|| "*".to_owned(), |whole| whole.to_string());
        let said = HeaderValue::try_from(format!("bytes {begins}-{ends}/{whole}")).ok()?;
        Some((span, said))
    }

    fn offset(&self, position: u64) -> Option<usize> {
        usize::try_from(position.checked_sub(self.first)?).ok()
    }

    /// The range that completes a part from the beginning.
    pub fn rest(&self) -> Option<HeaderValue> {
        let begun = self.first == 0 && !self.is_complete();
        begun
            .then(|| HeaderValue::try_from(format!("bytes={}-", self.last + 1)).ok())
            .flatten()
    }

    /// RFC 9110 §15.3.7.3: whether `next`, in the answer with `fields`, is the rest of this one: it begins where this one ends,
    /// goes to the end, and has the same strong validator.
    pub fn is_completed_by(&self, stored: &HeaderMap, next: &Part, fields: &HeaderMap) -> bool {
        let strong = |fields: &HeaderMap| {
            fields
                .get(header::ETAG)
                .filter(|tag| tag.as_bytes().starts_with(b"\""))
                .cloned()
        };
        let same = strong(stored).is_some_and(|tag| strong(fields) == Some(tag));
        let one_whole = self.whole.is_none_or(|whole| next.whole == Some(whole));
        same && one_whole && self.first == 0 && self.last + 1 == next.first && next.is_the_end()
    }
}

/// Below 2^63, so that there is always one more.
fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = all.then(|| digits.parse().ok()).flatten()?;
    u64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(header::HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.clone(), v.parse().unwrap()))
            .collect()
    }

    fn part(range: &str) -> Option<Part> {
        Part::of(&map(&[(header::CONTENT_RANGE, range)]))
    }

    #[test]
    fn a_content_range_is_understood_to_the_letter() {
        assert_eq!(
            part("bytes 4-9/10"),
            Some(Part {
                first: 4,
                last: 9,
                whole: Some(10)
            })
        );
        assert_eq!(
            part("bytes 4-9/*"),
            Some(Part {
                first: 4,
                last: 9,
                whole: None
            })
        );
        for range in [
            "",
            "bytes */10",
            "bytes 9-4/10",
            "bytes 4-10/10",
            "bytes=4-9/10",
            "items 4-9/10",
            "bytes 4-9",
            "bytes +4-9/10",
        ] {
            assert_eq!(part(range), None, "{range}");
        }
        let twice = map(&[
            (header::CONTENT_RANGE, "bytes 4-9/10"),
            (header::CONTENT_RANGE, "bytes 4-9/10"),
        ]);
        assert_eq!(Part::of(&twice), None);
    }

    #[test]
    fn a_content_range_up_to_the_last_of_all_numbers_is_none() {
        for last in ["18446744073709551615", "9223372036854775808"] {
            assert_eq!(part(&format!("bytes 0-{last}/*")), None);
        }
        let largest = part("bytes 0-9223372036854775807/*").unwrap();
        assert_eq!(largest.rest().unwrap(), "bytes=9223372036854775808-");
    }

    #[test]
    fn a_stored_part_answers_what_it_covers() {
        let (end, middle) = (part("bytes 5-9/10").unwrap(), part("bytes 2-6/10").unwrap());
        for (of, range, expected) in [
            (end, "bytes=-5", Some((0..5, "bytes 5-9/10"))),
            (end, "bytes=-1", Some((4..5, "bytes 9-9/10"))),
            (end, "bytes=6-8", Some((1..4, "bytes 6-8/10"))),
            (end, "bytes=6-", Some((1..5, "bytes 6-9/10"))),
            (end, "bytes=6-99", Some((1..5, "bytes 6-9/10"))),
            (end, "bytes=-6", None),
            (end, "bytes=4-", None),
            (end, "bytes=4-8", None),
            (end, "bytes=10-", None),
            (end, "bytes=6-7,9-", None),
            (end, "items=6-7", None),
            (middle, "bytes=2-6", Some((0..5, "bytes 2-6/10"))),
            (middle, "bytes=3-4", Some((1..3, "bytes 3-4/10"))),
            (middle, "bytes=3-7", None),
            (middle, "bytes=3-", None),
            (middle, "bytes=-1", None),
        ] {
            let cut = of.cut(5, &range.parse().unwrap());
            let expected = expected.map(|(span, said)| (span, said.parse().unwrap()));
            assert_eq!(cut, expected, "{range}");
        }
    }

    #[test]
    fn a_part_from_the_beginning_is_completed_by_the_rest_of_the_same_representation() {
        let begun = part("bytes 0-4/10").unwrap();
        assert_eq!(begun.rest(), Some("bytes=5-".parse().unwrap()));
        assert_eq!(
            part("bytes 0-9/10").unwrap().rest(),
            None,
            "it is all there"
        );
        assert_eq!(part("bytes 1-4/10").unwrap().rest(), None);
        let (one, other) = (
            map(&[(header::ETAG, "\"a\"")]),
            map(&[(header::ETAG, "\"b\"")]),
        );
        let weak = map(&[(header::ETAG, "W/\"a\"")]);
        let rest = part("bytes 5-9/10").unwrap();
        assert!(begun.is_completed_by(&one, &rest, &one));
        assert!(!begun.is_completed_by(&one, &rest, &other));
        assert!(
            !begun.is_completed_by(&weak, &rest, &weak),
            "a weak validator is none here"
        );
        assert!(!begun.is_completed_by(&map(&[]), &rest, &map(&[])));
        assert!(!begun.is_completed_by(&one, &part("bytes 6-9/10").unwrap(), &one));
        assert!(!begun.is_completed_by(&one, &part("bytes 5-9/11").unwrap(), &one));
        assert!(!begun.is_completed_by(&one, &part("bytes 5-8/10").unwrap(), &one));
    }
}
