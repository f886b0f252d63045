//! What is said, on its way to whoever reads it. A thread of its own writes it, so that nobody who serves a request waits for a
//! reader that has stopped reading (a frozen pipe, a terminal at Ctrl-S). What finds no room is lost, and is said to be.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Bytes that may wait to be read: some ten thousand requests. A line has dozens of bytes, so this bounds their number, too.
const ROOM: usize = 4 * 1024 * 1024;

/// A pipe takes so much whole or not at all (PIPE_BUF on Linux): no line is cut by the end of the process, or by what another says there.
const AT_ONCE: usize = 4096;

/// What comes so soon after the first line goes out with it: waking the writer for each would cost more than its write.
const GATHERED: Duration = Duration::from_millis(1);

/// How long the end of the process waits for who reads what was said before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a buffer keeps of its memory once it is written.
const KEPT: usize = 64 * 1024;

/// A stream that is written by the line.
pub struct Lines {
    waiting: Mutex<Waiting>,
    said: Condvar,
    written: Condvar,
    lost: AtomicU64,
}

struct Waiting {
    text: Vec<u8>,
    /// Bytes that are being written.
    leaving: usize,
    /// Lines lost behind `text`.
    lost: u64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.lost == 0
    }
}

impl Lines {
    pub const fn new() -> Self {
        Lines {
            waiting: Mutex::new(Waiting {
                text: Vec::new(),
                leaving: 0,
                lost: 0,
            }),
            said: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// Waits for nobody.
    pub fn say(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        let has_room = waiting.text.len() + waiting.leaving + line.len() <= ROOM;
        // Once one is lost, so are all until that can be said: one gap, and what comes after it is told after it.
        if has_room && waiting.lost == 0 {
            waiting.text.extend_from_slice(line);
        } else {
            waiting.lost += 1;
            self.lost.fetch_add(1, Relaxed);
        }
        drop(waiting);
        self.said.notify_one();
    }

    /// Waits until all of it is written, but not for a reader that is not there.
    pub fn finish(&self) {
        let mut waiting = self.waiting.lock();
        let is_left = |waiting: &mut Waiting| !waiting.is_empty() || waiting.leaving > 0;
        self.written.wait_while_for(&mut waiting, is_left, PATIENCE);
    }

    /// Lines lost since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Writes from now on what is said. `missing` words how many lines were lost, `failed` is told once that, and why, none can be written.
    pub fn write_to(
        &'static self,
        name: &str,
        mut to: File,
        missing: fn(u64) -> Vec<u8>,
        failed: fn(&io::Error),
    ) -> io::Result<()> {
        let writer = thread::Builder::new().name(name.to_owned());
        writer.spawn(move || {
            let mut text = Vec::new();
            let (mut unsaid, mut is_torn, mut fails) = (0, false, false);
            loop {
                let lost = unsaid + self.next(&mut text);
                let said = text.len();
                if lost > 0 {
                    text.extend(missing(lost));
                }
                is_torn = is_torn && write_all(&mut to, b"\n").is_err();
                let Err((at, error)) = write_all(&mut to, &text) else {
                    (unsaid, is_torn, fails) = (0, false, false);
                    continue;
                };
                let cut = &text[at.min(said)..said];
                let lines = memchr::memchr_iter(b'\n', cut).count() as u64;
                self.lost.fetch_add(lines, Relaxed);
                unsaid = lost + lines;
                // What comes next begins a line of its own.
                is_torn = text[..at].last().map_or(is_torn, |last| *last != b'\n');
                if !mem::replace(&mut fails, true) {
                    failed(&error);
                }
            }
        })?;
        Ok(())
    }

    /// What is to be written next, in place of what was written last, and how many lines were lost behind it.
    fn next(&self, text: &mut Vec<u8>) -> u64 {
        text.clear();
        text.shrink_to(KEPT);
        let mut waiting = self.waiting.lock();
        waiting.leaving = 0;
        if waiting.is_empty() {
            self.written.notify_all();
            self.said
                .wait_while(&mut waiting, |waiting| waiting.is_empty());
            MutexGuard::unlocked(&mut waiting, || thread::sleep(GATHERED));
        }
        mem::swap(&mut waiting.text, text);
        waiting.leaving = text.len();
        mem::take(&mut waiting.lost)
    }
}

/// All of it, or how much of it was written, and what was wrong then.
fn write_all(to: &mut File, text: &[u8]) -> Result<(), (usize, io::Error)> {
    let (mut at, mut until) = (0, 0);
    while at < text.len() {
        if at == until {
            until += whole_lines(&text[at..]);
        }
        match to.write(&text[at..until]) {
            Ok(0) => return Err((at, ErrorKind::WriteZero.into())),
            Ok(written) => at += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody who shares the stream has made it so: it is full.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}

/// The length of the lines that go out at once, or of the first, if it is longer than that.
fn whole_lines(text: &[u8]) -> usize {
    if text.len() <= AT_ONCE {
        return text.len();
    }
    let end = memchr::memrchr(b'\n', &text[..AT_ONCE]).or_else(|| memchr::memchr(b'\n', text));
    end.map_or(text.len(), |end| end + 1)
}
