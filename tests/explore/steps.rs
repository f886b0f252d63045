//! What may happen next, and what it does. A command at the store is one step, and so are a commit at the API, what
//! it reads, and what somebody learns. Where two of them are one step here, it is said why that shows no less.
//!
//! What is assumed of time, and so is not shown:
//! * `trust`: the notice time has passed for an instance only once every other that can reach the store is linked
//!   again, with its journal replayed.
//! * `long`: an outage lasts for the notice time, and writes are forwarded without a hold, only for an instance that
//!   cannot reach the store meanwhile; all whom the same or an earlier outage struck know of it by then.
//! * `tick`: a hold runs out only when its write can commit no more, and nothing that is answered within seconds
//!   (a write, a reconnect) is on its way while it does.
//! * An instance learns at once that its link is gone. Who does not (it asks nothing while the store hangs) is like one
//!   that was never cut off while the others were.
//! * A server that was replaced answers nobody any more.
//! * A lease that was asked for before something that outlasts it began (a write's wait for its term, the age of terms that
//!   began anew, the notice time) is over when that is. It may end earlier at any time, which is seen when it would be used;
//!   so a process that is stopped, and takes long for anything, is among these.

use std::fmt;

use larder::coherence::flights::{Fence, Share};
use larder::coherence::journal::Book;
use larder::coherence::life::{self, How};
use larder::coherence::protocol::{self, Outcome, Reply, State, Step as AtStore, Validity};
use larder::coherence::writing::{Act, Event};
use larder::coherence::{Epochs, HoldId, NOTICE, Seen, StateKey, WithoutStore, Writing};
use larder::error::UpstreamFailure;

use super::variants::Variant;
use super::world::*;

/// What holds for a whole exploration.
#[derive(Debug, Clone)]
pub struct Setting {
    pub variant: Variant,
    pub without_store: WithoutStore,
    pub faults: Vec<Fault>,
    /// Instances keep copies in their memory, and take a state that they have read for good for a while.
    pub leases: bool,
    /// So many of them may come to pass.
    pub budget: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Start(usize),
    StartUnleased(usize),
    StartAhead(usize),
    Make(usize),
    Join(usize),
    Leave(usize, usize),
    LeaveUnseeing(usize, usize),
    Answers(usize, usize),
    Land(usize, usize),
    Begin(usize),
    Run(usize),
    Told(usize),
    Noticed(usize),
    Lapsed(usize),
    Hear(usize, usize),
    Ends(usize, usize),
    Name(usize),
    Sweep,
    Commit(usize),
    Succeeds(usize),
    Fails(usize, Fault),
    Snapshot,
    Late(usize),
    Crash(usize),
    Comes(usize),
    Lose(usize),
    Cut(usize),
    CutAll,
    Heal,
    Stop(Fault),
    Back,
    Forget(usize),
    ForgetTerms,
    Flush,
    Long(usize),
    Enter(usize, Absence),
    Replay(usize),
    Publish(usize),
    Trust(usize),
    Tick,
}

/// How long an instance was without the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Too short for anybody to forward a write without a hold.
    Brief,
    Longer,
}

/// A read that shows what it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Older than a write that was answered with success: or without what it created, or with what it deleted.
    G1,
    /// Older than what was shown.
    G2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Violation {
    pub rule: Rule,
    /// What was not promised for any of the writes that it does not show.
    pub hole: Option<Hole>,
}

/// What a step has shown.
#[derive(Debug, Default)]
pub struct Told {
    pub violation: Option<Violation>,
    pub hit: bool,
    pub collapsed: bool,
}

impl Setting {
    /// Everything that may happen next.
    pub fn steps(&self, w: &World, out: &mut Vec<Step>) {
        out.clear();
        for (n, reader) in w.readers.iter().enumerate() {
            match &reader.stage {
                ReaderStage::Idle | ReaderStage::Anew { .. } => {
                    let at = &w.instances[usize::from(reader.at)];
                    if at.alive && first_of_its_kind(w, n) {
                        out.push(Step::Start(n));
                        // Or its lease has just ended, or soon does.
                        let leases = &at.leases;
                        if leases.iter().any(|lease| lease.is_heard_of(reader.family)) {
                            out.push(Step::StartUnleased(n));
                            out.push(Step::StartAhead(n));
                        }
                    }
                }
                ReaderStage::Opening { .. } => out.push(Step::Make(n)),
                ReaderStage::Opened { .. } => out.push(Step::Join(n)),
                ReaderStage::Waiting { .. } | ReaderStage::Over => {}
            }
        }
        for (i, instance) in w.instances.iter().enumerate() {
            for (n, flight) in instance.flights.iter().enumerate() {
                match (flight.left, flight.answer) {
                    (false, _) => {
                        // One without epochs waits for the one before it.
                        let waits = flight.fence.epochs.is_none()
                            && instance.flights[..n].iter().any(|before| {
                                before.family == flight.family && before.fence.epochs.is_none()
                            });
                        if !waits {
                            out.push(Step::Leave(i, n));
                            if w.store.data.copies[flight.family as usize].is_some() {
                                out.push(Step::LeaveUnseeing(i, n));
                            }
                        }
                    }
                    (true, None) => out.push(Step::Answers(i, n)),
                    (true, Some(_)) => out.push(Step::Land(i, n)),
                }
            }
        }
        for (n, writer) in w.writers.iter().enumerate() {
            let at = &w.instances[usize::from(writer.at)];
            match &writer.stage {
                WriterStage::Idle if at.alive => {
                    let earlier = w.writers[..n].iter().any(|other| {
                        other.stage == WriterStage::Idle
                            && other.deed == writer.deed
                            && other.at == writer.at
                    });
                    if !earlier {
                        out.push(Step::Begin(n));
                    }
                }
                WriterStage::Telling { step, ran, failed } => {
                    let all = usize::from(*ran) == writer.deed.states().len();
                    let enough = self.variant == Variant::ForwardedHalfHeld
                        && *ran > 0
                        && matches!(step, AtStore::Begin { .. });
                    if !failed && !all {
                        out.push(Step::Run(n));
                    }
                    if *failed || all || enough {
                        out.push(Step::Told(n));
                    }
                }
                WriterStage::Noticing => {
                    if at.link.is_some() || at.away.is_some_and(|away| away.long) {
                        out.push(Step::Noticed(n));
                    }
                }
                WriterStage::Lapsing => out.push(Step::Lapsed(n)),
                WriterStage::AtTheApi => {
                    if writer.committed.is_some() || !can_commit(w, n) {
                        out.push(Step::Succeeds(n));
                    }
                }
                WriterStage::Idle | WriterStage::Over | WriterStage::Dead => {}
            }
            if writer.may_commit && writer.committed.is_none() && can_commit(w, n) {
                out.push(Step::Commit(n));
            }
        }
        if w.store.up {
            // What was sent by one runs in its order.
            let first = |n: &usize| w.late[..*n].iter().all(|late| late.of != w.late[*n].of);
            out.extend((0..w.late.len()).filter(first).map(Step::Late));
        }
        self.of_instances(w, out);
        self.of_time(w, out);
        if w.faults.len() < self.budget {
            self.of_faults(w, out);
        }
    }

