//! The view of one block that a format's `unpack` writes its decoding over.
//!
//! A [`Wide`] holds four 32-bit words, each with four 8-bit codes: 16 consecutive elements. Whether that is one vector
//! or four scalars, and where a field's bytes lie, is the implementor's business, so one `unpack` serves every layout,
//! lane width and backend.

use crate::value::Value;

/// Four 32-bit words, as a handle into whatever implements [`Unpack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wide(pub u32);

/// Four bytes, as a handle into whatever implements [`Unpack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quad(pub u32);

/// A number as the product of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    /// f32 scalar, often of the whole block.
    pub factor: Value,
    /// i32 scalar of at most 8 bits, where there is one.
    pub times: Option<Value>,
}

impl From<Value> for Scaling {
    fn from(factor: Value) -> Self {
        Scaling { factor, times: None }
    }
}

/// Sixteen decoded elements: value = `scale` * (code - offset) + `plus`, with the offset of the format's
/// [`DotForm`](super::DotForm).
#[derive(Debug, Clone, Copy)]
pub struct Unpacked {
    /// Sixteen 8-bit codes, in element order but for [`Unpack::look_up`], each times 2^`shift`; unsigned if there is a shift.
    pub codes: Wide,
    /// 0 unless [`Unpack::part`] says otherwise.
    pub shift: u8,
    /// Of the codes.
    pub scale: Scaling,
    /// Where the format has one.
    pub plus: Option<Scaling>,
}

