//! Traces by OTLP over HTTP, to a collector that is a socket here and reads what arrives by the wire format itself
//! (protobuf, opentelemetry/proto/trace/v1/trace.proto), not by the library that wrote it. `cargo test --features otel --test otel`

#![cfg(feature = "otel")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use support::larder::{Larder, LarderBuilder};
use support::origin::{self, Origin};
use support::tls::{Authority, Kind};
use support::{eventually, free_port, users_api};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What one POST of a batch held.
struct Batch {
    head: String,
    body: Vec<u8>,
}

/// Takes every batch, as a collector does.
struct Collector {
    address: SocketAddr,
    batches: Arc<Mutex<Vec<Batch>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let batches = Arc::<Mutex<Vec<Batch>>>::default();
        let kept = Arc::clone(&batches);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept) = (stream.unwrap(), Arc::clone(&kept));
                thread::spawn(move || {
                    let batch = read(&mut stream);
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                        .unwrap();
                    kept.lock().unwrap().push(batch);
                });
            }
        });
        Collector { address, batches }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn spans(&self) -> Vec<Span> {
        let batches = self.batches.lock().unwrap();
        batches
            .iter()
            .flat_map(|batch| spans(&batch.body))
            .collect()
    }
}

/// One request by HTTP/1.1 with its length.
fn read(stream: &mut impl Read) -> Batch {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = stream.read(&mut part).unwrap();
        assert!(length > 0, "the batch breaks off");
        bytes.extend_from_slice(&part[..length]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8(bytes[..end].to_vec())
            .unwrap()
            .to_ascii_lowercase();
        let (_, behind) = head.split_once("content-length:").expect("a length");
        let length: usize = behind.lines().next().unwrap().trim().parse().unwrap();
        if bytes.len() >= end + 4 + length {
            let body = bytes[end + 4..end + 4 + length].to_vec();
            return Batch { head, body };
        }
    }
}

#[derive(Debug)]
struct Span {
    resource: BTreeMap<String, String>,
    trace: String,
    parent: String,
    name: String,
    kind: u64,
    nanos: u64,
    attributes: BTreeMap<String, String>,
    /// 2: an error.
    status: u64,
}

/// A field of a message: its number and what stands there.
enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

