//! Caches in the process with protocols that look right and are not, in front of the same users and asked by the same
//! readers and writers: the checker must find each of them out. The whole protocol, in the same few lines, passes.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::checker::{Bound, Rule, Violation, check};
use super::record::{Act, Id, Outcome, Shown, Target, Version, What};
use super::run::{Answered, Asking, Client, Front, Plan, Stage, run};
use super::users::{Manner, Users};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// A copy is there or not; a write drops the copies that it knows, after it was answered.
    PurgeAfter,
    /// The same, and once more before.
    PurgeBeforeAndAfter,
    /// Copies carry epochs; nobody is told that a write is in flight.
    EpochWithoutHold,
    /// Epochs and holds; whoever wants what is being fetched waits for it, whenever that was sent.
    CollapsingWithoutTheEpoch,
    /// All but this: a deletion whose answer was lost is sent again, and its 404 taken for "nothing has changed".
    ResentDelete,
    /// All but this: a 404 that is being fetched is shared like any other answer.
    Joined404,
    /// A finish takes away all holds, not its own alone.
    FinishClearsAllHolds,
    Whole,
}

const INSTANCES: usize = 3;

struct Cache {
    protocol: Protocol,
    users: Users,
    store: Mutex<Store>,
    /// Of each instance.
    flights: [Mutex<HashMap<Key, Arc<Flight>>>; INSTANCES],
}

/// What is kept apart: each credential has its own copy.
type Key = (Target, usize);

#[derive(Default)]
struct Store {
    copies: HashMap<Key, (What, Epoch)>,
    states: HashMap<Family, State>,
    last: Epoch,
}

type Epoch = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    Lists,
    User(Id),
}

#[derive(Default)]
struct State {
    epoch: Option<Epoch>,
    holds: usize,
}

struct Flight {
    /// Under which it was sent; none while a write was in flight.
    epoch: Option<Epoch>,
    answer: Mutex<Option<What>>,
    landed: Condvar,
}

fn family(target: Target) -> Family {
    match target {
        Target::List | Target::Role(_) => Family::Lists,
        Target::User(id) => Family::User(id),
    }
}

fn families(act: Act) -> Vec<Family> {
    match act {
        Act::Create { .. } => vec![Family::Lists],
        Act::Change(id) | Act::Delete(id) => vec![Family::Lists, Family::User(id)],
        Act::ChangeAll | Act::Read(_) => unreachable!("these runs have none"),
    }
}

fn is_absence(what: &What) -> bool {
    matches!(what, What::User { present: false, .. })
}

impl Store {
    /// The epoch to fetch under, made where there is none.
    fn open(&mut self, family: Family) -> Option<Epoch> {
        let state = self.states.entry(family).or_default();
        if state.holds > 0 {
            return None;
        }
        if state.epoch.is_none() {
            self.last += 1;
            state.epoch = Some(self.last);
        }
        state.epoch
    }
}

impl Cache {
    fn has_epochs(&self) -> bool {
        !matches!(
            self.protocol,
            Protocol::PurgeAfter | Protocol::PurgeBeforeAndAfter
        )
    }

    fn has_holds(&self) -> bool {
        self.has_epochs() && self.protocol != Protocol::EpochWithoutHold
    }

    fn read(&self, instance: usize, target: Target, credential: usize) -> Shown {
        let key = (target, credential);
        let epoch = {
            let mut store = self.store.lock().unwrap();
            let epoch = store.open(family(target));
            if let Some((what, of)) = store.copies.get(&key)
                && (!self.has_epochs() || epoch == Some(*of))
            {
                return Shown {
                    to: credential,
                    hit: true,
                    what: what.clone(),
                };
            }
            epoch
        };
        let what = match self.has_holds() {
            true => self.fetch_together(instance, key, epoch),
            false => self.fetch(key, epoch),
        };
        Shown {
            to: credential,
            hit: false,
            what,
        }
    }

    fn fetch(&self, key: Key, epoch: Option<Epoch>) -> What {
        let what = self.users.read(key.0);
        if let Some(epoch) = epoch
            && !is_absence(&what)
        {
            self.store
                .lock()
                .unwrap()
                .copies
                .insert(key, (what.clone(), epoch));
        }
        what
    }

