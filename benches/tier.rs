//! What does a hit over Redis cost where its copy is kept in this process, too? `cargo bench --bench tier`; benches/README.md
//! says more.
//!
//! Larder over the embedded store, over Redis, and over the same Redis with `memory: {lease: 0}`, `10ms` and `100ms`, each a
//! process of its own, in interleaved rounds: CPU time per hit of Larder and Redis together, and its ratios.

mod rig;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rig::generator::{Order, Ready, Work};
use rig::processes::{self, Part, Server};
use rig::table::{Table, median};

#[derive(Parser)]
#[command(name = "cargo bench --bench tier --")]
struct Arguments {
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of each measurement
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// How often all is measured, interleaved
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Users that are read in turn: the hot ones, and more than are asked for again within a lease
    #[arg(long, default_values_t = [16, 1_000])]
    users: Vec<u64>,
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

/// Each with the row that it is measured by, and how much of that its design allows.
const ROWS: [(&str, Option<(&str, f64)>); 5] = [
    (MEMORY, None),
    (REDIS, None),
    (LEASE_0, Some((REDIS, 1.0))),
    (LEASE_10, Some((MEMORY, 1.10))),
    (LEASE_100, Some((MEMORY, 1.10))),
];

const MEMORY: &str = "memory:";
const REDIS: &str = "Redis";
const LEASE_0: &str = "Redis, lease 0";
const LEASE_10: &str = "Redis, lease 10ms";
const LEASE_100: &str = "Redis, lease 100ms";

/// What one row came to in one round.
struct Measured {
    rate: f64,
    /// CPU time per request, in microseconds.
    larder: f64,
    redis: f64,
    others: u64,
}

impl Measured {
    fn both(&self) -> f64 {
        self.larder + self.redis
    }
}

fn main() -> ExitCode {
    if rig::play_part() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 0.3);
    }
    let Some(redis) = processes::redis() else {
        eprintln!("it needs a redis-server: apt-get install redis-server");
        return ExitCode::FAILURE;
    };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let origin = Part::serving("origin", "");
    let over_redis = format!("redis://{}", redis.address);
    let larder = |store: &str, more: &str| {
        let file = folder.path().join("proxy.yaml");
        let yaml = rig::proxy_yaml(origin.address, store) + more;
        std::fs::write(&file, yaml).expect("it can be written");
        processes::larder(&file)
    };
    let larders: Vec<Server> = [
        ("memory:", ""),
        (&over_redis, ""),
        (&over_redis, "memory: {lease: 0}\n"),
        (&over_redis, "memory: {lease: 10ms}\n"),
        (&over_redis, "memory: {lease: 100ms}\n"),
    ]
    .map(|(store, more)| larder(store, more))
    .into();
    println!(
        "larder {}, {} connections, {} rounds of {} s each, medians; hits of 300 bytes\n",
        env!("CARGO_PKG_VERSION"),
        arguments.connections,
        arguments.rounds,
        arguments.seconds,
    );
    let mut table = Table::new(&[
        "users in turn",
        "a hit over",
        "requests/s",
        "CPU µs: larder",
        "redis",
        "both",
        "ratio",
        "at most",
    ]);
    let mut others = 0;
    for &users in &arguments.users {
        let mut rounds: Vec<Vec<Measured>> = Vec::new();
        for _ in 0..arguments.rounds {
            let measured = larders
                .iter()
                .map(|larder| measure(larder, &redis, users, &arguments));
            rounds.push(measured.collect());
        }
        for (n, (name, against)) in ROWS.iter().enumerate() {
            let of =
                |figure: fn(&Measured) -> f64| median(rounds.iter().map(|round| figure(&round[n])));
            others += rounds.iter().map(|round| round[n].others).sum::<u64>();
            let ratio = against.map(|(against, most)| {
                let place = ROWS.iter().position(|(name, _)| *name == against);
                let place = place.expect("one of the rows");
                // Round by round, so that a machine that drifts does not show in it.
                let each = rounds
                    .iter()
                    .map(|round| round[n].both() / round[place].both());
                (
                    format!("{:.2} of {against}", median(each)),
                    format!("{most:.2}"),
                )
            });
            let (ratio, most) = ratio.unwrap_or(("-".to_owned(), "-".to_owned()));
            table.row(vec![
                users.to_string(),
                (*name).to_owned(),
                format!("{:.0}", of(|m| m.rate)),
                format!("{:.2}", of(|m| m.larder)),
                format!("{:.2}", of(|m| m.redis)),
                format!("{:.2}", of(Measured::both)),
                ratio,
                most,
            ]);
        }
    }
    match arguments.markdown {
        true => println!("{}", table.markdown()),
        false => println!("{}", table.text()),
    }
    if others > 0 {
        println!("{others} answers were no hits: a stalled machine takes the store for away");
    }
    ExitCode::SUCCESS
}

fn measure(larder: &Server, redis: &Server, users: u64, arguments: &Arguments) -> Measured {
    let generator = Ready::for_order(&Order {
        address: larder.address,
        host: "api.example.org".to_owned(),
        connections: arguments.connections,
        seconds: arguments.seconds,
        rate: None,
        work: Work::Read { users },
        from: 0,
    });
    let cpu = || (larder.process.cpu(), redis.process.cpu());
    let before = cpu();
    let (report, _) = generator.go();
    let after = cpu();
    let per = |time: Duration| time.as_secs_f64() * 1e6 / report.requests.max(1) as f64;
    Measured {
        rate: report.requests as f64 / report.seconds,
        larder: per(after.0 - before.0),
        redis: per(after.1 - before.1),
        others: report.requests - report.hits,
    }
}
