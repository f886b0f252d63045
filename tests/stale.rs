//! Stale copies and those about to become so: served while they are refreshed, in the place of an error, validated,
//! refreshed early; answers that something is not there. RFC 5861 and RFC 9111 §4.2.4, §4.3, on both stores.

#[macro_use]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::wall_clock::WallClock;
use support::{Gate, eventually};

const LIST: &str = "/api/users/";
const USER: &str = "/api/users/7/";

on_both_stores! {
    a_stale_copy_is_served_at_once_and_refreshed_once_in_the_background
    a_refresh_that_fails_leaves_the_copy_and_is_not_tried_again_at_once
    past_its_window_a_stale_copy_is_not_served
    nothing_that_a_write_has_invalidated_is_served_stale
    a_stale_copy_stands_in_for_an_origin_that_fails
    a_stale_copy_does_not_stand_in_where_the_origin_forbids_it
    an_answer_that_breaks_off_before_it_was_shown_is_stood_in_for
    a_stale_copy_is_validated_with_its_own_validator_and_freshened_by_a_304
    what_a_write_has_invalidated_is_not_validated
    what_is_read_often_is_refreshed_before_it_expires_and_nobody_waits
    an_absence_is_kept_for_its_own_time_where_the_route_says_so
    an_absence_is_dropped_by_the_write_that_creates_the_thing
    an_absence_is_dropped_by_a_write_at_another_things_path_that_creates_it
    a_copy_of_something_that_is_there_is_not_dropped_by_a_creation
    what_says_no_cache_is_kept_and_validated_before_each_use
    after_a_soft_purge_the_copy_is_served_until_one_request_has_fetched_it_anew
    a_fill_that_a_soft_purge_overtakes_is_outdated_as_it_is_stored
    after_a_soft_purge_the_origin_is_asked_first_where_it_forbids_what_is_stale
    nothing_that_a_write_has_invalidated_is_served_because_of_a_soft_purge
}

/// Two routes of a users API with `more` said of each.
fn routes(origin: &Origin, store: &str, more: &str) -> Larder {
    Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", prefix: t}}\nroutes:\n\
        \x20 - {{path: /api/users/, key: users:list, {more}}}\n\
        \x20 - {{path: /api/users/<int:id>/, key: \"users:detail:{{id}}\", {more}}}\n\
        purge:\n\
        \x20 - {{methods: POST, path: /api/users/, keys: [users:list]}}\n\
        \x20 - {{methods: [PUT, PATCH, DELETE], path: /api/users/<int:id>/, keys: [users:list, \"users:detail:{{id}}\"]}}\n",
        origin.url()
    ))
}

/// The number of the answer, in it.
fn counting() -> Origin {
    let reads = AtomicUsize::new(0);
    Origin::start(move |request| match request.method.as_str() {
        "GET" => origin::json((reads.fetch_add(1, Ordering::SeqCst) + 1).to_string()),
        _ => origin::status(200, "{}"),
    })
}

fn a_stale_copy_is_served_at_once_and_refreshed_once_in_the_background(store: &str) {
    let (gate, reads) = (Gate::new(), AtomicUsize::new(0));
    let held = gate.clone();
    let origin = Origin::start(move |_| match reads.fetch_add(1, Ordering::SeqCst) {
        0 => origin::json("1"),
        n => origin::json((n + 1).to_string()).behind(&held),
    });
    let larder = routes(&origin, store, "ttl: 1s, stale_while_revalidate: 1h");
    assert_eq!(larder.get(USER).text(), "1");
    eventually("it is stale and served", || {
        let answer = larder.get(USER);
        assert!(answer.is_hit() && answer.text() == "1", "{answer:?}");
        answer
            .cache_status()
            .contains("detail=stale-while-revalidate")
    });
    for _ in 0..20 {
        let answer = larder.get(USER);
        assert!(answer.is_hit() && answer.text() == "1", "{answer:?}");
        assert!(answer.cache_status().contains("ttl=-"), "{answer:?}");
    }
    origin.wait_for(2);
    assert_eq!(origin.count(), 2, "one refresh for all");
    gate.open();
    eventually("the refreshed one is served", || {
        larder.get(USER).text() != "1"
    });
}

