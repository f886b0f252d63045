//! `larder check --against`, and `shadow` in the file: what a proxy gives from its store beside what the API says.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use support::larder::{Exit, Larder, command, run};
use support::origin::{self, Origin};
use support::{Gate, PURGE, eventually, users_api};

const LIST: &str = "/api/users/";

/// An API of users with roles, and imports that add one; and the proxy before it, with this in its file.
struct World {
    api: Origin,
    larder: Larder,
}

impl World {
    fn with(change: impl Fn(String) -> String) -> World {
        let users = Arc::new(Mutex::new(BTreeMap::from([
            ("ada".to_owned(), "admin".to_owned()),
            ("linus".to_owned(), "student".to_owned()),
        ])));
        let api = Origin::start(move |request| {
            let mut users = users.lock().unwrap();
            if request.method != "GET" {
                let number = users.len();
                users.insert(format!("user{number}"), "student".to_owned());
                return origin::json("{}");
            }
            let role = request.parameter("role");
            let named: Vec<_> = users
                .iter()
                .filter(|(_, is)| role.is_none_or(|role| *is == role))
                .collect();
            origin::json(format!("{named:?}"))
        });
        let imports = "purge:\n  - {methods: POST, path: /api/imports/, keys: [\"users:list\"]}";
        let right = users_api(&api, "memory:", "").replace("purge:", imports);
        let larder = Larder::start(change(right));
        World { api, larder }
    }

    fn check(&self, targets: &[&str]) -> Exit {
        let (file, url) = (
            self.larder.file(),
            format!("http://{}", self.larder.address()),
        );
        let mut arguments = vec!["check", "-c", file.to_str().unwrap(), "--against", &url];
        arguments.extend(targets);
        run(&arguments, &[])
    }

    /// What happens in the life of it.
    fn live(&self) {
        for target in [LIST, "/api/users/?role=admin", "/api/users/?role=student"] {
            self.larder
                .request("GET", target, &[("Host", &self.host())], b"");
        }
        assert_eq!(self.larder.write("POST", "/api/imports/").status, 200);
        self.larder
            .request("GET", LIST, &[("Host", &self.host())], b"");
    }

    /// As the command names it.
    fn host(&self) -> String {
        self.larder.address().to_string()
    }
}

const ALL: [&str; 3] = [LIST, "/api/users/?role=admin", "/api/users/?role=student"];

#[test]
fn nothing_is_reported_where_the_file_is_right() {
    let world = World::with(|right| right);
    world.live();
    let exit = world.check(&ALL);
    assert!(exit.status.success(), "{exit:?}");
    assert!(
        exit.output
            .contains("route\t/api/users/ (users:list)\t3 same, 0 differ"),
        "{exit:?}"
    );
}

#[test]
fn an_address_where_no_larder_answers_is_no_success() {
    let world = World::with(|right| right);
    let file = world.larder.file();
    let (file, api) = (file.to_str().unwrap(), world.api.url());
    let exit = run(&["check", "-c", file, "--against", &api, LIST], &[]);
    assert_eq!(exit.status.code(), Some(1), "{exit:?}");
    assert!(exit.output.contains("no Larder answers at"), "{exit:?}");
}

#[test]
fn how_often_is_written_as_durations_are_in_the_file() {
    for (every, remedy) in [("5M", "`5m` for minutes"), ("5", "`5s` for seconds")] {
        let exit = run(
            &["check", "--against", "http://127.0.0.1:1", "--every", every],
            &[],
        );
        assert_eq!(exit.status.code(), Some(2), "{exit:?}");
        assert!(exit.output.contains(remedy), "{exit:?}");
    }
}

#[test]
fn a_missing_purge_rule_is_found() {
    let world = World::with(|right| {
        let rules = right.find("purge:").unwrap();
        format!("{}{PURGE}", &right[..rules])
    });
    world.live();
    let exit = world.check(&ALL);
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.output.contains("differs\t/api/users/\t"), "{exit:?}");
    assert!(
        exit.output.contains("differs\t/api/users/?role=student\t"),
        "{exit:?}"
    );
    assert!(
        exit.output.contains("same\t/api/users/?role=admin\n"),
        "{exit:?}"
    );
    assert!(exit.output.contains("under `purge`"), "{exit:?}");
}

#[test]
fn a_parameter_that_the_key_does_not_hold_is_found() {
    let world = World::with(|right| {
        right.replace(
            "key: users:list}",
            "key: users:list, query: {allow: [page], other: ignore}}",
        )
    });
    world.live();
    let exit = world.check(&ALL);
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.output.contains("same\t/api/users/\n"), "{exit:?}");
    assert!(
        exit.output
            .contains("route\t/api/users/ (users:list)\t1 same, 2 differ"),
        "{exit:?}"
    );
}

