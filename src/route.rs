//! Which resource a path names, and under which key its answers are kept: path patterns as in
//! Django's urls.py, and key templates. Pure: no I/O, no clock, no configuration.
//!
//! A path is read in two ways. *To look up or store*, it must be spelled in the one canonical way:
//! of all spellings of a resource at most one can hit, so nobody can store an answer under another's
//! key. *To purge*, it is read as generously as a server behind us might read it, since a purge too
//! many costs a fetch and a purge too few serves the past.
//!
//! `path` is the patterns and `segment` what stands between their slashes, `spelling` is how a path may be written, `key` is
//! the keys, and `sets` tells whether two of them can meet.

pub mod id;
mod key;
mod path;
mod segment;
mod sets;
mod spelling;
mod why;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

pub use key::{FamilyKey, FamilyPattern, GroupKey, KeyTemplate};
pub use path::PathPattern;
pub use spelling::{Decoded, is_plain};
pub use why::Mismatch;

/// The first rule for each form of the path. Both count for a purge: which of the two the server
/// behind us acted on is not known here. `pattern` gives a rule's path, or `None` where the rule is
/// not about this request (another method).
pub fn first_matches<'r, R>(
    rules: &'r [R],
    pattern: impl Fn(&'r R) -> Option<&'r PathPattern>,
    path: &Decoded,
) -> SmallVec<[(&'r R, Captures); 2]> {
    let mut found: SmallVec<[(&'r R, Captures); 2]> = SmallVec::new();
    for form in path.forms() {
        let first = rules
            .iter()
            .find_map(|rule| Some((rule, pattern(rule)?.match_form(form)?)));
        if let Some((rule, captures)) = first
            && !is_among(&found, rule, &captures)
        {
            found.push((rule, captures));
        }
    }
    found
}

fn is_among<R>(found: &[(&R, Captures)], rule: &R, captures: &Captures) -> bool {
    let mut found = found.iter();
    found.any(|(other, same)| std::ptr::eq(*other, rule) && same == captures)
}

/// The first rule for each form of the path as a server reads it that does not tell upper from lower case, nor a path with a slash
/// at its end from one without (Express, Rails), and for which `.json` at the end says how, and not what (Rails, DRF). It is
/// asked besides [`first_matches`], whose `to_the_letter` are left out: to a server that does tell them, they are different paths.
pub fn loose_matches<'r, R>(
    rules: &'r [R],
    pattern: impl Fn(&'r R) -> Option<&'r PathPattern>,
    path: &Decoded,
    to_the_letter: &[(&R, Captures)],
) -> SmallVec<[(&'r R, Captures); 2]> {
    let mut found = SmallVec::new();
    let has_one_form = path.forms().nth(1).is_none();
    for form in path.forms() {
        let readings: SmallVec<[_; 2]> = spelling::read_loosely(form).collect();
        let has_no_format = readings.len() == 1;
        for rule in rules {
            let Some(pattern) = pattern(rule) else {
                continue;
            };
            let is_this = |(known, _): &(&R, Captures)| std::ptr::eq(*known, rule);
            if has_one_form && has_no_format && to_the_letter.iter().any(is_this) {
                // Nearly always: it would read the path as it stands first, and has.
                break;
            }
            let read = |both: &[Cow<'_, str>; 2]| {
                let mut both = both.iter();
                both.find_map(|reading| pattern.match_in_any_case(reading))
            };
            let captures: SmallVec<[Captures; 2]> = readings.iter().filter_map(read).collect();
            if captures.is_empty() {
                continue;
            }
            let news = captures.into_iter();
            let news = news.filter(|captures| !is_among(to_the_letter, rule, captures));
            found.extend(news.map(|captures| (rule, captures)));
            break;
        }
    }
    found
}

/// Captured and converted values by name: an int without leading zeros, text without escapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captures(SmallVec<[(Arc<str>, String); 2]>);

impl Captures {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(captured, _)| &**captured == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Captures {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        Captures(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.to_owned()))
                .collect(),
        )
    }
}

/// What is wrong with a pattern, where in its text, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    pub cause: String,
    pub help: String,
    /// Bytes of the text that was parsed.
    pub span: Range<usize>,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cause, self.help)
    }
}

impl std::error::Error for PatternError {}

