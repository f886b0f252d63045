//! What scripts hold on to: `--json` of every command has one shape, errors have one, too, and completions and manual pages
//! name every command and option. docs/COMMANDS.md describes the shapes.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::binary::binary;
use support::client::Connection;
use support::larder::{Larder, command};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{free_port, users_api};

/// A run of the binary, its two outputs apart.
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], input: &[u8]) -> Run {
    let mut process = command(&[])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run larder");
    let mut stdin = process.stdin.take().unwrap();
    // It need not read what it is given.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = process.wait_with_output().expect("run larder");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Run {
        status: output.status.code().expect("it was not killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Run {
    /// The one document on standard output; nothing else is said.
    #[track_caller]
    fn told(&self) -> Value {
        assert_eq!(
            (self.status, self.stderr.as_str()),
            (0, ""),
            "{}",
            self.stdout
        );
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// One document a line.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        let line = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        self.stdout.lines().map(line).collect()
    }

    /// What standard error says: one line, with the exit status that the process has.
    #[track_caller]
    fn error(&self, kind: &str, status: i32) -> String {
        let told: Value = serde_json::from_str(&self.stderr)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stderr));
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert_eq!(
            (self.status, told["error"]["exit"].as_i64()),
            (status, Some(status.into()))
        );
        assert_eq!(told["error"]["kind"], kind, "{told}");
        assert_eq!(keys(&told), ["error"]);
        assert_eq!(keys(&told["error"]), ["exit", "kind", "message"]);
        told["error"]["message"]
            .as_str()
            .expect("a message")
            .to_owned()
    }
}

/// The names of an object's fields, sorted.
#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("{value} is no object"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn api() -> Origin {
    Origin::start(|request| match request.target.as_str() {
        "/api/users/9/" => origin::status(404, "{}"),
        _ => origin::json("[]"),
    })
}

#[test]
fn check_and_explain_say_it_as_json_without_connecting_to_anything() {
    let origin = api();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let yaml = users_api(&origin, "redis://:hunter2@127.0.0.1:1", "");
    std::fs::write(
        &file,
        format!("{yaml}  - {{methods: [PROPFIND], path: /x/, keys: [\"users:list\"]}}\n"),
    )
    .unwrap();
    let file = file.to_str().unwrap();

    let run_check = run(&["check", "--json", "-c", file], b"");
    let told = run_check.told();
    assert_eq!(
        keys(&told),
        [
            "admin",
            "canonical_origin",
            "credential_headers",
            "file",
            "hosts",
            "ignore_cookies",
            "listen",
            "methods",
            "purge",
            "routes",
            "store",
            "upstream",
            "warnings",
            "when_store_is_down"
        ]
    );
    assert_eq!(told["routes"][1]["key"], "users:detail:{id}");
    assert_eq!(told["routes"][0]["access"], "per-credential");
    assert_eq!(told["routes"][0]["ttl_seconds"], 3600.0);
    assert_eq!(
        told["purge"][0],
        json!({"methods": ["POST"], "path": "/api/users/", "keys": ["users:list"]})
    );
    assert_eq!(told["store"]["kind"], "redis");
    assert!(
        told["warnings"][0].as_str().unwrap().contains("PROPFIND"),
        "{told}"
    );
    assert!(!run_check.stdout.contains("hunter2"));

    let told = run(
        &["explain", "--json", "/api/users/?page=2", "-c", file],
        b"",
    )
    .told();
    assert_eq!(told["route"]["key"], "users:list");
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_wrong_file_and_a_wrong_command_line_are_json_too_with_the_same_exit_status() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, "listen: 127.0.0.1:8080\nlisten: 127.0.0.1:8081\n").unwrap();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 10] = [
        &["top"],
        &["check"],
        &["explain", "/api/users/"],
        &["doctor"],
        &["get", "users:list"],
        &["set", "users:list"],
        &["purge", "users:list"],
        &["keys"],
        &["warm"],
        &["health"],
    ];
    for command in commands {
        let wrong = run(&[command, &["--json", "-c", file]].concat(), b"[]");
        let why = wrong.error("config", 78);
        assert!(why.contains("proxy.yaml:2:1"), "{command:?}: {why}");
        assert_eq!(wrong.stdout, "", "{command:?}");
        let misused = run(&[command, &["--json", "--nonsense"]].concat(), b"");
        let why = misused.error("usage", 2);
        assert!(why.contains("--nonsense"), "{command:?}: {why}");
    }
    let reload = run(&["reload", "--json", "-c", file], b"");
    reload.error("config", 78);
    // Where nobody asks for JSON, people are told.
    let plain = run(&["keys", "--nonsense"], b"");
    assert_eq!(plain.status, 2);
    assert!(plain.stderr.starts_with("error:"), "{}", plain.stderr);
}

