//! The API behind Larder: reached, in time, and with answers that can be kept. It is asked with GETs alone, exactly as
//! a fill asks, and without any credential unless the operator gives one. Nothing is kept.

mod access;
mod judge;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::{Finding, Requests, ok, skipped, warning, wrong};
use crate::access::may_fill;
use crate::access::verdict::Said;
use crate::coherence::{Coherence, Journal, hold_for};
use crate::config::{Config, UpstreamAddress};
use crate::explain::{self, Accepted, Knowledge, Question, Reading, ask};
use crate::proxy::present::{self, Presented};
use crate::proxy::{Setup, admit};
use crate::store::Store;
use crate::store::memory::Memory;
use crate::tls;
use crate::upstream::{Unconnected, Upstream, dial};
use judge::{Seen, no_answer};

pub async fn examine(config: &Config, requests: &Requests, tell: &mut impl FnMut(Finding)) {
    let mut reached = None;
    for address in &config.upstream.addresses {
        let connected = connect(config, address).await;
        if connected.level == super::Level::Ok {
            reached.get_or_insert(address);
        }
        tell(connected);
    }
    let Some(reached) = reached else {
        return;
    };
    // A store of nobody's: what is asked here leaves no trace in the real one.
    let store = Arc::new(Store::Memory(Memory::new(1 << 20)));
    let hold = hold_for(config.upstream.total);
    let coherence = Coherence::new(store, Arc::<Journal>::default(), hold);
    let upstream = Upstream::new(config.upstream.clone());
    let setup = Arc::new(Setup::new(config.clone(), upstream, coherence));

    let mut paths: Vec<String> = config
        .routes
        .iter()
        .map(|route| route.path.as_str())
        .filter(|path| !path.contains('<'))
        .map(str::to_owned)
        .collect();
    paths.extend(requests.paths.iter().cloned());
    let (mut host, mut answers) = (None, true);
    for path in &paths {
        let question = Question {
            method: "GET".to_owned(),
            target: path.clone(),
            fields: requests.fields.clone(),
            content: 0,
            from: None,
            server_name: None,
        };
        let explained = explain::explain(&setup.config, &question, Knowledge::default());
        let (told, accepted) = match explained {
            Ok(explained) => explained,
            Err(why) => {
                tell(wrong("path", format!("{path}: {why}"), "see --help"));
                continue;
            }
        };
        host.get_or_insert_with(|| told.host.clone());
        // What the origin's own word decides is looked at by `explain --ask`.
        let by_ttl = |reading: &Reading| !setup.config.routes[reading.route].is_by_http();
        let Some(reading) = accepted.and_then(Accepted::reading).filter(by_ttl) else {
            let why = told.because.unwrap_or_default();
            let detail = told.detail.unwrap_or_default();
            tell(skipped(
                "route",
                format!("{path} is not kept ({detail}): {why}"),
            ));
            continue;
        };
        for finding in route(&setup, &reading, told.host_assumed, path).await {
            answers &= finding.code != "upstream-answer";
            tell(finding);
        }
    }
    for route in &config.routes {
        let asked = requests.paths.iter().any(|path| {
            let path = path.split('?').next().unwrap_or(path);
            route.path.match_canonical(path).is_some()
        });
        if route.path.as_str().contains('<') && !asked {
            let seen = format!(
                "{} was not asked: name one with --path",
                route.path.as_str()
            );
            tell(skipped("route", seen));
        }
    }
    if !answers {
        return;
    }
    access::examine(&setup, requests, tell).await;
    let host = host.unwrap_or_else(|| explain::assumed_host(config));
    let path = paths.first().map_or("/", String::as_str);
    if let Some(finding) = keep_alive(config, reached, &host, path).await {
        tell(finding);
    }
}

