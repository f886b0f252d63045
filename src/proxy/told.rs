//! What is told of each request: a count, and an event in the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use hyper::body::Body;
use tracing::info;

use super::Setup;
use crate::caching::cache_status::Handling;
use crate::message::fields::X_REQUEST_ID;
use crate::metrics::NO_ROUTE;
use crate::reply::Reply;
#[cfg(feature = "otel")]
use crate::telemetry::otel;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// As nginx has it in its log; nobody is sent it.
static CLIENT_LEFT: LazyLock<StatusCode> =
    LazyLock::new(|| StatusCode::from_u16(499).expect("it has three digits"));

/// A longer id is not kept.
const LONGEST_ID: usize = 128;

/// What is noted of a request on its way, for its event in the log; only where there is one.
#[derive(Debug)]
pub struct Notes {
    id: HeaderValue,
    /// The client said it.
    given: bool,
    /// What a fill that was made for it is called, if not the same.
    fill: OnceLock<HeaderValue>,
    /// The trace of which it is a part.
    trace: Option<String>,
    #[cfg(feature = "otel")]
    traceparent: Option<HeaderValue>,
    method: Method,
    path: String,
    /// Nanoseconds; nothing where it was not asked.
    store: AtomicU64,
    upstream: AtomicU64,
}

impl Notes {
    pub fn of(method: &Method, path: &str, fields: &HeaderMap) -> Notes {
        let given = fields.get(X_REQUEST_ID).filter(|id| is_sane(id));
        let trace = fields.get(TRACEPARENT).and_then(trace_of);
        Notes {
            given: given.is_some(),
            id: given.cloned().unwrap_or_else(made),
            fill: OnceLock::new(),
            trace,
            #[cfg(feature = "otel")]
            traceparent: fields.get(TRACEPARENT).cloned(),
            method: method.clone(),
            path: path.to_owned(),
            store: AtomicU64::new(0),
            upstream: AtomicU64::new(0),
        }
    }

    pub fn id(&self) -> &HeaderValue {
        &self.id
    }

    pub fn id_text(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// As the API is told with a fill: never what a client chose, for its answer is kept for others.
    pub fn id_of_fill(&self) -> &HeaderValue {
        match self.given {
            true => self.fill.get_or_init(made),
            false => &self.id,
        }
    }

    pub fn store_took(&self, time: Duration) {
        self.store.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub fn upstream_took(&self, time: Duration) {
        self.upstream.fetch_add(time.as_nanos() as u64, Relaxed);
    }
}

/// What can stand in a log and in a field, and is nobody's essay.
fn is_sane(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte);
    (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(plain)
}

/// Unlike any other: this process's own random bits, and a number.
fn made() -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(crate::coherence::fresh_bits);
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("{:016x}-{:x}", *PROCESS, NEXT.fetch_add(1, Relaxed));
    HeaderValue::try_from(id).expect("hex digits are a field value")
}

/// W3C Trace Context §3.2.2: version, trace-id, parent-id, flags.
fn trace_of(traceparent: &HeaderValue) -> Option<String> {
    let mut parts = traceparent.to_str().ok()?.split('-').skip(1);
    let trace = parts.next()?;
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (trace.len() == 32 && trace.bytes().all(hex)).then(|| trace.to_owned())
}

/// A request of which nothing has been told yet. It is told of even if its client leaves before there is an answer: that
/// clients lose their patience is what an operator would not see elsewhere.
pub struct Untold {
    pub setup: Arc<Setup>,
    pub route: Option<usize>,
    pub notes: Option<Arc<Notes>>,
    /// `None`: it has been told of, or nobody wants to know.
    pub started: Option<Instant>,
}

impl Untold {
    /// The answer is made: it is counted, logged, and given the request's id.
    pub fn tell(mut self, reply: &mut Reply) {
        let Some(started) = self.started.take() else {
            return;
        };
        let notes = self.notes.as_deref();
        let told = Told {
            status: reply.response.status(),
            handling: reply.handling,
            bytes: reply.response.body().size_hint().exact(),
            took: started.elapsed(),
        };
        told.of(&self.setup, self.route, notes);
        if let Some(notes) = notes {
            let fields = reply.response.headers_mut();
            fields.insert(X_REQUEST_ID, notes.id.clone());
        }
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        if let Some(started) = self.started {
            let told = Told {
                status: *CLIENT_LEFT,
                handling: Handling::Own {
                    detail: "client-left",
                },
                bytes: None,
                took: started.elapsed(),
            };
            told.of(&self.setup, self.route, self.notes.as_deref());
        }
    }
}

/// An answer, as it is counted and logged.
pub struct Told {
    pub status: StatusCode,
    pub handling: Handling,
    pub bytes: Option<u64>,
    pub took: Duration,
}

impl Told {
    pub fn of(&self, setup: &Setup, route: Option<usize>, notes: Option<&Notes>) {
        if setup.is_counting {
            let counts = match route {
                Some(route) => &setup.served[route].counts,
                None => &setup.unrouted,
            };
            counts.answered(self.handling, self.status, self.took);
        }
        if let Some(notes) = notes {
            let pattern = |route: usize| setup.config.routes[route].path.as_str();
            let route = route.map_or(NO_ROUTE, pattern);
            self.log(notes, route);
            #[cfg(feature = "otel")]
            self.trace(notes, route);
        }
    }

