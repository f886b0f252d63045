//! Floods of HTTP/2: each is ended or bounded, and a good client is served meanwhile.
//!
//! `cargo test --release --test h2_floods -- --ignored --nocapture` says what they cost, in a table.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::client::HOST;
use support::h2::{
    ALL, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM,
    Raw, WINDOW_UPDATE, block, frame, literal, settings,
};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::users_api;

const LIST: &str = "/api/users/";
/// Kept: an answer that is only passed on holds one of the upstream's connections while nobody takes it.
const LARGE: &str = "/api/users/9/";

/// CANCEL.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// More of what brings nothing forward than a connection may send at once.
const TOO_MANY: usize = 3000;

fn start() -> (Origin, Larder) {
    let origin = Origin::start(|request| match request.target.as_str() {
        LARGE => origin::huge(1_000_000),
        _ => origin::json("[]"),
    });
    let more = "h2c: true\nlogs: {access: false}";
    let larder = Larder::start(users_api(&origin, "memory:", more));
    larder.get(LIST);
    larder.get(LARGE);
    (origin, larder)
}

fn request(stream: u32, flags: u8, method: &str, target: &str) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", target),
    ];
    frame(HEADERS, flags, stream, block(&fields))
}

/// A way to be a nuisance: what one connection sends, again and again.
struct Flood {
    name: &'static str,
    /// Whether its connection is ended for it.
    ends: bool,
    once: fn(&mut Raw) -> bool,
}

fn floods() -> Vec<Flood> {
    let flood = |name, once| Flood {
        name,
        ends: true,
        once,
    };
    vec![
        flood("rapid reset", |raw| {
            let pairs = (0..TOO_MANY as u32).map(|n| {
                let stream = 2 * n + 1;
                [
                    request(stream, ALL, "GET", "/slow/"),
                    frame(RST_STREAM, 0, stream, CANCEL),
                ]
                .concat()
            });
            raw.send(&pairs.collect::<Vec<_>>().concat())
        }),
        flood("reset as soon as it is begun", |raw| {
            (0..TOO_MANY as u32).all(|n| {
                let stream = 2 * n + 1;
                let begun = raw.send(&request(stream, END_HEADERS, "POST", "/slow/"));
                raw.ping();
                begun && raw.send(&frame(RST_STREAM, 0, stream, CANCEL))
            })
        }),
        flood("CONTINUATION", |raw| {
            raw.send(&request(1, END_STREAM, "GET", LIST));
            raw.send(&frame(CONTINUATION, 0, 1, literal(0, b"x", b"1")).repeat(TOO_MANY))
        }),
        flood("empty CONTINUATION", |raw| {
            raw.send(&request(1, END_STREAM, "GET", LIST));
            raw.send(&frame(CONTINUATION, 0, 1, b"").repeat(TOO_MANY))
        }),
        flood("HPACK bomb", |raw| {
            // An entry as large as the table, and the same again by one byte each.
            let entry = literal(0x40, b"x", &[b'a'; 4000]);
            let bomb = [&entry[..], &[0xbe; 12_000]].concat();
            let fields = [(":method", "GET"), (":scheme", "http"), (":path", LIST)];
            let bomb = [block(&fields), bomb].concat();
            raw.send(&frame(HEADERS, ALL, 1, bomb))
        }),
        flood("SETTINGS", |raw| {
            raw.send(&settings(&[(4, 65_535)]).repeat(TOO_MANY))
        }),
        flood("empty SETTINGS", |raw| {
            raw.send(&settings(&[]).repeat(TOO_MANY))
        }),
        flood("PING", |raw| {
            raw.send(&frame(PING, 0, 0, [7; 8]).repeat(TOO_MANY))
        }),
        flood("PRIORITY", |raw| {
            raw.send(&frame(PRIORITY, 0, 1, [0, 0, 0, 3, 9]).repeat(TOO_MANY))
        }),
        flood("empty DATA", |raw| {
            raw.send(&request(1, END_HEADERS, "POST", LIST));
            raw.send(&frame(DATA, 0, 1, b"").repeat(TOO_MANY))
        }),
        flood("frames that nobody knows", |raw| {
            raw.send(&frame(0xfa, 0, 0, [0; 100]).repeat(TOO_MANY))
        }),
        flood("windows opened by a byte", |raw| {
            raw.send(&settings(&[(4, 0)]));
            raw.send(&request(1, ALL, "GET", LARGE));
            raw.send(&frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]).repeat(TOO_MANY))
        }),
        flood("malformed requests", |raw| {
            let malformed = (0..TOO_MANY as u32).map(|n| {
                let fields = [
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", LIST),
                    ("te", "x"),
                ];
                frame(HEADERS, ALL, 2 * n + 1, block(&fields))
            });
            raw.send(&malformed.collect::<Vec<_>>().concat())
        }),
        // Who goes on after having been refused a hundred times has not read the settings.
        flood("a thousand streams at once", |raw| {
            let requests = (0..1000).map(|n| request(2 * n + 1, END_HEADERS, "POST", LIST));
            raw.send(&requests.collect::<Vec<_>>().concat())
        }),
        Flood {
            name: "no window for a hundred answers",
            ends: false,
            once: |raw| {
                raw.send(&settings(&[(4, 0)]));
                let requests = (0..100).map(|n| request(2 * n + 1, ALL, "GET", LARGE));
                raw.send(&requests.collect::<Vec<_>>().concat());
                raw.ping();
                true
            },
        },
        Flood {
            name: "content that never ends",
            ends: false,
            once: |raw| {
                let requests = (0..100).map(|n| {
                    let head = request(2 * n + 1, END_HEADERS, "POST", LIST);
                    [head, frame(DATA, 0, 2 * n + 1, vec![0; 5000])].concat()
                });
                raw.send(&requests.collect::<Vec<_>>().concat());
                raw.ping();
                true
            },
        },
    ]
}

