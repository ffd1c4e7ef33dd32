//! `attention`: causal attention over the KV cache with online softmax (Milakov and Gimelshein 2018; Dao 2022).
//!
//! A worker takes one KV head, a few query tokens and, where the schedule splits the cache, a range of positions; of a step
//! of many tokens it takes all ranges of its tokens one after the other. All query rows of a KV head, up to [`MOST_SHARE`],
//! share the loads of a block of [`KV_BLOCK`] positions. Blocks and ranges begin at multiples of their lengths, and of a
//! window those before it are left out, so that a token's result does not depend on the tokens beside it. Results of ranges
//! are combined in their order, so it does not depend on the workers either, nor on who takes how many tokens. A sink is one
//! more score, which a row meets once, at the end.

mod gpu;

use super::{FusedOp, only_output};
use crate::body;
use crate::cache::Cache;
use crate::cpu::attention::{Positions, accumulate, scores};
use crate::generator::Generator;
use crate::math;
use ir::Result;
use ir::abi::{Atom, KV_BLOCK, Meaning, f32_row_bytes};
use ir::graph::{F32, Function, Op};
use ir::kernel::{Arg, Buf, Builder, Compare, Mem, Value};
use ir::tensor::{KvShape, kv_shape};

/// The maximum before any score; finite, so that a score of minus infinity, less it, is one too.
const NEVER: f32 = f32::MIN;

/// Scores that an iteration of the softmax takes, in independent vectors; it divides [`KV_BLOCK`].
const STRIDE: usize = 16;

/// What heads have a multiple of: the lanes of a vector.
const HEAD_MULTIPLE: usize = 4;

/// Figures of the kernel.
#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    /// Elements of queries and keys.
    head: usize,
    /// Elements of values and results.
    value: usize,
    /// Query heads of a KV head.
    per_kv: usize,
}

/// Most query heads that share the loads of a unit on CPUs. Where a KV head has more they are in groups, each of which reads
/// the positions for itself.
const MOST_SHARE: usize = 32;

/// How many groups of at most [`MOST_SHARE`] the query heads of a KV head are in.
fn groups(per_kv: usize) -> usize {
    (per_kv.div_ceil(MOST_SHARE)..=per_kv).find(|&groups| per_kv.is_multiple_of(groups)).unwrap_or(1)
}

/// What becomes of a product of a query and a key.
#[derive(Clone, Copy)]
struct Scores {
    scale: f32,
    cap: Option<F32>,
    /// Positions that a token sees, if it does not see all of the context.
    window: Option<usize>,
    /// A score for each query head.
    sinks: Option<Buf>,
}

impl Scores {
    /// The first position that the token at `position` sees; `None` if that is 0 always.
    fn first_seen(self, b: &mut Builder, position: Value) -> Option<Value> {
        self.window.map(|window| {
            let window = b.size(window);
            let end = b.iadd_const(position, 1);
            let seen = b.umin(end, window);
            b.isub(end, seen)
        })
    }

    /// The sink of query head `j` of the KV head.
    fn sink(self, b: &mut Builder, shape: Shape, h: Value, j: Value) -> Option<Value> {
        self.sinks.map(|sinks| {
            let at = b.imul_const(h, shape.per_kv);
            let at = b.iadd(at, j);
            b.load(sinks, at, Mem::F32)
        })
    }
}

/// Scratch memory of a unit: queries, scores, sums, running maxima and denominators.
#[derive(Clone, Copy)]
struct Scratch {
    q: Buf,
    s: Buf,
    acc: Buf,
    max: Buf,
    sum: Buf,
}

impl Scratch {
    /// Forgets all positions of a row.
    fn clear(&self, b: &mut Builder, shape: Shape, r: Value) {
        let (zero, never) = (b.float(0.0), b.float(NEVER));
        b.store(self.max, r, Mem::F32, never);
        b.store(self.sum, r, Mem::F32, zero);
        let zeros = b.splat(zero);
        let acc = b.imul_const(r, shape.value);
        b.for_n(shape.value, 4, |b, i| {
            let at = b.iadd(acc, i);
            b.store(self.acc, at, Mem::F32, zeros);
        });
    }
}

/// What is known of a row from some positions: where its weighted sum is, its maximum and the sum of its weights.
#[derive(Clone, Copy)]
struct Part {
    acc: (Buf, Value),
    figures: (Value, Value),
}

