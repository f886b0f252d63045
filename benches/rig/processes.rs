//! Child processes: started, waited for until they answer, weighed by their CPU time, and ended with us.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::PART;

pub struct Process {
    child: Child,
}

/// A process that takes connections.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// User and system time so far, of all its threads. Linux counts it in ticks of 10 ms.
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("a process of ours runs");
        // The name before the last parenthesis may hold spaces.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |field: usize| fields[field].parse::<u64>().expect("a number of ticks");
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// `-STOP`, `-CONT`: by the command, for a system call would need `unsafe`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal}");
    }

    fn spawn(command: &mut Command) -> io::Result<Process> {
        command.spawn().map(|child| Process { child })
    }

    /// Until it takes connections at `address`.
    fn wait_for(&mut self, address: SocketAddr, name: &str) {
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{name} ended at once: {status}");
            }
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{name} does not listen on {address}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A part of this bench in a process of its own, and what it says.
pub struct Part {
    process: Process,
    says: BufReader<ChildStdout>,
}

impl Part {
    pub fn start(part: &str, detail: &str) -> Part {
        let own = std::env::current_exe().expect("this binary has a path");
        let mut process = Process::spawn(
            Command::new(own)
                .args([PART, part, detail])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )
        .expect("this binary runs");
        let says = process.child.stdout.take().expect("it is piped");
        Part {
            process,
            says: BufReader::new(says),
        }
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.says.read_line(&mut line);
        assert!(
            matches!(read, Ok(1..)),
            "a part of the bench ended before its time"
        );
        line.trim_end().to_owned()
    }

    /// Tells it to go on.
    pub fn go(&mut self) {
        use io::Write;
        let stdin = self.process.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "go").expect("it still listens");
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A server part: its first line is its address.
    pub fn serving(part: &str, detail: &str) -> Server {
        let mut part = Part::start(part, detail);
        let address = part.line().parse().expect("a server says its address");
        Server {
            process: part.process,
            address,
        }
    }
}

/// redis-server with nothing in it and nothing written to disk; `None` if it is not installed.
pub fn redis() -> Option<Server> {
    redis_at(free_address())
}

pub fn redis_at(address: SocketAddr) -> Option<Server> {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let started = Process::spawn(
        Command::new("redis-server")
            .args(["--bind", &ip, "--port", &port])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null()),
    );
    match started {
        Ok(mut process) => {
            process.wait_for(address, "redis-server");
            Some(Server { process, address })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("redis-server: {error}"),
    }
}

/// `larder serve` with this file, on an address of its own.
pub fn larder(file: &Path) -> Server {
    let address = free_address();
    let mut process = Process::spawn(
        Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--listen", &address.to_string(), "--config"])
            .arg(file)
            .env_remove("RUST_LOG"),
    )
    .expect("cargo has built larder");
    process.wait_for(address, "larder");
    Server { process, address }
}

/// A port that nobody has at the moment.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("the loopback interface has free ports")
}
