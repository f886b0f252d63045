//! Many at once for the same thing: the origin is asked about once, nobody waits for two, and nobody is given
//! what was meant for somebody else.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::client::{Answer, Connection, head};
use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::redis::RedisServer;
use support::{Gate, eventually, users_api};

const LIST: &str = "/api/users/";

/// With all the time that a busy machine may take for a look-up: a store that is given up asks the origin more often.
fn behind(origin: &Origin, store: &str) -> String {
    users_api(origin, store, "").replace("prefix: t}", "prefix: t, timeout: 10s}")
}

#[test]
fn ten_thousand_cold_gets_ask_the_origin_at_most_thrice() {
    // One store after the other: both at once would need more open files than many machines allow.
    for_both_stores(ten_thousand_cold_gets);
}

fn ten_thousand_cold_gets(store: &str) {
    const CLIENTS: usize = 10_000;
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("raise the limit of open files");
    assert!(
        files > CLIENTS as u64 + 500,
        "{files} open files are too few for this test: raise `ulimit -Hn`"
    );
    let origin = Origin::start(|_| origin::json("[1,2,3]").after(Duration::from_millis(300)));
    let larder = Larder::start(behind(&origin, store));

    let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| larder.connect()).collect();
    let request = head("GET", LIST, &[], None);
    for client in &mut clients {
        client.send(request.as_bytes());
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        let answer = client
            .try_answer("GET")
            .unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert!(
            answer.is_complete_success() && answer.text() == "[1,2,3]",
            "client {number}: {answer:?}"
        );
    }
    // Of ten thousand lines in the log, those on what was not shared.
    let alone =
        |line: &&str| !line.contains("\"collapsed\":true") && !line.contains("\"cache\":\"hit\"");
    let said: Vec<String> = larder
        .output()
        .lines()
        .filter(alone)
        .map(str::to_owned)
        .collect();
    assert!(
        origin.count() <= 3,
        "the origin was asked {} times:\n{}",
        origin.count(),
        said.join("\n")
    );
}

#[test]
fn three_hundred_at_once_for_nothing_ask_at_most_thrice_and_wait_for_one_answer() {
    for_both_stores(|store| {
        let delay = Duration::from_secs(2);
        let origin =
            Origin::start(move |_| origin::status(404, "{\"detail\":\"Not found.\"}").after(delay));
        let larder = Larder::start(behind(&origin, store));
        for (answer, waited) in at_once(&larder, 300, |_| ("/api/users/7/".to_owned(), Vec::new()))
        {
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (404, "{\"detail\":\"Not found.\"}")
            );
            assert!(waited < 2 * delay, "somebody waited {waited:?}");
        }
        assert!(
            origin.count() <= 3,
            "the origin was asked {} times",
            origin.count()
        );
        assert!(!larder.get("/api/users/7/").is_hit());
    });
}

#[test]
fn three_hundred_at_once_on_a_broken_origin_ask_at_most_fifteen_times_and_wait_for_one_answer() {
    for_both_stores(|store| {
        for status in [500, 503] {
            let delay = Duration::from_secs(2);
            let origin = Origin::start(move |_| origin::status(status, "broken").after(delay));
            let larder = Larder::start(behind(&origin, store));
            for (answer, waited) in at_once(&larder, 300, |_| (LIST.to_owned(), Vec::new())) {
                assert_eq!((answer.status, answer.text().as_str()), (status, "broken"));
                assert!(waited < 2 * delay, "somebody waited {waited:?}");
            }
            assert!(
                origin.count() <= 15,
                "the origin was asked {} times",
                origin.count()
            );
        }
    });
}

