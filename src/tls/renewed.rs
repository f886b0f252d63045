//! A client that goes with its files: an authority or a certificate of our own that is renewed where it is counts for the
//! connections that are made from then on. One that cannot be used is not taken.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::client::Client;
use super::follow::LOOK;
use crate::config::ClientCertificate;

/// The `Client` of an upstream.
pub struct Renewed {
    ca_file: Option<PathBuf>,
    own: Option<ClientCertificate>,
    made: Mutex<Made>,
}

struct Made {
    /// What stood in the files.
    content: Option<blake3::Hash>,
    /// What was found there last.
    found: Option<blake3::Hash>,
    client: io::Result<Arc<Client>>,
}

impl Renewed {
    /// Its files are followed for as long as it is wanted; not without a runtime, where nobody is connected to either.
    pub fn new(ca_file: Option<&Path>, own: Option<&ClientCertificate>) -> Arc<Renewed> {
        let content = content(ca_file, own);
        let renewed = Arc::new(Renewed {
            made: Mutex::new(Made {
                content,
                found: content,
                client: Client::new(ca_file, own).map(Arc::new),
            }),
            ca_file: ca_file.map(Path::to_owned),
            own: own.cloned(),
        });
        if (ca_file.is_some() || own.is_some())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(follow(Arc::downgrade(&renewed)));
        }
        renewed
    }

    /// For one connection.
    pub fn client(&self) -> io::Result<Arc<Client>> {
        let made = self.made.lock();
        let client = made.client.as_ref().map(Arc::clone);
        client.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }

    fn look(&self) {
        let (ca_file, own) = (self.ca_file.as_deref(), self.own.as_ref());
        let now = content(ca_file, own);
        {
            let mut made = self.made.lock();
            // Neither a key and its certificate nor all of a file's authorities are written at once.
            let is_settled = std::mem::replace(&mut made.found, now) == now;
            if !is_settled || now == made.content {
                return;
            }
        }
        let client = Client::new(ca_file, own);
        let mut made = self.made.lock();
        made.content = now;
        match client {
            Ok(client) => {
                made.client = Ok(Arc::new(client));
                info!(
                    "the upstream's `ca_file` or `client_cert` is another: it counts from now on"
                );
            }
            Err(why) if made.client.is_ok() => {
                warn!(
                    "the upstream's new `ca_file` or `client_cert` is not taken, the one from before stays: {why}"
                );
            }
            Err(why) => made.client = Err(why),
        }
    }
}

async fn follow(renewed: Weak<Renewed>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(renewed) = renewed.upgrade() else {
            return;
        };
        let looked = tokio::task::spawn_blocking(move || renewed.look());
        if looked.await.is_err() {
            // The process ends.
            return;
        }
    }
}

/// `None`: one of them cannot be read.
fn content(ca_file: Option<&Path>, own: Option<&ClientCertificate>) -> Option<blake3::Hash> {
    let own = own.map(|own| [own.cert.as_path(), own.key.as_path()]);
    let mut hasher = blake3::Hasher::new();
    for file in ca_file.into_iter().chain(own.into_iter().flatten()) {
        let content = std::fs::read(file).ok()?;
        hasher.update(blake3::hash(&content).as_bytes());
    }
    Some(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn authority() -> String {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        ca.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn what_is_still_being_written_is_not_taken() {
        crate::tls::install_provider();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let (old, new) = (authority(), authority());
        std::fs::write(&file, &old).unwrap();
        let renewed = Renewed::new(Some(&file), None);
        let before = renewed.client().unwrap();
        let is_before = || Arc::ptr_eq(&before, &renewed.client().unwrap());
        // The half of them is as good a file.
        for written in [&new, &format!("{new}{old}")] {
            std::fs::write(&file, written).unwrap();
            renewed.look();
            assert!(is_before());
        }
        renewed.look();
        assert!(!is_before());
    }
}
