//! The plan: the launches of one entry point, in order, and where each buffer lives.
//!
//! Invariant: a step names buffers of its own plan and kernels of its manifest; arena buffers whose lifetimes overlap do
//! not overlap in memory. Next hop: the runtime binds buffers to addresses once and replays the steps.

use serde::{Deserialize, Serialize};

/// Where a buffer's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// In the arena that the entry points of an artifact share.
    Arena {
        /// Byte offset, a multiple of 64.
        offset: u64,
    },
    /// In memory that is zero at every launch: kernels leave it so.
    Zeroed {
        /// Byte offset.
        offset: u64,
    },
    /// Weight number n of the manifest.
    Weight(u32),
    /// KV state number n of the manifest.
    State(u32),
    /// The step's token ids.
    Tokens,
    /// Not in memory: the position, which kernels read from [`crate::abi::Control`]. Its address is null.
    Control,
}

/// A region of memory that kernels take by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Buffer {
    /// Name in prints.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Its size.
    pub bytes: u64,
}

/// One thing the device does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Runs a kernel on all workers, or on the CTAs of its grid; what it does is done for the next step, which may begin
    /// earlier where launches overlap ([`crate::target::Gpu::overlaps`]).
    Launch {
        /// Kernel number in the manifest.
        kernel: u32,
        /// Its buffers, as indices into [`Plan::buffers`], in the order of its parameters.
        buffers: Vec<u32>,
    },
}

/// The largest logits, as [`crate::graph::Op::TopK`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Top {
    /// The buffer that holds them: f32 rows of [`crate::abi::f32_row_bytes`] bytes of 2 k + 1.
    pub buffer: u32,
    /// How many.
    pub k: u32,
}

/// The steps of one entry point.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// Every buffer that a step uses.
    pub buffers: Vec<Buffer>,
    /// In execution order.
    pub steps: Vec<Step>,
    /// The buffer that holds the logits afterwards: f32 rows of [`crate::abi::f32_row_bytes`] bytes of the vocabulary.
    pub logits: u32,
    /// The largest of them, if the plan finds them: as many rows.
    pub top: Option<Top>,
    /// Bytes of the arena that this plan needs.
    pub arena_bytes: u64,
    /// Bytes of the zeroed memory that this plan needs.
    pub zeroed_bytes: u64,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "arena {} bytes", self.arena_bytes)?;
        if self.zeroed_bytes > 0 {
            write!(f, ", zeroed {} bytes", self.zeroed_bytes)?;
        }
        writeln!(f)?;
        for (i, b) in self.buffers.iter().enumerate() {
            let place = match b.place {
                Place::Arena { offset } => format!("arena+{offset}"),
                Place::Zeroed { offset } => format!("zeroed+{offset}"),
                Place::Weight(n) => format!("weight {n}"),
                Place::State(n) => format!("state {n}"),
                Place::Tokens => "tokens".into(),
                Place::Control => "control".into(),
            };
            writeln!(f, "buffer {i} {} : {place}, {} bytes", b.name, b.bytes)?;
        }
        for Step::Launch { kernel, buffers } in &self.steps {
            let list: Vec<String> = buffers.iter().map(u32::to_string).collect();
            writeln!(f, "launch kernel {kernel} ({})", list.join(", "))?;
        }
        writeln!(f, "logits in buffer {}", self.logits)?;
        match self.top {
            Some(Top { buffer, k }) => writeln!(f, "the {k} largest in buffer {buffer}"),
            None => Ok(()),
        }
    }
}
