//! `project`: a matrix product, its bias if there is one, plus the residual: attention output, FFN down.

use crate::body::{self, Linear};
use crate::cpu::matmul::{self, TileOut};
use crate::generator::Generator;
use crate::gpu::product;
use ir::Result;
use ir::abi::{TILE_ROWS, f32_row_bytes};
use ir::graph::{Graph, Op, Ref};
use ir::kernel::Mem;

/// A product, and the parameter that is added to each of its rows.
fn biased(body: &Graph, value: Ref) -> Option<(Linear, Option<u32>)> {
    let node = body::node(body, value);
    match node.op {
        Op::Add => Some((body::linear(body, node.inputs[0])?, Some(body::vector(body, node.inputs[1])?))),
        _ => Some((body::linear(body, value)?, None)),
    }
}

pub(super) fn covers(body: &Graph) -> bool {
    super::ends_in(body, |op| *op == Op::Add) && body.is_residual(body.outputs()[0].1.node)
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let sum = body.node(body.outputs()[0].1.node);
    let found = (sum.op == Op::Add)
        .then(|| {
            [(0, 1), (1, 0)].into_iter().find_map(|(product, residual)| {
                let (product, bias) = biased(body, sum.inputs[product])?;
                let rows = body.ty(sum.inputs[residual]) == &sum.results[0];
                Some((product, bias, body::param(body, sum.inputs[residual]).filter(|_| rows)?))
            })
        })
        .flatten();
    let Some((product, bias, residual)) = found else {
        return Err(g.unsupported("a sum that is not product + residual"));
    };
    let bias = bias.map(|p| g.param(p));
    let matrix = product.matrix;
    let (x, y) = (g.param(residual), g.result(0)?);
    if g.target.gpu().is_some() {
        return product::single(g, product, |b, row, sum| {
            let old = b.load(x, row, Mem::F32);
            let mut sum = b.fadd(old, sum);
            if let Some(bias) = bias {
                let bias = b.load(bias, row, Mem::F32);
                sum = b.fadd(sum, bias);
            }
            b.store(y, row, Mem::F32, sum);
        });
    }
    let rows = matmul::prepare(g, &[product])?;
    let out = TileOut::of_unit(g)?;
    matmul::for_units(g, matrix.tiles(), |g, unit, end| {
        matmul::tiles(g, &matrix, (unit, end), &rows, out)?;
        g.for_(unit, end, 1, |g, tile| {
        let out = out.of(g, tile, unit);
        let b = &mut g.b;
        let zero = b.int(0);
        let first = b.imul_const(tile, TILE_ROWS);
        let (limit, sixteen) = (b.size(matrix.rows), b.size(TILE_ROWS));
        let left = b.isub(limit, first);
        let valid = b.umin(left, sixteen);
        b.for_(zero, rows.count, 1, |b, t| {
            let row = b.imul_const(t, f32_row_bytes(matrix.rows) / 4);
            let row = b.iadd(row, first);
            let from = b.imul_const(t, out.stride);
            let from = b.iadd(out.index, from);
            b.for_(zero, valid, 4, |b, r| {
                let (at, from) = (b.iadd(row, r), b.iadd(from, r));
                let old = b.load4(x, at, Mem::F32);
                let product = b.load4(out.buf, from, Mem::F32);
                let mut sum = b.fadd(old, product);
                if let Some(bias) = bias {
                    let from = b.iadd(first, r);
                    let bias = b.load4(bias, from, Mem::F32);
                    sum = b.fadd(sum, bias);
                }
                b.store(y, at, Mem::F32, sum);
            });
        });
        Ok(())
        })
    })
}
