//! Copies: no client that leaves makes a short one, nobody who waits is given one client's own, and a value that is spoilt
//! is never one.

#[path = "raw/line.rs"]
mod line;
#[path = "copies/rows.rs"]
mod rows;
#[macro_use]
mod support;

use std::collections::BTreeSet;

use rows::{Leaves, followers, leavers, spoilt};
use support::client::Connection;
use support::larder::Larder;
use support::origin::{self, Answer, Origin, Request};
use support::redis::RedisServer;
use support::{Gate, eventually};

const LIST: &str = "/api/users/";
const LENGTH: u64 = 300_000;

on_both_stores! {
    who_leaves_leaves_no_short_copy
    who_waits_is_given_nothing_that_is_anothers
}

fn who_leaves_leaves_no_short_copy(store: &str) {
    for policy in [Policy::Ttl, Policy::Http] {
        let (_origin, larder) = start(store, policy, |_| origin::huge(LENGTH));
        for row in leavers() {
            larder.purge_everything();
            let mut client = larder.connect();
            client.send(row.head.as_bytes());
            read(&mut client, row.reads);
            match row.leaves {
                Leaves::ByClosing => drop(client),
                Leaves::ByReset => client.reset(),
                Leaves::NotAtAll => {
                    client.finish_sending();
                    read(&mut client, usize::MAX);
                }
            }
            for _ in 0..2 {
                let answer = larder.get(LIST);
                assert!(
                    answer.is_complete_success()
                        && answer.content.length == LENGTH
                        && answer.content.is_pattern,
                    "{policy:?}, after {:?} that read {} and left {:?}: {answer:?}",
                    row.head,
                    row.reads,
                    row.leaves
                );
            }
        }
    }
}

/// So many bytes, or as many as there are.
fn read(client: &mut Connection, mut bytes: usize) {
    let mut landing = [0; 8192];
    while bytes > 0 {
        let most = bytes.min(landing.len());
        match client.read_some(&mut landing[..most]) {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes -= read,
        }
    }
}

fn who_waits_is_given_nothing_that_is_anothers(store: &str) {
    const CLIENTS: usize = 4;
    for row in followers() {
        let gate = Gate::new();
        let behind = gate.clone();
        // What a client sends is a field of the fill, or it would not be another request.
        let (origin, larder) = start(store, Policy::Ttl, move |request| {
            origin::json(request.number.to_string())
                .without("Vary")
                .field(row.says.0, row.says.1)
                .behind(&behind)
        });
        let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| larder.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let field = row.sends.map(|sends| format!("{sends}{number}\r\n"));
            let field = field.unwrap_or_default();
            client.send(
                format!("GET {LIST} HTTP/1.1\r\nHost: api.example.org\r\n{field}\r\n").as_bytes(),
            );
        }
        if row.sends.is_some() {
            // Each is a request of its own, and none waits for another.
            origin.wait_for(CLIENTS);
        } else {
            origin.wait_for(1);
        }
        gate.open();
        let told: BTreeSet<String> = clients
            .iter_mut()
            .map(|client| client.answer("GET").text())
            .collect();
        let (name, says, sends) = (row.name, row.says, row.sends);
        assert_eq!(
            told.len(),
            CLIENTS,
            "{name}: {says:?} {sends:?} was shared: {told:?}"
        );
    }
}

#[test]
fn a_value_that_is_spoilt_is_never_given_to_anybody() {
    let redis = RedisServer::start();
    for policy in [Policy::Ttl, Policy::Http] {
        redis.run(&["FLUSHDB"]).unwrap_ok();
        let (origin, larder) = start(&redis.url(), policy, |request| {
            origin::json(format!("\"{}\"", request.number)).without("Vary")
        });
        larder.get(LIST);
        let is_a_copy = |key: &String| key.starts_with("t:users:") && !key.ends_with("~state");
        let mut key = None;
        eventually("it is stored", || {
            key = redis.keys().into_iter().find(is_a_copy);
            key.is_some()
        });
        let key = key.expect("a key");
        for row in spoilt() {
            let value = redis.get(&key).expect("a copy");
            let kept = larder.get(LIST);
            assert!(kept.is_hit(), "{policy:?}: as it was: {kept:?}");
            redis.set(&key, &(row.spoil)(&value));
            let asked = origin.count();
            let answer = larder.get(LIST);
            assert!(
                !answer.is_hit() && answer.text() == format!("\"{}\"", asked + 1),
                "{policy:?}: {}: {answer:?}",
                row.name
            );
            eventually("it is kept again", || larder.get(LIST).is_hit());
        }
    }
}

/// By whose word the route keeps what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Ttl,
    Http,
}

/// The origin's answers may be kept for an hour, unless the script says otherwise.
fn start(
    store: &str,
    policy: Policy,
    script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Origin, Larder) {
    let origin = Origin::start(move |request| match policy {
        Policy::Ttl => script(request),
        Policy::Http => script(request).field("Cache-Control", "public, max-age=3600"),
    });
    let (ttl, by) = match policy {
        Policy::Ttl => ("ttl: 1h", ""),
        Policy::Http => ("", ", policy: http"),
    };
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\n{ttl}\nroutes:\n  - {{path: {LIST}, key: users:list{by}}}\n",
        origin.url()
    ));
    (origin, larder)
}
