//! Cache-Control as an origin writes it. RFC 9111 §5.2. What cannot be understood fails closed.

use http::header::{self, HeaderMap};

/// Longest lifetime counted, in seconds (RFC 9111 §1.2.2).
pub const FOREVER: u64 = 1 << 31;

/// The directives of a response that matter to a shared cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    pub no_store: bool,
    pub private: bool,
    pub no_cache: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub max_age: Option<Seconds>,
    pub s_maxage: Option<Seconds>,
    /// RFC 5861.
    pub stale_while_revalidate: Option<Seconds>,
    pub stale_if_error: Option<Seconds>,
}

/// delta-seconds, or something that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seconds {
    Valid(u64),
    /// Negative, decimal, quoted with ', alphabetic: the response is stale.
    Invalid,
}

impl Directives {
    pub fn of(fields: &HeaderMap) -> Directives {
        let mut found = Directives::default();
        for line in fields.get_all(header::CACHE_CONTROL) {
            for directive in split_outside_quotes(line.as_bytes()) {
                found.take(directive);
            }
        }
        found
    }

    fn take(&mut self, directive: &[u8]) {
        let (name, argument) = match directive.iter().position(|&b| b == b'=') {
            Some(at) => (
                directive[..at].trim_ascii(),
                Some(directive[at + 1..].trim_ascii()),
            ),
            None => (directive.trim_ascii(), None),
        };
        match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            b"private" => self.private = true,
            b"no-cache" => self.no_cache = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            // Of duplicates the smaller counts, and one that is wrong counts as none at all.
            b"max-age" => self.max_age = Some(smaller(self.max_age, seconds(argument))),
            b"s-maxage" => self.s_maxage = Some(smaller(self.s_maxage, seconds(argument))),
            b"stale-while-revalidate" => {
                self.stale_while_revalidate =
                    Some(smaller(self.stale_while_revalidate, seconds(argument)));
            }
            b"stale-if-error" => {
                self.stale_if_error = Some(smaller(self.stale_if_error, seconds(argument)));
            }
            _ => {}
        }
    }
}

fn smaller(before: Option<Seconds>, this: Seconds) -> Seconds {
    match (before, this) {
        (Some(Seconds::Invalid), _) | (_, Seconds::Invalid) => Seconds::Invalid,
        (Some(Seconds::Valid(a)), Seconds::Valid(b)) => Seconds::Valid(a.min(b)),
        (None, this) => this,
    }
}

/// Digits only, leading zeros allowed, also as a quoted string; clamped and never wrapped.
pub fn seconds(argument: Option<&[u8]>) -> Seconds {
    let Some(text) = argument else {
        return Seconds::Invalid;
    };
    let digits = text
        .strip_prefix(b"\"")
        .and_then(|t| t.strip_suffix(b"\""))
        .unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Seconds::Invalid;
    }
    let value = digits.iter().fold(0u64, |sum, digit| {
        (sum * 10 + u64::from(digit - b'0')).min(FOREVER)
    });
    Seconds::Valid(value)
}

/// The members of a list whose values may be quoted strings with commas in them.
pub fn split_outside_quotes(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.iter().position(|&byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => return true,
                _ => {}
            }
            false
        });
        rest = end.map(|at| &text[at + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Directives {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(header::CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::of(&fields)
    }

    #[test]
    fn names_are_known_in_any_case_order_and_over_several_lines() {
        let found = of(&["foo, NO-Store", "Private, max-age=60"]);
        assert!(found.no_store && found.private);
        assert_eq!(found.max_age, Some(Seconds::Valid(60)));
    }

    #[test]
    fn text_inside_a_quoted_string_is_never_a_directive() {
        assert_eq!(
            of(&["x=\"a, no-store, \\\", private\", max-age=1"]),
            Directives {
                max_age: Some(Seconds::Valid(1)),
                ..Default::default()
            }
        );
    }

    #[test]
    fn delta_seconds_are_digits_only_and_clamped() {
        for (text, expected) in [
            ("max-age=0060", Seconds::Valid(60)),
            ("max-age=\"60\"", Seconds::Valid(60)),
            ("max-age=99999999999999999999999", Seconds::Valid(FOREVER)),
            ("max-age=-1", Seconds::Invalid),
            ("max-age='60'", Seconds::Invalid),
            ("max-age=1.5", Seconds::Invalid),
            ("max-age=a", Seconds::Invalid),
            ("max-age", Seconds::Invalid),
            ("max-age=", Seconds::Invalid),
            ("max-age=60, max-age=5", Seconds::Valid(5)),
            ("max-age=60, max-age=x", Seconds::Invalid),
        ] {
            assert_eq!(of(&[text]).max_age, Some(expected), "{text}");
        }
    }
}
