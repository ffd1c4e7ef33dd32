//! Quantising activations to int8, for AVX2; AVX-512 targets use it too.

use ir::abi::{Q8_BLOCK, Q8_BYTES, Q8_SCALE, Q8_SCALED_SUM, Q8_STARTS, Q8_STARTS_AT, Q8_SUMS};
use std::arch::x86_64::*;

/// Elements of a vector.
const LANES: usize = 8;

/// [`ir::abi::QuantizeFn`].
///
/// # Safety
/// The CPU has AVX2. `x` and, if it is not null, `weights` have `k` floats, `k` a multiple of 32; `out` has
/// [`ir::abi::q8_row_bytes`] bytes.
#[target_feature(enable = "avx2")]
pub unsafe extern "C" fn row(x: *const f32, out: *mut u8, k: usize, factor: f32, weights: *const f32) {
    let factor = _mm256_set1_ps(factor);
    for first in (0..k).step_by(Q8_BLOCK) {
        let mut v = [_mm256_setzero_ps(); Q8_BLOCK / LANES];
        for (i, v) in v.iter_mut().enumerate() {
            let at = first + i * LANES;
            // SAFETY: the caller's promise.
            unsafe {
                *v = _mm256_loadu_ps(x.add(at));
                if !weights.is_null() {
                    *v = _mm256_mul_ps(_mm256_mul_ps(*v, factor), _mm256_loadu_ps(weights.add(at)));
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { block(v, out.add(first / Q8_BLOCK * Q8_BYTES)) };
    }
}

/// Writes a block.
///
/// # Safety
/// The CPU has AVX2; `out` has [`Q8_BYTES`] bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block(v: [__m256; Q8_BLOCK / LANES], out: *mut u8) {
    // As integers, magnitudes are in order, and NaN is larger than any of them.
    let size = |v: __m256| _mm256_castps_si256(_mm256_andnot_ps(_mm256_set1_ps(-0.0), v));
    let larger = |a, b| _mm256_max_epi32(a, b);
    let largest = larger(larger(size(v[0]), size(v[1])), larger(size(v[2]), size(v[3])));
    // In every lane.
    let largest = larger(largest, _mm256_permute2x128_si256::<1>(largest, largest));
    let largest = larger(largest, _mm256_shuffle_epi32::<0b01_00_11_10>(largest));
    let largest = larger(largest, _mm256_shuffle_epi32::<0b10_11_00_01>(largest));
    let scale = _mm256_div_ps(_mm256_castsi256_ps(largest), _mm256_set1_ps(127.0));
    let inverse = _mm256_div_ps(_mm256_set1_ps(1.0), scale);
    // 0 for a scale that is zero or subnormal.
    let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(scale, _mm256_set1_ps(f32::MIN_POSITIVE));
    let inverse = _mm256_and_ps(inverse, normal);
    let words = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
    // Packing works in each half: words of elements 0 to 3, 8 to 11, ..., then 4 to 7, ...
    let halves = (_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
    let bytes = _mm256_packs_epi16(halves.0, halves.1);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(bytes, order);
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let quads = _mm256_add_epi32(quads, _mm256_shuffle_epi32::<0b01_00_11_10>(quads));
    let sums = _mm256_add_epi32(quads, _mm256_shuffle_epi32::<0b10_11_00_01>(quads));
    // SAFETY: the caller's promise.
    unsafe {
        _mm256_storeu_si256(out.cast(), bytes);
        let scale = _mm256_cvtss_f32(scale);
        out.add(Q8_SCALE).cast::<f32>().write_unaligned(scale);
        let [first, last] = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
        out.add(Q8_SUMS).cast::<[i16; 2]>().write_unaligned([first as i16, last as i16]);
        out.add(Q8_SCALED_SUM).cast::<f32>().write_unaligned((first + last) as f32 * scale);
        let [whole, half] = Q8_STARTS;
        let starts = [whole * (first + last), half * first, half * last];
        out.add(Q8_STARTS_AT).cast::<[i32; 3]>().write_unaligned(starts);
    }
}
