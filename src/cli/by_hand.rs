//! `larder get · set · purge · keys`: straight on Redis, or, as the embedded store lives in another process,
//! by asking that process at its `admin` address.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use clap::Args;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use super::{ConfigFile, Failure, Output, print_json, serve};
use crate::coherence::Coherence;
use crate::config::{Access, Config, Secret, StoreAddress};
use crate::operations::{self, Named, Purging};
use crate::store::Listed;
use crate::text::one_line;
use crate::tls::certificates::Certificates;
use crate::tls::own;

/// How long a running instance may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a key in a path of the operator's listener keeps as it is.
const KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b':')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder get users:list                    the shared copy's body; what is known of it goes to standard error
  larder get /api/users/7/ | jq .email
  larder get users:list --json | jq '{valid, age_seconds, ttl_seconds}'

Exit status 1 if there is no copy, or nobody is given it any more.")]
pub struct Get {
    /// users:list, users:detail:7, a full key as `larder keys` prints it, or a path
    key: String,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  curl -s http://127.0.0.1:8000/api/users/ | larder set users:list
  larder set /api/users/7/ < seven.json
  echo '[]' | larder set users:list --json")]
pub struct Set {
    /// users:list, users:detail:7 or a path
    key: String,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder purge users:list users:detail:7
  larder purge 'users:detail:*'            every user's
  larder purge /api/users/7/ --soft        given until it is fetched anew
  larder purge --all --json | jq -r '.purged[]'
  echo 'Authorization: Bearer …' | larder purge --credential -")]
pub struct Purge {
    /// users:list, users:detail:7, 'users:detail:*' or a path
    #[arg(required_unless_present_any = ["all", "credential"])]
    keys: Vec<String>,
    /// Everything under the prefix
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    /// What the API said of the credentials on standard input, each a line such as `Authorization: Bearer …`; and tokens (JWT) themselves, until they expire
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = ["keys", "all"])]
    credential: Option<String>,
    /// Copies are given until they are fetched anew, when they are next asked for
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder keys                              all, also what a purge has made invalid
  larder keys users:detail:
  larder keys --json | jq -r '.keys[] | select(.bytes > 100000) | .key'")]
pub struct Keys {
    /// Only keys that begin so, e.g. users:detail:
    #[arg(default_value = "")]
    start: String,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

pub fn get(arguments: &Get) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    operations::typed(&config, &arguments.key).map_err(failed)?;
    let (mut facts, body) = match Place::of(config)? {
        Place::Instance(admin) => {
            let path = entry_path(&arguments.key);
            let facts = admin.json(Method::GET, &path, Vec::new(), "key")?;
            (facts, Bytes::from(admin.bytes(&format!("{path}?body"))?))
        }
        Place::Store(config) => with_store(config, async |config, coherence| {
            let entry = operations::get(config, coherence, &arguments.key)
                .await
                .map_err(failed)?;
            let entry =
                entry.ok_or_else(|| Failure::Failed("there is no copy at this key".to_owned()))?;
            Ok((serde_json::to_value(&entry).unwrap_or_default(), entry.body))
        })?,
    };
    if let Some(facts) = facts.as_object_mut() {
        facts.remove("body");
        if arguments.output.json {
            // A text as it is, and whatever else in a form that JSON can hold.
            match std::str::from_utf8(&body) {
                Ok(text) => facts.insert("body".to_owned(), text.into()),
                Err(_) => facts.insert("body_base64".to_owned(), BASE64.encode(&body).into()),
            };
        }
    }
    match arguments.output.json {
        true => print_json(&facts),
        false => eprintln!(
            "{}",
            serde_json::to_string_pretty(&facts).unwrap_or_default()
        ),
    }
    if facts["valid"] == false {
        let why = facts["reason"].as_str().unwrap_or("it is not");
        return Err(Failure::Failed(format!(
            "there is a copy, but nobody is given it any more: {why}"
        )));
    }
    if arguments.output.json {
        return Ok(());
    }
    std::io::stdout()
        .write_all(&body)
        .map_err(|error| Failure::Failed(error.to_string()))
}

pub fn set(arguments: &Set) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    let mut body = Vec::new();
    std::io::stdin()
        .read_to_end(&mut body)
        .map_err(|error| Failure::Failed(format!("cannot read standard input: {error}")))?;
    operations::typed(&config, &arguments.key).map_err(failed)?;
    let (access, seen_by) = match operations::access(&config, &arguments.key).map_err(failed)? {
        Access::Public => ("public", "everybody is given it"),
        Access::Verify(_) => (
            "verify",
            "whoever the API admits is given it, where the route has no `scope`",
        ),
        Access::Jwt(_) => (
            "jwt",
            "whoever has a good token is given it, where the route has no `scope`",
        ),
        Access::PerCredential => (
            "per-credential",
            "whoever asks without a credential is given it, and nobody else",
        ),
    };
    let seconds = match Place::of(config)? {
        Place::Instance(admin) => admin.json(
            Method::PUT,
            &entry_path(&arguments.key),
            body,
            "ttl_seconds",
        )?["ttl_seconds"]
            .as_u64()
            .unwrap_or_default(),
        Place::Store(config) => with_store(config, async |config, coherence| {
            let ttl = operations::set(config, coherence, &arguments.key, body.into())
                .await
                .map_err(failed)?;
            Ok(ttl.as_secs())
        })?,
    };
    match arguments.output.json {
        true => print_json(
            &json!({ "key": arguments.key, "ttl_seconds": seconds, "access": access, "given_to": seen_by }),
        ),
        false => println!("set {} for {seconds} s: {seen_by}", arguments.key),
    }
    Ok(())
}

