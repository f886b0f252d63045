//! Which of several upstreams is asked, and which is left alone for a while. Pure: `now` is an argument, and what was
//! decided is a value.
//!
//! The one with the fewest requests under way is asked, those with equally many in turn. One that fails `STRIKES` times
//! in a row **rests**: a second at first, then twice as long each time. When its rest is over, *one* safe request tries it;
//! is that answered, it is back. Where health checks are made, it is they that try it, and no client waits for that; and
//! one that misses `MISSES` of them is **down** until it answers one. Where nobody else is left, whoever rests or is down is
//! asked all the same: an upstream that may be dead is better than none, and one that is alone is always asked.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row, and an upstream rests.
pub const STRIKES: u32 = 3;

/// Health checks in a row without a 2xx, and it is down.
pub const MISSES: u32 = 2;

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// All upstreams, by their place in the file.
pub struct Fleet {
    members: Vec<Member>,
    /// Whose turn it is among equals.
    turn: usize,
    trials: u64,
    /// Whether health checks are made.
    checked: bool,
}

#[derive(Default)]
struct Member {
    under_way: usize,
    /// Failures since the last answer.
    strikes: u32,
    /// Rests since the last answer.
    rests: u32,
    resting: Option<Instant>,
    /// The request that tries whether it is back.
    tried: Option<u64>,
    /// Health checks missed since the last good one.
    misses: u32,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub member: usize,
    /// This request tries one that has rested; the number tells one trial from the next.
    pub trial: Option<u64>,
}

/// Whom a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// May also try whether one is back: it changes nothing if that fails.
    Safe,
    /// Goes where it is most likely answered.
    Write,
    /// A second sending: only to one that is well.
    Spare,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Answer,
    Failure,
}

/// How one upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Well,
    Resting,
    Down,
}

impl Standing {
    pub fn word(self) -> &'static str {
        match self {
            Standing::Well => "well",
            Standing::Resting => "resting",
            Standing::Down => "down",
        }
    }
}

/// What is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Rests(Duration),
    Down,
    Back,
}

impl Fleet {
    pub fn new(members: usize, checked: bool) -> Fleet {
        Fleet {
            members: (0..members).map(|_| Member::default()).collect(),
            turn: 0,
            trials: 0,
            checked,
        }
    }

    /// The next to be asked, which counts until it has `left`; none that this request has `asked` before.
    pub fn choose(&mut self, errand: Errand, asked: &[usize], now: Instant) -> Option<Choice> {
        let others = || (0..self.members.len()).filter(|member| !asked.contains(member));
        let well = self.least_busy(others().filter(|&i| self.members[i].is_well()));
        let back = match errand {
            Errand::Safe if !self.checked => others().find(|&i| self.members[i].may_be_tried(now)),
            _ => None,
        };
        let (member, trial) = match (back, well, errand) {
            (Some(member), _, _) => {
                self.trials += 1;
                (member, Some(self.trials))
            }
            (None, Some(member), _) => (member, None),
            (None, None, Errand::Spare) => return None,
            (None, None, _) => (self.least_busy(others())?, None),
        };
        self.members[member].under_way += 1;
        if trial.is_some() {
            self.members[member].tried = trial;
        }
        self.turn = member + 1;
        Some(Choice { member, trial })
    }

    fn least_busy(&self, among: impl Iterator<Item = usize>) -> Option<usize> {
        let count = self.members.len();
        let after_turn = |member: usize| (member + count - self.turn % count) % count;
        among.min_by_key(|&member| (self.members[member].under_way, after_turn(member)))
    }

    /// What came of a request.
    pub fn heard(&mut self, choice: Choice, came: Came, now: Instant) -> Option<Change> {
        let member = &mut self.members[choice.member];
        let was_trial = member.end_trial(choice);
        match came {
            Came::Answer => {
                (member.strikes, member.rests) = (0, 0);
                member.resting.take().map(|_| Change::Back)
            }
            Came::Failure => {
                member.strikes += 1;
                let again = match member.resting {
                    // Those that were under way when it began to rest say nothing new.
                    Some(_) => was_trial,
                    None => member.strikes >= STRIKES,
                };
                again.then(|| member.rest(now))
            }
        }
    }

    /// The request is over. A trial of which nothing was heard was none.
    pub fn left(&mut self, choice: Choice) {
        let member = &mut self.members[choice.member];
        member.under_way -= 1;
        member.end_trial(choice);
    }

