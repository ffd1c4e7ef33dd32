//! Formulas that kernels of all targets share.

use ir::kernel::{Builder, Compare, Value};
use ir::numerics::exp;

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

/// cap * tanh(x / cap) of a float, as 2 cap / (1 + e^(-2 x / cap)) - cap.
pub(crate) fn soft_cap(b: &mut Builder, x: Value, cap: f32) -> Value {
    let (by, least, one) = (b.float(2.0 / cap), b.float(-exp::HIGH), b.float(1.0));
    let (twice, both, cap) = (b.fmul(x, by), b.float(2.0 * cap), b.float(cap));
    let twice = b.fmax(twice, least);
    let zero = b.float(0.0);
    let power = b.fsub(zero, twice);
    let power = b.exp(power);
    let sum = b.fadd(one, power);
    let above = b.fdiv(both, sum);
    b.fsub(above, cap)
}
