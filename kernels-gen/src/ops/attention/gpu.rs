//! The GPU form: flash decoding (Dao et al. 2023). A CTA takes a token, a KV head and a [split](Splits) of the positions; its
//! warps take blocks of 32 positions in turn, with a position for each lane in the scores and some elements of the head for
//! each lane in the sums. The query heads of a KV head share what is loaded. Warps, then CTAs, are combined in a fixed order.
//! Invariant: splits and blocks begin at fixed positions, so that a token's result depends neither on the step that it is in
//! nor on a schedule.

use super::{Attention, NEVER, Scores, Shape, attention, beyond, last_factor};
use crate::cache::Cache;
use crate::generator::Generator;
use crate::gpu::{self, FIXED_WARPS, LANES, Thread, for_threads, if_below};
use crate::math;
use ir::Result;
use ir::abi::{KvEncoding, Q8_BLOCK, f32_row_bytes};
use ir::graph::{F32, Function};
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value, Var};

/// Most elements that a lane reads of a key at once.
const PIECE: usize = 8;
/// Sums that a lane keeps at once.
const SUMS: usize = 16;

impl Cache {
    /// Elements of a piece of a row: rows of f16 are whole vectors only if they have a multiple of [`PIECE`].
    fn piece_elements(&self) -> usize {
        if self.head.is_multiple_of(PIECE) { PIECE } else { PIECE / 2 }
    }

    /// Elements c.. c + [`Cache::piece_elements`] of the row at byte `row`.
    fn piece(&self, b: &mut Builder, row: Value, c: Value) -> Vec<Value> {
        let elements = self.piece_elements();
        if self.encoding == KvEncoding::Halves {
            let at = b.imul_const(c, 2);
            let at = b.iadd(row, at);
            let words: Vec<Value> = if elements == PIECE {
                let four = b.load4(self.buf, at, Mem::I32);
                (0..4).map(|l| b.lane(four, l)).collect()
            } else {
                let word = |b: &mut Builder, i: usize| {
                    let at = b.iadd_const(at, 4 * i);
                    b.load(self.buf, at, Mem::I32)
                };
                (0..elements / 2).map(|i| word(b, i)).collect()
            };
            let (mask, shift) = (b.int(0xffff), b.int(16));
            let halves = words.into_iter().flat_map(|word| [b.and(word, mask), b.shr_u(word, shift)]);
            let halves: Vec<Value> = halves.collect();
            return halves.into_iter().map(|h| b.from_half(h)).collect();
        }
        let per_scale = b.size(Q8_BLOCK);
        let block = b.udiv(c, per_scale);
        let scale = self.scale(b, row, block);
        let at = b.iadd(row, c);
        // Rows of an odd number of halves are no whole words.
        let codes: Vec<Value> = if self.rows.row.is_multiple_of(4) {
            let word = |b: &mut Builder, i: usize| {
                let at = b.iadd_const(at, 4 * i);
                b.load(self.buf, at, Mem::I32)
            };
            let words: Vec<Value> = (0..elements / 4).map(|i| word(b, i)).collect();
            (0..elements).map(|i| b.byte(words[i / 4], (i % 4) as u8, true)).collect()
        } else {
            let code = |b: &mut Builder, i: usize| {
                let at = b.iadd_const(at, i);
                b.load(self.buf, at, Mem::I8)
            };
            (0..elements).map(|i| code(b, i)).collect()
        };
        let value = |b: &mut Builder, code: Value| {
            let code = b.to_float(code);
            b.fmul(code, scale)
        };
        codes.into_iter().map(|code| value(b, code)).collect()
    }

    /// Element `i`, which is in block `block`.
    fn element(&self, b: &mut Builder, row: Value, i: Value, block: usize) -> Value {
        if self.encoding == KvEncoding::Halves {
            let at = b.imul_const(i, 2);
            let at = b.iadd(row, at);
            let bits = b.load(self.buf, at, Mem::U16);
            return b.from_half(bits);
        }
        let block = b.size(block);
        let scale = self.scale(b, row, block);
        let at = b.iadd(row, i);
        let code = b.load(self.buf, at, Mem::I8);
        let code = b.to_float(code);
        b.fmul(code, scale)
    }
}

