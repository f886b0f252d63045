//! What people do by hand: look at a copy, put one there, purge, list. By key or by path, from the command line
//! or the admin listener; both end here.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use crate::access::{credential, token};
use crate::caching::cache_status::Reason;
use crate::caching::head::Head;
use crate::caching::key::{family_state, group_state, revoked_token};
use crate::caching::stored::{ANY_ORIGIN, Freshness, Stored};
use crate::clock;
use crate::coherence::{Coherence, Depends, Epochs, LookUp, StateKey, States};
use crate::config::{Access, Config, Route};
use crate::message::{conditions, date};
use crate::proxy::plan;
use crate::purges::{self, Cause};
use crate::route::{Decoded, FamilyPattern};
use crate::store::{Away, Listed};

/// What people write into a key as it is, and no key holds so.
const UNSEEN: &AsciiSet = &CONTROLS.add(b' ');

/// Copies are counted, and keys listed, up to so many.
pub const COUNTED: usize = 100_000;

/// What went wrong, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationError {
    /// The name means nothing here.
    Unknown(String),
    StoreAway,
    /// A write is in flight on it.
    Held,
    NotKept(&'static str),
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OperationError::Unknown(why) => f.write_str(why),
            OperationError::StoreAway => {
                f.write_str("the store cannot be used: see `store.url`, and whether it runs; `larder doctor` says why")
            }
            OperationError::Held => {
                f.write_str("a write to it is in flight, or less than `upstream.lag` ago: try again in a moment")
            }
            OperationError::NotKept(why) => write!(f, "the store did not take it ({why})"),
        }
    }
}

impl From<Away> for OperationError {
    fn from(Away: Away) -> Self {
        OperationError::StoreAway
    }
}

/// What is named for a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    States(Vec<StateKey>),
    Everything,
}

/// Reads `users:list`, `users:detail:7`, `users:detail:*`, a full key with the prefix, or a path such as `/api/users/7/`.
pub fn named(config: &Config, text: &str) -> Result<Named, OperationError> {
    if text.starts_with('/') {
        let path = Decoded::of(text.split('?').next().unwrap_or(text));
        let matches = crate::route::first_matches(&config.routes, |route| Some(&route.path), &path);
        let states: Vec<StateKey> = matches
            .iter()
            .filter_map(|(route, captures)| route.key.family(captures))
            .map(|family| StateKey::new(family_state(family.as_str())))
            .collect();
        return match states.is_empty() {
            true => Err(OperationError::Unknown(format!(
                "no route keeps `{text}`; the routes are {}",
                paths(config)
            ))),
            false => Ok(Named::States(states)),
        };
    }
    let own = own_part(config, text);
    if own == "*" {
        return Ok(Named::Everything);
    }
    let family = own.split('~').next().unwrap_or(own);
    if config
        .routes
        .iter()
        .any(|route| route.key.matches_family(family))
    {
        return Ok(Named::States(vec![StateKey::new(format!(
            "{family}~state"
        ))]));
    }
    if let Ok(FamilyPattern::Group(group)) = FamilyPattern::parse(family)
        && config
            .routes
            .iter()
            .any(|route| route.key.group().as_ref() == Some(&group))
    {
        return Ok(Named::States(vec![StateKey::new(group_state(&group))]));
    }
    let keys: Vec<String> = config
        .routes
        .iter()
        .map(|route| format!("`{}`", route.key.pattern()))
        .collect();
    Err(OperationError::Unknown(format!(
        "no route makes a key `{own}`; the keys are {}",
        keys.join(", ")
    )))
}

/// Whether what somebody has typed can be a key: one that resembles a route's and that no path leads to is a mistake. What
/// a program names is not asked this: it costs nothing, and must not keep what it names beside it from being dropped.
pub fn typed(config: &Config, text: &str) -> Result<(), OperationError> {
    let own = own_part(config, text);
    let family = own.split('~').next().unwrap_or(own);
    // `*` is no value, but stands for all of them.
    if text.starts_with('/') || family.contains('*') {
        return Ok(());
    }
    let makes = |route: &Route| match route.is_by_http() {
        true => route.key.matches_family(family),
        false => route.key.makes(&route.path, family),
    };
    let written = utf8_percent_encode(family, UNSEEN).to_string();
    let mut routes = config.routes.iter();
    match routes.find(|route| route.key.matches_family(&written)) {
        Some(alike) if !config.routes.iter().any(makes) => Err(OperationError::Unknown(format!(
            "no path of `{}` leads to the key `{family}`: an `int` is written without zeros before it, and of other values all but letters, digits, `.`, `_` and `-` as %C3%A9; or name the path",
            alike.path.as_str()
        ))),
        _ => Ok(()),
    }
}

