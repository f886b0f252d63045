//! HTTP/2 towards the upstream: many requests on one connection, and what is never sent twice there.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use support::client::head;
use support::h2::{Event, PREFACE, Raw, settings};
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{Gate, eventually};

const LIST: &str = "/api/users/";

/// What becomes of a request.
#[derive(Clone)]
enum Comes {
    /// 200 with this.
    Answer(&'static str),
    /// The same, when the gate is open.
    Held(Gate),
    /// The head of an event stream that says nothing.
    Events,
    /// RST_STREAM with this code.
    Reset(u32),
    /// The same, after a head and the beginning of a body.
    BreaksOff(u32),
    /// 200 with a declared length, in these pieces, and an empty DATA frame at the end.
    Pieces(&'static [&'static str]),
    /// 200 in so many small pieces, and no end. Each time that it is said not to be wanted as many are on their way already.
    Rows(usize),
    /// GOAWAY with this code, this stream the last that is processed or the first that is not, and the end of the connection.
    GoAway { processed: bool, code: u32 },
    /// The end of the connection.
    HangUp,
}

/// An upstream that speaks HTTP/2 alone, in frames by hand.
struct Frames {
    port: u16,
    connections: Arc<Mutex<usize>>,
    requests: Arc<Mutex<usize>>,
}

impl Frames {
    /// The script is told which request it is, from 1.
    fn start(script: impl Fn(usize) -> Comes + Send + Sync + 'static) -> Frames {
        Frames::allowing(1000, script)
    }

    /// So many requests at once on a connection.
    fn allowing(streams: u32, script: impl Fn(usize) -> Comes + Send + Sync + 'static) -> Frames {
        let at_once = Gate::new();
        at_once.open();
        Frames::telling(at_once, streams, script)
    }

    /// That it allows so many is said when the gate is open.
    fn telling(
        told: Gate,
        streams: u32,
        script: impl Fn(usize) -> Comes + Send + Sync + 'static,
    ) -> Frames {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let frames = Frames {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (frames.connections.clone(), frames.requests.clone());
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                *connections.lock().unwrap() += 1;
                let (script, requests) = (script.clone(), requests.clone());
                let settings = (told.clone(), streams);
                thread::spawn(move || drop(serve(stream, settings, &*script, &requests)));
            }
        });
        frames
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> usize {
        *self.requests.lock().unwrap()
    }

    fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn answer(stream: u32, body: &str) -> Vec<u8> {
    // `:status: 200`, of HPACK's static table.
    let mut answer = frame(1, 0x4, stream, &[0x88]);
    answer.extend(frame(0, 0x1, stream, body.as_bytes()));
    answer
}

fn rows(stream: u32, many: usize) -> Vec<u8> {
    frame(0, 0, stream, &[b'x'; 100]).repeat(many)
}

