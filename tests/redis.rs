//! The store as a real Redis: over TLS, with a password, on a unix socket, with too few databases, and not there.
//! Whatever becomes of it, the API in front of it answers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder::coherence::NOTICE;
use larder::coherence::life::Record;
use support::client::head;
use support::larder::{Exit, Larder};
use support::origin::{self, Origin};
use support::redis::{RedisBuilder, RedisServer, Reply, write_certificates};
use support::relay::{Relay, Said, Way};
use support::{eventually, users_api};

const LIST: &str = "/api/users/";

/// What a wrong setting ends with, before any port is open (sysexits: EX_CONFIG).
const WRONG_SETTING: Option<i32> = Some(78);

#[test]
fn answers_are_kept_over_tls_with_a_private_ca() {
    let redis = RedisServer::builder().tls().start();
    for host in ["127.0.0.1", "localhost"] {
        let url = redis.url().replace("127.0.0.1", host);
        let origin = numbered();
        let larder = Larder::start(with_ca(
            &origin,
            &url,
            &redis.ca_file().display().to_string(),
        ));
        becomes_a_hit(&larder);
        assert!(
            redis.keys().contains(&"t:users:list".to_owned()),
            "{:?}",
            redis.keys()
        );
        redis.run(&["FLUSHALL"]).unwrap_ok();
    }
}

#[test]
fn a_server_certified_by_another_ca_is_not_talked_to() {
    let redis = RedisServer::builder()
        .tls()
        .user("larder", "s3cret-of-the-store")
        .start();
    let other = tempfile::tempdir().unwrap();
    write_certificates(other.path());
    let origin = numbered();
    let ca = other.path().join("ca.pem").display().to_string();
    for yaml in [
        with_ca(&origin, &redis.url(), &ca),
        users_api(&origin, &redis.url(), ""),
    ] {
        let larder = Larder::start(yaml);
        for _ in 0..3 {
            let answer = larder.get(LIST);
            assert!(
                answer.is_complete_success() && !answer.is_hit(),
                "{answer:?}"
            );
        }
        assert!(!larder.is_ready(), "{}", larder.readiness());
        eventually("the log names the certificate", || {
            larder.output().to_lowercase().contains("certificate")
        });
        assert!(!larder.output().contains("s3cret-of-the-store"));
    }
    assert!(redis.keys().is_empty());
}

#[test]
fn a_server_that_speaks_tls_alone_and_is_named_without_it_is_said_to_be_one() {
    let redis = RedisServer::builder().tls().start();
    let url = redis.url().replace("rediss://", "redis://");
    let larder = Larder::start(users_api(&numbered(), &url, ""));
    assert_eq!(larder.readiness()["status"], "passing-through");
    eventually("the log names the remedy", || {
        larder.output().contains("Then it is `rediss://`")
    });
    let why = larder.readiness()["store"]["detail"].to_string();
    assert!(why.contains("rediss://"), "{why}");
}

/// Who wrote through another instance before an emptied store was there again has so long to say so.
#[test]
fn the_first_instance_at_an_empty_store_keeps_nothing_for_the_notice_time() {
    let redis = RedisServer::start();
    let origin = numbered();
    let before = redis.run(&["TIME"]);
    let Reply::List(before) = before else {
        panic!("two numbers: {before:?}")
    };
    let larder = Larder::with(users_api(&origin, &redis.url(), "")).start_unsettled();
    becomes_a_hit(&larder);
    let text = |key| String::from_utf8(redis.get(key).expect("it is there")).expect("text");
    let life = Record::parse(&text("t:~incarnation")).expect("a record");
    let before: u64 = before[0].text().parse().expect("seconds");
    assert!(life.trusted >= before * 1000 + NOTICE.as_millis() as u64);
    let micros = text("t:users:list~state");
    let micros = micros.split_once('-').expect("an epoch").0;
    let made = u64::from_str_radix(micros, 16).expect("hex") / 1000;
    assert!(made >= life.trusted, "{made}, {life:?}");
    assert!(!larder.admin("GET", "/readyz").text().contains("settling"));
}

