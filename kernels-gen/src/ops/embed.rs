//! `embed`: one row of the embedding table for each token, decoded from either layout.

use crate::block::{BlockView, RowAt, float_element, row_at};
use crate::body::{self, Matrix};
use crate::generator::Generator;
use crate::gpu;
use ir::abi::f32_row_bytes;
use ir::graph::{Graph, Op};
use ir::kernel::{Buf, Builder, Mem, Value};
use ir::quant::DotForm;
use ir::{Error, Result};

pub(super) fn covers(body: &Graph) -> bool {
    super::ends_in(body, |op| *op == Op::Embed)
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let node = body.node(body.outputs()[0].1.node);
    let matrix = (node.op == Op::Embed)
        .then(|| Matrix::of(body::param(body, node.inputs[0])?, body.ty(node.inputs[0])))
        .flatten();
    let ids = node.inputs.get(1).and_then(|&i| body::param(body, i));
    let (Some(m), Some(ids)) = (matrix, ids) else {
        return Err(g.unsupported("anything but an embedding of its operands"));
    };
    let (table, ids, y) = (g.param(m.param), g.param(ids), g.result(0)?);
    if g.target.gpu().is_some() {
        // The whole row is one CTA's: it is short.
        let at = gpu::begin(g, 1)?;
        g.b.await_previous();
        let zero = g.b.int(0);
        let id = g.b.load(ids, zero, Mem::I32);
        let row = row_at(&mut g.b, &m, id);
        let block = m.format.block as usize;
        let mut result = Ok(());
        gpu::for_threads(&mut g.b, &at, m.columns / block, |b, i| {
            result = decode(b, table, &m, row, i, (y, zero));
        });
        return result;
    }
    let tokens = g.b.tokens();
    g.parallel(tokens, |g, t| {
        let b = &mut g.b;
        let id = b.load(ids, t, Mem::I32);
        let row = row_at(b, &m, id);
        let to = b.imul_const(t, f32_row_bytes(m.columns) / 4);
        let zero = b.int(0);
        let end = b.size(m.columns / m.format.block as usize);
        g.for_(zero, end, 1, |g, i| decode(&mut g.b, table, &m, row, i, (y, to)))
    })
}

/// Decodes block `i` of the row at `row` to the elements of `y` from `to` on.
fn decode(b: &mut Builder, table: Buf, m: &Matrix, row: RowAt, i: Value, (y, to): (Buf, Value)) -> Result<()> {
    let block = m.format.block as usize;
    let at = b.imul_const(i, block);
    let at = b.iadd(to, at);
    match (m.format.dot, m.format.unpack) {
        (DotForm::Float(kind), _) => {
            let v = float_element(b, table, m, kind, row, i);
            b.store(y, at, Mem::F32, v);
        }
        (_, Some(unpack)) => {
            let mut view = BlockView::new(b, table, m, row, i);
            for e in (0..block).step_by(16) {
                let part = unpack(&mut view, e as u32);
                let (scale, plus) = (view.scale(part.scale), part.plus.map(|plus| view.scale(plus)));
                let codes = view.vector(part.codes);
                let b = view.builder();
                let at = b.iadd_const(at, e);
                store_values(b, codes, m.format.dot.offset(), (scale, plus), (y, at));
            }
        }
        (form, None) => return Err(Error::unsupported(format!("{form:?}"), "write the format's unpack")),
    }
    Ok(())
}

/// Stores the sixteen values of an unpacked part: byte j of word i is element 4 i + j.
fn store_values(
    b: &mut Builder,
    codes: Value,
    offset: u8,
    (scale, plus): (Value, Option<Value>),
    (y, at): (Buf, Value),
) {
    let scale = b.splat(scale);
    for j in 0..4 {
        let (left, right) = (b.int(24 - 8 * j), b.int(24));
        let v = b.shl(codes, left);
        let v = b.shr_s(v, right);
        let v = match offset {
            0 => v,
            offset => {
                let offset = b.int(offset.into());
                let offset = b.splat(offset);
                b.isub(v, offset)
            }
        };
        let v = b.to_float(v);
        let mut v = b.fmul(v, scale);
        if let Some(plus) = plus {
            let plus = b.splat(plus);
            v = b.fadd(v, plus);
        }
        for i in 0..4u8 {
            let lane = b.lane(v, i);
            let at = b.iadd_const(at, 4 * usize::from(i) + j as usize);
            b.store(y, at, Mem::F32, lane);
        }
    }
}