/// All copies of a route, which is named as in the file.
pub fn named_route(config: &Config, pattern: &str) -> Result<Named, OperationError> {
    let route = config.routes.iter();
    let mut route = route.filter(|route| route.path.as_str() == pattern);
    let state = route.next().and_then(plan::whole_state);
    state
        .map(|state| Named::States(vec![state]))
        .ok_or_else(|| {
            OperationError::Unknown(format!(
                "there is no route `{pattern}`; the routes are {}",
                paths(config)
            ))
        })
}

/// The states that what is named hangs on, each once.
pub async fn states(
    config: &Config,
    coherence: &Coherence,
    named: Vec<Named>,
) -> Result<Vec<StateKey>, OperationError> {
    let mut all = Vec::new();
    for name in named {
        match name {
            Named::States(states) => all.extend(states),
            Named::Everything => {
                let ours = plan::every_state(config);
                all.extend(coherence.store().all_states(&ours).await?);
            }
        }
    }
    let mut seen = HashSet::new();
    all.retain(|state| seen.insert(state.clone()));
    Ok(all)
}

/// The keys of the copies that hang on any of these states, valid or not. The store's keys are gone through once, however many
/// states there are.
pub async fn copies(
    config: &Config,
    coherence: &Coherence,
    states: &[StateKey],
) -> Result<Vec<String>, OperationError> {
    let names = || states.iter().map(StateKey::as_str);
    let families: HashSet<&str> = names().filter_map(|n| n.strip_suffix("~state")).collect();
    let groups: HashSet<&str> = names().filter_map(|n| n.strip_suffix("~all")).collect();
    let is_in_any_group = |family: &str| {
        let mut colons = family.match_indices(':');
        colons.any(|(at, _)| groups.contains(&family[..at]))
    };
    let hangs_on_any = |key: &str| {
        family_of(config, key)
            .is_some_and(|family| families.contains(family) || is_in_any_group(family))
    };
    let all = families.iter().chain(&groups).copied();
    let Some(start) = all.reduce(common_start) else {
        return Ok(Vec::new());
    };
    let start = format!("{}:{start}", config.store.prefix);
    let listed = coherence
        .store()
        .list(&start, COUNTED, hangs_on_any)
        .await?;
    Ok(listed.into_iter().map(|listed| listed.key).collect())
}

fn common_start<'t>(one: &'t str, other: &str) -> &'t str {
    let alike = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
    // In the middle of a character: less is common than it seems.
    one.get(..alike.count()).unwrap_or_default()
}

/// The family whose copy stands at this key of the store, if one does and no state.
pub fn family_of<'k>(config: &Config, key: &'k str) -> Option<&'k str> {
    let own = own_part(config, key);
    let (family, suffix) = own.split_once('~').unwrap_or((own, ""));
    let is_ours = family.is_empty() || matches!(suffix, "state" | "all" | "vary");
    (!is_ours).then_some(family)
}

/// What a purge by hand does to copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purging {
    /// Nobody is given them any more.
    Hard,
    /// They are fetched anew when they are next asked for, and given until that is done.
    Soft,
}

/// Purges what is named, all copies of it, and all at once: each purge waits for the longest lease. Gives the states that
/// these hang on.
pub async fn purge(
    config: &Config,
    coherence: &Coherence,
    named: Vec<Named>,
    purging: Purging,
) -> Result<Vec<StateKey>, OperationError> {
    let states = states(config, coherence, named).await?;
    if states.is_empty() {
        return Ok(states);
    }
    let cause = match purging {
        Purging::Hard => coherence.purge(&states).await.map(|()| Cause::Operator),
        Purging::Soft => coherence
            .outdate(&states)
            .await
            .map(|()| Cause::OperatorSoft),
    };
    purges::by_hand(cause?, &states);
    Ok(states)
}

