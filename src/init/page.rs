//! proxy.yaml as `init` writes it: each line with the reason why it stands there. Pure.

use crate::text::one_line;
use std::fmt::Write as _;

use http::Method;

use super::rules::{Plan, RoutePlan, RulePlan};
use super::schema::{Api, Asks};
use super::{Access, Wanted};

pub fn page(api: &Api, wanted: &Wanted, plan: &Plan) -> String {
    let mut page = String::new();
    head(&mut page, api, wanted);
    credentials(&mut page, api);
    page.push_str(
        "
# Which answers to GET are kept, and under which key. The first match wins; what no route names is forwarded and never kept.
# `access` says who is given which copy. per-credential is always right; of the others:
",
    );
    let verify = plan.verify.as_deref().unwrap_or("/api/users/me/");
    let mut others = vec![
        (
            "public".to_owned(),
            "one copy for all, fetched without any credential",
        ),
        (
            format!("{{verify: {}, for: 30s}}", in_flow(verify)),
            "one copy for all whom the API itself admits there",
        ),
    ];
    if api.jwt {
        others.push((
            "{jwt: {jwks_file: jwks.json, audience: users-api}}".to_owned(),
            "one copy for all whose token is good; the description says that tokens are JWTs",
        ));
    }
    let width = others
        .iter()
        .map(|(access, _)| access.len())
        .max()
        .unwrap_or_default();
    for (access, what) in others {
        let _ = writeln!(page, "#   {access:<width$}   {what}");
    }
    page.push_str("routes:\n");
    for route in &plan.routes {
        self::route(&mut page, route);
    }
    page.push_str(
        "
# Which writes drop which keys. The first match wins. A write drops all copies of a key: in every query, for every credential.
# What an answer shows of something else is seen here only where the description names it: look through it once.
purge:
",
    );
    for rule in &plan.rules {
        self::rule(&mut page, rule);
    }
    remarks(&mut page, plan);
    page
}

fn head(page: &mut String, api: &Api, wanted: &Wanted) {
    let of = match api.title.trim() {
        "" => String::new(),
        title => format!(" of {}", one_line(title)),
    };
    let Wanted {
        from,
        upstream,
        redis_env,
        prefix,
        ..
    } = wanted;
    let _ = write!(
        page,
        "# proxy.yaml: the API{of}, cached. Written by `larder init` from {from}, and yours to change.
#   larder check      what it would do, or what is wrong with it
#   larder doctor     whether Redis, the API and the ports are as it needs them
#   larder serve
# ${{VAR:-default}} is filled in from the environment. Durations and sizes carry their unit.

listen: ${{LISTEN:-127.0.0.1:8080}}   # where clients, or nginx, ask in the API's place
admin: ${{ADMIN:-127.0.0.1:9180}}     # health, looking at entries, purging; never on the public listener
upstream: {upstream}   # the API behind; also http+unix:///run/gunicorn.sock

store:
  url: {url}   # Redis where {redis_env} is set; else in the proxy's own memory
  database: ${{REDIS_DATABASE:-1}}    # Celery keeps 0. Upstash has only 0: set it there, the prefix keeps us apart
  prefix: {prefix}   # every key begins with it; nothing else in the store is touched

ttl: 1h   # how long an answer is kept if no write drops it before
",
        from = one_line(from),
        upstream = quoted(&format!("${{UPSTREAM:-{upstream}}}")),
        url = quoted(&format!("${{{redis_env}:-memory:}}")),
        prefix = quoted(prefix),
    );
    if let Some(origin) = &api.origin {
        let _ = writeln!(
            page,
            "# canonical_origin: {}   # if answers hold links: all are then fetched under this one, and right for everybody",
            one_line(origin)
        );
    }
}

/// What makes a credential beyond what always does.
fn credentials(page: &mut String, api: &Api) {
    let known = ["x-api-key", "x-auth-token", "proxy-authorization"];
    let more: Vec<&str> = { api.key_fields.iter() }
        .map(String::as_str)
        .filter(|field| !known.contains(&field.to_ascii_lowercase().as_str()))
        .filter(|field| field.parse::<http::HeaderName>().is_ok())
        .collect();
    if !more.is_empty() {
        let _ = writeln!(
            page,
            "# Beside Authorization and the cookies: the description asks for a key there.\ncredential_headers: [X-Api-Key, X-Auth-Token, Proxy-Authorization, {}]",
            more.join(", ")
        );
    }
    let ignored = ["csrftoken", "_ga*", "_gid"];
    let is_key = |pattern: &str| {
        api.key_cookies
            .iter()
            .any(|name| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            })
    };
    if ignored.iter().any(|pattern| is_key(pattern)) {
        let left: Vec<&str> = ignored
            .into_iter()
            .filter(|pattern| !is_key(pattern))
            .collect();
        let _ = writeln!(
            page,
            "# No credential are these cookies; the description has a key in one that is none elsewhere.\nignore_cookies: [{}]",
            left.join(", ")
        );
    }
    if api.mutual_tls {
        page.push_str("# The description asks for client certificates: these end here, and the API sees Larder's (`upstream.client_cert`).\n");
    }
}

