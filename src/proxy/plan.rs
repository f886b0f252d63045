//! Which of the operator's rules a request falls under. Pure.

use std::cell::LazyCell;

use http::Method;
use smallvec::SmallVec;

use crate::caching::cache_status::{Forward, Reason};
use crate::caching::key::{admission_state, family_state, group_state, token_state};
use crate::caching::stored::Mark;
use crate::coherence::{Depends, StateKey, States};
use crate::config::{Access, Config, PurgeRule, Route};
use crate::message::target::TargetUri;
use crate::route::{
    Captures, Decoded, FamilyPattern, KeyTemplate, first_matches, is_plain, loose_matches,
};

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Look up, or fetch and store, under this route (its place in the file).
    Read { route: usize, captures: Captures },
    /// Forward, and drop what hangs on these states.
    Write { states: Vec<StateKey>, word: Word },
    /// Forward, and nothing else.
    Pass {
        why: Forward,
        detail: Option<Reason>,
    },
}

/// By whose word a write drops what it drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub by: By,
    /// The rules that name it, by their places in the file; none: the path is a route's own.
    pub rules: SmallVec<[u16; 4]>,
}

/// Which answers to a write drop anything, and what these may name besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The operator's rules, or a route with a `ttl`: all but plain refusals. They alone say which targets.
    Operator,
    /// RFC 9111 §4.4 alone: successes and redirections.
    Http,
    /// No rule or route names the write, or beside the API's own word only one that reads its path loosely: what is dropped is dropped
    /// as by a rule, and of what the answer names whatever the API's own word keeps.
    Nobody,
}

impl Word {
    pub fn nobodys() -> Word {
        Word {
            by: By::Nobody,
            rules: SmallVec::new(),
        }
    }
}

pub fn plan(config: &Config, method: &Method, target: &TargetUri, has_content: bool) -> Plan {
    match *method {
        Method::GET | Method::HEAD => read(config, target, has_content),
        Method::OPTIONS => Plan::Pass {
            why: Forward::Method,
            detail: None,
        },
        _ => write(config, method, target),
    }
}

fn read(config: &Config, target: &TargetUri, has_content: bool) -> Plan {
    let bypass = |reason| Plan::Pass {
        why: Forward::Bypass,
        detail: Some(reason),
    };
    match claim(config, target.path()) {
        Claim::Canonical { .. } if has_content => bypass(Reason::HasContent),
        Claim::Canonical { route, captures } => Plan::Read { route, captures },
        // To the origin's policy a target is what it is, to the letter.
        Claim::OtherSpelling { route, captures } if config.routes[route].is_by_http() => {
            match has_content {
                true => bypass(Reason::HasContent),
                false => Plan::Read { route, captures },
            }
        }
        Claim::OtherSpelling { .. } => bypass(Reason::Spelling),
        Claim::Nobodys => bypass(Reason::NoRoute),
    }
}

/// Whose path it is: the first route that can read it.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    Canonical {
        route: usize,
        captures: Captures,
    },
    /// In another spelling the path is that route's all the same, so that no later one may claim it.
    OtherSpelling {
        route: usize,
        captures: Captures,
    },
    Nobodys,
}

pub fn claim(config: &Config, path: &str) -> Claim {
    // What it may be read as otherwise; asked for when the first route does not claim it as it stands.
    let is_plain = LazyCell::new(|| is_plain(path));
    let other = LazyCell::new(|| Decoded::of(path));
    for (route, rule) in config.routes.iter().enumerate() {
        if let Some(captures) = rule.path.match_canonical(path) {
            return Claim::Canonical { route, captures };
        }
        if *is_plain && !rule.path.reads_plain_paths_otherwise() {
            continue;
        }
        if let Some(captures) = rule.path.match_decoded(&other) {
            return Claim::OtherSpelling { route, captures };
        }
    }
    Claim::Nobodys
}

fn write(config: &Config, method: &Method, target: &TargetUri) -> Plan {
    let drops = drops(config, method, &Decoded::of(target.path()));
    let Drops {
        states, rules, by, ..
    } = drops;
    let place = |named: &PurgeRule| {
        let place = config
            .purge
            .iter()
            .position(|rule| std::ptr::eq(rule, named))?;
        u16::try_from(place).ok()
    };
    let rules = once(&rules).filter_map(place).collect();
    match states.is_empty() {
        true => Plan::Pass {
            why: Forward::Method,
            detail: None,
        },
        false => Plan::Write {
            states,
            word: Word { by, rules },
        },
    }
}

