//! What two keys of proxy.yaml say together. Each rule names both, and points at the second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Method;
use ipnet::IpNet;

use super::Reader;
use super::place::At;
use super::problem::Problem;
use super::routes::{ReadRoute, ReadRule};
use crate::config::nearest::nearest;
use crate::config::{Limits, Methods, PurgeRule, Store, StoreAddress, Upstream, UpstreamAddress};
use crate::proxy::plan::absence_states;
use crate::route::{FamilyPattern, KeyTemplate, PathPattern};

pub(super) fn addresses(
    reader: &Reader,
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    guarded: bool,
    upstreams: &[UpstreamAddress],
) {
    let (listen_at, admin_at) = (At::root().key("listen"), At::root().key("admin"));
    let upstream_at = At::root().key("upstream");
    let any = |ip: IpAddr| ip.is_unspecified();
    if let Some(admin) = admin {
        let same_place = admin.ip() == listen.ip() || any(admin.ip()) || any(listen.ip());
        if admin.port() == listen.port() && admin.port() != 0 && same_place {
            let cause = "the port of `listen`";
            let problem = Problem::at(
                &admin_at,
                cause,
                "give `admin` a port of its own, like 127.0.0.1:9180",
            );
            reader.complain(problem.beside(&listen_at));
        }
        if !admin.ip().is_loopback() && !guarded {
            let cause =
                "can be reached from elsewhere, and `admin_token` is not set: anybody could purge";
            let help = "set `admin_token: ${ADMIN_TOKEN}` or `admin_tls.client_ca`, or bind `admin` to 127.0.0.1, or write `admin: off`";
            reader.complain(Problem::at(&admin_at, cause, help));
        }
    }
    let reaches = |own: SocketAddr| {
        upstreams.iter().any(|upstream| {
            let (UpstreamAddress::Tcp { host, port } | UpstreamAddress::Tls { host, port }) =
                upstream
            else {
                return false;
            };
            let itself = host.parse() == Ok(own.ip());
            let locally = is_local(host) && (any(own.ip()) || own.ip().is_loopback());
            own.port() == *port && (itself || locally)
        })
    };
    for (key, at, own) in [
        ("listen", listen_at, Some(listen)),
        ("admin", admin_at, admin),
    ] {
        if own.is_some_and(reaches) {
            let cause =
                format!("the address of `{key}`: requests would be forwarded to this proxy itself");
            let help = "name the address of the API behind, and give the proxy another port";
            reader.complain(Problem::at(&upstream_at, cause, help).beside(&at));
        }
    }
}

pub(super) fn routes(reader: &Reader, routes: &[ReadRoute]) {
    for (i, read) in routes.iter().enumerate() {
        let (route, path_at, key_at) = (&read.route, read.at.key("path"), read.at.key("key"));
        let mut complete = true;
        for name in route.key.placeholders() {
            if !route.path.names().any(|captured| captured == name) {
                let cause = format!("`{{{name}}}` is not captured by `{path_at}`");
                reader.complain(
                    Problem::at(&key_at, cause, captured(name, &route.path)).beside(&path_at),
                );
                complete = false;
            }
        }
        if !complete {
            continue;
        }
        for name in route.path.names() {
            if !route.key.placeholders().any(|used| used == name) {
                let cause = format!(
                    "`<{name}>` of `{path_at}` is not in the key: different resources would share one copy"
                );
                let help = format!("write `{}:{{{name}}}`", route.key.as_str());
                reader.complain(Problem::at(&key_at, cause, help).beside(&path_at));
            }
        }
        for earlier in &routes[..i] {
            let earlier_path = earlier.at.key("path");
            if earlier.route.path.covers(&route.path) {
                let cause = format!(
                    "this path is never reached: `{earlier_path}` takes all that it matches"
                );
                let help = "the first match wins: leave one out, or put the narrower path first";
                reader.complain(Problem::at(&path_at, cause, help).beside(&earlier_path));
            } else if earlier
                .route
                .key
                .collides(&earlier.route.path, &route.key, &route.path)
            {
                let earlier_key = earlier.at.key("key");
                let cause = format!(
                    "`{}` and `{earlier_key}`, `{}`, can name one family: different resources would share one copy",
                    route.key.as_str(),
                    earlier.route.key.as_str()
                );
                reader.complain(
                    Problem::at(&key_at, cause, "give each route a key of its own")
                        .beside(&earlier_key),
                );
            }
        }
    }
}

