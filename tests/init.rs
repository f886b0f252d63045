//! `larder init`: whatever it writes passes `larder check`, drops what it must, and is never in the place of another file.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use larder::config::{Access, Config, OtherParameters, Query, file};
use larder::init::{self, Wanted, schema};
use larder::proxy::plan;
use larder::route::Decoded;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::larder::{Exit, binary, run, run_with_input};
use tempfile::TempDir;

const DJANGO: &str = include_str!("openapi/django.yaml");
const DJANGO_UUID: &str = include_str!("openapi/django-uuid.json");

/// What is written from a description, read as `serve` would read it, without a warning.
#[track_caller]
fn file_of(description: &str) -> (String, Config) {
    file_for(description, None)
}

#[track_caller]
fn file_for(description: &str, access: Option<init::Access>) -> (String, Config) {
    let api = schema::read(description.as_bytes()).expect("a description");
    let written = init::write(&api, &wanted(access)).expect("a file");
    let loaded = file::parse("proxy.yaml", &written.text, &|_| None).expect("a file that is right");
    assert!(
        loaded.warnings.is_empty(),
        "{:?}\n{}",
        loaded.warnings,
        written.text
    );
    (written.text, loaded.config)
}

fn wanted(access: Option<init::Access>) -> Wanted {
    Wanted {
        from: "schema.yaml".to_owned(),
        upstream: "http://127.0.0.1:8000".to_owned(),
        redis_env: "REDIS_URL".to_owned(),
        prefix: "t".to_owned(),
        access,
    }
}

/// `path key` of each route.
fn routes(config: &Config) -> Vec<String> {
    let route =
        |route: &larder::config::Route| format!("{} {}", route.path.as_str(), route.key.as_str());
    config.routes.iter().map(route).collect()
}

/// `METHODS path: keys` of each rule.
fn rules(config: &Config) -> Vec<String> {
    let rule = |rule: &larder::config::PurgeRule| {
        let methods: Vec<&str> = rule.methods.iter().map(http::Method::as_str).collect();
        let keys: Vec<&str> = rule.keys.iter().map(|key| key.as_str()).collect();
        format!(
            "{} {}: {}",
            methods.join(" "),
            rule.path.as_str(),
            keys.join(" ")
        )
    };
    config.purge.iter().map(rule).collect()
}

/// The keys that a write drops, by the file and as a request would find its rule.
fn dropped(config: &Config, method: http::Method, path: &str) -> Vec<String> {
    let drops = plan::drops(config, &method, &Decoded::of(path));
    { drops.rules.iter() }
        .flat_map(|(rule, _)| rule.keys.iter().map(|key| key.as_str().to_owned()))
        .collect()
}

/// What such a write drops, among it these.
fn drops(
    config: &Config,
    text: &str,
    method: http::Method,
    path: &str,
    keys: &[&str],
) -> Vec<String> {
    let dropped = dropped(config, method.clone(), path);
    for key in keys {
        assert!(
            dropped.iter().any(|one| one == key),
            "{method} {path} drops {dropped:?}, not {key}\n{text}"
        );
    }
    dropped
}

fn described(paths: Value) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {"title": "it", "version": "1"},
        "paths": paths,
        "components": {"schemas": {
            "User": {"type": "object", "properties": {"id": {"type": "integer"}, "manager": {"$ref": "#/components/schemas/User"}}},
            "Post": {"type": "object", "properties": {"author": {"allOf": [{"$ref": "#/components/schemas/User"}], "readOnly": true}}},
            "Tag": {"type": "object"},
        }},
    })
}

/// An operation that answers with this schema.
fn answers(schema: Value) -> Value {
    json!({"responses": {"200": {"description": "", "content": {"application/json": {"schema": schema}}}}})
}

fn list_of(name: &str) -> Value {
    answers(json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}}))
}

fn one(name: &str) -> Value {
    answers(json!({"$ref": format!("#/components/schemas/{name}")}))
}

fn nothing() -> Value {
    json!({"responses": {"204": {"description": ""}}})
}

fn id(name: &str, schema: Value) -> Value {
    json!([{"in": "path", "name": name, "required": true, "schema": schema}])
}

// ---- What it makes of descriptions ----

