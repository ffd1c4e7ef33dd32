//! Sources: a mapped file on disk, and bytes that are in the program.
//!
//! Invariant: what is lent is bytes that [`Source::cached`] found in memory. Next hop: `sys::cache` asks the system.

use super::Source;
use crate::sys::{Mapping, cache};
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A mapped file.
///
/// Its reads go past the page cache where that works and the system tells what the page cache holds, else through it, with
/// all of a read asked for at once, and the page cache keeps none of what it did not hold before.
#[derive(Debug)]
pub struct OnDisk<'a> {
    path: &'a Path,
    mapping: &'a Mapping,
    lends: bool,
    tells: bool,
    direct: Option<File>,
}

impl<'a> OnDisk<'a> {
    /// A source that `lends` what is in the page cache, or copies it.
    pub fn new(path: &'a Path, mapping: &'a Mapping, lends: bool) -> OnDisk<'a> {
        let tells = cache::tells_residents(mapping.file());
        let direct = if tells { cache::open_direct(mapping.file()) } else { None };
        OnDisk { path, mapping, lends, tells, direct }
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
        self.range(offset, bytes).filter(|_| self.lends)
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
        } else if self.tells {
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
