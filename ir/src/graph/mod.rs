//! The graph: what a model computes, as an append-only, hash-consed arena of a few primitive ops.
//!
//! A [`Fusion`] keeps its unfused body, so the interpreter, the verifier and every differential test need to know no
//! fused op. Invariant: nodes are in topological order (operands precede users) and types are those that
//! [`infer()`] gives; a graph grows only through [`Graph::leaf`], [`Graph::push`] and [`Graph::output`], which hold it.
//! [`Graph::verify`] checks what concerns the graph as a whole, [`text`] prints and parses it, [`interp`] executes it.
//! Next hop: `codegen`'s passes rewrite a graph, its lowering turns each fusion into a kernel.

mod function;
mod infer;
pub mod interp;
pub mod text;
mod verify;

pub use function::Function;
pub(crate) use infer::check_shape;
pub use infer::infer;

use crate::tensor::{Layout, TensorType};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// A node, as an index into its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// One result of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ref {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub result: u32,
}

/// How rotary pairs lie in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RopeStyle {
    /// Pair i is elements 2 i and 2 i + 1.
    Adjacent,
    /// Pair i is elements i and i + dim / 2 (NEOX).
    Halves,
}

/// What the runtime feeds at every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Input {
    /// Token ids, i32\[T\]; T is the entry point's capacity, a step may use fewer.
    Tokens,
    /// Position of the first token, i32\[1\].
    Position,
}

/// What a weight is in the GGUF.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Weight {
    /// The tensor.
    pub tensor: String,
    /// Its rows, of a tensor of one dimension its elements; `None`: all.
    pub rows: Option<Range<u32>>,
}

impl From<&str> for Weight {
    fn from(tensor: &str) -> Self {
        Weight { tensor: tensor.into(), rows: None }
    }
}

impl std::fmt::Display for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.rows {
            None => f.write_str(&self.tensor),
            Some(rows) => write!(f, "{}[{}..{}]", self.tensor, rows.start, rows.end),
        }
    }
}

/// Rotary angles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Angles {
    /// T.
    pub tokens: usize,
    /// Rotated elements of a head, even.
    pub dim: usize,
    /// Base.
    pub theta: F32,
    /// Divide the frequencies, \[dim / 2\]; none: by 1.
    pub divisors: Vec<F32>,
    /// Multiplies cosines and sines.
    pub magnitude: F32,
}

/// Which query and key head a value head of [`Op::DeltaRule`] uses: K of them serve V value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HeadMap {
    /// Value head j uses head j mod K.
    Tiled,
    /// Value head j uses head j / (V / K), rounded down.
    Grouped,
}

/// An f32 attribute, compared and hashed by its bits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct F32(pub f32);

impl PartialEq for F32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for F32 {}

impl std::hash::Hash for F32 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// Largest k of [`Op::TopK`] and [`Op::Route`].
pub const MOST_TOP: usize = 256;

/// How a router's logits become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// 1 / (1 + exp(-x)) of each.
    Sigmoid,
    /// Softmax over the logits of the experts that are chosen.
    SoftmaxOfChosen,
}

/// The experts that [`Op::Route`] may choose from, by groups of as many that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// How many of them experts are chosen from: those of the largest sum of their two best scores, of one score where they
    /// have one expert; equal ones by their number.
    pub used: usize,
}

/// The least sum of weights that [`Op::Route`] divides by.
pub const LEAST_WEIGHTS: f32 = 1.0 / 16_384.0;

