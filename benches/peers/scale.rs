//! What must not cost more as there is more of it: entries, connections, copies to purge.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::rig::generator::{Order, Ready, Work};
use super::rig::processes::{self, Part, Server};
use super::rig::table::Table;
use super::rig::{self};
use super::{Arguments, Contestant, FRESH, Goal, MEMORY, READ, median, order, show};

/// Connections of the closed loops.
const CONNECTIONS: [usize; 5] = [1, 8, 64, 256, 1_000];

pub fn scale(arguments: &Arguments) -> Vec<Goal> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let origin = Part::serving("origin", "");
    let mut goals = entries(arguments, folder.path(), origin.address);
    connections(arguments, folder.path(), origin.address);
    goals.push(idle(arguments, folder.path(), origin.address));
    goals
}

/// A Larder over its embedded store, and where the operator speaks to it.
fn larder(folder: &Path, origin: SocketAddr) -> (Contestant, SocketAddr) {
    let (file, admin) = (folder.join("proxy.yaml"), processes::free_address());
    let text = rig::proxy_yaml(origin, "memory:").replace("admin: off", &format!("admin: {admin}"))
        + "memory: {size: 4GiB}\nlimits: {connections: 15000, connections_per_address: 15000}\n";
    std::fs::write(&file, text).expect("it can be written");
    let contestant = Contestant {
        name: MEMORY,
        server: processes::larder(&file),
        over_redis: false,
    };
    (contestant, admin)
}

