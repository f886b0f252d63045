//! A request's token, verified here: `access: {jwt: …}`. RFC 7519, RFC 8725. No I/O and no clock.
//! What cannot be verified is nobody's: it goes upstream, which decides.

use http::header::{self, HeaderMap};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::Value;

use super::credential;
use super::keys::KeySet;
use super::signature;
use super::verdict::Scope;
use crate::caching::cache_status::Reason;
use crate::clock::Timestamp;
use crate::config::{Config, Jwt};

/// What a token that is good says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// From then on it is good no more.
    pub expires: Timestamp,
    pub scope: Scope,
}

/// Why a request is not given a shared copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unverified {
    pub reason: Reason,
    /// In words, and never with a part of the token.
    pub why: &'static str,
}

const fn refused(why: &'static str) -> Unverified {
    Unverified {
        reason: Reason::JwtRefused,
        why,
    }
}

/// The token of a request: `Authorization: Bearer …`, and no other credential beside it, for the API might go by that one.
pub fn bearer<'f>(config: &'f Config, fields: &'f HeaderMap) -> Result<&'f [u8], Unverified> {
    let mut parts = credential::parts(config, fields);
    let absent = Unverified {
        reason: Reason::JwtAbsent,
        why: "it carries no `Authorization: Bearer …`",
    };
    let token = match parts.next() {
        Some((name, value)) if name == header::AUTHORIZATION.as_str() => {
            of_line(value).ok_or(absent)?
        }
        _ => return Err(absent),
    };
    match parts.next() {
        None => Ok(token),
        Some(_) => Err(Unverified {
            reason: Reason::JwtMixed,
            why: "it carries another credential beside the token, by which the API might go",
        }),
    }
}

/// RFC 6750 §2.1; the API may be content with any blanks.
pub fn of_line(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(6)?;
    let token = token.strip_prefix(b" ").or(token.strip_prefix(b"\t"))?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// Of a signed token whatever is signed, to the letter: its signature may be spelt, and by ECDSA made, in another way.
pub fn signed(token: &[u8]) -> Option<&[u8]> {
    let last = token.iter().rposition(|&b| b == b'.')?;
    let signed = &token[..last];
    signed.contains(&b'.').then_some(signed)
}

/// Signature, issuer, audience, time and kind, in this order.
pub fn verify(jwt: &Jwt, keys: &KeySet, token: &[u8], now: Timestamp) -> Result<Token, Unverified> {
    signature::provide();
    let header = decode_header(token)
        .map_err(|_| refused("it is no token of three parts with an algorithm that is known"))?;
    if header.crit.is_some() {
        return Err(refused(
            "its header demands (`crit`) what is not known here",
        ));
    }
    if !jwt.algorithms.contains(&header.alg) {
        return Err(refused("its algorithm is none of `algorithms`"));
    }
    let key = keys
        .choose(header.alg, header.kid.as_deref())
        .ok_or(refused("no key fits its `alg` and `kid`"))?;
    let decoded = decode::<Value>(token, key, &validation(jwt, header.alg));
    let claims = decoded.map_err(|error| refused(because(&error)))?.claims;
    let expires = claims
        .get("exp")
        .and_then(seconds)
        .ok_or(refused("it does not say until when it is good (`exp`)"))?;
    if now >= expires {
        return Err(Unverified {
            reason: Reason::JwtExpired,
            why: "its time is over (`exp`)",
        });
    }
    if let Some(from) = claims.get("nbf") {
        let from = seconds(from).ok_or(refused("its `nbf` is no time"))?;
        if now.plus(jwt.leeway) < from {
            return Err(refused("its time has not come (`nbf`)"));
        }
    }
    if is_for_renewal(&claims) {
        return Err(refused(
            "it says that it is for renewing others (`refresh`), and not for asking",
        ));
    }
    let scope = Scope::at(&jwt.scope, &claims).ok_or(refused(
        "a number in its `scope` is no whole one of 64 bits, and could not be told from others",
    ))?;
    Ok(Token { expires, scope })
}

/// Whether it is a refresh token, which an issuer may sign by the same key and for much longer: SimpleJWT, allauth, Keycloak and
/// Flask-JWT-Extended each say so in another claim. RFC 8725 §3.12: whoever takes tokens of one kind refuses the others.
fn is_for_renewal(claims: &Value) -> bool {
    let kinds = ["token_type", "token_use", "typ", "type"];
    let mut kinds = kinds.iter().filter_map(|name| claims.get(name)?.as_str());
    kinds.any(|kind| {
        let renews = |word: &&str| kind.eq_ignore_ascii_case(word);
        ["refresh", "offline"].iter().any(renews)
    })
}

/// Until when a token says that it is good, whether or not it is to be believed.
pub fn claimed_end(token: &[u8]) -> Option<Timestamp> {
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    claims.get("exp").and_then(seconds)
}

/// Times are judged here, by our own clock and to the second.
fn validation(jwt: &Jwt, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    // What is asked for must be there.
    if !jwt.audience.is_empty() {
        validation.set_audience(&jwt.audience);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    if !jwt.issuer.is_empty() {
        validation.set_issuer(&jwt.issuer);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    validation
}

fn because(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind as K;
    match error.kind() {
        K::InvalidSignature => "its signature is not by the key",
        K::InvalidIssuer => "its `iss` is none of `issuer`",
        K::InvalidAudience => {
            "its `aud` is none of `audience` (or it has one, and the route names none)"
        }
        K::MissingRequiredClaim(claim) if claim == "iss" => "it does not say who issued it (`iss`)",
        K::MissingRequiredClaim(_) => "it does not say for whom it is (`aud`)",
        _ => "it cannot be read",
    }
}

/// A NumericDate, its fraction left off: RFC 7519 §2.
fn seconds(value: &Value) -> Option<Timestamp> {
    let seconds = match value.as_u64() {
        Some(seconds) => seconds,
        None => {
            let number = value
                .as_f64()
                .filter(|number| (0.0..1e15).contains(number))?;
            number as u64
        }
    };
    Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000)))
}
