//! Products of the weights of a tile with the rows of a step, over some columns.
//!
//! A [`Part`] says which rows of the tile, for which tokens, a lane computes: its own row for one token or for several, with
//! activations that are broadcast, or what matrix instructions leave it. Invariant: the result for a row and a token is the
//! same bits in each of them, as integer sums are exact and floats are added block by block in one order.

use super::rows::{Activations, BIAS, Codes, Floats, Meta, Step};
use super::{LANES, Thread, group_of};
use crate::block::{Block, RowAt, UnpackFn, Word};
use crate::body::Matrix;
use ir::abi::{LANE_BYTES, Q8_BLOCK, STEP_TOKENS, WARP_ROWS};
use ir::kernel::{Buf, Builder, MMA_ROWS, Mem, Mma, Unary, Value, Var};
use ir::quant::{DotForm, FloatKind, Scaling, Unpacked};
use ir::{Error, Result};
use std::collections::HashMap;

/// Fewest columns of a cut, unless the row has no such divisor.
const CUT: usize = 256;
/// Most cuts of a row, unless it has no such divisor: each takes memory where streams share a tile.
const MOST_CUTS: usize = 32;
/// Columns of a float matrix that are multiplied without a loop.
const FLOAT_CHUNK: usize = 64;

/// Columns of a cut, a matter of the matrix alone. The sum of a row is that of its cuts in their order, however they are
/// spread over warps.
pub(crate) fn cut(m: &Matrix) -> usize {
    let mut columns = chunk(m, CUT);
    while m.columns / columns > MOST_CUTS && m.columns.is_multiple_of(2 * columns) {
        columns *= 2;
    }
    columns
}

/// Columns of a chunk: the most that divide the row, up to `most`.
pub(crate) fn chunk(m: &Matrix, most: usize) -> usize {
    let least = (m.format.block as usize).max(m.layout.span(m.format));
    let mut columns = if m.wants_int8() { most.max(least) } else { most.min(FLOAT_CHUNK) };
    while !m.columns.is_multiple_of(columns) && columns > least {
        columns /= 2;
    }
    columns
}

/// Bytes of so many columns of a tile, cut or chunk.
pub(crate) fn column_bytes(m: &Matrix, columns: usize) -> usize {
    m.format.bytes_of(columns as u64) as usize * WARP_ROWS
}

/// The products of a tile that a lane computes: of each of some rows for each of some tokens.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Rows of the tile.
    pub rows: Vec<Value>,
    /// Tokens of the step.
    pub tokens: Vec<Value>,
    /// With matrix instructions: which codes the lane has.
    word: Option<Word>,
}

impl Part {
    /// Of a step of so many tokens: by matrix instructions where there are several and products are of codes, else a row for
    /// each lane.
    pub fn new(b: &mut Builder, at: &Thread, m: &Matrix, tokens: usize) -> Part {
        if tokens == 1 || !m.wants_int8() {
            let tokens = (0..tokens).map(|t| b.size(t)).collect();
            return Part { rows: vec![at.lane], tokens, word: None };
        }
        let (group, own) = group_of(b, at.lane);
        let rows = (0..LANES).step_by(MMA_ROWS / 2).map(|first| b.iadd_const(group, first)).collect();
        let pair = b.imul_const(own, 2);
        let tokens = (0..tokens).step_by(STEP_TOKENS).flat_map(|first| [first, first + 1]);
        let tokens: Vec<usize> = tokens.collect();
        let tokens = tokens.into_iter().map(|t| b.iadd_const(pair, t)).collect();
        Part { rows, tokens, word: Some(Word::new(b, own)) }
    }

    /// How many products.
    pub fn count(&self) -> usize {
        self.rows.len() * self.tokens.len()
    }

    /// Row and token of product `n`.
    pub fn place(&self, n: usize) -> (Value, Value) {
        (self.rows[n / self.tokens.len()], self.tokens[n % self.tokens.len()])
    }
}

/// Columns of a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// Number of the chunk in its tile, and all of its columns.
    pub chunk: Value,
    pub of_chunk: usize,
    /// The first in the chunk, and how many.
    pub first: usize,
    pub count: usize,
}

