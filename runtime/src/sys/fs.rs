//! Replacing a directory in one step.

use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Swaps the names of two existing files or directories of one file system, so that at every moment both exist.
pub fn exchange(a: &Path, b: &Path) -> Result<()> {
    let a = std::ffi::CString::new(a.as_os_str().as_bytes())?;
    let b = std::ffi::CString::new(b.as_os_str().as_bytes())?;
    // SAFETY: both strings end with a zero byte and outlive the call.
    let failed =
        unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) != 0 };
    if failed { Err(Error::last_os_error()) } else { Ok(()) }
}