#[test]
fn what_is_not_given_from_the_store_or_differs_by_itself_is_no_difference() {
    let world = World::with(|right| right);
    let html = world.check(&["-H", "Accept: text/html", LIST]);
    assert!(html.status.success(), "{html:?}");
    assert!(html.output.contains("no hit\t/api/users/"), "{html:?}");
    drop(world);
    let api = Origin::start(|request| origin::json(request.number.to_string()));
    let larder = Larder::start(users_api(&api, "memory:", ""));
    let world = World { api, larder };
    let exit = world.check(&[]);
    assert!(exit.status.success(), "{exit:?}");
    assert!(exit.output.contains("unsteady\t/api/users/"), "{exit:?}");
    assert_eq!(world.api.count(), 3, "the fill, and twice beside it");
}

/// What is compared would be an answer that was fetched for the question.
#[test]
fn a_copy_of_another_host_is_not_said_to_be_the_same() {
    let world = World::with(|right| {
        let rules = right.find("purge:").unwrap();
        format!("{}{PURGE}", &right[..rules])
    });
    let clients = [("Host", "api.example.org")];
    world.larder.request("GET", LIST, &clients, b"");
    assert_eq!(world.larder.write("POST", "/api/imports/").status, 200);
    let exit = world.check(&["-H", "Host: api.example.org", LIST]);
    assert!(exit.output.contains("differs\t/api/users/\t"), "{exit:?}");
    let exit = world.check(&[LIST]);
    assert!(exit.output.contains("no hit\t/api/users/\t"), "{exit:?}");
    assert!(exit.output.contains("detail=other-origin"), "{exit:?}");
    assert!(exit.output.contains("-H 'Host: …'"), "{exit:?}");
}

/// Where a proxy before it says so.
#[test]
fn a_copy_that_was_asked_for_over_https_is_compared() {
    let world = World::with(|right| {
        let rules = right.find("purge:").unwrap();
        format!("trusted_proxies: [127.0.0.1]\n{}{PURGE}", &right[..rules])
    });
    let (host, https) = (world.host(), ("X-Forwarded-Proto", "https"));
    let clients = [("Host", host.as_str()), https];
    world.larder.request("GET", LIST, &clients, b"");
    assert_eq!(world.larder.write("POST", "/api/imports/").status, 200);
    let exit = world.check(&["-H", "X-Forwarded-Proto: https", LIST]);
    assert!(exit.output.contains("differs\t/api/users/\t"), "{exit:?}");
}

#[test]
fn an_answer_without_an_end_is_no_hit_and_is_not_waited_for() {
    let gate = Gate::new();
    let behind = gate.clone();
    let api = Origin::start(move |_| origin::events(&behind));
    let larder = Larder::start(users_api(&api, "memory:", ""));
    let world = World { api, larder };
    let exit = world.check(&[LIST]);
    assert!(exit.status.success(), "{exit:?}");
    assert!(exit.output.contains("no hit\t/api/users/\t"), "{exit:?}");
    gate.open();
}

#[test]
fn an_error_of_the_api_is_no_difference() {
    let status = Arc::new(AtomicU16::new(200));
    let now = status.clone();
    let api = Origin::start(move |_| match now.load(Ordering::Relaxed) {
        200 => origin::json("[]"),
        error => origin::status(error, "sorry"),
    });
    let larder = Larder::start(users_api(&api, "memory:", ""));
    let world = World { api, larder };
    assert!(world.check(&[LIST]).output.contains("same\t/api/users/"));
    for error in [500, 503, 429] {
        status.store(error, Ordering::Relaxed);
        let exit = world.check(&[LIST]);
        assert!(exit.status.success(), "{exit:?}");
        let line = format!("failed\t/api/users/\tthe API answers {error}");
        assert!(exit.output.contains(&line), "{exit:?}");
    }
}

/// Though the API encodes for who asks for it, and the proxy gives what it keeps.
#[test]
fn how_an_answer_is_encoded_is_no_difference() {
    let api = Origin::start(|request| match request.fields.get("Accept-Encoding") {
        Some(codings) if codings.contains("gzip") => {
            origin::json("encoded").field("Content-Encoding", "gzip")
        }
        _ => origin::json("[]"),
    });
    let larder = Larder::start(users_api(&api, "memory:", ""));
    let world = World { api, larder };
    let exit = world.check(&["-H", "Accept-Encoding: gzip, br", LIST]);
    assert!(exit.output.contains("same\t/api/users/"), "{exit:?}");
}

