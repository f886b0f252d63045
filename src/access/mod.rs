//! Who may be given which copy. Pure.
//!
//! * `per-credential` (the default): a copy belongs to the credential that fetched it: Authorization, every
//!   field in `credential_headers`, and every cookie but those in `ignore_cookies`. An unknown cookie costs
//!   hit ratio, never privacy.
//! * `public`: one copy for all. Its fills are sent without any credential, so it cannot leak.
//! * `verify`: one copy for all whom the upstream admits, or for each scope of them: `verdict`, `credential`.
//! * `jwt`: the same for all whose token is good, which is looked at here: `token`, `keys`, `key_file`, `signature`.

pub mod credential;
pub mod key_file;
pub mod keys;
mod signature;
pub mod token;
pub mod verdict;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::caching::key::CopyKey;
use crate::config::{Access, Config};
use verdict::Scope;

/// Puts what identifies the client into the key, as the route's access asks.
pub fn partition(
    access: &Access,
    config: &Config,
    fields: &HeaderMap,
    scope: Option<&Scope>,
    key: &mut CopyKey,
) {
    match access {
        Access::Public => {}
        Access::Verify(_) | Access::Jwt(_) => {
            for (pointer, value) in scope.iter().flat_map(|scope| &scope.0) {
                key.scope(pointer, value.as_deref());
            }
        }
        Access::PerCredential => {
            for name in std::iter::once(&header::AUTHORIZATION).chain(&config.credential_headers) {
                for value in fields.get_all(name) {
                    key.credential(name, value);
                }
            }
            for cookie in
                cookies(fields).filter(|cookie| !is_ignored(cookie, &config.ignore_cookies))
            {
                key.cookie(cookie);
            }
        }
    }
}

/// Leaves on a fill just the credentials that its key holds, or by which the upstream has admitted its client.
pub fn fill_credentials(
    access: &Access,
    config: &Config,
    client: &HeaderMap,
    fill: &mut HeaderMap,
) {
    match access {
        Access::Public => {}
        Access::PerCredential | Access::Verify(_) | Access::Jwt(_) => {
            for name in std::iter::once(&header::AUTHORIZATION).chain(&config.credential_headers) {
                copy(name, client, fill);
            }
            let kept: Vec<&[u8]> = cookies(client)
                .filter(|cookie| !is_ignored(cookie, &config.ignore_cookies))
                .collect();
            if let Some(value) = (!kept.is_empty())
                .then(|| HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok())
                .flatten()
            {
                fill.insert(header::COOKIE, value);
            }
        }
    }
}

/// Whether what the API answers to this client may become the copy that its key names. Under `verify` only one credential is
/// sent for all: of several, the API may go by one in admitting the client, and by another in what it answers.
pub fn may_fill(access: &Access, config: &Config, fields: &HeaderMap) -> bool {
    !matches!(access, Access::Verify(_)) || credential::parts(config, fields).nth(1).is_none()
}

/// Whether the request carries anything that `public` would leave out.
pub fn has_credential(config: &Config, fields: &HeaderMap) -> bool {
    std::iter::once(&header::AUTHORIZATION)
        .chain(&config.credential_headers)
        .any(|name| fields.contains_key(name))
        || has_cookie_credential(config, fields)
}

/// Whether there is a cookie among the credentials.
pub fn has_cookie_credential(config: &Config, fields: &HeaderMap) -> bool {
    cookies(fields).any(|cookie| !is_ignored(cookie, &config.ignore_cookies))
}

/// The names of the cookies that are no credential.
pub fn ignored_cookies<'f>(
    config: &'f Config,
    fields: &'f HeaderMap,
) -> impl Iterator<Item = &'f [u8]> {
    cookies(fields)
        .filter(|cookie| is_ignored(cookie, &config.ignore_cookies))
        .map(name_of)
}

/// The name of a cookie that an answer to a fill sets anew though its client has it, as the fill did not carry it: Django makes
/// another `csrftoken` for whoever shows none, and what a page has of the old one is then refused; and another session, where
/// there was a login.
pub fn cookie_set_anew<'a>(
    access: &Access,
    config: &Config,
    client: &HeaderMap,
    answer: &'a HeaderMap,
) -> Option<&'a [u8]> {
    let is_left_out =
        |cookie: &[u8]| *access == Access::Public || is_ignored(cookie, &config.ignore_cookies);
    let set = answer.get_all(header::SET_COOKIE).iter();
    set.map(|line| name_of(line.as_bytes()))
        .find(|set| cookies(client).any(|had| name_of(had) == *set && is_left_out(had)))
}

/// Whether there is a cookie of this name.
pub fn has_cookie(fields: &HeaderMap, name: &[u8]) -> bool {
    cookies(fields).any(|cookie| name_of(cookie) == name)
}

/// All lines of `name`, in their order.
pub fn copy(name: &HeaderName, from: &HeaderMap, to: &mut HeaderMap) {
    for value in from.get_all(name) {
        to.append(name, value.clone());
    }
}

/// Each `name=value` over all Cookie lines.
fn cookies(fields: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    fields
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
}

/// Of `name=value`, whatever follows.
fn name_of(cookie: &[u8]) -> &[u8] {
    let name = cookie.split(|&b| b == b'=').next();
    name.unwrap_or_default().trim_ascii()
}

/// A cookie is ignored by its exact name, or by a prefix that ends in `*`. One without a name is never.
fn is_ignored(cookie: &[u8], ignored: &[String]) -> bool {
    let Some(equals) = cookie.iter().position(|&b| b == b'=') else {
        return false;
    };
    let name = cookie[..equals].trim_ascii();
    ignored
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix.as_bytes()),
            None => name == pattern.as_bytes(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored() -> Vec<String> {
        vec!["csrftoken".into(), "_ga*".into()]
    }

    #[test]
    fn every_cookie_is_a_credential_but_those_that_are_ignored_by_name() {
        for cookie in [
            "sessionid=a",
            "id=1",
            "csrftoken2=x",
            "x_ga=1",
            "csrftoken",
            "=x",
            "CSRFTOKEN=x",
        ] {
            assert!(!is_ignored(cookie.as_bytes(), &ignored()), "{cookie}");
        }
        for cookie in ["csrftoken=x", "_ga=1", "_ga_ABC=1"] {
            assert!(is_ignored(cookie.as_bytes(), &ignored()), "{cookie}");
        }
    }

    #[test]
    fn cookies_are_found_on_every_line() {
        let mut fields = HeaderMap::new();
        fields.append(header::COOKIE, HeaderValue::from_static("a=1;b=2 ; "));
        fields.append(header::COOKIE, HeaderValue::from_static("c=3"));
        assert_eq!(
            cookies(&fields).collect::<Vec<_>>(),
            [b"a=1", b"b=2", b"c=3"]
        );
    }
}
