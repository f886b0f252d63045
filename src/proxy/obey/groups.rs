//! RFC 9875: which cache groups the responses of a target are in.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::coherence::StateKey;

/// The groups that the responses of a target have been in, as their states. What is not known here is learnt anew from
/// the next response.
#[derive(Default)]
pub struct Groups(Mutex<HashMap<String, Vec<StateKey>>>);

impl Groups {
    /// Targets that are remembered; then all are forgotten, and learnt again.
    const MOST: usize = 10_000;

    pub(super) fn of(&self, target: &str) -> Vec<StateKey> {
        self.0.lock().get(target).cloned().unwrap_or_default()
    }

    pub(super) fn learn(&self, target: &str, states: Vec<StateKey>) {
        let mut known = self.0.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        let of_target = known.entry(target.to_owned()).or_default();
        of_target.extend(states);
        of_target.sort();
        of_target.dedup();
    }
}