fn serve(
    stream: TcpStream,
    (told, streams): (Gate, u32),
    script: &dyn Fn(usize) -> Comes,
    requests: &Mutex<usize>,
) -> std::io::Result<()> {
    let mut reading = stream.try_clone()?;
    let writing = Arc::new(Mutex::new(stream));
    let send = |bytes: &[u8]| writing.lock().unwrap().write_all(bytes);
    reading.read_exact(&mut [0; 24])?;
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    let allowed = [&[0, 3][..], &streams.to_be_bytes()].concat();
    let settings = frame(4, 0, 0, &allowed);
    match told.is_open() {
        true => send(&settings)?,
        false => {
            let writing = writing.clone();
            thread::spawn(move || {
                told.wait();
                writing.lock().unwrap().write_all(&settings)
            });
        }
    }
    let (mut late, mut on_their_way) = (0, 1);
    loop {
        let mut head = [0; 9];
        reading.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        reading.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if kind == 0 && length > 0 {
            let more = u32::try_from(length).unwrap().to_be_bytes();
            send(&frame(8, 0, 0, &more))?;
            send(&frame(8, 0, id, &more))?;
        }
        match kind {
            4 if flags & 1 == 0 => send(&frame(4, 1, 0, &[]))?,
            6 if flags & 1 == 0 => send(&frame(6, 1, 0, &payload))?,
            3 if late < 2000 => {
                late += 1;
                send(&rows(id, on_their_way))?;
            }
            0 | 1 if flags & 1 == 1 => {
                let number = {
                    let mut requests = requests.lock().unwrap();
                    *requests += 1;
                    *requests
                };
                match script(number) {
                    Comes::Answer(body) => send(&answer(id, body))?,
                    Comes::Held(gate) => {
                        let writing = writing.clone();
                        thread::spawn(move || {
                            gate.wait();
                            writing.lock().unwrap().write_all(&answer(id, "{}"))
                        });
                    }
                    Comes::Events => {
                        // `:status: 200`, and `content-type` of the static table with a value of its own.
                        let head = [&[0x88, 0x0f, 0x10, 17][..], b"text/event-stream"].concat();
                        send(&frame(1, 0x4, id, &head))?;
                    }
                    Comes::Reset(code) => send(&frame(3, 0, id, &code.to_be_bytes()))?,
                    Comes::BreaksOff(code) => {
                        let mut begun = frame(1, 0x4, id, &[0x88]);
                        begun.extend(frame(0, 0, id, b"[1"));
                        begun.extend(frame(3, 0, id, &code.to_be_bytes()));
                        send(&begun)?;
                    }
                    Comes::Pieces(pieces) => {
                        let length = pieces.concat().len().to_string();
                        // Both names are of the static table: `cache-control`, `content-length`.
                        let mut head = [&[0x88, 0x0f, 0x09, 10][..], b"max-age=60"].concat();
                        head.extend([0x0f, 0x0d, u8::try_from(length.len()).unwrap()]);
                        head.extend(length.as_bytes());
                        let mut whole = frame(1, 0x4, id, &head);
                        for piece in pieces {
                            whole.extend(frame(0, 0, id, piece.as_bytes()));
                        }
                        whole.extend(frame(0, 0x1, id, b""));
                        send(&whole)?;
                    }
                    Comes::Rows(many) => {
                        on_their_way = many;
                        send(&[frame(1, 0x4, id, &[0x88]), rows(id, many)].concat())?;
                    }
                    Comes::GoAway { processed, code } => {
                        let last = if processed {
                            id
                        } else {
                            id - 2 * u32::from(id > 1) - u32::from(id == 1)
                        };
                        let mut said = last.to_be_bytes().to_vec();
                        said.extend(code.to_be_bytes());
                        send(&frame(7, 0, 0, &said))?;
                        writing
                            .lock()
                            .unwrap()
                            .shutdown(std::net::Shutdown::Write)?;
                    }
                    Comes::HangUp => return Ok(()),
                }
            }
            _ => {}
        }
    }
}

fn before(urls: &[String]) -> Larder {
    let urls = urls.join(", ");
    Larder::start(format!(
        "upstream: {{urls: [{urls}], http2: true, silent: 1h}}\n\
        routes: [{{path: /api/users/, key: users:list}}]\n\
        purge: [{{methods: [POST], path: /api/users/, keys: [\"users:list\"]}}]\n"
    ))
}

