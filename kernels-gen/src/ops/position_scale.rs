//! `position_scale`: a number for each token that grows with the logarithm of its position.

use super::{FusedOp, only_output, reading};
use crate::generator::Generator;
use crate::gpu;
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::graph::{F32, Graph, Op};
use ir::kernel::{Buf, Builder, Mem, Value};

pub(super) const OP: FusedOp =
    FusedOp { name: "position_scale", covers: |body| read(body).is_some(), cpu: Some(cpu), gpu: Some(on_gpu) };

/// Length and slope.
fn read(body: &Graph) -> Option<(usize, F32)> {
    match only_output(body, |_| true)?.op {
        Op::PositionScale { length, slope, .. } => Some((length, slope)),
        _ => None,
    }
}

/// 1 + slope * ln(floor(position / length) + 1).
fn scale(b: &mut Builder, position: Value, (length, slope): (usize, F32)) -> Value {
    let (length, one, slope) = (b.size(length), b.float(1.0), b.float(slope.0));
    let steps = b.udiv(position, length);
    let steps = b.to_float(steps);
    let steps = b.fadd(steps, one);
    let log = b.log(steps);
    b.fma(slope, log, one)
}

/// Stores the number of a token.
fn store(b: &mut Builder, token: Value, figures: (usize, F32), y: Buf) {
    let position = b.position();
    let position = b.iadd(position, token);
    let v = scale(b, position, figures);
    let to = b.imul_const(token, f32_row_bytes(1) / 4);
    b.store(y, to, Mem::F32, v);
}

fn cpu(g: &mut Generator<'_>) -> Result<()> {
    let (figures, y, tokens) = (reading(g, read)?, g.result(0)?, g.b.tokens());
    g.parallel(tokens, |g, t| {
        store(&mut g.b, t, figures, y);
        Ok(())
    })
}

fn on_gpu(g: &mut Generator<'_>) -> Result<()> {
    let (figures, y) = (reading(g, read)?, g.result(0)?);
    gpu::for_rows(g, (g.spec.tokens, 1), |g, at, token| {
        gpu::if_below(&mut g.b, at.thread, 1, |b| store(b, token, figures, y));
        Ok(())
    })?;
    Ok(())
}
