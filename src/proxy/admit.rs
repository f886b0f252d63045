//! Who is admitted to a shared copy: `access: {verify: …}` and `access: {jwt: …}`. A known verdict, or the question that
//! makes one; and the states of a credential, which every write with it holds.

use std::sync::Arc;

use futures_util::future::join_all;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tracing::debug;

use super::plan::{Plan, Word};
use super::{Client, Served, Setup, present};
use crate::access::credential;
use crate::access::key_file::Keys;
use crate::access::keys::KeySet;
use crate::access::token;
use crate::access::verdict::{self, Good, Said, Scope, Verdict, VerdictKey};
use crate::caching::cache_status::Reason;
use crate::caching::key::{HashingSecret, SECRET_STATE, revoked_token};
use crate::clock;
use crate::coherence::{Epochs, StateKey, hold_for};
use crate::config::{Access, Config, Jwt, Verify};
use crate::error::UpstreamFailure;
use crate::metrics::COUNTED;
use crate::store::Away;
use crate::upstream::UpstreamBody;

/// A larger answer to the question is not read for its scope.
const LARGEST: usize = 1024 * 1024;

/// What is known without asking.
pub enum Known {
    Admitted(Arc<Verdict>),
    /// It goes upstream uncached.
    NotAdmitted(Reason),
    /// The upstream is to be asked, or the token verified.
    Unasked,
}

/// Before other routes are given the keys of these: they are what stands in the file now.
pub async fn look_at_keys(all: &[Served]) {
    let mut keys: Vec<_> = all.iter().filter_map(|one| one.keys.as_ref()).collect();
    keys.sort_by_key(|keys| Arc::as_ptr(keys));
    keys.dedup_by_key(|keys| Arc::as_ptr(keys));
    join_all(keys.into_iter().map(Keys::look_now)).await;
}

/// Gives each route under `jwt` its keys, one value to all that name the same: what the keys of `before` have said counts until they
/// are replaced, which only they themselves know.
pub fn with_keys(mut all: Vec<Served>, before: &[Served]) -> Vec<Served> {
    for n in 0..all.len() {
        let Access::Jwt(jwt) = &all[n].route.access else {
            continue;
        };
        let same = |other: &Served| match &other.route.access {
            Access::Jwt(theirs) if theirs.keys == jwt.keys => other.keys.clone(),
            _ => None,
        };
        let mut known = all[..n].iter().chain(before);
        let keys = known.find_map(same);
        let keys = keys.unwrap_or_else(|| Arc::new(Keys::new(&jwt.keys)));
        all[n].keys = Some(keys);
    }
    all
}

/// The verdict on this client that is in time.
pub fn known(setup: &Setup, served: &Served, client: &Client, secret: &HashingSecret) -> Known {
    let key = match key(setup, served, client, secret) {
        Ok(key) => key,
        Err(reason) => return Known::NotAdmitted(reason),
    };
    match setup.verdicts.known(key, clock::moment()) {
        None => Known::Unasked,
        Some(verdict) => match &verdict.said {
            Said::Admitted(_) => Known::Admitted(verdict),
            Said::NotAdmitted(reason) => Known::NotAdmitted(*reason),
        },
    }
}

/// Asks the upstream, or verifies the token. `Err` says why this client is not admitted, or why what was said cannot be
/// kept.
pub async fn ask(setup: &Setup, served: &Served, client: &Client) -> Result<(), Reason> {
    let Some(secret) = setup.coherence.store().secret() else {
        return Err(Reason::StoreAway);
    };
    let key = key(setup, served, client, &secret)?;
    let question = async {
        let verdict = judge(setup, served, client, &secret).await;
        COUNTED.verdicts.count([match &verdict.said {
            Said::Admitted(_) => "admitted",
            Said::NotAdmitted(reason) => reason.word(),
        }]);
        verdict
    };
    match &setup.verdicts.ask(key, question).await.said {
        Said::Admitted(_) => Ok(()),
        Said::NotAdmitted(reason) => Err(*reason),
    }
}

/// What is said of this client, which nobody keeps.
pub async fn judge(
    setup: &Setup,
    served: &Served,
    client: &Client,
    secret: &HashingSecret,
) -> Verdict {
    match (&served.route.access, &served.keys) {
        (Access::Verify(verify), _) => by_upstream(setup, verify, client, secret).await,
        (Access::Jwt(jwt), Some(keys)) => by_token(setup, jwt, keys, client, secret).await,
        _ => not_admitted(Reason::JwtRefused),
    }
}

/// Whether it counts still, for who has waited since.
pub async fn still(setup: &Setup, verdict: &Verdict) -> bool {
    // No copy is wanted.
    let nothing = format!("{}:~none", setup.config.store.prefix);
    let admitted = setup.coherence.is_admitted(&nothing, &verdict.epochs);
    let counts = admitted.await;
    counts && verdict.is_in_time(clock::moment())
}

