//! Malformed and ambiguous HTTP/2 requests, frame for frame, one table per rule: each is refused, or goes on as exactly
//! one HTTP/1 request that is the client's own. Behind Larder stands a recorder that keeps every byte which it received.

#[path = "raw/recorder.rs"]
mod recorder;
#[path = "h2/rows.rs"]
mod rows;
mod support;

use std::collections::BTreeSet;

use recorder::Recorder;
use rows::{Expected, Row};
use support::PURGE;
use support::client::HOST;
use support::h2::{Event, Raw};
use support::larder::Larder;

#[test]
fn pseudo_fields_are_each_there_once_and_first() {
    all(rows::pseudo_fields());
}

#[test]
fn a_path_is_one() {
    all(rows::paths());
}

#[test]
fn a_request_has_one_valid_host() {
    all(rows::hosts());
}

#[test]
fn a_field_says_in_http_1_what_it_says_here() {
    all(rows::fields());
}

#[test]
fn a_length_is_that_of_the_content() {
    all(rows::lengths());
}

#[test]
fn what_is_of_the_connection_or_ours_to_say_is_not_passed_on() {
    all(rows::dropped());
}

#[test]
fn frames_are_well_formed() {
    all(rows::frames());
}

#[test]
fn frames_follow_each_other_as_they_may() {
    all(rows::streams());
}

#[test]
fn header_blocks_are_read_one_way() {
    all(rows::compression());
}

#[test]
fn a_limit_is_kept() {
    all(rows::limits());
}

#[test]
fn the_tables_have_two_hundred_rows_each_of_a_technique_of_its_own() {
    let rows = rows::every();
    let distinct: BTreeSet<&[u8]> = rows.iter().map(|row| &row.frames[..]).collect();
    let techniques: BTreeSet<&str> = rows.iter().map(|row| row.technique).collect();
    let forwarded = rows
        .iter()
        .filter(|row| matches!(row.expected, Expected::Forwarded { .. }))
        .count();
    println!(
        "{} requests of {} techniques, {forwarded} of which go on as they are",
        rows.len(),
        techniques.len()
    );
    assert_eq!((distinct.len(), techniques.len()), (rows.len(), rows.len()));
    assert!(rows.len() >= 200, "{} rows", rows.len());
}

