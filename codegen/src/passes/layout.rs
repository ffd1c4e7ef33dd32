//! `layout`: matrices of products whose dot form has a microkernel on the target are interleaved in tiles of rows; for a
//! GPU all matrices are, embedding tables too. An embedding table that is also the output matrix has that one layout.
//! Runs before `fuse`: bodies have types too.

use super::{PassContext, rewrite};
use ir::Result;
use ir::graph::{Graph, Op};
use ir::tensor::{Elem, Layout, TensorType};
use std::collections::HashSet;

pub(super) fn run(graph: &Graph, context: &PassContext<'_>) -> Result<Graph> {
    let multiplied: HashSet<&Op> =
        graph.nodes().iter().filter(|n| n.op == Op::MatMul).map(|n| &graph.node(n.inputs[0].node).op).collect();
    rewrite(graph, |new, node, _| {
        let ty = &node.results[0];
        let gpu = context.target.gpu().is_some() && ty.shape.len() == 2;
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
