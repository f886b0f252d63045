//! What `state.lua` is told, and what it says: one call for some states. No I/O.

use bytes::BytesMut;
use memchr::{memchr, memchr_iter};
use smallvec::SmallVec;

use super::frame;
use super::link::INCARNATION_KEY;
use crate::coherence::StateKey;
use crate::coherence::lease;
use crate::coherence::protocol::{Epoch, Incarnation, Outcome, Reply, Seen, Step};
use crate::hexadecimal;

pub const SCRIPT: &str = include_str!("state.lua");

/// States that one call is told of: others wait while it runs.
pub const AT_ONCE: usize = 64;

/// So much longer than its last hold a state lives at least, in milliseconds.
const BEYOND_ITS_HOLDS: u64 = 60_000;

/// How the server is told which script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'s> {
    Digest(&'s str),
    Text(&'s str),
}

/// What some states are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Step(Step),
    /// `Step::Open`, if the store still lives that life.
    Enter {
        life: Incarnation,
        fresh: u32,
    },
}

/// One call of the script: what some states are told; or several that came together, done one after the other.
#[derive(Debug)]
pub struct Call {
    word: &'static str,
    /// Each with the holds of the steps, in their order; none, where the step has none.
    states: Vec<(StateKey, Holds)>,
    /// The key behind those of the states.
    beside: Option<&'static str>,
    more: More,
}

type Bits = [u8; 16];

type Holds = SmallVec<[Bits; 1]>;

#[derive(Debug, PartialEq, Eq)]
enum More {
    Nothing,
    /// How long holds are to last, in milliseconds.
    Lasting(u64),
    Epoch(Incarnation, u32),
}

/// What of a call's answer is one step's.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// For each state its line, and its hold's place in that.
    places: SmallVec<[(usize, usize); 2]>,
    says: Says,
}

/// What the script says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Lines,
    /// And behind them the terms.
    LinesAndTerms,
    /// It leaves all of them held.
    Terms,
}

/// What steps have come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// One for each state.
    pub replies: Vec<Reply>,
    /// The terms of leases as they stood after the steps, where they were asked for and are there.
    pub terms: Option<Vec<u8>>,
}

/// What came of opening states.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    Opened(Vec<Seen>),
    /// The store lives another life, or nobody knows which.
    Elsewhere,
}

impl Call {
    /// Without states yet.
    fn of(ask: Ask) -> Call {
        let (word, beside) = match ask {
            Ask::Enter { .. } => ("enter", Some(INCARNATION_KEY)),
            Ask::Step(step) => match step {
                Step::Open { .. } => ("open", None),
                Step::Begin { .. } => ("begin", Some(lease::KEY)),
                Step::Finish { outcome, .. } => match outcome {
                    Outcome::Changed => ("changed", None),
                    Outcome::Unchanged => ("unchanged", None),
                    Outcome::Ambiguous => ("ambiguous", None),
                },
                Step::Renew { .. } => ("renew", None),
                Step::Purge => ("purge", Some(lease::KEY)),
                Step::Outdate => ("outdate", Some(lease::KEY)),
            },
        };
        let more = match ask {
            Ask::Step(
                Step::Begin { lasting, .. }
                | Step::Finish {
                    lasting,
                    outcome: Outcome::Ambiguous,
                    ..
                },
            ) => More::Lasting(lasting.as_millis() as u64),
            Ask::Step(
                Step::Open { incarnation, fresh }
                | Step::Renew {
                    incarnation, fresh, ..
                },
            ) => More::Epoch(incarnation, fresh),
            Ask::Enter { life, fresh } => More::Epoch(life, fresh),
            Ask::Step(Step::Finish { .. } | Step::Purge | Step::Outdate) => More::Nothing,
        };
        Call {
            word,
            states: Vec::new(),
            beside,
            more,
        }
    }

    pub fn new(ask: Ask, states: &[StateKey]) -> (Call, Part) {
        let mut call = Call::of(ask);
        let part = call.add(ask, states);
        (call, part)
    }

