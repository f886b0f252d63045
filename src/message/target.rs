//! What a request is about: its target, host and scheme, or why it is refused. RFC 9110 §7.1, RFC 9112 §3.2.
//! The client's target is taken here, before any rewriting; `TargetUri` makes keys, `ForwardUri` is what is sent.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Uri, Version};

use crate::error::Refusal;

/// The target as the client sent it, with the host it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUri {
    uri: Uri,
    /// Valid as `one_host` has it.
    host: HeaderValue,
}

impl TargetUri {
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// How many bytes it takes.
    pub fn length(&self) -> usize {
        let query = self.query().map_or(0, str::len);
        self.path().len() + query + self.host.len()
    }

    /// The same without the bytes of all that was read, which it shares.
    pub fn compact(&self) -> Option<TargetUri> {
        Some(TargetUri {
            uri: self.uri.to_string().parse().ok()?,
            host: HeaderValue::from_bytes(self.host.as_bytes()).ok()?,
        })
    }

    /// The host without its port.
    pub fn name(&self) -> &str {
        name(self.host())
    }

    /// host or host:port, as the client wrote it.
    pub fn host(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }

    /// The same as a field's value.
    pub fn host_value(&self) -> &HeaderValue {
        &self.host
    }
}

/// Path and query as they go upstream. Equal keys have equal `ForwardUri`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardUri(String);

impl ForwardUri {
    /// The client's own target, verbatim.
    pub fn verbatim(target: &TargetUri) -> Self {
        ForwardUri::new(target.path(), target.query())
    }

    pub fn new(path: &str, query: Option<&str>) -> Self {
        ForwardUri(match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a target is an absolute path and its query, with nothing in them that is read in more ways than one: hyper reads it,
/// and writes it, byte by byte.
pub fn is_usual(target: &[u8]) -> bool {
    const LONGEST: usize = 32 * 1024;
    target.first() == Some(&b'/')
        && target.len() <= LONGEST
        && target.iter().all(|byte| USUAL[usize::from(*byte)])
}

/// The unreserved characters, `%`, and those that may stand in a path or query. RFC 3986 §3.3 and §3.4.
const USUAL: [bool; 256] = {
    let mut usual = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        usual[byte] = matches!(
            byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'%' | b'/' | b'?' | b':' | b'@' |
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
        );
        byte += 1;
    }
    usual
};

/// The host in `host[:port]`.
pub fn name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    }
}

/// Takes the target, or says why the request goes no further.
pub fn take(
    method: &Method,
    uri: Uri,
    version: Version,
    fields: &HeaderMap,
    longest: usize,
) -> Result<TargetUri, Refusal> {
    let host = one_host(&uri, version, fields)?;
    if uri
        .scheme_str()
        .is_some_and(|scheme| scheme != "http" && scheme != "https")
    {
        return Err(Refusal::BadTarget);
    }
    let (path, query) = match uri.path_and_query() {
        Some(both) => (both.path(), both.query()),
        None => return Err(Refusal::BadTarget),
    };
    if path.len() + query.map_or(0, |q| q.len() + 1) > longest {
        return Err(Refusal::TargetTooLong);
    }
    // What is read as `/?x` was none (RFC 9113 §8.3.1). In HTTP/1, an absolute target may end with its host.
    let both = uri.path_and_query();
    if version == Version::HTTP_2 && both.is_some_and(|both| both.as_str().starts_with('?')) {
        return Err(Refusal::BadTarget);
    }
    let asterisk = path == "*" && *method == Method::OPTIONS;
    if !(path.starts_with('/') || asterisk)
        || path.bytes().any(|b| b == b'\\' || b <= b' ' || b == 0x7f)
        || hides_a_control(path)
    {
        return Err(Refusal::BadTarget);
    }
    Ok(TargetUri { uri, host })
}

