//! A graph under construction together with the file that it is made from: metadata keys and tensors are taken from it by
//! name and shape, and [`Network::finish`] refuses what is left over, as a model that ignores a part of its file computes
//! something else.

use super::{EntryShape, Keys, Tensors};
use crate::abi::KV_BLOCK;
use crate::graph::{Graph, Input, Op, Ref, Weight};
use crate::quant;
use crate::quote::quoted;
use crate::state::ring_blocks;
use crate::tensor::{Elem, TensorType};
use crate::{Error, Result, Verified};
use std::collections::BTreeSet;
use std::ops::Range;

/// A model in the making.
pub(super) struct Network<'a> {
    graph: Graph,
    tensors: &'a Tensors,
    used: BTreeSet<String>,
    states: Vec<(String, Ref)>,
    /// The metadata.
    pub keys: &'a Keys<'a>,
    /// The entry point.
    pub shape: EntryShape,
    /// The token ids.
    pub tokens: Ref,
    /// The position.
    pub position: Ref,
}

impl<'a> Network<'a> {
    /// A network of nothing yet; `used` are tensors that have no place in it.
    pub fn new(keys: &'a Keys<'a>, tensors: &'a Tensors, shape: EntryShape, used: BTreeSet<String>) -> Result<Self> {
        let mut graph = Graph::new();
        let tokens = graph.leaf(Op::Input(Input::Tokens), TensorType::new(Elem::I32, [shape.tokens]))?;
        let position = graph.leaf(Op::Input(Input::Position), TensorType::new(Elem::I32, [1]))?;
        Ok(Network { graph, tensors, used, states: Vec::new(), keys, shape, tokens, position })
    }

    /// [`Graph::add`].
    pub fn add(&mut self, op: Op, inputs: &[Ref]) -> Result<Ref> {
        self.graph.add(op, inputs)
    }

    /// The type of a value.
    pub fn ty(&self, value: Ref) -> &TensorType {
        self.graph.ty(value)
    }

    /// Columns of a value.
    pub fn columns(&self, value: Ref) -> usize {
        self.ty(value).columns()
    }

    /// Names a result.
    pub fn output(&mut self, name: &str, value: Ref) -> Result<()> {
        self.graph.output(name, value)
    }

