//! Global memory: allocations with unmapped gaps between them, and the agents that touch them. It outlives launches. A
//! boundary, where nothing runs, orders all accesses before those that come, so that all notes of them go.

use crate::agents::Agents;
use crate::fault::Fault;
use crate::race::Races;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes between allocations that belong to nobody.
const GAP: u64 = 4096;
/// Stores of undefined values that are remembered.
const MOST_NOTES: usize = 1 << 16;
/// Where the first allocation starts.
const START: u64 = 0x10_0000;

/// Why memory cannot be had or touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// More than the capacity.
    #[error("{asked} more bytes do not fit into {capacity} bytes of emulated memory")]
    Full {
        /// Bytes asked for.
        asked: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// An alignment that is no power of two.
    #[error("{0} is no alignment")]
    Alignment(u64),
    /// Not within one allocation.
    #[error("{bytes} bytes at {address:#x} are not within an allocation")]
    Unmapped {
        /// First byte.
        address: u64,
        /// How many.
        bytes: u64,
    },
    /// Nobody wrote this byte.
    #[error("nobody wrote the byte at {0:#x}")]
    Unwritten(u64),
}

/// An allocation with its bytes and what the race detector knows of them.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) store: Store,
    pub(crate) races: Races,
}

impl Region {
    pub(crate) fn new(store: Store) -> Region {
        Region { store, races: Races::default() }
    }
}

#[derive(Debug)]
struct Allocation {
    base: u64,
    read_only: bool,
    /// The host may touch it while kernels run.
    host_shared: bool,
    region: Region,
}

/// Emulated global memory.
#[derive(Debug)]
pub struct Memory {
    /// In order of their addresses.
    allocations: Vec<Allocation>,
    next: u64,
    used: u64,
    capacity: u64,
    /// The allocation that was found last.
    last: usize,
    pub(crate) agents: Agents,
    /// Stores of undefined values, by address: what is wrong if somebody reads them.
    undefined: BTreeMap<u64, Arc<Fault>>,
}

impl Memory {
    /// Memory for at most so many bytes.
    pub fn new(capacity: u64) -> Memory {
        let (allocations, undefined) = (Vec::new(), BTreeMap::new());
        Memory { allocations, next: START, used: 0, capacity, last: 0, agents: Agents::new(), undefined }
    }

    /// Allocates bytes that nobody wrote.
    ///
    /// # Errors
    /// If they do not fit, or the alignment is no power of two.
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        if !align.is_power_of_two() || align > 1 << 30 {
            return Err(MemoryError::Alignment(align));
        }
        if bytes > self.capacity - self.used {
            return Err(MemoryError::Full { asked: bytes, capacity: self.capacity });
        }
        let base = self.next.next_multiple_of(align.max(256));
        self.next = base + bytes + GAP;
        self.used += bytes;
        let region = Region::new(Store::unwritten(bytes as usize));
        self.allocations.push(Allocation { base, read_only: false, host_shared: false, region });
        Ok(base)
    }

    /// Allocates bytes with these contents.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc_with(&mut self, bytes: Vec<u8>, align: u64) -> Result<u64, MemoryError> {
        let base = self.alloc(bytes.len() as u64, align)?;
        if let Some(a) = self.allocations.last_mut() {
            a.region.store = Store::of(bytes);
        }
        Ok(base)
    }

    fn place(&mut self, address: u64, bytes: u64) -> Result<(&mut Allocation, usize), MemoryError> {
        match self.locate(address, bytes) {
            Some((index, offset)) => Ok((&mut self.allocations[index], offset)),
            None => Err(MemoryError::Unmapped { address, bytes }),
        }
    }

    /// Writes, as the host.
    ///
    /// # Errors
    /// If the bytes are not within one allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (a, offset) = self.place(address, bytes.len() as u64)?;
        a.region.store.data[offset..offset + bytes.len()].copy_from_slice(bytes);
        a.region.store.set_written(offset, bytes.len());
        Ok(())
    }

    /// Reads, as the host.
    ///
    /// # Errors
    /// If the bytes are not within one allocation, or nobody wrote one of them.
    pub fn read(&mut self, address: u64, bytes: u64) -> Result<&[u8], MemoryError> {
        let (a, offset) = self.place(address, bytes)?;
        match a.region.store.first_unwritten(offset, bytes as usize) {
            Some(at) => Err(MemoryError::Unwritten(address + (at - offset) as u64)),
            None => Ok(&a.region.store.data[offset..offset + bytes as usize]),
        }
    }

    /// Marks a range as unwritten.
    ///
    /// # Errors
    /// If the bytes are not within one allocation.
    pub fn fill_uninit(&mut self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        let (a, offset) = self.place(address, bytes)?;
        a.region.store.set_unwritten(offset, bytes as usize);
        Ok(())
    }

    /// A kernel stores a value that is undefined at an address.
    pub(crate) fn undefined_stored(&mut self, address: u64, fault: &Arc<Fault>) {
        if self.undefined.len() < MOST_NOTES {
            self.undefined.insert(address, Arc::clone(fault));
        }
    }

    /// Why a range has unwritten bytes, if that is because a kernel stored there what depends on memory that nobody wrote.
    pub fn undefined(&mut self, address: u64, bytes: u64) -> Option<&Fault> {
        let at = self.undefined.range(address..address.saturating_add(bytes)).map(|(&at, _)| at).find(|&at| {
            let index = self.allocations.partition_point(|a| a.base <= at).wrapping_sub(1);
            self.allocations
                .get(index)
                .is_some_and(|a| a.region.store.first_unwritten((at - a.base) as usize, 1).is_some())
        })?;
        self.undefined.get(&at).map(|fault| &**fault)
    }

    /// Makes the allocation at an address read-only for kernels.
    ///
    /// # Errors
    /// If there is none.
    pub fn protect(&mut self, address: u64) -> Result<(), MemoryError> {
        self.place(address, 0)?.0.read_only = true;
        Ok(())
    }

    /// Lets the host touch the allocation at an address while kernels run.
    pub(crate) fn share(&mut self, address: u64) -> Result<(), MemoryError> {
        self.place(address, 0)?.0.host_shared = true;
        Ok(())
    }

    pub(crate) fn is_shared(&self, index: usize) -> bool {
        self.allocations[index].host_shared
    }

    /// The allocation of a range and the offset in it.
    #[inline]
    pub(crate) fn locate(&mut self, address: u64, bytes: u64) -> Option<(usize, usize)> {
        let within = |a: &Allocation| {
            let offset = address.wrapping_sub(a.base);
            let len = a.region.store.len() as u64;
            (offset <= len && bytes <= len - offset).then_some(offset as usize)
        };
        if let Some(offset) = self.allocations.get(self.last).and_then(within) {
            return Some((self.last, offset));
        }
        let index = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let offset = within(&self.allocations[index])?;
        self.last = index;
        Some((index, offset))
    }

    /// An allocation by its index, and whether it is read-only.
    #[inline]
    pub(crate) fn region(&mut self, index: usize) -> (&mut Region, bool) {
        let a = &mut self.allocations[index];
        (&mut a.region, a.read_only)
    }

    /// The nearest allocation below an address, for messages: its base and size.
    pub(crate) fn below(&self, address: u64) -> Option<(u64, u64)> {
        let index = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let a = &self.allocations[index];
        Some((a.base, a.region.store.len() as u64))
    }

    /// Orders all accesses so far before all that come.
    pub(crate) fn boundary(&mut self) {
        self.agents.forget();
        for a in &mut self.allocations {
            a.region.races.forget();
        }
    }
}
