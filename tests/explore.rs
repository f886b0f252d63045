//! The protocol, explored: every order in which a few writers, readers, instances, the API and the store may take their
//! steps, with faults at every one of them, and a look at each answer: does it show what was written (G1) and what was
//! shown (G2) before its read began? What decides in it are the machines that ship: `protocol`, `writing`, `journal`,
//! `life` and `flights` of `larder::coherence`. What stands around them in the shell (`proxy::read`, `proxy::fetch`,
//! `store::redis::keeper`) is told again in `steps`, which also names what is assumed.
//!
//! A minute or two: `cargo test --test explore -- --nocapture` prints how many states there are and that none is wrong.
//! All worlds, and what two faults break (minutes, 2 GiB):
//! `cargo test --release --test explore -- --include-ignored --nocapture --test-threads 1`.
//!
//! The guard (rule 8 of the protocol's design) is not built, and so is not here.

#[path = "explore/search.rs"]
mod search;
#[path = "explore/steps.rs"]
mod steps;
#[path = "explore/variants.rs"]
mod variants;
#[path = "explore/world.rs"]
mod world;

use std::collections::BTreeMap;

use larder::coherence::WithoutStore;
use search::{Explored, Until, explore};
use steps::{Rule, Setting, Step, Violation};
use variants::Variant;
use world::{Deed, Family, Fault, Hole, Terms, World};

/// No world here has as many, or it is not explored.
const MOST: usize = 30_000_000;

const BOTH: [WithoutStore; 2] = [WithoutStore::Refuse, WithoutStore::Forward];

