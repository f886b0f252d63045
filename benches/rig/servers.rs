//! The servers beside Larder, both as bare as hyper allows: the origin, and the floor that hits are compared to.

use std::convert::Infallible;
use std::future::Future;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::generator::Head;

/// Bytes of the JSON body that everything here answers with, unless told otherwise.
pub const BODY: usize = 300;

/// What Django with DRF says of an answer.
pub const FIELDS: [(&str, &str); 7] = [
    ("content-type", "application/json"),
    ("vary", "Accept, Cookie"),
    ("allow", "GET, PUT, PATCH, DELETE, HEAD, OPTIONS"),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// How long an origin takes, in milliseconds, whether it answers 401 to a POST, and how much it says.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Takes {
    pub read: u64,
    pub write: u64,
    pub refuses_posts: bool,
    /// Bytes of its answers' bodies, if not 300.
    pub body: Option<usize>,
}

impl Takes {
    pub fn detail(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    async fn as_long_as(&self, method: &Method) {
        let takes = match *method {
            Method::GET | Method::HEAD => self.read,
            _ => self.write,
        };
        if takes > 0 {
            tokio::time::sleep(Duration::from_millis(takes)).await;
        }
    }
}

/// A user as JSON, of so many bytes.
pub fn user(bytes: usize) -> Vec<u8> {
    let mut user =
        br#"{"id": 7, "username": "user7", "email": "user7@example.org", "about": ""#.to_vec();
    user.resize(bytes - 2, b'x');
    user.extend_from_slice(b"\"}");
    user
}

/// Answers every request with a user; a write's body is read first. Its fields are those of Django with DRF.
pub fn origin(detail: &str) {
    let takes = match detail {
        "" => Takes::default(),
        detail => serde_json::from_str(detail).expect("what an origin takes"),
    };
    let user = user(takes.body.unwrap_or(BODY));
    let mut fields = HeaderMap::new();
    for (name, value) in FIELDS {
        fields.insert(name, HeaderValue::from_static(value));
    }
    serve(Answer {
        fields,
        body: user.into(),
        takes,
    });
}

/// Answers every request with the very bytes of a hit of Larder's, head and body, which stand in that file.
pub fn bare(file: &str) {
    let example = std::fs::read_to_string(file).expect("a hit");
    let head = Head::parse(example.as_bytes()).expect("a whole head");
    let mut fields = HeaderMap::new();
    for (name, value) in head.fields() {
        let name = HeaderName::from_bytes(name).expect("a field's name");
        let value = HeaderValue::from_bytes(value).expect("a field's value");
        // hyper's own, as they are in Larder's answers.
        if name != header::CONTENT_LENGTH && name != header::CONNECTION {
            fields.append(name, value);
        }
    }
    serve(Answer {
        fields,
        body: Bytes::copy_from_slice(&example.as_bytes()[head.length()..]),
        takes: Takes::default(),
    });
}

#[derive(Clone)]
struct Answer {
    fields: HeaderMap,
    body: Bytes,
    takes: Takes,
}

impl Answer {
    fn to(&self, method: &Method) -> Response<Full<Bytes>> {
        let body = match *method {
            Method::HEAD => Bytes::new(),
            _ => self.body.clone(),
        };
        let mut response = Response::new(Full::new(body));
        *response.headers_mut() = self.fields.clone();
        if self.takes.refuses_posts && *method == Method::POST {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        response
    }
}

/// The same runtime as Larder's and the same socket options, so that what differs is Larder.
fn serve(answer: Answer) {
    end_with_the_bench();
    let answer: &'static Answer = Box::leak(Box::new(answer));
    block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request: Request<Incoming>| async move {
                let method = request.method().clone();
                if !matches!(method, Method::GET | Method::HEAD) {
                    let _ = request.into_body().collect().await;
                }
                answer.takes.as_long_as(&method).await;
                Ok::<_, Infallible>(answer.to(&method))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}

pub fn block_on(server: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(server);
}

/// The bench holds the other end of our standard input: when that closes, the bench has ended.
pub fn end_with_the_bench() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}
