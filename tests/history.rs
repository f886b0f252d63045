//! Never stale after a write, tried: readers and writers at three instances on one Redis, whatever happens to the store,
//! the instances and the origin meanwhile, and a checker that looks for one answer older than it may be.
//!
//! One seed and about three seconds for each schedule. More of both, or another seed to begin with:
//! `HISTORY_SEEDS=5 HISTORY_SECONDS=10 HISTORY_SEED=7 cargo test --test history schedule`.
//! `HISTORY_POLICY=http` has the routes obey the origin. `HISTORY_MEMORY=10ms`, or `0`, or one for each instance,
//! `10ms,0,off`, has them keep copies in their own memory.
//! All schedules in turn, again and again, up to a number of operations:
//! `HISTORY_OPERATIONS=1000000 cargo test --release --test history -- --ignored --nocapture soak`.

#[path = "history/checker.rs"]
mod checker;
#[path = "history/found.rs"]
mod found;
#[path = "history/larders.rs"]
mod larders;
#[path = "history/record.rs"]
mod record;
#[path = "history/run.rs"]
mod run;
#[path = "history/schedule.rs"]
mod schedule;
mod support;
#[path = "history/users.rs"]
mod users;
#[path = "history/weaker.rs"]
mod weaker;

use checker::{Bound, check};
use larders::{INSTANCES, longest_lease};
use run::Plan;
use schedule::{BRISK, Schedule, World, millis, number};
use support::eventually;
use support::redis::RedisServer;
use support::relay::Way;
use users::{CREDENTIALS, Dice, Manner};

/// Each is a test of its own, with every seed, and has its turn in the soak.
macro_rules! schedules {
    ($($name:ident,)*) => {
        const ALL: &[(&str, fn(u64) -> usize)] = &[$((stringify!($name), $name)),*];

        mod schedules {
            $(
                #[test]
                fn $name() {
                    for seed in super::seeds() {
                        super::$name(seed);
                    }
                }
            )*
        }
    };
}

schedules! {
    steady,
    slow_reads,
    slow_answers_after_the_commit,
    concurrent_writes_of_one_user,
    writers_that_vanish,
    errors_after_the_commit,
    connections_lost_after_the_commit_and_commits_after_a_504,
    credentials_mixed,
    an_instance_is_killed_and_started_again,
    purges_by_hand,
    redis_hangs,
    redis_stutters,
    redis_is_slow,
    redis_is_cut_off_for_all,
    redis_is_cut_off_for_one,
    redis_hangs_for_one,
    redis_restarts_empty,
    redis_restarts_empty_with_writes_forwarded,
    redis_blinks,
    redis_restarts_from_an_older_snapshot,
    redis_restarts_from_an_older_snapshot_with_writes_forwarded,
    redis_fails_over_to_a_replica_that_missed_writes,
    redis_is_flushed_between_writes,
    keys_are_deleted_by_hand,
    all_keys_are_deleted_by_hand,
    redis_is_full_for_a_while,
    redis_evicts,
    redis_hangs_with_writes_forwarded,
    redis_is_cut_off_for_all_with_writes_forwarded,
}

fn seeds() -> std::ops::Range<u64> {
    let first = number("HISTORY_SEED").unwrap_or(1);
    first..first + number("HISTORY_SEEDS").unwrap_or(1)
}

#[test]
#[ignore = "takes as long as HISTORY_OPERATIONS (a million) take"]
fn soak() {
    let (goal, mut done) = (
        number("HISTORY_OPERATIONS").unwrap_or(1_000_000) as usize,
        0,
    );
    for seed in number("HISTORY_SEED").unwrap_or(1).. {
        for (name, schedule) in ALL {
            done += schedule(seed);
            eprintln!("{done} operations after {name}, seed {seed}");
            if done >= goal {
                return;
            }
        }
    }
}

fn steady(seed: u64) -> usize {
    Schedule {
        least_hit_ratio: 0.2,
        ..Schedule::named("steady")
    }
    .holds(seed)
}

