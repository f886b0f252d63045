//! proxy.yaml, right and wrong. Each wrong file of tests/config has beside it what Larder says about
//! it: `UPDATE_GOLDEN=1 cargo test --test config` writes them anew, to be read before they are kept.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use larder::cli::check::describe;
use larder::config::file::{EXAMPLE, Loaded, Overrides, load, parse, parse_with};
use larder::config::{
    Access, Methods, OtherParameters, Per, Query, Rate, RedisEndpoint, Store, StoreAddress,
    UpstreamAddress,
};
use larder::message::codings::Coding;
use larder::proxy::plan::drops;
use larder::route::Decoded;

/// Set for all of the wrong files. Whatever begins with SECRET must never be told.
const ENVIRONMENT: [(&str, &str); 10] = [
    (
        "REDIS_URL",
        "redis://larder:SECRETpw%2Fx@cache.internal:6379/0",
    ),
    (
        "BROKEN_REDIS_URL",
        "redis://larder:SECRET#pw@cache.internal:port",
    ),
    ("ADMIN_TOKEN", "SECRET admin token"),
    ("TTL", "SECRETttl"),
    ("UPSTREAM", "SECREThost:8000"),
    ("USERS_PATH", "/SECRET/<itn:id>/"),
    ("USERS_KEY", "SECRET:list"),
    ("BARE", "3600417"),
    ("EMPTY", ""),
    // As `docker run --env-file` passes it on.
    ("QUOTED_URL", "\"redis://:SECRETpw@cache.internal:6379\""),
];

fn environment(name: &str) -> Option<String> {
    let found = ENVIRONMENT.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| (*value).to_owned())
}

fn nothing(_: &str) -> Option<String> {
    None
}

fn wrong_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    files
}

fn complaint(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    match parse("proxy.yaml", &text, &environment) {
        Ok(_) => panic!("{} is taken for right", path.display()),
        Err(error) => format!("{error}\n"),
    }
}

