//! The protocol itself: what a state is, what each step does to it, and what makes a copy valid.
//! Pure: steps in, the new state and a reply out; `now` and fresh random bits are arguments.
//! The memory store runs these functions; Redis runs `state.lua`, and a test holds the two together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::error::UpstreamFailure;
use crate::hexadecimal;

/// The name of a state, below the deployment's prefix: `users:list~state`, `users:detail~all`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey(Arc<str>);

impl StateKey {
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        StateKey(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stretch of time in which nothing that a family shows was written. Its value is never used twice:
/// the store's own microseconds, then the store's incarnation and 32 fresh random bits. Before the microseconds stands its
/// generation, which a soft purge counts up: what was fetched in an earlier one is not invalid, but no longer fresh.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The generation, then the microseconds.
    began: u64,
    /// The incarnation, then the random bits. Two words and not one of twice the width: whatever holds it would be laid out by that.
    fresh: u64,
}

impl Epoch {
    /// Where the generation begins; microseconds below it last until the year 2112.
    const GENERATION: u32 = 52;
    const LAST_GENERATION: u64 = 0xfff;

    fn generation(self) -> u64 {
        self.began >> Self::GENERATION
    }

    /// The same but for the generation.
    pub fn is_of(self, other: Epoch) -> bool {
        let generations = u64::MAX << Self::GENERATION;
        self.fresh == other.fresh && (self.began ^ other.began) & !generations == 0
    }

    /// What a soft purge makes of it. `None`: there is none left.
    pub fn next_generation(self) -> Option<Epoch> {
        let is_last = self.generation() == Self::LAST_GENERATION;
        let began = self.began.wrapping_add(1 << Self::GENERATION);
        (!is_last).then_some(Epoch { began, ..self })
    }

    pub fn new(now: Timestamp, incarnation: Incarnation, fresh: u32) -> Epoch {
        Epoch {
            began: now.as_micros(),
            fresh: u64::from(incarnation.0) << 32 | u64::from(fresh),
        }
    }

    /// The life of the store in which it was made.
    pub fn incarnation(self) -> Incarnation {
        Incarnation((self.fresh >> 32) as u32)
    }

    pub fn parse(text: &[u8]) -> Option<Epoch> {
        let at = memchr::memchr(b'-', text).filter(|at| (1..=16).contains(at))?;
        let (began, fresh) = (&text[..at], &text[at + 1..]);
        Some(Epoch {
            began: hexadecimal::read(began)?,
            fresh: hexadecimal::read(fresh).filter(|_| fresh.len() == 16)?,
        })
    }

    /// Appends it as it is displayed.
    pub fn write(self, into: &mut Vec<u8>) {
        hexadecimal::write(into, self.began);
        into.push(b'-');
        into.extend_from_slice(&hexadecimal::padded(self.fresh));
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:016x}", self.began, self.fresh)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One life of a store's data: another after a restart, a failover, or a return from a snapshot. An epoch of
/// another life proves nothing, for purges may be missing since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Incarnation(pub u32);

/// What was current when a fetch began: the copy's own list of (state, epoch).
pub type Epochs = SmallVec<[(StateKey, Epoch); 2]>;

/// One write in flight; or, by a name of their own, all those together of which nobody knows what became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub u64);

impl HoldId {
    /// Of all ambiguous writes together: nothing is left of each but until when it may come to pass. No write in flight has it.
    pub const AMBIGUOUS: HoldId = HoldId(u64::MAX);
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What one state holds. Nothing at all and an absent key are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    epoch: Option<Epoch>,
    holds: SmallVec<[(HoldId, Deadline); 1]>,
}

/// The store's milliseconds at which a hold may be swept.
type Deadline = u64;

/// What a reader needs to know of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    Current(Epoch),
    /// A write is in flight: nothing of this family is to be trusted or made.
    Held,
    /// No epoch: whatever was stored is of the past.
    Absent,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Changed,
    /// The upstream refused it, or never saw it.
    Unchanged,
    /// It may have changed something, or may yet.
    Ambiguous,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A reader asks for an epoch, to fetch under it.
    Open {
        incarnation: Incarnation,
        fresh: u32,
    },
    /// A writer announces itself, for at most so long; told twice, it does not end earlier for that.
    Begin { hold: HoldId, lasting: Duration },
    /// The writer is done; an ambiguous one leaves its hold's time to `HoldId::AMBIGUOUS`, or so much if it was lost.
    Finish {
        hold: HoldId,
        outcome: Outcome,
        lasting: Duration,
    },
    /// The writer is done and has changed something, and its answer shows what: an epoch begins with it, if no other
    /// write began or ended since its own hold was put there; that is, if the epoch from before still stands, of this life.
    Renew {
        hold: HoldId,
        incarnation: Incarnation,
        fresh: u32,
    },
    /// A purge by hand.
    Purge,
    /// A soft one: what is there is to be fetched anew, and shown until it has been.
    Outdate,
}

/// What a step found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The state after the step.
    pub seen: Seen,
    /// For a finish: whether its own hold was still there.
    pub own_hold: bool,
}

