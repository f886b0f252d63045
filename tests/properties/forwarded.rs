//! Who the client is, told in our words. Input: field lines of a request.

use std::net::{IpAddr, Ipv4Addr};

use http::header::HeaderMap;
use larder::message::forwarded::{Scheme, read, write};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));

pub fn holds(data: &[u8]) {
    let fields = super::fields(super::lines(data));
    let trusted = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    for (peer, trusted) in [
        (Some(PEER), &trusted[..]),
        (Some(PEER), &[]),
        (None, &trusted),
    ] {
        let via = read(&fields, peer, Scheme::Http, trusted);
        if let Some(peer) = peer {
            assert_eq!(via.chain.last(), Some(&peer));
        }
        let is_trusted = peer.is_none() || !trusted.is_empty();
        if !is_trusted {
            assert_eq!(via.scheme, Scheme::Http);
            assert_eq!(&via.chain[..], [PEER]);
        }
        let mut sent = fields.clone();
        write(&mut sent, &via, via.scheme, "api.example.org");
        // What a client says in our place never stands beside what we say.
        let mut ours = HeaderMap::new();
        write(&mut ours, &via, via.scheme, "api.example.org");
        for name in ours.keys() {
            let (sent, ours) = (sent.get_all(name), ours.get_all(name));
            assert!(sent.iter().eq(ours.iter()), "{name}");
        }
        for name in sent.keys().filter(|name| !ours.contains_key(*name)) {
            let word = name.as_str();
            let speaks = word.starts_with("x-forwarded-") || word == "forwarded";
            assert!(!speaks || !is_known(word), "{name}");
        }
    }
}

fn is_known(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "x-real-ip"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-forwarded-server"
            | "x-forwarded-prefix"
            | "x-forwarded-ssl"
    )
}
