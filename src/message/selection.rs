//! What of a 200 that is here as a whole a request is sent: the conditions first, then the range. RFC 9110 §13.2.2.

use std::ops::Range;

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};

use super::conditions;
use super::ranges::{self, Ranged};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// 304
    NotModified,
    /// 206
    Part(Range<usize>),
    /// 416
    Unsatisfiable,
}

/// For a GET or HEAD.
pub fn select(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    fields: &HeaderMap,
    length: usize,
) -> Selection {
    // §13.2.1: where the answer is not a 2xx, its conditions are not looked at.
    if status != StatusCode::OK {
        return Selection::Whole;
    }
    if conditions::are_in(request) && conditions::not_modified(request, fields) {
        return Selection::NotModified;
    }
    // §14.2: of the methods, GET alone has ranges.
    if *method != Method::GET || !request.contains_key(header::RANGE) {
        return Selection::Whole;
    }
    match ranges::ranged(request, fields, length) {
        Ranged::All => Selection::Whole,
        Ranged::Part(part) => Selection::Part(part),
        Ranged::Unsatisfiable => Selection::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: (&str, &str) = ("range", "bytes=1-2");
    const BEYOND: (&str, &str) = ("range", "bytes=9-");

    fn selected(method: Method, request: &[(&str, &str)], status: u16) -> Selection {
        let map = |lines: &[(&str, &str)]| -> HeaderMap {
            lines
                .iter()
                .map(|(name, value)| {
                    let name: header::HeaderName = name.parse().unwrap();
                    (name, value.parse().unwrap())
                })
                .collect()
        };
        let stored = map(&[("etag", "\"a\"")]);
        let status = StatusCode::from_u16(status).unwrap();
        select(&method, &map(request), status, &stored, 5)
    }

    #[test]
    fn conditions_come_before_the_range_and_if_range_after_them() {
        let (same, other) = (("if-none-match", "\"a\""), ("if-none-match", "\"b\""));
        let (continued, restarted) = (("if-range", "\"a\""), ("if-range", "\"b\""));
        for (request, expected, sentence) in [
            (&[][..], Selection::Whole, "nothing asked"),
            (&[RANGE], Selection::Part(1..3), "a range"),
            (
                &[BEYOND],
                Selection::Unsatisfiable,
                "a range beyond the end",
            ),
            (&[same, RANGE], Selection::NotModified, "it has it already"),
            (
                &[same, BEYOND],
                Selection::NotModified,
                "even where the range is none",
            ),
            (&[other, RANGE], Selection::Part(1..3), "it has another"),
            (
                &[continued, RANGE],
                Selection::Part(1..3),
                "it has a part of this",
            ),
            (
                &[restarted, RANGE],
                Selection::Whole,
                "it has a part of another",
            ),
            (
                &[restarted, BEYOND],
                Selection::Whole,
                "and then the range is ignored",
            ),
        ] {
            assert_eq!(selected(Method::GET, request, 200), expected, "{sentence}");
        }
    }

    #[test]
    fn a_head_has_conditions_and_no_range() {
        let same = ("if-none-match", "\"a\"");
        assert_eq!(selected(Method::HEAD, &[RANGE], 200), Selection::Whole);
        assert_eq!(selected(Method::HEAD, &[same], 200), Selection::NotModified);
    }

    #[test]
    fn of_anything_but_a_200_all_is_sent() {
        for status in [203, 206, 404, 500] {
            let request = [("if-none-match", "*"), RANGE];
            assert_eq!(
                selected(Method::GET, &request, status),
                Selection::Whole,
                "{status}"
            );
        }
    }
}