/// The primitives. T tokens, d model width, H heads of h elements; results are f32 unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// A step's input.
    Input(Input),
    /// A tensor of the GGUF file, or some of its rows.
    Weight(Weight),
    /// What a step before left, of one of the [`StateKind`](crate::state::StateKind)s, by name.
    State(String),
    /// Operand `0` of the fusion whose body this graph is.
    Param(u32),
    /// (table\[vocab, d\], tokens\[T\]) -> \[T, d\]: one row for each token.
    Embed,
    /// (x\[.., n\], w\[n\]?) -> x: x / sqrt(mean(x^2) + eps) * w over the last dimension; without w, w is 1.
    RmsNorm {
        /// Added to the mean square.
        eps: F32,
    },
    /// (x\[.., n\], w\[n\], b\[n\]?) -> x: (x - mean(x)) / sqrt(var(x) + eps) * w + b over the last dimension, var(x) the mean
    /// square of x - mean(x).
    LayerNorm {
        /// Added to the variance.
        eps: F32,
    },
    /// (w\[R, C\], x\[T, C\]) -> \[T, R\]: x times w transposed; x is f32 or q8.
    MatMul,
    /// (w\[H, R, C\], x\[T, H, C\]) -> \[T, H R\]: of each head its row times its own matrix transposed; x is f32 or q8.
    HeadMatMul,
    /// f32\[.., C\] -> q8\[.., C\]: for each block of 32, scale = max |x| / 127 and code = round-half-to-even(x * (1 / scale)),
    /// all in f32. Codes are 0 where the scale is zero or subnormal; a NaN or infinity in a block is one in its scale.
    Quantize,
    /// (a, b) -> a + b: of one shape, or b\[n\] for each row of a, or b\[T, 1\] for each token of a, or b\[T, k, 1\] for each row
    /// of a\[T, k, n\], or b\[1\] for all.
    Add,
    /// (a, b) -> a * b, with shapes as those of [`Op::Add`].
    Mul,
    /// x -> the function of each element.
    Map(Function),
    /// x -> the same elements in another shape.
    Reshape(Vec<usize>),
    /// x\[T, .., n\] -> \[T, .., n / every * count\]: of each row's parts of `every` columns, `count` columns from `first` on.
    Slice {
        /// The first column of a part.
        first: usize,
        /// How many of a part.
        count: usize,
        /// Columns of a part.
        every: usize,
    },
    /// (a\[T, H, m\], b\[T, H, n\] or b\[T, 1, n\]) -> \[T, H, m + n\]: each head of a, then that of b, or the one that all share.
    Concat,
    /// (position, factors\[dim / 2\]?) -> \[T, dim\]: element 2 i is the cosine, 2 i + 1 the sine of
    /// (position + t) * theta^(-2 i / dim) / factors\[i\] / divisors\[i\], both times the magnitude.
    RopeAngles(Box<Angles>),
    /// position -> \[T, 1\]: 1 + slope * ln(floor((position + t) / length) + 1).
    PositionScale {
        /// T.
        tokens: usize,
        /// Positions up to the first step.
        length: usize,
        /// Multiplies the logarithm.
        slope: F32,
    },
    /// (x\[T, H, h\], angles\[T, dim\]) -> x with the first dim elements of each head rotated.
    Rope {
        /// Where the pairs are.
        style: RopeStyle,
    },
    /// (state\[H, context, h\], x\[T, H, h\], position) -> state with rows position.. of every head, in a ring those of the
    /// positions modulo its length, replaced by x, rounded to the state's format (8-bit:
    /// [`crate::abi::kv_q8_row_bytes`], scale and codes as [`Op::Quantize`] makes them, the scale then rounded to f16).
    KvAppend,
    /// (q\[T, H, h\], k\[G, context, h\], v\[G, context, e\], position, sinks\[H\]?) -> \[T, H e\]: the sum of exp(s_j) v_j over
    /// that of exp(s_j), to which exp(sink of the head) is added where there are sinks; H / G query heads share a KV head.
    /// s_j = q . k_j * scale, with a cap cap * tanh(s_j / cap); j are the positions up to i = position + t, with a window
    /// those of them for which i - j < window. Only with a window may k and v be rings, which hold what all tokens of the step
    /// see.
    Attention {
        /// Multiplies the scores.
        scale: F32,
        /// How many positions a token sees, itself included, at least 1; `None`: all up to itself.
        window: Option<usize>,
        /// Bound of the scores.
        cap: Option<F32>,
    },
    /// (state\[c - 1, n\], x\[T, n\], w\[n, c\]) -> (y\[T, n\], state): a causal convolution over time, each column by
    /// itself: y\[t, i\] = sum over j < c of w\[i, j\] * x\[t - (c - 1) + j, i\], where the rows before x are those of the
    /// state, oldest first. The new state is the last c - 1 of all these rows.
    ShortConv,
    /// (state\[V, S, s\], q\[T, K, S\], k\[T, K, S\], v\[T, V, s\], g\[T, V\], beta\[T, V\]) -> (o\[T, V, s\], state): the
    /// gated delta rule. For each value head, whose part of the state is the matrix M, token by token: M *= exp(g);
    /// u = beta * (v - M^T k); M += k u^T; o = M^T q. The elements of M are f32 after every token.
    DeltaRule {
        /// Which q and k belong to a value head.
        heads: HeadMap,
    },
    /// \[T, d\] -> \[1, d\]: the row of the step's last token.
    LastToken,
    /// x\[T, V\] -> \[T, 2 k + 1\]: the k largest elements of a row, largest first, equal ones by their index; then their
    /// indices; then the logarithm of the sum of the exponentials of the whole row. NaN and infinity count as the largest
    /// float, so that it comes first where the row has one.
    TopK {
        /// 1 to [`MOST_TOP`] and V.
        k: usize,
    },
    /// (logits\[T, E\], bias\[E\]?) -> \[T, 2 k\]: of each token the weights of the k experts that it uses, best first, then their
    /// numbers. The weight p of an expert is what `gating` makes of the logits, divided by max(sum of the k, 2^-14) if so said,
    /// times `scale`. Experts are ranked by their scores, equal ones by number. The score is the logit; with a bias, or with
    /// groups, p, rounded to f32, plus the bias, for [`Gating::SoftmaxOfChosen`] the logit plus the bias. In scores NaN and
    /// infinity count as the largest float, -infinity as the smallest.
    Route {
        /// 1 to [`MOST_TOP`] and E.
        k: usize,
        /// How logits become weights.
        gating: Gating,
        /// Whether the weights are divided by their sum.
        normalise: bool,
        /// Multiplies the weights.
        scale: F32,
        /// Which experts are chosen from; all if there are none.
        groups: Option<Groups>,
    },
    /// (w\[E, R, C\], x\[T, C\] or x\[T, k, C\], routing\[T, 2 k\]) -> \[T, k, R\]: for each expert that a token uses its matrix
    /// times the token's row, or the row of that token and expert; x is f32 or q8.
    ExpertMatMul,
    /// (table\[E, n\] or table\[E\], routing\[T, 2 k\]) -> \[T, k, n\], n = 1 for a table of one dimension: the rows of the experts
    /// that the tokens use. The table is f32.
    ExpertRows,
    /// (y\[T, k, R\], routing\[T, 2 k\]) -> \[T, R\]: the sum of weight times row over the experts of a token.
    ExpertSum,
    /// A weight in the order of its file -> the same in another layout, of rows that are interleaved.
    Repack {
        /// The layout.
        layout: Layout,
    },
    /// Computes what its body computes; results are the body's outputs in order.
    Fusion(Box<Fusion>),
}

