//! A wall clock of its own for the binary: one that is set forward and back while it runs, as `date --set` and NTP do.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::larder::LarderBuilder;

/// Put before the C library's own; `CLOCK_REALTIME` alone is off, by as many seconds as the file says.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char text[32] = {0};
        int file = open(getenv("SECONDS_OFF"), O_RDONLY | O_CLOEXEC);
        if (file >= 0 && read(file, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
        if (file >= 0) close(file);
    }
    return (int) result;
}
"#;

pub struct WallClock {
    directory: TempDir,
}

impl WallClock {
    pub fn new() -> WallClock {
        let directory = tempfile::tempdir().unwrap();
        let clock = WallClock { directory };
        let source = clock.path("shim.c");
        fs::write(&source, SHIM).unwrap();
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([clock.path("shim.so"), source])
            .status();
        assert!(made.unwrap().success());
        clock.is_off(0);
        clock
    }

    /// Whoever is started so goes by it.
    pub fn of(&self, larder: LarderBuilder) -> LarderBuilder {
        let [shim, off] = self.environment();
        larder.env(shim.0, shim.1).env(off.0, off.1)
    }

    /// The same for any command.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.path("shim.so")),
            ("SECONDS_OFF", self.path("off")),
        ]
    }

    /// By so many seconds it is ahead of this machine's from now on, or behind.
    pub fn is_off(&self, seconds: i64) {
        // In one step: it is read at every look.
        let (new, place) = (self.path("new"), self.path("off"));
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, place).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
