//! `quantise`: products with formats that want it take int8 activations. Products of the same activations share one
//! [`Op::Quantize`].

use super::{PassContext, rewrite};
use ir::Result;
use ir::graph::{Graph, Op};
use ir::tensor::Elem;

pub(super) fn run(graph: &Graph, _: &PassContext<'_>) -> Result<Graph> {
    rewrite(graph, |new, node, inputs| {
        let (Op::MatMul | Op::HeadMatMul | Op::ExpertMatMul, &[w, x, ref routing @ ..]) = (&node.op, inputs) else {
            return Ok(None);
        };
        let wanted = matches!(new.ty(w).elem, Elem::Ggml(format) if format.dot.wants_int8());
        if !wanted || new.ty(x).elem != Elem::F32 {
            return Ok(None);
        }
        let x = new.add(Op::Quantize, &[x])?;
        new.add(node.op.clone(), &[&[w, x], routing].concat()).map(Some)
    })
}
