//! Whom the upstream admits: `access: {verify: …}`. A known verdict, or the question that makes one; and the states of
//! a credential, which every write with it holds.

use std::sync::Arc;

use http::Response;
use http_body_util::{BodyExt, Limited};
use tracing::debug;

use super::plan::{By, Plan};
use super::{Client, Setup, present};
use crate::access::credential;
use crate::access::verdict::{self, Said, Scope, Verdict, VerdictKey};
use crate::caching::cache_status::Reason;
use crate::caching::key::HashingSecret;
use crate::clock;
use crate::coherence::Epochs;
use crate::config::{Access, Config, Verify};
use crate::error::UpstreamFailure;
use crate::metrics::COUNTED;
use crate::upstream::UpstreamBody;

/// A larger answer to the question is not read for its scope.
const LARGEST: usize = 1024 * 1024;

/// What is known without asking.
pub enum Known {
    Admitted(Arc<Verdict>),
    /// It goes upstream uncached.
    NotAdmitted(Reason),
    /// The upstream is to be asked.
    Unasked,
}

/// The verdict on this client that is in time.
pub fn known(setup: &Setup, verify: &Verify, client: &Client, secret: &HashingSecret) -> Known {
    if credential::parts(&setup.config, &client.fields).count() > credential::MOST {
        return Known::NotAdmitted(Reason::VerifyFailed);
    }
    let key = key(&setup.config, verify, client, secret);
    match setup.verdicts.known(key, clock::stopwatch()) {
        None => Known::Unasked,
        Some(verdict) => match &verdict.said {
            Said::Admitted(_) => Known::Admitted(verdict),
            Said::NotAdmitted(reason) => Known::NotAdmitted(*reason),
        },
    }
}

/// Asks the upstream. `Err` says why this client is not admitted, or why what was said cannot be kept.
pub async fn ask(setup: &Setup, verify: &Verify, client: &Client) -> Result<(), Reason> {
    let Some(secret) = setup.coherence.store().secret() else {
        return Err(Reason::StoreAway);
    };
    let key = key(&setup.config, verify, client, &secret);
    let question = async {
        let asked = clock::stopwatch();
        let states = credential::states(&setup.config, &client.fields, &secret);
        // Before the question: what is said afterwards is not older than they are.
        let epochs = match states.is_empty() {
            true => Ok(Epochs::new()),
            false => setup.coherence.open(&states).await,
        };
        let said = match epochs {
            Ok(_) => said(setup, verify, client).await,
            Err(reason) => Said::NotAdmitted(reason),
        };
        let word = match said {
            Said::Admitted(_) => "admitted",
            Said::NotAdmitted(reason) => reason.word(),
        };
        COUNTED.verdicts.count([word]);
        debug!(
            admitted = matches!(said, Said::Admitted(_)),
            path = verify.path,
            "asked whether to admit"
        );
        let lasting = match &epochs {
            Ok(_) => verdict::lasting(verify, &said),
            // Nothing was asked: the next one tries again.
            Err(_) => std::time::Duration::ZERO,
        };
        Verdict {
            said,
            epochs: epochs.unwrap_or_default(),
            asked,
            lasting,
        }
    };
    match &setup.verdicts.ask(key, question).await.said {
        Said::Admitted(_) => Ok(()),
        Said::NotAdmitted(reason) => Err(*reason),
    }
}

/// The credential was revoked since: nobody is admitted by this verdict any more.
pub fn forget(setup: &Setup, verify: &Verify, client: &Client, verdict: &Arc<Verdict>) {
    if let Some(secret) = setup.coherence.store().secret() {
        let key = key(&setup.config, verify, client, &secret);
        setup.verdicts.forget(key, verdict);
    }
}

/// A write with a credential may be a logout or a new password: it holds the credential's states, too.
pub fn with_credential(setup: &Setup, client: &Client, plan: Plan) -> Plan {
    if client.method.is_safe() || !is_used(&setup.config) {
        return plan;
    }
    let Some(secret) = setup.coherence.store().secret() else {
        return plan;
    };
    let own = credential::states(&setup.config, &client.fields, &secret);
    match plan {
        plan if own.is_empty() => plan,
        Plan::Pass { .. } => Plan::Write {
            states: own.into_vec(),
            by: By::Operator,
        },
        Plan::Write { mut states, by } => {
            states.extend(own);
            Plan::Write { states, by }
        }
        read @ Plan::Read { .. } => read,
    }
}

/// Whether any route admits by verdict.
fn is_used(config: &Config) -> bool {
    config
        .routes
        .iter()
        .any(|route| matches!(route.access, Access::Verify(_)))
}

async fn said(setup: &Setup, verify: &Verify, client: &Client) -> Said {
    match answer(setup, verify, client).await {
        Ok(response) if !response.status().is_success() => Said::NotAdmitted(Reason::VerifyRefused),
        Ok(_) if verify.scope.is_empty() => Said::Admitted(Scope::default()),
        Ok(response) => match scope(setup, verify, response).await {
            Some(scope) => Said::Admitted(scope),
            None => Said::NotAdmitted(Reason::VerifyFailed),
        },
        Err(_) => Said::NotAdmitted(Reason::VerifyFailed),
    }
}

async fn answer(
    setup: &Setup,
    verify: &Verify,
    client: &Client,
) -> Result<Response<UpstreamBody>, UpstreamFailure> {
    let outgoing = present::question(&setup.config, client, &verify.path);
    let slot = setup.upstream.slot().await?;
    setup.upstream.send(slot, outgoing).await
}

/// A scope that cannot be read admits nobody: it would be anybody's.
async fn scope(setup: &Setup, verify: &Verify, response: Response<UpstreamBody>) -> Option<Scope> {
    let body = Limited::new(response.into_body(), LARGEST).collect();
    let body = tokio::time::timeout(setup.upstream.settings().total, body);
    let body = body.await.ok()?.ok()?.to_bytes();
    Scope::of(&verify.scope, &body)
}

fn key(config: &Config, verify: &Verify, client: &Client, secret: &HashingSecret) -> VerdictKey {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    let mut piece = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    piece(b"larder verdict");
    piece(verify.path.as_bytes());
    for pointer in &verify.scope {
        piece(pointer.as_bytes());
    }
    piece(b"of");
    piece(present::origin(config, client).as_bytes());
    for (name, value) in credential::parts(config, &client.fields) {
        piece(name.as_bytes());
        piece(value);
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    VerdictKey(u128::from_be_bytes(hash))
}