/// Where partial results go: sums, maximum, denominator for each (KV head, token, query head, split).
#[derive(Clone, Copy)]
struct Partials {
    buf: Buf,
    splits: usize,
}

pub(super) const OP: FusedOp = FusedOp {
    name: "attention",
    covers: |body| only_output(body, |op| matches!(op, Op::Attention { .. })).is_some(),
    cpu: Some(generate),
    gpu: Some(gpu::generate),
};

/// What both kinds of machine attend to, and how.
#[derive(Clone, Copy)]
struct Attention {
    shape: Shape,
    kv_heads: usize,
    /// Positions that there can be.
    context: usize,
    q: Buf,
    keys: Cache,
    values: Cache,
    rule: Scores,
}

/// Reads the body.
fn attention(g: &Generator<'_>) -> Result<Attention> {
    let body = g.body();
    let node = body.node(body.outputs()[0].1.node);
    let Op::Attention { scale, window, cap } = node.op else {
        return Err(g.unsupported("anything but attention"));
    };
    let operands: Option<Vec<u32>> = node.inputs.iter().map(|&v| body::param(body, v)).collect();
    let (Some(operands), cache_ty) = (operands, body.ty(node.inputs[1])) else {
        return Err(g.unsupported("computed operands"));
    };
    let (&[_, heads, head], Some(KvShape { heads: kv_heads, positions, ring, .. })) =
        (body.ty(node.inputs[0]).shape.as_slice(), kv_shape(cache_ty))
    else {
        return Err(g.unsupported("operands of other ranks"));
    };
    // A ring does not bound them.
    let context = if ring { usize::MAX } else { positions };
    let shape = Shape { heads, head, value: body.ty(node.inputs[2]).columns(), per_kv: heads / kv_heads };
    if !(head.is_multiple_of(HEAD_MULTIPLE) && shape.value.is_multiple_of(HEAD_MULTIPLE)) {
        return Err(g.unsupported("heads that are no multiple of four elements"));
    }
    let rule = Scores {
        scale: scale.0,
        cap,
        window: window.filter(|&window| window < context),
        sinks: operands.get(4).map(|&sinks| g.param(sinks)),
    };
    let cache = |g: &Generator<'_>, n: usize| Cache::new(g, operands[n], body.ty(node.inputs[n]));
    Ok(Attention { shape, kv_heads, context, q: g.param(operands[0]), keys: cache(g, 1)?, values: cache(g, 2)?, rule })
}

