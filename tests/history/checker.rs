//! Whether a history keeps what README promises: a pure function from what was recorded to what is wrong with it.
//!
//! * **G1** a read that starts after a write was answered with success shows that write.
//! * **G2** a read that starts after another has ended shows nothing older than what that one had shown.
//!
//! Both are the same question: at the start of a read, how new must what it shows at least be? Time is swept once,
//! and what has been confirmed or shown by then is kept for each thing that has versions. A write that was not
//! confirmed obliges nobody; but once it has been shown, it stays.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use super::record::{Act, History, Id, Moment, Operation, Outcome, Shown, Target, Version, What};

/// What a run may do to the store, and what is then not promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// G1 and G2, whole.
    Nothing,
    /// The store may lose the hold of a write in flight: until that write is answered, reads may show the older state again.
    HoldsMayBeLost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Older than a confirmed write.
    G1,
    /// Older than what has been shown.
    G2,
    /// A created user is missing.
    Missing,
    /// A deleted user is there.
    Undead,
    /// The copy of another credential.
    Foreign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    /// What should have been newer: the key, and the version that it must at least show.
    pub of: String,
    /// What came first; nothing for the copy of another credential.
    pub first: Option<Operation>,
    pub then: Operation,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.of)?;
        if let Some(first) = &self.first {
            write!(f, "\n    first {first}")?;
        }
        write!(f, "\n    then  {}", self.then)
    }
}

/// Something that has versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Datum {
    User(Id),
    /// Whatever user is there: a write of all of them obliges each that is shown, and none that is gone.
    Anybody,
    /// The newest version of any user, which is what lists show.
    All,
}

/// The newest version of a thing so far, and the operation that said so.
type Newest<'a> = HashMap<Datum, (Version, &'a Operation)>;

#[derive(Default)]
struct Known<'a> {
    written: Newest<'a>,
    shown: Newest<'a>,
    /// Created, confirmed, and not yet being deleted.
    present: HashMap<Id, &'a Operation>,
    deleted: HashMap<Id, &'a Operation>,
}

/// What the sweep meets at one moment.
enum Event<'a> {
    /// A read begins: what it will show is judged by what is known now.
    Begins(&'a Operation),
    DeletionBegins(Id),
    Confirmed(&'a Operation, Id, Version),
    Ended(&'a Operation, &'a Shown),
}

pub fn check(history: &History, bound: Bound) -> Vec<Violation> {
    let mut deletions: HashMap<Id, Moment> = HashMap::new();
    let mut writes: HashMap<Version, &Operation> = HashMap::new();
    let mut events: Vec<(Moment, Event)> = Vec::new();
    for operation in &history.operations {
        if let Act::Delete(id) = operation.act {
            let first = deletions.entry(id).or_insert(Moment::MAX);
            *first = operation.start.min(*first);
            events.push((operation.start, Event::DeletionBegins(id)));
        }
        match &operation.outcome {
            Outcome::Shown(shown) => {
                events.push((operation.start, Event::Begins(operation)));
                events.push((operation.end, Event::Ended(operation, shown)));
            }
            Outcome::Written { id, version } => {
                writes.insert(*version, operation);
                events.push((operation.told, Event::Confirmed(operation, *id, *version)));
            }
            Outcome::Unknown(_) => {}
        }
    }
    // At one and the same moment nothing is before anything else: reads begin first and so owe it nothing.
    let rank = |event: &Event| !matches!(event, Event::Begins(_));
    events.sort_by(|(a, one), (b, other)| match a.cmp(b) {
        Ordering::Equal => rank(one).cmp(&rank(other)),
        unequal => unequal,
    });

    let mut known = Known::default();
    let mut violations = Vec::new();
    for (_, event) in &events {
        match event {
            Event::Begins(read) => {
                let mut found = judge(read, &known, &deletions);
                if bound == Bound::HoldsMayBeLost {
                    found.retain(|violation| !is_of_a_write_in_flight(violation, &writes));
                }
                violations.append(&mut found);
            }
            Event::DeletionBegins(id) => drop(known.present.remove(id)),
            Event::Confirmed(write, id, version) => known.confirm(write, *id, *version, &deletions),
            Event::Ended(read, shown) => {
                for (datum, version) in shows(read, shown) {
                    newest(&mut known.shown, datum, version, read);
                }
            }
        }
    }
    violations
}

impl<'a> Known<'a> {
    fn confirm(
        &mut self,
        write: &'a Operation,
        id: Id,
        version: Version,
        deletions: &HashMap<Id, Moment>,
    ) {
        newest(&mut self.written, Datum::All, version, write);
        match write.act {
            Act::ChangeAll => newest(&mut self.written, Datum::Anybody, version, write),
            _ => newest(&mut self.written, Datum::User(id), version, write),
        }
        match write.act {
            Act::Create { .. } if deletions.get(&id).is_none_or(|begun| *begun > write.told) => {
                self.present.insert(id, write);
            }
            Act::Delete(_) => {
                self.deleted.insert(id, write);
            }
            _ => {}
        }
    }
}

fn newest<'a>(newest: &mut Newest<'a>, datum: Datum, version: Version, by: &'a Operation) {
    let known = newest.entry(datum).or_insert((version, by));
    if version > known.0 {
        *known = (version, by);
    }
}