/// Computes, for [`dot`]s to find them, what of a lane's addresses is the same in all chunks at byte `weights`.
pub(crate) fn lane_addresses(b: &mut Builder, m: &Matrix, weights: Value, part: &Part) {
    for &row in &part.rows {
        for field in m.format.fields {
            let in_tile = b.imul_const(row, m.layout.unit(m.format, field));
            b.iadd(weights, in_tile);
        }
    }
}

/// `acc` plus the products of some columns of the chunk whose weights are at byte `weights` of `w`: those of the part, in the
/// order of [`Part::place`].
///
/// # Errors
/// For a format without an `unpack`.
pub(crate) fn dot(
    b: &mut Builder,
    m: &Matrix,
    (w, weights): (Buf, Value),
    part: &Part,
    x: &Activations,
    at: Columns,
    acc: Vec<Value>,
) -> Result<Vec<Value>> {
    match (m.format.dot, m.format.unpack, x.float, x.codes) {
        (DotForm::Float(kind), _, Some(x), _) => Ok(float(b, kind, (w, weights), part, (x, at), acc)),
        (_, Some(unpack), _, Some(codes)) => {
            let mut int = Int { m, unpack, part, codes, at, loaded: HashMap::new() };
            Ok(int.columns(b, (w, weights), acc))
        }
        (form, None, ..) => Err(Error::unsupported(format!("{form:?} without an unpack"), "write the format's unpack")),
        (form, ..) => Err(Error::verify("row", format!("no activations for {form:?}"))),
    }
}

fn float(
    b: &mut Builder,
    kind: FloatKind,
    (w, weights): (Buf, Value),
    part: &Part,
    (x, at): (Floats, Columns),
    acc: Vec<Value>,
) -> Vec<Value> {
    let bytes = if kind == FloatKind::F32 { 4 } else { 2 };
    let (unit, in_tile) = (LANE_BYTES / bytes, b.imul_const(part.rows[0], LANE_BYTES));
    let weights = b.iadd(weights, in_tile);
    let first = b.imul_const(at.chunk, at.of_chunk);
    let first = x.first.map_or(first, |row| b.iadd(row, first));
    let row = |b: &mut Builder, &token: &Value| {
        let row = b.imul_const(token, x.stride);
        b.iadd(row, first)
    };
    let rows: Vec<Value> = part.tokens.iter().map(|token| row(b, token)).collect();
    let none = b.float(0.0);
    let mut sums: Vec<[Value; 2]> = acc.into_iter().map(|acc| [acc, none]).collect();
    let weights = (w, weights, kind);
    if part.tokens.len() == 1 {
        for c in (at.first..at.first + at.count).step_by(unit) {
            let column = b.size(c);
            add_unit(b, weights, (x.buf, &rows), column, &mut sums);
        }
    } else {
        // A loop, so that an assembler does not load what many units want at once.
        let vars: Vec<[Var; 2]> = sums.iter().map(|two| two.map(|v| b.var(v))).collect();
        let (first, end) = (b.size(at.first), b.size(at.first + at.count));
        b.for_(first, end, unit as u32, |b, column| {
            let mut sums: Vec<[Value; 2]> = vars.iter().map(|two| two.map(|var| b.get(var))).collect();
            add_unit(b, weights, (x.buf, &rows), column, &mut sums);
            vars.iter().flatten().zip(sums.iter().flatten()).for_each(|(&var, &sum)| b.set(var, sum));
        });
        sums = vars.iter().map(|two| two.map(|var| b.get(var))).collect();
    }
    sums.into_iter().map(|[even, odd]| b.fadd(even, odd)).collect()
}

