//! proxy.yaml as it is written: every key, every value still text. Read straight from the YAML, so
//! that what is wrong is known with its line and column; and never through a message of a library
//! that would quote the value, for it may be a secret.

mod keys;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use keys::Key;

/// A scalar as it stands in the file, `${…}` and all.
#[derive(Debug, Clone)]
pub struct Text {
    pub raw: String,
    /// The option of the command line that gave it instead of the file.
    pub flag: Option<&'static str>,
}

/// One value, or a list of them.
#[derive(Debug)]
pub struct Texts(pub Vec<Text>);

#[derive(Debug)]
pub struct List<T>(pub Vec<T>);

/// One value, or a mapping that says more.
#[derive(Debug)]
pub enum Either<T> {
    Text(Text),
    Map(T),
}

/// A mapping, or a list of them.
#[derive(Debug)]
pub enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

/// A mapping with its keys: those that are built, and those of the design that are not yet.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident like $like:literal {
        $($field:ident: $of:ty),* $(,)?
    } later [$($later:literal),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(pub $field: Option<$of>,)*
        }

        impl $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];
        }

        impl Mapping for $name {
            const LIKE: &'static str = $like;

            fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
                let mut read = Self::default();
                let mut seen: Vec<&'static str> = Vec::new();
                while let Some(key) = map.next_key_seed(Key {
                    known: Self::KEYS,
                    later: &[$($later),*],
                    seen: &seen,
                })? {
                    seen.push(key);
                    match key {
                        $(stringify!($field) => read.$field = Some(map.next_value()?),)*
                        _ => unreachable!("`Key` gives no other"),
                    }
                }
                Ok(read)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(MappingVisitor(PhantomData))
            }
        }
    };
}

mirror! {
    File like "`listen: 127.0.0.1:8080`, one `key: value` to a line" {
        listen: Text,
        tls: OneOrMore<TlsMap>,
        h2c: Text,
        admin: Text,
        admin_tls: AdminTlsMap,
        admin_token: Text,
        upstream: Either<UpstreamMap>,
        store: StoreMap,
        secret: Text,
        when_store_is_down: Text,
        memory: MemoryMap,
        ttl: Text,
        routes: List<RouteMap>,
        purge: List<PurgeMap>,
        credential_headers: Texts,
        ignore_cookies: Texts,
        canonical_origin: Text,
        hosts: Texts,
        methods: Texts,
        trusted_proxies: Texts,
        proxy_protocol: Text,
        drop_headers: Texts,
        limits: LimitsMap,
        websocket: WebSocketMap,
        shadow: Text,
        logs: LogsMap,
        warm: List<WarmMap>,
    } later []
}

mirror! {
    TlsMap like "`{cert: fullchain.pem, key: privkey.pem}`" {
        cert: Text,
        key: Text,
    } later []
}

mirror! {
    AdminTlsMap like "`{cert: admin.pem, key: admin.key, client_ca: operators.pem}`" {
        cert: Text,
        key: Text,
        client_ca: Text,
    } later []
}

mirror! {
    UpstreamMap like "`{url: http://127.0.0.1:8000}`" {
        url: Text,
        urls: Texts,
        ca_file: Text,
        client_cert: ClientCertMap,
        max_connections: Text,
        queue: Text,
        connect: Text,
        first_byte: Text,
        idle: Text,
        pool_idle: Text,
        total: Text,
        lag: Text,
        silent: Text,
        health: HealthMap,
        http2: Text,
    } later []
}

mirror! {
    ClientCertMap like "`{cert: client.pem, key: client.key}`" {
        cert: Text,
        key: Text,
    } later []
}

mirror! {
    HealthMap like "`{path: /healthz/, every: 5s}`" {
        path: Text,
        every: Text,
        host: Text,
    } later []
}

mirror! {
    StoreMap like "`{url: \"redis://127.0.0.1:6379\", database: 1}`" {
        url: Text,
        database: Text,
        prefix: Text,
        timeout: Text,
        ca_file: Text,
    } later []
}

mirror! {
    MemoryMap like "`{size: 64MiB, lease: 10ms}`" {
        size: Text,
        lease: Text,
    } later []
}

mirror! {
    RouteMap like "`{path: /api/users/, key: \"users:list\"}`" {
        path: Text,
        key: Text,
        ttl: Text,
        access: Either<AccessMap>,
        query: QueryMap,
        vary: Texts,
        max_body: Text,
        override_origin: Text,
        etag: Text,
        compress: Texts,
        stale_while_revalidate: Text,
        stale_if_error: Text,
        jitter: Text,
        early_refresh: Text,
        negative_ttl: Text,
        policy: Text,
        targeted: Texts,
        heuristic: Text,
        keep_set_cookie: Text,
        keep_parts: Text,
        honour_client_directives: Text,
        warm: Text,
    } later []
}

