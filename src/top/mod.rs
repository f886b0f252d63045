//! What `larder top` shows: two looks at an instance's totals, and what came between them. Pure; the command line asks and
//! draws, `page` writes it for people.

pub mod page;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// As `GET /overview` tells it. What an older instance does not tell is as if nothing had happened.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Totals {
    version: String,
    uptime_seconds: u64,
    memory_bytes: Option<u64>,
    client_connections: usize,
    /// The bounds of every `took`, in seconds.
    bounds: Vec<f64>,
    routes: Vec<RouteTotals>,
    store: StoreTotals,
    upstream: UpstreamTotals,
    writes_in_flight: i64,
    purges_owed: usize,
    purges: Vec<(String, u64)>,
    hottest: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RouteTotals {
    route: String,
    /// What the cache did, why, the class of status, how often.
    requests: Vec<(String, String, String, u64)>,
    hits_took: Took,
    others_took: Took,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Took {
    buckets: Vec<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StoreTotals {
    kind: String,
    state: String,
    detail: Option<String>,
    lost: u64,
    failures: u64,
    took: Took,
    memory: Option<Memory>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Memory {
    pub used_bytes: u64,
    pub limit_bytes: u64,
    pub copies: usize,
    /// Beside Redis: hits that they gave in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct UpstreamTotals {
    in_flight: usize,
    queued: usize,
    most: usize,
    responses: Vec<(String, u64)>,
    failures: Vec<(String, u64)>,
    took: Took,
    upstreams: Vec<Stands>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Stands {
    pub address: String,
    pub state: String,
    pub in_flight: usize,
}

/// As `GET /purges` tells them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LastPurges {
    pub purges: Vec<Purge>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Purge {
    pub at: String,
    pub cause: String,
    pub states: Vec<String>,
    pub count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Write {
    pub method: String,
    pub path: String,
}

/// What came in so many seconds, and how things stand at their end.
#[derive(Debug, Serialize)]
pub struct Screen {
    pub seconds: f64,
    pub version: String,
    pub uptime_seconds: u64,
    pub memory_bytes: Option<u64>,
    pub client_connections: usize,
    pub requests_per_second: f64,
    /// Of reads under a route; null where there were none.
    pub hit_ratio: Option<f64>,
    pub hits: Rate,
    pub others: Rate,
    pub store: Store,
    pub upstream: Upstream,
    pub writes_in_flight: i64,
    pub purges_owed: usize,
    pub purges_per_second: f64,
    pub routes: Vec<Route>,
    pub hottest: Vec<Hot>,
    pub purges: Vec<Purge>,
}

/// How often, and how long it took: so many were done within so many seconds. Null where nothing came, or not so soon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    pub per_second: f64,
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Store {
    pub kind: String,
    pub state: String,
    pub detail: Option<String>,
    pub look_ups: Rate,
    pub failures: u64,
    pub lost: u64,
    pub memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
pub struct Upstream {
    pub in_flight: usize,
    pub queued: usize,
    pub most: usize,
    pub requests: Rate,
    pub responses_per_second: BTreeMap<String, f64>,
    pub failures_per_second: BTreeMap<String, f64>,
    pub upstreams: Vec<Stands>,
}

#[derive(Debug, Serialize)]
pub struct Route {
    pub route: String,
    pub hit_ratio: Option<f64>,
    pub hits: Rate,
    pub others: Rate,
    /// Why it was no hit, the most frequent first.
    pub reasons: Vec<Reason>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Reason {
    pub reason: String,
    pub per_second: f64,
}

#[derive(Debug, Serialize)]
pub struct Hot {
    pub key: String,
    pub count: u64,
}

/// The route's name of requests under none.
const NONE: &str = "-";

/// What came between two looks. An instance that was started anew in between began at nothing.
pub fn between(then: &Totals, now: &Totals, apart: Duration, purges: LastPurges) -> Screen {
    let nothing = Totals::default();
    let then = match now.uptime_seconds < then.uptime_seconds {
        true => &nothing,
        false => then,
    };
    let seconds = apart.as_secs_f64().max(f64::EPSILON);
    let since = Since {
        seconds,
        bounds: &now.bounds,
    };
    let (mut hits, mut others) = (Took::default(), Took::default());
    let (mut reads, mut read_hits) = (0, 0);
    let mut routes: Vec<Route> = Vec::new();
    for route in &now.routes {
        let before = then.routes.iter().find(|one| one.route == route.route);
        let unknown = RouteTotals::default();
        let before = before.unwrap_or(&unknown);
        let hit = route.hits_took.less(&before.hits_took);
        let other = route.others_took.less(&before.others_took);
        if route.route != NONE {
            reads += hit.count() + other.count();
            read_hits += hit.count();
        }
        hits.add(&hit);
        others.add(&other);
        routes.push(Route {
            hit_ratio: part(hit.count(), hit.count() + other.count()),
            hits: since.rate(&hit),
            others: since.rate(&other),
            reasons: since.reasons(&before.requests, &route.requests),
            route: route.route.clone(),
        });
    }
    let busy = |route: &Route| route.hits.per_second + route.others.per_second;
    routes.sort_by(|one, other| busy(other).total_cmp(&busy(one)));
    let (store, upstream) = (&now.store, &now.upstream);
    let (hits_rate, others_rate) = (since.rate(&hits), since.rate(&others));
    Screen {
        seconds,
        version: now.version.clone(),
        uptime_seconds: now.uptime_seconds,
        memory_bytes: now.memory_bytes,
        client_connections: now.client_connections,
        requests_per_second: hits_rate.per_second + others_rate.per_second,
        hit_ratio: part(read_hits, reads),
        hits: hits_rate,
        others: others_rate,
        store: Store {
            kind: store.kind.clone(),
            state: store.state.clone(),
            detail: store.detail.clone(),
            look_ups: since.rate(&store.took.less(&then.store.took)),
            failures: store.failures,
            lost: store.lost,
            memory: store.memory.clone(),
        },
        upstream: Upstream {
            in_flight: upstream.in_flight,
            queued: upstream.queued,
            most: upstream.most,
            requests: since.rate(&upstream.took.less(&then.upstream.took)),
            responses_per_second: since.words(&then.upstream.responses, &upstream.responses),
            failures_per_second: since.words(&then.upstream.failures, &upstream.failures),
            upstreams: upstream.upstreams.clone(),
        },
        writes_in_flight: now.writes_in_flight,
        purges_owed: now.purges_owed,
        // An empty sum is -0.
        purges_per_second: 0.0 + since.words(&then.purges, &now.purges).values().sum::<f64>(),
        routes,
        hottest: { now.hottest.iter() }
            .map(|(key, count)| Hot {
                key: key.clone(),
                count: *count,
            })
            .collect(),
        purges: purges.purges,
    }
}

fn part(some: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| some as f64 / all as f64)
}

struct Since<'a> {
    seconds: f64,
    bounds: &'a [f64],
}

impl Since<'_> {
    fn rate(&self, took: &Took) -> Rate {
        Rate {
            per_second: took.count() as f64 / self.seconds,
            p50_seconds: took.within(0.5, self.bounds),
            p99_seconds: took.within(0.99, self.bounds),
        }
    }

    /// So often a second, of what came at all.
    fn words(&self, then: &[(String, u64)], now: &[(String, u64)]) -> BTreeMap<String, f64> {
        let mut rates = BTreeMap::new();
        for (word, count) in now {
            let before = then.iter().find(|(one, _)| one == word);
            let came = count.saturating_sub(before.map_or(0, |(_, count)| *count));
            if came > 0 {
                *rates.entry(word.clone()).or_default() += came as f64 / self.seconds;
            }
        }
        rates
    }

    fn reasons(
        &self,
        then: &[(String, String, String, u64)],
        now: &[(String, String, String, u64)],
    ) -> Vec<Reason> {
        let told = |requests: &[(String, String, String, u64)]| {
            let mut told = BTreeMap::<String, u64>::new();
            for (cache, detail, _, count) in requests {
                if cache != "hit" {
                    let reason = if detail == NONE || detail.is_empty() {
                        cache
                    } else {
                        detail
                    };
                    *told.entry(reason.clone()).or_default() += count;
                }
            }
            told.into_iter().collect::<Vec<_>>()
        };
        let rates = self.words(&told(then), &told(now));
        let mut reasons: Vec<Reason> = { rates.into_iter() }
            .map(|(reason, per_second)| Reason { reason, per_second })
            .collect();
        reasons.sort_by(|one, other| other.per_second.total_cmp(&one.per_second));
        reasons
    }
}

impl Took {
    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn less(&self, then: &Took) -> Took {
        let before = then.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = self.buckets.iter().zip(before);
        Took {
            buckets: buckets
                .map(|(now, then)| now.saturating_sub(then))
                .collect(),
        }
    }

    fn add(&mut self, other: &Took) {
        let length = self.buckets.len().max(other.buckets.len());
        self.buckets.resize(length, 0);
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += more;
        }
    }

    /// Within how many seconds that part was done: the bound of the bucket in which it falls.
    fn within(&self, part: f64, bounds: &[f64]) -> Option<f64> {
        let wanted = self.count() as f64 * part;
        let mut seen = 0;
        let found = self.buckets.iter().zip(bounds).find(|(count, _)| {
            seen += **count;
            seen as f64 >= wanted && seen > 0
        });
        found.map(|(_, bound)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn totals(uptime: u64, hits: [u64; 3], others: [u64; 3]) -> Totals {
        let told = json!({
            "uptime_seconds": uptime,
            "bounds": [0.001, 0.01],
            "routes": [
                {"route": "/api/users/", "requests": [["hit", "-", "2xx", 1], ["miss", "absent", "2xx", others[0]], ["miss", "purged", "2xx", others[1]]],
                 "hits_took": {"buckets": hits}, "others_took": {"buckets": others}},
                {"route": "-", "others_took": {"buckets": [uptime, 0, 0]}},
            ],
        });
        serde_json::from_value(told).expect("totals")
    }

    fn two(then: Totals, now: Totals) -> Screen {
        between(&then, &now, Duration::from_secs(2), LastPurges::default())
    }

    #[test]
    fn rates_are_of_what_came_between_two_looks() {
        let screen = two(
            totals(10, [5, 0, 0], [1, 1, 0]),
            totals(12, [95, 4, 1], [4, 3, 0]),
        );
        // 95 hits and 5 others, and 2 under no route, in two seconds.
        assert_eq!(screen.requests_per_second, 51.0);
        assert_eq!(screen.hit_ratio, Some(0.95));
        let route = &screen.routes[0];
        assert_eq!(route.hits.per_second, 47.5);
        assert_eq!(route.hits.p50_seconds, Some(0.001));
        assert_eq!(route.reasons[0].reason, "absent");
        assert_eq!(route.reasons[0].per_second, 1.5);
    }

    #[test]
    fn what_took_longer_than_all_bounds_has_none() {
        let screen = two(totals(10, [0; 3], [0; 3]), totals(12, [50, 40, 10], [0; 3]));
        assert_eq!(screen.hits.p50_seconds, Some(0.001));
        assert_eq!(screen.hits.p99_seconds, None);
        assert_eq!(screen.routes[0].others.p50_seconds, None);
    }

    #[test]
    fn an_instance_that_was_started_anew_began_at_nothing() {
        let screen = two(
            totals(1000, [500, 0, 0], [0; 3]),
            totals(2, [6, 0, 0], [0; 3]),
        );
        assert_eq!(screen.hits.per_second, 3.0);
    }

    #[test]
    fn where_nothing_came_there_is_no_ratio() {
        let same = || totals(10, [5, 0, 0], [1, 0, 0]);
        assert_eq!(two(same(), same()).hit_ratio, None);
        // And an instance that tells nothing is no reason to fail.
        let nothing = two(Totals::default(), Totals::default());
        assert_eq!(nothing.requests_per_second, 0.0);
        assert!(nothing.purges_per_second.is_sign_positive());
    }
}
