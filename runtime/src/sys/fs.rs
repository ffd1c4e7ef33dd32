//! Names of files: two exchanged, or a new one taken, in one step; files of a directory that keeps its contents when its
//! name goes to another. Room on a file system.

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Swaps the names of two existing files or directories of one file system, so that at every moment both exist.
pub fn exchange(a: &Path, b: &Path) -> Result<()> {
    rename(a, b, libc::RENAME_EXCHANGE)
}

/// Gives the file or directory `from` the name `to`, if nothing has it.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if something has the name; that of the system.
pub fn rename_to_new(from: &Path, to: &Path) -> Result<()> {
    match rename(from, to, libc::RENAME_NOREPLACE) {
        // File systems that cannot do it in one step.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            match std::fs::symlink_metadata(to) {
                Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => std::fs::rename(from, to),
            }
        }
        result => result,
    }
}

fn rename(from: &Path, to: &Path, flags: libc::c_uint) -> Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both strings end with a zero byte and outlive the call.
    let failed = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) != 0 };
    if failed { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Opens the regular file `name` of an open directory, wherever that is by now.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for what is no regular file; that of the system.
pub fn open_in(dir: &File, name: &str) -> Result<File> {
    let name = CString::new(name)?;
    // A pipe that is opened so is not waited for.
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the name ends with a zero byte and outlives the call; a descriptor that is returned belongs to nobody else.
    let file = unsafe {
        match libc::openat(dir.as_raw_fd(), name.as_ptr(), flags) {
            -1 => return Err(Error::last_os_error()),
            descriptor => File::from_raw_fd(descriptor),
        }
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// Bytes that this process can still write to the file system of an existing file or directory.
pub fn available(path: &Path) -> Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
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
