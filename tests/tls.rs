//! TLS on the public listener: what is spoken, which certificate is shown, and how certificates are exchanged.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::{HandshakeKind, ProtocolVersion};
use support::client::HOST;
use support::larder::{Larder, binary, run};
use support::origin::{self, Origin};
use support::tls::{Authority, Issued, Kind, TlsClient};
use support::{eventually, users_api};

const LIST: &str = "/api/users/";
const GUIDE: &str = include_str!("../docs/TLS.md");

/// A Larder that shows `issued` for everything.
fn larder_with(authority: &Authority, issued: &Issued, origin: &Origin) -> Larder {
    authority.write("server", issued);
    let tls = format!("tls: {}", authority.pair("server"));
    Larder::start(users_api(origin, "memory:", &tls))
}

fn list() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

#[test]
fn a_request_by_tls_is_one_by_https_for_the_api_and_the_copies() {
    let (authority, origin) = (Authority::new(), list());
    let issued = authority.issue(Kind::Ecdsa, &[HOST]);
    let larder = larder_with(&authority, &issued, &origin);
    let mut client = authority.client().connect(larder.address(), HOST).unwrap();
    assert_eq!(client.shown(), issued.own);

    assert_eq!(client.get(LIST).status, 200);
    let told = origin.last();
    assert_eq!(told.fields.get("x-forwarded-proto"), Some("https"));
    let forwarded = told.fields.get("forwarded").unwrap_or_default().to_owned();
    assert!(forwarded.contains("proto=https"), "{forwarded}");
    let hit = client.get(LIST);
    assert!(hit.is_hit(), "{hit:?}");
    let file = larder.file().display().to_string();
    let explained = run(
        &["explain", LIST, "-H", "Host: api.example.org", "-c", &file],
        &[],
    );
    assert!(
        explained.output.contains("https://api.example.org"),
        "{explained:?}"
    );
}

#[test]
fn tls_1_2_and_1_3_are_spoken_with_authenticated_encryption_and_forward_secrecy_alone() {
    let (authority, origin) = (Authority::new(), list());
    for kind in [Kind::Ecdsa, Kind::Rsa] {
        let issued = authority.issue(kind, &[HOST]);
        let larder = larder_with(&authority, &issued, &origin);
        for (version, spoken) in [
            (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
            (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
        ] {
            let client = authority.client_of(&[version]);
            let mut client = client.connect(larder.address(), HOST).unwrap();
            assert_eq!(client.stream().conn.protocol_version(), Some(spoken));
            assert_eq!(client.get(LIST).status, 200);
        }
        // TLS 1.1; TLS 1.2 with CBC, without ECDHE, and with RC4.
        const OLD: [u16; 1] = [0xc013];
        assert_eq!(
            alert(larder.address(), 0x0302, &OLD),
            Some(70),
            "protocol_version"
        );
        for weak in [
            0xc013, 0xc014, 0xc009, 0xc027, 0x009c, 0x009e, 0x002f, 0x0005,
        ] {
            let refused = alert(larder.address(), 0x0303, &[weak]);
            assert_eq!(refused, Some(40), "handshake_failure to {weak:#06x}");
        }
    }
}

/// The alert that comes back for a ClientHello of this version that offers these suites.
fn alert(address: SocketAddr, version: u16, suites: &[u16]) -> Option<u8> {
    let part = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let two = |numbers: &[u16]| {
        numbers
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect::<Vec<u8>>()
    };
    // Signatures (ECDSA and RSA with SHA-256), groups (P-256, X25519), point formats.
    let extension = |kind: u16, bytes: &[u8]| [&kind.to_be_bytes()[..], &part(bytes)].concat();
    let extensions = [
        extension(13, &part(&two(&[0x0403, 0x0401, 0x0804]))),
        extension(10, &part(&two(&[23, 29]))),
        extension(11, &[1, 0]),
    ]
    .concat();
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(part(&two(suites)));
    hello.extend([1, 0]);
    hello.extend(part(&extensions));
    let mut record = vec![22, 3, 1];
    record.extend(part(&[&[1, 0][..], &part(&hello)].concat()));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(&record).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    match answer.as_slice() {
        [21, _, _, 0, 2, 2, alert] => Some(*alert),
        _ => None,
    }
}

#[test]
fn a_session_is_taken_up_again_but_nothing_is_sent_before_its_handshake() {
    let (authority, origin) = (Authority::new(), list());
    let larder = larder_with(&authority, &authority.issue(Kind::Ecdsa, &[HOST]), &origin);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = authority.client_of(&[version]).resuming();
        let mut first = client.connect(larder.address(), HOST).unwrap();
        // With its answer come the tickets.
        assert_eq!(first.get(LIST).status, 200);
        let mut second = client.connect(larder.address(), HOST).unwrap();
        assert_eq!(second.get(LIST).status, 200);
        let session = &mut second.stream().conn;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Resumed));
        assert!(!session.is_early_data_accepted());
    }
}

