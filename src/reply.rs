//! What the client is told. Each answer carries how it came about (`Cache-Status`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::body::ReplyBody;
use crate::caching::cache_status::Handling;
use crate::caching::stored::Stored;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::message::{conditions, fields};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// An answer and how it came about.
pub struct Reply {
    pub response: Response<ReplyBody>,
    pub handling: Handling,
}

/// From a copy: whole, or 304 where the client's own is still good.
pub fn from_copy(
    method: &Method,
    request: &HeaderMap,
    stored: Arc<Stored>,
    handling: Handling,
    now: Timestamp,
) -> Reply {
    let age = stored.age(now);
    let not_modified =
        stored.status == StatusCode::OK && conditions::not_modified(request, &stored.fields);
    // A copy that came from Redis is ours alone, and its fields need no copying.
    let (status, stored_fields, body) = match Arc::try_unwrap(stored) {
        Ok(own) => (own.status, own.fields, own.body),
        Err(shared) => (shared.status, shared.fields.clone(), shared.body.clone()),
    };
    let mut response = Response::new(ReplyBody::Empty);
    let sent = response.headers_mut();
    if not_modified {
        for name in &conditions::OF_A_304 {
            for value in stored_fields.get_all(name) {
                sent.append(name, value.clone());
            }
        }
    } else {
        *sent = stored_fields;
        if *method == Method::HEAD {
            sent.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
    }
    if matches!(handling, Handling::Hit { .. }) {
        sent.insert(header::AGE, HeaderValue::from(age.as_secs()));
    }
    *response.status_mut() = if not_modified {
        StatusCode::NOT_MODIFIED
    } else {
        status
    };
    if !not_modified && *method != Method::HEAD {
        *response.body_mut() = ReplyBody::whole(body);
    }
    finished(response, handling)
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
    *response.headers_mut() = fields;
    finished(response, handling)
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

fn finished(mut response: Response<ReplyBody>, handling: Handling) -> Reply {
    let sent = response.headers_mut();
    fields::append_via(sent);
    sent.append(CACHE_STATUS, handling.header());
    Reply { response, handling }
}
