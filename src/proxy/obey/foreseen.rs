//! What a read would come to now, for whoever asks before: the same look-ups, and the same question to the origin where a
//! read would ask it. Nothing is kept of it.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use http_body::Body;

use super::answer::{MINUTE, is_failure};
use super::{Ask, Asking, Keys};
use crate::caching::cache_status::{Handling, Reason};
use crate::caching::freshness::Exchange;
use crate::caching::origin::{self, Use};
use crate::caching::stored::Stored;
use crate::clock;
use crate::error::Error;
use crate::proxy::read::forward_word;
use crate::proxy::{Client, Setup};
use crate::route::Captures;
use crate::upstream::UpstreamBody;

pub struct Foreseen {
    pub handling: Handling,
    /// Why, unless it is a hit.
    pub reason: Option<Reason>,
    /// If the origin was asked.
    pub answered: Option<Answered>,
}

/// What the origin said.
pub struct Answered {
    pub status: StatusCode,
    pub took: Duration,
    /// For how long it would be kept, or why not.
    pub kept: Result<Duration, Reason>,
}

/// `Err`: Larder's own answer.
pub async fn foresee(
    setup: &Arc<Setup>,
    route: usize,
    captures: &Captures,
    client: &Client,
) -> Result<Foreseen, Error> {
    let Some(url) = client.url() else {
        return Ok(passed(Reason::Spelling));
    };
    let client = Arc::new(Asking {
        client: client.clone(),
        url,
    });
    let Some(mut ask) = Ask::new(setup, route, captures, client) else {
        return Ok(passed(Reason::Spelling));
    };
    let Some(keys) = ask.keys() else {
        return Ok(passed(Reason::StoreAway));
    };
    ask.depends = ask.depends_with(&setup.groups.of(&keys.own));
    let (wants, mut found) = (ask.wants(), ask.find(&keys).await);
    // A hold that is overdue counts until it is swept. An exchange would sweep it; so does this.
    if matches!(found.result, Err(Reason::Held))
        && setup.coherence.open(&ask.depends.states).await.is_ok()
    {
        found = ask.find(&keys).await;
    }
    if let Ok(stored) = &found.result {
        match origin::usable(ask.choices(), stored, &wants, clock::now()) {
            Use::Ask => {}
            Use::Fresh { left } => {
                let ttl = left.as_secs();
                return Ok(Foreseen::unasked(Handling::Hit { ttl }, None));
            }
            Use::Stale { stale, .. } => {
                let stale = stale.as_secs();
                return Ok(Foreseen::unasked(
                    Handling::StaleHit { stale },
                    Some(Reason::StaleWhileRevalidate),
                ));
            }
        }
    }
    if let Some(reply) = ask.reused_part(&keys, &wants).await {
        return Ok(Foreseen::unasked(reply.handling, None));
    }
    if wants.only_if_cached {
        return Err(Error::OnlyIfCached);
    }
    let why = ask.why_not(&found);
    let stored = found.result.ok();
    let (asked_at, sent) = (clock::stopwatch(), ask.send(stored.as_deref(), None).await);
    let took = asked_at.elapsed();
    let status = sent.as_ref().ok().map(|(response, _)| response.status());
    if status.is_none_or(is_failure)
        && let Some(stored) = &stored
        && origin::stands_in(ask.choices(), stored, clock::now())
    {
        let handling = Handling::stood_in(status, false);
        return Ok(Foreseen::unasked(handling, Some(Reason::StaleIfError)));
    }
    let (response, request_time) = sent?;
    let exchange = Exchange {
        request_time,
        response_time: clock::now(),
    };
    let status = response.status();
    let kept = match ask.client.method() {
        &Method::HEAD => Err(why),
        _ => ask.would_keep(&keys, stored.as_deref(), &response, exchange, why),
    };
    let detail = kept.err().unwrap_or(why);
    let handling = Handling::Forwarded {
        why: forward_word(why),
        status: Some(status),
        stored: kept.is_ok(),
        collapsed: false,
        detail: Some(detail.word()),
    };
    Ok(Foreseen {
        handling,
        reason: Some(detail),
        answered: Some(Answered { status, took, kept }),
    })
}

fn passed(reason: Reason) -> Foreseen {
    let handling = Handling::Forwarded {
        why: forward_word(reason),
        status: None,
        stored: false,
        collapsed: false,
        detail: Some(reason.word()),
    };
    Foreseen::unasked(handling, Some(reason))
}

impl Foreseen {
    fn unasked(handling: Handling, reason: Option<Reason>) -> Foreseen {
        Foreseen {
            handling,
            reason,
            answered: None,
        }
    }
}

impl Ask {
    /// Whether this answer would be kept. A 304 speaks for what is stored.
    fn would_keep(
        &self,
        keys: &Keys,
        stored: Option<&Stored>,
        response: &Response<UpstreamBody>,
        exchange: Exchange,
        why: Reason,
    ) -> Result<Duration, Reason> {
        if matches!(why, Reason::Held | Reason::StoreAway) {
            return Err(why);
        }
        let most = self.served().route.max_body;
        let length = response.body().size_hint().exact();
        if length.is_some_and(|length| length > most) {
            return Err(Reason::TooLarge);
        }
        let validated = stored.filter(|stored| {
            response.status() == StatusCode::NOT_MODIFIED && self.validates(stored)
        });
        let (status, fields) = match validated {
            Some(stored) => (
                stored.status,
                self.freshened(stored, response.headers(), exchange),
            ),
            None => (response.status(), response.headers().clone()),
        };
        let keepable = self.judged(self.client.method(), status, &fields, exchange)?;
        let key = self.key_of(keys, (status, &fields), &keepable.nominated)?;
        if !self.is_in_known_groups(keys, &fields) {
            return Err(Reason::NewGroup);
        }
        let span = keepable.lifetime + keepable.keep_stale(status, &fields);
        let cap = &self.setup.cap;
        match cap.has_room(&self.family, &key, span.max(MINUTE), clock::now()) {
            true => Ok(keepable.lifetime),
            false => Err(Reason::TooManyCopies),
        }
    }
}