/// Revokes what the upstream has said of these credentials, and, until they expire, the tokens among them: lines as a request has them, `Authorization: …`. Gives how
/// many parts they have.
pub async fn revoke(
    config: &Config,
    coherence: &Coherence,
    lines: &str,
) -> Result<usize, OperationError> {
    // No error quotes a line: it is a secret.
    let wrong = |what: &str| {
        OperationError::Unknown(format!(
            "{what}: write each credential as a line of a request, like `Authorization: Bearer …` or `Cookie: sessionid=…`"
        ))
    };
    let mut fields = HeaderMap::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| wrong("a line has no `:`"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| wrong("a line does not begin with a field's name"))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| wrong("a value cannot stand in a request"))?;
        fields.append(name, value);
    }
    coherence.store().settled().await;
    // Under another than all others have, nobody would hear of it.
    coherence.store().confirm_secret().await?;
    let secret = coherence
        .store()
        .secret()
        .ok_or(OperationError::StoreAway)?;
    let states = credential::states(config, &fields, &secret);
    if states.is_empty() {
        return Err(wrong("no credential is named"));
    }
    // A token is good by itself, so that it is not is kept; before what was said of it is dropped, or it could be said again.
    for line in fields.get_all(header::AUTHORIZATION) {
        // Whatever scheme it is given by.
        let token = line.as_bytes().trim_ascii();
        let token = token.rsplit(u8::is_ascii_whitespace).next();
        let (Some(until), Some(signed)) = (
            token.and_then(token::claimed_end),
            token.and_then(token::signed),
        ) else {
            continue;
        };
        let name = revoked_token(&secret, signed);
        let kept = coherence.store().mark(&name, until).await;
        kept.map_err(|reason| match reason {
            Reason::StoreAway => OperationError::StoreAway,
            reason => OperationError::NotKept(reason.word()),
        })?;
    }
    coherence.purge(&states).await?;
    purges::by_hand(Cause::Credential, &states);
    Ok(states.len())
}

/// A copy as people look at it.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub key: String,
    /// Whether a request would be given it now; if not, or only until it is fetched anew, why.
    pub valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    pub status: u16,
    pub age_seconds: u64,
    pub ttl_seconds: u64,
    pub origin: String,
    pub epochs: Vec<String>,
    pub fields: Vec<(String, String)>,
    #[serde(skip)]
    pub body: Bytes,
}

/// The copy at a key, if there is one.
pub async fn get(
    config: &Config,
    coherence: &Coherence,
    text: &str,
) -> Result<Option<Entry>, OperationError> {
    let (key, depends, _) = find(config, text)?;
    if { ["~state", "~all", "~vary"].iter() }.any(|end| key.ends_with(end)) {
        return Err(OperationError::Unknown(format!(
            "`{key}` is no copy: Larder keeps there what the copies of it hang on"
        )));
    }
    let copy = match coherence.store().get(&key).await? {
        Ok(copy) => copy,
        Err(Reason::Absent) => return Ok(None),
        Err(reason) => {
            return Err(OperationError::Unknown(format!(
                "what stands at `{key}` is none of ours ({})",
                reason.word()
            )));
        }
    };
    coherence.store().settled().await;
    let now = clock::now();
    let looked = coherence.look_up(&key, &depends, copy.head.origin());
    let reason = match looked.await {
        LookUp::Valid(copy) => match copy.freshness(now) {
            Freshness::Fresh { .. } => None,
            Freshness::Stale { .. } => Some(Reason::Expired.word()),
        },
        LookUp::Outdated(_) => Some(Reason::SoftPurge.word()),
        LookUp::Miss(reason, _) => Some(reason.word()),
    };
    let soft = reason == Some(Reason::SoftPurge.word());
    Ok(Some(Entry {
        valid: reason.is_none() || soft,
        reason,
        status: copy.status.as_u16(),
        age_seconds: copy.age(now).as_secs(),
        ttl_seconds: copy.freshness(now).left().as_secs(),
        origin: copy.head.origin().to_owned(),
        epochs: copy
            .epochs
            .iter()
            .map(|(state, epoch)| format!("{state}@{epoch}"))
            .collect(),
        fields: copy
            .head
            .fields()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
        body: copy.body.clone(),
        key,
    }))
}

/// Puts a JSON body there as the shared copy, under the epoch of this moment; where an instance may keep another in its memory,
/// under that of the soft purge with which this ends. Gives how long it is kept.
pub async fn set(
    config: &Config,
    coherence: &Coherence,
    text: &str,
    body: Bytes,
) -> Result<Duration, OperationError> {
    let (key, depends, route) = find(config, text)?;
    if route.is_by_http() {
        return Err(OperationError::Unknown(
            "under `policy: http` only what the origin says is kept: nothing can be set".to_owned(),
        ));
    }
    if key.contains('~') {
        return Err(OperationError::Unknown(
            "only the shared copy can be set: a key without `~`".to_owned(),
        ));
    }
    // What is skipped is not looked at byte by byte: JSON is UTF-8 (RFC 8259 §8.1).
    let text = std::str::from_utf8(&body).map_err(|error| error.to_string());
    let json = text.and_then(|text| {
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| error.to_string())
    });
    if let Err(error) = json {
        return Err(OperationError::Unknown(format!(
            "the body is not JSON: {error}"
        )));
    }
    coherence.store().settled().await;
    // Instances that have another copy in their memory, which is as valid, look for this one once that is outdated.
    let outdates =
        config.store.memory.is_some() || coherence.store().longest_lease().await > Duration::ZERO;
    let own = States::from(depends.own());
    let now = clock::now();
    let mut fields = HeaderMap::new();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    fields.insert(header::DATE, date::format(now));
    if route.etag {
        fields.insert(header::ETAG, conditions::tag_of(&body));
    }
    let copy = Stored {
        status: StatusCode::OK,
        head: Head::of(route.mark(), &fields, ANY_ORIGIN, &[]),
        body,
        response_time: now,
        took: Duration::ZERO,
        initial_age: Duration::ZERO,
        lifetime: route.ttl,
        epochs: Epochs::new(),
    };
    loop {
        let epochs = match outdates {
            true => to_come(coherence, &own).await?,
            false => opened(coherence, &own).await?,
        };
        let of_its_own = epochs[0].clone();
        let copy = Stored {
            epochs,
            ..copy.clone()
        };
        coherence
            .commit(&key, Arc::new(copy), Duration::ZERO, now)
            .await
            .map_err(|reason| OperationError::NotKept(reason.word()))?;
        // Should this get no further, whoever sets it next does so under the same epochs.
        coherence.store().forget_here(&key);
        if !outdates || coherence.outdate_for(&of_its_own).await? {
            return Ok(route.ttl);
        }
    }
}