impl Seen {
    /// What a state's text says to a reader; what is no state of ours says nothing.
    pub fn parse(text: &[u8]) -> Seen {
        match memchr::memchr(b' ', text) {
            // Nearly always: an epoch, and nobody writes.
            None => Epoch::parse(text).map_or(Seen::Absent, Seen::Current),
            Some(_) => State::parse(text).map_or(Seen::Absent, |state| state.seen()),
        }
    }

    /// As it counts in this life of the store.
    pub fn in_life(self, incarnation: Incarnation) -> Seen {
        match self {
            Seen::Current(epoch) if epoch.incarnation() != incarnation => Seen::Absent,
            seen => seen,
        }
    }

    /// As it counts on a link. `trusted` is how it was when the command was *sent*: while other instances put back
    /// their holds, a state without one may only have lost it, and the answer may be late.
    pub fn by_link(self, trusted: bool, incarnation: Incarnation) -> Seen {
        match self {
            Seen::Current(_) if !trusted => Seen::Held,
            seen => seen.in_life(incarnation),
        }
    }
}

impl State {
    pub fn seen(&self) -> Seen {
        match self.epoch {
            // A hold counts until it has been swept, whatever the clock says.
            _ if !self.holds.is_empty() => Seen::Held,
            Some(epoch) => Seen::Current(epoch),
            None => Seen::Absent,
        }
    }

    /// Whether a hold is left that has not run out, swept or not.
    pub fn is_held_at(&self, now: Timestamp) -> bool {
        let mut holds = self.holds.iter();
        holds.any(|(_, deadline)| *deadline > now.as_millis())
    }

    pub fn is_empty(&self) -> bool {
        self.epoch.is_none() && self.holds.is_empty()
    }

    /// Does one step. Atomic wherever it runs.
    pub fn apply(&mut self, step: Step, now: Timestamp) -> Reply {
        let mut own_hold = false;
        match step {
            Step::Open { incarnation, fresh } => {
                self.sweep(now);
                // An epoch of another life is as good as none.
                self.epoch = self
                    .epoch
                    .filter(|epoch| epoch.incarnation() == incarnation);
                if self.holds.is_empty() && self.epoch.is_none() {
                    self.epoch = Some(Epoch::new(now, incarnation, fresh));
                }
            }
            Step::Begin { hold, lasting } => {
                self.sweep(now);
                self.hold(hold, deadline(now, lasting));
            }
            Step::Finish {
                hold,
                outcome,
                lasting,
            } => match outcome {
                Outcome::Changed => {
                    own_hold = self.take(hold).is_some();
                    self.epoch = None;
                }
                Outcome::Unchanged => own_hold = self.take(hold).is_some(),
                Outcome::Ambiguous => {
                    let own = self.take(hold);
                    own_hold = own.is_some();
                    let until = own.unwrap_or_else(|| deadline(now, lasting));
                    self.hold(HoldId::AMBIGUOUS, until);
                    self.epoch = None;
                }
            },
            Step::Renew {
                hold,
                incarnation,
                fresh,
            } => {
                own_hold = self.take(hold).is_some();
                let before = self
                    .epoch
                    .filter(|epoch| epoch.incarnation() == incarnation);
                let alone = own_hold && self.holds.is_empty() && before.is_some();
                self.epoch = alone.then(|| Epoch::new(now, incarnation, fresh));
            }
            Step::Purge => self.epoch = None,
            Step::Outdate => self.epoch = self.epoch.and_then(Epoch::next_generation),
        }
        Reply {
            seen: self.seen(),
            own_hold,
        }
    }

