//! Answers of all kinds, cut, broken off, changed and too early.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::{io, mem};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use super::*;

fn post(body: &'static [u8], answer: &[u8]) -> Turn {
    Turn {
        method: Method::POST,
        body,
        ..get(answer)
    }
}

impl Turn {
    fn of(self, method: Method) -> Turn {
        Turn { method, ..self }
    }

    fn closing(self) -> Turn {
        let closes = true;
        Turn { closes, ..self }
    }

    /// The same, cut there.
    fn cut(&self, at: usize) -> Turn {
        let whole = self.pieces.concat();
        let (first, second) = whole.split_at(at.min(whole.len()));
        let pieces = vec![first.to_vec(), second.to_vec()];
        Turn {
            pieces,
            ..self.clone()
        }
    }
}

/// As `told`, of one turn, for which its answer does not wait.
fn told_after_a_word(by: By, turn: &Turn) -> (Told, Vec<u8>, bool) {
    let (mut all, written, is_hypers) = told_later(by, std::slice::from_ref(turn), true);
    (all.remove(0), written, is_hypers)
}

const PLAIN: [&[u8]; 10] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 404 Not Found\r\nconnection: Keep-Alive\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 299 Odd\xe9\r\nX: \xe9\r\nVia: a\r\nvia:\t b \r\nX-Empty:\r\nContent-Length:7\r\n\r\ncontent",
    b"HTTP/1.1 500 \r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 500\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
];

const OTHERS: [&[u8]; 33] = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\nabc",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nmore",
    b"HTTP/1.1 200 OK\r\nContent-Type: a\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 1000 High\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/2 200\r\n\r\n",
    b"garbage",
    b"\x16\x03\x01\x02\x00\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 05\r\n\r\n",
];

#[test]
fn every_seed_holds() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/answers");
    for seed in std::fs::read_dir(seeds).unwrap() {
        holds(&std::fs::read(seed.unwrap().path()).unwrap());
    }
}

#[test]
fn an_answer_in_two_pieces_is_what_it_is_in_one_and_what_it_is_to_hyper() {
    for raw in PLAIN.iter().chain(&OTHERS) {
        for method in [Method::GET, Method::HEAD] {
            let turn = get(raw).of(method);
            let next = get(PLAIN[0]);
            let whole = are_alike(&[turn.clone(), next.clone()]);
            for at in 0..raw.len() {
                let cut = are_alike(&[turn.cut(at), next.clone()]);
                // hyper reads a head that begins to come, and then no more until its end may be there.
                if PLAIN.contains(raw) {
                    assert_eq!(cut, whole, "{turn:?} at {at}");
                }
            }
        }
    }
}

#[test]
fn plain_answers_leave_a_connection_plain_and_all_others_make_it_hypers() {
    for raw in PLAIN {
        assert!(!are_alike(&[get(raw)]).1, "{raw:?}");
    }
    for raw in OTHERS {
        assert!(are_alike(&[get(raw).closing()]).1, "{raw:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_anywhere_is_to_both_the_same_loss() {
    for raw in PLAIN.iter().chain(&OTHERS) {
        for end in 0..=raw.len() {
            are_alike(&[get(PLAIN[0]), get(&raw[..end]).closing()]);
        }
    }
}

#[test]
fn what_comes_beyond_an_answers_end_is_in_it_for_neither_and_ends_the_connection() {
    for raw in PLAIN.iter().chain(&OTHERS) {
        for more in [&b"x"[..], PLAIN[0]] {
            let surplus = [*raw, more].concat();
            are_alike(&[get(&surplus), get(PLAIN[0])]);
            are_alike(&[get(&surplus).cut(raw.len()), get(PLAIN[0])]);
        }
    }
    let (told, _) = are_alike(&[get(&[PLAIN[0], PLAIN[0]].concat()), get(PLAIN[0])]);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_connection_goes_on_as_hypers_after_an_answer_that_was_not_plain() {
    let chunked = OTHERS[0];
    let turns = [
        post(b"{\"name\": 1}", PLAIN[0]),
        get(PLAIN[2]),
        post(b"a", chunked),
        post(b"bc", PLAIN[0]),
        get(PLAIN[1]),
        get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").of(Method::HEAD),
        get(PLAIN[6]),
    ];
    let (told, is_hypers) = are_alike(&turns);
    assert_eq!(told.len(), turns.len());
    assert!(is_hypers);
    assert!(
        told.iter()
            .all(|told| matches!(told, Told::Answer { is_free: true, .. }))
    );
}

#[test]
fn a_connection_with_more_of_an_answer_to_come_is_not_free() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}";
    let (told, _) = are_alike(&[get(answer), get(PLAIN[0])]);
    let [
        Told::Answer {
            end: End::Waits,
            is_free: false,
            ..
        },
    ] = told[..]
    else {
        panic!("{told:?}");
    };
}

#[test]
fn heads_have_the_same_bounds() {
    let of_length = |length: usize| {
        let filler = "x".repeat(length - 43);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: {filler}\r\n\r\n");
        assert_eq!(head.len(), length);
        head + "{}"
    };
    for length in [
        100,
        8 * 1024,
        60_000,
        64 * 1024 - 1,
        64 * 1024,
        64 * 1024 + 1,
        80_000,
    ] {
        are_alike(&[get(of_length(length).as_bytes())]);
    }
    for fields in [98, 99, 100, 101] {
        let fields = "X: y\r\n".repeat(fields);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\n{{}}");
        are_alike(&[get(answer.as_bytes())]);
    }
}

static LARGE: [u8; 300_000] = [b'x'; 300_000];

#[test]
fn a_large_content_comes_whole_and_leaves_its_connection_free() {
    let answer = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LARGE.len()).as_bytes(),
        &LARGE,
    ]
    .concat();
    let (told, is_hypers) = are_alike(&[post(&LARGE, &answer), get(PLAIN[0])]);
    assert_eq!(told.len(), 2);
    assert!(!is_hypers);
    are_alike(&[get(&[&answer[..], b"x"].concat()), get(PLAIN[0])]);
    are_alike(&[get(&answer[..200_000]).closing()]);
}

