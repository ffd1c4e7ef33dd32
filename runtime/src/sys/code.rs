//! [`CodeMemory`]: machine code that can be executed and no longer be written.

use crate::{Error, Result};
use std::ptr::NonNull;

/// A copy of a code module in executable memory.
#[derive(Debug)]
pub struct CodeMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is read-only from `new` on, and owned.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Copies `code` to fresh memory, then makes that executable and read-only.
    ///
    /// # Errors
    /// [`Error::Device`] when the system has no memory or forbids execution.
    pub fn new(code: &[u8]) -> Result<CodeMemory> {
        let refused = |what: &str| {
            Err(Error::device(format!(
                "the system refuses {what} for generated code: {}",
                std::io::Error::last_os_error()
            )))
        };
        if code.is_empty() {
            return Ok(CodeMemory { base: NonNull::dangling(), len: 0 });
        }
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                code.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return refused("memory");
        }
        let Some(base) = NonNull::new(base.cast::<u8>()) else { return refused("memory") };
        let memory = CodeMemory { base, len: code.len() };
        // SAFETY: the mapping is writable, fresh (so it does not overlap `code`) and as long as `code`.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), base.as_ptr(), code.len()) };
        // SAFETY: the range is our own mapping, into which no reference exists.
        if unsafe { libc::mprotect(base.as_ptr().cast(), code.len(), libc::PROT_READ | libc::PROT_EXEC) } != 0 {
            return refused("permission to execute");
        }
        Ok(memory)
    }

    /// Address of byte `offset`, or `None` if that lies outside.
    pub fn address(&self, offset: u64) -> Option<*const u8> {
        let offset = usize::try_from(offset).ok().filter(|&o| o < self.len)?;
        Some(self.base.as_ptr().wrapping_add(offset))
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: exactly the range that `new` mapped; the device that runs the code owns this memory.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn code_runs() {
        let code = [0x90, 0x8d, 0x47, 0x2a, 0xc3]; // nop; lea eax, [rdi + 42]; ret
        let memory = CodeMemory::new(&code).unwrap();
        let at = memory.address(1).unwrap();
        // SAFETY: the bytes above are a function of this type.
        let f: extern "C" fn(i32) -> i32 = unsafe { std::mem::transmute(at) };
        assert_eq!(f(100), 142);
        assert!(memory.address(5).is_none() && memory.address(u64::MAX).is_none());
    }
}
