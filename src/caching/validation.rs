//! Asking the origin whether a stored response is still good, and what its answer does to it. RFC 9111 §4.3.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::message::conditions::CONDITIONS;

/// What a stored response can be asked for by, as its origin wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<HeaderValue>,
    pub last_modified: Option<HeaderValue>,
}

/// §4.3.1: only of a whole success; for an origin looks at conditions only where it would else have one to give
/// (RFC 9110 §13.2.1).
pub fn validators(status: StatusCode, stored: &HeaderMap) -> Option<Validators> {
    let found = Validators {
        etag: stored.get(header::ETAG).cloned(),
        last_modified: stored.get(header::LAST_MODIFIED).cloned(),
    };
    let whole = status.is_success() && status != StatusCode::PARTIAL_CONTENT;
    (whole && found != NONE).then_some(found)
}

const NONE: Validators = Validators {
    etag: None,
    last_modified: None,
};

impl Validators {
    /// In place of the client's own conditions, which are answered from what comes of it. A range is asked for of the whole.
    pub fn put_into(&self, request: &mut HeaderMap) {
        for name in CONDITIONS.iter().chain(&[header::RANGE]) {
            request.remove(name);
        }
        if let Some(etag) = &self.etag {
            request.insert(header::IF_NONE_MATCH, etag.clone());
        }
        if let Some(last_modified) = &self.last_modified {
            request.insert(header::IF_MODIFIED_SINCE, last_modified.clone());
        }
    }
}

/// What describes the stored body itself: §3.2 leaves it alone, whatever a 304 says.
const OF_THE_BODY: [HeaderName; 3] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
];

/// §3.2: the stored fields, each replaced by those of that name which the newer answer (a 304, or a 200 to HEAD) carries.
pub fn freshened(stored: &HeaderMap, newer: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    for name in newer.keys().filter(|name| !OF_THE_BODY.contains(name)) {
        fields.remove(name);
        for value in newer.get_all(name) {
            fields.append(name, value.clone());
        }
    }
    fields
}

/// What the answer to a HEAD says of a stored GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfHead {
    /// It is the same: it may be freshened with the answer's fields.
    Freshens,
    /// It is another: the stored one is stale.
    Contradicts,
    Nothing,
}

/// §4.3.5: by the validators and the length that the answer has; what it has not contradicts nothing.
pub fn of_head(
    stored_status: StatusCode,
    stored: &HeaderMap,
    length: u64,
    status: StatusCode,
    answer: &HeaderMap,
) -> OfHead {
    if stored_status != StatusCode::OK || status != StatusCode::OK {
        return OfHead::Nothing;
    }
    let same_validators = [header::ETAG, header::LAST_MODIFIED].iter().all(|name| {
        answer
            .get(name)
            .is_none_or(|value| stored.get(name) == Some(value))
    });
    let same_length = answer
        .get(header::CONTENT_LENGTH)
        .is_none_or(|said| said.as_bytes() == length.to_string().as_bytes());
    match same_validators && same_length {
        true => OfHead::Freshens,
        false => OfHead::Contradicts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_stored_validators_are_sent_byte_for_byte_in_place_of_the_clients_own() {
        let mut request = map(&[
            ("if-none-match", "\"theirs\""),
            ("if-modified-since", "theirs"),
            ("if-match", "\"x\""),
            ("if-range", "\"x\""),
            ("range", "bytes=0-1"),
            ("accept-language", "de"),
        ]);
        let stored = map(&[
            ("etag", "W/\"b\\\u{e4}d\", x"),
            ("last-modified", "Sun Nov  6 08:49:37 1994"),
        ]);
        validators(StatusCode::OK, &stored)
            .unwrap()
            .put_into(&mut request);
        let expected = map(&[
            ("accept-language", "de"),
            ("if-none-match", "W/\"b\\\u{e4}d\", x"),
            ("if-modified-since", "Sun Nov  6 08:49:37 1994"),
        ]);
        assert_eq!(request, expected);
    }

    #[test]
    fn only_a_whole_success_with_a_validator_can_be_validated() {
        let with = |status, lines: &[(&str, &str)]| {
            validators(StatusCode::from_u16(status).unwrap(), &map(lines)).is_some()
        };
        assert!(with(200, &[("etag", "\"a\"")]));
        assert!(with(203, &[("last-modified", "x")]));
        assert!(!with(200, &[]));
        for status in [206, 301, 404, 503] {
            assert!(!with(status, &[("etag", "\"a\"")]), "{status}");
        }
    }

    #[test]
    fn each_field_that_a_304_carries_replaces_the_stored_one_and_the_others_stay() {
        let stored = map(&[
            ("a", "1"),
            ("a", "2"),
            ("b", "1"),
            ("content-length", "36"),
            ("etag", "\"a\""),
        ]);
        let newer = map(&[
            ("a", "3"),
            ("c", "4"),
            ("c", "5"),
            ("content-length", "0"),
            ("cache-control", "max-age=9"),
        ]);
        let expected = map(&[
            ("a", "3"),
            ("b", "1"),
            ("content-length", "36"),
            ("etag", "\"a\""),
            ("c", "4"),
            ("c", "5"),
            ("cache-control", "max-age=9"),
        ]);
        assert_eq!(freshened(&stored, &newer), expected);
    }

    #[test]
    fn a_head_that_agrees_freshens_and_one_that_contradicts_makes_stale() {
        let stored = map(&[("etag", "\"a\""), ("last-modified", "x")]);
        let say = |status, answer: &[(&str, &str)]| {
            of_head(
                StatusCode::OK,
                &stored,
                36,
                StatusCode::from_u16(status).unwrap(),
                &map(answer),
            )
        };
        for (status, answer, expected) in [
            (200, &[][..], OfHead::Freshens),
            (
                200,
                &[("etag", "\"a\""), ("content-length", "36")],
                OfHead::Freshens,
            ),
            (200, &[("content-length", "37")], OfHead::Contradicts),
            (200, &[("etag", "\"b\"")], OfHead::Contradicts),
            (200, &[("etag", "W/\"a\"")], OfHead::Contradicts),
            (200, &[("last-modified", "y")], OfHead::Contradicts),
            (410, &[("etag", "\"b\"")], OfHead::Nothing),
            (304, &[], OfHead::Nothing),
            (503, &[], OfHead::Nothing),
        ] {
            assert_eq!(say(status, answer), expected, "{status} {answer:?}");
        }
        let of_404 = of_head(
            StatusCode::NOT_FOUND,
            &stored,
            36,
            StatusCode::OK,
            &map(&[]),
        );
        assert_eq!(of_404, OfHead::Nothing);
    }

    proptest! {
        #[test]
        fn a_304_never_changes_the_bodys_description(
            stored in proptest::collection::vec(("content-length|content-encoding|content-range|etag|x", "[a-c]{0,3}"), 0..6),
            newer in proptest::collection::vec(("content-length|content-encoding|content-range|etag|x", "[a-c]{0,3}"), 0..6),
        ) {
            let own = |lines: &[(String, String)]| map(&lines.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
            let (stored, newer) = (own(&stored), own(&newer));
            let fields = freshened(&stored, &newer);
            for name in OF_THE_BODY {
                let lines = |of: &HeaderMap| of.get_all(&name).iter().cloned().collect::<Vec<_>>();
                prop_assert_eq!(lines(&fields), lines(&stored));
            }
            for name in newer.keys().filter(|name| !OF_THE_BODY.contains(name)) {
                prop_assert_eq!(fields.get_all(name).iter().collect::<Vec<_>>(), newer.get_all(name).iter().collect::<Vec<_>>());
            }
        }
    }
}