#[test]
fn many_requests_are_under_way_on_one_connection() {
    let gate = Gate::new();
    let closed = gate.clone();
    let api = Frames::start(move |number| match number {
        1 => Comes::Answer("{}"),
        _ => Comes::Held(closed.clone()),
    });
    let larder = before(&[api.url()]);
    assert!(larder.get("/first/").is_complete_success());
    let mut clients: Vec<_> = (0..20).map(|_| larder.connect()).collect();
    for client in &mut clients {
        client.send(b"GET /held/ HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all are under way at once", || api.requests() == 21);
    gate.open();
    for client in &mut clients {
        assert!(client.answer("GET").is_complete_success());
    }
    assert_eq!(api.connections(), 1);
}

#[test]
fn before_the_upstream_has_said_how_many_it_allows_it_is_sent_no_more_than_one() {
    let (settings, answers) = (Gate::new(), Gate::new());
    let (told, held) = (settings.clone(), answers.clone());
    let api = Frames::telling(settings.clone(), 2, move |number| match number {
        1 => Comes::Held(held.clone()),
        _ if told.is_open() => Comes::Answer("{}"),
        // REFUSED_STREAM.
        _ => Comes::Reset(7),
    });
    let larder = before(&[api.url()]);
    let mut clients: Vec<_> = (0..20).map(|_| larder.connect()).collect();
    for client in &mut clients {
        client.send(b"GET /other/ HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("one has come, and all are on their way", || {
        larder.readiness()["upstream"]["under_way"] == 20 && api.requests() >= 1
    });
    settings.open();
    eventually("all have come", || api.requests() == 20);
    answers.open();
    for client in &mut clients {
        assert!(client.answer("GET").is_complete_success());
    }
    assert_eq!(api.connections(), 1);
}

#[test]
fn event_streams_leave_the_connection_to_the_others() {
    let api = Frames::allowing(2, |number| match number {
        1..=4 => Comes::Events,
        _ => Comes::Answer("{}"),
    });
    let larder = before(&[api.url()]);
    let mut readers: Vec<_> = (0..4).map(|_| larder.connect()).collect();
    for reader in &mut readers {
        reader.send(b"GET /events/ HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(reader.try_head("GET").unwrap().status, 200);
    }
    assert!(larder.get("/other/").is_complete_success());
    assert!(larder.write("POST", LIST).is_complete_success());
}

#[test]
fn reads_writes_and_the_cache_go_as_ever() {
    let api = Frames::start(|_| Comes::Answer("[]"));
    let larder = before(&[api.url()]);
    let body = vec![b'x'; 300_000];
    for round in 0..3 {
        assert!(larder.get("/other/").is_complete_success());
        assert!(larder.request("HEAD", "/other/", &[], b"").status == 200);
        assert!(!larder.get(LIST).is_hit(), "{round}");
        assert!(larder.get(LIST).is_hit(), "{round}");
        assert!(
            larder
                .request("POST", LIST, &[], &body)
                .is_complete_success()
        );
    }
    assert_eq!(api.requests(), 12);
}

#[test]
fn a_write_that_the_upstream_says_it_has_not_run_goes_to_another() {
    const REFUSED_STREAM: u32 = 7;
    for comes in [
        Comes::Reset(REFUSED_STREAM),
        Comes::GoAway {
            processed: false,
            code: 0,
        },
        Comes::GoAway {
            processed: false,
            code: 2,
        },
    ] {
        let own = comes.clone();
        let refusing = Frames::start(move |_| own.clone());
        let running = Frames::start(|_| Comes::Answer("{}"));
        let larder = before(&[refusing.url(), running.url()]);
        for sent in 1..=6 {
            let answer = larder.write("POST", LIST);
            assert!(answer.is_complete_success(), "{answer:?}");
            assert_eq!(running.requests(), sent);
        }
        assert!(refusing.requests() >= 1);
        // Alone, it is a 502 of a write that has not run, which drops nothing.
        let own = comes.clone();
        let alone = Frames::start(move |number| match number {
            1 => Comes::Answer("[]"),
            _ => own.clone(),
        });
        let larder = before(&[alone.url()]);
        assert!(larder.get(LIST).is_complete_success());
        assert_eq!(larder.write("POST", LIST).status, 502);
        assert!(larder.get(LIST).is_hit());
    }
}

#[test]
fn a_write_that_has_not_run_but_was_passed_on_as_it_came_is_lost() {
    let refusing = Frames::start(|_| Comes::GoAway {
        processed: false,
        code: 0,
    });
    let running = Frames::start(|_| Comes::Answer("{}"));
    let larder = before(&[refusing.url(), running.url()]);
    let content = [b'x'; 100_000];
    for _ in 0..2 {
        let written = larder.connect().request("POST", LIST, &[], &content);
        assert!([200, 502].contains(&written.status), "{written:?}");
    }
    assert_eq!((refusing.requests(), running.requests()), (1, 1));
}

#[test]
fn a_write_that_may_have_run_is_sent_to_nobody_else() {
    const INTERNAL_ERROR: u32 = 2;
    const CANCEL: u32 = 8;
    for comes in [
        Comes::Reset(INTERNAL_ERROR),
        Comes::Reset(CANCEL),
        Comes::GoAway {
            processed: true,
            code: 0,
        },
        Comes::GoAway {
            processed: true,
            code: 2,
        },
        Comes::HangUp,
    ] {
        let own = comes.clone();
        let lossy = Frames::start(move |_| own.clone());
        let running = Frames::start(|_| Comes::Answer("{}"));
        let larder = before(&[lossy.url(), running.url()]);
        let mut failed = 0;
        for sent in 1..=6 {
            let answer = larder.write("POST", LIST);
            failed += usize::from(answer.status == 502);
            assert!(answer.status == 502 || answer.status == 200, "{answer:?}");
            assert_eq!(lossy.requests() + running.requests(), sent);
        }
        assert_eq!(failed, lossy.requests());
        assert!(failed > 0);
        // A GET is, once.
        for _ in 0..4 {
            assert!(larder.get("/other/").is_complete_success());
        }
    }
}

#[test]
fn those_who_do_not_read_what_comes_in_small_pieces_do_not_end_the_connection_of_the_others() {
    const SLOW: usize = 40;
    let gate = Gate::new();
    let held = gate.clone();
    let api = Frames::start(move |number| match number {
        1 => Comes::Held(held.clone()),
        // As many as may be sent unasked: 64 KiB.
        2..=41 => Comes::Rows(655),
        _ => Comes::Answer("{}"),
    });
    let larder = Larder::start(format!(
        "upstream: {{url: \"{}\", http2: true}}\nh2c: true\nroutes: []\n",
        api.url()
    ));
    thread::scope(|scope| {
        let written = scope.spawn(|| larder.write("POST", "/other/"));
        eventually("the write is there", || api.requests() == 1);
        let mut slow = Raw::bare(larder.address());
        // SETTINGS_INITIAL_WINDOW_SIZE: nothing of an answer is taken.
        slow.send(&[PREFACE, &settings(&[(1, 0), (4, 0)])].concat());
        for asked in 1..=SLOW {
            slow.get(2 * u32::try_from(asked).unwrap() - 1, "/rows/");
        }
        eventually("all of them are there", || api.requests() == 1 + SLOW);
        // Behind what they were sent.
        assert!(larder.get("/other/").is_complete_success());
        gate.open();
        let written = written.join().unwrap();
        assert!(written.is_complete_success(), "{written:?}");
    });
    assert_eq!(api.connections(), 1);
}

/// So many leave in the middle of an answer of so many rows, while a write is under way, which then succeeds, as does who comes
/// behind them.
fn many_leave(leaving: usize, rows: usize, max_connections: usize) -> Frames {
    let gate = Gate::new();
    let held = gate.clone();
    let api = Frames::start(move |number| match number {
        1 => Comes::Held(held.clone()),
        number if number <= 1 + leaving => Comes::Rows(rows),
        _ => Comes::Answer("{}"),
    });
    let larder = Larder::start(format!(
        "upstream: {{url: \"{}\", http2: true, max_connections: {max_connections}}}\nroutes: []\n",
        api.url()
    ));
    thread::scope(|scope| {
        let written = scope.spawn(|| larder.write("POST", "/other/"));
        eventually("the write is there", || api.requests() == 1);
        for _ in 0..leaving {
            let mut leaving = larder.connect();
            leaving.send(head("GET", "/rows/", &[], None).as_bytes());
            leaving.try_head("GET").unwrap();
            leaving.reset();
        }
        eventually("all of them have left", || {
            larder.readiness()["upstream"]["under_way"].as_u64() <= Some(1)
        });
        // Behind what was on its way to them.
        assert!(larder.get("/other/").is_complete_success());
        gate.open();
        let written = written.join().unwrap();
        assert!(written.is_complete_success(), "{written:?}");
    });
    api
}

#[test]
fn those_who_leave_in_the_middle_of_an_answer_do_not_end_the_connection_of_the_others() {
    let api = many_leave(200, 1, 200);
    assert_eq!(api.connections(), 1);
}

/// What comes for those who have left is read by nobody, and so counts for as long as its connection is there.
#[test]
fn however_many_leave_answers_in_small_pieces_the_connection_of_the_others_does_not_end() {
    many_leave(100, 300, 2);
}

#[test]
fn answers_that_are_read_whole_leave_their_connection_to_any_number_of_others() {
    for ends_by_an_empty_frame in [false, true] {
        let api = Frames::start(move |_| match ends_by_an_empty_frame {
            false => Comes::Answer("{}"),
            true => Comes::Pieces(&["[1", ",2]"]),
        });
        let larder = Larder::start(format!(
            "upstream: {{url: \"{}\", http2: true, max_connections: 2}}\n\
            routes: [{{path: /api/users/, key: users:list}}]\n",
            api.url()
        ));
        for asked in 0..20 {
            assert!(larder.get("/other/").is_complete_success());
            assert!(larder.write("POST", "/other/").is_complete_success());
            let filled = larder.get(&format!("{LIST}?page={asked}"));
            assert!(filled.is_complete_success());
        }
        assert_eq!((api.requests(), api.connections()), (60, 1));
    }
}

/// What waits for a stream there is neither beyond the last nor processed: its end comes without a word of it.
#[test]
fn a_read_that_waits_for_a_stream_as_the_upstream_goes_away_is_asked_again() {
    for code in [0, 2] {
        let leaves = Gate::new();
        let left = leaves.clone();
        let api = Frames::allowing(1, move |number| match number {
            2 => {
                left.wait();
                Comes::GoAway {
                    processed: true,
                    code,
                }
            }
            _ => Comes::Answer("{}"),
        });
        let larder = before(&[api.url()]);
        assert!(larder.get("/").is_complete_success());
        thread::scope(|scope| {
            let first = scope.spawn(|| larder.get("/first/"));
            eventually("the first is there", || api.requests() == 2);
            let others = ["/second/", "/third/"].map(|target| {
                let asked = scope.spawn(|| larder.get(target));
                (target, asked)
            });
            eventually("the others wait", || {
                larder.readiness()["upstream"]["under_way"] == 3
            });
            leaves.open();
            for (target, asked) in others.into_iter().chain([("/first/", first)]) {
                let answer = asked.join().unwrap();
                assert!(answer.is_complete_success(), "{target}, {code}: {answer:?}");
            }
        });
    }
}

#[test]
fn an_answer_whose_stream_is_reset_before_its_end_is_not_whole_whatever_the_code() {
    const NO_ERROR: u32 = 0;
    const INTERNAL_ERROR: u32 = 2;
    for code in [NO_ERROR, INTERNAL_ERROR] {
        let api = Frames::start(move |_| Comes::BreaksOff(code));
        let larder = before(&[api.url()]);
        for target in [LIST, "/other/"] {
            for _ in 0..2 {
                let answer = larder.get(target);
                assert!(!answer.is_complete_success(), "{code}: {answer:?}");
                assert!(!answer.is_hit(), "{code}: {answer:?}");
            }
        }
        for length in [0, 2, 300_000] {
            let written = larder.request("POST", LIST, &[], &vec![b'x'; length]);
            assert!(!written.is_complete_success(), "{code}: {written:?}");
        }
    }
}

/// By REFUSED_STREAM a client is told that its request has not run, by HTTP_1_1_REQUIRED that it goes by another version: it may send
/// a write again then (RFC 9113 §8.7, §7). What the upstream says of its own streams is nothing to say of the client's.
#[test]
fn a_client_is_not_told_the_code_by_which_the_upstream_broke_off_its_answer() {
    const INTERNAL_ERROR: u32 = 2;
    const REFUSED_STREAM: u32 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    const HTTP_1_1_REQUIRED: u32 = 13;
    for code in [REFUSED_STREAM, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED] {
        let api = Frames::start(move |_| Comes::BreaksOff(code));
        let larder = Larder::start(format!(
            "upstream: {{url: \"{}\", http2: true}}\nh2c: true\n\
            routes: [{{path: /api/users/, key: users:list}}]\n",
            api.url()
        ));
        let mut client = Raw::open(larder.address());
        for (stream, method, target) in [(1, "POST", LIST), (3, "GET", "/other/")] {
            client.ask(method, stream, target);
            let events = client.until(|event| matches!(event, Event::Reset { .. }));
            let told = Event::Reset {
                stream,
                code: INTERNAL_ERROR,
            };
            assert_eq!(events.last(), Some(&told), "{code}: {method} {target}");
        }
    }
}

/// RFC 9113 §6.1: a stream may end by a DATA frame that has nothing in it.
#[test]
fn an_answer_that_an_empty_frame_ends_is_whole_for_whoever_it_was_fetched_for() {
    for pieces in [&["[1]"][..], &["[1", ", 2]"], &["[", "", "1]"]] {
        let api = Frames::start(move |_| Comes::Pieces(pieces));
        let larder = Larder::start(format!(
            "upstream: {{url: \"{}\", http2: true}}\nroutes:\n  \
            - {{path: /api/users/, key: users:list}}\n  \
            - {{path: \"/http/<path:rest>\", policy: http}}\n",
            api.url()
        ));
        for (target, is_kept) in [(LIST, true), ("/http/x", true), ("/other/", false)] {
            for is_hit in [false, is_kept] {
                let answer = larder.get(target);
                assert_eq!(answer.is_hit(), is_hit, "{target}: {answer:?}");
                assert!(answer.is_complete_success(), "{target}: {answer:?}");
                assert_eq!(answer.text(), pieces.concat(), "{target}");
            }
        }
    }
}

/// Else clients have every upstream taken for one that fails.
#[test]
fn what_is_wrong_with_a_clients_content_is_no_fault_of_the_upstreams() {
    let api = Frames::start(|_| Comes::Answer("{}"));
    let larder = Larder::start(format!(
        "upstream: {{url: \"{}\", http2: true}}\nlimits: {{content: 100kB}}\nroutes: []\n",
        api.url()
    ));
    assert!(larder.get("/other/").is_complete_success());
    let chunk = format!("{:x}\r\n{}\r\n", 70_000, "x".repeat(70_000));
    for (then, status) in [(&chunk[..], 413), ("no chunk\r\n", 400)] {
        let mut client = larder.connect();
        let chunked = [("Transfer-Encoding", "chunked")];
        client.send(head("POST", "/other/", &chunked, None).as_bytes());
        client.send(chunk.as_bytes());
        client.send(then.as_bytes());
        let answer = client.answer("POST");
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!((api.requests(), api.connections()), (1, 1));
}

/// RFC 9113 §8.1: who has answered may not want the rest of the request, and says so by NO_ERROR.
#[test]
fn an_answer_that_is_whole_before_its_request_is_whole() {
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let larder = before(&[format!("http://{}", api.local_addr().unwrap())]);
    let serving = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = api.accept()?;
        stream.read_exact(&mut [0; 24])?;
        stream.write_all(&frame(4, 0, 0, &[]))?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize])?;
            if head[3] == 1 {
                let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let mut said = answer(id, "{}");
                said.extend(frame(3, 0, id, &[0; 4]));
                stream.write_all(&said)?;
            }
        }
    });
    for _ in 0..5 {
        let written = larder.request("POST", LIST, &[], &vec![b'x'; 300_000]);
        assert!(written.is_complete_success(), "{written:?}");
        assert_eq!(written.text(), "{}");
    }
    drop(larder);
    assert!(serving.join().unwrap().is_err());
}

