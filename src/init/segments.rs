//! How the paths of a description lie to each other, and how the file writes them. Pure.

use super::schema::{Converter, Segment};
use crate::route::PathPattern;

/// Without the slash at its end.
pub fn trimmed(segments: &[Segment]) -> &[Segment] {
    match segments {
        [own @ .., Segment::Literal(last)] if last.is_empty() => own,
        own => own,
    }
}

pub fn captures(segments: &[Segment]) -> impl Iterator<Item = &str> {
    segments.iter().filter_map(|segment| match segment {
        Segment::Capture { name, .. } => Some(name.as_str()),
        Segment::Literal(_) => None,
    })
}

pub fn takes(converter: Converter, text: &str) -> bool {
    match converter {
        Converter::Any | Converter::Path => true,
        Converter::Int => text.bytes().all(|b| b.is_ascii_digit()),
        Converter::Slug => text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
        Converter::Uuid => text.len() == 36,
    }
}

/// Whether the one path begins the other, whatever the two capture.
pub fn begins(one: &[Segment], other: &[Segment]) -> bool {
    one.len() <= other.len()
        && one.iter().zip(other).all(|pair| match pair {
            (Segment::Literal(one), Segment::Literal(other)) => one == other,
            (Segment::Capture { .. }, Segment::Capture { .. }) => true,
            _ => false,
        })
}

/// How the other path names what the one that begins it captures; 07 and 7 are one thing only where both take numbers.
pub fn names_in(one: &[Segment], other: &[Segment]) -> Option<Vec<String>> {
    if !begins(one, other) {
        return None;
    }
    let mut names = Vec::new();
    for pair in one.iter().zip(other) {
        if let (
            Segment::Capture { converter: one, .. },
            Segment::Capture {
                name,
                converter: other,
            },
        ) = pair
        {
            if (*one == Converter::Int) != (*other == Converter::Int) {
                return None;
            }
            names.push(name.clone());
        }
    }
    Some(names)
}

/// Whether one path may be both's.
pub fn meet(one: &[Segment], other: &[Segment]) -> bool {
    use Segment::{Capture, Literal};
    match (one, other) {
        ([], []) => true,
        ([Capture { converter, .. }, ..], [_, ..]) if *converter == Converter::Path => true,
        ([first, one @ ..], [second, other @ ..]) => {
            let here = match (first, second) {
                (Literal(one), Literal(other)) => one == other,
                (Capture { converter, .. }, Literal(text))
                | (Literal(text), Capture { converter, .. }) => takes(*converter, text),
                (
                    Capture { converter: one, .. },
                    Capture {
                        converter: other, ..
                    },
                ) => !matches!(
                    (one, other),
                    (Converter::Int, Converter::Uuid) | (Converter::Uuid, Converter::Int)
                ),
            };
            here && meet(one, other)
        }
        _ => false,
    }
}

/// Whether the path names a thing, and something beneath it, like `/roles/<role_pk>/users/<id>/`: what is written there
/// may stand beneath another role, too, or come from there, or go there.
pub fn is_beneath_another(at: &[Segment]) -> bool {
    let mut after_the_first = { at.iter() }.skip_while(|part| matches!(part, Segment::Literal(_)));
    after_the_first.next();
    after_the_first.any(|part| matches!(part, Segment::Literal(text) if !text.is_empty()))
}

/// What the file has no words for may be any text there: that takes more than is meant.
pub fn sayable(segments: &[Segment]) -> Vec<Segment> {
    let each = segments
        .iter()
        .enumerate()
        .map(|(n, segment)| match segment {
            Segment::Literal(text)
                if text.contains('{') || PathPattern::parse(&format!("/{text}")).is_err() =>
            {
                Segment::Capture {
                    name: format!("text{n}"),
                    converter: Converter::Any,
                }
            }
            other => other.clone(),
        });
    each.collect()
}

pub fn parsed(segments: &[Segment]) -> Option<PathPattern> {
    PathPattern::parse(&pattern(segments)).ok()
}

/// As the file writes it.
fn pattern(segments: &[Segment]) -> String {
    let mut text = String::new();
    for segment in segments {
        text.push('/');
        match segment {
            Segment::Literal(literal) => text.push_str(literal),
            Segment::Capture { name, converter } => {
                let kind = match converter {
                    Converter::Any => "",
                    Converter::Int => "int:",
                    Converter::Slug => "slug:",
                    Converter::Uuid => "uuid:",
                    Converter::Path => "path:",
                };
                text.push_str(&format!("<{kind}{name}>"));
            }
        }
    }
    text
}
