//! The forms whose codes are points: an index gives the elements of one or two quads.
//!
//! A block is unpacked as a whole, since its quads share words of signs and of indices.

use super::{Form, Scales, WORD, quads, unrolled};
use crate::bytes::Bytes;
use crate::simd::{MARGIN, Simd, Sizes};
use ir::abi::TILE_ROWS;
use ir::quant::{DotForm, Scale, points};
use std::sync::atomic::{Ordering, compiler_fence};

/// The points of a grid with margins, each element shifted right and moved up.
const fn moved<const WORDS: usize>(points: &[u32], shift: u32, up: i8) -> [u32; WORDS] {
    assert!(points.len() + 2 * MARGIN == WORDS);
    let mut words = [0; WORDS];
    let mut i = 0;
    while i < points.len() {
        let [a, b, c, d] = points[i].to_le_bytes();
        let [a, b, c, d] = [a as i8 >> shift, b as i8 >> shift, c as i8 >> shift, d as i8 >> shift];
        words[MARGIN + i] = u32::from_le_bytes([(a + up) as u8, (b + up) as u8, (c + up) as u8, (d + up) as u8]);
        i += 1;
    }
    words
}

/// Bytes of seven signs, with the eighth that makes their number even.
#[inline(always)]
fn with_eighth<S: Simd>(s: S, seven: S::Word) -> S::Word {
    const ODD: [u8; 16] = [0, 128, 128, 0, 128, 0, 0, 128, 128, 0, 0, 128, 0, 128, 128, 0];
    let half = s.and(s.xor(seven, s.shr(seven, 4)), s.splat(0x0f0f_0f0f));
    s.or(seven, s.lut(half, &ODD))
}

/// A byte of signs for each seven bits, from the lowest, of each word.
#[inline(always)]
fn even_signs<S: Simd>(s: S, word: S::Word) -> S::Word {
    let (low, high) = (s.and(word, s.splat(0x3fff)), s.and(s.shl(word, 2), s.splat(0x3fff_0000)));
    let fourteen = s.or(low, high);
    let (low, high) = (s.and(fourteen, s.splat(0x007f_007f)), s.and(s.shl(fourteen, 1), s.splat(0x7f00_7f00)));
    let seven = s.or(low, high);
    with_eighth(s, seven)
}

/// Masks of the negative elements of quad `q`, of which a byte of `signs` has two.
#[inline(always)]
fn minus<S: Simd>(s: S, signs: S::Word, q: usize) -> S::Word {
    s.masks(signs, q / 2, q % 2 == 1)
}

/// `FROM` less the code where the mask is set; codes are below `FROM`, a power of two.
#[inline(always)]
fn negate<S: Simd, const FROM: u8>(s: S, codes: S::Word, mask: S::Word) -> S::Word {
    s.sub8(s.xor(codes, s.and(mask, s.splat(u32::from_ne_bytes([FROM - 1; 4])))), mask)
}

/// The first, if `last` the last, two bytes of each word as halves of a word.
#[inline(always)]
fn halves<S: Simd>(s: S, word: S::Word, last: bool) -> S::Word {
    let (first, second) = if last { (s.shr(word, 16), s.shr(word, 8)) } else { (word, s.shl(word, 8)) };
    s.or(s.and(first, s.splat(0xff)), s.and(second, s.splat(0xff_0000)))
}

/// As [`halves`], with the bits of `high`, shifted left, that `mask` has.
#[inline(always)]
fn high_halves<S: Simd>(s: S, word: S::Word, last: bool, high: S::Word, by: u32, mask: u32) -> S::Word {
    s.or(halves(s, word, last), s.and(s.shl(high, by), s.splat(mask)))
}

