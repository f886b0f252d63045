//! `larder doctor`: each thing that can be wrong is made wrong for real, and is named with its code and its remedy.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::larder::{Larder, command, run};
use support::origin::{self, Answer, Origin};
use support::redis::{RedisServer, write_certificates};
use support::{Gate, PURGE, eventually, free_port, users_api};
use tempfile::TempDir;

/// A proxy.yaml, and what the doctor says of it.
struct Patient {
    directory: TempDir,
    yaml: String,
    arguments: Vec<String>,
}

struct Diagnosis {
    status: i32,
    checks: Vec<Value>,
    text: String,
}

impl Patient {
    fn with(yaml: String) -> Patient {
        Patient {
            directory: tempfile::tempdir().unwrap(),
            yaml: format!(
                "listen: 127.0.0.1:{}\nadmin: 127.0.0.1:{}\n{yaml}",
                free_port(),
                free_port()
            ),
            arguments: Vec::new(),
        }
    }

    /// A healthy API, and this store.
    fn on_store(origin: &Origin, url: &str) -> Patient {
        Patient::with(impatient(users_api(origin, url, ""), origin))
    }

    /// The embedded store, and this API.
    fn on_api(origin: &Origin) -> Patient {
        Patient::with(impatient(users_api(origin, "memory:", ""), origin))
    }

    fn told(mut self, arguments: &[&str]) -> Patient {
        self.arguments
            .extend(arguments.iter().map(|&a| a.to_owned()));
        self
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("proxy.yaml")
    }

    #[track_caller]
    fn seen(&self) -> Diagnosis {
        std::fs::write(self.file(), &self.yaml).unwrap();
        let output = command(&[])
            .args(["doctor", "--json", "-c", self.file().to_str().unwrap()])
            .args(&self.arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Value = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        Diagnosis {
            status: output.status.code().unwrap(),
            checks: told["checks"].as_array().unwrap().clone(),
            text,
        }
    }
}

impl Diagnosis {
    fn check(&self, code: &str) -> Option<&Value> {
        // The worst of that code, if there are several.
        let rank = |check: &&Value| match check["level"].as_str() {
            Some("wrong") => 3,
            Some("warning") => 2,
            Some("ok") => 1,
            _ => 0,
        };
        let checks = self.checks.iter().filter(|check| check["code"] == code);
        checks.max_by_key(rank)
    }

    #[track_caller]
    fn is(&self, code: &str, level: &str) -> &Value {
        let check = self
            .check(code)
            .unwrap_or_else(|| panic!("no {code} in {}", self.text));
        assert_eq!(check["level"], level, "{code} in {}", self.text);
        check
    }

    /// Something is wrong, and this is it.
    #[track_caller]
    fn is_wrong(&self, code: &str, remedy: &str) {
        let check = self.is(code, "wrong");
        let said = check["remedy"].as_str().unwrap();
        assert!(said.contains(remedy), "{code}: {said}");
        assert_eq!(self.status, 1, "{}", self.text);
    }

    #[track_caller]
    fn warns(&self, code: &str, remedy: &str) {
        let said = self.is(code, "warning")["remedy"].as_str().unwrap();
        assert!(said.contains(remedy), "{code}: {said}");
    }

    fn wrongs(&self) -> Vec<&str> {
        let wrong = self.checks.iter().filter(|check| check["level"] == "wrong");
        wrong.filter_map(|check| check["code"].as_str()).collect()
    }
}

fn healthy() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

/// With a shorter `pool_idle`, for as long as which the doctor looks at an idle connection.
fn impatient(yaml: String, origin: &Origin) -> String {
    let upstream = format!("upstream: {{url: \"{}\", pool_idle: 50ms}}", origin.url());
    yaml.replacen(&format!("upstream: {}", origin.url()), &upstream, 1)
}

fn saying(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Origin {
    Origin::start(move |_| answer())
}

// Nothing is wrong.

#[test]
fn where_nothing_is_wrong_every_check_says_ok_and_nothing_is_left_behind() {
    let (redis, origin) = (RedisServer::start(), healthy());
    redis.run_in(0, &["SET", "another:key", "untouched"]);
    let patient = Patient::on_store(&origin, &redis.url());
    let seen = patient.seen();
    assert_eq!((seen.status, seen.wrongs()), (0, vec![]), "{}", seen.text);
    for code in [
        "file",
        "store-connect",
        "store-tls",
        "store-auth",
        "store-database",
        "store-version",
        "store-acl",
        "store-round-trip",
        "store-scripts",
        "store-clock",
        "store-celery",
        "upstream-connect",
        "route",
        "upstream-keep-alive",
        "listen",
        "admin",
    ] {
        seen.is(code, "ok");
    }
    assert_eq!(redis.keys(), Vec::<String>::new(), "something was left");
    assert_eq!(redis.keys_in(0), ["another:key"]);
}

#[test]
fn the_api_is_asked_with_gets_alone_and_without_a_credential() {
    let origin = healthy();
    Patient::on_api(&origin).seen();
    let requests = origin.requests();
    assert!(
        requests
            .iter()
            .any(|request| request.target == "/api/users/")
    );
    for request in &requests {
        assert_eq!(request.method, "GET");
        for name in ["authorization", "cookie", "x-api-key"] {
            assert!(!request.fields.has(name), "{request:?}");
        }
    }
}

#[test]
fn more_is_asked_only_if_a_path_and_its_fields_are_given() {
    let origin = healthy();
    let patient = Patient::on_api(&origin);
    patient.seen().is("route", "ok");
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| request.target == "/api/users/")
    );
    let fields = ["--path", "/api/users/7/", "-H", "Authorization: Token hush"];
    let seen = patient.told(&fields).seen();
    let asked = origin.requests();
    let asked = asked
        .iter()
        .find(|request| request.target == "/api/users/7/");
    assert_eq!(
        asked.unwrap().fields.get("authorization"),
        Some("Token hush")
    );
    assert!(!seen.text.contains("hush"), "{}", seen.text);
}

