//! Asking the origin: whether what is stored is still good, or for all of it, and what stands in if it fails.

use std::sync::Arc;

use http::{Response, StatusCode, header};
use tracing::debug;

use super::answer::{MINUTE, is_failure};
use super::turns::Turn;
use super::{Ask, Found, Keys};
use crate::caching::cache_status::Handling;
use crate::caching::freshness::Exchange;
use crate::caching::partial::Part;
use crate::caching::stored::Stored;
use crate::caching::validation::OfHead;
use crate::caching::{origin, validation};
use crate::clock;
use crate::error::{Error, UpstreamFailure};
use crate::message::{conditions, fields};
use crate::proxy::read::forward_word;
use crate::proxy::{pass, present};
use crate::reply::Reply;
use crate::upstream::UpstreamBody;

impl Ask {
    /// RFC 9111 §4.3.5: the origin answers, and what it says of the stored GET counts.
    pub(super) async fn head(&self, keys: &Keys, found: Found) -> Result<Reply, Error> {
        let why = self.why_not(&found);
        let epochs = self.setup.coherence.open(&self.depends.states).await;
        let request_time = clock::now();
        let mut outgoing = present::obeying(&self.setup.config, &self.client.client);
        outgoing.once = true;
        let asker = self.client.client.asker(&self.setup.config);
        let slot = self.setup.upstream.slot(asker).await?;
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
    pub(super) async fn fetch(
        self,
        keys: Keys,
        found: Found,
        turn: Option<Turn>,
    ) -> Result<Reply, Error> {
        let (setup, why) = (&self.setup, self.why_not(&found));
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
            // A range that the client did not ask for is not its error, either.
            (_, Some(begun), Ok(epochs))
                if matches!(
                    status,
                    StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
                ) =>
            {
                self.completed(keys, begun, response, exchange, epochs, why, turn)
                    .await
            }
            (_, _, epochs) => {
                self.received(keys, response, exchange, epochs, why, turn)
                    .await
            }
        }
    }

    pub(super) fn validates(&self, stored: &Stored) -> bool {
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
        let part = Part::of(&stored.head.fields())?;
        // What is too large to keep is passed on as it comes.
        let most = self.served().route.max_body;
        let fits = part.whole.is_none_or(|whole| whole <= most);
        (fits && part.rest().is_some()).then_some(stored)
    }

    /// The request as the client sent it, but for what is asked about the stored response.
    pub(super) async fn send(
        &self,
        stored: Option<&Stored>,
        begun: Option<&Stored>,
    ) -> Result<(Response<UpstreamBody>, clock::Timestamp), UpstreamFailure> {
        let setup = &self.setup;
        let mut outgoing = present::obeying(&setup.config, &self.client.client);
        outgoing.once = true;
        if let Some(stored) = stored.filter(|stored| self.validates(stored)) {
            // The client's own conditions and range are answered from what comes of it.
            let fields = outgoing.fields.to_mut();
            for name in conditions::CONDITIONS.iter().chain(&[header::RANGE]) {
                fields.remove(name);
            }
            validation::condition(&stored.head.fields(), fields);
        }
        if let Some(fields) = begun.map(|begun| begun.head.fields())
            && let Some(rest) = Part::of(&fields).and_then(|part| part.rest())
        {
            outgoing.fields.to_mut().insert(header::RANGE, rest);
            if let Some(tag) = fields
                .get(header::ETAG)
                .filter(|tag| tag.as_bytes().starts_with(b"\""))
            {
                outgoing
                    .fields
                    .to_mut()
                    .insert(header::IF_RANGE, tag.clone());
            }
        }
        let slot = setup
            .upstream
            .slot(self.client.client.asker(&setup.config))
            .await?;
        let request_time = clock::now();
        let mut response = setup.upstream.send(slot, outgoing).await?;
        fields::strip_hop_by_hop(response.headers_mut());
        Ok((response, request_time))
    }

    /// RFC 5861 §4.
    async fn stands_in(&self, stored: &Stored, status: Option<StatusCode>) -> Option<Reply> {
        let handling = Handling::stood_in(status, false);
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
}
