//! Logs: readable on a terminal, JSON elsewhere, to standard output.

#[cfg(feature = "otel")]
pub mod otel;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogFormat, Logs};

/// Where the level is changed while the process runs.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging as configured; RUST_LOG wins over `logs.level`.
pub fn start(logs: &Logs) {
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
                    .with_current_span(false),
            )
            .try_init(),
        false => registry
            .with(
                fmt::layer()
                    .with_target(false)
                    .with_ansi(std::io::stdout().is_terminal() && !says_no_colour),
            )
            .try_init(),
    };
    if let Ok(asked) = std::env::var(EnvFilter::DEFAULT_ENV)
        && let Err(error) = EnvFilter::try_new(&asked)
    {
        tracing::warn!("RUST_LOG is not heeded ({error}): write it like `info,larder=debug`");
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
