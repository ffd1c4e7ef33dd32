//! Feed-forward networks.

use super::linear::{linear, linear_rows, map};
use super::name;
use crate::Result;
use crate::front::{Network, most};
use crate::graph::{Function, Op, Ref};

/// The feed-forward network of layer `layer`, \[T, d\] -> \[T, d\], of hidden width `feed_forward_length`: down(f(gate x) up x),
/// where gate and up are two matrices or, in that order, the rows of `ffn_up`; without a gate down(f(up x)).
pub(in crate::front) fn ffn(n: &mut Network<'_>, layer: usize, x: Ref, hidden: usize, f: Function) -> Result<Ref> {
    ffn_of(n, layer, x, hidden, f, "")
}

/// The same of tensors whose names end in `kind`.
pub(in crate::front) fn ffn_of(
    n: &mut Network<'_>,
    layer: usize,
    x: Ref,
    hidden: usize,
    f: Function,
    kind: &str,
) -> Result<Ref> {
    let width = n.columns(x);
    let [gate_name, up_name, down_name] = ["gate", "up", "down"].map(|part| name(layer, &format!("ffn_{part}{kind}")));
    let rows = n.rows(&format!("{up_name}.weight"));
    let hidden = if n.has(&format!("{gate_name}.weight")) {
        let gate = linear(n, x, &gate_name, hidden)?;
        let up = linear(n, x, &up_name, hidden)?;
        gated(n, gate, up, f)?
    } else if rows == 2 * hidden {
        let half = |first: usize| first as u32..(first + hidden) as u32;
        let gate = linear_rows(n, x, &up_name, rows, half(0))?;
        let up = linear_rows(n, x, &up_name, rows, half(hidden))?;
        gated(n, gate, up, f)?
    } else {
        let up = linear(n, x, &up_name, hidden)?;
        map(n, up, f)?
    };
    linear(n, hidden, &down_name, width)
}

/// f(gate) * up.
pub(in crate::front) fn gated(n: &mut Network<'_>, gate: Ref, up: Ref, f: Function) -> Result<Ref> {
    let gate = map(n, gate, f)?;
    n.add(Op::Mul, &[gate, up])
}

/// The hidden widths of the layers' dense networks.
pub(in crate::front) fn widths(n: &Network<'_>, layers: usize) -> Result<Vec<usize>> {
    let widths = n.keys.opt_counts("feed_forward_length", layers, 1, most::FFN)?;
    widths.ok_or_else(|| n.keys.missing("feed_forward_length"))
}
