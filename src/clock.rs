//! The only room with a clock. Everyone else is handed a `Timestamp` and stays pure.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time: microseconds since 1970, UTC. Copies, ages and holds are measured with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_micros(micros: u64) -> Self {
        Timestamp(micros)
    }

    pub const fn as_micros(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// How long ago `earlier` was; nothing if it lies ahead, as it may after a clock was set back.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, span: Duration) -> Self {
        Timestamp(
            self.0
                .saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The wall clock of when this was first asked, and as much later as a stopwatch says: for what this process alone
/// remembers, and must not end because the clock is set.
pub fn steady() -> Timestamp {
    static BEGAN: LazyLock<Moment> = LazyLock::new(moment);
    BEGAN.now.plus(BEGAN.stopwatch.elapsed())
}

/// Both clocks at once: one for what lasts, one for what ends at a time that others have named.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub stopwatch: Instant,
    pub now: Timestamp,
}

pub fn moment() -> Moment {
    Moment {
        stopwatch: stopwatch(),
        now: now(),
    }
}

/// How long this machine has been up, with the time that it slept: what is good for so long must not outlast a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uptime(u64);

impl Uptime {
    pub const fn from_nanos(nanos: u64) -> Self {
        Uptime(nanos)
    }

    /// How long ago `earlier` was; nothing if it is later.
    pub const fn since(self, earlier: Uptime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

pub fn uptime() -> Uptime {
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(CLOCK);
    Uptime(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A stopwatch that no clock adjustment disturbs, for the times in the log.
pub fn stopwatch() -> Instant {
    Instant::now()
}
