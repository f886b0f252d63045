//! Reading `store`: where the copies are kept. A Redis URL is taken apart by hand, for a password
//! may hold what a URL library would take for the end of the host, and no message may quote it.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::Reader;
use super::mirror::StoreMap;
use super::place::At;
use super::problem::{Problem, Wrong, wrong};
use super::value::number;
use crate::config::{Redis, RedisEndpoint, Secret, Store, StoreAddress};

const PORT: u16 = 6379;
const EXAMPLES: &str =
    "write `memory:`, `redis://host:6379`, `rediss://host:6379` or `redis+unix:///run/redis.sock`";

enum Url {
    Memory,
    Redis(RedisUrl),
}

struct RedisUrl {
    endpoint: RedisEndpoint,
    username: Option<String>,
    password: Option<String>,
    /// The path.
    database: Option<i64>,
}

impl Reader<'_> {
    pub(super) fn store(&self, at: &At, map: StoreMap) -> Option<Store> {
        let url_at = at.key("url");
        // What may be a password is kept out of messages before anything can be said about it.
        let url = match map.url {
            None => Some(Url::Memory),
            Some(text) => {
                for raw in passwords(&text.raw) {
                    self.source.keep_secret(&raw);
                }
                let value = self.fill(&url_at, &text)?;
                for password in passwords(&value.text) {
                    self.source.keep_secret(&password);
                }
                match url(value.text.trim()) {
                    Ok(url) => Some(url),
                    Err(wrong) => {
                        self.complain(Problem::with(&value, wrong));
                        None
                    }
                }
            }
        };
        let database = self.optional(&at.key("database"), map.database, database);
        let prefix = self.read(&at.key("prefix"), map.prefix, "larder".to_owned(), prefix);
        let timeout = self.duration(
            &at.key("timeout"),
            map.timeout,
            Duration::from_millis(250),
            Duration::from_millis(1)..=Duration::from_secs(10),
        );
        let ca_at = at.key("ca_file");
        let ca_file = self.optional(&ca_at, map.ca_file, ca_file);
        let address = match url? {
            Url::Memory => StoreAddress::Memory,
            Url::Redis(mut url) => {
                if let RedisEndpoint::Tls { ca_file: own, .. } = &mut url.endpoint {
                    own.clone_from(&ca_file);
                }
                if let (Some(named), Some(in_url)) = (database, url.database)
                    && named != in_url
                {
                    self.warn(
                        &at.key("database"),
                        format!("database {named} is used, and not {in_url}, which the URL names"),
                    );
                }
                StoreAddress::Redis(Redis {
                    endpoint: url.endpoint,
                    username: url.username,
                    password: url.password.map(Secret::new),
                    database: database.or(url.database).unwrap_or(0),
                })
            }
        };
        let tls = matches!(
            &address,
            StoreAddress::Redis(Redis {
                endpoint: RedisEndpoint::Tls { .. },
                ..
            })
        );
        if ca_file.is_some() && !tls {
            let cause = format!("this is for TLS, and `{url_at}` does not begin with `rediss://`");
            let help = "write `rediss://` in the URL, or leave `ca_file` out";
            self.complain(Problem::at(&ca_at, cause, help).beside(&url_at));
        }
        Some(Store {
            address,
            prefix,
            timeout,
            secret: None,
            memory: None,
        })
    }
}

/// All that may be a password in a URL, right or wrong: as written, and decoded.
fn passwords(url: &str) -> Vec<String> {
    let from = url.rfind("://").map_or(0, |at| at + 3);
    let Some((userinfo, _)) = url[from..].rsplit_once('@') else {
        return Vec::new();
    };
    let password = userinfo
        .split_once(':')
        .map_or(userinfo, |(_, password)| password);
    let decoded = percent_decode_str(password)
        .decode_utf8_lossy()
        .into_owned();
    vec![password.to_owned(), decoded]
}

