//! Limits, each reached: who asks for too much is refused or cut off, and everybody else is served.

mod support;

use std::thread::{self, JoinHandle};

use support::client::{Answer, Connection, head};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{Gate, eventually, users_api};

const LIST: &str = "/api/users/";

/// A GET on a connection of its own, for a client that a trusted proxy names.
fn asked_by(client: &str, larder: &Larder, target: &str) -> Connection {
    let mut connection = larder.connect();
    let fields = [("X-Forwarded-For", client)];
    connection.send(head("GET", target, &fields, None).as_bytes());
    connection
}

fn answers(mut connection: Connection) -> JoinHandle<Answer> {
    thread::spawn(move || connection.answer("GET"))
}

/// One slot, and so many places in the queue.
fn one_at_a_time(origin: &Origin, queue: usize) -> Larder {
    let file = users_api(origin, "memory:", "");
    let upstream = format!(
        "upstream: {{url: \"{}\", max_connections: 1, queue: {queue}}}",
        origin.url()
    );
    Larder::start(file.replace(&format!("upstream: {}", origin.url()), &upstream))
}

#[test]
fn one_client_cannot_keep_the_others_out_of_the_queue() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 3);
    let flood = "198.51.100.1";
    let first = answers(asked_by(flood, &larder, "/flood/0"));
    eventually("the first is under way", || origin.count() == 1);
    let mut waiting: Vec<_> = (1..=3)
        .map(|n| {
            let connection = asked_by(flood, &larder, &format!("/flood/{n}"));
            eventually("it waits", || larder.waiting() == n);
            connection
        })
        .collect();
    // The queue is full of its own requests: one more is refused.
    let refused = asked_by(flood, &larder, "/flood/4").answer("GET");
    assert_eq!(
        (refused.status, refused.field("retry-after")),
        (503, Some("1"))
    );
    assert!(refused.cache_status().contains("queue-full"), "{refused:?}");
    // Another's is not: the latest of the flood gives up its place.
    let good = asked_by("198.51.100.2", &larder, "/good/");
    let sent_away = waiting.pop().unwrap().answer("GET");
    assert_eq!(sent_away.status, 503);
    assert!(sent_away.cache_status().contains("queue-full"));
    let waiting: Vec<_> = waiting.into_iter().map(answers).collect();
    let good = answers(good);
    gate.open();
    for one in [first, good].into_iter().chain(waiting) {
        assert_eq!(one.join().unwrap().status, 200);
    }
    // In turns: the flood's oldest, then the other, then the rest of the flood.
    let order: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(order, ["/flood/0", "/flood/1", "/good/", "/flood/2"]);
}

#[test]
fn a_fetch_that_others_wait_for_does_not_wait_behind_the_flood_of_who_asked_first() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 10);
    let flood = "198.51.100.1";
    let mut under_way: Vec<_> = (0..4)
        .map(|n| {
            let connection = asked_by(flood, &larder, &format!("/flood/{n}"));
            eventually("it waits", || origin.count() + larder.waiting() == n + 1);
            connection
        })
        .collect();
    under_way.push(asked_by(flood, &larder, LIST));
    eventually("its fetch waits", || larder.waiting() == 4);
    let good = answers(asked_by("198.51.100.2", &larder, LIST));
    eventually("another waits for it, too", || {
        larder.readiness()["upstream"]["waiting_clients"] == 2
    });
    gate.open();
    assert_eq!(good.join().unwrap().status, 200);
    for one in under_way.into_iter().map(answers) {
        assert_eq!(one.join().unwrap().status, 200);
    }
    let order: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(
        order,
        ["/flood/0", "/flood/1", LIST, "/flood/2", "/flood/3"]
    );
}

#[test]
fn a_request_whose_client_leaves_leaves_the_queue() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json("{}").behind(&behind));
    let larder = one_at_a_time(&origin, 2);
    let first = answers(asked_by("198.51.100.1", &larder, "/first/"));
    eventually("the first is under way", || origin.count() == 1);
    let left = asked_by("198.51.100.1", &larder, "/left/");
    eventually("it waits", || larder.waiting() == 1);
    drop(left);
    eventually("it has left the queue", || larder.waiting() == 0);
    gate.open();
    assert_eq!(first.join().unwrap().status, 200);
    assert_eq!(larder.get("/next/").status, 200);
    let order: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(order, ["/first/", "/next/"]);
}
