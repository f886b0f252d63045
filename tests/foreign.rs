//! What others left under our keys, and what time did to our own values: never served, never a crash.
//! And a session cookie that nobody has told us of: never somebody else's answer.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::client::{Answer, Connection};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::{Link, RedisServer, Reply};
use support::{eventually, users_api};

const LIST: &str = "/api/users/";
const KEY: &str = "t:users:list";

#[test]
fn a_value_of_another_program_is_a_miss_and_is_never_served() {
    let kept = Kept::start();
    // What django-redis writes by default: a pickle, here of [{'id': 1, 'name': 'Foreign'}].
    let pickle = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00]\x94}\x94(\x8c\x02id\x94K\x01\x8c\x04name\x94\x8c\x07Foreign\x94ua.";
    let compressed =
        b"x\x9c\x8b\xaeV\xcaLQ\xb2R0\xd4QP\xcaK\xccMU\xb2RPr\xcb/\xcaL\xcfS\xaa\x8d\x05\x00";
    for value in [
        &pickle[..],
        compressed,
        br#"[{"id":1,"name":"Foreign"}]"#,
        b"1",
        b"",
        b"\0",
        b"\n",
        &[0xff; 4096],
    ] {
        kept.is_a_miss(&[b"SET", KEY.as_bytes(), value]);
    }
}

#[test]
fn a_value_of_another_type_is_a_miss_and_is_never_served() {
    let kept = Kept::start();
    let values: [&[&str]; 5] = [
        &["HSET", KEY, "body", "Foreign"],
        &["RPUSH", KEY, "Foreign"],
        &["SADD", KEY, "Foreign"],
        &["ZADD", KEY, "1", "Foreign"],
        &["XADD", KEY, "*", "body", "Foreign"],
    ];
    for value in values {
        let value: Vec<&[u8]> = value.iter().map(|word| word.as_bytes()).collect();
        kept.is_a_miss_in_place_of(&value);
    }
}

#[test]
fn a_value_cut_short_anywhere_is_a_miss() {
    let kept = Kept::start();
    for length in 0..kept.value.len() {
        kept.is_a_miss_as(
            &kept.value[..length],
            &format!("cut after {length} of {} bytes", kept.value.len()),
        );
    }
    kept.is_still_a_hit_as_it_was();
}

#[test]
fn a_value_with_something_added_is_a_miss() {
    let kept = Kept::start();
    for (before, after) in [
        (&b" "[..], &b""[..]),
        (b"", b" "),
        (b"", b"\n"),
        (b"", b"\0"),
        (b"[]", b""),
    ] {
        kept.is_a_miss_as(
            &[before, &kept.value, after].concat(),
            &format!("{before:?} before and {after:?} after it"),
        );
    }
    kept.is_a_miss_as(&kept.value.repeat(2), "twice");
    kept.is_still_a_hit_as_it_was();
}

#[test]
fn a_value_with_any_bit_flipped_is_a_miss() {
    let kept = Kept::start();
    for byte in 0..kept.value.len() {
        for bit in 0..8 {
            let mut flipped = kept.value.clone();
            flipped[byte] ^= 1 << bit;
            kept.is_a_miss_as(&flipped, &format!("bit {bit} of byte {byte}"));
        }
    }
    kept.is_still_a_hit_as_it_was();
}

