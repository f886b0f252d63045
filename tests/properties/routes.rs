//! Paths, keys and what is forwarded. Input: a path pattern, a key template, then targets, a line each.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use larder::caching::key::{HashingSecret, family_state};
use larder::config::Config;
use larder::proxy::plan::{self, Plan};
use larder::proxy::present::{self, Asked, Presented};
use larder::proxy::{self, Client, Served};
use larder::route::{Decoded, KeyTemplate, PathPattern};

const SECRET: HashingSecret = HashingSecret([7; 32]);

struct World {
    config: Config,
    served: Vec<Served>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let file = r#"
upstream: http://127.0.0.1:8000
ttl: 1h
routes:
  - {path: /api/users/, key: "users:list", access: public}
  - {path: "/api/users/<int:id>/", key: "users:detail:{id}", access: public}
  - {path: /api/roles/, key: "roles", access: public, query: {allow: [page, role], other: ignore}}
  - {path: "/api/roles/<slug:name>", key: "roles:{name}", access: public, query: {allow: [page], other: bypass}}
  - {path: "/api/keys/<uuid:key>.json", key: "keys:{key}", access: public, query: {allow: [], other: reject}}
  - {path: "/é/<str:a>/x<str:b>y", key: "odd:{a}:{b}", access: public}
  - {path: "/files/<path:rest>", key: "files:{rest}", access: public}
"#;
    let loaded = larder::config::file::parse("proxy.yaml", file, &|_| None);
    let config = loaded.expect("a configuration").config;
    let served = config
        .routes
        .iter()
        .map(|route| Served::new(&config, route));
    World {
        served: served.collect(),
        config,
    }
});

pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let pattern = PathPattern::parse(lines.next().unwrap_or_default());
    let template = KeyTemplate::parse(lines.next().unwrap_or_default());
    let clients: Vec<Client> = lines.take(4).filter_map(client).collect();
    let asked: Vec<Option<(usize, Asked, String)>> = clients.iter().map(asked).collect();
    for (client, asked) in clients.iter().zip(&asked) {
        if let Some((_, asked, _)) = asked {
            // No rule names it: a write to what a route keeps drops that all the same.
            let write = plan::plan(&WORLD.config, &Method::PUT, &client.target, true);
            let own = family_state(asked.family.as_str());
            let Plan::Write { states, .. } = write else {
                panic!("{:?} is kept, and a write drops nothing", client.target);
            };
            assert!(states.iter().any(|state| state.as_str() == own));
        }
    }
    for (first, second) in pairs(&asked) {
        // Equal keys are equal requests: of the same route, with the very same target.
        assert_eq!(
            first.1.copy == second.1.copy,
            (first.0, &first.2) == (second.0, &second.2)
        );
    }
    if let Ok(pattern) = &pattern {
        for client in &clients {
            reads_alike(pattern, template.as_ref().ok(), client.target.path());
        }
        assert!(pattern.covers(pattern));
    }
}

/// Whose request would be let in.
fn client(text: &str) -> Option<Client> {
    let request = Request::get(text).header("Host", "a.example");
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let (client, _) = proxy::accept(&WORLD.config, request, None, None).ok()?;
    Some(client)
}

/// Under which route it is looked up, as what, and the target that would fill it.
fn asked(client: &Client) -> Option<(usize, Asked, String)> {
    let World { config, served } = &*WORLD;
    let plan = plan::plan(config, &Method::GET, &client.target, false);
    let Plan::Read { route, captures } = plan else {
        return None;
    };
    let served = &served[route];
    let Presented::Asked(asked) =
        present::present(config, served, &captures, client, &[], &SECRET, None)
    else {
        return None;
    };
    let fill = present::fill(config, &served.route, client, &asked);
    let sent = fill.target.as_str().to_owned();
    assert!(sent.starts_with(client.target.path()), "{sent}");
    Some((route, asked, sent))
}

fn pairs<T>(all: &[Option<T>]) -> impl Iterator<Item = (&T, &T)> {
    let there = all.iter().flatten();
    there
        .clone()
        .flat_map(move |one| there.clone().map(move |other| (one, other)))
}

/// What may be looked up is purged under the same name, and a name is one value's alone.
fn reads_alike(pattern: &PathPattern, template: Option<&KeyTemplate>, path: &str) {
    let decoded = Decoded::of(path);
    let Some(captures) = pattern.match_canonical(path) else {
        let _ = pattern.match_decoded(&decoded);
        return;
    };
    assert_eq!(pattern.match_decoded(&decoded).as_ref(), Some(&captures));
    assert_eq!(pattern.filled(&captures), path);
    if let Some(template) = template
        && let Some(family) = template.family(&captures)
    {
        assert!(template.matches_family(family.as_str()));
        assert!(!family.as_str().contains(['~', '*', ' ']));
    }
}
