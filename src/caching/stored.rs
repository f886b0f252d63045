//! A response as it is kept: what a hit is made of.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::head::Head;
use crate::clock::Timestamp;
use crate::coherence::Epochs;

/// By so much the clocks of instances may differ, and one be corrected: from there on `doctor` takes it for wrong.
pub const AHEAD: Duration = Duration::from_secs(60);

/// One copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub status: StatusCode,
    pub head: Head,
    pub body: Bytes,
    /// When the answer came.
    pub response_time: Timestamp,
    /// How long the origin took for it: what a refresh is likely to take.
    pub took: Duration,
    /// RFC 9111 §4.2.3, at `response_time`.
    pub initial_age: Duration,
    pub lifetime: Duration,
    /// What was current when its fetch began; it is valid while all of it still is.
    pub epochs: Epochs,
}

/// Which paths a copy answers for: a hash of the route's. The key may come to mean other paths, by a reload or a
/// restart, and what was kept under it must not. None where the key itself holds the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Fresh { left: Duration },
    Stale { stale: Duration },
}

impl Freshness {
    /// For how long it is fresh still.
    pub fn left(self) -> Duration {
        match self {
            Freshness::Fresh { left } => left,
            Freshness::Stale { .. } => Duration::ZERO,
        }
    }
}

impl Stored {
    /// RFC 9111 §4.2.3 `current_age`.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age + now.since(self.response_time)
    }

    /// What is of the future came before the clock was set back: nobody knows how old it is, so its time has just ended.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        let age = self.age(now);
        let of_the_future = self.response_time.since(now) > AHEAD;
        match self.lifetime.checked_sub(age) {
            Some(left) if !left.is_zero() && !of_the_future => Freshness::Fresh { left },
            _ => Freshness::Stale {
                stale: age.saturating_sub(self.lifetime),
            },
        }
    }

    pub fn is_fresh(&self, now: Timestamp) -> bool {
        matches!(self.freshness(now), Freshness::Fresh { .. })
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

impl Stored {
    /// Whether it is right under `origin`: its links may hold another.
    pub fn is_of(&self, origin: &str) -> bool {
        self.head.origin() == origin || self.head.origin() == ANY_ORIGIN
    }

    /// It says that there is nothing: what creates a thing drops it, too.
    pub fn is_negative(&self) -> bool {
        is_negative(self.status)
    }
}

/// An answer that something is not there.
pub fn is_negative(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
