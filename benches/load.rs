//! What does a request cost, and how long does it take? `cargo bench --bench load`; benches/README.md says more.
//!
//! Starts an origin, redis-server and Larder over either store, drives them in interleaved rounds, and prints
//! for each workload the medians of requests/s, latencies and CPU time per request of every process, and their
//! ratios to a bare hyper server that answers the very bytes of a hit. `--url` drives anything else instead.

mod rig;

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use rig::generator::{Order, Ready, Report, Work};
use rig::processes::{self, Part, Process, Server};
use rig::table::{Table, median};
use url::{Position, Url};

/// Users that are read in turn, and users that Zipf's law draws from.
const READ: u64 = 1_000;
const MIXED: u64 = 10_000;

/// Ids that one measurement has to itself, so that nobody has asked for them before.
const FRESH: u64 = 10_000_000;

#[derive(Parser)]
#[command(name = "cargo bench --bench load --")]
struct Arguments {
    /// Drive this URL with GETs, and start nothing
    #[arg(long)]
    url: Option<Url>,
    /// Requests per second of the open loop; default: half of what the closed loop reached (with --url: no open loop)
    #[arg(long)]
    rate: Option<f64>,
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of each measurement
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// How often all is measured, interleaved
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only the workloads whose name begins so, beside the bare server
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// One short round: does it all work?
    #[arg(long)]
    quick: bool,
    /// Print the table for a README
    #[arg(long)]
    markdown: bool,
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
    match &arguments.url {
        Some(url) => drive(url, &arguments),
        None => compare(&arguments),
    }
}

/// Any URL, from outside.
fn drive(url: &Url, arguments: &Arguments) -> ExitCode {
    let Some(address) = address(url) else {
        eprintln!("--url: not an http:// URL of a host that can be found: {url}");
        return ExitCode::from(2);
    };
    if let Err(error) = TcpStream::connect(address) {
        eprintln!("--url: nobody answers at {address}: {error}");
        return ExitCode::FAILURE;
    }
    let order = Order {
        address,
        host: url[Position::BeforeHost..Position::AfterPort].to_owned(),
        connections: arguments.connections,
        seconds: arguments.seconds,
        rate: arguments.rate,
        work: Work::Get {
            path: url[Position::BeforePath..Position::AfterQuery].to_owned(),
        },
        from: 0,
    };
    let reports: Vec<Report> = (0..arguments.rounds)
        .map(|_| Ready::for_order(&order).go().0)
        .collect();
    let mut table = Table::new(&["GET", "requests/s", "p50 µs", "p90 µs", "p99 µs"]);
    let mut row = vec![url.to_string()];
    row.extend(pace(&reports.iter().collect::<Vec<_>>()));
    table.row(row);
    show(&table, arguments);
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    println!(
        "{} requests, {} from a cache (by Cache-Status), {} failed, {} unsent",
        sum(|r| r.requests),
        sum(|r| r.hits),
        sum(|r| r.failed),
        sum(|r| r.unsent)
    );
    ExitCode::SUCCESS
}

fn address(url: &Url) -> Option<SocketAddr> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    let addresses = (host, url.port_or_known_default()?).to_socket_addrs();
    addresses.ok()?.next().filter(|_| url.scheme() == "http")
}

/// Larder beside a bare server, with everything they need.
fn compare(arguments: &Arguments) -> ExitCode {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let stage = Stage::build(folder.path());
    let workloads: Vec<Workload> = workloads()
        .into_iter()
        .filter(|workload| stage.redis.is_some() || workload.target != Target::Redis)
        .filter(|workload| workload.is_among(&arguments.only))
        .collect();
    introduce(arguments);
    let mut rounds: Vec<Round> = Vec::new();
    for _ in 0..arguments.rounds {
        rounds.push(stage.round(&workloads, &rounds, arguments));
    }
    let mut table = Table::new(&[
        "workload",
        "requests/s",
        "p50 µs",
        "p90 µs",
        "p99 µs",
        "hits",
        "CPU µs: larder",
        "redis",
        "origin",
        "generator",
        "requests/s / bare",
        "CPU / bare",
    ]);
    for (n, workload) in workloads.iter().enumerate() {
        let measured: Vec<&Measured> = rounds.iter().map(|round| &round.measured[n]).collect();
        table.row(cells(workload, &measured, &rounds));
    }
    show(&table, arguments);
    println!(
        "CPU / bare: larder and redis together to the bare server (in the column `origin`).\n"
    );
    judge(&workloads, &rounds);
    surprises(&workloads, &rounds)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Bare,
    Memory,
    Redis,
}