/// Adds the products of a unit of a lane's weights, from a column on, with rows that begin at these elements of `x`, to the sums
/// of each row: fours of columns in turn to one of two.
fn add_unit(
    b: &mut Builder,
    (w, weights, kind): (Buf, Value, FloatKind),
    (x, rows): (Buf, &[Value]),
    column: Value,
    sums: &mut [[Value; 2]],
) {
    let bytes = if kind == FloatKind::F32 { 4 } else { 2 };
    let before = b.imul_const(column, bytes * WARP_ROWS);
    let at = b.iadd(weights, before);
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
    for (&row, sums) in rows.iter().zip(sums) {
        let row = b.iadd(row, column);
        for (j, four) in values.chunks_exact(4).enumerate() {
            let at = b.iadd_const(row, 4 * j);
            let x = b.load4(x, at, Mem::F32);
            for (l, &v) in four.iter().enumerate() {
                let x = b.lane(x, l as u8);
                let sum = &mut sums[j % 2];
                *sum = b.fma(v, x, *sum);
            }
        }
    }
}

/// Products of int8 codes.
struct Int<'a> {
    m: &'a Matrix,
    unpack: UnpackFn,
    part: &'a Part,
    codes: Codes,
    at: Columns,
    /// What has been loaded of the activations.
    loaded: HashMap<(Loaded, usize), Value>,
}

/// What is loaded at once for several groups, and for which tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loaded {
    Meta(Meta, usize),
    Codes(usize),
}

/// Sums of products of a row that are still to be multiplied: a factor, often that of a whole block, how many times to halve,
/// and for each token the sum of all that share both.
#[derive(Default)]
struct Sums(Vec<(Value, u8, Vec<Value>)>);

impl Sums {
    /// Adds `x` `v` for each token.
    fn add(&mut self, b: &mut Builder, (factor, shift): (Value, u8), x: &[Value], v: &[Value]) {
        match self.0.iter_mut().find(|(f, s, _)| (*f, *s) == (factor, shift)) {
            Some((.., sums)) => {
                sums.iter_mut().zip(x.iter().zip(v)).for_each(|(sum, (&x, &v))| *sum = b.fma(x, v, *sum))
            }
            None => {
                let sums = x.iter().zip(v).map(|(&x, &v)| b.fmul(x, v)).collect();
                self.0.push((factor, shift, sums));
            }
        }
    }

    /// Adds all of them to `acc`; `is_shifted`: their codes are not times a power of two any more, which in either case is exact.
    fn finish(self, b: &mut Builder, is_shifted: bool, acc: &mut [Value]) {
        let mut rest = self.0;
        while let Some(&(factor, ..)) = rest.first() {
            let (same, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|&(f, ..)| f == factor);
            for (token, acc) in acc.iter_mut().enumerate() {
                let mut total = None;
                for (_, shift, sums) in &same {
                    let shift = if is_shifted { 0 } else { *shift };
                    let (sum, unit) = (sums[token], b.float(0.5f32.powi(shift.into())));
                    total = Some(match total {
                        None if shift == 0 => sum,
                        None => b.fmul(sum, unit),
                        Some(total) => b.fma(sum, unit, total),
                    });
                }
                if let Some(total) = total {
                    *acc = b.fma(factor, total, *acc);
                }
            }
            rest = others;
        }
    }
}

/// Unpacked halves of a group of 32 columns of a row, with their codes.
struct Group {
    halves: [Unpacked; 2],
    codes: [Value; 2],
}

