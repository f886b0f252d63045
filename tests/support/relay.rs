//! What lies between one instance and its store: a TCP relay that can be slow, hang, be cut, and lead elsewhere. It
//! keeps what was said.

use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::free_port;
use super::redis::Reply;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Whatever passes is late by so much.
    Slow(Duration),
    /// Nothing passes, and nothing is lost.
    Hangs,
    /// Connections are closed, and so is every new one.
    Cut,
    /// New connections are taken, and nobody ever answers on them, whatever the way becomes.
    Swallows,
    /// What is open hangs, and whoever else comes is told that there is no room, and sent away.
    Full,
}

/// What passed, whole commands and whole answers, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Command(Vec<String>),
    Answer(Reply),
}

pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    to: Mutex<u16>,
    way: Mutex<Way>,
    open: Mutex<Vec<TcpStream>>,
    swallowed: Mutex<Vec<TcpStream>>,
    sent_away: AtomicUsize,
    said: Mutex<Vec<Said>>,
    breaks_at: Mutex<Option<&'static str>>,
    loses: AtomicBool,
    stopping: AtomicBool,
}

impl Relay {
    pub fn to(port: u16) -> Relay {
        let (listener, own) = (0..5)
            .find_map(|_| {
                let port = free_port();
                Some((TcpListener::bind(("127.0.0.1", port)).ok()?, port))
            })
            .expect("a port to listen on");
        let shared = Arc::new(Shared {
            to: Mutex::new(port),
            way: Mutex::new(Way::Open),
            open: Mutex::default(),
            swallowed: Mutex::default(),
            sent_away: AtomicUsize::new(0),
            said: Mutex::default(),
            breaks_at: Mutex::default(),
            loses: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let listening = Some(thread::spawn(move || accepting.accept(&listener)));
        Relay {
            port: own,
            shared,
            listening,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn becomes(&self, way: Way) {
        *self.shared.way.lock().unwrap() = way;
        if way == Way::Cut {
            self.shared.close();
        }
    }

    /// How many connections it has swallowed.
    pub fn swallowed(&self) -> usize {
        self.shared.swallowed.lock().unwrap().len()
    }

    /// How many connections it has sent away.
    pub fn sent_away(&self) -> usize {
        self.shared.sent_away.load(Ordering::SeqCst)
    }

    /// What was said since it was last asked, without the heartbeat: PING, and an MGET of one key where all others are
    /// of several; and their answers.
    pub fn said(&self) -> Vec<Said> {
        let mut said = std::mem::take(&mut *self.shared.said.lock().unwrap());
        said.retain(|said| match said {
            Said::Command(words) => words[0] != "PING" && (words[0] != "MGET" || words.len() > 2),
            Said::Answer(Reply::List(values)) => values.len() > 1,
            Said::Answer(answer) => *answer != Reply::Ok("PONG".to_owned()),
        });
        said
    }

    /// Where new connections lead.
    pub fn leads_to(&self, port: u16) {
        *self.shared.to.lock().unwrap() = port;
    }

    /// The next command with this word does not pass, and its connection is closed.
    pub fn breaks_at(&self, word: &'static str) {
        *self.shared.breaks_at.lock().unwrap() = Some(word);
    }

    /// The next answer to a look-up does not pass, and those behind it do: from then on each is taken for that of the one before.
    pub fn loses_an_answer(&self) {
        self.shared.loses.store(true, Ordering::SeqCst);
    }

    /// Whether that has come to pass.
    pub fn has_lost(&self) -> bool {
        !self.shared.loses.load(Ordering::SeqCst)
    }

    /// Whether that has come to pass.
    pub fn has_broken(&self) -> bool {
        self.shared.breaks_at.lock().unwrap().is_none()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that waits in accept; fails where that has ended.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
        self.shared.close();
    }
}

impl Shared {
    /// Takes the whole values off the beginning.
    fn keep(&self, unread: &mut Vec<u8>, side: Side) {
        let (mut cursor, mut read) = (Cursor::new(&unread[..]), 0);
        let mut said = self.said.lock().unwrap();
        while let Ok(value) = Reply::read(&mut cursor) {
            read = cursor.position() as usize;
            said.push(match (side, value) {
                (Side::Client, Reply::List(words)) => {
                    Said::Command(words.iter().map(Reply::text).collect())
                }
                (_, value) => Said::Answer(value),
            });
        }
        unread.drain(..read);
    }

    fn breaks(&self, part: &[u8]) -> bool {
        let mut breaks_at = self.breaks_at.lock().unwrap();
        let holds = |word: &mut &str| part.windows(word.len()).any(|some| some == word.as_bytes());
        breaks_at.take_if(holds).is_some()
    }

    /// What passes of some whole answers. The heartbeat asks for one value alone.
    fn loses(&self, part: &[u8]) -> Vec<u8> {
        let (mut cursor, mut begins) = (Cursor::new(part), 0);
        while let Ok(value) = Reply::read(&mut cursor) {
            let ends = cursor.position() as usize;
            if matches!(value, Reply::List(values) if values.len() > 1) {
                self.loses.store(false, Ordering::SeqCst);
                return [&part[..begins], &part[ends..]].concat();
            }
            begins = ends;
        }
        part.to_vec()
    }

    fn way(&self) -> Way {
        *self.way.lock().unwrap()
    }

    fn close(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            // Fails where the other side was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(mut client) = client else { continue };
            if self.way() == Way::Full {
                // Fails where the other side is gone.
                let _ = client.write_all(b"-ERR max number of clients reached\r\n");
                self.sent_away.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            if self.way() == Way::Swallows {
                self.swallowed.lock().unwrap().push(client);
                continue;
            }
            let to = SocketAddr::from(([127, 0, 0, 1], *self.to.lock().unwrap()));
            let Ok(server) = TcpStream::connect(to) else {
                continue;
            };
            let mut open = self.open.lock().unwrap();
            // Under the lock, or a connection made just before a cut would outlive it.
            if self.way() == Way::Cut {
                continue;
            }
            let ways = [
                (&client, &server, Side::Client),
                (&server, &client, Side::Server),
            ];
            for (from, to, side) in ways {
                let both = from
                    .try_clone()
                    .and_then(|from| Ok((from, to.try_clone()?)));
                let Ok((from, to)) = both else { continue };
                // Small messages at once, as without a relay.
                let _ = to.set_nodelay(true);
                let shared = self.clone();
                thread::spawn(move || shared.pump(from, to, side));
            }
            open.extend([client, server]);
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, side: Side) {
        let (mut part, mut unread) = ([0; 16 * 1024], Vec::new());
        while let Ok(length @ 1..) = from.read(&mut part) {
            // Before it goes on, or its answer could be on record first.
            unread.extend_from_slice(&part[..length]);
            self.keep(&mut unread, side);
            if self.breaks(&part[..length]) {
                break;
            }
            if let Way::Slow(late) = self.way() {
                thread::sleep(late);
            }
            while matches!(self.way(), Way::Hangs | Way::Full)
                && !self.stopping.load(Ordering::SeqCst)
            {
                thread::sleep(Duration::from_millis(2));
            }
            let loses = matches!(side, Side::Server) && self.loses.load(Ordering::SeqCst);
            let left = loses.then(|| self.loses(&part[..length]));
            if to
                .write_all(left.as_deref().unwrap_or(&part[..length]))
                .is_err()
            {
                break;
            }
        }
        // Fails where it is closed already.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}
