//! The deployment's hashing secret: the file's, or one made at random and kept in the store. All instances under a prefix
//! have the same, or a logout at one would not end what another has heard; so a verdict counts only while the secret that
//! names its credential is the one that stands there.
//!
//! Whoever puts another there drops the state `~secret~all` first, on which every verdict depends, and each instance that
//! is asked for a verdict reads that state before it looks at the secret. So a secret that was lost (evicted, deleted, flushed)
//! costs misses and questions, and admits nobody who was revoked under the other one.

use redis::{Cmd, Pipeline};
use tracing::warn;

use super::connecting::NoLink;
use super::link::{Link, text};
use super::{A_WEEK, Shared};
use crate::caching::key::{HashingSecret, SECRET_STATE};
use crate::coherence::StateKey;
use crate::coherence::protocol::Step;
use crate::store::Away;

/// What stands at `~secret`.
enum There {
    Nothing,
    Ours,
    /// One that was made at random.
    Random(HashingSecret),
    /// Another file's, whose fingerprint alone is kept; or nothing of Larder's.
    Other,
}

impl Shared {
    /// Makes or adopts the secret. Several may do so at once, and all end with the same.
    pub(super) async fn settle_secret(&self, link: &Link) -> Result<(), NoLink> {
        let own = self.secret_or_new();
        match (self.secret_there(link, &own).await?, self.by_file) {
            (There::Ours, _) => self.adopt(own),
            (There::Random(theirs), None) => self.adopt(theirs),
            (There::Nothing, _) => self.put_secret(link, &own).await?,
            (There::Random(_) | There::Other, by_file) => {
                let mine = match by_file {
                    Some(_) => {
                        "this instance has its file's, and another has none or another there"
                    }
                    None => {
                        "another instance has one in its file, and this one has none there; or a value of another program stands at the key"
                    }
                };
                warn!(
                    "the instances on this store do not share a `secret`: {mine}; what they keep for credentials is not shared"
                );
                let mut del = Cmd::new();
                del.arg("DEL").arg(self.key("~secret"));
                self.wrote(link.ask(&del).await)?;
                self.put_secret(link, &own).await?;
            }
        }
        Ok(())
    }

    /// Whether what stands in the store is the secret that we use. If not, it is settled anew, and we may have another then.
    pub(super) async fn confirm_secret(&self) -> Result<bool, Away> {
        let link = self.link()?;
        let Some(own) = self.secret.load().as_deref().copied() else {
            return Err(Away);
        };
        // Asked for so often, neither is forgotten.
        let mut words = Pipeline::new();
        words.cmd("GET").arg(self.key("~secret"));
        words.cmd("PEXPIRE").arg(self.key(SECRET_STATE));
        words.arg(A_WEEK.as_millis() as u64).arg("GT");
        let answers = link.run_all(self, &words).await?;
        let there = answers.first().and_then(text);
        if there.as_deref() == Some(self.kept_as(&own).as_str()) {
            return Ok(true);
        }
        self.settle_secret(&link).await.map_err(|_| Away)?;
        Ok(false)
    }

    fn secret_or_new(&self) -> HashingSecret {
        let known = self.by_file.or(self.secret.load().as_deref().copied());
        known.unwrap_or_else(HashingSecret::random)
    }

    async fn secret_there(&self, link: &Link, own: &HashingSecret) -> Result<There, NoLink> {
        let key = self.key("~secret");
        let mut words = Pipeline::new();
        words.cmd("GET").arg(&key);
        words.cmd("EXPIRE").arg(&key).arg(A_WEEK.as_secs());
        let mut answers = link.ask_all(&words).await?.into_iter();
        let stands = match answers.next().expect("each command has an answer") {
            Err(refused) if refused.code() == Some("WRONGTYPE") => return Ok(There::Other),
            answer => answer.map_err(|e| self.refusal("GET", &e))?,
        };
        Ok(match text(&stands) {
            None if matches!(stands, redis::Value::Nil) => There::Nothing,
            None => There::Other,
            Some(text) if text == self.kept_as(own) => There::Ours,
            Some(text) => HashingSecret::from_hex(&text).map_or(There::Other, There::Random),
        })
    }

    /// Puts ours there, unless somebody else was first: then theirs is adopted.
    async fn put_secret(&self, link: &Link, own: &HashingSecret) -> Result<(), NoLink> {
        let state = [StateKey::new(SECRET_STATE)];
        let dropped = link.step(self, &state, Step::Purge);
        dropped.await.map_err(|Away| {
            NoLink::Unreachable("it was lost while the secret was made".to_owned())
        })?;
        let mut set = Cmd::new();
        set.arg("SET")
            .arg(self.key("~secret"))
            .arg(self.kept_as(own));
        set.arg("NX").arg("EX").arg(A_WEEK.as_secs());
        self.wrote(link.ask(&set).await)?;
        match (self.secret_there(link, own).await?, self.by_file) {
            (There::Random(theirs), None) => self.adopt(theirs),
            // A full store takes none: then nobody is given a shared copy by a verdict, and all else works.
            _ => self.adopt(*own),
        }
        Ok(())
    }

    fn adopt(&self, secret: HashingSecret) {
        self.secret.store(Some(std::sync::Arc::new(secret)));
    }

    /// Of a secret that people have chosen, nothing is kept but what it is known by.
    fn kept_as(&self, secret: &HashingSecret) -> String {
        match self.by_file {
            Some(_) => format!("of-the-file:{}", secret.fingerprint()),
            None => secret.to_hex(),
        }
    }
}
