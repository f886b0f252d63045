//! Whoever reads the log may stop reading: a frozen pipe, a `docker logs` that hangs, a full disk. Requests are answered all the same, and
//! what is lost of the log is said to be.

mod support;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::Command;

use serde_json::Value;
use support::client::{Connection, head};
use support::larder::{Larder, LarderBuilder};
use support::origin::{self, Origin};
use support::{Gate, eventually, users_api};
use tempfile::TempDir;

const LIST: &str = "/api/users/";

/// As `larder serve 2>&1 | reader`, with a reader that reads when it is told to.
struct Pipe {
    directory: TempDir,
    reader: BufReader<File>,
}

impl Pipe {
    fn new() -> Pipe {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // With an end to write of our own, opening it does not wait for the other.
        let both = OpenOptions::new().read(true).write(true).open(&path);
        Pipe {
            directory,
            reader: BufReader::new(both.unwrap()),
        }
    }

    fn start(&self, yaml: String) -> Larder {
        let path = self.directory.path().join("log");
        into(yaml, &format!("> '{}' 2>&1", path.display())).start()
    }

    fn event(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

/// With its streams as a shell has it.
fn into(yaml: String, streams: &str) -> LarderBuilder {
    let script = format!("exec \"$0\" \"$@\" {streams}");
    Larder::with(yaml).under(["sh", "-c", &script])
}

fn api() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

fn json_logs(origin: &Origin) -> String {
    users_api(origin, "memory:", "logs: {format: json}")
}

/// Each is a line of more than 2 KB, told apart by its number.
fn ask(client: &mut Connection, numbers: std::ops::Range<u64>) {
    let long = "x".repeat(2048);
    for number in numbers {
        assert_eq!(client.get(&format!("/other/{number}/{long}")).status, 200);
    }
}

fn number(event: &Value) -> Option<u64> {
    let of_it = event["path"].as_str()?.strip_prefix("/other/")?;
    Some(of_it.split('/').next()?.parse().unwrap())
}

fn lost(larder: &Larder) -> u64 {
    let text = larder.admin("GET", "/metrics").text();
    let mut lines = text.lines();
    let lost = lines.find_map(|line| line.strip_prefix("larder_log_lines_lost_total "));
    lost.expect("it is counted").parse().unwrap()
}

/// More than any queue of lines holds.
const FLOOD: u64 = 5000;

#[test]
fn a_log_that_nobody_reads_holds_up_no_request_and_says_what_it_lost() {
    let (origin, mut pipe) = (api(), Pipe::new());
    let larder = pipe.start(json_logs(&origin));
    ask(&mut larder.connect(), 0..FLOOD);
    assert_eq!(larder.admin("GET", "/healthz").status, 200);
    let was_lost = lost(&larder);
    assert!((1..FLOOD).contains(&was_lost), "{was_lost}");

    // What waited is read: whole lines, in order, and at their end what is missing.
    let mut next = 0;
    let missing = loop {
        let event = pipe.event();
        match number(&event) {
            Some(number) => {
                assert_eq!(number, next);
                next += 1;
            }
            None if event["lines"].is_u64() => break event,
            None => {}
        }
    };
    assert_eq!(missing["level"], "WARN");
    assert_eq!(missing["lines"], was_lost);
    assert_eq!(next, FLOOD - was_lost);

    // From then on it is whole again.
    ask(&mut larder.connect(), FLOOD..FLOOD + 3);
    for expected in FLOOD..FLOOD + 3 {
        assert_eq!(number(&pipe.event()), Some(expected));
    }
    assert_eq!(lost(&larder), was_lost);
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_process_from_its_end() {
    let (origin, pipe) = (api(), Pipe::new());
    let larder = pipe.start(json_logs(&origin));
    ask(&mut larder.connect(), 0..100);
    larder.terminate();
    assert!(larder.exit().status.success());
}

#[test]
fn nor_does_what_is_said_at_a_second_signal() {
    let gate = Gate::new();
    let wait = gate.clone();
    let origin = Origin::start(move |request| match request.target.as_str() {
        LIST => origin::json("[]").behind(&wait),
        _ => origin::json("[]"),
    });
    let pipe = Pipe::new();
    let larder = pipe.start(json_logs(&origin));
    ask(&mut larder.connect(), 0..100);
    let mut busy = larder.connect();
    busy.send(head("GET", LIST, &[], None).as_bytes());
    origin.wait_for(101);
    larder.terminate();
    eventually("it drains", || larder.readiness()["status"] == "draining");
    larder.terminate();
    assert_eq!(larder.exit().status.code(), Some(1));
    gate.open();
}

#[test]
fn who_reads_the_log_is_told_of_every_request_in_its_order() {
    const REQUESTS: usize = 20_000;
    let origin = api();
    let larder = Larder::start(json_logs(&origin));
    let mut client = larder.connect();
    for id in 0..REQUESTS {
        let fields = [("X-Request-Id", &*id.to_string())];
        assert_eq!(client.request("GET", LIST, &fields, b"").status, 200);
    }
    assert_eq!(lost(&larder), 0);
    larder.terminate();
    let exit = larder.exit();
    let events = exit.output.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event
    });
    let access = events.filter(|event| event["target"] == "larder::access");
    let ids: Vec<usize> = access
        .map(|event| event["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(
        ids.iter().copied().eq(0..REQUESTS),
        "{} are told",
        ids.len()
    );
    assert!(exit.output.trim_end().ends_with('}'));
    assert!(exit.output.contains("larder has ended"));
}

#[test]
fn a_log_on_a_full_disk_is_counted_as_lost_and_complained_of_once() {
    let origin = api();
    let larder = into(json_logs(&origin), "> /dev/full").start();
    ask(&mut larder.connect(), 0..10);
    let complaint = "the log cannot be written (No space left on device";
    eventually("it is said", || larder.output().contains(complaint));
    eventually("they are lost", || lost(&larder) >= 10);
    assert_eq!(larder.output().matches(complaint).count(), 1);
}

#[test]
fn behind_a_line_that_a_full_disk_has_cut_there_are_whole_ones_again() {
    let origin = api();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log");
    // 4 KiB, in place of a disk that is full.
    let full = "ulimit -S -f 8; trap '' XFSZ; exec \"$0\" \"$@\"";
    let script = format!("{full} > '{}'", file.display());
    let larder = Larder::with(json_logs(&origin)).under(["sh", "-c", &script]);
    let larder = larder.start();
    ask(&mut larder.connect(), 0..3);
    eventually("some are lost", || lost(&larder) > 0);
    let pid = i32::try_from(larder.pid()).unwrap();
    let more = Some((rlimit::INFINITY, rlimit::INFINITY));
    rlimit::prlimit(pid, rlimit::Resource::FSIZE, more, None).unwrap();
    ask(&mut larder.connect(), 3..5);
    let mut log = String::new();
    eventually("what is said then is there", || {
        log = std::fs::read_to_string(&file).unwrap();
        log.contains("/other/4/") && log.ends_with('\n')
    });
    let events = log.lines().map(serde_json::from_str::<Value>);
    let (events, cut): (Vec<_>, Vec<_>) = events.partition(Result::is_ok);
    assert_eq!(cut.len(), 1, "{log}");
    let events: Vec<Value> = events.into_iter().map(Result::unwrap).collect();
    let missing = events.iter().find_map(|event| event["lines"].as_u64());
    assert_eq!(missing, Some(lost(&larder)), "{log}");
    let told = events.iter().filter_map(number).count() as u64;
    assert_eq!(told + lost(&larder), 5, "{log}");
}

#[test]
fn a_log_whose_reader_has_gone_ends_no_connection() {
    let (origin, pipe) = (api(), Pipe::new());
    let larder = pipe.start(json_logs(&origin));
    drop(pipe);
    let mut client = larder.connect();
    ask(&mut client, 0..10);
    eventually("they are lost", || lost(&larder) >= 10);
    ask(&mut client, 10..20);
}

#[test]
fn what_a_panic_says_is_said_before_the_end() {
    // The one that can be had from outside.
    let origin = api();
    let larder = Larder::with(json_logs(&origin)).env("TOKIO_WORKER_THREADS", "0");
    let exit = larder.fails();
    assert!(
        exit.output.contains("thread 'main' panicked at"),
        "{exit:?}"
    );
    assert!(exit.output.contains("TOKIO_WORKER_THREADS"), "{exit:?}");
}
