//! The binary under test.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// That of `LARDER`, or what cargo has built beside the test. Some tests run it by its name from its folder, or name it in a unit
/// file: another build is to be called `larder`, in a folder without a space.
pub fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let Some(file) = std::env::var_os("LARDER") else {
            return env!("CARGO_BIN_EXE_larder").into();
        };
        let file = std::path::absolute(file).expect("LARDER");
        let is_one = file.is_file() && file.ends_with("larder");
        assert!(
            is_one,
            "LARDER: there is no {} called larder",
            file.display()
        );
        file
    });
    &BINARY
}
