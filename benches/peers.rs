//! Larder beside what a user would otherwise run. `cargo bench --bench peers`; benches/README.md says more.
//!
//! Everything is a ratio to something that is measured in the same round: CPU time per request of all processes that answer,
//! the store among them. Those that are not installed are left out, and named.

#[path = "peers/django.rs"]
mod django;
mod rig;
#[path = "peers/scale.rs"]
mod scale;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use rig::generator::{Order, Ready, Report, Work};
use rig::peers::{self, Peer};
use rig::processes::{self, Part, Process, Server};
use rig::servers::{self, Takes};
use rig::svg::{self, Panel};
use rig::table::{Table, median};

/// Users that are read in turn, and users that Zipf's law draws from.
const READ: u64 = 1_000;
const MIXED: u64 = 10_000;

/// Ids that one measurement has to itself, so that nobody has asked for them before.
const FRESH: u64 = 10_000_000;

#[derive(Parser)]
#[command(name = "cargo bench --bench peers --")]
struct Arguments {
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of each measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How often all is measured, interleaved
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only the parts whose name begins so: 300 B, 10 KB, 100 KB, 1 MB, work, scale, django
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// One short round: does it all work?
    #[arg(long)]
    quick: bool,
    /// Print tables for a README
    #[arg(long)]
    markdown: bool,
    /// Draw the hits into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Cargo says so to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if rig::play_part() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 0.3);
    }
    introduce(&arguments);
    let wanted = |part: &str| part.starts_with(&arguments.only);
    let (mut goals, mut panels) = (Vec::new(), Vec::new());
    for (name, bytes) in [
        ("300 B", servers::BODY),
        ("10 KB", 10_000),
        ("100 KB", 100_000),
        ("1 MB", 1_000_000),
    ] {
        if wanted(name) {
            goals.extend(hits(name, bytes, &arguments, &mut panels));
        }
    }
    if wanted("work") {
        goals.extend(work(&arguments));
    }
    if wanted("scale") {
        goals.extend(scale::scale(&arguments));
    }
    if wanted("django") {
        goals.extend(django::django(&arguments));
    }
    if let Some(file) = &arguments.svg {
        let told = "CPU time per hit, µs, of all processes that answer (64 connections)";
        std::fs::write(file, svg::chart(told, &panels)).expect("the drawing can be written");
    }
    let mut table = Table::new(&["goal", "measured", "at most", "hoped for"]);
    for goal in goals {
        table.row(vec![
            goal.name,
            figure(goal.measured),
            figure(goal.at_most),
            figure(goal.hoped),
        ]);
    }
    show(&table, &arguments);
    ExitCode::SUCCESS
}

fn introduce(arguments: &Arguments) {
    let missing: Vec<&str> = Peer::ALL
        .into_iter()
        .filter(|peer| !peer.is_installed())
        .map(Peer::packages)
        .collect();
    println!(
        "larder {}, {} connections, {} rounds of {} s each, medians; all on {} cores",
        env!("CARGO_PKG_VERSION"),
        arguments.connections,
        arguments.rounds,
        arguments.seconds,
        peers::threads(),
    );
    if !missing.is_empty() {
        println!(
            "left out, not installed: apt-get install {}",
            missing.join(" ")
        );
    }
    println!();
}

/// A ratio that was promised.
struct Goal {
    name: String,
    measured: f64,
    at_most: f64,
    hoped: f64,
}

/// One of those who answer.
struct Contestant {
    name: &'static str,
    server: Server,
    over_redis: bool,
}

/// All that runs for one size of bodies.
struct Stage {
    contestants: Vec<Contestant>,
    origin: Server,
    redis: Option<Server>,
    _folder: tempfile::TempDir,
}

const BARE: &str = "bare hyper server";
const MEMORY: &str = "Larder, memory";
const REDIS: &str = "Larder, Redis";