#[test]
fn the_embedded_store_needs_no_check() {
    let seen = Patient::on_api(&healthy()).seen();
    let said = seen.is("store", "ok")["seen"].as_str().unwrap();
    assert!(said.contains("needs no check"), "{said}");
    assert_eq!(seen.status, 0);
}

#[test]
fn for_people_each_check_is_one_line_with_its_remedy() {
    let origin = healthy();
    let patient = Patient::on_store(&origin, "redis://127.0.0.1:1");
    patient.seen();
    let exit = run(&["doctor", "-c", patient.file().to_str().unwrap()], &[]);
    assert_eq!(exit.status.code(), Some(1));
    let line = exit
        .output
        .lines()
        .find(|line| line.contains("store-connect"));
    let line = line.unwrap_or_else(|| panic!("{}", exit.output));
    assert!(
        line.starts_with("wrong ") && line.contains("→ start Redis there"),
        "{line}"
    );
}

#[test]
fn a_wrong_file_is_78_and_nothing_is_asked() {
    let origin = healthy();
    let patient = Patient::with(format!("upstream: {}\nruotes: []\n", origin.url()));
    std::fs::write(patient.file(), &patient.yaml).unwrap();
    let exit = run(&["doctor", "-c", patient.file().to_str().unwrap()], &[]);
    assert_eq!(exit.status.code(), Some(78), "{exit:?}");
    assert!(exit.output.contains("ruotes"), "{exit:?}");
    assert_eq!(origin.count(), 0);
}

// The store.

#[test]
fn nobody_listens_where_the_store_should_be() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is_wrong("store-connect", "start Redis there");
}

#[test]
fn the_stores_host_has_no_address() {
    let seen = Patient::on_store(&healthy(), "redis://redis.invalid:6379").seen();
    seen.is_wrong("store-dns", "check the host in `store.url`");
}

#[test]
fn the_stores_socket_is_not_there() {
    let seen = Patient::on_store(&healthy(), "redis+unix:///nowhere/redis.sock").seen();
    seen.is_wrong("store-connect", "unixsocket");
}

#[test]
fn a_store_on_a_unix_socket_is_looked_at_like_any_other() {
    let redis = RedisServer::start();
    let seen = Patient::on_store(&healthy(), &redis.unix_url()).seen();
    seen.is("store-round-trip", "ok");
}

#[test]
fn the_store_hangs() {
    let redis = RedisServer::start();
    redis.freeze();
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    redis.thaw();
    seen.is_wrong("store-auth", "whether it hangs");
}

#[test]
fn a_wrong_password() {
    let redis = RedisServer::builder().password("right-secret").start();
    let url = redis.url().replace("right-secret", "wrong-secret");
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is_wrong("store-auth", "percent-encode");
    assert!(!seen.text.contains("secret"), "{}", seen.text);
}

#[test]
fn a_password_is_asked_for_and_there_is_none() {
    let redis = RedisServer::builder().password("right-secret").start();
    let url = redis.url().replace(":right-secret@", "");
    let seen = Patient::on_store(&healthy(), &url).seen();
    // Whatever the scheme, it is to stay.
    seen.is_wrong("store-auth", "put `USER:PASSWORD@` before the host");
}

#[test]
fn a_password_where_the_server_has_none() {
    let redis = RedisServer::start();
    let url = redis.url().replace("redis://", "redis://:some-secret@");
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is_wrong("store-auth", "leave the password out");
    assert!(!seen.text.contains("some-secret"), "{}", seen.text);
}