pub(super) fn purges(reader: &Reader, routes: &[ReadRoute], rules: &[ReadRule], methods: &Methods) {
    for (i, read) in rules.iter().enumerate() {
        for (k, key) in read.rule.keys.iter().enumerate() {
            let at = read.at.key("keys").item(k);
            match key {
                FamilyPattern::Family(template) => family(reader, routes, read, template, &at),
                FamilyPattern::Group(_) => group(reader, routes, key, &at),
            }
        }
        shadow(reader, &rules[..i], read);
        if let Methods::Listed(listed) = methods {
            let refused = names(
                read.rule
                    .methods
                    .iter()
                    .filter(|method| !listed.contains(method)),
            );
            if !refused.is_empty() {
                reader.warn(
                    &read.at.key("methods"),
                    format!(
                        "`methods` lets no {refused} through, so the rule waits for it in vain"
                    ),
                );
            }
        }
    }
    let plain: Vec<PurgeRule> = rules.iter().map(|rule| rule.rule.clone()).collect();
    for read in routes {
        let purged = rules.iter().any(|rule| {
            rule.rule.keys.iter().any(|key| match key {
                FamilyPattern::Family(key) => {
                    key.collides(&rule.rule.path, &read.route.key, &read.route.path)
                }
                FamilyPattern::Group(group) => Some(group) == read.route.key.group().as_ref(),
            })
        });
        if read.route.negative_ttl.is_some() && absence_states(&plain, &read.route).is_none() {
            let cause = "what was absent would stay so after it was created: not every rule under `purge` names a key without captures, or none is for POST";
            let help = "name one in each rule, like \"users:list\", or leave `negative_ttl` out";
            reader.complain(Problem::at(&read.at.key("negative_ttl"), cause, help));
        }
        if !purged && !read.route.is_by_http() {
            reader.warn(
                &read.at.key("key"),
                format!(
                    "no rule under `purge` names `{}`: only a write to its own path that no rule takes drops it, any other shows after the ttl",
                    read.route.key.pattern()
                ),
            );
        }
    }
}

/// `users:list`, `users:detail:{id}`
fn family(reader: &Reader, routes: &[ReadRoute], read: &ReadRule, key: &KeyTemplate, at: &At) {
    let (path, path_at) = (&read.rule.path, read.at.key("path"));
    let mut complete = true;
    for name in key.placeholders() {
        if !path.names().any(|captured| captured == name) {
            let cause = format!("`{{{name}}}` is not captured by `{path_at}`");
            let help = format!(
                "{}, or write `{}` to drop all of them",
                captured(name, path),
                key.pattern()
            );
            reader.complain(Problem::at(at, cause, help).beside(&path_at));
            complete = false;
        }
    }
    if !complete {
        return;
    }
    let same_shape = routes
        .iter()
        .find(|route| route.route.key.pattern() == key.pattern());
    if let Some(route) = same_shape {
        let route_path = route.at.key("path");
        let pairs = key.placeholders().zip(route.route.key.placeholders());
        for (own, other) in pairs {
            let kind = route.route.path.converter_name(other);
            let (Some(own_kind), Some(kind)) = (path.converter_name(own), kind) else {
                // The route's key names what its own path does not capture, and that is said there.
                return;
            };
            if (own_kind == "int") != (kind == "int") {
                // A write to /users/07/ must drop what /users/7/ keeps.
                let cause = format!(
                    "`{{{own}}}` is captured as {own_kind} here and as {kind} by `{route_path}`: the two name different families"
                );
                let help = format!("capture it as `<{kind}:{own}>` in `{path_at}`");
                reader.complain(Problem::at(at, cause, help).beside(&route_path));
                return;
            }
        }
    }
    let made = routes
        .iter()
        .any(|route| key.collides(path, &route.route.key, &route.route.path));
    if !made {
        let cause = format!("no route makes the key `{}`", key.as_str());
        let help = match nearest_key(routes, key.as_str(), |key| key.as_str().to_owned()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => made_keys(routes, |key| key.as_str().to_owned()),
        };
        reader.complain(Problem::at(at, cause, help));
    }
}

/// `users:detail:*`
fn group(reader: &Reader, routes: &[ReadRoute], key: &FamilyPattern, at: &At) {
    let FamilyPattern::Group(group) = key else {
        return;
    };
    if routes
        .iter()
        .any(|route| route.route.key.group().as_ref() == Some(group))
    {
        return;
    }
    let cause = format!("no route's families are `{}`", key.as_str());
    let help = match nearest_key(routes, key.as_str(), KeyTemplate::pattern) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => made_keys(routes, KeyTemplate::pattern),
    };
    reader.complain(Problem::at(at, cause, help));
}

