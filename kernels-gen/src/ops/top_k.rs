//! `top_k`: the largest elements of a row, in order, and its log-sum-exp. On GPUs only.
//!
//! A CTA takes segments of the row to shared memory, sorts them in runs and merges the runs (bitonic; Batcher 1968), of which
//! it keeps only the largest: so one segment leaves one run. The CTA that arrives last, by a counter, merges what all have
//! left. Elements are ordered by value, equal ones by number, so there is one result, whoever is last; exponentials are
//! added in a fixed order.

use super::{FusedOp, only_output};
use crate::body;
use crate::elements::row_stride;
use crate::generator::Generator;
use crate::gpu::{self, Thread, for_threads, if_below};
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::graph::Op;
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value};
use ir::spec::GpuSchedule;

/// Most elements of a segment, a power of two: 16 KiB of shared memory.
const SEGMENT: usize = 2048;
/// The number of what is no element, larger than that of any.
const NONE: f32 = (1 << 24) as f32;

pub(super) const OP: FusedOp = FusedOp {
    name: "top_k",
    covers: |body| only_output(body, |op| matches!(op, Op::TopK { .. })).is_some(),
    cpu: None,
    gpu: Some(generate),
};

fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let node = body.node(body.outputs()[0].1.node);
    let (Op::TopK { k }, Some(x)) = (&node.op, body::param(body, node.inputs[0])) else {
        return Err(g.unsupported("computed logits"));
    };
    let (k, x, ty) = (*k, g.param(x), body.ty(node.inputs[0]));
    let (columns, rows, y) = (ty.columns(), ty.rows(), g.result(0)?);
    let kept = k.next_power_of_two();
    let elements = columns.next_power_of_two().min(SEGMENT);
    let segments = columns.div_ceil(elements);
    let GpuSchedule { ctas, warps, .. } = g.gpu()?;
    let ctas = segments.min(ctas as usize);
    let mut scratch = |name, count: usize| g.b.scratch(name, Mem::F32, count as u64 * 4);
    let runs = Runs { values: scratch("values", elements), numbers: scratch("numbers", elements), elements, kept };
    let figures = Figures { k, columns, segments, ctas, sums: scratch("sums", warps as usize) };
    let shared = (segments > 1).then(|| Shared {
        flag: g.b.scratch("last", Mem::I32, 4),
        left: g.workspace("left", Mem::F32, rows * segments * runs.stride() * 4),
        counters: g.counters("arrived", rows),
    });
    let of_row = |g: &mut Generator<'_>, at: &Thread, token: Value| {
        let b = &mut g.b;
        let x = (x, b.imul_const(token, row_stride(ty)));
        let y = (y, b.imul_const(token, f32_row_bytes(2 * k + 1) / 4));
        match &shared {
            None => {
                let first = b.int(0);
                runs.take(b, at, (x, columns), first);
                let max = runs.max(b);
                let sum = runs.sum_of_exps(b, at, max, figures.sums);
                runs.finish(b, at, (y, k), (max, sum));
            }
            Some(shared) => segmented(b, at, (runs, figures, shared), token, (x, y)),
        }
        Ok(())
    };
    let (at, token) = gpu::for_rows(g, (rows, ctas), |g, at, token| of_row(g, &at, token))?;
    if rows == 1 {
        return Ok(());
    }
    // All rows leave the card, padding too: what no token has written, as zeros.
    let (written, padded) = (2 * k + 1, f32_row_bytes(2 * k + 1) / 4);
    let b = &mut g.b;
    let (tokens, none, all) = (b.tokens(), b.int(0), b.size(written));
    let there = b.compare(Compare::ULt, token, tokens);
    let first = b.select(there, all, none);
    let row = b.imul_const(token, padded);
    if_below(b, at.cta, 1, |b| {
        let (first, end) = (b.iadd(first, at.thread), b.size(padded));
        b.for_(first, end, at.threads() as u32, |b, i| {
            let (to, zero) = (b.iadd(row, i), b.float(0.0));
            b.store(y, to, Mem::F32, zero);
        });
    });
    Ok(())
}

/// Figures of the kernel.
#[derive(Debug, Clone, Copy)]
struct Figures {
    k: usize,
    columns: usize,
    segments: usize,
    /// CTAs of a row.
    ctas: usize,
    /// A float for each warp.
    sums: Buf,
}

/// What the CTAs of a row share.
#[derive(Debug, Clone, Copy)]
struct Shared {
    flag: Buf,
    /// Of each segment the values that it keeps, their numbers, and the sum of all exponentials.
    left: Buf,
    counters: Buf,
}

