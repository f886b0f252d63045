//! What the load benches share: servers and a load generator, each in a process of its own, so that the CPU
//! time of each can be told apart.

// Every bench compiles this folder for itself and uses its own share of it.
#![allow(dead_code)]

pub mod generator;
pub mod naive;
pub mod processes;
pub mod servers;
pub mod table;

/// A bench binary started with this as its first argument is not the bench but a part of it.
const PART: &str = "rig-part";

/// Plays the part that this process was started for, if it was started for one.
pub fn play_part() -> bool {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(PART) {
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
pub fn proxy_yaml(origin: std::net::SocketAddr, store: &str) -> String {
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
