//! Who counts as one, wherever clients are counted.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 address, or the /64 that whoever has an IPv6 address has all of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subscriber {
    V4(Ipv4Addr),
    V6(u64),
}

impl Subscriber {
    pub fn of(address: IpAddr) -> Subscriber {
        match address.to_canonical() {
            IpAddr::V4(address) => Subscriber::V4(address),
            IpAddr::V6(address) => Subscriber::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_an_ipv4_address_however_it_is_written_or_a_64() {
        let of = |text: &str| Subscriber::of(text.parse().unwrap());
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
