//! The GPU form: the whole row is one CTA's, as it is short.

use super::{Lookup, decode};
use crate::block::row_at;
use crate::generator::Generator;
use crate::gpu;
use ir::Result;
use ir::kernel::Mem;

pub(super) fn generate(g: &mut Generator<'_>, lookup: &Lookup) -> Result<()> {
    let m = lookup.table;
    let (table, ids, y) = (g.param(m.param), g.param(lookup.ids), g.result(0)?);
    let at = gpu::begin(g, 1)?;
    g.b.await_previous();
    let zero = g.b.int(0);
    let id = g.b.load(ids, zero, Mem::I32);
    let row = row_at(&mut g.b, &m, id);
    let mut result = Ok(());
    gpu::for_threads(&mut g.b, &at, m.columns / m.format.block as usize, |b, i| {
        result = decode(b, table, &m, row, i, (y, zero));
    });
    result
}
