//! The GPU form: a row is one CTA's, as it is short.

use super::{Lookup, decode};
use crate::block::row_at;
use crate::generator::Generator;
use crate::gpu;
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::kernel::Mem;

pub(super) fn generate(g: &mut Generator<'_>, lookup: &Lookup) -> Result<()> {
    let m = lookup.table;
    let (table, ids, y) = (g.param(m.param), g.param(lookup.ids), g.result(0)?);
    gpu::for_rows(g, (g.spec.tokens, 1), |g, at, token| {
        let id = g.b.load(ids, token, Mem::I32);
        let row = row_at(&mut g.b, &m, id);
        let to = g.b.imul_const(token, f32_row_bytes(m.columns) / 4);
        let mut result = Ok(());
        gpu::for_threads(&mut g.b, &at, m.columns / m.format.block as usize, |b, i| {
            result = decode(b, table, &m, row, i, (y, to));
        });
        result
    })?;
    Ok(())
}
