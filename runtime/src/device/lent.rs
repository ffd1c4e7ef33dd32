//! Host memory of a device that others fill while the device is used.
//!
//! Invariant: of lent bytes there is one owner, and the memory lives as long as a part of it is lent. Next hop: `reader`,
//! whose threads fill them.

use super::{Memory, Region};
use crate::sys::Arena;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of [`Device::staging`](super::Device::staging) memory. Copies from and to them must have been waited for before
/// they are touched.
pub struct Lent {
    region: Region,
    start: NonNull<u8>,
    owner: Arc<dyn Send + Sync>,
}

// SAFETY: the bytes are plain memory, of which this is the only owner.
unsafe impl Send for Lent {}

impl Lent {
    /// Lends all bytes of an allocation.
    ///
    /// # Safety
    /// So many bytes are there, initialised, as long as the owner lives, and are touched by nobody else but copies.
    pub(super) unsafe fn new(memory: Memory, start: NonNull<u8>, bytes: u64, owner: Arc<dyn Send + Sync>) -> Lent {
        Lent { region: Region { memory, offset: 0, bytes }, start, owner }
    }

    /// Lends all bytes of an arena, unless it is shared already.
    pub(super) fn of_arena(memory: Memory, arena: &mut Arc<Arena>) -> Option<Lent> {
        let (start, bytes) = (NonNull::new(Arc::get_mut(arena)?.as_ptr())?, arena.len() as u64);
        // SAFETY: an arena is initialised; while it is shared nobody takes a reference to its bytes.
        Some(unsafe { Lent::new(memory, start, bytes, arena.clone()) })
    }

    /// Where they are, for the device.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Cuts them into parts of so many bytes; what is left over is no longer lent.
    pub fn cut(self, bytes: usize) -> Vec<Lent> {
        let Lent { region, start, owner } = self;
        let count = (region.bytes as usize).checked_div(bytes).unwrap_or(0);
        let part = |n: usize| Lent {
            region: Region { offset: region.offset + (n * bytes) as u64, bytes: bytes as u64, ..region },
            // SAFETY: the part lies in the bytes.
            start: unsafe { start.add(n * bytes) },
            owner: Arc::clone(&owner),
        };
        (0..count).map(part).collect()
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: living, initialised memory of this length, which only this owner writes to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.region.bytes as usize) }
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the owner is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.region.bytes as usize) }
    }
}
