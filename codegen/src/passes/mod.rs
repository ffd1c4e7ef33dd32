//! The passes from a model's graph to one whose every op is a fusion, in the order of [`PIPELINE`].
//!
//! Invariant: each pass takes and gives a verified graph of the same meaning (only `quantise` changes results, by the
//! rounding of [`Quantize`](ir::graph::Op::Quantize), and only `top` adds one), and the same graph always gives the same
//! graph. Next hop: lowering turns each fusion into a kernel.

mod canonicalise;
mod fuse;
mod layout;
mod quantise;
mod top;

use ir::graph::{Graph, Node, Ref};
use ir::target::Target;
use ir::{Result, Verified};
use std::collections::HashMap;

/// What passes know besides the graph.
#[derive(Debug, Clone, Copy)]
pub struct PassContext<'a> {
    /// What the graph is compiled for.
    pub target: &'a Target,
}

/// A rewriting of graphs.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Its name.
    pub name: &'static str,
    /// Gives the rewritten graph.
    pub run: fn(&Graph, &PassContext<'_>) -> Result<Graph>,
}

/// Every pass, in order. Layouts are chosen before fusing, so that the params of bodies have them.
pub const PIPELINE: &[Pass] = &[
    Pass { name: "canonicalise", run: canonicalise::run },
    Pass { name: "top", run: top::run },
    Pass { name: "quantise", run: quantise::run },
    Pass { name: "layout", run: layout::run },
    Pass { name: "fuse", run: fuse::run },
];

/// Runs [`PIPELINE`]; `observe` sees the name of each pass and the graph that it gives.
///
/// # Errors
/// Of a pass, or [`ir::Error::Verify`] if one gave a graph that breaks a rule.
pub fn run(
    graph: Verified<Graph>,
    context: &PassContext<'_>,
    mut observe: impl FnMut(&str, &Verified<Graph>),
) -> Result<Verified<Graph>> {
    PIPELINE.iter().try_fold(graph, |graph, pass| {
        let graph = (pass.run)(&graph, context)?.verify()?;
        observe(pass.name, &graph);
        Ok(graph)
    })
}

/// Copies what the outputs of `graph` depend on into a new graph, in the order of [`Graph::cone`]. `replace` is given the
/// new graph, a node and its operands there, and may give the value to use instead of the node's only result.
fn rewrite(graph: &Graph, mut replace: impl FnMut(&mut Graph, &Node, &[Ref]) -> Result<Option<Ref>>) -> Result<Graph> {
    let mut new = Graph::new();
    let mut values: HashMap<Ref, Ref> = HashMap::new();
    for id in graph.cone(graph.outputs().iter().map(|&(_, r)| r), |_| true) {
        let node = graph.node(id);
        let inputs: Vec<Ref> = node.inputs.iter().map(|r| values[r]).collect();
        match replace(&mut new, node, &inputs)? {
            Some(value) => _ = values.insert(id.at(0), value),
            None => {
                let copy = copy(&mut new, node, &inputs)?;
                values.extend((0..node.results.len() as u32).map(|i| (id.at(i), Ref { result: i, ..copy })));
            }
        }
    }
    for (name, value) in graph.outputs() {
        new.output(name.clone(), values[value])?;
    }
    Ok(new)
}

/// Adds a node like `node` over `inputs`.
fn copy(graph: &mut Graph, node: &Node, inputs: &[Ref]) -> Result<Ref> {
    if node.op.is_leaf() {
        graph.leaf(node.op.clone(), node.results[0].clone())
    } else {
        graph.add(node.op.clone(), inputs)
    }
}
