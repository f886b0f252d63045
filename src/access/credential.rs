//! What a request's credential consists of, and the state in the store by which each part of it can be revoked. Pure.
//! A part is one line of Authorization or of a credential field, or one cookie. It is known to the store by a keyed
//! hash alone.

use http::header::{self, HeaderMap};

use super::{cookies, is_ignored};
use crate::caching::key::{HashingSecret, credential_state};
use crate::coherence::{StateKey, States};
use crate::config::Config;

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

/// The states of its parts, at most `MOST`. A write holds them, a purge drops them, a verdict depends on them.
pub fn states(config: &Config, fields: &HeaderMap, secret: &HashingSecret) -> States {
    parts(config, fields)
        .take(MOST)
        .map(|(name, value)| StateKey::new(credential_state(secret, name, value)))
        .collect()
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
}