#[test]
fn again_and_again_goes_on_while_the_api_is_away() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    let api = Origin::start(move |_| match away.load(Ordering::Relaxed) {
        true => origin::hang_up(),
        false => origin::json("[]"),
    });
    let larder = Larder::start(users_api(&api, "memory:", ""));
    let (file, url) = (larder.file(), format!("http://{}", larder.address()));
    let mut watching = command(&[])
        .args(["check", "--against", &url, LIST, "--every", "10ms"])
        .args(["-c", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(watching.stderr.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "same\t/api/users/");
    is_away.store(true, Ordering::Relaxed);
    let complained =
        complaints.find(|line| line.as_ref().unwrap().contains("the API gives no answer"));
    assert!(complained.is_some());
    is_away.store(false, Ordering::Relaxed);
    let asked = api.count();
    eventually("the API is asked again", || api.count() > asked + 1);
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// Of the hits that were compared by the proxy itself, how many came to this.
fn compared(larder: &Larder, outcome: &str) -> u64 {
    let text = larder.admin("GET", "/metrics").text();
    let start = "larder_compared_hits_total{route=\"/api/users/\"";
    let of_it = text
        .lines()
        .find(|line| line.starts_with(start) && line.contains(&format!("outcome=\"{outcome}\"")));
    of_it.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

fn shadowed(file: String) -> String {
    format!("shadow: 100%\n{file}")
}

/// Asks once more for all of it, and waits until each hit is compared.
#[track_caller]
fn compare_all(world: &World) {
    for target in ALL {
        let before: u64 = OUTCOMES
            .iter()
            .map(|word| compared(&world.larder, word))
            .sum();
        let answer = world
            .larder
            .request("GET", target, &[("Host", &world.host())], b"");
        if answer.cache_status().contains("hit") {
            eventually("it is compared", || {
                OUTCOMES
                    .iter()
                    .map(|word| compared(&world.larder, word))
                    .sum::<u64>()
                    > before
            });
        }
    }
}

const OUTCOMES: [&str; 5] = ["same", "differs", "unsteady", "changed", "failed"];

#[test]
fn a_proxy_that_compares_its_hits_reports_nothing_where_the_file_is_right() {
    let world = World::with(shadowed);
    world.live();
    compare_all(&world);
    compare_all(&world);
    assert!(compared(&world.larder, "same") >= 4);
    for outcome in &OUTCOMES[1..] {
        assert_eq!(compared(&world.larder, outcome), 0, "{outcome}");
    }
    assert!(!world.larder.output().contains("is not what the API says"));
}

#[test]
fn it_finds_a_missing_purge_rule_and_says_where() {
    let world = World::with(|right| {
        let rules = right.find("purge:").unwrap();
        shadowed(format!("{}{PURGE}", &right[..rules]))
    });
    world.live();
    compare_all(&world);
    assert!(
        compared(&world.larder, "differs") >= 2,
        "the list, and that of students"
    );
    assert!(compared(&world.larder, "same") >= 1, "that of admins");
    eventually("it is in the log", || {
        let output = world.larder.output();
        let told = output
            .lines()
            .find(|line| line.contains("is not what the API says"));
        told.is_some_and(|line| line.contains("/api/users/"))
    });
}

#[test]
fn it_finds_a_parameter_that_the_key_does_not_hold() {
    let world = World::with(|right| {
        shadowed(right.replace(
            "key: users:list}",
            "key: users:list, query: {allow: [page], other: ignore}}",
        ))
    });
    world.live();
    compare_all(&world);
    assert!(compared(&world.larder, "differs") >= 2);
}

#[test]
fn an_api_that_answers_differently_each_time_or_not_at_all_is_no_difference() {
    let api = Origin::start(|request| match request.number {
        1..=3 => origin::json(request.number.to_string()),
        _ => origin::hang_up(),
    });
    let larder = Larder::start(shadowed(users_api(&api, "memory:", "")));
    larder.get(LIST);
    larder.get(LIST);
    eventually("it answers differently", || {
        compared(&larder, "unsteady") == 1
    });
    larder.get(LIST);
    eventually("it does not answer", || compared(&larder, "failed") == 1);
    assert_eq!(compared(&larder, "differs"), 0);
}

#[test]
fn a_hit_that_was_asked_for_on_a_condition_is_not_compared() {
    let api = Origin::start(|request| match request.fields.has("if-match") {
        true => origin::status(412, ""),
        false => origin::json("[]"),
    });
    let larder = Larder::start(shadowed(users_api(&api, "memory:", "")));
    larder.get(LIST);
    assert!(larder.get_with(LIST, &[("If-Match", "\"x\"")]).is_hit());
    assert!(larder.get(LIST).is_hit());
    eventually("the other one is compared", || {
        compared(&larder, "same") == 1
    });
    assert_eq!((api.count(), compared(&larder, "differs")), (2, 0));
}

#[test]
fn a_hit_is_compared_with_what_its_own_client_is_told() {
    let api = Origin::start(|request| {
        let who = request.fields.get("authorization").unwrap_or("nobody");
        origin::json(format!("\"{who}\""))
    });
    let larder = Larder::start(shadowed(users_api(&api, "memory:", "")));
    for who in ["Token a", "Token b", "Token a", "Token b"] {
        larder.request("GET", LIST, &[("Authorization", who)], b"");
    }
    eventually("both are compared", || compared(&larder, "same") == 2);
    assert_eq!(compared(&larder, "differs"), 0);
}