fn generate(g: &mut Generator<'_>) -> Result<()> {
    let Attention { shape, kv_heads, context, q, keys, values, rule } = attention(g)?;
    // Each group counts as a KV head, whose rows it shares with others.
    let groups = groups(shape.per_kv);
    let (shape, kv_heads) = (Shape { per_kv: shape.per_kv / groups, ..shape }, kv_heads * groups);
    let (capacity, y) = (g.spec.tokens, g.result(0)?);
    let schedule = g.cpu()?;
    let tokens = (schedule.query_tokens as usize).min(capacity);
    // Ranges are spread over workers where one takes all tokens.
    let (split, fold) = match schedule.split as usize {
        split if tokens == capacity => (split, None),
        split => (0, (split > 0 && split < context).then_some(split)),
    };

    let rows = tokens * shape.per_kv;
    let mut scratch = |name: &str, floats: usize| g.b.scratch(name, Mem::F32, (floats * 4) as u64);
    let mem = Scratch {
        q: scratch("q", rows * shape.head),
        s: scratch("scores", rows * KV_BLOCK),
        acc: scratch("acc", rows * shape.value),
        max: scratch("max", rows),
        sum: scratch("sum", rows),
    };
    let fold = fold.map(|length| {
        let total = Scratch {
            acc: scratch("total acc", rows * shape.value),
            max: scratch("total max", rows),
            sum: scratch("total sum", rows),
            ..mem
        };
        (length, total)
    });
    let partials = (split > 0).then(|| {
        let splits = most_splits(&rule, capacity, context, split);
        let floats = kv_heads * capacity * shape.per_kv * splits * (shape.value + 4);
        Partials { buf: g.workspace("partials", Mem::F32, floats * 4), splits }
    });

    let (position, step_tokens) = (g.b.position(), g.b.tokens());
    let length = g.b.iadd(position, step_tokens);
    // The first range that is seen, if it is not always the first of all.
    let first_split = match rule.first_seen(&mut g.b, position) {
        Some(seen) if split > 0 => {
            let by = g.b.size(split);
            Some(g.b.udiv(seen, by))
        }
        _ => None,
    };
    let per_head = if split > 0 {
        let rounded = g.b.iadd_const(length, split - 1);
        let by = g.b.size(split);
        let all = g.b.udiv(rounded, by);
        first_split.map_or(all, |first| g.b.isub(all, first))
    } else {
        let rounded = g.b.iadd_const(step_tokens, tokens - 1);
        let by = g.b.size(tokens);
        g.b.udiv(rounded, by)
    };
    let units = g.b.imul_const(per_head, kv_heads);
    let softmax = g.target.atom(Meaning::Softmax);
    g.parallel(units, |g, unit| {
        // Head by head, so that a worker reads each one's positions in order.
        let (h, part) = divide(&mut g.b, unit, per_head, kv_heads);
        let zero = g.b.int(0);
        let first = if split > 0 { zero } else { g.b.imul_const(part, tokens) };
        let left = g.b.isub(step_tokens, first);
        let most = g.b.size(tokens);
        let count = g.b.umin(left, most);
        let start = g.b.iadd(position, first);
        let end = g.b.iadd(start, count);
        let (from, to) = if split > 0 {
            let number = first_split.map_or(part, |first| g.b.iadd(part, first));
            let from = g.b.imul_const(number, split);
            let to = g.b.iadd_const(from, split);
            (from, g.b.umin(to, end))
        } else {
            (zero, end)
        };
        let seen = rule.first_seen(&mut g.b, start);
        let from = seen.map_or(from, |seen| {
            let mask = g.b.int(-(KV_BLOCK as i32));
            let block = g.b.and(seen, mask);
            let later = g.b.compare(Compare::ULt, from, block);
            g.b.select(later, block, from)
        });
        load_queries(&mut g.b, shape, mem, q, (first, count), h, rule.scale);
        let cached = if groups == 1 {
            h
        } else {
            let by = g.b.size(groups);
            g.b.udiv(h, by)
        };
        let attend = |g: &mut Generator<'_>, from: Value, to: Value| {
            for_rows(&mut g.b, shape, count, |b, _, _, r| mem.clear(b, shape, r));
            g.for_(from, to, KV_BLOCK as u32, |g, p| {
                let left = g.b.isub(to, p);
                let block = g.b.size(KV_BLOCK);
                let n = g.b.umin(left, block);
                let rows = g.b.imul_const(count, shape.per_kv);
                let positions = Positions { first: seen.map(|seen| beyond(&mut g.b, seen, p)), count: n };
                scores(g, &keys, (cached, p), mem.q, mem.s, positions, rows)?;
                soften(&mut g.b, softmax, shape, mem, &rule, (start, count), (p, n));
                accumulate(g, &values, (cached, p), mem.s, mem.acc, positions, rows);
                Ok(())
            })
        };
        let mem = match fold {
            None => {
                attend(g, from, to)?;
                mem
            }
            Some((length, total)) => {
                for_rows(&mut g.b, shape, count, |b, _, _, r| total.clear(b, shape, r));
                let by = g.b.size(length);
                let range = g.b.udiv(from, by);
                let range = g.b.imul_const(range, length);
                g.for_(range, to, length as u32, |g, range| {
                    let end = g.b.iadd_const(range, length);
                    let end = g.b.umin(end, to);
                    let earlier = g.b.compare(Compare::ULt, range, from);
                    let from = g.b.select(earlier, from, range);
                    attend(g, from, end)?;
                    for_rows(&mut g.b, shape, count, |b, _, _, r| {
                        let acc = b.imul_const(r, shape.value);
                        let [part, whole] = [mem, total].map(|m| {
                            let figures = (b.load(m.max, r, Mem::F32), b.load(m.sum, r, Mem::F32));
                            Part { acc: (m.acc, acc), figures }
                        });
                        let (max, sum) = merge(b, shape.value, part, whole);
                        b.store(total.max, r, Mem::F32, max);
                        b.store(total.sum, r, Mem::F32, sum);
                    });
                    Ok(())
                })?;
                total
            }
        };
        let b = &mut g.b;
        for_rows(b, shape, count, |b, t, j, r| {
            let token = b.iadd(first, t);
            let acc_at = b.imul_const(r, shape.value);
            let sum = b.load(mem.sum, r, Mem::F32);
            match partials {
                None => {
                    let max = b.load(mem.max, r, Mem::F32);
                    let sink = rule.sink(b, shape, h, j);
                    let factor = last_factor(b, (max, sum), sink);
                    let to = head_index(b, shape, shape.value, token, h, j);
                    scale_row(b, shape.value, (mem.acc, acc_at), factor, (y, to));
                }
                Some(partials) => {
                    let at = partial_index(b, shape, capacity, partials, (h, token, j), part);
                    let one = b.float(1.0);
                    scale_row(b, shape.value, (mem.acc, acc_at), one, (partials.buf, at));
                    let max = b.load(mem.max, r, Mem::F32);
                    let at = b.iadd_const(at, shape.value);
                    b.store(partials.buf, at, Mem::F32, max);
                    let at = b.iadd_const(at, 1);
                    b.store(partials.buf, at, Mem::F32, sum);
                }
            }
        });
        Ok(())
    })?;
    let Some(partials) = partials else { return Ok(()) };
    g.b.barrier();
    let units = g.b.imul_const(step_tokens, kv_heads);
    let b = &mut g.b;
    b.parallel(units, |b, unit| {
        let by = b.size(kv_heads);
        let (token, h) = (b.udiv(unit, by), b.urem(unit, by));
        b.for_n(shape.per_kv, 1, |b, j| {
            let first = b.int(0);
            let at = partial_index(b, shape, capacity, partials, (h, token, j), first);
            let to = head_index(b, shape, shape.value, token, h, j);
            let sink = rule.sink(b, shape, h, j);
            combine(b, shape.value, (partials.buf, at), per_head, sink, (y, to));
        });
    });
    Ok(())
}

