//! From one configuration to the next, while requests are under way. What is kept stays, and what is known of it moves
//! over; coherence holds across the change.
//!
//! * A copy is found under the rules it was kept by or not at all: its key holds whatever its fill carried (credential,
//!   query, fields), its states whose word admits to it, its mark which paths it is of. So nothing is to be done about it.
//! * What writes did not drop so far and do from now on may be of the past already, and is dropped once. So is what was kept
//!   with a cookie or a credential in its fields that is not to be kept any more.
//! * A write that is under way was planned by the rules of before. What it drops by the new ones and not by its own is held
//!   before they are in force, until that write is over.
//!
//! The holds are ordinary ones, so this works as a write does while the store is away, and for other instances, too.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::future::join_all;

use super::hottest::Hottest;
use super::plan::{self, Plan, Word};
use super::rate::Rate;
use super::sample::Sample;
use super::under_way::InFlight;
use super::{Client, Proxy, Served, Setup, admit};
use crate::caching::key::HashingSecret;
use crate::coherence::{Coherence, Outcome, StateKey, WithoutStore, Writing, hold_for};
use crate::config::{Config, Policy, Route};
use crate::proxy::cap::Cap;
use crate::proxy::known;
use crate::purges::{self, Cause};
use crate::route::FamilyPattern;
use crate::store::Lifetimes;
use crate::upstream::Upstream;

/// What became of the copies that there were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedOver {
    /// The states of what was dropped.
    pub dropped: Vec<StateKey>,
    /// Writes under way that now hold more than they did.
    pub held_for: usize,
}

impl Proxy {
    /// Puts another configuration in force. One at a time, which is the caller's to see to.
    pub async fn turn_over(&self, config: Config) -> TurnedOver {
        let old = self.setup();
        admit::look_at_keys(&old.served).await;
        let store = old.coherence.store();
        // Before anything is kept for longer, or under other states.
        let mut states = plan::every_state(&config);
        states.extend(plan::every_state(&old.config));
        store.adopt(Lifetimes::of(&config), &states).await;
        let secret = store.secret();
        let (generation, under_way) = old.writes.announce(&config);
        let dropped = newly_dropped(&old.config, &config);
        let (more, writes) = drop_more(&config, secret.as_ref(), under_way);
        // A write under way may take as long as it could when it began.
        let longest = old.config.upstream.total.max(config.upstream.total);
        let lag = config.upstream.lag;
        let coherence = old.coherence.holding(hold_for(longest), lag);
        let new = Setup::after(&old, config, generation);
        let now_dropped = hold(&coherence, &dropped).await;
        let later_dropped = hold(&coherence, &more).await;
        let new = Arc::new(new);
        self.setup.store(new.clone());
        self.turned.send_replace(generation);
        if let Some(writing) = now_dropped {
            new.coherence.finish(writing, Outcome::Changed).await;
        }
        let held_for = writes.len();
        if let Some(writing) = later_dropped {
            let tasks = new.writes.tasks.clone();
            tasks.spawn(async move {
                let ends = join_all(writes.into_iter().map(InFlight::ended)).await;
                let outcome = match ends.contains(&Outcome::Ambiguous) {
                    true => Outcome::Ambiguous,
                    false => Outcome::Changed,
                };
                new.coherence.finish(writing, outcome).await;
            });
        }
        if !dropped.is_empty() {
            purges::by_hand(Cause::Reload, &dropped);
        }
        TurnedOver { dropped, held_for }
    }
}

/// As a write does that goes on without the store.
async fn hold(coherence: &Coherence, states: &[StateKey]) -> Option<Writing> {
    if states.is_empty() {
        return None;
    }
    let held = coherence.begin(states.to_vec(), WithoutStore::Forward);
    held.await.ok()
}

/// What writes under way drop by `config` and not by the rules they were planned by, and which of them do.
fn drop_more(
    config: &Config,
    secret: Option<&HashingSecret>,
    under_way: Vec<InFlight>,
) -> (Vec<StateKey>, Vec<InFlight>) {
    let mut states = Vec::new();
    let mut writes = Vec::new();
    for write in under_way {
        let Some((mut more, _)) = dropped_by(config, secret, &write.client) else {
            continue;
        };
        more.retain(|state| !write.states.contains(state));
        if !more.is_empty() {
            states.extend(more);
            writes.push(write);
        }
    }
    states.sort();
    states.dedup();
    (states, writes)
}

