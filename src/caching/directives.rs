//! Cache-Control, as an origin and as a client writes it. RFC 9111 §5.2, RFC 5861, RFC 8246.
//! What of an origin's cannot be understood fails closed.

use std::time::Duration;

use http::HeaderName;
use http::header::{self, HeaderMap};

/// Longest lifetime counted, in seconds (RFC 9111 §1.2.2).
pub const FOREVER: u64 = 1 << 31;

/// The directives of a response that matter to a shared cache. (`immutable` does not: what it forbids, a shared
/// cache does only where a client asks for it.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    pub no_store: bool,
    pub private: bool,
    /// Without an argument, or with one that names no field.
    pub no_cache: bool,
    /// `no-cache="a, b"`: not to be sent from the store.
    pub no_cache_fields: Vec<HeaderName>,
    pub max_age: Option<Seconds>,
    pub s_maxage: Option<Seconds>,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
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

impl Seconds {
    pub fn valid(self) -> Option<Duration> {
        match self {
            Seconds::Valid(seconds) => Some(Duration::from_secs(seconds)),
            Seconds::Invalid => None,
        }
    }
}

impl Directives {
    pub fn of(fields: &HeaderMap) -> Directives {
        let mut found = Directives::default();
        for (name, argument) in directives(fields, &header::CACHE_CONTROL) {
            found.take(&name, argument);
        }
        found
    }

    /// One directive by its name in lower case; twice the same counts as the stricter.
    pub fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        match name {
            b"no-store" => self.no_store = true,
            b"private" => self.private = true,
            b"no-cache" => match argument.and_then(field_names) {
                Some(names) => self.no_cache_fields.extend(names),
                None => self.no_cache = true,
            },
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
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

    /// §4.2.4: whether a response may be served stale at all. (§5.2.2.10: s-maxage says what proxy-revalidate does.)
    pub fn forbid_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.s_maxage.is_some() || self.no_cache
    }
}

/// The directives of a request. What is wrong in them is as if it was not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    pub no_cache: bool,
    pub no_store: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub min_fresh: Option<Duration>,
    /// How stale is good enough; `Duration::MAX` without an argument.
    pub max_stale: Option<Duration>,
}

impl RequestDirectives {
    pub fn of(fields: &HeaderMap) -> RequestDirectives {
        let mut found = RequestDirectives::default();
        for (name, argument) in directives(fields, &header::CACHE_CONTROL) {
            let span = seconds(argument).valid();
            match name.as_slice() {
                b"no-cache" => found.no_cache = true,
                b"no-store" => found.no_store = true,
                b"only-if-cached" => found.only_if_cached = true,
                b"max-age" => found.max_age = span.or(found.max_age),
                b"min-fresh" => found.min_fresh = span.or(found.min_fresh),
                b"max-stale" if argument.is_none() => found.max_stale = Some(Duration::MAX),
                b"max-stale" => found.max_stale = span.or(found.max_stale),
                _ => {}
            }
        }
        // §5.4: Pragma counts where no Cache-Control is.
        if !fields.contains_key(header::CACHE_CONTROL) {
            found.no_cache =
                directives(fields, &header::PRAGMA).any(|(name, _)| name == b"no-cache");
        }
        found
    }
}

/// Each directive of all lines of a field: its name in lower case, and its argument as it is written.
fn directives<'f>(
    fields: &'f HeaderMap,
    field: &HeaderName,
) -> impl Iterator<Item = (Vec<u8>, Option<&'f [u8]>)> {
    let lines = fields.get_all(field).iter();
    let members = lines.flat_map(|line| split_outside_quotes(line.as_bytes()));
    members.map(|member| {
        let (name, argument) = match member.iter().position(|&b| b == b'=') {
            Some(at) => (&member[..at], Some(member[at + 1..].trim_ascii())),
            None => (member, None),
        };
        (name.trim_ascii().to_ascii_lowercase(), argument)
    })
}

/// Whether every directive of an answer's Cache-Control is one: a token, and at most one argument that is a token or a whole
/// quoted string. Of one that is not, nobody knows what it would have forbidden; nor of `'no-store'`, a token by the letter.
pub fn are_readable(fields: &HeaderMap) -> bool {
    let is_token = |text: &[u8]| !text.is_empty() && text.iter().all(|&byte| is_of_a_token(byte));
    let is_name = |name: &[u8]| is_token(name) && !name.contains(&b'\'');
    directives(fields, &header::CACHE_CONTROL).all(|(name, argument)| match argument {
        None => name.is_empty() || is_name(&name),
        Some(argument) => is_name(&name) && (is_token(argument) || is_quoted_string(argument)),
    })
}

