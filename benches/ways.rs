//! What does each way to ask cost beside a plain hit? `cargo bench --bench ways`; benches/README.md says more.
//!
//! One Larder for each way that it is set up (TLS, Redis, logs, …), all beside one origin, and each way to ask in interleaved
//! rounds: CPU time per request of Larder and Redis, and its ratio to a plain hit of the same round. A build that is to know what
//! it will be asked is trained by this (`benches/pgo`).

#[path = "ways/peer.rs"]
mod peer;
mod rig;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use http::Method;
use peer::{Ask, Certificate, Clients, Talk};
use rig::processes::{self, Server};
use rig::table::{Table, median};
use ring::hmac;
use serde_yaml::{Mapping, Value};

/// Users that are read in turn.
const READ: u64 = 1_000;

/// Asked for before each measurement; no way has more copies to hit, if it does not say so.
const COPIES: u64 = 2_000;

/// As many where all that is asked is whether it works.
const FEW: u64 = 100;

/// More clients than a thread remembers requests of.
const CROWD: u64 = 10_000;

/// Ids that one measurement has to itself, so that nobody has asked for them before.
const FRESH: u64 = 10_000_000;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What each way to ask costs beside a plain hit. LARDER=FILE measures another build.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench ways --")]
struct Arguments {
    /// Requests at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Length of each measurement
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// How often all is measured, interleaved
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only the ways whose name has this in it, beside a plain hit
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Another build of Larder, measured in the same rounds
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
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

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (0.05..=600.0).contains(seconds));
    seconds.ok_or_else(|| "0.05 to 600".to_owned())
}

fn main() -> ExitCode {
    if rig::play_part() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 0.2);
    }
    let beside = arguments.beside.as_deref();
    let beside = beside.map(|file| processes::build("--beside", file));
    let only = arguments.only.to_lowercase();
    let named = |way: &Way| way.name.to_lowercase().contains(&only);
    if !ways().iter().any(named) {
        let names: Vec<&str> = ways().iter().map(|way| way.name).collect();
        eprintln!(
            "--only: no way has {only:?} in its name: {}",
            names.join("; ")
        );
        return ExitCode::from(2);
    }
    larder::tls::install_provider();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let street = runtime
        .block_on(Street::build(folder.path(), beside.as_deref()))
        .expect("all of it starts");
    let ways: Vec<Way> = ways()
        .into_iter()
        .filter(|way| street.has(way.house))
        .filter(|way| way.name == PLAIN || named(way))
        .map(|way| if arguments.quick { way.of_few() } else { way })
        .collect();
    println!(
        "larder {}, {} at a time, {} rounds of {} s each, medians; 300 bytes, if nothing else is said\n",
        env!("CARGO_PKG_VERSION"),
        arguments.connections,
        arguments.rounds,
        arguments.seconds,
    );
    let mut rounds: Vec<Vec<Measured>> = Vec::new();
    for round in 0..arguments.rounds {
        let measured = ways.iter().enumerate().map(|(n, way)| {
            let first = FRESH * (usize::from(round) * ways.len() + n + 1) as u64;
            runtime.block_on(street.measure(way, round, first, &arguments))
        });
        rounds.push(measured.collect());
    }
    let table = table(&ways, &rounds);
    match arguments.markdown {
        true => println!("{}", table.markdown()),
        false => println!("{}", table.text()),
    }
    if beside.is_some() {
        say_what_came_of_it(&ways, &rounds);
    }
    street.end();
    surprises(&ways, &rounds)
}

/// A Larder as it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum House {
    Memory,
    /// It counts what each client asks.
    Rated,
    Logs,
    Tls,
    /// Its API speaks TLS.
    ApiTls,
    /// Its API speaks HTTP/2, over TLS.
    ApiHttp2,
    Redis,
    RedisTls,
    /// Copies in the process, too.
    Lease,
}

