//! `larder check --against`: is what a running proxy gives from its store what the API says?

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};
use url::Url;

use super::check::facts;
use super::{ConfigFile, Failure, Output, check, explain, print_json, warm};
use crate::caching::cache_status::Reason;
use crate::config::Config;
use crate::config::file::{self, Overrides};
use crate::shadow::{Compared, Comparison, Shadow};
use crate::upstream::Upstream;

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder check -c proxy.yaml                           the file alone; connects to nothing
  larder check --json | jq '.routes[] | {path, access}'
  larder check --against http://127.0.0.1:8080 /api/users/ '/api/users/?role=admin'
  larder check --against http://127.0.0.1:8080 -H @token.txt --every 10s - < targets.txt

With --against, each path is asked of that proxy and, if it gives a copy, of the API (`upstream` in the file) just as a client
would ask it. A difference means that something writes past the proxy, that a write is missing under `purge`, or that the
answer hangs on a parameter or field that the key does not hold. Exit status 1 if there is one.")]
pub struct Arguments {
    /// With --against: paths with their queries, or - for standard input with one a line; without any, the routes that
    /// capture nothing
    #[arg(requires = "against")]
    targets: Vec<String>,
    /// Compare what the proxy at this URL gives from its store with what the API says
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// A field of each request, as for curl: 'Name: value', or @FILE with one a line
    #[arg(
        short = 'H',
        long = "header",
        value_name = "FIELD",
        requires = "against"
    )]
    fields: Vec<String>,
    /// Again and again, until a signal ends it; a round after the first that fails is said, and the next one tried
    #[arg(long, value_name = "DURATION", requires = "against", value_parser = file::duration)]
    every: Option<Duration>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file::Loaded { config, warnings } =
        super::load_with(&arguments.file.config, &Overrides::default())?;
    let json = arguments.output.json;
    if !json || arguments.against.is_some() {
        for warning in &warnings {
            eprintln!("{warning}");
        }
    }
    let Some(against) = &arguments.against else {
        match json {
            true => {
                let mut told = facts::of(&config);
                told["file"] = arguments.file.config.display().to_string().into();
                told["warnings"] = warnings.iter().map(|warning| warning.trim_end()).collect();
                print_json(&told);
            }
            false => print!("{}", check::describe(&config)),
        }
        return Ok(());
    };
    let targets = warm::targets(&config, &arguments.targets)?;
    let shadow = Shadow {
        upstream: Upstream::new(config.upstream.clone()),
        proxy: address(against)?,
        fields: explain::read_fields(&arguments.fields)?,
        config,
    };
    super::runtime()?.block_on(async {
        let mut differ = once(&shadow, &targets, json).await?;
        while let Some(pause) = arguments.every {
            tokio::time::sleep(pause).await;
            // The API, or the proxy, is back by the next one.
            match once(&shadow, &targets, json).await {
                Ok(found) => differ = found,
                Err(failure) => drop(super::complain(&failure, json)),
            }
        }
        match differ {
            0 => Ok(()),
            _ => Err(Failure::Failed(remedy(&shadow.config, differ))),
        }
    })
}

/// Compares all targets, and says of each what came of it, then of each route how many differ. Gives how many do.
async fn once(shadow: &Shadow, targets: &[String], json: bool) -> Result<usize, Failure> {
    let mut routes = BTreeMap::<String, (usize, usize)>::new();
    for target in targets {
        let compared = shadow.compare(target).await.map_err(Failure::Failed)?;
        let (same, differ) = routes.entry(compared.route.clone()).or_default();
        match compared.result {
            Comparison::Same => *same += 1,
            Comparison::Differs { .. } => *differ += 1,
            Comparison::NoHit(_)
            | Comparison::Unsteady
            | Comparison::Changing
            | Comparison::Failed(_) => {}
        }
        match json {
            true => println!("{}", line_json(target, &compared)),
            false => println!("{}", line(target, &compared.result)),
        }
    }
    for (route, (same, differ)) in &routes {
        match json {
            true => println!(
                "{}",
                json!({ "route": route, "same": same, "differ": differ })
            ),
            false => println!("route\t{route}\t{same} same, {differ} differ"),
        }
    }
    Ok(routes.values().map(|(_, differ)| differ).sum())
}

fn line(target: &str, result: &Comparison) -> String {
    match result {
        Comparison::Same => format!("same\t{target}"),
        Comparison::Differs { age, copy, api, at } => format!(
            "differs\t{target}\tthe copy, {age} s old: {} with {} bytes; the API: {} with {}; from byte {at} on",
            copy.0.as_u16(),
            copy.1,
            api.0.as_u16(),
            api.1
        ),
        Comparison::NoHit(said) if said.ends_with(Reason::OtherOrigin.word()) => format!(
            "no hit\t{target}\t{said}: its clients name another host or scheme; do as they do: -H 'Host: …', -H 'X-Forwarded-Proto: https'"
        ),
        Comparison::NoHit(said) => format!("no hit\t{target}\t{said}"),
        Comparison::Unsteady => {
            format!("unsteady\t{target}\tthe API itself answers differently each time")
        }
        Comparison::Changing => format!("changing\t{target}\twritten to at each attempt"),
        Comparison::Failed(status) => {
            format!("failed\t{target}\tthe API answers {}", status.as_u16())
        }
    }
}

fn line_json(target: &str, compared: &Compared) -> Value {
    let mut told = json!({ "target": target, "route": compared.route });
    told["result"] = match &compared.result {
        Comparison::Same => "same",
        Comparison::Differs { .. } => "differs",
        Comparison::NoHit(_) => "no-hit",
        Comparison::Unsteady => "unsteady",
        Comparison::Changing => "changing",
        Comparison::Failed(_) => "failed",
    }
    .into();
    match &compared.result {
        Comparison::Differs { age, copy, api, at } => {
            let side = |(status, bytes): &(StatusCode, usize)| json!({ "status": status.as_u16(), "bytes": bytes });
            told["age_seconds"] = (*age).into();
            told["copy"] = side(copy);
            told["api"] = side(api);
            told["from_byte"] = (*at).into();
        }
        Comparison::NoHit(said) => told["cache_status"] = said.as_str().into(),
        Comparison::Failed(status) => told["status"] = status.as_u16().into(),
        Comparison::Same | Comparison::Unsteady | Comparison::Changing => {}
    }
    told
}

fn remedy(config: &Config, differ: usize) -> String {
    let rules = config.purge.len();
    format!(
        "{differ} of what is kept is not what the API says: either something writes past the proxy (`larder purge` after it), or a \
         write is missing among the {rules} rules under `purge`, or the answer hangs on a parameter or field that the key does not \
         hold (`query`, `vary`, `access`). `larder explain TARGET` says what splits the copy and what drops it"
    )
}

fn address(url: &str) -> Result<SocketAddr, Failure> {
    let wrong = |why: &str| Failure::Failed(format!("--against `{url}`: {why}"));
    let parsed = Url::parse(url).map_err(|_| wrong("write it as http://127.0.0.1:8080"))?;
    if parsed.scheme() != "http" {
        return Err(wrong(
            "only http:// is spoken here: name a listener without TLS",
        ));
    }
    let host = parsed.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, parsed.port_or_known_default().unwrap_or(80)).to_socket_addrs();
    let mut found = found.map_err(|error| wrong(&error.to_string()))?;
    found.next().ok_or_else(|| wrong("no such host"))
}
