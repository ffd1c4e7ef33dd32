//! `route`: the experts that a token uses, and their weights. On CPUs only; a worker takes a token.
//!
//! The best are kept in order while the experts go by, which is little work, as few of them are among the best so far.

use super::{FusedOp, only_output, reading};
use crate::body;
use crate::elements::{load, row_stride, spread};
use crate::generator::Generator;
use crate::math::{constant, function};
use ir::Result;
use ir::graph::{Function, Gating, Graph, Groups, LEAST_WEIGHTS, Op};
use ir::kernel::{Buf, Builder, Compare, Mem, Value};

pub(super) const OP: FusedOp = FusedOp {
    name: "route",
    covers: |body| Route::read(body).is_some(),
    cpu: Some(|g| {
        let route = reading(g, Route::read)?;
        generate(g, &route)
    }),
    gpu: None,
};

/// What is computed.
struct Route {
    logits: u32,
    bias: Option<u32>,
    experts: usize,
    k: usize,
    gating: Gating,
    normalise: bool,
    scale: f32,
    groups: Option<Groups>,
}

impl Route {
    fn read(body: &Graph) -> Option<Route> {
        let node = only_output(body, |op| matches!(op, Op::Route { .. }))?;
        let Op::Route { k, gating, normalise, scale, groups } = node.op else { return None };
        let bias = match node.inputs.get(1) {
            Some(&bias) => Some(body::param(body, bias)?),
            None => None,
        };
        let (logits, experts) = (body::param(body, node.inputs[0])?, body.ty(node.inputs[0]).columns());
        Some(Route { logits, bias, experts, k, gating, normalise, scale: scale.0, groups })
    }

    /// Whether experts are ranked by their weights, not by their logits.
    fn ranks_weights(&self) -> bool {
        (self.bias.is_some() || self.groups.is_some()) && self.gating != Gating::SoftmaxOfChosen
    }
}

fn generate(g: &mut Generator<'_>, route: &Route) -> Result<()> {
    let (x, y, n) = (g.param(route.logits), g.result(0)?, route.experts);
    let x_stride = row_stride(g.param_type(route.logits));
    let y_stride = row_stride(g.body().ty(g.body().outputs()[0].1));
    let bias = route.bias.map(|bias| g.param(bias));
    let b = &mut g.b;
    let scores = b.scratch("scores", Mem::F32, n as u64 * 4);
    let weights = if route.ranks_weights() { b.scratch("weights", Mem::F32, n as u64 * 4) } else { x };
    let best = Best::new(b, ["best", "experts"], route.k);
    let groups = route.groups.map(|groups| {
        let open = b.scratch("open", Mem::I32, groups.count as u64 * 4);
        (groups, Best::new(b, ["totals", "groups"], groups.used), open)
    });
    let tokens = b.tokens();
    b.parallel(tokens, |b, t| {
        let (from, to) = (b.imul_const(t, x_stride), b.imul_const(t, y_stride));
        let softmax = (route.gating == Gating::Softmax).then(|| Softmax::of(b, (x, from), n));
        let weight = |b: &mut Builder, x: Value| match (route.gating, &softmax) {
            (Gating::Softmax, Some(softmax)) => softmax.weight(b, x),
            (Gating::Sigmoid, _) => function(b, Function::Sigmoid, x),
            _ => x,
        };
        // Where the weights begin that are taken once experts are chosen.
        let weights_from = if route.ranks_weights() { b.int(0) } else { from };
        each(b, n, |b, e, vector| {
            let at = b.iadd(from, e);
            let mut score = load(b, x, at, vector);
            if route.ranks_weights() {
                score = weight(b, score);
                b.store(weights, e, Mem::F32, score);
            }
            if let Some(bias) = bias {
                let bias = load(b, bias, e, vector);
                score = b.fadd(score, bias);
            }
            let score = comparable(b, score);
            b.store(scores, e, Mem::F32, score);
        });
        match groups {
            None => {
                best.clear(b);
                b.for_n(n, 1, |b, e| best.offer(b, (scores, e), e));
            }
            Some((groups, chosen, open)) => from_groups(b, (scores, n), groups, chosen, open, best),
        }
        finish(b, route, best, (weights, weights_from), weight, (y, to));
    });
    Ok(())
}

