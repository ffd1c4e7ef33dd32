//! The input row of matrix products in the shared memory of each CTA: normalised, and quantised where products want it.
//!
//! Every CTA prepares the whole row by itself, from the L2 cache, so that no barrier of the grid is needed. A thread starts
//! all its loads before it uses the first, as the whole CTA waits for them, and keeps what it has loaded if the row is short
//! enough. Float rows without a norm are read where they are.

use super::{LANES, Thread, cta_sum, if_below, lanes_isum, lanes_max, maybe};
use crate::body::Linear;
use crate::generator::Generator;
use ir::abi::Q8_BLOCK;
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Ty, Value};
use ir::quant::{DotForm, Format};

/// The bits of the float 1.5 * 2^23 = 12582912. One more in these bits is one more in the float, as long as its exponent
/// stays: for integers n, |n| < 2^22, `BIAS + n` are the bits of the float 12582912 + n. So a sum of products that begins
/// with `BIAS` instead of 0 is a float without a conversion; [`Meta::Bias`] takes the 12582912 off again while the sum is
/// multiplied by its scale: (12582912 + n) * scale + (-12582912 * scale) in one fused operation.
pub(crate) const BIAS: i32 = 0x4b40_0000;

/// What goes with each block of int8 codes, each in a plane of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meta {
    /// f32. Rounded to 22 bits if there is a bias, so that the bias is exact.
    Scale,
    /// i32: the sum of all codes.
    Sum,
    /// i32: the sum of the first 16.
    First,
    /// i32: the sum of the last 16.
    Last,
    /// f32: the scale times -12582912, exactly. See [`BIAS`].
    Bias,
}

impl Meta {
    const ALL: [Meta; 5] = [Meta::Scale, Meta::Sum, Meta::First, Meta::Last, Meta::Bias];

    /// Whether products with a matrix of the format may need it. One scale for 32 elements takes no halves apart.
    pub fn wanted(self, format: Format) -> bool {
        let single = format.block as usize == Q8_BLOCK;
        match self {
            Meta::Scale | Meta::Sum => true,
            Meta::First | Meta::Last => !single,
            Meta::Bias => single,
        }
    }
}

/// A prepared row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub int8: Option<Int8>,
    pub float: Option<Buf>,
}

/// The int8 codes of a row, in the orders that products want.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int8 {
    in_order: Option<Buf>,
    /// In each block those of both halves in turn, as the weights of formats that [look up](ir::quant::DotForm::looks_up).
    in_pairs: Option<Buf>,
    /// The planes of [`Meta::ALL`].
    planes: [Option<Buf>; Meta::ALL.len()],
}

impl Int8 {
    /// For these products, if one wants int8 codes.
    fn new(b: &mut Builder, products: &[Linear], columns: usize) -> Option<Int8> {
        let formats = products.iter().map(|p| p.matrix.format).filter(|f| f.dot.wants_int8());
        formats.clone().next()?;
        let [in_order, in_pairs] = [("codes", false), ("pairs", true)].map(|(name, looks_up)| {
            let wanted = formats.clone().any(|f| f.dot.looks_up() == looks_up);
            wanted.then(|| b.scratch(name, Mem::U8, columns as u64))
        });
        let planes = Meta::ALL.map(|meta| {
            let wanted = formats.clone().any(|f| meta.wanted(f));
            wanted.then(|| b.scratch(format!("{meta:?}").to_lowercase(), Mem::U8, (columns / Q8_BLOCK * 4) as u64))
        });
        Some(Int8 { in_order, in_pairs, planes })
    }

    /// The codes for a form.
    pub fn codes(&self, dot: DotForm) -> Option<Buf> {
        if dot.looks_up() { self.in_pairs } else { self.in_order }
    }

    pub fn plane(&self, meta: Meta) -> Option<Buf> {
        self.planes[meta as usize]
    }
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
    /// Whether it is this thread's; `None`: all are. A thread that has none reads one of the last block, and writes nothing.
    inside: Option<Value>,
}

/// A row whose fours are spread over the threads of a CTA: one for each in turn, so that eight lanes share a block.
struct Spread<'a> {
    at: &'a Thread,
    x: Buf,
    fours: usize,
    /// Those of this thread, if it holds them.
    held: Option<Vec<Four>>,
}