/// A row of several segments.
fn segmented(
    b: &mut Builder,
    at: &Thread,
    (runs, figures, shared): (Runs, Figures, &Shared),
    token: Value,
    (x, y): ((Buf, Value), (Buf, Value)),
) {
    let (Figures { k, columns, segments, ctas, sums }, Shared { flag, left, counters }) = (figures, *shared);
    let stride = runs.stride();
    let (zero, all) = (b.int(0), b.size(segments));
    let row = b.imul_const(token, segments * stride);
    b.for_(at.cta, all, ctas as u32, |b, segment| {
        let first = b.imul_const(segment, runs.elements);
        runs.take(b, at, (x, columns), first);
        let to = b.imul_const(segment, stride);
        let to = b.iadd(row, to);
        for_threads(b, at, runs.kept, |b, i| {
            let to = b.iadd(to, i);
            let (value, number) = runs.load(b, i);
            b.store(left, to, Mem::F32, value);
            let to = b.iadd_const(to, runs.kept);
            b.store(left, to, Mem::F32, number);
        });
        let max = runs.max(b);
        let sum = runs.sum_of_exps(b, at, max, sums);
        if_below(b, at.thread, 1, |b| {
            let to = b.iadd_const(to, 2 * runs.kept);
            b.store(left, to, Mem::F32, sum);
        });
    });
    // What the CTA has left is there: its threads have met for the last sum since.
    let before = gpu::arrive(b, at, (counters, token), flag);
    let others = b.size(ctas - 1);
    let last = b.compare(Compare::IEq, before, others);
    b.if_(last, |b| {
        runs.absorb(b, at, (left, row), segments);
        let max = runs.max(b);
        let none = b.float(0.0);
        let sum = b.var(none);
        for_threads(b, at, segments, |b, segment| {
            let from = b.imul_const(segment, stride);
            let from = b.iadd(row, from);
            let own = b.load(left, from, Mem::F32);
            let own = finite(b, own);
            let from = b.iadd_const(from, 2 * runs.kept);
            let (part, fade, old) = (b.load(left, from, Mem::F32), b.fsub(own, max), b.get(sum));
            let fade = b.exp(fade);
            let new = b.fma(part, fade, old);
            b.set(sum, new);
        });
        let sum = b.get(sum);
        let sum = gpu::cta_sum(b, at, sums, sum);
        runs.finish(b, at, (y, k), (max, sum));
        if_below(b, at.thread, 1, |b| b.store(counters, token, Mem::I32, zero));
    });
}

/// A value that can be subtracted from another.
fn finite(b: &mut Builder, v: Value) -> Value {
    let least = b.float(f32::MIN);
    b.fmax(v, least)
}

/// Whether element (value, number) `x` comes before `y`.
fn before(b: &mut Builder, x: (Value, Value), y: (Value, Value)) -> Value {
    let equal = b.compare(Compare::FEq, x.0, y.0);
    let less = b.select(equal, x.1, y.0);
    let more = b.select(equal, y.1, x.0);
    b.compare(Compare::FLt, less, more)
}

/// Elements in shared memory: runs of so many, one after the other. All counts are powers of two.
#[derive(Debug, Clone, Copy)]
struct Runs {
    values: Buf,
    /// Their numbers, as floats.
    numbers: Buf,
    elements: usize,
    /// Elements of a run.
    kept: usize,
}

impl Runs {
    fn load(&self, b: &mut Builder, i: Value) -> (Value, Value) {
        (b.load(self.values, i, Mem::F32), b.load(self.numbers, i, Mem::F32))
    }

    fn store(&self, b: &mut Builder, i: Value, (value, number): (Value, Value)) {
        b.store(self.values, i, Mem::F32, value);
        b.store(self.numbers, i, Mem::F32, number);
    }

    /// The largest value, once the first run is in order.
    fn max(&self, b: &mut Builder) -> Value {
        let zero = b.int(0);
        let max = b.load(self.values, zero, Mem::F32);
        finite(b, max)
    }

    /// Puts so many pairs of elements in order: of each two blocks of `half` elements those of the same place or, if
    /// `mirrored`, those that are as far from the middle.
    fn exchange(&self, b: &mut Builder, at: &Thread, pairs: Value, half: Value, mirrored: bool) {
        let one = b.int(1);
        let mask = b.isub(half, one);
        b.for_(at.thread, pairs, at.threads() as u32, |b, pair| {
            let offset = b.and(pair, mask);
            let first = b.isub(pair, offset);
            let first = b.imul_const(first, 2);
            let second = b.iadd(first, half);
            let from_second = if mirrored { b.isub(mask, offset) } else { offset };
            let (x, y) = (b.iadd(first, offset), b.iadd(second, from_second));
            let (low, high) = (self.load(b, x), self.load(b, y));
            let swap = before(b, high, low);
            b.if_(swap, |b| {
                self.store(b, x, high);
                self.store(b, y, low);
            });
        });
        b.sync(Scope::Cta);
    }

    /// Sorts bitonic blocks of 2^`levels` elements, twice `half`; so many pairs in all.
    fn merge(&self, b: &mut Builder, at: &Thread, pairs: Value, half: Value, levels: Value) {
        let (zero, one) = (b.int(0), b.int(1));
        let half = b.var(half);
        b.for_(zero, levels, 1, |b, _| {
            let now = b.get(half);
            self.exchange(b, at, pairs, now, false);
            let next = b.shr_u(now, one);
            b.set(half, next);
        });
    }

