//! One fetch for all who wait: ask the upstream, decide whether its answer is kept, and share it as it comes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::present::{self, Asked, Presented};
use super::{Client, Served, Setup, read};
use crate::access;
use crate::body::{SharedBody, compact, is_compact};
use crate::caching::cache_status::Reason;
use crate::caching::freshness::Exchange;
use crate::caching::head::Head;
use crate::caching::reuse;
use crate::caching::stored::{Freshness, Stored, is_negative};
use crate::caching::storing::{self, Nominated, Policy, Storable};
use crate::caching::validation;
use crate::clock;
use crate::coherence::flights::Fill;
use crate::coherence::{Epochs, LookUp, fresh_bits, protocol};
use crate::config::{Access, Config, Route};
use crate::encoding;
use crate::error::UpstreamFailure;
use crate::message::accept::{self, AcceptClass};
use crate::message::{conditions, fields};
use crate::route::Captures;
use crate::upstream::UpstreamBody;

/// What those who wait are told.
#[derive(Clone)]
pub enum Answer {
    /// Somebody else had stored it in the meantime.
    Found(Arc<Stored>),
    /// The stale copy, as the origin answers with that error or not at all.
    StandIn(Arc<Stored>, Option<StatusCode>),
    /// The whole answer.
    Fetched(Arc<Fetched>),
    /// An answer that is still coming.
    Coming(Arc<Coming>),
    /// For the one whose request it was, alone: nobody else may see it. Others go upstream themselves.
    Alone(Arc<Mutex<Option<Response<UpstreamBody>>>>, Reason),
    /// It depends on a field or cookie that a fill does not carry: each asks for itself, as it came.
    NotForACache(Reason),
    /// It varies by a field that the client had sent, and the fill had not: from now on keys hold it and fills carry it, so
    /// everybody asks again.
    Unsent,
    /// For the one whose request it was; the others' keys are not what they thought: they ask again.
    Varied(Arc<Fetched>),
    Failed(UpstreamFailure),
}

#[derive(Clone)]
pub struct Fetched {
    pub status: StatusCode,
    /// What the upstream said: 304, where the stored body was still good.
    pub said: StatusCode,
    /// End to end, complete with Date.
    pub fields: HeaderMap,
    pub body: Bytes,
    /// Why it was not stored.
    pub not_stored: Option<Reason>,
    /// The upstream's answer itself was not storable for its status, or says that something is absent, which a create ends
    /// without a word to its copies' own states: shared only with whom it may be.
    pub for_its_status: bool,
}

pub struct Coming {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: SharedBody,
    pub others: Others,
    pub not_stored: Option<Reason>,
    pub for_its_status: bool,
}

/// What those do whose request it was not, while an answer is still coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Its end is announced and will be kept: they see it whole or broken off.
    ReadAlong,
    /// It may yet turn out too large to keep.
    Wait,
    /// It has.
    GoAlone,
}

/// All that a fetch needs, so that it can outlive the request it began with.
pub struct Fetch {
    pub setup: Arc<Setup>,
    pub route: usize,
    pub captures: Captures,
    pub client: Arc<Client>,
    pub asked: Arc<Asked>,
    /// What to store under, or why there is nothing.
    pub epochs: Result<Epochs, Reason>,
    /// What a negative answer is stored under besides.
    pub absence: Option<Epochs>,
    /// A valid copy that is to be validated or replaced.
    pub replacing: Option<Arc<Stored>>,
    /// Whether it may be there by now.
    pub look_again: bool,
}