/// The ops that one kernel computes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fusion {
    /// Name of the fused op, a row of `kernels-gen`'s registry.
    pub kind: String,
    /// What it means: a graph over [`Op::Param`]s.
    pub body: Graph,
}

/// An op applied to operands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<Ref>,
    /// Types of its results: one, but for fusions and ops that [update](Op::update) a state beside.
    pub results: Vec<TensorType>,
}

/// Nodes in topological order, and named outputs.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: Vec<(String, Ref)>,
    /// Nodes by the hash of their op, operands and types.
    index: HashMap<u64, Vec<NodeId>>,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes && self.outputs == other.outputs
    }
}

impl Eq for Graph {}

impl Hash for Graph {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.nodes.hash(state);
        self.outputs.hash(state);
    }
}

impl NodeId {
    /// Result `result` of this node.
    pub fn at(self, result: u32) -> Ref {
        Ref { node: self, result }
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl std::fmt::Display for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.result {
            0 => self.node.fmt(f),
            r => write!(f, "{}.{r}", self.node),
        }
    }
}

impl From<NodeId> for Ref {
    fn from(node: NodeId) -> Self {
        node.at(0)
    }
}

impl Op {
    /// Whether it takes no operands and is typed by whoever adds it.
    pub fn is_leaf(&self) -> bool {
        matches!(self, Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Param(_))
    }

