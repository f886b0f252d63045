//! Reading `upstream`: where the API is, one address or several, and how patiently it is asked.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Reader;
use super::mirror::{ClientCertMap, Either, HealthMap, Text, Texts, UpstreamMap};
use super::place::At;
use super::problem::{Problem, Wrong, wrong};
use super::scalars::host;
use super::stores::ca_file;
use super::value;
use crate::config::{ClientCertificate, HealthCheck, Origin, Upstream, UpstreamAddress};
use crate::tls;

const MS: Duration = Duration::from_millis(1);
/// No longer than any hold counts (`coherence::hold_for`).
const LONGEST_LAG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

impl Reader<'_> {
    pub(super) fn upstream(
        &self,
        at: &At,
        upstream: Option<Either<UpstreamMap>>,
    ) -> Option<Upstream> {
        let (addresses, map) = match upstream {
            None => {
                let cause = "`upstream` is missing: where the API is that shall be cached";
                self.complain(Problem::at(
                    &At::root(),
                    cause,
                    "add `upstream: http://127.0.0.1:8000`",
                ));
                return None;
            }
            Some(Either::Text(text)) => {
                let address = self.optional(at, Some(text), address);
                (address.map(|address| vec![address]), UpstreamMap::default())
            }
            Some(Either::Map(mut map)) => {
                let (url, urls) = (map.url.take(), map.urls.take());
                (self.addresses(at, url, urls), map)
            }
        };
        let seconds = Duration::from_secs;
        let duration = |key, text, default| self.duration(&at.key(key), text, default, MS..=HOUR);
        let max_connections = self.count(
            &at.key("max_connections"),
            map.max_connections,
            64,
            1..=65_536,
        );
        let queue = self.count(&at.key("queue"), map.queue, 1024, 0..=1_000_000);
        let pool_idle = self.duration(
            &at.key("pool_idle"),
            map.pool_idle,
            seconds(1),
            Duration::ZERO..=HOUR,
        );
        let connect = duration("connect", map.connect, seconds(2));
        let first_byte = duration("first_byte", map.first_byte, seconds(30));
        let idle = duration("idle", map.idle, seconds(15));
        let total = duration("total", map.total, seconds(30));
        let lag = self.duration(
            &at.key("lag"),
            map.lag,
            Duration::ZERO,
            Duration::ZERO..=LONGEST_LAG,
        );
        let silent = duration("silent", map.silent, seconds(2));
        let http2 = self.read(&at.key("http2"), map.http2, false, value::truth);
        let health = self.health(&at.key("health"), map.health);
        let (ca_at, cert_at) = (at.key("ca_file"), at.key("client_cert"));
        let ca_file = self.optional(&ca_at, map.ca_file, ca_file);
        let client_cert = self.client_cert(&cert_at, map.client_cert);
        let addresses = addresses?;
        for (at, given) in [
            (&ca_at, ca_file.is_some()),
            (&cert_at, client_cert.is_some()),
        ] {
            if given && !addresses.iter().any(UpstreamAddress::is_tls) {
                let cause =
                    "this is for TLS, and no address of the upstream begins with `https://`";
                let help = "write `https://` in the URL, or leave it out";
                self.complain(Problem::at(at, cause, help));
            }
        }
        Some(Upstream {
            addresses,
            ca_file,
            client_cert,
            http2,
            max_connections,
            queue,
            connect,
            first_byte,
            idle,
            pool_idle,
            total,
            lag,
            silent,
            health,
        })
    }

    fn addresses(
        &self,
        at: &At,
        url: Option<Text>,
        urls: Option<Texts>,
    ) -> Option<Vec<UpstreamAddress>> {
        let Some(urls) = urls else {
            let address = self.required(at, "url", url, "http://127.0.0.1:8000", address)?;
            return Some(vec![address]);
        };
        let urls_at = at.key("urls");
        if url.is_some() {
            let cause = "both `url` and `urls`";
            let help = "write all addresses under `urls`";
            self.complain(Problem::at(&urls_at, cause, help).beside(&at.key("url")));
            return None;
        }
        let count = urls.0.len();
        if count == 0 {
            let cause = "there is no address in it";
            let help = "write `urls: [http://10.0.0.1:8000, http://10.0.0.2:8000]`";
            self.complain(Problem::at(&urls_at, cause, help));
            return None;
        }
        let addresses = self.texts(&urls_at, Some(urls), &[], address);
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) && addresses.len() == count {
                let cause = format!("`{address}` stands here a second time");
                let help = "leave one of the two: they would count as two upstreams";
                self.complain(Problem::at(&urls_at.item(i), cause, help));
            }
        }
        (addresses.len() == count).then_some(addresses)
    }

    fn client_cert(&self, at: &At, map: Option<ClientCertMap>) -> Option<ClientCertificate> {
        let map = map?;
        let path = |text: &str| Ok(PathBuf::from(text));
        let (cert, key) = (
            self.required(at, "cert", map.cert, "/etc/larder/client.pem", path),
            self.required(at, "key", map.key, "/etc/larder/client.key", path),
        );
        let identity = ClientCertificate {
            cert: cert?,
            key: key?,
        };
        if let Err(why) = tls::client::identity(&identity) {
            let at = match &why {
                tls::client::Unusable::Certificate(_) => at.key("cert"),
                tls::client::Unusable::Key(_) => at.key("key"),
            };
            let help = "name two PEM files: the certificate with its chain, and its private key, not encrypted";
            self.complain(Problem::at(&at, why.to_string(), help));
        }
        Some(identity)
    }

    /// Its host is empty where the file does not say it.
    fn health(&self, at: &At, map: Option<HealthMap>) -> Option<HealthCheck> {
        let map = map?;
        let path = self.required(at, "path", map.path, "/healthz/", |text| {
            match text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
                true => Ok(text.to_owned()),
                false => Err(wrong(
                    format!("`{text}` is not a path"),
                    "write it from its first slash on: `/healthz/`",
                )),
            }
        });
        let five = Duration::from_secs(5);
        let every = self.duration(&at.key("every"), map.every, five, MS..=HOUR);
        let host = self.optional(&at.key("host"), map.host, host);
        Some(HealthCheck {
            path: path?,
            every,
            host: host.unwrap_or_default(),
        })
    }
}

