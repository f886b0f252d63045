//! Bytes of a client, through hyper's server and our own guard, beside the strict reader. Input: how many bytes come at a
//! time, one byte; then what comes. A request that is accepted is the one that stands there, whole and as it stands; behind
//! one that is in doubt nothing is.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder::body::RequestBody;
use larder::config::Config;
use larder::message::target::ForwardUri;
use larder::proxy::present;
use larder::{proxy, reply};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::strict;

pub(super) static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let file = "upstream: http://127.0.0.1:8000\nttl: 1h\nroutes:\n  - {path: /api/users/, key: users:list}\n";
    let loaded = larder::config::file::parse("proxy.yaml", file, &|_| None);
    loaded.expect("a configuration").config
});

/// What hyper handed over, in its order: a request that our guard let through, with its content as far as it came.
type Seen = Option<(strict::Request, bool)>;

pub fn holds(data: &[u8]) {
    let [at_a_time, bytes @ ..] = data else {
        return;
    };
    let seen = served(bytes, usize::from(*at_a_time).max(1));
    let read = strict::read(bytes);
    for (number, seen) in seen.iter().enumerate() {
        let Some((accepted, whole)) = seen else {
            continue;
        };
        match read.get(number) {
            Some(Ok(request)) if *whole => assert_eq!(accepted, request),
            Some(Ok(_)) => {}
            Some(Err(why)) => assert!(!whole, "{why}, and accepted: {accepted:?}"),
            None => assert!(!whole, "nothing whole is there: {accepted:?}"),
        }
    }
    // Behind what is in doubt, or never ends, nothing is even looked at.
    assert!(
        seen.len() <= read.len() + 1,
        "{} of {}",
        seen.len(),
        read.len()
    );
}

/// On this thread, with nothing else and no clock.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn served(bytes: &[u8], at_a_time: usize) -> Vec<Seen> {
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let place = seen.borrow().len();
            seen.borrow_mut().push(None);
            Ok::<_, Infallible>(match proxy::accept(&CONFIG, request, None, None) {
                Ok((client, content)) => {
                    goes_on_as_itself(&client);
                    let mut accepted = strict::Request {
                        method: client.method.to_string(),
                        target: ForwardUri::verbatim(&client.target).as_str().into(),
                        host: client.target.host().to_owned(),
                        content: Vec::new(),
                    };
                    let content = content.collect().await;
                    let whole = content.is_ok();
                    if let Ok(content) = content {
                        accepted.content = content.to_bytes().to_vec();
                    }
                    seen.borrow_mut()[place] = Some((accepted, whole));
                    let mut answer = http::Response::new(Full::new(Bytes::from_static(b"{}")));
                    if !whole {
                        *answer.status_mut() = http::StatusCode::BAD_REQUEST;
                        let close = http::HeaderValue::from_static("close");
                        answer.headers_mut().insert(http::header::CONNECTION, close);
                    }
                    answer
                }
                Err(refusal) => {
                    let answer = reply::error(refusal.into()).response;
                    answer.map(|_| Full::new(Bytes::from_static(b"{}")))
                }
            })
        }
    });
    let connection = http1::Builder::new()
        .max_headers(CONFIG.limits.fields)
        .max_buf_size(CONFIG.limits.head.max(8 * 1024))
        .serve_connection(TokioIo::new(Script { bytes, at_a_time }), service);
    let _ = block_on(connection);
    seen.take()
}

/// What is sent in its place says nothing twice, and nothing that is for us alone.
fn goes_on_as_itself(client: &proxy::Client) {
    let sent = present::pass(&CONFIG, client, RequestBody::Empty);
    assert_eq!(sent.method, client.method);
    assert_eq!(sent.fields.get_all("host").iter().count(), 1);
    assert_eq!(sent.fields["host"], client.target.host());
    let obeying = present::obeying(&CONFIG, client);
    assert_eq!(
        obeying.fields["host"],
        client.target.host().to_ascii_lowercase()
    );
    for name in client.fields.keys().chain(obeying.fields.keys()) {
        let (came, goes) = (client.fields.get_all(name), obeying.fields.get_all(name));
        let is_verbatim = present::are_verbatim(&CONFIG, client, [name]);
        assert!(!is_verbatim || came.iter().eq(goes.iter()), "{name}");
    }
    for name in sent.fields.keys() {
        let word = name.as_str();
        assert!(!word.contains('_'), "{word}");
        let ours_alone = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "expect",
            "x-http-method-override",
            "x-original-url",
        ];
        assert!(!ours_alone.contains(&word), "{word}");
    }
}

/// A connection whose client says this, a few bytes at a time, closes its half, and hears everything.
pub(super) struct Script<'b> {
    pub bytes: &'b [u8],
    pub at_a_time: usize,
}

impl AsyncRead for Script<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.at_a_time.min(self.bytes.len()).min(buffer.remaining());
        let (now, later) = self.bytes.split_at(length);
        buffer.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
