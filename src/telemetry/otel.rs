//! Traces by OTLP over HTTP: a span for each request that is logged, under the trace that its `traceparent` names.
//!
//! Only in a build with `--features otel`, and only where the environment names a collector, by the variables of the
//! OpenTelemetry specification. Batches are made and sent beside the requests; what cannot be sent is lost, and said once.

use std::fmt;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::clock;
use crate::tls::client::Client;

/// A collector that takes longer is taken for hung.
const PATIENCE: Duration = Duration::from_secs(10);

/// At the end of the process it is waited for no longer: whoever connects meanwhile waits for the next process.
const AT_THE_END: Duration = Duration::from_secs(2);

/// More of an answer is not read.
const LARGEST: usize = 1024 * 1024;

static STARTED: OnceLock<Started> = OnceLock::new();

struct Started {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A request that has been answered.
pub struct Answered<'a> {
    pub method: &'a str,
    /// The pattern, not the path.
    pub route: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub cache: &'static str,
    pub detail: Option<&'static str>,
    pub request_id: &'a str,
    pub took: Duration,
    pub store: Duration,
    pub upstream: Duration,
    pub traceparent: Option<&'a HeaderValue>,
}

/// Begins to send where a collector is named. Within the runtime that shall do it.
pub fn start() -> Result<(), String> {
    let named = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value == "true");
    let anywhere =
        named("OTEL_EXPORTER_OTLP_ENDPOINT") || named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    if disabled || !anywhere {
        return Ok(());
    }
    let sender = Sender {
        runtime: Handle::current(),
        tls: Client::new(None, None)
            .map_err(|error| error.to_string())?
            .into(),
        fails: AtomicBool::new(false).into(),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(sender)
        .with_protocol(Protocol::HttpBinary)
        .build()
        .map_err(|error| error.to_string())?;
    let mut resource = Resource::builder();
    if !named("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name("larder");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("larder");
    // Err only says that it was started before.
    let _ = STARTED.set(Started { provider, tracer });
    info!("traces are sent to the collector that the environment names");
    Ok(())
}

/// Sends what has not been sent yet. It waits, and so stands outside of the runtime's own threads.
pub fn end() {
    if let Some(started) = STARTED.get() {
        // What cannot be sent has been said.
        let _ = started.provider.shutdown_with_timeout(AT_THE_END);
    }
}

/// Makes a span of it.
pub fn told(answered: &Answered) {
    let Some(started) = STARTED.get() else { return };
    let end = clock::now().to_system_time();
    let mut attributes = vec![
        KeyValue::new("http.request.method", answered.method.to_owned()),
        KeyValue::new("http.route", answered.route.to_owned()),
        KeyValue::new("url.path", answered.path.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(answered.status)),
        KeyValue::new("larder.cache", answered.cache),
        KeyValue::new("larder.request_id", answered.request_id.to_owned()),
    ];
    attributes.extend(
        answered
            .detail
            .map(|detail| KeyValue::new("larder.detail", detail)),
    );
    for (name, took) in [
        ("larder.store_seconds", answered.store),
        ("larder.upstream_seconds", answered.upstream),
    ] {
        if !took.is_zero() {
            attributes.push(KeyValue::new(name, took.as_secs_f64()));
        }
    }
    let builder = SpanBuilder::from_name(format!("{} {}", answered.method, answered.route))
        .with_kind(SpanKind::Server)
        .with_start_time(end - answered.took)
        .with_attributes(attributes);
    let above = answered.traceparent.and_then(parent);
    let context = above.map_or_else(Context::new, |parent| {
        Context::new().with_remote_span_context(parent)
    });
    let mut span = started.tracer.build_with_context(builder, &context);
    if answered.status >= 500 {
        span.set_status(Status::error(""));
    }
    span.end_with_timestamp(end);
}

/// W3C Trace Context §3.2: version, trace-id, parent-id, flags.
fn parent(traceparent: &HeaderValue) -> Option<SpanContext> {
    let mut parts = traceparent.to_str().ok()?.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let context = SpanContext::new(
        trace,
        span,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

/// Sends each batch on a connection of its own, by the proxy's own HTTP and TLS: a second stack would bring a second
/// provider of cryptography.
#[derive(Clone)]
struct Sender {
    /// Batches are made on a thread that has none.
    runtime: Handle,
    tls: std::sync::Arc<Client>,
    fails: std::sync::Arc<AtomicBool>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl HttpClient for Sender {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let (own, runtime) = (self.clone(), self.runtime.clone());
        Box::pin(async move {
            let sent = runtime.spawn(async move {
                let answered = tokio::time::timeout(PATIENCE, own.send(request)).await;
                let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                own.note(&answered);
                answered
            });
            sent.await?.map_err(HttpError::from)
        })
    }
}

impl Sender {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the collector's URL names no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        match tls {
            false => exchange(stream, request).await,
            true => {
                let stream = self.tls.connect(host, stream, false).await;
                exchange(stream.map_err(|error| format!("TLS: {error}"))?, request).await
            }
        }
    }

    /// Said when it begins and when it is over, and not for each batch.
    fn note(&self, answered: &Result<Response<Bytes>, String>) {
        let why = match answered {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(why) => Some(why.clone()),
        };
        let failed = self.fails.swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !failed => warn!(%why, "traces cannot be sent, and are lost"),
            None if failed => info!("traces are sent again"),
            Some(_) | None => {}
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Bytes>) -> Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let host = HeaderValue::from_str(authority.unwrap_or_default());
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let target = target
        .parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())?;
    head.headers
        .insert(header::HOST, host.map_err(|error| error.to_string())?);
    head.uri = target;
    let response = sender
        .send_request(Request::from_parts(head, Full::new(body)))
        .await;
    let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
    let body = Limited::new(body, LARGEST).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok(Response::from_parts(head, body))
}