/// Finds the best of the groups that are used.
fn from_groups(b: &mut Builder, (scores, n): (Buf, usize), groups: Groups, chosen: Best, open: Buf, best: Best) {
    let (size, zero, one) = (n / groups.count, b.int(0), b.int(1));
    let least = b.float(f32::NEG_INFINITY);
    chosen.clear(b);
    let (high, second) = (b.var(least), b.var(least));
    let total = b.scratch("total", Mem::F32, 4);
    b.for_n(groups.count, 1, |b, group| {
        let first = b.imul_const(group, size);
        b.set(high, least);
        b.set(second, least);
        b.for_n(size, 1, |b, e| {
            let at = b.iadd(first, e);
            let (score, old) = (b.load(scores, at, Mem::F32), b.get(high));
            let is_higher = b.compare(Compare::FLt, old, score);
            let (new, rest) = (b.select(is_higher, score, old), b.select(is_higher, old, score));
            b.set(high, new);
            let old = b.get(second);
            let new = b.fmax(old, rest);
            b.set(second, new);
        });
        let mut sum = b.get(high);
        if size > 1 {
            let second = b.get(second);
            sum = b.fadd(sum, second);
        }
        let sum = comparable(b, sum);
        b.store(total, zero, Mem::F32, sum);
        b.store(open, group, Mem::I32, zero);
        chosen.offer(b, (total, zero), group);
    });
    b.for_n(groups.used, 1, |b, i| {
        let group = b.load(chosen.numbers, i, Mem::I32);
        b.store(open, group, Mem::I32, one);
    });
    best.clear(b);
    b.for_n(groups.count, 1, |b, group| {
        let is_open = b.load(open, group, Mem::I32);
        let is_open = b.compare(Compare::IEq, is_open, one);
        b.if_(is_open, |b| {
            let first = b.imul_const(group, size);
            b.for_n(size, 1, |b, e| {
                let e = b.iadd(first, e);
                best.offer(b, (scores, e), e);
            });
        });
    });
}

/// Writes weights and numbers of the best to float `to` of the result. Logits, or weights of all, are from float `from` on.
fn finish(
    b: &mut Builder,
    route: &Route,
    best: Best,
    (x, from): (Buf, Value),
    weight: impl Fn(&mut Builder, Value) -> Value,
    (y, to): (Buf, Value),
) {
    let (zero, one) = (b.float(0.0), b.float(1.0));
    let sum = b.var(zero);
    b.for_n(route.k, 1, |b, i| {
        let number = b.load(best.numbers, i, Mem::I32);
        let at = b.iadd(from, number);
        let mut v = b.load(x, at, Mem::F32);
        if !route.ranks_weights() && route.gating != Gating::SoftmaxOfChosen {
            v = weight(b, v);
        }
        b.store(best.values, i, Mem::F32, v);
        let old = b.get(sum);
        let new = b.fadd(old, v);
        b.set(sum, new);
        let (at, number) = (b.iadd(to, i), b.to_float(number));
        let at = b.iadd_const(at, route.k);
        b.store(y, at, Mem::F32, number);
    });
    if route.gating == Gating::SoftmaxOfChosen {
        let first = b.int(0);
        let softmax = Softmax::of(b, (best.values, first), route.k);
        b.set(sum, zero);
        b.for_n(route.k, 1, |b, i| {
            let v = b.load(best.values, i, Mem::F32);
            let v = softmax.weight(b, v);
            b.store(best.values, i, Mem::F32, v);
            let old = b.get(sum);
            let new = b.fadd(old, v);
            b.set(sum, new);
        });
    }
    let mut by = if route.scale == 1.0 { one } else { b.float(route.scale) };
    if route.normalise {
        let (sum, least) = (b.get(sum), b.float(LEAST_WEIGHTS));
        let sum = b.fmax(sum, least);
        by = b.fdiv(by, sum);
    }
    b.for_n(route.k, 1, |b, i| {
        let (v, at) = (b.load(best.values, i, Mem::F32), b.iadd(to, i));
        let v = b.fmul(v, by);
        b.store(y, at, Mem::F32, v);
    });
}

/// A score that every other compares with: NaN is the largest float.
fn comparable(b: &mut Builder, score: Value) -> Value {
    let vector = b.ty(score).is_vector();
    let (largest, least) = (constant(b, f32::MAX, vector), constant(b, f32::MIN, vector));
    let below = b.compare(Compare::FLt, score, largest);
    let score = b.select(below, score, largest);
    b.fmax(score, least)
}

