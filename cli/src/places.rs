//! Where rigc keeps files of its own, by the environment.

use std::path::PathBuf;

/// A folder by a variable, which may not be empty.
fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// What can be made again, such as machine code: `RIGC_CACHE`, else `rigc` in the folder of caches; none where the
/// environment names no folder.
pub fn cache() -> Option<PathBuf> {
    let caches = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    folder("RIGC_CACHE").or_else(|| Some(caches()?.join("rigc")))
}