    /// What came of a health check.
    pub fn checked(&mut self, member: usize, came: Came, now: Instant) -> Option<Change> {
        let member = &mut self.members[member];
        match came {
            Came::Answer => {
                let was_down = member.is_down();
                member.misses = 0;
                // What failed its requests may answer checks: it rests as long as it must.
                let rested = member.resting.is_some_and(|until| now >= until);
                if rested {
                    (member.resting, member.strikes) = (None, 0);
                }
                ((was_down && member.resting.is_none()) || rested).then_some(Change::Back)
            }
            Came::Failure => {
                member.misses += 1;
                (member.misses == MISSES).then_some(Change::Down)
            }
        }
    }

    pub fn standing(&self, member: usize) -> Standing {
        let member = &self.members[member];
        match (member.is_down(), member.resting) {
            (true, _) => Standing::Down,
            (false, Some(_)) => Standing::Resting,
            (false, None) => Standing::Well,
        }
    }

    /// Requests under way there.
    pub fn under_way(&self, member: usize) -> usize {
        self.members[member].under_way
    }
}

impl Member {
    fn is_down(&self) -> bool {
        self.misses >= MISSES
    }

    fn is_well(&self) -> bool {
        self.resting.is_none() && !self.is_down()
    }

    fn may_be_tried(&self, now: Instant) -> bool {
        self.tried.is_none() && self.resting.is_some_and(|until| now >= until)
    }

    /// Whether this is the trial under way.
    fn end_trial(&mut self, choice: Choice) -> bool {
        let is_it = choice.trial.is_some() && self.tried == choice.trial;
        if is_it {
            self.tried = None;
        }
        is_it
    }

