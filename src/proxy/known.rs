//! Requests known again by their bytes. What the first half of a request's way makes of a head (accept → route → present) is
//! a pure function of its bytes, of how its connection came and of the configuration: so a head that led to a hit need not be
//! read twice. What is remembered is what to look up, never an answer; each request looks up anew.
//!
//! Where the id in the path is all that heads differ by, they are known by their shape (`shape`), and so is one that nobody has
//! sent before. What a look-up comes to that is no hit goes with the bytes to whoever reads them: neither is done twice.
//!
//! Each thread remembers for itself, so that no core waits for another. Nothing is remembered that depends on anything else:
//! no route whose upstream decides who is admitted, no condition, no range, no coding.

mod sets;
mod shape;

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::Empty;
use tracing::trace;
use xxhash_rust::xxh3::xxh3_64;

use super::plan::{self, Plan};
use super::present::Asked;
use super::told::{Notes, Told};
use super::{Client, Proxy, Setup};
use crate::caching::cache_status::Handling;
use crate::caching::key::HashingSecret;
use crate::caching::reuse::{Reuse, reuse};
use crate::caching::stored::Stored;
use crate::clock::{self, Timestamp};
use crate::coherence::LookUp;
use crate::coherence::flights::Moment;
use crate::config::{Access, Policy, Route};
use crate::message::forwarded::Scheme;
use crate::message::{conditions, forwarded};
use crate::reply::Reply;
use crate::route::Captures;
use crate::server::Peer;
use sets::{Seen, Sets};
use shape::{Shape, Varying};

/// Bytes of a head that is remembered.
const LONGEST: usize = 2048;

/// A request that led to a hit.
pub struct Known {
    head: Bytes,
    /// All of its shape are known by it.
    shape: Option<Shape>,
    terms: Terms,
    route: usize,
    captures: Captures,
    client: Client,
    asked: Asked,
    secret: HashingSecret,
}

/// Under what it was presented: under anything else it may be another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The configuration, and what was learnt of the route's answers.
    setup: u64,
    learnt: u64,
    by: By,
}

/// What a peer is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By {
    /// Whether it counts as a proxy of ours.
    is_trusted: bool,
    is_tls: bool,
}

/// A request's head as it came.
#[derive(Debug, Clone)]
pub struct Head {
    pub bytes: Bytes,
    pub by: By,
}

