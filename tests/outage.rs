//! The store's other lives: it comes back older than it was, or empty in the middle of a write, or is lost between a
//! write and its purge. Whatever was written since stays unseen by nobody.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::client::head;
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::redis::RedisServer;
use support::relay::{Relay, Way};
use support::{Gate, PATIENCE, eventually, users_api};

const LIST: &str = "/api/users/";
const USER: &str = "/api/users/7/";

/// There, and as long back.
const FAR: Duration = Duration::from_millis(15);

/// An API whose every answer is how many writes it has made. A write waits behind `before` and `after` its commit.
struct Versioned {
    origin: Origin,
    before: Gate,
    after: Gate,
}

impl Versioned {
    fn start() -> Versioned {
        let version = Arc::new(AtomicU64::new(0));
        let (before, after) = (Gate::new(), Gate::new());
        before.open();
        after.open();
        let (first, second) = (before.clone(), after.clone());
        let answer = move |request: &Request| {
            if request.method != "GET" {
                first.wait();
                version.fetch_add(1, Ordering::SeqCst);
                second.wait();
            }
            origin::json(version.load(Ordering::SeqCst).to_string())
        };
        Versioned {
            origin: Origin::start(answer),
            before,
            after,
        }
    }
}

#[track_caller]
fn becomes_a_hit(larder: &Larder, target: &str, text: &str) {
    eventually(&format!("{target} is a hit"), || {
        let answer = larder.get(target);
        assert_eq!(answer.text(), text, "{target}: {answer:?}");
        answer.is_hit()
    });
}

#[test]
fn a_store_that_comes_back_from_an_older_snapshot_shows_nothing_of_it_to_any_instance() {
    let mut redis = RedisServer::start();
    let api = Versioned::start();
    let old = Larder::start(users_api(&api.origin, &redis.url(), ""));
    for target in [LIST, USER] {
        becomes_a_hit(&old, target, "0");
    }
    // The snapshot holds the copies and the epochs under which they are valid.
    redis.run(&["SAVE"]).unwrap_ok();
    assert_eq!(old.write("PATCH", USER).text(), "1");
    for target in [LIST, USER] {
        becomes_a_hit(&old, target, "1");
    }
    redis.kill();
    redis.start_again();
    assert!(
        redis.keys().contains(&"t:users:list".to_owned()),
        "it came back with its snapshot: {:?}",
        redis.keys()
    );
    // One that has never been connected, and one that was.
    let new = Larder::start(users_api(&api.origin, &redis.url(), ""));
    for larder in [&new, &old] {
        for target in [LIST, USER] {
            becomes_a_hit(larder, target, "1");
        }
    }
}

#[test]
fn a_store_that_comes_back_empty_in_the_middle_of_a_write_keeps_nothing_until_it_is_done() {
    let mut redis = RedisServer::start();
    let api = Versioned::start();
    let [writer, reader] =
        [(); 2].map(|()| Larder::start(users_api(&api.origin, &redis.url(), "")));
    becomes_a_hit(&reader, LIST, "0");
    api.before.close();
    let writing = std::thread::scope(|scope| {
        let write = scope.spawn(|| writer.write("PATCH", USER));
        eventually("the write is on its way", || {
            api.origin.count_of("PATCH") == 1
        });
        redis.kill();
        redis.start_again();
        eventually("both are connected again", || {
            writer.is_ready() && reader.is_ready()
        });
        eventually("the hold is back", || {
            let state = redis.get("t:users:list~state").unwrap_or_default();
            String::from_utf8_lossy(&state).contains('@')
        });
        for _ in 0..20 {
            let answer = reader.get(LIST);
            assert!(!answer.is_hit() && answer.text() == "0", "{answer:?}");
        }
        api.before.open();
        write.join().expect("the writer")
    });
    assert_eq!(writing.text(), "1");
    becomes_a_hit(&reader, LIST, "1");
}

