//! A copy as it stands in Redis: the body as it is, one readable line, and a short footer.
//!
//! ```text
//! {"count": 2, …}                                   the body, byte for byte
//! ␊200⇥t=1763935200000000⇥age=0⇥life=3600000000⇥origin=http://…⇥vary=…⇥epochs=users:list~state@63f…-9a…⇥␉content-type: application/json⇥…
//! ␊larder1 <body length> <line length> <xxh3 of all before it>
//! ```
//! Numbers of the footer are fixed-width hex, so it is found from the end. Whatever does not agree in magic,
//! version, length or checksum is none of ours: a miss, never served.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use crate::caching::stored::Stored;
use crate::clock::Timestamp;
use crate::coherence::{Epoch, Epochs, StateKey};

const MAGIC: &[u8] = b"\nlarder1 ";
/// Magic, two lengths of 8 hex digits and a checksum of 16, with spaces between.
const FOOTER: usize = MAGIC.len() + 8 + 1 + 8 + 1 + 16;

/// The value to store, in one buffer.
pub fn encode(stored: &Stored) -> Vec<u8> {
    use std::io::Write;
    let mut value = Vec::with_capacity(stored.body.len() + 512 + FOOTER);
    value.extend_from_slice(&stored.body);
    let line_start = value.len();
    let _ = write!(
        value,
        "\n{}\tt={}\tage={}\tlife={}\torigin={}\tvary=",
        stored.status.as_str(),
        stored.response_time.as_micros(),
        stored.initial_age.as_micros(),
        stored.lifetime.as_micros(),
        stored.origin,
    );
    for (n, name) in stored.varied.iter().enumerate() {
        let _ = write!(value, "{}{name}", if n > 0 { "," } else { "" });
    }
    value.extend_from_slice(b"\tepochs=");
    for (n, (state, epoch)) in stored.epochs.iter().enumerate() {
        let _ = write!(value, "{}{state}@{epoch}", if n > 0 { "," } else { "" });
    }
    for (name, field) in &stored.fields {
        let _ = write!(value, "\t{name}: ");
        escape(field.as_bytes(), &mut value);
    }
    let (body, line) = (line_start, value.len() - line_start);
    let checksum = xxh3_64(&value);
    let _ = write!(value, "\nlarder1 {body:08x} {line:08x} {checksum:016x}");
    value
}

/// The copy in a value, sharing its bytes; `None` if it is none of ours, or not whole. The names of states that
/// are among `known` are shared, too.
pub fn decode(value: &Bytes, known: &[StateKey]) -> Option<Stored> {
    let footer_start = value.len().checked_sub(FOOTER)?;
    let (content, footer) = value.split_at(footer_start);
    let numbers = std::str::from_utf8(footer.strip_prefix(MAGIC)?).ok()?;
    let hex = |range: std::ops::Range<usize>| {
        let digits = numbers.get(range)?;
        let canonical = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(digits, 16).ok().filter(|_| canonical)
    };
    let (body, line, checksum) = (hex(0..8)? as usize, hex(9..17)? as usize, hex(18..34)?);
    let spaces = numbers.as_bytes()[8] == b' ' && numbers.as_bytes()[17] == b' ';
    if !spaces || body.checked_add(line)? != content.len() || xxh3_64(content) != checksum {
        return None;
    }
    let mut words = content[body..].strip_prefix(b"\n")?.split(|&b| b == b'\t');
    let status = StatusCode::from_bytes(words.next()?).ok()?;
    let mut named = |name: &str| std::str::from_utf8(words.next()?).ok()?.strip_prefix(name);
    let response_time = Timestamp::from_micros(named("t=")?.parse().ok()?);
    let initial_age = Duration::from_micros(named("age=")?.parse().ok()?);
    let lifetime = Duration::from_micros(named("life=")?.parse().ok()?);
    let origin = named("origin=")?.to_owned();
    let varied = list(named("vary=")?)
        .map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect::<Option<_>>()?;
    let epochs = list(named("epochs=")?)
        .map(|entry| {
            let (state, epoch) = entry.rsplit_once('@')?;
            let state = match known.iter().find(|known| known.as_str() == state) {
                Some(known) => known.clone(),
                None => StateKey::new(state),
            };
            Some((state, Epoch::parse(epoch)?))
        })
        .collect::<Option<Epochs>>()?;
    // Room for what a hit adds.
    let mut fields = HeaderMap::with_capacity(8);
    for word in words {
        let colon = word.windows(2).position(|w| w == b": ")?;
        let name = HeaderName::from_bytes(&word[..colon]).ok()?;
        fields.append(name, field_value(value, &word[colon + 2..])?);
    }
    Some(Stored {
        status,
        fields,
        body: value.slice(..body),
        response_time,
        initial_age,
        lifetime,
        origin,
        varied,
        epochs,
    })
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|member| !member.is_empty())
}

