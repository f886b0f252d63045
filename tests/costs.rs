//! What the store is asked: how many commands a purge takes, how many round trips a hit and a write, what is said to
//! a store that hangs. Counted by the store itself, or by a relay in front of it.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::client::Connection;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::relay::{Relay, Said, Way};
use support::tokens::{Issuer, from_now};
use support::{eventually, users_api};

const LIST: &str = "/api/users/";
const PAGE: &str = "/api/users/?page=2";
const USER: &str = "/api/users/7/";
const OTHER: &str = "/api/users/8/";

#[test]
fn a_purge_takes_the_same_commands_however_many_copies_there_are() {
    let redis = RedisServer::start();
    let (_api, larder) = start(&redis.url());
    let purges: [(&str, &dyn Fn()); 3] = [
        ("of a family", &|| larder.purge(&["users:list"])),
        ("of all users", &|| larder.purge(&["users:detail:*"])),
        ("of everything", &|| larder.purge_everything()),
    ];
    let mut copies = 0;
    let mut counted: Vec<Vec<BTreeMap<String, u64>>> = Vec::new();
    for count in [10, 10_000, 1_000_000] {
        for target in [LIST, PAGE, USER, OTHER] {
            becomes_a_hit(&larder, target);
        }
        // One list asked for with as many queries, and as many users.
        multiply(&redis, "t:users:list", "t:users:list~", copies..count);
        multiply(
            &redis,
            "t:users:detail:7",
            "t:users:detail:1",
            copies..count,
        );
        copies = count;
        assert!(redis.run(&["DBSIZE"]).number() >= 2 * count);
        counted.push(
            purges
                .iter()
                .map(|(what, purge)| {
                    let mut commands = BTreeMap::new();
                    eventually("no heartbeat falls into a purge", || {
                        for target in [LIST, PAGE, USER, OTHER] {
                            becomes_a_hit(&larder, target);
                        }
                        redis.run(&["CONFIG", "RESETSTAT"]).unwrap_ok();
                        purge();
                        commands = commands_of(&redis);
                        !commands.contains_key("ping") && !commands.contains_key("mget")
                    });
                    println!("purge {what} among 2 x {count} copies: {commands:?}");
                    let (list, users) = match *what {
                        "of a family" => (false, true),
                        "of all users" => (true, false),
                        _ => (false, false),
                    };
                    for (target, is_left) in
                        [(LIST, list), (PAGE, list), (USER, users), (OTHER, users)]
                    {
                        assert_eq!(larder.get(target).is_hit(), is_left, "{target} {what}");
                    }
                    commands
                })
                .collect(),
        );
    }
    assert_eq!(counted[0], counted[1]);
    assert_eq!(counted[0], counted[2]);
}

#[test]
fn a_hit_takes_one_round_trip_and_a_write_two() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (api, larder) = start(&relay.url());
    for target in [LIST, PAGE, USER] {
        becomes_a_hit(&larder, target);
        relay.said();
        assert!(larder.get(target).is_hit());
        let said = relay.said();
        assert_eq!(round_trips(&said), 1, "{target}: {said:?}");
    }
    let writes = [
        ("POST", LIST),
        ("PATCH", USER),
        ("DELETE", USER),
        ("POST", "/api/users/bulk/"),
    ];
    for (method, target) in writes {
        relay.said();
        larder.write(method, target);
        let said = relay.said();
        assert_eq!(round_trips(&said), 2, "{method} {target}: {said:?}");
    }
    assert_eq!(api.version(), 4);
    api.refuse(true);
    relay.said();
    assert_eq!(larder.write("PATCH", USER).status, 401);
    let said = relay.said();
    assert_eq!(round_trips(&said), 2, "refused: {said:?}");
}

/// All states of a step are told by one script, which reads the terms of leases, too.
#[test]
fn the_life_of_the_store_is_asked_for_in_front_of_a_hit_once_a_second_and_never_while_nobody_asks()
{
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (_api, larder) = start(&relay.url());
    becomes_a_hit(&larder, LIST);
    let questions = || {
        let said = relay.said().into_iter();
        let of_the_life = |said: &Said| matches!(said, Said::Command(words) if words[0] == "GETEX");
        said.filter(of_the_life).count()
    };
    questions();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(questions(), 0, "nobody has asked for anything");
    let begun = Instant::now();
    for _ in 0..50 {
        assert!(larder.get(LIST).is_hit());
    }
    let asked = questions();
    let most = 1 + begun.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&asked), "{asked} in {most} s");
}

