//! What stands between two slashes of a pattern: literals, a capture, and which text its converter takes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::sets::{SLUG, UUID_LENGTH, in_set, uuid_set};
use super::spelling::{Spelling, is_raw_in_path, push_encoded};
use super::{PatternError, is_name, wrong};
use crate::config::nearest::nearest;

/// More would be no path any more, and the values found so far fit on the stack.
pub(super) const MOST_CAPTURES: usize = 8;

/// What stands between two slashes: a literal, or one capture with literals around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) before: Literal,
    pub(super) capture: Option<Capture>,
    pub(super) after: Literal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) decoded: String,
    /// As the canonical spelling has it.
    pub(super) encoded: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capture {
    pub(super) name: Arc<str>,
    pub(super) converter: Converter,
}

/// Django's path converters, by Django's own regular expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Converter {
    /// `[^/]+`
    Str,
    /// `[0-9]+`
    Int,
    /// `[-a-zA-Z0-9_]+`
    Slug,
    /// Lower case, with hyphens.
    Uuid,
    /// `.+`
    Path,
}

pub(super) type Values<'p> = SmallVec<[&'p str; MOST_CAPTURES]>;

impl Segment {
    pub(super) fn parse(written: &str, at: usize, last: bool) -> Result<Segment, PatternError> {
        let whole = at..at + written.len();
        if written.is_empty() && !last {
            return Err(wrong(
                at - 1..at + 1,
                "`//` in a path",
                "write one `/`: no path with `//` is ever cached",
            ));
        }
        if written == "." || written == ".." {
            return Err(wrong(
                whole,
                format!("`{written}` as a segment"),
                "write the path as it is after resolving dots: no other is ever cached",
            ));
        }
        if let Some(name) = written.strip_prefix(':') {
            return Err(wrong(
                whole,
                format!("`{written}` looks like a capture of another framework"),
                format!("write `<{name}>`, or `<int:{name}>` for digits only"),
            ));
        }
        let Some(open) = written.find('<') else {
            let before = Literal::parse(written, at)?;
            return Ok(Segment {
                before,
                capture: None,
                after: Literal::parse("", at)?,
            });
        };
        let before = Literal::parse(&written[..open], at)?;
        let Some(length) = written[open..].find('>') else {
            return Err(wrong(
                at + open..whole.end,
                "`<` without its `>` in the same segment",
                "write a capture as `<int:id>`",
            ));
        };
        let close = open + length;
        let capture = Capture::parse(&written[open + 1..close], at + open)?;
        let behind = &written[close + 1..];
        if behind.contains('<') {
            return Err(wrong(
                whole,
                "two captures in one segment",
                "capture the whole segment, as `<str:name>`: what is between two slashes is one value here",
            ));
        }
        let after = Literal::parse(behind, at + close + 1)?;
        Ok(Segment {
            before,
            capture: Some(capture),
            after,
        })
    }

    pub(super) fn take<'p>(
        &self,
        part: &'p str,
        spelling: Spelling,
        values: &mut Values<'p>,
    ) -> Option<()> {
        let (before, after) = match spelling {
            Spelling::Raw => (&self.before.encoded, &self.after.encoded),
            Spelling::Decoded | Spelling::AnyCase => (&self.before.decoded, &self.after.decoded),
        };
        let same = |text: &str, literal: &str| match spelling {
            Spelling::Raw | Spelling::Decoded => text == literal,
            Spelling::AnyCase => text.eq_ignore_ascii_case(literal),
        };
        let Some(capture) = &self.capture else {
            return same(part, before).then_some(());
        };
        let (lead, behind) = part.split_at_checked(before.len())?;
        let (value, tail) = behind.split_at_checked(behind.len().checked_sub(after.len())?)?;
        if !same(lead, before) || !same(tail, after) {
            return None;
        }
        capture
            .converter
            .accepts(value, spelling)
            .then(|| values.push(value))
    }

    /// A capture and nothing around it.
    pub(super) fn is_bare(&self) -> bool {
        self.capture.is_some() && self.before.decoded.is_empty() && self.after.decoded.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.capture.is_none() && self.before.decoded.is_empty()
    }

    pub(super) fn covers(&self, other: &Segment) -> bool {
        let Some(own) = &self.capture else {
            return other.capture.is_none() && self.before.decoded == other.before.decoded;
        };
        let Some(others) = &other.capture else {
            return self
                .take(&other.before.decoded, Spelling::Decoded, &mut Values::new())
                .is_some();
        };
        let same_around = self.before.decoded == other.before.decoded
            && self.after.decoded == other.after.decoded;
        let wider = match own.converter {
            Converter::Path => true,
            Converter::Str => others.converter != Converter::Path,
            Converter::Slug => !matches!(others.converter, Converter::Path | Converter::Str),
            Converter::Int => others.converter == Converter::Int,
            Converter::Uuid => others.converter == Converter::Uuid,
        };
        let takes_literals =
            self.is_bare() && matches!(own.converter, Converter::Str | Converter::Path);
        wider && (same_around || takes_literals)
    }
}

