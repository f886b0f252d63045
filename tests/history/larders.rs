//! Three real instances in front of the users, on one real Redis, as something to run against.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::record::{Act, Outcome, Shown, Target};
use super::run::{Answered, Asking, Client, Front};
use super::support::PURGE;
use super::support::client::{Answer, Connection, HOST};
use super::support::larder::Larder;
use super::support::origin::Origin;
use super::users::{CREDENTIALS, Users, from_json};

pub const INSTANCES: usize = 3;

pub struct Larders {
    pub users: Arc<Users>,
    _origin: Origin,
    /// Of each instance.
    yaml: Vec<String>,
    instances: RwLock<Vec<Instance>>,
}

struct Instance {
    /// `None` while it is dead.
    larder: Option<Larder>,
    address: SocketAddr,
}

/// What each instance keeps in its own memory: `HISTORY_MEMORY=10ms`, or one after the other, `HISTORY_MEMORY=10ms,0,off`.
fn memory(instance: usize) -> String {
    let leases = leases();
    match &leases[instance % leases.len()][..] {
        "off" => String::new(),
        lease => format!("memory: {{lease: {lease}}}"),
    }
}

fn leases() -> Vec<String> {
    let leases = std::env::var("HISTORY_MEMORY").unwrap_or("off".to_owned());
    leases.split(',').map(str::to_owned).collect()
}

/// How much longer than without any lease an instance may show what the store has lost (docs/MEMORY.md).
pub fn longest_lease() -> Duration {
    let leases = leases();
    let lengths = leases.iter().map(|lease| match &lease[..] {
        "off" => Duration::ZERO,
        lease => humantime::parse_duration(lease).expect("a lease"),
    });
    lengths.max().unwrap_or_default()
}

/// Whether the routes obey the origin (`HISTORY_POLICY=http`), which then says how long and for whom.
pub fn by_http() -> bool {
    std::env::var_os("HISTORY_POLICY").is_some_and(|policy| policy == "http")
}

impl Larders {
    /// `stores` is the address of the store as each instance is told; `more` is what stands beside `ttl`.
    pub fn start(
        users: Users,
        stores: &[String; INSTANCES],
        timeout: Duration,
        more: &str,
    ) -> Larders {
        let users = Arc::new(users);
        let answers = users.clone();
        let origin = Origin::start(move |request| answers.answer(request));
        // A commit that comes after this is a 504.
        let upstream = format!("{{url: \"{}\", first_byte: 400ms}}", origin.url());
        let timeout = timeout.as_millis();
        let policy = if by_http() { ", policy: http" } else { "" };
        let yaml = format!(
            r#"upstream: {upstream}
store: {{url: "STORE", database: 1, prefix: t, timeout: {timeout}ms}}
ttl: 1h
{more}
routes:
  - {{path: /api/users/, key: users:list{policy}}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}"{policy}}}
{PURGE}"#
        );
        let of_each = |(n, store): (usize, &String)| {
            let memory = memory(n);
            format!("{memory}\n{}", yaml.replace("STORE", store))
        };
        let yaml: Vec<String> = stores.iter().enumerate().map(of_each).collect();
        let instance = |yaml: &String| {
            let larder = Larder::start(yaml.clone());
            Instance {
                address: larder.address(),
                larder: Some(larder),
            }
        };
        let instances = RwLock::new(yaml.iter().map(instance).collect());
        Larders {
            users,
            _origin: origin,
            yaml,
            instances,
        }
    }

    /// SIGKILL.
    pub fn kill(&self, instance: usize) {
        let larder = self.instances.write().unwrap()[instance].larder.take();
        larder.expect("a running instance").kill();
    }

    /// In the place of one that was killed.
    pub fn start_again(&self, instance: usize) {
        let larder = Larder::start(self.yaml[instance].clone());
        self.instances.write().unwrap()[instance] = Instance {
            address: larder.address(),
            larder: Some(larder),
        };
    }

    /// How many instances have their store.
    pub fn ready(&self) -> usize {
        let instances = self.instances.read().unwrap();
        instances
            .iter()
            .filter(|instance| instance.larder.as_ref().is_some_and(Larder::is_ready))
            .count()
    }

    pub fn purge_everything(&self, instance: usize) {
        let instances = self.instances.read().unwrap();
        instances[instance]
            .larder
            .as_ref()
            .expect("a running instance")
            .purge_everything();
    }

