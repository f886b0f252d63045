//! What was seen of the store, and what it means. Pure.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::caching::stored::AHEAD;
use crate::clock::Timestamp;
use crate::doctor::{Finding, ok, skipped, warning, wrong};
use crate::store::redis::{self, probe::Said};
use crate::tls::{NOT_A_SERVERS, Trouble};

/// A PING that takes longer makes hits slow.
const NEAR: Duration = Duration::from_millis(5);

/// The beginning of what a server said: some repeat all that they were asked.
fn brief(said: &str) -> String {
    let line = said.lines().next().unwrap_or_default();
    line.chars().take(100).collect()
}

pub(super) fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

pub(super) fn no_socket(path: &Path, error: &io::Error) -> Finding {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "let Larder's user into the socket's group (`unixsocketperm 770` in redis.conf)"
        }
        _ => "start Redis with this `unixsocket`, or correct the path in `store.url`",
    };
    let seen = format!("redis+unix://{}: {error}", path.display());
    wrong("store-connect", seen, remedy)
}

pub(super) fn no_connection(host: &str, port: u16, error: &io::Error) -> Finding {
    let (seen, remedy) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            format!("nobody listens at {host}:{port}"),
            "start Redis there, or correct host and port in `store.url` (REDIS_URL)",
        ),
        io::ErrorKind::TimedOut => (
            format!("{host}:{port} does not answer"),
            "look at the firewall between, and at Redis's `bind` and `protected-mode`",
        ),
        _ => (
            format!("{host}:{port}: {error}"),
            "check host and port in `store.url` (REDIS_URL), and the network",
        ),
    };
    wrong("store-connect", seen, remedy)
}

pub(super) fn unencrypted(address: IpAddr) -> Finding {
    let near = match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match near {
        true => ok("store-tls", "not used, within this machine or network"),
        false => warning(
            "store-tls",
            format!("the password and your users' data go to {address} unencrypted"),
            "write `rediss://`, if the server speaks TLS",
        ),
    }
}

pub(super) fn handshake(
    trouble: Trouble,
    said: &str,
    host: &str,
    ca_file: Option<&Path>,
) -> Finding {
    let (seen, remedy) = match (trouble, ca_file) {
        (Trouble::NotTls, _) => (
            "the server does not speak TLS on this port, and the URL says `rediss://`".to_owned(),
            "write `redis://`, or the server's TLS port".to_owned(),
        ),
        (Trouble::UnknownIssuer, None) => (
            "the certificate is signed by a CA that is not trusted".to_owned(),
            "if the CA is your own, name its certificate: `ca_file: /path/ca.pem` under `store:`"
                .to_owned(),
        ),
        (Trouble::UnknownIssuer, Some(file)) => (
            format!("the certificate is not signed by the CA in {}", file.display()),
            "put the CA that signed the server's certificate into `ca_file`, or leave it out for a public one"
                .to_owned(),
        ),
        (Trouble::WrongName, _) => (
            format!("the certificate is not for `{host}`"),
            "write the name in `store.url` that the certificate has, or have one made for this name"
                .to_owned(),
        ),
        (Trouble::OutOfTime, _) => (
            "the certificate's time is over, or has not begun".to_owned(),
            "renew it; and check this machine's clock".to_owned(),
        ),
        (Trouble::OfAnAuthority, _) => (
            "the server shows the certificate of a CA as its own".to_owned(),
            NOT_A_SERVERS.to_owned(),
        ),
        (Trouble::Other, _) => (
            format!("the handshake failed: {said}"),
            "check that this is the server's TLS port, that TLS 1.2 or 1.3 is allowed there, and that it asks for no client's certificate (`tls-auth-clients no`)"
                .to_owned(),
        ),
    };
    wrong("store-tls", seen, remedy)
}

pub(super) fn asks_for_ours() -> Finding {
    wrong(
        "store-tls",
        "the server asks for a client's certificate, and Larder has none for it",
        "say `tls-auth-clients no` there (`yes` is Redis's default); the password says who it is",
    )
}

/// Connected, and not answered.
pub(super) fn silent() -> Finding {
    wrong(
        "store-auth",
        "connected, but there is no answer in Redis's protocol",
        "check that Redis listens on this port, and whether it hangs",
    )
}

