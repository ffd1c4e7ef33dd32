//! Files mapped into memory, read-only.

use super::signals;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::time::SystemTime;

/// A whole file as bytes, paged in when touched.
#[derive(Debug)]
pub struct Mapping {
    map: memmap2::Mmap,
    file: File,
    /// Length and time of the last change when it was mapped.
    stamp: (u64, Option<SystemTime>),
}

fn stamp(kind: &Metadata) -> (u64, Option<SystemTime>) {
    (kind.len(), kind.modified().ok())
}

impl Mapping {
    /// Maps a regular file that is not empty.
    pub fn open(path: &Path) -> Result<Mapping> {
        // Before it is opened, which for a pipe would wait for a writer.
        let kind = std::fs::metadata(path)?;
        if kind.is_dir() {
            return Err(Error::new(ErrorKind::IsADirectory, "it is a directory"));
        }
        if !kind.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let file = File::open(path)?;
        let stamp = stamp(&file.metadata()?);
        if stamp.0 == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "it is empty"));
        }
        // SAFETY: the mapping is read-only and private to this value. That nobody changes the file meanwhile is the
        // user's part, as for every program that maps its input: changed bytes give wrong numbers, which nothing here or
        // above uses as an address or a length once the header is parsed, and `unchanged` tells of them; reading a part
        // that was cut off raises a signal, which `signals` can turn into a message.
        let map = unsafe { memmap2::MmapOptions::new().map(&file)? };
        let mapping = Mapping { map, file, stamp };
        signals::add(mapping.addresses(), path);
        Ok(mapping)
    }

    fn addresses(&self) -> std::ops::Range<usize> {
        let range = self.map.as_ptr_range();
        range.start as usize..range.end as usize
    }

    /// Whether the file has the length and the time of change that it had when it was mapped. A file that was removed, or
    /// replaced by another of its name, is still there unchanged.
    pub fn unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|now| stamp(&now) == self.stamp)
    }

    /// The file that is mapped.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Takes the pages of `len` bytes from `offset` out of this process's memory; they are read again when touched.
    pub fn release(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        if offset.checked_add(len).is_some_and(|end| end <= self.map.len()) {
            // SAFETY: the mapping is of a file and never written, so dropped pages come back with the same contents.
            // Advice only: failing means more memory in use.
            let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        signals::remove(self.addresses());
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