fn fields(mut message: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)),
            1 => Value::Number(u64::from_le_bytes(
                take(&mut message, 8).try_into().unwrap(),
            )),
            2 => {
                let length = varint(&mut message) as usize;
                Value::Bytes(take(&mut message, length))
            }
            5 => {
                Value::Number(u32::from_le_bytes(take(&mut message, 4).try_into().unwrap()).into())
            }
            other => panic!("no wire type: {other}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn take<'b>(message: &mut &'b [u8], length: usize) -> &'b [u8] {
    let (taken, rest) = message.split_at(length);
    *message = rest;
    taken
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = take(message, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// The messages at a field.
fn inside(message: &[u8], number: u64) -> Vec<&[u8]> {
    let fields = fields(message).into_iter();
    fields
        .filter_map(|(field, value)| match value {
            Value::Bytes(bytes) if field == number => Some(bytes),
            _ => None,
        })
        .collect()
}

fn number(message: &[u8], wanted: u64) -> u64 {
    let mut fields = fields(message).into_iter();
    fields
        .find_map(|(field, value)| match value {
            Value::Number(number) if field == wanted => Some(number),
            _ => None,
        })
        .unwrap_or_default()
}

fn text(message: &[u8], wanted: u64) -> String {
    let bytes = inside(message, wanted).first().copied().unwrap_or_default();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(message: &[u8], wanted: u64) -> String {
    let bytes = inside(message, wanted).first().copied().unwrap_or_default();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `KeyValue`s at a field: strings, integers and doubles.
fn attributes(message: &[u8], wanted: u64) -> BTreeMap<String, String> {
    let pairs = inside(message, wanted).into_iter();
    pairs
        .map(|pair| {
            let value = inside(pair, 2).first().copied().unwrap_or_default();
            let told = match fields(value).into_iter().next() {
                Some((1, Value::Bytes(text))) => String::from_utf8(text.to_vec()).unwrap(),
                Some((3, Value::Number(number))) => number.to_string(),
                Some((4, Value::Number(bits))) => f64::from_bits(bits).to_string(),
                _ => "?".to_owned(),
            };
            (text(pair, 1), told)
        })
        .collect()
}

/// `ExportTraceServiceRequest` → its spans.
fn spans(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in inside(request, 1) {
        let resource = inside(of_resource, 1).first().copied().unwrap_or_default();
        for of_scope in inside(of_resource, 2) {
            for span in inside(of_scope, 2) {
                let status = inside(span, 15).first().copied().unwrap_or_default();
                spans.push(Span {
                    resource: attributes(resource, 1),
                    trace: hex(span, 1),
                    parent: hex(span, 4),
                    name: text(span, 5),
                    kind: number(span, 6),
                    nanos: number(span, 8) - number(span, 7),
                    attributes: attributes(span, 9),
                    status: number(status, 3),
                });
            }
        }
    }
    spans
}

fn api() -> Origin {
    Origin::start(|request| match request.target.as_str() {
        "/broken/" => origin::status(500, "{}"),
        _ => origin::json("[]"),
    })
}

fn telling(origin: &Origin, url: &str, delay: &str) -> LarderBuilder {
    Larder::with(users_api(origin, "memory:", ""))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .env("OTEL_BSP_SCHEDULE_DELAY", delay)
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

#[test]
fn each_request_is_a_span_under_the_trace_that_its_client_names() {
    let (origin, collector) = (api(), Collector::start());
    let larder = telling(&origin, &collector.url(), "100").start();
    let asked = |target: &str, flags: &str| {
        let fields = [
            ("traceparent", traceparent(flags)),
            ("Authorization", "Token hush".to_owned()),
            ("X-Request-Id", "mine".to_owned()),
        ];
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        larder.get_with(target, &fields)
    };
    asked("/api/users/?token=secret", "01");
    assert!(asked("/api/users/?token=secret", "01").is_hit());
    asked("/broken/", "01");
    eventually("three spans have arrived", || collector.spans().len() >= 3);

    let spans = collector.spans();
    for span in &spans {
        assert_eq!(
            (span.trace.as_str(), span.parent.as_str()),
            (TRACE, PARENT),
            "{span:?}"
        );
        assert_eq!(span.kind, 2, "a server's: {span:?}");
        assert_eq!(span.resource["service.name"], "larder");
        assert_eq!(span.attributes["larder.request_id"], "mine");
        assert!(span.nanos > 0, "{span:?}");
    }
    let of = |cache: &str, path: &str| {
        let mut spans = spans.iter();
        let found = spans.find(|span| {
            span.attributes["larder.cache"] == cache && span.attributes["url.path"] == path
        });
        found.unwrap_or_else(|| panic!("no {cache} of {path}: {:?}", collector.spans()))
    };
    let hit = of("hit", "/api/users/");
    assert_eq!(hit.name, "GET /api/users/");
    assert_eq!(hit.attributes["http.route"], "/api/users/");
    assert_eq!(hit.attributes["http.response.status_code"], "200");
    assert!(
        !hit.attributes.contains_key("larder.upstream_seconds"),
        "{hit:?}"
    );
    let miss = spans.iter().find(|span| {
        span.attributes
            .get("larder.detail")
            .is_some_and(|detail| detail == "absent")
    });
    let took: f64 = miss.expect("a miss").attributes["larder.upstream_seconds"]
        .parse()
        .unwrap();
    assert!(took > 0.0);
    let broken = spans
        .iter()
        .find(|span| span.attributes["url.path"] == "/broken/")
        .expect("a span");
    assert_eq!(
        (
            broken.status,
            broken.attributes["http.response.status_code"].as_str()
        ),
        (2, "500")
    );

    let batches = collector.batches.lock().unwrap();
    for batch in batches.iter() {
        assert!(
            batch.head.starts_with("post /v1/traces http/1.1"),
            "{}",
            batch.head
        );
        assert!(
            batch.head.contains("content-type: application/x-protobuf"),
            "{}",
            batch.head
        );
        let body = String::from_utf8_lossy(&batch.body);
        for secret in ["hush", "secret", "token="] {
            assert!(!body.contains(secret), "{secret} is in a span");
        }
    }
}

#[test]
fn what_the_client_does_not_sample_is_not_sent_and_who_names_no_trace_begins_one() {
    let (origin, collector) = (api(), Collector::start());
    let larder = telling(&origin, &collector.url(), "100").start();
    larder.get_with("/api/users/", &[("traceparent", &traceparent("00"))]);
    larder.get_with("/api/users/7/", &[("traceparent", "00-zz-zz-01")]);
    larder.get("/api/users/8/");
    eventually("two spans have arrived", || collector.spans().len() >= 2);
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(
        spans
            .iter()
            .all(|span| span.parent.is_empty() && span.trace.len() == 32),
        "{spans:?}"
    );
    assert_ne!(spans[0].trace, spans[1].trace);
}

#[test]
fn a_collector_behind_tls_is_verified_and_sent_to_by_the_proxys_own_tls() {
    let (origin, collector) = (api(), Collector::start());
    let authority = Authority::new();
    authority.write("collector", &authority.issue(Kind::Ecdsa, &["localhost"]));
    let tls = format!(
        "tls: {}\nupstream: {}\nroutes: []\n",
        authority.pair("collector"),
        collector.url()
    );
    let front = Larder::start(tls);
    let url = format!("https://localhost:{}", front.address().port());
    let trusted = telling(&origin, &url, "100").env("SSL_CERT_FILE", authority.file());
    let larder = trusted.start();
    larder.get("/api/users/");
    eventually("the span has arrived", || collector.spans().len() == 1);

    let larder = telling(&origin, &url, "100").start();
    larder.get("/api/users/");
    eventually("a collector that nobody vouches for is refused", || {
        larder.output().contains("traces cannot be sent")
    });
    assert_eq!(collector.spans().len(), 1);
}

#[test]
fn what_is_left_is_sent_at_the_end() {
    let (origin, collector) = (api(), Collector::start());
    let larder = telling(&origin, &collector.url(), "3600000").start();
    larder.get("/api/users/");
    larder.terminate();
    assert!(larder.exit().status.success());
    assert_eq!(collector.spans().len(), 1, "{:?}", collector.spans());
}

#[test]
fn a_collector_that_hangs_does_not_keep_the_process_from_its_end() {
    // Connected to by the kernel, and never heard of again.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = api();
    let url = format!("http://{}", hangs.local_addr().unwrap());
    let larder = telling(&origin, &url, "3600000").start();
    larder.get("/api/users/");
    larder.terminate();
    let exit = larder.exit();
    assert!(exit.status.success());
    let was_waited_for = exit.output.contains("no answer in time");
    assert!(!was_waited_for, "{}", exit.output);
}

#[test]
fn a_collector_that_is_away_costs_no_request_and_is_said_once() {
    let origin = api();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let larder = telling(&origin, &nobody, "50").start();
    let said = || larder.output().matches("traces cannot be sent").count();
    eventually("it is said", || {
        assert_eq!(larder.get("/api/users/").status, 200);
        said() == 1
    });
    for _ in 0..20 {
        assert_eq!(larder.get("/api/users/").status, 200);
        thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(said(), 1);
    larder.terminate();
    assert!(larder.exit().status.success());
}

#[test]
fn where_the_environment_names_no_collector_nothing_is_said_of_traces() {
    let origin = api();
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    larder.get("/api/users/");
    assert!(!larder.output().contains("traces"), "{}", larder.output());
}
