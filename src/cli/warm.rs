//! `larder warm`: asks a running instance for what is about to be wanted, so that its first reader is given a hit.

use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{self, HeaderValue};
use http::{HeaderMap, HeaderName, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{ConfigFile, Failure, explain};
use crate::caching::cache_status::CACHE_STATUS;
use crate::config::Config;
use crate::explain::assumed_host;

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder warm                                          every route whose path captures nothing
  larder warm /api/users/ '/api/users/?page=2'
  larder warm -H @token.txt - < targets.txt            one path a line; fields from a file

What is warmed is the copy of the credential that is given with -H; without one that of whoever asks without.
It asks the proxy at `listen`, as any client: what is kept already is left as it is.")]
pub struct Arguments {
    /// Paths with their queries, or - for standard input with one a line; without any, the routes that capture nothing
    targets: Vec<String>,
    /// A field of each request, as for curl: 'Name: value', or @FILE with one a line
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    fields: Vec<String>,
    /// How many are asked for at once
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    #[command(flatten)]
    file: ConfigFile,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    let targets = targets(&config, &arguments.targets)?;
    let mut fields = HeaderMap::new();
    for (name, value) in explain::read_fields(&arguments.fields)? {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value))
        else {
            return Err(Failure::Failed(format!(
                "`{name}` is no field with a value"
            )));
        };
        fields.append(name, value);
    }
    if !fields.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&assumed_host(&config))
    {
        fields.insert(header::HOST, host);
    }
    let patience = config.upstream.total * 2 + Duration::from_secs(5);
    let place = Place {
        address: reachable(config.listen),
        fields,
        patience,
    };
    let (kept, asked) = super::runtime()?.block_on(place.warm(targets, arguments.concurrency))?;
    eprintln!("{kept} of {asked} are kept");
    match kept == asked {
        true => Ok(()),
        false => Err(Failure::Failed(
            "`larder explain TARGET --ask` says why the others are not".to_owned(),
        )),
    }
}

/// What to ask for.
fn targets(config: &Config, named: &[String]) -> Result<Vec<String>, Failure> {
    let mut targets = Vec::new();
    for target in named {
        if target == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|error| {
                    Failure::Failed(format!("cannot read standard input: {error}"))
                })?;
                if !line.trim().is_empty() {
                    targets.push(line.trim().to_owned());
                }
            }
        } else {
            targets.push(target.clone());
        }
    }
    if named.is_empty() {
        let plain = config
            .routes
            .iter()
            .filter(|route| route.path.names().next().is_none());
        targets.extend(plain.map(|route| route.path.as_str().to_owned()));
    }
    match targets.iter().find(|target| !target.starts_with('/')) {
        Some(other) => Err(Failure::Failed(format!(
            "`{other}` is no path: write it as clients ask for it, like /api/users/?page=2"
        ))),
        None if targets.is_empty() => Err(Failure::Failed(
            "every route captures something: name the paths".to_owned(),
        )),
        None => Ok(targets),
    }
}

/// An address that listens everywhere is asked at home.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv4() {
            true => std::net::Ipv4Addr::LOCALHOST.into(),
            false => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The running proxy, and how it is asked.
#[derive(Clone)]
struct Place {
    address: SocketAddr,
    fields: HeaderMap,
    patience: Duration,
}

impl Place {
    /// Asks for all, so many at once, and tells each as it comes. How many are kept, of how many.
    async fn warm(self, targets: Vec<String>, at_once: u16) -> Result<(usize, usize), Failure> {
        let (slots, asked) = (Arc::new(Semaphore::new(at_once.into())), targets.len());
        let mut asking = JoinSet::new();
        for target in targets {
            let (place, slots) = (self.clone(), slots.clone());
            asking.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let answered = tokio::time::timeout(place.patience, place.ask(&target)).await;
                (
                    target,
                    answered.unwrap_or_else(|_| Err("no answer in time".to_owned())),
                )
            });
        }
        let mut kept = 0;
        while let Some(Ok((target, answered))) = asking.join_next().await {
            let told = match answered {
                Ok(answer) => answer,
                Err(why) => {
                    let help = "start it with `larder serve`, or name another address with `listen:` in the file";
                    let address = self.address;
                    return Err(Failure::Failed(format!(
                        "no instance answers at {address} ({why}): {help}"
                    )));
                }
            };
            kept += usize::from(told.kept);
            println!("{}\t{target}\t{}", told.status, told.cache_status);
        }
        Ok((kept, asked))
    }

    async fn ask(&self, target: &str) -> Result<Told, String> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = target
            .parse()
            .map_err(|error: http::uri::InvalidUri| error.to_string())?;
        *request.headers_mut() = self.fields.clone();
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, mut body) = response.into_parts();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| error.to_string())?;
        }
        let ours = head.headers.get_all(CACHE_STATUS).iter().next_back();
        let said = ours.and_then(|value| value.to_str().ok());
        let said = said.unwrap_or_default().trim_start_matches("larder; ");
        Ok(Told {
            status: head.status.as_u16(),
            kept: said
                .split("; ")
                .any(|word| word == "hit" || word == "stored"),
            cache_status: said.to_owned(),
        })
    }
}

/// What came of one.
struct Told {
    status: u16,
    kept: bool,
    cache_status: String,
}
