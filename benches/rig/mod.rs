//! What the load benches share: servers and a load generator, each in a process of its own, so that the CPU
//! time of each can be told apart.

pub mod generator;
pub mod processes;
pub mod servers;
pub mod table;

/// A bench binary started with this as its first argument is not the bench but a part of it.
const PART: &str = "rig-part";

/// Plays the part that this process was started for, if it was started for one.
pub fn play_part() -> bool {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(PART) {
        return false;
    }
    let part = arguments.next().expect("the name of a part");
    let detail = arguments.next().expect("what the part needs");
    match part.as_str() {
        "origin" => servers::origin(),
        "bare" => servers::bare(&detail),
        "generator" => generator::run(&detail),
        other => panic!("no such part: {other}"),
    }
    true
}
