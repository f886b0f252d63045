//! The key of a copy: its family, and what splits the family. RFC 9111 §2, §4.1.
//! The family's own key holds the shared copy: anonymous or public, no query, JSON. Every other copy has
//! a suffix, `~` and 128 bits of a keyed hash over what splits it, so that no query, token or cookie can
//! be read off a key nor guessed at by whoever can read the store.

use http::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::Secret;
use crate::route::{FamilyKey, GroupKey};

/// The deployment's own secret: all its instances share it, nobody else has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashingSecret(pub [u8; 32]);

impl HashingSecret {
    pub fn random() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has random bits");
        HashingSecret(secret)
    }

    /// Of the words that the operator has given to all instances.
    pub fn of(words: &Secret) -> Self {
        HashingSecret(blake3::derive_key(
            "larder 2026-11 hashing secret",
            words.expose().as_bytes(),
        ))
    }

    /// By which it is known, and from which it cannot be had.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::keyed_hash(&self.0, b"larder fingerprint of this secret");
        hash.to_hex()[..32].to_owned()
    }

    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut secret = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (n, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
        }
        Some(HashingSecret(secret))
    }
}

/// The state on which every verdict depends: dropped by whoever puts another secret in the place of ours.
pub const SECRET_STATE: &str = "~secret~all";

/// Gathers what splits a family, each part with its kind, how many pieces it has and their lengths, so that no two sets of
/// parts read alike.
#[derive(Clone)]
pub struct CopyKey<'s> {
    secret: &'s HashingSecret,
    hasher: Option<blake3::Hasher>,
    told: Option<Vec<Split>>,
}

/// One thing that sets a copy apart, by its name and never with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Split {
    Credential(HeaderName),
    Cookie(String),
    Query,
    Accept,
    Field(HeaderName),
    /// A value of the verify answer or of a token's claims, by its pointer.
    Scope(String),
}

#[derive(Clone, Copy)]
enum Part {
    Credential = 1,
    Cookie = 2,
    Query = 3,
    Accept = 4,
    Field = 5,
    Uri = 6,
    Language = 7,
    Partial = 8,
    Scope = 10,
    /// Not 9: by that, older versions kept variants by what their clients had said.
    Selecting = 11,
}

impl<'s> CopyKey<'s> {
    pub fn new(secret: &'s HashingSecret) -> Self {
        CopyKey {
            secret,
            hasher: None,
            told: None,
        }
    }

    /// One that also keeps the names of what it is given.
    pub fn telling(secret: &'s HashingSecret) -> Self {
        CopyKey {
            told: Some(Vec::new()),
            ..CopyKey::new(secret)
        }
    }

    pub fn told(self) -> Vec<Split> {
        self.told.unwrap_or_default()
    }

    fn tell(&mut self, split: impl FnOnce() -> Split) {
        if let Some(told) = &mut self.told {
            let split = split();
            if !told.contains(&split) {
                told.push(split);
            }
        }
    }

    pub fn credential(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.part(
            Part::Credential,
            &[name.as_str().as_bytes(), value.as_bytes()],
        );
        self.tell(|| Split::Credential(name.clone()));
    }

    pub fn cookie(&mut self, pair: &[u8]) {
        self.part(Part::Cookie, &[pair]);
        self.tell(|| {
            let name = pair.split(|&b| b == b'=').next().unwrap_or_default();
            // Without a `=` it may be all value.
            let name = if pair.contains(&b'=') { name } else { b"" };
            Split::Cookie(String::from_utf8_lossy(name.trim_ascii()).into_owned())
        });
    }

    /// What the upstream, or its token, says of the client at this pointer; an absent value is one of its own.
    pub fn scope(&mut self, pointer: &str, value: Option<&str>) {
        let pieces = [pointer, value.unwrap_or_default()].map(str::as_bytes);
        self.part(Part::Scope, &pieces[..1 + usize::from(value.is_some())]);
        self.tell(|| Split::Scope(pointer.to_owned()));
    }

    /// The canonical query; an absent one splits nothing.
    pub fn query(&mut self, query: &str) {
        self.part(Part::Query, &[query.as_bytes()]);
        self.tell(|| Split::Query);
    }

    pub fn accept(&mut self, accept: &str) {
        self.part(Part::Accept, &[accept.as_bytes()]);
        self.tell(|| Split::Accept);
    }

    /// A field that Vary or the route names. Absent matches only absent (RFC 9111 §4.1): absent adds no part.
    pub fn field<'v>(&mut self, name: &HeaderName, values: impl Iterator<Item = &'v HeaderValue>) {
        for value in values {
            self.part(Part::Field, &[name.as_str().as_bytes(), value.as_bytes()]);
            self.tell(|| Split::Field(name.clone()));
        }
    }

    /// Under `policy: http`: the whole target, to the letter.
    pub fn uri(&mut self, origin: &str, path: &str, query: Option<&str>) {
        let pieces = [origin, path, query.unwrap_or_default()].map(str::as_bytes);
        self.part(Part::Uri, &pieces[..2 + usize::from(query.is_some())]);
    }

    /// A field that the stored response nominates, there or not: never the key of what varies by nothing.
    pub fn selecting(&mut self, name: &HeaderName, value: Option<&[u8]>) {
        let pieces = [name.as_str().as_bytes(), value.unwrap_or_default()];
        self.part(Part::Selecting, &pieces[..1 + usize::from(value.is_some())]);
    }

    /// A response in this language, whatever else was accepted.
    pub fn language(&mut self, language: &str) {
        self.part(Part::Language, &[language.as_bytes()]);
    }

    /// A part of the representation (206), apart from the whole.
    pub fn partial(&mut self) {
        self.part(Part::Partial, &[]);
    }

    fn part(&mut self, part: Part, pieces: &[&[u8]]) {
        let hasher = self
            .hasher
            .get_or_insert_with(|| blake3::Hasher::new_keyed(&self.secret.0));
        hasher.update(&[part as u8, pieces.len() as u8]);
        for piece in pieces {
            hasher.update(&(piece.len() as u64).to_le_bytes());
            hasher.update(piece);
        }
    }

    /// The store's key for this copy.
    pub fn of(self, prefix: &str, family: &FamilyKey) -> String {
        use std::fmt::Write;
        let mut key = String::with_capacity(prefix.len() + family.as_str().len() + 34);
        key.push_str(prefix);
        key.push(':');
        key.push_str(family.as_str());
        if let Some(hasher) = self.hasher {
            let mut hash = [0; 16];
            hasher.finalize_xof().fill(&mut hash);
            let _ = write!(key, "~{:032x}", u128::from_be_bytes(hash));
        }
        key
    }
}

