//! A read as the cache sees it: its key, its states, the origin it is asked under; and the request that
//! would fill it, which carries what the key holds and nothing else that a client can choose. Pure.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::plan;
use super::{Client, Served, Setup};
use crate::access;
use crate::access::verdict::{Scope, Verdict};
use crate::body::RequestBody;
use crate::caching::cache_status::Reason;
use crate::caching::key::{CopyKey, HashingSecret};
use crate::coherence::Depends;
use crate::config::{Access, Config, Route};
use crate::error::Refusal;
use crate::message::accept::AcceptClass;
use crate::message::fields::X_REQUEST_ID;
use crate::message::forwarded::{self, Scheme};
use crate::message::query::{self, Canonical};
use crate::message::section::{Purpose, Section, Under};
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
    /// By which its client is admitted, where the upstream or a token decides that.
    pub admitted: Option<Arc<Verdict>>,
}

impl Asked {
    /// Whether the key holds every field by which a copy varies; else it is another request's copy, too.
    pub fn holds(&self, varied: &[HeaderName]) -> bool {
        varied.iter().all(|name| self.varied.contains(name))
    }

    /// Names the fetch that serves it: one copy, under one origin.
    pub fn flight(&self) -> String {
        [&self.copy, " ", &self.origin].concat()
    }

    /// Whether both ask for the same, and of all the same; who is admitted aside.
    pub fn is_same(&self, other: &Asked) -> bool {
        let Asked {
            family,
            copy,
            depends,
            origin,
            varied,
            query,
            accept,
            admitted: _,
        } = self;
        (family, copy, depends) == (&other.family, &other.copy, &other.depends)
            && (origin, varied, query) == (&other.origin, &other.varied, &other.query)
            && *accept == other.accept
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would be allocated for each hit"
)]
pub enum Presented {
    Asked(Asked),
    /// Not to be looked up: forwarded as it is.
    Pass(Reason),
    /// The upstream is to be asked first whether it admits the client.
    Unverified,
    Refused(Refusal),
}

/// `varied` are the learnt fields by which this route's answers are known to vary; `admitted` is for routes under `verify` or `jwt`.
pub fn present(
    config: &Config,
    served: &Served,
    captures: &Captures,
    client: &Client,
    varied: &[HeaderName],
    secret: &HashingSecret,
    admitted: Option<Arc<Verdict>>,
) -> Presented {
    let route = &served.route;
    let accept = AcceptClass::of(&client.fields);
    match accept {
        AcceptClass::Html => return Presented::Pass(Reason::Html),
        AcceptClass::Events => return Presented::Pass(Reason::EventStream),
        AcceptClass::Json | AcceptClass::Other(_) => {}
    }
    let query = match query::canonical(&route.query, client.target.query()) {
        Canonical::Pairs(query) => query,
        Canonical::Bypass => return Presented::Pass(Reason::Parameter),
        Canonical::Reject => return Presented::Refused(Refusal::UnlistedParameter),
    };
    let Some(family) = route.key.family(captures) else {
        return Presented::Pass(Reason::Spelling);
    };
    let scope = admitted.as_ref().and_then(|verdict| verdict.scope());
    if scope.is_none() && route.access.is_by_verdict() {
        return Presented::Unverified;
    }
    let mut key = CopyKey::new(secret);
    let (query_part, accept_part) = (query.as_deref(), &accept);
    split(
        config,
        route,
        client,
        varied,
        (query_part, accept_part),
        scope,
        &mut key,
    );
    Presented::Asked(Asked {
        copy: key.of(&config.store.prefix, &family),
        depends: plan::with_group(
            family.as_str(),
            served.group.as_ref(),
            served.admission.as_ref(),
            plan::negative(route, served.absence.as_ref()),
            served.mark,
        ),
        family,
        origin: origin(config, client),
        varied: varied.to_vec(),
        query,
        accept,
        admitted,
    })
}