/// What this write drops by these rules, if it drops anything.
pub fn dropped_by(
    config: &Config,
    secret: Option<&HashingSecret>,
    client: &Client,
) -> Option<(Vec<StateKey>, Word)> {
    let plan = plan::plan(config, &client.method, &client.target, false);
    match admit::with_credential_by(config, secret, client, plan) {
        Plan::Write { states, word } => Some((states, word)),
        Plan::Read { .. } | Plan::Pass { .. } => None,
    }
}

/// The states of what writes may drop by `new` and did not by `old`: what a rule names that is added, and a route that is.
/// A route that goes leaves its paths to those behind it, and a rule that goes, to any. And of what was kept for its fields
/// by `old` alone.
pub fn newly_dropped(old: &Config, new: &Config) -> Vec<StateKey> {
    let rules = changed(&old.purge, &new.purge, |a, b| a == b);
    let routes = changed(&old.routes, &new.routes, same_route);
    let (Some(rules), Some(routes)) = (rules, routes) else {
        return plan::every_state(new);
    };
    if rules.gone.is_some() {
        return plan::every_state(new);
    }
    let behind = routes.gone.unwrap_or(new.routes.len());
    let left_to = new.routes[behind..].iter();
    let told_more = new.routes.iter();
    let told_more = told_more.filter(|route| has_told_more(old, new, route));
    let routes = routes.added.into_iter().chain(left_to).chain(told_more);
    let mut states: Vec<StateKey> = routes.filter_map(plan::whole_state).collect();
    let keys = rules.added.into_iter().flat_map(|rule| &rule.keys);
    states.extend(keys.filter_map(|key| match key {
        FamilyPattern::Family(template) => plan::state_of_all(template),
        FamilyPattern::Group(_) => plan::state_of(key, &Default::default()),
    }));
    states.sort();
    states.dedup();
    states
}

fn same_route(a: &Route, b: &Route) -> bool {
    a.path == b.path && a.key == b.key && a.is_by_http() == b.is_by_http()
}

/// Whether this route has kept, and given to everybody, fields with which nothing is kept any more.
fn has_told_more(old: &Config, new: &Config, route: &Route) -> bool {
    let mut before = old.routes.iter().filter(|was| same_route(was, route));
    before.any(|was| match (&was.policy, &route.policy) {
        (Policy::Http(was), Policy::Http(is)) => was.set_cookie && !is.set_cookie,
        _ => {
            let mut fields = new.credential_headers.iter();
            fields.any(|field| !old.credential_headers.contains(field))
        }
    })
}

/// What is another in a list in which the first that matches counts.
struct Changed<'n, T> {
    added: Vec<&'n T>,
    /// From where on in the new list those stand that stood behind something which is gone.
    gone: Option<usize>,
}

/// `None`: what is kept stands in another order.
fn changed<'n, T>(
    old: &[T],
    new: &'n [T],
    same: impl Fn(&T, &T) -> bool,
) -> Option<Changed<'n, T>> {
    let (mut next, mut kept, mut gone) = (0, Vec::new(), None);
    for one in old {
        match new.iter().position(|new| same(one, new)) {
            Some(at) if at < next => return None,
            Some(at) => {
                kept.push(at);
                next = at + 1;
            }
            None => gone = gone.or(Some(next)),
        }
    }
    let added = (0..new.len()).filter(|at| !kept.contains(at));
    let added = added.map(|at| &new[at]).collect();
    Some(Changed { added, gone })
}

