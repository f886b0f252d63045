//! What can go wrong on a request's way, and the one place that turns it into an answer.
//! A store error is not among it: the store's trouble never reaches a client, but for a write
//! that `when_store_is_down: refuse_writes` refuses.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

/// A request that goes no further than here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BadTarget,
    BadHost,
    BadFraming,
    BadField,
    BadContent,
    UnlistedParameter,
    TargetTooLong,
    TooManyFields,
    ContentTooLarge,
    ContentTimeout,
    WrongHost,
    /// The connection was made for another host (SNI).
    Misdirected,
    MethodNotImplemented,
    MethodNotAllowed,
}

/// An upstream that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// Every slot is taken and the queue is full: the request never left.
    QueueFull,
    /// It waited for a slot until its time was over: it never left.
    QueueTimeout,
    /// No connection: it never left.
    Connect,
    ConnectTimeout,
    /// No secure connection: its certificate is not accepted here, or it speaks no TLS. It never left.
    Tls,
    /// The upstream ended the secure connection by an alert: it does not accept our certificate, or wants one.
    TlsRefused,
    /// The connection was lost before an answer.
    Lost,
    /// What came back is not HTTP, or switches protocols unasked.
    Malformed,
    FirstByteTimeout,
    TotalTimeout,
    /// The client's content was found wanting while it was passed on.
    Content(Refusal),
}

impl UpstreamFailure {
    /// Those that are the upstream's own.
    pub const ALL: [Self; 10] = [
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
        Self::TlsRefused,
        Self::Lost,
        Self::Malformed,
        Self::FirstByteTimeout,
        Self::TotalTimeout,
    ];

    /// Whether the upstream cannot have seen the request.
    pub fn never_left(self) -> bool {
        match self {
            Self::QueueFull
            | Self::QueueTimeout
            | Self::Connect
            | Self::ConnectTimeout
            | Self::Tls => true,
            Self::TlsRefused
            | Self::Lost
            | Self::Malformed
            | Self::FirstByteTimeout
            | Self::TotalTimeout
            | Self::Content(_) => false,
        }
    }

    /// The word for the log and `Cache-Status`.
    pub fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::Connect => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls => "tls-failed",
            Self::TlsRefused => "tls-refused",
            Self::Lost => "connection-lost",
            Self::Malformed => "malformed-answer",
            Self::FirstByteTimeout => "first-byte-timeout",
            Self::TotalTimeout => "total-timeout",
            Self::Content(_) => "content",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    Refused(Refusal),
    Upstream(UpstreamFailure),
    /// Its client has made as many requests as it may: in so long it may make another.
    RateLimited(Duration),
    /// The client wants nothing that is not stored (RFC 9111 §5.2.1.7), and nothing is.
    OnlyIfCached,
    /// `when_store_is_down: refuse_writes`, and it is.
    StoreAway,
    /// Likewise: the write went through, but what it drops could not be confirmed. The store is told when it is back.
    Unconfirmed,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Refused(refusal)
    }
}

impl From<UpstreamFailure> for Error {
    fn from(failure: UpstreamFailure) -> Self {
        Error::Upstream(failure)
    }
}

/// The answer to an error, without its formalities.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    /// One sentence for whoever reads the answer.
    pub detail: &'static str,
    pub retry_after: Option<Duration>,
    /// Whether what follows on this connection can still be trusted.
    pub close: bool,
}

