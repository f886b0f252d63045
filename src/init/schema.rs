//! An OpenAPI description (3.0 or 3.1) as far as a cache wants to know it: which paths can be read and written, by whom, with
//! which parameters, and which of the components their answers show. Pure: text in, `Api` out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::config::file::foreign;
use crate::text::one_line;

/// More is no description of an API that somebody wrote or generated.
pub const LARGEST: usize = 32 * 1024 * 1024;

/// What the description says.
#[derive(Debug, Default)]
pub struct Api {
    pub title: String,
    /// Where it says that it is reached: scheme and host.
    pub origin: Option<String>,
    /// In the file's order, but for what a parser sorts.
    pub paths: Vec<ApiPath>,
    /// Fields that hold an API key, beside Authorization.
    pub key_fields: Vec<String>,
    /// Cookies that hold one.
    pub key_cookies: Vec<String>,
    /// Parameters of the query that hold one.
    pub key_parameters: Vec<String>,
    /// Whether tokens are said to be JWTs.
    pub jwt: bool,
    /// Whether it asks for client certificates.
    pub mutual_tls: bool,
}

#[derive(Debug)]
pub struct ApiPath {
    /// With the server's own path before it.
    pub text: String,
    pub segments: Vec<Segment>,
    /// Why proxy.yaml has no words for it.
    pub odd: Option<String>,
    pub read: Option<Operation>,
    pub writes: Vec<(Method, Operation)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Literal(String),
    Capture { name: String, converter: Converter },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Converter {
    Any,
    Int,
    Slug,
    Uuid,
    /// Any number of segments.
    Path,
}

#[derive(Debug, Default)]
pub struct Operation {
    pub asks: Asks,
    pub query: Parameters,
    /// Fields of the request that it reads, beside those that are a cache's own business.
    pub fields: Vec<String>,
    /// Whether the answer is a list, or a page of one.
    pub is_list: bool,
    /// The components that the answer is, or is a list of; of a write also what it is sent.
    pub shows: BTreeSet<String>,
    /// All that are anywhere in it.
    pub holds: BTreeSet<String>,
}

/// For whom an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asks {
    /// The description does not say.
    #[default]
    Unsaid,
    /// Expressly for everybody.
    Nothing,
    /// A credential may be there.
    Optional,
    Credential,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameters {
    Listed(Vec<String>),
    /// One of them has names that the description cannot list.
    Unlisted,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters::Listed(Vec::new())
    }
}

/// What is wrong with it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError {
    pub cause: String,
    pub help: String,
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhelp: {}", self.cause, self.help)
    }
}

fn wrong(cause: impl Into<String>, help: impl Into<String>) -> SchemaError {
    SchemaError {
        cause: cause.into(),
        help: help.into(),
    }
}

/// Reads the bytes of the file.
pub fn read(bytes: &[u8]) -> Result<Api, SchemaError> {
    let document = document(bytes)?;
    version(&document)?;
    let reader = Reader {
        document: &document,
    };
    reader.api()
}

fn document(bytes: &[u8]) -> Result<Value, SchemaError> {
    if bytes.len() > LARGEST {
        return Err(wrong(
            format!("more than {} MiB", LARGEST >> 20),
            "give the description of the API that is to be cached alone, without examples",
        ));
    }
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(wrong(
            "it is UTF-16, as `>` in PowerShell writes it",
            "let it be written by `manage.py spectacular --file schema.yaml`, or save it as UTF-8",
        ));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| wrong("it is not UTF-8", "save it as UTF-8 text"))?;
    let text = text.trim_start_matches('\u{FEFF}');
    let begin = text.trim_start();
    let write = "write one with `python manage.py spectacular --file schema.yaml`, or leave --openapi out and answer questions";
    if begin.is_empty() {
        return Err(wrong("it is empty", write));
    }
    if begin.starts_with('<') {
        return Err(wrong(
            "it is a page (HTML or XML), and no OpenAPI description",
            "download the description itself, like `curl -o schema.json 'https://api.example.org/api/schema/?format=json'`",
        ));
    }
    let document = match begin.starts_with('{') {
        true => serde_json::from_str(text).map_err(|error| error.to_string()),
        false => foreign::yaml(text),
    };
    let document = document.map_err(|error| {
        wrong(
            format!("it can be read neither as JSON nor as YAML: {error}"),
            "have it written anew; a file in pieces must be put together first",
        )
    })?;
    match document {
        Value::Object(_) => Ok(document),
        _ => Err(wrong("it is no mapping with `openapi` and `paths`", write)),
    }
}