    /// Whoever sweeps an overdue hold drops the epoch in the same step: its write may have come to pass.
    fn sweep(&mut self, now: Timestamp) {
        let before = self.holds.len();
        self.holds
            .retain(|(_, deadline)| *deadline > now.as_millis());
        if self.holds.len() < before {
            self.epoch = None;
        }
    }

    fn hold(&mut self, hold: HoldId, until: Deadline) {
        match self.holds.iter_mut().find(|(id, _)| *id == hold) {
            Some((_, known)) => *known = until.max(*known),
            None => self.holds.push((hold, until)),
        }
    }

    fn take(&mut self, hold: HoldId) -> Option<Deadline> {
        let at = self.holds.iter().position(|(id, _)| *id == hold)?;
        Some(self.holds.remove(at).1)
    }

    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    pub fn holds(&self) -> impl Iterator<Item = HoldId> {
        self.holds.iter().map(|(hold, _)| *hold)
    }

    /// As it stands in Redis: the epoch or `-`, then ` id@deadline` for each hold. Anything else is no state of ours.
    pub fn parse(text: &[u8]) -> Option<State> {
        let mut words = text.split(|&byte| byte == b' ');
        let epoch = match words.next()? {
            b"-" => None,
            word => Some(Epoch::parse(word)?),
        };
        let mut holds = SmallVec::new();
        for word in words {
            let (id, deadline) = std::str::from_utf8(word).ok()?.split_once('@')?;
            holds.push((
                HoldId(hexadecimal::read(id.as_bytes())?),
                deadline.parse().ok()?,
            ));
        }
        Some(State { epoch, holds })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "{epoch}")?,
            None => f.write_str("-")?,
        }
        self.holds
            .iter()
            .try_for_each(|(id, deadline)| write!(f, " {id}@{deadline}"))
    }
}

fn deadline(now: Timestamp, lasting: Duration) -> Deadline {
    now.plus(lasting).as_millis()
}

/// What its epochs make of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Valid,
    /// Valid already, though of the generation that is to begin: until then another may be put in its place under the same epochs.
    ToCome,
    /// Valid, but a soft purge came after its fetch began.
    Outdated,
    Invalid,
}

/// The one comparison of epochs: a copy is valid iff every state it names was asked for and is current,
/// and every state that was asked for is one it names.
pub fn validity(copy: &Epochs, seen: &[(StateKey, Seen)]) -> Validity {
    match copy.len() == seen.len() {
        true => validity_of_named(copy, seen),
        false => Validity::Invalid,
    }
}

/// As `validity`, of a copy that may name fewer states than were asked for: whoever is to judge it has yet to say which
/// it must.
pub fn validity_of_named(copy: &Epochs, seen: &[(StateKey, Seen)]) -> Validity {
    let mut all = Validity::Valid;
    for (state, epoch) in copy {
        match seen.iter().find(|(asked, _)| asked == state) {
            Some((_, Seen::Current(current))) if current == epoch => {}
            // What is set by hand is there a moment before the soft purge after which it is.
            Some((_, Seen::Current(current))) if current.is_of(*epoch) => {
                if current.generation() > epoch.generation() {
                    all = Validity::Outdated;
                } else if all == Validity::Valid {
                    all = Validity::ToCome;
                }
            }
            _ => return Validity::Invalid,
        }
    }
    all
}

/// Whether nothing was written between the fetch that made a copy and one under `own` (and, for a negative copy,
/// `others`): only then may the copy be validated, or stand in for an error.
pub fn same_stretch(copy: &Epochs, own: &Epochs, others: &[(StateKey, Epoch)]) -> bool {
    copy.len() == own.len() + others.len()
        && own.iter().chain(others).all(|(state, epoch)| {
            let same = |(of, then): &(StateKey, Epoch)| of == state && then.is_of(*epoch);
            copy.iter().any(same)
        })
}

/// The epochs to fetch under, if every state has one.
pub fn epochs(seen: &[(StateKey, Seen)]) -> Option<Epochs> {
    seen.iter()
        .map(|(state, seen)| match seen {
            Seen::Current(epoch) => Some((state.clone(), *epoch)),
            Seen::Held | Seen::Absent => None,
        })
        .collect()
}

