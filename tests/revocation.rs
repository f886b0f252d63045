//! Whose credential is revoked, or whose verdict is over, is given no shared copy any more, whatever is under way.

#[macro_use]
mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;

use support::client::Answer;
use support::larder::{Larder, run_with_input};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::tokens::{Issuer, from_now};
use support::{Gate, eventually};

const LIST: &str = "/api/users/";
const OTHER: &str = "/api/other/";
const ME: &str = "/api/users/me/";

on_both_stores! {
    the_command_line_revokes_what_was_said_of_a_token_and_of_a_cookie
    who_is_revoked_while_waiting_for_anothers_fetch_is_not_given_it
    who_is_revoked_while_fetching_is_answered_by_the_api_and_nobody_else_is_hurt
    a_stale_copy_stands_in_for_whoever_is_still_admitted_alone
    a_verdict_that_ends_while_the_api_fails_brings_no_stale_copy
    who_has_too_many_parts_is_never_admitted
    what_each_mode_serves_to_whom_the_api_has_forgotten
}

/// An API that knows some credentials, and whose list can be told to wait or to fail.
#[derive(Clone, Default)]
struct Api {
    known: Arc<Mutex<HashSet<String>>>,
    fails: Arc<Mutex<bool>>,
    gate: Gate,
}

impl Api {
    fn knowing(lines: &[&str]) -> Api {
        let api = Api::default();
        api.gate.open();
        api.known
            .lock()
            .unwrap()
            .extend(lines.iter().map(|line| (*line).to_owned()));
        api
    }

    fn forget(&self, line: &str) {
        assert!(self.known.lock().unwrap().remove(line));
    }

    fn start(&self) -> Origin {
        let api = self.clone();
        Origin::start(move |request| {
            let lines = ["Authorization", "Cookie"].iter();
            let lines: Vec<&str> = lines.flat_map(|name| request.fields.all(name)).collect();
            let known = api.known.lock().unwrap().contains(&lines.join("|"));
            match (request.target.as_str(), known) {
                (_, false) => origin::status(401, "who are you?"),
                (ME, true) => origin::json("{}"),
                (LIST, true) if *api.fails.lock().unwrap() => {
                    origin::status(503, "").behind(&api.gate)
                }
                (LIST, true) => origin::json("[]").behind(&api.gate),
                _ => origin::json("{}"),
            }
        })
    }
}

fn larder(origin: &Origin, store: &str, access: &str, more: &str) -> Larder {
    let route = |path, key| {
        format!("  - {{path: {path}, key: {key}, access: {{verify: {ME}, {access}}}{more}}}\n")
    };
    Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nlogs: {{level: debug, format: json}}\nroutes:\n{}{}purge: []\n",
        origin.url(),
        route(LIST, "list"),
        route(OTHER, "other"),
    ))
}

fn get(larder: &Larder, target: &str, who: &str) -> Answer {
    larder.get_with(target, &[("Authorization", who)])
}

fn the_command_line_revokes_what_was_said_of_a_token_and_of_a_cookie(store: &str) {
    let api = Api::knowing(&["Token a", "Token b", "sessionid=s; theme=dark"]);
    let origin = api.start();
    let larder = larder(&origin, store, "for: 1h", "");
    let jar = [("Cookie", "sessionid=s; theme=dark")];
    for who in ["Token a", "Token b"] {
        assert_eq!(get(&larder, LIST, who).status, 200);
    }
    assert!(larder.get_with(LIST, &jar).is_hit());
    api.forget("Token a");
    api.forget("sessionid=s; theme=dark");
    assert!(get(&larder, LIST, "Token a").is_hit(), "nobody has said so");
    let file = larder.file();
    let arguments = ["purge", "--credential", "-", "-c", file.to_str().unwrap()];
    let told = run_with_input(
        &arguments,
        &[],
        b"Authorization: Token a\nCookie: sessionid=s\n",
    );
    assert!(told.status.success(), "{told:?}");
    assert!(
        told.output.contains("revoked 2") && !told.output.contains("Token a"),
        "{told:?}"
    );
    assert_eq!(get(&larder, LIST, "Token a").status, 401);
    assert_eq!(larder.get_with(LIST, &jar).status, 401);
    assert!(get(&larder, LIST, "Token b").is_hit());
    // What is no credential is refused, and not repeated.
    for wrong in ["hush", "Accept: hush", ": hush", "Authorization hush"] {
        let told = run_with_input(&arguments, &[], wrong.as_bytes());
        assert!(
            !told.status.success() && !told.output.contains("hush"),
            "{told:?}"
        );
    }
}