    /// Whether the file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    /// Rows of the matrix `name`, 0 if there is none.
    pub fn rows(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, TensorType::rows)
    }

    /// Passes over a tensor that the file may have and the model does not use.
    pub fn skip(&mut self, name: &str) {
        self.used.insert(name.into());
    }

    /// The weight matrix `name` of \[rows, columns\].
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[rows, columns])?;
        self.matrix_of(name, None, ty)
    }

    /// Some rows of the weight matrix `name`, which has `all` rows.
    pub fn matrix_rows(&mut self, name: &str, all: usize, rows: Range<u32>, columns: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[all, columns])?;
        self.matrix_of(name, Some(rows.clone()), TensorType { shape: vec![rows.len(), columns], ..ty })
    }

    /// The matrices `name` of experts or of heads, of \[rows, columns\] each.
    pub fn experts(&mut self, name: &str, (experts, rows): (usize, usize), columns: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[experts, rows, columns])?;
        self.matrix_of(name, None, ty)
    }

    /// The f32 rows `name` of experts.
    pub fn table(&mut self, name: &str, experts: usize, columns: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[experts, columns])?;
        self.floats(name, &ty)?;
        self.graph.leaf(Op::Weight(name.into()), ty)
    }

    fn matrix_of(&mut self, name: &str, rows: Option<Range<u32>>, ty: TensorType) -> Result<Ref> {
        if let Elem::Ggml(format) = ty.elem
            && !ty.columns().is_multiple_of(format.multiple as usize)
        {
            let feature = format!("tensor '{name}' {ty}, whose rows are no multiple of {} elements,", format.multiple);
            return Err(Error::unsupported(feature, "use another quantisation"));
        }
        self.graph.leaf(Op::Weight(Weight { tensor: name.into(), rows }), ty)
    }

    /// The f32 vector `name` of `n` elements.
    pub fn vector(&mut self, name: &str, n: usize) -> Result<Ref> {
        self.vector_of(name, n, None)
    }

    /// Some elements of the f32 vector `name`, which has `all`.
    pub fn vector_part(&mut self, name: &str, all: usize, part: Range<u32>) -> Result<Ref> {
        self.vector_of(name, all, Some(part))
    }

    fn vector_of(&mut self, name: &str, all: usize, part: Option<Range<u32>>) -> Result<Ref> {
        let ty = self.tensor(name, &[all])?;
        self.floats(name, &ty)?;
        let n = part.as_ref().map_or(all, |rows| rows.len());
        let weight = Weight { tensor: name.into(), rows: part };
        self.graph.leaf(Op::Weight(weight), TensorType { shape: vec![n], ..ty })
    }

    fn floats(&self, name: &str, ty: &TensorType) -> Result<()> {
        let hint = format!("convert the model with norms and biases in {}", quant::F32);
        if ty.elem == Elem::F32 { Ok(()) } else { Err(Error::unsupported(format!("tensor '{name}' {ty}"), hint)) }
    }

    /// The tensor `name` of `n` elements as a matrix of one row.
    pub fn row(&mut self, name: &str, n: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[n])?;
        self.matrix_of(name, None, TensorType { shape: vec![1, n], ..ty })
    }

    /// The f32 vector `name`, if the model has it.
    pub fn opt_vector(&mut self, name: &str, n: usize) -> Result<Option<Ref>> {
        if self.has(name) { self.vector(name, n).map(Some) } else { Ok(None) }
    }

    /// Appends the rows x \[T, heads, head\] to the KV cache `name`, which becomes an output of the graph. For a window, a ring
    /// is enough.
    pub fn append(&mut self, name: String, x: Ref, window: Option<usize>) -> Result<Ref> {
        let &[_, heads, head] = self.ty(x).shape.as_slice() else {
            return Err(Error::verify("graph", "rows of a KV cache are [T, heads, head]"));
        };
        let EntryShape { context, step, kv, .. } = self.shape;
        let shape = match window.and_then(|window| ring_blocks(window, step, context)) {
            Some(blocks) => vec![heads, blocks, KV_BLOCK, head],
            None => vec![heads, context, head],
        };
        let ty = TensorType::new(Elem::Ggml(kv), shape);
        let state = self.graph.leaf(Op::State(name.clone()), ty)?;
        let new = self.graph.add(Op::KvAppend, &[state, x, self.position])?;
        self.states.push((name, new));
        Ok(new)
    }

    /// Applies an op to the recurrent state `name` of `shape` and to operands: gives its result, and the new state becomes an
    /// output of the graph.
    pub fn recur(&mut self, op: Op, name: String, shape: &[usize], operands: &[Ref]) -> Result<Ref> {
        let state = self.graph.leaf(Op::State(name.clone()), TensorType::new(Elem::F32, shape))?;
        let operands: Vec<Ref> = [state].iter().chain(operands).copied().collect();
        let node = self.graph.push(op, &operands)?;
        self.states.push((name, node.at(1)));
        Ok(node.at(0))
    }

    /// The finished graph, if every key and tensor of the file has a place in it.
    pub fn finish(mut self) -> Result<Verified<Graph>> {
        self.keys.finish()?;
        if let Some((name, ty)) = self.tensors.iter().find(|(name, _)| !self.used.contains(*name)) {
            let architecture = self.keys.architecture;
            let hint = format!("'{architecture}' models are built without it, so the results would be wrong");
            return Err(Error::unsupported(format!("tensor {} {ty}", quoted(name)), hint));
        }
        for (name, value) in self.states {
            self.graph.output(name, value)?;
        }
        self.graph.verify()
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<TensorType> {
        let ty = self.tensors.get(name).ok_or_else(|| Error::malformed(format!("tensor '{name}' is missing")))?;
        if ty.shape != shape {
            return Err(Error::malformed(format!("tensor '{name}' is {:?}, expected {shape:?}", ty.shape)));
        }
        self.used.insert(name.into());
        Ok(ty.clone())
    }
}
