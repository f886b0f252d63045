//! The rules of a shared cache, as functions of what they are told. RFC 9111, RFC 9211.
//! No I/O, no clock, no logging: `now` is always an argument, and the answer is a value.

pub mod cache_status;
pub mod directives;
pub mod freshness;
pub mod head;
pub mod invalidation;
pub mod key;
pub mod origin;
pub mod partial;
pub mod reuse;
pub mod stored;
pub mod storing;
pub mod targeted;
pub mod validation;
pub mod variance;
