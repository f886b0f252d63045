//! Heads known by their shape. What differs between the requests of one client for one user and for another is mostly the id in
//! the path alone. Where that is so, and makes no other difference than in the key, what is known of one is known of all.
//!
//! Why it makes no other difference: an id is a whole segment of a path that can be read in one way only, so no spelling of it
//! is another's. Routes match segment by segment, and by no route up to the one that matched may a literal in that place tell
//! one id from another (`PathPattern::takes_alike`): so all are that route's. Of the path nothing but the captures goes into
//! what is asked for, and of the captures nothing but the family's key. That is tried, too: what the whole way makes of a few
//! other ids, the longest among them, must be what is made here, or nothing is known by its shape.

use std::ops::Range;

use http::Uri;
use http::uri::PathAndQuery;
use xxhash_rust::xxh3::xxh3_64;

use super::super::plan::{self, Claim};
use super::super::present::{self, Asked, Presented};
use super::super::{Client, Served};
use crate::caching::key::HashingSecret;
use crate::coherence::{Depends, StateKey};
use crate::config::Config;
use crate::message::target;
use crate::route::id::{Id, last_id};
use crate::route::is_plain;

/// Where the target stands in a head.
const TARGET: usize = "GET ".len();

/// The id by which a head may differ from others, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Varying {
    kind: Id,
    at: Range<usize>,
}

/// Where one id stands in all that hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// In the head.
    id: Varying,
    copy: usize,
    family: usize,
    /// In the first state.
    state: usize,
}

impl Varying {
    pub fn of(head: &[u8]) -> Option<Varying> {
        let (kind, at) = last_id(head.strip_prefix(b"GET ")?)?;
        let at = TARGET + at.start..TARGET + at.end;
        Some(Varying { kind, at })
    }

    /// Of a head without it.
    pub fn hash_of_the_rest(&self, head: &[u8]) -> u64 {
        let (before, behind) = (&head[..self.at.start], &head[self.at.end..]);
        xxh3_64(before).rotate_left(32) ^ xxh3_64(behind)
    }

    pub fn text<'h>(&self, head: &'h [u8]) -> &'h str {
        std::str::from_utf8(&head[self.at.clone()]).unwrap_or_default()
    }
}

impl Shape {
    /// Of a head that asked for this under that route, if any other id in its place makes no other difference.
    pub fn of(
        config: &Config,
        served: &[Served],
        client: &Client,
        head: &[u8],
        route: usize,
        asked: &Asked,
        secret: &HashingSecret,
    ) -> Option<Shape> {
        let id = Varying::of(head)?;
        let path = client.target.path();
        let behind = head[TARGET..].strip_prefix(path.as_bytes())?;
        let is_in_path =
            matches!(behind.first(), Some(b' ' | b'?')) && id.at.end <= TARGET + path.len();
        // What is fetched anew after a purge is remembered with its path.
        if !is_in_path || !is_plain(path) || served[route].hottest.is_some() {
            return None;
        }
        let (before, text) = (&path[..id.at.start - TARGET], id.text(head));
        let place = before.matches('/').count() - 1;
        let mut routes = config.routes[..=route].iter();
        if !routes.all(|route| route.path.takes_alike(id.kind, path, place)) {
            return None;
        }
        let mut shape: Option<Shape> = None;
        for other in others(id.kind).into_iter().filter(|other| *other != text) {
            let path = [before, other, &path[before.len() + text.len()..]].concat();
            let others = whole_way(
                config,
                &served[route],
                client,
                &path,
                (route, asked),
                secret,
            )?;
            let shape = match &mut shape {
                Some(shape) => shape,
                none => none.insert(Shape {
                    id: id.clone(),
                    copy: place_of(text, &asked.copy, other, &others.copy)?,
                    family: place_of(text, asked.family.as_str(), other, others.family.as_str())?,
                    state: place_of(text, first_state(asked)?, other, first_state(&others)?)?,
                }),
            };
            if !shape.make(asked, other).is_same(&others) {
                return None;
            }
        }
        shape
    }

    /// Whether a head is of this shape, as `own` is.
    pub fn is_of(&self, own: &[u8], head: &[u8], id: &Varying) -> bool {
        let (ours, theirs) = (&self.id.at, &id.at);
        self.id.kind == id.kind
            && own[..ours.start] == head[..theirs.start]
            && own[ours.end..] == head[theirs.end..]
    }

