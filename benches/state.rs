//! Which representation should a family's state have in Redis? (docs/ARCHITECTURE.md, "The state key")
//!
//! `cargo bench --bench state` starts a redis-server of its own and drives, over one multiplexed
//! connection and 64 tasks, what a hit and a write would send with each candidate:
//!
//! * **string**: one value per state; MGET reads it with the copy; a write edits it by a script;
//! * **log**: the same string, but a write only appends to it (`APPEND`), readers fold it;
//! * **hash**: a field for the epoch and one per hold; a hit is a pipeline of GET and HGETALLs.
//!
//! Figures are CPU microseconds per operation, of Redis and of this client, and ratios to a GET.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;

const TASKS: usize = 64;
const OPERATIONS: usize = 120_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = Server::start().await;
    let connection = server.connect().await;
    let sha = prepare(&connection).await;

    let rows: Vec<(&str, Work)> = vec![
        ("GET copy (the floor)", Work::Get),
        ("hit, string: MGET copy + 2 states", Work::Mget(2)),
        ("hit, string: MGET copy + 3 states", Work::Mget(3)),
        ("hit, hash: GET + 2 HGETALL", Work::Hash(2)),
        ("hit, hash: GET + 3 HGETALL", Work::Hash(3)),
        ("write step, hash: HSET + PEXPIRE", Work::HashBegin),
        ("write step, hash: HDEL h + HDEL e", Work::HashFinish),
        ("write step, log: APPEND + PEXPIRE", Work::Append),
        ("write step, script: EVALSHA", Work::Script(sha)),
    ];
    let mut totals = vec![Vec::new(); rows.len()];
    for _round in 0..5 {
        for (row, (_, work)) in rows.iter().enumerate() {
            totals[row].push(server.measure(&connection, work).await);
        }
    }
    let medians: Vec<Cost> = totals.into_iter().map(Cost::median).collect();
    println!(
        "{:<38} {:>9} {:>9} {:>9} {:>7}",
        "µs of CPU per operation", "redis", "client", "both", "/ GET"
    );
    for ((name, _), cost) in rows.iter().zip(&medians) {
        println!(
            "{name:<38} {:>9.2} {:>9.2} {:>9.2} {:>7.2}",
            cost.redis,
            cost.client,
            cost.both(),
            cost.both() / medians[0].both()
        );
    }
}

#[derive(Clone)]
enum Work {
    Get,
    Mget(usize),
    Hash(usize),
    HashBegin,
    HashFinish,
    Append,
    Script(String),
}

