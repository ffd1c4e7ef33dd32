//! `canonicalise`: one form for equal graphs. Reshapes that change nothing or follow one another are dropped, the last of
//! one token is that token, dead nodes go, equal nodes become one, and nodes are in depth-first order from the outputs.

use super::{PassContext, rewrite};
use ir::Result;
use ir::graph::{Graph, Op};

pub(super) fn run(graph: &Graph, _: &PassContext<'_>) -> Result<Graph> {
    let merged = rewrite(graph, |new, node, inputs| {
        let shape = match &node.op {
            Op::LastToken if new.ty(inputs[0]).rows() == 1 => return Ok(Some(inputs[0])),
            Op::Reshape(shape) => shape,
            _ => return Ok(None),
        };
        let mut x = inputs[0];
        while let Op::Reshape(_) = new.node(x.node).op {
            x = new.node(x.node).inputs[0];
        }
        if new.ty(x).shape == *shape { Ok(Some(x)) } else { new.add(node.op.clone(), &[x]).map(Some) }
    })?;
    // Reshapes that lost their users.
    rewrite(&merged, |_, _, _| Ok(None))
}