impl House {
    const ALL: [House; 9] = [
        House::Memory,
        House::Rated,
        House::Logs,
        House::Tls,
        House::ApiTls,
        House::ApiHttp2,
        House::Redis,
        House::RedisTls,
        House::Lease,
    ];

    fn is_over_redis(self) -> bool {
        matches!(self, House::Redis | House::RedisTls | House::Lease)
    }
}

/// A way to ask.
struct Way {
    name: &'static str,
    house: House,
    talk: Talk,
    ask: Arc<dyn Fn(u64) -> Ask + Send + Sync>,
    /// Asked before each measurement.
    first: u64,
    /// What each answer must be, or the row is not what its name says.
    hits: Option<bool>,
}

impl Way {
    fn new(
        name: &'static str,
        house: House,
        hits: impl Into<Option<bool>>,
        ask: impl Fn(u64) -> Ask + Send + Sync + 'static,
    ) -> Way {
        let talk = match house {
            House::Tls => Talk::Tls,
            _ => Talk::Http1,
        };
        Way {
            name,
            house,
            talk,
            ask: Arc::new(ask),
            first: COPIES,
            hits: hits.into(),
        }
    }

    fn by(self, talk: Talk) -> Way {
        Way { talk, ..self }
    }

    fn after(self, first: u64) -> Way {
        Way { first, ..self }
    }

    /// Soon warm: of what is to be hit there is little.
    fn of_few(self) -> Way {
        let ask = self.ask;
        let ask = match self.hits {
            Some(false) => ask,
            _ => Arc::new(move |turn| ask(turn % FEW)),
        };
        Way {
            ask,
            first: FEW,
            ..self
        }
    }
}

const PLAIN: &str = "hit";

