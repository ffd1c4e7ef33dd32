//! What the tests share: where test data is, golden outputs and how they are compared, models of random weights, damage.
#![forbid(unsafe_code)]

pub mod assembler;
pub mod attention;
pub mod card;
pub mod damage;
pub mod filetest;
pub mod golden;
pub mod kernels;
pub mod model;
pub mod npy;
pub mod run;
pub mod standin;
pub mod synthetic;

use std::path::{Path, PathBuf};

/// The folder `sub` of the shared test data: `$RIGC_SHARED`, or `../shared` beside the workspace. `None`, saying so on
/// stderr, where it is missing and `$RIGC_REQUIRE` does not list `shared`.
///
/// # Panics
/// If it is missing and required.
pub fn shared_dir(sub: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RIGC_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let dir = root.join(sub);
    if dir.is_dir() {
        return Some(dir);
    }
    missing("shared", &dir.display().to_string());
    None
}

/// Says on stderr that a test is skipped, because `what` is missing.
///
/// # Panics
/// If `$RIGC_REQUIRE` lists `kind`.
pub fn missing(kind: &str, what: &str) {
    let required = std::env::var("RIGC_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item.trim() == kind));
    assert!(!required, "{what} is required and missing");
    eprintln!("skipped: {what} is missing");
}

/// The `.gguf` files of a folder, in order of their names.
///
/// # Panics
/// If it cannot be read.
pub fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    files
}
