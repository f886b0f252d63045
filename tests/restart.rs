//! The end of a process and the beginning of the next: what a drain finishes, what the service manager is told, and that
//! clients notice neither reloads nor restarts. The test plays the manager's part: it keeps the listening socket.
//!
//! RELOADS=1000 RESTARTS=20 cargo test --test restart under_load -- --nocapture

mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::client::{Answer, Connection, head};
use support::larder::{Larder, Output, binary};
use support::origin::{self, Origin};
use support::redis::{RedisServer, signal};
use support::{Gate, PATIENCE, eventually, free_port, users_api};

const LIST: &str = "/api/users/";
const TEAMS: &str = "/api/teams/";

#[test]
fn an_idle_connection_is_closed_at_once_and_a_request_under_way_is_finished() {
    let gate = Gate::new();
    let wait = gate.clone();
    let origin = Origin::start(move |request| match request.target.as_str() {
        LIST => origin::json("[]").behind(&wait),
        _ => origin::status(404, "{}"),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let (mut idle, mut busy) = (larder.connect(), larder.connect());
    assert_eq!(idle.get("/elsewhere/").status, 404);
    busy.send(head("GET", LIST, &[], None).as_bytes());
    origin.wait_for(2);
    larder.terminate();
    assert!(idle.is_closed());
    eventually("nobody new is let in", || {
        Connection::try_open(larder.address()).is_err()
    });
    assert_eq!(larder.readiness()["status"], "draining");
    gate.open();
    let answer = busy.answer("GET");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(larder.exit().status.success());
}

/// Bytes that nobody has read make the kernel reset a connection that is closed, and forget what it had still to send.
#[test]
fn who_has_asked_for_more_meanwhile_is_sent_all_of_the_answer_under_way() {
    let origin = Origin::start(|_| origin::huge(1 << 20));
    let padding = "x".repeat(5_000);
    let request = head("GET", "/media/film", &[("X-Padding", &padding)], None);
    // With the first, or behind it.
    for together in [20, 1] {
        let larder = Larder::start(users_api(&origin, "memory:", ""));
        let mut client = larder.connect();
        // So the end of what it is sent is still on this side when that is all written.
        let room = SockRef::from(&*client.stream()).set_recv_buffer_size(16 << 10);
        room.unwrap();
        client.send(request.repeat(together).as_bytes());
        let mut answer = client.try_head("GET").unwrap();
        client.send(request.repeat(20).as_bytes());
        larder.terminate();
        eventually("it ends", || larder.readiness()["status"] == "draining");
        answer.content = client.content(answer.framing);
        assert!(answer.is_complete_success(), "{answer:?}");
        assert!(client.is_closed());
        drop(client);
        assert!(larder.exit().status.success());
    }
}

/// Its content was read to its end, so nothing of it is on its way any more.
#[test]
fn who_has_sent_all_of_its_content_and_stays_is_not_waited_for() {
    let origin = Origin::start(|_| origin::status(404, "{}"));
    let larder = Larder::start(users_api(&origin, "memory:", "limits: {drain: 1s}"));
    let mut client = larder.connect();
    client.send(head("POST", "/any/", &[("Transfer-Encoding", "chunked")], None).as_bytes());
    client.send(b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.answer("POST").status, 404);
    larder.terminate();
    let exit = larder.exit();
    let was_waited_for = exit.output.contains("still under way");
    assert!(!was_waited_for, "{}", exit.output);
    drop(client);
}

#[test]
fn it_says_that_it_will_end_before_it_does() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(users_api(&origin, "memory:", "limits: {drain_delay: 1h}"));
    larder.terminate();
    eventually("it says so", || larder.readiness()["status"] == "draining");
    assert_eq!(larder.get(LIST).status, 200);
    larder.terminate();
    assert_eq!(larder.exit().status.code(), Some(1), "it waits no more");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let gate = Gate::new();
    let wait = gate.clone();
    let origin = Origin::start(move |_| origin::json("[]").behind(&wait));
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let mut busy = larder.connect();
    busy.send(head("GET", LIST, &[], None).as_bytes());
    origin.wait_for(1);
    larder.terminate();
    eventually("it drains", || larder.output().contains("draining"));
    larder.terminate();
    let exit = larder.exit();
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.output.contains("a second signal"), "{}", exit.output);
    gate.open();
}

#[test]
fn a_file_that_never_comes_back_does_not_keep_it_from_its_end() {
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::with(users_api(&origin, "memory:", ""));
    let larder = larder.argument("--watch").start();
    // A pipe in the place of a file whose server hangs: whoever reads it waits for as long as somebody may write.
    fs::remove_file(larder.file()).unwrap();
    let made = Command::new("mkfifo").arg(larder.file()).status().unwrap();
    assert!(made.success());
    let _writes = fs::File::options().write(true).open(larder.file()).unwrap();
    larder.terminate();
    assert!(larder.exit().status.success());
}

