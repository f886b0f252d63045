//! One contract for both stores: whatever steps come in whatever order, Redis's script and the embedded store's
//! `State::apply` come to the same. And what only Redis can show: nothing of it needs spare memory, a state
//! outlives what it protects, and a purge costs the same however many copies hang on it.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::caching::cache_status::Reason;
use larder::caching::head::Head;
use larder::caching::stored::Stored;
use larder::clock;
use larder::coherence::lease::{self, Registry};
use larder::coherence::life::{self, How, Record};
use larder::coherence::protocol::Reply as StepReply;
use larder::coherence::protocol::{self, Incarnation, Outcome, Seen, Step, Validity};
use larder::coherence::{HoldId, Journal, StateKey, States};
use larder::config::MemoryTier;
use larder::config::{Redis as Settings, RedisEndpoint, Store as StoreSettings, StoreAddress};
use larder::store::memory::Memory;
use larder::store::redis::Redis;
use larder::store::{Found, Lifetimes, Store};
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{Config, TestRunner};
use support::PATIENCE;
use support::redis::{RedisServer, Reply};

const TTL: Duration = Duration::from_secs(3600);
const HOLD: Duration = Duration::from_secs(60);

async fn redis(server: &RedisServer) -> Store {
    beside(server, None).await
}

async fn beside(server: &RedisServer, memory: Option<MemoryTier>) -> Store {
    let endpoint = RedisEndpoint::Tcp {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
    };
    let settings = Settings {
        endpoint,
        username: None,
        password: None,
        database: 1,
    };
    let store = StoreSettings {
        address: StoreAddress::Redis(settings.clone()),
        prefix: "t".to_owned(),
        timeout: Duration::from_secs(5),
        secret: None,
        memory,
    };
    let lifetimes = Lifetimes {
        hold: HOLD,
        longest_ttl: TTL,
    };
    let journal = Arc::new(Journal::default());
    let store = Store::Redis(
        Redis::start(&store, &settings, lifetimes, Vec::new(), journal)
            .await
            .expect("redis takes us"),
    );
    store.settled().await;
    store
}

fn states(names: &[&str]) -> States {
    names.iter().map(|name| StateKey::new(*name)).collect()
}

/// What of a reply is the same on any store: epochs are not, but whether there is one, and whether it changed, is.
type Same = (bool, bool, bool, bool);

async fn step(
    store: &Store,
    states: &[StateKey],
    step: Step,
    last: &mut HashMap<StateKey, Seen>,
) -> Vec<Same> {
    let replies = store.step(states, step).await.expect("the store is there");
    assert_eq!(replies.len(), states.len(), "one reply for each state");
    let same = states.iter().zip(replies);
    let same = same.map(|(state, StepReply { seen, own_hold })| {
        let changed = last.insert(state.clone(), seen) != Some(seen);
        let is_current = matches!(seen, Seen::Current(_));
        (is_current, seen == Seen::Held, own_hold, changed)
    });
    same.collect()
}

fn any_step() -> impl Strategy<Value = Step> {
    let hold = (1u64..6).prop_map(HoldId);
    // As a journal puts it back.
    let begun = prop_oneof![5 => hold.clone(), 1 => Just(HoldId::AMBIGUOUS)];
    // Overdue at once, or not for the length of the test; and not in the order in which they come.
    let lasting = prop_oneof![
        1 => Just(Duration::ZERO),
        3 => Just(HOLD),
        1 => Just(HOLD + Duration::from_secs(3)),
        1 => Just(HOLD * 2)
    ];
    let outcome = prop_oneof![
        Just(Outcome::Changed),
        Just(Outcome::Unchanged),
        Just(Outcome::Ambiguous)
    ];
    prop_oneof![
        3 => (1u32..3, any::<u32>()).prop_map(|(life, fresh)| Step::Open { incarnation: Incarnation(life), fresh }),
        2 => (begun, lasting.clone()).prop_map(|(hold, lasting)| Step::Begin { hold, lasting }),
        3 => (hold, outcome, lasting).prop_map(|(hold, outcome, lasting)| Step::Finish { hold, outcome, lasting }),
        2 => (1u64..6, 1u32..3, any::<u32>()).prop_map(|(hold, life, fresh)| Step::Renew { hold: HoldId(hold), incarnation: Incarnation(life), fresh }),
        1 => Just(Step::Purge),
        2 => Just(Step::Outdate),
    ]
}

