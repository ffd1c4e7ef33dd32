//! The input row of matrix products in the shared memory of each CTA: normalised, and quantised where products want it.
//!
//! Every CTA prepares the whole row by itself, from the L2 cache, so that no barrier of the grid stands between. Float
//! rows without a norm are read where they are.

use super::{LANES, Place, cta_sum, for_threads, if_below, lanes_isum, lanes_max};
use crate::body::{Linear, Matrix};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{LANE_BYTES, Q8_BLOCK};
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value};

/// What goes with each block of int8 codes, in the order of their planes, which follow the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meta {
    /// f32.
    Scale,
    /// i32: the sum of all codes.
    Sum,
    /// i32: the sum of the first 16.
    First,
    /// i32: the sum of the last 16.
    Last,
}

impl Meta {
    const ALL: [Meta; 4] = [Meta::Scale, Meta::Sum, Meta::First, Meta::Last];

    /// Where its plane starts in a row of so many columns: on a vector's boundary.
    pub fn plane(self, columns: usize) -> usize {
        let bytes = (columns / Q8_BLOCK * 4).next_multiple_of(LANE_BYTES);
        columns.next_multiple_of(LANE_BYTES) + self as usize * bytes
    }
}

/// A prepared row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Codes, then the planes of [`Meta`].
    pub int8: Option<Buf>,
    pub float: Option<Buf>,
    pub columns: usize,
}

/// Prepares the row that the products want; they must share their source.
///
/// # Errors
/// If they do not.
pub(crate) fn prepare(g: &mut Generator<'_>, at: &Place, products: &[Linear]) -> Result<Row> {
    let source = products[0].source;
    if products.iter().any(|p| p.source != source) {
        return Err(g.unsupported("products of different inputs"));
    }
    let columns = source.columns;
    let matrices: Vec<Matrix> = products.iter().map(|p| p.matrix).collect();
    let x = g.param(source.x);
    let norm = source.norm.map(|(w, eps)| (g.param(w), eps));
    let b = &mut g.b;
    let scale = norm.map(|(w, eps)| {
        let sums = b.scratch("squares", Mem::F32, at.warps as u64 * 4);
        (w, inverse_rms(b, at, x, columns, eps, sums))
    });
    // Four elements of the row.
    let input = |b: &mut Builder, c: Value| {
        let v = b.load4(x, c, Mem::F32);
        let Some((w, r)) = scale else { return v };
        let r = b.splat(r);
        let v = b.fmul(v, r);
        let w = b.load4(w, c, Mem::F32);
        b.fmul(v, w)
    };
    let float = matrices.iter().any(|m| !m.wants_int8()).then(|| match scale {
        None => x,
        Some(_) => {
            let row = b.scratch("row", Mem::F32, columns as u64 * 4);
            for_threads(b, at, columns / 4, |b, i| {
                let c = b.imul_const(i, 4);
                let v = input(b, c);
                b.store(row, c, Mem::F32, v);
            });
            row
        }
    });
    let int8 = matrices.iter().any(Matrix::wants_int8).then(|| {
        let bytes = Meta::Last.plane(columns) + columns / Q8_BLOCK * 4;
        let row = b.scratch("codes", Mem::U8, bytes as u64);
        // Whole warps, as eight lanes share a block; those past the end repeat the last.
        let (start, end, last) = (b.imul_const(at.warp, LANES), b.size(columns / 4), b.size(columns / 4 - 8));
        b.for_(start, end, at.threads() as u32, |b, first| {
            let i = b.iadd(first, at.lane);
            let inside = b.compare(Compare::ULt, i, end);
            let eight = b.size(8);
            let in_block = b.urem(at.lane, eight);
            let repeated = b.iadd(last, in_block);
            let i = b.select(inside, i, repeated);
            let c = b.imul_const(i, 4);
            let v = input(b, c);
            quantise(b, at, row, columns, c, v, inside);
        });
        row
    });
    b.sync(Scope::Cta);
    Ok(Row { int8, float, columns })
}

/// 1 / sqrt(mean of squares + eps) of a row, for every thread.
fn inverse_rms(b: &mut Builder, at: &Place, x: Buf, columns: usize, eps: f32, sums: Buf) -> Value {
    let zero = b.float(0.0);
    let sum = b.var(zero);
    for_threads(b, at, columns / 4, |b, i| {
        let c = b.imul_const(i, 4);
        let v = b.load4(x, c, Mem::F32);
        let squares = b.fmul(v, v);
        let squares = b.sum(squares);
        let old = b.get(sum);
        let new = b.fadd(old, squares);
        b.set(sum, new);
    });
    let sum = b.get(sum);
    let total = cta_sum(b, at, sums, sum);
    let (n, eps, one) = (b.float(columns as f32), b.float(eps), b.float(1.0));
    let mean = b.fdiv(total, n);
    let mean = b.fadd(mean, eps);
    let root = b.sqrt(mean);
    b.fdiv(one, root)
}

/// Quantises the block whose elements c.. c + 4 this lane holds, as one of eight lanes; only those `inside` write.
fn quantise(b: &mut Builder, at: &Place, row: Buf, columns: usize, c: Value, v: Value, inside: Value) {
    let magnitudes = b.fabs(v);
    let largest = b.max(magnitudes);
    let largest = lanes_max(b, largest, 8);
    let (scale, inverse) = crate::matmul::scale_of(b, largest);
    let inverse = b.splat(inverse);
    let scaled = b.fmul(v, inverse);
    let codes = b.round(scaled);
    let mut word = b.int(0);
    for lane in 0..4 {
        let (mask, shift) = (b.int(0xff), b.int(8 * lane));
        let code = b.lane(codes, lane as u8);
        let byte = b.and(code, mask);
        let byte = b.shl(byte, shift);
        word = b.or(word, byte);
    }
    let sum = b.sum(codes);
    let half = lanes_isum(b, sum, 4);
    let other = b.shuffle_xor(half, 4);
    let all = b.iadd(half, other);
    b.if_(inside, |b| {
        b.store(row, c, Mem::I32, word);
        let eight = b.size(8);
        let first = b.urem(at.lane, eight);
        if_below(b, first, 1, |b| {
            let elements = b.size(Q8_BLOCK);
            let block = b.udiv(c, elements);
            let in_plane = b.imul_const(block, 4);
            for (meta, value) in Meta::ALL.into_iter().zip([scale, all, half, other]) {
                let at = b.iadd_const(in_plane, meta.plane(columns));
                let mem = if meta == Meta::Scale { Mem::F32 } else { Mem::I32 };
                b.store(row, at, mem, value);
            }
        });
    });
}