impl Stage {
    fn build(bytes: usize, with_bare: bool) -> Stage {
        // Where nginx keeps its files: in memory, so that no disk is measured.
        let folder = match Path::new("/dev/shm").is_dir() {
            true => tempfile::tempdir_in("/dev/shm"),
            false => tempfile::tempdir(),
        };
        let folder = folder.expect("a temporary directory");
        let takes = Takes {
            body: Some(bytes),
            ..Takes::default()
        };
        let origin = Part::serving("origin", &takes.detail());
        let redis = processes::redis();
        let larder = |store: &str| {
            let file = folder.path().join("proxy.yaml");
            let text = rig::proxy_yaml(origin.address, store) + "memory: {size: 4GiB}\n";
            std::fs::write(&file, text).expect("it can be written");
            processes::larder(&file)
        };
        let contestant = |name, server, over_redis| Contestant {
            name,
            server,
            over_redis,
        };
        let mut contestants = Vec::new();
        let memory = larder("memory:");
        if with_bare {
            let bare = rig::bare(folder.path(), memory.address);
            contestants.push(contestant(BARE, bare, false));
        }
        contestants.push(contestant(MEMORY, memory, false));
        if let Some(redis) = &redis {
            let over = larder(&format!("redis://{}", redis.address));
            contestants.push(contestant(REDIS, over, true));
            peers::fill(redis.address, READ, &servers::user(bytes));
        }
        for peer in Peer::ALL {
            let own = folder.path().join(format!("{peer:?}"));
            let address = redis.as_ref().map(|redis| redis.address);
            if let Some(server) = peer.start(&own, origin.address, address) {
                contestants.push(contestant(peer.name(), server, peer == Peer::NginxRedis));
            }
        }
        Stage {
            contestants,
            origin,
            redis,
            _folder: folder,
        }
    }

    /// Of those who answer this one's requests, the CPU time.
    fn cpu(&self, contestant: &Contestant) -> Duration {
        let own = contestant.server.process.family_cpu();
        match &self.redis {
            Some(redis) if contestant.over_redis => own + redis.process.cpu(),
            _ => own,
        }
    }