/// Hits among many entries beside hits among few, the memory that an entry takes, and a purge of all of them.
fn entries(arguments: &Arguments, folder: &Path, origin: SocketAddr) -> Vec<Goal> {
    let (few, many) = match arguments.quick {
        true => (1_000, 10_000),
        false => (10_000, 1_000_000),
    };
    let [small, large] = [few, many].map(|users| {
        let (one, admin) = larder(folder, origin);
        // What is there once, however many entries there are.
        fill(&one, arguments, 1_000);
        let before = one.server.process.resident();
        fill(&one, arguments, users);
        let more = (one.server.process.resident() - before) as f64;
        (
            one,
            admin,
            users,
            more * 1024.0 / (users - 1_000).max(1) as f64,
        )
    });
    let mut few_of_them = Vec::new();
    // Always the same are asked for first, to warm up; then any of all.
    let ratios: Vec<f64> = (0..arguments.rounds)
        .map(|round| {
            let [few, many] = [&small, &large].map(|(one, _, users, _)| {
                let work = Work::Among { users: *users };
                let (cpu, hits) = cpu_per_request(
                    &one.server,
                    &order(one, arguments, work, FRESH * round as u64),
                );
                assert!(
                    hits > 0.99,
                    "{users} entries: {hits:.2} of the requests were hits"
                );
                cpu
            });
            few_of_them.push(few);
            many / few
        })
        .collect();
    println!(
        "a hit among {few}: {:.1} µs of CPU; rounds of {many} to {few}: {}",
        median(few_of_them),
        ratios
            .iter()
            .map(|ratio| format!("{ratio:.2}"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let [of_few, of_many] = [&small, &large].map(|(one, admin, ..)| purges(one, *admin));
    println!(
        "a purge of the family of all users, copies: {few}: {:.0} µs, {many}: {:.0} µs, each by a connection of its own\n",
        of_few * 1e6,
        of_many * 1e6
    );
    vec![
        Goal {
            name: format!("hit, 300 B: {many} entries / {few} entries"),
            measured: median(ratios),
            at_most: 1.10,
            hoped: 1.02,
        },
        Goal {
            name: format!("KB of memory for an entry of 300 B, among {many}"),
            measured: large.3 / 1000.0,
            at_most: 1.4,
            hoped: 1.0,
        },
        Goal {
            name: format!("a purge: {many} copies / {few} copies"),
            measured: of_many / of_few,
            at_most: 1.10,
            hoped: 1.02,
        },
    ]
}

/// Asks for each once; whatever is said in the time of the measurement is of no interest.
fn fill(one: &Contestant, arguments: &Arguments, users: u64) {
    let filling = Order {
        seconds: 0.05,
        ..order(one, arguments, Work::Read { users }, 0)
    };
    let _ = Ready::for_order(&filling).go();
}

/// Microseconds of CPU, and which share were hits.
fn cpu_per_request(server: &Server, order: &Order) -> (f64, f64) {
    let ready = Ready::for_order(order);
    let before = server.process.cpu();
    let (report, _) = ready.go();
    let requests = report.requests.max(1) as f64;
    let cpu = (server.process.cpu() - before).as_secs_f64() * 1e6;
    (cpu / requests, report.hits as f64 / requests)
}

/// Seconds that a purge of the group of all users takes.
fn purges(one: &Contestant, admin: SocketAddr) -> f64 {
    let body = r#"{"keys": ["users:detail:*"]}"#;
    let request = format!(
        "POST /purge HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let purge = || {
        let started = Instant::now();
        let mut stream = TcpStream::connect(admin)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok::<_, std::io::Error>(started.elapsed().as_secs_f64())
    };
    let each = (0..100).map(|_| purge().expect("the operator's listener answers"));
    let taken = median(each);
    let hit = first_line_of_status(one.server.address);
    assert!(!hit.contains("; hit"), "purged, and still {hit}");
    taken
}

fn first_line_of_status(larder: SocketAddr) -> String {
    let mut stream = TcpStream::connect(larder).expect("larder answers");
    stream
        .write_all(
            b"GET /api/users/7/ HTTP/1.1\r\nHost: api.example.org\r\nConnection: close\r\n\r\n",
        )
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let line = answer
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("cache-status"));
    line.expect("each answer has it").to_owned()
}

/// A hit from few and from many connections, beside the bare server from as many.
fn connections(arguments: &Arguments, folder: &Path, origin: SocketAddr) {
    let (one, _) = larder(folder, origin);
    let bare = rig::bare(folder, one.server.address);
    let mut table = Table::new(&[
        "hit, connections",
        "requests/s",
        "p50 µs",
        "p99 µs",
        "CPU µs",
        "CPU / bare",
    ]);
    for connections in CONNECTIONS {
        let rounds: Vec<_> = (0..arguments.rounds.min(5))
            .map(|_| {
                let [(ours, report), (bare, _)] = [&one.server, &bare].map(|server| {
                    let order = Order {
                        address: server.address,
                        connections,
                        ..order(&one, arguments, Work::Read { users: READ }, 0)
                    };
                    let ready = Ready::for_order(&order);
                    let before = server.process.cpu();
                    let (report, _) = ready.go();
                    let cpu = (server.process.cpu() - before).as_secs_f64() * 1e6;
                    (cpu / report.requests.max(1) as f64, report)
                });
                (ours, ours / bare, report)
            })
            .collect();
        table.row(vec![
            connections.to_string(),
            format!(
                "{:.0}",
                median(rounds.iter().map(|(.., r)| r.requests as f64 / r.seconds))
            ),
            format!("{:.0}", median(rounds.iter().map(|(.., r)| r.p50))),
            format!("{:.0}", median(rounds.iter().map(|(.., r)| r.p99))),
            format!("{:.1}", median(rounds.iter().map(|(cpu, ..)| *cpu))),
            format!("{:.2}", median(rounds.iter().map(|(_, ratio, _)| *ratio))),
        ]);
    }
    show(&table, arguments);
}

/// Memory of connections that have asked once and are kept.
fn idle(arguments: &Arguments, folder: &Path, origin: SocketAddr) -> Goal {
    let (one, _) = larder(folder, origin);
    let count = if arguments.quick { 1_000 } else { 10_000 };
    fill(&one, arguments, 1_000);
    let before = one.server.process.resident();
    let mut kept = Vec::with_capacity(count);
    for n in 0..count {
        // More than one address: there are not so many ports on one that are free at any time.
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2 + (n % 4) as u8), 0));
        let mut stream = connect(from, one.server.address);
        if n % 2 == 0 {
            stream
                .write_all(b"GET /api/users/7/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n")
                .expect("it reads");
            let read = stream.read(&mut [0; 2048]).expect("it answers");
            assert!(read > 300, "a hit");
        }
        kept.push(stream);
    }
    // The last are accepted.
    std::thread::sleep(Duration::from_millis(300));
    let each = (one.server.process.resident() - before) as f64 * 1024.0 / count as f64;
    println!(
        "{count} idle connections, every other of which has asked once: {:.1} KB each\n",
        each / 1000.0
    );
    Goal {
        name: "KB of memory for an idle connection".to_owned(),
        measured: each / 1000.0,
        at_most: 8.0,
        hoped: 4.0,
    }
}

fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(&from.into())
        .expect("an address of the loopback network");
    socket.connect(&to.into()).expect("larder takes it");
    socket.into()
}