#[test]
fn from_what_drf_spectacular_writes_for_a_real_django_come_the_rules_of_the_shipped_file() {
    let shipped = file::parse("proxy.yaml", file::EXAMPLE, &|_| None)
        .unwrap()
        .config;
    let (text, made) = file_of(DJANGO);
    assert_eq!(routes(&made), routes(&shipped), "{text}");
    // But for the one for many at once: the project takes no such write, and its description says so.
    let mut expected = rules(&shipped);
    assert_eq!(
        expected.remove(1),
        "PUT PATCH DELETE /api/users/: users:list users:detail:*"
    );
    assert_eq!(rules(&made), expected, "{text}");
    let list = &made.routes[0];
    assert_eq!(list.access, Access::PerCredential);
    // The project filters by a `role` that its description does not name: with it, nothing may be kept.
    let allowed = ["ordering", "page", "page_size", "search"].map(str::to_owned);
    assert_eq!(
        list.query,
        Query::Allow {
            names: allowed.to_vec(),
            other: OtherParameters::Bypass
        }
    );
    assert!(text.contains("GET /api/users/me/"), "{text}");
    assert!(text.contains("#   POST /api/auth/token/"), "{text}");

    let (_, uuid) = file_of(DJANGO_UUID);
    assert_eq!(routes(&uuid)[1], "/api/users/<uuid:id>/ users:detail:{id}");
}

#[test]
fn every_line_that_decides_something_says_why_it_stands_there() {
    let (text, _) = file_of(DJANGO);
    for line in text
        .lines()
        .filter(|line| line.contains("access:") || line.contains("query:") || line.contains("url:"))
    {
        assert!(line.contains('#'), "{line}");
    }
    for (rule, before) in text.lines().skip(1).zip(text.lines()) {
        if rule.contains("methods:") {
            assert!(before.trim_start().starts_with('#'), "{before}\n{rule}");
        }
    }
}

#[test]
fn a_write_drops_what_shows_it_and_what_is_above_and_beneath_it() {
    let (text, config) = file_of(
        &described(json!({
            "/api/v1/users/": {"get": list_of("User"), "post": one("User")},
            "/api/v1/users/{id}/": {"get": one("User"), "patch": one("User"), "delete": nothing(), "parameters": id("id", json!({"type": "integer"}))},
            // As drf-nested-routers has it: the same number, and called a string.
            "/api/v1/users/{user_pk}/tags/": {"get": list_of("Tag"), "post": one("Tag"), "parameters": id("user_pk", json!({"type": "string"}))},
            "/api/v1/users/{user_pk}/tags/{id}/": {"get": one("Tag"), "delete": nothing(), "parameters": id("id", json!({"type": "integer"}))},
            "/api/v1/posts/": {"get": list_of("Post"), "post": one("Post")},
            "/api/v1/posts/{id}/": {"get": one("Post"), "put": one("Post"), "parameters": id("id", json!({"type": "integer"}))},
            "/api/v1/register/": {"post": one("User")},
            "/api/v1/ping/": {"post": nothing()},
        }))
        .to_string(),
    );
    let has = |method, path: &str, keys: &[&str]| drops(&config, &text, method, path, keys);
    let users = ["users:list", "posts:list", "posts:detail:*"];
    let patched = has(http::Method::PATCH, "/api/v1/users/7/", &users);
    assert!(
        patched.contains(&"users:detail:{id}".to_owned()),
        "{patched:?}"
    );
    assert!(
        patched.contains(&"users:tags:list:*".to_owned()),
        "{patched:?}"
    );
    has(
        http::Method::POST,
        "/api/v1/users/bulk/",
        &["users:list", "users:detail:*", "posts:list"],
    );
    has(
        http::Method::POST,
        "/api/v1/users/7/tags/",
        &["users:tags:list:*", "users:list", "users:detail:*"],
    );
    has(
        http::Method::DELETE,
        "/api/v1/users/7/tags/3/",
        &["users:tags:detail:*:*", "users:tags:list:*", "users:list"],
    );
    has(
        http::Method::POST,
        "/api/v1/register/",
        &["users:list", "users:detail:*", "posts:list"],
    );
    // A post changes no user: users do not show posts.
    let put = has(
        http::Method::PUT,
        "/api/v1/posts/3/",
        &["posts:list", "posts:detail:{id}"],
    );
    assert!(!put.iter().any(|key| key.starts_with("users:")), "{put:?}");
    assert!(dropped(&config, http::Method::POST, "/api/v1/ping/").is_empty());
    assert!(text.contains("#   POST /api/v1/ping/"), "{text}");
}

