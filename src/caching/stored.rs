//! A response as it is kept: what a hit is made of.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use super::cache_status::Reason;
use crate::clock::Timestamp;
use crate::coherence::Epochs;

/// One copy. Its fields are end to end, complete with Date, and without Age.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Bytes,
    /// When the answer came.
    pub response_time: Timestamp,
    /// RFC 9111 §4.2.3, at `response_time`.
    pub initial_age: Duration,
    pub lifetime: Duration,
    /// scheme://host under which it was asked: its links may hold it.
    pub origin: String,
    /// The request fields by which the answer varies and its key splits.
    pub varied: Vec<HeaderName>,
    /// What was current when its fetch began; it is valid while all of it still is.
    pub epochs: Epochs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Fresh { left: Duration },
    Stale,
}

impl Stored {
    /// RFC 9111 §4.2.3 `current_age`.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age + now.since(self.response_time)
    }

    pub fn freshness(&self, now: Timestamp) -> Freshness {
        match self.lifetime.checked_sub(self.age(now)) {
            Some(left) if !left.is_zero() => Freshness::Fresh { left },
            _ => Freshness::Stale,
        }
    }

    /// Bytes it takes in memory, roughly but never less: what `memory.size` bounds.
    pub fn weight(&self) -> u64 {
        let fields: usize = self
            .fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 96)
            .sum();
        let epochs: usize = self
            .epochs
            .iter()
            .map(|(state, _)| state.as_str().len() + 64)
            .sum();
        (size_of::<Self>()
            + self.body.len()
            + fields
            + epochs
            + self.origin.len()
            + 32 * self.varied.len()) as u64
    }
}

/// Of a copy that was put there by hand: right under any origin.
pub const ANY_ORIGIN: &str = "*";

/// May this copy be served to a request under `origin`, apart from its validity? The reason, if not.
pub fn usable(stored: &Stored, origin: &str, now: Timestamp) -> Result<Duration, Reason> {
    if stored.origin != origin && stored.origin != ANY_ORIGIN {
        return Err(Reason::OtherOrigin);
    }
    match stored.freshness(now) {
        Freshness::Fresh { left } => Ok(left),
        Freshness::Stale => Err(Reason::Expired),
    }
}