/// Puts into the key whatever sets this client's copy apart from the family's plain one.
pub fn split(
    config: &Config,
    route: &Route,
    client: &Client,
    varied: &[HeaderName],
    (query, accept): (Option<&str>, &AcceptClass),
    scope: Option<&Scope>,
    key: &mut CopyKey,
) {
    access::partition(&route.access, config, &client.fields, scope, key);
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

pub fn origin(config: &Config, client: &Client) -> String {
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
    filling(
        client,
        asked,
        fill_fields(config, route, client, asked).into(),
    )
}

/// The same under a configuration at work, where what was made of the same fields is not made twice.
pub fn fill_at(setup: &Setup, route: usize, client: &Client, asked: &Asked) -> Outgoing {
    let own = &setup.config.routes[route];
    let purpose = || Purpose::Fill {
        route,
        varied: asked.varied.clone(),
    };
    let make = || fill_fields(&setup.config, own, client, asked);
    let sent = client.fields.sent(|| under(setup, client, purpose()), make);
    filling(client, asked, sent)
}

fn under(setup: &Setup, client: &Client, purpose: Purpose) -> Under {
    Under {
        setup: setup.number.get(),
        purpose,
        via: client.via.clone(),
        host: client.target.host_value().clone(),
        has_id: client.notes.is_some(),
    }
}

fn filling(client: &Client, asked: &Asked, fields: Section) -> Outgoing {
    Outgoing {
        method: http::Method::GET,
        target: ForwardUri::new(client.target.path(), asked.query.as_deref()),
        fields,
        id: client
            .notes
            .as_ref()
            .map(|notes| notes.id_of_fill().clone()),
        body: RequestBody::Empty,
        interim: client.interim.clone(),
        notes: client.notes.clone(),
        once: false,
    }
}

/// Of a client nothing but its own fields, how it came, its host, and whether it is told by an id; of `asked` the fields that the
/// key holds, and what is pure of these: whatever else bears on it, `Under` must know.
fn fill_fields(config: &Config, route: &Route, client: &Client, asked: &Asked) -> HeaderMap {
    let (mut sent, host, scheme) = of_ours(config, client);
    if let AcceptClass::Other(accept) = &asked.accept
        && let Ok(accept) = HeaderValue::from_str(accept)
    {
        sent.insert(header::ACCEPT, accept);
    }
    access::fill_credentials(&route.access, config, &client.fields, &mut sent);
    for name in asked.varied.iter().chain(&route.vary) {
        if *name == header::USER_AGENT {
            sent.remove(name);
        }
        if !sent.contains_key(name) {
            access::copy(name, &client.fields, &mut sent);
        }
    }
    forwarded::write(&mut sent, &client.via, scheme, &host);
    fields::append_via(&mut sent);
    if client.notes.is_some() {
        sent.remove(X_REQUEST_ID);
    }
    sent
}

/// The question whether the upstream admits this client: nothing of the request but its credential.
pub fn question(config: &Config, client: &Client, path: &str) -> Outgoing {
    let (mut sent, host, scheme) = of_ours(config, client);
    access::fill_credentials(&Access::PerCredential, config, &client.fields, &mut sent);
    forwarded::write(&mut sent, &client.via, scheme, &host);
    fields::append_via(&mut sent);
    Outgoing {
        method: http::Method::GET,
        target: ForwardUri::new(path, None),
        fields: sent.into(),
        id: None,
        body: RequestBody::Empty,
        interim: None,
        notes: client.notes.clone(),
        once: false,
    }
}

/// The fields of a request that is ours, and the host and scheme that it is for.
fn of_ours(config: &Config, client: &Client) -> (HeaderMap, String, Scheme) {
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
    let host = host.to_ascii_lowercase();
    sent.insert(
        header::HOST,
        HeaderValue::from_str(&host).expect("a valid host is a field value"),
    );
    sent.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    sent.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    sent.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION"))),
    );
    (sent, host, scheme)
}

/// A request passed on as the client sent it, but for what must not travel.
pub fn pass(config: &Config, client: &Client, body: RequestBody) -> Outgoing {
    let is_whole = matches!(body, RequestBody::Whole(_));
    passing(client, body, pass_fields(config, client, is_whole).into())
}

/// The same where the answer may be kept by its origin's word: under the host in lower case, as the copy's origin is compared.
pub fn obeying(config: &Config, client: &Client) -> Outgoing {
    let host = client.target.host().to_ascii_lowercase();
    let fields = pass_fields_under(config, client, &host, false);
    passing(client, RequestBody::Empty, fields.into())
}

