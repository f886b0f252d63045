//! Floods of HTTP/1: connections that want nothing, or want it so slowly that it never ends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::{Flood, Flooder};

const HIT: &str = "/api/users/";
const PASSED: &str = "/elsewhere/";

pub fn floods() -> Vec<Flood> {
    vec![
        Flood::new("5,000 idle connections", 5_000, |flooder| async move {
            let mut connection = flooder.connect().await?;
            connection.write_all(get(HIT).as_bytes()).await?;
            read_for_ever(&mut connection).await
        }),
        Flood::new("5,000 that say nothing", 5_000, |flooder| async move {
            let mut connection = flooder.connect().await?;
            read_for_ever(&mut connection).await
        }),
        Flood::new(
            "idle, more than there is room for",
            5_000,
            |flooder| async move {
                let mut connection = flooder.connect().await?;
                connection.write_all(get(HIT).as_bytes()).await?;
                read_for_ever(&mut connection).await
            },
        )
        .with_room_for(1_000),
        Flood::new("slow heads", 2_000, |flooder| async move {
            let mut connection = flooder.connect().await?;
            connection.write_all(b"GET / HTTP/1.1\r\n").await?;
            for number in 0.. {
                let field = format!("X-{number}: y\r\n");
                connection.write_all(field.as_bytes()).await?;
                sleep(Duration::from_millis(500)).await;
            }
            Ok(())
        }),
        Flood::new("slow bodies, small", 2_000, |flooder| {
            trickle(flooder, 60_000)
        }),
        Flood::new("slow bodies, streamed", 2_000, |flooder| {
            trickle(flooder, 1 << 30)
        }),
        Flood::new("slow readers of a hit of 1 MB", 500, |flooder| {
            read_slowly(flooder, HIT)
        })
        .of_bodies(1 << 20),
        Flood::new("the same, from Redis", 500, |flooder| {
            read_slowly(flooder, HIT)
        })
        .of_bodies(1 << 20)
        .on_redis(),
        Flood::new("slow readers of what is passed on", 500, |flooder| {
            read_slowly(flooder, PASSED)
        })
        .of_bodies(1 << 20),
        Flood::new(
            "more than the API can answer",
            1_000,
            |flooder| async move {
                let mut connection = flooder.connect().await?;
                let mut some = [0; 4096];
                loop {
                    connection.write_all(get(PASSED).as_bytes()).await?;
                    if connection.read(&mut some).await? == 0 {
                        return Ok(());
                    }
                }
            },
        ),
        Flood::new(
            "connections for one request each",
            64,
            |flooder| async move {
                let mut connection = flooder.connect().await?;
                connection.write_all(get(HIT).as_bytes()).await?;
                connection.read(&mut [0; 4096]).await.map(drop)
            },
        ),
    ]
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: api.example.org\r\n\r\n")
}

async fn read_for_ever(connection: &mut tokio::net::TcpStream) -> std::io::Result<()> {
    let mut some = [0; 4096];
    while connection.read(&mut some).await? > 0 {}
    Ok(())
}

async fn trickle(flooder: Flooder, length: u64) -> std::io::Result<()> {
    let mut connection = flooder.connect().await?;
    let head = format!(
        "POST /api/users/ HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await?;
    loop {
        connection.write_all(b"x").await?;
        sleep(Duration::from_millis(500)).await;
    }
}

async fn read_slowly(flooder: Flooder, target: &str) -> std::io::Result<()> {
    let mut connection = flooder.connect().await?;
    connection.write_all(get(target).as_bytes()).await?;
    let mut some = [0; 1024];
    loop {
        sleep(Duration::from_millis(500)).await;
        if connection.read(&mut some).await? == 0 {
            return Ok(());
        }
    }
}
