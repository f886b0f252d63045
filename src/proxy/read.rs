//! A read under a route: look up; if there is nothing, lead a fetch or follow one; reply.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use tracing::{debug, trace, warn};

use super::fetch::{Answer, Coming, Fetch, Fetched, Others, is_stood_in_for, is_unwritten};
use super::known::{self, Foreseen};
use super::present::{self, Asked, Presented};
use super::{Client, Served, Setup, admit, pass, refresh, sample};
use crate::access;
use crate::body::{ReplyBody, RequestBody};
use crate::caching::cache_status::{Forward, Handling, Reason};
use crate::caching::reuse::{self, Reuse, Terms, reuse};
use crate::caching::stored::Stored;
use crate::clock;
use crate::coherence::flights::{Fence, Follower, Moment, Turn};
use crate::coherence::{Depends, Epochs, LookUp, Shown, States, fresh_bits, protocol};
use crate::config::{Access, Route};
use crate::error::{Error, UpstreamFailure};
use crate::reply::{self, Asking, Encoding, Reply};
use crate::route::Captures;

/// How often a read asks anew because what it waited for was not for it; then it goes alone.
const ATTEMPTS: usize = 3;

/// Answers a GET or HEAD that a route may keep. (No `async fn`: that would hold what it is given twice.)
pub fn read(
    setup: Arc<Setup>,
    route: usize,
    captures: Captures,
    client: Client,
    foreseen: Option<Box<Foreseen>>,
) -> impl Future<Output = Result<Reply, Error>> + Send {
    // Before it is presented: what is learnt meanwhile makes it unknown.
    let terms = known::terms_of(&setup, &client, route);
    let (presented, found, since) = match foreseen {
        None => (
            present(&setup, &setup.served[route], &captures, &client),
            None,
            None,
        ),
        Some(foreseen) => {
            let Foreseen {
                asked,
                looked,
                since,
                took,
                ..
            } = *foreseen;
            debug_assert!(is_presented(&setup, route, &captures, &client, &asked));
            (Presented::Asked(asked), Some((looked, took)), Some(since))
        }
    };
    async move {
        let since = since.unwrap_or_else(|| setup.flights.now());
        match look_up(&setup, route, &captures, &client, &presented, found).await? {
            Looked::Hit(reply) => {
                if let (Some(terms), Presented::Asked(asked)) = (terms, &presented) {
                    known::remember(&setup, &client, &reply, terms, (route, &captures), asked);
                }
                Ok(reply)
            }
            // Boxed, or a hit would carry room for all that it does not need.
            other => {
                let client = Arc::new(client);
                Box::pin(go_on(
                    &setup,
                    route,
                    captures,
                    client,
                    presented,
                    (other, since),
                ))
                .await
            }
        }
    }
}

/// What a look-up came to, for one client.
enum Looked {
    Hit(Reply),
    /// There is a valid copy, but the origin is to be asked first.
    Stale(Lack),
    Miss(Reason, Lack),
    /// The key was not what it should have been: look again.
    Again,
    /// The upstream is to be asked whether it admits this client.
    Unverified,
    Pass(Reason),
}

/// What a look-up has left to be fetched.
struct Lack {
    /// What it has shown of the states.
    shown: Option<Box<Shown>>,
    /// The copy that is to be validated or replaced.
    stale: Option<Arc<Stored>>,
}

/// Whether this is what would be presented, unless that has just changed.
pub(super) fn is_presented(
    setup: &Setup,
    route: usize,
    captures: &Captures,
    client: &Client,
    asked: &Asked,
) -> bool {
    match present(setup, &setup.served[route], captures, client) {
        Presented::Asked(again) => again.is_same(asked) || again.varied != asked.varied,
        Presented::Pass(reason) => matches!(reason, Reason::StoreAway | Reason::VaryUnkeyed),
        Presented::Unverified | Presented::Refused(_) => false,
    }
}

/// The read as the cache sees it, by what this instance knows.
pub fn present(setup: &Setup, served: &Served, captures: &Captures, client: &Client) -> Presented {
    let Some(secret) = setup.coherence.store().secret() else {
        return Presented::Pass(Reason::StoreAway);
    };
    if served
        .unkeyed
        .load()
        .iter()
        .any(|name| client.fields.contains_key(name))
    {
        return Presented::Pass(Reason::VaryUnkeyed);
    }
    let admitted = match &served.route.access {
        Access::Verify(_) | Access::Jwt(_) => match admit::known(setup, served, client, &secret) {
            admit::Known::Admitted(verdict) => Some(verdict),
            admit::Known::NotAdmitted(reason) => return Presented::Pass(reason),
            admit::Known::Unasked => None,
        },
        Access::PerCredential | Access::Public => None,
    };
    present::present(
        &setup.config,
        served,
        captures,
        client,
        &served.varied.load(),
        &secret,
        admitted,
    )
}

