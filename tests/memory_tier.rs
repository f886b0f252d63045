//! Copies in an instance's own memory, before Redis: a hot key costs the store one command in three quarters of a term, for which
//! nobody waits, or without a lease a small one for each hit; and nothing that a write or a purge has replaced is shown once that has been answered, whatever
//! becomes of the store, of the terms that stand in it, or of an instance.
//!
//! All other tests that use Redis can be run over it: `LARDER_TEST_MEMORY=10ms cargo test --test cache`, or `0`. Those rightly fail
//! that look for what is seen a lease later: a state that was deleted by hand, and the end of a killed Redis; and those whose
//! reload leaves the lease out.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::client::{Answer, Connection};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::{RedisServer, Reply, signal};
use support::relay::{Relay, Said, Way};
use support::{Gate, eventually, users_api};

const USER: &str = "/api/users/7/";

/// The longest that there may be: what is wrong shows.
const LONGEST: Duration = Duration::from_millis(100);

const WITH_THE_LONGEST: &str = "memory: {lease: 100ms}";

/// An API whose every answer is how many writes it has made.
struct Api {
    origin: Origin,
    version: Arc<AtomicU64>,
}

impl Api {
    fn start() -> Api {
        let version = Arc::<AtomicU64>::default();
        let commits = version.clone();
        let origin = Origin::start(move |request| {
            if request.target.contains("/404/") && commits.load(Ordering::SeqCst) == 0 {
                return origin::status(404, "{}");
            }
            if request.method != "GET" {
                commits.fetch_add(1, Ordering::SeqCst);
            }
            origin::json(commits.load(Ordering::SeqCst).to_string())
        });
        Api { origin, version }
    }

    /// An instance before it.
    fn larder(&self, store: &str, memory: &str) -> Larder {
        Larder::start(users_api(&self.origin, store, memory))
    }

    /// What a write beside the proxy does.
    fn changes(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

#[track_caller]
fn becomes_a_hit(client: &mut Connection, target: &str) -> Answer {
    let mut last = None;
    eventually(&format!("{target} is a hit"), || {
        let answer = client.get(target);
        let is_hit = answer.is_hit();
        last = Some(answer);
        is_hit
    });
    last.expect("an answer")
}

/// What hits ask: of each MGET, how many keys, and whether the copy was among them.
fn asked(relay: &Relay) -> Vec<(usize, bool)> {
    let said = relay.said();
    let of_one = |said: &Said| match said {
        Said::Command(words) if words[0] == "MGET" => {
            let copy = words[1..].iter().any(|key| key == "t:users:detail:7");
            Some((words.len() - 1, copy))
        }
        _ => None,
    };
    said.iter().filter_map(of_one).collect()
}

#[test]
fn a_hot_key_costs_the_store_one_command_in_three_quarters_of_a_term_and_never_its_copy() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let relay = Relay::to(redis.port());
    let larder = api.larder(&relay.url(), WITH_THE_LONGEST);
    becomes_a_hit(&mut larder.connect(), USER);
    relay.said();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = larder.connect();
                for _ in 0..200 {
                    assert!(client.get(USER).is_hit());
                }
            });
        }
    });
    // Those in which it ended are one more.
    let quarters = began.elapsed().as_millis() / (LONGEST / 4).as_millis();
    let at_most = quarters / 3 + 1;
    let asked = asked(&relay);
    assert!(
        asked.len() as u128 <= at_most,
        "{} in {quarters} quarters",
        asked.len()
    );
    assert!(asked.iter().all(|of_it| *of_it == (3, false)), "{asked:?}");
}

#[test]
fn nobody_waits_for_the_store_where_a_key_is_asked_for_often() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let relay = Relay::to(redis.port());
    let larder = api.larder(&relay.url(), WITH_THE_LONGEST);
    let mut client = larder.connect();
    becomes_a_hit(&mut client, USER);
    relay.becomes(Way::Slow(Duration::from_millis(20)));
    relay.said();
    let mut on_the_way = 0_u32;
    eventually("a hit comes before what it asked for", || {
        assert!(client.get(USER).is_hit());
        for said in relay.said() {
            on_the_way = match said {
                Said::Command(words) if words[0] == "MGET" => on_the_way + 1,
                Said::Answer(Reply::List(_)) => on_the_way.saturating_sub(1),
                _ => on_the_way,
            };
        }
        on_the_way > 0
    });
}

