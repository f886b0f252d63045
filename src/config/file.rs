//! Reading proxy.yaml: text in, a checked `Config` or an error with an address out. Nothing else
//! reads the file, and only what stands in here knows that it is YAML.
//!
//! `mirror` is the file as it is written, `value` reads single values, `checks` looks at what two
//! keys say together, `place` and `problem` make the error messages.

mod checks;
pub mod foreign;
mod memory;
mod mirror;
mod place;
mod problem;
mod stores;
mod tls;
mod tokens;
mod upstreams;
mod value;

use std::cell::RefCell;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;
use url::Url;

use self::mirror::{
    AccessMap, Either, File, LimitsMap, List, LogsMap, PurgeMap, QueryMap, RateMap, RouteMap, Text,
    Texts, WarmMap,
};
use self::place::{At, Position};
use self::problem::{Problem, Source, Wrong, wrong};
use self::upstreams::assumed_host;
use self::value::Value;
use super::nearest::nearest;
use super::{
    Access, Config, Limits, LogFormat, Logs, Methods, Origin, OtherParameters, Per, Policy,
    PurgeRule, Query, Rate, Route, Secret, Verify, Warm, WebSocket, WhenStoreIsDown,
};
use crate::caching::origin::Choices;
use crate::message::codings::Coding;
use crate::route::{FamilyPattern, KeyTemplate, PathPattern};
use crate::server::pulse::Patience;

pub use self::problem::ConfigError;
pub use self::value::Env;

/// The shipped file.
pub const EXAMPLE: &str = include_str!("../../proxy.yaml");

/// A file that is right, and what is odd about it nevertheless.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
}

/// What the command line says instead of the file (`--listen --admin --upstream --store`).
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub listen: Option<String>,
    pub admin: Option<String>,
    pub upstream: Option<String>,
    pub store: Option<String>,
    /// Certificates are named and not read: for whoever only asks a running instance, that may hold good ones still.
    pub without_certificates: bool,
}

pub fn load(path: &Path, env: Env) -> Result<Loaded, ConfigError> {
    load_with(path, env, &Overrides::default())
}

