//! A read under `policy: http`: the origin alone says what is kept, for how long, and who may be given it. RFC 9111.
//! The same steps as in `read`: look up, decide, wait for another's fetch or make one, keep what comes of it, reply.
//! What waits for a fetch looks up again when that has ended, so that whatever it is given is valid by its own look-up.
//!
//! At a target's own key stands its response; or, where that varies, a marker that names the fields it varies by, and
//! each variant stands at a key that also holds the request's values of these.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::debug;

use super::plan::Claim;
use super::read::forward_word;
use super::refresh::Duty;
use super::{Client, Served, Setup, pass, plan, present};
use crate::body::{ReplyBody, RequestBody, SharedBody};
use crate::caching::cache_status::{Forward, Handling, Reason};
use crate::caching::directives::RequestDirectives;
use crate::caching::freshness::Exchange;
use crate::caching::head::Head;
use crate::caching::invalidation;
use crate::caching::key::{CopyKey, HashingSecret, cache_group_state};
use crate::caching::origin::{self, Choices, Keepable, Use};
use crate::caching::partial::Part;
use crate::caching::stored::Stored;
use crate::caching::validation::{self, OfHead};
use crate::caching::variance;
use crate::clock;
use crate::coherence::{Depends, Epochs, LookUp, StateKey};
use crate::config::Policy;
use crate::error::{Error, UpstreamFailure};
use crate::message::{conditions, fields};
use crate::reply::{self, Reply};
use crate::route::{Captures, FamilyKey};
use crate::upstream::UpstreamBody;

/// Answers a GET or HEAD.
pub async fn read(
    setup: &Arc<Setup>,
    route: usize,
    captures: Captures,
    client: Client,
) -> Result<Reply, Error> {
    let Some(url) = client.url() else {
        let (body, why) = (RequestBody::Empty, Reason::Spelling);
        return pass::pass(setup, &client, body, forward_word(why), Some(why)).await;
    };
    let client = Arc::new(Asking { client, url });
    let Some(mut ask) = Ask::new(setup, route, &captures, client.clone()) else {
        let (body, why) = (RequestBody::Empty, Reason::Spelling);
        return pass::pass(setup, &client.client, body, forward_word(why), Some(why)).await;
    };
    let Some(keys) = ask.keys() else {
        return ask.pass(Reason::StoreAway).await;
    };
    ask.depends = ask.depends_with(&setup.groups.of(&keys.own));
    let wants = ask.wants();
    let found = ask.find(&keys).await;
    if let Some(reply) = ask.reused(&keys, &found, &wants).await {
        return Ok(reply);
    }
    if let Some(reply) = ask.reused_part(&keys, &wants).await {
        return Ok(reply);
    }
    if wants.only_if_cached {
        return Err(Error::OnlyIfCached);
    }
    if *ask.client.method() == Method::HEAD {
        return ask.head(&keys, found).await;
    }
    // What a client wants of the origin itself, it asks for itself.
    let demanding = wants != RequestDirectives::default() || ask.client.has_range();
    let turn = match demanding {
        true => return ask.fetch(keys, found, None).await,
        false => match setup.in_flight.join(&keys.own) {
            Join::Lead(turn) => Some(turn),
            Join::Follow(ended) => {
                ask.wait(ended).await;
                None
            }
        },
    };
    // Look again: another's fetch has ended, or may have between our look-up and our turn.
    let found = ask.find(&keys).await;
    if let Some(reply) = ask.reused(&keys, &found, &wants).await {
        return Ok(reply);
    }
    ask.fetch(keys, found, turn).await
}

/// A POST whose answer may stand for later GETs of its target (RFC 9110 §9.3.3).
pub struct Keeping {
    ask: Ask,
    keys: Keys,
    /// Opened before the write begins.
    pub before: Epochs,
    request_time: clock::Timestamp,
}

impl Keeping {
    /// `None`: not to be kept, whatever the answer.
    pub async fn prepare(setup: &Arc<Setup>, client: &Client) -> Option<Keeping> {
        if client.method != Method::POST {
            return None;
        }
        let (route, captures) = match plan::claim(&setup.config, client.target.path()) {
            Claim::Canonical { route, captures } | Claim::OtherSpelling { route, captures } => {
                (route, captures)
            }
            Claim::Nobodys => return None,
        };
        if !setup.config.routes[route].is_by_http() {
            return None;
        }
        let (url, client) = (client.url()?, client.clone());
        let mut ask = Ask::new(setup, route, &captures, Arc::new(Asking { client, url }))?;
        let keys = ask.keys()?;
        ask.depends = ask.depends_with(&setup.groups.of(&keys.own));
        let before = setup.coherence.open(&ask.depends.states).await.ok()?;
        Some(Keeping {
            ask,
            keys,
            before,
            request_time: clock::now(),
        })
    }

