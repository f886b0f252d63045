//! Plain exchanges beside hyper's: whatever an upstream says, and in whatever pieces it comes, both come to the same.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout};

use super::Outgoing;
use super::connection::Connection;
use super::draft::Draft;
use super::sender::{Http1, Sender};
use crate::body::RequestBody;
use crate::error::UpstreamFailure;
use crate::message::target::ForwardUri;

#[cfg(test)]
mod tests;

/// Any answer, in any pieces. Input: a line of words, then the answer. Of these words `HEAD` and `POST` are the method, which
/// else is GET; `closes`: the connection closes behind it; `+9`: so many bytes more follow; and a number alone is the length of
/// the next piece. It comes after all of the request: how much is written of one that is answered earlier is a matter of time.
pub fn holds(data: &[u8]) {
    let line = data.iter().position(|&byte| byte == b'\n');
    let (line, answer) = data.split_at(line.map_or(data.len(), |end| end + 1));
    let line = String::from_utf8_lossy(line);
    let (mut turn, mut cuts) = (get(b""), Vec::new());
    let mut answer = answer.to_vec();
    for word in line.split_whitespace() {
        let most = |most: usize, number: &str| number.parse().unwrap_or(0).min(most);
        match word {
            "HEAD" => turn.method = Method::HEAD,
            "POST" => (turn.method, turn.body) = (Method::POST, b"{\"name\": 1}"),
            "closes" => turn.closes = true,
            _ => match word.strip_prefix('+') {
                Some(more) => answer.resize(answer.len() + most(80_000, more), b'x'),
                None => cuts.push(most(answer.len(), word)),
            },
        }
    }
    turn.pieces = Vec::new();
    for length in cuts {
        let rest = answer.split_off(length.min(answer.len()));
        turn.pieces.push(std::mem::replace(&mut answer, rest));
    }
    turn.pieces.push(answer);
    are_alike(&[turn, get(USUAL)]);
}

const USUAL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// By whom a connection is spoken on at first.
#[derive(Debug, Clone, Copy)]
enum By {
    Plain,
    Hyper,
}

/// Nothing comes any more, and it would wait for more. The clock stands still unless everybody waits.
const LONG: Duration = Duration::from_secs(3600);

/// A request, and what is said to it, piece by piece.
#[derive(Debug, Clone)]
struct Turn {
    method: Method,
    body: &'static [u8],
    pieces: Vec<Vec<u8>>,
    /// So much of the request is read before.
    after: usize,
    /// And then the connection is closed.
    closes: bool,
}

/// All that is to be seen of an exchange.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Answer {
        status: u16,
        fields: Vec<(HeaderName, HeaderValue)>,
        length: Option<u64>,
        content: Vec<u8>,
        end: End,
        /// The connection takes another request.
        is_free: bool,
    },
    Lost {
        why: UpstreamFailure,
        by_closing: bool,
        unsent: bool,
    },
    Waits,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    BrokenOff,
    Waits,
}

fn get(answer: &[u8]) -> Turn {
    Turn {
        method: Method::GET,
        body: b"",
        pieces: vec![answer.to_vec()],
        after: usize::MAX,
        closes: false,
    }
}

impl Turn {
    fn request(&self) -> (Draft, RequestBody) {
        let mut fields = HeaderMap::new();
        fields.insert("host", HeaderValue::from_static("api.example.org"));
        fields.append("via", HeaderValue::from_static("1.1 a"));
        fields.insert("x-odd", HeaderValue::from_bytes(b"\xe9").unwrap());
        fields.append("via", HeaderValue::from_static("1.1 larder"));
        let outgoing = Outgoing {
            method: self.method.clone(),
            target: ForwardUri::new("/api/users/", Some("q=%20'a'")),
            fields: fields.into(),
            id: Some(HeaderValue::from_static("7")),
            body: match self.body {
                b"" => RequestBody::Empty,
                body => RequestBody::Whole(Some(Bytes::from_static(body))),
            },
            interim: None,
            notes: None,
            once: false,
        };
        Draft::of(outgoing).ok().unwrap()
    }
}

/// What comes of these turns on one connection, all that was written on it, and whether it was hyper's at the end.
fn told(by: By, turns: &[Turn]) -> (Vec<Told>, Vec<u8>, bool) {
    told_later(by, turns, false)
}

