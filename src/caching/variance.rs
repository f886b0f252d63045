//! Which stored response a request selects, where the origin says what it varies by. RFC 9111 §4.1, under `policy: http`:
//! every field that a stored response nominates counts, as it is sent to the origin, which answers that and nothing else.

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

/// The fields that are lists by their definition (RFC 9110 §12.5): in them alone a blank beside a comma means nothing, and
/// lines are members.
static LISTS: [HeaderName; 4] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
];

/// A nominated field as it is sent, in one spelling: equal where every origin reads the same. Of a list, lines joined and
/// blanks taken off around its members, whose order counts: of equals, the first one may win. Any other, and a list in which
/// something is quoted, is compared byte for byte and line for line. Absent is `None`, and matches only absent.
pub fn normalised(name: &HeaderName, sent: &HeaderMap) -> Option<Vec<u8>> {
    if !sent.contains_key(name) {
        return None;
    }
    let lines = sent.get_all(name).iter().map(HeaderValue::as_bytes);
    let lines: Vec<&[u8]> = lines.collect();
    if !LISTS.contains(name) || lines.iter().any(|line| line.contains(&b'"')) {
        // No line has an end of line in it, so two never read like one.
        return Some(lines.join(&b'\n'));
    }
    let members = lines.into_iter().flat_map(|line| trimmed(line, b','));
    Some(match *name == header::ACCEPT_LANGUAGE {
        true => {
            let ranges = members.map(|range| joined(trimmed(range, b';'), b';'));
            let mut list = ranges.collect::<Vec<_>>().join(&b',');
            list.make_ascii_lowercase();
            list
        }
        false => joined(members, b','),
    })
}

fn trimmed(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    text.split(move |&byte| byte == separator)
        .map(<[u8]>::trim_ascii)
}

fn joined<'t>(pieces: impl Iterator<Item = &'t [u8]>, separator: u8) -> Vec<u8> {
    pieces.collect::<Vec<_>>().join(&separator)
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
        let language = language(parts.next().unwrap_or_default())?;
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
        (Some(only), None) => language(only),
        _ => None,
    }
}

/// `None`: it is no text, and nobody knows which one.
fn language(said: &str) -> Option<String> {
    let said = said.trim().to_ascii_lowercase();
    said.is_ascii().then_some(said)
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

    fn spelt(name: &str, lines: &[&str]) -> Option<Vec<u8>> {
        let fields: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        normalised(&name.parse().unwrap(), &map(&fields))
    }

    #[test]
    fn a_language_that_is_no_text_is_none_that_is_known() {
        let of = |name: &str, value: &[u8]| {
            let mut fields = HeaderMap::new();
            let name: HeaderName = name.parse().unwrap();
            fields.insert(name, HeaderValue::from_bytes(value).unwrap());
            (preferred_language(&fields), content_language(&fields))
        };
        assert_eq!(of("accept-language", b"de").0.as_deref(), Some("de"));
        assert_eq!(of("content-language", b"DE").1.as_deref(), Some("de"));
        assert_eq!(of("accept-language", b"\xe9"), (None, None));
        assert_eq!(of("content-language", b"x\xff"), (None, None));
    }

    #[test]
    fn lists_are_compared_after_joining_lines_and_trimming_around_commas() {
        for name in &LISTS {
            let list = |lines: &[&str]| spelt(name.as_str(), lines);
            assert_eq!(list(&["1, 2"]), list(&["1", "2"]));
            assert_eq!(list(&["1,2"]), list(&["1 ,\t2"]));
            assert_ne!(list(&["1, 2"]), list(&["2, 1"]), "their order counts");
            assert_ne!(list(&["1,2"]), list(&["1,,2"]));
            assert_ne!(list(&["1 2"]), list(&["12"]));
            assert_eq!(list(&[]), None, "absent matches only absent");
            assert_ne!(list(&[""]), None);
        }
        assert_ne!(
            spelt("accept", &["a/b;x=\"1, 2\""]),
            spelt("accept", &["a/b;x=\"1,2\""])
        );
        assert_ne!(
            spelt("accept", &["a/b;x=\"1", "2\""]),
            spelt("accept", &["a/b;x=\"1,2\""])
        );
        assert_ne!(spelt("accept", &["a/B"]), spelt("accept", &["a/b"]));
    }

    #[test]
    fn what_is_no_list_is_compared_byte_for_byte() {
        for name in ["foo", "cookie", "origin", "user-agent", "x-tenant"] {
            let values = ["1, 2", "1,2", "2, 1", "1,,2", "1 2", "12", "a", "A", ""];
            let mut lines: Vec<&[&str]> = values.iter().map(std::slice::from_ref).collect();
            lines.extend([&["1", "2"][..], &["2", "1"], &["1", "", "2"], &[]]);
            for (n, one) in lines.iter().enumerate() {
                for other in &lines[n + 1..] {
                    assert_ne!(spelt(name, one), spelt(name, other), "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn accept_language_is_compared_without_case_and_in_its_order() {
        let language = |value: &str| spelt("accept-language", &[value]);
        for other in ["EN, de", "eN,De", "en ,   de"] {
            assert_eq!(language("en, de"), language(other), "{other}");
        }
        assert_eq!(language("en;q=0.5"), language("en ; Q=0.5"));
        for other in ["de, en", "en,,de", "en, de;q=0.9", "en, d e", "en-gb, de"] {
            assert_ne!(language("en, de"), language(other), "{other}");
        }
        assert_ne!(language("en;q=0.5"), language("en;q = 0.5"));
    }

    proptest::proptest! {
        /// As an origin reads it that trims the members of a list and looks at each byte of all else.
        #[test]
        fn what_is_spelt_alike_is_read_alike(
            name in "accept|accept-language|cookie|foo",
            one in proptest::collection::vec("[aA,; \"\\\\]{0,6}", 0..3),
            other in proptest::collection::vec("[aA,; \"\\\\]{0,6}", 0..3),
        ) {
            let lines = |lines: &[String]| lines.iter().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
            let (one, other) = (lines(&one), lines(&other));
            let spelt = |lines: &[String]| spelt(&name, &lines.iter().map(String::as_str).collect::<Vec<_>>());
            let read = |lines: &[String]| -> Vec<String> {
                let is_list = name.starts_with("accept");
                let members = lines.iter().flat_map(|line| line.split(',')).map(str::trim);
                match name.as_str() {
                    _ if !is_list => lines.to_vec(),
                    "accept-language" => members.map(|range| {
                        let parts: Vec<_> = range.split(';').map(str::trim).collect();
                        parts.join(";").to_lowercase()
                    }).collect(),
                    _ => members.map(str::to_owned).collect(),
                }
            };
            if one.is_empty() != other.is_empty() {
                proptest::prop_assert_ne!(spelt(&one), spelt(&other));
            } else if spelt(&one) == spelt(&other) {
                proptest::prop_assert_eq!(read(&one), read(&other));
            }
        }
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