    fn of_instances(&self, w: &World, out: &mut Vec<Step>) {
        if w.store.data.terms.is_some_and(|terms| terms.anew) {
            out.push(Step::Sweep);
        }
        for (i, instance) in w.instances.iter().enumerate() {
            for (n, lease) in instance.leases.iter().enumerate() {
                let leaves = |flight: &Flight| !flight.left && flight.family == lease.family;
                if lease.on_its_way {
                    out.push(Step::Hear(i, n));
                } else if instance.flights.iter().any(leaves) {
                    out.push(Step::Ends(i, n));
                }
            }
            let stands = w
                .store
                .data
                .terms
                .is_some_and(|terms| terms.of & 1 << i != 0);
            if self.leases && instance.link.is_some() && !stands {
                out.push(Step::Name(i));
            }
            if !instance.alive {
                if w.readers
                    .iter()
                    .any(|r| usize::from(r.at) == i && r.stage == ReaderStage::Idle)
                    || w.writers
                        .iter()
                        .any(|o| usize::from(o.at) == i && o.stage == WriterStage::Idle)
                {
                    out.push(Step::Comes(i));
                }
                continue;
            }
            if instance.link.is_none() && instance.reach && w.store.up {
                match &instance.entering {
                    None => {
                        // To be away for longer, but not for the notice time, only adds a wait to the same.
                        let long = instance.away.is_some_and(|away| away.long);
                        let absence = if long {
                            Absence::Longer
                        } else {
                            Absence::Brief
                        };
                        out.push(Step::Enter(i, absence));
                    }
                    Some(entering) if entering.left.is_empty() => out.push(Step::Publish(i)),
                    Some(_) => out.push(Step::Replay(i)),
                }
            }
            if instance.link.is_some_and(|link| !link.trusted) && others_are_linked(w, i) {
                out.push(Step::Trust(i));
            }
        }
        if !w.store.up {
            out.push(Step::Back);
        }
        if w.instances.iter().any(|instance| !instance.reach) {
            out.push(Step::Heal);
        }
    }

    fn of_time(&self, w: &World, out: &mut Vec<Step>) {
        if self.without_store == WithoutStore::Forward {
            for (i, instance) in w.instances.iter().enumerate() {
                let unreachable = !instance.reach || !w.store.up;
                if instance.alive && unreachable && instance.away.is_some_and(|away| !away.long) {
                    out.push(Step::Long(i));
                }
            }
        }
        // Only where a hold waits for it: one stride is past all their deadlines.
        let now = w.now().as_millis();
        let runs = |state: &State| {
            let ends = |text: &str| text.parse::<u64>().is_ok_and(|deadline| deadline > now);
            state.holds().next().is_some() && state.to_string().split(['@', ' ']).any(ends)
        };
        let quick = w.writers.iter().any(|writer| {
            matches!(
                writer.stage,
                WriterStage::Telling { .. }
                    | WriterStage::Noticing
                    | WriterStage::Lapsing
                    | WriterStage::AtTheApi
            )
        });
        let entering = w
            .instances
            .iter()
            .any(|instance| instance.entering.is_some());
        if w.store.data.states.iter().any(runs) && !quick && !entering && w.late.is_empty() {
            out.push(Step::Tick);
        }
    }

    fn of_faults(&self, w: &World, out: &mut Vec<Step>) {
        for &fault in &self.faults {
            match fault {
                Fault::Crash => out.extend(
                    (0..INSTANCES)
                        .filter(|&i| w.instances[i].alive)
                        .map(Step::Crash),
                ),
                Fault::LinkLost => out.extend(
                    (0..INSTANCES)
                        .filter(|&i| w.instances[i].link.is_some())
                        .map(Step::Lose),
                ),
                Fault::CutOne => out.extend(
                    (0..INSTANCES)
                        .filter(|&i| w.instances[i].alive && w.instances[i].reach)
                        .map(Step::Cut),
                ),
                Fault::CutAll => out.push(Step::CutAll),
                Fault::RestartEmpty => out.push(Step::Stop(fault)),
                Fault::RestartOlder => out.push(match w.store.snapshot {
                    None => Step::Snapshot,
                    Some(_) => Step::Stop(fault),
                }),
                Fault::StateLost => {
                    for (k, state) in w.store.data.states.iter().enumerate() {
                        if !state.is_empty() {
                            out.push(Step::Forget(k));
                        }
                    }
                }
                Fault::Flush => out.push(Step::Flush),
                Fault::TermsLost => {
                    if w.store.data.terms.is_some() {
                        out.push(Step::ForgetTerms);
                    }
                }
                Fault::Error | Fault::Broken => {
                    for (n, writer) in w.writers.iter().enumerate() {
                        let committed = writer.committed.is_some();
                        if writer.stage == WriterStage::AtTheApi
                            && (committed || fault == Fault::Broken)
                        {
                            out.push(Step::Fails(n, fault));
                        }
                    }
                }
            }
        }
    }

    /// Does a step.
    pub fn apply(&self, w: &mut World, step: Step) -> Told {
        let told = self.act_out(w, step);
        all_may_be_back(w);
        w.normalise(!matches!(
            self.variant,
            Variant::PurgeAfter | Variant::PurgeBeforeAndAfter | Variant::EpochUsedTwice
        ));
        told
    }

