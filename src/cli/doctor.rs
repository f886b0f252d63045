//! `larder doctor`: what is wrong with the surroundings, and what to do about it.

use clap::Args;
use serde_json::json;

use super::{ConfigFile, Failure, Output, explain};
use crate::config::file;
use crate::doctor::{self, Finding, Level, Requests};

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder doctor -c proxy.yaml
  larder doctor -H 'Host: api.example.org'         as your clients name it, for ALLOWED_HOSTS
  larder doctor --path /api/users/7/ -H 'Authorization: Token abc'
  larder doctor --json | jq '.checks[] | select(.level == \"wrong\")'

The API is asked with GETs alone, on the routes without a capture (/api/users/) and those of --path, and without a
credential unless -H gives one. In the store only keys under the prefix are written, and deleted again; of other keys
the names are looked at (SCAN), to know Celery's. No password, token or key is printed.

Exit status: 0 nothing is wrong (there may be warnings), 1 something is, 78 the file is.")]
pub struct Arguments {
    /// A path to ask the API for, beside the routes' own
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// A field of each request to the API, as for curl: 'Name: value', or @FILE with one a line
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    fields: Vec<String>,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let path = &arguments.file.config;
    let loaded =
        file::load(path, &environment).map_err(|error| Failure::Config(error.to_string()))?;
    let requests = Requests {
        paths: arguments.paths.clone(),
        fields: explain::read_fields(&arguments.fields)?,
    };
    let mut findings: Vec<Finding> = Vec::new();
    let mut tell = |finding: Finding| {
        if !arguments.output.json {
            println!("{}", line(&finding));
        }
        findings.push(finding);
    };
    let config = &loaded.config;
    let warnings = loaded.warnings.iter().map(|warning| {
        let text = warning.trim_end().replace('\n', " ");
        doctor::warning("file", text, "see `larder check`")
    });
    let rules = format!(
        "{}: {} routes, {} purge rules",
        path.display(),
        config.routes.len(),
        config.purge.len()
    );
    std::iter::once(doctor::ok("file", rules))
        .chain(warnings)
        .for_each(&mut tell);
    super::runtime()?.block_on(doctor::examine(config, &requests, &mut tell));

    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (wrong, warnings) = (count(Level::Wrong), count(Level::Warning));
    if arguments.output.json {
        let told = json!({ "checks": findings, "wrong": wrong, "warnings": warnings });
        println!(
            "{}",
            serde_json::to_string_pretty(&told).unwrap_or_default()
        );
    }
    match wrong {
        0 => {
            if !arguments.output.json {
                println!("\nnothing is wrong ({warnings} warnings)");
            }
            Ok(())
        }
        wrong => Err(Failure::Failed(format!(
            "\n{wrong} wrong, {warnings} warnings"
        ))),
    }
}

/// One line, with its remedy.
fn line(finding: &Finding) -> String {
    let Finding {
        code,
        level,
        seen,
        remedy,
    } = finding;
    let remedy = remedy
        .as_ref()
        .map_or_else(String::new, |remedy| format!(" → {remedy}"));
    format!("{:<8} {code:<20} {seen}{remedy}", level.word())
}
