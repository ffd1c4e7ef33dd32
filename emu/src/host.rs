//! Words of host-shared memory, as the host reads and writes them while kernels run.

use crate::clock::{HOST, Strength};
use crate::engine::Engine;
use crate::memory::MemoryError;
use crate::order::{HostError, fault, release, touch};
use crate::types::Scope;

/// Bytes of a word.
const WORD: u32 = 4;

impl Engine {
    /// The words of host-shared memory.
    pub fn host(&mut self) -> HostView<'_> {
        HostView { engine: self }
    }
}

/// Words of host-shared memory, as the host reads and writes them while kernels run.
#[derive(Debug)]
pub struct HostView<'a> {
    engine: &'a mut Engine,
}

impl HostView<'_> {
    /// A plain load.
    ///
    /// # Errors
    /// [`HostError`]: a race among others.
    pub fn load(&mut self, address: u64) -> Result<u32, HostError> {
        self.word(address, Strength::Weak, None)
    }

    /// A plain store.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn store(&mut self, address: u64, value: u32) -> Result<(), HostError> {
        self.word(address, Strength::Weak, Some((false, &|_| value))).map(|_| ())
    }

    /// A load that acquires, in system scope.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn load_acquire(&mut self, address: u64) -> Result<u32, HostError> {
        self.word(address, Strength::Sys, None)
    }

    /// A store that releases, in system scope.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn store_release(&mut self, address: u64, value: u32) -> Result<(), HostError> {
        self.word(address, Strength::Sys, Some((false, &|_| value))).map(|_| ())
    }

    /// Replaces a word by a function of it, at once, acquires and releases, in system scope; what it was.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn update(&mut self, address: u64, new: impl Fn(u32) -> u32) -> Result<u32, HostError> {
        self.word(address, Strength::Sys, Some((true, &new)))
    }

    /// Reads a word, writes one, or both; what it was. `write` says whether it also reads, and what it writes.
    fn word(&mut self, address: u64, strength: Strength, write: Option<Write<'_>>) -> Result<u32, HostError> {
        let Engine { memory, host, .. } = &mut *self.engine;
        if !address.is_multiple_of(u64::from(WORD)) {
            return Err(HostError::Misaligned(address));
        }
        let bytes = u64::from(WORD);
        let place = memory.locate(address, bytes).ok_or_else(|| memory.missing(address, bytes))?;
        let (index, offset) = place;
        if !memory.is_shared(index) {
            return Err(HostError::NotShared(address));
        }
        let touched = touch(memory, host, write.is_some(), (address, bytes), place, strength);
        touched.map_err(|bad| fault("the host", *bad))?;
        let store = &mut memory.region(index).0.store;
        let old = store.get(offset, WORD) as u32;
        if write.is_none_or(|(reads, _)| reads) {
            if let Some(at) = store.first_unwritten(offset, WORD as usize) {
                return Err(MemoryError::Unwritten(address + (at - offset) as u64).into());
            }
            if strength == Strength::Sys
                && let Some(released) = memory.agents.published.get(&address)
            {
                released.visible(HOST, Scope::Sys).for_each(|clock| host.acquire(1, clock));
            }
        }
        if let Some((reads, new)) = write {
            if strength == Strength::Sys {
                let clock = release(host)?;
                memory.agents.published.entry(address).or_default().publish(HOST, Scope::Sys, clock, !reads);
            }
            let store = &mut memory.region(index).0.store;
            store.put(offset, WORD, u64::from(new(old)));
            store.set_written(offset, WORD as usize);
            memory.agents.progress += 1;
        }
        Ok(old)
    }
}

/// Whether a write reads as well, and the new value by the old.
type Write<'a> = (bool, &'a dyn Fn(u32) -> u32);
