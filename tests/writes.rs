//! Never stale after a write: what races one, and what a vanished client or an unsure answer leaves behind.
//! G1 (nothing older after an answered write) and G2 (nothing older than was shown), on one instance and on two.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::client::head;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::wall_clock::WallClock;
use support::{Gate, eventually, users_api};

const LIST: &str = "/api/users/";
const USER: &str = "/api/users/7/";

#[test]
fn a_read_after_a_write_never_joins_a_fetch_from_before_it() {
    for_each_deployment(|store, instances| {
        let (api, larders) = start(store, instances);
        for target in [LIST, USER] {
            let before = api.version();
            api.reads.close();
            let mut early = larders[0].connect();
            early.send(head("GET", target, &[], None).as_bytes());
            eventually("the early read is at the origin", || {
                api.waiting_reads() == 1
            });
            assert_eq!(
                larders[0].write("PATCH", USER).text(),
                (before + 1).to_string()
            );
            let mut late: Vec<_> = larders.iter().map(|larder| larder.connect()).collect();
            for client in &mut late {
                client.send(head("GET", target, &[], None).as_bytes());
            }
            eventually("the late reads are at the origin, too", || {
                api.waiting_reads() == 1 + larders.len()
            });
            api.reads.open();
            for mut client in late {
                assert_eq!(
                    client.answer("GET").text(),
                    (before + 1).to_string(),
                    "{target}"
                );
            }
            // The early one began before the write was answered, and may show either.
            early.answer("GET");
            for larder in &larders {
                for _ in 0..2 {
                    assert_eq!(
                        larder.get(target).text(),
                        (before + 1).to_string(),
                        "{target}: a fill from before"
                    );
                }
            }
            larders[0].write("PATCH", USER);
        }
    });
}

#[test]
fn a_read_during_a_write_is_never_followed_by_an_older_one() {
    for_each_deployment(|store, instances| {
        let (api, larders) = start(store, instances);
        for larder in &larders {
            for target in [LIST, USER] {
                larder.get(target);
                assert!(larder.get(target).is_hit());
            }
        }
        // Committed at the origin, and not yet answered.
        api.writes.close();
        let mut writer = larders[0].connect();
        writer.send(head("PATCH", USER, &[], Some(0)).as_bytes());
        eventually("the write is committed", || api.version() == 1);
        for larder in &larders {
            for target in [LIST, USER] {
                let answer = larder.get(target);
                assert!(
                    answer.text() == "1" && !answer.is_hit(),
                    "{target} during the write: {answer:?}"
                );
            }
        }
        api.writes.open();
        assert_eq!(writer.answer("PATCH").text(), "1");
        for larder in &larders {
            for target in [LIST, USER] {
                assert_eq!(larder.get(target).text(), "1", "{target}");
            }
        }
    });
}

#[test]
fn the_write_of_a_client_that_has_left_runs_on_and_purges() {
    for_each_deployment(|store, instances| {
        let (api, larders) = start(store, instances);
        for target in [LIST, USER] {
            larders[0].get(target);
        }
        api.writes.close();
        let mut writer = larders[0].connect();
        writer.send(head("PATCH", USER, &[], Some(0)).as_bytes());
        eventually("the write is committed", || api.version() == 1);
        writer.reset();
        for larder in &larders {
            assert_eq!(larder.get(LIST).text(), "1");
        }
        api.writes.open();
        for larder in &larders {
            for target in [LIST, USER] {
                eventually("answers are kept again", || {
                    let answer = larder.get(target);
                    assert_eq!(answer.text(), "1", "{target}");
                    answer.is_hit()
                });
            }
        }
        assert_eq!(api.origin.count_of("PATCH"), 1);
    });
}

#[test]
fn a_write_whose_fate_is_unknown_keeps_reads_away_from_the_past() {
    for_each_deployment(|store, instances| {
        for end in ["500", "502", "504", "hang up", "reset", "half"] {
            let (_api, larders) = start(store, instances);
            for larder in &larders {
                larder.get(LIST);
            }
            // Committed by the origin all the same.
            let answer = larders[0].request("PATCH", USER, &[("X-End", end)], b"{}");
            let (status, whole) = (answer.status, answer.content.whole);
            assert!(status >= 500 || !whole, "{end}: {answer:?}");
            for larder in &larders {
                for _ in 0..3 {
                    assert_eq!(larder.get(LIST).text(), "1", "{end}");
                }
            }
        }
    });
}

