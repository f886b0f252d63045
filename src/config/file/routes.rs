//! Reading `routes` and `purge`: what is kept, of whom and for how long, and which writes drop it.

use std::time::Duration;

use super::mirror::{AccessMap, Either, PurgeMap, QueryMap, RouteMap, Texts};
use super::place::At;
use super::problem::{Problem, wrong};
use super::scalars::{access, header, jitter, method, one_of, pointer, policy, verify_path};
use super::value;
use super::{DAY, Reader, YEAR};
use crate::caching::origin::Choices;
use crate::config::{Access, OtherParameters, Policy, PurgeRule, Query, Route, Verify};
use crate::message::codings::Coding;
use crate::message::fields::is_ours;
use crate::route::{FamilyPattern, KeyTemplate, PathPattern};

/// A route and where its parts stand.
pub(super) struct ReadRoute {
    pub(super) route: Route,
    pub(super) at: At,
}

pub(super) struct ReadRule {
    pub(super) rule: PurgeRule,
    pub(super) at: At,
}

impl Reader<'_> {
    pub(super) fn route(&self, at: At, map: RouteMap, ttl: Duration) -> Option<ReadRoute> {
        let path = self.required(&at, "path", map.path, "/api/users/", |text| {
            Ok(PathPattern::parse(text)?)
        });
        let by_origin = self.read(&at.key("policy"), map.policy, false, policy);
        let key = match (&path, map.key.is_none() && by_origin) {
            (Some(path), true) => {
                let key = KeyTemplate::parse(&key_of(path));
                let help = "write a `key` on the route";
                key.map_err(|_| {
                    self.complain(Problem::at(&at.key("path"), "no key comes of it", help))
                })
                .ok()
            }
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
            text => match header(text) {
                Ok(name) if is_ours(&name) => Err(wrong(
                    format!("what clients say in `{text}` does not reach the API: that is Larder's own word to it"),
                    "name fields that are the client's, and let the API vary by no other",
                )),
                read => read,
            },
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

    /// `true`, `false`, or the codings by name.
    fn compress(&self, at: &At, texts: Option<Texts>) -> Vec<Coding> {
        const ALL: [Coding; 2] = [Coding::Brotli, Coding::Gzip];
        let texts = texts.unwrap_or(Texts(Vec::new()));
        let said = self.texts(at, Some(texts), &[], |text| match text {
            "true" => Ok(ALL.to_vec()),
            "false" => Ok(Vec::new()),
            text => one_of(text, &ALL.map(|coding| (coding.word(), coding))).map(|one| vec![one]),
        });
        let mut codings = Vec::new();
        for coding in said.into_iter().flatten() {
            if !codings.contains(&coding) {
                codings.push(coding);
            }
        }
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

    pub(super) fn rule(&self, at: At, map: PurgeMap) -> Option<ReadRule> {
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
