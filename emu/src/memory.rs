//! Global memory: allocations with unmapped gaps between them, and the agents that touch them. It outlives launches. A
//! boundary, where nothing runs, orders all accesses before those that come, so that all notes of them go. An address is
//! given once: what was freed is no memory any more, and is known as such.

use crate::agents::Agents;
use crate::fault::{Fault, FaultKind};
use crate::race::Races;
use crate::store::{HostMemory, Store};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes between allocations that belong to nobody.
const GAP: u64 = 4096;
/// Stores of undefined values that are remembered.
const MOST_NOTES: usize = 1 << 16;
/// Where the first allocation starts.
const START: u64 = 0x10_0000;
/// Freed allocations that are remembered.
const MOST_FREED: usize = 1 << 12;

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
    /// Within an allocation that was freed.
    #[error("{bytes} bytes at {address:#x} are in memory that was freed")]
    Freed {
        /// First byte.
        address: u64,
        /// How many.
        bytes: u64,
    },
    /// Where an allocation is already.
    #[error("{bytes} bytes at {base:#x} overlap another allocation")]
    Taken {
        /// First byte.
        base: u64,
        /// How many.
        bytes: u64,
    },
    /// More than the machine that emulates can give.
    #[error("the machine that emulates has no {0} bytes of memory")]
    Machine(u64),
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
        Region { races: Races::new(store.len()), store }
    }
}

#[derive(Debug)]
struct Allocation {
    base: u64,
    bytes: u64,
    read_only: bool,
    /// The host may touch it while kernels run.
    host_shared: bool,
    region: Box<Region>,
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
    /// Bases and sizes of the allocations that were freed last.
    freed: VecDeque<(u64, u64)>,
    /// There is memory of the process, or was.
    has_process: bool,
    /// What was read last from memory of the process.
    pulled: Vec<u8>,
}

impl Memory {
    /// Memory for at most so many bytes.
    pub fn new(capacity: u64) -> Memory {
        Memory::starting_at(START, capacity)
    }

    /// Memory for at most so many bytes, whose addresses come after `start`, each only once.
    pub fn starting_at(start: u64, capacity: u64) -> Memory {
        Memory {
            allocations: Vec::new(),
            next: start,
            used: 0,
            capacity,
            last: 0,
            agents: Agents::new(),
            undefined: BTreeMap::new(),
            freed: VecDeque::new(),
            has_process: false,
            pulled: Vec::new(),
        }
    }

