//! The CPU form: a worker takes a token.

use super::{Lookup, decode};
use crate::block::row_at;
use crate::generator::Generator;
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::kernel::Mem;

pub(super) fn generate(g: &mut Generator<'_>, lookup: &Lookup) -> Result<()> {
    let m = lookup.table;
    let (table, ids, y) = (g.param(m.param), g.param(lookup.ids), g.result(0)?);
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