pub fn purge(arguments: &Purge) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    if arguments.credential.is_some() {
        return revoke(config, &arguments.output);
    }
    for key in &arguments.keys {
        operations::typed(&config, key).map_err(failed)?;
    }
    let purged: Vec<String> = match Place::of(config)? {
        Place::Instance(admin) => {
            let asked =
                json!({ "keys": arguments.keys, "all": arguments.all, "soft": arguments.soft });
            let told = admin.json(
                Method::POST,
                "/purge",
                asked.to_string().into_bytes(),
                "purged",
            )?;
            told["purged"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        }
        Place::Store(config) => with_store(config, async |config, coherence| {
            let mut named = Vec::new();
            for key in &arguments.keys {
                named.push(operations::named(config, key).map_err(failed)?);
            }
            if arguments.all {
                named.push(Named::Everything);
            }
            let purging = match arguments.soft {
                true => Purging::Soft,
                false => Purging::Hard,
            };
            let purged = operations::purge(config, coherence, named, purging).await;
            let states = purged.map_err(failed)?.into_iter();
            Ok(states.map(|state| state.as_str().to_owned()).collect())
        })?,
    };
    let named = |state: &String| state.replace("~state", "").replace("~all", ":*");
    let purged: Vec<String> = purged.iter().map(named).collect();
    if arguments.output.json {
        print_json(&json!({ "purged": purged, "soft": arguments.soft }));
        return Ok(());
    }
    let word = match arguments.soft {
        true => "outdated",
        false => "purged",
    };
    for key in purged {
        println!("{word} {key}");
    }
    Ok(())
}

/// Never an argument: other users of the machine could read it.
fn revoke(config: Config, output: &Output) -> Result<(), Failure> {
    let mut lines = String::new();
    std::io::stdin()
        .read_to_string(&mut lines)
        .map_err(|error| Failure::Failed(format!("cannot read standard input: {error}")))?;
    let parts = match Place::of(config)? {
        Place::Instance(admin) => {
            let asked = json!({ "credentials": [lines] }).to_string().into_bytes();
            let told = admin.json(Method::POST, "/purge", asked, "revoked")?;
            told["revoked"].as_u64().unwrap_or_default()
        }
        Place::Store(config) => with_store(config, async |config, coherence| {
            let revoked = operations::revoke(config, coherence, &lines).await;
            Ok(revoked.map_err(failed)? as u64)
        })?,
    };
    if output.json {
        print_json(&json!({ "revoked": parts }));
        return Ok(());
    }
    println!(
        "revoked {parts}: the API is asked again before anybody with them is given a shared copy; a token (JWT) is refused until its end"
    );
    Ok(())
}

