//! What holds of any input (`tests/properties/`), tried on each seed of `fuzz/seeds` as it is, and on what proptest makes of
//! them by cutting, doubling, joining and putting in what is odd. `fuzz/run.sh` tries the same by libFuzzer.

#[path = "properties/mod.rs"]
mod properties;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How a seed is changed at one place.
#[derive(Debug, Clone)]
enum Edit {
    Insert(Vec<u8>),
    Replace(Vec<u8>),
    Remove(usize),
    /// So many bytes, once more.
    Again(usize),
    Cut,
    /// Goes on as another seed does from its own place on.
    Join(usize),
}

macro_rules! holds_of_every_seed_and_of_what_is_made_of_it {
    ($($name:ident)*) => {
        $(#[test] fn $name() { holds(stringify!($name)); })*

        #[test]
        fn every_property_is_among_these() {
            let here = [$(stringify!($name)),*];
            let all: Vec<&str> = properties::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(here[..], all);
        }
    };
}

holds_of_every_seed_and_of_what_is_made_of_it! {
    accept caching config credentials dates entries forwarded frames keys plain ranges routes scopes wire
}

#[test]
fn the_seeds_of_copies_are_in_the_format_of_today() {
    let seeds = seeds("entries");
    let read = seeds
        .iter()
        .filter(|seed| properties::entries::is_read(seed));
    assert!(read.count() >= 3);
}

#[test]
fn most_seeds_of_plain_requests_are_plain() {
    let seeds = seeds("plain");
    let plain = seeds.iter().filter(|seed| properties::plain::is_read(seed));
    assert!(plain.count() > seeds.len() / 2);
}

fn holds(name: &str) {
    let (_, property) = properties::ALL
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a property of that name");
    let seeds = seeds(name);
    for seed in &seeds {
        property(seed);
    }
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), edit()), 1..6);
    let input = (any::<prop::sample::Index>(), edits).prop_map(|(which, edits)| {
        let mut input = which.get(&seeds).clone();
        for (place, edit) in edits {
            change(&mut input, place, edit, &seeds);
        }
        Input(input)
    });
    let config = ProptestConfig {
        // What fails is kept as a seed, with a name, and not in a file of numbers.
        failure_persistence: None,
        cases: 512,
        ..ProptestConfig::default()
    };
    let run = TestRunner::new(config).run(&input, |Input(input)| {
        property(&input);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let files = fs::read_dir(folder.join(name)).expect("a folder of seeds");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "{name} has {} seeds", paths.len());
    paths
        .iter()
        .map(|path| fs::read(path).expect("a seed"))
        .collect()
}

fn edit() -> impl Strategy<Value = Edit> {
    let word = prop_oneof![
        prop::sample::select(WORDS).prop_map(|word| word.to_vec()),
        proptest::collection::vec(any::<u8>(), 1..4),
    ];
    prop_oneof![
        4 => word.clone().prop_map(Edit::Insert),
        4 => word.prop_map(Edit::Replace),
        2 => (1usize..30).prop_map(Edit::Remove),
        2 => (1usize..60).prop_map(Edit::Again),
        1 => Just(Edit::Cut),
        1 => (0usize..100).prop_map(Edit::Join),
    ]
}

fn change(input: &mut Vec<u8>, place: prop::sample::Index, edit: Edit, seeds: &[Vec<u8>]) {
    let at = place.index(input.len() + 1);
    let end = |length: usize, input: &Vec<u8>| (at + length).min(input.len());
    match edit {
        Edit::Insert(word) => drop(input.splice(at..at, word)),
        Edit::Replace(word) => drop(input.splice(at..end(word.len(), input), word)),
        Edit::Remove(length) => drop(input.drain(at..end(length, input))),
        Edit::Again(length) => {
            let again = input[at..end(length, input)].to_vec();
            input.splice(at..at, again);
        }
        Edit::Cut => input.truncate(at),
        Edit::Join(which) => {
            let other = &seeds[which % seeds.len()];
            input.truncate(at);
            input.extend_from_slice(&other[place.index(other.len() + 1)..]);
        }
    }
}

