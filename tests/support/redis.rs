//! A real redis-server: plain, over TLS with a CA of its own, on a unix socket, with a user and a password.
//! It can be killed, started again on the same port, and frozen. Tests look into it over a socket of their own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{PATIENCE, eventually, free_port};

/// What a server to be started shall be like.
#[derive(Default)]
pub struct RedisBuilder {
    user: Option<(String, String)>,
    password: Option<String>,
    tls: bool,
    databases: Option<u32>,
    maxmemory: Option<String>,
    arguments: Vec<String>,
}

pub struct RedisServer {
    directory: TempDir,
    port: u16,
    options: RedisBuilder,
    process: Option<Child>,
}

impl RedisBuilder {
    /// Only this user may do anything; the default user is off.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// The password of the default user, as `requirepass` sets it.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// TLS alone, no plain port, certified by a CA made for this server: see `ca_file`.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    pub fn databases(mut self, count: u32) -> Self {
        self.databases = Some(count);
        self
    }

    /// With `noeviction`: writes are refused once it is full.
    pub fn maxmemory(mut self, size: &str) -> Self {
        self.maxmemory = Some(size.to_owned());
        self
    }

    pub fn argument(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// It does not know this command.
    pub fn without(mut self, command: &str) -> Self {
        let renamed = ["--rename-command", command, ""];
        self.arguments.extend(renamed.map(str::to_owned));
        self
    }

    pub fn start(self) -> RedisServer {
        let mut server = self.not_started();
        // Between finding a free port and listening on it somebody else may have taken it.
        for _ in 0..5 {
            if server.try_start() {
                return server;
            }
            server.port = free_port();
        }
        panic!("redis-server does not start; its log:\n{}", server.log());
    }

    /// A server that is down until `start_again`.
    pub fn not_started(self) -> RedisServer {
        let directory = tempfile::Builder::new()
            .prefix("larder-redis-")
            .tempdir()
            .expect("a temporary directory");
        if self.tls {
            write_certificates(directory.path());
        }
        RedisServer {
            directory,
            port: free_port(),
            options: self,
            process: None,
        }
    }
}

impl RedisServer {
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    pub fn start() -> RedisServer {
        RedisServer::builder().start()
    }

