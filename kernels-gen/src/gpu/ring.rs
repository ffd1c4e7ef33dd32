//! The ring of a warp: slots in shared memory that bulk copies fill with the weights of its next chunks.
//!
//! Slots are the warp's own, so that no other warp is waited for. Chunk n of the warp is in slot n mod depth; the
//! mbarrier at the end of the slot ends phase n / depth when it is there. One lane starts the copy of the chunk that
//! follows in a slot after all lanes have read the one before. The copies of the first chunks start before the launch
//! before this one ends.

use super::{Thread, if_below, maybe};
use ir::kernel::{Buf, Builder, BulkCopy, Compare, Mem, Scope, Value};

/// Bytes that a slot has for its mbarrier, which keep the next slot aligned.
const MBARRIER: usize = 16;

/// The ring of each warp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    /// Slots of a warp, a power of two.
    pub depth: usize,
    pub slots: Buf,
    /// Bytes of a slot's chunk.
    chunk: usize,
    /// The warp's first slot.
    first: Value,
}

/// A slot for one chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Byte index in the slots.
    pub at: Value,
    /// The same of its mbarrier.
    mbarrier: Value,
}

impl Ring {
    /// Declares the shared memory and prepares the mbarriers, for the first `warps` of the CTA.
    pub fn new(b: &mut Builder, at: &Thread, warps: usize, depth: usize, chunk: usize) -> Ring {
        let all = (warps * depth) as u64;
        let slots = b.scratch("slots", Mem::U8, all * (chunk + MBARRIER) as u64);
        let ring = Ring { depth, slots, chunk, first: b.imul_const(at.warp, depth) };
        let has_one = (warps < at.warps).then(|| {
            let warps = b.size(warps);
            b.compare(Compare::ULt, at.warp, warps)
        });
        maybe(b, has_one, |b| {
            if_below(b, at.lane, depth, |b| {
                let slot = ring.slot(b, at.lane);
                b.mbarrier_init(slots, slot.mbarrier);
                b.fence_async();
            });
        });
        b.sync(Scope::Warp);
        ring
    }

    /// The slot of chunk `n`.
    pub fn slot(&self, b: &mut Builder, n: Value) -> Slot {
        let depth = b.size(self.depth);
        let number = b.urem(n, depth);
        let number = b.iadd(self.first, number);
        let at = b.imul_const(number, self.chunk + MBARRIER);
        Slot { at, mbarrier: b.iadd_const(at, self.chunk) }
    }

    /// The parity of the phase that chunk `n` ends.
    pub fn parity(&self, b: &mut Builder, n: Value) -> Value {
        let (depth, two) = (b.size(self.depth), b.int(2));
        let phase = b.udiv(n, depth);
        b.urem(phase, two)
    }

    /// Waits until a chunk is in its slot, by the parity of its phase.
    pub fn wait(&self, b: &mut Builder, slot: Slot, parity: Value) {
        b.mbarrier_wait(self.slots, slot.mbarrier, parity);
    }

    /// Starts to copy a chunk to its slot, in one thread.
    pub fn copy(&self, b: &mut Builder, slot: Slot, from: (Buf, Value), bytes: usize) {
        let (to, mbarrier) = ((self.slots, slot.at), (self.slots, slot.mbarrier));
        b.bulk_copy(BulkCopy { to, from, bytes: bytes as u32, mbarrier });
    }
}