fn url(text: &str) -> Result<Url, Wrong> {
    if text == "memory:" {
        return Ok(Url::Memory);
    }
    if matches!(text, "memory" | "memory://") {
        return Err(wrong(
            format!("`{text}` is not how the embedded store is named"),
            "write `memory:`",
        ));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(wrong("this is not the URL of a store", EXAMPLES));
    };
    let (userinfo, rest) = match rest.rsplit_once('@') {
        Some((userinfo, rest)) => (userinfo, rest),
        None => ("", rest),
    };
    let (username, password) = match userinfo.split_once(':') {
        Some(both) => both,
        None if userinfo.is_empty() => ("", ""),
        None => {
            return Err(wrong(
                "the store's URL has a user name without a password",
                "write a password alone with a colon before it: `redis://:password@host`",
            ));
        }
    };
    let text_of = |encoded: &str| match percent_decode_str(encoded).decode_utf8() {
        Ok(decoded) => Ok((!decoded.is_empty()).then(|| decoded.into_owned())),
        Err(_) => Err(wrong(
            "user name or password are no UTF-8 after percent-decoding",
            "write a `%` in a password as `%25`",
        )),
    };
    let (username, password) = (text_of(username)?, text_of(password)?);
    if let Some((_, query)) = rest.split_once('?') {
        let name = query.split(['=', '&']).next().unwrap_or_default();
        let help = match name {
            "db" => "leave it out and write `database:` beside `url`",
            _ => {
                "leave `?…` out; what can be set stands beside `url`: database, prefix, timeout, ca_file"
            }
        };
        return Err(wrong(
            "the store's URL has a query, which would have no effect",
            help,
        ));
    }
    if rest.contains('#') {
        return Err(wrong(
            "the store's URL has a `#…`",
            "leave it out: certificates are always verified; for a private authority there is `ca_file`",
        ));
    }
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "redis+unix" {
        if !rest.starts_with('/') || rest.len() < 2 {
            return Err(wrong(
                "the socket is not named by its whole path",
                "write three slashes: `redis+unix:///run/redis.sock`",
            ));
        }
        let endpoint = RedisEndpoint::Unix(PathBuf::from(rest));
        return Ok(Url::Redis(RedisUrl {
            endpoint,
            username,
            password,
            database: None,
        }));
    }
    if scheme != "redis" && scheme != "rediss" {
        let help = match scheme.as_str() {
            "unix" | "redis-socket" => "write `redis+unix:///run/redis.sock`",
            "valkey" | "keydb" => "write `redis://`: the protocol is the same",
            "valkeys" => "write `rediss://`: the protocol is the same",
            "http" | "https" => {
                "write `redis://` or `rediss://`: the store is spoken to in Redis's own protocol"
            }
            _ => EXAMPLES,
        };
        return Err(wrong(
            format!("there is no scheme `{scheme}` for a store"),
            help,
        ));
    }
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path),
        None => (rest, ""),
    };
    let in_url = match path.trim_end_matches('/') {
        "" => None,
        path => Some(database(path).map_err(|_| {
            wrong(
                "behind the host stands what is no database",
                "write the number, like `redis://host:6379/1`, or `database:` beside `url`",
            )
        })?),
    };
    let (host, port) = host_and_port(authority)?;
    let endpoint = match scheme.as_str() {
        "redis" => RedisEndpoint::Tcp { host, port },
        _ => RedisEndpoint::Tls {
            host,
            port,
            ca_file: None,
        },
    };
    Ok(Url::Redis(RedisUrl {
        endpoint,
        username,
        password,
        database: in_url,
    }))
}

fn host_and_port(authority: &str) -> Result<(String, u16), Wrong> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let Some((host, behind)) = v6.split_once(']') else {
                return Err(wrong(
                    "`[` without its `]`",
                    "write an IPv6 address as `redis://[::1]:6379`",
                ));
            };
            (host, behind.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(wrong(
            "the store's URL has no host",
            "write `redis://host:6379`; with a password `redis://:password@host:6379`",
        ));
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if !host.bytes().all(good) {
        return Err(wrong(
            "the store's URL has a host that is no name and no address",
            EXAMPLES,
        ));
    }
    let port = match port {
        None => PORT,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => {
                return Err(wrong(
                    "behind the store's host stands what is no port",
                    "write `redis://host:6379`; with a password `redis://:password@host:6379`",
                ));
            }
        },
    };
    Ok((host.to_owned(), port))
}

fn database(text: &str) -> Result<i64, Wrong> {
    let help = "write a number from 0, as in `SELECT 1`; most servers have 16 databases";
    let number = number(text).map_err(|wrong| Wrong {
        help: help.to_owned(),
        ..wrong
    })?;
    match i32::try_from(number) {
        Ok(number) => Ok(i64::from(number)),
        Err(_) => Err(wrong(format!("`{text}` is no database"), help)),
    }
}

fn prefix(text: &str) -> Result<String, Wrong> {
    if let Some(c) = text
        .chars()
        .find(|c| !c.is_ascii_graphic() || "*?[]\\~".contains(*c))
    {
        return Err(wrong(
            format!("`{}` in the prefix", c.escape_debug()),
            "use letters, digits, `-`, `_`, `.` and `:`",
        ));
    }
    if text.ends_with(':') {
        return Err(wrong(
            "the prefix ends with `:`",
            format!(
                "write `{}`: the colon behind it is put there",
                text.trim_end_matches(':')
            ),
        ));
    }
    if text.len() > 128 {
        return Err(wrong(
            "a prefix of more than 128 characters",
            "it stands before every key: make it short",
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn ca_file(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    let help =
        "name a file with certificates in PEM, which begins with `-----BEGIN CERTIFICATE-----`";
    let bytes = std::fs::read(&path)
        .map_err(|error| wrong(format!("`{text}` cannot be read: {error}"), help))?;
    let mark = b"-----BEGIN CERTIFICATE-----";
    if !bytes.windows(mark.len()).any(|window| window == mark) {
        return Err(wrong(format!("`{text}` holds no certificate"), help));
    }
    Ok(path)
}