    fn rest(&mut self, now: Instant) -> Change {
        let rest = (FIRST_REST * 2u32.pow(self.rests.min(10))).min(LONGEST_REST);
        (self.resting, self.rests, self.strikes) = (Some(now + rest), self.rests + 1, 0);
        Change::Rests(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(fleet: &mut Fleet, errand: Errand, now: Instant) -> Choice {
        fleet.choose(errand, &[], now).unwrap()
    }

    fn fail(fleet: &mut Fleet, member: usize, times: u32, now: Instant) -> Option<Change> {
        let trial = None;
        (0..times).fold(None, |_, _| {
            fleet.heard(Choice { member, trial }, Came::Failure, now)
        })
    }

    #[test]
    fn equals_are_asked_in_turn_and_the_least_busy_first() {
        let (mut fleet, now) = (Fleet::new(3, false), Instant::now());
        let first: Vec<_> = (0..3)
            .map(|_| choose(&mut fleet, Errand::Write, now))
            .collect();
        let members: Vec<_> = first.iter().map(|choice| choice.member).collect();
        assert_eq!(members, [0, 1, 2]);
        fleet.left(first[1]);
        assert_eq!(choose(&mut fleet, Errand::Write, now).member, 1);
    }

    #[test]
    fn one_that_fails_three_times_in_a_row_rests_for_a_growing_time_and_is_tried_by_one_safe_request()
     {
        let (mut fleet, mut now) = (Fleet::new(2, false), Instant::now());
        assert_eq!(fail(&mut fleet, 0, 2, now), None);
        let trial = None;
        fleet.heard(Choice { member: 0, trial }, Came::Answer, now);
        assert_eq!(fail(&mut fleet, 0, 2, now), None, "not in a row");
        let mut rest = FIRST_REST;
        assert_eq!(fail(&mut fleet, 0, 1, now), Some(Change::Rests(rest)));
        assert_eq!(fail(&mut fleet, 0, 5, now), None, "of those under way");
        for _ in 0..9 {
            assert_eq!(choose(&mut fleet, Errand::Safe, now).member, 1);
            now += rest;
            assert_eq!(choose(&mut fleet, Errand::Write, now).member, 1);
            assert_eq!(choose(&mut fleet, Errand::Spare, now).member, 1);
            let tried = choose(&mut fleet, Errand::Safe, now);
            assert!(tried.trial.is_some() && tried.member == 0);
            assert_eq!(choose(&mut fleet, Errand::Safe, now).member, 1);
            rest = (rest * 2).min(LONGEST_REST);
            let change = fleet.heard(tried, Came::Failure, now);
            assert_eq!(change, Some(Change::Rests(rest)));
        }
        now += rest;
        let tried = choose(&mut fleet, Errand::Safe, now);
        assert_eq!(fleet.heard(tried, Came::Answer, now), Some(Change::Back));
        assert_eq!(fleet.standing(0), Standing::Well);
    }

    #[test]
    fn a_trial_whose_client_left_was_none() {
        let (mut fleet, mut now) = (Fleet::new(2, false), Instant::now());
        fail(&mut fleet, 0, STRIKES, now);
        now += FIRST_REST;
        let tried = choose(&mut fleet, Errand::Safe, now);
        fleet.left(tried);
        assert!(choose(&mut fleet, Errand::Safe, now).trial.is_some());
    }

    #[test]
    fn where_nobody_is_well_all_are_asked_all_the_same() {
        let (mut fleet, now) = (Fleet::new(2, true), Instant::now());
        fail(&mut fleet, 0, STRIKES, now);
        for _ in 0..MISSES {
            fleet.checked(1, Came::Failure, now);
        }
        assert_eq!(fleet.standing(1), Standing::Down);
        let asked = [0, 1].map(|_| choose(&mut fleet, Errand::Write, now).member);
        assert_eq!(asked, [0, 1]);
        assert_eq!(fleet.choose(Errand::Spare, &[], now), None);
    }

    #[test]
    fn where_checks_are_made_they_bring_it_back_and_not_before_its_rest_is_over() {
        let (mut fleet, now) = (Fleet::new(2, true), Instant::now());
        fail(&mut fleet, 0, STRIKES, now);
        let rested = now + FIRST_REST;
        assert_eq!(choose(&mut fleet, Errand::Safe, rested).member, 1);
        assert_eq!(fleet.checked(0, Came::Answer, now), None);
        assert_eq!(fleet.checked(0, Came::Answer, rested), Some(Change::Back));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Choose(Errand, Vec<usize>),
        Heard(usize, Came),
        Left(usize),
        Checked(usize, Came),
        Wait(u64),
    }

    fn steps(members: usize) -> impl Strategy<Value = Vec<Step>> {
        let errand = prop_oneof![Just(Errand::Safe), Just(Errand::Write), Just(Errand::Spare)];
        let came = prop_oneof![Just(Came::Answer), Just(Came::Failure)];
        let asked = prop::collection::vec(0..members, 0..members);
        let step = prop_oneof![
            4 => (errand, asked).prop_map(|(errand, asked)| Step::Choose(errand, asked)),
            4 => (any::<usize>(), came.clone()).prop_map(|(which, came)| Step::Heard(which, came)),
            3 => any::<usize>().prop_map(Step::Left),
            1 => (0..members, came).prop_map(|(member, came)| Step::Checked(member, came)),
            1 => (0u64..40_000).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn whatever_happens_the_choice_is_right(
            (members, checked, steps) in (1usize..5, any::<bool>())
                .prop_flat_map(|(members, checked)| (Just(members), Just(checked), steps(members)))
        ) {
            let (mut fleet, mut now) = (Fleet::new(members, checked), Instant::now());
            // Each with whether something was heard of it.
            let mut open: Vec<(Choice, bool)> = Vec::new();
            for step in steps {
                match step {
                    Step::Choose(errand, asked) => {
                        let busy: Vec<_> = (0..members).map(|i| fleet.under_way(i)).collect();
                        let well: Vec<_> = (0..members)
                            .filter(|i| !asked.contains(i) && fleet.standing(*i) == Standing::Well)
                            .collect();
                        match fleet.choose(errand, &asked, now) {
                            None if errand == Errand::Spare => prop_assert!(well.is_empty()),
                            None => prop_assert!((0..members).all(|i| asked.contains(&i))),
                            Some(choice) => {
                                prop_assert!(!asked.contains(&choice.member));
                                if choice.trial.is_some() {
                                    prop_assert!(errand == Errand::Safe && !checked);
                                    let same = |(other, heard): &(Choice, bool)| {
                                        other.trial.is_some() && !heard && other.member == choice.member
                                    };
                                    prop_assert!(!open.iter().any(same), "two trials at once");
                                } else if !well.is_empty() {
                                    let least = well.iter().map(|i| busy[*i]).min();
                                    prop_assert!(well.contains(&choice.member));
                                    prop_assert_eq!(Some(busy[choice.member]), least);
                                }
                                open.push((choice, false));
                            }
                        }
                    }
                    Step::Heard(which, came) if !open.is_empty() => {
                        let which = which % open.len();
                        let (choice, heard) = &mut open[which];
                        if !*heard {
                            *heard = true;
                            let change = fleet.heard(*choice, came, now);
                            if let Some(Change::Rests(rest)) = change {
                                prop_assert!(rest >= FIRST_REST && rest <= LONGEST_REST);
                            }
                        }
                    }
                    Step::Left(which) if !open.is_empty() => {
                        let (choice, _) = open.swap_remove(which % open.len());
                        fleet.left(choice);
                    }
                    Step::Heard(..) | Step::Left(_) => {}
                    Step::Checked(member, came) => drop(fleet.checked(member, came, now)),
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                let count: usize = (0..members).map(|i| fleet.under_way(i)).sum();
                prop_assert_eq!(count, open.len());
            }
        }
    }
}