/// 4-bit numbers, two a byte from field byte `at`, `groups` of them, as scales 2 s + 1.
///
/// # Safety
/// `w` is a superblock of 16 rows that has the bytes.
#[inline(always)]
unsafe fn odd_nibbles(w: *const u8, at: usize, groups: usize) -> Scales {
    let mut out = Scales::zero();
    for g in 0..groups {
        // SAFETY: the caller's promise.
        out.scale[g] = unsafe { Bytes::load(w, at + g / 2) }.bits(g % 2 * 4, 15).odd();
    }
    out
}

/// The 4-bit numbers on top of words of `stride` bytes from field byte `at`, as scales 2 s + 1.
///
/// # Safety
/// `w` is a superblock of 16 rows that has the words.
#[inline(always)]
unsafe fn odd_tops(w: *const u8, at: usize, stride: usize) -> Scales {
    let mut out = Scales::zero();
    for g in 0..8 {
        // SAFETY: the caller's promise.
        out.scale[g] = unsafe { Bytes::load_top4(w, at + g * stride) }.odd();
    }
    out
}

/// The indices of the points of a block, 16 bits each: a word of all rows for each two.
struct Indices<W>([W; 5]);

impl<W> Indices<W> {
    /// Where those of point `point` begin.
    #[inline(always)]
    fn of(&self, point: usize) -> *const u8 {
        // In memory, where lanes are read with fewer instructions than from vectors.
        std::hint::black_box(self.0.as_ptr()).cast::<u8>().wrapping_add(point / 2 * WORD + point % 2 * 2)
    }
}

/// The quads of block `b` by [`Simd::points`], with the low bytes of their indices from field byte 2 on.
///
/// # Safety
/// `w` is a superblock of 16 rows that has the bytes.
#[inline(always)]
unsafe fn look_up<S: Simd>(
    s: S,
    w: *const u8,
    b: usize,
    sizes: &Sizes,
    high: [S::Word; 2],
    signs: S::Word,
) -> [S::Word; 8] {
    // SAFETY: the caller's promise.
    let (first, last) = unsafe {
        let at = w.add(TILE_ROWS * 2 + b * 2 * WORD);
        (s.load(at), s.load(at.add(WORD)))
    };
    let [q0, q1, q2, q3] = s.points(sizes, first, high[0], signs, false);
    let [q4, q5, q6, q7] = s.points(sizes, last, high[1], signs, true);
    [q0, q1, q2, q3, q4, q5, q6, q7]
}

/// 8-bit indices of points of four, seven signs for eight elements, 4-bit scale per 32 on top of the signs. Codes are half
/// the elements.
pub struct Grid8x4;

impl Form for Grid8x4 {
    const DOT: DotForm = DotForm::Grid { bits: 8, vector: 4, group: 32, scale: Scale::Top4 };
    const BITS: usize = 6;
    const OFFSET: i16 = 32;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const BYTES: usize = 98;
    const FACTOR: f32 = 0.5;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { odd_tops(w, 66, 4) }
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        static POINTS: [u32; 256 + 2 * MARGIN] = moved(points(8, 4), 1, 32);
        static SIZES: Sizes = Sizes::new(points(8, 4), 1, 32);
        // SAFETY: here and below, in the superblock; there are as many points as indices.
        let signs = even_signs(s, unsafe { s.load(w.add(TILE_ROWS * 66 + b * WORD)) });
        if S::POINTS {
            return unsafe { look_up(s, w, b, &SIZES, [s.zero(); 2], signs) };
        }
        quads!(s, q => {
            let at = TILE_ROWS * 2 + (b * 2 + q / 4) * WORD + q % 4;
            negate::<_, 64>(s, unsafe { s.gather8::<4>(w.add(at), &POINTS) }, minus(s, signs, q))
        })
    }
}

/// 9-bit indices of points of four odd elements, their high bits apart, signs, 4-bit scale per 32.
pub struct Grid9x4;