/// The credential was revoked since: nobody is admitted by this verdict any more.
pub fn forget(setup: &Setup, served: &Served, client: &Client, verdict: &Arc<Verdict>) {
    if let Some(secret) = setup.coherence.store().secret()
        && let Ok(key) = key(setup, served, client, &secret)
    {
        setup.verdicts.forget(key, verdict);
    }
}

/// Nothing of it is kept: the next one tries again.
fn not_admitted(reason: Reason) -> Verdict {
    Verdict {
        said: Said::NotAdmitted(reason),
        epochs: Epochs::new(),
        good: Good::Once,
    }
}

/// The epochs of the credential's states, to be had before anything is said: what is said afterwards is not older. And,
/// after them, that the secret that names these states is still that of all instances.
async fn epochs(setup: &Setup, client: &Client, secret: &HashingSecret) -> Result<Epochs, Reason> {
    let mut states = credential::states(&setup.config, &client.fields, secret);
    if states.is_empty() {
        return Ok(Epochs::new());
    }
    states.push(StateKey::new(SECRET_STATE));
    let epochs = setup.coherence.open(&states).await?;
    match setup.coherence.store().confirm_secret().await {
        Ok(true) => Ok(epochs),
        Ok(false) | Err(Away) => Err(Reason::StoreAway),
    }
}

async fn by_upstream(
    setup: &Setup,
    verify: &Verify,
    client: &Client,
    secret: &HashingSecret,
) -> Verdict {
    // Or a write with it, spelt in another way, would not end what was said.
    if !credential::is_plain(&setup.config, &client.fields) {
        return not_admitted(Reason::VerifyFailed);
    }
    let asked = clock::stopwatch();
    let epochs = match epochs(setup, client, secret).await {
        Ok(epochs) => epochs,
        Err(reason) => return not_admitted(reason),
    };
    let said = said(setup, verify, client).await;
    // Of a credential that was made up nothing stays for long, unless the file says so.
    let hold = hold_for(setup.config.upstream.total);
    if matches!(said, Said::Admitted(_)) || verify.refusing > hold {
        setup.coherence.prolong(&epochs);
    }
    debug!(
        admitted = matches!(said, Said::Admitted(_)),
        path = verify.path,
        "asked whether to admit"
    );
    let lasting = verdict::lasting(verify, &said);
    Verdict {
        said,
        epochs,
        good: Good::For { asked, lasting },
    }
}

/// A token that is refused costs no more than looking at it: nothing is kept, so that nobody can fill the room for those
/// that are good.
async fn by_token(
    setup: &Setup,
    jwt: &Jwt,
    keys: &Arc<Keys>,
    client: &Client,
    secret: &HashingSecret,
) -> Verdict {
    keys.watch();
    let keys = keys.current();
    let (bytes, token) = match verified(&setup.config, jwt, &keys, client) {
        Ok(verified) => verified,
        Err(unverified) => {
            debug!(
                detail = unverified.reason.word(),
                why = unverified.why,
                "token not good"
            );
            return not_admitted(unverified.reason);
        }
    };
    let epochs = match epochs(setup, client, secret).await {
        Ok(epochs) => epochs,
        Err(reason) => return not_admitted(reason),
    };
    setup.coherence.prolong(&epochs);
    // After the epochs: whoever revokes it marks it first and drops the epoch then, so one of the two is seen.
    let mark = revoked_token(secret, token::signed(bytes).unwrap_or(bytes));
    match setup.coherence.store().is_marked(&mark).await {
        Ok(false) => Verdict {
            said: Said::Admitted(token.scope),
            epochs,
            good: Good::Until {
                expires: token.expires,
                keys,
            },
        },
        // Kept, so that this instance refuses it even if the store forgets.
        Ok(true) => Verdict {
            said: Said::NotAdmitted(Reason::JwtRevoked),
            epochs,
            good: Good::Until {
                expires: token.expires,
                keys,
            },
        },
        Err(_) => not_admitted(Reason::StoreAway),
    }
}

/// What is said by the token alone, for who explains: whether it was revoked only the store knows. `None`: the route goes
/// by no token.
pub fn by_its_token(
    config: &Config,
    served: &Served,
    client: &Client,
) -> Option<Result<Verdict, token::Unverified>> {
    let Access::Jwt(jwt) = &served.route.access else {
        return None;
    };
    // One without keys was made for explaining.
    let own = || Arc::new(Keys::new(&jwt.keys));
    let keys = served.keys.clone().unwrap_or_else(own).current();
    let verified = verified(config, jwt, &keys, client);
    Some(verified.map(|(_, token)| Verdict {
        said: Said::Admitted(token.scope),
        epochs: Epochs::new(),
        good: Good::Until {
            expires: token.expires,
            keys,
        },
    }))
}