fn right(text: &str) -> Loaded {
    parse("proxy.yaml", text, &nothing).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> String {
    parse("proxy.yaml", text, &nothing)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

/// The shipped file with more at its end.
fn shipped_and(more: &str) -> String {
    format!("{EXAMPLE}\n{more}")
}

#[test]
fn a_wrong_file_is_told_with_place_cause_and_remedy() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let files = wrong_files();
    assert!(files.len() >= 45, "only {} wrong files", files.len());
    let mut differ = Vec::new();
    for path in files {
        let told = complaint(&path);
        let golden = path.with_extension("txt");
        if update {
            fs::write(&golden, &told).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != told {
            differ.push(format!("{}:\n{told}", path.display()));
        }
        assert!(told.starts_with("proxy.yaml:"), "{told}");
        assert!(told.contains("\nhelp: "), "no remedy:\n{told}");
    }
    assert!(
        differ.is_empty(),
        "these are told otherwise than expected:\n\n{}",
        differ.join("\n")
    );
}

#[test]
fn the_caret_stands_under_the_column_that_is_named() {
    for path in wrong_files() {
        let told = complaint(&path);
        let lines: Vec<&str> = told.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if !line.trim_start_matches([' ', '|']).starts_with('^') {
                continue;
            }
            let shown = lines[i - 1].split_once(" | ").unwrap().1;
            let caret = line.split_once("| ").unwrap().1;
            let start = caret.chars().take_while(|c| *c != '^').count();
            let width = caret.chars().skip(start).take_while(|c| *c == '^').count();
            let shown = shown.chars().count();
            // Also just behind the end, where something is missing.
            assert!(start + width <= shown + 1, "{}:\n{told}", path.display());
        }
    }
}

#[test]
fn no_complaint_tells_a_secret() {
    for path in wrong_files() {
        let told = complaint(&path);
        for (name, value) in ENVIRONMENT {
            assert!(
                value.is_empty() || !told.contains(value),
                "{name} in {}:\n{told}",
                path.display()
            );
        }
        for secret in ["SECRET", "hunter2", "s3cr3t"] {
            assert!(
                !told.contains(secret),
                "{secret} in {}:\n{told}",
                path.display()
            );
        }
        let text = fs::read_to_string(&path).unwrap();
        let debug = format!(
            "{:?}",
            parse("proxy.yaml", &text, &environment).unwrap_err()
        );
        assert!(
            !debug.contains("SECRET") && !debug.contains("hunter2"),
            "{debug}"
        );
    }
}

#[test]
fn what_a_line_is_shown_without_its_complaint_does_not_quote() {
    for line in [
        "upstream: http://u:hunter2@h:x",
        "upstream: http://u:hunter2@",
        "upstream: u:hunter2@h:1",
        "upstream: unix://u:hunter2@h",
        "upstream: {urls: [\"u:hunter2@h\"]}",
        "upstream: {url: \"http://h:1\", health: {path: /, host: \"u:hunter2@h\"}}",
        "upstream: http://h:1\ncanonical_origin: u:hunter2@h",
        "upstream: http://h:1\nhosts: [\"u:hunter2@h\"]",
        "upstream: http://h:1\nlisten: http://u:hunter2@h:1",
        "upstream: http://h:1\nadmin: \"u:hunter2@h:1\"",
        "upstream: http://h:1\nwarm: [{targets: [/a/], fields: [\"Authorization Token hunter2\"]}]",
        "upstream: http://h:1\nwarm: [{targets: [/a/], fields: [\"Authorization=hunter2\"]}]",
        "upstream: http://h:1\nwarm: [{targets: [/a/], fields: [\"hunter2\"]}]",
        "upstream: http://h:1\nwarm: [{targets: [/a/], fields: [\"Authorization: Token hunter2]}]",
        "upstream: http://h:1\nwarm: [{targets: [/a/], fields: [\"Cookie: sessionid=hunter2]}]",
    ] {
        let told = error(&format!("{line}\n"));
        assert!(told.starts_with("proxy.yaml:"), "{line} is taken for right");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

/// Breaks a file that is full of secrets at every place, and looks for them in what is said.
#[test]
fn no_way_to_break_a_file_makes_it_tell_its_secrets() {
    let whole = "admin_token: hunter2hunter2hunter2\nupstream: http://127.0.0.1:8000\nstore:\n  \
        url: redis://larder:hunter2pw@cache:6379/0\n  database: 1\nttl: 1h\nroutes: []\npurge: []\n";
    let flow = "{admin_token: \"hunter2hunter2hunter2\", upstream: \"http://127.0.0.1:8000\", \
        store: {url: \"redis://larder:hunter2pw@cache:6379/0\", database: 1}}\n";
    let mut broken = 0;
    for text in [whole, flow] {
        for at in 0..text.len() {
            for stroke in [
                "", "x", ":", " ", "\t", "\"", "{", "}", ",", "@", "#", "\n", "- ", "[", "/", "&",
                "*",
            ] {
                // A stroke within the secret makes another text of it.
                let inside = text
                    .match_indices("hunter2")
                    .any(|(found, secret)| found < at && at < found + secret.len());
                if inside {
                    continue;
                }
                let typed = format!("{}{stroke}{}", &text[..at], &text[at..]);
                let swallowed = format!("{}{stroke}{}", &text[..at], &text[at + 1..]);
                for candidate in [typed, swallowed] {
                    match parse("proxy.yaml", &candidate, &nothing) {
                        Ok(loaded) => {
                            let told = format!("{:?}{}", loaded.config, loaded.warnings.join("\n"));
                            // In another key it is no secret; but nothing of a comment is kept.
                            assert!(!told.contains("hunter2"), "{candidate}\n{told}");
                        }
                        Err(error) => {
                            broken += 1;
                            let told = error.to_string();
                            assert!(
                                !told.contains("unter2"),
                                "{candidate}
{told}"
                            );
                        }
                    }
                }
            }
        }
    }
    assert!(broken > 1000, "{broken}");
}

#[test]
fn the_shipped_file_works_as_it_stands() {
    let loaded = right(EXAMPLE);
    let config = &loaded.config;
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
    assert_eq!(config.admin, Some(SocketAddr::from(([127, 0, 0, 1], 9180))));
    assert_eq!(
        config.upstream.addresses[0],
        UpstreamAddress::Tcp {
            host: "127.0.0.1".into(),
            port: 8000
        }
    );
    assert!(matches!(config.store.address, StoreAddress::Memory));
    assert_eq!(config.store.prefix, "it360acad");
    assert_eq!(config.routes.len(), 2);
    assert_eq!(config.purge.len(), 4);
    let detail = &config.routes[1];
    assert_eq!(detail.access, Access::PerCredential);
    assert_eq!(detail.ttl, Duration::from_secs(3600));
    assert_eq!(detail.max_body, 4 << 20);
    let captures = detail.path.match_canonical("/api/users/7/").unwrap();
    assert_eq!(
        detail.key.family(&captures).unwrap().as_str(),
        "users:detail:7"
    );
    assert_eq!(config.limits.connections, 20_000);
    assert_eq!(config.drop_headers.len(), 14);
    assert!(matches!(&config.methods, Methods::Listed(listed) if listed.len() == 7));
}

fn shipped_in(variables: &[(&str, &str)]) -> Loaded {
    let env = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    parse("proxy.yaml", EXAMPLE, &env).unwrap_or_else(|error| panic!("{error}"))
}

fn redis(store: &Store) -> &larder::config::Redis {
    match &store.address {
        StoreAddress::Redis(redis) => redis,
        StoreAddress::Memory => panic!("not in memory"),
    }
}

#[test]
fn with_redis_url_it_is_redis_and_the_database_of_the_file_wins() {
    let loaded = shipped_in(&[("REDIS_URL", "redis://:p%23w%2F:x@cache.internal/0")]);
    let redis = redis(&loaded.config.store);
    assert!(
        matches!(&redis.endpoint, RedisEndpoint::Tcp { host, port: 6379 } if host == "cache.internal")
    );
    assert_eq!(redis.password.as_ref().unwrap().expose(), "p#w/:x");
    assert_eq!(redis.username, None);
    assert_eq!(redis.database, 1);
    assert!(
        loaded.warnings[0].contains("database 1 is used, and not 0"),
        "{:?}",
        loaded.warnings
    );
    let told = format!("{:?}\n{}", loaded.config, describe(&loaded.config));
    assert!(!told.contains("p#w") && !told.contains("p%23w"), "{told}");

    let zero = shipped_in(&[
        ("REDIS_URL", "rediss://default:pw@eu.upstash.io:6380"),
        ("REDIS_DATABASE", "0"),
    ]);
    let redis = self::redis(&zero.config.store);
    assert!(
        matches!(&redis.endpoint, RedisEndpoint::Tls { host, port: 6380, ca_file: None } if host == "eu.upstash.io")
    );
    assert_eq!(
        (redis.username.as_deref(), redis.database),
        (Some("default"), 0)
    );
    assert!(zero.warnings.is_empty());
}

#[test]
fn the_forms_of_a_store() {
    let address = |store: &str| {
        right(&format!("upstream: http://a:1\nstore: {{{store}}}"))
            .config
            .store
            .address
    };
    let StoreAddress::Redis(unix) = address("url: 'redis+unix:///run/redis.sock', database: 3")
    else {
        panic!("not in memory");
    };
    assert!(
        matches!(&unix.endpoint, RedisEndpoint::Unix(path) if path == Path::new("/run/redis.sock"))
    );
    assert_eq!(unix.database, 3);
    let StoreAddress::Redis(v6) = address("url: 'redis://u:@[::1]:7000/4'") else {
        panic!("not in memory");
    };
    assert!(matches!(&v6.endpoint, RedisEndpoint::Tcp { host, port: 7000 } if host == "::1"));
    assert_eq!((v6.database, v6.username.as_deref()), (4, Some("u")));
    // A password as it is, which a URL library would cut off.
    let StoreAddress::Redis(raw) = address("url: 'redis://:a#b/c?d@e@host'") else {
        panic!("not in memory");
    };
    assert_eq!(raw.password.unwrap().expose(), "a#b/c?d@e");
    assert_eq!(raw.database, 0);
    assert!(matches!(address("prefix: x"), StoreAddress::Memory));
}

#[test]
fn the_forms_of_an_upstream() {
    let address = |text: &str| {
        let mut upstream = right(&format!("upstream: {text}")).config.upstream;
        upstream.addresses.remove(0)
    };
    let tcp = |host: &str, port| UpstreamAddress::Tcp {
        host: host.to_owned(),
        port,
    };
    assert_eq!(address("http://127.0.0.1:8000/"), tcp("127.0.0.1", 8000));
    assert_eq!(address("http://Django"), tcp("django", 80));
    assert_eq!(address("'http://[::1]:8000'"), tcp("::1", 8000));
    assert_eq!(
        address("http+unix:///run/gunicorn.sock"),
        UpstreamAddress::Unix("/run/gunicorn.sock".into())
    );
    let map = right("upstream: {url: http://a, total: 10s, queue: 0, pool_idle: 0}")
        .config
        .upstream;
    assert_eq!(
        (map.addresses, map.total, map.queue),
        (vec![tcp("a", 80)], Duration::from_secs(10), 0)
    );
    assert_eq!(map.pool_idle, Duration::ZERO);
    let secure = |host: &str, port| UpstreamAddress::Tls {
        host: host.to_owned(),
        port,
    };
    assert_eq!(address("https://api.internal"), secure("api.internal", 443));
    let several = "upstream: {urls: [https://a, http://b:8000, http+unix:///c], http2: true,\n  \
        health: {path: /healthz/}}\nhosts: api.example.org\n";
    let loaded = right(several);
    assert_eq!(
        loaded.config.upstream.addresses,
        [
            secure("a", 443),
            tcp("b", 8000),
            UpstreamAddress::Unix("/c".into())
        ]
    );
    let told = describe(&loaded.config);
    for piece in [
        "https://a:443 http://b:8000 http+unix:///c, ",
        "in HTTP/2",
        "another after 2s of silence",
        "GET /healthz/ (Host: api.example.org) every 5s",
    ] {
        assert!(told.contains(piece), "{piece} is not in:\n{told}");
    }
}

#[test]
fn variables_are_filled_in_after_the_yaml_is_read() {
    let variables = [
        ("P", "a: b # c"),
        ("N", "7"),
        ("EMPTY", ""),
        ("TOKEN", "0123456789abcdef"),
    ];
    let env = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let text = "upstream: {url: 'http://a', queue: \"${N}\", total: \"${N}s\"}\n\
        logs: {level: '${EMPTY:-${ALSO_UNSET:-warn}}'}\n\
        admin_token: ${TOKEN:?needed}\n\
        ignore_cookies: [\"$${x\", a]\n\
        routes: [{path: /a/, key: \"${KEY:-a:list}\"}, {path: /a/<int:id>/, key: '${DETAIL:-a:{id}}'}]\n\
        store: {url: 'redis://:${P}@h'}\n";
    let text = text.replace("[\"$${x\", a]", "[a]");
    let config = parse("proxy.yaml", &text, &env)
        .unwrap_or_else(|error| panic!("{error}"))
        .config;
    assert_eq!(config.upstream.queue, 7);
    assert_eq!(config.upstream.total, Duration::from_secs(7));
    assert_eq!(config.logs.level, "warn");
    assert_eq!(config.admin_token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(config.routes[1].key.as_str(), "a:{id}");
    assert_eq!(
        redis(&config.store).password.as_ref().unwrap().expose(),
        "a: b # c"
    );
    // Two dollars are one, and nothing is filled in.
    assert!(
        error("upstream: http://a\nroutes: [{path: /a/, key: '$${KEY}'}]")
            .contains("`{KEY}` is not captured")
    );
}

#[test]
fn a_remedy_names_the_variable_for_what_it_makes_of_its_value_and_for_no_word_of_its_own() {
    let help = |url: &str, value: &str| {
        let env = |_: &str| Some(value.to_owned());
        let told = parse("proxy.yaml", &url.replace("IT", "\"${IT}\""), &env).err();
        let told = told.map(|error| error.to_string()).unwrap_or_default();
        told.lines().last().unwrap_or_default().to_owned()
    };
    let upstream = "upstream: IT";
    assert_eq!(
        help(upstream, "users-api"),
        "help: put `http://` before it: `http://${IT}`"
    );
    // The name of a service, as Docker Compose has it.
    let store = "upstream: http://a\nstore: {url: IT}";
    assert_eq!(help(store, "redis"), "help: correct the value of ${IT}");
    assert!(help(upstream, "http").ends_with("correct the value of ${IT}"));
}

#[test]
fn yaml_may_be_written_in_any_of_its_ways() {
    let json = r#"{"upstream": "http://a", "listen": "localhost:9000", "hosts": "API.example.org", "admin": "off",
        "routes": [{"path": "/a/", "key": "a", "access": "public", "ttl": "90s", "vary": "Accept-Language",
                    "query": {"allow": ["page"], "other": "ignore"}, "max_body": "1MiB"}],
        "purge": [{"methods": "POST", "path": "/a/", "keys": "a"}]}"#;
    let config = right(json).config;
    assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 9000)));
    assert_eq!(config.admin, None);
    assert_eq!(config.hosts, ["api.example.org"]);
    let route = &config.routes[0];
    assert_eq!(
        (route.access.clone(), route.ttl, route.max_body),
        (Access::Public, Duration::from_secs(90), 1 << 20)
    );
    assert_eq!(route.vary, ["accept-language"]);
    let expected = Query::Allow {
        names: vec!["page".into()],
        other: OtherParameters::Ignore,
    };
    assert_eq!(route.query, expected);

    let anchors = "upstream: http://a\nroutes:\n  - path: &p /a/\n    key: a\npurge:\n  - methods: [POST]\n    path: *p\n    keys:\n    - a\n";
    assert_eq!(right(anchors).config.purge[0].path.as_str(), "/a/");
    assert_eq!(
        right("---\r\nupstream: http://a\r\n").config.routes.len(),
        0
    );
}

