//! What holds cost readers: how many reads are hits while others write. Ratios of counts, under a load that is driven
//! for a number of reads; `cargo bench --bench outage` prints them under a load that is driven for a time.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::client::{Connection, head};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{eventually, users_api};

const LIST: &str = "/api/users/";

#[test]
fn a_flood_of_refused_writes_and_a_trickled_body_leave_the_list_in_the_cache() {
    let redis = RedisServer::start();
    for store in ["memory:", &redis.url()] {
        let origin = Origin::start(|request| match request.method.as_str() {
            "GET" => origin::json("[]").after(Duration::from_millis(5)),
            _ => origin::status(401, "who are you?").after(Duration::from_millis(5)),
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        eventually("the list is a hit", || larder.get(LIST).is_hit());
        let over = AtomicBool::new(false);
        let hits = thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| flood(&larder, &over));
            }
            scope.spawn(|| trickle(&larder, &over));
            eventually("the flood has come", || origin.count_of("POST") > 200);
            let hits = (0..READS).filter(|_| {
                thread::sleep(Duration::from_millis(2));
                let answer = larder.get(LIST);
                assert_eq!(answer.text(), "[]", "{answer:?}");
                answer.is_hit()
            });
            let hits = hits.count();
            over.store(true, Ordering::SeqCst);
            hits
        });
        println!(
            "{store}: {hits} of {READS} reads were hits, {} writes were refused",
            origin.count_of("POST")
        );
        assert!(hits * 2 > READS, "{store}: {hits} of {READS} reads");
    }
}

const READS: usize = 500;

/// A client that posts again and again what is refused.
fn flood(larder: &Larder, over: &AtomicBool) {
    let mut client = larder.connect();
    while !over.load(Ordering::SeqCst) {
        assert_eq!(client.request("POST", LIST, &[], b"{}").status, 401);
    }
}

/// A client whose body comes byte by byte, and never to its end.
fn trickle(larder: &Larder, over: &AtomicBool) {
    let mut client: Connection = larder.connect();
    client.send(head("POST", LIST, &[], Some(60_000)).as_bytes());
    while !over.load(Ordering::SeqCst) {
        client.send(b"x");
        thread::sleep(Duration::from_millis(5));
    }
}
