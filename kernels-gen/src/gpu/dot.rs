//! The dot product of a lane's weight row with the CTA's input row, over a chunk of columns. A lane has a row of the tile,
//! so activations are broadcast and nothing is summed across lanes.

use super::rows::{BIAS, Int8, Meta, Row};
use crate::block::{BlockView, RowAt, UnpackFn};
use crate::body::Matrix;
use ir::abi::{LANE_BYTES, Q8_BLOCK, WARP_ROWS};
use ir::kernel::{Buf, Builder, Mem, Unary, Value};
use ir::quant::{DotForm, FloatKind, Scaling, Unpacked};
use ir::{Error, Result};
use std::collections::HashMap;

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

/// Computes, for [`dot`]s to find them, what of a lane's addresses is the same in all chunks at byte `weights`.
pub(crate) fn lane_addresses(b: &mut Builder, m: &Matrix, weights: Value, lane: Value) {
    for field in m.format.fields {
        let in_tile = b.imul_const(lane, m.layout.unit(m.format, field));
        b.iadd(weights, in_tile);
    }
}

/// `acc` plus the products of chunk number `index` of `columns` columns: of row `lane` of the chunk, at byte `weights` of `w`,
/// with the input row.
///
/// # Errors
/// For a format without an `unpack`.
pub(crate) fn dot(
    b: &mut Builder,
    m: &Matrix,
    (w, weights, lane): (Buf, Value, Value),
    row: &Row,
    (index, columns): (Value, usize),
    acc: Value,
) -> Result<Value> {
    match (m.format.dot, m.format.unpack, row.float, row.int8) {
        (DotForm::Float(kind), _, Some(x), _) => {
            let first = b.imul_const(index, columns);
            Ok(float(b, kind, (w, weights, lane), (x, first, columns), acc))
        }
        (form, Some(unpack), _, Some(int8)) => {
            let Some(x) = int8.codes(form) else { return Err(Error::verify("row", format!("no codes for {form:?}"))) };
            let int = Int { m, unpack, x, row: int8, index, columns };
            Ok(int.chunk(b, (w, weights, lane), acc))
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

/// Products of int8 codes.
struct Int<'a> {
    m: &'a Matrix,
    unpack: UnpackFn,
    x: Buf,
    row: Int8,
    /// Number of the chunk, and its columns.
    index: Value,
    columns: usize,
}

/// Sums of products that are still to be multiplied: a factor, often that of a whole block, how many times to halve, and
/// the sum of all that share both.
#[derive(Default)]
struct Sums(Vec<(Value, u8, Value)>);

impl Sums {
    /// Adds `x` `v`.
    fn add(&mut self, b: &mut Builder, (factor, shift): (Value, u8), x: Value, v: Value) {
        match self.0.iter_mut().find(|(f, s, _)| (*f, *s) == (factor, shift)) {
            Some((.., sum)) => *sum = b.fma(x, v, *sum),
            None => {
                let sum = b.fmul(x, v);
                self.0.push((factor, shift, sum));
            }
        }
    }

    /// `acc` plus all of them.
    fn finish(self, b: &mut Builder, mut acc: Value) -> Value {
        let mut rest = self.0;
        while let Some(&(factor, ..)) = rest.first() {
            let (same, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|&(f, ..)| f == factor);
            let mut total = None;
            for (_, shift, sum) in same {
                let unit = b.float(0.5f32.powi(shift.into()));
                total = Some(match total {
                    None if shift == 0 => sum,
                    None => b.fmul(sum, unit),
                    Some(total) => b.fma(sum, unit, total),
                });
            }
            if let Some(total) = total {
                acc = b.fma(factor, total, acc);
            }
            rest = others;
        }
        acc
    }
}

impl Int<'_> {
    fn chunk(&self, b: &mut Builder, (w, weights, lane): (Buf, Value, Value), acc: Value) -> Value {
        let (block, mut acc) = (self.m.format.block as usize, acc);
        let mut loaded = HashMap::new();
        for i in 0..self.columns / block {
            let number = b.size(i);
            let row = RowAt { base: weights, lane: Some(lane), tile: None };
            let mut view = BlockView::new(b, w, self.m, row, number).codes_as_they_are();
            let mut sums = Sums::default();
            for e in (0..block).step_by(Q8_BLOCK) {
                self.group(&mut view, e, (i * block + e) / Q8_BLOCK, &mut loaded, &mut sums);
            }
            acc = sums.finish(b, acc);
        }
        acc
    }

    /// The 32 columns from element `e` of a block on, group number `group` of the chunk.
    fn group(
        &self,
        view: &mut BlockView<'_>,
        e: usize,
        group: usize,
        loaded: &mut HashMap<(Meta, usize), Value>,
        sums: &mut Sums,
    ) {
        let halves = [0, 16].map(|half| (self.unpack)(view, (e + half) as u32));
        let codes = halves.map(|half| view.vector(half.codes));
        let b = view.builder();
        let mut meta = |b: &mut Builder, meta| self.meta(b, meta, group, loaded);
        let x_scale = meta(b, Meta::Scale);
        let [first, last] = halves;
        let joint = first.scale == last.scale;
        // A sum that no integer scale multiplies begins with the bias, which saves its conversion to a float.
        let biased = joint && first.scale.times.is_none() && Meta::Bias.wanted(self.m.format);
        // value = scale * (code - offset) + plus, so that a half gives
        // x scale * (scale * (dot - offset * sum of x codes) + plus * sum of x codes).
        // The half whose codes are multiplied by the larger power of two comes first: its sum is shifted down to the other's.
        let mut order = [(0, Meta::First), (1, Meta::Last)];
        order.sort_by_key(|&(h, _)| std::cmp::Reverse(halves[h].shift));
        let (mut dot, mut shift, mut terms) = (b.int(0), halves[order[0].0].shift, Vec::new());
        for (i, (h, sum)) in order.into_iter().enumerate() {
            let half = halves[h];
            if shift != half.shift {
                let by = b.int(i32::from(shift - half.shift));
                dot = b.shr_s(dot, by);
                shift = half.shift;
            }
            // Bias and offset are added once for a joint sum: with the first half or, if the sum is shifted, after that.
            let all_same = first.shift == last.shift;
            if !joint || (i == 0) == all_same {
                let mut start = b.int(if biased { BIAS } else { 0 });
                let offset = i32::from(self.m.format.dot.offset()) << shift;
                if offset != 0 {
                    let (sum, offset) = (meta(b, if joint { Meta::Sum } else { sum }), b.int(-offset));
                    let less = b.imul(sum, offset);
                    start = b.iadd(less, start);
                }
                dot = b.iadd(dot, start);
            }
            dot = self.dot(b, (codes[h], group, h), dot);
            if !joint {
                terms.push((half.scale, shift, dot));
                dot = b.int(0);
            }
        }
        if biased {
            let (v, bias) = (b.unary(Unary::AsFloat, dot), meta(b, Meta::Bias));
            let product = b.fma(v, x_scale, bias);
            sums.0.push((first.scale.factor, shift, product));
        } else if joint {
            terms.push((first.scale, shift, dot));
        }
        add(b, sums, x_scale, &terms);

        let plus = |u: &Unpacked| u.plus;
        let terms: Vec<_> = if plus(&first) == plus(&last) {
            plus(&first).map(|plus| (plus, 0, meta(b, Meta::Sum))).into_iter().collect()
        } else {
            let halves = [(plus(&first), Meta::First), (plus(&last), Meta::Last)];
            halves.into_iter().filter_map(|(plus, sum)| Some((plus?, 0, meta(b, sum)))).collect()
        };
        add(b, sums, x_scale, &terms);
    }

    /// `acc` plus the dot of half `half` of group `group` of the chunk with the row.
    fn dot(&self, b: &mut Builder, (codes, group, half): (Value, usize, usize), mut acc: Value) -> Value {
        let first = b.imul_const(self.index, self.columns);
        let at = b.iadd_const(first, group * Q8_BLOCK + half * 16);
        let x = b.load4(self.x, at, Mem::I32);
        let signed = !matches!(self.m.format.dot, DotForm::Int { bits: ..8, .. });
        for l in 0..4 {
            let (weights, x) = (b.lane(codes, l), b.lane(x, l));
            acc = if signed { b.dot4(weights, x, acc) } else { b.dot4_unsigned(weights, x, acc) };
        }
        acc
    }

    /// What goes with group `group` of the chunk's part of the row; that of four groups is loaded at once, if it can be.
    fn meta(&self, b: &mut Builder, meta: Meta, group: usize, loaded: &mut HashMap<(Meta, usize), Value>) -> Value {
        let groups = self.columns / Q8_BLOCK;
        let together = if groups.is_multiple_of(4) { 4 } else { 1 };
        let mem = if matches!(meta, Meta::Scale | Meta::Bias) { Mem::F32 } else { Mem::I32 };
        let number = group / together;
        let all = *loaded.entry((meta, number)).or_insert_with(|| {
            let at = b.imul_const(self.index, groups * 4);
            let at = b.iadd_const(at, number * together * 4);
            let plane = self.row.plane(meta).expect("the planes of a row are those that its formats want");
            if together == 4 { b.load4(plane, at, mem) } else { b.load(plane, at, mem) }
        });
        if together == 4 { b.lane(all, (group % 4) as u8) } else { all }
    }
}

/// Adds the integers of `terms` times their scalings times `x` to `sums`. Both of two are converted at once where they
/// share their factor.
fn add(b: &mut Builder, sums: &mut Sums, x: Value, terms: &[(Scaling, u8, Value)]) {
    let products: Vec<Value> =
        terms.iter().map(|&(scale, _, v)| scale.times.map_or(v, |times| b.imul(v, times))).collect();
    match (terms, products.as_slice()) {
        (&[(p, shift, _), (q, same, _)], &[v, w]) if (p.factor, shift) == (q.factor, same) => {
            let total = b.iadd(v, w);
            let total = b.to_float(total);
            sums.add(b, (p.factor, shift), x, total);
        }
        _ => {
            for (&(scale, shift, _), v) in terms.iter().zip(products) {
                let v = b.to_float(v);
                sums.add(b, (scale.factor, shift), x, v);
            }
        }
    }
}
