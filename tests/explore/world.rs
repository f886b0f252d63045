//! One moment of a small world: a store, two instances, an API, writers and readers. A value that is cloned, stepped
//! and hashed; all that decides in it is `larder::coherence`'s own.

use std::hash::{Hash, Hasher};
use std::sync::LazyLock;
use std::time::Duration;

use larder::clock::Timestamp;
use larder::coherence::flights::{Fence, Share};
use larder::coherence::journal::Book;
use larder::coherence::life::Record;
use larder::coherence::protocol::{self, Incarnation, State};
use larder::coherence::{Epoch, Epochs, Seen, StateKey, Writing};

pub const INSTANCES: usize = 2;

/// How long a hold lasts. Time goes in strides of twice that: see `steps::tick`.
pub const HOLD: Duration = Duration::from_secs(500);
const STRIDE: u64 = 1000;

static BASE: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);

/// The states of the shipped file, but for the one that all users share, which is treated as a user's own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    List,
    One,
    Two,
}

pub const FAMILIES: [Family; 3] = [Family::List, Family::One, Family::Two];

static KEYS: LazyLock<[StateKey; 3]> = LazyLock::new(|| ["L", "1", "2"].map(StateKey::new));

impl Family {
    pub fn key(self) -> StateKey {
        KEYS[self as usize].clone()
    }

    pub fn of(key: &StateKey) -> Family {
        match key.as_str() {
            "L" => Family::List,
            "1" => Family::One,
            _ => Family::Two,
        }
    }

    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The states under which an absence may be shared: `proxy::plan::absence_states` for the shipped file.
    pub fn absence(self) -> Vec<StateKey> {
        match self {
            Family::List => vec![],
            Family::One | Family::Two => vec![Family::List.key()],
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Family::List => "the list",
            Family::One => "user 1",
            Family::Two => "user 2",
        }
    }
}

/// A version of each user; odd ones are there, even ones are not: 0 before its creation, 2 after a deletion. What is
/// changed goes from 1 to 3.
pub type Versions = [u8; 2];

pub fn is_there(version: u8) -> bool {
    version % 2 == 1
}

/// What a read is shown: of the list both users, else one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shown {
    pub family: Family,
    pub users: Versions,
}

impl Shown {
    pub fn of(family: Family, users: Versions) -> Shown {
        let users = match family {
            Family::List => users,
            Family::One => [users[0], 0],
            Family::Two => [0, users[1]],
        };
        Shown { family, users }
    }

    pub fn shows(&self, user: usize) -> bool {
        match self.family {
            Family::List => true,
            Family::One => user == 0,
            Family::Two => user == 1,
        }
    }

    /// 404: never stored, and shared only with whom it may be.
    pub fn is_404(&self) -> bool {
        match self.family {
            Family::List => false,
            Family::One => !is_there(self.users[0]),
            Family::Two => !is_there(self.users[1]),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy {
    pub what: Shown,
    pub epochs: Epochs,
}

/// What a store keeps, and a snapshot of it has kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Data {
    pub states: [State; 3],
    pub copies: [Option<Box<Copy>>; 3],
    pub record: Option<Record>,
    /// Whose terms stand there. Nothing at all stands only where they were lost, or nobody has leases.
    pub terms: Option<Terms>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    pub of: u8,
    /// They began anew, and whoever has had a lease before may have it still.
    pub anew: bool,
}

/// What an instance was told of a state, and takes for good until it ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    pub family: Family,
    pub epochs: Epochs,
    /// The store has answered, and the instance has not heard of it.
    pub on_its_way: bool,
    /// What has begun since it was asked for, and lasts for at least its term: waits of writers, and these.
    pub outlasted_by: u8,
}

impl Lease {
    pub fn is_heard_of(&self, family: Family) -> bool {
        self.family == family && !self.on_its_way
    }
}

/// The age of terms that began anew; an outage; the link of one that was cut off.
pub const ANEW: u8 = 1 << 7;
pub const OUTAGE: u8 = 1 << 6;
pub const BACK: u8 = 1 << 5;

impl Data {
    fn may_be_valid(&self, copy: &Copy) -> bool {
        let epoch = self.states[copy.what.family as usize].epoch();
        copy.epochs.iter().all(|(_, own)| epoch == Some(*own))
    }

