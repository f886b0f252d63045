//! What came of it: passed on as it comes, and kept where the next request looks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tracing::debug;

use super::turns::Turn;
use super::{Ask, Keys};
use crate::body::{ReplyBody, SharedBody};
use crate::caching::cache_status::{Handling, Reason};
use crate::caching::freshness::Exchange;
use crate::caching::head::Head;
use crate::caching::origin::Keepable;
use crate::caching::partial::Part;
use crate::caching::stored::Stored;
use crate::caching::{origin, validation, variance};
use crate::coherence::Epochs;
use crate::error::{Error, UpstreamFailure};
use crate::message::accept::is_event_stream;
use crate::proxy::pass;
use crate::proxy::read::forward_word;
use crate::reply::Reply;
use crate::upstream::UpstreamBody;
use crate::{clock, reply};

impl Ask {
    pub(super) fn freshened(
        &self,
        stored: &Stored,
        newer: &HeaderMap,
        exchange: Exchange,
    ) -> HeaderMap {
        let freshened = validation::freshened(&stored.head.fields(), newer);
        let mut kept = origin::kept_fields(self.choices(), &freshened, exchange);
        // It is not kept, but says how old all of this is now (RFC 9111 §4.3.4, §4.2.3).
        for age in newer.get_all(header::AGE) {
            kept.append(header::AGE, age.clone());
        }
        kept
    }

