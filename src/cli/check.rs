//! `larder check`: reads the file as `serve` would, and says what it would do.

pub mod facts;

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderName, Method};

use crate::caching::origin::Choices;
use crate::config::{
    Access, Config, Jwt, KeySource, MemoryTier, Methods, OtherParameters, Per, Policy, Query,
    Redis, RedisEndpoint, Route, Store, StoreAddress, Upstream, UpstreamAddress, WhenStoreIsDown,
};
use crate::explain;

/// What a proxy with this configuration does, for a reader in a hurry. No secret is in it.
pub fn describe(config: &Config) -> String {
    let mut told = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(told, "{name:<10} {text}");
    };
    match &config.tls {
        None if config.h2c => line("listen", format!("http://{}, also HTTP/2", config.listen)),
        None => line("listen", format!("http://{}", config.listen)),
        Some(tls) => {
            line("listen", format!("https://{}", config.listen));
            for files in &tls.pairs {
                let (cert, key) = (files.cert.display(), files.key.display());
                line("", format!("with the certificate {cert} and the key {key}"));
            }
        }
    }
    line("admin", admin(config));
    line("upstream", upstream(&config.upstream));
    line("store", store(config));
    line(
        "store down",
        when_down(config.when_store_is_down).to_owned(),
    );
    if let Some(origin) = &config.canonical_origin {
        line(
            "origin",
            format!(
                "fills are asked under {}://{}",
                origin.scheme, origin.authority
            ),
        );
    }
    if !config.hosts.is_empty() {
        line(
            "hosts",
            format!("{}, and no other", config.hosts.join(", ")),
        );
    }
    if let Methods::Listed(methods) = &config.methods {
        line("methods", names(methods));
    }
    line("credential", credential(config));
    if config.proxy_protocol {
        let said = "each connection says first for whom it is, and comes from a trusted proxy";
        line("clients", said.to_owned());
    }
    if let Some(rate) = &config.limits.rate {
        let per = match rate.per {
            Per::Address => "address",
            Per::Credential => "credential",
        };
        let (requests, window, burst) = (rate.requests, duration(rate.window), rate.burst);
        line(
            "rate",
            format!("{requests} requests in {window} for each {per}, {burst} at once; hits count"),
        );
    }

    if let Some(share) = config.shadow {
        let percent = share * 100.0;
        line(
            "shadow",
            format!("of {percent}% of the hits the API is asked, too"),
        );
    }

    let _ = writeln!(
        told,
        "\nkept ({}, the first match wins)",
        config.routes.len()
    );
    for route in &config.routes {
        let _ = writeln!(told, "  GET {}", route.path.as_str());
        let key = format!("{}:{}", config.store.prefix, route.key.as_str());
        if let Policy::Http(choices) = &route.policy {
            by_http(&mut told, &key, route, choices);
            continue;
        }
        let _ = writeln!(told, "    key {key}, for {}", duration(route.ttl));
        let access = match &route.access {
            Access::PerCredential => "each credential has its own copies".to_owned(),
            Access::Public => "one copy for all, fetched without credentials".to_owned(),
            Access::Verify(verify) => {
                let each = match verify.scope.as_slice() {
                    [] => "one copy".to_owned(),
                    scope => format!("one copy for each {}", scope.join(" and ")),
                };
                format!(
                    "{each} for all whom GET {} admits, asked every {}, fetched by who sends one credential alone",
                    verify.path,
                    duration(verify.lasting)
                )
            }
            Access::Jwt(jwt) => by_token(jwt),
        };
        let _ = writeln!(
            told,
            "    {access}; {}; up to {}",
            query(&route.query),
            size(route.max_body)
        );
        if !route.vary.is_empty() {
            let _ = writeln!(told, "    split by {}", headers(&route.vary));
        }
        if route.override_origin {
            let _ = writeln!(told, "    the ttl wins over the origin's own freshness");
        }
        for going_out in explain::going_out(route) {
            let _ = writeln!(told, "    {going_out}");
        }
        for said in timing(route) {
            let _ = writeln!(told, "    {said}");
        }
    }
    let _ = writeln!(
        told,
        "\npurged ({}, the first match wins)",
        config.purge.len()
    );
    for rule in &config.purge {
        let keys: Vec<&str> = rule.keys.iter().map(|key| key.as_str()).collect();
        let _ = writeln!(told, "  {} {}", names(&rule.methods), rule.path.as_str());
        let _ = writeln!(told, "    drops {}", keys.join(", "));
    }
    told
}

