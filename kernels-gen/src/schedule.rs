//! Chooses schedules: rows of the tuned table first, else by rule from the spec's figures.
//!
//! The tables are RON files in `kernels-gen/schedules`, one for each target: a row names an op, the capacities and the
//! widths that it holds for, and the schedule.

use ir::abi::KV_BLOCK;
use ir::graph::Op;
use ir::spec::{CpuSchedule, GpuSchedule, KernelSpec, Prologue, Schedule};
use ir::target::{Gpu, Machine, Target};
use ir::tensor::Elem;
use ir::{Error, Result};
use serde::Deserialize;

/// A row of a tuned table.
#[derive(Debug, Deserialize)]
struct Row {
    /// Name of the fused op.
    op: String,
    /// Capacities of entry points, first to last.
    tokens: (usize, usize),
    /// Columns of the first weight matrix, first to last; (0, 0) where there is none.
    columns: (usize, usize),
    /// What to use.
    schedule: Schedule,
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

/// Warps of a CTA: with 4 KiB each in flight, several times what hides the latency of memory.
const WARPS: u32 = 8;
/// Columns between two looks of a warp at its place: the largest block of a format.
const CHUNK: u32 = 256;

/// Bytes of weights that a worker takes at once when one token is computed: long enough to stream, short enough to
/// balance.
const UNIT_BYTES: usize = 64 << 10;

/// Fewest KV positions of a split.
const SPLIT: usize = 512;
/// Most splits of a KV cache.
const MOST_SPLITS: usize = 64;

/// The schedule of a spec, which is for `target`.
///
/// # Errors
/// [`Error::Verify`] if a tuned table does not parse.
pub fn choose(spec: &KernelSpec, target: &Target) -> Result<Schedule> {
    let (columns, row_bytes) = first_matrix(spec);
    if let Some((_, text)) = TABLES.iter().find(|(name, _)| *name == spec.target) {
        let rows: Vec<Row> =
            ron::from_str(text).map_err(|e| Error::verify("schedule table", format!("{}: {e}", spec.target)))?;
        let within = |(first, last): (usize, usize), v: usize| (first..=last).contains(&v);
        let hit =
            rows.iter().find(|r| r.op == spec.kind && within(r.tokens, spec.tokens) && within(r.columns, columns));
        if let Some(row) = hit {
            return Ok(row.schedule);
        }
    }
    Ok(match &target.machine {
        Machine::Cpu(_) => Schedule::Cpu(cpu_rule(spec.tokens, row_bytes, context(spec))),
        Machine::Gpu(gpu) => Schedule::Gpu(gpu_rule(gpu)),
    })
}

/// A GPU schedule where no table has a row: a CTA on every multiprocessor.
fn gpu_rule(gpu: &Gpu) -> GpuSchedule {
    GpuSchedule { ctas: gpu.card.sms, warps: WARPS, chunk: CHUNK }
}

/// A CPU schedule where no table has a row.
fn cpu_rule(tokens: usize, row_bytes: usize, context: usize) -> CpuSchedule {
    let tile_bytes = (row_bytes * ir::abi::TILE_ROWS).max(1);
    CpuSchedule {
        prologue: if tokens == 1 { Prologue::PerWorker } else { Prologue::Shared },
        unit_tiles: if tokens <= 16 { (UNIT_BYTES / tile_bytes).clamp(1, 16) as u32 } else { 1 },
        query_tokens: if tokens <= 16 { tokens as u32 } else { 8 },
        split: if tokens <= 16 { split(context) as u32 } else { 0 },
    }
}

/// KV positions of a split: few enough to spread over many workers, but no more than [`MOST_SPLITS`] ranges, because each
/// takes memory for its partial results.
fn split(context: usize) -> usize {
    context.div_ceil(MOST_SPLITS).next_multiple_of(KV_BLOCK).max(SPLIT)
}

/// Positions of the KV cache that an attention reads; 0 for other ops.
fn context(spec: &KernelSpec) -> usize {
    let attention = spec.body.nodes().iter().find(|n| matches!(n.op, Op::Attention { .. }));
    attention.and_then(|n| spec.body.ty(n.inputs[1]).shape.get(1).copied()).unwrap_or(0)
}

/// Columns and row bytes of the first weight matrix of a spec; zeros if there is none.
fn first_matrix(spec: &KernelSpec) -> (usize, usize) {
    let weights = spec.body.nodes().iter().filter(|n| n.op == Op::MatMul).map(|n| spec.body.ty(n.inputs[0]));
    weights
        .filter_map(|ty| match ty.elem {
            Elem::Ggml(format) => Some((ty.columns(), format.bytes_of(ty.columns() as u64) as usize)),
            _ => None,
        })
        .next()
        .unwrap_or((0, 0))
}
