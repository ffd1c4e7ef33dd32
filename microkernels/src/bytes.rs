//! 16 bytes, one for each row of a tile: what integer scales are unpacked in. SSE2, which every x86-64 CPU has.

use ir::abi::TILE_ROWS;
use std::arch::x86_64::*;

/// One byte for each row.
#[derive(Clone, Copy)]
pub struct Bytes(pub __m128i);

/// An expression of SSE2 intrinsics that touch no memory.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: SSE2 is in the baseline of the architecture.
        unsafe { $e }
    };
}

impl Bytes {
    /// Zeros.
    #[inline(always)]
    pub fn zero() -> Self {
        Bytes(op!(_mm_setzero_si128()))
    }

    /// Field byte `at` of the 16 rows of the superblock at `w`.
    ///
    /// # Safety
    /// The superblock must be readable and have the byte.
    #[inline(always)]
    pub unsafe fn load(w: *const u8, at: usize) -> Self {
        // SAFETY: the caller's promise.
        Bytes(unsafe { _mm_loadu_si128(w.add(at * TILE_ROWS).cast()) })
    }

    /// The low and the high bytes of the 16 rows' two-byte unit that begins with field byte `at`.
    ///
    /// # Safety
    /// The superblock must be readable and have the bytes.
    #[inline(always)]
    pub unsafe fn load_units2(w: *const u8, at: usize) -> [Self; 2] {
        // SAFETY: the caller's promise.
        let (first, last) = unsafe { (Self::load(w, at).0, Self::load(w, at + 1).0) };
        let low = op!(_mm_set1_epi16(255));
        [
            Bytes(op!(_mm_packus_epi16(_mm_and_si128(first, low), _mm_and_si128(last, low)))),
            Bytes(op!(_mm_packus_epi16(_mm_srli_epi16::<8>(first), _mm_srli_epi16::<8>(last)))),
        ]
    }

    /// The four high bits of the 16 rows' four-byte unit that begins with field byte `at`.
    ///
    /// # Safety
    /// The superblock must be readable and have the bytes.
    #[inline(always)]
    pub unsafe fn load_top4(w: *const u8, at: usize) -> Self {
        // SAFETY: the caller's promise.
        let words = [0, 1, 2, 3].map(|i| unsafe { _mm_srli_epi32::<28>(Self::load(w, at + i).0) });
        let halves = op!((_mm_packs_epi32(words[0], words[1]), _mm_packs_epi32(words[2], words[3])));
        Bytes(op!(_mm_packus_epi16(halves.0, halves.1)))
    }

    /// Bits `from..from + mask.count_ones()` of each byte, moved to where `mask` is.
    #[inline(always)]
    pub fn bits(self, from: usize, mask: u8) -> Self {
        let by = from as i32 - mask.trailing_zeros() as i32;
        let moved =
            op!(_mm_srl_epi16(_mm_sll_epi16(self.0, _mm_cvtsi32_si128(-by.min(0))), _mm_cvtsi32_si128(by.max(0))));
        Bytes(op!(_mm_and_si128(moved, _mm_set1_epi8(mask as i8))))
    }

    /// Bitwise OR.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        Bytes(op!(_mm_or_si128(self.0, other.0)))
    }

    /// 2 b + 1 of each byte b.
    #[inline(always)]
    pub fn odd(self) -> Self {
        Bytes(op!(_mm_add_epi8(_mm_add_epi8(self.0, self.0), _mm_set1_epi8(1))))
    }

    /// Each byte less `by`.
    #[inline(always)]
    pub fn less(self, by: i8) -> Self {
        Bytes(op!(_mm_sub_epi8(self.0, _mm_set1_epi8(by))))
    }
}

#[cfg(test)]
impl From<Bytes> for [i8; TILE_ROWS] {
    fn from(bytes: Bytes) -> Self {
        let mut out = [0; TILE_ROWS];
        // SAFETY: `out` has the 16 bytes stored; SSE2 is in the baseline.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes.0) };
        out
    }
}