impl Form for Grid9x4 {
    const DOT: DotForm = DotForm::Grid { bits: 9, vector: 4, group: 32, scale: Scale::Nibbles };
    const BITS: usize = 5;
    const OFFSET: i16 = 15;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const BYTES: usize = 110;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { odd_nibbles(w, 106, 8) }
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        static POINTS: [u32; 512 + 2 * MARGIN] = moved(points(9, 4), 0, 15);
        static SIZES: Sizes = Sizes::new(points(9, 4), 0, 15);
        // SAFETY: here and below, in the superblock; there are as many points as indices.
        let (signs, high) = unsafe { (s.load(w.add(TILE_ROWS * 74 + b * WORD)), s.widen(Bytes::load(w, 66 + b))) };
        if S::POINTS {
            let high = [s.masks(high, 0, false), s.masks(high, 0, true)];
            return unsafe { look_up(s, w, b, &SIZES, high, signs) };
        }
        // The high bits of two quads stand half a word apart.
        let high = s.or(high, s.shl(high, 15));
        let mut indices = Indices([s.zero(); 5]);
        unrolled!(4, pair => {
            let low = unsafe { s.load(w.add(TILE_ROWS * 2 + (b * 2 + pair / 2) * WORD)) };
            let low = halves(s, low, pair % 2 == 1);
            indices.0[pair] = s.or(low, s.and(s.shl(high, 8 - 2 * pair as u32), s.splat(0x0100_0100)));
        });
        quads!(s, q => {
            let code = unsafe { s.gather16::<4>(indices.of(q), &POINTS) };
            // Codes are even, and 30 less the code where the element is negative.
            s.xor(code, s.and(minus(s, signs, q), s.splat(0x1e1e_1e1e)))
        })
    }
}

/// 8-bit indices of points of eight, seven signs for each, 4-bit scale per 32 on top of the signs.
pub struct Grid8x8;

impl Form for Grid8x8 {
    const DOT: DotForm = DotForm::Grid { bits: 8, vector: 8, group: 32, scale: Scale::Top4 };
    const BITS: usize = 7;
    const OFFSET: i16 = 64;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const BYTES: usize = 66;
    const FACTOR: f32 = 0.125;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { odd_tops(w, 6, 8) }
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        static POINTS: [u32; 512 + 2 * MARGIN] = moved(points(8, 8), 0, 64);
        let at = TILE_ROWS * 2 + b * 2 * WORD;
        // SAFETY: here and below, in the superblock; there are as many points as indices.
        let signs = even_signs(s, unsafe { s.load(w.add(at + WORD)) });
        quads!(s, q => {
            let code = unsafe { s.gather8::<8>(w.add(at + q / 2), &POINTS[q % 2..]) };
            negate::<_, 128>(s, code, minus(s, signs, q))
        })
    }
}

/// 9-bit indices of points of eight and seven signs in 16 bits, 4-bit scale per 16.
pub struct Grid9x8;

impl Form for Grid9x8 {
    const DOT: DotForm = DotForm::Grid { bits: 9, vector: 8, group: 16, scale: Scale::Nibbles };
    const BITS: usize = 7;
    const OFFSET: i16 = 64;
    const GROUPS: usize = 2;
    const BLOCKS: usize = 8;
    const BYTES: usize = 74;
    const FACTOR: f32 = 0.125;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { odd_nibbles(w, 66, 16) }
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        static POINTS: [u32; 1024 + 2 * MARGIN] = moved(points(9, 8), 0, 64);
        // SAFETY: here and below, in the superblock; there are as many points as indices.
        let words = [0, 1].map(|i| unsafe { s.load(w.add(TILE_ROWS * 2 + (b * 2 + i) * WORD)) });
        let (zero, nine) = (s.zero(), s.splat(0x01ff_01ff));
        let indices = Indices([s.and(words[0], nine), s.and(words[1], nine), zero, zero, zero]);
        let seven = s.splat(0x007f_007f);
        let (first, last) = (s.and(s.shr(words[0], 9), seven), s.and(s.shr(words[1], 9), seven));
        // Bytes of points 0, 2, 1, 3.
        let signs = with_eighth(s, s.or(first, s.shl(last, 8)));
        quads!(s, q => {
            let code = unsafe { s.gather16::<8>(indices.of(q / 2), &POINTS[q % 2..]) };
            negate::<_, 128>(s, code, s.masks(signs, [0, 2, 1, 3][q / 2], q % 2 == 1))
        })
    }
}

