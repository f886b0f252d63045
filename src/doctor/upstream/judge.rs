//! What the API answered to a fill, and what it means. Pure.

use http::header::{self, HeaderMap};

use crate::caching::cache_status::Reason;
use crate::caching::storing;
use crate::config::{Access, Config, Route};
use crate::doctor::{Finding, ok, skipped, warning, wrong};
use crate::error::UpstreamFailure;
use crate::explain::ask::Judged;
use crate::explain::because;

pub(super) fn no_answer(failure: UpstreamFailure, path: &str, config: &Config) -> Finding {
    let remedy = match failure {
        UpstreamFailure::FirstByteTimeout | UpstreamFailure::TotalTimeout => format!(
            "look at what the API waits for; it has {} (`upstream: {{total: …}}`)",
            humantime::format_duration(config.upstream.total)
        ),
        UpstreamFailure::Lost => {
            "look at the API's log: its worker may have died or been killed".to_owned()
        }
        UpstreamFailure::TlsRefused => {
            "it asks for a certificate of ours that it accepts: `upstream: {client_cert: {cert: …, key: …}}`"
                .to_owned()
        }
        UpstreamFailure::Malformed => {
            "what listens there does not speak HTTP: check `upstream` (UPSTREAM)".to_owned()
        }
        _ => "see `larder explain --ask` and the API's log".to_owned(),
    };
    let seen = format!("GET {path}: no answer ({})", failure.word());
    wrong("upstream-answer", seen, remedy)
}

/// An answer to a fill.
pub(super) struct Seen<'s> {
    pub path: &'s str,
    pub host: &'s str,
    pub host_assumed: bool,
    pub answer: &'s Judged,
}

impl Seen<'_> {
    pub fn judge(&self, route: &Route) -> Finding {
        let status = self.answer.status;
        let seen = format!("GET {}: {}", self.path, status.as_u16());
        match (status.as_u16(), &route.access) {
            (400, _) if self.blames_the_host() => self.host(),
            (301 | 302 | 307 | 308, _) => self.redirect(&seen),
            (401 | 403, Access::Public) => wrong(
                "route-public",
                format!(
                    "{seen} without a credential, on a route with `access: public`: everybody gets that"
                ),
                "write `access: per-credential`",
            ),
            (401 | 403, Access::PerCredential | Access::Verify(_) | Access::Jwt(_)) => skipped(
                "route",
                format!(
                    "{seen}, as without a credential it should; to see more: --path {} -H 'Authorization: …'",
                    self.path
                ),
            ),
            (404, _) => warning(
                "route-path",
                seen,
                "look into urls.py whether the path is written so, its last slash included",
            ),
            (500.., _) => wrong("upstream-status", seen, "look at the API's log"),
            _ => self.kept(route, seen),
        }
    }

    /// Django's own page for a host that ALLOWED_HOSTS lacks, with and without DEBUG.
    fn blames_the_host(&self) -> bool {
        let page = String::from_utf8_lossy(&self.answer.start);
        [
            "Bad Request (400)",
            "DisallowedHost",
            "ALLOWED_HOSTS",
            "Invalid HTTP_HOST",
        ]
        .iter()
        .any(|sign| page.contains(sign))
    }

    fn host(&self) -> Finding {
        let name = match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => self.host,
        };
        let seen = format!("GET {}: 400 for the host `{}`", self.path, self.host);
        match self.host_assumed {
            false => wrong(
                "upstream-host",
                seen,
                format!(
                    "add it to ALLOWED_HOSTS in Django's settings: ALLOWED_HOSTS = [\"{name}\", …]"
                ),
            ),
            true => warning(
                "upstream-host",
                format!("{seen}, which was assumed"),
                format!(
                    "say which your clients use: --header 'Host: api.example.org'; if it is `{name}`, add it to ALLOWED_HOSTS"
                ),
            ),
        }
    }

    fn redirect(&self, seen: &str) -> Finding {
        let location = self.answer.fields.get(header::LOCATION);
        let location = location.and_then(|to| to.to_str().ok()).unwrap_or("?");
        let plain = self.path.split('?').next().unwrap_or(self.path);
        let after_host = location.split_once("://").map_or(location, |(_, rest)| {
            rest.find('/').map_or("/", |at| &rest[at..])
        });
        let to = after_host.split(['?', '#']).next().unwrap_or(after_host);
        if to.strip_suffix('/') == Some(plain) {
            return wrong(
                "route-slash",
                format!("{seen} to {to}"),
                format!("write the path with its slash: `path: {to}`"),
            );
        }
        if plain == to && location.starts_with("https://") {
            return wrong(
                "upstream-https",
                format!("{seen} to itself over https"),
                "whoever speaks https to your clients must send X-Forwarded-Proto (and be in `trusted_proxies`), and Django needs SECURE_PROXY_SSL_HEADER; to ask so: -H 'X-Forwarded-Proto: https'",
            );
        }
        // Where to is not shown: it may hold a token.
        warning(
            "route-status",
            format!("{seen}, elsewhere"),
            because(Reason::Status),
        )
    }

    fn kept(&self, route: &Route, seen: String) -> Finding {
        let ms = self.answer.took.as_millis();
        let reason = match self.answer.verdict {
            Ok(lifetime) => {
                let time = humantime::format_duration(lifetime);
                return ok("route", format!("{seen} after {ms} ms, kept for {time}"));
            }
            Err(reason) => self.answer.not_for_a_cache.unwrap_or(reason),
        };
        let names = |names: &[header::HeaderName]| {
            let names: Vec<&str> = names.iter().map(header::HeaderName::as_str).collect();
            names.join(", ")
        };
        let never = |what: &str| format!("{seen}, but never kept ({}){what}", reason.word());
        match reason {
            Reason::SetCookie => {
                let cookies = cookie_names(&self.answer.fields);
                warning(
                    "route-cookie",
                    never(&format!(": it sets the cookie {cookies}")),
                    "find what makes a session or a CSRF token here (a middleware, `get_token`), and keep it off this view",
                )
            }
            Reason::VaryUnkeyed if self.answer.unkeyed.is_empty() => warning(
                "route-vary",
                never(": it says `Vary: *`, or something that is no name"),
                "let the API name the fields that it reads",
            ),
            Reason::VaryUnkeyed => {
                let fields = names(&self.answer.unkeyed);
                warning(
                    "route-vary",
                    never(&format!(": it varies by {fields}")),
                    format!(
                        "{} ({})",
                        storing::remedy(&self.answer.unkeyed),
                        route.path.as_str()
                    ),
                )
            }
            Reason::NoStore
            | Reason::Private
            | Reason::NoCache
            | Reason::Stale
            | Reason::BadFreshness => warning("route-cache-control", never(""), because(reason)),
            Reason::Encoded => warning("route-encoding", never(""), because(reason)),
            Reason::TooLarge => warning("route-size", never(""), because(reason)),
            _ => warning("route-status", never(""), because(reason)),
        }
    }
}

