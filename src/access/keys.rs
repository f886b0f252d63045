//! The keys by which tokens are verified: a secret, a public key in PEM, or a set of them (JWKS, RFC 7517). Pure.

use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};

/// What they were made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Secret,
    Pem,
    Jwks,
}

/// The keys of one moment. A verdict holds those that made it, and is good only while they are the ones in use.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
    replaced: AtomicBool,
}

struct Key {
    /// Of a JWKS alone; elsewhere there is one key, whatever a token calls it.
    id: Option<String>,
    /// What it says itself that it is for.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl KeySet {
    /// `Err` says what is wrong, and never quotes.
    pub fn read(form: Form, bytes: &[u8]) -> Result<KeySet, &'static str> {
        let keys = match form {
            Form::Secret => vec![only(DecodingKey::from_secret(bytes))],
            Form::Pem => vec![only(pem(bytes)?)],
            Form::Jwks => jwks(bytes)?,
        };
        Ok(KeySet {
            keys,
            replaced: AtomicBool::new(false),
        })
    }

    /// The key for a token that names this algorithm and, perhaps, a key.
    pub fn choose(&self, algorithm: Algorithm, id: Option<&str>) -> Option<&DecodingKey> {
        let fits = |key: &&Key| {
            key.key.family() == algorithm.family()
                && key.algorithm.is_none_or(|own| own == algorithm)
                && (key.id.is_none() || id.is_none() || key.id.as_deref() == id)
        };
        let mut fitting = self.keys.iter().filter(fits);
        let first = fitting.next()?;
        // Who names none may mean only one.
        let is_named = id.is_some() && first.id.is_some();
        (is_named || fitting.next().is_none()).then_some(&first.key)
    }

    pub fn families(&self) -> Vec<AlgorithmFamily> {
        self.keys.iter().map(|key| key.key.family()).collect()
    }

    /// For people: `RS256 2026-01`, without the keys.
    pub fn names(&self) -> Vec<String> {
        let name = |key: &Key| {
            let kind = match (key.algorithm, key.key.family()) {
                (Some(algorithm), _) => format!("{algorithm:?}"),
                (None, AlgorithmFamily::Hmac) => "HMAC".to_owned(),
                (None, AlgorithmFamily::Rsa) => "RSA".to_owned(),
                (None, AlgorithmFamily::Ec) => "EC".to_owned(),
                (None, AlgorithmFamily::Ed) => "Ed25519".to_owned(),
            };
            key.id
                .as_ref()
                .map_or(kind.clone(), |id| format!("{kind} {id}"))
        };
        self.keys.iter().map(name).collect()
    }

    /// Others have taken their place: nothing that they said counts any more.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }
}

fn only(key: DecodingKey) -> Key {
    Key {
        id: None,
        algorithm: None,
        key,
    }
}

fn pem(bytes: &[u8]) -> Result<DecodingKey, &'static str> {
    let has = |mark: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
    if has(b"PRIVATE KEY-----") {
        return Err("it holds a private key, which only who issues tokens may have");
    }
    if !has(b"-----BEGIN PUBLIC KEY-----") && !has(b"-----BEGIN RSA PUBLIC KEY-----") {
        return Err("it holds no public key in PEM");
    }
    let key = DecodingKey::from_rsa_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_ed_pem(bytes))
        .map_err(|_| "its public key is none of RSA, P-256, P-384 and Ed25519")?;
    is_strong(&key).then_some(key).ok_or(WEAK)
}

const WEAK: &str = "its key is none of RSA from 2048 bits on, P-256, P-384 and Ed25519";

/// Whether ring takes a key of this size; RFC 7518 §3.3 has the same bound for RSA.
fn is_strong(key: &DecodingKey) -> bool {
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, .. }) => n.len() >= 256,
        (AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => der.len() > 256,
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => {
            matches!(point.len(), 65 | 97) && point[0] == 4
        }
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => point.len() == 32,
        _ => false,
    }
}

fn jwks(bytes: &[u8]) -> Result<Vec<Key>, &'static str> {
    let set: JwkSet =
        serde_json::from_slice(bytes).map_err(|_| "it is no JWKS (`{\"keys\": […]}`)")?;
    let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
    match keys.is_empty() {
        true => Err(
            "its JWKS has no public key for signatures (RSA from 2048 bits on, P-256, P-384, Ed25519)",
        ),
        false => Ok(keys),
    }
}

/// What else a set holds (for encryption, of a kind not known here, a secret that should not be there) is left alone.
fn usable(jwk: &Jwk) -> Option<Key> {
    let is_for_signatures = match &jwk.common.public_key_use {
        None | Some(PublicKeyUse::Signature) => true,
        Some(_) => false,
    };
    let is_public = !matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
    if !is_for_signatures || !is_public {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok().filter(is_strong)?;
    let algorithm = match jwk.common.key_algorithm {
        None => None,
        Some(named) => Some(algorithm(named)?),
    };
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithm,
        key,
    })
}

fn algorithm(named: KeyAlgorithm) -> Option<Algorithm> {
    Algorithm::try_from(named).ok()
}
