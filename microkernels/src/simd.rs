//! The vector operations that the dots are written over.
//!
//! Every vector has 16 lanes of 32 bits, lane = row of the weight tile, whatever the width of a register: AVX2 uses
//! pairs of registers. Implementors are tokens whose existence proves that the CPU has the features, so arithmetic is
//! safe and only memory accesses are not. Everything is `inline(always)`, so that it lands in the entry point that
//! enables the features. Next hop: `int` and `float` use this.

use crate::bytes::Bytes;

/// Words before and after the entries of a table that is read in vectors.
pub const MARGIN: usize = 3;

/// Points of four elements of eight sizes, for look-ups in registers.
pub struct Sizes {
    /// Of each point, the numbers of the sizes of elements 0 and 1, and of 2 and 3: the second from bit 4 on.
    pub pairs: [[u8; 512]; 2],
    /// The code of each size, then of each size with a minus.
    pub codes: [u8; 16],
}

impl Sizes {
    /// Of points whose elements, shifted right, are at most `offset` in size, and have codes that are `offset` larger.
    pub const fn new(points: &[u32], shift: u32, offset: u8) -> Sizes {
        let mut sizes = Sizes { pairs: [[0; 512]; 2], codes: [0; 16] };
        let (mut known, mut i) = (0, 0);
        while i < points.len() {
            let mut e = 0;
            while e < 4 {
                let size = points[i].to_le_bytes()[e] >> shift;
                let mut n = 0;
                while n < known && sizes.codes[n] != offset + size {
                    n += 1;
                }
                if n == known {
                    assert!(known < 8);
                    sizes.codes[n] = offset + size;
                    sizes.codes[8 + n] = offset - size;
                    known += 1;
                }
                sizes.pairs[e / 2][i] |= (n as u8) << (e % 2 * 4);
                e += 1;
            }
            i += 1;
        }
        sizes
    }
}

/// A set of vector instructions.
///
/// The integer dot is split so that each instruction set can scale where it is cheapest: [`dot4`](Simd::dot4) sums
/// quads into an accumulator that begins as [`group_start`](Simd::group_start), and [`fold`](Simd::fold) multiplies it
/// by the group's scale into a `Total`, which begins as [`total_start`](Simd::total_start). Exactly one of the two
/// starts carries the correction for the offset of the codes. All of it is exact in every implementation, so that the
/// results do not depend on it.
pub trait Simd: Copy {
    /// 16 words of 32 bits.
    type Word: Copy;
    /// 16 f32.
    type Float: Copy;
    /// One 32-bit word for all lanes.
    type SplatWord: Copy;
    /// One f32 for all lanes.
    type SplatFloat: Copy;
    /// Integer scales of 16 rows, as `fold` wants them.
    type Scale: Copy;
    /// Sum of scaled group sums.
    type Total: Copy;

    /// Quads that an accumulator of `dot4` holds without overflow, by code width.
    const RUN: [usize; 9];
    /// Whether 8-bit codes are split into planes of 4 bits, low and high, each with its own accumulator.
    const SPLIT8: bool;
    /// Whether `dot4` takes codes of 8 bits whatever the width of the form.
    const WIDE: bool;
    /// Tokens that the registers hold at once: in integer dots of one group a block, of two, of two planes; in float dots
    /// (3 or 4).
    const TOKENS: [usize; 4];
    /// Accumulators of `dot4` for several blocks at once that the registers hold beside all else.
    const SUMS: usize;
    /// Most tokens that stream packed tiles, from forms whose unpacking is most expensive to those where it is cheapest.
    const STREAMED: [usize; 4];
    /// How far ahead of its reads a pass over weights in memory prefetches, bytes: one that waits for memory, as that of one
    /// token does, and one that takes longer than reading. 0 for not at all: where it waits, the CPU's own prefetching is
    /// faster; where it takes longer, that falls behind.
    const AHEAD: [usize; 2];
    /// Whether tables of hundreds of bytes can be looked up in registers: [`points`](Simd::points).
    const POINTS: bool = false;
    /// Independent partial sums of a float dot, 2 or 4.
    const CHAINS: usize;