fn cookie_names(fields: &HeaderMap) -> String {
    let names: Vec<String> = fields
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|line| line.as_bytes().split(|&b| b == b'=').next())
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Level;
    use http::{HeaderValue, StatusCode};

    fn judged(status: u16, fields: &[(header::HeaderName, &'static str)], page: &str) -> Judged {
        Judged {
            status: StatusCode::from_u16(status).unwrap(),
            fields: fields
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect(),
            start: page.as_bytes().to_vec(),
            took: Duration::from_millis(5),
            verdict: Err(Reason::Status),
            not_for_a_cache: None,
            varies_by: Vec::new(),
            unkeyed: Vec::new(),
        }
    }

    fn redirect(to: &'static str) -> Finding {
        let answer = judged(301, &[(header::LOCATION, to)], "");
        let seen = Seen {
            path: "/api/users",
            host: "a.example:8080",
            host_assumed: false,
            answer: &answer,
        };
        seen.redirect("GET /api/users: 301")
    }

    #[test]
    fn a_redirect_is_to_the_slash_to_https_or_elsewhere() {
        assert_eq!(redirect("/api/users/").code, "route-slash");
        assert_eq!(
            redirect("http://a.example/api/users/?x=1").code,
            "route-slash"
        );
        assert_eq!(
            redirect("https://a.example/api/users").code,
            "upstream-https"
        );
        let login = redirect("/login/?token=abc");
        assert_eq!((login.code, login.level), ("route-status", Level::Warning));
        assert!(!login.seen.contains("token"), "{login:?}");
    }

    #[test]
    fn djangos_400_names_the_host_to_add() {
        let answer = judged(400, &[], "<h1>Bad Request (400)</h1>");
        let mut seen = Seen {
            path: "/api/users/",
            host: "a.example:8080",
            host_assumed: false,
            answer: &answer,
        };
        assert!(seen.blames_the_host());
        assert!(seen.host().remedy.unwrap().contains("[\"a.example\""));
        seen.host_assumed = true;
        assert_eq!(seen.host().level, Level::Warning);
    }
}
