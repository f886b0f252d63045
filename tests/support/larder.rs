//! The real binary under test: started from a proxy.yaml, watched, signalled, measured.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use super::binary::binary;
use super::client::{Answer, Connection};
use super::redis::signal;
use super::{PATIENCE, eventually, free_port};

/// What `larder serve` shall be told.
pub struct LarderBuilder {
    yaml: String,
    environment: Vec<(OsString, OsString)>,
    arguments: Vec<String>,
    under: Vec<OsString>,
}

/// A running `larder serve`; killed with the value.
pub struct Larder {
    directory: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
    process: Child,
    output: Output,
}

/// How a run of the binary ended, and all that it said.
#[derive(Debug)]
pub struct Exit {
    pub status: ExitStatus,
    pub output: String,
}

impl LarderBuilder {
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Started by another program, which is given its command line and becomes it.
    pub fn under(mut self, program: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.under = program.into_iter().map(Into::into).collect();
        self
    }

    /// Starts it and waits until it answers on both its listeners, and trusts the store if it has reached one.
    #[track_caller]
    pub fn start(self) -> Larder {
        let larder = self.start_unsettled();
        eventually("larder trusts its store", || {
            !larder.admin("GET", "/readyz").text().contains("settling")
        });
        larder
    }

    /// Starts it and waits until it answers on both its listeners.
    #[track_caller]
    pub fn start_unsettled(self) -> Larder {
        let mut last = String::new();
        for _ in 0..3 {
            let mut larder = self.launch();
            let start = Instant::now();
            while larder.still_runs() {
                let healthy = Connection::try_open(larder.admin)
                    .and_then(|mut admin| admin.try_request("GET", "/healthz", &[], b""))
                    .is_ok_and(|answer| answer.status == 200);
                if healthy && Connection::try_open(larder.listen).is_ok() {
                    return larder;
                }
                assert!(
                    start.elapsed() < PATIENCE,
                    "larder does not answer after {PATIENCE:?}:\n{}",
                    larder.output()
                );
                thread::sleep(Duration::from_millis(5));
            }
            let exit = larder.exit();
            // Somebody else took the free port in between.
            assert!(
                exit.output.contains("in use"),
                "larder did not start: {}\n{}",
                exit.status,
                exit.output
            );
            last = exit.output;
        }
        panic!("larder finds no free port:\n{last}");
    }

    /// Starts it and waits until it says so: where its listeners are not asked by plain HTTP.
    #[track_caller]
    pub fn start_unasked(self) -> Larder {
        let larder = self.launch();
        eventually("larder serves", || {
            larder.output().contains("larder serves")
        });
        larder
    }

    /// Starts it and expects that it ends by itself, and that no port was open before it did.
    #[track_caller]
    pub fn fails(self) -> Exit {
        let mut larder = self.launch();
        let start = Instant::now();
        let mut opened = false;
        while larder.still_runs() {
            opened |= Connection::try_open(larder.listen).is_ok()
                || Connection::try_open(larder.admin).is_ok();
            assert!(
                start.elapsed() < PATIENCE,
                "larder started, although it should not have:\n{}",
                larder.output()
            );
            thread::sleep(Duration::from_millis(1));
        }
        let exit = larder.exit();
        assert!(
            !opened,
            "a port was open before everything was checked: {exit:?}"
        );
        exit
    }

