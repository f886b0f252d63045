//! What a flood costs, and whether anybody else is served meanwhile. `cargo bench --bench floods`; benches/README.md says more.
//!
//! The flood comes from one address, with the limits as they are by default; a good client from another asks for a hit and for
//! something that is only passed on, on kept and on new connections, twenty times a second.

#[path = "floods/http1.rs"]
mod http1;
mod rig;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rig::processes::{self, Part, Server};
use rig::servers::Takes;
use rig::table::Table;
use tokio::net::TcpSocket;

#[derive(Parser)]
#[command(name = "cargo bench --bench floods --")]
struct Arguments {
    /// Length of each flood
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Only the floods whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Short: does it all work?
    #[arg(long)]
    quick: bool,
    /// Cargo says so to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

type Flooding = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// So many connections that each do the same, again and again, until it is over.
pub struct Flood {
    name: &'static str,
    connections: usize,
    /// `limits.connections`, if another than by default.
    room: Option<usize>,
    /// Bytes of what the API answers.
    body: usize,
    on_redis: bool,
    one: Box<dyn Fn(Flooder) -> Flooding + Send + Sync>,
}

/// One connection's part in it.
#[derive(Clone)]
pub struct Flooder {
    larder: SocketAddr,
}

impl Flooder {
    pub async fn connect(&self) -> io::Result<tokio::net::TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((FLOOD, 0)))?;
        // A slow reader's kernel reads no further than this.
        socket.set_recv_buffer_size(16 * 1024)?;
        socket.connect(self.larder).await
    }
}

/// Where the flood comes from.
const FLOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

impl Flood {
    pub fn new<One>(
        name: &'static str,
        connections: usize,
        one: impl Fn(Flooder) -> One + Send + Sync + 'static,
    ) -> Flood
    where
        One: Future<Output = io::Result<()>> + Send + 'static,
    {
        Flood {
            name,
            connections,
            room: None,
            body: 300,
            on_redis: false,
            one: Box::new(move |flooder| Box::pin(one(flooder))),
        }
    }

    pub fn with_room_for(self, connections: usize) -> Flood {
        Flood {
            room: Some(connections),
            ..self
        }
    }

    pub fn on_redis(self) -> Flood {
        Flood {
            on_redis: true,
            ..self
        }
    }

    pub fn of_bodies(self, body: usize) -> Flood {
        Flood { body, ..self }
    }
}

fn main() -> ExitCode {
    if rig::play_part() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::parse();
    if arguments.quick {
        arguments.seconds = 2.0;
    }
    let _ = rlimit::increase_nofile_limit(20_000);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!(
        "larder {}, {} s each; all on {cores} cores\n",
        env!("CARGO_PKG_VERSION"),
        arguments.seconds
    );
    let mut table = Table::new(&[
        "flood",
        "connections made",
        "memory, MB more",
        "CPU, of a core",
        "good: asked",
        "failed",
        "p50 ms",
        "longest ms",
    ]);
    let floods: Vec<Arc<Flood>> = http1::floods().into_iter().map(Arc::new).collect();
    for flood in floods
        .iter()
        .filter(|flood| flood.name.contains(&arguments.only))
    {
        match withstood(flood, folder.path(), arguments.seconds) {
            Some(row) => table.row(row),
            None => println!("left out, as redis-server is not installed: {}", flood.name),
        }
    }
    println!("{}", table.markdown());
    ExitCode::SUCCESS
}

