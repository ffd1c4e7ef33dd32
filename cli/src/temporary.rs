//! Files that get their name when they are whole.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How many names of other processes' files are passed over.
const ATTEMPTS: u32 = 100;

/// A new file beside another, removed when dropped unless it has got its name.
pub struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// A file in the folder of `path`, which only this user can read until it is given other permissions.
    pub fn beside(path: &Path) -> Result<Temporary> {
        Self::with_mode(path, 0o600)
    }

    /// As [`beside`](Self::beside), with the permissions that the user's files have.
    pub fn public(path: &Path) -> Result<Temporary> {
        Self::with_mode(path, 0o666)
    }

    fn with_mode(path: &Path, mode: u32) -> Result<Temporary> {
        for attempt in 0..ATTEMPTS {
            let path = path.with_file_name(format!(".rigc-{}-{attempt}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
                Ok(file) => return Ok(Temporary { path, file }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// The file, to write.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file, which is whole, the name `path`, in place of what has it.
    pub fn replace(self, path: &Path) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)
    }

    /// As [`replace`](Self::replace), but fails if something has the name.
    pub fn create(self, path: &Path) -> Result<()> {
        self.file.sync_all()?;
        runtime::sys::fs::rename_to_new(&self.path, path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the renaming there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}