/// The versions that an answer proves to be there.
fn shows(read: &Operation, shown: &Shown) -> Vec<(Datum, Version)> {
    match (&shown.what, read.act) {
        (What::Users { at, users }, _) => {
            let users = users
                .iter()
                .map(|(id, version)| (Datum::User(*id), *version));
            users.chain([(Datum::All, *at)]).collect()
        }
        (What::User { version, .. }, Act::Read(Target::User(id))) => {
            vec![(Datum::User(id), *version), (Datum::All, *version)]
        }
        (What::User { .. }, _) => Vec::new(),
    }
}

/// The things of which an answer must show the newest version, and the one that it does show.
fn owes(read: &Operation, shown: &Shown) -> Vec<(Datum, Version)> {
    match (&shown.what, read.act) {
        (What::Users { at, users }, _) => {
            let anybody = users.iter().map(|(_, version)| (Datum::Anybody, *version));
            let users = users
                .iter()
                .map(|(id, version)| (Datum::User(*id), *version));
            users.chain(anybody).chain([(Datum::All, *at)]).collect()
        }
        (What::User { version, present }, Act::Read(Target::User(id))) => {
            let anybody = present.then_some((Datum::Anybody, *version));
            [(Datum::User(id), *version)]
                .into_iter()
                .chain(anybody)
                .collect()
        }
        (What::User { .. }, _) => Vec::new(),
    }
}

fn judge(read: &Operation, known: &Known, deletions: &HashMap<Id, Moment>) -> Vec<Violation> {
    let Outcome::Shown(shown) = &read.outcome else {
        return Vec::new();
    };
    let mut violations = Vec::new();
    let mut violated = |rule, of: String, first: Option<&Operation>| {
        violations.push(Violation {
            rule,
            of,
            first: first.cloned(),
            then: read.clone(),
        });
    };
    if shown.to != read.credential {
        violated(
            Rule::Foreign,
            format!("a copy for credential {}", shown.to),
            None,
        );
    }
    for (datum, version) in owes(read, shown) {
        for (rule, newest) in [(Rule::G1, &known.written), (Rule::G2, &known.shown)] {
            if let Some((owed, first)) = newest.get(&datum).filter(|(owed, _)| *owed > version) {
                violated(
                    rule,
                    format!("{datum:?} at version {version} instead of {owed}"),
                    Some(first),
                );
            }
        }
    }
    let there = |id: Id| match &shown.what {
        What::Users { users, .. } => users.iter().any(|(user, _)| *user == id),
        What::User { present, .. } => *present,
    };
    let is_about = |id: Id, role: Option<u64>| match read.act {
        Act::Read(Target::List) => true,
        Act::Read(Target::Role(asked)) => role.is_none_or(|role| role == asked),
        Act::Read(Target::User(asked)) => asked == id,
        _ => false,
    };
    for (id, created) in &known.present {
        let Act::Create { role } = created.act else {
            continue;
        };
        let may_be_deleted = deletions.get(id).is_some_and(|begun| *begun <= read.end);
        if is_about(*id, Some(role)) && !may_be_deleted && !there(*id) {
            violated(Rule::Missing, format!("user {id}"), Some(created));
        }
    }
    let shown_users: Vec<Id> = match (&shown.what, read.act) {
        (What::Users { users, .. }, _) => users.iter().map(|(id, _)| *id).collect(),
        (What::User { present: true, .. }, Act::Read(Target::User(id))) => vec![id],
        _ => Vec::new(),
    };
    for id in shown_users {
        if let Some(deleted) = known.deleted.get(&id) {
            violated(Rule::Undead, format!("user {id}"), Some(deleted));
        }
    }
    violations
}

