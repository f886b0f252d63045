//! Who the client is and by which scheme it came, told to the upstream in our words.
//! A client's own X-Forwarded-* and Forwarded (RFC 7239) count only if it is a trusted proxy.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::fields::list_members;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Every name by which a client could speak in our place.
static OURS: [HeaderName; 9] = [
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_SERVER,
    X_FORWARDED_PREFIX,
    X_FORWARDED_SSL,
    X_REAL_IP,
    FORWARDED,
];

/// Whether it is ours to say this, whatever the client says.
pub fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(name)
}

/// What is known of a request's way here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The client, then the trusted proxies that passed it on, as X-Forwarded-For has them.
    pub chain: SmallVec<[IpAddr; 2]>,
    pub scheme: Scheme,
    /// The peer claimed https, but is no trusted proxy.
    pub untrusted_https: bool,
}

impl Via {
    /// The client itself; not a trusted proxy that does not say for whom it asks.
    pub fn client(&self, trusted: &[IpNet]) -> Option<IpAddr> {
        let client = *self.chain.first()?;
        (!trusts(trusted, client)).then_some(client)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Whether what `ip` says of others counts.
pub fn trusts(trusted: &[IpNet], ip: IpAddr) -> bool {
    trusted.iter().any(|net| net.contains(&ip.to_canonical()))
}

/// Reads the way here off a request's fields. `own`: how it came from the peer to us. `peer` is `None` on a unix
/// socket, which is trusted.
pub fn read(fields: &HeaderMap, peer: Option<IpAddr>, own: Scheme, trusted: &[IpNet]) -> Via {
    let trusts = |ip: &IpAddr| trusts(trusted, *ip);
    let claimed = members(fields, X_FORWARDED_PROTO).next_back();
    let claims_https = claimed.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
    if !peer.is_none_or(|peer| trusts(&peer)) {
        return Via {
            chain: peer.into_iter().collect(),
            scheme: own,
            untrusted_https: claims_https && own == Scheme::Http,
        };
    }
    // From the right: each address was written by the one after it; the first that is not trusted is the
    // client, and what stands left of it is only its word.
    let mut chain: SmallVec<[IpAddr; 2]> = peer.into_iter().collect();
    for member in members(fields, X_FORWARDED_FOR).rev() {
        let Some(address) = address(member) else {
            break;
        };
        chain.push(address);
        if !trusts(&address) {
            break;
        }
    }
    chain.reverse();
    // A trusted proxy knows better than we how the client came, if it says so.
    let scheme = match claimed {
        Some(_) if claims_https => Scheme::Https,
        Some(_) => Scheme::Http,
        None => own,
    };
    Via {
        chain,
        scheme,
        untrusted_https: false,
    }
}

/// Puts our words in place of the client's.
pub fn write(fields: &mut HeaderMap, via: &Via, scheme: Scheme, host: &str) {
    if fields.keys().any(|name| OURS.contains(name)) {
        for name in &OURS {
            fields.remove(name);
        }
    }
    // All that is to be said is one text, of which the fields are parts.
    let mut text = Vec::with_capacity(128);
    let mut client = 0;
    for (n, address) in via.chain.iter().enumerate() {
        text.extend_from_slice(if n > 0 { b", " } else { b"" });
        write_address(&mut text, address);
        client = if n > 0 { client } else { text.len() };
    }
    let chain = text.len();
    let host = rfc_7239(&mut text, via, scheme, host);
    let text = Bytes::from(text);
    let mut say = |name: HeaderName, part: Range<usize>| {
        if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(part)) {
            fields.insert(name, value);
        }
    };
    if client > 0 {
        say(X_REAL_IP, 0..client);
        say(X_FORWARDED_FOR, 0..chain);
    }
    say(FORWARDED, chain..text.len());
    say(X_FORWARDED_HOST, host);
    fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
}

/// Appends the same chain as RFC 7239 writes it: the client with how it came, then who passed it on. Says where in it the
/// host stands.
fn rfc_7239(text: &mut Vec<u8>, via: &Via, scheme: Scheme, host: &str) -> Range<usize> {
    let node = |text: &mut Vec<u8>, address: &IpAddr| {
        let (before, behind): (&[u8], &[u8]) = match address {
            IpAddr::V4(_) => (b"for=", b""),
            IpAddr::V6(_) => (b"for=\"[", b"]\""),
        };
        text.extend_from_slice(before);
        write_address(text, address);
        text.extend_from_slice(behind);
    };
    if let Some(client) = via.chain.first() {
        node(text, client);
        text.push(b';');
    }
    text.extend_from_slice(b"host=\"");
    let start = text.len();
    text.extend_from_slice(host.as_bytes());
    let host = start..text.len();
    text.extend_from_slice(b"\";proto=");
    text.extend_from_slice(scheme.as_str().as_bytes());
    for proxy in via.chain.iter().skip(1) {
        text.extend_from_slice(b", ");
        node(text, proxy);
    }
    host
}

fn write_address(text: &mut Vec<u8>, address: &IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (n, octet) in address.octets().into_iter().enumerate() {
                text.extend_from_slice(if n > 0 { b"." } else { b"" });
                text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => text.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// Of all lines, in their order: who passes a message on writes behind what is there.
fn members(fields: &HeaderMap, name: HeaderName) -> impl DoubleEndedIterator<Item = &str> {
    fields.get_all(name).into_iter().flat_map(list_members)
}

/// Some gateways write the client's port behind its address.
fn address(member: &str) -> Option<IpAddr> {
    let with_port = || member.parse::<SocketAddr>().ok();
    let address = member.parse().ok();
    address.or_else(|| with_port().map(|client| client.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()))
            .collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_untrusted_client_cannot_say_who_it_is_nor_how_it_came() {
        let fields = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ]);
        let via = read(
            &fields,
            Some(ip("203.0.113.9")),
            Scheme::Http,
            &["127.0.0.0/8".parse().unwrap()],
        );
        assert_eq!(
            via,
            Via {
                chain: [ip("203.0.113.9")].into_iter().collect(),
                scheme: Scheme::Http,
                untrusted_https: true
            }
        );
        let mut sent = fields;
        write(&mut sent, &via, via.scheme, "api.example.org");
        assert_eq!(
            sent,
            map(&[
                ("x-real-ip", "203.0.113.9"),
                ("x-forwarded-for", "203.0.113.9"),
                (
                    "forwarded",
                    "for=203.0.113.9;host=\"api.example.org\";proto=http"
                ),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "api.example.org"),
            ])
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_up_to_the_first_address_that_is_not_trusted() {
        let fields = map(&[
            ("x-forwarded-for", "6.6.6.6, 198.51.100.7, 10.0.0.2"),
            ("x-forwarded-proto", "https"),
        ]);
        let via = read(
            &fields,
            Some(ip("127.0.0.1")),
            Scheme::Http,
            &[
                "127.0.0.0/8".parse().unwrap(),
                "10.0.0.0/8".parse().unwrap(),
            ],
        );
        assert_eq!(
            via.chain.as_slice(),
            [ip("198.51.100.7"), ip("10.0.0.2"), ip("127.0.0.1")]
        );
        assert_eq!(via.scheme, Scheme::Https);
    }

    #[test]
    fn the_whole_chain_is_told_in_both_ways_of_writing() {
        let mut sent = HeaderMap::new();
        let via = |chain: &[&str]| Via {
            chain: chain.iter().map(|address| ip(address)).collect(),
            scheme: Scheme::Https,
            untrusted_https: false,
        };
        let chain = via(&["2001:db8::7", "10.0.0.2"]);
        write(&mut sent, &chain, Scheme::Https, "api.example.org:8443");
        assert_eq!(
            sent,
            map(&[
                ("x-real-ip", "2001:db8::7"),
                ("x-forwarded-for", "2001:db8::7, 10.0.0.2"),
                (
                    "forwarded",
                    "for=\"[2001:db8::7]\";host=\"api.example.org:8443\";proto=https, for=10.0.0.2"
                ),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "api.example.org:8443"),
            ])
        );
        write(&mut sent, &via(&[]), Scheme::Http, "a");
        assert_eq!(
            sent,
            map(&[
                ("forwarded", "host=\"a\";proto=http"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "a"),
            ])
        );
    }

    #[test]
    fn of_what_a_trusted_proxy_passes_on_the_last_word_is_its_own() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let client = |line: &[u8]| {
            let mut fields = HeaderMap::new();
            fields.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
            read(&fields, Some(ip("10.0.0.1")), Scheme::Http, &trusted).client(&trusted)
        };
        let named = Some(ip("203.0.113.9"));
        assert_eq!(client(b"\xff, 203.0.113.9"), named);
        assert_eq!(client(b"6.6.6.6, \xff, 203.0.113.9, 10.0.0.2"), named);
        assert_eq!(client(b"203.0.113.9:4711"), named);
        assert_eq!(client(b"[2001:db8::9]:4711"), Some(ip("2001:db8::9")));
        // Who stands left of a word that names nobody is only that word's.
        assert_eq!(client(b"6.6.6.6, \xff, 10.0.0.2"), None);
        assert_eq!(client(b"6.6.6.6, unknown"), None);

        let scheme = |lines: &[&[u8]]| {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(X_FORWARDED_PROTO, HeaderValue::from_bytes(line).unwrap());
            }
            read(&fields, Some(ip("10.0.0.1")), Scheme::Http, &trusted).scheme
        };
        assert_eq!(scheme(&[b"https", b"http"]), Scheme::Http);
        assert_eq!(scheme(&[b"http", b"\xff, https"]), Scheme::Https);
    }

    #[test]
    fn who_comes_by_tls_comes_by_https_unless_a_trusted_proxy_says_how_its_client_came() {
        let trusted = ["127.0.0.0/8".parse().unwrap()];
        let by_tls = |peer: &str, fields: &HeaderMap| {
            let via = read(fields, Some(ip(peer)), Scheme::Https, &trusted);
            assert!(!via.untrusted_https);
            via.scheme
        };
        let (none, http) = (HeaderMap::new(), map(&[("x-forwarded-proto", "http")]));
        assert_eq!(by_tls("203.0.113.9", &none), Scheme::Https);
        assert_eq!(by_tls("203.0.113.9", &http), Scheme::Https, "its own word");
        assert_eq!(by_tls("127.0.0.1", &none), Scheme::Https);
        assert_eq!(by_tls("127.0.0.1", &http), Scheme::Http);
    }
}
