//! [`Simd`] for AVX-512 F, BW, DQ, VL and VNNI: a vector is one register.
//!
//! Quads are summed by `vpdpbusd` in 32-bit lanes, which begin at minus the offset times the activation sums; a group's
//! sum is scaled in f32, which is exact because it has at most 24 bits.

use crate::bytes::Bytes;
use crate::simd::{MARGIN, Simd};
use std::arch::{asm, x86_64::*};

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
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

/// [`Simd::settle`].
#[inline]
#[target_feature(enable = "avx512f")]
fn settle(mut a: __m512) -> __m512 {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nomem, nostack, preserves_flags)) };
    a
}

impl Simd for Avx512 {
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
    const TOKENS: [usize; 4] = [8, 4, 8, 4];
    const SUMS: usize = 16;
    const STREAMED: [usize; 4] = [2, usize::MAX, usize::MAX, usize::MAX];
    const AHEAD: [usize; 3] = [0, 512, 6144];
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
    unsafe fn scaled_sums(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller's promise.
        let (blocks, scales) = unsafe { (self.load(p), self.load_f32(p)) };
        let sums = op!(_mm512_cvtepi32_ps(_mm512_madd_epi16(blocks, _mm512_set1_epi16(1))));
        op!(_mm512_mul_ps(sums, _mm512_moveldup_ps(scales)))
    }

    #[inline(always)]
    fn settle(self, a: Self::Float) -> Self::Float {
        op!(settle(a))
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
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float {
        op!(_mm512_mul_ps(a, b))
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
