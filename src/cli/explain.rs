//! `larder explain`: what becomes of a request, and why.

use std::fmt::Write as _;
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};

use super::{ConfigFile, Failure, Output, by_hand, serve};
use crate::caching::storing;
use crate::config::{Config, StoreAddress};
use crate::explain::{self, Explanation, Knowledge, Question, Verdict};
use crate::proxy::Setup;
use crate::upstream::Upstream;

#[derive(Args)]
#[command(
    override_usage = "larder explain [OPTIONS] [METHOD] <TARGET>",
    after_help = "\
Examples:
  larder explain /api/users/                       which route, which key, what would drop it
  larder explain GET '/api/users/?page=2' -H 'Authorization: Token abc'
  larder explain https://api.example.org/api/users/ --ask
                                                   is there a copy; may the API's answer be kept
  larder explain PATCH /api/users/7/               which rule of the file, and what it drops
  larder explain /api/users/ -H @secret.txt        fields from a file: not in the shell's history

Without --ask nothing is connected to. Its words are those of Cache-Status and of the log.
Values of credentials and cookies are never printed."
)]
pub struct Arguments {
    /// [METHOD] and a path or URL; GET where no method is given
    #[arg(required = true, num_args = 1..=2, value_name = "METHOD TARGET")]
    request: Vec<String>,
    /// A field of the request, as for curl: 'Name: value', or @FILE with one a line (@- for standard input)
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    fields: Vec<String>,
    /// Content of the request; only its length matters
    #[arg(short, long, value_name = "CONTENT")]
    data: Option<String>,
    /// The address from which it comes
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    from: IpAddr,
    /// The name that its TLS connection was made for, where `tls` is in the file: for another host it is misdirected
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Look into the store, and, if nothing there can be served, ask the API as a fill would
    #[arg(long)]
    ask: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    let question = question(arguments)?;
    let (told, by) = match arguments.ask {
        false => {
            let told = explain::explain(&config, &question, Knowledge::default());
            (told.map_err(Failure::Failed)?.0, None)
        }
        true => {
            let (told, by) = ask(config, &question)?;
            (told, Some(by))
        }
    };
    match arguments.output.json {
        true => println!(
            "{}",
            serde_json::to_string_pretty(&told).unwrap_or_default()
        ),
        false => print!("{}", text(&told, by.as_deref())),
    }
    Ok(())
}

fn question(arguments: &Arguments) -> Result<Question, Failure> {
    let (method, target) = match arguments.request.as_slice() {
        [method, target] => (method.clone(), target.clone()),
        [target] => ("GET".to_owned(), target.clone()),
        _ => return Err(Failure::Failed("one request, please".to_owned())),
    };
    Ok(Question {
        method,
        target,
        fields: read_fields(&arguments.fields)?,
        content: arguments.data.as_ref().map_or(0, |data| data.len() as u64),
        from: Some(arguments.from),
        server_name: arguments.server_name.clone(),
    })
}

/// The running instance knows most; where none answers, the store itself is looked into.
fn ask(config: Config, question: &Question) -> Result<(Explanation, String), Failure> {
    let body = serde_json::to_vec(question).unwrap_or_default();
    let asked = by_hand::Admin::of(&config).and_then(|admin| {
        let answer = admin.ask(Method::POST, "/explain", body)?;
        Ok((admin, answer))
    });
    let nobody = match asked {
        Ok((admin, (StatusCode::OK, body))) => {
            let address = admin.address;
            let told = serde_json::from_slice(&body).map_err(|error| {
                Failure::Failed(format!(
                    "the instance at {address} is of another version: {error}"
                ))
            })?;
            return Ok((told, format!("by the instance at {address}")));
        }
        Ok((admin, (status, body))) => {
            let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let why = told["detail"].as_str().unwrap_or(status.as_str());
            return Err(admin.refusal(status, format!("{}: {why}", admin.address)));
        }
        Err(nobody) => nobody,
    };
    if matches!(config.store.address, StoreAddress::Memory) {
        return Err(nobody);
    }
    let told = super::runtime()?.block_on(async {
        let coherence = serve::coherence(&config).await?;
        coherence.store().settled().await;
        let upstream = Upstream::new(config.upstream.clone());
        let setup = Arc::new(Setup::new(config, upstream, coherence));
        explain::ask::ask(&setup, question)
            .await
            .map_err(Failure::Failed)
    })?;
    Ok((
        told,
        "in the store itself, as no instance answers at `admin`".to_owned(),
    ))
}

