//! The dot product of a lane's weight row with the CTA's input row, over a chunk of columns. A lane has a row of the tile,
//! so activations are broadcast and nothing is summed across lanes.

use super::rows::{META, Row};
use crate::block::BlockView;
use crate::body::Matrix;
use crate::matmul::UnpackFn;
use ir::abi::{LANE_BYTES, Q8_BLOCK, WARP_ROWS};
use ir::kernel::{Buf, Builder, Mem, Unary, Value};
use ir::quant::{DotForm, FloatKind};
use ir::{Error, Result};

/// Columns of a float matrix that are multiplied without a loop.
const FLOAT_CHUNK: usize = 64;

/// Columns of a chunk: the most that divide the row, up to `most`.
pub(crate) fn chunk(m: &Matrix, most: usize) -> usize {
    let least = (m.format.block as usize).max(m.layout.span(m.format));
    let most = if m.wants_int8() { most.max(least) } else { most.min(FLOAT_CHUNK) };
    let mut columns = most;
    while !m.columns.is_multiple_of(columns) && columns > least {
        columns /= 2;
    }
    columns
}

/// Bytes of a chunk of so many columns.
pub(crate) fn chunk_bytes(m: &Matrix, columns: usize) -> usize {
    m.format.bytes_of(columns as u64) as usize * WARP_ROWS
}

/// `acc` plus the products of `columns` columns from `first` on: of row `lane` of the chunk at byte `weights` of `w`, with
/// the input row.
///
/// # Errors
/// For a format without an `unpack`.
pub(crate) fn dot(
    b: &mut Builder,
    m: &Matrix,
    (w, weights, lane): (Buf, Value, Value),
    row: &Row,
    (first, columns): (Value, usize),
    acc: Value,
) -> Result<Value> {
    match (m.format.dot, m.format.unpack, row.float, row.int8) {
        (DotForm::Float(kind), _, Some(x), _) => Ok(float(b, kind, (w, weights, lane), (x, first, columns), acc)),
        (_, Some(unpack), _, Some(x)) => {
            Ok(int(b, m, unpack, (w, weights, lane), (x, row.columns), (first, columns), acc))
        }
        (form, ..) => Err(Error::unsupported(format!("{form:?} without an unpack"), "write the format's unpack")),
    }
}

fn float(
    b: &mut Builder,
    kind: FloatKind,
    (w, weights, lane): (Buf, Value, Value),
    (x, first, columns): (Buf, Value, usize),
    acc: Value,
) -> Value {
    let bytes = if kind == FloatKind::F32 { 4 } else { 2 };
    let (unit, in_tile) = (LANE_BYTES / bytes, b.imul_const(lane, LANE_BYTES));
    let weights = b.iadd(weights, in_tile);
    let mut sums = [acc, b.float(0.0)];
    for (i, c) in (0..columns).step_by(unit).enumerate() {
        let at = b.iadd_const(weights, i * LANE_BYTES * WARP_ROWS);
        let values: Vec<Value> = if kind == FloatKind::F32 {
            let v = b.load4(w, at, Mem::F32);
            (0..4).map(|l| b.lane(v, l)).collect()
        } else {
            let v = b.load4(w, at, Mem::I32);
            let halves = (0..4).flat_map(|l| {
                let word = b.lane(v, l);
                let (mask, shift) = (b.int(0xffff), b.int(16));
                [b.and(word, mask), b.shr_u(word, shift)]
            });
            let halves: Vec<Value> = halves.collect();
            let op = if kind == FloatKind::F16 { Unary::FromHalf } else { Unary::FromBf16 };
            halves.into_iter().map(|h| b.unary(op, h)).collect()
        };
        for (j, four) in values.chunks_exact(4).enumerate() {
            let at = b.iadd_const(first, c + 4 * j);
            let x = b.load4(x, at, Mem::F32);
            for (l, &v) in four.iter().enumerate() {
                let x = b.lane(x, l as u8);
                let sum = &mut sums[j % 2];
                *sum = b.fma(v, x, *sum);
            }
        }
    }
    b.fadd(sums[0], sums[1])
}

fn int(
    b: &mut Builder,
    m: &Matrix,
    unpack: UnpackFn,
    (w, weights, lane): (Buf, Value, Value),
    (x, row_columns): (Buf, usize),
    (first, columns): (Value, usize),
    acc: Value,
) -> Value {
    let block = m.format.block as usize;
    let (elements, mut acc) = (b.size(Q8_BLOCK), acc);
    let meta = b.udiv(first, elements);
    let meta = b.imul_const(meta, META);
    for i in 0..columns / block {
        let number = b.size(i);
        let mut view = BlockView::new(b, w, m, (weights, Some(lane)), number);
        for e in (0..block).step_by(Q8_BLOCK) {
            let column = i * block + e;
            let halves = [unpack(&mut view, e as u32), unpack(&mut view, e as u32 + 16)];
            let codes = halves.map(|half| view.vector(half.codes));
            let b = view.builder();
            let at = b.iadd_const(meta, row_columns + column / Q8_BLOCK * META);
            let meta = b.load4(x, at, Mem::I32);
            let x_scale = b.lane(meta, 0);
            let x_scale = b.as_float(x_scale);
            let zero = b.int(0);
            let same = |f: fn(&ir::quant::Unpacked) -> Option<Value>| f(&halves[0]) == f(&halves[1]);
            let joint = same(|u| Some(u.scale));
            // value = scale * (code - offset) - min, so that a half gives
            // x_scale * (scale * (dot - offset * sum of x codes) - min * sum of x codes).
            let start = |b: &mut Builder, h: u8| match (m.format.dot.offset(), joint) {
                (0, _) => zero,
                (offset, joint) => {
                    let (sum, offset) = (b.lane(meta, if joint { 3 } else { 1 + h }), b.int(-i32::from(offset)));
                    b.imul(sum, offset)
                }
            };
            let mut terms = Vec::new();
            let mut dot = start(b, 0);
            for h in 0..2 {
                let at = b.iadd_const(first, column + 16 * h);
                let x = b.load4(x, at, Mem::I32);
                for l in 0..4 {
                    let (weights, x) = (b.lane(codes[h], l), b.lane(x, l));
                    dot = b.dot4(weights, x, dot);
                }
                if h == 1 || !joint {
                    terms.push((halves[h].scale, dot));
                    dot = start(b, 1);
                }
            }
            let sums =
                if same(|u| u.min) { vec![(halves[0].min, 3)] } else { vec![(halves[0].min, 1), (halves[1].min, 2)] };
            let mut inner: Option<Value> = None;
            for (scale, dot) in terms {
                let dot = b.to_float(dot);
                inner = Some(match inner {
                    None => b.fmul(scale, dot),
                    Some(inner) => b.fma(scale, dot, inner),
                });
            }
            for (min, lane) in sums {
                if let (Some(min), Some(value)) = (min, inner) {
                    let sum = b.lane(meta, lane);
                    let sum = b.to_float(sum);
                    let less = b.fmul(min, sum);
                    inner = Some(b.fsub(value, less));
                }
            }
            if let Some(inner) = inner {
                acc = b.fma(x_scale, inner, acc);
            }
        }
    }
    acc
}
