//! The front page: a request's way, in its order.
//! accept → route → present → look up → decide → lead or follow → forward and fill → reply

pub mod admit;
pub mod cap;
pub mod fetch;
pub mod hottest;
pub mod known;
pub mod obey;
mod outliving;
pub mod pass;
pub mod plan;
pub mod present;
pub mod rate;
pub mod read;
pub mod refresh;
pub mod sample;
pub mod told;
pub mod turnover;
pub mod under_way;
pub mod websocket;
pub mod write;

use std::future::ready;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use http::header::HeaderName;
use http::{Method, Request, Response, Version};
use hyper::body::Body;
use parking_lot::Mutex;
use tokio::sync::watch;
use url::Url;

use crate::access::key_file::Keys;
use crate::access::verdict::Verdicts;
use crate::body::{ClientBody, Content, Pace, ReplyBody, RequestBody};
use crate::caching::cache_status::{Forward, Reason};
use crate::caching::stored::Mark;
use crate::caching::storing::Nominated;
use crate::clock;
use crate::coherence::flights::Flights;
use crate::coherence::turnstile::Turnstile;
use crate::coherence::{Coherence, StateKey, States};
use crate::config::{Config, Methods, Policy, Route};
use crate::encoding::Encoder;
use crate::error::{Error, Refusal};
use crate::interim::Turn;
use crate::message::forwarded::{self, Scheme, Via};
use crate::message::section::{Head, Section};
use crate::message::subscriber::Subscriber;
use crate::message::target::{self, TargetUri};
use crate::message::{framing, http2};
use crate::metrics::{self, OfRoute};
use crate::reload::Source;
use crate::reply::{self, Reply};
use crate::server::lane::Beneath;
use crate::server::places::Counts;
use crate::server::{Brought, Peer};
use crate::tls::certificates::Certificates;
use crate::tls::server::Agreed;
use crate::upstream::{Asker, Upstream};
use cap::Cap;
use fetch::{Answer, Unshown};
use hottest::Hottest;
use known::Foreseen;
use plan::{Plan, Word};
use rate::Rate;
use refresh::Refreshes;
use sample::Sample;
use told::{Notes, Untold};
use under_way::Writes;
use websocket::Tunnels;

/// A write's content up to this is read whole before anything else happens.
const READ_WHOLE: usize = 64 * 1024;

/// The proxy, whatever its configuration is at the moment.
pub struct Proxy {
    setup: ArcSwap<Setup>,
    /// Of the public listener.
    pub connections: Arc<Counts>,
    /// What the public listener shows, if it speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Where another configuration is read from; nowhere, if there is no file.
    source: Option<Source>,
    /// Tells that another configuration is in force.
    turned: watch::Sender<u64>,
}

/// One configuration at work: what a reload replaces at once.
pub struct Setup {
    /// No other has it.
    number: known::Number,
    pub config: Config,
    /// Which of the configurations that this process has had: see `under_way`.
    pub generation: u64,
    pub served: Vec<Served>,
    pub upstream: Arc<Upstream>,
    pub coherence: Coherence,
    pub flights: Flights<Answer>,
    pub refreshes: Refreshes,
    pub turnstile: Arc<Turnstile>,
    /// What is being asked for under `policy: http`.
    pub in_flight: obey::InFlight,
    pub groups: Arc<obey::Groups>,
    /// Whom the upstream was heard to admit.
    pub verdicts: Arc<Verdicts>,
    pub encoder: Arc<Encoder>,
    /// Writes under way, with or without their clients.
    pub writes: Arc<Writes>,
    said_untrusted_https: AtomicBool,
    /// How many requests one may make.
    pub rate: Option<Arc<Rate>>,
    pub cap: Arc<Cap>,
    pub tunnels: Tunnels,
    /// Hits that the API is asked about, too.
    pub sample: Option<Sample>,
    /// Somebody can ask what was counted.
    pub is_counting: bool,
    pub unrouted: Arc<OfRoute>,
}

/// A cookie that a fill was given in the place of its client's, where and when.
struct Anew {
    cookie: Box<[u8]>,
    path: Box<str>,
    seen: Instant,
}

/// For how long that is taken for the way of a path.
const ANEW: Duration = Duration::from_secs(60);

