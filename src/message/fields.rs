//! Which fields travel end to end, and which belong to one connection only. RFC 9110 §7.6.1.

use std::collections::HashSet;
use std::sync::LazyLock;

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::forwarded;

/// What a request is called. One that is logged goes on under an id of ours.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Fields that end here, whether or not Connection names them.
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];

static HOP_BY_HOP_LENGTHS: LazyLock<u64> = LazyLock::new(|| lengths(&HOP_BY_HOP));

/// Fields that nobody can have removed by naming them in Connection: the message would mean something else without them.
static NOT_NAMEABLE: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
    header::CACHE_CONTROL,
];

/// Whether what a client says in it does not reach the API as it says it: the field ends here, or we write it.
pub fn is_ours(name: &HeaderName) -> bool {
    static WRITTEN: [HeaderName; 3] = [header::HOST, header::VIA, X_REQUEST_ID];
    HOP_BY_HOP.contains(name)
        || *name == header::EXPECT
        || has_underscore(name)
        || WRITTEN.contains(name)
        || forwarded::is_ours(name)
}

/// Takes off what belongs to the connection it came by: the hop-by-hop fields and those that Connection names.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    if fields.contains_key(header::CONNECTION) {
        for name in connection_named(fields) {
            fields.remove(name);
        }
    }
    // Mostly there are none: that is seen sooner than each is looked for.
    let lengths = *HOP_BY_HOP_LENGTHS;
    if (fields.keys()).any(|name| lengths & length(name) != 0 && HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            fields.remove(name);
        }
    }
}

/// Each once, however long the list is.
pub fn connection_named(fields: &HeaderMap) -> HashSet<HeaderName> {
    fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(list_members)
        .filter_map(|member| HeaderName::from_bytes(member.as_bytes()).ok())
        .filter(|name| !NOT_NAMEABLE.contains(name))
        .collect()
}

/// The members of one line of a comma-separated field, trimmed, empty ones left out. One that is no text is a member all the
/// same, and none that anybody knows. Not for fields with quoted commas.
pub fn list_members(value: &HeaderValue) -> impl DoubleEndedIterator<Item = &str> {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(|member| std::str::from_utf8(member.trim_ascii()).unwrap_or("\u{fffd}"))
        .filter(|member| !member.is_empty())
}

/// Takes off what a request must not carry to the upstream: its framing is made anew, Expect is answered
/// here, and a name with `_` reads like another one in CGI-style servers (`X_User` as `X-User`).
pub fn strip_request(fields: &mut HeaderMap, drop: &[HeaderName]) {
    strip_hop_by_hop(fields);
    let lengths = lengths(drop) | length(&header::EXPECT);
    let is_dropped = |name: &HeaderName| {
        (lengths & length(name) != 0 && (*name == header::EXPECT || drop.contains(name)))
            || has_underscore(name)
    };
    let dropped: Vec<HeaderName> = fields
        .keys()
        .filter(|name| is_dropped(name))
        .cloned()
        .collect();
    for name in dropped {
        fields.remove(name);
    }
}

/// Whether `strip_request` would take a field of this name off those whose Connection names these.
pub fn is_stripped(name: &HeaderName, named: &HashSet<HeaderName>, drop: &[HeaderName]) -> bool {
    HOP_BY_HOP.contains(name)
        || *name == header::EXPECT
        || has_underscore(name)
        || drop.contains(name)
        || named.contains(name)
}

fn has_underscore(name: &HeaderName) -> bool {
    memchr::memchr(b'_', name.as_str().as_bytes()).is_some()
}

/// How long these names are, a bit for each length. A name of none of these lengths is none of them, which is seen sooner
/// than by comparing it with each.
fn lengths(names: &[HeaderName]) -> u64 {
    names.iter().fold(0, |lengths, name| lengths | length(name))
}

fn length(name: &HeaderName) -> u64 {
    1 << (name.as_str().len() % 64)
}

/// RFC 9110 §7.6.3, appended in either direction.
pub fn append_via(fields: &mut HeaderMap) {
    append_via_of(fields, Version::HTTP_11);
}

/// Likewise, of a message that came in this version.
pub fn append_via_of(fields: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_2 => "2 larder",
        _ => "1.1 larder",
    };
    fields.append(header::VIA, HeaderValue::from_static(via));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_bytes(n.as_bytes()).unwrap(),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn fields_named_in_connection_end_here_on_any_line_and_in_any_case() {
        let mut map = fields(&[
            ("connection", "close, X-One"),
            ("connection", "x-TWO"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, fields(&[("x-three", "3")]));
    }

    #[test]
    fn nobody_can_have_the_credential_or_the_framing_removed_by_naming_it() {
        let mut map = fields(&[
            (
                "connection",
                "authorization, cookie, host, content-length, cache-control",
            ),
            ("authorization", "Token a"),
            ("cookie", "s=1"),
            ("host", "h"),
            ("content-length", "0"),
            ("cache-control", "no-store"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn a_member_that_is_no_text_hides_no_other() {
        let line = HeaderValue::from_bytes(b"a, \xff ,, b,\xe9").unwrap();
        let members: Vec<&str> = list_members(&line).collect();
        assert_eq!(members, ["a", "\u{fffd}", "b", "\u{fffd}"]);
        let mut map = fields(&[("x-one", "1"), ("x-two", "2")]);
        map.insert(
            "connection",
            HeaderValue::from_bytes(b"x-one, \xff").unwrap(),
        );
        strip_hop_by_hop(&mut map);
        assert_eq!(map, fields(&[("x-two", "2")]));
    }

    #[test]
    fn a_name_with_an_underscore_does_not_reach_the_upstream() {
        let mut map = fields(&[("x_forwarded_host", "evil"), ("x-real", "1")]);
        strip_request(&mut map, &[]);
        assert_eq!(map, fields(&[("x-real", "1")]));
    }
}
