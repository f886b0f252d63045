//! The PROXY protocol, versions 1 and 2: a balancer that passes bytes on says first for whom.
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>
//!
//! Exactly the header is read, for what follows it is of TLS or HTTP.

use std::io;
use std::net::IpAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A longer one is refused. Its fields may hold a certificate's name, never a certificate.
const LONGEST: usize = 2048;

const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The connection ended, or broke.
    Lost,
    NoHeader,
    TooLong,
}

impl Wrong {
    pub fn word(self) -> &'static str {
        match self {
            Wrong::Lost => "lost",
            Wrong::NoHeader => "no PROXY header",
            Wrong::TooLong => "its PROXY header is too long",
        }
    }
}

/// Reads it. `None`: the proxy speaks for itself (a health check), or does not know for whom.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Wrong> {
    let mut header = Vec::with_capacity(128);
    loop {
        match parse(&header)? {
            Parsed::Whole(client) => return Ok(client),
            Parsed::Lacks(more) => {
                let have = header.len();
                header.resize(have + more, 0);
                let read: io::Result<_> = stream.read_exact(&mut header[have..]).await;
                read.map_err(|_| Wrong::Lost)?;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole(Option<IpAddr>),
    /// So many bytes more belong to it for certain.
    Lacks(usize),
}

fn parse(header: &[u8]) -> Result<Parsed, Wrong> {
    let config = ParseConfig {
        include_tlvs: false,
        allow_v1: true,
        allow_v2: true,
    };
    // The shortest of version 1 is `PROXY UNKNOWN\r\n`, and of version 2 a byte more.
    let shortest: usize = match header.starts_with(VERSION_2) {
        true => 16,
        false => 15,
    };
    if let Some(more) = shortest.checked_sub(header.len()).filter(|more| *more > 0) {
        return Ok(Parsed::Lacks(more));
    }
    let lacks = match header.strip_prefix(VERSION_2) {
        Some(rest) => {
            let length = 16 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            if length > LONGEST {
                return Err(Wrong::TooLong);
            }
            length - header.len()
        }
        // Its end is a line's.
        None if header.ends_with(b"\r\n") => 0,
        None if header.ends_with(b"\r") => 1,
        None => 2,
    };
    match ProxyHeader::parse(header, config) {
        Ok((told, length)) if length == header.len() => {
            let client = told.proxied_address().map(|told| told.source.ip());
            Ok(Parsed::Whole(client))
        }
        Err(Error::BufferTooShort) if lacks > 0 => Ok(Parsed::Lacks(lacks)),
        Ok(_) | Err(_) => Err(Wrong::NoHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    async fn told(header: &[u8]) -> Result<Option<IpAddr>, Wrong> {
        let bytes = [header, AFTER].concat();
        let mut stream = &bytes[..];
        let told = read(&mut stream).await;
        if told.is_ok() {
            assert_eq!(stream, AFTER, "what follows is left: {header:?}");
        }
        told
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [VERSION_2, &[command, family], &length, addresses].concat()
    }

    #[tokio::test]
    async fn exactly_the_header_is_read_and_names_the_client() {
        let client = |text: &str| Ok(Some(text.parse().unwrap()));
        let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";
        assert_eq!(told(v1).await, client("192.0.2.1"));
        let v1 = b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n";
        assert_eq!(told(v1).await, client("2001:db8::1"));
        assert_eq!(told(b"PROXY UNKNOWN\r\n").await, Ok(None));
        assert_eq!(
            told(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").await,
            Ok(None)
        );
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 1, 187];
        assert_eq!(told(&version_2(0x21, 0x11, &v4)).await, client("192.0.2.1"));
        let with_fields = [&v4[..], &[0x04, 0, 1, 0]].concat();
        assert_eq!(
            told(&version_2(0x21, 0x11, &with_fields)).await,
            client("192.0.2.1")
        );
        // LOCAL: a health check of the balancer's own.
        assert_eq!(told(&version_2(0x20, 0x00, b"")).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_none_is_refused_before_much_of_it_is_read() {
        for header in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n\n\n\n\n",
            b"PROXY TCP4 192.0.2.300 198.51.100.1 56324 443\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY UNKNOWN \0 this goes on and on and on and on and on and on and on and on and on and on and on and on and on and on\r\n",
            &[b' '; 500],
            &version_2(0x31, 0x11, &[0; 12]),
            &version_2(0x21, 0x11, &[0; 11]),
        ] {
            let refused = told(header).await;
            assert_eq!(refused, Err(Wrong::NoHeader), "{:?}", String::from_utf8_lossy(header));
        }
        let long = version_2(0x21, 0x11, &[0; 3000]);
        assert_eq!(told(&long).await, Err(Wrong::TooLong));
        assert_eq!(read(&mut &b"PROXY TCP4 192.0"[..]).await, Err(Wrong::Lost));
    }
}