/// Who is given which copy by a token.
fn by_token(jwt: &Jwt) -> String {
    let each = match jwt.scope.as_slice() {
        [] => "one copy".to_owned(),
        scope => format!("one copy for each {}", scope.join(" and ")),
    };
    let algorithms: Vec<String> = { jwt.algorithms.iter() }
        .map(|algorithm| format!("{algorithm:?}"))
        .collect();
    let keys = match &jwt.keys {
        KeySource::Secret(_) => "the secret".to_owned(),
        KeySource::Pem(path) | KeySource::Jwks(path) => path.display().to_string(),
    };
    let of = |word: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(", {word} {}", names.join(" or ")),
    };
    format!(
        "{each} for all whose token is good: {} by {keys}{}{}",
        algorithms.join(" or "),
        of("issued by", &jwt.issuer),
        of("for", &jwt.audience)
    )
}

/// A route that obeys the origin.
fn by_http(told: &mut String, key: &str, route: &Route, choices: &Choices) {
    let mut line = |said: String| told.push_str(&format!("    {said}\n"));
    line(format!(
        "key {key}, for as long as the origin says, and shared by all unless it says otherwise; up to {}",
        size(route.max_body)
    ));
    if !choices.targeted.is_empty() {
        line(format!(
            "{} wins over Cache-Control",
            headers(&choices.targeted)
        ));
    }
    if let Some(most) = choices.heuristic {
        line(format!(
            "without a word, a tenth of its age, {} at most",
            duration(most)
        ));
    }
    if choices.set_cookie {
        line("also with Set-Cookie".to_owned());
    }
    if choices.parts {
        line("parts (206) are kept, too".to_owned());
    }
    if !choices.client_directives {
        line("what a client's Cache-Control asks for does not count".to_owned());
    }
    for said in timing(route) {
        line(said);
    }
}

/// What a route says of time beyond its ttl.
fn timing(route: &Route) -> Vec<String> {
    let mut said = Vec::new();
    if !route.stale_while_revalidate.is_zero() {
        let window = duration(route.stale_while_revalidate);
        said.push(format!(
            "served for {window} past its time while it is refreshed"
        ));
    }
    if !route.stale_if_error.is_zero() {
        let window = duration(route.stale_if_error);
        said.push(format!(
            "stands in for {window} past its time for an API that fails"
        ));
    }
    if route.jitter > 0.0 {
        let part = route.jitter * 100.0;
        said.push(format!("up to {part}% of the ttl taken off at random"));
    }
    if route.early_refresh {
        said.push("refreshed before its time, if it is asked for".to_owned());
    }
    if let Some(ttl) = route.negative_ttl {
        said.push(format!("a 404 or 410 for {}", duration(ttl)));
    }
    said
}

fn admin(config: &Config) -> String {
    match (config.admin, &config.admin_token) {
        (None, _) => "off".to_owned(),
        (Some(address), token) => {
            let tls = config.admin_tls.as_ref();
            let scheme = tls.map_or("http", |_| "https");
            let certificates = tls.is_some_and(|tls| tls.client_ca.is_some());
            let guard = match (token, certificates) {
                (Some(_), true) => "with a token or a client certificate",
                (Some(_), false) => "with a token",
                (None, true) => "with a client certificate",
                (None, false) => "without a token",
            };
            format!("{scheme}://{address}, {guard}")
        }
    }
}