    fn fetch_together(&self, instance: usize, key: Key, epoch: Option<Epoch>) -> What {
        let flight = {
            let mut flights = self.flights[instance].lock().unwrap();
            let joins = |flight: &Flight| match self.protocol {
                Protocol::CollapsingWithoutTheEpoch => true,
                _ => epoch.is_some() && flight.epoch == epoch,
            };
            match flights.get(&key).filter(|flight| joins(flight)) {
                Some(flight) => Err(flight.clone()),
                None => {
                    let (answer, landed) = (Mutex::new(None), Condvar::new());
                    let flight = Arc::new(Flight {
                        epoch,
                        answer,
                        landed,
                    });
                    flights.insert(key, flight.clone());
                    Ok(flight)
                }
            }
        };
        match flight {
            Ok(mine) => {
                let what = self.fetch(key, epoch);
                let mut flights = self.flights[instance].lock().unwrap();
                if flights
                    .get(&key)
                    .is_some_and(|flight| Arc::ptr_eq(flight, &mine))
                {
                    flights.remove(&key);
                }
                *mine.answer.lock().unwrap() = Some(what.clone());
                mine.landed.notify_all();
                what
            }
            Err(theirs) => {
                let answer = theirs.answer.lock().unwrap();
                let answer = theirs
                    .landed
                    .wait_while(answer, |answer| answer.is_none())
                    .unwrap();
                let what = answer.clone().expect("an answer");
                drop(answer);
                // Without the state that a create drops, an absence is nobody else's.
                match is_absence(&what) && self.protocol != Protocol::Joined404 {
                    true => self.fetch(key, None),
                    false => what,
                }
            }
        }
    }

    fn write(&self, act: Act) -> Option<(Id, Version)> {
        if self.protocol == Protocol::PurgeBeforeAndAfter {
            self.purge(act);
        }
        if self.has_holds() {
            let mut store = self.store.lock().unwrap();
            for family in families(act) {
                store.states.entry(family).or_default().holds += 1;
            }
        }
        let committed = self.users.write(act);
        let resent = self.protocol == Protocol::ResentDelete
            && matches!(act, Act::Delete(_))
            && self.users.roll(|dice| dice.one_in(2));
        if resent {
            let again = self.users.write(act);
            assert_eq!(again, None, "the second finds nobody to delete");
            self.finish(act, false);
            return None;
        }
        self.finish(act, true);
        committed
    }

    fn finish(&self, act: Act, changed: bool) {
        if !self.has_epochs() {
            return self.purge(act);
        }
        let mut store = self.store.lock().unwrap();
        for family in families(act) {
            let state = store.states.entry(family).or_default();
            if self.has_holds() {
                let left = state.holds.saturating_sub(1);
                state.holds = if self.protocol == Protocol::FinishClearsAllHolds {
                    0
                } else {
                    left
                };
            }
            if changed {
                state.epoch = None;
            }
        }
    }

    /// Drops the copies that are there at this moment.
    fn purge(&self, act: Act) {
        let families = families(act);
        let mut store = self.store.lock().unwrap();
        store
            .copies
            .retain(|(target, _), _| !families.contains(&family(*target)));
    }
}

impl Front for Cache {
    fn instances(&self) -> usize {
        INSTANCES
    }

    fn client(&self) -> Box<dyn Client + '_> {
        Box::new(self)
    }
}

impl Client for &Cache {
    fn ask(&mut self, asking: &Asking) -> Answered {
        let outcome = match asking.act {
            Act::Read(target) => {
                Outcome::Shown(self.read(asking.instance, target, asking.credential))
            }
            write => match self.write(write) {
                Some((id, version)) => Outcome::Written { id, version },
                None => Outcome::Unknown("404".to_owned()),
            },
        };
        Answered {
            told: Instant::now(),
            outcome,
        }
    }
}

