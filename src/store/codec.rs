//! A copy as it stands in Redis: the body as it is, one readable line, and a short footer.
//!
//! ```text
//! {"count": 2, …}                                   the body, byte for byte
//! ␊200⇥t=1763935200000000⇥took=1200⇥age=0⇥life=3600000000⇥epochs=users:list~state@63f…-9a…⇥date: Mon, …⇥origin=http://…⇥vary=…⇥of=…⇥content-type: application/json⇥…
//! ␊larder6 <body length> <line length> <xxh3 of its key and of all before it>
//! ```
//! Numbers of the footer are fixed-width hex, so it is found from the end. Whatever does not agree in magic,
//! version, length or checksum is none of ours: a miss, never served. So is what was kept at another key: it may be
//! another user's, and a store that answers out of step gives it to whoever asks.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::caching::head::Head;
use crate::caching::stored::Stored;
use crate::clock::Timestamp;
use crate::coherence::{Epoch, Epochs, StateKey};
use crate::hexadecimal;

/// With the version of the format.
pub const MAGIC: &[u8] = b"\nlarder6 ";
/// Magic, two lengths of 8 hex digits and a checksum of 16, with spaces between.
const FOOTER: usize = MAGIC.len() + 8 + 1 + 8 + 1 + 16;

/// The value to store at `key`, in one buffer.
pub fn encode(key: &[u8], stored: &Stored) -> Vec<u8> {
    let mut value = Vec::with_capacity(stored.body.len() + 768 + FOOTER);
    value.extend_from_slice(&stored.body);
    let line_start = value.len();
    value.push(b'\n');
    value.extend_from_slice(stored.status.as_str().as_bytes());
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    for (name, number) in [
        ("\tt=", stored.response_time.as_micros()),
        ("\ttook=", micros(stored.took)),
        ("\tage=", micros(stored.initial_age)),
        ("\tlife=", micros(stored.lifetime)),
    ] {
        value.extend_from_slice(name.as_bytes());
        value.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
    value.extend_from_slice(b"\tepochs=");
    for (n, (state, epoch)) in stored.epochs.iter().enumerate() {
        // No name of a state holds a blank, while a key of the operator's may hold a comma.
        value.extend_from_slice(if n > 0 { b" " } else { b"" });
        value.extend_from_slice(state.as_str().as_bytes());
        value.push(b'@');
        epoch.write(&mut value);
    }
    stored.head.write(&mut value);
    let (body, line) = (line_start, value.len() - line_start);
    let checksum = checksum(key, &value);
    value.extend_from_slice(MAGIC);
    // Of the lengths eight digits, of the checksum all.
    for (number, from) in [(body as u64, 8), (line as u64, 8), (checksum, 0)] {
        value.extend_from_slice(&hexadecimal::padded(number)[from..]);
        value.push(b' ');
    }
    value.pop();
    value
}

/// The copy in the value at `key`, sharing its bytes; `None` if it is none of ours, or not whole. The names of states that
/// are among `known` are shared, too.
pub fn decode(key: &[u8], value: &Bytes, known: &[StateKey]) -> Option<Stored> {
    let footer_start = value.len().checked_sub(FOOTER)?;
    let (content, footer) = value.split_at(footer_start);
    let numbers: &[u8; 34] = footer.strip_prefix(MAGIC)?.try_into().ok()?;
    let (body, line) = (
        hexadecimal::read(&numbers[..8])? as usize,
        hexadecimal::read(&numbers[9..17])? as usize,
    );
    let written = hexadecimal::read(&numbers[18..])?;
    let spaces = numbers[8] == b' ' && numbers[17] == b' ';
    if !spaces || body.checked_add(line)? != content.len() || checksum(key, content) != written {
        return None;
    }
    let mut line = content[body..].strip_prefix(b"\n")?;
    let mut word = || {
        let end = memchr::memchr(b'\t', line)?;
        let word;
        (word, line) = (&line[..end], &line[end + 1..]);
        Some(word)
    };
    let status = StatusCode::from_bytes(word()?).ok()?;
    let mut number = |name: &[u8]| decimal(word()?.strip_prefix(name)?);
    let response_time = Timestamp::from_micros(number(b"t=")?);
    let took = Duration::from_micros(number(b"took=")?);
    let initial_age = Duration::from_micros(number(b"age=")?);
    let lifetime = Duration::from_micros(number(b"life=")?);
    let epochs = word()?.strip_prefix(b"epochs=")?;
    let epochs = epochs
        .split(|&b| b == b' ')
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let at = memchr::memrchr(b'@', entry)?;
            let (state, epoch) = (&entry[..at], &entry[at + 1..]);
            let state = match known
                .iter()
                .find(|known| known.as_str().as_bytes() == state)
            {
                Some(known) => known.clone(),
                None => StateKey::new(std::str::from_utf8(state).ok()?),
            };
            Some((state, Epoch::parse(epoch)?))
        })
        .collect::<Option<Epochs>>()?;
    Some(Stored {
        status,
        head: Head::read(&value.slice_ref(line))?,
        body: value.slice(..body),
        response_time,
        took,
        initial_age,
        lifetime,
        epochs,
    })
}

