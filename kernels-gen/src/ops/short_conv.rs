//! `short_conv`: each column of the tokens convolved over time by itself.
//!
//! A worker takes some columns through all tokens of the step, with what the state holds of them in registers. Invariant: a
//! token's sums are added in the order of the taps, whatever the tokens of the step.

use super::{FusedOp, single};
use crate::body;
use crate::elements::load;
use crate::generator::Generator;
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::graph::Op;
use ir::kernel::{Buf, Builder, Mem, Value};

/// Columns of a unit of work.
const COLUMNS: usize = 64;

pub(super) const OP: FusedOp = FusedOp {
    name: "short_conv",
    covers: |body| single(body).is_some_and(|node| node.op == Op::ShortConv),
    cpu: Some(cpu),
    gpu: None,
};

/// The operands and what they hold.
#[derive(Debug, Clone, Copy)]
struct Conv {
    state: Buf,
    x: Buf,
    w: Buf,
    y: Buf,
    columns: usize,
    taps: usize,
}

fn cpu(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let operands = single(body).map(|node| node.inputs.as_slice());
    let Some(&[state, x, w]) = operands else { return Err(g.unsupported("other operands than three")) };
    let &[columns, taps] = body.ty(w).shape.as_slice() else { return Err(g.unsupported("taps of another shape")) };
    let params = [state, x, w].map(|r| body::param(body, r));
    let [Some(state), Some(x), Some(w)] = params else { return Err(g.unsupported("computed operands")) };
    let conv = Conv { state: g.param(state), x: g.param(x), w: g.param(w), y: g.result(0)?, columns, taps };
    let units = g.b.size(columns.div_ceil(COLUMNS));
    g.b.parallel(units, |b, unit| {
        let first = b.imul_const(unit, COLUMNS);
        let end = b.iadd_const(first, COLUMNS);
        let (all, fours) = (b.size(columns), b.size(columns / 4 * 4));
        let (end, end_of_fours) = (b.umin(end, all), b.umin(end, fours));
        b.for_(first, end_of_fours, 4, |b, c| conv.column(b, c, true));
        if !columns.is_multiple_of(4) {
            b.for_(fours, end, 1, |b, c| conv.column(b, c, false));
        }
    });
    Ok(())
}

impl Conv {
    /// Takes column `c`, or `four` columns from there on, through the tokens.
    fn column(self, b: &mut Builder, c: Value, four: bool) {
        let Conv { state, x, w, y, columns, taps } = self;
        let row = b.imul_const(c, taps);
        let weights: Vec<Value> = (0..taps)
            .map(|j| {
                let lane = |b: &mut Builder, l: usize| {
                    let at = b.iadd_const(row, l * taps + j);
                    b.load(w, at, Mem::F32)
                };
                if !four {
                    return lane(b, 0);
                }
                let lanes = [0, 1, 2, 3].map(|l| lane(b, l));
                b.pack(lanes)
            })
            .collect();
        let of_state = |b: &mut Builder, j: usize| b.iadd_const(c, j * columns);
        let before: Vec<_> = (0..taps - 1)
            .map(|j| {
                let at = of_state(b, j);
                let old = load(b, state, at, four);
                b.var(old)
            })
            .collect();
        let (zero, tokens) = (b.int(0), b.tokens());
        b.for_(zero, tokens, 1, |b, t| {
            let at = b.imul_const(t, f32_row_bytes(columns) / 4);
            let at = b.iadd(at, c);
            let now = load(b, x, at, four);
            let mut window: Vec<Value> = before.iter().map(|&old| b.get(old)).collect();
            window.push(now);
            let first = b.fmul(window[0], weights[0]);
            let rest = window.iter().zip(&weights).skip(1);
            let sum = rest.fold(first, |sum, (&x, &w)| b.fma(x, w, sum));
            b.store(y, at, Mem::F32, sum);
            before.iter().zip(&window[1..]).for_each(|(&old, &next)| b.set(old, next));
        });
        for (j, &old) in before.iter().enumerate() {
            let (at, last) = (of_state(b, j), b.get(old));
            b.store(state, at, Mem::F32, last);
        }
    }
}
