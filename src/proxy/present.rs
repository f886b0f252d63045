//! A read as the cache sees it: its key, its states, the origin it is asked under; and the request that
//! would fill it, which carries what the key holds and nothing else that a client can choose. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::plan;
use super::{Client, Served};
use crate::access;
use crate::body::RequestBody;
use crate::caching::cache_status::Reason;
use crate::caching::key::{CopyKey, HashingSecret};
use crate::caching::storing::LEARNABLE;
use crate::coherence::Depends;
use crate::config::{Config, Route};
use crate::error::Refusal;
use crate::message::accept::AcceptClass;
use crate::message::forwarded::{self, Scheme};
use crate::message::query::{self, Canonical};
use crate::message::target::ForwardUri;
use crate::message::{fields, forwarded::Via};
use crate::route::{Captures, FamilyKey};
use crate::upstream::Outgoing;

/// A read that may be looked up.
#[derive(Debug, Clone)]
pub struct Asked {
    pub family: FamilyKey,
    /// The store's key.
    pub copy: String,
    pub depends: Depends,
    /// scheme://host that its links will hold.
    pub origin: String,
    /// The fields beyond the route's own `vary` that the key holds.
    pub varied: Vec<HeaderName>,
    /// As it is in the key, and forwarded.
    pub query: Option<String>,
    pub accept: AcceptClass,
}

impl Asked {
    /// Whether the key holds every field by which a copy varies; else it is another request's copy, too.
    pub fn holds(&self, varied: &[HeaderName]) -> bool {
        varied.iter().all(|name| self.varied.contains(name))
    }
}

pub enum Presented {
    Asked(Asked),
    /// Not to be looked up: forwarded as it is.
    Pass(Reason),
    Refused(Refusal),
}

/// `varied` are the learnt fields by which this route's answers are known to vary.
pub fn present(
    config: &Config,
    served: &Served,
    captures: &Captures,
    client: &Client,
    varied: &[HeaderName],
    secret: &HashingSecret,
) -> Presented {
    let route = &served.route;
    let accept = AcceptClass::of(&client.fields);
    if accept == AcceptClass::Html {
        return Presented::Pass(Reason::Html);
    }
    let query = match query::canonical(&route.query, client.target.query()) {
        Canonical::Pairs(query) => query,
        Canonical::Bypass => return Presented::Pass(Reason::Parameter),
        Canonical::Reject => return Presented::Refused(Refusal::UnlistedParameter),
    };
    let Some(family) = route.key.family(captures) else {
        return Presented::Pass(Reason::Spelling);
    };
    let mut key = CopyKey::new(secret);
    let (query_part, accept_part) = (query.as_deref(), &accept);
    split(
        config,
        route,
        client,
        varied,
        query_part,
        accept_part,
        &mut key,
    );
    Presented::Asked(Asked {
        copy: key.of(&config.store.prefix, &family),
        depends: plan::with_group(
            family.as_str(),
            served.group.as_ref(),
            plan::negative(route, served.absence.as_ref()),
        ),
        family,
        origin: origin(config, client),
        varied: varied.to_vec(),
        query,
        accept,
    })
}

/// Puts into the key whatever sets this client's copy apart from the family's plain one.
pub fn split(
    config: &Config,
    route: &Route,
    client: &Client,
    varied: &[HeaderName],
    query: Option<&str>,
    accept: &AcceptClass,
    key: &mut CopyKey,
) {
    access::partition(route.access, config, &client.fields, key);
    if let Some(query) = query {
        key.query(query);
    }
    if let AcceptClass::Other(accept) = accept {
        key.accept(accept);
    }
    for name in route.vary.iter().chain(varied) {
        key.field(name, client.fields.get_all(name).iter());
    }
}

fn origin(config: &Config, client: &Client) -> String {
    let (scheme, host) = match &config.canonical_origin {
        Some(origin) => (origin.scheme, origin.authority.as_str()),
        None => (client.via.scheme.as_str(), client.target.host()),
    };
    let mut origin = String::with_capacity(scheme.len() + 3 + host.len());
    origin.push_str(scheme);
    origin.push_str("://");
    origin.push_str(host);
    origin.make_ascii_lowercase();
    origin
}

/// The request that fills the copy `asked` for.
pub fn fill(config: &Config, route: &Route, client: &Client, asked: &Asked) -> Outgoing {
    let mut sent = HeaderMap::with_capacity(16);
    let (host, scheme) = match &config.canonical_origin {
        Some(origin) => (
            origin.authority.as_str(),
            if origin.scheme == "https" {
                Scheme::Https
            } else {
                Scheme::Http
            },
        ),
        None => (client.target.host(), client.via.scheme),
    };
    // As the copy's origin is compared: or whoever fills it chose the spelling of everybody's links.
    let host = &host.to_ascii_lowercase();
    sent.insert(
        header::HOST,
        HeaderValue::from_str(host).expect("a valid host is a field value"),
    );
    let accept = match &asked.accept {
        AcceptClass::Other(accept) => {
            HeaderValue::from_str(accept).unwrap_or(HeaderValue::from_static("application/json"))
        }
        AcceptClass::Json | AcceptClass::Html => HeaderValue::from_static("application/json"),
    };
    sent.insert(header::ACCEPT, accept);
    sent.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    sent.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION"))),
    );
    access::fill_credentials(route.access, config, &client.fields, &mut sent);
    // Sent before they are known to matter, or the answer could not say that they do.
    for name in LEARNABLE.iter().chain(&route.vary) {
        if !sent.contains_key(name) {
            access::copy(name, &client.fields, &mut sent);
        }
    }
    forwarded::write(&mut sent, &client.via, scheme, host);
    fields::append_via(&mut sent);
    Outgoing {
        method: http::Method::GET,
        target: ForwardUri::new(client.target.path(), asked.query.as_deref()),
        fields: sent,
        body: RequestBody::Empty,
        interim: client.interim.clone(),
    }
}

/// A request passed on as the client sent it, but for what must not travel.
pub fn pass(config: &Config, client: &Client, body: RequestBody) -> Outgoing {
    let mut sent = client.fields.clone();
    fields::strip_request(&mut sent, &config.drop_headers);
    let Via { scheme, .. } = client.via;
    sent.insert(
        header::HOST,
        HeaderValue::from_str(client.target.host()).expect("a valid host is a field value"),
    );
    forwarded::write(&mut sent, &client.via, scheme, client.target.host());
    fields::append_via(&mut sent);
    if matches!(body, RequestBody::Whole(_)) {
        // Read whole, so its length is known, however it came; hyper writes it.
        sent.remove(header::CONTENT_LENGTH);
    }
    Outgoing {
        method: client.method.clone(),
        target: ForwardUri::verbatim(&client.target),
        fields: sent,
        body,
        interim: client.interim.clone(),
    }
}