    /// Allocates bytes that nobody wrote. They take memory of the machine only where they are touched.
    ///
    /// # Errors
    /// If they do not fit, or the alignment is no power of two.
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        self.place_new(bytes, align, |bytes| {
            let len = usize::try_from(bytes).map_err(|_| MemoryError::Machine(bytes))?;
            // A machine that does not have so much says so here; to make the bytes themselves cannot fail softly.
            let mut room: Vec<u8> = Vec::new();
            room.try_reserve_exact(len.saturating_add(len / 8)).map_err(|_| MemoryError::Machine(bytes))?;
            drop(room);
            Ok(Store::unwritten(len))
        })
    }

    /// Allocates bytes with these contents.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc_with(&mut self, bytes: Vec<u8>, align: u64) -> Result<u64, MemoryError> {
        self.place_new(bytes.len() as u64, align, |_| Ok(Store::of(bytes)))
    }

    /// Makes bytes and gives them a place.
    fn place_new(
        &mut self,
        bytes: u64,
        align: u64,
        store: impl FnOnce(u64) -> Result<Store, MemoryError>,
    ) -> Result<u64, MemoryError> {
        if !align.is_power_of_two() || align > 1 << 30 {
            return Err(MemoryError::Alignment(align));
        }
        let full = MemoryError::Full { asked: bytes, capacity: self.capacity };
        if bytes > self.capacity - self.used {
            return Err(full);
        }
        let align = align.max(256);
        let place = |after: u64| {
            let base = after.checked_next_multiple_of(align)?;
            base.checked_add(bytes)?.checked_add(GAP).map(|next| (base, next))
        };
        let (mut base, mut next) = place(self.next).ok_or(full.clone())?;
        // Memory of the process may lie anywhere.
        while let Some(end) = self.taken(base.saturating_sub(GAP), bytes.saturating_add(2 * GAP)) {
            (base, next) = place(end.saturating_add(GAP)).ok_or(full.clone())?;
        }
        self.insert(base, store(bytes)?, false);
        self.next = next;
        self.used += bytes;
        Ok(base)
    }

    /// Makes memory of the process one that kernels and copies reach, at `base`: pinned and mapped. It has no part in the
    /// capacity, and counts as written. What the process does to it by itself the race model cannot see.
    ///
    /// # Errors
    /// [`MemoryError::Taken`], also by addresses that cannot be.
    pub fn alloc_host(&mut self, base: u64, memory: Box<dyn HostMemory>) -> Result<(), MemoryError> {
        let bytes = memory.len() as u64;
        if base.checked_add(bytes).is_none() || self.taken(base, bytes).is_some() {
            return Err(MemoryError::Taken { base, bytes });
        }
        self.has_process = true;
        self.insert(base, Store::of_process(memory), true);
        Ok(())
    }

    /// The end of an allocation that overlaps a range, each of a byte at least.
    fn taken(&self, base: u64, bytes: u64) -> Option<u64> {
        let end = base.saturating_add(bytes.max(1));
        let index = self.allocations.partition_point(|a| a.base < end).checked_sub(1)?;
        let a = &self.allocations[index];
        (a.base + a.bytes.max(1) > base).then_some(a.base + a.bytes)
    }

    fn insert(&mut self, base: u64, store: Store, host_shared: bool) {
        let bytes = store.len() as u64;
        let region = Box::new(Region::new(store));
        let index = self.allocations.partition_point(|a| a.base < base);
        self.allocations.insert(index, Allocation { base, bytes, read_only: false, host_shared, region });
        self.freed.retain(|&(old, len)| old >= base + bytes || base >= old + len);
    }

    /// Frees the allocation that starts at an address. Who touches it later hears that it was freed.
    ///
    /// # Errors
    /// If there is none.
    pub fn free(&mut self, base: u64) -> Result<(), MemoryError> {
        let index = self.allocations.binary_search_by_key(&base, |a| a.base);
        let index = index.map_err(|_| self.missing(base, 0))?;
        let a = self.allocations.remove(index);
        if !a.region.store.is_of_process() {
            self.used -= a.bytes;
        }
        if self.freed.len() == MOST_FREED {
            self.freed.pop_front();
        }
        self.freed.push_back((base, a.bytes));
        self.undefined.retain(|at, _| !(base..base + a.bytes).contains(at));
        Ok(())
    }

    /// Why bytes are not within an allocation.
    pub(crate) fn missing(&self, address: u64, bytes: u64) -> MemoryError {
        match self.freed_at(address) {
            Some(_) => MemoryError::Freed { address, bytes },
            None => MemoryError::Unmapped { address, bytes },
        }
    }

    fn freed_at(&self, address: u64) -> Option<(u64, u64)> {
        if self.taken(address, 1).is_some() {
            return None;
        }
        self.freed.iter().copied().rfind(|&(base, len)| address >= base && address - base < len.max(1))
    }

    fn place(&mut self, address: u64, bytes: u64) -> Result<(&mut Allocation, usize), MemoryError> {
        match self.locate(address, bytes) {
            Some((index, offset)) => Ok((&mut self.allocations[index], offset)),
            None => Err(self.missing(address, bytes)),
        }
    }

    /// Writes, as the host.
    ///
    /// # Errors
    /// If the bytes are not within one allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (a, offset) = self.place(address, bytes.len() as u64)?;
        a.region.store.write(offset, bytes);
        a.region.store.set_written(offset, bytes.len());
        Ok(())
    }

    /// Reads, as the host.
    ///
    /// # Errors
    /// If the bytes are not within one allocation, or nobody wrote one of them.
    pub fn read(&mut self, address: u64, bytes: u64) -> Result<&[u8], MemoryError> {
        let (index, offset) = self.locate(address, bytes).ok_or_else(|| self.missing(address, bytes))?;
        let (store, len) = (&self.allocations[index].region.store, bytes as usize);
        if let Some(at) = store.first_unwritten(offset, len) {
            return Err(MemoryError::Unwritten(address + (at - offset) as u64));
        }
        if store.is_of_process() {
            self.pulled.resize(len, 0);
            store.read(offset, &mut self.pulled);
            return Ok(&self.pulled);
        }
        Ok(store.slice(offset, len).unwrap_or_default())
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

    /// Whether an address is in memory of the process.
    #[inline]
    pub(crate) fn is_of_process(&mut self, address: u64) -> bool {
        self.has_process
            && self.locate(address, 0).is_some_and(|(i, _)| self.allocations[i].region.store.is_of_process())
    }

    pub(crate) fn is_shared(&self, index: usize) -> bool {
        self.allocations[index].host_shared
    }

    /// The allocation of a range and the offset in it.
    #[inline]
    pub(crate) fn locate(&mut self, address: u64, bytes: u64) -> Option<(usize, usize)> {
        let within = |a: &Allocation| {
            let offset = address.wrapping_sub(a.base);
            (offset <= a.bytes && bytes <= a.bytes - offset).then_some(offset as usize)
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

    /// What is at an address where there is no allocation of so many bytes, for messages, and what kind of fault that is.
    pub(crate) fn describe_missing(&self, address: u64, bytes: u64) -> (FaultKind, String) {
        if let Some((base, size)) = self.freed_at(address) {
            let at = address - base;
            return (FaultKind::Freed, format!("{bytes} bytes at byte {at} of {size} at {base:#x}, which were freed"));
        }
        let index = self.allocations.partition_point(|a| a.base <= address).checked_sub(1);
        let what = match index.map(|i| &self.allocations[i]) {
            Some(a) => {
                let (at, size, base) = (address - a.base, a.bytes, a.base);
                format!("{bytes} bytes at byte {at} of the allocation of {size} at {base:#x}")
            }
            None => format!("{bytes} bytes below all allocations"),
        };
        (FaultKind::OobGlobal, what)
    }

    /// Orders all accesses so far before all that come.
    pub(crate) fn boundary(&mut self) {
        self.agents.forget();
        for a in &mut self.allocations {
            a.region.races.forget();
        }
    }
}
