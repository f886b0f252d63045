//! RFC 9875: which cache groups the responses of a target are in.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::coherence::StateKey;

/// The groups that the responses of a target have been in, as their states. What is not known here is learnt anew from
/// the next response. A copy is valid only under the epochs of all groups that are known, and is kept only if it is in no
/// other: so what is forgotten here is fetched anew, and shown to nobody.
#[derive(Default)]
pub struct Groups(Mutex<HashMap<String, Vec<StateKey>>>);

impl Groups {
    /// Targets that are remembered; then all are forgotten, and learnt again.
    const MOST: usize = 10_000;

    /// Groups of one target, each of which is asked about at each look-up. RFC 9875 §2 allows a bound that is not low.
    const MOST_OF_ONE: usize = 128;

    pub(super) fn of(&self, target: &str) -> Vec<StateKey> {
        self.0.lock().get(target).cloned().unwrap_or_default()
    }

    pub(super) fn learn(&self, target: &str, mut states: Vec<StateKey>) {
        states.sort();
        states.dedup();
        if states.len() > Self::MOST_OF_ONE {
            return;
        }
        let mut known = self.0.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        let of_target = known.entry(target.to_owned()).or_default();
        let mut all = of_target.clone();
        all.extend(states.iter().cloned());
        all.sort();
        all.dedup();
        // Of an origin that names others all the time, those of now.
        *of_target = match all.len() > Self::MOST_OF_ONE {
            true => states,
            false => all,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: usize) -> StateKey {
        StateKey::new(format!("group {n}"))
    }

    #[test]
    fn a_target_is_in_so_many_groups_at_most_and_always_in_those_of_its_last_answer() {
        let groups = Groups::default();
        for n in 0..1_000 {
            groups.learn("/", vec![group(n)]);
            let of_target = groups.of("/");
            assert!(of_target.contains(&group(n)));
            assert!(of_target.len() <= Groups::MOST_OF_ONE, "{n}");
        }
    }

    #[test]
    fn the_groups_of_all_variants_of_a_target_are_known_beside_each_other() {
        let groups = Groups::default();
        groups.learn("/", vec![group(1), group(2)]);
        groups.learn("/", vec![group(2), group(3)]);
        assert_eq!(groups.of("/"), [group(1), group(2), group(3)]);
    }

    #[test]
    fn an_answer_in_more_groups_than_are_known_of_one_target_is_in_none_that_is_known() {
        let groups = Groups::default();
        groups.learn("/", vec![group(1)]);
        groups.learn("/", (0..=Groups::MOST_OF_ONE).map(group).collect());
        assert_eq!(groups.of("/"), [group(1)]);
    }
}
