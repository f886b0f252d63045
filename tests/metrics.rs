//! What is counted and what is logged: the names, the words, and that neither ever holds what a client says.

mod support;

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use support::client::{Answer, Connection, head};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{Gate, eventually, told_of_everything, users_api};

const LIST: &str = "/api/users/";
const ROUTE: &str = "/api/users/<int:id>/";

fn api() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

fn json_logs(origin: &Origin, store: &str) -> String {
    users_api(origin, store, "logs: {format: json}")
}

fn scrape(larder: &Larder) -> String {
    larder.admin("GET", "/metrics").text()
}

/// The sum over all series of a name that have these labels.
fn total(larder: &Larder, name: &str, labels: &[(&str, &str)]) -> f64 {
    let text = scrape(larder);
    let labels = labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    let samples = text.lines().filter(|line| {
        let of_it = line.split(['{', ' ']).next() == Some(name);
        of_it && labels.iter().all(|label| line.contains(label))
    });
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// The event of a request, once it is there.
#[track_caller]
fn event(larder: &Larder, path: &str) -> Value {
    let mut found = None;
    eventually("the request is in the log", || {
        let output = larder.output();
        found = output.lines().rev().find_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["target"] == "larder::access" && event["path"] == path).then_some(event)
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn the_text_is_openmetrics_and_its_names_are_as_prometheus_asks() {
    let (origin, redis) = (api(), RedisServer::start());
    for store in ["memory:", &redis.url()] {
        let larder = Larder::start(users_api(&origin, store, ""));
        for target in [LIST, LIST, "/api/users/7/", "/other/"] {
            larder.get(target);
        }
        larder.write("PATCH", "/api/users/7/");
        let answer = larder.admin("GET", "/metrics");
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.field("content-type"), Some(kind));
        is_openmetrics(&answer.text());
    }
}

fn is_openmetrics(text: &str) {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut types: HashMap<&str, &str> = HashMap::new();
    let mut buckets: HashMap<String, f64> = HashMap::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} is declared twice");
            let ours = name.starts_with("larder_") || name.starts_with("process_");
            assert!(ours, "{name}");
            continue;
        }
        if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').unwrap();
            assert!(name.ends_with(unit), "{line}");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap();
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value >= 0.0, "{line}");
        let suffixes = ["_total", "_bucket", "_sum", "_count", "_info", ""];
        let declared = suffixes.iter().find_map(|suffix| {
            let of = name.strip_suffix(suffix)?;
            types.get(of).map(|kind| (*kind, *suffix))
        });
        match declared {
            Some(("counter", "_total") | ("gauge", "") | ("info", "_info")) => {}
            Some(("histogram", "_sum")) => {}
            Some(("histogram", "_bucket")) => {
                let (before, rest) = line.split_once("le=\"").unwrap();
                let (_, rest) = rest.split_once('"').unwrap();
                let labels = rest.rsplit_once(' ').unwrap().0.trim_start_matches(',');
                let series = format!("{before}{labels}");
                let below = buckets.insert(series, value).unwrap_or_default();
                assert!(value >= below, "a bucket holds those before it: {line}");
            }
            Some(("histogram", "_count")) => {}
            other => panic!("{line}: {other:?}"),
        }
    }
    // The last bucket is +Inf, and so the count.
    for (series, last) in buckets {
        let series = series.replace("_bucket{", "_count{").replace("{}", "");
        let count = format!("{series} {last}");
        assert!(text.lines().any(|line| line == count), "{count}");
    }
}

#[test]
fn the_documentation_names_what_is_counted_and_nothing_else() {
    let (origin, redis) = (api(), RedisServer::start());
    let mut counted = BTreeSet::new();
    for file in told_of_everything(&origin, &redis.url()) {
        let text = scrape(&Larder::start(file));
        let declared = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        counted.extend(declared.map(|line| line.split(' ').next().unwrap().to_owned()));
    }
    let documented: BTreeSet<String> = include_str!("../docs/METRICS.md")
        .lines()
        .filter(|line| line.starts_with("| `larder_") || line.starts_with("| `process_"))
        .flat_map(|line| {
            line.split('|')
                .nth(1)
                .unwrap()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, counted);
}

#[test]
fn labels_are_patterns_and_words_however_many_things_clients_ask_for() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let ask = |n: usize| {
        let mut client = larder.connect();
        let secret = format!("marker{n}");
        let fields = [
            ("Authorization", secret.as_str()),
            ("X-Request-Id", secret.as_str()),
        ];
        client.request("GET", &format!("/api/users/{n}/"), &fields, b"");
        client.request("GET", &format!("/api/users/?q={secret}"), &fields, b"");
        client.request("GET", &format!("/marker/{n}/"), &fields, b"");
        client.request("PATCH", &format!("/api/users/{n}/"), &fields, b"{}");
    };
    ask(0);
    let before = scrape(&larder);
    (1..100).for_each(ask);
    let after = scrape(&larder);
    assert_eq!(before.lines().count(), after.lines().count());
    assert!(!after.contains("marker"), "{after}");
}

