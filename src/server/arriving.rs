//! What a connection goes through before the first byte of HTTP, in a task of its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::Peer;
use crate::tls::server::{Acceptor, Agreed, Stream};

/// To who speaks plain HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nCache-Status: larder; detail=refused\r\n\
    Content-Type: text/plain\r\nContent-Length: 41\r\nConnection: close\r\n\r\n\
    TLS is spoken here: ask with https://...\n";

/// A connection that HTTP can be spoken on.
pub struct Arrived {
    pub stream: Stream<TcpStream>,
    pub peer: Peer,
}

/// `None`: it goes no further, and is closed.
pub async fn arrive(
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<&Acceptor>,
    patience: Duration,
) -> Option<Arrived> {
    let _ = stream.set_nodelay(true);
    let (stream, tls) = match tls {
        None => (Stream::Plain(stream), None),
        Some(acceptor) => {
            let (stream, agreed) = shake(stream, from, acceptor, patience).await?;
            (stream, Some(agreed))
        }
    };
    let address = from.ip();
    let peer = Peer { address, tls };
    Some(Arrived { stream, peer })
}

async fn shake(
    stream: TcpStream,
    from: SocketAddr,
    acceptor: &Acceptor,
    patience: Duration,
) -> Option<(Stream<TcpStream>, Agreed)> {
    let shaken = timeout(patience, async {
        match begins_with_a_method(&stream).await? {
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

async fn refuse_plain(mut stream: TcpStream) -> io::Result<Option<(Stream<TcpStream>, Agreed)>> {
    stream.write_all(SPEAK_TLS).await?;
    stream.shutdown().await?;
    // What was sent is read to its end, or the kernel would answer it with a reset that overtakes the answer.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(None)
}