#[test]
fn a_state_that_is_not_ours_is_never_taken_for_one() {
    let redis = RedisServer::start();
    let version = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&version);
    let origin = Origin::start(move |request| {
        if request.method != "GET" {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        origin::json(counter.load(Ordering::SeqCst).to_string())
    });
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    let foreign: [&[&str]; 8] = [
        &["SET", "", "garbage"],
        &["SET", "", ""],
        &["RPUSH", "", "garbage"],
        &["SADD", "", "garbage"],
        &["ZADD", "", "1", "garbage"],
        &["XADD", "", "*", "e", "garbage"],
        &["HSET", "", "garbage", "garbage"],
        &["HSET", "", "e", "garbage"],
    ];
    for target in [LIST, "/api/users/7/"] {
        for command in foreign {
            eventually("the copy is there", || larder.get(target).is_hit());
            let states: Vec<String> = redis
                .keys()
                .into_iter()
                .filter(|key| key.ends_with("~state") || key.ends_with("~all"))
                .collect();
            assert!(!states.is_empty(), "no state among {:?}", redis.keys());
            let asked = origin.count();
            for state in &states {
                let mut command = command.to_vec();
                command[1] = state;
                redis.run(&["DEL", state]);
                let reply = redis.run(&command);
                assert!(!matches!(reply, Reply::Error(_)), "{command:?}: {reply:?}");
            }
            // The copy has lost the state that vouched for it.
            let answer = larder.get(target);
            assert!(
                answer.is_complete_success() && !answer.is_hit(),
                "{command:?}: {answer:?}"
            );
            assert!(origin.count() > asked, "{command:?}");

            let written = larder.write("PATCH", "/api/users/7/");
            assert_eq!(written.status, 200, "{command:?}");
            assert_eq!(larder.get(target).text(), written.text(), "{command:?}");
            for state in &states {
                redis.run(&["DEL", state]);
            }
            assert_eq!(larder.get(target).text(), written.text(), "{command:?}");
        }
    }
}

#[test]
fn whatever_key_is_overwritten_every_request_is_answered_and_every_write_is_seen() {
    let redis = RedisServer::start();
    let version = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&version);
    let origin = Origin::start(move |request| {
        if request.method != "GET" {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        origin::json(counter.load(Ordering::SeqCst).to_string())
    });
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    for target in [LIST, "/api/users/?page=2", "/api/users/7/"] {
        larder.get(target);
    }
    let all = redis.keys();
    for key in &all {
        redis.run(&["SET", key, "garbage"]).unwrap_ok();
    }
    for target in [LIST, "/api/users/?page=2", "/api/users/7/"] {
        assert!(
            larder.get(target).is_complete_success(),
            "{target} after {all:?} were overwritten"
        );
    }
    let written = larder.write("PATCH", "/api/users/7/");
    assert_eq!(written.text(), "1");
    for target in [LIST, "/api/users/?page=2", "/api/users/7/"] {
        assert_eq!(
            larder.get(target).text(),
            "1",
            "{target} after {all:?} were overwritten"
        );
    }
    for key in redis.keys() {
        redis.run(&["SET", &key, "garbage"]).unwrap_ok();
    }
    larder.purge_everything();
    // A new instance meets the same keys, its deployment's secret among them.
    let second = Larder::start(users_api(&origin, &redis.url(), ""));
    for fields in [&[][..], &[("Authorization", "Token a")]] {
        assert_eq!(second.get_with(LIST, fields).text(), "1");
    }
    // And puts its own in their place, of which the other is told.
    let routes = redis.run(&["TYPE", "t:~routes"]).text();
    assert_eq!(routes, "set");
    larder.purge_everything();
}