#[test]
fn an_upstream_that_speaks_no_http_2_is_a_502() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = before(&[origin.url()]);
    for _ in 0..2 {
        assert_eq!(larder.get("/other/").status, 502);
        assert_eq!(larder.write("POST", LIST).status, 502);
    }
}

/// What an upstream in HTTP/2 over TLS was asked: method, URI, host as a field, content.
type Seen = Arc<Mutex<Vec<(String, String, Option<String>, Vec<u8>)>>>;

#[test]
fn a_connection_that_cannot_be_made_is_waited_for_together() {
    // Connections are taken, and nobody ever answers on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let larder = Larder::start(format!(
        "upstream: {{url: \"{url}\", http2: true, connect: 500ms, total: 2s}}\nroutes:\n  - {{path: {LIST}, key: users:list}}\n"
    ));
    let asked: Vec<_> = (0..12)
        .map(|_| {
            let mut client = larder.connect();
            client.send(head("POST", LIST, &[], Some(0)).as_bytes());
            client
        })
        .collect();
    // None of them has left, and so none has changed anything.
    for mut client in asked {
        let answer = client.answer("POST");
        assert_eq!(answer.status, 504);
        let status = answer.cache_status();
        assert!(status.ends_with("; detail=connect-timeout"), "{status}");
    }
}

