//! The addresses that the program has been given: device memory, and memory of the process that kernels reach. What is gone is
//! remembered, so that its use has a name. The bytes of device memory are the emulator's; those of the process are real.

use crate::objects::Context;
use crate::slots::Handle;
use std::collections::BTreeMap;
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Allocations that are remembered after they are gone.
const MOST_GONE: usize = 1 << 16;
/// Device memory is handed out in multiples of this.
pub(crate) const GRANULE: u64 = 512;

/// What an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Device memory.
    Device,
    /// Device memory of the pool.
    Pool,
    /// A variable of a module.
    Variable,
    /// Memory that process and device share by `cuMemAllocManaged`.
    Managed,
    /// Pinned memory, with the flags of the call.
    Pinned(u32),
    /// Memory of the process that was pinned afterwards.
    Registered(u32),
}

impl What {
    /// It is memory of the process.
    pub(crate) fn host(self) -> bool {
        matches!(self, What::Managed | What::Pinned(_) | What::Registered(_))
    }

    /// It counts as memory of the card.
    fn charged(self) -> bool {
        !matches!(self, What::Pinned(_) | What::Registered(_))
    }
}

/// Something with an address.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) bytes: u64,
    pub(crate) what: What,
    pub(crate) context: Handle<Context>,
    /// The call that made it.
    pub(crate) from: &'static str,
    /// A number that is given once in a process.
    pub(crate) id: u64,
    /// The call that frees it, which has not happened yet.
    pub(crate) freeing: Option<&'static str>,
    /// The pages, if they are ours, to be given back with it.
    _pages: Option<Pages>,
}

/// Where a range of addresses is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Within the allocation with this first address.
    In(u64),
    /// It begins in an allocation and ends behind it.
    Past { base: u64, bytes: u64 },
    /// It begins in what was freed.
    Freed { base: u64, bytes: u64, by: &'static str },
    /// Not ours.
    Unknown,
}

/// All allocations.
#[derive(Debug)]
pub(crate) struct Allocations {
    live: BTreeMap<u64, Allocation>,
    /// Size, and the call that freed it.
    gone: BTreeMap<u64, (u64, &'static str)>,
    capacity: u64,
    used: u64,
    next: u64,
}

impl Allocations {
    /// For a card with so many free bytes.
    pub(crate) fn new(capacity: u64) -> Allocations {
        Allocations { live: BTreeMap::new(), gone: BTreeMap::new(), capacity, used: 0, next: 1 }
    }

    /// Bytes of the card that are free.
    pub(crate) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    /// Whether the card has so many bytes left.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        bytes.checked_next_multiple_of(GRANULE).is_some_and(|b| b <= self.free())
    }

    pub(crate) fn insert(
        &mut self,
        base: u64,
        bytes: u64,
        what: What,
        context: Handle<Context>,
        from: &'static str,
        pages: Option<Pages>,
    ) {
        if what.charged() {
            self.used += bytes.next_multiple_of(GRANULE);
        }
        let id = self.next;
        self.next += 1;
        // Pages of the process are given again once they are gone.
        self.gone.retain(|&b, &mut (n, _)| b >= base.saturating_add(bytes) || b + n <= base);
        self.live.insert(base, Allocation { bytes, what, context, from, id, freeing: None, _pages: pages });
    }

    pub(crate) fn remove(&mut self, base: u64, by: &'static str) -> Option<Allocation> {
        let a = self.live.remove(&base)?;
        if a.what.charged() {
            self.used -= a.bytes.next_multiple_of(GRANULE);
        }
        if self.gone.len() == MOST_GONE {
            self.gone.pop_first();
        }
        self.gone.insert(base, (a.bytes, by));
        Some(a)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Allocation)> {
        self.live.iter().map(|(&base, a)| (base, a))
    }

    pub(crate) fn get(&self, base: u64) -> Option<&Allocation> {
        self.live.get(&base)
    }

    pub(crate) fn get_mut(&mut self, base: u64) -> Option<&mut Allocation> {
        self.live.get_mut(&base)
    }

    /// The allocation that has an address, with its first.
    pub(crate) fn around(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (&base, a) = self.live.range(..=address).next_back()?;
        (address - base < a.bytes).then_some((base, a))
    }

    /// Where a range is.
    pub(crate) fn place(&self, address: u64, bytes: u64) -> Place {
        if let Some((base, a)) = self.around(address) {
            return if bytes <= a.bytes - (address - base) {
                Place::In(base)
            } else {
                Place::Past { base, bytes: a.bytes }
            };
        }
        match self.gone.range(..=address).next_back() {
            Some((&base, &(bytes, by))) if address - base < bytes => Place::Freed { base, bytes, by },
            _ => Place::Unknown,
        }
    }