impl Fetch {
    /// The fetch from its turn to its end.
    pub async fn run(mut self, mut fill: Fill<Answer>) {
        fill.turn().await;
        if self.epochs.is_ok() && self.look_again {
            // Another fetch may have ended between our look-up and our turn, and then there is nothing to do.
            let looked = self.setup.coherence.look_up(
                &self.asked.copy,
                &self.asked.depends,
                &self.asked.origin,
            );
            if let LookUp::Valid(stored) = looked.await {
                let fresh = matches!(stored.freshness(clock::now()), Freshness::Fresh { .. });
                let known = self.replacing.as_ref().is_some_and(|old| *old == stored);
                if fresh && !known {
                    return fill.answer(Answer::Found(stored));
                }
            }
        }
        self.keep_only_if_unwritten();
        let asker = self.client.asker(&self.setup.config);
        let upstream = &self.setup.upstream;
        let slot = match upstream.slot_for(fill.key(), asker).await {
            Ok(slot) => slot,
            Err(failure) => return self.failed(&fill, failure),
        };
        fill.leave();
        let mut outgoing = present::fill_at(&self.setup, self.route, &self.client, &self.asked);
        if let Some(stored) = &self.replacing {
            let mut known = stored.head.fields();
            // A tag of our own tells the upstream nothing, and would hide the date that does (RFC 9110 §13.1.3).
            if known.get(header::ETAG) == Some(&conditions::tag_of(&stored.body)) {
                known.remove(header::ETAG);
            }
            validation::condition(&known, outgoing.fields.to_mut());
        }
        let request_time = clock::now();
        match self.setup.upstream.send(slot, outgoing).await {
            Ok(response) => {
                let exchange = Exchange {
                    request_time,
                    response_time: clock::now(),
                };
                self.receive(&fill, response, exchange).await;
            }
            Err(failure) => self.failed(&fill, failure),
        }
    }

    /// A copy that a write may have invalidated since it was looked up is of no more use.
    fn keep_only_if_unwritten(&mut self) {
        let (epochs, absence) = (self.epochs.as_ref().ok(), self.absence.as_ref());
        let replacing = self.replacing.take();
        self.replacing = replacing.filter(|stored| is_unwritten(stored, epochs, absence));
    }

    /// The copy that may be shown in the place of an error.
    fn stand_in(&self) -> Option<Arc<Stored>> {
        let terms = read::terms(&self.served().route);
        let stored = self.replacing.as_ref();
        stored
            .filter(|stored| reuse::stands_in(stored, terms, clock::now()))
            .cloned()
    }

    /// No answer.
    fn failed(&self, fill: &Fill<Answer>, failure: UpstreamFailure) {
        fill.answer(match self.stand_in() {
            Some(stored) => Answer::StandIn(stored, None),
            None => Answer::Failed(failure),
        });
    }

    fn served(&self) -> &Served {
        &self.setup.served[self.route]
    }

    async fn receive(
        &self,
        fill: &Fill<Answer>,
        mut response: Response<UpstreamBody>,
        exchange: Exchange,
    ) {
        fields::strip_hop_by_hop(response.headers_mut());
        let served = self.served();
        let route = &served.route;
        if is_stood_in_for(response.status().as_u16())
            && let Some(stored) = self.stand_in()
        {
            return fill.answer(Answer::StandIn(stored, Some(response.status())));
        }
        let said = response.status();
        let validated = match (said, &self.replacing) {
            (StatusCode::NOT_MODIFIED, Some(stored)) => {
                let fields = validation::freshened(&stored.head.fields(), response.headers());
                *response.status_mut() = stored.status;
                *response.headers_mut() = fields;
                Some(stored.body.clone())
            }
            _ => None,
        };
        let policy = policy(&self.setup.config, route);
        if route.access == Access::Public
            && matches!(response.status().as_u16(), 401 | 403)
            && !served.said_not_public.swap(true, Ordering::Relaxed)
        {
            warn!(
                route = route.path.as_str(),
                status = response.status().as_u16(),
                "a route with `access: public` is refused without credentials: it is not public; write `access: per-credential`"
            );
        }
        // Judged whatever the status, so that nobody is given what varies by a field that was not sent or keyed.
        let nominated = storing::nominated(&policy, response.headers());
        let (config, client) = (&self.setup.config, &self.client);
        let answer = (said, response.headers());
        let unshown = unshown(config, route, &nominated, client, &self.asked, answer);
        if let Some(unshown) = unshown {
            served.learn_unshown(client, &nominated, unshown);
            return fill.answer(Answer::NotForACache(unshown.reason()));
        }
        let new: Vec<_> = nominated
            .learnable
            .iter()
            .filter(|name| !self.asked.varied.contains(name))
            .cloned()
            .collect();
        if !new.is_empty() {
            Box::pin(served.learn(&self.setup.coherence, &new)).await;
        }
        if new.iter().any(|name| self.client.fields.contains_key(name)) {
            return fill.answer(Answer::Unsent);
        }
        let length = match &validated {
            Some(body) => Some(body.len() as u64),
            None => response.body().size_hint().exact(),
        };
        let verdict = storing::storable(
            &policy,
            &nominated,
            response.status(),
            response.headers(),
            length,
            exchange,
        );
        let (storable, not_stored) = match verdict {
            Ok(storable) => (Some(storable), self.epochs.as_ref().err().copied()),
            // One user's refusal, or limit, is nobody else's, although the copy would be.
            Err(reason)
                if validated.is_some()
                    || (storing::shareable(reason, response.status())
                        && !route.access.is_by_verdict()) =>
            {
                (None, Some(reason))
            }
            Err(reason) => {
                return fill.answer(Answer::Alone(Arc::new(Mutex::new(Some(response))), reason));
            }
        };
        let varied = nominated.learnable;
        let (head, body) = response.into_parts();
        let mut incoming = Incoming {
            storable,
            not_stored,
            for_its_status: not_stored == Some(Reason::Status) || is_negative(head.status),
            said,
            status: head.status,
            fields: head.headers,
            exchange,
            length,
            varied,
        };
        match validated {
            Some(stored) => {
                let fetched = Arc::new(incoming.keep(self, stored).await);
                // Fields that make it for one client alone may have come with the 304.
                fill.answer(match new.is_empty() && fetched.not_stored.is_none() {
                    true => Answer::Fetched(fetched),
                    false => Answer::Varied(fetched),
                });
            }
            None => incoming.collect(self, fill, body, !new.is_empty()).await,
        }
    }

