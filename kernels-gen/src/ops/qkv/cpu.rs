//! The CPU form: a worker takes a head at a time (two where a head is no multiple of the tile), so that a head's rows are all
//! at hand.

use super::Branch;
use crate::body::Linear;
use crate::cpu::heads::{Worker, append};
use crate::cpu::matmul::{self, TileOut};
use crate::elements::{self, Elements, Head, Place};
use crate::generator::Generator;
use ir::Result;
use ir::abi::TILE_ROWS;
use ir::kernel::{Buf, Compare, Mem, Value};

pub(super) fn generate(g: &mut Generator<'_>, branches: &[Branch]) -> Result<()> {
    let products: Vec<Linear> = branches.iter().map(|b| b.product).collect();
    let rows = matmul::prepare(g, &products)?;
    let heads_of_unit =
        |b: &Branch| (1..=TILE_ROWS).find(|n| (n * b.head).is_multiple_of(TILE_ROWS)).unwrap_or(TILE_ROWS);
    let unit_rows = |b: &Branch| b.head * heads_of_unit(b);
    let widest = branches.iter().map(unit_rows).max().unwrap_or(TILE_ROWS);
    let out = g.b.scratch("heads", Mem::F32, (g.spec.tokens * widest * 4) as u64);
    for branch in branches {
        let stride = unit_rows(branch);
        let units = (branch.heads * branch.head).div_ceil(stride);
        let count = g.b.size(units);
        g.parallel(count, |g, unit| {
            let tiles = stride / TILE_ROWS;
            let (first, end) = matmul::span(&mut g.b, unit, tiles, branch.product.matrix.tiles());
            let zero = g.b.int(0);
            let to = TileOut { buf: out, index: zero, step: TILE_ROWS, stride };
            matmul::tiles(g, &branch.product.matrix, (first, end), &rows, to)?;
            g.for_(zero, rows.count, 1, |g, t| {
                for k in 0..heads_of_unit(branch) {
                    let h = g.b.imul_const(unit, heads_of_unit(branch));
                    let h = g.b.iadd_const(h, k);
                    let at = g.b.imul_const(t, stride);
                    let at = g.b.iadd_const(at, k * branch.head);
                    let heads = g.b.size(branch.heads);
                    let there = g.b.compare(Compare::ULt, h, heads);
                    g.if_(there, |g| finish(g, branch, (out, at), t, h))?;
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Finishes head `h` of token `t`, whose products are in `scratch`.
fn finish(g: &mut Generator<'_>, branch: &Branch, scratch: (Buf, Value), t: Value, h: Value) -> Result<()> {
    let head = Head { size: branch.head, number: h, scratch };
    let mut elements = Elements::new(g, t);
    elements.put(branch.node, Place::Local(scratch.0, scratch.1));
    elements::finish(g, &Worker, &mut elements, branch.stored, head, |g, cache| append(g, cache, t, head))
}