#[test]
fn a_write_drops_what_it_is_sent_or_answers_wherever_its_path_is() {
    let created = json!({"type": "object", "properties": {
        "access": {"type": "string"},
        "user": {"$ref": "#/components/schemas/User"},
    }});
    let (text, config) = file_of(
        &described(json!({
            "/api/users/": {"get": list_of("User"), "post": one("User")},
            "/api/users/{id}/": {"get": one("User"), "patch": one("User"), "parameters": id("id", json!({"type": "integer"}))},
            "/api/tags/": {"get": list_of("Tag"), "post": one("Tag")},
            "/api/tags/{id}/": {"get": one("Tag"), "parameters": id("id", json!({"type": "integer"}))},
            "/api/tags/{id}/give/": {"post": one("User"), "parameters": id("id", json!({"type": "integer"}))},
            "/api/tags/{id}/rename/": {"post": one("Tag"), "parameters": id("id", json!({"type": "integer"}))},
            "/auth/registration/": {"post": answers(created)},
            // What the file has no words for may be any text.
            "/api/swap/{one}-{other}/": {"post": one("User")},
        }))
        .to_string(),
    );
    let has = |method, path: &str, keys: &[&str]| drops(&config, &text, method, path, keys);
    let users = ["users:list", "users:detail:*"];
    has(http::Method::POST, "/auth/registration/", &users);
    has(http::Method::POST, "/api/swap/7-8/", &users);
    has(http::Method::POST, "/api/tags/7/give/", &users);
    has(
        http::Method::POST,
        "/api/tags/7/give/",
        &["tags:list", "tags:detail:*"],
    );
    let renamed = has(http::Method::POST, "/api/tags/7/rename/", &["tags:list"]);
    assert!(
        !renamed.iter().any(|key| key.starts_with("users:")),
        "{renamed:?}"
    );
    assert!(
        text.contains("sent or answers User: take the rule out"),
        "{text}"
    );
    assert!(!text.contains("# Writes that drop nothing"), "{text}");
}

/// As DRF's routers have them, unless told otherwise. A write to `/api/users.json` is read as one to `/api/users/`, whatever the file.
#[test]
fn with_format_suffixes_what_is_written_elsewhere_still_drops_nothing() {
    let text = || json!({"type": "string"});
    let (text, config) = file_of(
        &described(json!({
            "/api/users/": {"get": list_of("User"), "post": one("User")},
            "/api/users{format}": {"get": list_of("User"), "post": one("User"), "parameters": id("format", text())},
            "/api/users/{id}/": {"get": one("User"), "patch": one("User"), "parameters": id("id", json!({"type": "integer"}))},
            "/api/users/{id}{format}": {"get": one("User"), "patch": one("User"), "parameters": id("format", text())},
            "/api/token/": {"post": nothing()},
            "/api/token{format}": {"post": nothing(), "parameters": id("format", text())},
            "/api/register/": {"post": one("User")},
            "/api/register.{format}": {"post": one("User"), "parameters": id("format", text())},
        }))
        .to_string(),
    );
    let token = dropped(&config, http::Method::POST, "/api/token/");
    assert!(token.is_empty(), "{token:?}\n{text}");
    for (method, bare, suffixed) in [
        (http::Method::POST, "/api/users/", "/api/users.json"),
        (http::Method::PATCH, "/api/users/7/", "/api/users/7.json"),
        (http::Method::POST, "/api/register/", "/api/register.json"),
    ] {
        let [bare, suffixed] = [bare, suffixed].map(|path| dropped(&config, method.clone(), path));
        assert!(bare.contains(&"users:list".to_owned()), "{bare:?}\n{text}");
        assert!(
            bare.iter().all(|key| suffixed.contains(key)),
            "{suffixed:?}\n{text}"
        );
    }
}

#[test]
fn what_is_beneath_one_may_be_beneath_another_too_or_move_there() {
    let number = |name: &str| id(name, json!({"type": "integer"}));
    let (text, config) = file_of(
        &described(json!({
            "/roles/": {"get": list_of("Tag"), "post": one("Tag")},
            "/roles/{id}/": {"get": one("Tag"), "patch": one("Tag"), "parameters": number("id")},
            "/roles/{role_pk}/users/": {"get": list_of("User"), "post": one("User"), "parameters": number("role_pk")},
            "/roles/{role_pk}/users/{id}/": {"get": one("User"), "patch": one("User"), "parameters": number("id")},
        }))
        .to_string(),
    );
    // User 5 is also in role 4, or is sent there by `{"role": 4}`; how many it has may stand in either.
    for (method, path) in [("POST", "/roles/3/users/"), ("PATCH", "/roles/3/users/5/")] {
        let dropped = dropped(&config, method.parse().unwrap(), path);
        for key in ["roles:users:list:*", "roles:list", "roles:detail:*"] {
            assert!(
                dropped.contains(&key.to_owned()),
                "{method} {path}: {dropped:?}\n{text}"
            );
        }
    }
    let patched = dropped(&config, http::Method::PATCH, "/roles/3/users/5/");
    assert!(
        patched.contains(&"roles:users:detail:*:*".to_owned()),
        "{patched:?}"
    );
    // What is beneath nothing has one place, and its rule names that.
    let patched = dropped(&config, http::Method::PATCH, "/roles/3/");
    assert!(
        patched.contains(&"roles:detail:{id}".to_owned()),
        "{patched:?}"
    );
}

