//! Attention inner loops over one block of KV positions.
//!
//! Keys lie in tiles of 16 positions ([`ir::tensor::Layout::Keys`]), so that a vector is one element of them all and a score
//! a lane, which nothing has to be summed over; values lie row by row, so that a vector is a part of an output. Query rows
//! go four at a time, then two, then one, with more tiles or vectors the fewer they are. The float operations of an output
//! are the same in all cases, so it does not depend on how many rows and positions there are. Nothing is prefetched: a pass
//! reads its block front to back, which the CPU sees by itself.

use crate::bytes::Bytes;
use crate::simd::Simd;
use ir::abi::{KV_BLOCK, Q8_BLOCK, TILE_ROWS, kv_f16_row_bytes, kv_q8_row_bytes};
use std::arch::x86_64::*;

/// A KV row format.
pub trait Row {
    /// Whether elements have a scale for every 32.
    const SCALED: bool;
    /// Bytes of an element.
    const BYTES: usize;
    /// Bytes of a row of `head` elements.
    fn bytes(head: usize) -> usize;
    /// Loads 16 elements without their scales.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Float;
    /// Loads elements `d..d + 4` of the row at `row` with their scale.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; the row has `head` elements, more than `d + 3`.
    unsafe fn four(row: *const u8, head: usize, d: usize) -> __m128;
}

/// Rows of [`kv_f16_row_bytes`].
pub struct F16;

impl Row for F16 {
    const SCALED: bool = false;
    const BYTES: usize = 2;
    fn bytes(head: usize) -> usize {
        kv_f16_row_bytes(head)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Float {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p) }
    }
    #[inline(always)]
    unsafe fn four(row: *const u8, _: usize, d: usize) -> __m128 {
        // SAFETY: the caller's promise.
        unsafe { _mm_cvtph_ps(_mm_loadl_epi64(row.add(2 * d).cast())) }
    }
}

/// Rows of [`kv_q8_row_bytes`].
pub struct Q8;

impl Row for Q8 {
    const SCALED: bool = true;
    const BYTES: usize = 1;
    fn bytes(head: usize) -> usize {
        kv_q8_row_bytes(head)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Float {
        // SAFETY: the caller's promise.
        s.load_i8(Bytes(unsafe { _mm_loadu_si128(p.cast()) }))
    }
    #[inline(always)]
    unsafe fn four(row: *const u8, head: usize, d: usize) -> __m128 {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = _mm_cvtepi8_epi32(_mm_loadu_si32(row.add(d).cast()));
            _mm_mul_ps(_mm_cvtepi32_ps(codes), _mm_set1_ps(scale(row, head, d)))
        }
    }
}

/// Where the scale of element `d` is in an 8-bit row.
#[inline(always)]
fn scale_at(head: usize, d: usize) -> usize {
    head.next_multiple_of(Q8_BLOCK) + 2 * (d / Q8_BLOCK)
}

/// The scale of element `d` of the 8-bit row at `row`.
///
/// # Safety
/// The CPU has F16C; the row has `head` elements, more than `d`.
#[inline(always)]
unsafe fn scale(row: *const u8, head: usize, d: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = row.add(scale_at(head, d)).cast::<i16>().read_unaligned();
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(bits)))
    }
}

/// [`ir::abi::ScoresFn`].
///
/// # Safety
/// `q` has `rows * head` floats; `keys` has the tiles of `positions` rows of the format; `out` has
/// `rows * KV_BLOCK` floats; `positions <= KV_BLOCK`.
#[inline(always)]
pub unsafe fn scores<S: Simd, K: Row>(
    s: S,
    q: *const f32,
    keys: *const u8,
    out: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
) {
    let tiles = positions.div_ceil(TILE_ROWS);
    // SAFETY: the caller's promise. The lengths of most models as constants, so that strides fold into addresses.
    unsafe {
        match head {
            64 => scores_any::<S, K>(s, q, keys, out, 64, tiles, rows),
            128 => scores_any::<S, K>(s, q, keys, out, 128, tiles, rows),
            _ => scores_any::<S, K>(s, q, keys, out, head, tiles, rows),
        }
    }
}

