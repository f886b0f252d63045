//! Why a request is (not) cached, or what a write drops: the proxy's own decisions for one request, told as a value.
//! Nothing is decided here. The functions that decide for a real request are run (`proxy::accept`, `proxy::plan`,
//! `proxy::present`, `access`), and what they gave is written down. No value of a credential, a cookie or a field is in it.
//! Pure; `ask` goes on where the store and the API have to be looked at.

pub mod ask;
mod words;

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use serde::{Deserialize, Serialize};

use crate::access;
use crate::caching::cache_status::{Forward, Handling, Reason};
use crate::caching::key::{CopyKey, HashingSecret, Split};
use crate::coherence::protocol::{self, Outcome};
use crate::coherence::{StateKey, States};
use crate::config::{Access, Config, PurgeRule, Route};
use crate::error::{Error, Refusal};
use crate::message::accept::AcceptClass;
use crate::proxy::plan::{self, Claim, Drops, Plan};
use crate::proxy::present::{self, Asked, Presented};
use crate::proxy::{self, Client, Served};
use crate::route::{Captures, Decoded, FamilyPattern, Mismatch};

pub use words::because;

/// A request that nobody has sent. No `Debug`: its fields may be secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub method: String,
    /// `/api/users/?page=2`, or a whole URL, which then says the host.
    pub target: String,
    #[serde(default)]
    pub fields: Vec<(String, String)>,
    /// Bytes of content that come with it.
    #[serde(default)]
    pub content: u64,
    /// From where it comes; this machine where nothing is said.
    #[serde(default)]
    pub from: Option<IpAddr>,
}

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
    /// Answers that say that nothing was changed, and drop nothing.
    pub not_after: Vec<u16>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rule {
    pub index: usize,
    pub methods: Vec<String>,
    pub path: String,
    pub keys: Vec<String>,
}

/// What is known beside the file.
#[derive(Clone, Copy, Default)]
pub struct Knowledge<'k> {
    pub secret: Option<HashingSecret>,
    /// The routes at work, with what they have learnt.
    pub served: Option<&'k [Served]>,
}

/// A read that falls under a route, to be asked further.
pub struct Reading {
    pub route: usize,
    pub captures: Captures,
    pub client: Client,
}

/// Explains a request. `Err` says why what was asked is no request at all.
pub fn explain(
    config: &Config,
    question: &Question,
    knowledge: Knowledge,
) -> Result<(Explanation, Option<Reading>), String> {
    let (request, host_assumed) = question.request(config)?;
    let text = |name: HeaderName| {
        let value = request.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let mut told = Explanation {
        method: request.method().to_string(),
        target: request
            .uri()
            .path_and_query()
            .map_or_else(String::new, |both| both.as_str().to_owned()),
        host: text(header::HOST).unwrap_or_default(),
        host_assumed,
        ..Explanation::default()
    };
    let peer = question.from.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let (client, content) = match proxy::accept(config, request, Some(peer)) {
        Ok(accepted) => accepted,
        Err(refusal) => {
            told.refuse(refusal);
            return Ok((told, None));
        }
    };
    let path = client.target.path();
    let planned = plan::plan(
        config,
        &client.method,
        &client.target,
        !content.is_end_stream(),
    );
    match planned {
        Plan::Read { route, captures } => {
            told.under(config, route, path);
            let reading = Reading {
                route,
                captures,
                client,
            };
            told.read(config, &reading, knowledge);
            return Ok((told, Some(reading)));
        }
        Plan::Write { .. } => told.write(config, &client.method, path),
        Plan::Pass { why, detail } => {
            told.pass(why, detail);
            match client.method {
                Method::GET | Method::HEAD => told.not_kept(config, path),
                Method::OPTIONS => {}
                _ => told.write(config, &client.method, path),
            }
        }
    }
    Ok((told, None))
}

impl Question {
    /// As hyper would hand it to the proxy; and whether its host had to be assumed.
    fn request(&self, config: &Config) -> Result<(Request<Announced>, bool), String> {
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| format!("`{}` is not a method", self.method))?;
        let uri: Uri = self
            .target
            .parse()
            .map_err(|_| "the target is neither a path nor a URL: write `/api/users/?page=2`")?;
        let mut request = Request::new(Announced {
            length: self.content,
            chunked: false,
        });
        *request.method_mut() = method;
        for (name, value) in &self.fields {
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| "a field is written `Name: value`".to_owned())?;
            let value = HeaderValue::from_str(value.trim())
                .or_else(|_| HeaderValue::from_bytes(value.trim().as_bytes()))
                .map_err(|_| format!("the value of `{name}` cannot be sent"))?;
            request.headers_mut().append(name, value);
        }
        let given = request.headers().contains_key(header::HOST);
        match uri.authority() {
            Some(authority) if uri.scheme().is_some() => {
                if authority.as_str().contains('@') {
                    return Err(
                        "user and password do not belong into the URL: send them with -H".into(),
                    );
                }
                let https = uri.scheme_str() == Some("https");
                let fields = request.headers_mut();
                if !given {
                    let host = HeaderValue::from_str(authority.as_str())
                        .map_err(|_| "the URL's host cannot be sent")?;
                    fields.insert(header::HOST, host);
                }
                // Whoever speaks https to the client says so to us.
                if https && !fields.contains_key("x-forwarded-proto") {
                    fields.insert("x-forwarded-proto", HeaderValue::from_static("https"));
                }
                let target = uri.path_and_query().map_or("/", |both| both.as_str());
                *request.uri_mut() = target.parse().map_err(|_| "the URL has no path")?;
            }
            Some(_) | None => {
                if !given && let Ok(host) = HeaderValue::from_str(&assumed_host(config)) {
                    request.headers_mut().insert(header::HOST, host);
                }
                *request.uri_mut() = uri.clone();
            }
        }
        let fields = request.headers();
        let length = fields
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let announced = Announced {
            length: length.unwrap_or(self.content),
            chunked: fields.contains_key(header::TRANSFER_ENCODING),
        };
        let guessed = config.hosts.is_empty() && config.canonical_origin.is_none();
        let assumed = !given && uri.scheme().is_none() && guessed;
        Ok((request.map(|_| announced), assumed))
    }
}

