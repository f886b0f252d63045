//! How a request was handled, in the words of RFC 9211. The same words stand in the log.

use std::fmt;

use http::{HeaderName, HeaderValue, StatusCode};

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why something was not served from the store, or not stored. One word each, everywhere the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    // Not a request to look up:
    NoRoute,
    Spelling,
    HasContent,
    Parameter,
    Html,
    /// Also of an answer that is one, whatever was asked for.
    EventStream,
    NotJson,
    // Not admitted:
    VerifyRefused,
    VerifyFailed,
    JwtAbsent,
    JwtRefused,
    JwtExpired,
    JwtRevoked,
    JwtMixed,
    // Looked up and not served:
    Absent,
    Expired,
    /// Fresh, but its client wants the origin's own word.
    ClientDirective,
    Purged,
    Held,
    Foreign,
    OtherOrigin,
    OtherVariant,
    StoreAway,
    // Served although stale:
    StaleWhileRevalidate,
    StaleIfError,
    SoftPurge,
    // Fetched and not stored:
    Status,
    SetCookie,
    Credential,
    NoStore,
    Private,
    NoCache,
    Stale,
    BadFreshness,
    VaryUnkeyed,
    VerifyMixed,
    Authorization,
    Method,
    NewGroup,
    Encoded,
    TooLarge,
    TooManyCopies,
    StoreRefused,
}

impl Reason {
    pub fn word(self) -> &'static str {
        match self {
            Reason::NoRoute => "no-route",
            Reason::Spelling => "spelling",
            Reason::HasContent => "content",
            Reason::Parameter => "parameter",
            Reason::Html => "html",
            Reason::EventStream => "event-stream",
            Reason::NotJson => "not-json",
            Reason::VerifyRefused => "verify-refused",
            Reason::VerifyFailed => "verify-failed",
            Reason::JwtAbsent => "jwt-absent",
            Reason::JwtRefused => "jwt-refused",
            Reason::JwtExpired => "jwt-expired",
            Reason::JwtRevoked => "jwt-revoked",
            Reason::JwtMixed => "jwt-mixed",
            Reason::Absent => "absent",
            Reason::Expired => "expired",
            Reason::ClientDirective => "client-directive",
            Reason::Purged => "purged",
            Reason::Held => "held",
            Reason::Foreign => "foreign",
            Reason::OtherOrigin => "other-origin",
            Reason::OtherVariant => "other-variant",
            Reason::StoreAway => "store-away",
            Reason::StaleWhileRevalidate => "stale-while-revalidate",
            Reason::StaleIfError => "stale-if-error",
            Reason::SoftPurge => "soft-purge",
            Reason::Status => "status",
            Reason::SetCookie => "set-cookie",
            Reason::Credential => "credential",
            Reason::NoStore => "no-store",
            Reason::Private => "private",
            Reason::NoCache => "no-cache",
            Reason::Stale => "stale",
            Reason::BadFreshness => "bad-freshness",
            Reason::VaryUnkeyed => "vary-unkeyed",
            Reason::VerifyMixed => "verify-mixed",
            Reason::Authorization => "authorization",
            Reason::Method => "method",
            Reason::NewGroup => "new-group",
            Reason::Encoded => "encoded",
            Reason::TooLarge => "too-large",
            Reason::TooManyCopies => "too-many-copies",
            Reason::StoreRefused => "store-refused",
        }
    }
}

/// RFC 9211 §2.2: why a request went forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    Bypass,
    Method,
    UriMiss,
    VaryMiss,
    Stale,
    Request,
    Miss,
}

impl Forward {
    pub fn word(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Stale => "stale",
            Forward::Request => "request",
            Forward::Miss => "miss",
        }
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Served from the store, fresh for that many seconds more.
    Hit { ttl: u64 },
    /// Served from the store, stale for that many seconds, while it is refreshed (RFC 5861 §3).
    StaleHit { stale: u64 },
    /// Served from the store after a soft purge, while it is refreshed.
    OutdatedHit,
    Forwarded {
        why: Forward,
        status: Option<StatusCode>,
        stored: bool,
        collapsed: bool,
        detail: Option<&'static str>,
    },
    /// Answered by us alone: refused, or no answer to be had.
    Own { detail: &'static str },
}

impl Handling {
    /// How a fresh hit begins; its ttl follows.
    pub const HIT: &'static str = "larder; hit; ttl=";

    pub fn forwarded(why: Forward) -> Handling {
        Handling::Forwarded {
            why,
            status: None,
            stored: false,
            collapsed: false,
            detail: None,
        }
    }

    /// The copy past its time, in the place of an error with this status, or of no answer (RFC 5861 §4).
    pub fn stood_in(status: Option<StatusCode>, collapsed: bool) -> Handling {
        Handling::Forwarded {
            why: Forward::Stale,
            status,
            stored: false,
            collapsed,
            detail: Some(Reason::StaleIfError.word()),
        }
    }

    /// `hit`, or why it went forward: the log's one word.
    pub fn word(&self) -> &'static str {
        match self {
            Handling::Hit { .. } | Handling::StaleHit { .. } | Handling::OutdatedHit => "hit",
            Handling::Forwarded { why, .. } => why.word(),
            Handling::Own { .. } => "own",
        }
    }

    pub fn detail(&self) -> Option<&'static str> {
        match self {
            Handling::Hit { .. } => None,
            Handling::StaleHit { .. } => Some(Reason::StaleWhileRevalidate.word()),
            Handling::OutdatedHit => Some(Reason::SoftPurge.word()),
            Handling::Forwarded { detail, .. } => *detail,
            Handling::Own { detail } => Some(detail),
        }
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::try_from(self.text()).expect("a Cache-Status is ASCII")
    }

    /// Put together by hand: every answer says one.
    fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        let mut say = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
        let mut number = itoa::Buffer::new();
        match self {
            Handling::Hit { ttl } => say(&[Handling::HIT, number.format(*ttl)]),
            Handling::StaleHit { stale } => {
                let stale = number.format(*stale);
                let why = Reason::StaleWhileRevalidate.word();
                say(&["larder; hit; ttl=-", stale, "; detail=", why]);
            }
            Handling::OutdatedHit => {
                let why = Reason::SoftPurge.word();
                say(&["larder; hit; ttl=0; detail=", why]);
            }
            Handling::Forwarded {
                why,
                status,
                stored,
                collapsed,
                detail,
            } => {
                say(&["larder; fwd=", why.word()]);
                if let Some(status) = status {
                    say(&["; fwd-status=", status.as_str()]);
                }
                if *stored {
                    say(&["; stored"]);
                }
                if *collapsed {
                    say(&["; collapsed"]);
                }
                if let Some(detail) = detail {
                    say(&["; detail=", detail]);
                }
            }
            Handling::Own { detail } => say(&["larder; detail=", detail]),
        }
        text
    }
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_rfc_9211_writes_it() {
        assert_eq!(
            Handling::Hit { ttl: 3599 }.to_string(),
            "larder; hit; ttl=3599"
        );
        assert_eq!(
            Handling::StaleHit { stale: 3 }.to_string(),
            "larder; hit; ttl=-3; detail=stale-while-revalidate"
        );
        let stored = Handling::Forwarded {
            why: Forward::UriMiss,
            status: Some(StatusCode::OK),
            stored: true,
            collapsed: true,
            detail: Some("absent"),
        };
        assert_eq!(
            stored.to_string(),
            "larder; fwd=uri-miss; fwd-status=200; stored; collapsed; detail=absent"
        );
    }
}
