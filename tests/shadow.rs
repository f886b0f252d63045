//! `larder check --against`: what a proxy gives from its store beside what the API says.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use support::larder::{Exit, Larder, run};
use support::origin::{self, Origin};
use support::{PURGE, users_api};

const LIST: &str = "/api/users/";

/// An API of users with roles, and imports that add one; and the proxy before it, with this in its file.
struct World {
    api: Origin,
    larder: Larder,
}

impl World {
    fn with(change: impl Fn(String) -> String) -> World {
        let users = Arc::new(Mutex::new(BTreeMap::from([
            ("ada".to_owned(), "admin".to_owned()),
            ("linus".to_owned(), "student".to_owned()),
        ])));
        let api = Origin::start(move |request| {
            let mut users = users.lock().unwrap();
            if request.method != "GET" {
                let number = users.len();
                users.insert(format!("user{number}"), "student".to_owned());
                return origin::json("{}");
            }
            let role = request.parameter("role");
            let named: Vec<_> = users
                .iter()
                .filter(|(_, is)| role.is_none_or(|role| *is == role))
                .collect();
            origin::json(format!("{named:?}"))
        });
        let imports = "purge:\n  - {methods: POST, path: /api/imports/, keys: [\"users:list\"]}";
        let right = users_api(&api, "memory:", "").replace("purge:", imports);
        let larder = Larder::start(change(right));
        World { api, larder }
    }

    fn check(&self, targets: &[&str]) -> Exit {
        let (file, url) = (
            self.larder.file(),
            format!("http://{}", self.larder.address()),
        );
        let mut arguments = vec!["check", "-c", file.to_str().unwrap(), "--against", &url];
        arguments.extend(targets);
        run(&arguments, &[])
    }

    /// What happens in the life of it.
    fn live(&self) {
        for target in [LIST, "/api/users/?role=admin", "/api/users/?role=student"] {
            self.larder
                .request("GET", target, &[("Host", &self.host())], b"");
        }
        assert_eq!(self.larder.write("POST", "/api/imports/").status, 200);
        self.larder
            .request("GET", LIST, &[("Host", &self.host())], b"");
    }

    /// As the command names it.
    fn host(&self) -> String {
        self.larder.address().to_string()
    }
}

const ALL: [&str; 3] = [LIST, "/api/users/?role=admin", "/api/users/?role=student"];

#[test]
fn nothing_is_reported_where_the_file_is_right() {
    let world = World::with(|right| right);
    world.live();
    let exit = world.check(&ALL);
    assert!(exit.status.success(), "{exit:?}");
    assert!(
        exit.output
            .contains("route\t/api/users/ (users:list)\t3 same, 0 differ"),
        "{exit:?}"
    );
}

#[test]
fn a_missing_purge_rule_is_found() {
    let world = World::with(|right| {
        let rules = right.find("purge:").unwrap();
        format!("{}{PURGE}", &right[..rules])
    });
    world.live();
    let exit = world.check(&ALL);
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.output.contains("differs\t/api/users/\t"), "{exit:?}");
    assert!(
        exit.output.contains("differs\t/api/users/?role=student\t"),
        "{exit:?}"
    );
    assert!(
        exit.output.contains("same\t/api/users/?role=admin\n"),
        "{exit:?}"
    );
    assert!(exit.output.contains("under `purge`"), "{exit:?}");
}

#[test]
fn a_parameter_that_the_key_does_not_hold_is_found() {
    let world = World::with(|right| {
        right.replace(
            "key: users:list}",
            "key: users:list, query: {allow: [page], other: ignore}}",
        )
    });
    world.live();
    let exit = world.check(&ALL);
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.output.contains("same\t/api/users/\n"), "{exit:?}");
    assert!(
        exit.output
            .contains("route\t/api/users/ (users:list)\t1 same, 2 differ"),
        "{exit:?}"
    );
}

#[test]
fn what_is_not_given_from_the_store_or_differs_by_itself_is_no_difference() {
    let world = World::with(|right| right);
    let html = world.check(&["-H", "Accept: text/html", LIST]);
    assert!(html.status.success(), "{html:?}");
    assert!(html.output.contains("no hit\t/api/users/"), "{html:?}");
    drop(world);
    let api = Origin::start(|request| origin::json(request.number.to_string()));
    let larder = Larder::start(users_api(&api, "memory:", ""));
    let world = World { api, larder };
    let exit = world.check(&[]);
    assert!(exit.status.success(), "{exit:?}");
    assert!(exit.output.contains("unsteady\t/api/users/"), "{exit:?}");
    assert_eq!(world.api.count(), 3, "the fill, and twice beside it");
}
