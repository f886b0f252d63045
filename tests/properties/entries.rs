//! Copies as they stand in the store. Input: where the body ends, two bytes; then body and line, to which a footer that
//! agrees with them is added, as nothing else is read at all.

use bytes::Bytes;
use larder::store::codec::{MAGIC, decode, encode};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const KEY: &[u8] = b"t:users:list~9a45";

pub fn holds(data: &[u8]) {
    let read = bounded(data.len(), || {
        decode(KEY, &Bytes::copy_from_slice(data), &[]).is_some()
    });
    assert!(!read, "a footer that nobody has written agrees");
    let [first, second, content @ ..] = data else {
        return;
    };
    let body = usize::from(u16::from_be_bytes([*first, *second])).min(content.len());
    let value = sealed(content, body);
    let Some(stored) = bounded(value.len(), || decode(KEY, &value, &[])) else {
        return;
    };
    assert_eq!(stored.body, content[..body]);
    let again = Bytes::from(encode(KEY, &stored));
    assert_eq!(decode(KEY, &again, &[]).as_ref(), Some(&stored));
    for at in [0, body, again.len() / 2, again.len() - 1] {
        let mut flipped = again.to_vec();
        flipped[at] ^= 1;
        assert_eq!(decode(KEY, &flipped.into(), &[]), None, "byte {at} flipped");
    }
}

fn sealed(content: &[u8], body: usize) -> Bytes {
    let sum = xxh3_64_with_seed(content, xxh3_64(KEY));
    let line = content.len() - body;
    let footer = format!("{body:08x} {line:08x} {sum:016x}");
    [content, MAGIC, footer.as_bytes()].concat().into()
}

/// Whether it is read at all: seeds in a format of the past would try nothing.
pub fn is_read(data: &[u8]) -> bool {
    let [first, second, content @ ..] = data else {
        return false;
    };
    let body = usize::from(u16::from_be_bytes([*first, *second])).min(content.len());
    decode(KEY, &sealed(content, body), &[]).is_some()
}

/// A number in a value must not decide what is allocated: only the value's own length may.
fn bounded<T>(length: usize, decode: impl FnOnce() -> T) -> T {
    let mut decoded = None;
    let allocated = allocation_counter::measure(|| decoded = Some(decode()));
    // A field of three bytes is an entry of a map, which grows by doubling.
    let most = 256 * length as u64 + 16 * 1024;
    assert!(
        allocated.bytes_max <= most,
        "{} bytes for {length}",
        allocated.bytes_max
    );
    decoded.unwrap()
}
