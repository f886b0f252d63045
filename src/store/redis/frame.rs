//! Redis's protocol (RESP2), as far as the requests' own connection speaks it: commands are written, and of what is
//! read it is known where a reply ends. No I/O.

use bytes::{BufMut, BytesMut};

/// The longest line before the data of a reply: a length, or an error's text.
const LONGEST_LINE: usize = 4096;

/// Bytes that are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for std::io::Error {
    fn from(Malformed: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, "no reply of Redis's")
    }
}

/// Where the first reply in a buffer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// It is so many bytes long, and all there.
    Whole(usize),
    /// It is at least so many bytes long, and not all there.
    AtLeast(usize),
}

/// Begins a command of so many arguments.
pub fn command(into: &mut BytesMut, arguments: usize) {
    line(into, b'*', arguments);
}

/// One argument, of several pieces.
pub fn argument(into: &mut BytesMut, pieces: &[&[u8]]) {
    line(into, b'$', pieces.iter().map(|piece| piece.len()).sum());
    for piece in pieces {
        into.put_slice(piece);
    }
    into.put_slice(b"\r\n");
}

fn line(into: &mut BytesMut, kind: u8, number: usize) {
    into.put_u8(kind);
    into.put_slice(itoa::Buffer::new().format(number).as_bytes());
    into.put_slice(b"\r\n");
}

/// Finds the end of the first reply in `read`.
pub fn extent(read: &[u8]) -> Result<Extent, Malformed> {
    let (mut at, mut owed) = (0, 1usize);
    while owed > 0 {
        let Some(line) = line_at(read, at)? else {
            return Ok(Extent::AtLeast(read.len().max(at) + 1));
        };
        (at, owed) = (line.behind, owed - 1);
        match line.kind {
            b'+' | b'-' | b':' => {}
            b'$' => {
                if let Some(length) = length(line.text)? {
                    at += length + 2;
                }
            }
            b'*' => owed += length(line.text)?.unwrap_or(0),
            _ => return Err(Malformed),
        }
        if at > read.len() {
            return Ok(Extent::AtLeast(at));
        }
    }
    Ok(Extent::Whole(at))
}

/// A whole reply, by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'r> {
    Text(&'r [u8]),
    /// An error, by its first word.
    Error(&'r str),
    Values(Values<'r>),
}

/// The values of an array; one that is not there, or no text, is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values<'r> {
    reply: &'r [u8],
    at: usize,
    left: usize,
}

/// Reads what `extent` found to be whole.
pub fn reply(reply: &[u8]) -> Result<Reply<'_>, Malformed> {
    let Line { kind, text, behind } = line_at(reply, 0)?.ok_or(Malformed)?;
    match kind {
        b'-' => {
            let code = text.split(|&b| b == b' ').next().unwrap_or_default();
            Ok(Reply::Error(std::str::from_utf8(code).unwrap_or("ERR")))
        }
        b'$' => {
            let length = length(text)?.unwrap_or(0);
            Ok(Reply::Text(
                reply.get(behind..behind + length).ok_or(Malformed)?,
            ))
        }
        b'*' => Ok(Reply::Values(Values {
            reply,
            at: behind,
            left: length(text)?.unwrap_or(0),
        })),
        _ => Ok(Reply::Text(text)),
    }
}

impl Values<'_> {
    /// How many are still to come.
    pub fn left(&self) -> usize {
        self.left
    }
}

impl<'r> Iterator for Values<'r> {
    type Item = Option<&'r [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let line = line_at(self.reply, self.at).ok().flatten()?;
        if line.kind == b'*' {
            // One value, however many it holds: those behind it keep their places.
            let Ok(Extent::Whole(length)) = extent(&self.reply[self.at..]) else {
                return None;
            };
            self.at += length;
            return Some(None);
        }
        self.at = line.behind;
        if line.kind != b'$' {
            return Some(None);
        }
        let Some(length) = length(line.text).ok()? else {
            return Some(None);
        };
        self.at += length + 2;
        Some(self.reply.get(line.behind..line.behind + length))
    }
}

/// The first line of a reply, or of a value in it.
struct Line<'r> {
    kind: u8,
    text: &'r [u8],
    /// Where what follows begins.
    behind: usize,
}

/// The line at `at`; `None` if it is not all there.
fn line_at(read: &[u8], at: usize) -> Result<Option<Line<'_>>, Malformed> {
    let rest = read.get(at..).unwrap_or_default();
    let looked_at = &rest[..rest.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\r', looked_at) else {
        return match rest.len() < LONGEST_LINE {
            true => Ok(None),
            false => Err(Malformed),
        };
    };
    match rest.get(end + 1) {
        None => Ok(None),
        Some(b'\n') if end > 0 => Ok(Some(Line {
            kind: rest[0],
            text: &rest[1..end],
            behind: at + end + 2,
        })),
        Some(_) => Err(Malformed),
    }
}