#[test]
fn where_nobody_answers_the_error_is_json() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let origin = api();
    let (listen, admin) = (free_port(), free_port());
    let yaml = users_api(&origin, "memory:", "");
    std::fs::write(
        &file,
        format!("listen: 127.0.0.1:{listen}\nadmin: 127.0.0.1:{admin}\n{yaml}"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 8] = [
        &["top"],
        &["get", "users:list"],
        &["set", "users:list"],
        &["purge", "users:list"],
        &["keys"],
        &["warm"],
        &["health"],
        &["reload"],
    ];
    for command in commands {
        let away = run(&[command, &["--json", "-c", file]].concat(), b"[]");
        let why = away.error("failed", 1);
        assert!(why.contains("no instance answers at"), "{command:?}: {why}");
        assert_eq!(away.stdout, "", "{command:?}");
    }
}

#[test]
fn of_an_instance_that_hangs_it_is_not_said_that_it_is_to_be_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let (listen, admin) = (free_port(), hangs.local_addr().unwrap().port());
    let yaml = users_api(&api(), "memory:", "");
    std::fs::write(
        &file,
        format!("listen: 127.0.0.1:{listen}\nadmin: 127.0.0.1:{admin}\n{yaml}"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let why = run(&["health", "--json", "-c", file], b"").error("failed", 1);
    assert!(why.contains("hangs") && !why.contains("start it"), "{why}");
}

#[test]
fn where_something_else_answers_nothing_is_said_to_be_done() {
    let (origin, other) = (api(), Origin::start(|_| origin::json("{}")));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let (admin, yaml) = (other.url(), users_api(&origin, "memory:", ""));
    let admin = admin.trim_start_matches("http://");
    std::fs::write(&file, format!("admin: {admin}\n{yaml}")).unwrap();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 8] = [
        &["get", "users:list"],
        &["set", "users:list"],
        &["purge", "users:list"],
        &["purge", "--credential", "-"],
        &["keys"],
        &["health"],
        &["health", "--ready"],
        &["reload"],
    ];
    for command in commands {
        let done = run(&[command, &["--json", "-c", file]].concat(), b"[]");
        let why = done.error("failed", 1);
        assert!(
            why.contains("is not Larder's `admin`"),
            "{command:?}: {why}"
        );
        assert_eq!(done.stdout, "", "{command:?}");
    }
}