/// A route at work.
pub struct Served {
    pub route: Route,
    /// The state that all its families share.
    pub group: Option<StateKey>,
    /// Under `verify`, the state that tells its copies from others at the same key.
    pub admission: Option<StateKey>,
    /// Under `jwt`, the keys by which tokens are verified; the same for all routes that name the same.
    pub keys: Option<Arc<Keys>>,
    /// Whose epochs a create would drop, if the purge rules say so for every write.
    pub absence: Option<States>,
    /// The fields by which its answers have been seen to vary.
    pub varied: ArcSwap<Vec<HeaderName>>,
    /// The fields by which its answers vary and that no key holds: who sends one is passed on.
    pub unkeyed: ArcSwap<Vec<HeaderName>>,
    /// The cookie that its answers were last seen to set anew for who had it.
    anew: ArcSwapOption<Anew>,
    /// Another whenever either of the fields has grown.
    pub learnt: known::Number,
    /// Under this name the instances tell each other of `varied`.
    noted_as: String,
    asked_others: Mutex<Option<Instant>>,
    said_not_public: AtomicBool,
    said_other_origin: AtomicBool,
    /// What tells its copies from those of other paths at the same key.
    pub mark: Mark,
    /// What is asked for most, where that is fetched anew after a purge.
    pub hottest: Option<Arc<Hottest>>,
    pub counts: Arc<OfRoute>,
}

/// Who asks for what: a request without its content.
#[derive(Debug, Clone)]
pub struct Client {
    pub method: Method,
    pub target: TargetUri,
    pub fields: Section,
    pub via: Via,
    /// In which the request came.
    pub version: Version,
    /// Where interim answers to it go.
    pub interim: Option<Turn>,
    /// For its event in the log.
    pub notes: Option<Arc<Notes>>,
    /// Its head as it came, if that may be known again.
    pub head: Option<known::Head>,
}

impl Client {
    /// The origin that the client asked. (`canonical_origin` is for fills, which can be asked under another.)
    pub fn origin(&self) -> String {
        let (scheme, host) = (self.via.scheme.as_str(), self.target.host());
        format!("{scheme}://{host}").to_ascii_lowercase()
    }

    /// On whose account it asks the upstream.
    pub fn asker(&self, config: &Config) -> Asker {
        match self.via.client(&config.trusted_proxies) {
            Some(address) => Asker::Client(Subscriber::of(address)),
            None => Asker::Unknown,
        }
    }

    /// The target URI, whole.
    pub fn url(&self) -> Option<Url> {
        let (scheme, host) = (self.via.scheme.as_str(), self.target.host());
        let mut url = Url::parse(&format!("{scheme}://{host}{}", self.target.path())).ok()?;
        url.set_query(self.target.query());
        Some(url)
    }
}

impl Proxy {
    /// With `source` it can be told to read its file again.
    pub fn new(
        setup: Setup,
        certificates: Option<Arc<Certificates>>,
        source: Option<Source>,
    ) -> Proxy {
        Proxy {
            setup: ArcSwap::from_pointee(setup),
            connections: Arc::default(),
            certificates,
            source,
            turned: watch::Sender::new(0),
        }
    }

