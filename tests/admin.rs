//! The operator's listener: what scripts and the page ask of it.

#[macro_use]
mod support;

use serde_json::{Value, json};
use support::client::{Answer, Connection};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::users_api;

const LIST: &str = "/api/users/";
const PAGE: &str = "/api/users/?page=2";

on_both_stores! {
    a_purge_can_be_tried_without_dropping_anything
    a_route_can_be_purged_by_its_pattern
    the_method_purge_drops_a_path
    families_are_counted
}

fn start(store: &str) -> (Origin, Larder) {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(users_api(&origin, store, ""));
    (origin, larder)
}

#[track_caller]
fn post(larder: &Larder, path: &str, body: &Value) -> (u16, Value) {
    let json = [("Content-Type", "application/json")];
    let mut admin = Connection::open(larder.admin_address());
    let answer = admin.request("POST", path, &json, body.to_string().as_bytes());
    (answer.status, told(&answer))
}

fn told(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn fill(larder: &Larder) {
    for target in [LIST, PAGE, "/api/users/7/", "/api/users/8/"] {
        larder.get(target);
        assert!(larder.get(target).is_hit(), "{target}");
    }
}

fn a_purge_can_be_tried_without_dropping_anything(store: &str) {
    let (_origin, larder) = start(store);
    fill(&larder);
    for (asked, states, copies) in [
        (
            json!({ "keys": ["users:list"] }),
            vec!["users:list~state"],
            2,
        ),
        (
            json!({ "keys": ["/api/users/7/"] }),
            vec!["users:detail:7~state"],
            1,
        ),
        (
            json!({ "keys": ["users:detail:*"] }),
            vec!["users:detail~all"],
            2,
        ),
        (
            // Two of them are one, and one is in another.
            json!({ "keys": ["users:list", "/api/users/", "users:detail:*", "users:detail:7"] }),
            vec![
                "users:list~state",
                "users:detail~all",
                "users:detail:7~state",
            ],
            4,
        ),
        (
            json!({ "all": true }),
            vec!["users:detail~all", "users:list~state"],
            4,
        ),
    ] {
        let mut asked = asked;
        asked["dry_run"] = true.into();
        let (status, told) = post(&larder, "/purge", &asked);
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["would_purge"], json!(states));
        assert_eq!(told["copies"], copies, "{asked}: {told}");
        assert_eq!(told["keys"].as_array().unwrap().len(), copies);
    }
    for target in [LIST, PAGE, "/api/users/7/", "/api/users/8/"] {
        assert!(larder.get(target).is_hit(), "{target}");
    }
}

fn a_route_can_be_purged_by_its_pattern(store: &str) {
    let (_origin, larder) = start(store);
    fill(&larder);
    let (status, told) = post(
        &larder,
        "/purge",
        &json!({ "routes": ["/api/users/<int:id>/"] }),
    );
    assert_eq!(
        (status, &told["purged"]),
        (200, &json!(["users:detail~all"]))
    );
    assert!(larder.get(LIST).is_hit());
    assert!(!larder.get("/api/users/7/").is_hit());
    let (status, told) = post(&larder, "/purge", &json!({ "routes": ["/api/orders/"] }));
    assert_eq!(status, 400);
    assert!(
        told["detail"]
            .as_str()
            .unwrap()
            .contains("/api/users/<int:id>/")
    );
}

fn the_method_purge_drops_a_path(store: &str) {
    let (_origin, larder) = start(store);
    fill(&larder);
    let mut admin = Connection::open(larder.admin_address());
    let answer = admin.request("PURGE", "/api/users/?page=9", &[], b"");
    assert_eq!(told(&answer)["purged"], json!(["users:list~state"]));
    assert!(!larder.get(LIST).is_hit() && !larder.get(PAGE).is_hit());
    assert!(larder.get("/api/users/7/").is_hit());
    let softly = [("Soft-Purge", "1")];
    assert_eq!(
        admin.request("PURGE", "/api/users/7/", &softly, b"").status,
        200
    );
    let after = larder.get("/api/users/7/").cache_status();
    assert!(after.contains("soft-purge"), "{after}");
    assert_eq!(admin.request("PURGE", "/nothing/", &[], b"").status, 400);
    // On the public listener it is a method like any other, and not served.
    assert_eq!(larder.request("PURGE", LIST, &[], b"").status, 501);
}

#[test]
fn a_path_is_purged_as_it_is_spelt() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nttl: 1h\nroutes:\n  - {{path: \"/files/<name>/\", key: \"files:{{name}}\"}}\n",
        origin.url()
    ));
    let mut admin = Connection::open(larder.admin_address());
    let (plain, escaped) = ("/files/A/", "/files/a%3Fb/");
    for file in [plain, escaped] {
        larder.get(file);
        assert!(larder.get(file).is_hit(), "{file}");
    }
    let mut purge = |file| assert_eq!(admin.request("PURGE", file, &[], b"").status, 200);
    // A file called %41 is another.
    purge("/files/%2541/");
    assert!(larder.get(plain).is_hit() && larder.get(escaped).is_hit());
    purge(escaped);
    assert!(larder.get(plain).is_hit() && !larder.get(escaped).is_hit());
}