mirror! {
    JwtMap like "`{jwks_file: jwks.json, audience: users-api}`" {
        secret: Text,
        key_file: Text,
        jwks_file: Text,
        algorithms: Texts,
        issuer: Texts,
        audience: Texts,
        leeway: Text,
    } later []
}

mirror! {
    QueryMap like "`{allow: [page], other: bypass}`" {
        allow: Texts,
        other: Text,
    } later []
}

mirror! {
    PurgeMap like "`{methods: POST, path: /api/users/, keys: [\"users:list\"]}`" {
        methods: Texts,
        path: Text,
        keys: Texts,
    } later []
}

mirror! {
    LimitsMap like "`{content: 1GiB}`" {
        target: Text,
        fields: Text,
        head: Text,
        content: Text,
        connections: Text,
        connections_per_address: Text,
        handshake_timeout: Text,
        streams: Text,
        header_timeout: Text,
        keep_alive: Text,
        write_idle: Text,
        held: Text,
        content_idle: Text,
        content_rate: Text,
        rate: RateMap,
        drain: Text,
        drain_delay: Text,
        copies: Text,
    } later []
}

mirror! {
    RateMap like "`{per: address, requests: 100, window: 1s}`" {
        per: Text,
        requests: Text,
        window: Text,
        burst: Text,
    } later []
}

mirror! {
    WebSocketMap like "`{connections: 1024, idle: 5m}`" {
        connections: Text,
        idle: Text,
    } later []
}

mirror! {
    LogsMap like "`{format: json, level: info}`" {
        format: Text,
        level: Text,
        access: Text,
    } later []
}

mirror! {
    WarmMap like "`{targets: [/api/users/], every: 10m}`" {
        targets: Texts,
        fields: Texts,
        at_start: Text,
        every: Text,
        concurrency: Text,
    } later []
}

/// `for` is a word of the language, so this one stands in full.
#[derive(Debug, Default)]
pub struct AccessMap {
    pub verify: Option<Text>,
    pub jwt: Option<JwtMap>,
    pub lasting: Option<Text>,
    pub refusing: Option<Text>,
    pub scope: Option<Texts>,
}

impl AccessMap {
    const KEYS: &'static [&'static str] = &["verify", "jwt", "for", "refuse_for", "scope"];
}

impl Mapping for AccessMap {
    const LIKE: &'static str = "`{verify: /api/users/me/, for: 30s}`";

    fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut read = Self::default();
        let mut seen: Vec<&'static str> = Vec::new();
        while let Some(key) = map.next_key_seed(Key {
            known: Self::KEYS,
            later: &[],
            seen: &seen,
        })? {
            seen.push(key);
            match key {
                "verify" => read.verify = Some(map.next_value()?),
                "jwt" => read.jwt = Some(map.next_value()?),
                "for" => read.lasting = Some(map.next_value()?),
                "refuse_for" => read.refusing = Some(map.next_value()?),
                "scope" => read.scope = Some(map.next_value()?),
                _ => unreachable!("`Key` gives no other"),
            }
        }
        Ok(read)
    }
}

/// What is wrong, as it travels through the YAML library as an error's text and comes out again.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The way to it by keys.
    pub within: String,
    pub cause: String,
    pub help: String,
    /// It is about a key that is known, in a line that is understood.
    pub known_key: bool,
}

const BEGIN: char = '\u{2}';
const BEGIN_KNOWN: char = '\u{6}';
const BETWEEN: char = '\u{1F}';
const END: char = '\u{3}';

impl Complaint {
    fn about<E: de::Error>(cause: impl fmt::Display, help: impl fmt::Display) -> E {
        E::custom(format!("{BEGIN}{cause}{BETWEEN}{help}{END}"))
    }

    fn about_known<E: de::Error>(cause: impl fmt::Display, help: impl fmt::Display) -> E {
        E::custom(format!("{BEGIN_KNOWN}{cause}{BETWEEN}{help}{END}"))
    }

    pub fn find(message: &str) -> Option<Complaint> {
        let begin = message.find([BEGIN, BEGIN_KNOWN])?;
        let (inside, _) = message[begin + 1..].rsplit_once(END)?;
        let (cause, help) = inside.split_once(BETWEEN)?;
        Some(Complaint {
            within: message[..begin].trim_end_matches(": ").to_owned(),
            cause: cause.to_owned(),
            help: help.to_owned(),
            known_key: message[begin..].starts_with(BEGIN_KNOWN),
        })
    }
}

trait Mapping: Sized {
    /// How one is written.
    const LIKE: &'static str;

    fn read<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

/// Answers everything but what was wanted, without quoting it.
macro_rules! refuse {
    (scalars) => {
        fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
        refuse!(typed scalars);
    };
    (typed scalars) => {
        fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
        fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
        fn visit_i128<E: de::Error>(self, _: i128) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
        fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
        fn visit_u128<E: de::Error>(self, _: u128) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
        fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
            Err(self.refuse("one value"))
        }
    };
    (nothing) => {
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Err(self.refuse("nothing"))
        }
        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Err(self.refuse("nothing"))
        }
        fn visit_enum<A: de::EnumAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.refuse("a YAML tag (`!…`)"))
        }
    };
    (list) => {
        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.refuse("a list"))
        }
    };
    (mapping) => {
        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.refuse("a mapping"))
        }
    };
}

