//! `larder serve`: from the file to a running proxy, and to its orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use listenfd::ListenFd;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{ConfigFile, Failure};
use crate::admin::Admin;
use crate::caching::key::HashingSecret;
use crate::coherence::{Coherence, Journal, hold_for};
use crate::config::{Config, StoreAddress, Tls};
use crate::proxy::{Proxy, Setup, plan};
use crate::reload::{self, Source};
use crate::server::places::Places;
use crate::server::{self, Manners};
use crate::store::memory::Memory;
use crate::store::redis::Redis;
use crate::store::{Lifetimes, Store};
#[cfg(feature = "otel")]
use crate::telemetry;
use crate::tls::certificates::Certificates;
use crate::tls::follow;
use crate::tls::server::{Acceptor, Protocol};
use crate::upstream::Upstream;
use crate::{admin, service, warming};

/// Connections to the operator's listener.
const ADMIN: usize = 256;

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder serve -c proxy.yaml
  REDIS_URL=redis://127.0.0.1:6379 UPSTREAM=http://127.0.0.1:8000 larder serve
  larder serve --listen 127.0.0.1:8090 --store memory: --watch

SIGHUP reads the file again, SIGTERM finishes what is under way and ends.")]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to listen, over the file's `listen`
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the operator's listener is, over the file's `admin`
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The existing API, over the file's `upstream`
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// memory: or a Redis URL, over the file's `store.url`
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Reload when the file changes
    #[arg(long)]
    watch: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let over = crate::config::file::Overrides {
        listen: arguments.listen.clone(),
        admin: arguments.admin.clone(),
        upstream: arguments.upstream.clone(),
        store: arguments.store.clone(),
        ..Default::default()
    };
    let watched = arguments
        .watch
        .then(|| std::fs::read(&arguments.file.config));
    let config = super::load_over(&arguments.file.config, &over)?;
    let _log = super::log(&config.logs)?;
    let source = Source::new(arguments.file.config.clone(), over);
    let runtime = super::runtime()?;
    let ended = runtime.block_on(async {
        // Before anything else: a signal that comes early must not end the process.
        let signals = Signals::heard().map_err(|error| Failure::Failed(error.to_string()))?;
        #[cfg(feature = "otel")]
        telemetry::otel::start().map_err(|why| Failure::Failed(format!("traces: {why}")))?;
        let running = Running::start(config, Some(source)).await?;
        if let Some(in_force) = watched {
            let proxy = running.proxy.clone();
            tokio::spawn(async move { reload::watch(&proxy, in_force.ok()).await });
        }
        let ended = running.until_told(signals).await;
        // What is left of the traces is sent by this runtime, and waited for beside it.
        #[cfg(feature = "otel")]
        let _ = tokio::task::spawn_blocking(telemetry::otel::end).await;
        ended
    });
    // All that has to be done is: a look at a name or a file that never comes back (its server hangs) is not waited for.
    runtime.shutdown_background();
    ended
}

/// A proxy that has its ports and serves.
pub struct Running {
    pub listen: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// Says that the end is near, to whoever asks.
    drain: watch::Sender<bool>,
    /// From then on nothing new is accepted.
    end: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    proxy: Arc<Proxy>,
}

