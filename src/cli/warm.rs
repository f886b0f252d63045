//! `larder warm`: asks a running instance for what is about to be wanted, so that its first reader is given a hit.

use std::io::BufRead;

use clap::Args;
use http::header::HeaderValue;
use http::{HeaderMap, HeaderName};
use serde_json::json;

use super::{ConfigFile, Failure, Output, explain, serve};
use crate::config::Config;
use crate::warming::{Told, Warmer, as_json};

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder warm                                          every route whose path captures nothing
  larder warm /api/users/ '/api/users/?page=2'
  larder warm -H @token.txt - < targets.txt            one path a line; fields from a file
  larder warm --json | jq -r 'select(.kept == false) | .target'

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
    pub output: Output,
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
    let certificates = serve::certificates("tls", config.tls.as_ref())?;
    let warmer = Warmer::new(&config, config.listen, certificates, fields);
    let tell = |target: &str, told: &Told| match arguments.output.json {
        true => println!("{}", as_json(target, told)),
        false => match told.status {
            Some(status) => println!("{status}\t{target}\t{}", told.cache_status),
            None => println!("-\t{target}\t{}", told.error.as_deref().unwrap_or_default()),
        },
    };
    let asked = warmer.warm(targets, arguments.concurrency, tell);
    let (kept, asked) = super::runtime()?.block_on(asked).map_err(|why| {
        let help =
            "start it with `larder serve`, or name another address with `listen:` in the file";
        let address = warmer.address;
        Failure::Failed(format!("no instance answers at {address} ({why}): {help}"))
    })?;
    match arguments.output.json {
        true => println!("{}", json!({ "kept": kept, "asked": asked })),
        false => eprintln!("{kept} of {asked} are kept"),
    }
    match kept == asked {
        true => Ok(()),
        false => Err(Failure::Failed(
            "`larder explain TARGET --ask` says why the others are not".to_owned(),
        )),
    }
}

/// What to ask for.
pub fn targets(config: &Config, named: &[String]) -> Result<Vec<String>, Failure> {
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
