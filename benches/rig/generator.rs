//! The load generator: one thread, keep-alive connections on raw sockets, a request written and its answer
//! parsed with as little as that takes, so that it is not what is measured.
//!
//! * *Closed loop*: each connection sends its next request when the last one is answered.
//! * *Open loop*: requests are due at a fixed rate, whether or not the earlier ones are answered, and latency
//!   counts from the moment a request was due: a server that stalls is charged for all who had to wait.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::{memchr, memmem};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;

use super::processes::Part;

/// Longer than anything but a time limit makes a request wait.
pub const SLOW: Duration = Duration::from_millis(100);

/// What to send, where, how and for how long.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub address: SocketAddr,
    pub host: String,
    pub connections: usize,
    pub seconds: f64,
    /// Requests per second of an open loop; `None`: a closed one.
    pub rate: Option<f64>,
    pub work: Work,
    /// Where in the work's sequence of requests to begin.
    pub from: u64,
}

/// A sequence of requests: the nth is always the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// GET of one path.
    Get { path: String },
    /// GET of users 1 to `users`, in turn.
    Read { users: u64 },
    /// GET of users 1 to `users` at random, all of which somebody has asked for before.
    Among { users: u64 },
    /// GET of user n: nobody has asked for it before.
    Fresh,
    /// PATCH of users 1 to `users`, in turn.
    Write { users: u64 },
    /// GET of so many paths that no route names, in turn.
    Elsewhere { users: u64 },
    /// POST to one path.
    Post { path: String },
    /// GET of the list in so many of a hundred cases, else of one of so many users.
    ListAmong { users: u64, percent: u64 },
    /// GET, and in a tenth of all cases PATCH, of users 1 to `users`, drawn by Zipf's law (exponent 1).
    Mix { users: u64 },
}

/// What came of an order. Latencies in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub requests: u64,
    pub seconds: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub longest: f64,
    /// Took longer than `SLOW`.
    pub slow: u64,
    /// Answers that say they come from a cache (RFC 9211).
    pub hits: u64,
    /// Answers that are no 2xx, and connections that broke.
    pub failed: u64,
    /// Were due in an open loop, but found no free connection within twice its time.
    pub unsent: u64,
}

/// A generator that has warmed up and waits for the word.
pub struct Ready(Part);

impl Ready {
    pub fn for_order(order: &Order) -> Ready {
        let order = serde_json::to_string(order).expect("an order is plain data");
        let mut part = Part::start("generator", &order);
        assert_eq!(part.line(), "ready");
        Ready(part)
    }

    /// Runs the order; with its report the CPU time that this took in the generator.
    pub fn go(mut self) -> (Report, Duration) {
        let before = self.0.process().cpu();
        self.0.go();
        let report = serde_json::from_str(&self.0.line()).expect("a report");
        (report, self.0.process().cpu() - before)
    }
}

/// The generator's own process.
pub fn run(order: &str) {
    let order: Order = serde_json::from_str(order).expect("an order");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let requests = Arc::new(Requests::new(&order));
    let crew = runtime.block_on(warm_up(&order, &requests));
    println!("ready");
    wait_for_a_line();
    let started = Instant::now();
    let span = Duration::from_secs_f64(order.seconds);
    let first = order.from + requests.warm_up_length();
    let (tally, unsent) = match order.rate {
        None => runtime.block_on(closed_loop(crew, requests, first, started + span)),
        Some(rate) => {
            let due = schedule(first, rate, started, span);
            runtime.block_on(open_loop(crew, requests, due, started + span * 2))
        }
    };
    let report = tally.report(started.elapsed(), unsent);
    println!("{}", serde_json::to_string(&report).expect("plain data"));
    // Not before the bench has read our CPU time.
    wait_for_a_line();
}

fn wait_for_a_line() {
    let _ = io::stdin().read_line(&mut String::new());
}