/// Most ranges that the positions seen by a step are in.
fn most_splits(rule: &Scores, tokens: usize, context: usize, split: usize) -> usize {
    let all = context.div_ceil(split);
    rule.window.map_or(all, |window| ((window + tokens - 2).div_ceil(split) + 1).min(all))
}

/// How far `value` is beyond `than`, 0 if it is not.
fn beyond(b: &mut Builder, value: Value, than: Value) -> Value {
    let (below, difference, zero) = (b.compare(Compare::ULt, value, than), b.isub(value, than), b.int(0));
    b.select(below, zero, difference)
}

/// What the weighted sum of a row is multiplied by in the end, given its maximum and its sum of weights.
fn last_factor(b: &mut Builder, (max, sum): (Value, Value), sink: Option<Value>) -> Value {
    let Some(sink) = sink else {
        let one = b.float(1.0);
        return b.fdiv(one, sum);
    };
    let most = b.fmax(max, sink);
    let (fade, more) = (b.fsub(max, most), b.fsub(sink, most));
    let (fade, more) = (b.exp(fade), b.exp(more));
    let total = b.fma(sum, fade, more);
    b.fdiv(fade, total)
}

/// Quotient, below `most`, and rest.
fn divide(b: &mut Builder, value: Value, by: Value, most: usize) -> (Value, Value) {
    let zero = b.int(0);
    let (quotient, rest) = (b.var(zero), b.var(value));
    b.for_n(most - 1, 1, |b, _| {
        let (q, left) = (b.get(quotient), b.get(rest));
        let done = b.compare(Compare::ULt, left, by);
        let (more, less) = (b.iadd_const(q, 1), b.isub(left, by));
        let (q, left) = (b.select(done, q, more), b.select(done, left, less));
        b.set(quotient, q);
        b.set(rest, left);
    });
    (b.get(quotient), b.get(rest))
}

/// Calls `f(token, query head of the KV head, row)` for each row of a unit.
fn for_rows(b: &mut Builder, shape: Shape, count: Value, f: impl FnOnce(&mut Builder, Value, Value, Value)) {
    let zero = b.int(0);
    b.for_(zero, count, 1, |b, t| {
        b.for_n(shape.per_kv, 1, |b, j| {
            let r = b.imul_const(t, shape.per_kv);
            let r = b.iadd(r, j);
            f(b, t, j, r);
        });
    });
}