    /// Whether this may be told along with what is there: what many say at once, where one error is everybody's.
    pub fn takes(&self, ask: Ask) -> bool {
        let other = Call::of(ask);
        let goes_along = match (&self.more, &other.more) {
            // They may all have the same epoch: no state has it twice.
            (More::Epoch(life, _), More::Epoch(of_other, _)) => life == of_other,
            (own, of_other) => own == of_other,
        };
        matches!(self.word, "begin" | "changed" | "unchanged" | "enter")
            && self.word == other.word
            && goes_along
            && self.states.len() < AT_ONCE
    }

    /// One more such.
    pub fn add(&mut self, ask: Ask, states: &[StateKey]) -> Part {
        let hold = match ask {
            Ask::Step(
                Step::Begin { hold, .. } | Step::Finish { hold, .. } | Step::Renew { hold, .. },
            ) => Some(hexadecimal::padded(hold.0)),
            Ask::Step(Step::Open { .. } | Step::Purge | Step::Outdate) | Ask::Enter { .. } => None,
        };
        let mut place = |state: &StateKey| {
            let line = self.states.iter().position(|(known, _)| known == state);
            let line = line.unwrap_or_else(|| {
                self.states.push((state.clone(), Holds::new()));
                self.states.len() - 1
            });
            let Some(hold) = hold else {
                return (line, 0);
            };
            let holds = &mut self.states[line].1;
            let at = holds.iter().position(|known| *known == hold);
            let at = at.unwrap_or_else(|| {
                holds.push(hold);
                holds.len() - 1
            });
            (line, at)
        };
        Part {
            places: states.iter().map(&mut place).collect(),
            says: match (self.word, self.beside) {
                ("begin", _) => Says::Terms,
                (_, Some(lease::KEY)) => Says::LinesAndTerms,
                _ => Says::Lines,
            },
        }
    }

    /// The command. `lifetime`: of a state, in milliseconds.
    pub fn write(&self, out: &mut BytesMut, by: By, prefix: &str, lifetime: u64) {
        let keys = self.states.len() + usize::from(self.beside.is_some());
        let holds = self.states.iter().map(|(_, holds)| holds);
        let holds = holds.filter(|holds| !holds.is_empty());
        frame::command(out, 6 + keys + holds.clone().count());
        match by {
            By::Digest(digest) => {
                frame::argument(out, &[b"EVALSHA"]);
                frame::argument(out, &[digest.as_bytes()]);
            }
            By::Text(text) => {
                frame::argument(out, &[b"EVAL"]);
                frame::argument(out, &[text.as_bytes()]);
            }
        }
        number(out, keys as u64);
        let states = self.states.iter().map(|(state, _)| state.as_str());
        for key in states.chain(self.beside) {
            frame::argument(out, &[prefix.as_bytes(), b":", key.as_bytes()]);
        }
        frame::argument(out, &[self.word.as_bytes()]);
        match &self.more {
            More::Nothing => {
                number(out, lifetime);
                frame::argument(out, &[b"-"]);
            }
            More::Lasting(lasting) => {
                number(out, lifetime.max(lasting + BEYOND_ITS_HOLDS));
                number(out, *lasting);
            }
            More::Epoch(life, fresh) => {
                number(out, lifetime);
                frame::argument(out, &[&of_epoch(*life, *fresh)]);
            }
        }
        for holds in holds {
            frame::argument(out, &[holds.as_flattened()]);
        }
    }
}

impl Part {
    /// What the script says after the steps. `None`: that is not what it says.
    pub fn told(&self, text: &[u8]) -> Option<Told> {
        let some = |terms: &[u8]| (!terms.is_empty()).then(|| terms.to_vec());
        if self.says == Says::Terms {
            let held = Reply {
                seen: Seen::Held,
                own_hold: false,
            };
            return Some(Told {
                replies: vec![held; self.places.len()],
                terms: some(text),
            });
        }
        let of = |&(at, hold): &(usize, usize)| {
            let rest = from_line(text, at)?;
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            Some(line(&rest[..end], hold))
        };
        let replies = self.places.iter().map(of).collect::<Option<_>>()?;
        let terms = match self.says {
            // They are asked for by one step alone, so all lines are its.
            Says::LinesAndTerms => {
                let lines = self.places.iter().map(|(line, _)| line + 1).max();
                some(from_line(text, lines.unwrap_or(0))?)
            }
            Says::Lines | Says::Terms => None,
        };
        Some(Told { replies, terms })
    }

