//! Looks where the answer is: into the store, and, where nothing there can be served, at the API, which is asked
//! exactly as a fill would ask it. Nothing is kept of that, and nothing is changed but for what looking up may change.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::{
    Accepted, Explanation, Knowledge, Question, Reading, Verdict, because, explain, words,
};
use crate::access;
use crate::access::verdict::Said;
use crate::caching::cache_status::{Forward, Handling, Reason};
use crate::caching::freshness::Exchange;
use crate::caching::head::Head;
use crate::caching::reuse::{self, Reuse};
use crate::caching::stored::{Freshness, Stored, is_negative};
use crate::caching::storing;
use crate::clock;
use crate::coherence::{LookUp, Seen, States};
use crate::config::{Access, Route, WhenStoreIsDown};
use crate::error::{Error, UpstreamFailure};
use crate::message::fields;
use crate::proxy::fetch::{self, Unshown};
use crate::proxy::obey::{self, Foreseen};
use crate::proxy::present::{self, Asked, Presented};
use crate::proxy::{Client, Served, Setup, admit, read};
use crate::store::Health;

/// What was found in the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Found {
    /// What stands at the key, valid or not; nothing if nothing of ours does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<Kept>,
    pub valid: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The states as they are now: an epoch, `held` or `absent`.
    pub states: Vec<(String, String)>,
}

/// A copy as it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    pub status: u16,
    pub bytes: usize,
    pub age_seconds: u64,
    pub ttl_seconds: u64,
    pub origin: String,
    /// The epochs under which it was fetched.
    pub epochs: Vec<(String, String)>,
}

/// What the API answers to a fill.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub ms: u64,
    /// Whether it would be kept.
    pub kept: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Fields by which it varies and the key comes to split.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub varies_by: Vec<String>,
    /// Fields by which it varies and that no key holds.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unkeyed: Vec<String>,
}

/// How often a read looks anew because the key was not what it should have been; as a real one does.
const ATTEMPTS: usize = 3;

/// Explains a request with what the store holds and, for what is not served from there, what the API says.
pub async fn ask(setup: &Arc<Setup>, question: &Question) -> Result<Explanation, String> {
    let store = setup.coherence.store();
    let mut knowledge = Knowledge {
        secret: store.secret(),
        served: Some(&setup.served),
    };
    let (mut told, accepted) = explain(&setup.config, question, knowledge)?;
    if let (Some(accepted), Some(rate)) = (&accepted, &setup.rate)
        && let Err(wait) = rate.would_admit(&setup.config, accepted.client())
    {
        told.failed(Error::RateLimited(wait));
        return Ok(told);
    }
    let mut reading = accepted.and_then(Accepted::reading);
    let is_held = told
        .write
        .as_ref()
        .is_some_and(|write| !write.drops.is_empty() || write.ends_verdict);
    if is_held
        && setup.config.when_store_is_down == WhenStoreIsDown::RefuseWrites
        && !matches!(store.health(), Health::Up | Health::Settling)
    {
        told.failed(Error::StoreAway);
        return Ok(told);
    }
    if let Some(reading) = &reading
        && setup.config.routes[reading.route].is_by_http()
    {
        told.foreseen(setup, reading).await;
        return Ok(told);
    }
    let mut looked = None;
    for _ in 0..ATTEMPTS {
        let Some(reading) = &reading else {
            return Ok(told);
        };
        let served = &setup.served[reading.route];
        let asked = match read::present(setup, served, &reading.captures, &reading.client) {
            Presented::Asked(asked) => asked,
            Presented::Pass(reason) => {
                told.pass(Forward::Bypass, Some(reason));
                return Ok(told);
            }
            Presented::Unverified => match told.judged(setup, reading).await {
                Some(asked) => asked,
                None => return Ok(told),
            },
            Presented::Refused(refusal) => {
                told.refuse(refusal);
                return Ok(told);
            }
        };
        let (mut found, mut result) = look(setup, &asked).await;
        // A hold that is overdue counts until it is swept. A fetch would sweep it; so does this, and says what is then so.
        if matches!(result, LookUp::Miss(Reason::Held, _))
            && setup
                .coherence
                .open(&States::from(asked.depends.own()))
                .await
                .is_ok()
        {
            (found, result) = look(setup, &asked).await;
        }
        told.found = Some(found);
        let news = match &result {
            LookUp::Valid(stored) | LookUp::Outdated(stored)
                if !asked.holds(stored.head.varied()) =>
            {
                served.learn_here(stored.head.varied())
            }
            LookUp::Valid(_) | LookUp::Outdated(_) => false,
            LookUp::Miss(..) => served.learn_from_others(&setup.coherence).await,
        };
        looked = Some((asked, result));
        if !news {
            break;
        }
        knowledge.secret = store.secret();
        let (found, admitted) = (told.found.take(), told.admitted.take());
        (told, _) = explain(&setup.config, question, knowledge)?;
        (told.found, told.admitted) = (found, admitted);
    }
    let (Some(reading), Some((asked, result))) = (reading.take(), looked) else {
        return Ok(told);
    };
    let mut stale = None;
    let why = match result {
        LookUp::Valid(stored) => {
            let terms = read::terms(&setup.served[reading.route].route);
            match reuse::reuse(&stored, terms, clock::now(), || u64::MAX) {
                Reuse::Serve { left } | Reuse::Refresh { left } => {
                    let ttl = left.as_secs();
                    told.handled(Handling::Hit { ttl }, None);
                    return Ok(told);
                }
                Reuse::ServeStale { stale } => {
                    let stale = stale.as_secs();
                    let reason = Reason::StaleWhileRevalidate;
                    told.handled(Handling::StaleHit { stale }, Some(reason));
                    return Ok(told);
                }
                Reuse::Validate => {
                    stale = Some(stored);
                    Reason::Expired
                }
            }
        }
        LookUp::Outdated(stored) => {
            let (terms, now) = (
                read::terms(&setup.served[reading.route].route),
                clock::now(),
            );
            match reuse::outdated(&stored, terms, now) {
                Reuse::ServeStale { .. } if stored.is_fresh(now) => {
                    told.handled(Handling::OutdatedHit, Some(Reason::SoftPurge));
                    return Ok(told);
                }
                Reuse::ServeStale { stale } => {
                    let stale = stale.as_secs();
                    let reason = Reason::StaleWhileRevalidate;
                    told.handled(Handling::StaleHit { stale }, Some(reason));
                    return Ok(told);
                }
                _ => {
                    stale = Some(stored);
                    Reason::Expired
                }
            }
        }
        LookUp::Miss(why, _) => why,
    };
    if reading.client.method == Method::HEAD {
        told.pass(read::forward_word(why), Some(why));
        told.store = None;
    } else {
        told.fill(setup, &reading, &asked, why, stale).await;
    }
    Ok(told)
}