    /// The call that has freed what was at an address, or frees it.
    pub(crate) fn freed_by(&self, address: u64) -> Option<&'static str> {
        match self.place(address, 1) {
            Place::In(base) => self.get(base)?.freeing,
            Place::Freed { by, .. } => Some(by),
            _ => None,
        }
    }

    /// Whether any allocation has a byte of a range.
    pub(crate) fn overlaps(&self, address: u64, bytes: u64) -> bool {
        self.around(address).is_some() || self.live.range(address..address.saturating_add(bytes)).next().is_some()
    }

    /// The distance from an address to the nearest byte of any allocation that is there or was.
    pub(crate) fn distance(&self, address: u64) -> u64 {
        let below = |(base, bytes): (u64, u64)| address.saturating_sub(base.saturating_add(bytes.saturating_sub(1)));
        let live = |(&base, a): (&u64, &Allocation)| (base, a.bytes);
        let gone = |(&base, &(bytes, _)): (&u64, &(u64, &str))| (base, bytes);
        let before =
            [self.live.range(..=address).next_back().map(live), self.gone.range(..=address).next_back().map(gone)];
        let after = [self.live.range(address..).next().map(live), self.gone.range(address..).next().map(gone)];
        let distances = before.into_iter().flatten().map(below);
        distances.chain(after.into_iter().flatten().map(|(base, _)| base - address)).min().unwrap_or(u64::MAX)
    }
}

/// Pages of the process that are given back when they are dropped.
#[derive(Debug)]
pub(crate) struct Pages {
    address: u64,
    bytes: usize,
}

impl Pages {
    /// Pages of zeroes; none if the system has no more.
    pub(crate) fn new(bytes: usize) -> Option<Pages> {
        let bytes = bytes.checked_next_multiple_of(4096)?;
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new pages anywhere.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
        (base != libc::MAP_FAILED).then(|| Pages { address: base.expose_provenance() as u64, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let base = with_exposed_provenance_mut(self.address as usize);
        // SAFETY: these pages are ours, and the program that uses them after it freed them is told by the system.
        unsafe { libc::munmap(base, self.bytes) };
    }
}

/// Memory of the process, as the emulator reaches it. The program may touch it at any time, so that all accesses are atomic,
/// as wide as they can be.
#[derive(Debug)]
pub(crate) struct Process {
    address: usize,
    bytes: usize,
}

impl Process {
    pub(crate) fn new(address: u64, bytes: u64) -> Process {
        Process { address: address as usize, bytes: bytes as usize }
    }
}

/// Cuts a range at multiples of 8, and what does not fill one in single bytes, unless it is all one aligned word.
fn pieces(address: usize, bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = bytes - at;
        if left == 0 {
            return None;
        }
        let widths = [8, 4, 2, 1];
        let width = widths.into_iter().find(|&w| w <= left && (address + at).is_multiple_of(w)).unwrap_or(1);
        let piece = (at, width);
        at += width;
        Some(piece)
    })
}

impl emu::HostMemory for Process {
    fn len(&self) -> usize {
        self.bytes
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        let base = self.address + offset;
        for (at, width) in pieces(base, out.len()) {
            let (from, to) = (base + at, &mut out[at..at + width]);
            // SAFETY: the program gave this memory, and whether it is there still is its promise.
            unsafe {
                match width {
                    8 => to.copy_from_slice(
                        &(*with_exposed_provenance::<AtomicU64>(from)).load(Ordering::Relaxed).to_ne_bytes(),
                    ),
                    4 => to.copy_from_slice(
                        &(*with_exposed_provenance::<AtomicU32>(from)).load(Ordering::Relaxed).to_ne_bytes(),
                    ),
                    2 => to.copy_from_slice(
                        &(*with_exposed_provenance::<AtomicU16>(from)).load(Ordering::Relaxed).to_ne_bytes(),
                    ),
                    _ => to[0] = (*with_exposed_provenance::<AtomicU8>(from)).load(Ordering::Relaxed),
                }
            }
        }
        fence(Ordering::Acquire);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        fence(Ordering::Release);
        let base = self.address + offset;
        for (at, width) in pieces(base, bytes.len()) {
            let (to, from) = (base + at, &bytes[at..at + width]);
            // SAFETY: as in `read`.
            unsafe {
                match width {
                    8 => (*with_exposed_provenance::<AtomicU64>(to)).store(number(from), Ordering::Relaxed),
                    4 => (*with_exposed_provenance::<AtomicU32>(to)).store(number(from) as u32, Ordering::Relaxed),
                    2 => (*with_exposed_provenance::<AtomicU16>(to)).store(number(from) as u16, Ordering::Relaxed),
                    _ => (*with_exposed_provenance::<AtomicU8>(to)).store(from[0], Ordering::Relaxed),
                }
            }
        }
    }
}

/// Up to eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// Bytes that were copied when a call was made, as the source of a copy that happens later.
#[derive(Debug)]
pub(crate) struct Staged(pub(crate) Vec<u8>);

impl emu::HostMemory for Staged {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0[offset..offset + out.len()]);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}