#[test]
fn a_ca_file_that_is_not_there_ends_the_start() {
    let origin = numbered();
    let exit = Larder::with(with_ca(&origin, "rediss://127.0.0.1:1", "/nowhere/ca.pem")).fails();
    assert_eq!(exit.status.code(), WRONG_SETTING, "{exit:?}");
    assert!(exit.output.contains("/nowhere/ca.pem"), "{exit:?}");
}

#[test]
fn a_user_and_a_password_are_sent() {
    for redis in [
        RedisServer::builder().user("larder", "s3cret").start(),
        RedisServer::builder().password("s3cret").start(),
    ] {
        let origin = numbered();
        let larder = Larder::start(users_api(&origin, &redis.url(), ""));
        becomes_a_hit(&larder);
    }
}

#[test]
fn a_password_with_odd_characters_may_come_from_the_environment() {
    let redis = RedisServer::builder().password("p#a:s s/w%d@?").start();
    let origin = numbered();
    let encoded = redis
        .url()
        .replace("p#a:s s/w%d@?", "p%23a%3As%20s%2Fw%25d%40%3F");
    let larder = Larder::with(users_api(&origin, "${REDIS_URL}", ""))
        .env("REDIS_URL", encoded)
        .start();
    becomes_a_hit(&larder);
}

#[test]
fn a_wrong_password_ends_the_start_with_the_remedy_and_without_the_secret() {
    for builder in [
        RedisBuilder::default().user("larder", "the-right-one"),
        RedisBuilder::default().password("the-right-one"),
    ] {
        let redis = builder.start();
        let origin = numbered();
        let url = redis.url().replace("the-right-one", "hunter2-is-wrong");
        let exit = Larder::with(users_api(&origin, &url, ""))
            .env("RUST_LOG", "trace")
            .fails();
        names_the_remedy(&exit, "store.url");
        assert!(!exit.output.contains("hunter2-is-wrong"), "{}", exit.output);
    }
}

#[test]
fn a_password_that_is_asked_for_and_not_given_ends_the_start_with_the_remedy() {
    let redis = RedisServer::builder().password("s3cret").start();
    let origin = numbered();
    let exit = Larder::with(users_api(
        &origin,
        &format!("redis://127.0.0.1:{}", redis.port()),
        "",
    ))
    .fails();
    names_the_remedy(&exit, "store.url");
}

/// What its scripts ask for beside keys was forgotten: with the remedy it was away for ever, and did not say why.
#[test]
fn a_user_that_may_too_little_ends_the_start_and_is_allowed_enough_by_the_remedy() {
    let redis = RedisServer::start();
    let allow = |rights: &[&str]| {
        let user = ["ACL", "SETUSER", "larder", "on", ">s3cret", "~t:*"];
        redis.run(&[&user[..], rights].concat()).unwrap_ok();
    };
    let origin = numbered();
    let url = redis.url().replace("redis://", "redis://larder:s3cret@");
    for rights in [
        &["+@connection"][..],
        &["+@connection", "+@read", "+@write", "+@scripting"],
    ] {
        allow(rights);
        let exit = Larder::with(users_api(&origin, &url, "")).fails();
        names_the_remedy(&exit, "allow it `");
        let remedy = exit.output.split_once("allow it `").expect("a remedy").1;
        let remedy = remedy.split_once('`').expect("a whole one").0;
        redis.run(&["ACL", "DELUSER", "larder"]);
        allow(&remedy.split(' ').collect::<Vec<_>>());
        becomes_a_hit(&Larder::start(users_api(&origin, &url, "")));
        redis.run(&["ACL", "DELUSER", "larder"]);
    }
}