/// Of what is there before the soft purge after which it is: or whoever asks meanwhile has the origin's answer put in its place.
async fn to_come(coherence: &Coherence, own: &States) -> Result<Epochs, OperationError> {
    let mut epochs = opened(coherence, own).await?;
    if epochs[0].1.next_generation().is_none() {
        coherence.outdate(&own[..1]).await?;
        epochs = opened(coherence, own).await?;
    }
    if let Some(next) = epochs[0].1.next_generation() {
        epochs[0].1 = next;
    }
    Ok(epochs)
}

async fn opened(coherence: &Coherence, states: &States) -> Result<Epochs, OperationError> {
    let opened = coherence.open(states).await;
    opened.map_err(|reason| match reason {
        Reason::Held => OperationError::Held,
        _ => OperationError::StoreAway,
    })
}

/// Who is given the shared copy that is named.
pub fn access(config: &Config, text: &str) -> Result<Access, OperationError> {
    find(config, text).map(|(_, _, route)| route.access.clone())
}

/// The keys in the store that begin with `start` (below the prefix), at most so many; and whether there are more.
pub async fn keys(
    config: &Config,
    coherence: &Coherence,
    start: &str,
    most: usize,
) -> Result<(Vec<Listed>, bool), OperationError> {
    let start = own_part(config, start).trim_end_matches('*');
    let start = format!("{}:{start}", config.store.prefix);
    let mut keys = coherence.store().list(&start, most + 1, |_| true).await?;
    let more = keys.len() > most;
    keys.truncate(most);
    Ok((keys, more))
}

/// The store's key for a copy that is named by key or by path, its states and its route.
fn find<'c>(
    config: &'c Config,
    text: &str,
) -> Result<(String, Depends, &'c Route), OperationError> {
    let unknown = || {
        OperationError::Unknown(format!(
            "no route keeps `{text}`; the routes are {}",
            paths(config)
        ))
    };
    let of = |route: &'c Route, own: &str| {
        let family = own.split('~').next().unwrap_or(own);
        (
            format!("{}:{own}", config.store.prefix),
            plan::depends(config, route, family),
            route,
        )
    };
    if text.starts_with('/') && text.contains('?') {
        return Err(OperationError::Unknown(format!(
            "the copy of a query stands at a key of its own, as `larder keys` lists it; `larder explain '{text}' --ask` looks at it"
        )));
    }
    if text.starts_with('/') {
        let found = crate::route::first_matches(
            &config.routes,
            |route| Some(&route.path),
            &Decoded::of(text),
        );
        let (route, captures) = found.into_iter().next().ok_or_else(unknown)?;
        return Ok(of(
            route,
            route.key.family(&captures).ok_or_else(unknown)?.as_str(),
        ));
    }
    let own = own_part(config, text);
    let family = own.split('~').next().unwrap_or(own);
    let route = config
        .routes
        .iter()
        .find(|route| route.key.matches_family(family))
        .ok_or_else(unknown)?;
    Ok(of(route, own))
}

/// A key as written here, with or without the prefix.
fn own_part<'t>(config: &Config, text: &'t str) -> &'t str {
    text.strip_prefix(&config.store.prefix)
        .and_then(|rest| rest.strip_prefix(':'))
        .unwrap_or(text)
}

fn paths(config: &Config) -> String {
    config
        .routes
        .iter()
        .map(|route| format!("`{}`", route.path.as_str()))
        .collect::<Vec<_>>()
        .join(", ")
}
