//! Whoever came before, with whatever credentials, each client is given what the origin gives it when it asks for itself:
//! every pair of clients, under every `access`, over both stores. The origin goes by credentials in an order of its own.

#[macro_use]
mod support;

use std::collections::BTreeSet;
use std::thread;

use serde_json::json;
use support::client::Connection;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::tokens::{Issuer, from_now};

on_both_stores! {
    each_is_given_what_the_origin_would_give_it_whoever_came_before
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ME: &str = "/api/users/me/";

/// The lines by which a client says who it is.
type Client = Vec<(&'static str, String)>;

/// How a route shares, and what the origin's answers vary by there.
#[derive(Debug, Clone, Copy)]
struct Mode {
    access: &'static str,
    varies: Varies,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Varies {
    /// Each credential has an answer of its own, which repeats it.
    ByCredential,
    ByRole,
    /// All who are known have the same.
    NotAtAll,
    /// Whoever sends no credential has the public one.
    ByThereBeingOne,
}

const MODES: [Mode; 6] = [
    Mode {
        access: "per-credential",
        varies: Varies::ByCredential,
    },
    Mode {
        access: "public",
        varies: Varies::ByThereBeingOne,
    },
    Mode {
        access: "{verify: /api/users/me/, for: 1h, refuse_for: 1h}",
        varies: Varies::NotAtAll,
    },
    Mode {
        access: "{verify: /api/users/me/, for: 1h, refuse_for: 1h, scope: [/role]}",
        varies: Varies::ByRole,
    },
    Mode {
        access: "{jwt: {secret: 0123456789abcdef0123456789abcdef}}",
        varies: Varies::NotAtAll,
    },
    Mode {
        access: "{jwt: {secret: 0123456789abcdef0123456789abcdef}, scope: [/role]}",
        varies: Varies::ByRole,
    },
];

/// Tokens that differ in role, person and whether they are good.
#[derive(Clone)]
struct Tokens {
    ann: String,
    bob: String,
    cid: String,
    late: String,
    forged: String,
}

impl Tokens {
    fn new() -> Tokens {
        let claims =
            |name, role, seconds| json!({"sub": name, "role": role, "exp": from_now(seconds)});
        let good = |name, role| Issuer::secret(SECRET).token(&claims(name, role, 7200));
        Tokens {
            ann: good("ann", "x"),
            bob: good("bob", "y"),
            cid: good("cid", "x"),
            late: Issuer::secret(SECRET).token(&claims("ann", "x", -1)),
            forged: Issuer::secret("z".repeat(32)).token(&claims("ann", "x", 7200)),
        }
    }

    fn role_of_line(&self, line: &str) -> Option<&'static str> {
        let (scheme, value) = line.split_once(' ')?;
        match (scheme.to_ascii_lowercase().as_str(), value.trim()) {
            ("bearer", token) if token == self.ann || token == self.cid => Some("x"),
            ("bearer", token) if token == self.bob => Some("y"),
            ("token", "opaque-x") => Some("x"),
            ("token", "opaque-y") => Some("y"),
            ("basic", "eTp5") => Some("y"),
            _ => None,
        }
    }
}

fn clients(tokens: &Tokens) -> Vec<Client> {
    let bearer = |token: &str| ("Authorization", format!("Bearer {token}"));
    let line = |line: &str| ("Authorization", line.to_owned());
    let cookie = |line: &str| ("Cookie", line.to_owned());
    let key = |value: &str| ("X-Api-Key", value.to_owned());
    let (ann, bob, cid) = (
        bearer(&tokens.ann),
        bearer(&tokens.bob),
        bearer(&tokens.cid),
    );
    vec![
        vec![],
        vec![ann.clone()],
        vec![bob.clone()],
        vec![cid.clone()],
        vec![bearer(&tokens.late)],
        vec![bearer(&tokens.forged)],
        vec![line(&format!("bearer {}", tokens.bob))],
        vec![line(&format!("Token {}", tokens.ann))],
        vec![line("Token opaque-x")],
        vec![line("Token opaque-y")],
        vec![line("Basic eTp5")],
        vec![line("Token nobody")],
        vec![cookie("sessionid=x")],
        vec![cookie("sessionid=y")],
        vec![cookie("SESSIONID=x")],
        vec![cookie("sessionid")],
        vec![cookie("sessionid=x; theme=dark")],
        vec![cookie("theme=dark; sessionid=x")],
        vec![cookie("sessionid=x; sessionid=y")],
        vec![cookie("sessionid=y"), cookie("sessionid=x")],
        vec![cookie("csrftoken=x; _ga=1")],
        vec![cookie("csrftoken=x; sessionid=y")],
        vec![cookie("csrftoken=1"), ann.clone()],
        vec![key("x")],
        vec![key("y")],
        vec![("X-Auth-Token", "y".to_owned())],
        vec![key("x"), key("y")],
        vec![ann.clone(), cookie("sessionid=y")],
        vec![bob.clone(), cookie("sessionid=x")],
        vec![ann.clone(), key("y")],
        vec![ann.clone(), cookie("theme=dark")],
        vec![ann.clone(), bob.clone()],
        vec![bob.clone(), ann.clone()],
        vec![ann, line("Token opaque-y")],
        vec![cid, ("X-Auth-Token", "y".to_owned())],
        vec![key("x"), cookie("sessionid=y"), bob],
    ]
}

/// All parts of a credential, as any of its lines may say them; what is ignored is left out.
fn parts(lines: &[(&str, String)]) -> Vec<String> {
    let of = |wanted: &'static str| {
        lines
            .iter()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted))
    };
    let mut all = Vec::new();
    for name in ["Authorization", "X-Api-Key", "X-Auth-Token"] {
        all.extend(of(name).map(|(_, value)| format!("{name}: {value}")));
    }
    for (_, line) in of("Cookie") {
        let cookies = line.split(';').map(str::trim);
        let kept = cookies
            .filter(|cookie| !cookie.starts_with("csrftoken=") && !cookie.starts_with("_ga="));
        all.extend(kept.map(|cookie| format!("Cookie: {cookie}")));
    }
    all
}