#[test]
fn the_protocol_is_the_one_that_alpn_chose_and_http_1_1_without_it() {
    let (authority, origin) = (Authority::new(), list());
    let larder = larder_with(&authority, &authority.issue(Kind::Ecdsa, &[HOST]), &origin);
    let alpn = |names: &[&str]| {
        authority
            .client()
            .alpn(names)
            .connect(larder.address(), HOST)
    };
    let mut asked = alpn(&["http/1.1"]).unwrap();
    assert_eq!(asked.stream().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(asked.get(LIST).status, 200);
    let mut silent = alpn(&[]).unwrap();
    assert_eq!(silent.stream().conn.alpn_protocol(), None);
    assert_eq!(silent.get(LIST).status, 200);
    let refused = alpn(&["smtp"]).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|why| why.contains("NoApplicationProtocol")));
}

#[test]
fn each_name_is_shown_its_own_certificate_and_all_others_the_first() {
    let (authority, origin) = (Authority::new(), list());
    // The first stands for what comes without a name, too.
    let first = authority.issue(
        Kind::Ecdsa,
        &["first.example.org", "other.test", "127.0.0.1"],
    );
    let exact = authority.issue(Kind::Rsa, &["a.example.net"]);
    let wild = authority.issue(Kind::Ecdsa, &["*.example.net", "x.y.example.net"]);
    for (name, issued) in [("first", &first), ("wild", &wild), ("exact", &exact)] {
        authority.write(name, issued);
    }
    let pairs = ["first", "wild", "exact"].map(|name| format!("  - {}\n", authority.pair(name)));
    let tls = format!("tls:\n{}", pairs.concat());
    let larder = Larder::start(users_api(&origin, "memory:", &tls));
    for (name, shown) in [
        ("first.example.org", &first),
        ("A.Example.NET", &exact),
        ("b.example.net", &wild),
        ("x.y.example.net", &wild),
        ("other.test", &first),
        ("127.0.0.1", &first),
    ] {
        let mut client = authority.client().connect(larder.address(), name).unwrap();
        assert_eq!(client.shown(), shown.own, "{name}");
        assert_eq!(
            client.request("GET", LIST, &[("Host", name)], b"").status,
            200,
            "{name}"
        );
    }
    // A wildcard stands for one label.
    let deeper = authority
        .client()
        .connect(larder.address(), "z.y.example.net");
    assert!(deeper.is_err_and(|error| error.to_string().contains("not valid for name")));
}

