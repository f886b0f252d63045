//! HTTP/2 from both ends of decency: frames and header blocks byte for byte, and a client that does all as it should.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;

use super::PATIENCE;
use super::client::HOST;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITIZED: u8 = 0x20;

/// Headers and nothing else.
pub const ALL: u8 = END_STREAM | END_HEADERS;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// SETTINGS of these.
pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let pair =
        |&(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let payload: Vec<u8> = pairs.iter().flat_map(pair).collect();
    frame(SETTINGS, 0, 0, payload)
}

/// A header block of literals, none of which enters the table.
pub fn block(fields: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| literal(0x00, name.as_ref(), value.as_ref()))
        .collect()
}

/// A literal with its name: `0x00` not indexed, `0x10` never indexed, `0x40` put into the table.
pub fn literal(how: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[how][..], &string(name), &string(value)].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&integer(7, 0, text.len()), text].concat()
}

/// RFC 7541 §5.1.
pub fn integer(prefix: u8, first: u8, mut value: usize) -> Vec<u8> {
    let most = (1_usize << prefix) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | most as u8];
    value -= most;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 0x80);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

/// What came, as far as these tests want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Of a final answer.
    Head {
        stream: u32,
        status: u16,
        end: bool,
    },
    Data {
        stream: u32,
        bytes: Vec<u8>,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    GoAway {
        code: u32,
    },
    Pong,
    /// Settings, windows, and the like.
    Other {
        kind: u8,
    },
}

/// A connection that sends what it is given.
pub struct Raw<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
    /// Neither a frame came in time, nor was it closed.
    pub silent: bool,
}

impl Raw {
    /// With a preface, and settings by which answers are easy to read: no table.
    pub fn open(address: SocketAddr) -> Raw {
        let mut raw = Raw::bare(address);
        raw.begin();
        raw
    }

    /// Without a word.
    pub fn bare(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a time limit");
        Raw::on(stream)
    }

    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl<S: Read + Write> Raw<S> {
    pub fn on(stream: S) -> Raw<S> {
        Raw {
            stream,
            buffer: Vec::new(),
            silent: false,
        }
    }

    pub fn begin(&mut self) {
        self.send(&[PREFACE, &settings(&[(1, 0)])].concat());
    }

    /// Whether it could be sent: the other side may have closed by now, and rightly.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok() && self.stream.flush().is_ok()
    }

    pub fn get(&mut self, stream: u32, target: &str) {
        self.ask("GET", stream, target);
    }

    /// A whole request without content.
    pub fn ask(&mut self, method: &str, stream: u32, target: &str) {
        let fields = [
            (":method", method),
            (":scheme", "http"),
            (":authority", HOST),
            (":path", target),
        ];
        self.send(&frame(HEADERS, ALL, stream, block(&fields)));
    }

    /// Everything until the other side has come to what was sent so far, or closes.
    pub fn ping(&mut self) -> Vec<Event> {
        self.send(&frame(PING, 0, 0, [0; 8]));
        self.until(|event| *event == Event::Pong)
    }

