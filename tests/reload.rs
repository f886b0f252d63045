//! Another configuration while the proxy runs: what comes into force, what stays, and that nobody is shown what the new
//! rules would not have given them.

#[macro_use]
mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use support::client::{Answer, Connection, HOST, head};
use support::larder::{Larder, run};
use support::origin::{self, Origin};
use support::redis::{RedisServer, signal};
use support::tls::{Authority, Kind};
use support::{Gate, PURGE, eventually, users_api};

const LIST: &str = "/api/users/";

on_both_stores! {
    what_is_kept_stays_and_a_new_route_is_kept_from_then_on
    a_rule_that_is_new_drops_once_what_it_names
    where_reads_lag_what_a_new_rule_drops_is_held_for_that_long_too
    a_write_under_way_holds_what_a_rule_that_comes_meanwhile_names
    a_write_that_drops_something_already_holds_what_another_rule_adds
    a_key_that_means_another_path_gives_nothing_of_the_old_one
    what_is_shared_by_verify_is_nobodys_under_another_access
    what_is_public_is_not_given_to_who_has_a_credential_of_their_own
    a_parameter_that_begins_to_count_is_not_given_the_copy_without_it
    what_was_kept_with_a_cookie_or_a_credential_is_nobodys_once_it_is_not_to_be_kept
    purging_everything_reaches_what_a_route_kept_that_is_gone_and_comes_back
    a_logout_under_way_ends_what_is_said_of_it_under_a_verify_that_is_new
    another_upstream_is_asked_and_the_cache_stays
}

fn what_is_kept_stays_and_a_new_route_is_kept_from_then_on(store: &str) {
    let origin = Origin::start(|request| origin::json(format!("\"{}\"", request.target)));
    let larder = Larder::start(users_api(&origin, store, ""));
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    assert!(!larder.get("/api/teams/").is_hit());
    let more = "  - {path: /api/teams/, key: teams:list}\npurge:";
    let yaml = users_api(&origin, store, "").replace("purge:", more);
    let told = reload(&larder, &yaml);
    assert_eq!(told["dropped"], serde_json::json!(["teams:list~state"]));
    assert!(larder.get(LIST).is_hit());
    larder.get("/api/teams/");
    assert!(larder.get("/api/teams/").is_hit());
    assert_eq!(larder.readiness()["reloads"]["done"], 1);
    assert_eq!(larder.readiness()["reloads"]["last"]["result"], "done");
}

/// What was written a moment before by no rule may not be read yet.
fn where_reads_lag_what_a_new_rule_drops_is_held_for_that_long_too(store: &str) {
    let origin = Origin::start(|_| origin::json("[]"));
    let url = origin.url();
    let lags = format!("{{url: '{url}', lag: 1m}}");
    let yaml = users_api(&origin, store, "").replace(&url, &lags);
    let larder = Larder::start(yaml.clone());
    assert_eq!(larder.write("POST", "/api/teams/").status, 200);
    let rule = "purge:\n  - {methods: POST, path: /api/teams/, keys: [users:list]}";
    let told = reload(&larder, &yaml.replace("purge:", rule));
    assert_eq!(told["dropped"], serde_json::json!(["users:list~state"]));
    let said = larder.get(LIST).cache_status();
    assert!(said.ends_with("detail=held"), "{said}");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_it_says_why() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "");
    let larder = Larder::start(yaml.clone());
    larder.get(LIST);
    write(&larder, &yaml.replace("ttl: 1h", "tttl: 1h"));
    let refused = post_reload(&larder);
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("tttl"), "{}", refused.text());
    signal("-HUP", larder.pid());
    eventually("the signal was heard", || {
        larder.readiness()["reloads"]["refused"] == 2
    });
    let last = &larder.readiness()["reloads"]["last"];
    assert_eq!(last["result"], "refused");
    assert!(last["detail"].as_str().unwrap().contains("wrong"), "{last}");
    assert_eq!(larder.readiness()["status"], "ready");
    let file = larder.file();
    let by_command = run(&["reload", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(by_command.status.code(), Some(78));
    assert!(larder.get(LIST).is_hit());
    assert!(larder.output().contains("configuration not reloaded"));
}

#[test]
fn a_signal_and_the_command_reload_the_file() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "hosts: [api.example.org]");
    let larder = Larder::start(yaml.clone());
    assert_eq!(larder.get(LIST).status, 200);
    write(
        &larder,
        &yaml.replace("api.example.org", "other.example.org"),
    );
    signal("-HUP", larder.pid());
    eventually("the other host is served alone", || {
        larder.get(LIST).status == 421
    });
    write(&larder, &yaml);
    let file = larder.file();
    let done = run(&["reload", "-c", file.to_str().unwrap()], &[]);
    assert!(done.status.success(), "{done:?}");
    assert!(done.output.contains("all copies stay"), "{done:?}");
    assert_eq!(larder.get(LIST).status, 200);
}

