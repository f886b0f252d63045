//! A request that nobody has sent, as the proxy would be handed it.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// A request that nobody has sent. No `Debug`: its fields may be secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub method: String,
    /// `/api/users/?page=2`, or a whole URL, which then says the host.
    pub target: String,
    #[serde(default)]
    pub fields: Vec<(String, String)>,
    /// Bytes of content that come with it.
    #[serde(default)]
    pub content: u64,
    /// From where it comes; this machine where nothing is said.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// The name that its TLS connection was made for (SNI); where nothing is said, none was.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl Question {
    /// As hyper would hand it to the proxy; and whether its host had to be assumed.
    pub(crate) fn request(&self, config: &Config) -> Result<(Request<Announced>, bool), String> {
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| format!("`{}` is not a method", self.method))?;
        let neither = "the target is neither a path nor a URL: write `/api/users/?page=2`";
        let uri: Uri = self.target.parse().map_err(|_| neither)?;
        // `users` alone reads as a host, which only CONNECT asks for.
        if uri.authority().is_some() && uri.scheme().is_none() {
            return Err(neither.to_owned());
        }
        let mut request = Request::new(Announced {
            length: self.content,
            chunked: false,
        });
        *request.method_mut() = method;
        for (name, value) in &self.fields {
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| "a field is written `Name: value`".to_owned())?;
            let value = HeaderValue::from_str(value.trim())
                .or_else(|_| HeaderValue::from_bytes(value.trim().as_bytes()))
                .map_err(|_| format!("the value of `{name}` cannot be sent"))?;
            request.headers_mut().append(name, value);
        }
        let given = request.headers().contains_key(header::HOST);
        match uri.authority() {
            Some(authority) if uri.scheme().is_some() => {
                if authority.as_str().contains('@') {
                    return Err(
                        "user and password do not belong into the URL: send them with -H".into(),
                    );
                }
                let https = uri.scheme_str() == Some("https");
                let fields = request.headers_mut();
                if !given {
                    let host = HeaderValue::from_str(authority.as_str())
                        .map_err(|_| "the URL's host cannot be sent")?;
                    fields.insert(header::HOST, host);
                }
                // Whoever speaks https to the client says so to us.
                if https && !fields.contains_key("x-forwarded-proto") {
                    fields.insert("x-forwarded-proto", HeaderValue::from_static("https"));
                }
                let target = uri.path_and_query().map_or("/", |both| both.as_str());
                *request.uri_mut() = target.parse().map_err(|_| "the URL has no path")?;
            }
            _ => {
                if !given && let Ok(host) = HeaderValue::from_str(&assumed_host(config)) {
                    request.headers_mut().insert(header::HOST, host);
                }
                *request.uri_mut() = uri.clone();
            }
        }
        let fields = request.headers();
        let length = fields
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let announced = Announced {
            length: length.unwrap_or(self.content),
            chunked: fields.contains_key(header::TRANSFER_ENCODING),
        };
        let guessed = config.hosts.is_empty() && config.canonical_origin.is_none();
        let assumed = !given && uri.scheme().is_none() && guessed;
        Ok((request.map(|_| announced), assumed))
    }
}

/// The host that a request names if nothing else is said.
pub fn assumed_host(config: &Config) -> String {
    match (&config.canonical_origin, config.hosts.first()) {
        (_, Some(host)) => host.clone(),
        (Some(origin), None) => origin.authority.clone(),
        (None, None) => config.listen.to_string(),
    }
}

/// Content that is announced and never comes.
pub(crate) struct Announced {
    length: u64,
    chunked: bool,
}

impl Body for Announced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0 && !self.chunked
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
