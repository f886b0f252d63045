//! The partition of a credential: one copy for each, and no credential that is left out of its own. Input: field lines of
//! two requests, an empty line between.

use std::sync::LazyLock;

use http::header::{self, HeaderMap, HeaderValue};
use larder::access;
use larder::access::credential;
use larder::caching::key::{CopyKey, HashingSecret};
use larder::config::{Access, Config};
use larder::route::{Captures, KeyTemplate};

const SECRET: HashingSecret = HashingSecret([7; 32]);

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let file = "upstream: http://127.0.0.1:8000\nttl: 1h\nroutes:\n  - {path: /api/users/, key: users:list}\n";
    let loaded = larder::config::file::parse("proxy.yaml", file, &|_| None);
    loaded.expect("a configuration").config
});

pub fn holds(data: &[u8]) {
    let mut lines = super::lines(data);
    let first = super::fields(lines.by_ref().take_while(|line| !line.is_empty()));
    let second = super::fields(lines);
    let same = parts(&first) == parts(&second);
    assert_eq!(partition(&first) == partition(&second), same);
    for fields in [&first, &second] {
        assert_eq!(
            access::has_credential(&CONFIG, fields),
            parts(fields).is_some()
        );
        let states = credential::states(&CONFIG, fields, &SECRET);
        assert!(states.len() <= credential::MOST);
        // A fill carries the credential that its key holds: no more and no less.
        let mut fill = HeaderMap::new();
        access::fill_credentials(&Access::PerCredential, &CONFIG, fields, &mut fill);
        assert_eq!(parts(&fill), parts(fields));
        // What is ignored splits nothing, wherever it stands.
        let mut with = fields.clone();
        with.append(
            header::COOKIE,
            HeaderValue::from_static("csrftoken=abc; _ga_x=1"),
        );
        assert_eq!(partition(&with), partition(fields));
        let mut with = fields.clone();
        with.append(header::COOKIE, HeaderValue::from_static("unknown=1"));
        assert_ne!(partition(&with), partition(fields));
    }
}

type Parts = Vec<(String, Vec<u8>)>;

/// By name; `None` for who is nobody.
fn parts(fields: &HeaderMap) -> Option<Parts> {
    let parts: Parts = credential::parts(&CONFIG, fields)
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect();
    (!parts.is_empty()).then_some(parts)
}

fn partition(fields: &HeaderMap) -> String {
    let mut key = CopyKey::new(&SECRET);
    access::partition(&Access::PerCredential, &CONFIG, fields, None, &mut key);
    let template = KeyTemplate::parse("users:list").expect("a template");
    key.of(
        "t",
        &template.family(&Captures::default()).expect("a family"),
    )
}