#[test]
fn the_command_line_wins_over_the_file() {
    let overrides = Overrides {
        listen: Some("127.0.0.1:7000".into()),
        admin: Some("off".into()),
        upstream: Some("http://other:81".into()),
        store: Some("redis://h".into()),
        ..Overrides::default()
    };
    let config = parse_with("proxy.yaml", EXAMPLE, &nothing, &overrides)
        .unwrap()
        .config;
    assert_eq!(config.listen.port(), 7000);
    assert_eq!(config.admin, None);
    assert_eq!(
        config.upstream.addresses[0],
        UpstreamAddress::Tcp {
            host: "other".into(),
            port: 81
        }
    );
    assert_eq!(redis(&config.store).database, 1);
    let wrong = Overrides {
        store: Some("redis://:hunter2@h:x".into()),
        ..Overrides::default()
    };
    let told = parse_with("proxy.yaml", EXAMPLE, &nothing, &wrong)
        .unwrap_err()
        .to_string();
    assert!(
        told.starts_with("--store: ") && !told.contains("hunter2"),
        "{told}"
    );
}

#[test]
fn what_is_odd_but_possible_is_a_warning() {
    let warned = |more: &str| right(&shipped_and(more)).warnings.join("\n");
    assert!(warned("credential_headers: [X-My-Key]").contains("leaves out X-Api-Key"));
    assert!(warned("drop_headers: []").contains("leaves out X-Original-URL"));
    assert!(warned("admin_token: short").contains("can be guessed"));
    assert!(warned("methods: [GET, HEAD]").contains("lets no POST through"));
    assert!(warned("memory: {lease: 10ms}").contains("of no use with the embedded store"));
    let unpurged = right("upstream: http://a\nroutes: [{path: /a/, key: a}]").warnings;
    assert!(
        unpurged[0].contains("routes[0].key: no rule under `purge` names `a`"),
        "{unpurged:?}"
    );
    // A write to the very path is not what it warns of: that drops it.
    assert!(unpurged[0].contains("only a write to its own path"));
    let config = right("upstream: http://a\nroutes: [{path: /a/, key: a}]").config;
    let drops = |path| {
        drops(&config, &Method::POST, &Decoded::of(path))
            .states
            .len()
    };
    assert_eq!((drops("/a/"), drops("/a/b/")), (1, 0));
    let partly = "upstream: http://a\nroutes: [{path: /a/, key: a}]\npurge:\n\
        - {methods: POST, path: /a/, keys: a}\n- {methods: [POST, PUT], path: /a/, keys: a}";
    let partly = right(partly).warnings;
    assert!(
        partly[0].contains("POST never gets here: `purge[0].path` takes it first"),
        "{partly:?}"
    );
}

