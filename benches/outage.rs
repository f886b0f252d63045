//! What an outage of the store costs, and what writes cost readers. `cargo bench --bench outage`; benches/README.md
//! says more.
//!
//! Everything is a ratio to something that is measured in the same run: reads while the store is away to requests that
//! are only passed on; hits under writes to those of a cache that drops its copies after the write and knows no holds.

mod rig;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rig::generator::{Order, Ready, Report, SLOW, Work};
use rig::processes::{self, Part, Server};
use rig::servers::Takes;
use rig::table::{Table, median};

const LIST: &str = "/api/users/";

/// Users that are read.
const USERS: u64 = 1_000;
const MIXED: u64 = 100;

#[derive(Parser)]
#[command(name = "cargo bench --bench outage --")]
struct Arguments {
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of each measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How often a pair is measured, interleaved
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Only the parts whose name begins so: hung, refused, flood, mixed
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Short: does it all work?
    #[arg(long)]
    quick: bool,
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
        (arguments.rounds, arguments.seconds) = (1, 0.5);
    }
    let Some(redis) = processes::redis() else {
        eprintln!("this bench stops and kills a redis-server: apt-get install redis-server");
        return ExitCode::FAILURE;
    };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!(
        "larder {}, {} connections, {} rounds of {} s; all on {cores} cores\n",
        env!("CARGO_PKG_VERSION"),
        arguments.connections,
        arguments.rounds,
        arguments.seconds,
    );
    let wanted = |part: &str| part.starts_with(&arguments.only);
    let mut redis = Some(redis);
    for outage in [Outage::Hung, Outage::Refused] {
        if wanted(outage.name()) {
            during(outage, &mut redis, folder.path(), &arguments);
        }
    }
    let redis = redis.expect("it is back");
    if wanted("flood") {
        flood(&redis, folder.path(), &arguments);
    }
    if wanted("mixed") {
        mixed(&redis, folder.path(), &arguments);
    }
    ExitCode::SUCCESS
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// SIGSTOP: connections stay, nobody answers.
    Hung,
    /// SIGKILL: connections are refused.
    Refused,
}

impl Outage {
    fn name(self) -> &'static str {
        match self {
            Outage::Hung => "hung",
            Outage::Refused => "refused",
        }
    }

    fn begin(self, redis: &mut Option<Server>) {
        match self {
            Outage::Hung => redis.as_ref().expect("it runs").process.signal("-STOP"),
            Outage::Refused => *redis = None,
        }
    }

    fn end(self, redis: &mut Option<Server>, address: SocketAddr) {
        match self {
            Outage::Hung => redis.as_ref().expect("it hangs").process.signal("-CONT"),
            Outage::Refused => *redis = processes::redis_at(address),
        }
    }
}

