//! The requests' own connection to Redis: look-ups, steps on states and small copies go out, their replies come in, in order.
//!
//! A request pays for what it uses: its command is written straight into the buffer that is sent next, and what it is
//! given is a slice of what was read. All who ask in one turn of the scheduler share one system call, and mostly one
//! to read. When the connection is lost, so is every command on it, and all who wait are told.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use smallvec::{SmallVec, smallvec};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::frame::{self, Extent, Reply};
use super::link;
use super::script::{Ask, By, Call, Part};
use crate::coherence::StateKey;
use crate::coherence::life::{Heard, Record};
use crate::coherence::protocol::Incarnation;

/// Room that is made for what is read, or more if the last reply was long.
const READ: usize = 32 * 1024;

/// So much at most.
const LONGEST_READ: usize = 1024 * 1024;

/// Bytes of buffers that are kept to be read into once more, when nobody has a slice of them any more.
const SPENT: usize = 1024 * 1024;

/// A buffer of commands that has grown beyond this is not kept.
const KEPT: usize = 256 * 1024;

pub(super) struct Pipe {
    queue: Arc<Mutex<Queue>>,
    standing: Arc<Standing>,
    driver: JoinHandle<()>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What is learnt of the server while it is asked.
#[derive(Default)]
pub(super) struct Standing {
    /// The life of the store's data, as last seen.
    pub(super) life: Heard,
    /// It answers, but with errors that no retry on this link will mend.
    pub(super) failing: AtomicBool,
    /// Which history its data had when it was connected to, where it says so; and whether that is another now.
    pub(super) history: OnceLock<String>,
    pub(super) is_another: AtomicBool,
    /// It has answered something else than it was asked.
    pub(super) out_of_step: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// Asked in front of the next look-up: whether this is the life still, and the server one that takes writes; and which history
    /// its data has.
    doubt: Option<(Bytes, Option<Bytes>)>,
    /// Commands that have not been sent.
    out: BytesMut,
    /// What is to be sent behind them, and still takes more of its kind.
    groups: Vec<Group>,
    /// Who waits for a reply, in the order of the commands.
    waiting: VecDeque<Waiting>,
    /// The driver, while it has nothing to send: taken by who wakes it.
    asleep: Option<Waker>,
    lost: bool,
}

/// Who waits for the last of some replies: one, or several for the same.
struct Waiting {
    /// Those before it, of which nobody hears.
    unheard: usize,
    tell: SmallVec<[oneshot::Sender<Bytes>; 1]>,
    due: Due,
}

/// What the reply is to be.
#[derive(Clone, Copy)]
pub(super) enum Due {
    Any,
    /// So many values, or an error: any other is the answer to another question.
    Values(usize),
    /// What a script says, or an error.
    Script,
    Doubt(Doubt),
}

/// What is heard before those behind it are.
#[derive(Clone, Copy)]
pub(super) enum Doubt {
    /// Which life it was when it was asked.
    Life(Incarnation),
    History,
}

/// What several requests tell by one call of the script.
pub(super) struct Group {
    pub(super) call: Call,
    pub(super) digest: String,
    pub(super) prefix: String,
    pub(super) lifetime: u64,
    tell: SmallVec<[oneshot::Sender<Bytes>; 1]>,
}

impl Group {
    pub(super) fn of(call: Call, digest: &str, prefix: &str, lifetime: u64) -> Group {
        Group {
            call,
            digest: digest.to_owned(),
            prefix: prefix.to_owned(),
            lifetime,
            tell: SmallVec::new(),
        }
    }
}

impl Pipe {
    /// Takes a connection that is ready for commands.
    pub(super) fn over<S>(stream: S, standing: Arc<Standing>) -> Pipe
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let driver = Driver {
            stream,
            queue: queue.clone(),
            standing: standing.clone(),
            sending: BytesMut::new(),
            unflushed: false,
            read: BytesMut::new(),
            size: 0,
            spent: VecDeque::new(),
            last: 0,
            turn_taken: false,
        };
        Pipe {
            queue,
            standing,
            driver: tokio::spawn(driver),
        }
    }

    /// From now on the next look-up has this in front of it: a write command that gives the record of the store's life, and what
    /// tells its history. So whoever has asked behind it knows which life it is, and if the server takes no writes, as a replica does,
    /// or has been one, they are told nothing.
    pub(super) fn doubt(&self, life: Bytes, history: Option<Bytes>) {
        self.queue.lock().doubt = Some((life, history));
    }

