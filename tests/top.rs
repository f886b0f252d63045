//! `larder top` beside a running instance: its numbers move with the load, in the terminal, as text and as JSON.

mod support;

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::Value;
use support::larder::{Larder, Output, binary, command, run};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{eventually, users_api};

const LIST: &str = "/api/users/";

fn api() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

/// The users API, of which the list's hottest copies are known.
fn yaml(origin: &Origin, store: &str) -> String {
    users_api(origin, store, "").replace("key: users:list}", "key: users:list, warm: 2}")
}

/// Asks for the list, again and again, until it is dropped.
struct Load {
    over: Arc<AtomicBool>,
    asking: Option<JoinHandle<()>>,
}

impl Load {
    fn on(larder: &Larder) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let mut client = larder.connect();
        let told = Arc::clone(&over);
        let asking = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                client.get(LIST);
            }
        });
        Load {
            over,
            asking: Some(asking),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.asking.take().map(JoinHandle::join);
    }
}

fn file(larder: &Larder) -> String {
    larder.file().display().to_string()
}

fn look(larder: &Larder) -> Value {
    let looked = run(
        &[
            "top",
            "--once",
            "--json",
            "--interval",
            "300ms",
            "-c",
            &file(larder),
        ],
        &[],
    );
    assert_eq!(looked.status.code(), Some(0), "{looked:?}");
    serde_json::from_str(&looked.output).unwrap_or_else(|error| panic!("{error}: {looked:?}"))
}

#[test]
fn one_look_shows_the_load_of_its_time_and_what_stands_over_either_store() {
    let redis = RedisServer::start();
    for store in ["memory:".to_owned(), redis.url()] {
        let origin = api();
        let larder = Larder::start(yaml(&origin, &store));
        larder.get(LIST);
        let idle = look(&larder);
        assert_eq!(idle["requests_per_second"], 0.0, "{idle}");
        assert_eq!(idle["hit_ratio"], Value::Null);

        larder.write("PATCH", "/api/users/7/");
        let load = Load::on(&larder);
        eventually("the load is seen", || {
            let busy = look(&larder);
            let route = &busy["routes"][0];
            let hot = busy["hottest"]
                .as_array()
                .is_some_and(|hottest| !hottest.is_empty());
            assert!(busy["upstream"]["most"] == 64, "{busy}");
            hot && busy["requests_per_second"].as_f64() > Some(1.0)
                && busy["hit_ratio"].as_f64() > Some(0.5)
                && route["route"] == LIST
                && route["hits"]["per_second"].as_f64() > Some(1.0)
                && route["hits"]["p50_seconds"].as_f64() > Some(0.0)
        });
        let busy = look(&larder);
        let kind = if store == "memory:" {
            "memory"
        } else {
            "redis"
        };
        assert_eq!(
            (&busy["store"]["kind"], &busy["store"]["state"]),
            (&kind.into(), &"up".into()),
            "{busy}"
        );
        let looked_up = busy["store"]["look_ups"]["per_second"].as_f64();
        assert_eq!(looked_up > Some(0.0), kind == "redis", "{busy}");
        let purge = &busy["purges"][0];
        assert_eq!(
            (&purge["cause"], &purge["write"]["path"]),
            (&"write".into(), &"/api/users/7/".into()),
            "{busy}"
        );
        drop(load);
        eventually("it is quiet again", || {
            look(&larder)["requests_per_second"] == 0.0
        });
    }
}

#[test]
fn where_there_is_no_terminal_it_is_said_once_as_text() {
    let origin = api();
    let larder = Larder::start(yaml(&origin, "memory:"));
    let _load = Load::on(&larder);
    let said = run(&["top", "--interval", "300ms", "-c", &file(&larder)], &[]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    for word in [
        "requests  ",
        "store     memory up",
        "upstream  ",
        "writes    0 in flight",
        LIST,
    ] {
        assert!(said.output.contains(word), "{word}: {}", said.output);
    }
    assert!(!said.output.contains('\u{1b}'), "{said:?}");
}

#[test]
fn as_json_it_goes_on_line_by_line_until_nobody_reads() {
    let origin = api();
    let larder = Larder::start(yaml(&origin, "memory:"));
    let mut process = command(&[])
        .args(["top", "--json", "--interval", "100ms", "-c", &file(&larder)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run larder");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().expect("a line").expect("a line");
        let told: Value = serde_json::from_str(&line).expect("a document");
        assert_eq!(told["store"]["kind"], "memory");
    }
    drop(lines);
    assert!(process.wait().expect("it ends").success());
}

/// `larder top` in a terminal of its own, made by `script`; what is written to its standard input is typed.
fn in_a_terminal(larder: &Larder) -> Child {
    let line = format!(
        "stty cols 150 rows 40; exec '{}' top --interval 200ms -c '{}'",
        binary().display(),
        file(larder)
    );
    Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script, of util-linux")
}

#[test]
fn in_a_terminal_it_is_drawn_anew_until_q_and_the_terminal_is_given_back() {
    let origin = api();
    let larder = Larder::start(yaml(&origin, "memory:"));
    let mut terminal = in_a_terminal(&larder);
    let output = Output::of(&mut terminal);
    // The number that follows the word, as it was drawn last.
    let last = |word: &str| -> Option<f64> {
        let shown = output.so_far();
        let (_, behind) = shown.rsplit_once(word)?;
        behind
            .split_whitespace()
            .next()?
            .replace(',', "")
            .parse()
            .ok()
    };
    eventually("it says that nothing happens", || {
        last("requests  ") == Some(0.0)
    });
    {
        let _load = Load::on(&larder);
        eventually("the load is drawn", || last("requests  ") > Some(1.0));
        eventually("the route is drawn", || output.so_far().contains(LIST));
    }
    eventually("it is quiet again", || last("requests  ") == Some(0.0));
    larder.kill();
    eventually("an instance that is gone is said", || {
        output.so_far().contains("no instance answers")
    });
    // Escape, and what an arrow sends, end nothing.
    let mut keyboard = terminal.stdin.take().unwrap();
    keyboard.write_all(b"\x1b[A q").unwrap();
    let status = terminal.wait().expect("it ends");
    assert!(status.success(), "{status}");
    let shown = output.so_far();
    let (taken, given) = (shown.find("\u{1b}[?1049h"), shown.rfind("\u{1b}[?1049l"));
    assert!(
        taken.is_some() && given > taken,
        "the other screen is left: {shown:?}"
    );
    assert!(shown.contains("\u{1b}[?25h"), "the cursor is shown again");
}

#[test]
fn what_cannot_be_looked_at_is_said_with_its_remedy() {
    let origin = api();
    let larder = Larder::start(yaml(&origin, "memory:"));
    let file = file(&larder);
    let soon = run(&["top", "--interval", "1ms", "-c", &file], &[]);
    assert_eq!(soon.status.code(), Some(2), "{soon:?}");
    assert!(soon.output.contains("between 100ms and 1h"), "{soon:?}");
    let months = run(&["top", "--interval", "1M", "-c", &file], &[]);
    assert!(months.output.contains("`1m` for minutes"), "{months:?}");
    let directory = tempfile::tempdir().unwrap();
    let away = directory.path().join("proxy.yaml");
    let port = support::free_port();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("admin:"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(&away, format!("admin: 127.0.0.1:{port}\n{text}")).unwrap();
    let away = run(&["top", "--once", "-c", away.to_str().unwrap()], &[]);
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(
        away.output.contains("start it with `larder serve`"),
        "{away:?}"
    );
}
