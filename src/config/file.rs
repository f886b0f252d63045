//! Reading proxy.yaml: text in, a checked `Config` or an error with an address out. Nothing else
//! reads the file, and only what stands in here knows that it is YAML.
//!
//! `mirror` is the file as it is written, `value` and `scalars` read single values, `routes`,
//! `limits` and the others what stands under one key, `checks` looks at what two keys say together,
//! `place` and `problem` make the error messages.

mod checks;
pub mod foreign;
mod limits;
mod memory;
mod mirror;
mod place;
mod problem;
mod routes;
mod scalars;
mod stores;
mod tls;
mod tokens;
mod upstreams;
mod value;

use std::cell::RefCell;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, Method};

use self::mirror::{Either, File, List, LogsMap, Text, Texts, WarmMap};
use self::place::{At, Position};
use self::problem::{Problem, Source, Wrong, wrong};
use self::scalars::{
    address, bytes, cookie, header, host, level, method, network, one_of, origin, share, within,
};
use self::upstreams::assumed_host;
use self::value::Value;
use super::{Config, LogFormat, Logs, Methods, Secret, Warm, WebSocket, WhenStoreIsDown};

pub use self::problem::ConfigError;
pub use self::value::Env;

/// A duration as the file has it, for the command line. `Err` says what is wrong and what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    value::duration(text).map_err(|wrong| format!("{}: {}", wrong.cause, wrong.help))
}

/// The shipped file.
pub const EXAMPLE: &str = include_str!("../../proxy.yaml");

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(31_557_600);

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
    // Windows' editors put a byte order mark before it.
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
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
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
    };
    if !text.lines().any(says_something) {
        return Err(source.whole("the file says nothing", "begin with the shipped proxy.yaml"));
    }
    for (index, line) in text.lines().enumerate() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        if let Some(other) = indentation
            .find(|c| c != ' ')
            .filter(|_| !line.trim().is_empty())
        {
            let position = Position {
                line: index + 1,
                column: indentation[..other].chars().count() + 1,
            };
            let cause = match indentation[other..].starts_with('\t') {
                true => "a tab in the indentation",
                false => "a blank in the indentation that is no space, such as a no-break space",
            };
            return Err(source.character(position, cause, "YAML is indented with spaces"));
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
                "no" | "none" | "null" | "~" => Err(wrong(
                    format!("`{text}` is not an address and port"),
                    "write `off` for none",
                )),
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
                Duration::from_secs(1)..=DAY,
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
            let (name, value) = text.split_once(':').unwrap_or(("", text));
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
        let every = map.every.map(|text| {
            let second = Duration::from_secs(1);
            self.duration(&at.key("every"), Some(text), DAY, second..=YEAR)
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
            // What Daphne takes off the path, whoever says so.
            "Daphne-Root-Path",
            // By these Rack, gunicorn and others are told of https, as by X-Forwarded-Proto, which is ours to say.
            "X-Forwarded-Scheme",
            "X-Forwarded-Protocol",
            "X-Url-Scheme",
            "Front-End-Https",
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
