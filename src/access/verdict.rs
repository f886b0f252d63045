//! The word on a credential, kept in this process: the upstream's own, asked with that credential and good for seconds;
//! or that of its token, verified here and good until the token expires.
//!
//! A verdict is a copy like any other: it carries the epochs of its credential's states, read before the question was
//! sent, and admits only while all of them are current, which the look-up asks in the same round trip as for the copy. So
//! a write with the credential, and a purge of it, end what was said before, on every instance.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::keys::KeySet;
use crate::caching::cache_status::Reason;
use crate::clock::{self, Moment, Timestamp};
use crate::coherence::Epochs;
use crate::config::Verify;

/// Verdicts kept at once; the least used go first, and are asked for again.
const KEPT: usize = 100_000;

/// Which question: a keyed hash over the route's `access`, the origin and the whole credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerdictKey(pub u128);

/// What the upstream said.
#[derive(Debug)]
pub struct Verdict {
    pub said: Said,
    /// The epochs of its credential's states.
    pub epochs: Epochs,
    pub good: Good,
}

/// For how long a verdict counts.
#[derive(Debug, Clone)]
pub enum Good {
    /// By the upstream's word: for so long after the moment before the question was sent.
    For { asked: Instant, lasting: Duration },
    /// By a token: until it expires, and while the keys that verified it are those in use.
    Until {
        expires: Timestamp,
        keys: Arc<KeySet>,
    },
    /// Nothing is kept.
    Once,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Admitted(Scope),
    /// Anything but a 2xx, or no answer, or one in which the scope cannot be read.
    NotAdmitted(Reason),
}

impl Verdict {
    pub fn is_in_time(&self, moment: Moment) -> bool {
        match &self.good {
            Good::For { asked, lasting } => {
                moment.stopwatch.saturating_duration_since(*asked) < *lasting
            }
            Good::Until { expires, keys } => moment.now < *expires && !keys.is_replaced(),
            Good::Once => false,
        }
    }

    /// What sets the copy of the one admitted apart.
    pub fn scope(&self) -> Option<&Scope> {
        match &self.said {
            Said::Admitted(scope) => Some(scope),
            Said::NotAdmitted(_) => None,
        }
    }
}

/// What tells the values at the pointers of `scope` from others, each with its pointer; one that is absent is not the same as
/// null.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(pub Vec<(String, Option<String>)>);

impl Scope {
    /// Of the answer's body. `None`: it is not JSON, or as in `at`.
    pub fn of(pointers: &[String], body: &[u8]) -> Option<Scope> {
        if pointers.is_empty() {
            return Some(Scope::default());
        }
        let value: Value = serde_json::from_slice(body).ok()?;
        Scope::at(pointers, &value)
    }

    /// `None`: it holds a number that is read with fewer digits than it has, and so could be another's.
    pub fn at(pointers: &[String], value: &Value) -> Option<Scope> {
        let at = |pointer: &String| {
            let found = value.pointer(pointer);
            let exact = found.is_none_or(is_exact);
            exact.then(|| (pointer.clone(), found.map(known)))
        };
        pointers.iter().map(at).collect::<Option<_>>().map(Scope)
    }
}

/// A value that is short as it is, else its hash, which is no JSON: a list of permissions can be long, and there are many verdicts.
fn known(value: &Value) -> String {
    const SHORT: usize = blake3::OUT_LEN;
    let text = value.to_string();
    match text.len() {
        0..=SHORT => text,
        _ => format!("={}", blake3::hash(text.as_bytes()).to_hex()),
    }
}

/// Whole numbers of 64 bits are.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// How long what was said is kept.
pub fn lasting(verify: &Verify, said: &Said) -> Duration {
    match said {
        Said::Admitted(_) => verify.lasting,
        Said::NotAdmitted(_) => verify.refusing,
    }
}

/// The verdicts of this instance, and the questions under way: one for each credential.
pub struct Verdicts {
    kept: Cache<VerdictKey, Arc<Verdict>>,
    asking: Mutex<HashMap<VerdictKey, Arc<OnceCell<Arc<Verdict>>>>>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Verdicts {
            kept: Cache::new(KEPT),
            asking: Mutex::default(),
        }
    }
}

impl Verdicts {
    /// One that is still in time; whether its credential was revoked meanwhile, the look-up asks.
    pub fn known(&self, key: VerdictKey, moment: Moment) -> Option<Arc<Verdict>> {
        self.kept
            .get(&key)
            .filter(|verdict| verdict.is_in_time(moment))
    }

    /// Forgets it, as its credential was revoked. Another that has taken its place stays.
    pub fn forget(&self, key: VerdictKey, verdict: &Arc<Verdict>) {
        self.kept.remove_if(&key, |kept| Arc::ptr_eq(kept, verdict));
    }