    fn exchange(&self) -> Exchange {
        Exchange {
            request_time: self.request_time,
            response_time: clock::now(),
        }
    }

    pub fn may_keep(&self, response: &Response<UpstreamBody>) -> bool {
        let (status, fields) = (response.status(), response.headers());
        let judged = self
            .ask
            .judged(&Method::POST, status, fields, self.exchange());
        judged.is_ok()
    }

    /// Passes the answer on, and keeps it under the epochs that began with it.
    pub async fn keep(
        self,
        mut response: Response<UpstreamBody>,
        epochs: Epochs,
    ) -> Result<Reply, Error> {
        let exchange = self.exchange();
        fields::strip_hop_by_hop(response.headers_mut());
        let why = Reason::Method;
        self.ask
            .received(self.keys, response, exchange, Ok(epochs), why, None)
            .await
    }
}

/// One client's question.
#[derive(Clone)]
struct Ask {
    setup: Arc<Setup>,
    route: usize,
    client: Arc<Asking>,
    family: FamilyKey,
    depends: Depends,
    origin: String,
}

/// The client, and its target read once.
struct Asking {
    client: Client,
    url: url::Url,
}

impl Asking {
    fn method(&self) -> &Method {
        &self.client.method
    }

    fn fields(&self) -> &HeaderMap {
        &self.client.fields
    }

    fn has_range(&self) -> bool {
        self.client.fields.contains_key(header::RANGE)
    }
}

/// Where things stand in the store.
struct Keys {
    secret: HashingSecret,
    /// The target's own.
    own: String,
}

/// What stands there.
struct Found {
    result: Result<Arc<Stored>, Reason>,
}

impl Found {
    fn reason(&self) -> Reason {
        match &self.result {
            Ok(_) => Reason::Expired,
            Err(reason) => *reason,
        }
    }
}

impl Ask {
    /// `None`: the route's key names what its path does not capture.
    fn new(
        setup: &Arc<Setup>,
        route: usize,
        captures: &Captures,
        client: Arc<Asking>,
    ) -> Option<Ask> {
        let served = &setup.served[route];
        let family = served.route.key.family(captures)?;
        Some(Ask {
            setup: setup.clone(),
            route,
            depends: plan::with_group(family.as_str(), served.group.as_ref(), &[]),
            family,
            origin: client.client.origin(),
            client,
        })
    }

    fn served(&self) -> &Served {
        &self.setup.served[self.route]
    }

    fn choices(&self) -> &Choices {
        match &self.served().route.policy {
            Policy::Http(choices) => choices,
            Policy::Ttl => unreachable!("a route with a ttl is read by `read`"),
        }
    }

    fn wants(&self) -> RequestDirectives {
        match self.choices().client_directives {
            true => RequestDirectives::of(self.client.fields()),
            false => RequestDirectives::default(),
        }
    }

    fn keys(&self) -> Option<Keys> {
        let secret = self.setup.coherence.store().secret()?;
        let own = self.key(&secret, |_| ());
        Some(Keys { secret, own })
    }

    fn key(&self, secret: &HashingSecret, more: impl FnOnce(&mut CopyKey)) -> String {
        let target = &self.client.client.target;
        let mut key = CopyKey::new(secret);
        key.uri(&self.origin, target.path(), target.query());
        more(&mut key);
        key.of(&self.setup.config.store.prefix, &self.family)
    }

    /// RFC 9875: a copy of a target depends on the groups that its responses are known to be in, too.
    fn depends_with(&self, groups: &[StateKey]) -> Depends {
        Depends::on(self.depends.own().iter().chain(groups).cloned().collect())
    }

    /// Whether a copy's epochs are of all the groups it is in; if not, they are known from now on, and the next is.
    fn knows_groups(&self, keys: &Keys, copy: &Stored, fields: &HeaderMap) -> bool {
        let groups = invalidation::groups(fields).into_iter();
        let states: Vec<StateKey> = groups
            .map(|group| StateKey::new(cache_group_state(&self.origin, &group)))
            .collect();
        let known = |state: &StateKey| copy.epochs.iter().any(|(of, _)| of == state);
        let all = states.iter().all(known);
        if !all {
            self.setup.groups.learn(&keys.own, states);
        }
        all
    }

