//! What `check` says, for scripts. No secret is in it.

use http::{HeaderName, Method};
use serde_json::{Value, json};

use super::endpoint;
use crate::config::{
    Access, Config, Methods, OtherParameters, Policy, Query, Route, StoreAddress, UpstreamAddress,
    WhenStoreIsDown,
};

/// The whole; durations in seconds, sizes in bytes. What is off or not said is null.
pub fn of(config: &Config) -> Value {
    let scheme = |tls: bool| if tls { "https" } else { "http" };
    let addresses: Vec<String> = { config.upstream.addresses.iter() }
        .map(UpstreamAddress::to_string)
        .collect();
    let admin = config.admin.map(|address| {
        let tls = config.admin_tls.as_ref();
        json!({
            "url": format!("{}://{address}", scheme(tls.is_some())),
            "token": config.admin_token.is_some(),
            "client_certificates": tls.is_some_and(|tls| tls.client_ca.is_some()),
        })
    });
    let (kind, redis, database) = match &config.store.address {
        StoreAddress::Memory => ("memory", None, None),
        StoreAddress::Redis(redis) => ("redis", Some(endpoint(redis)), Some(redis.database)),
    };
    json!({
        "listen": format!("{}://{}", scheme(config.tls.is_some()), config.listen),
        "admin": admin,
        "upstream": {
            "addresses": addresses,
            "max_connections": config.upstream.max_connections,
            "queue": config.upstream.queue,
            "total_seconds": config.upstream.total.as_secs_f64(),
            "lag_seconds": config.upstream.lag.as_secs_f64(),
            "http2": config.upstream.http2,
        },
        "store": {
            "kind": kind,
            "place": redis,
            "database": database,
            "prefix": config.store.prefix,
            "timeout_seconds": config.store.timeout.as_secs_f64(),
        },
        "when_store_is_down": match config.when_store_is_down {
            WhenStoreIsDown::Forward => "forward",
            WhenStoreIsDown::RefuseWrites => "refuse_writes",
        },
        "canonical_origin": config.canonical_origin.as_ref().map(|origin| format!("{}://{}", origin.scheme, origin.authority)),
        "hosts": config.hosts,
        "methods": match &config.methods {
            Methods::Any => Value::Null,
            Methods::Listed(methods) => words(methods),
        },
        "credential_headers": names(&config.credential_headers),
        "ignore_cookies": config.ignore_cookies,
        "routes": config.routes.iter().map(route).collect::<Vec<_>>(),
        "purge": config.purge.iter().map(|rule| {
            let keys: Vec<&str> = rule.keys.iter().map(|key| key.as_str()).collect();
            json!({ "methods": words(&rule.methods), "path": rule.path.as_str(), "keys": keys })
        }).collect::<Vec<_>>(),
    })
}

fn route(route: &Route) -> Value {
    let (access, scope) = match &route.access {
        Access::PerCredential => ("per-credential", None),
        Access::Public => ("public", None),
        Access::Verify(verify) => ("verify", Some(&verify.scope)),
        Access::Jwt(jwt) => ("jwt", Some(&jwt.scope)),
    };
    let query = match &route.query {
        Query::All => Value::Null,
        Query::Allow { names, other } => {
            let other = match other {
                OtherParameters::Ignore => "ignore",
                OtherParameters::Bypass => "bypass",
                OtherParameters::Reject => "reject",
            };
            json!({ "allow": names, "other": other })
        }
    };
    // By the origin's policy neither the ttl nor the access counts.
    let by_ttl = matches!(route.policy, Policy::Ttl);
    json!({
        "path": route.path.as_str(),
        "key": route.key.as_str(),
        "policy": if by_ttl { "ttl" } else { "http" },
        "ttl_seconds": by_ttl.then_some(route.ttl.as_secs_f64()),
        "access": by_ttl.then_some(access),
        "scope": scope,
        "query": query,
        "vary": names(&route.vary),
        "max_body": route.max_body,
        "stale_while_revalidate_seconds": route.stale_while_revalidate.as_secs_f64(),
        "stale_if_error_seconds": route.stale_if_error.as_secs_f64(),
        "negative_ttl_seconds": route.negative_ttl.map(|ttl| ttl.as_secs_f64()),
        "etag": route.etag,
        "compress": !route.compress.is_empty(),
    })
}

fn words(methods: &[Method]) -> Value {
    methods.iter().map(Method::as_str).collect()
}

fn names(fields: &[HeaderName]) -> Value {
    fields.iter().map(HeaderName::as_str).collect()
}
