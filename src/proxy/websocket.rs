//! WebSocket: on a path that no route names, a connection that the upstream agrees to switch is from then on only copied,
//! both ways. RFC 9110 §7.8, RFC 6455 §4. Nothing else is ever upgraded to: h2c least of all.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{self, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::pass::streamed;
use super::plan::Plan;
use super::{Client, Setup, present};
use crate::body::RequestBody;
use crate::caching::cache_status::{Forward, Reason};
use crate::config::{UpstreamAddress, WebSocket};
use crate::error::{Error, UpstreamFailure};
use crate::message::fields;
use crate::reply::Reply;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// How long the one direction may go on after the other has ended.
const LINGER: Duration = Duration::from_secs(5);

/// The connections that are only copied.
pub struct Tunnels {
    settings: WebSocket,
    /// No more than that, whatever the settings.
    most: usize,
    places: Arc<Semaphore>,
    under_way: TaskTracker,
    end: CancellationToken,
}

impl Tunnels {
    pub fn new(settings: WebSocket) -> Tunnels {
        Tunnels {
            places: Arc::new(Semaphore::new(settings.connections)),
            settings,
            most: usize::MAX,
            under_way: TaskTracker::new(),
            end: CancellationToken::new(),
        }
    }

    /// No more than there are descriptors for, under any settings to come, too. Said before there are any.
    pub fn within(self, most: usize) -> Tunnels {
        let places = Semaphore::new(self.settings.connections.min(most));
        Tunnels {
            most,
            places: Arc::new(places),
            ..self
        }
    }

    /// The same under other settings: those that there are go on, and are waited for in the end.
    pub fn under(&self, settings: WebSocket) -> Tunnels {
        let places = match settings.connections == self.settings.connections {
            true => self.places.clone(),
            false => Arc::new(Semaphore::new(settings.connections.min(self.most))),
        };
        Tunnels {
            settings,
            most: self.most,
            places,
            under_way: self.under_way.clone(),
            end: self.end.clone(),
        }
    }

    /// Waits until all have ended, and ends them then. How many it had to end.
    pub async fn end_by(&self, deadline: Instant) -> usize {
        self.under_way.close();
        let ended = tokio::time::timeout_at(deadline, self.under_way.wait()).await;
        let left = match ended {
            Ok(()) => 0,
            Err(_) => self.under_way.len(),
        };
        self.end.cancel();
        self.under_way.wait().await;
        left
    }

    /// Begins to copy, as soon as both sides have switched.
    fn begin(&self, ours: OnUpgrade, theirs: OnUpgrade, place: OwnedSemaphorePermit) {
        let (idle, end) = (self.settings.idle, self.end.clone());
        self.under_way.spawn(async move {
            let _place = place;
            let tunnel = async {
                let (client, upstream) = tokio::try_join!(ours, theirs)?;
                copy(TokioIo::new(client), TokioIo::new(upstream), idle).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                ended = tunnel => if let Err(error) = ended {
                    debug!(%error, "a connection was not switched");
                },
                () = end.cancelled() => {}
            }
        });
    }
}

/// Whether the client asks for a WebSocket where one may be: then the request is a GET without content, of HTTP/1.1.
pub fn is_asked(setup: &Setup, client: &Client, plan: &Plan, has_content: bool) -> bool {
    let of_no_route = matches!(
        plan,
        Plan::Pass {
            detail: Some(Reason::NoRoute),
            ..
        }
    );
    of_no_route
        && setup.config.websocket.connections > 0
        // By prior knowledge the upstream speaks HTTP/2 alone, where nothing is switched.
        && (!setup.config.upstream.http2
            || setup.config.upstream.addresses.iter().all(UpstreamAddress::is_tls))
        && client.method == Method::GET
        && !has_content
        && is_alone(client, header::UPGRADE, "websocket")
        && client
            .fields
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(fields::list_members)
            .any(|member| member.eq_ignore_ascii_case("upgrade"))
}

fn is_alone(client: &Client, name: header::HeaderName, value: &str) -> bool {
    let mut lines = client.fields.get_all(name).iter();
    let first = lines.next();
    first.is_some_and(|line| line.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
        && lines.next().is_none()
}

/// Passes the request on, and what follows it, if the upstream says 101; else its answer is one like any other.
pub async fn pass(setup: &Arc<Setup>, client: &Client, ours: OnUpgrade) -> Result<Reply, Error> {
    let place = setup.tunnels.places.clone().try_acquire_owned();
    let place = place.map_err(|_| UpstreamFailure::QueueFull)?;
    let mut outgoing = present::pass(&setup.config, client, RequestBody::Empty);
    switching(outgoing.fields.to_mut());
    let slot = setup.upstream.slot(client.asker(&setup.config)).await?;
    let mut response = setup.upstream.send(slot, outgoing).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (why, detail) = (Forward::Bypass, Some(Reason::NoRoute));
        return Ok(streamed(response, why, detail));
    }
    let theirs = hyper::upgrade::on(&mut response);
    // Its slot is given back: a tunnel has a place of its own.
    let mut reply = streamed(response, Forward::Bypass, Some(Reason::NoRoute));
    switching(reply.response.headers_mut());
    setup.tunnels.begin(ours, theirs, place);
    Ok(reply)
}

fn switching(fields: &mut header::HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, WEBSOCKET);
}

/// Both ways, until one side ends, or neither says anything for `idle`.
async fn copy<C, U>(client: C, upstream: U, idle: Duration)
where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let passed = AtomicU64::new(0);
    let (client_read, client_write) = io::split(client);
    let (upstream_read, upstream_write) = io::split(upstream);
    let up = one_way(client_read, upstream_write, &passed);
    let down = one_way(upstream_read, client_write, &passed);
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let silence = async {
        let mut seen = passed.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            match passed.load(Ordering::Relaxed) {
                now if now == seen => break,
                now => seen = now,
            }
        }
    };
    // What is said last still arrives, also from the other side of one that was lost.
    tokio::select! {
        () = &mut up => drop(tokio::time::timeout(LINGER, down).await),
        () = &mut down => drop(tokio::time::timeout(LINGER, up).await),
        () = silence => {}
    }
}

async fn one_way(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: &AtomicU64,
) {
    let _ = io::copy(&mut Counted { from, passed }, &mut to).await;
    // The other side is told of one that was lost, too, or it would take its place until `LINGER` is over.
    let _ = tokio::time::timeout(LINGER, to.shutdown()).await;
}

/// A side that counts what comes from it.
struct Counted<'p, S> {
    from: S,
    passed: &'p AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let done = Pin::new(&mut self.from).poll_read(cx, into);
        let read = (into.filled().len() - before) as u64;
        self.passed.fetch_add(read, Ordering::Relaxed);
        done
    }
}