impl Running {
    /// Takes the ports and connects to the store, or says why not; nothing is half-started.
    pub async fn start(config: Config, source: Option<Source>) -> Result<Running, Failure> {
        let certificates = certificates("tls", config.tls.as_ref())?;
        let admin_tls = admin_tls(&config)?;
        // The store first: a port that opens says that everything is right.
        let coherence = coherence(&config).await?;
        let mut given = ListenFd::from_env();
        let listener = take_or_bind(&mut given, 0, "listen", config.listen)?;
        let admin = config
            .admin
            .map(|address| take_or_bind(&mut given, 1, "admin", address))
            .transpose()?;
        let manners = watch::Sender::new(Manners::of(&config));
        let (limits, trusted) = (config.limits.clone(), config.trusted_proxies.clone());
        let room = room_for(&config);
        let upstream = Upstream::new(config.upstream.clone());
        let acceptor = certificates
            .clone()
            .map(|certificates| Acceptor::new(certificates, &[Protocol::Http2, Protocol::Http1]));
        let mut setup = Setup::new(config, upstream, coherence);
        setup.tunnels = setup.tunnels.within(room.websockets);
        let proxy = Arc::new(Proxy::new(setup, certificates.clone(), source));
        let places = Arc::new(Places::new(
            room.connections,
            limits.connections_per_address,
            trusted.clone(),
            proxy.connections.clone(),
        ));
        let (end, ended) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|error| Failure::Failed(error.to_string()))
        };
        let (listen, admin_address) = (
            address(&listener)?,
            admin.as_ref().map(address).transpose()?,
        );
        if let Some(admin) = admin {
            let operator = Admin {
                proxy: proxy.clone(),
                listen,
                draining: draining.clone(),
            };
            // The operator's listener stays until the process ends: it tells that we are draining.
            let stays = watch::channel(false);
            let own = watch::Sender::new(Manners {
                proxy_protocol: false,
                h2c: false,
                ..*manners.borrow()
            });
            let places = Places::new(ADMIN, ADMIN / 2, trusted, Arc::default());
            tokio::spawn(async move {
                let _stays = &stays.0;
                server::serve(
                    admin,
                    own.subscribe(),
                    Arc::new(places),
                    admin_tls,
                    stays.1.clone(),
                    None,
                    move |brought, peer| admin::answer(&operator, peer, brought.into_request()),
                )
                .await;
            });
        }
        let serving = {
            let proxy = proxy.clone();
            tokio::spawn(server::serve(
                listener,
                manners.subscribe(),
                places.clone(),
                acceptor,
                ended,
                Some(proxy.clone()),
                move |brought, peer| proxy.handle(brought, peer),
            ))
        };
        let at = admin_address.map_or_else(|| "off".to_owned(), |address| address.to_string());
        info!(%listen, admin = at, "larder serves");
        if let Some(certificates) = certificates {
            tokio::spawn(follow::follow(certificates));
        }
        tokio::spawn(follow_configuration(proxy.clone(), manners, places));
        service::ready();
        tokio::spawn(service::watchdog());
        tokio::spawn(warming::run(proxy.clone(), listen));
        Ok(Running {
            listen,
            admin: admin_address,
            drain,
            end,
            serving,
            proxy,
        })
    }

    /// Until SIGTERM or SIGINT; then what is under way is finished, unless a second one comes. SIGHUP: the file is read again.
    pub async fn until_told(self, mut signals: Signals) -> Result<(), Failure> {
        let signal = loop {
            match signals.next().await {
                Told::Reload if self.proxy.source().is_some() => {
                    let proxy = self.proxy.clone();
                    tokio::spawn(async move {
                        service::reloading();
                        let _ = reload::reload(&proxy, "SIGHUP").await;
                        service::ready();
                    });
                }
                Told::Reload => break "SIGHUP",
                Told::End(signal) => break signal,
            }
        };
        service::stopping();
        info!(
            signal,
            "draining: nothing new is accepted, what is under way is finished"
        );
        let again = async {
            loop {
                if let Told::End(signal) = signals.next().await {
                    return signal;
                }
            }
        };
        tokio::select! {
            () = self.stop() => info!("larder has ended"),
            signal = again => {
                return Err(Failure::Failed(format!("a second signal ({signal}): ended at once, whatever was under way")));
            }
        }
        Ok(())
    }

    pub async fn stop(self) {
        let limits = self.proxy.setup().config.limits.clone();
        self.drain.send_replace(true);
        // Who asks `/readyz` has the time to send nobody here any more.
        tokio::time::sleep(limits.drain_delay).await;
        self.end.send_replace(true);
        let bound = tokio::time::Instant::now() + limits.drain;
        let _ = self.serving.await;
        // Writes outlive their clients: they are finished, too, before the process ends.
        let setup = self.proxy.setup();
        let writes = &setup.writes.tasks;
        writes.close();
        if tokio::time::timeout_at(bound, writes.wait()).await.is_err() {
            warn!(
                writes = writes.len(),
                "writes were still under way at the end"
            );
        }
        let behind = setup.coherence.caught_up();
        if tokio::time::timeout_at(bound, behind).await.is_err() {
            warn!(
                "soft purges were less than `upstream.lag` ago at the end: what was fetched since may be of before them until its ttl is over"
            );
        }
        let tunnels = setup.tunnels.end_by(bound).await;
        if tunnels > 0 {
            warn!(tunnels, "WebSockets were still open at the end");
        }
        // What the store is owed is lost with the process.
        let paid = async {
            while setup.coherence.owed() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout_at(bound, paid).await.is_err() {
            warn!(
                owed = setup.coherence.owed(),
                "purges were still owed to the store at the end: what they drop may be shown until its ttl is over"
            );
        }
    }
}

/// What the process is told from outside.
pub enum Told {
    Reload,
    End(&'static str),
}

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    pub fn heard() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End("SIGTERM"),
            _ = self.interrupt.recv() => Told::End("SIGINT"),
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}