/// What happens after the API has forgotten a credential.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    /// `POST /api/logout/` with it, which no rule under `purge` names.
    Logout,
    /// `larder purge --credential -`
    Revoked,
    /// Somebody writes what drops the list.
    Write,
}

/// docs/ACCESS.md has this table.
fn what_each_mode_serves_to_whom_the_api_has_forgotten(store: &str) {
    use Then::{Logout, Nothing, Revoked, Write};
    let secret = "0123456789abcdef0123456789abcdef";
    let jwt = format!("{{jwt: {{secret: {secret}}}}}");
    let claims = serde_json::json!({"exp": from_now(3600)});
    let token = format!("Bearer {}", Issuer::secret(secret).token(&claims));
    let verify = "{verify: /api/users/me/, for: 1h}";
    let cases = [
        (
            "per-credential",
            [
                (Nothing, true),
                (Logout, true),
                (Revoked, true),
                (Write, false),
            ],
        ),
        (
            verify,
            [
                (Nothing, true),
                (Logout, false),
                (Revoked, false),
                (Write, false),
            ],
        ),
        (
            &jwt,
            [
                (Nothing, true),
                (Logout, true),
                (Revoked, false),
                (Write, false),
            ],
        ),
    ];
    for (n, (access, events)) in cases.iter().enumerate() {
        for (then, still) in events {
            let api = Api::knowing(&[&token]);
            let origin = api.start();
            let larder = Larder::start(format!(
                "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t{n}{then:?}}}\nroutes:\n\
                 \x20 - {{path: {LIST}, key: list, access: {access}}}\npurge:\n\
                 \x20 - {{methods: PUT, path: /api/other/, keys: [list]}}\n",
                origin.url()
            ));
            assert_eq!(get(&larder, LIST, &token).status, 200);
            assert!(get(&larder, LIST, &token).is_hit());
            api.forget(&token);
            let line = [("Authorization", token.as_str())];
            match then {
                Nothing => {}
                // The API has forgotten it just then: its answer to the logout itself was a success.
                Logout => {
                    api.known.lock().unwrap().insert(token.clone());
                    let logout = larder.request("POST", "/api/logout/", &line, b"");
                    assert_eq!(logout.status, 200);
                    api.forget(&token);
                }
                Revoked => larder.revoke(&format!("Authorization: {token}")),
                Write => {
                    api.known.lock().unwrap().insert("Token admin".to_owned());
                    let admin = [("Authorization", "Token admin")];
                    let write = larder.request("PUT", OTHER, &admin, b"{}");
                    assert_eq!(write.status, 200);
                }
            }
            let answer = get(&larder, LIST, &token);
            assert_eq!(answer.is_hit(), *still, "{access} {then:?}: {answer:?}");
            assert_eq!(
                answer.status,
                if *still { 200 } else { 401 },
                "{access} {then:?}"
            );
        }
    }
}

fn misses(larder: &Larder) -> usize {
    larder.output().matches("nothing to serve").count()
}

fn who_is_revoked_while_waiting_for_anothers_fetch_is_not_given_it(store: &str) {
    let api = Api::knowing(&["Token a", "Token b", "Token c"]);
    let origin = api.start();
    let larder = larder(&origin, store, "for: 1h", "");
    api.gate.close();
    thread::scope(|scope| {
        let ask = |who| {
            let before = misses(&larder);
            let larder = &larder;
            let asked = scope.spawn(move || get(larder, LIST, who));
            eventually("it waits", || misses(larder) > before);
            asked
        };
        let (a, b, c) = (ask("Token a"), ask("Token b"), ask("Token c"));
        api.forget("Token b");
        larder.revoke("Authorization: Token b");
        api.gate.open();
        for (who, status) in [(a, 200), (b, 401), (c, 200)] {
            let answer = who.join().unwrap();
            assert_eq!(answer.status, status, "{answer:?}");
        }
    });
    assert!(get(&larder, LIST, "Token c").is_hit());
}