/// A number that is given out once.
#[derive(Debug)]
pub struct Number(AtomicU64);

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Number {
    pub fn renew(&self) {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0.store(next, Ordering::Release);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Default for Number {
    fn default() -> Self {
        Number(AtomicU64::new(NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A copy that is sent as it is.
pub struct Hit {
    stored: Arc<Stored>,
    age: u64,
    ttl: u64,
    id: Option<HeaderValue>,
}

/// What a known request asks for, and what its look-up came to, where that is no hit that is sent as it is. It is for whoever
/// reads the bytes.
#[derive(Clone)]
pub struct Foreseen {
    terms: Terms,
    secret: HashingSecret,
    route: usize,
    pub asked: Asked,
    pub looked: LookUp,
    /// The request was counted against its client's rate.
    pub is_counted: bool,
    /// Taken before it was looked up.
    pub since: Moment,
    pub took: Duration,
}

/// What the bytes of a known request came to.
pub enum Outcome {
    Hit(Hit),
    /// The bytes are to be read.
    Foreseen(Box<Foreseen>),
}

pub type LookingUp = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub enum Found {
    Now(Outcome),
    /// The store takes its time. With the bytes, should they have to be read.
    LookingUp(Bytes, LookingUp),
}

thread_local! {
    static KNOWN: RefCell<Sets<Known>> = const { RefCell::new(Sets::NOTHING) };
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen::NOTHING) };
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The key and the state of one that is known by its shape.
    static NAMES: RefCell<[String; 2]> = const { RefCell::new([String::new(), String::new()]) };
}

/// A head's own bytes, if it is not the first time that this thread sees them, or others of their shape.
pub fn worth_knowing(head: &[u8]) -> Option<Bytes> {
    if head.len() > LONGEST || !head.starts_with(b"GET ") {
        return None;
    }
    let hash = match Varying::of(head) {
        Some(id) => id.hash_of_the_rest(head),
        None => xxh3_64(head),
    };
    was_seen(hash).then(|| Bytes::copy_from_slice(head))
}

fn was_seen(hash: u64) -> bool {
    SEEN.with_borrow_mut(|seen| seen.was_here(hash))
}

/// What is known of these bytes; and their id, if it is known by its shape.
fn find(read: &[u8]) -> Option<(Arc<Known>, Option<Varying>)> {
    KNOWN.with_borrow_mut(|sets| {
        if let Some(id) = Varying::of(read) {
            let is_of = |shape: &Shape, known: &Known| shape.is_of(&known.head, read, &id);
            let is_it = |known: &Known| {
                known
                    .shape
                    .as_ref()
                    .is_some_and(|shape| is_of(shape, known))
            };
            if let Some(known) = sets.find(id.hash_of_the_rest(read), is_it) {
                return Some((known.clone(), Some(id)));
            }
        }
        let is_it = |known: &Known| known.shape.is_none() && known.head == read;
        Some((sets.find(xxh3_64(read), is_it)?.clone(), None))
    })
}

/// The place of a head with this hash, if it is to be remembered under this configuration.
fn place_for(hash: u64, setup: &Setup) -> Option<usize> {
    let is_over = |known: &Known| known.terms.setup != setup.number.get();
    KNOWN.with_borrow_mut(|sets| sets.place_for(hash, is_over))
}

/// The terms under which a request is about to be presented, if it is to be remembered.
pub fn terms_of(setup: &Setup, client: &Client, route: usize) -> Option<(Terms, HashingSecret)> {
    let by = client.head.as_ref()?.by;
    let secret = setup.coherence.store().secret()?;
    is_by_bytes(setup).then(|| (terms(setup, route, by), secret))
}

/// Remembers what a head asked for that was answered so from the store, if that hangs on nothing but its bytes.
pub fn remember(
    setup: &Setup,
    client: &Client,
    reply: &Reply,
    (terms, secret): (Terms, HashingSecret),
    (route, captures): (usize, &Captures),
    asked: &Asked,
) {
    let Some(Head { bytes: head, .. }) = &client.head else {
        return;
    };
    // What is never written from here would only be looked up twice.
    let is_written =
        reply.response.status() == StatusCode::OK && matches!(reply.handling, Handling::Hit { .. });
    if !is_written || !is_as_it_is(&setup.config.routes[route]) || !asks_for_all(client) {
        return;
    }
    let id = Varying::of(head);
    let mut hash = match &id {
        Some(id) => id.hash_of_the_rest(head),
        None => xxh3_64(head),
    };
    // Before anything is made of it.
    let Some(mut place) = place_for(hash, setup) else {
        return;
    };
    let (config, served) = (&setup.config, &setup.served);
    let shape = Shape::of(config, served, client, head, route, asked, &secret);
    if shape.is_none() && id.is_some() {
        hash = xxh3_64(head);
        // Others of its shape were seen, which says nothing of this one.
        if !was_seen(hash) {
            return;
        }
        let Some(own) = place_for(hash, setup) else {
            return;
        };
        place = own;
    }
    let known = Known {
        head: head.clone(),
        shape,
        terms,
        route,
        captures: captures.clone(),
        client: Client {
            interim: None,
            head: None,
            notes: None,
            // Without what was sent upstream for them: of a hit nothing is.
            fields: HeaderMap::clone(&client.fields).into(),
            ..client.clone()
        },
        asked: asked.clone(),
        secret,
    };
    KNOWN.with_borrow_mut(|sets| sets.keep(hash, place, known));
}

/// What is compared with the API needs a whole request.
fn is_by_bytes(setup: &Setup) -> bool {
    setup.sample.is_none()
}

/// Whether a hit on this route is its copy, for as long as that is fresh.
fn is_as_it_is(route: &Route) -> bool {
    let by_bytes = match &route.access {
        Access::PerCredential | Access::Public => true,
        Access::Verify(_) | Access::Jwt(_) => false,
    };
    by_bytes && route.policy == Policy::Ttl && route.compress.is_empty() && !route.early_refresh
}

fn asks_for_all(client: &Client) -> bool {
    let fields = &client.fields;
    let stays = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    client.method == Method::GET
        // Before, a connection ends with its answer.
        && client.version == Version::HTTP_11
        && !conditions::are_in(fields)
        && !fields.contains_key(header::RANGE)
        && !fields.contains_key(header::EXPECT)
        && !fields.contains_key(header::UPGRADE)
        && fields.get_all(header::CONNECTION).iter().all(stays)
}

impl Proxy {
    /// Looks up what these bytes ask for, if they are known.
    pub fn known(&self, read: &[u8], peer: &Peer) -> Option<Found> {
        if read.len() > LONGEST {
            return None;
        }
        let (known, id) = find(read)?;
        if !is_for(peer, &known.client) {
            return None;
        }
        let setup = self.setup.load();
        let by = By::of(&setup, peer);
        // First the configuration: a route's place means nothing in another.
        if known.terms.setup != setup.number.get()
            || !is_by_bytes(&setup)
            || known.terms != terms(&setup, known.route, by)
            || setup.coherence.store().secret() != Some(known.secret)
        {
            return None;
        }
        if let Some(rate) = &setup.rate {
            let (config, fields) = (&setup.config, &known.client.fields);
            let via = forwarded::read(
                fields,
                Some(peer.address),
                by.scheme(),
                &config.trusted_proxies,
            );
            // Who asks too often is told so by whoever reads the bytes.
            rate.admit(config, fields, &via).ok()?;
        }
        let started = (setup.is_counting || setup.config.logs.access).then(clock::stopwatch);
        let now = clock::now();
        let again = known.of(read, id.as_ref());
        let (depends, origin) = (&known.asked.depends, &known.asked.origin);
        let since = setup.flights.now();
        let begun = Begun {
            now,
            since,
            started,
        };
        debug_assert!(is_what_is_read(
            &setup,
            read,
            peer,
            known.route,
            &again.asked()
        ));
        let looked = again.with_names(|copy, own| {
            let coherence = &setup.coherence;
            match coherence.look_up_now(copy, depends, own, origin) {
                Some(looked) => Ok(again.come_to(&setup, copy, looked, begun)),
                None => Err(match own {
                    None => (copy.to_owned(), depends.clone()),
                    Some(own) => (copy.to_owned(), shape::of_another(depends, own)),
                }),
            }
        });
        let (copy, depends) = match looked {
            Ok(outcome) => return Some(Found::Now(outcome)),
            Err(asked_for) => asked_for,
        };
        // The very one that it was found to be presented under.
        let setup = Arc::clone(&setup);
        let head = Bytes::copy_from_slice(read);
        let read = head.clone();
        let looking_up = Box::pin(async move {
            let origin = &known.asked.origin;
            let looked = setup.coherence.look_up(&copy, &depends, origin).await;
            let again = known.of(&read, id.as_ref());
            again.come_to(&setup, &copy, looked, begun)
        });
        Some(Found::LookingUp(head, looking_up))
    }
}

/// Whether the whole way makes the same of these bytes.
fn is_what_is_read(setup: &Setup, read: &[u8], peer: &Peer, route: usize, asked: &Asked) -> bool {
    let mut found = [httparse::EMPTY_HEADER; LONGEST / 4];
    let mut head = httparse::Request::new(&mut found);
    let (Ok(httparse::Status::Complete(_)), Some(path)) = (head.parse(read), head.path) else {
        return false;
    };
    let fields = head.headers.iter();
    let request = fields.fold(Request::get(path), |request, field| {
        request.header(field.name, field.value)
    });
    let request = request.body(Empty::<Bytes>::new());
    let Ok(request) = request else { return false };
    let (from, tls) = (Some(peer.address), peer.tls.as_ref());
    let Ok((client, _)) = super::accept(&setup.config, request, from, tls) else {
        return false;
    };
    let plan = plan::plan(&setup.config, &client.method, &client.target, false);
    let Plan::Read {
        route: own,
        captures,
    } = plan
    else {
        return false;
    };
    own == route && super::read::is_presented(setup, route, &captures, &client, asked)
}

fn terms(setup: &Setup, route: usize, by: By) -> Terms {
    Terms {
        setup: setup.number.get(),
        learnt: setup.served[route].learnt.get(),
        by,
    }
}

/// By TLS, a request for another host than the connection was made for is misdirected.
fn is_for(peer: &Peer, client: &Client) -> bool {
    let agreed = peer.tls.as_ref();
    agreed.is_none_or(|agreed| agreed.is_for(client.target.name()))
}

impl By {
    pub fn of(setup: &Setup, peer: &Peer) -> By {
        let trusted = &setup.config.trusted_proxies;
        By {
            is_trusted: !trusted.is_empty() && forwarded::trusts(trusted, peer.address),
            is_tls: peer.tls.is_some(),
        }
    }

    fn scheme(self) -> Scheme {
        match self.is_tls {
            true => Scheme::Https,
            false => Scheme::Http,
        }
    }
}

impl Known {
    fn of<'k>(&'k self, head: &'k [u8], id: Option<&Varying>) -> Again<'k> {
        let id = id.map(|id| id.text(head));
        Again {
            known: self,
            head,
            by_shape: self.shape.as_ref().zip(id),
        }
    }
}

/// How a look-up was begun.
#[derive(Clone, Copy)]
struct Begun {
    now: Timestamp,
    since: Moment,
    started: Option<Instant>,
}

/// A known request that comes again, or another of its shape.
struct Again<'k> {
    known: &'k Known,
    head: &'k [u8],
    /// With its own id.
    by_shape: Option<(&'k Shape, &'k str)>,
}

impl Again<'_> {
    /// With the key of its copy, and the name of the first state where that is another than is known; in bytes that are used
    /// again and again.
    fn with_names<T>(&self, then: impl FnOnce(&str, Option<&str>) -> T) -> T {
        let asked = &self.known.asked;
        match self.by_shape {
            None => then(&asked.copy, None),
            Some((shape, id)) => NAMES.with_borrow_mut(|[copy, state]| {
                shape.write_copy(asked, id, copy);
                shape.write_state(asked, id, state);
                then(copy, Some(state))
            }),
        }
    }

    fn asked(&self) -> Asked {
        let asked = &self.known.asked;
        match self.by_shape {
            None => asked.clone(),
            Some((shape, id)) => shape.make(asked, id),
        }
    }

    fn path(&self) -> &str {
        let own = self.known.client.target.path();
        match self.by_shape {
            None => own,
            Some((shape, id)) => shape.path_in(self.head, own, id),
        }
    }

    fn come_to(&self, setup: &Setup, copy: &str, looked: LookUp, begun: Begun) -> Outcome {
        let known = self.known;
        let Begun {
            now,
            since,
            started,
        } = begun;
        match self.hit(setup, copy, &looked, now, started) {
            Some(hit) => Outcome::Hit(hit),
            None => Outcome::Foreseen(Box::new(Foreseen {
                terms: known.terms,
                secret: known.secret,
                route: known.route,
                asked: self.asked(),
                looked,
                is_counted: setup.rate.is_some(),
                since,
                took: started.map(|started| started.elapsed()).unwrap_or_default(),
            })),
        }
    }

    /// The hit that a look-up came to, if it is one that needs no second thought.
    fn hit(
        &self,
        setup: &Setup,
        copy: &str,
        looked: &LookUp,
        now: Timestamp,
        started: Option<Instant>,
    ) -> Option<Hit> {
        let LookUp::Valid(stored) = looked else {
            return None;
        };
        let known = self.known;
        let route = &setup.served[known.route].route;
        let Reuse::Serve { left } = reuse(stored, super::read::terms(route), now, || u64::MAX)
        else {
            return None;
        };
        if stored.status != StatusCode::OK
            || !known.asked.holds(stored.head.varied())
            || !stored.head.is_plain()
        {
            return None;
        }
        if let Some(hottest) = &setup.served[known.route].hottest {
            let (config, access) = (&setup.config, &route.access);
            hottest.count(config, access, &known.asked, &known.captures, &known.client);
        }
        let (age, ttl) = (stored.age(now).as_secs(), left.as_secs());
        let id = started.and_then(|started| self.tell(setup, stored, ttl, started));
        let by_shape = self.by_shape.is_some();
        trace!(copy, by_shape, "served, known again");
        let stored = stored.clone();
        let hit = Hit {
            stored,
            age,
            ttl,
            id,
        };
        Some(hit)
    }

    /// Counts and logs the hit. Gives what it is called, if it is logged: each request anew, though the bytes are the same.
    fn tell(
        &self,
        setup: &Setup,
        stored: &Stored,
        ttl: u64,
        started: Instant,
    ) -> Option<HeaderValue> {
        let (client, took) = (&self.known.client, started.elapsed());
        let notes = setup.config.logs.access.then(|| {
            let notes = Notes::of(&client.method, self.path(), &client.fields);
            notes.store_took(took);
            notes
        });
        let told = Told {
            status: stored.status,
            handling: Handling::Hit { ttl },
            bytes: Some(stored.body.len() as u64),
            took,
        };
        told.of(setup, Some(self.known.route), notes.as_ref());
        notes.map(|notes| notes.id().clone())
    }
}

impl Foreseen {
    /// Whether it is what would be presented and looked up now.
    pub fn is_still(&self, setup: &Setup, route: usize, by: By) -> bool {
        let terms = self.terms.setup == setup.number.get()
            && self.route == route
            && self.terms == terms(setup, route, by);
        terms && setup.coherence.store().secret() == Some(self.secret)
    }
}

impl Hit {
    pub fn body(&self) -> &Bytes {
        &self.stored.body
    }
}

/// The head of a hit as it goes over the wire, in bytes that are used again and again.
pub fn with_head<T>(hit: &Hit, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    HEAD.with_borrow_mut(|head| {
        head.clear();
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        hit.stored
            .head
            .write_hit(head, hit.stored.body.len(), hit.age);
        head.extend_from_slice(b"cache-status: ");
        head.extend_from_slice(Handling::HIT.as_bytes());
        head.extend_from_slice(itoa::Buffer::new().format(hit.ttl).as_bytes());
        if let Some(id) = &hit.id {
            head.extend_from_slice(b"\r\nx-request-id: ");
            head.extend_from_slice(id.as_bytes());
        }
        head.extend_from_slice(b"\r\n\r\n");
        write(head)
    })
}