    fn act_out(&self, w: &mut World, step: Step) -> Told {
        let mut told = Told::default();
        match step {
            Step::Start(n) => self.start(w, n, &mut told),
            Step::StartUnleased(n) => {
                let (family, i) = (w.readers[n].family, usize::from(w.readers[n].at));
                let leases = &mut w.instances[i].leases;
                leases.retain(|lease| !lease.is_heard_of(family));
                self.start(w, n, &mut told);
            }
            Step::StartAhead(n) => {
                let (family, i) = (w.readers[n].family, usize::from(w.readers[n].at));
                self.ask(w, i, family);
                self.start(w, n, &mut told);
            }
            Step::Make(n) => self.make(w, n),
            Step::Join(n) => self.join(w, n),
            Step::Leave(i, n) => self.leave(w, i, n, &mut told),
            Step::LeaveUnseeing(i, n) => w.instances[i].flights[n].left = true,
            Step::Answers(i, n) => {
                let flight = &w.instances[i].flights[n];
                let answer = Shown::of(flight.family, w.api);
                w.instances[i].flights[n].answer = Some(answer);
            }
            Step::Land(i, n) => self.land(w, i, n, &mut told),
            Step::Begin(n) => {
                let (i, states) = (usize::from(w.writers[n].at), w.writers[n].deed.states());
                let (away, now) = (w.instances[i].link.is_none(), w.instant());
                let book = &mut w.instances[i].book;
                let hold = HoldId(n as u64);
                let (writing, act) =
                    Writing::begin(states, hold, HOLD, self.without_store, book, away, now);
                w.writers[n].writing = Some(writing);
                self.act(w, n, act);
            }
            Step::Run(n) => self.run(w, n),
            Step::Told(n) => self.told(w, n),
            Step::Noticed(n) => {
                self.reads_terms(w, n);
                self.goes_on(w, n, Event::Noticed);
            }
            Step::Lapsed(n) => {
                self.outlast(w, 1 << n);
                w.writers[n].waits_for = 0;
                self.goes_on(w, n, Event::Lapsed);
            }
            Step::Hear(i, n) => {
                let leases = &mut w.instances[i].leases;
                let mut lease = leases.remove(n);
                lease.on_its_way = false;
                if self.variant == Variant::LeaseFromTheReply {
                    lease.outlasted_by = 0;
                }
                // It is later than what was known.
                leases.retain(|one| !one.is_heard_of(lease.family));
                leases.push(lease);
            }
            Step::Ends(i, n) => drop(w.instances[i].leases.remove(n)),
            Step::Name(i) => {
                let terms = w.store.data.terms;
                let lost = terms.is_none();
                let terms = terms.unwrap_or(Terms {
                    of: 0,
                    anew: lost && self.variant != Variant::NewTermsAreAll,
                });
                w.store.data.terms = Some(Terms {
                    of: terms.of | 1 << i,
                    ..terms
                });
                if lost {
                    mark(w, ANEW, |_| true);
                }
            }
            Step::Sweep => {
                self.outlast(w, ANEW);
                if let Some(terms) = &mut w.store.data.terms {
                    terms.anew = false;
                }
            }
            Step::ForgetTerms => {
                w.faults.push(Fault::TermsLost);
                w.store.data.terms = None;
            }
            Step::Commit(n) => {
                let deed = w.writers[n].deed;
                let version = &mut w.api[deed.user()];
                *version += match deed {
                    Deed::Change => 2,
                    Deed::Delete | Deed::Create => 1,
                };
                w.writers[n].committed = Some(*version);
                w.writers[n].may_commit = false;
            }
            Step::Succeeds(n) => {
                let writer = &mut w.writers[n];
                writer.succeeded = writer.committed.is_some();
                writer.may_commit = false;
                // 404 to what is gone already, and 409 to what is there, count as changes.
                let status = match (writer.succeeded, writer.deed) {
                    (true, Deed::Change) => 200,
                    (true, Deed::Delete) => 204,
                    (true, Deed::Create) => 201,
                    (false, _) => 404,
                };
                let status = http::StatusCode::from_u16(status).expect("a status");
                let outcome = protocol::outcome_of_status(status);
                self.goes_on(w, n, Event::Ended(outcome));
            }
            Step::Fails(n, fault) => {
                w.faults.push(fault);
                let resent = self.variant == Variant::ResentDelete
                    && w.writers[n].deed == Deed::Delete
                    && w.writers[n].committed.is_some();
                let outcome = match fault {
                    _ if resent => Outcome::Unchanged,
                    Fault::Error => {
                        protocol::outcome_of_status(http::StatusCode::INTERNAL_SERVER_ERROR)
                    }
                    _ => protocol::outcome_of_failure(UpstreamFailure::Lost),
                };
                self.goes_on(w, n, Event::Ended(outcome));
            }
            Step::Snapshot => w.store.snapshot = Some(Box::new(w.store.data.clone())),
            Step::Late(n) => match w.late.remove(n).what {
                Command::Step(key, step) => drop(self.at_store(w, &key, step)),
                Command::Put(copy) => {
                    let n = copy.what.family as usize;
                    w.store.data.copies[n] = Some(copy);
                }
            },
            Step::Crash(i) => self.crash(w, i),
            Step::Comes(i) => {
                let instance = &mut w.instances[i];
                instance.alive = true;
                // It has seen nothing yet.
                instance.away = Some(Away {
                    outage: w.faults.len() as u8,
                    long: false,
                });
            }
            Step::Lose(i) => {
                w.faults.push(Fault::LinkLost);
                self.unlink(w, i, true);
            }
            Step::Cut(i) => {
                w.faults.push(Fault::CutOne);
                w.instances[i].reach = false;
                w.instances[i].cut_alone = true;
                self.unlink(w, i, true);
            }
            Step::CutAll => {
                w.faults.push(Fault::CutAll);
                for i in 0..INSTANCES {
                    // As for a store that stops.
                    w.instances[i].reach = self.without_store == WithoutStore::Refuse;
                    self.unlink(w, i, true);
                }
            }
            Step::Heal => w.instances.iter_mut().for_each(|one| one.reach = true),
            Step::Stop(fault) => {
                w.faults.push(fault);
                w.store.who += 1;
                // With its connections goes what was on its way on them.
                w.late.clear();
                w.store.data = match fault {
                    Fault::RestartOlder => *w.store.snapshot.take().expect("a snapshot"),
                    _ => Data::default(),
                };
                lose_holds(w, |writer| writer.stage == WriterStage::Dead);
                if self.variant == Variant::ReconnectsSilently {
                    return told;
                }
                // Where writes are refused, a store that is away for long is like one that is connected to late.
                w.store.up = self.without_store == WithoutStore::Refuse;
                for i in 0..INSTANCES {
                    self.unlink(w, i, false);
                }
            }
            Step::Back => w.store.up = true,
            Step::Forget(k) => {
                w.faults.push(Fault::StateLost);
                w.store.data.states[k] = State::default();
                lose_holds(w, |_| true);
            }
            Step::Flush => {
                w.faults.push(Fault::Flush);
                w.store.data = Data::default();
                lose_holds(w, |_| true);
            }
            Step::Long(i) => {
                self.outlast(w, OUTAGE);
                let outage = w.instances[i].away.expect("it is away").outage;
                for away in w.instances.iter_mut().filter_map(|one| one.away.as_mut()) {
                    away.long |= away.outage <= outage;
                }
            }
            Step::Enter(i, absence) => self.enter(w, i, absence),
            Step::Replay(i) => {
                let entering = w.instances[i].entering.as_mut().expect("it is entering");
                let (key, step) = entering.left.remove(0);
                // Of a finish, once all of its states are told.
                let is_told =
                    step == AtStore::Purge || entering.left.iter().all(|(_, other)| *other != step);
                self.at_store(w, &key, step);
                if is_told {
                    self.forget_what_was_told(w, i);
                    w.instances[i].book.told(&[key], step);
                }
            }
            Step::Publish(i) => self.publish(w, i),
            Step::Trust(i) => {
                self.outlast(w, OUTAGE);
                let now = w.now().as_millis();
                let link = w.instances[i].link.as_mut().expect("it is linked");
                link.trusted = true;
                let life = link.life;
                w.instances[i].untrusted = false;
                if let Some(record) = &mut w.store.data.record
                    && record.life == life
                {
                    record.trusted = record.trusted.min(now);
                }
            }
            Step::Tick => {
                w.clock += 1;
                w.writers.iter_mut().for_each(|one| {
                    if one.stage != WriterStage::Idle {
                        one.may_commit = false;
                    }
                });
            }
        }
        told
    }

