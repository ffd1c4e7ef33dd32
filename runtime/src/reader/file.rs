//! Sources: a mapped file on disk, and bytes that are in the program.
//!
//! Invariant: what is lent is bytes that [`Source::cached`] found in memory. Next hop: `sys::cache` asks the system.

use super::Source;
use crate::sys::{Mapping, cache};
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What the page cache holds is lent in place, and not copied.
    pub lends: bool,
    /// What it does not hold is in it afterwards. Otherwise reads go past it, or what they bring to it is dropped.
    pub keeps: bool,
}

/// A mapped file.
///
/// Its reads go past the page cache where that is wanted, works, and the system tells what the page cache holds; else
/// through it, with all of a read asked for at once.
#[derive(Debug)]
pub struct OnDisk<'a> {
    path: &'a Path,
    mapping: &'a Mapping,
    reading: Reading,
    tells: bool,
    direct: Option<File>,
}

impl<'a> OnDisk<'a> {
    /// The file that is mapped, to be read like that.
    pub fn new(path: &'a Path, mapping: &'a Mapping, reading: Reading) -> OnDisk<'a> {
        let tells = cache::tells_residents(mapping.file());
        let direct = if tells && !reading.keeps { cache::open_direct(mapping.file()) } else { None };
        OnDisk { path, mapping, reading, tells, direct }
    }

    fn range(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        self.mapping.bytes().get(usize::try_from(offset).ok()?..)?.get(..bytes)
    }
}

impl Source for OnDisk<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn cached(&self, offset: u64, bytes: usize) -> bool {
        self.tells && self.range(offset, bytes).is_some_and(cache::resident)
    }

    fn lend(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        self.range(offset, bytes).filter(|_| self.reading.lends)
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        cache::prefetch(self.mapping.file(), offset, to.len());
        self.mapping.file().read_at(to, offset)
    }

    fn read_direct(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        self.direct.as_ref().ok_or(ErrorKind::Unsupported)?.read_at(to, offset)
    }

    fn done(&self, offset: u64, bytes: usize, cached: bool) {
        if cached {
            self.mapping.release(offset as usize, bytes);
        } else if self.tells && !self.reading.keeps {
            cache::drop_cached(self.mapping.file(), offset, bytes);
        }
    }
}

/// Bytes that are in the program, with the name that stands for a path.
#[derive(Debug, Clone, Copy)]
pub struct Embedded<'a>(pub &'a Path, pub &'a [u8]);

impl Source for Embedded<'_> {
    fn path(&self) -> &Path {
        self.0
    }

    fn cached(&self, _offset: u64, _bytes: usize) -> bool {
        true
    }

    fn lend(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        self.1.get(usize::try_from(offset).ok()?..)?.get(..bytes)
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|at| self.1.get(at..)).unwrap_or_default();
        let n = from.len().min(to.len());
        to[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn read_direct(&self, _offset: u64, _to: &mut [u8]) -> Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    fn done(&self, _offset: u64, _bytes: usize, _cached: bool) {}
}