    /// Asks, or waits for who is asking the same.
    pub async fn ask(
        &self,
        key: VerdictKey,
        question: impl Future<Output = Verdict>,
    ) -> Arc<Verdict> {
        let cell = self.asking.lock().entry(key).or_default().clone();
        let place = Place {
            verdicts: self,
            key,
            cell,
        };
        let answer = async {
            // Look again: a question may have ended between the caller's look and its place here.
            if let Some(verdict) = self.known(key, clock::moment()) {
                return verdict;
            }
            let verdict = Arc::new(question.await);
            if !matches!(verdict.good, Good::Once) {
                self.kept.insert(key, verdict.clone());
            }
            verdict
        };
        // If who asks leaves, one of those who wait asks anew.
        place.cell.get_or_init(|| answer).await.clone()
    }
}

/// A place among those who wait. The last one, or the first who was answered, clears up.
struct Place<'v> {
    verdicts: &'v Verdicts,
    key: VerdictKey,
    cell: Arc<OnceCell<Arc<Verdict>>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut asking = self.verdicts.asking.lock();
        let is_last = self.cell.initialized() || Arc::strong_count(&self.cell) <= 2;
        let is_ours = asking
            .get(&self.key)
            .is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        if is_last && is_ours {
            asking.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(said: Said) -> Verdict {
        Verdict {
            said,
            epochs: Epochs::new(),
            good: Good::For {
                asked: Instant::now(),
                lasting: Duration::from_secs(30),
            },
        }
    }

    fn after(start: Instant, span: Duration) -> Moment {
        Moment {
            stopwatch: start + span,
            now: Timestamp::default(),
        }
    }

    #[test]
    fn a_scope_is_read_from_any_json_and_absent_is_not_null() {
        let scope = |body: &str| Scope::of(&["/role".to_owned()], body.as_bytes());
        let values = [
            r#"{}"#,
            r#"{"role":null}"#,
            r#"{"role":"null"}"#,
            r#"{"role":""}"#,
            r#"{"role":1}"#,
            r#"{"role":"1"}"#,
            r#"{"role":true}"#,
            r#"{"role":[1]}"#,
            r#"{"role":{"a":1}}"#,
        ];
        for (n, value) in values.iter().enumerate() {
            assert!(scope(value).is_some(), "{value}");
            assert!(
                values[..n].iter().all(|other| scope(other) != scope(value)),
                "{value}"
            );
        }
        assert_eq!(scope(r#"[]"#), scope(r#"{}"#));
        assert_eq!(scope("<html>"), None);
        for number in ["18446744073709551616", "-9223372036854775809", "1.0", "1e3"] {
            assert_eq!(scope(&format!("{{\"role\":{number}}}")), None, "{number}");
            assert_eq!(scope(&format!("{{\"role\":[{{\"a\":{number}}}]}}")), None);
            assert!(scope(&format!("{{\"other\":{number}}}")).is_some());
        }
        assert!(scope(r#"{"role":18446744073709551615}"#).is_some());
        assert_eq!(Scope::of(&[], b"<html>"), Some(Scope::default()));
    }

    #[test]
    fn a_verdict_counts_from_before_its_question_was_sent() {
        let verdict = verdict(Said::Admitted(Scope::default()));
        let Good::For { asked, .. } = verdict.good else {
            unreachable!("it was made so");
        };
        assert!(verdict.is_in_time(after(asked, Duration::from_millis(29_999))));
        assert!(!verdict.is_in_time(after(asked, Duration::from_secs(30))));
    }

    #[test]
    fn a_token_counts_until_it_expires_and_while_its_keys_are_in_use() {
        let (keys, second) = (Arc::<KeySet>::default(), 1_000_000);
        let verdict = Verdict {
            good: Good::Until {
                expires: Timestamp::from_micros(7 * second),
                keys: keys.clone(),
            },
            ..verdict(Said::Admitted(Scope::default()))
        };
        let at = |micros| Moment {
            stopwatch: Instant::now(),
            now: Timestamp::from_micros(micros),
        };
        assert!(verdict.is_in_time(at(7 * second - 1)));
        assert!(!verdict.is_in_time(at(7 * second)));
        keys.replace();
        assert!(!verdict.is_in_time(at(0)));
    }

    #[tokio::test]
    async fn all_who_ask_at_once_ask_one_question_and_leave_nothing_behind() {
        let (verdicts, key) = (Verdicts::default(), VerdictKey(1));
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let one = || {
            verdicts.ask(key, async {
                asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::task::yield_now().await;
                verdict(Said::Admitted(Scope::default()))
            })
        };
        tokio::join!(one(), one(), one());
        assert_eq!(asked.into_inner(), 1);
        assert!(verdicts.asking.lock().is_empty());
        assert!(verdicts.known(key, clock::moment()).is_some());
    }

    #[tokio::test]
    async fn a_question_that_everybody_has_left_leaves_nothing_behind() {
        let verdicts = Verdicts::default();
        {
            let mut left = std::pin::pin!(verdicts.ask(VerdictKey(1), std::future::pending()));
            assert!(futures_util::poll!(left.as_mut()).is_pending());
            assert_eq!(verdicts.asking.lock().len(), 1);
        }
        assert!(verdicts.asking.lock().is_empty());
    }
}