/// It connected, was refused by the next request, and connected again: a line of the log for each, and `/readyz` said that all was well.
#[test]
fn a_user_that_may_less_than_before_is_told_of_by_readyz_and_once_in_the_log() {
    let redis = RedisServer::start();
    let allow = |rights: &[&str]| {
        let user = ["ACL", "SETUSER", "larder"];
        redis.run(&[&user[..], rights].concat()).unwrap_ok();
    };
    let origin = numbered();
    let url = redis.url().replace("redis://", "redis://larder:s3cret@");
    for command in [
        "mget", "set", "pexpire", "evalsha", "smembers", "append", "get",
    ] {
        allow(&["on", ">s3cret", "~t:*", "+@all"]);
        let larder = Larder::start(users_api(&origin, &url, ""));
        becomes_a_hit(&larder);
        allow(&[&format!("-{command}")]);
        let refused = format!("may not run {}", command.to_uppercase());
        let reads_and_writes = || {
            assert_eq!(larder.write("POST", LIST).status, 200);
            assert_eq!(larder.get(LIST).status, 200);
        };
        eventually("it is named", || {
            reads_and_writes();
            larder.admin("GET", "/readyz").text().contains(&refused)
        });
        (0..50).for_each(|_| reads_and_writes());
        assert_eq!(larder.output().matches(&refused).count(), 1);
        assert_eq!(larder.output().matches("store connected").count(), 1);
        allow(&["+@all"]);
        becomes_a_hit(&larder);
    }
}

/// It connected, and each request ended the link; or it said that the link was lost.
#[test]
fn a_command_that_the_server_does_not_know_is_named_by_readyz_and_not_asked_for_again_and_again() {
    for command in ["MGET", "EVALSHA", "APPEND"] {
        let redis = RedisServer::builder().without(command).start();
        let origin = numbered();
        let larder = Larder::start(users_api(&origin, &redis.url(), ""));
        for _ in 0..3 {
            assert_eq!(larder.get(LIST).status, 200);
            assert_eq!(larder.write("POST", LIST).status, 200);
        }
        let named = format!("{command} was answered ERR unknown command");
        eventually("it is named", || {
            larder.admin("GET", "/readyz").text().contains(&named)
        });
        assert_eq!(larder.output().matches("store connected").count(), 0);
    }
}

#[test]
fn answers_are_kept_over_a_unix_socket() {
    let redis = RedisServer::start();
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &redis.unix_url(), ""));
    becomes_a_hit(&larder);
    assert!(
        redis.keys().contains(&"t:users:list".to_owned()),
        "{:?}",
        redis.keys()
    );
}

#[test]
fn a_database_that_is_not_there_ends_the_start_with_the_line_to_write() {
    let redis = RedisServer::builder().databases(1).start();
    let origin = numbered();
    let exit = Larder::with(users_api(&origin, &redis.url(), "")).fails();
    names_the_remedy(&exit, "database: 0");
    assert!(redis.keys_in(0).is_empty());
}

#[test]
fn no_port_is_open_before_the_store_has_said_that_it_is_right() {
    let redis = RedisServer::builder().databases(1).start();
    let origin = numbered();
    let yaml = users_api(&origin, &redis.url(), "").replace("prefix: t", "prefix: t, timeout: 5s");
    redis.freeze();
    let exit = thread::scope(|scope| {
        // Fails where it finds a port open, and there is time enough to find it.
        let larder = scope.spawn(|| Larder::with(yaml).fails());
        thread::sleep(Duration::from_millis(500));
        redis.thaw();
        larder.join().expect("no port open")
    });
    names_the_remedy(&exit, "database: 0");
}

#[test]
fn database_0_is_used_where_it_was_asked_for() {
    let redis = RedisServer::builder().databases(1).start();
    let origin = numbered();
    let larder =
        Larder::start(users_api(&origin, &redis.url(), "").replace("database: 1", "database: 0"));
    becomes_a_hit(&larder);
    assert!(redis.keys_in(0).contains(&"t:users:list".to_owned()));
}

#[test]
fn the_setting_wins_over_a_database_in_the_url() {
    let redis = RedisServer::start();
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &format!("{}/3", redis.url()), ""));
    becomes_a_hit(&larder);
    assert!(redis.keys_in(3).is_empty() && !redis.keys_in(1).is_empty());

    let without =
        users_api(&origin, &format!("{}/3", redis.url()), "").replace("database: 1, ", "");
    let larder = Larder::start(without);
    becomes_a_hit(&larder);
    assert!(!redis.keys_in(3).is_empty());
}

