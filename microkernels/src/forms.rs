//! The integer forms: where a tile's fields lie, how its codes and scales are unpacked.
//!
//! A block here is the 32 elements that share an activation scale; a superblock is a block of the weight format, of one
//! or eight such blocks. Codes are unsigned: value = scale * (code - OFFSET) - min, signed codes being moved up by 128.
//! Units interleave 16 rows: the unit of 1, 2 or 4 bytes that is at byte `i` of a block, in the order of the format's
//! stripes, begins at byte `16 * i`, so a word of all rows is 64 bytes. `grids` has the forms whose codes are points.

mod grids;

pub use grids::*;

use crate::bytes::Bytes;
use crate::simd::Simd;
use ir::abi::TILE_ROWS;
use ir::quant::{DotForm, E2M1_HALVES, LUT4, Scale};
use std::sync::atomic::{Ordering, compiler_fence};

/// Bytes of 16 rows of one word.
const WORD: usize = 4 * TILE_ROWS;

/// Runs the body for each of `$n`, 1, 2, 4 or 8, whose number is a constant in each copy.
macro_rules! unrolled {
    ($n:expr, $b:ident => $body:block) => {{
        unrolled!(@ $b $body 0);
        if $n > 1 {
            unrolled!(@ $b $body 1);
        }
        if $n > 2 {
            unrolled!(@ $b $body 2 3);
        }
        if $n > 4 {
            unrolled!(@ $b $body 4 5 6 7);
        }
    }};
    (@ $b:ident $body:block $($i:literal)*) => { $({ let $b: usize = $i; $body })* };
}
pub(crate) use unrolled;

/// The quads of a block, each by an expression of its number.
macro_rules! quads {
    ($s:ident, $q:ident => $quad:expr) => {{
        let mut out = [$s.zero(); 8];
        unrolled!(8, $q => {
            // Keeps the compiler from interleaving quads, which would spill most of them.
            compiler_fence(Ordering::SeqCst);
            out[$q] = $quad;
        });
        out
    }};
}
use quads;

/// The integer scales and mins of a superblock, as signed bytes; zero where the form has none.
#[derive(Clone, Copy)]
pub struct Scales {
    /// By group.
    pub scale: [Bytes; 16],
    /// By block.
    pub min: [Bytes; 8],
}

impl Scales {
    #[inline(always)]
    fn zero() -> Self {
        Scales { scale: [Bytes::zero(); 16], min: [Bytes::zero(); 8] }
    }
}

/// An integer or codebook form.
pub trait Form {
    /// The form.
    const DOT: DotForm;
    /// Code width.
    const BITS: usize;
    /// What the unsigned codes are too large by.
    const OFFSET: i16;
    /// Groups with a scale of their own in a block, 1 or 2.
    const GROUPS: usize;
    /// Blocks in a superblock, 1 or 8. With 8 there are integer scales, with 1 only the float one.
    const BLOCKS: usize;
    /// Whether there are mins.
    const MIN: bool = false;
    /// Bytes of a superblock of one row.
    const BYTES: usize;
    /// Where the f16 scale lies in it.
    const D: usize = 0;
    /// What the f16 scale is multiplied by.
    const FACTOR: f32 = 1.0;
    /// Consecutive blocks whose codes lie in the same words: 1, 2 or 4; it divides `BLOCKS`.
    const TOGETHER: usize = 1;
    /// Whether quads `q` and `q + 4` of a block lie in the same word.
    const HALVES: bool = false;
    /// Whether the quads of a block are unpacked together.
    const WHOLE: bool = false;
    /// Whether the codes of odd blocks are times 16, as they lie, where [`Simd::WIDE`].
    const RAISED: bool = false;
    /// Where the f16 scale of the mins lies in it, if any; with one block, the negative min itself.
    const DMIN: usize = 0;

    /// The float scale of a superblock.
    ///
    /// # Safety
    /// `w` is a superblock of 16 rows.
    #[inline(always)]
    unsafe fn d<S: Simd>(s: S, w: *const u8) -> S::Float {
        // SAFETY: in the superblock.
        let d = unsafe { s.load_f16(w.add(Self::D * TILE_ROWS)) };
        if Self::FACTOR == 1.0 { d } else { s.mul_splat(d, s.splat_float(Self::FACTOR)) }
    }