#[test]
fn a_hit_a_miss_and_a_write_are_counted_where_they_belong() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let requests = "larder_requests_total";
    let hits = [("route", ROUTE), ("cache", "hit"), ("status", "2xx")];
    larder.get("/api/users/7/");
    for n in 1..=5 {
        assert!(larder.get("/api/users/7/").is_hit());
        assert_eq!(total(&larder, requests, &hits), f64::from(n));
    }
    let miss = [
        ("route", ROUTE),
        ("cache", "uri-miss"),
        ("detail", "absent"),
    ];
    assert_eq!(total(&larder, requests, &miss), 1.0);
    let took = "larder_request_duration_seconds_count";
    assert_eq!(
        total(&larder, took, &[("route", ROUTE), ("hit", "true")]),
        5.0
    );
    assert_eq!(
        total(&larder, took, &[("route", ROUTE), ("hit", "false")]),
        1.0
    );
    assert_eq!(total(&larder, "larder_stored_responses_total", &[]), 1.0);
    larder.write("PATCH", "/api/users/7/");
    assert_eq!(total(&larder, requests, &[("cache", "method")]), 1.0);
    assert_eq!(
        total(&larder, "larder_purges_total", &[("cause", "write")]),
        1.0
    );
    assert_eq!(
        total(
            &larder,
            "larder_upstream_responses_total",
            &[("status", "2xx")]
        ),
        2.0
    );
    assert_eq!(total(&larder, "larder_memory_copies", &[]), 1.0);
    let open = "larder_client_connections";
    eventually("no connection is open", || total(&larder, open, &[]) == 0.0);
    let client = larder.connect();
    eventually("one is", || total(&larder, open, &[]) == 1.0);
    drop(client);
    eventually("and is not any more", || total(&larder, open, &[]) == 0.0);
    assert!(total(&larder, "larder_memory_used_bytes", &[]) > 100.0);
}

/// To Prometheus a series that begins at 1 has not risen, and one that is not there is below nothing: no alert would tell of the first
/// difference, nor of a route that has had no hit since it was restarted.
#[test]
fn what_an_alert_asks_for_is_counted_from_the_start() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", "shadow: 1%"));
    let text = scrape(&larder);
    let failures = "larder_upstream_failures_total{reason=\"connect-failed\"} 0";
    assert!(text.contains(failures), "no {failures} in {text}");
    for route in [LIST, ROUTE] {
        for series in [
            format!(
                "larder_requests_total{{route=\"{route}\",cache=\"hit\",detail=\"-\",status=\"2xx\"}} 0"
            ),
            format!("larder_compared_hits_total{{route=\"{route}\",outcome=\"differs\"}} 0"),
            format!(
                "larder_stale_responses_total{{route=\"{route}\",detail=\"stale-if-error\"}} 0"
            ),
        ] {
            assert!(text.contains(&series), "no {series} in {text}");
        }
    }
}

/// They take no place of `max_connections`, and nobody would see how many there are.
#[test]
fn event_streams_are_counted_while_they_are_read() {
    let gate = Gate::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |_| origin::events(&gate)
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let streams = || total(&larder, "larder_upstream_event_streams", &[]);
    assert_eq!(streams(), 0.0);
    let readers = [(); 2].map(|()| {
        let mut reader = larder.connect();
        reader.send(head("GET", LIST, &[], None).as_bytes());
        assert_eq!(reader.try_head("GET").unwrap().status, 200);
        reader
    });
    assert_eq!(streams(), 2.0);
    assert_eq!(total(&larder, "larder_upstream_in_flight", &[]), 0.0);
    let [first, second] = readers;
    drop(first);
    eventually("who has left is not counted", || streams() == 1.0);
    gate.open();
    eventually("nor what is at its end", || streams() == 0.0);
    drop(second);
}

