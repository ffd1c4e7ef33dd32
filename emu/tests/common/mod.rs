//! What the tests share.

use std::path::{Path, PathBuf};

/// The folder `sub` of the shared test data: `$RIGC_SHARED`, or `../shared` beside the workspace. `None`, saying so on
/// stderr, if it is missing and nobody requires it.
pub fn shared_dir(sub: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RIGC_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let dir = root.join(sub);
    if dir.is_dir() {
        return Some(dir);
    }
    let required = std::env::var("RIGC_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item.trim() == "shared"));
    assert!(!required, "{} is required and missing", dir.display());
    eprintln!("skipped: {} is missing", dir.display());
    None
}