/// Shakes hands and chooses this protocol; certified by a CA that is made there.
fn choosing(protocol: &str, directory: &std::path::Path) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    larder::tls::install_provider();
    support::redis::write_certificates(directory);
    let chain = CertificateDer::from_pem_file(directory.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![chain], key).unwrap();
    config.alpn_protocols = vec![protocol.into()];
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// One that chooses HTTP/2, and a proxy.yaml before it.
fn secured(directory: &std::path::Path) -> (String, Seen) {
    let acceptor = choosing("h2", directory);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let seen = Seen::default();
    let own = seen.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), own.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let seen = seen.clone();
                        tokio::spawn(async move {
                            let (head, mut body) = request.into_parts();
                            let mut content = Vec::new();
                            while let Some(Ok(data)) = body.data().await {
                                body.flow_control().release_capacity(data.len()).unwrap();
                                content.extend_from_slice(&data);
                            }
                            let host = head.headers.get("host");
                            let host = host.map(|host| host.to_str().unwrap().to_owned());
                            let (method, uri) = (head.method.to_string(), head.uri.to_string());
                            seen.lock().unwrap().push((method, uri, host, content));
                            let answer = http::Response::builder()
                                .header("content-type", "application/json");
                            let mut sending = respond
                                .send_response(answer.body(()).unwrap(), false)
                                .unwrap();
                            sending.send_data("{}".into(), true).unwrap();
                        });
                    }
                });
            }
        });
    });
    let ca_file = directory.join("ca.pem");
    let yaml = format!(
        "upstream: {{url: \"https://localhost:{port}\", http2: true, ca_file: \"{}\"}}\n\
        routes: [{{path: /api/users/, key: users:list}}]\n\
        purge: [{{methods: [POST], path: /api/users/, keys: [\"users:list\"]}}]\n",
        ca_file.display()
    );
    (yaml, seen)
}

