//! `delta_rule`: the gated delta rule, token by token.
//!
//! Columns of a head's matrix do not meet: a worker takes some of them through all tokens of the step, for which they stay
//! in its cache. Invariant: a token's sums are added in the order of the rows, whatever the tokens of the step.

use super::{FusedOp, single};
use crate::body;
use crate::elements::{load, spread};
use crate::generator::Generator;
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::graph::{HeadMap, Op};
use ir::kernel::{Buf, Builder, Mem, Value, Var};

/// Most vectors of columns that a worker takes at once: sums, updates and results of so many fit the registers.
const VECTORS: usize = 4;

pub(super) const OP: FusedOp = FusedOp {
    name: "delta_rule",
    covers: |body| single(body).is_some_and(|node| matches!(node.op, Op::DeltaRule { .. })),
    cpu: Some(cpu),
    gpu: None,
};

/// The operands, their figures, and which columns are taken at once.
#[derive(Debug, Clone, Copy)]
struct Rule {
    state: Buf,
    q: Buf,
    k: Buf,
    v: Buf,
    decay: Buf,
    beta: Buf,
    o: Buf,
    map: HeadMap,
    /// Heads of values, and of queries and keys.
    heads: usize,
    shared: usize,
    /// Rows and columns of a head's matrix.
    keys: usize,
    values: usize,
    /// Vectors at once, of four columns, or of one where they are no multiple of four.
    vectors: usize,
    lanes: usize,
}

fn cpu(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let Some(node) = single(body) else { return Err(g.unsupported("other ops")) };
    let params: Option<Vec<u32>> = node.inputs.iter().map(|&r| body::param(body, r)).collect();
    let (Op::DeltaRule { heads: map }, Some(params)) = (&node.op, params) else {
        return Err(g.unsupported("computed operands"));
    };
    let shapes = (body.ty(node.inputs[0]).shape.as_slice(), body.ty(node.inputs[1]).shape.as_slice());
    let (&[heads, keys, values], &[_, shared, _]) = shapes else {
        return Err(g.unsupported("operands of other shapes"));
    };
    let buffers: Vec<Buf> = params.iter().map(|&n| g.param(n)).collect();
    let &[state, q, k, v, decay, beta] = buffers.as_slice() else { return Err(g.unsupported("fewer operands")) };
    let (lanes, columns) = if values.is_multiple_of(4) { (4, values / 4) } else { (1, values) };
    let vectors = (1..=VECTORS).rev().find(|&n| columns.is_multiple_of(n)).unwrap_or(1);
    let (map, o) = (*map, g.result(0)?);
    let rule = Rule { state, q, k, v, decay, beta, o, map, heads, shared, keys, values, vectors, lanes };
    let tiles = columns / vectors;
    let units = g.b.size(heads * tiles);
    g.b.parallel(units, |b, unit| {
        let tiles = b.size(tiles);
        let (head, tile) = (b.udiv(unit, tiles), b.urem(unit, tiles));
        let column = b.imul_const(tile, vectors * lanes);
        rule.columns(b, head, column);
    });
    Ok(())
}

impl Rule {
    /// Takes the columns from `column` on of a head through the tokens.
    fn columns(self, b: &mut Builder, head: Value, column: Value) {
        let Rule { state, q, k, v, decay, beta, o, heads, shared, keys, values, .. } = self;
        let of_keys = match self.map {
            HeadMap::Tiled => {
                let shared = b.size(shared);
                b.urem(head, shared)
            }
            HeadMap::Grouped => {
                let share = b.size(heads / shared);
                b.udiv(head, share)
            }
        };
        let of_keys = b.imul_const(of_keys, keys);
        let of_values = b.imul_const(head, values);
        let of_values = b.iadd(of_values, column);
        let matrix = b.imul_const(head, keys * values);
        let matrix = b.iadd(matrix, column);
        let row = |n: usize| f32_row_bytes(n) / 4;
        let (zero, tokens) = (b.int(0), b.tokens());
        b.for_(zero, tokens, 1, |b, t| {
            let at = |b: &mut Builder, columns: usize, within: Value| {
                let first = b.imul_const(t, row(columns));
                b.iadd(first, within)
            };
            let gate = at(b, heads, head);
            let decay = b.load(decay, gate, Mem::F32);
            let decay = b.exp(decay);
            let (decay, beta) = (self.splat(b, decay), b.load(beta, gate, Mem::F32));
            let beta = self.splat(b, beta);
            let of_keys = at(b, shared * keys, of_keys);
            let of_values = at(b, heads * values, of_values);
            let known = self.zeros(b);
            b.for_n(keys, 1, |b, r| {
                let k = self.element(b, k, of_keys, r);
                let m_at = b.imul_const(r, values);
                let m_at = b.iadd(matrix, m_at);
                for (i, &known) in known.iter().enumerate() {
                    let (m, sum) = (self.load(b, state, m_at, i), b.get(known));
                    let sum = b.fma(m, k, sum);
                    b.set(known, sum);
                }
            });
            let updates: Vec<Value> = (0..self.vectors)
                .map(|i| {
                    let (v, known) = (self.load(b, v, of_values, i), b.get(known[i]));
                    let known = b.fmul(decay, known);
                    let missing = b.fsub(v, known);
                    b.fmul(beta, missing)
                })
                .collect();
            let out = self.zeros(b);
            b.for_n(keys, 1, |b, r| {
                let (k, q) = (self.element(b, k, of_keys, r), self.element(b, q, of_keys, r));
                let m_at = b.imul_const(r, values);
                let m_at = b.iadd(matrix, m_at);
                for (i, (&out, &update)) in out.iter().zip(&updates).enumerate() {
                    let (m, sum) = (self.load(b, state, m_at, i), b.get(out));
                    let m = b.fmul(decay, m);
                    let m = b.fma(k, update, m);
                    let sum = b.fma(m, q, sum);
                    self.store(b, (state, m_at), i, m);
                    b.set(out, sum);
                }
            });
            for (i, &out) in out.iter().enumerate() {
                let out = b.get(out);
                self.store(b, (o, of_values), i, out);
            }
        });
    }

    /// A scalar as vectors here are.
    fn splat(self, b: &mut Builder, x: Value) -> Value {
        spread(b, x, self.lanes == 4)
    }

    fn zeros(self, b: &mut Builder) -> Vec<Var> {
        let zero = b.float(0.0);
        let zero = self.splat(b, zero);
        (0..self.vectors).map(|_| b.var(zero)).collect()
    }

    /// Element `first` + `r`, as a vector.
    fn element(self, b: &mut Builder, buf: Buf, first: Value, r: Value) -> Value {
        let at = b.iadd(first, r);
        let x = b.load(buf, at, Mem::F32);
        self.splat(b, x)
    }

    /// Vector `i` of those from element `at` on.
    fn load(self, b: &mut Builder, buf: Buf, at: Value, i: usize) -> Value {
        let at = b.iadd_const(at, i * self.lanes);
        load(b, buf, at, self.lanes == 4)
    }

    fn store(self, b: &mut Builder, (buf, at): (Buf, Value), i: usize, x: Value) {
        let at = b.iadd_const(at, i * self.lanes);
        b.store(buf, at, Mem::F32, x);
    }
}
