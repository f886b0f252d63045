//! A users API in which every answer carries the version of what it shows; its delays and faults can be set.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::larders::by_http;
use super::record::{Act, Id, Target, Version, What};
use super::support::origin::{self, Answer, Request};

/// The users that are there from the beginning, and are never deleted.
pub const USERS: u64 = 8;
pub const ROLES: u64 = 2;

/// Who may ask. The first is anonymous.
pub const CREDENTIALS: [&str; 4] = ["anonymous", "ada", "bob", "eve"];

/// Random numbers that begin from a seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, stream: u64) -> Dice {
        let mut dice = Dice(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd134_2543_de82_ef95),
        );
        dice.roll(2);
        dice
    }

    /// From 0 up to but without `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides.max(1)
    }

    pub fn one_in(&mut self, sides: u64) -> bool {
        sides > 0 && self.roll(sides) == 0
    }

    /// Up to so long, mostly short.
    pub fn pause(&mut self, most: Duration) -> Duration {
        let micros = most.as_micros() as u64;
        Duration::from_micros(self.roll(micros + 1).min(self.roll(micros + 1)))
    }
}

/// How the origin behaves at the moment. Delays are the longest, one in so many answers is a fault, 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Before a read sees the data, and between that and its answer.
    pub before_read: Duration,
    pub after_read: Duration,
    pub before_commit: Duration,
    pub after_commit: Duration,
    /// 500 after the commit.
    pub error: u64,
    /// 503 after the commit.
    pub unavailable: u64,
    /// The connection is reset after the commit.
    pub reset: u64,
    /// The commit comes so late that the proxy no longer waits for it.
    pub late: Option<(u64, Duration)>,
}

pub struct Users {
    data: Mutex<Data>,
    manner: Mutex<Manner>,
    dice: Mutex<Dice>,
}

struct Data {
    version: Version,
    users: BTreeMap<Id, User>,
    /// The versions of deletions.
    gone: BTreeMap<Id, Version>,
    next: Id,
}

struct User {
    version: Version,
    role: u64,
}

impl Users {
    pub fn new(seed: u64, manner: Manner) -> Users {
        let users = (1..=USERS)
            .map(|id| {
                (
                    id,
                    User {
                        version: id,
                        role: id % ROLES,
                    },
                )
            })
            .collect();
        let data = Data {
            version: USERS,
            users,
            gone: BTreeMap::new(),
            next: USERS + 1,
        };
        Users {
            data: Mutex::new(data),
            manner: Mutex::new(manner),
            dice: Mutex::new(Dice::new(seed, 99)),
        }
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }

    /// Rolls the origin's own dice.
    pub fn roll<T>(&self, roll: impl FnOnce(&mut Dice) -> T) -> T {
        roll(&mut self.dice.lock().unwrap())
    }

    fn linger(&self, most: Duration) {
        if !most.is_zero() {
            std::thread::sleep(self.roll(|dice| dice.pause(most)));
        }
    }

    /// A read, with its delays before and after it sees the data.
    pub fn read(&self, target: Target) -> What {
        let manner = self.manner();
        self.linger(manner.before_read);
        let what = self.data.lock().unwrap().show(target);
        self.linger(manner.after_read);
        what
    }

    /// A write, with its delays before and after it is committed: the user and the version, or nothing if there is none.
    pub fn write(&self, act: Act) -> Option<(Id, Version)> {
        let manner = self.manner();
        self.linger(manner.before_commit);
        let committed = self.data.lock().unwrap().commit(act);
        self.linger(manner.after_commit);
        committed
    }

