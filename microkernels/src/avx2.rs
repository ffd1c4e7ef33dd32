//! [`Simd`] for AVX2, FMA and F16C: a vector is a pair of registers.
//!
//! Quads are summed by `vpmaddubsw` in 16-bit lanes, two to a row, for as long as they cannot overflow; `vpmaddwd` then
//! multiplies by the scale, which stands in both lanes, and adds the two.

use crate::bytes::Bytes;
use crate::simd::{MARGIN, Simd};
use std::arch::{asm, x86_64::*};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The token.
    ///
    /// # Safety
    /// The CPU must have the features, and the caller must enable them.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx2(())
    }
}

/// Rows 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub struct Pair<T>(T, T);

/// Applies an intrinsic to both halves: a variable stands for its half, `(x)` for an operand that both share.
macro_rules! both {
    ($f:ident$(::<$n:literal>)?($($a:tt),*)) => {
        // SAFETY: the token proves the features, and the intrinsic touches no memory.
        unsafe { Pair($f$(::<$n>)?($(both!(0 $a)),*), $f$(::<$n>)?($(both!(1 $a)),*)) }
    };
    (0 $a:ident) => { $a.0 };
    (1 $a:ident) => { $a.1 };
    ($half:literal ($a:expr)) => { $a };
}

/// The operand of a shift by a number that is a constant once inlined.
#[inline(always)]
fn count(by: u32) -> __m128i {
    // SAFETY: SSE2 is in the baseline of the architecture.
    unsafe { _mm_cvtsi32_si128(by as i32) }
}

/// The entries of all rows, in a table with margins. `vpgatherdd` and `vpinsrd` take more micro-operations than to load
/// a vector in which the entry is where it belongs, and blend.
///
/// # Safety
/// The indices must be below the number of entries; the CPU must have AVX2.
#[inline(always)]
unsafe fn entries<const SCALE: i32>(table: &[u32], index: impl Fn(usize) -> usize) -> Pair<__m256i> {
    let four = |row: usize| {
        // SAFETY: the margins make up for what is read besides the entry.
        let at = |lane: usize| unsafe {
            _mm_loadu_si128(table.as_ptr().add(MARGIN - lane + index(row + lane) * (SCALE as usize / 4)).cast())
        };
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let first = _mm_blend_epi32::<0b0010>(at(0), at(1));
            _mm_blend_epi32::<0b1000>(_mm_blend_epi32::<0b0100>(first, at(2)), at(3))
        }
    };
    // SAFETY: as above.
    unsafe { Pair(_mm256_set_m128i(four(4), four(0)), _mm256_set_m128i(four(12), four(8))) }
}

/// [`Simd::settle`] for half a vector.
#[inline]
#[target_feature(enable = "avx")]
fn settle(mut a: __m256) -> __m256 {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
    a
}

impl Simd for Avx2 {
    type Word = Pair<__m256i>;
    type Float = Pair<__m256>;
    type SplatWord = __m256i;
    type SplatFloat = __m256;
    type Scale = Pair<__m256i>;
    type Total = Pair<__m256i>;

    // A lane gets two products a quad: 2 * 127 * (2^bits - 1) * quads <= 32767, or one run of a plane of 4 bits.
    const RUN: [usize; 9] = [0, 8, 8, 8, 8, 4, 2, 1, 8];
    const SPLIT8: bool = true;
    const WIDE: bool = false;
    const TOKENS: [usize; 4] = [4, 4, 2, 3];
    const SUMS: usize = 1;
    const STREAMED: [usize; 4] = [1, 1, 2, 4];
    const AHEAD: [usize; 2] = [1024, 4096];
    const CHAINS: usize = 2;