/// Opens the connections, and brings caches and pools to where they will be.
async fn warm_up(order: &Order, requests: &Arc<Requests>) -> Vec<Connection> {
    let mut tasks = JoinSet::new();
    for n in 0..order.connections {
        let connection = Connection::open(order.address).await;
        let mut connection = connection.unwrap_or_else(|e| panic!("{}: {e}", order.address));
        let (requests, turns) = (
            requests.clone(),
            (n as u64..requests.warm_up_length()).step_by(order.connections),
        );
        tasks.spawn(async move {
            let mut request = Vec::new();
            for turn in turns {
                requests.warm_up(turn, &mut request);
                let _ = connection.exchange(&request).await;
            }
            connection
        });
    }
    tasks.join_all().await
}

async fn closed_loop(
    crew: Vec<Connection>,
    requests: Arc<Requests>,
    first: u64,
    until: Instant,
) -> (Tally, u64) {
    let step = crew.len();
    let mut tasks = JoinSet::new();
    for (n, mut connection) in crew.into_iter().enumerate() {
        let requests = requests.clone();
        tasks.spawn(async move {
            let (mut tally, mut request) = (Tally::default(), Vec::new());
            let mut sent = Instant::now();
            for turn in (first + n as u64..).step_by(step) {
                requests.write(turn, &mut request);
                let answer = connection.exchange(&request).await;
                let now = Instant::now();
                tally.add(answer, now - sent);
                sent = now;
                if now >= until {
                    break;
                }
            }
            tally
        });
    }
    (Tally::sum(tasks.join_all().await), 0)
}

/// Which request is due when.
type Due = (u64, Instant);

/// A thread of its own keeps the schedule: it sleeps to within some 60 µs, a runtime's timer to within 1 ms.
fn schedule(first: u64, rate: f64, started: Instant, span: Duration) -> UnboundedReceiver<Due> {
    let (announce, due) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for n in 0..(rate * span.as_secs_f64()) as u64 {
            let at = started + Duration::from_secs_f64(n as f64 / rate);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if announce.send((first + n, at)).is_err() {
                break;
            }
        }
    });
    due
}

async fn open_loop(
    crew: Vec<Connection>,
    requests: Arc<Requests>,
    due: UnboundedReceiver<Due>,
    give_up: Instant,
) -> (Tally, u64) {
    let due = Arc::new(Mutex::new(due));
    let mut tasks = JoinSet::new();
    for mut connection in crew {
        let (requests, due) = (requests.clone(), due.clone());
        tasks.spawn(async move {
            let (mut tally, mut request) = (Tally::default(), Vec::new());
            while Instant::now() < give_up {
                let Some((turn, at)) = due.lock().await.recv().await else {
                    break;
                };
                requests.write(turn, &mut request);
                let answer = connection.exchange(&request).await;
                tally.add(answer, at.elapsed());
            }
            tally
        });
    }
    let tally = Tally::sum(tasks.join_all().await);
    let mut due = due.lock().await;
    let mut unsent = 0;
    while due.try_recv().is_ok() {
        unsent += 1;
    }
    (tally, unsent)
}

/// Writes the requests of an order.
struct Requests {
    work: Work,
    from: u64,
    /// What follows the request line.
    fields: String,
    /// For each user the chance that the draw is this one or an earlier one.
    chances: Vec<f64>,
}

impl Requests {
    fn new(order: &Order) -> Requests {
        let mut chances = Vec::new();
        if let Work::Mix { users } = order.work {
            let mut sum = 0.0;
            for rank in 1..=users {
                sum += 1.0 / rank as f64;
                chances.push(sum);
            }
            chances.iter_mut().for_each(|chance| *chance /= sum);
        }
        Requests {
            work: order.work.clone(),
            from: order.from,
            fields: format!(
                " HTTP/1.1\r\nHost: {}\r\nUser-Agent: larder-bench\r\nAccept: */*\r\n",
                order.host
            ),
            chances,
        }
    }

