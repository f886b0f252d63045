//! `larder serve`: from the file to a running proxy, and to its orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{ConfigFile, Failure};
use crate::admin::Admin;
use crate::caching::key::HashingSecret;
use crate::coherence::{Coherence, Journal, hold_for};
use crate::config::{Access, Config, Route, StoreAddress, Tls};
use crate::metrics::COUNTED;
use crate::proxy::{Proxy, Setup, plan};
use crate::server::{self, Manners};
use crate::store::Store;
use crate::store::memory::Memory;
use crate::store::redis::{Lifetimes, Redis};
use crate::tls::certificates::Certificates;
use crate::tls::follow::follow;
use crate::tls::server::{Acceptor, Protocol};
use crate::upstream::Upstream;
use crate::{admin, telemetry, warming};

#[derive(Args)]
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
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let over = crate::config::file::Overrides {
        listen: arguments.listen.clone(),
        admin: arguments.admin.clone(),
        upstream: arguments.upstream.clone(),
        store: arguments.store.clone(),
    };
    let config = super::load_over(&arguments.file.config, &over)?;
    telemetry::start(&config.logs);
    super::runtime()?.block_on(async {
        let running = Running::start(config).await?;
        running.until_told().await;
        Ok(())
    })
}

/// A proxy that has its ports and serves.
pub struct Running {
    pub listen: SocketAddr,
    pub admin: Option<SocketAddr>,
    end: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    proxy: Arc<Proxy>,
    drain: Duration,
}

impl Running {
    /// Takes the ports and connects to the store, or says why not; nothing is half-started.
    pub async fn start(config: Config) -> Result<Running, Failure> {
        let certificates = certificates("tls", config.tls.as_ref())?;
        let admin_tls = admin_tls(&config)?;
        // The store first: a port that opens says that everything is right.
        let coherence = coherence(&config).await?;
        let listener = bind("listen", config.listen)?;
        let admin = config
            .admin
            .map(|address| bind("admin", address))
            .transpose()?;
        let limits = config.limits.clone();
        let manners = Manners {
            connections: room_for(limits.connections),
            fields: limits.fields,
            head: limits.head,
            handshake_timeout: limits.handshake_timeout,
            header_timeout: limits.header_timeout,
            drain: limits.drain,
            open: Some(&COUNTED.connections),
        };
        let upstream = Upstream::new(config.upstream.clone());
        let warm = config.warm.clone();
        let acceptor = certificates
            .clone()
            .map(|certificates| Acceptor::new(certificates, &[Protocol::Http1]));
        let setup = Setup::new(config, upstream, coherence);
        let proxy = Arc::new(Proxy::new(setup, certificates.clone()));
        let (end, ended) = watch::channel(false);
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
                draining: ended.clone(),
            };
            // The operator's listener stays until the process ends: it tells that we are draining.
            let stays = watch::channel(false);
            let own = Manners {
                connections: 256,
                open: None,
                ..manners
            };
            tokio::spawn(async move {
                let _stays = &stays.0;
                server::serve(
                    admin,
                    own,
                    admin_tls,
                    stays.1.clone(),
                    None,
                    move |request, peer, _| admin::answer(&operator, peer, request),
                )
                .await;
            });
        }
        let serving = {
            let proxy = proxy.clone();
            tokio::spawn(server::serve(
                listener,
                manners,
                acceptor,
                ended,
                Some(proxy.clone()),
                move |request, peer, interim| proxy.handle(request, peer, interim),
            ))
        };
        let at = admin_address.map_or_else(|| "off".to_owned(), |address| address.to_string());
        info!(%listen, admin = at, "larder serves");
        if let Some(certificates) = certificates {
            tokio::spawn(follow(certificates));
        }
        for warm in warm {
            tokio::spawn(warming::run(proxy.clone(), listen, warm));
        }
        Ok(Running {
            listen,
            admin: admin_address,
            end,
            serving,
            proxy,
            drain: limits.drain,
        })
    }

    /// Until SIGTERM or SIGINT; then what is under way is finished.
    pub async fn until_told(self) {
        let told = async {
            let (Ok(mut terminate), Ok(mut interrupt)) = (
                signal(SignalKind::terminate()),
                signal(SignalKind::interrupt()),
            ) else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let signal = told.await;
        info!(
            signal,
            "draining: nothing new is accepted, what is under way is finished"
        );
        self.stop().await;
        info!("larder has ended");
    }

    pub async fn stop(self) {
        self.end.send_replace(true);
        let _ = self.serving.await;
        // Writes outlive their clients: they are finished, too, before the process ends.
        let writes = &self.proxy.setup().writes;
        writes.close();
        if tokio::time::timeout(self.drain, writes.wait())
            .await
            .is_err()
        {
            warn!(
                writes = writes.len(),
                "writes were still under way at the end"
            );
        }
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
            let lasting = |route: &Route| {
                let ttl = route.ttl.max(route.negative_ttl.unwrap_or_default());
                let verdict = match &route.access {
                    Access::Verify(verify) => verify.lasting,
                    // A token may be good for longer: then its state is made anew, which costs one verification.
                    Access::PerCredential | Access::Public | Access::Jwt(_) => Duration::ZERO,
                };
                (ttl + route.stale_while_revalidate.max(route.stale_if_error)).max(verdict)
            };
            let longest = config.routes.iter().map(lasting).max();
            let lifetimes = Lifetimes {
                hold,
                longest_ttl: longest.unwrap_or_default(),
            };
            let states = plan::every_state(config);
            let redis =
                Redis::start(&config.store, settings, lifetimes, states, journal.clone()).await;
            Store::Redis(redis.map_err(|why| Failure::Config(format!("store: {why}")))?)
        }
    };
    Ok(Coherence::new(Arc::new(store), journal, hold))
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
    tokio::spawn(follow(own));
    let wrong = |why| Failure::Config(format!("admin_tls.client_ca: {why}"));
    acceptor.map(Some).map_err(wrong)
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

/// Each client connection takes a descriptor, and the soft limit is often 1024. Gives how many connections
/// there is room for.
fn room_for(connections: usize) -> usize {
    /// For the upstream, the store, the listeners and whatever a library opens.
    const OTHERS: u64 = 256;
    let wanted = connections as u64 + OTHERS;
    let got = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    let room = usize::try_from(got.saturating_sub(OTHERS))
        .unwrap_or(connections)
        .min(connections)
        .max(64);
    if room < connections.min(1024) {
        warn!(
            connections = room,
            "few descriptors: raise `ulimit -n` (LimitNOFILE= in a unit) for more connections"
        );
    }
    room
}