    /// What an instance said, for a run that failed.
    pub fn said(&self) -> Vec<String> {
        let instances = self.instances.read().unwrap();
        instances
            .iter()
            .filter_map(|instance| instance.larder.as_ref())
            .map(Larder::output)
            .collect()
    }

    fn address(&self, instance: usize) -> SocketAddr {
        self.instances.read().unwrap()[instance].address
    }
}

impl Front for Larders {
    fn instances(&self) -> usize {
        INSTANCES
    }

    fn client(&self) -> Box<dyn Client + '_> {
        Box::new(Caller {
            larders: self,
            connections: Default::default(),
        })
    }
}

/// One thread's connections, each kept as long as it lives.
struct Caller<'a> {
    larders: &'a Larders,
    connections: [Option<(SocketAddr, Connection)>; INSTANCES],
}

impl Client for Caller<'_> {
    fn ask(&mut self, asking: &Asking) -> Answered {
        let address = self.larders.address(asking.instance);
        let kept = self.connections[asking.instance]
            .take()
            .filter(|(of, _)| *of == address);
        let mut connection = match kept {
            Some((_, connection)) => connection,
            None => match Connection::try_open(address) {
                Ok(connection) => connection,
                Err(error) => {
                    // A dead instance answers at once; not to be asked in a tight loop.
                    thread::sleep(Duration::from_millis(5));
                    return Answered {
                        told: Instant::now(),
                        outcome: Outcome::Unknown(format!("connect: {error}")),
                    };
                }
            },
        };
        if let Err(error) = connection.try_send(&wire(asking)) {
            return Answered {
                told: Instant::now(),
                outcome: Outcome::Unknown(format!("send: {error}")),
            };
        }
        if let Some(after) = asking.leaves_after {
            thread::sleep(after);
            connection.reset();
            return Answered {
                told: Instant::now(),
                outcome: Outcome::Unknown("the client left".to_owned()),
            };
        }
        let method = method(asking.act);
        let head = connection.try_head(method);
        let told = Instant::now();
        let outcome = match head {
            Err(error) => Outcome::Unknown(format!("no answer: {error}")),
            Ok(mut answer) => {
                answer.content = connection.content(answer.framing);
                let whole = answer.content.whole;
                let stays = whole
                    && answer
                        .field("connection")
                        .is_none_or(|value| value != "close");
                if stays {
                    self.connections[asking.instance] = Some((address, connection));
                }
                match whole {
                    true => outcome(asking.act, &answer),
                    false => Outcome::Unknown(format!("{} that broke off", answer.status)),
                }
            }
        };
        Answered { told, outcome }
    }
}

fn method(act: Act) -> &'static str {
    match act {
        Act::Read(_) => "GET",
        Act::Create { .. } | Act::ChangeAll => "POST",
        Act::Change(_) => "PATCH",
        Act::Delete(_) => "DELETE",
    }
}

fn wire(asking: &Asking) -> Vec<u8> {
    let target = match asking.act {
        Act::Read(Target::List) => "/api/users/".to_owned(),
        Act::Read(Target::Role(role)) => format!("/api/users/?role={role}"),
        Act::Create { role } => format!("/api/users/?role={role}"),
        Act::ChangeAll => "/api/users/bulk/".to_owned(),
        Act::Read(Target::User(id)) | Act::Change(id) | Act::Delete(id) => {
            format!("/api/users/{id}/")
        }
    };
    let authorization = match asking.credential {
        0 => String::new(),
        credential => format!("Authorization: {}\r\n", CREDENTIALS[credential]),
    };
    let content = match asking.act {
        Act::Read(_) | Act::Delete(_) => "\r\n",
        _ => "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    };
    format!(
        "{} {target} HTTP/1.1\r\nHost: {HOST}\r\n{authorization}{content}",
        method(asking.act)
    )
    .into_bytes()
}

fn outcome(act: Act, answer: &Answer) -> Outcome {
    let unknown = || Outcome::Unknown(format!("{} {}", answer.status, answer.text()));
    match act {
        Act::Read(_) => match (answer.status, from_json(&answer.text())) {
            (200 | 404, Some((to, what))) => Outcome::Shown(Shown {
                to,
                hit: answer.is_hit(),
                what,
            }),
            _ => unknown(),
        },
        _ if (200..300).contains(&answer.status) => {
            let body: serde_json::Value = serde_json::from_str(&answer.text()).unwrap_or_default();
            match (body["id"].as_u64(), body["version"].as_u64()) {
                (Some(id), Some(version)) => Outcome::Written { id, version },
                _ => unknown(),
            }
        }
        _ => unknown(),
    }
}
