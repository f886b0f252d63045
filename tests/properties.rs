//! What holds of any input (`tests/properties/`), tried on each seed of `fuzz/seeds` as it is, and on what proptest makes of
//! them by cutting, doubling, joining and putting in what is odd. `fuzz/run.sh` tries the same by libFuzzer.

#[path = "properties/mod.rs"]
mod properties;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

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
