//! What a request's credential consists of, and the state in the store by which each part of it can be revoked. Pure.
//! A part is one line of Authorization or of a credential field, or one cookie. It is known to the store by a keyed
//! hash alone.
//!
//! The key of a copy or of a verdict holds a part as it is spelt. Its state is named by what it means: two spellings that some
//! server takes for one share a state, or whoever uses the one were not revoked by the other. That two credentials share one,
//! too, only ends more than was meant. What servers read in more than one way admits nobody.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{self, HeaderMap};
use percent_encoding::percent_decode;

use super::{cookies, is_ignored, token};
use crate::caching::key::{HashingSecret, credential_state};
use crate::coherence::{StateKey, States};
use crate::config::Config;

/// With and without its padding, and whatever the bits beyond the last byte are: as servers read it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// As many letters and digits as nobody guesses: what has fewer is not named by them alone, or who knows them could hold others'.
const UNGUESSED: usize = 20;

/// A request with more parts than this is given no verdict; a write with more revokes as many.
pub const MOST: usize = 32;

/// One part: the field's name, and its value or the cookie.
pub fn parts<'f>(
    config: &'f Config,
    fields: &'f HeaderMap,
) -> impl Iterator<Item = (&'f str, &'f [u8])> {
    let lines = std::iter::once(&header::AUTHORIZATION)
        .chain(&config.credential_headers)
        .flat_map(|name| {
            let values = fields.get_all(name).iter();
            values.map(|value| (name.as_str(), value.as_bytes()))
        });
    let cookies = cookies(fields)
        .filter(|cookie| !is_ignored(cookie, &config.ignore_cookies))
        .map(|cookie| (header::COOKIE.as_str(), cookie));
    lines.chain(cookies)
}

/// The states of its parts, of which `MOST` count. A write holds them, a purge drops them, a verdict depends on them.
pub fn states(config: &Config, fields: &HeaderMap, secret: &HashingSecret) -> States {
    let mut states = States::new();
    for (name, value) in parts(config, fields).take(MOST) {
        let as_it_is = || vec![(name.to_owned(), value.to_vec())];
        for (place, meaning) in meanings(name, value).unwrap_or_else(as_it_is) {
            let state = StateKey::new(credential_state(secret, &place, &meaning));
            if !states.contains(&state) {
                states.push(state);
            }
        }
    }
    states
}

/// Whether its states are those of whatever a server may find in it.
pub fn is_plain(config: &Config, fields: &HeaderMap) -> bool {
    let mut parts = parts(config, fields);
    parts.all(|(name, value)| meanings(name, value).is_some())
}

/// Where a part stands and what it says there, in each way that it may be taken. `None`: who reads it decides what that is.
fn meanings(name: &str, value: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let (place, said) = match name {
        "cookie" => of_cookie(value)?,
        "authorization" | "proxy-authorization" => match of_authorization(value)? {
            Said::Token(token) => (name.to_owned(), token),
            Said::Pair(pair) => return Some(of_a_pair(name, &pair)),
        },
        _ => (name.to_owned(), value.to_vec()),
    };
    Some(vec![of_a_token(&place, &said)])
}

/// Who has a signed token can often make another signature that is as good; and it is the same in a cookie.
fn of_a_token(place: &str, said: &[u8]) -> (String, Vec<u8>) {
    let signed = token::signed(said).map(plain);
    match signed.filter(|signed| signed.len() >= UNGUESSED) {
        Some(signed) => (String::new(), signed),
        None => (place.to_owned(), plain(said)),
    }
}

/// A user and a password. Some take the password for a token, whoever the user is; or the user, who then has none.
fn of_a_pair(place: &str, pair: &[u8]) -> Vec<(String, Vec<u8>)> {
    let colon = pair.iter().position(|&b| b == b':').unwrap_or(pair.len());
    let (user, password) = (&pair[..colon], pair.get(colon + 1..).unwrap_or_default());
    let token = if password.is_empty() { user } else { password };
    let mut all = vec![(["basic ", place].concat(), plain(pair))];
    if plain(token).len() >= UNGUESSED {
        all.push(of_a_token(place, token));
    }
    all
}

