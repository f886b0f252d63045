//! Why a request is (not) cached, or what a write drops: the proxy's own decisions for one request, told as a value.
//! Nothing is decided here. The functions that decide for a real request are run (`proxy::accept`, `proxy::plan`,
//! `proxy::present`, `access`), and what they gave is written down. No value of a credential, a cookie or a field is in it.
//! Pure; `ask` goes on where the store and the API have to be looked at.

pub mod ask;
mod copy;
mod question;
mod told;
mod words;

use std::net::Ipv4Addr;
use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use http_body::Body;

use crate::access;
use crate::caching::cache_status::{Forward, Handling, Reason};
use crate::caching::invalidation;
use crate::caching::key::HashingSecret;
use crate::coherence::protocol::{self, Outcome};
use crate::config::{Access, Config, PurgeRule, Route};
use crate::error::{Error, Refusal};
use crate::proxy::plan::{self, By, Claim, Drops, Plan};
use crate::proxy::present::{self, Asked, Presented};
use crate::proxy::write::ends_a_verdict;
use crate::proxy::{self, Client, Served, admit};
use crate::route::{Captures, Decoded, Mismatch};
use crate::tls::server::{Agreed, Protocol};

pub use question::{Question, assumed_host};
pub use told::{Copy, Dropper, Explanation, PassedOver, Rule, Under, Verdict, Write};
pub use words::{because, going_out};

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

/// A request that is not refused as it stands.
pub enum Accepted {
    Read(Reading),
    /// A write, or what no route keeps.
    Other(Client),
}

impl Accepted {
    pub fn client(&self) -> &Client {
        match self {
            Accepted::Read(reading) => &reading.client,
            Accepted::Other(client) => client,
        }
    }

    pub fn reading(self) -> Option<Reading> {
        match self {
            Accepted::Read(reading) => Some(reading),
            Accepted::Other(_) => None,
        }
    }
}