    /// A read starts, looks up, and asks for the epochs if it finds nothing: two commands, and one step. One that misses,
    /// and would hit by the time it asks for the epochs, might as well have started then, when more was known.
    /// What the look-up has shown as current need not be asked about again: so the epochs are as of this step either way. The
    /// others are made by one command, which is fewer orders than one for each; it looks at the life itself, and where that is
    /// another, all is asked anew.
    fn start(&self, w: &mut World, n: usize, told: &mut Told) {
        let (family, i) = (w.readers[n].family, usize::from(w.readers[n].at));
        let floor = match w.readers[n].stage {
            ReaderStage::Anew { floor } => floor,
            _ => Floor {
                written: w.written,
                shown: w.shown,
                holes: self.holes(w, i, family),
            },
        };
        if let Some(what) = self.find(w, i, family) {
            told.hit = true;
            return self.show(w, n, floor, what, told);
        }
        let Some(link) = w.instances[i].link else {
            let fence = Fence {
                epochs: None,
                absence: None,
            };
            w.readers[n].stage = ReaderStage::Opened { floor, fence };
            return self.leads_if_alone(w, n);
        };
        let life = match &w.store.data.record {
            Some(record) => record.life,
            None => {
                let who = w.store.who.to_string();
                let (fresh, now) = (w.fresh_life(), w.now());
                let record = life::enter(None, &who, fresh, How::Again, NOTICE, now);
                w.store.data.record.insert(record).life
            }
        };
        let life = match self.variant {
            Variant::ReconnectsSilently => link.life,
            _ => life,
        };
        if let Some(link) = &mut w.instances[i].link {
            link.life = life;
        }
        let mut keys = vec![family.key()];
        // Where nobody creates or deletes nobody is shown a 404, and that fence fences nothing.
        if w.writers.iter().any(|writer| writer.deed != Deed::Change) {
            keys.extend(family.absence());
        }
        let seen: Vec<(StateKey, Seen)> = keys
            .into_iter()
            .map(|key| {
                let found = w.store.data.states[Family::of(&key) as usize].seen();
                (key, found.by_link(link.trusted, life))
            })
            .collect();
        let next = match link.trusted {
            true => first_to_ask(&seen, 0),
            false => seen.len() as u8,
        };
        w.readers[n].stage = ReaderStage::Opening {
            floor,
            seen,
            next,
            life,
        };
        self.opened(w, n);
    }

    /// An epoch is made where there was none.
    fn make(&self, w: &mut World, n: usize) {
        let ReaderStage::Opening {
            seen, next, life, ..
        } = &w.readers[n].stage
        else {
            unreachable!("it asks for epochs");
        };
        let (at, life) = (usize::from(*next), *life);
        let key = seen[at].0.clone();
        let found = self.open(w, &key, life).seen.in_life(life);
        let ReaderStage::Opening { seen, next, .. } = &mut w.readers[n].stage else {
            unreachable!("it asks for epochs");
        };
        seen[at].1 = found;
        *next = first_to_ask(seen, *next + 1);
        self.opened(w, n);
    }

    fn opened(&self, w: &mut World, n: usize) {
        let reader = &mut w.readers[n];
        if let ReaderStage::Opening {
            floor, seen, next, ..
        } = &reader.stage
            && usize::from(*next) == seen.len()
        {
            let (own, others) = seen.split_at(1);
            let fence = Fence {
                epochs: protocol::epochs(own),
                absence: protocol::epochs(others),
            };
            reader.stage = ReaderStage::Opened {
                floor: *floor,
                fence,
            };
            self.leads_if_alone(w, n);
        }
    }

    /// Where nothing is being fetched it leads at once, in the same step: had it waited for another to lead, it would be
    /// shown what that one is, who started later.
    fn leads_if_alone(&self, w: &mut World, n: usize) {
        let (family, i) = (w.readers[n].family, usize::from(w.readers[n].at));
        let flights = &w.instances[i].flights;
        if flights.iter().all(|flight| flight.family != family) {
            self.join(w, n);
        }
    }

    fn join(&self, w: &mut World, n: usize) {
        let (family, i) = (w.readers[n].family, usize::from(w.readers[n].at));
        let stage = std::mem::replace(&mut w.readers[n].stage, ReaderStage::Over);
        let ReaderStage::Opened { floor, fence } = stage else {
            unreachable!("it has opened");
        };
        let flights = &mut w.instances[i].flights;
        let of_key = flights.iter().filter(|flight| flight.family == family);
        let found = of_key
            .filter_map(|flight| {
                let share = self.admits(flight, &fence)?;
                Some((flight.leader, Some(share)))
            })
            .next();
        let (leader, share) = found.unwrap_or_else(|| {
            flights.push(Flight {
                leader: n as u8,
                family,
                fence,
                left: false,
                answer: None,
            });
            (n as u8, None)
        });
        w.readers[n].stage = ReaderStage::Waiting {
            floor,
            leader,
            share,
        };
    }

    fn admits(&self, flight: &Flight, mine: &Fence) -> Option<Share> {
        match self.variant {
            Variant::CollapsingWithoutTheEpoch
            | Variant::PurgeAfter
            | Variant::PurgeBeforeAndAfter => Some(Share::Storable),
            Variant::Joined404 => flight
                .fence
                .admits(mine, flight.left)
                .map(|_| Share::Whatever),
            Variant::UnfencedJoinedLate if mine.epochs.is_none() => {
                flight.fence.admits(mine, false)
            }
            _ => flight.fence.admits(mine, flight.left),
        }
    }

    /// Looks again, as another may have stored it meanwhile, and leaves: one step, as a look that would find it later
    /// is of a fetch that leaves later, and so shows something newer. Who has reason to think that none has stored it does
    /// not look (`LeaveUnseeing`), and may be wrong.
    fn leave(&self, w: &mut World, i: usize, n: usize, told: &mut Told) {
        let flight = w.instances[i].flights[n].clone();
        if flight.fence.epochs.is_some()
            && let Some(what) = self.find(w, i, flight.family)
        {
            told.hit = true;
            return self.share(w, i, n, what, told);
        }
        w.instances[i].flights[n].left = true;
    }

    /// The answer is stored, and shown to all who wait: one step, as nothing that anybody does in between sees less of
    /// either, and what was read at the API was read long before.
    fn land(&self, w: &mut World, i: usize, n: usize, told: &mut Told) {
        let flight = &w.instances[i].flights[n];
        let what = flight.answer.expect("it was answered");
        if let Some(epochs) = &flight.fence.epochs
            && w.instances[i].link.is_some()
            && !what.is_404()
        {
            let epochs = epochs.clone();
            let copy = Box::new(Copy { what, epochs });
            if self.leases {
                w.instances[i].memory[what.family as usize] = Some(copy.clone());
            }
            w.store.data.copies[what.family as usize] = Some(copy);
        }
        self.share(w, i, n, what, told);
    }

    fn share(&self, w: &mut World, i: usize, n: usize, what: Shown, told: &mut Told) {
        let leader = w.instances[i].flights.remove(n).leader;
        for r in 0..w.readers.len() {
            let ReaderStage::Waiting {
                floor,
                leader: of,
                share,
            } = w.readers[r].stage
            else {
                continue;
            };
            if of != leader {
                continue;
            }
            told.collapsed |= share.is_some();
            match share == Some(Share::Storable) && what.is_404() {
                true => w.readers[r].stage = ReaderStage::Anew { floor },
                false => self.show(w, r, floor, what, told),
            }
        }
    }

