//! The buffers of a running kernel, with every access checked against their sizes.

use super::{Fault, fault};
use crate::kernel::eval::Data;
use crate::kernel::{Buf, Kernel, Mem, Space};

/// What scratch memory holds before it is written: as a float, NaN.
const UNWRITTEN: u8 = 0xff;

/// The memory of a launch.
pub(super) struct Memory<'a> {
    kernel: &'a Kernel,
    params: &'a mut [Vec<u8>],
    /// The bytes of constants, by buffer.
    constants: Vec<Vec<u8>>,
    /// Scratch memory of each worker, or of the CTA that runs.
    scratch: Vec<Vec<u8>>,
}

/// A byte: a buffer and an offset in it. Scratch is that of `owner`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub buf: Buf,
    pub owner: usize,
    pub at: u64,
}

impl<'a> Memory<'a> {
    pub fn new(kernel: &'a Kernel, params: &'a mut [Vec<u8>]) -> Self {
        let words = |space: &Space| match space {
            Space::Constant(words) => words.iter().flat_map(|w| w.to_le_bytes()).collect(),
            Space::Param(_) | Space::Scratch(_) => Vec::new(),
        };
        let constants = kernel.buffers.iter().map(|b| words(&b.space)).collect();
        Memory { kernel, params, constants, scratch: Vec::new() }
    }

    /// Gives scratch memory to so many owners.
    pub fn reset_scratch(&mut self, owners: usize) {
        self.scratch = vec![vec![UNWRITTEN; self.kernel.scratch_bytes as usize]; owners];
    }

    /// Some bytes of a buffer.
    pub fn bytes(&mut self, place: Place, count: usize) -> Result<&mut [u8], Fault> {
        let decl = &self.kernel.buffers[place.buf.0 as usize];
        let (memory, start) = match decl.space {
            Space::Param(n) => (&mut self.params[n as usize], 0),
            Space::Scratch(start) => (&mut self.scratch[place.owner], u64::from(start)),
            Space::Constant(_) => (&mut self.constants[place.buf.0 as usize], 0),
        };
        let (end, size) = (place.at.saturating_add(count as u64), decl.bytes.min(memory.len() as u64 - start));
        if end > size {
            return fault(format!("bytes {}..{end} of buffer {}, which has {size}", place.at, decl.name));
        }
        Ok(&mut memory[(start + place.at) as usize..(start + end) as usize])
    }

    /// An element of `mem` as the bits of a lane.
    pub fn load(&mut self, place: Place, mem: Mem) -> Result<u32, Fault> {
        let b = self.bytes(place, mem.bytes() as usize)?;
        Ok(match mem {
            Mem::U8 => u32::from(b[0]),
            Mem::I8 => i32::from(b[0] as i8) as u32,
            Mem::U16 => u32::from(u16::from_le_bytes([b[0], b[1]])),
            Mem::I16 => i32::from(i16::from_le_bytes([b[0], b[1]])) as u32,
            Mem::I32 | Mem::F32 => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        })
    }

    /// Writes the lanes of a value as elements of `mem`.
    pub fn store(&mut self, place: Place, mem: Mem, value: Data) -> Result<(), Fault> {
        let size = mem.bytes() as usize;
        let lanes = if value.ty.is_vector() { 4 } else { 1 };
        let to = self.bytes(place, lanes * size)?;
        for (to, bits) in to.chunks_exact_mut(size).zip(value.lanes) {
            to.copy_from_slice(&bits.to_le_bytes()[..size]);
        }
        Ok(())
    }
}
