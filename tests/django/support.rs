//! The stage for tests/django.rs: a Redis, a Django under gunicorn, Larder before it, and a small HTTP client.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::binary::binary;

/// By which one of them signs its tokens.
pub const JWT_SECRET: &str = "of-the-tests-alone-0123456789abcdef";

/// One of the Djangos that the tests need; each is started once, by the first test that asks for it.
#[derive(Clone, Copy)]
pub enum Variant {
    /// As proxy.yaml expects it: anonymous reads, integer ids.
    Open,
    /// Every read needs a credential, the session cookie has another name, and answers carry an ETag.
    Closed,
    /// UUID ids, and a sync worker, which closes every connection.
    Uuid,
    /// Answers vary by `X-Tenant`, which no key holds by itself.
    Tenants,
    /// It tells Larder of its writes, at the port that the stage's Larder has for the operator.
    Telling,
}

impl Variant {
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Open => &[],
            Self::Closed => &[
                ("DJANGO_ANONYMOUS_READ", "0"),
                ("SESSION_COOKIE_NAME", "it360acad_sid"),
                ("DJANGO_ETAGS", "1"),
                ("DJANGO_JWT_SECRET", JWT_SECRET),
            ],
            Self::Uuid => &[("DJANGO_UUID_IDS", "1"), ("GUNICORN_WORKER", "sync")],
            Self::Tenants => &[("DJANGO_TENANTS", "1")],
            // Nothing is measured here, and the machine may be busy.
            Self::Telling => &[("LARDER_TIMEOUT", "30")],
        }
    }
}

/// A Django and a Redis, for one test at a time: a write in one test must not purge what another has just stored.
pub struct Stage {
    pub django: u16,
    pub redis: u16,
    /// Where the Django that tells Larder of its writes expects it.
    told_at: Option<u16>,
    scratch: PathBuf,
    larders: Cell<u32>,
    processes: [Process; 2],
}