/// Steps on one state, or on several in one call, each of which may be in another condition.
#[test]
fn the_script_in_redis_and_the_protocol_come_to_the_same_in_any_history() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (redis, memory) = (
        runtime.block_on(redis(&server)),
        Store::Memory(Memory::new(1 << 20)),
    );
    let mut runner = TestRunner::new(Config {
        cases: 600,
        failure_persistence: None,
        ..Config::default()
    });
    let histories_so_far = AtomicU64::new(0);
    let of_some = prop_oneof![2 => Just(vec![0]), 4 => subsequence(vec![0, 1, 2], 1..=3)];
    let histories = proptest::collection::vec((of_some, any_step()), 1..30);
    let done = runner.run(&histories, |steps| {
        let history = histories_so_far.fetch_add(1, Ordering::Relaxed);
        let states = [0, 1, 2].map(|n| StateKey::new(format!("f{history}-{n}~state")));
        let (mut in_redis, mut in_memory) = (HashMap::new(), HashMap::new());
        for (n, (some, each)) in steps.iter().enumerate() {
            let some: Vec<StateKey> = some.iter().map(|n| states[*n].clone()).collect();
            let theirs = runtime.block_on(step(&redis, &some, *each, &mut in_redis));
            let ours = runtime.block_on(step(&memory, &some, *each, &mut in_memory));
            prop_assert_eq!(theirs, ours, "step {} of {:?}", n, steps);
        }
        // Whatever way it came there: it reads as the step has said, and outlives each of its holds.
        for state in &states {
            let key = format!("t:{state}");
            let stands = server.run_in(1, &["GET", &key]);
            let text = match stands {
                Reply::Nil => "-".to_owned(),
                stands => stands.text(),
            };
            let seen = in_redis.get(state).copied().unwrap_or(Seen::Absent);
            prop_assert_eq!(Seen::parse(text.as_bytes()), seen);
            let deadlines = text.split('@').skip(1).map(|rest| &rest[..13]);
            let last = deadlines
                .map(|deadline| deadline.parse::<i64>().unwrap())
                .max();
            let ends = server.run_in(1, &["PEXPIRETIME", &key]).number();
            prop_assert!(last.is_none_or(|last| ends > last + 1_000), "{}", text);
            prop_assert!(text == "-" || ends > 0, "{} has no time to live", text);
        }
        Ok(())
    });
    done.unwrap();
}

/// Steps of several writes that are sent in one turn become one call. In a round all are of one kind, as in a call.
#[test]
fn writes_that_come_together_come_to_the_same_as_one_after_the_other() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (redis, memory) = (
        runtime.block_on(redis(&server)),
        Store::Memory(Memory::new(1 << 20)),
    );
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let lasting = prop_oneof![1 => Just(Duration::ZERO), 3 => Just(HOLD), 1 => Just(HOLD * 2)];
    let outcome = prop_oneof![
        3 => Just(Some(Outcome::Changed)),
        2 => Just(Some(Outcome::Unchanged)),
        1 => Just(Some(Outcome::Ambiguous)),
        4 => Just(None)
    ];
    let together = subsequence((1..9).collect::<Vec<u64>>(), 1..=6);
    let of = proptest::collection::vec(subsequence(vec![0, 1, 2], 1..=3), 6);
    let open = (0..3usize, any::<u32>());
    let rounds = proptest::collection::vec((outcome, lasting, together, of, open), 1..12);
    let writes_so_far = AtomicU64::new(0);
    let histories_so_far = AtomicU64::new(0);
    let done = runner.run(&rounds, |rounds| {
        let history = histories_so_far.fetch_add(1, Ordering::Relaxed);
        let all = [0, 1, 2].map(|n| StateKey::new(format!("h{history}-{n}~state")));
        for (n, (outcome, lasting, together, of, (opened, fresh))) in rounds.iter().enumerate() {
            let lasting = *lasting;
            let step = |hold: &u64| match (HoldId(*hold), *outcome) {
                (hold, None) => Step::Begin { hold, lasting },
                (hold, Some(outcome)) => Step::Finish {
                    hold,
                    outcome,
                    lasting,
                },
            };
            let some = |of: &Vec<usize>| of.iter().map(|n| all[*n].clone()).collect::<Vec<_>>();
            let writes: Vec<(Step, Vec<StateKey>)> =
                together.iter().map(step).zip(of.iter().map(some)).collect();
            writes_so_far.fetch_add(writes.len() as u64, Ordering::Relaxed);
            let told = |store| {
                let each = writes
                    .iter()
                    .map(|(step, states)| Store::step(store, states, *step));
                let told = runtime.block_on(futures_util::future::join_all(each));
                let own = |replies: Vec<StepReply>| -> Vec<bool> {
                    replies.iter().map(|reply| reply.own_hold).collect()
                };
                let told = told.into_iter().map(|told| own(told.unwrap()));
                told.collect::<Vec<_>>()
            };
            prop_assert_eq!(told(&redis), told(&memory), "round {} of {:?}", n, rounds);
            let open = Step::Open {
                incarnation: Incarnation(1),
                fresh: *fresh,
            };
            let seen = |store| {
                let mut last = HashMap::new();
                // In one of them an epoch is made, if it may be; all others are looked at by a step that changes nothing.
                let look = Step::Finish {
                    hold: HoldId(99),
                    outcome: Outcome::Unchanged,
                    lasting,
                };
                let mut seen = runtime.block_on(self::step(store, &all, look, &mut last));
                let opened = &all[*opened..=*opened];
                seen.extend(runtime.block_on(self::step(store, opened, open, &mut last)));
                seen
            };
            prop_assert_eq!(
                seen(&redis),
                seen(&memory),
                "after round {} of {:?}",
                n,
                rounds
            );
        }
        Ok(())
    });
    done.unwrap();
    let calls = evalshas(&server);
    let writes = writes_so_far.into_inner();
    assert!(
        calls < writes,
        "{calls} calls for {writes} writes: each was told alone"
    );
}

