//! What a launch executed: thread-instructions by class, traffic by the sizes that hardware moves.

use serde::Serialize;

/// Class of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    Integer,
    Float,
    Convert,
    GlobalLoad,
    GlobalStore,
    SharedLoad,
    SharedStore,
    Control,
    Sync,
    Mma,
    Other,
}

/// Number of classes.
pub(crate) const CLASSES: usize = 11;

/// Counts of launches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Thread-instructions on integers, bits and predicates.
    pub integer: u64,
    /// Thread-instructions on floats.
    pub float: u64,
    /// Conversions.
    pub convert: u64,
    /// Loads from global or generic memory.
    pub global_loads: u64,
    /// Stores to it, atomics included.
    pub global_stores: u64,
    /// Loads from shared memory.
    pub shared_loads: u64,
    /// Stores to it.
    pub shared_stores: u64,
    /// Branches, calls, returns.
    pub control: u64,
    /// Barriers, fences, shuffles, votes.
    pub sync: u64,
    /// Matrix instructions.
    pub mma: u64,
    /// All others.
    pub other: u64,
    /// 32-byte sectors of global memory that loads of warps touched.
    pub sectors_read: u64,
    /// Those that stores touched.
    pub sectors_written: u64,
    /// Bytes that threads and copies read from global memory.
    pub bytes_read: u64,
    /// Bytes that they wrote.
    pub bytes_written: u64,
    /// Shared memory accesses of a warp beyond the first, because two words fell into one bank.
    pub bank_conflicts: u64,
    /// Atomic operations of threads.
    pub atomics: u64,
    /// Plain loads of a word that a `cas` of the kernel exchanges: where other threads exchange it too, a race by the letter
    /// of the memory model, though the `cas` checks what was loaded.
    pub plain_cas_loads: u64,
}

impl Counters {
    /// Thread-instructions of all classes.
    pub fn instructions(&self) -> u64 {
        let memory = self.global_loads + self.global_stores + self.shared_loads + self.shared_stores;
        let arithmetic = self.integer + self.float + self.convert + self.mma;
        arithmetic + memory + self.control + self.sync + self.other
    }
}

/// Counts while launches run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// But for those by class.
    pub(crate) counters: Counters,
    pub(crate) by_class: [u64; CLASSES],
}

impl Tally {
    /// All of them.
    pub(crate) fn total(&self) -> Counters {
        let mut c = self.counters.clone();
        let fields = [
            &mut c.integer,
            &mut c.float,
            &mut c.convert,
            &mut c.global_loads,
            &mut c.global_stores,
            &mut c.shared_loads,
            &mut c.shared_stores,
            &mut c.control,
            &mut c.sync,
            &mut c.mma,
            &mut c.other,
        ];
        for (field, count) in fields.into_iter().zip(&self.by_class) {
            *field += count;
        }
        c
    }
}
