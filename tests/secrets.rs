//! What is secret stays so: no output of any kind holds the store's password, a token or a cookie,
//! not even with every log line on.

mod support;

use std::process::{Command, Stdio};

use support::client::Connection;
use support::larder::{Larder, binary, run};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::users_api;

const STORE_PASSWORD: &str = "store-p4ssw0rd-9f3a";
const ADMIN_TOKEN: &str = "admin-t0ken-7c1e-of-32-characters";
const OTHERS: [&str; 9] = [
    "auth0rization-5d2b",
    "api-k3y-8e4f",
    "auth-t0ken-1a9c",
    "sessi0n-cookie-6b7d",
    "csrf-c00kie-3e5a",
    "pr0xy-auth-2c8e",
    "set-c00kie-4f6b",
    "query-s3cret-0d7a",
    "b0dy-secret-5b9f",
];

#[test]
fn no_output_of_any_kind_holds_a_secret() {
    for user in [Some("larder"), None] {
        let builder = match user {
            Some(name) => RedisServer::builder().user(name, STORE_PASSWORD),
            None => RedisServer::builder().password(STORE_PASSWORD),
        };
        let mut redis = builder.start();
        let origin = Origin::start(|request| {
            let answer =
                origin::json("{}").field("Set-Cookie", &format!("sessionid={}", OTHERS[6]));
            if request.target.contains("cookie") {
                answer
            } else {
                answer.without("Set-Cookie")
            }
        });
        let yaml = users_api(
            &origin,
            "${REDIS_URL}",
            "admin_token: ${ADMIN_TOKEN}\nlogs: {format: json}",
        );
        let url = redis.url();
        let environment = [
            ("REDIS_URL", url.as_str()),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            ("RUST_LOG", "trace"),
        ];
        let mut larder = Larder::with(yaml.clone());
        for (name, value) in environment {
            larder = larder.env(name, value);
        }
        let larder = larder.start();
        let file = larder.file().to_str().unwrap().to_owned();
        let mut output = String::new();

        let ask = |target: &str, method: &str| {
            let cookie = format!("sessionid={}; csrftoken={}", OTHERS[3], OTHERS[4]);
            let fields = [
                ("Authorization", format!("Token {}", OTHERS[0])),
                ("X-Api-Key", OTHERS[1].to_owned()),
                ("X-Auth-Token", OTHERS[2].to_owned()),
                ("Cookie", cookie),
                ("Proxy-Authorization", format!("Basic {}", OTHERS[5])),
                ("Content-Type", "application/json".to_owned()),
            ];
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            larder.request(
                method,
                target,
                &fields,
                if method == "GET" {
                    b""
                } else {
                    OTHERS[8].as_bytes()
                },
            )
        };
        let everything = || {
            for target in [
                "/api/users/",
                "/api/users/7/",
                "/api/users/?cookie=1",
                "/other/",
            ] {
                let with_query = format!(
                    "{target}{}token={}",
                    if target.contains('?') { "&" } else { "?" },
                    OTHERS[7]
                );
                for target in [target, &with_query] {
                    for method in ["GET", "GET", "HEAD", "PATCH", "POST", "DELETE", "BREW"] {
                        ask(target, method);
                    }
                }
            }
            Connection::open(larder.address()).request(
                "GET",
                "/api/users/",
                &[("Authorization", OTHERS[0]), ("Host", "a b")],
                b"",
            );
        };
        everything();
        let bearer = [("Authorization", format!("Bearer {ADMIN_TOKEN}"))];
        let bearer = [(bearer[0].0, bearer[0].1.as_str())];
        let keys = Connection::open(larder.admin_address())
            .request("GET", "/keys", &bearer, b"")
            .text();
        assert!(keys.contains("t:users:list"), "{keys}");
        for target in [
            "/healthz",
            "/readyz",
            "/entries/users:list",
            "/entries/users:detail:7",
            "/metrics",
            "/overview",
            "/families",
            "/purges",
            "/nothing",
        ] {
            output += &Connection::open(larder.admin_address())
                .request("GET", target, &bearer, b"")
                .text();
        }
        output += &keys;
        let token = format!("Authorization: Token {}", OTHERS[0]);
        let cookie = format!("Cookie: sessionid={}; csrftoken={}", OTHERS[3], OTHERS[4]);
        let fields = ["-H", &token, "-H", &cookie];
        let explain = [&["explain", "/api/users/"], &fields[..]].concat();
        let ask = [&["explain", "/api/users/?cookie=1", "--ask"], &fields[..]].concat();
        let doctor = ["--path", "/api/users/7/", "--path", "/api/users/?cookie=1"];
        let doctor = [&["doctor"], &doctor[..], &fields[..]].concat();
        for command in [
            &["check"][..],
            &["keys"],
            &["get", "users:list"],
            &explain,
            &ask,
            &doctor,
            &[&doctor[..], &["--json"]].concat(),
            &["purge", "users:list"],
            &["health"],
            &["purge", "--all"],
        ] {
            output += &run(&[command, &["-c", &file]].concat(), &environment).output;
        }

        // And while things go wrong, which is when most is said.
        redis.kill();
        everything();
        for command in [
            &["check"][..],
            &["keys"],
            &["get", "users:list"],
            &ask,
            &doctor,
            &["purge", "users:list"],
            &["health"],
        ] {
            output += &run(&[command, &["-c", &file]].concat(), &environment).output;
        }
        output += &Connection::open(larder.admin_address())
            .request("GET", "/readyz", &[], b"")
            .text();
        redis.start_again();
        everything();
        for key in redis.keys() {
            output += &format!("{key}\n");
        }
        larder.terminate();
        let log = larder.exit().output;
        assert!(
            log.contains("/api/users/7/") && log.contains("\"status\":200"),
            "the control: no request is in the log\n{log}"
        );
        output += &log;

        holds_no_secret(&output);
    }
}