/// The origin's own order: keys before sessions before tokens, the first key and session, and the last token.
fn role(tokens: &Tokens, parts: &[String]) -> Option<&'static str> {
    let value = |name: &str, part: &String| {
        part.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(": "))
            .map(str::to_owned)
    };
    let known = |value: &str| match value {
        "x" => Some("x"),
        "y" => Some("y"),
        _ => None,
    };
    for name in ["X-Auth-Token", "X-Api-Key"] {
        if let Some(key) = parts.iter().find_map(|part| value(name, part)) {
            return known(&key);
        }
    }
    let sessions = parts.iter().filter_map(|part| value("Cookie", part));
    let mut sessions =
        sessions.filter_map(|cookie| cookie.strip_prefix("sessionid=").map(str::to_owned));
    if let Some(session) = sessions.next() {
        return known(&session);
    }
    let last = parts
        .iter()
        .filter_map(|part| value("Authorization", part))
        .next_back();
    last.and_then(|line| tokens.role_of_line(&line))
}

/// What the origin gives to whom; also what is expected of the proxy.
fn given(tokens: &Tokens, varies: Varies, parts: &[String]) -> (u16, String) {
    match (varies, role(tokens, parts)) {
        (Varies::ByThereBeingOne, _) if parts.is_empty() => (200, "for everybody".to_owned()),
        (Varies::ByThereBeingOne, _) => (200, format!("for {} alone", parts.join(" + "))),
        (_, None) => (401, format!("who is {}?", parts.join(" + "))),
        (Varies::ByCredential, Some(_)) => (200, format!("for {} alone", parts.join(" + "))),
        (Varies::ByRole, Some(role)) => (200, format!("for role {role}")),
        (Varies::NotAtAll, Some(_)) => (200, "for all who are known".to_owned()),
    }
}

fn each_is_given_what_the_origin_would_give_it_whoever_came_before(store: &str) {
    let tokens = Tokens::new();
    let clients = clients(&tokens);
    let distinct: BTreeSet<_> = clients.iter().collect();
    assert_eq!(distinct.len(), clients.len());
    let told: Vec<(usize, usize, Vec<String>)> = thread::scope(|scope| {
        let (tokens, clients) = (&tokens, &clients);
        let threads = MODES
            .iter()
            .enumerate()
            .map(|(n, mode)| scope.spawn(move || all_pairs(store, n, *mode, tokens, clients)));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let wrong: Vec<String> = told
        .iter()
        .flat_map(|(_, _, wrong)| wrong.clone())
        .collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    let cases: usize = told.iter().map(|(cases, ..)| cases).sum();
    println!(
        "{cases} pairs of clients, {} modes: nothing leaked",
        MODES.len()
    );
    assert!(cases >= 6 * 1000, "{cases}");
    for (mode, (_, hits, _)) in MODES.iter().zip(&told) {
        assert!(
            *hits > 100,
            "{mode:?}: {hits} hits, so hardly anything was tried"
        );
    }
}

/// How many pairs, how many of the answers were hits, and what was wrong.
fn all_pairs(
    store: &str,
    number: usize,
    mode: Mode,
    tokens: &Tokens,
    clients: &[Client],
) -> (usize, usize, Vec<String>) {
    let origin = {
        let tokens = tokens.clone();
        Origin::start(move |request| {
            let lines: Vec<(&str, String)> = { request.fields.0.iter() }
                .map(|(name, value)| (name.as_str(), value.clone()))
                .collect();
            let parts = parts(&lines);
            if request.target == ME {
                return match role(&tokens, &parts) {
                    Some(role) => origin::json(format!("{{\"role\":\"{role}\"}}")),
                    None => origin::status(401, ""),
                };
            }
            let (status, body) = given(&tokens, mode.varies, &parts);
            origin::status(status, body).field("Content-Type", "application/json")
        })
    };
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t{number}}}\nlogs: {{access: false}}\nroutes:\n\
        \x20 - {{path: \"/api/users/<int:id>/\", key: \"users:detail:{{id}}\", access: {}}}\npurge: []\n",
        origin.url(),
        mode.access
    ));
    let (mut cases, mut hits, mut wrong) = (0, 0, Vec::new());
    let mut connection = larder.connect();
    for first in clients {
        for second in clients {
            cases += 1;
            let target = format!("/api/users/{cases}/");
            for (turn, client) in [first, second, second].iter().enumerate() {
                let answer = ask(&mut connection, &target, client);
                let parts = match mode.varies {
                    Varies::ByThereBeingOne => Vec::new(),
                    _ => parts(client),
                };
                let expected = given(tokens, mode.varies, &parts);
                if (answer.status, answer.text()) != expected {
                    wrong.push(format!("{}: {client:?}, turn {turn} after {first:?}: {answer:?}, expected {expected:?}", mode.access));
                }
                hits += usize::from(answer.is_hit());
            }
        }
    }
    (cases, hits, wrong)
}

fn ask(connection: &mut Connection, target: &str, client: &Client) -> support::client::Answer {
    let fields: Vec<(&str, &str)> = client
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    connection.request("GET", target, &fields, b"")
}
