//! What Redis answers, as the hits' own connection reads it, beside what another reader of RESP2 makes of it.
//! Input: the bytes that were read.

use larder::store::redis::frame::{Extent, Malformed, Reply, extent, reply};

pub fn holds(data: &[u8]) {
    let whole = match extent(data) {
        Ok(Extent::Whole(length)) => length,
        Ok(Extent::AtLeast(length)) => {
            assert!(length > data.len(), "it was all there");
            return;
        }
        Err(Malformed) => return,
    };
    assert!(whole <= data.len());
    // A part of it promises no more than there will be, and never that this was all.
    for end in (0..whole).rev().take(64) {
        match extent(&data[..end]) {
            Ok(Extent::AtLeast(length)) => assert!(end < length && length <= whole),
            other => panic!("{other:?} of {end} bytes of {whole}"),
        }
    }
    let frame = &data[..whole];
    let Ok(read) = reply(frame) else { return };
    let Ok(other) = redis::parse_redis_value(frame) else {
        return;
    };
    match (read, other) {
        (Reply::Values(values), redis::Value::Array(others)) => {
            let values: Vec<_> = values.collect();
            assert_eq!(values.len(), others.len());
            for (value, other) in values.into_iter().zip(others) {
                match other {
                    redis::Value::BulkString(other) => assert_eq!(value, Some(&other[..])),
                    _ => assert_eq!(value, None),
                }
            }
        }
        (Reply::Text(text), redis::Value::BulkString(other)) => assert_eq!(text, other),
        (Reply::Text(text), redis::Value::SimpleString(other)) => {
            assert_eq!(text, other.as_bytes());
        }
        (Reply::Text(text), redis::Value::Okay) => assert_eq!(text, b"OK"),
        (Reply::Error(_) | Reply::Text(_), _) => {}
        (Reply::Values(values), other) => assert_eq!(values.count(), 0, "{other:?}"),
    }
}
