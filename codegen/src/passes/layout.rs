//! `layout`: matrices of products whose dot form has a microkernel on the target are interleaved in tiles of rows. An
//! embedding table that is also the output matrix has that one layout. Runs before `fuse`: bodies have types too.

use super::{PassContext, rewrite};
use ir::Result;
use ir::graph::{Graph, Op};
use ir::tensor::{Elem, Layout, TensorType};
use std::collections::HashSet;

pub(super) fn run(graph: &Graph, context: &PassContext<'_>) -> Result<Graph> {
    let multiplied: HashSet<&Op> =
        graph.nodes().iter().filter(|n| n.op == Op::MatMul).map(|n| &graph.node(n.inputs[0].node).op).collect();
    rewrite(graph, |new, node, _| {
        if !matches!(node.op, Op::Weight(_)) || !multiplied.contains(&node.op) {
            return Ok(None);
        }
        let ty = &node.results[0];
        let tiled = matches!(ty.elem, Elem::Ggml(format) if context.target.has_dot(format.dot));
        let layout = if tiled { Layout::Rows16 } else { Layout::Rows };
        new.leaf(node.op.clone(), TensorType { layout, ..ty.clone() }).map(Some)
    })
}
