//! What HTTP messages mean, whoever sends them. RFC 9110 and 9112; no I/O, no clock, no caching.

pub mod accept;
pub mod codings;
pub mod conditions;
pub mod date;
pub mod fields;
pub mod forwarded;
pub mod framing;
pub mod heads;
pub mod http2;
pub mod query;
pub mod ranges;
pub mod section;
pub mod selection;
pub mod subscriber;
pub mod target;