pub fn keys(arguments: &Keys) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    let most = operations::COUNTED;
    let (listed, more): (Vec<(String, u64, Option<u64>)>, bool) = match Place::of(config)? {
        Place::Instance(admin) => {
            let start = utf8_percent_encode(&arguments.start, KEY);
            let path = format!("/keys?start={start}&limit={most}");
            let told = admin.json(Method::GET, &path, Vec::new(), "keys")?;
            let row = |key: &Value| {
                (
                    key["key"].as_str().unwrap_or_default().to_owned(),
                    key["bytes"].as_u64().unwrap_or(0),
                    key["ttl_seconds"].as_u64(),
                )
            };
            let keys = told["keys"].as_array().into_iter().flatten();
            (keys.map(row).collect(), told["more"] == true)
        }
        Place::Store(config) => with_store(config, async |config, coherence| {
            let (keys, more) = operations::keys(config, coherence, &arguments.start, most)
                .await
                .map_err(failed)?;
            let row = |key: Listed| (key.key, key.bytes, key.ttl.map(|ttl| ttl.as_secs()));
            Ok((keys.into_iter().map(row).collect(), more))
        })?,
    };
    if arguments.output.json {
        let row = |(key, bytes, ttl): &(String, u64, Option<u64>)| json!({ "key": key, "bytes": bytes, "ttl_seconds": ttl });
        let keys: Vec<Value> = listed.iter().map(row).collect();
        print_json(&json!({ "keys": keys, "more": more }));
        return Ok(());
    }
    for (key, bytes, ttl) in listed {
        let ttl = ttl.map_or_else(|| "-".to_owned(), |ttl| ttl.to_string());
        // A name is whatever somebody has written to the store.
        println!("{}\t{bytes} bytes\t{ttl} s", one_line(&key));
    }
    if more {
        eprintln!(
            "these are {most}, and there are more: say how they begin, like `larder keys users:detail:`"
        );
    }
    Ok(())
}

/// Where the copies are.
enum Place {
    Instance(Admin),
    Store(Box<Config>),
}

impl Place {
    fn of(config: Config) -> Result<Place, Failure> {
        match config.store.address {
            StoreAddress::Memory => Ok(Place::Instance(Admin::of(&config)?)),
            StoreAddress::Redis(_) => {
                Place::warn_of_another_store(&config);
                Ok(Place::Store(Box::new(config)))
            }
        }
    }

    /// An instance that runs at the file's admin address may have been started with another store: what is done here is
    /// nothing to it then.
    fn warn_of_another_store(config: &Config) {
        let Ok(admin) = Admin::of(config) else {
            return;
        };
        let told = admin.ask_for(Duration::from_secs(1), Method::GET, "/readyz", Vec::new());
        let told: Value = match told {
            Ok((_, body)) => serde_json::from_slice(&body).unwrap_or_default(),
            Err(_) => return,
        };
        if told["store"]["kind"] == "memory" {
            eprintln!(
                "warning: the instance at {} keeps its copies in its own memory, not in this Redis: it was started with another `store.url`, or without the variable that names it",
                admin.address
            );
        }
        let StoreAddress::Redis(redis) = &config.store.address else {
            return;
        };
        let (database, prefix) = (&told["store"]["database"], &told["store"]["prefix"]);
        if let (Some(theirs), Some(name)) = (database.as_i64(), prefix.as_str())
            && (theirs, name) != (redis.database, config.store.prefix.as_str())
        {
            eprintln!(
                "warning: the instance at {} keeps its copies in database {theirs} under `{name}:`, not in database {} under `{}:`: it was started with another `store`, or with other variables",
                admin.address, redis.database, config.store.prefix
            );
        }
    }
}

fn with_store<T>(
    config: Box<Config>,
    work: impl AsyncFnOnce(&Config, &Coherence) -> Result<T, Failure>,
) -> Result<T, Failure> {
    super::runtime()?.block_on(async {
        let coherence = serve::coherence(&config).await?;
        let done = work(&config, &coherence).await;
        coherence.caught_up().await;
        done
    })
}

fn failed(error: operations::OperationError) -> Failure {
    Failure::Failed(error.to_string())
}

