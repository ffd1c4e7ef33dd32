//! Chooses schedules: rows of tables first, else by rule from the spec's figures.
//!
//! A row names an op, the capacities and the widths that it holds for, and the schedule. The tables in
//! `kernels-gen/schedules`, RON files, one for each target, are part of the program; rows that a caller gives come
//! before.

use crate::Generated;
use ir::abi::{KV_BLOCK, TILE_ROWS, WARP_ROWS};
use ir::graph::Op;
use ir::quant::Format;
use ir::spec::{CpuSchedule, GpuSchedule, KernelSpec, Prologue, Schedule};
use ir::target::{Gpu, Machine, Target};
use ir::tensor::{Elem, TensorType};
use ir::{Error, Result};
use serde::Deserialize;

/// A row of a table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Name of the fused op.
    op: String,
    /// Capacities of entry points, first to last.
    tokens: (usize, usize),
    /// Columns of the first weight matrix, first to last; (0, 0) where there is none.
    columns: (usize, usize),
    /// What to use.
    schedule: Schedule,
}

/// The rows of a table.
///
/// # Errors
/// [`Error::Verify`] naming the place.
pub fn rows(text: &str) -> Result<Vec<Row>> {
    ron::from_str(text).map_err(|e| Error::verify("schedule table", e.to_string()))
}

/// The tuned tables, by target.
const TABLES: &[(&str, &str)] = &[
    ("x86-64", include_str!("../schedules/x86-64.ron")),
    ("x86-64-v3", include_str!("../schedules/x86-64-v3.ron")),
    ("x86-64-v4-vnni", include_str!("../schedules/x86-64-v4-vnni.ron")),
    ("sm_80", include_str!("../schedules/sm_80.ron")),
    ("sm_89", include_str!("../schedules/sm_89.ron")),
    ("sm_90", include_str!("../schedules/sm_90.ron")),
    ("sm_120", include_str!("../schedules/sm_120.ron")),
];

/// Warps of a CTA, those that multiply, depths of their rings and columns of a chunk, best first. Deep rings keep
/// weights coming while a warp computes, many warps prepare input rows faster, large chunks need fewer instructions
/// around them.
const RINGS: [(u32, u32, u32, u32); 11] = [
    (8, 8, 4, 512),
    (8, 8, 2, 512),
    (8, 8, 1, 512),
    (4, 4, 1, 512),
    (4, 3, 1, 512),
    (4, 2, 1, 512),
    (8, 8, 2, 256),
    (4, 4, 2, 256),
    (8, 8, 1, 256),
    (4, 4, 1, 256),
    (2, 2, 1, 256),
];
/// Without rings: with 4 KiB in flight for each warp, several times what hides the latency of memory.
const NO_RING: (u32, u32, u32, u32) = (8, 8, 0, 256);
/// Columns of a chunk in every product; larger ones are for products that give each CTA enough of them.
const CHUNK: u32 = 256;
/// Chunks of a CTA that balance a grid well enough: one more or less is 6 % of its time.
const CHUNKS: usize = 16;
/// CTAs of overlapping launches that a multiprocessor is to hold at once: one computes, one waits with full rings.
const RESIDENT: u32 = 2;
/// Shared memory that a GPU takes for itself of that of each CTA, bytes.
const RESERVED: u32 = 1024;

/// Bytes of weights that a worker takes at once when few tokens are computed and tiles are small: short, as a worker waits
/// half of the time of one on average where workers meet, but long against what it takes to draw it.
const UNIT_BYTES: usize = 16 << 10;

/// Fewest KV positions of a split.
const SPLIT: usize = 512;
/// Most splits of a KV cache.
const MOST_SPLITS: usize = 64;

/// The schedule of a spec, which is for `target`, and its kernel: of a row of `own` or of the tuned table if there is
/// one; else the first candidate of which two CTAs fit on a multiprocessor, or else one. A ring of which only one fits
/// still comes before none: it fills while the CTA prepares its input row.
///
/// # Errors
/// [`Error::Verify`] if a tuned table does not parse; [`Error::Unsupported`] if the kernel cannot be generated.
pub fn choose(spec: &KernelSpec, target: &Target, own: &[Row]) -> Result<(Schedule, Generated)> {
    let generate = |schedule: Schedule| Ok((schedule, crate::generate(spec, &schedule, target)?));
    if let Some(schedule) = tuned(spec, own)? {
        return generate(schedule);
    }
    let Machine::Gpu(gpu) = &target.machine else { return generate(cpu_rule(spec)) };
    let (one, several) = (gpu.card.shared_bytes, gpu.card.sm_shared_bytes / RESIDENT - RESERVED);
    let mut fitting = None;
    let mut smallest = None;
    for schedule in candidates(spec, gpu) {
        if schedule.depth == 0 && fitting.is_some() {
            break;
        }
        let made = generate(Schedule::Gpu(schedule))?;
        let bytes = made.1.kernel.scratch_bytes;
        if bytes <= u64::from(several) {
            return Ok(made);
        }
        if bytes <= u64::from(one) {
            fitting.get_or_insert(made);
        } else {
            smallest = Some(made);
        }
    }
    fitting.or(smallest).ok_or_else(|| Error::verify("schedule", format!("no candidates for {}", spec.kind)))
}

