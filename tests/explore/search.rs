//! Breadth first, through every world that can be reached, each once; so the first violation is one of the shortest.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::steps::{Setting, Step, Violation};
use super::world::{Fault, World};

/// What an exploration came to.
#[derive(Debug, Default)]
pub struct Explored {
    pub states: usize,
    pub hits: usize,
    pub collapsed: usize,
    /// Each kind, with one of its shortest traces.
    pub found: BTreeMap<(Violation, Vec<Fault>), Vec<String>>,
    /// It was stopped at its limit.
    pub cut_short: bool,
}

/// The digests are as good as random already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = u64::from_ne_bytes(bytes[..8].try_into().expect("16 bytes"));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    TheEnd,
    /// The first violation that no documented hole excuses.
    Found,
}

pub fn explore(start: &World, setting: &Setting, until: Until, most: usize) -> Explored {
    let mut explored = Explored::default();
    let mut known: HashSet<u128, BuildHasherDefault<AsItIs>> = HashSet::default();
    let mut buffer = Vec::with_capacity(4096);
    // Where each came from: the one before it, and which of its steps.
    let mut from: Vec<(u32, u16)> = vec![(0, 0)];
    let mut queue = VecDeque::from([(0u32, start.clone())]);
    known.insert(start.digest(&mut buffer));
    let mut steps = Vec::new();
    while let Some((number, world)) = queue.pop_front() {
        setting.steps(&world, &mut steps);
        for (n, step) in steps.iter().enumerate() {
            let mut next = world.clone();
            let told = setting.apply(&mut next, *step);
            explored.hits += usize::from(told.hit);
            explored.collapsed += usize::from(told.collapsed);
            if let Some(violation) = told.violation {
                let kind = (violation, next.faults.clone());
                explored
                    .found
                    .entry(kind)
                    .or_insert_with(|| trace(start, setting, &from, number, *step));
                if until == Until::Found && violation.hole.is_none() {
                    explored.states = known.len();
                    return explored;
                }
                continue;
            }
            if !known.insert(next.digest(&mut buffer)) || next.is_over() {
                continue;
            }
            if known.len() >= most {
                explored.cut_short = true;
                explored.states = known.len();
                return explored;
            }
            from.push((number, n as u16));
            queue.push_back((from.len() as u32 - 1, next));
        }
    }
    explored.states = known.len();
    explored
}

fn trace(
    start: &World,
    setting: &Setting,
    from: &[(u32, u16)],
    last: u32,
    step: Step,
) -> Vec<String> {
    let mut way = vec![];
    let mut at = last;
    while at != 0 {
        let (before, n) = from[at as usize];
        way.push(n);
        at = before;
    }
    let (mut world, mut steps, mut words) = (start.clone(), Vec::new(), vec![]);
    for n in way.into_iter().rev() {
        setting.steps(&world, &mut steps);
        let step = steps[usize::from(n)];
        words.push(step.words(&world));
        setting.apply(&mut world, step);
    }
    words.push(step.words(&world));
    words
}