/// One outage under load: its beginning, its middle, its end.
fn during(outage: Outage, redis: &mut Option<Server>, folder: &Path, arguments: &Arguments) {
    let origin = Part::serving("origin", "");
    let store = redis.as_ref().expect("it runs").address;
    let larder_at = |origin: SocketAddr| larder(folder, origin, &format!("redis://{store}"));
    let larder = larder_at(origin.address);
    // And one whose API takes as long as an API does at its best.
    let takes = Takes {
        read: 5,
        ..Takes::default()
    };
    let slow_origin = Part::serving("origin", &takes.detail());
    let before_slow = larder_at(slow_origin.address);
    let span = arguments.seconds.max(1.0);
    let order = |work: Work, seconds: f64| Order {
        address: larder.address,
        host: "api.example.org".to_owned(),
        connections: arguments.connections,
        seconds,
        rate: None,
        work,
        from: 0,
    };
    let reads = || Work::Read { users: USERS };
    println!("redis {}", outage.name());

    let load = Ready::for_order(&order(reads(), 2.0 * span));
    let begins = thread::scope(|scope| {
        let load = scope.spawn(|| load.go().0);
        thread::sleep(Duration::from_secs_f64(span));
        outage.begin(redis);
        load.join().expect("the load")
    });
    println!(
        "  it begins: {} of {} requests on {} connections waited for longer than {} ms, the longest {:.0} ms; {} failed",
        begins.slow,
        begins.requests,
        arguments.connections,
        SLOW.as_millis(),
        begins.longest / 1e3,
        begins.failed,
    );

    for (load, rate, larder) in [
        ("as many as go", None, &larder),
        ("2,000 a second", Some(2_000.0), &larder),
        (
            "as many as go, of an API that takes 5 ms",
            None,
            &before_slow,
        ),
    ] {
        // Short slices in turn, so that a machine that drifts does not show in their ratio.
        let rounds: Vec<[(Report, f64); 2]> = (0..3 * arguments.rounds)
            .map(|_| {
                let passed = Work::Elsewhere { users: USERS };
                [reads(), passed].map(|work| {
                    let order = Order {
                        address: larder.address,
                        rate,
                        ..order(work, arguments.seconds / 3.0)
                    };
                    let load = Ready::for_order(&order);
                    let before = larder.process.cpu();
                    let report = load.go().0;
                    let cpu = (larder.process.cpu() - before).as_secs_f64();
                    let each = cpu * 1e6 / report.requests as f64;
                    (report, each)
                })
            })
            .collect();
        let cpu = |of: usize| median(rounds.iter().map(|round| round[of].1));
        let p50 = |of: usize| median(rounds.iter().map(|round| round[of].0.p50));
        let ratios = sorted(
            rounds
                .iter()
                .map(|[read, passed]| read.0.p50 / passed.0.p50),
        );
        println!(
            "  it lasts, {load}: reads take {:.0} µs, requests that no route names {:.0} µs (medians); \
             ratio {:.2} (a quarter of the rounds below {:.2}, a quarter above {:.2}); CPU {:.0} and {:.0} µs; {} reads were slow, {} failed",
            p50(0),
            p50(1),
            median(ratios.iter().copied()),
            ratios[ratios.len() / 4],
            ratios[ratios.len() * 3 / 4],
            cpu(0),
            cpu(1),
            rounds.iter().map(|round| round[0].0.slow).sum::<u64>(),
            rounds.iter().map(|round| round[0].0.failed).sum::<u64>(),
        );
    }

    let load = Ready::for_order(&order(reads(), 2.0 + span));
    let (first, ends) = thread::scope(|scope| {
        let load = scope.spawn(|| load.go().0);
        thread::sleep(Duration::from_secs_f64(span / 2.0));
        outage.end(redis, store);
        let first = until_a_hit(larder.address);
        (first, load.join().expect("the load"))
    });
    println!(
        "  it ends: the first hit {:.0} ms after the store is back; {} failed\n",
        first.as_secs_f64() * 1e3,
        ends.failed,
    );
}

fn until_a_hit(larder: SocketAddr) -> Duration {
    let (started, mut client) = (Instant::now(), Client::of(larder));
    while !client.ask("GET", LIST).hit {
        assert!(started.elapsed() < Duration::from_secs(20), "no hit");
        thread::sleep(Duration::from_millis(2));
    }
    started.elapsed()
}

/// Clients that post in a loop what is refused, and one that trickles a body: what readers of the list have left.
fn flood(redis: &Server, folder: &Path, arguments: &Arguments) {
    println!(
        "flood: {} clients post in a loop what is refused after 5 ms, one trickles a body; the list is read 200 times a second",
        arguments.connections
    );
    let takes = Takes {
        read: 5,
        write: 5,
        refuses_posts: true,
        body: None,
    };
    let origin = Part::serving("origin", &takes.detail());
    let mut table = Table::new(&[
        "store",
        "hits",
        "refused/s",
        "a good write, p50 ms",
        "longest ms",
    ]);
    for (name, store) in stores(redis) {
        let larder = larder(folder, origin.address, &store);
        let seconds = arguments.seconds * arguments.rounds as f64;
        let order = |connections, seconds, rate, work| Order {
            address: larder.address,
            host: "api.example.org".to_owned(),
            connections,
            seconds,
            rate,
            work,
            from: 0,
        };
        let path = LIST.to_owned();
        let readers = Ready::for_order(&order(16, seconds, Some(200.0), Work::Get { path }));
        let path = LIST.to_owned();
        let writers = Work::Post { path };
        let writers = Ready::for_order(&order(arguments.connections, seconds + 0.5, None, writers));
        let over = AtomicBool::new(false);
        let (read, refused, good) = thread::scope(|scope| {
            let writers = scope.spawn(|| writers.go().0);
            scope.spawn(|| trickle(larder.address, &over));
            let good = scope.spawn(|| {
                let mut client = Client::of(larder.address);
                let mut took = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    client.ask("PATCH", "/api/users/7/");
                    took.push(since.elapsed().as_secs_f64() * 1e3);
                    thread::sleep(Duration::from_millis(1_000));
                }
                sorted(took)
            });
            thread::sleep(Duration::from_millis(300));
            let read = readers.go().0;
            over.store(true, Ordering::Relaxed);
            (
                read,
                writers.join().expect("the writers"),
                good.join().expect("the good writer"),
            )
        });
        table.row(vec![
            name.to_owned(),
            format!("{:.2}", ratio(&read)),
            format!("{:.0}", refused.requests as f64 / refused.seconds),
            format!("{:.0}", median(good.iter().copied())),
            format!("{:.0}", good[good.len() - 1]),
        ]);
    }
    println!("{}", table.text());
}

