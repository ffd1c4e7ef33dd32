//! `layout`: matrices of products whose dot form has a microkernel on the target are interleaved in tiles of rows; for a
//! GPU all matrices are, embedding tables too, but neither rows of experts nor the taps of convolutions. An embedding table
//! that is also the output matrix has that one layout. Keys and values lie together, keys in tiles of positions, where the
//! target has a microkernel for scores. Runs before
//! `fuse`: bodies have types too.

use super::{PassContext, rewrite};
use ir::Result;
use ir::abi::Meaning;
use ir::graph::{Graph, Node, Op};
use ir::tensor::{Elem, Layout, TensorType};
use std::collections::HashSet;

pub(super) fn run(graph: &Graph, context: &PassContext<'_>) -> Result<Graph> {
    let producer = |node: &Node, n: usize| graph.node(node.inputs[n].node);
    let products = graph.nodes().iter().filter(|n| matches!(n.op, Op::MatMul | Op::HeadMatMul | Op::ExpertMatMul));
    let multiplied: HashSet<&Op> = products.map(|n| &producer(n, 0).op).collect();
    let tables = graph.nodes().iter().filter(|n| n.op == Op::ExpertRows);
    let tables: HashSet<&Op> = tables.map(|n| &producer(n, 0).op).collect();
    let states = |n: usize| -> HashSet<&Op> {
        // Rows of two sizes do not lie in the blocks of one memory.
        let alike = |n: &&Node| matches!(n.op, Op::Attention { .. }) && graph.ty(n.inputs[1]) == graph.ty(n.inputs[2]);
        let attentions = graph.nodes().iter().filter(alike);
        let appends = attentions.map(|attention| producer(attention, n)).filter(|n| n.op == Op::KvAppend);
        appends.map(|n| &producer(n, 0).op).collect()
    };
    let (keys, values) = (states(1), states(2));
    let taps: HashSet<&Op> =
        graph.nodes().iter().filter(|n| n.op == Op::ShortConv).map(|n| &producer(n, 2).op).collect();
    rewrite(graph, |new, node, _| {
        let ty = &node.results[0];
        if let Op::State(_) = node.op {
            let tiled = ty.elem.kv().is_some_and(|kv| context.target.atom(Meaning::Scores(kv.encoding)).is_some());
            let layout = match tiled {
                true if keys.contains(&node.op) => Layout::Keys,
                true if values.contains(&node.op) => Layout::Values,
                _ => Layout::Rows,
            };
            return new.leaf(node.op.clone(), TensorType { layout, ..ty.clone() }).map(Some);
        }
        let matrix = ty.shape.len() == 2 && !tables.contains(&node.op) && !taps.contains(&node.op);
        let gpu = context.target.gpu().is_some() && matrix;
        if !matches!(node.op, Op::Weight(_)) || !(gpu || multiplied.contains(&node.op)) {
            return Ok(None);
        }
        let tiled = matches!(ty.elem, Elem::Ggml(format) if context.target.has_dot(format.dot));
        let layout = match (gpu, tiled) {
            (true, _) => Layout::Rows32,
            (false, true) => Layout::Rows16,
            (false, false) => Layout::Rows,
        };
        new.leaf(node.op.clone(), TensorType { layout, ..ty.clone() }).map(Some)
    })
}