impl Stage {
    /// The stage with an empty Redis. Held until the test is over.
    pub fn open(variant: Variant) -> MutexGuard<'static, Stage> {
        static STAGES: [OnceLock<Mutex<Stage>>; 5] = [const { OnceLock::new() }; 5];
        let stage = STAGES[variant as usize].get_or_init(|| Mutex::new(Stage::start(variant)));
        // A test that failed has not harmed the stage.
        let stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        stage.redis_cli(&["FLUSHALL"]);
        stage
    }

    fn start(variant: Variant) -> Self {
        let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "django-{}-{}",
            variant as u8,
            std::process::id()
        ));
        fs::create_dir_all(&scratch).unwrap();

        if Command::new("redis-server")
            .arg("--version")
            .output()
            .is_err()
        {
            panic!("these tests need redis-server: apt-get install redis-server");
        }
        let redis = free_port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &redis.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let mut redis_process =
            Process::spawn("redis-server", command.current_dir(&scratch), &scratch);

        let django = free_port();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/django/run.sh"));
        command
            .arg(django.to_string())
            .env("SCRATCH", &scratch)
            .env("DJANGO_DATABASE", scratch.join("db.sqlite3"))
            .env("DJANGO_REQUEST_LOG", scratch.join("requests.log"))
            .envs(variant.settings().iter().copied());
        let told_at = matches!(variant, Variant::Telling).then(free_port);
        if let Some(admin) = told_at {
            command.env("LARDER_ADMIN_URL", format!("http://127.0.0.1:{admin}"));
        }
        let mut django_process = Process::spawn("Django", &mut command, &scratch);

        redis_process.wait_until(|| TcpStream::connect(("127.0.0.1", redis)).is_ok());
        django_process.wait_until(|| TcpStream::connect(("127.0.0.1", django)).is_ok());
        Stage {
            django,
            redis,
            told_at,
            scratch,
            larders: Cell::new(0),
            processes: [redis_process, django_process],
        }
    }

    /// A fresh Larder with the shipped proxy.yaml.
    pub fn larder(&self) -> Larder {
        self.larder_with(|proxy_yaml| proxy_yaml)
    }

    /// A fresh Larder with the shipped proxy.yaml, edited; it trusts its store if it has reached it.
    pub fn larder_with(&self, edit: impl FnOnce(String) -> String) -> Larder {
        let number = self.larders.replace(self.larders.get() + 1);
        let (port, admin) = (free_port(), self.told_at.unwrap_or_else(free_port));
        let mut command = self.command(&["serve"], (port, admin), number, edit);
        let mut process = Process::spawn(&format!("larder-{number}"), &mut command, &self.scratch);
        process.wait_until(|| {
            if TcpStream::connect(("127.0.0.1", admin)).is_err() {
                return false;
            }
            let answer = get("/readyz").to(admin);
            answer.status == 200 && answer.json()["store"]["status"] != "settling"
        });
        Larder {
            port,
            admin,
            process,
        }
    }

    /// What another command of Larder prints, as JSON, beside this one, or with nobody serving; with the shipped
    /// proxy.yaml, edited.
    pub fn told(
        &self,
        arguments: &[&str],
        beside: Option<&Larder>,
        edit: impl FnOnce(String) -> String,
    ) -> Value {
        let number = self.larders.replace(self.larders.get() + 1);
        let ports = beside.map_or_else(
            || (free_port(), free_port()),
            |larder| (larder.port, larder.admin),
        );
        let mut command = self.command(arguments, ports, number, edit);
        let output = command.arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    fn command(
        &self,
        arguments: &[&str],
        (port, admin): (u16, u16),
        number: u32,
        edit: impl FnOnce(String) -> String,
    ) -> Command {
        let file = self.scratch.join(format!("proxy-{number}.yaml"));
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.yaml");
        fs::write(&file, edit(fs::read_to_string(shipped).expect(shipped))).unwrap();
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .arg("-c")
            .arg(file)
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("ADMIN", format!("127.0.0.1:{admin}"))
            .env("UPSTREAM", format!("http://127.0.0.1:{}", self.django))
            // As the team has it in its .env: the path is Celery's.
            .env("REDIS_URL", format!("redis://127.0.0.1:{}/0", self.redis))
            .env_remove("REDIS_DATABASE");
        command
    }

    /// What `redis-cli` prints, byte for byte but for the newline at its end.
    pub fn redis_cli(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("redis-cli")
            .args(["-p", &self.redis.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "redis-cli {arguments:?}: {output:?}"
        );
        output
            .stdout
            .strip_suffix(b"\n")
            .unwrap_or(&output.stdout)
            .to_vec()
    }

    /// The lines that `redis-cli` prints.
    pub fn redis_lines(&self, arguments: &[&str]) -> Vec<String> {
        String::from_utf8(self.redis_cli(arguments))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The store commands that ran while `act` did, also within scripts, and how often each; without the heartbeat's.
    pub fn store_commands<T>(&self, act: impl FnOnce() -> T) -> (T, BTreeMap<String, u64>) {
        self.redis_cli(&["CONFIG", "RESETSTAT"]);
        let result = act();
        let count = |line: &String| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = figures.split(',').next()?.parse().ok()?;
            let counts = !matches!(name, "config|resetstat" | "info" | "ping" | "mget");
            counts.then(|| (name.to_owned(), calls))
        };
        let lines = self.redis_lines(&["INFO", "commandstats"]);
        (result, lines.iter().filter_map(count).collect())
    }

    /// Puts these bytes at a key of database 1, past Larder.
    pub fn redis_set(&self, key: &str, value: &[u8]) {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.redis.to_string(), "-n", "1", "-x", "SET", key]);
        assert_eq!(filter(&mut cli, value), b"OK\n");
    }

    /// The requests that reached Django while `act` ran, as its request log has them.
    pub fn reaching_django<T>(&self, act: impl FnOnce() -> T) -> (T, Vec<Value>) {
        let log = self.scratch.join("requests.log");
        let before = fs::metadata(&log).map_or(0, |log| log.len()) as usize;
        let result = act();
        let lines = fs::read(&log).unwrap_or_default().split_off(before);
        (
            result,
            lines
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect(),
        )
    }

    /// Django's `manage.py`, on the database of the Django that serves, and with its settings.
    pub fn manage(&self, arguments: &[&str]) -> Command {
        let project = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/django");
        let mut command = Command::new(format!("{project}/.venv/bin/python"));
        command
            .arg("manage.py")
            .args(arguments)
            .current_dir(project)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DJANGO_DATABASE", self.scratch.join("db.sqlite3"))
            .env("DJANGO_JWT_SECRET", JWT_SECRET)
            .env("LARDER_TIMEOUT", "30");
        if let Some(admin) = self.told_at {
            command.env("LARDER_ADMIN_URL", format!("http://127.0.0.1:{admin}"));
        }
        command
    }

    /// What this code prints, run by Django's own shell.
    pub fn python(&self, code: &str) -> String {
        let ran = self.manage(&["shell", "-c", code]).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }

    /// All keys of Redis and all that stands at them, of whatever type.
    pub fn dump(&self) -> String {
        let mut dump = String::new();
        for database in ["0", "1"] {
            for key in self.redis_lines(&["-n", database, "--scan"]) {
                let value: &[&str] =
                    match self.redis_lines(&["-n", database, "TYPE", &key])[0].as_str() {
                        "string" => &["GET", &key],
                        "set" => &["SMEMBERS", &key],
                        "hash" => &["HGETALL", &key],
                        other => panic!("{key} is a {other}"),
                    };
                let value = self.redis_cli(&[&["-n", database, "--raw"], value].concat());
                dump += &format!("{key}={}\n", String::from_utf8_lossy(&value));
            }
        }
        dump
    }

    /// The lines of Django's log with these words in them, once there are any.
    pub fn django_logged(&self, words: &str) -> Vec<String> {
        self.processes[1].logged(words)
    }

    /// A session of this user, from Django's own login view.
    pub fn session(&self, user: &str) -> Credential {
        Credential::from_login(&login(user).to(self.django))
    }
}

