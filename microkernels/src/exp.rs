//! What takes powers of e: the online softmax of attention and SiLU.
//!
//! All scores of a block are computed, those that do not count to 0, so the order of the sums is always the same.

use crate::simd::Simd;
use ir::abi::{KV_BLOCK, TILE_ROWS};
use ir::numerics::exp::{HIGH, LN_2, LOG2_E, LOW, POLYNOMIAL};

/// Elements of a vector.
const LANES: usize = 16;
/// Vectors of a row.
const VECTORS: usize = KV_BLOCK / LANES;

/// `x` in every lane.
#[inline(always)]
fn splat<S: Simd>(s: S, x: f32) -> S::Float {
    s.float_of_bits(s.splat(x.to_bits()))
}

/// e^x by the method of [`ir::numerics::exp`], for x up to [`HIGH`] or NaN.
#[inline(always)]
fn exp<S: Simd>(s: S, x: S::Float) -> S::Float {
    let x = s.max(splat(s, LOW), x);
    // Adding 1.5 * 2^23 leaves an integer, n, in the low bits; 127 more, the exponent of 2^n.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let n = s.fma_splat(x, s.splat_float(LOG2_E), splat(s, ROUND));
    let whole = s.sub(n, splat(s, ROUND));
    let r = s.fnma_splat(whole, s.splat_float(LN_2[0]), x);
    let r = s.fnma_splat(whole, s.splat_float(LN_2[1]), r);
    let [first, rest @ ..] = POLYNOMIAL;
    let mut p = splat(s, first);
    for c in rest {
        p = s.fma(p, r, splat(s, c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), splat(s, 1.0));
    s.mul(p, s.float_of_bits(s.shl(s.bits_of_float(n), 23)))
}

/// `cap * tanh(x / cap)`, as 2 cap / (1 + e^(-2 x / cap)) - cap.
#[inline(always)]
fn soft_cap<S: Simd>(s: S, x: S::Float, cap: f32) -> S::Float {
    let twice = s.max(splat(s, -HIGH), s.mul_splat(x, s.splat_float(2.0 / cap)));
    let power = exp(s, s.sub(s.zero_float(), twice));
    s.sub(s.div(splat(s, 2.0 * cap), s.add(splat(s, 1.0), power)), splat(s, cap))
}

/// [`ir::abi::SoftmaxFn`].
///
/// # Safety
/// `scores` has [`KV_BLOCK`] floats, `max` and `sum` one, `acc` has `head`; `first <= end <= KV_BLOCK`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the operands of SoftmaxFn")]
pub unsafe fn softmax<S: Simd>(
    s: S,
    scores: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    acc: *mut f32,
    head: usize,
    first: usize,
    end: usize,
    cap: f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if cap != 0.0 {
            for at in (0..KV_BLOCK).step_by(LANES) {
                s.store_f32(scores.add(at), soft_cap(s, s.load_f32(scores.add(at).cast()), cap));
            }
        }
        for i in (0..first).chain(end..KV_BLOCK) {
            *scores.add(i) = f32::NEG_INFINITY;
        }
        let mut x = [s.zero_float(); VECTORS];
        for (i, x) in x.iter_mut().enumerate() {
            *x = s.load_f32(scores.add(i * LANES).cast());
        }
        let top = s.max(s.max(x[0], x[1]), s.max(x[2], x[3]));
        let old = *max;
        let new = s.largest_lane(top).max(old);
        let mut weights = x;
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = exp(s, s.sub(*weight, splat(s, new)));
            s.store_f32(scores.add(i * LANES), *weight);
        }
        if new > old {
            let fade = s.largest_lane(exp(s, splat(s, old - new)));
            *sum *= fade;
            let whole = head / LANES * LANES;
            for d in (0..whole).step_by(LANES) {
                s.store_f32(acc.add(d), s.mul_splat(s.load_f32(acc.add(d).cast()), s.splat_float(fade)));
            }
            for d in whole..head {
                *acc.add(d) *= fade;
            }
            *max = new;
        }
        *sum += s.sum_lanes(s.add(s.add(weights[0], weights[1]), s.add(weights[2], weights[3])));
    }
}

/// [`ir::abi::SiluTimesFn`].
///
/// # Safety
/// `up` has `tokens` rows of 16 floats, `y` 16 from each multiple of `y_stride`.
#[inline(always)]
pub unsafe fn silu_times<S: Simd>(s: S, up: *const f32, y: *mut f32, tokens: usize, y_stride: usize) {
    for t in 0..tokens {
        // SAFETY: the caller's promise.
        unsafe {
            let y = y.add(t * y_stride);
            let (gate, up) = (s.load_f32(y.cast()), s.load_f32(up.add(t * TILE_ROWS).cast()));
            let power = exp(s, s.sub(s.zero_float(), s.max(splat(s, -HIGH), gate)));
            s.store_f32(y, s.mul(s.div(gate, s.add(splat(s, 1.0), power)), up));
        }
    }
}
