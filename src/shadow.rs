//! A running proxy beside the API: is what it gives from its store what the API says at the same time? Whatever is not was
//! changed past the proxy, or by a write that no rule names, or hangs on something that the key does not hold.
//!
//! A write that comes between the two questions is no difference: through the proxy it drops the copy, so a copy that is
//! still given after the API has said something else, twice, is of the past.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::caching::cache_status::{CACHE_STATUS, Reason};
use crate::config::Config;
use crate::explain::{self, Accepted, Knowledge, Question};
use crate::proxy::{Client, present};
use crate::upstream::{Asker, Upstream};

/// A larger answer is not compared.
const LARGEST: usize = 64 * 1024 * 1024;

/// How often a target is asked for that changes all the time.
const ATTEMPTS: usize = 3;

/// The proxy and the API that are asked.
pub struct Shadow {
    pub config: Config,
    pub upstream: Arc<Upstream>,
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// Of each request; their values may be secret.
    pub fields: Vec<(String, String)>,
}

/// What came of one target.
pub struct Compared {
    /// The route's path and key.
    pub route: String,
    pub result: Comparison,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    Same,
    Differs {
        age: u64,
        copy: (StatusCode, usize),
        api: (StatusCode, usize),
        /// The first byte that is another.
        at: usize,
    },
    /// It is not given from the store: what `Cache-Status` says.
    NoHit(String),
    /// The API itself says something else each time.
    Unsteady,
    /// It was written to at each attempt.
    Changing,
    /// The API gives an error of its own, or has been asked too often: that says nothing of the copy.
    Failed(StatusCode),
}

struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    body: Bytes,
}

impl Shadow {
    /// Compares one target. `Err`: somebody did not answer, or no route keeps it.
    pub async fn compare(&self, target: &str) -> Result<Compared, String> {
        let question = self.question(target);
        let (told, accepted) = explain::explain(&self.config, &question, Knowledge::default())?;
        let (Some(Accepted::Read(reading)), Some(under)) = (accepted, &told.route) else {
            return Err(format!(
                "no route keeps `{target}`: `larder explain` says why"
            ));
        };
        let route = format!("{} ({})", under.path, under.key);
        let result = self.compare_for(&reading.client).await?;
        Ok(Compared { route, result })
    }

    async fn compare_for(&self, client: &Client) -> Result<Comparison, String> {
        for _ in 0..ATTEMPTS {
            let mut copy = self.ask_proxy(client).await?;
            // Of another host there was a copy, which nobody has compared.
            if copy.is_stored() && !copy.said().ends_with(Reason::OtherOrigin.word()) {
                copy = self.ask_proxy(client).await?;
            }
            if copy.said().is_empty() {
                return Err(format!(
                    "no Larder answers at {}, or what is before it takes its `Cache-Status` off: name the proxy's own address",
                    self.proxy
                ));
            }
            if !copy.is_hit() {
                return Ok(Comparison::NoHit(copy.said().to_owned()));
            }
            let says = self.ask_api(client).await?;
            if says.reads_as(&copy) {
                return Ok(Comparison::Same);
            }
            if says.status.is_server_error() || says.status == StatusCode::TOO_MANY_REQUESTS {
                return Ok(Comparison::Failed(says.status));
            }
            if !self.ask_api(client).await?.reads_as(&says) {
                return Ok(Comparison::Unsteady);
            }
            let still = self.ask_proxy(client).await?;
            if still.is_hit() && still.reads_as(&copy) {
                let same = still.body.iter().zip(&says.body);
                return Ok(Comparison::Differs {
                    age: still.age(),
                    copy: (still.status, still.body.len()),
                    api: (says.status, says.body.len()),
                    at: same.take_while(|(a, b)| a == b).count(),
                });
            }
        }
        Ok(Comparison::Changing)
    }