fn who_is_revoked_while_fetching_is_answered_by_the_api_and_nobody_else_is_hurt(store: &str) {
    let api = Api::knowing(&["Token a", "Token b"]);
    let origin = api.start();
    let larder = larder(&origin, store, "for: 1h", "");
    api.gate.close();
    thread::scope(|scope| {
        let a = scope.spawn(|| get(&larder, LIST, "Token a"));
        origin.wait_for(2);
        api.forget("Token a");
        larder.revoke("Authorization: Token a");
        api.gate.open();
        // The API had let it in: that answer is its own.
        assert_eq!(a.join().unwrap().status, 200);
    });
    assert_eq!(get(&larder, LIST, "Token a").status, 401);
    assert!(get(&larder, LIST, "Token b").is_hit());
}

const STALE: &str = ", ttl: 1s, stale_if_error: 1h";

fn stale(answer: &Answer) -> bool {
    answer.cache_status().contains("stale-if-error")
}

fn a_stale_copy_stands_in_for_whoever_is_still_admitted_alone(store: &str) {
    let api = Api::knowing(&["Token a", "Token b"]);
    let origin = api.start();
    let larder = larder(&origin, store, "for: 1h", STALE);
    assert_eq!(get(&larder, LIST, "Token a").status, 200);
    *api.fails.lock().unwrap() = true;
    eventually("the copy is stale", || {
        stale(&get(&larder, LIST, "Token a"))
    });
    let admitted = get(&larder, LIST, "Token b");
    assert!(admitted.status == 200 && stale(&admitted), "{admitted:?}");
    assert_eq!(get(&larder, LIST, "Token c").status, 401);
    assert_eq!(larder.get(LIST).status, 401);
    api.forget("Token a");
    larder.revoke("Authorization: Token a");
    let head = |who| larder.request("HEAD", LIST, &[("Authorization", who)], b"");
    for who in ["Token a", "Token c"] {
        let answer = head(who);
        assert!(answer.status != 200 && !stale(&answer), "{who} {answer:?}");
    }
    assert!(stale(&head("Token b")));
    assert_eq!(get(&larder, LIST, "Token a").status, 401);
    assert!(stale(&get(&larder, LIST, "Token b")));
}

fn a_verdict_that_ends_while_the_api_fails_brings_no_stale_copy(store: &str) {
    let api = Api::knowing(&["Token a", "Token b"]);
    let origin = api.start();
    let larder = larder(&origin, store, "for: 1s, refuse_for: 1s", STALE);
    assert_eq!(get(&larder, LIST, "Token a").status, 200);
    *api.fails.lock().unwrap() = true;
    eventually("the copy is stale", || {
        stale(&get(&larder, LIST, "Token a"))
    });
    api.gate.close();
    let before = origin.requests().len();
    thread::scope(|scope| {
        let a = scope.spawn(|| get(&larder, LIST, "Token a"));
        let asked = || {
            let all = origin.requests();
            all[before..].iter().any(|request| request.target == LIST)
        };
        eventually("the API is asked for the list", asked);
        api.forget("Token a");
        // One verdict, good for both paths, that is younger than the other: when it is over, both are.
        assert_eq!(get(&larder, OTHER, "Token b").status, 200);
        api.forget("Token b");
        eventually("verdicts are over", || {
            get(&larder, OTHER, "Token b").status == 401
        });
        api.gate.open();
        let answer = a.join().unwrap();
        assert!(answer.status == 401 && !stale(&answer), "{answer:?}");
    });
}

fn who_has_too_many_parts_is_never_admitted(store: &str) {
    let jar = |count: usize| -> String {
        let cookies: Vec<String> = (0..count).map(|n| format!("c{n}={n}")).collect();
        cookies.join("; ")
    };
    let api = Api::knowing(&["Token a", &jar(32), &jar(33)]);
    let origin = api.start();
    let larder = larder(&origin, store, "for: 1h", "");
    assert_eq!(get(&larder, LIST, "Token a").status, 200);
    assert!(larder.get_with(LIST, &[("Cookie", &jar(32))]).is_hit());
    for _ in 0..2 {
        let before = origin.count();
        let answer = larder.get_with(LIST, &[("Cookie", &jar(33))]);
        assert_eq!(answer.status, 200);
        assert!(
            answer.cache_status().ends_with("detail=verify-failed"),
            "{answer:?}"
        );
        assert_eq!(origin.count(), before + 1, "as it came, and no question");
    }
}
