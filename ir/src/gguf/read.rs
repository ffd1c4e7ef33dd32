//! A cursor over the bytes of a file that checks every length before it reads, counts or allocates.

use crate::quote::quoted;
use crate::{Error, Result};

/// Bytes with a position. Every error names what was being read and the byte where it starts.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Position in the file.
    pub fn at(&self) -> u64 {
        self.at as u64
    }

    /// An error about what starts at `at`.
    pub fn error<T>(&self, at: u64, what: impl Into<String>) -> Result<T> {
        Err(Error::Malformed { what: what.into(), at: Some(at) })
    }

    /// The next `n` bytes.
    fn take(&mut self, n: u64, what: impl std::fmt::Display) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => self.error(
                self.at(),
                format!("the file is cut short or damaged: {what} needs {n} bytes, but {} are left", rest.len()),
            ),
        }
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, what: impl std::fmt::Display) -> Result<[u8; N]> {
        let taken = self.take(N as u64, what)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    /// A u32.
    pub fn u32(&mut self, what: impl std::fmt::Display) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A u64.
    pub fn u64(&mut self, what: impl std::fmt::Display) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each, and of which there may be `most`.
    pub fn count(&mut self, min_bytes: u64, most: usize, what: impl std::fmt::Display) -> Result<usize> {
        let at = self.at();
        let n = self.u64(format_args!("the number of {what}"))?;
        let left = (self.bytes.len() - self.at) as u64;
        match usize::try_from(n) {
            Ok(count) if n <= left / min_bytes && count <= most => Ok(count),
            Ok(count) if n <= left / min_bytes => {
                self.error(at, format!("the file declares {count} {what}, where {most} are allowed"))
            }
            _ => self.error(
                at,
                format!("the file is cut short or damaged: it declares {n} {what}, but has only {left} bytes left"),
            ),
        }
    }

    /// `count` values of `N` bytes each.
    pub fn many<const N: usize, T>(
        &mut self,
        count: usize,
        what: impl std::fmt::Display,
        get: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let taken = self.take((count as u64).saturating_mul(N as u64), what)?;
        Ok(taken.as_chunks::<N>().0.iter().map(|c| get(*c)).collect())
    }

    /// A length and that many bytes.
    pub fn string(&mut self, what: impl std::fmt::Display) -> Result<&'a [u8]> {
        let n = self.u64(format_args!("the length of {what}"))?;
        self.take(n, what)
    }

    /// A string that must be UTF-8.
    pub fn utf8(&mut self, what: impl std::fmt::Display) -> Result<&'a str> {
        let at = self.at();
        let bytes = self.string(&what)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s),
            Err(_) => self.error(at, format!("{what} is not UTF-8: {}", quoted(&String::from_utf8_lossy(bytes)))),
        }
    }
}
