//! Ranges and conditions: what is sent of a stored 200. Input: its length; field lines of the request, an empty line, and
//! those of the answer.

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use larder::caching::partial::Part;
use larder::message::conditions;
use larder::message::ranges::{of_a_206, of_a_416};
use larder::message::selection::{Selection, select};

pub fn holds(data: &[u8]) {
    let mut lines = super::lines(data);
    let length = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let length: Option<usize> = length.and_then(|line| line.parse().ok());
    // Nothing is longer than memory.
    let length = length.unwrap_or(100).min(isize::MAX as usize);
    let request = super::fields(lines.by_ref().take_while(|line| !line.is_empty()));
    let answer = super::fields(lines);
    let chosen = select(&Method::GET, &request, StatusCode::OK, &answer, length);
    match &chosen {
        Selection::Whole => {}
        Selection::NotModified => {
            assert!(conditions::are_in(&request));
            assert!(!conditions::of_a_304(&answer, &[]).contains_key(header::CONTENT_LENGTH));
        }
        Selection::Part(part) => {
            assert!(request.contains_key(header::RANGE));
            assert!(
                part.start < part.end && part.end <= length,
                "{part:?} of {length}"
            );
            let mut fields = answer.clone();
            of_a_206(&mut fields, part, length);
            let told = Part::of(&fields).expect("a Content-Range that we read ourselves");
            let span = told.first as usize..told.last as usize + 1;
            assert_eq!((&span, told.whole), (part, Some(length as u64)));
        }
        Selection::Unsatisfiable => {
            assert!(request.contains_key(header::RANGE));
            let fields = of_a_416(&answer, &[], length);
            assert_eq!(
                fields[header::CONTENT_RANGE],
                format!("bytes */{length}")[..]
            );
        }
    }
    // Without a word of its own a request is sent all of it; a HEAD has no part; an error is nobody's part.
    let none = HeaderMap::new();
    let whole = select(&Method::GET, &none, StatusCode::OK, &answer, length);
    assert_eq!(whole, Selection::Whole);
    let head = select(&Method::HEAD, &request, StatusCode::OK, &answer, length);
    assert!(matches!(head, Selection::Whole | Selection::NotModified));
    let error = select(
        &Method::GET,
        &request,
        StatusCode::NOT_FOUND,
        &answer,
        length,
    );
    assert_eq!(error, Selection::Whole);
    stored_part(&request, &answer);
}

/// Of a stored part nothing is cut that it does not hold.
fn stored_part(request: &HeaderMap, answer: &HeaderMap) {
    let Some(part) = Part::of(answer) else { return };
    assert!(part.first <= part.last && part.whole.is_none_or(|whole| part.last < whole));
    let _ = part.rest();
    let Ok(length) = usize::try_from(part.last - part.first + 1) else {
        return;
    };
    for range in request.get_all(header::RANGE) {
        if let Some((span, _)) = part.cut(length, range) {
            assert!(span.start < span.end && span.end <= length, "{span:?}");
        }
    }
}
