//! What an answer to an unsafe method makes invalid. RFC 9111 §4.4, and the groups of RFC 9875.
//! Where the operator's rules name a write, they alone decide what it drops; this is for `policy: http`.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use sfv::{BareItem, List, ListEntry, Parser};
use url::Url;

use crate::coherence::Outcome;

pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
pub const CACHE_GROUP_INVALIDATION: HeaderName =
    HeaderName::from_static("cache-group-invalidation");

/// RFC 9110 §9.2.1. Whatever is not known to be safe is not.
pub fn is_safe(method: &Method) -> bool {
    const SAFE: [&str; 7] = [
        "GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH",
    ];
    SAFE.contains(&method.as_str())
}

/// Whether the answer to an unsafe method drops anything (§4.4: "non-error"); what may have been done without our
/// knowing is ambiguous. A complete 4xx or 500 is the origin's word that nothing was changed.
pub fn outcome(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..=399 => Outcome::Changed,
        502..=504 => Outcome::Ambiguous,
        _ => Outcome::Unchanged,
    }
}

/// Where an answer names other targets.
const NAMING: [HeaderName; 2] = [header::LOCATION, header::CONTENT_LOCATION];

pub fn names_any(answer: &HeaderMap) -> bool {
    NAMING.iter().any(|name| answer.contains_key(name))
}

/// §4.4: what Location and Content-Location name on the same origin, as path and query; resolved against the target URI.
pub fn named(target: &Url, answer: &HeaderMap) -> Vec<Url> {
    let mut found = Vec::new();
    for name in &NAMING {
        let references = answer.get_all(name).iter();
        for reference in references.filter_map(|value| value.to_str().ok()) {
            if let Ok(mut url) = target.join(reference)
                && url.origin() == target.origin()
            {
                url.set_fragment(None);
                if url != *target && !found.contains(&url) {
                    found.push(url);
                }
            }
        }
    }
    found
}

/// RFC 9875 §2: the groups that a response is in.
pub fn groups(response: &HeaderMap) -> Vec<String> {
    strings(response, &CACHE_GROUPS)
}

/// RFC 9875 §3: the groups that an answer to an unsafe method drops. §3: on a safe method it is nothing.
pub fn invalidated_groups(method: &Method, answer: &HeaderMap) -> Vec<String> {
    match is_safe(method) {
        true => Vec::new(),
        false => strings(answer, &CACHE_GROUP_INVALIDATION),
    }
}

/// A List of Strings (RFC 8941 §3.1); anything else in it, and it is nothing. All of them, however long: of a group that was
/// left out here the past would be shown.
fn strings(fields: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines: Vec<&[u8]> = fields
        .get_all(name)
        .iter()
        .map(|line| line.as_bytes())
        .collect();
    let Ok(members) = Parser::new(&lines.join(&b", "[..])).parse::<List>() else {
        return Vec::new();
    };
    let string = |member: &ListEntry| match member {
        ListEntry::Item(item) => match &item.bare_item {
            BareItem::String(text) => Some(text.as_str().to_owned()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    };
    let strings: Option<Vec<String>> = members.iter().map(string).collect();
    strings.unwrap_or_default()
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
    fn a_method_is_unsafe_unless_it_is_known_to_be_safe() {
        for method in ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH", "FOO", "get"] {
            assert!(
                !is_safe(&Method::from_bytes(method.as_bytes()).unwrap()),
                "{method}"
            );
        }
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(
                is_safe(&Method::from_bytes(method.as_bytes()).unwrap()),
                "{method}"
            );
        }
    }

    #[test]
    fn a_success_and_a_redirection_drop_an_error_does_not_and_a_lost_answer_may_have() {
        for (status, expected) in [
            (200, Outcome::Changed),
            (204, Outcome::Changed),
            (303, Outcome::Changed),
            (400, Outcome::Unchanged),
            (404, Outcome::Unchanged),
            (499, Outcome::Unchanged),
            (500, Outcome::Unchanged),
            (501, Outcome::Unchanged),
            (502, Outcome::Ambiguous),
            (503, Outcome::Ambiguous),
            (504, Outcome::Ambiguous),
            (599, Outcome::Unchanged),
        ] {
            assert_eq!(
                outcome(StatusCode::from_u16(status).unwrap()),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn location_and_content_location_drop_what_they_name_on_the_same_origin() {
        let target = Url::parse("http://h:80/a/b?c=1").unwrap();
        for (reference, expected) in [
            ("/x", Some("http://h/x")),
            ("x?y=1", Some("http://h/a/x?y=1")),
            ("?d=2", Some("http://h/a/b?d=2")),
            ("http://h/x#part", Some("http://h/x")),
            ("//h/x", Some("http://h/x")),
            ("http://H:80/x", Some("http://h/x")),
            ("http://other/x", None),
            ("https://h/x", None),
            ("http://h:81/x", None),
            ("/a/b?c=1", None),
            ("http://[", None),
        ] {
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                let found = named(&target, &map(&[(name, reference)]));
                let expected: Vec<Url> = expected
                    .iter()
                    .map(|url| Url::parse(url).unwrap())
                    .collect();
                assert_eq!(found, expected, "{reference}");
            }
        }
        let both = map(&[(header::LOCATION, "/x"), (header::CONTENT_LOCATION, "/y")]);
        assert_eq!(named(&target, &both).len(), 2);
    }

    #[test]
    fn groups_are_strings_of_a_list_and_only_an_unsafe_method_drops_them() {
        for (line, expected) in [
            ("\"a\", \"b c\"", &["a", "b c"][..]),
            ("\"a\";x=1", &["a"]),
            ("a", &[]),
            ("\"a\", b", &[]),
            ("\"a\",", &[]),
            (
                "\"0123456789012345678901234567890123\", \"a\"",
                &["0123456789012345678901234567890123", "a"],
            ),
            ("", &[]),
        ] {
            assert_eq!(groups(&map(&[(CACHE_GROUPS, line)])), expected, "{line}");
            let answer = map(&[(CACHE_GROUP_INVALIDATION, line)]);
            assert_eq!(
                invalidated_groups(&Method::POST, &answer),
                expected,
                "{line}"
            );
            assert!(invalidated_groups(&Method::GET, &answer).is_empty());
        }
    }
}
