//! What `larder init` writes: proxy.yaml out of an API's own description (OpenAPI), or of a few answers. `schema` reads the
//! description, `rules` decides what is kept and what drops it, `page` writes it down with the reason of each line. Pure:
//! the command line reads and writes the files.
//!
//! Wherever the description leaves something open, what costs a fetch is chosen before what could serve the past, or one
//! user's answer to another: a copy for each credential, no copy for parameters that are not described, a drop too many.

pub mod page;
pub mod rules;
pub mod schema;
mod segments;

use crate::config::file;
use crate::text::one_line;

use rules::Plan;
use schema::{Api, ApiPath, Converter, Operation, Parameters, Segment};

/// What the file shall say beside routes and rules.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it is made of, for its first line.
    pub from: String,
    pub upstream: String,
    /// The environment variable that holds the URL of Redis.
    pub redis_env: String,
    pub prefix: String,
    /// Without a word, what the description says.
    pub access: Option<Access>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    PerCredential,
    Public,
    /// The path that says who is admitted.
    Verify(String),
}

/// The file, and how it came to be.
#[derive(Debug)]
pub struct Written {
    pub text: String,
    pub plan: Plan,
}

/// Writes the file, and reads it as `serve` would. `Err`: what was wanted makes no file that can be served, and why.
pub fn write(api: &Api, wanted: &Wanted) -> Result<Written, String> {
    let plan = rules::plan(api, wanted.access.as_ref());
    if plan.routes.is_empty() {
        return Err(nothing_to_keep(api));
    }
    let text = page::page(api, wanted, &plan);
    match file::parse("proxy.yaml", &text, &|_| None) {
        Ok(_) => Ok(Written { text, plan }),
        Err(error) => Err(error.to_string()),
    }
}

fn nothing_to_keep(api: &Api) -> String {
    let read: Vec<String> = { api.paths.iter() }
        .filter(|path| path.read.is_some())
        .map(|path| one_line(&path.text))
        .take(10)
        .collect();
    let seen = match read.as_slice() {
        [] => "it describes no GET at all".to_owned(),
        read => format!("it describes GET {}", read.join(", ")),
    };
    format!(
        "none of its GETs looks like a list, or like one thing of a list ({seen})\nhelp: leave --openapi out and name the list's path with --users-path, or begin with the shipped proxy.yaml"
    )
}

/// The API that is meant by the path of its list alone, as a DRF `ModelViewSet` has it.
pub fn collection(path: &str, converter: Converter) -> Api {
    let path = path.trim_end_matches('/');
    let open = || Operation {
        query: Parameters::Unlisted,
        ..Operation::default()
    };
    let written = |methods: &[http::Method]| {
        let each = methods.iter().map(|method| (method.clone(), open()));
        each.collect::<Vec<_>>()
    };
    let of = |text: String, segments: Vec<Segment>, writes| ApiPath {
        text,
        segments,
        odd: None,
        read: Some(open()),
        writes,
    };
    let literals = path.trim_start_matches('/').split('/');
    let mut segments: Vec<Segment> = literals
        .map(|literal| Segment::Literal(literal.to_owned()))
        .collect();
    let end = Segment::Literal(String::new());
    let list = [&segments[..], std::slice::from_ref(&end)].concat();
    segments.push(Segment::Capture {
        name: "id".to_owned(),
        converter,
    });
    segments.push(end);
    use http::Method;
    let one = [Method::PUT, Method::PATCH, Method::DELETE];
    // Nobody says that it takes none for many at once.
    let many = [&[Method::POST], &one[..]].concat();
    Api {
        paths: vec![
            of(format!("{path}/"), list, written(&many)),
            of(format!("{path}/{{id}}/"), segments, written(&one)),
        ],
        ..Api::default()
    }
}
