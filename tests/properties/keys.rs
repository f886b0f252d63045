//! Keys of copies: no two sets of parts make one key. Input: two sets, a part a line, an empty line between: a letter
//! for the kind, then its pieces, each between tabs.

use http::{HeaderName, HeaderValue};
use larder::caching::key::{CopyKey, HashingSecret};
use larder::route::{Captures, FamilyKey, KeyTemplate};

const SECRET: HashingSecret = HashingSecret([7; 32]);

/// As the key is told them.
#[derive(Debug, PartialEq)]
enum Part {
    Credential(HeaderName, HeaderValue),
    Cookie(Vec<u8>),
    Query(String),
    Accept(String),
    Field(HeaderName, HeaderValue),
    Uri(String, String, Option<String>),
    Selecting(HeaderName, Option<HeaderValue>),
    Language(String),
    Scope(String, Option<String>),
    Partial,
}

pub fn holds(data: &[u8]) {
    let mut sets = vec![Vec::new()];
    for line in super::lines(data) {
        match line {
            [] => sets.push(Vec::new()),
            line => sets.last_mut().unwrap().extend(part(line)),
        }
    }
    let keys: Vec<String> = sets.iter().map(|set| key(set)).collect();
    for (set, key) in sets.iter().zip(&keys) {
        for (other, others) in sets.iter().zip(&keys) {
            assert_eq!(key == others, set == other, "{set:?}\n{other:?}");
        }
    }
}

fn part(line: &[u8]) -> Option<Part> {
    let mut pieces = line[1..].split(|&byte| byte == b'\t');
    let text = |piece: &[u8]| String::from_utf8(piece.to_vec()).ok();
    let name = |piece: &[u8]| HeaderName::from_bytes(piece).ok();
    let value = |piece: &[u8]| HeaderValue::from_bytes(piece).ok();
    let first = pieces.next()?;
    Some(match line[0] {
        b'a' => Part::Credential(name(first)?, value(pieces.next()?)?),
        b'c' => Part::Cookie(first.to_vec()),
        b'q' => Part::Query(text(first)?),
        b't' => Part::Accept(text(first)?),
        b'f' => Part::Field(name(first)?, value(pieces.next()?)?),
        b'u' => Part::Uri(
            text(first)?,
            text(pieces.next()?)?,
            pieces.next().and_then(text),
        ),
        b's' => Part::Selecting(name(first)?, pieces.next().and_then(value)),
        b'l' => Part::Language(text(first)?),
        b'v' => Part::Scope(text(first)?, pieces.next().and_then(text)),
        b'p' => Part::Partial,
        _ => return None,
    })
}

fn key(parts: &[Part]) -> String {
    let mut key = CopyKey::new(&SECRET);
    for part in parts {
        match part {
            Part::Credential(name, value) => key.credential(name, value),
            Part::Cookie(pair) => key.cookie(pair),
            Part::Query(query) => key.query(query),
            Part::Accept(accept) => key.accept(accept),
            Part::Field(name, value) => key.field(name, std::iter::once(value)),
            Part::Uri(origin, path, query) => key.uri(origin, path, query.as_deref()),
            Part::Selecting(name, value) => {
                key.selecting(name, value.as_ref().map(HeaderValue::as_bytes))
            }
            Part::Language(language) => key.language(language),
            Part::Scope(pointer, value) => key.scope(pointer, value.as_deref()),
            Part::Partial => key.partial(),
        }
    }
    key.of("t", &family())
}

fn family() -> FamilyKey {
    let template = KeyTemplate::parse("users:list").expect("a template");
    template.family(&Captures::default()).expect("a family")
}
