//! [`Simd`] in plain Rust with the algorithm of AVX-512, so that all but its one-line wrappers runs in tests anywhere.

use crate::bytes::Bytes;
use crate::simd::{MARGIN, Simd};
use ir::abi::Q8_STARTS;
use std::array::from_fn;

/// Needs no CPU feature.
#[derive(Clone, Copy)]
pub struct Emulated;

/// The 16 values of `N / 16` bytes at `p`.
///
/// # Safety
/// `size_of::<T>() * 16` bytes must be readable.
unsafe fn read<T: Copy>(p: *const u8) -> [T; 16] {
    // SAFETY: the caller's promise.
    unsafe { p.cast::<[T; 16]>().read_unaligned() }
}

/// `vpmaddwd`.
fn madd16(a: u32, b: u32) -> u32 {
    let half = |x: u32, h: u32| i32::from((x >> (16 * h)) as i16);
    (half(a, 0) * half(b, 0)).wrapping_add(half(a, 1) * half(b, 1)) as u32
}

impl Simd for Emulated {
    type Word = [u32; 16];
    type Float = [f32; 16];
    type SplatWord = u32;
    type SplatFloat = f32;
    type Scale = [f32; 16];
    type Total = [f32; 16];

    const RUN: [usize; 9] = [8; 9];
    const SPLIT8: bool = false;
    const WIDE: bool = true;
    const TOKENS: [usize; 4] = [8, 8, 8, 4];
    const SUMS: usize = 16;
    const STREAMED: [usize; 4] = [2, usize::MAX, usize::MAX, usize::MAX];
    const AHEAD: [usize; 2] = [0, 6144];
    const CHAINS: usize = 4;