fn families_are_counted(store: &str) {
    let (_origin, larder) = start(store);
    fill(&larder);
    let families = |query: &str| told(&larder.admin("GET", &format!("/families{query}")));
    let all = families("");
    let counted: Vec<(&str, u64)> = all["families"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["family"].as_str().unwrap(),
                one["copies"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("users:detail:7", 1),
        ("users:detail:8", 1),
        ("users:list", 2),
    ];
    assert_eq!(counted, expected);
    assert_eq!(all["more"], false);
    assert_eq!(
        families("?start=users:detail:")["families"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let keys = |query: &str| told(&larder.admin("GET", &format!("/keys{query}")));
    let every = keys("")["keys"].as_array().unwrap().len();
    for (limit, more) in [(every, false), (every - 1, true)] {
        let most = format!("?limit={limit}");
        assert_eq!(
            (&keys(&most)["more"], &families(&most)["more"]),
            (&json!(more), &json!(more))
        );
    }
}

#[test]
fn paths_can_be_warmed_by_a_script() {
    let (origin, larder) = start("memory:");
    let asked =
        json!({ "targets": [LIST, PAGE, "/other/"], "fields": [["Host", "api.example.org"]] });
    let (status, told) = post(&larder, "/warm", &asked);
    assert_eq!(
        (status, &told["kept"], &told["asked"]),
        (200, &json!(2), &json!(3))
    );
    assert_eq!(told["targets"].as_array().unwrap().len(), 3);
    let asked = origin.count();
    assert!(larder.get(LIST).is_hit() && larder.get(PAGE).is_hit());
    assert_eq!(origin.count(), asked);
    assert_eq!(
        post(
            &larder,
            "/warm",
            &json!({ "targets": ["http://elsewhere/"] })
        )
        .0,
        400
    );
}

#[test]
fn an_instance_behind_redis_tells_the_same() {
    let redis = RedisServer::start();
    let (_origin, larder) = start(&redis.url());
    fill(&larder);
    let overview = told(&larder.admin("GET", "/overview"));
    assert_eq!(overview["store"]["kind"], "redis");
    assert_eq!(overview["store"]["state"], "up");
    let list = |route: &&Value| route["route"] == LIST;
    let list = overview["routes"]
        .as_array()
        .unwrap()
        .iter()
        .find(list)
        .unwrap();
    assert_eq!((&list["hits"], &list["others"]), (&json!(2), &json!(2)));
}

#[test]
fn every_path_that_is_described_is_answered_and_no_other() {
    let (_origin, larder) = start("memory:");
    fill(&larder);
    let described = told(&larder.admin("GET", "/openapi.json"));
    assert_eq!(described["openapi"], "3.2.0");
    for (path, item) in described["paths"].as_object().unwrap() {
        let path = path
            .replace("{key}", "users:list")
            .replace("{path}", "api/users/");
        let methods = item.as_object().unwrap().iter().flat_map(|(method, of)| {
            let others = of
                .as_object()
                .map(|of| of.keys().cloned().collect::<Vec<_>>());
            match method.as_str() {
                "additionalOperations" => others.unwrap_or_default(),
                method => vec![method.to_uppercase()],
            }
        });
        for method in methods {
            let body = match method.as_str() {
                "PUT" => json!([]),
                "POST" => {
                    let body = &item["post"]["requestBody"]["content"];
                    body["application/json"]["example"].clone()
                }
                _ => Value::Null,
            };
            let json = [("Content-Type", "application/json")];
            let body = if body.is_null() {
                String::new()
            } else {
                body.to_string()
            };
            let mut admin = Connection::open(larder.admin_address());
            let answer = admin.request(&method, &path, &json, body.as_bytes());
            assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
            let said = &item[method.to_lowercase()]["responses"];
            let said = if said.is_null() {
                &item["additionalOperations"][&method]["responses"]
            } else {
                said
            };
            assert!(said["200"].is_object(), "{method} {path}");
        }
    }
    let nothing = larder.admin("GET", "/nothing");
    assert_eq!(nothing.status, 404);
    assert!(nothing.text().contains("POST /purge"), "{nothing:?}");
}

#[test]
fn the_page_asks_nobody_else_and_holds_nothing_secret() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(users_api(&origin, "memory:", "admin_token: hush-token"));
    let page = larder.admin("GET", "/");
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let may = page.field("content-security-policy").unwrap();
    assert!(
        may.contains("default-src 'none'") && may.contains("frame-ancestors 'none'"),
        "{may}"
    );
    let text = page.text();
    assert!(!text.contains("hush-token"));
    for elsewhere in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!text.contains(elsewhere), "{elsewhere}");
    }
    for path in ["/overview", "/purges", "/metrics", "/keys", "/families"] {
        assert_eq!(larder.admin("GET", path).status, 401, "{path}");
    }
}

#[test]
fn without_a_token_a_site_whose_name_leads_here_is_told_nothing() {
    let (_origin, larder) = start("memory:");
    let ask = |path: &str, host: &str| {
        let mut admin = Connection::open(larder.admin_address());
        admin.request("GET", path, &[("Host", host)], b"").status
    };
    for host in [
        "evil.example",
        "evil.example:9180",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
    ] {
        for path in [
            "/keys",
            "/overview",
            "/metrics",
            "/entries/users:list",
            "/nothing",
        ] {
            assert_eq!(ask(path, host), 421, "{path} of {host:?}");
        }
        assert_eq!(ask("/readyz", host), 200);
    }
    for host in [
        "localhost",
        "LocalHost:9180",
        "127.0.0.1:9180",
        "[::1]:9180",
        "10.0.0.1",
    ] {
        assert_eq!(ask("/keys", host), 200, "{host}");
    }
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(users_api(&origin, "memory:", "admin_token: hush"));
    let mut admin = Connection::open(larder.admin_address());
    let fields = [("Host", "larder:9180"), ("Authorization", "Bearer hush")];
    assert_eq!(admin.request("GET", "/keys", &fields, b"").status, 200);
}