/// Exactly one valid Host, and an absolute-form target must agree with it.
fn one_host(uri: &Uri, version: Version, fields: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let mut lines = fields.get_all(header::HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (Some(host), None) => host.clone(),
        (None, _) if version == Version::HTTP_2 => {
            let authority = uri.authority().ok_or(Refusal::BadHost)?;
            HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadHost)?
        }
        _ => return Err(Refusal::BadHost),
    };
    let text = host.to_str().map_err(|_| Refusal::BadHost)?;
    let agrees = |authority: &http::uri::Authority| authority.as_str().eq_ignore_ascii_case(text);
    if !valid_host(text) || !uri.authority().is_none_or(agrees) {
        return Err(Refusal::BadHost);
    }
    Ok(host)
}

/// `host[:port]` with a registered name, an IPv4 or a bracketed IPv6 address.
pub fn valid_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return false,
        },
        None => match text.find(':') {
            Some(colon) => (Some(&text[..colon]), &text[colon..]),
            None => (Some(text), ""),
        },
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => {
            !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
                && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    let name_is_valid = name.is_none_or(|name| {
        !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'))
    });
    port_is_valid && name_is_valid
}

/// NUL, CR, LF or a backslash behind percent-encoding.
fn hides_a_control(path: &str) -> bool {
    memchr::memchr_iter(b'%', path.as_bytes()).any(|at| {
        matches!(
            path.as_bytes()[at + 1..],
            [b'0', b'0' | b'a' | b'A' | b'd' | b'D', ..] | [b'5', b'c' | b'C', ..]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_get(target: &str, hosts: &[&str]) -> Result<TargetUri, Refusal> {
        let mut fields = HeaderMap::new();
        for host in hosts {
            fields.append(header::HOST, host.parse().unwrap());
        }
        take(
            &Method::GET,
            target.parse().unwrap(),
            Version::HTTP_11,
            &fields,
            8192,
        )
    }

    #[test]
    fn what_is_kept_for_long_is_the_same_target_and_holds_no_buffer() {
        let read = bytes::Bytes::from(b"/users/7/?page=2 example.org".to_vec());
        let target = TargetUri {
            uri: Uri::from_maybe_shared(read.slice(..16)).unwrap(),
            host: HeaderValue::from_maybe_shared(read.slice(17..)).unwrap(),
        };
        let kept = target.compact();
        assert_eq!(kept.as_ref(), Some(&target));
        drop(target);
        assert!(read.is_unique());
    }

    #[test]
    fn a_request_has_exactly_one_valid_host() {
        assert!(take_get("/", &["example.org:8080"]).is_ok());
        assert!(take_get("/", &["[::1]:80"]).is_ok());
        assert_eq!(take_get("/", &[]), Err(Refusal::BadHost));
        assert_eq!(take_get("/", &["a", "a"]), Err(Refusal::BadHost));
        for bad in [
            "", "a b", "a/b", "a@b", "a?b", "a#b", "a<b", "a:", "a:99999", "a:x", "[::1", "[x]",
        ] {
            assert_eq!(take_get("/", &[bad]), Err(Refusal::BadHost), "{bad:?}");
        }
    }

    #[test]
    fn an_absolute_target_agrees_with_host_and_is_http() {
        assert_eq!(take_get("http://a/x?y", &["a"]).unwrap().path(), "/x");
        assert_eq!(take_get("http://b/x", &["a"]), Err(Refusal::BadHost));
        assert_eq!(take_get("ftp://a/x", &["a"]), Err(Refusal::BadTarget));
    }

    #[test]
    fn nul_cr_lf_and_backslash_are_refused_encoded_or_not() {
        for bad in ["/a%00", "/a%0d%0a", "/a%5Cb", "/a%5cb"] {
            assert_eq!(take_get(bad, &["a"]), Err(Refusal::BadTarget), "{bad}");
        }
        assert!(
            take_get("/a%20b%2f..;x", &["a"]).is_ok(),
            "odd but harmless: forwarded verbatim"
        );
    }

    #[test]
    fn a_target_longer_than_the_limit_is_refused() {
        assert_eq!(
            take_get(&format!("/{}", "a".repeat(9000)), &["a"]),
            Err(Refusal::TargetTooLong)
        );
    }
}
