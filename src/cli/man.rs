//! `larder man`: the manual pages, one for each command.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, Failure};

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder man ~/.local/share/man/man1 && man larder-explain
  larder man man && man -l man/larder.1")]
pub struct Arguments {
    /// The directory, which is made if it is not there
    directory: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| {
            // `help` explains itself.
            let command = Cli::command().disable_help_subcommand(true);
            clap_mangen::generate_to(command, directory)
        })
        .map_err(|error| {
            let place = directory.display();
            Failure::Failed(format!("cannot write to {place}: {error}"))
        })
}
