//! Predicts what launches of GPU kernels take, and what of: enough to rank schedules and to see where time goes.
//!
//! A launch has three spans, one after the other. The *start*: the launch itself, the input row, which every CTA prepares,
//! and the end of the kernel. The *stream* of weights or of a KV cache, which has three bounds: the bandwidth that as many
//! multiprocessors draw; what is in flight, as a warp that waits for memory gets as much as it has asked for in a latency;
//! and the issue of instructions. Bounds that are near each other make each other longer. The *tail*: what the slowest warp
//! has more than the mean. All constants stand in [`CONSTANTS`].

use crate::assembly::{self, Code, Loop, Parts, Resources};
use ir::Result;
use ir::abi::WARP_ROWS;
use ir::artifact::KernelEntry;
use ir::role::Role;
use ir::spec::{self, GpuSchedule, KernelSpec, Schedule};
use ir::target::{CTA_RESERVED, Gpu};
use ir::tensor::TensorType;
use std::collections::HashMap;

/// Where the value of a constant is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Measured by somebody else, or stated by the manufacturer.
    Cited(&'static str),
    /// Reasoned; to be measured.
    Estimated(&'static str),
}

/// A figure that predictions rest on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constant {
    /// What it is.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Its unit; empty: a number.
    pub unit: &'static str,
    /// Where it is from.
    pub source: Source,
}

const fn cited(name: &'static str, value: f64, unit: &'static str, source: &'static str) -> Constant {
    Constant { name, value, unit, source: Source::Cited(source) }
}

const fn estimated(name: &'static str, value: f64, unit: &'static str, source: &'static str) -> Constant {
    Constant { name, value, unit, source: Source::Estimated(source) }
}

const BANDWIDTH: Constant = cited(
    "share of the bandwidth that is reached",
    0.92,
    "",
    "88 to 94 % by llama.cpp's products on an RTX 3090, 93 % by a persistent kernel on an RTX 5090 (alpindale)",
);
const MEMORY: Constant = cited("latency of memory", 329.0, "ns", "Chips and Cheese on GB202, without load");
const CACHE: Constant = cited("latency of the L2 cache", 130.0, "ns", "Chips and Cheese on GB202");
const BULK: Constant =
    estimated("more of a bulk copy", 150.0, "ns", "the copy engine, the mbarrier, and the warp that waits for it");
const LOADED: Constant =
    estimated("most that a warp without a ring loads at once", 4096.0, "bytes", "32 registers of each lane");
const OVERLAPPED: Constant = estimated(
    "launch that begins early",
    1.0,
    "us",
    "1.7 us a phase on an RTX 5090 (alpindale), less the filling and the tail that are counted apart",
);
const LAUNCH: Constant =
    estimated("launch after another", 2.5, "us", "1.3 us in a graph on an H100 (Hazy Research), and its drain");
const PULL: Constant = estimated(
    "most that a multiprocessor draws, in even shares of the bandwidth",
    2.5,
    "",
    "half of the multiprocessors reach the bandwidth, a third do not",
);
const ONE_WARP: Constant = estimated(
    "instructions that one warp issues in a clock",
    0.4,
    "",
    "4 clocks from one to the next that needs it, 23 and more for a load of shared memory, two or three side by side",
);
const MANY_WARPS: Constant =
    estimated("instructions that a scheduler issues in a clock", 0.85, "", "1 at most; conflicts and misses");
const SPILL: Constant = estimated("clocks of a spilled word", 16.0, "", "half of the latency of the L1 cache");
const KNEE: Constant = estimated(
    "power of the mean of bounds",
    4.0,
    "",
    "two equal bounds make a launch 19 % longer than either, as queues at memory do",
);

/// Every constant.
pub const CONSTANTS: [Constant; 12] =
    [BANDWIDTH, MEMORY, CACHE, BULK, LOADED, OVERLAPPED, LAUNCH, PULL, ONE_WARP, MANY_WARPS, SPILL, KNEE];