/// The write whose version is missing had not been answered when the read began.
fn is_of_a_write_in_flight(violation: &Violation, writes: &HashMap<Version, &Operation>) -> bool {
    let (Rule::G2, Some(first)) = (violation.rule, &violation.first) else {
        return false;
    };
    let Outcome::Shown(newer) = &first.outcome else {
        return false;
    };
    let Outcome::Shown(older) = &violation.then.outcome else {
        return false;
    };
    let newest = |read: &Operation, shown: &Shown| {
        shows(read, shown).iter().map(|(_, version)| *version).max()
    };
    let (newer, older) = (newest(first, newer), newest(&violation.then, older));
    // All that lies between the two, or there is another write that should have been seen.
    (older.unwrap_or(0) + 1..=newer.unwrap_or(0))
        .filter_map(|version| writes.get(&version))
        .any(|write| write.told >= violation.then.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: usize = 0;

    fn read(
        target: Target,
        instance: usize,
        (start, end): (Moment, Moment),
        what: What,
    ) -> Operation {
        let outcome = Outcome::Shown(Shown {
            to: ME,
            hit: true,
            what,
        });
        Operation {
            act: Act::Read(target),
            instance,
            credential: ME,
            start,
            told: end,
            end,
            outcome,
        }
    }

    fn user(id: Id, times: (Moment, Moment), version: Version) -> Operation {
        read(
            Target::User(id),
            0,
            times,
            What::User {
                version,
                present: true,
            },
        )
    }

    fn no_user(id: Id, times: (Moment, Moment), version: Version) -> Operation {
        read(
            Target::User(id),
            0,
            times,
            What::User {
                version,
                present: false,
            },
        )
    }

    fn list(
        target: Target,
        times: (Moment, Moment),
        at: Version,
        users: &[(Id, Version)],
    ) -> Operation {
        read(
            target,
            1,
            times,
            What::Users {
                at,
                users: users.to_vec(),
            },
        )
    }

    fn wrote(act: Act, (start, told): (Moment, Moment), id: Id, version: Version) -> Operation {
        let outcome = Outcome::Written { id, version };
        Operation {
            act,
            instance: 2,
            credential: ME,
            start,
            told,
            end: told + 1,
            outcome,
        }
    }

    fn lost(act: Act, (start, told): (Moment, Moment)) -> Operation {
        let outcome = Outcome::Unknown("503".to_owned());
        Operation {
            act,
            instance: 2,
            credential: ME,
            start,
            told,
            end: told,
            outcome,
        }
    }

    fn rules(operations: &[Operation]) -> Vec<Rule> {
        rules_within(operations, Bound::Nothing)
    }

    /// Of a history in any order: each must be found however it was recorded.
    fn rules_within(operations: &[Operation], bound: Bound) -> Vec<Rule> {
        let forwards = History {
            operations: operations.to_vec(),
        };
        let backwards = History {
            operations: operations.iter().rev().cloned().collect(),
        };
        let rules = |history: &History| {
            let mut rules: Vec<Rule> = check(history, bound)
                .iter()
                .map(|violation| violation.rule)
                .collect();
            rules.sort_by_key(|rule| *rule as u8);
            rules.dedup();
            rules
        };
        assert_eq!(rules(&forwards), rules(&backwards));
        rules(&forwards)
    }

    const CREATE: Act = Act::Create { role: 1 };

    #[test]
    fn a_right_history_passes() {
        let right = [
            user(1, (0, 1), 1),
            wrote(Act::Change(1), (2, 10), 1, 9),
            // While the write is in flight both are right.
            user(1, (3, 9), 1),
            user(1, (4, 8), 9),
            user(1, (9, 12), 9),
            list(Target::List, (11, 12), 9, &[(1, 9), (2, 2)]),
            wrote(CREATE, (20, 30), 7, 10),
            list(Target::Role(1), (31, 32), 10, &[(7, 10)]),
            list(Target::Role(0), (31, 32), 10, &[(1, 9)]),
            wrote(Act::Delete(7), (40, 50), 7, 11),
            list(Target::List, (41, 49), 10, &[(1, 9), (2, 2), (7, 10)]),
            list(Target::List, (41, 49), 11, &[(1, 9), (2, 2)]),
            no_user(7, (51, 52), 11),
            wrote(Act::ChangeAll, (60, 70), 0, 12),
            user(2, (71, 72), 12),
            no_user(7, (71, 72), 11),
        ];
        assert_eq!(rules(&right), []);
    }

    #[test]
    fn a_read_after_a_confirmed_write_that_shows_the_past_is_found() {
        let write = wrote(Act::Change(1), (0, 10), 1, 5);
        assert_eq!(rules(&[write.clone(), user(1, (11, 12), 4)]), [Rule::G1]);
        assert_eq!(
            rules(&[write.clone(), list(Target::List, (11, 12), 4, &[(1, 4)])]),
            [Rule::G1]
        );
        assert_eq!(
            rules(&[write.clone(), list(Target::Role(0), (11, 12), 4, &[])]),
            [Rule::G1]
        );
        assert_eq!(
            rules(&[write.clone(), user(1, (10, 12), 4)]),
            [],
            "it did not start after the answer"
        );
        assert_eq!(rules(&[write, user(2, (11, 12), 4)]), [], "another user");
    }

    #[test]
    fn a_list_whose_own_version_is_new_and_whose_users_are_old_is_found() {
        let write = wrote(Act::Change(1), (0, 10), 1, 5);
        assert_eq!(
            rules(&[write, list(Target::List, (11, 12), 5, &[(1, 4)])]),
            [Rule::G1]
        );
    }

    #[test]
    fn a_write_of_all_users_obliges_each_of_them_and_nobody_who_is_gone() {
        let write = wrote(Act::ChangeAll, (0, 10), 0, 5);
        assert_eq!(rules(&[write.clone(), user(3, (11, 12), 4)]), [Rule::G1]);
        assert_eq!(
            rules(&[write.clone(), list(Target::List, (11, 12), 5, &[(3, 4)])]),
            [Rule::G1]
        );
        assert_eq!(rules(&[write, no_user(3, (11, 12), 2)]), []);
    }

    #[test]
    fn a_read_that_shows_less_than_an_earlier_one_is_found_on_any_instance_and_any_variant() {
        let seen = list(Target::List, (0, 10), 5, &[(1, 5)]);
        assert_eq!(
            rules(&[seen.clone(), list(Target::Role(1), (11, 12), 4, &[(1, 4)])]),
            [Rule::G2]
        );
        assert_eq!(
            rules(&[seen.clone(), list(Target::Role(0), (11, 12), 4, &[])]),
            [Rule::G2]
        );
        assert_eq!(rules(&[seen.clone(), user(1, (11, 12), 4)]), [Rule::G2]);
        assert_eq!(
            rules(&[seen.clone(), user(1, (9, 12), 4)]),
            [],
            "they overlap"
        );
        assert_eq!(
            rules(&[seen, user(2, (11, 12), 4)]),
            [],
            "it says nothing of another user"
        );
        let seen = user(1, (0, 10), 5);
        assert_eq!(
            rules(&[seen, list(Target::List, (11, 12), 4, &[])]),
            [Rule::G2]
        );
    }

    #[test]
    fn a_write_without_a_confirmation_obliges_nobody_until_it_has_been_shown() {
        let write = lost(Act::Change(1), (0, 10));
        assert_eq!(
            rules(&[write.clone(), user(1, (11, 12), 4), user(1, (20, 21), 5)]),
            []
        );
        assert_eq!(
            rules(&[write, user(1, (11, 12), 5), user(1, (20, 21), 4)]),
            [Rule::G2]
        );
    }

    #[test]
    fn a_created_user_that_is_missing_is_found() {
        let create = wrote(CREATE, (0, 10), 7, 5);
        // As if the list's own version were right, so that presence alone decides.
        let missing = |target| list(target, (11, 12), 5, &[]);
        assert_eq!(
            rules(&[create.clone(), missing(Target::List)]),
            [Rule::Missing]
        );
        assert_eq!(
            rules(&[create.clone(), missing(Target::Role(1))]),
            [Rule::Missing]
        );
        assert_eq!(
            rules(&[create.clone(), missing(Target::Role(0))]),
            [],
            "it has another role"
        );
        assert_eq!(
            rules(&[create.clone(), no_user(7, (11, 12), 5)]),
            [Rule::Missing]
        );
        assert_eq!(
            rules(&[create.clone(), no_user(7, (11, 12), 0)]),
            [Rule::G1, Rule::Missing]
        );
        for deletion in [
            lost(Act::Delete(7), (11, 90)),
            lost(Act::Delete(7), (12, 90)),
        ] {
            assert_eq!(
                rules(&[create.clone(), deletion, missing(Target::List)]),
                [],
                "it may be deleted"
            );
        }
        let later = lost(Act::Delete(7), (13, 90));
        assert_eq!(
            rules(&[create, later, missing(Target::List)]),
            [Rule::Missing]
        );
    }

    #[test]
    fn a_deleted_user_that_is_still_there_is_found() {
        let delete = wrote(Act::Delete(7), (0, 10), 7, 5);
        // As if its version were right, so that presence alone decides.
        assert_eq!(
            rules(&[delete.clone(), list(Target::List, (11, 12), 5, &[(7, 5)])]),
            [Rule::Undead]
        );
        assert_eq!(
            rules(&[delete.clone(), user(7, (11, 12), 5)]),
            [Rule::Undead]
        );
        assert_eq!(
            rules(&[delete.clone(), user(7, (11, 12), 4)]),
            [Rule::G1, Rule::Undead]
        );
        assert_eq!(rules(&[delete, user(7, (10, 12), 4)]), []);
    }

    #[test]
    fn the_copy_of_another_credential_is_found() {
        let mut read = user(1, (0, 1), 1);
        read.credential = 3;
        assert_eq!(rules(&[read]), [Rule::Foreign]);
    }

    #[test]
    fn where_holds_may_be_lost_a_write_in_flight_may_be_unseen_again_and_no_other() {
        let within = |operations: &[Operation]| rules_within(operations, Bound::HoldsMayBeLost);
        let in_flight = wrote(Act::Change(1), (0, 100), 1, 5);
        let (new, old) = (user(1, (10, 11), 5), user(1, (20, 21), 4));
        assert_eq!(within(&[in_flight.clone(), new.clone(), old.clone()]), []);
        let finished = wrote(Act::Change(1), (0, 15), 1, 5);
        assert_eq!(
            within(&[finished, new.clone(), old.clone()]),
            [Rule::G1, Rule::G2]
        );
        assert_eq!(
            within(&[in_flight.clone(), user(1, (101, 102), 4)]),
            [Rule::G1]
        );
        let unrelated = wrote(Act::Change(2), (0, 100), 2, 6);
        assert_eq!(
            within(&[unrelated, new, old]),
            [Rule::G2],
            "the write of another version does not excuse it"
        );
        assert_eq!(
            rules(&[in_flight, user(1, (10, 11), 5), user(1, (20, 21), 4)]),
            [Rule::G2]
        );
    }

    #[test]
    fn a_violation_names_both_operations_with_their_times_and_instances() {
        let history = History {
            operations: vec![
                wrote(Act::Change(1), (1_000_000, 2_000_000), 1, 5),
                user(1, (3_000_000, 4_000_000), 4),
            ],
        };
        let text = check(&history, Bound::Nothing)[0].to_string();
        assert_eq!(
            text,
            "G1: User(1) at version 4 instead of 5\n    \
             first [1.000 2.000 2.000 ms] instance 2 credential 0 Change(1): wrote version 5 of user 1\n    \
             then  [3.000 4.000 4.000 ms] instance 0 credential 0 Read(User(1)): hit for credential 0: \
             User { version: 4, present: true }"
        );
    }
}
