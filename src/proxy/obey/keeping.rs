//! The answer to a POST that stands for later GETs.

use std::sync::Arc;

use http::{Method, Response};

use super::{Ask, Asking, Keys};
use crate::caching::cache_status::Reason;
use crate::caching::freshness::Exchange;
use crate::clock;
use crate::coherence::Epochs;
use crate::error::Error;
use crate::message::fields;
use crate::proxy::plan::Claim;
use crate::proxy::{Client, Setup, plan};
use crate::reply::Reply;
use crate::upstream::UpstreamBody;

/// A POST whose answer may stand for later GETs of its target (RFC 9110 §9.3.3).
pub struct Keeping {
    ask: Ask,
    keys: Keys,
    /// Opened before the write begins.
    pub before: Epochs,
    request_time: clock::Timestamp,
}

impl Keeping {
    /// `None`: not to be kept, whatever the answer.
    pub async fn prepare(setup: &Arc<Setup>, client: &Client) -> Option<Keeping> {
        if client.method != Method::POST || !is_in_lower_case(client.target.host()) {
            return None;
        }
        let (route, captures) = match plan::claim(&setup.config, client.target.path()) {
            Claim::Canonical { route, captures } | Claim::OtherSpelling { route, captures } => {
                (route, captures)
            }
            Claim::Nobodys => return None,
        };
        if !setup.config.routes[route].is_by_http() {
            return None;
        }
        let (url, client) = (client.url()?, client.clone());
        let mut ask = Ask::new(setup, route, &captures, Arc::new(Asking { client, url }))?;
        let keys = ask.keys()?;
        ask.depends = ask.depends_with(&setup.groups.of(&keys.own));
        let before = setup.coherence.open(&ask.depends.states).await.ok()?;
        Some(Keeping {
            ask,
            keys,
            before,
            request_time: clock::now(),
        })
    }

    fn exchange(&self) -> Exchange {
        Exchange {
            request_time: self.request_time,
            response_time: clock::now(),
        }
    }

    pub fn may_keep(&self, response: &Response<UpstreamBody>) -> bool {
        let (status, fields) = (response.status(), response.headers());
        let judged = self
            .ask
            .judged(&Method::POST, status, fields, self.exchange());
        judged.is_ok()
    }

    /// Passes the answer on, and keeps it under the epochs that began with it.
    pub async fn keep(
        self,
        mut response: Response<UpstreamBody>,
        epochs: Epochs,
    ) -> Result<Reply, Error> {
        let exchange = self.exchange();
        fields::strip_hop_by_hop(response.headers_mut());
        let why = Reason::Method;
        self.ask
            .received(self.keys, response, exchange, Ok(epochs), why, None)
            .await
    }
}

/// A write is sent under the host as its client spells it, and the links of its answer may be spelt so.
fn is_in_lower_case(host: &str) -> bool {
    !host.bytes().any(|byte| byte.is_ascii_uppercase())
}
