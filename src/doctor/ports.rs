//! The ports Larder is to listen on: free, or a Larder is there already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Finding, ok, wrong};
use crate::config::Config;
use crate::server;

const PATIENCE: Duration = Duration::from_secs(2);

pub async fn examine(config: &Config, tell: &mut impl FnMut(Finding)) {
    // Refused by every server, and by Larder in its own words; it never reaches an API.
    let to_listen = match config.proxy_protocol {
        true => "PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
        false => "GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
    };
    tell(port("listen", config.listen, to_listen, "cache-status: larder").await);
    if let Some(admin) = config.admin {
        let to_admin = "GET /healthz HTTP/1.1\r\nHost: larder\r\nConnection: close\r\n\r\n";
        let sign = match &config.admin_tls {
            None => "{\"status\":\"ok\"}",
            // Plain HTTP it refuses in our words.
            Some(_) => "cache-status: larder",
        };
        tell(port("admin", admin, to_admin, sign).await);
    }
}

async fn port(code: &'static str, address: SocketAddr, request: &str, sign: &str) -> Finding {
    let error = match server::bind(address) {
        Ok(_) => return ok(code, format!("{address} is free")),
        Err(error) => error,
    };
    match error.kind() {
        std::io::ErrorKind::AddrInUse => match is_larder(address, request, sign).await {
            true => ok(code, format!("a Larder listens at {address} already")),
            false => wrong(
                code,
                format!("something else listens at {address}"),
                format!(
                    "stop it, or choose another port with `{code}:` (`ss -ltnp` shows who it is)"
                ),
            ),
        },
        std::io::ErrorKind::PermissionDenied => wrong(
            code,
            format!("{address} may not be listened on: {error}"),
            "ports below 1024 need CAP_NET_BIND_SERVICE, or take a higher one",
        ),
        _ => wrong(
            code,
            format!("{address} cannot be listened on: {error}"),
            format!("name an address of this machine with `{code}:`"),
        ),
    }
}

async fn is_larder(mut address: SocketAddr, request: &str, sign: &str) -> bool {
    if address.ip().is_unspecified() {
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut said = Vec::new();
        stream.take(16 * 1024).read_to_end(&mut said).await?;
        Ok::<_, std::io::Error>(said)
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(said)) => String::from_utf8_lossy(&said)
            .to_ascii_lowercase()
            .contains(sign),
        Ok(Err(_)) | Err(_) => false,
    }
}