/// `found`: what was looked up before, and how long that took.
async fn look_up(
    setup: &Arc<Setup>,
    route: usize,
    captures: &Captures,
    client: &Client,
    presented: &Presented,
    found: Option<(LookUp, Duration)>,
) -> Result<Looked, Error> {
    let asked = match presented {
        Presented::Asked(asked) => asked,
        Presented::Pass(reason) => return Ok(Looked::Pass(*reason)),
        Presented::Unverified => return Ok(Looked::Unverified),
        Presented::Refused(refusal) => return Err((*refusal).into()),
    };
    let (served, now) = (&setup.served[route], clock::now());
    if let Some(hottest) = &served.hottest {
        hottest.count(&setup.config, &served.route.access, asked, captures, client);
    }
    let found = match found {
        // It was begun when the request had come, as any is.
        Some((found, took)) => {
            if let Some(notes) = &client.notes {
                notes.store_took(took);
            }
            found
        }
        None => {
            let asked_at = client.notes.as_ref().map(|_| clock::stopwatch());
            let found = find(setup, served, client, asked).await;
            if let (Some(notes), Some(asked_at)) = (&client.notes, asked_at) {
                notes.store_took(asked_at.elapsed());
            }
            match found {
                Ok(found) => found,
                Err(other) => return Ok(other),
            }
        }
    };
    let (stored, outdated) = match found {
        LookUp::Valid(stored) => (stored, false),
        LookUp::Outdated(stored) => (stored, true),
        LookUp::Miss(reason, shown) => {
            debug!(copy = %asked.copy, why = reason.word(), "nothing to serve");
            let lack = Lack { shown, stale: None };
            return Ok(Looked::Miss(reason, lack));
        }
    };
    Ok(match asked.holds(stored.head.varied()) {
        true => {
            let terms = terms(&served.route);
            let use_of_it = match outdated {
                false => reuse(&stored, terms, now, fresh_bits),
                true => reuse::outdated(&stored, terms, now),
            };
            let refresh = |stored| {
                if may_fill(setup, served, client) {
                    refresh::refresh(setup, route, captures, client, asked, stored);
                }
            };
            let hit = |handling| reply::hit(asking(setup, served, client), &stored, handling, now);
            match use_of_it {
                Reuse::Serve { left } => {
                    trace!(copy = %asked.copy, "served");
                    sample::perhaps(setup, route, client, asked, &stored);
                    Looked::Hit(hit(fresh(left)).await)
                }
                Reuse::Refresh { left } => {
                    refresh(stored.clone());
                    Looked::Hit(hit(fresh(left)).await)
                }
                Reuse::ServeStale { stale } => {
                    refresh(stored.clone());
                    let stale = stale.as_secs();
                    let handling = match outdated && stored.is_fresh(now) {
                        true => Handling::OutdatedHit,
                        false => Handling::StaleHit { stale },
                    };
                    Looked::Hit(hit(handling).await)
                }
                Reuse::Validate => Looked::Stale(Lack {
                    shown: None,
                    stale: Some(stored),
                }),
            }
        }
        false => {
            // Another instance has seen the answers vary: the key holds more than we knew.
            served.learn_here(stored.head.varied());
            Looked::Again
        }
    })
}

fn may_fill(setup: &Setup, served: &Served, client: &Client) -> bool {
    access::may_fill(&served.route.access, &setup.config, &client.fields)
}

/// What the store holds for one who is admitted to it.
async fn find(
    setup: &Setup,
    served: &Served,
    client: &Client,
    asked: &Asked,
) -> Result<LookUp, Looked> {
    let (coherence, depends) = (&setup.coherence, &asked.depends);
    let Some(verdict) = &asked.admitted else {
        return Ok(coherence.look_up(&asked.copy, depends, &asked.origin).await);
    };
    let looked = coherence.look_up_admitted(&asked.copy, depends, &asked.origin, &verdict.epochs);
    match looked.await {
        // Whether the credential was revoked cannot be known: it is shown what is its own alone.
        Some(LookUp::Miss(Reason::StoreAway, _)) => Err(Looked::Pass(Reason::StoreAway)),
        Some(found) => Ok(found),
        None => {
            admit::forget(setup, served, client, verdict);
            Err(Looked::Unverified)
        }
    }
}