fn wrong(span: Range<usize>, cause: impl Into<String>, help: impl Into<String>) -> PatternError {
    PatternError {
        cause: cause.into(),
        help: help.into(),
        span,
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn path(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    pub(super) fn canonical(pattern: &str, raw: &str, name: &str) -> Option<String> {
        let captures = path(pattern).match_canonical(raw)?;
        captures.get(name).map(str::to_owned)
    }

    pub(super) fn purged(pattern: &str, raw: &str, name: &str) -> Option<String> {
        let captures = path(pattern).match_decoded(&Decoded::of(raw))?;
        captures.get(name).map(str::to_owned)
    }

    pub(super) const DETAIL: &str = "/api/users/<int:id>/";

    #[test]
    fn another_spelling_is_purged_but_never_looked_up() {
        for other in [
            "/api/users/07/",
            "/api/users/%37/",
            "/api/users/7%2f",
            "/api//users/7/",
            "/api/users/./7/",
            "/api/users/8/../7/",
            "/api/users/7;x=1/",
            "/%61pi/users/7/",
            "/api/users/7//",
            "/api/users/%2E/7/",
        ] {
            assert_eq!(canonical(DETAIL, other, "id"), None, "{other}");
            assert_eq!(purged(DETAIL, other, "id").as_deref(), Some("7"), "{other}");
        }
        assert_eq!(
            purged(DETAIL, "/api/users/000/", "id").as_deref(),
            Some("0")
        );
        assert_eq!(
            canonical(DETAIL, "/api/users/0/", "id").as_deref(),
            Some("0")
        );
    }

    #[test]
    fn a_look_alike_is_never_the_detail_route() {
        for other in [
            "/api/users/7%2f",
            "/API/users/7/",
            "/api/users/7/.css",
            "/api/users/7/x.css",
            "/api/users/7%00/",
            "/api/users/7%3Bx/",
            "/api/users/7%20/",
            "/api/users/7/?",
            "",
            "/",
            "*",
            "api/users/7/",
        ] {
            assert_eq!(canonical(DETAIL, other, "id"), None, "{other}");
        }
        for other in [
            "/API/users/7/",
            "/api/users/7/.css",
            "/api/users/7%20/",
            "*",
        ] {
            assert_eq!(purged(DETAIL, other, "id"), None, "{other}");
        }
    }

    #[test]
    fn what_must_be_encoded_has_one_canonical_encoding() {
        let value = |raw| canonical("/u/<str:n>/", raw, "n");
        assert_eq!(value("/u/%C3%A9/").as_deref(), Some("é"));
        assert_eq!(value("/u/a%20b/").as_deref(), Some("a b"));
        assert_eq!(value("/u/%E2%82%AC%F0%9F%98%80/").as_deref(), Some("€😀"));
        assert_eq!(value("/u/a:b@c/").as_deref(), Some("a:b@c"));
        for other in [
            "/u/%c3%a9/",
            "/u/é/",
            "/u/%C3/",
            "/u/%C3%28/",
            "/u/%FF/",
            "/u/%ED%A0%80/",
            "/u/%C0%AF/",
            "/u/a%3Ab/",
            "/u/%7E/",
            "/u/%/",
            "/u/%4/",
            "/u/%zz/",
            "/u/%25/",
            "/u/%2541/",
            "/u/%5C/",
            "/u/%0A/",
            "/u/%7F/",
            "/u/%3B/",
        ] {
            assert_eq!(value(other), None, "{other}");
        }
        assert_eq!(
            canonical("/straße/<int:n>", "/stra%C3%9Fe/1", "n").as_deref(),
            Some("1")
        );
        assert_eq!(
            purged("/straße/<int:n>", "/stra%C3%9Fe/1", "n").as_deref(),
            Some("1")
        );
        // "A9" ends the escape of é; it is no text of its own.
        assert_eq!(canonical("/u/<str:n>9", "/u/%C3%A9", "n"), None);
        assert_eq!(canonical("/u/<str:n>A9", "/u/%C3%A9", "n"), None);
    }

    #[test]
    fn what_is_no_utf8_still_purges_what_is_below() {
        assert_eq!(
            purged("/u/<path:rest>", "/u/%FF/x", "rest").as_deref(),
            Some("\u{FFFD}/x")
        );
    }

    #[test]
    fn a_path_that_two_servers_read_differently_is_purged_by_both_readings() {
        let rules = [path(DETAIL), path("/api/users/<path:rest>")];
        let found = |raw: &str| -> Vec<String> {
            first_matches(&rules, Some, &Decoded::of(raw))
                .iter()
                .map(|(rule, _)| rule.as_str().to_owned())
                .collect()
        };
        assert_eq!(found("/api/users/7/"), [DETAIL]);
        assert_eq!(found("/api/users//7/"), ["/api/users/<path:rest>", DETAIL]);
        assert_eq!(
            found("/api/users/me/../7/"),
            ["/api/users/<path:rest>", DETAIL]
        );
        assert_eq!(found("/api/users/me//"), ["/api/users/<path:rest>"; 2]);
        assert_eq!(found("/api/users/7%2F"), [DETAIL]);
        assert!(found("/elsewhere/").is_empty());
    }

    #[test]
    fn what_a_looser_server_takes_for_the_same_path_is_purged_by_the_first_rule_that_it_would_be() {
        let rules = [
            path("/Users"),
            path("/Users/<str:id>"),
            path("/Users/<path:rest>"),
        ];
        let found = |raw: &str| -> Vec<(String, Option<String>)> {
            loose_matches(&rules, Some, &Decoded::of(raw), &[])
                .iter()
                .map(|(rule, captures)| {
                    let id = captures.get("id").map(str::to_owned);
                    (rule.as_str().to_owned(), id)
                })
                .collect()
        };
        let list = [("/Users".to_owned(), None)];
        for raw in [
            "/Users",
            "/users/",
            "/USERS",
            "/users.json",
            "/users.json/",
            "/%75sers",
        ] {
            assert_eq!(found(raw), list, "{raw}");
        }
        let of = |id: &str| ("/Users/<str:id>".to_owned(), Some(id.to_owned()));
        assert_eq!(found("/users/Bob/"), [of("Bob")]);
        assert_eq!(found("/users/a.b"), [of("a.b"), of("a")]);
        assert_eq!(found("/users/.json"), [of(".json")]);
        assert_eq!(found("/users/a.b-c"), [of("a.b-c")]);
        assert_eq!(found("/users/7/x")[0].0, "/Users/<path:rest>");
        assert!(found("/user").is_empty() && found("*").is_empty() && found("/").is_empty());
    }

    #[test]
    fn of_what_is_read_loosely_that_to_the_letter_is_left_out_and_nothing_else() {
        let rules = [
            "/up/<str:a>/<str:b>/",
            "/users",
            "/users/",
            "/Users/<str:id>",
            "/users/<int:n>/",
        ]
        .map(path);
        for raw in [
            "/users",
            "/users/",
            "/Users/",
            "/users/7",
            "/users/7/",
            "/users/07/",
            "/Users/a.b",
            "/users/7.json",
            "/users.json",
            "/users//7/",
            "/users/./7",
            "/users/%37/",
            "/x/",
            "/up/../USERS/",
        ] {
            let path = Decoded::of(raw);
            let to_the_letter = first_matches(&rules, Some, &path);
            let mut all = loose_matches(&rules, Some, &path, &[]);
            all.retain(|(rule, captures)| !is_among(&to_the_letter, rule, captures));
            assert_eq!(
                loose_matches(&rules, Some, &path, &to_the_letter),
                all,
                "{raw}"
            );
        }
    }

    #[test]
    fn an_error_points_at_the_piece_that_is_wrong() {
        let text = "/api/users/<itn:id>/";
        assert_eq!(&text[PathPattern::parse(text).unwrap_err().span], "itn");
        let text = "/api/<id>/x<id>/";
        assert_eq!(&text[PathPattern::parse(text).unwrap_err().span], "x<id>");
        let text = "users:detail:{id}{x}";
        assert_eq!(&text[KeyTemplate::parse(text).unwrap_err().span], "{x}");
    }

    proptest! {
        #[test]
        fn what_may_be_looked_up_is_purged_under_the_same_name(
            raw in "/(u|é|%C3%A9|a)/([0-9]{1,3}|[a-z%0-9C;./]{0,8}|%[0-9A-F]{2}){1,3}/?"
        ) {
            for pattern in ["/u/<int:id>/", "/u/<id>", "/é/<slug:id>/", "/a/<path:id>", "/u/x<str:id>9", "/<path:a>/<b>"] {
                let pattern = path(pattern);
                if let Some(captures) = pattern.match_canonical(&raw) {
                    let decoded = Decoded::of(&raw);
                    prop_assert_eq!(decoded.forms().count(), 1);
                    prop_assert_eq!(Some(captures), pattern.match_decoded(&decoded));
                }
            }
        }

        #[test]
        fn of_all_spellings_only_one_is_canonical(a in "/[a%C3A9é0-7]{1,9}", b in "/[a%C3A9é0-7]{1,9}") {
            let pattern = path("/<path:p>");
            if let (Some(x), Some(y)) = (pattern.match_canonical(&a), pattern.match_canonical(&b)) {
                prop_assert_eq!(x == y, a == b);
            }
        }

        #[test]
        fn no_path_makes_matching_fail(raw in "\\PC{0,40}") {
            let _ = path("/<path:p>/x<int:n>").match_canonical(&raw);
            let _ = Decoded::of(&raw);
        }
    }
}