#[test]
fn a_state_outlives_what_the_api_has_kept_for_longer_than_the_route_would() {
    let redis = RedisServer::start();
    let origin = Origin::start(|request| {
        let long = if request.target == "/long/" {
            100_000
        } else {
            2
        };
        origin::json("x".repeat(long)).field("Cache-Control", "max-age=864000")
    });
    let more = "  - {path: /long/, key: long}\n  - {path: /own/, policy: http, key: own}\npurge:";
    let yaml = users_api(&origin, &redis.url(), "").replace("purge:", more);
    let larder = Larder::start(yaml);
    becomes_a_hit(&larder);
    for target in ["/api/users/7/", "/long/", "/own/"] {
        larder.get(target);
        assert!(larder.get(target).is_hit(), "{target}");
    }
    let ends = |key: &str| redis.run(&["PTTL", key]).number();
    let mut kept = 0;
    for key in redis.keys() {
        let family = key.split('~').next().unwrap();
        if key.starts_with("t:~") || key.ends_with("~all") || key.ends_with("~state") {
            continue;
        }
        kept += 1;
        let state = format!("{family}~state");
        assert!(ends(&state) > ends(&key), "{key} outlives {state}");
    }
    assert!(kept >= 4, "only {kept} copies");
    assert!(ends("t:users:detail~all") > ends("t:users:detail:7"));
}

#[test]
fn every_key_has_a_time_to_live_and_stands_under_the_prefix() {
    let redis = RedisServer::start();
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    larder.get_with("/api/users/7/?a=1", &[("Authorization", "Token a")]);
    larder.write("PATCH", "/api/users/7/");
    larder.get("/api/users/7/");
    let keys = redis.keys();
    assert!(keys.len() > 3, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("t:"), "{key}");
        assert!(redis.run(&["PTTL", &key]).number() > 0, "{key} never ends");
    }
    assert!(redis.keys_in(0).is_empty());
}

