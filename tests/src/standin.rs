//! Programs on the stand-in for NVIDIA's driver: where its library is, and what its traces say.

use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with the library that cargo has built, under both of its names.
///
/// # Panics
/// If there is none: it comes with the tests of the whole workspace.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_else(|e| panic!("{e}"));
    let deps = exe.parent().unwrap_or(Path::new("."));
    let places = [deps.join("libcuda.so"), deps.join("../libcuda.so")];
    let built = places.iter().filter_map(|p| std::fs::canonicalize(p).ok()).next();
    let built = built.unwrap_or_else(|| {
        panic!("cargo built no libcuda.so in {places:?}; run cargo build --release -p rigc-emu-driver")
    });
    let folder = deps.join("standin");
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{e}"));
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        if std::fs::read_link(&link).ok().as_deref() != Some(&*built) {
            _ = std::fs::remove_file(&link);
            // Another test may have been faster.
            _ = std::os::unix::fs::symlink(&built, &link);
        }
    }
    folder
}

/// Lets a program find the stand-in, with these settings.
pub fn on(command: &mut Command, settings: &str) {
    command.env("LD_LIBRARY_PATH", library()).env("CUDA_STANDIN", settings);
}

/// A call in a trace.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// Its number.
    pub n: usize,
    /// The function.
    pub call: String,
    /// What it answered.
    pub result: i32,
}

/// The calls of a trace, and what its last line says was held at the end.
///
/// # Panics
/// If it is no trace.
pub fn trace(path: &Path) -> (Vec<Call>, Vec<serde_json::Value>) {
    #[derive(Deserialize)]
    struct Last {
        held: Vec<serde_json::Value>,
    }
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines: Vec<&str> = text.lines().collect();
    let last: Last = serde_json::from_str(lines.pop().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}"));
    let calls = lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    (calls.collect(), last.held)
}