#[test]
fn who_asks_by_another_token_than_the_instance_has_is_told_which_of_the_two_to_change() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "admin_token: the-old-token");
    let larder = Larder::start(yaml.clone());
    let file = larder.file().to_str().unwrap().to_owned();
    let commands: [&[&str]; 5] = [
        &["reload"],
        &["purge", "users:list"],
        &["keys"],
        &["top", "--once"],
        &["explain", LIST, "--ask"],
    ];
    let refused = |remedy: &str| {
        for command in commands {
            let told = run(&[command, &["-c", &file]].concat(), &[]);
            assert_eq!(told.status.code(), Some(1), "{command:?}: {told:?}");
            assert!(told.output.contains(remedy), "{command:?}: {told:?}");
        }
    };
    write(&larder, &users_api(&origin, "memory:", ""));
    refused("this file has none");
    write(&larder, &yaml.replace("the-old", "the-new"));
    refused("SIGHUP has it read the file again");
    signal("-HUP", larder.pid());
    eventually("the token is the file's", || {
        run(&["keys", "-c", &file], &[]).status.success()
    });
}

#[test]
fn what_only_a_restart_can_change_is_named_and_nothing_is_changed() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "");
    let larder = Larder::start(yaml.clone());
    let other = yaml
        .replace("prefix: t", "prefix: u")
        .replace("ttl: 1h", "memory: {size: 9MiB}\nhosts: [nobody.example]");
    write(&larder, &other);
    let refused = post_reload(&larder);
    assert_eq!(refused.status, 422);
    let told: Value = serde_json::from_str(&refused.text()).unwrap();
    let named = serde_json::json!(["store.prefix", "memory.size"]);
    assert_eq!(told["needs_restart"], named);
    assert_eq!(larder.get(LIST).status, 200, "the hosts are as they were");
}

#[test]
fn another_lease_takes_a_restart() {
    let (redis, origin) = (RedisServer::start(), Origin::start(|_| origin::json("[]")));
    let yaml = users_api(&origin, &redis.url(), "memory: {lease: 10ms}");
    let larder = Larder::start(yaml.clone());
    for other in ["memory: {lease: 5ms}", "memory: {lease: 0}", ""] {
        write(&larder, &yaml.replace("memory: {lease: 10ms}", other));
        let refused = post_reload(&larder);
        assert_eq!(refused.status, 422);
        let told: Value = serde_json::from_str(&refused.text()).unwrap();
        let named = serde_json::json!(["memory.lease"]);
        assert_eq!(told["needs_restart"], named, "{other}");
    }
}

#[test]
fn a_file_that_is_watched_is_reloaded_when_the_link_to_it_leads_elsewhere() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "");
    let larder = Larder::with(yaml.clone()).argument("--watch").start();
    // As Kubernetes does it.
    let file = larder.file();
    let directory = file.parent().unwrap();
    let other = format!(
        "{}hosts: [nobody.example]\n",
        with_listeners(&larder, &yaml)
    );
    fs::create_dir(directory.join("..new")).unwrap();
    fs::write(directory.join("..new/proxy.yaml"), other).unwrap();
    std::os::unix::fs::symlink("..new/proxy.yaml", directory.join("link")).unwrap();
    fs::rename(directory.join("link"), &file).unwrap();
    eventually("the new hosts are in force", || {
        larder.get(LIST).status == 421
    });
}

