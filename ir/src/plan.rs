//! The plan: the steps of one entry point, in order, and where each buffer lives.
//!
//! The steps of a device are executed in their order; only signals order those of different devices. Invariant: a step
//! names buffers of its own plan and kernels of its manifest, all of one device unless it is a copy; arena buffers whose
//! lifetimes overlap do not overlap in memory. Next hop: the runtime binds buffers to addresses once and replays the
//! steps.

use serde::{Deserialize, Serialize};

/// A device of a manifest, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct DeviceId(pub u8);

impl DeviceId {
    /// The number as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where a buffer's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// In the arena of its device, which the entry points of an artifact share.
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
    /// State number n of the manifest.
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
    /// On which device.
    pub device: DeviceId,
    /// Where there.
    pub place: Place,
    /// Its size.
    pub bytes: u64,
}

/// One thing that a device does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Runs a kernel, which is for one device, on all workers there, or on the CTAs of its grid; what it does is done for
    /// the next step, which may begin earlier where launches overlap ([`crate::target::Gpu::overlaps`]).
    Launch {
        /// Kernel number in the manifest.
        kernel: u32,
        /// Its buffers, as indices into [`Plan::buffers`], in the order of its parameters.
        buffers: Vec<u32>,
    },
    /// Copies a buffer to one of the same size, which may be on another device; the device of the source does it.
    Copy {
        /// The source, as an index into [`Plan::buffers`].
        from: u32,
        /// The target.
        to: u32,
    },
    /// Raises a flag, once all steps of the device before it are done.
    Signal {
        /// The device that does it.
        device: DeviceId,
        /// The flag, below [`Plan::flags`]. Each is raised once.
        flag: u32,
    },
    /// Lets the steps of the device after it begin only when a flag has been raised.
    Wait {
        /// The device that waits.
        device: DeviceId,
        /// The flag, below [`Plan::flags`], which an earlier step raises.
        flag: u32,
    },
}

impl Step {
    /// The launch's kernel and buffers, if it is one.
    pub fn launch(&self) -> Option<(u32, &[u32])> {
        match self {
            Step::Launch { kernel, buffers } => Some((*kernel, buffers)),
            _ => None,
        }
    }
}

/// Memory of a device that a plan needs beside weights and states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Needs {
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Bytes of the zeroed memory.
    pub zeroed_bytes: u64,
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
    /// What it needs of each device of the manifest.
    pub needs: Vec<Needs>,
    /// How many flags its steps raise.
    pub flags: u32,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (device, Needs { arena_bytes, zeroed_bytes }) in self.needs.iter().enumerate() {
            write!(f, "device {device}: arena {arena_bytes} bytes")?;
            if *zeroed_bytes > 0 {
                write!(f, ", zeroed {zeroed_bytes} bytes")?;
            }
            writeln!(f)?;
        }
        for (i, b) in self.buffers.iter().enumerate() {
            let place = match b.place {
                Place::Arena { offset } => format!("arena+{offset}"),
                Place::Zeroed { offset } => format!("zeroed+{offset}"),
                Place::Weight(n) => format!("weight {n}"),
                Place::State(n) => format!("state {n}"),
                Place::Tokens => "tokens".into(),
                Place::Control => "control".into(),
            };
            writeln!(f, "buffer {i} {} : device {} {place}, {} bytes", b.name, b.device.0, b.bytes)?;
        }
        for step in &self.steps {
            match step {
                Step::Launch { kernel, buffers } => {
                    let list: Vec<String> = buffers.iter().map(u32::to_string).collect();
                    writeln!(f, "launch kernel {kernel} ({})", list.join(", "))?;
                }
                Step::Copy { from, to } => writeln!(f, "copy {from} to {to}")?,
                Step::Signal { device, flag } => writeln!(f, "device {} signals flag {flag}", device.0)?,
                Step::Wait { device, flag } => writeln!(f, "device {} waits for flag {flag}", device.0)?,
            }
        }
        writeln!(f, "logits in buffer {}", self.logits)?;
        match self.top {
            Some(Top { buffer, k }) => writeln!(f, "the {k} largest in buffer {buffer}"),
            None => Ok(()),
        }
    }
}
