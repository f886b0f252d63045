//! Never stale after a write, tried: readers and writers at three instances on one Redis, whatever happens to the store,
//! the instances and the origin meanwhile, and a checker that looks for one answer older than it may be.
//!
//! One seed and about three seconds for each schedule; more of both, or another seed to begin with:
//! `HISTORY_SEEDS=5 HISTORY_SECONDS=10 HISTORY_SEED=7 cargo test --test history`.

#[path = "history/checker.rs"]
mod checker;
#[path = "history/larders.rs"]
mod larders;
#[path = "history/record.rs"]
mod record;
#[path = "history/run.rs"]
mod run;
mod support;
#[path = "history/users.rs"]
mod users;
#[path = "history/weaker.rs"]
mod weaker;

use std::time::Duration;

use checker::{Bound, check};
use larders::{INSTANCES, Larders};
use record::{Count, History};
use run::{Plan, Stage, run};
use support::eventually;
use support::redis::{RedisBuilder, RedisServer};
use users::{CREDENTIALS, Manner, Users};

/// Something that is tried with every seed.
struct Schedule {
    name: &'static str,
    plan: Plan,
    manner: Manner,
    refuse_writes: bool,
    /// Longer than any machine is busy, where the store is always there.
    store_timeout: Duration,
    bound: Bound,
    least_hit_ratio: f64,
}

