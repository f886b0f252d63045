//! What a hit may cost, so that it is noticed when it costs more: its system calls, counted from outside by `strace`.
//!
//! Three fifths of a hit are the kernel's, so nothing costs more than one system call more; and no other figure is the same on
//! a busy machine. For that, too, requests come in bursts: the process is stopped, every connection sends one, and it goes on. How
//! many it finds at once is then not a matter of who was faster, and no time is in any of this.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use support::client::{Connection, head};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::{RedisServer, signal};
use support::{eventually, users_api};

const CONNECTIONS: usize = 128;
const BURSTS: usize = 16;

/// Asked for in turn, so that neither one copy nor one request is special.
const USERS: usize = 8;

#[test]
fn a_hit_from_memory_takes_its_read_and_its_write() {
    counts_at_most(2.2, "memory:");
}

#[test]
fn hits_from_redis_share_what_goes_there_and_what_comes_back() {
    counts_at_most(2.5, &RedisServer::start().url());
}

#[track_caller]
fn counts_at_most(most: f64, store: &str) {
    assert!(
        Command::new("strace").arg("-V").output().is_ok(),
        "this test needs strace: apt-get install strace"
    );
    // Some containers let nobody be watched; then there is nothing to count by.
    let tried = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output()
        .expect("run strace");
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr).into_owned();
        assert!(why.contains("not permitted"), "strace: {why}");
        eprintln!("NOT COUNTED: strace may not watch a process here: {why}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let log = folder.path().join("calls");
    let body = format!("{{\"about\": \"{}\"}}", "x".repeat(280));
    let origin = Origin::start(move |_| origin::json(body.clone()));
    // Beside the hits as little as there may be: the store's heartbeat comes with a tenth of its timeout.
    let yaml = users_api(&origin, store, "logs: {access: false, level: warn}")
        .replace("prefix: t}", "prefix: t, timeout: 10s}");
    // `-D`: it is traced by a grandchild, and so a child of ours as ever. Of a bigger machine no more is used than of this one.
    let larder = Larder::with(yaml)
        .env("TOKIO_WORKER_THREADS", "2")
        .under(
            ["strace", "-D", "-f", "-s", "0", "-e", "signal=none", "-o"]
                .map(Into::into)
                .into_iter()
                .chain([log.clone().into_os_string()]),
        )
        .start();
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| larder.connect()).collect();
    // Whatever is made once, for each thread, connection and request.
    for burst in 0..BURSTS {
        hits(&larder, &mut connections, burst, burst >= BURSTS / 2);
    }
    let before = calls(&log);
    for burst in 0..BURSTS {
        hits(&larder, &mut connections, burst, true);
    }
    let after = calls(&log);
    let counted: BTreeMap<&String, u64> = after
        .iter()
        .map(|(name, count)| (name, count - before.get(name).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    // How threads wait for each other is the machine's affair.
    let ours = counted.iter().filter(|(name, _)| **name != "futex");
    let each = ours.map(|(_, count)| count).sum::<u64>() as f64 / (BURSTS * CONNECTIONS) as f64;
    println!("{each:.3} system calls a hit: {counted:?}");
    assert!(
        each <= most,
        "{each:.3} system calls a hit, at most {most}: {counted:?}"
    );
}

/// One request on each connection, all there before the first is read.
#[track_caller]
fn hits(larder: &Larder, connections: &mut [Connection], burst: usize, known: bool) {
    signal("-STOP", larder.pid());
    for (n, connection) in connections.iter_mut().enumerate() {
        let target = format!("/api/users/{}/", (n + burst) % USERS);
        connection.send(head("GET", &target, &[], None).as_bytes());
    }
    signal("-CONT", larder.pid());
    for connection in connections {
        let answer = connection.answer("GET");
        assert_eq!(answer.status, 200);
        assert!(answer.is_hit() || !known, "{answer:?}");
    }
}

/// How often each has been called so far.
fn calls(log: &Path) -> BTreeMap<String, u64> {
    // An answer may be here before its call is written down.
    let mut text = String::new();
    eventually("nothing more is written down", || {
        let now = std::fs::read_to_string(log).expect("what strace has written");
        std::mem::replace(&mut text, now).len() == text.len()
    });
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        // One that another thread's came between stands there twice, the second time as `<... name resumed>`.
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        if let Some((name, _)) = call.split_once('(') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}
