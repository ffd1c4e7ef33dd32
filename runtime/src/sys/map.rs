//! Files mapped into memory, read-only.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// A whole file as bytes, paged in when touched.
#[derive(Debug)]
pub struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps a regular file that is not empty.
    pub fn open(path: &Path) -> Result<Mapping> {
        let kind = std::fs::metadata(path)?;
        if kind.is_dir() {
            return Err(Error::new(ErrorKind::IsADirectory, "it is a directory"));
        }
        if !kind.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if kind.len() == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "it is empty"));
        }
        let file = std::fs::File::open(path)?;
        // SAFETY: the mapping is read-only and private to this value. That nobody changes the file meanwhile is the
        // user's part, as for every program that maps its input: changed bytes give wrong numbers, which nothing here or
        // above uses as an address or a length once the header is parsed; a file cut short ends the process by a signal.
        let map = unsafe { memmap2::MmapOptions::new().map(&file)? };
        Ok(Mapping(map))
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the pages of `len` bytes from `offset` out of this process's memory; they are read again when touched.
    pub fn release(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        if offset.checked_add(len).is_some_and(|end| end <= self.0.len()) {
            // SAFETY: the mapping is of a file and never written, so dropped pages come back with the same contents.
            // Advice only: failing means more memory in use.
            let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }

    /// Asks the system to read `len` bytes from `offset` ahead of their use; does nothing where it cannot.
    pub fn prefetch(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        if offset.checked_add(len).is_some_and(|end| end <= self.0.len()) {
            // Advice only: failing means reading later.
            let _ = self.0.advise_range(memmap2::Advice::WillNeed, offset, len);
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