#[test]
fn the_stored_value_begins_with_the_body_as_it_is() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json(r#"[{"id":7,"name":"Zoë"}]"#));
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    larder.get(LIST);
    let value = redis
        .get("t:users:list")
        .expect("the copy of everybody at its literal key");
    assert!(
        value.starts_with(r#"[{"id":7,"name":"Zoë"}]"#.as_bytes()),
        "{}",
        String::from_utf8_lossy(&value)
    );
}

#[test]
fn a_database_that_went_away_makes_a_pass_through_and_never_a_key_in_another() {
    let mut redis = RedisServer::start();
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    assert!(larder.is_ready());

    redis.kill();
    redis.start_again_with_databases(1);
    eventually("/readyz names the database", || {
        let answer = larder.get(LIST);
        assert!(answer.is_complete_success(), "{answer:?}");
        !larder.is_ready() && larder.readiness().to_string().contains("database")
    });
    for _ in 0..10 {
        let answer = larder.get(LIST);
        assert!(
            answer.is_complete_success() && !answer.is_hit(),
            "{answer:?}"
        );
        assert_eq!(larder.write("POST", LIST).status, 200);
    }
    assert!(redis.keys_in(0).is_empty(), "{:?}", redis.keys_in(0));
}

#[test]
fn readyz_says_why_the_store_is_away_now_and_not_how_it_was_lost() {
    let mut redis = RedisServer::start();
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    redis.kill();
    eventually("/readyz says that nobody listens there", || {
        let told = larder.readiness().to_string();
        told.contains("passing-through") && told.contains("Connection refused")
    });
}

#[test]
fn a_store_that_is_down_at_the_start_is_used_once_it_is_up() {
    let mut redis = RedisServer::builder().not_started();
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    for _ in 0..3 {
        let answer = larder.get(LIST);
        assert!(
            answer.is_complete_success() && !answer.is_hit(),
            "{answer:?}"
        );
    }
    assert_eq!(larder.write("PATCH", "/api/users/7/").status, 200);
    assert_eq!(larder.admin("GET", "/healthz").status, 200);
    assert!(!larder.is_ready(), "{}", larder.readiness());
    redis.start_again();
    becomes_a_hit(&larder);
    assert!(larder.is_ready());
}

#[test]
fn no_request_fails_while_the_store_is_killed_and_comes_back_under_load() {
    let mut redis = RedisServer::start();
    let api = Api::start();
    let larder = Larder::start(users_api(&api.origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    api.under_load(&larder, || {
        for _ in 0..2 {
            redis.kill();
            api.goes_on();
            redis.start_again();
            eventually("the store is used again", || larder.is_ready());
            api.goes_on();
        }
    });
    becomes_a_hit(&larder);
}

#[test]
fn no_request_fails_while_the_store_hangs_and_hits_come_back_after_it() {
    let redis = RedisServer::start();
    let api = Api::start();
    let larder = Larder::start(users_api(&api.origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    api.under_load(&larder, || {
        redis.freeze();
        api.goes_on();
        for _ in 0..20 {
            let start = Instant::now();
            let answer = larder.get(LIST);
            assert!(answer.is_complete_success(), "{answer:?}");
            // One time limit of 250 ms, with room for a busy machine.
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "a read waited {:?}",
                start.elapsed()
            );
        }
        redis.thaw();
        api.goes_on();
    });
    becomes_a_hit(&larder);
}

#[test]
fn a_store_that_hangs_costs_one_time_limit_and_not_one_for_each_request() {
    let redis = RedisServer::start();
    costs_one_time_limit(&redis, || redis.freeze());
    redis.thaw();
}

/// As one does that is about to hand over to another: it answers, but who writes waits.
#[test]
fn a_store_that_lets_writes_wait_is_one_that_hangs() {
    let redis = RedisServer::start();
    costs_one_time_limit(&redis, || {
        redis
            .run(&["CLIENT", "PAUSE", "60000", "WRITE"])
            .unwrap_ok();
    });
}

fn costs_one_time_limit(redis: &RedisServer, hangs: impl Fn()) {
    let origin = numbered();
    // So long that twenty of them could not be missed.
    let larder = Larder::start(
        users_api(&origin, &redis.url(), "").replace("prefix: t", "prefix: t, timeout: 1s"),
    );
    becomes_a_hit(&larder);
    hangs();
    let start = Instant::now();
    for id in 0..20 {
        let user = format!("/api/users/{id}/");
        assert!(larder.get(&user).is_complete_success());
        assert!(larder.get(LIST).is_complete_success());
    }
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "forty reads took {:?}",
        start.elapsed()
    );
}

#[test]
fn a_purge_during_the_outage_holds_when_the_same_store_is_back() {
    let redis = RedisServer::start();
    let api = Api::start();
    let larder = Larder::start(users_api(&api.origin, &redis.url(), ""));
    let variants: [(&str, &[(&str, &str)]); 4] = [
        (LIST, &[]),
        ("/api/users/?page=2", &[]),
        (LIST, &[("Authorization", "Token a")]),
        ("/api/users/7/", &[]),
    ];
    for (target, fields) in variants {
        larder.get_with(target, fields);
        assert!(larder.get_with(target, fields).is_hit(), "{target}");
    }

    redis.freeze();
    let written = larder.write("PATCH", "/api/users/7/");
    assert_eq!((written.status, written.text().as_str()), (200, "1"));
    for (target, fields) in variants {
        assert_eq!(
            larder.get_with(target, fields).text(),
            "1",
            "{target} during the outage"
        );
    }
    redis.thaw();

    // From before: version 0. It is still in the store, and must stay there unseen.
    for (target, fields) in variants {
        eventually(&format!("{target} is a hit again"), || {
            let answer = larder.get_with(target, fields);
            assert_eq!(answer.text(), "1", "{target} after the outage");
            answer.is_hit()
        });
    }
}

#[test]
fn a_purge_while_the_store_is_dead_holds_when_it_is_back_empty() {
    let mut redis = RedisServer::start();
    let api = Api::start();
    let larder = Larder::start(users_api(&api.origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    redis.kill();
    assert_eq!(larder.write("PATCH", "/api/users/7/").text(), "1");
    assert_eq!(larder.get(LIST).text(), "1");
    redis.start_again();
    eventually("hits are back", || {
        let answer = larder.get(LIST);
        assert_eq!(answer.text(), "1");
        answer.is_hit()
    });
}

#[test]
fn writes_are_refused_during_an_outage_where_that_was_asked_for() {
    let mut redis = RedisServer::start();
    let api = Api::start();
    let larder = Larder::start(users_api(
        &api.origin,
        &redis.url(),
        "when_store_is_down: refuse_writes",
    ));
    becomes_a_hit(&larder);
    redis.kill();
    let refused = larder.write("PATCH", "/api/users/7/");
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some(), "{refused:?}");
    assert_eq!(api.origin.count_of("PATCH"), 0);
    assert!(larder.get(LIST).is_complete_success());
    redis.start_again();
    eventually("writes pass again", || {
        larder.write("PATCH", "/api/users/7/").status == 200
    });
}

#[test]
fn a_link_on_which_nothing_is_asked_is_kept_alive() {
    let redis = RedisServer::start();
    let larder = Larder::start(users_api(&numbered(), &redis.url(), ""));
    larder.get(LIST);
    // proc(5), tcp: the far end is the third word, the state the fourth, the timer the sixth; 01 is established, 02 keepalive.
    let far = format!("0100007F:{:04X}", redis.port());
    eventually("all that was said is acknowledged", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let timers: Vec<&str> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words[2] == far && words[3] == "01")
            .map(|words| &words[5][..2])
            .collect();
        !timers.is_empty() && timers.iter().all(|&timer| timer == "02")
    });
}

#[test]
fn who_is_refused_before_the_content_was_read_is_told_that_the_connection_ends() {
    let mut redis = RedisServer::start();
    let origin = numbered();
    let file = users_api(&origin, &redis.url(), "when_store_is_down: refuse_writes");
    let larder = Larder::start(file);
    redis.kill();
    eventually("writes are refused", || {
        larder.write("PATCH", "/api/users/7/").status == 503
    });
    let mut client = larder.connect();
    client.send(head("PATCH", "/api/users/7/", &[], Some(1_000_000)).as_bytes());
    let refused = client.answer("PATCH");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.field("connection"), Some("close"), "{refused:?}");
    assert!(client.is_closed());
    // With all of it read there may be another.
    let mut client = larder.connect();
    let content = [b'x'; 60_000];
    let refused = client.request("PATCH", "/api/users/7/", &[], &content);
    assert_eq!((refused.status, refused.field("connection")), (503, None));
    assert!(client.get(LIST).is_complete_success());
}

#[test]
fn a_full_store_neither_fails_a_request_nor_keeps_a_purge_from_working() {
    let redis = RedisServer::start();
    let api = Api::start();
    let larder = Larder::start(users_api(&api.origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    // Full from here on: every command that would need memory is refused.
    redis.run(&["CONFIG", "SET", "maxmemory", "1"]).unwrap_ok();
    assert_eq!(larder.write("PATCH", "/api/users/7/").text(), "1");
    for _ in 0..3 {
        let answer = larder.get(LIST);
        assert_eq!((answer.status, answer.text().as_str()), (200, "1"));
    }
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]).unwrap_ok();
    eventually("hits are back", || {
        let answer = larder.get(LIST);
        assert_eq!(answer.text(), "1");
        answer.is_hit()
    });
}

#[test]
fn another_instance_answers_from_what_the_first_has_stored_and_purged() {
    let redis = RedisServer::start();
    let api = Api::start();
    let [first, second] = [(); 2].map(|()| Larder::start(users_api(&api.origin, &redis.url(), "")));
    for (target, fields) in [
        (LIST, &[][..]),
        ("/api/users/?role=admin&page=2", &[]),
        (LIST, &[("Authorization", "Token a")]),
        (LIST, &[("Cookie", "sessionid=1")]),
    ] {
        assert!(!first.get_with(target, fields).is_hit());
        assert!(
            second.get_with(target, fields).is_hit(),
            "{target} {fields:?}"
        );
        assert_eq!(second.write("POST", LIST).status, 200);
        assert!(
            !first.get_with(target, fields).is_hit(),
            "{target} {fields:?}"
        );
    }
}

/// As a proxy before Redis may: one user was given another's copy, or no answer at all.
#[test]
fn a_store_that_answers_out_of_step_fails_no_request_and_gives_nobody_the_answer_of_another() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let origin = Origin::start(|request| {
        let who = request.fields.get("authorization").unwrap_or("nobody");
        origin::json(format!("{{\"who\":\"{who}\"}}"))
    });
    // So that nobody is told before the next answer comes that there is none.
    let yaml = users_api(&origin, &relay.url(), "").replace("prefix: t", "prefix: t, timeout: 5s");
    let larder = Larder::start(yaml);
    let (detail, one, other) = ("/api/users/7/", "Token one", "Token other");
    for (asked_first, asked_then) in [(LIST, LIST), (detail, LIST), (LIST, detail)] {
        let get = |target: &str, token| {
            let answer = larder.get_with(target, &[("Authorization", token)]);
            assert!(answer.is_complete_success(), "{target}: {answer:?}");
            assert_eq!(answer.text(), format!("{{\"who\":\"{token}\"}}"));
            answer.is_hit()
        };
        for (target, token) in [(asked_first, one), (asked_then, other)] {
            eventually("it is a hit", || get(target, token));
        }
        relay.loses_an_answer();
        thread::scope(|scope| {
            scope.spawn(|| get(asked_first, one));
            eventually("an answer was lost", || relay.has_lost());
            get(asked_then, other);
        });
    }
    assert!(
        larder.output().contains("something else than it was asked"),
        "{}",
        larder.output()
    );
}