    /// What it says where it was to enter.
    pub fn entered(&self, text: &[u8]) -> Option<Entered> {
        if text.is_empty() || text.starts_with(b"?") {
            return Some(Entered::Elsewhere);
        }
        let told = self.told(text)?;
        let seen = told.replies.iter().map(|reply| reply.seen);
        Some(Entered::Opened(seen.collect()))
    }
}

/// What begins with that line. `None`: there are not so many.
fn from_line(text: &[u8], line: usize) -> Option<&[u8]> {
    let Some(before) = line.checked_sub(1) else {
        return Some(text);
    };
    let end = memchr_iter(b'\n', text).nth(before)?;
    Some(&text[end + 1..])
}

/// One state, as the script has left it; and whether this one of the holds was there.
fn line(text: &[u8], hold: usize) -> Reply {
    let holds = text.iter().take_while(|&&byte| matches!(byte, b'!' | b'.'));
    let (holds, state) = text.split_at(holds.count());
    let seen = match state {
        b"*" => Seen::Held,
        epoch => Epoch::parse(epoch).map_or(Seen::Absent, Seen::Current),
    };
    let own_hold = holds.get(hold) == Some(&b'!');
    Reply { seen, own_hold }
}

fn of_epoch(life: Incarnation, fresh: u32) -> Bits {
    hexadecimal::padded(u64::from(life.0) << 32 | u64::from(fresh))
}

