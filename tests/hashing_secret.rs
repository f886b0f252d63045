//! The deployment's secret, by which credentials are hashed in keys: made and kept in the store, or the file's. A lost one
//! costs misses, and never admits anybody.

mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use support::larder::{Larder, run_with_input};
use support::origin::{self, Origin};
use support::redis::RedisServer;

const LIST: &str = "/api/users/";
const KEY: &str = "t:~secret";

/// Who is known; the others are refused.
type Known = Arc<Mutex<HashSet<String>>>;

fn api(known: &Known) -> Origin {
    let known = known.clone();
    Origin::start(move |request| {
        let line = request.fields.get("Authorization").unwrap_or_default();
        match known.lock().unwrap().contains(line) {
            true => origin::json("[]"),
            false => origin::status(401, ""),
        }
    })
}

fn known(lines: &[&str]) -> Known {
    Arc::new(Mutex::new(
        lines.iter().map(|line| (*line).to_owned()).collect(),
    ))
}

fn yaml(origin: &Origin, redis: &RedisServer, access: &str, more: &str) -> String {
    format!(
        "upstream: {}\nstore: {{url: \"{}\", database: 1, prefix: t}}\n{more}\nroutes:\n  - {{path: /api/users/, key: users:list, access: {access}}}\npurge: []\n",
        origin.url(),
        redis.url()
    )
}

const VERIFY: &str = "{verify: /api/users/me/, for: 1h}";

fn is_hit(larder: &Larder, who: &str) -> bool {
    larder.get_with(LIST, &[("Authorization", who)]).is_hit()
}

fn status(larder: &Larder, who: &str) -> u16 {
    larder.get_with(LIST, &[("Authorization", who)]).status
}

fn revoke(larder: &Larder, who: &str) {
    let file = larder.file();
    let told = run_with_input(
        &["purge", "--credential", "-", "-c", file.to_str().unwrap()],
        &[],
        format!("Authorization: {who}\n").as_bytes(),
    );
    assert!(
        told.status.success() && told.output.contains("revoked 1"),
        "{told:?}"
    );
}

fn secret(redis: &RedisServer) -> Option<String> {
    redis
        .get(KEY)
        .map(|secret| String::from_utf8(secret).unwrap())
}

#[test]
fn one_is_made_and_kept_and_all_instances_have_it() {
    let redis = RedisServer::start();
    let origin = api(&known(&["Token a"]));
    let one = Larder::start(yaml(&origin, &redis, "per-credential", ""));
    let made = secret(&redis).unwrap();
    assert_eq!(made.len(), 64);
    assert_eq!(status(&one, "Token a"), 200);
    let other = Larder::start(yaml(&origin, &redis, "per-credential", ""));
    assert!(is_hit(&other, "Token a"));
    assert_eq!(secret(&redis), Some(made));
    let left = redis.run(&["TTL", KEY]).number();
    assert!((1..=7 * 24 * 3600).contains(&left), "{left}");
}

#[test]
fn one_that_is_lost_costs_misses_and_whoever_is_revoked_then_is_not_admitted() {
    let redis = RedisServer::start();
    let known = known(&["Token a", "Token b"]);
    let origin = api(&known);
    let (one, other) = (
        Larder::start(yaml(&origin, &redis, VERIFY, "")),
        Larder::start(yaml(&origin, &redis, VERIFY, "")),
    );
    let made = secret(&redis);
    for larder in [&one, &other] {
        for who in ["Token a", "Token b"] {
            assert_eq!(status(larder, who), 200);
            assert!(is_hit(larder, who));
        }
    }
    // As an eviction would; and nobody who has the old one makes it anew, but the command line.
    redis.run(&["DEL", KEY]).number();
    known.lock().unwrap().remove("Token a");
    revoke(&one, "Token a");
    assert_ne!(secret(&redis), made);
    for larder in [&one, &other] {
        assert_eq!(
            status(larder, "Token a"),
            401,
            "revoked under the new secret"
        );
        assert_eq!(status(larder, "Token b"), 200);
    }
    for larder in [&one, &other] {
        assert_eq!(status(larder, "Token b"), 200);
        assert!(
            is_hit(larder, "Token b"),
            "and all goes on under the new one"
        );
        assert_eq!(status(larder, "Token a"), 401);
    }
}

#[test]
fn a_value_of_somebody_else_at_its_key_is_replaced() {
    let redis = RedisServer::start();
    redis.run(&["RPUSH", KEY, "pickle"]);
    let origin = api(&known(&["Token a"]));
    let larder = Larder::start(yaml(&origin, &redis, VERIFY, ""));
    assert_eq!(secret(&redis).unwrap().len(), 64);
    assert_eq!(status(&larder, "Token a"), 200);
    assert!(is_hit(&larder, "Token a"));
}

#[test]
fn the_files_own_is_not_in_the_store_and_instances_with_it_agree() {
    let redis = RedisServer::start();
    let origin = api(&known(&["Token a"]));
    let words = "a-secret-of-thirty-two-bytes-or-more";
    let more = format!("secret: {words}");
    let one = Larder::start(yaml(&origin, &redis, VERIFY, &more));
    let other = Larder::start(yaml(&origin, &redis, VERIFY, &more));
    assert_eq!(status(&one, "Token a"), 200);
    assert_eq!(status(&other, "Token a"), 200);
    assert!(is_hit(&other, "Token a"));
    let kept = secret(&redis).unwrap();
    assert!(
        kept.starts_with("of-the-file:") && kept.len() == 12 + 32,
        "{kept}"
    );
    redis.run(&["DEL", KEY]).number();
    assert!(is_hit(&one, "Token a"), "nothing was lost");
    for larder in [&one, &other] {
        assert!(!larder.output().contains(words));
        assert!(!larder.output().contains("do not share"));
    }
}

#[test]
fn instances_that_do_not_share_it_say_so_and_admit_nobody_by_the_others_word() {
    let redis = RedisServer::start();
    let known = known(&["Token a"]);
    let origin = api(&known);
    let random = Larder::start(yaml(&origin, &redis, VERIFY, ""));
    assert_eq!(status(&random, "Token a"), 200);
    assert!(is_hit(&random, "Token a"));
    let filed = Larder::start(yaml(
        &origin,
        &redis,
        VERIFY,
        &format!("secret: {}", "y".repeat(32)),
    ));
    assert!(
        filed.output().contains("do not share a `secret`"),
        "{}",
        filed.output()
    );
    known.lock().unwrap().clear();
    revoke(&filed, "Token a");
    assert_eq!(status(&random, "Token a"), 401);
    assert_eq!(status(&filed, "Token a"), 401);
}
