//! What a connection goes through before the first byte of HTTP, in a task of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::places::Place;
use super::proxied::{self, Wrong};
use super::pulse::Watched;
use super::{Manners, Peer};

/// A connection that HTTP can be spoken on.
pub struct Arrived {
    pub stream: Watched<TcpStream>,
    pub peer: Peer,
}

/// `None`: it goes no further, and is closed.
pub async fn arrive(
    mut stream: Watched<TcpStream>,
    from: SocketAddr,
    manners: &Manners,
    place: &mut Place,
) -> Option<Arrived> {
    let address = match manners.proxy_protocol {
        false => from.ip(),
        true => named(&mut stream, from.ip(), manners, place).await?,
    };
    let peer = Peer { address };
    Some(Arrived { stream, peer })
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
