//! Values known again by their bytes. What `codec::decode` makes of a value is a pure function of it, and hits read the same
//! value again and again: so what was made of it is remembered beside it, and compared byte for byte. Whether it is still
//! valid the states say, each time.
//!
//! Each thread remembers for itself, so that no core waits for another.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;

use crate::caching::stored::Stored;
use crate::coherence::{States, protocol};
use crate::store::codec;

/// Values that a thread remembers, each in the one place that its checksum gives it.
const PLACES: usize = 2048;

/// Bytes of a value that is remembered: of a larger one, reading its line is the least.
const LONGEST: usize = 4096;

/// Values of which a thread knows that it has seen them, by a piece of their checksums.
const MARKS: usize = 4 * PLACES;

#[derive(Default)]
struct Memory {
    places: Vec<Option<(Bytes, Arc<Stored>)>>,
    marks: Vec<u32>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// The copy in `value`, as `codec::decode` has it: that which was made of the same bytes before, or a new one of `own`, which has
/// them to itself or shares them.
pub fn decode(value: &[u8], states: &States, own: impl FnOnce() -> Bytes) -> Option<Arc<Stored>> {
    let Some(sum) = checksum(value) else {
        return codec::decode(&own(), states).map(Arc::new);
    };
    let known = MEMORY.with_borrow(|memory| {
        let place = memory.places.get(sum as usize % PLACES)?.as_ref();
        place.and_then(|(bytes, stored)| (bytes == value).then(|| stored.clone()))
    });
    if known.is_some() {
        return known;
    }
    MEMORY.with_borrow_mut(|memory| {
        if memory.marks.is_empty() {
            memory.marks.resize(MARKS, 0);
            memory.places.resize(PLACES, None);
        }
        let mark = (sum >> 32) as u32;
        let seen = std::mem::replace(&mut memory.marks[sum as usize % MARKS], mark) == mark;
        if !seen {
            return codec::decode(&own(), states).map(Arc::new);
        }
        // Its bytes alone: what was read with it would be kept, too.
        let bytes = Bytes::copy_from_slice(value);
        let stored = Arc::new(codec::decode(&bytes, states)?);
        memory.places[sum as usize % PLACES] = Some((bytes, stored.clone()));
        Some(stored)
    })
}

/// What the value says its checksum is, if it is one to be remembered.
fn checksum(value: &[u8]) -> Option<u64> {
    let digits = value.last_chunk::<16>()?;
    match value.len() <= LONGEST {
        true => protocol::hex(digits),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caching::head::Head;
    use crate::clock::Timestamp;
    use http::{HeaderMap, StatusCode};
    use std::time::Duration;

    fn encoded(body: &'static [u8]) -> Vec<u8> {
        codec::encode(&Stored {
            status: StatusCode::OK,
            head: Head::new(HeaderMap::new(), "http://a", &[]),
            body: Bytes::from_static(body),
            response_time: Timestamp::from_micros(1),
            took: Duration::ZERO,
            initial_age: Duration::ZERO,
            lifetime: Duration::from_secs(1),
            epochs: Default::default(),
        })
    }

    fn decoded(value: &[u8]) -> Option<Arc<Stored>> {
        decode(value, &States::default(), || Bytes::copy_from_slice(value))
    }

    #[test]
    fn whatever_was_read_before_a_value_is_what_its_bytes_say() {
        let (one, other) = (encoded(b"{\"id\": 1}"), encoded(b"{\"id\": 2}"));
        let mut broken = one.clone();
        // The checksum of the one, and a body that is not its.
        broken[7] = b'3';
        for _ in 0..4 {
            assert_eq!(&decoded(&one).unwrap().body[..], b"{\"id\": 1}");
            assert_eq!(&decoded(&other).unwrap().body[..], b"{\"id\": 2}");
            assert!(decoded(&broken).is_none());
            assert!(decoded(b"").is_none() && decoded(&one[1..]).is_none());
        }
        assert!(Arc::ptr_eq(
            &decoded(&one).unwrap(),
            &decoded(&one).unwrap()
        ));
    }
}
