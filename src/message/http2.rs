//! What a request that came by HTTP/2 is held to beyond its codec, so that it says the same in HTTP/1. RFC 9113 §8.2.
//! The codec itself refuses upper case, connection-specific fields, a `te` other than `trailers`, and pseudo-fields that
//! are missing, unknown, doubled or late.

use http::header::{self, HeaderMap, HeaderValue};

/// §8.2.1: no value begins or ends with white space: whoever trims it reads another value than who does not. And no name
/// holds a quote, which the codec takes for a letter of a token.
pub fn fields_are_valid(fields: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    fields.iter().all(|(name, value)| {
        let value = value.as_bytes();
        !is_space(value.first()) && !is_space(value.last()) && !name.as_str().contains('"')
    })
}

/// §8.2.3: the crumbs of a cookie are one field everywhere else.
pub fn join_cookies(fields: &mut HeaderMap) {
    let mut crumbs = fields.get_all(header::COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut whole = first.as_bytes().to_vec();
        for crumb in std::iter::once(second).chain(crumbs) {
            whole.extend_from_slice(b"; ");
            whole.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(mut whole) = HeaderValue::from_bytes(&whole) {
            whole.set_sensitive(first.is_sensitive());
            fields.insert(header::COOKIE, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    #[test]
    fn the_crumbs_of_a_cookie_are_joined_in_their_order() {
        let mut crumbs = fields(&[
            ("cookie", "a=1"),
            ("x", "1"),
            ("cookie", "b=2; c=3"),
            ("cookie", "d"),
        ]);
        join_cookies(&mut crumbs);
        assert_eq!(
            crumbs,
            fields(&[("x", "1"), ("cookie", "a=1; b=2; c=3; d")])
        );
        let mut alone = fields(&[("cookie", "a=1")]);
        join_cookies(&mut alone);
        assert_eq!(alone, fields(&[("cookie", "a=1")]));
    }

    #[test]
    fn a_value_with_white_space_at_an_end_is_none_nor_a_name_with_a_quote() {
        let quoted = header::HeaderName::from_bytes(b"a\"b");
        if let Ok(quoted) = quoted {
            let fields = HeaderMap::from_iter([(quoted, HeaderValue::from_static("1"))]);
            assert!(!fields_are_valid(&fields));
        }
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert!(!fields_are_valid(&fields(&[("x", value)])), "{value:?}");
        }
        for value in ["", "a", "a b", "a\tb"] {
            assert!(fields_are_valid(&fields(&[("x", value)])), "{value:?}");
        }
    }
}
