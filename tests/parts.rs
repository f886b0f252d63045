//! The parts that other tests stand on do what they say: Redis, the scripted origin, the client.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use support::client::Connection;
use support::origin::{self, Origin};
use support::redis::{RedisServer, Reply};
use support::{Framing, Gate, pattern};

#[test]
fn a_redis_keeps_raw_bytes_and_forgets_them_when_it_is_killed() {
    let mut redis = RedisServer::start();
    let value: Vec<u8> = (0..=255).collect();
    redis.run(&[&b"SET"[..], b"key", &value]).unwrap_ok();
    assert_eq!(redis.get("key"), Some(value));
    assert_eq!(
        (redis.keys(), redis.keys_in(0)),
        (vec!["key".to_owned()], vec![])
    );
    let port = redis.port();
    redis.kill();
    redis.start_again();
    assert_eq!((redis.port(), redis.get("key")), (port, None));
}

#[test]
fn a_redis_over_tls_has_no_plain_port_and_a_ca_of_its_own() {
    let redis = RedisServer::builder().tls().start();
    assert!(redis.url().starts_with("rediss://127.0.0.1:"));
    let ca = std::fs::read_to_string(redis.ca_file()).unwrap();
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));
    let port = redis.port().to_string();
    let said = std::process::Command::new("redis-cli")
        .args([
            "-p",
            &port,
            "--tls",
            "--cacert",
            &redis.ca_file().to_string_lossy(),
            "PING",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "PONG");
}

#[test]
fn a_redis_with_a_user_refuses_everybody_else() {
    let redis = RedisServer::builder().user("larder", "s3cret").start();
    assert!(redis.url().starts_with("redis://larder:s3cret@"));
    let port = redis.port().to_string();
    let ask = |credential: &[&str]| {
        let said = std::process::Command::new("redis-cli")
            .args(["-p", &port])
            .args(credential)
            .arg("PING")
            .output()
            .unwrap();
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    assert!(ask(&[]).contains("NOAUTH"));
    assert_eq!(ask(&["--user", "larder", "--pass", "s3cret"]), "PONG");
    assert!(!ask(&["--user", "larder", "--pass", "wrong"]).contains("PONG"));
}

#[test]
fn a_frozen_redis_answers_after_it_has_thawed() {
    let redis = RedisServer::start();
    let mut link = redis.link().unwrap();
    redis.freeze();
    link.patience(Duration::from_millis(50));
    assert_eq!(
        link.call(&["PING"]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    redis.thaw();
    link.patience(support::PATIENCE);
    assert_eq!(
        link.call(&["ECHO", "x"]).unwrap(),
        Reply::Ok("PONG".to_owned())
    );
}

#[test]
fn a_redis_with_one_database_has_no_second() {
    let redis = RedisServer::builder().databases(1).start();
    assert!(
        matches!(redis.run_in(0, &["SELECT", "1"]), Reply::Error(text) if text.contains("out of range"))
    );
}

#[test]
fn the_origin_answers_by_script_and_keeps_what_it_was_asked() {
    let origin = Origin::start(|request| match request.number {
        1 => origin::json("[]"),
        2 => origin::json("chunks").chunked(),
        _ => origin::status(404, "").closing(),
    });
    let mut client = Connection::open(origin.address());
    let first = client.request("GET", "/a?b=c", &[("X-One", "1"), ("X-One", "2")], b"");
    assert_eq!(
        (first.status, first.text().as_str(), first.framing),
        (200, "[]", Framing::Length(2))
    );
    let second = client.request("POST", "/a", &[], b"hello");
    assert_eq!(
        (second.text().as_str(), second.framing, second.content.whole),
        ("chunks", Framing::Chunked, true)
    );
    assert_eq!(client.get("/none").status, 404);
    assert!(client.is_closed());

    let asked = origin.requests();
    assert_eq!(
        (asked[0].method.as_str(), asked[0].target.as_str()),
        ("GET", "/a?b=c")
    );
    assert_eq!(asked[0].fields.all("x-one"), ["1", "2"]);
    assert_eq!(
        (asked[1].framing, asked[1].content.text().as_str()),
        (Framing::Length(5), "hello")
    );
    assert_eq!((asked[2].connection, asked[2].on_connection), (1, 3));
}

#[test]
fn the_origin_breaks_off_where_it_was_told() {
    let origin = Origin::start(|request| match request.target.as_str() {
        "/cut" => origin::json("0123456789").cut_after(4),
        "/chunks" => origin::json("0123456789").chunked().cut_after(4),
        "/reset" => origin::json("0123456789").reset_after(4),
        "/raw" => origin::raw("HTTP/1.1 299 Raw\r\nContent-Length: 2\r\n\r\nok and more"),
        _ => origin::hang_up(),
    });
    for target in ["/cut", "/chunks", "/reset"] {
        let answer = Connection::open(origin.address()).get(target);
        assert!(!answer.content.whole, "{target}: {answer:?}");
        assert!(!answer.is_complete_success());
    }
    let raw = Connection::open(origin.address()).get("/raw");
    assert_eq!((raw.status, raw.text().as_str()), (299, "ok"));
    let nothing = Connection::open(origin.address()).try_request("GET", "/", &[], b"");
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn the_origin_waits_behind_a_gate_and_refuses_when_it_is_stopped() {
    let gate = Gate::new();
    let door = gate.clone();
    let mut origin = Origin::start(move |_| origin::json("late").behind(&door));
    let mut client = Connection::open(origin.address());
    client.send(support::client::head("GET", "/", &[], None).as_bytes());
    origin.wait_for(1);
    gate.open();
    assert_eq!(client.answer("GET").text(), "late");
    origin.stop();
    assert!(client.is_closed());
    assert!(Connection::try_open(origin.address()).is_err());
    origin.start_again();
    assert_eq!(Connection::open(origin.address()).get("/").text(), "late");
}

#[test]
fn bodies_of_many_megabytes_pass_both_ways_and_are_checked() {
    const LENGTH: u64 = 64 << 20;
    let origin = Origin::start(|request| match request.target.as_str() {
        "/chunks" => origin::huge(LENGTH).chunked(),
        "/close" => origin::huge(LENGTH).until_close(),
        _ => origin::huge(LENGTH),
    });
    for target in ["/length", "/chunks", "/close"] {
        let answer = Connection::open(origin.address()).get(target);
        assert!(
            answer.content.whole && answer.content.is_pattern,
            "{target}"
        );
        assert_eq!(answer.content.length, LENGTH, "{target}");
    }
    let mut client = Connection::open(origin.address());
    client.send(support::client::head("POST", "/up", &[], Some(LENGTH)).as_bytes());
    for at in (0..LENGTH).step_by(pattern::BLOCK) {
        client.send(pattern::at(at, pattern::BLOCK));
    }
    assert_eq!(client.answer("POST").status, 200);
    let up = origin.last().content;
    assert!(
        up.whole && up.is_pattern && up.length == LENGTH,
        "{} bytes",
        up.length
    );
}