/// Its end took the state for none of ours, and deleted it with the hold of another.
#[tokio::test]
async fn a_write_that_may_not_read_a_state_takes_no_hold_of_another() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states = states(&["s~state"]);
    let lasting = HOLD;
    let begin = |hold| Step::Begin { hold, lasting };
    for hold in [HoldId(1), HoldId(2)] {
        store.step(&states, begin(hold)).await.unwrap();
    }
    server
        .run(&["ACL", "SETUSER", "default", "-get"])
        .unwrap_ok();
    let finish = Step::Finish {
        hold: HoldId(2),
        outcome: Outcome::Changed,
        lasting,
    };
    assert!(store.step(&states, finish).await.is_err());
    server
        .run(&["ACL", "SETUSER", "default", "+get"])
        .unwrap_ok();
    let state = server.get("t:s~state").expect("it stands there");
    let state = protocol::State::parse(&state).expect("a state");
    assert!(state.holds().any(|hold| hold == HoldId(1)), "{state}");
}

/// Whoever enters however: which life it is, and whether it waits. The record's last word is the server's own time.
#[test]
fn the_script_that_enters_a_life_and_its_twin_come_to_the_same_in_any_history() {
    let script = format!(
        "#!lua flags=allow-oom\n{}",
        include_str!("../src/store/redis/incarnation.lua")
    );
    let server = RedisServer::start();
    // Over only when the test is, or at once: no clock is compared.
    let notices = [Duration::ZERO, Duration::from_secs(86_400)];
    let entry = (
        prop_oneof![Just("a:1"), Just("b:2"), Just("unknown")],
        prop_oneof![Just(How::First), Just(How::Again), Just(How::Anew)],
        prop_oneof![Just(notices[0]), Just(notices[1])],
        // What an operator, an eviction or another program leaves there.
        prop_oneof![6 => Just(None), 1 => Just(Some("")), 1 => Just(Some("a:1 7 0")), 1 => Just(Some("a:1 0000000f 0"))],
    );
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let done = runner.run(&proptest::collection::vec(entry, 1..15), |entries| {
        server.run(&["DEL", "life"]);
        let mut stands: Option<Record> = None;
        for (n, (who, how, notice, left_there)) in entries.iter().enumerate() {
            match left_there {
                None => {}
                Some("") => {
                    server.run(&["DEL", "life"]);
                    stands = None;
                }
                Some(text) => {
                    server.set("life", text.as_bytes());
                    stands = Record::parse(text);
                }
            }
            let (fresh, now) = (format!("{:08x}", n + 100), clock::now());
            let notice_ms = notice.as_millis().to_string();
            let told = server.run(&[
                "EVAL",
                &script,
                "1",
                "life",
                who,
                &fresh,
                "1000000",
                how.word(),
                &notice_ms,
            ]);
            let Reply::List(told) = told else {
                panic!("two answers: {told:?}")
            };
            let ours = life::enter(
                stands.take(),
                who,
                Incarnation(n as u32 + 100),
                *how,
                *notice,
                now,
            );
            prop_assert_eq!(told[0].text(), format!("{:08x}", ours.life.0));
            let waits = ours.trusted > now.as_millis() + 3_600_000;
            prop_assert_eq!(told[1].number() > 3_600_000, waits);
            let text = server.get("life").expect("it stands there");
            let text = String::from_utf8(text).expect("text");
            let theirs = Record::parse(&text).expect("a record");
            prop_assert_eq!((&theirs.who, theirs.life), (&ours.who, ours.life));
            stands = Some(theirs);
        }
        Ok(())
    });
    done.unwrap();
}

