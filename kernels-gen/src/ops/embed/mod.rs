//! `embed`: one row of the embedding table for each token, decoded from any layout.

mod cpu;
mod gpu;

use super::{FusedOp, only_output, reading};
use crate::block::{Block, RowAt, float_element};
use crate::body::{self, Matrix};
use ir::graph::{Graph, Op};
use ir::kernel::{Buf, Builder, Mem, Value};
use ir::quant::DotForm;
use ir::{Error, Result};

pub(super) const OP: FusedOp = FusedOp {
    name: "embed",
    covers: |body| read(body).is_some(),
    cpu: Some(|g| {
        let lookup = reading(g, read)?;
        cpu::generate(g, &lookup)
    }),
    gpu: Some(|g| {
        let lookup = reading(g, read)?;
        gpu::generate(g, &lookup)
    }),
};

/// A table, and the body parameter with the token ids.
struct Lookup {
    table: Matrix,
    ids: u32,
}

fn read(body: &Graph) -> Option<Lookup> {
    let node = only_output(body, |op| *op == Op::Embed)?;
    let table = Matrix::of(body::param(body, node.inputs[0])?, body.ty(node.inputs[0]))?;
    Some(Lookup { table, ids: body::param(body, node.inputs[1])? })
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
            let mut source = Block::new(b, table, m, row, i);
            let mut view = source.view(b);
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