/// Schedulers of a multiprocessor, each of which issues an instruction of a warp in a clock.
const SCHEDULERS: f64 = 4.0;
/// Registers of a multiprocessor, and those of a warp are whole multiples of so many.
const REGISTERS: (u32, u32) = (65_536, 256);
/// What keeps more CTAs from a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Shared memory.
    Shared,
    /// Registers.
    Registers,
    /// Threads.
    Threads,
    /// CTAs.
    Ctas,
}

/// What most of a launch's time goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The launch, the input row and the end of the kernel.
    Start,
    /// Bytes over bandwidth.
    Bandwidth,
    /// Bytes over what is in flight.
    Flight,
    /// Instructions.
    Issue,
    /// The slowest warp, while others have ended.
    Tail,
}

/// What is predicted of a launch. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// All of it.
    pub seconds: f64,
    /// Its bytes at the card's bandwidth.
    pub roofline: f64,
    /// What most of the time goes to.
    pub bound: Bound,
    /// What it would take if its bytes came at the bandwidth that can be reached.
    pub least: f64,
    /// The spans: start, stream, tail.
    pub spans: [f64; 3],
    /// CTAs that a multiprocessor can hold, and what keeps more away.
    pub resident: (u32, Limit),
    /// Bytes that a multiprocessor has asked for at once, at most.
    pub in_flight: u64,
}

/// The work of a kernel that streams: items, each of which a warp asks for and waits for.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// Items in all, and those of the warp with the most.
    items: f64,
    most: f64,
    /// Warps that take them, of the grid and of a CTA.
    warps: f64,
    in_cta: f64,
    /// Items that a warp has asked for at once.
    depth: f64,
    /// Bytes that an item has in flight.
    bytes: f64,
    /// Seconds that it waits for them.
    wait: f64,
    /// Instructions of an item, and clocks that it waits for what was spilled.
    instructions: f64,
    stalls: f64,
}

/// What a prediction is made from.
struct Launch<'a> {
    kernel: &'a KernelEntry,
    spec: KernelSpec,
    schedule: GpuSchedule,
    parts: &'a Parts,
    spilled: f64,
    gpu: &'a Gpu,
}

/// The parts of each kernel of a module, by its PTX and, where it was disassembled, its machine code.
pub fn parts(ptx: &str, sass: Option<&str>, kernels: &[KernelEntry]) -> HashMap<String, Parts> {
    let machine: HashMap<&str, Code<'_>> =
        sass.map(assembly::sass).into_iter().flatten().map(|code| (code.kernel, code)).collect();
    let known: HashMap<&str, &KernelEntry> = kernels.iter().map(|k| (&*k.name, k)).collect();
    let of = |code: Code<'_>| {
        let parts = code.parts(known.get(code.kernel)?.work.attended_bytes > 0);
        let parts = match machine.get(code.kernel) {
            Some(sass) => parts.in_machine_code(&code, sass),
            None => parts,
        };
        Some((code.kernel.to_owned(), parts))
    };
    assembly::ptx(ptx).into_iter().filter_map(of).collect()
}

/// Predicts a launch of a GPU kernel at a position from the parts of its code and, where an assembler was asked, what it
/// takes; `None` if it has no grid.
///
/// # Errors
/// For a kernel whose text is damaged.
pub fn predict(
    kernel: &KernelEntry,
    parts: &Parts,
    resources: Option<Resources>,
    gpu: &Gpu,
    position: u64,
) -> Result<Option<Prediction>> {
    let (Some(grid), Schedule::Gpu(schedule)) = (kernel.grid, spec::schedule(&kernel.text)?) else { return Ok(None) };
    let spilled = f64::from(resources.map_or(0, |r| r.spill_bytes)) / 4.0;
    let launch = Launch { kernel, spec: spec::parse(&kernel.text)?, schedule, parts, spilled, gpu };
    let resident = resident(grid.threads, kernel.scratch_bytes, resources, gpu);
    launch.predict((grid.ctas, grid.threads), resident, position).map(Some)
}