/// The way of whatever is no hit at once.
async fn go_on(
    setup: &Arc<Setup>,
    route: usize,
    captures: Captures,
    client: Arc<Client>,
    mut presented: Presented,
    (mut looked, mut since): (Looked, Moment),
) -> Result<Reply, Error> {
    let served = &setup.served[route];
    // What is rare is boxed, here and below, or every miss would carry room for it, and zero and copy it.
    let alone = |why: Forward, detail| {
        let body = RequestBody::Empty;
        Box::pin(pass::pass(setup, &client, body, why, Some(detail)))
    };
    let mut why = Reason::Absent;
    // The first question whether a client is admitted is no attempt.
    let attempts = ATTEMPTS + usize::from(matches!(looked, Looked::Unverified));
    for _ in 0..attempts {
        let lack = match looked {
            Looked::Hit(reply) => return Ok(reply),
            Looked::Pass(reason) => return alone(Forward::Bypass, reason).await,
            Looked::Again => None,
            Looked::Unverified => {
                if let Err(reason) = Box::pin(admit::ask(setup, served, &client)).await {
                    return alone(Forward::Bypass, reason).await;
                }
                None
            }
            Looked::Stale(lack) => {
                why = Reason::Expired;
                Some(lack)
            }
            Looked::Miss(reason, lack) => {
                why = reason;
                Some(lack)
            }
        };
        if let (Some(lack), Presented::Asked(asked)) = (lack, presented) {
            if why == Reason::OtherOrigin && !served.said_other_origin.swap(true, Ordering::Relaxed)
            {
                warn!(route = served.route.path.as_str(), origin = %asked.origin,
                    "the same answers are asked under several origins and replace each other: set `canonical_origin` to the one by which clients are to know the API, or list its names under `hosts`; not where the host says whose answers they are (tenants)");
            }
            let as_it_came = match client.method == Method::HEAD {
                true => Some((forward_word(why), why)),
                false => served
                    .sets_cookie_anew(&client)
                    .then_some((Forward::Bypass, Reason::SetCookie)),
            };
            if let Some((forward, detail)) = as_it_came {
                let passed = alone(forward, detail);
                return match lack.stale {
                    Some(stale) => {
                        Box::pin(or_stood_in(setup, route, &client, &asked, stale, passed)).await
                    }
                    None => passed.await,
                };
            }
            let news = served.learn_from_others(&setup.coherence).await;
            if !news && !may_fill(setup, served, &client) {
                return alone(forward_word(why), Reason::VerifyMixed).await;
            }
            let asked = Arc::new(asked);
            let ask = Ask {
                setup,
                route,
                captures: &captures,
                client: &client,
            };
            if !news && let Some(reply) = ask.wait(&asked, since, lack, why).await? {
                return Ok(reply);
            }
        }
        presented = present(setup, served, &captures, &client);
        since = setup.flights.now();
        looked = look_up(setup, route, &captures, &client, &presented, None).await?;
    }
    match looked {
        Looked::Hit(reply) => Ok(reply),
        _ => alone(forward_word(why), why).await,
    }
}

/// What comes of a HEAD that is passed on, or the stale copy in the place of an error, where a GET would be given it.
async fn or_stood_in(
    setup: &Arc<Setup>,
    route: usize,
    client: &Client,
    asked: &Asked,
    stale: Arc<Stored>,
    passed: impl Future<Output = Result<Reply, Error>>,
) -> Result<Reply, Error> {
    let served = &setup.served[route];
    let terms = terms(&served.route);
    let stands_in = || reuse::stands_in(&stale, terms, clock::now());
    if !stands_in() || !may_fill(setup, served, client) {
        return passed.await;
    }
    let (epochs, fence) = open(setup, served, &asked.depends, None).await;
    let passed = passed.await;
    let status = match &passed {
        Ok(reply) => Some(reply.response.status()),
        Err(Error::Upstream(_)) => None,
        Err(_) => return passed,
    };
    let failed = status.is_none_or(|status| is_stood_in_for(status.as_u16()));
    if !failed
        || !stands_in()
        || !is_unwritten(&stale, epochs.as_ref().ok(), fence.absence.as_ref())
    {
        return passed;
    }
    if let Some(verdict) = &asked.admitted
        && !admit::still(setup, verdict).await
    {
        return passed;
    }
    let handling = Handling::stood_in(status, false);
    Ok(reply::hit(
        asking(setup, served, client),
        &stale,
        handling,
        clock::now(),
    )
    .await)
}

/// One client's question, while it leads or follows a fetch.
struct Ask<'a> {
    setup: &'a Arc<Setup>,
    route: usize,
    captures: &'a Captures,
    client: &'a Arc<Client>,
}