/// The schedule of the first row for a spec.
fn tuned(spec: &KernelSpec, own: &[Row]) -> Result<Option<Schedule>> {
    let table = TABLES.iter().find(|(name, _)| *name == spec.target).map_or(Ok(Vec::new()), |(_, text)| rows(text))?;
    // 0 if there is no weight matrix.
    let columns = matrices(spec).next().map_or(0, |(ty, _)| ty.columns());
    let within = |(first, last): (usize, usize), v: usize| (first..=last).contains(&v);
    let hit = own
        .iter()
        .chain(&table)
        .find(|r| r.op == spec.kind && within(r.tokens, spec.tokens) && within(r.columns, columns));
    Ok(hit.map(|row| row.schedule))
}

/// What a GPU kernel of a spec may run with, best first: a CTA on every multiprocessor, with rings where there are
/// products and bulk copies.
fn candidates(spec: &KernelSpec, gpu: &Gpu) -> Vec<GpuSchedule> {
    let tiles: usize = matrices(spec).map(|(ty, _)| ty.rows().div_ceil(WARP_ROWS) * ty.columns()).sum();
    let enough = |chunk: u32| chunk == CHUNK || tiles / chunk as usize >= CHUNKS * gpu.card.sms as usize;
    let rings = RINGS.iter().filter(|(.., chunk)| gpu.bulk_copies() && tiles > 0 && enough(*chunk));
    let schedule = |&(warps, streams, depth, chunk)| GpuSchedule { ctas: gpu.card.sms, warps, streams, chunk, depth };
    rings.chain([&NO_RING]).map(schedule).collect()
}

/// A CPU schedule where no table has a row.
fn cpu_rule(spec: &KernelSpec) -> Schedule {
    let tokens = spec.tokens;
    // A band, as that is what lies together; where tiles are not cut, a tile, or several small ones.
    let unit_tiles = matrices(spec).next().map_or(1, |(ty, format)| {
        let row_bytes = format.bytes_of(ty.columns() as u64) as usize;
        let small = if tokens <= 16 { UNIT_BYTES / (row_bytes * TILE_ROWS).max(1) } else { 1 };
        small.clamp(ty.layout.pieces(format, ty.columns()).tiles, 16)
    });
    Schedule::Cpu(CpuSchedule {
        prologue: if tokens == 1 { Prologue::PerWorker } else { Prologue::Shared },
        unit_tiles: unit_tiles as u32,
        query_tokens: if tokens <= 16 { tokens as u32 } else { 8 },
        split: if tokens <= 16 { split(context(spec)) as u32 } else { 0 },
    })
}

/// KV positions of a split: few enough to spread over many workers, but no more than [`MOST_SPLITS`] ranges, because
/// each takes memory for its partial results.
fn split(context: usize) -> usize {
    context.div_ceil(MOST_SPLITS).next_multiple_of(KV_BLOCK).max(SPLIT)
}

/// Positions of the KV cache that an attention reads; 0 for other ops.
fn context(spec: &KernelSpec) -> usize {
    let attention = spec.body.nodes().iter().find(|n| matches!(n.op, Op::Attention { .. }));
    attention.and_then(|n| spec.body.ty(n.inputs[1]).shape.get(1).copied()).unwrap_or(0)
}

/// The weight matrices of a spec's products.
fn matrices(spec: &KernelSpec) -> impl Iterator<Item = (&TensorType, Format)> {
    let weights = spec.body.nodes().iter().filter(|n| n.op == Op::MatMul).map(|n| spec.body.ty(n.inputs[0]));
    weights.filter_map(|ty| match ty.elem {
        Elem::Ggml(format) => Some((ty, format)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a product of so many columns runs with on `target`, and how many of its CTAs a multiprocessor holds.
    fn chosen(target: &str, format: &str, columns: usize) -> (GpuSchedule, u64) {
        let body = format!(
            "%0 = param 0 : {format}[8192,{columns}]@rows32\n%1 = param 1 : f32[1,{columns}]\n\
             %2 = quantize %1 : q8[1,{columns}]\n%3 = matmul %0, %2 : f32[1,8192]\n%4 = param 2 : f32[1,8192]\n\
             %5 = add %3, %4 : f32[1,8192]\noutput \"out\" %5\n"
        );
        let target = Target::by_name(target).unwrap();
        let spec = KernelSpec::new("project", body.parse().unwrap(), 1, target);
        let (schedule, made) = choose(&spec, target, &[]).unwrap();
        let (Schedule::Gpu(schedule), Some(gpu)) = (schedule, target.gpu()) else { panic!("{schedule}") };
        (schedule, u64::from(gpu.card.sm_shared_bytes) / (made.kernel.scratch_bytes + u64::from(RESERVED)))
    }

    #[test]
    fn long_rows_keep_their_rings() {
        for format in ["q4_k", "q6_k"] {
            // Two CTAs where rings leave room for them, else one; the longest rows leave no room for a ring.
            for (target, columns, ring, ctas) in [
                ("sm_120", 8192, true, 2),
                ("sm_120", 28_672, true, 1),
                ("sm_120", 65_536, false, 1),
                ("sm_90", 28_672, true, 2),
                ("sm_89", 28_672, false, 2),
            ] {
                let (schedule, resident) = chosen(target, format, columns);
                assert_eq!((schedule.depth > 0, resident), (ring, ctas), "{target} {format} {columns}: {schedule:?}");
            }
        }
    }
}
