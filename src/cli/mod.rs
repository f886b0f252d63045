//! The commands, one file each; here is what they share.

pub mod against;
pub mod by_hand;
pub mod check;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod health;
pub mod init;
pub mod man;
pub mod reload;
pub mod serve;
pub mod top;
pub mod warm;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::config::file;
use crate::config::{Config, Logs};
use crate::telemetry::{self, Log};

/// A caching reverse proxy for REST APIs that is never stale after a write.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
Try it:   larder demo
Begin:    larder init --openapi schema.yaml
Run it:   larder serve -c proxy.yaml
Is something wrong?           larder doctor
What does it do just now?     larder top
Why was it (not) cached?      larder explain '/api/users/?page=2' -H 'Authorization: …' [--ask]
A key is written as in redis-cli, with or without the prefix (users:list), or as a path (/api/users/7/).
Exit status: 0 done; 1 it could not be done, or what was asked for is not so; 2 the command line is wrong; 78 the file is.
With --json, errors are JSON, too, on standard error."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it: a small users API, the proxy in front of it and the embedded store, all in this process
    Demo(demo::Arguments),
    /// Write a proxy.yaml: from the API's own description (OpenAPI), by questions on a terminal, or by options
    Init(init::Arguments),
    /// Run the proxy
    Serve(serve::Arguments),
    /// Read the file as `serve` would, and say what is wrong or what it would do; connects to nothing, but for --against:
    /// is what a running proxy keeps what the API says?
    Check(against::Arguments),
    /// Say what becomes of a request, and why: which route and key, may it be kept, what drops it
    Explain(explain::Arguments),
    /// Show what a running instance does, live in the terminal: requests, hits, latency, store, upstream, hottest keys, purges
    Top(top::Arguments),
    /// Look at store, API and ports, and say what is wrong with them and what to do about it
    Doctor(doctor::Arguments),
    /// Print the copy at a key: its body to standard output, what is known of it to standard error
    Get(by_hand::Get),
    /// Put a JSON body from standard input there as the shared copy: on a `per-credential` route that of whoever asks
    /// without a credential
    Set(by_hand::Set),
    /// Drop all copies of what is named, in every query, credential and language
    Purge(by_hand::Purge),
    /// List the keys in the store
    Keys(by_hand::Keys),
    /// Ask a running instance for what is about to be wanted, so that its first reader is given a hit
    Warm(warm::Arguments),
    /// Have a running instance read its file again; exit status 0 if it has, else all stays as it was
    Reload(reload::Arguments),
    /// Ask a running instance whether it is well; exit status 0 if so
    Health(health::Arguments),
    /// Print what completes these commands in a shell
    Completions(completions::Arguments),
    /// Write the manual pages of these commands
    Man(man::Arguments),
}

impl Command {
    /// Whether what it says shall be JSON, errors too.
    fn says_json(&self) -> bool {
        match self {
            Command::Init(arguments) => arguments.output.json,
            Command::Check(arguments) => arguments.output.json,
            Command::Explain(arguments) => arguments.output.json,
            Command::Doctor(arguments) => arguments.output.json,
            Command::Top(arguments) => arguments.output.json,
            Command::Get(arguments) => arguments.output.json,
            Command::Set(arguments) => arguments.output.json,
            Command::Purge(arguments) => arguments.output.json,
            Command::Keys(arguments) => arguments.output.json,
            Command::Warm(arguments) => arguments.output.json,
            Command::Reload(arguments) => arguments.output.json,
            Command::Health(arguments) => arguments.output.json,
            Command::Demo(_) | Command::Serve(_) | Command::Completions(_) | Command::Man(_) => {
                false
            }
        }
    }
}

/// Where the configuration stands.
#[derive(Args, Clone)]
pub struct ConfigFile {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = "proxy.yaml")]
    pub config: PathBuf,
}

/// How a command says what it has to say.
#[derive(Args, Clone)]
pub struct Output {
    /// Print it as JSON, errors too (these to standard error); docs/COMMANDS.md has the shapes
    #[arg(long)]
    pub json: bool,
}