    /// The key under the fields that the answer has just been seen to vary by.
    fn asked_again(&self) -> Option<Asked> {
        let secret = self.setup.coherence.store().secret()?;
        let varied = self.served().varied.load_full();
        match present::present(
            &self.setup.config,
            self.served(),
            &self.captures,
            &self.client,
            &varied,
            &secret,
            self.asked.admitted.clone(),
        ) {
            Presented::Asked(asked) => Some(asked),
            Presented::Pass(_) | Presented::Unverified | Presented::Refused(_) => None,
        }
    }
}

/// An answer that may be shared, while its body comes in.
struct Incoming {
    storable: Option<Storable>,
    not_stored: Option<Reason>,
    for_its_status: bool,
    said: StatusCode,
    status: StatusCode,
    fields: HeaderMap,
    exchange: Exchange,
    length: Option<u64>,
    varied: Vec<header::HeaderName>,
}

impl Incoming {
    async fn collect(
        &mut self,
        fetch: &Fetch,
        fill: &Fill<Answer>,
        mut body: UpstreamBody,
        alone: bool,
    ) {
        let most = fetch.served().route.max_body;
        let deadline = tokio::time::Instant::now() + fetch.setup.upstream.settings().total;
        let whole_first = self.is_told_by_its_body(&fetch.served().route);
        let mut shared = None;
        let mut chunks: Vec<Bytes> = Vec::new();
        let (mut shown, mut total) = (0, 0u64);
        loop {
            let frame = {
                let mut next = pin!(body.frame());
                match poll_once(next.as_mut()).await {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => {
                        // Nothing more for now: what is there goes out, but for a last chunk, which waits for the store.
                        if !chunks.is_empty() && Some(total) != self.length && !whole_first {
                            let shared = shared.get_or_insert_with(|| {
                                let shared = SharedBody::new(self.length);
                                fill.answer(Answer::Coming(Arc::new(
                                    self.coming(&shared, self.others(alone)),
                                )));
                                shared
                            });
                            shared.push_all(&chunks[shown..]);
                            shown = chunks.len();
                        }
                        match tokio::time::timeout_at(deadline, next).await {
                            Ok(frame) => frame,
                            Err(_) => {
                                let failure = UpstreamFailure::TotalTimeout;
                                return broken(fetch, fill, shared.as_ref(), failure);
                            }
                        }
                    }
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    total += data.len() as u64;
                    chunks.push(compact(data));
                    if total > most {
                        // Too large to keep: it goes on to the one whose request it was, alone.
                        if self.storable.is_some() {
                            self.not_stored = Some(Reason::TooLarge);
                        }
                        let shared = shared.unwrap_or_else(|| SharedBody::new(self.length));
                        shared.push_all(&chunks[shown..]);
                        shared.hand_over(body);
                        return fill.answer(Answer::Coming(Arc::new(
                            self.coming(&shared, Others::GoAlone),
                        )));
                    }
                }
                Some(Err(error)) => {
                    debug!(%error, "the upstream's answer broke off");
                    return broken(fetch, fill, shared.as_ref(), UpstreamFailure::Lost);
                }
                None => break,
            }
        }
        if self.length.is_some_and(|length| length != total) {
            return broken(fetch, fill, shared.as_ref(), UpstreamFailure::Lost);
        }
        drop(body);
        let whole = joined(&chunks);
        let fetched = self.keep(fetch, whole).await;
        // Stored before its last byte leaves, so that whoever has read it finds it.
        if let Some(shared) = shared {
            shared.push_all(&chunks[shown..]);
            shared.finish();
        }
        fill.answer(match alone {
            true => Answer::Varied(Arc::new(fetched)),
            false => Answer::Fetched(Arc::new(fetched)),
        });
    }

