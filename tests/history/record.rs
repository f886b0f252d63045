//! What a run leaves behind: who asked what of which instance, when, and what it was shown.

use std::fmt;

/// Every commit of the origin has the next one.
pub type Version = u64;

pub type Id = u64;

/// Nanoseconds since the run began.
pub type Moment = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    List,
    /// The list with `?role=`.
    Role(u64),
    User(Id),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    Read(Target),
    Create {
        role: u64,
    },
    Change(Id),
    Delete(Id),
    /// Every user there is gets the same new version.
    ChangeAll,
}

/// The body of an answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// For whom the origin made it.
    pub to: usize,
    pub hit: bool,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// All of the API's users, or those of one role, as they were at that version of the whole.
    Users {
        at: Version,
        users: Vec<(Id, Version)>,
    },
    /// The last version of that user: of its deletion if it is absent, and 0 if it has never been.
    User { version: Version, present: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Shown(Shown),
    /// A write that was answered with success.
    Written {
        id: Id,
        version: Version,
    },
    /// Anything else: it may have come to pass, or may yet.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub act: Act,
    pub instance: usize,
    pub credential: usize,
    /// Before anything was sent.
    pub start: Moment,
    /// When the head of the answer was there.
    pub told: Moment,
    /// When all of it was.
    pub end: Moment,
    pub outcome: Outcome,
}

/// What happened, in no particular order.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub operations: Vec<Operation>,
}

/// How much of what a history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub operations: usize,
    pub shown: usize,
    pub hits: usize,
    pub written: usize,
    /// Writes of which nobody knows whether they came to pass.
    pub unknown_writes: usize,
}

impl History {
    pub fn count(&self) -> Count {
        let mut count = Count {
            operations: self.operations.len(),
            ..Count::default()
        };
        for operation in &self.operations {
            match (&operation.outcome, operation.act) {
                (Outcome::Shown(shown), _) => {
                    count.shown += 1;
                    count.hits += usize::from(shown.hit);
                }
                (Outcome::Written { .. }, _) => count.written += 1,
                (Outcome::Unknown(_), Act::Read(_)) => {}
                (Outcome::Unknown(_), _) => count.unknown_writes += 1,
            }
        }
        count
    }
}

impl Count {
    pub fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.shown.max(1) as f64
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count {
            operations,
            shown,
            hits,
            written,
            unknown_writes,
        } = self;
        write!(
            f,
            "{operations} operations: {shown} reads shown, {hits} of them hits ({:.2}), ",
            self.hit_ratio()
        )?;
        write!(f, "{written} writes confirmed, {unknown_writes} unknown")
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |moment: Moment| moment as f64 / 1e6;
        write!(
            f,
            "[{:.3} {:.3} {:.3} ms] ",
            millis(self.start),
            millis(self.told),
            millis(self.end)
        )?;
        write!(
            f,
            "instance {} credential {} {:?}: ",
            self.instance, self.credential, self.act
        )?;
        match &self.outcome {
            Outcome::Shown(Shown { to, hit, what }) => {
                write!(
                    f,
                    "{} for credential {to}: {what:?}",
                    if *hit { "hit" } else { "miss" }
                )
            }
            Outcome::Written { id, version } => write!(f, "wrote version {version} of user {id}"),
            Outcome::Unknown(why) => write!(f, "unknown outcome: {why}"),
        }
    }
}