#[test]
fn each_flood_ends_or_is_bounded_and_a_good_client_is_served() {
    let (_origin, larder) = start();
    let good = Client::open(larder.address());
    let mut wrong = Vec::new();
    for Flood { name, ends, once } in floods() {
        let mut raw = Raw::open(larder.address());
        let sent = once(&mut raw);
        if ends {
            raw.until_closed();
        } else if !sent {
            wrong.push(format!("{name}: not as it should be"));
        }
        if raw.silent {
            wrong.push(format!("{name}: neither ended nor bounded"));
        }
        // While the nuisance is still connected, where it may be.
        for _ in 0..3 {
            let answer = good.get(LIST);
            if answer.status != 200 || !answer.cache_status().contains("hit") {
                wrong.push(format!("{name}: a good client got {answer:?}"));
            }
            good.request("POST", "/elsewhere/", &[], b"{}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_resets_leave_behind_is_nothing() {
    let (origin, larder) = start();
    let before = origin.count();
    for _ in 0..3 {
        let mut raw = Raw::open(larder.address());
        (floods()[0].once)(&mut raw);
        raw.until_closed();
    }
    // 20 may wait unseen on each, and no more than 1000 can have been reset.
    let asked = origin.count() - before;
    assert!(asked <= 3 * 1000, "{asked} requests were sent on");
    larder.get(LIST);
}

#[test]
#[ignore = "prints figures, and takes a minute or two"]
fn figures() {
    const CONNECTIONS: usize = 20;
    const LASTS: Duration = Duration::from_secs(5);
    println!("{CONNECTIONS} connections for {LASTS:?} each, all on this machine's cores\n");
    println!(
        "| flood | connections made | memory, MB more | CPU, s | good client: asked | longest ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for Flood { name, ends, once } in floods() {
        let (_origin, larder) = start();
        let address = larder.address();
        let over = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        larder.forget_peak();
        let (memory, cpu) = (larder.memory(), cpu(&larder));
        let nuisances: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (over, made) = (over.clone(), made.clone());
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        made.fetch_add(1, Ordering::Relaxed);
                        let mut raw = Raw::open(address);
                        once(&mut raw);
                        if ends {
                            raw.until_closed();
                        } else {
                            while !over.load(Ordering::Relaxed) {
                                thread::sleep(Duration::from_millis(20));
                            }
                        }
                    }
                })
            })
            .collect();
        let good = Client::open(address);
        let (begun, mut asked, mut longest) = (Instant::now(), 0, Duration::ZERO);
        while begun.elapsed() < LASTS {
            let sent = Instant::now();
            assert_eq!(good.get(LIST).status, 200);
            (asked, longest) = (asked + 1, longest.max(sent.elapsed()));
            thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        let more = larder.peak_memory().saturating_sub(memory);
        println!(
            "| {name} | {} | {:.1} | {:.1} | {asked} | {:.0} |",
            made.load(Ordering::Relaxed),
            more as f64 / 1e6,
            self::cpu(&larder) - cpu,
            longest.as_secs_f64() * 1e3
        );
        drop(larder);
        for nuisance in nuisances {
            let _ = nuisance.join();
        }
    }
}

/// Seconds of CPU that it has had.
fn cpu(larder: &Larder) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", larder.pid())).expect("stat");
    let after = stat.rsplit(") ").next().expect("fields behind the name");
    let ticks = |at: usize| after.split(' ').nth(at).and_then(|n| n.parse::<f64>().ok());
    // utime and stime, in hundredths of a second.
    (ticks(11).unwrap_or_default() + ticks(12).unwrap_or_default()) / 100.0
}