impl Setup {
    /// The next configuration at work. What it shares with the last goes on.
    fn after(old: &Setup, config: Config, generation: u64) -> Setup {
        let was = &old.config;
        let same_upstream = was.upstream == config.upstream;
        // Whoever joins a fetch must have asked for the very same.
        let same_reads = same_upstream
            && was.routes == config.routes
            && was.credential_headers == config.credential_headers
            && was.ignore_cookies == config.ignore_cookies
            && was.canonical_origin == config.canonical_origin;
        let upstream = match same_upstream {
            true => old.upstream.clone(),
            false => Upstream::new(config.upstream.clone()),
        };
        let coherence = old
            .coherence
            .holding(hold_for(config.upstream.total), config.upstream.lag);
        let served = config.routes.iter().map(|route| {
            let before = old.served.iter().find(|served| served.route == *route);
            let mut served = Served::new(&config, route);
            if let Some(before) = before {
                served.varied.store(before.varied.load_full());
                served.unkeyed.store(before.unkeyed.load_full());
                // Who is counted was stripped of what was a credential then.
                if was.credential_headers == config.credential_headers {
                    let hottest = before.hottest.as_deref().map(Hottest::under_another);
                    served.hottest = hottest.map(Arc::new);
                }
            }
            served
        });
        let served = admit::with_keys(served.collect(), &old.served);
        let kept = |same| if same { Some(old) } else { None };
        let (reads, same_cap) = (kept(same_reads), was.limits.copies == config.limits.copies);
        Setup {
            served,
            upstream,
            coherence,
            generation,
            number: known::Number::default(),
            flights: reads.map(|old| old.flights.clone()).unwrap_or_default(),
            refreshes: reads.map(|old| old.refreshes.clone()).unwrap_or_default(),
            in_flight: reads.map(|old| old.in_flight.clone()).unwrap_or_default(),
            groups: reads.map(|old| old.groups.clone()).unwrap_or_default(),
            verdicts: reads.map(|old| old.verdicts.clone()).unwrap_or_default(),
            cap: match same_cap {
                true => old.cap.clone(),
                false => Arc::new(Cap::new(config.limits.copies)),
            },
            // Who has asked too much has done so under the same rate, too.
            rate: match was.limits.rate == config.limits.rate {
                true => old.rate.clone(),
                false => config.limits.rate.clone().map(Rate::new).map(Arc::new),
            },
            turnstile: old.turnstile.clone(),
            encoder: old.encoder.clone(),
            writes: old.writes.clone(),
            sample: config.shadow.map(Sample::new),
            tunnels: old.tunnels.under(config.websocket.clone()),
            said_untrusted_https: AtomicBool::new(false),
            is_counting: config.admin.is_some(),
            unrouted: old.unrouted.clone(),
            config,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(routes: &[&str], rules: &[(&str, &str)]) -> Config {
        let mut yaml = "upstream: http://127.0.0.1:1\nroutes:\n".to_owned();
        for name in routes {
            yaml += &format!("  - {{path: \"/{name}/\", key: \"{name}\"}}\n");
        }
        yaml += "purge:\n";
        for (path, key) in rules {
            yaml += &format!("  - {{methods: POST, path: \"/{path}/\", keys: [\"{key}\"]}}\n");
        }
        let loaded = crate::config::file::parse("t", &yaml, &|_: &str| None);
        loaded.unwrap_or_else(|why| panic!("{why}")).config
    }

    fn dropped(old: &Config, new: &Config) -> Vec<String> {
        let states = newly_dropped(old, new).into_iter();
        states
            .map(|state| state.as_str().replace("~state", ""))
            .collect()
    }

    #[test]
    fn what_is_the_same_drops_nothing() {
        let one = config(&["a", "b"], &[("a", "a"), ("x", "b")]);
        assert!(dropped(&one, &one).is_empty());
    }

    #[test]
    fn what_is_added_drops_what_it_names_and_nothing_else() {
        let old = config(&["a", "b", "c"], &[("a", "a")]);
        let rule = config(&["a", "b", "c"], &[("x", "b"), ("a", "a")]);
        assert_eq!(dropped(&old, &rule), ["b"]);
        let route = config(&["a", "b", "d", "c"], &[("a", "a")]);
        assert_eq!(dropped(&old, &route), ["d"]);
    }

    #[test]
    fn a_route_that_goes_drops_those_behind_it_and_a_rule_that_goes_everything() {
        let old = config(&["a", "b", "c"], &[("a", "a"), ("x", "a")]);
        let route = config(&["a", "c"], &[("a", "a"), ("x", "a")]);
        assert_eq!(dropped(&old, &route), ["c"]);
        let last = config(&["a", "b"], &[("a", "a"), ("x", "a")]);
        assert!(dropped(&old, &last).is_empty());
        let rule = config(&["a", "b", "c"], &[("a", "a")]);
        assert_eq!(dropped(&old, &rule), ["a", "b", "c"]);
    }

    #[test]
    fn another_order_drops_everything() {
        let old = config(&["a", "b"], &[("a", "a"), ("x", "b")]);
        let routes = config(&["b", "a"], &[("a", "a"), ("x", "b")]);
        assert_eq!(dropped(&old, &routes), ["a", "b"]);
        let rules = config(&["a", "b"], &[("x", "b"), ("a", "a")]);
        assert_eq!(dropped(&old, &rules), ["a", "b"]);
    }
}