    /// Asks for the values at `copy`, if there is one, and at `prefix:state` for each state. Gives the reply as
    /// it came, in its turn, or nothing if the connection is lost.
    pub(super) fn mget<'s>(
        &self,
        copy: Option<&str>,
        prefix: &str,
        states: impl Iterator<Item = &'s str> + Clone,
    ) -> oneshot::Receiver<Bytes> {
        let mut queue = self.queue.lock();
        if let Some((life, history)) = queue.doubt.take() {
            let before = Doubt::Life(self.standing.life.last());
            let asked = std::iter::once((before, life));
            let asked = asked.chain(history.map(|ask| (Doubt::History, ask)));
            for (doubt, ask) in asked {
                queue.put(0, SmallVec::new(), Due::Doubt(doubt), |out| {
                    out.extend_from_slice(&ask)
                });
            }
        }
        let (tell, told) = oneshot::channel();
        let keys = states.clone().count() + usize::from(copy.is_some());
        queue.put(0, smallvec![tell], Due::Values(keys), |out| {
            frame::command(out, keys + 1);
            frame::argument(out, &[b"MGET"]);
            if let Some(copy) = copy {
                frame::argument(out, &[copy.as_bytes()]);
            }
            for state in states {
                frame::argument(out, &[prefix.as_bytes(), b":", state.as_bytes()]);
            }
        });
        wake(queue);
        told
    }

    /// Says so many commands, which `write` writes. Gives the last one's reply as it came, in its turn, or nothing if the
    /// connection is lost.
    pub(super) fn say(
        &self,
        commands: usize,
        due: Due,
        write: impl FnOnce(&mut BytesMut),
    ) -> oneshot::Receiver<Bytes> {
        let (tell, told) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.put(commands - 1, smallvec![tell], due, write);
        wake(queue);
        told
    }

    /// Tells some states along with what waits to be sent, or as the first of a group. Gives the reply to all of
    /// them, and what of it is this one's.
    pub(super) fn tell(
        &self,
        ask: Ask,
        states: &[StateKey],
        group: impl FnOnce(Call) -> Group,
    ) -> (oneshot::Receiver<Bytes>, Part) {
        let (tell, told) = oneshot::channel();
        let mut queue = self.queue.lock();
        let waiting = queue.groups.iter_mut().find(|group| group.call.takes(ask));
        let part = match waiting {
            Some(group) => {
                group.tell.push(tell);
                group.call.add(ask, states)
            }
            None => {
                let (call, part) = Call::new(ask, states);
                if !queue.lost {
                    let mut group = group(call);
                    group.tell.push(tell);
                    queue.groups.push(group);
                }
                part
            }
        };
        wake(queue);
        (told, part)
    }

    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.waiting.is_empty() && queue.groups.is_empty()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.driver.is_finished()
    }

    /// Everyone who waits learns at once that it is gone.
    pub(super) fn give_up(&self) {
        self.queue.lock().lose();
        self.driver.abort();
    }
}

impl Standing {
    /// Whether a reply can be the one that is due; and what a doubt is answered.
    fn judge(&self, due: Due, reply: &[u8]) -> io::Result<()> {
        let is_due = match (due, frame::reply(reply)?) {
            (Due::Any, _) => true,
            (Due::Values(asked), Reply::Values(values)) => values.left() == asked,
            (Due::Values(_), reply) => matches!(reply, Reply::Error(_)),
            (Due::Script | Due::Doubt(_), _) => matches!(reply.first(), Some(b'$' | b'-')),
        };
        match due {
            _ if !is_due => Err(self.is_out_of_step()),
            Due::Any | Due::Values(_) | Due::Script => Ok(()),
            Due::Doubt(Doubt::Life(before)) => self.hear_of_life(before, reply),
            Due::Doubt(Doubt::History) => self.hear_of_history(reply),
        }
    }

