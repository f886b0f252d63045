//! A run: readers and writers that ask something at random and write down what came of it, until they are told to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::record::{Act, History, Id, Moment, Operation, Outcome, Target};
use super::support::{PATIENCE, eventually, within};
use super::users::{Dice, ROLES, USERS};

/// What answers: a few instances of something in front of the users.
pub trait Front: Sync {
    fn instances(&self) -> usize;
    /// What one thread asks through.
    fn client(&self) -> Box<dyn Client + '_>;
}

pub trait Client {
    fn ask(&mut self, asking: &Asking) -> Answered;
}

#[derive(Debug, Clone, Copy)]
pub struct Asking {
    pub act: Act,
    pub instance: usize,
    pub credential: usize,
    /// Sent, and after so long nobody waits for the answer.
    pub leaves_after: Option<Duration>,
}

pub struct Answered {
    /// When the head of the answer was there.
    pub told: Instant,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub lasting: Duration,
    pub readers: usize,
    pub writers: usize,
    /// The longest rest between two operations.
    pub reader_rests: Duration,
    pub writer_rests: Duration,
    /// A writer rests at least until there have been so many reads, however slow the machine.
    pub writer_rests_for: usize,
    pub credentials: usize,
    /// Of all writes, only changes of these first users.
    pub only_first: Option<u64>,
    /// Of ten writes, so many create and delete.
    pub coming_and_going: u64,
    /// Of ten reads, so many are of users just created, just deleted, or about to be created.
    pub around_the_newest: u64,
    /// One in so many writers vanishes after sending.
    pub leaves: u64,
    /// One in so many writes changes everybody.
    pub change_all: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: 1,
            lasting: Duration::from_millis(2500),
            readers: 6,
            writers: 3,
            reader_rests: Duration::from_millis(4),
            writer_rests: Duration::from_millis(120),
            writer_rests_for: 24,
            credentials: 2,
            only_first: None,
            coming_and_going: 5,
            around_the_newest: 1,
            leaves: 0,
            change_all: 12,
        }
    }
}

/// Where a run stands, for whoever disturbs it.
pub struct Stage {
    start: Instant,
    lasting: Duration,
    stopping: AtomicBool,
    /// Every write holds it to read; who wants none in flight holds it to write.
    calm: RwLock<()>,
    /// Reads that came back in whatever way.
    asked: AtomicUsize,
    pub reads: AtomicUsize,
    pub hits: AtomicUsize,
    /// Writes that came back in whatever way.
    pub writes: AtomicUsize,
    pub written: AtomicUsize,
    /// Created, confirmed, and not yet being deleted.
    created: Mutex<Vec<Id>>,
    /// The highest that has been seen; the next to be created is above it.
    highest: AtomicU64,
}

impl Stage {
    fn new(lasting: Duration) -> Stage {
        Stage {
            start: Instant::now(),
            lasting,
            stopping: AtomicBool::new(false),
            calm: RwLock::default(),
            asked: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            hits: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            created: Mutex::default(),
            highest: AtomicU64::new(USERS),
        }
    }

    pub fn is_over(&self) -> bool {
        self.start.elapsed() >= self.lasting
    }

    fn has_seen_enough(&self) -> bool {
        [(&self.reads, 100), (&self.hits, 20), (&self.written, 10)]
            .iter()
            .all(|(count, enough)| count.load(Ordering::Relaxed) >= *enough)
    }

    pub fn now(&self) -> Moment {
        self.start.elapsed().as_nanos() as Moment
    }

    /// Lets so much of the run pass.
    pub fn pass(&self, time: Duration) {
        thread::sleep(time);
    }

    /// While it is kept, no write is in flight and none begins.
    pub fn without_writes(&self) -> RwLockWriteGuard<'_, ()> {
        self.calm.write().unwrap()
    }

    /// Waits until the count has grown by so many.
    pub fn grows(&self, what: &str, count: &AtomicUsize, by: usize) {
        let goal = count.load(Ordering::Relaxed) + by;
        eventually(what, || count.load(Ordering::Relaxed) >= goal);
    }

    pub fn sees_hits(&self) {
        self.grows("there are hits", &self.hits, 20);
    }

    /// The store may have come back with the hold of a write that had ended elsewhere, of all users even: what it holds
    /// is not kept until the hold's minute is over.
    pub fn sees_hits_after_old_holds(&self) {
        let goal = self.hits.load(Ordering::Relaxed) + 20;
        within(Duration::from_secs(90), "there are hits", || {
            self.hits.load(Ordering::Relaxed) >= goal
        });
    }

    pub fn sees_reads(&self) {
        self.grows("there are reads", &self.reads, 30);
    }

    pub fn sees_writes(&self) {
        self.grows("writes come back", &self.writes, 5);
    }

    pub fn sees_written(&self) {
        self.grows("writes are confirmed", &self.written, 5);
    }
}

