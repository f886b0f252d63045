//! What a valid copy is good for now: served, served while it is refreshed, validated first, or put in the place
//! of an error. RFC 9111 §4 and RFC 5861. Valid means that no write has invalidated it; that is `coherence`'s to say,
//! and nothing that is not valid comes here.

use std::time::Duration;

use http::HeaderName;

use super::directives::{Directives, Seconds};
use super::stored::{Freshness, Stored};
use crate::clock::Timestamp;

/// What a route says of stale copies and of those about to become so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms<'r> {
    /// RFC 5861 §3, where the origin says nothing.
    pub stale_while_revalidate: Duration,
    /// RFC 5861 §4, where the origin says nothing.
    pub stale_if_error: Duration,
    /// Refresh what is asked for before it expires.
    pub early_refresh: bool,
    /// The route's word over the origin's.
    pub override_origin: bool,
    /// The fields that are read in place of Cache-Control (RFC 9213).
    pub targeted: &'r [HeaderName],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Fresh for so long.
    Serve { left: Duration },
    /// Fresh for so long, but about to expire: served, and refreshed in the background.
    Refresh { left: Duration },
    /// Stale for so long: served, and refreshed in the background.
    ServeStale { stale: Duration },
    /// Stale: the origin is asked first.
    Validate,
}

/// `draw` is a fresh random number from all of 64 bits, drawn only where it matters.
pub fn reuse(
    stored: &Stored,
    terms: Terms<'_>,
    now: Timestamp,
    draw: impl FnOnce() -> u64,
) -> Reuse {
    match stored.freshness(now) {
        Freshness::Fresh { left } => match terms.early_refresh && is_due(left, stored.took, draw) {
            true => Reuse::Refresh { left },
            false => Reuse::Serve { left },
        },
        Freshness::Stale { stale } => match Stale::of(stored, terms).while_revalidate > stale {
            true => Reuse::ServeStale { stale },
            false => Reuse::Validate,
        },
    }
}

/// What a valid copy is good for after a soft purge: as one that has just become stale, but with no window to keep to until
/// its own time is over. Where the origin forbids to serve what is stale, it is asked first.
pub fn outdated(stored: &Stored, terms: Terms<'_>, now: Timestamp) -> Reuse {
    let forbidden = said(stored, terms).forbid_stale() && !terms.override_origin;
    match stored.freshness(now) {
        Freshness::Fresh { .. } if forbidden => Reuse::Validate,
        Freshness::Fresh { .. } => Reuse::ServeStale {
            stale: Duration::ZERO,
        },
        Freshness::Stale { .. } => reuse(stored, terms, now, || u64::MAX),
    }
}

/// Whether a copy may stand in for an origin that is out of reach or answers 500, 502, 503 or 504.
pub fn stands_in(stored: &Stored, terms: Terms<'_>, now: Timestamp) -> bool {
    match stored.freshness(now) {
        Freshness::Fresh { .. } => true,
        Freshness::Stale { stale } => Stale::of(stored, terms).if_error > stale,
    }
}

/// How long after its freshness a copy is worth keeping. One that is never fresh is for being validated, for a `ttl`.
pub fn worth_keeping(stored: &Stored, terms: Terms<'_>, ttl: Duration) -> Duration {
    let directives = said(stored, terms);
    let stale = Stale::from(&directives, terms);
    match directives.no_cache && !terms.override_origin {
        true => ttl,
        false => stale.while_revalidate.max(stale.if_error),
    }
}

/// What the origin says of its use.
fn said(stored: &Stored, terms: Terms<'_>) -> Directives {
    stored.head.directives(terms.targeted)
}

/// How long past its freshness a copy may be used.
struct Stale {
    while_revalidate: Duration,
    if_error: Duration,
}

impl Stale {
    fn of(stored: &Stored, terms: Terms<'_>) -> Stale {
        Stale::from(&said(stored, terms), terms)
    }

    /// §4.2.4: never where the origin forbids it; s-maxage says what proxy-revalidate says.
    fn from(origin: &Directives, terms: Terms<'_>) -> Stale {
        if origin.forbid_stale() && !terms.override_origin {
            return Stale {
                while_revalidate: Duration::ZERO,
                if_error: Duration::ZERO,
            };
        }
        let word = |said: Option<Seconds>, ours: Duration| match said {
            _ if terms.override_origin => ours,
            Some(Seconds::Valid(seconds)) => Duration::from_secs(seconds),
            Some(Seconds::Invalid) => Duration::ZERO,
            None => ours,
        };
        Stale {
            while_revalidate: word(origin.stale_while_revalidate, terms.stale_while_revalidate),
            if_error: word(origin.stale_if_error, terms.stale_if_error),
        }
    }
}