/// One flood, and what came of it. `None` without what it needs.
fn withstood(flood: &Arc<Flood>, folder: &Path, seconds: f64) -> Option<Vec<String>> {
    let redis = match flood.on_redis {
        true => Some(processes::redis()?),
        false => None,
    };
    let store = redis.as_ref().map_or_else(
        || "memory:".to_owned(),
        |redis| format!("redis://{}", redis.address),
    );
    let takes = Takes {
        read: 5,
        write: 5,
        refuses_posts: false,
        body: Some(flood.body),
    };
    let origin = Part::serving("origin", &takes.detail());
    let larder = larder(folder, origin.address, &store, flood.room);
    let (over, made) = (AtomicBool::new(false), Arc::<AtomicU64>::default());
    let good = |over: &AtomicBool| Good::asks(larder.address, over);
    // Its code and buffers are there before anything is measured.
    let once = AtomicBool::new(true);
    good(&once);
    let before = larder.process.resident();
    let cpu = larder.process.cpu();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for _ in 0..flood.connections {
        let (flood, made) = (flood.clone(), made.clone());
        let flooder = Flooder {
            larder: larder.address,
        };
        runtime.spawn(async move {
            loop {
                made.fetch_add(1, Ordering::Relaxed);
                if (flood.one)(flooder.clone()).await.is_err() {
                    // Closed, or no ports left: the next one is not made at once.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
    }
    let (peak, served) = thread::scope(|scope| {
        let served = scope.spawn(|| good(&over));
        let started = Instant::now();
        let mut peak = before;
        while started.elapsed().as_secs_f64() < seconds {
            thread::sleep(Duration::from_millis(20));
            peak = peak.max(larder.process.resident());
        }
        over.store(true, Ordering::Relaxed);
        (peak, served.join().expect("the good client"))
    });
    let cpu = (larder.process.cpu() - cpu).as_secs_f64() / seconds;
    runtime.shutdown_background();
    Some(vec![
        flood.name.to_owned(),
        made.load(Ordering::Relaxed).to_string(),
        format!("{:.1}", peak.saturating_sub(before) as f64 / 1024.0),
        format!("{cpu:.2}"),
        served.took.len().to_string(),
        served.failed.to_string(),
        format!("{:.1}", served.took[served.took.len() / 2] * 1e3),
        format!("{:.0}", served.took[served.took.len() - 1] * 1e3),
    ])
}

/// The shipped file, to which both clients are strangers.
fn larder(folder: &Path, origin: SocketAddr, store: &str, room: Option<usize>) -> Server {
    let room = room.map_or_else(String::new, |room| format!("connections: {room}"));
    let file = folder.join("proxy.yaml");
    let strangers = format!("trusted_proxies: []\nlimits: {{{room}}}\n");
    std::fs::write(&file, rig::proxy_yaml(origin, store) + &strangers).expect("it can be written");
    processes::larder(&file)
}

/// A client like any other.
struct Good {
    /// Seconds, the shortest first.
    took: Vec<f64>,
    failed: usize,
}

impl Good {
    /// At least once, and until it is over.
    fn asks(larder: SocketAddr, over: &AtomicBool) -> Good {
        let (mut took, mut failed, mut kept) = (Vec::new(), 0, None);
        for number in 0.. {
            let target = ["/api/users/", "/elsewhere/"][number % 2];
            if number % 4 < 2 {
                kept = None;
            }
            let started = Instant::now();
            match ask(larder, kept.take(), target) {
                Ok(connection) => kept = Some(connection),
                Err(_) => failed += 1,
            }
            took.push(started.elapsed().as_secs_f64());
            if number > 4 && over.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        took.sort_by(f64::total_cmp);
        Good { took, failed }
    }
}

/// One request to the last byte of its answer, which must be a good one.
fn ask(
    larder: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
    target: &str,
) -> io::Result<BufReader<TcpStream>> {
    let mut connection = match kept {
        Some(kept) => kept,
        None => {
            let stream = TcpStream::connect(larder)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            BufReader::new(stream)
        }
    };
    let request = format!("GET {target} HTTP/1.1\r\nHost: api.example.org\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut length, mut good) = (String::new(), 0, false);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        good |= lower.starts_with("http/1.1 200");
        if let Some(told) = lower.strip_prefix("content-length:") {
            length = told.trim().parse().map_err(io::Error::other)?;
        }
        if line == "\r\n" {
            break;
        }
    }
    io::copy(&mut connection.by_ref().take(length), &mut io::sink())?;
    match good {
        true => Ok(connection),
        false => Err(io::Error::other("no 200")),
    }
}