/// Its body never ends.
fn trickle(larder: SocketAddr, over: &AtomicBool) {
    let mut stream = TcpStream::connect(larder).expect("larder listens");
    let head =
        format!("POST {LIST} HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 60000\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it takes a head");
    while !over.load(Ordering::Relaxed) {
        stream.write_all(b"x").expect("it takes a byte");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Eight writes a second of 20 ms each, and reads of the list and of users: hits beside those of a naive cache.
fn mixed(redis: &Server, folder: &Path, arguments: &Arguments) {
    println!(
        "mixed: 8 PATCH a second of 20 ms each, 300 reads a second of 5 ms each of the list and of {MIXED} users; hits"
    );
    let takes = Takes {
        read: 5,
        write: 20,
        refuses_posts: false,
        body: None,
    };
    let origin = Part::serving("origin", &takes.detail());
    let mut table = Table::new(&[
        "reads of the list",
        "naive",
        "memory",
        "difference",
        "Redis",
        "difference",
    ]);
    for percent in [10, 25, 50, 100] {
        let naive = Part::serving("naive", &origin.address.to_string());
        until_a_hit(naive.address);
        let naive = hits_under_writes(naive.address, percent, arguments);
        let mut row = vec![format!("{percent} %"), format!("{naive:.3}")];
        for (_, store) in stores(redis) {
            let larder = larder(folder, origin.address, &store);
            let hits = hits_under_writes(larder.address, percent, arguments);
            row.extend([format!("{hits:.3}"), format!("{:.3}", naive - hits)]);
        }
        table.row(row);
    }
    println!("{}", table.text());
}

fn hits_under_writes(address: SocketAddr, percent: u64, arguments: &Arguments) -> f64 {
    let work = Work::ListAmong {
        users: MIXED,
        percent,
    };
    let load = Ready::for_order(&Order {
        address,
        host: "api.example.org".to_owned(),
        connections: 16,
        seconds: arguments.seconds * arguments.rounds as f64,
        rate: Some(300.0),
        work,
        from: 0,
    });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (started, mut client) = (Instant::now(), Client::of(address));
            for n in 0.. {
                let due = started + n * Duration::from_millis(125);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let user = u64::from(n) * 37 % MIXED + 1;
                client.ask("PATCH", &format!("/api/users/{user}/"));
            }
        });
        let report = load.go().0;
        over.store(true, Ordering::Relaxed);
        ratio(&report)
    })
}

fn ratio(report: &Report) -> f64 {
    report.hits as f64 / report.requests as f64
}

fn stores(redis: &Server) -> [(&'static str, String); 2] {
    [
        ("memory", "memory:".to_owned()),
        ("Redis", format!("redis://{}", redis.address)),
    ]
}

/// The shipped file, but public, quiet, and with a prefix of its own.
fn larder(folder: &Path, origin: SocketAddr, store: &str) -> Server {
    static STARTED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = STARTED.fetch_add(1, Ordering::Relaxed);
    let file = folder.join("proxy.yaml");
    let yaml =
        rig::proxy_yaml(origin, store).replace("prefix: bench", &format!("prefix: bench{n}"));
    std::fs::write(&file, yaml).expect("it can be written");
    let larder = processes::larder(&file);
    // It trusts no store for the notice time.
    until_a_hit(larder.address);
    larder
}

/// One keep-alive connection, one request at a time.
struct Client(BufReader<TcpStream>);

struct Answer {
    hit: bool,
}

impl Client {
    fn of(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("a server of ours listens");
        stream.set_nodelay(true).expect("a socket's option");
        Client(BufReader::new(stream))
    }

    fn ask(&mut self, method: &str, path: &str) -> Answer {
        let content = if method == "GET" { "" } else { "{}" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        );
        let sent = self.0.get_mut().write_all(request.as_bytes());
        sent.expect("a server of ours listens");
        let (mut hit, mut length) = (false, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("cache-status", status)) => hit = status.contains("; hit"),
                Some(("content-length", digits)) => length = digits.parse().expect("a length"),
                Some(_) => {}
                None if line.is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole answer");
        Answer { hit }
    }
}

fn sorted(figures: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures
}
