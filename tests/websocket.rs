//! WebSocket: a connection that is switched where no route names the path, and only there, and only if the upstream agrees.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use support::client::Connection;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{PATIENCE, eventually};

/// The key and its answer of RFC 6455 §1.3.
const ASKS: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const AGREES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An upstream that agrees, greets at once, and then gives back in capitals whatever comes.
struct Shouting {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    /// The targets of those that have ended.
    ended: Arc<Mutex<Vec<String>>>,
}

impl Shouting {
    fn start() -> Shouting {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shouting = Shouting {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            ended: Arc::default(),
        };
        let (heads, ended) = (shouting.heads.clone(), shouting.ended.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (heads, ended) = (heads.clone(), ended.clone());
                thread::spawn(move || {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut byte) {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let switches = head.to_ascii_lowercase().contains("upgrade: websocket");
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    heads.lock().unwrap().push(head);
                    if !switches {
                        let plain =
                            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                        let _ = stream.write_all(plain);
                        return;
                    }
                    // In one piece: what follows the head is already of the other protocol.
                    let _ = stream.write_all(format!("{AGREES}hello ").as_bytes());
                    let mut part = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut part) {
                        if part[..length].ends_with(b"leave") {
                            break;
                        }
                        if stream
                            .write_all(&part[..length].to_ascii_uppercase())
                            .is_err()
                        {
                            break;
                        }
                    }
                    ended.lock().unwrap().push(target);
                });
            }
        });
        shouting
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn ended(&self) -> usize {
        self.ended.lock().unwrap().len()
    }

    fn file(&self, more: &str) -> String {
        let upstream = self.address;
        format!(
            "upstream: {{url: \"http://{upstream}\", max_connections: 2}}\n{more}\n\
            routes:\n  - {{path: /api/users/, key: users:list}}\n  - {{path: \"/http/<path:rest>\", policy: http}}\n"
        )
    }
}

/// A client that asks for it.
fn asking(larder: &Larder, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(larder.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: api.example.org\r\nOrigin: https://a.example\r\n{ASKS}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[track_caller]
fn hears(stream: &mut TcpStream, words: &str) {
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), words);
}

fn switched(larder: &Larder, target: &str) -> TcpStream {
    let mut stream = asking(larder, target);
    let head = head(&mut stream);
    assert!(head.starts_with("http/1.1 101"), "{head}");
    hears(&mut stream, "hello ");
    stream
}

#[test]
fn both_sides_hear_each_other_until_one_leaves() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file(""));
    let mut client = asking(&larder, "/ws/chat/?room=1");
    let answer = head(&mut client);
    for line in [
        "http/1.1 101",
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "fwd=bypass",
    ] {
        assert!(answer.contains(line), "{line:?} is not in {answer:?}");
    }
    hears(&mut client, "hello ");
    for _ in 0..3 {
        client.write_all(b"\x81abc").unwrap();
        let mut heard = [0; 4];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"\x81ABC");
    }
    let long = vec![b'x'; 1 << 20];
    let mut writing = client.try_clone().unwrap();
    let written = thread::spawn(move || writing.write_all(&long));
    let mut heard = vec![0; 1 << 20];
    client.read_exact(&mut heard).unwrap();
    assert!(heard.iter().all(|byte| *byte == b'X'));
    written.join().unwrap().unwrap();

    let asked = upstream.heads().remove(0);
    assert!(
        asked.starts_with("GET /ws/chat/?room=1 HTTP/1.1\r\n"),
        "{asked}"
    );
    let asked = asked.to_ascii_lowercase();
    for line in [
        "\r\nhost: api.example.org\r\n",
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
        "\r\norigin: https://a.example\r\n",
        "\r\nx-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(asked.contains(line), "{line:?} is not in {asked:?}");
    }

    // The upstream leaves, and the client learns of it; then the other way round.
    client.write_all(b"leave").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let client = switched(&larder, "/ws/");
    client.shutdown(Shutdown::Both).unwrap();
    eventually("the upstream sees its client leave", || {
        upstream.ended() == 2
    });
}