    /// The next event. `None`: the other side has closed. Settings are acknowledged.
    pub fn next(&mut self) -> Option<Event> {
        let head = self.take(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.take(length)?;
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        let end = flags & END_STREAM != 0;
        Some(match kind {
            HEADERS => Event::Head {
                stream,
                status: status(&payload),
                end,
            },
            DATA => Event::Data {
                stream,
                bytes: payload,
                end,
            },
            RST_STREAM => Event::Reset {
                stream,
                code: word(0),
            },
            GOAWAY => Event::GoAway { code: word(4) },
            PING if flags & ACK != 0 => Event::Pong,
            PING => {
                self.send(&frame(PING, ACK, 0, payload));
                Event::Other { kind }
            }
            SETTINGS if flags & ACK == 0 => {
                self.send(&frame(SETTINGS, ACK, 0, b""));
                Event::Other { kind }
            }
            kind => Event::Other { kind },
        })
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut landing = [0; 16 * 1024];
        while self.buffer.len() < length {
            match self.stream.read(&mut landing) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&landing[..read]),
                Err(error)
                    if matches!(
                        error.kind(),
                        // The last one of TLS without a last word.
                        ErrorKind::ConnectionReset
                            | ErrorKind::BrokenPipe
                            | ErrorKind::UnexpectedEof
                    ) =>
                {
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.silent = true;
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// Everything until the other side closes, as it must.
    pub fn until_closed(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Everything until this holds, or the other side closes.
    pub fn until(&mut self, mut done: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            let done = done(&event);
            events.push(event);
            if done {
                break;
            }
        }
        events
    }
}

/// The status with which an answer's header block begins, where the table is empty.
fn status(block: &[u8]) -> u16 {
    let mut block = block;
    while let [update, rest @ ..] = block
        && update & 0xe0 == 0x20
    {
        block = rest;
    }
    match *block {
        [index @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        [0x08 | 0x18 | 0x48, length, ..] => {
            let bytes = &block[2..2 + usize::from(length & 0x7f)];
            let digits = match length & 0x80 {
                0 => String::from_utf8_lossy(bytes).into_owned(),
                _ => huffman_digits(bytes),
            };
            digits.parse().expect("three digits")
        }
        _ => panic!("not the head of an answer: {block:02x?}"),
    }
}

/// RFC 7541 Appendix B, of digits.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut digits) = (0, String::new());
    while digits.len() < 3 {
        let code = |length: usize| u32::from_str_radix(&bits[at..at + length], 2).unwrap();
        let (length, digit) = match code(5) {
            digit @ 0..=2 => (5, digit),
            _ => (6, code(6) - 0x19 + 3),
        };
        digits.push(char::from_digit(digit, 10).expect("a digit"));
        at += length;
    }
    digits
}

/// A client as it should be, on one connection.
pub struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

/// An answer to its end, or to where it broke off.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let line = self.fields.iter().find(|(n, _)| n == name);
        line.map(|(_, value)| value.as_str())
    }

    pub fn cache_status(&self) -> &str {
        self.field("cache-status").unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// With prior knowledge.
    pub fn open(address: SocketAddr) -> Client {
        Client::try_open(address).expect("a connection")
    }

    pub fn try_open(address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) =
                handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, Box<dyn std::error::Error>>(sender)
        })?;
        Ok(Client { runtime, sender })
    }

    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_request(method, target, fields, body)
            .expect("an answer")
    }

    pub fn try_request(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, hyper::Error> {
        self.runtime
            .block_on(self.answer(method, target, fields, body))
    }

    /// All at once.
    pub fn together(&self, targets: &[&str]) -> Vec<Answer> {
        let all = targets
            .iter()
            .map(|target| self.answer("GET", target, &[], b""));
        let all = self.runtime.block_on(futures_util::future::join_all(all));
        all.into_iter()
            .map(|answer| answer.expect("an answer"))
            .collect()
    }

    /// Sends a request, and takes it back as soon as `meanwhile` has come back.
    pub fn cancel(
        &self,
        (method, target, body): (&str, &str, &[u8]),
        meanwhile: impl FnOnce() + Send + 'static,
    ) {
        self.runtime.block_on(async {
            tokio::select! {
                answer = self.answer(method, target, &[], body) => panic!("answered: {answer:?}"),
                done = tokio::task::spawn_blocking(meanwhile) => done.expect("meanwhile"),
            }
        });
    }

    async fn answer(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, hyper::Error> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{HOST}{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        let request = request.body(body).expect("a request");
        let (head, mut content) = self
            .sender
            .clone()
            .send_request(request)
            .await?
            .into_parts();
        let fields = head.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        });
        let mut answer = Answer {
            status: head.status.as_u16(),
            fields: fields.collect(),
            body: Vec::new(),
            whole: true,
        };
        while let Some(part) = content.frame().await {
            match part {
                Ok(part) => answer.body.extend(part.into_data().unwrap_or_default()),
                Err(_) => {
                    answer.whole = false;
                    break;
                }
            }
        }
        Ok(answer)
    }
}