fn checksum(key: &[u8], content: &[u8]) -> u64 {
    xxh3_64_with_seed(content, xxh3_64(key))
}

/// Up to 19 digits, which no u64 is too small for.
fn decimal(digits: &[u8]) -> Option<u64> {
    let (mut number, mut all) = (0, matches!(digits.len(), 1..=19));
    for digit in digits.iter().take(19) {
        all &= digit.is_ascii_digit();
        number = number * 10 + u64::from(digit & 0xf);
    }
    all.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    const KEY: &[u8] = b"t:users:detail:7~9a45";

    fn sample() -> Stored {
        let mut fields = HeaderMap::new();
        fields.append("content-type", HeaderValue::from_static("application/json"));
        fields.append("x-odd", HeaderValue::from_bytes(b"a\tb\\c: \xff").unwrap());
        fields.append("x-odd", HeaderValue::from_static("second"));
        Stored {
            status: StatusCode::OK,
            head: Head::new(fields, "http://api.example.org", &[http::header::ORIGIN]),
            body: Bytes::from_static(b"{\"id\": 7}"),
            response_time: Timestamp::from_micros(1_763_935_200_000_000),
            took: Duration::from_millis(2),
            initial_age: Duration::from_millis(3),
            lifetime: Duration::from_secs(3600),
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
    fn what_was_kept_at_another_key_is_none_of_ours() {
        let value = Bytes::from(encode(KEY, &sample()));
        let another = b"t:users:detail:7~9a46";
        assert_eq!(decode(another, &value, &[]), None);
    }

    #[test]
    fn the_value_begins_with_the_body_as_it_is() {
        assert!(encode(KEY, &sample()).starts_with(b"{\"id\": 7}\n200\t"));
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(
            decode(KEY, &encode(KEY, &sample()).into(), &[]),
            Some(sample())
        );
    }

    #[test]
    fn any_flipped_bit_is_none_of_ours() {
        let value = encode(KEY, &sample());
        for position in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[position / 8] ^= 1 << (position % 8);
            assert_eq!(decode(KEY, &flipped.into(), &[]), None, "bit {position}");
        }
    }

    #[test]
    fn anything_cut_short_or_foreign_is_none_of_ours() {
        let value = encode(KEY, &sample());
        for length in 0..value.len() {
            assert_eq!(decode(KEY, &value[..length].to_vec().into(), &[]), None);
            assert_eq!(decode(KEY, &value[length + 1..].to_vec().into(), &[]), None);
        }
        let pickle: &[u8] =
            b"\x80\x05\x95\x11\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x02id\x94K\x07s.";
        assert_eq!(decode(KEY, &Bytes::from_static(pickle), &[]), None);
    }

    proptest! {
        #[test]
        fn states_of_any_name_survive(names in proptest::collection::vec("[!-~]{1,20}", 0..4)) {
            let epoch = Epoch::new(Timestamp::from_micros(5), Default::default(), 6);
            let epochs = names.iter().map(|name| (StateKey::new(name.as_str()), epoch));
            let stored = Stored { epochs: epochs.collect(), ..sample() };
            prop_assert_eq!(decode(KEY, &encode(KEY, &stored).into(), &[]), Some(stored));
        }

        #[test]
        fn decoding_anything_neither_panics_nor_succeeds(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode(KEY, &value.into(), &[]), None);
        }

        #[test]
        fn any_body_and_fields_survive(body in proptest::collection::vec(any::<u8>(), 0..300), field in proptest::collection::vec(32u8..=255, 0..40)) {
            let mut stored = sample();
            stored.body = body.into();
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                let mut fields = stored.head.fields();
                fields.append("x-any", value);
                stored.head = Head::new(fields, stored.head.origin(), stored.head.varied());
            }
            prop_assert_eq!(decode(KEY, &encode(KEY, &stored).into(), &[]), Some(stored));
        }
    }
}