#[test]
fn where_a_route_caches_nothing_is_switched_and_the_request_goes_on_without() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file(""));
    for target in ["/api/users/", "/http/x", "/api/%75sers/"] {
        let mut client = asking(&larder, target);
        let answer = head(&mut client);
        assert!(answer.starts_with("http/1.1 200"), "{target}: {answer}");
    }
    let heads = upstream.heads().join("").to_ascii_lowercase();
    assert!(!heads.contains("upgrade:"), "{heads}");
}

#[test]
fn only_a_get_that_asks_for_a_websocket_alone_and_by_the_rules_is_passed_on_as_such() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file(""));
    let get = |fields: &str| format!("GET /ws/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let requests = [
        get(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        ),
        get("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        get("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
        get("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n"),
        get("Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n"),
        get("Connection: keep-alive\r\nUpgrade: websocket\r\n"),
        get("Upgrade: websocket\r\n"),
        get("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n").replacen(
            "\r\n\r\n",
            "\r\n\r\n{}",
            1,
        ),
        get(ASKS).replacen("GET", "POST", 1),
        get(ASKS).replacen("GET", "HEAD", 1),
        get(ASKS).replacen("GET", "OPTIONS", 1),
        get(ASKS).replacen("HTTP/1.1", "HTTP/1.0", 1),
    ];
    for request in &requests {
        let mut stream = TcpStream::connect(larder.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = head(&mut stream);
        assert!(
            answer.split(' ').nth(1) == Some("200"),
            "{request:?}: {answer}"
        );
    }
    let heads = upstream.heads();
    assert_eq!(heads.len(), requests.len());
    for head in heads {
        assert!(!head.to_ascii_lowercase().contains("upgrade:"), "{head}");
    }
}

#[test]
fn what_the_upstream_does_not_agree_to_is_an_answer_like_any_other() {
    let origin = Origin::start(|request| match request.target.as_str() {
        "/refused/" => origin::status(403, "no"),
        "/other/" => origin::raw(AGREES.replace("Upgrade: websocket", "Upgrade: h2c")).staying(),
        "/unnamed/" => origin::raw("HTTP/1.1 101 Switching Protocols\r\n\r\n").staying(),
        _ => origin::json("{}"),
    });
    let larder = Larder::start(format!("upstream: {}\n", origin.url()));
    for (target, status) in [
        ("/refused/", "403"),
        ("/other/", "502"),
        ("/unnamed/", "502"),
        ("/well/", "200"),
    ] {
        let mut client = asking(&larder, target);
        let answer = head(&mut client);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{target}: {answer}");
        assert!(!answer.contains("upgrade:"), "{answer}");
        // And the next request on that connection is one.
        if status == "200" {
            let mut body = [0; 2];
            client.read_exact(&mut body).unwrap();
            client
                .write_all(b"GET /next/ HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            assert!(head(&mut client).starts_with("http/1.1 200"));
        }
    }
    // Unasked it is a 502 all the more.
    assert_eq!(larder.get("/other/").status, 502);
    assert_eq!(larder.get("/unnamed/").status, 502);
}

#[test]
fn a_switched_connection_takes_no_slot_of_the_requests_and_has_a_limit_of_its_own() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("websocket: {connections: 3}"));
    let mut clients: Vec<TcpStream> = (0..3).map(|_| switched(&larder, "/ws/")).collect();
    let mut refused = asking(&larder, "/ws/");
    let answer = head(&mut refused);
    assert!(
        answer.starts_with("http/1.1 503") && answer.contains("retry-after:"),
        "{answer}"
    );
    assert!(larder.get("/other/").is_complete_success());
    drop(clients.pop());
    eventually("there is room again", || {
        head(&mut asking(&larder, "/ws/")).starts_with("http/1.1 101")
    });
    for client in &mut clients {
        client.write_all(b"still there").unwrap();
        hears(client, "STILL THERE");
    }
}

#[test]
fn many_of_them_leave_the_requests_the_descriptors_that_these_need() {
    let upstream = Shouting::start();
    let soft = ["sh", "-c", "ulimit -S -n 64; exec \"$0\" \"$@\""];
    let larder = Larder::with(upstream.file("limits: {connections: 8}"));
    let larder = larder.under(soft).start();
    let _open: Vec<TcpStream> = (0..200).map(|_| switched(&larder, "/ws/")).collect();
    assert!(larder.get("/other/").is_complete_success());
}

