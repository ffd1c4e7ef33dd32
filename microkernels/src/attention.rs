//! Attention inner loops over one block of KV positions, for AVX2, FMA and F16C; AVX-512 targets use them too.
//!
//! Eight accumulators are live: query rows times positions for scores, query rows times vectors of 8 elements for
//! accumulation. Rows go four at a time, then two, then one. The float operations of an output are the same in all
//! cases, so it does not depend on how many rows and positions there are. Each pass over the positions prefetches its share
//! of the block that comes after this one, line by line: L1 can wait for few lines, and stalls when asked for many at once.

use crate::simd::prefetch;
use ir::abi::{KV_BLOCK, Q8_BLOCK, kv_f16_row_bytes, kv_q8_row_bytes};
use std::arch::x86_64::*;

/// Elements of a vector.
const LANES: usize = 8;

/// Positions that are accumulated between looks at what to prefetch.
const GROUP: usize = 8;

/// A KV row format.
pub trait Row {
    /// The scale of a block of 32 elements, if any.
    type Scale: Copy;
    /// Bytes of a row of `head` elements.
    fn bytes(head: usize) -> usize;
    /// The scale of block `block`.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `row` is a row of `head` elements and the block is in it.
    unsafe fn scale(row: *const u8, head: usize, block: usize) -> Self::Scale;
    /// Elements `d..d + 8`, in a block of that scale.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `row` is a row of more than `d + 7` elements.
    unsafe fn load(row: *const u8, d: usize, scale: Self::Scale) -> __m256;
}

/// Rows of [`kv_f16_row_bytes`].
pub struct F16;

impl Row for F16 {
    type Scale = ();
    #[inline(always)]
    fn bytes(head: usize) -> usize {
        kv_f16_row_bytes(head)
    }
    #[inline(always)]
    unsafe fn scale(_: *const u8, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn load(row: *const u8, d: usize, (): ()) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(row.add(2 * d).cast())) }
    }
}

/// Rows of [`kv_q8_row_bytes`].
pub struct Q8;

impl Row for Q8 {
    type Scale = __m256;
    #[inline(always)]
    fn bytes(head: usize) -> usize {
        kv_q8_row_bytes(head)
    }
    #[inline(always)]
    unsafe fn scale(row: *const u8, head: usize, block: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = row.add(head.next_multiple_of(Q8_BLOCK) + 2 * block).cast::<i16>().read_unaligned();
            _mm256_cvtph_ps(_mm_set1_epi16(scale))
        }
    }
    #[inline(always)]
    unsafe fn load(row: *const u8, d: usize, scale: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(row.add(d).cast()));
            _mm256_mul_ps(_mm256_cvtepi32_ps(codes), scale)
        }
    }
}

/// What a pass prefetches of the next block.
#[derive(Clone, Copy)]
struct Ahead {
    line: *const u8,
    /// How far the pass has come.
    to: *const u8,
    /// Bytes for each position.
    step: usize,
}

impl Ahead {
    /// Of the block after the one at `block`, the share from `first` on, of `part` of `all`.
    #[inline(always)]
    fn new(block: *const u8, row_bytes: usize, first: usize, part: usize, all: usize) -> Ahead {
        let line = block.wrapping_add(KV_BLOCK * row_bytes + KV_BLOCK * row_bytes * first / all);
        Ahead { line, to: line, step: (row_bytes * part).div_ceil(all) }
    }

    /// Prefetches the lines for so many positions.
    #[inline(always)]
    fn go_on(&mut self, positions: usize) {
        self.to = self.to.wrapping_add(positions * self.step);
        while self.line < self.to {
            prefetch(self.line);
            self.line = self.line.wrapping_add(64);
        }
    }
}

/// The sums of eight vectors.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn sums(a: [__m256; 8]) -> [f32; 8] {
    let mut out = [0.0; 8];
    // SAFETY: the caller's features; `out` has the 32 bytes stored.
    unsafe {
        let low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
        let high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
        let first = _mm256_permute2f128_ps::<0x20>(low, high);
        let last = _mm256_permute2f128_ps::<0x31>(low, high);
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(first, last));
    }
    out
}