impl Work {
    async fn once(&self, connection: &mut MultiplexedConnection, turn: usize) {
        let user = turn % 1000;
        let copy = format!("b:users:detail:{user}");
        let hash = |n: usize| {
            if n == 0 {
                format!("b:users:detail:{user}~h")
            } else {
                format!("b:all{n}~h")
            }
        };
        let string = |n: usize| {
            if n == 0 {
                format!("b:users:detail:{user}~s")
            } else {
                format!("b:all{n}~s")
            }
        };
        match self {
            Work::Get => drop(
                redis::cmd("GET")
                    .arg(copy)
                    .query_async::<redis::Value>(connection)
                    .await
                    .unwrap(),
            ),
            Work::Mget(states) => {
                let mut mget = redis::cmd("MGET");
                mget.arg(copy);
                for n in 0..*states {
                    mget.arg(string(n));
                }
                mget.query_async::<redis::Value>(connection).await.unwrap();
            }
            Work::Hash(states) => {
                let mut pipe = redis::pipe();
                pipe.cmd("GET").arg(copy);
                for n in 0..*states {
                    pipe.cmd("HGETALL").arg(hash(n));
                }
                pipe.query_async::<redis::Value>(connection).await.unwrap();
            }
            Work::HashBegin => {
                let mut pipe = redis::pipe();
                pipe.cmd("HSET")
                    .arg(hash(0))
                    .arg("h:0123456789ab")
                    .arg(1_700_000_000_000u64);
                pipe.cmd("PEXPIRE").arg(hash(0)).arg(3_700_000);
                pipe.query_async::<redis::Value>(connection).await.unwrap();
            }
            Work::HashFinish => {
                let mut pipe = redis::pipe();
                pipe.cmd("HDEL").arg(hash(0)).arg("h:0123456789ab");
                pipe.cmd("HDEL").arg(hash(0)).arg("e2");
                pipe.query_async::<redis::Value>(connection).await.unwrap();
            }
            Work::Append => {
                let mut pipe = redis::pipe();
                pipe.cmd("SETRANGE")
                    .arg(string(0))
                    .arg(32)
                    .arg("+0123456789ab:1700000000000");
                pipe.cmd("PEXPIRE").arg(string(0)).arg(3_700_000);
                pipe.query_async::<redis::Value>(connection).await.unwrap();
            }
            Work::Script(sha) => {
                let mut cmd = redis::cmd("EVALSHA");
                cmd.arg(sha)
                    .arg(1)
                    .arg(string(0))
                    .arg("0123456789ab")
                    .arg(60_000)
                    .arg(3_700_000);
                cmd.query_async::<redis::Value>(connection).await.unwrap();
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Cost {
    redis: f64,
    client: f64,
}

impl Cost {
    fn both(&self) -> f64 {
        self.redis + self.client
    }

    fn median(mut runs: Vec<Cost>) -> Cost {
        runs.sort_by(|a, b| a.both().total_cmp(&b.both()));
        runs[runs.len() / 2]
    }
}

struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    async fn start() -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--bind",
                "127.0.0.1",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: apt-get install redis-server");
        let server = Server { process, port };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
            {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server did not start");
    }

    async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    async fn measure(&self, connection: &MultiplexedConnection, work: &Work) -> Cost {
        let before = (
            cpu_micros(self.process.id()),
            cpu_micros(std::process::id()),
        );
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (mut connection, work) = (connection.clone(), work.clone());
                tokio::spawn(async move {
                    for turn in 0..OPERATIONS / TASKS {
                        work.once(&mut connection, task + turn * TASKS).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let after = (
            cpu_micros(self.process.id()),
            cpu_micros(std::process::id()),
        );
        let per = |a: f64, b: f64| (b - a) / OPERATIONS as f64;
        Cost {
            redis: per(before.0, after.0),
            client: per(before.1, after.1),
        }
    }
}

/// Fills in what the reads will find, and loads the script of the string candidate.
async fn prepare(connection: &MultiplexedConnection) -> String {
    let mut connection = connection.clone();
    let epoch = "0005f1c2d3e4f5a6-0123456789abcdef";
    let copy = vec![b'x'; 600];
    for user in 0..1000 {
        let mut pipe = redis::pipe();
        pipe.cmd("SET")
            .arg(format!("b:users:detail:{user}"))
            .arg(&copy[..]);
        pipe.cmd("SET")
            .arg(format!("b:users:detail:{user}~s"))
            .arg(epoch);
        pipe.cmd("HSET")
            .arg(format!("b:users:detail:{user}~h"))
            .arg("e")
            .arg(epoch);
        pipe.query_async::<redis::Value>(&mut connection)
            .await
            .unwrap();
    }
    for n in 1..3 {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(format!("b:all{n}~s")).arg(epoch);
        pipe.cmd("HSET")
            .arg(format!("b:all{n}~h"))
            .arg("e")
            .arg(epoch);
        pipe.query_async::<redis::Value>(&mut connection)
            .await
            .unwrap();
    }
    let script = "local s = redis.call('GET', KEYS[1]) or ''\n\
        local t = redis.call('TIME')\n\
        local held = string.sub(s, 1, 33) .. '+' .. ARGV[1] .. ':' .. (t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2])\n\
        redis.call('SET', KEYS[1], held, 'PX', ARGV[3])\n\
        return 1";
    redis::cmd("SCRIPT")
        .arg("LOAD")
        .arg(script)
        .query_async(&mut connection)
        .await
        .unwrap()
}

/// User and system time of a process so far, in microseconds (Linux: 10 ms ticks, hence the many operations).
fn cpu_micros(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}