/// What a warp keeps of a query head.
struct Running {
    max: Var,
    /// Sum of this lane's weights.
    sum: Var,
    /// Elements lane, lane + 32, .. of the weighted sum.
    acc: Vec<Var>,
}

/// Positions of the first splits.
const SHORTEST: usize = FIXED_WARPS * LANES;
/// Splits of each length, before the next ones are twice as long.
const OF_A_LENGTH: usize = 16;

/// Ranges of positions: short ones near 0, so that short contexts fill a card, longer ones later, so that there are few.
#[derive(Debug, Clone, Copy)]
struct Splits {
    /// How many lengths there are.
    lengths: usize,
    /// Most splits that a token attends to.
    most: usize,
}

impl Splits {
    /// Of all positions; with a window, of which there may be any, all splits are short.
    fn new(context: usize, window: Option<usize>) -> Splits {
        if let Some(window) = window {
            return Splits { lengths: 1, most: window.div_ceil(SHORTEST) + 1 };
        }
        let mut splits = Splits { lengths: 0, most: 0 };
        while splits.begin(splits.lengths) < context {
            let rest = context - splits.begin(splits.lengths);
            splits.most += rest.div_ceil(SHORTEST << splits.lengths).min(OF_A_LENGTH);
            splits.lengths += 1;
        }
        splits
    }

    /// Where the splits of length number `n` begin.
    fn begin(self, n: usize) -> usize {
        OF_A_LENGTH * SHORTEST * ((1 << n) - 1)
    }

    /// Adds up what `f` gives for each length.
    fn sum(self, b: &mut Builder, mut f: impl FnMut(&mut Builder, usize) -> Value) -> Value {
        let mut total = b.int(0);
        for n in 0..self.lengths {
            let part = f(b, n);
            total = b.iadd(total, part);
        }
        total
    }

    /// The split of a position.
    fn of(self, b: &mut Builder, position: Value) -> Value {
        self.sum(b, |b, n| {
            let (begin, length, most) = (b.size(self.begin(n)), b.size(SHORTEST << n), b.size(OF_A_LENGTH));
            let past = beyond(b, position, begin);
            let splits = b.udiv(past, length);
            if n + 1 < self.lengths { b.umin(splits, most) } else { splits }
        })
    }

    /// The first position of a split.
    fn first(self, b: &mut Builder, split: Value) -> Value {
        self.sum(b, |b, n| {
            let (begin, most) = (b.size(n * OF_A_LENGTH), b.size(OF_A_LENGTH));
            let mut splits = beyond(b, split, begin);
            if n + 1 < self.lengths {
                splits = b.umin(splits, most);
            }
            b.imul_const(splits, SHORTEST << n)
        })
    }
}

/// The positions of a CTA: of those from `seen` to before `end` the blocks of 32 from `first` to before `last`.
#[derive(Debug, Clone, Copy)]
struct Range {
    seen: Option<Value>,
    end: Value,
    first: Value,
    last: Value,
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let Attention { shape, kv_heads, context, q, keys, values, rule } = attention(g)?;
    let Shape { heads, head, value, per_kv } = shape;
    gpu::check_warps(g)?;
    let (splits, capacity, y) = (Splits::new(context, rule.window), g.spec.tokens, g.result(0)?);
    let per_lane = value.div_ceil(LANES);
    // Where lanes have no equal shares, the places of their elements take as many registers as a sum.
    let registers = per_lane + usize::from(!value.is_multiple_of(LANES));
    let at_once = (SUMS / registers).clamp(1, per_kv);
    // The weighted sum, the maximum and the sum of the weights.
    let stride = value + 2;
    let queries = g.b.scratch("queries", Mem::F32, (per_kv * head * 4) as u64);
    let parts = g.b.scratch("parts", Mem::F32, (FIXED_WARPS * at_once * stride * 4) as u64);
    let flag = g.b.scratch("last", Mem::I32, 4);
    let partials = g.workspace("partials", Mem::F32, capacity * kv_heads * splits.most * per_kv * stride * 4);
    let counters = g.counters("arrived", capacity * kv_heads);
    let [of_queries, of_results] = [head, value].map(|size| f32_row_bytes(heads * size) / 4);