#[test]
fn where_one_of_them_is_any_text_what_stands_beside_it_is_dropped_with_all_of_them() {
    let (text, config) = file_of(
        &described(json!({
            "/users/": {"get": list_of("User"), "post": one("User")},
            "/users/{name}/": {"get": one("User"), "patch": one("User"), "parameters": id("name", json!({"type": "string"}))},
            "/users/me/": {"get": one("User"), "patch": one("User")},
            "/users/active/": {"get": list_of("User")},
            "/users/newest/": {"get": one("User")},
            "/users/tag/": {"get": one("Tag")},
            "/words/": {"get": list_of("Tag"), "post": one("Tag")},
        }))
        .to_string(),
    );
    // `/users/me/` is kept as `users:detail:me`; whoever is renamed by another path must not stay the old one there.
    for path in ["/users/ann/", "/users/me/"] {
        let dropped = dropped(&config, http::Method::PATCH, path);
        for key in ["users:list", "users:detail:*", "users:active:list"] {
            assert!(
                dropped.contains(&key.to_owned()),
                "{path}: {dropped:?}\n{text}"
            );
        }
    }
    // Nor `/users/newest/` or `/users/tag/`, which that path takes as well, when another comes.
    for path in ["/users/", "/words/"] {
        let dropped = dropped(&config, http::Method::POST, path);
        let all = "users:detail:*".to_owned();
        assert!(dropped.contains(&all), "{path}: {dropped:?}\n{text}");
    }
    // The narrower path stands first, or it would never be reached.
    assert_eq!(routes(&config)[1], "/users/active/ users:active:list");
}

#[test]
fn what_a_path_of_any_text_takes_too_is_kept_as_that_needs_it() {
    let open = |mut read: Value, security: Value| {
        read["security"] = security;
        read
    };
    let (nobody, token) = (json!([{}]), json!([{"tokenAuth": []}]));
    let mut tagged = open(one("Tag"), nobody.clone());
    tagged["parameters"] =
        json!([{"in": "header", "name": "X-Tenant", "schema": {"type": "string"}}]);
    let (text, config) = file_of(
        &described(json!({
            "/people/": {"get": open(list_of("User"), nobody.clone())},
            "/people/{name}/": {"get": open(one("User"), nobody.clone()), "parameters": id("name", json!({"type": "string"}))},
            "/people/me/": {"get": open(one("User"), token)},
            "/tags/": {"get": open(list_of("Tag"), nobody.clone())},
            "/tags/{name}/": {"get": open(one("Tag"), nobody), "parameters": id("name", json!({"type": "string"}))},
            "/tags/mine/": {"get": tagged},
        }))
        .to_string(),
    );
    let access = |path: &str| {
        let mut routes = config.routes.iter();
        let route = routes.find(|route| route.path.as_str() == path);
        let route = route.unwrap_or_else(|| panic!("{path}\n{text}"));
        (route.access.clone(), route.vary.clone())
    };
    // Fetched without a credential, `/people/me/` would be a 401 for everybody, or nobody's own answer.
    let vary = [http::HeaderName::from_static("x-tenant")];
    for (path, expected, vary) in [
        ("/people/", Access::Public, &[][..]),
        ("/people/<name>/", Access::PerCredential, &[]),
        ("/tags/", Access::Public, &[]),
        ("/tags/<name>/", Access::Public, &vary),
    ] {
        assert_eq!(access(path), (expected, vary.to_vec()), "{path}\n{text}");
    }
    assert!(text.contains("too: /people/me/\n"), "{text}");
    assert!(!text.contains("# Not kept"), "{text}");
}

#[test]
fn what_stands_beside_them_need_not_be_described_where_one_of_them_is_any_text() {
    // `/users/me/` often is not: an action that is excluded, a view that drf-spectacular cannot see.
    for schema in [
        json!({"type": "string"}),
        json!({"type": "string", "pattern": "^[-a-zA-Z0-9_]+$"}),
    ] {
        let (text, config) = file_of(
            &described(json!({
                "/users/": {"get": list_of("User"), "post": one("User")},
                "/users/{name}/": {"get": one("User"), "patch": one("User"), "delete": nothing(), "parameters": id("name", schema)},
            }))
            .to_string(),
        );
        for method in [http::Method::PATCH, http::Method::DELETE] {
            let dropped = dropped(&config, method, "/users/ann/");
            assert_eq!(dropped, ["users:list", "users:detail:*"], "{text}");
        }
    }
}

#[test]
fn where_nothing_is_read_beside_them_a_new_one_leaves_those_that_are_any_text() {
    let (text, config) = file_of(
        &described(json!({
            "/users/": {"get": list_of("User"), "post": one("User")},
            "/users/{name}/": {"get": one("User"), "patch": one("User"), "parameters": id("name", json!({"type": "string"}))},
            "/users/reset_password/": {"post": nothing()},
        }))
        .to_string(),
    );
    let created = dropped(&config, http::Method::POST, "/users/");
    assert_eq!(created, ["users:list"], "{text}");
    let reset = dropped(&config, http::Method::POST, "/users/reset_password/");
    assert!(reset.contains(&"users:detail:*".to_owned()), "{text}");
}