    /// Whether its head cannot be sent before its body is there.
    fn is_told_by_its_body(&self, route: &Route) -> bool {
        let is_tagged = route.etag && !self.fields.contains_key(header::ETAG);
        let is_encoded =
            !route.compress.is_empty() && encoding::is_encodable(self.status, &self.fields);
        self.status == StatusCode::OK && (is_tagged || is_encoded)
    }

    fn others(&self, alone: bool) -> Others {
        match self.length {
            Some(_) if !alone => Others::ReadAlong,
            _ => Others::Wait,
        }
    }

    fn coming(&self, shared: &SharedBody, others: Others) -> Coming {
        Coming {
            status: self.status,
            fields: self.fields.clone(),
            body: shared.clone(),
            others,
            not_stored: self.not_stored,
            for_its_status: self.for_its_status,
        }
    }

    /// Stores the whole answer, if it is to be stored.
    async fn keep(&mut self, fetch: &Fetch, body: Bytes) -> Fetched {
        let ages = self.fields.get_all(header::AGE).iter().cloned();
        let ages: Vec<HeaderValue> = ages.collect();
        let fields = std::mem::take(&mut self.fields);
        let mut fields = storing::kept_fields(fields, self.exchange);
        fields.remove(header::CONTENT_LENGTH);
        if self.status == StatusCode::OK
            && fetch.served().route.etag
            && !fields.contains_key(header::ETAG)
        {
            fields.insert(header::ETAG, conditions::tag_of(&body));
        }
        let not_stored = match self.storable.take() {
            None => self.not_stored,
            Some(storable) => self.store(fetch, storable, &fields, &body).await.err(),
        };
        // It is not kept, but who asked first is told how old the answer was.
        for age in ages {
            fields.append(header::AGE, age);
        }
        Fetched {
            status: self.status,
            said: self.said,
            fields,
            body,
            not_stored,
            for_its_status: self.for_its_status,
        }
    }

    async fn store(
        &self,
        fetch: &Fetch,
        storable: Storable,
        fields: &HeaderMap,
        body: &Bytes,
    ) -> Result<(), Reason> {
        if let Some(reason) = self.not_stored {
            return Err(reason);
        }
        let asked = match fetch.asked.holds(&self.varied) {
            true => Some(fetch.asked.clone()),
            false => fetch.asked_again().map(Arc::new),
        };
        let (Some(asked), Ok(mut epochs)) = (asked, fetch.epochs.clone()) else {
            return Err(Reason::Held);
        };
        let route = &fetch.served().route;
        if is_negative(self.status) {
            epochs.extend(fetch.absence.clone().ok_or(Reason::Held)?);
        }
        let lifetime = match storable.lifetime_is_ours && route.jitter > 0.0 {
            true => reuse::jittered(storable.lifetime, route.jitter, fresh_bits()),
            false => storable.lifetime,
        };
        if asked.copy.contains('~')
            && !fetch
                .setup
                .cap
                .add(&asked.family, &asked.copy, route.ttl, clock::now())
        {
            return Err(Reason::TooManyCopies);
        }
        let copy = Stored {
            status: self.status,
            head: Head::of(
                fetch.served().mark,
                fields,
                &fetch.asked.origin,
                &self.varied,
            ),
            body: body.clone(),
            response_time: self.exchange.response_time,
            took: self
                .exchange
                .response_time
                .since(self.exchange.request_time),
            initial_age: storable.initial_age,
            lifetime,
            epochs,
        };
        let keep = reuse::worth_keeping(&copy, read::terms(route), route.ttl);
        fetch
            .setup
            .coherence
            .commit(&asked.copy, Arc::new(copy), keep, clock::now())
            .await
    }
}