#[test]
fn two_writes_at_once_are_both_seen() {
    for_each_deployment(|store, instances| {
        let (api, larders) = start(store, instances);
        api.writes.close();
        let mut first = larders[0].connect();
        first.send(head("PATCH", USER, &[], Some(0)).as_bytes());
        eventually("the first write is committed", || api.version() == 1);
        // The second comes and goes while the first is still in flight: its finish must leave the first one's hold.
        let last = larders.last().unwrap();
        assert_eq!(
            last.request("PATCH", USER, &[("X-Gate", "no")], b"{}")
                .text(),
            "2"
        );
        for larder in &larders {
            for _ in 0..3 {
                let answer = larder.get(LIST);
                assert!(
                    answer.text() == "2" && !answer.is_hit(),
                    "while the first is in flight: {answer:?}"
                );
            }
        }
        api.writes.open();
        first.answer("PATCH");
        for larder in &larders {
            assert_eq!(larder.get(LIST).text(), "2");
            assert!(larder.get(LIST).is_hit());
        }
    });
}

#[test]
fn a_state_key_deleted_by_hand_is_a_purge_and_not_a_reprieve() {
    let redis = RedisServer::start();
    let (api, larders) = start(&redis.url(), 2);
    for pattern in ["~state", "~all"] {
        larders[0].get(USER);
        assert!(larders[1].get(USER).is_hit());
        api.commit_behind_our_back();
        for key in redis.keys().iter().filter(|key| key.ends_with(pattern)) {
            redis.run(&["DEL", key]);
        }
        for larder in &larders {
            assert_eq!(
                larder.get(USER).text(),
                api.version().to_string(),
                "after a DEL of {pattern}"
            );
        }
    }
}

/// Embedded, one instance on Redis, two instances on Redis.
fn for_each_deployment(test: impl Fn(&str, usize)) {
    test("memory:", 1);
    for instances in [1, 2] {
        test(&RedisServer::start().url(), instances);
    }
}

fn start(store: &str, instances: usize) -> (Api, Vec<Larder>) {
    // Each deployment on a server of its own would do as well; a prefix is cheaper.
    static PREFIX: AtomicU64 = AtomicU64::new(0);
    let prefix = format!("prefix: t{}", PREFIX.fetch_add(1, Ordering::Relaxed));
    let api = Api::start();
    let yaml = users_api(&api.origin, store, "").replace("prefix: t", &prefix);
    let larders = (0..instances)
        .map(|_| Larder::start(yaml.clone()))
        .collect();
    (api, larders)
}

/// A users API whose state is one number. A write commits the next and then waits at its gate; a read takes the
/// state and then waits at its own, so that an answer can be older than the moment of its arrival.
struct Api {
    origin: Origin,
    version: Arc<AtomicU64>,
    waiting_reads: Arc<AtomicU64>,
    reads: Gate,
    writes: Gate,
}

