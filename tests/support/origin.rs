//! A scripted origin on a real socket: a closure says what each request gets, down to the byte at which its
//! connection breaks. It keeps what it was asked. Bodies of any size pass without being held.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Content, Fields, Framing, Gate, Wire, eventually, free_port, pattern};

pub struct Origin {
    place: Place,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

/// What the origin was asked. It is on record from its head on; its content follows.
#[derive(Debug, Clone)]
pub struct Request {
    /// The first request is 1.
    pub number: usize,
    /// The first connection is 1.
    pub connection: usize,
    /// Which request this is on its connection, from 1.
    pub on_connection: usize,
    pub method: String,
    pub target: String,
    pub fields: Fields,
    pub framing: Framing,
    pub content: Content,
}

impl Request {
    /// A parameter of the query. A fill takes along what its key holds and no other field, so this is how a
    /// client tells the script of a cached route what to do.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What a request gets.
#[derive(Clone)]
pub struct Answer {
    message: Message,
    delay: Duration,
    gate: Option<Gate>,
    end: End,
    early: Vec<u8>,
}

#[derive(Clone)]
enum Message {
    Head {
        status: u16,
        fields: Vec<(String, String)>,
        body: Body,
        framing: Chosen,
        cut: Option<u64>,
        pace: Option<Pace>,
    },
    Raw(Vec<u8>),
    Nothing,
}

#[derive(Clone)]
enum Body {
    Bytes(Vec<u8>),
    Pattern(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone)]
struct Pace {
    bytes: usize,
    pause: Pause,
}

#[derive(Clone)]
enum Pause {
    For(Duration),
    Until(Gate),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    KeepAlive,
    Close,
    Reset,
}

/// 200 with a JSON body, as Django REST Framework sends it: without Cache-Control.
pub fn json(body: impl Into<String>) -> Answer {
    status(200, body)
        .field("Content-Type", "application/json")
        .field("Vary", "Accept, Cookie")
}

pub fn status(status: u16, body: impl Into<String>) -> Answer {
    answer(status, Body::Bytes(body.into().into_bytes()))
}

/// Two server-sent events, the second once the gate is open.
pub fn events(gate: &Gate) -> Answer {
    status(200, "data: 1\n\ndata: 2\n\n")
        .field("Content-Type", "text/event-stream; charset=utf-8")
        .chunked()
        .pausing_after(9, gate)
}

/// 200 with so many bytes of `pattern`.
pub fn huge(length: u64) -> Answer {
    answer(200, Body::Pattern(length)).field("Content-Type", "application/json")
}

/// These bytes and no others; the connection closes after them.
pub fn raw(bytes: impl AsRef<[u8]>) -> Answer {
    let message = Message::Raw(bytes.as_ref().to_vec());
    Answer {
        message,
        delay: Duration::ZERO,
        gate: None,
        end: End::Close,
        early: Vec::new(),
    }
}

/// Closes the connection instead of answering.
pub fn hang_up() -> Answer {
    Answer {
        message: Message::Nothing,
        delay: Duration::ZERO,
        gate: None,
        end: End::Close,
        early: Vec::new(),
    }
}

fn answer(status: u16, body: Body) -> Answer {
    let message = Message::Head {
        status,
        fields: Vec::new(),
        body,
        framing: Chosen::Length,
        cut: None,
        pace: None,
    };
    Answer {
        message,
        delay: Duration::ZERO,
        gate: None,
        end: End::KeepAlive,
        early: Vec::new(),
    }
}

impl Answer {
    pub fn field(mut self, name: &str, value: &str) -> Self {
        let Message::Head { fields, .. } = &mut self.message else {
            panic!("raw bytes have no fields")
        };
        fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without what was said of that name.
    pub fn without(mut self, name: &str) -> Self {
        let Message::Head { fields, .. } = &mut self.message else {
            panic!("raw bytes have no fields")
        };
        fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    pub fn chunked(mut self) -> Self {
        *self.framing() = Chosen::Chunked;
        self
    }

    /// No length at all: the body ends with the connection.
    pub fn until_close(mut self) -> Self {
        *self.framing() = Chosen::UntilClose;
        self.end = End::Close;
        self
    }

    /// The connection closes after so many bytes of the body, whatever was promised.
    pub fn cut_after(mut self, bytes: u64) -> Self {
        let Message::Head { cut, .. } = &mut self.message else {
            panic!("raw bytes end where they end")
        };
        *cut = Some(bytes);
        self.end = End::Close;
        self
    }

    /// The same, but by RST.
    pub fn reset_after(self, bytes: u64) -> Self {
        self.cut_after(bytes).resetting()
    }

    /// The body comes in small parts with a pause between two.
    pub fn trickling(mut self, bytes: usize, pause: Duration) -> Self {
        let Message::Head { pace, .. } = &mut self.message else {
            panic!("raw bytes come at once")
        };
        *pace = Some(Pace {
            bytes,
            pause: Pause::For(pause),
        });
        self
    }

    /// So many bytes of the body at a time, and between two parts a wait for the gate.
    pub fn pausing_after(mut self, bytes: usize, gate: &Gate) -> Self {
        let Message::Head { pace, .. } = &mut self.message else {
            panic!("raw bytes come at once")
        };
        *pace = Some(Pace {
            bytes,
            pause: Pause::Until(gate.clone()),
        });
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// These bytes come at once, before any delay or gate: interim answers.
    pub fn early(mut self, bytes: &str) -> Self {
        self.early = bytes.as_bytes().to_vec();
        self
    }

    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Says nothing of it, and closes: as a server whose keep-alive has just run out.
    pub fn closing(mut self) -> Self {
        self.end = End::Close;
        self
    }

    /// Keeps the connection open after raw bytes, as if they were an answer like any other.
    pub fn staying(mut self) -> Self {
        self.end = End::KeepAlive;
        self
    }

    pub fn resetting(mut self) -> Self {
        self.end = End::Reset;
        self
    }

    fn framing(&mut self) -> &mut Chosen {
        match &mut self.message {
            Message::Head { framing, .. } => framing,
            _ => panic!("raw bytes have their own framing"),
        }
    }
}

impl Origin {
    pub fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Origin {
        Origin::start_at(Place::Tcp(free_port()), script)
    }

    pub fn start_on_unix_socket(
        path: &Path,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Origin {
        Origin::start_at(Place::Unix(path.to_owned()), script)
    }

    fn start_at(
        place: Place,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Origin {
        let mut origin = Origin {
            place,
            shared: Arc::new(Shared::new(Box::new(script))),
            listening: None,
        };
        origin.start_again();
        origin
    }

    /// As `upstream` in proxy.yaml.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Tcp(port) => format!("http://127.0.0.1:{port}"),
            Place::Unix(path) => format!("http+unix://{}", path.display()),
        }
    }

    /// host:port, where it listens on TCP.
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(port) => SocketAddr::from(([127, 0, 0, 1], *port)),
            Place::Unix(path) => panic!("on a unix socket: {}", path.display()),
        }
    }

    /// All requests so far, in the order in which their heads arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    pub fn count_of(&self, method: &str) -> usize {
        self.shared
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.method == method)
            .count()
    }

