//! A response as it is kept: what a hit is made of.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::cache_status::Reason;
use super::head::Head;
use crate::clock::Timestamp;
use crate::coherence::Epochs;

/// One copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub status: StatusCode,
    pub head: Head,
    pub body: Bytes,
    /// When the answer came.
    pub response_time: Timestamp,
    /// RFC 9111 §4.2.3, at `response_time`.
    pub initial_age: Duration,
    pub lifetime: Duration,
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
        let epochs: usize = self
            .epochs
            .iter()
            .map(|(state, _)| state.as_str().len() + 64)
            .sum();
        (size_of::<Self>() + self.body.len() + self.head.weight() + epochs) as u64
    }
}

/// Of a copy that was put there by hand: right under any origin.
pub const ANY_ORIGIN: &str = "*";

/// May this copy be served to a request under `origin`, apart from its validity? The reason, if not.
pub fn usable(stored: &Stored, origin: &str, now: Timestamp) -> Result<Duration, Reason> {
    if stored.head.origin() != origin && stored.head.origin() != ANY_ORIGIN {
        return Err(Reason::OtherOrigin);
    }
    match stored.freshness(now) {
        Freshness::Fresh { left } => Ok(left),
        Freshness::Stale => Err(Reason::Expired),
    }
}