#[test]
fn other_certificates_are_shown_after_a_reload_and_none_that_are_wrong() {
    let (authority, origin) = (Authority::new(), Origin::start(|_| origin::json("[]")));
    let issued = ["first", "second"].map(|name| {
        let issued = authority.issue(Kind::Ecdsa, &[HOST]);
        authority.write(name, &issued);
        issued.own
    });
    let yaml = |name: &str| {
        let tls = format!("tls: {}", authority.pair(name));
        users_api(&origin, "memory:", &tls)
    };
    let larder = Larder::start(yaml("first"));
    let connect = || authority.client().connect(larder.address(), HOST).unwrap();
    let mut kept = connect();
    assert_eq!(kept.shown(), issued[0]);
    reload(&larder, &yaml("second"));
    assert_eq!(connect().shown(), issued[1]);
    write(&larder, &yaml("third"));
    let refused = post_reload(&larder);
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("third"), "{}", refused.text());
    assert_eq!(connect().shown(), issued[1]);
    assert_eq!(kept.get(LIST).status, 200);
}

#[test]
fn the_level_of_the_log_is_another_after_a_reload() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "logs: {level: info}");
    let larder = Larder::start(yaml.clone());
    larder.get(LIST);
    assert!(!larder.output().contains("nothing to serve"));
    reload(&larder, &yaml.replace("level: info", "level: debug"));
    larder.get("/api/users/7/");
    eventually("it says more", || {
        larder.output().contains("nothing to serve")
    });
}

#[test]
fn what_is_to_be_warm_is_asked_for_when_the_file_begins_to_say_so() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "");
    let larder = Larder::start(yaml.clone());
    reload(
        &larder,
        &format!("{yaml}warm:\n  - {{targets: [{LIST}], fields: [\"Host: api.example.org\"]}}\n"),
    );
    origin.wait_for(1);
    eventually("it is kept", || larder.get(LIST).is_hit());
    assert_eq!(origin.count(), 1);
}

fn a_rule_that_is_new_drops_once_what_it_names(store: &str) {
    let version = Arc::new(AtomicU64::new(1));
    let now = version.clone();
    let origin = Origin::start(move |_| origin::json(now.load(Ordering::SeqCst).to_string()));
    let without = users_api(&origin, store, "");
    let larder = Larder::start(without.clone());
    larder.get(LIST);
    larder.get("/api/users/7/");
    // Nobody has said that this changes users.
    version.store(2, Ordering::SeqCst);
    larder.write("POST", "/api/imports/");
    assert_eq!(larder.get(LIST).text(), "1");
    let told = reload(&larder, &with_imports(&without));
    assert_eq!(told["dropped"], serde_json::json!(["users:list~state"]));
    assert_eq!(larder.get(LIST).text(), "2");
    assert!(larder.get(LIST).is_hit());
    assert!(
        larder.get("/api/users/7/").is_hit(),
        "it names the list alone"
    );
    let again = reload(&larder, &with_imports(&without));
    assert_eq!(again["dropped"], serde_json::json!([]));
    assert!(larder.get(LIST).is_hit());
    version.store(3, Ordering::SeqCst);
    larder.write("POST", "/api/imports/");
    assert_eq!(larder.get(LIST).text(), "3");
}

fn a_write_under_way_holds_what_a_rule_that_comes_meanwhile_names(store: &str) {
    held_across_a_reload(store, "POST", "/api/imports/");
}

fn a_write_that_drops_something_already_holds_what_another_rule_adds(store: &str) {
    held_across_a_reload(store, "POST", "/api/roles/");
}

/// A write is at the origin; a rule comes that says that it drops the list; and it commits.
fn held_across_a_reload(store: &str, method: &'static str, path: &'static str) {
    let (version, gate) = (Arc::new(AtomicU64::new(1)), Gate::new());
    let (now, commit) = (version.clone(), gate.clone());
    let origin = Origin::start(move |request| match request.method.as_str() {
        "GET" => origin::json(now.load(Ordering::SeqCst).to_string()),
        _ => origin::json("{}").behind(&commit),
    });
    let roles = "purge:\n  - {methods: POST, path: /api/roles/, keys: [\"users:detail:*\"]}";
    let before = users_api(&origin, store, "").replace("purge:", roles);
    let after = with_imports(&before).replace(
        "keys: [\"users:detail:*\"]}",
        "keys: [\"users:detail:*\", \"users:list\"]}",
    );
    let larder = Larder::start(before);
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    let mut writer = larder.connect();
    writer.send(head(method, path, &[], Some(0)).as_bytes());
    eventually("the write is at the origin", || {
        origin.count_of(method) == 1
    });
    assert!(larder.get(LIST).is_hit(), "by the rules of before");
    let told = reload(&larder, &after);
    assert_eq!(told["held_for"], 1, "{told}");
    for _ in 0..2 {
        let read = larder.get(LIST);
        assert!(read.cache_status().contains("held"), "{read:?}");
    }
    // It commits, and is answered a moment later.
    version.store(2, Ordering::SeqCst);
    assert_eq!(larder.get(LIST).text(), "2");
    gate.open();
    assert_eq!(writer.answer(method).status, 200);
    assert_eq!(larder.get(LIST).text(), "2");
    eventually("it is kept again", || larder.get(LIST).is_hit());
    assert_eq!(larder.get(LIST).text(), "2");
}