impl Api {
    fn start() -> Api {
        let (reads, writes) = (Gate::new(), Gate::new());
        reads.open();
        writes.open();
        let (version, waiting_reads) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let origin = Origin::start({
            let (reads, writes, version, waiting) = (
                reads.clone(),
                writes.clone(),
                version.clone(),
                waiting_reads.clone(),
            );
            move |request| {
                if request.method == "GET" {
                    let state = version.load(Ordering::SeqCst);
                    waiting.fetch_add(1, Ordering::SeqCst);
                    reads.wait();
                    waiting.fetch_sub(1, Ordering::SeqCst);
                    return origin::json(state.to_string());
                }
                let state = (version.fetch_add(1, Ordering::SeqCst) + 1).to_string();
                if request.fields.get("x-gate") != Some("no") {
                    writes.wait();
                }
                match request.fields.get("x-end") {
                    None => origin::json(state),
                    Some("hang up") => origin::hang_up(),
                    Some("reset") => origin::hang_up().resetting(),
                    Some("half") => origin::json(state + "  ").cut_after(1),
                    Some(status) => origin::status(status.parse().unwrap(), state),
                }
            }
        });
        Api {
            origin,
            version,
            waiting_reads,
            reads,
            writes,
        }
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// As a management command or raw SQL would: no proxy hears of it.
    fn commit_behind_our_back(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    fn waiting_reads(&self) -> usize {
        self.waiting_reads.load(Ordering::SeqCst) as usize
    }
}

/// As of a replica: whoever asks right after a write is shown what was before it.
#[test]
fn what_an_api_whose_reads_lag_still_shows_is_not_kept() {
    const OTHERS: [&str; 2] = ["/api/users/8/", "/api/users/9/"];
    for_each_deployment(|store, instances| {
        let is_behind = Arc::new(AtomicBool::new(true));
        let shown = is_behind.clone();
        let origin = Origin::start(move |_| {
            origin::json(match shown.load(Ordering::SeqCst) {
                true => "past",
                false => "present",
            })
        });
        let url = origin.url();
        let yaml =
            users_api(&origin, store, "").replace(&url, &format!("{{url: '{url}', lag: 5s}}"));
        let larders: Vec<_> = (0..instances)
            .map(|_| Larder::start(yaml.clone()))
            .collect();
        for target in [LIST, USER, OTHERS[0], OTHERS[1]] {
            larders[0].get(target);
            assert!(larders.iter().all(|larder| larder.get(target).is_hit()));
        }
        assert_eq!(larders[0].write("PATCH", USER).status, 200);
        larders[0].purge(&["users:detail:8"]);
        larders[0].purge_softly(&["users:detail:9"]);
        for larder in &larders {
            for target in [LIST, USER, OTHERS[0]] {
                let answer = larder.get(target);
                assert_eq!(answer.text(), "past", "{target}");
                let said = answer.cache_status();
                assert!(said.ends_with("detail=held"), "{target}: {said}");
            }
            larder.get(OTHERS[1]);
        }
        is_behind.store(false, Ordering::SeqCst);
        for larder in &larders {
            for target in [LIST, USER, OTHERS[0]] {
                eventually("it is kept again", || {
                    let answer = larder.get(target);
                    assert_eq!(answer.text(), "present", "{target}");
                    answer.is_hit()
                });
            }
            eventually("what was outdated is of the present", || {
                larder.get(OTHERS[1]).text() == "present"
            });
        }
    });
}

/// One hold stands for all of them, and in the store: so a state does not grow with them, and nobody need live until it is over.
#[test]
fn where_reads_lag_a_state_does_not_grow_with_its_writes_nor_is_it_held_for_longer_if_who_wrote_is_gone()
 {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("{}"));
    let url = origin.url();
    let yaml = |lag: &str| {
        let upstream = format!("{{url: '{url}', lag: {lag}}}");
        users_api(&origin, &redis.url(), "").replace(&url, &upstream)
    };
    let state = || {
        let text = redis.run_in(1, &["GET", "t:users:list~state"]).text();
        text.split(' ').skip(1).count()
    };
    let writer = Larder::start(yaml("1s"));
    let reader = Larder::start(yaml("1s"));
    for _ in 0..20 {
        assert_eq!(writer.write("PATCH", USER).status, 200);
        writer.purge(&["users:list"]);
        assert_eq!(state(), 1, "holds");
    }
    let told = writer.admin("GET", "/purges").text();
    assert_eq!(told.matches("PATCH").count(), 20, "told at once: {told}");
    writer.kill();
    eventually("it is kept again", || reader.get(LIST).is_hit());
}

/// The instance puts it back, as it does the hold of a write in flight.
#[test]
fn what_is_held_for_a_lag_is_held_by_a_store_that_has_restarted_too() {
    let mut redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("past"));
    let url = origin.url();
    let yaml =
        users_api(&origin, &redis.url(), "").replace(&url, &format!("{{url: '{url}', lag: 1m}}"));
    let larder = Larder::start(yaml);
    assert_eq!(larder.write("PATCH", USER).status, 200);
    larder.purge(&["users:detail:8"]);
    redis.kill();
    assert_eq!(larder.write("PATCH", "/api/users/6/").status, 200);
    redis.start_again();
    eventually("something is kept again", || {
        larder.get("/api/users/9/").is_hit()
    });
    for target in [LIST, USER, "/api/users/8/", "/api/users/6/"] {
        for _ in 0..2 {
            let said = larder.get(target).cache_status();
            assert!(said.ends_with("detail=held"), "{target}: {said}");
        }
    }
}