#[test]
fn an_answer_before_all_of_the_request_is_there_is_heard_and_the_rest_follows() {
    for answer in [PLAIN[0], PLAIN[5], OTHERS[0], OTHERS[3], OTHERS[6]] {
        for after in [1, 100, 9_000, 200_000] {
            let turn = Turn {
                after,
                ..post(&LARGE, answer)
            };
            for cut in [0, 20, answer.len() - 1] {
                are_alike(&[turn.cut(cut)]);
                are_alike(&[turn.cut(cut).closing()]);
            }
        }
    }
}

#[test]
fn a_connection_that_ends_or_speaks_before_a_request_has_not_seen_it() {
    for (said, closes) in [(&b""[..], true), (b"SSH-2.0\r\n", false), (PLAIN[0], true)] {
        let before = Turn {
            after: 0,
            closes,
            ..get(said)
        };
        for by in [By::Plain, By::Hyper] {
            let (told, written, _) = told_after_a_word(by, &before);
            let unsent = Told::Lost {
                why: UpstreamFailure::Lost,
                by_closing: true,
                unsent: true,
            };
            assert_eq!((told, &written[..]), (unsent, &b""[..]), "{by:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_has_answered_and_reads_no_more_is_not_waited_for() {
    let (ours, mut theirs) = tokio::io::duplex(8 * 1024);
    let mut connection = Connection {
        sender: Sender::http1(ours),
        received: Arc::default(),
        made: Instant::now(),
    };
    let turn = post(&LARGE, PLAIN[0]);
    let mut read = vec![0; 100];
    let (told, _) = tokio::join!(one(&mut connection, &turn), async {
        theirs.read_exact(&mut read).await.unwrap();
        theirs.write_all(PLAIN[0]).await.unwrap();
    });
    assert!(matches!(told, Told::Answer { status: 200, .. }), "{told:?}");
    let Sender::Http1(mut http1) = connection.sender else {
        panic!("not of HTTP/1");
    };
    http1.let_go();
    drop(http1);
    tokio::time::sleep(LONG).await;
    timeout(LONG, theirs.read_to_end(&mut read))
        .await
        .expect("it has been closed")
        .unwrap();
    assert!(read.len() < LARGE.len(), "it was still being sent");
}

/// Takes whatever is written, as TLS does, which keeps what its own stream does not take.
struct TakesAll(DuplexStream);

impl AsyncRead for TakesAll {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for TakesAll {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_nobodys_however_much_is_left_of_the_tasks_budget() {
    for (by, left) in (0..20).map(|n| ([By::Plain, By::Hyper][n % 2], n / 2)) {
        let (ours, mut theirs) = tokio::io::duplex(8 * 1024);
        let mut sender = Sender::http1(TakesAll(ours));
        if let (By::Hyper, Sender::Http1(http1)) = (by, &mut sender) {
            http1.by_hyper(Bytes::new()).await;
        }
        theirs.write_all(PLAIN[0]).await.unwrap();
        let (draft, body) = get(b"").request();
        let mut sending = pin!(sender.send(&draft, body));
        let mut first = true;
        let sent = poll_fn(|cx| {
            if mem::take(&mut first) {
                leave_of_the_budget(left, cx);
            }
            sending.as_mut().poll(cx)
        });
        let lost = sent.await.err().expect("it was not asked for");
        assert!(lost.unsent.is_some(), "{by:?}, {left} left");
    }
}

fn leave_of_the_budget(left: usize, cx: &mut Context<'_>) {
    for _ in left..128 {
        if let Poll::Ready(spent) = coop::poll_proceed(cx) {
            spent.made_progress();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_answer_with_any_bytes_changed_is_the_same_to_both(
        which in 0..PLAIN.len() + OTHERS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        at in any::<prop::sample::Index>(),
        closes in any::<bool>(),
    ) {
        let mut raw = PLAIN.iter().chain(&OTHERS).nth(which).unwrap().to_vec();
        for (place, byte) in changes {
            let place = place.index(raw.len());
            raw[place] = byte;
        }
        let turn = Turn { closes, ..get(&raw) };
        let turn = turn.cut(at.index(raw.len()));
        are_alike(&[turn, get(PLAIN[0])]);
    }
}