#[test]
fn an_answer_not_storable_for_its_fields_is_never_shared_and_nobody_queues_for_it() {
    for_both_stores(|store| {
        for (name, value) in [
            ("Set-Cookie", "sessionid=1"),
            ("Cache-Control", "private"),
            ("Cache-Control", "no-store"),
            ("Cache-Control", "max-age=60, Private"),
            ("Vary", "*"),
            ("Vary", "X-Unheard-Of"),
        ] {
            const CLIENTS: usize = 40;
            let delay = Duration::from_millis(500);
            let origin = Origin::start(move |request| {
                origin::json(request.number.to_string())
                    .field(name, value)
                    .after(delay)
            });
            let larder = Larder::start(behind(&origin, store));
            let start = Instant::now();
            let answers = at_once(&larder, CLIENTS, |_| (LIST.to_owned(), Vec::new()));
            let bodies: HashSet<String> = answers.iter().map(|(answer, _)| answer.text()).collect();
            assert_eq!(bodies.len(), CLIENTS, "{name}: {value} was shared");
            // One behind another they would take twenty seconds.
            assert!(
                start.elapsed() < Duration::from_secs(6),
                "{name}: {value} took {:?}",
                start.elapsed()
            );
            assert_eq!(origin.count(), CLIENTS, "{name}: {value}");
        }
    });
}

#[test]
fn those_who_wait_together_are_of_one_credential() {
    for_both_stores(|store| {
        let origin = Origin::start(|request| {
            let who = ["authorization", "cookie", "x-api-key"]
                .map(|name| request.fields.get(name).unwrap_or("-"));
            origin::json(who.join("|")).after(Duration::from_millis(500))
        });
        let larder = Larder::start(behind(&origin, store));
        let who = |number: usize| match number % 6 {
            0 => vec![],
            1 => vec![("Authorization", "Token a")],
            2 => vec![("Authorization", "Token b")],
            3 => vec![("Cookie", "sessionid=a")],
            4 => vec![("Cookie", "sessionid=b")],
            _ => vec![("X-Api-Key", "a")],
        };
        let answers = at_once(&larder, 120, |number| (LIST.to_owned(), who(number)));
        for (number, (answer, _)) in answers.iter().enumerate() {
            let mine = ["Authorization", "Cookie", "X-Api-Key"].map(|name| {
                who(number)
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map_or("-", |(_, value)| value)
            });
            assert_eq!(answer.text(), mine.join("|"));
        }
        assert!(
            origin.count() <= 6 * 3,
            "the origin was asked {} times",
            origin.count()
        );
    });
}

#[test]
fn those_who_wait_are_answered_though_the_first_of_them_has_left() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let door = gate.clone();
        let origin = Origin::start(move |_| origin::json("[]").behind(&door));
        let larder = Larder::start(behind(&origin, store));
        let request = head("GET", LIST, &[], None);
        let mut first = larder.connect();
        first.send(request.as_bytes());
        origin.wait_for(1);
        let mut others: Vec<Connection> = (0..50).map(|_| larder.connect()).collect();
        for other in &mut others {
            other.send(request.as_bytes());
        }
        first.reset();
        gate.open();
        for mut other in others {
            assert_eq!(other.answer("GET").text(), "[]");
        }
        assert!(
            origin.count() <= 3,
            "the origin was asked {} times",
            origin.count()
        );
        assert!(larder.get(LIST).is_hit());
    });
}