#[test]
fn tls_is_spoken_to_a_port_that_does_not_speak_it() {
    let redis = RedisServer::start();
    let url = redis.url().replace("redis://", "rediss://");
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is_wrong("store-tls", "write `redis://`");
}

#[test]
fn no_tls_is_spoken_to_a_port_that_expects_it() {
    let redis = RedisServer::builder().tls().start();
    let url = redis.url().replace("rediss://", "redis://");
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is_wrong("store-tls", "write `rediss://`");
}

/// As Redis does by default; under TLS 1.3 the handshake is over by then.
#[test]
fn a_server_that_asks_for_a_clients_certificate() {
    for versions in ["TLSv1.2", "TLSv1.3"] {
        let redis = RedisServer::builder()
            .tls()
            .argument("--tls-auth-clients", "yes")
            .argument("--tls-protocols", versions)
            .start();
        let seen = trusting(&healthy(), &redis.url(), &redis.ca_file()).seen();
        seen.is_wrong("store-tls", "`tls-auth-clients no`");
        assert_eq!(seen.wrongs(), ["store-tls"], "{}", seen.text);
        redis
            .run(&["CONFIG", "SET", "tls-auth-clients", "no"])
            .unwrap_ok();
        let seen = trusting(&healthy(), &redis.url(), &redis.ca_file()).seen();
        seen.is("store-round-trip", "ok");
    }
}

#[test]
fn a_private_ca_that_is_not_named() {
    let redis = RedisServer::builder().tls().start();
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.is_wrong("store-tls", "ca_file");
}

/// A file with `ca_file`.
fn trusting(origin: &Origin, url: &str, ca_file: &std::path::Path) -> Patient {
    let yaml = users_api(origin, url, "");
    let ca = format!("store: {{ca_file: \"{}\", ", ca_file.display());
    Patient::with(yaml.replace("store: {", &ca))
}

#[test]
fn another_ca_than_the_one_that_signed() {
    let redis = RedisServer::builder().tls().start();
    let other = tempfile::tempdir().unwrap();
    write_certificates(other.path());
    let origin = healthy();
    let seen = trusting(&origin, &redis.url(), &other.path().join("ca.pem")).seen();
    seen.is_wrong("store-tls", "put the CA that signed");
    let seen = trusting(&origin, &redis.url(), &redis.ca_file()).seen();
    seen.is("store-tls", "ok");
    seen.is("store-round-trip", "ok");
}

#[test]
fn a_certificate_for_another_name() {
    let redis = RedisServer::builder()
        .tls()
        .argument("--bind", "127.0.0.2")
        .start();
    let url = redis.url().replace("127.0.0.1", "127.0.0.2");
    let seen = trusting(&healthy(), &url, &redis.ca_file()).seen();
    seen.is_wrong(
        "store-tls",
        "the name in `store.url` that the certificate has",
    );
}

#[test]
fn a_server_with_one_database() {
    let redis = RedisServer::builder().databases(1).start();
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.is_wrong("store-database", "database: 0");
}

#[test]
fn a_server_that_is_part_of_a_cluster_is_named_so_whatever_the_database() {
    let redis = RedisServer::builder()
        .argument("--cluster-enabled", "yes")
        .start();
    let origin = healthy();
    let mut patient = Patient::on_store(&origin, &redis.url());
    for database in ["1", "0"] {
        patient.yaml = patient
            .yaml
            .replace("database: 1", &format!("database: {database}"));
        let seen = patient.seen();
        seen.is_wrong("store-cluster", "a single server");
        assert_eq!(seen.wrongs(), ["store-cluster"], "{}", seen.text);
    }
}

#[test]
fn a_sentinel_in_the_place_of_a_server() {
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = directory.path().join("sentinel.conf");
    std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n")).unwrap();
    let mut sentinel = std::process::Command::new("redis-server")
        .arg(&file)
        .arg("--sentinel")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the sentinel listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let seen = Patient::on_store(&healthy(), &format!("redis://127.0.0.1:{port}")).seen();
    sentinel.kill().unwrap();
    sentinel.wait().unwrap();
    seen.is_wrong("store-sentinel", "`SENTINEL MASTERS` names it");
    assert_eq!(seen.wrongs(), ["store-sentinel"], "{}", seen.text);
}

#[test]
fn a_server_with_as_many_clients_as_it_may_have() {
    for redis in [
        RedisServer::start(),
        RedisServer::builder().password("right-secret").start(),
    ] {
        let mut only = redis.link().unwrap();
        only.call(&["CONFIG", "SET", "maxclients", "1"])
            .unwrap()
            .unwrap_ok();
        let seen = Patient::on_store(&healthy(), &redis.url()).seen();
        seen.is_wrong("store-auth", "raise `maxclients`");
    }
}