    pub fn answer(&self, request: &Request) -> Answer {
        let path = request.target.split('?').next().unwrap_or_default();
        let id = path
            .strip_prefix("/api/users/")
            .and_then(|rest| rest.strip_suffix('/')?.parse::<Id>().ok());
        let act = match (request.method.as_str(), id) {
            ("GET", Some(id)) => Act::Read(Target::User(id)),
            ("GET", None) => Act::Read(match request.parameter("role") {
                Some(role) => Target::Role(role.parse().expect("a role")),
                None => Target::List,
            }),
            ("POST", _) if path.ends_with("/bulk/") => Act::ChangeAll,
            ("POST", _) => Act::Create {
                role: request
                    .parameter("role")
                    .map_or(0, |role| role.parse().expect("a role")),
            },
            ("DELETE", Some(id)) => Act::Delete(id),
            (_, Some(id)) => Act::Change(id),
            (method, None) => panic!("{method} {path}"),
        };
        match act {
            Act::Read(target) => {
                let to = request
                    .fields
                    .get("authorization")
                    .unwrap_or(CREDENTIALS[0]);
                let what = self.read(target);
                let absent = matches!(what, What::User { present: false, .. });
                let body = to_json(to, &what).to_string();
                match absent {
                    true => origin::status(404, body).field("Content-Type", "application/json"),
                    false if by_http() => origin::json(body)
                        .field("Cache-Control", "max-age=3600, public")
                        .field("Vary", "Authorization"),
                    false => origin::json(body),
                }
            }
            write => self.answer_write(write),
        }
    }

    fn answer_write(&self, write: Act) -> Answer {
        let manner = self.manner();
        if let Some((_, delay)) = manner
            .late
            .filter(|(sides, _)| self.roll(|dice| dice.one_in(*sides)))
        {
            std::thread::sleep(delay);
        }
        let Some((id, version)) = self.write(write) else {
            return origin::status(404, "{}").field("Content-Type", "application/json");
        };
        let body = json!({ "id": id, "version": version }).to_string();
        if self.roll(|dice| dice.one_in(manner.reset)) {
            return origin::hang_up().resetting();
        }
        let fault = [(manner.error, 500), (manner.unavailable, 503)];
        match fault
            .into_iter()
            .find(|(sides, _)| self.roll(|dice| dice.one_in(*sides)))
        {
            Some((_, status)) => origin::status(status, body),
            None => origin::json(body),
        }
    }
}

impl Data {
    fn show(&self, target: Target) -> What {
        let list = |role: Option<u64>| What::Users {
            at: self.version,
            users: self
                .users
                .iter()
                .filter(|(_, user)| role.is_none_or(|role| user.role == role))
                .map(|(id, user)| (*id, user.version))
                .collect(),
        };
        match target {
            Target::List => list(None),
            Target::Role(role) => list(Some(role)),
            Target::User(id) => match self.users.get(&id) {
                Some(user) => What::User {
                    version: user.version,
                    present: true,
                },
                None => What::User {
                    version: self.gone.get(&id).copied().unwrap_or(0),
                    present: false,
                },
            },
        }
    }

    fn commit(&mut self, act: Act) -> Option<(Id, Version)> {
        let version = self.version + 1;
        let id = match act {
            Act::Create { role } => {
                let id = self.next;
                self.next += 1;
                self.users.insert(id, User { version, role });
                id
            }
            Act::Change(id) => {
                self.users.get_mut(&id)?.version = version;
                id
            }
            Act::Delete(id) => {
                self.users.remove(&id)?;
                self.gone.insert(id, version);
                id
            }
            Act::ChangeAll => {
                self.users
                    .values_mut()
                    .for_each(|user| user.version = version);
                0
            }
            Act::Read(_) => return None,
        };
        self.version = version;
        Some((id, version))
    }
}

fn to_json(to: &str, what: &What) -> Value {
    match what {
        What::Users { at, users } => json!({ "to": to, "at": at, "users": users }),
        What::User { version, present } => {
            json!({ "to": to, "version": version, "present": present })
        }
    }
}

/// For whom it was made, and what it shows.
pub fn from_json(body: &str) -> Option<(usize, What)> {
    let body: Value = serde_json::from_str(body).ok()?;
    let to = CREDENTIALS.iter().position(|name| body["to"] == *name)?;
    let what = match body.get("users") {
        Some(users) => What::Users {
            at: body["at"].as_u64()?,
            users: serde_json::from_value(users.clone()).ok()?,
        },
        None => What::User {
            version: body["version"].as_u64()?,
            present: body["present"].as_bool()?,
        },
    };
    Some((to, what))
}
