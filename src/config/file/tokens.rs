//! `access: {jwt: {…}}`: which tokens are good, and by which keys. The keys are read here, so that what is wrong with
//! them is told before a port opens.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::Reader;
use super::mirror::{JwtMap, Text};
use super::place::At;
use super::problem::{Problem, Wrong, wrong};
use crate::access::key_file;
use crate::config::nearest::nearest;
use crate::config::{Jwt, KeySource, Secret};

const NAMES: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

/// Fewer bytes can be guessed: RFC 7518 §3.2.
const LEAST: usize = 32;

impl Reader<'_> {
    pub(super) fn jwt(&self, at: &At, map: JwtMap, scope: Vec<String>) -> Option<Jwt> {
        let written: Vec<&'static str> = [
            ("secret", map.secret.is_some()),
            ("key_file", map.key_file.is_some()),
            ("jwks_file", map.jwks_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, written)| written.then_some(name))
        .collect();
        // Read in any case, so that no message tells it.
        let secret = self.secret_of(at, map.secret);
        let keys = match written.as_slice() {
            [] => {
                let cause = "there is no key to verify a token by";
                let help = "add one of `secret: ${JWT_KEY}`, `key_file: public.pem` and `jwks_file: jwks.json`";
                self.complain(Problem::at(at, cause, help));
                None
            }
            [_] => secret
                .or_else(|| self.file_of(&at.key("key_file"), map.key_file, KeySource::Pem))
                .or_else(|| self.file_of(&at.key("jwks_file"), map.jwks_file, KeySource::Jwks)),
            [first, second, ..] => {
                let cause = format!("a token is verified by one of `{first}` and `{second}`");
                let other = at.key(first);
                self.complain(
                    Problem::at(&at.key(second), cause, "leave one of the two").beside(&other),
                );
                None
            }
        };
        let by_secret = written == ["secret"];
        let default: &[&str] = match by_secret {
            true => &["HS256"],
            // The key itself says which of them it is for.
            false => &NAMES[3..],
        };
        let algorithms = self.texts(&at.key("algorithms"), map.algorithms, default, |text| {
            let named = algorithm(text)?;
            match (named.family() == AlgorithmFamily::Hmac, by_secret) {
                (true, false) => Err(wrong(
                    format!("`{text}` goes by a secret, and here are public keys: whoever has them could make tokens"),
                    "leave it out, or write `secret:` in place of the file",
                )),
                (false, true) => Err(wrong(
                    format!("`{text}` goes by a public key, and here is a secret"),
                    "leave it out, or name a `key_file` or `jwks_file` in place of `secret`",
                )),
                _ => Ok(named),
            }
        });
        let names = |key: &'static str, texts| {
            self.texts(&at.key(key), texts, &[], |text| match text {
                "" => Err(wrong("this is empty", "leave the key out for any")),
                text => Ok(text.to_owned()),
            })
        };
        let (issuer, audience) = (names("issuer", map.issuer), names("audience", map.audience));
        let hour = Duration::from_secs(3600);
        let leeway = self.duration(
            &at.key("leeway"),
            map.leeway,
            Duration::ZERO,
            Duration::ZERO..=hour,
        );
        Some(Jwt {
            keys: keys?,
            algorithms,
            issuer,
            audience,
            leeway,
            scope,
        })
    }

    fn secret_of(&self, at: &At, text: Option<Text>) -> Option<KeySource> {
        let help =
            "let who issues tokens sign with a longer one, as `openssl rand -hex 32` writes it";
        let secret = self.long_secret(&at.key("secret"), text, help);
        secret.map(KeySource::Secret)
    }

    pub(super) fn long_secret(&self, at: &At, text: Option<Text>, help: &str) -> Option<Secret> {
        let value = self.fill(at, &text?)?;
        self.source.keep_secret(&value.text);
        if value.text.len() < LEAST {
            let cause = format!("the secret has fewer than {LEAST} bytes, and so can be guessed");
            self.complain(Problem::with(&value, wrong(cause, help)));
            return None;
        }
        Some(Secret::new(value.text))
    }

    fn file_of(
        &self,
        at: &At,
        text: Option<Text>,
        make: fn(PathBuf) -> KeySource,
    ) -> Option<KeySource> {
        self.optional(at, text, |text| {
            let source = make(PathBuf::from(text));
            let help = match &source {
                KeySource::Jwks(_) => "name a file with a JWKS, as who issues tokens publishes it",
                _ => "name a file with one public key in PEM, which begins with `-----BEGIN PUBLIC KEY-----` (`openssl pkey -pubout`, `openssl x509 -pubkey -noout`)",
            };
            match key_file::read(&source) {
                Ok(_) => Ok(source),
                Err(why) if why.starts_with("cannot be read") => {
                    Err(wrong(format!("`{text}` {why}"), help))
                }
                Err(why) => Err(wrong(format!("`{text}` is of no use: {why}"), help)),
            }
        })
    }
}

fn algorithm(text: &str) -> Result<Algorithm, Wrong> {
    if let Some(name) = NAMES.iter().find(|name| **name == text) {
        return name.parse().map_err(|_| wrong("this is not known", ""));
    }
    let help = match (text, nearest(text, NAMES)) {
        ("none", _) => "a token without a signature is anybody's: leave it out".to_owned(),
        (_, Some(meant)) => format!("did you mean `{meant}`?"),
        (_, None) => format!("choose from {}", NAMES.join(", ")),
    };
    Err(wrong(format!("`{text}` is no algorithm known here"), help))
}
