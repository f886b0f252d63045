//! What has been dropped lately, and why: each purge that passes through this instance is an event in the log, a count, and
//! one of the last that can be looked at.

use std::collections::VecDeque;

use http::Method;
use parking_lot::Mutex;
use serde::Serialize;
use tracing::{info, warn};

use crate::clock::{self, Timestamp};
use crate::coherence::StateKey;
use crate::message::date;
use crate::metrics::COUNTED;

/// So many are remembered.
const KEPT: usize = 200;

/// Of one purge so many states are named.
const NAMED: usize = 20;

static LAST: Mutex<VecDeque<Purge>> = Mutex::new(VecDeque::new());

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
#[derive(Debug, Clone, Serialize)]
pub struct ByWrite {
    pub method: String,
    pub path: String,
    /// The rules of the file that name it, as `purge[1]`; none: the path is a route's own.
    pub rules: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
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
    pub write: Option<ByWrite>,
}

/// The last ones, the latest first.
pub fn last(most: usize) -> Vec<Purge> {
    LAST.lock().iter().rev().take(most).cloned().collect()
}

/// A write has dropped these, or will have.
pub fn by_write(cause: Cause, states: &[StateKey], method: &Method, write: ByWrite) {
    let names = names(states);
    let (path, id) = (write.path.as_str(), write.request_id.as_deref());
    match cause {
        Cause::Owed => warn!(
            states = names,
            cause = cause.word(),
            %method,
            path,
            id,
            "purge owed: the store is away, and will be told before it is used again"
        ),
        _ => info!(
            states = names,
            cause = cause.word(),
            %method,
            path,
            rules = write.rules.join(" "),
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
        _ => info!(states = names(states), cause = cause.word(), "purged"),
    }
    note(cause, states, None);
}

fn note(cause: Cause, states: &[StateKey], write: Option<ByWrite>) {
    COUNTED.purges.count([cause.word()]);
    let now = clock::now();
    let purge = Purge {
        at: at(now),
        unix_seconds: now.as_millis() / 1000,
        cause: cause.word(),
        states: states
            .iter()
            .take(NAMED)
            .map(|state| state.as_str().to_owned())
            .collect(),
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