    fn part_key(&self, keys: &Keys) -> String {
        self.key(&keys.secret, |key| key.partial())
    }

    /// RFC 9111 §4.1: the key of the variant that a request with these fields selects.
    fn variant_key(&self, secret: &HashingSecret, names: &[HeaderName]) -> String {
        self.key(secret, |key| {
            for name in names {
                let value = variance::normalised(name, self.client.fields());
                key.selecting(name, value.as_ref());
            }
        })
    }

    /// The key of a variant by its language, in place of what else the request would have taken.
    fn language_key(&self, secret: &HashingSecret, names: &[HeaderName], language: &str) -> String {
        self.key(secret, |key| {
            key.language(language);
            for name in names.iter().filter(|name| *name != header::ACCEPT_LANGUAGE) {
                let value = variance::normalised(name, self.client.fields());
                key.selecting(name, value.as_ref());
            }
        })
    }

    async fn look_up(&self, key: &str) -> Result<Arc<Stored>, Reason> {
        let looked = self
            .setup
            .coherence
            .look_up(key, &self.depends, &self.origin);
        match looked.await {
            LookUp::Valid(stored) => Ok(stored),
            // As one that becomes stale now: what that allows is the origin's to say.
            LookUp::Outdated(stored) => {
                let lifetime = stored.lifetime.min(stored.age(clock::now()));
                Ok(Arc::new(Stored {
                    lifetime,
                    ..Stored::clone(&stored)
                }))
            }
            LookUp::Miss(reason) => Err(reason),
        }
    }

    /// The response that the request selects.
    async fn find(&self, keys: &Keys) -> Found {
        let own = self.look_up(&keys.own).await;
        let result = match own {
            Ok(stored) if is_marker(&stored) => {
                let names = stored.head.varied();
                let variant = self.look_up(&self.variant_key(&keys.secret, names)).await;
                match (variant, names.contains(&header::ACCEPT_LANGUAGE)) {
                    (Err(Reason::Absent), true) => {
                        match variance::preferred_language(self.client.fields()) {
                            Some(language) => {
                                let key = self.language_key(&keys.secret, names, &language);
                                self.look_up(&key).await
                            }
                            None => Err(Reason::Absent),
                        }
                    }
                    (variant, _) => variant,
                }
                // There is something at the target, but not for this request.
                .map_err(|reason| match reason {
                    Reason::Absent => Reason::OtherVariant,
                    reason => reason,
                })
            }
            other => other,
        };
        Found { result }
    }

    async fn reused(&self, keys: &Keys, found: &Found, wants: &RequestDirectives) -> Option<Reply> {
        let Ok(stored) = &found.result else {
            return None;
        };
        let now = clock::now();
        let handling = match origin::usable(self.choices(), stored, wants, now) {
            Use::Ask => return None,
            Use::Fresh { left } => Handling::Hit {
                ttl: left.as_secs(),
            },
            Use::Stale { stale, refresh } => {
                if refresh {
                    self.refresh(keys, stored);
                }
                Handling::StaleHit {
                    stale: stale.as_secs(),
                }
            }
        };
        Some(self.stored(stored, handling).await)
    }