fn a_key_that_means_another_path_gives_nothing_of_the_old_one(store: &str) {
    let origin = Origin::start(|request| origin::json(format!("\"{}\"", request.target)));
    let yaml = users_api(&origin, store, "");
    let larder = Larder::start(yaml.clone());
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    let other = yaml.replace("{path: /api/users/, key", "{path: /api/teams/, key");
    reload(&larder, &other);
    let teams = larder.get("/api/teams/");
    assert_eq!(teams.text(), "\"/api/teams/\"");
    assert!(larder.get("/api/teams/").is_hit());
    reload(&larder, &yaml);
    assert_eq!(larder.get(LIST).text(), "\"/api/users/\"");
}

#[test]
fn a_restart_with_another_path_at_the_key_gives_nothing_of_the_old_one_either() {
    let redis = RedisServer::start();
    let origin = Origin::start(|request| origin::json(format!("\"{}\"", request.target)));
    let yaml = users_api(&origin, &redis.url(), "");
    let other = yaml.replace("{path: /api/users/, key", "{path: /api/teams/, key");
    // Beside each other, as in a rolling update.
    let (old, new) = (Larder::start(yaml), Larder::start(other));
    for _ in 0..2 {
        old.get(LIST);
        assert!(old.get(LIST).is_hit());
        assert_eq!(new.get("/api/teams/").text(), "\"/api/teams/\"");
        assert!(new.get("/api/teams/").is_hit());
        assert_eq!(old.get(LIST).text(), "\"/api/users/\"");
    }
}

const TOKEN: (&str, &str) = ("Authorization", "Token abc");

fn what_is_shared_by_verify_is_nobodys_under_another_access(store: &str) {
    let origin = Origin::start(|request| match request.fields.get("authorization") {
        Some(token) => origin::json(format!("\"{token}\"")),
        None => origin::json("\"nobody\""),
    });
    let yaml = |access: &str| {
        let of = format!("key: users:list, access: {access}}}");
        users_api(&origin, store, "").replace("key: users:list}", &of)
    };
    let larder = Larder::start(yaml("{verify: /api/users/me/}"));
    for other in ["public", "per-credential"] {
        larder.get_with(LIST, &[TOKEN]);
        assert!(larder.get_with(LIST, &[TOKEN]).is_hit());
        reload(&larder, &yaml(other));
        let anonymous = larder.get(LIST);
        assert_eq!(anonymous.text(), "\"nobody\"", "under {other}");
        assert_eq!(larder.get(LIST).text(), "\"nobody\"");
        reload(&larder, &yaml("{verify: /api/users/me/}"));
        assert_eq!(larder.get_with(LIST, &[TOKEN]).text(), "\"Token abc\"");
    }
}

fn what_is_public_is_not_given_to_who_has_a_credential_of_their_own(store: &str) {
    let origin = Origin::start(|request| match request.fields.get("authorization") {
        Some(token) => origin::json(format!("\"{token}\"")),
        None => origin::json("\"nobody\""),
    });
    let own = users_api(&origin, store, "");
    let public = own.replace("key: users:list}", "key: users:list, access: public}");
    let larder = Larder::start(public.clone());
    larder.get(LIST);
    assert!(larder.get_with(LIST, &[TOKEN]).is_hit());
    reload(&larder, &own);
    assert_eq!(larder.get_with(LIST, &[TOKEN]).text(), "\"Token abc\"");
    assert_eq!(larder.get(LIST).text(), "\"nobody\"");
    reload(&larder, &public);
    assert_eq!(larder.get_with(LIST, &[TOKEN]).text(), "\"nobody\"");
}

