//! Code that is loaded: modules belong to a context and have variables and functions; libraries belong to none, have kernels,
//! and become a module in each context that uses them. What a card has room for follows from a kernel's figures.

use crate::cards::{BLOCK_SHARED, BLOCK_THREADS, Card, REGISTERS, RESERVED_SHARED};
use crate::image::Source;
use crate::jit::Code;
use crate::objects::Context;
use crate::options::Logs;
use crate::slots::{Handle, Kind};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

/// A module in a context.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) context: Handle<Context>,
    pub(crate) loaded: Arc<emu::Loaded>,
    pub(crate) code: Arc<Code>,
    /// The call that loaded it.
    pub(crate) from: &'static str,
    /// It is that of a library.
    pub(crate) library: Option<Handle<Library>>,
    pub(crate) functions: BTreeMap<String, Handle<Function>>,
}

impl Kind for Module {
    const TAG: u8 = 0x14;
    const NAME: &'static str = "module";
}

/// What can be set of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// Bytes of dynamic shared memory, at most.
    pub(crate) dynamic_shared: u32,
    /// Percent of shared memory, -1 for the default.
    pub(crate) carveout: i32,
    pub(crate) cache: u32,
    pub(crate) cluster: [i32; 3],
    pub(crate) non_portable_cluster: i32,
    pub(crate) cluster_policy: i32,
}

impl Preferences {
    /// Those of a kernel that nobody has set.
    pub(crate) fn of(entry: &emu::Entry) -> Preferences {
        Preferences {
            dynamic_shared: BLOCK_SHARED.saturating_sub(entry.static_shared as u32),
            carveout: -1,
            cache: 0,
            cluster: [0; 3],
            non_portable_cluster: 0,
            cluster_policy: 0,
        }
    }
}

/// A kernel in a context.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) module: Handle<Module>,
    pub(crate) code: Arc<Code>,
    /// Its place among the entries of the code.
    pub(crate) entry: usize,
    pub(crate) name: CString,
    pub(crate) preferences: Preferences,
    pub(crate) kernel: Option<Handle<Kernel>>,
}

impl Kind for Function {
    const TAG: u8 = 0x15;
    const NAME: &'static str = "function";
}

/// Code that belongs to no context.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) code: Arc<Code>,
    pub(crate) from: &'static str,
    /// By place among the entries of the code.
    pub(crate) kernels: Vec<Handle<Kernel>>,
    pub(crate) modules: BTreeMap<Handle<Context>, Handle<Module>>,
}

impl Kind for Library {
    const TAG: u8 = 0x16;
    const NAME: &'static str = "library";
}

/// A kernel of a library.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) library: Handle<Library>,
    pub(crate) code: Arc<Code>,
    pub(crate) entry: usize,
    pub(crate) name: CString,
    pub(crate) preferences: Preferences,
}

impl Kind for Kernel {
    const TAG: u8 = 0x17;
    const NAME: &'static str = "kernel";
}

/// A linker at work.
#[derive(Debug)]
pub(crate) struct Linker {
    pub(crate) context: Handle<Context>,
    pub(crate) sources: Vec<Source>,
    pub(crate) logs: Logs,
    /// Its machine code, which lives as long as it.
    pub(crate) result: Option<Vec<u8>>,
}

impl Kind for Linker {
    const TAG: u8 = 0x18;
    const NAME: &'static str = "linker";
}

/// Registers that a thread is taken to need at most, where `.maxnreg` does not say, as the emulator has it: how many are in
/// use at once only an assembler knows.
const USUAL_REGISTERS: u32 = 64;

/// What a kernel takes of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Of a thread.
    pub(crate) registers: u32,
    pub(crate) local: u32,
    /// Of a block.
    pub(crate) static_shared: u32,
    pub(crate) max_threads: u32,
}

impl Figures {
    pub(crate) fn of(entry: &emu::Entry) -> Figures {
        let registers = entry.max_registers.unwrap_or(entry.registers.min(USUAL_REGISTERS)).clamp(1, 255);
        // A warp takes registers in multiples of 256.
        let warps = REGISTERS / (registers.next_multiple_of(8) * 32);
        let declared = entry.max_threads.map_or(BLOCK_THREADS, |d| d.iter().product());
        Figures {
            registers,
            local: entry.local_bytes as u32,
            static_shared: entry.static_shared as u32,
            max_threads: declared.min(warps * 32).min(BLOCK_THREADS),
        }
    }

    /// Blocks of so many threads, with so much dynamic shared memory, that a multiprocessor has room for.
    pub(crate) fn blocks(&self, card: &Card, threads: u32, dynamic_shared: u32) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let shared = u64::from(self.static_shared) + u64::from(dynamic_shared);
        if threads > self.max_threads || shared > u64::from(card.block_shared()) {
            return 0;
        }
        // Shared memory is given in multiples of 128 bytes.
        let shared = shared.next_multiple_of(128) as u32 + RESERVED_SHARED;
        let by_registers = REGISTERS / (self.registers.next_multiple_of(8) * 32 * warps);
        let by_threads = card.arch.threads / (warps * 32);
        by_registers.min(by_threads).min(card.shared() / shared).min(card.arch.blocks)
    }

    /// Bytes of dynamic shared memory that leave room for so many blocks of so many threads.
    pub(crate) fn dynamic_shared(&self, card: &Card, threads: u32, blocks: u32) -> Option<u32> {
        if blocks == 0 || self.blocks(card, threads, 0) < blocks {
            return None;
        }
        let each = card.shared() / blocks / 128 * 128;
        Some(each.saturating_sub(RESERVED_SHARED).min(card.block_shared()).saturating_sub(self.static_shared))
    }

    /// The size of blocks that fills a multiprocessor best, and blocks that fill the card, where `dynamic` says how much shared
    /// memory a block of a size needs.
    pub(crate) fn best_block(&self, card: &Card, limit: u32, dynamic: impl Fn(u32) -> u32) -> (u32, u32) {
        let limit = if limit == 0 { self.max_threads } else { limit.min(self.max_threads) };
        let sizes = (1..=limit.div_ceil(32)).rev().map(|w| (w * 32).min(limit));
        let filled = |&size: &u32| self.blocks(card, size, dynamic(size)) * size;
        // Of equal ones the largest.
        let best = sizes.rev().max_by_key(filled).unwrap_or(0);
        (best, self.blocks(card, best, dynamic(best)) * card.multiprocessors)
    }
}
