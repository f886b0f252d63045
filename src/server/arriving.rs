//! What a connection goes through before the first byte of HTTP, in a task of its own.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::Peer;

/// A connection that HTTP can be spoken on.
pub struct Arrived {
    pub stream: TcpStream,
    pub peer: Peer,
}

pub async fn arrive(stream: TcpStream, from: SocketAddr) -> Arrived {
    let _ = stream.set_nodelay(true);
    let peer = Peer { address: from.ip() };
    Arrived { stream, peer }
}