    /// The integer scales of a superblock.
    ///
    /// # Safety
    /// `w` is a superblock of 16 rows.
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        let _ = w;
        Scales::zero()
    }

    /// Quad `q` (elements `4 q` to `4 q + 3`) of block `b`: in planes of 4 bits if they are wide and `S` splits such,
    /// otherwise in the first word. Forms that are [`WHOLE`](Form::WHOLE) write `block` instead.
    ///
    /// # Safety
    /// `w` is a superblock of 16 rows, `b < BLOCKS` and `q < 8`.
    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: the caller's promise.
        [unsafe { Self::block(s, w, b) }[q], s.zero()]
    }

    /// The quads of block `b`, in one word each.
    ///
    /// # Safety
    /// `w` is a superblock of 16 rows and `b < BLOCKS`.
    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|q| unsafe { Self::codes(s, w, b, q) }[0])
    }
}

/// Bits `from..from + mask.count_ones()` of each byte of the word of all rows at `w`, moved to where `mask` is.
///
/// # Safety
/// 64 bytes must be readable.
#[inline(always)]
unsafe fn bits<S: Simd>(s: S, w: *const u8, from: usize, mask: u8) -> S::Word {
    // SAFETY: the caller's promise.
    let word = unsafe { s.load(w) };
    let to = mask.trailing_zeros() as usize;
    let moved = match from.cmp(&to) {
        std::cmp::Ordering::Less => s.shl(word, (to - from) as u32),
        std::cmp::Ordering::Equal => word,
        std::cmp::Ordering::Greater => s.shr(word, (from - to) as u32),
    };
    s.and(moved, s.splat(u32::from_ne_bytes([mask; 4])))
}

/// 4-bit codes, f16 scale per 32.
pub struct U4Half;

impl Form for U4Half {
    const DOT: DotForm = DotForm::Int { bits: 4, offset: 8, group: 32, scale: Scale::Half };
    const BITS: usize = 4;
    const OFFSET: i16 = 8;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const HALVES: bool = true;
    const BYTES: usize = 18;
    const D: usize = 0;

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, _: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        [unsafe { bits(s, w.add(TILE_ROWS * 2 + q % 4 * WORD), q / 4 * 4, 15) }, s.zero()]
    }
}

/// 8-bit signed codes, f16 scale per 32.
pub struct S8Half;

impl Form for S8Half {
    const DOT: DotForm = DotForm::Int { bits: 8, offset: 0, group: 32, scale: Scale::Half };
    const BITS: usize = 8;
    const OFFSET: i16 = 128;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const BYTES: usize = 34;
    const D: usize = 0;

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, _: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        let signed = unsafe { s.load(w.add(TILE_ROWS * 2 + q * WORD)) };
        let code = s.xor(signed, s.splat(0x8080_8080));
        if S::SPLIT8 {
            let low = s.splat(0x0f0f_0f0f);
            [s.and(code, low), s.and(s.shr(code, 4), low)]
        } else {
            [code, s.zero()]
        }
    }
}

/// 3-bit codes, 6-bit scale per 16.
pub struct U3Super6;

impl Form for U3Super6 {
    const DOT: DotForm = DotForm::Int { bits: 3, offset: 4, group: 16, scale: Scale::Super6 };
    const BITS: usize = 3;
    const OFFSET: i16 = 4;
    const GROUPS: usize = 2;
    const BLOCKS: usize = 8;
    const TOGETHER: usize = 4;
    const BYTES: usize = 110;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        let mut out = Scales::zero();
        for g in 0..4 {
            // SAFETY: in the superblock.
            let [low, more, high] = unsafe { [Bytes::load(w, 2 + g), Bytes::load(w, 6 + g), Bytes::load(w, 10 + g)] };
            out.scale[g] = low.bits(0, 15).or(high.bits(0, 0x30)).less(32);
            out.scale[4 + g] = more.bits(0, 15).or(high.bits(2, 0x30)).less(32);
            out.scale[8 + g] = low.bits(4, 15).or(high.bits(4, 0x30)).less(32);
            out.scale[12 + g] = more.bits(4, 15).or(high.bits(6, 0x30)).less(32);
        }
        out
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        let (low, high) = unsafe {
            let words = w.add(TILE_ROWS * 14 + q * 3 * WORD);
            (bits(s, words.add((1 + b / 4) * WORD), b % 4 * 2, 3), bits(s, words, b, 4))
        };
        [s.or(low, high), s.zero()]
    }
}

/// The 6-bit scales and mins of [`Scale::Super6Min`] in the 12 bytes from `at`.
///
/// # Safety
/// They must be readable for 16 rows.
#[inline(always)]
unsafe fn super6min(w: *const u8, at: usize) -> Scales {
    let mut out = Scales::zero();
    for g in 0..4 {
        // SAFETY: the caller's promise.
        let [scale, min, both] =
            unsafe { [Bytes::load(w, at + g), Bytes::load(w, at + 4 + g), Bytes::load(w, at + 8 + g)] };
        out.scale[g] = scale.bits(0, 63);
        out.min[g] = min.bits(0, 63);
        out.scale[4 + g] = both.bits(0, 15).or(scale.bits(6, 0x30));
        out.min[4 + g] = both.bits(4, 15).or(min.bits(6, 0x30));
    }
    out
}