/// Some worlds, by name.
type Worlds = Vec<(&'static str, World)>;

fn world(
    name: &'static str,
    writers: &[(Deed, u8)],
    readers: &[(Family, u8)],
) -> (&'static str, World) {
    (name, World::new(writers, readers))
}

fn filled((name, world): (&'static str, World)) -> (&'static str, World) {
    (name, world.filled())
}

/// One write, and readers at both instances.
fn a_write() -> Worlds {
    use Deed::*;
    use Family::*;
    vec![
        filled(world(
            "change; user 1 twice, apart",
            &[(Change, 0)],
            &[(One, 0), (One, 1)],
        )),
        filled(world(
            "change; user 1 twice, at the other",
            &[(Change, 0)],
            &[(One, 1), (One, 1)],
        )),
        filled(world(
            "delete; user 1 and the list",
            &[(Delete, 0)],
            &[(One, 1), (List, 1)],
        )),
        world(
            "create; user 2 twice",
            &[(Create, 0)],
            &[(Two, 1), (Two, 1)],
        ),
    ]
}

/// The second instance is started while all this goes on, or after it.
fn a_new_instance() -> Worlds {
    use Family::*;
    let write = [(Deed::Change, 0)];
    vec![
        filled(world(
            "change; user 1 twice, at a new instance",
            &write,
            &[(One, 1), (One, 1)],
        )),
        filled(world(
            "change; user 1 at both, one of them new",
            &write,
            &[(One, 0), (One, 1)],
        )),
        filled(world(
            "change; user 1 thrice, one instance is new",
            &write,
            &[(One, 0), (One, 1), (One, 1)],
        )),
    ]
    .into_iter()
    .map(|(name, world)| (name, world.without_the_second()))
    .collect()
}

fn three_readers() -> Worlds {
    use Deed::*;
    use Family::*;
    vec![
        filled(world(
            "change; user 1 thrice",
            &[(Change, 0)],
            &[(One, 0), (One, 1), (One, 1)],
        )),
        world(
            "create; the list and user 2 twice",
            &[(Create, 0)],
            &[(List, 0), (Two, 1), (Two, 1)],
        ),
    ]
}

fn two_writers() -> Worlds {
    use Deed::*;
    use Family::*;
    vec![
        filled(world(
            "two changes; the list twice",
            &[(Change, 0), (Change, 1)],
            &[(List, 0), (List, 1)],
        )),
        filled(world(
            "two changes; user 1 twice, together",
            &[(Change, 0), (Change, 1)],
            &[(One, 1), (One, 1)],
        )),
        filled(world(
            "change and create; the list twice",
            &[(Change, 0), (Create, 1)],
            &[(List, 0), (List, 1)],
        )),
        world(
            "delete and create; the list and user 2",
            &[(Delete, 0), (Create, 1)],
            &[(List, 0), (Two, 0)],
        ),
    ]
}

/// Two write at an instance that is cut off alone, one of them already, and two read at the other.
fn two_writers_cut_off() -> (&'static str, World) {
    let (change, one) = ((Deed::Change, 0), (Family::One, 1));
    let (name, mut world) = filled(world(
        "a change after another where it is cut off; user 1 twice",
        &[change, change],
        &[one, one],
    ));
    let setting = whole(WithoutStore::Forward, &[], 0);
    let of_the_first = |step: &Step| {
        matches!(
            step,
            Step::Begin(0) | Step::Noticed(0) | Step::Commit(0) | Step::Succeeds(0) | Step::Told(0)
        )
    };
    for step in [Step::Cut(0), Step::Long(0)] {
        setting.apply(&mut world, step);
    }
    let mut steps = vec![];
    loop {
        setting.steps(&world, &mut steps);
        let Some(step) = steps.iter().find(|step| of_the_first(step)) else {
            return (name, world);
        };
        setting.apply(&mut world, *step);
    }
}

const FAULTS: [&[Fault]; 7] = [
    &[Fault::Broken, Fault::Error],
    &[Fault::Crash],
    &[Fault::LinkLost],
    &[Fault::CutOne, Fault::CutAll],
    &[Fault::RestartEmpty],
    &[Fault::RestartOlder],
    &[Fault::StateLost, Fault::Flush],
];

fn run(name: &str, start: &World, setting: &Setting) -> Explored {
    let explored = explore(start, setting, Until::TheEnd, MOST);
    let faults: Vec<&str> = setting.faults.iter().map(|fault| fault.words()).collect();
    println!(
        "{:>9} states, {:?}, {name}; {} of: {}",
        explored.states,
        setting.without_store,
        setting.budget,
        if faults.is_empty() {
            "no fault".to_owned()
        } else {
            faults.join(", ")
        },
    );
    assert!(!explored.cut_short, "{name} is too large");
    explored
}

/// Nothing but the two things that the protocol's design names: its one bound, where the store itself loses the very hold
/// of a write, and the hole of `forward`, where an instance is cut off alone. Each is named.
fn assert_kept(name: &str, setting: &Setting, explored: &Explored) {
    for ((violation, faults), trace) in &explored.found {
        let named = match (violation.hole, &faults[..]) {
            (Some(Hole::HoldLost), [Fault::StateLost | Fault::Flush]) => violation.rule == Rule::G2,
            (Some(Hole::CutAlone), [Fault::CutOne]) => {
                setting.without_store == WithoutStore::Forward
            }
            _ => false,
        };
        let lines = trace.join("\n  ");
        assert!(named, "{name}: {violation:?} after {faults:?}:\n  {lines}");
        println!("          {}", in_words(violation, faults));
    }
}

/// `G2 after "a state key is lost": "the moments …"`
fn in_words(violation: &Violation, faults: &[Fault]) -> String {
    let faults: Vec<&str> = faults.iter().map(|fault| fault.words()).collect();
    let hole = violation.hole.map_or("NOT NAMED", Hole::words);
    format!(
        "{:?} after {}: \"{hole}\"",
        violation.rule,
        faults.join(", ")
    )
}

fn whole(without_store: WithoutStore, faults: &[Fault], budget: usize) -> Setting {
    Setting {
        variant: Variant::Whole,
        without_store,
        faults: faults.to_vec(),
        leases: false,
        budget,
    }
}

/// The same, where copies are kept in memory and states are taken for good for a while.
fn leasing(without_store: WithoutStore, faults: &[Fault], budget: usize) -> Setting {
    let leases = true;
    Setting {
        leases,
        ..whole(without_store, faults, budget)
    }
}

#[test]
fn without_faults_nothing_older_is_shown_and_there_are_hits() {
    let all = [a_write(), a_new_instance(), three_readers(), two_writers()].concat();
    let (mut hits, mut collapsed) = (0, 0);
    for (name, start) in &all {
        let setting = whole(WithoutStore::Refuse, &[], 0);
        let explored = run(name, start, &setting);
        assert!(explored.found.is_empty(), "{name}: {:?}", explored.found);
        hits += explored.hits;
        collapsed += explored.collapsed;
    }
    println!("{hits} hits, {collapsed} collapsed");
    assert!(hits > 0 && collapsed > 0);
}

/// One world and all faults, as far as it takes seconds: the rest is below.
#[test]
fn with_one_fault_nothing_older_is_shown_but_for_what_is_documented() {
    use WithoutStore::*;
    let worlds = [a_write(), a_new_instance()].concat();
    let (apart, together, at_a_new_one) = (&worlds[0], &worlds[1], &worlds[4]);
    let runs: [(_, &[Fault], &[WithoutStore]); 8] = [
        (apart, &[Fault::Broken, Fault::Error], &BOTH),
        (apart, &[Fault::Crash], &BOTH),
        (apart, &[Fault::LinkLost], &BOTH),
        (apart, &[Fault::StateLost, Fault::Flush], &BOTH),
        (apart, &[Fault::CutOne, Fault::CutAll], &[Refuse]),
        (together, &[Fault::CutOne, Fault::CutAll], &[Forward]),
        (together, &[Fault::RestartEmpty], &[Refuse]),
        (at_a_new_one, &[Fault::RestartEmpty], &[Refuse]),
    ];
    for ((name, start), faults, settings) in runs {
        for without_store in settings {
            let setting = whole(*without_store, faults, 1);
            assert_kept(name, &setting, &run(name, start, &setting));
        }
    }
}

#[test]
fn what_two_write_where_it_is_cut_off_is_shown_once_it_is_back() {
    let (name, start) = two_writers_cut_off();
    let setting = whole(WithoutStore::Forward, &[Fault::CutOne], 1);
    assert_kept(name, &setting, &run(name, &start, &setting));
}

/// One write, and readers where its copy is kept in memory.
fn a_write_among_leases() -> Worlds {
    use Deed::*;
    use Family::*;
    let (one, two) = (&[(Change, 0)], &[(Change, 0), (Change, 1)]);
    let apart = filled(world("user 1 twice, apart", one, &[(One, 0), (One, 1)]));
    let elsewhere = filled(world(
        "user 1 twice, at the other",
        one,
        &[(One, 1), (One, 1)],
    ));
    let thrice = filled(world("user 1 thrice", one, &[(One, 0), (One, 1), (One, 1)]));
    // One reads by a lease beside which another is asked for.
    let ahead = filled(world(
        "user 1 thrice, at the other",
        one,
        &[(One, 1), (One, 1), (One, 1)],
    ));
    let by_two = filled(world(
        "two write; the list twice",
        two,
        &[(List, 1), (List, 1)],
    ));
    let leasing = |(name, world): (_, World)| (name, world.leasing());
    let joining = |(_, world): (&str, World)| {
        let name = "user 1 twice, at one that joins";
        (name, world.without_the_second().leasing())
    };
    let joins = joining(elsewhere.clone());
    [apart, elsewhere, thrice, ahead, by_two]
        .map(leasing)
        .into_iter()
        .chain([joins])
        .collect()
}

#[test]
fn with_leases_nothing_older_is_shown_and_there_are_hits() {
    let mut hits = 0;
    for (name, start) in &a_write_among_leases() {
        let explored = run(name, start, &leasing(WithoutStore::Refuse, &[], 0));
        assert!(explored.found.is_empty(), "{name}: {:?}", explored.found);
        hits += explored.hits;
    }
    println!("{hits} hits");
    assert!(hits > 0);
}

/// Of the terms, too: lost, and begun anew. That an older text of them comes back takes longer, and is below.
#[test]
fn with_leases_and_one_fault_nothing_older_is_shown_but_for_what_is_documented() {
    use WithoutStore::*;
    let worlds = a_write_among_leases();
    let (apart, elsewhere, ahead) = (&worlds[0], &worlds[1], &worlds[3]);
    let runs: [(_, &[Fault], &[WithoutStore]); 5] = [
        (elsewhere, &[Fault::TermsLost], &BOTH),
        (ahead, &[Fault::TermsLost], &[Refuse]),
        (elsewhere, &[Fault::LinkLost], &[Refuse]),
        (elsewhere, &[Fault::StateLost, Fault::Flush], &[Refuse]),
        (apart, &[Fault::Broken, Fault::Error], &[Refuse]),
    ];
    for ((name, start), faults, settings) in runs {
        for without_store in settings {
            let setting = leasing(*without_store, faults, 1);
            assert_kept(name, &setting, &run(name, start, &setting));
        }
    }
}

#[test]
#[ignore = "minutes, and a release build"]
fn with_leases_and_one_fault_in_all_worlds() {
    let faults = FAULTS.iter().copied().chain([&[Fault::TermsLost][..]]);
    let worlds = a_write_among_leases();
    let small = worlds
        .iter()
        .filter(|(name, _)| name.starts_with("user 1 twice"));
    for ((name, start), faults) in
        small.flat_map(|world| faults.clone().map(move |some| (world, some)))
    {
        for without_store in BOTH {
            let setting = leasing(without_store, faults, 1);
            assert_kept(name, &setting, &run(name, start, &setting));
        }
    }
}

#[test]
#[ignore = "minutes, and a release build"]
fn with_one_fault_in_all_worlds() {
    let mut runs: Worlds = [a_write(), a_new_instance()].concat();
    let thrice = runs.pop().expect("three readers, one instance is new");
    let runs = runs
        .iter()
        .flat_map(|world| FAULTS.map(|faults| (world, faults)));
    let emptied: &[Fault] = &[Fault::RestartEmpty];
    for ((name, start), faults) in runs.chain([(&thrice, emptied)]) {
        for without_store in BOTH {
            let setting = whole(without_store, faults, 1);
            assert_kept(name, &setting, &run(name, start, &setting));
        }
    }
}

#[test]
#[ignore = "minutes, and a release build"]
fn with_one_fault_and_two_writers_or_three_readers() {
    let faults: [&[Fault]; 3] = [
        &[Fault::Broken, Fault::Error],
        &[Fault::Crash],
        &[Fault::StateLost, Fault::Flush],
    ];
    for (name, start) in &[three_readers(), two_writers()].concat() {
        for faults in faults {
            for without_store in BOTH {
                let setting = whole(without_store, faults, 1);
                assert_kept(name, &setting, &run(name, start, &setting));
            }
        }
    }
}

#[test]
#[ignore = "minutes, and a release build"]
fn what_two_faults_break_where_writes_are_refused() {
    what_two_faults_break(WithoutStore::Refuse);
}

#[test]
#[ignore = "minutes, and a release build"]
fn what_two_faults_break_where_writes_are_forwarded() {
    what_two_faults_break(WithoutStore::Forward);
}

/// Prints each kind with one of its shortest traces, and asks that README says so. From where a write has reached the API, or all are cut off already; of
/// some pairs of faults, and of each the nearest worlds: there are too many for all.
fn what_two_faults_break(without_store: WithoutStore) {
    const OF_A_PAIR: usize = 700_000;
    use Fault::*;
    let pairs = [
        [Crash, CutAll],
        [Crash, CutOne],
        [Crash, LinkLost],
        [Crash, RestartEmpty],
        [Crash, RestartOlder],
        [Crash, StateLost],
        [Broken, StateLost],
        [Broken, RestartEmpty],
        [CutOne, RestartEmpty],
        [CutOne, LinkLost],
        [RestartEmpty, RestartOlder],
        [Broken, Crash],
    ];
    let mut kinds: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let two = begun(a_write()[0].1.clone());
    let readers = [(Family::One, 0), (Family::One, 1), (Family::One, 1)];
    let three = begun(World::new(&[(Deed::Change, 0)], &readers));
    let cut = all_cut_off();
    // The store was lost, and so was one of two instances, which may be there again before the other has its link.
    let mut replaced = struck(
        filled(world("", &[(Deed::Change, 0)], &readers)).1,
        Step::Stop(RestartEmpty),
    );
    whole(without_store, &[], 0).apply(&mut replaced, Step::Crash(1));
    let (mut states, mut worlds, mut to_the_end) = (0, 0, 0);
    let lost: &[Fault] = &[Crash, RestartEmpty];
    for (faults, starts) in pairs
        .iter()
        .map(|faults| (&faults[..], vec![&cut, &two, &three]))
        .chain([(lost, vec![&replaced])])
    {
        for start in starts {
            worlds += 1;
            let setting = whole(without_store, faults, 2);
            let explored = explore(start, &setting, Until::TheEnd, OF_A_PAIR);
            states += explored.states;
            to_the_end += usize::from(!explored.cut_short);
            for ((violation, faults), trace) in explored.found {
                kinds.entry((faults, violation)).or_insert(trace);
            }
        }
    }
    println!("{states} states; {to_the_end} of {worlds} worlds to the end");
    for ((faults, violation), trace) in &kinds {
        let lines = trace.join("\n        ");
        println!(
            "{without_store:?}: {}\n        {lines}",
            in_words(violation, faults)
        );
    }
    let not_named: Vec<_> = kinds.keys().filter(|(_, one)| one.hole.is_none()).collect();
    assert!(not_named.is_empty(), "README does not say: {not_named:?}");
}

/// What is not promised is told to those who use it.
#[test]
fn each_hole_is_in_the_list_of_what_is_not_promised() {
    let readme = include_str!("../README.md");
    let words: Vec<&str> = readme.split_whitespace().collect();
    let words = words.join(" ");
    let (_, list) = words.split_once("Not promised: ").expect("a list");
    let holes = [
        Hole::HoldLost,
        Hole::CutAlone,
        Hole::ReachedFirst,
        Hole::CrashedUntold,
    ];
    for hole in holes {
        assert!(list.contains(hole.words()), "{:?}", hole.words());
    }
}

/// Where all writers hold what they touch, and are at the API.
fn begun(mut world: World) -> World {
    let setting = whole(WithoutStore::Refuse, &[], 0);
    let of_writers = |step: &Step| matches!(step, Step::Begin(_) | Step::Run(_));
    let mut steps = vec![];
    loop {
        setting.steps(&world, &mut steps);
        let Some(step) = steps.iter().find(|step| of_writers(step)) else {
            return world;
        };
        setting.apply(&mut world, *step);
    }
}

/// Before the write has begun, and all are cut off already.
fn all_cut_off() -> World {
    let mut world = a_write()[0].1.clone();
    whole(WithoutStore::Forward, &[], 0).apply(&mut world, Step::CutAll);
    world
}

/// The same, and then a fault.
fn struck(world: World, step: Step) -> World {
    let mut world = begun(world);
    whole(WithoutStore::Refuse, &[], 0).apply(&mut world, step);
    world
}

/// Each is found, always; by one of the shortest ways.
#[test]
fn each_weaker_protocol_is_found_out() {
    use Deed::*;
    use Family::*;
    use Variant::*;
    let change = || filled(world("", &[(Change, 0)], &[(One, 0), (One, 1)])).1;
    let thrice = || filled(world("", &[(Change, 0)], &[(One, 0), (One, 1), (One, 1)])).1;
    let empty = || world("", &[(Change, 0)], &[(One, 0), (One, 1)]).1;
    let empty_thrice = || world("", &[(Change, 0)], &[(One, 0), (One, 1), (One, 1)]).1;
    let together = || filled(world("", &[(Change, 0)], &[(One, 0), (One, 0)])).1;
    let create = || world("", &[(Create, 0)], &[(Two, 0), (Two, 0)]).1;
    let elsewhere = || a_write_among_leases()[1].1.clone();
    // The second instance has not named its term yet.
    let unnamed = || {
        let mut world = elsewhere();
        world.store.data.terms = Some(Terms { of: 1, anew: false });
        world
    };
    // What was kept is not valid any more, and somebody fetches before the commit.
    let struck_leasing = |step| {
        let at_the_other = [(One, 1), (One, 1), (One, 1)];
        struck(
            filled(world("", &[(Change, 0)], &at_the_other)).1.leasing(),
            step,
        )
    };
    let cases: Vec<(Variant, World, &[Fault], usize)> = vec![
        (PurgeAfter, empty(), &[], 0),
        (PurgeBeforeAndAfter, empty(), &[], 0),
        (EpochWithoutHold, empty_thrice(), &[], 0),
        (CollapsingWithoutTheEpoch, together(), &[], 0),
        (
            ResentDelete,
            filled(world("", &[(Delete, 0)], &[(One, 0), (One, 1)])).1,
            &[Fault::Broken],
            1,
        ),
        (Joined404, create(), &[], 0),
        (EpochUsedTwice, empty_thrice(), &[], 0),
        (
            FinishClearsAllHolds,
            begun(
                filled(world(
                    "",
                    &[(Change, 0), (Change, 1)],
                    &[(List, 0), (List, 1), (List, 1)],
                ))
                .1,
            ),
            &[],
            0,
        ),
        (
            FinishClearsTheAmbiguous,
            begun(
                filled(world(
                    "",
                    &[(Change, 0), (Change, 1)],
                    &[(List, 0), (List, 1), (List, 1)],
                ))
                .1,
            ),
            &[Fault::Broken],
            1,
        ),
        (FinishLeavesTheEpoch, change(), &[], 0),
        (ForwardedHalfHeld, empty_thrice(), &[], 0),
        (
            LostHoldStaysLost,
            struck(thrice(), Step::Forget(Family::One as usize)),
            &[Fault::Broken, Fault::StateLost],
            2,
        ),
        (ReconnectsSilently, change(), &[Fault::RestartOlder], 1),
        (
            NoNoticeTime,
            struck(thrice(), Step::Stop(Fault::RestartEmpty)),
            &[Fault::RestartEmpty],
            1,
        ),
        (
            FirstWaitsForNobody,
            struck(
                thrice().without_the_second(),
                Step::Stop(Fault::RestartEmpty),
            ),
            &[Fault::RestartEmpty],
            1,
        ),
        (
            HoldsNotPutBack,
            struck(thrice(), Step::Stop(Fault::RestartEmpty)),
            &[Fault::RestartEmpty],
            1,
        ),
        (ForwardedIsNotHeldLater, all_cut_off(), &[Fault::CutAll], 1),
        (
            WaitIsForgotten,
            all_cut_off(),
            &[Fault::CutAll, Fault::LinkLost],
            2,
        ),
        (
            PaidWithTheLast,
            two_writers_cut_off().1,
            &[Fault::CutOne],
            1,
        ),
        (UnfencedJoinedLate, empty_thrice(), &[], 0),
        (NobodyWaitsForLeases, elsewhere(), &[], 0),
        (LeaseFromTheReply, elsewhere(), &[], 0),
        (TermsReadBeforeTheHolds, unnamed(), &[], 0),
        (LeasedWithoutATerm, unnamed(), &[], 0),
        (LostTermsAreNone, elsewhere(), &[Fault::TermsLost], 1),
        (NewTermsAreAll, elsewhere(), &[Fault::TermsLost], 1),
        (LostTermsNameAll, elsewhere(), &[Fault::TermsLost], 1),
        (OldTermsAreTrusted, unnamed(), &[Fault::RestartOlder], 1),
        (
            AnsweredWhereTheHoldWasLost,
            struck_leasing(Step::Forget(Family::One as usize)),
            &[Fault::StateLost],
            1,
        ),
    ];
    let mut missed = vec![];
    for (variant, start, faults, budget) in cases {
        // What waits for others is what forwards.
        let without_store = match variant {
            ForwardedIsNotHeldLater | WaitIsForgotten | PaidWithTheLast => WithoutStore::Forward,
            _ => WithoutStore::Refuse,
        };
        let setting = Setting {
            variant,
            leases: start.store.data.terms.is_some(),
            ..whole(without_store, faults, budget)
        };
        let explored = explore(&start, &setting, Until::Found, MOST);
        let found = explored
            .found
            .iter()
            .find(|((violation, _), _)| violation.hole.is_none());
        let Some(((violation, _), trace)) = found else {
            missed.push(variant);
            println!(
                "{variant:?} is not found out in {} states: {:?}",
                explored.states,
                explored.found.keys()
            );
            continue;
        };
        println!(
            "{variant:?}: {:?} after {} states:\n    {}",
            violation.rule,
            explored.states,
            trace.join("\n    ")
        );
    }
    assert_eq!(missed, [], "not found out");
}
