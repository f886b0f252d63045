//! The same Django three times: as it is, with its answers kept in its views by django-redis, and behind Larder.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::rig::generator::{Order, Ready, Work};
use super::rig::processes::{self, Server};
use super::rig::table::Table;
use super::rig::{self, peers};
use super::{Arguments, Goal, median, show};

/// Those whom the test project seeds.
const USERS: u64 = 25;

pub fn django(arguments: &Arguments) -> Vec<Goal> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/django-redis/bin/python");
    let Some(redis) = processes::redis().filter(|_| python.exists()) else {
        println!(
            "left out: Django. For it: apt-get install redis-server, and\n  \
             python3 -m venv target/django-redis && target/django-redis/bin/pip install -r tests/django/requirements.txt django-redis\n"
        );
        return Vec::new();
    };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let plain = gunicorn(&python, folder.path(), "it360acad_backend.settings", &redis);
    let cached = gunicorn(&python, folder.path(), "cached", &redis);
    let file = folder.path().join("proxy.yaml");
    let text = rig::proxy_yaml(plain.address, &format!("redis://{}", redis.address))
        .replace("access: public", "access: per-credential");
    std::fs::write(&file, text).expect("it can be written");
    let larder = processes::larder(&file);
    let contestants = [
        ("Django", &plain, false),
        ("Django, django-redis in its views", &cached, true),
        ("Larder, Redis", &larder, true),
    ];
    let rounds: Vec<Vec<(f64, f64, f64)>> = (0..arguments.rounds)
        .map(|_| {
            let each = contestants.iter();
            each.map(|(_, server, over_redis)| {
                let order = Order {
                    address: server.address,
                    host: "api.example.org".to_owned(),
                    connections: arguments.connections,
                    seconds: arguments.seconds.max(1.0),
                    rate: None,
                    work: Work::Read { users: USERS },
                    from: 0,
                };
                let cpu = || {
                    let own = server.process.family_cpu();
                    if *over_redis {
                        own + redis.process.cpu()
                    } else {
                        own
                    }
                };
                let ready = Ready::for_order(&order);
                let before = cpu();
                let (report, _) = ready.go();
                assert!(report.failed * 100 < report.requests, "{report:?}");
                let requests = report.requests.max(1) as f64;
                (
                    (cpu() - before).as_secs_f64() * 1e6 / requests,
                    requests / report.seconds,
                    report.p50,
                )
            })
            .collect()
        })
        .collect();
    let mut table = Table::new(&[
        "a user of the real Django, as a hit",
        "requests/s",
        "p50 µs",
        "CPU µs",
    ]);
    for (n, (name, ..)) in contestants.iter().enumerate() {
        let of = |figure: fn(&(f64, f64, f64)) -> f64| {
            median(rounds.iter().map(|round| figure(&round[n])))
        };
        table.row(vec![
            (*name).to_owned(),
            format!("{:.0}", of(|m| m.1)),
            format!("{:.0}", of(|m| m.2)),
            format!("{:.1}", of(|m| m.0)),
        ]);
    }
    show(&table, arguments);
    vec![Goal {
        name: "hit: Larder, Redis / Django with django-redis".to_owned(),
        measured: median(rounds.iter().map(|round| round[2].0 / round[1].0)),
        at_most: 1.0 / 30.0,
        hoped: 1.0 / 60.0,
    }]
}

/// The test project under gunicorn, as many processes as there are cores.
fn gunicorn(python: &Path, folder: &Path, settings: &str, redis: &Server) -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = root.join("tests/django");
    let paths = [project.clone(), root.join("benches/django")].map(PathBuf::into_os_string);
    let own = |command: &mut Command| {
        command
            .current_dir(&project)
            .env(
                "PYTHONPATH",
                std::env::join_paths(&paths).expect("paths without colons"),
            )
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DJANGO_SETTINGS_MODULE", settings)
            .env("DJANGO_DATABASE", folder.join("db.sqlite3"))
            .env("ALLOWED_HOSTS", "api.example.org")
            .env("CACHE_URL", format!("redis://{}/3", redis.address));
    };
    for arguments in [&["migrate", "--verbosity", "0"][..], &["seed"]] {
        let mut manage = Command::new(python);
        manage.arg("manage.py").args(arguments);
        own(&mut manage);
        let said = manage.output().expect("python runs");
        assert!(
            said.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
    let address = processes::free_address();
    let mut command = Command::new(python);
    command.args([
        "-m",
        "gunicorn",
        "it360acad_backend.wsgi",
        "--no-control-socket",
    ]);
    command.args(["--bind", &address.to_string(), "--worker-class", "gthread"]);
    command.args(["--threads", "8", "--keep-alive", "60", "--workers"]);
    command.arg(peers::threads().to_string());
    own(&mut command);
    processes::server(&mut command, address, "gunicorn").expect("python was there a moment ago")
}