/// Whether all fields of these names go out as the client sent them.
pub fn are_verbatim<'n>(
    config: &Config,
    client: &Client,
    names: impl IntoIterator<Item = &'n HeaderName>,
) -> bool {
    // Read once: the client makes this list as long as it likes, and the API the other.
    let named = fields::connection_named(&client.fields);
    let mut names = names.into_iter();
    names.all(|name| {
        !fields::is_ours(name) && !fields::is_stripped(name, &named, &config.drop_headers)
    })
}

/// The same under a configuration at work, where what was made of the same fields is not made twice.
pub fn pass_at(setup: &Setup, client: &Client, body: RequestBody) -> Outgoing {
    let is_whole = matches!(body, RequestBody::Whole(_));
    let purpose = Purpose::Pass {
        version: client.version,
        is_whole,
    };
    let make = || pass_fields(&setup.config, client, is_whole);
    let sent = client.fields.sent(|| under(setup, client, purpose), make);
    passing(client, body, sent)
}

fn passing(client: &Client, body: RequestBody, fields: Section) -> Outgoing {
    Outgoing {
        method: client.method.clone(),
        target: ForwardUri::verbatim(&client.target),
        fields,
        id: client.notes.as_ref().map(|notes| notes.id().clone()),
        body,
        interim: client.interim.clone(),
        notes: client.notes.clone(),
        once: false,
    }
}

/// Of a client nothing but its own fields, how it came, its version, its host, and whether it is told by an id: whatever else
/// bears on it, `Under` must know.
fn pass_fields(config: &Config, client: &Client, is_whole: bool) -> HeaderMap {
    pass_fields_under(config, client, client.target.host(), is_whole)
}

fn pass_fields_under(config: &Config, client: &Client, host: &str, is_whole: bool) -> HeaderMap {
    let mut sent = HeaderMap::clone(&client.fields);
    fields::strip_request(&mut sent, &config.drop_headers);
    let Via { scheme, .. } = client.via;
    sent.insert(
        header::HOST,
        HeaderValue::from_str(host).expect("a valid host is a field value"),
    );
    forwarded::write(&mut sent, &client.via, scheme, host);
    fields::append_via_of(&mut sent, client.version);
    if is_whole {
        // Read whole, so its length is known, however it came; hyper writes it.
        sent.remove(header::CONTENT_LENGTH);
    }
    if client.notes.is_some() {
        sent.remove(X_REQUEST_ID);
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::accept;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Empty;
    use proptest::prelude::*;

    fn config() -> Config {
        let yaml = "upstream: http://127.0.0.1:1\ntrusted_proxies: [127.0.0.1/32]\ndrop_headers: [x-dropped]\nroutes: []\n";
        let loaded = crate::config::file::parse("proxy.yaml", yaml, &|_| None);
        loaded.expect("a valid file").config
    }

    const NAMES: &str = "accept|accept-language|cookie|host|x-dropped|x_own|x-own|x-forwarded-for|x-real-ip|forwarded|via|\
                         te|upgrade|keep-alive|expect|x-request-id|authorization|content-type";

    proptest! {
        /// By it two requests that select one variant are known to be told alike: a field goes out as it came, or is made to be
        /// compared as it goes out.
        #[test]
        fn what_is_verbatim_goes_out_as_it_came(
            lines in proptest::collection::vec((NAMES, "[a-c]{0,2}"), 0..8),
            named in proptest::collection::vec(NAMES, 0..3),
            peer in proptest::option::of(1u8..3),
        ) {
            let mut request = Request::get("/a").header("Host", "aPI.example");
            for (name, value) in lines.iter().filter(|(name, _)| name != "host") {
                request = request.header(name, value);
            }
            if !named.is_empty() {
                request = request.header("Connection", named.join(", "));
            }
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let peer = peer.map(|last| [127, 0, 0, last].into());
            let Ok((client, _)) = accept(&config(), request, peer, None) else {
                return Ok(());
            };
            let sent = obeying(&config(), &client).fields;
            let (mut came, mut goes) = (HeaderMap::clone(&client.fields), HeaderMap::clone(&sent));
            for name in client.fields.keys().chain(sent.keys()) {
                if !are_verbatim(&config(), &client, [name]) {
                    came.remove(name);
                    goes.remove(name);
                }
            }
            prop_assert_eq!(came, goes);
            prop_assert_eq!(&sent[header::HOST], "api.example");
        }
    }
}