/// Found by `tests/explore.rs`: between the store's return and the write's purge, the past was kept.
#[test]
fn a_write_that_was_forwarded_while_the_store_was_away_is_held_as_soon_as_it_is_back() {
    let mut redis = RedisServer::start();
    let api = Versioned::start();
    let [writer, reader] =
        [(); 2].map(|()| Larder::start(users_api(&api.origin, &redis.url(), "")));
    becomes_a_hit(&reader, LIST, "0");
    redis.kill();
    eventually("both have noticed", || {
        !writer.is_ready() && !reader.is_ready()
    });
    api.before.close();
    std::thread::scope(|scope| {
        let write = scope.spawn(|| writer.write("PATCH", USER));
        eventually("the write is on its way, unheld", || {
            api.origin.count_of("PATCH") == 1
        });
        redis.start_again();
        eventually("both are connected again", || {
            writer.is_ready() && reader.is_ready()
        });
        let state = redis.get("t:users:list~state").unwrap_or_default();
        let state = String::from_utf8_lossy(&state).into_owned();
        assert!(state.contains('@'), "it holds: {state:?}");
        assert!(!reader.get(LIST).is_hit());
        api.before.open();
        assert_eq!(write.join().expect("the writer").text(), "1");
    });
    becomes_a_hit(&reader, LIST, "1");
}

#[test]
fn a_write_whose_purge_cannot_be_confirmed_is_answered_504_where_writes_are_refused_and_purged_all_the_same()
 {
    let mut redis = RedisServer::start();
    let api = Versioned::start();
    let larder = Larder::start(users_api(
        &api.origin,
        &redis.url(),
        "when_store_is_down: refuse_writes",
    ));
    becomes_a_hit(&larder, LIST, "0");
    redis.run(&["SAVE"]).unwrap_ok();
    api.after.close();
    let answer = std::thread::scope(|scope| {
        let write = scope.spawn(|| larder.write("PATCH", USER));
        eventually("the write is on its way", || {
            api.origin.count_of("PATCH") == 1
        });
        redis.kill();
        eventually("larder has noticed", || !larder.is_ready());
        api.after.open();
        write.join().expect("the writer")
    });
    assert_eq!(answer.status, 504, "{answer:?}");
    let said = answer.cache_status();
    assert!(said.ends_with("detail=unconfirmed"), "{said}");
    redis.start_again();
    becomes_a_hit(&larder, LIST, "1");
}

#[test]
fn what_the_store_was_not_told_it_is_told_before_it_is_used_again() {
    let redis = RedisServer::start();
    let api = Versioned::start();
    let larder = Larder::start(users_api(&api.origin, &redis.url(), ""));
    becomes_a_hit(&larder, LIST, "0");
    // The same life of the store, with the old copy and its epoch still there.
    redis.freeze();
    assert_eq!(larder.write("PATCH", USER).text(), "1");
    redis.thaw();
    becomes_a_hit(&larder, LIST, "1");
}

#[test]
fn writes_whose_fate_is_unknown_are_put_back_as_one_hold() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let origin = Origin::start(|request| match &*request.method {
        "GET" => origin::json("x"),
        _ => origin::status(503, "{}"),
    });
    let larder = Larder::start(users_api(&origin, &relay.url(), ""));
    for _ in 0..100 {
        assert_eq!(larder.write("PATCH", USER).status, 503);
    }
    let holds = || {
        let state = redis.get("t:users:list~state").unwrap_or_default();
        state.iter().filter(|&&byte| byte == b'@').count()
    };
    assert_eq!(holds(), 1);
    relay.becomes(Way::Cut);
    eventually("it is cut off", || !larder.is_ready());
    redis.run(&["FLUSHALL"]).unwrap_ok();
    relay.becomes(Way::Open);
    eventually("it is back", || larder.is_ready());
    assert_eq!(holds(), 1);
    assert!(!larder.get(LIST).is_hit() && !larder.get(LIST).is_hit());
}