/// 4-bit codes, 6-bit scale and min per 32.
pub struct U4Super6Min;

impl Form for U4Super6Min {
    const DOT: DotForm = DotForm::Int { bits: 4, offset: 0, group: 32, scale: Scale::Super6Min };
    const BITS: usize = 4;
    const OFFSET: i16 = 0;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const TOGETHER: usize = 2;
    const RAISED: bool = true;
    const MIN: bool = true;
    const BYTES: usize = 144;
    const D: usize = 0;
    const DMIN: usize = 2;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { super6min(w, 4) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        let word = unsafe { w.add(TILE_ROWS * 16 + (b / 2 * 8 + q) * WORD) };
        let mask = if S::WIDE && b % 2 == 1 { 0xf0 } else { 15 };
        // SAFETY: in the superblock.
        [unsafe { bits(s, word, b % 2 * 4, mask) }, s.zero()]
    }
}

/// 5-bit codes, 6-bit scale and min per 32.
pub struct U5Super6Min;

impl Form for U5Super6Min {
    const DOT: DotForm = DotForm::Int { bits: 5, offset: 0, group: 32, scale: Scale::Super6Min };
    const BITS: usize = 5;
    const OFFSET: i16 = 0;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const TOGETHER: usize = 2;
    const MIN: bool = true;
    const BYTES: usize = 176;
    const D: usize = 0;
    const DMIN: usize = 2;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { super6min(w, 4) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        let (low, high) = unsafe {
            let words = w.add(TILE_ROWS * 16);
            // Those of the first pair of blocks lie between those of the fifth bits.
            let word = if b < 2 { 2 * q + 1 } else { 8 + b / 2 * 8 + q };
            (bits(s, words.add(word * WORD), b % 2 * 4, 15), bits(s, words.add(2 * q * WORD), b, 16))
        };
        [s.or(low, high), s.zero()]
    }
}

/// 6-bit codes, 8-bit scale per 16.
pub struct U6Super8;

impl Form for U6Super8 {
    const DOT: DotForm = DotForm::Int { bits: 6, offset: 32, group: 16, scale: Scale::Super8 };
    const BITS: usize = 6;
    const OFFSET: i16 = 32;
    const GROUPS: usize = 2;
    const BLOCKS: usize = 8;
    const TOGETHER: usize = 4;
    const BYTES: usize = 210;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        let mut out = Scales::zero();
        for g in 0..16 {
            // SAFETY: in the superblock.
            out.scale[g] = unsafe { Bytes::load(w, 2 + g) };
        }
        out
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        let (low, high) = unsafe {
            let words = w.add(TILE_ROWS * 18 + (b / 4 * 8 + q) * 3 * WORD);
            (bits(s, words.add(b % 2 * WORD), b % 4 / 2 * 4, 15), bits(s, words.add(2 * WORD), b % 4 * 2, 0x30))
        };
        [s.or(low, high), s.zero()]
    }
}

/// 4-bit indices into 16 values, split 6-bit scale per 32.
pub struct Lut4Split6;

/// [`LUT4`] plus 128: bits `shift..` under `mask`.
const fn lut4(shift: u32, mask: u8) -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (LUT4[i] as u8 ^ 128) >> shift & mask;
        i += 1;
    }
    table
}

/// The codes of a quad of indices into [`LUT4`]: the nibbles of the word of all rows at `w`.
///
/// # Safety
/// 64 bytes must be readable.
#[inline(always)]
unsafe fn lut4_codes<S: Simd>(s: S, w: *const u8, high: bool) -> [S::Word; 2] {
    const ALL: [u8; 16] = lut4(0, 255);
    const PLANES: [[u8; 16]; 2] = [lut4(0, 15), lut4(4, 15)];
    // SAFETY: the caller's promise.
    let word = unsafe { s.load(w) };
    if S::SPLIT8 {
        [s.lut_nibbles(word, high, &PLANES[0]), s.lut_nibbles(word, high, &PLANES[1])]
    } else {
        [s.lut_nibbles(word, high, &ALL), s.zero()]
    }
}

impl Form for Lut4Split6 {
    const DOT: DotForm = DotForm::Codebook { bits: 4, group: 32, scale: Scale::Split6 };
    const BITS: usize = 8;
    const OFFSET: i16 = 128;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const HALVES: bool = true;
    const BYTES: usize = 136;
    const D: usize = 0;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock; the units of the high bits are 2 bytes.
        let high = unsafe { Bytes::load_units2(w, 2) };
        let mut out = Scales::zero();
        for g in 0..8 {
            // SAFETY: in the superblock.
            let low = unsafe { Bytes::load(w, 4 + g / 2) };
            out.scale[g] = low.bits(g % 2 * 4, 15).or(high[g / 4].bits(g % 4 * 2, 0x30)).less(32);
        }
        out
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        unsafe { lut4_codes(s, w.add(TILE_ROWS * 8 + (b * 4 + q % 4) * WORD), q >= 4) }
    }
}

