//! `rope_angles`: cosines and sines of the rotary angles of the step's tokens.

use crate::body;
use crate::generator::Generator;
use ir::Result;
use ir::abi::{Meaning, f32_row_bytes};
use ir::graph::{Graph, Op};
use ir::kernel::Arg;

pub(super) fn covers(body: &Graph) -> bool {
    super::ends_in(body, |op| matches!(op, Op::RopeAngles { .. }))
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let node = body.node(body.outputs()[0].1.node);
    let (Op::RopeAngles { dim, theta, .. }, Some(atom)) = (&node.op, g.target.atom(Meaning::RopeAngles)) else {
        return Err(g.unsupported("anything but rope_angles"));
    };
    let factors = match node.inputs.get(1) {
        Some(&f) => Some(body::param(body, f).ok_or_else(|| g.unsupported("computed factors"))?),
        None => None,
    };
    let factors = factors.map(|f| g.param(f));
    let y = g.result(0)?;
    let tokens = g.b.tokens();
    g.parallel(tokens, |g, t| {
        let b = &mut g.b;
        let (position, zero, one, width) = (b.position(), b.int(0), b.int(1), b.size(*dim));
        let position = b.iadd(position, t);
        let row = b.imul_const(t, f32_row_bytes(*dim) / 4);
        let theta = b.float(theta.0);
        let factors = factors.map_or(Arg::Null, |f| Arg::Address(f, zero));
        b.call(
            atom,
            vec![Arg::Address(y, row), Arg::Int(position), Arg::Int(one), Arg::Int(width), Arg::Float(theta), factors],
        );
        Ok(())
    })
}
