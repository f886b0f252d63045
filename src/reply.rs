//! What the client is told. Each answer carries how it came about (`Cache-Status`).

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
    stored: &Stored,
    handling: Handling,
    now: Timestamp,
) -> Reply {
    let not_modified =
        stored.status == StatusCode::OK && conditions::not_modified(request, &stored.fields);
    let mut response = Response::new(match (not_modified, method) {
        (true, _) | (_, &Method::HEAD) => ReplyBody::Empty,
        _ => ReplyBody::whole(stored.body.clone()),
    });
    let sent = response.headers_mut();
    if not_modified {
        for name in &conditions::OF_A_304 {
            for value in stored.fields.get_all(name) {
                sent.append(name, value.clone());
            }
        }
    } else {
        *sent = stored.fields.clone();
        if *method == Method::HEAD {
            sent.insert(header::CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
        }
    }
    if matches!(handling, Handling::Hit { .. }) {
        sent.insert(header::AGE, HeaderValue::from(stored.age(now).as_secs()));
    }
    *response.status_mut() = if not_modified {
        StatusCode::NOT_MODIFIED
    } else {
        stored.status
    };
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
