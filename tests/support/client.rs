//! A small HTTP/1.1 client over one TCP connection: it sends what it is given, and says exactly what came back,
//! also when an answer broke off.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Content, Fields, Framing, PATIENCE, Wire};

/// The host that requests name unless they bring their own.
pub const HOST: &str = "api.example.org";

/// Listeners of operators, who are asked as localhost.
static OPERATORS: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// Whoever connects to it from now on names it localhost.
pub fn is_an_operators(address: SocketAddr) {
    OPERATORS.lock().unwrap().push(address);
}

pub struct Connection<S = TcpStream> {
    wire: Wire<S>,
    /// What requests name unless they bring their own.
    host: &'static str,
}

/// An answer as it arrived.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub framing: Framing,
    pub content: Content,
    /// The 1xx before it.
    pub interim: Vec<u16>,
}

impl Connection {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Connection {
        Connection::try_open(address).expect("connect")
    }

    /// From another address of this machine.
    #[track_caller]
    pub fn open_from(own: &str, address: SocketAddr) -> Connection {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let own = SocketAddr::new(own.parse().expect("an address"), 0);
        socket
            .bind(&own.into())
            .expect("an address of this machine");
        socket.connect(&address.into()).expect("connect");
        Connection::of(socket.into()).expect("its options")
    }

    pub fn try_open(address: SocketAddr) -> io::Result<Connection> {
        Connection::of(TcpStream::connect(address)?)
    }

    fn of(stream: TcpStream) -> io::Result<Connection> {
        let address = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let host = match OPERATORS.lock().unwrap().contains(&address) {
            true => "localhost",
            false => HOST,
        };
        Ok(Connection {
            wire: Wire::new(stream),
            host,
        })
    }

    /// How long to wait for the next byte.
    pub fn patience(&self, patience: Duration) {
        self.wire
            .stream
            .set_read_timeout(Some(patience))
            .expect("a read timeout");
        self.wire
            .stream
            .set_write_timeout(Some(patience))
            .expect("a write timeout");
    }

    pub fn finish_sending(&self) {
        self.wire
            .stream
            .shutdown(Shutdown::Write)
            .expect("shut down");
    }

    /// For sending from another thread.
    pub fn try_clone(&self) -> TcpStream {
        self.wire.stream.try_clone().expect("a second handle")
    }

    /// Leaves as a crashed client does, by RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.wire.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("linger");
    }
}

impl<S: Read + Write> Connection<S> {
    /// On a stream that is there already.
    pub fn on(stream: S) -> Connection<S> {
        Connection {
            wire: Wire::new(stream),
            host: HOST,
        }
    }

    pub fn stream(&mut self) -> &mut S {
        &mut self.wire.stream
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// Sends one request and reads its answer, which must come.
    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_request(method, target, fields, body)
            .expect("an answer")
    }

    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let is_host = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("host");
        let mut fields = fields.to_vec();
        if !fields.iter().any(is_host) {
            fields.insert(0, ("Host", self.host));
        }
        let mut bytes = head(method, target, &fields, Some(body.len() as u64)).into_bytes();
        bytes.extend_from_slice(body);
        self.try_send(&bytes)?;
        self.try_answer(method)
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("send");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.stream.write_all(bytes)
    }

    /// The answer to a request sent before, of that method.
    #[track_caller]
    pub fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).expect("an answer")
    }

    pub fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.try_head(method)?;
        answer.content = self.content(answer.framing);
        Ok(answer)
    }

    /// What follows a head that was read before.
    pub fn content(&mut self, framing: Framing) -> Content {
        self.wire.content(framing)
    }

    /// The head alone; its content is still to be read, or to be left.
    pub fn try_head(&mut self, method: &str) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let (start, fields) = self.wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let status = start
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok());
            let status: u16 =
                status.ok_or_else(|| io::Error::other(format!("not a status line: {start:?}")))?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let framing = if method == "HEAD" || status == 204 || status == 304 || status == 101 {
                Framing::None
            } else if fields.is_chunked() {
                Framing::Chunked
            } else {
                fields
                    .content_length()
                    .map_or(Framing::UntilClose, Framing::Length)
            };
            return Ok(Answer {
                status,
                fields,
                framing,
                content: Content::default(),
                interim,
            });
        }
    }

    /// Some bytes of a content whose head was read before.
    pub fn read_some(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let buffered = self.wire.buffer.len().min(bytes.len());
        if buffered > 0 {
            bytes[..buffered].copy_from_slice(&self.wire.buffer[..buffered]);
            self.wire.buffer.drain(..buffered);
            return Ok(buffered);
        }
        self.wire.stream.read(bytes)
    }

    /// Whether the other side has ended it, by closing or by RST, and sent nothing more.
    pub fn has_ended(&mut self) -> bool {
        match self.wire.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Whether the other side has closed it and sent nothing more.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.wire.stream.read(&mut [0]), Ok(0))
    }
}

/// The head of a request as `Connection::request` sends it: with a Host, unless `fields` has one (an empty
/// value leaves it out), and with a Content-Length where there is content.
pub fn head(method: &str, target: &str, fields: &[(&str, &str)], length: Option<u64>) -> String {
    let has = |name: &str| fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !has("host") {
        write!(head, "Host: {HOST}\r\n").unwrap();
    }
    for (name, value) in fields {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    let may_be_empty = matches!(method, "POST" | "PUT" | "PATCH");
    if let Some(length) = length.filter(|&length| length > 0 || may_be_empty)
        && !has("content-length")
        && !has("transfer-encoding")
    {
        write!(head, "Content-Length: {length}\r\n").unwrap();
    }
    head + "\r\n"
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    pub fn text(&self) -> String {
        self.content.text()
    }

    /// All members of `Cache-Status`; the last is ours.
    pub fn cache_status(&self) -> String {
        self.fields.all("cache-status").join(", ")
    }

    pub fn is_hit(&self) -> bool {
        let status = self.cache_status();
        let ours = status.rsplit(", ").next().unwrap_or_default();
        ours.split(';').any(|parameter| parameter.trim() == "hit")
    }

    #[track_caller]
    pub fn age(&self) -> u64 {
        let age = self
            .field("age")
            .unwrap_or_else(|| panic!("no Age in {:?}", self.fields));
        age.parse()
            .unwrap_or_else(|_| panic!("not an Age: {age:?}"))
    }

    /// A 2xx to its very end, and not a body that broke off.
    pub fn is_complete_success(&self) -> bool {
        (200..300).contains(&self.status) && self.content.whole
    }
}
