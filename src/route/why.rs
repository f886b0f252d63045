//! Why a path is not a pattern's, in words; and a pattern's path with its captures filled in.

use std::fmt;

use super::Captures;
use super::path::PathPattern;
use super::segment::{Converter, Segment, Values};
use super::spelling::{Decoded, Spelling, is_raw_in_path, push_encoded};

/// The first place at which a path and a pattern part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// A word where the pattern has another.
    Word {
        expected: String,
        found: String,
    },
    /// `<int:id>` does not take `me`.
    Converter {
        capture: String,
        found: String,
    },
    /// `/api/users` for `/api/users/`.
    NoSlashAtTheEnd,
    SlashAtTheEnd,
    /// It ends where the pattern goes on.
    EndsBefore(String),
    /// It goes on where the pattern ends.
    GoesOn(String),
    Otherwise,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Word { expected, found } => {
                write!(f, "has `{expected}` where this path has `{found}`")
            }
            Mismatch::Converter { capture, found } => {
                write!(f, "its `{capture}` does not match `{found}`")
            }
            Mismatch::NoSlashAtTheEnd => f.write_str("ends with a slash, and this path does not"),
            Mismatch::SlashAtTheEnd => f.write_str("ends without a slash, and this path has one"),
            Mismatch::EndsBefore(rest) => write!(f, "goes on with `{rest}` where this path ends"),
            Mismatch::GoesOn(rest) => write!(f, "ends where this path goes on with `{rest}`"),
            Mismatch::Otherwise => f.write_str("does not match"),
        }
    }
}

impl PathPattern {
    /// Where a path that is not this pattern's parts from it.
    pub fn mismatch(&self, raw_path: &str) -> Mismatch {
        let decoded = Decoded::of(raw_path);
        let path = decoded.plain.strip_prefix('/').unwrap_or(&decoded.plain);
        let written = |n: usize| {
            let words: Vec<&str> = self.text.split('/').skip(1 + n).collect();
            words.join("/")
        };
        let parts: Vec<&str> = path.split('/').collect();
        for (n, segment) in self.front.iter().enumerate() {
            let last = self.rest.is_none() && n + 1 == self.front.len();
            let Some(part) = parts.get(n) else {
                return match segment.is_empty() && last {
                    true => Mismatch::NoSlashAtTheEnd,
                    false => Mismatch::EndsBefore(written(n)),
                };
            };
            if segment
                .take(part, Spelling::Decoded, &mut Values::new())
                .is_some()
            {
                continue;
            }
            let found = (*part).to_owned();
            return match segment {
                _ if segment.is_empty() && last => Mismatch::GoesOn(parts[n..].join("/")),
                _ if part.is_empty() && n + 1 == parts.len() => Mismatch::EndsBefore(written(n)),
                Segment { capture: None, .. } => Mismatch::Word {
                    expected: segment.before.decoded.clone(),
                    found,
                },
                _ => Mismatch::Converter {
                    capture: written(n).split('/').next().unwrap_or_default().to_owned(),
                    found,
                },
            };
        }
        match (&self.rest, parts.get(self.front.len()..)) {
            (None, Some([""])) => Mismatch::SlashAtTheEnd,
            (None, Some([_, ..])) => Mismatch::GoesOn(parts[self.front.len()..].join("/")),
            (Some(_), None | Some([] | [""])) => Mismatch::EndsBefore(written(self.front.len())),
            _ => Mismatch::Otherwise,
        }
    }

    /// The path with these values in place of its captures, in its canonical spelling; a capture without a value
    /// stays as it is written.
    pub fn filled(&self, captures: &Captures) -> String {
        let mut path = String::new();
        let words = self.text.split('/').skip(1);
        for (segment, word) in self.segments().zip(words) {
            path.push('/');
            let Some(capture) = &segment.capture else {
                path.push_str(&segment.before.encoded);
                continue;
            };
            let Some(value) = captures.get(&capture.name) else {
                path.push_str(word);
                continue;
            };
            path.push_str(&segment.before.encoded);
            for byte in value.bytes() {
                let slash = byte == b'/' && capture.converter == Converter::Path;
                push_encoded(&mut path, byte, slash || is_raw_in_path(byte));
            }
            path.push_str(&segment.after.encoded);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn why(pattern: &str, path: &str) -> String {
        PathPattern::parse(pattern)
            .unwrap()
            .mismatch(path)
            .to_string()
    }

    #[test]
    fn it_names_the_first_place_at_which_they_part() {
        for (pattern, path, expected) in [
            (
                "/api/users/<int:id>/",
                "/api/users/me/",
                "its `<int:id>` does not match `me`",
            ),
            (
                "/api/users/",
                "/api/users/7/",
                "ends where this path goes on with `7/`",
            ),
            (
                "/api/users/",
                "/api/users",
                "ends with a slash, and this path does not",
            ),
            (
                "/api/users",
                "/api/users/",
                "ends without a slash, and this path has one",
            ),
            (
                "/api/users/<int:id>/",
                "/api/users/",
                "goes on with `<int:id>/` where this path ends",
            ),
            (
                "/api/users/<path:rest>",
                "/api/users/",
                "goes on with `<path:rest>` where this path ends",
            ),
            (
                "/api/users/",
                "/api/roles/",
                "has `users` where this path has `roles`",
            ),
        ] {
            assert_eq!(why(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_filled_path_has_what_is_known_and_keeps_what_is_not() {
        let pattern = PathPattern::parse("/u/<str:name>/x<int:id>y/<path:rest>").unwrap();
        let captures = [("name", "a b"), ("id", "7")].into_iter().collect();
        assert_eq!(pattern.filled(&captures), "/u/a%20b/x7y/<path:rest>");
    }

    proptest! {
        #[test]
        fn a_path_filled_with_what_it_captured_is_the_path(value in "[a-z0-9 .~%/äé]{1,12}") {
            let pattern = PathPattern::parse("/u/<str:name>/").unwrap();
            let path = pattern.filled(&[("name", value.as_str())].into_iter().collect());
            if let Some(captures) = pattern.match_canonical(&path) {
                prop_assert_eq!(pattern.filled(&captures), path);
            }
        }
    }
}
