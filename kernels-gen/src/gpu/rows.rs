//! The input rows of matrix products: as they are, or normalised and quantised.
//!
//! Of one token every CTA prepares the whole row by itself in its shared memory, from the L2 cache, so that no barrier of the
//! grid is needed. A thread starts all its loads before it uses the first, as the whole CTA waits for them, and keeps what it
//! has loaded if the row is short enough. Float rows are read where they are. Codes of several tokens are made by a kernel
//! before ([`prepare_step`]). Invariant: codes and their numbers are the same bits either way, whatever
//! the number of warps.

use super::{LANES, Thread, group_of, if_below, lanes_isum, lanes_max, lanes_sum, maybe};
use crate::body::{Linear, Source};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{Q8_BLOCK, Q8Step, STEP_PLANES, STEP_TOKENS, f32_row_bytes};
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value};
use ir::quant::{DotForm, Format};

/// The bits of the float 1.5 * 2^23 = 12582912. One more in these bits is one more in the float, as long as its exponent
/// stays: for integers n, |n| < 2^22, `BIAS + n` are the bits of the float 12582912 + n. So a sum of products that begins
/// with `BIAS` instead of 0 is a float without a conversion; [`Meta::Bias`] takes the 12582912 off again while the sum is
/// multiplied by its scale: (12582912 + n) * scale + (-12582912 * scale) in one fused operation.
pub(crate) const BIAS: i32 = 0x4b40_0000;

/// What goes with each block of int8 codes, each in a plane of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meta {
    /// f32, rounded to 22 bits, so that the bias is exact.
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
    const ALL: [Meta; STEP_PLANES] = [Meta::Scale, Meta::Sum, Meta::First, Meta::Last, Meta::Bias];

    fn mem(self) -> Mem {
        if matches!(self, Meta::Scale | Meta::Bias) { Mem::F32 } else { Mem::I32 }
    }

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

/// What products take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activations {
    pub codes: Option<Codes>,
    pub float: Option<Floats>,
}

/// Float rows: so many elements from one token's to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floats {
    pub buf: Buf,
    pub stride: usize,
    /// The first row that is taken.
    pub first: Option<Value>,
}

/// Codes of a row, or of the rows of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Codes {
    Row(Int8),
    Step(Step),
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

    /// The sixteen codes for a form from column `at` on.
    pub fn sixteen(&self, b: &mut Builder, dot: DotForm, at: Value) -> Value {
        let codes = if dot.looks_up() { self.in_pairs } else { self.in_order };
        b.load4(codes.expect("a row has the codes that its formats want"), at, Mem::I32)
    }

    /// A number of the block, or of each of four, at byte `at` of its plane.
    pub fn numbers(&self, b: &mut Builder, meta: Meta, at: Value, count: usize) -> Value {
        let plane = self.planes[meta as usize].expect("a row has the numbers that its formats want");
        if count == 4 { b.load4(plane, at, meta.mem()) } else { b.load(plane, at, meta.mem()) }
    }
}

/// The codes of a step as a lane takes them for matrix instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    buf: Buf,
    of: Q8Step,
    /// Which of eight tokens its column is of, and its number among the lanes of that.
    column: Value,
    own: Value,
}

impl Step {
    /// Byte of a pair of blocks: its words for eight tokens, number `eight` of such.
    fn words_at(&self, b: &mut Builder, dot: DotForm, pair: Value, eight: usize) -> Value {
        let order = if dot.looks_up() { self.of.order_bytes() } else { 0 };
        let row = b.imul_const(pair, self.of.tokens);
        let row = b.iadd(row, self.column);
        let row = b.imul_const(row, Q8Step::PAIR_BYTES);
        let lane = b.imul_const(self.own, 16);
        let at = b.iadd(row, lane);
        b.iadd_const(at, order + eight * STEP_TOKENS * Q8Step::PAIR_BYTES)
    }

    /// Two words of each block of a pair.
    pub fn words(&self, b: &mut Builder, dot: DotForm, pair: Value, eight: usize) -> Value {
        let at = self.words_at(b, dot, pair, eight);
        b.load4(self.buf, at, Mem::I32)
    }

