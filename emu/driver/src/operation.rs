//! What a stream or a node of a graph does, as data: all that a call passed by pointer is copied, and addresses are resolved
//! only when [`crate::submit`] hands it to the emulator.

use crate::code::Function;
use crate::slots::Handle;
use std::sync::Arc;

/// What a stream or a node does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation {
    Kernel(Kernel),
    Copy(Copy),
    Fill(Fill),
    /// A function of the program, and what it is given.
    Host {
        function: usize,
        data: usize,
    },
    /// One after the other.
    Values(Vec<Value>),
    /// Hands out the allocation of the pool that begins at an address.
    Allocate(u64),
    /// Frees the allocation that begins at an address.
    Free(u64),
    Nothing,
}

/// A launch of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kernel {
    pub(crate) function: Handle<Function>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
    /// Laid out as the kernel declares them.
    pub(crate) params: Vec<u8>,
    /// All CTAs have to be there at once.
    pub(crate) cooperative: bool,
    pub(crate) priority: i32,
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Side {
    pub(crate) at: Memory,
    /// Bytes from a row to the next, and from a slice to the next.
    pub(crate) pitch: u64,
    pub(crate) slice: u64,
}

/// Where a side of a copy is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Memory {
    /// An address that kernels could use.
    Device(u64),
    /// An address of the process, pinned or not.
    Host(u64),
    /// Bytes that were copied before; only the source.
    Staged(Arc<Vec<u8>>),
}

/// A copy of `slices` times `rows` rows of `width` bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Copy {
    pub(crate) from: Side,
    pub(crate) to: Side,
    pub(crate) width: u64,
    pub(crate) rows: u64,
    pub(crate) slices: u64,
}

/// A fill of `rows` rows of `count` values of `width` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) to: u64,
    pub(crate) pitch: u64,
    pub(crate) value: u32,
    pub(crate) width: u32,
    pub(crate) count: u64,
    pub(crate) rows: u64,
}

/// Writes a word, or waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) address: u64,
    pub(crate) value: emu::Word,
    /// None: writes.
    pub(crate) wait: Option<emu::Compare>,
}

impl Value {
    /// Bytes of the word.
    pub(crate) fn bytes(&self) -> u64 {
        match self.value {
            emu::Word::B32(_) => 4,
            emu::Word::B64(_) => 8,
        }
    }
}

impl Fill {
    /// From the first to behind the last byte that is written; none if there is no byte or no such address.
    pub(crate) fn span(&self) -> Option<u64> {
        let row = self.count.checked_mul(u64::from(self.width))?;
        self.rows.checked_sub(1)?.checked_mul(self.pitch)?.checked_add(row).filter(|_| row > 0)
    }
}

impl Side {
    /// From the first to behind the last byte that a copy touches; none if there is no byte or no such address.
    pub(crate) fn span(&self, copy: &Copy) -> Option<u64> {
        let last = (copy.slices.checked_sub(1)?).checked_mul(self.slice)?;
        let last = last.checked_add((copy.rows.checked_sub(1)?).checked_mul(self.pitch)?)?;
        last.checked_add(copy.width).filter(|_| copy.width > 0)
    }
}

impl Copy {
    /// A copy of bytes that follow one another.
    pub(crate) fn flat(from: Memory, to: Memory, bytes: u64) -> Copy {
        let side = |at| Side { at, pitch: bytes, slice: bytes };
        Copy { from: side(from), to: side(to), width: bytes, rows: 1, slices: 1 }
    }

    /// Nothing is copied.
    pub(crate) fn empty(&self) -> bool {
        self.width == 0 || self.rows == 0 || self.slices == 0
    }
}
