//! Is the client's copy still good? If-None-Match and If-Modified-Since. RFC 9110 §13.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::date;
use crate::clock::Timestamp;

/// The conditions of a request; a fill is sent without them, or a poller would be told 304 and nothing stored.
pub static CONDITIONS: [HeaderName; 5] = [
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// The fields of a 200 that a 304 in its place repeats (RFC 9110 §15.4.5), and those by which a browser decides who may read it:
/// it looks for them in the 304 itself.
static OF_A_304: [HeaderName; 11] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::VARY,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("timing-allow-origin"),
];

/// What of the fields of a 200 stands in a 304; with those that `also` names.
pub fn of_a_304(fields: &HeaderMap, also: &[HeaderName]) -> HeaderMap {
    let mut repeated = HeaderMap::new();
    for name in OF_A_304.iter().chain(also) {
        for value in fields.get_all(name) {
            repeated.append(name, value.clone());
        }
    }
    repeated
}

/// A weak validator of an answer that came without one: the same for the same body, whenever and wherever it is made.
/// Weak, as it says nothing of the other fields.
pub fn tag_of(body: &[u8]) -> HeaderValue {
    let hash = blake3::hash(body).to_hex();
    HeaderValue::try_from(format!("W/\"{}\"", &hash[..32])).expect("hex digits are a tag")
}

/// Whether the request has any.
pub fn are_any_in(request: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| request.contains_key(name))
}

/// Whether the request has a condition that `not_modified` looks at.
pub fn are_in(request: &HeaderMap) -> bool {
    request.contains_key(header::IF_NONE_MATCH) || request.contains_key(header::IF_MODIFIED_SINCE)
}

/// Whether a stored 200 with `stored` fields lets a GET or HEAD be answered 304.
pub fn not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(header::IF_NONE_MATCH) {
        // §13.1.3: with If-None-Match present, If-Modified-Since is ignored.
        return none_match_fails(request, stored.get(header::ETAG));
    }
    // A year of two digits is one near the time the response is of.
    let around = date::of(stored, &header::DATE, Timestamp::default()).unwrap_or_default();
    match (
        date::of(request, &header::IF_MODIFIED_SINCE, around),
        date::of(stored, &header::LAST_MODIFIED, around),
    ) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// §13.1.2: false (so 304) if any listed tag matches by weak comparison, or `*`.
fn none_match_fails(request: &HeaderMap, etag: Option<&HeaderValue>) -> bool {
    let Some(stored) = etag.map(|tag| opaque(tag.as_bytes())) else {
        return request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|line| line.as_bytes().trim_ascii() == b"*");
    };
    request.get_all(header::IF_NONE_MATCH).iter().any(|line| {
        let line = line.as_bytes().trim_ascii();
        line == b"*" || tags(line).any(|tag| tag == stored)
    })
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.trim_ascii()
        .strip_prefix(b"W/")
        .unwrap_or(tag.trim_ascii())
}

/// The opaque tags, quotes included, of a list: a comma inside quotes does not end one.
fn tags(mut line: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let open = line.iter().position(|&b| b == b'"')?;
        let close = open + 1 + line[open + 1..].iter().position(|&b| b == b'"')?;
        let tag = &line[open..=close];
        line = &line[close + 1..];
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.clone(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn if_none_match_compares_weakly_any_member_or_star() {
        let stored = map(&[(header::ETAG, "W/\"a,b\"")]);
        for (condition, expected) in [
            ("\"a,b\"", true),
            ("W/\"a,b\"", true),
            ("\"x\", W/\"a,b\"", true),
            ("*", true),
            ("\"a\"", false),
            ("\"x\"", false),
            ("a,b", false),
        ] {
            assert_eq!(
                not_modified(&map(&[(header::IF_NONE_MATCH, condition)]), &stored),
                expected,
                "{condition}"
            );
        }
    }

    #[test]
    fn a_tag_that_is_made_is_the_same_for_the_same_body_and_for_no_other() {
        let tag = tag_of(b"[1, 2]");
        assert_eq!(tag, "W/\"93bdd4f3165f1839ad3d4c4b14894101\"");
        assert_eq!(tag, tag_of(&[b"[1,", &b" 2]"[..]].concat()));
        assert_ne!(tag, tag_of(b"[1, 2] "));
        let request = map(&[(header::IF_NONE_MATCH, tag.to_str().unwrap())]);
        let mut stored = HeaderMap::new();
        stored.insert(header::ETAG, tag);
        assert!(not_modified(&request, &stored));
    }

    #[test]
    fn with_if_none_match_present_if_modified_since_is_ignored() {
        let stored = map(&[
            (header::ETAG, "\"a\""),
            (header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        let request = map(&[
            (header::IF_NONE_MATCH, "\"b\""),
            (header::IF_MODIFIED_SINCE, "Sun, 06 Nov 2094 08:49:37 GMT"),
        ]);
        assert!(!not_modified(&request, &stored));
    }

    #[test]
    fn if_modified_since_needs_a_stored_last_modified() {
        let request = map(&[(header::IF_MODIFIED_SINCE, "Sunday, 06-Nov-94 08:49:37 GMT")]);
        assert!(not_modified(
            &request,
            &map(&[(header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT")])
        ));
        assert!(!not_modified(
            &request,
            &map(&[(header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:38 GMT")])
        ));
        assert!(!not_modified(&request, &HeaderMap::new()));
    }
}
