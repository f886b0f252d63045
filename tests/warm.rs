//! `larder warm` and `warm:` in the file: what is asked for through a running instance is kept, and said so; and what is
//! fetched anew after a purge, before anybody asks.

mod support;

use std::time::Duration;

use support::larder::{Larder, run};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{eventually, users_api};

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

const LIST: &str = "/api/users/";
const USER: &str = "/api/users/7/";

#[test]
fn what_the_file_warms_is_a_hit_for_its_first_reader_as_soon_as_the_store_is_trusted() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("[]"));
    let warm = "canonical_origin: http://api.example.org\nwarm:\n\
        - {targets: [/api/users/, \"/api/users/?page=2\"]}\n\
        - {targets: /api/users/7/, fields: \"Authorization: Token hush\"}";
    let larder = Larder::start(users_api(&origin, &redis.url(), warm));
    origin.wait_for(3);
    eventually("it is said", || {
        larder.output().matches("\"warmed\"").count() == 2
    });
    for target in [LIST, "/api/users/?page=2"] {
        assert!(larder.get(target).is_hit(), "{target}");
    }
    assert!(!larder.get(USER).is_hit(), "that is another's");
    let mine = larder.get_with(USER, &[("Authorization", "Token hush")]);
    assert!(mine.is_hit(), "{mine:?}");
    assert!(!larder.output().contains("hush"));
    assert!(
        larder.output().contains("\"kept\":2,\"asked\":2"),
        "{}",
        larder.output()
    );
}

#[test]
fn what_the_file_warms_again_and_again_is_there_again_after_its_time() {
    let origin = Origin::start(|request| origin::json(request.number.to_string()));
    let warm = "canonical_origin: http://api.example.org\nwarm:\n\
        - {targets: /api/users/, at_start: false, every: 1s}";
    let yaml = users_api(&origin, "memory:", warm).replace("ttl: 1h", "ttl: 1s");
    let _larder = Larder::start(yaml);
    origin.wait_for(3);
}

#[test]
fn what_has_no_whole_answer_keeps_nothing_else_from_being_warmed() {
    let origin = Origin::start(|request| match request.target.as_str() {
        // Piece by piece, or it would be an error before its head has gone out.
        USER => origin::huge(10_000)
            .chunked()
            .cut_after(8_000)
            .trickling(1_000, Duration::from_millis(20)),
        _ => origin::json("[]"),
    });
    let targets = [USER, LIST];
    let warm = format!(
        "canonical_origin: http://api.example.org\nwarm:\n  - {{targets: {targets:?}, concurrency: 1}}"
    );
    let larder = Larder::start(users_api(&origin, "memory:", &warm));
    eventually("it is said", || {
        larder.output().contains("\"kept\":1,\"asked\":2")
    });
    larder.purge_everything();
    let file = larder.file();
    let exit = run(
        &[
            "warm",
            "-c",
            file.to_str().unwrap(),
            "--concurrency",
            "1",
            USER,
            LIST,
        ],
        &[],
    );
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.output.contains("1 of 2 are kept"), "{exit:?}");
    assert!(exit.output.contains(&format!("-\t{USER}\t")), "{exit:?}");
}

#[test]
fn after_a_purge_what_is_asked_for_most_is_fetched_anew_before_anybody_asks() {
    let origin = Origin::start(|request| origin::json(request.number.to_string()));
    let yaml =
        users_api(&origin, "memory:", "").replace("key: users:list}", "key: users:list, warm: 2}");
    let larder = Larder::start(yaml);
    let fetched = || origin.count_of("GET");
    let mut client = larder.connect();
    for (target, times) in [
        (LIST, 200),
        ("/api/users/?page=2", 100),
        ("/api/users/?page=9", 20),
    ] {
        for _ in 0..times {
            client.get(target);
        }
    }
    for _ in 0..200 {
        client.request("GET", LIST, &[("Authorization", "Token hush")], b"");
    }
    type Purge<'l> = (&'static str, &'l dyn Fn());
    let purges: [Purge; 2] = [
        ("a write", &|| {
            larder.write("PATCH", USER);
        }),
        ("an operator", &|| larder.purge(&["users:list"])),
    ];
    for (who, purge) in purges {
        let before = fetched();
        purge();
        eventually(&format!("the two hottest are fetched after {who}"), || {
            fetched() == before + 2
        });
        for target in [LIST, "/api/users/?page=2"] {
            // Who asks before it is stored joins that fetch.
            eventually(&format!("{target} is there after {who}"), || {
                larder.get(target).is_hit()
            });
        }
        assert_eq!(fetched(), before + 2, "{who}");
    }
    let mine = larder.get_with(LIST, &[("Authorization", "Token hush")]);
    assert!(
        !mine.is_hit(),
        "nobody's credential is used unasked: {mine:?}"
    );
}

#[test]
fn what_is_counted_as_hot_takes_little_however_long_the_heads_that_ask_for_it() {
    let origin = Origin::start(|_| origin::status(404, "{}"));
    let yaml = users_api(&origin, "memory:", "limits: {head: 128KiB}").replace(
        "key: \"users:detail:{id}\"",
        "key: \"users:detail:{id}\", warm: 100",
    );
    let larder = Larder::start(yaml);
    let mut client = larder.connect();
    let junk = "j".repeat(100_000);
    let mut ask = |ids: std::ops::Range<u32>| {
        for id in ids {
            client.request(
                "GET",
                &format!("/api/users/{id}/"),
                &[("X-Junk", &junk)],
                b"",
            );
        }
    };
    // One look-up in eight is counted.
    ask(0..160);
    let before = larder.memory();
    ask(1_000..2_600);
    let grown = larder.memory().saturating_sub(before);
    assert!(grown < 10_000_000, "200 are counted: {grown} bytes");
}
