//! What the page and `larder top` show: totals as they are now, and what they are of. Whoever reads it twice sees rates.

use serde::Serialize;

use super::counting::{BOUNDS, Took};
use super::exposition::{STARTED, resident, state};
use super::{COUNTED, Command, routes};
use crate::clock;
use crate::proxy::{Proxy, Setup};
use crate::store::Health;

/// So many keys are named of those that are asked for most.
const HOTTEST: usize = 10;

#[derive(Debug, Serialize)]
pub struct Overview {
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub memory_bytes: Option<u64>,
    pub client_connections: usize,
    /// The bounds of every `took`, in seconds; one more bucket holds what took longer.
    pub bounds: Vec<f64>,
    pub routes: Vec<Route>,
    pub store: StoreNow,
    pub upstream: UpstreamNow,
    pub writes_in_flight: i64,
    pub purges_owed: usize,
    pub purges: Vec<(&'static str, u64)>,
    /// Where a route has `warm`: what is asked for most, by sampled look-ups.
    pub hottest: Vec<(String, u32)>,
}

#[derive(Debug, Serialize)]
pub struct Route {
    pub route: String,
    /// What the cache did, why, the class of status, how often.
    pub requests: Vec<(&'static str, &'static str, &'static str, u64)>,
    pub hits: u64,
    pub others: u64,
    pub hits_took: Times,
    pub others_took: Times,
}

#[derive(Debug, Serialize)]
pub struct Times {
    pub buckets: Vec<u64>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct StoreNow {
    pub kind: &'static str,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub lost: u64,
    pub failures: u64,
    /// Of look-ups in a shared store.
    pub took: Times,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryNow>,
}

#[derive(Debug, Serialize)]
pub struct MemoryNow {
    pub used_bytes: u64,
    pub limit_bytes: u64,
    pub copies: usize,
    /// Beside Redis: hits that they gave in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct UpstreamNow {
    pub in_flight: usize,
    pub queued: usize,
    pub most: usize,
    pub responses: Vec<(&'static str, u64)>,
    pub failures: Vec<(&'static str, u64)>,
    pub took: Times,
    /// Where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamStands>,
}

#[derive(Debug, Serialize)]
pub struct UpstreamStands {
    pub address: String,
    pub state: &'static str,
    pub in_flight: usize,
}

impl From<Took> for Times {
    fn from(took: Took) -> Self {
        let Took { buckets, seconds } = took;
        Times { buckets, seconds }
    }
}

pub fn overview(proxy: &Proxy) -> Overview {
    let setup = &proxy.setup();
    let by_route = routes().into_iter().map(|(route, counts)| {
        let (hits_took, others_took) = (counts.hits_took.now(), counts.others_took.now());
        let requests = counts.requests().into_iter();
        Route {
            route,
            requests: requests
                .map(|([cache, detail, class], count)| (cache, detail, class, count))
                .collect(),
            hits: hits_took.count(),
            others: others_took.count(),
            hits_took: hits_took.into(),
            others_took: others_took.into(),
        }
    });
    let hottest = setup.served.iter();
    let mut hottest: Vec<(String, u32)> = hottest
        .filter_map(|served| served.hottest.as_ref())
        .flat_map(|hottest| hottest.counted())
        .collect();
    hottest.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    hottest.truncate(HOTTEST);
    let purges = COUNTED.purges.totals().into_iter();
    Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: clock::now().since(*STARTED).as_secs(),
        memory_bytes: resident(),
        client_connections: proxy.connections.now().open,
        bounds: BOUNDS.iter().map(|nanos| *nanos as f64 / 1e9).collect(),
        routes: by_route.collect(),
        store: store(setup),
        upstream: upstream(setup),
        writes_in_flight: COUNTED.holds.now(),
        purges_owed: setup.coherence.owed(),
        purges: purges.map(|([cause], count)| (cause, count)).collect(),
        hottest,
    }
}

fn store(setup: &Setup) -> StoreNow {
    let (store, counted) = (setup.coherence.store(), &COUNTED.store);
    let health = store.health();
    let memory = store.in_memory().map(|memory| MemoryNow {
        used_bytes: memory.bytes,
        limit_bytes: setup.config.memory_size,
        copies: memory.entries,
        hits: setup.config.store.memory.map(|_| memory.hits),
    });
    StoreNow {
        kind: store.kind(),
        state: state(&health),
        lost: counted.lost.total(),
        failures: counted.commands.iter().map(|of| of.failed.total()).sum(),
        took: counted.commands[Command::LookUp as usize].took.now().into(),
        memory,
        detail: match health {
            Health::Up | Health::Settling => None,
            Health::Down(why) | Health::Refused(why) => Some(why),
        },
    }
}

fn upstream(setup: &Setup) -> UpstreamNow {
    let (load, counted) = (setup.upstream.load(), &COUNTED.upstream);
    let words = |totals: Vec<([&'static str; 1], u64)>| {
        let totals = totals.into_iter();
        totals.map(|([word], count)| (word, count)).collect()
    };
    UpstreamNow {
        in_flight: load.under_way,
        queued: load.waiting,
        most: setup.upstream.settings().max_connections,
        upstreams: match setup.upstream.standings() {
            one if one.len() < 2 => Vec::new(),
            several => several
                .into_iter()
                .map(|stands| UpstreamStands {
                    address: stands.address,
                    state: stands.standing.word(),
                    in_flight: stands.under_way,
                })
                .collect(),
        },
        responses: words(counted.answers.totals()),
        failures: words(counted.failures.totals()),
        took: counted.took.now().into(),
    }
}