pub fn load_with(path: &Path, env: Env, overrides: &Overrides) -> Result<Loaded, ConfigError> {
    let name = path.display().to_string();
    let unread = Source::new(&name, "");
    let bytes = std::fs::read(path).map_err(|error| {
        unread.whole(
            &format!("cannot be read: {error}"),
            "give the file's path with -c, or try `larder demo`, which needs none",
        )
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| unread.whole("the file is not UTF-8", "save it as UTF-8 text"))?;
    parse_with(&name, &text, env, overrides)
}

pub fn parse(name: &str, text: &str, env: Env) -> Result<Loaded, ConfigError> {
    parse_with(name, text, env, &Overrides::default())
}

pub fn parse_with(
    name: &str,
    text: &str,
    env: Env,
    overrides: &Overrides,
) -> Result<Loaded, ConfigError> {
    let source = Source::new(name, text);
    scan(&source, text)?;
    let mut file: File = serde_yaml::from_str(text).map_err(|error| source.yaml(&error))?;
    override_with(&mut file, overrides);
    let reader = Reader {
        env,
        reads_certificates: !overrides.without_certificates,
        source: &source,
        problems: RefCell::default(),
        warnings: RefCell::default(),
    };
    let Some(config) = reader.config(file) else {
        return Err(source.problems(reader.problems.into_inner()));
    };
    Ok(Loaded {
        config,
        warnings: reader.warnings.into_inner(),
    })
}

/// What YAML itself would complain about in a way that helps nobody.
fn scan(source: &Source, text: &str) -> Result<(), ConfigError> {
    let says_something = |line: &str| {
        let line = line.trim_start_matches('\u{FEFF}').trim();
        !(line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
    };
    if !text.lines().any(says_something) {
        return Err(source.whole("the file says nothing", "begin with the shipped proxy.yaml"));
    }
    for (index, line) in text.lines().enumerate() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        if let Some(tab) = indentation.find('\t').filter(|_| !line.trim().is_empty()) {
            let position = Position {
                line: index + 1,
                column: indentation[..tab].chars().count() + 1,
            };
            return Err(source.character(
                position,
                "a tab in the indentation",
                "YAML is indented with spaces",
            ));
        }
    }
    Ok(())
}

fn override_with(file: &mut File, overrides: &Overrides) {
    let given = |value: &Option<String>, flag| {
        value.as_ref().map(|raw| Text {
            raw: raw.clone(),
            flag: Some(flag),
        })
    };
    if let Some(text) = given(&overrides.listen, "--listen") {
        file.listen = Some(text);
    }
    if let Some(text) = given(&overrides.admin, "--admin") {
        file.admin = Some(text);
    }
    if let Some(text) = given(&overrides.upstream, "--upstream") {
        match &mut file.upstream {
            Some(Either::Map(map)) => (map.url, map.urls) = (Some(text), None),
            other => *other = Some(Either::Text(text)),
        }
    }
    if let Some(text) = given(&overrides.store, "--store") {
        file.store.get_or_insert_default().url = Some(text);
    }
}

/// Goes through the mirror and collects what is wrong, so that all of it can be told at once.
struct Reader<'a> {
    env: Env<'a>,
    reads_certificates: bool,
    source: &'a Source<'a>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

/// A route and where its parts stand.
struct ReadRoute {
    route: Route,
    at: At,
}

struct ReadRule {
    rule: PurgeRule,
    at: At,
}

impl Reader<'_> {
    fn config(&self, file: File) -> Option<Config> {
        let root = At::root();
        let listen_at = root.key("listen");
        let admin_at = root.key("admin");
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));

        let listen = self.read(&listen_at, file.listen, loopback(8080), address);
        let admin = self.read(
            &admin_at,
            file.admin,
            Some(loopback(9180)),
            |text| match text {
                "off" | "false" => Ok(None),
                text => address(text).map(Some),
            },
        );
        let tls = self.tls(&root.key("tls"), file.tls);
        let h2c = self.read(&root.key("h2c"), file.h2c, false, value::truth);
        if h2c && tls.is_some() {
            let choose = "changes nothing beside `tls`, where clients choose HTTP/2 by ALPN";
            self.warn(&root.key("h2c"), choose);
        }
        let admin_tls = self.admin_tls(&root.key("admin_tls"), file.admin_tls);
        let admin_token = self.admin_token(&root.key("admin_token"), file.admin_token);
        let upstream = self.upstream(&root.key("upstream"), file.upstream);
        let mut store = self.store(&root.key("store"), file.store.unwrap_or_default());
        let secret = self.long_secret(
            &root.key("secret"),
            file.secret,
            "write one of `openssl rand -hex 32`, the same for all instances, or leave `secret` out",
        );
        if let Some(store) = &mut store {
            store.secret = secret;
        }
        let when_store_is_down = self.read(
            &root.key("when_store_is_down"),
            file.when_store_is_down,
            WhenStoreIsDown::Forward,
            |text| {
                let known = [
                    ("forward", WhenStoreIsDown::Forward),
                    ("refuse_writes", WhenStoreIsDown::RefuseWrites),
                ];
                one_of(text, &known)
            },
        );
        let (memory_size, lease) = self.memory(&root.key("memory"), file.memory);
        let ttl = self.ttl(&root.key("ttl"), file.ttl, Duration::from_secs(3600));
        let routes = self.items(&root.key("routes"), file.routes, |at, map| {
            self.route(at, map, ttl)
        });
        let purge = self.items(&root.key("purge"), file.purge, |at, map| self.rule(at, map));
        let credential_headers = self.headers(
            &root.key("credential_headers"),
            file.credential_headers,
            &["X-Api-Key", "X-Auth-Token", "Proxy-Authorization"],
            "requests that differ only in it share their copies",
        );
        let ignore_cookies = self.texts(
            &root.key("ignore_cookies"),
            file.ignore_cookies,
            &["csrftoken", "_ga*", "_gid"],
            cookie,
        );
        let canonical_origin =
            self.optional(&root.key("canonical_origin"), file.canonical_origin, origin);
        let hosts = self.texts(&root.key("hosts"), file.hosts, &[], host);
        let methods = self.methods(&root.key("methods"), file.methods);
        let trusted_proxies = self.texts(
            &root.key("trusted_proxies"),
            file.trusted_proxies,
            &["127.0.0.0/8", "::1/128"],
            network,
        );
        let proxy_protocol = self.read(
            &root.key("proxy_protocol"),
            file.proxy_protocol,
            false,
            value::truth,
        );
        let drop_headers = self.drop_headers(&root.key("drop_headers"), file.drop_headers);
        let limits = self.limits(&root.key("limits"), file.limits.unwrap_or_default());
        let websocket_at = root.key("websocket");
        let websocket = file.websocket.unwrap_or_default();
        let websocket = WebSocket {
            connections: self.count(
                &websocket_at.key("connections"),
                websocket.connections,
                1024,
                0..=65_536,
            ),
            idle: self.duration(
                &websocket_at.key("idle"),
                websocket.idle,
                Duration::from_secs(300),
                Duration::from_secs(1)..=Duration::from_secs(86_400),
            ),
        };
        let shadow = match file.shadow {
            None => None,
            Some(text) => self.read(&root.key("shadow"), Some(text), None, share),
        };
        let logs = self.logs(&root.key("logs"), file.logs.unwrap_or_default());
        let warm = self.items(&root.key("warm"), file.warm, |at, map| self.warm(at, map));

        // What two keys say together can be judged only where each is right by itself.
        if !self.problems.borrow().is_empty() {
            return None;
        }
        let (mut upstream, store) = (upstream?, store?);
        if let Some(health) = &mut upstream.health
            && health.host.is_empty()
        {
            health.host = assumed_host(canonical_origin.as_ref(), &hosts, &upstream.addresses[0]);
        }
        let takes_certificates = admin_tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        checks::addresses(
            self,
            listen,
            admin,
            admin_token.is_some() || takes_certificates,
            &upstream.addresses,
        );
        checks::routes(self, &routes);
        checks::purges(self, &routes, &purge, &methods);
        checks::limits(self, &limits, &upstream);
        checks::proxy_protocol(self, proxy_protocol, &trusted_proxies);
        checks::memory(self, &routes, &store, memory_size, lease.is_some());
        let store = memory::beside(store, memory_size, lease);
        if !self.problems.borrow().is_empty() {
            return None;
        }
        Some(Config {
            listen,
            tls,
            h2c,
            admin,
            admin_tls,
            admin_token,
            upstream,
            store,
            when_store_is_down,
            memory_size,
            routes: routes.into_iter().map(|read| read.route).collect(),
            purge: purge.into_iter().map(|read| read.rule).collect(),
            credential_headers,
            ignore_cookies,
            canonical_origin,
            hosts,
            methods,
            trusted_proxies,
            proxy_protocol,
            drop_headers,
            limits,
            websocket,
            shadow,
            logs,
            warm,
        })
    }

    fn complain(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn warn(&self, at: &At, warning: impl Display) {
        self.warnings.borrow_mut().push(format!("{at}: {warning}"));
    }

    /// The value with its variables filled in. Complains, and is none, if that cannot be done.
    fn fill(&self, at: &At, text: &Text) -> Option<Value> {
        match Value::fill(text, at, self.env) {
            Ok(value) => {
                if at.is_under("routes") || at.is_under("purge") {
                    value
                        .variables()
                        .for_each(|variable| self.source.keep_unquoted(variable));
                }
                Some(value)
            }
            Err(failed) => {
                let (value, wrong) = *failed;
                self.complain(Problem::with(&value, wrong));
                None
            }
        }
    }

    fn optional<T>(
        &self,
        at: &At,
        text: Option<Text>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.fill(at, &text?)?;
        match parse(value.text.trim()) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                self.complain(Problem::with(&value, wrong));
                None
            }
        }
    }

    fn read<T>(
        &self,
        at: &At,
        text: Option<Text>,
        default: T,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> T {
        self.optional(at, text, parse).unwrap_or(default)
    }

    fn required<T>(
        &self,
        at: &At,
        key: &'static str,
        text: Option<Text>,
        example: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        if text.is_none() {
            self.complain(Problem::at(
                at,
                format!("`{key}` is missing"),
                format!("add `{key}: {example}`"),
            ));
        }
        self.optional(&at.key(key), text, parse)
    }

    fn texts<T>(
        &self,
        at: &At,
        texts: Option<Texts>,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let texts = texts.unwrap_or_else(|| {
            let defaults = default.iter().map(|text| Text {
                raw: (*text).to_owned(),
                flag: None,
            });
            Texts(defaults.collect())
        });
        let items = texts.0.into_iter().enumerate();
        items
            .filter_map(|(i, text)| self.optional(&at.item(i), Some(text), &parse))
            .collect()
    }

    fn items<M, T>(
        &self,
        at: &At,
        list: Option<List<M>>,
        read: impl Fn(At, M) -> Option<T>,
    ) -> Vec<T> {
        let items = list.into_iter().flat_map(|list| list.0).enumerate();
        items.filter_map(|(i, map)| read(at.item(i), map)).collect()
    }

    fn duration(
        &self,
        at: &At,
        text: Option<Text>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.read(at, text, default, |text| {
            within(text, value::duration(text)?, &range, |limit| {
                humantime::format_duration(*limit).to_string()
            })
        })
    }

    fn size(&self, at: &At, text: Option<Text>, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.read(at, text, default, |text| {
            within(text, value::size(text)?, &range, |limit| bytes(*limit))
        })
    }

    fn count(
        &self,
        at: &At,
        text: Option<Text>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        self.read(at, text, default, |text| {
            let number = usize::try_from(value::number(text)?).unwrap_or(usize::MAX);
            within(text, number, &range, usize::to_string)
        })
    }

    fn ttl(&self, at: &At, text: Option<Text>, default: Duration) -> Duration {
        const YEAR: Duration = Duration::from_secs(31_557_600);
        self.duration(at, text, default, Duration::from_secs(1)..=YEAR)
    }

    fn admin_token(&self, at: &At, text: Option<Text>) -> Option<Secret> {
        let value = self.fill(at, &text?)?;
        let token = value.text.trim();
        self.source.keep_secret(token);
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let wrong = wrong(
                "the token holds a character that a header cannot carry",
                "use letters, digits and punctuation, as `openssl rand -hex 32` writes them",
            );
            self.complain(Problem::with(&value, wrong));
            return None;
        }
        if token.len() < 16 {
            self.warn(
                at,
                "fewer than 16 characters can be guessed (try `openssl rand -hex 32`)",
            );
        }
        Some(Secret::new(token))
    }

    fn route(&self, at: At, map: RouteMap, ttl: Duration) -> Option<ReadRoute> {
        let path = self.required(&at, "path", map.path, "/api/users/", |text| {
            Ok(PathPattern::parse(text)?)
        });
        let by_origin = self.read(&at.key("policy"), map.policy, false, policy);
        let key = match (&path, map.key.is_none() && by_origin) {
            (Some(path), true) => KeyTemplate::parse(&key_of(path)).ok(),
            _ => self.required(&at, "key", map.key, "users:list", |text| {
                Ok(KeyTemplate::parse(text)?)
            }),
        };
        let (of_ttl, of_http) = (
            [
                ("etag", map.etag.is_some()),
                ("compress", map.compress.is_some()),
                ("ttl", map.ttl.is_some()),
                ("access", map.access.is_some()),
                ("query", map.query.is_some()),
                ("vary", map.vary.is_some()),
                ("override_origin", map.override_origin.is_some()),
                (
                    "stale_while_revalidate",
                    map.stale_while_revalidate.is_some(),
                ),
                ("jitter", map.jitter.is_some()),
                ("early_refresh", map.early_refresh.is_some()),
                ("negative_ttl", map.negative_ttl.is_some()),
                ("warm", map.warm.is_some()),
            ],
            [
                ("heuristic", map.heuristic.is_some()),
                ("keep_set_cookie", map.keep_set_cookie.is_some()),
                ("keep_parts", map.keep_parts.is_some()),
                (
                    "honour_client_directives",
                    map.honour_client_directives.is_some(),
                ),
            ],
        );
        let out_of_place: &[(&'static str, bool)] = if by_origin { &of_ttl } else { &of_http };
        for (name, _) in out_of_place.iter().filter(|(_, written)| *written) {
            let (cause, help) = match by_origin {
                true => (
                    "counts for nothing under `policy: http`, where the origin alone decides",
                    "leave it out, or leave out `policy: http`",
                ),
                false => (
                    "counts for nothing without `policy: http`",
                    "leave it out, or write `policy: http` on the route",
                ),
            };
            self.complain(Problem::at(&at.key(name), cause, help).beside(&at.key("policy")));
        }
        // A copy is dropped by writes, whoever allows it for how long.
        let usual: &[&str] = if by_origin {
            &[]
        } else {
            &["CDN-Cache-Control"]
        };
        let targeted = self.texts(&at.key("targeted"), map.targeted, usual, header);
        let ttl = self.ttl(&at.key("ttl"), map.ttl, ttl);
        let access = match map.access {
            None => Access::PerCredential,
            Some(Either::Text(text)) => {
                self.read(&at.key("access"), Some(text), Access::PerCredential, access)
            }
            Some(Either::Map(map)) => self.by_verdict(&at.key("access"), map),
        };
        let query = map
            .query
            .map_or(Query::All, |query| self.query(&at.key("query"), query));
        let vary = self.texts(&at.key("vary"), map.vary, &[], |text| match text {
            "*" => Err(wrong(
                "`*` would make every request its own copy",
                "name the fields that split the copy",
            )),
            text => header(text),
        });
        let max_body = self.size(&at.key("max_body"), map.max_body, 4 << 20, 1..=(512 << 20));
        let override_origin = self.read(
            &at.key("override_origin"),
            map.override_origin,
            false,
            value::truth,
        );
        let etag = self.read(&at.key("etag"), map.etag, false, value::truth);
        let compress = self.compress(&at.key("compress"), map.compress);
        const YEAR: Duration = Duration::from_secs(31_557_600);
        let window = |key: &'static str, text| {
            self.duration(&at.key(key), text, Duration::ZERO, Duration::ZERO..=YEAR)
        };
        let stale_while_revalidate = window("stale_while_revalidate", map.stale_while_revalidate);
        let stale_if_error = window("stale_if_error", map.stale_if_error);
        let heuristic = window("heuristic", map.heuristic);
        let truth =
            |key: &'static str, text, default| self.read(&at.key(key), text, default, value::truth);
        let choices = Choices {
            targeted: targeted.clone(),
            heuristic: (!heuristic.is_zero()).then_some(heuristic),
            set_cookie: truth("keep_set_cookie", map.keep_set_cookie, false),
            parts: truth("keep_parts", map.keep_parts, false),
            client_directives: truth(
                "honour_client_directives",
                map.honour_client_directives,
                true,
            ),
            stale_if_error,
        };
        let jitter = self.read(&at.key("jitter"), map.jitter, 0.0, jitter);
        let early_refresh = self.read(
            &at.key("early_refresh"),
            map.early_refresh,
            false,
            value::truth,
        );
        let negative_ttl = map
            .negative_ttl
            .map(|text| self.ttl(&at.key("negative_ttl"), Some(text), ttl));
        let route = Route {
            path: path?,
            key: key?,
            policy: if by_origin {
                Policy::Http(choices)
            } else {
                Policy::Ttl
            },
            ttl,
            access,
            query,
            vary,
            max_body,
            override_origin,
            targeted,
            warm: self.count(&at.key("warm"), map.warm, 0, 0..=1000),
            etag,
            compress,
            stale_while_revalidate,
            stale_if_error,
            jitter,
            early_refresh,
            negative_ttl,
        };
        Some(ReadRoute { route, at })
    }

    /// `{verify: …}` or `{jwt: …}`.
    fn by_verdict(&self, at: &At, mut map: AccessMap) -> Access {
        let Some(jwt) = map.jwt.take() else {
            return self.verify(at, map);
        };
        for (key, written) in [
            ("verify", map.verify.is_some()),
            ("for", map.lasting.is_some()),
            ("refuse_for", map.refusing.is_some()),
        ] {
            if written {
                let (cause, help) = (
                    "counts for nothing beside `jwt`, where the token itself says for how long",
                    "leave it out, or leave out `jwt`",
                );
                self.complain(Problem::at(&at.key(key), cause, help).beside(&at.key("jwt")));
            }
        }
        let scope = self.texts(&at.key("scope"), map.scope, &[], pointer);
        let jwt = self.jwt(&at.key("jwt"), jwt, scope);
        jwt.map_or(Access::PerCredential, Access::Jwt)
    }

    fn verify(&self, at: &At, map: AccessMap) -> Access {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let seconds = Duration::from_secs;
        let path = self.required(at, "verify", map.verify, "/api/users/me/", verify_path);
        // Read before the path is found wanting, so that all that is wrong is told at once.
        let lasting = self.duration(&at.key("for"), map.lasting, seconds(30), seconds(1)..=DAY);
        let refusing = at.key("refuse_for");
        let refusing = self.duration(&refusing, map.refusing, seconds(5), seconds(1)..=DAY);
        let scope = self.texts(&at.key("scope"), map.scope, &[], pointer);
        path.map_or(Access::PerCredential, |path| {
            Access::Verify(Verify {
                path,
                lasting,
                refusing,
                scope,
            })
        })
    }

    fn warm(&self, at: At, map: WarmMap) -> Option<Warm> {
        if map.targets.is_none() {
            let help = "add `targets: [/api/users/]`, paths as clients ask for them";
            self.complain(Problem::at(&at, "`targets` is missing", help));
        }
        let targets = self.texts(&at.key("targets"), map.targets, &["/"], |text| {
            let is_target = text.starts_with('/') && text.parse::<http::Uri>().is_ok();
            is_target.then(|| text.to_owned()).ok_or_else(|| {
                wrong(
                    "this is no path",
                    "write it as clients ask for it: `/api/users/?page=2`",
                )
            })
        });
        let fields = self.texts(&at.key("fields"), map.fields, &[], |text| {
            let (name, value) = text.split_once(':').unwrap_or((text, ""));
            self.source.keep_secret(value.trim());
            let valid = http::HeaderValue::from_str(value.trim()).is_ok() && text.contains(':');
            match (name.trim().parse(), valid) {
                (Ok(name), true) => Ok((name, Secret::new(value.trim()))),
                _ => Err(wrong(
                    "this is no field with a value",
                    "write it as for curl: `\"Authorization: Token ${WARM_TOKEN}\"`",
                )),
            }
        });
        const DAY: Duration = Duration::from_secs(86_400);
        let every = map.every.map(|text| {
            let second = Duration::from_secs(1);
            self.duration(
                &at.key("every"),
                Some(text),
                DAY,
                second..=Duration::from_secs(31_557_600),
            )
        });
        let concurrency = self.count(&at.key("concurrency"), map.concurrency, 4, 1..=256);
        Some(Warm {
            targets,
            fields,
            at_start: self.read(&at.key("at_start"), map.at_start, true, value::truth),
            every,
            concurrency: u16::try_from(concurrency).unwrap_or(u16::MAX),
        })
    }

    /// `true`, `false`, or the codings by name.
    fn compress(&self, at: &At, texts: Option<Texts>) -> Vec<Coding> {
        const ALL: [Coding; 2] = [Coding::Brotli, Coding::Gzip];
        let texts = texts.unwrap_or(Texts(Vec::new()));
        let mut codings = self.texts(at, Some(texts), &[], |text| match text {
            "true" => Ok(ALL.to_vec()),
            "false" => Ok(Vec::new()),
            text => one_of(text, &ALL.map(|coding| (coding.word(), coding))).map(|one| vec![one]),
        });
        let mut codings = codings.drain(..).flatten().collect::<Vec<_>>();
        codings.dedup();
        codings
    }

    fn query(&self, at: &At, query: QueryMap) -> Query {
        let known = [
            ("ignore", OtherParameters::Ignore),
            ("bypass", OtherParameters::Bypass),
            ("reject", OtherParameters::Reject),
        ];
        if query.allow.is_none() {
            let cause = "`allow` is missing: the parameters that count";
            let help = "add `allow: [page]`, or `allow: []` if none does; without `query` every parameter counts";
            self.complain(Problem::at(at, cause, help));
        }
        let names = self.texts(&at.key("allow"), query.allow, &[], |text| {
            match text
                .chars()
                .find(|c| matches!(c, '&' | '=' | '?' | '#') || c.is_whitespace())
            {
                Some(c) => Err(wrong(
                    format!("`{c}` in the name of a parameter"),
                    "write the names alone, decoded: `allow: [page, role]`",
                )),
                None => Ok(text.to_owned()),
            }
        });
        let other = self.read(
            &at.key("other"),
            query.other,
            OtherParameters::Bypass,
            |text| one_of(text, &known),
        );
        Query::Allow { names, other }
    }

    fn rule(&self, at: At, map: PurgeMap) -> Option<ReadRule> {
        if map.methods.is_none() {
            let help = "add `methods: [POST, PUT, PATCH, DELETE]`";
            self.complain(Problem::at(&at, "`methods` is missing", help));
        }
        let methods = self.texts(&at.key("methods"), map.methods, &["POST"], |text| {
            let method = method(text)?;
            if method.is_safe() {
                return Err(wrong(
                    format!("`{method}` reads and purges nothing"),
                    "name the methods that write: POST, PUT, PATCH, DELETE",
                ));
            }
            Ok(method)
        });
        let path = self.required(&at, "path", map.path, "/api/users/", |text| {
            Ok(PathPattern::parse(text)?)
        });
        if map.keys.is_none() {
            let help =
                "add `keys: [\"users:list\"]`, the keys of the routes that this write changes";
            self.complain(Problem::at(&at, "`keys` is missing", help));
        }
        let keys = self.texts(&at.key("keys"), map.keys, &["-"], |text| {
            Ok(FamilyPattern::parse(text)?)
        });
        for (key, empty) in [("methods", methods.is_empty()), ("keys", keys.is_empty())] {
            if empty && self.problems.borrow().is_empty() {
                let cause = format!("`{key}` is empty: this rule does nothing");
                self.complain(Problem::at(
                    &at.key(key),
                    cause,
                    "name at least one, or leave the rule out",
                ));
            }
        }
        Some(ReadRule {
            rule: PurgeRule {
                methods,
                path: path?,
                keys,
            },
            at,
        })
    }

    /// A list of fields. `missing` says what happens without one of the defaults: a list in the file
    /// stands instead of them.
    fn headers(
        &self,
        at: &At,
        texts: Option<Texts>,
        default: &[&'static str],
        missing: &str,
    ) -> Vec<HeaderName> {
        let written = texts.is_some();
        let headers = self.texts(at, texts, default, header);
        let left_out: Vec<&str> = default
            .iter()
            .filter(|name| {
                !headers
                    .iter()
                    .any(|header| header.as_str().eq_ignore_ascii_case(name))
            })
            .copied()
            .collect();
        if written && !left_out.is_empty() {
            self.warn(
                at,
                format!(
                    "leaves out {} of the defaults: {missing}",
                    left_out.join(", ")
                ),
            );
        }
        headers
    }

    fn drop_headers(&self, at: &At, texts: Option<Texts>) -> Vec<HeaderName> {
        let default = [
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "X-Accel-Redirect",
            "X-Sendfile",
            "X-Script-Name",
            "Script-Name",
        ];
        let headers = self.headers(
            at,
            texts,
            &default,
            "a client may change with it what is stored for others",
        );
        for (i, name) in headers.iter().enumerate() {
            let needed = [
                "host",
                "content-length",
                "transfer-encoding",
                "content-type",
                "authorization",
                "cookie",
            ];
            if needed.contains(&name.as_str()) {
                let cause = format!("`{name}` cannot be dropped: the upstream needs it");
                self.complain(Problem::at(&at.item(i), cause, "leave it out of this list"));
            }
        }
        headers
    }

    fn methods(&self, at: &At, texts: Option<Texts>) -> Methods {
        if let Some(Texts(list)) = &texts
            && let [only] = list.as_slice()
            && only.raw.trim() == "any"
        {
            return Methods::Any;
        }
        let default = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let methods = self.texts(at, texts, &default, |text| match method(text)? {
            Method::CONNECT => Err(wrong(
                "`CONNECT` makes tunnels, and is never forwarded",
                "leave it out",
            )),
            method => Ok(method),
        });
        if methods.is_empty() && self.problems.borrow().is_empty() {
            self.complain(Problem::at(
                at,
                "no method would be answered",
                "name some, or write `any`",
            ));
        }
        Methods::Listed(methods)
    }

    fn limits(&self, at: &At, map: LimitsMap) -> Limits {
        let at = |key| at.key(key);
        let bytes =
            |key, text, default: u64, range| self.size(&at(key), text, default, range) as usize;
        let second = Duration::from_secs(1);
        let hour = Duration::from_secs(3600);
        let time = |key, text, default: u64| {
            self.duration(&at(key), text, second * default as u32, second..=hour)
        };
        let connections = self.count(&at("connections"), map.connections, 20_000, 1..=1_000_000);
        Limits {
            target: bytes("target", map.target, 8 << 10, 256..=(64 << 10) - 2),
            fields: self.count(&at("fields"), map.fields, 100, 16..=10_000),
            head: bytes("head", map.head, 32 << 10, (8 << 10)..=(1 << 20)),
            content: self.size(&at("content"), map.content, 1 << 30, 0..=(1 << 50)),
            connections,
            connections_per_address: self.count(
                &at("connections_per_address"),
                map.connections_per_address,
                connections.div_ceil(2),
                1..=1_000_000,
            ),
            streams: self.count(&at("streams"), map.streams, 100, 1..=10_000) as u32,
            handshake_timeout: time("handshake_timeout", map.handshake_timeout, 10),
            patience: Patience {
                header: time("header_timeout", map.header_timeout, 10),
                keep_alive: time("keep_alive", map.keep_alive, 75),
                write_idle: time("write_idle", map.write_idle, 30),
            },
            held: self.size(&at("held"), map.held, 256 << 20, (1 << 20)..=(1 << 40)),
            content_idle: time("content_idle", map.content_idle, 30),
            content_rate: self.size(&at("content_rate"), map.content_rate, 512, 0..=(1 << 20)),
            rate: map.rate.and_then(|rate| self.rate(&at("rate"), rate)),
            drain: self.duration(&at("drain"), map.drain, 30 * second, Duration::ZERO..=hour),
            drain_delay: self.duration(
                &at("drain_delay"),
                map.drain_delay,
                Duration::ZERO,
                Duration::ZERO..=hour,
            ),
            copies: self.count(&at("copies"), map.copies, 10_000, 1..=10_000_000),
        }
    }

    fn rate(&self, at: &At, map: RateMap) -> Option<Rate> {
        let count = |text: &str| {
            let number = u32::try_from(value::number(text)?).unwrap_or(u32::MAX);
            within(text, number, &(1..=1_000_000), u32::to_string)
        };
        let of = [("address", Per::Address), ("credential", Per::Credential)];
        let per = self.read(&at.key("per"), map.per, Per::Address, |text| {
            one_of(text, &of)
        });
        let second = Duration::from_secs(1);
        let window = self.duration(
            &at.key("window"),
            map.window,
            second,
            second..=3600 * second,
        );
        let requests = self.required(at, "requests", map.requests, "100", count);
        let burst = self.optional(&at.key("burst"), map.burst, count);
        let requests = requests?;
        Some(Rate {
            per,
            requests,
            window,
            burst: burst.unwrap_or(requests),
        })
    }

    fn logs(&self, at: &At, map: LogsMap) -> Logs {
        let formats = [
            ("auto", LogFormat::Auto),
            ("json", LogFormat::Json),
            ("text", LogFormat::Text),
        ];
        Logs {
            format: self.read(&at.key("format"), map.format, LogFormat::Auto, |text| {
                one_of(text, &formats)
            }),
            level: self.read(&at.key("level"), map.level, "info".to_owned(), level),
            access: self.read(&at.key("access"), map.access, true, value::truth),
        }
    }
}

fn within<T: PartialOrd>(
    text: &str,
    value: T,
    range: &RangeInclusive<T>,
    tell: impl Fn(&T) -> String,
) -> Result<T, Wrong> {
    let remedy = || {
        format!(
            "choose from {} to {}",
            tell(range.start()),
            tell(range.end())
        )
    };
    if value < *range.start() {
        return Err(wrong(format!("`{text}` is too little"), remedy()));
    }
    if value > *range.end() {
        return Err(wrong(format!("`{text}` is too much"), remedy()));
    }
    Ok(value)
}

/// `4MiB`; whole units only, as the ranges have them.
fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .iter()
        .find(|(bits, _)| bytes >> bits > 0 && bytes.trailing_zeros() >= *bits);
    match whole {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

fn one_of<T: Copy>(text: &str, known: &[(&'static str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let written = text.replace('-', "_");
    let help = match nearest(&written, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("write {}", names.join(" or ")),
    };
    Err(wrong(format!("`{text}` is not known here"), help))
}

/// A part of the whole: `10%`, at most nine tenths.
fn jitter(text: &str) -> Result<f64, Wrong> {
    let percent = text.trim().strip_suffix('%').map(str::trim_end);
    let Some(percent) = percent.and_then(|number| number.parse::<f64>().ok()) else {
        return Err(wrong(
            format!("`{text}` is not a percentage"),
            "write how much of the ttl may be taken off at random, like `10%`",
        ));
    };
    if !(0.0..=90.0).contains(&percent) {
        return Err(wrong(
            format!("`{text}` is not between nothing and nine tenths"),
            "choose from 0% to 90%",
        ));
    }
    Ok(percent / 100.0)
}

/// A part of the whole, none or all of it.
fn share(text: &str) -> Result<Option<f64>, Wrong> {
    if text.trim() == "off" {
        return Ok(None);
    }
    let percent = text.trim().strip_suffix('%').map(str::trim_end);
    match percent.and_then(|number| number.parse::<f64>().ok()) {
        Some(0.0) => Ok(None),
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Some(percent / 100.0)),
        _ => Err(wrong(
            format!("`{text}` is not a percentage"),
            "write of how many hits the API is asked, too, like `1%`, or `off`",
        )),
    }
}

/// What is asked for a verdict: a path, perhaps with a query.
fn verify_path(text: &str) -> Result<String, Wrong> {
    let is_path = text.starts_with('/')
        && !text.starts_with("//")
        && !text.contains(['#', '<'])
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && text.parse::<http::Uri>().is_ok();
    is_path.then(|| text.to_owned()).ok_or_else(|| {
        wrong(
            "this is not a path of the API",
            "write one that answers 2xx to whom it knows, and 401 or 403 to others, like `/api/users/me/`",
        )
    })
}

/// RFC 6901 §3.
fn pointer(text: &str) -> Result<String, Wrong> {
    let escapes = text.split('~').skip(1);
    let is_pointer = text.starts_with('/') && { escapes }.all(|rest| rest.starts_with(['0', '1']));
    is_pointer.then(|| text.to_owned()).ok_or_else(|| {
        wrong(
            format!("`{text}` is not a JSON pointer"),
            "write where the value stands in the answer to `verify`, or in the token's claims, like `/role` or `/profile/tenant`",
        )
    })
}

fn access(text: &str) -> Result<Access, Wrong> {
    match text {
        "per-credential" => Ok(Access::PerCredential),
        "public" => Ok(Access::Public),
        "verify" => Err(wrong(
            "`verify` alone does not say whom to ask",
            "write `access: {verify: /api/users/me/, for: 30s}`",
        )),
        "jwt" => Err(wrong(
            "`jwt` alone does not say which tokens are good",
            "write `access: {jwt: {jwks_file: jwks.json, audience: users-api}}`",
        )),
        text => {
            let known = ["per-credential", "public"];
            let help = match nearest(&text.replace('_', "-"), known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "write `per-credential` or `public`".to_owned(),
            };
            Err(wrong(format!("`{text}` is not known here"), help))
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.contains("://") {
        return Err(wrong(
            format!("`{text}` is a URL, and here stands an address"),
            "write `127.0.0.1:8080`; `http://` is understood",
        ));
    }
    let port = |text: &str| text.parse::<u16>().is_ok();
    let Some((host, number)) = text.rsplit_once(':') else {
        return Err(if text.bytes().all(|b| b.is_ascii_digit()) {
            wrong(
                format!("`{text}` is not an address and port"),
                format!(
                    "write `127.0.0.1:{text}`, or `0.0.0.0:{text}` to be reached from elsewhere"
                ),
            )
        } else {
            wrong(
                format!("`{text}` is not an address and port"),
                "add the port, like `127.0.0.1:8080`",
            )
        });
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(wrong(
            format!("`{text}` is not an address and port"),
            "write an IPv6 address in brackets: `[::1]:8080`",
        ));
    }
    if !port(number) {
        return Err(wrong(
            format!("`{number}` is not a port"),
            "write a number from 1 to 65535, like `127.0.0.1:8080`",
        ));
    }
    match host {
        "localhost" => Ok(SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            number.parse().unwrap_or_default(),
        ))),
        "" | "*" => Err(wrong(
            format!("`{text}` does not say on which address"),
            format!(
                "write `127.0.0.1:{number}`, or `0.0.0.0:{number}` to be reached from elsewhere"
            ),
        )),
        host => Err(wrong(
            format!("`{host}` is not an IP address"),
            format!(
                "write an address of this machine, like `127.0.0.1:{number}`; names are not looked up here"
            ),
        )),
    }
}

fn origin(text: &str) -> Result<Origin, Wrong> {
    let help =
        "write `https://api.example.org`: scheme and host, and the port if it is not the usual one";
    let parsed = Url::parse(text).ok().filter(|_| text.contains("://"));
    let Some(url) = parsed else {
        return Err(wrong(format!("`{text}` is not an origin"), help));
    };
    let scheme = match url.scheme() {
        "https" => "https",
        "http" => "http",
        other => {
            return Err(wrong(
                format!("`{other}` is not the scheme of an origin"),
                help,
            ));
        }
    };
    let Some(host) = url.host_str() else {
        return Err(wrong(format!("`{text}` is not an origin"), help));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("user name and password in an origin", help));
    }
    let after = text.split_once("://").map_or("", |(_, rest)| rest);
    if after.contains(['/', '?', '#']) {
        return Err(wrong("an origin has no path, not even `/`", help));
    }
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    Ok(Origin { scheme, authority })
}

fn host(text: &str) -> Result<String, Wrong> {
    let help = "write `api.example.org`, or `api.example.org:8443` to allow that port only";
    if text.contains("://") || text.contains('/') {
        return Err(wrong(format!("`{text}` is not a host"), help));
    }
    if text.contains('*') || text.starts_with('.') {
        return Err(wrong(
            format!("`{text}` stands for many hosts"),
            "name each host; there are no wildcards",
        ));
    }
    let Ok(authority) = text.parse::<http::uri::Authority>() else {
        return Err(wrong(format!("`{text}` is not a host"), help));
    };
    if text.contains('@') || authority.host().is_empty() || text.ends_with(':') {
        return Err(wrong(format!("`{text}` is not a host"), help));
    }
    Ok(text.to_ascii_lowercase())
}

fn method(text: &str) -> Result<Method, Wrong> {
    let common = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| {
        wrong(
            format!("`{text}` is not a method"),
            "write them like `[POST, PUT]`",
        )
    })?;
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let meant = nearest(text, common).map_or_else(|| text.to_uppercase(), str::to_owned);
        return Err(wrong(
            format!("`{text}` is not a method: they are upper case"),
            format!("did you mean `{meant}`?"),
        ));
    }
    let registered = [
        "TRACE", "CONNECT", "PROPFIND", "REPORT", "SEARCH", "PURGE", "LINK", "COPY", "MOVE", "LOCK",
    ];
    if let Some(meant) = nearest(text, common)
        && meant != text
        && !registered.contains(&text)
    {
        return Err(wrong(
            format!("`{text}` is not a method"),
            format!("did you mean `{meant}`?"),
        ));
    }
    Ok(method)
}