    /// Why nothing can be asked here any more, if that is known.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let is = |fault: &AtomicBool| fault.load(Ordering::Relaxed);
        match () {
            () if is(&self.failing) => Some(
                "the server cannot be used at the moment (loading, read-only or out of its cluster)",
            ),
            () if is(&self.is_another) => Some(
                "its data has another history than when it was connected to: it has been the copy of another server, or has begun to be copied",
            ),
            () if is(&self.out_of_step) => {
                Some("it answered something else than it was asked: look at what stands between")
            }
            () => None,
        }
    }

    fn is_out_of_step(&self) -> io::Error {
        self.out_of_step.store(true, Ordering::Relaxed);
        io::Error::other("an answer to something else than was asked")
    }

    fn hear_of_history(&self, reply: &[u8]) -> io::Result<()> {
        let told = match frame::reply(reply)? {
            Reply::Text(text) => std::str::from_utf8(text).ok().and_then(link::history),
            Reply::Error(_) | Reply::Values(_) => None,
        };
        if told == self.history.get().map(String::as_str) {
            return Ok(());
        }
        self.is_another.store(true, Ordering::Relaxed);
        Err(io::Error::other("its data has another history"))
    }

    /// `before`: which life it was when it was asked. Where no record stands, no life is known, and a miss begins one.
    fn hear_of_life(&self, before: Incarnation, reply: &[u8]) -> io::Result<()> {
        let record = match frame::reply(reply)? {
            Reply::Text(b"") | Reply::Error("WRONGTYPE") => None,
            Reply::Text(text) => {
                let record = std::str::from_utf8(text).ok().and_then(Record::parse);
                if record.is_none() {
                    // Not ours, or the answer to another question: no life has ended by it. An empty answer to another question
                    // cannot be told from no record.
                    self.life.doubt();
                    return Ok(());
                }
                record
            }
            Reply::Error(_) | Reply::Values(_) => {
                self.failing.store(true, Ordering::Relaxed);
                return Err(io::Error::other("it takes no writes"));
            }
        };
        let life = record.map_or(Incarnation(0), |record| record.life);
        self.life.hear(before, life);
        Ok(())
    }
}

fn wake(mut queue: MutexGuard<'_, Queue>) {
    let asleep = queue.asleep.take();
    drop(queue);
    if let Some(driver) = asleep {
        driver.wake();
    }
}

impl Queue {
    /// Writes commands. Lost, it drops who would tell.
    fn put(
        &mut self,
        unheard: usize,
        tell: SmallVec<[oneshot::Sender<Bytes>; 1]>,
        due: Due,
        write: impl FnOnce(&mut BytesMut),
    ) {
        if !self.lost {
            write(&mut self.out);
            self.waiting.push_back(Waiting { unheard, tell, due });
        }
    }

    /// Writes what waits for more of its kind no longer.
    fn close_groups(&mut self) {
        for group in self.groups.drain(..) {
            let by = By::Digest(&group.digest);
            group
                .call
                .write(&mut self.out, by, &group.prefix, group.lifetime);
            self.waiting.push_back(Waiting {
                unheard: 0,
                tell: group.tell,
                due: Due::Script,
            });
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.waiting.clear();
        self.groups.clear();
        self.out = BytesMut::new();
    }
}

/// Says some commands on a connection that nobody else uses yet, and gives their replies.
pub(super) async fn say<S>(stream: &mut S, commands: &[redis::Cmd]) -> io::Result<Vec<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for command in commands {
        stream.write_all(&command.get_packed_command()).await?;
    }
    stream.flush().await?;
    let (mut replies, mut read) = (Vec::new(), BytesMut::new());
    while replies.len() < commands.len() {
        match frame::extent(&read)? {
            Extent::Whole(length) => replies.push(read.split_to(length).freeze()),
            Extent::AtLeast(_) if stream.read_buf(&mut read).await? == 0 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Extent::AtLeast(_) => {}
        }
    }
    Ok(replies)
}

/// The least room for replies that have not begun, and what is made where there is less, after one of such a length: for some
/// short ones, and for one long one exactly, so that neither it is moved once its length is known, nor the beginning of the next.
fn room(last: usize) -> (usize, usize) {
    match last {
        ..READ => (READ / 4, (last * 8).max(READ)),
        READ.. => (last.min(LONGEST_READ), last.min(LONGEST_READ)),
    }
}