fn nearest_key(
    routes: &[ReadRoute],
    written: &str,
    tell: impl Fn(&KeyTemplate) -> String,
) -> Option<String> {
    let keys: Vec<String> = routes.iter().map(|route| tell(&route.route.key)).collect();
    nearest(written, keys.iter().map(String::as_str)).map(str::to_owned)
}

fn made_keys(routes: &[ReadRoute], tell: impl Fn(&KeyTemplate) -> String) -> String {
    if routes.is_empty() {
        return "there are no routes: write them under `routes` first".to_owned();
    }
    let keys: Vec<String> = routes
        .iter()
        .map(|route| format!("`{}`", tell(&route.route.key)))
        .collect();
    format!("the routes make {}", keys.join(", "))
}

/// A rule behind one that takes its requests.
fn shadow(reader: &Reader, earlier: &[ReadRule], read: &ReadRule) {
    let path_at = read.at.key("path");
    let takes = |method: &Method| {
        earlier.iter().find(|rule| {
            rule.rule.methods.contains(method) && rule.rule.path.covers(&read.rule.path)
        })
    };
    let methods = &read.rule.methods;
    let Some(first) = methods.iter().find_map(takes) else {
        return;
    };
    let first_at = first.at.key("path");
    let taken = names(methods.iter().filter(|method| takes(method).is_some()));
    if methods.iter().all(|method| takes(method).is_some()) {
        let cause = format!(
            "this rule is never reached: `{first_at}` takes {taken} for all that it matches"
        );
        let help =
            "the first match wins: join the keys into one rule, or put the narrower path first";
        reader.complain(Problem::at(&path_at, cause, help).beside(&first_at));
    } else {
        reader.warn(
            &path_at,
            format!("{taken} never gets here: `{first_at}` takes it first"),
        );
    }
}

pub(super) fn limits(reader: &Reader, limits: &Limits, upstream: &Upstream) {
    let at = At::root().key("limits");
    if limits.head < limits.target {
        let (target_at, head_at) = (at.key("target"), at.key("head"));
        let cause = format!("less than `{target_at}`, which is a part of it");
        reader.complain(
            Problem::at(&head_at, cause, "make `head` the larger one").beside(&target_at),
        );
    }
    if upstream.connect > upstream.total {
        let at = At::root().key("upstream");
        let (connect_at, total_at) = (at.key("connect"), at.key("total"));
        let cause = format!("less than `{connect_at}`, which is a part of it");
        reader.complain(
            Problem::at(&total_at, cause, "make `total` the larger one").beside(&connect_at),
        );
    }
}

/// A connection that nobody may make.
pub(super) fn proxy_protocol(reader: &Reader, required: bool, trusted: &[IpNet]) {
    if required && trusted.is_empty() {
        let (at, trusted_at) = (
            At::root().key("proxy_protocol"),
            At::root().key("trusted_proxies"),
        );
        let cause = format!(
            "nobody could connect: `{trusted_at}` is empty, and only they may say for whom they do"
        );
        let help = "list the balancer's addresses in `trusted_proxies`";
        reader.complain(Problem::at(&at, cause, help).beside(&trusted_at));
    }
}

pub(super) fn memory(
    reader: &Reader,
    routes: &[ReadRoute],
    store: &Store,
    size: u64,
    leased: bool,
) {
    if !matches!(store.address, StoreAddress::Memory) {
        return;
    }
    if leased {
        let at = At::root().key("memory").key("lease");
        reader.warn(&at, "of no use with the embedded store, which is in this process already; it is for copies beside Redis");
    }
    for read in routes {
        if read.route.max_body > size {
            let memory_at = At::root().key("memory").key("size");
            let at = read.at.key("max_body");
            let cause = format!("more than `{memory_at}`, all that the embedded store may use");
            let help = "lower `max_body`, or raise `memory: {size: …}`";
            reader.complain(Problem::at(&at, cause, help).beside(&memory_at));
        }
    }
}

/// How the path would capture this name.
fn captured(name: &str, path: &PathPattern) -> String {
    let names: Vec<&str> = path.names().collect();
    match (nearest(name, names.iter().copied()), names.as_slice()) {
        (Some(meant), _) => format!("did you mean `{{{meant}}}`?"),
        (None, []) => format!("capture it there as `<{name}>` or `<int:{name}>`"),
        (None, names) => format!("the path captures `{{{}}}`", names.join("}`, `{")),
    }
}

fn names<'a>(methods: impl Iterator<Item = &'a Method>) -> String {
    methods.map(Method::as_str).collect::<Vec<_>>().join(", ")
}

/// Addresses by which this machine is reached from itself.
fn is_local(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|ip| {
            ip.is_loopback() || ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED
        })
}