fn told_later(by: By, turns: &[Turn], later: bool) -> (Vec<Told>, Vec<u8>, bool) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(8 * 1024);
        let mut connection = Connection {
            sender: Sender::http1(ours),
            received: Arc::default(),
            made: Instant::now(),
        };
        if let (By::Hyper, Sender::Http1(http1)) = (by, &mut connection.sender) {
            http1.by_hyper(Bytes::new()).await;
        }
        let upstream = tokio::spawn(upstream(theirs, turns.to_vec()));
        if later {
            settled().await;
            settled().await;
        }
        let mut all = Vec::new();
        for turn in turns {
            let told = one(&mut connection, turn).await;
            let goes_on = matches!(&told, Told::Answer { is_free: true, .. });
            all.push(told);
            if !goes_on {
                break;
            }
        }
        let Sender::Http1(mut http1) = connection.sender else {
            panic!("not of HTTP/1");
        };
        let is_hypers = matches!(http1, Http1::Hyper(_));
        http1.let_go();
        drop(http1);
        let written = timeout(LONG, upstream).await.unwrap().unwrap();
        (all, written, is_hypers)
    })
}

async fn upstream(mut wire: DuplexStream, turns: Vec<Turn>) -> Vec<u8> {
    let mut read = Vec::new();
    for turn in turns {
        let (draft, body) = turn.request();
        let mut expected = Vec::new();
        if draft.is_plain(&body) {
            draft.write_head(&body, &mut expected);
        }
        let all = expected.len() + turn.body.len();
        let before = read.len();
        if !has_read(&mut wire, &mut read, before + all.min(turn.after)).await {
            return read;
        }
        for piece in &turn.pieces {
            let _ = wire.write_all(piece).await;
            // Until it has been taken, and whoever took it waits for more.
            settled().await;
        }
        if turn.closes {
            let _ = wire.shutdown().await;
        }
        // hyper sends the rest, but closes only after the other side.
        if turn.after < all {
            has_read(&mut wire, &mut read, before + all).await;
            return read;
        }
        if turn.closes {
            break;
        }
    }
    has_read(&mut wire, &mut read, usize::MAX).await;
    read
}

/// Until there are so many bytes, or the end.
async fn has_read(wire: &mut DuplexStream, read: &mut Vec<u8>, until: usize) -> bool {
    while read.len() < until {
        if let Ok(0) | Err(_) = wire.read_buf(read).await {
            return false;
        }
    }
    true
}

async fn settled() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn one(connection: &mut Connection, turn: &Turn) -> Told {
    let (draft, body) = turn.request();
    let answer = match timeout(LONG, connection.sender.send(&draft, body)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(lost)) => {
            return Told::Lost {
                why: lost.why,
                by_closing: lost.by_closing,
                unsent: lost.unsent.is_some(),
            };
        }
        Err(_) => return Told::Waits,
    };
    let (head, mut body) = answer.into_parts();
    let length = body.size_hint().exact();
    let mut content = Vec::new();
    let end = loop {
        let next = poll_fn(|cx| body.poll_frame(cx, Some(connection)));
        match timeout(LONG, next).await {
            Err(_) => break End::Waits,
            Ok(None) => break End::Whole,
            Ok(Some(Err(_))) => break End::BrokenOff,
            Ok(Some(Ok(frame))) => content.extend(frame.into_data().unwrap_or_default()),
        }
    };
    settled().await;
    let is_free = match &mut connection.sender {
        Sender::Http1(http1) => http1.is_free(),
        Sender::Http2(..) => false,
    };
    let fields = head.headers.iter();
    Told::Answer {
        status: head.status.as_u16(),
        fields: fields.map(|(n, v)| (n.clone(), v.clone())).collect(),
        length,
        content,
        end,
        is_free,
    }
}

/// Both come to the same, byte for byte.
#[track_caller]
fn are_alike(turns: &[Turn]) -> (Vec<Told>, bool) {
    let (hyper, written_by_hyper, _) = told(By::Hyper, turns);
    let (plain, written, is_hypers) = told(By::Plain, turns);
    assert_eq!(plain, hyper, "{turns:?}");
    assert_eq!(
        String::from_utf8_lossy(&written),
        String::from_utf8_lossy(&written_by_hyper),
        "{turns:?}"
    );
    (plain, is_hypers)
}