    gpu::for_rows(g, (capacity, kv_heads * splits.most), |g, at, token| {
        let b = &mut g.b;
        let (zero, one, all) = (b.int(0), b.int(1), b.size(splits.most));
        let (h, number) = (b.udiv(at.cta, all), b.urem(at.cta, all));
        let position = b.position();
        let position = b.iadd(position, token);
        let end = b.iadd(position, one);
        let seen = rule.first_seen(b, position);
        let first_split = seen.map_or(zero, |seen| splits.of(b, seen));
        let last_split = splits.of(b, position);
        let used = b.isub(last_split, first_split);
        let used = b.iadd(used, one);
        let split = b.iadd(first_split, number);
        let next = b.iadd(split, one);
        let (first, next) = (splits.first(b, split), splits.first(b, next));
        let range_end = b.umin(next, end);
        let lanes = b.size(LANES);
        let (first, last) = (b.udiv(first, lanes), b.iadd_const(range_end, LANES - 1));
        let range = Range { seen, end: range_end, first, last: b.udiv(last, lanes) };
        let active = b.compare(Compare::ULt, number, used);
        let alone = b.compare(Compare::IEq, used, one);
        let head_of_token = b.imul_const(token, kv_heads);
        let head_of_token = b.iadd(head_of_token, h);
        let slots = b.imul_const(head_of_token, splits.most * per_kv * stride);
        let (q_row, y_row) = (b.imul_const(token, of_queries), b.imul_const(token, of_results));
        b.if_(active, |b| {
            let from = b.imul_const(h, per_kv * head);
            let from = b.iadd(q_row, from);
            for_threads(b, &at, per_kv * head, |b, i| {
                let from = b.iadd(from, i);
                let (v, scale) = (b.load(q, from, Mem::F32), b.float(rule.scale));
                let v = b.fmul(v, scale);
                b.store(queries, i, Mem::F32, v);
            });
            b.sync(Scope::Cta);
            let (key_at, value_at) = (b.imul_const(h, keys.rows.head), b.imul_const(h, values.rows.head));
            let slot = b.imul_const(number, per_kv * stride);
            let slot = b.iadd(slots, slot);
            for first_query in (0..per_kv).step_by(at_once) {
                let count = at_once.min(per_kv - first_query);
                let caches = ((keys, key_at), (values, value_at));
                let running = attend(b, &at, caches, (queries, first_query, count), range, rule.cap);
                leave(b, &at, value, running, (parts, at_once * stride));
                b.sync(Scope::Cta);
                let warps = b.size(FIXED_WARPS);
                for_threads(b, &at, count * value, |b, i| {
                    let per_head = b.size(value);
                    let (j, d) = (b.udiv(i, per_head), b.urem(i, per_head));
                    let from = b.imul_const(j, stride);
                    let (max, sum, acc) = combine(b, (parts, from, at_once * stride), warps, (value, d));
                    let j = b.iadd_const(j, first_query);
                    b.if_else(
                        alone,
                        |b| result(b, (shape, rule), (h, j, d), (y, y_row), (max, sum, acc)),
                        |b| {
                            let to = b.imul_const(j, stride);
                            let to = b.iadd(slot, to);
                            let own = b.iadd(to, d);
                            b.store(partials, own, Mem::F32, acc);
                            if_below(b, d, 1, |b| {
                                let to = b.iadd_const(to, value);
                                b.store(partials, to, Mem::F32, max);
                                let to = b.iadd_const(to, 1);
                                b.store(partials, to, Mem::F32, sum);
                            });
                        },
                    );
                });
                b.sync(Scope::Cta);
            }
            b.if_else(
                alone,
                |_| (),
                |b| {
                    let before = gpu::arrive(b, &at, (counters, head_of_token), flag);
                    let count = b.iadd(before, one);
                    let last = b.compare(Compare::IEq, count, used);
                    b.if_(last, |b| {
                        for_threads(b, &at, per_kv * value, |b, i| {
                            let per_head = b.size(value);
                            let (j, d) = (b.udiv(i, per_head), b.urem(i, per_head));
                            let from = b.imul_const(j, stride);
                            let from = b.iadd(slots, from);
                            let parts = combine(b, (partials, from, per_kv * stride), used, (value, d));
                            result(b, (shape, rule), (h, j, d), (y, y_row), parts);
                        });
                        if_below(b, at.thread, 1, |b| b.store(counters, head_of_token, Mem::I32, zero));
                    });
                },
            );
        });
        Ok(())
    })?;
    Ok(())
}

