//! The life of one write: what came back in, what is to be done next out. What it notes in the book, it notes in the
//! same moment; the shell holds the lock, tells the store, forwards, waits and answers.
//!
//! begin → lapse → forward → finish → answer. What others may still show from their own memory has lapsed before it is
//! forwarded (`lease`), and before it is answered if its hold was not there to the end. A step that could not be confirmed ends the link it was sent by, and a link is
//! published only after the book was replayed by it; so if the store is *not* away after such a failure, the hold,
//! which stands in the book, is in place all the same.

use std::time::Duration;

use tokio::time::Instant;

use super::journal::Book;
use super::protocol::{HoldId, Outcome, StateKey, Step};

/// What becomes of a write whose hold cannot be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WithoutStore {
    Refuse,
    /// Its hold stays in the book, and is in place as soon as the store is there.
    Forward,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// All states were told, confirmed.
    Told,
    /// The same, but in some of them its own hold was gone: somebody may have seen that nobody writes.
    ToldUnheld,
    /// That could not be confirmed; some may have been, or may yet be.
    Untold,
    /// Every instance has had the time to notice that the store is away.
    Noticed,
    /// Nobody has a lease any more on what was there before.
    Lapsed,
    /// What the upstream's answer, or its absence, means.
    Ended(Outcome),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Tell each state of the write; then `Told` or `Untold`.
    Tell(Step),
    /// Wait for the notice time; then `Noticed`.
    Notice,
    /// Wait for the longest lease that anybody may have on what was there until now; then `Lapsed`.
    Lapse,
    /// Send it, once; then `Ended`.
    Forward,
    /// 503: it was not sent.
    Refuse,
    /// Pass on what the upstream said; what it drops may still be `owed` to the store.
    Answer { owed: bool },
    /// 504: it was sent, and what it drops is owed to the store.
    Unconfirmed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writing {
    states: Vec<StateKey>,
    hold: HoldId,
    lasting: Duration,
    without_store: WithoutStore,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Beginning,
    /// The store is away, and not everybody may know it yet.
    WaitingToForward,
    /// It is held, and what was seen before its hold may still be shown.
    LapsingToForward,
    Forwarded,
    Finishing(Outcome),
    /// It is owed, but the store is there: told once more.
    Paying(Outcome),
    WaitingToAnswer,
    /// It is finished, but something may have been seen while its hold was gone. `owed`: as in its answer.
    LapsingToAnswer {
        owed: bool,
    },
    Over,
}

impl Writing {
    /// A write of these states begins. `away`: there is no link now.
    pub fn begin(
        states: Vec<StateKey>,
        hold: HoldId,
        lasting: Duration,
        without_store: WithoutStore,
        book: &mut Book,
        away: bool,
        now: Instant,
    ) -> (Writing, Act) {
        let stage = Stage::Beginning;
        let mut writing = Writing {
            states,
            hold,
            lasting,
            without_store,
            stage,
        };
        book.hold(hold, &writing.states, lasting, now, !away);
        let act = match away {
            true => writing.unheld(book),
            false => Act::Tell(Step::Begin { hold, lasting }),
        };
        (writing, act)
    }

    pub fn next(&mut self, event: Event, book: &mut Book, away: bool) -> Act {
        match (self.stage, event) {
            (Stage::Beginning, Event::Told | Event::ToldUnheld) => self.held(),
            (Stage::Beginning, Event::Untold) if away => self.unheld(book),
            (Stage::Beginning, Event::Untold) => self.held(),
            // All leases of before the outage have lapsed by now.
            (Stage::WaitingToForward, Event::Noticed) if away => self.forward(),
            // The store is there again, and so is the hold, since a moment ago.
            (Stage::WaitingToForward, Event::Noticed) => self.held(),
            (Stage::LapsingToForward, Event::Lapsed) => self.forward(),
            (Stage::Forwarded, Event::Ended(outcome)) => {
                self.finish(Stage::Finishing(outcome), outcome)
            }
            (Stage::Finishing(outcome) | Stage::Paying(outcome), Event::Told) => {
                book.finished(self.hold, outcome);
                self.over(Act::Answer { owed: false })
            }
            (Stage::Finishing(outcome) | Stage::Paying(outcome), Event::ToldUnheld) => {
                book.finished(self.hold, outcome);
                match outcome {
                    Outcome::Unchanged => self.over(Act::Answer { owed: false }),
                    Outcome::Changed | Outcome::Ambiguous => self.lapse(false),
                }
            }
            (Stage::Finishing(outcome), Event::Untold) => {
                book.owe(self.hold, &self.states, outcome);
                match away {
                    true => self.unfinished(),
                    // The link that is there was published before this came to be owed.
                    false => self.finish(Stage::Paying(outcome), outcome),
                }
            }
            (Stage::Paying(_), Event::Untold) => self.unfinished(),
            (Stage::WaitingToAnswer, Event::Noticed) if away => {
                self.over(Act::Answer { owed: true })
            }
            // It was told with the journal, which does not hear whether the hold was there.
            (Stage::WaitingToAnswer, Event::Noticed) => self.lapse(true),
            (Stage::LapsingToAnswer { owed }, Event::Lapsed) => self.over(Act::Answer { owed }),
            (stage, event) => unreachable!("{event:?} in {stage:?}"),
        }
    }

    pub fn states(&self) -> &[StateKey] {
        &self.states
    }

    pub fn hold(&self) -> HoldId {
        self.hold
    }

    fn held(&mut self) -> Act {
        self.stage = Stage::LapsingToForward;
        Act::Lapse
    }

    fn lapse(&mut self, owed: bool) -> Act {
        self.stage = Stage::LapsingToAnswer { owed };
        Act::Lapse
    }

    fn forward(&mut self) -> Act {
        self.stage = Stage::Forwarded;
        Act::Forward
    }

    fn unheld(&mut self, book: &mut Book) -> Act {
        match self.without_store {
            WithoutStore::Refuse => {
                // Some of its hold may have arrived, or may yet.
                book.owe(self.hold, &self.states, Outcome::Unchanged);
                self.over(Act::Refuse)
            }
            WithoutStore::Forward => {
                self.stage = Stage::WaitingToForward;
                Act::Notice
            }
        }
    }

    fn finish(&mut self, stage: Stage, outcome: Outcome) -> Act {
        self.stage = stage;
        Act::Tell(Step::Finish {
            hold: self.hold,
            outcome,
            lasting: self.lasting,
        })
    }

    fn unfinished(&mut self) -> Act {
        match self.without_store {
            WithoutStore::Refuse => self.over(Act::Unconfirmed),
            WithoutStore::Forward => {
                self.stage = Stage::WaitingToAnswer;
                Act::Notice
            }
        }
    }

    fn over(&mut self, act: Act) -> Act {
        self.stage = Stage::Over;
        act
    }
}
