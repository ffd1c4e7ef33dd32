//! The GPU form: a CTA for each token, a thread for each pair. Angles are counted in turns, of which whole ones drop out before the sine; cards for
//! games have few f64 units, so numbers are pairs of floats.

use super::Angles;
use crate::generator::Generator;
use crate::gpu;
use ir::Result;
use ir::abi::f32_row_bytes;
use ir::kernel::{Builder, Compare, Mem, Value};

/// A number as the unevaluated sum of two floats, about 46 bits: large positions need more than one float has.
#[derive(Debug, Clone, Copy)]
struct Double(Value, Value);

impl Double {
    fn constant(b: &mut Builder, x: f64) -> Double {
        let high = x as f32;
        Double(b.float(high), b.float((x - f64::from(high)) as f32))
    }

    /// high + low, where |low| is much smaller than |high| (Dekker 1971).
    fn of(b: &mut Builder, high: Value, low: Value) -> Double {
        let sum = b.fadd(high, low);
        let rounded = b.fsub(sum, high);
        Double(sum, b.fsub(low, rounded))
    }

    /// The product and its error, which fma gives exactly as it rounds once.
    fn times(self, b: &mut Builder, other: Double) -> Double {
        let zero = b.float(0.0);
        let product = b.fmul(self.0, other.0);
        let minus = b.fsub(zero, product);
        let error = b.fma(self.0, other.0, minus);
        let error = b.fma(self.0, other.1, error);
        let error = b.fma(self.1, other.0, error);
        Double::of(b, product, error)
    }

    fn over(self, b: &mut Builder, divisor: Value) -> Double {
        let (zero, one) = (b.float(0.0), b.float(1.0));
        let inverse = b.fdiv(one, divisor);
        let quotient = b.fmul(self.0, inverse);
        let minus = b.fsub(zero, quotient);
        let rest = b.fma(minus, divisor, self.0);
        let rest = b.fadd(rest, self.1);
        let rest = b.fmul(rest, inverse);
        Double::of(b, quotient, rest)
    }
}

pub(super) fn generate(g: &mut Generator<'_>, angles: &Angles) -> Result<()> {
    let (dim, theta, y) = (angles.of.dim, angles.of.theta.0, g.result(0)?);
    let (factors, divisors) = (angles.factors.map(|f| g.param(f)), angles.divisors(g));
    if !g.target.fuses_fma() {
        return Err(g.unsupported("products without their exact errors"));
    }
    gpu::for_rows(g, (g.spec.tokens, 1), |g, at, token| {
        let b = &mut g.b;
        let position = b.position();
        let position = b.iadd(position, token);
        let position = b.to_float(position);
        let row = b.imul_const(token, f32_row_bytes(dim) / 4);
        gpu::for_threads(b, &at, dim / 2, |b, i| {
            // theta^(-2 i / dim) / (2 pi) is a product over the bits of i.
            let mut turns = Double::constant(b, 0.5 / std::f64::consts::PI);
            for bit in (0..usize::BITS).take_while(|&bit| 1 << bit < dim / 2) {
                let power = f64::from(theta).powf(-2.0 * f64::from(1u32 << bit) / dim as f64);
                let power = Double::constant(b, power);
                let product = turns.times(b, power);
                let (mask, zero) = (b.int(1 << bit), b.int(0));
                let masked = b.and(i, mask);
                let clear = b.compare(Compare::IEq, masked, zero);
                turns = Double(b.select(clear, turns.0, product.0), b.select(clear, turns.1, product.1));
            }
            for divisors in [factors, divisors].into_iter().flatten() {
                let divisor = b.load(divisors, i, Mem::F32);
                turns = turns.over(b, divisor);
            }
            let none = b.float(0.0);
            let Double(high, low) = turns.times(b, Double(position, none));
            let whole = b.round(high);
            let whole = b.to_float(whole);
            let part = b.fsub(high, whole);
            let part = b.fadd(part, low);
            let turn = b.float(std::f32::consts::TAU);
            let angle = b.fmul(part, turn);
            let (mut cos, mut sin) = (b.cos(angle), b.sin(angle));
            if angles.of.magnitude.0 != 1.0 {
                let magnitude = b.float(angles.of.magnitude.0);
                (cos, sin) = (b.fmul(cos, magnitude), b.fmul(sin, magnitude));
            }
            let to = b.imul_const(i, 2);
            let to = b.iadd(row, to);
            b.store(y, to, Mem::F32, cos);
            let to = b.iadd_const(to, 1);
            b.store(y, to, Mem::F32, sin);
        });
        Ok(())
    })?;
    Ok(())
}