#[test]
fn the_security_of_the_description_says_which_access_is_proposed() {
    let of = |security: Option<Value>| {
        let mut list = list_of("User");
        if let Some(security) = security {
            list["security"] = security;
        }
        let (text, config) =
            file_of(&described(json!({"/users/": {"get": list, "post": one("User")}})).to_string());
        (text, config.routes[0].access.clone())
    };
    assert_eq!(of(Some(json!([]))).1, Access::Public);
    assert_eq!(of(Some(json!([{}]))).1, Access::Public);
    assert_eq!(of(Some(json!([{"token": []}]))).1, Access::PerCredential);
    assert_eq!(
        of(Some(json!([{"token": []}, {}]))).1,
        Access::PerCredential
    );
    // It may only have been forgotten.
    let (text, access) = of(None);
    assert_eq!(access, Access::PerCredential);
    assert!(text.contains("`public` gives one copy for all"), "{text}");

    let asked = init::Access::Verify("/api/users/me/".to_owned());
    let (_, config) = file_for(DJANGO, Some(asked));
    assert!(
        matches!(&config.routes[1].access, Access::Verify(verify) if verify.path == "/api/users/me/")
    );
}

#[test]
fn keys_and_fields_that_the_description_names_are_credentials_and_split_the_copy() {
    let mut list = list_of("User");
    list["parameters"] = json!([
        {"in": "header", "name": "X-Tenant", "schema": {"type": "string"}},
        {"in": "header", "name": "X-Secret-Key", "schema": {"type": "string"}},
        {"in": "header", "name": "If-None-Match", "schema": {"type": "string"}},
        {"in": "query", "name": "page", "schema": {"type": ["integer", "null"]}},
        {"in": "query", "name": "no", "schema": {"type": "string"}},
    ]);
    let mut described = described(json!({"/users/": {"get": list, "post": one("User")}}));
    described["components"]["securitySchemes"] = json!({
        "key": {"type": "apiKey", "in": "header", "name": "X-Secret-Key"},
        "link": {"type": "apiKey", "in": "query", "name": "signature"},
        "odd": {"type": "apiKey", "in": "cookie", "name": "csrftoken"},
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    });
    described["servers"] = json!([{"url": "https://api.example.org/{version}/", "variables": {"version": {"default": "v2"}}}]);
    let (text, config) = file_of(&described.to_string());
    let named: Vec<&str> = config
        .credential_headers
        .iter()
        .map(http::HeaderName::as_str)
        .collect();
    assert!(
        named.contains(&"x-secret-key") && named.contains(&"x-api-key"),
        "{named:?}"
    );
    assert!(
        !config.ignore_cookies.contains(&"csrftoken".to_owned()),
        "{text}"
    );
    let route = &config.routes[0];
    assert_eq!(route.path.as_str(), "/v2/users/");
    assert_eq!(route.vary, ["x-tenant"]);
    assert_eq!(
        route.query,
        Query::Allow {
            names: ["page", "no", "signature"].map(str::to_owned).to_vec(),
            other: OtherParameters::Bypass
        }
    );
    assert!(
        text.contains("# canonical_origin: https://api.example.org"),
        "{text}"
    );
    assert!(text.contains("jwks_file"), "{text}");
}

#[test]
fn parameters_whose_names_cannot_be_listed_all_count() {
    let mut list = list_of("User");
    list["parameters"] = json!([{"in": "query", "name": "filter", "style": "deepObject", "schema": {"type": "object"}}]);
    let (_, config) = file_of(&described(json!({"/users/": {"get": list}})).to_string());
    assert_eq!(config.routes[0].query, Query::All);
}

#[test]
fn what_a_description_says_in_a_title_or_a_name_stays_where_it_belongs() {
    let mut odd = described(json!({
        "/a b/": {"get": list_of("User")},
        "/x{y}z/": {"get": list_of("User")},
        "/r\u{fc}ck,merkungen/": {"get": list_of("User")},
        "/r\u{fc}ck,merkungen/{the-id}/": {"get": one("User"), "delete": nothing()},
        "/{all}/": {"get": one("User")},
    }));
    odd["info"]["title"] = json!("a\nlisten: 0.0.0.0:1\n\u{2028}# ${EVIL:?no}");
    let (text, config) = file_of(&odd.to_string());
    assert_eq!(config.listen.port(), 8080, "{text}");
    assert_eq!(
        routes(&config),
        [
            "/r\u{fc}ck,merkungen/ r-ck-merkungen:list",
            "/r\u{fc}ck,merkungen/<the_id>/ r-ck-merkungen:detail:{the_id}"
        ]
    );
    assert!(
        text.contains("GET /x{y}z/   a part of a segment is captured"),
        "{text}"
    );
}

