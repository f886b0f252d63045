//! The real parts that whole-proxy tests are made of: Redis, a scripted origin, the binary itself, a client.
//! Nothing we talk to is mocked. Threads and blocking sockets, so that a test reads from top to bottom.

// Every test binary compiles this folder for itself and uses its own share of it.
#![allow(dead_code)]

pub mod binary;
pub mod client;
pub mod h2;
pub mod larder;
pub mod origin;
pub mod redis;
pub mod relay;
pub mod tls;
pub mod tokens;
pub mod wall_clock;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Each sentence of a test file, once for each store. One that is missing in the list is reported as never used.
#[allow(unused_macros)]
macro_rules! on_both_stores {
    ($($sentence:ident)*) => {
        mod embedded {
            $(#[test] fn $sentence() { super::$sentence("memory:") })*
        }
        mod on_redis {
            $(#[test] fn $sentence() { super::$sentence(&super::RedisServer::start().url()) })*
        }
    };
}

/// Longer than anything here takes on a busy machine; reached only when something hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; a test that never gets there fails with `what` it waited for.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(PATIENCE, what, condition);
}

/// As `eventually`, for what may rightly take longer.
#[track_caller]
pub fn within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens on. Taken from below the ephemeral range, so that no outgoing connection of a
/// test with ten thousand of them sits on it when a killed server wants it back.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test binaries of several people run at once: each begins elsewhere.
    let next = NEXT.get_or_init(|| {
        AtomicU16::new((std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16)
    });
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The users API of the shipped proxy.yaml before this upstream and store, with `more` after `store` and `ttl`.
pub fn users_api(origin: &origin::Origin, store: &str, more: &str) -> String {
    let upstream = origin.url();
    format!(
        r#"upstream: {upstream}
store: {{url: "{store}", database: 1, prefix: t}}
ttl: 1h
{more}
routes:
  - {{path: /api/users/, key: users:list}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}"}}
{PURGE}"#
    )
}

/// Two of it that between them tell all that is ever counted: one over each store, with two addresses of the API and copies
/// beside Redis.
pub fn told_of_everything(origin: &origin::Origin, redis: &str) -> [String; 2] {
    let one = origin.url();
    let other = one.replace("127.0.0.1", "localhost");
    let two = format!("{{urls: [{one}, {other}]}}");
    let beside = "memory: {size: 8MiB, lease: 10ms}";
    [("memory:", ""), (redis, beside)]
        .map(|(store, more)| users_api(origin, store, more).replacen(&one, &two, 1))
}

/// Its purge rules.
pub const PURGE: &str = r#"purge:
  - {methods: POST, path: /api/users/, keys: ["users:list"]}
  - {methods: [PUT, PATCH, DELETE], path: "/api/users/<int:id>/", keys: ["users:list", "users:detail:{id}"]}
  - {methods: [POST, PUT, PATCH, DELETE], path: "/api/users/<path:rest>", keys: ["users:list", "users:detail:*"]}
"#;

/// A door that an origin's answer waits behind until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Gate::default()
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn close(&self) {
        *self.0.0.lock().unwrap() = false;
    }

    pub fn is_open(&self) -> bool {
        *self.0.0.lock().unwrap()
    }

    pub fn wait(&self) {
        let (lock, bell) = &*self.0;
        let (open, _) = bell
            .wait_timeout_while(lock.lock().unwrap(), PATIENCE, |open| !*open)
            .unwrap();
        assert!(*open, "nobody opened the gate");
    }
}

/// A body of any length that costs no memory: one block of noise, repeated, of which any part can be checked.
pub mod pattern {
    use std::sync::LazyLock;

    pub const BLOCK: usize = 64 * 1024;

    // Twice the block: a slice of up to a block's length can begin at any offset.
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let block: Vec<u8> = (0..BLOCK)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        [&block[..], &block[..]].concat()
    });

    /// The bytes from `offset` on, at most a block of them.
    pub fn at(offset: u64, length: usize) -> &'static [u8] {
        let start = (offset % BLOCK as u64) as usize;
        &NOISE[start..start + length.min(BLOCK)]
    }

    pub fn holds(offset: u64, bytes: &[u8]) -> bool {
        let mut at = offset;
        bytes.chunks(BLOCK).all(|part| {
            let same = self::at(at, part.len()) == part;
            at += part.len() as u64;
            same
        })
    }

    pub fn of(length: usize) -> Vec<u8> {
        (0..length)
            .step_by(BLOCK)
            .flat_map(|at| self::at(at as u64, BLOCK.min(length - at)).to_vec())
            .collect()
    }
}

