//! Upstreams over `https://`: who is trusted, under which name, and what is said where one is not.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use support::eventually;
use support::larder::{self, Larder};
use tempfile::TempDir;

/// An authority made now.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Authority {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, directory }
    }

    fn ca_file(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    /// A certificate for `name`, changed by `with`, and its key, in PEM.
    fn certificate(&self, name: &str, with: impl Fn(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        with(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// The same in files: what is written as `client_cert`.
    fn client_cert(&self) -> String {
        let (certificate, key) = self.certificate("larder", |_| {});
        let [cert_file, key_file] =
            ["client.pem", "client.key"].map(|name| self.directory.path().join(name));
        std::fs::write(&cert_file, certificate).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let (cert, key) = (cert_file.display(), key_file.display());
        format!("client_cert: {{cert: \"{cert}\", key: \"{key}\"}}")
    }
}

/// An API that speaks TLS alone, and answers each request with `{}`.
struct Secured {
    port: u16,
    asked: Arc<AtomicUsize>,
    names: Arc<std::sync::Mutex<Vec<Option<String>>>>,
}

impl Secured {
    fn start(
        (certificate, key): (String, String),
        asks_for_certificates_of: Option<&Authority>,
    ) -> Secured {
        ::larder::tls::install_provider();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder();
        let config = match asks_for_certificates_of {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                config.with_client_cert_verifier(verifier.unwrap())
            }
        };
        let config = Arc::new(config.with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let secured = Secured {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
            names: Arc::default(),
        };
        let (asked, names) = (secured.asked.clone(), secured.names.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session = ServerConnection::new(config.clone()).unwrap();
                let (asked, names) = (asked.clone(), names.clone());
                thread::spawn(move || {
                    let mut stream = StreamOwned::new(session, stream);
                    let mut read = Vec::new();
                    let mut part = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut part) {
                        read.extend_from_slice(&part[..length]);
                        if !read.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        read.clear();
                        asked.fetch_add(1, Ordering::SeqCst);
                        names
                            .lock()
                            .unwrap()
                            .push(stream.conn.server_name().map(str::to_owned));
                        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
                        if stream.write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        secured
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A proxy.yaml before it, under this name.
    fn file(&self, host: &str, more: &str) -> String {
        let port = self.port;
        format!(
            "upstream: {{url: \"https://{host}:{port}\", {more}}}\nroutes: [{{path: /api/users/, key: users:list}}]\n\
            purge: [{{methods: POST, path: /api/users/, keys: [\"users:list\"]}}]\n"
        )
    }
}

/// What `larder doctor` says of an upstream's TLS, or all, if it says nothing of it.
fn doctor(yaml: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let ports = "listen: 127.0.0.1:0\nadmin: off\n";
    std::fs::write(&file, format!("{ports}{yaml}")).unwrap();
    let exit = larder::run(&["doctor", "-c", &file.display().to_string()], &[]);
    let line = exit
        .output
        .lines()
        .find(|line| line.contains("upstream-tls"));
    line.map_or(exit.output.clone(), str::to_owned)
}

#[test]
fn an_upstream_is_verified_by_its_own_authority_and_asked_over_tls() {
    let authority = Authority::new();
    let api = Secured::start(authority.certificate("localhost", |_| {}), None);
    let more = format!("ca_file: \"{}\"", authority.ca_file());
    let larder = Larder::start(api.file("localhost", &more));
    for _ in 0..2 {
        assert!(larder.get("/api/users/").is_complete_success());
        assert!(larder.get("/other/").is_complete_success());
        assert!(
            larder
                .request("POST", "/api/users/", &[], b"")
                .is_complete_success()
        );
    }
    assert!(larder.get("/api/users/").is_complete_success());
    assert!(larder.get("/api/users/").is_hit());
    assert_eq!(api.asked(), 7);
    let names = api.names.lock().unwrap().clone();
    assert!(
        names
            .iter()
            .all(|name| name.as_deref() == Some("localhost")),
        "{names:?}"
    );
    assert!(doctor(&api.file("localhost", &more)).contains("ok       upstream-connect"));
}

#[test]
fn an_address_needs_it_in_its_certificate() {
    let authority = Authority::new();
    let api = Secured::start(authority.certificate("127.0.0.1", |_| {}), None);
    let more = format!("ca_file: \"{}\"", authority.ca_file());
    let larder = Larder::start(api.file("127.0.0.1", &more));
    assert!(larder.get("/other/").is_complete_success());
    assert_eq!(api.names.lock().unwrap()[0], None, "an address is no SNI");
}

/// A 502 that says why, for reads and writes; a purge of nothing; the same reason once in the log and from the doctor.
#[track_caller]
fn is_refused(api: &Secured, host: &str, more: &str, remedy: &str) {
    let yaml = api.file(host, more);
    let larder = Larder::start(&*yaml);
    for _ in 0..3 {
        for answer in [
            larder.get("/other/"),
            larder.get("/api/users/"),
            larder.request("POST", "/api/users/", &[], b""),
        ] {
            assert_eq!(answer.status, 502, "{answer:?}");
            assert!(
                answer.cache_status().contains("detail=tls-failed"),
                "{answer:?}"
            );
        }
    }
    assert_eq!(api.asked(), 0);
    eventually("all nine are logged", || {
        larder.output().matches("\"detail\":\"tls-failed\"").count() == 9
    });
    let output = larder.output();
    assert_eq!(
        output.matches("no secure connection").count(),
        1,
        "{output}"
    );
    assert!(
        !output.contains("\"purged\""),
        "nothing has left:\n{output}"
    );
    let told = doctor(&yaml);
    assert!(told.starts_with("wrong    upstream-tls"), "{told}");
    assert!(told.contains(remedy), "{told}");
}

#[test]
fn another_authority_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let api = Secured::start(authority.certificate("localhost", |_| {}), None);
    is_refused(&api, "localhost", "", "ca_file");
    let more = format!("ca_file: \"{}\"", other.ca_file());
    is_refused(&api, "localhost", &more, "ca_file");
}

#[test]
fn another_name_is_not_taken() {
    let authority = Authority::new();
    let api = Secured::start(authority.certificate("api.internal", |_| {}), None);
    let more = format!("ca_file: \"{}\"", authority.ca_file());
    is_refused(&api, "localhost", &more, "the name in `upstream`");
}

/// As `openssl req -x509` makes one that is signed by itself.
#[test]
fn a_certificate_of_an_authority_is_no_servers() {
    let authority = Authority::new();
    let of_a_ca =
        |with: &mut CertificateParams| with.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let api = Secured::start(authority.certificate("localhost", of_a_ca), None);
    let more = format!("ca_file: \"{}\"", authority.ca_file());
    is_refused(&api, "localhost", &more, "CA:FALSE");
}

#[test]
fn a_certificate_whose_time_is_over_is_not_taken() {
    let authority = Authority::new();
    let expired = authority.certificate("localhost", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let api = Secured::start(expired, None);
    let more = format!("ca_file: \"{}\"", authority.ca_file());
    is_refused(&api, "localhost", &more, "renew");
}

#[test]
fn what_speaks_no_tls_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let yaml = format!("upstream: https://{address}\nroutes: []\n");
    let larder = Larder::start(&*yaml);
    assert!(
        larder
            .get("/other/")
            .cache_status()
            .contains("detail=tls-failed")
    );
    assert!(doctor(&yaml).contains("does not speak TLS"));
}

#[test]
fn a_client_certificate_is_shown_to_an_upstream_that_asks_for_it() {
    let authority = Authority::new();
    let api = Secured::start(authority.certificate("localhost", |_| {}), Some(&authority));
    let trusting = format!("ca_file: \"{}\"", authority.ca_file());
    let without = Larder::start(api.file("localhost", &trusting));
    for answer in [
        without.get("/other/"),
        without.request("POST", "/other/", &[], b""),
    ] {
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    // The alert may also come before the request leaves; then there was no connection for it.
    eventually("it is said that the connection was refused", || {
        let answer = without.get("/other/");
        answer.cache_status().ends_with("detail=tls-refused")
    });
    let counted = without.admin("GET", "/metrics").text();
    assert!(counted.contains("detail=\"tls-refused\""), "{counted}");
    assert!(without.output().contains("tls-refused"));
    let file = without.file().to_str().unwrap().to_owned();
    eventually("it is foreseen", || {
        let told = larder::run(&["explain", "/api/users/", "--ask", "-c", &file], &[]);
        told.output.contains("tls-refused")
    });
    assert_eq!(api.asked(), 0);

    let with = format!("{trusting}, {}", authority.client_cert());
    let larder = Larder::start(api.file("localhost", &with));
    assert!(larder.get("/other/").is_complete_success());
    assert!(
        larder
            .request("POST", "/other/", &[], b"")
            .is_complete_success()
    );
    assert!(!larder.output().contains("PRIVATE"));

    let stranger = Authority::new();
    let with = format!("{trusting}, {}", stranger.client_cert());
    let larder = Larder::start(api.file("localhost", &with));
    assert_eq!(larder.get("/other/").status, 502);
}

#[test]
fn an_authority_and_a_client_certificate_that_are_renewed_count_from_then_on_and_none_that_is_wrong()
 {
    let (authority, old) = (Authority::new(), Authority::new());
    let api = Secured::start(authority.certificate("localhost", |_| {}), Some(&authority));
    let files = format!("ca_file: \"{}\", {}", old.ca_file(), old.client_cert());
    let larder = Larder::start(api.file("localhost", &format!("{files}, pool_idle: 0s")));
    assert_eq!(larder.get("/other/").status, 502);

    // One after the other, as they are written; the old ones' directory is what the file names.
    std::fs::copy(authority.ca_file(), old.ca_file()).unwrap();
    eventually("the authority is trusted", || {
        let refused = larder.get("/other/");
        refused.cache_status().ends_with("detail=tls-refused")
    });
    authority.client_cert();
    for name in ["client.pem", "client.key"] {
        let [from, to] = [&authority, &old].map(|of| of.directory.path().join(name));
        std::fs::copy(from, to).unwrap();
    }
    eventually("the certificate is shown", || {
        larder.get("/other/").is_complete_success()
    });

    std::fs::write(old.directory.path().join("client.key"), "no key").unwrap();
    eventually("what is wrong is said", || {
        assert!(larder.get("/other/").is_complete_success());
        larder.output().contains("the one from before stays")
    });
    assert!(larder.get("/other/").is_complete_success());
    assert!(!larder.output().contains("PRIVATE"));
}

#[test]
fn a_key_of_another_certificate_is_78() {
    let (authority, api) = (
        Authority::new(),
        Secured::start(Authority::new().certificate("a", |_| {}), None),
    );
    let right = authority.client_cert();
    let (_, other_key) = authority.certificate("other", |_| {});
    let key: &Path = &authority.directory.path().join("client.key");
    std::fs::write(key, other_key).unwrap();
    let exit = Larder::with(api.file("localhost", &right)).fails();
    assert_eq!(exit.status.code(), Some(78));
    assert!(
        exit.output.contains("is not that of the certificate"),
        "{}",
        exit.output
    );
}

#[test]
fn where_http_2_may_be_spoken_the_upstream_still_chooses() {
    let authority = Authority::new();
    let api = Secured::start(authority.certificate("localhost", |_| {}), None);
    let more = format!("http2: true, ca_file: \"{}\"", authority.ca_file());
    let larder = Larder::start(api.file("localhost", &more));
    for _ in 0..3 {
        assert!(larder.get("/other/").is_complete_success());
    }
    assert_eq!(api.asked(), 3);
}