/// The name of a family's state, below the prefix.
pub fn family_state(family: &str) -> String {
    [family, "~state"].concat()
}

/// The name of the state of what one part of a credential means, below the prefix.
pub fn credential_state(secret: &HashingSecret, name: &str, value: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    for piece in [b"larder credential", name.as_bytes(), value] {
        hasher.update(&(piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    format!("{OF_A_CREDENTIAL}{:032x}~state", u128::from_be_bytes(hash))
}

const OF_A_CREDENTIAL: &str = "~credential:";

/// Whether a state of this name is of a credential.
pub fn is_of_a_credential(state: &str) -> bool {
    state.starts_with(OF_A_CREDENTIAL)
}

/// The name of the state on which every copy depends that is given by a verify path's word: under another `access`
/// what stands at the same key is another copy.
pub fn admission_state(path: &str) -> String {
    format!(
        "~verify:{}~all",
        utf8_percent_encode(path, NON_ALPHANUMERIC)
    )
}

/// The same, for those whose token is by one of these issuers and for one of these audiences.
pub fn token_state(issuer: &[String], audience: &[String]) -> String {
    let encoded = |names: &[String]| {
        let names = names
            .iter()
            .map(|name| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string());
        names.collect::<Vec<_>>().join(",")
    };
    format!("~jwt:{}:{}~all", encoded(issuer), encoded(audience))
}

/// The name under which it is kept that a token was revoked, below the prefix; by what of it is signed.
pub fn revoked_token(secret: &HashingSecret, signed: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    for piece in [&b"larder revoked token"[..], signed] {
        hasher.update(&(piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    format!("~revoked:{:032x}", u128::from_be_bytes(hash))
}

/// The name of the state that all families of a group share.
pub fn group_state(group: &GroupKey) -> String {
    format!("{}~all", group.as_str())
}

/// The name of the state of a cache group (RFC 9875 §2), which is one of its origin alone.
pub fn cache_group_state(origin: &str, group: &str) -> String {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    format!("~group:{}:{}", encoded(origin), encoded(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    const SECRET: HashingSecret = HashingSecret([7; 32]);

    fn key(split: impl FnOnce(&mut CopyKey)) -> String {
        let template = crate::route::KeyTemplate::parse("users:list").unwrap();
        let family = template.family(&Default::default()).unwrap();
        let mut copy = CopyKey::new(&SECRET);
        split(&mut copy);
        copy.of("it360acad", &family)
    }

    #[test]
    fn the_shared_copy_is_at_the_familys_own_key() {
        assert_eq!(key(|_| ()), "it360acad:users:list");
    }

    #[test]
    fn whatever_splits_the_family_makes_another_key_that_tells_nothing() {
        let token = HeaderValue::from_static("Token abc");
        let keys = [
            key(|_| ()),
            key(|k| k.query("a=1")),
            key(|k| k.accept("a=1")),
            key(|k| k.cookie(b"a=1")),
            key(|k| k.credential(&header::AUTHORIZATION, &token)),
            key(|k| k.field(&header::ORIGIN, [&token].into_iter())),
            key(|k| {
                k.query("a");
                k.query("=1")
            }),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(
                i == 0 || (a.len() == "it360acad:users:list~".len() + 32 && a.contains("list~")),
                "{a}"
            );
            assert!(keys.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn a_scope_that_is_absent_and_one_that_reads_like_what_follows_are_two_keys() {
        let (first, second) = ("x".repeat(119), "y".repeat(120));
        // The bytes that followed the pointer, had its pieces not been counted.
        let part = |kind: u8, piece: &str| {
            let length = (piece.len() as u64).to_le_bytes();
            [&[kind][..], &length, piece.as_bytes()].concat()
        };
        let follows = [part(3, "q"), part(4, &first), part(4, &second)].concat();
        let (length, value) = follows.split_at(8);
        assert_eq!(
            u64::from_le_bytes(length.try_into().unwrap()),
            value.len() as u64
        );
        let value = std::str::from_utf8(value).unwrap();
        let absent = key(|k| {
            k.scope("/role", None);
            k.query("q");
            k.accept(&first);
            k.accept(&second);
        });
        assert_ne!(absent, key(|k| k.scope("/role", Some(value))));
    }

    #[test]
    fn another_deployments_secret_makes_other_keys() {
        let template = crate::route::KeyTemplate::parse("users:list").unwrap();
        let family = template.family(&Default::default()).unwrap();
        let with = |secret| {
            let mut copy = CopyKey::new(secret);
            copy.query("a");
            copy.of("p", &family)
        };
        assert_ne!(with(&SECRET), with(&HashingSecret([8; 32])));
    }
}
