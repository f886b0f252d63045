//! The writes that are under way, and the configuration that they must know of: what a reload has to know of writes, and
//! writes of a reload.
//!
//! A write is planned by the rules of the moment in which it came. While it is under way, others may come into force that
//! say of it that it drops more. Both sides meet under one lock: a write that enters after a configuration was announced
//! holds what that says, too; of all that have entered before, the reload takes the holds in their place.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::Client;
use crate::coherence::{Outcome, StateKey};
use crate::config::Config;

/// Outlives every configuration.
pub struct Writes {
    /// Those that go on without their clients.
    pub tasks: TaskTracker,
    book: Mutex<Book>,
}

struct Book {
    /// Counts the configurations.
    generation: u64,
    latest: Arc<Config>,
    entered: u64,
    under_way: HashMap<u64, InFlight, RandomState>,
}

/// A write as a reload sees it.
#[derive(Clone)]
pub struct InFlight {
    pub client: Arc<Client>,
    /// What it has held, or is about to.
    pub states: Vec<StateKey>,
    end: Arc<End>,
}

/// How it ended, once it has.
#[derive(Default)]
struct End {
    outcome: OnceLock<Outcome>,
    told: Notify,
}

/// A write's own end of it. Dropped, it is over; nobody knows how, if it has not said so.
pub struct UnderWay {
    writes: Arc<Writes>,
    id: u64,
    end: Arc<End>,
}

impl Writes {
    pub fn new(config: &Config) -> Arc<Writes> {
        Arc::new(Writes {
            tasks: TaskTracker::new(),
            book: Mutex::new(Book {
                generation: 0,
                latest: Arc::new(config.clone()),
                entered: 0,
                under_way: HashMap::default(),
            }),
        })
    }

    /// A write begins that was planned by the configuration of `generation`. The latest that was announced, if that is
    /// another one.
    pub fn enter(
        self: &Arc<Self>,
        generation: u64,
        client: Arc<Client>,
        states: &[StateKey],
    ) -> (UnderWay, Option<Arc<Config>>) {
        let end = Arc::<End>::default();
        let mut book = self.book.lock();
        book.entered += 1;
        let id = book.entered;
        let write = InFlight {
            client,
            states: states.to_vec(),
            end: end.clone(),
        };
        book.under_way.insert(id, write);
        let newer = (book.generation != generation).then(|| book.latest.clone());
        drop(book);
        let writes = self.clone();
        let under_way = UnderWay { writes, id, end };
        (under_way, newer)
    }

    /// Another configuration will be in force. Its number, and the writes that do not know of it.
    pub fn announce(&self, config: &Config) -> (u64, Vec<InFlight>) {
        let mut book = self.book.lock();
        book.generation += 1;
        book.latest = Arc::new(config.clone());
        (book.generation, book.under_way.values().cloned().collect())
    }
}

impl InFlight {
    /// Waits for its end.
    pub async fn ended(self) -> Outcome {
        let mut told = pin!(self.end.told.notified());
        // Whatever is told from here on is heard.
        told.as_mut().enable();
        match self.end.outcome.get() {
            Some(outcome) => *outcome,
            None => {
                told.await;
                self.end
                    .outcome
                    .get()
                    .copied()
                    .unwrap_or(Outcome::Ambiguous)
            }
        }
    }
}

impl UnderWay {
    pub fn came_to(self, outcome: Outcome) {
        let _ = self.end.outcome.set(outcome);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.end.outcome.get_or_init(|| Outcome::Ambiguous);
        self.end.told.notify_waiters();
        self.writes.book.lock().under_way.remove(&self.id);
    }
}