#[test]
fn a_write_is_two_scripts_however_many_states_it_drops() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (_api, larder) = start(&relay.url());
    for (method, target, states) in [
        ("POST", LIST, 1),
        ("PATCH", USER, 2),
        ("POST", "/api/users/bulk/", 2),
    ] {
        becomes_a_hit(&larder, LIST);
        let commands = asked(&relay, || drop(larder.write(method, target)));
        let [begin, finish] = &commands[..] else {
            panic!("{method} {target}: {commands:?}")
        };
        // The leases' terms are read after the holds.
        assert_eq!(begin[0], "EVALSHA", "{begin:?}");
        assert_eq!(begin[2], (states + 1).to_string(), "{begin:?}");
        assert_eq!(finish[0], "EVALSHA", "{finish:?}");
        assert_eq!(finish[2], states.to_string(), "{finish:?}");
    }
}

/// Else who purges many keys waits as often for the longest lease: Django's side gives up after a second.
#[test]
fn keys_that_are_purged_together_are_dropped_at_once() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (_api, larder) = start(&relay.url());
    let keys: Vec<String> = (1..=256).map(|id| format!("users:detail:{id}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let purges: [(&str, usize, &dyn Fn()); 2] = [
        ("for good", 1, &|| larder.purge(&keys)),
        ("softly", 2, &|| larder.purge_softly(&keys)),
    ];
    for (how, steps, purge) in purges {
        for target in [USER, OTHER] {
            becomes_a_hit(&larder, target);
        }
        let commands = asked(&relay, purge);
        let scripts = commands.iter().filter(|words| words[0] == "EVALSHA");
        // 64 states at a time.
        assert_eq!(scripts.count(), 4 * steps, "{how}: {commands:?}");
        for target in [USER, OTHER] {
            let answer = larder.get(target);
            let is_dropped = !answer.is_hit() || answer.cache_status().contains("soft-purge");
            assert!(is_dropped, "{how}: {answer:?}");
        }
    }
    let log = larder.output();
    assert!(log.contains("users:detail:256~state"));
    assert!(log.lines().all(|line| line.len() < 4096));
}

/// Else a dry run of many keys has Redis go through all of its keys for each, and misses the copies of a user with whose number
/// those of very many others begin.
#[test]
fn what_a_purge_would_drop_is_looked_for_once_however_many_keys_are_named() {
    let redis = RedisServer::start();
    let (_api, larder) = start(&redis.url());
    for target in [USER, OTHER] {
        becomes_a_hit(&larder, target);
    }
    multiply(&redis, "t:users:detail:7", "t:users:detail:7", 0..300_000);
    let would_drop = |ids: std::ops::RangeInclusive<u32>| {
        let keys: Vec<String> = ids.map(|id| format!("users:detail:{id}")).collect();
        let asked = serde_json::json!({ "keys": keys, "dry_run": true }).to_string();
        let json = [("Content-Type", "application/json")];
        redis.run(&["CONFIG", "RESETSTAT"]).unwrap_ok();
        let mut admin = Connection::open(larder.admin_address());
        let told = admin.request("POST", "/purge", &json, asked.as_bytes());
        let told: serde_json::Value = serde_json::from_str(&told.text()).unwrap();
        (told["copies"].as_u64(), commands_of(&redis)["scan"])
    };
    let (copies, scans) = would_drop(7..=7);
    assert_eq!(copies, Some(1));
    let (copies, scans_for_nine) = would_drop(1..=9);
    assert_eq!(copies, Some(2));
    assert!(scans_for_nine < 2 * scans, "{scans_for_nine} and {scans}");
}