#[test]
fn a_reload_of_a_file_that_never_comes_back_keeps_nobody_from_an_answer() {
    let origin = Origin::start(|_| origin::json("[]"));
    // As where there is one core.
    let larder = Larder::with(users_api(&origin, "memory:", ""));
    let larder = larder.env("TOKIO_WORKER_THREADS", "1").start();
    fs::remove_file(larder.file()).unwrap();
    let made = Command::new("mkfifo").arg(larder.file()).status().unwrap();
    assert!(made.success());
    signal("-HUP", larder.pid());
    // Waits until it is read.
    let _writes = fs::File::options().write(true).open(larder.file()).unwrap();
    assert_eq!(larder.get(LIST).status, 200);
    larder.terminate();
    assert!(larder.exit().status.success());
}

#[test]
fn what_the_store_is_owed_is_paid_before_the_end() {
    let redis = RedisServer::start();
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    assert!(redis.run_in(1, &["EXISTS", "t:users:list~state"]).number() == 1);
    redis.freeze();
    assert_eq!(larder.write("POST", LIST).status, 200);
    larder.terminate();
    eventually("it drains", || larder.output().contains("draining"));
    redis.thaw();
    let exit = larder.exit();
    assert!(exit.status.success(), "{}", exit.output);
    assert!(exit.output.contains("were replayed"), "{}", exit.output);
    assert_eq!(
        redis.run_in(1, &["EXISTS", "t:users:list~state"]).number(),
        0
    );
}

#[test]
fn the_service_manager_is_told_when_it_serves_reloads_and_stops_and_that_it_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = |what: &str| {
        let mut text = [0; 256];
        loop {
            let length = manager.recv(&mut text).expect("word of larder");
            let text = String::from_utf8_lossy(&text[..length]);
            if text.lines().any(|line| line == what) {
                return;
            }
        }
    };
    let origin = Origin::start(|_| origin::json("[]"));
    let larder = Larder::with(users_api(&origin, "memory:", ""))
        .env("NOTIFY_SOCKET", path.as_os_str())
        .env("WATCHDOG_USEC", "300000")
        .start();
    hears("READY=1");
    hears("WATCHDOG=1");
    signal("-HUP", larder.pid());
    hears("RELOADING=1");
    hears("READY=1");
    larder.terminate();
    hears("STOPPING=1");
    assert!(larder.exit().status.success());
}

#[test]
fn nobody_notices_reloads_under_load() {
    let world = World::new();
    let yaml = |n: u64| {
        // Every other one has a route and a rule more.
        let more = match n % 2 {
            0 => "",
            _ => "  - {path: /api/extra/, key: extra:list}\n",
        };
        let ttl = format!("ttl: {}m", 60 + n % 7);
        world.yaml("memory:", &ttl, more)
    };
    let larder = Larder::start(yaml(0));
    let load = world.load(larder.address());
    assert_eq!(Connection::open(larder.address()).get(TEAMS).status, 200);
    let (started, reloads) = (Instant::now(), count("RELOADS", 25));
    for n in 1..=reloads {
        let (listen, admin) = (larder.address(), larder.admin_address());
        let file = format!("listen: {listen}\nadmin: {admin}\n{}", yaml(n));
        fs::write(larder.file(), file).unwrap();
        let json = ("Content-Type", "application/json");
        let mut asking = Connection::open(admin);
        let told = asking.request("POST", "/reload", &[json], b"");
        assert_eq!(told.status, 200, "{}", told.text());
        let warm = larder.get(TEAMS);
        assert!(warm.is_hit(), "after reload {n}: {warm:?}");
    }
    let took = started.elapsed();
    let done = load.end();
    println!("{reloads} reloads in {took:.1?}: {done}");
    assert_eq!(larder.readiness()["reloads"]["done"], reloads);
    assert_eq!(world.asked_for(TEAMS), 1, "kept through all of them");
}