#[test]
fn what_is_under_way_and_shared_is_counted() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |_| origin::json("[]").behind(&held));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let address = larder.address();
    let readers: Vec<_> = (0..3)
        .map(|_| std::thread::spawn(move || Connection::open(address).get(LIST)))
        .collect();
    let writer = std::thread::spawn(move || {
        Connection::open(address).request("PATCH", "/api/users/7/", &[], b"{}")
    });
    // Two fetches, if one has left before the write and another comes after.
    eventually("a fetch and a write are under way", || {
        total(&larder, "larder_upstream_in_flight", &[]) >= 2.0
            && total(&larder, "larder_writes_in_flight", &[]) == 1.0
    });
    gate.open();
    let readers = readers.into_iter();
    let collapsed = readers
        .map(|reader| reader.join().unwrap())
        .filter(|answer: &Answer| answer.cache_status().contains("collapsed"));
    let collapsed = collapsed.count() as f64;
    writer.join().unwrap();
    assert_eq!(
        total(&larder, "larder_collapsed_requests_total", &[]),
        collapsed
    );
    eventually("nothing is under way", || {
        total(&larder, "larder_upstream_in_flight", &[]) == 0.0
            && total(&larder, "larder_writes_in_flight", &[]) == 0.0
    });
}

#[test]
fn a_store_that_goes_away_is_counted_and_what_it_is_owed() {
    let (origin, mut redis) = (api(), RedisServer::start());
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    let state = |state: &str| total(&larder, "larder_store_state", &[("state", state)]);
    larder.get(LIST);
    assert_eq!((state("up"), state("down")), (1.0, 0.0));
    let look_ups = [("command", "look-up")];
    assert!(
        total(
            &larder,
            "larder_store_command_duration_seconds_count",
            &look_ups
        ) >= 1.0
    );
    redis.kill();
    eventually("it is noticed", || state("down") == 1.0);
    assert_eq!(state("up"), 0.0);
    assert_eq!(total(&larder, "larder_store_losses_total", &[]), 1.0);
    larder.get(LIST);
    larder.write("PATCH", "/api/users/7/");
    assert!(total(&larder, "larder_journal_purges", &[]) > 0.0);
    assert_eq!(
        total(&larder, "larder_purges_total", &[("cause", "owed")]),
        1.0
    );
    redis.start_again();
    eventually("it is paid", || {
        state("up") == 1.0 && total(&larder, "larder_journal_purges", &[]) == 0.0
    });
    assert_eq!(total(&larder, "larder_store_connects_total", &[]), 2.0);
}

#[test]
fn an_api_that_gives_no_answer_is_counted_by_its_reason() {
    let mut origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    origin.stop();
    larder.get(LIST);
    let failed = [("reason", "connect-failed")];
    assert_eq!(
        total(&larder, "larder_upstream_failures_total", &failed),
        1.0
    );
    let own = [
        ("cache", "own"),
        ("detail", "connect-failed"),
        ("status", "5xx"),
    ];
    assert_eq!(total(&larder, "larder_requests_total", &own), 1.0);
}

#[test]
fn a_client_that_breaks_off_its_upload_is_no_failure_of_the_api() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut client = larder.connect();
    client.send(head("POST", LIST, &[], Some(1_000_000)).as_bytes());
    client.send(&[b'x'; 100_000]);
    origin.wait_for(1);
    drop(client);
    let broken = [("cache", "own"), ("detail", "content")];
    eventually("the request is counted", || {
        total(&larder, "larder_requests_total", &broken) == 1.0
    });
    assert_eq!(total(&larder, "larder_upstream_failures_total", &[]), 0.0);
}