/// What came over a socket as a body: all of it counted and checked, the beginning kept.
#[derive(Clone)]
pub struct Content {
    pub length: u64,
    /// The first mebibyte.
    pub start: Vec<u8>,
    /// Every byte is what `pattern` has at its place.
    pub is_pattern: bool,
    /// Arrived to the end that its framing promised.
    pub whole: bool,
}

impl Default for Content {
    fn default() -> Self {
        Content {
            length: 0,
            start: Vec::new(),
            is_pattern: true,
            whole: false,
        }
    }
}

/// As text, and not too much of it: this is what a failed assertion shows.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = if self.whole { "" } else { ", broken off" };
        write!(
            f,
            "{} bytes{broken}: {:?}",
            self.length,
            String::from_utf8_lossy(&self.start[..self.start.len().min(200)])
        )
    }
}

impl Content {
    const KEPT: usize = 1 << 20;

    fn add(&mut self, bytes: &[u8]) {
        self.is_pattern &= pattern::holds(self.length, bytes);
        let room = Self::KEPT.saturating_sub(self.start.len()).min(bytes.len());
        self.start.extend_from_slice(&bytes[..room]);
        self.length += bytes.len() as u64;
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }
}

/// How a body's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The fields of a head as they stood on the wire.
#[derive(Debug, Clone, Default)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn content_length(&self) -> Option<u64> {
        self.get("content-length")?.parse().ok()
    }

    fn is_chunked(&self) -> bool {
        self.get("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    fn parse(lines: &str) -> Fields {
        Fields(
            lines
                .split("\r\n")
                .filter(|line| !line.is_empty())
                .map(|line| {
                    let (name, value) = line.split_once(':').unwrap_or((line, ""));
                    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
                })
                .collect(),
        )
    }
}

/// Reads HTTP/1.1 messages from any socket, never more of a body than its framing says.
struct Wire<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Where reads land; none before the first, for some tests hold ten thousand of these.
    landing: Vec<u8>,
}

impl<R: io::Read> Wire<R> {
    fn new(stream: R) -> Self {
        Wire {
            stream,
            buffer: Vec::new(),
            landing: Vec::new(),
        }
    }

    /// A start line and its fields. `Ok(None)`: closed before the first byte.
    fn head(&mut self) -> io::Result<Option<(String, Fields)>> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        // One character for each byte, so that nothing outside ASCII is lost.
        let head: String = head.iter().map(|&byte| char::from(byte)).collect();
        let (start, fields) = head
            .split_once("\r\n")
            .expect("a head has at least one line");
        Ok(Some((start.to_owned(), Fields::parse(fields))))
    }

    /// A body to its end, or to where it broke off; only then is it not whole.
    fn content(&mut self, framing: Framing) -> Content {
        let mut content = Content::default();
        content.whole = match framing {
            Framing::None => true,
            Framing::Length(length) => self.take(length, &mut content).is_ok(),
            Framing::Chunked => self.chunks(&mut content).is_ok(),
            Framing::UntilClose => self.rest(&mut content).is_ok(),
        };
        content
    }

    fn chunks(&mut self, content: &mut Content) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.take(size, content)?;
            let end = self.line()?;
            if !end.is_empty() {
                return Err(io::Error::other("a chunk longer than its size"));
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer.drain(..end + 2).collect::<Vec<u8>>();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, mut length: u64, content: &mut Content) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() && self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let part = self
                .buffer
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            content.add(&self.buffer[..part]);
            self.buffer.drain(..part);
            length -= part as u64;
        }
        Ok(())
    }

    fn rest(&mut self, content: &mut Content) -> io::Result<()> {
        loop {
            content.add(&self.buffer);
            self.buffer.clear();
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.landing.is_empty() {
            self.landing = vec![0; pattern::BLOCK];
        }
        loop {
            match self.stream.read(&mut self.landing) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.buffer.extend_from_slice(&self.landing[..read]);
                    return Ok(read);
                }
            }
        }
    }
}
