//! What is counted of this process, for `/metrics`, the page and `larder top`. Each label is a route's pattern or a word
//! of ours, never a path, so there are no more series than the file and the code have words for.
//!
//! It belongs to the process and not to a configuration: a reload loses no count.

mod counting;
mod exposition;
mod overview;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;

use crate::caching::cache_status::Handling;
pub use counting::Gauge;
use counting::{CLASSES, Classes, Counter, Histogram, Words, class};

pub use exposition::{CONTENT_TYPE, exposition, state};
pub use overview::overview;

/// What is not of a route.
pub static COUNTED: Counted = Counted {
    upstream: OfUpstream {
        answers: Words::new(),
        failures: Words::new(),
        took: Histogram::new(),
    },
    store: OfStore {
        commands: [const { OfCommand::new() }; Command::ALL.len()],
        connected: Counter::new(),
        lost: Counter::new(),
    },
    purges: Words::new(),
    verdicts: Words::new(),
    holds: Gauge::new(),
    reloads: Words::new(),
};

/// The routes of every configuration this process has had.
static ROUTES: Mutex<BTreeMap<String, Arc<OfRoute>>> = Mutex::new(BTreeMap::new());

/// The route of whatever is under no route.
pub const NO_ROUTE: &str = "-";

pub struct Counted {
    pub upstream: OfUpstream,
    pub store: OfStore,
    /// By cause.
    pub purges: Words<1>,
    /// What `verify` asked and was told.
    pub verdicts: Words<1>,
    /// Writes in flight under a hold.
    pub holds: Gauge,
    /// By what became of them.
    pub reloads: Words<1>,
}

/// What went to the API, fills and questions of our own with it.
pub struct OfUpstream {
    /// By class of status.
    pub answers: Words<1>,
    /// No answer, and why.
    pub failures: Words<1>,
    /// Until the answer's head.
    pub took: Histogram,
}

impl OfUpstream {
    pub fn answered(&self, status: StatusCode, took: Duration) {
        self.answers.count([CLASSES[class(status)]]);
        self.took.took(took);
    }
}

/// What a shared store is asked.
pub struct OfStore {
    commands: [OfCommand; Command::ALL.len()],
    pub connected: Counter,
    pub lost: Counter,
}

struct OfCommand {
    took: Histogram,
    failed: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    LookUp,
    Open,
    Step,
    Put,
    Notes,
    List,
}

impl Command {
    const ALL: [Command; 6] = [
        Command::LookUp,
        Command::Open,
        Command::Step,
        Command::Put,
        Command::Notes,
        Command::List,
    ];

    fn word(self) -> &'static str {
        match self {
            Command::LookUp => "look-up",
            Command::Open => "open",
            Command::Step => "step",
            Command::Put => "put",
            Command::Notes => "notes",
            Command::List => "list",
        }
    }
}

impl OfCommand {
    const fn new() -> Self {
        OfCommand {
            took: Histogram::new(),
            failed: Counter::new(),
        }
    }
}

impl OfStore {
    pub fn told<T, E>(&self, command: Command, took: Duration, answer: &Result<T, E>) {
        let of = &self.commands[command as usize];
        match answer {
            Ok(_) => of.took.took(took),
            Err(_) => of.failed.count(),
        }
    }
}

/// What became of the requests under one route.
#[derive(Debug)]
pub struct OfRoute {
    /// Plain hits, by class of status: these are many.
    hits: Classes,
    /// All others: what the cache did, why, and the class of status.
    others: Words<3>,
    hits_took: Histogram,
    others_took: Histogram,
    collapsed: Counter,
    stored: Counter,
    /// Hits that the API was asked about, too, by what came of it.
    pub compared: Words<1>,
}

/// The counts of a route, the same for as long as the process lives.
pub fn of_route(pattern: &str) -> Arc<OfRoute> {
    // The process is about to serve: its time begins.
    LazyLock::force(&exposition::STARTED);
    let mut routes = ROUTES.lock();
    match routes.get(pattern) {
        Some(of_route) => of_route.clone(),
        None => {
            let of_route = Arc::new(OfRoute::new());
            routes.insert(pattern.to_owned(), of_route.clone());
            of_route
        }
    }
}

fn routes() -> Vec<(String, Arc<OfRoute>)> {
    let routes = ROUTES.lock();
    let all = routes.iter();
    all.map(|(pattern, of)| (pattern.clone(), of.clone()))
        .collect()
}

impl OfRoute {
    pub fn new() -> Self {
        OfRoute {
            hits: Classes::new(),
            others: Words::new(),
            hits_took: Histogram::new(),
            others_took: Histogram::new(),
            collapsed: Counter::new(),
            stored: Counter::new(),
            compared: Words::new(),
        }
    }

    /// One answer; a plain hit takes no lock.
    pub fn answered(&self, handling: Handling, status: StatusCode, took: Duration) {
        let class = class(status);
        if let Handling::Hit { .. } = handling {
            self.hits.count(class);
            return self.hits_took.took(took);
        }
        let detail = handling.detail().unwrap_or(NO_DETAIL);
        self.others.count([handling.word(), detail, CLASSES[class]]);
        match handling {
            Handling::Hit { .. } | Handling::StaleHit { .. } | Handling::OutdatedHit => {
                self.hits_took.took(took);
            }
            Handling::Own { .. } => self.others_took.took(took),
            Handling::Forwarded {
                stored, collapsed, ..
            } => {
                self.others_took.took(took);
                if stored {
                    self.stored.count();
                }
                if collapsed {
                    self.collapsed.count();
                }
            }
        }
    }

    /// What the cache did, why, the class of status, and how often.
    pub fn requests(&self) -> Vec<([&'static str; 3], u64)> {
        let hits = CLASSES.into_iter().zip(self.hits.totals());
        let hits = hits
            .filter(|(_, count)| *count > 0)
            .map(|(class, count)| (["hit", NO_DETAIL, class], count));
        hits.chain(self.others.totals()).collect()
    }
}

impl Default for OfRoute {
    fn default() -> Self {
        OfRoute::new()
    }
}

/// As in the log.
const NO_DETAIL: &str = "-";
