//! Accept and Accept-Encoding. Input: field lines.

use http::header::{self, HeaderMap, HeaderValue};
use larder::message::accept::AcceptClass;
use larder::message::codings::{Coding, accepted};

pub fn holds(data: &[u8]) {
    let fields = super::fields(super::lines(data));
    let class = AcceptClass::of(&fields);
    if let AcceptClass::Other(words) = &class
        && let Ok(value) = HeaderValue::from_str(words)
    {
        // A fill carries the words that stand in the key: the upstream reads them as we did.
        let sent = HeaderMap::from_iter([(header::ACCEPT, value)]);
        assert_eq!(AcceptClass::of(&sent), class);
    }
    let both = [Coding::Brotli, Coding::Gzip];
    for offered in [&both[..], &both[..1], &both[1..], &[]] {
        let coding = accepted(&fields, offered);
        assert!(coding.is_none_or(|coding| offered.contains(&coding)));
    }
    if !fields.contains_key(header::ACCEPT_ENCODING) {
        assert_eq!(accepted(&fields, &both), None);
    }
    // Several lines are one list (RFC 9110 §5.3), whichever way it is cut.
    let lines: Vec<&[u8]> = fields
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
        let joined = HeaderMap::from_iter([(header::ACCEPT_ENCODING, joined)]);
        assert_eq!(accepted(&joined, &both), accepted(&fields, &both));
    }
}