/// A tab may stand in a field's value, but is our separator.
fn escape(field: &[u8], into: &mut Vec<u8>) {
    for &byte in field {
        match byte {
            b'\t' => into.extend_from_slice(b"\\t"),
            b'\\' => into.extend_from_slice(b"\\\\"),
            byte => into.push(byte),
        }
    }
}

/// Shares the value's bytes wherever nothing was escaped.
fn field_value(value: &Bytes, word: &[u8]) -> Option<HeaderValue> {
    if memchr::memchr(b'\\', word).is_none() {
        return HeaderValue::from_maybe_shared(value.slice_ref(word)).ok();
    }
    let mut plain = Vec::with_capacity(word.len());
    let mut bytes = word.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b't' => b'\t',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    HeaderValue::from_bytes(&plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Stored {
        let mut fields = HeaderMap::new();
        fields.append("content-type", HeaderValue::from_static("application/json"));
        fields.append("x-odd", HeaderValue::from_bytes(b"a\tb\\c: \xff").unwrap());
        fields.append("x-odd", HeaderValue::from_static("second"));
        Stored {
            status: StatusCode::OK,
            fields,
            body: Bytes::from_static(b"{\"id\": 7}"),
            response_time: Timestamp::from_micros(1_763_935_200_000_000),
            initial_age: Duration::from_millis(3),
            lifetime: Duration::from_secs(3600),
            origin: "http://api.example.org".into(),
            varied: vec![http::header::ORIGIN],
            epochs: [
                (
                    StateKey::new("users:detail:7~state"),
                    Epoch::new(Timestamp::from_micros(5), Default::default(), 6),
                ),
                (
                    StateKey::new("users:detail~all"),
                    Epoch::new(Timestamp::from_micros(7), Default::default(), 8),
                ),
            ]
            .into_iter()
            .collect(),
        }
    }

    #[test]
    fn the_value_begins_with_the_body_as_it_is() {
        assert!(encode(&sample()).starts_with(b"{\"id\": 7}\n200\t"));
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&encode(&sample()).into(), &[]), Some(sample()));
    }

    #[test]
    fn any_flipped_bit_is_none_of_ours() {
        let value = encode(&sample());
        for position in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[position / 8] ^= 1 << (position % 8);
            assert_eq!(decode(&flipped.into(), &[]), None, "bit {position}");
        }
    }

    #[test]
    fn anything_cut_short_or_foreign_is_none_of_ours() {
        let value = encode(&sample());
        for length in 0..value.len() {
            assert_eq!(decode(&value[..length].to_vec().into(), &[]), None);
            assert_eq!(decode(&value[length + 1..].to_vec().into(), &[]), None);
        }
        let pickle: &[u8] =
            b"\x80\x05\x95\x11\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x02id\x94K\x07s.";
        assert_eq!(decode(&Bytes::from_static(pickle), &[]), None);
    }

    proptest! {
        #[test]
        fn decoding_anything_neither_panics_nor_succeeds(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode(&value.into(), &[]), None);
        }

        #[test]
        fn any_body_and_fields_survive(body in proptest::collection::vec(any::<u8>(), 0..300), field in proptest::collection::vec(32u8..=255, 0..40)) {
            let mut stored = sample();
            stored.body = body.into();
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                stored.fields.append("x-any", value);
            }
            prop_assert_eq!(decode(&encode(&stored).into(), &[]), Some(stored));
        }
    }
}