#[test]
fn without_a_lease_each_hit_asks_for_its_states_alone() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let relay = Relay::to(redis.port());
    let larder = api.larder(&relay.url(), "memory: {lease: 0}");
    let mut client = larder.connect();
    becomes_a_hit(&mut client, USER);
    relay.said();
    for _ in 0..50 {
        assert!(client.get(USER).is_hit());
    }
    assert_eq!(asked(&relay), vec![(2, false); 50]);
}

#[test]
fn a_write_through_another_instance_is_seen_as_soon_as_it_is_answered() {
    for memory in [
        WITH_THE_LONGEST,
        "memory: {lease: 10ms}",
        "memory: {lease: 0}",
    ] {
        let (redis, api) = (RedisServer::start(), Api::start());
        let mine = api.larder(&redis.url(), memory);
        // One that has none itself waits like any other.
        let other = api.larder(&redis.url(), "");
        let mut client = mine.connect();
        for n in 1..=12 {
            becomes_a_hit(&mut client, USER);
            let writer = if n % 3 == 0 { &mine } else { &other };
            assert_eq!(writer.write("PATCH", USER).text(), n.to_string());
            assert_eq!(client.get(USER).text(), n.to_string(), "{memory}");
        }
    }
}

#[test]
fn an_instance_without_a_lease_waits_for_the_longest_of_the_others() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let writer = api.larder(&redis.url(), "");
    let _short = api.larder(&redis.url(), "memory: {lease: 1ms}");
    let _long = api.larder(&redis.url(), WITH_THE_LONGEST);
    let began = Instant::now();
    assert_eq!(writer.write("PATCH", USER).status, 200);
    assert!(began.elapsed() >= LONGEST);
}

/// The terms are lost again and again, and so is all else: a write waits as if everybody had a lease.
#[test]
fn whatever_of_the_store_is_lost_no_write_is_overtaken() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let mine = api.larder(&redis.url(), WITH_THE_LONGEST);
    let other = api.larder(&redis.url(), "");
    let mut client = mine.connect();
    let losses: [(&str, &dyn Fn()); 4] = [
        ("the terms", &|| {
            drop(redis.run_in(1, &["DEL", "t:~leases"]))
        }),
        ("all keys", &|| redis.run(&["FLUSHALL"]).unwrap_ok()),
        ("what they are", &|| {
            redis.run_in(1, &["DEL", "t:~leases"]);
            redis.run_in(1, &["RPUSH", "t:~leases", "x"]);
        }),
        ("what they say", &|| {
            redis.run_in(1, &["SET", "t:~leases", "10@x"]).unwrap_ok();
        }),
    ];
    for n in 0..12 {
        becomes_a_hit(&mut client, USER);
        let (what, lose) = &losses[n % losses.len()];
        lose();
        let version = (n + 1).to_string();
        assert_eq!(other.write("PATCH", USER).text(), version);
        assert_eq!(client.get(USER).text(), version, "after {what} was lost");
    }
    eventually("its term stands there again", || {
        let terms = redis.run_in(1, &["GET", "t:~leases"]);
        matches!(terms, Reply::Bytes(_)) && terms.text().starts_with("100@")
    });
}

#[test]
fn an_instance_that_was_stopped_shows_nothing_of_before() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let stopped = api.larder(&redis.url(), WITH_THE_LONGEST);
    let other = api.larder(&redis.url(), "");
    let mut client = stopped.connect();
    for n in 1..=3 {
        becomes_a_hit(&mut client, USER);
        signal("-STOP", stopped.pid());
        assert_eq!(other.write("PATCH", USER).text(), n.to_string());
        signal("-CONT", stopped.pid());
        assert_eq!(client.get(USER).text(), n.to_string());
    }
}

#[test]
fn a_store_that_restarts_hangs_or_is_cut_off_ends_all_leases() {
    let (mut redis, api) = (RedisServer::start(), Api::start());
    let relay = Relay::to(redis.port());
    let mine = api.larder(&relay.url(), WITH_THE_LONGEST);
    let other = api.larder(&redis.url(), WITH_THE_LONGEST);
    let mut client = mine.connect();
    let both_are_back = || eventually("both are back", || mine.is_ready() && other.is_ready());
    for n in 0..3_u64 {
        becomes_a_hit(&mut client, USER);
        redis.kill();
        redis.start_again();
        // Forwarded once the store is there again, or once it was away for the notice time.
        assert_eq!(other.write("PATCH", USER).text(), (3 * n + 1).to_string());
        assert_eq!(
            client.get(USER).text(),
            (3 * n + 1).to_string(),
            "restarted"
        );
        both_are_back();

        becomes_a_hit(&mut client, USER);
        redis.freeze();
        assert_eq!(other.write("PATCH", USER).text(), (3 * n + 2).to_string());
        assert_eq!(client.get(USER).text(), (3 * n + 2).to_string(), "hung");
        redis.thaw();
        both_are_back();

        becomes_a_hit(&mut client, USER);
        relay.becomes(Way::Cut);
        assert_eq!(other.write("PATCH", USER).text(), (3 * n + 3).to_string());
        assert_eq!(client.get(USER).text(), (3 * n + 3).to_string(), "cut off");
        relay.becomes(Way::Open);
        both_are_back();
    }
}