    #[track_caller]
    pub fn last(&self) -> Request {
        self.requests().pop().expect("the origin was asked nothing")
    }

    #[track_caller]
    pub fn wait_for(&self, requests: usize) {
        eventually(
            &format!("the origin has been asked {requests} times"),
            || self.count() >= requests,
        );
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections open at this moment.
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Answers whose reader left before their end.
    pub fn abandoned(&self) -> usize {
        self.shared.abandoned.load(Ordering::SeqCst)
    }

    /// Closes every connection that is waiting for its next request, and any other.
    pub fn close_connections(&self) {
        for socket in self.shared.open.lock().unwrap().values() {
            socket.shut_down();
        }
        eventually("all connections of the origin are closed", || {
            self.open_connections() == 0
        });
    }

    /// Connections are refused from now on.
    pub fn stop(&mut self) {
        let Some(listening) = self.listening.take() else {
            return;
        };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that waits in accept.
        match &self.place {
            Place::Tcp(port) => drop(TcpStream::connect(("127.0.0.1", *port))),
            Place::Unix(path) => drop(UnixStream::connect(path)),
        }
        listening.join().expect("the origin's listener");
        if let Place::Unix(path) = &self.place {
            std::fs::remove_file(path).expect("remove the socket");
        }
        for socket in self.shared.open.lock().unwrap().values() {
            socket.shut_down();
        }
    }

    pub fn start_again(&mut self) {
        assert!(self.listening.is_none(), "it is still listening");
        self.shared.stopping.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        let listener = match &mut self.place {
            Place::Tcp(port) => Listener::Tcp(listen(port)),
            Place::Unix(path) => {
                Listener::Unix(UnixListener::bind(path).expect("listen on a unix socket"))
            }
        };
        self.listening = Some(thread::spawn(move || accept(&listener, &shared)));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

enum Place {
    Tcp(u16),
    Unix(PathBuf),
}

struct Shared {
    script: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    open: Mutex<HashMap<usize, Arc<Socket>>>,
    abandoned: AtomicUsize,
    stopping: AtomicBool,
}

impl Shared {
    fn new(script: Box<dyn Fn(&Request) -> Answer + Send + Sync>) -> Self {
        Shared {
            script,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            abandoned: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Std's listen sets SO_REUSEADDR and a backlog of 128; a test that opens more at once would meet SYN retries.
fn listen(port: &mut u16) -> TcpListener {
    use socket2::{Domain, Socket, Type};
    for _ in 0..5 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("reuse the address");
        if socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], *port)).into())
            .is_ok()
        {
            socket.listen(4096).expect("listen");
            return socket.into();
        }
        *port = free_port();
    }
    panic!("no port to listen on");
}

fn accept(listener: &Listener, shared: &Arc<Shared>) {
    loop {
        let socket = match listener {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Socket::Unix(stream)),
        };
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let socket = Arc::new(socket);
        shared
            .open
            .lock()
            .unwrap()
            .insert(number, Arc::clone(&socket));
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let served = serve(&socket, number, &shared);
            if served == End::Reset {
                socket.reset_on_close();
            }
            // Before the entry goes, so that whoever sees it gone finds the connection closed.
            if served == End::Close {
                socket.shut_down();
            }
            shared.open.lock().unwrap().remove(&number);
        });
    }
}

