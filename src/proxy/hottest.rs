//! What of a route is asked for most, so that it is fetched anew after a purge before somebody has to wait for it
//! (`warm` on a route). Only what is shared by all who ask without a credential, or by everybody: nobody's credential is
//! used when they have not asked.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tracing::debug;

use super::present::{Asked, Presented};
use super::{Client, Setup, read, refresh};
use crate::access;
use crate::clock;
use crate::coherence::{Depends, LookUp, StateKey};
use crate::config::{Access, Config};
use crate::route::Captures;

/// One look-up in so many is counted.
const SAMPLE: u32 = 8;

/// Counted look-ups after which all counts are halved, so that what was hot once is forgotten.
const MEMORY: u32 = 4096;

/// Bytes of a target and fields that are kept. Of a request that has more, what it asks for is counted once one with less does.
const LONGEST: usize = 2048;

/// Fetched at once after a purge.
const AT_ONCE: usize = 4;

/// Between two rounds of fetches, however often is purged.
const PAUSE: Duration = Duration::from_millis(250);

/// The copies of one route by how often they are asked for.
pub struct Hottest {
    /// How many are fetched anew.
    most: usize,
    counted: Arc<Mutex<Counted>>,
    rounds: Mutex<Rounds>,
}

#[derive(Default)]
struct Counted {
    by_copy: HashMap<String, Hot>,
    since: u32,
}

#[derive(Clone)]
struct Hot {
    count: u32,
    captures: Captures,
    client: Arc<Client>,
    depends: Depends,
}

/// What is being fetched anew of a route.
#[derive(Debug, Default)]
enum Rounds {
    #[default]
    Idle,
    /// And what has been purged since this round began.
    Running { purged: HashSet<StateKey> },
}

impl Hottest {
    pub fn new(most: usize) -> Hottest {
        Hottest {
            most,
            counted: Arc::default(),
            rounds: Mutex::default(),
        }
    }

    /// Under another configuration: what was counted goes on, and what is being fetched ends.
    pub fn under_another(&self) -> Hottest {
        Hottest {
            most: self.most,
            counted: self.counted.clone(),
            rounds: Mutex::default(),
        }
    }

    /// Counts a look-up, one in so many.
    pub fn count(
        &self,
        config: &Config,
        access: &Access,
        asked: &Asked,
        captures: &Captures,
        client: &Client,
    ) {
        thread_local!(static TURN: Cell<u32> = const { Cell::new(0) });
        let turn = TURN.get().wrapping_add(1);
        TURN.set(turn);
        let is_own = *access != Access::Public && access::has_credential(config, &client.fields);
        if !turn.is_multiple_of(SAMPLE) || is_own {
            return;
        }
        let mut counted = self.counted.lock();
        counted.since += 1;
        if counted.since >= MEMORY || counted.by_copy.len() >= 64 * self.most {
            counted.since = 0;
            counted.by_copy.retain(|_, hot| {
                hot.count /= 2;
                hot.count > 0
            });
        }
        if let Some(hot) = counted.by_copy.get_mut(&asked.copy) {
            hot.count += 1;
            return;
        }
        let Some(client) = without_credentials(config, client) else {
            return;
        };
        let hot = Hot {
            count: 1,
            captures: captures.clone(),
            client: Arc::new(client),
            depends: asked.depends.clone(),
        };
        counted.by_copy.insert(asked.copy.clone(), hot);
    }

    /// Every copy that is counted, and how often it was, in samples.
    pub fn counted(&self) -> Vec<(String, u32)> {
        let counted = self.counted.lock();
        let hot = counted.by_copy.iter();
        hot.map(|(copy, hot)| (copy.clone(), hot.count)).collect()
    }

    /// Of what hangs on any of these states, that which is asked for most.
    fn of(&self, states: &HashSet<StateKey>) -> Vec<Hot> {
        let counted = self.counted.lock();
        let hot = counted.by_copy.values();
        let mut hot: Vec<&Hot> = hot.filter(|hot| hot.hangs_on(states)).collect();
        hot.sort_by_key(|hot| std::cmp::Reverse(hot.count));
        hot.into_iter().take(self.most).cloned().collect()
    }