    #[cfg(feature = "otel")]
    fn trace(&self, notes: &Notes, route: &str) {
        let nanos = |of: &AtomicU64| Duration::from_nanos(of.load(Relaxed));
        otel::told(&otel::Answered {
            method: notes.method.as_str(),
            route,
            path: &notes.path,
            status: self.status.as_u16(),
            cache: self.handling.word(),
            detail: self.handling.detail(),
            request_id: notes.id_text(),
            took: self.took,
            store: nanos(&notes.store),
            upstream: nanos(&notes.upstream),
            traceparent: notes.traceparent.as_ref(),
        });
    }

    fn log(&self, notes: &Notes, route: &str) {
        let ms = |nanos: u64| (nanos > 0).then(|| (nanos / 1000) as f64 / 1000.0);
        let handling = self.handling;
        info!(
            target: "larder::access",
            method = notes.method.as_str(),
            path = notes.path,
            route,
            status = self.status.as_u16(),
            cache = handling.word(),
            detail = handling.detail().unwrap_or("-"),
            stored = matches!(handling, Handling::Forwarded { stored: true, .. }),
            collapsed = matches!(handling, Handling::Forwarded { collapsed: true, .. }),
            bytes = self.bytes,
            ms = self.took.as_micros() as f64 / 1000.0,
            store_ms = ms(notes.store.load(Relaxed)),
            upstream_ms = ms(notes.upstream.load(Relaxed)),
            id = notes.id_text(),
            fill_id = notes.fill.get().and_then(|id| id.to_str().ok()),
            trace = notes.trace.as_deref(),
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn notes(fields: &[(&str, &str)]) -> Notes {
        let mut request = Request::builder().uri("/api/users/?token=hush");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        Notes::of(request.method(), request.uri().path(), request.headers())
    }

    #[test]
    fn a_sane_id_is_kept_and_any_other_is_replaced_by_one_of_ours() {
        assert_eq!(notes(&[("X-Request-Id", "a-1.b:2")]).id_text(), "a-1.b:2");
        let long = "x".repeat(LONGEST_ID + 1);
        let mut made = Vec::new();
        for bad in ["", "a b", "a\"b", "a{b", long.as_str()] {
            let id = notes(&[("X-Request-Id", bad)]).id_text().to_owned();
            assert!(id != bad && is_sane(&HeaderValue::try_from(&id).unwrap()));
            made.push(id);
        }
        made.sort();
        made.dedup();
        assert_eq!(made.len(), 5, "each is unlike any other");
    }

    #[test]
    fn a_fill_is_never_called_what_a_client_says() {
        let given = notes(&[("X-Request-Id", "evil")]);
        assert_ne!(given.id_of_fill(), "evil");
        assert_eq!(given.id_of_fill(), given.id_of_fill());
        let ours = notes(&[]);
        assert_eq!(ours.id_of_fill(), ours.id());
    }

    #[test]
    fn only_a_trace_that_is_one_is_told() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(
            notes(&[("traceparent", &good)]).trace.as_deref(),
            Some(trace)
        );
        for bad in ["00", "00-evil-1-1", &good.to_uppercase()] {
            assert_eq!(notes(&[("traceparent", bad)]).trace, None, "{bad}");
        }
    }
}