/// What the origin and its clients do so that what can meet does meet.
fn hostile_to(protocol: Protocol) -> (Manner, Plan) {
    let slow = Duration::from_millis(12);
    let manner = Manner {
        before_read: slow,
        after_read: slow,
        before_commit: slow,
        after_commit: slow,
        ..Manner::default()
    };
    let plan = Plan {
        lasting: Duration::from_millis(400),
        readers: 12,
        writer_rests: Duration::from_millis(40),
        writer_rests_for: 0,
        change_all: 0,
        ..Plan::default()
    };
    match protocol {
        Protocol::ResentDelete => {
            let plan = Plan {
                coming_and_going: 10,
                around_the_newest: 3,
                credentials: 4,
                ..plan
            };
            (
                manner,
                Plan {
                    lasting: plan.lasting * 3,
                    ..plan
                },
            )
        }
        Protocol::Joined404 => {
            let manner = Manner {
                before_read: Duration::ZERO,
                after_read: slow * 4,
                ..manner
            };
            let plan = Plan {
                coming_and_going: 10,
                around_the_newest: 8,
                credentials: 1,
                ..plan
            };
            (
                manner,
                Plan {
                    readers: 24,
                    ..plan
                },
            )
        }
        Protocol::FinishClearsAllHolds => {
            let manner = Manner {
                before_commit: slow * 2,
                after_commit: slow * 4,
                ..manner
            };
            (
                manner,
                Plan {
                    writers: 6,
                    only_first: Some(2),
                    lasting: plan.lasting * 3,
                    ..plan
                },
            )
        }
        _ => (manner, plan),
    }
}

fn violations(protocol: Protocol, (manner, plan): (Manner, Plan), seed: u64) -> Vec<Violation> {
    let users = Users::new(seed, manner);
    let cache = Cache {
        protocol,
        users,
        store: Mutex::default(),
        flights: Default::default(),
    };
    let plan = Plan { seed, ..plan };
    let history = run(&cache, &plan, Stage::sees_hits);
    let violations = check(&history, Bound::Nothing);
    eprintln!(
        "{protocol:?}, seed {seed}: {} violations in {}",
        violations.len(),
        history.count()
    );
    violations
}

const SEEDS: u64 = 10;

/// A run lasts so long and no longer: on a busy machine little may happen in one.
const RUNS: usize = 8;

/// Found in each seed, sooner or later; by any of the rules, if not by these.
#[track_caller]
fn is_found_out(protocol: Protocol, most_often_by: Rule) {
    let runs_of = |seed| {
        let mut runs = (0..RUNS).map(|_| violations(protocol, hostile_to(protocol), seed));
        runs.find(|violations| !violations.is_empty())
    };
    let found: Vec<Option<Vec<Violation>>> = thread::scope(|scope| {
        let seeds = (1..=SEEDS).map(|seed| scope.spawn(move || runs_of(seed)));
        let seeds: Vec<_> = seeds.collect();
        seeds
            .into_iter()
            .map(|runs| runs.join().expect("runs"))
            .collect()
    });
    for (seed, found) in (1..=SEEDS).zip(&found) {
        let found = found.is_some();
        assert!(found, "{protocol:?} was not found out in seed {seed}");
    }
    let by_rule = found
        .iter()
        .flatten()
        .flatten()
        .any(|violation| violation.rule == most_often_by);
    assert!(by_rule, "{protocol:?} never violated {most_often_by:?}");
}

#[test]
fn purging_after_the_write_only_is_found_out() {
    is_found_out(Protocol::PurgeAfter, Rule::G1);
}

#[test]
fn purging_before_and_after_the_write_is_found_out() {
    is_found_out(Protocol::PurgeBeforeAndAfter, Rule::G1);
}

#[test]
fn epochs_without_holds_are_found_out() {
    is_found_out(Protocol::EpochWithoutHold, Rule::G2);
}

#[test]
fn collapsing_without_the_epoch_is_found_out() {
    is_found_out(Protocol::CollapsingWithoutTheEpoch, Rule::G1);
}

#[test]
fn a_deletion_that_is_sent_again_is_found_out() {
    is_found_out(Protocol::ResentDelete, Rule::G2);
}

#[test]
fn sharing_the_404_of_a_user_that_has_just_been_created_is_found_out() {
    is_found_out(Protocol::Joined404, Rule::Missing);
}

#[test]
fn a_finish_that_clears_the_holds_of_others_is_found_out() {
    is_found_out(Protocol::FinishClearsAllHolds, Rule::G2);
}

#[test]
fn the_whole_protocol_is_not_whatever_was_hostile_to_the_others() {
    for protocol in [
        Protocol::PurgeAfter,
        Protocol::ResentDelete,
        Protocol::Joined404,
        Protocol::FinishClearsAllHolds,
    ] {
        for seed in 1..=2 {
            let violations = violations(Protocol::Whole, hostile_to(protocol), seed);
            assert_eq!(violations, [], "{}", violations[0]);
        }
    }
}
