//! `fuse`: every op ends in a fusion, and every fusion is one kernel.
//!
//! A value is either in memory between kernels or computed where it is used. [`reads`] and [`makes`] say of each op what it
//! wants of its operands and how its result comes about; from that, [`Forms`] decides which values are stored. A fusion's
//! body is what a stored value depends on, back to leaves and other stored values, which become its params. The operands of
//! one attention are computed together. Where the target prepares the rows of several tokens
//! [apart](ir::target::Target::prepares_steps), products find them in memory. Bodies are canonical: nodes in depth-first order from the outputs, params numbered by
//! their first use in that order; so equal layers have equal bodies.

use super::PassContext;
use ir::graph::{Fusion, Graph, NodeId, Op, Ref};
use ir::target::Target;
use ir::{Error, Result};
use kernels_gen::ops;
use std::collections::{HashMap, HashSet};

/// Values that one kernel computes, with the names that they have in its body.
type Outputs = Vec<(&'static str, Ref)>;

/// What an op wants of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// The elements at the place of each result.
    Elements,
    /// All of the last dimension.
    Last,
    /// Rows that a product prepares: in memory, or the RMS norm of such.
    Rows,
    /// All of it, in memory.
    Memory,
}

/// How an op's result comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    /// In a kernel of its own.
    Kernel,
    /// Tile by tile, as a matrix product.
    Product,
    /// Where its operands are at hand.
    There,
}

fn reads(op: &Op) -> Reads {
    match op {
        Op::Add | Op::Mul | Op::Map(_) | Op::Reshape(_) | Op::KvAppend | Op::ExpertSum => Reads::Elements,
        Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Rope { .. } => Reads::Last,
        Op::MatMul | Op::HeadMatMul | Op::ExpertMatMul | Op::Quantize => Reads::Rows,
        _ => Reads::Memory,
    }
}

fn makes(op: &Op) -> Makes {
    match op {
        Op::MatMul | Op::ExpertMatMul => Makes::Product,
        Op::Add
        | Op::Mul
        | Op::Map(_)
        | Op::Reshape(_)
        | Op::KvAppend
        | Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Rope { .. }
        | Op::Quantize
        | Op::LastToken
        | Op::Slice { .. }
        | Op::Concat
        | Op::ExpertRows
        | Op::ExpertSum => Makes::There,
        _ => Makes::Kernel,
    }
}

pub(super) fn run(graph: &Graph, context: &PassContext<'_>) -> Result<Graph> {
    let order = graph.cone(graph.outputs().iter().map(|&(_, r)| r), |_| true);
    let forms = Forms::of(graph, &order, context.target);
    let kernels = outputs(graph, &order, &forms);
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

/// What a value is to the kernel that uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In memory: a leaf, or stored.
    Memory,
    /// Made of elements in memory.
    Elements,
    /// Made of rows in memory, with a norm or rotation.
    Rows,
    /// Made of products with these rows, tile by tile or head by head.
    Product(NodeId),
}

/// The form of each node's value.
struct Forms<'a> {
    graph: &'a Graph,
    target: &'a Target,
    users: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
    /// Whether it is of the experts that each token uses.
    of_experts: Vec<bool>,
    /// To its users.
    forms: Vec<Form>,
    /// To the kernel that computes it.
    computed: Vec<Form>,
}

