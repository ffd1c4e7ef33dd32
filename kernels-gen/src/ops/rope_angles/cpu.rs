//! The CPU form: a worker takes a token, through an atom.

use super::Angles;
use crate::generator::Generator;
use ir::Result;
use ir::abi::{Meaning, f32_row_bytes};
use ir::kernel::{Arg, Mem};

pub(super) fn generate(g: &mut Generator<'_>, angles: &Angles) -> Result<()> {
    let (dim, y) = (angles.of.dim, g.result(0)?);
    let factors = angles.factors.map(|f| g.param(f));
    let divisors = angles.divisors(g);
    let Some(atom) = g.target.atom(Meaning::RopeAngles) else {
        return Err(g.unsupported("a target that has no such atom"));
    };
    let product = (factors.is_some() && divisors.is_some()).then(|| g.b.scratch("factors", Mem::F32, dim as u64 * 2));
    let tokens = g.b.tokens();
    g.parallel(tokens, |g, t| {
        let b = &mut g.b;
        let (position, zero, one, width) = (b.position(), b.int(0), b.int(1), b.size(dim));
        if let (Some(product), Some(factors), Some(divisors)) = (product, factors, divisors) {
            b.for_n(dim / 2, 1, |b, i| {
                let (factor, divisor) = (b.load(factors, i, Mem::F32), b.load(divisors, i, Mem::F32));
                let v = b.fmul(factor, divisor);
                b.store(product, i, Mem::F32, v);
            });
        }
        let position = b.iadd(position, t);
        let row = b.imul_const(t, f32_row_bytes(dim) / 4);
        let theta = b.float(angles.of.theta.0);
        let factors = product.or(factors).or(divisors).map_or(Arg::Null, |f| Arg::Address(f, zero));
        b.call(
            atom,
            vec![Arg::Address(y, row), Arg::Int(position), Arg::Int(one), Arg::Int(width), Arg::Float(theta), factors],
        );
        if angles.of.magnitude.0 != 1.0 {
            let magnitude = b.float(angles.of.magnitude.0);
            b.for_n(dim, 1, |b, i| {
                let at = b.iadd(row, i);
                let v = b.load(y, at, Mem::F32);
                let v = b.fmul(v, magnitude);
                b.store(y, at, Mem::F32, v);
            });
        }
        Ok(())
    })
}