    /// The invariant.
    fn show(&self, w: &mut World, n: usize, floor: Floor, what: Shown, told: &mut Told) {
        w.readers[n].stage = ReaderStage::Over;
        for user in (0..2).filter(|user| what.shows(*user)) {
            let version = what.users[user];
            let rule = match version {
                _ if version < floor.written[user] => Some(Rule::G1),
                _ if version < floor.shown[user] => Some(Rule::G2),
                _ => None,
            };
            let at = w.readers[n].at;
            let violation = rule.map(|rule| Violation {
                rule,
                hole: self.hole(w, &floor, at, user, version),
            });
            // What nothing excuses comes first.
            told.violation = match told.violation {
                Some(before) if before.hole.is_none() => Some(before),
                before => violation.or(before),
            };
            w.shown[user] = w.shown[user].max(version);
        }
    }

    fn holes(&self, w: &World, at: usize, family: Family) -> Holes {
        let bits = |of: &dyn Fn(usize) -> bool, most: usize| {
            (0..most).fold(0, |bits, n| bits | u8::from(of(n)) << n)
        };
        let forwards = self.without_store == WithoutStore::Forward;
        let absence = family.absence();
        let reads = absence
            .iter()
            .fold(family.bit(), |bits, key| bits | Family::of(key).bit());
        Holes {
            lost: bits(&|n| w.writers[n].lost & reads != 0, w.writers.len()),
            cut_alone: bits(&|i| forwards && w.instances[i].cut_alone, INSTANCES),
            away: bits(
                &|i| forwards && w.instances[at].ahead && w.instances[i].link.is_none(),
                INSTANCES,
            ),
        }
    }

    /// What excuses a read at `at` that shows this version of a user: it must be true of each write that was known to
    /// have been made and is not shown.
    fn hole(&self, w: &World, floor: &Floor, at: u8, user: usize, version: u8) -> Option<Hole> {
        let known = floor.written[user].max(floor.shown[user]);
        let missing = w.writers.iter().enumerate().filter(|(_, writer)| {
            let unseen = version + 1..=known;
            writer.deed.user() == user
                && writer.committed.is_some_and(|made| unseen.contains(&made))
        });
        let of = |(n, writer): (usize, &Writer)| {
            let elsewhere = |instances: u8| at != writer.at && instances & 1 << writer.at != 0;
            match () {
                _ if floor.holes.lost & 1 << n != 0 => Some(Hole::HoldLost),
                _ if elsewhere(floor.holes.cut_alone) => Some(Hole::CutAlone),
                _ if elsewhere(floor.holes.away) => Some(Hole::ReachedFirst),
                _ if writer.untold => Some(Hole::CrashedUntold),
                _ => None,
            }
        };
        let all: Option<Vec<Hole>> = missing.map(of).collect();
        all?.into_iter().max()
    }

    /// What is in memory and leased; else what the store says, which gives a lease if this instance's term stands there.
    /// That it asks for the states alone where it has the copy makes no difference.
    fn find(&self, w: &mut World, i: usize, family: Family) -> Option<Shown> {
        if !self.leases {
            return self.look_up(w, i, family);
        }
        let instance = &w.instances[i];
        if let Some(copy) = &instance.memory[family as usize] {
            let is_good = |lease: &Lease| {
                let in_life = |(state, epoch): &(StateKey, larder::coherence::Epoch)| {
                    // By a link that is gone and not missed yet, too.
                    let seen = Seen::Current(*epoch);
                    let seen = instance.link.map_or(seen, |link| seen.in_life(link.life));
                    (state.clone(), seen)
                };
                let seen: Vec<_> = lease.epochs.iter().map(in_life).collect();
                lease.is_heard_of(family)
                    && protocol::validity(&copy.epochs, &seen) != Validity::Invalid
            };
            if instance.leases.iter().any(is_good) {
                return Some(copy.what);
            }
        }
        instance.link?;
        self.ask(w, i, family);
        let found = self.look_up(w, i, family);
        if found.is_some() {
            let copy = w.store.data.copies[family as usize].clone();
            w.instances[i].memory[family as usize] = copy;
        }
        found
    }

    /// What the state is, which may come with a lease.
    fn ask(&self, w: &mut World, i: usize, family: Family) {
        let Some(link) = w.instances[i].link else {
            return;
        };
        let state = w.store.data.states[family as usize].seen();
        let taken_for_its_own = self.variant == Variant::LostTermsNameAll
            && w.store.data.terms.is_some_and(|terms| terms.anew);
        let stands = w
            .store
            .data
            .terms
            .is_some_and(|terms| terms.of & 1 << i != 0);
        if let Seen::Current(epoch) = state.by_link(link.trusted, link.life)
            && (stands || taken_for_its_own || self.variant == Variant::LeasedWithoutATerm)
        {
            let lease = Lease {
                family,
                epochs: [(family.key(), epoch)].into_iter().collect(),
                on_its_way: true,
                outlasted_by: 0,
            };
            // Of two questions the later one is good for longer.
            let leases = &mut w.instances[i].leases;
            leases.retain(|one| one.family != family || !one.on_its_way);
            leases.push(lease);
        }
    }

    /// What the store and this instance's link make of a look-up.
    fn look_up(&self, w: &World, i: usize, family: Family) -> Option<Shown> {
        let link = w.instances[i].link?;
        let copy = w.store.data.copies[family as usize].as_ref()?;
        let state = w.store.data.states[family as usize].seen();
        let seen = [(family.key(), state.by_link(link.trusted, link.life))];
        let valid = match self.variant {
            Variant::PurgeAfter | Variant::PurgeBeforeAndAfter => true,
            _ => protocol::validity(&copy.epochs, &seen) != Validity::Invalid,
        };
        valid.then_some(copy.what)
    }

    fn open(&self, w: &mut World, key: &StateKey, incarnation: protocol::Incarnation) -> Reply {
        let fresh = match self.variant {
            Variant::EpochUsedTwice => 0,
            _ => w.fresh_epoch(incarnation),
        };
        self.at_store(w, key, AtStore::Open { incarnation, fresh })
    }

