//! The rules of a graph as a whole: leaves, states, outputs.

use super::{Graph, Node, NodeId, Op, Ref, infer, text};
use crate::{Error, Result, Verified};
use std::collections::HashMap;

impl Graph {
    /// Checks a whole graph (not a fusion's body alone): operands precede users, types are the inferred ones, no params
    /// outside bodies, weights and states have one type each, a state has one user (it is updated in place) and its
    /// update is the output of the same name, there is an output.
    ///
    /// # Errors
    /// [`Error::Verify`] naming the node and the rule.
    pub fn verify(self) -> Result<Verified<Graph>> {
        check_nodes(&self)?;
        let mut named: HashMap<String, NodeId> = HashMap::new();
        for (id, node) in self.iter() {
            let mut claim = |name: String| match named.insert(name.clone(), id) {
                Some(first) => Err(broken(id, node, format!("'{name}' is {first} already, with another type or role"))),
                None => Ok(()),
            };
            match &node.op {
                Op::Param(i) => return Err(broken(id, node, format!("param {i} outside a fusion's body"))),
                Op::Weight(weight) => claim(weight.to_string())?,
                Op::State(name) => claim(name.clone())?,
                Op::Fusion(fusion) => {
                    check_nodes(&fusion.body).map_err(|e| broken(id, node, e.to_string()))?;
                    check_states(&fusion.body).map_err(|e| broken(id, node, e.to_string()))?;
                }
                _ => {}
            }
        }
        check_states(&self)?;
        if self.outputs().is_empty() {
            return Err(Error::verify("graph", "it has no outputs"));
        }
        Ok(Verified::assert(self))
    }
}

fn broken(id: NodeId, node: &Node, what: String) -> Error {
    Error::verify("graph", format!("{id} = {}: {what}", text::mnemonic(&node.op)))
}

/// Topological order and types.
fn check_nodes(graph: &Graph) -> Result<()> {
    let exists = |r: &Ref, before: u32| r.node.0 < before && (r.result as usize) < graph.node(r.node).results.len();
    for (id, node) in graph.iter() {
        if let Some(r) = node.inputs.iter().find(|r| !exists(r, id.0)) {
            return Err(broken(id, node, format!("operand {r} does not precede it")));
        }
        if node.op.is_leaf() {
            if node.results.len() != 1 || !node.inputs.is_empty() {
                return Err(broken(id, node, "a leaf has one result and no operands".into()));
            }
            infer::check_leaf(&node.op, &node.results[0]).map_err(|e| broken(id, node, e))?;
        } else {
            let types: Vec<_> = node.inputs.iter().map(|&r| graph.ty(r)).collect();
            let inferred = infer(&node.op, &types).map_err(|e| broken(id, node, e))?;
            if inferred != node.results {
                return Err(broken(id, node, format!("results are {:?}, the rule gives {inferred:?}", node.results)));
            }
        }
    }
    match graph.outputs().iter().find(|(_, r)| !exists(r, graph.nodes().len() as u32)) {
        Some((name, r)) => Err(Error::verify("graph", format!("output '{name}' names {r}, which does not exist"))),
        None => Ok(()),
    }
}

/// A state that is updated has no other user, since that is made in place; its new value is the output of its name.
fn check_states(graph: &Graph) -> Result<()> {
    let mut users: HashMap<NodeId, u32> = HashMap::new();
    for r in graph.nodes().iter().flat_map(|n| &n.inputs) {
        *users.entry(r.node).or_default() += 1;
    }
    for (id, node) in graph.iter() {
        if let Some((old, _)) = node.op.update() {
            let state = node.inputs[old].node;
            if users[&state] != 1 {
                return Err(broken(id, node, format!("the state {state} has {} users, not one", users[&state])));
            }
        }
        if let Op::State(name) = &node.op {
            if users.get(&id).is_some_and(|&n| n > 1) {
                return Err(broken(id, node, format!("the state '{name}' has more than one user")));
            }
            match graph.find_output(name) {
                Some(new) if graph.ty(new) == &node.results[0] => {}
                Some(new) => return Err(broken(id, node, format!("output '{name}' is {}", graph.ty(new)))),
                None => return Err(broken(id, node, format!("no output is named '{name}'"))),
            }
        }
    }
    Ok(())
}
