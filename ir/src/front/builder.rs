//! A graph under construction together with the tensors that it may use.

use super::{EntryShape, Tensors};
use crate::graph::{Graph, Input, Op, Ref};
use crate::quant;
use crate::quote::quoted;
use crate::tensor::{Elem, TensorType};
use crate::{Error, Result, Verified};
use std::collections::BTreeSet;

/// Adds nodes, checks tensors against the shapes that a model asks for, and remembers which were used.
pub(super) struct Builder<'a> {
    graph: Graph,
    tensors: &'a Tensors,
    used: BTreeSet<String>,
    /// The entry point.
    pub shape: EntryShape,
    /// The token ids.
    pub tokens: Ref,
    /// The position.
    pub position: Ref,
}

impl<'a> Builder<'a> {
    pub fn new(tensors: &'a Tensors, shape: EntryShape) -> Result<Self> {
        let mut graph = Graph::new();
        let tokens = graph.leaf(Op::Input(Input::Tokens), TensorType::new(Elem::I32, [shape.tokens]))?;
        let position = graph.leaf(Op::Input(Input::Position), TensorType::new(Elem::I32, [1]))?;
        Ok(Builder { graph, tensors, used: BTreeSet::new(), shape, tokens, position })
    }

    /// [`Graph::add`].
    pub fn add(&mut self, op: Op, inputs: &[Ref]) -> Result<Ref> {
        self.graph.add(op, inputs)
    }

    /// [`Graph::output`].
    pub fn output(&mut self, name: impl Into<String>, value: Ref) -> Result<()> {
        self.graph.output(name, value)
    }

    /// The weight matrix `name` of \[rows, columns\].
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[rows, columns])?;
        if let Elem::Ggml(format) = ty.elem
            && !columns.is_multiple_of(format.multiple as usize)
        {
            let feature = format!("tensor '{name}' {ty}, whose rows are no multiple of {} elements,", format.multiple);
            return Err(Error::unsupported(feature, "use another quantisation"));
        }
        self.graph.leaf(Op::Weight(name.into()), ty)
    }

    /// The f32 vector `name` of `n` elements.
    pub fn vector(&mut self, name: &str, n: usize) -> Result<Ref> {
        let ty = self.tensor(name, &[n])?;
        if ty.elem != Elem::F32 {
            let hint = format!("convert the model with norms and biases in {}", quant::F32);
            return Err(Error::unsupported(format!("tensor '{name}' {ty}"), hint));
        }
        self.graph.leaf(Op::Weight(name.into()), ty)
    }

    /// The f32 vector `name`, if the model has it.
    pub fn opt_vector(&mut self, name: &str, n: usize) -> Result<Option<Ref>> {
        if self.tensors.get(name).is_some() { self.vector(name, n).map(Some) } else { Ok(None) }
    }

    /// The KV cache `name` before this step.
    pub fn state(&mut self, name: &str, heads: usize, head: usize) -> Result<Ref> {
        let ty = TensorType::new(Elem::Ggml(self.shape.kv), [heads, self.shape.context, head]);
        self.graph.leaf(Op::State(name.into()), ty)
    }

    /// The finished graph, if every tensor of the file has a place in it.
    pub fn finish(self, architecture: &str) -> Result<Verified<Graph>> {
        if let Some((name, ty)) = self.tensors.iter().find(|(name, _)| !self.used.contains(*name)) {
            let hint = format!("'{architecture}' models are built without it, so the results would be wrong");
            return Err(Error::unsupported(format!("tensor {} {ty}", quoted(name)), hint));
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
