//! Counters and histograms of atomics that are there from the start: to count takes no lock and no allocation. What
//! every hit counts is spread over shards, so that two cores do not pass one cache line to and fro.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

const SHARDS: usize = 8;

/// Upper bounds in nanoseconds: a hit takes some twenty microseconds, an API up to seconds.
pub const BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    pub fn count(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What goes up and down.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Default for Gauge {
    fn default() -> Self {
        Gauge::new()
    }
}

/// One of what a gauge counts; it is one less when this is dropped.
pub struct One(&'static Gauge);

impl Gauge {
    pub const fn new() -> Self {
        Gauge(AtomicI64::new(0))
    }

    pub fn one(&'static self) -> One {
        self.0.fetch_add(1, Relaxed);
        One(self)
    }

    pub fn now(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Counts by words of ours, of which there are few. Behind a lock: not for what every hit does.
#[derive(Debug)]
pub struct Words<const N: usize>(Mutex<BTreeMap<[&'static str; N], u64>>);

impl<const N: usize> Words<N> {
    pub const fn new() -> Self {
        Words(Mutex::new(BTreeMap::new()))
    }

    pub fn count(&self, words: [&'static str; N]) {
        *self.0.lock().entry(words).or_default() += 1;
    }

    pub fn totals(&self) -> Vec<([&'static str; N], u64)> {
        let counts = self.0.lock();
        counts
            .iter()
            .map(|(words, count)| (*words, *count))
            .collect()
    }
}

/// Two neighbouring cache lines, which are fetched together.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<const N: usize>([AtomicU64; N]);

/// Some counts that everybody counts at once.
#[derive(Debug)]
struct Sharded<const N: usize>([Shard<N>; SHARDS]);

impl<const N: usize> Sharded<N> {
    const fn new() -> Self {
        Sharded([const { Shard([const { AtomicU64::new(0) }; N]) }; SHARDS])
    }

    fn own(&self) -> &[AtomicU64; N] {
        &self.0[own_shard()].0
    }

    fn totals(&self) -> [u64; N] {
        let mut totals = [0; N];
        for shard in &self.0 {
            for (total, count) in totals.iter_mut().zip(&shard.0) {
                *total += count.load(Relaxed);
            }
        }
        totals
    }
}

/// The threads take the shards in turn.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: Cell<usize> = const { Cell::new(usize::MAX) });
    match OWN.get() {
        usize::MAX => {
            let own = NEXT.fetch_add(1, Relaxed) % SHARDS;
            OWN.set(own);
            own
        }
        own => own,
    }
}

/// Counts by the first digit of a status.
#[derive(Debug)]
pub struct Classes(Sharded<5>);

pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Classes {
    pub const fn new() -> Self {
        Classes(Sharded::new())
    }

    pub fn count(&self, class: usize) {
        self.0.own()[class].fetch_add(1, Relaxed);
    }

    pub fn totals(&self) -> [u64; 5] {
        self.0.totals()
    }
}

/// Its place in `CLASSES`.
pub fn class(status: http::StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, 5) - 1
}

/// How long things took. The last two counts are those beyond all bounds, and the sum in nanoseconds.
#[derive(Debug)]
pub struct Histogram(Sharded<{ BOUNDS.len() + 2 }>);

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Took {
    /// Of each bound, how many took no longer and longer than the bound before; then all others.
    pub buckets: Vec<u64>,
    pub seconds: f64,
}

impl Histogram {
    pub const fn new() -> Self {
        Histogram(Sharded::new())
    }

    pub fn took(&self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        let own = self.0.own();
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound);
        own[bucket.unwrap_or(BOUNDS.len())].fetch_add(1, Relaxed);
        own[BOUNDS.len() + 1].fetch_add(nanos, Relaxed);
    }

    pub fn now(&self) -> Took {
        let totals = self.0.totals();
        let (buckets, rest) = totals.split_at(BOUNDS.len() + 1);
        Took {
            buckets: buckets.to_vec(),
            seconds: rest[0] as f64 / 1e9,
        }
    }
}

impl Took {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_at_once_is_counted_whole() {
        static TOOK: Histogram = Histogram::new();
        static BY_CLASS: Classes = Classes::new();
        let each = || {
            for micros in 0..10_000 {
                TOOK.took(Duration::from_micros(micros));
                BY_CLASS.count(class(http::StatusCode::NOT_MODIFIED));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(each);
            }
        });
        let (took, threads) = (TOOK.now(), 2 * SHARDS as u64);
        assert_eq!(took.count(), threads * 10_000);
        assert_eq!(took.buckets[0], threads * 51, "up to 50 µs");
        assert_eq!(took.buckets[BOUNDS.len()], 0);
        let sum: u64 = (0..10_000).sum();
        assert!((took.seconds - (threads * sum) as f64 / 1e6).abs() < 1e-6);
        assert_eq!(BY_CLASS.totals(), [0, 0, threads * 10_000, 0, 0]);
    }

    #[test]
    fn a_gauge_forgets_what_is_gone() {
        static GAUGE: Gauge = Gauge::new();
        let (one, other) = (GAUGE.one(), GAUGE.one());
        drop(one);
        assert_eq!(GAUGE.now(), 1);
        drop(other);
        assert_eq!(GAUGE.now(), 0);
    }
}