#[test]
fn a_request_for_another_host_than_the_connection_was_made_for_is_misdirected() {
    let (authority, origin) = (Authority::new(), list());
    let issued = authority.issue(Kind::Ecdsa, &[HOST, "127.0.0.1"]);
    let larder = larder_with(&authority, &issued, &origin);
    let mut named = authority.client().connect(larder.address(), HOST).unwrap();
    for host in [
        "other.example.org",
        "example.org",
        "127.0.0.1",
        "api.example.org.evil.org",
    ] {
        let field = format!("Host: {host}");
        let file = larder.file().to_str().unwrap().to_owned();
        let sni = ["--server-name", HOST, "-H", &field, "-c", &file];
        let told = run(&[&["explain", LIST, "--json"], &sni[..]].concat(), &[]);
        assert!(
            told.output.contains("\"detail\": \"misdirected\""),
            "{told:?}"
        );
        let refused = named.request("GET", LIST, &[("Host", host)], b"");
        assert_eq!(refused.status, 421, "{host}");
        assert!(
            refused.cache_status().contains("detail=misdirected"),
            "{refused:?}"
        );
    }
    let counted = larder.admin("GET", "/metrics").text();
    assert!(
        counted.contains("detail=\"misdirected\",status=\"4xx\"} 4"),
        "{counted}"
    );
    assert!(larder.output().contains("misdirected"));
    assert_eq!(origin.count(), 0);
    let same = [
        "API.example.org",
        "api.example.org:8443",
        "api.example.org.",
    ];
    for host in same {
        let answer = named.request("GET", "/other", &[("Host", host)], b"");
        assert_eq!(answer.status, 200, "{host}");
    }
    let mut nameless = authority
        .client()
        .connect(larder.address(), "127.0.0.1")
        .unwrap();
    for host in ["other.example.org", "127.0.0.1"] {
        let answer = nameless.request("GET", "/other", &[("Host", host)], b"");
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[test]
fn a_request_that_is_known_by_its_bytes_is_known_by_tls_and_misdirected_where_it_is() {
    const OTHER: &str = "other.example.org";
    let authority = Authority::new();
    let origin = Origin::start(move |request| match request.target.as_str() {
        LIST => origin::json("[]"),
        _ => origin::json("7".repeat(3_000_000)),
    });
    let issued = authority.issue(Kind::Ecdsa, &[HOST, OTHER]);
    authority.write("server", &issued);
    let tls = format!("tls: {}", authority.pair("server"));
    let yaml = users_api(&origin, "memory:", &tls);
    let larder = Larder::with(yaml).env("RUST_LOG", "trace").start();
    let known = || larder.output().matches("known again").count();
    let connect = |name: &str| authority.client().connect(larder.address(), name).unwrap();
    for target in [LIST, "/api/users/7/"] {
        let whole = connect(HOST).get(target).content.length;
        // Each thread knows for itself.
        for _ in 0..8 {
            let (mut connection, before) = (connect(HOST), known());
            eventually(&format!("{target} is known again"), || {
                let answer = connection.get(target);
                assert!(answer.content.whole && answer.content.length == whole);
                known() > before
            });
        }
        for _ in 0..8 {
            let mut connection = connect(OTHER);
            for _ in 0..4 {
                assert_eq!(connection.get(target).status, 421);
            }
        }
    }
}

#[test]
fn the_end_of_an_answer_is_told_by_close_notify_and_that_of_a_broken_one_is_not() {
    let authority = Authority::new();
    let origin = Origin::start(|request| match request.target.as_str() {
        "/broken" => origin::huge(200_000).chunked().cut_after(100_000),
        _ => origin::json("[]"),
    });
    let larder = larder_with(&authority, &authority.issue(Kind::Ecdsa, &[HOST]), &origin);
    let connect = || authority.client().connect(larder.address(), HOST).unwrap();
    let mut ended = connect();
    let close = [("Connection", "close")];
    assert_eq!(ended.request("GET", LIST, &close, b"").status, 200);
    assert_eq!(ended.stream().read(&mut [0]).unwrap(), 0);

    let mut broken = connect();
    let answer = broken.request("GET", "/broken", &[], b"");
    assert!(!answer.content.whole);
    let end = broken.stream().read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::UnexpectedEof));
}