impl Literal {
    fn parse(text: &str, at: usize) -> Result<Literal, PatternError> {
        for (offset, c) in text.char_indices() {
            let span = at + offset..at + offset + c.len_utf8();
            let (cause, help) = match c {
                '^' | '$' | '(' | ')' | '[' | ']' | '|' | '\\' => (
                    format!("`{c}`: this looks like a regular expression"),
                    "write the path as in Django's path(), not re_path(): `/api/users/<int:id>/`",
                ),
                '*' => (
                    "`*` is no capture here".to_owned(),
                    "write `<path:rest>` for everything below, or `<str:name>` for one segment",
                ),
                '{' | '}' => (
                    format!("`{c}` belongs into keys"),
                    "write a capture of a path as `<id>` or `<int:id>`",
                ),
                '>' => (
                    "`>` without a `<` before it".to_owned(),
                    "write a capture as `<int:id>`",
                ),
                '?' | '#' => (
                    format!("`{c}`: a path ends before the query"),
                    "leave the query out; which parameters count is said by the route's `query`",
                ),
                ';' => (
                    "`;` in a path".to_owned(),
                    "leave it out: no path with `;` is ever cached",
                ),
                '%' => (
                    "percent-encoding in a path pattern".to_owned(),
                    "write the character itself, as Django's urls.py does",
                ),
                c if c.is_whitespace() || c.is_control() => {
                    ("white space in a path".to_owned(), "leave it out")
                }
                _ => continue,
            };
            return Err(wrong(span, cause, help));
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            push_encoded(&mut encoded, byte, is_raw_in_path(byte));
        }
        Ok(Literal {
            decoded: text.to_owned(),
            encoded,
        })
    }
}

impl Capture {
    /// `inside` is what stands between `<` and `>`; `at` is where `<` stands.
    fn parse(inside: &str, at: usize) -> Result<Capture, PatternError> {
        let span = at..at + inside.len() + 2;
        let (converter, name) = match inside.split_once(':') {
            Some((converter, name)) => (Converter::parse(converter, at + 1)?, name),
            None if Converter::NAMES.contains(&inside) => {
                return Err(wrong(
                    span,
                    format!("`<{inside}>` captures anything under the name `{inside}`"),
                    format!("write `<{inside}:id>`, with a name of its own"),
                ));
            }
            None => (Converter::Str, inside),
        };
        if name.is_empty() {
            return Err(wrong(span, "a capture without a name", "write `<int:id>`"));
        }
        if !is_name(name) {
            return Err(wrong(
                span,
                format!("`{name}` is not a name"),
                "use letters, digits and `_`, and begin with a letter",
            ));
        }
        Ok(Capture {
            name: name.into(),
            converter,
        })
    }
}

impl Converter {
    const NAMES: [&'static str; 5] = ["int", "str", "slug", "uuid", "path"];

    fn parse(name: &str, at: usize) -> Result<Converter, PatternError> {
        Ok(match name {
            "str" => Converter::Str,
            "int" => Converter::Int,
            "slug" => Converter::Slug,
            "uuid" => Converter::Uuid,
            "path" => Converter::Path,
            _ => {
                let help = match nearest(name, Self::NAMES) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!(
                        "there are {}; `<id>` alone is `<str:id>`",
                        Self::NAMES.join(", ")
                    ),
                };
                let cause = format!("there is no converter `{name}`");
                return Err(wrong(at..at + name.len().max(1), cause, help));
            }
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Converter::Str => "str",
            Converter::Int => "int",
            Converter::Slug => "slug",
            Converter::Uuid => "uuid",
            Converter::Path => "path",
        }
    }

    fn accepts(self, value: &str, spelling: Spelling) -> bool {
        // A literal behind the capture may have cut a percent-encoded byte in two.
        let cut = |value: &[u8]| matches!(value, [.., b'%'] | [.., b'%', _]);
        let bytes = value.as_bytes();
        if bytes.is_empty() || spelling == Spelling::Raw && cut(bytes) {
            return false;
        }
        match self {
            Converter::Str => !bytes.contains(&b'/'),
            Converter::Path => true,
            Converter::Int => {
                let canonical = bytes.len() == 1 || bytes[0] != b'0';
                bytes.iter().all(u8::is_ascii_digit) && (canonical || spelling != Spelling::Raw)
            }
            Converter::Slug => bytes.iter().all(|&b| in_set(SLUG, b)),
            Converter::Uuid => {
                bytes.len() == UUID_LENGTH
                    && bytes
                        .iter()
                        .enumerate()
                        .all(|(i, &b)| in_set(uuid_set(i), b))
            }
        }
    }

    /// The value that Django would hand to the view, as text.
    pub(super) fn convert(self, value: &str) -> String {
        match self {
            Converter::Int => match value.trim_start_matches('0') {
                "" => "0".to_owned(),
                digits => digits.to_owned(),
            },
            _ => value.to_owned(),
        }
    }
}
