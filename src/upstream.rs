//! The existing API behind us: one upstream or several, pools of connections, a cap with a bounded queue, and time limits.
//!
//! A request is sent once. But for a bodyless GET or HEAD: once more on a new connection, if a kept one closed before any
//! byte of an answer; and where there are several upstreams, once to another, if the first gave no byte of an answer. What
//! provably never left goes to the next upstream, whatever it is. The cap and its queue are for all of them together.

mod again;
#[cfg(any(test, fuzzing))]
pub mod alike;
mod body;
mod checks;
mod connection;
mod draft;
mod fleet;
mod members;
mod outline;
mod plain;
mod sender;

pub mod queue;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderValue, Method, Response, StatusCode, header};
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

use crate::body::{Progress, RequestBody, Silence};
use crate::clock;
use crate::config::Upstream as Settings;
use crate::error::UpstreamFailure;
use crate::interim::Turn;
use crate::message::accept::is_event_stream;
use crate::message::framing;
use crate::message::section::Section;
use crate::message::target::ForwardUri;
use crate::metrics::COUNTED;
use crate::proxy::told::Notes;
use body::{Content, Held};
use connection::Connection;
use draft::Draft;
use fleet::{Came, Choice, Errand};
use members::{Members, Visit};
pub use queue::{Asker, Slot};
use queue::{Load, Queue};
use sender::Sender;

pub use body::UpstreamBody;
pub use connection::{Unconnected, dial};
pub use fleet::Standing;
pub use members::Stands;

pub struct Upstream {
    settings: Settings,
    queue: Arc<Queue>,
    members: Arc<Members>,
    /// Places of event streams, which would keep a slot for as long as their readers stay.
    streams: Arc<Semaphore>,
}

/// Event streams under way beside all else. Those beyond keep their slots.
const MOST_STREAMS: usize = 1024;

/// A request as it will be sent: its fields are final.
pub struct Outgoing {
    pub method: Method,
    pub target: ForwardUri,
    pub fields: Section,
    /// In the place of an X-Request-Id among them.
    pub id: Option<HeaderValue>,
    pub body: RequestBody,
    /// Where interim answers go, if anywhere.
    pub interim: Option<Turn>,
    /// Where the time that it takes is noted.
    pub notes: Option<Arc<Notes>>,
    /// Never sent to a second upstream, safe as it may be.
    pub once: bool,
}