    /// The state that it updates in place, if it does: the operand that is the old value and the result that is the new one.
    pub fn update(&self) -> Option<(usize, u32)> {
        match self {
            Op::KvAppend => Some((0, 0)),
            Op::ShortConv | Op::DeltaRule { .. } => Some((0, 1)),
            _ => None,
        }
    }
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes, operands before users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes with their ids.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }

    /// A node of this graph.
    ///
    /// # Panics
    /// If `id` is not of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The type of a value of this graph.
    ///
    /// # Panics
    /// If `value` is not of this graph.
    pub fn ty(&self, value: Ref) -> &TensorType {
        &self.node(value.node).results[value.result as usize]
    }

    /// The named results.
    pub fn outputs(&self) -> &[(String, Ref)] {
        &self.outputs
    }

    /// The output of this name.
    pub fn find_output(&self, name: &str) -> Option<Ref> {
        self.outputs.iter().find(|(n, _)| n == name).map(|&(_, r)| r)
    }

    /// Types of [`Op::Param`] 0, 1, …: the operands of the fusion whose body this is.
    ///
    /// # Errors
    /// If the numbers have gaps or occur with two types.
    pub fn params(&self) -> Result<Vec<&TensorType>> {
        let mut params: Vec<(u32, &TensorType)> = self
            .nodes
            .iter()
            .filter_map(|n| if let Op::Param(i) = n.op { Some((i, &n.results[0])) } else { None })
            .collect();
        params.sort_by_key(|&(i, _)| i);
        for (at, &(i, _)) in params.iter().enumerate() {
            if i as usize != at {
                return Err(Error::verify("graph", format!("a body uses param {i} where param {at} is expected")));
            }
        }
        Ok(params.into_iter().map(|(_, ty)| ty).collect())
    }

    /// Adds an input, weight, state or param of type `ty`, or finds it.
    ///
    /// # Errors
    /// If `op` takes operands or cannot be of this type.
    pub fn leaf(&mut self, op: Op, ty: TensorType) -> Result<Ref> {
        infer::check_leaf(&op, &ty).map_err(|what| self.refusal(&op, &[], &what))?;
        Ok(self.intern(Node { op, inputs: Vec::new(), results: vec![ty] }).at(0))
    }

    /// Adds an op applied to operands, or finds the node that computes the same.
    ///
    /// # Errors
    /// If an operand is not in the graph or the op's rule ([`infer()`]) refuses the operands; names the node and figures.
    pub fn push(&mut self, op: Op, inputs: &[Ref]) -> Result<NodeId> {
        let mut types = Vec::with_capacity(inputs.len());
        for r in inputs {
            match self.nodes.get(r.node.0 as usize).and_then(|n| n.results.get(r.result as usize)) {
                Some(ty) => types.push(ty),
                None => return Err(self.refusal(&op, inputs, &format!("operand {r} does not exist"))),
            }
        }
        let results = infer(&op, &types).map_err(|what| self.refusal(&op, inputs, &what))?;
        Ok(self.intern(Node { op, inputs: inputs.to_vec(), results }))
    }

    /// [`Graph::push`] for ops with one result.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn add(&mut self, op: Op, inputs: &[Ref]) -> Result<Ref> {
        Ok(self.push(op, inputs)?.at(0))
    }

    /// Names a result. Order is kept.
    ///
    /// # Errors
    /// If the value does not exist or the name is taken.
    pub fn output(&mut self, name: impl Into<String>, value: Ref) -> Result<()> {
        let name = name.into();
        if self.nodes.get(value.node.0 as usize).is_none_or(|n| value.result as usize >= n.results.len()) {
            return Err(Error::verify("graph", format!("output '{name}' names {value}, which does not exist")));
        }
        if self.find_output(&name).is_some() {
            return Err(Error::verify("graph", format!("two outputs are named '{name}'")));
        }
        self.outputs.push((name, value));
        Ok(())
    }

    /// The nodes that `roots` depend on, and the roots, operands before users: depth first, operands from left to right.
    /// `enter` says whether to go on to a node's operands.
    pub fn cone(&self, roots: impl IntoIterator<Item = Ref>, enter: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let mut order = Vec::new();
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        for root in roots {
            if !std::mem::replace(&mut seen[root.node.0 as usize], true) {
                stack.push((root.node, 0));
            }
            while let Some((id, next)) = stack.pop() {
                let inputs = if enter(id) { self.node(id).inputs.as_slice() } else { &[] };
                match inputs.get(next) {
                    None => order.push(id),
                    Some(input) => {
                        stack.push((id, next + 1));
                        if !std::mem::replace(&mut seen[input.node.0 as usize], true) {
                            stack.push((input.node, 0));
                        }
                    }
                }
            }
        }
        order
    }

    fn intern(&mut self, node: Node) -> NodeId {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let slot = self.index.entry(hasher.finish()).or_default();
        if let Some(&id) = slot.iter().find(|id| self.nodes[id.0 as usize] == node) {
            return id;
        }
        let id = NodeId(self.nodes.len() as u32);
        slot.push(id);
        self.nodes.push(node);
        id
    }

    fn refusal(&self, op: &Op, inputs: &[Ref], what: &str) -> Error {
        let operands: Vec<String> = inputs.iter().map(Ref::to_string).collect();
        let id = NodeId(self.nodes.len() as u32);
        Error::verify("graph", format!("{id} = {} {}: {what}", text::mnemonic(op), operands.join(", ")))
    }
}