/// Whoever connects is told so, and the connection is closed.
pub(super) fn turned_away(greeting: &str) -> Option<Finding> {
    let (seen, remedy) = match greeting {
        said if said.starts_with("-DENIED") => (
            "the server is in protected mode, and turns away whoever is not on its machine (DENIED)",
            "give it a password (`requirepass`), or `bind` it to this network alone and say `protected-mode no`",
        ),
        said if said.starts_with("-ERR max number of clients") => (
            "the server has as many clients as it may have",
            "raise `maxclients` there, or look who holds its connections: `CLIENT LIST`",
        ),
        _ => return None,
    };
    Some(wrong("store-auth", seen, remedy))
}

pub(super) fn loading(said: &Said) -> Option<Finding> {
    let code = said.code()?;
    let (seen, remedy) = match code {
        "LOADING" => (
            "the server is still reading its data",
            "wait: it passes by itself, and requests pass through until then",
        ),
        "MASTERDOWN" => (
            "this replica has lost its primary",
            "point `store.url` at the primary",
        ),
        "BUSY" => (
            "the server is busy with somebody's script",
            "`SCRIPT KILL`, by whoever it belongs to",
        ),
        _ => return None,
    };
    Some(wrong("store-loading", seen, remedy))
}

pub(super) fn login(said: &Said, user: &str, with_password: bool) -> Finding {
    if let Some(finding) = loading(said) {
        return finding;
    }
    match said {
        Said::Refused { code, .. } if code == "NOAUTH" => wrong(
            "store-auth",
            "the server asks for a password, and `store.url` has none",
            "put `USER:PASSWORD@` before the host in `store.url` (USER is `default` where none was made)",
        ),
        Said::Refused { code, said } if with_password && said.contains("without any password") => {
            wrong(
                "store-auth",
                format!("the server has no password for its default user ({code})"),
                "leave the password out of `store.url`, or set one there (`requirepass`)",
            )
        }
        Said::Refused { code, .. } if with_password => wrong(
            "store-auth",
            format!("the server refuses the login of user `{user}` ({code})"),
            "check user and password in `store.url` (REDIS_URL); percent-encode @ : / # in them",
        ),
        Said::Lost => silent(),
        // Denied commands and a server that cannot save (it says so to a PING, too) are looked at later.
        Said::Refused { code, said } if code == "ERR" => wrong(
            "store-auth",
            format!("the server refuses every command ({code} {})", brief(said)),
            "look at the server's own log",
        ),
        _ if with_password => ok("store-auth", format!("logged in as `{user}`")),
        _ => ok("store-auth", "no password is asked for"),
    }
}

pub(super) fn database(said: &Said, database: i64, prefix: &str) -> Finding {
    match said {
        Said::Refused { code, .. } if code == "NOPERM" => wrong(
            "store-acl",
            "the user may not run `select`",
            "allow it `+select`, or write `database: 0` under `store:`",
        ),
        Said::Refused { code, said } => wrong(
            "store-database",
            format!(
                "the server has no database {database} ({code} {})",
                brief(said)
            ),
            format!(
                "write `database: 0` under `store:` (REDIS_DATABASE=0); the prefix `{prefix}` keeps Larder's keys apart"
            ),
        ),
        Said::Lost => wrong(
            "store-database",
            "the connection was lost",
            "look at the server's own log",
        ),
        _ => ok("store-database", format!("database {database}")),
    }
}

/// What the round trip was answered.
pub(super) struct Round {
    pub put: Said,
    pub got: Said,
    pub deleted: Said,
    pub loaded: Said,
    pub ran: Said,
    /// Commands that the user may not run, in lower case.
    pub denied: Vec<String>,
    /// Those that the server has not.
    pub absent: Vec<String>,
}