/// Whatever terms instances name, and whatever is left in their place: what stands there, what a write waits, and when
/// somebody is to sweep.
#[test]
fn the_script_that_keeps_the_terms_of_leases_and_its_twin_come_to_the_same_in_any_history() {
    let script = format!(
        "#!lua flags=allow-oom\n{}",
        include_str!("../src/store/redis/leases.lua")
    );
    let server = RedisServer::start();
    // By the server's clock long over, or not for long.
    let left_there = prop_oneof![
        6 => Just(None),
        1 => Just(Some("")),
        1 => Just(Some("-")),
        1 => Just(Some("x")),
        1 => Just(Some("10@1")),
        1 => Just(Some("10@1 20@9999999999999")),
        1 => Just(Some("10@9999999999999  20@1")),
        1 => Just(Some("100@9999999999999 7@9999999999998")),
    ];
    let renewal = (0_u64..4, left_there);
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let done = runner.run(&proptest::collection::vec(renewal, 1..12), |renewals| {
        server.run(&["DEL", "terms"]);
        let mut stands: Option<Vec<u8>> = None;
        for (n, left_there) in &renewals {
            match left_there {
                None => {}
                Some("") => {
                    server.run(&["DEL", "terms"]);
                    stands = None;
                }
                Some(text) => {
                    server.set("terms", text.as_bytes());
                    stands = Some(text.as_bytes().to_vec());
                }
            }
            let overdue_there = left_there.is_some_and(|text| text.contains("@1"));
            let term = [0, 5, 10, 100][*n as usize];
            let millis = |span: Duration| lease::in_millis(span).to_string();
            let told = server.run(&[
                "EVAL",
                &script,
                "1",
                "terms",
                &term.to_string(),
                &millis(lease::STANDS_FOR),
                &millis(lease::LONGEST),
                "1000000",
            ]);
            let now = clock::now();
            let Reply::List(told) = told else {
                panic!("two answers: {told:?}")
            };
            let theirs = server.get("terms").expect("it stands there");
            prop_assert_eq!(told[0].text().into_bytes(), theirs.clone());
            let term = (term > 0).then(|| Duration::from_millis(term));
            let ours = Registry::renew(stands.as_deref(), term, now);
            // Which terms; until when differs by what passed between two clocks, in which what stands for the lost may be over.
            let lost = |word: &&str| word.starts_with("101@") || *word == "-";
            let terms = |registry: &Registry| -> Vec<String> {
                let text = registry.to_string();
                let words = text.split(' ').filter(|word| !lost(word));
                let term = |word: &str| word.split('@').next().unwrap().to_owned();
                words.map(term).collect()
            };
            let theirs_read = Registry::parse(&theirs).expect("terms");
            prop_assert_eq!(
                terms(&ours),
                terms(&theirs_read),
                "{} {}",
                ours,
                theirs_read
            );
            if stands.is_none() {
                prop_assert!(theirs_read.to_string().contains("101@"));
            }
            if overdue_there {
                prop_assert!(theirs_read.to_string().contains("101@"), "{}", theirs_read);
            }
            if let Some(term) = term {
                prop_assert!(Registry::names(&theirs, term));
            }
            let overdue = told[1].number();
            prop_assert_eq!(overdue < 0, theirs == b"-");
            stands = Some(theirs);
        }
        Ok(())
    });
    done.unwrap();
}