#[test]
fn who_follows_reads_along_while_the_answer_arrives() {
    for_both_stores(|store| {
        let second_half = Gate::new();
        let gate = second_half.clone();
        let origin = Origin::start(move |_| origin::huge(200_000).pausing_after(100_000, &gate));
        let larder = Larder::start(behind(&origin, store));
        let mut clients = [larder.connect(), larder.connect(), larder.connect()];
        for client in &mut clients {
            client.send(head("GET", LIST, &[], None).as_bytes());
        }
        for client in &mut clients {
            client.try_head("GET").unwrap();
            assert!(client.read_some(&mut [0; 1]).unwrap() == 1);
        }
        second_half.open();
        for mut client in clients {
            let mut read = 1;
            while read < 200_000 {
                let part = client.read_some(&mut [0; 65_536]).unwrap();
                assert!(part > 0, "closed after {read} bytes");
                read += part;
            }
        }
        assert!(
            origin.count() <= 3,
            "the origin was asked {} times",
            origin.count()
        );
    });
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_all_who_wait() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let door = gate.clone();
        let origin = Origin::start(move |_| origin::json("0123456789").cut_after(5).behind(&door));
        let larder = Larder::start(behind(&origin, store));
        let mut clients: Vec<Connection> = (0..20).map(|_| larder.connect()).collect();
        for client in &mut clients {
            client.send(head("GET", LIST, &[], None).as_bytes());
        }
        origin.wait_for(1);
        gate.open();
        for mut client in clients {
            if let Ok(answer) = client.try_answer("GET") {
                assert!(!answer.is_complete_success(), "{answer:?}");
            }
        }
    });
}

#[test]
fn a_slow_reader_among_those_who_wait_holds_up_nobody() {
    for_both_stores(|store| {
        const LENGTH: u64 = 3 << 20;
        let origin = Origin::start(|_| origin::huge(LENGTH).after(Duration::from_millis(300)));
        let larder = Larder::start(behind(&origin, store));
        let request = head("GET", LIST, &[], None);
        // The first, who leads, reads nothing at all.
        let mut slow = larder.connect();
        slow.send(request.as_bytes());
        origin.wait_for(1);
        for (answer, _) in at_once(&larder, 5, |_| (LIST.to_owned(), Vec::new())) {
            assert!(
                answer.is_complete_success()
                    && answer.content.is_pattern
                    && answer.content.length == LENGTH
            );
        }
        assert!(larder.get(LIST).is_hit());
        assert!(
            origin.count() <= 3,
            "the origin was asked {} times",
            origin.count()
        );
        assert!(slow.answer("GET").is_complete_success());
    });
}

#[test]
fn a_public_route_is_fetched_once_for_everybody() {
    for_both_stores(|store| {
        let origin = Origin::start(|_| origin::json("[]").after(Duration::from_millis(300)));
        let yaml =
            behind(&origin, store).replace("key: users:list}", "key: users:list, access: public}");
        let larder = Larder::start(yaml);
        let tokens: Vec<String> = (0..100).map(|number| format!("Token {number}")).collect();
        for (answer, _) in at_once(&larder, 100, |number| {
            (LIST.to_owned(), vec![("Authorization", &tokens[number])])
        }) {
            assert!(answer.is_complete_success());
        }
        assert!(
            origin.count() <= 3,
            "the origin was asked {} times",
            origin.count()
        );
    });
}

#[test]
fn a_fetch_that_nobody_waits_for_any_more_does_not_stay_in_the_way() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let door = Arc::new(gate.clone());
        let origin = Origin::start(move |request| match request.number {
            1 => origin::json("1").behind(&door),
            _ => origin::json("2"),
        });
        let larder = Larder::start(behind(&origin, store).replace("ttl: 1h", "ttl: 1s"));
        let mut first = larder.connect();
        first.send(head("GET", LIST, &[], None).as_bytes());
        origin.wait_for(1);
        first.reset();
        gate.open();
        eventually("the list is served", || {
            larder.get(LIST).is_complete_success()
        });
    });
}

fn under(host: &str) -> String {
    format!("GET {LIST} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn host(request: &Request) -> String {
    request.fields.get("host").unwrap_or_default().to_owned()
}

#[test]
fn who_asks_under_one_host_is_not_given_what_is_fetched_under_another() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let door = gate.clone();
        let origin = Origin::start(move |request| origin::json(host(request)).behind(&door));
        let larder = Larder::start(behind(&origin, store));
        let (mut one, mut other) = (larder.connect(), larder.connect());
        one.send(under("one.example").as_bytes());
        origin.wait_for(1);
        other.send(under("other.example").as_bytes());
        origin.wait_for(2);
        gate.open();
        assert_eq!(one.answer("GET").text(), "one.example");
        assert_eq!(other.answer("GET").text(), "other.example");
    });
}