/// The host that a request names if nothing else is said.
pub fn assumed_host(config: &Config) -> String {
    match (&config.canonical_origin, config.hosts.first()) {
        (_, Some(host)) => host.clone(),
        (Some(origin), None) => origin.authority.clone(),
        (None, None) => config.listen.to_string(),
    }
}

/// Content that is announced and never comes.
struct Announced {
    length: u64,
    chunked: bool,
}

impl Body for Announced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0 && !self.chunked
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

impl Explanation {
    /// Says what becomes of it, in the words of the log.
    fn handled(&mut self, handling: Handling, reason: Option<Reason>) {
        self.cache_status = Some(handling.to_string());
        self.cache = Some(handling.word().to_owned());
        self.detail = handling.detail().map(str::to_owned);
        self.because = reason.map(|reason| because(reason).to_owned());
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.failed(Error::Refused(refusal));
    }

    /// Larder's own answer.
    fn failed(&mut self, error: Error) {
        let answer = error.answer();
        let handling = Handling::Own {
            detail: error.word(),
        };
        self.handled(handling, None);
        self.refused_with = Some(answer.status.as_u16());
        self.because = Some(answer.detail.to_owned());
        self.look_up = None;
        self.store = None;
    }

    fn pass(&mut self, why: Forward, reason: Option<Reason>) {
        let handling = Handling::Forwarded {
            why,
            status: None,
            stored: false,
            collapsed: false,
            detail: reason.map(Reason::word),
        };
        self.handled(handling, reason);
        if let Some(reason) = reason {
            let no = || {
                Some(Verdict {
                    may: false,
                    reason: Some(reason.word().to_owned()),
                    why: because(reason).to_owned(),
                })
            };
            (self.look_up, self.store) = (no(), no());
        }
    }

    fn under(&mut self, config: &Config, index: usize, path: &str) {
        let route = &config.routes[index];
        self.route = Some(Under {
            index,
            path: route.path.as_str().to_owned(),
            key: route.key.as_str().to_owned(),
            access: words::access(route.access).to_owned(),
            ttl_seconds: route.ttl.as_secs(),
        });
        self.pass_over(&config.routes[..index], path);
    }

    fn pass_over(&mut self, routes: &[Route], path: &str) {
        self.passed_over.extend(routes.iter().map(|route| {
            let mismatch = route.path.mismatch(path);
            PassedOver {
                path: route.path.as_str().to_owned(),
                nearly: matches!(mismatch, Mismatch::Converter { .. }),
                why: mismatch.to_string(),
            }
        }));
    }

    /// A GET that goes past the cache before a route has had a word: which route it would have been.
    fn not_kept(&mut self, config: &Config, path: &str) {
        match plan::claim(config, path) {
            Claim::Canonical { route, .. } => self.under(config, route, path),
            Claim::OtherSpelling { route, captures } => {
                self.under(config, route, path);
                let pattern = &config.routes[route].path;
                let canonical = pattern.filled(&captures);
                self.canonical = pattern
                    .match_canonical(&canonical)
                    .is_some()
                    .then_some(canonical);
            }
            Claim::Nobodys => {
                self.pass_over(&config.routes, path);
                // The commonest slip of all.
                let other = match path.strip_suffix('/') {
                    Some(shorter) => shorter.to_owned(),
                    None => format!("{path}/"),
                };
                if let Claim::Canonical { .. } = plan::claim(config, &other) {
                    self.canonical = Some(other);
                }
            }
        }
    }