#[test]
fn a_client_that_leaves_before_its_answer_is_counted_and_logged() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |_| origin::json("[]").behind(&held));
    let larder = Larder::start(json_logs(&origin, "memory:"));
    for (target, route) in [("/api/users/7/", ROUTE), ("/about/", "-")] {
        let asked = origin.count();
        let mut client = larder.connect();
        client.send(head("GET", target, &[], None).as_bytes());
        origin.wait_for(asked + 1);
        drop(client);
        let event = event(&larder, target);
        assert_eq!(
            (&event["status"], &event["cache"], &event["detail"]),
            (&499.into(), &"own".into(), &"client-left".into()),
            "{event}"
        );
        assert_eq!(event["route"], route);
        let left = [
            ("route", route),
            ("detail", "client-left"),
            ("status", "4xx"),
        ];
        assert_eq!(total(&larder, "larder_requests_total", &left), 1.0);
    }
    gate.open();
    assert_eq!(larder.get("/api/users/8/").status, 200);
    let left = [("detail", "client-left")];
    assert_eq!(total(&larder, "larder_requests_total", &left), 2.0);
}

#[test]
fn the_metrics_ask_for_the_token() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", "admin_token: hush"));
    assert_eq!(larder.admin("GET", "/metrics").status, 401);
    let mut admin = Connection::open(larder.admin_address());
    let token = [("Authorization", "Bearer hush")];
    assert_eq!(admin.request("GET", "/metrics", &token, b"").status, 200);
}

