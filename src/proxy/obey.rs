//! A read under `policy: http`: the origin alone says what is kept, for how long, and who may be given it. RFC 9111.
//! The same steps as in `read`: look up, decide, wait for another's fetch or make one, keep what comes of it, reply.
//! What waits for a fetch looks up again when that has ended, so that whatever it is given is valid by its own look-up.
//!
//! At a target's own key stands its response; or, where that varies, a marker that names the fields it varies by, and
//! each variant stands at a key that also holds the values of these as they were sent to the origin.

mod answer;
mod exchange;
mod foreseen;
mod groups;
mod keeping;
mod turns;
mod variants;

pub use foreseen::{Foreseen, foresee};
pub use groups::Groups;
pub use keeping::Keeping;
pub use turns::InFlight;

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Method, header};
use tokio::sync::watch;
use tracing::debug;

use crate::body::RequestBody;
use crate::caching::cache_status::{Handling, Reason};
use crate::caching::directives::RequestDirectives;
use crate::caching::key::{CopyKey, HashingSecret, cache_group_state};
use crate::caching::origin::{Choices, Use};
use crate::caching::partial::Part;
use crate::caching::stored::Stored;
use crate::caching::{invalidation, origin};
use crate::coherence::{Depends, Epochs, LookUp, StateKey};
use crate::config::Policy;
use crate::error::Error;
use crate::message::conditions;
use crate::proxy::read::forward_word;
use crate::proxy::{Client, Served, Setup, pass, plan};
use crate::reply::Reply;
use crate::route::{Captures, FamilyKey};
use crate::{clock, reply};
use answer::is_marker;
use turns::Join;

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
            depends: plan::with_group(
                family.as_str(),
                served.group.as_ref(),
                None,
                &[],
                served.mark,
            ),
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
    fn knows_groups(&self, keys: &Keys, epochs: &Epochs, fields: &HeaderMap) -> bool {
        let groups = invalidation::groups(fields).into_iter();
        let states: Vec<StateKey> = groups
            .map(|group| StateKey::new(cache_group_state(&self.origin, &group)))
            .collect();
        let known = |state: &StateKey| epochs.iter().any(|(of, _)| of == state);
        let all = states.iter().all(known);
        if !all {
            self.setup.groups.learn(&keys.own, states);
        }
        all
    }

    /// Whether a copy that is stored now would depend on all of them.
    fn is_in_known_groups(&self, keys: &Keys, fields: &HeaderMap) -> bool {
        let known = self.setup.groups.of(&keys.own);
        let mut groups = invalidation::groups(fields).into_iter();
        groups.all(|group| {
            let state = StateKey::new(cache_group_state(&self.origin, &group));
            known.contains(&state)
        })
    }

    fn part_key(&self, keys: &Keys) -> String {
        self.key(&keys.secret, |key| key.partial())
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
            LookUp::Miss(reason, _) => Err(reason),
        }
    }

    /// The response that the request selects.
    async fn find(&self, keys: &Keys) -> Found {
        let own = self.look_up(&keys.own).await;
        let result = match own {
            Ok(stored) if is_marker(&stored) => self.variant(keys, stored.head.varied()).await,
            other => other,
        };
        Found { result }
    }

    /// Why that is not served as it is.
    fn why_not(&self, found: &Found) -> Reason {
        let stored = match &found.result {
            Ok(stored) => stored,
            Err(reason) => return *reason,
        };
        let nothing = RequestDirectives::default();
        match origin::usable(self.choices(), stored, &nothing, clock::now()) {
            Use::Fresh { .. } => Reason::ClientDirective,
            Use::Stale { .. } | Use::Ask => Reason::Expired,
        }
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
                notes: None,
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
}