fn a_parameter_that_begins_to_count_is_not_given_the_copy_without_it(store: &str) {
    let origin = Origin::start(|request| origin::json(format!("\"{}\"", request.target)));
    let all = users_api(&origin, store, "");
    let few = all.replace(
        "key: users:list}",
        "key: users:list, query: {allow: [page], other: ignore}}",
    );
    let larder = Larder::start(few.clone());
    let asked = "/api/users/?page=1&role=a";
    assert_eq!(larder.get(asked).text(), "\"/api/users/?page=1\"");
    assert!(larder.get(asked).is_hit());
    reload(&larder, &all);
    assert_eq!(larder.get(asked).text(), format!("\"{asked}\""));
    reload(&larder, &few);
    assert_eq!(larder.get(asked).text(), "\"/api/users/?page=1\"");
}

fn what_was_kept_with_a_cookie_or_a_credential_is_nobodys_once_it_is_not_to_be_kept(store: &str) {
    let origin = Origin::start(|_| {
        let said = origin::json("[]").field("Cache-Control", "max-age=60");
        said.field("Set-Cookie", "session=hush")
    });
    let keeping = "  - {path: /own/, policy: http, keep_set_cookie: true}\npurge:";
    let yaml = users_api(&origin, store, "").replace("purge:", keeping);
    let larder = Larder::start(yaml.clone());
    larder.get("/own/");
    assert!(larder.get("/own/").is_hit());
    let told = reload(&larder, &yaml.replace(", keep_set_cookie: true", ""));
    assert_eq!(told["dropped"].as_array().map(Vec::len), Some(1), "{told}");
    assert!(!larder.get("/own/").is_hit());

    let issuing = Origin::start(|_| origin::json("[]").field("X-New-Token", "hush"));
    let yaml = users_api(&issuing, store, "");
    let larder = Larder::start(yaml.clone());
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    reload(
        &larder,
        &format!("{yaml}credential_headers: [X-New-Token]\n"),
    );
    let next = larder.get(LIST);
    assert!(
        next.cache_status().ends_with("detail=credential"),
        "{next:?}"
    );
}

fn purging_everything_reaches_what_a_route_kept_that_is_gone_and_comes_back(store: &str) {
    let version = Arc::new(AtomicU64::new(1));
    let now = version.clone();
    let origin = Origin::start(move |_| origin::json(now.load(Ordering::SeqCst).to_string()));
    let rules = "purge:\n  - {methods: POST, path: /api/users/, keys: [\"users:list\"]}\n";
    let without = users_api(&origin, store, "").replace(PURGE, rules);
    let with = without.replace("purge:", "  - {path: /api/teams/, key: teams:list}\npurge:");
    let larder = Larder::start(with.clone());
    larder.get("/api/teams/");
    assert!(larder.get("/api/teams/").is_hit());
    reload(&larder, &without);
    larder.purge_everything();
    version.store(2, Ordering::SeqCst);
    reload(&larder, &with);
    assert_eq!(larder.get("/api/teams/").text(), "2");
}

fn a_logout_under_way_ends_what_is_said_of_it_under_a_verify_that_is_new(store: &str) {
    let (revoked, gate) = (Arc::new(AtomicU64::new(0)), Gate::new());
    let (out, commit) = (revoked.clone(), gate.clone());
    let origin = Origin::start(move |request| match request.method.as_str() {
        "POST" => origin::json("{}").behind(&commit),
        _ if out.load(Ordering::SeqCst) == 1 => origin::status(401, "{}"),
        _ => origin::json("\"secret\""),
    });
    let own = users_api(&origin, store, "");
    let verify = own.replace(
        "key: users:list}",
        "key: users:list, access: {verify: /api/users/me/, for: 1h}}",
    );
    let larder = Larder::start(own);
    let mut leaving = larder.connect();
    leaving.send(head("POST", "/api/logout/", &[TOKEN], Some(0)).as_bytes());
    eventually("the logout is at the origin", || {
        origin.count_of("POST") == 1
    });
    reload(&larder, &verify);
    assert_eq!(larder.get_with(LIST, &[TOKEN]).status, 200);
    revoked.store(1, Ordering::SeqCst);
    gate.open();
    assert_eq!(leaving.answer("POST").status, 200);
    assert_eq!(larder.get_with(LIST, &[TOKEN]).status, 401);
}