#[test]
fn nobody_is_shown_the_past_under_load_while_reloads_rename_what_writes_drop() {
    let redis = RedisServer::start();
    for store in ["memory:".to_owned(), redis.url()] {
        let world = World::new();
        let yaml = |n: u64| {
            // A write that was planned by the one name knows nothing of the other.
            let name = ["users:list", "people:list"][(n % 2) as usize];
            let yaml = world.yaml(&store, "ttl: 1h", "");
            yaml.replace("users:list", name)
        };
        let larder = Larder::start(yaml(0));
        let load = world.load(larder.address());
        for n in 1..=count("RELOADS", 50).min(500) {
            let (listen, admin) = (larder.address(), larder.admin_address());
            let file = format!("listen: {listen}\nadmin: {admin}\n{}", yaml(n));
            fs::write(larder.file(), file).unwrap();
            let json = ("Content-Type", "application/json");
            let told = Connection::open(admin).request("POST", "/reload", &[json], b"");
            assert_eq!(told.status, 200, "{}", told.text());
        }
        println!("on {store}: {}", load.end());
    }
}

#[test]
fn nobody_notices_restarts_under_load() {
    let redis = RedisServer::start();
    let world = World::new();
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = listener.local_addr().unwrap();
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let yaml = world.yaml(&redis.url(), "ttl: 1h", "");
    fs::write(&file, format!("listen: {address}\nadmin: {admin}\n{yaml}")).unwrap();

    let mut service = Activated::start(&listener, &file);
    service.serves(admin);
    let load = world.load(address);
    let mut client = Connection::open(address);
    eventually("it is kept", || client.get(TEAMS).is_hit());
    let (started, restarts) = (Instant::now(), count("RESTARTS", 2));
    for n in 1..=restarts {
        // The manager stops it, waits for its end, and starts the next.
        service.stop();
        service = Activated::start(&listener, &file);
        service.serves(admin);
        let warm = Connection::open(address).get(TEAMS);
        assert!(warm.is_hit(), "after restart {n}: {warm:?}");
    }
    let took = started.elapsed();
    let done = load.end();
    println!("{restarts} restarts in {took:.1?}: {done}");
    service.stop();
}

/// How often, smaller unless the environment says so.
fn count(name: &str, otherwise: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(otherwise, |said| said.parse().expect("a number"))
}

/// A users API whose list shows how many writes there were.
struct World {
    origin: Origin,
}

impl World {
    fn new() -> World {
        let version = AtomicU64::new(0);
        let origin = Origin::start(move |request| match request.method.as_str() {
            "GET" => origin::json(version.load(Ordering::SeqCst).to_string()),
            // It takes a while to commit, and a while to be answered.
            _ => {
                thread::sleep(Duration::from_millis(3));
                let made = version.fetch_add(1, Ordering::SeqCst) + 1;
                origin::json(made.to_string()).after(Duration::from_millis(3))
            }
        });
        World { origin }
    }

    fn yaml(&self, store: &str, ttl: &str, routes: &str) -> String {
        let more = format!("  - {{path: {TEAMS}, key: teams:list}}\n{routes}purge:");
        users_api(&self.origin, store, "")
            .replace("ttl: 1h", ttl)
            .replace("purge:", &more)
    }

    fn asked_for(&self, target: &str) -> usize {
        let requests = self.origin.requests();
        requests.iter().filter(|one| one.target == target).count()
    }

    /// Readers on kept connections and a writer, until it is ended.
    fn load(&self, address: SocketAddr) -> Load {
        let load = Shared::default();
        let load = Arc::new(load);
        let mut threads: Vec<_> = (0..3)
            .map(|_| {
                let load = load.clone();
                thread::spawn(move || load.read(address))
            })
            .collect();
        let writing = load.clone();
        threads.push(thread::spawn(move || writing.write(address)));
        Load { load, threads }
    }
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// What the last write that was answered has made.
    written: AtomicU64,
    /// The newest that a read has shown.
    shown: AtomicU64,
    reads: AtomicU64,
    hits: AtomicU64,
    retried: AtomicU64,
    writes: AtomicU64,
    slowest: AtomicU64,
}

impl Shared {
    fn read(&self, address: SocketAddr) {
        let mut connection: Option<Connection> = None;
        while !self.over.load(Ordering::SeqCst) {
            let (written, shown) = (&self.written, &self.shown);
            let least = written
                .load(Ordering::SeqCst)
                .max(shown.load(Ordering::SeqCst));
            let began = Instant::now();
            let answer = match connection
                .as_mut()
                .map(|kept| kept.try_request("GET", LIST, &[], b""))
            {
                Some(Ok(answer)) => answer,
                lost => {
                    // A kept connection may be closed while nothing is under way: asked again, once.
                    self.retried
                        .fetch_add(u64::from(lost.is_some()), Ordering::SeqCst);
                    let fresh = connection.insert(Connection::open(address));
                    fresh
                        .try_request("GET", LIST, &[], b"")
                        .expect("an answer on a new connection")
                }
            };
            let took = began.elapsed().as_millis() as u64;
            self.slowest.fetch_max(took, Ordering::SeqCst);
            self.check(&answer, least);
            if answer.field("connection") == Some("close") {
                connection = None;
            }
        }
    }