fn slow_reads(seed: u64) -> usize {
    let manner = Manner {
        before_read: millis(10),
        after_read: millis(80),
        ..BRISK
    };
    let plan = Plan {
        readers: 12,
        ..Plan::default()
    };
    Schedule {
        plan,
        manner,
        ..Schedule::named("slow reads")
    }
    .holds(seed)
}

fn slow_answers_after_the_commit(seed: u64) -> usize {
    let manner = Manner {
        after_commit: millis(150),
        ..BRISK
    };
    Schedule {
        manner,
        ..Schedule::named("slow answers after the commit")
    }
    .holds(seed)
}

fn concurrent_writes_of_one_user(seed: u64) -> usize {
    let plan = Plan {
        writers: 5,
        only_first: Some(1),
        writer_rests_for: 0,
        ..Plan::default()
    };
    let manner = Manner {
        before_commit: millis(20),
        after_commit: millis(30),
        ..BRISK
    };
    let named = Schedule::named("concurrent writes of one user");
    Schedule {
        plan,
        manner,
        least_hit_ratio: 0.0,
        ..named
    }
    .holds(seed)
}

fn writers_that_vanish(seed: u64) -> usize {
    let plan = Plan {
        leaves: 2,
        ..Plan::default()
    };
    Schedule {
        plan,
        ..Schedule::named("writers that vanish")
    }
    .holds(seed)
}

fn errors_after_the_commit(seed: u64) -> usize {
    let manner = Manner { error: 3, ..BRISK };
    Schedule {
        manner,
        ..Schedule::named("errors after the commit")
    }
    .holds(seed)
}

/// These leave their holds for a minute: so at first there are none.
fn connections_lost_after_the_commit_and_commits_after_a_504(seed: u64) -> usize {
    let late = Some((8, millis(500)));
    let lost = Manner {
        error: 8,
        unavailable: 8,
        reset: 8,
        late,
        ..BRISK
    };
    let schedule = Schedule {
        least_hit_ratio: 0.0,
        ..Schedule::named("lost after the commit")
    };
    schedule.holds_while(seed, |world| {
        world.stage.sees_hits();
        world.stage.sees_written();
        world.larders.users.behave(lost);
    })
}

fn credentials_mixed(seed: u64) -> usize {
    let plan = Plan {
        credentials: CREDENTIALS.len(),
        ..Plan::default()
    };
    Schedule {
        plan,
        ..Schedule::named("credentials mixed")
    }
    .holds(seed)
}

/// The holds of the writes that it had in flight stay for a minute.
fn an_instance_is_killed_and_started_again(seed: u64) -> usize {
    let schedule = Schedule {
        least_hit_ratio: 0.0,
        ..Schedule::named("SIGKILL of an instance")
    };
    schedule.holds_while(seed, |world| {
        world.stage.sees_hits();
        world.again_and_again(|World { stage, larders, .. }| {
            for victim in 0..INSTANCES {
                stage.sees_written();
                larders.kill(victim);
                stage.sees_reads();
                stage.sees_writes();
                larders.start_again(victim);
                stage.sees_reads();
            }
        });
    })
}

fn purges_by_hand(seed: u64) -> usize {
    Schedule::named("purges by hand").holds_while(seed, |world| {
        world.again_and_again(|world| {
            world.stage.sees_hits();
            world.larders.purge_everything(world.some_instance());
        });
    })
}

fn redis_hangs(seed: u64) -> usize {
    Schedule::of_an_outage("Redis paused").holds_while(seed, hanging)
}

fn redis_hangs_with_writes_forwarded(seed: u64) -> usize {
    let name = "Redis paused, writes forwarded";
    Schedule::of_an_outage_with_writes(name).holds_while(seed, hanging)
}

fn hanging(world: World) {
    world.again_and_again(|world| {
        world.stage.sees_hits();
        world.stage.sees_written();
        world.redis.freeze();
        world.stage.sees_reads();
        world.stage.sees_writes();
        world.redis.thaw();
        world.all_are_back();
        world.stage.sees_hits();
    });
}

