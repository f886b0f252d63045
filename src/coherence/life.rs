//! Entering a link: which life of the store this is, and for how long nothing in it is to be trusted.
//! Asks nobody and knows no clock. In Redis `enter` is `incarnation.lua`, and a test holds the two together.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::NOTICE;
use super::protocol::Incarnation;
use crate::clock::Timestamp;

/// An absence shorter than this costs nothing: nobody forwards a write without a hold so soon.
const A_MOMENT: Duration = Duration::from_millis(100);

/// What an instance knows of the server when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// For the first time.
    First,
    /// To the server it knows.
    Again,
    /// To another than the last: that one may have been told what this one was not, whatever its record says.
    Anew,
}

impl How {
    /// `last` is who the server was at the last connection. One that does not say who it is may be any.
    pub fn connected(last: Option<Option<&str>>, who: Option<&str>) -> How {
        match last {
            None => How::First,
            Some(last) if last != who || who.is_none() => How::Anew,
            Some(_) => How::Again,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            How::First => "first",
            How::Again => "again",
            How::Anew => "anew",
        }
    }
}

/// Lives that this process has seen end are remembered up to so many.
const REMEMBERED: usize = 1024;

/// The store's lives, as this process has heard of them on all its links.
#[derive(Debug, Default)]
pub struct Lives(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The newest link: an older one is given up, and what is still heard on it may be of before.
    link: u64,
    last: Incarnation,
    over: VecDeque<Incarnation>,
}

/// Which life the store is in, as a link has last heard of it. Answers may be looked at in another order than they came.
#[derive(Debug, Default)]
pub struct Heard {
    link: u64,
    last: AtomicU32,
    lives: Arc<Lives>,
}

impl Heard {
    /// On this link, by its number, which is the newest.
    pub fn on(link: u64, lives: Arc<Lives>) -> Heard {
        lives.0.lock().link = link;
        let last = AtomicU32::default();
        Heard { link, last, lives }
    }

    pub fn last(&self) -> Incarnation {
        Incarnation(self.last.load(Ordering::Relaxed))
    }

    /// A command that was sent when `before` was the last had `told` for an answer. What has been heard meanwhile is later than
    /// an answer that brings nothing new. Whether what was told may be: a life ends with whatever is heard in its place, and none comes
    /// back. What names it then are data of before that were put back in a server that lived on (SWAPDB, RESTORE, a backup), and what was
    /// written since is not in them: nothing of it is trusted, and another is to begin.
    pub fn hear(&self, before: Incarnation, told: Incarnation) -> bool {
        if told == before {
            return true;
        }
        let known = &mut *self.lives.0.lock();
        let last = self.last();
        let goes_on = told == last || !known.over.contains(&told);
        if told == last || last != before {
            return goes_on;
        }
        if goes_on && self.link == known.link && told != known.last {
            if known.last != Incarnation::default() {
                known.over.push_back(known.last);
            }
            if known.over.len() > REMEMBERED {
                known.over.pop_front();
            }
            known.last = told;
        }
        let now = if goes_on { told.0 } else { 0 };
        self.last.store(now, Ordering::Relaxed);
        goes_on
    }

    /// Which life it is was asked, and what came was no answer to that: nothing is trusted until it is known again.
    pub fn doubt(&self) {
        // Not while somebody weighs what was heard.
        let _known = self.lives.0.lock();
        self.last.store(0, Ordering::Relaxed);
    }
}

/// The store's own record of its life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    pub who: String,
    pub life: Incarnation,
    /// The store's milliseconds from which on epochs are made and trusted.
    pub trusted: u64,
}

/// The record after an instance has entered. Another server than the one that stands there begins another life, for
/// it may have missed writes; so does one in which nothing stands. Every life begins with the notice time, also
/// where nobody that enters has been here before: an emptied store may be reached by a new instance first,
/// and the holds that it has lost are put back by those who wrote.
pub fn enter(
    stands: Option<Record>,
    who: &str,
    fresh: Incarnation,
    how: How,
    notice: Duration,
    now: Timestamp,
) -> Record {
    match stands {
        Some(record) if record.who == who && how != How::Anew => record,
        _ => Record {
            who: who.to_owned(),
            life: fresh,
            trusted: now.plus(notice).as_millis(),
        },
    }
}

/// How long nothing is trusted on this link, if the life itself has so long left to wait, the store was `away`, and the
/// last link had so much of its own wait `left`. Who was away for longer than a moment, or has never been here, may come
/// before an instance that has forwarded a write without a hold meanwhile, and is still to say so; and a link that breaks
/// for a moment does not make that one any faster.
pub fn untrusted_for(life: Duration, how: How, away: Duration, left: Duration) -> Duration {
    match how {
        How::Again | How::Anew if away < A_MOMENT => life.max(left),
        _ => life.max(NOTICE),
    }
}