impl<'a> Forms<'a> {
    fn of(graph: &'a Graph, order: &[NodeId], target: &'a Target) -> Forms<'a> {
        let count = graph.nodes().len();
        let mut users = vec![Vec::new(); count];
        for &id in order {
            graph.node(id).inputs.iter().for_each(|r| users[r.node.0 as usize].push(id));
        }
        let mut is_output = vec![false; count];
        graph.outputs().iter().for_each(|(_, r)| is_output[r.node.0 as usize] = true);
        let memory = vec![Form::Memory; count];
        let of_experts = vec![false; count];
        let mut forms = Forms { graph, target, users, is_output, of_experts, forms: memory.clone(), computed: memory };
        for &id in order {
            forms.of_experts[id.0 as usize] = forms.is_of_experts(id);
            let form = forms.compute(id);
            forms.computed[id.0 as usize] = form;
            forms.forms[id.0 as usize] = if forms.is_stored(id, form) { Form::Memory } else { form };
        }
        forms
    }

    fn form(&self, id: NodeId) -> Form {
        self.forms[id.0 as usize]
    }

    fn is_of_experts(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        match node.op {
            Op::ExpertMatMul | Op::ExpertRows => true,
            Op::ExpertSum | Op::Quantize => false,
            _ => node.inputs.iter().any(|r| self.of_experts[r.node.0 as usize]),
        }
    }

    /// The form of a value that is not stored. Stores an operand that cannot be computed beside another.
    fn compute(&mut self, id: NodeId) -> Form {
        let node = self.graph.node(id);
        if node.op.is_leaf() || makes(&node.op) == Makes::Kernel {
            return Form::Memory;
        }
        if makes(&node.op) == Makes::Product {
            let x = node.inputs[1].node;
            let quantised = self.graph.node(x).op == Op::Quantize && self.form(x) != Form::Memory;
            return Form::Product(if quantised { self.graph.node(x).inputs[0].node } else { x });
        }
        // Numbers for each token have a place of their own.
        for r in node.inputs.iter().skip(1).filter(|r| !self.of_experts[r.node.0 as usize]) {
            if reads(&node.op) == Reads::Elements && node.op != Op::KvAppend && self.graph.ty(*r) != &node.results[0] {
                self.forms[r.node.0 as usize] = Form::Memory;
            }
        }
        let mut form = Form::Elements;
        for r in &node.inputs {
            form = match (form, self.form(r.node)) {
                (form, Form::Memory | Form::Elements) => form,
                (Form::Elements, other) => other,
                (Form::Product(a), Form::Product(b)) if a == b => form,
                (Form::Product(_), _) => {
                    self.forms[r.node.0 as usize] = Form::Memory;
                    form
                }
                (Form::Rows, Form::Rows) => form,
                (_, product) => {
                    let rows = node.inputs.iter().filter(|r| self.forms[r.node.0 as usize] == Form::Rows);
                    let rows: Vec<NodeId> = rows.map(|r| r.node).collect();
                    rows.into_iter().for_each(|r| self.forms[r.0 as usize] = Form::Memory);
                    product
                }
            };
        }
        match (form, reads(&node.op)) {
            (Form::Elements, Reads::Last) => Form::Rows,
            (form, _) => form,
        }
    }

    /// Whether a value of this form is stored.
    fn is_stored(&self, id: NodeId, form: Form) -> bool {
        let node = self.graph.node(id);
        if node.op.is_leaf() || node.op == Op::Quantize {
            return node.op == Op::Quantize && self.is_apart(id);
        }
        if makes(&node.op) == Makes::Kernel || self.is_output[id.0 as usize] {
            return true;
        }
        let users = &self.users[id.0 as usize];
        let wants = |wanted: Reads| users.iter().any(|&user| reads(&self.graph.node(user).op) == wanted);
        let is_product = matches!(form, Form::Product(_));
        let heads = |id: NodeId| self.graph.ty(id.into()).shape.len() >= 3;
        if wants(Reads::Memory) {
            return true;
        }
        // They become rows of further products, or a sum.
        if self.of_experts[id.0 as usize] {
            return wants(Reads::Rows);
        }
        if self.is_prepared(id) {
            return users.iter().any(|&user| reads(&self.graph.node(user).op) != Reads::Rows)
                && node.op != Op::LastToken;
        }
        // A norm of whole rows needs all tiles of a product; heads that are done are rows again.
        let split = is_product && !heads(id) && wants(Reads::Last);
        let joined = is_product && heads(id) && users.iter().any(|&user| !heads(user));
        wants(Reads::Rows) || split || joined || users.len() > 1
    }

    /// Whether products take it as it is.
    fn feeds_products(&self, id: NodeId) -> bool {
        self.users[id.0 as usize].iter().any(|&user| makes(&self.graph.node(user).op) == Makes::Product)
    }

    /// Whether these codes are made by a kernel of their own.
    fn is_apart(&self, id: NodeId) -> bool {
        self.target.prepares_steps() && self.graph.ty(id.into()).rows() > 1
    }

    /// Whether products prepare rows like these themselves: those of the last token, and the RMS norm, with weights, of rows in
    /// memory.
    fn is_prepared(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let x = node.inputs.first().map(|r| r.node);
        let there = |x: NodeId| self.form(x) == Form::Memory || self.graph.node(x).op == Op::LastToken;
        match node.op {
            Op::LastToken => true,
            Op::RmsNorm { .. } if self.target.prepares_steps() && self.feeds_products(id) => false,
            Op::RmsNorm { .. } => node.inputs.len() == 2 && x.is_some_and(there) && node.results[0].shape.len() == 2,
            _ => false,
        }
    }
}

