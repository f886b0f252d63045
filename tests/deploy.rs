//! deploy/: what stands there parses, fits together, and is what the binary and the Dockerfile expect.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_yaml::Value;
use support::larder::{Larder, binary, run};
use support::origin::{self, Origin};
use support::redis::RedisServer;

const PROXY_YAML: &str = include_str!("../deploy/proxy.yaml");
const DOCKERFILE: &str = include_str!("../Dockerfile");

#[test]
fn the_containers_file_is_the_shipped_one_but_for_its_listeners() {
    let from_upstream = |yaml: &'static str| &yaml[yaml.find("\nupstream:").unwrap()..];
    assert_eq!(
        from_upstream(PROXY_YAML),
        from_upstream(include_str!("../proxy.yaml"))
    );
}

#[test]
fn the_containers_file_passes_check_and_asks_for_a_token() {
    let file = deploy("proxy.yaml");
    let check = ["check", "-c", file.to_str().unwrap()];
    let with = run(&check, &[("ADMIN_TOKEN", "a-long-random-word")]);
    assert!(with.status.success(), "{with:?}");
    let without = run(&check, &[]);
    assert_eq!(without.status.code(), Some(78));
    assert!(without.output.contains("ADMIN_TOKEN"), "{without:?}");
}

#[test]
fn the_containers_file_serves_and_takes_purges_by_token_alone() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::with(PROXY_YAML)
        .env("UPSTREAM", origin.url())
        .env("REDIS_URL", redis.url())
        .env("ADMIN_TOKEN", "sesame")
        .start();
    let mut admin = support::client::Connection::open(larder.admin_address());
    let json = ("Content-Type", "application/json");
    let purge = br#"{"keys": ["users:list"]}"#;
    larder.get("/api/users/");
    let refused = admin.request("POST", "/purge", &[json], purge);
    assert_eq!(refused.status, 401);
    assert!(larder.get("/api/users/").is_hit());
    let token = ("Authorization", "Bearer sesame");
    let done = admin.request("POST", "/purge", &[json, token], purge);
    assert_eq!(done.status, 200);
    assert!(!larder.get("/api/users/").is_hit());
}

/// Cargo builds nothing where a target that Cargo.toml names is not there.
#[test]
fn the_image_is_made_of_all_that_cargo_toml_names() {
    let left_out: Vec<&str> = include_str!("../.dockerignore").lines().collect();
    let manifest = include_str!("../Cargo.toml");
    for (target, folder) in [("[[test]]", "tests"), ("[[bench]]", "benches")] {
        let is_there = !left_out.contains(&folder);
        assert!(
            is_there || !manifest.contains(target),
            "{target}: the image has no {folder}/"
        );
    }
    for needed in ["src", "Cargo.lock", "proxy.yaml"] {
        assert!(!left_out.contains(&needed), "{needed}");
    }
}

#[test]
fn the_compose_file_fits_together() {
    let compose = parse("compose.yaml").remove(0);
    let services = &compose["services"];
    let larder = &services["larder"];
    assert!(
        deploy(larder["build"].as_str().unwrap())
            .join("Dockerfile")
            .exists()
    );

    let volume = larder["volumes"][0].as_str().unwrap();
    let [from, to, mode] = volume.split(':').collect::<Vec<_>>()[..] else {
        panic!("{volume}")
    };
    assert!(deploy(from).exists() && mode == "ro", "{volume}");
    assert!(DOCKERFILE.contains(&format!("\"-c\", \"{to}\"]")), "{to}");

    // What it is told, the file asks for; whom it names is there.
    for (name, value) in larder["environment"].as_mapping().unwrap() {
        let (name, value) = (name.as_str().unwrap(), value.as_str().unwrap());
        assert!(PROXY_YAML.contains(&format!("${{{name}:")), "{name}");
        if let Some((_, host)) = value.split_once("://") {
            let host = host.split(':').next().unwrap();
            assert!(services.get(host).is_some(), "{value}");
        }
    }
    let django = &services["api"]["environment"];
    assert_eq!(django["LARDER_ADMIN_URL"], "http://larder:9180");
    assert_eq!(
        django["LARDER_ADMIN_TOKEN"],
        larder["environment"]["ADMIN_TOKEN"]
    );
    assert_eq!(
        django["LARDER_REDIS_URL"],
        larder["environment"]["REDIS_URL"]
    );
    for name in django.as_mapping().unwrap().keys() {
        let known = include_str!("../examples/django/users/cache.py");
        assert!(known.contains(name.as_str().unwrap()), "{name:?}");
    }
    // The operator's port is not published.
    let ports = larder["ports"].as_sequence().unwrap();
    assert!(
        ports
            .iter()
            .all(|port| port.as_str().unwrap().ends_with(":8080"))
    );
    // And what its Redis is started with, a Redis accepts.
    let command = services["redis"]["command"].as_sequence().unwrap();
    let words: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
    let mut redis = RedisServer::builder();
    for pair in words[1..].chunks(2) {
        redis = redis.argument(pair[0], pair[1]);
    }
    redis.start();
}

