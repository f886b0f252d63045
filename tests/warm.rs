//! `larder warm`: what is asked for through a running instance is kept, and said so.

mod support;

use support::larder::{Larder, run};
use support::origin::{self, Origin};
use support::users_api;

#[test]
fn what_is_warmed_is_a_hit_for_its_first_reader() {
    let origin = Origin::start(|request| match request.target.as_str() {
        "/api/users/9/" => origin::status(404, "{}"),
        _ => origin::json("[]"),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let file = larder.file().display().to_string();
    let lists = run(&["warm", "-c", &file], &[]);
    assert_eq!(lists.status.code(), Some(0), "{lists:?}");
    assert!(lists.output.contains("1 of 1 are kept"), "{lists:?}");
    let host = larder.address().to_string();
    assert!(larder.get_with("/api/users/", &[("Host", &host)]).is_hit());

    let token = ["-H", "Authorization: Token t", "--concurrency", "2"];
    let targets = ["/api/users/?page=2", "/api/users/7/"];
    let named = [&["warm", "-c", &file], &token[..], &targets[..]].concat();
    let named = run(&named, &[]);
    assert_eq!(named.status.code(), Some(0), "{named:?}");
    assert!(!format!("{named:?}").contains("Token t"));
    for target in targets {
        let fields = [("Host", host.as_str()), ("Authorization", "Token t")];
        assert!(larder.get_with(target, &fields).is_hit(), "{target}");
    }
    let count = origin.count();
    assert_eq!(run(&["warm", "-c", &file], &[]).status.code(), Some(0));
    assert_eq!(origin.count(), count, "what is kept is left as it is");

    let absent = run(&["warm", "-c", &file, "/api/users/9/"], &[]);
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
    assert!(
        absent.output.contains("404\t/api/users/9/\tfwd=uri-miss"),
        "{absent:?}"
    );
    assert!(absent.output.contains("0 of 1 are kept"), "{absent:?}");
}

#[test]
fn a_target_that_is_none_and_a_proxy_that_is_away_are_said_with_their_remedy() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let file = larder.file().display().to_string();
    let wrong = run(&["warm", "-c", &file, "users:list"], &[]);
    assert!(
        wrong.output.contains("`users:list` is no path"),
        "{wrong:?}"
    );
    drop(larder);
    let away = users_api(&origin, "memory:", "");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.yaml");
    let port = support::free_port();
    std::fs::write(&path, format!("listen: 127.0.0.1:{port}\n{away}")).unwrap();
    let away = run(&["warm", "-c", path.to_str().unwrap()], &[]);
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(
        away.output.contains("start it with `larder serve`"),
        "{away:?}"
    );
}