    /// One step on one state.
    fn at_store(&self, w: &mut World, key: &StateKey, step: AtStore) -> Reply {
        let (n, now) = (Family::of(key) as usize, w.now());
        let bit = Family::of(key).bit();
        if let AtStore::Begin { hold, .. } | AtStore::Finish { hold, .. } = step {
            let ends =
                matches!(step, AtStore::Finish { outcome, .. } if outcome != Outcome::Ambiguous);
            // What an instance puts back of ambiguous writes is of all of them that hold this.
            let is_of = |(n, writer): &(usize, &mut Writer)| match hold {
                HoldId::AMBIGUOUS => writer.writing.is_none() && writer.held & bit != 0,
                hold => hold == HoldId(*n as u64),
            };
            for (_, writer) in w.writers.iter_mut().enumerate().filter(is_of) {
                // It is there, or there again, or not needed any more.
                writer.held = if ends {
                    writer.held & !bit
                } else {
                    writer.held | bit
                };
                if !(self.leases && ends && writer.stage != WriterStage::Over) {
                    writer.lost &= !bit;
                }
            }
        }
        let state = &mut w.store.data.states[n];
        let begins = matches!(step, AtStore::Begin { .. });
        let finishes = matches!(step, AtStore::Finish { .. });
        let nothing = Reply {
            seen: state.seen(),
            own_hold: true,
        };
        match self.variant {
            Variant::PurgeAfter | Variant::PurgeBeforeAndAfter if begins || finishes => {
                if finishes || self.variant == Variant::PurgeBeforeAndAfter {
                    w.store.data.copies[n] = None;
                }
                nothing
            }
            Variant::EpochWithoutHold if begins => nothing,
            Variant::EpochWithoutHold if finishes => state.apply(AtStore::Purge, now),
            Variant::FinishClearsAllHolds if finishes => {
                *state = State::default();
                nothing
            }
            Variant::FinishClearsTheAmbiguous if finishes => {
                let reply = state.apply(step, now);
                let outcome = Outcome::Unchanged;
                let theirs = AtStore::Finish {
                    hold: HoldId::AMBIGUOUS,
                    outcome,
                    lasting: HOLD,
                };
                let is_ambiguous = matches!(
                    step,
                    AtStore::Finish {
                        outcome: Outcome::Ambiguous,
                        ..
                    }
                );
                match is_ambiguous {
                    true => reply,
                    false => Reply {
                        own_hold: reply.own_hold,
                        ..state.apply(theirs, now)
                    },
                }
            }
            Variant::FinishLeavesTheEpoch => match step {
                AtStore::Finish { hold, lasting, .. } => state.apply(
                    AtStore::Finish {
                        hold,
                        outcome: Outcome::Unchanged,
                        lasting,
                    },
                    now,
                ),
                step => state.apply(step, now),
            },
            Variant::LostHoldStaysLost => match step {
                AtStore::Finish { hold, .. } if !state.holds().any(|id| id == hold) => {
                    state.apply(AtStore::Purge, now)
                }
                step => state.apply(step, now),
            },
            _ => state.apply(step, now),
        }
    }

    fn run(&self, w: &mut World, n: usize) {
        let WriterStage::Telling { step, ran, failed } = w.writers[n].stage else {
            unreachable!("it tells");
        };
        let key = w.writers[n].deed.states()[usize::from(ran)].clone();
        let begins = matches!(step, AtStore::Begin { .. });
        if begins && ran == 0 && self.variant == Variant::TermsReadBeforeTheHolds {
            self.reads_terms(w, n);
        }
        let reply = self.at_store(w, &key, step);
        w.writers[n].unheld |= self.leases && !begins && !reply.own_hold;
        let is_last = usize::from(ran + 1) == w.writers[n].deed.states().len();
        if begins && is_last && self.variant != Variant::TermsReadBeforeTheHolds {
            self.reads_terms(w, n);
        }
        w.writers[n].stage = WriterStage::Telling {
            step,
            ran: ran + 1,
            failed,
        };
        // Without faults to come nothing can happen to the reply.
        let all = usize::from(ran + 1) == w.writers[n].deed.states().len();
        if all && w.faults.len() >= self.budget {
            self.told(w, n);
        }
    }

    fn told(&self, w: &mut World, n: usize) {
        let WriterStage::Telling { step, ran, failed } = w.writers[n].stage else {
            unreachable!("it tells");
        };
        if !failed {
            for key in &w.writers[n].deed.states()[usize::from(ran)..] {
                w.late.push(Late {
                    of: n as u8,
                    what: Command::Step(key.clone(), step),
                });
            }
        }
        let finishes =
            matches!(step, AtStore::Finish { outcome, .. } if outcome != Outcome::Unchanged);
        let event = match () {
            () if failed => Event::Untold,
            () if finishes && w.writers[n].unheld => Event::ToldUnheld,
            () => Event::Told,
        };
        if event != Event::Told {
            self.reads_terms(w, n);
        }
        self.goes_on(w, n, event);
    }

    /// It is over, and so is every lease that it has outlasted; what is still on its way is good no more when it comes.
    fn outlast(&self, w: &mut World, by: u8) {
        for instance in &mut w.instances {
            let counts_later = self.variant == Variant::LeaseFromTheReply;
            instance
                .leases
                .retain(|lease| lease.outlasted_by & by == 0 || (counts_later && lease.on_its_way));
            let leases = instance.leases.iter_mut();
            leases.for_each(|lease| lease.outlasted_by &= !by);
        }
    }

    fn reads_terms(&self, w: &mut World, n: usize) {
        if self.leases {
            w.writers[n].waits_for = self.terms(w, n);
        }
    }

    /// Whose leases a write waits for that reads the terms now.
    fn terms(&self, w: &World, n: usize) -> u8 {
        let Some(link) = w.instances[usize::from(w.writers[n].at)].link else {
            return ALL;
        };
        if !link.trusted && self.variant != Variant::OldTermsAreTrusted {
            return ALL;
        }
        match w.store.data.terms {
            None if self.variant == Variant::LostTermsAreNone => 0,
            None => ALL,
            Some(terms) if terms.anew => ALL,
            Some(terms) => terms.of,
        }
    }

    fn goes_on(&self, w: &mut World, n: usize, event: Event) {
        let i = usize::from(w.writers[n].at);
        let away = w.instances[i].link.is_none();
        let writing = w.writers[n].writing.as_mut().expect("it is under way");
        let act = writing.next(event, &mut w.instances[i].book, away);
        if self.variant == Variant::ForwardedIsNotHeldLater
            && (event, act) == (Event::Noticed, Act::Forward)
        {
            let hold = HoldId(n as u64);
            w.instances[i].book.finished(hold, Outcome::Unchanged);
        }
        self.act(w, n, act);
    }

    fn act(&self, w: &mut World, n: usize, act: Act) {
        let linked = w.instances[usize::from(w.writers[n].at)].link.is_some();
        if act == Act::Lapse {
            let answers = w.writers[n].unheld;
            let waits = match self.variant {
                Variant::NobodyWaitsForLeases => false,
                Variant::AnsweredWhereTheHoldWasLost => !answers,
                _ => self.leases,
            };
            if !waits {
                return self.goes_on(w, n, Event::Lapsed);
            }
            let waits_for = w.writers[n].waits_for;
            mark(w, 1 << n, |i| waits_for & 1 << i != 0);
        }
        let writer = &mut w.writers[n];
        writer.stage = match act {
            Act::Tell(step) => WriterStage::Telling {
                step,
                ran: 0,
                failed: !linked,
            },
            Act::Notice => WriterStage::Noticing,
            Act::Lapse => WriterStage::Lapsing,
            Act::Forward => {
                writer.may_commit = true;
                writer.unheld = false;
                WriterStage::AtTheApi
            }
            Act::Answer { .. } => {
                if let (true, Some(version)) = (writer.succeeded, writer.committed) {
                    let user = writer.deed.user();
                    w.written[user] = w.written[user].max(version);
                }
                // Until now it was not answered.
                writer.lost &= writer.held;
                WriterStage::Over
            }
            Act::Refuse | Act::Unconfirmed => WriterStage::Over,
        };
        if w.writers[n].stage == WriterStage::Over {
            w.writers[n].writing = None;
            (w.writers[n].unheld, w.writers[n].waits_for) = (false, 0);
        }
    }