    fn launch(&self) -> Larder {
        // Whatever a test shows over Redis must be so before it, too.
        let has_memory = self.yaml.lines().any(|line| line.starts_with("memory:"));
        let beside_memory = || match std::env::var("LARDER_TEST_MEMORY") {
            Ok(lease) if !has_memory => format!("memory: {{lease: {lease}}}\n"),
            _ => String::new(),
        };
        let directory = tempfile::Builder::new()
            .prefix("larder-")
            .tempdir()
            .expect("a temporary directory");
        let [listen, admin] =
            [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        super::client::is_an_operators(admin);
        let file = directory.path().join("proxy.yaml");
        let says_where = self.yaml.lines().any(|line| line.starts_with("listen:"));
        let before = if says_where {
            String::new()
        } else {
            format!("listen: {listen}\nadmin: {admin}\n")
        };
        std::fs::write(&file, before + &beside_memory() + &self.yaml).expect("write proxy.yaml");

        let mut command = match self.under.split_first() {
            None => command(&self.environment),
            Some((program, arguments)) => {
                let mut command = command_of(Path::new(program), &self.environment);
                command.args(arguments).arg(binary());
                command
            }
        };
        command
            .env("LISTEN", listen.to_string())
            .env("LISTEN_PORT", listen.port().to_string())
            .env("ADMIN", admin.to_string());
        command
            .arg("serve")
            .arg("-c")
            .arg(&file)
            .args(&self.arguments)
            .current_dir(directory.path());
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start larder");
        let output = Output::of(&mut process);
        Larder {
            directory,
            listen,
            admin,
            process,
            output,
        }
    }
}

impl Larder {
    /// With this proxy.yaml. `listen` and `admin` are put before it, unless it takes them from the environment
    /// as the shipped one does.
    pub fn with(yaml: impl Into<String>) -> LarderBuilder {
        LarderBuilder {
            yaml: yaml.into(),
            environment: Vec::new(),
            arguments: Vec::new(),
            under: Vec::new(),
        }
    }

    #[track_caller]
    pub fn start(yaml: impl Into<String>) -> Larder {
        Larder::with(yaml).start()
    }

    fn still_runs(&mut self) -> bool {
        self.process.try_wait().expect("wait for larder").is_none()
    }

    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The proxy.yaml it was started with.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("proxy.yaml")
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.listen)
    }

    /// As a client at another address of this machine.
    pub fn connect_from(&self, address: &str) -> Connection {
        Connection::open_from(address, self.listen)
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    #[track_caller]
    pub fn get_with(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        self.request("GET", target, fields, b"")
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.connect().request(method, target, fields, body)
    }

    /// A write with a small JSON body.
    #[track_caller]
    pub fn write(&self, method: &str, target: &str) -> Answer {
        self.request(
            method,
            target,
            &[("Content-Type", "application/json")],
            b"{}",
        )
    }

    #[track_caller]
    pub fn admin(&self, method: &str, target: &str) -> Answer {
        Connection::open(self.admin).request(method, target, &[], b"")
    }

    /// What /readyz says.
    #[track_caller]
    pub fn readiness(&self) -> serde_json::Value {
        serde_json::from_str(&self.admin("GET", "/readyz").text()).expect("JSON from /readyz")
    }

    /// How many requests wait for a slot at the upstream.
    #[track_caller]
    pub fn waiting(&self) -> usize {
        let waiting = &self.readiness()["upstream"]["waiting"];
        waiting.as_u64().expect("a count") as usize
    }

    /// Ready, and with its store.
    pub fn is_ready(&self) -> bool {
        self.readiness()["status"] == "ready"
    }

    /// Drops these by hand, over the operator's listener.
    #[track_caller]
    pub fn purge(&self, keys: &[&str]) {
        self.purge_by(&serde_json::json!({ "keys": keys }));
    }

    #[track_caller]
    pub fn purge_softly(&self, keys: &[&str]) {
        self.purge_by(&serde_json::json!({ "keys": keys, "soft": true }));
    }

    #[track_caller]
    pub fn purge_everything(&self) {
        self.purge_by(&serde_json::json!({ "all": true }));
    }

    /// `line`: a credential as its field is, `Authorization: …`.
    #[track_caller]
    pub fn revoke(&self, line: &str) {
        self.purge_by(&serde_json::json!({ "credentials": [line] }));
    }

    #[track_caller]
    fn purge_by(&self, asked: &serde_json::Value) {
        let fields = [("Content-Type", "application/json")];
        let answer = Connection::open(self.admin).request(
            "POST",
            "/purge",
            &fields,
            asked.to_string().as_bytes(),
        );
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
    }

    /// All of stdout and stderr so far.
    pub fn output(&self) -> String {
        wait_for_the_log_of(self.pid());
        self.output.so_far()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGTERM: what an orderly stop begins with.
    pub fn terminate(&self) {
        signal("-TERM", self.pid());
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn exit(mut self) -> Exit {
        let mut status = None;
        eventually("larder ends", || {
            status = self.process.try_wait().expect("wait for larder");
            status.is_some()
        });
        Exit {
            status: status.expect("a status"),
            output: self.output.ended(),
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().expect("kill larder");
        self.process.wait().expect("wait for larder");
    }

    /// Resident memory in bytes, now.
    pub fn memory(&self) -> u64 {
        self.memory_line("VmRSS:")
    }

    /// The most resident memory since `forget_peak`, or since its start.
    pub fn peak_memory(&self) -> u64 {
        self.memory_line("VmHWM:")
    }

    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")
            .expect("reset the peak of memory");
    }

    fn memory_line(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("/proc/PID/status");
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a line on memory");
        let kibibytes = line
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.parse::<u64>().ok());
        kibibytes.expect("kibibytes") * 1024
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let output = self.output();
            let tail = output.len().saturating_sub(8000);
            let tail = (tail..output.len())
                .find(|&at| output.is_char_boundary(at))
                .unwrap_or(0);
            eprintln!(
                "--- larder said ---\n{}\n-------------------",
                &output[tail..]
            );
        }
    }
}