#[test]
fn the_kubernetes_manifests_fit_together() {
    let kustomization = parse("kustomization.yaml").remove(0);
    let manifests = parse(kustomization["resources"][0].as_str().unwrap());
    let secret = parse("secret.yaml").remove(0);
    let generated = &kustomization["configMapGenerator"][0];
    assert!(deploy(generated["files"][0].as_str().unwrap()).exists());

    let deployment = of_kind(&manifests, "Deployment")[0];
    let pod = &deployment["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(
        pod["spec"]["volumes"][0]["configMap"]["name"],
        generated["name"]
    );

    // Where the image looks for its file, under the image's own user.
    let mount = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert!(DOCKERFILE.contains(&format!("\"-c\", \"{mount}/proxy.yaml\"]")));
    let user = pod["spec"]["securityContext"]["runAsUser"]
        .as_u64()
        .unwrap();
    assert!(DOCKERFILE.contains(&format!("\nUSER {user}\n")));

    for variable in container["env"].as_sequence().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(PROXY_YAML.contains(&format!("${{{name}:")), "{name}");
        let reference = &variable["valueFrom"]["secretKeyRef"];
        if let Some(key) = reference["key"].as_str() {
            assert_eq!(reference["name"], secret["metadata"]["name"]);
            assert!(secret["stringData"][key].is_string(), "{key}");
        }
    }

    let port = |name: &str| {
        let ports = container["ports"].as_sequence().unwrap();
        let port = ports.iter().find(|port| port["name"] == name);
        port.and_then(|port| port["containerPort"].as_u64())
            .unwrap()
    };
    assert!(PROXY_YAML.contains(&format!("${{LISTEN:-0.0.0.0:{}}}", port("http"))));
    assert!(PROXY_YAML.contains(&format!("${{ADMIN:-0.0.0.0:{}}}", port("admin"))));
    for service in of_kind(&manifests, "Service") {
        assert_eq!(&service["spec"]["selector"], labels);
        let to = &service["spec"]["ports"][0];
        assert_eq!(
            to["port"].as_u64(),
            Some(port(to["targetPort"].as_str().unwrap()))
        );
    }

    // `limits.drain` is 30 s, and the endpoints learn of it before.
    let grace = pod["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap();
    let sleep = container["lifecycle"]["preStop"]["exec"]["command"][1]
        .as_str()
        .unwrap();
    assert!(grace > 30 + sleep.parse::<u64>().unwrap());
}

#[test]
fn the_probes_of_kubernetes_ask_for_what_is_there() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::with(PROXY_YAML)
        .env("UPSTREAM", origin.url())
        .env("ADMIN_TOKEN", "sesame")
        .start();
    let manifests = parse("kubernetes.yaml");
    let deployment = of_kind(&manifests, "Deployment")[0];
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!(
            (&asked["path"], &asked["port"]),
            (&path.into(), &"admin".into())
        );
        assert_eq!(larder.admin("GET", path).status, 200);
    }
}

#[test]
fn the_unit_starts_what_there_is_and_waits_for_the_drain() {
    let unit = fs::read_to_string(deploy("larder.service")).unwrap();
    let value = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    let start = value("ExecStart=/usr/local/bin/larder ");
    let file = start.strip_prefix("serve -c ").unwrap();
    assert!(unit.contains(&format!("Documentation=file://{file}\n")));
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.yaml");
    assert!(run(&["check", "-c", shipped], &[]).status.success());
    let stop: u64 = value("TimeoutStopSec=")
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert!(stop > 30);
    assert_eq!(value("RestartPreventExitStatus="), "78");
    assert_eq!(
        value("ExecReload="),
        format!("/usr/local/bin/larder reload -c {file}")
    );
    // The socket is where the shipped file listens.
    let socket = fs::read_to_string(deploy("larder.socket")).unwrap();
    let listens = socket
        .lines()
        .find_map(|line| line.strip_prefix("ListenStream="));
    let listens = format!("listen: ${{LISTEN:-{}}}", listens.unwrap());
    assert!(
        include_str!("../proxy.yaml").contains(&listens),
        "{listens}"
    );

    // systemd's own word, where there is one; it wants the binary to exist.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("larder.service");
    let here = unit.replace("/usr/local/bin/larder", binary().to_str().unwrap());
    fs::write(&copy, here).unwrap();
    fs::write(directory.path().join("larder.socket"), &socket).unwrap();
    match Command::new("systemd-analyze")
        .arg("verify")
        .arg(&copy)
        .arg(directory.path().join("larder.socket"))
        .output()
    {
        Ok(verified) => assert!(
            verified.status.success() && verified.stderr.is_empty(),
            "{verified:?}"
        ),
        Err(_) => eprintln!("systemd-analyze is not here: the unit was read by this test alone"),
    }
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(file)
}