#[test]
fn keys_that_could_meet_are_given_other_names() {
    let (_, config) = file_of(
        &described(json!({
            "/v1/users/": {"get": list_of("User")},
            "/v1/users/{id}/": {"get": one("User"), "parameters": id("id", json!({"type": "string"}))},
            "/v2/users/": {"get": list_of("Tag")},
            "/users/detail/": {"get": list_of("Tag")},
        }))
        .to_string(),
    );
    let keys: Vec<&str> = config
        .routes
        .iter()
        .map(|route| route.key.as_str())
        .collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
}

// ---- Odd input ----

#[test]
fn odd_input_is_said_with_its_remedy() {
    let bad_reference = described(json!({"/users/": {"get": list_of("None")}})).to_string();
    let elsewhere = described(json!({"/users/": {"$ref": "users.yaml"}})).to_string();
    let circle = r##"{"openapi": "3.0.3", "paths": {"/users/": {"get": {"parameters": [{"$ref": "#/components/parameters/A"}]}}},
        "components": {"parameters": {"A": {"$ref": "#/components/parameters/B"}, "B": {"$ref": "#/components/parameters/A"}}}}"##;
    let circle_of_schemas = r##"{"openapi": "3.0.3", "paths": {"/users/": {"get": {"responses": {"200": {"content": {"application/json": {"schema":
        {"$ref": "#/components/schemas/A"}}}}}}}}, "components": {"schemas": {"A": {"$ref": "#/components/schemas/A"}}}}"##;
    let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain(*b"o\0p\0").collect();
    let huge = vec![b'#'; schema::LARGEST + 1];
    let rows: [(&[u8], &str, &str); 15] = [
        (b"", "it is empty", "manage.py spectacular"),
        (b"<!doctype html>", "it is a page", "?format=json"),
        (&utf16, "UTF-16", "--file schema.yaml"),
        (&[b'o', 0xC3, 0x28], "not UTF-8", "save it as UTF-8"),
        (&huge, "more than 32 MiB", "alone"),
        (b"- a\n- b\n", "no mapping", "spectacular"),
        (
            b"openapi: 3.0.3\n  paths: [",
            "neither as JSON nor as YAML",
            "written anew",
        ),
        (b"{\"openapi\": \"3.0.3\",", "line 1 column", "written anew"),
        (
            b"swagger: '2.0'\npaths: {}\n",
            "Swagger 2.0",
            "swagger2openapi",
        ),
        (
            b"openapi: 4.0.0\npaths: {/a/: {}}\n",
            "OpenAPI 4.0.0",
            "3.1.0",
        ),
        (b"title: x\n", "no `openapi`", "spectacular"),
        (b"openapi: 3.1.0\npaths: {}\n", "no paths", "warnings"),
        (
            circle.as_bytes(),
            "#/components/parameters/A → #/components/parameters/B → #/components/parameters/A",
            "say what it is",
        ),
        (
            circle_of_schemas.as_bytes(),
            "#/components/schemas/A → #/components/schemas/A",
            "say what it is",
        ),
        (elsewhere.as_bytes(), "another file", "redocly"),
    ];
    for (bytes, cause, help) in rows {
        let error = schema::read(bytes).map(drop).expect_err(cause);
        assert!(error.cause.contains(cause), "{error}\nis not: {cause}");
        assert!(error.help.contains(help), "{error}\nis not: {help}");
    }
    let error = schema::read(bad_reference.as_bytes()).expect_err("a name of nothing");
    assert!(error.cause.contains("names nothing in the file"), "{error}");
    let none = described(json!({"/ping/": {"get": one("User")}})).to_string();
    let api = schema::read(none.as_bytes()).unwrap();
    let why = init::write(&api, &wanted(None)).expect_err("nothing to keep");
    assert!(
        why.contains("--users-path") && why.contains("GET /ping/"),
        "{why}"
    );
}

#[test]
fn a_schema_that_holds_itself_and_one_of_hundreds_of_paths_are_read() {
    let (_, config) = file_of(&described(json!({"/users/": {"get": list_of("User")}})).to_string());
    assert_eq!(config.routes.len(), 1);
    let mut paths = serde_json::Map::new();
    let mut components = serde_json::Map::new();
    for n in 0..200 {
        let name = format!("Thing{n}");
        components.insert(name.clone(), json!({"type": "object"}));
        let list = format!("/api/things{n}/");
        paths.insert(
            format!("{list}{{id}}/"),
            json!({"get": one(&name), "delete": nothing()}),
        );
        paths.insert(list, json!({"get": list_of(&name), "post": one(&name)}));
    }
    let mut described = described(Value::Object(paths));
    described["components"]["schemas"] = Value::Object(components);
    let (_, config) = file_of(&described.to_string());
    assert_eq!(config.routes.len(), 400);
}