/// What a write drops, and by whose word.
#[derive(Debug)]
pub struct Drops<'c> {
    pub rules: SmallVec<[(&'c PurgeRule, Captures); 2]>,
    /// Where no rule names it: the routes whose path it is.
    pub routes: SmallVec<[(&'c Route, Captures); 2]>,
    pub states: Vec<StateKey>,
    pub by: By,
}

pub fn drops<'c>(config: &'c Config, method: &Method, path: &Decoded) -> Drops<'c> {
    // Django takes `patch` for PATCH.
    let is_method = |named: &Method| named.as_str().eq_ignore_ascii_case(method.as_str());
    let named = |rule: &'c PurgeRule| rule.methods.iter().any(is_method).then_some(&rule.path);
    let mut rules = first_matches(&config.purge, named, path);
    let mut routes = SmallVec::new();
    if rules.is_empty() {
        // RFC 9111 §4.4: a write to what a route keeps drops that, whether or not a rule says so.
        routes = first_matches(&config.routes, |route| Some(&route.path), path);
    }
    let is_by_http = |(route, _): &(&Route, _)| route.is_by_http();
    let to_the_letter = match routes.is_empty() {
        true => rules.first().map(|_| By::Operator),
        false if routes.iter().all(is_by_http) => Some(By::Http),
        false => Some(By::Operator),
    };
    let mut states: Vec<StateKey> = Vec::new();
    for (rule, captures) in &rules {
        states.extend(states_of(rule, captures));
    }
    for (route, captures) in &routes {
        states.extend(own_state(route, captures));
    }
    let known = states.len();
    // What another server would take the path for counts where it drops more.
    for (rule, captures) in loose_matches(&config.purge, named, path, &rules) {
        let more = news(&states, states_of(rule, &captures));
        if !more.is_empty() {
            states.extend(more);
            rules.push((rule, captures));
        }
    }
    if rules.is_empty() {
        // To the origin's policy a target is what it is, to the letter; and what is its own is no later route's.
        let any = |route: &'c Route| Some(&route.path);
        let loose = loose_matches(&config.routes, any, path, &routes);
        for (route, captures) in loose.into_iter().filter(|found| !is_by_http(found)) {
            let more = news(&states, own_state(route, &captures));
            if !more.is_empty() {
                states.extend(more);
                routes.push((route, captures));
            }
        }
    }
    let by = match (to_the_letter, states.len() > known) {
        (Some(By::Http), true) => By::Nobody,
        (Some(by), _) => by,
        (None, true) => By::Operator,
        (None, false) => By::Nobody,
    };
    states.sort();
    states.dedup();
    Drops {
        rules,
        routes,
        states,
        by,
    }
}

/// Each of them once, though it may read the path in several ways.
pub fn once<'f, 'c, R>(
    found: &'f [(&'c R, Captures)],
) -> impl Iterator<Item = &'c R> + use<'f, 'c, R> {
    let is_first = |at: usize| {
        found[..at]
            .iter()
            .all(|(other, _)| !std::ptr::eq(*other, found[at].0))
    };
    let each = found.iter().enumerate();
    each.filter_map(move |(at, (rule, _))| is_first(at).then_some(*rule))
}

/// The states that a rule drops.
fn states_of(rule: &PurgeRule, captures: &Captures) -> impl Iterator<Item = StateKey> {
    rule.keys.iter().filter_map(|key| state_of(key, captures))
}

/// The state of what a route keeps at a path.
fn own_state(route: &Route, captures: &Captures) -> Option<StateKey> {
    let family = route.key.family(captures)?;
    Some(StateKey::new(family_state(family.as_str())))
}

/// Those of `more` that are not `known` yet.
fn news(known: &[StateKey], more: impl IntoIterator<Item = StateKey>) -> Vec<StateKey> {
    let more = more.into_iter();
    more.filter(|state| !known.contains(state)).collect()
}

/// The state whose epoch a purge key drops.
pub fn state_of(key: &FamilyPattern, captures: &Captures) -> Option<StateKey> {
    match key {
        FamilyPattern::Family(template) => template
            .family(captures)
            .map(|family| StateKey::new(family_state(family.as_str()))),
        FamilyPattern::Group(group) => Some(StateKey::new(group_state(group))),
    }
}

