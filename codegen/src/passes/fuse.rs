//! `fuse`: every op ends in a fusion, and every fusion is one kernel.
//!
//! Some values have to be in memory between kernels: the embedded tokens, the rotary angles, the three operands of an
//! attention, its result, the sums with a residual, gated products, and the outputs. A fusion's body is what such a value
//! depends on, back to leaves and other such values, which become its params. The operands of one attention are computed
//! together. Bodies are canonical: nodes in depth-first order from the outputs, params numbered by their first use in that
//! order; so equal layers have equal bodies.

use super::PassContext;
use ir::graph::{Fusion, Graph, NodeId, Op, Ref};
use ir::{Error, Result};
use kernels_gen::ops;
use std::collections::HashMap;

/// Values that one kernel computes, with the names that they have in its body.
type Outputs = Vec<(&'static str, Ref)>;

pub(super) fn run(graph: &Graph, _: &PassContext<'_>) -> Result<Graph> {
    let order = graph.cone(graph.outputs().iter().map(|&(_, r)| r), |_| true);
    let kernels = outputs(graph, &order);
    let owner: HashMap<NodeId, usize> =
        kernels.iter().enumerate().flat_map(|(i, g)| g.iter().map(move |(_, r)| (r.node, i))).collect();
    let mut fused = Graph::new();
    let mut values: HashMap<Ref, Ref> = HashMap::new();
    for (index, outputs) in kernels.iter().enumerate() {
        let (body, operands) = body(graph, outputs, |id| owner.get(&id).is_some_and(|&o| o != index))?;
        let kind = ops::kind(&body)?;
        let inputs: Vec<Ref> =
            operands.iter().map(|&r| in_memory(graph, r, &values, &mut fused)).collect::<Result<_>>()?;
        let id = fused.push(Op::Fusion(Box::new(Fusion { kind: kind.into(), body })), &inputs)?;
        values.extend(outputs.iter().enumerate().map(|(i, &(_, r))| (r, id.at(i as u32))));
    }
    for (name, value) in graph.outputs() {
        let value = in_memory(graph, *value, &values, &mut fused)?;
        fused.output(name.clone(), value)?;
    }
    Ok(fused)
}

/// A value of `graph` in the fused graph: a fusion's result, or a leaf.
fn in_memory(graph: &Graph, value: Ref, values: &HashMap<Ref, Ref>, fused: &mut Graph) -> Result<Ref> {
    let node = graph.node(value.node);
    match values.get(&value) {
        Some(&value) => Ok(value),
        None if node.op.is_leaf() => fused.leaf(node.op.clone(), node.results[0].clone()),
        None => Err(Error::verify("graph", format!("{value} is used by a kernel that precedes it"))),
    }
}

/// The values that have to be in memory, kernel by kernel; each kernel stands where its last value is in `order`.
fn outputs(graph: &Graph, order: &[NodeId]) -> Vec<Outputs> {
    let mut kernels: Vec<Outputs> = Vec::new();
    let mut taken = vec![false; graph.nodes().len()];
    let mut add = |kernels: &mut Vec<Outputs>, values: &[(&'static str, Ref)]| {
        let mut free =
            |r: &Ref| !graph.node(r.node).op.is_leaf() && !std::mem::replace(&mut taken[r.node.0 as usize], true);
        let outputs: Outputs = values.iter().copied().filter(|(_, r)| free(r)).collect();
        if !outputs.is_empty() {
            kernels.push(outputs);
        }
    };
    for &id in order {
        let node = graph.node(id);
        let stored = match node.op {
            Op::Attention { .. } => {
                let operands = [("q", node.inputs[0]), ("k", node.inputs[1]), ("v", node.inputs[2])];
                add(&mut kernels, &operands);
                true
            }
            Op::Embed | Op::RopeAngles { .. } | Op::Mul => true,
            Op::Add => graph.is_residual(id),
            _ => false,
        };
        if stored {
            add(&mut kernels, &[("out", id.into())]);
        }
    }
    for &(_, output) in graph.outputs() {
        add(&mut kernels, &[("out", output)]);
    }
    kernels
}

/// The body of the kernel that computes `outputs`, and its operands in `graph`; `stored` says which nodes are in memory already.
fn body(graph: &Graph, outputs: &Outputs, stored: impl Fn(NodeId) -> bool) -> Result<(Graph, Vec<Ref>)> {
    let mut body = Graph::new();
    let mut values: HashMap<NodeId, Ref> = HashMap::new();
    let mut operands = Vec::new();
    for id in graph.cone(outputs.iter().map(|&(_, r)| r), |id| !stored(id)) {
        let node = graph.node(id);
        let value = if node.op.is_leaf() || stored(id) {
            operands.push(id.into());
            body.leaf(Op::Param(operands.len() as u32 - 1), node.results[0].clone())?
        } else {
            let inputs: Vec<Ref> = node.inputs.iter().map(|r| values[&r.node]).collect();
            body.add(node.op.clone(), &inputs)?
        };
        values.insert(id, value);
    }
    for &(name, value) in outputs {
        body.output(name, values[&value.node])?;
    }
    Ok((body, operands))
}
