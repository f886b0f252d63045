//! What a thread keeps of what comes to it again: by its hash in a place of its own, from the second time on. What comes once
//! leaves a mark alone, and drives nothing out.

/// Things that are kept at most; and hashes of which it is known that they have come: with more, what loses its place to others
/// would have it again at once.
const PLACES: usize = 512;

/// Bytes of something that is worth keeping.
pub const LONGEST: usize = 2048;

pub struct Recurring<T> {
    kept: Vec<Option<(u64, T)>>,
    marks: Vec<u64>,
}

impl<T> Recurring<T> {
    pub const NOTHING: Recurring<T> = Recurring {
        kept: Vec::new(),
        marks: Vec::new(),
    };

    /// What is kept by this hash. It may be another's.
    pub fn get(&self, hash: u64) -> Option<&T> {
        let place = self.kept.get(hash as usize % PLACES)?.as_ref();
        place.filter(|(of, _)| *of == hash).map(|(_, kept)| kept)
    }

    /// Whether this is worth keeping: it was here before.
    pub fn comes_again(&mut self, hash: u64) -> bool {
        self.marks.resize(PLACES, 0);
        let mark = &mut self.marks[hash as usize % PLACES];
        std::mem::replace(mark, hash) == hash
    }

    pub fn keep(&mut self, hash: u64, value: T) {
        self.kept.resize_with(PLACES, || None);
        self.kept[hash as usize % PLACES] = Some((hash, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_until_another_is_kept_there() {
        let mut recurring = Recurring::NOTHING;
        assert_eq!(recurring.get(1), None::<&char>);
        assert!(!recurring.comes_again(1));
        assert!(recurring.comes_again(1));
        recurring.keep(1, 'a');
        recurring.keep(2, 'b');
        assert_eq!(
            (recurring.get(1), recurring.get(2)),
            (Some(&'a'), Some(&'b'))
        );
        let other = 1 + PLACES as u64;
        assert_eq!(recurring.get(other), None);
        recurring.keep(other, 'c');
        assert_eq!((recurring.get(1), recurring.get(other)), (None, Some(&'c')));
    }
}
