//! What a kernel computes ([`KernelSpec`]) and how ([`Schedule`]).
//!
//! Invariant: a kernel is a pure function of the two texts, so their hash is its cache key and its line in the lock file.

use crate::abi::KV_BLOCK;
use crate::graph::Graph;
use crate::target::{Machine, Target};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::RangeInclusive;

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

/// Most KV positions of a split: sums of a split and a position have 32 bits.
const MOST_SPLIT: u32 = 1 << 24;

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
    /// Checks the figures of a kernel for `tokens` tokens on `target`. They bound the memory that a kernel can ask for; that
    /// its shared memory fits a card is checked when it is made.
    ///
    /// # Errors
    /// A clause that names the figure and what is allowed.
    pub fn check(&self, tokens: usize, target: &Target) -> std::result::Result<(), String> {
        let within = |what: &str, n: u32, range: RangeInclusive<u32>| match range.contains(&n) {
            true => Ok(()),
            false => Err(format!("{what} is {n}, {} to {} are allowed", range.start(), range.end())),
        };
        let power = |what: &str, n: u32| match n.is_power_of_two() {
            true => Ok(()),
            false => Err(format!("{what} is {n}, which is no power of two")),
        };
        match (self, &target.machine) {
            (Schedule::Cpu(s), Machine::Cpu(_)) => {
                within("unit_tiles", s.unit_tiles, 1..=1024)?;
                within("query_tokens", s.query_tokens, 1..=128)?;
                if !(s.split as usize).is_multiple_of(KV_BLOCK) || s.split > MOST_SPLIT {
                    let rule = format!("0 and multiples of {KV_BLOCK} up to {MOST_SPLIT} are allowed");
                    return Err(format!("split is {}, {rule}", s.split));
                }
                if s.prologue == Prologue::PerWorker && tokens > 1 {
                    return Err(format!("prologue is PerWorker, which is for one token, not for {tokens}"));
                }
                Ok(())
            }
            (Schedule::Gpu(s), Machine::Gpu(gpu)) => {
                within("ctas", s.ctas, 1..=65_535)?;
                within("warps", s.warps, 1..=32)?;
                within("streams", s.streams, 1..=s.warps)?;
                within("chunk", s.chunk, 1..=4096)?;
                power("chunk", s.chunk)?;
                // The lanes of a warp prepare the mbarriers of its ring, one each.
                within("depth", s.depth, 0..=if gpu.bulk_copies() { 32 } else { 0 })?;
                if s.depth > 0 { power("depth", s.depth) } else { Ok(()) }
            }
            (Schedule::Cpu(_), Machine::Gpu(_)) => Err(format!("a Cpu schedule is not for {}", target.name)),
            (Schedule::Gpu(_), Machine::Cpu(_)) => Err(format!("a Gpu schedule is not for {}", target.name)),
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

/// The text of a spec and a schedule, of which [`hash`] is.
pub fn text(spec: &KernelSpec, schedule: &Schedule) -> String {
    format!("{spec}{schedule}\n")
}

/// Hex SHA-256 of the text of a spec and a schedule.
pub fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// The spec of a [`text`].
///
/// # Errors
/// [`Error::Malformed`] for what is no such text, [`Error::Verify`] where an op refuses its operands.
pub fn parse(text: &str) -> Result<KernelSpec> {
    let wrong = || Error::malformed("the text of a kernel does not begin with its spec and end with its schedule");
    let (head, rest) = text.split_once('\n').ok_or_else(wrong)?;
    let ["spec", kind, "tokens", tokens, "target", target] = head.split(' ').collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    let tokens = tokens.parse().map_err(|_| wrong())?;
    let (body, schedule) = rest.trim_end().rsplit_once('\n').ok_or_else(wrong)?;
    if !schedule.starts_with("schedule ") {
        return Err(wrong());
    }
    Ok(KernelSpec::new(kind, body.parse()?, tokens, Target::by_name(target)?))
}

/// The schedule of a [`text`].
///
/// # Errors
/// [`Error::Malformed`] for what is no such text.
pub fn schedule(text: &str) -> Result<Schedule> {
    let line = text.trim_end().rsplit('\n').next().and_then(|line| line.strip_prefix("schedule "));
    let wrong = || Error::malformed("the text of a kernel does not end with its schedule");
    let line = line.ok_or_else(wrong)?;
    let numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    let numbers: Vec<u32> = numbers.map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| wrong())?;
    let prologue = [Prologue::PerWorker, Prologue::Shared].into_iter().find(|p| line.starts_with(&format!("{p:?},")));
    let schedule = match (prologue, &numbers[..]) {
        (Some(prologue), &[unit_tiles, query_tokens, split]) => {
            Schedule::Cpu(CpuSchedule { prologue, unit_tiles, query_tokens, split })
        }
        (None, &[ctas, warps, streams, chunk, depth]) => {
            Schedule::Gpu(GpuSchedule { ctas, warps, streams, chunk, depth })
        }
        _ => return Err(wrong()),
    };
    // Other words between the numbers are another text.
    if schedule.to_string().strip_prefix("schedule ") == Some(line) { Ok(schedule) } else { Err(wrong()) }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_as_text() {
        let cpu = CpuSchedule { prologue: Prologue::Shared, unit_tiles: 4, query_tokens: 8, split: 512 };
        let gpu = GpuSchedule { ctas: 170, warps: 8, streams: 3, chunk: 512, depth: 2 };
        for of in [Schedule::Cpu(cpu), Schedule::Gpu(gpu)] {
            assert_eq!(schedule(&format!("spec\nbody\n{of}\n")).unwrap(), of);
        }
        for text in ["", "schedule", "schedule 1 CTAs", "schedule 1 CTA of 2 warps, 3, 4, 5", "schedule Shared, unit 1"]
        {
            assert!(schedule(text).is_err(), "{text}");
        }
    }
}