#[test]
fn who_speaks_plain_http_where_tls_is_spoken_is_told_so() {
    let (authority, origin) = (Authority::new(), list());
    let larder = larder_with(&authority, &authority.issue(Kind::Ecdsa, &[HOST]), &origin);
    let answer = larder.request("POST", LIST, &[], &[b'x'; 100_000]);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("https"), "{answer:?}");
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_handshake_that_does_not_end_is_ended_and_keeps_nobody_waiting() {
    let (authority, origin) = (Authority::new(), list());
    authority.write("server", &authority.issue(Kind::Ecdsa, &[HOST]));
    let tls = format!(
        "tls: {}\nlimits: {{handshake_timeout: 1s}}",
        authority.pair("server")
    );
    let larder = Larder::start(users_api(&origin, "memory:", &tls));
    // One says nothing, one stops within its ClientHello.
    let mut silent: Vec<TcpStream> = (0..20)
        .map(|n| {
            let mut stream = TcpStream::connect(larder.address()).unwrap();
            stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
            stream.write_all(&[22, 3, 1, 1, 0][..n % 6]).unwrap();
            stream
        })
        .collect();
    let mut good = authority.client().connect(larder.address(), HOST).unwrap();
    assert_eq!(good.get(LIST).status, 200);
    for stream in &mut silent {
        // To its end, or to a reset: what was not read may be answered so.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(good.get(LIST).status, 200);
}

#[test]
fn certificates_are_exchanged_under_load_without_one_failed_request() {
    const EXCHANGES: usize = 12;
    let (authority, origin) = (Authority::new(), list());
    let larder = larder_with(&authority, &authority.issue(Kind::Ecdsa, &[HOST]), &origin);
    let (client, address) = (authority.client(), larder.address());
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (opened, failures) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    let resuming = client.clone().resuming();
    let one = |client: &TlsClient, requests: usize| -> std::io::Result<()> {
        let mut connection = client.connect(address, HOST)?;
        opened.fetch_add(1, Ordering::Relaxed);
        for _ in 0..requests {
            let answer = connection.try_request("GET", LIST, &[], b"")?;
            if !answer.is_complete_success() {
                return Err(std::io::Error::other(format!("{answer:?}")));
            }
            asked.fetch_add(1, Ordering::Relaxed);
            if over.load(Ordering::Relaxed) {
                break;
            }
            thread::yield_now();
        }
        Ok(())
    };
    let load = |client: TlsClient, requests: usize| {
        while !over.load(Ordering::Relaxed) {
            if let Err(error) = one(&client, requests) {
                failures.lock().unwrap().push(error.to_string());
            }
        }
    };
    let load = &load;
    thread::scope(|scope| {
        // Kept alive from before the first exchange to after the last, one request after the other, and new ones.
        for (client, requests) in [
            (&client, usize::MAX),
            (&client, usize::MAX),
            (&client, 1),
            (&client, 3),
            (&resuming, 1),
        ] {
            scope.spawn(move || load(client.clone(), requests));
        }
        for n in 0..EXCHANGES {
            let kind = [Kind::Rsa, Kind::Ecdsa][n % 2];
            let next = authority.issue(kind, &[HOST]);
            authority.write("server", &next);
            eventually("the new certificate is shown", || {
                let mut fresh = client.connect(address, HOST).unwrap();
                fresh.shown() == next.own
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    // It is said after it is done.
    eventually("each exchange is said", || {
        let said = larder.output();
        said.matches("the certificate is exchanged").count() == EXCHANGES
    });
    println!(
        "{EXCHANGES} exchanges under {} requests on {} connections, none failed",
        asked.into_inner(),
        opened.into_inner()
    );
}

#[test]
fn a_bad_new_pair_leaves_the_old_one_in_place_and_is_said_once_and_so_is_the_end_of_it() {
    let (authority, origin) = (Authority::new(), list());
    let good = authority.issue(Kind::Ecdsa, &[HOST]);
    let other = authority.issue(Kind::Ecdsa, &[HOST]);
    let kept = authority.issue(Kind::Ecdsa, &["kept.example.org"]);
    let tls = format!(
        "tls:\n  - {}\n  - {}",
        authority.put("server", &good),
        authority.put("kept", &kept)
    );
    let larder = Larder::start(users_api(&origin, "memory:", &tls));
    let shown = |name: &str| {
        let mut client = authority.client().connect(larder.address(), name).unwrap();
        let answer = client.request("GET", LIST, &[("Host", name)], b"");
        assert_eq!(answer.status, 200);
        client.shown()
    };
    let said = |what: &str| larder.output().matches(what).count();
    const NOT_TAKEN: &str = "the new certificate is not taken";

    let (mismatched, cut, expired) = (
        Issued {
            chain: other.chain.clone(),
            ..good.clone()
        },
        Issued {
            chain: good.chain[..300].to_owned(),
            ..good.clone()
        },
        authority.issue_with(Kind::Ecdsa, &[HOST], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }),
    );
    for (n, (bad, why)) in [
        (&mismatched, "is not that of the certificate"),
        (&cut, "is damaged"),
        (&expired, "has expired"),
    ]
    .into_iter()
    .enumerate()
    {
        authority.put("server", bad);
        eventually("it is said", || said(why) > 0);
        assert_eq!(shown(HOST), good.own, "{why}");
        // Others are exchanged meanwhile, which takes longer than to be said again would.
        let next = authority.issue(Kind::Ecdsa, &["kept.example.org"]);
        authority.put("kept", &next);
        eventually("the other pair is exchanged", || {
            shown("kept.example.org") == next.own
        });
        assert_eq!(said(NOT_TAKEN), n + 1, "{}", larder.output());
    }
    std::fs::remove_file(authority.cert("server")).unwrap();
    eventually("it is said", || said("cannot be read") > 0);
    assert_eq!(shown(HOST), good.own);

    authority.put("server", &good);
    eventually("it is mended", || said("is what is shown again") == 1);
    authority.put("server", &other);
    eventually("the new one is shown", || shown(HOST) == other.own);
    assert!(!larder.output().contains("PRIVATE KEY"));
}

#[test]
fn what_is_wrong_with_a_certificate_is_known_before_a_port_is_open() {
    let (authority, origin) = (Authority::new(), list());
    let good = authority.issue(Kind::Ecdsa, &[HOST]);
    authority.write("server", &good);
    std::fs::write(
        authority.key("server"),
        &authority.issue(Kind::Ecdsa, &[HOST]).key,
    )
    .unwrap();
    let yaml = users_api(
        &origin,
        "memory:",
        &format!("tls: {}", authority.pair("server")),
    );
    let exit = Larder::with(yaml).fails();
    assert_eq!(exit.status.code(), Some(78));
    assert!(exit.output.contains("tls.key: the key in"), "{exit:?}");
    assert!(exit.output.contains("help: "), "{exit:?}");
    assert!(!exit.output.contains("PRIVATE"), "{exit:?}");
}

#[test]
fn a_larder_that_speaks_tls_is_warmed_and_looked_at_as_any_other() {
    let (authority, origin) = (Authority::new(), list());
    authority.write("server", &authority.issue(Kind::Ecdsa, &[HOST]));
    let more = format!(
        "tls: {}\nhosts: [{HOST}, other.example.org]\nwarm: [{{targets: [{LIST}]}}]",
        authority.pair("server")
    );
    let larder = Larder::start(users_api(&origin, "memory:", &more));
    eventually("it is warmed", || origin.count() == 1);
    let mut client = authority.client().connect(larder.address(), HOST).unwrap();
    eventually("what was warmed is kept", || client.get(LIST).is_hit());
    let file = larder.file().display().to_string();
    let warmed = run(&["warm", "/api/users/7/", "-c", &file], &[]);
    assert!(warmed.status.success(), "{warmed:?}");
    assert!(client.get("/api/users/7/").is_hit());

    let check = run(&["check", "-c", &file], &[]);
    assert!(
        check.status.success() && check.output.contains("https://127.0.0.1"),
        "{check:?}"
    );
    let doctor = run(&["doctor", "-c", &file], &[]);
    for line in [
        "ok       tls-certificate",
        "wrong    tls-names",
        "a Larder listens at",
    ] {
        assert!(doctor.output.contains(line), "{line}: {doctor:?}");
    }
}

#[test]
fn the_operators_listener_takes_a_client_certificate_or_the_token_over_tls() {
    let (authority, operators, origin) = (Authority::new(), Authority::new(), list());
    authority.write("admin", &authority.issue(Kind::Ecdsa, &["127.0.0.1"]));
    let operator = operators.issue(Kind::Ecdsa, &["an operator"]);
    let stranger = Authority::new().issue(Kind::Ecdsa, &["an operator"]);
    for token in [None, Some("a-long-random-word")] {
        let admin_tls = format!(
            "admin_tls: {{cert: \"{}\", key: \"{}\", client_ca: \"{}\"}}\n{}",
            authority.cert("admin").display(),
            authority.key("admin").display(),
            operators.file().display(),
            token.map_or_else(String::new, |token| format!("admin_token: {token}")),
        );
        let larder = Larder::with(users_api(&origin, "memory:", &admin_tls)).start_unasked();
        let admin = |client: TlsClient, method: &str, target: &str, bearer: Option<&str>| {
            let mut client = client.connect(larder.admin_address(), "127.0.0.1")?;
            let bearer = bearer.map(|token| format!("Bearer {token}"));
            let mut fields = vec![("Content-Type", "application/json")];
            fields.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
            client.try_request(method, target, &fields, br#"{"keys": ["users:list"]}"#)
        };
        let nobody = || authority.client();
        let purge = |client: TlsClient, bearer| admin(client, "POST", "/purge", bearer);
        larder.get(LIST);
        assert_eq!(
            admin(nobody(), "GET", "/healthz", None).unwrap().status,
            200
        );
        assert_eq!(purge(nobody(), None).unwrap().status, 401);
        assert_eq!(
            purge(nobody(), Some("another-long-word")).unwrap().status,
            401
        );
        assert!(purge(nobody().showing(&stranger), None).is_err());
        assert!(larder.get(LIST).is_hit());
        assert_eq!(
            purge(nobody().showing(&operator), None).unwrap().status,
            200
        );
        assert!(!larder.get(LIST).is_hit());
        if token.is_some() {
            assert_eq!(purge(nobody(), token).unwrap().status, 200);
            assert!(!larder.get(LIST).is_hit());
        }
        // The commands know the listener by its file, and are known by its key.
        let file = larder.file().display().to_string();
        for command in ["health", "keys", "doctor", "check"] {
            let exit = run(&[command, "-c", &file], &[]);
            assert!(exit.status.success(), "{command}: {exit:?}");
        }
        assert!(larder.get(LIST).is_hit());
        let purged = run(&["purge", "users:list", "-c", &file], &[]);
        assert!(purged.status.success(), "{purged:?}");
        assert!(!larder.get(LIST).is_hit());
        let plain = larder.admin("GET", "/healthz");
        assert_eq!(plain.status, 400);
    }
}

#[test]
fn every_command_of_the_guide_does_what_the_guide_says() {
    let (directory, origin) = (tempfile::tempdir().unwrap(), list());
    let folder = directory.path().display().to_string();
    let here = |text: &str| {
        let text = text.replace("site.", &format!("{folder}/site."));
        text.replace("new.", &format!("{folder}/new."))
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary().parent().unwrap().display());
    let says = |line: &str| {
        let mut shell = Command::new("sh");
        let output = shell
            .args(["-c", line])
            .env("PATH", &path)
            .output()
            .unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        // As OpenSSL writes names, and as others do.
        String::from_utf8_lossy(&said).replace("CN = ", "CN=")
    };
    let commands = ["openssl ", "larder ", "curl ", "mv "];
    let is_command = |line: &&str| commands.iter().any(|command| line.starts_with(command));
    let mut commands = GUIDE.lines().filter(is_command);
    says(&here(commands.next().unwrap()));
    let tls = GUIDE.lines().find(|line| line.starts_with("tls: {"));
    let more = format!("{}\nhosts: [{HOST}]", here(tls.unwrap()));
    let larder = Larder::start(users_api(&origin, "memory:", &more));
    let (address, file) = (larder.address().to_string(), larder.file());
    let mut count = 0;
    for line in commands {
        let (line, expected) = line.split_once("# → ").unwrap_or((line, ""));
        let line = here(line).replace("127.0.0.1:8443", &address);
        let line = line.replace("proxy.yaml", &file.display().to_string());
        eventually(&format!("`{line}` says {expected}"), || {
            says(&line).contains(expected)
        });
        count += 1;
    }
    assert_eq!(count, 9);
}

/// While somebody exchanges certificates, the file names what cannot be read, and the instance is well.
#[test]
fn commands_that_only_ask_an_instance_need_no_certificate() {
    let (authority, origin) = (Authority::new(), list());
    let issued = authority.issue(Kind::Ecdsa, &[HOST, "127.0.0.1"]);
    let larder = larder_with(&authority, &issued, &origin);
    let file = larder.file().to_str().unwrap().to_owned();
    let key = authority.key("server");
    std::fs::write(&key, "no key").unwrap();
    for command in [
        &["health"][..],
        &["keys"],
        &["purge", "users:list"],
        &["explain", LIST, "--ask"],
        &["top", "--once"],
    ] {
        let exit = run(&[command, &["-c", &file]].concat(), &[]);
        assert!(exit.status.success(), "{command:?}: {exit:?}");
    }
    // It is the instance that reads it, says what is wrong, and goes on with what it had.
    let reload = run(&["reload", "-c", &file], &[]);
    assert_eq!(reload.status.code(), Some(1), "{reload:?}");
    assert!(reload.output.contains("server.key"), "{reload:?}");
    assert!(
        larder
            .admin("GET", "/readyz")
            .text()
            .contains("\"refused\":1")
    );
    assert_eq!(run(&["check", "-c", &file], &[]).status.code(), Some(78));
}
