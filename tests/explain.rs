//! `larder explain`: why something is (not) kept, in the very words of Cache-Status and of the access log.
//! Each word is earned by a real request to a real Larder, and asked for with the same request.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::client::{Answer, Connection, head};
use support::larder::{Larder, command, run};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::tokens::{Issuer, from_now};
use support::{Gate, eventually, users_api};

const LIST: &str = "/api/users/";

/// The shipped file, and what explain says of a request under it, without any connection.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.yaml");

fn shipped(arguments: &[&str]) -> String {
    let exit = run(&[&["explain"], arguments, &["-c", SHIPPED]].concat(), &[]);
    assert!(exit.status.success(), "{exit:?}");
    exit.output
}

fn shipped_json(arguments: &[&str]) -> Value {
    let text = shipped(&[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

// What the file alone says.

#[test]
fn without_ask_nothing_is_connected_to() {
    let origin = Origin::start(|_| origin::json("[]"));
    let redis = RedisServer::start();
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    let file = larder.file();
    let before = redis.run(&["INFO", "stats"]).text();
    let connections = |info: &str| {
        let line = info
            .lines()
            .find(|line| line.starts_with("total_connections_received"));
        line.unwrap()
            .split(':')
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    for target in [LIST, "/api/users/?page=2", "/other/"] {
        let exit = run(&["explain", target, "-c", file.to_str().unwrap()], &[]);
        assert!(exit.status.success(), "{exit:?}");
    }
    let after = redis.run(&["INFO", "stats"]).text();
    // The one more is the test's own.
    assert_eq!(connections(&after), connections(&before) + 1);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_read_is_told_its_route_its_key_and_what_drops_it() {
    let told = shipped_json(&["GET", "/api/users/7/"]);
    assert_eq!(told["route"]["path"], "/api/users/<int:id>/");
    assert_eq!(told["route"]["index"], 1);
    let copy = &told["copy"];
    assert_eq!(copy["key"], "it360acad:users:detail:7");
    assert_eq!(copy["family"], "users:detail:7");
    assert_eq!(copy["whose"], "whoever asks without a credential");
    let states = [
        "it360acad:users:detail:7~state",
        "it360acad:users:detail~all",
    ];
    assert_eq!(copy["states"], json!(states));
    let droppers: Vec<(String, &str)> = told["dropped_by"]
        .as_array()
        .unwrap()
        .iter()
        .map(|by| (by["methods"].to_string(), by["path"].as_str().unwrap()))
        .collect();
    let expected = [
        (r#"["PUT","PATCH","DELETE"]"#.to_owned(), "/api/users/"),
        (r#"["PUT","PATCH","DELETE"]"#.to_owned(), "/api/users/7/"),
        (
            r#"["POST","PUT","PATCH","DELETE"]"#.to_owned(),
            "/api/users/<path:rest>",
        ),
    ];
    assert_eq!(droppers, expected);
    assert!(shipped(&["/api/users/7/"]).contains("larder purge users:detail:7"));
}

#[test]
fn what_splits_a_copy_is_named_and_never_shown() {
    let fields = [
        "-H",
        "Authorization: Token hush",
        "-H",
        "Cookie: sessionid=hush; csrftoken=hush; hush",
        "-H",
        "X-Api-Key: hush",
        "-H",
        "X-Tenant: hush",
    ];
    let arguments = [&["GET", "/api/users/?page=2&a=1"], &fields[..]].concat();
    let told = shipped_json(&arguments);
    let split = told["copy"]["split_by"].to_string();
    for name in [
        "Authorization",
        "X-Api-Key",
        "cookie sessionid",
        "cookie without a name",
        "query a=1&page=2",
    ] {
        assert!(split.contains(name), "{split}");
    }
    assert_eq!(told["copy"]["forwarded"], "GET /api/users/?a=1&page=2");
    let left_out = told["copy"]["left_out"].to_string();
    assert!(
        left_out.contains("X-Tenant") && left_out.contains("csrftoken"),
        "{left_out}"
    );
    assert_eq!(told["copy"]["key"], "it360acad:users:list~?");
    let text = shipped(&arguments);
    assert!(
        !told.to_string().contains("hush") && !text.contains("hush"),
        "{text}"
    );
}

#[test]
fn a_copy_that_no_write_drops_is_told_so() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(format!(
        "{}  - {{path: /api/users/me/, key: 'users:me'}}\npurge:\n  - {{methods: [POST, PUT, PATCH, DELETE], path: '/api/users/<path:rest>', keys: ['users:list']}}\n",
        users_api(&origin, "memory:", "")
            .split_once("purge:")
            .unwrap()
            .0,
    ));
    let file = larder.file();
    let exit = run(
        &["explain", "/api/users/me/", "-c", file.to_str().unwrap()],
        &[],
    );
    let line = exit
        .output
        .lines()
        .find(|line| line.starts_with("dropped by"));
    let line = line.unwrap_or_else(|| panic!("{exit:?}"));
    assert!(
        line.contains("no write") && line.contains("larder purge users:me"),
        "{line}"
    );
}

#[test]
fn a_target_that_is_no_path_is_an_error_and_no_refused_request() {
    for target in ["users", "api/users/"] {
        let exit = run(&["explain", target, "-c", SHIPPED], &[]);
        assert!(!exit.status.success(), "{exit:?}");
        let said = format!("{exit:?}");
        assert!(said.contains("neither a path nor a URL"), "{said}");
    }
}

#[test]
fn where_no_route_matches_each_says_why_not() {
    let text = shipped(&["/api/users/me/"]);
    assert!(
        text.contains("not /api/users/<int:id>/: its `<int:id>` does not match `me`"),
        "{text}"
    );
    assert!(text.contains("detail=no-route"), "{text}");
}

#[test]
fn another_spelling_and_a_missing_slash_are_told_the_right_one() {
    for (target, canonical) in [
        ("/api/users/07/", "/api/users/7/"),
        ("/api/users/%37/", "/api/users/7/"),
        ("//api/users/", "/api/users/"),
        ("/api/users", "/api/users/"),
    ] {
        assert_eq!(shipped_json(&[target])["canonical"], canonical, "{target}");
    }
}

#[test]
fn of_a_write_to_an_api_whose_reads_lag_it_is_told_how_long_it_is_held() {
    let yaml = "upstream: {url: 'http://127.0.0.1:9', lag: 2s}\nadmin: off\nroutes: [{path: /a/, key: a}]\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let file = file.path().to_str().unwrap();
    let told = run(&["explain", "POST", "/a/", "-c", file], &[]);
    assert!(told.output.contains("for 2s after the answer"), "{told:?}");
}

#[test]
fn a_write_is_told_its_rule_and_what_it_drops() {
    let told = shipped_json(&["PATCH", "/api/users/7/"]);
    assert_eq!(told["write"]["rules"][0]["index"], 2);
    assert_eq!(
        told["write"]["drops"],
        json!(["users:detail:7", "users:list"])
    );
    assert_eq!(
        told["write"]["not_after"],
        json!([400, 401, 403, 405, 413, 415, 422, 429])
    );
    assert_eq!(told["cache_status"], "larder; fwd=method");

    let told = shipped_json(&["POST", "/api/users/me/activate/"]);
    assert_eq!(
        told["write"]["drops"],
        json!(["users:detail:*", "users:list"])
    );

    let told = shipped_json(&["PUT", "/api/users/"]);
    assert_eq!(told["write"]["rules"][0]["index"], 1);
    assert_eq!(
        told["write"]["drops"],
        json!(["users:detail:*", "users:list"])
    );

    let text = shipped(&["POST", "/api/auth/logout/"]);
    assert!(text.contains("drops        nothing"), "{text}");
}

#[test]
fn a_write_to_a_routes_path_that_no_rule_names_is_told_to_drop_its_key() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let yaml = "upstream: http://127.0.0.1:9\nadmin: off\nroutes: [{path: /a/, key: a}]\n";
    std::fs::write(file.path(), yaml).unwrap();
    let file = file.path().to_str().unwrap();
    let exit = run(&["explain", "PUT", "/a/", "-c", file, "--json"], &[]);
    let told: Value = serde_json::from_str(&exit.output).unwrap();
    assert_eq!(told["write"]["rules"], json!([]));
    assert_eq!(told["write"]["drops"], json!(["a"]));
}

#[test]
fn a_rule_that_reads_a_path_in_two_ways_is_told_once_with_all_that_it_drops() {
    let origin = Origin::start(|_| origin::json("{}"));
    let path = "/users/<str:name>/";
    let asked = Asked::with(format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nroutes: [{{path: \"{path}\", key: \"users:{{name}}\"}}]\n\
         purge: [{{methods: PATCH, path: \"{path}\", keys: [\"users:{{name}}\"]}}]\n",
        origin.url()
    ));
    // To some the last part of it is a format.
    for (method, named) in [("PATCH", "rules"), ("PUT", "routes")] {
        let told = asked.explain(method, "/users/ann@example.org/", &[], "", false);
        let write = &told["write"];
        assert_eq!(write["drops"].as_array().map(Vec::len), Some(2), "{told}");
        assert_eq!(write[named].as_array().map(Vec::len), Some(1), "{told}");
    }
    asked.larder.write("PATCH", "/users/ann@example.org/");
    eventually("it is logged", || {
        asked.larder.output().contains("\"rules\":\"purge[0]\"")
    });
}

#[test]
fn a_head_is_looked_up_and_fills_nothing() {
    let told = shipped_json(&["HEAD", LIST]);
    assert_eq!(
        (&told["look_up"]["may"], &told["store"]["may"]),
        (&json!(true), &json!(false))
    );
}

#[test]
fn a_url_says_host_and_scheme() {
    let told = shipped_json(&["https://api.example.org/api/users/"]);
    assert_eq!(told["copy"]["origin"], "https://api.example.org");
    assert_eq!(told["host_assumed"], false);
}

#[test]
fn fields_may_stand_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fields");
    std::fs::write(&file, "Authorization: Token hush\nX-Api-Key: hush\n").unwrap();
    let told = shipped_json(&[LIST, "-H", &format!("@{}", file.display())]);
    assert_eq!(
        told["copy"]["split_by"],
        json!(["Authorization", "X-Api-Key"])
    );
}

#[test]
fn a_command_that_is_no_request_is_told_so_and_repeats_no_secret() {
    for arguments in [
        &["http://user:hush@a/api/users/"][..],
        &[LIST, "-H", "hush without a colon"],
        &["G ET", LIST],
    ] {
        let exit = run(&[&["explain"], arguments, &["-c", SHIPPED]].concat(), &[]);
        assert_eq!(exit.status.code(), Some(1), "{exit:?}");
        assert!(!exit.output.contains("hush"), "{exit:?}");
    }
}

// Each word, three times.

/// A real Larder, and requests whose word is compared: in its answer, in its log, in what it counts, and in `larder explain`.
struct Asked {
    larder: Larder,
}

impl Asked {
    fn with(yaml: String) -> Asked {
        Asked {
            larder: Larder::with(yaml + "logs: {format: json}\n").start(),
        }
    }

    fn explain(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
        ask: bool,
    ) -> Value {
        let mut command = command(&[]);
        let file = self.larder.file();
        command.args([
            "explain",
            method,
            target,
            "--json",
            "-c",
            file.to_str().unwrap(),
        ]);
        if ask {
            command.arg("--ask");
        }
        if !body.is_empty() {
            command.args(["-d", body]);
        }
        if !fields.iter().any(|(name, _)| *name == "Host") {
            command.args(["-H", "Host: api.example.org"]);
        }
        for (name, value) in fields {
            command.args(["-H", &format!("{name}: {value}")]);
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What explain says before the request, the request's own Cache-Status, its event in the log and what is counted
    /// all have this word.
    #[track_caller]
    fn earns(
        &self,
        word: &str,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let told = self.explain(method, target, fields, body, true);
        let before = self.counted(word);
        let answer = self.larder.request(method, target, fields, body.as_bytes());
        assert_eq!(self.counted(word), before + 1, "counted as {word}");
        self.agree(word, &told, &answer, target);
        answer
    }

    /// How many requests were counted with this word.
    fn counted(&self, word: &str) -> u64 {
        let text = self.larder.admin("GET", "/metrics").text();
        let label = format!("detail=\"{word}\"");
        let of_it =
            |line: &&str| line.starts_with("larder_requests_total{") && line.contains(&label);
        let lines = text.lines().filter(of_it);
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// The event of the request, which has this word.
    #[track_caller]
    fn logged(&self, target: &str, word: &str) -> Value {
        let path = target.split('?').next().unwrap();
        let mut logged = None;
        eventually("the request is in the log", || {
            let output = self.larder.output();
            let event = output.lines().rev().find_map(|line| {
                let event: Value = serde_json::from_str(line).ok()?;
                (event["target"] == "larder::access" && event["path"] == path).then_some(event)
            });
            logged = event;
            logged.as_ref().is_some_and(|event| event["detail"] == word)
        });
        logged.unwrap()
    }

    #[track_caller]
    fn agree(&self, word: &str, told: &Value, answer: &Answer, target: &str) {
        let ours = answer.cache_status();
        let detail = format!("detail={word}");
        assert!(
            ours.ends_with(&detail),
            "Cache-Status: {ours}, expected {word}"
        );
        let logged = self.logged(target, word);
        assert_eq!(told["detail"], word, "{told:#}");
        assert_eq!(told["cache"], logged["cache"], "{told:#}");
        assert!(told["because"].is_string(), "{told:#}");
        // Word by word what Cache-Status says, but for the status of an answer that explain did not ask for.
        let said = told["cache_status"].as_str().unwrap();
        let parts = |text: &str| -> Vec<String> {
            let parts = text.split("; ").map(str::to_owned);
            parts
                .filter(|part| !part.starts_with("fwd-status"))
                .collect()
        };
        assert_eq!(parts(said), parts(&ours), "{told:#}");
    }
}

fn yaml(origin: &Origin, store: &str, list: &str) -> String {
    users_api(origin, store, "limits: {copies: 1}")
        .replace("key: users:list", &format!("key: users:list{list}"))
}

fn kept() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

#[test]
fn words_of_requests_that_are_not_looked_up() {
    let origin = kept();
    let query = ", query: {allow: [page], other: bypass}";
    let asked = Asked::with(yaml(&origin, "memory:", query));
    for (word, target, fields, body) in [
        ("no-route", "/other/", &[][..], ""),
        ("spelling", "/api/users/07/", &[], ""),
        ("content", LIST, &[], "{}"),
        ("parameter", "/api/users/?utm=1", &[], ""),
        ("html", LIST, &[("Accept", "text/html,*/*;q=0.8")], ""),
        ("event-stream", LIST, &[("Accept", "text/event-stream")], ""),
        ("refused", LIST, &[("Host", "a b")], ""),
    ] {
        asked.earns(word, "GET", target, fields, body);
        // The file alone is enough for these.
        let told = asked.explain("GET", target, fields, body, false);
        assert_eq!(told["detail"], word, "{told:#}");
    }
}

/// Whatever the token.
#[test]
fn what_no_token_would_have_looked_up_is_told_as_that() {
    let origin = kept();
    for (other, word, status) in [("bypass", "parameter", 200), ("reject", "refused", 400)] {
        let jwt = format!(
            ", access: {{jwt: {{secret: \"0123456789abcdef0123456789abcdef\"}}}}, query: {{allow: [page], other: {other}}}"
        );
        let asked = Asked::with(yaml(&origin, "memory:", &jwt));
        let bad = [("Authorization", "Bearer hush")];
        let html = [bad[0], ("Accept", "text/html")];
        let events = [bad[0], ("Accept", "text/event-stream")];
        for (word, target, fields) in [
            (word, "/api/users/?utm=1", &bad[..]),
            ("html", LIST, &html),
            ("event-stream", LIST, &events),
            ("jwt-refused", LIST, &bad),
            ("jwt-absent", "/api/users/?utm=1", &html[1..]),
        ] {
            let answer = asked.earns(word, "GET", target, fields, "");
            let told = asked.explain("GET", target, fields, "", false);
            assert_eq!(told["detail"], word, "{told:#}");
            let refused = (answer.status == 400).then_some(status);
            assert_eq!(told["refused_with"], json!(refused), "{told:#}");
        }
    }
}

#[test]
fn who_has_a_cookie_that_a_fill_is_given_anew_is_told_that_they_are_asked_for_as_they_came() {
    let origin = Origin::start(|_| origin::json("[]").field("Set-Cookie", "csrftoken=new"));
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    asked.earns("set-cookie", "GET", LIST, &[], "");
    let shown = [("Cookie", "csrftoken=mine")];
    asked.earns("set-cookie", "GET", LIST, &shown, "");
}

#[test]
fn words_of_who_is_not_admitted() {
    let origin = Origin::start(|request| match request.fields.get("Authorization") {
        Some("Token a") if request.target.ends_with("/me/") => origin::json("{}"),
        Some("Token text") if request.target.ends_with("/me/") => origin::json("no json"),
        _ if request.target.ends_with("/me/") => origin::status(401, ""),
        _ => origin::json("[]"),
    });
    let verify = ", access: {verify: /api/users/me/, scope: [/role]}";
    let asked = Asked::with(yaml(&origin, "memory:", verify));
    for (word, who) in [
        ("verify-refused", "Token b"),
        ("verify-failed", "Token text"),
    ] {
        asked.earns(word, "GET", LIST, &[("Authorization", who)], "");
    }
    let mixed = [("Authorization", "Token a"), ("Cookie", "tenant=b")];
    asked.earns("verify-mixed", "GET", LIST, &mixed, "");
    for ask in [false, true] {
        let told = asked.explain("GET", LIST, &mixed, "", ask);
        assert_eq!(told["store"]["may"], false, "{told:#}");
        assert_eq!(told["store"]["reason"], "verify-mixed", "{told:#}");
        let why = told["store"]["why"].as_str().unwrap();
        assert!(why.contains("`ignore_cookies`"), "{why}");
        assert_eq!(told["look_up"]["may"], true, "{told:#}");
    }
    let fields = [("Authorization", "Token a")];
    let told = asked.explain("GET", LIST, &fields, "", true);
    assert_eq!(
        told["admitted"],
        "`GET /api/users/me/` says so now, asked with this credential"
    );
    assert_eq!(
        told["copy"]["split_by"][0],
        "/role of what `access` goes by"
    );
    assert_eq!(told["detail"], "absent", "{told:#}");

    let issuer = Issuer::secret("0123456789abcdef0123456789abcdef");
    let token = |seconds| {
        let claims = serde_json::json!({"role": "x", "exp": from_now(seconds)});
        format!("Bearer {}", issuer.token(&claims))
    };
    let (good, late, revoked) = (token(3600), token(-1), token(3601));
    let jwt = ", access: {jwt: {secret: 0123456789abcdef0123456789abcdef}, scope: [/role]}";
    let asked = Asked::with(yaml(&origin, "memory:", jwt));
    let purge = serde_json::json!({"credentials": [format!("Authorization: {revoked}")]});
    let fields = [("Content-Type", "application/json")];
    let purged = support::client::Connection::open(asked.larder.admin_address()).request(
        "POST",
        "/purge",
        &fields,
        purge.to_string().as_bytes(),
    );
    assert_eq!(purged.status, 200);
    for (word, fields) in [
        ("jwt-absent", &[][..]),
        ("jwt-refused", &[("Authorization", "Bearer a.b.c")]),
        ("jwt-expired", &[("Authorization", &late)]),
        ("jwt-mixed", &[("Authorization", &good), ("Cookie", "a=b")]),
        ("jwt-revoked", &[("Authorization", &revoked)]),
    ] {
        asked.earns(word, "GET", LIST, fields, "");
        // The file alone is enough, but for what only the store knows.
        let told = asked.explain("GET", LIST, fields, "", false);
        let expected = (word != "jwt-revoked").then_some(word);
        assert_eq!(told["detail"].as_str(), expected, "{told:#}");
    }
    let told = asked.explain("GET", LIST, &[("Authorization", &good)], "", true);
    assert_eq!(told["admitted"], "by its token, which nobody has revoked");
    assert_eq!(
        told["copy"]["whose"],
        "whoever has a good token with the same /role"
    );
    assert!(!told.to_string().contains(&good[7..]), "{told:#}");
}

#[test]
fn the_word_of_what_the_operator_has_refused() {
    let origin = kept();
    let query = ", query: {allow: [page], other: reject}";
    let hosts = "hosts: [api.example.org]\n";
    let asked = Asked::with(yaml(&origin, "memory:", query) + hosts);
    for (status, target, fields) in [
        (400, "/api/users/?utm=1", &[][..]),
        (421, LIST, &[("Host", "other.example.org")]),
    ] {
        let answer = asked.earns("refused", "GET", target, fields, "");
        let told = asked.explain("GET", target, fields, "", false);
        assert_eq!(answer.status, status);
        assert_eq!(told["refused_with"], status, "{told:#}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn words_of_look_ups() {
    for redis in [None, Some(RedisServer::start())] {
        let store = redis
            .as_ref()
            .map_or("memory:".to_owned(), RedisServer::url);
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::start(move |request| match request.method.as_str() {
            "PATCH" => origin::json("{}").behind(&held),
            _ if request.parameter("brief").is_some() => {
                origin::json("[]").field("Cache-Control", "max-age=3")
            }
            _ => origin::json("[]"),
        });
        let asked = Asked::with(yaml(&origin, &store, "").replace("{copies: 1}", "{copies: 100}"));
        let larder = &asked.larder;
        asked.earns("absent", "GET", LIST, &[], "");
        assert!(larder.get(LIST).is_hit());
        let told = asked.explain("GET", LIST, &[], "", true);
        assert!(
            told["cache_status"]
                .as_str()
                .unwrap()
                .starts_with("larder; hit; ttl="),
            "{told:#}"
        );
        assert_eq!(told["found"]["valid"], true);
        assert_eq!(told["found"]["copy"]["status"], 200);

        larder.write("POST", LIST);
        // The embedded store may have forgotten what was dropped, Redis has not.
        asked.earns("purged", "GET", LIST, &[], "");
        // Where each host is a tenant, the usual remedy would give all of them what is one's.
        let other = [("Host", "other.example.org")];
        let told = asked.explain("GET", LIST, &other, "", true);
        let because = told["because"].as_str().unwrap();
        assert!(
            because.contains("unless the host says whose answers they are"),
            "{because}"
        );
        asked.earns("other-origin", "GET", LIST, &other, "");

        // Redis lets a copy go when its time is over; the embedded store keeps it until it needs the room.
        if redis.is_none() {
            let brief = "/api/users/?brief=1";
            eventually("it is kept", || {
                larder.get(brief).cache_status().contains("stored")
            });
            eventually("its time is over", || {
                !asked.explain("GET", brief, &[], "", true)["found"]["valid"]
                    .as_bool()
                    .unwrap()
            });
            asked.earns("expired", "GET", brief, &[], "");
        }

        if let Some(redis) = &redis {
            larder.get("/api/users/7/");
            redis.set("t:users:detail:7", b"\x80\x04]\x94.");
            asked.earns("foreign", "GET", "/api/users/7/", &[], "");
        }

        // A write in flight.
        let address = larder.address();
        let writer = std::thread::spawn(move || {
            Connection::open(address).request("PATCH", "/api/users/8/", &[], b"{}")
        });
        eventually("the write is at the origin", || {
            origin.count_of("PATCH") == 1
        });
        let answer = asked.earns("held", "GET", "/api/users/8/", &[], "");
        assert!(answer.is_complete_success());
        gate.open();
        writer.join().unwrap();
    }
}

/// Until somebody fetches it is still said to be held: by whoever asks, it is told what then becomes of it.
#[test]
fn what_is_read_after_a_hold_that_is_over_is_said_to_be_kept_as_it_is() {
    let redis = RedisServer::start();
    for store in ["memory:", &redis.url()] {
        let origin = Origin::start(|_| origin::json("[]").field("Cache-Control", "max-age=60"));
        let by_http = "routes:\n  - {path: /http/, key: \"http\", policy: http}";
        let file = yaml(&origin, store, "").replace("routes:", by_http);
        let url = origin.url();
        let lagging = format!("upstream: {{url: \"{url}\", lag: 100ms}}");
        let file = file.replace(&format!("upstream: {url}"), &lagging);
        let asked = Asked::with(file);
        for target in [LIST, "/http/"] {
            assert_eq!(asked.larder.write("POST", target).status, 200);
            eventually("what was written to is kept again", || {
                asked.explain("GET", target, &[], "", true)["answer"]["kept"] == true
            });
            let answer = asked.larder.get(target);
            assert!(answer.cache_status().contains("stored"), "{answer:?}");
        }
    }
}

#[test]
fn the_word_while_the_store_is_away() {
    let (origin, mut redis) = (kept(), RedisServer::start());
    let asked = Asked::with(yaml(&origin, &redis.url(), ""));
    redis.kill();
    eventually("it is noticed", || {
        asked.larder.get(LIST).cache_status().contains("store-away")
    });
    asked.earns("store-away", "GET", LIST, &[], "");

    let (origin, mut redis) = (kept(), RedisServer::start());
    let refused = "when_store_is_down: refuse_writes\nlimits: {copies: 1}";
    let file = yaml(&origin, &redis.url(), "").replacen("limits: {copies: 1}", refused, 1);
    let asked = Asked::with(file);
    redis.kill();
    eventually("it is noticed", || !asked.larder.is_ready());
    let answer = asked.earns("store-away", "PATCH", "/api/users/7/", &[], "{}");
    assert_eq!((answer.status, origin.count()), (503, 0));
}

#[test]
fn words_of_answers_that_are_not_kept() {
    type Change = fn(origin::Answer) -> origin::Answer;
    let cases: [(&str, Change); 11] = [
        ("set-cookie", |a| a.field("Set-Cookie", "sessionid=hush")),
        ("credential", |a| a.field("X-Auth-Token", "hush")),
        ("no-store", |a| a.field("Cache-Control", "no-store")),
        ("private", |a| a.field("Cache-Control", "private")),
        ("no-cache", |a| a.field("Cache-Control", "no-cache")),
        ("stale", |a| a.field("Cache-Control", "max-age=0")),
        ("bad-freshness", |a| {
            a.field("Cache-Control", "max-age=soon")
        }),
        ("vary-unkeyed", |a| a.field("Vary", "X-Tenant")),
        ("encoded", |a| a.field("Content-Encoding", "gzip")),
        ("event-stream", |_| {
            origin::status(200, "data: 1\n\n").field("Content-Type", "text/event-stream")
        }),
        ("too-large", |_| origin::huge(5 << 20)),
    ];
    for (word, change) in cases {
        let origin = Origin::start(move |_| change(origin::json("[]")));
        let asked = Asked::with(yaml(&origin, "memory:", ""));
        asked.earns(word, "GET", LIST, &[], "");
        let told = asked.explain("GET", LIST, &[], "", true);
        assert_eq!(told["answer"]["kept"], false, "{told:#}");
        assert!(!told.to_string().contains("hush"), "{told:#}");
    }
    // However large it is: a larger `max_body` would not have it kept.
    let large = "x".repeat(100);
    for body in ["{}".to_owned(), large] {
        let origin = Origin::start(move |_| origin::status(404, &body));
        let asked = Asked::with(yaml(&origin, "memory:", ", max_body: 50B"));
        asked.earns("status", "GET", LIST, &[], "");
    }
    // One that is no credential, and is set anew for who has it: who asked is answered for itself.
    let origin = Origin::start(|_| origin::json("[]").field("Set-Cookie", "csrftoken=new"));
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    asked.earns(
        "set-cookie",
        "GET",
        LIST,
        &[("Cookie", "csrftoken=old")],
        "",
    );
    let origin = Origin::start(|request| match request.fields.get("accept") {
        Some("application/json") => origin::status(406, ""),
        _ => origin::json("[]"),
    });
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    asked.earns("not-json", "GET", LIST, &[("Accept", "*/*")], "");
}

#[test]
fn a_request_with_a_field_that_answers_vary_by_is_passed_on_with_that_word() {
    let origin = Origin::start(|_| origin::json("[]").field("Vary", "X-Tenant"));
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    // Before the instance has learnt of it, and after.
    for _ in 0..2 {
        asked.earns("vary-unkeyed", "GET", LIST, &[("X-Tenant", "a")], "");
    }
}

#[test]
fn the_word_for_too_many_copies() {
    let origin = kept();
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    asked.earns("absent", "GET", "/api/users/?page=1", &[], "");
    asked.earns("too-many-copies", "GET", "/api/users/?page=2", &[], "");
}

#[test]
fn the_word_for_a_store_that_is_full() {
    let (origin, redis) = (kept(), RedisServer::start());
    let asked = Asked::with(yaml(&origin, &redis.url(), ""));
    asked.larder.get("/api/users/7/");
    // Far above what it then may use, whatever its clients take of it for the moment.
    redis
        .run(&["SET", "other", &"x".repeat(4 << 20)])
        .unwrap_ok();
    redis
        .run(&["CONFIG", "SET", "maxmemory", "1mb"])
        .unwrap_ok();
    asked.earns("store-refused", "GET", LIST, &[], "");
}

#[test]
fn words_of_an_api_that_gives_no_answer() {
    let mut origin = kept();
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    origin.stop();
    asked.earns("connect-failed", "GET", LIST, &[], "");

    let origin = Origin::start(|request| match request.parameter("says") {
        Some("nothing") => origin::hang_up(),
        Some("nonsense") => origin::raw("SSH-2.0-OpenSSH_9.7\r\n"),
        Some("more-later") => origin::json("[]").after(Duration::from_secs(2)),
        _ => origin::json("[]"),
    });
    let impatient = format!(
        "upstream: {{url: \"{}\", connect: 200ms, first_byte: 300ms, total: 1s}}",
        origin.url()
    );
    let one = format!("upstream: {}", origin.url());
    let asked = Asked::with(yaml(&origin, "memory:", "").replacen(&one, &impatient, 1));
    for (word, target) in [
        ("connection-lost", "/api/users/?says=nothing"),
        ("malformed-answer", "/api/users/?says=nonsense"),
        ("first-byte-timeout", "/api/users/?says=more-later"),
    ] {
        asked.earns(word, "GET", target, &[], "");
    }
    let impatient = impatient.replace(
        "first_byte: 300ms, total: 1s",
        "first_byte: 300ms, total: 300ms",
    );
    let asked = Asked::with(yaml(&origin, "memory:", "").replacen(&one, &impatient, 1));
    let target = "/api/users/?says=more-later";
    asked.earns("total-timeout", "GET", target, &[], "");

    // What each says to whoever wants to speak TLS with it.
    for (word, says) in [
        ("connect-timeout", None),
        ("tls-failed", Some(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..])),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                if let Some(says) = says {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream.write_all(says);
                }
                open.push(stream);
            }
        });
        let secure = format!("upstream: {{url: \"https://{address}\", connect: 200ms}}");
        let asked = Asked::with(yaml(&origin, "memory:", "").replacen(&one, &secure, 1));
        asked.earns(word, "GET", LIST, &[], "");
    }
}

#[test]
fn the_word_of_an_api_that_has_no_place() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |request| match request.target.as_str() {
        "/held/" => origin::json("[]").behind(&held),
        "/unread/" => origin::huge(1 << 30),
        _ => origin::json("[]"),
    });
    let one = format!("upstream: {}", origin.url());
    let small = format!(
        "upstream: {{url: \"{}\", max_connections: 1, queue: 0}}",
        origin.url()
    );
    let asked = Asked::with(yaml(&origin, "memory:", "").replacen(&one, &small, 1));
    let mut holder = asked.larder.connect();
    holder.send(head("GET", "/held/", &[], None).as_bytes());
    origin.wait_for(1);
    asked.earns("queue-full", "GET", LIST, &[], "");
    gate.open();
    assert_eq!(holder.answer("GET").status, 200);

    // An answer that nobody reads has the place for longer than others wait.
    let brief = "connect: 200ms, first_byte: 300ms, total: 300ms, queue: 9";
    let asked = Asked::with(yaml(&origin, "memory:", "").replacen(
        &one,
        &small.replace("queue: 0", brief),
        1,
    ));
    let mut holder = asked.larder.connect();
    holder.send(head("GET", "/unread/", &[], None).as_bytes());
    eventually("the place is taken", || {
        asked
            .larder
            .admin("GET", "/metrics")
            .text()
            .contains("larder_upstream_in_flight 1")
    });
    asked.earns("queue-timeout", "GET", LIST, &[], "");
}

#[test]
fn the_word_for_one_who_asks_too_much() {
    let origin = kept();
    let limits = "limits: {copies: 1, rate: {per: address, requests: 1, window: 1h, burst: 1}}";
    let file = yaml(&origin, "memory:", "").replacen("limits: {copies: 1}", limits, 1);
    let asked = Asked::with(file);
    let from = [("X-Forwarded-For", "192.0.2.1")];
    asked.larder.get_with("/other/", &from);
    // All requests count, whether or not a route keeps what they ask for.
    for (method, target, body) in [
        ("GET", LIST, ""),
        ("GET", "/other/", ""),
        ("PATCH", "/api/users/7/", "{}"),
        ("OPTIONS", LIST, ""),
    ] {
        let answer = asked.earns("rate-limited", method, target, &from, body);
        assert_eq!(answer.status, 429, "{method} {target}");
    }
}

/// A write may be a logout, whatever its path: it ends what the API has said of its credential, unless it is refused.
#[test]
fn a_write_is_told_that_it_ends_what_was_said_of_its_credential() {
    let mut redis = RedisServer::start();
    let origin = Origin::start(|request| match request.method.as_str() {
        "POST" => origin::status(404, "{}"),
        _ => origin::json("{}"),
    });
    let verify = ", access: {verify: /api/users/me/}";
    let free = "when_store_is_down: refuse_writes\nroutes:\n  - {path: /free/, policy: http}\n";
    let file = yaml(&origin, &redis.url(), verify).replacen("routes:\n", free, 1);
    let asked = Asked::with(file);
    let token = [("Authorization", "Token a")];
    let purges = || {
        let told: Value =
            serde_json::from_str(&asked.larder.admin("GET", "/purges").text()).unwrap();
        told["purges"].as_array().unwrap().len()
    };
    for (target, drops) in [("/logout/", json!([])), ("/free/", json!(["http:free:"]))] {
        for (fields, ends) in [(&token[..], true), (&[], false)] {
            for ask in [false, true] {
                let told = asked.explain("POST", target, fields, "{}", ask);
                let write = &told["write"];
                assert_eq!(
                    write["ends_verdict"].as_bool().unwrap_or(false),
                    ends,
                    "{told:#}"
                );
                assert_eq!(write["drops"], drops, "{told:#}");
                // To the origin's policy a 404 changes nothing; to a credential it may be a logout that was sent twice.
                if target == "/free/" {
                    let not_after = write["not_after"].as_array().unwrap();
                    assert_eq!(not_after.contains(&json!(404)), !ends, "{told:#}");
                }
            }
            let before = purges();
            asked.larder.request("POST", target, fields, b"{}");
            assert_eq!(purges() - before, usize::from(ends), "{target}");
        }
    }
    redis.kill();
    eventually("it is noticed", || !asked.larder.is_ready());
    let before = origin.count();
    let answer = asked.earns("store-away", "POST", "/logout/", &token, "{}");
    assert_eq!((answer.status, origin.count()), (503, before));
}

#[test]
fn a_head_earns_the_word_of_its_look_up() {
    let origin = kept();
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    asked.earns("absent", "HEAD", LIST, &[], "");
}

#[test]
fn words_of_copies_that_are_served_past_their_time() {
    let failing = Arc::new(AtomicBool::new(false));
    let fails = failing.clone();
    let origin = Origin::start(
        move |request| match request.parameter("failing").is_some() {
            true if fails.load(Ordering::Relaxed) => origin::status(503, "{}"),
            _ => origin::json("[]").field("Cache-Control", "max-age=1"),
        },
    );
    let stale = ", stale_while_revalidate: 1h";
    let asked = Asked::with(yaml(&origin, "memory:", stale));
    asked.larder.get(LIST);
    let past = |target: &str, word: &str| {
        eventually("its time is over", || {
            asked.explain("GET", target, &[], "", true)["detail"] == word
        });
    };
    past(LIST, "stale-while-revalidate");
    asked.earns("stale-while-revalidate", "GET", LIST, &[], "");

    let stands_in = ", stale_if_error: 1h";
    let asked = Asked::with(yaml(&origin, "memory:", stands_in));
    let target = "/api/users/?failing=1";
    asked.larder.get(target);
    failing.store(true, Ordering::Relaxed);
    eventually("its time is over", || {
        asked.explain("GET", target, &[], "", true)["detail"] == "stale-if-error"
    });
    let answer = asked.earns("stale-if-error", "GET", target, &[], "");
    assert_eq!(answer.status, 200);
}

#[test]
fn the_word_after_a_soft_purge() {
    let origin = kept();
    let asked = Asked::with(yaml(&origin, "memory:", ""));
    asked.larder.get(LIST);
    asked.larder.purge_softly(&["users:list"]);
    asked.earns("soft-purge", "GET", LIST, &[], "");
}

#[test]
fn words_of_whom_the_api_does_not_admit() {
    let origin = Origin::start(|request| {
        let token = request.fields.get("authorization").unwrap_or_default();
        match (request.target.as_str(), token) {
            ("/api/users/me/", "Token bad") => origin::status(401, "{}"),
            ("/api/users/me/", _) => origin::json("no JSON at all"),
            _ => origin::json("[]"),
        }
    });
    let verify = ", access: {verify: /api/users/me/, for: 60s, refuse_for: 60s, scope: [/role]}";
    let asked = Asked::with(yaml(&origin, "memory:", verify));
    for (word, token) in [
        ("verify-refused", "Token bad"),
        ("verify-failed", "Token odd"),
    ] {
        let fields = [("Authorization", token)];
        // `explain` asks nobody whom the API admits: it is known once somebody has asked.
        asked.larder.get_with(LIST, &fields);
        asked.earns(word, "GET", LIST, &fields, "");
    }
}

#[test]
fn words_of_the_origins_own_policy() {
    let origin = Origin::start(|request| {
        let answer = origin::json("[]").field("Cache-Control", "max-age=60");
        match request.target.as_str() {
            "/o/varied" => answer.field("Vary", "X-Tenant"),
            "/o/numbered" => answer.field("Vary", "X-Request-Id"),
            "/o/precondition" => origin::status(412, "[]").field("Cache-Control", "max-age=60"),
            "/o/events" => origin::status(200, "data: 1\n\n")
                .field("Content-Type", "text/event-stream")
                .field("Cache-Control", "max-age=60"),
            // Said with the answer that the stored one is still good, or it goes out before it is kept.
            "/o/grouped" if request.fields.has("if-none-match") => origin::status(304, "")
                .field("ETag", "\"a\"")
                .field("Cache-Groups", "\"users\""),
            "/o/crowded" => answer.field(
                "Cache-Groups",
                &(0..129)
                    .map(|n| format!("\"g{n}\""))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            "/o/grouped" => origin::json("[]")
                .field("ETag", "\"a\"")
                .field("Cache-Control", "no-cache"),
            _ => answer,
        }
    });
    let yaml = format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nroutes: [{{path: \"/o/<path:rest>\", policy: http}}]\n",
        origin.url()
    );
    let asked = Asked::with(yaml);
    asked.larder.get_with("/o/varied", &[("X-Tenant", "a")]);
    asked.larder.get("/o/grouped");
    asked.larder.get("/o/demanded");
    for (word, target, fields) in [
        (
            "client-directive",
            "/o/demanded",
            &[("Cache-Control", "no-cache")][..],
        ),
        (
            "client-directive",
            "/o/demanded",
            &[("Cache-Control", "max-age=0")],
        ),
        ("other-variant", "/o/varied", &[("X-Tenant", "b")]),
        (
            "other-variant",
            "/o/varied",
            &[("X-Tenant", "a"), ("Connection", "X-Tenant")],
        ),
        ("vary-unkeyed", "/o/numbered", &[("X-Request-Id", "a")]),
        ("status", "/o/precondition", &[("If-Match", "\"a\"")]),
        ("event-stream", "/o/events", &[]),
        (
            "authorization",
            "/o/plain",
            &[("Authorization", "Token hush")],
        ),
        (
            "only-if-cached",
            "/o/other",
            &[("Cache-Control", "only-if-cached")],
        ),
        ("new-group", "/o/grouped", &[("X-Tenant", "a")]),
        ("new-group", "/o/crowded", &[]),
        ("new-group", "/o/crowded", &[]),
    ] {
        asked.earns(word, "GET", target, fields, "");
    }
    let told = asked
        .explain("GET", "/o/crowded", &[], "", true)
        .to_string();
    assert!(told.contains("unless it is in more than 128"), "{told}");
}

// Looking further.

#[test]
fn asking_keeps_nothing() {
    let (origin, redis) = (kept(), RedisServer::start());
    let asked = Asked::with(yaml(&origin, &redis.url(), ""));
    let told = asked.explain("GET", LIST, &[], "", true);
    assert_eq!(told["answer"]["kept"], true, "{told:#}");
    let seconds = told["answer"]["for_seconds"].as_u64().unwrap();
    assert!((3500..=3600).contains(&seconds), "{told:#}");
    assert_eq!(redis.get("t:users:list"), None);
    assert!(!asked.larder.get(LIST).is_hit());
}

#[test]
fn asking_about_a_write_sends_nothing_and_drops_nothing() {
    let (origin, redis) = (kept(), RedisServer::start());
    let asked = Asked::with(yaml(&origin, &redis.url(), ""));
    asked.larder.get(LIST);
    let told = asked.explain("PATCH", "/api/users/7/", &[], "{}", true);
    assert_eq!(told["write"]["rules"][0]["index"], 1, "{told:#}");
    assert_eq!(origin.count(), 1);
    assert!(asked.larder.get(LIST).is_hit());
}

#[test]
fn the_key_that_is_told_is_the_key_in_the_store() {
    let (origin, redis) = (kept(), RedisServer::start());
    let asked = Asked::with(yaml(&origin, &redis.url(), ""));
    let fields = [("Authorization", "Token hush")];
    asked.larder.get_with("/api/users/?b=2&a=1", &fields);
    let told = asked.explain("GET", "/api/users/?a=1&b=2", &fields, "", true);
    let key = told["copy"]["key"].as_str().unwrap();
    assert!(
        redis.get(key).is_some(),
        "{key} is not among {:?}",
        redis.keys()
    );
    assert!(
        told["cache_status"].as_str().unwrap().contains("hit"),
        "{told:#}"
    );
}

#[test]
fn without_an_instance_the_store_itself_is_looked_into() {
    let (origin, redis) = (kept(), RedisServer::start());
    let yaml = yaml(&origin, &redis.url(), "");
    let larder = Larder::start(yaml.clone());
    larder.get(LIST);
    let file = std::fs::read(larder.file()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("proxy.yaml");
    std::fs::write(&copy, file).unwrap();
    larder.kill();
    let ask = |target: &str| {
        let host = [
            "-H",
            "Host: api.example.org",
            "--ask",
            "-c",
            copy.to_str().unwrap(),
        ];
        run(&[&["explain", target], &host[..]].concat(), &[]).output
    };
    let text = ask(LIST);
    assert!(text.contains("larder; hit; ttl="), "{text}");
    assert!(text.contains("no instance answers"), "{text}");
    let text = ask("/api/users/?page=2");
    assert!(
        text.contains("fwd=uri-miss; fwd-status=200; stored; detail=absent"),
        "{text}"
    );
}

#[test]
fn the_embedded_store_without_an_instance_says_that_nobody_answers() {
    let exit = run(
        &["explain", LIST, "--ask", "-c", SHIPPED],
        &[("ADMIN", "127.0.0.1:1")],
    );
    assert_eq!(exit.status.code(), Some(1), "{exit:?}");
    assert!(exit.output.contains("no instance answers"), "{exit:?}");
}

#[test]
fn learnt_fields_are_in_the_key_that_is_told() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("[]").field("Vary", "Accept-Language"));
    let asked = Asked::with(yaml(&origin, &redis.url(), "").replace("{copies: 1}", "{copies: 9}"));
    let fields = [("Accept-Language", "de")];
    let told = asked.explain("GET", LIST, &fields, "", true);
    assert_eq!(
        told["answer"]["varies_by"],
        json!(["Accept-Language"]),
        "{told:#}"
    );
    asked.larder.get_with(LIST, &fields);
    let told = asked.explain("GET", LIST, &fields, "", true);
    assert_eq!(
        told["copy"]["split_by"],
        json!(["Accept-Language"]),
        "{told:#}"
    );
    assert!(
        told["cache_status"].as_str().unwrap().contains("hit"),
        "{told:#}"
    );
    assert!(redis.get(told["copy"]["key"].as_str().unwrap()).is_some());
}

#[test]
fn the_listener_asks_for_its_token_and_for_json() {
    let origin = kept();
    let yaml = users_api(&origin, "memory:", "admin_token: hush-token");
    let larder = Larder::start(yaml);
    let question = json!({ "method": "GET", "target": LIST }).to_string();
    let ask = |fields: &[(&str, &str)]| {
        let mut admin = Connection::open(larder.admin_address());
        admin.request("POST", "/explain", fields, question.as_bytes())
    };
    let json = ("Content-Type", "application/json");
    assert_eq!(ask(&[json]).status, 401);
    let token = ("Authorization", "Bearer hush-token");
    assert_eq!(ask(&[token]).status, 415);
    assert_eq!(ask(&[token, json]).status, 200);
    let exit = run(
        &[
            "explain",
            LIST,
            "--ask",
            "-c",
            larder.file().to_str().unwrap(),
        ],
        &[],
    );
    assert!(
        exit.status.success() && exit.output.contains("by the instance at"),
        "{exit:?}"
    );
}

#[test]
fn help_teaches_by_examples() {
    for name in ["explain", "doctor"] {
        let mut help = command(&[])
            .args([name, "--help"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        help.stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        help.wait().unwrap();
        assert!(
            text.contains("Examples:") && text.contains(&format!("larder {name} ")),
            "{text}"
        );
    }
}