#[test]
fn an_attempt_to_connect_that_nobody_will_ever_answer_holds_up_no_other() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let api = Versioned::start();
    // So long that this test would not wait for one attempt to be given up.
    let patient =
        users_api(&api.origin, &relay.url(), "").replace("prefix: t", "prefix: t, timeout: 10s");
    let larder = Larder::start(patient);
    becomes_a_hit(&larder, LIST, "0");
    relay.becomes(Way::Cut);
    eventually("the store is away", || !larder.is_ready());
    relay.becomes(Way::Swallows);
    eventually("an attempt is swallowed", || relay.swallowed() > 0);
    relay.becomes(Way::Open);
    becomes_a_hit(&larder, LIST, "0");
}

/// Nor is it lost, if it has room for nobody else: it is this process that is late, and would not get in again.
#[test]
fn a_store_that_sends_others_away_is_one_that_answers() {
    let redis = RedisServer::builder().password("s3cr3t").start();
    let relay = Relay::to(redis.port());
    let api = Versioned::start();
    let url = relay.url().replace("//", "//:s3cr3t@");
    let file = users_api(&api.origin, &url, "").replace("prefix: t", "prefix: t, timeout: 1s");
    let larder = Larder::start(file);
    becomes_a_hit(&larder, LIST, "0");
    relay.becomes(Way::Full);
    let mut client = larder.connect();
    client.send(head("GET", LIST, &[], None).as_bytes());
    eventually("it was asked twice", || relay.sent_away() >= 2);
    relay.becomes(Way::Open);
    let answer = client.answer("GET");
    assert!(answer.is_hit(), "{answer:?}");
}

#[test]
fn a_server_that_comes_back_is_another_though_the_first_word_to_it_was_lost() {
    let (one, other) = (RedisServer::start(), RedisServer::start());
    let relay = Relay::to(one.port());
    let api = Versioned::start();
    let larder = Larder::start(users_api(&api.origin, &relay.url(), ""));
    becomes_a_hit(&larder, LIST, "0");
    let moves_to = |server: &RedisServer| {
        relay.leads_to(server.port());
        relay.becomes(Way::Cut);
        relay.becomes(Way::Open);
    };
    moves_to(&other);
    eventually("the other one is used", || {
        larder.get(LIST);
        other.keys().contains(&"t:users:list".to_owned())
    });
    assert_eq!(larder.write("PATCH", USER).text(), "1");
    becomes_a_hit(&larder, LIST, "1");
    // The first one has the copy of before, and its epoch.
    relay.breaks_at("anew");
    moves_to(&one);
    eventually("the first word is lost", || relay.has_broken());
    becomes_a_hit(&larder, LIST, "1");
}

/// The whole replay had as long as connecting has, and one step after the other.
#[test]
fn an_instance_whose_writes_were_in_flight_is_back_though_its_store_is_far() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    relay.becomes(Way::Slow(FAR));
    let api = Versioned::start();
    let larder = Larder::start(users_api(&api.origin, &relay.url(), ""));
    api.before.close();
    let mut writers: Vec<_> = (0..60).map(|_| larder.connect()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        let target = format!("/api/users/{n}/");
        writer.send(head("PATCH", &target, &[], Some(0)).as_bytes());
    }
    eventually("all are on their way", || {
        api.origin.count_of("PATCH") == writers.len()
    });
    relay.becomes(Way::Cut);
    eventually("the store is away", || !larder.is_ready());
    api.before.open();
    for writer in &mut writers {
        assert_eq!(writer.answer("PATCH").status, 200);
    }
    relay.becomes(Way::Slow(FAR));
    eventually("it is back", || larder.is_ready());
    becomes_a_hit(&larder, LIST, "60");
}