/// Numbers and truth values, where text is as good.
macro_rules! scalars_as_text {
    ($self:ident, $make:expr) => {
        fn visit_bool<E: de::Error>($self, value: bool) -> Result<Self::Value, E> {
            Ok($make(value.to_string()))
        }
        fn visit_i64<E: de::Error>($self, value: i64) -> Result<Self::Value, E> {
            Ok($make(value.to_string()))
        }
        fn visit_u64<E: de::Error>($self, value: u64) -> Result<Self::Value, E> {
            Ok($make(value.to_string()))
        }
        fn visit_f64<E: de::Error>($self, value: f64) -> Result<Self::Value, E> {
            Ok($make(value.to_string()))
        }
    };
}

struct MappingVisitor<T>(PhantomData<T>);

impl<T: Mapping> MappingVisitor<T> {
    fn refuse<E: de::Error>(self, found: &str) -> E {
        Complaint::about(
            format!("{found} where a mapping is expected"),
            format!("write it like {}", T::LIKE),
        )
    }
}

impl<'de, T: Mapping> Visitor<'de> for MappingVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::read(map)
    }

    refuse!(scalars);
    refuse!(nothing);
    refuse!(list);
}

struct TextVisitor;

impl Text {
    fn of(raw: impl Into<String>) -> Text {
        Text {
            raw: raw.into(),
            flag: None,
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    /// As text and not as whatever YAML takes it for: `1.10` and `0x1f` stay what they are.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value")
    }

    fn visit_str<E: de::Error>(self, raw: &str) -> Result<Text, E> {
        Ok(Text::of(raw))
    }
}

struct TextsVisitor;

impl TextsVisitor {
    fn refuse<E: de::Error>(self, found: &str) -> E {
        Complaint::about(
            format!("{found} where a list is expected"),
            "write `[a, b]`, or `[]` for none",
        )
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor)
    }
}

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_str<E: de::Error>(self, raw: &str) -> Result<Texts, E> {
        Ok(Texts(vec![Text::of(raw)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            texts.push(text);
        }
        Ok(Texts(texts))
    }

    scalars_as_text!(self, |raw: String| Texts(vec![Text::of(raw)]));
    refuse!(nothing);
    refuse!(mapping);
}

struct ListVisitor<T>(PhantomData<T>);

impl<T: Mapping> ListVisitor<T> {
    fn refuse<E: de::Error>(self, found: &str) -> E {
        Complaint::about(
            format!("{found} where a list is expected"),
            format!(
                "begin each item with `- `, like `- {}`, or write `[]` for none",
                T::LIKE.trim_matches('`')
            ),
        )
    }
}

impl<'de, T: Mapping + Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

impl<'de, T: Mapping + Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(List(items))
    }

    refuse!(scalars);
    refuse!(nothing);
    refuse!(mapping);
}

struct EitherVisitor<T>(PhantomData<T>);

impl<T: Mapping> EitherVisitor<T> {
    fn refuse<E: de::Error>(self, found: &str) -> E {
        Complaint::about(
            format!("{found} where one value or a mapping is expected"),
            format!("write it like {}", T::LIKE),
        )
    }
}

impl<'de, T: Mapping> Deserialize<'de> for Either<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherVisitor(PhantomData))
    }
}

impl<'de, T: Mapping> Visitor<'de> for EitherVisitor<T> {
    type Value = Either<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a mapping")
    }

    fn visit_str<E: de::Error>(self, raw: &str) -> Result<Either<T>, E> {
        Ok(Either::Text(Text::of(raw)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Either<T>, A::Error> {
        T::read(map).map(Either::Map)
    }

    scalars_as_text!(self, |raw: String| Either::Text(Text::of(raw)));
    refuse!(nothing);
    refuse!(list);
}

struct OneOrMoreVisitor<T>(PhantomData<T>);

impl<T: Mapping> OneOrMoreVisitor<T> {
    fn refuse<E: de::Error>(self, found: &str) -> E {
        Complaint::about(
            format!("{found} where a mapping or a list of them is expected"),
            format!("write it like {}", T::LIKE),
        )
    }
}

impl<'de, T: Mapping + Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMoreVisitor(PhantomData))
    }
}

impl<'de, T: Mapping + Deserialize<'de>> Visitor<'de> for OneOrMoreVisitor<T> {
    type Value = OneOrMore<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(OneOrMore::More(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMore<T>, A::Error> {
        T::read(map).map(OneOrMore::One)
    }

    refuse!(scalars);
    refuse!(nothing);
}