/// Stores element `d` of query head `j` of the KV head, given the maximum, the sum of weights and the weighted sum.
fn result(
    b: &mut Builder,
    (shape, rule): (Shape, Scores),
    (h, j, d): (Value, Value, Value),
    (y, row): (Buf, Value),
    (max, sum, acc): (Value, Value, Value),
) {
    let sink = rule.sink(b, shape, h, j);
    let v = if sink.is_none() {
        b.fdiv(acc, sum)
    } else {
        let factor = last_factor(b, (max, sum), sink);
        b.fmul(acc, factor)
    };
    let to = b.imul_const(h, shape.per_kv);
    let to = b.iadd(to, j);
    let to = b.imul_const(to, shape.value);
    let to = b.iadd(to, d);
    let to = b.iadd(row, to);
    b.store(y, to, Mem::F32, v);
}

/// Attends `count` query heads to this warp's blocks of the range.
fn attend(
    b: &mut Builder,
    at: &Thread,
    ((keys, key_at), (values, value_at)): ((Cache, Value), (Cache, Value)),
    (queries, first_query, count): (Buf, usize, usize),
    range: Range,
    cap: Option<F32>,
) -> Vec<Running> {
    let (head, value) = (keys.head, values.head);
    let (zero, never) = (b.float(0.0), b.float(NEVER));
    let new = |b: &mut Builder| Running {
        max: b.var(never),
        sum: b.var(zero),
        acc: (0..value.div_ceil(LANES)).map(|_| b.var(zero)).collect(),
    };
    let running: Vec<Running> = (0..count).map(|_| new(b)).collect();
    let mut first = b.iadd(range.first, at.warp);
    if let Some(seen) = range.seen {
        // Rounds of the warps that are before the window as a whole.
        let (lanes, warps) = (b.size(LANES), b.size(FIXED_WARPS));
        let block = b.udiv(seen, lanes);
        let passed = beyond(b, block, first);
        let passed = b.iadd_const(passed, FIXED_WARPS - 1);
        let rounds = b.udiv(passed, warps);
        let passed = b.imul_const(rounds, FIXED_WARPS);
        first = b.iadd(first, passed);
    }
    b.for_(first, range.last, FIXED_WARPS as u32, |b, block| {
        let (first, zero) = (b.imul_const(block, LANES), b.int(0));
        let (left, lanes, one) = (b.isub(range.end, first), b.size(LANES), b.int(1));
        let n = b.umin(left, lanes);
        let from = range.seen.map_or(zero, |seen| beyond(b, seen, first));
        let last = b.isub(n, one);
        // A lane without a position of the range takes one that others have.
        let own = b.umin(at.lane, last);
        let missed = beyond(b, from, own);
        let own = b.iadd(own, missed);
        let valid = b.compare(Compare::IEq, own, at.lane);
        let own = b.iadd(first, own);
        let own = keys.place(b, own);
        let row = b.imul_const(own, keys.rows.row);
        let row = b.iadd(key_at, row);
        let zero = b.float(0.0);
        let scores: Vec<Var> = (0..count).map(|_| b.var(zero)).collect();
        b.for_n(head, keys.piece_elements() as u32, |b, c| {
            let key = keys.piece(b, row, c);
            for (j, &score) in scores.iter().enumerate() {
                let mut sum = b.get(score);
                for (i, key) in key.chunks_exact(4).enumerate() {
                    let from = b.iadd_const(c, (first_query + j) * head + 4 * i);
                    let x = b.load4(queries, from, Mem::F32);
                    for (l, &k) in key.iter().enumerate() {
                        let x = b.lane(x, l as u8);
                        sum = b.fma(x, k, sum);
                    }
                }
                b.set(score, sum);
            }
        });
        let unseen = b.float(f32::NEG_INFINITY);
        let weights: Vec<Value> = scores
            .iter()
            .zip(&running)
            .map(|(&score, r)| {
                let score = b.get(score);
                let score = cap.map_or(score, |cap| math::function(b, Function::SoftCap(cap), score));
                let score = b.select(valid, score, unseen);
                let largest = gpu::lanes_max(b, score, LANES);
                let old = b.get(r.max);
                let max = b.fmax(old, largest);
                b.set(r.max, max);
                let (weight, fade) = (b.fsub(score, max), b.fsub(old, max));
                let (weight, fade) = (b.exp(weight), b.exp(fade));
                let sum = b.get(r.sum);
                let sum = b.fma(sum, fade, weight);
                b.set(r.sum, sum);
                for &acc in &r.acc {
                    let v = b.get(acc);
                    let v = b.fmul(v, fade);
                    b.set(acc, v);
                }
                weight
            })
            .collect();
        b.for_(from, n, 1, |b, i| {
            let position = b.iadd(first, i);
            let position = values.place(b, position);
            let row = b.imul_const(position, values.rows.row);
            let row = b.iadd(value_at, row);
            let weights: Vec<Value> = weights.iter().map(|&w| b.shuffle(w, i)).collect();
            for d in 0..value.div_ceil(LANES) {
                let element = b.iadd_const(at.lane, d * LANES);
                let last = b.size(value - 1);
                let element = b.umin(element, last);
                let v = values.element(b, row, element, d);
                for (r, &weight) in running.iter().zip(&weights) {
                    let acc = b.get(r.acc[d]);
                    let acc = b.fma(v, weight, acc);
                    b.set(r.acc[d], acc);
                }
            }
        });
    });
    running
}