/// Under which host the API most likely answers, as Django's ALLOWED_HOSTS asks for one of its own.
pub(super) fn assumed_host(
    canonical: Option<&Origin>,
    hosts: &[String],
    address: &UpstreamAddress,
) -> String {
    if let Some(origin) = canonical {
        return origin.authority.clone();
    }
    if let Some(host) = hosts.first() {
        return host.clone();
    }
    let url = address.to_string();
    match address {
        UpstreamAddress::Unix(_) => "localhost".to_owned(),
        _ => url.split("://").nth(1).unwrap_or_default().to_owned(),
    }
}

fn address(text: &str) -> Result<UpstreamAddress, Wrong> {
    if let Some(path) = text.strip_prefix("http+unix://") {
        return if path.starts_with('/') && path.len() > 1 {
            Ok(UpstreamAddress::Unix(PathBuf::from(path)))
        } else {
            Err(wrong(
                format!("`{text}` does not name a socket by its whole path"),
                "write three slashes: `http+unix:///run/gunicorn.sock`",
            ))
        };
    }
    // As nginx and gunicorn name a socket.
    let socket = { text.strip_prefix("http://unix:") }.or_else(|| text.strip_prefix("unix:"));
    let socket = socket.unwrap_or(text);
    if socket.starts_with('/') && !socket.starts_with("//") {
        return Err(wrong(
            format!("`{text}` is not a URL"),
            "a socket is written `http+unix:///run/gunicorn.sock`",
        ));
    }
    if text.starts_with('$') {
        return Err(wrong(
            format!("`{text}` is not a URL"),
            "write a variable in braces, like `${UPSTREAM}`",
        ));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(wrong(
            format!("`{text}` is not a URL"),
            format!(
                "put `http://` before it: `http://{}`",
                text.trim_start_matches('/')
            ),
        ));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {}
        "unix" => {
            return Err(wrong(
                "there is no scheme `unix` for an upstream",
                format!("write `http+unix://{rest}`"),
            ));
        }
        scheme => {
            return Err(wrong(
                format!("there is no scheme `{scheme}` for an upstream"),
                "write `http://127.0.0.1:8000`, `https://api.internal` or `http+unix:///run/gunicorn.sock`",
            ));
        }
    }
    let help = "write `http://127.0.0.1:8000`: the host and the port";
    let url =
        Url::parse(text).map_err(|error| wrong(format!("`{text}` is not a URL: {error}"), help))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "user name and password in the upstream's URL",
            "leave them out: requests are forwarded with their own credentials",
        ));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            "the upstream's URL has a path",
            "write scheme, host and port alone: requests are forwarded under the path they came with",
        ));
    }
    let host = match url.host() {
        Some(url::Host::Domain(name)) => name.to_owned(),
        Some(url::Host::Ipv4(address)) => address.to_string(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        None => return Err(wrong(format!("`{text}` has no host"), help)),
    };
    match url.port_or_known_default() {
        Some(port) if port != 0 && url.scheme() == "https" => {
            Ok(UpstreamAddress::Tls { host, port })
        }
        Some(port) if port != 0 => Ok(UpstreamAddress::Tcp { host, port }),
        _ => Err(wrong("`0` is not a port", help)),
    }
}
