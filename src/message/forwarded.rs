//! Who the client is and by which scheme it came, told to the upstream in our words.
//! A client's own X-Forwarded-* and Forwarded (RFC 7239) count only if it is a trusted proxy.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;

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
const OURS: [HeaderName; 9] = [
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
    let claimed = fields.get(X_FORWARDED_PROTO).map(last);
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
    let told: Vec<&str> = fields
        .get_all(X_FORWARDED_FOR)
        .iter()
        .flat_map(super::fields::list_members)
        .collect();
    for address in told.into_iter().rev() {
        let Ok(address) = address.parse::<IpAddr>() else {
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
    for name in &OURS {
        fields.remove(name);
    }
    let chain: Vec<String> = via.chain.iter().map(IpAddr::to_string).collect();
    if let (Some(client), Ok(all)) = (chain.first(), HeaderValue::from_str(&chain.join(", "))) {
        fields.insert(
            X_REAL_IP,
            HeaderValue::from_str(client).expect("an address is a field value"),
        );
        fields.insert(X_FORWARDED_FOR, all);
    }
    if let Ok(forwarded) = HeaderValue::from_str(&rfc_7239(via, scheme, host)) {
        fields.insert(FORWARDED, forwarded);
    }
    fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    if let Ok(host) = HeaderValue::from_str(host) {
        fields.insert(X_FORWARDED_HOST, host);
    }
}

/// The same chain as RFC 7239 writes it: the client with how it came, then who passed it on.
fn rfc_7239(via: &Via, scheme: Scheme, host: &str) -> String {
    let node = |address: &IpAddr| match address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    let how = format!("host=\"{host}\";proto={}", scheme.as_str());
    match via.chain.split_first() {
        Some((client, proxies)) => {
            let rest: String = proxies
                .iter()
                .map(|proxy| format!(", {}", node(proxy)))
                .collect();
            format!("{};{how}{rest}", node(client))
        }
        None => how,
    }
}

fn last(value: &HeaderValue) -> &str {
    value
        .to_str()
        .unwrap_or_default()
        .rsplit(',')
        .next()
        .unwrap_or_default()
        .trim()
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