fn a_refresh_that_fails_leaves_the_copy_and_is_not_tried_again_at_once(store: &str) {
    let reads = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match reads.fetch_add(1, Ordering::SeqCst) {
        0 => origin::json("1"),
        _ => origin::status(500, "{}"),
    });
    let larder = routes(&origin, store, "ttl: 1s, stale_while_revalidate: 1h");
    larder.get(USER);
    eventually("a refresh has failed", || {
        assert_eq!(larder.get(USER).text(), "1");
        origin.count() == 2
    });
    let since = Instant::now();
    while origin.count() == 2 && since.elapsed() < Duration::from_secs(20) {
        let answer = larder.get(USER);
        assert!(answer.is_hit() && answer.text() == "1", "{answer:?}");
    }
    assert_eq!(origin.count(), 3, "then it is tried again");
    assert!(
        since.elapsed() > Duration::from_millis(500),
        "but not at once"
    );
}

fn past_its_window_a_stale_copy_is_not_served(store: &str) {
    let origin = counting();
    let larder = routes(&origin, store, "ttl: 1s, stale_while_revalidate: 1s");
    larder.get(USER);
    thread::sleep(Duration::from_millis(2100));
    let answer = larder.get(USER);
    assert!(!answer.is_hit() && answer.text() == "2", "{answer:?}");
}

fn nothing_that_a_write_has_invalidated_is_served_stale(store: &str) {
    let (origin, broken) = breakable();
    let more = "ttl: 1s, stale_while_revalidate: 1h, stale_if_error: 1h";
    let larder = routes(&origin, store, more);
    larder.get(USER);
    eventually("it is stale and served", || {
        larder.get(USER).cache_status().contains("ttl=-")
    });
    broken.store(true, Ordering::SeqCst);
    assert_eq!(larder.write("PATCH", USER).status, 200);
    for method in ["GET", "HEAD"] {
        let answer = larder.request(method, USER, &[], b"");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
}

/// An origin that answers reads with 503 once it is told to.
fn breakable() -> (Origin, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let (is_broken, reads) = (broken.clone(), AtomicUsize::new(0));
    let origin = Origin::start(move |request| {
        match (request.method.as_str(), is_broken.load(Ordering::SeqCst)) {
            ("GET" | "HEAD", true) => origin::status(503, "{}"),
            ("GET", false) => origin::json((reads.fetch_add(1, Ordering::SeqCst) + 1).to_string()),
            _ => origin::status(200, "{}"),
        }
    });
    (origin, broken)
}

fn a_stale_copy_stands_in_for_an_origin_that_fails(store: &str) {
    let (mut origin, broken) = breakable();
    let larder = routes(&origin, store, "ttl: 1s, stale_if_error: 1h");
    larder.get(USER);
    broken.store(true, Ordering::SeqCst);
    eventually("it is stale and stands in", || {
        let answer = larder.get(USER);
        assert_eq!((answer.status, answer.text().as_str()), (200, "1"));
        answer.cache_status() == "larder; fwd=stale; fwd-status=503; detail=stale-if-error"
    });
    assert!(larder.get(USER).age() >= 1);
    let head = || {
        let answer = larder.request("HEAD", USER, &[], b"");
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (200, Some("1"))
        );
        answer.cache_status()
    };
    assert_eq!(
        head(),
        "larder; fwd=stale; fwd-status=503; detail=stale-if-error"
    );
    origin.stop();
    assert_eq!(head(), "larder; fwd=stale; detail=stale-if-error");
    let answer = larder.get(USER);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "1"),
        "{answer:?}"
    );
    assert_eq!(
        answer.cache_status(),
        "larder; fwd=stale; detail=stale-if-error"
    );
    let other = larder.get("/api/users/8/");
    assert_eq!(
        other.status, 502,
        "what is not stored cannot stand in: {other:?}"
    );
}

fn a_stale_copy_does_not_stand_in_where_the_origin_forbids_it(store: &str) {
    for forbids in ["must-revalidate", "proxy-revalidate", "s-maxage=1"] {
        let reads = AtomicUsize::new(0);
        let origin = Origin::start(move |_| match reads.fetch_add(1, Ordering::SeqCst) {
            0 => origin::json("1").field("Cache-Control", &format!("max-age=1, {forbids}")),
            _ => origin::status(503, "{}"),
        });
        let larder = routes(&origin, store, "ttl: 1s, stale_if_error: 1h");
        larder.purge_everything();
        assert_eq!(larder.get(USER).text(), "1");
        eventually("its error is seen", || larder.get(USER).status == 503);
    }
}