#[test]
fn what_is_kept_in_memory_beside_redis_never_takes_more_than_its_size() {
    const SIZE: u64 = 1 << 20;
    let server = RedisServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for term in [Duration::ZERO, Duration::from_millis(10)] {
            let memory = MemoryTier {
                size: SIZE,
                lease: term,
            };
            let store = beside(&server, Some(memory)).await;
            for n in 0..2_000 {
                let (copy, states) = (format!("t:f{n}"), states(&[&format!("f{n}~state")]));
                let seen = store.open(&states).await.unwrap();
                let epochs = protocol::epochs(&seen).expect("nobody writes");
                let body = vec![b'x'; 1_000 + n].into();
                let large = Stored {
                    body,
                    ..Stored::clone(&stored(epochs))
                };
                let put = store.put(&copy, Arc::new(large), TTL).await;
                put.unwrap();
                assert!(is_valid(&store, &copy, &states).await);
            }
            let usage = store.in_memory().expect("there is one");
            assert!(usage.bytes <= SIZE, "{usage:?}");
            assert!((100..2_000).contains(&usage.entries), "{usage:?}");
            assert!(usage.hits > 1_000, "{usage:?}");
        }
    });
}

fn stored(epochs: larder::coherence::Epochs) -> Arc<Stored> {
    Arc::new(Stored {
        status: http::StatusCode::OK,
        head: Head::new(http::HeaderMap::new(), "http://h", &[]),
        body: bytes::Bytes::from_static(b"[]"),
        response_time: clock::now(),
        took: Duration::ZERO,
        initial_age: Duration::ZERO,
        lifetime: TTL,
        epochs,
    })
}

/// Looks up `t:f` as its family stands now: whether a valid copy is there.
async fn is_valid(store: &Store, copy: &str, states: &States) -> bool {
    let found = store.look_up(copy, states).await.unwrap();
    found
        .copy
        .is_ok_and(|copy| protocol::validity(&copy.epochs, &found.states) == Validity::Valid)
}

async fn both_stores(server: &RedisServer) -> [Store; 2] {
    [redis(server).await, Store::Memory(Memory::new(1 << 20))]
}

#[tokio::test]
async fn a_fill_that_raced_a_write_stores_a_copy_that_is_not_valid() {
    let server = RedisServer::start();
    for store in both_stores(&server).await {
        let states = states(&["f~state", "g~all"]);
        let epochs = protocol::epochs(&store.open(&states).await.unwrap()).unwrap();
        let hold = HoldId(7);
        store
            .step(
                &states[..1],
                Step::Begin {
                    hold,
                    lasting: HOLD,
                },
            )
            .await
            .unwrap();
        store
            .step(
                &states[..1],
                Step::Finish {
                    hold,
                    outcome: Outcome::Changed,
                    lasting: HOLD,
                },
            )
            .await
            .unwrap();
        store.put("t:f", stored(epochs), TTL).await.unwrap();
        assert!(
            !is_valid(&store, "t:f", &states).await,
            "in {}",
            store.kind()
        );
    }
}

#[tokio::test]
async fn a_copy_is_valid_until_its_family_or_its_group_is_purged() {
    let server = RedisServer::start();
    for store in both_stores(&server).await {
        let states = states(&["f~state", "g~all"]);
        for purged in 0..2 {
            let epochs = protocol::epochs(&store.open(&states).await.unwrap()).unwrap();
            store.put("t:f", stored(epochs), TTL).await.unwrap();
            assert!(
                is_valid(&store, "t:f", &states).await,
                "in {}",
                store.kind()
            );
            store
                .step(&states[purged..=purged], Step::Purge)
                .await
                .unwrap();
            assert!(
                !is_valid(&store, "t:f", &states).await,
                "in {}",
                store.kind()
            );
        }
    }
}

#[tokio::test]
async fn a_state_outlives_its_copies_and_its_holds_and_all_have_a_time_to_live() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states = states(&["f~state"]);
    let ttl = |key: &str| server.run_in(1, &["PTTL", key]).number();
    let epochs = protocol::epochs(&store.open(&states).await.unwrap()).unwrap();
    assert_eq!(
        server.run_in(1, &["PEXPIRE", "t:f~state", "5000"]).number(),
        1
    );
    store.put("t:f", stored(epochs), TTL).await.unwrap();
    assert!(
        ttl("t:f~state") > ttl("t:f"),
        "a late copy gives its state time"
    );
    let lasting = Duration::from_secs(10 * 3600);
    store
        .step(
            &states,
            Step::Begin {
                hold: HoldId(1),
                lasting,
            },
        )
        .await
        .unwrap();
    assert!(ttl("t:f~state") > lasting.as_millis() as i64);
    for key in server.keys_in(1) {
        assert!(ttl(&key) > 0, "{key} has no time to live");
    }
}