/// One connection, until one of the two sides ends it.
fn serve(socket: &Socket, connection: usize, shared: &Shared) -> End {
    let mut wire = Wire::new(socket);
    for on_connection in 1.. {
        let Ok(Some((start, fields))) = wire.head() else {
            break;
        };
        let mut words = start.split(' ');
        let framing = if fields.is_chunked() {
            Framing::Chunked
        } else {
            fields
                .content_length()
                .map_or(Framing::None, Framing::Length)
        };
        let mut request = Request {
            number: 0,
            connection,
            on_connection,
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            fields,
            framing,
            content: Content::default(),
        };
        {
            let mut requests = shared.requests.lock().unwrap();
            request.number = requests.len() + 1;
            requests.push(request.clone());
        }
        request.content = wire.content(framing);
        shared.requests.lock().unwrap()[request.number - 1].content = request.content.clone();
        if !request.content.whole {
            break;
        }

        let answer = (shared.script)(&request);
        let mut early = socket;
        if early.write_all(&answer.early).is_err() {
            break;
        }
        thread::sleep(answer.delay);
        if let Some(gate) = &answer.gate {
            gate.wait();
        }
        if write_answer(socket, &answer.message, request.method == "HEAD").is_err() {
            shared.abandoned.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if answer.end != End::KeepAlive {
            return answer.end;
        }
    }
    End::Close
}

fn write_answer(mut socket: &Socket, message: &Message, to_head: bool) -> io::Result<()> {
    let (status, fields, body, framing, cut, pace) = match message {
        Message::Nothing => return Ok(()),
        Message::Raw(bytes) => return socket.write_all(bytes),
        Message::Head {
            status,
            fields,
            body,
            framing,
            cut,
            pace,
        } => (*status, fields, body, *framing, *cut, pace),
    };
    let length = match body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::Pattern(length) => *length,
    };
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in fields {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    let has_content = status != 204 && status != 304;
    match framing {
        Chosen::Length if has_content => write!(head, "Content-Length: {length}\r\n").unwrap(),
        Chosen::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Chosen::Length | Chosen::UntilClose => {}
    }
    head.push_str("\r\n");
    if to_head || !has_content {
        return socket.write_all(head.as_bytes());
    }

    let end = cut.unwrap_or(length).min(length);
    // A small answer in one write, as servers do.
    let mut out = head.into_bytes();
    let mut at = 0;
    while at < end {
        let room = pace
            .as_ref()
            .map_or(pattern::BLOCK, |pace| pace.bytes.min(pattern::BLOCK));
        let part = room.min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let bytes = match body {
            Body::Bytes(bytes) => &bytes[at as usize..at as usize + part],
            Body::Pattern(_) => pattern::at(at, part),
        };
        if framing == Chosen::Chunked {
            out.extend_from_slice(format!("{part:x}\r\n").as_bytes());
        }
        out.extend_from_slice(bytes);
        if framing == Chosen::Chunked {
            out.extend_from_slice(b"\r\n");
        }
        at += part as u64;
        if pace.is_some() || out.len() >= pattern::BLOCK {
            socket.write_all(&out)?;
            out.clear();
        }
        // Between two parts, and not after the last: then it is ready for the next request.
        match pace.as_ref().map(|pace| &pace.pause).filter(|_| at < end) {
            None => {}
            Some(Pause::For(time)) => thread::sleep(*time),
            Some(Pause::Until(gate)) => gate.wait(),
        }
    }
    if framing == Chosen::Chunked && cut.is_none() {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    socket.write_all(&out)
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn shut_down(&self) {
        // Fails where the other side was faster, and then there is nothing to do.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn reset_on_close(&self) {
        if let Socket::Tcp(stream) = self {
            socket2::SockRef::from(stream)
                .set_linger(Some(Duration::ZERO))
                .expect("linger");
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).read(bytes),
            Socket::Unix(stream) => (&mut &*stream).read(bytes),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write(bytes),
            Socket::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