    fn forget(&mut self) {
        for n in 0..self.copies.len() {
            if self.copies[n]
                .as_deref()
                .is_some_and(|copy| !self.may_be_valid(copy))
            {
                self.copies[n] = None;
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Store {
    pub data: Data,
    pub snapshot: Option<Box<Data>>,
    /// Which server: another after each restart and failover.
    pub who: u8,
    pub up: bool,
}

/// A command that has left for the store and whose sender has given up: it runs at any time from now on, or never.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Late {
    pub of: u8,
    pub what: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    Step(StateKey, protocol::Step),
    Put(Box<Copy>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    pub life: Incarnation,
    pub trusted: bool,
}

/// Without a link since an outage, which may have lasted for the notice time by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Away {
    /// Their order in time.
    pub outage: u8,
    pub long: bool,
}

/// A link that is being made: what is still to be told by it before it is published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entering {
    pub link: Link,
    pub owed: larder::coherence::journal::Owed,
    pub left: Vec<(StateKey, protocol::Step)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flight {
    /// The reader whose request it is.
    pub leader: u8,
    pub family: Family,
    pub fence: Fence,
    pub left: bool,
    /// What the API has read for it, on its way back.
    pub answer: Option<Shown>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    pub alive: bool,
    pub reach: bool,
    pub book: Book,
    pub link: Option<Link>,
    pub away: Option<Away>,
    pub entering: Option<Box<Entering>>,
    pub last_who: Option<u8>,
    /// Its last link was not trusted yet.
    pub untrusted: bool,
    pub flights: Vec<Flight>,
    /// Cut off alone, and not back since.
    pub cut_alone: bool,
    /// Back from a short absence, and trusting, before another that has been away since an earlier outage.
    pub ahead: bool,
    /// Copies in its own memory, and what it knows of their states.
    pub memory: [Option<Box<Copy>>; 3],
    pub leases: Vec<Lease>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    Change,
    Delete,
    Create,
}

impl Deed {
    pub fn user(self) -> usize {
        match self {
            Deed::Change | Deed::Delete => 0,
            Deed::Create => 1,
        }
    }

    /// What the shipped file's rules drop.
    pub fn states(self) -> Vec<StateKey> {
        match self {
            Deed::Change | Deed::Delete => vec![Family::List.key(), Family::One.key()],
            Deed::Create => vec![Family::List.key()],
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Deed::Change => "changes user 1",
            Deed::Delete => "deletes user 1",
            Deed::Create => "creates user 2",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    pub deed: Deed,
    pub at: u8,
    pub stage: WriterStage,
    /// Its machine, while it lives.
    pub writing: Option<Writing>,
    pub committed: Option<u8>,
    /// Its request is, or may still be, at the API.
    pub may_commit: bool,
    pub succeeded: bool,
    /// Where its hold was put, by family, and where the store has lost it while it was in flight.
    pub held: u8,
    pub lost: u8,
    /// Its instance crashed while it owed the store what it drops.
    pub untold: bool,
    /// Its finish has not found its hold.
    pub unheld: bool,
    /// The instances whose leases it waits for.
    pub waits_for: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WriterStage {
    Idle,
    /// `ran`: so many of its states have been told.
    Telling {
        step: protocol::Step,
        ran: u8,
        failed: bool,
    },
    Noticing,
    /// It waits for the longest lease.
    Lapsing,
    AtTheApi,
    Over,
    Dead,
}

/// What a read must show at least, as was known when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Floor {
    pub written: Versions,
    pub shown: Versions,
    pub holes: Holes,
}

/// What was open when a read started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Holes {
    /// Writers whose very hold on what is read the store has lost.
    pub lost: u8,
    /// Instances that are cut off alone.
    pub cut_alone: u8,
    /// Instances without a link, for who is ahead of them.
    pub away: u8,
}

/// What is not promised, in the words of README's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hole {
    HoldLost,
    CutAlone,
    ReachedFirst,
    CrashedUntold,
}

impl Hole {
    pub fn words(self) -> &'static str {
        match self {
            Hole::HoldLost => "the moments of a write whose hold the store loses",
            Hole::CutAlone => {
                "what this instance writes while it is cut off from a store that another still reaches"
            }
            Hole::ReachedFirst => "or reaches again first (until this one is back",
            Hole::CrashedUntold => "what it has written so and not yet told when it crashes",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reader {
    pub family: Family,
    pub at: u8,
    pub stage: ReaderStage,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReaderStage {
    Idle,
    /// Epochs are being made, where there were none; `at` is the next to be asked for.
    Opening {
        floor: Floor,
        seen: Vec<(StateKey, Seen)>,
        next: u8,
        life: Incarnation,
    },
    Opened {
        floor: Floor,
        fence: Fence,
    },
    Waiting {
        floor: Floor,
        leader: u8,
        share: Option<Share>,
    },
    /// What came was not for it: it asks anew.
    Anew {
        floor: Floor,
    },
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub store: Store,
    pub late: Vec<Late>,
    pub instances: [Instance; INSTANCES],
    pub writers: Vec<Writer>,
    pub readers: Vec<Reader>,
    pub api: Versions,
    /// By answered writes, by answered reads.
    pub written: Versions,
    pub shown: Versions,
    /// In strides.
    pub clock: u8,
    pub faults: Vec<Fault>,
}

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    Crash,
    LinkLost,
    CutOne,
    CutAll,
    RestartEmpty,
    RestartOlder,
    StateLost,
    Flush,
    TermsLost,
    /// 5xx after the commit.
    Error,
    /// No answer, or 502 to 504: before, after or without a commit.
    Broken,
}

impl Fault {
    pub fn words(self) -> &'static str {
        match self {
            Fault::Crash => "an instance crashes",
            Fault::LinkLost => "an instance loses its link",
            Fault::CutOne => "an instance is cut off alone",
            Fault::CutAll => "all are cut off",
            Fault::RestartEmpty => "the store restarts empty",
            Fault::RestartOlder => "the store goes back to a snapshot or an older replica",
            Fault::StateLost => "a state key is lost",
            Fault::Flush => "the store is flushed",
            Fault::TermsLost => "the terms of leases are lost",
            Fault::Error => "500 after the commit",
            Fault::Broken => "no answer from the API",
        }
    }
}

impl World {
    /// All is well, nothing is stored yet; both instances are linked and trust the store.
    pub fn new(writers: &[(Deed, u8)], readers: &[(Family, u8)]) -> World {
        let life = Incarnation(1);
        let instance = Instance {
            alive: true,
            reach: true,
            book: Book::default(),
            link: Some(Link {
                life,
                trusted: true,
            }),
            away: None,
            entering: None,
            last_who: Some(1),
            untrusted: false,
            flights: vec![],
            cut_alone: false,
            ahead: false,
            memory: [const { None }; 3],
            leases: vec![],
        };
        let data = Data {
            record: Some(Record {
                who: "1".to_owned(),
                life,
                trusted: 0,
            }),
            ..Data::default()
        };
        World {
            store: Store {
                data,
                snapshot: None,
                who: 1,
                up: true,
            },
            late: vec![],
            instances: [instance.clone(), instance],
            writers: writers
                .iter()
                .map(|&(deed, at)| Writer {
                    deed,
                    at,
                    stage: WriterStage::Idle,
                    writing: None,
                    committed: None,
                    may_commit: false,
                    succeeded: false,
                    held: 0,
                    lost: 0,
                    untold: false,
                    unheld: false,
                    waits_for: 0,
                })
                .collect(),
            readers: readers
                .iter()
                .map(|&(family, at)| Reader {
                    family,
                    at,
                    stage: ReaderStage::Idle,
                })
                .collect(),
            api: [1, 0],
            written: [0, 0],
            shown: [0, 0],
            clock: 0,
            faults: vec![],
        }
    }

    /// The second instance has not been started yet.
    pub fn without_the_second(mut self) -> World {
        let second = &mut self.instances[1];
        (second.alive, second.link, second.last_who) = (false, None, None);
        self
    }

    /// Both instances keep copies in memory, and have leases.
    pub fn leasing(mut self) -> World {
        let alive = |(n, one): (usize, &Instance)| u8::from(one.alive) << n;
        let of = self.instances.iter().enumerate().map(alive).sum();
        self.store.data.terms = Some(Terms { of, anew: false });
        self
    }

    /// With a copy of each family that is there, under epochs that are current.
    pub fn filled(mut self) -> World {
        for (n, family) in FAMILIES.into_iter().enumerate() {
            let epoch = self.fresh_epoch(Incarnation(1));
            let step = protocol::Step::Open {
                incarnation: Incarnation(1),
                fresh: epoch,
            };
            let now = self.now();
            let Seen::Current(epoch) = self.store.data.states[n].apply(step, now).seen else {
                unreachable!("nobody writes");
            };
            let what = Shown::of(family, self.api);
            if !what.is_404() {
                let epochs = [(family.key(), epoch)].into_iter().collect();
                self.store.data.copies[n] = Some(Box::new(Copy { what, epochs }));
            }
        }
        self
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(u64::from(self.clock) * STRIDE * 1_000_000)
    }

    /// The same for a book.
    pub fn instant(&self) -> tokio::time::Instant {
        *BASE + Duration::from_secs(u64::from(self.clock) * STRIDE)
    }

    fn in_use(&self) -> Vec<Epoch> {
        let mut all = Vec::with_capacity(16);
        for data in [Some(&self.store.data), self.store.snapshot.as_deref()]
            .into_iter()
            .flatten()
        {
            all.extend(data.states.iter().filter_map(State::epoch));
            for copy in data.copies.iter().flatten() {
                all.extend(copy.epochs.iter().map(|(_, epoch)| *epoch));
            }
        }
        for instance in &self.instances {
            let memory = instance.memory.iter().flatten().map(|copy| &copy.epochs);
            let leases = instance.leases.iter().map(|lease| &lease.epochs);
            for epochs in memory.chain(leases) {
                all.extend(epochs.iter().map(|(_, epoch)| *epoch));
            }
        }
        let mut add = |epochs: &Option<Epochs>| {
            all.extend(epochs.iter().flatten().map(|(_, epoch)| *epoch));
        };
        for instance in &self.instances {
            for flight in &instance.flights {
                add(&flight.fence.epochs);
                add(&flight.fence.absence);
            }
        }
        for reader in &self.readers {
            if let ReaderStage::Opened { fence, .. } = &reader.stage {
                add(&fence.epochs);
                add(&fence.absence);
            }
        }
        for reader in &self.readers {
            if let ReaderStage::Opening { seen, .. } = &reader.stage {
                all.extend(seen.iter().filter_map(|(_, seen)| match seen {
                    Seen::Current(epoch) => Some(*epoch),
                    _ => None,
                }));
            }
        }
        for late in &self.late {
            if let Command::Put(copy) = &late.what {
                all.extend(copy.epochs.iter().map(|(_, epoch)| *epoch));
            }
        }
        all
    }

    /// Random bits, as good as never used before: the least that nothing in this world bears any more. So worlds
    /// that differ only in what was forgotten are one.
    pub fn fresh_epoch(&self, life: Incarnation) -> u32 {
        let in_use = self.in_use();
        (0..)
            .find(|fresh| !in_use.contains(&Epoch::new(self.now(), life, *fresh)))
            .expect("there are some")
    }

    pub fn fresh_life(&self) -> Incarnation {
        let mut lives: Vec<Incarnation> =
            self.in_use().into_iter().map(Epoch::incarnation).collect();
        let snapshot = self.store.snapshot.as_deref();
        for data in [Some(&self.store.data), snapshot].into_iter().flatten() {
            lives.extend(data.record.as_ref().map(|record| record.life));
        }
        for instance in &self.instances {
            lives.extend(instance.link.map(|link| link.life));
            lives.extend(
                instance
                    .entering
                    .as_ref()
                    .map(|entering| entering.link.life),
            );
        }
        lives.extend(self.readers.iter().filter_map(|reader| match reader.stage {
            ReaderStage::Opening { life, .. } => Some(life),
            _ => None,
        }));
        (1..)
            .map(Incarnation)
            .find(|life| !lives.contains(life))
            .expect("there are some")
    }

    /// Forgets what can matter no more, so that more worlds are one.
    /// With `epochs`, copies under an epoch that is gone from its state: a state never gets back an epoch that it no longer
    /// bears, and what is not valid is as good as absent.
    pub fn normalise(&mut self, epochs: bool) {
        if epochs {
            self.store.data.forget();
            if let Some(snapshot) = &mut self.store.snapshot {
                snapshot.forget();
            }
            let data = &self.store.data;
            for instance in &mut self.instances {
                let leases = &instance.leases;
                for copy in &mut instance.memory {
                    let is_leased =
                        |copy: &Copy| leases.iter().any(|one| one.epochs == copy.epochs);
                    if copy
                        .as_deref()
                        .is_some_and(|it| !data.may_be_valid(it) && !is_leased(it))
                    {
                        *copy = None;
                    }
                }
            }
            self.late.retain(|late| match &late.what {
                Command::Put(copy) => data.may_be_valid(copy),
                Command::Step(..) => true,
            });
        }
        self.faults.sort();
        // Of what nobody will look up any more nothing need be known.
        for (i, instance) in self.instances.iter_mut().enumerate() {
            let wants = |reader: &Reader| {
                let will = !matches!(
                    reader.stage,
                    ReaderStage::Waiting { .. } | ReaderStage::Over
                );
                usize::from(reader.at) == i && will
            };
            let leaves = |family: Family| {
                let mut flights = instance.flights.iter();
                flights.any(|flight| flight.family == family && !flight.left)
            };
            let wanted = FAMILIES.map(|family| {
                let mut readers = self.readers.iter();
                leaves(family) || readers.any(|reader| reader.family == family && wants(reader))
            });
            instance
                .leases
                .retain(|lease| wanted[lease.family as usize]);
            for (copy, wanted) in instance.memory.iter_mut().zip(wanted) {
                copy.take_if(|_| !wanted);
            }
            instance
                .leases
                .sort_by_key(|lease| (lease.family as u8, lease.on_its_way, lease.outlasted_by));
        }
        self.late.sort_by_key(|late| late.of);
    }

    pub fn is_over(&self) -> bool {
        self.readers
            .iter()
            .all(|reader| reader.stage == ReaderStage::Over)
    }

    /// Its 128 bits: two worlds that share them are taken for one.
    pub fn digest(&self, buffer: &mut Vec<u8>) -> u128 {
        struct Bytes<'a>(&'a mut Vec<u8>);
        impl Hasher for Bytes<'_> {
            fn write(&mut self, bytes: &[u8]) {
                self.0.extend_from_slice(bytes);
            }

            fn finish(&self) -> u64 {
                unreachable!("the bytes are hashed as one")
            }
        }
        buffer.clear();
        self.hash(&mut Bytes(buffer));
        xxhash_rust::xxh3::xxh3_128(buffer)
    }
}