/// What a family's copies depend on: its own state and, if families can be purged together, its group's; and, if it
/// keeps negative copies, the states that a create drops.
pub fn depends(config: &Config, route: &Route, family: &str) -> Depends {
    let absence = absence_states(&config.purge, route);
    with_group(
        family,
        group(route).as_ref(),
        admission(route).as_ref(),
        negative(route, absence.as_ref()),
        route.mark(),
    )
}

/// As `depends`, for who has the others at hand.
pub fn with_group(
    family: &str,
    group: Option<&StateKey>,
    admission: Option<&StateKey>,
    negative: &[StateKey],
    mark: Mark,
) -> Depends {
    let family = StateKey::new(family_state(family));
    let mut states: States = std::iter::once(family)
        .chain(group.cloned())
        .chain(admission.cloned())
        .collect();
    let own = states.len();
    states.extend(negative.iter().cloned());
    Depends { states, own, mark }
}

/// The states that a route's negative copies name besides its own.
pub fn negative<'s>(route: &Route, absence: Option<&'s States>) -> &'s [StateKey] {
    match (route.negative_ttl, absence) {
        (Some(_), Some(absence)) => absence,
        _ => &[],
    }
}

/// The state that all families of a route share, if it has more than one.
pub fn group(route: &Route) -> Option<StateKey> {
    route
        .key
        .group()
        .map(|group| StateKey::new(group_state(&group)))
}

/// The state that tells the copies of those whom a verify path, or a token, admits from all others at the same key.
pub fn admission(route: &Route) -> Option<StateKey> {
    match &route.access {
        Access::Verify(verify) => Some(StateKey::new(admission_state(&verify.path))),
        Access::Jwt(jwt) => Some(StateKey::new(token_state(&jwt.issuer, &jwt.audience))),
        Access::PerCredential | Access::Public => None,
    }
}

/// The states that every copy of this configuration depends on: dropping them all purges everything.
pub fn every_state(config: &Config) -> Vec<StateKey> {
    let mut states: Vec<StateKey> = config.routes.iter().filter_map(whole_state).collect();
    states.sort();
    states.dedup();
    states
}

/// The state that every copy of a route depends on.
pub fn whole_state(route: &Route) -> Option<StateKey> {
    state_of_all(&route.key)
}

/// The state that all families of a key share, or of its only one.
pub fn state_of_all(key: &KeyTemplate) -> Option<StateKey> {
    match key.group() {
        Some(group) => Some(StateKey::new(group_state(&group))),
        None => key
            .family(&Captures::default())
            .map(|family| StateKey::new(family_state(family.as_str()))),
    }
}

/// The states beyond a route's own that a write would drop that makes one of its things appear, if every
/// purge rule names such a state: under equal epochs of theirs the absence of a thing is no stale answer.
pub fn absence_states(purge: &[PurgeRule], route: &Route) -> Option<States> {
    let mut states = States::new();
    // Elsewhere than at its own path, a key with captures is not that of what appears.
    let own = |rule: &PurgeRule, key: &FamilyPattern| match key {
        FamilyPattern::Family(template) => {
            template.as_str() == route.key.as_str() && route.path.covers(&rule.path)
        }
        FamilyPattern::Group(group) => route.key.group().as_ref() == Some(group),
    };
    let drops_it = |rule: &PurgeRule| rule.keys.iter().any(|key| own(rule, key));
    for rule in purge.iter().filter(|rule| !drops_it(rule)) {
        let state = rule
            .keys
            .iter()
            .find_map(|key| state_of(key, &Captures::default()))?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    let creates_are_named = purge
        .iter()
        .any(|rule| rule.methods.contains(&Method::POST));
    creates_are_named.then_some(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PathPattern;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_plain_path_that_a_pattern_reads_is_in_its_canonical_spelling(
            path in "/(api/)?[a-c0/.%~_;-]{0,8}/?",
            pattern in "/(api/)?[a1]?(<int:a>|<str:a>|<slug:a>|<path:a>)/?",
        ) {
            let pattern = PathPattern::parse(&pattern).unwrap();
            let in_one_way = is_plain(&path) && !pattern.reads_plain_paths_otherwise();
            if in_one_way && pattern.match_decoded(&Decoded::of(&path)).is_some() {
                prop_assert!(pattern.match_canonical(&path).is_some(), "{} {}", path, pattern.as_str());
            }
        }
    }
}