fn another_upstream_is_asked_and_the_cache_stays(store: &str) {
    let (one, two) = (
        Origin::start(|_| origin::json("1")),
        Origin::start(|_| origin::json("2")),
    );
    let larder = Larder::start(users_api(&one, store, ""));
    larder.get(LIST);
    reload(&larder, &users_api(&two, store, ""));
    let hit = larder.get(LIST);
    assert!(hit.is_hit() && hit.text() == "1");
    assert_eq!(larder.get("/api/users/7/").text(), "2");
    assert_eq!(one.count(), 1);
}

#[test]
fn a_hold_lasts_as_long_as_a_write_may_take_by_the_configuration_it_began_under() {
    let (redis, gate) = (RedisServer::start(), Gate::new());
    let commit = gate.clone();
    let origin = Origin::start(move |request| match request.method.as_str() {
        "GET" => origin::json("[]"),
        _ => origin::json("{}").behind(&commit),
    });
    let brief = users_api(&origin, &redis.url(), "");
    let url = origin.url();
    let patient = brief.replace(
        &format!("upstream: {url}"),
        &format!("upstream: {{url: \"{url}\", total: 10m, first_byte: 10m}}"),
    );
    let larder = Larder::start(brief.clone());
    reload(&larder, &patient);
    larder.get(LIST);
    let mut writer = larder.connect();
    writer.send(head("POST", LIST, &[], Some(0)).as_bytes());
    eventually("the write is at the origin", || {
        origin.count_of("POST") == 1
    });
    assert!(held_for(&redis) > 9 * 60_000, "{}", held_for(&redis));
    // The state outlives it, and what is kept for an hour.
    let lives = redis.run_in(1, &["PTTL", "t:users:list~state"]).number();
    assert!(lives > 70 * 60_000, "{lives}");
    gate.open();
    assert_eq!(writer.answer("POST").status, 200);

    // And so does one that is put there for it by a reload to a shorter time.
    gate.close();
    writer.send(head("POST", "/api/imports/", &[], Some(0)).as_bytes());
    eventually("the write is at the origin", || {
        origin.count_of("POST") == 2
    });
    assert_eq!(reload(&larder, &with_imports(&brief))["held_for"], 1);
    assert!(held_for(&redis) > 9 * 60_000, "{}", held_for(&redis));
    gate.open();
    assert_eq!(writer.answer("POST").status, 200);
}

/// Milliseconds that the list is held for yet.
fn held_for(redis: &RedisServer) -> i64 {
    let state = redis.run_in(1, &["GET", "t:users:list~state"]).text();
    let deadline: i64 = state.rsplit('@').next().unwrap().parse().unwrap();
    let support::redis::Reply::List(time) = redis.run_in(1, &["TIME"]) else {
        panic!("no time")
    };
    deadline - time[0].text().parse::<i64>().unwrap() * 1000
}

fn with_imports(yaml: &str) -> String {
    let rule = "purge:\n  - {methods: POST, path: /api/imports/, keys: [\"users:list\"]}";
    yaml.replace("purge:", rule)
}

fn with_listeners(larder: &Larder, yaml: &str) -> String {
    let (listen, admin) = (larder.address(), larder.admin_address());
    format!("listen: {listen}\nadmin: {admin}\n{yaml}")
}

fn write(larder: &Larder, yaml: &str) {
    fs::write(larder.file(), with_listeners(larder, yaml)).unwrap();
}

fn post_reload(larder: &Larder) -> Answer {
    let json = ("Content-Type", "application/json");
    Connection::open(larder.admin_address()).request("POST", "/reload", &[json], b"")
}