/// Who began the new life trusted it before the writer was back.
#[test]
fn a_late_commit_is_seen_though_the_store_restarts_and_its_writer_has_much_to_put_back() {
    let mut redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let committed = Arc::new(AtomicU64::new(0));
    let version = committed.clone();
    let origin = Origin::start(move |request| match &*request.method {
        "GET" => origin::json(version.load(Ordering::SeqCst).to_string()),
        _ => origin::status(503, "{}"),
    });
    relay.becomes(Way::Slow(Duration::from_millis(2)));
    let writer = Larder::start(users_api(&origin, &relay.url(), "logs: {access: false}"));
    let reader = Larder::start(users_api(&origin, &redis.url(), ""));
    becomes_a_hit(&reader, USER, "0");
    // An API that is being restarted: nobody knows what becomes of these.
    let mut client = writer.connect();
    for n in 100..500 {
        client.request("PATCH", &format!("/api/users/{n}/"), &[], b"{}");
    }
    assert_eq!(writer.write("PATCH", USER).status, 503);
    redis.kill();
    redis.start_again();
    eventually("the reader trusts its store", || {
        reader.is_ready() && !reader.admin("GET", "/readyz").text().contains("settling")
    });
    assert_eq!(reader.get(USER).text(), "0");
    committed.store(1, Ordering::SeqCst);
    assert_eq!(reader.get(USER).text(), "1");
}

/// Hits went on, older the longer they went.
#[test]
fn a_server_that_has_become_a_replica_is_asked_no_more() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let api = Versioned::start();
    let stays = Larder::start(users_api(&api.origin, &first.url(), ""));
    becomes_a_hit(&stays, LIST, "0");
    replicate(&second, &first);
    // A failover by hand: no client loses its connection, and nothing is sent again.
    second.run(&["REPLICAOF", "NO", "ONE"]).unwrap_ok();
    replicate(&first, &second);
    eventually("it has learnt of it by its hits", || {
        stays.get(LIST);
        !stays.is_ready()
    });
    assert!(!stays.get(LIST).is_hit());
    // And not how the last link was lost.
    eventually("it says why it is not asked", || {
        stays.admin("GET", "/readyz").text().contains("READONLY")
    });
    assert!(stays.output().contains("READONLY"));
}

/// It did not learn of the new life before a miss of its own.
#[test]
fn who_has_stayed_hears_of_what_was_written_at_another_server_once_the_writer_is_back() {
    let (one, other) = (RedisServer::start(), RedisServer::start());
    let relay = Relay::to(one.port());
    let api = Versioned::start();
    let stays = Larder::start(users_api(&api.origin, &one.url(), ""));
    let goes = Larder::start(users_api(&api.origin, &relay.url(), ""));
    for larder in [&stays, &goes] {
        becomes_a_hit(larder, LIST, "0");
    }
    let moves_to = |server: &RedisServer| {
        relay.leads_to(server.port());
        relay.becomes(Way::Cut);
        relay.becomes(Way::Open);
    };
    moves_to(&other);
    eventually("the other server is used", || {
        goes.get(LIST);
        other.keys().contains(&"t:users:list".to_owned())
    });
    assert_eq!(goes.write("PATCH", USER).text(), "1");
    let life = one.get("t:~incarnation");
    moves_to(&one);
    eventually("its return begins a new life", || {
        one.get("t:~incarnation") != life
    });
    // Idle for longer than what it knows may be old.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(stays.get(LIST).text(), "1");
}

/// What was written while a link was told what is owed came to be owed, too, and so on for as long as somebody wrote.
#[test]
fn an_instance_that_is_written_to_all_the_time_is_back_though_its_store_is_far() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    relay.becomes(Way::Slow(FAR));
    let api = Versioned::start();
    let larder = Larder::start(users_api(
        &api.origin,
        &relay.url(),
        "logs: {access: false}",
    ));
    relay.becomes(Way::Cut);
    eventually("the store is away", || !larder.is_ready());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (larder, stop) = (&larder, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    larder.write("PATCH", &format!("/api/users/{n}/"));
                }
            });
        }
        eventually("writes pass", || api.origin.count_of("PATCH") > 100);
        relay.becomes(Way::Slow(FAR));
        let begun = Instant::now();
        while !larder.is_ready() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_back = larder.is_ready();
        stop.store(true, Ordering::SeqCst);
        assert!(is_back, "not within {PATIENCE:?}");
    });
}