/// [`scores`] for any length of head.
///
/// # Safety
/// That of [`scores`].
#[inline(always)]
unsafe fn scores_any<S: Simd, K: Row>(
    s: S,
    q: *const f32,
    keys: *const u8,
    out: *mut f32,
    head: usize,
    tiles: usize,
    rows: usize,
) {
    let mut r = 0;
    // SAFETY: the caller's promise, for rows r to r + R.
    unsafe {
        while rows - r >= 4 {
            scores_of::<S, K, 4, 1>(s, q.add(r * head), keys, out.add(r * KV_BLOCK), head, tiles);
            r += 4;
        }
        if rows - r >= 2 {
            scores_of::<S, K, 2, 2>(s, q.add(r * head), keys, out.add(r * KV_BLOCK), head, tiles);
            r += 2;
        }
        if rows > r {
            scores_of::<S, K, 1, 4>(s, q.add(r * head), keys, out.add(r * KV_BLOCK), head, tiles);
        }
    }
}

/// Scores of `R` rows, `T` tiles at a time: as many sums as hide the time that an addition takes.
///
/// # Safety
/// That of [`scores`], with `R` rows.
#[inline(always)]
unsafe fn scores_of<S: Simd, K: Row, const R: usize, const T: usize>(
    s: S,
    q: *const f32,
    keys: *const u8,
    out: *mut f32,
    head: usize,
    tiles: usize,
) {
    let tile_bytes = TILE_ROWS * K::bytes(head);
    for first in (0..tiles).step_by(T) {
        let mut tile = [keys; T];
        for (t, tile) in tile.iter_mut().enumerate() {
            // Those past the end repeat the last.
            *tile = keys.wrapping_add((first + t).min(tiles - 1) * tile_bytes);
        }
        let mut sums = [[s.zero_float(); T]; R];
        for block in (0..head).step_by(Q8_BLOCK) {
            let mut part = if K::SCALED { [[s.zero_float(); T]; R] } else { sums };
            for d in block..head.min(block + Q8_BLOCK) {
                for t in 0..T {
                    // SAFETY: an element of the tile's rows.
                    let key = unsafe { K::load(s, tile[t].add(d * TILE_ROWS * K::BYTES)) };
                    for r in 0..R {
                        // SAFETY: an element of the query rows.
                        let q = s.splat_float(unsafe { *q.add(r * head + d) });
                        part[r][t] = s.fma_splat(key, q, part[r][t]);
                    }
                }
            }
            if !K::SCALED {
                sums = part;
                continue;
            }
            for t in 0..T {
                // SAFETY: the scales of a block of the tile's rows.
                let scales = unsafe { s.load_f16(tile[t].add(scale_at(head, block) * TILE_ROWS)) };
                for r in 0..R {
                    sums[r][t] = s.fma(part[r][t], scales, sums[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T.min(tiles - first) {
                // SAFETY: a tile of the block's.
                unsafe { s.store_f32(out.add(r * KV_BLOCK + (first + t) * TILE_ROWS), sums[r][t]) };
            }
        }
    }
}

/// [`ir::abi::AccumulateFn`].
///
/// # Safety
/// The CPU has AVX2, FMA and F16C. `weights` has `rows * KV_BLOCK` floats; `values` has `positions` rows of the format;
/// `acc` has `rows * head` floats, `head` a multiple of 4; `positions <= KV_BLOCK`.
#[inline(always)]
pub unsafe fn accumulate<S: Simd, V: Row>(
    s: S,
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
) {
    let operands = |head| Operands { weights, values, acc, head, positions };
    // SAFETY: the caller's promise. The lengths of most models as constants, so that strides fold into addresses.
    unsafe {
        match head {
            64 => accumulate_any::<S, V>(s, operands(64), rows),
            128 => accumulate_any::<S, V>(s, operands(128), rows),
            _ => accumulate_any::<S, V>(s, operands(head), rows),
        }
    }
}

/// Operands of [`accumulate`], of as many rows as its callees say.
#[derive(Clone, Copy)]
struct Operands {
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
}

impl Operands {
    /// Those from row `r` on.
    ///
    /// # Safety
    /// It has the row.
    #[inline(always)]
    unsafe fn from(self, r: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Operands { weights: self.weights.add(r * KV_BLOCK), acc: self.acc.add(r * self.head), ..self } }
    }
}

/// [`accumulate`] for any length of head.
///
/// # Safety
/// That of [`accumulate`].
#[inline(always)]
unsafe fn accumulate_any<S: Simd, V: Row>(s: S, operands: Operands, rows: usize) {
    let mut r = 0;
    // SAFETY: the caller's promise, for rows r to r + R.
    unsafe {
        while rows - r >= 4 {
            // Sixteen sums, or four where registers hold no more beside all else.
            if S::SUMS >= 16 {
                accumulate_to::<S, V, 4, 4>(s, operands.from(r));
            } else {
                accumulate_to::<S, V, 4, 1>(s, operands.from(r));
            }
            r += 4;
        }
        if rows - r >= 2 {
            accumulate_to::<S, V, 2, 2>(s, operands.from(r));
            r += 2;
        }
        if rows > r {
            accumulate_to::<S, V, 1, 4>(s, operands.from(r));
        }
    }
}

/// Accumulates to `R` rows, `C` vectors at a time.
///
/// # Safety
/// That of [`accumulate`], with `R` rows.
#[inline(always)]
unsafe fn accumulate_to<S: Simd, V: Row, const R: usize, const C: usize>(s: S, operands: Operands) {
    let mut d = 0;
    // SAFETY: elements of the rows.
    unsafe {
        while operands.head - d >= C * TILE_ROWS {
            accumulate_at::<S, V, R, C>(s, operands, d);
            d += C * TILE_ROWS;
        }
        while operands.head - d >= TILE_ROWS {
            accumulate_at::<S, V, R, 1>(s, operands, d);
            d += TILE_ROWS;
        }
        for d in (d..operands.head).step_by(4) {
            for r in 0..R {
                accumulate_four::<V>(operands.from(r), d);
            }
        }
    }
}

/// Accumulates elements `d..d + C * 16` of `R` rows.
///
/// # Safety
/// That of [`accumulate`], with `R` rows and the elements in them.
#[inline(always)]
unsafe fn accumulate_at<S: Simd, V: Row, const R: usize, const C: usize>(s: S, operands: Operands, d: usize) {
    let Operands { weights, values, acc, head, positions } = operands;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = [[s.zero_float(); C]; R];
        for r in 0..R {
            for c in 0..C {
                sum[r][c] = s.load_f32(acc.add(r * head + d + c * TILE_ROWS).cast());
            }
        }
        for p in 0..positions {
            let row = values.add(p * V::bytes(head));
            let mut value = [s.zero_float(); C];
            for c in 0..C {
                let d = d + c * TILE_ROWS;
                value[c] = V::load(s, row.add(d * V::BYTES));
                if V::SCALED {
                    value[c] = s.mul_splat(value[c], s.splat_float(scale(row, head, d)));
                }
            }
            for r in 0..R {
                let weight = s.splat_float(*weights.add(r * KV_BLOCK + p));
                for c in 0..C {
                    sum[r][c] = s.fma_splat(value[c], weight, sum[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                s.store_f32(acc.add(r * head + d + c * TILE_ROWS), sum[r][c]);
            }
        }
    }
}

/// Accumulates elements `d..d + 4` of one row.
///
/// # Safety
/// That of [`accumulate`], with one row and the elements in it.
#[inline(always)]
unsafe fn accumulate_four<V: Row>(operands: Operands, d: usize) {
    let Operands { weights, values, acc, head, positions } = operands;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = _mm_loadu_ps(acc.add(d));
        for p in 0..positions {
            let value = V::four(values.add(p * V::bytes(head)), head, d);
            sum = _mm_fmadd_ps(value, _mm_set1_ps(*weights.add(p)), sum);
        }
        _mm_storeu_ps(acc.add(d), sum);
    }
}