/// The copy and its states as they are, and what a look-up makes of them.
async fn look(setup: &Setup, asked: &Asked) -> (Found, LookUp) {
    let now = clock::now();
    let result = setup
        .coherence
        .look_up(&asked.copy, &asked.depends, &asked.origin)
        .await;
    let reason = match &result {
        LookUp::Valid(stored) => match stored.freshness(now) {
            Freshness::Fresh { .. } => None,
            Freshness::Stale { .. } => Some(Reason::Expired),
        },
        LookUp::Outdated(_) => Some(Reason::SoftPurge),
        LookUp::Miss(reason, _) => Some(*reason),
    };
    let mut found = Found {
        valid: reason.is_none(),
        reason: reason.map(|reason| reason.word().to_owned()),
        ..Found::default()
    };
    if let Ok(raw) = setup
        .coherence
        .store()
        .look_up(&asked.copy, &asked.depends.states)
        .await
    {
        found.copy = raw.copy.ok().map(|copy| kept(&copy, now));
        let word = |seen: &Seen| match seen {
            Seen::Current(epoch) => epoch.to_string(),
            Seen::Held => "held".to_owned(),
            Seen::Absent => "absent".to_owned(),
        };
        let states = raw.states.iter();
        found.states = states
            .map(|(state, seen)| (state.to_string(), word(seen)))
            .collect();
    }
    (found, result)
}

fn kept(copy: &Stored, now: clock::Timestamp) -> Kept {
    Kept {
        status: copy.status.as_u16(),
        bytes: copy.body.len(),
        age_seconds: copy.age(now).as_secs(),
        ttl_seconds: copy.freshness(now).left().as_secs(),
        origin: copy.head.origin().to_owned(),
        epochs: copy
            .epochs
            .iter()
            .map(|(state, epoch)| (state.to_string(), epoch.to_string()))
            .collect(),
    }
}

impl Explanation {
    /// Under `policy: http`: what the origin's own words come to.
    async fn foreseen(&mut self, setup: &Arc<Setup>, reading: &Reading) {
        let (captures, client) = (&reading.captures, &reading.client);
        let foreseen = match obey::foresee(setup, reading.route, captures, client).await {
            Ok(foreseen) => foreseen,
            Err(error) => return self.failed(error),
        };
        let Foreseen {
            handling,
            reason,
            answered,
        } = foreseen;
        self.handled(handling, reason);
        let Some(answered) = answered else {
            return;
        };
        let reason = answered.kept.err().map(|reason| reason.word().to_owned());
        self.store = Some(Verdict {
            may: reason.is_none(),
            reason: reason.clone(),
            why: match answered.kept {
                Ok(_) => words::terms(&setup.config.routes[reading.route]),
                Err(reason) => because(reason).to_owned(),
            },
        });
        self.answer = Some(Answer {
            status: answered.status.as_u16(),
            ms: u64::try_from(answered.took.as_millis()).unwrap_or(u64::MAX),
            kept: reason.is_none(),
            for_seconds: answered.kept.ok().map(|lifetime| lifetime.as_secs()),
            reason,
            ..Answer::default()
        });
    }

