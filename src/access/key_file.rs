//! The keys in use, and their file: read again when it changes. What cannot be read leaves the keys as they are, and
//! says so once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::keys::{Form, KeySet};
use crate::config::KeySource;

/// How soon a changed file is noticed.
const EVERY: Duration = Duration::from_secs(1);

/// The keys of one `access: {jwt: …}`.
pub struct Keys {
    source: KeySource,
    current: ArcSwap<KeySet>,
    read: Mutex<Stamp>,
    watched: AtomicBool,
}

/// By what a file is known to have changed: what it holds, as a copy can keep times, and keys of a kind are equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp(Option<blake3::Hash>);

impl Stamp {
    fn of(path: &Path) -> Stamp {
        Stamp(std::fs::read(path).ok().map(|bytes| blake3::hash(&bytes)))
    }
}

/// Reads the keys of a source. `Err` says what is wrong.
pub fn read(source: &KeySource) -> Result<KeySet, String> {
    let file = |form, path: &Path| {
        let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
        KeySet::read(form, &bytes).map_err(str::to_owned)
    };
    match source {
        KeySource::Secret(secret) => {
            KeySet::read(Form::Secret, secret.expose().as_bytes()).map_err(str::to_owned)
        }
        KeySource::Pem(path) => file(Form::Pem, path),
        KeySource::Jwks(path) => file(Form::Jwks, path),
    }
}

impl Keys {
    /// The file was right when the configuration was read; if it is not any more, nobody is verified until it is.
    pub fn new(source: &KeySource) -> Keys {
        // Before it is read: a change in between is one more reading.
        let stamp = source.path().map(Stamp::of).unwrap_or_default();
        Keys {
            source: source.clone(),
            current: ArcSwap::from_pointee(read(source).unwrap_or_default()),
            read: Mutex::new(stamp),
            watched: AtomicBool::new(false),
        }
    }

    pub fn current(&self) -> Arc<KeySet> {
        self.current.load_full()
    }

    /// Looks after the file from now on, for as long as anybody else has these keys. Before the first token is verified
    /// there is nothing to look after.
    pub fn watch(self: &Arc<Self>) {
        if self.source.path().is_none() || self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let keys = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(keys) = keys.upgrade() else {
                    return;
                };
                if tokio::task::spawn_blocking(move || keys.look())
                    .await
                    .is_err()
                {
                    return;
                }
                tokio::time::sleep(EVERY).await;
            }
        });
    }

    /// Looks at the file now, and waits for that, though not for one that hangs.
    pub async fn look_now(self: &Arc<Self>) {
        let keys = self.clone();
        let looked = tokio::task::spawn_blocking(move || keys.look());
        // Err: it is long in coming, and looked at all the same.
        let _ = tokio::time::timeout(EVERY, looked).await;
    }

    /// Reads the file again if it has changed since it was last looked at, unless somebody is still at it.
    fn look(&self) {
        let Some(path) = self.source.path() else {
            return;
        };
        let Some(mut read) = self.read.try_lock_for(EVERY) else {
            return;
        };
        let now = Stamp::of(path);
        if std::mem::replace(&mut *read, now) != now {
            self.renew(path);
        }
    }

    fn renew(&self, path: &Path) {
        let file = path.display();
        match read(&self.source) {
            Ok(keys) => {
                info!(%file, keys = keys.names().join(", "), "keys read again: every token is verified anew");
                self.current.swap(Arc::new(keys)).replace();
            }
            Err(why) => warn!(%file, "the keys stay as they were: the file {why}"),
        }
    }
}
