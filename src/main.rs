//! The command line. Exit status 0: done; 1: it could not be done; 2: the command line is wrong; 78: the
//! configuration is (EX_CONFIG).

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::cli::main()
}