/// As Envoy and twemproxy are: commands come in arrays, and at any other the connection is closed.
#[test]
fn a_proxy_that_reads_no_inline_commands_is_no_fault() {
    let redis = RedisServer::start();
    let (proxy, behind) = (TcpListener::bind("127.0.0.1:0").unwrap(), redis.port());
    let url = format!("redis://{}", proxy.local_addr().unwrap());
    thread::spawn(move || {
        for client in proxy.incoming() {
            let (mut client, mut first) = (client.unwrap(), [0]);
            if client.read_exact(&mut first).is_err() || first != *b"*" {
                continue;
            }
            let mut server = TcpStream::connect(("127.0.0.1", behind)).unwrap();
            server.write_all(&first).unwrap();
            let (mut asked, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut asked, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is("store-round-trip", "ok");
    assert!(seen.wrongs().is_empty(), "{}", seen.text);
}

/// Redis says it unasked, and closes.
#[test]
fn a_server_in_protected_mode() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        for stream in server.incoming() {
            let said =
                b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n";
            stream.unwrap().write_all(said).unwrap();
        }
    });
    for url in [
        format!("redis://{address}"),
        format!("redis://:pw@{address}"),
    ] {
        let seen = Patient::on_store(&healthy(), &url).seen();
        seen.is_wrong("store-auth", "`requirepass`");
    }
}

/// `rename-command` in redis.conf, as some providers have it, or a server that is too old.
#[test]
fn a_server_without_a_command_that_larder_needs() {
    for command in ["DEL", "MGET", "GETEX", "PEXPIRE", "SCAN", "EVAL", "TIME"] {
        let redis = RedisServer::builder().without(command).start();
        let seen = Patient::on_store(&healthy(), &redis.url()).seen();
        seen.is_wrong("store-commands", "`rename-command`");
        let said = seen.is("store-commands", "wrong")["seen"].as_str().unwrap();
        assert!(said.ends_with(&command.to_lowercase()), "{said}");
        assert_eq!(seen.wrongs(), ["store-commands"], "{}", seen.text);
    }
}

#[test]
fn a_server_that_too_few_replicas_follow() {
    let redis = RedisServer::builder()
        .argument("--min-replicas-to-write", "1")
        .start();
    let origin = healthy();
    let patient = Patient::on_store(&origin, &redis.url());
    let seen = patient.seen();
    seen.is_wrong("store-replica", "`CONFIG SET min-replicas-to-write 0`");
    assert_eq!(seen.wrongs(), ["store-replica"], "{}", seen.text);
    redis
        .run(&["CONFIG", "SET", "min-replicas-to-write", "0"])
        .unwrap_ok();
    patient.seen().is("store-round-trip", "ok");
}

#[test]
fn a_user_that_may_too_little_and_the_remedy_is_one() {
    let redis = RedisServer::start();
    redis.run(&[
        "ACL",
        "SETUSER",
        "larder",
        "on",
        ">hush",
        "~t:*",
        "+@read",
        "+@connection",
    ]);
    let url = redis.url().replace("redis://", "redis://larder:hush@");
    let origin = healthy();
    let patient = Patient::on_store(&origin, &url);
    let seen = patient.seen();
    seen.is_wrong("store-acl", "ACL SETUSER larder ~t:*");
    let check = seen.is("store-acl", "wrong");
    let said = check["seen"].as_str().unwrap();
    for command in ["set", "sadd", "evalsha", "del"] {
        assert!(said.contains(command), "{said}");
    }
    let remedy: Vec<&str> = check["remedy"].as_str().unwrap().split(' ').collect();
    redis.run(&remedy).unwrap_ok();
    let seen = patient.seen();
    seen.is("store-acl", "ok");
    seen.is("store-round-trip", "ok");
    assert_eq!(seen.status, 0, "{}", seen.text);
    // And Larder itself agrees.
    let origin = healthy();
    let larder = Larder::start(users_api(&origin, &url, ""));
    larder.get("/api/users/");
    assert!(larder.get("/api/users/").is_hit());
}

/// It may do all that is asked for directly, and not what the script does.
#[test]
fn a_user_that_may_too_little_for_the_script() {
    let redis = RedisServer::start();
    let url = redis.url().replace("redis://", "redis://larder:hush@");
    for command in ["append", "time", "exists"] {
        let denied = format!("-{command}");
        let user = [
            "ACL", "SETUSER", "larder", "on", ">hush", "~t:*", "+@all", &denied,
        ];
        redis.run(&user).unwrap_ok();
        let seen = Patient::on_store(&healthy(), &url).seen();
        let check = seen.is("store-acl", "wrong");
        assert!(check["seen"].as_str().unwrap().contains(command), "{check}");
    }
}

#[test]
fn a_user_that_may_not_touch_our_keys() {
    let redis = RedisServer::start();
    redis.run(&[
        "ACL", "SETUSER", "larder", "on", ">hush", "~other:*", "+@all",
    ]);
    let url = redis.url().replace("redis://", "redis://larder:hush@");
    let seen = Patient::on_store(&healthy(), &url).seen();
    seen.is_wrong("store-acl", "~t:*");
}

#[test]
fn a_read_only_replica() {
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica
        .run(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()])
        .unwrap_ok();
    eventually("the replica follows", || {
        let info = replica.run(&["INFO", "replication"]).text();
        info.contains("master_link_status:up")
    });
    let seen = Patient::on_store(&healthy(), &replica.url()).seen();
    seen.is_wrong("store-replica", &format!("127.0.0.1:{}", primary.port()));
}