#[tokio::test]
async fn each_of_many_writes_in_flight_takes_back_its_own_hold() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states = states(&["f~state"]);
    for hold in 0..500 {
        let begin = Step::Begin {
            hold: HoldId(hold),
            lasting: HOLD,
        };
        let replies = store.step(&states, begin).await.unwrap();
        assert_eq!(replies[0].seen, Seen::Held);
    }
    let text = server.run_in(1, &["GET", "t:f~state"]).text();
    assert_eq!(text.split(' ').count(), 501);
    for hold in (0..500).rev() {
        let finish = Step::Finish {
            hold: HoldId(hold),
            outcome: Outcome::Unchanged,
            lasting: HOLD,
        };
        let replies = store.step(&states, finish).await.unwrap();
        assert!(replies[0].own_hold);
        assert_eq!(replies[0].seen == Seen::Held, hold > 0);
    }
    assert_eq!(server.run_in(1, &["EXISTS", "t:f~state"]).number(), 0);
}

/// Else whoever makes such writes makes the state as long as there are of them in a minute, and each script reads it.
#[tokio::test]
async fn writes_whose_fate_is_unknown_leave_one_hold_between_them() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states = states(&["f~state"]);
    let lasting = HOLD;
    let begin = |hold| Step::Begin { hold, lasting };
    let one_in_flight = HoldId(2_000);
    store.step(&states, begin(one_in_flight)).await.unwrap();
    for hold in (0..1_000).map(HoldId) {
        store.step(&states, begin(hold)).await.unwrap();
        let finish = Step::Finish {
            hold,
            outcome: Outcome::Ambiguous,
            lasting,
        };
        assert!(store.step(&states, finish).await.unwrap()[0].own_hold);
    }
    let text = server.run_in(1, &["GET", "t:f~state"]).text();
    assert_eq!(text.split('@').count() - 1, 2, "{text}");
}

#[tokio::test]
async fn a_full_store_still_takes_holds_finishes_and_purges() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states = states(&["f~state"]);
    let epochs = protocol::epochs(&store.open(&states).await.unwrap()).unwrap();
    store.put("t:f", stored(epochs.clone()), TTL).await.unwrap();
    server.run(&["CONFIG", "SET", "maxmemory", "1"]).unwrap_ok();
    assert_eq!(
        store.put("t:g", stored(epochs), TTL).await,
        Err(Reason::StoreRefused)
    );
    let revoked = store.mark("~revoked:x", clock::now().plus(TTL)).await;
    assert_eq!(revoked, Err(Reason::StoreRefused));
    assert!(
        is_valid(&store, "t:f", &states).await,
        "what is there is served"
    );
    let hold = HoldId(1);
    store
        .step(
            &states,
            Step::Begin {
                hold,
                lasting: HOLD,
            },
        )
        .await
        .unwrap();
    assert!(!is_valid(&store, "t:f", &states).await, "held");
    let finish = Step::Finish {
        hold,
        outcome: Outcome::Changed,
        lasting: HOLD,
    };
    assert!(store.step(&states, finish).await.unwrap()[0].own_hold);
    assert!(!is_valid(&store, "t:f", &states).await, "purged");
    assert!(store.open(&states).await.is_ok());
}

#[tokio::test]
async fn a_script_that_redis_forgot_is_sent_again() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states = states(&["f~state"]);
    server.run(&["SCRIPT", "FLUSH"]).unwrap_ok();
    assert!(matches!(
        store.open(&states).await.unwrap()[..],
        [(_, Seen::Current(_))]
    ));
}

/// More than one call of the script can take: so there are several, and a write is held in all.
#[tokio::test]
async fn a_store_that_hangs_as_its_keys_are_to_be_renewed_is_given_up_like_any() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let list = states(&["list~state"]);
    assert!(store.look_up("t:list", &list).await.is_ok());
    server.freeze();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(25 * 3600)).await;
    tokio::time::resume();
    let looked = tokio::time::timeout(PATIENCE, store.look_up("t:list", &list)).await;
    assert!(matches!(looked, Ok(Err(_))), "whoever asks waits for ever");
    server.thaw();
}

#[tokio::test]
async fn a_step_on_very_many_states_reaches_each_of_them() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let states: Vec<StateKey> = (0..1_000)
        .map(|n| StateKey::new(format!("f{n}~state")))
        .collect();
    let (hold, lasting) = (HoldId(7), HOLD);
    let begin = Step::Begin { hold, lasting };
    assert!(store.announce(&states, begin).await.is_ok());
    let held = server.keys_in(1);
    assert_eq!(
        held.iter().filter(|key| key.ends_with("~state")).count(),
        1_000
    );
    let finish = Step::Finish {
        hold,
        outcome: Outcome::Changed,
        lasting,
    };
    let replies = store.step(&states, finish).await.unwrap();
    assert_eq!(replies.len(), 1_000);
    assert!(
        replies
            .iter()
            .all(|reply| reply.own_hold && reply.seen == Seen::Absent)
    );
    assert!(!server.keys_in(1).iter().any(|key| key.ends_with("~state")));
}