/// The one task that writes and reads.
struct Driver<S> {
    stream: S,
    queue: Arc<Mutex<Queue>>,
    standing: Arc<Standing>,
    sending: BytesMut,
    /// What was sent may still stand in a buffer of the stream's own, as under TLS.
    unflushed: bool,
    read: BytesMut,
    size: usize,
    /// The buffers before it, each with its size, the oldest first.
    spent: VecDeque<(BytesMut, usize)>,
    /// How long the last reply was.
    last: usize,
    /// Everybody else has had their turn since there was something to send.
    turn_taken: bool,
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.queue.lock().lose();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.hear(cx).and_then(|()| self.send(cx)) {
            Ok(()) => Poll::Pending,
            // Whoever waits is told by the drop.
            Err(_) => Poll::Ready(()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Reads all that is there, and hands it on.
    fn hear(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            // Of a reply that has begun, `hand_on` has seen to it.
            if self.read.is_empty() {
                let (least, wanted) = room(self.last);
                if self.read.capacity() < least {
                    self.make_room(wanted);
                }
            }
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => self.hand_on()?,
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
    }

    /// So that so many bytes more can be read. A fresh buffer for each read would be given free on another thread, and cost
    /// fresh pages.
    fn make_room(&mut self, wanted: usize) {
        let is_there = self.read.capacity() - self.read.len() >= wanted;
        if is_there || self.read.try_reclaim(wanted) {
            return;
        }
        let size = (self.read.len() + wanted).max(READ);
        let free = self.spent.front_mut();
        let free = match free.is_some_and(|(oldest, _)| oldest.try_reclaim(size)) {
            true => self.spent.pop_front(),
            false => None,
        };
        let (mut next, size) = free.unwrap_or_else(|| (BytesMut::with_capacity(size), size));
        next.extend_from_slice(&self.read);
        let mut before = std::mem::replace(&mut self.read, next);
        before.clear();
        let of_before = std::mem::replace(&mut self.size, size);
        self.spent.push_back((before, of_before));
        while self.spent.iter().map(|(_, size)| size).sum::<usize>() > SPENT {
            self.spent.pop_front();
        }
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let mut replies: SmallVec<[Bytes; 64]> = SmallVec::new();
        loop {
            match frame::extent(&self.read)? {
                Extent::Whole(length) => replies.push(self.read.split_to(length).freeze()),
                Extent::AtLeast(_) if self.read.is_empty() => break,
                Extent::AtLeast(length) => {
                    self.make_room(length.saturating_sub(self.read.len()));
                    break;
                }
            }
        }
        if let Some(last) = replies.last() {
            self.last = last.len();
        }
        let mut told: SmallVec<[(Waiting, Bytes); 64]> = SmallVec::new();
        let mut good = Ok(());
        {
            let mut queue = self.queue.lock();
            for reply in replies {
                match queue.waiting.front_mut() {
                    Some(waiting) if waiting.unheard > 0 => waiting.unheard -= 1,
                    Some(waiting) => {
                        good = self.standing.judge(waiting.due, &reply);
                        if good.is_err() {
                            // Neither it nor anybody behind it is told anything.
                            break;
                        }
                        told.extend(queue.waiting.pop_front().map(|who| (who, reply)));
                    }
                    None => {
                        good = Err(self.standing.is_out_of_step());
                        break;
                    }
                }
            }
        }
        for (Waiting { tell, .. }, reply) in told {
            for tell in tell {
                // Who has gone does not hear of it.
                let _ = tell.send(reply.clone());
            }
        }
        good
    }

    /// Sends what there is, once everybody who is ready has added theirs.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.sending.is_empty() {
                if self.unflushed {
                    match Pin::new(&mut self.stream).poll_flush(cx) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(flushed) => flushed?,
                    }
                    self.unflushed = false;
                }
                let mut queue = self.queue.lock();
                if queue.out.is_empty() && queue.groups.is_empty() {
                    queue.asleep = Some(cx.waker().clone());
                    return Ok(());
                }
                if !self.turn_taken {
                    // It goes behind all that are ready, and those whom a look at the system finds to be.
                    self.turn_taken = true;
                    let _ = pin!(yield_now()).poll(cx);
                    return Ok(());
                }
                self.turn_taken = false;
                if self.sending.capacity() > KEPT {
                    self.sending = BytesMut::new();
                }
                queue.close_groups();
                std::mem::swap(&mut self.sending, &mut queue.out);
            }
            match poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.sending) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(_)) => self.unflushed = true,
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
    }
}