/// SWAPDB and back, as RESTORE or a provider's backup may: the server lives on, and with it what it said to live.
#[test]
fn what_was_kept_before_is_not_given_when_the_data_of_then_are_put_back() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &relay.url(), ""));
    let detail = "/api/users/7/";
    becomes_a_hit(&larder);
    let before = larder.get(detail).text();
    assert!(larder.get(detail).is_hit());
    redis.run(&["SWAPDB", "1", "2"]).unwrap_ok();
    eventually("it is seen that nothing stands there", || {
        !larder.get(LIST).is_hit()
    });
    assert_eq!(larder.write("PATCH", detail).status, 200);
    redis.run(&["SWAPDB", "1", "2"]).unwrap_ok();
    relay.becomes(Way::Slow(Duration::from_millis(5)));
    relay.said();
    let is_seen = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                eventually("it is seen what stands there", || {
                    is_seen.fetch_or(!larder.get(LIST).is_hit(), Ordering::SeqCst);
                    is_seen.load(Ordering::SeqCst)
                });
            });
        }
    });
    assert_ne!(larder.get(detail).text(), before);
    becomes_a_hit(&larder);
    let said = relay.said();
    let begun = said.iter().filter(|said| match said {
        Said::Command(words) => words[0] == "EVAL" && words.iter().any(|word| word == "anew"),
        Said::Answer(_) => false,
    });
    assert_eq!(
        begun.count(),
        1,
        "of all who see it, one begins another life"
    );
}