fn ways() -> Vec<Way> {
    let user = |turn: u64| format!("/api/users/{}/", turn % READ + 1);
    let read = move |turn| Ask::get(user(turn));
    let fresh = |turn: u64| Ask::get(format!("/api/users/{turn}/"));
    let write = move |turn| Ask::new(Method::PATCH, user(turn)).content("{\"first_name\": \"A\"}");
    let passed = |turn: u64| Ask::get(format!("/elsewhere/{}/", turn % READ + 1));
    let mix = move |turn: u64| match (turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 10 {
        0 => write(turn),
        _ => read(turn),
    };
    let below =
        |first: &'static str| move |turn: u64| format!("/{first}/users/{}/", turn % READ + 1);
    let (mine, token, asked) = (below("mine"), below("token"), below("asked"));
    let (standard, packed) = (below("standard"), below("packed"));
    let (ten, hundred) = (below("10000"), below("100000"));
    let bearer = format!("Bearer {}", jwt());
    let trace = |ask: Ask, turn: u64| {
        ask.with("traceparent", format!("00-{turn:032x}-{turn:016x}-01"))
            .with("user-agent", "python-requests/2.32")
    };
    let by_user = |turn: u64| format!("Token {:040x}", turn % 20);
    let upload = vec![b'x'; 100_000];
    use House::*;
    vec![
        Way::new(PLAIN, Memory, true, read),
        Way::new("hit, 10 KB", Memory, true, move |n| Ask::get(ten(n))),
        Way::new("hit, 100 KB", Memory, true, move |n| {
            Ask::get(hundred(n % 100))
        }),
        Way::new("hit, fields new each time", Memory, true, move |n| {
            trace(read(n), n)
        }),
        Way::new("hit, the copy of a token", Memory, true, move |n| {
            Ask::get(mine(n % 100)).with("authorization", by_user(n / 100))
        }),
        Way::new("hit, each client's own of 10,000", Memory, true, move |n| {
            let n = n % CROWD;
            Ask::get(format!("/mine/users/{n}/")).with("authorization", format!("Token {n:040x}"))
        })
        .after(3 * CROWD),
        Way::new("hit, the copy of a session", Memory, true, move |n| {
            Ask::get(mine(n % 100))
                .with("cookie", format!("csrftoken=c; sessionid={}", n / 100 % 20))
        }),
        Way::new("hit, JWT", Memory, true, move |n| {
            Ask::get(token(n)).with("authorization", bearer.clone())
        }),
        Way::new("hit, admitted by verify", Memory, true, move |n| {
            Ask::get(asked(n)).with("authorization", by_user(n))
        }),
        Way::new("hit, policy: http", Memory, true, move |n| {
            Ask::get(standard(n))
        }),
        Way::new("hit, compressed", Memory, true, move |n| {
            Ask::get(packed(n)).with("accept-encoding", "gzip, br")
        }),
        Way::new("hit, a page of a list", Memory, true, |n| {
            Ask::get(format!("/api/users/?page={}&role=teacher", n % 100))
        }),
        Way::new("hit, 304", Memory, true, move |n| {
            read(n).with("if-none-match", "\"7\"").answered(304)
        }),
        Way::new("hit, HEAD", Memory, true, move |n| {
            Ask::new(Method::HEAD, user(n))
        }),
        Way::new("hit, a range", Memory, true, move |n| {
            read(n).with("range", "bytes=0-99").answered(206)
        }),
        Way::new("hit, its client's rate counted", Rated, true, read),
        Way::new("hit, a connection each", Memory, true, read).by(Talk::Http1Anew),
        Way::new("miss", Memory, false, fresh),
        Way::new("miss, fields new each time", Memory, false, move |n| {
            trace(fresh(n), n)
        }),
        Way::new("write", Memory, false, write),
        Way::new("write, 100 KB", Memory, false, move |n| {
            Ask::new(Method::PUT, user(n)).content(upload.clone())
        }),
        Way::new("passed on", Memory, false, passed),
        Way::new("passed on, fields new each time", Memory, false, move |n| {
            trace(passed(n), n)
        }),
        Way::new("passed on, 100 KB", Memory, false, |_| Ask::get("/100000/")),
        Way::new("hit, logged", Logs, true, read),
        Way::new("miss, logged", Logs, false, fresh),
        Way::new("write, logged", Logs, false, write),
        Way::new("hit, TLS", Tls, true, read),
        Way::new("miss, TLS", Tls, false, fresh),
        Way::new("write, TLS", Tls, false, write),
        Way::new("hit, TLS, a connection each", Tls, true, read).by(Talk::TlsAnew),
        Way::new("hit, HTTP/2", Tls, true, read).by(Talk::Http2),
        Way::new("hit, HTTP/2, fields new each time", Tls, true, move |n| {
            trace(read(n), n)
        })
        .by(Talk::Http2),
        Way::new("miss, HTTP/2", Tls, false, fresh).by(Talk::Http2),
        Way::new("write, HTTP/2", Tls, false, write).by(Talk::Http2),
        Way::new("miss, API by TLS", ApiTls, false, fresh),
        Way::new("write, API by TLS", ApiTls, false, write),
        Way::new("miss, API by HTTP/2", ApiHttp2, false, fresh),
        Way::new("write, API by HTTP/2", ApiHttp2, false, write),
        Way::new("hit, Redis", Redis, true, read),
        Way::new("hit, Redis, 10 KB", Redis, true, move |n| Ask::get(ten(n))),
        Way::new("hit, Redis, fields new each time", Redis, true, move |n| {
            trace(read(n), n)
        }),
        Way::new("hit, Redis, the copy of a token", Redis, true, move |n| {
            Ask::get(mine(n % 100)).with("authorization", by_user(n / 100))
        }),
        Way::new("miss, Redis", Redis, false, fresh),
        Way::new("write, Redis", Redis, false, write),
        Way::new("mix, Redis", Redis, None, mix),
        Way::new("hit, Redis by TLS", RedisTls, true, read),
        Way::new("miss, Redis by TLS", RedisTls, false, fresh),
        Way::new("write, Redis by TLS", RedisTls, false, write),
        Way::new("hit, Redis, a lease", Lease, true, |n| {
            Ask::get(format!("/api/users/{}/", n % 16 + 1))
        }),
        Way::new("mix, Redis, a lease", Lease, None, mix),
    ]
}

/// Good for a day.
fn jwt() -> String {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock");
    let claims = format!("{{\"sub\": \"7\", \"exp\": {}}}", now.as_secs() + 86_400);
    let encode = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let head = encode(b"{\"alg\": \"HS256\", \"typ\": \"JWT\"}");
    let signed = format!("{head}.{}", encode(claims.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = encode(hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

/// All that runs while we measure.
struct Street {
    larders: Vec<Larders>,
    redis: Option<Server>,
    redis_tls: Option<Server>,
    certificate: Certificate,
}

/// One set up in a way.
struct Larders {
    house: House,
    own: Server,
    /// Another build's.
    beside: Option<Server>,
}

/// What one way came to in one round.
struct Measured {
    own: Figures,
    beside: Option<Figures>,
}

struct Figures {
    came: peer::Came,
    /// CPU time per request, in microseconds.
    larder: f64,
    redis: f64,
}

impl Figures {
    fn both(&self) -> f64 {
        self.larder + self.redis
    }
}

impl Street {
    async fn build(folder: &Path, beside: Option<&Path>) -> std::io::Result<Street> {
        let certificate = Certificate::new(folder);
        let origin = peer::origin(None).await?;
        let origin_tls = peer::origin(Some(&certificate)).await?;
        let redis = processes::redis();
        let redis_tls = redis.as_ref().and_then(|_| processes::redis_by_tls(folder));
        if redis.is_none() {
            println!("without what goes over Redis; for that: apt-get install redis-server\n");
        }
        if redis.is_some() && redis_tls.is_none() {
            println!("without Redis by TLS: this redis-server does not start with it\n");
        }
        let mut larders = Vec::new();
        for house in House::ALL {
            let server = match house {
                House::RedisTls => &redis_tls,
                _ => &redis,
            };
            if house.is_over_redis() && server.is_none() {
                continue;
            }
            let redis = server.as_ref().map(|server| server.address);
            let set_up = |build: &str| -> std::io::Result<PathBuf> {
                let plot = Plot {
                    house,
                    build,
                    folder,
                    origin,
                    origin_tls,
                    redis,
                };
                let file = folder.join(format!("{house:?}-{build}.yaml"));
                std::fs::write(&file, plot.yaml())?;
                Ok(file)
            };
            larders.push(Larders {
                house,
                own: processes::larder(&set_up("own")?),
                beside: match beside {
                    Some(binary) => Some(processes::larder_of(binary, &set_up("beside")?)),
                    None => None,
                },
            });
        }
        Ok(Street {
            larders,
            redis,
            redis_tls,
            certificate,
        })
    }

    fn has(&self, house: House) -> bool {
        self.larders.iter().any(|larders| larders.house == house)
    }

    async fn measure(&self, way: &Way, round: u16, first: u64, arguments: &Arguments) -> Measured {
        let larders = self
            .larders
            .iter()
            .find(|larders| larders.house == way.house);
        let larders = larders.expect("ways without a house were left out");
        let figures = |larder| self.figures(larder, way, first, arguments);
        // In turn, so that neither always comes after the other.
        let (own, beside) = match &larders.beside {
            None => (figures(&larders.own).await, None),
            Some(beside) if round.is_multiple_of(2) => {
                let own = figures(&larders.own).await;
                (own, Some(figures(beside).await))
            }
            Some(beside) => {
                let beside = figures(beside).await;
                (figures(&larders.own).await, Some(beside))
            }
        };
        Measured { own, beside }
    }

    async fn figures(
        &self,
        larder: &Server,
        way: &Way,
        first: u64,
        arguments: &Arguments,
    ) -> Figures {
        let redis = match way.house {
            House::RedisTls => self.redis_tls.as_ref(),
            house => self.redis.as_ref().filter(|_| house.is_over_redis()),
        };
        let tls = self.certificate.connector(way.talk);
        let count = usize::from(arguments.connections);
        let mut clients = Clients::connect(larder.address, way.talk, count, tls).await;
        let after = |seconds| Instant::now() + Duration::from_secs_f64(seconds);
        clients
            .ask(first..first + way.first, after(60.0), &way.ask)
            .await;
        let cpu = || {
            let redis = redis.map(|redis| redis.process.cpu());
            (larder.process.cpu(), redis.unwrap_or_default())
        };
        let before = cpu();
        let until = after(arguments.seconds);
        let turns = first + way.first..u64::MAX;
        let came = clients.ask(turns, until, &way.ask).await;
        let now = cpu();
        let per = |time: Duration| time.as_secs_f64() * 1e6 / came.requests.max(1) as f64;
        Figures {
            came,
            larder: per(now.0 - before.0),
            redis: per(now.1 - before.1),
        }
    }

    /// As an operator would, Larder before its store.
    fn end(self) {
        for larders in self.larders {
            larders.own.end();
            if let Some(beside) = larders.beside {
                beside.end();
            }
        }
    }
}

/// What is set up otherwise than by `rig::proxy_yaml`, key by key of the file.
struct Plot<'s> {
    house: House,
    build: &'s str,
    folder: &'s Path,
    origin: SocketAddr,
    origin_tls: SocketAddr,
    redis: Option<SocketAddr>,
}

impl Plot<'_> {
    fn yaml(&self) -> String {
        let read = |text: &str| serde_yaml::from_str::<Mapping>(text).expect("a mapping");
        let mut file = read(&rig::proxy_yaml(self.origin, "memory:"));
        for (list, more) in [("routes", ROUTES), ("purge", RULES)] {
            let more: Vec<Value> =
                serde_yaml::from_str(&more.replace("SECRET", SECRET)).expect("a list");
            file[list].as_sequence_mut().expect("a list").extend(more);
        }
        for (key, value) in read(&self.own()) {
            file.insert(key, value);
        }
        serde_yaml::to_string(&file).expect("it was read from text")
    }

    fn own(&self) -> String {
        let folder = self.folder.display();
        let ca = format!("ca_file: '{folder}/cert.pem'");
        // Nobody finds what another has kept.
        let place = format!("database: 1, prefix: {:?}-{}", self.house, self.build);
        let store = match (self.house, self.redis) {
            (House::RedisTls, Some(address)) => {
                format!("{{url: 'rediss://{address}', {place}, {ca}}}")
            }
            (House::Redis | House::Lease, Some(address)) => {
                format!("{{url: 'redis://{address}', {place}}}")
            }
            _ => "{url: 'memory:'}".to_owned(),
        };
        let api = format!("url: 'https://{}', {ca}", self.origin_tls);
        let more = match self.house {
            House::Memory | House::Redis | House::RedisTls => String::new(),
            House::Rated => {
                "limits: {rate: {requests: 1000000, window: 1s}}\ntrusted_proxies: []".to_owned()
            }
            House::Logs => "logs: {access: true, level: info, format: json}".to_owned(),
            House::Tls => format!(
                "tls: {{cert: '{folder}/cert.pem', key: '{folder}/key.pem'}}\nhosts: [{host}]\n\
                 canonical_origin: https://{host}",
                host = peer::HOST
            ),
            House::ApiTls => format!("upstream: {{{api}}}"),
            House::ApiHttp2 => format!("upstream: {{{api}, http2: true}}"),
            House::Lease => "memory: {lease: 10ms}".to_owned(),
        };
        format!("store: {store}\n{more}\n")
    }
}

const ROUTES: &str = "
  - {path: '/mine/users/<int:id>/', key: 'mine:{id}'}
  - {path: '/token/users/<int:id>/', key: 'token:{id}', access: {jwt: {secret: SECRET, algorithms: [HS256]}}}
  - {path: '/asked/users/<int:id>/', key: 'asked:{id}', access: {verify: /me/, for: 30s}}
  - {path: '/standard/users/<int:id>/', key: 'standard:{id}', policy: http}
  - {path: '/packed/users/<int:id>/', key: 'packed:{id}', access: public, compress: true}
  - {path: '/10000/users/<int:id>/', key: 'ten:{id}', access: public}
  - {path: '/100000/users/<int:id>/', key: 'hundred:{id}', access: public}
";

/// Nobody writes there, but it is to be said what a write would drop.
const RULES: &str = "
  - methods: PUT
    path: '/<first>/users/<int:id>/'
    keys: ['mine:{id}', 'token:{id}', 'asked:{id}', 'packed:{id}', 'ten:{id}', 'hundred:{id}']
";

/// The other build's cost to ours, in the rounds of one way.
fn beside<'r>(rounds: &'r [Vec<Measured>], n: usize) -> impl Iterator<Item = f64> + 'r {
    let pairs = rounds.iter().map(move |round| &round[n]);
    pairs.filter_map(|Measured { own, beside }| Some(beside.as_ref()?.both() / own.both()))
}

fn say_what_came_of_it(ways: &[Way], rounds: &[Vec<Measured>]) {
    let mut all: Vec<f64> = (0..ways.len()).map(|n| median(beside(rounds, n))).collect();
    all.sort_by(f64::total_cmp);
    println!(
        "beside / larder: {:.2} in the middle of {} ways, {:.2} to {:.2}\n",
        median(all.iter().copied()),
        all.len(),
        all[0],
        all[all.len() - 1],
    );
}

fn table(ways: &[Way], rounds: &[Vec<Measured>]) -> Table {
    let is_beside = rounds[0][0].beside.is_some();
    let mut head = vec!["", "CPU µs: larder", "redis", "/ a plain hit"];
    if is_beside {
        head.extend(["beside: larder", "redis", "beside / larder"]);
    }
    let mut table = Table::new(&head);
    for (n, way) in ways.iter().enumerate() {
        let own =
            |cost: fn(&Figures) -> f64| median(rounds.iter().map(|round| cost(&round[n].own)));
        let redis = |cost: f64| match way.house.is_over_redis() {
            true => format!("{cost:.1}"),
            false => "-".to_owned(),
        };
        let to_plain = rounds
            .iter()
            .map(|round| round[n].own.both() / round[0].own.both());
        let mut row = vec![
            way.name.to_owned(),
            format!("{:.1}", own(|figures| figures.larder)),
            redis(own(|figures| figures.redis)),
            format!("{:.2}", median(to_plain)),
        ];
        if is_beside {
            let others = || rounds.iter().filter_map(|round| round[n].beside.as_ref());
            let other = |cost: fn(&Figures) -> f64| median(others().map(cost));
            row.extend([
                format!("{:.1}", other(|figures| figures.larder)),
                redis(other(|figures| figures.redis)),
                format!("{:.2}", median(beside(rounds, n))),
            ]);
        }
        table.row(row);
    }
    table
}

/// What did not come as the row's name says, if it was more than a few.
fn surprises(ways: &[Way], rounds: &[Vec<Measured>]) -> ExitCode {
    let mut exit = ExitCode::SUCCESS;
    for (n, way) in ways.iter().enumerate() {
        let sum = |count: fn(&peer::Came) -> u64| -> u64 {
            let measured = rounds.iter().map(|round| &round[n]);
            measured
                .flat_map(|measured| [Some(&measured.own), measured.beside.as_ref()])
                .flatten()
                .map(|figures| count(&figures.came))
                .sum()
        };
        let (requests, hits, failed) = (sum(|c| c.requests), sum(|c| c.hits), sum(|c| c.failed));
        let other = match way.hits {
            Some(true) => requests - hits - failed,
            Some(false) => hits,
            None => 0,
        };
        if failed + other > 0 {
            println!(
                "{}: of {requests} requests {failed} failed and {other} were answered otherwise than the row's name says",
                way.name
            );
        }
        if (failed + other) * 10 >= requests {
            exit = ExitCode::FAILURE;
        }
    }
    exit
}