    fn write(&self, turn: u64, request: &mut Vec<u8>) {
        match &self.work {
            Work::Get { path } => self.head("GET", path, request),
            Work::Read { users } => self.get_user(turn % users + 1, request),
            Work::Elsewhere { users } => {
                let user = turn % users + 1;
                self.head("GET", format_args!("/elsewhere/{user}/"), request);
            }
            Work::Among { users } => {
                self.get_user((chance(turn) * *users as f64) as u64 + 1, request);
            }
            Work::Fresh => self.get_user(turn, request),
            Work::Write { users } => self.patch_user(turn % users + 1, request),
            Work::Post { path } => self.with_content("POST", path, request),
            Work::ListAmong { users, percent } => match chance(turn) * 100.0 < *percent as f64 {
                true => self.head("GET", "/api/users/", request),
                false => self.get_user((chance(!turn) * *users as f64) as u64 + 1, request),
            },
            Work::Mix { .. } => {
                let user = self.draw(chance(turn));
                match chance(!turn) < 0.1 {
                    true => self.patch_user(user, request),
                    false => self.get_user(user, request),
                }
            }
        }
    }

    fn warm_up_length(&self) -> u64 {
        match self.work {
            Work::Read { users } | Work::Mix { users } => users,
            Work::Get { .. }
            | Work::Among { .. }
            | Work::Fresh
            | Work::Write { .. }
            | Work::Elsewhere { .. }
            | Work::ListAmong { .. } => 1_000,
            Work::Post { .. } => 0,
        }
    }

    fn warm_up(&self, turn: u64, request: &mut Vec<u8>) {
        match self.work {
            Work::Read { .. } | Work::Mix { .. } => self.get_user(turn + 1, request),
            Work::Get { .. }
            | Work::Among { .. }
            | Work::Fresh
            | Work::Write { .. }
            | Work::Elsewhere { .. }
            | Work::Post { .. }
            | Work::ListAmong { .. } => self.write(self.from + turn, request),
        }
    }

    fn get_user(&self, user: u64, request: &mut Vec<u8>) {
        self.head("GET", format_args!("/api/users/{user}/"), request);
    }

    fn patch_user(&self, user: u64, request: &mut Vec<u8>) {
        self.with_content("PATCH", format_args!("/api/users/{user}/"), request);
    }

    fn with_content(&self, method: &str, path: impl std::fmt::Display, request: &mut Vec<u8>) {
        self.head(method, path, request);
        request.truncate(request.len() - 2);
        request.extend_from_slice(
            b"Content-Type: application/json\r\nContent-Length: 19\r\n\r\n{\"first_name\": \"A\"}",
        );
    }

    fn head(&self, method: &str, path: impl std::fmt::Display, request: &mut Vec<u8>) {
        use io::Write;
        request.clear();
        write!(request, "{method} {path}{}\r\n", self.fields).expect("memory takes it");
    }

    fn draw(&self, chance: f64) -> u64 {
        self.chances.partition_point(|&up_to| up_to < chance) as u64 + 1
    }
}

/// The nth of a sequence spread evenly over 0 to 1 (SplitMix64).
fn chance(n: u64) -> f64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// One keep-alive connection.
struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    filled: usize,
}

struct Answer {
    status: u16,
    hit: bool,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Connection> {
        let mut connection = Connection {
            address,
            stream: None,
            buffer: vec![0; 16 * 1024],
            filled: 0,
        };
        connection.reopen().await?;
        Ok(connection)
    }

