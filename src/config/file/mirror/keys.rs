//! Keys: which may stand where, and what was meant by one that may not.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Visitor};

use super::{
    AccessMap, AdminTlsMap, ClientCertMap, Complaint, File, HealthMap, JwtMap, LimitsMap, LogsMap,
    MemoryMap, PurgeMap, QueryMap, RateMap, RouteMap, StoreMap, TlsMap, UpstreamMap, WarmMap,
    WebSocketMap,
};
use crate::config::nearest::nearest;

/// Where each key belongs, to say so when it stands elsewhere.
const PLACES: [(&str, &[&str]); 18] = [
    ("at the top", File::KEYS),
    ("under `tls`", TlsMap::KEYS),
    ("under `admin_tls`", AdminTlsMap::KEYS),
    ("under `upstream`", UpstreamMap::KEYS),
    ("under `upstream.client_cert`", ClientCertMap::KEYS),
    ("under `upstream.health`", HealthMap::KEYS),
    ("under `store`", StoreMap::KEYS),
    ("under `memory`", MemoryMap::KEYS),
    ("in a route, under `routes`", RouteMap::KEYS),
    ("under a route's `query`", QueryMap::KEYS),
    ("under a route's `access`", AccessMap::KEYS),
    ("under an access's `jwt`", JwtMap::KEYS),
    ("in a rule, under `purge`", PurgeMap::KEYS),
    ("under `limits`", LimitsMap::KEYS),
    ("under `limits.rate`", RateMap::KEYS),
    ("under `websocket`", WebSocketMap::KEYS),
    ("under `logs`", LogsMap::KEYS),
    ("in an entry, under `warm`", WarmMap::KEYS),
];

/// What other programs call it: the words, a key that stands where they were written, and what to write.
const MEANT: [(&[&str], &str, &str); 6] = [
    (
        &["timeout", "read_timeout"],
        "first_byte",
        "here there are `connect`, `first_byte`, `idle` and `total`",
    ),
    (&["db"], "database", "did you mean `database`?"),
    (
        &["host", "port", "user", "username", "password"],
        "database",
        "it stands in `url`, like `redis://USER:PASSWORD@host:6379`",
    ),
    (
        &["redis", "redis_url"],
        "store",
        "write `store: {url: \"redis://host:6379\"}`",
    ),
    (
        &["invalidate", "invalidation"],
        "purge",
        "did you mean `purge`?",
    ),
    (
        &["public", "per-credential"],
        "verify",
        "write it alone, like `access: public`",
    ),
];

/// Reads a key: it must be known here, and for the first time. As the error is the key's own, its
/// position is, too.
pub(super) struct Key<'a> {
    pub(super) known: &'static [&'static str],
    pub(super) later: &'static [&'static str],
    pub(super) seen: &'a [&'static str],
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, written: &str) -> Result<&'static str, E> {
        if let Some(key) = self.known.iter().copied().find(|key| *key == written) {
            return if self.seen.contains(&key) {
                Err(Complaint::about_known(
                    format!("`{key}` stands here a second time"),
                    "leave one of the two",
                ))
            } else {
                Ok(key)
            };
        }
        if self.later.contains(&written) {
            return Err(Complaint::about_known(
                format!("`{written}` is not in this release"),
                "leave it out for now",
            ));
        }
        let meant = { MEANT.iter() }
            .find(|(words, beside, _)| words.contains(&written) && self.known.contains(beside));
        if let Some((_, _, help)) = meant {
            return Err(Complaint::about(
                format!("there is no key `{written}` here"),
                *help,
            ));
        }
        if written == "<<" {
            return Err(Complaint::about(
                "`<<` is not read: there are no merges here",
                "write the keys out; one value may be an alias (`ttl: *long`)",
            ));
        }
        let elsewhere = PLACES.iter().find(|(_, keys)| keys.contains(&written));
        let help = match (nearest(written, self.known.iter().copied()), elsewhere) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, Some((place, _))) => format!("`{written}` stands {place}"),
            (None, None) => match nearest(written, self.later.iter().copied()) {
                Some(later) => format!("did you mean `{later}`? It is not in this release"),
                // Of what resembles no key it is not even known that it is one.
                None => {
                    let help = format!("here may stand {}", self.known.join(", "));
                    return Err(Complaint::about("there is no such key here", help));
                }
            },
        };
        Err(Complaint::about(
            format!("there is no key `{written}` here"),
            help,
        ))
    }
}