fn version(document: &Value) -> Result<(), SchemaError> {
    if document.get("swagger").is_some() {
        return Err(wrong(
            "it is Swagger 2.0, and OpenAPI 3.0 or 3.1 is read here",
            "convert it (`npx swagger2openapi schema.json -o openapi.yaml`), or have drf-spectacular write it in the place of drf-yasg",
        ));
    }
    let said = match &document["openapi"] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => {
            return Err(wrong(
                "it has no `openapi`, and so is no OpenAPI description",
                "give the file that `manage.py spectacular --file schema.yaml` writes",
            ));
        }
    };
    let mut parts = said.split('.');
    match (parts.next(), parts.next()) {
        (Some("3"), Some("0" | "1" | "2") | None) => Ok(()),
        _ => Err(wrong(
            format!("it is OpenAPI {said}, and 3.0 or 3.1 is read here"),
            "have it written as `openapi: 3.1.0`",
        )),
    }
}

struct Reader<'d> {
    document: &'d Value,
}

impl<'d> Reader<'d> {
    fn api(&self) -> Result<Api, SchemaError> {
        let document = self.document;
        let (origin, base) = server(&document["servers"]);
        let mut api = Api {
            title: text(&document["info"]["title"]).to_owned(),
            origin,
            ..Api::default()
        };
        self.schemes(&mut api)?;
        let no_paths = || {
            wrong(
                "it describes no paths",
                "is it the description of the whole API? drf-spectacular leaves out views that it cannot see: look at its warnings",
            )
        };
        let paths = document["paths"].as_object().ok_or_else(no_paths)?;
        for (name, item) in paths.iter().filter(|(name, _)| name.starts_with('/')) {
            let item = self.resolved(item, name)?;
            api.paths.push(self.path(&format!("{base}{name}"), item)?);
        }
        match api.paths.is_empty() {
            true => Err(no_paths()),
            false => Ok(api),
        }
    }

    fn schemes(&self, api: &mut Api) -> Result<(), SchemaError> {
        let schemes = &self.document["components"]["securitySchemes"];
        for (name, scheme) in schemes.as_object().into_iter().flatten() {
            let scheme = self.resolved(scheme, name)?;
            let named = text(&scheme["name"]).to_owned();
            match (text(&scheme["type"]), text(&scheme["in"])) {
                ("apiKey", "header") if !named.eq_ignore_ascii_case("authorization") => {
                    api.key_fields.push(named);
                }
                ("apiKey", "cookie") => api.key_cookies.push(named),
                ("apiKey", "query") => api.key_parameters.push(named),
                ("mutualTLS", _) => api.mutual_tls = true,
                _ => {}
            }
            let format = text(&scheme["bearerFormat"]);
            api.jwt |= format.eq_ignore_ascii_case("jwt");
        }
        Ok(())
    }

    fn path(&self, path: &str, item: &'d Value) -> Result<ApiPath, SchemaError> {
        let mut captured = BTreeMap::new();
        let mut operations = Vec::new();
        let methods = [
            ("get", Method::GET),
            ("post", Method::POST),
            ("put", Method::PUT),
            ("patch", Method::PATCH),
            ("delete", Method::DELETE),
        ];
        for (word, method) in methods {
            let Some(said) = item.get(word) else { continue };
            let at = format!("{method} {path}");
            let mut operation = self.operation(said, &at)?;
            for shared in [&item["parameters"], &said["parameters"]] {
                self.parameters(shared, &at, &mut operation, &mut captured)?;
            }
            operations.push((method, operation));
        }
        let (segments, odd) = segments(path, &captured);
        let mut read = None;
        let mut writes = Vec::new();
        for (method, operation) in operations {
            match method {
                Method::GET => read = Some(operation),
                method => writes.push((method, operation)),
            }
        }
        Ok(ApiPath {
            text: path.to_owned(),
            segments,
            odd,
            read,
            writes,
        })
    }

    fn operation(&self, said: &'d Value, at: &str) -> Result<Operation, SchemaError> {
        let security = match said.get("security") {
            Some(own) => Some(own),
            None => self.document.get("security"),
        };
        let mut operation = Operation {
            asks: security.map_or(Asks::Unsaid, asks),
            ..Operation::default()
        };
        let mut contents = vec![self.resolved(&said["requestBody"], at)?];
        let responses = said["responses"].as_object().into_iter().flatten();
        for (_, response) in responses.filter(|(code, _)| code.starts_with('2')) {
            contents.push(self.resolved(response, at)?);
        }
        for holder in contents {
            for (_, media) in holder["content"].as_object().into_iter().flatten() {
                let schema = &media["schema"];
                let (is_list, shows) = self.shown(schema, at)?;
                operation.is_list |= is_list;
                operation.shows.extend(shows);
                self.held(schema, &mut operation.holds);
            }
        }
        Ok(operation)
    }