/// Tells of every row that does not hold, and not of the first alone.
fn all(rows: Vec<Row>) {
    let recorder = Recorder::start();
    let upstream = recorder.address();
    let larder = Larder::start(format!(
        r#"upstream: http://{upstream}
h2c: true
store: {{url: "memory:", prefix: t}}
ttl: 1h
limits: {{content: 100kB}}
trusted_proxies: []
logs: {{access: false}}
routes:
  - {{path: /api/users/, key: users:list, access: public}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}", access: public}}
{PURGE}"#
    ));
    let mut wrong = Vec::new();
    for row in &rows {
        if let Err(why) = holds(&larder, &recorder, row) {
            wrong.push(format!("{}: {why}", row.technique));
        }
        // A good client is served after each.
        let good = larder.get("/good/").text();
        if good != format!("GET /good/ {HOST}") {
            wrong.push(format!("after {}: {good:?}", row.technique));
        }
    }
    // None of it is stored: what a later client gets was asked for by that client.
    let before = recorder.count();
    let answer = larder.get("/api/users/");
    let arrived = recorder.since(before);
    if answer.text() != format!("GET /api/users/ {HOST}") || arrived.len() != 1 {
        wrong.push(format!("poisoned: {answer:?}, {arrived:?}"));
    }
    let faults = recorder.faults();
    assert!(
        wrong.is_empty() && faults.is_empty(),
        "{} of {} rows do not hold:\n{}\nthe recorder found: {faults:#?}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

fn holds(larder: &Larder, recorder: &Recorder, row: &Row) -> Result<(), String> {
    let before = recorder.count();
    let mut raw = match row.instead {
        false => Raw::open(larder.address()),
        true => Raw::bare(larder.address()),
    };
    raw.send(&row.frames);
    let events = match &row.expected {
        Expected::Ended | Expected::Broken => {
            // What follows a connection that is in doubt is not read.
            raw.get(101, "/smuggled/");
            match &row.expected {
                Expected::Ended => raw.until_closed(),
                // It may stay open for others.
                _ => raw.until(|event| matches!(event, Event::Head { stream: 101, .. })),
            }
        }
        Expected::Answered(_) | Expected::Reset => raw.until(|event| {
            matches!(
                event,
                Event::Head { .. } | Event::Reset { .. } | Event::GoAway { .. }
            )
        }),
        Expected::Forwarded { .. } => raw.until(|event| {
            matches!(
                event,
                Event::Data { end: true, .. }
                    | Event::Head { end: true, .. }
                    | Event::Reset { .. }
                    | Event::GoAway { .. }
            )
        }),
    };
    if raw.silent {
        return Err(format!("neither answered nor closed: {events:?}"));
    }
    let outcome = outcome(&events);
    if matches!(row.expected, Expected::Answered(_) | Expected::Reset)
        && !matches!(outcome, Outcome::Ended(_))
    {
        // The same connection serves the next request.
        raw.get(101, "/next/");
        let next = raw.until(|event| matches!(event, Event::Head { stream: 101, .. }));
        let served = Event::Head {
            stream: 101,
            status: 200,
            end: false,
        };
        if next.last() != Some(&served) {
            return Err(format!("{outcome:?}, and then {next:?}"));
        }
    }
    let mut arrived = recorder.since(before);
    if !matches!(row.expected, Expected::Ended) {
        arrived.retain(|request| !matches!(&request.target[..], "/next/" | "/smuggled/"));
    }
    match &row.expected {
        Expected::Answered(statuses) => match outcome {
            Outcome::Answered(status) if statuses.contains(&status) => nothing(&arrived),
            other => Err(format!("{other:?} and not one of {statuses:?}")),
        },
        Expected::Reset => match outcome {
            Outcome::Reset(_) => nothing(&arrived),
            other => Err(format!("{other:?} and not reset")),
        },
        Expected::Ended => match outcome {
            Outcome::Ended(code) if code != Some(0) => nothing(&arrived),
            other => Err(format!("{other:?} and not ended: {events:?}")),
        },
        Expected::Broken => match arrived.iter().find(|request| request.whole) {
            Some(request) => Err(format!("{outcome:?}, arrived as if whole: {request:?}")),
            None => match outcome {
                Outcome::Answered(200) => Err(format!("answered as if whole: {events:?}")),
                _ => Ok(()),
            },
        },
        Expected::Forwarded {
            method,
            target,
            content,
            without,
        } => {
            let [request] = &arrived[..] else {
                return Err(format!("{outcome:?}, arrived: {arrived:?}"));
            };
            if (&request.method[..], &request.target[..], &request.host[..])
                != (method, target, HOST)
                || request.content != *content
                || !request.whole
            {
                return Err(format!("arrived as {request:?}"));
            }
            let via = request.names.iter().position(|name| name == "via");
            if via.map(|at| &request.values[at][..]) != Some("2 larder") {
                return Err(format!("arrived without its version: {request:?}"));
            }
            match without.iter().find(|name| request.has(name)) {
                Some(name) => Err(format!("{name} arrived: {request:?}")),
                None if outcome == Outcome::Answered(200) => Ok(()),
                None => Err(format!("{outcome:?}")),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered(u16),
    Reset(u32),
    /// With the code that was given, if any was.
    Ended(Option<u32>),
}

/// What became of the row's own stream.
fn outcome(events: &[Event]) -> Outcome {
    let own = events.iter().find_map(|event| match event {
        Event::Head {
            stream: ..100,
            status,
            ..
        } => Some(Outcome::Answered(*status)),
        Event::Reset {
            stream: ..100,
            code,
        } => Some(Outcome::Reset(*code)),
        Event::GoAway { code } => Some(Outcome::Ended(Some(*code))),
        _ => None,
    });
    own.unwrap_or(Outcome::Ended(None))
}

fn nothing(arrived: &[recorder::Recorded]) -> Result<(), String> {
    match arrived {
        [] => Ok(()),
        arrived => Err(format!("it arrived: {arrived:?}")),
    }
}
