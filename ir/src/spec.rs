//! What a kernel computes ([`KernelSpec`]) and how ([`Schedule`]).
//!
//! Invariant: a kernel is a pure function of the two texts, so their hash is its cache key and its line in the lock file.

use crate::graph::Graph;
use crate::target::Target;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a kernel computes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    /// Name of the fused op.
    pub kind: String,
    /// Its meaning; the types of its parameters carry shapes, formats and layouts.
    pub body: Graph,
    /// Capacity of the entry point.
    pub tokens: usize,
    /// Name of the target.
    pub target: &'static str,
}

impl KernelSpec {
    /// A spec for a target.
    pub fn new(kind: impl Into<String>, body: Graph, tokens: usize, target: &Target) -> Self {
        KernelSpec { kind: kind.into(), body, tokens, target: target.name }
    }
}

impl std::fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spec {} tokens {} target {}\n{}", self.kind, self.tokens, self.target, self.body)
    }
}

/// Where the input rows of a matrix product are normalised and quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Prologue {
    /// By every worker, into its own scratch memory: no barrier.
    PerWorker,
    /// Token by token over the workers, then a barrier.
    Shared,
}

/// How a CPU kernel is laid out in time. Plain numbers; an op uses those that concern it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CpuSchedule {
    /// Where input rows are prepared.
    pub prologue: Prologue,
    /// Weight tiles of 16 rows that a worker takes at once.
    pub unit_tiles: u32,
    /// Tokens whose queries share the loads of an attention kernel.
    pub query_tokens: u32,
    /// KV positions that one worker attends to before results are combined; 0: all of them.
    pub split: u32,
}

/// How a GPU kernel is laid out. Plain numbers; an op uses those that concern it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GpuSchedule {
    /// Most CTAs; fewer run where there is less work.
    pub ctas: u32,
    /// Warps of a CTA.
    pub warps: u32,
    /// Those of them that multiply weights; all prepare the input row.
    pub streams: u32,
    /// Columns of a chunk, the weights that a stream takes at once, if the matrix has as many.
    pub chunk: u32,
    /// Chunks of the ring in shared memory through which a stream reads weights, a power of two; 0: it loads them from where
    /// they are.
    pub depth: u32,
}

/// How a kernel is laid out in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Schedule {
    /// On the workers of a CPU.
    Cpu(CpuSchedule),
    /// On a GPU.
    Gpu(GpuSchedule),
}

impl Schedule {
    /// Checks the figures.
    ///
    /// # Errors
    /// [`Error::Verify`] naming the figure.
    pub fn check(&self, tokens: usize) -> Result<()> {
        let bad = |what: &str| Err(Error::verify("schedule", format!("{what}: {self}")));
        match self {
            Schedule::Cpu(s) if s.unit_tiles == 0 || s.query_tokens == 0 => bad("a unit is empty"),
            Schedule::Cpu(s) if !(s.split as usize).is_multiple_of(crate::abi::KV_BLOCK) => {
                bad("the split is no multiple of the KV block")
            }
            Schedule::Cpu(s) if s.prologue == Prologue::PerWorker && tokens > 1 => {
                bad("a prologue by every worker is for one token")
            }
            Schedule::Gpu(s) if s.ctas == 0 || s.warps == 0 || s.warps > 32 => bad("a grid is empty or too large"),
            Schedule::Gpu(s) if s.streams == 0 || s.streams > s.warps => {
                bad("no warps multiply, or more than there are")
            }
            Schedule::Gpu(s) if s.chunk < 32 || !s.chunk.is_power_of_two() => bad("a chunk is no power of two"),
            Schedule::Gpu(s) if s.depth > 0 && !s.depth.is_power_of_two() => bad("a depth is no power of two"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Schedule::Cpu(CpuSchedule { prologue, unit_tiles, query_tokens, split }) => {
                write!(f, "schedule {prologue:?}, unit {unit_tiles} tiles, {query_tokens} query tokens, split {split}")
            }
            Schedule::Gpu(GpuSchedule { ctas, warps, streams, chunk, depth }) => {
                write!(
                    f,
                    "schedule {ctas} CTAs of {warps} warps, {streams} streams, chunks of {chunk} columns, depth {depth}"
                )
            }
        }
    }
}

/// Hex SHA-256 of a spec and a schedule.
pub fn hash(spec: &KernelSpec, schedule: &Schedule) -> String {
    hex(&Sha256::digest(format!("{spec}{schedule}\n")))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
