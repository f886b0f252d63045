//! A schedule: who asks how much of what, what is done to the store meanwhile, and what must hold then.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::checker::{Bound, Violation, check};
use super::larders::{INSTANCES, Larders};
use super::record::History;
use super::run::{Plan, Stage, run};
use super::support::eventually;
use super::support::redis::RedisServer;
use super::support::relay::Relay;
use super::users::{Manner, Users};

pub struct Schedule {
    pub name: &'static str,
    pub plan: Plan,
    pub manner: Manner,
    pub refuse_writes: bool,
    pub store_timeout: Duration,
    pub bound: Bound,
    pub least_hit_ratio: f64,
}

/// What can be disturbed.
pub struct World<'a> {
    pub stage: &'a Stage,
    pub larders: &'a Larders,
    pub redis: &'a mut RedisServer,
    /// One before each instance's store, where there are any.
    pub relays: &'a [Relay],
}

pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub const BRISK: Manner = Manner {
    before_read: millis(2),
    after_read: millis(4),
    before_commit: millis(6),
    after_commit: millis(6),
    error: 0,
    unavailable: 0,
    reset: 0,
    late: None,
};

impl World<'_> {
    /// Again and again, until the run has lasted as long as planned.
    pub fn again_and_again(mut self, mut once: impl FnMut(&mut World)) {
        while !self.stage.is_over() {
            once(&mut self);
        }
    }

    pub fn all_are_back(&self) {
        eventually("all instances have their store again", || {
            self.larders.ready() == INSTANCES
        });
    }

    /// Any, and another each time.
    pub fn some_instance(&self) -> usize {
        self.stage.reads.load(Ordering::Relaxed) % INSTANCES
    }
}

impl Schedule {
    /// The store is always there, and longer awaited than any machine is busy.
    pub fn named(name: &'static str) -> Schedule {
        Schedule {
            name,
            plan: Plan::default(),
            manner: BRISK,
            refuse_writes: false,
            store_timeout: Duration::from_secs(5),
            bound: Bound::Nothing,
            least_hit_ratio: 0.05,
        }
    }

    /// The store is lost now and then, and writes are refused while it is.
    pub fn of_an_outage(name: &'static str) -> Schedule {
        Schedule {
            refuse_writes: true,
            ..Schedule::of_an_outage_with_writes(name)
        }
    }

    /// The store is lost now and then, and writes are forwarded all the same.
    pub fn of_an_outage_with_writes(name: &'static str) -> Schedule {
        Schedule {
            store_timeout: millis(250),
            least_hit_ratio: 0.0,
            ..Schedule::named(name)
        }
    }

    /// Undisturbed. Gives the number of operations.
    pub fn holds(self, seed: u64) -> usize {
        self.holds_while(seed, |_| {})
    }

    pub fn holds_while(self, seed: u64, disturb: impl FnOnce(World)) -> usize {
        let mut redis = RedisServer::start();
        let stores = [(); INSTANCES].map(|()| redis.url());
        let (history, larders) = self.ran(seed, &mut redis, &stores, &[], disturb);
        self.judge(seed, &history, &larders)
    }

    pub fn holds_over_relays(self, seed: u64, disturb: impl FnOnce(World)) -> usize {
        let (history, larders) = self.ran_over_relays(seed, disturb);
        self.judge(seed, &history, &larders)
    }

    /// For who judges it otherwise.
    pub fn history_over_relays(&self, seed: u64, disturb: impl FnOnce(World)) -> History {
        self.ran_over_relays(seed, disturb).0
    }

    fn ran_over_relays(&self, seed: u64, disturb: impl FnOnce(World)) -> (History, Larders) {
        let mut redis = RedisServer::start();
        let relays = [(); INSTANCES].map(|()| Relay::to(redis.port()));
        let stores = relays.each_ref().map(Relay::url);
        self.ran(seed, &mut redis, &stores, &relays, disturb)
    }

    fn ran(
        &self,
        seed: u64,
        redis: &mut RedisServer,
        stores: &[String; INSTANCES],
        relays: &[Relay],
        disturb: impl FnOnce(World),
    ) -> (History, Larders) {
        let when = if self.refuse_writes {
            "refuse_writes"
        } else {
            "forward"
        };
        let more = format!("when_store_is_down: {when}");
        let users = Users::new(seed, self.manner);
        let larders = Larders::start(users, stores, self.store_timeout, &more);
        eventually("all instances have their store", || {
            larders.ready() == INSTANCES
        });
        let lasting = number("HISTORY_SECONDS").map_or(self.plan.lasting, Duration::from_secs);
        let plan = Plan {
            seed,
            lasting,
            ..self.plan
        };
        let history = run(&larders, &plan, |stage| {
            disturb(World {
                stage,
                larders: &larders,
                redis,
                relays,
            });
        });
        (history, larders)
    }

    fn judge(&self, seed: u64, history: &History, larders: &Larders) -> usize {
        let (name, count) = (self.name, history.count());
        eprintln!("{name}, seed {seed}: {count}");
        let violations = check(history, self.bound);
        if !violations.is_empty() {
            for (instance, said) in larders.said().iter().enumerate() {
                eprintln!("--- instance {instance} said ---\n{said}");
            }
            panic!("{name}, seed {seed}: {}", told(&violations));
        }
        let floor = self.least_hit_ratio;
        assert!(
            count.hit_ratio() >= floor,
            "{name}, seed {seed}: a hit ratio below {floor}: {count}"
        );
        count.operations
    }
}

/// How many, and the first of them.
fn told(violations: &[Violation]) -> String {
    let first: Vec<String> = violations.iter().take(5).map(ToString::to_string).collect();
    format!("{} violations\n{}", violations.len(), first.join("\n"))
}

pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}