fn an_answer_that_breaks_off_before_it_was_shown_is_stood_in_for(store: &str) {
    let reads = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match reads.fetch_add(1, Ordering::SeqCst) {
        0 => origin::json("1"),
        _ => origin::json("22222").cut_after(0),
    });
    let larder = routes(&origin, store, "ttl: 1s, stale_if_error: 1h");
    larder.get(USER);
    eventually("it stands in", || {
        let answer = larder.get(USER);
        assert_eq!((answer.status, answer.text().as_str()), (200, "1"));
        answer.cache_status().contains("stale-if-error")
    });
}

fn a_stale_copy_is_validated_with_its_own_validator_and_freshened_by_a_304(store: &str) {
    let origin = Origin::start(|request| match request.fields.get("if-none-match") {
        Some("W/\"v1\"") => origin::status(304, "")
            .field("X-Seen", "again")
            .field("ETag", "W/\"v1\""),
        Some(_) => origin::status(500, "another's condition"),
        None => origin::json("[]")
            .field("ETag", "W/\"v1\"")
            .field("X-Seen", "first"),
    });
    let larder = routes(&origin, store, "ttl: 1s, stale_if_error: 1h");
    assert_eq!(larder.get(USER).field("x-seen"), Some("first"));
    let client = [("If-None-Match", "\"of the client\"")];
    eventually("it is validated", || {
        let answer = larder.get_with(USER, &client);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "[]"),
            "{answer:?}"
        );
        answer.cache_status() == "larder; fwd=stale; fwd-status=304; stored; detail=expired"
    });
    let hit = larder.get(USER);
    assert!(hit.is_hit() && hit.text() == "[]", "{hit:?}");
    assert_eq!(hit.field("x-seen"), Some("again"));
    assert_eq!(hit.field("content-type"), Some("application/json"));
    let mine = larder.get_with(USER, &[("If-None-Match", "W/\"v1\"")]);
    assert_eq!(mine.status, 304, "{mine:?}");
}

fn what_a_write_has_invalidated_is_not_validated(store: &str) {
    let origin = Origin::start(|request| match request.method.as_str() {
        "GET" => {
            assert!(!request.fields.has("if-none-match"), "{request:?}");
            origin::json("[]").field("ETag", "\"v1\"")
        }
        _ => origin::status(200, "{}"),
    });
    let larder = routes(&origin, store, "ttl: 1s, stale_if_error: 1h");
    larder.get(USER);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(larder.write("PATCH", USER).status, 200);
    let answer = larder.get(USER);
    assert!(
        answer.cache_status().contains("detail=purged"),
        "{answer:?}"
    );
    assert_eq!(origin.count_of("GET"), 2);
}

fn what_is_read_often_is_refreshed_before_it_expires_and_nobody_waits(store: &str) {
    let reads = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let number = reads.fetch_add(1, Ordering::SeqCst) + 1;
        origin::json(number.to_string()).after(Duration::from_millis(300))
    });
    let larder = routes(&origin, store, "ttl: 4s, early_refresh: true");
    assert_eq!(larder.get(USER).text(), "1");
    let refreshed = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut connection = larder.connect();
                while !refreshed.load(Ordering::SeqCst) {
                    let answer = connection.get(USER);
                    let seen = !answer.is_hit() || answer.text() != "1";
                    refreshed.fetch_or(seen, Ordering::SeqCst);
                    assert!(answer.is_hit(), "nobody waits: {answer:?}");
                }
            });
        }
    });
    assert_eq!(origin.count(), 2, "one refresh for all");
}

fn an_absence_is_kept_for_its_own_time_where_the_route_says_so(store: &str) {
    let origin = Origin::start(|_| origin::status(404, "{\"detail\": \"Not found.\"}"));
    let larder = routes(&origin, store, "ttl: 1h, negative_ttl: 2s");
    let miss = larder.get(USER);
    assert!(
        miss.status == 404 && miss.cache_status().contains("stored"),
        "{miss:?}"
    );
    let hit = larder.get(USER);
    assert!(
        hit.status == 404 && hit.is_hit() && hit.text() == miss.text(),
        "{hit:?}"
    );
    eventually("its time is over", || !larder.get(USER).is_hit());
    let without = routes(&origin, store, "ttl: 1h");
    without.purge_everything();
    assert!(!without.get(USER).is_hit() && !without.get(USER).is_hit());
}

/// User 7, who is there once somebody has been created.
fn one_that_is_created() -> Origin {
    let created = AtomicBool::new(false);
    Origin::start(move |request| match request.method.as_str() {
        "POST" => {
            created.store(true, Ordering::SeqCst);
            origin::status(201, "{\"id\": 7}")
        }
        _ if request.target != USER || created.load(Ordering::SeqCst) => origin::json("{}"),
        _ => origin::status(404, "{}"),
    })
}