/// Shorter than the time limit: everything is late, and nothing is lost.
fn redis_stutters(seed: u64) -> usize {
    Schedule::of_an_outage("Redis stutters").holds_while(seed, |world| {
        world.again_and_again(|World { stage, redis, .. }| {
            redis.freeze();
            stage.pass(millis(60));
            redis.thaw();
            stage.pass(millis(60));
        });
    })
}

/// And not equally for all.
fn redis_is_slow(seed: u64) -> usize {
    Schedule::of_an_outage("Redis slow").holds_over_relays(seed, |world| {
        for (relay, late) in world.relays.iter().zip([0, 2, 6]) {
            relay.becomes(Way::Slow(millis(late)));
        }
        world.again_and_again(|World { stage, .. }| {
            stage.sees_hits();
            stage.sees_written();
        });
    })
}

fn redis_is_cut_off_for_all(seed: u64) -> usize {
    Schedule::of_an_outage("Redis cut off for all").holds_over_relays(seed, cutting)
}

fn redis_is_cut_off_for_all_with_writes_forwarded(seed: u64) -> usize {
    let name = "Redis cut off for all, writes forwarded";
    Schedule::of_an_outage_with_writes(name).holds_over_relays(seed, cutting)
}

fn cutting(world: World) {
    world.again_and_again(|world| {
        world.stage.sees_hits();
        world.stage.sees_written();
        world
            .relays
            .iter()
            .for_each(|relay| relay.becomes(Way::Cut));
        world.stage.sees_reads();
        world.stage.sees_writes();
        world
            .relays
            .iter()
            .for_each(|relay| relay.becomes(Way::Open));
        world.all_are_back();
        world.stage.sees_hits();
    });
}

fn redis_is_cut_off_for_one(seed: u64) -> usize {
    let schedule = Schedule::of_an_outage("Redis cut off for one");
    schedule.holds_over_relays(seed, |world| losing_one(world, Way::Cut))
}

/// The one hole of `forward`: the others show the past until the one that was cut off is back, and for a lease, where they
/// have one, but no longer.
#[test]
fn an_instance_cut_off_alone_forwards_writes_that_the_others_see_when_it_is_back() {
    let mut schedule = Schedule::of_an_outage_with_writes("cut off alone, writes forwarded");
    schedule.bound = Bound::Nothing;
    for seed in seeds() {
        let (mut cut, mut back) = (0, 0);
        let history = schedule.history_over_relays(seed, |world| {
            world.stage.sees_hits();
            cut = world.stage.now();
            world.relays[0].becomes(Way::Cut);
            world.stage.pass(millis(1000));
            world.stage.sees_written();
            world.relays[0].becomes(Way::Open);
            world.all_are_back();
            back = world.stage.now();
            world.stage.sees_hits();
            world.stage.sees_written();
        });
        let violations = check(&history, Bound::Nothing);
        let end = back + u64::try_from(longest_lease().as_nanos()).unwrap();
        let outside = violations
            .iter()
            .find(|violation| !(cut..end).contains(&violation.then.start));
        assert!(outside.is_none(), "seed {seed}: {}", outside.unwrap());
        // Measured from the cut: nothing is forwarded without a hold before the notice time is over.
        let since = |start: u64| (start - cut) / 1_000_000;
        let starts = || {
            violations
                .iter()
                .map(|violation| since(violation.then.start))
        };
        let (from, to) = (starts().min().unwrap_or(0), starts().max().unwrap_or(0));
        let (many, outage) = (violations.len(), since(back));
        eprintln!(
            "seed {seed}: cut off for {outage} ms; {many} violations, from {from} to {to} ms"
        );
    }
}

/// What had been sent arrives when it hangs no longer.
fn redis_hangs_for_one(seed: u64) -> usize {
    let schedule = Schedule::of_an_outage("Redis hangs for one");
    schedule.holds_over_relays(seed, |world| losing_one(world, Way::Hangs))
}