    fn parameters(
        &self,
        listed: &'d Value,
        at: &str,
        operation: &mut Operation,
        captured: &mut BTreeMap<String, Converter>,
    ) -> Result<(), SchemaError> {
        for parameter in listed.as_array().into_iter().flatten() {
            let parameter = self.resolved(parameter, at)?;
            let name = text(&parameter["name"]);
            let schema = self.resolved(&parameter["schema"], at)?;
            match text(&parameter["in"]) {
                "path" => {
                    captured.insert(name.to_owned(), converter(schema));
                }
                "header" => {
                    let own_business = [
                        "accept",
                        "authorization",
                        "content-type",
                        "cookie",
                        "host",
                        "if-none-match",
                        "if-modified-since",
                        "if-match",
                        "if-unmodified-since",
                        "if-range",
                        "range",
                        "cache-control",
                        "accept-encoding",
                    ];
                    let lower = name.to_ascii_lowercase();
                    if !own_business.contains(&lower.as_str()) && !operation.fields.contains(&lower)
                    {
                        operation.fields.push(lower);
                    }
                }
                "query" => {
                    // An object's properties are parameters, too, and by names of several styles.
                    let many = has_type(schema, "object")
                        || text(&parameter["style"]) == "deepObject"
                        || parameter.get("content").is_some();
                    let speakable = !name.is_empty()
                        && !name.contains(|c: char| "&=?#$".contains(c) || c.is_whitespace());
                    match &mut operation.query {
                        Parameters::Listed(names) if speakable && !many => {
                            if !names.iter().any(|known| known == name) {
                                names.push(name.to_owned());
                            }
                        }
                        other => *other = Parameters::Unlisted,
                    }
                }
                // Every cookie counts anyway.
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a schema is a list or a page of one, and the components that stand at its top.
    fn shown(&self, schema: &'d Value, at: &str) -> Result<(bool, BTreeSet<String>), SchemaError> {
        let (mut names, whole) = self.named(schema, at)?;
        if has_type(whole, "array") || whole.get("items").is_some() {
            names.extend(self.named(&whole["items"], at)?.0);
            return Ok((true, names));
        }
        let mut is_list = false;
        for part in ["allOf", "oneOf", "anyOf"] {
            for one in whole[part].as_array().into_iter().flatten() {
                let (inner, one) = self.named(one, at)?;
                is_list |= has_type(one, "array") || self.page(one, at, &mut names)?;
                names.extend(inner);
            }
        }
        is_list |= self.page(whole, at, &mut names)?;
        Ok((is_list, names))
    }

    /// `{count, results: […]}` and its kin.
    fn page(
        &self,
        schema: &'d Value,
        at: &str,
        names: &mut BTreeSet<String>,
    ) -> Result<bool, SchemaError> {
        let holders = [
            "results", "items", "data", "objects", "records", "rows", "entries", "content",
        ];
        let mut is_list = false;
        for holder in holders {
            let Some(held) = schema["properties"].get(holder) else {
                continue;
            };
            let (inner, held) = self.named(held, at)?;
            names.extend(inner);
            if has_type(held, "array") {
                names.extend(self.named(&held["items"], at)?.0);
                is_list = true;
            }
        }
        Ok(is_list)
    }

    /// What a schema refers to in the end, and the components by whose names it does.
    fn named(
        &self,
        schema: &'d Value,
        at: &str,
    ) -> Result<(BTreeSet<String>, &'d Value), SchemaError> {
        // First: it finds the references that go in a circle.
        let whole = self.resolved(schema, at)?;
        let names = self.followed(schema, at)?;
        Ok((names, whole))
    }

    fn followed(&self, schema: &'d Value, at: &str) -> Result<BTreeSet<String>, SchemaError> {
        let mut names = BTreeSet::new();
        let mut schema = schema;
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            names.extend(component(reference));
            schema = self.target(reference, at)?;
        }
        // `allOf: [$ref]` is how 3.0 says a reference with words beside it.
        if let [only] = schema["allOf"].as_array().map_or(&[][..], Vec::as_slice)
            && let Some(name) = only["$ref"].as_str().and_then(component)
        {
            names.insert(name);
        }
        Ok(names)
    }

    /// Follows `$ref` to its end.
    fn resolved(&self, value: &'d Value, at: &str) -> Result<&'d Value, SchemaError> {
        let mut value = value;
        let mut seen: Vec<&str> = Vec::new();
        while let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            if seen.contains(&reference) {
                seen.push(reference);
                return Err(wrong(
                    format!("{at}: a `$ref` that ends nowhere: {}", seen.join(" → ")),
                    "let one of them say what it is",
                ));
            }
            seen.push(reference);
            value = self.target(reference, at)?;
        }
        Ok(value)
    }

    fn target(&self, reference: &str, at: &str) -> Result<&'d Value, SchemaError> {
        let Some(pointer) = reference.strip_prefix('#') else {
            return Err(wrong(
                format!("{at}: `$ref: {}` is another file", one_line(reference)),
                "put the files together first: `npx @redocly/cli bundle schema.yaml -o whole.yaml`",
            ));
        };
        let pointer = percent_decode_str(pointer).decode_utf8_lossy();
        self.document.pointer(&pointer).ok_or_else(|| {
            wrong(
                format!(
                    "{at}: `$ref: {}` names nothing in the file",
                    one_line(reference)
                ),
                "have the description written anew, whole",
            )
        })
    }

    /// All components that are anywhere in a schema; one that holds itself is looked at once.
    fn held(&self, schema: &'d Value, names: &mut BTreeSet<String>) {
        let mut open = vec![schema];
        while let Some(value) = open.pop() {
            match value {
                Value::Array(items) => open.extend(items),
                Value::Object(fields) => {
                    if let Some(reference) = value["$ref"].as_str()
                        && let Some(name) = component(reference)
                        && names.insert(name)
                        && let Ok(target) = self.target(reference, "")
                    {
                        open.push(target);
                    }
                    open.extend(fields.values());
                }
                _ => {}
            }
        }
    }
}

fn component(reference: &str) -> Option<String> {
    let name = reference.strip_prefix("#/components/schemas/")?;
    Some(name.to_owned())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// 3.0 says a type, 3.1 also a list of them.
fn has_type(schema: &Value, wanted: &str) -> bool {
    match &schema["type"] {
        Value::String(one) => one == wanted,
        Value::Array(several) => several.iter().any(|one| one == wanted),
        _ => false,
    }
}

fn asks(security: &Value) -> Asks {
    let ways = security.as_array().map_or(&[][..], Vec::as_slice);
    let free = |way: &Value| way.as_object().is_some_and(serde_json::Map::is_empty);
    match (ways.iter().all(free), ways.iter().any(free)) {
        (true, _) => Asks::Nothing,
        (false, true) => Asks::Optional,
        (false, false) => Asks::Credential,
    }
}

fn converter(schema: &Value) -> Converter {
    let is_slug = |pattern: &str| {
        let set = pattern.trim_start_matches('^').trim_end_matches('$');
        ["[-a-zA-Z0-9_]+", "[a-zA-Z0-9_-]+", "[-\\w]+", "[\\w-]+"].contains(&set)
    };
    if has_type(schema, "integer") {
        Converter::Int
    } else if text(&schema["format"]) == "uuid" {
        Converter::Uuid
    } else if is_slug(text(&schema["pattern"])) {
        Converter::Slug
    } else {
        Converter::Any
    }
}

/// Scheme and host of the first server, and the path below which its paths are.
fn server(servers: &Value) -> (Option<String>, String) {
    let first = &servers[0];
    let mut url = text(&first["url"]).to_owned();
    for (name, variable) in first["variables"].as_object().into_iter().flatten() {
        url = url.replace(&format!("{{{name}}}"), text(&variable["default"]));
    }
    let (origin, path) = match url.find("://") {
        None => (None, url.as_str()),
        Some(scheme) => {
            let end = url[scheme + 3..]
                .find('/')
                .map_or(url.len(), |slash| scheme + 3 + slash);
            (Some(url[..end].to_owned()), &url[end..])
        }
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.trim_end_matches('/');
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => String::new(),
    };
    (origin, path)
}

/// The path between its slashes, and why it cannot be said in proxy.yaml.
fn segments(path: &str, captured: &BTreeMap<String, Converter>) -> (Vec<Segment>, Option<String>) {
    let mut segments = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut odd = None;
    for written in path.trim_start_matches('/').split('/') {
        let inside = written
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .filter(|inside| !inside.contains(['{', '}']));
        let Some(said) = inside else {
            if written.contains(['{', '}']) {
                odd = Some("a part of a segment is captured".to_owned());
            } else if written.contains(|c: char| {
                "^$()[]|\\*<>?#;%".contains(c) || c.is_whitespace() || c.is_control()
            }) || matches!(written, "." | "..")
                || written.starts_with(':')
            {
                odd = Some(format!("`{written}` cannot stand in a path of the file"));
            }
            segments.push(Segment::Literal(written.to_owned()));
            continue;
        };
        let mut name: String = said
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins_well || ["int", "str", "slug", "uuid", "path"].contains(&name.as_str()) {
            name.insert(0, '_');
        }
        while names.contains(&name) {
            name.push('_');
        }
        names.push(name.clone());
        let converter = captured.get(said).copied().unwrap_or(Converter::Any);
        segments.push(Segment::Capture { name, converter });
    }
    if names.len() > 8 {
        odd = Some("more than 8 captures".to_owned());
    }
    let last = segments.len() - 1;
    let empty = |(n, segment): (usize, &Segment)| {
        n < last && matches!(segment, Segment::Literal(text) if text.is_empty())
    };
    if segments.iter().enumerate().any(empty) {
        odd = Some("`//` is in it".to_owned());
    }
    (segments, odd)
}
