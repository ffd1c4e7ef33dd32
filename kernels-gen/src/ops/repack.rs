//! `repack`: a weight from the order of its file to tiles of rows, when it is loaded. `runtime/src/repack.rs` does the same
//! on the host, and gives the same bytes.
//!
//! A warp takes a span of blocks of a tile at once: lane = row, so that what it writes is contiguous.

use super::{FusedOp, only_output};
use crate::body::{self, Matrix};
use crate::generator::Generator;
use crate::gpu;
use ir::Result;
use ir::graph::Op;
use ir::kernel::{Buf, Builder, Compare, Mem, Value};

pub(super) const OP: FusedOp = FusedOp {
    name: "repack",
    covers: |body| only_output(body, |op| matches!(op, Op::Repack { .. })).is_some(),
    cpu: None,
    gpu: Some(generate),
};

fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let node = body.node(body.outputs()[0].1.node);
    let matrix = node
        .inputs
        .first()
        .and_then(|&from| Matrix::of(body::param(body, from)?, &node.results[0]))
        .filter(|m| m.layout.tile_rows() == gpu::LANES);
    let Some(m) = matrix else {
        return Err(g.unsupported("anything but a matrix for the warps of a GPU"));
    };
    let (from, to) = (g.param(m.param), g.result(0)?);
    let schedule = g.gpu()?;
    let (span, row, tiles) = (m.layout.span(m.format), m.row_bytes(), m.rows.div_ceil(gpu::LANES));
    let span_bytes = span * m.format.bytes as usize;
    let items = tiles * (row / span_bytes);
    let ctas = (schedule.ctas as usize).min(items.div_ceil(schedule.warps as usize));
    let at = gpu::begin(g, ctas)?;
    let b = &mut g.b;
    b.await_previous();

    let first = b.imul_const(at.cta, at.warps);
    let (first, end) = (b.iadd(first, at.warp), b.size(items));
    b.for_(first, end, (ctas * at.warps) as u32, |b, item| {
        let spans = b.size(row / span_bytes);
        let (tile, number) = (b.udiv(item, spans), b.urem(item, spans));
        let start = b.imul_const(number, span_bytes);
        let (tile_at, in_tile) = (b.imul_const(tile, row * gpu::LANES), b.imul_const(start, gpu::LANES));
        let out = b.iadd(tile_at, in_tile);
        // Past the last row there are zeros.
        let lane_row = b.imul_const(tile, gpu::LANES);
        let lane_row = b.iadd(lane_row, at.lane);
        let (rows, last) = (b.size(m.rows), b.size(m.rows - 1));
        let there = b.compare(Compare::ULt, lane_row, rows);
        let lane_row = b.umin(lane_row, last);
        let source = b.imul_const(lane_row, row);
        let source = b.iadd(source, start);
        for field in m.format.fields {
            let unit = m.layout.unit(m.format, field);
            for offset in (field.offset as usize..).step_by(unit).take(field.bytes as usize * span / unit) {
                let grain =
                    1 << [row, span_bytes, offset, unit, 4].map(usize::trailing_zeros).into_iter().min().unwrap_or(0);
                let read = b.iadd_const(source, offset);
                let to_lane = b.imul_const(at.lane, unit);
                let write = b.iadd(out, to_lane);
                let write = b.iadd_const(write, offset * gpu::LANES);
                copy_unit(b, (from, read), (to, write), (unit, grain), there);
            }
        }
    });
    Ok(())
}

/// Copies a unit of which the source is aligned to `grain` bytes; zeros unless `there`.
fn copy_unit(
    b: &mut Builder,
    (from, read): (Buf, Value),
    (to, write): (Buf, Value),
    (unit, grain): (usize, usize),
    there: Value,
) {
    let size = unit.min(4);
    let mem = |bytes| [Mem::U8, Mem::U16, Mem::I32][usize::trailing_zeros(bytes) as usize];
    let zero = b.int(0);
    let word = |b: &mut Builder, at: usize| {
        let mut word = zero;
        for part in (0..size).step_by(grain.min(size)) {
            let (read, shift) = (b.iadd_const(read, at + part), b.int(8 * part as i32));
            let v = b.load(from, read, mem(grain.min(size)));
            let v = b.shl(v, shift);
            word = b.or(word, v);
        }
        b.select(there, word, zero)
    };
    if unit == 16 {
        let words = [0, 4, 8, 12].map(|at| word(b, at));
        let words = b.pack(words);
        return b.store(to, write, Mem::I32, words);
    }
    for at in (0..unit).step_by(size) {
        let word = word(b, at);
        let write = b.iadd_const(write, at);
        b.store(to, write, mem(size), word);
    }
}
