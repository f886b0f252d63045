//! `larder top`: what a running instance does, live in the terminal.

use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use clap::Args;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Print;
use crossterm::terminal::{
    self, Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{execute, queue};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{ConfigFile, Failure, Output, by_hand};
use crate::clock;
use crate::top::{LastPurges, Screen, Totals, between, page};

/// So many purges are asked for.
const PURGES: usize = 10;

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder top                               live; q ends it
  larder top --once                        one look, over --interval: for a pipe or a ticket
  larder top --json | jq -r '[.requests_per_second, .hit_ratio] | @tsv'
  larder top --once --json | jq '.routes[] | {route, hit_ratio, reasons}'

It asks the instance at `admin` twice and shows what came between; times are the bounds of the buckets they fall in.
Where standard output is no terminal it is as with --once.")]
pub struct Arguments {
    /// Look once, and say it as text
    #[arg(long)]
    once: bool,
    /// Between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    file: ConfigFile,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = crate::config::file::duration(text)?;
    match (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        true => Ok(interval),
        false => Err("between 100ms and 1h".to_owned()),
    }
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = super::load(&arguments.file.config)?;
    let mut watch = Watch::of(by_hand::Admin::of(&config)?)?;
    if arguments.output.json {
        loop {
            std::thread::sleep(arguments.interval);
            let told = serde_json::to_string(&watch.look()?).unwrap_or_default();
            // Whoever read it has gone: that is an end, too.
            if writeln!(std::io::stdout(), "{told}").is_err() || arguments.once {
                return Ok(());
            }
        }
    }
    if arguments.once || !std::io::stdout().is_terminal() {
        std::thread::sleep(arguments.interval);
        let screen = watch.look()?;
        for line in page::lines(&screen, &watch.admin.address.to_string(), 200, usize::MAX) {
            println!("{}", line.trim_end());
        }
        return Ok(());
    }
    live(&mut watch, arguments.interval)
}

/// An instance, and how it stood when it was last looked at.
struct Watch {
    admin: by_hand::Admin,
    then: Totals,
    at: Instant,
}

impl Watch {
    fn of(admin: by_hand::Admin) -> Result<Watch, Failure> {
        let at = clock::stopwatch();
        let then = asked(&admin, "/overview")?;
        Ok(Watch { admin, then, at })
    }

    fn look(&mut self) -> Result<Screen, Failure> {
        let at = clock::stopwatch();
        let now: Totals = asked(&self.admin, "/overview")?;
        let purges: LastPurges = asked(&self.admin, &format!("/purges?limit={PURGES}"))?;
        let screen = between(&self.then, &now, at - self.at, purges);
        (self.then, self.at) = (now, at);
        Ok(screen)
    }
}

fn asked<T: DeserializeOwned>(admin: &by_hand::Admin, path: &str) -> Result<T, Failure> {
    let (status, body) = admin.ask(Method::GET, path, Vec::new())?;
    let address = admin.address;
    if status == StatusCode::NOT_FOUND {
        return Err(Failure::Failed(format!(
            "the instance at {address} is of an older version, which has no {path}"
        )));
    }
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        let why = told["detail"].as_str().unwrap_or(status.as_str());
        return Err(admin.refusal(status, format!("{address}: {why}")));
    }
    serde_json::from_value(told).map_err(|error| {
        Failure::Failed(format!(
            "the instance at {address} is of another version: {error}"
        ))
    })
}

/// Draws anew at each interval, until somebody presses q or a signal comes.
fn live(watch: &mut Watch, interval: Duration) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::Failed(format!("the terminal: {error}"));
    let mut ends = ends()?;
    let taken = Terminal::taken().map_err(fail)?;
    let place = watch.admin.address.to_string();
    let mut shown = vec![format!(
        "larder at {place}: the first look takes {}",
        humantime::format_duration(interval)
    )];
    let ended = loop {
        draw(&shown).map_err(fail)?;
        match ends.wait(interval) {
            Waited::Ended => break Ok(()),
            Waited::Again => {}
        }
        shown = match watch.look() {
            Ok(screen) => {
                let (columns, rows) = match terminal::size() {
                    Ok((columns @ 1.., rows @ 1..)) => (columns, rows),
                    // Some terminals do not say.
                    Ok(_) | Err(_) => (80, 24),
                };
                page::lines(&screen, &place, columns.into(), rows.into())
            }
            // It may be restarted just now: whoever watches wants to see it come back.
            Err(why) => vec![why.to_string(), String::new(), "q ends it".to_owned()],
        };
    };
    drop(taken);
    ended
}

fn draw(lines: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (row, line) in lines.iter().enumerate() {
        let row = u16::try_from(row).unwrap_or(u16::MAX);
        queue!(
            out,
            MoveTo(0, row),
            Print(line),
            Clear(ClearType::UntilNewLine)
        )?;
    }
    queue!(out, Clear(ClearType::FromCursorDown))?;
    out.flush()
}

/// A terminal that is ours, and is given back as it was, whatever happens.
struct Terminal;

impl Terminal {
    fn taken() -> std::io::Result<Terminal> {
        terminal::enable_raw_mode()?;
        let taken = Terminal;
        execute!(
            std::io::stdout(),
            EnterAlternateScreen,
            Hide,
            DisableLineWrap
        )?;
        Ok(taken)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = execute!(
            std::io::stdout(),
            EnableLineWrap,
            Show,
            LeaveAlternateScreen
        );
        let _ = terminal::disable_raw_mode();
    }
}

enum Waited {
    Again,
    Ended,
}

/// What ends it: a key or a signal.
struct Ends {
    runtime: tokio::runtime::Runtime,
    ended: mpsc::Receiver<()>,
}

impl Ends {
    fn wait(&mut self, interval: Duration) -> Waited {
        let ended = &mut self.ended;
        let waited = self
            .runtime
            .block_on(async { tokio::time::timeout(interval, ended.recv()).await });
        match waited {
            Ok(_) => Waited::Ended,
            Err(_) => Waited::Again,
        }
    }
}

fn ends() -> Result<Ends, Failure> {
    let runtime = super::runtime()?;
    let (tell, ended) = mpsc::channel(1);
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let _in_it = runtime.enter();
        let heard = signal(kind).map_err(|error| Failure::Failed(error.to_string()))?;
        let tell = tell.clone();
        runtime.spawn(async move {
            let mut heard = heard;
            heard.recv().await;
            let _ = tell.send(()).await;
        });
    }
    // It ends with the process: a read of the keyboard cannot be called off.
    std::thread::spawn(move || {
        for key in std::io::stdin().lock().bytes() {
            // q, Ctrl-C, Ctrl-D: in raw mode they are no signals. Escape begins what other keys send.
            if matches!(key, Ok(b'q' | b'Q' | 3 | 4) | Err(_)) {
                break;
            }
        }
        let _ = tell.blocking_send(());
    });
    Ok(Ends { runtime, ended })
}
