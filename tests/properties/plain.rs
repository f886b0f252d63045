//! Bytes that a client's connection gave, read without hyper (`server::plain`): what is taken there is one message, and hyper
//! and the strict reader read the same one, with nothing left over. Input: what one read gave.

use std::cell::RefCell;
use std::convert::Infallible;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder::body::Content;
use larder::interim::Interim;
use larder::server::lane::Beneath;
use larder::server::{Manners, plain};

use super::strict;
use super::wire::{CONFIG, Script, block_on};

/// What a reader makes of a message.
#[derive(Debug, PartialEq)]
struct Understood {
    method: Method,
    uri: Uri,
    version: Version,
    fields: HeaderMap,
    content: Bytes,
}

pub fn holds(data: &[u8]) {
    let Some(here) = here(data) else {
        return;
    };
    is_what_stands_there(&here, data);
    // Its fields have come before by now, and come again behind another first line.
    let line = data.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let other = [b"PUT /other?a HTTP/1.1\r", &data[line..]].concat();
    for again in [data, data, &other] {
        let here = self::here(again).expect("it was read before");
        is_what_stands_there(&here, again);
        assert_eq!(by_hyper(again), [here]);
    }
}

/// Whether any of this is about it.
pub fn is_read(data: &[u8]) -> bool {
    here(data).is_some()
}

fn here(data: &[u8]) -> Option<Understood> {
    let bytes = Bytes::copy_from_slice(data);
    let brought = plain::read(
        &bytes,
        &mut None,
        &Interim::default(),
        &Manners::of(&CONFIG),
    )?;
    // Its bytes are known again as all that a request is.
    if let Some(Beneath::Head(head)) = &brought.beneath {
        assert_eq!(*head, bytes);
    }
    let (head, content) = brought.into_request().into_parts();
    let Content::Whole(content) = content else {
        panic!("a plain request is there whole");
    };
    Some(Understood {
        method: head.method,
        uri: head.uri,
        version: head.version,
        fields: head.headers,
        content,
    })
}

fn is_what_stands_there(here: &Understood, data: &[u8]) {
    let there = match strict::alone(data) {
        Ok(message) => message,
        Err(why) => panic!("{why}, and read: {here:?}"),
    };
    assert_eq!(here.method.as_str().as_bytes(), there.method);
    assert!(there.is_1_1 && here.version == Version::HTTP_11);
    let target = there.target.split(|&byte| byte == b'#').next();
    let path_and_query = here.uri.path_and_query().map(|target| target.as_str());
    assert_eq!(path_and_query.map(str::as_bytes), target);
    assert!(here.uri.host().is_none());
    let fields = there.fields.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value);
        (name.expect("a name"), value.expect("a value"))
    });
    let mut of_that = HeaderMap::new();
    for (name, value) in fields {
        of_that.append(name, value);
    }
    assert_eq!(here.fields, of_that);
    assert_eq!(here.content, there.content);
}

/// All messages that hyper makes of it, in whole.
fn by_hyper(data: &[u8]) -> Vec<Understood> {
    let understood = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| async {
        let (head, content) = request.into_parts();
        let content = content.collect().await.expect("all of it").to_bytes();
        understood.borrow_mut().push(Understood {
            method: head.method,
            uri: head.uri,
            version: head.version,
            fields: head.headers,
            content,
        });
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    });
    let script = Script {
        bytes: data,
        at_a_time: usize::MAX,
    };
    let connection = http1::Builder::new()
        .half_close(true)
        .max_headers(CONFIG.limits.fields)
        .max_buf_size(CONFIG.limits.head.max(8 * 1024))
        .serve_connection(TokioIo::new(script), service);
    block_on(connection).expect("nothing is left over");
    understood.into_inner()
}