    /// Changes with each configuration that comes into force.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turned.subscribe()
    }

    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    pub fn setup(&self) -> Arc<Setup> {
        self.setup.load_full()
    }

    /// Answers one request of `peer`. Never fails: what goes wrong is an answer, too.
    ///
    /// What needs no waiting is done at once: whatever a future holds is moved with it, and each hit is one.
    pub fn handle(
        &self,
        brought: Brought,
        peer: &Peer,
    ) -> impl Future<Output = Response<ReplyBody>> + Send + use<> {
        let Brought {
            head,
            content,
            upgrade,
            interim,
            beneath,
        } = brought;
        let setup = self.setup();
        let logs = setup.config.logs.access;
        let started = (logs || setup.is_counting).then(clock::stopwatch);
        let notes = logs.then(|| {
            let (method, path) = (&head.method, head.uri.path());
            Arc::new(Notes::of(method, path, &head.fields))
        });
        let mut route = None;
        let (least, from) = (content.size_hint().lower(), Some(peer.address));
        let answered = match accept_head(&setup.config, head, least, from, peer.tls.as_ref()) {
            Ok(mut client) => {
                client.interim = interim;
                client.notes = notes.clone();
                let by = || known::By::of(&setup, peer);
                let foreseen = match beneath {
                    Some(Beneath::Foreseen(foreseen)) => Some(foreseen),
                    Some(Beneath::Head(bytes)) => {
                        client.head = Some(known::Head { bytes, by: by() });
                        None
                    }
                    None => None,
                };
                let (method, target) = (&client.method, &client.target);
                let plan = plan::plan(&setup.config, method, target, !content.is_end_stream());
                if let Plan::Read { route: under, .. } = &plan {
                    route = Some(*under);
                }
                let is_counted = foreseen
                    .as_ref()
                    .is_some_and(|foreseen| foreseen.is_counted);
                let admitted = match &setup.rate {
                    Some(rate) if !is_counted => {
                        rate.admit(&setup.config, &client.fields, &client.via)
                    }
                    _ => Ok(()),
                };
                match admitted {
                    Ok(()) => {
                        let plan = admit::with_credential(&setup, &client, plan);
                        let is_still = |of: &Foreseen| {
                            route.is_some_and(|route| of.is_still(&setup, route, by()))
                        };
                        let foreseen = foreseen.filter(|foreseen| is_still(foreseen));
                        let has_content = !content.is_end_stream();
                        match upgrade {
                            Some(upgrade)
                                if websocket::is_asked(&setup, &client, &plan, has_content) =>
                            {
                                let setup = setup.clone();
                                Box::pin(
                                    async move { websocket::pass(&setup, &client, upgrade).await },
                                ) as Answering
                            }
                            _ => answer(setup.clone(), client, content, plan, foreseen),
                        }
                    }
                    Err(wait) => own(Error::RateLimited(wait)),
                }
            }
            Err(refusal) => own(refusal.into()),
        };
        let untold = Untold {
            setup,
            route,
            notes,
            started,
        };
        answered.map(move |answered| {
            let mut reply = answered.unwrap_or_else(reply::error);
            untold.tell(&mut reply);
            reply.response
        })
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

fn own(error: Error) -> Answering {
    Box::pin(ready(Err(error)))
}

/// Boxed: it is handed on from one to the next, and what is large would be copied each time.
fn answer(
    setup: Arc<Setup>,
    client: Client,
    content: Content,
    plan: Plan,
    foreseen: Option<Box<Foreseen>>,
) -> Answering {
    match plan {
        Plan::Read { route, captures } => match &setup.config.routes[route].policy {
            Policy::Ttl => Box::pin(read::read(setup, route, captures, client, foreseen)),
            Policy::Http(_) => {
                Box::pin(async move { obey::read(&setup, route, captures, client).await })
            }
        },
        Plan::Write { states, word } => {
            Box::pin(async move { write(&setup, client, content, states, word).await })
        }
        Plan::Pass { why, detail } if client.method.is_safe() => {
            Box::pin(async move { pass(&setup, client, content, why, detail).await })
        }
        Plan::Pass { .. } => Box::pin(async move { unheld(&setup, client, content).await }),
    }
}

async fn write(
    setup: &Arc<Setup>,
    client: Client,
    content: Content,
    states: Vec<StateKey>,
    word: Word,
) -> Result<Reply, Error> {
    let body = content_of(setup, content).read(READ_WHOLE).await?;
    write::write(setup, Arc::new(client), body, states, word).await
}

/// A write that drops nothing; but by rules that come meanwhile it may.
async fn unheld(setup: &Arc<Setup>, client: Client, content: Content) -> Result<Reply, Error> {
    let body = content_of(setup, content).read(READ_WHOLE).await?;
    write::unheld(setup, Arc::new(client), body).await
}

async fn pass(
    setup: &Arc<Setup>,
    client: Client,
    content: Content,
    why: Forward,
    detail: Option<Reason>,
) -> Result<Reply, Error> {
    let body = match content.is_end_stream() {
        true => RequestBody::Empty,
        false => content_of(setup, content).read(READ_WHOLE).await?,
    };
    pass::pass(setup, &client, body, why, detail).await
}

fn content_of(setup: &Setup, content: Content) -> ClientBody {
    let limits = &setup.config.limits;
    let pace = Pace {
        idle: limits.content_idle,
        least: limits.content_rate,
    };
    ClientBody::new(content, limits.content, pace)
}

/// Takes a request for what it is, or refuses it. It came by TLS if something was agreed there.
pub fn accept<C: Body>(
    config: &Config,
    request: Request<C>,
    peer: Option<IpAddr>,
    tls: Option<&Agreed>,
) -> Result<(Client, C), Refusal> {
    let (head, content) = request.into_parts();
    let least = content.size_hint().lower();
    let client = accept_head(config, head.into(), least, peer, tls)?;
    Ok((client, content))
}

/// The same of a head, which at least so many bytes of content follow.
fn accept_head(
    config: &Config,
    mut head: Head,
    content: u64,
    peer: Option<IpAddr>,
    tls: Option<&Agreed>,
) -> Result<Client, Refusal> {
    // Before all that is refused and leaves the connection open: of what is unclear nobody knows where the next one begins.
    if !framing::of_a_request_is_clear(head.version, &head.fields) {
        return Err(Refusal::BadFraming);
    }
    match &config.methods {
        _ if matches!(head.method, Method::CONNECT | Method::TRACE) => {
            return Err(Refusal::MethodNotAllowed);
        }
        Methods::Listed(methods) if !methods.contains(&head.method) => {
            return Err(Refusal::MethodNotImplemented);
        }
        Methods::Listed(_) | Methods::Any => {}
    }
    if head.version == Version::HTTP_2 {
        http2::join_cookies(head.fields.to_mut());
    }
    // hyper's own limit is one on its buffer, and reads past it before it looks.
    if head.fields.len() > config.limits.fields || head.fields.length() > config.limits.head {
        return Err(Refusal::TooManyFields);
    }
    if head.version == Version::HTTP_2 && !http2::fields_are_valid(&head.fields) {
        return Err(Refusal::BadField);
    }
    let target = target::take(
        &head.method,
        head.uri,
        head.version,
        &head.fields,
        config.limits.target,
    )?;
    if !config.hosts.is_empty() && !is_served(&config.hosts, target.host()) {
        return Err(Refusal::WrongHost);
    }
    if tls.is_some_and(|agreed| !agreed.is_for(target.name())) {
        return Err(Refusal::Misdirected);
    }
    if content > config.limits.content {
        return Err(Refusal::ContentTooLarge);
    }
    let own = match tls {
        Some(_) => Scheme::Https,
        None => Scheme::Http,
    };
    let via = forwarded::read(&head.fields, peer, own, &config.trusted_proxies);
    Ok(Client {
        method: head.method,
        target,
        fields: head.fields,
        via,
        version: head.version,
        interim: None,
        notes: None,
        head: None,
    })
}

/// By name alone, or by name and port where the operator wrote one.
fn is_served(hosts: &[String], host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let name = target::name(&host);
    hosts.iter().any(|served| *served == host || served == name)
}

impl Setup {
    pub fn new(config: Config, upstream: Arc<Upstream>, coherence: Coherence) -> Setup {
        let served = config
            .routes
            .iter()
            .map(|route| Served::new(&config, route))
            .collect();
        let served = admit::with_keys(served, &[]);
        Setup {
            cap: Arc::new(Cap::new(config.limits.copies)),
            writes: Writes::new(&config),
            generation: 0,
            number: known::Number::default(),
            is_counting: config.admin.is_some(),
            unrouted: metrics::of_route(metrics::NO_ROUTE),
            rate: config.limits.rate.clone().map(Rate::new).map(Arc::new),
            tunnels: Tunnels::new(config.websocket.clone()),
            sample: config.shadow.map(Sample::new),
            config,
            served,
            upstream,
            coherence,
            flights: Flights::default(),
            refreshes: Refreshes::default(),
            turnstile: Arc::default(),
            in_flight: obey::InFlight::default(),
            groups: Arc::default(),
            verdicts: Arc::default(),
            encoder: Arc::default(),
            said_untrusted_https: AtomicBool::new(false),
        }
    }
}

impl Served {
    pub fn new(config: &Config, route: &Route) -> Served {
        let name = route.key.group().map_or_else(
            || route.key.as_str().to_owned(),
            |group| group.as_str().to_owned(),
        );
        Served {
            group: plan::group(route),
            admission: plan::admission(route),
            keys: None,
            absence: plan::absence_states(&config.purge, route),
            varied: ArcSwap::default(),
            unkeyed: ArcSwap::default(),
            anew: ArcSwapOption::default(),
            learnt: known::Number::default(),
            noted_as: format!("{name}~vary"),
            asked_others: Mutex::new(None),
            said_not_public: AtomicBool::new(false),
            said_other_origin: AtomicBool::new(false),
            counts: metrics::of_route(route.path.as_str()),
            mark: route.mark(),
            hottest: (route.warm > 0).then(|| Arc::new(Hottest::new(route.warm))),
            route: route.clone(),
        }
    }

    /// An answer was seen to vary by `names`: from now on the key holds them, on every instance.
    pub async fn learn(&self, coherence: &Coherence, names: &[HeaderName]) {
        self.learn_here(names);
        let words: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
        // If the others cannot be told, they will see it for themselves.
        let _ = coherence.store().note(&self.noted_as, &words).await;
    }

    pub fn learn_here(&self, names: &[HeaderName]) -> bool {
        let news = add(&self.varied, names);
        if news {
            self.learnt.renew();
        }
        news
    }

    /// An answer was seen to hang on what no fill shows of this client.
    pub fn learn_unshown(&self, client: &Client, nominated: &Nominated, unshown: Unshown) {
        match unshown {
            Unshown::Field => self.learn_unkeyed(&nominated.unkeyed),
            Unshown::Cookie(name) => self.learn_cookie(client, name),
            // It is refused before any work, as a rule, and by the query of one target (`?format=csv`).
            Unshown::Accept => {}
        }
    }

    /// An answer was seen to vary by a field that no fill carries.
    fn learn_unkeyed(&self, names: &[HeaderName]) {
        if add(&self.unkeyed, names) {
            self.learnt.renew();
            let route = self.route.path.as_str();
            let remedy = crate::caching::storing::remedy(names);
            let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
            tracing::warn!(
                route,
                "answers vary by {}: requests with it are passed on uncached; to keep them, {remedy}",
                names.join(", ")
            );
        }
    }

    /// An answer to a fill has set this cookie anew, which its client has: who has it is asked for as they came, at once and for
    /// a while, or each of them would be asked for twice. What else the route has may be kept for them.
    fn learn_cookie(&self, client: &Client, name: &[u8]) {
        self.anew.store(Some(Arc::new(Anew {
            cookie: name.into(),
            path: client.target.path().into(),
            seen: clock::stopwatch(),
        })));
    }

    /// Whether a fill may be expected to set a cookie anew that this client has.
    pub fn sets_cookie_anew(&self, client: &Client) -> bool {
        self.anew.load().as_ref().is_some_and(|anew| {
            *anew.path == *client.target.path()
                && anew.seen.elapsed() < ANEW
                && crate::access::has_cookie(&client.fields, &anew.cookie)
        })
    }

    /// Asks what other instances have learnt, at most once a second. Whether that was news.
    pub async fn learn_from_others(&self, coherence: &Coherence) -> bool {
        {
            let mut asked = self.asked_others.lock();
            if asked.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
                return false;
            }
            *asked = Some(clock::stopwatch());
        }
        let Ok(words) = coherence.store().notes(&self.noted_as).await else {
            return false;
        };
        let names: Vec<HeaderName> = words
            .iter()
            .filter_map(|word| HeaderName::from_bytes(word.as_bytes()).ok())
            .filter(|name| crate::caching::storing::LEARNABLE.contains(name))
            .collect();
        self.learn_here(&names)
    }
}

/// Adds the names that are not there yet. Whether there were any.
fn add(known: &ArcSwap<Vec<HeaderName>>, names: &[HeaderName]) -> bool {
    let news = names.iter().any(|name| !known.load().contains(name));
    if news {
        known.rcu(|known| {
            let mut known = known.as_ref().clone();
            known.extend(names.iter().cloned());
            known.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            known.dedup();
            known
        });
    }
    news
}