struct Workload {
    name: &'static str,
    target: Target,
    work: Work,
    /// At half the rate that the workload before it, which is the same in a closed loop, reached in round one.
    open: bool,
    /// What each answer must be, or the row is not what its name says.
    hits: Option<bool>,
}

impl Workload {
    /// An open loop brings the closed one along that sets its rate, and everything the bare server.
    fn is_among(&self, only: &str) -> bool {
        self.target == Target::Bare || self.name.starts_with(only) || only.starts_with(self.name)
    }
}

const REDIS_HIT: &str = "hit, Redis";

fn workloads() -> Vec<Workload> {
    let closed = |name, target, work, hits| Workload {
        name,
        target,
        work,
        open: false,
        hits,
    };
    let open = |name, target, work| Workload {
        name,
        target,
        work,
        open: true,
        hits: None,
    };
    let read = Work::Read { users: READ };
    let write = Work::Write { users: READ };
    let mix = Work::Mix { users: MIXED };
    vec![
        closed("bare hyper server", Target::Bare, read.clone(), None),
        closed("hit, memory", Target::Memory, read.clone(), Some(true)),
        closed(REDIS_HIT, Target::Redis, read, Some(true)),
        closed("miss, memory", Target::Memory, Work::Fresh, Some(false)),
        closed("miss, Redis", Target::Redis, Work::Fresh, Some(false)),
        closed("write, memory", Target::Memory, write.clone(), Some(false)),
        closed("write, Redis", Target::Redis, write, Some(false)),
        closed("mix, memory", Target::Memory, mix.clone(), None),
        open("mix, memory, open loop", Target::Memory, mix.clone()),
        closed("mix, Redis", Target::Redis, mix.clone(), None),
        open("mix, Redis, open loop", Target::Redis, mix),
    ]
}

fn introduce(arguments: &Arguments) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "larder {}, {} connections, {} rounds of {} s each, medians; all on {cores} cores\n\
         public routes, 300-byte JSON bodies, logs: {{access: false, level: warn}}\n\
         hit: {READ} users in turn; write: PATCH, which purges the user and the list;\n\
         mix: 9 GET to 1 PATCH of {MIXED} users by Zipf's law; open loop: at half the closed loop's rate\n",
        env!("CARGO_PKG_VERSION"),
        arguments.connections,
        arguments.rounds,
        arguments.seconds,
    );
}

fn show(table: &Table, arguments: &Arguments) {
    match arguments.markdown {
        true => println!("{}", table.markdown()),
        false => println!("{}", table.text()),
    }
}

/// All that runs while we measure.
struct Stage {
    origin: Server,
    bare: Server,
    memory: Server,
    redis: Option<OverRedis>,
}

/// Dropped in this order, so that Larder does not see its store go.
struct OverRedis {
    larder: Server,
    redis: Server,
}

/// What one workload came to in one round.
struct Measured {
    report: Report,
    cost: Cost,
}

/// CPU time per request, in microseconds.
struct Cost {
    larder: Option<f64>,
    redis: Option<f64>,
    /// Or of the bare server, where that was driven.
    origin: f64,
    generator: f64,
}

impl Cost {
    /// Of what answers the clients: Larder and its Redis, or the bare server.
    fn of_answering(&self) -> f64 {
        match self.larder {
            Some(larder) => larder + self.redis.unwrap_or(0.0),
            None => self.origin,
        }
    }
}

struct Round {
    measured: Vec<Measured>,
    /// Redis's CPU time per GET of 300 bytes under redis-benchmark, in microseconds.
    get: Option<f64>,
}

impl Round {
    fn bare(&self) -> &Measured {
        &self.measured[0]
    }
}