/// What was looked up is not looked up again: its states are opened by one script, and it is stored with its states' time.
#[test]
fn a_miss_takes_three_round_trips() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (_api, larder) = start(&relay.url());
    for target in [LIST, USER] {
        becomes_a_hit(&larder, target);
    }
    for id in 100..110 {
        let target = format!("/api/users/{id}/");
        let commands = asked(&relay, || assert!(!larder.get(&target).is_hit()));
        let words: Vec<&str> = commands.iter().map(|words| words[0].as_str()).collect();
        assert_eq!(words, ["MGET", "EVALSHA", "PEXPIRE", "PEXPIRE", "SET"]);
        assert!(larder.get(&target).is_hit());
    }
    // And one of a family that is there is read along with the life of the store.
    let other = asked(&relay, || drop(larder.get(PAGE)));
    let words: Vec<&str> = other.iter().map(|words| words[0].as_str()).collect();
    assert_eq!(words, ["MGET", "MGET", "PEXPIRE", "SET"]);
}

/// Else anybody who asks for what is not there leaves keys for as long as copies live.
#[test]
fn what_was_opened_for_a_read_or_held_for_a_write_is_soon_gone_where_nothing_is_kept() {
    let redis = RedisServer::start();
    let origin = Origin::start(|request| match (&*request.method, &*request.target) {
        ("GET", LIST) => origin::json("[]"),
        ("GET", _) => origin::status(404, "{}"),
        _ => origin::status(503, "{}"),
    });
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    let left = |key: &str| redis.run(&["PTTL", key]).number();
    assert_eq!(larder.get(USER).status, 404);
    let soon = 1..=180_000;
    assert!(soon.contains(&left("t:users:detail:7~state")));
    assert_eq!(larder.write("PATCH", OTHER).status, 503);
    assert!(soon.contains(&left("t:users:detail:8~state")));
    redis.run(&["DEL", "t:users:list~state"]);
    becomes_a_hit(&larder, LIST);
    assert!(left("t:users:list~state") > left("t:users:list"), "kept");
}

#[test]
fn the_states_of_a_credential_live_as_long_as_its_verdict_and_of_one_that_is_refused_not_for_long()
{
    let redis = RedisServer::start();
    let origin = Origin::start(|request| match request.fields.get("Authorization") {
        Some("known") => origin::json("{}"),
        _ => origin::status(401, "{}"),
    });
    let started = |refuse_for| {
        let access = format!("{{verify: /api/users/me/, for: 1h{refuse_for}}}");
        let list = format!("key: users:list, access: {access}");
        Larder::start(users_api(&origin, &redis.url(), "").replace("key: users:list", &list))
    };
    let longest_of_new_ones = |larder: &Larder, who: &str| {
        let before = redis.keys();
        larder.get_with(LIST, &[("Authorization", who)]);
        let keys = redis.keys().into_iter();
        let new = keys.filter(|key| !before.contains(key) && key.starts_with("t:~credential"));
        new.map(|key| redis.run(&["PTTL", &key]).number()).max()
    };
    let larder = started("");
    let made_up = longest_of_new_ones(&larder, "made up");
    assert!(matches!(made_up, Some(1..=180_000)), "{made_up:?}");
    let known = longest_of_new_ones(&larder, "known");
    assert!(known > Some(3_600_000), "{known:?}");
    let larder = started(", refuse_for: 2h");
    let refused = longest_of_new_ones(&larder, "refused long");
    assert!(refused > Some(2 * 3_600_000), "{refused:?}");
}

#[test]
fn a_hit_by_a_verdict_takes_one_round_trip_too() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let origin = Origin::start(|_| origin::json("{}"));
    let secret = "0123456789abcdef0123456789abcdef";
    let claims = serde_json::json!({"exp": from_now(3600)});
    let line = |n: u32| {
        let claims = serde_json::json!({"n": n, "exp": claims["exp"]});
        format!("Bearer {}", Issuer::secret(secret).token(&claims))
    };
    for access in [
        "{verify: /api/users/me/, for: 1h}".to_owned(),
        format!("{{jwt: {{secret: {secret}}}}}"),
    ] {
        let yaml = users_api(&origin, &relay.url(), "").replace(
            "key: users:list",
            &format!("key: users:list, access: {access}"),
        );
        let larder = Larder::start(yaml);
        let ask = |n| larder.get_with(LIST, &[("Authorization", &line(n))]);
        eventually("it is a hit", || ask(1).is_hit());
        relay.said();
        assert!(ask(1).is_hit());
        let said = relay.said();
        assert_eq!(round_trips(&said), 1, "{access}: {said:?}");
        // The first request of another: its states are read and made, the secret and (of a token) the mark looked at.
        assert!(ask(2).is_hit());
        let said = relay.said();
        println!(
            "{access}: {} round trips before the first hit of a credential",
            round_trips(&said)
        );
        assert!(round_trips(&said) <= 5, "{access}: {said:?}");
    }
}