    /// An instance has no link any more. What is on its way by it may still run, unless the server is gone.
    fn unlink(&self, w: &mut World, i: usize, runs_late: bool) {
        let outage = w.faults.len() as u8;
        let instance = &mut w.instances[i];
        let linked = instance.link.take().is_some();
        // What was asked for by it is never heard; what was, may be taken for good until it is over.
        instance.leases.retain(|lease| !lease.on_its_way);
        mark(w, OUTAGE, |one| one == i);
        let instance = &mut w.instances[i];
        let mut late = vec![];
        if let Some(entering) = instance.entering.take() {
            let of = KEEPER + i as u8;
            late.extend(entering.left.into_iter().map(|(key, step)| Late {
                of,
                what: Command::Step(key, step),
            }));
        }
        if !linked {
            if runs_late {
                w.late.append(&mut late);
            }
            return;
        }
        instance.away = Some(Away {
            outage,
            long: false,
        });
        late.extend(puts(instance));
        for (n, writer) in w.writers.iter_mut().enumerate() {
            if usize::from(writer.at) == i
                && let WriterStage::Telling { step, ran, failed } = &mut writer.stage
                && !*failed
            {
                *failed = true;
                let left = writer.deed.states().into_iter().skip(usize::from(*ran));
                late.extend(left.map(|key| Late {
                    of: n as u8,
                    what: Command::Step(key, *step),
                }));
            }
        }
        for n in 0..w.readers.len() {
            let reader = &mut w.readers[n];
            if usize::from(reader.at) != i {
                continue;
            }
            // An epoch that nobody has seen being made is as good as one that is made by the next to ask for it: those
            // commands need not run late.
            if let ReaderStage::Opening { floor, .. } = &reader.stage {
                reader.stage = ReaderStage::Opened {
                    floor: *floor,
                    fence: Fence {
                        epochs: None,
                        absence: None,
                    },
                };
                self.leads_if_alone(w, n);
            }
        }
        if runs_late {
            w.late.append(&mut late);
        }
    }

    fn crash(&self, w: &mut World, i: usize) {
        let telling = |entering: &Entering| !entering.left.is_empty();
        let owes = !w.instances[i].book.owes_nothing()
            || w.instances[i].entering.as_deref().is_some_and(telling);
        self.unlink(w, i, true);
        w.faults.push(Fault::Crash);
        let instance = &mut w.instances[i];
        *instance = Instance {
            alive: false,
            reach: instance.reach,
            book: Book::default(),
            link: None,
            away: None,
            entering: None,
            last_who: None,
            untrusted: false,
            flights: vec![],
            cut_alone: false,
            ahead: false,
            memory: [const { None }; 3],
            leases: vec![],
        };
        for writer in w.writers.iter_mut().filter(|one| usize::from(one.at) == i) {
            writer.untold = owes && self.without_store == WithoutStore::Forward;
            match writer.stage {
                WriterStage::Idle | WriterStage::Over => {}
                _ => {
                    writer.stage = WriterStage::Dead;
                    writer.writing = None;
                }
            }
        }
        lose_holds(w, |writer| writer.stage == WriterStage::Dead);
        for reader in w.readers.iter_mut().filter(|one| usize::from(one.at) == i) {
            if reader.stage != ReaderStage::Idle {
                reader.stage = ReaderStage::Over;
            }
        }
    }

    fn enter(&self, w: &mut World, i: usize, absence: Absence) {
        let (who, now) = (w.store.who.to_string(), w.now());
        let fresh = w.fresh_life();
        let instance = &mut w.instances[i];
        let last = instance
            .last_who
            .replace(w.store.who)
            .map(|last| last.to_string());
        let how = How::connected(last.as_deref().map(Some), Some(&who));
        let record = life::enter(w.store.data.record.take(), &who, fresh, how, NOTICE, now);
        let left = record.trusted.saturating_sub(now.as_millis());
        let away = match absence {
            Absence::Brief => NOTICE / 10,
            Absence::Longer => NOTICE,
        };
        // The rest of the last link's wait passes only as it does there: once the others have paid.
        let rest = match instance.untrusted && self.variant != Variant::WaitIsForgotten {
            true => NOTICE,
            false => std::time::Duration::ZERO,
        };
        let left = std::time::Duration::from_millis(left);
        let wait = life::untrusted_for(left, how, away, rest);
        let waits = match self.variant {
            Variant::NoNoticeTime => false,
            Variant::FirstWaitsForNobody => how != How::First && !wait.is_zero(),
            _ => !wait.is_zero(),
        };
        let link = Link {
            life: record.life,
            trusted: !waits,
        };
        w.store.data.record = Some(record);
        let since = |one: &Instance| one.away.map(|away| away.outage);
        let mine = since(&w.instances[i]);
        let behind = |one: &Instance| one.alive && one.link.is_none() && since(one) < mine;
        w.instances[i].ahead = self.without_store == WithoutStore::Forward
            && link.trusted
            && !w.instances[i].untrusted
            && w.instances.iter().any(behind);
        self.copy_the_journal(w, i, link);
    }

    fn copy_the_journal(&self, w: &mut World, i: usize, link: Link) {
        let now = w.instant();
        let owed = w.instances[i].book.owed(now);
        let registered = FAMILIES.map(Family::key);
        let steps = owed.steps(HOLD, &registered).into_iter().flatten();
        let steps = steps.filter(|(_, step)| {
            self.variant != Variant::HoldsNotPutBack || !matches!(step, AtStore::Begin { .. })
        });
        let left = steps.flat_map(|(keys, step)| keys.into_iter().map(move |key| (key, step)));
        let entering = Entering {
            link,
            left: left.collect(),
            owed,
        };
        let nothing = entering.left.is_empty();
        w.instances[i].entering = Some(Box::new(entering));
        // Nothing lies between: a link that is published later might as well have been made later.
        if nothing {
            self.publish(w, i);
        }
    }

    /// The weaker book: as if all that is owed had been told just now.
    fn forget_what_was_told(&self, w: &mut World, i: usize) {
        let mut own = w.writers.iter().filter(|one| usize::from(one.at) == i);
        let writes = own.any(|one| !matches!(one.stage, WriterStage::Idle | WriterStage::Over));
        if self.variant == Variant::PaidWithTheLast && !writes {
            let now = w.instant();
            w.instances[i].book.owed(now);
        }
    }

    fn publish(&self, w: &mut World, i: usize) {
        self.forget_what_was_told(w, i);
        let instance = &mut w.instances[i];
        let entering = instance.entering.take().expect("it is entering");
        instance.book.paid(&entering.owed);
        if !instance.book.owes_nothing() {
            return self.copy_the_journal(w, i, entering.link);
        }
        instance.untrusted = !entering.link.trusted;
        instance.link = Some(entering.link);
        instance.away = None;
        // Another link: nothing that was leased by the last one counts by it.
        instance.leases.clear();
        if instance.cut_alone {
            mark(w, BACK, |one| one != i);
        }
    }
}

const ALL: u8 = 0xff;

/// What begins now, and outlasts every lease that these instances have asked for.
fn mark(w: &mut World, by: u8, of: impl Fn(usize) -> bool) {
    for (i, instance) in w.instances.iter_mut().enumerate() {
        if of(i) {
            instance
                .leases
                .iter_mut()
                .for_each(|lease| lease.outlasted_by |= by);
        }
    }
}

