//! Asking the origin whether a stored response is still good, and what its answer does to it. RFC 9111 §4.3.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};

use super::variance;

/// §3.2: what of the stored response describes its body, and no 304 may change.
const OF_THE_BODY: [HeaderName; 3] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
];

/// §4.3.1: the conditions under which the origin may answer 304 for a stored response with `stored` fields: its
/// own tag byte for byte, and its Last-Modified verbatim. Whether there are any.
pub fn condition(stored: &HeaderMap, sent: &mut HeaderMap) -> bool {
    let mut any = false;
    for (validator, condition) in [
        (header::ETAG, header::IF_NONE_MATCH),
        (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE),
    ] {
        if let Some(value) = stored.get(validator) {
            sent.insert(condition, value.clone());
            any = true;
        }
    }
    any
}

/// §3.2, §4.3.4: the stored fields with every one that the 304 carries in its place, but for those that describe
/// the stored body. Without a Date of the 304 there is none: the stored one is of another exchange.
pub fn freshened(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    fields.remove(header::DATE);
    for name in not_modified.keys() {
        if OF_THE_BODY.contains(name) {
            continue;
        }
        fields.remove(name);
        for value in not_modified.get_all(name) {
            fields.append(name, value.clone());
        }
    }
    fields
}

/// §4.3.1: only of a whole success; for an origin looks at conditions only where it would else have one to give
/// (RFC 9110 §13.2.1).
pub fn can_be_validated(status: StatusCode, stored: &HeaderMap) -> bool {
    let whole = status.is_success() && status != StatusCode::PARTIAL_CONTENT;
    whole && (stored.contains_key(header::ETAG) || stored.contains_key(header::LAST_MODIFIED))
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

/// §4.3.5: by the validators, the length and the Vary that the answer has; what it has not contradicts nothing. What varies by
/// something else may be of another request than the stored one was for.
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
    let varies_alike = !answer.contains_key(header::VARY)
        || variance::nominated(answer) == variance::nominated(stored);
    match same_validators && same_length && varies_alike {
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
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_origin_is_asked_with_its_own_validators_verbatim() {
        let asked = |stored: &[(&str, &str)]| {
            let mut sent = HeaderMap::new();
            let any = condition(&map(stored), &mut sent);
            assert_eq!(any, !sent.is_empty());
            sent
        };
        assert_eq!(asked(&[("etag", "W/\"a\"")])["if-none-match"], "W/\"a\"");
        let modified = "Sunday, 06-Nov-94 08:49:37 GMT";
        assert_eq!(
            asked(&[("last-modified", modified)])["if-modified-since"],
            modified
        );
        assert!(asked(&[("date", modified)]).is_empty());
    }

    #[test]
    fn a_304_replaces_what_it_carries_and_never_what_describes_the_body() {
        let stored = map(&[
            ("content-type", "application/json"),
            ("content-length", "3"),
            ("content-encoding", "identity"),
            ("x-kept", "1"),
            ("warning", "a"),
            ("warning", "b"),
        ]);
        let answer = map(&[
            ("content-type", "text/plain"),
            ("content-length", "0"),
            ("content-encoding", "gzip"),
            ("warning", "c"),
            ("cache-control", "max-age=9"),
        ]);
        let expected = map(&[
            ("content-type", "text/plain"),
            ("content-length", "3"),
            ("content-encoding", "identity"),
            ("x-kept", "1"),
            ("warning", "c"),
            ("cache-control", "max-age=9"),
        ]);
        assert_eq!(freshened(&stored, &answer), expected);
    }

    #[test]
    fn only_a_whole_success_with_a_validator_can_be_validated() {
        let with = |status, lines: &[(&str, &str)]| {
            can_be_validated(StatusCode::from_u16(status).unwrap(), &map(lines))
        };
        assert!(with(200, &[("etag", "\"a\"")]));
        assert!(with(203, &[("last-modified", "x")]));
        assert!(!with(200, &[]));
        for status in [206, 301, 404, 503] {
            assert!(!with(status, &[("etag", "\"a\"")]), "{status}");
        }
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
            (200, &[("vary", "Foo")], OfHead::Contradicts),
            (410, &[("etag", "\"b\"")], OfHead::Nothing),
            (304, &[], OfHead::Nothing),
            (503, &[], OfHead::Nothing),
        ] {
            assert_eq!(say(status, answer), expected, "{status} {answer:?}");
        }
        let varied = map(&[("vary", "Foo, bar")]);
        for (said, expected) in [
            (&[][..], OfHead::Freshens),
            (&[("vary", "BAR"), ("vary", "foo")], OfHead::Freshens),
            (&[("vary", "foo")], OfHead::Contradicts),
            (&[("vary", "*")], OfHead::Contradicts),
        ] {
            let ok = StatusCode::OK;
            assert_eq!(
                of_head(ok, &varied, 36, ok, &map(said)),
                expected,
                "{said:?}"
            );
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
