//! How many copies of each family this instance has stored within a ttl: a client that makes up parameters must not
//! fill the store. A copy that is stored again takes no other place.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Timestamp;
use crate::route::FamilyKey;

/// Families that are remembered. Of one that is forgotten the copies count anew: whoever brings that about with other
/// families might as well have stored copies of those.
const FAMILIES: usize = 10_000;

pub struct Cap {
    /// Copies of one family.
    most: usize,
    families: Cache<FamilyKey, Arc<Mutex<Family>>>,
}

struct Family {
    since: Timestamp,
    /// By their hash: what is stored under a key takes far more than eight bytes.
    copies: HashSet<u64>,
    said: bool,
}

impl Family {
    fn new(since: Timestamp) -> Family {
        Family {
            since,
            copies: HashSet::new(),
            said: false,
        }
    }
}

impl Cap {
    pub fn new(most: usize) -> Cap {
        Cap {
            most,
            families: Cache::new(FAMILIES),
        }
    }

    /// Whether `add` would say yes.
    pub fn has_room(&self, family: &FamilyKey, copy: &str, ttl: Duration, now: Timestamp) -> bool {
        self.families.peek(family).is_none_or(|family| {
            let family = family.lock();
            now.since(family.since) >= ttl
                || family.copies.len() < self.most
                || family.copies.contains(&xxh3_64(copy.as_bytes()))
        })
    }

    /// Takes a place for a copy beside a family's plain one, if there is one within `ttl` or it has one.
    pub fn add(&self, family: &FamilyKey, copy: &str, ttl: Duration, now: Timestamp) -> bool {
        let new = || Ok::<_, Infallible>(Arc::new(Mutex::new(Family::new(now))));
        let Ok(places) = self.families.get_or_insert_with(family, new);
        let mut places = places.lock();
        if now.since(places.since) >= ttl {
            *places = Family::new(now);
        }
        let copy = xxh3_64(copy.as_bytes());
        if places.copies.contains(&copy) {
            return true;
        }
        if places.copies.len() < self.most {
            places.copies.insert(copy);
            return true;
        }
        if !std::mem::replace(&mut places.said, true) {
            tracing::warn!(%family, most = self.most,
                "a family has as many copies as `limits.copies` allows: no others are stored until its ttl is over");
        }
        false
    }

    /// Gives the place back of a copy that was not stored after all.
    pub fn leave(&self, family: &FamilyKey, copy: &str) {
        if let Some(places) = self.families.peek(family) {
            places.lock().copies.remove(&xxh3_64(copy.as_bytes()));
        }
    }
}

#[cfg(test)]
impl Cap {
    fn families(&self) -> usize {
        self.families.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Captures, KeyTemplate};

    #[test]
    fn no_more_families_are_remembered_than_there_is_room_for_however_many_there_are() {
        let (cap, ttl) = (Cap::new(1), Duration::from_secs(3600));
        let now = Timestamp::from_micros(0);
        for n in 0..FAMILIES + 2_000 {
            let family = named(&format!("f{n}"));
            assert!(cap.add(&family, "~a", ttl, now));
            assert!(!cap.add(&family, "~b", ttl, now), "{n}");
        }
        assert!(cap.families() < FAMILIES + 1_000, "{}", cap.families());
    }

    fn named(name: &str) -> FamilyKey {
        let key = KeyTemplate::parse(name).unwrap();
        key.family(&Captures::default()).unwrap()
    }

    #[test]
    fn a_family_has_so_many_copies_however_often_each_is_stored_and_as_many_others_after_its_ttl() {
        let (cap, family, ttl) = (Cap::new(2), named("f"), Duration::from_secs(10));
        let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
        for second in 0..5 {
            assert!(cap.add(&family, "f~a", ttl, at(second)));
            assert!(cap.add(&family, "f~b", ttl, at(second)));
            assert!(!cap.add(&family, "f~c", ttl, at(second)));
            assert!(!cap.has_room(&family, "f~c", ttl, at(second)));
            assert!(cap.has_room(&family, "f~b", ttl, at(second)));
        }
        assert!(cap.add(&named("g"), "g~c", ttl, at(5)));
        assert!(cap.has_room(&family, "f~c", ttl, at(10)));
        assert!(cap.add(&family, "f~c", ttl, at(10)));
    }
}