impl Error {
    pub fn answer(self) -> Answer {
        use StatusCode as S;
        let (status, detail, retry_after, close) = match self {
            Error::Refused(refusal) => match refusal {
                Refusal::BadTarget => (
                    S::BAD_REQUEST,
                    "The request target is not valid.",
                    None,
                    true,
                ),
                Refusal::BadHost => (
                    S::BAD_REQUEST,
                    "A request needs exactly one valid Host.",
                    None,
                    true,
                ),
                Refusal::BadFraming => (
                    S::BAD_REQUEST,
                    "The request's framing is ambiguous.",
                    None,
                    true,
                ),
                Refusal::BadField => (S::BAD_REQUEST, "A header field is not valid.", None, true),
                Refusal::BadContent => (
                    S::BAD_REQUEST,
                    "The request's content broke off or is malformed.",
                    None,
                    true,
                ),
                Refusal::UnlistedParameter => (
                    S::BAD_REQUEST,
                    "The query has a parameter that is not allowed here.",
                    None,
                    false,
                ),
                Refusal::TargetTooLong => (
                    S::URI_TOO_LONG,
                    "The request target is too long.",
                    None,
                    true,
                ),
                Refusal::TooManyFields => (
                    S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "The request has too many header fields.",
                    None,
                    true,
                ),
                Refusal::ContentTooLarge => (
                    S::PAYLOAD_TOO_LARGE,
                    "The request's content is too large.",
                    None,
                    true,
                ),
                Refusal::ContentTimeout => (
                    S::REQUEST_TIMEOUT,
                    "The request's content took too long to arrive.",
                    None,
                    true,
                ),
                Refusal::WrongHost => (
                    S::MISDIRECTED_REQUEST,
                    "This host is not served here.",
                    None,
                    false,
                ),
                Refusal::Misdirected => (
                    S::MISDIRECTED_REQUEST,
                    "This connection was made for another host.",
                    None,
                    false,
                ),
                Refusal::MethodNotImplemented => (
                    S::NOT_IMPLEMENTED,
                    "This method is not served here.",
                    None,
                    false,
                ),
                Refusal::MethodNotAllowed => (
                    S::METHOD_NOT_ALLOWED,
                    "This method is never passed on.",
                    None,
                    true,
                ),
            },
            Error::Upstream(failure) => match failure {
                UpstreamFailure::QueueFull | UpstreamFailure::QueueTimeout => (
                    S::SERVICE_UNAVAILABLE,
                    "The upstream is busy.",
                    Some(Duration::from_secs(1)),
                    false,
                ),
                UpstreamFailure::Connect => (
                    S::BAD_GATEWAY,
                    "The upstream cannot be reached.",
                    None,
                    false,
                ),
                UpstreamFailure::Tls => (
                    S::BAD_GATEWAY,
                    "The upstream cannot be reached securely.",
                    None,
                    false,
                ),
                UpstreamFailure::TlsRefused => (
                    S::BAD_GATEWAY,
                    "The upstream refused the secure connection.",
                    None,
                    false,
                ),
                UpstreamFailure::Lost => (
                    S::BAD_GATEWAY,
                    "The upstream closed the connection without an answer.",
                    None,
                    false,
                ),
                UpstreamFailure::Malformed => (
                    S::BAD_GATEWAY,
                    "The upstream's answer is not valid.",
                    None,
                    false,
                ),
                UpstreamFailure::ConnectTimeout
                | UpstreamFailure::FirstByteTimeout
                | UpstreamFailure::TotalTimeout => (
                    S::GATEWAY_TIMEOUT,
                    "The upstream did not answer in time.",
                    None,
                    false,
                ),
                UpstreamFailure::Content(refusal) => return Error::Refused(refusal).answer(),
            },
            Error::Unconfirmed => (
                S::GATEWAY_TIMEOUT,
                "The write was made, but the cache's store was lost before it could be told.",
                None,
                false,
            ),
            Error::RateLimited(after) => (
                S::TOO_MANY_REQUESTS,
                "Too many requests.",
                Some(whole_seconds(after)),
                false,
            ),
            Error::OnlyIfCached => (
                S::GATEWAY_TIMEOUT,
                "Only what is stored was wanted, and nothing usable is.",
                None,
                false,
            ),
            Error::StoreAway => (
                S::SERVICE_UNAVAILABLE,
                "Writes are refused while the cache's store cannot be reached.",
                Some(Duration::from_secs(1)),
                false,
            ),
        };
        Answer {
            status,
            detail,
            retry_after,
            close,
        }
    }

    /// The word for the log and `Cache-Status`.
    pub fn word(self) -> &'static str {
        match self {
            Error::Refused(Refusal::Misdirected) => "misdirected",
            Error::Refused(_) => "refused",
            Error::Upstream(failure) => failure.word(),
            Error::RateLimited(_) => "rate-limited",
            Error::OnlyIfCached => "only-if-cached",
            Error::StoreAway => "store-away",
            Error::Unconfirmed => "unconfirmed",
        }
    }
}

/// Never too early.
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.answer().detail)
    }
}

impl std::error::Error for Error {}