    /// Two words of one block.
    pub fn words_of(&self, b: &mut Builder, dot: DotForm, block: Value, eight: usize) -> [Value; 2] {
        self.of_block(b, block, Mem::I32, |b, pair| self.words_at(b, dot, pair, eight))
    }

    /// The two numbers or words of a block, of the four of its pair, which are where `at` says.
    fn of_block(
        &self,
        b: &mut Builder,
        block: Value,
        mem: Mem,
        at: impl FnOnce(&mut Builder, Value) -> Value,
    ) -> [Value; 2] {
        let two = b.size(2);
        let (pair, second) = (b.udiv(block, two), b.urem(block, two));
        let (first, within) = (at(b, pair), b.imul_const(second, 8));
        let at = b.iadd(first, within);
        [0, 4].map(|word| {
            let at = b.iadd_const(at, word);
            b.load(self.buf, at, mem)
        })
    }

    fn numbers_at(&self, b: &mut Builder, meta: Meta, pair: Value, eight: usize) -> Value {
        let row = b.imul_const(pair, self.of.tokens / 2);
        let row = b.iadd(row, self.own);
        let at = b.imul_const(row, Q8Step::PLANE_BYTES);
        let eight = eight * STEP_TOKENS / 2 * Q8Step::PLANE_BYTES;
        b.iadd_const(at, self.of.number_at(meta as usize, 0, 0) + eight)
    }

    /// A number of each block of a pair, for each of the lane's two tokens of these eight.
    pub fn numbers(&self, b: &mut Builder, meta: Meta, pair: Value, eight: usize) -> Value {
        let at = self.numbers_at(b, meta, pair, eight);
        b.load4(self.buf, at, meta.mem())
    }

    /// The same of one block.
    pub fn numbers_of(&self, b: &mut Builder, meta: Meta, block: Value, eight: usize) -> [Value; 2] {
        self.of_block(b, block, meta.mem(), |b, pair| self.numbers_at(b, meta, pair, eight))
    }
}

/// Where a row's codes and numbers go.
#[derive(Debug, Clone, Copy)]
enum Sink {
    Row(Int8),
    /// The row of a token of a step.
    Step(Buf, Q8Step, Value),
}

impl Sink {
    fn wants_order(&self, in_turn: bool) -> bool {
        match self {
            Sink::Row(row) => if in_turn { row.in_pairs } else { row.in_order }.is_some(),
            Sink::Step(..) => true,
        }
    }

    /// Stores word `word` of eight of a block, if the order is wanted.
    fn word(&self, b: &mut Builder, in_turn: bool, (block, word): (Value, Value), codes: Value) {
        match *self {
            Sink::Row(row) => {
                let Some(buf) = (if in_turn { row.in_pairs } else { row.in_order }) else { return };
                let (first, within) = (b.imul_const(block, Q8_BLOCK), b.imul_const(word, 4));
                let at = b.iadd(first, within);
                b.store(buf, at, Mem::I32, codes);
            }
            Sink::Step(buf, of, token) => {
                let halves = b.size(if in_turn { 2 } else { 4 });
                let (high, low) = (b.udiv(word, halves), b.urem(word, halves));
                let (lane, second) = if in_turn { (high, low) } else { (low, high) };
                let row = of_pair(b, (block, of.tokens), token, Q8Step::PAIR_BYTES);
                let (lane, second) = (b.imul_const(lane, 16), b.imul_const(second, 4));
                let at = b.iadd(row, lane);
                let at = b.iadd(at, second);
                let at = b.iadd_const(at, if in_turn { of.order_bytes() } else { 0 });
                b.store(buf, at, Mem::I32, codes);
            }
        }
    }

    /// Stores a number of a block, if it is wanted.
    fn number(&self, b: &mut Builder, meta: Meta, block: Value, v: Value) {
        match *self {
            Sink::Row(row) => {
                let Some(plane) = row.planes[meta as usize] else { return };
                let at = b.imul_const(block, 4);
                b.store(plane, at, meta.mem(), v);
            }
            Sink::Step(buf, of, token) => {
                let two = b.size(2);
                let (pair, second) = (b.udiv(token, two), b.urem(token, two));
                let at = of_pair(b, (block, of.tokens / 2), pair, Q8Step::PLANE_BYTES);
                let second = b.imul_const(second, 4);
                let at = b.iadd(at, second);
                let at = b.iadd_const(at, of.number_at(meta as usize, 0, 0));
                b.store(buf, at, meta.mem(), v);
            }
        }
    }
}