#[test]
fn what_is_done_by_hand_is_said_as_json_over_either_store() {
    let redis = RedisServer::start();
    for store in ["memory:".to_owned(), redis.url()] {
        let origin = api();
        let larder = Larder::start(users_api(&origin, &store, ""));
        let file = larder.file().display().to_string();
        let json = |arguments: &[&str], input: &[u8]| {
            run(&[arguments, &["--json", "-c", &file]].concat(), input)
        };

        let told = json(&["set", "users:list"], b"[1]").told();
        assert_eq!(
            keys(&told),
            ["access", "given_to", "key", "ttl_seconds"],
            "{store}"
        );
        assert_eq!(
            (&told["key"], &told["ttl_seconds"]),
            (&json!("users:list"), &json!(3600))
        );
        assert_eq!(told["access"], "per-credential");

        let told = json(&["get", "users:list"], b"").told();
        assert_eq!(
            keys(&told),
            [
                "age_seconds",
                "body",
                "epochs",
                "fields",
                "key",
                "origin",
                "status",
                "ttl_seconds",
                "valid"
            ]
        );
        assert_eq!(
            (&told["body"], &told["valid"]),
            (&json!("[1]"), &json!(true))
        );

        let told = json(&["keys", "users:"], b"").told();
        assert_eq!(keys(&told), ["keys", "more"]);
        assert_eq!(told["more"], false, "{store}");
        let listed = told["keys"].as_array().unwrap();
        let list = listed
            .iter()
            .find(|key| key["key"] == "t:users:list")
            .expect("the copy");
        assert_eq!(keys(list), ["bytes", "key", "ttl_seconds"]);
        assert!(list["bytes"].as_u64() >= Some(3), "{list}");

        let told = json(&["purge", "users:list", "users:detail:*"], b"").told();
        assert_eq!(
            told,
            json!({"purged": ["users:list", "users:detail:*"], "soft": false}),
            "{store}"
        );
        let told = json(&["purge", "users:list", "--soft"], b"").told();
        assert_eq!(told, json!({"purged": ["users:list"], "soft": true}));
        let told = json(&["purge", "--credential", "-"], b"Authorization: Token t\n").told();
        assert_eq!(told, json!({"revoked": 1}));

        // Of what a purge has made invalid all is said, and that nobody is given it.
        json(&["set", "users:list"], b"[2]").told();
        json(&["get", "users:detail:7"], b"").error("failed", 1);
        json(&["get", "nobody:knows"], b"").error("failed", 1);
        let why = json(&["get", "t:users:list~state"], b"").error("failed", 1);
        assert!(why.contains("is no copy"), "{store}: {why}");
        json(&["set", "users:list"], b"no JSON").error("failed", 1);
        json(&["set", "users:list"], b"\"\xff\"").error("failed", 1);
        json(&["purge", "nobody:knows"], b"").error("failed", 1);
    }
}

#[test]
fn a_running_instance_is_asked_in_json() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let file = larder.file().display().to_string();
    let json = |arguments: &[&str]| run(&[arguments, &["--json", "-c", &file]].concat(), b"");

    let told = json(&["health", "--ready"]).told();
    assert_eq!(keys(&told), ["admin", "status", "told", "well"]);
    assert_eq!(
        (&told["well"], &told["status"]),
        (&json!(true), &json!(200))
    );
    assert_eq!(told["told"]["status"], "ready");

    let told = json(&["reload"]).told();
    assert_eq!(told, json!({"reloaded": true, "dropped": []}));

    let warmed = json(&["warm", "/api/users/", "/api/users/9/"]);
    warmed.error("failed", 1);
    let lines = warmed.lines();
    assert_eq!(lines.len(), 3, "{}", warmed.stdout);
    for line in &lines[..2] {
        assert_eq!(keys(line), ["cache_status", "kept", "status", "target"]);
    }
    assert_eq!(lines[2], json!({"kept": 1, "asked": 2}));

    let url = format!("http://{}", larder.address());
    let host = format!("Host: {}", larder.address());
    let told = json(&["check", "--against", &url, "-H", &host, "/api/users/"]);
    assert_eq!(told.status, 0, "{}", told.stderr);
    let lines = told.lines();
    assert_eq!(
        lines[0],
        json!({"target": "/api/users/", "route": "/api/users/ (users:list)", "result": "same"})
    );
    assert_eq!(
        lines[1],
        json!({"route": "/api/users/ (users:list)", "same": 1, "differ": 0})
    );

    let told = json(&["explain", "/api/users/", "--ask"]).told();
    assert!(told["found"].is_object(), "{told}");
    let doctor = json(&["doctor"]);
    let told: Value = serde_json::from_str(&doctor.stdout).expect("one document");
    assert_eq!(keys(&told), ["checks", "warnings", "wrong"]);
    assert_eq!(i32::from(told["wrong"] != 0), doctor.status);
}

