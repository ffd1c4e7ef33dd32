//! Replacing a directory in one step; room on a file system.

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

/// Bytes that this process can still write to the file system of an existing file or directory.
pub fn available(path: &Path) -> Result<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain numbers, for which zero is valid; the path ends with a zero byte and outlives the call,
    // which writes no more than the structure.
    let (failed, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat) != 0, stat)
    };
    if failed { Err(Error::last_os_error()) } else { Ok(stat.f_bavail.saturating_mul(stat.f_frsize)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room() {
        assert!(available(Path::new(".")).unwrap() > 0);
        assert!(available(Path::new("/nowhere")).is_err());
    }
}