#[test]
fn no_complaint_about_the_configuration_holds_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let url = format!("redis://larder:{STORE_PASSWORD}@127.0.0.1:1");
    for store in [
        // Each has something wrong beside, before or within the secret.
        format!("store: {{url: \"{url}/x\"}}"),
        format!("store: {{url: \"{url}:2\"}}"),
        format!("store: {{ulr: \"{url}\"}}"),
        format!("store: {{url: \"{}\"}}", url.replace("redis:", "reddis:")),
        format!("store: {{url: \"redis://larder:{STORE_PASSWORD}@\"}}"),
        format!("store: {{url: \"redis://larder:{STORE_PASSWORD}@ho st\"}}"),
        format!("store: {{url: \"{url}\", database: {STORE_PASSWORD}}}"),
        format!("store: {{url: \"{url}\", timeout: 1parsec}}"),
        format!("store: {{url: [\"{url}\"]}}"),
        format!("store: \"{url}\""),
        format!("store: {{url: \"{url}\", password: {STORE_PASSWORD}}}"),
        format!("store: {{url: \"{url}\"}}\nadmin_token: [{ADMIN_TOKEN}]"),
        format!("store: {{url: \"{url}\"}}\nadmin_tokn: {ADMIN_TOKEN}"),
        format!("store: {{url: \"{url}\"}}\nadmin_token: \"{ADMIN_TOKEN}\u{e9}\""),
        "store: {url: \"${REDIS_URL}/x\"}\nadmin_token: \"${ADMIN_TOKEN} \\n x\"".to_owned(),
        "store: {url: \"x${REDIS_URL}\"}".to_owned(),
        "store: {url: memory:, database: \"${REDIS_URL}\"}".to_owned(),
    ] {
        std::fs::write(&file, format!("upstream: http://127.0.0.1:1\n{store}\n")).unwrap();
        for command in ["check", "serve", "keys"] {
            let exit = run(
                &[command, "-c", file.to_str().unwrap()],
                &[
                    ("REDIS_URL", &url),
                    ("ADMIN_TOKEN", ADMIN_TOKEN),
                    ("RUST_LOG", "trace"),
                ],
            );
            assert_eq!(exit.status.code(), Some(78), "{command} {store}: {exit:?}");
            holds_no_secret(&exit.output);
        }
    }
}

#[test]
fn what_is_set_by_hand_is_not_repeated_in_the_log() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::with(users_api(&origin, &redis.url(), ""))
        .env("RUST_LOG", "trace")
        .start();
    let mut process = Command::new(binary())
        .args(["set", "users:list", "-c", larder.file().to_str().unwrap()])
        .env("RUST_LOG", "trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let body = format!("{{\"secret\":\"{}\"}}", OTHERS[8]);
    std::io::Write::write_all(&mut process.stdin.take().unwrap(), body.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer = larder.get("/api/users/");
    assert!(answer.is_hit() && answer.text() == body, "{answer:?}");
    holds_no_secret(&String::from_utf8_lossy(
        &[output.stdout, output.stderr].concat(),
    ));
    larder.terminate();
    holds_no_secret(&larder.exit().output);
}

#[track_caller]
fn holds_no_secret(output: &str) {
    for secret in OTHERS.iter().chain([&STORE_PASSWORD, &ADMIN_TOKEN]) {
        if let Some(line) = output.lines().find(|line| line.contains(secret)) {
            panic!("{secret} is in the output:\n{line}");
        }
    }
}