    fn check(&self, answer: &Answer, least: u64) {
        assert!(answer.is_complete_success(), "{answer:?}");
        let shown: u64 = answer.text().parse().expect("a number");
        assert!(
            shown >= least,
            "{shown} after {least} was written or shown: {answer:?}"
        );
        self.shown.fetch_max(shown, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.hits
            .fetch_add(u64::from(answer.is_hit()), Ordering::SeqCst);
    }

    fn write(&self, address: SocketAddr) {
        while !self.over.load(Ordering::SeqCst) {
            // Never sent twice, so never on a connection that may be closing.
            let answer = Connection::open(address).request("PATCH", "/api/users/7/", &[], b"{}");
            assert_eq!(answer.status, 200, "{answer:?}");
            let made = answer.text().parse().expect("a number");
            self.written.fetch_max(made, Ordering::SeqCst);
            self.writes.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

struct Load {
    load: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    /// None of it has failed, or this does.
    #[track_caller]
    fn end(self) -> String {
        self.load.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no request fails");
        }
        let of = |number: &AtomicU64| number.load(Ordering::SeqCst);
        let load = &self.load;
        assert!(of(&load.reads) > 0 && of(&load.writes) > 0);
        format!(
            "{} reads ({} hits, {} asked again on a closed idle connection), {} writes, none failed; the slowest read {} ms",
            of(&load.reads),
            of(&load.hits),
            of(&load.retried),
            of(&load.writes),
            of(&load.slowest)
        )
    }
}

/// The file is refused where `admin` can be reached from elsewhere and nothing guards it; of a socket that was passed on it does not know.
#[test]
fn an_operators_socket_that_was_passed_on_is_for_this_machine_alone_where_nothing_guards_it() {
    const PASSES: &str = r#"
import os, socket, sys
here = [os.environ["LISTEN"].rsplit(":", 1)[1], os.environ["ADMIN"].rsplit(":", 1)[1]]
given = [socket.create_server((host, int(port))) for host, port in zip(["127.0.0.1", "0.0.0.0"], here)]
high = [os.dup(one.fileno()) for one in given]
for place, one in enumerate(high, 3):
    os.dup2(one, place)
    os.set_inheritable(place, True)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
"#;
    let Some(elsewhere) = own_address() else {
        return eprintln!(
            "this machine has no address but loopback: nobody can come from elsewhere"
        );
    };
    let origin = Origin::start(|_| origin::json("[]"));
    for (guard, there) in [("", 401), ("admin_token: sesame", 200)] {
        let larder = Larder::with(users_api(&origin, "memory:", guard));
        let larder = larder.under(["python3", "-c", PASSES]).start();
        let token = [("Authorization", "Bearer sesame")];
        let from = |host: IpAddr| {
            let address = SocketAddr::from((host, larder.admin_address().port()));
            let ask = |path| {
                Connection::open(address)
                    .request("GET", path, &token, b"")
                    .status
            };
            (ask("/keys"), ask("/readyz"))
        };
        assert_eq!(from(Ipv4Addr::LOCALHOST.into()), (200, 200), "{guard}");
        assert_eq!(from(elsewhere), (there, 200), "{guard}");
    }
}

/// What this machine is reached by, if there is anybody else. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

/// A process that was given its listening socket, as systemd does it.
struct Activated {
    process: Child,
    output: Output,
}

impl Activated {
    fn start(listener: &TcpListener, file: &Path) -> Activated {
        // The shell moves the socket to where the manager passes it, and becomes larder under the process id that it names.
        let passes =
            r#"exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" serve -c "$1""#;
        let socket: OwnedFd = listener.try_clone().expect("another handle").into();
        let mut process = Command::new("sh")
            .args(["-c", passes])
            .arg(binary())
            .arg(file)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start larder");
        let output = Output::of(&mut process);
        Activated { process, output }
    }

    /// Waits until it trusts its store.
    #[track_caller]
    fn serves(&self, admin: SocketAddr) {
        eventually("it is ready", || {
            Connection::try_open(admin)
                .and_then(|mut admin| admin.try_request("GET", "/readyz", &[], b""))
                .is_ok_and(|ready| ready.text().contains("\"up\""))
        });
    }

    #[track_caller]
    fn stop(mut self) {
        signal("-TERM", self.process.id());
        let mut status = None;
        eventually("it ends", || {
            status = self.process.try_wait().expect("wait for larder");
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}", self.output.so_far());
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
