//! A request that is only passed on, and its answer streamed back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Response;
use http::header;
use tracing::warn;

use super::fetch::{self, Unshown};
use super::present::{self, Asked};
use super::{Client, Served, Setup};
use crate::body::{ReplyBody, RequestBody};
use crate::caching::cache_status::{Forward, Handling, Reason};
use crate::caching::storing;
use crate::error::Error;
use crate::message::fields;
use crate::reply::{self, Reply};
use crate::upstream::{Outgoing, UpstreamBody};

/// Forwards a request as it is.
pub async fn pass(
    setup: &Arc<Setup>,
    client: &Client,
    body: RequestBody,
    why: Forward,
    detail: Option<Reason>,
) -> Result<Reply, Error> {
    let response = send(setup, client, present::pass_at(setup, client, body)).await?;
    let reply = streamed(response, why, detail);
    warn_of_untrusted_https(setup, client, &reply);
    Ok(reply)
}

/// A fill of one's own that nobody shares and nothing stores: asked as every fill of the route is, so that
/// what an operator called public stays without credentials. Where its answer varies by what the client sent, and the
/// fill did not, or sets a cookie anew that the client has, or there is no JSON of it, the client is asked for once more, as it
/// came.
pub async fn fill_alone(
    setup: &Arc<Setup>,
    served: &Served,
    client: &Client,
    asked: &Asked,
    detail: Reason,
) -> Result<Reply, Error> {
    let outgoing = present::fill(&setup.config, &served.route, client, asked);
    let response = send(setup, client, outgoing).await?;
    let policy = fetch::policy(&setup.config, &served.route);
    let nominated = storing::nominated(&policy, response.headers());
    let (config, route) = (&setup.config, &served.route);
    let answer = (response.status(), response.headers());
    let unshown = match fetch::is_unsent(&nominated, asked, &client.fields) {
        true => Some(Unshown::Field),
        false => fetch::unshown(config, route, &nominated, client, asked, answer),
    };
    if let Some(unshown) = unshown {
        served.learn_unshown(client, &nominated, unshown);
        let reason = Some(unshown.reason());
        // With it goes its slot, or nobody would ever have a second one.
        drop(response);
        return pass(setup, client, RequestBody::Empty, Forward::Bypass, reason).await;
    }
    Ok(streamed(response, Forward::Miss, Some(detail)))
}

async fn send(
    setup: &Arc<Setup>,
    client: &Client,
    outgoing: Outgoing,
) -> Result<Response<UpstreamBody>, Error> {
    let slot = setup.upstream.slot(client.asker(&setup.config)).await?;
    Ok(setup.upstream.send(slot, outgoing).await?)
}

/// An upstream's answer on its way to one client.
pub fn streamed(
    mut response: Response<UpstreamBody>,
    why: Forward,
    detail: Option<Reason>,
) -> Reply {
    fields::strip_hop_by_hop(response.headers_mut());
    let (head, body) = response.into_parts();
    let handling = Handling::Forwarded {
        why,
        status: Some(head.status),
        stored: false,
        collapsed: false,
        detail: detail.map(Reason::word),
    };
    reply::forwarded(
        head.status,
        head.headers,
        ReplyBody::Streamed(Box::new(body)),
        handling,
    )
}

/// A proxy in front that speaks https to the client, but is not trusted, sends Django's SSL redirect in circles.
pub(super) fn warn_of_untrusted_https(setup: &Setup, client: &Client, reply: &Reply) {
    if !client.via.untrusted_https || !reply.response.status().is_redirection() {
        return;
    }
    let location = reply
        .response
        .headers()
        .get(header::LOCATION)
        .and_then(|location| location.to_str().ok());
    let itself = format!("https://{}{}", client.target.host(), client.target.path());
    if location.is_some_and(|location| location.starts_with(&itself))
        && let Some(peer) = client.via.chain.first()
        && !setup.said_untrusted_https.swap(true, Ordering::Relaxed)
    {
        warn!(
            "{peer} says that its client came by https and is not believed, so the upstream redirects to the very same address: \
            if that is your own proxy, add `trusted_proxies: [127.0.0.0/8, ::1, {peer}]`"
        );
    }
}