/// RFC 5861 §4: the answers in whose place a stale copy may be given.
pub fn is_stood_in_for(status: u16) -> bool {
    matches!(status, 500 | 502..=504)
}

/// Whether no write has come between a copy and these epochs.
pub fn is_unwritten(stored: &Stored, epochs: Option<&Epochs>, absence: Option<&Epochs>) -> bool {
    let others = match (stored.is_negative(), absence) {
        (true, Some(absence)) => &absence[..],
        (true, None) => return false,
        (false, _) => &[],
    };
    epochs.is_some_and(|own| protocol::same_stretch(&stored.epochs, own, others))
}

/// What of a route's word bears on storing.
pub fn policy<'c>(config: &'c Config, route: &'c Route) -> Policy<'c> {
    Policy {
        ttl: route.ttl,
        override_origin: route.override_origin,
        negative_ttl: route.negative_ttl,
        max_body: route.max_body,
        vary: &route.vary,
        targeted: &route.targeted,
        credentials: &config.credential_headers,
    }
}

/// What no fill shows of its client, and an answer hangs on: it is for nobody, and who has it is asked for as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unshown<'a> {
    /// It varies by a field that the client has sent.
    Field,
    /// It sets this cookie anew, which the client has.
    Cookie(&'a [u8]),
    /// There is no JSON of it, and the client takes something else, too.
    Accept,
}

impl Unshown<'_> {
    pub fn reason(self) -> Reason {
        match self {
            Unshown::Field => Reason::VaryUnkeyed,
            Unshown::Cookie(_) => Reason::SetCookie,
            Unshown::Accept => Reason::NotJson,
        }
    }
}

/// What this answer hangs on that the fill for this client has not shown.
pub fn unshown<'a>(
    config: &Config,
    route: &Route,
    nominated: &Nominated,
    client: &Client,
    asked: &Asked,
    (status, answer): (StatusCode, &'a HeaderMap),
) -> Option<Unshown<'a>> {
    let fields = &client.fields;
    let mut unkeyed = nominated.unkeyed.iter();
    if unkeyed.any(|name| fields.contains_key(name)) {
        return Some(Unshown::Field);
    }
    if status == StatusCode::NOT_ACCEPTABLE
        && asked.accept == AcceptClass::Json
        && !accept::is_json_alone(fields)
    {
        return Some(Unshown::Accept);
    }
    access::cookie_set_anew(&route.access, config, fields, answer).map(Unshown::Cookie)
}

/// Whether the answer varies by a field that this client has sent, and this fill did not carry.
pub fn is_unsent(nominated: &Nominated, asked: &Asked, client: &HeaderMap) -> bool {
    let mut learnable = nominated.learnable.iter();
    learnable.any(|name| !asked.varied.contains(name) && client.contains_key(name))
}

/// Those who read along see it break off; those who only wait are told.
fn broken(
    fetch: &Fetch,
    fill: &Fill<Answer>,
    shared: Option<&SharedBody>,
    failure: UpstreamFailure,
) {
    match shared {
        Some(shared) => {
            shared.break_off("the upstream's answer broke off");
            fill.answer(Answer::Failed(failure));
        }
        None => fetch.failed(fill, failure),
    }
}

/// One copy of exactly its size: a slice of a read buffer would keep all of the buffer. A small one is that already.
fn joined(chunks: &[Bytes]) -> Bytes {
    if let [whole] = chunks
        && is_compact(whole)
    {
        return whole.clone();
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks
        .iter()
        .for_each(|chunk| whole.extend_from_slice(chunk));
    whole.freeze()
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