/// A write's path is read with and without a slash at its end; so `check` warns of no rule that has the other spelling.
#[test]
fn a_rule_with_another_slash_than_the_route_takes_its_writes_and_check_does_not_deny_it() {
    let routes = "upstream: http://a\nroutes: [{path: /u/, key: u}, {path: '/u/<int:id>', key: 'd:{id}'}]\npurge:\n";
    let rules = "- {methods: POST, path: /u, keys: [u, 'd:*']}\n- {methods: PUT, path: '/u/<int:id>/', keys: [u, 'd:{id}']}\n";
    let config = right(&format!("{routes}{rules}")).config;
    let told = describe(&config);
    assert!(!told.contains("not after"), "{told}");
    for (method, path, dropped) in [
        (Method::POST, "/u/", ["d~all", "u~state"]),
        (Method::POST, "/u", ["d~all", "u~state"]),
        (Method::PUT, "/u/7", ["d:7~state", "u~state"]),
        (Method::PUT, "/u/7/", ["d:7~state", "u~state"]),
    ] {
        let drops = drops(&config, &method, &Decoded::of(path)).states;
        let drops: Vec<&str> = drops.iter().map(|state| state.as_str()).collect();
        assert_eq!(drops, dropped, "{method} {path}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let told = load(Path::new("/nowhere/proxy.yaml"), &nothing)
        .unwrap_err()
        .to_string();
    assert!(
        told.starts_with("/nowhere/proxy.yaml: cannot be read"),
        "{told}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.yaml");
    fs::write(&path, b"upstream: \xff").unwrap();
    assert!(
        load(&path, &nothing)
            .unwrap_err()
            .to_string()
            .contains("not UTF-8")
    );
    fs::write(&path, "upstream: http://a").unwrap();
    assert!(load(&path, &nothing).is_ok());
    // As Windows' editors save it.
    fs::write(&path, "\u{FEFF}upstream: http://a\nttl: 60\n").unwrap();
    let told = load(&path, &nothing).unwrap_err().to_string();
    assert!(told.contains(":2:6: ttl: `60` has no unit"), "{told}");
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let told = error("upstream: http://a\nttl: 60\nlisten: 8080\nlogs: {level: inof}\n");
    let places: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("proxy.yaml:"))
        .collect();
    assert_eq!(places.len(), 3, "{told}");
    assert!(
        places[0].starts_with("proxy.yaml:2:6: ttl")
            && places[2].starts_with("proxy.yaml:4:15: logs.level")
    );
}

#[test]
fn check_tells_what_the_proxy_would_do() {
    let loaded = shipped_in(&[
        ("REDIS_URL", "rediss://default:hunter2@eu.upstash.io"),
        ("REDIS_DATABASE", "0"),
    ]);
    let told = describe(&loaded.config);
    for piece in [
        "listen     http://127.0.0.1:8080",
        "rediss://eu.upstash.io:6379, database 0, as default",
        "GET /api/users/<int:id>/",
        "key it360acad:users:detail:{id}, for 1h",
        "each credential has its own copies; every parameter counts; up to 4.0 MiB",
        "PUT PATCH DELETE /api/users/<int:id>/",
        "drops users:list, users:detail:*",
        "every cookie but csrftoken, _ga*, _gid",
    ] {
        assert!(told.contains(piece), "{piece} is not in:\n{told}");
    }
    assert!(!told.contains("hunter2"));
}

#[test]
fn limits_by_client_are_read_and_told() {
    let limits = "limits: {connections: 100, rate: {per: credential, requests: 10, window: 1m}}";
    let loaded = right(&shipped_and(&format!("proxy_protocol: true\n{limits}")));
    let read = &loaded.config.limits;
    // What is left out follows from what is there.
    assert_eq!(read.connections_per_address, 50);
    let rate = Rate {
        per: Per::Credential,
        requests: 10,
        window: Duration::from_secs(60),
        burst: 10,
    };
    assert_eq!(read.rate, Some(rate));
    let told = describe(&loaded.config);
    assert!(
        told.contains("10 requests in 1m for each credential, 10 at once"),
        "{told}"
    );
    assert!(
        told.contains("each connection says first for whom it is"),
        "{told}"
    );
}

#[test]
fn a_coding_is_offered_once_in_the_order_of_the_file() {
    for (said, codings) in [
        ("false", vec![]),
        ("true", vec![Coding::Brotli, Coding::Gzip]),
        ("[gzip, br]", vec![Coding::Gzip, Coding::Brotli]),
        ("[br, gzip, br]", vec![Coding::Brotli, Coding::Gzip]),
    ] {
        let text = format!(
            "upstream: http://a\nroutes: [{{path: /users/, key: list, compress: {said}}}]\npurge: []\n"
        );
        assert_eq!(right(&text).config.routes[0].compress, codings, "{said}");
    }
}

#[test]
fn check_tells_whose_token_is_good() {
    let jwt = |what: &str| {
        let text = format!(
            "upstream: http://127.0.0.1:8000\nroutes:\n  - path: /api/users/\n    key: users:list\n    access: {what}\n"
        );
        describe(&right(&text).config)
    };
    let secret = "{jwt: {secret: 0123456789abcdef0123456789abcdef}}";
    let told = jwt(secret);
    assert!(!told.contains("0123456789"), "{told}");
    for (what, piece) in [
        (
            secret,
            "one copy for all whose token is good: HS256 by the secret;",
        ),
        (
            "{jwt: {jwks_file: tests/config/jwks.json, algorithms: [ES256, RS256], issuer: [a, b], audience: users}, scope: [/role, /tenant]}",
            "one copy for each /role and /tenant for all whose token is good: ES256 or RS256 by tests/config/jwks.json, issued by a or b, for users;",
        ),
        (
            "{jwt: {key_file: tests/config/public.pem, algorithms: [ES256]}}",
            "one copy for all whose token is good: ES256 by tests/config/public.pem;",
        ),
    ] {
        let told = jwt(what);
        assert!(told.contains(piece), "{piece} is not in:\n{told}");
    }
}
