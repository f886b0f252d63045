//! Malformed and ambiguous HTTP/1 requests, byte for byte, one table per rule: each is refused, or goes on as exactly
//! one request that is the client's own. Behind Larder stands a recorder that keeps every byte which it received; each table
//! goes over both stores, and over a route with a `ttl` and one that goes by the origin's word.

#[path = "raw/line.rs"]
mod line;
#[path = "raw/recorder.rs"]
mod recorder;
#[path = "raw/rows.rs"]
mod rows;
mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use recorder::Recorder;
use rows::{Expected, Row};
use support::larder::Larder;
use support::redis::RedisServer;
use support::{PATIENCE, PURGE, eventually};

/// One that is asked again and again, and kept.
const KNOWN: &[u8] = b"GET /api/users/900/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n";

/// More often than any thread needs to know it again.
const KNOWN_AFTER: usize = 12;

/// What follows a request that is in doubt: never answered, never passed on.
const PROBE: &[u8] = b"GET /smuggled/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n";

#[test]
fn framing_is_one_and_clear() {
    all(rows::framing());
}

#[test]
fn chunks_are_well_formed() {
    all(rows::chunks());
}

#[test]
fn a_request_has_one_valid_host() {
    all(rows::hosts());
}

#[test]
fn a_target_is_a_path_or_agrees_with_host() {
    all(rows::targets());
}

#[test]
fn a_start_line_is_three_words() {
    all(rows::start_lines());
}

#[test]
fn a_field_is_one_line_without_control_bytes() {
    all(rows::fields());
}

#[test]
fn a_method_is_one_that_is_listed() {
    all(rows::methods());
}

#[test]
fn what_is_hop_by_hop_is_not_passed_on() {
    all(rows::hop_by_hop());
}

#[test]
fn what_is_ours_to_say_is_not_passed_on() {
    all(rows::ours_to_say());
}

#[test]
fn a_path_hides_no_control_byte_and_no_backslash() {
    all(rows::hidden_in_paths());
}

#[test]
fn an_odd_path_is_passed_on_as_it_is() {
    all(rows::odd_paths());
}

#[test]
fn a_limit_has_its_own_status() {
    all(rows::limits());
}

#[test]
fn the_tables_have_four_hundred_rows_and_no_row_twice() {
    let tables = rows::tables();
    let rows = || tables.iter().flat_map(|(_, rows)| rows);
    let distinct: BTreeSet<&[u8]> = rows().map(|row| &row.bytes[..]).collect();
    let techniques: BTreeSet<&str> = rows().map(|row| row.technique).collect();
    let count = rows().count();
    println!("{count} rows of {} techniques", techniques.len());
    assert_eq!(distinct.len(), count);
    assert!(count >= 400, "{count} rows");
}

/// By whose word the routes keep what they keep.
#[derive(Debug, Clone, Copy)]
enum Policy {
    Ttl,
    Http,
}

fn all(rows: Vec<Row>) {
    let redis = RedisServer::start();
    for policy in [Policy::Ttl, Policy::Http] {
        redis.run(&["FLUSHDB"]).unwrap_ok();
        for store in [None, Some(&redis)] {
            through(store, policy, &rows);
        }
    }
}