    /// Zeros.
    fn zero(self) -> Self::Word;
    /// `x` in every lane.
    fn splat(self, x: u32) -> Self::Word;
    /// Loads 64 bytes.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(self, p: *const u8) -> Self::Word;
    /// Loads 4 bytes into every lane.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_splat(self, p: *const u8) -> Self::SplatWord;
    /// Bitwise AND.
    fn and(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// Bitwise OR.
    fn or(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// Bitwise XOR.
    fn xor(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// Each word shifted left.
    fn shl(self, a: Self::Word, by: u32) -> Self::Word;
    /// Each word shifted right, zero-filling.
    fn shr(self, a: Self::Word, by: u32) -> Self::Word;
    /// Each byte, which is below 16, replaced by its table entry.
    fn lut(self, index: Self::Word, table: &[u8; 16]) -> Self::Word;

    /// The low nibble of each byte, if `high` the high one, replaced by its table entry.
    #[inline(always)]
    fn lut_nibbles(self, word: Self::Word, high: bool, table: &[u8; 16]) -> Self::Word {
        self.lut(nibbles(self, word, high), table)
    }
    /// Each byte less that of `b`, modulo 256.
    fn sub8(self, a: Self::Word, b: Self::Word) -> Self::Word;
    /// Bytes of 255 where bits 0 to 3, if `high` 4 to 7, of each word's byte `byte` are set, of 0 where not.
    fn masks(self, bits: Self::Word, byte: usize, high: bool) -> Self::Word;
    /// For each of the 16 words at `p` the entry that its first byte is the index of, in a table of words, `SCALE` bytes
    /// apart, which begins and ends with [`MARGIN`] other words.
    ///
    /// # Safety
    /// 64 bytes must be readable, and the indices below the number of entries.
    unsafe fn gather8<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word;
    /// As [`gather8`](Simd::gather8), with the first two bytes as index.
    ///
    /// # Safety
    /// As there.
    unsafe fn gather16<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word;
    /// The codes of quads 0 to 3, if `last` 4 to 7, of a block: `index` has the low bytes of the quads' points, `high` bytes
    /// of 255 where 256 is to be added, `signs` the 32 elements' signs. Only where [`POINTS`](Simd::POINTS).
    fn points(self, _: &Sizes, index: Self::Word, high: Self::Word, signs: Self::Word, last: bool) -> [Self::Word; 4] {
        let _ = (index, high, signs, last);
        unreachable!("POINTS says that there is no such look-up")
    }
    /// Unsigned bytes as words.
    fn widen(self, bytes: Bytes) -> Self::Word;
    /// Loads 16 unsigned 16-bit numbers.
    ///
    /// # Safety
    /// 32 bytes must be readable.
    unsafe fn load_u16(self, p: *const u8) -> Self::Word;
    /// The floats of these bits.
    fn float_of_bits(self, bits: Self::Word) -> Self::Float;
    /// The bits of these floats.
    fn bits_of_float(self, a: Self::Float) -> Self::Word;

    /// Accumulator before the first quad of group `group` of the `groups` of a block, whose codes are `offset` too
    /// large; `sums` are the block's two activation sums.
    fn group_start(self, offset: i16, sums: Self::SplatWord, group: usize, groups: usize) -> Self::Word;
    /// The same from what the activations keep for the group, that of [`ir::abi::Q8_STARTS`], if that is faster.
    #[inline(always)]
    fn kept_start(self, offset: i16, start: Self::SplatWord, groups: usize) -> Option<Self::Word> {
        let _ = (offset, start, groups);
        None
    }
    /// Adds to each lane the dot product of four unsigned codes and four signed activations.
    fn dot4(self, acc: Self::Word, codes: Self::Word, activations: Self::SplatWord) -> Self::Word;
    /// Total before the first group of a block.
    fn total_start(self, sums: Self::SplatWord, correction: Self::Word) -> Self::Total;
    /// What `total_start` needs of the scales of the first and last 16 codes of a block.
    fn correction(self, offset: i16, first: Self::Scale, last: Self::Scale) -> Self::Word;
    /// `total + acc * scale`.
    fn fold(self, total: Self::Total, acc: Self::Word, scale: Self::Scale) -> Self::Total;
    /// The total, which has at most 24 significant bits, as floats.
    fn total(self, total: Self::Total) -> Self::Float;
    /// Scales from signed bytes.
    fn scale(self, bytes: Bytes) -> Self::Scale;
    /// All scales 1.
    fn unit_scale(self) -> Self::Scale;
    /// Scales times 16.
    fn scale16(self, scale: Self::Scale) -> Self::Scale;
    /// `a`, computed here and not where it is used, so that what it is computed of needs no register from here on.
    fn settle(self, a: Self::Float) -> Self::Float;
    /// The same for words.
    fn settle_word(self, a: Self::Word) -> Self::Word;
    /// Zeros.
    fn zero_float(self) -> Self::Float;
    /// `x` in every lane.
    fn splat_float(self, x: f32) -> Self::SplatFloat;
    /// Loads 16 f32.
    ///
    /// # Safety
    /// 64 bytes must be readable.
    unsafe fn load_f32(self, p: *const u8) -> Self::Float;
    /// Loads 16 f16.
    ///
    /// # Safety
    /// 32 bytes must be readable.
    unsafe fn load_f16(self, p: *const u8) -> Self::Float;
    /// Loads 16 bf16.
    ///
    /// # Safety
    /// 32 bytes must be readable.
    unsafe fn load_bf16(self, p: *const u8) -> Self::Float;
    /// Signed bytes as floats.
    fn load_i8(self, bytes: Bytes) -> Self::Float;
    /// Stores 16 f32.
    ///
    /// # Safety
    /// 64 bytes must be writable.
    unsafe fn store_f32(self, p: *mut f32, a: Self::Float);
    /// `a + b`.
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a - b`.
    fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b`.
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a / b`.
    fn div(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// The larger of each lane, `b` where one is NaN.
    fn max(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// The largest lane.
    fn largest_lane(self, a: Self::Float) -> f32;
    /// The sum of the lanes.
    fn sum_lanes(self, a: Self::Float) -> f32;
    /// `a * b`.
    fn mul_splat(self, a: Self::Float, b: Self::SplatFloat) -> Self::Float;
    /// `a * b + c` with one rounding.
    fn fma(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b` with one rounding.
    fn fnma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float;
    /// `a * b + c` with one rounding.
    fn fma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float;
}

/// The low nibble of each byte, if `high` the high one.
#[inline(always)]
pub fn nibbles<S: Simd>(s: S, word: S::Word, high: bool) -> S::Word {
    s.and(if high { s.shr(word, 4) } else { word }, s.splat(0x0f0f_0f0f))
}

/// Brings the line at `p` to L2; `p` may point anywhere. Not to L1, which follows by itself, and which can wait for fewer
/// lines at a time than it takes to keep memory busy.
#[inline(always)]
pub fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is in the baseline of the architecture, and a prefetch of any address is harmless.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// [`prefetch`] for `bytes` bytes from `p`, line by line.
#[inline(always)]
pub fn prefetch_lines(p: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch(p.wrapping_add(line));
    }
}