    /// As a client of the API would send it, under the host that fills are asked under.
    fn question(&self, target: &str) -> Question {
        let named = |name: &str| {
            let mut names = self.fields.iter().map(|(name, _)| name);
            names.any(|one| one.eq_ignore_ascii_case(name))
        };
        let mut fields = self.fields.clone();
        // Either would encode it in its own way.
        fields.retain(|(name, _)| !name.eq_ignore_ascii_case("accept-encoding"));
        if !named("accept") {
            fields.push(("Accept".to_owned(), "application/json".to_owned()));
        }
        let target = match &self.config.canonical_origin {
            Some(origin) if !named("host") => {
                format!("{}://{}{target}", origin.scheme, origin.authority)
            }
            _ => target.to_owned(),
        };
        Question {
            method: "GET".to_owned(),
            target,
            fields,
            content: 0,
            from: None,
            server_name: None,
        }
    }

    /// What is not from the store, nor comes into it, is not read: it may go on for ever.
    async fn ask_proxy(&self, client: &Client) -> Result<Answer, String> {
        let nobody = |why: String| format!("no proxy answers at {} ({why})", self.proxy);
        let asked = async {
            let stream = TcpStream::connect(self.proxy).await;
            let stream = stream.map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let mut request = Request::new(Empty::<Bytes>::new());
            let target = client.target.query().map_or_else(
                || client.target.path().to_owned(),
                |query| format!("{}?{query}", client.target.path()),
            );
            *request.uri_mut() = target
                .parse()
                .map_err(|error: http::uri::InvalidUri| error.to_string())?;
            request.headers_mut().clone_from(&client.fields);
            let host = HeaderValue::from_str(client.target.host());
            let host = host.map_err(|error| error.to_string())?;
            request.headers_mut().insert(header::HOST, host);
            let response = sender.send_request(request).await;
            let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
            let answer = Answer {
                status: head.status,
                fields: head.headers.clone(),
                body: Bytes::new(),
            };
            match answer.is_hit() || answer.is_stored() {
                true => Answer::whole(Response::from_parts(head, body)).await,
                false => Ok(answer),
            }
        };
        let patience = self.config.upstream.total * 2 + Duration::from_secs(5);
        let answered = tokio::time::timeout(patience, asked).await;
        answered
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
            .map_err(nobody)
    }

    async fn ask_api(&self, client: &Client) -> Result<Answer, String> {
        let nobody = |failure: crate::error::UpstreamFailure| {
            format!("the API gives no answer ({})", failure.word())
        };
        let outgoing = present::pass(&self.config, client, RequestBody::Empty);
        let slot = self.upstream.slot(Asker::Unknown).await.map_err(nobody)?;
        let response = self.upstream.send(slot, outgoing).await.map_err(nobody)?;
        Answer::whole(response).await
    }
}

impl Answer {
    async fn whole<B>(response: Response<B>) -> Result<Answer, String>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST).collect().await;
        Ok(Answer {
            status: head.status,
            fields: head.headers,
            body: body.map_err(|error| error.to_string())?.to_bytes(),
        })
    }

    fn reads_as(&self, other: &Answer) -> bool {
        self.status == other.status && self.body == other.body
    }

    /// Larder's own `Cache-Status`, without its name; empty where the answer is not Larder's.
    fn said(&self) -> &str {
        let ours = self.fields.get_all(CACHE_STATUS).iter().next_back();
        let said = ours.and_then(|value| value.to_str().ok());
        said.and_then(|said| said.strip_prefix("larder; "))
            .unwrap_or_default()
    }

    /// From the store, and fresh: what is served stale may be of the past.
    fn is_hit(&self) -> bool {
        let said = self.said();
        said.split("; ").any(|word| word == "hit") && !said.contains("detail=")
    }

    /// From the API, and in the store from now on.
    fn is_stored(&self) -> bool {
        !self.is_hit() && self.said().contains("stored")
    }

    fn age(&self) -> u64 {
        let age = self.fields.get(header::AGE);
        let age = age.and_then(|age| age.to_str().ok()?.parse().ok());
        age.unwrap_or_default()
    }
}
