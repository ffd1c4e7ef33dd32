//! [`Arena`]: zeroed anonymous memory, in huge pages when it is large.

use crate::{Error, Result};
use std::ptr::NonNull;

/// Size and alignment of a huge page; arenas of at least this size ask for them.
const HUGE: usize = 2 << 20;

/// Zeroed anonymous memory, aligned to at least 64 bytes, returned to the system when dropped.
///
/// It hands out its address only as a pointer: generated code writes to it behind Rust's back, so references are made
/// for a moment at a time, by whoever knows that no kernel runs.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an arena is plain memory that it owns; access through its pointer is the pointer user's responsibility.
unsafe impl Send for Arena {}
// SAFETY: as above; shared methods only read the address and the length.
unsafe impl Sync for Arena {}

impl Arena {
    /// Allocates `bytes` bytes for `what`, which errors name.
    ///
    /// # Errors
    /// [`Error::Memory`] when the system refuses.
    pub fn new(bytes: u64, what: &str) -> Result<Arena> {
        Self::with_advice(bytes, what, libc::MADV_HUGEPAGE)
    }

    /// As [`Arena::new`], but in small pages, whatever the size.
    ///
    /// # Errors
    /// As there.
    pub fn in_small_pages(bytes: u64, what: &str) -> Result<Arena> {
        Self::with_advice(bytes, what, libc::MADV_NOHUGEPAGE)
    }

    fn with_advice(bytes: u64, what: &str, advice: libc::c_int) -> Result<Arena> {
        let refused = || Error::Memory { what: what.into(), need: bytes, have: None };
        let len = usize::try_from(bytes).ok().filter(|&n| n <= isize::MAX as usize / 2).ok_or_else(refused)?;
        if len == 0 {
            return Ok(Arena { base: NonNull::<Page>::dangling().cast(), len: 0 });
        }
        let slack = if len >= HUGE { HUGE } else { 0 };
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + slack,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(refused());
        }
        let raw = raw.cast::<u8>();
        let head = raw.align_offset(if slack == 0 { 1 } else { HUGE });
        // The parts before and after the aligned range; lengths in whole pages.
        let page = page_size();
        let tail = (slack - head) / page * page;
        let end = (len + slack).next_multiple_of(page);
        // SAFETY: `head` <= slack, so `base` lies in the mapping; both unmapped parts lie in it too, outside of
        // `base .. base + len`, and nothing refers to them yet.
        let base = unsafe {
            if head > 0 {
                libc::munmap(raw.cast(), head);
            }
            if tail > 0 {
                libc::munmap(raw.add(end - tail).cast(), tail);
            }
            raw.add(head)
        };
        if slack > 0 {
            // SAFETY: advice on a range of our own mapping; its refusal is harmless.
            unsafe { libc::madvise(base.cast(), len, advice) };
        }
        NonNull::new(base).map(|base| Arena { base, len }).ok_or_else(refused)
    }

    /// Makes the memory present now instead of at its first use, as far as the system can.
    pub fn populate(&self) {
        if self.len > 0 {
            // SAFETY: MADV_POPULATE_WRITE keeps the contents; the range is our own mapping.
            unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, while nothing else uses them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` initialised bytes and `&mut self` excludes other Rust users; the device, which
        // holds all pointers into its arenas, lends them `&mut` only between launches.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// The bytes, while nothing writes them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as for `bytes_mut`; kernels run only inside of `&mut` methods of the device that owns the arena.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: exactly the range that `new` kept mapped; its users are gone with the owner.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

/// Gives an empty arena's dangling address the alignment of a full one.
#[repr(align(4096))]
struct Page;

/// The system's page size.
pub fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(n).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_aligned_writable() {
        for bytes in [0, 1, 64, 4097, (HUGE - 1) as u64, HUGE as u64, 5 * HUGE as u64 + 12345] {
            let mut a = Arena::new(bytes, "test").unwrap();
            assert_eq!(a.len() as u64, bytes);
            assert_eq!(a.as_ptr() as usize % 64, 0);
            if bytes >= HUGE as u64 {
                assert_eq!(a.as_ptr() as usize % HUGE, 0);
            }
            assert!(a.bytes().iter().all(|&b| b == 0));
            a.populate();
            a.bytes_mut().fill(7);
            assert!(a.bytes().iter().all(|&b| b == 7));
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for bytes in [u64::MAX, i64::MAX as u64, 1 << 62] {
            let e = Arena::new(bytes, "the weights").unwrap_err().to_string();
            assert!(e.starts_with("the weights"), "{e}");
        }
    }
}
