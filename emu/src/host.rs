//! Words of host-shared memory, as the host reads and writes them while kernels run.

use crate::clock::{HOST, Strength};
use crate::memory::MemoryError;
use crate::order::{HostError, release, touch};
use crate::queue::{Card, Machine, pause};
use crate::types::Scope;
use std::time::{Duration, Instant};

/// Bytes of a word.
const WORD: u32 = 4;

impl Machine {
    /// The words of host-shared memory.
    pub fn host(&mut self) -> HostView<'_> {
        HostView { machine: self }
    }
}

/// Words of host-shared memory, as the host reads and writes them while kernels run.
#[derive(Debug)]
pub struct HostView<'a> {
    pub(crate) machine: &'a mut Machine,
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

    /// Loads, acquiring, until the word is as wanted; what it is then.
    ///
    /// # Errors
    /// [`HostError::Timeout`], [`HostError::Ended`], and as [`HostView::load`].
    pub fn wait_until(
        &mut self,
        address: u64,
        timeout: Duration,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<u32, HostError> {
        let start = Instant::now();
        let mut turn = 0;
        loop {
            let ended = self.machine.enter().idle();
            let value = self.load_acquire(address)?;
            if wanted(value) {
                return Ok(value);
            }
            if ended {
                return Err(HostError::Ended { address, value });
            }
            let waited = start.elapsed();
            if waited > timeout {
                return Err(HostError::Timeout { address, value, waited });
            }
            pause(&mut turn);
        }
    }

    /// Reads a word, writes one, or both; what it was. `write` says whether it also reads, and what it writes.
    fn word(&mut self, address: u64, strength: Strength, write: Option<Write<'_>>) -> Result<u32, HostError> {
        let mut card = self.machine.enter();
        let Card { memory, host, .. } = &mut *card;
        if !address.is_multiple_of(u64::from(WORD)) {
            return Err(HostError::Misaligned(address));
        }
        let (index, offset) = touch(memory, host, write.is_some(), address, u64::from(WORD), strength)?;
        if !memory.is_shared(index) {
            return Err(HostError::NotShared(address));
        }
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