/// The real binary, serving.
pub struct Larder {
    pub port: u16,
    pub admin: u16,
    process: Process,
}

impl Larder {
    /// The lines of its log with these words in them, once there are any: a line may come after the answer.
    pub fn logged(&self, words: &str) -> Vec<String> {
        self.process.logged(words)
    }

    /// All of it so far.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

/// A child process that never outlives this one.
///
/// A shell holds it and ends it when the pipe from us closes: on drop, but also when this process is killed or leaves
/// without dropping its statics. What it names in SCRATCH goes with it.
struct Process {
    what: String,
    shell: Child,
    /// Opened while it is there: the scratch directory may go first.
    log: File,
}

impl Process {
    fn spawn(what: &str, command: &mut Command, scratch: &Path) -> Self {
        const HOLD: &str = r#"
            trap '' INT
            exec 3<&0
            "$@" </dev/null 3<&- & child=$!
            { read -r _ <&3; kill $child; } 2>/dev/null & reader=$!
            wait $child
            kill $reader 2>/dev/null
            [ -z "${SCRATCH:-}" ] || rm -rf "$SCRATCH"
        "#;
        let log = scratch.join(what).with_extension("log");
        let output = File::create(&log).unwrap();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", HOLD, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            shell.current_dir(directory);
        }
        shell
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        Process {
            what: what.to_owned(),
            shell: shell.spawn().unwrap(),
            log: File::open(log).unwrap(),
        }
    }