    /// The `store.url` under which this server is reached, with its password if it asks for one.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let credential = match (&self.options.user, &self.options.password) {
            (Some((name, password)), _) => format!("{name}:{password}@"),
            (None, Some(password)) => format!(":{password}@"),
            (None, None) => String::new(),
        };
        format!("{scheme}://{credential}127.0.0.1:{}", self.port)
    }

    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the CA that signed this server's own.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// SIGKILL: nothing is saved, connections are reset.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill redis-server");
            process.wait().expect("wait for redis-server");
        }
    }

    /// On the same port, empty.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is still running");
        // The port is ours by custom only; whoever took it in between lets go of it soon, or the test fails loudly.
        eventually("redis-server is back on its port", || self.try_start());
    }

    /// On the same port, empty, and with so many databases.
    pub fn start_again_with_databases(&mut self, count: u32) {
        self.options.databases = Some(count);
        self.start_again();
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn freeze(&self) {
        signal(
            "-STOP",
            self.process.as_ref().expect("a running redis-server").id(),
        );
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(
            "-CONT",
            self.process.as_ref().expect("a running redis-server").id(),
        );
    }

    /// Runs one command in a database and gives back what the server says.
    pub fn run_in<A: AsRef<[u8]>>(&self, database: u32, command: &[A]) -> Reply {
        let mut link = self.link().expect("connect to redis-server");
        if database != 0 {
            link.call(&[b"SELECT".to_vec(), database.to_string().into_bytes()])
                .expect("SELECT")
                .unwrap_ok();
        }
        link.call(command).expect("an answer of redis-server")
    }

    /// The same in database 1, where Larder keeps its things unless told otherwise.
    pub fn run<A: AsRef<[u8]>>(&self, command: &[A]) -> Reply {
        self.run_in(1, command)
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        match self.run(&["GET", key]) {
            Reply::Bytes(value) => Some(value),
            Reply::Nil => None,
            other => panic!("GET {key}: {other:?}"),
        }
    }

    /// Replaces a value and keeps its time to live.
    pub fn set(&self, key: &str, value: &[u8]) {
        self.run(&[b"SET", key.as_bytes(), value, b"KEEPTTL"])
            .unwrap_ok();
    }

    /// All keys of database 1, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.keys_in(1)
    }

    pub fn keys_in(&self, database: u32) -> Vec<String> {
        let Reply::List(keys) = self.run_in(database, &["KEYS", "*"]) else {
            panic!("KEYS gives a list")
        };
        let mut keys: Vec<String> = keys.into_iter().map(|key| key.text()).collect();
        keys.sort();
        keys
    }

    /// A connection that stays open, for many commands in a row.
    pub fn link(&self) -> std::io::Result<Link> {
        let mut link = Link::open(&self.socket())?;
        if self.options.user.is_some() {
            link.call(&["AUTH", TESTER, ""])?;
        } else if let Some(password) = &self.options.password {
            link.call(&["AUTH", password])?;
        }
        Ok(link)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    fn try_start(&mut self) -> bool {
        let directory = self.directory.path();
        let log = File::create(directory.join("log")).expect("a log file");
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        command
            .current_dir(directory)
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ])
            .args([
                "--unixsocket",
                &self.socket().to_string_lossy(),
                "--unixsocketperm",
                "700",
            ]);
        if self.options.tls {
            command
                .args([
                    "--port",
                    "0",
                    "--tls-port",
                    &port,
                    "--tls-auth-clients",
                    "no",
                ])
                .args([
                    "--tls-ca-cert-file",
                    "ca.pem",
                    "--tls-cert-file",
                    "server.pem",
                    "--tls-key-file",
                    "server.key",
                ]);
        } else {
            command.args(["--port", &port]);
        }
        if let Some((name, password)) = &self.options.user {
            let acl = format!(
                "user default off\nuser {name} on >{password} ~* &* +@all\nuser {TESTER} on nopass ~* &* +@all\n"
            );
            std::fs::write(directory.join("users.acl"), acl).expect("an ACL file");
            command.args(["--aclfile", "users.acl"]);
        }
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        if let Some(databases) = self.options.databases {
            command.args(["--databases", &databases.to_string()]);
        }
        if let Some(size) = &self.options.maxmemory {
            command.args(["--maxmemory", size, "--maxmemory-policy", "noeviction"]);
        }
        command.args(&self.options.arguments);
        let also = log.try_clone().expect("a log file");
        let process = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            .spawn();
        let mut process = match process {
            Ok(process) => process,
            Err(error) => panic!(
                "these tests talk to a real redis-server, and none can be started ({error}).\n\
                 Install it with:\n\n    apt-get install redis-server\n"
            ),
        };
        let pid = process.id();
        let mut answers = false;
        eventually("redis-server answers or gives up", || {
            answers = self.answers_as(pid);
            answers || process.try_wait().expect("wait for redis-server").is_some()
        });
        self.process = Some(process);
        if !answers {
            self.kill();
        }
        answers
    }

    /// The socket file of a killed server is still there: only the new process counts.
    fn answers_as(&self, pid: u32) -> bool {
        let Ok(mut link) = self.link() else {
            return false;
        };
        let Ok(Reply::Bytes(info)) = link.call(&["INFO", "server"]) else {
            return false;
        };
        String::from_utf8_lossy(&info).contains(&format!("process_id:{pid}\r\n"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The user as whom tests look into a server whose default user is off.
const TESTER: &str = "tester";

/// By the command, for a system call would need `unsafe`.
pub fn signal(signal: &str, pid: u32) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .expect("run kill");
    assert!(status.success(), "kill {signal} {pid}");
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Ok(String),
    Error(String),
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Reply>),
}

impl Reply {
    /// One whole value; a command is a list of bytes.
    pub fn read(from: &mut impl BufRead) -> std::io::Result<Reply> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end_matches("\r\n").split_at(1);
        let length = || rest.parse::<i64>().map_err(std::io::Error::other);
        Ok(match kind {
            "+" => Reply::Ok(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(length()?),
            "$" | "*" if length()? < 0 => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; length()? as usize + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(bytes)
            }
            "*" => Reply::List(
                (0..length()?)
                    .map(|_| Reply::read(from))
                    .collect::<std::io::Result<_>>()?,
            ),
            _ => return Err(std::io::Error::other(format!("not RESP2: {line:?}"))),
        })
    }

    #[track_caller]
    pub fn unwrap_ok(&self) {
        assert!(matches!(self, Reply::Ok(_)), "{self:?}");
    }

    #[track_caller]
    pub fn number(&self) -> i64 {
        match self {
            Reply::Number(number) => *number,
            other => panic!("not a number: {other:?}"),
        }
    }

    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Reply::Ok(text) => text.clone(),
            Reply::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// One connection that speaks RESP2: every value passes as raw bytes.
pub struct Link(BufReader<UnixStream>);

impl Link {
    fn open(socket: &Path) -> std::io::Result<Link> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Link(BufReader::new(stream)))
    }

    pub fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> std::io::Result<Reply> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for argument in command.iter().map(AsRef::as_ref) {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes)?;
        Reply::read(&mut self.0)
    }

    pub fn patience(&mut self, patience: Duration) {
        self.0
            .get_mut()
            .set_read_timeout(Some(patience))
            .expect("a read timeout");
    }
}

/// A CA made now, and a certificate of it for localhost and 127.0.0.1.
pub fn write_certificates(directory: &Path) {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
        KeyUsagePurpose,
    };

    let mut ca = CertificateParams::new(Vec::new()).expect("parameters of a CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name
        .push(DnType::CommonName, "a private CA of Larder's tests");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");

    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("parameters of a certificate")
        .signed_by(&key, &ca)
        .expect("a certificate");

    for (name, text) in [
        ("ca.pem", ca.pem()),
        ("server.pem", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        std::fs::write(directory.join(name), text).expect("write a certificate");
    }
}