#[test]
fn a_purge_by_hand_is_seen_everywhere_once_it_has_succeeded() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let mine = api.larder(&redis.url(), WITH_THE_LONGEST);
    let other = api.larder(&redis.url(), "");
    let mut client = mine.connect();
    let purges: [&dyn Fn(); 4] = [
        &|| other.purge(&["users:detail:7"]),
        &|| other.purge(&["users:detail:*"]),
        &|| other.purge_everything(),
        &|| mine.purge(&["users:detail:7"]),
    ];
    for (n, purge) in purges.iter().enumerate() {
        becomes_a_hit(&mut client, USER);
        api.changes();
        purge();
        let answer = client.get(USER);
        assert!(!answer.is_hit());
        assert_eq!(answer.text(), (n + 1).to_string());
    }
    becomes_a_hit(&mut client, USER);
    api.changes();
    other.purge_softly(&["users:detail:7"]);
    let outdated = client.get(USER);
    assert!(
        outdated.cache_status().contains("soft-purge"),
        "{outdated:?}"
    );
    eventually("it is fetched anew", || client.get(USER).text() == "5");
}

#[test]
fn what_is_set_by_hand_is_seen_everywhere_once_it_has_succeeded() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let mine = api.larder(&redis.url(), WITH_THE_LONGEST);
    let other = api.larder(&redis.url(), WITH_THE_LONGEST);
    let mut client = mine.connect();
    becomes_a_hit(&mut client, USER);
    set(&other, b"{\"by\": \"hand\"}");
    assert_eq!(client.get(USER).text(), "{\"by\": \"hand\"}");
}

#[test]
fn what_is_set_at_an_instance_without_memory_is_seen_by_those_that_have_a_lease() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let with = api.larder(&redis.url(), WITH_THE_LONGEST);
    let without = api.larder(&redis.url(), "");
    let mut client = with.connect();
    becomes_a_hit(&mut client, USER);
    let by_hand = b"{\"by\": \"hand\"}";
    set(&without, by_hand);
    let shown = client.get(USER);
    assert_eq!(shown.text().as_bytes(), by_hand, "{shown:?}");
}

#[test]
fn what_is_set_by_hand_stays_whoever_asks_while_it_is_being_set() {
    let (redis, gate) = (RedisServer::start(), Gate::new());
    gate.open();
    let door = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&door));
    let larder = Larder::start(users_api(&origin, &redis.url(), WITH_THE_LONGEST));
    becomes_a_hit(&mut larder.connect(), USER);
    gate.close();
    let before = origin.count();
    let by_hand = b"{\"by\": \"hand\"}";
    std::thread::scope(|scope| {
        let setting = scope.spawn(|| set(&larder, by_hand));
        let mut client = larder.connect();
        while !setting.is_finished() {
            assert!(client.get(USER).is_hit());
        }
    });
    gate.open();
    assert_eq!(origin.count(), before, "nothing is fetched in its place");
    assert_eq!(larder.get(USER).text().as_bytes(), by_hand);
}

#[track_caller]
fn set(larder: &Larder, body: &[u8]) {
    let mut admin = Connection::open(larder.admin_address());
    let fields = [("Content-Type", "application/json")];
    let set = admin.request("PUT", "/entries/users:detail:7", &fields, body);
    assert_eq!(set.status, 200, "{set:?}");
}