/// Element index of a head of `size` elements in the query or the result buffer.
fn head_index(b: &mut Builder, shape: Shape, size: usize, token: Value, h: Value, j: Value) -> Value {
    let row = b.imul_const(token, f32_row_bytes(shape.heads * size) / 4);
    let head = b.imul_const(h, shape.per_kv);
    let head = b.iadd(head, j);
    let head = b.imul_const(head, size);
    b.iadd(row, head)
}

fn partial_index(
    b: &mut Builder,
    shape: Shape,
    capacity: usize,
    partials: Partials,
    (h, token, j): (Value, Value, Value),
    split: Value,
) -> Value {
    let row = b.imul_const(h, capacity);
    let row = b.iadd(row, token);
    let row = b.imul_const(row, shape.per_kv);
    let row = b.iadd(row, j);
    let row = b.imul_const(row, partials.splits);
    let row = b.iadd(row, split);
    b.imul_const(row, shape.value + 4)
}

/// to\[i\] = from\[i\] * by over a head.
fn scale_row(b: &mut Builder, head: usize, from: (Buf, Value), by: Value, to: (Buf, Value)) {
    let by = b.splat(by);
    b.for_n(head, 4, |b, i| {
        let (at, target) = (b.iadd(from.1, i), b.iadd(to.1, i));
        let v = b.load4(from.0, at, Mem::F32);
        let v = b.fmul(v, by);
        b.store(to.0, target, Mem::F32, v);
    });
}

/// Copies the unit's queries times the softmax scale.
fn load_queries(
    b: &mut Builder,
    shape: Shape,
    mem: Scratch,
    q: Buf,
    (first, count): (Value, Value),
    h: Value,
    scale: f32,
) {
    for_rows(b, shape, count, |b, t, j, r| {
        let token = b.iadd(first, t);
        let from = head_index(b, shape, shape.head, token, h, j);
        let to = b.imul_const(r, shape.head);
        let scale = b.float(scale);
        scale_row(b, shape.head, (q, from), scale, (mem.q, to));
    });
}

/// Turns the scores of positions p.. p + n into weights relative to the new running maximum, and rescales the sums.
fn soften(
    b: &mut Builder,
    atom: Option<Atom>,
    shape: Shape,
    mem: Scratch,
    rule: &Scores,
    (start, count): (Value, Value),
    (p, n): (Value, Value),
) {
    for_rows(b, shape, count, |b, t, _, r| {
        let position = b.iadd(start, t);
        let limit = b.iadd_const(position, 1);
        let (zero, block) = (b.int(0), b.size(KV_BLOCK));
        let end = beyond(b, limit, p);
        let end = b.umin(end, n);
        let first = rule.first_seen(b, position).map_or(zero, |seen| {
            let first = beyond(b, seen, p);
            b.umin(first, end)
        });
        let (row, acc) = (b.imul_const(r, KV_BLOCK), b.imul_const(r, shape.value));
        if let Some(atom) = atom {
            let address = |buf, at| Arg::Address(buf, at);
            let memory = [address(mem.s, row), address(mem.max, r), address(mem.sum, r), address(mem.acc, acc)];
            let (size, cap) = (b.size(shape.value), b.float(rule.cap.map_or(0.0, |cap| cap.0)));
            let figures = [Arg::Int(size), Arg::Int(first), Arg::Int(end), Arg::Float(cap)];
            b.call(atom, memory.into_iter().chain(figures).collect());
            return;
        }
        if let Some(cap) = rule.cap {
            b.for_(first, end, 1, |b, i| {
                let at = b.iadd(row, i);
                let score = b.load(mem.s, at, Mem::F32);
                let score = math::function(b, Function::SoftCap(cap), score);
                b.store(mem.s, at, Mem::F32, score);
            });
        }
        let never = b.float(f32::NEG_INFINITY);
        for (from, to) in [(zero, first), (end, block)] {
            b.for_(from, to, 1, |b, i| {
                let at = b.iadd(row, i);
                b.store(mem.s, at, Mem::F32, never);
            });
        }
        let old = b.load(mem.max, r, Mem::F32);
        let top = b.splat(old);
        let top = b.var(top);
        b.for_n(KV_BLOCK, STRIDE as u32, |b, i| {
            let first = b.iadd(row, i);
            let vectors = (0..STRIDE).step_by(4).map(|offset| {
                let at = b.iadd_const(first, offset);
                b.load4(mem.s, at, Mem::F32)
            });
            let vectors: Vec<Value> = vectors.collect();
            let old = b.get(top);
            let m = vectors.into_iter().reduce(|x, y| b.fmax(x, y)).expect("a stride is not empty");
            let m = b.fmax(m, old);
            b.set(top, m);
        });
        let top = b.get(top);
        let max = b.max(top);
        b.store(mem.max, r, Mem::F32, max);
        let (maxes, nothing) = (b.splat(max), b.float(0.0));
        let nothing = b.splat(nothing);
        let sums = b.var(nothing);
        b.for_n(KV_BLOCK, STRIDE as u32, |b, i| {
            let first = b.iadd(row, i);
            let weights = (0..STRIDE).step_by(4).map(|offset| {
                let at = b.iadd_const(first, offset);
                let v = b.load4(mem.s, at, Mem::F32);
                let v = b.fsub(v, maxes);
                let w = b.exp(v);
                b.store(mem.s, at, Mem::F32, w);
                w
            });
            let weights: Vec<Value> = weights.collect();
            let sum = weights.into_iter().reduce(|x, y| b.fadd(x, y)).expect("a stride is not empty");
            let old = b.get(sums);
            let sum = b.fadd(old, sum);
            b.set(sums, sum);
        });
        let fade = b.fsub(old, max);
        let fade = b.exp(fade);
        let sum = b.load(mem.sum, r, Mem::F32);
        let new = b.get(sums);
        let new = b.sum(new);
        let sum = b.fma(sum, fade, new);
        b.store(mem.sum, r, Mem::F32, sum);
        let moved = b.compare(Compare::FLt, old, max);
        b.if_(moved, |b| scale_row(b, shape.value, (mem.acc, acc), fade, (mem.acc, acc)));
    });
}