    fn has_any_of(&self, states: &HashSet<StateKey>) -> bool {
        let counted = self.counted.lock();
        counted.by_copy.values().any(|hot| hot.hangs_on(states))
    }
}

impl Hot {
    fn hangs_on(&self, states: &HashSet<StateKey>) -> bool {
        let mut own = self.depends.own().iter();
        own.any(|state| states.contains(state))
    }
}

/// One that can be kept for long: without credentials, and without the buffers in which it came. `None`: it takes too much.
fn without_credentials(config: &Config, client: &Client) -> Option<Client> {
    let is_one = |name: &HeaderName| {
        [header::AUTHORIZATION, header::COOKIE].contains(name)
            || config.credential_headers.contains(name)
    };
    let mut fields = HeaderMap::new();
    let mut room = LONGEST.checked_sub(client.target.length())?;
    for (name, value) in client.fields.iter().filter(|(name, _)| !is_one(name)) {
        room = room.checked_sub(name.as_str().len() + value.len())?;
        fields.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(Client {
        target: client.target.compact()?,
        fields: fields.into(),
        interim: None,
        notes: None,
        head: None,
        ..client.clone()
    })
}

/// These states have been purged, through this instance: what was asked for most of what hung on them is fetched anew.
pub fn purged(setup: &Arc<Setup>, states: &[StateKey]) {
    // Mostly no route is `warm`.
    if setup.served.iter().all(|served| served.hottest.is_none()) {
        return;
    }
    let states: HashSet<StateKey> = states.iter().cloned().collect();
    for (route, served) in setup.served.iter().enumerate() {
        let Some(hottest) = &served.hottest else {
            continue;
        };
        if !hottest.has_any_of(&states) {
            continue;
        }
        let mut now = hottest.rounds.lock();
        match &mut *now {
            Rounds::Running { purged } => purged.extend(states.iter().cloned()),
            Rounds::Idle => {
                *now = Rounds::Running {
                    purged: HashSet::new(),
                };
                tokio::spawn(rounds(setup.clone(), route, states.clone()));
            }
        }
    }
}

/// Fetches until nothing has been purged meanwhile.
async fn rounds(setup: Arc<Setup>, route: usize, mut states: HashSet<StateKey>) {
    let Some(hottest) = &setup.served[route].hottest else {
        return;
    };
    let lag = setup.config.upstream.lag;
    loop {
        if !lag.is_zero() {
            // Until then what is fetched is not kept.
            tokio::time::sleep(lag + PAUSE).await;
        }
        let hot = hottest.of(&states);
        let fetched = stream::iter(hot)
            .map(|hot| fetch(&setup, route, hot))
            .buffer_unordered(AT_ONCE)
            .filter(|fetched| std::future::ready(*fetched))
            .count()
            .await;
        debug!(
            route = setup.served[route].route.path.as_str(),
            fetched, "warmed after a purge"
        );
        tokio::time::sleep(PAUSE).await;
        let mut now = hottest.rounds.lock();
        states = match &mut *now {
            Rounds::Running { purged } if !purged.is_empty() => std::mem::take(purged),
            _ => {
                *now = Rounds::Idle;
                return;
            }
        };
    }
}

/// Whether there is something new.
async fn fetch(setup: &Arc<Setup>, route: usize, hot: Hot) -> bool {
    let served = &setup.served[route];
    let Presented::Asked(asked) = read::present(setup, served, &hot.captures, &hot.client) else {
        return false;
    };
    let looked = setup
        .coherence
        .look_up(&asked.copy, &asked.depends, &asked.origin);
    if let LookUp::Valid(stored) = looked.await
        && stored.is_fresh(clock::now())
    {
        return false;
    }
    let Some(duty) = setup.refreshes.begin(&asked.copy, clock::stopwatch()) else {
        return false;
    };
    let fetched = refresh::run(setup, route, hot.captures, hot.client, asked, None).await;
    if fetched {
        duty.done();
    }
    fetched
}