/// Who was cut off alone is back for all once nobody shows from memory what it has not told.
fn all_may_be_back(w: &mut World) {
    let mut leases = w.instances.iter().flat_map(|one| &one.leases);
    if !leases.any(|lease| lease.outlasted_by & BACK != 0) {
        let linked = w.instances.iter_mut().filter(|one| one.link.is_some());
        linked.for_each(|one| one.cut_alone = false);
    }
}

/// Whose hold is gone while its write is in flight. A living instance puts back what a restart of the store has lost.
fn lose_holds(w: &mut World, cannot_put_back: impl Fn(&Writer) -> bool) {
    for (n, writer) in w.writers.iter_mut().enumerate() {
        let in_flight = writer.writing.is_some() || writer.may_commit;
        if !in_flight || !cannot_put_back(writer) {
            continue;
        }
        for family in FAMILIES {
            let mut holds = w.store.data.states[family as usize].holds();
            if !holds.any(|id| id == HoldId(n as u64) || id == HoldId::AMBIGUOUS) {
                writer.lost |= writer.held & family.bit();
            }
        }
    }
}

/// Readers that are alike start in their order.
fn first_of_its_kind(w: &World, n: usize) -> bool {
    let mine = &w.readers[n];
    mine.stage != ReaderStage::Idle || !w.readers[..n].contains(mine)
}

/// Whether the API would do it.
fn can_commit(w: &World, n: usize) -> bool {
    let deed = w.writers[n].deed;
    w.writers[n].may_commit && is_there(w.api[deed.user()]) == (deed != Deed::Create)
}

fn first_to_ask(seen: &[(StateKey, Seen)], from: u8) -> u8 {
    let rest = seen.iter().skip(usize::from(from));
    let asked = rest.take_while(|(_, seen)| matches!(seen, Seen::Current(_)));
    from + asked.count() as u8
}

fn others_are_linked(w: &World, i: usize) -> bool {
    let mut others = w.instances.iter().enumerate().filter(|(n, _)| *n != i);
    others.all(|(_, other)| !other.alive || !other.reach || other.link.is_some())
}

/// Who sent what runs late: writers by their number, and these.
const KEEPER: u8 = 100;
const FETCH: u8 = 200;

/// Answers that were being stored.
fn puts(instance: &Instance) -> Vec<Late> {
    let put = |flight: &Flight| {
        let what = flight.answer.filter(|what| !what.is_404())?;
        let epochs: Epochs = flight.fence.epochs.clone()?;
        Some(Late {
            of: FETCH + flight.leader,
            what: Command::Put(Box::new(Copy { what, epochs })),
        })
    };
    instance.flights.iter().filter_map(put).collect()
}

impl Step {
    /// In words, given the world before it.
    pub fn words(self, w: &World) -> String {
        let reader = |n: usize| {
            let reader = &w.readers[n];
            let letter = (b'a' + reader.at) as char;
            format!("reader {} of {} at {letter}", n + 1, reader.family.words())
        };
        let writer = |n: usize| {
            let letter = (b'a' + w.writers[n].at) as char;
            format!(
                "writer {} ({}) at {letter}",
                n + 1,
                w.writers[n].deed.words()
            )
        };
        let flight = |i: usize, n: usize| {
            let leader = usize::from(w.instances[i].flights[n].leader);
            format!("the fetch of {}", reader(leader))
        };
        let instance = |i: usize| (b'a' + i as u8) as char;
        match self {
            Step::Start(n) => format!("{} looks up", reader(n)),
            Step::StartUnleased(n) => format!("{} looks up, as its lease has ended", reader(n)),
            Step::StartAhead(n) => {
                format!("{} looks up, and a lease is asked for ahead", reader(n))
            }
            Step::Make(n) => format!("{} makes an epoch", reader(n)),
            Step::Join(n) => format!("{} leads or follows", reader(n)),
            Step::Leave(i, n) => format!("{} looks again, leaves", flight(i, n)),
            Step::LeaveUnseeing(i, n) => format!("{} leaves", flight(i, n)),
            Step::Answers(i, n) => format!("{} is answered: {:?}", flight(i, n), w.api),
            Step::Land(i, n) => format!("{} is stored if it may be, and shown", flight(i, n)),
            Step::Begin(n) => format!("{} begins", writer(n)),
            Step::Run(n) => format!("{}: {}", writer(n), Stage(&w.writers[n].stage)),
            Step::Told(n) => format!("{} hears of it: {}", writer(n), Stage(&w.writers[n].stage)),
            Step::Noticed(n) => format!("{} has waited", writer(n)),
            Step::Lapsed(n) => format!("{} has waited for all leases", writer(n)),
            Step::Hear(i, n) => {
                let family = w.instances[i].leases[n].family.words();
                format!("{} hears of {family}: a lease", instance(i))
            }
            Step::Ends(i, n) => {
                let family = w.instances[i].leases[n].family.words();
                format!("{}'s lease of {family} ends", instance(i))
            }
            Step::Name(i) => format!("{} names its term", instance(i)),
            Step::Sweep => "what was lost of terms is over".to_owned(),
            Step::ForgetTerms => "the terms are lost".to_owned(),
            Step::Commit(n) => format!("{} is committed", writer(n)),
            Step::Succeeds(n) => format!("{} is answered by the API", writer(n)),
            Step::Fails(n, fault) => format!("{}: {}", writer(n), fault.words()),
            Step::Snapshot => "the store is copied".to_owned(),
            Step::Late(n) => format!("a late command runs: {:?}", w.late[n]),
            Step::Crash(i) => format!("{} crashes", instance(i)),
            Step::Comes(i) => format!("{} is started again", instance(i)),
            Step::Lose(i) => format!("{} loses its link", instance(i)),
            Step::Cut(i) => format!("{} is cut off", instance(i)),
            Step::CutAll => "all are cut off".to_owned(),
            Step::Heal => "the network is whole again".to_owned(),
            Step::Stop(fault) => fault.words().to_owned(),
            Step::Back => "the store is there again".to_owned(),
            Step::Forget(k) => format!("the state of {} is lost", FAMILIES[k].words()),
            Step::Flush => "the store is flushed".to_owned(),
            Step::Long(i) => format!("{} has been away for the notice time", instance(i)),
            Step::Enter(i, absence) => format!("{} connects: {absence:?}", instance(i)),
            Step::Replay(i) => format!("{} replays one step of its journal", instance(i)),
            Step::Publish(i) => format!("{} has a link, if nothing is owed", instance(i)),
            Step::Trust(i) => format!("{} trusts what it finds", instance(i)),
            Step::Tick => "time: holds run out".to_owned(),
        }
    }
}

struct Stage<'a>(&'a WriterStage);

impl fmt::Display for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WriterStage::Telling { step, ran, failed } => {
                let what = match step {
                    AtStore::Begin { .. } => "hold",
                    AtStore::Finish { outcome, .. } => match outcome {
                        Outcome::Changed => "changed",
                        Outcome::Unchanged => "unchanged",
                        Outcome::Ambiguous => "ambiguous",
                    },
                    AtStore::Renew { .. } => "changed, renewed",
                    AtStore::Open { .. } | AtStore::Purge | AtStore::Outdate => "purge",
                };
                let how = if *failed { "unconfirmed" } else { "told" };
                write!(f, "{what}, {ran} states {how} so far")
            }
            other => write!(f, "{other:?}"),
        }
    }
}
