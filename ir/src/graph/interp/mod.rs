//! The graph interpreter: the meaning of every op, which all compiled code is compared with.
//!
//! Plain and deterministic: values are f32 arrays; sums, norms, softmax and trigonometry run in f64 and are rounded to f32
//! once, at each op's result; fusions run through their bodies; layouts do not matter, weights are read as in the GGUF.
//! A step of n tokens gives values whose first dimension is n wherever the graph says T.

mod experts;
mod ops;
mod recurrent;

use super::{Graph, Input, Op, Ref, Weight, text};
use crate::abi::{Q8_BLOCK, q8_scale};
use crate::tensor::{Elem, TensorType};
use crate::{Error, Result, Verified};
use std::collections::HashMap;
use std::sync::Arc;

/// What an edge carries. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Floats, row after row: activations, decoded weights, and states as the values that their format holds.
    F32(Arc<Vec<f32>>),
    /// int8 activations.
    Q8(Arc<Q8>),
    /// Token ids or a position.
    I32(Arc<Vec<i32>>),
}

/// int8 activations: element i is `scales[i / 32] * codes[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Q8 {
    /// A code for each element.
    pub codes: Vec<i8>,
    /// A scale for each block of [`crate::abi::Q8_BLOCK`] elements.
    pub scales: Vec<f32>,
}

impl Q8 {
    /// Blocks of floats as codes.
    pub fn of(x: &[f32]) -> Q8 {
        let mut out = Q8 { codes: Vec::with_capacity(x.len()), scales: Vec::with_capacity(x.len() / Q8_BLOCK) };
        for block in x.chunks_exact(Q8_BLOCK) {
            let (scale, inverse) = q8_scale(block);
            out.codes.extend(block.iter().map(|x| (x * inverse).round_ties_even() as i8));
            out.scales.push(scale);
        }
        out
    }

    /// The elements.
    pub fn values(&self) -> Vec<f64> {
        let scales = self.scales.iter().flat_map(|s| std::iter::repeat_n(f64::from(*s), Q8_BLOCK));
        self.codes.iter().zip(scales).map(|(&c, s)| s * f64::from(c)).collect()
    }
}

impl Value {
    /// The floats.
    ///
    /// # Errors
    /// If it holds none.
    pub fn f32(&self) -> Result<&[f32]> {
        if let Value::F32(x) = self { Ok(x) } else { Err(mismatch("floats")) }
    }

    /// The int8 activations.
    ///
    /// # Errors
    /// If it holds none.
    pub fn q8(&self) -> Result<&Q8> {
        if let Value::Q8(x) = self { Ok(x) } else { Err(mismatch("int8 activations")) }
    }

    /// The integers.
    ///
    /// # Errors
    /// If it holds none.
    pub fn i32(&self) -> Result<&[i32]> {
        if let Value::I32(x) = self { Ok(x) } else { Err(mismatch("integers")) }
    }
}

impl From<Vec<f32>> for Value {
    fn from(x: Vec<f32>) -> Self {
        Value::F32(Arc::new(x))
    }
}

impl From<Vec<i32>> for Value {
    fn from(x: Vec<i32>) -> Self {
        Value::I32(Arc::new(x))
    }
}

fn mismatch(expected: &str) -> Error {
    Error::verify("interpreter value", format!("{expected} expected"))
}

/// One call of an entry point.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Position of the first token; also the KV length before the step.
    pub position: usize,
    /// The token ids, at least one and at most the graph's T.
    pub tokens: &'a [u32],
}

/// Decoded weights, shared by all graphs of a model.
#[derive(Debug, Clone, Default)]
pub struct Weights(HashMap<Weight, Value>);

impl Weights {
    /// Decodes the weights of `graph` that are not there yet; `bytes` gives a tensor's bytes in the GGUF file.
    ///
    /// # Errors
    /// If a tensor is missing or its length is not that of its type.
    pub fn load<'a>(&mut self, graph: &Graph, bytes: impl Fn(&str) -> Option<&'a [u8]>) -> Result<()> {
        for node in graph.nodes() {
            let Op::Weight(weight) = &node.op else { continue };
            if self.0.contains_key(weight) {
                continue;
            }
            let (name, ty) = (&weight.tensor, &node.results[0]);
            let Elem::Ggml(format) = ty.elem else { return Err(mismatch("a weight")) };
            let bytes = bytes(name).ok_or_else(|| Error::malformed(format!("tensor '{name}' is missing")))?;
            // A tensor of one dimension has rows of one element.
            let columns = if ty.shape.len() == 1 && weight.rows.is_some() { 1 } else { ty.columns() };
            let rows = weight.rows.clone().unwrap_or(0..(ty.elements() / columns) as u32);
            let row = format.bytes_of(columns as u64) as usize;
            let (start, end) = (rows.start as usize * row, rows.end as usize * row);
            let part = bytes.get(start..end).filter(|_| weight.rows.is_some() || end == bytes.len());
            let part = part.ok_or_else(|| {
                Error::malformed(format!(
                    "tensor '{name}' has {} bytes, {ty} of it asks for {}",
                    bytes.len(),
                    end - start
                ))
            })?;
            let mut values = vec![0.0; ty.elements()];
            format.decode_into(part, &mut values);
            self.0.insert(weight.clone(), values.into());
        }
        Ok(())
    }
}

