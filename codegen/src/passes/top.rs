//! `top`: on a GPU the largest logits are an output of their own, so that a step need not bring all of them to the host.

use super::PassContext;
use ir::Result;
use ir::graph::{Graph, MOST_TOP, Op};

pub(super) fn run(graph: &Graph, context: &PassContext<'_>) -> Result<Graph> {
    let mut new = graph.clone();
    if context.target.gpu().is_some()
        && let Some(logits) = new.find_output("logits")
    {
        let k = new.ty(logits).columns().min(MOST_TOP);
        let top = new.add(Op::TopK { k }, &[logits])?;
        new.output("top", top)?;
    }
    Ok(new)
}