#[test]
fn a_stale_copy_of_one_host_stands_in_for_no_error_of_another() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let door = gate.clone();
        let origin = Origin::start(move |request| match request.number {
            1 => origin::json(host(request)),
            _ => origin::status(503, "away").behind(&door),
        });
        let key = "key: users:list, ttl: 1s, stale_if_error: 1h}";
        let larder = Larder::start(behind(&origin, store).replace("key: users:list}", key));
        let (mut one, mut other) = (larder.connect(), larder.connect());
        one.send(under("one.example").as_bytes());
        assert_eq!(one.answer("GET").text(), "one.example");
        std::thread::sleep(Duration::from_millis(1100));
        one.send(under("one.example").as_bytes());
        origin.wait_for(2);
        other.send(under("other.example").as_bytes());
        origin.wait_for(3);
        gate.open();
        assert_eq!(one.answer("GET").text(), "one.example");
        assert_eq!(other.answer("GET").text(), "away");
    });
}

/// Though it may be kept: the create has dropped the list, and of the user nothing.
#[test]
fn who_asks_after_a_create_is_not_given_the_absence_that_was_fetched_before_it() {
    for_both_stores(|store| {
        let (gate, created) = (Gate::new(), AtomicBool::new(false));
        let door = gate.clone();
        let origin = Origin::start(move |request| match request.method.as_str() {
            "POST" => {
                created.store(true, Ordering::SeqCst);
                origin::status(201, "{}")
            }
            _ if created.load(Ordering::SeqCst) => origin::json("{}"),
            _ => origin::status(404, "{}").behind(&door),
        });
        let larder = Larder::with(format!(
            "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nroutes:\n\
            \x20 - {{path: /api/users/, key: users:list}}\n\
            \x20 - {{path: /api/users/<int:id>/, key: \"users:detail:{{id}}\", negative_ttl: 1h}}\n\
            purge:\n\
            \x20 - {{methods: POST, path: /api/users/, keys: [users:list]}}\n",
            origin.url()
        ));
        let larder = larder.env("RUST_LOG", "debug").start();
        let (mut before, mut after) = (larder.connect(), larder.connect());
        before.send(head("GET", "/api/users/7/", &[], None).as_bytes());
        origin.wait_for(1);
        assert_eq!(larder.write("POST", LIST).status, 201);
        after.send(head("GET", "/api/users/7/", &[], None).as_bytes());
        eventually("both wait for it", || finding_nothing(&larder) == 2);
        gate.open();
        assert_eq!(before.answer("GET").status, 404);
        assert_eq!(after.answer("GET").status, 200);
    });
}

/// At the API, which each request has to give back before another is asked for.
fn with_one_slot(origin: &Origin, store: &str) -> Larder {
    let url = origin.url();
    let any = format!("upstream: {url}");
    let one = format!("upstream: {{url: \"{url}\", max_connections: 1}}");
    let yaml = behind(origin, store).replace(&any, &one);
    Larder::with(yaml).env("RUST_LOG", "debug").start()
}

fn finding_nothing(larder: &Larder) -> usize {
    larder.output().matches("nothing to serve").count()
}

/// Its answer is for the one who led it alone, so the other is asked for: not without what it sent.
#[test]
fn who_has_waited_for_anothers_fetch_is_asked_for_with_what_it_sent_if_answers_vary_by_that() {
    let fields = [("X-Tenant", "b"), ("Accept-Language", "de")];
    for (name, value) in fields {
        let gate = Gate::new();
        let door = gate.clone();
        let origin = Origin::start(move |request| {
            let said = request.fields.get(name).unwrap_or("none");
            let answer = origin::json(said).without("vary").field("Vary", name);
            answer.field("Set-Cookie", "s=1").behind(&door)
        });
        let larder = with_one_slot(&origin, "memory:");
        let (mut first, mut second) = (larder.connect(), larder.connect());
        first.send(head("GET", LIST, &[], None).as_bytes());
        origin.wait_for(1);
        second.send(head("GET", LIST, &[(name, value)], None).as_bytes());
        eventually("both wait for it", || finding_nothing(&larder) == 2);
        gate.open();
        assert_eq!(first.answer("GET").text(), "none");
        assert_eq!(second.answer("GET").text(), value);
    }
}