/// Probabilistic early expiry (XFetch): the nearer the end and the longer a fetch takes, the likelier. Each reader
/// draws for itself, so that a key is refreshed the sooner the more it is read, and one that nobody reads never.
fn is_due(left: Duration, took: Duration, draw: impl FnOnce() -> u64) -> bool {
    // −ln of the least that can be drawn is below 45.
    left < took * 45 && {
        let uniform = (draw() as f64 + 1.0) / (u64::MAX as f64 + 1.0);
        left.as_secs_f64() <= took.as_secs_f64() * -uniform.ln()
    }
}

/// A lifetime shortened by up to `jitter` of itself, so that what was stored together does not expire together.
pub fn jittered(lifetime: Duration, jitter: f64, draw: u64) -> Duration {
    lifetime.mul_f64(1.0 - jitter * (draw as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caching::head::Head;
    use http::HeaderMap;

    const SECOND: Duration = Duration::from_secs(1);

    fn stored(cache_control: &str, lifetime: Duration, took: Duration) -> Stored {
        let mut fields = HeaderMap::new();
        fields.insert("cache-control", cache_control.parse().unwrap());
        Stored {
            status: http::StatusCode::OK,
            head: Head::new(fields, "http://h", &[]),
            body: Default::default(),
            response_time: Timestamp::from_micros(0),
            took,
            initial_age: Duration::ZERO,
            lifetime,
            epochs: Default::default(),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn after(cache_control: &str, terms: Terms<'_>, seconds: u64) -> Reuse {
        let copy = stored(cache_control, 10 * SECOND, SECOND);
        reuse(&copy, terms, at(seconds), || unreachable!("not drawn"))
    }

    #[test]
    fn a_fresh_copy_is_served_and_a_stale_one_only_within_its_windows() {
        let none = Terms::default();
        let terms = Terms {
            stale_while_revalidate: 5 * SECOND,
            stale_if_error: 20 * SECOND,
            ..none
        };
        let copy = |control| stored(control, 10 * SECOND, SECOND);
        assert_eq!(after("", none, 9), Reuse::Serve { left: SECOND });
        assert_eq!(after("", none, 10), Reuse::Validate);
        assert_eq!(
            after("", terms, 14),
            Reuse::ServeStale { stale: 4 * SECOND }
        );
        assert_eq!(after("", terms, 15), Reuse::Validate);
        assert!(stands_in(&copy(""), terms, at(29)));
        assert!(!stands_in(&copy(""), terms, at(30)));
        assert!(!stands_in(&copy(""), none, at(10)));
    }

    #[test]
    fn the_origins_own_word_counts_before_the_routes() {
        let terms = Terms {
            stale_while_revalidate: 5 * SECOND,
            stale_if_error: 5 * SECOND,
            ..Terms::default()
        };
        let longer = "stale-while-revalidate=60, stale-if-error=60";
        assert_eq!(
            after(longer, terms, 60),
            Reuse::ServeStale { stale: 50 * SECOND }
        );
        assert!(stands_in(
            &stored(longer, 10 * SECOND, SECOND),
            terms,
            at(69)
        ));
        assert_eq!(
            after("stale-while-revalidate=0", terms, 11),
            Reuse::Validate
        );
        let ours = Terms {
            override_origin: true,
            ..terms
        };
        assert_eq!(after(longer, ours, 16), Reuse::Validate);
    }

    #[test]
    fn must_revalidate_and_its_kin_forbid_what_is_stale() {
        let terms = Terms {
            stale_while_revalidate: 50 * SECOND,
            stale_if_error: 50 * SECOND,
            ..Terms::default()
        };
        for forbids in [
            "must-revalidate",
            "proxy-revalidate",
            "s-maxage=10",
            "no-cache",
        ] {
            assert_eq!(after(forbids, terms, 11), Reuse::Validate, "{forbids}");
            assert!(!stands_in(
                &stored(forbids, 10 * SECOND, SECOND),
                terms,
                at(11)
            ));
            let ours = Terms {
                override_origin: true,
                ..terms
            };
            assert_eq!(
                after(forbids, ours, 11),
                Reuse::ServeStale { stale: SECOND }
            );
        }
    }

    #[test]
    fn a_copy_is_refreshed_the_likelier_the_nearer_its_end_and_the_slower_its_fetch() {
        let terms = Terms {
            early_refresh: true,
            ..Terms::default()
        };
        let due = |took: Duration, left: Duration, part: f64| {
            let copy = stored("", 100 * SECOND, took);
            let now = Timestamp::from_micros((100 * SECOND - left).as_micros() as u64);
            let drawn = (part * u64::MAX as f64) as u64;
            matches!(reuse(&copy, terms, now, || drawn), Reuse::Refresh { .. })
        };
        // One in e draws is due when as much is left as a fetch takes; one in e² with twice that.
        assert!(due(SECOND, SECOND, 0.36) && !due(SECOND, SECOND, 0.37));
        assert!(due(SECOND, 2 * SECOND, 0.13) && !due(SECOND, 2 * SECOND, 0.14));
        assert!(!due(SECOND, 50 * SECOND, 0.0), "far from its end never");
        assert!(
            !due(Duration::ZERO, SECOND, 0.0),
            "what takes no time need not be early"
        );
    }

    const TOOK: Duration = Duration::from_millis(300);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const KEYS: u64 = 1_000;

    /// What the origin and the readers see of a day.
    struct Day {
        /// Fetches in each of its minutes.
        fetches: Vec<u64>,
        /// Reads that a copy too stale to be served met.
        waited: u64,
    }

    impl Day {
        /// The most that a minute after the first fill had.
        fn busiest(&self) -> u64 {
            *self.fetches[1..].iter().max().unwrap()
        }
    }

    /// All keys are fetched at midnight for an hour, and then each is read once in `every`; the origin takes `TOOK`.
    fn day(every: Duration, jitter: f64, terms: Terms<'_>) -> Day {
        let mut day = Day {
            fetches: vec![0; 24 * 60 + 1],
            waited: 0,
        };
        let mut random = 0_u64;
        let mut draw = || {
            // SplitMix64: the same day in every run.
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        for _ in 0..KEYS {
            let mut copy = stored("", HOUR, TOOK);
            let mut began = Duration::ZERO;
            while began < DAY {
                day.fetches[began.as_secs() as usize / 60] += 1;
                let arrived = began + TOOK;
                let mut now = began + every;
                // The old copy is all there is until then; of the first fetch, there is none.
                while now < arrived && !began.is_zero() {
                    day.waited +=
                        u64::from(reuse(&copy, terms, then(now), &mut draw) == Reuse::Validate);
                    now += every;
                }
                copy.response_time = then(arrived);
                copy.lifetime = jittered(HOUR, jitter, draw());
                // Nothing is due earlier than this (`is_due`), and the reads until then need not be made.
                let dull = (arrived + copy.lifetime - TOOK * 45).saturating_sub(now);
                now += every * (dull.as_micros() / every.as_micros()) as u32;
                loop {
                    match reuse(&copy, terms, then(now), &mut draw) {
                        Reuse::Serve { .. } => now += every,
                        Reuse::Refresh { .. } | Reuse::ServeStale { .. } => break,
                        Reuse::Validate => {
                            day.waited += 1;
                            break;
                        }
                    }
                }
                began = now;
            }
        }
        day
    }

    fn then(since_midnight: Duration) -> Timestamp {
        Timestamp::from_micros(since_midnight.as_micros() as u64)
    }

    #[test]
    fn without_jitter_what_was_stored_together_is_fetched_together_every_hour_of_the_day() {
        let day = day(SECOND, 0.0, Terms::default());
        for (minute, fetches) in day.fetches.iter().enumerate() {
            let at_the_hour = minute % 60 == 0 && minute < 24 * 60;
            assert_eq!(*fetches, if at_the_hour { KEYS } else { 0 }, "{minute}");
        }
    }

    /// Twelve minutes are the window: a fifth of an hour.
    #[test]
    fn with_jitter_and_early_refresh_no_minute_of_the_day_is_a_spike_and_no_read_waits() {
        let terms = Terms {
            early_refresh: true,
            ..Terms::default()
        };
        let day = day(SECOND / 200, 0.2, terms);
        assert_eq!(day.fetches[0], KEYS);
        assert!(day.busiest() <= KEYS * 3 / 2 / 12, "{}", day.busiest());
        assert_eq!(day.waited, 0);
    }

    /// Early refresh is for what is read many times while a fetch takes. Of what is read once a second, most copies
    /// expire between two reads; `stale_while_revalidate` is what spares those.
    #[test]
    fn what_is_read_seldom_never_waits_where_it_may_be_stale_meanwhile() {
        let early = Terms {
            early_refresh: true,
            ..Terms::default()
        };
        let waiting = day(SECOND, 0.2, early);
        let fetches: u64 = waiting.fetches.iter().sum();
        assert!(
            waiting.waited > fetches / 2,
            "{} of {fetches}",
            waiting.waited
        );
        let spared = day(
            SECOND,
            0.2,
            Terms {
                stale_while_revalidate: 2 * SECOND,
                ..early
            },
        );
        assert_eq!(spared.waited, 0);
        assert!(
            spared.busiest() <= KEYS * 3 / 2 / 12,
            "{}",
            spared.busiest()
        );
    }

    proptest::proptest! {
        #[test]
        fn jitter_shortens_by_no_more_than_its_part(draw: u64, part in 0.0..0.9f64) {
            let jittered = jittered(3600 * SECOND, part, draw);
            proptest::prop_assert!(jittered <= 3600 * SECOND);
            proptest::prop_assert!(jittered >= (3600 * SECOND).mul_f64(1.0 - part) - Duration::from_micros(1));
        }
    }
}