    /// Keeps a stored response as freshened. Why not, if not.
    pub(super) async fn keep(
        &self,
        keys: &Keys,
        stored: &Stored,
        freshened: &HeaderMap,
        exchange: Exchange,
        epochs: Epochs,
    ) -> Result<(), Reason> {
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

    pub(super) fn judged(
        &self,
        method: &Method,
        status: StatusCode,
        fields: &HeaderMap,
        exchange: Exchange,
    ) -> Result<Keepable, Reason> {
        if is_event_stream(fields) {
            return Err(Reason::EventStream);
        }
        let asked = origin::Asked {
            method,
            target: &self.client.url,
            fields: self.client.fields(),
        };
        let keepable = origin::keepable(self.choices(), &asked, status, fields, exchange)?;
        let mut nominated = keepable.nominated.iter();
        match nominated.any(|name| self.is_of_one_request(name)) {
            true => Err(Reason::VaryUnkeyed),
            false => Ok(keepable),
        }
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
    pub(super) async fn put(
        &self,
        keys: &Keys,
        copy: Stored,
        fields: &HeaderMap,
        keep: Duration,
    ) -> Result<(), Reason> {
        let (names, span) = (copy.head.varied(), copy.lifetime + keep);
        let key = self.place(keys, (copy.status, fields), names, &copy.epochs, span)?;
        self.put_at(keys, key, copy, fields, keep).await
    }

    /// The key that such a copy would stand at, and a place for it among those of its family; why not, if not.
    fn place(
        &self,
        keys: &Keys,
        (status, fields): (StatusCode, &HeaderMap),
        nominated: &[HeaderName],
        epochs: &Epochs,
        span: Duration,
    ) -> Result<String, Reason> {
        let key = self.key_of(keys, (status, fields), nominated)?;
        if !self.knows_groups(keys, epochs, fields) {
            return Err(Reason::NewGroup);
        }
        let cap = &self.setup.cap;
        match cap.add(&self.family, &key, span.max(MINUTE), clock::now()) {
            true => Ok(key),
            false => Err(Reason::TooManyCopies),
        }
    }

    /// A part stands by itself, where nothing else selects it.
    pub(super) fn key_of(
        &self,
        keys: &Keys,
        (status, fields): (StatusCode, &HeaderMap),
        nominated: &[HeaderName],
    ) -> Result<String, Reason> {
        match (status, nominated) {
            (StatusCode::PARTIAL_CONTENT, _) if Part::of(fields).is_none() => Err(Reason::Status),
            (StatusCode::PARTIAL_CONTENT, []) => Ok(self.part_key(keys)),
            (StatusCode::PARTIAL_CONTENT, _) => Err(Reason::VaryUnkeyed),
            (_, []) => Ok(keys.own.clone()),
            (_, names) => Ok(self.variant_key(&keys.secret, &self.selecting(names))),
        }
    }

    async fn put_at(
        &self,
        keys: &Keys,
        key: String,
        copy: Stored,
        fields: &HeaderMap,
        keep: Duration,
    ) -> Result<(), Reason> {
        let (coherence, now) = (&self.setup.coherence, clock::now());
        let names = copy.head.varied().to_vec();
        if names.is_empty() {
            return coherence.commit(&key, Arc::new(copy), keep, now).await;
        }
        let selecting = self.selecting(&names);
        let marker = marker(&copy, keep);
        let copy = Arc::new(copy);
        coherence.commit(&key, copy.clone(), keep, now).await?;
        if selecting.is_by_language()
            && let Some(language) = variance::content_language(fields)
        {
            let key = self.language_key(&keys.secret, &selecting, &language);
            coherence.commit(&key, copy, keep, now).await?;
        }
        coherence
            .commit(&keys.own, Arc::new(marker), MINUTE, now)
            .await
    }

    /// A whole answer made here, for this client.
    pub(super) async fn whole(
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
        let answer = (status, fields.clone(), body);
        reply::fetched(self.asking(), answer, handling).await
    }

    /// Passes the answer on as it comes, and keeps it if it may be kept.
    pub(super) async fn received(
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
        let (status, fields) = (response.status(), response.headers());
        // All that is said before its body has come.
        let place = |epochs: Epochs| {
            let keepable = self.judged(self.client.method(), status, fields, exchange)?;
            let keep = keepable.keep_stale(status, fields);
            let (nominated, span) = (&keepable.nominated, keepable.lifetime + keep);
            let key = self.place(&keys, (status, fields), nominated, &epochs, span)?;
            Ok((keepable, epochs, key, keep))
        };
        let placed = match epochs {
            _ if length.is_some_and(|length| length > most) => Err(Reason::TooLarge),
            Ok(epochs) => place(epochs),
            Err(reason) => Err(reason),
        };
        let (keepable, epochs, key, keep) = match placed {
            Ok(placed) => placed,
            Err(reason) => return Ok(pass::streamed(response, forward_word(why), Some(reason))),
        };
        let (head, body) = response.into_parts();
        let shared = SharedBody::new(length);
        let reader = shared.reader(Arc::new(()));
        let (status, fields) = (head.status, head.headers.clone());
        tokio::spawn(async move {
            let coming = shared;
            let total = self.setup.upstream.settings().total;
            let collected = tokio::time::timeout(total, collect(body, &coming, length, most));
            let too_long = Err(Unkept::Broken("the upstream's answer took too long"));
            let (last, whole) = match collected.await.unwrap_or(too_long) {
                Ok(collected) => collected,
                Err(unkept) => {
                    // Before its end is seen, so that whoever has seen it may have the place.
                    self.setup.cap.leave(&self.family, &key);
                    return match unkept {
                        Unkept::TooLarge(rest) => coming.hand_over(*rest),
                        Unkept::Broken(why) => coming.break_off(why),
                    };
                }
            };
            let copy = self.copy(
                head.status,
                &head.headers,
                whole,
                &keepable,
                exchange,
                epochs,
            );
            if let Err(reason) = self.put_at(&keys, key, copy, &head.headers, keep).await {
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
    pub(super) async fn completed(
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
        let most = self.served().route.max_body;
        let fits = parts.is_some_and(|(part, next)| {
            let small = next.whole.is_some_and(|whole| whole <= most);
            small && part.is_completed_by(&stored, &next, &newer)
        });
        let rest = match fits {
            true => {
                // However much of it there is.
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                let rest = Limited::new(response.into_body(), most).collect();
                let total = self.setup.upstream.settings().total;
                let came = tokio::time::timeout(total, rest).await;
                came.map_err(|_| UpstreamFailure::TotalTimeout)?.ok()
            }
            false => {
                // With it goes its slot: another is asked for.
                drop(response);
                None
            }
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

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// RFC 5861 §4: what a stale response may stand in for.
pub(super) fn is_failure(status: StatusCode) -> bool {
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

pub(super) fn is_marker(stored: &Stored) -> bool {
    stored.status == StatusCode::CONTINUE
}

/// Why what has begun to come is not to be kept.
enum Unkept {
    /// The rest of it goes on to whoever reads it.
    TooLarge(Box<UpstreamBody>),
    Broken(&'static str),
}

const BROKE_OFF: Unkept = Unkept::Broken("the upstream's answer broke off");

/// Reads an answer to its end, and shows it as it comes, but for the last piece of an announced length.
async fn collect(
    mut body: UpstreamBody,
    coming: &SharedBody,
    length: Option<u64>,
    most: u64,
) -> Result<(Option<Bytes>, Bytes), Unkept> {
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
                    return Err(Unkept::TooLarge(Box::new(body)));
                }
                match Some(whole.len() as u64) == length {
                    // By HTTP/2 an empty piece may follow the last one, as the end.
                    true if data.is_empty() => {}
                    true => last = Some(data),
                    false => coming.push(data),
                }
            }
            Some(Err(error)) => {
                debug!(%error, "the upstream's answer broke off");
                return Err(BROKE_OFF);
            }
            None if length.is_some_and(|length| length != whole.len() as u64) => {
                return Err(BROKE_OFF);
            }
            None => return Ok((last, whole.freeze())),
        }
    }
}