/// [`ir::abi::ScoresFn`].
///
/// # Safety
/// The CPU has AVX2, FMA and F16C. `q` has `rows * head` floats, `head` a multiple of 8; `keys` has `positions` rows of
/// the format; `out` has `rows * KV_BLOCK` floats; `positions <= KV_BLOCK`.
#[inline(always)]
pub unsafe fn scores<K: Row>(
    q: *const f32,
    keys: *const u8,
    out: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
) {
    // SAFETY: the caller's promise. The lengths of most models as constants, so that strides fold into addresses.
    unsafe {
        match head {
            64 => scores_any::<K>(q, keys, out, 64, positions, rows),
            128 => scores_any::<K>(q, keys, out, 128, positions, rows),
            _ => scores_any::<K>(q, keys, out, head, positions, rows),
        }
    }
}

/// [`scores`] for any length of head.
///
/// # Safety
/// That of [`scores`].
#[inline(always)]
unsafe fn scores_any<K: Row>(
    q: *const f32,
    keys: *const u8,
    out: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
) {
    let mut r = 0;
    // SAFETY: the caller's promise, for rows r to r + R.
    unsafe {
        while rows - r >= 4 {
            scores_of::<K, 4, 2>(q.add(r * head), keys, out.add(r * KV_BLOCK), head, positions, (r, rows));
            r += 4;
        }
        if rows - r >= 2 {
            scores_of::<K, 2, 4>(q.add(r * head), keys, out.add(r * KV_BLOCK), head, positions, (r, rows));
            r += 2;
        }
        if rows > r {
            scores_of::<K, 1, 8>(q.add(r * head), keys, out.add(r * KV_BLOCK), head, positions, (r, rows));
        }
    }
}

/// Scores of `R` rows, `P` positions at a time, `R * P = 8`: of those from `r` on of `rows`.
///
/// # Safety
/// That of [`scores`], with `R` rows.
#[inline(always)]
unsafe fn scores_of<K: Row, const R: usize, const P: usize>(
    q: *const f32,
    keys: *const u8,
    out: *mut f32,
    head: usize,
    positions: usize,
    (r, rows): (usize, usize),
) {
    let row_bytes = K::bytes(head);
    let mut ahead = Ahead::new(keys, row_bytes, r, R, rows);
    for first in (0..positions).step_by(P) {
        let valid = P.min(positions - first);
        ahead.go_on(P);
        let mut row = [keys; P];
        for (p, row) in row.iter_mut().enumerate() {
            // SAFETY: a position below `positions`; those past the end repeat the last.
            *row = unsafe { keys.add((first + p.min(valid - 1)) * row_bytes) };
        }
        // SAFETY: elements of the rows; `out` has P valid floats from `first` for each row.
        unsafe {
            let mut acc = [_mm256_setzero_ps(); 8];
            for d in (0..head).step_by(Q8_BLOCK) {
                let mut scale = [K::scale(row[0], head, d / Q8_BLOCK); P];
                for p in 1..P {
                    scale[p] = K::scale(row[p], head, d / Q8_BLOCK);
                }
                for d in (d..head.min(d + Q8_BLOCK)).step_by(LANES) {
                    for p in 0..P {
                        let key = K::load(row[p], d, scale[p]);
                        for r in 0..R {
                            let q = _mm256_loadu_ps(q.add(r * head + d));
                            acc[r * P + p] = _mm256_fmadd_ps(key, q, acc[r * P + p]);
                        }
                    }
                }
            }
            let sums = sums(acc);
            for r in 0..R {
                for p in 0..P {
                    if p < valid {
                        *out.add(r * KV_BLOCK + first + p) = sums[r * P + p];
                    }
                }
            }
        }
    }
}