/// Django takes it for the method, whatever its case.
#[test]
fn a_write_whose_method_is_in_lower_case_drops_what_the_rule_for_it_names() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", "methods: any"));
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    assert_eq!(larder.write("patch", USER).status, 200);
    assert!(!larder.get(LIST).is_hit());
}

/// Express and Rails take these for the same path, DRF and Rails the format at its end for how it is answered.
#[test]
fn a_write_drops_what_it_is_written_to_however_loosely_the_api_reads_its_path() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for (method, target, dropped) in [
        ("POST", "/api/users", [LIST].as_slice()),
        ("POST", "/API/Users/", &[LIST]),
        ("POST", "/api/users.json", &[LIST]),
        ("POST", "/api/users.json/?x=1", &[LIST]),
        ("PATCH", "/api/users/7", &[LIST, USER]),
        ("PATCH", "/Api/users/7", &[LIST, USER]),
        ("PATCH", "/api/users/7.json", &[LIST, USER]),
        ("DELETE", "/API/USERS/07.json/", &[LIST, USER]),
        ("POST", "/api/Users/7/activate", &[LIST, USER]),
    ] {
        for read in [LIST, USER] {
            larder.get(read);
            assert!(larder.get(read).is_hit(), "{read}");
        }
        assert_eq!(larder.write(method, target).status, 200);
        for read in [LIST, USER] {
            let is_kept = !dropped.contains(&read);
            assert_eq!(
                larder.get(read).is_hit(),
                is_kept,
                "{method} {target}: {read}"
            );
        }
    }
}

/// Where no rule names it, the path of a route is read as loosely.
#[test]
fn a_write_that_no_rule_names_drops_the_route_whose_path_a_loose_api_would_take_it_for() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: \"/users/<str:name>\", key: \"users:{{name}}\"}}\n",
        origin.url()
    ));
    let (read, other) = ("/users/ann", "/users/bob");
    for target in ["/users/ann/", "/Users/ann", "/users/ann.json"] {
        for read in [read, other] {
            larder.get(read);
            assert!(larder.get(read).is_hit());
        }
        larder.write("PATCH", target);
        assert!(!larder.get(read).is_hit(), "{target}");
        assert!(larder.get(other).is_hit(), "{target}");
    }
}

#[test]
fn by_the_apis_own_word_a_write_drops_its_target_to_the_letter() {
    let origin = Origin::start(|_| origin::json("{}").field("Cache-Control", "max-age=60"));
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: \"/<path:rest>\", policy: http}}\n",
        origin.url()
    ));
    larder.get("/users/a");
    for other in ["/users/a.json", "/users/a/", "/Users/a"] {
        larder.write("PATCH", other);
        assert!(larder.get("/users/a").is_hit(), "{other}");
    }
    larder.write("PATCH", "/users/a");
    assert!(!larder.get("/users/a").is_hit());
}

/// A later route's path is no other reading of it; and one that another rule names, read loosely, takes nothing away from the API's word.
#[test]
fn by_the_apis_own_word_an_answers_location_is_dropped_whatever_else_reads_the_path_loosely() {
    let origin = Origin::start(|request| match request.method.as_str() {
        "GET" => origin::json("{}").field("Cache-Control", "max-age=60"),
        _ => origin::status(201, "").field("Location", "/notes/7"),
    });
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nttl: 1h\nroutes:\n  - {{path: \"/Tags\", key: tags}}\n  - {{path: \"/notes/<path:rest>\", policy: http}}\n  - {{path: \"/tags\", policy: http}}\n  - {{path: \"/<path:rest>\", key: \"rest:{{rest}}\"}}\n",
        origin.url()
    ));
    for target in ["/notes/all", "/notes/all/", "/tags"] {
        for read in ["/notes/7", "/Tags"] {
            larder.get(read);
            assert!(larder.get(read).is_hit(), "{read}");
        }
        larder.write("POST", target);
        assert!(!larder.get("/notes/7").is_hit(), "{target}");
        assert_eq!(larder.get("/Tags").is_hit(), target != "/tags");
    }
}

