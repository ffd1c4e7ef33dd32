//! `gate_up`: norm, two products of the same rows, silu(gate) * up.

use crate::body::{self, Linear};
use crate::generator::Generator;
use crate::gpu::product::{self, Segment};
use crate::gpu::{self, LANES};
use crate::matmul::{self, TileOut};
use ir::Result;
use ir::abi::{Meaning, TILE_ROWS, f32_row_bytes};
use ir::graph::{Graph, Op};
use ir::kernel::{Arg, Buf, Builder, Mem, Value};

pub(super) fn covers(body: &Graph) -> bool {
    super::ends_in(body, |op| *op == Op::Mul)
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let result = body.node(body.outputs()[0].1.node);
    let found = (result.op == Op::Mul)
        .then(|| {
            [(0, 1), (1, 0)].into_iter().find_map(|(gate, up)| {
                let silu = body.node(result.inputs[gate].node);
                let gate = (silu.op == Op::Silu).then(|| body::linear(body, silu.inputs[0])).flatten()?;
                Some((gate, body::linear(body, result.inputs[up])?))
            })
        })
        .flatten();
    let Some((gate, up)) = found else {
        return Err(g.unsupported("a product that is not silu(gate) * up"));
    };
    let n = gate.matrix.rows;
    let y = g.result(0)?;
    if g.target.gpu().is_some() {
        return gpu(g, gate, up, y);
    }
    let rows = matmul::prepare(g, &[gate, up])?;
    let tile_floats = g.spec.tokens * TILE_ROWS;
    let unit_floats = g.cpu()?.unit_tiles as usize * tile_floats;
    let (gates, ups) = (
        g.b.scratch("gates", Mem::F32, (unit_floats * 4) as u64),
        g.b.scratch("up", Mem::F32, (tile_floats * 4) as u64),
    );
    // All gates of a unit first, so that a worker stays with one matrix for longer.
    matmul::for_units(g, gate.matrix.tiles(), |g, first_tile, end| {
        let gates_of = |g: &mut Generator<'_>, tile: Value| {
            let number = g.b.isub(tile, first_tile);
            g.b.imul_const(number, tile_floats)
        };
        g.for_(first_tile, end, 1, |g, tile| {
            let index = gates_of(g, tile);
            matmul::tile(g, &gate.matrix, tile, &rows, TileOut { buf: gates, index, stride: TILE_ROWS })
        })?;
        g.for_(first_tile, end, 1, |g, tile| {
            let zero = g.b.int(0);
            matmul::tile(g, &up.matrix, tile, &rows, TileOut { buf: ups, index: zero, stride: TILE_ROWS })?;
            let gates_at = gates_of(g, tile);
            let atom = g.target.atom(Meaning::SiluTimes);
            let b = &mut g.b;
            let first = b.imul_const(tile, TILE_ROWS);
            if let Some(atom) = atom {
                let stride = b.size(f32_row_bytes(n) / 4);
                let memory = [Arg::Address(gates, gates_at), Arg::Address(ups, zero), Arg::Address(y, first)];
                b.call(atom, memory.into_iter().chain([Arg::Int(rows.count), Arg::Int(stride)]).collect());
                return Ok(());
            }
            let (limit, sixteen) = (b.size(n), b.size(TILE_ROWS));
            let left = b.isub(limit, first);
            let valid = b.umin(left, sixteen);
            let (nothing, one) = (b.float(0.0), b.float(1.0));
            let (nothing, one) = (b.splat(nothing), b.splat(one));
            b.for_(zero, rows.count, 1, |b, t| {
                let row = b.imul_const(t, f32_row_bytes(n) / 4);
                let row = b.iadd(row, first);
                let from = b.imul_const(t, TILE_ROWS);
                b.for_(zero, valid, 4, |b, r| {
                    let (at, from) = (b.iadd(row, r), b.iadd(from, r));
                    let gate_at = b.iadd(gates_at, from);
                    let gate = b.load4(gates, gate_at, Mem::F32);
                    let up = b.load4(ups, from, Mem::F32);
                    let v = silu_times(b, gate, up, (nothing, one));
                    b.store(y, at, Mem::F32, v);
                });
            });
            Ok(())
        })
    })
}

/// silu(gate) * up, given 0 and 1 of their type.
fn silu_times(b: &mut Builder, gate: Value, up: Value, (zero, one): (Value, Value)) -> Value {
    let minus = b.fsub(zero, gate);
    let e = b.exp(minus);
    let denominator = b.fadd(one, e);
    let silu = b.fdiv(gate, denominator);
    b.fmul(silu, up)
}

/// A unit is 32 rows of each product.
fn gpu(g: &mut Generator<'_>, gate: Linear, up: Linear, y: Buf) -> Result<()> {
    let segment = Segment { matrices: vec![gate.matrix, up.matrix], unit_rows: LANES };
    product::run(g, &[gate, up], &[segment], |g, at, _, unit, (sums, from)| {
        let b = &mut g.b;
        let to = b.imul_const(unit, LANES);
        let to = b.iadd(to, at.lane);
        gpu::if_below(b, to, gate.matrix.rows, |b| {
            let gate_at = b.iadd(from, at.lane);
            let up_at = b.iadd_const(gate_at, LANES);
            let (gate, up) = (b.load(sums, gate_at, Mem::F32), b.load(sums, up_at, Mem::F32));
            let (zero, one) = (b.float(0.0), b.float(1.0));
            let v = silu_times(b, gate, up, (zero, one));
            b.store(y, to, Mem::F32, v);
        });
        Ok(())
    })
}