#[test]
fn over_tls_the_upstream_chooses_it_and_is_asked_under_the_clients_host() {
    let directory = tempfile::tempdir().unwrap();
    let (yaml, seen) = secured(directory.path());
    let larder = Larder::start(yaml);
    let upload = vec![b'x'; 1 << 20];
    assert!(larder.get("/a%20b/?q=1&q").is_complete_success());
    assert!(
        larder
            .request("PUT", "/files/1", &[], &upload)
            .is_complete_success()
    );
    assert!(!larder.get(LIST).is_hit());
    assert!(larder.get(LIST).is_hit());
    assert!(larder.write("POST", LIST).is_complete_success());
    assert!(!larder.get(LIST).is_hit());
    let seen = seen.lock().unwrap();
    let asked: Vec<_> = seen
        .iter()
        .map(|(method, uri, ..)| format!("{method} {uri}"))
        .collect();
    let host = support::client::HOST;
    let list = format!("https://{host}{LIST}");
    assert_eq!(
        asked,
        [
            format!("GET https://{host}/a%20b/?q=1&q"),
            format!("PUT https://{host}/files/1"),
            format!("GET {list}"),
            format!("POST {list}"),
            format!("GET {list}"),
        ]
    );
    assert!(
        seen.iter().all(|(_, _, host, _)| host.is_none()),
        "Host is `:authority` there"
    );
    assert!(seen[1].3 == upload);
}

