//! What a thread remembers: in sets of a few places each, and marks of what it has seen.
//!
//! When all places of its set are taken, who comes has to be patient: of many who would have a place one is given it, in place of
//! somebody who was not asked for meanwhile. More heads that go round than there is room for would else each drive another
//! out before that comes again, and all of them be made anew each time, for nothing.

use std::sync::Arc;

/// Places: so many in each of so many sets.
const WAYS: usize = 4;
const SETS: usize = 1024;

/// Hashes of which it is known that they were seen.
const MARKS: usize = 4 * SETS * WAYS;

/// Of so many who would have a place in a full set, one may.
const PATIENCE: u8 = 32;

pub struct Sets<T>(Vec<Set<T>>);

struct Set<T> {
    places: [Option<Place<T>>; WAYS],
    turned_away: u8,
}

struct Place<T> {
    hash: u64,
    kept: Arc<T>,
    /// Since somebody was last given a place in its set.
    was_asked_for: bool,
}

impl<T> Sets<T> {
    pub const NOTHING: Sets<T> = Sets(Vec::new());

    pub fn find(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&Arc<T>> {
        let set = self.0.get_mut(hash as usize % SETS)?;
        let mut taken = set.places.iter_mut().flatten();
        let found = taken.find(|place| place.hash == hash && is_it(&place.kept))?;
        found.was_asked_for = true;
        Some(&found.kept)
    }

    /// The place that is to be its own, if there is one. `is_over`: what is kept there will never be asked for again.
    pub fn place_for(&mut self, hash: u64, is_over: impl Fn(&T) -> bool) -> Option<usize> {
        self.0.resize_with(SETS, || Set {
            places: [const { None }; WAYS],
            turned_away: 0,
        });
        let set = &mut self.0[hash as usize % SETS];
        let is_same = |place: &Place<T>| place.hash == hash;
        let is_free = |place: &Place<T>| is_over(&place.kept);
        let places = || set.places.iter();
        let same = places().position(|place| place.as_ref().is_some_and(is_same));
        let free = || places().position(|place| place.as_ref().is_none_or(is_free));
        same.or_else(free).or_else(|| set.after_patience())
    }

    pub fn keep(&mut self, hash: u64, place: usize, kept: T) {
        self.0[hash as usize % SETS].places[place] = Some(Place {
            hash,
            kept: Arc::new(kept),
            was_asked_for: false,
        });
    }
}

impl<T> Set<T> {
    fn after_patience(&mut self) -> Option<usize> {
        self.turned_away += 1;
        if self.turned_away < PATIENCE {
            return None;
        }
        self.turned_away = 0;
        let mut idle = None;
        for (n, place) in self.places.iter_mut().enumerate() {
            if let Some(place) = place
                && !std::mem::take(&mut place.was_asked_for)
            {
                idle = idle.or(Some(n));
            }
        }
        idle
    }
}

/// By which a head is recognised that comes for the second time.
pub struct Seen(Vec<u32>);

impl Seen {
    pub const NOTHING: Seen = Seen(Vec::new());

    /// Whether it was here before; now it was.
    pub fn was_here(&mut self, hash: u64) -> bool {
        self.0.resize(MARKS, 0);
        let mark = (hash >> 32) as u32;
        std::mem::replace(&mut self.0[hash as usize % MARKS], mark) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of one set.
    fn hash(n: usize) -> u64 {
        (n * SETS) as u64
    }

    fn find(sets: &mut Sets<usize>, n: usize) -> bool {
        sets.find(hash(n), |kept| *kept == n).is_some()
    }

    /// Whether it has a place now.
    fn offer(sets: &mut Sets<usize>, n: usize) -> bool {
        match sets.place_for(hash(n), |_| false) {
            Some(place) => {
                sets.keep(hash(n), place, n);
                true
            }
            None => false,
        }
    }

    #[test]
    fn a_set_is_filled_and_then_who_is_asked_for_stays() {
        let mut sets = Sets::NOTHING;
        for n in 0..WAYS {
            assert!(offer(&mut sets, n));
        }
        for newcomer in WAYS..1000 {
            assert!((0..WAYS).all(|n| find(&mut sets, n)));
            assert!(!offer(&mut sets, newcomer));
        }
    }

    #[test]
    fn who_is_asked_for_no_more_gives_way_to_who_is_patient() {
        let mut sets = Sets::NOTHING;
        for n in 0..WAYS {
            offer(&mut sets, n);
        }
        let offers = (1..).find(|_| {
            assert!((1..WAYS).all(|n| find(&mut sets, n)));
            offer(&mut sets, 9)
        });
        assert_eq!(offers, Some(usize::from(PATIENCE)));
        assert!(find(&mut sets, 9) && !find(&mut sets, 0));
    }

    #[test]
    fn of_more_than_there_is_room_for_most_offers_are_turned_away_and_as_many_as_there_is_room_for_are_found()
     {
        let (mut sets, mut kept, mut found) = (Sets::NOTHING, 0, 0);
        let (rounds, all) = (1000, 3 * WAYS);
        for turn in 0..rounds * all {
            match find(&mut sets, turn % all) {
                true => found += 1,
                false => kept += usize::from(offer(&mut sets, turn % all)),
            }
        }
        assert!(
            kept * usize::from(PATIENCE) <= rounds * all + WAYS * usize::from(PATIENCE),
            "{kept}"
        );
        assert!(
            found >= (rounds - usize::from(PATIENCE)) * WAYS / 2,
            "{found}"
        );
    }

    #[test]
    fn what_comes_again_otherwise_takes_its_own_place_and_what_is_over_anybodys() {
        let mut sets = Sets::NOTHING;
        for n in 0..WAYS {
            offer(&mut sets, n);
        }
        assert!((0..WAYS).all(|n| find(&mut sets, n)));
        let own = sets.place_for(hash(2), |_| false).unwrap();
        sets.keep(hash(2), own, 7);
        assert!(!find(&mut sets, 2) && sets.find(hash(2), |kept| *kept == 7).is_some());
        let over = sets.place_for(hash(9), |kept| *kept == 3).unwrap();
        sets.keep(hash(9), over, 9);
        assert!(find(&mut sets, 9) && !find(&mut sets, 3));
    }

    #[test]
    fn a_head_is_seen_from_its_second_time() {
        let mut seen = Seen::NOTHING;
        let hash = 7 << 32 | 1;
        assert!(!seen.was_here(hash) && seen.was_here(hash));
        assert!(!seen.was_here(8 << 32 | 1) && !seen.was_here(hash));
    }
}