fn losing_one(world: World, way: Way) {
    world.again_and_again(|world| {
        world.stage.sees_hits();
        world.stage.sees_written();
        let relay = &world.relays[world.some_instance()];
        relay.becomes(way);
        world.stage.sees_reads();
        world.stage.sees_writes();
        world.stage.sees_written();
        relay.becomes(Way::Open);
        world.all_are_back();
    });
}

fn redis_restarts_empty(seed: u64) -> usize {
    Schedule::of_an_outage("Redis killed and restarted empty").holds_while(seed, restarting)
}

fn redis_restarts_empty_with_writes_forwarded(seed: u64) -> usize {
    let name = "Redis killed and restarted empty, writes forwarded";
    Schedule::of_an_outage_with_writes(name).holds_while(seed, restarting)
}

fn restarting(world: World) {
    world.again_and_again(|world| {
        world.stage.sees_hits();
        world.stage.sees_written();
        restart(world);
        world.stage.sees_hits();
    });
}

/// With long writes in flight, whose holds it forgets, and one instance later to be back than the others.
fn redis_blinks(seed: u64) -> usize {
    let manner = Manner {
        before_commit: millis(150),
        after_commit: millis(300),
        ..BRISK
    };
    let plan = Plan {
        writers: 3,
        readers: 8,
        only_first: Some(3),
        writer_rests: millis(300),
        writer_rests_for: 0,
        ..Plan::default()
    };
    let named = Schedule::of_an_outage("Redis killed and restarted at once");
    Schedule {
        manner,
        plan,
        ..named
    }
    .holds_over_relays(seed, |world| {
        world.again_and_again(|world| {
            world.stage.sees_hits();
            world.stage.sees_written();
            let late = &world.relays[world.some_instance()];
            late.becomes(Way::Cut);
            world.redis.kill();
            world.redis.start_again();
            // Well within the notice time, with what a reconnect takes.
            world.stage.pass(millis(100));
            late.becomes(Way::Open);
            world.all_are_back();
        });
    })
}

fn redis_restarts_from_an_older_snapshot(seed: u64) -> usize {
    let name = "Redis restarted from an older snapshot";
    Schedule::of_an_outage(name).holds_while(seed, going_back)
}

fn redis_restarts_from_an_older_snapshot_with_writes_forwarded(seed: u64) -> usize {
    let name = "Redis restarted from an older snapshot, writes forwarded";
    Schedule::of_an_outage_with_writes(name).holds_while(seed, going_back)
}

fn going_back(mut world: World) {
    for round in 0.. {
        world.stage.sees_hits();
        {
            let _nobody_writes = world.stage.without_writes();
            world.redis.run(&["SAVE"]).unwrap_ok();
        }
        world.stage.sees_written();
        world.stage.sees_written();
        if round % 2 == 0 {
            // A write after the restart would purge what must not be shown.
            let _nobody_writes = world.stage.without_writes();
            world.redis.kill();
            world.redis.start_again();
            world.all_are_back();
            world.stage.sees_hits();
        } else {
            restart(&mut world);
            world.stage.sees_hits();
        }
        if world.stage.is_over() {
            break;
        }
    }
    // Holds that stand in a snapshot come back with it and stay for a minute: so this is the last time.
    world.redis.run(&["SAVE"]).unwrap_ok();
    world.stage.sees_written();
    restart(&mut world);
    world.stage.sees_reads();
    world.stage.sees_written();
}

fn restart(world: &mut World) {
    world.redis.kill();
    world.stage.sees_reads();
    world.stage.sees_writes();
    world.redis.start_again();
    world.all_are_back();
}

