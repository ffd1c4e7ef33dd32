//! What a kernel computes ([`KernelSpec`]) and how ([`Schedule`]).
//!
//! Invariant: a kernel is a pure function of the two texts, so their hash is its cache key and its line in the lock file.

use crate::abi::KV_BLOCK;
use crate::graph::Graph;
use crate::target::{Machine, Target};
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
    /// KV positions that are attended to before results are combined, by one worker each where it takes all tokens; 0: all of
    /// them.
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
        match (self, &target.machine) {
            (Schedule::Cpu(s), Machine::Cpu(_)) => {
                let [_, unit_tiles, query_tokens, split] = &CPU_FIELDS;
                unit_tiles.check(s.unit_tiles, unit_tiles.last)?;
                query_tokens.check(s.query_tokens, query_tokens.last)?;
                split.check(s.split, split.last)?;
                if s.prologue == Prologue::PerWorker && tokens > 1 {
                    return Err(format!("prologue is PerWorker, which is for one token, not for {tokens}"));
                }
                Ok(())
            }
            (Schedule::Gpu(s), Machine::Gpu(gpu)) => {
                let [ctas, warps, streams, chunk, depth] = &GPU_FIELDS;
                ctas.check(s.ctas, ctas.last)?;
                warps.check(s.warps, warps.last)?;
                streams.check(s.streams, s.warps)?;
                chunk.check(s.chunk, chunk.last)?;
                depth.check(s.depth, if gpu.bulk_copies() { depth.last } else { 0 })
            }
            (Schedule::Cpu(_), Machine::Gpu(_)) => Err(format!("a Cpu schedule is not for {}", target.name)),
            (Schedule::Gpu(_), Machine::Cpu(_)) => Err(format!("a Gpu schedule is not for {}", target.name)),
        }
    }
}

/// Which numbers of a range a figure may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// A word, not a number.
    Word(&'static str),
    All,
    /// Powers of two, and 0 if the range begins with it.
    Powers,
    Multiples(u32),
}

/// A figure of a schedule, for checks and for people.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    first: u32,
    last: u32,
    numbers: Numbers,
    /// What it is.
    pub meaning: &'static str,
}

const fn field(name: &'static str, (first, last): (u32, u32), numbers: Numbers, meaning: &'static str) -> Field {
    Field { name, first, last, numbers, meaning }
}

/// The fields of [`CpuSchedule`].
pub const CPU_FIELDS: [Field; 4] = [
    field(
        "prologue",
        (0, 0),
        Numbers::Word("PerWorker (one token only) or Shared"),
        "who prepares the input rows of a product",
    ),
    field("unit_tiles", (1, 1024), Numbers::All, "tiles of 16 rows that a worker takes at once"),
    field("query_tokens", (1, 128), Numbers::All, "tokens whose queries share the loads of an attention"),
    field(
        "split",
        (0, MOST_SPLIT),
        Numbers::Multiples(KV_BLOCK as u32),
        "positions that a worker attends to before results are combined; 0: all",
    ),
];
/// The fields of [`GpuSchedule`]; the lanes of a warp prepare the mbarriers of its ring, one each.
pub const GPU_FIELDS: [Field; 5] = [
    field("ctas", (1, 65_535), Numbers::All, "most thread blocks; fewer run where there is less work"),
    field("warps", (1, 32), Numbers::All, "warps of each; all prepare the input row"),
    field("streams", (1, 32), Numbers::All, "those of them that multiply weights, no more than warps"),
    field("chunk", (1, 4096), Numbers::Powers, "columns that one takes at once; they divide the rows of the matrices"),
    field(
        "depth",
        (0, 32),
        Numbers::Powers,
        "chunks of its ring in shared memory; 0: none, as before sm_90, where there are no bulk copies",
    ),
];

impl Field {
    /// Checks a number; `last` may be below the last that any schedule may have.
    fn check(&self, n: u32, last: u32) -> std::result::Result<(), String> {
        let Field { name, first, numbers, .. } = *self;
        let out = !(first..=last).contains(&n);
        match numbers {
            Numbers::Multiples(of) if out || !n.is_multiple_of(of) => {
                Err(format!("{name} is {n}, {first} and multiples of {of} up to {last} are allowed"))
            }
            _ if out => Err(format!("{name} is {n}, {first} to {last} are allowed")),
            Numbers::Powers if n > 0 && !n.is_power_of_two() => Err(format!("{name} is {n}, which is no power of two")),
            _ => Ok(()),
        }
    }

    /// What it may be.
    pub fn allowed(&self) -> String {
        let Field { first, last, .. } = self;
        match self.numbers {
            Numbers::Word(words) => words.into(),
            Numbers::All => format!("{first} to {last}"),
            Numbers::Powers if *first == 0 => format!("0 and powers of two up to {last}"),
            Numbers::Powers => format!("powers of two, {first} to {last}"),
            Numbers::Multiples(of) => format!("{first} and multiples of {of} up to {last}"),
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