#[test]
fn a_full_server() {
    let redis = RedisServer::start();
    redis
        .run(&["SET", "other", &"x".repeat(4 << 20)])
        .unwrap_ok();
    redis
        .run(&["CONFIG", "SET", "maxmemory", "1mb"])
        .unwrap_ok();
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.is_wrong("store-full", "maxmemory-policy volatile-lru");
    // Which throws away nothing of that.
    redis
        .run(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"])
        .unwrap_ok();
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.is_wrong("store-full", "take away what fills it");
}

#[test]
fn a_server_that_cannot_save() {
    let redis = RedisServer::builder()
        .argument("--enable-protected-configs", "yes")
        .start();
    redis
        .run(&["CONFIG", "SET", "dir", "/proc", "save", "3600 1"])
        .unwrap_ok();
    redis.run(&["BGSAVE"]).unwrap_ok();
    eventually("saving has failed", || {
        let info = redis.run(&["INFO", "persistence"]).text();
        info.contains("rdb_last_bgsave_status:err")
    });
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.is_wrong("store-misconf", "stop-writes-on-bgsave-error");
}

#[test]
fn a_server_that_is_still_loading() {
    let mut redis = RedisServer::builder()
        .argument("--key-load-delay", "100000")
        .argument("--loading-process-events-interval-bytes", "1024")
        .start();
    for n in 0..300 {
        let value = "x".repeat(512);
        redis.run(&["SET", &format!("k{n}"), &value]).unwrap_ok();
    }
    redis
        .run(&["CONFIG", "SET", "rdbcompression", "no"])
        .unwrap_ok();
    redis.run(&["SAVE"]).unwrap_ok();
    redis.kill();
    redis.start_again();
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.is_wrong("store-loading", "passes by itself");
}

fn queue_tasks(redis: &RedisServer, database: u32) {
    redis.run_in(database, &["SADD", "_kombu.binding.celery", "celery"]);
    redis.run_in(database, &["LPUSH", "celery", "{}"]);
    redis.run_in(database, &["SET", "celery-task-meta-1", "{}"]);
}

#[test]
fn eviction_off_on_a_server_that_celery_shares() {
    let redis = RedisServer::builder().maxmemory("100mb").start();
    let origin = healthy();
    let patient = Patient::on_store(&origin, &redis.url());
    patient.seen().warns("store-eviction", "allkeys-lru");
    queue_tasks(&redis, 0);
    let seen = patient.seen();
    seen.is_wrong("store-eviction", "volatile-lru");
    seen.is("store-celery", "ok");
    assert_eq!(redis.keys_in(0).len(), 3, "Celery's keys were touched");
}

#[test]
fn celerys_tasks_may_be_evicted() {
    let redis = RedisServer::builder()
        .argument("--maxmemory", "100mb")
        .argument("--maxmemory-policy", "allkeys-lru")
        .start();
    let origin = healthy();
    let patient = Patient::on_store(&origin, &redis.url());
    patient.seen().is("store-eviction", "ok");
    queue_tasks(&redis, 0);
    patient.seen().is_wrong("store-eviction", "volatile-lru");
    redis
        .run(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"])
        .unwrap_ok();
    patient.seen().is("store-eviction", "ok");
}

#[test]
fn celery_in_the_same_database() {
    let redis = RedisServer::start();
    queue_tasks(&redis, 1);
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.warns("store-celery", "database: 2");
}

#[test]
fn pickles_under_our_prefix() {
    let redis = RedisServer::start();
    let pickle = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00]\x94.";
    redis
        .run(&[b"SET", &b"t:1:session-hush"[..], pickle])
        .unwrap_ok();
    redis.run(&["RPUSH", "t:list", "a"]);
    let seen = Patient::on_store(&healthy(), &redis.url()).seen();
    seen.warns("store-foreign", "`prefix`");
    assert!(
        seen.text.contains("1 pickles") && seen.text.contains("1 values"),
        "{}",
        seen.text
    );
    // A key of a session names the session.
    assert!(!seen.text.contains("hush"), "{}", seen.text);
    assert_eq!(redis.keys().len(), 2);
}

#[test]
fn copies_of_our_own_are_not_taken_for_anothers() {
    let (redis, origin) = (RedisServer::start(), healthy());
    let larder = Larder::start(users_api(&origin, &redis.url(), ""));
    larder.get("/api/users/");
    larder.get("/api/users/?page=2");
    let seen = Patient::on_store(&origin, &redis.url()).seen();
    seen.is("store-foreign", "ok");
}

#[test]
fn a_clock_that_is_off() {
    let redis = RedisServer::start();
    for (seconds, level) in [(-3600, "wrong"), (7200, "wrong"), (-10, "warning")] {
        let url = format!(
            "redis://{}",
            relay(&redis, Duration::ZERO, move |answer| moved(answer, seconds))
        );
        let seen = Patient::on_store(&healthy(), &url).seen();
        let check = seen.is("store-clock", level);
        assert!(check["remedy"].as_str().unwrap().contains("NTP"), "{check}");
    }
}

#[test]
fn a_store_that_is_far_away() {
    let redis = RedisServer::start();
    let far = relay(&redis, Duration::from_millis(30), |_| ());
    let seen = Patient::on_store(&healthy(), &format!("redis://{far}")).seen();
    assert_ne!(
        seen.check("store-latency").unwrap()["level"],
        "ok",
        "{}",
        seen.text
    );
    let too_far = relay(&redis, Duration::from_millis(150), |_| ());
    let seen = Patient::on_store(&healthy(), &format!("redis://{too_far}")).seen();
    seen.is_wrong("store-latency", "nearer");
}

/// The answer to TIME, by so many seconds later.
fn moved(answer: &mut Vec<u8>, seconds: i64) {
    if let Some(b"*2\r\n$10\r\n") = answer.get(..9)
        && let Ok(digits) = std::str::from_utf8(&answer[9..19])
        && let Ok(time) = digits.parse::<i64>()
    {
        answer.splice(9..19, (time + seconds).to_string().into_bytes());
    }
}

/// A relay before the server that changes its answers, and takes so long for each.
fn relay(
    redis: &RedisServer,
    delay: Duration,
    change: impl Fn(&mut Vec<u8>) + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = redis.port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
                return;
            };
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut up, &mut down);
                let _ = down.shutdown(Shutdown::Both);
            });
            let change = change.clone();
            thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(length @ 1..) = server.read(&mut buffer) {
                    let mut answer = buffer[..length].to_vec();
                    change(&mut answer);
                    thread::sleep(delay);
                    if client.write_all(&answer).is_err() {
                        return;
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_server_that_is_too_old() {
    let redis = RedisServer::start();
    // No older one is at hand: this one says that it is.
    let older = relay(&redis, Duration::ZERO, |answer| {
        let name = b"redis_version:";
        if let Some(at) = answer.windows(name.len()).position(|part| part == name) {
            answer[at + name.len()] = b'6';
        }
    });
    let seen = Patient::on_store(&healthy(), &format!("redis://{older}")).seen();
    seen.is_wrong("store-version", "7.0");
}

// The API.

#[test]
fn the_api_is_down() {
    let mut origin = healthy();
    origin.stop();
    let seen = Patient::on_api(&origin).seen();
    seen.is_wrong("upstream-connect", "gunicorn --bind");
    let gone = "upstream: http+unix:///nowhere/gunicorn.sock\nroutes: []\n".to_owned();
    Patient::with(gone)
        .seen()
        .is_wrong("upstream-connect", "--bind unix:");
}

#[test]
fn the_api_does_not_answer_in_time() {
    let gate = Gate::new();
    let closed = gate.clone();
    let origin = saying(move || origin::json("[]").behind(&closed));
    let upstream = format!(
        "upstream: {{url: \"{}\", connect: 100ms, total: 200ms, first_byte: 200ms}}",
        origin.url()
    );
    let yaml = users_api(&origin, "memory:", "").replacen(
        &format!("upstream: {}", origin.url()),
        &upstream,
        1,
    );
    let seen = Patient::with(yaml).seen();
    gate.open();
    seen.is_wrong("upstream-answer", "200ms");
}

#[test]
fn the_api_hangs_up_or_is_no_http_server() {
    let seen = Patient::on_api(&saying(origin::hang_up)).seen();
    seen.is_wrong("upstream-answer", "log");
    let seen = Patient::on_api(&saying(|| origin::raw("SSH-2.0-OpenSSH_9.2\r\n"))).seen();
    seen.is_wrong("upstream-answer", "HTTP");
}

#[test]
fn a_host_that_allowed_hosts_lacks() {
    let page = "<!doctype html>\n<html lang=\"en\">\n<head>\n  <title>Bad Request (400)</title>\n</head>\n<body>\n  <h1>Bad Request (400)</h1><p></p>\n</body>\n</html>\n";
    let origin = saying(move || origin::status(400, page).field("Content-Type", "text/html"));
    let host = ["-H", "Host: api.example.org:8443"];
    let seen = Patient::on_api(&origin).told(&host).seen();
    seen.is_wrong("upstream-host", "ALLOWED_HOSTS = [\"api.example.org\"");
    // A host that nobody has said is only assumed to be the clients'.
    Patient::on_api(&origin)
        .seen()
        .warns("upstream-host", "-header 'Host:");
    let hosts = users_api(&origin, "memory:", "hosts: [api.example.org]");
    Patient::with(hosts)
        .seen()
        .is_wrong("upstream-host", "api.example.org");
}

#[test]
fn a_path_without_its_slash() {
    let origin = saying(|| origin::status(301, "").field("Location", "/api/users/"));
    let yaml = users_api(&origin, "memory:", "").replace("path: /api/users/,", "path: /api/users,");
    let seen = Patient::with(yaml.replace(PURGE, "")).seen();
    seen.is_wrong("route-slash", "path: /api/users/");
}

#[test]
fn a_redirect_to_https() {
    let to = "https://api.example.org/api/users/";
    let origin = saying(move || origin::status(301, "").field("Location", to));
    let seen = Patient::on_api(&origin)
        .told(&["-H", "Host: api.example.org"])
        .seen();
    seen.is_wrong("upstream-https", "SECURE_PROXY_SSL_HEADER");
}

#[test]
fn a_public_route_that_asks_for_a_login() {
    let origin = saying(|| origin::status(401, "{}"));
    let public = users_api(&origin, "memory:", "")
        .replace("key: users:list", "key: users:list, access: public");
    let seen = Patient::with(public).seen();
    seen.is_wrong("route-public", "access: per-credential");
    let seen = Patient::on_api(&origin).seen();
    assert_eq!(
        (seen.status, seen.check("route-public")),
        (0, None),
        "{}",
        seen.text
    );
}

/// Who is admitted, by the path that is asked.
fn admitting(origin: &Origin, scope: &str) -> Patient {
    let access = format!("key: users:list, access: {{verify: /api/users/me/{scope}}}");
    let yaml = users_api(origin, "memory:", "").replace("key: users:list", &access);
    Patient::with(impatient(yaml, origin))
}

#[test]
fn a_verify_path_that_admits_everybody_or_nobody() {
    let to_me = |status: u16| {
        Origin::start(move |request| match request.fields.get("Authorization") {
            Some("Token a") => origin::json("{}"),
            _ if request.target == "/api/users/me/" && status == 301 => {
                origin::status(301, "").field("Location", "/api/users/me")
            }
            _ if request.target == "/api/users/me/" => origin::status(status, "{}"),
            _ => origin::status(401, "{}"),
        })
    };
    for (status, level, remedy) in [
        (401, "ok", ""),
        (403, "ok", ""),
        (200, "warning", "access: public"),
        (301, "wrong", "urls.py"),
        (404, "wrong", "urls.py"),
        (500, "warning", "log"),
    ] {
        let origin = to_me(status);
        let seen = admitting(&origin, "").seen();
        let check = seen.is("route-verify", level);
        let said = check["remedy"].as_str().unwrap_or_default();
        assert!(said.contains(remedy), "{status}: {said}");
    }
    let origin = to_me(401);
    for (scope, who, level, remedy) in [
        ("", "Token a", "ok", ""),
        (", scope: [/role]", "Token a", "warning", "`scope`"),
        ("", "Token b", "warning", "curl"),
    ] {
        let field = format!("Authorization: {who}");
        let seen = admitting(&origin, scope).told(&["-H", &field]).seen();
        let check = seen.is("route-verify", level);
        let said = check["remedy"].as_str().unwrap_or_default();
        assert!(said.contains(remedy), "{who}: {said}");
        assert!(!seen.text.contains(who), "{}", seen.text);
    }
}

#[test]
fn a_client_whose_second_credential_keeps_it_from_filling() {
    let origin = saying(|| origin::json("{}"));
    let seen = |cookie: &str| {
        let fields = ["-H", "Authorization: Token a", "-H", cookie];
        admitting(&origin, "").told(&fields).seen()
    };
    seen("Cookie: tenant=b").warns("route", "`ignore_cookies`");
    seen("Cookie: csrftoken=b").is("route", "ok");
}

#[test]
fn keys_of_tokens_are_named_and_never_shown() {
    let origin = saying(|| origin::json("[]"));
    let with = |jwt: &str| {
        let access = format!("key: users:list, access: {{jwt: {jwt}}}");
        let yaml = users_api(&origin, "memory:", "").replace("key: users:list", &access);
        Patient::with(impatient(yaml, &origin)).seen()
    };
    let set = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/jwks.json");
    let seen = with(&format!("{{jwks_file: {set}}}"));
    let said = seen.is("route-jwt", "ok")["seen"].as_str().unwrap();
    assert!(said.contains("ES256 2026-11"), "{said}");
    let seen = with(&format!("{{jwks_file: {set}, algorithms: [RS256]}}"));
    seen.is_wrong("route-jwt", "algorithms");
    let secret = "0123456789abcdef0123456789abcdef";
    let seen = with(&format!("{{secret: {secret}}}"));
    seen.is("route-jwt", "ok");
    assert!(!seen.text.contains(secret));
}

#[test]
fn answers_that_are_never_kept() {
    type Change = fn(Answer) -> Answer;
    let cases: [(&str, &str, Change); 9] = [
        ("route-cookie", "session", |a| {
            a.field("Set-Cookie", "sessionid=hush; Path=/")
        }),
        ("route-vary", "vary: [x-tenant]", |a| {
            a.field("Vary", "X-Tenant")
        }),
        ("route-vary", "name the fields", |a| a.field("Vary", "*")),
        ("route-cache-control", "private", |a| {
            a.field("Cache-Control", "private")
        }),
        ("route-cache-control", "no-store", |a| {
            a.field("Cache-Control", "no-store")
        }),
        ("route-cache-control", "override_origin", |a| {
            a.field("Cache-Control", "max-age=0")
        }),
        ("route-cache-control", "override_origin", |a| {
            a.field("Cache-Control", "max-age=soon")
        }),
        ("route-encoding", "Accept-Encoding", |a| {
            a.field("Content-Encoding", "gzip")
        }),
        ("route-status", "media type", |_| origin::status(406, "")),
    ];
    for (code, remedy, change) in cases {
        let origin = saying(move || change(origin::json("[]")));
        let seen = Patient::on_api(&origin).seen();
        seen.warns(code, remedy);
        assert!(!seen.text.contains("hush"), "{}", seen.text);
    }
}

#[test]
fn a_larger_answer_than_the_route_keeps() {
    for chunked in [false, true] {
        let large = move || match chunked {
            true => origin::huge(5 << 20).chunked(),
            false => origin::huge(5 << 20),
        };
        Patient::on_api(&saying(large))
            .seen()
            .warns("route-size", "max_body");
    }
}

#[test]
fn a_path_that_the_api_does_not_have_and_one_that_fails() {
    let missing = saying(|| origin::status(404, "{}"));
    Patient::on_api(&missing)
        .seen()
        .warns("route-path", "urls.py");
    let failing = saying(|| origin::status(500, "{}"));
    Patient::on_api(&failing)
        .seen()
        .is_wrong("upstream-status", "log");
}

#[test]
fn a_keep_alive_that_is_shorter_than_ours() {
    // A scripted origin keeps its connections for as long as it is asked to: this one closes them after a while.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut asked = [0; 8192];
                let Ok(1..) = stream.read(&mut asked) else {
                    return;
                };
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]");
                thread::sleep(Duration::from_millis(1500));
            });
        }
    });
    let yaml = |pool_idle: &str| {
        format!(
            "upstream: {{url: \"{url}\", pool_idle: {pool_idle}}}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: /api/users/, key: users:list}}\n"
        )
    };
    let seen = Patient::with(yaml("10s")).seen();
    seen.warns("upstream-keep-alive", "pool_idle");
    let seen = Patient::with(yaml("100ms")).seen();
    seen.is("upstream-keep-alive", "ok");
}

// The ports.

#[test]
fn a_port_is_taken_by_something_else_or_by_a_larder() {
    let origin = healthy();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut patient = Patient::on_api(&origin);
    let free = patient.yaml.lines().next().unwrap().to_owned();
    patient.yaml = patient
        .yaml
        .replace(&free, &format!("listen: {}", taken.local_addr().unwrap()));
    patient.seen().is_wrong("listen", "choose another port");

    let larder = Larder::start(users_api(&origin, "memory:", ""));
    let exit = run(
        &["doctor", "--json", "-c", larder.file().to_str().unwrap()],
        &[],
    );
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
    assert_eq!(
        exit.output.matches("a Larder listens at").count(),
        2,
        "{}",
        exit.output
    );
}
