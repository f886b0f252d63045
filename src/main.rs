//! The command line. Exit status 0: done; 1: it could not be done; 2: the command line is wrong; 78: the
//! configuration is (EX_CONFIG).

use std::process::ExitCode;

/// What is freed on another core than it was made on, as a request's parts often are, costs glibc's a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    larder::cli::main()
}
