//! `larder health`: for a container's health check, without a shell or curl.

use clap::Args;
use http::Method;

use super::{ConfigFile, Failure, by_hand};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The operator's listener, over the file's `admin`
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<std::net::SocketAddr>,
    /// Ask whether it is ready, and print what it says of store and purges owed
    #[arg(long)]
    ready: bool,
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
    if arguments.ready {
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
