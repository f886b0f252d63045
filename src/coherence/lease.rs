//! Leases: for how long a state that was read is good without asking again, and what a write waits for because of it.
//! Pure. In Redis `Registry::renew` is `leases.lua`, and a test holds the two together.
//!
//! An instance that keeps copies in its own memory may answer from them for a **term** after it has asked for their
//! states. So a write, whose holds are confirmed, waits for the longest term before it is forwarded: whoever has not seen
//! its holds has asked before, and what it was told is good no more. Three things make that exact:
//!
//! * A lease counts from before its state was asked for, is tested with a clock that is read after the request has come,
//!   and ends with the link that it was given on. A process that is stopped, or a machine that sleeps, only loses it.
//! * The terms stand in the store. A state read gives a lease only if in the same moment the instance's own term stood
//!   there; a write reads them after its holds. So an instance that joins while a write is under way either stands
//!   there, or asks for states later than the holds were put there.
//! * They may be lost (evicted, flushed, deleted by hand), and one that is not renewed is swept. Where nothing stands, a write
//!   waits for the longest term that there may be; and where something was lost or swept, that stands there in its place for
//!   as long: a term that is no instance's own. After a restart of the store, when an older text may be back, writes wait
//!   as long by the age of their link.
//!
//! A purge by hand has no hold to be seen: it reports success only after the longest term. So does the answer to a write
//! that finds its own hold gone when it finishes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::NOTICE;
use crate::clock::{Timestamp, Uptime};

/// No lease is for longer.
pub const LONGEST: Duration = Duration::from_millis(100);

/// What stands for terms that were lost: longer than any, so that nobody takes it for its own.
const LOST: Duration = Duration::from_millis(LONGEST.as_millis() as u64 + 1);

/// Who forwards a write without a hold has waited for the notice time, and nobody's lease outlives the store by so much.
const _: () = assert!(LONGEST.as_millis() * 2 < NOTICE.as_millis());

/// How long a term stands in the store after it was last renewed.
pub const STANDS_FOR: Duration = Duration::from_secs(60);

/// How often it is.
pub const RENEWED_EVERY: Duration = Duration::from_secs(10);

/// Where the terms stand, below the prefix.
pub const KEY: &str = "~leases";

/// Clocks do not run at the same speed: of a term, this much more than could be, by which a wait is longer.
const SLOWER: Duration = Duration::from_millis(1);

/// When and by which link a state was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Before the question was sent.
    pub asked: Uptime,
    pub link: u64,
}

impl Lease {
    /// Whether it is good for a request that has come by `now`, on this link.
    pub fn covers(self, now: Uptime, term: Duration, link: u64) -> bool {
        self.link == link && now.since(self.asked) < term
    }

    /// Whether it is in the last quarter of its term. Who is answered by it then has the next one asked for, so that nobody waits
    /// for it where a key is asked for often.
    pub fn ends_soon(self, now: Uptime, term: Duration) -> bool {
        now.since(self.asked) >= term - term / 4
    }
}

/// The terms of all instances, each until when it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry(BTreeMap<u64, u64>);

impl Registry {
    /// What stands there after an instance has named its term, if it has one, and has swept what is overdue.
    pub fn renew(stands: Option<&[u8]>, term: Option<Duration>, now: Timestamp) -> Registry {
        let now = now.as_millis();
        let lost = in_millis(LOST);
        let stands = stands.and_then(Registry::parse);
        let mut is_lost = stands.is_none();
        let Registry(mut terms) = stands.unwrap_or_default();
        terms.retain(|term, until| {
            let stays = *until > now;
            is_lost |= !stays && *term != lost;
            stays
        });
        if is_lost {
            // Whose it was may have leases still.
            terms.insert(lost, now + in_millis(LONGEST));
        }
        if let Some(term) = term {
            let until = terms.entry(in_millis(term)).or_default();
            *until = (*until).max(now + in_millis(STANDS_FOR));
        }
        Registry(terms)
    }

    /// As it stands in Redis: `term@until` for each, in milliseconds; or `-` for none.
    pub fn parse(text: &[u8]) -> Option<Registry> {
        if text == b"-" {
            return Some(Registry::default());
        }
        let word = |word: &str| {
            let (term, until) = word.split_once('@')?;
            Some((term.parse().ok()?, until.parse().ok()?))
        };
        let words = std::str::from_utf8(text).ok()?.split(' ');
        words.map(word).collect::<Option<_>>().map(Registry)
    }

    /// How long a write waits that has read this after its holds: the longest term, also of those that are overdue.
    pub fn wait(text: Option<&[u8]>) -> Duration {
        let longest = match text.and_then(Registry::parse) {
            Some(Registry(terms)) => terms.last_key_value().map(|(term, _)| *term),
            None => Some(in_millis(LOST)),
        };
        longest.map_or(Duration::ZERO, |term| {
            Duration::from_millis(term).min(NOTICE) + SLOWER
        })
    }

    /// Whether this very term stands there: another may be swept before this instance's own.
    pub fn names(text: &[u8], term: Duration) -> bool {
        let mut number = itoa::Buffer::new();
        let term = number.format(in_millis(term)).as_bytes();
        text.split(|&byte| byte == b' ').any(|word| {
            word.strip_prefix(term)
                .is_some_and(|rest| rest.starts_with(b"@"))
        })
    }

