//! `gate_up`: norm, two products of the same rows, silu(gate) * up.

use crate::body::{self, Linear};
use crate::cpu::matmul::{self, TileOut};
use crate::generator::Generator;
use crate::gpu::product::{self, Segment};
use crate::gpu::{self, LANES};
use ir::Result;
use ir::abi::{Meaning, TILE_ROWS};
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
    // One matrix after the other, so that a worker reads each front to back.
    matmul::for_units(g, gate.matrix.tiles(), |g, first, end| {
        let gates = TileOut::in_rows(g, y, first, n);
        matmul::tiles(g, &gate.matrix, (first, end), &rows, gates)
    })?;
    g.b.barrier();
    let ups = TileOut::of_unit(g)?;
    matmul::for_units(g, up.matrix.tiles(), |g, unit, end| {
        matmul::tiles(g, &up.matrix, (unit, end), &rows, ups)?;
        g.for_(unit, end, 1, |g, tile| {
            let (up, y) = (ups.of(g, tile, unit), TileOut::in_rows(g, y, tile, n));
            let atom = g.target.atom(Meaning::SiluTimes);
            let b = &mut g.b;
            if let Some(atom) = atom {
                let stride = b.size(y.stride);
                let memory = [Arg::Address(up.buf, up.index), Arg::Address(y.buf, y.index)];
                b.call(atom, memory.into_iter().chain([Arg::Int(rows.count), Arg::Int(stride)]).collect());
                return Ok(());
            }
            let (limit, sixteen) = (b.size(n), b.size(TILE_ROWS));
            let first = b.imul_const(tile, TILE_ROWS);
            let left = b.isub(limit, first);
            let valid = b.umin(left, sixteen);
            let (zero, nothing, one) = (b.int(0), b.float(0.0), b.float(1.0));
            let (nothing, one) = (b.splat(nothing), b.splat(one));
            b.for_(zero, rows.count, 1, |b, t| {
                let (to, from) = (b.imul_const(t, y.stride), b.imul_const(t, up.stride));
                let (to, from) = (b.iadd(y.index, to), b.iadd(up.index, from));
                b.for_(zero, valid, 4, |b, r| {
                    let (to, from) = (b.iadd(to, r), b.iadd(from, r));
                    let gate = b.load4(y.buf, to, Mem::F32);
                    let up = b.load4(up.buf, from, Mem::F32);
                    let v = silu_times(b, gate, up, (nothing, one));
                    b.store(y.buf, to, Mem::F32, v);
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
