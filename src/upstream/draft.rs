//! A request to be sent, and sent again where that may be: as hyper takes it, and as the bytes that hyper would write.

use http::header::{self, HeaderValue};
use http::{Method, Request, Uri};

use super::Outgoing;
use crate::body::RequestBody;
use crate::error::UpstreamFailure;
use crate::interim::Turn;
use crate::message::fields::X_REQUEST_ID;
use crate::message::heads;
use crate::message::section::Section;
use crate::message::target::{self, ForwardUri};

/// All of a request but its content.
pub(super) struct Draft {
    method: Method,
    target: ForwardUri,
    /// Where the target is not written as it stands.
    uri: Option<Uri>,
    fields: Section,
    id: Option<HeaderValue>,
    interim: Option<Turn>,
    /// A GET or HEAD without content: it can be sent once more where a kept connection was lost.
    pub repeatable: bool,
    /// And to another upstream.
    pub safe: bool,
    pub upgrades: bool,
}

impl Draft {
    pub fn of(outgoing: Outgoing) -> Result<(Draft, RequestBody), UpstreamFailure> {
        debug_assert!(outgoing.id.is_none() || !outgoing.fields.contains_key(X_REQUEST_ID));
        let repeatable = matches!(outgoing.method, Method::GET | Method::HEAD)
            && matches!(outgoing.body, RequestBody::Empty);
        let target = outgoing.target.as_str();
        let uri = match target::is_usual(target.as_bytes()) {
            true => None,
            false => Some(target.parse().map_err(|_| UpstreamFailure::Malformed)?),
        };
        let draft = Draft {
            upgrades: outgoing.fields.says().upgrade,
            method: outgoing.method,
            target: outgoing.target,
            uri,
            fields: outgoing.fields,
            id: outgoing.id,
            interim: outgoing.interim,
            repeatable,
            safe: repeatable && !outgoing.once,
        };
        Ok((draft, outgoing.body))
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The protocol that it asks for.
    pub fn upgrade(&self) -> Option<&HeaderValue> {
        self.fields.get(header::UPGRADE)
    }

    /// As hyper takes it.
    pub fn request(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone().unwrap_or_else(|| {
            let target = self.target.as_str().parse();
            target.expect("what is written as it stands is a URI")
        });
        request.headers_mut().clone_from(&self.fields);
        if let Some(id) = &self.id {
            request.headers_mut().insert(X_REQUEST_ID, id.clone());
        }
        if let Some(turn) = self.interim.clone() {
            hyper::ext::on_informational(&mut request, move |answer| {
                turn.send(answer.status(), answer.headers());
            });
        }
        request
    }

    /// Whether `write_head` writes what hyper would, and nothing in it says anything of the connection: all of it is known
    /// when its head is, and it is framed by its length alone.
    pub fn is_plain(&self, body: &RequestBody) -> bool {
        let says = self.fields.says();
        let framed = match body {
            RequestBody::Empty | RequestBody::Whole(None) => true,
            RequestBody::Whole(Some(_)) => !says.length,
            RequestBody::Streamed(_) => false,
        };
        framed && !says.upgrade && !says.connection && self.method != Method::CONNECT
    }

    /// The head of a plain request, to the byte as hyper writes it.
    pub fn write_head(&self, body: &RequestBody, into: &mut Vec<u8>) {
        let method = self.method.as_str().as_bytes();
        let target = self.uri.as_ref().map(Uri::to_string);
        let target = target.as_deref().unwrap_or(self.target.as_str());
        into.reserve(method.len() + target.len() + 16);
        into.extend_from_slice(method);
        into.push(b' ');
        into.extend_from_slice(target.as_bytes());
        into.extend_from_slice(b" HTTP/1.1\r\n");
        self.fields.write(into);
        if let Some(id) = &self.id {
            heads::write_field(X_REQUEST_ID.as_str(), id.as_bytes(), into);
        }
        if let RequestBody::Whole(Some(content)) = body {
            let mut digits = itoa::Buffer::new();
            let length = digits.format(content.len()).as_bytes();
            heads::write_field("content-length", length, into);
        }
        into.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn most_targets_are_written_as_they_stand() {
        for usual in ["/", "/api/users/?page=2&q=%C3%A9", "//x/", "/a?b?c", "/:@"] {
            assert!(target::is_usual(usual.as_bytes()), "{usual}");
        }
        for other in ["", "*", "a", "/a#b", "/é", "/a b", "/\"", "http://a/"] {
            assert!(!target::is_usual(other.as_bytes()), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_target_that_is_written_as_it_stands_is_written_so_by_hyper(
            target in "/[ -~]{0,20}|/[0-9A-Za-z._~%/?:@!$&'()*+,;=-]{0,40}",
        ) {
            if target::is_usual(target.as_bytes()) {
                let uri: Uri = target.parse().unwrap();
                prop_assert_eq!(uri.to_string(), target);
            }
        }
    }
}