/// Byte of a block in the entries of its pair, of which `each` follow one another: of entry `number`, of `bytes` bytes.
fn of_pair(b: &mut Builder, (block, each): (Value, usize), number: Value, bytes: usize) -> Value {
    let two = b.size(2);
    let (pair, second) = (b.udiv(block, two), b.urem(block, two));
    let entry = b.imul_const(pair, each);
    let entry = b.iadd(entry, number);
    let (at, within) = (b.imul_const(entry, bytes), b.imul_const(second, 8));
    b.iadd(at, within)
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
    /// The row's first element, if that is not 0.
    row: Option<Value>,
    fours: usize,
    /// Those of this thread, if it holds them.
    held: Option<Vec<Four>>,
}

impl<'a> Spread<'a> {
    fn new(b: &mut Builder, at: &'a Thread, (x, row): (Buf, Option<Value>), columns: usize) -> Self {
        let mut spread = Spread { at, x, row, fours: columns / 4, held: None };
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
        let from = self.row.map_or(column, |row| b.iadd(row, column));
        Four { column, v: b.load4(self.x, from, Mem::F32), inside }
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

    /// 1 / sqrt(mean of squares + eps) of the row, for every thread. The squares of each 128 elements are added up, then those
    /// sums, so that the order does not depend on the number of warps.
    fn inverse_rms(&self, b: &mut Builder, eps: f32) -> Value {
        let parts = self.fours.div_ceil(LANES);
        let sums = b.scratch("squares", Mem::F32, parts as u64 * 4);
        let zero = b.float(0.0);
        self.each_four(b, |b, four| {
            let squares = b.fmul(four.v, four.v);
            let squares = b.sum(squares);
            let squares = four.inside.map_or(squares, |inside| b.select(inside, squares, zero));
            let sum = lanes_sum(b, squares, LANES);
            // The first lane's four is there if any is; others would say which part they repeat.
            let each = b.size(4 * LANES);
            let part = b.udiv(four.column, each);
            maybe(b, four.inside, |b| if_below(b, self.at.lane, 1, |b| b.store(sums, part, Mem::F32, sum)));
        });
        b.sync(Scope::Cta);
        let total = b.var(zero);
        let end = b.size(parts);
        b.for_(self.at.lane, end, LANES as u32, |b, i| {
            let (part, old) = (b.load(sums, i, Mem::F32), b.get(total));
            let new = b.fadd(old, part);
            b.set(total, new);
        });
        let total = b.get(total);
        let total = lanes_sum(b, total, LANES);
        crate::math::inverse_root(b, total, 4 * self.fours, eps)
    }
}

/// Prepares what the products want, which share their source; rows of a step are as they are.
///
/// # Errors
/// For rows of floats that are still to be normalised, and rows of several tokens to be quantised.
pub(crate) fn prepare(g: &mut Generator<'_>, at: &Thread, products: &[Linear]) -> Result<Activations> {
    let source = products[0].source;
    let x = g.param(source.x);
    if source.is_quantised {
        let (column, own) = group_of(&mut g.b, at.lane);
        let step = Step { buf: x, of: Q8Step::new(source.columns, g.spec.tokens), column, own };
        return Ok(Activations { codes: Some(Codes::Step(step)), float: None });
    }
    let wants_float = products.iter().any(|p| !p.matrix.wants_int8());
    let wants_codes = products.iter().any(|p| p.matrix.wants_int8());
    let one = source.one_row || g.spec.tokens == 1;
    if wants_float && source.norm.is_some() || wants_codes && !one {
        return Err(g.unsupported("rows that a kernel before is to prepare"));
    }
    let stride = f32_row_bytes(source.columns) / 4;
    let row = source.last_token.then(|| {
        let (tokens, one) = (g.b.tokens(), g.b.int(1));
        let last = g.b.isub(tokens, one);
        g.b.imul_const(last, stride)
    });
    let float = wants_float.then_some(Floats { buf: x, stride, first: row });
    let int8 = Int8::new(&mut g.b, products, source.columns);
    if let Some(int8) = int8 {
        spread(g, at, (source, row), None, |b, four| quantise(b, at, Sink::Row(int8), four));
        g.b.sync(Scope::Cta);
    }
    Ok(Activations { codes: int8.map(Codes::Row), float })
}

/// Quantises the rows of a step, a CTA for each; those of tokens that the step does not have become zeros.
pub(crate) fn prepare_step(g: &mut Generator<'_>, source: Source, y: Buf) -> Result<()> {
    let of = Q8Step::new(source.columns, g.spec.tokens);
    let at = super::begin(g, of.tokens)?;
    g.b.await_previous();
    let b = &mut g.b;
    let (tokens, zero) = (b.tokens(), b.int(0));
    let there = b.compare(Compare::ULt, at.cta, tokens);
    let token = b.select(there, at.cta, zero);
    let row = b.imul_const(token, f32_row_bytes(source.columns) / 4);
    spread(g, &at, (source, Some(row)), Some(there), |b, four| quantise(b, &at, Sink::Step(y, of, at.cta), four));
    Ok(())
}

/// Calls `f` for each four of the row from an element on, normalised; where it is not `there`, for zeros.
fn spread(
    g: &mut Generator<'_>,
    at: &Thread,
    (source, row): (Source, Option<Value>),
    there: Option<Value>,
    mut f: impl FnMut(&mut Builder, &Four),
) {
    let (x, norm) = (g.param(source.x), source.norm.map(|(w, eps)| (g.param(w), eps)));
    let b = &mut g.b;
    let spread = Spread::new(b, at, (x, row), source.columns);
    let norm = norm.map(|(w, eps)| (w, spread.inverse_rms(b, eps)));
    spread.each_four(b, |b, four| {
        let mut v = norm.map_or(four.v, |(w, r)| {
            let (r, w) = (b.splat(r), b.load4(w, four.column, Mem::F32));
            let v = b.fmul(four.v, r);
            b.fmul(v, w)
        });
        if let Some(there) = there {
            let zero = b.float(0.0);
            let zeros = b.splat(zero);
            v = b.select(there, v, zeros);
        }
        f(b, &Four { v, ..*four });
    });
}

/// Quantises the block of which this lane holds a four, as one of eight lanes; only those `inside` write.
fn quantise(b: &mut Builder, at: &Thread, sink: Sink, four: &Four) {
    let v = four.v;
    let magnitudes = b.fabs(v);
    let largest = b.max(magnitudes);
    let largest = lanes_max(b, largest, 8);
    let (scale, inverse) = crate::math::scale_of(b, largest);
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
    // Rounds the scale to 22 bits (Veltkamp 1968): times 12582912, which has 2 bits, it has the 24 of a float.
    let (split, minus) = (b.float(5.0), b.float(-f32::from_bits(BIAS as u32)));
    let large = b.fmul(scale, split);
    let rest = b.fsub(large, scale);
    let scale = b.fsub(large, rest);
    let bias = b.fmul(scale, minus);
    let (eight, elements) = (b.size(8), b.size(Q8_BLOCK));
    let (number, block) = (b.urem(at.lane, eight), b.udiv(four.column, elements));
    let pairs = sink.wants_order(true).then(|| pairs(b, number, word));
    maybe(b, four.inside, |b| {
        sink.word(b, false, (block, number), word);
        if let Some((to, word)) = pairs {
            sink.word(b, true, (block, to), word);
        }
        if_below(b, number, 1, |b| {
            for (meta, value) in Meta::ALL.into_iter().zip([scale, all, half, other, bias]) {
                sink.number(b, meta, block, value);
            }
        });
    });
}

/// Of the codes in turn, the word of lane `number` of eight, and its number: from a lane's own codes, which are those of its
/// number, and those 16 elements off. Lane q has word 2 q, lane q + 4 the one that follows.
fn pairs(b: &mut Builder, number: Value, own: Value) -> (Value, Value) {
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
    let (second, of_half) = (b.udiv(number, four), b.urem(number, four));
    let to = b.imul_const(of_half, 2);
    (b.iadd(to, second), b.or(even, odd))
}
