//! Sets of ASCII characters, and whether two rows of them have a text in common.

/// A set of ASCII characters, one bit each.
pub(super) type Set = u128;

pub(super) const DIGITS: Set = set(b"0123456789");
const LETTERS: Set = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
pub(super) const SLUG: Set = DIGITS | LETTERS | set(b"-_");
/// What a value consists of once it is encoded into a key.
pub(super) const KEY_VALUE: Set = SLUG | set(b".%");

pub(super) const UUID_LENGTH: usize = 36;

pub(super) const fn uuid_set(position: usize) -> Set {
    match position {
        8 | 13 | 18 | 23 => set(b"-"),
        _ => DIGITS | set(b"abcdef"),
    }
}

pub(super) const fn set(members: &[u8]) -> Set {
    let mut bits = 0;
    let mut i = 0;
    while i < members.len() {
        bits |= 1 << members[i];
        i += 1;
    }
    bits
}

pub(super) fn in_set(set: Set, byte: u8) -> bool {
    byte.is_ascii() && set & 1 << byte != 0
}

/// One character of a set, or one and more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Atom {
    pub(super) set: Set,
    pub(super) repeats: bool,
}

pub(super) fn literal_atoms(literal: &str) -> impl Iterator<Item = Atom> {
    literal.bytes().map(|byte| Atom {
        set: set(&[byte]),
        repeats: false,
    })
}

/// Whether one text fits both: a walk over the pairs of places in the two.
pub(super) fn intersect(left: &[Atom], right: &[Atom]) -> bool {
    let width = right.len() + 1;
    let mut seen = vec![false; (left.len() + 1) * width];
    let mut open = vec![(0, 0)];
    while let Some((i, j)) = open.pop() {
        if std::mem::replace(&mut seen[i * width + j], true) {
            continue;
        }
        match (left.get(i), right.get(j)) {
            (None, None) => return true,
            (Some(a), Some(b)) if a.set & b.set != 0 => {
                let next_i = [Some(i + 1), a.repeats.then_some(i)];
                let next_j = [Some(j + 1), b.repeats.then_some(j)];
                for i in next_i.into_iter().flatten() {
                    open.extend(next_j.into_iter().flatten().map(|j| (i, j)));
                }
            }
            _ => {}
        }
    }
    false
}
