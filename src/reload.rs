//! Reading the configuration again while the proxy runs: by SIGHUP, by the admin listener, or because the file has changed.
//! All of it comes into force or nothing does: what is wrong with the file, or what only a restart can change, is said.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::clock;
use crate::config::Config;
use crate::config::file::{self, Overrides};
use crate::metrics::COUNTED;
use crate::proxy::Proxy;
use crate::telemetry;

/// Between two looks at the file. A change is read when two looks have seen the same, so never half of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the configuration is read from, and what came of reading it again.
pub struct Source {
    pub path: PathBuf,
    /// What the command line says in place of the file.
    pub over: Overrides,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    done: u64,
    refused: u64,
    last: Option<(Instant, Result<(), NotReloaded>)>,
}

/// The new configuration is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// What was dropped, as writes drop it from now on and did not before.
    pub dropped: Vec<String>,
    /// Writes under way that hold more than they did.
    pub held_for: usize,
}

/// The old one stays, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReloaded {
    /// The process was started without a file.
    NoFile,
    /// What is wrong with it, and where.
    Wrong(String),
    /// The keys that only a restart can change.
    NeedsRestart(Vec<&'static str>),
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReloaded::NoFile => f.write_str("this instance was started without a file"),
            NotReloaded::Wrong(why) => f.write_str(why.trim_end()),
            NotReloaded::NeedsRestart(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
                let keys = keys.join(", ");
                write!(
                    f,
                    "{keys} can only be changed by a restart: nothing was changed"
                )
            }
        }
    }
}

impl Source {
    pub fn new(path: PathBuf, over: Overrides) -> Source {
        Source {
            path,
            over,
            turn: tokio::sync::Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// How often, and what came of it last, for `/readyz`, which anybody may ask: of a wrong file it tells nothing.
    pub fn told(&self) -> Value {
        let told = self.told.lock();
        let mut value = json!({ "done": told.done, "refused": told.refused });
        if let Some((at, last)) = &told.last {
            value["last"] = match last {
                Ok(()) => json!({ "result": "done" }),
                Err(NotReloaded::Wrong(_)) => {
                    json!({ "result": "refused", "detail": "the file is wrong: the log says where" })
                }
                Err(why) => json!({ "result": "refused", "detail": why.to_string() }),
            };
            value["last"]["seconds_ago"] = at.elapsed().as_secs().into();
        }
        value
    }

    fn tell(&self, result: Result<(), NotReloaded>) {
        let mut told = self.told.lock();
        match &result {
            Ok(()) => told.done += 1,
            Err(_) => told.refused += 1,
        }
        COUNTED.reloads.count([match &result {
            Ok(()) => "done",
            Err(_) => "refused",
        }]);
        told.last = Some((clock::stopwatch(), result));
    }

    /// On a thread for what may take its time: where the files' server hangs, requests are answered all the same.
    async fn read(&self) -> Result<file::Loaded, NotReloaded> {
        let (path, over) = (self.path.clone(), self.over.clone());
        let read = tokio::task::spawn_blocking(move || {
            let environment = |name: &str| std::env::var(name).ok();
            file::load_with(&path, &environment, &over).map_err(|error| error.to_string())
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        read.map_err(NotReloaded::Wrong)
    }
}

/// Reads the file again and puts it in force. `cause`: who asked for it, for the log.
pub async fn reload(proxy: &Proxy, cause: &'static str) -> Result<Reloaded, NotReloaded> {
    let source = proxy.source().ok_or(NotReloaded::NoFile)?;
    let _turn = source.turn.lock().await;
    let done = read_and_turn_over(proxy, source).await;
    source.tell(done.as_ref().map(drop).map_err(Clone::clone));
    match &done {
        Ok(reloaded) => {
            let (dropped, held_for) = (reloaded.dropped.len(), reloaded.held_for);
            info!(cause, dropped, held_for, "configuration reloaded");
        }
        Err(why) => error!(cause, %why, "configuration not reloaded: all stays as it was"),
    }
    done
}

async fn read_and_turn_over(proxy: &Proxy, source: &Source) -> Result<Reloaded, NotReloaded> {
    let loaded = source.read().await?;
    let old = proxy.setup();
    let keys = needs_restart(&old.config, &loaded.config);
    if !keys.is_empty() {
        return Err(NotReloaded::NeedsRestart(keys));
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    if let (Some(certificates), Some(tls)) = (&proxy.certificates, &loaded.config.tls) {
        let wrong = |why| NotReloaded::Wrong(format!("tls: {why}"));
        certificates.reload(tls).map_err(wrong)?;
    }
    telemetry::set_level(&loaded.config.logs);
    let turned = proxy.turn_over(loaded.config).await;
    Ok(Reloaded {
        dropped: turned.dropped.iter().map(ToString::to_string).collect(),
        held_for: turned.held_for,
    })
}

/// Reloads whenever the file says something else, for as long as the process runs. By its content, and through links:
/// Kubernetes changes a mounted ConfigMap by pointing a link elsewhere, which tells no watcher of the file.
///
/// `in_force` is what stood there before the configuration in force was read: what has changed since then is not missed, and
/// what changed just then is read once more.
pub async fn watch(proxy: &Proxy, mut in_force: Option<Vec<u8>>) {
    let Some(source) = proxy.source() else {
        return;
    };
    let mut seen = in_force.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // While it is being replaced there may be none.
        let Ok(now) = tokio::fs::read(&source.path).await else {
            continue;
        };
        let settled = seen.as_ref() == Some(&now);
        if settled && in_force.as_ref() != Some(&now) {
            in_force = Some(now.clone());
            let _ = reload(proxy, "file").await;
        }
        seen = Some(now);
    }
}

/// The keys that differ and are only read at the start.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.store, &new.store);
    let differs = [
        ("listen", old.listen != new.listen),
        ("admin", old.admin != new.admin),
        // Its files are read again, and others may be named; whether TLS is spoken is settled with the port.
        ("tls", old.tls.is_some() != new.tls.is_some()),
        ("admin_tls", old.admin_tls != new.admin_tls),
        ("store", was.address != is.address),
        ("secret", was.secret != is.secret),
        ("store.prefix", was.prefix != is.prefix),
        ("store.timeout", was.timeout != is.timeout),
        ("memory.size", old.memory_size != new.memory_size),
        (
            "memory.lease",
            was.memory.map(|tier| tier.lease) != is.memory.map(|tier| tier.lease),
        ),
        (
            "limits.connections",
            old.limits.connections != new.limits.connections,
        ),
        ("logs.format", old.logs.format != new.logs.format),
    ];
    let named = differs.iter().filter(|(_, differs)| *differs);
    named.map(|(key, _)| *key).collect()
}
