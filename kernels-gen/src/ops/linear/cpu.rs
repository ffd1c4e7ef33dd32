//! The CPU form: one matrix after the other, so that a worker reads each front to back; the tail follows the last, tile by
//! tile.

use super::Tail;
use crate::body;
use crate::cpu::matmul::{self, TileOut};
use crate::elements::{At, Elements, Place};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{Meaning, TILE_ROWS, f32_row_bytes};
use ir::graph::NodeId;
use ir::kernel::{Arg, Buf, Mem, Value};

pub(super) fn generate(g: &mut Generator<'_>, tail: &Tail) -> Result<()> {
    let (n, y) = (tail.rows(), g.result(0)?);
    let rows = matmul::prepare(g, &body::linears(&tail.products))?;
    if tail.is_bare() {
        let matrix = tail.products[0].1.matrix;
        return matmul::for_units(g, matrix.tiles(), |g, first, end| {
            let out = TileOut::in_rows(g, y, first, n);
            matmul::tiles(g, &matrix, (first, end), &rows, out)
        });
    }
    // The first product waits in the result, further ones in memory of their own.
    let (last, before) = tail.products.split_last().expect("a tail has a product");
    let mut stored: Vec<(NodeId, Buf)> = Vec::new();
    for (number, (node, linear)) in before.iter().enumerate() {
        let bytes = g.spec.tokens * f32_row_bytes(n);
        let buf = if number == 0 { y } else { g.workspace("products", Mem::F32, bytes) };
        matmul::for_units(g, linear.matrix.tiles(), |g, first, end| {
            let out = TileOut::in_rows(g, buf, first, n);
            matmul::tiles(g, &linear.matrix, (first, end), &rows, out)
        })?;
        stored.push((*node, buf));
    }
    if !before.is_empty() {
        g.b.barrier();
    }
    let out = TileOut::of_unit(g, "tiles")?;
    let matrix = last.1.matrix;
    matmul::for_units(g, matrix.tiles(), |g, unit, end| {
        matmul::tiles(g, &matrix, (unit, end), &rows, out)?;
        g.for_(unit, end, 1, |g, tile| {
            let out = out.of(g, tile, unit);
            if body::is_silu_gate(g.body(), &tail.products, tail.output)
                && let Some(atom) = g.target.atom(Meaning::SiluTimes)
            {
                let y = TileOut::in_rows(g, y, tile, n);
                let b = &mut g.b;
                let stride = b.size(y.stride);
                let memory = [Arg::Address(out.buf, out.index), Arg::Address(y.buf, y.index)];
                b.call(atom, memory.into_iter().chain([Arg::Int(rows.count), Arg::Int(stride)]).collect());
                return Ok(());
            }
            let zero = g.b.int(0);
            g.for_(zero, rows.count, 1, |g, t| finish_row(g, tail, &stored, (out, last.0), tile, t))
        })
    })
}

/// Makes row `t` of a tile of the result.
fn finish_row(
    g: &mut Generator<'_>,
    tail: &Tail,
    stored: &[(NodeId, Buf)],
    (out, last): (TileOut, NodeId),
    tile: Value,
    t: Value,
) -> Result<()> {
    let (n, y) = (tail.rows(), g.result(0)?);
    let mut elements = Elements::new(g, t);
    let b = &mut g.b;
    let row = b.imul_const(t, f32_row_bytes(n) / 4);
    for &(node, buf) in stored {
        elements.put(node, Place::Flat(buf, row));
    }
    let from = b.imul_const(t, out.stride);
    let from = b.iadd(out.index, from);
    elements.put(last, Place::Local(out.buf, from));
    let first = b.imul_const(tile, TILE_ROWS);
    let (limit, sixteen) = (b.size(n), b.size(TILE_ROWS));
    let left = b.isub(limit, first);
    let valid = b.umin(left, sixteen);
    let (zero, all_fours) = (b.int(0), b.int(!3));
    let whole = n.is_multiple_of(4);
    let fours = if whole { valid } else { b.and(valid, all_fours) };
    let mut finish = |from: Value, to: Value, vector: bool| {
        g.for_(from, to, if vector { 4 } else { 1 }, |g, r| {
            let b = &mut g.b;
            let flat = b.iadd(first, r);
            let v = elements.value(b, tail.output, At { flat, last: flat, local: r, vector })?;
            let to = b.iadd(row, flat);
            b.store(y, to, Mem::F32, v);
            Ok(())
        })
    };
    finish(zero, fours, true)?;
    // Vectors of parameters have no elements past their last.
    if whole { Ok(()) } else { finish(fours, valid, false) }
}