#[tokio::test]
async fn states_that_a_look_up_has_shown_are_opened_in_the_life_that_the_store_lives() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let all = states(&["f~state", "g~all", "h~state"]);
    let seen = |found: Found| found.states;
    // One is there already, one is held, and of one nothing is known.
    store.open(&states(&["g~all"])).await.unwrap();
    let begin = Step::Begin {
        hold: HoldId(1),
        lasting: HOLD,
    };
    store.step(&states(&["h~state"]), begin).await.unwrap();
    let shown = seen(
        store
            .look_up("t:f", &states(&["f~state", "g~all"]))
            .await
            .unwrap(),
    );
    let opened = store.open_after(&all, &shown).await.unwrap();
    let [
        (_, Seen::Current(f)),
        (_, Seen::Current(g)),
        (_, Seen::Held),
    ] = opened[..]
    else {
        panic!("{opened:?}")
    };
    assert_eq!(shown[1].1, Seen::Current(g), "as it was");
    assert_eq!(seen(store.look_up("t:f", &all).await.unwrap()), opened);
    assert_eq!(store.open_after(&all, &opened).await.unwrap(), opened);

    // Another instance finds that the store lives another life, and this one has not heard of it.
    let record = server.run_in(1, &["GET", "t:~incarnation"]).text();
    let other = record.replace(&format!("{:08x}", f.incarnation().0), "000000aa");
    server
        .run_in(1, &["SET", "t:~incarnation", &other])
        .unwrap_ok();
    let shown = seen(
        store
            .look_up("t:i", &states(&["f~state", "i~state"]))
            .await
            .unwrap(),
    );
    let all = states(&["f~state", "i~state"]);
    let opened = store.open_after(&all, &shown).await.unwrap();
    for (state, seen) in opened {
        let Seen::Current(epoch) = seen else {
            panic!("{state}: {seen:?}")
        };
        assert_eq!(epoch.incarnation(), Incarnation(0xaa), "{state}");
    }

    // And where nobody knows which life it is, it begins one.
    server.run_in(1, &["DEL", "t:~incarnation"]);
    let shown = seen(store.look_up("t:j", &states(&["j~state"])).await.unwrap());
    let opened = store
        .open_after(&states(&["j~state"]), &shown)
        .await
        .unwrap();
    let [(_, Seen::Current(epoch))] = opened[..] else {
        panic!("{opened:?}")
    };
    assert_ne!(epoch.incarnation(), Incarnation(0xaa));
}

/// Those who miss in one turn are told by one call: what they share has one epoch, and what is held is held for all.
#[tokio::test]
async fn reads_that_come_together_open_what_they_share_once() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let begin = Step::Begin {
        hold: HoldId(1),
        lasting: HOLD,
    };
    store.step(&states(&["held~state"]), begin).await.unwrap();
    let before = evalshas(&server);
    let mut shown = Vec::new();
    for n in 0..8 {
        let mut all = states(&["g~all", "held~state"]);
        all.insert(0, StateKey::new(format!("f{n}~state")));
        let found = store.look_up("t:f", &all).await.unwrap();
        shown.push((all, found.states));
    }
    let reads = shown
        .iter()
        .map(|(all, shown)| store.open_after(all, shown));
    let opened = futures_util::future::join_all(reads).await;
    let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    assert_eq!(evalshas(&server) - before, 1, "together");
    for seen in &opened {
        assert!(matches!(seen[0].1, Seen::Current(_)), "{seen:?}");
        assert_eq!(seen[1], opened[0][1], "{seen:?}");
        assert_eq!(seen[2].1, Seen::Held, "{seen:?}");
        let all: States = seen.iter().map(|(state, _)| state.clone()).collect();
        assert_eq!(&store.look_up("t:f", &all).await.unwrap().states, seen);
    }
}