/// The states between steps, by name; all zero at first.
#[derive(Debug, Clone, Default)]
pub struct KvCache(HashMap<String, Value>);

impl KvCache {
    /// The values of a state, in the shape of its type, once a step has run.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).and_then(|v| v.f32().ok())
    }
}

/// The outputs of a step that are not states, by name.
pub type Outputs = Vec<(String, Value)>;

/// Executes one step and updates the states.
///
/// # Errors
/// [`Error::Limit`] if the step has no or too many tokens, a token id is outside the vocabulary, or the context is full;
/// [`Error::Malformed`] if a weight was not loaded. The states are lost after an error.
pub fn run(graph: &Verified<Graph>, weights: &Weights, cache: &mut KvCache, step: Step<'_>) -> Result<Outputs> {
    let tokens = ints(step.tokens.iter().map(|&id| u64::from(id)), "a token id")?;
    let position = ints([step.position as u64], "the position")?;
    let leaf = |op: &Op, ty: &TensorType| match op {
        Op::Input(Input::Tokens) if !(1..=ty.shape[0]).contains(&step.tokens.len()) => Err(Error::Limit {
            what: "the number of tokens in a step".into(),
            need: step.tokens.len() as u64,
            have: ty.shape[0] as u64,
        }),
        Op::Input(Input::Tokens) => Ok(tokens.clone()),
        Op::Input(Input::Position) => Ok(position.clone()),
        Op::Weight(weight) => {
            weights.0.get(weight).cloned().ok_or_else(|| Error::malformed(format!("tensor '{weight}' was not loaded")))
        }
        Op::State(name) => Ok(cache.0.remove(name).unwrap_or_else(|| vec![0.0; ty.elements()].into())),
        _ => Err(mismatch("an input, a weight or a state")),
    };
    let results = execute(graph, leaf, step.tokens.len())?;
    let mut outputs = Outputs::new();
    for ((name, _), value) in graph.outputs().iter().zip(results) {
        if graph.nodes().iter().any(|n| matches!(&n.op, Op::State(state) if state == name)) {
            cache.0.insert(name.clone(), value);
        } else {
            outputs.push((name.clone(), value));
        }
    }
    Ok(outputs)
}

fn ints(values: impl IntoIterator<Item = u64>, what: &str) -> Result<Value> {
    let int = |need| i32::try_from(need).map_err(|_| Error::Limit { what: what.into(), need, have: i32::MAX as u64 });
    Ok(values.into_iter().map(int).collect::<Result<Vec<i32>>>()?.into())
}

/// Executes a fusion's body on operands for a step of `tokens` tokens; gives the body's outputs in order.
///
/// # Errors
/// If an operand is missing or not of the kind that its param is, and as [`run`].
pub fn run_body(body: &Graph, operands: Vec<Value>, tokens: usize) -> Result<Vec<Value>> {
    let mut operands: Vec<Option<Value>> = operands.into_iter().map(Some).collect();
    let leaf = |op: &Op, ty: &TensorType| match op {
        Op::Param(i) => operands
            .get_mut(*i as usize)
            .and_then(Option::take)
            .ok_or_else(|| Error::verify("fusion", format!("operand {i} ({ty}) is not given"))),
        _ => Err(mismatch("a param")),
    };
    execute(body, leaf, tokens)
}

/// Runs the nodes in order. A value moves to its last user, so that a state is updated in place.
fn execute(
    graph: &Graph,
    mut leaf: impl FnMut(&Op, &TensorType) -> Result<Value>,
    tokens: usize,
) -> Result<Vec<Value>> {
    let mut users: HashMap<Ref, usize> = HashMap::new();
    let inputs = graph.nodes().iter().flat_map(|n| &n.inputs);
    for &r in inputs.chain(graph.outputs().iter().map(|(_, r)| r)) {
        *users.entry(r).or_default() += 1;
    }
    let mut values: HashMap<Ref, Value> = HashMap::new();
    let mut take = |values: &mut HashMap<Ref, Value>, r: &Ref| -> Result<Value> {
        let left = users.entry(*r).or_default();
        *left = left.saturating_sub(1);
        let value = if *left == 0 { values.remove(r) } else { values.get(r).cloned() };
        value.ok_or_else(|| Error::verify("graph", format!("{r} is used before it is computed")))
    };
    for (id, node) in graph.iter() {
        let operands = node.inputs.iter().map(|r| take(&mut values, r)).collect::<Result<Vec<_>>>()?;
        let types: Vec<&TensorType> = node.inputs.iter().map(|&r| graph.ty(r)).collect();
        let results = match &node.op {
            op if op.is_leaf() => vec![leaf(op, &node.results[0])?],
            Op::Fusion(fusion) => run_body(&fusion.body, operands, tokens)?,
            op => ops::apply(op, &types, operands, tokens).map_err(|e| match e {
                Error::Verify { form, what } => {
                    Error::Verify { form, what: format!("{id} = {}: {what}", text::mnemonic(op)) }
                }
                e => e,
            })?,
        };
        values.extend(results.into_iter().enumerate().map(|(i, v)| (id.at(i as u32), v)));
    }
    graph.outputs().iter().map(|(_, r)| take(&mut values, r)).collect()
}