/// Explains a request. `Err` says why what was asked is no request at all.
pub fn explain(
    config: &Config,
    question: &Question,
    knowledge: Knowledge,
) -> Result<(Explanation, Option<Accepted>), String> {
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
    let tls = config.tls.as_ref().map(|_| Agreed {
        host: question
            .server_name
            .as_deref()
            .map(|name| name.to_ascii_lowercase().into()),
        protocol: Protocol::Http1,
        certified: false,
    });
    let (client, content) = match proxy::accept(config, request, Some(peer), tls.as_ref()) {
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
    // Whether its credential has states is seen without their secret, too; an instance that has none ends nothing.
    let secret = match knowledge.served {
        Some(_) => knowledge.secret,
        None => Some(HashingSecret([0; 32])),
    };
    match admit::with_credential_by(config, secret.as_ref(), &client, planned) {
        // What it comes to is the origin's word, and known when it has spoken.
        Plan::Read { route, captures } if config.routes[route].is_by_http() => {
            told.under(config, route, path);
            told.by_http(&config.routes[route], &client.method);
            let reading = Reading {
                route,
                captures,
                client,
            };
            return Ok((told, Some(Accepted::Read(reading))));
        }
        Plan::Read { route, captures } => {
            told.under(config, route, path);
            let reading = Reading {
                route,
                captures,
                client,
            };
            told.read(config, &reading, knowledge);
            return Ok((told, Some(Accepted::Read(reading))));
        }
        Plan::Write { states, .. } => {
            told.write(config, &client.method, path, ends_a_verdict(&states));
        }
        Plan::Pass { why, detail } => {
            told.pass(why, detail);
            match client.method {
                Method::GET | Method::HEAD => told.not_kept(config, path),
                Method::OPTIONS => {}
                _ => told.write(config, &client.method, path, false),
            }
        }
    }
    Ok((told, Some(Accepted::Other(client))))
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
            access: words::access(route).to_owned(),
            ttl_seconds: route.ttl.as_secs(),
            going_out: words::going_out(route),
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

    fn by_http(&mut self, route: &Route, method: &Method) {
        self.look_up = Some(Verdict {
            may: true,
            reason: None,
            why: "it is served from the store if the origin's own words allow it (RFC 9111)"
                .to_owned(),
        });
        self.store = Some(Verdict {
            may: *method == Method::GET,
            reason: None,
            why: words::terms(route),
        });
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
        let admitted = match admit::by_its_token(config, served, client) {
            None => None,
            Some(Ok(verdict)) => Some(Arc::new(verdict)),
            Some(Err(unverified)) => {
                // A token is looked at only where a good one would have the request looked up; whether one stands there alone, before that.
                let looked_at = !matches!(unverified.reason, Reason::JwtAbsent | Reason::JwtMixed);
                let without =
                    || present::present(config, served, captures, client, &varied, &secret, None);
                match looked_at.then(without) {
                    Some(Presented::Pass(reason)) => {
                        return self.pass(Forward::Bypass, Some(reason));
                    }
                    Some(Presented::Refused(refusal)) => return self.refuse(refusal),
                    Some(Presented::Asked(_) | Presented::Unverified) | None => {}
                }
                self.pass(Forward::Bypass, Some(unverified.reason));
                self.because = Some(format!(
                    "{}: {}",
                    because(unverified.reason),
                    unverified.why
                ));
                return;
            }
        };
        let presented =
            present::present(config, served, captures, client, &varied, &secret, admitted);
        let asked = match presented {
            Presented::Asked(asked) => asked,
            Presented::Pass(reason) => return self.pass(Forward::Bypass, Some(reason)),
            Presented::Unverified => return self.unverified(config, route, client),
            Presented::Refused(refusal) => return self.refuse(refusal),
        };
        self.presented(config, route, reading, &asked, knowledge.secret);
    }

    /// The copy it is given or fills.
    fn presented(
        &mut self,
        config: &Config,
        route: &Route,
        reading: &Reading,
        asked: &Asked,
        secret: Option<HashingSecret>,
    ) {
        let (client, captures) = (&reading.client, &reading.captures);
        self.copy = Some(copy::copy(config, route, client, asked, secret));
        self.dropped_by = copy::droppers(config, route, client, captures, asked);
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
            _ => may_store(config, route, client),
        });
    }

    /// Which copy it is given, the verify answer says; and that is not asked for here, or it would be kept.
    fn unverified(&mut self, config: &Config, route: &Route, client: &Client) {
        let Access::Verify(verify) = &route.access else {
            return;
        };
        self.look_up = Some(Verdict {
            may: true,
            reason: None,
            why: format!(
                "after the API has admitted this credential: `GET {}` with it, a 2xx is good for {}; anything else goes on uncached",
                verify.path,
                humantime::format_duration(verify.lasting)
            ),
        });
        self.store = Some(may_store(config, route, client));
    }

    fn write(&mut self, config: &Config, method: &Method, path: &str, ends_verdict: bool) {
        let Drops {
            rules,
            routes,
            states,
            by,
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
            let outcome = match by == By::Http && !ends_verdict {
                true => invalidation::outcome,
                false => protocol::outcome_of_status,
            };
            status.is_ok_and(|status| outcome(status) == Outcome::Unchanged)
        };
        self.write = Some(Write {
            rules: plan::once(&rules)
                .map(|rule| Rule {
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
            routes: plan::once(&routes)
                .map(|route| route.path.as_str().to_owned())
                .collect(),
            drops: states.iter().map(words::family_of_state).collect(),
            states: copy::full_names(config, &states),
            ends_verdict,
            not_after: (200..600).filter(unchanged).collect(),
            lag_seconds: config.upstream.lag.as_secs_f64(),
        });
    }
}

/// Whether an answer to this client is kept, as far as the file says it.
fn may_store(config: &Config, route: &Route, client: &Client) -> Verdict {
    match access::may_fill(&route.access, config, &client.fields) {
        true => Verdict {
            may: true,
            reason: None,
            why: words::terms(route),
        },
        false => Verdict {
            may: false,
            reason: Some(Reason::VerifyMixed.word().to_owned()),
            why: because(Reason::VerifyMixed).to_owned(),
        },
    }
}