/// For people.
fn text(told: &Explanation, by: Option<&str>) -> String {
    let mut page = Page::default();
    let host = match told.host_assumed {
        true => format!("{} (assumed; say -H 'Host: …')", told.host),
        false => told.host.clone(),
    };
    let _ = writeln!(page.0, "{} {}\nHost: {host}\n", told.method, told.target);
    route(told, &mut page);
    if let Some(write) = &told.write {
        self::write(told, write, &mut page);
    }
    if let Some(copy) = &told.copy {
        page.line("copy of", &copy.whose);
        if !copy.split_by.is_empty() {
            page.line("split by", &copy.split_by.join(", "));
        }
        if !copy.left_out.is_empty() {
            let what = format!(
                "{}: neither in the key nor sent to the API with a fill",
                copy.left_out.join(", ")
            );
            page.line("left out", &what);
        }
        let family = format!("{} (a purge drops all copies of it)", copy.family);
        page.line("family", &family);
        page.line("key", &copy.key);
        if copy.key.ends_with("~?") {
            page.line(
                "",
                "(its suffix is a hash whose secret is in the store: --ask shows it)",
            );
        }
        page.line(
            "filled by",
            &format!("{} under {}", copy.forwarded, copy.origin),
        );
        page.line(
            "valid while",
            &format!("no write or purge has touched {}", copy.states.join(" or ")),
        );
    }
    if let Some(admitted) = &told.admitted {
        page.line("admitted", admitted);
    }
    verdict("looked up", told.look_up.as_ref(), &mut page);
    verdict("kept", told.store.as_ref(), &mut page);
    for (n, dropper) in told.dropped_by.iter().enumerate() {
        let by = match dropper.rule {
            Some(index) => format!("purge[{index}]"),
            None => "no rule names it, but a write to a route's path drops its key".to_owned(),
        };
        let what = format!("{} {}   {by}", dropper.methods.join(" "), dropper.path);
        page.line(if n == 0 { "dropped by" } else { "" }, &what);
    }
    if let Some(copy) = &told.copy {
        let by_hand = format!("larder purge {}", copy.family);
        match told.dropped_by.is_empty() {
            true => page.line(
                "dropped by",
                &format!("no write: name its key in a rule under `purge`; until then its ttl, or {by_hand}"),
            ),
            false => page.line("", &by_hand),
        }
    }
    found(told, by, &mut page);
    if let Some(status) = &told.cache_status {
        page.0.push('\n');
        if let Some(code) = told.refused_with {
            page.line("answered", &format!("{code}, by Larder itself"));
        }
        page.line("Cache-Status", status);
        if let Some(because) = &told.because {
            page.line("", because);
        }
    }
    page.0
}

fn route(told: &Explanation, page: &mut Page) {
    let is_read = matches!(told.method.as_str(), "GET" | "HEAD");
    match &told.route {
        Some(route) => {
            let what = format!(
                "{}   routes[{}], {}, ttl {}",
                route.path,
                route.index,
                route.access,
                humantime::format_duration(Duration::from_secs(route.ttl_seconds))
            );
            page.line("route", &what);
            for what in &route.going_out {
                page.line("", what);
            }
        }
        None if is_read && told.refused_with.is_none() => page.line("route", "none"),
        None => {}
    }
    if told.write.is_none() {
        passed_over(told, page);
    }
    if let Some(canonical) = &told.canonical {
        page.line("", &format!("it is kept when asked as {canonical}"));
    }
}

fn passed_over(told: &Explanation, page: &mut Page) {
    let matched = match &told.write {
        Some(write) => !write.rules.is_empty(),
        None => told.route.is_some(),
    };
    // Where one has matched, only those are of interest that nearly did.
    for other in told
        .passed_over
        .iter()
        .filter(|other| other.nearly || !matched)
    {
        page.line("", &format!("not {}: {}", other.path, other.why));
    }
}

fn write(told: &Explanation, write: &explain::Write, page: &mut Page) {
    for rule in &write.rules {
        let what = format!(
            "{} {}   purge[{}]: {}",
            rule.methods.join(" "),
            rule.path,
            rule.index,
            rule.keys.join(", ")
        );
        page.line("rule", &what);
    }
    match write.routes.as_slice() {
        _ if !write.rules.is_empty() => {}
        [] => page.line("rule", "none, and no route keeps this path"),
        routes => page.line(
            "rule",
            &format!(
                "none, but {} keeps this path, and a write to it drops it",
                routes.join(", ")
            ),
        ),
    }
    passed_over(told, page);
    if write.drops.is_empty() && !write.ends_verdict {
        page.line("drops", "nothing: it is only passed on");
        return;
    }
    for (n, family) in write.drops.iter().enumerate() {
        page.line(
            if n == 0 { "drops" } else { "" },
            &format!("{family}, all copies of it, everybody's"),
        );
    }
    if write.ends_verdict {
        let what = "what the API has said of this credential, and after a 401, too";
        page.line("ends", what);
    }
    if !write.states.is_empty() {
        page.line("states", &write.states.join(", "));
    }
    let not_after: Vec<String> = write.not_after.iter().map(u16::to_string).collect();
    page.line(
        "unless",
        &format!(
            "the API refuses it ({}), or it never left",
            not_after.join(" ")
        ),
    );
    if write.lag_seconds > 0.0 {
        page.line(
            "held",
            &format!(
                "for {} after the answer: what is read of it until then is not kept (`upstream.lag`)",
                humantime::format_duration(Duration::from_secs_f64(write.lag_seconds))
            ),
        );
    }
}

