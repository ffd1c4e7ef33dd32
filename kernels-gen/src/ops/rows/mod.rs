//! `rows`: what is made of rows in memory without a product: norms between products, scales, gates, heads that are
//! normalised all together before they are rotated and appended to a KV cache.

mod cpu;
mod gpu;

use super::{FusedOp, reading};
use crate::elements::{Stored, is_elementwise};
use ir::graph::{Graph, NodeId, Op};

pub(super) const OP: FusedOp = FusedOp {
    name: "rows",
    covers: |body| read(body).is_some(),
    cpu: Some(|g| {
        let outputs = reading(g, read)?;
        cpu::generate(g, &outputs)
    }),
    gpu: Some(|g| {
        let outputs = reading(g, read)?;
        gpu::generate(g, &outputs)
    }),
};

/// A result of the kernel.
struct Output {
    stored: Stored,
    /// Heads and the elements of one, where it is worked on head by head.
    heads: Option<(usize, usize)>,
    /// Norms of whole rows that it depends on, in order.
    norms: Vec<NodeId>,
    /// Whether all rows and their parts are multiples of four elements.
    fours: bool,
}

/// Reads a body without products.
fn read(body: &Graph) -> Option<Vec<Output>> {
    (0..body.outputs().len()).map(|n| output(body, n)).collect()
}

fn output(body: &Graph, number: usize) -> Option<Output> {
    let stored @ Stored { value, cache, .. } = Stored::of(body, number);
    if matches!(body.node(value.node).op, Op::Param(_)) && cache.is_none() {
        return None;
    }
    let mut heads = match body.ty(value).shape.as_slice() {
        &[_, heads, head] => Some((heads, head)),
        _ => None,
    };
    let mut norms = Vec::new();
    let mut all_fours = fours(body.ty(value).shape[1..].iter().product::<usize>());
    for id in body.cone([value], |_| true) {
        let node = body.node(id);
        match (&node.op, node.results[0].shape.as_slice()) {
            (Op::Param(_), _) => continue,
            (Op::LastToken, [1, _]) => {}
            (Op::RmsNorm { .. } | Op::LayerNorm { .. }, &[_, columns]) => {
                norms.push(id);
                all_fours &= fours(columns);
            }
            (Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Rope { .. }, [_, _, _]) => {}
            (Op::Slice { count, .. }, _) => all_fours &= fours(*count),
            (Op::Concat, _) => all_fours &= node.inputs.iter().all(|&part| fours(body.ty(part).columns())),
            (op, _) if is_elementwise(op) => {}
            _ => return None,
        }
        if let &[_, count, head] = node.results[0].shape.as_slice()
            && *heads.get_or_insert((count, head)) != (count, head)
        {
            return None;
        }
    }
    all_fours &= heads.is_none_or(|(_, head)| fours(head));
    // Heads are appended four elements at a time.
    (all_fours || cache.is_none()).then_some(Output { stored, heads, norms, fours: all_fours })
}

fn fours(n: usize) -> bool {
    n.is_multiple_of(4)
}