/// `cargo test --release --test contract what_a_write_costs -- --ignored --nocapture`
#[tokio::test]
#[ignore = "it measures"]
async fn what_a_write_costs_redis_where_others_hold_what_it_drops() {
    const WRITES: u64 = 9_600;
    let server = RedisServer::start();
    let store = redis(&server).await;
    let lasting = HOLD;
    for (others, together) in [(0, 1), (40, 1), (40, 4), (40, 16), (40, 32)] {
        server.run(&["FLUSHDB"]).unwrap_ok();
        let each = |first: u64, count: u64, finishes: bool| {
            let store = &store;
            let writes = (first..first + count).map(move |n| async move {
                let hold = HoldId(n + 1);
                let own = StateKey::new(format!("f{n}~state"));
                let states = [StateKey::new("list~state"), own];
                match finishes {
                    false => drop(store.announce(&states, Step::Begin { hold, lasting }).await),
                    true => {
                        let outcome = Outcome::Changed;
                        let finish = Step::Finish {
                            hold,
                            outcome,
                            lasting,
                        };
                        let replies = store.step(&states, finish).await.unwrap();
                        assert!(replies.iter().all(|reply| reply.own_hold));
                    }
                }
            });
            futures_util::future::join_all(writes)
        };
        each(0, others, false).await;
        let before = cpu_of(&server);
        for first in (0..WRITES).step_by(together as usize) {
            each(others + first, together, false).await;
            each(first, together, true).await;
        }
        let cost = (cpu_of(&server) - before) * 1e6 / WRITES as f64;
        println!("{others} others, {together} together: {cost:.1} µs of Redis's CPU a write");
        each(WRITES, others, true).await;
    }
}

/// In seconds.
fn cpu_of(server: &RedisServer) -> f64 {
    let info = server.run(&["INFO", "cpu"]).text();
    let names = ["used_cpu_user:", "used_cpu_sys:"];
    let figures = info
        .lines()
        .filter_map(|line| names.iter().find_map(|name| line.strip_prefix(name)));
    figures.map(|figure| figure.parse::<f64>().unwrap()).sum()
}

fn evalshas(server: &RedisServer) -> u64 {
    let info = server.run(&["INFO", "commandstats"]).text();
    let mut lines = info.lines();
    let calls = lines.find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_write_holds_what_is_none_of_ours_and_leaves_nothing_of_it() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    let state = states(&["f~state"]);
    for foreign in [
        &["SET", "t:f~state", "garbage"][..],
        &["SET", "t:f~state", "5f-0123456789abcdef x@y"],
        &["SET", "t:f~state", "garbage 0123456789abcdef@9999999999999"],
        &["HSET", "t:f~state", "a", "b"],
    ] {
        server.run_in(1, &["DEL", "t:f~state"]);
        server.run_in(1, foreign);
        let (hold, lasting) = (HoldId(1), HOLD);
        let begin = Step::Begin { hold, lasting };
        store.step(&state, begin).await.unwrap();
        let seen = store.look_up("t:f", &state).await.unwrap().states;
        assert_eq!(seen[0].1, Seen::Held, "{foreign:?}");
        assert!(
            server.run_in(1, &["PTTL", "t:f~state"]).number() > 0,
            "{foreign:?}"
        );
        let outcome = Outcome::Unchanged;
        let finish = Step::Finish {
            hold,
            outcome,
            lasting,
        };
        let replies = store.step(&state, finish).await.unwrap();
        assert!(replies[0].own_hold, "{foreign:?}");
        let seen = store.look_up("t:f", &state).await.unwrap().states;
        assert!(!matches!(seen[0].1, Seen::Current(_)), "{foreign:?}");
    }
}

#[tokio::test]
async fn a_state_that_is_none_of_ours_is_absent_and_replaced() {
    let server = RedisServer::start();
    let store = redis(&server).await;
    for foreign in [
        &["SET", "t:f~state", "garbage"][..],
        &["SET", "t:f~state", "0-0123456789abcdefg"],
        &["SET", "t:f~state", "5f-0123456789abcdef x@y"],
        &["HSET", "t:f~state", "a", "b"],
        &["RPUSH", "t:f~state", "a"],
    ] {
        server.run_in(1, &["DEL", "t:f~state"]);
        server.run_in(1, foreign);
        let states = states(&["f~state"]);
        assert!(
            matches!(
                store.look_up("t:f", &states).await.unwrap().states[..],
                [(_, Seen::Absent)]
            ),
            "{foreign:?}"
        );
        assert!(
            matches!(
                store.open(&states).await.unwrap()[..],
                [(_, Seen::Current(_))]
            ),
            "{foreign:?}"
        );
        assert!(
            matches!(
                store.look_up("t:f", &states).await.unwrap().states[..],
                [(_, Seen::Current(_))]
            ),
            "{foreign:?}"
        );
    }
}