/// What an upstream's answer to a write that was sent exactly once says of its outcome.
/// 404, 409, 410 and 412 may answer a second sending by some layer, so they count as changes.
pub fn outcome_of_status(status: StatusCode) -> Outcome {
    match status.as_u16() {
        400 | 401 | 403 | 405 | 413 | 415 | 422 | 429 => Outcome::Unchanged,
        502..=504 => Outcome::Ambiguous,
        _ => Outcome::Changed,
    }
}

pub fn outcome_of_failure(failure: UpstreamFailure) -> Outcome {
    match failure.never_left() {
        true => Outcome::Unchanged,
        false => Outcome::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn a_copy_is_of_a_fetchs_own_stretch_only_if_no_state_it_names_was_written_between() {
        let of = |names: &[(&'static str, u32)]| -> Epochs {
            let epoch = |fresh| Epoch::new(at(0), Incarnation(1), fresh);
            let named = names.iter();
            named
                .map(|(name, fresh)| (StateKey::new(*name), epoch(*fresh)))
                .collect()
        };
        let (own, absence) = (of(&[("f", 1), ("all", 2)]), of(&[("list", 3)]));
        let negative = of(&[("f", 1), ("all", 2), ("list", 3)]);
        assert!(same_stretch(&own, &own, &[]));
        assert!(same_stretch(&negative, &own, &absence));
        for written in [&[("f", 9), ("all", 2)], &[("f", 1), ("all", 9)]] {
            assert!(!same_stretch(&own, &of(written), &[]));
            assert!(!same_stretch(&negative, &of(written), &absence));
        }
        assert!(
            !same_stretch(&negative, &own, &of(&[("list", 9)])),
            "a create"
        );
        assert!(
            !same_stretch(&negative, &own, &[]),
            "a create is not known of"
        );
        assert!(
            !same_stretch(&of(&[("f", 1)]), &own, &[]),
            "of another file"
        );
    }

    #[test]
    fn a_soft_purge_leaves_copies_valid_and_outdated_and_a_purge_after_it_does_not() {
        let key = StateKey::new("f");
        let epoch = Epoch::new(at(0), Incarnation(1), 7);
        let copy: Epochs = [(key.clone(), epoch)].into_iter().collect();
        let mut state = State {
            epoch: Some(epoch),
            ..State::default()
        };
        let open = Step::Open {
            incarnation: Incarnation(1),
            fresh: 9,
        };
        let mut after = |step| {
            let seen = state.apply(step, at(1)).seen;
            (seen, validity(&copy, &[(key.clone(), seen)]))
        };
        assert_eq!(after(open).1, Validity::Valid);
        let (outdated, validity_then) = after(Step::Outdate);
        assert_eq!(validity_then, Validity::Outdated);
        let Seen::Current(later) = outdated else {
            panic!("{outdated:?}")
        };
        assert!(later.is_of(epoch) && later != epoch);
        let set = [(key.clone(), later)].into_iter().collect();
        let before = [(key.clone(), Seen::Current(epoch))];
        assert_eq!(validity(&set, &before), Validity::ToCome);
        assert_eq!(later.incarnation(), epoch.incarnation());
        assert_eq!(Epoch::parse(later.to_string().as_bytes()), Some(later));
        assert!(same_stretch(
            &copy,
            &[(key.clone(), later)].into_iter().collect(),
            &[]
        ));
        assert_eq!(after(open).1, Validity::Outdated, "and stays so");
        assert_eq!(after(Step::Purge).1, Validity::Invalid);
        assert_eq!(
            after(Step::Outdate).0,
            Seen::Absent,
            "nothing is left to outdate"
        );
    }

    #[test]
    fn soft_purges_without_end_become_a_purge() {
        let mut epoch = Epoch::new(at(0), Incarnation(1), 7);
        for _ in 0..Epoch::LAST_GENERATION {
            epoch = epoch.next_generation().unwrap();
        }
        assert_eq!(epoch.next_generation(), None);
    }

    fn begin(hold: u64) -> Step {
        Step::Begin {
            hold: HoldId(hold),
            lasting: MINUTE,
        }
    }

    fn finish(hold: u64, outcome: Outcome) -> Step {
        Step::Finish {
            hold: HoldId(hold),
            outcome,
            lasting: MINUTE,
        }
    }

    fn opened(state: &mut State, now: u64, fresh: u32) -> Option<Epoch> {
        open_in(state, now, Incarnation(1), fresh)
    }

    fn open_in(state: &mut State, now: u64, incarnation: Incarnation, fresh: u32) -> Option<Epoch> {
        match state.apply(Step::Open { incarnation, fresh }, at(now)).seen {
            Seen::Current(epoch) => Some(epoch),
            Seen::Held | Seen::Absent => None,
        }
    }

    #[test]
    fn readers_share_an_epoch_until_something_changes() {
        let mut state = State::default();
        let first = opened(&mut state, 0, 1);
        assert!(first.is_some());
        assert_eq!(opened(&mut state, 1, 2), first);
        state.apply(begin(1), at(2));
        state.apply(finish(1, Outcome::Changed), at(3));
        let second = opened(&mut state, 3, 3);
        assert!(second.is_some() && second != first);
    }

    #[test]
    fn an_epoch_begins_with_a_write_only_if_no_other_began_or_ended_meanwhile() {
        let renew = |hold| Step::Renew {
            hold: HoldId(hold),
            incarnation: Incarnation(1),
            fresh: 9,
        };
        let begun = || {
            let mut state = State::default();
            let before = opened(&mut state, 0, 1);
            state.apply(begin(1), at(1));
            (state, before)
        };
        let (mut alone, before) = begun();
        let Seen::Current(epoch) = alone.apply(renew(1), at(2)).seen else {
            panic!("{alone}");
        };
        assert_ne!(Some(epoch), before);
        assert_eq!(
            opened(&mut alone, 3, 2),
            Some(epoch),
            "and readers share it"
        );

        let (mut beside_another, _) = begun();
        beside_another.apply(begin(2), at(2));
        assert_eq!(beside_another.apply(renew(1), at(3)).seen, Seen::Held);
        assert_eq!(beside_another.epoch(), None);

        for (outcome, seen) in [
            (Outcome::Changed, Seen::Absent),
            (Outcome::Ambiguous, Seen::Held),
        ] {
            let (mut after_another, _) = begun();
            after_another.apply(begin(2), at(2));
            after_another.apply(finish(2, outcome), at(3));
            assert_eq!(after_another.apply(renew(1), at(4)).seen, seen);
            assert_eq!(after_another.epoch(), None);
        }

        let (mut after_a_refused_one, _) = begun();
        after_a_refused_one.apply(begin(2), at(2));
        after_a_refused_one.apply(finish(2, Outcome::Unchanged), at(3));
        let seen = after_a_refused_one.apply(renew(1), at(4)).seen;
        assert!(matches!(seen, Seen::Current(_)), "that changed nothing");

        let (mut purged, _) = begun();
        purged.apply(Step::Purge, at(2));
        assert_eq!(purged.apply(renew(1), at(3)).seen, Seen::Absent);

        let (mut hold_lost, _) = begun();
        hold_lost.apply(finish(1, Outcome::Unchanged), at(2));
        assert_eq!(hold_lost.apply(renew(1), at(3)).seen, Seen::Absent);

        let (mut swept, _) = begun();
        swept.apply(begin(2), at(100_000));
        swept.apply(finish(2, Outcome::Unchanged), at(100_001));
        assert_eq!(swept.apply(renew(1), at(100_002)).seen, Seen::Absent);

        let mut of_another_life = State::default();
        open_in(&mut of_another_life, 0, Incarnation(2), 1);
        of_another_life.apply(begin(1), at(1));
        assert_eq!(of_another_life.apply(renew(1), at(2)).seen, Seen::Absent);
    }

    /// Two writers whose answers are to be kept, and a reader, in every order of their steps.
    #[test]
    fn an_answer_kept_under_an_epoch_that_began_with_its_write_is_never_of_the_past() {
        // Steps taken by each; its own epoch once it has one; whose commit was the last.
        fn explore(
            state: &State,
            steps: [usize; 3],
            mine: [Option<Epoch>; 2],
            last: Option<usize>,
        ) -> usize {
            let mut kept = 0;
            let current = state.epoch().filter(|_| state.holds().next().is_none());
            for (writer, epoch) in mine.iter().enumerate() {
                if epoch.is_some() && *epoch == current {
                    assert_eq!(last, Some(writer), "{steps:?} {state}");
                    kept += 1;
                }
            }
            for who in 0..3 {
                let (mut state, mut steps, mut mine, mut last) = (state.clone(), steps, mine, last);
                let hold = HoldId(who as u64 + 1);
                let renew = Step::Renew {
                    hold,
                    incarnation: Incarnation(1),
                    fresh: 10 + who as u32,
                };
                match (who, steps[who]) {
                    (0..2, 0) => drop(state.apply(begin(hold.0), at(1))),
                    (0..2, 1) => last = Some(who),
                    (0..2, 2) => {
                        mine[who] = match state.apply(renew, at(1)).seen {
                            Seen::Current(epoch) => Some(epoch),
                            Seen::Held | Seen::Absent => None,
                        };
                    }
                    (2, n @ 0..3) => drop(opened(&mut state, 1, n as u32)),
                    _ => continue,
                }
                steps[who] += 1;
                kept += explore(&state, steps, mine, last);
            }
            kept
        }
        let mut state = State::default();
        opened(&mut state, 0, 9);
        assert!(
            explore(&state, [0; 3], [None; 2], None) > 0,
            "some are kept"
        );
    }

    #[test]
    fn while_a_write_is_in_flight_no_epoch_is_made_or_trusted() {
        let mut state = State::default();
        opened(&mut state, 0, 1);
        assert_eq!(state.apply(begin(1), at(1)).seen, Seen::Held);
        assert_eq!(opened(&mut state, 2, 2), None);
    }

    #[test]
    fn a_refused_write_leaves_every_copy_valid() {
        let mut state = State::default();
        let epoch = opened(&mut state, 0, 1);
        state.apply(begin(1), at(1));
        assert!(state.apply(finish(1, Outcome::Unchanged), at(2)).own_hold);
        assert_eq!(opened(&mut state, 3, 2), epoch);
    }

    #[test]
    fn no_finish_clears_the_hold_of_another_write() {
        for outcome in [Outcome::Changed, Outcome::Unchanged, Outcome::Ambiguous] {
            let mut state = State::default();
            state.apply(begin(1), at(0));
            state.apply(begin(2), at(0));
            state.apply(finish(1, outcome), at(1));
            assert_eq!(state.seen(), Seen::Held, "{outcome:?}");
        }
    }

    #[test]
    fn an_ambiguous_write_is_held_until_its_deadline_and_then_is_a_change() {
        let mut state = State::default();
        let before = opened(&mut state, 0, 1);
        state.apply(begin(1), at(0));
        state.apply(finish(1, Outcome::Ambiguous), at(30));
        assert_eq!(opened(&mut state, 59, 2), None);
        assert_eq!(
            state.seen(),
            Seen::Held,
            "a hold counts until it has been swept"
        );
        let after = opened(&mut state, 61, 3);
        assert!(after.is_some() && after != before);
    }

    #[test]
    fn ambiguous_writes_leave_one_hold_for_all_of_them_which_lasts_as_long_as_the_last() {
        let mut state = State::default();
        let before = opened(&mut state, 0, 1);
        for n in 1..=1000 {
            state.apply(begin(n), at(n % 30));
            state.apply(finish(n, Outcome::Ambiguous), at(30));
        }
        assert_eq!(state.holds().count(), 1, "{state}");
        // As it is put back where a store may have lost it: by one who knows of an earlier end.
        let put_back = Step::Begin {
            hold: HoldId::AMBIGUOUS,
            lasting: MINUTE / 2,
        };
        state.apply(put_back, at(31));
        state.apply(begin(7), at(40));
        assert!(state.apply(finish(7, Outcome::Unchanged), at(50)).own_hold);
        assert_eq!(opened(&mut state, 88, 2), None, "{state}");
        let after = opened(&mut state, 89, 3);
        assert!(after.is_some() && after != before);
    }

    #[test]
    fn an_ambiguous_finish_that_is_told_twice_is_told_once() {
        let mut state = State::default();
        state.apply(begin(1), at(0));
        assert!(state.apply(finish(1, Outcome::Ambiguous), at(1)).own_hold);
        state.apply(finish(1, Outcome::Ambiguous), at(1));
        assert_eq!(state.holds().count(), 1, "{state}");
    }

    #[test]
    fn an_ambiguous_finish_puts_back_a_hold_that_was_lost() {
        let mut state = State::default();
        let reply = state.apply(finish(1, Outcome::Ambiguous), at(0));
        assert_eq!(
            reply,
            Reply {
                seen: Seen::Held,
                own_hold: false
            }
        );
    }

    #[test]
    fn the_hold_of_a_writer_that_died_is_swept_as_a_change() {
        let mut state = State::default();
        let before = opened(&mut state, 0, 1);
        state.apply(begin(1), at(0));
        assert_ne!(opened(&mut state, 60, 2), before);
    }

    #[test]
    fn a_purge_by_hand_keeps_the_holds() {
        let mut state = State::default();
        opened(&mut state, 0, 1);
        state.apply(begin(1), at(0));
        assert_eq!(state.apply(Step::Purge, at(1)).seen, Seen::Held);
        state.apply(finish(1, Outcome::Unchanged), at(2));
        assert_eq!(state.seen(), Seen::Absent);
    }

    #[test]
    fn an_epoch_of_another_life_of_the_store_is_neither_trusted_nor_kept() {
        let mut state = State::default();
        let before = opened(&mut state, 0, 1).unwrap();
        assert_eq!(Seen::Current(before).in_life(Incarnation(2)), Seen::Absent);
        let after = open_in(&mut state, 1, Incarnation(2), 2).unwrap();
        assert_ne!(before, after);
        assert_eq!(
            Seen::Current(after).in_life(Incarnation(2)),
            Seen::Current(after)
        );
        state.apply(begin(1), at(2));
        assert_eq!(
            open_in(&mut state, 3, Incarnation(3), 3),
            None,
            "but the holds stay"
        );
    }

    #[test]
    fn a_copy_is_valid_only_while_all_its_epochs_are_current() {
        let key = |name: &str| StateKey::new(name);
        let valid = |copy, seen: &[_]| validity(copy, seen) != Validity::Invalid;
        let epoch = |fresh| Epoch::new(at(0), Incarnation(1), fresh);
        let (a, b) = (epoch(1), epoch(2));
        let copy: Epochs = [(key("f"), a), (key("g"), b)].into_iter().collect();
        assert!(valid(
            &copy,
            &[(key("g"), Seen::Current(b)), (key("f"), Seen::Current(a))]
        ));
        for other in [Seen::Current(a), Seen::Held, Seen::Absent] {
            assert!(!valid(
                &copy,
                &[(key("f"), Seen::Current(a)), (key("g"), other)]
            ));
        }
        assert!(
            !valid(&copy, &[(key("f"), Seen::Current(a))]),
            "a state it names was not asked for"
        );
        let only_family: Epochs = [(key("f"), a)].into_iter().collect();
        assert!(
            !valid(
                &only_family,
                &[(key("f"), Seen::Current(a)), (key("g"), Seen::Current(b))]
            ),
            "a state it lacks"
        );
    }

    #[test]
    fn the_answers_that_refuse_a_write_purge_nothing_and_all_others_do() {
        for status in 200..=599u16 {
            let expected = match status {
                400 | 401 | 403 | 405 | 413 | 415 | 422 | 429 => Outcome::Unchanged,
                502..=504 => Outcome::Ambiguous,
                _ => Outcome::Changed,
            };
            assert_eq!(
                outcome_of_status(StatusCode::from_u16(status).unwrap()),
                expected,
                "{status}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn a_state_reads_back_as_it_was_written(steps in proptest::collection::vec((0u8..6, 0u64..4, 0u64..100), 0..20)) {
            let mut state = State::default();
            for (step, hold, now) in steps {
                let step = match step {
                    0 => Step::Open { incarnation: Incarnation(hold as u32), fresh: 7 },
                    1 => begin(hold),
                    2 => finish(hold, Outcome::Changed),
                    3 => finish(hold, Outcome::Unchanged),
                    4 => finish(hold, Outcome::Ambiguous),
                    _ => Step::Purge,
                };
                state.apply(step, at(now));
                let text = state.to_string();
                proptest::prop_assert_eq!(Seen::parse(text.as_bytes()), state.seen());
                proptest::prop_assert_eq!(State::parse(text.as_bytes()), Some(state.clone()));
            }
        }
    }
}
