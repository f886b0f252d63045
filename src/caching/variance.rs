//! Which stored response a request selects, where the origin says what it varies by. RFC 9111 §4.1, under `policy: http`:
//! every field that a stored response nominates counts, as the request sent it, brought to one spelling.

use http::HeaderName;
use http::header::{self, HeaderMap, HeaderValue};

use crate::message::fields::list_members;

/// What Vary nominates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nominated {
    /// In order, each once; none where nothing varies.
    Fields(Vec<HeaderName>),
    /// `*`, or something that is no field name: matches no request.
    Anything,
}

pub fn nominated(fields: &HeaderMap) -> Nominated {
    let mut names = Vec::new();
    for line in fields.get_all(header::VARY) {
        if line.to_str().is_err() {
            return Nominated::Anything;
        }
        for member in list_members(line) {
            match HeaderName::from_bytes(member.as_bytes()) {
                Ok(name) if member != "*" => names.push(name),
                _ => return Nominated::Anything,
            }
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Nominated::Fields(names)
}

/// The request's value of a nominated field, in one spelling: lines joined, blanks around commas taken off; of
/// Accept-Language also case and order. Absent is `None`, and matches only absent.
pub fn normalised(name: &HeaderName, request: &HeaderMap) -> Option<HeaderValue> {
    if !request.contains_key(name) {
        return None;
    }
    let lines = request.get_all(name).iter();
    let mut members: Vec<Vec<u8>> = lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(|member| member.trim_ascii().to_vec())
        .collect();
    if *name == header::ACCEPT_LANGUAGE {
        members.iter_mut().for_each(|member| {
            member.retain(|byte| !byte.is_ascii_whitespace());
            member.make_ascii_lowercase();
        });
        members.retain(|member| !member.is_empty());
        members.sort();
    }
    HeaderValue::from_bytes(&members.join(&b','))
        .ok()
        .or_else(|| request.get(name).cloned())
}

/// The one language that a request likes best: RFC 9110 §12.5.4, with a quality that no other has. A response in it may be
/// given, whatever else the request would also have taken.
pub fn preferred_language(request: &HeaderMap) -> Option<String> {
    let mut best: Option<(String, u16)> = None;
    let mut alone = false;
    for range in request
        .get_all(header::ACCEPT_LANGUAGE)
        .iter()
        .flat_map(list_members)
    {
        let mut parts = range.split(';');
        let language = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let quality = quality(parts.next())?;
        match &best {
            Some((_, most)) if quality < *most => {}
            Some((_, most)) if quality == *most => alone = false,
            _ => (best, alone) = (Some((language, quality)), true),
        }
    }
    best.filter(|(language, quality)| alone && *quality > 0 && language != "*")
        .map(|(language, _)| language)
}

/// The one language that a response is in.
pub fn content_language(response: &HeaderMap) -> Option<String> {
    let mut languages = response
        .get_all(header::CONTENT_LANGUAGE)
        .iter()
        .flat_map(list_members);
    match (languages.next(), languages.next()) {
        (Some(language), None) => Some(language.to_ascii_lowercase()),
        _ => None,
    }
}

/// In thousandths (RFC 9110 §12.4.2); `None` if it is wrong, and then nothing is known of what is liked best.
fn quality(parameter: Option<&str>) -> Option<u16> {
    let Some(parameter) = parameter else {
        return Some(1000);
    };
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, decimals) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, digits) {
        ("1", true) => decimals.bytes().all(|byte| byte == b'0').then_some(1000),
        ("0", true) => format!("{decimals:0<3}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            (
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_star_anywhere_on_any_line_after_empty_members_matches_nothing() {
        for lines in [
            &["*"][..],
            &["*, *"],
            &["*", "*"],
            &[", *"],
            &["", "*"],
            &["*, Foo"],
            &["Foo, *"],
            &["Foo", "Bar,*"],
            &["a b"],
            &["b\u{e4}d"],
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            assert_eq!(nominated(&map(&fields)), Nominated::Anything, "{lines:?}");
        }
    }

    #[test]
    fn names_count_once_whatever_their_case_and_order() {
        let names = |lines: &[(&str, &str)]| nominated(&map(lines));
        assert_eq!(names(&[]), Nominated::Fields(vec![]));
        assert_eq!(names(&[("vary", "")]), Nominated::Fields(vec![]));
        assert_eq!(
            names(&[("vary", "Foo, ,bar"), ("vary", "FOO")]),
            Nominated::Fields(vec!["bar".parse().unwrap(), "foo".parse().unwrap()])
        );
    }

    #[test]
    fn values_are_compared_after_joining_lines_and_trimming_around_commas() {
        let foo = |lines: &[&str]| {
            let fields: Vec<_> = lines.iter().map(|line| ("foo", *line)).collect();
            normalised(&"foo".parse().unwrap(), &map(&fields))
        };
        assert_eq!(foo(&["1, 2"]), foo(&["1", "2"]));
        assert_eq!(foo(&["1,2"]), foo(&[" 1 ,\t2 "]));
        assert_ne!(foo(&["1, 2"]), foo(&["2, 1"]), "their order counts");
        assert_ne!(foo(&["a"]), foo(&["A"]), "their case counts");
        assert_ne!(foo(&["1,2"]), foo(&["1,,2"]));
        assert_ne!(foo(&["1 2"]), foo(&["12"]));
        assert_eq!(foo(&[]), None, "absent matches only absent");
        assert_ne!(foo(&[""]), None);
    }

    #[test]
    fn accept_language_is_compared_without_case_and_order() {
        let language = |value: &str| {
            normalised(
                &header::ACCEPT_LANGUAGE,
                &map(&[("accept-language", value)]),
            )
        };
        for other in ["de, en", "eN, De", " en ,   de", "de,,en,"] {
            assert_eq!(language("en, de"), language(other), "{other}");
        }
        assert_eq!(language("en;q=0.5"), language("en; Q=0.5"));
        assert_ne!(language("en, de"), language("en, de;q=0.9"));
        assert_ne!(language("en"), language("en-gb"));
    }

    #[test]
    fn a_request_prefers_the_single_language_of_highest_quality() {
        for (accepted, expected) in [
            ("de", Some("de")),
            ("fr;q=0.5, de;q=1.0", Some("de")),
            ("fr;q=0.5, DE-ch", Some("de-ch")),
            ("fr;q=0.5, de;q=0.501", Some("de")),
            ("en, de", None),
            ("en, de, fr;q=0.1", None),
            ("de;q=0", None),
            ("*", None),
            ("de;q=0.5, *;q=0.9", None),
            ("de;q=x, en", None),
            ("de;q=1.1", None),
            ("de;level=1", None),
            ("", None),
        ] {
            let request = map(&[("accept-language", accepted)]);
            assert_eq!(
                preferred_language(&request).as_deref(),
                expected,
                "{accepted}"
            );
        }
        assert_eq!(preferred_language(&map(&[])), None);
    }

    #[test]
    fn a_response_in_two_languages_is_in_none_of_them() {
        for (said, expected) in [("De", Some("de")), ("de, en", None), ("", None)] {
            assert_eq!(
                content_language(&map(&[("content-language", said)])).as_deref(),
                expected
            );
        }
    }
}