/// Adds a part to the weighted sum of `whole`; the new maximum and sum of weights.
fn merge(b: &mut Builder, head: usize, part: Part, whole: Part) -> (Value, Value) {
    let ((part_max, part_sum), (max, sum)) = (part.figures, whole.figures);
    let most = b.fmax(max, part_max);
    let [fade, weight] = [max, part_max].map(|m| {
        let less = b.fsub(m, most);
        b.exp(less)
    });
    let sum = b.fmul(sum, fade);
    let sum = b.fma(part_sum, weight, sum);
    let (fades, weights) = (b.splat(fade), b.splat(weight));
    b.for_n(head, 4, |b, i| {
        let (at, target) = (b.iadd(part.acc.1, i), b.iadd(whole.acc.1, i));
        let (v, old) = (b.load4(part.acc.0, at, Mem::F32), b.load4(whole.acc.0, target, Mem::F32));
        let old = b.fmul(old, fades);
        let v = b.fma(v, weights, old);
        b.store(whole.acc.0, target, Mem::F32, v);
    });
    (most, sum)
}

/// Combines the partial results of `splits` ranges that start at `from`.
fn combine(b: &mut Builder, head: usize, from: (Buf, Value), splits: Value, sink: Option<Value>, to: (Buf, Value)) {
    let stride = head + 4;
    let (zero, none, never) = (b.int(0), b.float(0.0), b.float(NEVER));
    let (max, sum) = (b.var(never), b.var(none));
    let zeros = b.splat(none);
    b.for_n(head, 4, |b, i| {
        let at = b.iadd(to.1, i);
        b.store(to.0, at, Mem::F32, zeros);
    });
    b.for_(zero, splits, 1, |b, s| {
        let at = b.imul_const(s, stride);
        let at = b.iadd(from.1, at);
        let max_at = b.iadd_const(at, head);
        let sum_at = b.iadd_const(max_at, 1);
        let figures = (b.load(from.0, max_at, Mem::F32), b.load(from.0, sum_at, Mem::F32));
        let whole = Part { acc: to, figures: (b.get(max), b.get(sum)) };
        let (new_max, new_sum) = merge(b, head, Part { acc: (from.0, at), figures }, whole);
        b.set(max, new_max);
        b.set(sum, new_sum);
    });
    let (max, sum) = (b.get(max), b.get(sum));
    let factor = last_factor(b, (max, sum), sink);
    scale_row(b, head, to, factor, to);
}