pub(super) fn used(round: &Round, info: &Info, user: &str, prefix: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    found.push(match round.denied.as_slice() {
        [] => ok("store-acl", format!("`{user}` may do all that Larder does")),
        denied => wrong(
            "store-acl",
            format!("`{user}` may not run {} on `{prefix}:*`", denied.join(", ")),
            format!("ACL SETUSER {user} {}", redis::rights(prefix)),
        ),
    });
    if !round.absent.is_empty() {
        found.push(wrong(
            "store-commands",
            format!("the server does not know {}", round.absent.join(", ")),
            "Larder needs them: take their `rename-command` out of redis.conf, or use Redis 7.0 or newer",
        ));
    }
    let lacks = |name: &str| {
        let mut lacking = round.denied.iter().chain(&round.absent);
        lacking.any(|one| one == name)
    };
    let trouble = |said: &Said| match said {
        said if said.is_unknown() => None,
        Said::Refused { code, said } => match code.as_str() {
            "NOPERM" => None,
            // Said already.
            "READONLY" if info.get("role") == Some("slave") => None,
            "OOM"
                if info
                    .get("maxmemory_policy")
                    .is_some_and(|policy| policy.starts_with("volatile")) =>
            {
                Some(wrong(
                    "store-full",
                    format!(
                        "the server is full (maxmemory {}) of what has no time to live, which its policy keeps, and refuses writes",
                        info.maxmemory()
                    ),
                    "raise `maxmemory`, or take away what fills it (`redis-cli --bigkeys`): none of it is Larder's; until then nothing new is kept (`store-refused`)",
                ))
            }
            "OOM" => Some(wrong(
                "store-full",
                format!(
                    "the server is full and refuses writes (maxmemory {})",
                    info.maxmemory()
                ),
                "raise `maxmemory`, or set `maxmemory-policy volatile-lru`; until then nothing new is kept (`store-refused`)",
            )),
            "READONLY" => Some(wrong(
                "store-replica",
                "the server is a read-only replica",
                format!("point `store.url` at the primary{}", info.primary()),
            )),
            "MISCONF" => Some(wrong(
                "store-misconf",
                "the server refuses writes because it cannot save to its disk (MISCONF)",
                "look at its log and disk; a cache needs no persistence: `CONFIG SET stop-writes-on-bgsave-error no`",
            )),
            "NOREPLICAS" => Some(wrong(
                "store-replica",
                "the server refuses writes because too few replicas follow it (NOREPLICAS)",
                "bring them back; a cache needs none: `CONFIG SET min-replicas-to-write 0`",
            )),
            "MOVED" | "CLUSTERDOWN" | "CROSSSLOT" => None,
            code => Some(wrong(
                "store-round-trip",
                format!("a write was refused: {code} {}", brief(said)),
                "look at the server's own log",
            )),
        },
        Said::Lost => Some(wrong(
            "store-round-trip",
            "the connection was lost in the middle of a write",
            "look at the server's own log",
        )),
        _ => None,
    };
    found.extend(trouble(&round.put));
    if round.put.text().is_some() && !round.deleted.is_refused() && !lacks("get") {
        found.push(match round.got.text().as_deref() {
            Some("larder") => ok(
                "store-round-trip",
                format!("set, get and delete under `{prefix}:`"),
            ),
            _ => wrong(
                "store-round-trip",
                "what was set could not be read back",
                "something between changes or drops values: connect to Redis itself",
            ),
        });
    }
    let refused = [&round.loaded, &round.ran]
        .into_iter()
        .find(|said| said.is_refused());
    match refused {
        None => found.push(ok("store-scripts", "Larder's script runs")),
        Some(Said::Refused { code, .. })
            if [
                "NOPERM",
                "READONLY",
                "MISCONF",
                "MOVED",
                "NOREPLICAS",
                "CLUSTERDOWN",
            ]
            .contains(&code.as_str()) => {}
        // What the script lacks has been named.
        Some(_) if !round.denied.is_empty() || !round.absent.is_empty() => {}
        Some(Said::Refused { code, said }) => found.push(wrong(
            "store-scripts",
            format!("Larder's script is refused ({code} {})", brief(said)),
            "Redis 7.0 or newer is needed, with EVAL allowed",
        )),
        Some(_) => {}
    }
    found
}

pub(super) fn latency(median: Duration, limit: Duration) -> Finding {
    let seen = format!("a PING takes {} ms (median)", ms(median));
    if median * 2 >= limit {
        return wrong(
            "store-latency",
            format!("{seen}, and `store.timeout` is {} ms", limit.as_millis()),
            "put the store nearer, or raise `store.timeout`: as it is, the store is given up again and again",
        );
    }
    match median > NEAR {
        true => warning(
            "store-latency",
            seen,
            "every hit waits that long: put the store into the same network",
        ),
        false => ok("store-latency", seen),
    }
}

/// The server's clock in its answer to TIME.
pub(super) fn time(said: &Said) -> Option<Timestamp> {
    let Said::List(parts) = said else { return None };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    let number = |said: &Said| said.text()?.parse::<u64>().ok();
    Some(Timestamp::from_micros(
        number(seconds)?.checked_mul(1_000_000)? + number(micros)?,
    ))
}

