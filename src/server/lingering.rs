//! The last word to a client that is still sending.
//!
//! Bytes that nobody takes make the kernel reset a connection that is closed, and a client whose sending fails, or whose
//! system forgets what had come when a reset does, never reads why. So our side is closed first, and what still comes is
//! read and forgotten for a while (RFC 9112 §9.6).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// In all. It holds its place for so long.
const LONGEST: Duration = Duration::from_secs(10);

/// Of a client that sends nothing more, and does not close either.
const SILENCE: Duration = Duration::from_secs(2);

/// Until the client has closed its side, too.
pub async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let until_closed = async {
        stream.shutdown().await?;
        let mut forgotten = vec![0; 16 * 1024];
        while timeout(SILENCE, stream.read(&mut forgotten)).await?? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whatever ends it: all has been said.
    let _ = timeout(LONGEST, until_closed).await;
}