/// Each command with its options, as `--help` names them.
fn commands() -> BTreeMap<String, Vec<String>> {
    let words = |text: &str, from: &str| -> Vec<String> {
        let (_, rest) = text.split_once(from).unwrap_or_default();
        let lines = rest
            .lines()
            .skip(1)
            .take_while(|line| line.is_empty() || line.starts_with(' '));
        lines.map(str::to_owned).collect()
    };
    let help = run(&["--help"], b"").stdout;
    let names = words(&help, "Commands:");
    let names = names
        .iter()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    names
        .filter(|name| name != "help")
        .map(|name| {
            let help = run(&[&name, "--help"], b"").stdout;
            let flags = words(&help, "Options:");
            let flags = flags
                .iter()
                .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
                .map(|flag| flag.trim_end_matches(',').to_owned())
                .collect();
            (name, flags)
        })
        .collect()
}

#[test]
fn each_command_teaches_itself_by_an_example() {
    let commands = commands();
    assert!(commands.len() >= 16, "{commands:?}");
    for name in commands.keys() {
        let help = run(&[name, "--help"], b"").stdout;
        assert!(
            help.contains("Example"),
            "larder {name} --help shows no example:\n{help}"
        );
        assert!(help.contains(&format!("larder {name}")), "{help}");
    }
}

#[test]
fn completions_are_there_for_each_shell_and_name_every_command_and_option() {
    let commands = commands();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell], b"");
        assert_eq!(script.status, 0, "{}", script.stderr);
        for (name, flags) in &commands {
            assert!(script.stdout.contains(name.as_str()), "{shell}: no {name}");
            for flag in flags {
                // fish writes `-l json`.
                let bare = flag.trim_start_matches('-');
                let named = script.stdout.contains(flag.as_str())
                    || script.stdout.contains(&format!("-l {bare}"));
                assert!(named, "{shell}: no {flag} of {name}");
            }
        }
    }
    assert_eq!(run(&["completions", "cmd"], b"").status, 2);
}

#[test]
fn bash_takes_its_completions_and_completes_a_command_by_them() {
    let script = run(&["completions", "bash"], b"").stdout;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("larder.bash");
    std::fs::write(&file, script).unwrap();
    let ask = "source \"$0\"; COMP_WORDS=(larder expl); COMP_CWORD=1; _larder larder expl larder; echo \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash")
        .args(["-c", ask])
        .arg(&file)
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "explain", "{output:?}");
}

#[test]
fn a_manual_page_is_written_for_each_command_and_names_its_options() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("man1");
    let written = run(&["man", place.to_str().unwrap()], b"");
    assert_eq!((written.status, written.stderr.as_str()), (0, ""));
    let page = |name: &str| {
        let path = place.join(name);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .replace("\\-", "-")
    };
    let whole = page("larder.1");
    for (name, flags) in &commands() {
        assert!(whole.contains(name.as_str()), "larder.1 has no {name}");
        let own = page(&format!("larder-{name}.1"));
        for flag in flags {
            assert!(own.contains(flag.as_str()), "larder-{name}.1 has no {flag}");
        }
        assert!(own.contains("Example"), "larder-{name}.1 shows no example");
    }
    assert_eq!(run(&["man", "/proc/none"], b"").status, 1);
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_without_a_word() {
    let mut process = command(&[])
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run larder");
    // More than a pipe holds is to come, and nobody reads it.
    drop(process.stdout.take());
    let output = process.wait_with_output().expect("run larder");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(141), ""));
}

#[test]
fn a_level_that_is_none_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let origin = api();
    let taken = origin.url().replace("http://", "");
    let yaml = users_api(&origin, "memory:", "").replace(&taken, "127.0.0.1:1");
    std::fs::write(&file, format!("listen: {taken}\nadmin: off\n{yaml}")).unwrap();
    let mut serve = command(&[]);
    serve.args(["serve", "-c", file.to_str().unwrap()]);
    let output = serve.env("RUST_LOG", "larder=loud").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("RUST_LOG is not heeded"), "{said}");
}

#[test]
fn a_log_on_a_terminal_is_without_colours_where_they_are_not_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let origin = api();
    let yaml = users_api(&origin, "redis://127.0.0.1:1", "");
    // It says that there is no store, and ends because it cannot listen there.
    let taken = origin.url().replace("http://", "");
    std::fs::write(
        &file,
        format!(
            "listen: {taken}\nadmin: off\n{}",
            yaml.replace(&taken, "127.0.0.1:1")
        ),
    )
    .unwrap();
    for (word, coloured) in [("1", false), ("", true)] {
        let line = format!(
            "exec '{}' serve -c '{}'",
            binary().display(),
            file.display()
        );
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("NO_COLOR", word)
            .stdin(Stdio::null())
            .output()
            .expect("script, of util-linux");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("store away"), "{said}");
        assert!(said.contains("cannot listen"), "{said}");
        assert_eq!(said.contains('\u{1b}'), coloured, "{said}");
    }
}