/// By how much its clock is off at least, given when it was asked and when it had answered.
pub(super) fn clock(before: Timestamp, theirs: Timestamp, after: Timestamp) -> Finding {
    let (ahead, behind) = (theirs.since(after), before.since(theirs));
    let off = ahead.max(behind);
    let word = if ahead > behind { "ahead" } else { "behind" };
    let remedy = "let NTP set both (`timedatectl set-ntp true`); Larders with different clocks disagree about how old a copy is";
    let seen = format!("the server's clock is {:.1} s {word}", off.as_secs_f64());
    match off {
        off if off >= AHEAD => wrong("store-clock", seen, remedy),
        off if off >= Duration::from_secs(1) => warning("store-clock", seen, remedy),
        _ => ok("store-clock", "the server's clock agrees with ours"),
    }
}

/// INFO, by name.
#[derive(Default)]
pub(super) struct Info(HashMap<String, String>);

impl Info {
    pub fn parse(text: &str) -> Info {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Info(
            lines
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn version(&self) -> Option<Finding> {
        let version = self.get("redis_version")?;
        let major: u32 = version.split('.').next()?.parse().ok()?;
        Some(match major >= 7 {
            true => ok("store-version", format!("Redis {version}")),
            false => wrong(
                "store-version",
                format!("Redis {version}"),
                "Redis 7.0 or newer is needed",
            ),
        })
    }

    /// What it is, if it is nothing to keep copies in.
    pub fn kind(&self) -> Option<Finding> {
        let cluster = (self.get("cluster_enabled") == Some("1")).then(|| {
            wrong(
                "store-cluster",
                "the server is part of a Redis Cluster",
                "use a single server, or a primary with replicas: a cluster is not in this release",
            )
        });
        cluster.or_else(|| {
            (self.get("redis_mode") == Some("sentinel")).then(|| {
                wrong(
                    "store-sentinel",
                    "this is a Sentinel, which keeps nothing itself",
                    "point `store.url` at the primary that it watches: `SENTINEL MASTERS` names it",
                )
            })
        })
    }

    pub fn role(&self) -> Option<Finding> {
        self.kind().or_else(|| {
            (self.get("role") == Some("slave")).then(|| {
                wrong(
                    "store-replica",
                    "the server is a replica: what is written to it is refused or lost",
                    format!("point `store.url` at the primary{}", self.primary()),
                )
            })
        })
    }

    fn primary(&self) -> String {
        match (self.get("master_host"), self.get("master_port")) {
            (Some(host), Some(port)) => format!(", {host}:{port}"),
            _ => String::new(),
        }
    }

    fn maxmemory(&self) -> &str {
        self.get("maxmemory_human").unwrap_or("not known")
    }

    /// The databases that hold keys.
    pub fn databases(&self) -> impl Iterator<Item = i64> {
        let mut found: Vec<i64> = self
            .0
            .keys()
            .filter_map(|name| name.strip_prefix("db")?.parse().ok())
            .collect();
        found.sort_unstable();
        found.into_iter().take(16)
    }

    /// What happens when it is full.
    pub fn memory(&self, tenants: &Tenants) -> Option<Finding> {
        let policy = self.get("maxmemory_policy")?;
        let limit: u64 = self.get("maxmemory")?.parse().ok()?;
        let seen = match limit {
            0 => format!("maxmemory is not limited, policy {policy}"),
            _ => format!("maxmemory {}, policy {policy}", self.maxmemory()),
        };
        let volatile = "CONFIG SET maxmemory-policy volatile-lru: all of Larder's keys have a time to live, and Celery's queues have none";
        Some(match (policy, limit, tenants.celery()) {
            ("noeviction", 1.., true) => wrong(
                "store-eviction",
                format!("{seen}: once it is full, Celery's tasks are refused, too"),
                format!("{volatile}; or give Celery a server of its own"),
            ),
            ("noeviction", 1.., false) => warning(
                "store-eviction",
                format!("{seen}: once it is full, nothing new is kept (`store-refused`)"),
                "CONFIG SET maxmemory-policy allkeys-lru: any eviction is safe",
            ),
            (policy, _, true) if policy.starts_with("allkeys") => wrong(
                "store-eviction",
                format!("{seen}: once it is full, Celery's queued tasks may be thrown away"),
                format!("{volatile}; or give Celery a server of its own"),
            ),
            (_, 0, _) => warning(
                "store-eviction",
                format!("{seen}: it may take all memory of its machine"),
                "set `maxmemory`, with `allkeys-lru`, or `volatile-lru` where Celery shares the server",
            ),
            _ => ok("store-eviction", seen),
        })
    }
}

/// Who shares the server.
#[derive(Default)]
pub(super) struct Tenants {
    pub celery_here: bool,
    pub celery_elsewhere: bool,
}

pub(super) fn is_celerys(name: &[u8]) -> bool {
    let starts = [&b"_kombu."[..], b"celery-task-meta-", b"unacked"];
    name == b"celery" || starts.iter().any(|start| name.starts_with(start))
}

impl Tenants {
    fn celery(&self) -> bool {
        self.celery_here || self.celery_elsewhere
    }

    pub fn judge(&self, database: i64) -> Finding {
        match (self.celery_here, self.celery_elsewhere) {
            (true, _) => warning(
                "store-celery",
                format!("Celery keeps its things in database {database}, too"),
                format!(
                    "give Larder another: `database: {}` under `store:` (REDIS_DATABASE); where there is only 0, the prefix keeps them apart, but a FLUSHDB hits both",
                    database + 1
                ),
            ),
            (false, true) => ok(
                "store-celery",
                format!("Celery shares the server, in a database other than {database}"),
            ),
            (false, false) => ok("store-celery", "no keys of Celery were seen"),
        }
    }
}

/// What a value under our prefix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Ours,
    Pickle,
    OtherType,
    Unknown,
    Gone,
}

/// The values under our prefix that are not ours.
#[derive(Default)]
pub(super) struct Foreign {
    pickles: usize,
    others: usize,
}

impl Foreign {
    pub fn add(&mut self, value: Value) {
        match value {
            Value::Ours | Value::Gone => {}
            Value::Pickle => self.pickles += 1,
            Value::OtherType | Value::Unknown => self.others += 1,
        }
    }

