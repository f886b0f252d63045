//! Who issues tokens: a secret or a key pair, and what it signs.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

pub struct Issuer {
    pub algorithm: &'static str,
    /// What a token calls its key, if it does.
    pub key_id: Option<String>,
    key: Key,
}

enum Key {
    Secret(Vec<u8>),
    P256(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl Issuer {
    pub fn secret(secret: impl AsRef<[u8]>) -> Issuer {
        Issuer::of("HS256", Key::Secret(secret.as_ref().to_vec()))
    }

    pub fn p256() -> Issuer {
        let (scheme, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let made = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(scheme, made.as_ref(), &random).unwrap();
        Issuer::of("ES256", Key::P256(Box::new(pair)))
    }

    pub fn ed() -> Issuer {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap();
        Issuer::of("EdDSA", Key::Ed(Box::new(pair)))
    }

    /// The one of `tests/keys`, as ring makes none.
    pub fn rsa() -> Issuer {
        let text = include_str!("../keys/rsa.pem");
        let lines: String = text.lines().filter(|line| !line.contains('-')).collect();
        let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(lines).unwrap()).unwrap();
        Issuer::of("RS256", Key::Rsa(Box::new(pair)))
    }

    fn of(algorithm: &'static str, key: Key) -> Issuer {
        Issuer {
            algorithm,
            key_id: None,
            key,
        }
    }

    /// With the other padding.
    pub fn signing(mut self, algorithm: &'static str) -> Issuer {
        self.algorithm = algorithm;
        self
    }

    pub fn named(mut self, id: &str) -> Issuer {
        self.key_id = Some(id.to_owned());
        self
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let mut header = json!({"alg": self.algorithm, "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        self.signed(&header.to_string(), &claims.to_string())
    }

    /// With any header, by whatever it says it was signed.
    pub fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signature = match &self.key {
            Key::Secret(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, bytes).as_ref().to_vec()
            }
            Key::P256(pair) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let scheme: &dyn ring::signature::RsaEncoding = match self.algorithm {
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                pair.sign(scheme, &random, bytes, &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// As it stands in a JWKS. A secret's, too, as some publish it.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
            Key::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            Key::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
            Key::Rsa(pair) => {
                let public =
                    ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
        };
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm);
        if let Some(id) = &self.key_id {
            jwk["kid"] = json!(id);
        }
        jwk
    }

    /// The public key in PEM.
    pub fn pem(&self) -> String {
        // SubjectPublicKeyInfo up to the key itself.
        let (before, key, tag): (&[u8], &[u8], &str) = match &self.key {
            Key::P256(pair) => (
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
                pair.public_key().as_ref(),
                "PUBLIC KEY",
            ),
            Key::Ed(pair) => (
                b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
                pair.public_key().as_ref(),
                "PUBLIC KEY",
            ),
            Key::Rsa(pair) => (b"", pair.public_key().as_ref(), "RSA PUBLIC KEY"),
            Key::Secret(_) => panic!("a secret has no public key"),
        };
        let lines = STANDARD.encode([before, key].concat());
        let lines: Vec<&str> = (0..lines.len())
            .step_by(64)
            .map(|from| &lines[from..lines.len().min(from + 64)])
            .collect();
        format!(
            "-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n",
            lines.join("\n")
        )
    }
}

pub fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Seconds since 1970, so many from now.
pub fn from_now(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs() as i64 + seconds
}
