//! How many copies of each family this instance has stored within a ttl: a client that makes up parameters must not
//! fill the store. A copy that is stored again takes no other place.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Timestamp;
use crate::route::FamilyKey;

/// Families beyond it are forgotten once their ttl is over.
const FAMILIES: usize = 10_000;

pub struct Cap {
    /// Copies of one family.
    most: usize,
    families: Mutex<HashMap<FamilyKey, Family>>,
}

struct Family {
    since: Timestamp,
    /// By their hash: what is stored under a key takes far more than eight bytes.
    copies: HashSet<u64>,
    said: bool,
}

impl Cap {
    pub fn new(most: usize) -> Cap {
        Cap {
            most,
            families: Mutex::default(),
        }
    }

    /// Whether `add` would say yes.
    pub fn has_room(&self, family: &FamilyKey, copy: &str, ttl: Duration, now: Timestamp) -> bool {
        self.families.lock().get(family).is_none_or(|family| {
            now.since(family.since) >= ttl
                || family.copies.len() < self.most
                || family.copies.contains(&xxh3_64(copy.as_bytes()))
        })
    }

    /// Takes a place for a copy beside a family's plain one, if there is one within `ttl` or it has one.
    pub fn add(&self, family: &FamilyKey, copy: &str, ttl: Duration, now: Timestamp) -> bool {
        let mut families = self.families.lock();
        if families.len() > FAMILIES {
            families.retain(|_, family| now.since(family.since) < ttl);
        }
        let fresh = || Family {
            since: now,
            copies: HashSet::new(),
            said: false,
        };
        let places = families.entry(family.clone()).or_insert_with(fresh);
        if now.since(places.since) >= ttl {
            *places = fresh();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Captures, KeyTemplate};

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