    /// What is asked for by a head of this shape with this id.
    pub fn make(&self, asked: &Asked, id: &str) -> Asked {
        let mut made = asked.clone();
        made.copy.replace_range(self.from(self.copy), id);
        made.family = asked.family.of_another(self.from(self.family), id);
        let mut own = String::new();
        self.write_state(asked, id, &mut own);
        made.depends = of_another(&asked.depends, &own);
        made
    }

    /// The copy's key alone.
    pub fn write_copy(&self, asked: &Asked, id: &str, into: &mut String) {
        self.write(&asked.copy, self.copy, id, into);
    }

    /// The name of the first state: of all states that alone is its own.
    pub fn write_state(&self, asked: &Asked, id: &str, into: &mut String) {
        let state = first_state(asked).unwrap_or_default();
        self.write(state, self.state, id, into);
    }

    fn write(&self, text: &str, place: usize, id: &str, into: &mut String) {
        let Range { start, end } = self.from(place);
        into.clear();
        for part in [&text[..start], id, &text[end..]] {
            into.push_str(part);
        }
    }

    /// The path of a head of this shape: `own` is the path of the one it was made of.
    pub fn path_in<'h>(&self, head: &'h [u8], own: &str, id: &str) -> &'h str {
        let length = own.len() - self.id.at.len() + id.len();
        std::str::from_utf8(&head[TARGET..TARGET + length]).unwrap_or_default()
    }

    fn from(&self, place: usize) -> Range<usize> {
        place..place + self.id.at.len()
    }
}

/// The same with another first state.
pub fn of_another(depends: &Depends, own: &str) -> Depends {
    let mut depends = depends.clone();
    if let Some(first) = depends.states.first_mut() {
        *first = StateKey::new(own);
    }
    depends
}

fn first_state(asked: &Asked) -> Option<&str> {
    asked.depends.states.first().map(StateKey::as_str)
}

/// What the whole way makes of the same request for another path, if that is a read under this route.
fn whole_way(
    config: &Config,
    served: &Served,
    client: &Client,
    path: &str,
    (route, asked): (usize, &Asked),
    secret: &HashingSecret,
) -> Option<Asked> {
    let target = match client.target.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok()?,
        None => PathAndQuery::try_from(path).ok()?,
    };
    let (method, uri, longest) = (&client.method, Uri::from(target), config.limits.target);
    let target = target::take(method, uri, client.version, &client.fields, longest).ok()?;
    let captures = match plan::claim(config, target.path()) {
        Claim::Canonical {
            route: own,
            captures,
        } if own == route => captures,
        _ => return None,
    };
    let client = Client {
        target,
        ..client.clone()
    };
    let varied = &asked.varied;
    match present::present(config, served, &captures, &client, varied, secret, None) {
        Presented::Asked(asked) => Some(asked),
        _ => None,
    }
}

/// Where `id` stands in `text`, if `others` is the same text with `other` in its place.
fn place_of(id: &str, text: &str, other: &str, others: &str) -> Option<usize> {
    let places = text.match_indices(id).map(|(at, _)| at);
    let mut places = places.filter(|at| {
        let (before, behind) = (&text[..*at], &text[at + id.len()..]);
        let rest = others.strip_prefix(before);
        rest.and_then(|rest| rest.strip_suffix(behind)) == Some(other)
    });
    places.next()
}