#[test]
fn a_store_that_hangs_is_sent_nothing_by_requests_once_that_is_noticed() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (api, larder) = start(&relay.url());
    for target in [LIST, USER] {
        becomes_a_hit(&larder, target);
    }
    redis.freeze();
    // Whoever is on the way when it happens waits for the time limit, and is answered.
    assert_eq!(larder.get(LIST).text(), "0");
    eventually("it is noticed", || !larder.is_ready());
    relay.said();
    for n in 0..100 {
        for target in [LIST, PAGE, USER, OTHER] {
            let answer = larder.get(target);
            assert_eq!(answer.text(), n.to_string());
            assert!(answer.cache_status().contains("store-away"), "{answer:?}");
        }
        assert_eq!(larder.write("PATCH", USER).status, 200);
    }
    assert_eq!(api.origin.count_of("PATCH"), 100);
    // The keeper asks on connections of its own, in vain, who is there. Whatever a request asks names a key.
    let of_requests: Vec<Said> = relay
        .said()
        .into_iter()
        .filter(|said| match said {
            Said::Command(words) => words.iter().any(|word| word.starts_with("t:")),
            Said::Answer(_) => true,
        })
        .collect();
    assert_eq!(of_requests, []);
    redis.thaw();
    for target in [LIST, PAGE, USER, OTHER] {
        becomes_a_hit(&larder, target);
    }
}

#[test]
fn after_an_outage_there_are_hits_again_and_nothing_that_a_write_has_replaced() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let (api, larder) = start(&relay.url());
    type Outage<'o> = (&'static str, &'o dyn Fn(), &'o dyn Fn());
    let outages: [Outage; 2] = [
        ("hung", &|| redis.freeze(), &|| redis.thaw()),
        ("was cut off", &|| relay.becomes(Way::Cut), &|| {
            relay.becomes(Way::Open)
        }),
    ];
    for (how, begins, ends) in outages {
        for target in [LIST, PAGE, USER, OTHER] {
            becomes_a_hit(&larder, target);
        }
        begins();
        // A new user: the list is replaced, and no user is.
        let version = api.version() + 1;
        assert_eq!(larder.write("POST", LIST).text(), version.to_string());
        ends();
        eventually(&format!("the list is a hit after the store {how}"), || {
            let (list, page) = (larder.get(LIST), larder.get(PAGE));
            assert_eq!(list.text(), version.to_string(), "{how}: {list:?}");
            assert_eq!(page.text(), version.to_string(), "{how}: {page:?}");
            list.is_hit() && page.is_hit()
        });
        // What nobody has written to is there as it was: it was not thrown away with the rest.
        let user = larder.get(OTHER);
        assert!(
            user.is_hit() && user.text() == (version - 1).to_string(),
            "{how}: {user:?}"
        );
        larder.purge_everything();
    }
}

#[test]
fn a_thousand_refused_writes_leave_every_copy_valid() {
    let redis = RedisServer::start();
    for store in ["memory:", &redis.url()] {
        let (api, larder) = start(store);
        for target in [LIST, PAGE, USER, OTHER] {
            becomes_a_hit(&larder, target);
        }
        api.refuse(true);
        let fills = api.origin.count_of("GET");
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let mut client = larder.connect();
                    for n in 0..50 {
                        let target = [LIST, "/api/users/bulk/"][n % 2];
                        let answer = client.request("POST", target, &[], b"{}");
                        assert_eq!(answer.status, 401, "{answer:?}");
                    }
                });
            }
        });
        assert_eq!(api.origin.count_of("POST"), 1_000);
        for target in [LIST, PAGE, USER, OTHER] {
            let answer = larder.get(target);
            assert!(answer.is_hit() && answer.text() == "0", "{answer:?}");
        }
        assert_eq!(api.origin.count_of("GET"), fills);
    }
}

