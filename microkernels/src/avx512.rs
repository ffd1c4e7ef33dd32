//! [`Simd`] for AVX-512 F, BW, DQ, VL and VNNI, with VBMI or without: a vector is one register.
//!
//! Quads are summed by `vpdpbusd` in 32-bit lanes, which begin at minus the offset times the activation sums; a group's
//! sum is scaled in f32, which is exact because it has at most 24 bits.

use crate::bytes::Bytes;
use crate::simd::{MARGIN, Simd, Sizes, nibbles};
use ir::abi::Q8_STARTS;
use std::arch::{asm, x86_64::*};

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI, and VBMI if `VBMI`.
#[derive(Clone, Copy)]
pub struct Avx512<const VBMI: bool>(());

impl<const VBMI: bool> Avx512<VBMI> {
    /// The token.
    ///
    /// # Safety
    /// The CPU must have the features, and the caller must enable them.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx512(())
    }
}

/// An expression of intrinsics that touch no memory.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves the features.
        unsafe { $e }
    };
}

/// Bytes of a vector.
#[repr(align(64))]
struct Table([u8; 64]);

impl Table {
    /// Byte `e` of lane `lane`: `lane * by_lane + e * by_byte + first`, with `lane` and `e` modulo `lanes` and `bytes`.
    const fn new((lanes, by_lane): (usize, usize), (bytes, by_byte): (usize, usize), first: usize) -> Table {
        let mut table = [0; 64];
        let mut i = 0;
        while i < 64 {
            table[i] = (i / 4 % lanes * by_lane + i % 4 % bytes * by_byte + first) as u8;
            i += 1;
        }
        Table(table)
    }

    #[inline(always)]
    fn load(&self) -> __m512i {
        // SAFETY: a vector is as long; the callers' tokens prove AVX-512 F.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

/// Tables of four quads, each from what is given for the first and what is more for the next.
macro_rules! four {
    ($lanes:expr, $bytes:expr, $first:expr, $more:expr) => {
        [
            Table::new($lanes, $bytes, $first),
            Table::new($lanes, $bytes, $first + $more),
            Table::new($lanes, $bytes, $first + 2 * $more),
            Table::new($lanes, $bytes, $first + 3 * $more),
        ]
    };
}

/// For [`Simd::points`]: the bytes of a quad in two vectors, the second's from 64 on.
static BOTH: [Table; 4] = four!((16, 4), (2, 64), 0, 1);
/// The bit of a pair of lanes from which each four bits of those bytes are.
static NUMBERS: Table = Table::new((2, 32), (4, 4), 0);
/// The bit of a pair of lanes three before the sign of each element, modulo 64, for the first and the last quads.
static MINUS: [[Table; 4]; 2] = [four!((2, 32), (4, 1), 61, 4), four!((2, 32), (4, 1), 77, 4)];

/// For [`Simd::lut_nibbles`]: each entry of a table four times.
static FOURS: Table = Table::new((16, 1), (1, 0), 0);

/// The bytes of a table at the indices of [`Simd::points`].
///
/// # Safety
/// The CPU must have VBMI.
#[inline(always)]
unsafe fn pairs(table: &[u8; 512], index: __m512i, high: __m512i) -> __m512i {
    let mut parts = [index; 8];
    let mut quarters = [index; 4];
    // SAFETY: the parts of the table; the caller's promise.
    unsafe {
        for (i, part) in parts.iter_mut().enumerate() {
            *part = _mm512_loadu_si512(table.as_ptr().add(i * 64).cast());
        }
        // By bits 0 to 6 of the index, by bit 7, by the bit above.
        for (i, quarter) in quarters.iter_mut().enumerate() {
            *quarter = _mm512_permutex2var_epi8(parts[2 * i], index, parts[2 * i + 1]);
        }
        let bit7 = _mm512_movepi8_mask(index);
        let first = _mm512_mask_blend_epi8(bit7, quarters[0], quarters[1]);
        let last = _mm512_mask_blend_epi8(bit7, quarters[2], quarters[3]);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(high), first, last)
    }
}

/// [`Simd::settle`].
#[inline]
#[target_feature(enable = "avx512f")]
fn settle(mut a: __m512) -> __m512 {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nomem, nostack, preserves_flags)) };
    a
}

impl<const VBMI: bool> Simd for Avx512<VBMI> {
    type Word = __m512i;
    type Float = __m512;
    type SplatWord = __m512i;
    type SplatFloat = __m512;
    /// `None` for 1.
    type Scale = Option<__m512>;
    /// `None` for 0.
    type Total = Option<__m512>;