/// The documents of a YAML file.
fn parse(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(deploy(file)).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|why| panic!("{file}: {why}")))
        .collect()
}

fn of_kind<'m>(manifests: &'m [Value], kind: &str) -> Vec<&'m Value> {
    let some: Vec<&Value> = manifests.iter().filter(|one| one["kind"] == kind).collect();
    assert!(!some.is_empty(), "no {kind}");
    some
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_is_counted() {
    let mut counted = BTreeMap::new();
    let redis = RedisServer::start();
    let origin = Origin::start(|request| match request.target.contains("page=2") {
        true => origin::hang_up(),
        false => origin::json("[]"),
    });
    for file in support::told_of_everything(&origin, &redis.url()) {
        let larder = Larder::start(file);
        for target in ["/api/users/", "/api/users/", "/api/users/?page=2"] {
            larder.get(target);
        }
        larder.write("POST", "/api/users/");
        let text = larder.admin("GET", "/metrics").text();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            counted.insert(name.to_owned(), kind.to_owned());
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let labels = line.split_once('{').map_or("", |(_, labels)| labels);
            let labels = labels
                .split("=\"")
                .filter_map(|part| part.rsplit(['"', ',', '{']).next());
            let name = line.split(['{', ' ']).next().unwrap().to_owned();
            let labels: Vec<&str> = labels.collect();
            counted
                .entry(format!("labels of {name}"))
                .or_default()
                .push_str(&labels.join(" "));
        }
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(deploy("grafana/larder.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut asked: Vec<String> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(asked.len() > panels.len());
    let alerts = parse("prometheus/alerts.yaml").remove(0);
    for rule in alerts["groups"][0]["rules"].as_sequence().unwrap() {
        assert!(rule["annotations"]["summary"].is_string(), "{rule:?}");
        asked.push(rule["expr"].as_str().unwrap().to_owned());
    }
    let mut names = BTreeSet::new();
    for expression in &asked {
        for (name, labels) in named(expression) {
            let family = ["_total", "_bucket", "_count", "_sum", "_info", ""]
                .iter()
                .find_map(|suffix| {
                    let family = name.strip_suffix(suffix)?;
                    let kind = counted.get(family)?;
                    let right = match *suffix {
                        "_total" => kind == "counter",
                        "_bucket" | "_count" | "_sum" => kind == "histogram",
                        "_info" => kind == "info",
                        _ => kind == "gauge",
                    };
                    right.then(|| family.to_owned())
                });
            let family = family.unwrap_or_else(|| panic!("there is no {name}: {expression}"));
            let has = counted.get(&format!("labels of {name}"));
            for label in labels
                .iter()
                .filter(|label| !["instance", "job"].contains(&label.as_str()))
            {
                // What has not happened has no series yet.
                let known = has.is_none_or(|has| has.contains(label.as_str()));
                assert!(known, "{name} has no {label}: {expression}");
            }
            names.insert(family);
        }
    }
    // Nothing that is counted is left out of the picture without a reason.
    let left_out = [
        "larder_build",
        "larder_config",
        "larder_config_reloads",
        "larder_verdicts",
        "larder_memory_copies",
        "process_open_fds",
        "process_start_time_seconds",
    ];
    let forgotten: Vec<&String> = counted
        .keys()
        .filter(|name| !name.starts_with("labels of"))
        .filter(|name| !names.contains(*name) && !left_out.contains(&name.as_str()))
        .collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");

    promtool(&["check", "rules"], &deploy("prometheus/alerts.yaml"));
}

#[test]
fn an_alert_on_what_lasts_fires_once_it_has_lasted_also_of_who_has_just_begun() {
    let alerts = fs::read_to_string(deploy("prometheus/alerts.yaml")).unwrap();
    let lasting = alerts
        .split("- alert:")
        .filter(|alert| alert.contains("for five minutes"));
    let waits: Vec<bool> = lasting.map(|alert| alert.contains("for: 5m\n")).collect();
    assert_eq!(waits, [true; 3], "{alerts}");

    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prometheus/alerts.yaml");
    promtool(&["test", "rules"], Path::new(tests));
}

/// Prometheus' own word, where it is installed.
fn promtool(command: &[&str], file: &Path) {
    match Command::new("promtool").args(command).arg(file).output() {
        Ok(said) => assert!(said.status.success(), "{said:?}"),
        Err(_) => eprintln!("promtool is not here: the rules were read by these tests alone"),
    }
}

/// The metrics of an expression, each with the labels that it is asked by.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = ["larder_", "process_"]
        .iter()
        .filter_map(|start| rest.find(start))
        .min()
    {
        rest = &rest[at..];
        let end = rest.find(|c| !is_of_a_name(c)).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        rest = &rest[end..];
        let labels = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((inside, _)) => inside
                .split(',')
                .filter_map(|pair| pair.split(['=', '!']).next())
                .map(|label| label.trim().to_owned())
                .collect(),
            None => Vec::new(),
        };
        found.push((name, labels));
    }
    found
}
