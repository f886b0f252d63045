//! Whether a client speaks HTTP/2 unasked ("prior knowledge", RFC 9113 §3.3): it begins with a preface that is no request.
//! The bytes are looked at and left where they are.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::frames::PREFACE;
use crate::tls::server::Protocol;

/// Waits for the first bytes. `None`: they did not come in time, or never will.
pub async fn protocol(stream: &TcpStream, patience: Duration) -> Option<Protocol> {
    let deadline = Instant::now() + patience;
    let mut bytes = [0; PREFACE.len()];
    let mut again = Duration::from_millis(1);
    loop {
        let peeked = tokio::time::timeout_at(deadline, stream.peek(&mut bytes));
        let length = peeked.await.ok()?.ok()?;
        match told(&bytes[..length]) {
            Some(protocol) => return Some(protocol),
            // Closed.
            None if length == 0 => return None,
            None => {}
        }
        // The preface in pieces. The socket stays readable of what was left there, so nothing tells of the rest.
        if Instant::now() + again > deadline {
            return None;
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(Duration::from_millis(250));
    }
}

/// `None`: not enough to know.
fn told(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        _ if bytes == PREFACE => Some(Protocol::Http2),
        _ if PREFACE.starts_with(bytes) => None,
        _ => Some(Protocol::Http1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_all_of_it_and_a_request_is_known_by_its_first_other_byte() {
        assert_eq!(told(PREFACE), Some(Protocol::Http2));
        for bytes in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            assert_eq!(told(bytes), None);
        }
        for bytes in [
            &b"G"[..],
            b"PO",
            b"PRI * HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        ] {
            assert_eq!(told(bytes), Some(Protocol::Http1));
        }
    }
}