    const RUN: [usize; 9] = [8; 9];
    const SPLIT8: bool = false;
    const WIDE: bool = true;
    const TOKENS: [usize; 4] = [8, 8, 8, 4];
    const SUMS: usize = 16;
    const STREAMED: [usize; 4] = [2, usize::MAX, usize::MAX, usize::MAX];
    const AHEAD: [usize; 2] = [0, 6144];
    const POINTS: bool = VBMI;
    const CHAINS: usize = 4;

    #[inline(always)]
    fn zero(self) -> Self::Word {
        op!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn splat(self, x: u32) -> Self::Word {
        op!(_mm512_set1_epi32(x as i32))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Self::Word {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_splat(self, p: *const u8) -> Self::SplatWord {
        // SAFETY: the caller vouches for 4 bytes.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn and(self, a: Self::Word, b: Self::Word) -> Self::Word {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or(self, a: Self::Word, b: Self::Word) -> Self::Word {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn xor(self, a: Self::Word, b: Self::Word) -> Self::Word {
        op!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn shl(self, a: Self::Word, by: u32) -> Self::Word {
        op!(_mm512_sll_epi32(a, _mm_cvtsi32_si128(by as i32)))
    }
    #[inline(always)]
    fn shr(self, a: Self::Word, by: u32) -> Self::Word {
        op!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(by as i32)))
    }
    #[inline(always)]
    fn lut(self, index: Self::Word, table: &[u8; 16]) -> Self::Word {
        // SAFETY: the table has the 16 bytes that are loaded.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        op!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index))
    }

    #[inline(always)]
    fn lut_nibbles(self, word: Self::Word, high: bool, table: &[u8; 16]) -> Self::Word {
        if !VBMI {
            return self.lut(nibbles(self, word, high), table);
        }
        // SAFETY: the table has the 16 bytes that are loaded; the token proves the features.
        unsafe {
            let entries = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            // The low six bits of each byte are the index: the nibble is the low four of them, or the high four.
            if high {
                _mm512_permutexvar_epi8(self.shr(word, 2), _mm512_permutexvar_epi8(FOURS.load(), entries))
            } else {
                _mm512_permutexvar_epi8(word, entries)
            }
        }
    }

    #[inline(always)]
    fn sub8(self, a: Self::Word, b: Self::Word) -> Self::Word {
        op!(_mm512_sub_epi8(a, b))
    }
    #[inline(always)]
    fn masks(self, bits: Self::Word, byte: usize, high: bool) -> Self::Word {
        let four = 0x0101_0101 * byte as i32;
        let bit = if high { 0x8040_2010u32 as i32 } else { 0x0804_0201 };
        let from = op!(_mm_set_epi32(four + 0x0c0c_0c0c, four + 0x0808_0808, four + 0x0404_0404, four));
        let bytes = op!(_mm512_shuffle_epi8(bits, _mm512_broadcast_i32x4(from)));
        op!(_mm512_movm_epi8(_mm512_test_epi8_mask(bytes, _mm512_set1_epi32(bit))))
    }
    #[inline(always)]
    unsafe fn gather8<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word {
        // SAFETY: the caller vouches for the bytes and the indices.
        unsafe {
            let index = self.and(self.load(p), self.splat(0xff));
            _mm512_i32gather_epi32::<SCALE>(index, table.as_ptr().add(MARGIN).cast())
        }
    }
    #[inline(always)]
    unsafe fn gather16<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word {
        // SAFETY: the caller vouches for the bytes and the indices.
        unsafe {
            let index = self.and(self.load(p), self.splat(0xffff));
            _mm512_i32gather_epi32::<SCALE>(index, table.as_ptr().add(MARGIN).cast())
        }
    }
    #[inline(always)]
    fn points(
        self,
        sizes: &Sizes,
        index: Self::Word,
        high: Self::Word,
        signs: Self::Word,
        last: bool,
    ) -> [Self::Word; 4] {
        // SAFETY: the token proves the features if `VBMI`, without which this is not called; loads are of the tables.
        unsafe {
            let (first, second) = (pairs(&sizes.pairs[0], index, high), pairs(&sizes.pairs[1], index, high));
            let codes = _mm512_broadcast_i32x4(_mm_loadu_si128(sizes.codes.as_ptr().cast()));
            let mut out = [index; 4];
            for (j, out) in out.iter_mut().enumerate() {
                // Both bytes of quad j side by side, then each four bits of them at the bottom of a byte.
                let both = _mm512_permutex2var_epi8(first, BOTH[j].load(), second);
                let numbers = _mm512_multishift_epi64_epi8(NUMBERS.load(), both);
                // Bit 3 of each byte is the element's sign.
                let minus = _mm512_multishift_epi64_epi8(MINUS[usize::from(last)][j].load(), signs);
                // (mask ? minus : numbers), whose bits above the fourth do not matter.
                let numbers = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(8), minus, numbers);
                *out = _mm512_permutexvar_epi8(numbers, codes);
            }
            out
        }
    }
    #[inline(always)]
    fn widen(self, bytes: Bytes) -> Self::Word {
        op!(_mm512_cvtepu8_epi32(bytes.0))
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u8) -> Self::Word {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    fn float_of_bits(self, bits: Self::Word) -> Self::Float {
        op!(_mm512_castsi512_ps(bits))
    }
    #[inline(always)]
    fn bits_of_float(self, a: Self::Float) -> Self::Word {
        op!(_mm512_castps_si512(a))
    }

    #[inline(always)]
    fn kept_start(self, offset: i16, start: Self::SplatWord, groups: usize) -> Option<Self::Word> {
        let (offset, kept) = (i32::from(offset), -Q8_STARTS[groups - 1]);
        if offset == kept {
            return Some(start);
        }
        if offset <= 0 || offset > kept || offset.count_ones() > 1 {
            return None;
        }
        let by = kept.ilog2() - offset.ilog2();
        Some(op!(_mm512_sra_epi32(start, _mm_cvtsi32_si128(by as i32))))
    }
    #[inline(always)]
    fn group_start(self, offset: i16, sums: Self::SplatWord, group: usize, groups: usize) -> Self::Word {
        if offset == 0 {
            return self.zero();
        }
        let factor = u32::from((-offset) as u16);
        let factors = match (groups, group) {
            (1, _) => factor << 16 | factor,
            (_, 0) => factor,
            _ => factor << 16,
        };
        op!(_mm512_madd_epi16(sums, _mm512_set1_epi32(factors as i32)))
    }
    #[inline(always)]
    fn dot4(self, acc: Self::Word, codes: Self::Word, activations: Self::SplatWord) -> Self::Word {
        op!(_mm512_dpbusd_epi32(acc, codes, activations))
    }
    #[inline(always)]
    fn total_start(self, _: Self::SplatWord, _: Self::Word) -> Self::Total {
        None
    }
    #[inline(always)]
    fn correction(self, _: i16, _: Self::Scale, _: Self::Scale) -> Self::Word {
        self.zero()
    }
    #[inline(always)]
    fn fold(self, total: Self::Total, acc: Self::Word, scale: Self::Scale) -> Self::Total {
        let sum = op!(_mm512_cvtepi32_ps(acc));
        Some(match (total, scale) {
            (None, None) => sum,
            (None, Some(scale)) => op!(_mm512_mul_ps(sum, scale)),
            (Some(total), None) => op!(_mm512_add_ps(sum, total)),
            (Some(total), Some(scale)) => op!(_mm512_fmadd_ps(sum, scale, total)),
        })
    }
    #[inline(always)]
    fn total(self, total: Self::Total) -> Self::Float {
        total.unwrap_or(self.zero_float())
    }
    #[inline(always)]
    fn scale(self, bytes: Bytes) -> Self::Scale {
        Some(self.load_i8(bytes))
    }
    #[inline(always)]
    fn unit_scale(self) -> Self::Scale {
        None
    }
    #[inline(always)]
    fn scale16(self, scale: Self::Scale) -> Self::Scale {
        let sixteen = op!(_mm512_set1_ps(16.0));
        Some(scale.map_or(sixteen, |scale| op!(_mm512_mul_ps(scale, sixteen))))
    }

    #[inline(always)]
    fn settle(self, a: Self::Float) -> Self::Float {
        op!(settle(a))
    }
    #[inline(always)]
    fn settle_word(self, a: Self::Word) -> Self::Word {
        op!(_mm512_castps_si512(settle(_mm512_castsi512_ps(a))))
    }
    #[inline(always)]
    fn zero_float(self) -> Self::Float {
        op!(_mm512_setzero_ps())
    }
    #[inline(always)]
    fn splat_float(self, x: f32) -> Self::SplatFloat {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_ps(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller vouches for 32 bytes.
        let wide = unsafe { self.load_u16(p) };
        self.float_of_bits(op!(_mm512_slli_epi32::<16>(wide)))
    }
    #[inline(always)]
    fn load_i8(self, bytes: Bytes) -> Self::Float {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes.0)))
    }
    #[inline(always)]
    unsafe fn store_f32(self, p: *mut f32, a: Self::Float) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_storeu_ps(p, a) }
    }
    #[inline(always)]
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::Float, b: Self::Float) -> Self::Float {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::Float, b: Self::Float) -> Self::Float {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn largest_lane(self, a: Self::Float) -> f32 {
        op!(_mm512_reduce_max_ps(a))
    }
    #[inline(always)]
    fn sum_lanes(self, a: Self::Float) -> f32 {
        op!(_mm512_reduce_add_ps(a))
    }
    #[inline(always)]
    fn mul_splat(self, a: Self::Float, b: Self::SplatFloat) -> Self::Float {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float {
        op!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float {
        op!(_mm512_fmadd_ps(a, b, c))
    }
}