    /// Where the route goes by a verdict on each client: it is asked for as a request would, and nobody keeps it.
    async fn judged(&mut self, setup: &Arc<Setup>, reading: &Reading) -> Option<Asked> {
        let (served, client) = (&setup.served[reading.route], &reading.client);
        let Some(secret) = setup.coherence.store().secret() else {
            self.pass(Forward::Bypass, Some(Reason::StoreAway));
            return None;
        };
        let verdict = Arc::new(admit::judge(setup, served, client, &secret).await);
        if let Said::NotAdmitted(reason) = verdict.said {
            // A token's own fault has been told already, in more words.
            if self.detail.as_deref() != Some(reason.word()) {
                self.pass(Forward::Bypass, Some(reason));
            }
            return None;
        }
        self.admitted = Some(match &served.route.access {
            Access::Verify(verify) => format!(
                "`GET {}` says so now, asked with this credential",
                verify.path
            ),
            _ => "by its token, which nobody has revoked".to_owned(),
        });
        let (config, captures) = (&setup.config, &reading.captures);
        let varied = served.varied.load();
        let presented = present::present(
            config,
            served,
            captures,
            client,
            &varied,
            &secret,
            Some(verdict),
        );
        let Presented::Asked(asked) = presented else {
            return None;
        };
        self.presented(config, &served.route, reading, &asked, Some(secret));
        Some(asked)
    }

    /// A miss for that reason: what the API says, and whether it is kept.
    async fn fill(
        &mut self,
        setup: &Arc<Setup>,
        reading: &Reading,
        asked: &Asked,
        why: Reason,
        stale: Option<Arc<Stored>>,
    ) {
        let served = &setup.served[reading.route];
        let (access, fields) = (&served.route.access, &reading.client.fields);
        if !access::may_fill(access, &setup.config, fields) {
            let handling = Handling::Forwarded {
                why: read::forward_word(why),
                status: None,
                stored: false,
                collapsed: false,
                detail: Some(Reason::VerifyMixed.word()),
            };
            return self.handled(handling, Some(Reason::VerifyMixed));
        }
        let terms = read::terms(&served.route);
        let stands_in = stale.is_some_and(|stored| reuse::stands_in(&stored, terms, clock::now()));
        let judged = match judge(setup, &served.route, &reading.client, asked).await {
            Ok(judged) => judged,
            Err(_) if stands_in => return self.stands_in(None),
            Err(failure) => return self.failed(Error::Upstream(failure)),
        };
        let mut answer = judged.told();
        if stands_in && fetch::is_stood_in_for(answer.status) {
            self.stands_in(StatusCode::from_u16(answer.status).ok());
            self.answer = Some(answer);
            return;
        }
        if let Some(reason) = judged.not_for_a_cache {
            self.pass(Forward::Bypass, Some(reason));
            answer.reason = Some(reason.word().to_owned());
            self.answer = Some(answer);
            return;
        }
        let verdict = match judged.verdict {
            Ok(_) if matches!(why, Reason::Held | Reason::StoreAway) => Err(why),
            Ok(lifetime) => match unborn(setup, served, judged.status).await {
                Ok(()) => room(setup, served, asked).await.map(|()| lifetime),
                Err(reason) => Err(reason),
            },
            Err(reason) => Err(reason),
        };
        let reason = verdict.err();
        let handling = Handling::Forwarded {
            why: read::forward_word(why),
            status: StatusCode::from_u16(answer.status).ok(),
            stored: reason.is_none(),
            collapsed: false,
            detail: Some(reason.unwrap_or(why).word()),
        };
        self.handled(handling, Some(reason.unwrap_or(why)));
        answer.kept = reason.is_none();
        answer.reason = reason.map(|reason| reason.word().to_owned());
        answer.for_seconds = verdict.ok().map(|lifetime| lifetime.as_secs());
        self.store = Some(Verdict {
            may: reason.is_none(),
            reason: answer.reason.clone(),
            why: match reason {
                Some(reason) => because(reason).to_owned(),
                None => words::terms(&served.route),
            },
        });
        self.answer = Some(answer);
    }