impl<'a> Spread<'a> {
    fn new(b: &mut Builder, at: &'a Thread, x: Buf, columns: usize) -> Self {
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
        crate::math::inverse_root(b, total, 4 * self.fours, eps)
    }
}

/// Prepares the row that the products want, which share their source.
pub(crate) fn prepare(g: &mut Generator<'_>, at: &Thread, products: &[Linear]) -> Row {
    let source = products[0].source;
    let columns = source.columns;
    let wants_float = products.iter().any(|p| !p.matrix.wants_int8());
    let x = g.param(source.x);
    let norm = source.norm.map(|(w, eps)| (g.param(w), eps));
    let b = &mut g.b;
    // A float row without a norm is used where it is.
    let float = wants_float.then(|| match norm {
        None => x,
        Some(_) => b.scratch("row", Mem::F32, columns as u64 * 4),
    });
    let int8 = Int8::new(b, products, columns);
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
                quantise(b, at, row, (four.column, v), four.inside);
            }
        });
    }
    b.sync(Scope::Cta);
    Row { int8, float }
}

/// Quantises the block of which this lane holds elements c.. c + 4, as one of eight lanes; only those `inside` write.
fn quantise(b: &mut Builder, at: &Thread, row: Int8, (c, v): (Value, Value), inside: Option<Value>) {
    let magnitudes = b.fabs(v);
    let largest = b.max(magnitudes);
    let largest = lanes_max(b, largest, 8);
    let (mut scale, inverse) = crate::math::scale_of(b, largest);
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
    let mut bias = scale;
    if row.plane(Meta::Bias).is_some() {
        // Rounds the scale to 22 bits (Veltkamp 1968): times 12582912, which has 2 bits, it has the 24 of a float.
        let (split, minus) = (b.float(5.0), b.float(-f32::from_bits(BIAS as u32)));
        let large = b.fmul(scale, split);
        let rest = b.fsub(large, scale);
        scale = b.fsub(large, rest);
        bias = b.fmul(scale, minus);
    }
    let eight = b.size(8);
    let number = b.urem(at.lane, eight);
    let pairs = row.in_pairs.map(|codes| (codes, pairs(b, (number, c), word)));
    maybe(b, inside, |b| {
        if let Some(codes) = row.in_order {
            b.store(codes, c, Mem::I32, word);
        }
        if let Some((codes, (at, word))) = pairs {
            b.store(codes, at, Mem::I32, word);
        }
        if_below(b, number, 1, |b| {
            let elements = b.size(Q8_BLOCK);
            let block = b.udiv(c, elements);
            let in_plane = b.imul_const(block, 4);
            for (plane, value) in row.planes.into_iter().zip([scale, all, half, other, bias]) {
                if let Some(plane) = plane {
                    let mem = if b.ty(value) == Ty::F32 { Mem::F32 } else { Mem::I32 };
                    b.store(plane, in_plane, mem, value);
                }
            }
        });
    });
}

/// Of the codes in pairs, the word of lane `number` of eight, and its byte in the row: from a lane's own codes, which are
/// those of elements c.. c + 4, and those 16 elements off. Lane q has word 2 q, lane q + 4 the one that follows.
fn pairs(b: &mut Builder, (number, c): (Value, Value), own: Value) -> (Value, Value) {
    let (four, sixteen) = (b.size(4), b.int(16));
    let other = b.shuffle_xor(own, 4);
    let is_first = b.compare(Compare::ULt, number, four);
    let (first, last) = (b.select(is_first, own, other), b.select(is_first, other, own));
    let [even, odd] = [first, last].map(|codes| {
        let high = b.shr_u(codes, sixteen);
        let two = b.select(is_first, codes, high);
        let [low, high] = [(0xff, 0), (0xff00, 8)].map(|(mask, by)| {
            let (mask, by) = (b.int(mask), b.int(by));
            let code = b.and(two, mask);
            b.shl(code, by)
        });
        b.or(low, high)
    });
    let by = b.int(8);
    let odd = b.shl(odd, by);
    // c is four times the number after the block's start.
    let (half, in_half) = (b.udiv(number, four), b.urem(number, four));
    let back = b.imul_const(half, 12);
    let on = b.imul_const(in_half, 4);
    let at = b.iadd(c, on);
    (b.isub(at, back), b.or(even, odd))
}