/// Whether it is `http`.
fn policy(text: &str) -> Result<bool, Wrong> {
    one_of(text, &[("http", true), ("ttl", false)])
}

/// The key of a route that names none, as `policy: http` allows: its path, with `:` for `/`.
fn key_of(path: &PathPattern) -> String {
    let mut key = String::from("http");
    for segment in path.as_str().split('/').skip(1) {
        key.push(':');
        match (segment.find('<'), segment.find('>')) {
            (Some(open), Some(close)) => {
                let name = segment[open + 1..close]
                    .rsplit(':')
                    .next()
                    .unwrap_or_default();
                let (before, after) = (literal(&segment[..open]), literal(&segment[close + 1..]));
                key.push_str(&format!("{before}{{{name}}}{after}"));
            }
            _ => key.push_str(&literal(segment)),
        }
    }
    key
}

/// What a key template takes for itself.
fn literal(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part = |c: char| match plain(c) {
        true => c.to_string(),
        false => c
            .to_string()
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect(),
    };
    text.chars().map(part).collect()
}

fn header(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        wrong(
            format!("`{text}` is not the name of a header"),
            "write the name alone, like `X-Api-Key`",
        )
    })
}

fn cookie(text: &str) -> Result<String, Wrong> {
    let (name, prefix) = match text.strip_suffix('*') {
        Some(name) => (name, true),
        None => (text, false),
    };
    if name.is_empty() && prefix {
        return Err(wrong(
            "`*` ignores every cookie, sessions too: one user's answers would go to all",
            "name cookies that are no credential; for an API without users write `access: public`",
        ));
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}*".contains(&b))
    {
        return Err(wrong(
            format!("`{text}` is not the name of a cookie"),
            "write a name, or the beginning of one and `*`: `_ga*`",
        ));
    }
    Ok(text.to_owned())
}