/// Everybody reads and writes while `disturb` does what it does, and at least as long as planned.
pub fn run(front: &dyn Front, plan: &Plan, disturb: impl FnOnce(&Stage)) -> History {
    let stage = Stage::new(plan.lasting);
    let operations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..plan.readers + plan.writers {
            let (stage, operations) = (&stage, &operations);
            scope.spawn(move || {
                let mut person = Person {
                    front,
                    plan,
                    stage,
                    number,
                    dice: Dice::new(plan.seed, number as u64),
                };
                let done = match number < plan.readers {
                    true => person.reads(),
                    false => person.writes(),
                };
                operations.lock().unwrap().extend(done);
            });
        }
        // A failed condition must not leave the others running.
        let stopper = Stopper(&stage);
        disturb(&stage);
        while !stage.is_over() {
            thread::sleep(Duration::from_millis(5));
        }
        // A run in which nothing happened proves nothing, however busy the machine.
        eventually("enough has happened", || stage.has_seen_enough());
        drop(stopper);
    });
    History {
        operations: operations.into_inner().unwrap(),
    }
}

struct Stopper<'a>(&'a Stage);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.stopping.store(true, Ordering::SeqCst);
    }
}

struct Person<'a> {
    front: &'a dyn Front,
    plan: &'a Plan,
    stage: &'a Stage,
    number: usize,
    dice: Dice,
}

impl Person<'_> {
    fn reads(&mut self) -> Vec<Operation> {
        let mut client = self.front.client();
        let mut done = Vec::new();
        while !self.stage.stopping.load(Ordering::SeqCst) {
            let act = Act::Read(self.target());
            let operation = self.does(&mut *client, act, None);
            self.stage.asked.fetch_add(1, Ordering::Relaxed);
            if let Outcome::Shown(shown) = &operation.outcome {
                self.stage.reads.fetch_add(1, Ordering::Relaxed);
                self.stage
                    .hits
                    .fetch_add(usize::from(shown.hit), Ordering::Relaxed);
            }
            done.push(operation);
            thread::sleep(self.dice.pause(self.plan.reader_rests));
        }
        done
    }

    fn target(&mut self) -> Target {
        if self.dice.roll(10) < self.plan.around_the_newest {
            let highest = self.stage.highest.load(Ordering::Relaxed);
            return Target::User((highest + 2).saturating_sub(self.dice.roll(5)).max(1));
        }
        match self.dice.roll(9) {
            0 | 1 => Target::List,
            2 | 3 => Target::Role(self.dice.roll(ROLES)),
            _ => Target::User(1 + self.dice.roll(self.plan.only_first.unwrap_or(USERS))),
        }
    }

    fn writes(&mut self) -> Vec<Operation> {
        let mut client = self.front.client();
        let mut done = Vec::new();
        while !self.stage.stopping.load(Ordering::SeqCst) {
            self.rests();
            let calm = self.stage.calm.read().unwrap();
            let act = self.act();
            let leaves = self.dice.one_in(self.plan.leaves);
            let leaves_after = leaves.then(|| self.dice.pause(Duration::from_millis(15)));
            let operation = self.does(&mut *client, act, leaves_after);
            drop(calm);
            self.stage.writes.fetch_add(1, Ordering::Relaxed);
            if let Outcome::Written { id, .. } = operation.outcome {
                self.stage.written.fetch_add(1, Ordering::Relaxed);
                if matches!(act, Act::Create { .. }) {
                    self.stage.created.lock().unwrap().push(id);
                    self.stage.highest.fetch_max(id, Ordering::Relaxed);
                }
            }
            done.push(operation);
        }
        done
    }

    fn rests(&mut self) {
        let enough = self.stage.asked.load(Ordering::Relaxed) + self.plan.writer_rests_for;
        thread::sleep(self.dice.pause(self.plan.writer_rests));
        while self.stage.asked.load(Ordering::Relaxed) < enough
            && !self.stage.stopping.load(Ordering::SeqCst)
        {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn act(&mut self) -> Act {
        if let Some(first) = self.plan.only_first {
            return Act::Change(1 + self.dice.roll(first));
        }
        if self.dice.one_in(self.plan.change_all) {
            return Act::ChangeAll;
        }
        if self.dice.roll(10) >= self.plan.coming_and_going {
            return Act::Change(1 + self.dice.roll(USERS));
        }
        let mut created = self.stage.created.lock().unwrap();
        let count = created.len() as u64;
        // The more there are, the more of them go: lists hold them all.
        if count > 0 && self.dice.one_in(5) {
            Act::Change(created[self.dice.roll(count) as usize])
        } else if self.dice.roll(12) < count {
            Act::Delete(created.swap_remove(self.dice.roll(count) as usize))
        } else {
            Act::Create {
                role: self.dice.roll(ROLES),
            }
        }
    }

    fn does(
        &mut self,
        client: &mut dyn Client,
        act: Act,
        leaves_after: Option<Duration>,
    ) -> Operation {
        let instance = self.dice.roll(self.front.instances() as u64) as usize;
        let credential = (self.number + self.dice.roll(2) as usize) % self.plan.credentials;
        let moment = |instant: Instant| instant.duration_since(self.stage.start).as_nanos() as u64;
        let start = Instant::now();
        let answered = client.ask(&Asking {
            act,
            instance,
            credential,
            leaves_after,
        });
        let end = Instant::now();
        assert!(
            end - start < PATIENCE * 2,
            "{act:?} at instance {instance} took {:?}",
            end - start
        );
        Operation {
            act,
            instance,
            credential,
            start: moment(start),
            told: moment(answered.told),
            end: moment(end),
            outcome: answered.outcome,
        }
    }
}