/// The listener's manners are those of the configuration in force.
async fn follow_configuration(
    proxy: Arc<Proxy>,
    told: watch::Sender<Manners>,
    places: Arc<Places>,
) {
    let mut turns = proxy.turns();
    while turns.changed().await.is_ok() {
        let setup = proxy.setup();
        let config = &setup.config;
        places.are_now(
            config.limits.connections_per_address,
            config.trusted_proxies.clone(),
        );
        told.send_replace(Manners::of(config));
    }
}

/// The protocol over the configured store.
pub async fn coherence(config: &Config) -> Result<Coherence, Failure> {
    let (journal, hold) = (
        Arc::new(Journal::default()),
        hold_for(config.upstream.total),
    );
    let store = match &config.store.address {
        StoreAddress::Memory => {
            let secret = config.store.secret.as_ref().map(HashingSecret::of);
            Store::Memory(Memory::new(config.memory_size).keyed(secret))
        }
        StoreAddress::Redis(settings) => {
            let lifetimes = Lifetimes::of(config);
            let states = plan::every_state(config);
            let redis =
                Redis::start(&config.store, settings, lifetimes, states, journal.clone()).await;
            Store::Redis(redis.map_err(|why| Failure::Config(format!("store: {why}")))?)
        }
    };
    let coherence = Coherence::new(Arc::new(store), journal, hold);
    Ok(coherence.holding(hold, config.upstream.lag))
}

/// What `listen` shows, read once more: the file was checked before the store was asked.
pub fn certificates(key: &str, tls: Option<&Tls>) -> Result<Option<Arc<Certificates>>, Failure> {
    let read = tls.map(Certificates::read).transpose();
    let read = read.map_err(|why| Failure::Config(format!("{key}: {why}")))?;
    Ok(read.map(Arc::new))
}

fn admin_tls(config: &Config) -> Result<Option<Acceptor>, Failure> {
    let Some(tls) = config.admin_tls.as_ref().filter(|_| config.admin.is_some()) else {
        return Ok(None);
    };
    let Some(own) = certificates("admin_tls", Some(&tls.own))? else {
        return Ok(None);
    };
    let acceptor = Acceptor::for_admin(own.clone(), tls.client_ca.as_deref());
    tokio::spawn(follow::follow(own));
    let wrong = |why| Failure::Config(format!("admin_tls.client_ca: {why}"));
    acceptor.map(Some).map_err(wrong)
}

/// The listening socket that the service manager has passed on at this place (`listen` first, then `admin`), or one of our own.
fn take_or_bind(
    given: &mut ListenFd,
    place: usize,
    key: &str,
    address: SocketAddr,
) -> Result<TcpListener, Failure> {
    let of_another_kind = |error: std::io::Error| {
        Failure::Failed(format!(
            "the socket that was passed on for `{key}` cannot be used: {error}"
        ))
    };
    match given.take_tcp_listener(place).map_err(of_another_kind)? {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(of_another_kind)?;
            TcpListener::from_std(listener).map_err(of_another_kind)
        }
        None => bind(key, address),
    }
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    server::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; something else listens there: stop it, or choose another port"
            }
            std::io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)"
            }
            _ => "",
        };
        Failure::Failed(format!(
            "cannot listen on {address} (`{key}`): {error}{remedy}"
        ))
    })
}

/// What there are descriptors for.
struct Room {
    connections: usize,
    websockets: usize,
}

/// Each client connection takes a descriptor, and the soft limit is often 1024: as many as there may be, for a reload may ask
/// for more.
fn room_for(config: &Config) -> Room {
    /// For the store, the listeners and whatever a library opens.
    const OTHERS: usize = 256;
    let (most, websockets) = (config.limits.connections, config.websocket.connections);
    let got = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let got = usize::try_from(got).unwrap_or(usize::MAX);
    let left = got.saturating_sub(OTHERS + config.upstream.max_connections);
    // However few there are, most are for others: each client may need one at the upstream, too.
    let connections = left
        .saturating_sub(2 * websockets)
        .max(got / 4)
        .clamp(1, most.max(1));
    // What is copied both ways takes two, and is no longer counted among the connections.
    let websockets = websockets.min((left.saturating_sub(connections) / 2).max(got / 16));
    if connections < most.min(1024) || websockets < config.websocket.connections {
        warn!(
            connections,
            websockets,
            "few descriptors: raise `ulimit -n` (LimitNOFILE= in a unit) for more connections"
        );
    }
    Room {
        connections,
        websockets,
    }
}