impl Ask<'_> {
    /// Leads or follows one fetch. `None`: what came of it is not for this one, ask anew.
    async fn wait(
        &self,
        asked: &Arc<Asked>,
        since: Moment,
        lack: Lack,
        why: Reason,
    ) -> Result<Option<Reply>, Error> {
        let Ask { setup, client, .. } = *self;
        let served = &setup.served[self.route];
        let (epochs, fence) = open(setup, served, &asked.depends, lack.shown.as_deref()).await;
        let flight = asked.flight();
        let mut follower = match setup.flights.join(&flight, &fence, since) {
            Turn::Lead {
                fill,
                mut follower,
                look_again,
            } => {
                let fetch = Fetch {
                    setup: setup.clone(),
                    route: self.route,
                    captures: self.captures.clone(),
                    client: client.clone(),
                    asked: asked.clone(),
                    epochs,
                    absence: fence.absence.clone(),
                    replacing: lack.stale,
                    look_again,
                };
                follower.carry(fetch.run(fill));
                follower
            }
            Turn::Follow(follower) => {
                let asker = client.asker(&setup.config);
                setup.upstream.is_wanted_by(asker, &flight);
                follower
            }
        };
        let leads = follower.leads;
        let for_me = |answer: &Answer| {
            leads || !matches!(answer, Answer::Coming(coming) if coming.others == Others::Wait)
        };
        let answer = {
            let mut answering = pin!(follower.answer(for_me));
            match leads {
                true => answering.await,
                // Longer than this nobody waits for another's fetch.
                false => {
                    let patience = setup.upstream.settings().total * 2;
                    match tokio::time::timeout(patience, answering.as_mut()).await {
                        Ok(answer) => answer,
                        Err(_) => return Ok(None),
                    }
                }
            }
        };
        let collapsed = !leads;
        // Whoever has waited for longer than the verdict lasts, or was revoked meanwhile, is given nothing but the answer to
        // its own request.
        let is_own = leads && !matches!(answer, Some(Answer::Found(_) | Answer::StandIn(..)));
        if let (Some(verdict), false) = (&asked.admitted, is_own)
            && !Box::pin(admit::still(setup, verdict)).await
        {
            return Ok(None);
        }
        match answer {
            None => Ok(None),
            // A create may have come between what this one has seen and what the fetch had.
            Some(Answer::Found(stored) | Answer::StandIn(stored, _))
                if !leads
                    && stored.is_negative()
                    && !is_unwritten(&stored, fence.epochs.as_ref(), fence.absence.as_ref()) =>
            {
                Ok(None)
            }
            Some(Answer::Found(stored)) => {
                let now = clock::now();
                let left = stored.lifetime.saturating_sub(stored.age(now));
                Ok(Some(self.stored(&stored, fresh(left)).await))
            }
            Some(Answer::StandIn(stored, status)) => {
                let handling = Handling::stood_in(status, collapsed);
                Ok(Some(self.stored(&stored, handling).await))
            }
            Some(Answer::Varied(fetched)) if leads => {
                Ok(Some(self.fetched(fetched, why, collapsed).await))
            }
            Some(Answer::Varied(_) | Answer::Unsent) => Ok(None),
            Some(Answer::NotForACache(reason)) => {
                let (body, detail) = (RequestBody::Empty, Some(reason));
                Box::pin(pass::pass(setup, client, body, Forward::Bypass, detail))
                    .await
                    .map(Some)
            }
            Some(Answer::Fetched(fetched))
                if leads || follower.may_share_status || !fetched.for_its_status =>
            {
                Ok(Some(self.fetched(fetched, why, collapsed).await))
            }
            Some(Answer::Fetched(_)) => Ok(None),
            Some(Answer::Coming(coming)) if leads => {
                Ok(Some(read_along(&coming, &follower, why, collapsed)))
            }
            Some(Answer::Coming(coming)) if coming.others == Others::GoAlone => {
                let reason = coming.not_stored.unwrap_or(Reason::TooLarge);
                drop((coming, follower));
                Box::pin(pass::fill_alone(setup, served, client, asked, reason))
                    .await
                    .map(Some)
            }
            Some(Answer::Coming(coming)) if follower.may_share_status || !coming.for_its_status => {
                Ok(Some(read_along(&coming, &follower, why, collapsed)))
            }
            Some(Answer::Coming(_)) => Ok(None),
            Some(Answer::Alone(response, reason)) => {
                let taken = if leads { response.lock().take() } else { None };
                match taken {
                    Some(response) => Ok(Some(pass::streamed(
                        response,
                        forward_word(why),
                        Some(reason),
                    ))),
                    None => {
                        // Should its leader have left, it is nobody's, and is not kept from giving its slot back.
                        drop((response, follower));
                        Box::pin(pass::fill_alone(setup, served, client, asked, reason))
                            .await
                            .map(Some)
                    }
                }
            }
            // Who led it had to give up its place in the queue; this one has its own.
            Some(Answer::Failed(UpstreamFailure::QueueFull)) if !leads => Ok(None),
            Some(Answer::Failed(failure)) => Err(failure.into()),
        }
    }

    async fn stored(&self, stored: &Stored, handling: Handling) -> Reply {
        reply::hit(self.asking(), stored, handling, clock::now()).await
    }

    async fn fetched(&self, fetched: Arc<Fetched>, why: Reason, collapsed: bool) -> Reply {
        let handling = Handling::Forwarded {
            why: forward_word(why),
            status: Some(fetched.said),
            stored: fetched.not_stored.is_none(),
            collapsed,
            detail: Some(fetched.not_stored.unwrap_or(why).word()),
        };
        // Mostly nobody else has waited for it.
        let fetched = Arc::try_unwrap(fetched).unwrap_or_else(|shared| shared.as_ref().clone());
        let answer = (fetched.status, fetched.fields, &fetched.body);
        reply::fetched(self.asking(), answer, handling).await
    }

    fn asking(&self) -> Asking<'_> {
        asking(self.setup, &self.setup.served[self.route], self.client)
    }
}

