//! The tables: how a client leaves, what is never shared with those who wait, and how a value is spoilt.

// Every test binary compiles this for itself, and one of them only counts.
#![allow(dead_code)]

use crate::line::Line;

/// C6: a client that asks so, reads so much of the answer and leaves.
pub struct Leaver {
    pub head: &'static str,
    /// Bytes that it reads, and there are at least so many.
    pub reads: usize,
    pub leaves: Leaves,
}

#[derive(Debug, Clone, Copy)]
pub enum Leaves {
    ByClosing,
    ByReset,
    /// It only says that it will send no more, and hears all.
    NotAtAll,
}

/// C7: what an answer says that makes it one client's alone, or by what those who wait differ.
pub struct Follower {
    pub name: &'static str,
    /// What the answer says.
    pub says: (&'static str, &'static str),
    /// What each client sends, with its number.
    pub sends: Option<&'static str>,
}

/// C8: what is made of a value, so that it is nearly one of ours.
pub struct Spoilt {
    pub name: &'static str,
    pub spoil: fn(&[u8]) -> Vec<u8>,
}

pub fn counts() -> [(Line, usize); 3] {
    [
        (Line::C6, leavers().len()),
        (Line::C7, followers().len()),
        (Line::C8, spoilt().len()),
    ]
}

pub fn leavers() -> Vec<Leaver> {
    let mut rows = Vec::new();
    for (head, most) in [
        (
            "GET /api/users/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
            &[0, 2_000, 60_000][..],
        ),
        (
            "GET /api/users/ HTTP/1.1\r\nHost: api.example.org\r\nRange: bytes=0-999\r\n\r\n",
            &[0, 100, 1_000],
        ),
        (
            "HEAD /api/users/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
            &[0, 100],
        ),
        (
            "GET /api/users/ HTTP/1.0\r\nHost: api.example.org\r\n\r\n",
            &[0, 2_000, 60_000],
        ),
        (
            "GET /api/users/ HTTP/1.1\r\nHost: api.example.org\r\nAuthorization: Token a\r\n\r\n",
            &[0, 2_000, 60_000],
        ),
    ] {
        for &reads in most {
            for leaves in [Leaves::ByClosing, Leaves::ByReset, Leaves::NotAtAll] {
                rows.push(Leaver {
                    head,
                    reads,
                    leaves,
                });
            }
        }
    }
    rows
}

pub fn followers() -> Vec<Follower> {
    let mut rows = Vec::new();
    for (name, says) in [
        ("a cookie", ("Set-Cookie", "sessionid=1")),
        ("a cookie", ("Set-Cookie", "csrftoken=1; Path=/")),
        ("private", ("Cache-Control", "private")),
        ("private", ("Cache-Control", "max-age=60, Private")),
        ("private", ("Cache-Control", "private=\"x\", max-age=60")),
        ("no-store", ("Cache-Control", "no-store")),
        ("no-store", ("Cache-Control", "max-age=60, NO-STORE")),
        ("it varies by anything", ("Vary", "*")),
        ("it varies by anything", ("Vary", "Accept, *")),
        ("it varies by what no key holds", ("Vary", "X-Unheard-Of")),
        ("it varies by what is no name", ("Vary", "a b")),
    ] {
        rows.push(Follower {
            name,
            says,
            sends: None,
        });
    }
    for (name, sends) in [
        ("another token", "Authorization: Token"),
        ("another token", "Proxy-Authorization: Basic"),
        ("another key", "X-Api-Key: "),
        ("another key", "X-Auth-Token: "),
        ("another session", "Cookie: sessionid="),
        ("another cookie that nobody knows", "Cookie: theme="),
        ("another cookie beside the same", "Cookie: sessionid=a; x="),
        (
            "another cookie beside ones that are ignored",
            "Cookie: csrftoken=a; _ga=b; y=",
        ),
        ("another kind of answer", "Accept: application/json; v="),
    ] {
        rows.push(Follower {
            name,
            says: ("X-Nothing", "said"),
            sends: Some(sends),
        });
    }
    rows
}

pub fn spoilt() -> Vec<Spoilt> {
    fn at(value: &[u8], from_the_end: usize, byte: u8) -> Vec<u8> {
        let mut spoilt = value.to_vec();
        let at = spoilt.len() - from_the_end;
        spoilt[at] = byte;
        spoilt
    }
    fn replaced(value: &[u8], what: &str, by: &str) -> Vec<u8> {
        let at = value
            .windows(what.len())
            .rposition(|w| w == what.as_bytes());
        let at = at.expect("it is there");
        [&value[..at], by.as_bytes(), &value[at + what.len()..]].concat()
    }
    let row = |name, spoil| Spoilt { name, spoil };
    vec![
        row("another magic", |v| replaced(v, "\nlarder", "\nlarde_")),
        row("another version", |v| {
            replaced(v, "\nlarder6 ", "\nlarder5 ")
        }),
        row("a version to come", |v| {
            replaced(v, "\nlarder6 ", "\nlarder7 ")
        }),
        row("a longer body", |v| {
            replaced(v, "\nlarder6 0", "\nlarder6 1")
        }),
        row("a length that is no number", |v| {
            replaced(v, "\nlarder6 0", "\nlarder6 g")
        }),
        row("a length with a sign", |v| {
            replaced(v, "\nlarder6 0", "\nlarder6 +")
        }),
        row("another checksum", |v| {
            let last = v[v.len() - 1];
            at(v, 1, if last == b'0' { b'1' } else { b'0' })
        }),
        row("a checksum that is none", |v| at(v, 1, b'x')),
        row("no space before the checksum", |v| at(v, 17, b'_')),
        row("another byte of the body", |v| {
            let mut spoilt = v.to_vec();
            spoilt[0] ^= 1;
            spoilt
        }),
        row("another status", |v| replaced(v, "\n200\t", "\n201\t")),
        row("a longer life", |v| replaced(v, "\tlife=", "\tlife=9")),
        row("another field", |v| replaced(v, "json", "html")),
        row("its footer alone", |v| v[v.len() - 44..].to_vec()),
        row("no footer", |v| v[..v.len() - 44].to_vec()),
        row("two footers", |v| [v, &v[v.len() - 44..]].concat()),
        row("a byte more", |v| [v, &b"\n"[..]].concat()),
        row("a byte less", |v| v[..v.len() - 1].to_vec()),
        row("itself twice", |v| v.repeat(2)),
        row("nothing", |_| Vec::new()),
        row("a pickle", |_| {
            b"\x80\x05]\x94}\x94\x8c\x02id\x94K\x07s.".to_vec()
        }),
        row("the body alone", |_| b"\"spoilt\"".to_vec()),
    ]
}
