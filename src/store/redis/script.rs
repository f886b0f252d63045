//! What `state.lua` is told, and what it says: one call for some states. No I/O.

use std::io::Write;

use bytes::BytesMut;

use super::frame;
use super::link::INCARNATION_KEY;
use crate::coherence::StateKey;
use crate::coherence::lease;
use crate::coherence::protocol::{Epoch, Incarnation, Outcome, Reply, Seen, Step};

pub const SCRIPT: &str = include_str!("state.lua");

/// So much longer than its last hold a state lives at least, in milliseconds.
const BEYOND_ITS_HOLDS: u64 = 60_000;

/// How the server is told which script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'s> {
    Digest(&'s str),
    Text(&'s str),
}

/// One call of the script, by its arguments.
#[derive(Debug)]
pub struct Call<'c> {
    states: &'c [StateKey],
    word: &'static str,
    /// The key behind those of the states.
    beside: Option<&'static str>,
    /// The hold, or the life and the fresh bits of an epoch.
    bits: Option<Bits>,
    more: More,
}

type Bits = [u8; 16];

#[derive(Debug)]
enum More {
    Nothing,
    /// How long a hold is to last, in milliseconds.
    Lasting(u64),
    /// The epoch's, beside the hold.
    Epoch(Bits),
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

impl<'c> Call<'c> {
    pub fn step(step: Step, states: &'c [StateKey]) -> Self {
        let (word, beside) = match step {
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
        };
        let bits = match step {
            Step::Open { incarnation, fresh } => Some(of_epoch(incarnation, fresh)),
            Step::Begin { hold, .. } | Step::Finish { hold, .. } | Step::Renew { hold, .. } => {
                Some(hex(hold.0))
            }
            Step::Purge | Step::Outdate => None,
        };
        let more = match step {
            Step::Begin { lasting, .. }
            | Step::Finish {
                lasting,
                outcome: Outcome::Ambiguous,
                ..
            } => More::Lasting(lasting.as_millis() as u64),
            Step::Renew {
                incarnation, fresh, ..
            } => More::Epoch(of_epoch(incarnation, fresh)),
            Step::Open { .. } | Step::Finish { .. } | Step::Purge | Step::Outdate => More::Nothing,
        };
        Call {
            states,
            word,
            beside,
            bits,
            more,
        }
    }

    /// `Step::Open`, if the store still lives that life.
    pub fn enter(life: Incarnation, fresh: u32, states: &'c [StateKey]) -> Self {
        Call {
            states,
            word: "enter",
            beside: Some(INCARNATION_KEY),
            bits: Some(of_epoch(life, fresh)),
            more: More::Nothing,
        }
    }

    /// The command. `lifetime`: of a state, in milliseconds.
    pub fn write(&self, out: &mut BytesMut, by: By, prefix: &str, lifetime: u64) {
        let keys = self.states.len() + usize::from(self.beside.is_some());
        let more = usize::from(!matches!(self.more, More::Nothing));
        frame::command(out, 6 + keys + more);
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
        let states = self.states.iter().map(StateKey::as_str);
        for key in states.chain(self.beside) {
            frame::argument(out, &[prefix.as_bytes(), b":", key.as_bytes()]);
        }
        frame::argument(out, &[self.word.as_bytes()]);
        number(
            out,
            match self.more {
                More::Lasting(lasting) => lifetime.max(lasting + BEYOND_ITS_HOLDS),
                More::Nothing | More::Epoch(_) => lifetime,
            },
        );
        let none = b"-".as_slice();
        frame::argument(out, &[self.bits.as_ref().map_or(none, |bits| bits)]);
        match &self.more {
            More::Nothing => {}
            More::Lasting(lasting) => number(out, *lasting),
            More::Epoch(bits) => frame::argument(out, &[bits]),
        }
    }