/// A few that have little in common with each other: short, usual, longest.
fn others(kind: Id) -> [&'static str; 4] {
    match kind {
        Id::Number => ["0", "7", "4821", "999999999999999999"],
        Id::Uuid => [
            "a0000000-0000-0000-0000-000000000000",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "9f3c21d8-55aa-4e6b-8b1f-c0ffee123456",
            "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::plan::Plan;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Empty;
    use proptest::prelude::*;
    use proptest::test_runner::{Config as Runs, TestRunner};

    const SECRET: HashingSecret = HashingSecret([7; 32]);

    struct World {
        config: Config,
        served: Vec<Served>,
    }

    /// As many of these routes as may stand together.
    fn world(routes: &[String], more: &str) -> World {
        let mut kept: Vec<&String> = Vec::new();
        let parse = |routes: &[&String]| {
            let routes: String = routes
                .iter()
                .map(|route| format!("  - {route}\n"))
                .collect();
            let file = format!("upstream: http://127.0.0.1:1\nttl: 1h\n{more}\nroutes:\n{routes}");
            crate::config::file::parse("t", &file, &|_: &str| None)
        };
        for route in routes {
            kept.push(route);
            if parse(&kept).is_err() {
                kept.pop();
            }
        }
        let fallback = r#"{path: "/api/users/<int:id>/", key: "users:{id}"}"#.to_owned();
        if kept.is_empty() {
            kept.push(&fallback);
        }
        let config = parse(&kept).expect("a configuration").config;
        let served = config
            .routes
            .iter()
            .map(|route| Served::new(&config, route));
        World {
            served: served.collect(),
            config,
        }
    }

    impl World {
        /// What accept, route and present make of it.
        fn long_way(&self, target: &str, fields: &str) -> Option<(usize, Client, Asked)> {
            let mut request = Request::get(target);
            for line in fields.lines() {
                let (name, value) = line.split_once(": ")?;
                request = request.header(name, value);
            }
            let request = request.body(Empty::<Bytes>::new()).ok()?;
            let (client, _) = crate::proxy::accept(&self.config, request, None, None).ok()?;
            let plan = plan::plan(&self.config, &client.method, &client.target, false);
            let Plan::Read { route, captures } = plan else {
                return None;
            };
            let (config, served) = (&self.config, &self.served[route]);
            match present::present(config, served, &captures, &client, &[], &SECRET, None) {
                Presented::Asked(asked) => Some((route, client, asked)),
                _ => None,
            }
        }

        fn shape(
            &self,
            head: &[u8],
            route: usize,
            client: &Client,
            asked: &Asked,
        ) -> Option<Shape> {
            Shape::of(
                &self.config,
                &self.served,
                client,
                head,
                route,
                asked,
                &SECRET,
            )
        }
    }

    fn head(target: &str, fields: &str) -> Vec<u8> {
        format!(
            "GET {target} HTTP/1.1\r\n{}\r\n",
            fields.replace('\n', "\r\n")
        )
        .into_bytes()
    }

    fn segments() -> impl Strategy<Value = String> {
        let one = prop_oneof![
            4 => Just("users".to_owned()),
            4 => "0|7|1[0-9]|[1-9][0-9]{0,17}",
            2 => "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            1 => "me|v1|07|00|%37|\\+7|-7|7a|u7|17|7;x|7%2F8|[1-9][0-9]{18,30}|7\\.0|\\.|\\.\\.|",
        ];
        proptest::collection::vec(one, 1..4).prop_map(|all| format!("/{}", all.join("/")))
    }

    fn targets() -> impl Strategy<Value = String> {
        let query = prop_oneof![
            4 => Just("".to_owned()),
            1 => Just("?page=7".to_owned()),
            1 => Just("?/7/8".to_owned()),
            1 => Just("?".to_owned()),
            // With a long id it is too long.
            1 => (215..235usize).prop_map(|length| format!("?{}", "x".repeat(length))),
        ];
        (segments(), "/?", query).prop_map(|(path, slash, query)| format!("{path}{slash}{query}"))
    }

    fn routes() -> impl Strategy<Value = Vec<String>> {
        let segment = prop_oneof![
            3 => Just("users"),
            4 => Just("<int:#>"),
            2 => Just("<#>"),
            1 => prop::sample::select(vec![
                "7", "12", "v1", "<slug:#>", "<uuid:#>", "u<int:#>", "1<#>", "<#>7", "<path:#>"
            ]),
        ];
        let keys = prop_oneof![4 => Just(1), 1 => Just(2)];
        let access = prop::sample::select(vec!["public", "per-credential"]);
        let route = (proptest::collection::vec(segment, 1..4), "/?", keys, access);
        let written =
            |(n, (segments, slash, times, access)): (usize, (Vec<&str>, String, usize, &str))| {
                let (mut path, mut names) = (String::new(), Vec::new());
                for (at, segment) in segments.iter().enumerate() {
                    let name = ["a", "b", "c", "d"][at];
                    path += &format!("/{}", segment.replace('#', name));
                    if segment.contains('#') {
                        names.extend(vec![format!(":{{{name}}}"); times]);
                    }
                }
                let key = names.concat();
                format!(r#"{{path: "{path}{slash}", key: "k{n}{key}", access: {access}}}"#)
            };
        proptest::collection::vec(route, 1..5)
            .prop_map(move |routes| routes.into_iter().enumerate().map(written).collect())
    }

    #[test]
    fn what_is_made_by_a_shape_is_what_the_whole_way_makes_whatever_the_routes() {
        let (made, uuids) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let fields = prop::sample::select(vec![
            "Host: a\n",
            "Host: a\nAuthorization: Bearer 7\nReferer: /users/7/\n",
            "Host: a\nAccept: text/csv\nCookie: id=7\n",
        ]);
        let more = prop::sample::select(vec!["", "limits: {target: 256B}", "hosts: [a]"]);
        let targets = proptest::collection::vec(targets(), 2..12);
        // Most of the targets are another's but for its segments that are ids.
        let others = proptest::collection::vec(
            "0|7|12|[1-9][0-9]{0,17}|[1-9a-f][0-9a-f]{7}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|07|%37|1e3|[1-9][0-9]{18}",
            4..8,
        );
        let mut runner = TestRunner::new(Runs {
            cases: 600,
            failure_persistence: None,
            ..Runs::default()
        });
        let checked = runner.run(
            &(routes(), more, fields, targets, others),
            |(routes, more, fields, targets, others)| {
                let world = world(&routes, more);
                for target in &targets {
                    let own = head(target, fields);
                    let Some((route, client, asked)) = world.long_way(target, fields) else {
                        continue;
                    };
                    let Some(shape) = world.shape(&own, route, &client, &asked) else {
                        continue;
                    };
                    let Some(Varying { at, .. }) = Varying::of(&own) else {
                        return Err(TestCaseError::fail("a shape has an id"));
                    };
                    let at = at.start - TARGET..at.end - TARGET;
                    let like_it = others.iter().map(|other| {
                        let mut target = target.clone();
                        target.replace_range(at.clone(), other);
                        target
                    });
                    for target in targets.iter().cloned().chain(like_it) {
                        let head = head(&target, fields);
                        let Some(id) = Varying::of(&head) else {
                            continue;
                        };
                        if !shape.is_of(&own, &head, &id) {
                            continue;
                        }
                        made.set(made.get() + 1);
                        uuids.set(uuids.get() + usize::from(id.kind == Id::Uuid));
                        let long_way = world.long_way(&target, fields);
                        prop_assert!(long_way.is_some(), "{} {:?}", target, world.config.routes);
                        let (by, its_client, long_way) = long_way.unwrap();
                        prop_assert_eq!(by, route);
                        let text = id.text(&head);
                        let short = shape.make(&asked, text);
                        prop_assert!(short.is_same(&long_way), "{:?} {:?}", short, long_way);
                        let mut copy = "of another".to_owned();
                        shape.write_copy(&asked, text, &mut copy);
                        prop_assert_eq!(&copy, &long_way.copy);
                        shape.write_state(&asked, text, &mut copy);
                        prop_assert_eq!(of_another(&asked.depends, &copy), long_way.depends);
                        let path = shape.path_in(&head, client.target.path(), text);
                        prop_assert_eq!(path, its_client.target.path());
                    }
                }
                Ok(())
            },
        );
        checked.unwrap();
        assert!(made.get() > 500, "{} were made by a shape", made.get());
        assert!(uuids.get() > 20, "{} of UUIDs", uuids.get());
    }

    fn of(routes: &[&str], target: &str) -> Option<Shape> {
        let routes: Vec<String> = routes.iter().map(|route| (*route).to_owned()).collect();
        let world = world(&routes, "");
        let (route, client, asked) = world.long_way(target, "Host: a\n")?;
        world.shape(&head(target, "Host: a\n"), route, &client, &asked)
    }

    const DETAIL: &str = r#"{path: "/users/<int:id>/", key: "users:{id}"}"#;

    #[test]
    fn a_detail_is_known_by_its_shape_and_what_has_no_id_is_not() {
        for target in [
            "/users/7/",
            "/users/7/?page=2",
            "/users/999999999999999999/",
        ] {
            assert!(of(&[DETAIL], target).is_some(), "{target}");
        }
        let list = r#"{path: /users/, key: "users"}"#;
        assert!(of(&[list, DETAIL], "/users/?id=7").is_none());
        assert!(of(&[DETAIL], "/users/1000000000000000000/").is_none());
    }

    #[test]
    fn where_routes_or_keys_tell_numbers_apart_nothing_is_known_by_its_shape() {
        let first = r#"{path: /users/1/, key: "first"}"#;
        assert!(of(&[first, DETAIL], "/users/7/").is_none());
        // Behind the one that matches it is never reached.
        assert!(
            of(
                &[DETAIL, r#"{path: "/<id>/1/", key: "k:{id}"}"#],
                "/users/7/"
            )
            .is_some()
        );
        let twice = r#"{path: "/users/<int:id>/", key: "users:{id}:{id}"}"#;
        assert!(of(&[twice], "/users/7/").is_none());
        let none = r#"{path: "/users/<int:id>/", key: "users", access: public}"#;
        assert!(of(&[none], "/users/7/").is_none());
    }

    #[test]
    fn what_is_fetched_anew_after_a_purge_is_known_by_each_of_its_heads() {
        let warm = r#"{path: "/users/<int:id>/", key: "users:{id}", warm: 5}"#;
        assert!(of(&[warm], "/users/7/").is_none());
    }
}
