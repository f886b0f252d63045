//! Child processes: started, waited for until they answer, weighed by their CPU time, and ended with us.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
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

impl Server {
    /// As an operator ends it. Dropped, it is killed.
    pub fn end(self) {
        self.process.end();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Workers of a master that is killed would go on.
        let workers = self.family().split_off(1);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !workers.is_empty() {
            let mut kill = Command::new("kill");
            kill.arg("-KILL").args(workers.iter().map(u32::to_string));
            // Fails where they have ended by themselves.
            let _ = kill.stderr(Stdio::null()).status();
        }
    }
}

impl Process {
    /// User and system time so far, of all its threads. Linux counts it in ticks of 10 ms.
    pub fn cpu(&self) -> Duration {
        stat(self.child.id()).expect("a process of ours runs").cpu
    }

    /// The same with the processes that it has started, and those that they have.
    pub fn family_cpu(&self) -> Duration {
        let ids = self.family();
        ids.into_iter().filter_map(stat).map(|stat| stat.cpu).sum()
    }

    /// It and the processes that it has started, and those that they have.
    pub fn family(&self) -> Vec<u32> {
        let ids = std::fs::read_dir("/proc").expect("Linux has it");
        let all: Vec<(u32, u32)> = ids
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|id| Some((id, stat(id)?.parent)))
            .collect();
        let mut family = vec![self.child.id()];
        let mut seen = 0;
        while let Some(&parent) = family.get(seen) {
            family.extend(all.iter().filter(|(_, of)| *of == parent).map(|(id, _)| id));
            seen += 1;
        }
        family
    }

    /// Kilobytes of it and of those it has started that lie in memory.
    pub fn resident(&self) -> u64 {
        let of = |id: u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        self.family().into_iter().filter_map(of).sum()
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
        assert!(self.serves(address, name), "{name} ended at once");
    }

    /// Whether it comes to take connections at `address`, or ends before.
    fn serves(&mut self, address: SocketAddr, name: &str) -> bool {
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(_)) = self.child.try_wait() {
                return false;
            }
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{name} does not listen on {address}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// By SIGTERM, so that it leaves behind what it leaves behind.
    fn end(mut self) {
        self.signal("-TERM");
        let started = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "it does not end by SIGTERM"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

struct Stat {
    parent: u32,
    cpu: Duration,
}

/// `None` where it has ended.
fn stat(id: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before the last parenthesis may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        cpu: Duration::from_millis(10 * (number(11)? + number(12)?)),
    })
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

/// redis-server that speaks TLS alone, by `cert.pem` and `key.pem` of that folder; `None` if it does not start: not all are built
/// with TLS.
pub fn redis_by_tls(folder: &Path) -> Option<Server> {
    let address = free_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let started = Process::spawn(
        Command::new("redis-server")
            .args(["--bind", &ip, "--port", "0", "--tls-port", &port])
            .args(["--save", "", "--appendonly", "no"])
            .args(["--tls-auth-clients", "no"])
            .args([OsStr::new("--tls-cert-file"), cert.as_ref()])
            .args([OsStr::new("--tls-key-file"), key.as_ref()])
            .args([OsStr::new("--tls-ca-cert-file"), cert.as_ref()])
            .stdout(Stdio::null()),
    );
    let mut process = started.ok()?;
    process
        .serves(address, "redis-server")
        .then_some(Server { process, address })
}

/// The Larder to be measured: that of `LARDER`, or what cargo has built beside this.
pub static LARDER: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("LARDER") {
    Some(file) => build("LARDER", Path::new(&file)),
    None => env!("CARGO_BIN_EXE_larder").into(),
});

/// Another build, that whoever called us names by `what`. Where it is none, that is said, and we end.
pub fn build(what: &str, file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let says = Command::new(&file)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let wrong = match says {
        Err(error) => error.to_string(),
        Ok(said) if said.stdout.starts_with(b"larder ") => return file,
        Ok(_) => "that is no Larder".to_owned(),
    };
    eprintln!("{what}: {}: {wrong}", file.display());
    std::process::exit(2);
}

/// `larder serve` with this file, on an address of its own.
pub fn larder(file: &Path) -> Server {
    larder_of(&LARDER, file)
}

/// The same by another build.
pub fn larder_of(binary: &Path, file: &Path) -> Server {
    let address = free_address();
    let mut process = Process::spawn(
        Command::new(binary)
            .args(["serve", "--listen", &address.to_string(), "--config"])
            .arg(file)
            .env_remove("RUST_LOG")
            .stdout(Stdio::null()),
    )
    .expect("it ran when it was asked for its version, or cargo has built it");
    process.wait_for(address, "larder");
    Server { process, address }
}

/// Any other server, which will listen there; `None` if it is not installed.
pub fn server(command: &mut Command, address: SocketAddr, name: &str) -> Option<Server> {
    match Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null())) {
        Ok(mut process) => {
            process.wait_for(address, name);
            Some(Server { process, address })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// A port that nobody has at the moment.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("the loopback interface has free ports")
}
