//! Logs: readable on a terminal, JSON elsewhere, to standard output. Whoever says something waits for nobody who reads it.

mod lines;
#[cfg(feature = "otel")]
pub mod otel;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogFormat, Logs};
use lines::Lines;

/// Where the level is changed while the process runs.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

static LOG: Lines = Lines::new();

/// Standard error, of a process that logs.
static COMPLAINTS: Lines = Lines::new();

/// A log that has been started: what was said is written at its end.
#[must_use]
pub struct Log(());

impl Drop for Log {
    fn drop(&mut self) {
        LOG.finish();
        COMPLAINTS.finish();
    }
}

/// Starts logging as configured; RUST_LOG wins over `logs.level`.
pub fn start(logs: &Logs) -> io::Result<Log> {
    // Past the library's own locks, which would be held for as long as a reader does not read.
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let err = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    LOG.write_to("log", out, missing, |error| {
        let why =
            format!("the log cannot be written ({error}): until it can, its lines are lost\n");
        COMPLAINTS.say(why.as_bytes());
    })?;
    COMPLAINTS.write_to("complaints", err, |_| Vec::new(), |_| {})?;
    let (filter, level) = reload::Layer::new(filter(logs));
    let _ = LEVEL.set(level);
    // What other crates say at debug and trace may hold what a client sent: they are heard up to info.
    // What h2 warns of is what any client can make it warn of, a thousand times a second.
    let ours = filter_fn(|event| {
        let most = match event.target() {
            target if target.starts_with("larder") => Level::TRACE,
            target if target.starts_with("h2::") => Level::ERROR,
            _ => Level::INFO,
        };
        *event.level() <= most
    });
    let registry = tracing_subscriber::registry().with(filter).with(ours);
    let json = match logs.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stdout().is_terminal(),
    };
    // https://no-color.org
    let says_no_colour = std::env::var_os("NO_COLOR").is_some_and(|word| !word.is_empty());
    // Err only says that logging was started before.
    let _ = match json {
        true => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_writer(|| Event),
            )
            .try_init(),
        false => registry
            .with(
                fmt::layer()
                    .with_target(false)
                    .with_writer(|| Event)
                    .with_ansi(std::io::stdout().is_terminal() && !says_no_colour),
            )
            .try_init(),
    };
    if let Ok(asked) = std::env::var(EnvFilter::DEFAULT_ENV)
        && let Err(error) = EnvFilter::try_new(&asked)
    {
        tracing::warn!("RUST_LOG is not heeded ({error}): write it like `info,larder=debug`");
    }
    Ok(Log(()))
}

/// On standard error, behind all that was said there before; waits for a moment at most for whoever reads that, once a log
/// has been started.
pub fn complain(words: &str) {
    if !has_started() {
        eprintln!("{words}");
        return;
    }
    COMPLAINTS.say(format!("{words}\n").as_bytes());
    COMPLAINTS.finish();
}

pub fn has_started() -> bool {
    LEVEL.get().is_some()
}

/// Lines of the log that nobody took in time.
pub fn lost_lines() -> u64 {
    LOG.lost()
}

thread_local! {
    /// What the log's own thread says is no line behind others: it stands where lines are missing.
    static OWN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

fn missing(lines: u64) -> Vec<u8> {
    OWN.set(Some(Vec::new()));
    tracing::warn!(
        lines,
        "lines of the log were lost here: its reader took none for a while, or its disk was full"
    );
    OWN.take().unwrap_or_default()
}

/// Where an event goes once it is worded, whole.
struct Event;

impl Write for Event {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        OWN.with_borrow_mut(|own| match own {
            Some(own) => own.extend_from_slice(line),
            None => LOG.say(line),
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Another level from now on, unless RUST_LOG says which.
pub fn set_level(logs: &Logs) {
    if let Some(level) = LEVEL.get() {
        // Err only says that logging has ended.
        let _ = level.reload(filter(logs));
    }
}

fn filter(logs: &Logs) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&logs.level))
}
