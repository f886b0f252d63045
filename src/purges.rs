//! What has been dropped lately, and why: each purge that passes through this instance is an event in the log, a count, and
//! one of the last that can be looked at.

use std::collections::VecDeque;

use http::Method;
use parking_lot::Mutex;
use serde::Serialize;
use smallvec::SmallVec;
use tracing::{info, warn};

use crate::clock::{self, Timestamp};
use crate::coherence::StateKey;
use crate::message::date;
use crate::metrics::COUNTED;

/// So many are remembered.
const KEPT: usize = 200;

/// Of one purge so many states are named, and in one line of the log.
const NAMED: usize = 20;

static LAST: Mutex<VecDeque<Kept>> = Mutex::new(VecDeque::new());

/// Why something was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A write that was answered.
    Write,
    /// A write of which nobody knows whether it came to pass.
    Ambiguous,
    /// A write that the store could not be told of: it is told before it is used again.
    Owed,
    /// What the answer to a write named beside its target.
    Named,
    /// Somebody, by hand or by a script.
    Operator,
    /// The same, softly.
    OperatorSoft,
    /// What the API had said of a credential.
    Credential,
    /// The file, read again, says that writes drop it from now on.
    Reload,
}

impl Cause {
    pub fn word(self) -> &'static str {
        match self {
            Cause::Write => "write",
            Cause::Ambiguous => "ambiguous",
            Cause::Owed => "owed",
            Cause::Named => "named",
            Cause::Operator => "operator",
            Cause::OperatorSoft => "operator-soft",
            Cause::Credential => "credential",
            Cause::Reload => "reload",
        }
    }
}

/// The write that dropped it.
#[derive(Debug, Clone)]
pub struct ByWrite {
    pub method: Method,
    pub path: String,
    /// The rules of the file that name it, by their places; none: the path is a route's own.
    pub rules: SmallVec<[u16; 4]>,
    pub request_id: Option<String>,
}

/// As it is kept: it is spelt when somebody looks.
struct Kept {
    at: Timestamp,
    cause: Cause,
    states: SmallVec<[StateKey; 4]>,
    count: usize,
    write: Option<ByWrite>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Purge {
    /// As RFC 9110 writes a date.
    pub at: String,
    pub unix_seconds: u64,
    pub cause: &'static str,
    /// At most twenty of them.
    pub states: Vec<String>,
    /// How many there were.
    pub count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Told>,
}

/// A write as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    pub method: String,
    pub path: String,
    /// As `purge[1]`.
    pub rules: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Kept {
    fn told(&self) -> Purge {
        Purge {
            at: at(self.at),
            unix_seconds: self.at.as_millis() / 1000,
            cause: self.cause.word(),
            states: self.states.iter().map(StateKey::to_string).collect(),
            count: self.count,
            write: self.write.as_ref().map(|write| Told {
                method: write.method.to_string(),
                path: write.path.clone(),
                rules: write.rules(),
                request_id: write.request_id.clone(),
            }),
        }
    }
}

impl ByWrite {
    fn rules(&self) -> Vec<String> {
        let rules = self.rules.iter();
        rules.map(|place| format!("purge[{place}]")).collect()
    }
}

/// The last ones, the latest first.
pub fn last(most: usize) -> Vec<Purge> {
    let last = LAST.lock();
    last.iter().rev().take(most).map(Kept::told).collect()
}

/// A write has dropped these, or will have.
pub fn by_write(cause: Cause, states: &[StateKey], write: ByWrite) {
    let (method, path, id) = (&write.method, &write.path, write.request_id.as_deref());
    match cause {
        Cause::Owed => warn!(
            states = names(states),
            cause = cause.word(),
            %method,
            path,
            id,
            "purge owed: the store is away, and will be told before it is used again"
        ),
        _ => info!(
            states = names(states),
            cause = cause.word(),
            %method,
            path,
            rules = write.rules().join(" "),
            id,
            "purged"
        ),
    }
    note(cause, states, Some(write));
}

/// Somebody has dropped these, or a reload has.
pub fn by_hand(cause: Cause, states: &[StateKey]) {
    match cause {
        // What a credential's states are called is a hash, and says nothing.
        Cause::Credential => info!(
            parts = states.len(),
            cause = cause.word(),
            "credential revoked"
        ),
        // A line of more than 4 KiB could be torn.
        _ => states
            .chunks(NAMED)
            .for_each(|some| info!(states = names(some), cause = cause.word(), "purged")),
    }
    note(cause, states, None);
}

fn note(cause: Cause, states: &[StateKey], write: Option<ByWrite>) {
    COUNTED.purges.count([cause.word()]);
    let purge = Kept {
        at: clock::now(),
        cause,
        states: states.iter().take(NAMED).cloned().collect(),
        count: states.len(),
        write,
    };
    let mut last = LAST.lock();
    if last.len() >= KEPT {
        last.pop_front();
    }
    last.push_back(purge);
}

fn at(now: Timestamp) -> String {
    date::format(now).to_str().unwrap_or_default().to_owned()
}

fn names(states: &[StateKey]) -> String {
    let names: Vec<&str> = states.iter().map(StateKey::as_str).collect();
    names.join(" ")
}