#[test]
fn an_error_to_the_heartbeat_is_an_answer() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port());
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &relay.url(), ""));
    becomes_a_hit(&larder);
    redis
        .run(&["ACL", "SETUSER", "default", "-ping"])
        .unwrap_ok();
    relay.becomes(Way::Slow(Duration::from_millis(40)));
    relay.said();
    let is_refused =
        |said: &Said| matches!(said, Said::Answer(Reply::Error(why)) if why.contains("ping"));
    eventually("it was refused", || {
        assert!(larder.get(LIST).is_hit());
        relay.said().iter().any(is_refused)
    });
    for _ in 0..20 {
        assert!(larder.get(LIST).is_hit());
    }
    assert_eq!(larder.output().matches("store connected").count(), 1);
}

#[test]
fn what_others_keep_in_the_same_store_stays_as_it_is() {
    let redis = RedisServer::start();
    let theirs = ["celery", "tt:users:list", "t", "users:list", "T:users:list"];
    for key in theirs {
        redis.run(&["SET", key, "theirs"]).unwrap_ok();
    }
    let origin = numbered();
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    becomes_a_hit(&larder);
    for (method, target) in [
        ("POST", LIST),
        ("PATCH", "/api/users/7/"),
        ("POST", "/api/users/7/activate/"),
    ] {
        larder.write(method, target);
    }
    for key in theirs {
        assert_eq!(redis.get(key).as_deref(), Some(&b"theirs"[..]), "{key}");
        assert_eq!(redis.run(&["TTL", key]).number(), -1, "{key}");
    }
    let commands = redis.run(&["INFO", "commandstats"]).text();
    for never in ["flushdb", "flushall", "cmdstat_keys:"] {
        assert!(!commands.to_lowercase().contains(never), "{commands}");
    }
}