fn number(out: &mut BytesMut, number: u64) {
    frame::argument(out, &[itoa::Buffer::new().format(number).as_bytes()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::coherence::HoldId;
    use std::time::Duration;

    fn states(names: &[&'static str]) -> Vec<StateKey> {
        names.iter().map(|name| StateKey::new(*name)).collect()
    }

    #[test]
    fn one_command_tells_all_states_and_reads_the_terms_after_them() {
        let states = states(&["list~state", "user:7~state"]);
        let begin = Step::Begin {
            hold: HoldId(0x2a),
            lasting: Duration::from_secs(60),
        };
        let mut out = BytesMut::new();
        Call::new(Ask::Step(begin), &states)
            .0
            .write(&mut out, By::Digest("cafe"), "t", 3_600_000);
        let words: Vec<&str> = std::str::from_utf8(&out)
            .unwrap()
            .split("\r\n")
            .skip(2)
            .step_by(2)
            .collect();
        let expected = [
            "EVALSHA",
            "cafe",
            "3",
            "t:list~state",
            "t:user:7~state",
            "t:~leases",
            "begin",
            "3600000",
            "60000",
            "000000000000002a",
            "000000000000002a",
        ];
        assert_eq!(words, expected);
        assert!(out.starts_with(b"*11\r\n"));
    }

    #[test]
    fn a_state_lives_longer_than_any_hold_that_it_bears() {
        let states = states(&["f~state"]);
        let begin = Step::Begin {
            hold: HoldId(1),
            lasting: Duration::from_secs(100),
        };
        let mut out = BytesMut::new();
        Call::new(Ask::Step(begin), &states)
            .0
            .write(&mut out, By::Digest("cafe"), "t", 5);
        let text = std::str::from_utf8(&out).unwrap();
        assert!(text.contains("\r\n160000\r\n"), "{text}");
    }

    #[test]
    fn each_state_has_its_line_and_the_rest_are_the_terms() {
        let states = states(&["f~state", "g~state", "h~state"]);
        let epoch = Epoch::new(Timestamp::from_micros(5), Incarnation(1), 7);
        let reply = |seen, own_hold| Reply { seen, own_hold };
        let changed = Step::Finish {
            hold: HoldId(1),
            outcome: Outcome::Changed,
            lasting: Duration::ZERO,
        };
        let said = format!("!*\n.-\n!{epoch}");
        let (_, part) = Call::new(Ask::Step(changed), &states);
        let told = part.told(said.as_bytes()).unwrap();
        let expected = [
            reply(Seen::Held, true),
            reply(Seen::Absent, false),
            reply(Seen::Current(epoch), true),
        ];
        assert_eq!((&told.replies[..], told.terms), (&expected[..], None));
        let (_, purge) = Call::new(Ask::Step(Step::Purge), &states);
        let told = purge.told(b"-\n*\n-\n10@5 20@6").unwrap();
        assert_eq!(told.replies[1], reply(Seen::Held, false));
        assert_eq!(told.terms.as_deref(), Some(&b"10@5 20@6"[..]));
        assert_eq!(purge.told(b"-\n*\n-\n").unwrap().terms, None);
        assert_eq!(purge.told(b"-\n*"), None, "a line is missing");
    }

    #[test]
    fn writes_that_come_together_are_told_together_and_each_hears_of_its_own_holds() {
        let changed = |hold| {
            Ask::Step(Step::Finish {
                hold: HoldId(hold),
                outcome: Outcome::Changed,
                lasting: Duration::ZERO,
            })
        };
        let (mut call, one) = Call::new(changed(1), &states(&["list", "user:1"]));
        assert!(call.takes(changed(2)));
        let other = call.add(changed(2), &states(&["list", "user:2"]));
        for ask in [Ask::Step(Step::Purge), begin(2, 60)] {
            assert!(!call.takes(ask), "{ask:?}");
        }
        let mut out = BytesMut::new();
        call.write(&mut out, By::Digest("cafe"), "t", 5);
        let both = "\r\n00000000000000010000000000000002\r\n";
        assert!(std::str::from_utf8(&out).unwrap().contains(both));
        let said = b"!.*\n!-\n!-";
        let own = |part: &Part| {
            let replies = part.told(said).unwrap().replies;
            replies
                .iter()
                .map(|reply| reply.own_hold)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (own(&one), own(&other)),
            (vec![true, true], vec![false, true])
        );

        let (long, _) = Call::new(begin(1, 60), &states(&["list"]));
        assert!(long.takes(begin(2, 60)) && !long.takes(begin(2, 61)));
        let (purge, _) = Call::new(Ask::Step(Step::Purge), &states(&["list"]));
        assert!(
            !purge.takes(Ask::Step(Step::Purge)),
            "it has no hold to tell it by"
        );
    }

    fn begin(hold: u64, lasting: u64) -> Ask {
        Ask::Step(Step::Begin {
            hold: HoldId(hold),
            lasting: Duration::from_secs(lasting),
        })
    }

    #[test]
    fn a_store_of_another_life_is_not_entered() {
        let states = states(&["f~state"]);
        let enter = |life, fresh| Ask::Enter {
            life: Incarnation(life),
            fresh,
        };
        let (mut call, part) = Call::new(enter(7, 1), &states);
        let epoch = Epoch::new(Timestamp::from_micros(5), Incarnation(7), 1);
        let opened = Entered::Opened(vec![Seen::Current(epoch)]);
        let said = epoch.to_string();
        assert_eq!(part.entered(said.as_bytes()), Some(opened));
        for elsewhere in ["", "?who:when 00000008 5"] {
            assert_eq!(
                part.entered(elsewhere.as_bytes()),
                Some(Entered::Elsewhere),
                "{elsewhere}"
            );
        }
        assert!(call.takes(enter(7, 2)) && !call.takes(enter(8, 2)));
        let other = call.add(enter(7, 2), &self::states(&["g~state", "f~state"]));
        let both = format!("{epoch}\n*");
        let opened = Entered::Opened(vec![Seen::Held, Seen::Current(epoch)]);
        assert_eq!(other.entered(both.as_bytes()), Some(opened));
    }
}