#[test]
fn where_there_can_be_few_descriptors_there_are_fewer_of_them_and_requests_go_on() {
    let upstream = Shouting::start();
    let hard = ["sh", "-c", "ulimit -n 512; exec \"$0\" \"$@\""];
    let larder = Larder::with(upstream.file("")).under(hard).start();
    let mut open = Vec::new();
    let refused = loop {
        let mut one = asking(&larder, "/ws/");
        let head = head(&mut one);
        if !head.starts_with("http/1.1 101") {
            break head;
        }
        open.push(one);
    };
    assert!(refused.starts_with("http/1.1 503"), "{refused}");
    assert!(open.len() > 16, "{}", open.len());
    assert!(larder.get("/other/").is_complete_success());
}

#[test]
fn a_side_that_is_lost_is_the_end_of_both_and_gives_back_its_place() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("websocket: {connections: 1}"));
    let client = switched(&larder, "/ws/");
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    eventually("the upstream learns of it", || upstream.ended() == 1);
    eventually("there is room for another", || {
        head(&mut asking(&larder, "/ws/")).starts_with("http/1.1 101")
    });
}

/// Or all who are cut off at once would find no room when they come back.
#[test]
fn a_client_that_is_reset_is_told_of_before_one_that_is_silent_from_then_on_is_parted() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("websocket: {idle: 2s}"));
    let reset = switched(&larder, "/ws/reset/");
    socket2::SockRef::from(&reset)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(reset);
    let mut silent = switched(&larder, "/ws/silent/");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    let ended = upstream.ended.lock().unwrap().clone();
    assert!(ended.contains(&"/ws/reset/".to_owned()), "{ended:?}");
}

#[test]
fn with_no_room_for_any_the_request_goes_on_as_a_plain_one() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("websocket: {connections: 0}"));
    assert!(head(&mut asking(&larder, "/ws/")).starts_with("http/1.1 200"));
    assert!(
        !upstream.heads()[0]
            .to_ascii_lowercase()
            .contains("upgrade:")
    );
}

#[test]
fn two_that_say_nothing_are_parted() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("websocket: {idle: 1s}"));
    let mut client = switched(&larder, "/ws/");
    // The end, and no time limit of the test's own.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    eventually("the upstream is left, too", || upstream.ended() == 1);
}

#[test]
fn a_drain_waits_for_it_and_ends_it_at_its_bound() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("limits: {drain: 4s}"));
    let mut client = switched(&larder, "/ws/");
    larder.terminate();
    eventually("nothing new is accepted", || {
        Connection::try_open(larder.address()).is_err()
    });
    client.write_all(b"still there").unwrap();
    hears(&mut client, "STILL THERE");
    let ended = client.read(&mut [0]);
    let reset = |kind| matches!(kind, ErrorKind::ConnectionReset);
    assert!(
        ended.as_ref().is_ok_and(|read| *read == 0)
            || ended.is_err_and(|error| reset(error.kind()))
    );
    let exit = larder.exit();
    assert!(exit.status.success(), "{exit:?}");
    assert!(
        exit.output.contains("WebSockets were still open"),
        "{}",
        exit.output
    );
}

#[test]
fn a_reload_leaves_it_as_it_is_and_a_drain_still_waits_for_it() {
    let upstream = Shouting::start();
    let larder = Larder::start(upstream.file("limits: {drain: 4s}"));
    let mut client = switched(&larder, "/ws/");
    let yaml = std::fs::read_to_string(larder.file()).unwrap();
    std::fs::write(larder.file(), yaml + "websocket: {connections: 0}\n").unwrap();
    let json = [("Content-Type", "application/json")];
    let reloaded =
        Connection::open(larder.admin_address()).request("POST", "/reload", &json, b"{}");
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    assert!(head(&mut asking(&larder, "/ws/")).starts_with("http/1.1 200"));
    client.write_all(b"still there").unwrap();
    hears(&mut client, "STILL THERE");
    larder.terminate();
    eventually("nothing new is accepted", || {
        Connection::try_open(larder.address()).is_err()
    });
    client.write_all(b"and now").unwrap();
    hears(&mut client, "AND NOW");
    client.write_all(b"leave").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    let exit = larder.exit();
    assert!(exit.status.success(), "{exit:?}");
    assert!(!exit.output.contains("WebSockets were still open"));
}