    /// Until when the first of what stands there does: then somebody is to sweep.
    pub fn next(&self) -> Option<u64> {
        self.0.values().min().copied()
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (n, (term, until)) in self.0.iter().enumerate() {
            let space = if n > 0 { " " } else { "" };
            write!(f, "{space}{term}@{until}")?;
        }
        Ok(())
    }
}

/// A part of a millisecond counts as a whole one.
pub fn in_millis(term: Duration) -> u64 {
    term.as_micros().div_ceil(1_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_millis(10);
    const FIFTY: Duration = Duration::from_millis(50);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn text(registry: &Registry) -> Vec<u8> {
        registry.to_string().into_bytes()
    }

    fn wait(registry: &Registry) -> Duration {
        Registry::wait(Some(&text(registry)))
    }

    #[test]
    fn a_write_waits_for_the_longest_term_and_a_little_for_clocks_that_differ() {
        let first = Registry::renew(Some(b"-"), Some(TEN), at(0));
        assert_eq!(wait(&first), TEN + SLOWER);
        let both = Registry::renew(Some(&text(&first)), Some(FIFTY), at(1));
        assert_eq!(wait(&both), FIFTY + SLOWER);
    }

    #[test]
    fn where_nobody_has_a_lease_nobody_waits() {
        assert_eq!(Registry::wait(Some(b"-")), Duration::ZERO);
        let nobody = Registry::renew(Some(b"-"), None, at(0));
        assert_eq!((text(&nobody), nobody.next()), (b"-".to_vec(), None));
    }

    #[test]
    fn where_the_terms_were_lost_a_write_waits_for_the_longest_that_there_may_be() {
        assert_eq!(Registry::wait(None), LOST + SLOWER);
        assert_eq!(Registry::wait(Some(b"of another")), LOST + SLOWER);
        let anew = Registry::renew(None, Some(TEN), at(5));
        assert_eq!(wait(&anew), LOST + SLOWER, "others may have leases still");
        let soon = Registry::renew(Some(&text(&anew)), None, at(104));
        assert_eq!(wait(&soon), LOST + SLOWER);
        let later = Registry::renew(Some(&text(&soon)), None, at(105));
        assert_eq!(wait(&later), TEN + SLOWER, "but not for longer than that");
    }

    #[test]
    fn a_term_counts_until_it_has_been_swept_which_is_when_it_was_not_renewed() {
        let first = Registry::renew(Some(b"-"), Some(FIFTY), at(0));
        let end = in_millis(STANDS_FOR);
        assert_eq!(first.next(), Some(end));
        let renewed = Registry::renew(Some(&text(&first)), Some(FIFTY), at(end - 1));
        let swept = Registry::renew(Some(&text(&renewed)), Some(TEN), at(end));
        assert_eq!(wait(&swept), FIFTY + SLOWER);
        let swept = Registry::renew(Some(&text(&swept)), Some(TEN), at(2 * end - 1));
        assert_eq!(wait(&swept), LOST + SLOWER, "whose it was may be late");
        let later = Registry::renew(Some(&text(&swept)), Some(TEN), at(2 * end + 99));
        assert_eq!(wait(&later), TEN + SLOWER);
    }

    /// It did, and an instance with the longest term gave leases that no write waited for.
    #[test]
    fn what_stands_for_lost_terms_names_nobodys() {
        let anew = Registry::renew(None, None, at(5));
        assert!(!Registry::names(&text(&anew), LONGEST));
        assert!(Registry::names(
            &text(&Registry::renew(None, Some(LONGEST), at(5))),
            LONGEST
        ));
    }

    #[test]
    fn a_lease_is_given_only_where_the_very_term_stands() {
        let stands = b"10@100 50@7";
        for (millis, is_named) in [(10, true), (50, true), (1, false), (5, false), (100, false)] {
            let term = Duration::from_millis(millis);
            assert_eq!(Registry::names(stands, term), is_named, "{millis}");
        }
        assert!(!Registry::names(b"-", TEN));
        assert!(Registry::names(b"10@1", Duration::from_micros(9_100)));
    }

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for_and_ends_with_its_link() {
        let up = |millis: u64| Uptime::from_nanos(millis * 1_000_000);
        let lease = Lease {
            asked: up(1_000),
            link: 7,
        };
        assert!(lease.covers(up(1_000), TEN, 7));
        assert!(lease.covers(up(1_009), TEN, 7));
        assert!(
            !lease.covers(up(1_010), TEN, 7),
            "to the end, and no longer"
        );
        assert!(!lease.covers(up(1_001), TEN, 8), "another link");
        assert!(
            lease.covers(up(990), TEN, 7),
            "a request that came before the state was read is shown what is newer"
        );
        assert!(
            !lease.covers(up(1_000), Duration::ZERO, 7),
            "no lease at all"
        );
        let ends_soon = |at: u64| lease.ends_soon(Uptime::from_nanos(at * 1_000), TEN);
        assert!(!ends_soon(1_007_499));
        assert!(ends_soon(1_007_500), "in its last quarter");
    }
}