    fn read(&mut self, config: &Config, reading: &Reading, knowledge: Knowledge) {
        let (route, client) = (&config.routes[reading.route], &reading.client);
        let own;
        let served = match knowledge.served {
            Some(served) => &served[reading.route],
            None => {
                own = Served::new(config, route);
                &own
            }
        };
        let varied = served.varied.load();
        // Without the store's secret the key is right but for its suffix.
        let secret = knowledge.secret.unwrap_or(HashingSecret([0; 32]));
        let captures = &reading.captures;
        let asked = match present::present(config, served, captures, client, &varied, &secret) {
            Presented::Asked(asked) => asked,
            Presented::Pass(reason) => return self.pass(Forward::Bypass, Some(reason)),
            Presented::Refused(refusal) => return self.refuse(refusal),
        };
        self.copy = Some(copy(config, route, client, &asked, knowledge.secret));
        self.dropped_by = droppers(config, route, client, captures, &asked);
        self.look_up = Some(Verdict {
            may: true,
            reason: None,
            why: "it is served from the store if a valid copy is there".to_owned(),
        });
        self.store = Some(match client.method {
            Method::HEAD => Verdict {
                may: false,
                reason: None,
                why: "a HEAD is answered from a stored GET and fills nothing".to_owned(),
            },
            _ => Verdict {
                may: true,
                reason: None,
                why: words::terms(route),
            },
        });
    }

    fn write(&mut self, config: &Config, method: &Method, path: &str) {
        let Drops {
            rules,
            routes,
            states,
        } = plan::drops(config, method, &Decoded::of(path));
        if self.cache_status.is_none() {
            self.handled(Handling::forwarded(Forward::Method), None);
        }
        let place = |rule: &PurgeRule| {
            config
                .purge
                .iter()
                .position(|other| std::ptr::eq(other, rule))
                .unwrap_or_default()
        };
        let first = rules.iter().map(|(rule, _)| place(rule)).min();
        for rule in &config.purge[..first.unwrap_or(config.purge.len())] {
            let mismatch = rule.path.mismatch(path);
            let (why, nearly) = match rule.methods.contains(method) {
                true => (
                    mismatch.to_string(),
                    matches!(mismatch, Mismatch::Converter { .. }),
                ),
                false => (
                    format!("is for {}", words::methods(&rule.methods).join(" ")),
                    rule.path.match_decoded(&Decoded::of(path)).is_some(),
                ),
            };
            self.passed_over.push(PassedOver {
                path: rule.path.as_str().to_owned(),
                why,
                nearly,
            });
        }
        let unchanged = |status: &u16| {
            let status = StatusCode::from_u16(*status);
            status.is_ok_and(|status| protocol::outcome_of_status(status) == Outcome::Unchanged)
        };
        self.write = Some(Write {
            rules: rules
                .iter()
                .map(|(rule, _)| Rule {
                    index: place(rule),
                    methods: words::methods(&rule.methods),
                    path: rule.path.as_str().to_owned(),
                    keys: rule
                        .keys
                        .iter()
                        .map(|key| key.as_str().to_owned())
                        .collect(),
                })
                .collect(),
            routes: routes
                .iter()
                .map(|(route, _)| route.path.as_str().to_owned())
                .collect(),
            drops: states.iter().map(words::family_of_state).collect(),
            states: full_names(config, &states),
            not_after: (200..600).filter(unchanged).collect(),
        });
    }
}

fn full_names(config: &Config, states: &[StateKey]) -> Vec<String> {
    let full = |state: &StateKey| format!("{}:{state}", config.store.prefix);
    states.iter().map(full).collect()
}

/// The copy in words.
fn copy(
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
        query,
        accept,
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
        whose: whose(route.access, &splits),
        split_by: splits
            .iter()
            .map(|split| words::split(split, query, accept))
            .collect(),
        left_out: left_out(config, client, &outgoing.fields),
        forwarded: format!("GET {}", outgoing.target.as_str()),
        origin: asked.origin.clone(),
        states: full_names(config, &asked.states),
    }
}

fn whose(access: Access, splits: &[Split]) -> String {
    let credentials: Vec<String> = splits
        .iter()
        .filter(|split| matches!(split, Split::Credential(_) | Split::Cookie(_)))
        .map(|split| words::split(split, None, &AcceptClass::Json))
        .collect();
    match (access, credentials.as_slice()) {
        (Access::Public, _) => "everybody (`access: public`)".to_owned(),
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
fn droppers(
    config: &Config,
    route: &Route,
    client: &Client,
    captures: &Captures,
    asked: &Asked,
) -> Vec<Dropper> {
    let hits = |states: &[StateKey]| states.iter().any(|state| asked.states.contains(state));
    let mut found = Vec::new();
    for (index, rule) in config.purge.iter().enumerate() {
        for key in &rule.keys {
            let Some(values) = values(key, route, captures, &asked.states) else {
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
    states: &States,
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