/// Descriptions of all shapes: nested and flat paths, with and without a slash, each kind of capture.
fn any_description() -> impl Strategy<Value = Value> {
    let segment = prop_oneof![
        3 => prop::sample::select(vec!["users", "me", "posts", "detail", "list", "api", "v1", "7", "a.b", "rest"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["{id}", "{user_pk}", "{rest}", "{path}", "{the-id}"]).prop_map(str::to_owned),
    ];
    let path =
        (prop::collection::vec(segment, 1..5), any::<bool>()).prop_map(|(segments, slash)| {
            format!("/{}{}", segments.join("/"), if slash { "/" } else { "" })
        });
    let kind = prop::sample::select(vec![
        json!({"type": "integer"}),
        json!({"type": "string"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "pattern": "^[-a-zA-Z0-9_]+$"}),
    ]);
    let component = prop::sample::select(vec!["User", "Post", "Tag"]);
    let item = (component, kind, any::<[bool; 5]>()).prop_map(|(name, kind, [list, post, put, patch, delete])| {
        let parameters: Vec<Value> = ["id", "user_pk", "rest", "path", "the-id"]
            .iter()
            .map(|name| json!({"in": "path", "name": name, "schema": kind}))
            .collect();
        let mut item = json!({"get": if list { list_of(name) } else { one(name) }, "parameters": parameters});
        for (method, is_there) in [("post", post), ("put", put), ("patch", patch), ("delete", delete)] {
            if is_there {
                item[method] = one(name);
            }
        }
        item
    });
    prop::collection::hash_map(path, item, 1..12)
        .prop_map(|paths| described(paths.into_iter().collect::<serde_json::Map<_, _>>().into()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_described_what_is_written_passes_the_check_without_a_warning(described in any_description()) {
        let api = schema::read(described.to_string().as_bytes()).expect("a description");
        let plan = init::rules::plan(&api, None);
        if !plan.routes.is_empty() {
            let (text, config) = file_of(&described.to_string());
            prop_assert_eq!(config.routes.len(), plan.routes.len());
            for path in api.paths.iter().filter(|path| !path.writes.is_empty()) {
                for (method, _) in &path.writes {
                    let unkept = stale_after(&config, method, &spelled(&path.text));
                    prop_assert!(unkept.is_empty(), "{} {} drops not {:?}\n{}", method, path.text, unkept, text);
                }
            }
        }
    }
}

/// The path with a value for each capture that every kind takes but one: then with that one's.
fn spelled(path: &str) -> [String; 2] {
    ["7", "0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a"].map(|value| {
        let segments = path
            .split('/')
            .map(|segment| match segment.starts_with('{') {
                true => value,
                false => segment,
            });
        segments.collect::<Vec<_>>().join("/")
    })
}

/// Keys of the copies that stand at these paths themselves, and that a write there leaves: where a rule takes it, as where
/// none does the proxy drops the path's own.
fn stale_after(config: &Config, method: &http::Method, paths: &[String; 2]) -> Vec<String> {
    let all = |key: &str| {
        let pieces = key
            .split('{')
            .map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest));
        pieces.collect::<Vec<_>>().join("*")
    };
    let mut left = Vec::new();
    for path in paths {
        let dropped: Vec<String> = dropped(config, method.clone(), path)
            .iter()
            .map(|key| all(key))
            .collect();
        let route = config
            .routes
            .iter()
            .find(|route| route.path.match_canonical(path).is_some());
        if let Some(route) = route
            && !dropped.is_empty()
            && !dropped.contains(&route.key.pattern())
        {
            left.push(route.key.pattern());
        }
    }
    left
}

// ---- The command ----

struct Desk(TempDir);

impl Desk {
    fn new() -> Desk {
        let desk = Desk(tempfile::tempdir().unwrap());
        fs::write(desk.path("schema.yaml"), DJANGO).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn init(&self, more: &[&str]) -> Exit {
        let file = self.path("proxy.yaml");
        let schema = self.path("schema.yaml");
        let own = [
            "init",
            "--openapi",
            schema.to_str().unwrap(),
            "-c",
            file.to_str().unwrap(),
        ];
        run(&[&own[..], more].concat(), &[])
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("proxy.yaml")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = names
            .map(|one| one.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn checks(file: &Path) {
    let checked = run(&["check", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn a_file_is_written_from_a_description_and_passes_the_check() {
    let desk = Desk::new();
    let done = desk.init(&["--prefix", "it360acad"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(done.output.contains("2 routes, 3 rules"), "{done:?}");
    assert!(desk.text().contains("prefix: it360acad"));
    assert_eq!(desk.names(), ["proxy.yaml", "schema.yaml"]);
    checks(&desk.path("proxy.yaml"));
}

#[test]
fn a_file_that_is_there_is_never_written_over_without_force() {
    let desk = Desk::new();
    fs::write(desk.path("proxy.yaml"), "mine").unwrap();
    let refused = desk.init(&[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.output.contains("--force"), "{refused:?}");
    assert_eq!(desk.text(), "mine");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(desk.path("proxy.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(desk.init(&["--force"]).status.code(), Some(0));
        let mode = fs::metadata(desk.path("proxy.yaml"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
    }
    checks(&desk.path("proxy.yaml"));
    assert_eq!(desk.names(), ["proxy.yaml", "schema.yaml"]);
}

#[test]
fn what_goes_wrong_leaves_no_file() {
    let desk = Desk::new();
    fs::write(desk.path("schema.yaml"), "swagger: '2.0'\n").unwrap();
    let refused = desk.init(&[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.output.contains("schema.yaml: it is Swagger 2.0"),
        "{refused:?}"
    );
    fs::write(desk.path("schema.yaml"), DJANGO).unwrap();
    let refused = desk.init(&["--upstream", "ftp://x"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // A URL where a name belongs is a secret.
    let refused = desk.init(&["--redis-env", "redis://:hunter2@host"]);
    assert!(
        refused
            .output
            .contains("no name of an environment variable"),
        "{refused:?}"
    );
    assert!(!refused.output.contains("hunter2"), "{refused:?}");
    assert_eq!(desk.names(), ["schema.yaml"]);
}

#[test]
fn options_alone_make_a_file_where_there_is_no_terminal() {
    let desk = Desk::new();
    let file = desk.path("proxy.yaml");
    let file = file.to_str().unwrap();
    let refused = run(&["init", "-c", file], &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused
            .output
            .contains("no terminal to ask at: give --openapi FILE, or --yes"),
        "{refused:?}"
    );
    let options = [
        "--upstream",
        "http://api:9000",
        "--users-path",
        "/v1/people/",
        "--redis-env",
        "CACHE_URL",
        "--prefix",
        "x",
        "--access",
        "verify",
        "--verify",
        "/v1/me/",
    ];
    let done = run(
        &[&["init", "--yes", "-c", file][..], &options].concat(),
        &[],
    );
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let config = file::parse("proxy.yaml", &desk.text(), &|_| None)
        .unwrap()
        .config;
    assert_eq!(
        routes(&config),
        [
            "/v1/people/ people:list",
            "/v1/people/<int:id>/ people:detail:{id}"
        ]
    );
    // Whether it takes a write to many at once, nobody has said.
    let many = r#"{methods: [PUT, PATCH, DELETE], path: /v1/people/, keys: ["people:list", "people:detail:*"]}"#;
    assert!(desk.text().contains(many), "{}", desk.text());
    assert!(matches!(&config.routes[0].access, Access::Verify(verify) if verify.path == "/v1/me/"));
    assert_eq!(config.upstream.addresses[0].to_string(), "http://api:9000");
    assert!(desk.text().contains("${CACHE_URL:-memory:}"));
    let printed = run_with_input(
        &["init", "--yes", "--openapi", "-", "-c", "-"],
        &[],
        DJANGO.as_bytes(),
    );
    assert!(printed.output.contains("routes:"), "{printed:?}");
}

#[test]
fn at_a_terminal_it_asks_and_asks_again_when_an_answer_will_not_do() {
    let desk = Desk::new();
    let file = desk.path("proxy.yaml");
    // `script` makes a terminal; what is written to it is typed there.
    let line = format!("'{}' init -c '{}'", binary().display(), file.display());
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_remove("REDIS_URL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux");
    let typed = b"localhost\nhttp://127.0.0.1:9000\n\nit360acad\n/api/people/\n/api/people/me/\n";
    let mut keyboard = terminal.stdin.take().unwrap();
    keyboard.write_all(typed).unwrap();
    let output = terminal.wait_with_output().unwrap();
    drop(keyboard);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("Where is the API?").count(), 2, "{said}");
    let config = file::parse("proxy.yaml", &desk.text(), &|_| None)
        .unwrap()
        .config;
    assert_eq!(
        config.upstream.addresses[0].to_string(),
        "http://127.0.0.1:9000"
    );
    assert_eq!(config.store.prefix, "it360acad");
    assert_eq!(config.routes[0].path.as_str(), "/api/people/");
    assert!(
        matches!(&config.routes[0].access, Access::Verify(verify) if verify.path == "/api/people/me/")
    );
}

#[test]
fn as_json_it_says_what_it_has_written() {
    let desk = Desk::new();
    let done = desk.init(&["--json"]);
    let told: Value = serde_json::from_str(&done.output).expect("one document");
    assert_eq!(told["routes"][1]["key"], "users:detail:{id}");
    assert_eq!(told["purge"][0]["methods"], json!(["POST"]));
    assert_eq!(told["not_kept"][0]["path"], "/api/users/me/");
    assert_eq!(told["drop_nothing"], json!(["POST /api/auth/token/"]));
    let refused: Value =
        serde_json::from_str(&desk.init(&["--json"]).output).expect("one document");
    assert_eq!(refused["error"]["exit"], 1);
}