/// A length, or none (`-1`). Redis itself has none above 512 MiB.
fn length(text: &[u8]) -> Result<Option<usize>, Malformed> {
    if text == b"-1" {
        return Ok(None);
    }
    if !matches!(text.len(), 1..=9) || !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = |number, digit: &u8| number * 10 + usize::from(digit & 0xf);
    Ok(Some(text.iter().fold(0, number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_reads_as_redis_reads_it() {
        let mut out = BytesMut::new();
        command(&mut out, 2);
        argument(&mut out, &[b"MGET"]);
        argument(&mut out, &[b"it360acad", b":", b"users:list~state"]);
        assert_eq!(
            &out[..],
            b"*2\r\n$4\r\nMGET\r\n$26\r\nit360acad:users:list~state\r\n"
        );
    }

    #[test]
    fn a_reply_ends_where_its_last_value_does_and_no_sooner() {
        for whole in [
            &b"*3\r\n$2\r\nab\r\n$-1\r\n$0\r\n\r\n"[..],
            b"$4\r\n\r\n\r\n\r\n",
            b"-LOADING Redis is loading\r\n",
            b"+OK\r\n",
            b":12\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
        ] {
            assert_eq!(extent(whole), Ok(Extent::Whole(whole.len())));
            let more = [whole, b"+more"].concat();
            assert_eq!(extent(&more), Ok(Extent::Whole(whole.len())));
            for cut in 0..whole.len() {
                match extent(&whole[..cut]) {
                    Ok(Extent::AtLeast(length)) => {
                        assert!(length > cut && length <= whole.len(), "{cut} of {whole:?}");
                    }
                    other => panic!("{other:?} at {cut} of {whole:?}"),
                }
            }
        }
    }

    #[test]
    fn the_values_of_an_array_are_what_was_stored_and_what_is_absent_is_none() {
        let Ok(Reply::Values(values)) = reply(b"*4\r\n$2\r\nab\r\n$-1\r\n:3\r\n$0\r\n\r\n") else {
            panic!("no array");
        };
        let values: Vec<_> = values.collect();
        assert_eq!(values, [Some(&b"ab"[..]), None, None, Some(b"")]);
    }

    #[test]
    fn a_length_that_redis_has_not_is_no_reply() {
        for text in [
            "*",
            "$",
            "$-2",
            "$1x",
            "$ 1",
            "$9999999999",
            "$99999999999999999999999999",
        ] {
            assert_eq!(
                extent(format!("{text}\r\n").as_bytes()),
                Err(Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_is_known_by_its_first_word() {
        assert_eq!(
            reply(b"-NOAUTH who are you\r\n"),
            Ok(Reply::Error("NOAUTH"))
        );
        assert_eq!(reply(b"-OOM\r\n"), Ok(Reply::Error("OOM")));
    }

    #[test]
    fn an_array_in_an_array_is_one_value_and_moves_no_other() {
        let Ok(Reply::Values(values)) = reply(b"*3\r\n*1\r\n:7\r\n+OK\r\n$1\r\na\r\n") else {
            panic!("no values")
        };
        assert_eq!(values.collect::<Vec<_>>(), [None, None, Some(&b"a"[..])]);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_makes_it_panic_or_reach_beyond(read in proptest::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'-'), b'0'..=b'9', any::<u8>()], 0..64))
        {
            if let Ok(Extent::Whole(length)) = extent(&read) {
                prop_assert!(length <= read.len());
                if let Ok(Reply::Values(values)) = reply(&read[..length]) {
                    prop_assert!(values.take(100).count() <= 100);
                }
            }
        }

        #[test]
        fn values_of_any_bytes_come_back(values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), 0..5)) {
            let mut sent = BytesMut::new();
            command(&mut sent, values.len());
            for value in &values {
                match value {
                    Some(value) => argument(&mut sent, &[value]),
                    None => sent.put_slice(b"$-1\r\n"),
                }
            }
            prop_assert_eq!(extent(&sent), Ok(Extent::Whole(sent.len())));
            let Ok(Reply::Values(read)) = reply(&sent) else { panic!("no array") };
            prop_assert_eq!(read.map(|value| value.map(<[u8]>::to_vec)).collect::<Vec<_>>(), values);
        }
    }
}