/// RFC 9110 §5.6.2.
fn is_of_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 §5.6.4: it ends where its argument does.
fn is_quoted_string(text: &[u8]) -> bool {
    let [b'"', inner @ .., b'"'] = text else {
        return false;
    };
    let mut escaped = false;
    let ends_early = inner.iter().any(|&byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => byte == b'"',
    });
    !ends_early && !escaped
}

/// The fields that a directive's argument names; `None` if it names none, or something that is no field.
fn field_names(argument: &[u8]) -> Option<Vec<HeaderName>> {
    let list = std::str::from_utf8(unquoted(argument)).ok()?;
    let names: Vec<HeaderName> = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

fn unquoted(argument: &[u8]) -> &[u8] {
    argument
        .strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(argument)
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
    let digits = unquoted(text);
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
    fn what_is_no_directive_is_told_from_one_that_is_not_known() {
        let readable = |line: &str| {
            are_readable(&HeaderMap::from_iter([(
                header::CACHE_CONTROL,
                http::HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            )]))
        };
        for line in [
            "",
            ",, max-age=60 ,",
            "max-age = 60",
            "x",
            "x-y='z', no-cache=\"a, \\\"b\", private",
            "max-age=\"60\"",
        ] {
            assert!(readable(line), "{line}");
        }
        for line in [
            "no-store;",
            "no store",
            "\"no-store\"",
            "'no-store'",
            "no-store\"",
            "x=\"a, no-store",
            "x=\"a\\\"",
            "x=\"a\"b\"",
            "max-age=",
            "=60",
            "max-age==60",
            "max-age=60 60",
            "priv\u{e4}t",
        ] {
            assert!(!readable(line), "{line}");
        }
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

    #[test]
    fn each_directive_of_a_response_is_known_by_its_name() {
        type Row = (&'static str, fn(&Directives) -> bool);
        let rows: [Row; 12] = [
            ("PUBLIC", |d| d.public),
            ("Must-Revalidate", |d| d.must_revalidate && d.forbid_stale()),
            ("proxy-revalidate", |d| {
                d.proxy_revalidate && d.forbid_stale()
            }),
            ("must-understand", |d| {
                d.must_understand && !d.forbid_stale()
            }),
            ("s-maxage=2", |d| {
                d.s_maxage == Some(Seconds::Valid(2)) && d.forbid_stale()
            }),
            ("no-cache", |d| d.no_cache && d.forbid_stale()),
            ("no-cache=", |d| d.no_cache),
            ("no-cache=\"\"", |d| d.no_cache),
            ("no-cache=\"b\u{e4}d\"", |d| d.no_cache),
            ("no-cache=\"A, b\"", |d| {
                !d.no_cache && !d.forbid_stale() && d.no_cache_fields == ["a", "b"]
            }),
            ("stale-while-revalidate=5", |d| {
                d.stale_while_revalidate == Some(Seconds::Valid(5))
            }),
            ("stale-if-error=x", |d| {
                d.stale_if_error == Some(Seconds::Invalid)
            }),
        ];
        for (text, holds) in rows {
            assert!(holds(&of(&[text])), "{text}");
        }
        assert_eq!(
            of(&["immutable, foo, =, \"", ""]),
            Directives::default(),
            "unknown ones are ignored"
        );
    }

    #[test]
    fn a_client_may_ask_for_less_or_more_than_fresh() {
        let asked = |lines: &[(&str, &str)]| {
            let fields = lines
                .iter()
                .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap()));
            RequestDirectives::of(&fields.collect())
        };
        let none = RequestDirectives::default();
        let seconds = |s| Some(Duration::from_secs(s));
        for (text, expected) in [
            (
                "no-cache",
                RequestDirectives {
                    no_cache: true,
                    ..none
                },
            ),
            (
                "foo, No-Store",
                RequestDirectives {
                    no_store: true,
                    ..none
                },
            ),
            (
                "only-if-cached",
                RequestDirectives {
                    only_if_cached: true,
                    ..none
                },
            ),
            (
                "max-age=5, min-fresh=\"6\"",
                RequestDirectives {
                    max_age: seconds(5),
                    min_fresh: seconds(6),
                    ..none
                },
            ),
            (
                "max-stale",
                RequestDirectives {
                    max_stale: Some(Duration::MAX),
                    ..none
                },
            ),
            (
                "max-stale=7",
                RequestDirectives {
                    max_stale: seconds(7),
                    ..none
                },
            ),
            ("max-stale=x, max-age=-1, min-fresh", none),
        ] {
            assert_eq!(asked(&[("cache-control", text)]), expected, "{text}");
        }
        assert!(asked(&[("pragma", "foo, no-cache")]).no_cache);
        assert!(!asked(&[("pragma", "foo")]).no_cache);
        assert!(
            !asked(&[("pragma", "no-cache"), ("cache-control", "foo")]).no_cache,
            "where Cache-Control is, Pragma is nothing"
        );
    }
}
