//! What the load benches share: servers and a load generator, each in a process of its own, so that the CPU
//! time of each can be told apart.

// Every bench compiles this folder for itself and uses its own share of it.
#![allow(dead_code)]

pub mod generator;
pub mod naive;
pub mod peers;
pub mod processes;
pub mod servers;
pub mod svg;
pub mod table;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use processes::Server;

/// A bench binary started with this as its first argument is not the bench but a part of it.
const PART: &str = "rig-part";

/// Plays the part that this process was started for, if it was started for one.
pub fn play_part() -> bool {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(PART) {
        // Said before anything is started, where there is none.
        LazyLock::force(&processes::LARDER);
        return false;
    }
    let part = arguments.next().expect("the name of a part");
    let detail = arguments.next().expect("what the part needs");
    match part.as_str() {
        "origin" => servers::origin(&detail),
        "naive" => naive::run(&detail),
        "bare" => servers::bare(&detail),
        "generator" => generator::run(&detail),
        other => panic!("no such part: {other}"),
    }
    true
}

/// The shipped file, but public and quiet.
pub fn proxy_yaml(origin: SocketAddr, store: &str) -> String {
    format!(
        "listen: 127.0.0.1:0
admin: off
upstream: http://{origin}
store: {{url: '{store}', database: 1, prefix: bench}}
ttl: 1h
routes:
  - {{path: /api/users/, key: 'users:list', access: public}}
  - {{path: '/api/users/<int:id>/', key: 'users:detail:{{id}}', access: public}}
purge:
  - {{methods: POST, path: /api/users/, keys: ['users:list']}}
  - {{methods: [PUT, PATCH, DELETE], path: '/api/users/<int:id>/', keys: ['users:list', 'users:detail:{{id}}']}}
  - {{methods: [POST, PUT, PATCH, DELETE], path: '/api/users/<path:rest>', keys: ['users:list', 'users:detail:*']}}
logs: {{access: false, level: warn}}
"
    )
}

/// A bare hyper server that answers the very bytes of a hit of `larder`. `folder` is where these may lie.
pub fn bare(folder: &Path, larder: SocketAddr) -> Server {
    let file = folder.join("hit");
    std::fs::write(&file, hit(larder)).expect("it can be written");
    processes::Part::serving("bare", &file.to_string_lossy())
}

/// A hit as it goes over the wire.
fn hit(larder: SocketAddr) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(larder)?;
        stream.write_all(
            b"GET /api/users/7/ HTTP/1.1\r\nHost: api.example.org\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let (_miss, hit) = (ask(), ask().expect("larder answers"));
    assert!(hit.contains("; hit"), "not a hit: {hit}");
    hit
}

/// What redis-benchmark reaches with 64 connections and no pipelining.
pub fn gets_per_second(redis: &Server, count: u64) -> f64 {
    let ran = Command::new("redis-benchmark")
        .args(["-h", &redis.address.ip().to_string()])
        .args(["-p", &redis.address.port().to_string()])
        .args(["-t", "set,get", "-n", &count.to_string()])
        .args(["-P", "1", "-c", "64", "-d", "300", "--csv"])
        .output();
    let ran = ran.expect("redis-benchmark comes with redis-server (redis-tools)");
    let said = String::from_utf8(ran.stdout).expect("text");
    let line = said.lines().find(|line| line.starts_with("\"GET\""));
    let rate = line.and_then(|line| line.split('"').nth(3)?.parse().ok());
    rate.expect("a rate of GETs")
}