    /// Sorts runs, each of which is bitonic; so many pairs in all.
    fn merge_runs(&self, b: &mut Builder, at: &Thread, pairs: Value) {
        let (half, levels) = (b.size(self.kept / 2), b.size(self.kept.ilog2() as usize));
        self.merge(b, at, pairs, half, levels);
    }

    /// Brings the elements of a row from `first` on, and sorts the largest of them into the first run.
    fn take(&self, b: &mut Builder, at: &Thread, ((x, row), columns): ((Buf, Value), usize), first: Value) {
        let (never, largest) = (b.float(f32::NEG_INFINITY), b.float(f32::MAX));
        for_threads(b, at, self.elements, |b, i| {
            let number = b.iadd(first, i);
            let (end, last) = (b.size(columns), b.size(columns - 1));
            let inside = b.compare(Compare::ULt, number, end);
            let from = b.umin(number, last);
            let from = b.iadd(row, from);
            let v = b.load(x, from, Mem::F32);
            // Of NaN nothing holds.
            let below = b.compare(Compare::FLt, v, largest);
            let v = b.select(below, v, largest);
            let v = b.select(inside, v, never);
            let number = b.to_float(number);
            self.store(b, i, (v, number));
        });
        b.sync(Scope::Cta);
        let (one, pairs) = (b.int(1), b.size(self.elements / 2));
        let half = b.var(one);
        b.for_n(self.kept.ilog2() as usize, 1, |b, level| {
            let now = b.get(half);
            self.exchange(b, at, pairs, now, true);
            let below = b.shr_u(now, one);
            self.merge(b, at, pairs, below, level);
            let next = b.iadd(now, now);
            b.set(half, next);
        });
        self.reduce(b, at);
    }

    /// Merges all runs into the first: of each two the larger elements, which mirrored ones are, until one is left.
    fn reduce(&self, b: &mut Builder, at: &Thread) {
        let (one, half) = (b.int(1), b.size(self.elements / 2));
        let half = b.var(half);
        b.for_n((self.elements / self.kept).ilog2() as usize, 1, |b, _| {
            let now = b.get(half);
            self.exchange(b, at, now, now, true);
            let next = b.shr_u(now, one);
            self.merge_runs(b, at, next);
            b.set(half, next);
        });
    }

    /// Floats that a segment leaves: values, numbers and a sum.
    fn stride(&self) -> usize {
        2 * self.kept + 1
    }

    /// Merges what `count` segments have left from an element on into the first run.
    fn absorb(&self, b: &mut Builder, at: &Thread, (left, row): (Buf, Value), count: usize) {
        let (never, none) = (b.float(f32::NEG_INFINITY), b.float(NONE));
        for_threads(b, at, self.elements, |b, i| self.store(b, i, (never, none)));
        b.for_n(count, (self.elements / self.kept) as u32, |b, first| {
            for_threads(b, at, self.elements, |b, i| {
                let kept = b.size(self.kept);
                let (run, place) = (b.udiv(i, kept), b.urem(i, kept));
                let run = b.iadd(first, run);
                if_below(b, run, count, |b| {
                    // Backwards, so that the larger of each two are bitonic.
                    let last = b.imul_const(run, self.stride());
                    let last = b.iadd(row, last);
                    let last = b.iadd_const(last, self.kept - 1);
                    let from = b.isub(last, place);
                    let value = b.load(left, from, Mem::F32);
                    let from = b.iadd_const(from, self.kept);
                    let new = (value, b.load(left, from, Mem::F32));
                    let old = self.load(b, i);
                    let larger = before(b, new, old);
                    b.if_(larger, |b| self.store(b, i, new));
                });
            });
            b.sync(Scope::Cta);
            let pairs = b.size(self.elements / 2);
            self.merge_runs(b, at, pairs);
        });
        self.reduce(b, at);
    }

    /// The sum of the exponentials of all elements less `max`, for every thread.
    fn sum_of_exps(&self, b: &mut Builder, at: &Thread, max: Value, sums: Buf) -> Value {
        let none = b.float(0.0);
        let sum = b.var(none);
        for_threads(b, at, self.elements, |b, i| {
            let (v, old) = (b.load(self.values, i, Mem::F32), b.get(sum));
            let v = b.fsub(v, max);
            let v = b.exp(v);
            let new = b.fadd(old, v);
            b.set(sum, new);
        });
        let sum = b.get(sum);
        gpu::cta_sum(b, at, sums, sum)
    }

    /// Writes the first `k` elements and the log-sum-exp.
    fn finish(&self, b: &mut Builder, at: &Thread, ((y, row), k): ((Buf, Value), usize), (max, sum): (Value, Value)) {
        for_threads(b, at, k, |b, i| {
            let (value, number) = self.load(b, i);
            let to = b.iadd(row, i);
            b.store(y, to, Mem::F32, value);
            let to = b.iadd_const(to, k);
            b.store(y, to, Mem::F32, number);
        });
        if_below(b, at.thread, 1, |b| {
            let log = b.log(sum);
            let (to, log) = (b.iadd_const(row, 2 * k), b.fadd(max, log));
            b.store(y, to, Mem::F32, log);
        });
    }
}
