//! Reading `memory`: what this process keeps, as the store or beside it.

use std::time::Duration;

use super::Reader;
use super::mirror::MemoryMap;
use super::place::At;
use super::problem::{Wrong, wrong};
use super::value::duration;
use crate::coherence::lease::LONGEST;
use crate::config::{MemoryTier, Store, StoreAddress};

impl Reader<'_> {
    /// The size; and the lease, which alone has copies kept here beside those in Redis.
    pub(super) fn memory(&self, at: &At, map: Option<MemoryMap>) -> (u64, Option<Duration>) {
        let (size, term) = map.map_or((None, None), |map| (map.size, map.lease));
        let size = self.size(&at.key("size"), size, 64 << 20, (1 << 20)..=(1 << 40));
        (size, self.optional(&at.key("lease"), term, lease))
    }
}

/// The embedded store is this process's memory already: nobody else writes to it, and nothing is leased.
pub(super) fn beside(store: Store, size: u64, lease: Option<Duration>) -> Store {
    let memory = match store.address {
        StoreAddress::Memory => None,
        StoreAddress::Redis(_) => lease.map(|lease| MemoryTier { size, lease }),
    };
    Store { memory, ..store }
}

fn lease(text: &str) -> Result<Duration, Wrong> {
    let lease = duration(text)?;
    match lease {
        lease if lease > LONGEST => Err(wrong(
            format!(
                "longer than {} ms: every write waits so long",
                LONGEST.as_millis()
            ),
            "write `10ms`, or `0` for copies whose states are asked for at each hit",
        )),
        Duration::ZERO => Ok(lease),
        lease if lease < Duration::from_millis(1) => Err(wrong(
            "shorter than a millisecond, which saves nothing",
            "write `10ms`, or `0` for copies whose states are asked for at each hit",
        )),
        lease => Ok(lease),
    }
}
