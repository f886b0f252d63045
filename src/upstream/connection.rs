//! One connection to an upstream: how it is made.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::sender::Sender;
use crate::config::UpstreamAddress;
use crate::tls::client::chose_http2;
use crate::tls::renewed::Renewed;

/// How long an address of a name is waited for before the next one is tried as well. RFC 8305 §5.
const HEAD_START: Duration = Duration::from_millis(250);

/// One connection, free to take a request.
pub(super) struct Connection {
    pub sender: Sender,
    /// Bytes that have come over it.
    pub received: Arc<AtomicU64>,
    pub made: Instant,
}

/// Which versions of HTTP may be spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    Http1,
    /// HTTP/2, too, and so many requests at once: over TLS if the upstream chooses it, else by prior knowledge.
    Http2 {
        streams: usize,
    },
}

/// Why there is none.
#[derive(Debug)]
pub enum Unconnected {
    Io(io::Error),
    Tls(io::Error),
}

/// A connection to the upstream, ready for HTTP.
pub(super) async fn connect(
    address: &UpstreamAddress,
    versions: Versions,
    tls: Option<&Renewed>,
    heard: Option<&Arc<AtomicU64>>,
) -> Result<Connection, Unconnected> {
    let received = Arc::new(AtomicU64::new(0));
    let streams = match versions {
        Versions::Http1 => None,
        Versions::Http2 { streams } => Some(streams),
    };
    let sender = match address {
        UpstreamAddress::Tcp { host, port } => {
            let stream = dial(host, *port).await.map_err(Unconnected::Io)?;
            let stream = Counted::new(stream, &received, heard);
            match streams {
                None => Sender::http1(stream),
                Some(streams) => Sender::http2(stream, Scheme::HTTP, streams).await?,
            }
        }
        UpstreamAddress::Tls { host, port } => {
            let client = match tls {
                Some(renewed) => renewed.client().map_err(Unconnected::Tls)?,
                None => return Err(Unconnected::Tls(io::ErrorKind::Unsupported.into())),
            };
            let stream = dial(host, *port).await.map_err(Unconnected::Io)?;
            let secured = client.connect(host, stream, streams.is_some()).await;
            let secured = secured.map_err(Unconnected::Tls)?;
            let chosen = streams.filter(|_| chose_http2(&secured));
            let stream = Counted::new(secured, &received, heard);
            match chosen {
                None => Sender::http1(stream),
                Some(streams) => Sender::http2(stream, Scheme::HTTPS, streams).await?,
            }
        }
        UpstreamAddress::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(Unconnected::Io)?;
            let stream = Counted::new(stream, &received, heard);
            match streams {
                None => Sender::http1(stream),
                Some(streams) => Sender::http2(stream, Scheme::HTTP, streams).await?,
            }
        }
    };
    Ok(Connection {
        sender,
        received,
        made: Instant::now(),
    })
}

impl Connection {
    /// The same for another request, where it takes several.
    pub fn shared(&self) -> Option<Connection> {
        Some(Connection {
            sender: self.sender.shared()?,
            received: self.received.clone(),
            made: self.made,
        })
    }
}

/// Connects to a name: resolved anew each time, all its addresses tried, and a dead one holds up the others by no more
/// than a head start.
pub async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = alternating(tokio::net::lookup_host((host, port)).await?);
    let stream = match addresses.as_slice() {
        [address] => TcpStream::connect(address).await?,
        addresses => first_of(addresses).await?,
    };
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let (mut rest, mut under_way) = (addresses.iter(), FuturesUnordered::new());
    loop {
        match rest.next() {
            Some(address) => under_way.push(TcpStream::connect(address)),
            None if under_way.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(done) = under_way.next() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(HEAD_START), if rest.len() > 0 => {}
        }
    }
}

/// The families take turns, beginning with that of the resolver's first choice.
fn alternating(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.collect();
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let is_of_the_first = |address: &SocketAddr| address.is_ipv4() == first.is_ipv4();
    let mut others = addresses.iter().filter(|address| !is_of_the_first(address));
    let mut turns = Vec::with_capacity(addresses.len());
    for address in addresses.iter().filter(|address| is_of_the_first(address)) {
        turns.push(*address);
        turns.extend(others.next());
    }
    turns.extend(others);
    turns
}

/// A stream that counts what it reads, for itself and for its upstream: whether an answer had begun is not in hyper's errors.
struct Counted<S> {
    stream: S,
    received: Arc<AtomicU64>,
    heard: Option<Arc<AtomicU64>>,
}

impl<S> Counted<S> {
    fn new(stream: S, received: &Arc<AtomicU64>, heard: Option<&Arc<AtomicU64>>) -> Counted<S> {
        Counted {
            stream,
            received: received.clone(),
            heard: heard.cloned(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, into);
        let read = (into.filled().len() - before) as u64;
        if read > 0 {
            self.received.fetch_add(read, Ordering::Relaxed);
            if let Some(heard) = &self.heard {
                heard.fetch_add(read, Ordering::Relaxed);
            }
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns_and_the_resolvers_first_choice_begins() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let v6 = ["[::1]:1", "[::2]:1", "[::3]:1"].map(parse);
        let v4 = ["127.0.0.1:1"].map(parse);
        let given = v6.into_iter().chain(v4);
        assert_eq!(alternating(given), [v6[0], v4[0], v6[1], v6[2]]);
    }

    #[tokio::test]
    async fn a_dead_address_does_not_keep_from_a_living_one() {
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Refused at once, and one where nobody ever answers: its backlog is full.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let silent = silent.unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        silent.bind(&any.into()).unwrap();
        let refusing = silent.local_addr().unwrap().as_socket().unwrap();
        let addresses = [refusing, alive.local_addr().unwrap()];
        let stream = first_of(&addresses).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        silent.listen(0).unwrap();
        let mut waiting = Vec::new();
        // Until one more is not taken.
        while let Ok(Ok(taken)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(refusing)).await
        {
            waiting.push(taken);
        }
        let stream = first_of(&addresses).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        assert!(first_of(&[]).await.is_err());
    }
}
