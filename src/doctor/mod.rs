//! What is wrong with the surroundings, and what to do about it: a list of checks, each with a stable code, what was
//! seen and the remedy. `store`, `upstream`, `certificates` and `ports` look; what they saw is judged by functions of it.
//! No secret is in any of it, and no name or value of a key.

pub mod certificates;
pub mod ports;
pub mod store;
pub mod upstream;

use serde::Serialize;

use crate::config::{Config, StoreAddress};

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It works, and could hurt.
    Warning,
    /// It does not do what it is there for.
    Wrong,
    /// It could not be looked at.
    Skipped,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Wrong => "wrong",
            Level::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Never changes its meaning: `store-tls`.
    pub code: &'static str,
    pub level: Level,
    pub seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

pub fn ok(code: &'static str, seen: impl Into<String>) -> Finding {
    Finding {
        code,
        level: Level::Ok,
        seen: seen.into(),
        remedy: None,
    }
}

pub fn warning(code: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        level: Level::Warning,
        remedy: Some(remedy.into()),
        ..ok(code, seen)
    }
}

pub fn wrong(code: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        level: Level::Wrong,
        remedy: Some(remedy.into()),
        ..ok(code, seen)
    }
}

pub fn skipped(code: &'static str, seen: impl Into<String>) -> Finding {
    Finding {
        level: Level::Skipped,
        ..ok(code, seen)
    }
}

/// What the API is asked beside the routes' own paths.
#[derive(Default)]
pub struct Requests {
    pub paths: Vec<String>,
    /// Fields of each request; none of ours is a credential.
    pub fields: Vec<(String, String)>,
}

/// Looks at everything, and tells each check as it is made.
pub async fn examine(config: &Config, requests: &Requests, tell: &mut impl FnMut(Finding)) {
    match &config.store.address {
        StoreAddress::Memory => tell(ok(
            "store",
            "`memory:`, in Larder itself: it needs no check",
        )),
        StoreAddress::Redis(settings) => store::examine(config, settings, tell).await,
    }
    upstream::examine(config, requests, tell).await;
    certificates::examine(config, tell);
    ports::examine(config, tell).await;
}