impl Upstream {
    pub fn new(settings: Settings) -> Arc<Upstream> {
        let members = Members::new(&settings);
        if let Some(check) = &settings.health
            && members.are_several()
        {
            checks::begin(&members, check);
        }
        Arc::new(Upstream {
            queue: Queue::new(settings.max_connections, settings.queue),
            members,
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            settings,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Each address, and how it stands.
    pub fn standings(&self) -> Vec<Stands> {
        self.members.standings()
    }

    /// Waits in the queue for the right to send.
    pub async fn slot(&self, asker: Asker) -> Result<Slot, UpstreamFailure> {
        counted(self.queue.slot(asker, None, self.settings.total).await)
    }

    /// The same for what others may come to wait for, too, who then say so by `is_wanted_by`.
    pub async fn slot_for(&self, copy: &str, asker: Asker) -> Result<Slot, UpstreamFailure> {
        let copy = Some(xxh3_64(copy.as_bytes()));
        counted(self.queue.slot(asker, copy, self.settings.total).await)
    }

    pub fn load(&self) -> Load {
        self.queue.load()
    }

    /// Event streams that have a place of their own.
    pub fn event_streams(&self) -> usize {
        MOST_STREAMS - self.streams.available_permits()
    }

    pub fn is_wanted_by(&self, asker: Asker, copy: &str) {
        self.queue.is_wanted_by(asker, xxh3_64(copy.as_bytes()));
    }

    /// Sends a request and waits for the head of its answer. Only a request with an Upgrade field may be answered 101.
    pub fn send(
        self: &Arc<Self>,
        slot: Slot,
        mut request: Outgoing,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, UpstreamFailure>> + Send + use<'_>
    {
        let (sent, notes) = (clock::stopwatch(), request.notes.take());
        // Before the future is made, which would carry both otherwise.
        let mut drafted = Draft::of(request);
        async move {
            let answered = match &mut drafted {
                Ok((draft, body)) => {
                    let body = std::mem::replace(body, RequestBody::Empty);
                    let arrived = self.arrived(draft, body).await;
                    arrived.and_then(|arrived| self.answer(slot, draft, arrived))
                }
                Err(failure) => Err(*failure),
            };
            let took = sent.elapsed();
            match &answered {
                Ok(response) => COUNTED.upstream.answered(response.status(), took),
                // That its client broke off is no failure of the API.
                Err(UpstreamFailure::Content(_)) => {}
                Err(failure) => COUNTED.upstream.failures.count([failure.word()]),
            }
            if let Some(notes) = notes {
                notes.upstream_took(took);
            }
            answered
        }
    }

    async fn arrived(&self, draft: &Draft, body: RequestBody) -> Result<Arrived, UpstreamFailure> {
        let progress = body.progress();
        // Pinned here and below, as a future that is handed on is held twice.
        let mut exchange = std::pin::pin!(self.exchange(draft, body));
        match progress {
            None => tokio::time::timeout(self.settings.total, exchange.as_mut())
                .await
                .unwrap_or(Err(UpstreamFailure::TotalTimeout)),
            // Boxed, or all would carry room for it.
            Some(progress) => Box::pin(self.while_streaming(exchange.as_mut(), &progress)).await,
        }
    }

    fn answer(
        &self,
        slot: Slot,
        draft: &Draft,
        Arrived {
            mut response,
            connection,
            visit,
        }: Arrived,
    ) -> Result<Response<UpstreamBody>, UpstreamFailure> {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let as_asked = draft.upgrade().is_some_and(|asked| {
            let named = response.headers().get(header::UPGRADE);
            named.is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        });
        // Of a plain one it is.
        let is_clear = match response.body() {
            Content::Plain(_) => true,
            Content::Hyper(_) | Content::Stream(_) => {
                framing::of_an_answer_is_clear(response.version(), response.headers())
            }
        };
        if (switches && !as_asked) || !is_clear {
            return Err(UpstreamFailure::Malformed);
        }
        // RFC 9110 §8.6: a 204 has none. By HTTP/2 it would be a length that the content has not.
        if response.status() == StatusCode::NO_CONTENT {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let connection = (!switches).then_some(connection);
        let (idle, held) = match is_event_stream(response.headers()) {
            // Between two events there may be nothing to say; who says so does it every 15 s (HTML Standard §9.2).
            true => {
                if let Some(connection) = &connection {
                    visit.shares_no_longer(connection);
                }
                (self.settings.idle * 4, self.as_a_stream(slot))
            }
            false => (self.settings.idle, Held::Slot(slot)),
        };
        let silence = Silence::new(idle);
        Ok(response.map(|content| UpstreamBody::new(content, silence, connection, visit, held)))
    }

    /// A place for a slot, where there is one.
    fn as_a_stream(&self, slot: Slot) -> Held {
        match self.streams.clone().try_acquire_owned() {
            Ok(place) => Held::Place(place),
            Err(_) => Held::Slot(slot),
        }
    }

    /// The time limits count from the content's end; before it, only from the last sign of life.
    async fn while_streaming<T>(
        &self,
        mut exchange: Pin<&mut impl Future<Output = Result<T, UpstreamFailure>>>,
        progress: &Progress,
    ) -> Result<T, UpstreamFailure> {
        let mut seen = (u64::MAX, false);
        loop {
            let now = (
                progress.bytes.load(Ordering::Relaxed),
                progress.done.load(Ordering::Relaxed),
            );
            if now == seen {
                return Err(UpstreamFailure::TotalTimeout);
            }
            seen = now;
            if let Ok(done) = tokio::time::timeout(self.settings.total, &mut exchange).await {
                return done;
            }
        }
    }

    /// Asks one upstream, and another where that is right.
    async fn exchange(
        &self,
        draft: &Draft,
        mut body: RequestBody,
    ) -> Result<Arrived, UpstreamFailure> {
        // Also one that is sent to nobody else: else nothing would try an upstream where there are no others.
        let errand = match draft.repeatable {
            true => Errand::Safe,
            false => Errand::Write,
        };
        let mut asked = Asked::new();
        let mut sent_again = false;
        let mut failure = UpstreamFailure::Connect;
        while let Some(visit) = self.members.visit(errand, &asked) {
            let choice = visit.choice();
            asked.push(choice.member);
            let mut attempt = std::pin::pin!(self.attempt(visit, body, draft));
            let came = match draft.safe && self.members.are_several() && !sent_again {
                true => {
                    // Boxed, or all would carry room for it.
                    let another = self.or_also_another(attempt.as_mut(), choice, draft, &mut asked);
                    Box::pin(another).await
                }
                false => attempt.await,
            };
            match came {
                Attempt::Answer(arrived) => return Ok(arrived),
                Attempt::Unsent(unsent, why) => (body, failure) = (unsent, why),
                Attempt::Lost { why, begun } if !draft.safe || begun || sent_again => {
                    return Err(why);
                }
                Attempt::Lost { why, .. } => {
                    (body, failure) = (RequestBody::Empty, why);
                    sent_again = true;
                }
                Attempt::LostForGood(why) => return Err(why),
            }
        }
        Err(failure)
    }

    /// A safe request whose upstream falls silent is asked of another as well, and the first answer counts.
    ///
    /// Only where nothing at all comes from there, to nobody: a slow answer of a living upstream is waited for. It has one
    /// slot for both, as of two upstreams one is silent.
    async fn or_also_another(
        &self,
        mut first: Pin<&mut impl Future<Output = Attempt>>,
        choice: Choice,
        draft: &Draft,
        asked: &mut Asked,
    ) -> Attempt {
        tokio::select! {
            biased;
            came = &mut first => return came,
            () = self.members.silence(choice) => {}
        }
        let Some(other) = self.members.visit(Errand::Spare, asked) else {
            return first.await;
        };
        asked.push(other.choice().member);
        let mut second = std::pin::pin!(self.attempt(other, RequestBody::Empty, draft));
        let (came, is_first) = tokio::select! {
            came = &mut first => (came, true),
            came = &mut second => (came, false),
        };
        if let Attempt::Answer(_) = came {
            return came;
        }
        let came = match is_first {
            true => second.await,
            false => first.await,
        };
        match came {
            Attempt::Lost { why, .. } => Attempt::LostForGood(why),
            came => came,
        }
    }

    /// Asks this upstream: on a kept connection, or on a new one.
    async fn attempt(&self, mut visit: Visit, mut body: RequestBody, draft: &Draft) -> Attempt {
        loop {
            let kept = match draft.upgrades {
                true => None,
                false => visit.kept().await,
            };
            let connected = match kept {
                Some(kept) => Ok((kept, true)),
                // Boxed, as it is rare and large.
                None if draft.upgrades => Box::pin(visit.connect_alone())
                    .await
                    .map(|own| (own, false)),
                None => visit.connect().await,
            };
            let (mut connection, is_kept) = match connected {
                Ok(connected) => connected,
                Err(why) => {
                    visit.heard(Came::Failure);
                    return Attempt::Unsent(body, why);
                }
            };
            let before = connection.received.load(Ordering::Relaxed);
            let answer = {
                let progress = body.progress();
                let mut sending = std::pin::pin!(connection.sender.send(draft, body));
                self.first_byte(sending.as_mut(), progress.as_deref()).await
            };
            // Of a connection that many share it says nothing; there, an answer has begun when its head is there.
            let begun = matches!(connection.sender, Sender::Http1(_))
                && connection.received.load(Ordering::Relaxed) != before;
            let lost = match answer {
                Ok(Ok(response)) => {
                    visit.heard(match response.status().as_u16() {
                        502..=504 => Came::Failure,
                        _ => Came::Answer,
                    });
                    return Attempt::Answer(Arrived {
                        response,
                        connection,
                        visit,
                    });
                }
                Ok(Err(lost)) => lost,
                Err(why) => {
                    visit.heard(Came::Failure);
                    return Attempt::Lost { why, begun };
                }
            };
            match lost.unsent {
                // It cannot be said in HTTP/2, and the upstream is not to blame.
                Some(_) if lost.why == UpstreamFailure::Malformed => {
                    return Attempt::LostForGood(lost.why);
                }
                // It never left, or never ran: the connection was closed before.
                Some(unsent) if is_kept => {
                    body = unsent;
                    if matches!(connection.sender, Sender::Http2(..)) {
                        visit.forget_kept(&connection);
                    }
                }
                Some(unsent) => {
                    visit.heard(Came::Failure);
                    return Attempt::Unsent(unsent, UpstreamFailure::Connect);
                }
                // Lost to a connection that its server closed, before any byte of an answer: once more on a new one.
                None if is_kept && draft.repeatable && !begun && lost.by_closing => {
                    visit.forget_kept(&connection);
                    body = RequestBody::Empty;
                }
                None => {
                    if !matches!(lost.why, UpstreamFailure::Content(_)) {
                        visit.heard(Came::Failure);
                    }
                    return Attempt::Lost {
                        why: lost.why,
                        begun,
                    };
                }
            }
        }
    }

    /// It counts from the end of the content; how a streamed one travels, `while_streaming` watches.
    async fn first_byte<T>(
        &self,
        mut answer: Pin<&mut impl Future<Output = T>>,
        progress: Option<&Progress>,
    ) -> Result<T, UpstreamFailure> {
        if self.settings.first_byte >= self.settings.total {
            return Ok(answer.await);
        }
        loop {
            let has_gone = progress.is_none_or(|content| content.done.load(Ordering::Relaxed));
            let answered = tokio::time::timeout(self.settings.first_byte, answer.as_mut()).await;
            match answered {
                Ok(answered) => return Ok(answered),
                Err(_) if has_gone => return Err(UpstreamFailure::FirstByteTimeout),
                Err(_) => {}
            }
        }
    }
}

/// The places of the upstreams that a request was sent to.
type Asked = SmallVec<[usize; 4]>;

/// An answer's head, and what it came by.
struct Arrived {
    response: Response<Content>,
    connection: Connection,
    visit: Visit,
}

/// What came of asking one upstream.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would be allocated for each answer"
)]
enum Attempt {
    Answer(Arrived),
    /// It provably never left, and is still there.
    Unsent(RequestBody, UpstreamFailure),
    /// It may have been seen.
    Lost {
        why: UpstreamFailure,
        /// A part of an answer had come.
        begun: bool,
    },
    /// And it is not to be sent again: two upstreams have lost it, or none would take it.
    LostForGood(UpstreamFailure),
}

/// Whoever gets no slot has no answer of the API.
fn counted(slot: Result<Slot, UpstreamFailure>) -> Result<Slot, UpstreamFailure> {
    slot.inspect_err(|failure| COUNTED.upstream.failures.count([failure.word()]))
}