    /// What the script says after a step. `None`: that is not what it says.
    pub fn told(&self, text: &[u8]) -> Option<Told> {
        // It leaves all of them held, and says nothing of them.
        let begins = self.word == "begin";
        let lines = if begins { 0 } else { self.states.len() };
        let mut said = text.splitn(lines + 1, |&byte| byte == b'\n');
        let held = Reply {
            seen: Seen::Held,
            own_hold: false,
        };
        let replies = match begins {
            true => vec![held; self.states.len()],
            false => said.by_ref().take(lines).map(line).collect(),
        };
        let terms = said.next().filter(|terms| !terms.is_empty());
        (replies.len() == self.states.len()).then(|| Told {
            replies,
            terms: terms.map(<[u8]>::to_vec),
        })
    }

    /// What it says where it was to enter.
    pub fn entered(&self, text: &[u8]) -> Option<Entered> {
        if text.is_empty() || text.starts_with(b"?") {
            return Some(Entered::Elsewhere);
        }
        let lines = text.split(|&byte| byte == b'\n');
        let seen: Vec<Seen> = lines.map(|text| line(text).seen).collect();
        (seen.len() == self.states.len()).then_some(Entered::Opened(seen))
    }
}

/// One state, as the script has left it.
fn line(text: &[u8]) -> Reply {
    let (own_hold, text) = match text.strip_prefix(b"!") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let seen = match text {
        b"*" => Seen::Held,
        epoch => Epoch::parse(epoch).map_or(Seen::Absent, Seen::Current),
    };
    Reply { seen, own_hold }
}

fn of_epoch(life: Incarnation, fresh: u32) -> Bits {
    hex(u64::from(life.0) << 32 | u64::from(fresh))
}

fn hex(bits: u64) -> Bits {
    let mut digits = [0; 16];
    let _ = write!(&mut digits[..], "{bits:016x}");
    digits
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
        Call::step(begin, &states).write(&mut out, By::Digest("cafe"), "t", 3_600_000);
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
            "000000000000002a",
            "60000",
        ];
        assert_eq!(words, expected);
        assert!(out.starts_with(b"*10\r\n"));
    }

    #[test]
    fn a_state_lives_longer_than_any_hold_that_it_bears() {
        let states = states(&["f~state"]);
        let begin = Step::Begin {
            hold: HoldId(1),
            lasting: Duration::from_secs(100),
        };
        let mut out = BytesMut::new();
        Call::step(begin, &states).write(&mut out, By::Digest("cafe"), "t", 5);
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
        let said = format!("!*\n-\n!{epoch}");
        let told = Call::step(changed, &states).told(said.as_bytes()).unwrap();
        let expected = [
            reply(Seen::Held, true),
            reply(Seen::Absent, false),
            reply(Seen::Current(epoch), true),
        ];
        assert_eq!((&told.replies[..], told.terms), (&expected[..], None));
        let purge = Call::step(Step::Purge, &states);
        let told = purge.told(b"-\n*\n-\n10@5 20@6").unwrap();
        assert_eq!(told.replies[1], reply(Seen::Held, false));
        assert_eq!(told.terms.as_deref(), Some(&b"10@5 20@6"[..]));
        assert_eq!(purge.told(b"-\n*\n-\n").unwrap().terms, None);
        assert_eq!(purge.told(b"-\n*"), None, "a line is missing");
    }

    #[test]
    fn a_store_of_another_life_is_not_entered() {
        let states = states(&["f~state"]);
        let call = Call::enter(Incarnation(7), 1, &states);
        let epoch = Epoch::new(Timestamp::from_micros(5), Incarnation(7), 1);
        let opened = Entered::Opened(vec![Seen::Current(epoch)]);
        let said = epoch.to_string();
        assert_eq!(call.entered(said.as_bytes()), Some(opened));
        for elsewhere in ["", "?who:when 00000008 5"] {
            assert_eq!(
                call.entered(elsewhere.as_bytes()),
                Some(Entered::Elsewhere),
                "{elsewhere}"
            );
        }
    }
}
