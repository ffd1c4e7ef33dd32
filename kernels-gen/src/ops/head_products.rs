//! `head_products`: of each head its row times a matrix of its own. On CPUs only.
//!
//! A worker takes a head: it prepares the head's rows of all tokens, which no other head wants, and reads the head's matrix
//! front to back. So no rows are shared and there is no barrier.

use super::{FusedOp, only_output, reading};
use crate::body::{self, Linear};
use crate::cpu::matmul::{self, TileOut};
use crate::elements::{load, row_stride};
use crate::generator::Generator;
use ir::Result;
use ir::abi::TILE_ROWS;
use ir::graph::{Graph, Op};
use ir::kernel::Mem;

pub(super) const OP: FusedOp = FusedOp {
    name: "head_products",
    covers: |body| read(body).is_some(),
    cpu: Some(|g| {
        let product = reading(g, read)?;
        generate(g, product)
    }),
    gpu: None,
};

fn read(body: &Graph) -> Option<Linear> {
    only_output(body, |op| *op == Op::HeadMatMul)?;
    body::linear(body, body.outputs()[0].1).filter(|linear| linear.source.norm.is_none())
}

fn generate(g: &mut Generator<'_>, product: Linear) -> Result<()> {
    let Linear { matrix, source } = product;
    let (x, y, n) = (g.param(source.x), g.result(0)?, matrix.rows);
    let x_type = g.param_type(source.x);
    let (x_stride, y_stride) = (row_stride(x_type), row_stride(g.body().ty(g.body().outputs()[0].1)));
    let padded = n.next_multiple_of(TILE_ROWS);
    let out = g.b.scratch("products", Mem::F32, (g.spec.tokens * padded * 4) as u64);
    let heads = g.b.size(x_type.shape[1]);
    g.parallel(heads, |g, head| {
        let (first, zero) = (g.b.imul_const(head, source.columns), g.b.int(0));
        let rows = matmul::prepare_own(g, matrix, (x, first, x_stride))?;
        let (of_head, tiles) = (matrix.number(&mut g.b, head), g.b.size(matrix.tiles()));
        let to = TileOut { buf: out, index: zero, step: TILE_ROWS, stride: padded };
        matmul::tiles(g, &of_head, (zero, tiles), &rows, to)?;
        // A last tile that is not full would reach into the next head.
        let b = &mut g.b;
        let (first, vector) = (b.imul_const(head, n), n.is_multiple_of(4));
        b.for_(zero, rows.count, 1, |b, t| {
            let (from, to) = (b.imul_const(t, padded), b.imul_const(t, y_stride));
            let to = b.iadd(to, first);
            b.for_n(n, if vector { 4 } else { 1 }, |b, r| {
                let (from, to) = (b.iadd(from, r), b.iadd(to, r));
                let v = load(b, out, from, vector);
                b.store(y, to, Mem::F32, v);
            });
        });
        Ok(())
    })
}