/// The client's token, and what it says if it is good.
pub fn verified<'c>(
    config: &'c Config,
    jwt: &Jwt,
    keys: &KeySet,
    client: &'c Client,
) -> Result<(&'c [u8], token::Token), token::Unverified> {
    let bytes = token::bearer(config, &client.fields)?;
    let token = token::verify(jwt, keys, bytes, clock::now())?;
    Ok((bytes, token))
}

/// A write with a credential may be a logout or a new password: it holds the credential's states, too.
pub fn with_credential(setup: &Setup, client: &Client, plan: Plan) -> Plan {
    if client.method.is_safe() || !is_used(&setup.config) {
        return plan;
    }
    let secret = setup.coherence.store().secret();
    with_credential_by(&setup.config, secret.as_ref(), client, plan)
}

/// The same by another configuration.
pub fn with_credential_by(
    config: &Config,
    secret: Option<&HashingSecret>,
    client: &Client,
    plan: Plan,
) -> Plan {
    let Some(secret) = secret.filter(|_| !client.method.is_safe() && is_used(config)) else {
        return plan;
    };
    let own = credential::states(config, &client.fields, secret);
    match plan {
        plan if own.is_empty() => plan,
        Plan::Pass { .. } => Plan::Write {
            states: own.into_vec(),
            word: Word::nobodys(),
        },
        Plan::Write { mut states, word } => {
            states.extend(own);
            Plan::Write { states, word }
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
    match ask_upstream(setup, verify, client).await {
        Ok((status, _)) if !status.is_success() => Said::NotAdmitted(Reason::VerifyRefused),
        Ok((_, Some(scope))) => Said::Admitted(scope),
        Ok((_, None)) | Err(_) => Said::NotAdmitted(Reason::VerifyFailed),
    }
}

/// The status of the answer and, of a 2xx, the scope, if it can be read.
pub async fn ask_upstream(
    setup: &Setup,
    verify: &Verify,
    client: &Client,
) -> Result<(StatusCode, Option<Scope>), UpstreamFailure> {
    let response = answer(setup, verify, client).await?;
    let status = response.status();
    let scope = match (status.is_success(), verify.scope.is_empty()) {
        (false, _) => None,
        (true, true) => Some(Scope::default()),
        (true, false) => scope(setup, verify, response).await,
    };
    Ok((status, scope))
}

async fn answer(
    setup: &Setup,
    verify: &Verify,
    client: &Client,
) -> Result<Response<UpstreamBody>, UpstreamFailure> {
    let outgoing = present::question(&setup.config, client, &verify.path);
    let slot = setup.upstream.slot(client.asker(&setup.config)).await?;
    setup.upstream.send(slot, outgoing).await
}

/// A scope that cannot be read admits nobody: it would be anybody's.
async fn scope(setup: &Setup, verify: &Verify, response: Response<UpstreamBody>) -> Option<Scope> {
    let body = Limited::new(response.into_body(), LARGEST).collect();
    let body = tokio::time::timeout(setup.upstream.settings().total, body);
    let body = body.await.ok()?.ok()?.to_bytes();
    Scope::of(&verify.scope, &body)
}

/// By which a verdict on this client is known; or why there can be none.
fn key(
    setup: &Setup,
    served: &Served,
    client: &Client,
    secret: &HashingSecret,
) -> Result<VerdictKey, Reason> {
    let config = &setup.config;
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    let mut piece = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match &served.route.access {
        Access::Verify(verify) => {
            if credential::parts(config, &client.fields).count() > credential::MOST {
                return Err(Reason::VerifyFailed);
            }
            piece(b"larder verdict");
            piece(verify.path.as_bytes());
            // What was said counts on another route for as long as that says.
            for lasting in [verify.lasting, verify.refusing] {
                piece(&lasting.as_nanos().to_le_bytes());
            }
            for pointer in &verify.scope {
                piece(pointer.as_bytes());
            }
            piece(b"of");
            piece(present::origin(config, client).as_bytes());
            for (name, value) in credential::parts(config, &client.fields) {
                piece(name.as_bytes());
                piece(value);
            }
        }
        Access::Jwt(jwt) => {
            let token = token::bearer(config, &client.fields).map_err(|why| why.reason)?;
            piece(b"larder token");
            // What is good on one route is not on another with other rules.
            let same =
                |route: &&Served| matches!(&route.route.access, Access::Jwt(other) if other == jwt);
            let first = setup.served.iter().position(|other| same(&other));
            piece(&first.unwrap_or_default().to_le_bytes());
            piece(token);
        }
        Access::PerCredential | Access::Public => return Err(Reason::VerifyFailed),
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    Ok(VerdictKey(u128::from_be_bytes(hash)))
}