    async fn reopen(&mut self) -> io::Result<()> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        if self.stream.is_none() {
            self.reopen().await?;
        }
        let exchanged = self.send(request).await;
        if exchanged.is_err() {
            self.stream = None;
        }
        exchanged
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<Answer> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.write_all(request).await?;
        self.filled = 0;
        let mut read = async |buffer: &mut Vec<u8>, filled: &mut usize| {
            if *filled == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            let count = stream.read(&mut buffer[*filled..]).await?;
            *filled += count;
            Ok::<_, io::Error>(count > 0)
        };
        let (answer, end) = loop {
            if !read(&mut self.buffer, &mut self.filled).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(head) = Head::parse(&self.buffer[..self.filled]) {
                break head.answer().ok_or(io::ErrorKind::InvalidData)?;
            }
        };
        while !end.reached(&self.buffer[..self.filled]) {
            if !read(&mut self.buffer, &mut self.filled).await? {
                match end {
                    End::Close => break,
                    End::At { .. } | End::Chunked { .. } => {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
        if end.closes() {
            self.stream = None;
        }
        Ok(answer)
    }
}

/// Where an answer ends, and whether its connection does.
enum End {
    At { length: usize, closes: bool },
    Chunked { from: usize, closes: bool },
    Close,
}

impl End {
    fn reached(&self, read: &[u8]) -> bool {
        match self {
            End::At { length, .. } => read.len() >= *length,
            End::Chunked { from, .. } => chunks_end(&read[*from..]),
            End::Close => false,
        }
    }

    fn closes(&self) -> bool {
        match self {
            End::At { closes, .. } | End::Chunked { closes, .. } => *closes,
            End::Close => true,
        }
    }
}

/// Whether a chunked body is whole. Trailers are not waited for: nobody here sends any.
fn chunks_end(mut body: &[u8]) -> bool {
    while let Some(line) = memmem::find(body, b"\r\n") {
        let digits = body[..line].split(|&b| b == b';').next();
        let size = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
        let next = line + 2 + size.unwrap_or(0) + 2;
        if next > body.len() {
            return false;
        }
        if matches!(size, Some(0) | None) {
            return true;
        }
        body = &body[next..];
    }
    false
}

/// The head of an answer.
pub struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    /// `None` until it is whole.
    pub fn parse(read: &'a [u8]) -> Option<Head<'a>> {
        memmem::find(read, b"\r\n\r\n").map(|end| Head(&read[..end + 4]))
    }

    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// Names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let first = memchr(b'\n', self.0).map_or(self.0.len(), |end| end + 1);
        let mut rest = &self.0[first..];
        std::iter::from_fn(move || {
            let end = memchr(b'\n', rest)?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let colon = memchr(b':', line)?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }

    /// What it says of the answer, and where that ends.
    fn answer(&self) -> Option<(Answer, End)> {
        let status: u16 = std::str::from_utf8(self.0.get(9..12)?).ok()?.parse().ok()?;
        let mut answer = Answer { status, hit: false };
        let (mut length, mut chunked) = (None, false);
        let mut closes = self.0.starts_with(b"HTTP/1.0");
        for (name, value) in self.fields() {
            if name.eq_ignore_ascii_case(b"content-length") {
                length = std::str::from_utf8(value).ok()?.parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"connection") {
                closes = value.eq_ignore_ascii_case(b"close");
            } else if name.eq_ignore_ascii_case(b"cache-status") {
                answer.hit = memmem::find(value, b"; hit").is_some();
            }
        }
        let from = self.length();
        let end = match (chunked, length) {
            _ if matches!(status, 204 | 304) => End::At {
                length: from,
                closes,
            },
            (true, _) => End::Chunked { from, closes },
            (false, Some(length)) => End::At {
                length: from + length,
                closes,
            },
            (false, None) => End::Close,
        };
        Some((answer, end))
    }
}

#[derive(Default)]
struct Tally {
    nanoseconds: Vec<u64>,
    hits: u64,
    failed: u64,
}

impl Tally {
    fn add(&mut self, answer: io::Result<Answer>, latency: Duration) {
        self.nanoseconds.push(latency.as_nanos() as u64);
        match answer {
            Ok(Answer { status, hit }) if (200..300).contains(&status) => {
                self.hits += u64::from(hit);
            }
            Ok(_) | Err(_) => self.failed += 1,
        }
    }

    fn sum(tallies: Vec<Tally>) -> Tally {
        let mut total = Tally::default();
        for tally in tallies {
            total.nanoseconds.extend(tally.nanoseconds);
            total.hits += tally.hits;
            total.failed += tally.failed;
        }
        total
    }

    fn report(mut self, took: Duration, unsent: u64) -> Report {
        self.nanoseconds.sort_unstable();
        let last = self.nanoseconds.len().saturating_sub(1);
        let percentile = |percent: usize| {
            let rank = (last * percent).div_ceil(100);
            self.nanoseconds
                .get(rank)
                .map_or(0.0, |&ns| ns as f64 / 1e3)
        };
        Report {
            requests: self.nanoseconds.len() as u64,
            seconds: took.as_secs_f64(),
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            longest: percentile(100),
            slow: self
                .nanoseconds
                .iter()
                .filter(|&&ns| Duration::from_nanos(ns) > SLOW)
                .count() as u64,
            hits: self.hits,
            failed: self.failed,
            unsent,
        }
    }
}