/// A stream to the API, secured where that is asked for.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn stream(
    config: &Config,
    address: &UpstreamAddress,
) -> Result<Box<dyn Stream>, Unconnected> {
    let (ca_file, own) = (
        config.upstream.ca_file.as_deref(),
        config.upstream.client_cert.as_ref(),
    );
    Ok(match address {
        UpstreamAddress::Tcp { host, port } => {
            Box::new(dial(host, *port).await.map_err(Unconnected::Io)?)
        }
        UpstreamAddress::Tls { host, port } => {
            let stream = dial(host, *port).await.map_err(Unconnected::Io)?;
            let client = tls::client::Client::new(ca_file, own).map_err(Unconnected::Tls)?;
            Box::new(
                client
                    .connect(host, stream, false)
                    .await
                    .map_err(Unconnected::Tls)?,
            )
        }
        UpstreamAddress::Unix(path) => {
            Box::new(UnixStream::connect(path).await.map_err(Unconnected::Io)?)
        }
    })
}

async fn connect(config: &Config, place: &UpstreamAddress) -> Finding {
    let error = match timeout(config.upstream.connect, stream(config, place)).await {
        Ok(Ok(_)) => return ok("upstream-connect", place.to_string()),
        Ok(Err(Unconnected::Tls(error))) => return not_secure(place, &error),
        Ok(Err(Unconnected::Io(error))) => error,
        Err(_) => std::io::ErrorKind::TimedOut.into(),
    };
    use std::io::ErrorKind as K;
    let (seen, remedy) = match (error.kind(), place) {
        (K::ConnectionRefused, UpstreamAddress::Tcp { .. } | UpstreamAddress::Tls { .. }) => (
            format!("nobody listens at {place}"),
            "start the API there (`gunicorn --bind …`), or correct `upstream` (UPSTREAM)",
        ),
        (K::PermissionDenied, UpstreamAddress::Unix(_)) => (
            format!("{place}: {error}"),
            "let Larder's user into the socket's group (`gunicorn --umask 007`)",
        ),
        (K::NotFound | K::ConnectionRefused, UpstreamAddress::Unix(_)) => (
            format!("nobody listens at {place}"),
            "start gunicorn with `--bind unix:…` there, or correct `upstream` (UPSTREAM)",
        ),
        (K::TimedOut, _) => (
            format!(
                "{place} does not answer within {:?}",
                config.upstream.connect
            ),
            "look at the firewall between, and whether the API's host is up",
        ),
        _ => (
            format!("{place}: {error}"),
            "check host and port in `upstream` (UPSTREAM)",
        ),
    };
    wrong("upstream-connect", seen, remedy)
}

fn not_secure(place: &UpstreamAddress, error: &std::io::Error) -> Finding {
    use tls::Trouble as T;
    let remedy = match tls::trouble(error) {
        T::UnknownIssuer => {
            "its certificate is of an authority that is not trusted: put the CA that signed it into `upstream: {ca_file: …}`"
        }
        T::WrongName => "write the name in `upstream` that the certificate has",
        T::OutOfTime => "renew its certificate, and look at the clocks of both machines",
        T::OfAnAuthority => tls::NOT_A_SERVERS,
        T::NotTls => "it does not speak TLS there: write `http://`, or the port where it does",
        T::Other => "look at its log; `openssl s_client -connect …` shows what it says",
    };
    wrong("upstream-tls", format!("{place}: {error}"), remedy)
}

