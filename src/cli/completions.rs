//! `larder completions`: what completes these commands in a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder completions bash | sudo tee /usr/share/bash-completion/completions/larder > /dev/null
  larder completions zsh > ~/.zfunc/_larder             with `fpath+=~/.zfunc` before `compinit` in .zshrc
  larder completions fish > ~/.config/fish/completions/larder.fish")]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "larder", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    Ok(())
}
