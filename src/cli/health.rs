//! `larder health`: for a container's health check, without a shell or curl.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{ConfigFile, Failure, Output, by_hand, print_json};

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder health                            exit status 0 if it runs
  larder health --ready                    how store and upstream are; 1 while it drains
  larder health --ready --json | jq -r .told.store.status
  larder health --admin 127.0.0.1:9180     without a file")]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The operator's listener, over the file's `admin`
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<std::net::SocketAddr>,
    /// Ask whether it is ready, and print what it says of store and purges owed
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    pub output: Output,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let admin = match arguments.admin {
        Some(address) => by_hand::Admin {
            address,
            token: None,
            certificates: None,
        },
        None => by_hand::Admin::of(&super::load(&arguments.file.config)?)?,
    };
    let path = if arguments.ready {
        "/readyz"
    } else {
        "/healthz"
    };
    let (status, body) = admin.ask(Method::GET, path, Vec::new())?;
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    if told.get("status").is_none() {
        return Err(admin.is_another(status));
    }
    if arguments.output.json {
        print_json(
            &json!({ "well": status.is_success(), "status": status.as_u16(), "admin": admin.address.to_string(), "told": told }),
        );
    } else if arguments.ready {
        print!("{}", String::from_utf8_lossy(&body));
    }
    match status.is_success() {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "{} answers {status}",
            admin.address
        ))),
    }
}
