//! What the client is told. Each answer carries how it came about (`Cache-Status`).

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::body::ReplyBody;
use crate::caching::cache_status::{CACHE_STATUS, Handling};
use crate::caching::stored::Stored;
use crate::clock::Timestamp;
use crate::encoding::{self, Encoder, Offer};
use crate::error::Error;
use crate::message::codings::Coding;
use crate::message::selection::{Selection, select};
use crate::message::{conditions, fields, ranges};

/// What every hit says of its way here.
static OURS: [HeaderName; 3] = [header::AGE, header::VIA, CACHE_STATUS];

/// An answer and how it came about.
pub struct Reply {
    pub response: Response<ReplyBody>,
    pub handling: Handling,
}

/// Who asks for a whole answer, and what its route lets be made of it.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub method: &'a Method,
    pub request: &'a HeaderMap,
    pub encoding: Option<Encoding<'a>>,
}

/// The codings that a route offers, and who makes them.
#[derive(Clone, Copy)]
pub struct Encoding<'a> {
    pub offered: &'a [Coding],
    pub encoder: &'a Encoder,
}

/// A stored response: whatever of it the request asks for.
pub async fn hit(asking: Asking<'_>, stored: &Stored, handling: Handling, now: Timestamp) -> Reply {
    let age = stored.age(now).as_secs();
    let cache_status = match handling {
        Handling::Hit { ttl } => said_hit(ttl),
        other => other.header(),
    };
    let fields = stored.head.of_a_hit(said_age(age), cache_status);
    let response = selected(asking, stored.status, fields, &stored.body).await;
    Reply { response, handling }
}

/// An answer that has just been fetched, all of it: whatever of it the request asks for.
pub async fn fetched(
    asking: Asking<'_>,
    (status, fields, body): (StatusCode, HeaderMap, &Bytes),
    handling: Handling,
) -> Reply {
    let fields = dressed(fields, handling);
    let response = selected(asking, status, fields, body).await;
    Reply { response, handling }
}

async fn selected(
    asking: Asking<'_>,
    status: StatusCode,
    fields: HeaderMap,
    body: &Bytes,
) -> Response<ReplyBody> {
    if let Some(encoding) = asking.encoding {
        // Boxed, or every hit would carry room for it.
        return Box::pin(encoded(asking, encoding, status, fields, body)).await;
    }
    let selection = select(asking.method, asking.request, status, &fields, body.len());
    sent(asking.method, selection, status, fields, body)
}

/// As on any route, but that all of it is sent in a coding to who accepts one. A part never is.
async fn encoded(
    Asking {
        method, request, ..
    }: Asking<'_>,
    Encoding { offered, encoder }: Encoding<'_>,
    status: StatusCode,
    mut fields: HeaderMap,
    body: &Bytes,
) -> Response<ReplyBody> {
    let offer = encoding::offer(offered, request, status, &fields, body.len() as u64);
    if offer != Offer::AsItIs {
        encoding::vary(&mut fields);
    }
    let selection = select(method, request, status, &fields, body.len());
    match (offer, &selection) {
        (Offer::In(coding), Selection::Whole) => {
            if let Some(made) = encoder.encode(body, coding).await {
                encoding::mark(&mut fields, coding);
                return sent(method, selection, status, fields, &made);
            }
        }
        // What the client has is the encoded form, and its tag must stay a weak one.
        (Offer::In(_), Selection::NotModified) => encoding::weaken(&mut fields),
        _ => {}
    }
    sent(method, selection, status, fields, body)
}

fn sent(
    method: &Method,
    selection: Selection,
    status: StatusCode,
    mut fields: HeaderMap,
    body: &Bytes,
) -> Response<ReplyBody> {
    let length = body.len();
    let (status, fields, body) = match selection {
        Selection::Whole if *method == Method::HEAD => {
            // RFC 9110 §8.6: a 204 has none.
            if status != StatusCode::NO_CONTENT {
                fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            (status, fields, ReplyBody::Empty)
        }
        Selection::Whole => (status, fields, ReplyBody::whole(body.clone())),
        Selection::NotModified => {
            let fields = conditions::of_a_304(&fields, &OURS);
            (StatusCode::NOT_MODIFIED, fields, ReplyBody::Empty)
        }
        Selection::Part(part) => {
            ranges::of_a_206(&mut fields, &part, length);
            let part = ReplyBody::whole(body.slice(part));
            (StatusCode::PARTIAL_CONTENT, fields, part)
        }
        Selection::Unsatisfiable => {
            let fields = ranges::of_a_416(&fields, &OURS, length);
            (StatusCode::RANGE_NOT_SATISFIABLE, fields, ReplyBody::Empty)
        }
    };
    let mut response = Response::new(body);
    *response.headers_mut() = fields;
    *response.status_mut() = status;
    response
}

/// What many hits in a row say: spelled once, and then known for as long as it stays the same.
type Spelled = RefCell<(u64, HeaderValue)>;

fn said_age(age: u64) -> HeaderValue {
    thread_local!(static SPELLED: Spelled = RefCell::new((0, HeaderValue::from(0))));
    SPELLED.with_borrow_mut(|spelled| said(spelled, age, HeaderValue::from))
}

fn said_hit(ttl: u64) -> HeaderValue {
    let spell = |ttl| Handling::Hit { ttl }.header();
    thread_local!(static SPELLED: Spelled = RefCell::new((0, Handling::Hit { ttl: 0 }.header())));
    SPELLED.with_borrow_mut(|spelled| said(spelled, ttl, spell))
}

fn said(
    spelled: &mut (u64, HeaderValue),
    number: u64,
    spell: impl Fn(u64) -> HeaderValue,
) -> HeaderValue {
    if spelled.0 != number {
        *spelled = (number, spell(number));
    }
    spelled.1.clone()
}

/// Likewise, what one answer after the other says of how it was handled.
fn said_as_before(handling: Handling) -> HeaderValue {
    thread_local!(static SPELLED: RefCell<Option<(Handling, HeaderValue)>> = const { RefCell::new(None) });
    SPELLED.with_borrow_mut(|spelled| match spelled {
        Some((before, value)) if *before == handling => value.clone(),
        _ => {
            let value = handling.header();
            *spelled = Some((handling, value.clone()));
            value
        }
    })
}

/// What the upstream said, as it comes.
pub fn forwarded(
    status: StatusCode,
    fields: HeaderMap,
    body: ReplyBody,
    handling: Handling,
) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = dressed(fields, handling);
    Reply { response, handling }
}

/// An answer of our own, from the one place that makes them of errors.
pub fn error(error: Error) -> Reply {
    let answer = error.answer();
    let body = serde_json::json!({ "detail": answer.detail, "reason": error.word() }).to_string();
    let mut response = Response::new(ReplyBody::whole(Bytes::from(body)));
    *response.status_mut() = answer.status;
    let sent = response.headers_mut();
    sent.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    sent.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(after) = answer.retry_after {
        sent.insert(
            header::RETRY_AFTER,
            HeaderValue::from(after.max(Duration::from_secs(1)).as_secs()),
        );
    }
    if answer.close {
        sent.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let handling = Handling::Own {
        detail: error.word(),
    };
    sent.append(CACHE_STATUS, handling.header());
    Reply { response, handling }
}

/// With what every answer says of its way here.
fn dressed(mut fields: HeaderMap, handling: Handling) -> HeaderMap {
    fields::append_via(&mut fields);
    fields.append(CACHE_STATUS, said_as_before(handling));
    fields
}