/// An API whose every answer is how many writes it has made.
struct Api {
    origin: Origin,
    version: Arc<AtomicU64>,
    refuses: Arc<AtomicU64>,
}

impl Api {
    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Whether writes are answered 401.
    fn refuse(&self, refuses: bool) {
        self.refuses.store(u64::from(refuses), Ordering::SeqCst);
    }
}

fn start(store: &str) -> (Api, Larder) {
    let [version, refuses] = [(); 2].map(|()| Arc::<AtomicU64>::default());
    let (commits, refused) = (version.clone(), refuses.clone());
    let api = Api {
        origin: Origin::start(move |request| {
            if request.method != "GET" {
                if refused.load(Ordering::SeqCst) > 0 {
                    return origin::status(401, "who are you?");
                }
                commits.fetch_add(1, Ordering::SeqCst);
            }
            origin::json(commits.load(Ordering::SeqCst).to_string())
        }),
        version,
        refuses,
    };
    let larder = Larder::start(users_api(&api.origin, store, ""));
    (api, larder)
}

#[track_caller]
fn becomes_a_hit(larder: &Larder, target: &str) {
    eventually(&format!("{target} is a hit"), || {
        larder.get(target).is_hit()
    });
}

/// The value of one key at many more, as if each had been stored there.
fn multiply(redis: &RedisServer, key: &str, to: &str, numbers: std::ops::Range<i64>) {
    // A million in one script would be taken for a store that hangs.
    const SOME: usize = 5_000;
    let mut link = redis.link().expect("connect to redis-server");
    link.call(&["SELECT", "1"]).expect("SELECT").unwrap_ok();
    for first in numbers.clone().step_by(SOME) {
        let last = (first + SOME as i64).min(numbers.end) - 1;
        let copied = link.call(&[
            "EVAL",
            "local value = redis.call('GET', KEYS[1])
             for n = ARGV[2], ARGV[3] do redis.call('SET', ARGV[1] .. string.format('%.0f', n), value, 'PX', 3600000) end
             return redis.status_reply('OK')",
            "1",
            key,
            to,
            &first.to_string(),
            &last.to_string(),
        ]);
        copied.expect("EVAL").unwrap_ok();
    }
}

/// How often each command ran since CONFIG RESETSTAT, also within scripts; without what tests ask.
fn commands_of(redis: &RedisServer) -> BTreeMap<String, u64> {
    let info = redis.run(&["INFO", "commandstats"]).text();
    let count = |line: &str| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = figures.split(',').next()?.parse().ok()?;
        let ours = !matches!(name, "config|resetstat" | "info" | "select" | "getex");
        ours.then(|| (name.to_owned(), calls))
    };
    info.lines().filter_map(count).collect()
}

/// The commands that come of what is done; without the heartbeat's, what is asked of the store's life once a second, and the question that a route asks once a second: what others
/// have seen its answers vary by.
fn asked(relay: &Relay, done: impl FnOnce()) -> Vec<Vec<String>> {
    relay.said();
    done();
    let commands = relay.said().into_iter().filter_map(|said| match said {
        Said::Command(words) => Some(words),
        Said::Answer(_) => None,
    });
    let is_beside = |words: &[String]| {
        let of_the_life = ["MGET", "GETEX"].contains(&&*words[0])
            && words.get(1).is_some_and(|key| key == "t:~incarnation")
            && (words[0] == "GETEX" || words.len() == 2);
        words == ["PING"] || of_the_life || words[0] == "SMEMBERS"
    };
    commands.filter(|words| !is_beside(words)).collect()
}

/// How often the store was asked something after it had answered what came before.
fn round_trips(said: &[Said]) -> usize {
    let mut waits = false;
    said.iter()
        .filter(|said| {
            let (asks, before) = (matches!(said, Said::Command(_)), waits);
            waits = asks;
            asks && !before
        })
        .count()
}