    /// The API fails, and the copy past its time is given in its place.
    fn stands_in(&mut self, status: Option<StatusCode>) {
        self.handled(
            Handling::stood_in(status, false),
            Some(Reason::StaleIfError),
        );
    }
}

/// Whether nothing holds what a copy of a 404 depends on, too: a write that may make it is not in flight.
async fn unborn(setup: &Setup, served: &Served, status: StatusCode) -> Result<(), Reason> {
    match &served.absence {
        Some(absence) if is_negative(status) => setup.coherence.open(absence).await.map(drop),
        _ => Ok(()),
    }
}

/// Whether the store would take one more copy. It is tried, with an empty one that lives a second.
async fn room(setup: &Setup, served: &Served, asked: &Asked) -> Result<(), Reason> {
    let now = clock::now();
    let (family, ttl) = (&asked.family, served.route.ttl);
    if asked.copy.contains('~') && !setup.cap.has_room(family, &asked.copy, ttl, now) {
        return Err(Reason::TooManyCopies);
    }
    let probe = Stored {
        status: StatusCode::OK,
        head: Head::new(HeaderMap::new(), "", &[]),
        body: Default::default(),
        response_time: now,
        took: Duration::ZERO,
        initial_age: Duration::ZERO,
        lifetime: Duration::from_secs(1),
        epochs: Default::default(),
    };
    let key = format!("{}:~probe", setup.config.store.prefix);
    let lasting = Duration::ZERO;
    setup
        .coherence
        .commit(&key, Arc::new(probe), lasting, now)
        .await
}

/// An answer of the API, and what the rules say of it.
pub struct Judged {
    pub status: StatusCode,
    pub fields: HeaderMap,
    /// Its first bytes.
    pub start: Vec<u8>,
    pub took: Duration,
    /// How long it is kept, or why not.
    pub verdict: Result<Duration, Reason>,
    /// Why this client is answered for itself: see `Unshown`.
    pub not_for_a_cache: Option<Reason>,
    pub varies_by: Vec<HeaderName>,
    pub unkeyed: Vec<HeaderName>,
}

/// Of an answer that is looked at, so much is remembered.
const START: usize = 16 * 1024;

/// Asks the API as a fill asks it, and judges its answer as the fetch would.
pub async fn judge(
    setup: &Arc<Setup>,
    route: &Route,
    client: &Client,
    asked: &Asked,
) -> Result<Judged, UpstreamFailure> {
    let outgoing = present::fill(&setup.config, route, client, asked);
    let started = clock::stopwatch();
    let slot = setup.upstream.slot(client.asker(&setup.config)).await?;
    let request_time = clock::now();
    let mut response = setup.upstream.send(slot, outgoing).await?;
    let exchange = Exchange {
        request_time,
        response_time: clock::now(),
    };
    let took = started.elapsed();
    fields::strip_hop_by_hop(response.headers_mut());
    let policy = fetch::policy(&setup.config, route);
    let length = response.body().size_hint().exact();
    let (head, body) = response.into_parts();
    let nominated = storing::nominated(&policy, &head.headers);
    let mut verdict = storing::storable(
        &policy,
        &nominated,
        head.status,
        &head.headers,
        length,
        exchange,
    )
    .map(|storable| whole_seconds(storable.lifetime - storable.initial_age));
    let mut body = pin!(body);
    let (mut start, mut total) = (Vec::new(), 0u64);
    let deadline = tokio::time::Instant::now() + setup.upstream.settings().total;
    while total <= route.max_body {
        let frame = tokio::time::timeout_at(deadline, body.frame())
            .await
            .map_err(|_| UpstreamFailure::TotalTimeout)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| UpstreamFailure::Lost)?;
        if let Ok(data) = frame.into_data() {
            total += data.len() as u64;
            let room = START.saturating_sub(start.len()).min(data.len());
            start.extend_from_slice(&data[..room]);
        }
    }
    if total > route.max_body && verdict.is_ok() {
        verdict = Err(Reason::TooLarge);
    }
    let answer = (head.status, &head.headers);
    let unshown = fetch::unshown(&setup.config, route, &nominated, client, asked, answer);
    let not_for_a_cache = unshown.map(Unshown::reason);
    Ok(Judged {
        status: head.status,
        start,
        took,
        verdict,
        not_for_a_cache,
        varies_by: nominated.learnable,
        unkeyed: nominated.unkeyed,
        fields: head.headers,
    })
}

/// Rounded up, as the second in which it was asked is not worth a word.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

impl Judged {
    fn told(&self) -> Answer {
        Answer {
            status: self.status.as_u16(),
            ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            varies_by: self.varies_by.iter().map(words::field).collect(),
            unkeyed: self.unkeyed.iter().map(words::field).collect(),
            ..Answer::default()
        }
    }
}