    #[inline(always)]
    fn zero(self) -> Self::Word {
        both!(_mm256_setzero_si256())
    }
    #[inline(always)]
    fn splat(self, x: u32) -> Self::Word {
        both!(_mm256_set1_epi32((x as i32)))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Self::Word {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { Pair(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn load_splat(self, p: *const u8) -> Self::SplatWord {
        // SAFETY: the caller vouches for 4 bytes.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn and(self, a: Self::Word, b: Self::Word) -> Self::Word {
        both!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn or(self, a: Self::Word, b: Self::Word) -> Self::Word {
        both!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn xor(self, a: Self::Word, b: Self::Word) -> Self::Word {
        both!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn shl(self, a: Self::Word, by: u32) -> Self::Word {
        both!(_mm256_sll_epi32(a, (count(by))))
    }
    #[inline(always)]
    fn shr(self, a: Self::Word, by: u32) -> Self::Word {
        both!(_mm256_srl_epi32(a, (count(by))))
    }
    #[inline(always)]
    fn lut(self, index: Self::Word, table: &[u8; 16]) -> Self::Word {
        // SAFETY: the token proves the features; the table has the 16 bytes that are loaded.
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        both!(_mm256_shuffle_epi8((table), index))
    }

    #[inline(always)]
    fn sub8(self, a: Self::Word, b: Self::Word) -> Self::Word {
        both!(_mm256_sub_epi8(a, b))
    }
    #[inline(always)]
    fn masks(self, bits: Self::Word, byte: usize, high: bool) -> Self::Word {
        let four = 0x0101_0101 * byte as i32;
        let bit = if high { 0x8040_2010u32 as i32 } else { 0x0804_0201 };
        // SAFETY: the token proves the features.
        let (from, bit) = unsafe {
            let words = _mm_set_epi32(four + 0x0c0c_0c0c, four + 0x0808_0808, four + 0x0404_0404, four);
            (_mm256_broadcastsi128_si256(words), _mm256_set1_epi32(bit))
        };
        let bytes = both!(_mm256_shuffle_epi8(bits, (from)));
        let set = both!(_mm256_and_si256(bytes, (bit)));
        both!(_mm256_cmpeq_epi8(set, (bit)))
    }
    #[inline(always)]
    unsafe fn gather8<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word {
        // SAFETY: the caller vouches for the bytes and the indices.
        unsafe { entries::<SCALE>(table, |row| usize::from(*p.add(4 * row))) }
    }
    #[inline(always)]
    unsafe fn gather16<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word {
        // SAFETY: the caller vouches for the bytes and the indices.
        unsafe { entries::<SCALE>(table, |row| usize::from(p.add(4 * row).cast::<u16>().read_unaligned())) }
    }
    #[inline(always)]
    fn widen(self, bytes: Bytes) -> Self::Word {
        // SAFETY: the token proves the features.
        let halves = unsafe { Pair(bytes.0, _mm_unpackhi_epi64(bytes.0, bytes.0)) };
        both!(_mm256_cvtepu8_epi32(halves))
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u8) -> Self::Word {
        // SAFETY: the caller vouches for 32 bytes.
        let halves = unsafe { Pair(_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast())) };
        both!(_mm256_cvtepu16_epi32(halves))
    }
    #[inline(always)]
    fn float_of_bits(self, bits: Self::Word) -> Self::Float {
        both!(_mm256_castsi256_ps(bits))
    }
    #[inline(always)]
    fn bits_of_float(self, a: Self::Float) -> Self::Word {
        both!(_mm256_castps_si256(a))
    }

    #[inline(always)]
    fn group_start(self, _: i16, _: Self::SplatWord, _: usize, _: usize) -> Self::Word {
        self.zero()
    }
    #[inline(always)]
    fn dot4(self, acc: Self::Word, codes: Self::Word, activations: Self::SplatWord) -> Self::Word {
        let products = both!(_mm256_maddubs_epi16(codes, (activations)));
        both!(_mm256_add_epi16(acc, products))
    }
    #[inline(always)]
    fn total_start(self, sums: Self::SplatWord, correction: Self::Word) -> Self::Total {
        both!(_mm256_madd_epi16(correction, (sums)))
    }
    #[inline(always)]
    fn correction(self, offset: i16, first: Self::Scale, last: Self::Scale) -> Self::Word {
        let scales = both!(_mm256_blend_epi16::<0b1010_1010>(first, last));
        both!(_mm256_mullo_epi16(scales, (_mm256_set1_epi16(-offset))))
    }
    #[inline(always)]
    fn fold(self, total: Self::Total, acc: Self::Word, scale: Self::Scale) -> Self::Total {
        let scaled = both!(_mm256_madd_epi16(acc, scale));
        both!(_mm256_add_epi32(total, scaled))
    }
    #[inline(always)]
    fn total(self, total: Self::Total) -> Self::Float {
        both!(_mm256_cvtepi32_ps(total))
    }
    #[inline(always)]
    fn scale(self, bytes: Bytes) -> Self::Scale {
        // SAFETY: the token proves the features.
        unsafe {
            let wide = _mm256_cvtepi8_epi16(bytes.0);
            // Quarters 0, 2, 1, 3, since unpacking works in each half.
            let wide = _mm256_permute4x64_epi64::<0b11_01_10_00>(wide);
            Pair(_mm256_unpacklo_epi16(wide, wide), _mm256_unpackhi_epi16(wide, wide))
        }
    }
    #[inline(always)]
    fn unit_scale(self) -> Self::Scale {
        both!(_mm256_set1_epi16((1)))
    }
    #[inline(always)]
    fn scale16(self, scale: Self::Scale) -> Self::Scale {
        both!(_mm256_slli_epi16::<4>(scale))
    }

    #[inline(always)]
    fn settle(self, a: Self::Float) -> Self::Float {
        both!(settle(a))
    }
    #[inline(always)]
    fn settle_word(self, a: Self::Word) -> Self::Word {
        let a = both!(_mm256_castsi256_ps(a));
        let a = both!(settle(a));
        both!(_mm256_castps_si256(a))
    }
    #[inline(always)]
    fn zero_float(self) -> Self::Float {
        both!(_mm256_setzero_ps())
    }
    #[inline(always)]
    fn splat_float(self, x: f32) -> Self::SplatFloat {
        // SAFETY: the token proves the features.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { Pair(_mm256_loadu_ps(p.cast()), _mm256_loadu_ps(p.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller vouches for 32 bytes.
        let halves = unsafe { Pair(_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast())) };
        both!(_mm256_cvtph_ps(halves))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller vouches for 32 bytes.
        let wide = unsafe { self.load_u16(p) };
        self.float_of_bits(both!(_mm256_slli_epi32::<16>(wide)))
    }
    #[inline(always)]
    fn load_i8(self, bytes: Bytes) -> Self::Float {
        // SAFETY: the token proves the features.
        let halves = unsafe { Pair(bytes.0, _mm_unpackhi_epi64(bytes.0, bytes.0)) };
        let wide = both!(_mm256_cvtepi8_epi32(halves));
        both!(_mm256_cvtepi32_ps(wide))
    }
    #[inline(always)]
    unsafe fn store_f32(self, p: *mut f32, a: Self::Float) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe {
            _mm256_storeu_ps(p, a.0);
            _mm256_storeu_ps(p.add(8), a.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float {
        both!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float {
        both!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float {
        both!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::Float, b: Self::Float) -> Self::Float {
        both!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::Float, b: Self::Float) -> Self::Float {
        both!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn largest_lane(self, a: Self::Float) -> f32 {
        // SAFETY: the token proves the features.
        unsafe {
            let x = _mm256_max_ps(a.0, a.1);
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn sum_lanes(self, a: Self::Float) -> f32 {
        // SAFETY: the token proves the features.
        unsafe {
            let x = _mm256_add_ps(a.0, a.1);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn mul_splat(self, a: Self::Float, b: Self::SplatFloat) -> Self::Float {
        both!(_mm256_mul_ps(a, (b)))
    }
    #[inline(always)]
    fn fma(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        both!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float {
        both!(_mm256_fnmadd_ps(a, (b), c))
    }
    #[inline(always)]
    fn fma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float {
        both!(_mm256_fmadd_ps(a, (b), c))
    }
}