    fn zero(self) -> Self::Word {
        [0; 16]
    }
    fn splat(self, x: u32) -> Self::Word {
        [x; 16]
    }
    unsafe fn load(self, p: *const u8) -> Self::Word {
        // SAFETY: the caller's promise.
        unsafe { read(p) }
    }
    unsafe fn load_splat(self, p: *const u8) -> Self::SplatWord {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<u32>().read_unaligned() }
    }
    fn and(self, a: Self::Word, b: Self::Word) -> Self::Word {
        from_fn(|i| a[i] & b[i])
    }
    fn or(self, a: Self::Word, b: Self::Word) -> Self::Word {
        from_fn(|i| a[i] | b[i])
    }
    fn xor(self, a: Self::Word, b: Self::Word) -> Self::Word {
        from_fn(|i| a[i] ^ b[i])
    }
    fn shl(self, a: Self::Word, by: u32) -> Self::Word {
        a.map(|x| x << by)
    }
    fn shr(self, a: Self::Word, by: u32) -> Self::Word {
        a.map(|x| x >> by)
    }
    fn lut(self, index: Self::Word, table: &[u8; 16]) -> Self::Word {
        index.map(|x| u32::from_le_bytes(x.to_le_bytes().map(|b| table[usize::from(b)])))
    }

    fn sub8(self, a: Self::Word, b: Self::Word) -> Self::Word {
        from_fn(|i| {
            let (a, b) = (a[i].to_le_bytes(), b[i].to_le_bytes());
            u32::from_le_bytes(from_fn(|j| a[j].wrapping_sub(b[j])))
        })
    }
    fn masks(self, bits: Self::Word, byte: usize, high: bool) -> Self::Word {
        bits.map(|x| {
            let bits = x.to_le_bytes()[byte] >> if high { 4 } else { 0 };
            u32::from_le_bytes(from_fn(|j| if bits >> j & 1 == 1 { 255 } else { 0 }))
        })
    }
    unsafe fn gather8<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word {
        // SAFETY: the caller's promise.
        unsafe { self.load(p) }.map(|x| table[MARGIN..table.len() - MARGIN][(x as usize & 0xff) * SCALE as usize / 4])
    }
    unsafe fn gather16<const SCALE: i32>(self, p: *const u8, table: &[u32]) -> Self::Word {
        // SAFETY: the caller's promise.
        unsafe { self.load(p) }.map(|x| table[MARGIN..table.len() - MARGIN][(x as usize & 0xffff) * SCALE as usize / 4])
    }
    fn widen(self, bytes: Bytes) -> Self::Word {
        <[i8; 16]>::from(bytes).map(|b| u32::from(b as u8))
    }
    unsafe fn load_u16(self, p: *const u8) -> Self::Word {
        // SAFETY: the caller's promise.
        unsafe { read::<u16>(p) }.map(u32::from)
    }
    fn float_of_bits(self, bits: Self::Word) -> Self::Float {
        bits.map(f32::from_bits)
    }
    fn bits_of_float(self, a: Self::Float) -> Self::Word {
        a.map(f32::to_bits)
    }

    fn kept_start(self, offset: i16, start: Self::SplatWord, groups: usize) -> Option<Self::Word> {
        let (offset, kept) = (i32::from(offset), -Q8_STARTS[groups - 1]);
        let divides = 0 < offset && offset <= kept && offset.count_ones() == 1;
        divides.then(|| [(start as i32 / (kept / offset)) as u32; 16])
    }
    fn group_start(self, offset: i16, sums: Self::SplatWord, group: usize, groups: usize) -> Self::Word {
        let factor = u32::from((-offset) as u16);
        let factors = match (groups, group) {
            (1, _) => factor << 16 | factor,
            (_, 0) => factor,
            _ => factor << 16,
        };
        [madd16(sums, factors); 16]
    }
    fn dot4(self, acc: Self::Word, codes: Self::Word, activations: Self::SplatWord) -> Self::Word {
        let a = activations.to_le_bytes().map(|a| i32::from(a as i8));
        from_fn(|i| {
            let products = codes[i].to_le_bytes().iter().zip(a).map(|(&c, a)| i32::from(c) * a).sum::<i32>();
            acc[i].wrapping_add(products as u32)
        })
    }
    fn total_start(self, _: Self::SplatWord, _: Self::Word) -> Self::Total {
        [0.0; 16]
    }
    fn correction(self, _: i16, _: Self::Scale, _: Self::Scale) -> Self::Word {
        [0; 16]
    }
    fn fold(self, total: Self::Total, acc: Self::Word, scale: Self::Scale) -> Self::Total {
        from_fn(|i| (acc[i] as i32 as f32).mul_add(scale[i], total[i]))
    }
    fn total(self, total: Self::Total) -> Self::Float {
        total
    }
    fn scale(self, bytes: Bytes) -> Self::Scale {
        self.load_i8(bytes)
    }
    fn unit_scale(self) -> Self::Scale {
        [1.0; 16]
    }
    fn scale16(self, scale: Self::Scale) -> Self::Scale {
        scale.map(|x| 16.0 * x)
    }

    fn settle(self, a: Self::Float) -> Self::Float {
        a
    }
    fn settle_word(self, a: Self::Word) -> Self::Word {
        a
    }
    fn zero_float(self) -> Self::Float {
        [0.0; 16]
    }
    fn splat_float(self, x: f32) -> Self::SplatFloat {
        x
    }
    unsafe fn load_f32(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller's promise.
        unsafe { read(p) }
    }
    unsafe fn load_f16(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller's promise.
        unsafe { read::<u16>(p) }.map(|x| half::f16::from_bits(x).to_f32())
    }
    unsafe fn load_bf16(self, p: *const u8) -> Self::Float {
        // SAFETY: the caller's promise.
        unsafe { read::<u16>(p) }.map(|x| half::bf16::from_bits(x).to_f32())
    }
    fn load_i8(self, bytes: Bytes) -> Self::Float {
        <[i8; 16]>::from(bytes).map(f32::from)
    }
    unsafe fn store_f32(self, p: *mut f32, a: Self::Float) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(a) }
    }
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float {
        from_fn(|i| a[i] + b[i])
    }
    fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float {
        from_fn(|i| a[i] - b[i])
    }
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float {
        from_fn(|i| a[i] * b[i])
    }
    fn div(self, a: Self::Float, b: Self::Float) -> Self::Float {
        from_fn(|i| a[i] / b[i])
    }
    fn max(self, a: Self::Float, b: Self::Float) -> Self::Float {
        from_fn(|i| a[i].max(b[i]))
    }
    fn largest_lane(self, a: Self::Float) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    fn sum_lanes(self, a: Self::Float) -> f32 {
        a.into_iter().sum()
    }
    fn mul_splat(self, a: Self::Float, b: Self::SplatFloat) -> Self::Float {
        a.map(|a| a * b)
    }
    fn fma(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    fn fnma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float {
        from_fn(|i| a[i].mul_add(-b, c[i]))
    }
    fn fma_splat(self, a: Self::Float, b: Self::SplatFloat, c: Self::Float) -> Self::Float {
        from_fn(|i| a[i].mul_add(b, c[i]))
    }
}