impl Record {
    /// As it stands in the store: `who life trusted`.
    pub fn parse(text: &str) -> Option<Record> {
        let mut words = text.split(' ');
        let who = words.next()?.to_owned();
        let life = words.next().filter(|life| life.len() == 8)?;
        let life = Incarnation(u32::from_str_radix(life, 16).ok()?);
        let trusted = words.next()?.parse().ok()?;
        words
            .next()
            .is_none()
            .then_some(Record { who, life, trusted })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:08x} {}", self.who, self.life.0, self.trusted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_breaks_for_a_moment_while_nothing_is_trusted_yet_waits_for_the_rest() {
        let (none, rest) = (Duration::ZERO, NOTICE / 3);
        let brief = A_MOMENT / 2;
        assert_eq!(untrusted_for(none, How::Again, brief, rest), rest);
        assert_eq!(untrusted_for(none, How::Again, brief, none), none);
        assert_eq!(untrusted_for(NOTICE, How::Anew, brief, rest), NOTICE);
        assert_eq!(untrusted_for(none, How::Again, A_MOMENT, rest), NOTICE);
    }

    #[test]
    fn who_is_here_for_the_first_time_waits_for_those_that_were_away() {
        let none = Duration::ZERO;
        assert_eq!(untrusted_for(none, How::First, none, none), NOTICE);
    }

    #[test]
    fn a_new_instance_at_an_empty_store_waits_for_those_whose_holds_it_may_have_lost() {
        let (life, now) = (Incarnation(7), Timestamp::from_micros(5_000));
        let first = enter(None, "who", life, How::First, NOTICE, now);
        assert_eq!(first.trusted, now.plus(NOTICE).as_millis());
        let later = now.plus(NOTICE / 2);
        let second = enter(
            Some(first.clone()),
            "who",
            Incarnation(8),
            How::First,
            NOTICE,
            later,
        );
        assert_eq!(
            second, first,
            "with the same life, and the rest of its wait"
        );
    }

    #[test]
    fn an_answer_that_is_looked_at_late_sets_no_life_back() {
        let heard = Heard::default();
        let [none, first, second] = [0, 1, 2].map(Incarnation);
        heard.hear(none, first);
        let (early, late) = (heard.last(), heard.last());
        heard.hear(early, second);
        heard.hear(late, first);
        assert_eq!(heard.last(), second);
    }

    #[test]
    fn a_life_that_is_over_does_not_come_back_on_this_link_or_another() {
        let lives = Arc::<Lives>::default();
        let [none, first, second, third] = [0, 1, 2, 3].map(Incarnation);
        let link = Heard::on(1, lives.clone());
        assert!(link.hear(none, first) && link.hear(first, second));
        assert!(!link.hear(second, first), "its data were put back");
        assert_eq!(link.last(), none);
        assert!(!link.hear(second, first), "whoever hears of it later");
        let next = Heard::on(2, lives);
        assert!(!next.hear(none, first));
        assert!(next.hear(none, third));
        assert_eq!(next.last(), third);
    }

    #[test]
    fn what_is_heard_on_a_link_that_was_given_up_ends_no_life() {
        let lives = Arc::<Lives>::default();
        let [none, first, second, third] = [0, 1, 2, 3].map(Incarnation);
        let given_up = Heard::on(1, lives.clone());
        assert!(given_up.hear(none, first));
        let link = Heard::on(2, lives.clone());
        assert!(link.hear(none, third));
        assert!(given_up.hear(first, second));
        assert!(Heard::on(3, lives).hear(none, third));
    }

    #[test]
    fn a_life_is_over_when_no_record_of_it_stands_any_more() {
        let heard = Heard::default();
        let [none, first] = [0, 1].map(Incarnation);
        assert!(heard.hear(none, first) && heard.hear(first, none));
        assert!(!heard.hear(none, first));
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let (life, now) = (Incarnation(7), Timestamp::from_micros(5_000));
        let record = enter(None, "who:when", life, How::First, Duration::ZERO, now);
        assert_eq!(record.to_string(), "who:when 00000007 5");
        assert_eq!(Record::parse(&record.to_string()), Some(record));
        for other in ["", "who", "who 7 5", "who 00000007 x", "who 00000007 5 6"] {
            assert_eq!(Record::parse(other), None, "{other}");
        }
    }
}
