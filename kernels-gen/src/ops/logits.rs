//! `logits`: final norm and the output product, for every token or the last.

use crate::body;
use crate::cpu::matmul::{self, TileOut};
use crate::generator::Generator;
use crate::gpu::product;
use ir::Result;
use ir::graph::{Graph, Op};
use ir::kernel::Mem;

pub(super) fn covers(body: &Graph) -> bool {
    super::ends_in(body, |op| *op == Op::MatMul)
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let Some(product) = body::linear(body, body.outputs()[0].1) else {
        return Err(g.unsupported("an output that is no product of a norm"));
    };
    let matrix = product.matrix;
    let y = g.result(0)?;
    if g.target.gpu().is_some() {
        return product::single(g, product, |b, row, sum| b.store(y, row, Mem::F32, sum));
    }
    let rows = matmul::prepare(g, &[product])?;
    matmul::for_units(g, matrix.tiles(), |g, first, end| {
        let out = TileOut::in_rows(g, y, first, matrix.rows);
        matmul::tiles(g, &matrix, (first, end), &rows, out)
    })
}