#[test]
fn what_cannot_be_written_out_was_not_done() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut process = command(&[]);
    let run = process.args(["completions", "bash"]);
    let output = run.stdout(full.expect("a full disk")).output();
    let output = output.expect("run larder");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("cannot write to standard output: No space left"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_key_that_no_path_leads_to_is_nothing_to_get_set_or_purge_by_hand() {
    let redis = RedisServer::start();
    for store in ["memory:".to_owned(), redis.url()] {
        let origin = api();
        let larder = Larder::start(users_api(&origin, &store, ""));
        let file = larder.file().display().to_string();
        for command in ["get", "set", "purge"] {
            for key in ["users:detail:07", "t:users:detail:me", "users:detail:7 "] {
                let done = run(&[command, key, "-c", &file], b"{}");
                assert_eq!(done.status, 1, "{store} {command} {key}: {}", done.stdout);
                let why = "no path of `/api/users/<int:id>/` leads to the key";
                assert!(
                    done.stderr.contains(why),
                    "{store} {command} {key}: {}",
                    done.stderr
                );
            }
        }
        assert_eq!(
            run(&["purge", "/api/users/07/", "-c", &file], b"").stdout,
            "purged users:detail:7\n"
        );
        // A program that names one among others is not kept from dropping these.
        let (fields, body) = (
            [("Content-Type", "application/json")],
            br#"{"keys": ["users:detail:me", "users:list"]}"#,
        );
        let mut admin = Connection::open(larder.admin_address());
        let told = admin.request("POST", "/purge", &fields, body);
        assert_eq!(told.status, 200, "{}", told.text());
        assert!(told.text().contains("users:list~state"), "{}", told.text());
    }
}

#[test]
fn the_keys_of_an_instance_are_listed_to_the_last() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    for id in 10..1_011 {
        larder.get(&format!("/api/users/{id}/"));
    }
    let file = larder.file().display().to_string();
    let listed = run(&["keys", "users:detail:", "-c", &file], b"");
    assert_eq!(listed.stdout.lines().count(), 1_001, "{}", listed.stderr);
    let told = run(&["keys", "--json", "-c", &file], b"").told();
    assert_eq!(told["keys"].as_array().map(Vec::len), Some(1_001));
}

#[test]
fn a_purge_of_another_store_than_the_instance_has_is_warned_of() {
    let (origin, redis) = (Origin::start(|_| origin::json("[]")), RedisServer::start());
    let larder = Larder::start(users_api(&origin, "${STORE:-memory:}", ""));
    larder.get("/api/users/");
    let file = larder.file();
    let purge = |store: Option<&str>| {
        let mut purge = command(&[]);
        purge.args(["purge", "users:list", "-c", file.to_str().unwrap()]);
        if let Some(store) = store {
            purge.env("STORE", store);
        }
        let output = purge.output().expect("run larder");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(purge(Some(&redis.url())).contains("keeps its copies in its own memory"));
    assert_eq!(purge(None), "");
    // Of the same Redis, too, another database or prefix is another store.
    let yaml = users_api(&origin, &redis.url(), "");
    let larder = Larder::start(yaml.replace("database: 1", "database: \"${DATABASE:-1}\""));
    let file = larder.file();
    let purge = |database: &str| {
        let mut purge = command(&[]);
        purge.args(["purge", "users:list", "-c", file.to_str().unwrap()]);
        let output = purge.env("DATABASE", database).output();
        String::from_utf8_lossy(&output.expect("run larder").stderr).into_owned()
    };
    let warned = purge("2");
    let why = "in database 1 under `t:`, not in database 2 under `t:`";
    assert!(warned.contains(why), "{warned}");
    assert_eq!(purge("1"), "");
}