impl Int<'_> {
    fn columns(&mut self, b: &mut Builder, (w, weights): (Buf, Value), mut acc: Vec<Value>) -> Vec<Value> {
        let (block, tokens) = (self.m.format.block as usize, self.part.tokens.len());
        for i in self.at.first / block..(self.at.first + self.at.count) / block {
            let number = b.size(i);
            let mut rows: Vec<Block> = Vec::new();
            for &row in &self.part.rows {
                let row = RowAt { base: weights, lane: Some(row), tile: None };
                rows.push(Block::new(b, w, self.m, row, number).codes_as_they_are(self.part.word));
            }
            let mut sums: Vec<Sums> = rows.iter().map(|_| Sums::default()).collect();
            for e in (0..block).step_by(Q8_BLOCK) {
                let groups: Vec<Group> = rows.iter_mut().map(|row| self.unpacked(b, row, e)).collect();
                self.group(b, &groups, (i * block + e) / Q8_BLOCK, &mut sums);
            }
            for (sums, acc) in sums.into_iter().zip(acc.chunks_exact_mut(tokens)) {
                sums.finish(b, self.is_shifted(), acc);
            }
        }
        acc
    }

    /// The 32 columns of a row from element `e` of its block on.
    fn unpacked(&self, b: &mut Builder, row: &mut Block, e: usize) -> Group {
        let mut view = row.view(b);
        let halves = [0, 16].map(|half| (self.unpack)(&mut view, (e + half) as u32));
        let codes = halves.map(|half| (view.vector(half.codes), half.shift));
        if !self.is_shifted() {
            return Group { halves, codes: codes.map(|(codes, _)| codes) };
        }
        // Below codes there are zeros. They are fewer than the sums that would be shifted in their place.
        let shifted = |(codes, shift): (Value, u8)| {
            let by = b.int(shift.into());
            if shift == 0 { codes } else { b.shr_u(codes, by) }
        };
        Group { halves, codes: codes.map(shifted) }
    }

    /// Adds group number `group` of the chunk to the sums of each row.
    fn group(&mut self, b: &mut Builder, rows: &[Group], group: usize, sums: &mut [Sums]) {
        let x_scale = self.meta(b, Meta::Scale, group);
        // Rows differ in values, not in how these are made.
        let [first, last] = &rows[0].halves;
        let joint = first.scale == last.scale;
        // A sum that no integer scale multiplies begins with the bias, which saves its conversion to a float.
        let biased = joint && first.scale.times.is_none() && Meta::Bias.wanted(self.m.format);
        // value = scale * (code - offset) + plus, so that a half gives
        // x scale * (scale * (dot - offset * sum of x codes) + plus * sum of x codes).
        // The half whose codes are multiplied by the larger power of two comes first: its sum is shifted down to the other's.
        let mut order = [(0, Meta::First), (1, Meta::Last)];
        order.sort_by_key(|&(h, _)| std::cmp::Reverse(rows[0].halves[h].shift));
        let all_same = self.is_shifted() || first.shift == last.shift;
        let nothing = vec![b.int(0); self.part.count()];
        let (mut dots, mut shift) = (nothing.clone(), first.shift.max(last.shift));
        let mut terms: Vec<(usize, u8, Vec<Value>)> = Vec::new();
        for (i, (h, sum)) in order.into_iter().enumerate() {
            let half = &rows[0].halves[h];
            if shift != half.shift && !self.is_shifted() {
                let by = b.int(i32::from(shift - half.shift));
                dots.iter_mut().for_each(|dot| *dot = b.shr_s(*dot, by));
            }
            shift = half.shift;
            // Bias and offset are added once for a joint sum: with the first half or, if the sum is shifted, after that.
            if !joint || (i == 0) == all_same {
                let starts = self.starts(b, (if joint { Meta::Sum } else { sum }, group), (shift, biased));
                for dots in dots.chunks_exact_mut(starts.len()) {
                    dots.iter_mut().zip(&starts).for_each(|(dot, &start)| *dot = b.iadd(*dot, start));
                }
            }
            match (joint, all_same, i) {
                (true, true, 0) => dots = self.dots(b, rows, (group, &[0, 1]), dots),
                (true, true, _) => {}
                _ => dots = self.dots(b, rows, (group, &[h]), dots),
            }
            if !joint {
                terms.push((h, shift, std::mem::replace(&mut dots, nothing.clone())));
            }
        }
        let bias = biased.then(|| self.meta(b, Meta::Bias, group));
        let tokens = self.part.tokens.len();
        let of_row = |all: &[Value], row: usize| all[row * tokens..][..tokens].to_vec();
        for (number, (row, sums)) in rows.iter().zip(sums.iter_mut()).enumerate() {
            let scale = |h: usize| row.halves[h].scale;
            if let Some(bias) = &bias {
                let dots = of_row(&dots, number);
                let products = dots.into_iter().zip(x_scale.iter().zip(bias)).map(|(dot, (&x, &bias))| {
                    let v = b.unary(Unary::AsFloat, dot);
                    b.fma(v, x, bias)
                });
                let products = products.collect();
                sums.0.push((scale(0).factor, shift, products));
            } else {
                let mut own: Vec<_> = terms.iter().map(|(h, s, dots)| (scale(*h), *s, of_row(dots, number))).collect();
                if joint {
                    own.push((scale(0), shift, of_row(&dots, number)));
                }
                add(b, sums, &x_scale, &own);
            }
        }
        for (row, sums) in rows.iter().zip(sums) {
            let [first, last] = row.halves.map(|half| half.plus);
            let terms: Vec<(Option<Scaling>, Meta)> =
                if first == last { vec![(first, Meta::Sum)] } else { vec![(first, Meta::First), (last, Meta::Last)] };
            let terms: Vec<_> =
                terms.into_iter().filter_map(|(plus, sum)| Some((plus?, 0, self.meta(b, sum, group)))).collect();
            add(b, sums, &x_scale, &terms);
        }
    }

    /// Whether codes are shifted down, so that they are not times a power of two any more.
    fn is_shifted(&self) -> bool {
        self.part.word.is_some()
    }

    /// What the sums of a group start with, for each token.
    fn starts(&mut self, b: &mut Builder, (sum, group): (Meta, usize), (shift, biased): (u8, bool)) -> Vec<Value> {
        let start = b.int(if biased { BIAS } else { 0 });
        let offset = i32::from(self.m.format.dot.offset()) << if self.is_shifted() { 0 } else { shift };
        if offset == 0 {
            return vec![start; self.part.tokens.len()];
        }
        let (sums, offset) = (self.meta(b, sum, group), b.int(-offset));
        let starts = sums.into_iter().map(|sum| {
            let less = b.imul(sum, offset);
            b.iadd(less, start)
        });
        starts.collect()
    }

    /// `acc` plus the dots of these halves of group `group` of the chunk.
    fn dots(
        &mut self,
        b: &mut Builder,
        rows: &[Group],
        (group, halves): (usize, &[usize]),
        mut acc: Vec<Value>,
    ) -> Vec<Value> {
        let is_signed = !matches!(self.m.format.dot, DotForm::Int { bits: ..8, .. });
        if self.part.word.is_none() {
            for &half in halves {
                let Codes::Row(row) = self.codes else { unreachable!("a lane's own row meets a row of codes") };
                let column = self.column(b, group, half);
                let x = row.sixteen(b, self.m.format.dot, column);
                for l in 0..4 {
                    let (weights, x) = (b.lane(rows[0].codes[half], l), b.lane(x, l));
                    acc[0] = if is_signed { b.dot4(weights, x, acc[0]) } else { b.dot4_unsigned(weights, x, acc[0]) };
                }
            }
            return acc;
        }
        let (kind, zero) = (if is_signed { Mma::S8 } else { Mma::U8 }, b.int(0));
        let tokens = self.part.tokens.len();
        for pair in 0..tokens / 2 {
            let x = self.fragment(b, group, pair);
            for (upper, two) in rows.chunks_exact(2).enumerate() {
                let places = [0, 1, tokens, tokens + 1].map(|n| 2 * upper * tokens + 2 * pair + n);
                let word = |half: usize| [two[0].codes[half], two[1].codes[half]];
                let ([p, q], [r, s], x) = match *halves {
                    [half] => (word(half), [zero; 2], [x[half], zero]),
                    _ => (word(0), word(1), x),
                };
                let (weights, old) = (b.pack([p, q, r, s]), b.pack(places.map(|n| acc[n])));
                let sums = b.mma(kind, weights, x, old);
                places.into_iter().zip(0..).for_each(|(n, l)| acc[n] = b.lane(sums, l));
            }
        }
        acc
    }

    /// Column of the row that half `half` of group `group` of the chunk begins with.
    fn column(&self, b: &mut Builder, group: usize, half: usize) -> Value {
        let first = b.imul_const(self.at.chunk, self.at.of_chunk);
        b.iadd_const(first, group * Q8_BLOCK + half * 16)
    }

    /// Groups of the chunk.
    fn groups(&self) -> usize {
        self.at.of_chunk / Q8_BLOCK
    }

    /// The block of the row that group `group` of the chunk is.
    fn block(&self, b: &mut Builder, group: usize) -> Value {
        let first = b.imul_const(self.at.chunk, self.groups());
        b.iadd_const(first, group)
    }

    /// The number of the pair of blocks that has group `group`, if the chunk has whole ones.
    fn pair(&self, b: &mut Builder, group: usize) -> Option<Value> {
        self.groups().is_multiple_of(2).then(|| {
            let first = b.imul_const(self.at.chunk, self.groups() / 2);
            b.iadd_const(first, group / 2)
        })
    }

    /// The lane's two words of the codes of group `group` of the chunk, for one of eight tokens, number `eight` of such.
    fn fragment(&mut self, b: &mut Builder, group: usize, eight: usize) -> [Value; 2] {
        let Codes::Step(step) = self.codes else { unreachable!("matrix instructions meet the codes of a step") };
        let dot = self.m.format.dot;
        match self.pair(b, group) {
            Some(pair) => {
                let known = self.loaded.entry((Loaded::Codes(eight), group / 2));
                let all = *known.or_insert_with(|| step.words(b, dot, pair, eight));
                [0, 1].map(|i| b.lane(all, (group % 2 * 2 + i) as u8))
            }
            None => {
                let block = self.block(b, group);
                step.words_of(b, dot, block, eight)
            }
        }
    }

    /// What goes with group `group` of the chunk, for each token; that of several groups is loaded at once, if it can be.
    fn meta(&mut self, b: &mut Builder, meta: Meta, group: usize) -> Vec<Value> {
        match self.codes {
            Codes::Row(row) => {
                let groups = self.groups();
                let together = if groups.is_multiple_of(4) { 4 } else { 1 };
                let number = group / together;
                let chunk = self.at.chunk;
                let all = *self.loaded.entry((Loaded::Meta(meta, 0), number)).or_insert_with(|| {
                    let at = b.imul_const(chunk, groups * 4);
                    let at = b.iadd_const(at, number * together * 4);
                    row.numbers(b, meta, at, together)
                });
                vec![if together == 4 { b.lane(all, (group % 4) as u8) } else { all }]
            }
            Codes::Step(step) => {
                (0..self.part.tokens.len() / 2).flat_map(|eight| self.meta_of(b, step, (meta, group), eight)).collect()
            }
        }
    }

    /// The same of a step, for the lane's two of eight tokens.
    fn meta_of(&mut self, b: &mut Builder, step: Step, (meta, group): (Meta, usize), eight: usize) -> [Value; 2] {
        match self.pair(b, group) {
            Some(pair) => {
                let known = self.loaded.entry((Loaded::Meta(meta, eight), group / 2));
                let all = *known.or_insert_with(|| step.numbers(b, meta, pair, eight));
                [0, 1].map(|i| b.lane(all, (group % 2 * 2 + i) as u8))
            }
            None => {
                let block = self.block(b, group);
                step.numbers_of(b, meta, block, eight)
            }
        }
    }
}