#[test]
fn without_an_operators_listener_requests_are_answered_all_the_same() {
    let origin = api();
    let yaml = users_api(&origin, "memory:", "");
    let port = support::free_port();
    let yaml = format!("listen: 127.0.0.1:{port}\nadmin: off\n{yaml}");
    let mut process = support::larder::command(&[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, yaml).unwrap();
    process.args(["serve", "-c", file.to_str().unwrap()]);
    let quiet = std::process::Stdio::null;
    let mut process = process.stdout(quiet()).stderr(quiet()).spawn().unwrap();
    let address = ([127, 0, 0, 1], port).into();
    eventually("it answers", || {
        let client = Connection::try_open(address);
        client.is_ok_and(|mut client| client.get(LIST).is_hit())
    });
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_request_has_one_id_in_the_log_at_the_api_and_in_its_answer() {
    let origin = api();
    let larder = Larder::start(json_logs(&origin, "memory:"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let fields = [
        ("X-Request-Id", "from-nginx-1"),
        ("traceparent", parent.as_str()),
    ];
    // What is passed on keeps it, and its trace.
    let answer = larder.request("GET", "/other/?token=hush", &fields, b"");
    assert_eq!(answer.field("x-request-id"), Some("from-nginx-1"));
    let passed = origin.last().fields;
    assert_eq!(passed.get("x-request-id"), Some("from-nginx-1"));
    assert_eq!(passed.get("traceparent"), Some(parent.as_str()));
    let event_of_it = event(&larder, "/other/");
    assert_eq!(event_of_it["id"], "from-nginx-1");
    assert_eq!(event_of_it["trace"], trace);
    assert_eq!(event_of_it["bytes"], 2);
    assert!(event_of_it["upstream_ms"].as_f64().unwrap() > 0.0);
    assert!(!larder.output().contains("hush"));

    // One is made where there is none, or none that can stand in a log.
    for fields in [&[][..], &[("X-Request-Id", "a {b}\"c")]] {
        let answer = larder.request("PATCH", "/api/users/7/", fields, b"{}");
        let id = answer.field("x-request-id").unwrap();
        assert!(id.len() >= 16 && !id.contains('{'), "{id}");
        assert_eq!(origin.last().fields.get("x-request-id"), Some(id));
        let mut logged = Value::Null;
        eventually("it is logged under that id", || {
            logged = event(&larder, "/api/users/7/");
            logged["id"] == id
        });
        let purges: Value = serde_json::from_str(&larder.admin("GET", "/purges").text()).unwrap();
        assert_eq!(purges["purges"][0]["write"]["request_id"], id);
        assert_eq!(purges["purges"][0]["write"]["rules"][0], "purge[1]");
    }
}

#[test]
fn a_fill_is_not_called_what_a_client_says_as_its_answer_is_for_others() {
    // An API that repeats the id, as many do.
    let origin = Origin::start(|request| {
        let id = request.fields.get("x-request-id").unwrap_or("none");
        origin::json("[]").field("X-Request-Id", id)
    });
    let larder = Larder::start(json_logs(&origin, "memory:"));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = [("X-Request-Id", "mine"), ("traceparent", parent)];
    let answer = larder.get_with(LIST, &fields);
    assert_eq!(answer.fields.all("x-request-id"), ["mine"]);
    let fill = origin.last().fields;
    let of_fill = fill.get("x-request-id").unwrap();
    assert_ne!(of_fill, "mine");
    assert!(!fill.has("traceparent"));
    assert_eq!(event(&larder, LIST)["fill_id"], of_fill);
    let other = larder.get(LIST);
    assert!(other.is_hit());
    let [id] = other.fields.all("x-request-id")[..] else {
        panic!("{:?}", other.fields);
    };
    assert!(
        id != "mine" && id != of_fill,
        "each request has its own: {id}"
    );
}

#[test]
fn a_request_that_is_known_by_its_bytes_is_counted_and_logged_as_any_other() {
    let origin = Origin::start(|_| origin::json("[]").field("X-Request-Id", "the API's own"));
    let redis = RedisServer::start();
    for store in ["memory:", &redis.url()] {
        let larder = Larder::with(json_logs(&origin, store))
            .env("RUST_LOG", "trace")
            .start();
        let mut client = larder.connect();
        let mut ids = Vec::new();
        eventually("it is known", || {
            let answer = client.get("/api/users/7/");
            let [id] = answer.fields.all("x-request-id")[..] else {
                panic!("{:?}", answer.fields);
            };
            ids.push(id.to_owned());
            larder.output().contains("known again")
        });
        let requests = ids.len();
        eventually("all are logged", || {
            let output = larder.output();
            ids.iter().all(|id| output.contains(id.as_str()))
        });
        let logged = event(&larder, "/api/users/7/");
        assert_eq!(
            (&logged["cache"], &logged["bytes"]),
            (&"hit".into(), &2.into())
        );
        assert!(
            logged["store_ms"].as_f64().is_some_and(|ms| ms > 0.0),
            "{logged}"
        );
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), requests, "each has an id of its own");
        let counted = total(&larder, "larder_requests_total", &[("route", ROUTE)]);
        assert_eq!(counted, requests as f64);

        // The client's own id is in its bytes.
        let fields = [("X-Request-Id", "from-nginx")];
        for _ in 0..8 {
            let answer = client.request("GET", "/api/users/7/", &fields, b"");
            assert_eq!(answer.fields.all("x-request-id"), ["from-nginx"]);
        }
    }
}

#[test]
fn without_an_access_log_no_id_is_made() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", "logs: {access: false}"));
    assert_eq!(larder.get(LIST).field("x-request-id"), None);
    assert_eq!(larder.get(LIST).field("x-request-id"), None);
    let sent = [("X-Request-Id", "from-nginx")];
    larder.request("POST", "/other/", &sent, b"{}");
    assert_eq!(origin.last().fields.get("x-request-id"), Some("from-nginx"));
}

#[test]
fn what_was_dropped_lately_is_told_with_its_cause() {
    let origin = Origin::start(|request| match request.method.as_str() {
        "DELETE" => origin::status(503, "{}"),
        "PUT" => origin::status(403, "{}"),
        _ => origin::json("[]"),
    });
    let larder = Larder::start(json_logs(&origin, "memory:"));
    larder.write("POST", LIST);
    larder.write("DELETE", "/api/users/7/");
    larder.write("PUT", "/api/users/7/");
    larder.purge(&["users:list"]);
    larder.purge_softly(&["users:detail:*"]);
    let told: Value = serde_json::from_str(&larder.admin("GET", "/purges").text()).unwrap();
    let purges = told["purges"].as_array().unwrap();
    let causes: Vec<&str> = purges
        .iter()
        .map(|one| one["cause"].as_str().unwrap())
        .collect();
    assert_eq!(causes, ["operator-soft", "operator", "ambiguous", "write"]);
    assert_eq!(purges[0]["states"][0], "users:detail~all");
    assert_eq!(purges[3]["states"][0], "users:list~state");
    assert_eq!(purges[3]["write"]["method"], "POST");
    for cause in causes {
        assert_eq!(
            total(&larder, "larder_purges_total", &[("cause", cause)]),
            1.0
        );
        let logged = format!("\"cause\":\"{cause}\"");
        eventually("each is an event, too", || {
            larder.output().contains(&logged)
        });
    }
    let few: Value = serde_json::from_str(&larder.admin("GET", "/purges?limit=1").text()).unwrap();
    assert_eq!(few["purges"].as_array().unwrap().len(), 1);
}