/// CTAs that a multiprocessor holds at once, of this launch and of those that overlap with it, and what keeps more away.
fn resident(threads: u32, shared: u64, resources: Option<Resources>, gpu: &Gpu) -> (u32, Limit) {
    let (most_threads, most_ctas) = gpu.most_resident();
    let warps = threads.div_ceil(WARP_ROWS as u32).max(1);
    let shared = u64::from(gpu.card.sm_shared_bytes) / (shared + u64::from(CTA_RESERVED));
    let (registers, step) = REGISTERS;
    let of_warp = resources.map_or(0, |r| (r.registers * WARP_ROWS as u32).next_multiple_of(step));
    let bounds = [
        (u32::try_from(shared).unwrap_or(u32::MAX), Limit::Shared),
        (registers / (of_warp * warps).max(1), Limit::Registers),
        (most_threads / (warps * WARP_ROWS as u32), Limit::Threads),
        (most_ctas, Limit::Ctas),
    ];
    let (most, limit) = bounds.into_iter().fold(bounds[0], |least, b| if b.0 < least.0 { b } else { least });
    (most.max(1), limit)
}

/// Bounds that hold at once, as one.
fn together(bounds: [f64; 3]) -> f64 {
    bounds.iter().map(|b| b.powf(KNEE.value)).sum::<f64>().powf(1.0 / KNEE.value)
}