/// Adds the integers of `terms` of a row times their scalings times `x` to `sums`, for each token. Both of two are converted
/// at once where they share their factor.
fn add(b: &mut Builder, sums: &mut Sums, x: &[Value], terms: &[(Scaling, u8, Vec<Value>)]) {
    let scaled = |b: &mut Builder, (scale, _, dots): &(Scaling, u8, Vec<Value>)| -> Vec<Value> {
        dots.iter().map(|&v| scale.times.map_or(v, |times| b.imul(v, times))).collect()
    };
    let products: Vec<Vec<Value>> = terms.iter().map(|term| scaled(b, term)).collect();
    match (terms, products.as_slice()) {
        ([(p, shift, _), (q, same, _)], [v, w]) if (p.factor, shift) == (q.factor, same) => {
            let totals = v.iter().zip(w).map(|(&v, &w)| {
                let total = b.iadd(v, w);
                b.to_float(total)
            });
            let totals: Vec<Value> = totals.collect();
            sums.add(b, (p.factor, *shift), x, &totals);
        }
        _ => {
            for ((scale, shift, _), v) in terms.iter().zip(products) {
                let v: Vec<Value> = v.into_iter().map(|v| b.to_float(v)).collect();
                sums.add(b, (scale.factor, *shift), x, &v);
            }
        }
    }
}