fn redis_fails_over_to_a_replica_that_missed_writes(seed: u64) -> usize {
    Schedule::of_an_outage("Redis fails over").holds_over_relays(seed, |world| {
        let World {
            stage,
            redis,
            relays,
            ..
        } = &world;
        redis
            .run(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])
            .unwrap_ok();
        let master = format!("127.0.0.1 {}", redis.port());
        let replica = RedisServer::builder()
            .argument("--replicaof", &master)
            .start();
        eventually("the replica follows", || {
            info(&replica, "master_link_status") == "up"
        });
        stage.sees_hits();
        replica.run(&["REPLICAOF", "NO", "ONE"]).unwrap_ok();
        stage.sees_written();
        stage.sees_hits();
        relays.iter().for_each(|relay| relay.becomes(Way::Cut));
        stage.sees_writes();
        {
            // A write after the failover would purge what must not be shown.
            let _nobody_writes = stage.without_writes();
            for relay in *relays {
                relay.leads_to(replica.port());
                relay.becomes(Way::Open);
            }
            world.all_are_back();
            stage.sees_hits_after_old_holds();
        }
        stage.sees_written();
        stage.sees_hits();
        // It ends with this closure, and with it the run.
        while !stage.is_over() {
            stage.pass(millis(5));
        }
        relays.iter().for_each(|relay| relay.becomes(Way::Cut));
    })
}

fn redis_is_flushed_between_writes(seed: u64) -> usize {
    Schedule::named("Redis flushed").holds_while(seed, |world| {
        world.again_and_again(|World { stage, redis, .. }| {
            stage.sees_hits();
            stage.sees_written();
            let _nobody_writes = stage.without_writes();
            redis.run(&["FLUSHDB"]).unwrap_ok();
        });
    })
}

fn keys_are_deleted_by_hand(seed: u64) -> usize {
    Schedule::named("keys deleted by hand").holds_while(seed, |world| {
        let mut dice = Dice::new(seed, 77);
        world.again_and_again(|World { stage, redis, .. }| {
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
    })
}

/// The deployment's own keys, too: its secret, its list of routes, and where its life stands.
fn all_keys_are_deleted_by_hand(seed: u64) -> usize {
    Schedule::named("all keys deleted by hand").holds_while(seed, |world| {
        let mut dice = Dice::new(seed, 78);
        world.again_and_again(|World { stage, redis, .. }| {
            stage.sees_reads();
            let _nobody_writes = stage.without_writes();
            for key in redis.keys().iter().filter(|_| dice.one_in(3)) {
                redis.run(&["DEL", key]).number();
            }
        });
    })
}

fn redis_is_full_for_a_while(seed: u64) -> usize {
    Schedule::named("Redis full").holds_while(seed, |world| {
        world.again_and_again(|World { stage, redis, .. }| {
            stage.sees_hits();
            redis.run(&["CONFIG", "SET", "maxmemory", "1"]).unwrap_ok();
            stage.sees_reads();
            stage.sees_written();
            redis.run(&["CONFIG", "SET", "maxmemory", "0"]).unwrap_ok();
            stage.sees_written();
        });
    })
}

/// Epochs and holds are evicted as well as copies.
fn redis_evicts(seed: u64) -> usize {
    let named = Schedule::named("Redis evicts");
    let schedule = Schedule {
        bound: Bound::HoldsMayBeLost,
        least_hit_ratio: 0.0,
        ..named
    };
    schedule.holds_while(seed, |world| {
        let World { stage, redis, .. } = world;
        redis
            .run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"])
            .unwrap_ok();
        while !stage.is_over() {
            stage.sees_hits();
            // What is there now is too much by a little.
            let used: u64 = info(redis, "used_memory").parse().expect("bytes");
            redis
                .run(&["CONFIG", "SET", "maxmemory", &(used - 4096).to_string()])
                .unwrap_ok();
            stage.sees_reads();
            redis.run(&["CONFIG", "SET", "maxmemory", "0"]).unwrap_ok();
        }
        assert_ne!(info(redis, "evicted_keys"), "0", "nothing was evicted");
    })
}

fn info(redis: &RedisServer, name: &str) -> String {
    let info = redis.run(&["INFO"]).text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in INFO"))
        .trim()
        .to_owned()
}