fn network(text: &str) -> Result<IpNet, Wrong> {
    let help = "write an address or a network: `10.0.0.7`, `10.0.0.0/8`, `::1`";
    if let Ok(net) = text.parse::<IpNet>() {
        return if net.trunc() == net {
            Ok(net)
        } else {
            Err(wrong(
                format!("`{text}` names an address within its network"),
                format!(
                    "write `{}` for the network, or the address without `/{}`",
                    net.trunc(),
                    net.prefix_len()
                ),
            ))
        };
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => Err(wrong(format!("`{text}` is not a network"), help)),
    }
}

/// A filter as tracing reads it. It would take a misspelt level for the name of a module.
fn level(text: &str) -> Result<String, Wrong> {
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    for directive in text.split(',') {
        let level = directive
            .rsplit_once('=')
            .map_or(directive, |(_, level)| level)
            .trim();
        if !levels.contains(&level.to_ascii_lowercase().as_str()) {
            let help = match nearest(level, levels) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => {
                    "write error, warn, info, debug or trace; or `info,larder=debug`".to_owned()
                }
            };
            return Err(wrong(format!("`{level}` is not a level"), help));
        }
    }
    Ok(text.to_owned())
}

/// Addresses by which this machine is reached from itself.
fn is_local(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|ip| {
            ip.is_loopback() || ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED
        })
}