/// Nobody asked for anything while it was the copy of one that had missed a write, and no client lost its connection: it
/// was taken for the one that it had been.
#[test]
fn a_server_that_was_a_replica_for_a_while_shows_nothing_of_what_it_was_given() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let api = Versioned::start();
    let larder = Larder::start(users_api(&api.origin, &first.url(), ""));
    becomes_a_hit(&larder, LIST, "0");
    replicate(&second, &first);
    second.run(&["REPLICAOF", "NO", "ONE"]).unwrap_ok();
    assert_eq!(larder.write("PATCH", USER).text(), "1");
    becomes_a_hit(&larder, LIST, "1");
    // Over to the other one by hand, and back.
    replicate(&first, &second);
    first.run(&["REPLICAOF", "NO", "ONE"]).unwrap_ok();
    // Idle for longer than what it knows may be old.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(larder.get(LIST).text(), "1");
    becomes_a_hit(&larder, LIST, "1");
}

fn replicate(server: &RedisServer, of: &RedisServer) {
    let port = of.port().to_string();
    server.run(&["REPLICAOF", "127.0.0.1", &port]).unwrap_ok();
    eventually("it is a replica", || {
        let told = server.run(&["INFO", "replication"]).text();
        told.contains("master_link_status:up")
    });
}

/// What is owed becomes everything then, which was copies alone: by what had been said of it a credential had those of others.
#[test]
fn a_logout_counts_though_more_was_written_without_the_store_than_is_remembered() {
    const WRITES: usize = 10_400;
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let is_out = Arc::new(AtomicBool::new(false));
    let logged_out = is_out.clone();
    let origin = Origin::start(move |request| {
        logged_out.fetch_or(request.target == "/logout/", Ordering::SeqCst);
        let is_refused = request.method == "GET"
            && request.fields.get("Authorization") == Some("Token a")
            && logged_out.load(Ordering::SeqCst);
        match is_refused {
            true => origin::status(401, "{}"),
            false => origin::json("[]"),
        }
    });
    let file = |store: &str| {
        format!(
            r#"upstream: {}
store: {{url: "{store}", database: 1, prefix: t}}
ttl: 1h
logs: {{level: warn, access: false}}
routes:
  - {{path: /api/users/, key: users:list, access: {{verify: /api/users/me/, for: 1h}}}}
  - {{path: "/api/things/<int:id>/", key: "things:{{id}}"}}
purge:
  - {{methods: PUT, path: "/api/things/<int:id>/", keys: ["things:{{id}}"]}}
"#,
            origin.url()
        )
    };
    let [goes, stays] = [relay.url(), redis.url()].map(|store| Larder::start(file(&store)));
    let [own, other] = ["Token a", "Token b"].map(|token| [("Authorization", token)]);
    let becomes_a_hit_for =
        |token| eventually("it is a hit", || stays.get_with(LIST, token).is_hit());
    becomes_a_hit_for(&own);
    relay.becomes(Way::Cut);
    eventually("one is cut off", || !goes.is_ready());
    assert_eq!(goes.request("POST", "/logout/", &own, b"").status, 200);
    std::thread::scope(|scope| {
        for first in 0..4 {
            let mut client = goes.connect();
            scope.spawn(move || {
                for n in (first..WRITES).step_by(4) {
                    client.request("PUT", &format!("/api/things/{n}/"), &[], b"{}");
                }
            });
        }
    });
    assert!(goes.output().contains("too many purges are owed"));
    relay.becomes(Way::Open);
    eventually("it is back", || goes.is_ready());
    becomes_a_hit_for(&other);
    assert_eq!(stays.get_with(LIST, &own).status, 401);
}