/// One request under a route.
async fn route(
    setup: &Arc<Setup>,
    reading: &Reading,
    host_assumed: bool,
    path: &str,
) -> Vec<Finding> {
    let (served, client) = (&setup.served[reading.route], &reading.client);
    let Some(secret) = setup.coherence.store().secret() else {
        return Vec::new();
    };
    let captures = &reading.captures;
    let admitted = match served.route.access.is_by_verdict() {
        false => None,
        true => {
            let verdict = admit::judge(setup, served, client, &secret).await;
            if let Said::NotAdmitted(reason) = verdict.said {
                let seen = format!(
                    "{path} is not kept for this client ({}); to see more: -H 'Authorization: …'",
                    reason.word()
                );
                return vec![skipped("route", seen)];
            }
            Some(Arc::new(verdict))
        }
    };
    let (config, varied) = (&setup.config, &[]);
    let presented = present::present(config, served, captures, client, varied, &secret, admitted);
    let Presented::Asked(asked) = presented else {
        return Vec::new();
    };
    if !may_fill(&served.route.access, config, &client.fields) {
        return vec![warning(
            "route",
            format!(
                "{path} is not kept of who sends what this client does: more than one credential"
            ),
            "list cookies that are no credential in `ignore_cookies`, and send one credential: a second may change what all are given",
        )];
    }
    let judged = match ask::judge(setup, &served.route, client, &asked).await {
        Ok(judged) => judged,
        Err(failure) => return vec![no_answer(failure, path, &setup.config)],
    };
    let seen = Seen {
        path,
        host: asked.origin.split("://").nth(1).unwrap_or_default(),
        host_assumed,
        answer: &judged,
    };
    let mut found = vec![seen.judge(&served.route)];
    let total = setup.config.upstream.total;
    if judged.took * 2 > total {
        found.push(warning(
            "upstream-slow",
            format!(
                "GET {path} took {:.1} s of at most {total:?}",
                judged.took.as_secs_f64()
            ),
            "make it faster, or raise `upstream: {total: …}`: what takes longer is answered 504",
        ));
    }
    found
}

/// Whether the API closes idle connections sooner than Larder gives them up: then a request may meet a closing one.
async fn keep_alive(
    config: &Config,
    address: &UpstreamAddress,
    host: &str,
    path: &str,
) -> Option<Finding> {
    let ours = config.upstream.pool_idle;
    let seen = async {
        let stream = stream(config, address).await.ok()?;
        idle(stream, host, path, ours).await.ok()
    };
    let limit = config.upstream.total + ours + Duration::from_secs(5);
    let kept = timeout(limit, seen).await.ok()??;
    Some(match kept {
        Idle::EachClosed => ok(
            "upstream-keep-alive",
            "it closes the connection after each answer, as gunicorn's sync worker does",
        ),
        Idle::Kept => ok(
            "upstream-keep-alive",
            format!("it keeps idle connections for longer than `pool_idle` ({ours:?})"),
        ),
        Idle::ClosedAfter(time) => warning(
            "upstream-keep-alive",
            format!(
                "it closes idle connections after {:.1} s, and `pool_idle` is {ours:?}",
                time.as_secs_f64()
            ),
            "write `upstream: {pool_idle: …}` with less than that, or raise gunicorn's `--keep-alive`",
        ),
    })
}

/// How a connection ends that nobody uses.
enum Idle {
    EachClosed,
    Kept,
    ClosedAfter(Duration),
}

async fn idle<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    path: &str,
    longest: Duration,
) -> std::io::Result<Idle> {
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\nUser-Agent: larder/{version}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let (mut buffer, mut said) = ([0; 8192], Vec::new());
    // The answer's first byte may take as long as it takes: the caller has a limit.
    let mut read = stream.read(&mut buffer).await?;
    loop {
        let last = Instant::now();
        if said.len() < 32 * 1024 {
            said.extend_from_slice(&buffer[..read]);
        }
        if read == 0 {
            return Ok(Idle::EachClosed);
        }
        match timeout(longest, stream.read(&mut buffer)).await {
            Err(_) => return Ok(Idle::Kept),
            Ok(Ok(0) | Err(_)) => {
                let text = String::from_utf8_lossy(&said).to_ascii_lowercase();
                let head = text.split("\r\n\r\n").next().unwrap_or_default();
                let at_once =
                    head.contains("\r\nconnection: close") || head.starts_with("http/1.0");
                // Without a word, but at once: the same.
                return Ok(match at_once || last.elapsed() < longest / 20 {
                    true => Idle::EachClosed,
                    false => Idle::ClosedAfter(last.elapsed()),
                });
            }
            Ok(Ok(more)) => read = more,
        }
    }
}