#[test]
fn a_session_cookie_of_any_name_keeps_two_users_apart() {
    let redis = RedisServer::start();
    for store in ["memory:", &redis.url()] {
        // The list of whoever asks, as a view with request.user gives it.
        let origin = Origin::start(|request| {
            origin::json(request.fields.get("cookie").unwrap_or("nobody").to_owned())
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        for name in [
            "sessionid",
            "it360_session",
            "__Host-sid",
            "SESSIONID",
            "x",
            "csrf",
            "ga",
            "_gidx",
        ] {
            for target in [LIST, "/api/users/7/", "/api/users/?page=2"] {
                for _ in 0..2 {
                    for user in ["alice", "bob"] {
                        let cookie = format!("csrftoken=same; {name}={user}; _ga=same; _gid=same");
                        let answer = larder.get_with(target, &[("Cookie", &cookie)]);
                        let shown = answer.text();
                        assert!(
                            shown.contains(&format!("{name}={user}")),
                            "{user} is shown {shown} on {target}"
                        );
                    }
                }
                assert_eq!(larder.get(target).text(), "nobody", "{target}");
            }
        }
    }
}

#[test]
fn no_two_credentials_can_be_written_so_that_they_read_as_one() {
    let redis = RedisServer::start();
    for store in ["memory:", &redis.url()] {
        let origin = Origin::start(|request| {
            let shown = ["authorization", "cookie", "x-api-key", "x-auth-token"]
                .map(|name| request.fields.all(name));
            origin::json(format!("{shown:?}"))
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        let requests: [&[(&str, &str)]; 14] = [
            &[],
            &[("Cookie", "a=1; b=2")],
            &[("Cookie", "a=1, b=2")],
            &[("Cookie", "a=1; b=3")],
            &[("Cookie", "a=\"1; b=2\"")],
            &[("Cookie", "a=1"), ("Authorization", "2")],
            &[("Cookie", "a=12")],
            &[("Cookie", "a"), ("Authorization", "=12")],
            &[("Cookie", "=a")],
            &[("Authorization", "Cookie: a=1; b=2")],
            &[("Cookie", "x=csrftoken; a=4")],
            &[("X-Api-Key", "a=12")],
            &[("X-Auth-Token", "a=12")],
            &[("Authorization", "a=12")],
        ];
        for _ in 0..2 {
            for fields in requests {
                let direct = Connection::open(origin.address()).request("GET", LIST, fields, b"");
                assert_eq!(larder.get_with(LIST, fields).text(), direct.text());
            }
        }
    }
}

/// A list kept in Redis, and its stored value as it should be. The origin never answers the same twice.
struct Kept {
    redis: RedisServer,
    origin: Origin,
    larder: Larder,
    value: Vec<u8>,
    body: String,
}

impl Kept {
    fn start() -> Kept {
        let redis = RedisServer::start();
        let origin =
            Origin::start(|request| origin::json(format!("[{{\"n\":{}}}]", request.number)));
        let larder = Larder::start(users_api(&origin, &redis.url(), ""));
        let body = larder.get(LIST).text();
        let value = redis
            .get(KEY)
            .expect("the copy of everybody at its literal key");
        let kept = Kept {
            redis,
            origin,
            larder,
            value,
            body,
        };
        kept.is_still_a_hit_as_it_was();
        kept
    }

    fn link(&self) -> Link {
        let mut link = self.redis.link().unwrap();
        link.call(&["SELECT", "1"]).unwrap().unwrap_ok();
        link
    }

    fn get(&self) -> Answer {
        self.larder.get(LIST)
    }

    /// The control: what is shown to be a miss below would be a hit, were it not altered.
    #[track_caller]
    fn is_still_a_hit_as_it_was(&self) {
        self.link()
            .call(&[b"SET", KEY.as_bytes(), &self.value, b"EX", b"3600"])
            .unwrap()
            .unwrap_ok();
        let answer = self.get();
        assert!(
            answer.is_hit() && answer.text() == self.body,
            "the stored value itself: {answer:?}"
        );
    }

    #[track_caller]
    fn is_a_miss_as(&self, value: &[u8], what: &str) {
        self.link()
            .call(&[b"SET", KEY.as_bytes(), value, b"EX", b"3600"])
            .unwrap()
            .unwrap_ok();
        self.misses(what);
    }

    #[track_caller]
    fn is_a_miss(&self, command: &[&[u8]]) {
        self.link().call(command).unwrap().unwrap_ok();
        self.misses(&String::from_utf8_lossy(&command.concat()));
    }

    #[track_caller]
    fn is_a_miss_in_place_of(&self, command: &[&[u8]]) {
        let mut link = self.link();
        link.call(&["DEL", KEY]).unwrap();
        let reply = link.call(command).unwrap();
        assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
        self.misses(&String::from_utf8_lossy(&command.concat()));
    }

    #[track_caller]
    fn misses(&self, what: &str) {
        let asked = self.origin.count();
        let answer = self.get();
        assert!(
            answer.is_complete_success() && !answer.is_hit(),
            "{what}: {answer:?}"
        );
        assert_eq!(
            answer.text(),
            format!("[{{\"n\":{}}}]", asked + 1),
            "{what}"
        );
    }
}
