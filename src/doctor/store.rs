//! Redis as Larder needs it: reached, encrypted where it says so, logged in, in its database, allowed to do what Larder
//! does, whole, near, and not about to throw away what is somebody else's. Written and deleted is only what stands
//! under the prefix; of other keys at most the names are looked at, to know Celery's and django-redis's.

mod judge;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::{Finding, ok, skipped, wrong};
use crate::clock;
use crate::config::{Config, Redis, RedisEndpoint};
use crate::store::codec;
use crate::store::redis::probe::{Probe, Said};
use crate::tls::{self, Trouble};
use judge::{Foreign, Info, Tenants};

/// A greeting is not read beyond that.
const LONGEST_LINE: usize = 1024;

/// So many PINGs make a median.
const PINGS: usize = 21;

/// So many pages of keys are looked at.
const PAGES: usize = 40;

/// So many of the values under our prefix are looked at.
const VALUES: usize = 100;

pub async fn examine(config: &Config, settings: &Redis, tell: &mut impl FnMut(Finding)) {
    let patience = (config.store.timeout * 4).max(Duration::from_secs(1));
    let examination = Examination {
        config,
        settings,
        patience,
    };
    let Some(probe) = examination.reach(tell).await else {
        return tell(skipped(
            "store-use",
            "what comes after the connection was not looked at",
        ));
    };
    if !examination.enter(&probe, tell).await {
        return tell(skipped(
            "store-use",
            "what comes after the login was not looked at",
        ));
    }
    let info = examination.info(&probe, tell).await;
    if info.kind().is_some() {
        return tell(skipped(
            "store-use",
            "what comes after that was not looked at",
        ));
    }
    examination.use_it(&probe, &info, tell).await;
    examination.measure(&probe, tell).await;
    examination.look_around(&probe, &info, tell).await;
}

struct Examination<'c> {
    config: &'c Config,
    settings: &'c Redis,
    patience: Duration,
}