/// Stores what this warp keeps, one query head after the other, in its `per_warp` floats.
fn leave(b: &mut Builder, at: &Thread, head: usize, running: Vec<Running>, (parts, per_warp): (Buf, usize)) {
    let stride = head + 2;
    let base = b.imul_const(at.warp, per_warp);
    for (j, r) in running.into_iter().enumerate() {
        let sum = b.get(r.sum);
        let sum = gpu::lanes_sum(b, sum, LANES);
        for (d, acc) in r.acc.into_iter().enumerate() {
            let i = b.iadd_const(at.lane, d * LANES);
            if_below(b, i, head, |b| {
                let to = b.iadd(base, i);
                let to = b.iadd_const(to, j * stride);
                let v = b.get(acc);
                b.store(parts, to, Mem::F32, v);
            });
        }
        if_below(b, at.lane, 1, |b| {
            let to = b.iadd_const(base, j * stride + head);
            let max = b.get(r.max);
            b.store(parts, to, Mem::F32, max);
            let to = b.iadd_const(to, 1);
            b.store(parts, to, Mem::F32, sum);
        });
    }
}

/// The maximum, the sum and element `d` of the weighted sum of `count` parts that lie `stride` floats apart.
fn combine(
    b: &mut Builder,
    (parts, from, stride): (Buf, Value, usize),
    count: Value,
    (head, d): (usize, Value),
) -> (Value, Value, Value) {
    let (start, none, never) = (b.int(0), b.float(0.0), b.float(NEVER));
    let part = |b: &mut Builder, i: Value| {
        let at = b.imul_const(i, stride);
        b.iadd(from, at)
    };
    let max = b.var(never);
    b.for_(start, count, 1, |b, i| {
        let at = part(b, i);
        let at = b.iadd_const(at, head);
        let (m, old) = (b.load(parts, at, Mem::F32), b.get(max));
        let m = b.fmax(m, old);
        b.set(max, m);
    });
    let max = b.get(max);
    let (sum, acc) = (b.var(none), b.var(none));
    b.for_(start, count, 1, |b, i| {
        let at = part(b, i);
        let max_at = b.iadd_const(at, head);
        let sum_at = b.iadd_const(max_at, 1);
        let own = b.iadd(at, d);
        let m = b.load(parts, max_at, Mem::F32);
        let weight = b.fsub(m, max);
        let weight = b.exp(weight);
        for (var, at) in [(sum, sum_at), (acc, own)] {
            let (v, old) = (b.load(parts, at, Mem::F32), b.get(var));
            let new = b.fma(v, weight, old);
            b.set(var, new);
        }
    });
    let (sum, acc) = (b.get(sum), b.get(acc));
    (max, sum, acc)
}
