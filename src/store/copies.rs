//! Copies in this process's memory, bounded by their true bytes. What is asked for often stays; nothing is ever searched for
//! what is out of date, for the epochs decide.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::caching::stored::Stored;

pub struct Copies(Cache<Box<str>, Arc<Stored>, ByBytes>);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<str>, Arc<Stored>> for ByBytes {
    fn weight(&self, key: &Box<str>, stored: &Arc<Stored>) -> u64 {
        // Two words of counts for the Arc, and what the cache itself keeps for an entry.
        stored.weight() + key.len() as u64 + 112
    }
}

impl Copies {
    /// At most `bytes` of them.
    pub fn within(bytes: u64) -> Copies {
        let entries = (bytes / 1_500).clamp(64, 4_000_000) as usize;
        Copies(Cache::with_weighter(entries, bytes, ByBytes))
    }

    pub fn get(&self, copy: &str) -> Option<Arc<Stored>> {
        self.0.get(copy)
    }

    /// It must hold no more than its own bytes: a slice of a buffer would keep the whole of it.
    pub fn put(&self, copy: &str, stored: Arc<Stored>) {
        self.0.insert(copy.into(), stored);
    }

    pub fn drop(&self, copy: &str) {
        self.0.remove(copy);
    }

    pub fn iter(&self) -> impl Iterator<Item = (String, Arc<Stored>)> {
        self.0.iter().map(|(key, stored)| (key.into(), stored))
    }

    /// How many bytes they take.
    pub fn weight(&self) -> u64 {
        self.0.weight()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