/// 10-bit indices of points of eight, their high bits apart, signs, 4-bit scale per 16.
pub struct Grid10x8;

impl Form for Grid10x8 {
    const DOT: DotForm = DotForm::Grid { bits: 10, vector: 8, group: 16, scale: Scale::Nibbles };
    const BITS: usize = 7;
    const OFFSET: i16 = 64;
    const GROUPS: usize = 2;
    const BLOCKS: usize = 8;
    const BYTES: usize = 82;
    const FACTOR: f32 = 0.125;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        // SAFETY: in the superblock.
        unsafe { odd_nibbles(w, 74, 16) }
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        static POINTS: [u32; 2048 + 2 * MARGIN] = moved(points(10, 8), 0, 64);
        // SAFETY: here and below, in the superblock; there are as many points as indices.
        let [low, signs] = [2, 34].map(|at| unsafe { s.load(w.add(TILE_ROWS * at + b * WORD)) });
        let high = s.widen(unsafe { Bytes::load(w, 66 + b) });
        // The high bits of two points stand half a word apart.
        let high = s.or(high, s.shl(high, 14));
        let first = high_halves(s, low, false, high, 8, 0x0300_0300);
        let last = high_halves(s, low, true, high, 4, 0x0300_0300);
        let indices = Indices([first, last, s.zero(), s.zero(), s.zero()]);
        quads!(s, q => {
            let code = unsafe { s.gather16::<8>(indices.of(q / 2), &POINTS[q % 2..]) };
            negate::<_, 128>(s, code, minus(s, signs, q))
        })
    }
}

/// 11-bit indices of ternary points of eight; with their high bits a 3-bit scale per 32, and whether its elements are less
/// or more by an eighth. Codes are eighths.
pub struct Grid11x8;

impl Form for Grid11x8 {
    const DOT: DotForm = DotForm::Grid { bits: 11, vector: 8, group: 32, scale: Scale::Short3 };
    const BITS: usize = 5;
    const OFFSET: i16 = 9;
    const GROUPS: usize = 1;
    const BLOCKS: usize = 8;
    const BYTES: usize = 50;
    const FACTOR: f32 = 0.125;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn scales(w: *const u8) -> Scales {
        let mut out = Scales::zero();
        for g in 0..8 {
            // SAFETY: in the superblock.
            out.scale[g] = unsafe { Bytes::load_units2(w, 34 + g * 2) }[1].bits(4, 7).odd();
        }
        out
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(s: S, w: *const u8, b: usize) -> [S::Word; 8] {
        // Elements that are more by an eighth.
        static POINTS: [u32; 4096 + 2 * MARGIN] = moved(points(11, 8), 0, 10);
        // SAFETY: here and below, in the superblock; there are as many points as indices.
        let low = unsafe { s.load(w.add(TILE_ROWS * 2 + b * WORD)) };
        let short = unsafe { s.load_u16(w.add(TILE_ROWS * (34 + b * 2))) };
        // The high bits of two points stand half a word apart.
        let high = s.or(short, s.shl(short, 13));
        let first = high_halves(s, low, false, high, 8, 0x0700_0700);
        let last = high_halves(s, low, true, high, 2, 0x0700_0700);
        let indices = Indices([first, last, s.zero(), s.zero(), s.zero()]);
        let less = s.and(s.shr(short, 14), s.splat(2));
        let less = s.or(less, s.shl(less, 8));
        let less = s.or(less, s.shl(less, 16));
        quads!(s, q => {
            s.sub8(unsafe { s.gather16::<8>(indices.of(q / 2), &POINTS[q % 2..]) }, less)
        })
    }
}