/// What means something to one reader or another.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b",",
    b";",
    b":",
    b"=",
    b"\"",
    b"\\",
    b"/",
    b"%",
    b"-",
    b"*",
    b"#",
    b"?",
    b"&",
    b"~",
    b"@",
    b"0",
    b"1",
    b"00",
    b"-1",
    b"4294967296",
    b"18446744073709551615",
    b"9223372036854775808",
    b"%2f",
    b"%2F",
    b"%37",
    b"%00",
    b"..",
    b"//",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Host: a\r\n",
    b"Connection: close\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"no-store",
    b"private",
    b"max-age=1",
    b"s-maxage=\"9\"",
    b"$-1\r\n",
    b"*2\r\n",
    b"$999999999\r\n",
    b"bytes=0-",
    b"q=0.5",
    b"W/",
    b"Cookie: a=b\n",
    b"${REDIS_URL}",
    b"${X:?}",
    b"<int:id>",
    b"{id}",
    b"- ",
    b"\xc3\xa9",
    b"\xff",
    b"\xe2\x80\xa8",
];

/// Shown as text when it fails.
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Each with what is likely to be plain first.
const METHODS: [&str; 6] = ["GET ", "POST ", "PATCH ", "DELETE ", "get ", "OPTIONS "];
const TARGETS: [&str; 7] = [
    "/api/users/7/",
    "/?a=b&c",
    "/%zz",
    "*",
    "http://a/",
    "/a b",
    "/#f",
];
const VERSIONS: [&str; 4] = [
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    " HTTP/2.0\r\n",
    " HTTP/1.1\n",
];
const LINES: [&str; 22] = [
    "Host: a\r\n",
    "host:a\r\n",
    "Accept: */*\r\n",
    "X-Empty:\r\n",
    "X-Long: \t a\t b \r\n",
    "X_Under: 1\r\n",
    "X: \u{e9}\r\n",
    "Connection: keep-alive\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "content-length: 03\r\n",
    "Content-Length: 3, 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "Bad(Name): 1\r\n",
    "Host : a\r\n",
    " folded\r\n",
    "X: a\rb\r\n",
    "X: a\0b\r\n",
];
const ENDS: [&str; 6] = [
    "\r\n",
    "\r\nabc",
    "\r\nabcd",
    "\r\nab",
    "\r\n\r\n",
    "\r\n3\r\nabc\r\n0\r\n\r\n",
];

/// Mostly one of the first `likely`.
fn one_of(all: &'static [&'static str], likely: usize) -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => prop::sample::select(&all[..likely]), 1 => prop::sample::select(all)]
}

fn messages() -> impl Strategy<Value = Vec<u8>> {
    let start = (
        one_of(&METHODS, 4),
        one_of(&TARGETS, 3),
        one_of(&VERSIONS, 1),
    );
    let lines = prop::collection::vec(one_of(&LINES, 9), 0..5);
    let change = (any::<u8>(), any::<prop::sample::Index>(), 0..4);
    (start, lines, one_of(&ENDS, 2), change).prop_map(
        |((method, target, version), lines, end, (byte, at, change))| {
            let all = [method, target, version, &lines.concat(), end].concat();
            let mut bytes = all.into_bytes();
            if change == 0 {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

#[test]
fn what_is_read_without_hyper_is_read_in_no_other_way() {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(20_000)
    });
    let plain = Cell::new(0);
    let checked = runner.run(&messages(), |bytes| {
        properties::plain::holds(&bytes);
        plain.set(plain.get() + u32::from(properties::plain::is_read(&bytes)));
        Ok(())
    });
    checked.unwrap();
    assert!(plain.get() > 200, "{} of them were plain", plain.get());
}

#[test]
fn what_asks_for_anything_more_is_not_read_without_hyper() {
    let plain =
        "PATCH /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc";
    assert!(properties::plain::is_read(plain.as_bytes()));
    properties::plain::holds(plain.as_bytes());
    for (from, to) in [
        ("PATCH", "HEAD"),
        ("PATCH", "OPTIONS"),
        ("/a?b", "http://a/"),
        ("/a?b", "*"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("\r\nHost", "\nHost"),
        ("Length: 3", "Length: 2"),
        ("Length: 3", "Length: 4"),
        ("Length: 3", "Length: 03"),
        ("Length: 3", "Length: +3"),
        ("Content-Length", "X-Length"),
        ("Connection: keep-alive", "Connection: close"),
        ("Connection: keep-alive", "Connection: x-a"),
        ("Connection: keep-alive", "Expect: 100-continue"),
        ("Connection: keep-alive", "Transfer-Encoding: chunked"),
        ("Connection: keep-alive", "Upgrade: websocket"),
        ("Connection: keep-alive", "Content-Length: 3"),
        ("Host: a", "Host : a"),
        ("Host: a", "Host: a\r\n b"),
        ("Host: a", "Host: a\0"),
    ] {
        let changed = plain.replacen(from, to, 1);
        assert_ne!(changed, plain);
        let is_read = properties::plain::is_read(changed.as_bytes());
        assert!(!is_read, "{changed:?}");
    }
}