/// It says how much its leader has asked for, whoever waits with it: the throttle of an API counts each address.
#[test]
fn who_has_waited_for_the_fetch_of_one_who_is_throttled_is_not_throttled_with_it() {
    for_both_stores(|store| {
        let gate = Gate::new();
        let door = gate.clone();
        let origin = Origin::start(move |request| {
            let from = request.fields.get("x-forwarded-for").unwrap_or_default();
            match from.contains("203.0.113.9") {
                true => origin::status(429, "{}").field("Retry-After", "60"),
                false => origin::json("[]"),
            }
            .behind(&door)
        });
        let larder = with_one_slot(&origin, store);
        let from = |address| [("X-Forwarded-For", address)];
        let (mut busy, mut throttled, mut other) =
            (larder.connect(), larder.connect(), larder.connect());
        busy.send(head("GET", "/api/other/", &[], None).as_bytes());
        origin.wait_for(1);
        throttled.send(head("GET", LIST, &from("203.0.113.9"), None).as_bytes());
        eventually("the first waits", || finding_nothing(&larder) == 1);
        other.send(head("GET", LIST, &from("203.0.113.10"), None).as_bytes());
        eventually("both wait for it", || finding_nothing(&larder) == 2);
        gate.open();
        assert_eq!(throttled.answer("GET").status, 429);
        let answer = other.answer("GET");
        assert_eq!((answer.status, answer.text().as_str()), (200, "[]"));
        assert_eq!(busy.answer("GET").status, 200);
    });
}

/// What it left is nobody's, and must not keep those who waited from the one slot that there is.
#[test]
fn an_answer_for_a_leader_who_has_left_gives_back_its_slot() {
    let gate = Gate::new();
    let door = gate.clone();
    let origin = Origin::start(move |_| {
        let answer = origin::json("[]").field("Cache-Control", "private");
        answer.behind(&door)
    });
    let larder = with_one_slot(&origin, "memory:");
    let (mut leader, mut other) = (larder.connect(), larder.connect());
    leader.send(head("GET", LIST, &[], None).as_bytes());
    origin.wait_for(1);
    other.send(head("GET", LIST, &[], None).as_bytes());
    eventually("both wait for it", || finding_nothing(&larder) == 2);
    leader.reset();
    eventually("the leader has left", || {
        larder.readiness()["connections"]["open"] == 1
    });
    gate.open();
    assert_eq!(other.answer("GET").status, 200);
}

/// So many requests, each on a connection opened beforehand, all sent before the first answer is read.
/// Gives back each answer and how long it took from its sending on.
fn at_once<'a>(
    larder: &Larder,
    clients: usize,
    request: impl Fn(usize) -> (String, Vec<(&'a str, &'a str)>),
) -> Vec<(Answer, Duration)> {
    let mut open: Vec<Connection> = (0..clients).map(|_| larder.connect()).collect();
    let mut sent = Vec::with_capacity(clients);
    for (number, client) in open.iter_mut().enumerate() {
        let (target, fields) = request(number);
        client.send(head("GET", &target, &fields, None).as_bytes());
        sent.push(Instant::now());
    }
    // Read one after the other: an answer's time is at most overstated, by the reading of those before it.
    open.into_iter()
        .zip(sent)
        .map(|(mut client, sent)| (client.answer("GET"), sent.elapsed()))
        .collect()
}

fn for_both_stores(test: impl Fn(&str)) {
    test("memory:");
    test(&RedisServer::start().url());
}