impl Stage {
    fn build(folder: &Path) -> Stage {
        let origin = Part::serving("origin", "");
        let larder = |store: &str| {
            let file = folder.join("proxy.yaml");
            std::fs::write(&file, rig::proxy_yaml(origin.address, store))
                .expect("it can be written");
            processes::larder(&file)
        };
        let memory = larder("memory:");
        let redis = processes::redis().map(|redis| OverRedis {
            larder: larder(&format!("redis://{}", redis.address)),
            redis,
        });
        match &redis {
            Some(redis) => drop(redis_benchmark(&redis.redis, "set", 1_000)),
            None => {
                println!("without the rows over Redis; for them: apt-get install redis-server\n")
            }
        }
        let bare = rig::bare(folder, memory.address);
        Stage {
            origin,
            bare,
            memory,
            redis,
        }
    }

    fn round(&self, workloads: &[Workload], before: &[Round], arguments: &Arguments) -> Round {
        let mut measured: Vec<Measured> = Vec::new();
        for (n, workload) in workloads.iter().enumerate() {
            let rate = workload.open.then(|| {
                let closed = &before.first().map_or(&measured, |round| &round.measured)[n - 1];
                let half = closed.report.requests as f64 / closed.report.seconds / 2.0;
                arguments.rate.unwrap_or(half)
            });
            let place = before.len() * workloads.len() + n;
            let order = Order {
                address: self.server(workload.target).address,
                host: "api.example.org".to_owned(),
                connections: arguments.connections,
                seconds: arguments.seconds,
                rate,
                work: workload.work.clone(),
                from: FRESH * (place as u64 + 1),
            };
            measured.push(self.measure(workload.target, &order));
        }
        let gets = (50_000.0 * arguments.seconds) as u64;
        let get = self
            .redis
            .as_ref()
            .map(|redis| redis_benchmark(&redis.redis, "get", gets));
        Round { measured, get }
    }

    fn server(&self, target: Target) -> &Server {
        match target {
            Target::Bare => &self.bare,
            Target::Memory => &self.memory,
            Target::Redis => &self.over_redis().larder,
        }
    }

    fn over_redis(&self) -> &OverRedis {
        self.redis.as_ref().expect("rows over Redis were left out")
    }

    fn measure(&self, target: Target, order: &Order) -> Measured {
        let generator = Ready::for_order(order);
        let larder = (target != Target::Bare).then(|| Meter::on(&self.server(target).process));
        let redis = (target == Target::Redis).then(|| Meter::on(&self.over_redis().redis.process));
        let origin = Meter::on(match target {
            Target::Bare => &self.bare.process,
            Target::Memory | Target::Redis => &self.origin.process,
        });
        let (report, generator) = generator.go();
        let count = report.requests;
        Measured {
            cost: Cost {
                larder: larder.map(|meter| meter.per(count)),
                redis: redis.map(|meter| meter.per(count)),
                origin: origin.per(count),
                generator: per(generator, count),
            },
            report,
        }
    }
}

/// The CPU time of a process from now on.
struct Meter<'p> {
    process: &'p Process,
    before: Duration,
}

impl Meter<'_> {
    fn on(process: &Process) -> Meter<'_> {
        Meter {
            process,
            before: process.cpu(),
        }
    }

    fn per(&self, count: u64) -> f64 {
        per(self.process.cpu() - self.before, count)
    }
}