/// An origin whose every answer differs from the one before.
fn numbered() -> Origin {
    Origin::start(|request| origin::json(format!("{{\"n\":{}}}", request.number)))
}

fn with_ca(origin: &Origin, url: &str, ca_file: &str) -> String {
    users_api(origin, url, "").replace("prefix: t", &format!("prefix: t, ca_file: {ca_file}"))
}

#[track_caller]
fn becomes_a_hit(larder: &Larder) {
    eventually("the list is a hit", || {
        let answer = larder.get(LIST);
        assert!(answer.is_complete_success(), "{answer:?}");
        answer.is_hit()
    });
}

#[track_caller]
fn names_the_remedy(exit: &Exit, remedy: &str) {
    assert_eq!(exit.status.code(), WRONG_SETTING, "{exit:?}");
    assert!(
        exit.output.contains(remedy),
        "{remedy:?} is not in:\n{}",
        exit.output
    );
}

/// A users API whose state is one number. A write makes it the next and answers it; a read answers it.
struct Api {
    origin: Origin,
    /// The newest state that anybody has been shown.
    shown: AtomicU64,
    requests: AtomicU64,
}

impl Api {
    fn start() -> Api {
        let version = Arc::new(AtomicU64::new(0));
        let origin = Origin::start(move |request| {
            let now = match request.method.as_str() {
                "GET" => version.load(Ordering::SeqCst),
                _ => version.fetch_add(1, Ordering::SeqCst) + 1,
            };
            origin::json(now.to_string())
        });
        Api {
            origin,
            shown: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    /// Readers and a writer run while `meanwhile` does; every answer is a complete 200, and none is older than
    /// what somebody has been shown before it was asked for (G1 and G2).
    fn under_load(&self, larder: &Larder, meanwhile: impl FnOnce()) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let requests: [(&str, &str); 4] = [
                ("GET", LIST),
                ("GET", "/api/users/?page=2"),
                ("GET", "/api/users/7/"),
                ("PATCH", "/api/users/7/"),
            ];
            let clients = requests.map(|(method, target)| {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        let before = self.shown.load(Ordering::SeqCst);
                        let answer = larder.request(method, target, &[], b"");
                        assert!(
                            answer.is_complete_success(),
                            "{method} {target}: {answer:?}"
                        );
                        let state = answer.text().parse::<u64>().expect("a number");
                        assert!(
                            state >= before,
                            "{method} {target} shows {state} after {before} has been shown"
                        );
                        self.shown.fetch_max(state, Ordering::SeqCst);
                        self.requests.fetch_add(1, Ordering::SeqCst);
                        if method == "PATCH" {
                            // Room for hits between two writes.
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                })
            });
            // The clients end even where this panics.
            let _done = OnDrop(&done);
            meanwhile();
            drop(_done);
            for client in clients {
                client.join().expect("a client of the load");
            }
        });
    }

    /// Waits until the load has had a hundred more answers.
    fn goes_on(&self) {
        let enough = self.requests.load(Ordering::SeqCst) + 100;
        eventually("the load goes on", || {
            self.requests.load(Ordering::SeqCst) >= enough
        });
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