/// What ends a command early, and its exit status.
pub enum Failure {
    /// The configuration is wrong: 78.
    Config(String),
    /// It could not be done: 1.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(why) | Failure::Failed(why) => f.write_str(why),
        }
    }
}

/// Runs the command that was asked for.
pub fn main() -> ExitCode {
    end_with_the_reader();
    crate::tls::install_provider();
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return misused(&error),
    };
    let json = command.says_json();
    let done = match command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => against::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Get(arguments) => by_hand::get(&arguments),
        Command::Set(arguments) => by_hand::set(&arguments),
        Command::Purge(arguments) => by_hand::purge(&arguments),
        Command::Keys(arguments) => by_hand::keys(&arguments),
        Command::Warm(arguments) => warm::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(complain(&failure, json)),
    }
}

/// Says on standard error what could not be done. Gives the exit status that it comes to.
fn complain(failure: &Failure, json: bool) -> u8 {
    let (kind, status) = match failure {
        Failure::Config(_) => ("config", 78),
        Failure::Failed(_) => ("failed", 1),
    };
    let why = failure.to_string();
    match json {
        true => eprintln!("{}", error_json(kind, status, why.trim())),
        false => telemetry::complain(why.trim_end()),
    }
    status
}

/// A pipe whose reader has seen enough (`| head`) ends a command without a word, and with the status that the signal would
/// give it: what it had still to say is not known. What cannot be written for another reason (a full disk) was not done.
fn end_with_the_reader() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        let said = said.map_or("", String::as_str);
        match said.strip_prefix("failed printing to stdout: ") {
            Some(why) if why.starts_with("Broken pipe") => std::process::exit(141),
            Some(why) => {
                eprintln!("cannot write to standard output: {why}");
                std::process::exit(1);
            }
            // Whoever serves must not wait for long for whoever reads that.
            None if telemetry::has_started() => {
                let thread = std::thread::current();
                let name = thread.name().unwrap_or("<unnamed>");
                // As RUST_BACKTRACE says; empty without it.
                let backtrace = Backtrace::capture();
                let backtrace = match backtrace.status() {
                    BacktraceStatus::Captured => format!("\n{backtrace}"),
                    _ => String::new(),
                };
                telemetry::complain(&format!("thread '{name}' {panic}{backtrace}"));
            }
            None => otherwise(panic),
        }
    }));
}

/// A command line that says nothing that can be done, or asks for help.
fn misused(error: &clap::Error) -> ExitCode {
    let is_wrong =
        error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    // What stands behind `--` is no option.
    let json = { std::env::args_os().take_while(|argument| argument != "--") }
        .any(|argument| argument == "--json");
    match is_wrong && json {
        true => {
            let why = error.render().to_string();
            eprintln!("{}", error_json("usage", 2, why.trim()));
        }
        // As `exit` would; that nobody reads it is no reason to fail.
        false => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn error_json(kind: &str, exit: u8, message: &str) -> Value {
    json!({ "error": { "kind": kind, "exit": exit, "message": message } })
}

/// One document, for people who look at it, too.
fn print_json(told: &Value) {
    println!("{}", serde_json::to_string_pretty(told).unwrap_or_default());
}

/// Reads and checks the file for whoever only asks: without a word of what is only odd about it, and without the
/// certificates, which may be wrong, or another user's, while the instance that holds them is well.
fn load(path: &Path) -> Result<Config, Failure> {
    let over = file::Overrides {
        without_certificates: true,
        ..file::Overrides::default()
    };
    load_with(path, &over).map(|loaded| loaded.config)
}

/// As `load`, with what the command line says in place of the file's own words; warnings go to standard error.
fn load_over(path: &Path, over: &file::Overrides) -> Result<Config, Failure> {
    let loaded = load_with(path, over)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded.config)
}

/// The same, with the warnings.
fn load_with(path: &Path, over: &file::Overrides) -> Result<file::Loaded, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    file::load_with(path, &environment, over).map_err(|error| Failure::Config(error.to_string()))
}

/// Logs for as long as the value lives.
fn log(logs: &Logs) -> Result<Log, Failure> {
    telemetry::start(logs).map_err(|error| Failure::Failed(format!("cannot log: {error}")))
}

/// The runtime for commands that run as long as they are left to.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
}