    fn measure(&self, contestant: &Contestant, order: &Order) -> Measured {
        let ready = Ready::for_order(order);
        let (before, origin) = (self.cpu(contestant), self.origin.process.cpu());
        let (report, _) = ready.go();
        let per = |time: Duration| time.as_secs_f64() * 1e6 / report.requests.max(1) as f64;
        Measured {
            cpu: per(self.cpu(contestant) - before),
            origin: per(self.origin.process.cpu() - origin),
            report,
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.contestants.iter().position(|one| one.name == name)
    }
}

struct Measured {
    report: Report,
    /// Microseconds per request.
    cpu: f64,
    origin: f64,
}

fn order(contestant: &Contestant, arguments: &Arguments, work: Work, from: u64) -> Order {
    Order {
        address: contestant.server.address,
        host: "api.example.org".to_owned(),
        connections: arguments.connections,
        seconds: arguments.seconds,
        rate: None,
        work,
        from,
    }
}

/// Hits of bodies of this size.
fn hits(name: &str, bytes: usize, arguments: &Arguments, panels: &mut Vec<Panel>) -> Vec<Goal> {
    let stage = Stage::build(bytes, true);
    let read = || Work::Read { users: READ };
    let mut rounds: Vec<Vec<Measured>> = Vec::new();
    let mut gets = Vec::new();
    for _ in 0..arguments.rounds {
        let each = stage.contestants.iter();
        rounds.push(
            each.map(|one| stage.measure(one, &order(one, arguments, read(), 0)))
                .collect(),
        );
        if bytes == servers::BODY
            && let Some(redis) = &stage.redis
        {
            gets.push(rig::gets_per_second(
                redis,
                (50_000.0 * arguments.seconds) as u64,
            ));
        }
    }
    let mut table = Table::new(&[
        &format!("hit, {name}"),
        "requests/s",
        "p50 µs",
        "CPU µs",
        "Larder, memory / this",
        "Larder, Redis / this",
        "system calls",
    ]);
    let against = |ours: &str, theirs: usize| {
        let ours = stage.find(ours)?;
        Some(median(
            rounds
                .iter()
                .map(|round| round[ours].cpu / round[theirs].cpu),
        ))
    };
    let mut calls = Vec::new();
    let mut bars = Vec::new();
    for (n, one) in stage.contestants.iter().enumerate() {
        let of =
            |figure: fn(&Measured) -> f64| median(rounds.iter().map(|round| figure(&round[n])));
        let counted = system_calls(&one.server.process, &order(one, arguments, read(), 0));
        let ratio =
            |ours| against(ours, n).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        table.row(vec![
            one.name.to_owned(),
            format!("{:.0}", of(|m| m.report.requests as f64 / m.report.seconds)),
            format!("{:.0}", of(|m| m.report.p50)),
            format!("{:.1}", of(|m| m.cpu)),
            ratio(MEMORY),
            ratio(REDIS),
            counted.map_or_else(|| "-".to_owned(), |counted| format!("{counted:.2}")),
        ]);
        calls.push(counted);
        bars.push((one.name.to_owned(), of(|m| m.cpu)));
        let forwarded = of(|m| m.origin);
        if one.name != BARE && forwarded > 1.0 {
            println!(
                "{}: not all were hits: the origin spent {forwarded:.1} µs a request",
                one.name
            );
        }
    }
    show(&table, arguments);
    panels.push(Panel {
        title: name.to_owned(),
        bars,
    });
    let mut goals = Vec::new();
    let mut goal = |ours: &str, theirs: &str, at_most, hoped| {
        if let Some(theirs_at) = stage.find(theirs)
            && let Some(measured) = against(ours, theirs_at)
        {
            goals.push(Goal {
                name: format!("hit, {name}: {ours} / {theirs}"),
                measured,
                at_most,
                hoped,
            });
        }
    };
    let [haproxy, nginx, varnish, lua] = Peer::ALL.map(Peer::name);
    match bytes {
        servers::BODY => {
            goal(MEMORY, BARE, 1.20, 1.05);
            goal(MEMORY, haproxy, 1.00, 0.90);
            goal(MEMORY, nginx, 0.58, 0.48);
            goal(MEMORY, varnish, 0.45, 0.36);
            goal(REDIS, nginx, 0.90, 0.72);
            goal(REDIS, lua, 0.40, 0.32);
        }
        10_000 => {
            goal(MEMORY, haproxy, 0.90, 0.76);
            goal(REDIS, lua, 0.45, 0.38);
        }
        100_000 => {
            goal(MEMORY, nginx, 1.15, 1.03);
            goal(REDIS, lua, 0.45, 0.38);
        }
        _ => goal(MEMORY, nginx, 0.50, 0.40),
    }
    if bytes == servers::BODY {
        for (ours, at_most, hoped) in [(MEMORY, 2.2, 2.05), (REDIS, 3.5, 2.4)] {
            if let Some(measured) = stage.find(ours).and_then(|ours| calls[ours]) {
                goals.push(Goal {
                    name: format!("system calls a hit: {ours}"),
                    measured,
                    at_most,
                    hoped,
                });
            }
        }
        if let Some(ours) = stage.find(REDIS) {
            let pairs = rounds.iter().zip(&gets);
            let measured = median(pairs.map(|(round, gets)| {
                let report = &round[ours].report;
                gets / (report.requests as f64 / report.seconds)
            }));
            goals.push(Goal {
                name: "redis-benchmark GET -P 1 -c 64, requests/s / Larder's hits/s over Redis"
                    .to_owned(),
                measured,
                at_most: 1.0 / 0.75,
                hoped: 1.0 / 0.95,
            });
        }
    }
    goals
}

/// Misses, writes, and a mix of reads and writes.
fn work(arguments: &Arguments) -> Vec<Goal> {
    let stage = Stage::build(servers::BODY, false);
    let [haproxy, nginx, ..] = Peer::ALL.map(Peer::name);
    type Job = (&'static str, fn() -> Work, &'static [&'static str]);
    let jobs: [Job; 3] = [
        ("miss", || Work::Fresh, &[MEMORY, REDIS, "HAProxy", "nginx"]),
        (
            "write",
            || Work::Write { users: READ },
            &[MEMORY, REDIS, "HAProxy", "nginx"],
        ),
        (
            "mix, 9 GET to 1 PATCH of 10,000 users by Zipf's law",
            || Work::Mix { users: MIXED },
            &[MEMORY, REDIS, "nginx"],
        ),
    ];
    let mut goals = Vec::new();
    let mut from = 0;
    for (name, work, who) in jobs {
        let contestants: Vec<&Contestant> = stage
            .contestants
            .iter()
            .filter(|one| who.contains(&one.name))
            .collect();
        let rounds: Vec<Vec<Measured>> = (0..arguments.rounds)
            .map(|_| {
                let each = contestants.iter();
                each.map(|one| {
                    from += FRESH;
                    stage.measure(one, &order(one, arguments, work(), from))
                })
                .collect()
            })
            .collect();
        let mut table = Table::new(&[
            name,
            "requests/s",
            "p50 µs",
            "CPU µs",
            "hits",
            "origin's CPU µs",
        ]);
        for (n, one) in contestants.iter().enumerate() {
            let of =
                |figure: fn(&Measured) -> f64| median(rounds.iter().map(|round| figure(&round[n])));
            let failed: u64 = rounds.iter().map(|round| round[n].report.failed).sum();
            if failed > 0 {
                println!("{name}: {failed} requests to {} failed", one.name);
            }
            table.row(vec![
                one.name.to_owned(),
                format!("{:.0}", of(|m| m.report.requests as f64 / m.report.seconds)),
                format!("{:.0}", of(|m| m.report.p50)),
                format!("{:.1}", of(|m| m.cpu)),
                // The others do not say so in `Cache-Status`.
                match one.name {
                    MEMORY | REDIS => {
                        let share = of(|m| m.report.hits as f64 / m.report.requests.max(1) as f64);
                        format!("{:.0} %", 100.0 * share)
                    }
                    _ => "-".to_owned(),
                },
                format!("{:.1}", of(|m| m.origin)),
            ]);
        }
        show(&table, arguments);
        let at = |name: &str| contestants.iter().position(|one| one.name == name);
        let promised: &[(&str, &str, f64, f64)] = match name {
            "miss" => &[(MEMORY, haproxy, 1.60, 1.20), (MEMORY, nginx, 0.50, 0.36)],
            "write" => &[(REDIS, nginx, 2.40, 1.90)],
            _ => &[(REDIS, nginx, 1.15, 0.95)],
        };
        for &(ours, theirs, at_most, hoped) in promised {
            if let (Some(a), Some(b)) = (at(ours), at(theirs)) {
                goals.push(Goal {
                    name: format!(
                        "{}: {ours} / {theirs}",
                        name.split(',').next().unwrap_or(name)
                    ),
                    measured: median(rounds.iter().map(|round| round[a].cpu / round[b].cpu)),
                    at_most,
                    hoped,
                });
            }
        }
    }
    goals
}

/// How many system calls each request costs, counted by `perf` from outside, not while anything is timed.
fn system_calls(process: &Process, order: &Order) -> Option<f64> {
    let ids: Vec<String> = process.family().iter().map(u32::to_string).collect();
    let ready = Ready::for_order(order);
    let counting = Command::new("perf")
        .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"])
        .arg(ids.join(","))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // It says nothing when it is ready.
    std::thread::sleep(Duration::from_millis(200));
    let (report, _) = ready.go();
    let counted = interrupted(counting)?;
    Some(counted / report.requests as f64)
}

/// What `perf stat` has counted until now.
fn interrupted(counting: Child) -> Option<f64> {
    let id = counting.id().to_string();
    Command::new("kill").args(["-INT", &id]).status().ok()?;
    let told = counting.wait_with_output().ok()?;
    let told = String::from_utf8(told.stderr).ok()?;
    let line = told.lines().find(|line| line.contains("sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

/// Two digits behind the point, or as many as tell a small one from another.
fn figure(figure: f64) -> String {
    match figure < 0.1 {
        true => format!("{figure:.3}"),
        false => format!("{figure:.2}"),
    }
}

fn show(table: &Table, arguments: &Arguments) {
    match arguments.markdown {
        true => println!("{}", table.markdown()),
        false => println!("{}", table.text()),
    }
}