/// A softmax: the largest number, and the sum of the exponentials of what all are less than it.
struct Softmax {
    max: Value,
    sum: Value,
}

impl Softmax {
    /// Of `n` floats from one of a buffer on.
    fn of(b: &mut Builder, (x, from): (Buf, Value), n: usize) -> Softmax {
        let over = |b: &mut Builder, start: f32, f: &dyn Fn(&mut Builder, Value, Value) -> Value| {
            let start = b.float(start);
            let (four, one) = (b.splat(start), start);
            let (four, one) = (b.var(four), b.var(one));
            each(b, n, |b, i, vector| {
                let at = b.iadd(from, i);
                let v = load(b, x, at, vector);
                let var = if vector { four } else { one };
                let old = b.get(var);
                let new = f(b, old, v);
                b.set(var, new);
            });
            (b.get(four), b.get(one))
        };
        let (four, one) = over(b, f32::NEG_INFINITY, &|b, old, v| b.fmax(old, v));
        let four = b.max(four);
        let max = b.fmax(four, one);
        let (four, one) = over(b, 0.0, &|b, old, v| {
            let vector = b.ty(v).is_vector();
            let max = spread(b, max, vector);
            let v = b.fsub(v, max);
            let v = b.exp(v);
            b.fadd(old, v)
        });
        let four = b.sum(four);
        Softmax { max, sum: b.fadd(four, one) }
    }

    /// The weight of a number.
    fn weight(&self, b: &mut Builder, x: Value) -> Value {
        let vector = b.ty(x).is_vector();
        let (max, sum) = (spread(b, self.max, vector), spread(b, self.sum, vector));
        let v = b.fsub(x, max);
        let v = b.exp(v);
        b.fdiv(v, sum)
    }
}

/// The best so far, in order: values that are above -infinity, and their numbers.
#[derive(Debug, Clone, Copy)]
struct Best {
    values: Buf,
    numbers: Buf,
    count: usize,
}

impl Best {
    fn new(b: &mut Builder, names: [&str; 2], count: usize) -> Best {
        let [values, numbers] = names;
        let mut list = |name, mem| b.scratch(name, mem, count as u64 * 4);
        Best { values: list(values, Mem::F32), numbers: list(numbers, Mem::I32), count }
    }

    fn clear(&self, b: &mut Builder) {
        let (least, zero) = (b.float(f32::NEG_INFINITY), b.int(0));
        b.for_n(self.count, 1, |b, i| {
            b.store(self.values, i, Mem::F32, least);
            b.store(self.numbers, i, Mem::I32, zero);
        });
    }

    /// Takes the value of a number, which is larger than those before, if it is one of the best; an equal one stays before.
    fn offer(&self, b: &mut Builder, (buf, at): (Buf, Value), number: Value) {
        let value = b.load(buf, at, Mem::F32);
        let last = b.size(self.count - 1);
        let worst = b.load(self.values, last, Mem::F32);
        let better = b.compare(Compare::FLt, worst, value);
        b.if_(better, |b| {
            let place = b.var(last);
            b.for_n(self.count - 1, 1, |b, i| {
                let (to, one) = (b.isub(last, i), b.int(1));
                let from = b.isub(to, one);
                let (old, old_number) = (b.load(self.values, from, Mem::F32), b.load(self.numbers, from, Mem::I32));
                let moves = b.compare(Compare::FLt, old, value);
                b.if_(moves, |b| {
                    b.store(self.values, to, Mem::F32, old);
                    b.store(self.numbers, to, Mem::I32, old_number);
                    b.set(place, from);
                });
            });
            let place = b.get(place);
            b.store(self.values, place, Mem::F32, value);
            b.store(self.numbers, place, Mem::I32, number);
        });
    }
}

/// Calls `f` for the first of four elements of `n`, and for each that is left.
fn each(b: &mut Builder, n: usize, mut f: impl FnMut(&mut Builder, Value, bool)) {
    let fours = n / 4 * 4;
    if fours > 0 {
        b.for_n(fours, 4, |b, i| f(b, i, true));
    }
    let (from, to) = (b.size(fours), b.size(n));
    if fours < n {
        b.for_(from, to, 1, |b, i| f(b, i, false));
    }
}