/// Operations that an `unpack` may use; scalars are kernel values of 32 bits.
pub trait Unpack {
    /// The 16 bytes at `byte` of field `field` (an index into the format's fields).
    fn words(&mut self, field: usize, byte: u32) -> Wide;
    /// Four scalars as one.
    fn wide(&mut self, words: [Value; 4]) -> Wide;
    /// The byte at `byte` of a field, zero-extended to u32.
    fn byte(&mut self, field: usize, byte: u32) -> Value;
    /// The two bytes at `byte` of a field, zero-extended to u32; in one unit.
    fn short(&mut self, field: usize, byte: u32) -> Value;
    /// The four bytes at `byte` of a field; in one unit.
    fn word(&mut self, field: usize, byte: u32) -> Value;
    /// Word `index` of a table, below its length.
    fn table(&mut self, table: &'static [u32], index: Value) -> Value;

    /// `width` bits of each byte from bit `from` on, and the power of two that they are still multiplied by: 0, unless the
    /// implementor has use for codes that were left where they are.
    fn part(&mut self, a: Wide, from: u32, width: u32) -> (Wide, u8);
    /// Each word AND `mask`.
    fn and(&mut self, a: Wide, mask: u32) -> Wide;
    /// Word-wise OR.
    fn or(&mut self, a: Wide, b: Wide) -> Wide;
    /// Word-wise exclusive OR.
    fn xor(&mut self, a: Wide, b: Wide) -> Wide;
    /// Each word shifted left.
    fn shl(&mut self, a: Wide, by: u32) -> Wide;
    /// Each word shifted right, zero-filling.
    fn shr(&mut self, a: Wide, by: u32) -> Wide;
    /// Each byte minus that of `b`, wrapping.
    fn sub(&mut self, a: Wide, b: Wide) -> Wide;
    /// Each byte with its top bit in all places.
    fn fill(&mut self, a: Wide) -> Wide;
    /// The codes, which are above 0, negated in the bytes where `mask` is all ones; elsewhere it is 0.
    fn negate(&mut self, codes: Wide, mask: Wide) -> Wide;
    /// The table's entries of the low (`half` 0) or the high (1) nibble of each byte; or, if the implementor has use for codes
    /// [in pairs](super::DotForm::looks_up), those of both nibbles of the first or the last 8 bytes.
    fn look_up(&mut self, a: Wide, half: u32, table: &[i8; 16]) -> Wide;

    /// The four bytes at `byte` of a field.
    fn quad(&mut self, field: usize, byte: u32) -> Quad;
    /// The four nibbles of the low 16 bits of `a`, each as a byte.
    fn nibbles(&mut self, a: Value) -> Quad;
    /// `width` bits of each byte from bit `from` on, moved to bit `to`.
    fn move_bits(&mut self, a: Quad, from: u32, width: u32, to: u32) -> Quad;
    /// Byte-wise OR.
    fn merge(&mut self, a: Quad, b: Quad) -> Quad;
    /// Each byte with its bits flipped where `mask` has them.
    fn flip(&mut self, a: Quad, mask: u8) -> Quad;
    /// One byte, sign- or zero-extended.
    fn pick(&mut self, a: Quad, number: u32, signed: bool) -> Value;

    /// A u32 constant.
    fn int(&mut self, v: u32) -> Value;
    /// u32 AND constant.
    fn iand(&mut self, a: Value, mask: u32) -> Value;
    /// u32 OR.
    fn ior(&mut self, a: Value, b: Value) -> Value;
    /// u32 exclusive OR.
    fn ixor(&mut self, a: Value, b: Value) -> Value;
    /// u32 shifted left.
    fn ishl(&mut self, a: Value, by: u32) -> Value;
    /// u32 shifted right, zero-filling.
    fn ishr(&mut self, a: Value, by: u32) -> Value;
    /// u32 plus a signed constant, wrapping.
    fn iadd(&mut self, a: Value, by: i32) -> Value;
    /// u32 times a constant, wrapping.
    fn imul(&mut self, a: Value, by: u32) -> Value;
    /// u32 plus u32, wrapping.
    fn isum(&mut self, a: Value, b: Value) -> Value;
    /// The number of bits that are set.
    fn count_ones(&mut self, a: Value) -> Value;
    /// Signed 32-bit integer to f32.
    fn to_f32(&mut self, a: Value) -> Value;
    /// The finite f16 in the low 16 bits of an integer, the rest zero, to f32.
    fn half_to_f32(&mut self, a: Value) -> Value;
    /// The bf16 in the low 16 bits of an integer to f32.
    fn bf16_to_f32(&mut self, a: Value) -> Value;
    /// f32 product.
    fn fmul(&mut self, a: Value, b: Value) -> Value;
    /// f32 product with a constant.
    fn fscale(&mut self, a: Value, by: f32) -> Value;

    /// The f16 at `byte` of a field, as f32.
    fn half(&mut self, field: usize, byte: u32) -> Value {
        let bits = self.short(field, byte);
        self.half_to_f32(bits)
    }
    /// The bits of each word from bit `from` of its bytes on, moved to bit `to`, AND `mask`.
    fn take(&mut self, a: Wide, from: u32, to: u32, mask: u32) -> Wide {
        let moved = if from > to { self.shr(a, from - to) } else { self.shl(a, to - from) };
        self.and(moved, mask)
    }
    /// The bits of `a` where `mask` has them, else those of `b`.
    fn blend(&mut self, a: Wide, b: Wide, mask: u32) -> Wide {
        let differ = self.xor(a, b);
        let differ = self.and(differ, mask);
        self.xor(differ, b)
    }
    /// `width` bits of `a` from bit `from`.
    fn bits(&mut self, a: Value, from: u32, width: u32) -> Value {
        let a = self.ishr(a, from);
        if from + width == 32 { a } else { self.iand(a, (1 << width) - 1) }
    }
    /// Four words of a table, by their indices.
    fn points(&mut self, table: &'static [u32], indices: [Value; 4]) -> Wide {
        let words = indices.map(|index| self.table(table, index));
        self.wide(words)
    }
    /// The low 16 bits of `a`, each as bit `to` of a byte; the others are 0.
    fn spread(&mut self, a: Value, to: u32) -> Wide {
        let words = [0, 4, 8, 12].map(|from| self.spread_four(a, from, to));
        self.wide(words)
    }
    /// Four bits of `a` from bit `from` on, each as bit `to` of a byte; the others are 0.
    fn spread_four(&mut self, a: Value, from: u32, to: u32) -> Value {
        let four = self.bits(a, from, 4);
        // Bit i goes to bit 8 i; the other products of the factors' bits fall between.
        let spread = self.imul(four, 0x0020_4081 << to);
        self.iand(spread, 0x0101_0101 << to)
    }
    /// All ones in the bytes whose bit is set in the low 8 of each of `a`.
    fn masks(&mut self, a: [Value; 2]) -> Wide {
        // Bit i goes to the top of byte i; the other products of the factors' bits fall below.
        let [[p, q], [r, s]] = a.map(|eight| {
            [(15, 0x1020_4080), (0xf0, 0x0102_0408)].map(|(mask, factor)| {
                let four = self.iand(eight, mask);
                self.imul(four, factor)
            })
        });
        let tops = self.wide([p, q, r, s]);
        self.fill(tops)
    }
}