/// Without case, as databases compare, and without all that is neither letter nor digit, which servers drop or put for each
/// other: blanks, quotes, padding, the dashes of a UUID.
fn plain(text: &[u8]) -> Vec<u8> {
    let letters = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
    letters.map(u8::to_ascii_lowercase).collect()
}

enum Said {
    Token(Vec<u8>),
    /// As Basic has them: user, colon, password.
    Pair(Vec<u8>),
}

/// Whatever its scheme: some take `Bearer` for `Token`. Parameters (Digest, and any that is signed anew for each request) may
/// stand in any order, beside what is ignored.
fn of_authorization(line: &[u8]) -> Option<Said> {
    let line = line.trim_ascii();
    let blank = line.iter().position(u8::is_ascii_whitespace);
    let (scheme, said) = line.split_at(blank.unwrap_or_default());
    let said = said.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"basic") {
        return BASE64.decode(said).ok().map(Said::Pair);
    }
    // Rails has `Token token="…"`, too.
    let said = said.strip_prefix(b"token=").map_or(said, unquoted);
    let end = said.iter().rposition(|&b| b != b'=').map_or(0, |n| n + 1);
    let is_one = |byte: &u8| byte.is_ascii_graphic() && !b"\",;=".contains(byte);
    let said = said.to_vec();
    said[..end].iter().all(is_one).then_some(Said::Token(said))
}

/// As Python reads it (quotes, and what a backslash escapes), and as others do (percent). At a blank or a comma within, some see
/// another cookie begin.
fn of_cookie(cookie: &[u8]) -> Option<(String, Vec<u8>)> {
    let equals = cookie.iter().position(|&b| b == b'=');
    let (name, value) = cookie.split_at(equals.map_or(0, |at| at + 1));
    let name = name.strip_suffix(b"=").unwrap_or(name).trim_ascii();
    let value = value.trim_ascii();
    let ends = |&b: &u8| b == b',' || b.is_ascii_whitespace();
    if name.iter().chain(value).any(ends) {
        return None;
    }
    let name = String::from_utf8(plain(name)).expect("it is ASCII");
    let value = unescaped(unquoted(value));
    let value = percent_decode(&value).collect();
    Some((["cookie ", &name].concat(), value))
}

fn unquoted(text: &[u8]) -> &[u8] {
    let within = text.strip_prefix(b"\"");
    within
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(text)
}

