//! What a key wants of its one value (an address, a host, a method, one word of several), and what to write instead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use http::{HeaderName, Method};
use ipnet::IpNet;
use url::Url;

use super::problem::{Wrong, wrong};
use crate::config::nearest::nearest;
use crate::config::{Access, Origin};

pub(super) fn within<T: PartialOrd>(
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
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .iter()
        .find(|(bits, _)| bytes >> bits > 0 && bytes.trailing_zeros() >= *bits);
    match whole {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

pub(super) fn one_of<T: Copy>(text: &str, known: &[(&'static str, T)]) -> Result<T, Wrong> {
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
pub(super) fn jitter(text: &str) -> Result<f64, Wrong> {
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
pub(super) fn share(text: &str) -> Result<Option<f64>, Wrong> {
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
pub(super) fn verify_path(text: &str) -> Result<String, Wrong> {
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
pub(super) fn pointer(text: &str) -> Result<String, Wrong> {
    let escapes = text.split('~').skip(1);
    let is_pointer = text.starts_with('/') && { escapes }.all(|rest| rest.starts_with(['0', '1']));
    is_pointer.then(|| text.to_owned()).ok_or_else(|| {
        wrong(
            format!("`{text}` is not a JSON pointer"),
            "write where the value stands in the answer to `verify`, or in the token's claims, like `/role` or `/profile/tenant`",
        )
    })
}

pub(super) fn access(text: &str) -> Result<Access, Wrong> {
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

pub(super) fn address(text: &str) -> Result<SocketAddr, Wrong> {
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

pub(super) fn origin(text: &str) -> Result<Origin, Wrong> {
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

pub(super) fn host(text: &str) -> Result<String, Wrong> {
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

pub(super) fn method(text: &str) -> Result<Method, Wrong> {
    let common = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if matches!(text, "any" | "ANY" | "all" | "ALL" | "*") {
        return Err(wrong(
            format!("`{text}` is not a method"),
            "name each, like `[POST, PUT, PATCH, DELETE]`; `any` may stand alone, and only in `methods` of the whole file",
        ));
    }
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
pub(super) fn policy(text: &str) -> Result<bool, Wrong> {
    one_of(text, &[("http", true), ("ttl", false)])
}

pub(super) fn header(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        wrong(
            format!("`{text}` is not the name of a header"),
            "write the name alone, like `X-Api-Key`",
        )
    })
}

pub(super) fn cookie(text: &str) -> Result<String, Wrong> {
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

pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
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
pub(super) fn level(text: &str) -> Result<String, Wrong> {
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