impl Examination<'_> {
    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        timeout(self.patience, work).await.ok()
    }

    async fn ask<A: AsRef<[u8]>>(&self, probe: &Probe, words: &[A]) -> Said {
        self.within(probe.ask(words)).await.unwrap_or(Said::Lost)
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.config.store.prefix)
    }

    /// Connects, with TLS where the URL says so.
    async fn reach(&self, tell: &mut impl FnMut(Finding)) -> Option<Probe> {
        match &self.settings.endpoint {
            RedisEndpoint::Unix(path) => match self.within(UnixStream::connect(path)).await {
                Some(Ok(mut stream)) => {
                    tell(ok(
                        "store-connect",
                        format!("redis+unix://{}", path.display()),
                    ));
                    let greeting = self.greeting(&mut stream).await;
                    self.over(stream, greeting, tell).await
                }
                Some(Err(error)) => {
                    tell(judge::no_socket(path, &error));
                    None
                }
                None => {
                    tell(judge::no_socket(path, &io::ErrorKind::TimedOut.into()));
                    None
                }
            },
            RedisEndpoint::Tcp { host, port } => {
                let (mut stream, address) = self.tcp(host, *port, tell).await?;
                let greeting = self.greeting(&mut stream).await;
                if greeting.is_err() && self.speaks_tls(host, *port).await {
                    tell(wrong(
                        "store-tls",
                        "the server expects TLS on this port, and the URL says `redis://`",
                        "write `rediss://` (and `ca_file:` under `store:` for a private CA)",
                    ));
                    return None;
                }
                tell(judge::unencrypted(address.ip()));
                self.over(stream, greeting, tell).await
            }
            RedisEndpoint::Tls {
                host,
                port,
                ca_file,
            } => {
                let (stream, _) = self.tcp(host, *port, tell).await?;
                let shaken = self
                    .within(tls::connect(host, ca_file.as_deref(), stream))
                    .await;
                let trouble = match shaken {
                    Some(Ok(mut stream)) => {
                        let greeting = self.greeting(&mut stream).await;
                        // Under TLS 1.3 it is known only after the handshake.
                        if matches!(&greeting, Err(error) if tls::client::was_refused(error)) {
                            tell(judge::asks_for_ours());
                            return None;
                        }
                        tell(ok("store-tls", "the certificate is good"));
                        return self.over(stream, greeting, tell).await;
                    }
                    Some(Err(error)) => (tls::trouble(&error), error.to_string()),
                    None => (Trouble::Other, "no answer to the handshake".to_owned()),
                };
                let (trouble, said) = trouble;
                let plain = matches!(trouble, Trouble::NotTls | Trouble::Other)
                    && self.speaks_plainly(host, *port).await;
                tell(judge::handshake(
                    if plain { Trouble::NotTls } else { trouble },
                    &said,
                    host,
                    ca_file.as_deref(),
                ));
                None
            }
        }
    }

    /// What the first PING is answered, in Redis's own protocol, be it by an error. Whoever is turned away at the door is told so
    /// unasked, and no client that pairs answers with questions sees it.
    async fn greeting<S>(&self, stream: &mut S) -> io::Result<String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = self.within(async {
            // It may have been turned away already. An array, as no proxy of Redis's reads an inline command.
            let _ = stream.write_all(b"*1\r\n$4\r\nPING\r\n").await;
            stream.flush().await.ok();
            let mut line = Vec::new();
            while !line.ends_with(b"\n") && line.len() < LONGEST_LINE {
                line.push(stream.read_u8().await?);
            }
            match line.first() {
                Some(b'+' | b'-') => Ok(String::from_utf8_lossy(&line).into_owned()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        });
        let late = || Err(io::ErrorKind::TimedOut.into());
        asked.await.unwrap_or_else(late)
    }

    /// To go on with a connection that has been greeted so.
    async fn over<S>(
        &self,
        stream: S,
        greeting: io::Result<String>,
        tell: &mut impl FnMut(Finding),
    ) -> Option<Probe>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let turned_away =
            greeting.map_or_else(|_| Some(judge::silent()), |said| judge::turned_away(&said));
        match turned_away {
            Some(finding) => {
                tell(finding);
                None
            }
            None => Probe::over(stream).await.ok(),
        }
    }

    async fn tcp(
        &self,
        host: &str,
        port: u16,
        tell: &mut impl FnMut(Finding),
    ) -> Option<(TcpStream, SocketAddr)> {
        let host = host.trim_matches(['[', ']']);
        let found = self.within(tokio::net::lookup_host((host, port))).await;
        let addresses: Vec<SocketAddr> = match found {
            Some(Ok(addresses)) => addresses.collect(),
            Some(Err(_)) | None => Vec::new(),
        };
        if addresses.is_empty() {
            tell(wrong(
                "store-dns",
                format!("there is no address for `{host}`"),
                "check the host in `store.url` (REDIS_URL), and this machine's DNS",
            ));
            return None;
        }
        if host.parse::<IpAddr>().is_err() {
            tell(ok(
                "store-dns",
                format!("`{host}` is {}", addresses[0].ip()),
            ));
        }
        let started = Instant::now();
        match self.within(TcpStream::connect(&addresses[..])).await {
            Some(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                let address = stream.peer_addr().unwrap_or(addresses[0]);
                let ms = judge::ms(started.elapsed());
                tell(ok("store-connect", format!("{host}:{port}, {ms} ms")));
                Some((stream, address))
            }
            Some(Err(error)) => {
                tell(judge::no_connection(host, port, &error));
                None
            }
            None => {
                tell(judge::no_connection(
                    host,
                    port,
                    &io::ErrorKind::TimedOut.into(),
                ));
                None
            }
        }
    }

    /// Whether a server that does not answer a PING answers a TLS handshake.
    async fn speaks_tls(&self, host: &str, port: u16) -> bool {
        let shaken = self.within(async {
            let stream = TcpStream::connect((host, port)).await?;
            tls::connect(host, None, stream).await
        });
        match shaken.await {
            Some(Ok(_)) => true,
            Some(Err(error)) => matches!(
                tls::trouble(&error),
                Trouble::UnknownIssuer
                    | Trouble::WrongName
                    | Trouble::OutOfTime
                    | Trouble::OfAnAuthority
            ),
            None => false,
        }
    }

    /// Whether a plain PING is answered.
    async fn speaks_plainly(&self, host: &str, port: u16) -> bool {
        let connected = self.within(TcpStream::connect((host, port))).await;
        match connected {
            Some(Ok(mut stream)) => self.greeting(&mut stream).await.is_ok(),
            _ => false,
        }
    }

    /// Logs in and selects the database. Whether what follows can be asked.
    async fn enter(&self, probe: &Probe, tell: &mut impl FnMut(Finding)) -> bool {
        let (user, password) = (&self.settings.username, &self.settings.password);
        let login = match password {
            Some(password) => {
                let mut words = vec!["AUTH"];
                words.extend(user.as_deref());
                words.push(password.expose());
                self.ask(probe, &words).await
            }
            None => self.ask(probe, &["PING"]).await,
        };
        let who = user.as_deref().unwrap_or("default");
        let finding = judge::login(&login, who, password.is_some());
        let goes_on = finding.level != super::Level::Wrong;
        tell(finding);
        if !goes_on {
            return false;
        }
        if password.is_some() {
            let ping = self.ask(probe, &["PING"]).await;
            if let Some(finding) = judge::loading(&ping) {
                tell(finding);
                return false;
            }
        }
        let database = self.settings.database;
        let selected = match database {
            0 => Said::Bytes(b"OK".to_vec()),
            database => self.ask(probe, &["SELECT", &database.to_string()]).await,
        };
        let finding = judge::database(&selected, database, &self.config.store.prefix);
        let goes_on = finding.level != super::Level::Wrong;
        let info = match goes_on {
            true => None,
            false => self.ask(probe, &["INFO"]).await.text(),
        };
        // One that has no databases at all is none of those that Larder is for.
        let kind = info.and_then(|info| Info::parse(&info).kind());
        tell(kind.unwrap_or(finding));
        goes_on
    }

    async fn info(&self, probe: &Probe, tell: &mut impl FnMut(Finding)) -> Info {
        let Some(text) = self.ask(probe, &["INFO"]).await.text() else {
            tell(skipped(
                "store-version",
                "the server does not answer INFO: version, role and memory are not known",
            ));
            return Info::default();
        };
        let info = Info::parse(&text);
        info.version().into_iter().for_each(&mut *tell);
        info.role().into_iter().for_each(&mut *tell);
        info
    }

    /// Does once what Larder does all the time, and takes it away again.
    async fn use_it(&self, probe: &Probe, info: &Info, tell: &mut impl FnMut(Finding)) {
        let (value, set, state) = (
            self.key("~doctor"),
            self.key("~doctor~vary"),
            self.key("~doctor~state"),
        );
        let (mut denied, mut absent) = (Vec::new(), Vec::new());
        let mut note = |name: &str, said: &Said| {
            let among = match said {
                Said::Refused { code, .. } if code == "NOPERM" => &mut denied,
                said if said.is_unknown() => &mut absent,
                _ => return,
            };
            if !among.iter().any(|noted| noted == name) {
                among.push(name.to_owned());
            }
        };
        // Of one that was stopped in the middle.
        let first = self.ask(probe, &["DEL", &value, &set, &state]).await;
        note("del", &first);
        let put = self
            .ask(probe, &["SET", &value, "larder", "PX", "60000"])
            .await;
        note("set", &put);
        let got = self.ask(probe, &["GET", &value]).await;
        note("get", &got);
        for command in [
            &["MGET", &value][..],
            &["EXISTS", &value],
            // By the script.
            &["APPEND", &value, ""],
            &["GETEX", &value],
            &["STRLEN", &value],
            &["PTTL", &value],
            &["EXPIRE", &value, "60"],
            &["PEXPIRE", &value, "60000"],
            &["SADD", &set, "a"],
            &["EXPIRE", &set, "60"],
            &["SMEMBERS", &set],
            &["SCAN", "0", "MATCH", &value, "COUNT", "1"],
            // The script asks for it.
            &["TIME"],
        ] {
            note(&command[0].to_lowercase(), &self.ask(probe, command).await);
        }
        let loaded = probe.load_script();
        let loaded = self.within(loaded).await.unwrap_or(Said::Lost);
        note("script", &loaded);
        let ran = match loaded.text() {
            Some(sha) => {
                let run = [
                    "EVALSHA",
                    &sha,
                    "1",
                    &state,
                    "open",
                    "60000",
                    "0000000000000000",
                ];
                self.ask(probe, &run).await
            }
            None => loaded.clone(),
        };
        note("evalsha", &ran);
        let evaluated = self.ask(probe, &["EVAL", "return 1", "0"]).await;
        note("eval", &evaluated);
        let deleted = self.ask(probe, &["DEL", &value, &set, &state]).await;
        let round = judge::Round {
            put,
            got,
            deleted,
            loaded,
            ran,
            denied,
            absent,
        };
        let user = self.settings.username.as_deref().unwrap_or("default");
        judge::used(&round, info, user, &self.config.store.prefix)
            .into_iter()
            .for_each(tell);
    }

    /// How far away, and what time it is there.
    async fn measure(&self, probe: &Probe, tell: &mut impl FnMut(Finding)) {
        let mut took = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let started = Instant::now();
            if self.ask(probe, &["PING"]).await == Said::Lost {
                break;
            }
            took.push(started.elapsed());
        }
        took.sort();
        match took.get(took.len() / 2).filter(|_| took.len() == PINGS) {
            Some(median) => tell(judge::latency(*median, self.config.store.timeout)),
            None => tell(wrong(
                "store-latency",
                "the connection was lost while it was measured",
                "look at the server's own log, and at what stands between",
            )),
        }
        let before = clock::now();
        let time = self.ask(probe, &["TIME"]).await;
        let after = clock::now();
        tell(match judge::time(&time) {
            Some(theirs) => judge::clock(before, theirs, after),
            None => skipped("store-clock", "the server does not say its time"),
        });
    }

    /// Who else is there.
    async fn look_around(&self, probe: &Probe, info: &Info, tell: &mut impl FnMut(Finding)) {
        let mut tenants = Tenants::default();
        let ours = format!("{}:", self.config.store.prefix);
        let mut values = Vec::new();
        let here = self.settings.database;
        let seen = self.names(probe, |name| {
            if judge::is_celerys(name) {
                tenants.celery_here = true;
            }
            if name.starts_with(ours.as_bytes()) && !name.contains(&b'~') && values.len() < VALUES {
                values.push(name.to_vec());
            }
        });
        if !seen.await {
            tell(skipped(
                "store-tenants",
                "the server does not list its keys (SCAN)",
            ));
            return;
        }
        let mut foreign = Foreign::default();
        for key in &values {
            foreign.add(self.value(probe, key).await);
        }
        tell(foreign.judge(values.len(), &self.config.store.prefix));
        for database in info.databases().filter(|database| *database != here) {
            let selected = self.ask(probe, &["SELECT", &database.to_string()]).await;
            if !selected.is_refused() {
                let celerys = |name: &[u8]| tenants.celery_elsewhere |= judge::is_celerys(name);
                self.names(probe, celerys).await;
            }
        }
        tell(tenants.judge(here));
        info.memory(&tenants).into_iter().for_each(tell);
    }

    /// Hands over the names of keys, at most so many pages of them. `false` if the server does not tell them.
    async fn names(&self, probe: &Probe, mut each: impl FnMut(&[u8])) -> bool {
        let mut cursor = "0".to_owned();
        for _ in 0..PAGES {
            let page = self.ask(probe, &["SCAN", &cursor, "COUNT", "1000"]).await;
            let Said::List(page) = page else { return false };
            let [next, Said::List(names)] = page.as_slice() else {
                return false;
            };
            for name in names {
                if let Said::Bytes(name) = name {
                    each(name);
                }
            }
            cursor = next.text().unwrap_or_else(|| "0".to_owned());
            if cursor == "0" {
                break;
            }
        }
        true
    }

    /// What stands at a key under our prefix.
    async fn value(&self, probe: &Probe, key: &[u8]) -> judge::Value {
        let kind = self.ask(probe, &[b"TYPE", key]).await.text();
        match kind.as_deref() {
            Some("string") => {}
            Some("none") | None => return judge::Value::Gone,
            Some(_) => return judge::Value::OtherType,
        }
        match self.ask(probe, &[b"GET", key]).await {
            Said::Bytes(bytes)
                if codec::decode(key, &Bytes::from(bytes.clone()), &[]).is_some() =>
            {
                judge::Value::Ours
            }
            Said::Bytes(bytes) if bytes.starts_with(b"\x80") => judge::Value::Pickle,
            Said::Bytes(_) => judge::Value::Unknown,
            _ => judge::Value::Gone,
        }
    }
}