fn entry_path(key: &str) -> String {
    format!("/entries/{}", utf8_percent_encode(key, KEY))
}

/// The operator's listener of a running instance.
pub struct Admin {
    pub address: SocketAddr,
    pub token: Option<Secret>,
    /// What it shows, if it speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
}

impl Admin {
    pub fn of(config: &Config) -> Result<Admin, Failure> {
        let off = || {
            let why = "`admin: off`: this asks a running instance at its admin address, and there is none; give `admin` an address";
            Failure::Failed(why.to_owned())
        };
        let mut address = config.admin.ok_or_else(off)?;
        if address.ip().is_unspecified() {
            let loopback: std::net::IpAddr = if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            address.set_ip(loopback);
        }
        let tls = config.admin_tls.as_ref().map(|tls| &tls.own);
        Ok(Admin {
            address,
            token: config.admin_token.clone(),
            certificates: serve::certificates("admin_tls", tls)?,
        })
    }

    /// What it says, in which there is always `holds`: whoever else may listen there says nothing of the kind.
    pub fn json(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        holds: &str,
    ) -> Result<Value, Failure> {
        let (status, body) = self.ask(method, path, body)?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        match (status.is_success(), &told["detail"]) {
            (true, _) if told.get(holds).is_some() => Ok(told),
            (false, Value::String(why)) => Err(self.refusal(status, why.clone())),
            _ => Err(self.is_another(status)),
        }
    }

    /// Why it does not do what it was asked. What it says of a token is for who sends none.
    pub fn refusal(&self, status: StatusCode, why: String) -> Failure {
        let address = self.address;
        Failure::Failed(match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, Some(_)) => format!(
                "the instance at {address} goes by another `admin_token` than this file: SIGHUP has it read the file again (a value from its environment takes a restart)"
            ),
            (StatusCode::UNAUTHORIZED, None) => format!(
                "the instance at {address} asks for an `admin_token`, and this file has none: write it there as the instance has it"
            ),
            _ => why,
        })
    }

    /// What answers there is no Larder's listener.
    pub fn is_another(&self, status: StatusCode) -> Failure {
        Failure::Failed(format!(
            "what answers at {} ({status}) is not Larder's `admin` listener: name that one's address with `admin:` in the file",
            self.address
        ))
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.ask(Method::GET, path, Vec::new())
            .map(|(_, body)| body)
    }

    pub fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        self.ask_for(PATIENCE, method, path, body)
    }

    /// Waits no longer than `patience`.
    fn ask_for(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let asked = async {
            let stream = TcpStream::connect(self.address)
                .await
                .map_err(|error| error.to_string())?;
            let stream = match &self.certificates {
                None => Either::Left(stream),
                Some(certificates) => {
                    let host = self.address.ip().to_string();
                    let stream = own::connect(certificates, &host, stream).await;
                    Either::Right(stream.map_err(|error| format!("TLS: {error}"))?)
                }
            };
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let mut request = Request::new(Full::new(Bytes::from(body)));
            *request.method_mut() = method;
            *request.uri_mut() = path
                .parse()
                .map_err(|error: http::uri::InvalidUri| error.to_string())?;
            let fields = request.headers_mut();
            fields.insert(
                header::HOST,
                HeaderValue::from_str(&self.address.to_string())
                    .map_err(|error| error.to_string())?,
            );
            fields.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            if let Some(token) = &self.token {
                let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                    .map_err(|_| "`admin_token` is no field value".to_owned())?;
                bearer.set_sensitive(true);
                fields.insert(header::AUTHORIZATION, bearer);
            }
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|error| error.to_string())?
                .to_bytes();
            Ok::<_, String>((status, body.to_vec()))
        };
        let answered =
            super::runtime()?.block_on(async { tokio::time::timeout(patience, asked).await });
        let (why, help) = match answered {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(why)) => (
                why,
                "start it with `larder serve`, or name another address with `admin:` in the file",
            ),
            Err(_) => (
                format!("nothing came within {} s", patience.as_secs()),
                "it is there and hangs, or something between drops what is sent: see its log, and whether its process is stopped",
            ),
        };
        Err(Failure::Failed(format!(
            "no instance answers at {} ({why}): {help}",
            self.address
        )))
    }
}