fn per(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// Redis's CPU time per command, in microseconds, under redis-benchmark's own load.
fn redis_benchmark(redis: &Server, command: &str, count: u64) -> f64 {
    let meter = Meter::on(&redis.process);
    let ran = Command::new("redis-benchmark")
        .args(["-h", &redis.address.ip().to_string()])
        .args(["-p", &redis.address.port().to_string()])
        .args(["-t", command, "-n", &count.to_string()])
        .args(["-P", "1", "-c", "64", "-d", "300", "-q"])
        .output();
    let ran = ran.expect("redis-benchmark comes with redis-server (redis-tools)");
    assert!(ran.status.success(), "redis-benchmark: {}", ran.status);
    meter.per(count)
}

/// Rate and latencies of a row.
fn pace(reports: &[&Report]) -> [String; 4] {
    let figures: [fn(&Report) -> f64; 4] = [
        |r| r.requests as f64 / r.seconds,
        |r| r.p50,
        |r| r.p90,
        |r| r.p99,
    ];
    figures.map(|figure| format!("{:.0}", median(reports.iter().map(|report| figure(report)))))
}

fn cells(workload: &Workload, measured: &[&Measured], rounds: &[Round]) -> Vec<String> {
    let reports: Vec<&Report> = measured.iter().map(|m| &m.report).collect();
    let of = |figure: fn(&Measured) -> f64| median(measured.iter().map(|m| figure(m)));
    let cost = |figure: fn(&Cost) -> Option<f64>| {
        let all: Option<Vec<f64>> = measured.iter().map(|m| figure(&m.cost)).collect();
        all.map_or_else(|| "-".to_owned(), |all| format!("{:.1}", median(all)))
    };
    // Round by round, so that a machine that drifts does not show in it.
    let to_bare = |figure: fn(&Measured) -> f64| {
        let pairs = measured.iter().zip(rounds);
        median(pairs.map(|(m, round)| figure(m) / figure(round.bare())))
    };
    let mut cells = vec![workload.name.to_owned()];
    cells.extend(pace(&reports));
    cells.push(match workload.target {
        Target::Bare => "-".to_owned(),
        Target::Memory | Target::Redis => format!(
            "{:.0} %",
            of(|m| 100.0 * m.report.hits as f64 / m.report.requests as f64)
        ),
    });
    cells.push(cost(|c| c.larder));
    cells.push(cost(|c| c.redis));
    cells.push(cost(|c| Some(c.origin)));
    cells.push(cost(|c| Some(c.generator)));
    let rate = to_bare(|m| m.report.requests as f64 / m.report.seconds);
    cells.push(format!("{rate:.2}"));
    cells.push(format!("{:.2}", to_bare(|m| m.cost.of_answering())));
    cells
}

/// The promise: a Redis hit costs no more CPU than a bare server's answer and a GET would.
fn judge(workloads: &[Workload], rounds: &[Round]) {
    let Some(row) = workloads.iter().position(|w| w.name == REDIS_HIT) else {
        return;
    };
    let hit = |round: &Round| round.measured[row].cost.of_answering();
    let floor = |round: &Round| round.bare().cost.origin + round.get.unwrap_or(0.0);
    let of = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
    let mut ratios: Vec<f64> = rounds.iter().map(|r| hit(r) / floor(r)).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "a Redis hit (larder and its redis): {:.2} µs of CPU\n\
         a bare hyper server answering the same bytes: {:.2} µs, and one GET under redis-benchmark -P 1 -c 64: {:.2} µs\n\
         together {:.2} µs; ratio {:.2} (rounds: {:.2} to {:.2}), at most 1.00 was promised",
        of(&hit),
        of(&|round| round.bare().cost.origin),
        of(&|round| round.get.unwrap_or(0.0)),
        of(&floor),
        median(ratios.iter().copied()),
        ratios[0],
        ratios[ratios.len() - 1],
    );
}

/// Says where answers were not what their row is named after. A few are noise: a stalled machine takes the
/// store for away. Many are a row that measured something else.
fn surprises(workloads: &[Workload], rounds: &[Round]) -> ExitCode {
    let mut exit = ExitCode::SUCCESS;
    for (n, workload) in workloads.iter().enumerate() {
        let sum = |count: fn(&Report) -> u64| -> u64 {
            let reports = rounds.iter().map(|round| &round.measured[n].report);
            reports.map(count).sum()
        };
        let (requests, hits) = (sum(|r| r.requests), sum(|r| r.hits));
        let (failed, unsent) = (sum(|r| r.failed), sum(|r| r.unsent));
        let other = match workload.hits {
            Some(true) => requests - hits - failed,
            Some(false) => hits,
            None => 0,
        };
        if failed + unsent + other > 0 {
            println!(
                "{}: of {requests} requests {failed} failed and {other} were answered otherwise than the row's name \
                 says; {unsent} more found no free connection",
                workload.name
            );
        }
        if (failed + other) * 10 >= requests {
            exit = ExitCode::FAILURE;
        }
    }
    exit
}