#[test]
fn where_the_upstream_chooses_http_1_1_nobody_waits_for_the_connection_of_another() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let directory = tempfile::tempdir().unwrap();
    let acceptor = choosing("http/1.1", directory.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let all_wait = Arc::new(tokio::sync::Notify::new());
    let first = all_wait.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            // The first shakes hands when it is told to, the others once there are two of them.
            let (both, mut is_first) = (Arc::new(tokio::sync::Barrier::new(2)), true);
            while let Ok((stream, _)) = listener.accept().await {
                let goes_first = std::mem::take(&mut is_first);
                let (acceptor, both, first) = (acceptor.clone(), both.clone(), first.clone());
                tokio::spawn(async move {
                    if goes_first {
                        first.notified().await;
                    } else {
                        both.wait().await;
                    }
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    let answer =
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                    stream.write_all(answer).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        });
    });
    let ca_file = directory.path().join("ca.pem");
    let larder = Larder::start(format!(
        "upstream: {{url: \"https://localhost:{port}\", http2: true, ca_file: \"{}\"}}\nroutes: []\n",
        ca_file.display()
    ));
    let asked_at_once = |clients: usize, meanwhile: &dyn Fn()| {
        let mut clients: Vec<_> = (0..clients).map(|_| larder.connect()).collect();
        for client in &mut clients {
            client.send(b"GET /other/ HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        meanwhile();
        for client in &mut clients {
            let answer = client.answer("GET");
            assert!(answer.is_complete_success(), "{answer:?}");
        }
    };
    asked_at_once(3, &|| {
        eventually("all wait for the first", || {
            larder.readiness()["upstream"]["under_way"] == 3
        });
        all_wait.notify_one();
    });
    asked_at_once(2, &|| {});
}
