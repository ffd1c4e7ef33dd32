//! Reads a fusion's body: which matrix products it has, where their input rows come from, what follows them.

use ir::abi::TILE_ROWS;
use ir::graph::{Function, Graph, Node, NodeId, Op, Ref};
use ir::kernel::{Builder, Value};
use ir::quant::Format;
use ir::tensor::{Elem, Layout, Pieces, TensorType};

/// A weight matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    /// Its body parameter.
    pub param: u32,
    pub format: Format,
    pub layout: Layout,
    pub rows: usize,
    pub columns: usize,
    /// The byte of the parameter at which it begins; `None`: the first.
    pub base: Option<Value>,
}

impl Matrix {
    /// A matrix, or the first of several.
    pub fn of(param: u32, ty: &TensorType) -> Option<Matrix> {
        let (Elem::Ggml(format), &([rows, columns] | [_, rows, columns])) = (ty.elem, ty.shape.as_slice()) else {
            return None;
        };
        Some(Matrix { param, format, layout: ty.layout, rows, columns, base: None })
    }

    /// Bytes of it, padding included.
    pub fn bytes(&self) -> usize {
        self.rows.next_multiple_of(self.layout.band_rows(self.format, self.columns)) * self.row_bytes()
    }

    /// Matrix `number` of the parameter, this one being the first.
    pub fn number(self, b: &mut Builder, number: Value) -> Matrix {
        Matrix { base: Some(b.imul_const(number, self.bytes())), ..self }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.format.bytes_of(self.columns as u64) as usize
    }

    /// How its tiles are cut.
    pub fn pieces(&self) -> Pieces {
        self.layout.pieces(self.format, self.columns)
    }

    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Whether its products take int8 activations.
    pub fn wants_int8(&self) -> bool {
        self.format.dot.wants_int8()
    }
}

/// Where the input rows of matrix products come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Source {
    /// Body parameter with the rows.
    pub x: u32,
    pub columns: usize,
    /// Only the step's last token.
    pub last_token: bool,
    /// There is one row, however many tokens.
    pub one_row: bool,
    /// RMS norm: weight parameter and epsilon.
    pub norm: Option<(u32, f32)>,
    /// Whether the rows are int8 codes already, as another kernel has left them.
    pub is_quantised: bool,
}

/// A matrix product and its source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub matrix: Matrix,
    pub source: Source,
}

/// The node that computes a value.
pub(crate) fn node(body: &Graph, value: Ref) -> &Node {
    body.node(value.node)
}

/// The body parameter that a value is.
pub(crate) fn param(body: &Graph, value: Ref) -> Option<u32> {
    match node(body, value).op {
        Op::Param(n) => Some(n),
        _ => None,
    }
}

/// Reads `value` as a matrix product over a parameter's rows, or as one of heads or of experts; `None` if it is something else.
pub(crate) fn linear(body: &Graph, value: Ref) -> Option<Linear> {
    let product = node(body, value);
    if !matches!(product.op, Op::MatMul | Op::HeadMatMul | Op::ExpertMatMul) {
        return None;
    }
    let weight = product.inputs[0];
    let matrix = Matrix::of(param(body, weight)?, body.ty(weight))?;
    let x = product.inputs[1];
    if (body.ty(x).elem == Elem::Q8) != matrix.wants_int8() {
        return None;
    }
    Some(Linear { matrix, source: source(body, x)? })
}

/// Reads `value` as rows that products prepare or, if they are quantised, that a kernel prepares for them.
pub(crate) fn source(body: &Graph, value: Ref) -> Option<Source> {
    let (mut x, columns) = (value, body.ty(value).columns());
    if node(body, x).op == Op::Quantize {
        x = node(body, x).inputs[0];
    }
    let mut norm = None;
    if let Op::RmsNorm { eps } = node(body, x).op {
        norm = Some((param(body, *node(body, x).inputs.get(1)?)?, eps.0));
        x = node(body, x).inputs[0];
    }
    let last_token = node(body, x).op == Op::LastToken;
    if last_token {
        x = node(body, x).inputs[0];
    }
    let one_row = last_token || body.ty(x).rows() == 1;
    let is_quantised = body.ty(x).elem == Elem::Q8;
    Some(Source { x: param(body, x)?, columns, last_token, one_row, norm, is_quantised })
}

/// The products alone.
pub(crate) fn linears(products: &[(NodeId, Linear)]) -> Vec<Linear> {
    products.iter().map(|(_, linear)| *linear).collect()
}

/// Whether `output` is silu(first product) * second product, of two.
pub(crate) fn is_silu_gate(body: &Graph, products: &[(NodeId, Linear)], output: Ref) -> bool {
    let [first, second] = products else { return false };
    let result = node(body, output);
    let gate = result.inputs.first().map(|&gate| node(body, gate));
    result.op == Op::Mul
        && gate.is_some_and(|gate| gate.op == Op::Map(Function::Silu) && gate.inputs[0].node == first.0)
        && result.inputs[1].node == second.0
}