fn verdict(name: &str, verdict: Option<&Verdict>, page: &mut Page) {
    let Some(verdict) = verdict else { return };
    let word = match (verdict.may, &verdict.reason) {
        (true, _) => "yes".to_owned(),
        (false, Some(reason)) => format!("no ({reason})"),
        (false, None) => "no".to_owned(),
    };
    // Why not is said once, at the end.
    match (verdict.may, &verdict.reason) {
        (false, Some(_)) => page.line(name, &word),
        _ => page.line(name, &format!("{word}, {}", verdict.why)),
    }
}

fn found(told: &Explanation, by: Option<&str>, page: &mut Page) {
    if let Some(found) = &told.found {
        let by = by.unwrap_or_default();
        let what = match (&found.copy, found.valid, &found.reason) {
            (Some(copy), true, _) => format!(
                "a copy that is served: {}, {} bytes, {} s old, for {} s more",
                copy.status, copy.bytes, copy.age_seconds, copy.ttl_seconds
            ),
            (Some(copy), false, Some(reason)) => format!(
                "a copy that is not served ({reason}): {}, {} bytes, {} s old, of {}",
                copy.status, copy.bytes, copy.age_seconds, copy.origin
            ),
            (_, _, reason) => format!("no copy ({})", reason.as_deref().unwrap_or("absent")),
        };
        page.0.push('\n');
        page.line("found", &what);
        page.line("", by);
        for (state, now) in &found.states {
            let then = found.copy.as_ref().and_then(|copy| {
                let epoch = copy.epochs.iter().find(|(name, _)| name == state);
                epoch.map(|(_, epoch)| epoch)
            });
            let what = match then {
                Some(then) if then == now => format!("{state} {now}, as when it was fetched"),
                Some(then) => format!("{state} {now}; when it was fetched {then}"),
                None => format!("{state} {now}"),
            };
            page.line("", &what);
        }
    }
    if let Some(answer) = &told.answer {
        let kept = match (&answer.reason, answer.for_seconds) {
            (Some(reason), _) => format!("not kept ({reason})"),
            (None, Some(seconds)) => format!("kept for {seconds} s"),
            (None, None) => "kept".to_owned(),
        };
        let what = format!("{} after {} ms, {kept}", answer.status, answer.ms);
        page.line("the API says", &what);
        if !answer.varies_by.is_empty() {
            let what = format!(
                "it varies by {}: the key holds them once this was seen",
                answer.varies_by.join(", ")
            );
            page.line("", &what);
        }
        if !answer.unkeyed.is_empty() {
            let (names, remedy) = (answer.unkeyed.join(", "), storing::remedy(&answer.unkeyed));
            let what = format!("it varies by {names}: {remedy}");
            page.line("", &what);
        }
    }
}

/// Lines with a name at the margin.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, what: &str) {
        let line = format!("{name:<13}{what}");
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }
}

/// Reads `Name: value`, and `@file` with one such line after the other.
pub fn read_fields(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut fields = Vec::new();
    for field in given {
        let Some(file) = field.strip_prefix('@') else {
            fields.push(pair(field)?);
            continue;
        };
        let mut lines = String::new();
        let read = match file {
            "-" => std::io::stdin().read_to_string(&mut lines).map(drop),
            file => std::fs::read_to_string(file).map(|text| lines = text),
        };
        read.map_err(|error| Failure::Failed(format!("cannot read {file}: {error}")))?;
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            fields.push(pair(line)?);
        }
    }
    Ok(fields)
}

fn pair(field: &str) -> Result<(String, String), Failure> {
    // What stands there may be a secret: it is not repeated.
    let (name, value) = field.split_once(':').ok_or_else(|| {
        Failure::Failed("a field is written as for curl: -H 'Name: value'".to_owned())
    })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