impl Launch<'_> {
    fn predict(&self, (ctas, threads): (u32, u32), resident: (u32, Limit), position: u64) -> Result<Prediction> {
        let card = self.gpu.card;
        let (sms, clock) = (f64::from(card.sms), f64::from(card.clock) * 1e6);
        let bytes = self.kernel.work.bytes(position) as f64;
        let full = f64::from(card.bandwidth) * 1e9;
        // Multiprocessors that have work, CTAs of each, and how often it takes as many as it holds.
        let used = f64::from(ctas.min(card.sms));
        let share = ctas.div_ceil(card.sms);
        let (at_once, waves) = (f64::from(share.min(resident.0)), f64::from(share.div_ceil(resident.0)));
        let reach = full * BANDWIDTH.value.min(PULL.value * used / sms);

        let warps = f64::from(threads) / WARP_ROWS as f64;
        let rate = clock * ONE_WARP.value.min(MANY_WARPS.value * SCHEDULERS / (warps * at_once));
        let (instructions, waits) = self.row(threads)?;
        let row = waves * (instructions / rate + waits * CACHE.value * 1e-9);
        let launch = 1e-6 * if self.gpu.overlaps() { OVERLAPPED.value } else { LAUNCH.value };
        let end = self.parts.after / (ONE_WARP.value * clock) + CACHE.value * 1e-9;
        let least = launch + bytes / (full * BANDWIDTH.value);
        let whole = |spans: [f64; 3], bound, in_flight| Prediction {
            seconds: spans.iter().sum(),
            roofline: bytes / full,
            bound,
            least,
            spans,
            resident,
            in_flight,
        };
        let stream = match self.products(ctas)? {
            None => self.cache(ctas, warps, position)?,
            products => products,
        };
        let Some(s) = stream else {
            let spans = [launch + row + end + MEMORY.value * 1e-9, bytes / reach, 0.0];
            return Ok(whole(spans, if spans[0] > spans[1] { Bound::Start } else { Bound::Bandwidth }, 0));
        };
        // What rings ask for before the row is prepared comes meanwhile.
        let ring = if self.schedule.depth > 0 { s.bytes * s.depth * s.warps } else { 0.0 };
        let bandwidth = (bytes - ring.min(reach * row)).max(0.0) / reach;
        let busy = s.instructions / (ONE_WARP.value * clock) + s.stalls / clock;
        let pace = (s.wait + busy) / s.depth;
        let mean = s.items / s.warps;
        let issued = s.items * s.instructions / (used * SCHEDULERS * MANY_WARPS.value * clock);
        let bounds = [bandwidth, waves * mean * pace, issued.max(waves * mean * busy)];
        let spans = [launch + row + end, together(bounds), waves * (s.most - mean) * pace.max(busy)];
        let largest = |values: &[f64]| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0);
        let bound = match largest(&spans) {
            0 => Bound::Start,
            2 => Bound::Tail,
            _ => [Bound::Bandwidth, Bound::Flight, Bound::Issue][largest(&bounds)],
        };
        Ok(whole(spans, bound, (at_once * s.in_cta * s.depth * s.bytes) as u64))
    }

    /// Instructions of a warp that prepare the input row, and how often it waits for the L2 cache.
    fn row(&self, threads: u32) -> Result<(f64, f64)> {
        let columns = self.matrices()?.first().map_or(0, |m| m.columns());
        // Passes over the row take the same share of it in a turn; some load a factor for each element too.
        let wide = self.parts.rows.iter().map(|l| l.wide).filter(|&n| n > 0).min();
        let turns = wide.map_or(1, |n| columns.div_ceil(4 * n * threads as usize).max(1)) as f64;
        let loops: f64 = self.parts.rows.iter().map(|l| l.instructions).sum();
        Ok((self.parts.before + turns * loops, 1.0 + turns * self.parts.rows.len() as f64))
    }

    /// The types of the parameters of a role.
    fn of_role(&self, role: Role) -> Result<Vec<&TensorType>> {
        let body = &self.spec.body;
        let mut found = Vec::new();
        for (n, ty) in body.params()?.into_iter().enumerate() {
            if Role::of(body, n as u32)? == role {
                found.push(ty);
            }
        }
        Ok(found)
    }

    fn matrices(&self) -> Result<Vec<&TensorType>> {
        self.of_role(Role::Matrix)
    }

    /// Clocks that a turn of a loop waits for what was spilled; where machine code does not tell, all of it is taken to be
    /// in the loops, in each alike.
    fn stalls(&self, l: &Loop) -> f64 {
        let words = if self.parts.machine { l.spilled } else { self.spilled / self.parts.work.len().max(1) as f64 };
        words * SPILL.value
    }

    /// The stream of a product: an item is a chunk of a tile.
    fn products(&self, ctas: u32) -> Result<Option<Stream>> {
        let matrices = self.matrices()?;
        let (Some(first), false) = (matrices.first(), self.parts.work.is_empty()) else { return Ok(None) };
        let GpuSchedule { streams, chunk, depth, .. } = self.schedule;
        let chunk = (chunk as usize).min(first.columns());
        let chunks = first.columns().div_ceil(chunk);
        let items = matrices.iter().map(|m| m.rows().div_ceil(WARP_ROWS)).sum::<usize>() * chunks;
        let warps = (ctas as usize * streams as usize).min(items);
        let most = items.div_ceil(warps);
        let work = &self.parts.work;
        let cost = |i: usize| work.get(i).and_then(Loop::per_32_weights).unwrap_or(0.0);
        // A loop for each matrix, or else the costliest for all.
        let per_32_weights = if work.len() == matrices.len() {
            let sum: f64 = matrices.iter().enumerate().map(|(i, m)| cost(i) * m.elements() as f64).sum();
            sum / matrices.iter().map(|m| m.elements()).sum::<usize>() as f64
        } else {
            self.parts.per_32_weights().unwrap_or(0.0)
        };
        let tile = self.parts.around / work.len() as f64;
        let tiles = most.div_ceil(chunks) + usize::from(!most.is_multiple_of(chunks));
        let bytes = self.kernel.work.weight_bytes as f64 / items as f64;
        // Without a ring an item comes in as many goes as there are registers for.
        let (bytes, wait) = if depth > 0 {
            (bytes, MEMORY.value + BULK.value)
        } else {
            (bytes.min(LOADED.value), MEMORY.value * (bytes / LOADED.value).max(1.0))
        };
        Ok(Some(Stream {
            items: items as f64,
            most: most as f64,
            warps: warps as f64,
            in_cta: f64::from(streams),
            depth: f64::from(depth.max(1)),
            bytes,
            wait: 1e-9 * wait,
            instructions: per_32_weights * chunk as f64 / 32.0 + tile * tiles as f64 / most as f64,
            stalls: work.iter().map(|l| self.stalls(l)).sum::<f64>() / work.len() as f64,
        }))
    }

    /// The stream of a KV cache: an item is a block of 32 positions of a head, which a warp passes through by loops over
    /// its keys and over its values. A kernel that does so more than once finds it in the L2 cache from then on.
    fn cache(&self, ctas: u32, warps: f64, position: u64) -> Result<Option<Stream>> {
        let caches = self.of_role(Role::Attended)?;
        let loops = &self.parts.work;
        let (Some(keys), false) = (caches.first(), loops.iter().any(|l| l.loaded == 0) || loops.is_empty()) else {
            return Ok(None);
        };
        let heads = keys.shape[0].max(1);
        let (all, window) = (position.saturating_add(1), self.kernel.work.window);
        let positions = if window > 0 { all.min(window) } else { all };
        let blocks = positions.div_ceil(WARP_ROWS as u64).max(1) as usize;
        let splits = (ctas as usize / heads).max(1);
        let of_cta = blocks.div_ceil(splits);
        let in_block = (WARP_ROWS as u64).min(positions);
        let block = (self.kernel.work.attended_bytes / heads as u64 * in_block) as f64;
        // Loops alternate between keys and values; a single one has both.
        let kinds = caches.len().min(loops.len());
        let (mut turns, mut wait, mut instructions, mut stalls) = (0.0, 0.0, 0.0, 0.0);
        for (i, l) in loops.iter().enumerate() {
            let own = block / kinds as f64 / (WARP_ROWS * l.loaded) as f64;
            turns += own;
            wait += own * 1e-9 * if i < kinds { MEMORY.value } else { CACHE.value };
            instructions += own * l.instructions;
            stalls += own * self.stalls(l);
        }
        instructions += self.parts.around * kinds as f64 / loops.len() as f64;
        let passes = (loops.len() / kinds) as f64;
        let items = (blocks * heads) as f64;
        Ok(Some(Stream {
            items,
            most: (of_cta as f64 / warps).ceil(),
            warps: items.min(f64::from(ctas) * warps),
            in_cta: warps,
            depth: 1.0,
            bytes: passes * block / turns,
            wait,
            instructions,
            stalls,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::target::Target;

    #[test]
    fn what_fits_a_multiprocessor() {
        let on = |target: &str, threads, shared, registers: u32| {
            let resources = (registers > 0).then_some(Resources { registers, spill_bytes: 0 });
            let target = Target::by_name(target).unwrap();
            resident(threads, shared, resources, target.gpu().unwrap())
        };
        // 100 KiB of shared memory, 1 KiB taken for each CTA.
        assert_eq!(on("sm_120", 128, 50_176, 0), (2, Limit::Shared));
        assert_eq!(on("sm_120", 128, 50_177, 0), (1, Limit::Shared));
        // 128 registers of 256 threads are half of them; they come in whole 8 for a thread.
        assert_eq!(on("sm_120", 256, 1024, 128), (2, Limit::Registers));
        assert_eq!(on("sm_120", 256, 1024, 129), (1, Limit::Registers));
        assert_eq!(on("sm_120", 512, 0, 16), (3, Limit::Threads));
        assert_eq!(on("sm_90", 512, 0, 16), (4, Limit::Threads));
        assert_eq!(on("sm_120", 32, 0, 16), (24, Limit::Ctas));
    }

    #[test]
    fn bounds_near_each_other_add_up() {
        assert!((together([1.0, 1.0, 0.0]) - 1.189).abs() < 1e-3);
        assert!((together([1.0, 0.1, 0.1]) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn constants_have_sources() {
        for c in CONSTANTS {
            let (Source::Cited(source) | Source::Estimated(source)) = c.source;
            assert!(c.value > 0.0 && source.len() > 8, "{}", c.name);
        }
    }
}