/// `\054` and `\"`, as Python's http.cookies writes them.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, more @ ..] = rest {
        rest = match (first, more) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', more @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                more
            }
            (b'\\', [escaped, more @ ..]) => {
                bytes.push(*escaped);
                more
            }
            _ => {
                bytes.push(*first);
                more
            }
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const SECRET: HashingSecret = HashingSecret([7; 32]);

    fn config() -> Config {
        let yaml = "upstream: http://127.0.0.1:1\nignore_cookies: [csrftoken]\ncredential_headers: [x-api-key]\nroutes: []\n";
        let loaded = crate::config::file::parse("proxy.yaml", yaml, &|_| None);
        loaded.expect("a valid file").config
    }

    fn names(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_static(value));
        }
        states(&config(), &fields, &SECRET)
            .iter()
            .map(|state| state.as_str().to_owned())
            .collect()
    }

    #[test]
    fn each_part_has_a_state_of_its_own_that_tells_nothing() {
        let all = names(&[
            ("authorization", "Token abc"),
            ("x-api-key", "abc"),
            ("cookie", "sessionid=abc; csrftoken=abc"),
            ("cookie", "id=abc"),
        ]);
        assert_eq!(all.len(), 4, "an ignored cookie is no part: {all:?}");
        for (n, name) in all.iter().enumerate() {
            assert!(
                name.starts_with("~credential:") && !name.contains("abc"),
                "{name}"
            );
            assert!(!all[..n].contains(name), "{name}");
        }
        assert_eq!(names(&[("cookie", "sessionid=abc")]), all[2..3]);
        assert!(names(&[("accept", "*/*")]).is_empty());
    }

    #[test]
    fn spellings_that_a_server_takes_for_one_share_a_state() {
        let alike: [&[(&'static str, &'static str)]; 9] = [
            &[
                ("authorization", "Token a1"),
                ("authorization", "token   A1"),
                ("authorization", "Token\ta1"),
                ("authorization", "Bearer a1"),
                ("authorization", "Token token=\"a1\""),
                ("authorization", "Token token=a1"),
            ],
            &[
                ("authorization", "Basic bWU6cHc="),
                ("authorization", "basic bWU6cHc"),
                ("authorization", "BASIC  TWU6cHd="),
            ],
            &[
                (
                    "authorization",
                    "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.s",
                ),
                (
                    "authorization",
                    "bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.t",
                ),
                ("cookie", "access=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.s"),
                (
                    "cookie",
                    "access=\"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.t\"",
                ),
                ("x-api-key", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.t"),
            ],
            &[
                ("cookie", "sessionid=x1"),
                ("cookie", "sessionid = x1"),
                ("cookie", "sessionid=\"x1\""),
                ("cookie", "sessionid=\"\\170\\061\""),
                ("cookie", "sessionid=\"\\x1\""),
                ("cookie", "sessionid=%78%31"),
                ("cookie", "SessionId=X1"),
            ],
            &[("cookie", "other=x1")],
            &[("cookie", "x1"), ("cookie", "=x1")],
            &[
                ("x-api-key", "9f1c-22"),
                ("x-api-key", "9F1C22"),
                ("x-api-key", "{9f1c22}"),
            ],
            &[("authorization", "Negotiate YII=")],
            &[("x-api-key", "x1")],
        ];
        let mut seen: Vec<String> = Vec::new();
        for lines in alike {
            let first = names(&lines[..1]);
            for line in lines {
                assert_eq!(names(&[*line]), first, "{line:?}");
            }
            assert_eq!(names(lines), first, "one state, once: {lines:?}");
            assert!(!seen.contains(&first[0]), "{lines:?}");
            seen.extend(first);
        }
    }

    #[test]
    fn who_does_not_know_a_credential_names_no_state_of_it() {
        let of = |line: &'static str| names(&[("authorization", line)]);
        // ann:secret, ann:wrong
        assert_ne!(of("Basic YW5uOnNlY3JldA=="), of("Basic YW5uOndyb25n"));
        assert_ne!(of("Bearer sk.live.secret"), of("Bearer sk.live.other"));
    }

    #[test]
    fn a_token_in_the_place_of_a_password_is_revoked_with_it() {
        let token = "0123456789abcdef0123456789abcdef";
        let of = |line: String| names(&[("authorization", line.leak())]);
        let as_basic = |pair: String| of(format!("Basic {}", BASE64.encode(pair)));
        let alone = of(format!("Bearer {token}"));
        for pair in [
            format!("x:{token}"),
            format!("anybody:{token}"),
            format!("{token}:"),
        ] {
            let own = as_basic(pair);
            assert!(own.len() == 2 && own.contains(&alone[0]), "{own:?}");
        }
    }

    #[test]
    fn what_servers_read_in_more_than_one_way_is_not_plain() {
        let is_plain = |name: &'static str, value: &[u8]| {
            let mut fields = HeaderMap::new();
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
            is_plain(&config(), &fields)
        };
        let odd: [&[u8]; 12] = [
            b"Digest username=\"a\", response=\"b\"",
            b"Token a, nonce=b",
            b"Token a;nonce=b",
            b"Token token=\"a\",nonce=\"b\"",
            b"Token token=\"a\"b",
            b"Token a b",
            b"Token\xa0a",
            b"Token \xc3\xa9",
            b"Basic bW-U6cHc=",
            b"Basic bWU6cA==cHc",
            b"Basic \xc3\xa9",
            b"Hawk id=\"a\"",
        ];
        for line in odd {
            assert!(!is_plain("authorization", line), "{line:?}");
        }
        for cookie in [
            &b"x=1, sessionid=a"[..],
            b"x=1 sessionid=a",
            b"x=1\tsessionid=a",
            b"x sessionid=a",
            b"x,sessionid=a",
        ] {
            assert!(!is_plain("cookie", cookie), "{cookie:?}");
        }
        for line in [&b"1|abc"[..], b"Bearer 1|abc", b"Negotiate YII==", b""] {
            assert!(is_plain("authorization", line), "{line:?}");
        }
        assert!(is_plain("x-api-key", b"a, \"b\""), "opaque");
        assert!(is_plain("cookie", b"csrftoken=a b"), "ignored");
    }
}