/// The values that have to be in memory, kernel by kernel; each kernel stands where its last value is in `order`.
fn outputs(graph: &Graph, order: &[NodeId], forms: &Forms<'_>) -> Vec<Outputs> {
    let mut kernels: Vec<Outputs> = Vec::new();
    let mut taken: HashSet<Ref> = HashSet::new();
    let mut add = |kernels: &mut Vec<Outputs>, values: &[(&'static str, Ref)]| {
        let mut free = |r: &Ref| !graph.node(r.node).op.is_leaf() && taken.insert(*r);
        let outputs: Outputs = values.iter().copied().filter(|(_, r)| free(r)).collect();
        if !outputs.is_empty() {
            kernels.push(outputs);
        }
    };
    let attended = |id: NodeId| {
        forms.users[id.0 as usize].iter().any(|&user| {
            let node = graph.node(user);
            matches!(node.op, Op::Attention { .. }) && node.inputs[..3].iter().any(|r| r.node == id)
        })
    };
    // Products of the same rows are one kernel, all else is another.
    let kind = |r: &Ref| match forms.computed[r.node.0 as usize] {
        product @ Form::Product(_) => product,
        _ => Form::Rows,
    };
    for &id in order {
        let node = graph.node(id);
        if let Op::Attention { .. } = node.op {
            let operands = [("q", node.inputs[0]), ("k", node.inputs[1]), ("v", node.inputs[2])];
            for (i, (_, first)) in operands.iter().enumerate() {
                if operands[..i].iter().all(|(_, r)| kind(r) != kind(first)) {
                    let alike: Outputs = operands.iter().copied().filter(|(_, r)| kind(r) == kind(first)).collect();
                    add(&mut kernels, &alike);
                }
            }
        }
        if !node.op.is_leaf() && forms.form(id) == Form::Memory && !attended(id) {
            // Beside its first result an op gives states alone.
            let results =
                ["out", "state"].into_iter().zip(0..node.results.len() as u32).map(|(name, i)| (name, id.at(i)));
            add(&mut kernels, &results.collect::<Outputs>());
        }
    }
    kernels
}

/// The body of the kernel that computes `outputs`, and its operands in `graph`; `stored` says which nodes are in memory already.
fn body(graph: &Graph, outputs: &Outputs, stored: impl Fn(NodeId) -> bool) -> Result<(Graph, Vec<Ref>)> {
    let mut body = Graph::new();
    let mut values: HashMap<Ref, Ref> = HashMap::new();
    let mut operands: Vec<Ref> = Vec::new();
    for id in graph.cone(outputs.iter().map(|&(_, r)| r), |id| !stored(id)) {
        let node = graph.node(id);
        if node.op.is_leaf() || stored(id) {
            // Of what is in memory, first results alone are operands: states have one user.
            operands.push(id.into());
            let param = body.leaf(Op::Param(operands.len() as u32 - 1), node.results[0].clone())?;
            values.insert(id.into(), param);
        } else {
            let inputs: Vec<Ref> = node.inputs.iter().map(|r| values[r]).collect();
            let copy = body.push(node.op.clone(), &inputs)?;
            values.extend((0..node.results.len() as u32).map(|i| (id.at(i), copy.at(i))));
        }
    }
    for &(name, value) in outputs {
        body.output(name, values[&value])?;
    }
    Ok((body, operands))
}
