//! The input row of matrix products in the shared memory of each CTA: normalised, and quantised where products want it.
//!
//! Every CTA prepares the whole row by itself, from the L2 cache, so that no barrier of the grid stands between. What a thread
//! reads it loads at once, and holds it if it can, as the CTA waits for that. Float rows without a norm are read where they
//! are.

use super::{LANES, Place, cta_sum, if_below, lanes_isum, lanes_max, maybe};
use crate::body::Linear;
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

/// Fours that a thread keeps in registers from the first pass over the row to the last.
const HELD: usize = 16;
/// Fours that a thread loads before it uses the first, so that it waits for memory once.
const BATCH: usize = 8;

/// Four elements of the row.
struct Four {
    /// The first's column.
    column: Value,
    v: Value,
    /// Whether it is this thread's, unless all are; those that are not repeat a four of the last block.
    inside: Option<Value>,
}

/// A row whose fours are spread over the threads of a CTA: one for each in turn, so that eight lanes share a block.
struct Spread<'a> {
    at: &'a Place,
    x: Buf,
    fours: usize,
    /// Those of this thread, if it holds them.
    held: Option<Vec<Four>>,
}

impl<'a> Spread<'a> {
    fn new(b: &mut Builder, at: &'a Place, x: Buf, columns: usize) -> Self {
        let mut spread = Spread { at, x, fours: columns / 4, held: None };
        if spread.each() <= HELD {
            let exact = spread.fours.is_multiple_of(at.threads());
            spread.held = Some((0..spread.each()).map(|j| spread.load(b, at.thread, j, exact)).collect());
        }
        spread
    }

    /// Most fours of a thread.
    fn each(&self) -> usize {
        self.fours.div_ceil(self.at.threads())
    }

    /// The four that is `j` turns after number `first`; `exact`: all of these are there.
    fn load(&self, b: &mut Builder, first: Value, j: usize, exact: bool) -> Four {
        let mut i = b.iadd_const(first, j * self.at.threads());
        let inside = (!exact).then(|| {
            let (end, eight, last) = (b.size(self.fours), b.size(8), b.size(self.fours - self.fours.min(8)));
            let inside = b.compare(Compare::ULt, i, end);
            let in_block = b.urem(self.at.lane, eight);
            let repeated = b.iadd(last, in_block);
            i = b.select(inside, i, repeated);
            inside
        });
        let column = b.imul_const(i, 4);
        Four { column, v: b.load4(self.x, column, Mem::F32), inside }
    }

    /// Calls `f` for each four of this thread.
    fn each_four(&self, b: &mut Builder, mut f: impl FnMut(&mut Builder, &Four)) {
        if let Some(held) = &self.held {
            return held.iter().for_each(|four| f(b, four));
        }
        let exact = self.fours.is_multiple_of(self.at.threads() * BATCH);
        let (start, end) = (b.imul_const(self.at.warp, LANES), b.size(self.fours));
        b.for_(start, end, (self.at.threads() * BATCH) as u32, |b, first| {
            let first = b.iadd(first, self.at.lane);
            let batch: Vec<Four> = (0..BATCH).map(|j| self.load(b, first, j, exact)).collect();
            batch.iter().for_each(|four| f(b, four));
        });
    }

    /// 1 / sqrt(mean of squares + eps) of the row, for every thread.
    fn inverse_rms(&self, b: &mut Builder, eps: f32) -> Value {
        let sums = b.scratch("squares", Mem::F32, self.at.warps as u64 * 4);
        let zero = b.float(0.0);
        let sum = b.var(zero);
        self.each_four(b, |b, four| {
            let squares = b.fmul(four.v, four.v);
            let squares = b.sum(squares);
            let squares = four.inside.map_or(squares, |inside| b.select(inside, squares, zero));
            let old = b.get(sum);
            let new = b.fadd(old, squares);
            b.set(sum, new);
        });
        let sum = b.get(sum);
        let total = cta_sum(b, self.at, sums, sum);
        let (n, eps, one) = (b.float(4.0 * self.fours as f32), b.float(eps), b.float(1.0));
        let mean = b.fdiv(total, n);
        let mean = b.fadd(mean, eps);
        let root = b.sqrt(mean);
        b.fdiv(one, root)
    }
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
    let wants_int8 = products.iter().any(|p| p.matrix.wants_int8());
    let wants_float = products.iter().any(|p| !p.matrix.wants_int8());
    let x = g.param(source.x);
    let norm = source.norm.map(|(w, eps)| (g.param(w), eps));
    let b = &mut g.b;
    // A float row without a norm is used where it is.
    let float = wants_float.then(|| match norm {
        None => x,
        Some(_) => b.scratch("row", Mem::F32, columns as u64 * 4),
    });
    let bytes = Meta::Last.plane(columns) + columns / Q8_BLOCK * 4;
    let int8 = wants_int8.then(|| b.scratch("codes", Mem::U8, bytes as u64));
    if norm.is_some() || int8.is_some() {
        let spread = Spread::new(b, at, x, columns);
        let norm = norm.map(|(w, eps)| (w, spread.inverse_rms(b, eps)));
        spread.each_four(b, |b, four| {
            let v = norm.map_or(four.v, |(w, r)| {
                let (r, w) = (b.splat(r), b.load4(w, four.column, Mem::F32));
                let v = b.fmul(four.v, r);
                b.fmul(v, w)
            });
            if let (Some(row), true) = (float, norm.is_some()) {
                maybe(b, four.inside, |b| b.store(row, four.column, Mem::F32, v));
            }
            if let Some(row) = int8 {
                quantise(b, at, (row, columns), (four.column, v), four.inside);
            }
        });
    }
    b.sync(Scope::Cta);
    Ok(Row { int8, float, columns })
}

/// Quantises the block of which this lane holds elements c.. c + 4, as one of eight lanes; only those `inside` write.
fn quantise(b: &mut Builder, at: &Place, (row, columns): (Buf, usize), (c, v): (Value, Value), inside: Option<Value>) {
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
    maybe(b, inside, |b| {
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
