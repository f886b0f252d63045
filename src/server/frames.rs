//! What a client's frames cost, counted as they pass by: a connection whose frames are work for us and bring nothing
//! forward is ended. RFC 9113 §10.5.
//!
//! The codec bounds what a connection may hold (header lists, CONTINUATION, streams, resets not accepted yet), and
//! answers as fast as it is asked: PING, SETTINGS, resets of what has begun, windows opened a byte at a time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Frames that bring nothing forward: so many at once, and so many a second. As nghttp2 has it for resets; a browser or
/// a proxy in front comes nowhere near, even where its users leave all at once.
const AT_ONCE: u32 = 1000;
const A_SECOND: u64 = 33;

/// A window is opened for free once in so many bytes that it let through.
const FOR_A_WINDOW: u64 = 256;
const MOST_CREDIT: u64 = 1024 * 1024;

/// The client's first bytes.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// One connection's account.
struct Meter {
    /// Bytes that are no frame's head: of the preface at first, then of payloads.
    skip: usize,
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    known: usize,
    /// Whether settings have come, as they must before all others (§3.4).
    begun: bool,
    left: u32,
    filled: Instant,
    /// Bytes written that no window was opened for yet.
    credit: u64,
}

/// Why a connection is ended.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// It has sent too much of what brings nothing forward.
    Flood,
    NoSettings,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter {
            skip: PREFACE.len(),
            head: [0; HEAD],
            known: 0,
            begun: false,
            left: AT_ONCE,
            filled: now,
            credit: 0,
        }
    }

    fn wrote(&mut self, bytes: usize) {
        self.credit = (self.credit + bytes as u64).min(MOST_CREDIT);
    }

    fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Fault> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known < HEAD {
                return Ok(());
            }
            self.known = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]);
            self.skip = length as usize;
            if !self.begun && (kind != SETTINGS || flags & ACK != 0) {
                return Err(Fault::NoSettings);
            }
            self.begun = true;
            if self.brings_nothing(kind, flags, length) {
                self.pay(&now)?;
            }
        }
    }

    fn brings_nothing(&mut self, kind: u8, flags: u8, length: u32) -> bool {
        match kind {
            DATA => length == 0 && flags & END_STREAM == 0,
            HEADERS => flags & END_HEADERS == 0,
            WINDOW_UPDATE if self.credit >= FOR_A_WINDOW => {
                self.credit -= FOR_A_WINDOW;
                false
            }
            // PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION, and what nobody knows.
            _ => true,
        }
    }

    fn pay(&mut self, now: impl Fn() -> Instant) -> Result<(), Fault> {
        if self.left == 0 {
            let now = now();
            let earned = now.duration_since(self.filled).as_millis() as u64 * A_SECOND / 1000;
            if earned == 0 {
                return Err(Fault::Flood);
            }
            (self.left, self.filled) = (earned.min(u64::from(AT_ONCE)) as u32, now);
        }
        self.left -= 1;
        Ok(())
    }
}

/// A client's stream that ends with an error once its frames are a flood.
pub struct Metered<S> {
    stream: S,
    meter: Meter,
}

impl<S> Metered<S> {
    pub fn new(stream: S) -> Self {
        Metered {
            stream,
            meter: Meter::new(Instant::now()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Metered { stream, meter } = self.get_mut();
        let before = into.filled().len();
        let done = Pin::new(stream).poll_read(cx, into);
        let why = match meter.read(&into.filled()[before..], Instant::now) {
            Ok(()) => return done,
            Err(Fault::Flood) => "a flood of frames that bring nothing forward",
            Err(Fault::NoSettings) => "no settings before the first frame",
        };
        Poll::Ready(Err(io::Error::other(why)))
    }
}

impl<S: AsyncWrite + Unpin> Metered<S> {
    fn wrote(&mut self, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &done {
            self.meter.wrote(*written);
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, from);
        self.wrote(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.wrote(done)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: (u8, u8, usize) = (6, 0, 8);

    fn frame((kind, flags, length): (u8, u8, usize)) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0xff);
        frame
    }

    /// How many of these frames pass, each a piece of so many bytes at a time.
    fn pass(meter: &mut Meter, of: (u8, u8, usize), most: u32, piece: usize) -> u32 {
        let now = meter.filled;
        for passed in 0..most {
            for piece in frame(of).chunks(piece) {
                if meter.read(piece, || now).is_err() {
                    return passed;
                }
            }
        }
        most
    }

    fn after_the_preface() -> Meter {
        let mut meter = Meter::new(Instant::now());
        let begin = [&PREFACE[..], &frame((SETTINGS, 0, 0))].concat();
        meter.read(&begin, Instant::now).unwrap();
        meter.left = AT_ONCE;
        meter
    }

    #[test]
    fn frames_that_bring_nothing_forward_are_counted_however_they_are_cut() {
        let pointless = [
            (0, 0, 0),
            (1, 0, 20),
            (2, 0, 5),
            (3, 0, 4),
            (4, 0, 0),
            (4, 1, 0),
            PING,
            (7, 0, 8),
            (8, 0, 4),
            (9, 4, 1),
            (0xfa, 0, 300),
        ];
        for of in pointless {
            for piece in [1, 7, 10_000] {
                let passed = pass(&mut after_the_preface(), of, AT_ONCE * 2, piece);
                assert_eq!(passed, AT_ONCE, "{of:?}");
            }
        }
    }

    #[test]
    fn settings_come_first() {
        for of in [PING, (SETTINGS, ACK, 0), (HEADERS, END_HEADERS, 10)] {
            let mut meter = Meter::new(Instant::now());
            let begin = [&PREFACE[..], &frame(of)].concat();
            assert_eq!(meter.read(&begin, Instant::now), Err(Fault::NoSettings));
        }
    }

    #[test]
    fn what_brings_something_forward_is_free() {
        let useful = [
            (0, 0, 1),
            (0, END_STREAM, 0),
            (1, END_HEADERS, 20),
            (1, END_HEADERS | END_STREAM, 20),
        ];
        for of in useful {
            let passed = pass(&mut after_the_preface(), of, AT_ONCE * 5, 4096);
            assert_eq!(passed, AT_ONCE * 5, "{of:?}");
        }
    }

    #[test]
    fn a_window_is_opened_for_free_by_who_reads_what_it_lets_through() {
        let mut meter = after_the_preface();
        for _ in 0..AT_ONCE * 5 {
            meter.wrote(FOR_A_WINDOW as usize);
            assert_eq!(pass(&mut meter, (8, 0, 4), 1, 4096), 1);
        }
        assert_eq!(meter.left, AT_ONCE);
    }

    #[test]
    fn more_is_allowed_as_time_goes_by_and_never_more_than_at_once() {
        let mut meter = after_the_preface();
        assert_eq!(pass(&mut meter, PING, 5000, 4096), AT_ONCE);
        let begun = meter.filled;
        let mut later = |seconds| {
            let now = begun + Duration::from_secs(seconds);
            // The last one's payload was not looked at.
            meter.skip = 0;
            (0..5000)
                .take_while(|_| meter.read(&frame(PING), || now).is_ok())
                .count() as u64
        };
        assert_eq!(later(1), A_SECOND);
        assert_eq!(later(1), 0);
        assert_eq!(later(11), 10 * A_SECOND);
        assert_eq!(later(10_000), u64::from(AT_ONCE));
    }
}