/// Every hit is one of memory, and its request is known again beneath HTTP.
#[test]
fn a_hit_by_a_lease_is_answered_as_any_other() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let plain = api.larder(&redis.url(), "");
    let larder = api.larder(&redis.url(), WITH_THE_LONGEST);
    let mut client = larder.connect();
    becomes_a_hit(&mut client, USER);
    let told = |answer: &Answer| {
        let mut fields = answer.fields.0.clone();
        fields
            .retain(|(name, _)| !matches!(name.as_str(), "age" | "cache-status" | "x-request-id"));
        fields.sort();
        (answer.status, answer.text(), fields)
    };
    let expected = told(&becomes_a_hit(&mut plain.connect(), USER));
    for _ in 0..50 {
        let answer = client.get(USER);
        assert!(answer.is_hit());
        assert!(answer.cache_status().starts_with("larder; hit; ttl="));
        assert_eq!(told(&answer), expected);
    }
}

#[test]
fn an_absence_is_known_until_a_create_whoever_has_seen_it() {
    let (redis, api) = (RedisServer::start(), Api::start());
    let yaml = |memory: &str| {
        users_api(&api.origin, &redis.url(), memory).replace(
            "key: \"users:detail:{id}\"",
            "key: \"users:detail:{id}\", negative_ttl: 1h",
        )
    };
    let mine = Larder::start(yaml(WITH_THE_LONGEST));
    let other = Larder::start(yaml(""));
    let mut client = mine.connect();
    let absent = becomes_a_hit(&mut client, "/api/users/404/");
    assert_eq!(absent.status, 404);
    assert!(client.get("/api/users/404/").is_hit());
    assert_eq!(other.write("POST", "/api/users/").status, 200);
    assert_eq!(client.get("/api/users/404/").status, 200);
}

#[test]
fn of_two_that_set_at_once_neither_outdates_what_the_other_has_set() {
    let (redis, origin) = (RedisServer::start(), Origin::start(|_| origin::json("{}")));
    let relay = Relay::to(redis.port());
    let larder = Larder::start(users_api(&origin, &relay.url(), WITH_THE_LONGEST));
    becomes_a_hit(&mut larder.connect(), USER);
    let before = origin.count();
    // Whatever one does, the other does before the store has answered that.
    relay.becomes(Way::Slow(Duration::from_millis(20)));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| set(&larder, b"{\"by\": \"hand\"}"));
        }
    });
    relay.becomes(Way::Open);
    let shown = larder.get(USER);
    assert!(shown.is_hit(), "{shown:?}");
    assert_eq!(shown.text(), "{\"by\": \"hand\"}");
    let kept = larder.admin("GET", "/entries/users:detail:7");
    assert!(!kept.text().contains("soft"), "{kept:?}");
    assert_eq!(origin.count(), before, "nothing is fetched in its place");
}

#[test]
fn a_soft_purge_outdates_what_was_set_by_half() {
    let (redis, origin) = (RedisServer::start(), Origin::start(|_| origin::json("{}")));
    let relay = Relay::to(redis.port());
    let larder = Larder::start(users_api(&origin, &relay.url(), WITH_THE_LONGEST));
    becomes_a_hit(&mut larder.connect(), USER);
    relay.breaks_at("outdate");
    let mut admin = Connection::open(larder.admin_address());
    let fields = [("Content-Type", "application/json")];
    let half = admin.request(
        "PUT",
        "/entries/users:detail:7",
        &fields,
        b"{\"by\": \"half\"}",
    );
    assert_ne!(half.status, 200, "{half:?}");
    assert!(relay.has_broken());
    eventually("the store is back", || {
        let softly = [("Soft-Purge", "1")];
        admin.request("PURGE", USER, &softly, b"").status == 200
    });
    let before = origin.count();
    eventually("it is fetched anew", || {
        larder.get(USER);
        origin.count() > before
    });
}

#[test]
fn what_was_set_by_half_is_replaced_everywhere_by_what_is_set_then() {
    let (redis, origin) = (RedisServer::start(), Origin::start(|_| origin::json("{}")));
    let relay = Relay::to(redis.port());
    let yaml = |store: &str| users_api(&origin, store, WITH_THE_LONGEST);
    let larder = Larder::start(yaml(&relay.url()));
    let [asked, other] = [0; 2].map(|_| Larder::start(yaml(&redis.url())));
    relay.breaks_at("outdate");
    let mut admin = Connection::open(larder.admin_address());
    let fields = [("Content-Type", "application/json")];
    let half = admin.request("PUT", "/entries/users:detail:7", &fields, b"\"half\"");
    assert_ne!(half.status, 200, "{half:?}");
    assert_eq!(asked.get(USER).text(), "\"half\"");
    eventually("the store is back", || larder.is_ready());
    set(&other, b"\"whole\"");
    for instance in [&asked, &larder] {
        assert_eq!(instance.get(USER).text(), "\"whole\"");
    }
}