fn upstream(upstream: &Upstream) -> String {
    let addresses: Vec<String> = upstream
        .addresses
        .iter()
        .map(UpstreamAddress::to_string)
        .collect();
    let mut told = format!(
        "{}, {} requests at once and {} waiting, each {} at most",
        addresses.join(" "),
        upstream.max_connections,
        upstream.queue,
        duration(upstream.total)
    );
    if !upstream.lag.is_zero() {
        let _ = write!(
            told,
            ", reads up to {} behind writes",
            duration(upstream.lag)
        );
    }
    if upstream.http2 {
        told.push_str(", in HTTP/2");
    }
    if let Some(file) = &upstream.ca_file {
        let _ = write!(told, ", trusting {}", file.display());
    }
    if let Some(identity) = &upstream.client_cert {
        let _ = write!(told, ", showing {}", identity.cert.display());
    }
    if let [_, _, ..] = upstream.addresses.as_slice() {
        let _ = write!(
            told,
            "; the least busy is asked, another after {} of silence",
            duration(upstream.silent)
        );
    }
    if let Some(health) = &upstream.health {
        let _ = write!(
            told,
            "; each is looked at by GET {} (Host: {}) every {}",
            health.path,
            health.host,
            duration(health.every)
        );
    }
    told
}

fn store(config: &Config) -> String {
    let Store {
        address,
        prefix,
        timeout,
        secret,
        memory,
    } = &config.store;
    let keyed = match secret {
        Some(_) => ", credentials hashed by the file's secret",
        None => "",
    };
    match address {
        StoreAddress::Memory => {
            format!(
                "in this process, {} at most, keys under {prefix}:{keyed}",
                size(config.memory_size)
            )
        }
        StoreAddress::Redis(redis) => format!(
            "{}, keys under {prefix}:, {} for a command{keyed}{}",
            endpoint(redis),
            duration(*timeout),
            memory.map(tier).unwrap_or_default()
        ),
    }
}

fn tier(memory: MemoryTier) -> String {
    let MemoryTier { size: bytes, lease } = memory;
    let asked = match lease.is_zero() {
        true => "each hit asks the store for its states alone".to_owned(),
        false => {
            let lease = duration(lease);
            format!(
                "for {lease} a hit asks nobody, and every write at every instance waits {lease}"
            )
        }
    };
    format!(
        "; copies in this process, too, {} at most: {asked}",
        size(bytes)
    )
}

fn endpoint(redis: &Redis) -> String {
    let (place, trust) = match &redis.endpoint {
        RedisEndpoint::Tcp { host, port } => (format!("redis://{}", authority(host, *port)), None),
        RedisEndpoint::Tls {
            host,
            port,
            ca_file,
        } => (
            format!("rediss://{}", authority(host, *port)),
            ca_file.as_ref(),
        ),
        RedisEndpoint::Unix(path) => (format!("redis+unix://{}", path.display()), None),
    };
    let mut told = format!("{place}, database {}", redis.database);
    match (&redis.username, &redis.password) {
        (Some(name), _) => {
            let _ = write!(told, ", as {name}");
        }
        (None, Some(_)) => told.push_str(", with a password"),
        (None, None) => {}
    }
    if let Some(file) = trust {
        let _ = write!(told, ", trusting {}", file.display());
    }
    told
}

fn when_down(choice: WhenStoreIsDown) -> &'static str {
    match choice {
        WhenStoreIsDown::Forward => "writes are forwarded",
        WhenStoreIsDown::RefuseWrites => "writes are refused with 503",
    }
}

fn credential(config: &Config) -> String {
    let mut told = String::from("Authorization");
    for name in &config.credential_headers {
        let _ = write!(told, ", {name}");
    }
    told.push_str(", every cookie");
    if !config.ignore_cookies.is_empty() {
        let _ = write!(told, " but {}", config.ignore_cookies.join(", "));
    }
    told
}

fn query(query: &Query) -> String {
    match query {
        Query::All => "every parameter counts".to_owned(),
        Query::Allow { names, other } => {
            let counted = match names.as_slice() {
                [] => "no parameter counts".to_owned(),
                names => format!("{} count", names.join(", ")),
            };
            let rest = match other {
                OtherParameters::Ignore => "others are left out",
                OtherParameters::Bypass => "with others it is not cached",
                OtherParameters::Reject => "others are refused with 400",
            };
            format!("{counted}, {rest}")
        }
    }
}

fn names(methods: &[Method]) -> String {
    methods
        .iter()
        .map(Method::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

fn headers(names: &[HeaderName]) -> String {
    names
        .iter()
        .map(HeaderName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).to_string()
}