/// Puts this file in force, and gives what it says of that.
#[track_caller]
fn reload(larder: &Larder, yaml: &str) -> Value {
    write(larder, yaml);
    let answer = post_reload(larder);
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

#[test]
fn the_limits_of_a_connection_are_those_in_force_when_it_comes() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = users_api(&origin, "memory:", "");
    let larder = Larder::start(yaml.clone());
    let many: Vec<String> = (0..60).map(|n| format!("X-Field-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(larder.get_with(LIST, &many).status, 200);
    reload(&larder, &format!("{yaml}limits: {{fields: 50}}\n"));
    assert_eq!(larder.get_with(LIST, &many).status, 431);
}

/// Writes go on all the while, so that what is fetched anew after each of them never comes to rest.
#[test]
fn what_is_asked_for_most_is_fetched_anew_from_the_api_in_force() {
    let [one, other] = ["one", "other"].map(|name| Origin::start(move |_| origin::json(name)));
    let yaml = |origin: &Origin| {
        users_api(origin, "memory:", "").replace("key: users:list}", "key: users:list, warm: 1}")
    };
    let larder = Larder::start(yaml(&one));
    for _ in 0..100 {
        larder.get(LIST);
    }
    eventually("it is fetched anew", || {
        larder.write("POST", LIST);
        one.count_of("GET") > 2
    });
    reload(&larder, &yaml(&other));
    eventually("it is fetched anew from the other", || {
        larder.write("POST", LIST);
        other.count_of("GET") > 2
    });
    let before = one.count_of("GET");
    eventually("and from nobody else", || {
        larder.write("POST", LIST);
        other.count_of("GET") > 5
    });
    assert_eq!(one.count_of("GET"), before);
}

#[test]
fn what_is_warmed_is_asked_for_under_the_host_in_force() {
    let origin = Origin::start(|_| origin::json("[]"));
    let yaml = |host: &str| {
        let warm = "warm:\n  - {targets: /api/users/, every: 1s}";
        users_api(&origin, "memory:", &format!("hosts: [{host}]\n{warm}"))
    };
    let larder = Larder::start(yaml("one.example.org"));
    eventually("it is warmed", || {
        larder.output().contains("\"kept\":1,\"asked\":1")
    });
    reload(&larder, &yaml("other.example.org"));
    let warmed = || larder.output().matches("\"kept\":1,\"asked\":1").count();
    let before = warmed();
    eventually("it is warmed again", || warmed() > before + 1);
}

#[test]
fn fields_that_have_come_before_are_sent_on_by_the_rules_in_force() {
    let origin = Origin::start(|_| origin::json("{}"));
    let yaml = users_api(&origin, "memory:", "");
    let larder = Larder::start(yaml.clone());
    let mut client = larder.connect();
    let mut told = |n: usize| {
        let target = format!("/elsewhere/{n}/");
        let answer = client.request("GET", &target, &[("X-Secret", "s")], b"");
        assert_eq!((answer.status, &origin.last().target), (200, &target));
        origin.last().fields.all("x-secret").len()
    };
    assert!((0..100).all(|n| told(n) == 1));
    reload(&larder, &format!("{yaml}drop_headers: [X-Secret]\n"));
    assert!((100..200).all(|n| told(n) == 0));
    reload(&larder, &yaml);
    assert!((200..300).all(|n| told(n) == 1));
}

#[test]
fn a_token_is_good_after_a_reload_as_before_and_by_another_key_no_more() {
    let origin = Origin::start(|_| origin::json("[]"));
    let by = |secret: &str| {
        let access = format!(
            "key: users:list, access: {{jwt: {{secret: \"{secret}\", algorithms: [HS256]}}}}}}"
        );
        users_api(&origin, "memory:", "").replace("key: users:list}", &access)
    };
    let (one, two) = (
        "0123456789abcdef0123456789abcdef",
        "fedcba9876543210fedcba9876543210",
    );
    let claims = serde_json::json!({ "exp": support::tokens::from_now(600) });
    let bearer = |secret: &str| {
        let token = support::tokens::Issuer::secret(secret).token(&claims);
        format!("Bearer {token}")
    };
    let larder = Larder::start(by(one));
    let get = |secret| larder.get_with(LIST, &[("Authorization", &bearer(secret))]);
    get(one);
    assert!(get(one).is_hit());
    reload(&larder, &by(one).replace("ttl: 1h", "ttl: 2h"));
    assert!(get(one).is_hit());
    reload(&larder, &by(two));
    assert!(get(one).cache_status().contains("bypass"));
    assert!(get(two).is_hit());
}