/// Tells of every row that does not hold, and not of the first alone.
fn through(redis: Option<&RedisServer>, policy: Policy, rows: &[Row]) {
    let recorder = Recorder::start();
    let upstream = recorder.address();
    let store = redis.map_or_else(|| "memory:".to_owned(), RedisServer::url);
    let (route, ttl) = match policy {
        Policy::Ttl => ("access: public", "ttl: 1h"),
        Policy::Http => ("policy: http", ""),
    };
    let larder = Larder::start(format!(
        r#"upstream: http://{upstream}
store: {{url: "{store}", database: 1, prefix: t}}
{ttl}
limits: {{content: 100kB}}
trusted_proxies: []
routes:
  - {{path: /api/users/, key: users:list, {route}}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}", {route}}}
{PURGE}"#
    ));
    // By then it is looked up beneath hyper's own reading (src/server/lane.rs), where the next request must be found again.
    let known = |connection: &mut TcpStream| {
        connection
            .write_all(KNOWN)
            .map_err(|error| error.to_string())?;
        next(connection, &mut Vec::new(), KNOWN)
    };
    let ways = match policy {
        Policy::Ttl => &[false, true][..],
        Policy::Http => &[false],
    };
    if ways.contains(&true) {
        for _ in 0..KNOWN_AFTER {
            assert_eq!(known(&mut connect(&larder)), Ok(200));
        }
    }
    let first = recorder.count();
    let mut wrong = Vec::new();
    let all = rows
        .iter()
        .flat_map(|row| ways.iter().map(move |way| (row, *way)));
    for (row, behind) in all {
        let mut connection = connect(&larder);
        let held = match behind {
            false => holds(&mut connection, &recorder, row),
            true => known(&mut connection).and_then(|_| {
                let held = holds(&mut connection, &recorder, row);
                let arrived = recorder.count();
                // Answered as it is, or not at all where the connection closes.
                match (row.expected.is_in_doubt(), known(&mut connection)) {
                    (true, Ok(_)) => Err("a request behind it was answered".to_owned()),
                    (_, Ok(status)) if status != 200 => Err(format!("behind it: {status}")),
                    _ if recorder.count() != arrived => Err("it arrived behind it".to_owned()),
                    _ => held,
                }
            }),
        };
        if let Err(why) = held {
            let bytes = String::from_utf8_lossy(&row.bytes[..row.bytes.len().min(300)]);
            let behind = if behind { ", behind a known one" } else { "" };
            wrong.push(format!("{}{behind}: {why}\n    {bytes:?}", row.technique));
        }
    }
    let whole = recorder.since(first).iter().filter(|one| one.whole).count();
    let forwarded = rows
        .iter()
        .filter(|row| row.expected.is_forwarded())
        .count();
    if whole != forwarded * ways.len() {
        wrong.push(format!("{whole} requests arrived whole"));
    }
    // None of it is stored, but for what goes on as a GET without content, which by the origin's word is kept as what it is.
    if let Some(redis) = redis {
        for key in redis.keys().iter().filter(|key| is_a_copy(key)) {
            let value = redis.get(key).unwrap_or_default();
            let of_a_row = |row: &&Row| matches!(policy, Policy::Http) && row.is_kept_as(&value);
            if !rows.iter().any(|row| of_a_row(&row)) {
                let value = String::from_utf8_lossy(&value[..value.len().min(100)]);
                wrong.push(format!("{key} was stored: {value:?}"));
            }
        }
    }
    // And what a later client gets was asked for by that client.
    for target in ["/api/users/", "/api/users/7/"] {
        let answer = larder.get(target);
        assert_eq!(answer.status, 200, "it still serves {target}");
        let text = answer.text();
        if answer.is_hit() || text != format!("GET {target} api.example.org") {
            wrong.push(format!("{target} was poisoned: {text:?}"));
        }
    }
    if let Some(redis) = redis {
        let there = |redis: &RedisServer| redis.keys().iter().any(|key| is_a_copy(key));
        eventually("that one is stored where it was looked for", || {
            there(redis)
        });
    }
    let faults = recorder.faults();
    assert!(
        wrong.is_empty() && faults.is_empty(),
        "{policy:?}, {store}: {} of {} rows do not hold:\n{}\nthe recorder found: {faults:#?}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

/// Not a state, nor what the deployment's instances tell each other, nor the one that is known.
fn is_a_copy(key: &str) -> bool {
    let is_a_family = key.starts_with("t:users:") && !key.starts_with("t:users:detail:900");
    is_a_family
        && !["~state", "~all", "~vary"]
            .iter()
            .any(|end| key.ends_with(end))
}

fn connect(larder: &Larder) -> TcpStream {
    let stream = TcpStream::connect(larder.address()).expect("connect");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a read timeout");
    stream
}

fn holds(stream: &mut TcpStream, recorder: &Recorder, row: &Row) -> Result<(), String> {
    let before = recorder.count();
    let mut bytes = row.bytes.clone();
    if row.expected.is_in_doubt() {
        bytes.extend_from_slice(PROBE);
    }
    // It may be answered, and the connection closed, before the last byte is out.
    let _ = stream.write_all(&bytes);
    let answers = match row.expected.is_in_doubt() {
        true => until_closed(stream)?,
        false => vec![next(stream, &mut Vec::new(), &row.bytes)?],
    };
    let arrived = recorder.since(before);
    if arrived.iter().any(|request| request.target == "/smuggled/") {
        return Err("what follows it arrived as a request".to_owned());
    }
    match &row.expected {
        Expected::Refused(statuses) | Expected::Declined(statuses) => {
            if answers.len() != 1 || !statuses.contains(&answers[0]) {
                return Err(format!("answered {answers:?} and not one of {statuses:?}"));
            }
            match &arrived[..] {
                [] => Ok(()),
                arrived => Err(format!("it arrived: {arrived:?}")),
            }
        }
        Expected::Broken(statuses) => {
            if answers.len() != 1 || !statuses.contains(&answers[0]) {
                return Err(format!("answered {answers:?} and not one of {statuses:?}"));
            }
            match arrived.iter().find(|request| request.whole) {
                None => Ok(()),
                Some(request) => Err(format!("it arrived as if whole: {request:?}")),
            }
        }
        Expected::Forwarded {
            method,
            target,
            content,
            without,
        } => {
            let [request] = &arrived[..] else {
                return Err(format!("answered {answers:?}, arrived: {arrived:?}"));
            };
            if (&request.method[..], &request.target[..], &request.host[..])
                != (method, target, "api.example.org")
                || request.content != *content
                || !request.whole
            {
                return Err(format!("arrived as {request:?}"));
            }
            if request.values.iter().any(|value| value.contains("evil")) {
                return Err(format!(
                    "what the client says in our place arrived: {request:?}"
                ));
            }
            match without.iter().find(|name| request.has(name)) {
                Some(name) => Err(format!("{name} arrived: {request:?}")),
                None if answers[0] == 200 && answers.len() == 1 => Ok(()),
                None => Err(format!("answered {answers:?}")),
            }
        }
    }
}

/// The statuses of all answers until the other side closes, as it must.
fn until_closed(stream: &mut TcpStream) -> Result<Vec<u16>, String> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Closed while bytes of ours were on their way.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ) => {}
        Err(error) => {
            return Err(format!(
                "not closed ({error}) after {:?}",
                String::from_utf8_lossy(&bytes)
            ));
        }
    }
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let (status, length) = answer(&bytes, b"")
            .ok_or_else(|| format!("not an answer: {:?}", String::from_utf8_lossy(&bytes)))?;
        if !(100..200).contains(&status) {
            statuses.push(status);
        }
        bytes.drain(..length.min(bytes.len()));
    }
    Ok(statuses)
}

/// The status of the next answer that is no interim one.
fn next(stream: &mut TcpStream, bytes: &mut Vec<u8>, request: &[u8]) -> Result<u16, String> {
    let mut landing = [0; 4096];
    loop {
        if let Some((status, length)) = answer(bytes, request)
            && length <= bytes.len()
        {
            if !(100..200).contains(&status) {
                return Ok(status);
            }
            bytes.drain(..length);
            continue;
        }
        match stream.read(&mut landing) {
            Ok(0) => return Err("closed without an answer".to_owned()),
            Ok(read) => bytes.extend_from_slice(&landing[..read]),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Status and length of the answer with which these bytes begin, once its head is there.
fn answer(bytes: &[u8], request: &[u8]) -> Option<(u16, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let status: u16 = text.split(' ').nth(1)?.parse().ok()?;
    let content = text
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let bodiless = request.starts_with(b"HEAD ") || (100..200).contains(&status);
    Some((status, head + if bodiless { 0 } else { content }))
}
