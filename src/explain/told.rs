//! What is told of a request: values that are printed, or sent as JSON and printed elsewhere.

use serde::{Deserialize, Serialize};

use super::ask;

/// What becomes of a request, and why.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Explanation {
    pub method: String,
    pub target: String,
    pub host: String,
    /// The host was neither given nor is it in the file, but assumed.
    pub host_assumed: bool,
    /// `Cache-Status`, and the log's `cache` and `detail`, as far as they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What that detail means, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Answered by Larder itself with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_with: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Under>,
    /// The routes (of a write: the rules) that were tried before, or in vain.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub passed_over: Vec<PassedOver>,
    /// The one spelling under which this path is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<Copy>,
    /// By whose word the client is given a shared copy; only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admitted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_up: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Verdict>,
    /// Which writes drop the copy.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub dropped_by: Vec<Dropper>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<ask::Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<ask::Answer>,
}

/// The route it falls under.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Under {
    /// Its place in the file: `routes[0]`.
    pub index: usize,
    pub path: String,
    pub key: String,
    pub access: String,
    pub ttl_seconds: u64,
    /// What is made of an answer on its way out.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub going_out: Vec<String>,
}

/// A route or rule that is not this request's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PassedOver {
    pub path: String,
    pub why: String,
    /// It would have been but for one value or the method.
    pub nearly: bool,
}

/// May it?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    pub may: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub why: String,
}

/// The copy that the request is given, or fills.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Copy {
    pub family: String,
    /// The key in the store. Its suffix is `~?` where the hashing secret, which only the store knows, is needed.
    pub key: String,
    /// Whose copy it is.
    pub whose: String,
    /// What sets it apart from the family's other copies, by name.
    pub split_by: Vec<String>,
    /// What was sent and splits nothing, and does not reach the API with a fill.
    pub left_out: Vec<String>,
    /// What is asked of the API to fill it.
    pub forwarded: String,
    /// The scheme and host that links in the answer will hold.
    pub origin: String,
    /// It is valid while these stay as they were when its fetch began.
    pub states: Vec<String>,
}

/// A write that drops the copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dropper {
    pub methods: Vec<String>,
    pub path: String,
    /// Its place in the file, `purge[1]`; none: no rule names it, but a write to a route's own path drops it.
    pub rule: Option<usize>,
}

/// What a write drops.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Write {
    pub rules: Vec<Rule>,
    /// No rule names it, but these routes keep its path.
    pub routes: Vec<String>,
    /// The families, all copies of each: `users:list`, `users:detail:*`.
    pub drops: Vec<String>,
    /// The keys whose epochs end.
    pub states: Vec<String>,
    /// What the API has said of its credential (`access: {verify: …}`) ends, too, and also after a 401.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub ends_verdict: bool,
    /// Answers that say that nothing was changed, and drop nothing.
    pub not_after: Vec<u16>,
    /// How long after the write's answer what is read goes to the API and is not kept.
    #[serde(default)]
    pub lag_seconds: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rule {
    pub index: usize,
    pub methods: Vec<String>,
    pub path: String,
    pub keys: Vec<String>,
}