fn route(page: &mut String, route: &RoutePlan) {
    let what = match (route.is_list, route.shows.as_slice()) {
        (true, []) => "a list".to_owned(),
        (true, shows) => format!("a list: {}", shows.join(", ")),
        (false, []) => "one of them".to_owned(),
        (false, shows) => format!("one: {}", shows.join(", ")),
    };
    let also = match route.also.as_slice() {
        [] => String::new(),
        also => format!("; and what it takes, too: {}", also.join(", ")),
    };
    let _ = writeln!(
        page,
        "  - path: {}   # {}",
        quoted(route.path.as_str()),
        one_line(&(what + &also))
    );
    let _ = writeln!(page, "    key: {}", route.key);
    let (access, why) = match (&route.access, route.asks) {
        (Access::Public, Asks::Nothing) => (
            "public".to_owned(),
            "the description says that it asks for no credential: one copy for all, fetched without any",
        ),
        (Access::Public, _) => (
            "public".to_owned(),
            "as you said: one copy for all, fetched without any credential",
        ),
        (Access::Verify(path), _) => (
            format!("{{verify: {}, for: 30s}}", in_flow(path)),
            "as you said: one copy for all whom the API admits there",
        ),
        (Access::PerCredential, Asks::Credential) => (
            "per-credential".to_owned(),
            "it asks for a credential: each has copies of its own",
        ),
        (Access::PerCredential, Asks::Optional) => (
            "per-credential".to_owned(),
            "with a credential and without: each has copies of its own, and so have all who send none",
        ),
        (Access::PerCredential, Asks::Nothing | Asks::Unsaid) => (
            "per-credential".to_owned(),
            "if the answer is the same for everybody, `public` gives one copy for all",
        ),
    };
    let _ = writeln!(page, "    access: {access}   # {why}");
    match &route.query {
        None => page.push_str("    # every parameter is in the key: not all names are known (`query: {allow: […]}`)\n"),
        Some(names) => {
            let names: Vec<String> = names.iter().map(|name| in_flow(name)).collect();
            let why = match names.as_slice() {
                [] => "the description names none; with one it is forwarded and not kept",
                _ => "those of the description; with another it is forwarded and not kept",
            };
            let _ = writeln!(
                page,
                "    query: {{allow: [{}], other: bypass}}   # {why}",
                names.join(", ")
            );
        }
    }
    if !route.vary.is_empty() {
        let _ = writeln!(
            page,
            "    vary: [{}]   # the API reads them: they split the copy, and reach the API with a fill",
            route.vary.join(", ")
        );
    }
}

fn rule(page: &mut String, rule: &RulePlan) {
    let methods: Vec<&str> = rule.methods.iter().map(Method::as_str).collect();
    let keys: Vec<String> = rule.keys.iter().map(|key| in_flow(key)).collect();
    let _ = writeln!(
        page,
        "  # {}\n  - {{methods: [{}], path: {}, keys: [{}]}}",
        one_line(&rule.why),
        methods.join(", "),
        in_flow(rule.path.as_str()),
        keys.join(", ")
    );
}

fn remarks(page: &mut String, plan: &Plan) {
    if !plan.left_out.is_empty() {
        page.push_str("\n# Not kept:\n");
        for (path, why) in &plan.left_out {
            let _ = writeln!(page, "#   GET {}   {}", one_line(path), one_line(why));
        }
    }
    if !plan.idle.is_empty() {
        page.push_str(
            "\n# Writes that drop nothing. If one changes what is kept, give it a rule:\n",
        );
        for write in &plan.idle {
            let _ = writeln!(page, "#   {}", one_line(write));
        }
    }
}

/// As a value on a line of its own.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.~<>:-${}".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '$');
    // What reads as a number or truth is text all the same: every value is.
    match begins && text.chars().all(plain) && !text.ends_with(':') {
        true => text.to_owned(),
        false => in_quotes(text),
    }
}

/// As a value in brackets.
fn in_flow(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    match begins && text.chars().all(plain) {
        true => text.to_owned(),
        false => in_quotes(text),
    }
}

fn in_quotes(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
