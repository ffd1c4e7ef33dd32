//! What takes powers of e: the online softmax of attention and SiLU, for AVX2 and FMA; AVX-512 targets use them too.
//!
//! All scores of a block are computed, those that do not count to 0, so the order of the sums is always the same.

use ir::abi::{KV_BLOCK, TILE_ROWS};
use std::arch::x86_64::*;

/// Elements of a vector.
const LANES: usize = 8;
/// Vectors of a row.
const VECTORS: usize = KV_BLOCK / LANES;

/// e^x for x from -88, where it is 0, to 88, which x is brought to: 2^n e^r with x = n ln 2 + r, and a polynomial in r (Cephes
/// `expf`).
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp(x: __m256) -> __m256 {
    let splat = |x: f32| _mm256_set1_ps(x);
    let x = _mm256_min_ps(_mm256_max_ps(x, splat(-88.0)), splat(88.0));
    let n = _mm256_cvtps_epi32(_mm256_mul_ps(x, splat(std::f32::consts::LOG2_E)));
    let whole = _mm256_cvtepi32_ps(n);
    // ln 2 in two parts, so that n * part is exact.
    let r = _mm256_fnmadd_ps(whole, splat(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(whole, splat(-2.121_944_4e-4), r);
    let mut p = splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm256_fmadd_ps(p, r, splat(c));
    }
    let p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), splat(1.0));
    let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
    _mm256_mul_ps(p, _mm256_castsi256_ps(power))
}

/// The largest lane.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// [`ir::abi::SoftmaxFn`].
///
/// # Safety
/// The CPU has AVX2 and FMA. `scores` has [`KV_BLOCK`] floats, `max` and `sum` one, `acc` has `head`, a multiple of 8;
/// `seen <= KV_BLOCK`.
#[target_feature(enable = "avx2,fma")]
pub unsafe extern "C" fn softmax(
    scores: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    acc: *mut f32,
    head: usize,
    seen: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let never = _mm256_set1_ps(f32::NEG_INFINITY);
        let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mut x = [never; VECTORS];
        for (i, x) in x.iter_mut().enumerate() {
            let number = _mm256_add_epi32(numbers, _mm256_set1_epi32((i * LANES) as i32));
            let counts = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen as i32), number);
            *x = _mm256_blendv_ps(never, _mm256_loadu_ps(scores.add(i * LANES)), _mm256_castsi256_ps(counts));
        }
        let mut top = x[0];
        for &x in &x[1..] {
            top = _mm256_max_ps(top, x);
        }
        let old = *max;
        let new = largest(top).max(old);
        let (mut all, new_max) = (_mm256_setzero_ps(), _mm256_set1_ps(new));
        for (i, &x) in x.iter().enumerate() {
            let weight = exp(_mm256_sub_ps(x, new_max));
            all = _mm256_add_ps(all, weight);
            _mm256_storeu_ps(scores.add(i * LANES), weight);
        }
        if new > old {
            let fade = exp(_mm256_set1_ps(old - new));
            *sum *= _mm256_cvtss_f32(fade);
            for d in (0..head).step_by(LANES) {
                _mm256_storeu_ps(acc.add(d), _mm256_mul_ps(_mm256_loadu_ps(acc.add(d)), fade));
            }
            *max = new;
        }
        *sum += total(all);
    }
}

/// [`ir::abi::SiluTimesFn`].
///
/// # Safety
/// The CPU has AVX2 and FMA. `up` has `tokens` rows of 16 floats, `y` 16 from each multiple of `y_stride`.
#[target_feature(enable = "avx2,fma")]
pub unsafe extern "C" fn silu_times(up: *const f32, y: *mut f32, tokens: usize, y_stride: usize) {
    let one = _mm256_set1_ps(1.0);
    for t in 0..tokens {
        for r in (0..TILE_ROWS).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let y = y.add(t * y_stride + r);
                let (gate, up) = (_mm256_loadu_ps(y), _mm256_loadu_ps(up.add(t * TILE_ROWS + r)));
                let below = _mm256_add_ps(one, exp(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
                _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_div_ps(gate, below), up));
            }
        }
    }
}