    pub fn judge(&self, looked_at: usize, prefix: &str) -> Finding {
        let kinds = match (self.pickles, self.others) {
            (0, 0) if looked_at == 0 => {
                return skipped(
                    "store-foreign",
                    format!("nothing is kept under `{prefix}:` yet"),
                );
            }
            (0, 0) => {
                return ok(
                    "store-foreign",
                    format!("all copies under `{prefix}:` that were looked at are Larder's"),
                );
            }
            (pickles, 0) => format!("{pickles} pickles, as django-redis writes them"),
            (0, others) => format!("{others} values of another program"),
            (pickles, others) => format!(
                "{pickles} pickles, as django-redis writes them, and {others} values of another program"
            ),
        };
        warning(
            "store-foreign",
            format!(
                "under `{prefix}:` stand {kinds}: never served, and replaced where Larder keeps something itself"
            ),
            "give Larder a `prefix` of its own under `store:`, other than KEY_PREFIX of Django's CACHES",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn info(lines: &str) -> Info {
        Info::parse(&lines.replace(' ', "\r\n"))
    }

    #[test]
    fn what_a_full_server_does_depends_on_its_policy_and_on_who_shares_it() {
        let celery = Tenants {
            celery_elsewhere: true,
            ..Tenants::default()
        };
        let alone = Tenants::default();
        for (policy, limit, tenants, expected) in [
            ("noeviction", 1, &celery, Level::Wrong),
            ("noeviction", 1, &alone, Level::Warning),
            ("allkeys-lru", 1, &celery, Level::Wrong),
            ("allkeys-lru", 1, &alone, Level::Ok),
            ("volatile-lru", 1, &celery, Level::Ok),
            ("noeviction", 0, &celery, Level::Warning),
        ] {
            let info = info(&format!("maxmemory:{limit} maxmemory_policy:{policy}"));
            let found = info.memory(tenants).unwrap();
            assert_eq!(found.level, expected, "{policy} {limit}: {found:?}");
        }
    }

    #[test]
    fn a_clock_is_off_by_what_the_asking_itself_cannot_explain() {
        let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
        assert_eq!(clock(at(100), at(105), at(110)).level, Level::Ok);
        assert_eq!(clock(at(100), at(90), at(110)).level, Level::Warning);
        assert_eq!(clock(at(100), at(20), at(101)).level, Level::Wrong);
        assert_eq!(clock(at(100), at(161), at(101)).level, Level::Wrong);
    }

    #[test]
    fn a_server_older_than_7_and_a_replica_are_said_so() {
        assert_eq!(
            info("redis_version:6.2.14").version().unwrap().level,
            Level::Wrong
        );
        assert_eq!(
            info("redis_version:7.0.15").version().unwrap().level,
            Level::Ok
        );
        let replica = info("role:slave master_host:10.0.0.7 master_port:6379");
        let found = replica.role().unwrap();
        assert_eq!(found.code, "store-replica");
        assert!(found.remedy.unwrap().contains("10.0.0.7:6379"));
    }
}
