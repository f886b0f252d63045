//! The segment of a path that names one of many, and whether a pattern takes any other in its place as it takes this one.

use std::ops::Range;

use super::path::PathPattern;
use super::segment::Segment;
use super::sets::{DIGITS, Set, UUID_LENGTH, in_set, set, uuid_set};

/// What names one of many, by its looks alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// Up to 18 digits.
    Number,
    Uuid,
}

/// A longer number is none.
pub const MOST_DIGITS: usize = 18;

impl Id {
    /// Of a whole segment. What begins like a number with a leading zero is none: it may be read as another.
    pub fn of(segment: &[u8]) -> Option<Id> {
        match segment {
            [] | [b'0', b'0'..=b'9', ..] => None,
            _ if segment.len() == UUID_LENGTH => {
                let mut bytes = segment.iter().enumerate();
                let is_one = bytes.all(|(at, &byte)| in_set(uuid_set(at), byte));
                is_one.then_some(Id::Uuid)
            }
            _ if segment.len() <= MOST_DIGITS => {
                let is_one = segment.iter().all(u8::is_ascii_digit);
                is_one.then_some(Id::Number)
            }
            _ => None,
        }
    }

    /// The bytes of which it consists.
    fn set(self) -> Set {
        match self {
            Id::Number => DIGITS,
            Id::Uuid => set(b"0123456789abcdef-"),
        }
    }

    /// Whether some of its kind hold this text; in doubt they do.
    fn may_hold(self, text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|byte| in_set(self.set(), byte))
    }
}

/// The last segment of a path that names one of many, and where it stands. The path ends with `text`, or before a blank, a `?`
/// or a `#`.
pub fn last_id(text: &[u8]) -> Option<(Id, Range<usize>)> {
    let mut end = memchr::memchr3(b' ', b'?', b'#', text).unwrap_or(text.len());
    loop {
        let slash = text[..end].iter().rposition(|byte| *byte == b'/')?;
        if let Some(id) = Id::of(&text[slash + 1..end]) {
            return Some((id, slash + 1..end));
        }
        end = slash;
    }
}

impl PathPattern {
    /// Whether all ids of this kind in the place of that segment, counted from 0, make paths that this pattern matches, or
    /// none of them does. May say no where they do; never yes where they do not.
    pub fn takes_alike(&self, id: Id, path: &str, place: usize) -> bool {
        let count = path.split('/').count() - 1;
        let segment = match &self.rest {
            None => self.front.get(place),
            Some(rest) => match self.front.get(place) {
                Some(segment) => Some(segment),
                None => {
                    let behind = count.saturating_sub(place + 1);
                    let from_the_end = rest.back.len().checked_sub(behind + 1);
                    Some(from_the_end.map_or(&rest.segment, |at| &rest.back[at]))
                }
            },
        };
        segment.is_none_or(|segment| segment.takes_alike(id))
    }
}

impl Segment {
    /// A converter takes all of a kind, or none. Only literals tell one from another, and only those that it may hold.
    fn takes_alike(&self, id: Id) -> bool {
        let [before, after] = [&self.before.decoded, &self.after.decoded];
        match self.capture {
            None => !id.may_hold(before),
            Some(_) if before.is_empty() && after.is_empty() => true,
            Some(_) => [before, after]
                .iter()
                .any(|literal| !literal.is_empty() && !id.may_hold(literal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_a_number_or_a_uuid_in_the_one_spelling_that_may_be_looked_up() {
        for number in ["0", "7", "10", "999999999999999999"] {
            assert_eq!(Id::of(number.as_bytes()), Some(Id::Number), "{number}");
        }
        let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        assert_eq!(Id::of(uuid.as_bytes()), Some(Id::Uuid));
        for none in [
            "",
            "07",
            "00",
            "+7",
            "-7",
            "%37",
            "7a",
            "7.0",
            "1000000000000000000",
            "01111111-7dec-11d0-a765-00a0c91e6bf6",
            &uuid.to_uppercase(),
            &uuid.replace('-', "a"),
        ] {
            assert_eq!(Id::of(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn the_last_id_of_a_path_is_found_and_none_behind_the_path() {
        let found = |text: &str| last_id(text.as_bytes()).map(|(_, at)| text[at].to_owned());
        for (text, expected) in [
            ("/api/users/7/ HTTP/1.1\r\n", Some("7")),
            ("/api/users/7 HTTP/1.1\r\nHost: /9/", Some("7")),
            ("/teams/1/users/22/?page=3", Some("22")),
            ("/teams/1/users/?/3/", Some("1")),
            ("/users/#/3/", None),
            ("/v1/users/me/", None),
            ("/users/7;a/", None),
            ("/users/%37/", None),
        ] {
            assert_eq!(found(text).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn where_a_pattern_takes_all_alike_none_makes_a_difference(
            pattern in "(/(api|v1|7|12|a7|<int:a>|<b>|<slug:c>|1<int:d>|<e>2|u-<f>|<path:g>|<uuid:h>)){1,4}/?",
            before in "(/(api|v1|7|12|u-1)){0,3}",
            behind in "(/(api|v1|7|12|a2)){0,2}/?",
            ids in prop_oneof![
                proptest::collection::vec("0|[1-9][0-9]{0,3}|7|12", 2..6),
                proptest::collection::vec("[1-9a-f][0-9a-f]{7}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", 2..6),
            ],
        ) {
            let Ok(pattern) = PathPattern::parse(&pattern) else {
                return Ok(());
            };
            let of = |id: &String| format!("{before}/{id}{behind}");
            let place = before.matches('/').count();
            let kind = Id::of(ids[0].as_bytes()).unwrap();
            if pattern.takes_alike(kind, &of(&ids[0]), place) {
                let taken = |id| pattern.match_canonical(&of(id)).is_some();
                prop_assert!(ids.iter().all(|id| taken(id) == taken(&ids[0])), "{:?} {}", pattern, of(&ids[0]));
            }
        }
    }
}