    fn wait_until(&mut self, mut ready: impl FnMut() -> bool) {
        // Long, for the first run installs Django.
        let deadline = Instant::now() + Duration::from_secs(120);
        while !ready() {
            let ended = self.shell.try_wait().unwrap().is_some();
            let waiting = !ended && Instant::now() < deadline;
            assert!(waiting, "{} did not start", self.what);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Process {
    fn logged(&self, words: &str) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let log = self.output();
            let lines = log.lines().filter(|line| line.contains(words));
            let found: Vec<String> = lines.map(str::to_owned).collect();
            if !found.is_empty() {
                return found;
            }
            assert!(Instant::now() < deadline, "never said: {words}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that it has printed.
    fn output(&self) -> String {
        let (mut log, mut output) = (&self.log, Vec::new());
        let _ = log.rewind().and_then(|()| log.read_to_end(&mut output));
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.what, self.output());
        }
    }
}

/// One after the other, below those that the system gives out: by its choice two in a row can be the same.
fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(97);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let next = || begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let ports = (0..COUNT).map(|_| (FIRST + next()) as u16);
    { ports }.find(is_free).expect("a free port")
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Credential {
    Anonymous,
    Token(String),
    /// A token that says itself who it is.
    Bearer(String),
    /// The cookies of a login, and the CSRF token that a write with them needs.
    Session {
        cookies: String,
        csrf: String,
    },
}

impl Credential {
    /// The token of a seeded user.
    pub fn token(user: &str) -> Self {
        Self::Token(format!("token-{user}"))
    }

    pub fn from_login(answer: &Response) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookies: Vec<&str> = answer
            .fields("set-cookie")
            .into_iter()
            .map(|cookie| cookie.split(';').next().unwrap())
            .collect();
        let csrf = cookies
            .iter()
            .find_map(|cookie| cookie.strip_prefix("csrftoken="))
            .expect("a CSRF cookie");
        Self::Session {
            csrf: csrf.to_owned(),
            cookies: cookies.join("; "),
        }
    }
}

pub fn login(user: &str) -> Request {
    post("/api/auth/login/").body(
        "application/x-www-form-urlencoded",
        format!("username={user}&password=password-{user}"),
    )
}

pub fn get(target: &str) -> Request {
    Request::new("GET", target)
}

pub fn head(target: &str) -> Request {
    Request::new("HEAD", target)
}

pub fn post(target: &str) -> Request {
    Request::new("POST", target)
}

pub fn put(target: &str) -> Request {
    Request::new("PUT", target)
}

pub fn patch(target: &str) -> Request {
    Request::new("PATCH", target)
}

pub fn delete(target: &str) -> Request {
    Request::new("DELETE", target)
}

pub fn options(target: &str) -> Request {
    Request::new("OPTIONS", target)
}

#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    target: String,
    /// One for all servers, so that the links in a list are the same whoever was asked.
    host: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn new(method: &'static str, target: &str) -> Self {
        Request {
            method,
            target: target.to_owned(),
            host: "localhost".to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn by(self, credential: &Credential) -> Self {
        match credential {
            Credential::Anonymous => self,
            Credential::Token(token) => self.field("Authorization", &format!("Token {token}")),
            Credential::Bearer(token) => self.field("Authorization", &format!("Bearer {token}")),
            Credential::Session { cookies, csrf } => self
                .field("Cookie", cookies)
                .field("X-CSRFToken", csrf)
                .field("Origin", "http://localhost"),
        }
    }

    pub fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.field("Content-Type", kind)
            .field("Content-Length", &length)
    }

    pub fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    pub fn to(&self, port: u16) -> Response {
        self.attempt(port)
            .unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.target))
    }

    fn attempt(&self, port: u16) -> std::io::Result<Response> {
        let mut message = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.fields {
            write!(message, "{name}: {value}\r\n").unwrap();
        }
        message.push_str("Connection: close\r\n\r\n");

        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(&[message.as_bytes(), &self.body].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(Response::parse(&answer, self.method))
    }
}

pub struct Response {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    fn parse(answer: &[u8], method: &str) -> Self {
        let shown = || String::from_utf8_lossy(answer);
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no whole head: {:?}", shown()));
        let head = std::str::from_utf8(&answer[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let fields = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response {
            status,
            fields,
            body: answer[end + 4..].to_vec(),
        };
        if response
            .field("transfer-encoding")
            .is_some_and(|coding| coding.ends_with("chunked"))
        {
            response.body = unchunk(&response.body);
        } else if let Some(length) = response
            .field("content-length")
            .filter(|_| method != "HEAD" && status != 304)
        {
            assert_eq!(length, response.body.len().to_string(), "{:?}", shown());
        }
        response
    }

    /// The first line of this field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }

    /// Every line of this field.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn cache_status(&self) -> &str {
        self.field("cache-status")
            .expect("Cache-Status is on every answer")
    }

    pub fn is_hit(&self) -> bool {
        self.cache_status()
            .split(';')
            .any(|parameter| parameter.trim() == "hit")
    }

    /// Whether Larder says that it has kept this answer.
    pub fn is_stored(&self) -> bool {
        self.cache_status()
            .split(';')
            .any(|parameter| parameter.trim() == "stored")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.content()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body without its content coding.
    pub fn content(&self) -> Vec<u8> {
        match self.field("content-encoding") {
            None | Some("identity") => self.body.clone(),
            Some("gzip") => gunzip(&self.body),
            Some(other) => panic!("an unexpected coding: {other}"),
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?} {}",
            self.status,
            self.fields,
            String::from_utf8_lossy(&self.body)
        )
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|window| window == b"\r\n")
            .expect("a whole chunked body");
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

fn gunzip(packed: &[u8]) -> Vec<u8> {
    filter(Command::new("gzip").arg("-dc"), packed)
}

/// What a command makes of this input.
fn filter(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}
