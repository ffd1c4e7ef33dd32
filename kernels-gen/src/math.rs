//! Formulas that kernels of all targets share.

use ir::graph::Function;
use ir::kernel::{Builder, Compare, Value};

/// 1 / sqrt(squares / n + eps), as the root over its square: NaN, not 0, where the squares have overflowed.
pub(crate) fn inverse_root(b: &mut Builder, squares: Value, n: usize, eps: f32) -> Value {
    let n = b.float(n as f32);
    let mean = b.fdiv(squares, n);
    let eps = b.float(eps);
    let mean = b.fadd(mean, eps);
    let root = b.sqrt(mean);
    b.fdiv(root, mean)
}

/// The scale of a block whose largest magnitude is this, and its reciprocal, 0 for a scale that is zero or subnormal.
pub(crate) fn scale_of(b: &mut Builder, largest: Value) -> (Value, Value) {
    let (zero, one, steps, least) = (b.float(0.0), b.float(1.0), b.float(127.0), b.float(f32::MIN_POSITIVE));
    let scale = b.fdiv(largest, steps);
    let inverse = b.fdiv(one, scale);
    let empty = b.compare(Compare::FLt, scale, least);
    (scale, b.select(empty, zero, inverse))
}

/// A constant, or four of it.
pub(crate) fn constant(b: &mut Builder, v: f32, vector: bool) -> Value {
    let v = b.float(v);
    if vector { b.splat(v) } else { v }
}

/// A [`Function`] of a number or of each of four.
pub(crate) fn function(b: &mut Builder, function: Function, x: Value) -> Value {
    let vector = b.ty(x).is_vector();
    let constant = |b: &mut Builder, v: f32| constant(b, v, vector);
    let (zero, one) = (constant(b, 0.0), constant(b, 1.0));
    // x / (1 + exp(-y)).
    let gate = |b: &mut Builder, x: Value, y: Value| {
        let minus = b.fsub(zero, y);
        let e = b.exp(minus);
        let denominator = b.fadd(one, e);
        b.fdiv(x, denominator)
    };
    match function {
        Function::Silu => gate(b, x, x),
        Function::Sigmoid => gate(b, one, x),
        Function::Gelu => {
            // (1 + tanh(y)) / 2 is 1 / (1 + exp(-2 y)).
            let (twice, cubic) = (constant(b, 2.0 * (2.0 / std::f32::consts::PI).sqrt()), constant(b, 0.044_715));
            let square = b.fmul(x, x);
            let cubic = b.fmul(square, cubic);
            let factor = b.fadd(one, cubic);
            let y = b.fmul(x, factor);
            let y = b.fmul(y, twice);
            gate(b, x, y)
        }
        Function::GeluErf => {
            // erfc by Abramowitz and Stegun 7.1.26, to 1.5e-7: t (a1 + t (a2 + ...)) exp(-y^2), t = 1 / (1 + p y).
            let (half, root, p) =
                (constant(b, 0.5), constant(b, std::f32::consts::FRAC_1_SQRT_2), constant(b, 0.327_591_1));
            let y = b.fmul(x, root);
            let y = b.fabs(y);
            let t = b.fma(p, y, one);
            let t = b.fdiv(one, t);
            let mut sum = zero;
            for a in [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
                let a = constant(b, a);
                let sum_t = b.fmul(sum, t);
                sum = b.fadd(sum_t, a);
            }
            let tail = b.fmul(sum, t);
            let (y2, minus) = (b.fmul(y, y), zero);
            let y2 = b.fsub(minus, y2);
            let e = b.exp(y2);
            // The half of erfc(|y|) that is left of x, or goes.
            let tail = b.fmul(tail, e);
            let tail = b.fmul(tail, half);
            let other = b.fsub(one, tail);
            let below = b.compare(Compare::FLt, x, zero);
            let share = b.select(below, tail, other);
            b.fmul(x, share)
        }
        Function::ReluSquared => {
            let x = b.fmax(x, zero);
            b.fmul(x, x)
        }
        Function::Softplus => {
            let magnitude = b.fabs(x);
            let minus = b.fsub(zero, magnitude);
            let e = b.exp(minus);
            let sum = b.fadd(one, e);
            let log = b.log(sum);
            let above = b.fmax(x, zero);
            b.fadd(above, log)
        }
        Function::Scale(by) => {
            let by = constant(b, by.0);
            b.fmul(x, by)
        }
        Function::Offset(by) => {
            let by = constant(b, by.0);
            b.fadd(x, by)
        }
        Function::SoftCap(at) => {
            // tanh(y) is 1 - 2 / (exp(2 y) + 1).
            let (scale, at, two) = (constant(b, 2.0 / at.0), constant(b, at.0), constant(b, 2.0));
            let y = b.fmul(x, scale);
            let e = b.exp(y);
            let sum = b.fadd(e, one);
            let rest = b.fdiv(two, sum);
            let tanh = b.fsub(one, rest);
            b.fmul(at, tanh)
        }
        Function::Clamp(low, high) => {
            let (low, minus_high) = (constant(b, low.0), constant(b, -high.0));
            let above = b.fmax(x, low);
            let minus = b.fsub(zero, above);
            let minus = b.fmax(minus, minus_high);
            b.fsub(zero, minus)
        }
    }
}
