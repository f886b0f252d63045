//! The cache that hit ratios are compared to: it keeps what it fetched, and drops it after a write was answered. It is
//! stale whenever a fetch races a write, and so has every hit that a cache can have.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::servers::{block_on, end_with_the_bench};

const LIST: &str = "/api/users/";

/// In front of the origin at this address.
pub fn run(origin: &str) {
    end_with_the_bench();
    let origin: SocketAddr = origin.parse().expect("an origin's address");
    block_on(async move {
        let copies = Copies::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let copies = copies.clone();
            let service = service_fn(move |request| {
                let copies = copies.clone();
                async move { Ok::<_, Infallible>(answer(request, &copies, origin).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}

type Copies = Arc<Mutex<HashMap<String, Bytes>>>;

async fn answer(
    request: Request<Incoming>,
    copies: &Copies,
    origin: SocketAddr,
) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let reads = method == Method::GET;
    let copy = copies.lock().expect("nobody panics").get(&path).cloned();
    if let Some(copy) = copy.filter(|_| reads) {
        let hit = Response::builder().header("cache-status", "naive; hit");
        return hit.body(Full::new(copy)).expect("plain fields");
    }
    let Some((status, body)) = forward(request, origin).await else {
        let mut failed = Response::new(Full::default());
        *failed.status_mut() = StatusCode::BAD_GATEWAY;
        return failed;
    };
    let mut copies = copies.lock().expect("nobody panics");
    if reads && status == StatusCode::OK {
        copies.insert(path, body.clone());
    } else if !reads && status.is_success() {
        copies.remove(&path);
        copies.remove(LIST);
    }
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

/// On a connection of its own: nobody measures how fast this is.
async fn forward(request: Request<Incoming>, origin: SocketAddr) -> Option<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(origin).await.ok()?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    Some((
        status,
        response.into_body().collect().await.ok()?.to_bytes(),
    ))
}