    /// An origin that is obeyed encodes for itself.
    fn asking(&self) -> reply::Asking<'_> {
        reply::Asking {
            method: self.client.method(),
            request: self.client.fields(),
            encoding: None,
        }
    }

    async fn stored(&self, stored: &Stored, handling: Handling) -> Reply {
        reply::hit(self.asking(), stored, handling, clock::now()).await
    }

    /// RFC 9111 §3.3: a range out of a stored part.
    async fn reused_part(&self, keys: &Keys, wants: &RequestDirectives) -> Option<Reply> {
        let asked = self.client.fields();
        let range = asked.get(header::RANGE)?;
        if !self.choices().parts
            || *self.client.method() != Method::GET
            || asked.contains_key(header::IF_RANGE)
            || conditions::are_in(asked)
        {
            return None;
        }
        let stored = self.look_up(&self.part_key(keys)).await.ok()?;
        let now = clock::now();
        let Use::Fresh { left } = origin::usable(self.choices(), &stored, wants, now) else {
            return None;
        };
        let part = Part::of(&stored.head.fields())?;
        let (span, said) = part.cut(stored.body.len(), range)?;
        let mut cut = Stored::clone(&stored);
        cut.body = stored.body.slice(span);
        let handling = Handling::Hit {
            ttl: left.as_secs(),
        };
        let mut reply = self.stored(&cut, handling).await;
        reply
            .response
            .headers_mut()
            .insert(header::CONTENT_RANGE, said);
        Some(reply)
    }

    async fn wait(&self, mut ended: watch::Receiver<()>) {
        // Longer than this nobody waits for another's fetch. The sender never sends: it ends.
        let patience = self.setup.upstream.settings().total * 2;
        let _ = tokio::time::timeout(patience, ended.changed()).await;
    }

    /// Asks the origin in the background, unless that is being done.
    fn refresh(&self, keys: &Keys, stored: &Arc<Stored>) {
        let Some(duty) = self.setup.refreshes.begin(&keys.own, clock::stopwatch()) else {
            return;
        };
        // Interim answers to it are for nobody.
        let asking = Asking {
            client: Client {
                interim: None,
                ..self.client.client.clone()
            },
            url: self.client.url.clone(),
        };
        let (client, stored) = (Arc::new(asking), stored.clone());
        let ask = Ask {
            client,
            ..self.clone()
        };
        let keys = Keys {
            secret: keys.secret,
            own: keys.own.clone(),
        };
        tokio::spawn(async move {
            let Join::Lead(turn) = ask.setup.in_flight.join(&keys.own) else {
                return;
            };
            // Look again: it may have been refreshed between that look-up and this turn.
            let found = ask.find(&keys).await;
            if !found.result.as_ref().is_ok_and(|found| *found == stored) {
                return duty.done();
            }
            let refreshed = ask.fetch(keys, found, Some(turn.with(duty))).await;
            debug!(refreshed = refreshed.is_ok(), "refreshed in the background");
        });
    }

    async fn pass(&self, why: Reason) -> Result<Reply, Error> {
        let client = &self.client.client;
        pass::pass(
            &self.setup,
            client,
            RequestBody::Empty,
            forward_word(why),
            Some(why),
        )
        .await
    }

    /// RFC 9111 §4.3.5: the origin answers, and what it says of the stored GET counts.
    async fn head(&self, keys: &Keys, found: Found) -> Result<Reply, Error> {
        let why = found.reason();
        let epochs = self.setup.coherence.open(&self.depends.states).await;
        let request_time = clock::now();
        let outgoing = present::pass(&self.setup.config, &self.client.client, RequestBody::Empty);
        let slot = self.setup.upstream.slot().await?;
        let sent = self.setup.upstream.send(slot, outgoing).await;
        let same = |stored: &Stored| epochs.as_ref().is_ok_and(|epochs| *epochs == stored.epochs);
        let stored = found.result.ok().filter(|stored| same(stored));
        let mut response = match (sent, &stored) {
            (Ok(response), Some(stored)) if is_failure(response.status()) => {
                match self.stands_in(stored, Some(response.status())).await {
                    Some(reply) => return Ok(reply),
                    None => response,
                }
            }
            (Ok(response), _) => response,
            (Err(failure), stored) => {
                return self.or_stands_in(stored.as_deref(), failure).await;
            }
        };
        fields::strip_hop_by_hop(response.headers_mut());
        let (Some(stored), Ok(epochs)) = (stored, epochs) else {
            return Ok(pass::streamed(response, forward_word(why), Some(why)));
        };
        let exchange = Exchange {
            request_time,
            response_time: clock::now(),
        };
        let (said, answer) = (response.status(), response.headers());
        let of_head = validation::of_head(
            stored.status,
            &stored.head.fields(),
            stored.body.len() as u64,
            said,
            answer,
        );
        match of_head {
            OfHead::Nothing => Ok(pass::streamed(response, forward_word(why), Some(why))),
            OfHead::Contradicts => {
                let stale = Stored {
                    lifetime: stored.age(exchange.response_time).min(stored.lifetime),
                    ..Stored::clone(&stored)
                };
                let fields = stored.head.fields();
                if let Err(reason) = self.put(keys, stale, &fields, MINUTE).await {
                    debug!(why = reason.word(), "not made stale");
                }
                Ok(pass::streamed(response, forward_word(why), Some(why)))
            }
            OfHead::Freshens => {
                let freshened = self.freshened(&stored, answer, exchange);
                let kept = self.keep(keys, &stored, &freshened, exchange, epochs).await;
                Ok(self
                    .whole(said, stored.status, &freshened, &stored.body, kept, why)
                    .await)
            }
        }
    }

    /// Asks the origin: whether what is stored is still good, or for all of it; and keeps what may be kept.
    async fn fetch(self, keys: Keys, found: Found, turn: Option<Turn>) -> Result<Reply, Error> {
        let (setup, why) = (&self.setup, found.reason());
        let epochs = setup.coherence.open(&self.depends.states).await;
        // A write since would make it another's.
        let same =
            |stored: &Arc<Stored>| epochs.as_ref().is_ok_and(|epochs| *epochs == stored.epochs);
        let stored = found.result.ok().filter(same);
        let begun = match &stored {
            Some(_) => None,
            None => self.begun(&keys).await.filter(same),
        };
        let (response, request_time) = match self.send(stored.as_deref(), begun.as_deref()).await {
            Ok(answered) => answered,
            Err(failure) => {
                return self.or_stands_in(stored.as_deref(), failure).await;
            }
        };
        let exchange = Exchange {
            request_time,
            response_time: clock::now(),
        };
        let status = response.status();
        match (stored, begun, epochs) {
            (Some(stored), _, Ok(epochs))
                if status == StatusCode::NOT_MODIFIED && self.validates(&stored) =>
            {
                let freshened = self.freshened(&stored, response.headers(), exchange);
                let kept = self
                    .keep(&keys, &stored, &freshened, exchange, epochs)
                    .await;
                Ok(self
                    .whole(status, stored.status, &freshened, &stored.body, kept, why)
                    .await)
            }
            (Some(stored), _, epochs) if is_failure(status) => {
                match self.stands_in(&stored, Some(status)).await {
                    Some(reply) => Ok(reply),
                    None => {
                        self.received(keys, response, exchange, epochs, why, turn)
                            .await
                    }
                }
            }
            (_, Some(begun), Ok(epochs)) if status == StatusCode::PARTIAL_CONTENT => {
                self.completed(keys, begun, response, exchange, epochs, why, turn)
                    .await
            }
            (_, _, epochs) => {
                self.received(keys, response, exchange, epochs, why, turn)
                    .await
            }
        }
    }

    fn validates(&self, stored: &Stored) -> bool {
        validation::can_be_validated(stored.status, &stored.head.fields())
    }

    /// RFC 9111 §3.4: a stored part from the beginning, for a request for all.
    async fn begun(&self, keys: &Keys) -> Option<Arc<Stored>> {
        if !self.choices().parts
            || self.client.has_range()
            || conditions::are_in(self.client.fields())
        {
            return None;
        }
        let stored = self.look_up(&self.part_key(keys)).await.ok()?;
        Part::of(&stored.head.fields())?
            .rest()
            .is_some()
            .then_some(stored)
    }

    /// The request as the client sent it, but for what is asked about the stored response.
    async fn send(
        &self,
        stored: Option<&Stored>,
        begun: Option<&Stored>,
    ) -> Result<(Response<UpstreamBody>, clock::Timestamp), UpstreamFailure> {
        let setup = &self.setup;
        let mut outgoing = present::pass(&setup.config, &self.client.client, RequestBody::Empty);
        if let Some(stored) = stored.filter(|stored| self.validates(stored)) {
            // The client's own conditions and range are answered from what comes of it.
            for name in conditions::CONDITIONS.iter().chain(&[header::RANGE]) {
                outgoing.fields.remove(name);
            }
            validation::condition(&stored.head.fields(), &mut outgoing.fields);
        }
        if let Some(fields) = begun.map(|begun| begun.head.fields())
            && let Some(rest) = Part::of(&fields).and_then(|part| part.rest())
        {
            outgoing.fields.insert(header::RANGE, rest);
            if let Some(tag) = fields
                .get(header::ETAG)
                .filter(|tag| tag.as_bytes().starts_with(b"\""))
            {
                outgoing.fields.insert(header::IF_RANGE, tag.clone());
            }
        }
        let slot = setup.upstream.slot().await?;
        let request_time = clock::now();
        let mut response = setup.upstream.send(slot, outgoing).await?;
        fields::strip_hop_by_hop(response.headers_mut());
        Ok((response, request_time))
    }

    /// RFC 5861 §4.
    async fn stands_in(&self, stored: &Stored, status: Option<StatusCode>) -> Option<Reply> {
        let handling = Handling::Forwarded {
            why: Forward::Stale,
            status,
            stored: false,
            collapsed: false,
            detail: Some(Reason::StaleIfError.word()),
        };
        match origin::stands_in(self.choices(), stored, clock::now()) {
            true => Some(self.stored(stored, handling).await),
            false => None,
        }
    }

    async fn or_stands_in(
        &self,
        stored: Option<&Stored>,
        failure: UpstreamFailure,
    ) -> Result<Reply, Error> {
        let reply = match stored {
            Some(stored) => self.stands_in(stored, None).await,
            None => None,
        };
        reply.ok_or(failure.into())
    }

    fn freshened(&self, stored: &Stored, newer: &HeaderMap, exchange: Exchange) -> HeaderMap {
        let freshened = validation::freshened(&stored.head.fields(), newer);
        origin::kept_fields(self.choices(), &freshened, exchange)
    }

    /// Keeps a stored response as freshened. Why not, if not.
    async fn keep(
        &self,
        keys: &Keys,
        stored: &Stored,
        freshened: &HeaderMap,
        exchange: Exchange,
        epochs: Epochs,
    ) -> Result<(), Reason> {
        // Age is of the answer and not kept; the 304 that had one speaks of itself.
        let keepable = self.judged(&Method::GET, stored.status, freshened, exchange)?;
        let copy = self.copy(
            stored.status,
            freshened,
            stored.body.clone(),
            &keepable,
            exchange,
            epochs,
        );
        let keep = keepable.keep_stale(stored.status, freshened);
        self.put(keys, copy, freshened, keep).await
    }

    fn judged(
        &self,
        method: &Method,
        status: StatusCode,
        fields: &HeaderMap,
        exchange: Exchange,
    ) -> Result<Keepable, Reason> {
        let asked = origin::Asked {
            method,
            target: &self.client.url,
            fields: self.client.fields(),
        };
        origin::keepable(self.choices(), &asked, status, fields, exchange)
    }

    fn copy(
        &self,
        status: StatusCode,
        fields: &HeaderMap,
        body: Bytes,
        keepable: &Keepable,
        exchange: Exchange,
        epochs: Epochs,
    ) -> Stored {
        let mut kept = origin::kept_fields(self.choices(), fields, exchange);
        kept.remove(header::CONTENT_LENGTH);
        Stored {
            status,
            head: Head::new(kept, &self.origin, &keepable.nominated),
            body,
            response_time: exchange.response_time,
            took: exchange.response_time.since(exchange.request_time),
            initial_age: keepable.initial_age,
            lifetime: keepable.lifetime,
            epochs,
        }
    }

    /// Puts a copy where the next request for it looks.
    async fn put(
        &self,
        keys: &Keys,
        copy: Stored,
        fields: &HeaderMap,
        keep: Duration,
    ) -> Result<(), Reason> {
        let (coherence, now) = (&self.setup.coherence, clock::now());
        if !self.knows_groups(keys, &copy, fields) {
            return Err(Reason::NewGroup);
        }
        let span = copy.lifetime + keep;
        let names = copy.head.varied().to_vec();
        let key = match names.is_empty() {
            true => keys.own.clone(),
            false => self.variant_key(&keys.secret, &names),
        };
        let cap = &self.setup.cap;
        if !cap.add(&self.family, &key, span.max(MINUTE), now) {
            return Err(Reason::TooManyCopies);
        }
        if copy.status == StatusCode::PARTIAL_CONTENT {
            return match names.is_empty() && Part::of(fields).is_some() {
                true => {
                    coherence
                        .commit(&self.part_key(keys), Arc::new(copy), keep, now)
                        .await
                }
                false => Err(Reason::VaryUnkeyed),
            };
        }
        if names.is_empty() {
            return coherence.commit(&key, Arc::new(copy), keep, now).await;
        }
        let marker = marker(&copy, keep);
        let copy = Arc::new(copy);
        coherence.commit(&key, copy.clone(), keep, now).await?;
        if names.contains(&header::ACCEPT_LANGUAGE)
            && let Some(language) = variance::content_language(fields)
        {
            let key = self.language_key(&keys.secret, &names, &language);
            coherence.commit(&key, copy, keep, now).await?;
        }
        coherence
            .commit(&keys.own, Arc::new(marker), MINUTE, now)
            .await
    }

    /// A whole answer made here, for this client.
    async fn whole(
        &self,
        said: StatusCode,
        status: StatusCode,
        fields: &HeaderMap,
        body: &Bytes,
        kept: Result<(), Reason>,
        why: Reason,
    ) -> Reply {
        let handling = Handling::Forwarded {
            why: forward_word(why),
            status: Some(said),
            stored: kept.is_ok(),
            collapsed: false,
            detail: Some(kept.err().unwrap_or(why).word()),
        };
        let answer = (status, fields, body);
        reply::fetched(self.asking(), answer, handling).await
    }

    /// Passes the answer on as it comes, and keeps it if it may be kept.
    async fn received(
        self,
        keys: Keys,
        response: Response<UpstreamBody>,
        exchange: Exchange,
        epochs: Result<Epochs, Reason>,
        why: Reason,
        turn: Option<Turn>,
    ) -> Result<Reply, Error> {
        let length = response.body().size_hint().exact();
        let most = self.served().route.max_body;
        let verdict = match epochs {
            _ if length.is_some_and(|length| length > most) => Err(Reason::TooLarge),
            Ok(epochs) => self
                .judged(
                    self.client.method(),
                    response.status(),
                    response.headers(),
                    exchange,
                )
                .map(|keepable| (keepable, epochs)),
            Err(reason) => Err(reason),
        };
        let (keepable, epochs) = match verdict {
            Ok(keepable) => keepable,
            Err(reason) => return Ok(pass::streamed(response, forward_word(why), Some(reason))),
        };
        let (head, body) = response.into_parts();
        let shared = SharedBody::new(length);
        let reader = shared.reader(Arc::new(()));
        let (status, fields) = (head.status, head.headers.clone());
        tokio::spawn(async move {
            let (coming, keep) = (shared, keepable.keep_stale(head.status, &head.headers));
            let total = self.setup.upstream.settings().total;
            let (last, whole) =
                match tokio::time::timeout(total, collect(body, &coming, length, most)).await {
                    Ok(Some(collected)) => collected,
                    Ok(None) => return,
                    Err(_) => return coming.break_off("the upstream's answer took too long"),
                };
            let copy = self.copy(
                head.status,
                &head.headers,
                whole,
                &keepable,
                exchange,
                epochs,
            );
            if let Err(reason) = self.put(&keys, copy, &head.headers, keep).await {
                debug!(why = reason.word(), "not kept");
            }
            // Stored before its last byte leaves, so that whoever has read it finds it.
            last.into_iter().for_each(|chunk| coming.push(chunk));
            coming.finish();
            if let Some(turn) = turn {
                turn.done();
            }
        });
        let handling = Handling::Forwarded {
            why: forward_word(why),
            status: Some(status),
            stored: true,
            collapsed: false,
            detail: Some(why.word()),
        };
        Ok(reply::forwarded(
            status,
            fields,
            ReplyBody::Shared(reader),
            handling,
        ))
    }

    /// RFC 9111 §3.4: the rest of a stored part has come. If it is not the rest of that, all is asked for after all.
    #[expect(clippy::too_many_arguments, reason = "all that a fetch knows")]
    async fn completed(
        self,
        keys: Keys,
        begun: Arc<Stored>,
        response: Response<UpstreamBody>,
        exchange: Exchange,
        epochs: Epochs,
        why: Reason,
        turn: Option<Turn>,
    ) -> Result<Reply, Error> {
        let (stored, newer) = (begun.head.fields(), response.headers().clone());
        let parts = Part::of(&stored).zip(Part::of(&newer));
        let fits = parts.is_some_and(|(part, next)| part.is_completed_by(&stored, &next, &newer));
        let rest = match fits {
            true => response.into_body().collect().await.ok(),
            false => None,
        };
        let whole = rest.map(|rest| {
            let rest = rest.to_bytes();
            let mut whole = BytesMut::with_capacity(begun.body.len() + rest.len());
            whole.extend_from_slice(&begun.body);
            whole.extend_from_slice(&rest);
            whole.freeze()
        });
        let announced = parts.and_then(|(_, next)| next.whole);
        let Some(whole) = whole.filter(|whole| Some(whole.len() as u64) == announced) else {
            let (response, request_time) = self.send(None, None).await?;
            let exchange = Exchange {
                request_time,
                response_time: clock::now(),
            };
            return self
                .received(keys, response, exchange, Ok(epochs), why, turn)
                .await;
        };
        let mut fields = self.freshened(&begun, &newer, exchange);
        fields.remove(header::CONTENT_RANGE);
        let ok = StatusCode::OK;
        let kept = match self.judged(&Method::GET, ok, &fields, exchange) {
            Ok(keepable) => {
                let copy = self.copy(ok, &fields, whole.clone(), &keepable, exchange, epochs);
                self.put(&keys, copy, &fields, keepable.keep_stale(ok, &fields))
                    .await
            }
            Err(reason) => Err(reason),
        };
        Ok(self
            .whole(StatusCode::PARTIAL_CONTENT, ok, &fields, &whole, kept, why)
            .await)
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// RFC 5861 §4: what a stale response may stand in for.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// What stands at the key of a target whose responses vary. No response that is kept has an informational status.
fn marker(copy: &Stored, keep: Duration) -> Stored {
    let mut fields = HeaderMap::new();
    fields.insert(header::DATE, HeaderValue::from_static("-"));
    Stored {
        status: StatusCode::CONTINUE,
        head: Head::new(fields, copy.head.origin(), copy.head.varied()),
        body: Bytes::new(),
        lifetime: copy.lifetime + keep,
        ..copy.clone()
    }
}

fn is_marker(stored: &Stored) -> bool {
    stored.status == StatusCode::CONTINUE
}

/// Reads an answer to its end, and shows it as it comes, but for the last piece of an announced length. `None` if it is not to be
/// kept: broken off, or too large, and then it goes on to whoever reads it.
async fn collect(
    mut body: UpstreamBody,
    coming: &SharedBody,
    length: Option<u64>,
    most: u64,
) -> Option<(Option<Bytes>, Bytes)> {
    let (mut whole, mut last) = (BytesMut::new(), None);
    loop {
        let frame = pin!(body.frame()).await;
        match frame {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                whole.extend_from_slice(&data);
                if whole.len() as u64 > most {
                    last.into_iter()
                        .chain([data])
                        .for_each(|chunk| coming.push(chunk));
                    coming.hand_over(body);
                    return None;
                }
                match Some(whole.len() as u64) == length {
                    true => last = Some(data),
                    false => coming.push(data),
                }
            }
            Some(Err(error)) => {
                debug!(%error, "the upstream's answer broke off");
                coming.break_off("the upstream's answer broke off");
                return None;
            }
            None if length.is_some_and(|length| length != whole.len() as u64) => {
                coming.break_off("the upstream's answer broke off");
                return None;
            }
            None => return Some((last, whole.freeze())),
        }
    }
}