/// A fetch waits for its turn, with what is to stand in for an error, when a write is answered; and a read that comes after that, while
/// another write is in flight.
#[test]
fn a_copy_that_a_write_has_dropped_stands_in_for_nobody_who_comes_after_it() {
    let (slow, second, broken) = (Gate::new(), Gate::new(), Arc::new(AtomicBool::new(false)));
    let (reads, writes, is_broken) = (slow.clone(), second.clone(), broken.clone());
    let origin = Origin::start(move |request| match (&*request.method, &*request.target) {
        ("GET", "/slow/") => origin::json("slow").behind(&reads),
        ("GET", _) if is_broken.load(Ordering::SeqCst) => origin::status(503, "{}"),
        ("GET", _) => origin::json("before"),
        _ if request.fields.has("X-Second") => origin::status(403, "{}").behind(&writes),
        _ => origin::json("{}"),
    });
    let larder = Larder::start(format!(
        "upstream: {{url: \"{}\", max_connections: 4}}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: \"/api/users/<int:id>/\", key: \"users:detail:{{id}}\", ttl: 1s, stale_if_error: 1h}}\n",
        origin.url()
    ));
    let send = |method: &str, target: &str, from: &str, more: &[(&str, &str)]| {
        let mut client = larder.connect();
        let fields = [&[("X-Forwarded-For", from)], more].concat();
        let length = (method != "GET").then_some(0);
        client.send(head(method, target, &fields, length).as_bytes());
        client
    };
    assert_eq!(larder.get(USER).text(), "before");
    std::thread::sleep(Duration::from_millis(1100));
    // As many as one client may have under way: the next waits in line.
    let _slow = [(); 3].map(|()| send("GET", "/slow/", "203.0.113.1", &[]));
    origin.wait_for(4);
    let _early = send("GET", USER, "203.0.113.1", &[]);
    eventually("the early read waits in line", || larder.waiting() == 1);
    assert_eq!(
        send("PATCH", USER, "203.0.113.2", &[])
            .answer("PATCH")
            .status,
        200
    );
    let _writer = send("PATCH", USER, "203.0.113.2", &[("X-Second", "1")]);
    eventually("the second write is in flight", || {
        origin.count_of("PATCH") == 2
    });
    let mut late = send("GET", USER, "203.0.113.3", &[]);
    eventually("the late read waits in line by itself", || {
        larder.waiting() == 2
    });
    broken.store(true, Ordering::SeqCst);
    slow.open();
    assert_eq!(late.answer("GET").status, 503);
    second.open();
}

/// Over Redis it is the server's clock by which a hold ends; the embedded store goes by none that can be set.
#[test]
fn a_clock_that_is_set_forward_ends_no_write_that_is_in_flight() {
    let (gate, clock) = (Gate::new(), WallClock::new());
    let held = gate.clone();
    let origin = Origin::start(move |request| match request.method.as_str() {
        "GET" => origin::json("[]"),
        _ => origin::json("{}").behind(&held),
    });
    let larder = Larder::with(users_api(&origin, "memory:", ""));
    let larder = clock.of(larder).start();
    let mut writer = larder.connect();
    writer.send(head("PATCH", USER, &[], Some(0)).as_bytes());
    eventually("the write is at the origin", || {
        origin.count_of("PATCH") == 1
    });
    clock.is_off(3600);
    for _ in 0..2 {
        let read = larder.get(LIST);
        assert!(read.cache_status().contains("detail=held"), "{read:?}");
    }
    gate.open();
    assert_eq!(writer.answer("PATCH").status, 200);
    assert!(larder.get(LIST).cache_status().contains("stored"));
    assert!(larder.get(LIST).is_hit());
}