/// [`ir::abi::AccumulateFn`].
///
/// # Safety
/// The CPU has AVX2, FMA and F16C. `weights` has `rows * KV_BLOCK` floats; `values` has `positions` rows of the format;
/// `acc` has `rows * head` floats, `head` a multiple of 8; `positions <= KV_BLOCK`.
#[inline(always)]
pub unsafe fn accumulate<V: Row>(
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
) {
    // SAFETY: the caller's promise. The lengths of most models as constants, so that strides fold into addresses.
    unsafe {
        match head {
            64 => accumulate_any::<V>(weights, values, acc, 64, positions, rows),
            128 => accumulate_any::<V>(weights, values, acc, 128, positions, rows),
            _ => accumulate_any::<V>(weights, values, acc, head, positions, rows),
        }
    }
}

/// [`accumulate`] for any length of head.
///
/// # Safety
/// That of [`accumulate`].
#[inline(always)]
unsafe fn accumulate_any<V: Row>(
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
) {
    let mut r = 0;
    // SAFETY: the caller's promise, for rows r to r + R.
    unsafe {
        while rows - r >= 4 {
            accumulate_to::<V, 4, 2>(weights.add(r * KV_BLOCK), values, acc.add(r * head), head, positions, (r, rows));
            r += 4;
        }
        if rows - r >= 2 {
            accumulate_to::<V, 2, 4>(weights.add(r * KV_BLOCK), values, acc.add(r * head), head, positions, (r, rows));
            r += 2;
        }
        if rows > r {
            accumulate_to::<V, 1, 8>(weights.add(r * KV_BLOCK), values, acc.add(r * head), head, positions, (r, rows));
        }
    }
}

/// Accumulates to `R` rows, `C` vectors at a time, `R * C = 8`: those from `r` on of `rows`.
///
/// # Safety
/// That of [`accumulate`], with `R` rows.
#[inline(always)]
unsafe fn accumulate_to<V: Row, const R: usize, const C: usize>(
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
    (r, rows): (usize, usize),
) {
    let ahead = |d, part| Ahead::new(values, V::bytes(head), r * head + R * d, R * part, rows * head);
    let whole = head / (C * LANES) * (C * LANES);
    // SAFETY: vectors d to d + C of the row.
    unsafe {
        for d in (0..whole).step_by(C * LANES) {
            accumulate_at::<V, R, C>(weights, values, acc, head, positions, d, ahead(d, C * LANES));
        }
        for d in (whole..head).step_by(LANES) {
            accumulate_at::<V, R, 1>(weights, values, acc, head, positions, d, ahead(d, LANES));
        }
    }
}

/// Accumulates elements `d..d + C * 8` of `R` rows, `d` a multiple of `C * 8`.
///
/// # Safety
/// That of [`accumulate`], with `R` rows and the elements in them.
#[inline(always)]
unsafe fn accumulate_at<V: Row, const R: usize, const C: usize>(
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
    d: usize,
    mut ahead: Ahead,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [[_mm256_setzero_ps(); C]; R];
        for r in 0..R {
            for c in 0..C {
                sum[r][c] = _mm256_loadu_ps(acc.add(r * head + d + c * LANES));
            }
        }
        let row_bytes = V::bytes(head);
        for first in (0..positions).step_by(GROUP) {
            ahead.go_on(GROUP);
            for p in first..positions.min(first + GROUP) {
                let row = values.add(p * row_bytes);
                let mut value = [_mm256_setzero_ps(); C];
                for c in 0..C {
                    let scale = V::scale(row, head, d / Q8_BLOCK + c * LANES / Q8_BLOCK);
                    value[c] = V::load(row, d + c * LANES, scale);
                }
                for r in 0..R {
                    let weight = _mm256_broadcast_ss(&*weights.add(r * KV_BLOCK + p));
                    for c in 0..C {
                        sum[r][c] = _mm256_fmadd_ps(weight, value[c], sum[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                _mm256_storeu_ps(acc.add(r * head + d + c * LANES), sum[r][c]);
            }
        }
    }
}