impl Schedule {
    /// The store is always there.
    fn named(name: &'static str) -> Schedule {
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
    fn of_an_outage(name: &'static str) -> Schedule {
        Schedule {
            refuse_writes: true,
            store_timeout: Duration::from_millis(250),
            least_hit_ratio: 0.0,
            ..Schedule::named(name)
        }
    }

    /// Runs it undisturbed.
    fn holds(self) {
        self.holds_while(|_, _, _| {});
    }

    fn holds_while(self, disturb: impl Fn(&Stage, &Larders, &mut RedisServer)) {
        self.holds_on(RedisServer::builder, disturb);
    }

    fn holds_on(
        self,
        redis: impl Fn() -> RedisBuilder,
        disturb: impl Fn(&Stage, &Larders, &mut RedisServer),
    ) {
        for seed in seeds() {
            let mut redis = redis().start();
            let stores = [(); INSTANCES].map(|()| redis.url());
            let larders = self.larders(seed, &stores);
            let history = run(&larders, &self.planned(seed), |stage| {
                disturb(stage, &larders, &mut redis)
            });
            self.judge(seed, &history, &larders);
        }
    }

    fn larders(&self, seed: u64, stores: &[String; INSTANCES]) -> Larders {
        let when = if self.refuse_writes {
            "refuse_writes"
        } else {
            "forward"
        };
        let more = format!("when_store_is_down: {when}");
        let larders = Larders::start(
            Users::new(seed, self.manner),
            stores,
            self.store_timeout,
            &more,
        );
        eventually("all instances have their store", || {
            larders.ready() == INSTANCES
        });
        larders
    }

    fn planned(&self, seed: u64) -> Plan {
        let lasting = number("HISTORY_SECONDS").map_or(self.plan.lasting, Duration::from_secs);
        Plan {
            seed,
            lasting,
            ..self.plan
        }
    }

    fn judge(&self, seed: u64, history: &History, larders: &Larders) {
        let (name, count) = (self.name, history.count());
        eprintln!("{name}, seed {seed}: {count}");
        let violations = check(history, self.bound);
        if !violations.is_empty() {
            for (instance, said) in larders.said().iter().enumerate() {
                eprintln!("--- instance {instance} said ---\n{said}");
            }
            let shown: Vec<String> = violations.iter().take(5).map(ToString::to_string).collect();
            panic!(
                "{name}, seed {seed}: {} violations in {count}\n{}",
                violations.len(),
                shown.join("\n")
            );
        }
        // A run in which nothing happened proves nothing.
        let Count {
            shown,
            hits,
            written,
            ..
        } = count;
        assert!(
            shown > 100 && written > 10 && hits > 20,
            "{name}, seed {seed}: hardly anything happened: {count}"
        );
        let floor = self.least_hit_ratio;
        assert!(
            count.hit_ratio() >= floor,
            "{name}, seed {seed}: fewer hits than {floor}: {count}"
        );
    }
}

const BRISK: Manner = Manner {
    before_read: millis(2),
    after_read: millis(4),
    before_commit: millis(6),
    after_commit: millis(6),
    error: 0,
    unavailable: 0,
    reset: 0,
    late: None,
};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

fn seeds() -> std::ops::Range<u64> {
    let first = number("HISTORY_SEED").unwrap_or(1);
    first..first + number("HISTORY_SEEDS").unwrap_or(1)
}

/// Again and again, until the run has lasted as long as planned.
fn again_and_again(stage: &Stage, mut once: impl FnMut()) {
    while !stage.is_over() {
        once();
    }
}

#[test]
fn steady() {
    Schedule {
        least_hit_ratio: 0.2,
        ..Schedule::named("steady")
    }
    .holds();
}

#[test]
fn slow_reads() {
    let manner = Manner {
        before_read: millis(10),
        after_read: millis(80),
        ..BRISK
    };
    Schedule {
        manner,
        ..Schedule::named("slow reads")
    }
    .holds();
}

#[test]
fn slow_answers_after_the_commit() {
    let manner = Manner {
        after_commit: millis(150),
        ..BRISK
    };
    Schedule {
        manner,
        ..Schedule::named("slow answers after the commit")
    }
    .holds();
}

#[test]
fn concurrent_writes_of_one_user() {
    let plan = Plan {
        writers: 5,
        only_first: Some(1),
        ..Plan::default()
    };
    let manner = Manner {
        before_commit: millis(20),
        after_commit: millis(30),
        ..BRISK
    };
    Schedule {
        plan,
        manner,
        ..Schedule::named("concurrent writes of one user")
    }
    .holds();
}

#[test]
fn writers_that_vanish() {
    let plan = Plan {
        leaves: 2,
        ..Plan::default()
    };
    Schedule {
        plan,
        ..Schedule::named("writers that vanish")
    }
    .holds();
}

#[test]
fn errors_after_the_commit() {
    let manner = Manner { error: 3, ..BRISK };
    Schedule {
        manner,
        ..Schedule::named("errors after the commit")
    }
    .holds();
}

/// These leave their holds for a minute: so at first there are none.
#[test]
fn connections_lost_after_the_commit_and_commits_after_a_504() {
    let lost = Manner {
        error: 8,
        unavailable: 8,
        reset: 8,
        late: Some((8, millis(500))),
        ..BRISK
    };
    Schedule::named("lost after the commit").holds_while(|stage, larders, _| {
        stage.sees_hits();
        stage.sees_written();
        larders.users.behave(lost);
    });
}

#[test]
fn credentials_mixed() {
    let plan = Plan {
        credentials: CREDENTIALS.len(),
        ..Plan::default()
    };
    Schedule {
        plan,
        ..Schedule::named("credentials mixed")
    }
    .holds();
}

#[test]
fn an_instance_is_killed_and_started_again() {
    Schedule::named("SIGKILL of an instance").holds_while(|stage, larders, _| {
        let mut victim = 0;
        stage.sees_hits();
        again_and_again(stage, || {
            stage.sees_written();
            larders.kill(victim % INSTANCES);
            stage.sees_reads();
            stage.sees_writes();
            larders.start_again(victim % INSTANCES);
            stage.sees_reads();
            victim += 1;
        });
    });
}

#[test]
fn purges_by_hand() {
    Schedule::named("purges by hand").holds_while(|stage, larders, _| {
        again_and_again(stage, || {
            stage.sees_hits();
            larders.purge_everything(
                stage.hits.load(std::sync::atomic::Ordering::Relaxed) % INSTANCES,
            );
        });
    });
}

#[test]
fn redis_hangs() {
    Schedule::of_an_outage("Redis paused").holds_while(|stage, larders, redis| {
        again_and_again(stage, || {
            stage.sees_hits();
            stage.sees_written();
            redis.freeze();
            stage.sees_reads();
            stage.sees_writes();
            redis.thaw();
            eventually("all instances are back", || larders.ready() == INSTANCES);
            stage.sees_hits();
        });
    });
}

/// Shorter than the time limit: nothing is lost, everything is late.
#[test]
fn redis_stutters() {
    Schedule::of_an_outage("Redis stutters").holds_while(|stage, _, redis| {
        again_and_again(stage, || {
            redis.freeze();
            stage.pass(millis(60));
            redis.thaw();
            stage.pass(millis(60));
        });
    });
}

#[test]
fn redis_restarts_empty() {
    Schedule::of_an_outage("Redis killed and restarted empty").holds_while(
        |stage, larders, redis| {
            again_and_again(stage, || {
                stage.sees_hits();
                stage.sees_written();
                redis.kill();
                stage.sees_reads();
                stage.sees_writes();
                redis.start_again();
                eventually("all instances are back", || larders.ready() == INSTANCES);
                stage.sees_hits();
            });
        },
    );
}

#[test]
fn redis_blinks() {
    Schedule::of_an_outage("Redis killed and restarted at once").holds_while(
        |stage, larders, redis| {
            again_and_again(stage, || {
                stage.sees_hits();
                stage.sees_written();
                redis.kill();
                redis.start_again();
                eventually("all instances are back", || larders.ready() == INSTANCES);
            });
        },
    );
}

#[test]
fn redis_restarts_from_an_older_snapshot() {
    Schedule::of_an_outage("Redis restarted from an older snapshot").holds_while(
        |stage, larders, redis| {
            again_and_again(stage, || {
                stage.sees_hits();
                redis.run(&["SAVE"]).unwrap_ok();
                stage.sees_written();
                stage.sees_hits();
                redis.kill();
                stage.sees_writes();
                redis.start_again();
                eventually("all instances are back", || larders.ready() == INSTANCES);
                stage.sees_hits();
            });
        },
    );
}

#[test]
fn redis_is_flushed_between_writes() {
    Schedule::named("Redis flushed").holds_while(|stage, _, redis| {
        again_and_again(stage, || {
            stage.sees_hits();
            stage.sees_written();
            let _nobody_writes = stage.without_writes();
            redis.run(&["FLUSHDB"]).unwrap_ok();
        });
    });
}

#[test]
fn keys_are_deleted_by_hand() {
    Schedule::named("keys deleted by hand").holds_while(|stage, _, redis| {
        let mut dice = users::Dice::new(1, 77);
        again_and_again(stage, || {
            stage.sees_hits();
            let _nobody_writes = stage.without_writes();
            let keys = redis.keys();
            for key in keys
                .iter()
                .filter(|key| !key.starts_with("t:~") && dice.one_in(3))
            {
                redis.run(&["DEL", key]).number();
            }
        });
    });
}

/// The deployment's own keys, too: its secret, its list of routes, and where its life stands.
#[test]
fn all_keys_are_deleted_by_hand() {
    Schedule::named("all keys deleted by hand").holds_while(|stage, _, redis| {
        let mut dice = users::Dice::new(1, 78);
        again_and_again(stage, || {
            stage.sees_reads();
            let _nobody_writes = stage.without_writes();
            for key in redis.keys().iter().filter(|_| dice.one_in(3)) {
                redis.run(&["DEL", key]).number();
            }
        });
    });
}

#[test]
fn redis_is_full_for_a_while() {
    Schedule::named("Redis full").holds_while(|stage, _, redis| {
        again_and_again(stage, || {
            stage.sees_hits();
            redis.run(&["CONFIG", "SET", "maxmemory", "1"]).unwrap_ok();
            stage.sees_reads();
            stage.sees_written();
            redis.run(&["CONFIG", "SET", "maxmemory", "0"]).unwrap_ok();
            stage.sees_written();
        });
    });
}

/// Epochs and holds are evicted as well as copies.
#[test]
fn redis_evicts() {
    let schedule = Schedule {
        bound: Bound::HoldsMayBeLost,
        least_hit_ratio: 0.0,
        ..Schedule::named("Redis evicts")
    };
    schedule.holds_while(|stage, _, redis| {
        redis
            .run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"])
            .unwrap_ok();
        again_and_again(stage, || {
            stage.sees_hits();
            // What is there now is too much by a little.
            let used = info(redis, "used_memory");
            redis
                .run(&["CONFIG", "SET", "maxmemory", &(used - 4096).to_string()])
                .unwrap_ok();
            stage.sees_reads();
            redis.run(&["CONFIG", "SET", "maxmemory", "0"]).unwrap_ok();
        });
        assert!(info(redis, "evicted_keys") > 0, "nothing was evicted");
    });
}

fn info(redis: &RedisServer, name: &str) -> u64 {
    let info = redis.run(&["INFO"]).text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {name} in INFO"))
}
