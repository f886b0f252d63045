//! `larder init`: writes a proxy.yaml, from the API's own description or from a few answers.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Output, print_json};
use crate::init::schema::{self, Api, Converter};
use crate::init::{self, Access, Wanted, Written};
use crate::text::one_line;

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder init --openapi schema.yaml                    from what `manage.py spectacular --file schema.yaml` writes
  larder init                                          asks, on a terminal
  larder init --yes --upstream http://127.0.0.1:8000 --users-path /api/users/ --prefix it360acad
  larder init --openapi schema.json --access verify --verify /api/users/me/ -c - | less

GET paths that are a list, or one thing of a list, become routes; the writes beside and beneath them, and those whose
content the description shows in them, become what drops them. Each line says why it stands there. What is not described
costs a fetch, and never serves the past: read the file once, then `larder check` and `larder doctor`.")]
pub struct Arguments {
    /// The API's description, OpenAPI 3.0 or 3.1 in YAML or JSON (- for standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "users_path")]
    openapi: Option<PathBuf>,
    /// Where it is written; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "proxy.yaml")]
    config: PathBuf,
    /// Where the API is
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The environment variable that holds the URL of Redis
    #[arg(long, value_name = "NAME")]
    redis_env: Option<String>,
    /// Before every key in the store
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Without a description: the path of the list; one of it is beneath, by a number
    #[arg(long, value_name = "PATH")]
    users_path: Option<String>,
    /// Who is given which copy; without it, what the description says, else per-credential
    #[arg(long, value_enum)]
    access: Option<AccessWord>,
    /// With --access verify: what the API is asked to know who is admitted
    #[arg(long, value_name = "PATH")]
    verify: Option<String>,
    /// Ask nothing: what no option says is as it is by default
    #[arg(long)]
    yes: bool,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AccessWord {
    PerCredential,
    Public,
    Verify,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let to_stdout = arguments.config.as_os_str() == "-";
    // Before anybody is asked anything.
    if !to_stdout && !arguments.force && arguments.config.symlink_metadata().is_ok() {
        return Err(exists(&arguments.config));
    }
    let api = arguments.openapi.as_deref().map(described).transpose()?;
    let asks = !arguments.yes && !arguments.output.json && std::io::stdin().is_terminal();
    if api.is_none() && !asks && !arguments.yes {
        return Err(Failure::Failed(
            "there is no terminal to ask at: give --openapi FILE, or --yes and what is not as by default (--upstream, --redis-env, --prefix, --users-path, --access)".to_owned(),
        ));
    }
    let written = answered(arguments, api, asks)?;
    if !to_stdout {
        place(&arguments.config, &written.text, arguments.force)?;
    }
    match (arguments.output.json, to_stdout) {
        (true, false) => print_json(&facts(&arguments.config, &written)),
        (true, true) => {
            let mut told = facts(&arguments.config, &written);
            told["text"] = written.text.into();
            print_json(&told);
        }
        (false, false) => print!("{}", told(&arguments.config, &written, false)),
        (false, true) => {
            print!("{}", written.text);
            eprint!("{}", told(&arguments.config, &written, true));
        }
    }
    Ok(())
}

fn described(path: &Path) -> Result<Api, Failure> {
    let name = path.display().to_string();
    let fail = |why: String| Failure::Failed(format!("{name}: {why}"));
    if name.starts_with("http://") || name.starts_with("https://") {
        return Err(fail(format!(
            "a URL, and a file is read here\nhelp: curl -o schema.yaml '{name}'"
        )));
    }
    let most = schema::LARGEST as u64 + 1;
    let mut bytes = Vec::new();
    let read = match name.as_str() {
        "-" => std::io::stdin().take(most).read_to_end(&mut bytes),
        _ => std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
    };
    read.map_err(|error| {
        fail(format!(
            "cannot be read: {error}\nhelp: write it with `python manage.py spectacular --file schema.yaml`"
        ))
    })?;
    schema::read(&bytes).map_err(|error| fail(error.to_string()))
}

/// What the options say, and what is asked for where they say nothing.
fn answered(arguments: &Arguments, api: Option<Api>, asks: bool) -> Result<Written, Failure> {
    let verify = match (arguments.access, &arguments.verify) {
        (Some(AccessWord::Verify), None) => {
            let found = api
                .as_ref()
                .and_then(|api| init::rules::plan(api, None).verify);
            Some(found.ok_or_else(|| Failure::Failed(
                "--access verify needs --verify PATH: what the API answers 2xx to whoever may see the list, like /api/users/me/".to_owned(),
            ))?)
        }
        (Some(AccessWord::Verify) | None, path) => path.clone(),
        (Some(_), Some(_)) => {
            return Err(Failure::Failed(
                "--verify goes with --access verify".to_owned(),
            ));
        }
        (Some(_), None) => None,
    };
    let access = match (arguments.access, verify) {
        (Some(AccessWord::PerCredential), _) => Some(Access::PerCredential),
        (Some(AccessWord::Public), _) => Some(Access::Public),
        (_, Some(path)) => Some(Access::Verify(path)),
        (_, None) => None,
    };
    let from = match &arguments.openapi {
        Some(path) => path
            .file_name()
            .unwrap_or(path.as_os_str())
            .display()
            .to_string(),
        None if asks => "your answers".to_owned(),
        None => "its options".to_owned(),
    };
    let given = |value: &Option<String>, default: &str| value.clone().unwrap_or(default.to_owned());
    let title = api.as_ref().map_or("", |api| &api.title);
    let mut wanted = Wanted {
        from,
        upstream: given(&arguments.upstream, "http://127.0.0.1:8000"),
        redis_env: given(&arguments.redis_env, "REDIS_URL"),
        prefix: given(&arguments.prefix, &slug(title)),
        access,
    };
    let mut path = given(&arguments.users_path, "/api/users/");
    let made = |wanted: &Wanted, path: &str| match &api {
        Some(api) => checked(api, wanted),
        None => checked(&listed(path)?, wanted),
    };
    if !asks {
        return made(&wanted, &path).map_err(Failure::Failed);
    }
    eprintln!("Enter takes what stands in brackets.\n");
    let mut terminal = std::io::stdin().lock();
    let mut ask =
        |question: &str, default: &str, take: &mut dyn FnMut(&str) -> Result<(), String>| {
            question_until(&mut terminal, question, default, take)
        };
    if arguments.upstream.is_none() {
        ask("Where is the API?", &wanted.upstream.clone(), &mut |text| {
            wanted.upstream = text.to_owned();
            made(&wanted, &path).map(drop)
        })?;
    }
    if arguments.redis_env.is_none() {
        let question = "Which environment variable holds the URL of Redis (while it is not set, the proxy's own memory is used)?";
        ask(question, &wanted.redis_env.clone(), &mut |text| {
            wanted.redis_env = text.to_owned();
            made(&wanted, &path).map(drop)
        })?;
    }
    if arguments.prefix.is_none() {
        let question = "Which prefix has every key in it?";
        ask(question, &wanted.prefix.clone(), &mut |text| {
            wanted.prefix = text.to_owned();
            made(&wanted, &path).map(drop)
        })?;
    }
    if api.is_none() && arguments.users_path.is_none() {
        ask(
            "Which path is the list of users at?",
            &path.clone(),
            &mut |text| {
                path = text.to_owned();
                made(&wanted, &path).map(drop)
            },
        )?;
    }
    if wanted.access.is_none() {
        let by_schema = api.as_ref().map_or("per-credential", |_| "as described");
        let question = "Who is given which copy: `per-credential` (each their own), `public` (one for all, fetched without a credential), or a path like /api/users/me/ that the API answers to whoever may see it (one for all of them)?";
        ask(question, by_schema, &mut |text| {
            wanted.access = match text {
                "as described" => None,
                "per-credential" => Some(Access::PerCredential),
                "public" => Some(Access::Public),
                path if path.starts_with('/') => Some(Access::Verify(path.to_owned())),
                other => return Err(format!("`{other}` is none of these")),
            };
            made(&wanted, &path).map(drop)
        })?;
    }
    made(&wanted, &path).map_err(Failure::Failed)
}

/// Asks until the answer will do.
fn question_until(
    terminal: &mut impl BufRead,
    question: &str,
    default: &str,
    take: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<(), Failure> {
    loop {
        eprint!("{question}\n[{default}] ");
        let mut line = String::new();
        let read = terminal.read_line(&mut line);
        let read =
            read.map_err(|error| Failure::Failed(format!("cannot read an answer: {error}")))?;
        if read == 0 {
            return Err(Failure::Failed(
                "no answer, and nothing is written".to_owned(),
            ));
        }
        let answer = match line.trim() {
            "" => default,
            answer => answer,
        };
        match take(answer) {
            Ok(()) => return Ok(()),
            Err(why) => eprintln!("{}\n", why.trim_end()),
        }
    }
}

fn listed(path: &str) -> Result<Api, String> {
    let plain = path.starts_with('/')
        && !path.trim_matches('/').is_empty()
        && !path.contains(['<', '{', '?']);
    match plain {
        true => Ok(init::collection(path, Converter::Int)),
        false => Err(format!(
            "`{path}` is no path of a list: write it as clients ask for it, like /api/users/"
        )),
    }
}

fn checked(api: &Api, wanted: &Wanted) -> Result<Written, String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !is_name(&wanted.redis_env) {
        // Whoever gave the URL itself gave a password: it is not repeated.
        return Err("this is no name of an environment variable: give its name, like REDIS_URL, and not what it holds".to_owned());
    }
    init::write(api, wanted)
}

/// `Users API` → `users-api`
fn slug(title: &str) -> String {
    let lower = title.to_ascii_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let slug: String = words.join("-").chars().take(40).collect();
    match slug.is_empty() {
        true => "larder".to_owned(),
        false => slug,
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Failed(format!(
        "{} is there already, and is left as it is: --force writes over it, -c FILE elsewhere",
        path.display()
    ))
}

/// Whole or not at all; without --force, never in the place of another.
fn place(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let fail = |error: std::io::Error| {
        Failure::Failed(format!("{} cannot be written: {error}", path.display()))
    };
    // A link stays one.
    let path = &path.canonicalize().unwrap_or(path.to_owned());
    let name = path.file_name().unwrap_or_default().display().to_string();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let done = (|| {
        let mut file = std::fs::File::create_new(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match force {
            true => {
                if let Ok(old) = std::fs::metadata(path) {
                    file.set_permissions(old.permissions())?;
                }
                std::fs::rename(&beside, path)
            }
            // A rename would replace what somebody else has put there meanwhile.
            false => match std::fs::hard_link(&beside, path) {
                // Some file systems have no links; there, whoever comes first makes the file.
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    std::fs::File::create_new(path)?.write_all(text.as_bytes())
                }
                done => done,
            },
        }
    })();
    // After a rename it is gone.
    let _ = std::fs::remove_file(&beside);
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        done => done.map_err(fail),
    }
}

fn told(path: &Path, written: &Written, to_stdout: bool) -> String {
    let plan = &written.plan;
    let file = path.display();
    let mut told = match to_stdout {
        true => String::new(),
        false => format!("{file} is written: "),
    };
    told += &format!(
        "{} routes, {} rules for writes\n",
        plan.routes.len(),
        plan.rules.len()
    );
    for (path, why) in &plan.left_out {
        told += &format!("not kept: GET {} ({why})\n", one_line(path));
    }
    if !plan.idle.is_empty() {
        told += &format!("drop nothing: {}\n", one_line(&plan.idle.join(", ")));
    }
    if !to_stdout {
        told += &format!(
            "\nnext:\n  larder check -c {file}\n  larder doctor -c {file}\n  larder serve -c {file}\n"
        );
    }
    told
}

fn facts(path: &Path, written: &Written) -> Value {
    let plan = &written.plan;
    let routes: Vec<Value> = { plan.routes.iter() }
        .map(|route| {
            let access = match &route.access {
                Access::PerCredential => "per-credential",
                Access::Public => "public",
                Access::Verify(_) => "verify",
            };
            json!({ "path": route.path.as_str(), "key": route.key, "access": access, "query": route.query, "vary": route.vary })
        })
        .collect();
    let rules: Vec<Value> = { plan.rules.iter() }
        .map(|rule| {
            let methods: Vec<&str> = rule.methods.iter().map(http::Method::as_str).collect();
            json!({ "methods": methods, "path": rule.path.as_str(), "keys": rule.keys })
        })
        .collect();
    let left_out: Vec<Value> = { plan.left_out.iter() }
        .map(|(path, why)| json!({ "path": path, "why": why }))
        .collect();
    json!({
        "file": path.display().to_string(),
        "routes": routes,
        "purge": rules,
        "not_kept": left_out,
        "drop_nothing": plan.idle,
    })
}