/// The groups that the responses of a target have been in, as their states. What is not known here is learnt anew from
/// the next response.
#[derive(Default)]
pub struct Groups(Mutex<HashMap<String, Vec<StateKey>>>);

impl Groups {
    /// Targets that are remembered; then all are forgotten, and learnt again.
    const MOST: usize = 10_000;

    fn of(&self, target: &str) -> Vec<StateKey> {
        self.0.lock().get(target).cloned().unwrap_or_default()
    }

    fn learn(&self, target: &str, states: Vec<StateKey>) {
        let mut known = self.0.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        let of_target = known.entry(target.to_owned()).or_default();
        of_target.extend(states);
        of_target.sort();
        of_target.dedup();
    }
}

/// The targets that are being asked for: who comes meanwhile waits, once.
#[derive(Default, Clone)]
pub struct InFlight(Arc<Mutex<HashMap<String, watch::Receiver<()>>>>);

enum Join {
    Lead(Turn),
    Follow(watch::Receiver<()>),
}

/// The turn to ask; over when it is dropped.
struct Turn {
    in_flight: InFlight,
    target: String,
    duty: Option<Duty>,
    _over: watch::Sender<()>,
}

impl InFlight {
    fn join(&self, target: &str) -> Join {
        let mut flights = self.0.lock();
        if let Some(ended) = flights.get(target) {
            return Join::Follow(ended.clone());
        }
        let (over, ended) = watch::channel(());
        flights.insert(target.to_owned(), ended);
        Join::Lead(Turn {
            in_flight: self.clone(),
            target: target.to_owned(),
            duty: None,
            _over: over,
        })
    }
}

impl Turn {
    fn with(mut self, duty: Duty) -> Turn {
        self.duty = Some(duty);
        self
    }

    /// Something has come of it.
    fn done(mut self) {
        if let Some(duty) = self.duty.take() {
            duty.done();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.in_flight.0.lock().remove(&self.target);
    }
}
