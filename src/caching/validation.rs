//! Asking the origin whether a stored response is still good, and freshening it by a 304. RFC 9111 §4.3.

use http::header::{self, HeaderMap, HeaderName};

/// §3.2: what of the stored response describes its body, and no 304 may change.
const OF_THE_BODY: [HeaderName; 4] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
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

#[cfg(test)]
mod tests {
    use super::*;

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
            ("content-type", "application/json"),
            ("content-length", "3"),
            ("content-encoding", "identity"),
            ("x-kept", "1"),
            ("warning", "c"),
            ("cache-control", "max-age=9"),
        ]);
        assert_eq!(freshened(&stored, &answer), expected);
    }
}
