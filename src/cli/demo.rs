//! `larder demo`: the whole of it in one process, to be tried with curl. Nothing to install, nothing kept.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Failure;
use super::serve::{Running, Signals};
use crate::config::file;

/// How long the demo's API takes for anything, so that a hit can be felt.
const SLOWNESS: Duration = Duration::from_millis(300);

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder demo
  larder demo --listen 127.0.0.1:8090 --admin 127.0.0.1:9190 --log")]
pub struct Arguments {
    /// Where the proxy listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the operator's listener is
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    admin: SocketAddr,
    /// Print one line per request
    #[arg(long)]
    log: bool,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    super::runtime()?.block_on(async {
        let api = TcpListener::bind("127.0.0.1:0").await.map_err(|error| Failure::Failed(error.to_string()))?;
        let upstream = format!("http://{}", api.local_addr().map_err(|error| Failure::Failed(error.to_string()))?);
        tokio::spawn(serve_api(api));
        let over = file::Overrides {
            listen: Some(arguments.listen.to_string()),
            admin: Some(arguments.admin.to_string()),
            upstream: Some(upstream.clone()),
            store: Some("memory:".to_owned()),
            ..file::Overrides::default()
        };
        // The shipped file, and nothing of the environment, so that the demo is the same everywhere.
        let loaded = file::parse_with("proxy.yaml", file::EXAMPLE, &|_| None, &over);
        let mut config = loaded.map_err(|error| Failure::Config(error.to_string()))?.config;
        if !arguments.log {
            "warn".clone_into(&mut config.logs.level);
        }
        let _log = super::log(&config.logs)?;
        let signals = Signals::heard().map_err(|error| Failure::Failed(error.to_string()))?;
        let running = Running::start(config, None).await.map_err(|failure| match failure {
            Failure::Failed(why) => Failure::Failed(format!("{why}\nhelp: larder demo --listen 127.0.0.1:0 --admin 127.0.0.1:0 takes free ports")),
            other => other,
        })?;
        explain(&running, &upstream);
        running.until_told(signals).await
    })
}

fn explain(running: &Running, upstream: &str) {
    let proxy = format!("http://{}", running.listen);
    let admin = running
        .admin
        .map_or_else(String::new, |admin| format!("http://{admin}"));
    println!(
        "\
Larder's demo: a small users API that takes {} ms for anything, and the proxy in front of it.

  the proxy     {proxy}/api/users/
  the API       {upstream}/api/users/
  health        {admin}/readyz

Try, in another terminal:

  curl -i {proxy}/api/users/      # a miss: Cache-Status says fwd=uri-miss; stored
  curl -i {proxy}/api/users/      # a hit: at once, with Age
  curl -i {proxy}/api/users/2/    # a miss of its own
  curl -i -X PATCH -H 'Content-Type: application/json' -d '{{\"name\": \"Grace\"}}' {proxy}/api/users/2/
  curl -i {proxy}/api/users/      # a miss again, with the new name: never stale after a write
  curl -s {admin}/keys            # what is kept

Ctrl-C ends it.",
        SLOWNESS.as_millis()
    );
}

type Users = Arc<Mutex<BTreeMap<u64, Value>>>;

async fn serve_api(listener: TcpListener) {
    let names = ["Ada", "Linus", "Margaret"];
    let users: Users = Arc::new(Mutex::new(
        (1..)
            .zip(names)
            .map(|(id, name)| (id, json!({ "id": id, "name": name, "role": "student" })))
            .collect(),
    ));
    while let Ok((stream, _)) = listener.accept().await {
        let users = users.clone();
        let service = service_fn(move |request| {
            let users = users.clone();
            async move { Ok::<_, Infallible>(answer(&users, request).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The API: list, create, detail, update, delete; answers as Django REST Framework words them.
async fn answer(users: &Users, request: Request<Incoming>) -> Response<Full<Bytes>> {
    tokio::time::sleep(SLOWNESS).await;
    let (head, content) = request.into_parts();
    let sent: Value = match Limited::new(content, 64 * 1024).collect().await {
        Ok(body) => serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let id = head
        .uri
        .path()
        .strip_prefix("/api/users/")
        .and_then(|rest| rest.strip_suffix('/'));
    let mut users = users.lock();
    let (status, body) = match (&head.method, id, id.and_then(|id| id.parse::<u64>().ok())) {
        _ if head.uri.path() == "/api/users/" => match head.method {
            Method::GET | Method::HEAD => {
                (StatusCode::OK, json!(users.values().collect::<Vec<_>>()))
            }
            Method::POST if sent["name"].is_string() => {
                let id = users.keys().next_back().map_or(1, |last| last + 1);
                let user = json!({ "id": id, "name": sent["name"], "role": sent["role"].as_str().unwrap_or("student") });
                users.insert(id, user.clone());
                (StatusCode::CREATED, user)
            }
            Method::POST => (
                StatusCode::BAD_REQUEST,
                json!({ "name": ["This field is required."] }),
            ),
            _ => (
                StatusCode::METHOD_NOT_ALLOWED,
                json!({ "detail": "Method not allowed." }),
            ),
        },
        (method, _, Some(id)) if users.contains_key(&id) => match *method {
            Method::GET | Method::HEAD => (StatusCode::OK, users[&id].clone()),
            Method::PUT | Method::PATCH => {
                let user = users.entry(id).or_default();
                for (field, value) in sent
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(field, _)| *field != "id")
                {
                    user[field] = value.clone();
                }
                (StatusCode::OK, user.clone())
            }
            Method::DELETE => {
                users.remove(&id);
                (StatusCode::NO_CONTENT, Value::Null)
            }
            _ => (
                StatusCode::METHOD_NOT_ALLOWED,
                json!({ "detail": "Method not allowed." }),
            ),
        },
        _ => (StatusCode::NOT_FOUND, json!({ "detail": "Not found." })),
    };
    let body = if status == StatusCode::NO_CONTENT {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept, Cookie"));
    response
}