/// 4-bit codes, f16 scale and min per 32.
pub struct U4HalfMin;

impl Form for U4HalfMin {
    const DOT: DotForm = DotForm::Int { bits: 4, offset: 0, group: 32, scale: Scale::HalfMin };
    const BITS: usize = 4;
    const OFFSET: i16 = 0;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const MIN: bool = true;
    const HALVES: bool = true;
    const BYTES: usize = 20;
    const DMIN: usize = 2;

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, _: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        [unsafe { bits(s, w.add(TILE_ROWS * 4 + q % 4 * WORD), q / 4 * 4, 15) }, s.zero()]
    }
}

/// The 5-bit codes whose high bits are the word of all rows at `w`, before the low ones.
///
/// # Safety
/// 20 bytes must be readable for 16 rows.
#[inline(always)]
unsafe fn five_bits<S: Simd>(s: S, w: *const u8) -> [S::Word; 8] {
    // SAFETY: here and below, the caller's promise.
    let high = unsafe { s.load(w) };
    quads!(s, q => {
        let low = unsafe { bits(s, w.add(WORD + q % 4 * WORD), q / 4 * 4, 15) };
        s.or(low, s.and(s.masks(high, q / 2, q % 2 == 1), s.splat(0x1010_1010)))
    })
}

/// 5-bit codes, f16 scale per 32.
pub struct U5Half;

impl Form for U5Half {
    const DOT: DotForm = DotForm::Int { bits: 5, offset: 16, group: 32, scale: Scale::Half };
    const BITS: usize = 5;
    const OFFSET: i16 = 16;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const BYTES: usize = 22;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, _: usize) -> [S::Word; 8] {
        // SAFETY: in the superblock.
        unsafe { five_bits(s, w.add(TILE_ROWS * 2)) }
    }
}

/// 5-bit codes, f16 scale and min per 32.
pub struct U5HalfMin;

impl Form for U5HalfMin {
    const DOT: DotForm = DotForm::Int { bits: 5, offset: 0, group: 32, scale: Scale::HalfMin };
    const BITS: usize = 5;
    const OFFSET: i16 = 0;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const MIN: bool = true;
    const BYTES: usize = 24;
    const DMIN: usize = 2;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, _: usize) -> [S::Word; 8] {
        // SAFETY: in the superblock.
        unsafe { five_bits(s, w.add(TILE_ROWS * 4)) }
    }
}

/// 4-bit indices into 16 values, f16 scale per 32.
pub struct Lut4Half;

impl Form for Lut4Half {
    const DOT: DotForm = DotForm::Codebook { bits: 4, group: 32, scale: Scale::Half };
    const BITS: usize = 8;
    const OFFSET: i16 = 128;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const HALVES: bool = true;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, _: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: in the superblock.
        unsafe { lut4_codes(s, w.add(TILE_ROWS * 2 + q % 4 * WORD), q >= 4) }
    }
}

/// 4-bit floats, a power of two per 32. Codes are twice the elements.
pub struct E2M1Power;

impl Form for E2M1Power {
    const DOT: DotForm = DotForm::BlockScaled { bits: 4, group: 32 };
    const BITS: usize = 5;
    const OFFSET: i16 = 12;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 1;
    const HALVES: bool = true;
    const BYTES: usize = 17;

    #[inline(always)]
    unsafe fn d<S: Simd>(s: S, w: *const u8) -> S::Float {
        // SAFETY: in the superblock.
        let x = s.widen(unsafe { Bytes::load(w, 0) });
        // 2^(x - 128) as a product of two, neither of which leaves the normal numbers.
        let half = s.shr(x, 1);
        let power = |x| s.float_of_bits(s.shl(s.sub8(x, s.splat(256 - 63)), 23));
        s.mul(power(half), power(s.sub8(x, half)))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, w: *const u8, _: usize, q: usize) -> [S::Word; 2] {
        const CODES: [u8; 16] = {
            let mut codes = [0; 16];
            let mut i = 0;
            while i < 16 {
                codes[i] = (E2M1_HALVES[i] + 12) as u8;
                i += 1;
            }
            codes
        };
        // SAFETY: in the superblock.
        let word = unsafe { s.load(w.add(TILE_ROWS + q % 4 * WORD)) };
        [s.lut_nibbles(word, q >= 4, &CODES), s.zero()]
    }
}