/// A thread of its own writes what larder says. Until that has nothing to write: it has slept for longer than it gathers
/// lines for. Where lines come all the time, some are not there yet.
fn wait_for_the_log_of(pid: u32) {
    const LONGER: Duration = Duration::from_millis(5);
    let (start, mut before) = (Instant::now(), None);
    while start.elapsed() < 40 * LONGER {
        let Some(status) = status_of_the_log(pid) else {
            return;
        };
        // Which of its sleeps this is.
        let sleep = status.contains("State:\tS").then(|| {
            let mut lines = status.lines();
            let number = lines.find(|line| line.starts_with("voluntary_ctxt_switches"));
            number.expect("how often it slept").to_owned()
        });
        if sleep.is_some() && sleep == before {
            return;
        }
        before = sleep;
        thread::sleep(LONGER);
    }
}

fn status_of_the_log(pid: u32) -> Option<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let status = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.ok()?.path().join("status")).ok()
    };
    { threads.filter_map(status) }.find(|status| status.starts_with("Name:\tlog\n"))
}

/// Runs another command of the binary to its end.
pub fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
    run_with_input(arguments, environment, b"")
}

/// As `run`, with this on its standard input.
pub fn run_with_input(arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Exit {
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let mut process = command(&environment)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run larder");
    let mut stdin = process.stdin.take().expect("a pipe");
    // It need not read what it is given.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = process.wait_with_output().expect("run larder");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Exit {
        status: output.status,
        output: String::from_utf8_lossy(&text).into_owned(),
    }
}

/// With this environment and no other: a REDIS_URL or RUST_LOG of the developer's must not decide a test.
pub fn command(environment: &[(OsString, OsString)]) -> Command {
    command_of(binary(), environment)
}

fn command_of(program: &Path, environment: &[(OsString, OsString)]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"));
    command
        .envs(environment.iter().cloned())
        .stdin(Stdio::null());
    command
}

/// Both streams of a process in the order in which they were read.
pub struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Output {
    pub fn of(process: &mut Child) -> Output {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(process.stdout.take().expect("stdout")),
            Box::new(process.stderr.take().expect("stderr")),
        ];
        let readers = streams.map(|mut stream| {
            let text = Arc::clone(&text);
            thread::spawn(move || {
                let mut part = [0; 8192];
                while let Ok(length @ 1..) = stream.read(&mut part) {
                    text.lock().unwrap().extend_from_slice(&part[..length]);
                }
            })
        });
        Output {
            text,
            readers: readers.into(),
        }
    }

    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn ended(&mut self) -> String {
        for reader in self.readers.drain(..) {
            reader.join().expect("read the output");
        }
        self.so_far()
    }
}