fn an_absence_is_dropped_by_the_write_that_creates_the_thing(store: &str) {
    let origin = one_that_is_created();
    let larder = routes(&origin, store, "ttl: 1h, negative_ttl: 1h");
    larder.get(USER);
    assert!(larder.get(USER).is_hit());
    assert_eq!(larder.write("POST", LIST).status, 201);
    let there = larder.get(USER);
    assert!(there.status == 200 && !there.is_hit(), "{there:?}");
    assert!(there.cache_status().contains("detail=purged"), "{there:?}");
}

fn an_absence_is_dropped_by_a_write_at_another_things_path_that_creates_it(store: &str) {
    let origin = one_that_is_created();
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", prefix: t}}\nttl: 1h\nroutes:\n\
        \x20 - {{path: /api/users/, key: users:list}}\n\
        \x20 - {{path: /api/users/<int:id>/, key: \"users:detail:{{id}}\", negative_ttl: 1h}}\n\
        purge:\n\
        \x20 - {{methods: POST, path: /api/users/<int:id>/clone/, keys: [users:list, \"users:detail:{{id}}\"]}}\n",
        origin.url()
    ));
    larder.get(USER);
    assert!(larder.get(USER).is_hit());
    assert_eq!(larder.write("POST", "/api/users/6/clone/").status, 201);
    assert_eq!(larder.get(USER).status, 200);
}

fn a_copy_of_something_that_is_there_is_not_dropped_by_a_creation(store: &str) {
    let origin = one_that_is_created();
    let larder = routes(&origin, store, "ttl: 1h, negative_ttl: 1h");
    larder.get("/api/users/8/");
    assert_eq!(larder.write("POST", LIST).status, 201);
    assert!(larder.get("/api/users/8/").is_hit());
}

#[test]
fn what_was_stored_together_does_not_expire_together() {
    let origin = counting();
    let larder = routes(&origin, "memory:", "ttl: 1h, jitter: 50%");
    let lifetimes: std::collections::BTreeSet<u64> = (0..50)
        .map(|user| {
            let target = format!("/api/users/{user}/");
            larder.get(&target);
            let status = larder.get(&target).cache_status();
            let (_, ttl) = status.split_once("ttl=").expect(&status);
            ttl.parse().expect(&status)
        })
        .collect();
    assert!(lifetimes.len() > 25, "{lifetimes:?}");
    assert!(*lifetimes.first().unwrap() >= 1790 && *lifetimes.last().unwrap() <= 3600);
}

fn what_says_no_cache_is_kept_and_validated_before_each_use(store: &str) {
    let version = Arc::new(AtomicUsize::new(1));
    let now = version.clone();
    let origin = Origin::start(move |request| {
        let tag = format!("\"v{}\"", now.load(Ordering::SeqCst));
        let known = request.fields.get("if-none-match") == Some(tag.as_str());
        let answer = match (request.method.as_str(), known) {
            ("GET", true) => origin::status(304, ""),
            ("GET", false) => origin::json(tag.trim_matches('"').to_owned()),
            _ => {
                now.fetch_add(1, Ordering::SeqCst);
                origin::json("{}")
            }
        };
        answer
            .field("ETag", &tag)
            .field("Cache-Control", "no-cache")
    });
    let larder = routes(&origin, store, "ttl: 1h, stale_while_revalidate: 1h");
    let first = larder.get(USER);
    assert!(first.cache_status().contains("stored"), "{first:?}");
    for _ in 0..3 {
        let answer = larder.get(USER);
        assert_eq!(answer.text(), "v1");
        assert_eq!(
            answer.cache_status(),
            "larder; fwd=stale; fwd-status=304; stored; detail=expired"
        );
    }
    version.fetch_add(1, Ordering::SeqCst);
    assert_eq!(larder.get(USER).text(), "v2", "whoever has changed it");
    larder.write("PATCH", USER);
    let answer = larder.get(USER);
    assert!(
        answer.text() == "v3" && answer.cache_status().contains("detail=purged"),
        "{answer:?}"
    );
}

