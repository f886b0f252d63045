//! What a connection goes through before the first byte of HTTP, in a task of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::places::Place;
use super::proxied::{self, Wrong};
use super::pulse::{Pulse, Watched};
use super::{Manners, Peer};
use crate::tls::server::{Acceptor, Agreed, Stream};

/// To who speaks plain HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nCache-Status: larder; detail=refused\r\n\
    Content-Type: text/plain\r\nContent-Length: 41\r\nConnection: close\r\n\r\n\
    TLS is spoken here: ask with https://...\n";

/// A connection that HTTP can be spoken on.
pub struct Arrived {
    pub stream: Stream<Watched<TcpStream>>,
    pub pulse: Arc<Pulse>,
    pub peer: Peer,
}

/// `None`: it goes no further, and is closed.
pub async fn arrive(
    mut stream: Watched<TcpStream>,
    from: SocketAddr,
    tls: Option<&Acceptor>,
    manners: &Manners,
    place: &mut Place,
) -> Option<Arrived> {
    let pulse = stream.pulse().clone();
    // It is said beneath TLS.
    let address = match manners.proxy_protocol {
        false => from.ip(),
        true => named(&mut stream, from.ip(), manners, place).await?,
    };
    let (stream, tls) = match tls {
        None => (Stream::Plain(stream), None),
        Some(acceptor) => {
            let (stream, agreed) = shake(stream, from, acceptor, manners.handshake_timeout).await?;
            (stream, Some(agreed))
        }
    };
    // At `[::]` a client by IPv4 has an address of IPv6, which no list of the API's would know.
    let address = address.to_canonical();
    let peer = Peer { address, tls };
    Some(Arrived {
        stream,
        pulse,
        peer,
    })
}

/// For whom a trusted proxy passes this connection on. From nobody else such a connection is taken.
async fn named(
    stream: &mut Watched<TcpStream>,
    proxy: IpAddr,
    manners: &Manners,
    place: &mut Place,
) -> Option<IpAddr> {
    let told = match place.trusts(proxy) {
        false => Err("not one of `trusted_proxies`"),
        true => match timeout(manners.patience.header, proxied::read(stream)).await {
            Ok(told) => told.map_err(Wrong::word),
            Err(_) => Err("its PROXY header took too long"),
        },
    };
    match told {
        Ok(None) => Some(proxy),
        Ok(Some(client)) => place.is_of(client).is_ok().then_some(client),
        Err(why) => {
            place.counts().bad_headers.fetch_add(1, Ordering::Relaxed);
            debug!(%proxy, why, "a connection is refused");
            None
        }
    }
}

async fn shake(
    stream: Watched<TcpStream>,
    from: SocketAddr,
    acceptor: &Acceptor,
    patience: Duration,
) -> Option<(Stream<Watched<TcpStream>>, Agreed)> {
    let shaken = timeout(patience, async {
        match begins_with_a_method(stream.inner()).await? {
            true => refuse_plain(stream).await,
            false => acceptor.shake(stream).await.map(Some),
        }
    });
    match shaken.await {
        Ok(Ok(Some(shaken))) => return Some(shaken),
        Ok(Ok(None)) => debug!(%from, "plain HTTP where TLS is spoken"),
        Ok(Err(error)) => debug!(%from, %error, "a TLS handshake failed"),
        Err(_) => debug!(%from, "a TLS handshake took too long"),
    }
    None
}

/// A record of TLS begins with a byte below any letter (RFC 8446 §5.1).
async fn begins_with_a_method(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic())
}

async fn refuse_plain(
    mut stream: Watched<TcpStream>,
) -> io::Result<Option<(Stream<Watched<TcpStream>>, Agreed)>> {
    stream.write_all(SPEAK_TLS).await?;
    stream.shutdown().await?;
    // What was sent is read to its end, or the kernel would answer it with a reset that overtakes the answer.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(None)
}