/// Who asks, and what the route lets be made of a whole answer.
fn asking<'a>(setup: &'a Setup, served: &'a Served, client: &'a Client) -> Asking<'a> {
    let offered = served.route.compress.as_slice();
    Asking {
        method: &client.method,
        request: &client.fields,
        encoding: (!offered.is_empty()).then_some(Encoding {
            offered,
            encoder: &setup.encoder,
        }),
    }
}

fn fresh(left: Duration) -> Handling {
    let ttl = left.as_secs();
    Handling::Hit { ttl }
}

/// What a route says of the use of its copies.
pub fn terms(route: &Route) -> Terms<'_> {
    Terms {
        stale_while_revalidate: route.stale_while_revalidate,
        stale_if_error: route.stale_if_error,
        early_refresh: route.early_refresh,
        override_origin: route.override_origin,
        targeted: &route.targeted,
    }
}

/// The epochs to store under, or why there are none; and the fence to join by. `shown`: by the look-up of this read.
pub(super) async fn open(
    setup: &Setup,
    served: &Served,
    depends: &Depends,
    shown: Option<&Shown>,
) -> (Result<Epochs, Reason>, Fence) {
    let mut all = States::from(depends.own());
    if let Some(absence) = &served.absence {
        all.extend(absence.iter().cloned());
    }
    let store = setup.coherence.store();
    let opened = match shown {
        Some(shown) => store.open_after(&all, shown).await,
        None => store.open(&all).await,
    };
    let seen = match opened {
        Ok(seen) => seen,
        Err(_) => {
            return (
                Err(Reason::StoreAway),
                Fence {
                    epochs: None,
                    absence: None,
                },
            );
        }
    };
    let (own, others) = seen.split_at(depends.own);
    let epochs = protocol::epochs(own);
    let absence = served
        .absence
        .as_ref()
        .and_then(|_| protocol::epochs(others));
    (
        epochs.clone().ok_or(Reason::Held),
        Fence { epochs, absence },
    )
}

fn read_along(coming: &Coming, follower: &Follower<Answer>, why: Reason, collapsed: bool) -> Reply {
    let handling = Handling::Forwarded {
        why: forward_word(why),
        status: Some(coming.status),
        stored: coming.not_stored.is_none(),
        collapsed,
        detail: Some(coming.not_stored.unwrap_or(why).word()),
    };
    let body = ReplyBody::Shared(coming.body.reader(follower.interest()));
    reply::forwarded(coming.status, coming.fields.clone(), body, handling)
}

/// RFC 9211 §2.2 for a look-up that found nothing to serve.
pub fn forward_word(why: Reason) -> Forward {
    match why {
        Reason::Absent | Reason::Foreign | Reason::Purged => Forward::UriMiss,
        Reason::Expired => Forward::Stale,
        Reason::ClientDirective => Forward::Request,
        Reason::OtherOrigin | Reason::OtherVariant => Forward::VaryMiss,
        Reason::Held => Forward::Miss,
        Reason::Method => Forward::Method,
        _ => Forward::Bypass,
    }
}