fn after_a_soft_purge_the_copy_is_served_until_one_request_has_fetched_it_anew(store: &str) {
    let (gate, reads) = (Gate::new(), AtomicUsize::new(0));
    let held = gate.clone();
    let origin = Origin::start(move |_| match reads.fetch_add(1, Ordering::SeqCst) {
        0 => origin::json("1"),
        n => origin::json((n + 1).to_string()).behind(&held),
    });
    let larder = routes(&origin, store, "ttl: 1h");
    larder.get(USER);
    for keys in [["users:detail:7"], ["users:detail:*"]] {
        larder.purge_softly(&keys);
    }
    for _ in 0..20 {
        let answer = larder.get(USER);
        assert!(answer.is_hit() && answer.text() == "1", "{answer:?}");
        let said = "larder; hit; ttl=0; detail=soft-purge";
        assert_eq!(answer.cache_status(), said);
    }
    origin.wait_for(2);
    gate.open();
    eventually("it has been fetched anew", || {
        let answer = larder.get(USER);
        assert!(answer.is_hit(), "nobody waits: {answer:?}");
        answer.text() == "2" && !answer.cache_status().contains("detail")
    });
    assert_eq!(origin.count(), 2, "once for all");
}

fn a_fill_that_a_soft_purge_overtakes_is_outdated_as_it_is_stored(store: &str) {
    let (gate, reads) = (Gate::new(), AtomicUsize::new(0));
    let held = gate.clone();
    let origin = Origin::start(move |_| match reads.fetch_add(1, Ordering::SeqCst) {
        0 => origin::json("1").behind(&held),
        n => origin::json((n + 1).to_string()),
    });
    let larder = routes(&origin, store, "ttl: 1h");
    thread::scope(|scope| {
        let first = scope.spawn(|| larder.get(USER));
        origin.wait_for(1);
        larder.purge_softly(&["users:detail:7"]);
        gate.open();
        assert_eq!(first.join().unwrap().text(), "1");
    });
    eventually("it has been fetched anew", || {
        let answer = larder.get(USER);
        assert!(answer.is_hit(), "{answer:?}");
        answer.text() == "2"
    });
}

fn after_a_soft_purge_the_origin_is_asked_first_where_it_forbids_what_is_stale(store: &str) {
    let reads = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let number = reads.fetch_add(1, Ordering::SeqCst) + 1;
        origin::json(number.to_string()).field("Cache-Control", "max-age=60, must-revalidate")
    });
    let larder = routes(&origin, store, "ttl: 1h");
    larder.get(USER);
    assert!(larder.get(USER).is_hit());
    larder.purge_softly(&["users:detail:7"]);
    let answer = larder.get(USER);
    assert!(!answer.is_hit() && answer.text() == "2", "{answer:?}");
    assert!(larder.get(USER).is_hit());
}

fn nothing_that_a_write_has_invalidated_is_served_because_of_a_soft_purge(store: &str) {
    let origin = counting();
    let larder = routes(&origin, store, "ttl: 1h");
    larder.get(USER);
    larder.purge_softly(&["users:detail:7"]);
    larder.write("PATCH", USER);
    larder.purge_softly(&["users:detail:7"]);
    let answer = larder.get(USER);
    assert!(!answer.is_hit() && answer.text() == "2", "{answer:?}");
}

/// The clock was wrong when it was kept: nobody knows how old it is. (Redis counts its keys' time by itself, too.)
#[test]
fn a_copy_that_is_of_the_future_as_the_clock_was_set_back_has_just_expired() {
    const HOUR: i64 = 3600;
    let (origin, clock) = (counting(), WallClock::new());
    let larder = Larder::with(format!(
        "upstream: {}\nttl: 10m\nroutes:\n\
        \x20 - {{path: /api/users/, key: users:list}}\n\
        \x20 - {{path: /api/users/<int:id>/, key: \"users:detail:{{id}}\", stale_while_revalidate: 1h}}\n",
        origin.url()
    ));
    let larder = clock.of(larder).start();
    clock.is_off(HOUR);
    assert_eq!(larder.get(LIST).text(), "1");
    assert_eq!(larder.get(USER).text(), "2");
    // As clocks differ by, and are corrected by, all the time.
    clock.is_off(HOUR - 5);
    assert!(larder.get(LIST).is_hit() && larder.get(USER).is_hit());

    clock.is_off(0);
    let told = larder.admin("GET", "/entries/users:list").text();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["valid"], &told["ttl_seconds"]),
        (&false.into(), &0.into()),
        "{told}"
    );
    let anew = larder.get(LIST);
    assert_eq!(anew.text(), "3", "{anew:?}");
    assert!(larder.get(LIST).is_hit());
    let stale = larder.get(USER);
    assert!(
        stale.cache_status().contains("stale-while-revalidate"),
        "{stale:?}"
    );
    eventually("it is fetched anew", || larder.get(USER).text() == "4");
}
