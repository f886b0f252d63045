//! The copy that a read is given or fills, and every write that drops it.

use http::Method;
use http::header::{self, HeaderName};

use super::told::{Copy, Dropper};
use super::words;
use crate::access;
use crate::caching::key::{CopyKey, HashingSecret, Split};
use crate::coherence::StateKey;
use crate::config::{Access, Config, Route};
use crate::message::accept::AcceptClass;
use crate::proxy::present::{self, Asked};
use crate::proxy::{Client, plan};
use crate::route::{Captures, Decoded, FamilyPattern};

/// As they stand in the store.
pub(super) fn full_names(config: &Config, states: &[StateKey]) -> Vec<String> {
    let full = |state: &StateKey| format!("{}:{state}", config.store.prefix);
    states.iter().map(full).collect()
}

/// The copy in words.
pub(super) fn copy(
    config: &Config,
    route: &Route,
    client: &Client,
    asked: &Asked,
    secret: Option<HashingSecret>,
) -> Copy {
    let nothing = HashingSecret([0; 32]);
    let mut key = CopyKey::telling(&nothing);
    let (query, accept) = (asked.query.as_deref(), &asked.accept);
    present::split(
        config,
        route,
        client,
        &asked.varied,
        (query, accept),
        asked.admitted.as_ref().and_then(|verdict| verdict.scope()),
        &mut key,
    );
    let splits = key.told();
    let outgoing = present::fill(config, route, client, asked);
    Copy {
        family: asked.family.as_str().to_owned(),
        key: match (asked.copy.split_once('~'), secret) {
            (Some((plain, _)), None) => format!("{plain}~?"),
            _ => asked.copy.clone(),
        },
        whose: whose(&route.access, &splits),
        split_by: splits
            .iter()
            .map(|split| words::split(split, query, accept))
            .collect(),
        left_out: left_out(config, client, &outgoing.fields),
        forwarded: format!("GET {}", outgoing.target.as_str()),
        origin: asked.origin.clone(),
        states: full_names(config, asked.depends.own()),
    }
}

fn whose(access: &Access, splits: &[Split]) -> String {
    let credentials: Vec<String> = splits
        .iter()
        .filter(|split| matches!(split, Split::Credential(_) | Split::Cookie(_)))
        .map(|split| words::split(split, None, &AcceptClass::Json))
        .collect();
    match (access, credentials.as_slice()) {
        (Access::Public, _) => "everybody (`access: public`)".to_owned(),
        (Access::Verify(verify), _) if verify.scope.is_empty() => {
            format!("whoever `{}` admits", verify.path)
        }
        (Access::Verify(verify), _) => format!(
            "whoever `{}` admits with the same {}",
            verify.path,
            verify.scope.join(" and ")
        ),
        (Access::Jwt(jwt), _) if jwt.scope.is_empty() => "whoever has a good token".to_owned(),
        (Access::Jwt(jwt), _) => {
            format!(
                "whoever has a good token with the same {}",
                jwt.scope.join(" and ")
            )
        }
        (Access::PerCredential, []) => "whoever asks without a credential".to_owned(),
        (Access::PerCredential, _) => {
            format!("whoever sends the same {}", credentials.join(" and "))
        }
    }
}

/// What the client sent that a fill does not carry, by name.
fn left_out(config: &Config, client: &Client, sent: &header::HeaderMap) -> Vec<String> {
    // Of the connection, or answered by us from the copy.
    const OURS: [HeaderName; 12] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
        header::CACHE_CONTROL,
        header::PRAGMA,
    ];
    let mut names: Vec<String> = client
        .fields
        .keys()
        .filter(|name| {
            !sent.contains_key(*name) && !OURS.contains(name) && **name != header::COOKIE
        })
        .map(words::field)
        .collect();
    let cookies = access::ignored_cookies(config, &client.fields);
    names.extend(cookies.map(|name| format!("cookie {}", String::from_utf8_lossy(name))));
    if client.fields.contains_key(header::COOKIE) && !sent.contains_key(header::COOKIE) {
        let all_ignored = !access::has_cookie_credential(config, &client.fields);
        names.extend((!all_ignored).then(|| words::field(&header::COOKIE)));
    }
    names
}

/// Every write that drops the copy, as the file says it.
pub(super) fn droppers(
    config: &Config,
    route: &Route,
    client: &Client,
    captures: &Captures,
    asked: &Asked,
) -> Vec<Dropper> {
    let hits = |states: &[StateKey]| {
        states
            .iter()
            .any(|state| asked.depends.own().contains(state))
    };
    let mut found = Vec::new();
    for (index, rule) in config.purge.iter().enumerate() {
        for key in &rule.keys {
            let Some(values) = values(key, route, captures, asked.depends.own()) else {
                continue;
            };
            let path = rule.path.filled(&values);
            // What is wholly known is asked of the plan itself: an earlier rule may come first.
            let known = !path.contains('<');
            let methods: Vec<Method> = rule
                .methods
                .iter()
                .filter(|method| {
                    !known || {
                        let drops = plan::drops(config, method, &Decoded::of(&path));
                        hits(&drops.states)
                            && drops.rules.iter().any(|(by, _)| std::ptr::eq(*by, rule))
                    }
                })
                .cloned()
                .collect();
            if !methods.is_empty() {
                found.push(Dropper {
                    methods: words::methods(&methods),
                    path,
                    rule: Some(index),
                });
            }
            break;
        }
    }
    let path = client.target.path();
    let unnamed: Vec<Method> = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
        .into_iter()
        .filter(|method| {
            let drops = plan::drops(config, method, &Decoded::of(path));
            drops.rules.is_empty() && hits(&drops.states)
        })
        .collect();
    if !unnamed.is_empty() {
        found.push(Dropper {
            methods: words::methods(&unnamed),
            path: path.to_owned(),
            rule: None,
        });
    }
    found
}

/// The captures under which a purge key names one of these states; `None` if it never does.
fn values(
    key: &FamilyPattern,
    route: &Route,
    captures: &Captures,
    states: &[StateKey],
) -> Option<Captures> {
    let values: Captures = match key {
        FamilyPattern::Group(_) => Captures::default(),
        // The same values under the names that the rule gives them.
        FamilyPattern::Family(template) => template
            .placeholders()
            .zip(route.key.placeholders())
            .filter_map(|(theirs, ours)| Some((theirs, captures.get(ours)?)))
            .collect(),
    };
    states
        .contains(&plan::state_of(key, &values)?)
        .then_some(values)
}
