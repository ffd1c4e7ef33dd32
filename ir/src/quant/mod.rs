//! The GGML weight formats, one file each, as data plus two decoders.
//!
//! A [`QuantFormat`] says how a block is laid out ([`Field`]s), which dot product it wants ([`DotForm`]), how to decode a
//! block byte by byte (`decode`, the reference), and how to write that decoding over the kernel builder (`unpack`), from
//! which every generated kernel without a microkernel is made. Invariant: no other source names a format; generators
//! match on the form. To add one: a file here and its name in the list below.

mod ggml;
mod grid;
mod unpack;

use crate::activation::{Q8_BLOCK, Q8_BYTES};
pub use ggml::{GGML_TYPES, GgmlType, ggml_type};
pub use mxfp4::HALVES as E2M1_HALVES;
pub use unpack::{Quad, Scaling, Unpack, Unpacked, Wide};

macro_rules! formats {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every format, in the order of the list.
        pub static ALL: &[&QuantFormat] = &[$(&$file::FORMAT),*];
    };
}

formats! {
    f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, iq3_xxs, iq3_s, iq2_xxs,
    iq2_xs, iq2_s, iq1_s, iq1_m, mxfp4,
}

/// The format of float activations and norm weights.
pub const F32: Format = Format(&f32::FORMAT);
/// The default format of the KV cache.
pub const F16: Format = Format(&f16::FORMAT);
/// The 8-bit format of the KV cache.
pub const Q8_0: Format = Format(&q8_0::FORMAT);

/// A part of a block: `bytes` bytes at `offset`, made of units that stay whole when rows are interleaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name in text and docs.
    pub name: &'static str,
    /// Byte offset in the block.
    pub offset: u32,
    /// Bytes in the block.
    pub bytes: u32,
    /// Bytes of one interleaving unit: 4 for code words, 2 for f16, 1 for packed scales; divides `bytes`.
    pub unit: u32,
}

/// Ranges of a block, of `bytes` bytes each, of which four bytes each are stored in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// Bytes of a range.
    pub bytes: u32,
    /// First byte of each.
    pub from: &'static [u32],
}

/// Element type of float formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FloatKind {
    F32,
    F16,
    Bf16,
}

/// How a format stores the scale of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scale {
    /// One f16 per block of 32.
    Half,
    /// Per 32: f16 d and m; the min is -m.
    HalfMin,
    /// Per 256: 16 bytes of a 4-bit scale (low) and a 4-bit min; f16 d and dmin.
    Super4Min,
    /// Per 256: f16 d; 16 scales of 6 bits, offset 32, packed as in Q3_K.
    Super6,
    /// Per 256: f16 d and dmin; 8 scales and 8 mins of 6 bits in 12 bytes.
    Super6Min,
    /// Per 256: f16 d; 16 signed 8-bit scales.
    Super8,
    /// Per 256: f16 d; 8 scales of 6 bits, offset 32: low nibbles and high bit pairs apart.
    Split6,
    /// Per 256: f16 d; the 4 high bits s of a 32-bit word per 32, whose others are signs. d (2 s + 1), times a power of 2.
    Top4,
    /// Per 256: f16 d; 4-bit s, two a byte. d (2 s + 1), times a power of 2.
    Nibbles,
    /// Per 256: f16 d; bits 12 to 14, s, of a 16-bit word per 32, whose others complete the indices. d (2 s + 1).
    Short3,
    /// Per 256: 3-bit s, four in a 16-bit word, the top nibbles of which make up the f16 d. d (2 s + 1).
    Scattered3,
}

/// The dot product that a format wants. Generators and microkernels match on this, never on a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DotForm {
    /// Values are floats; activations stay in f32.
    Float(FloatKind),
    /// value = scale(group) * (code - offset) - min(group); activations are int8.
    Int {
        /// Code width. 8-bit codes are signed, narrower ones unsigned.
        bits: u8,
        /// Subtracted from each code.
        offset: u8,
        /// Elements that share a scale.
        group: u8,
        /// Where the scale comes from.
        scale: Scale,
    },
    /// value = scale(group) * points\[index\]: one index gives several elements, which then change sign or shift by an
    /// eighth as the format's bits say; activations are int8.
    Grid {
        /// Index width.
        bits: u8,
        /// Elements of a point.
        vector: u8,
        /// Elements that share a scale.
        group: u8,
        /// Where the scale comes from.
        scale: Scale,
    },
    /// value = 2^(x - 127) * code: x a byte per group, code a float of `bits` bits (E2M1 if 4), as in the OCP microscaling
    /// formats; activations are int8.
    BlockScaled {
        /// Code width.
        bits: u8,
        /// Elements that share a scale.
        group: u8,
    },
    /// value = scale(group) * table\[code\]; activations are int8. The table is the non-linear 4-bit one of GGML.
    Codebook {
        /// Index width.
        bits: u8,
        /// Elements that share a scale.
        group: u8,
        /// Where the scale comes from.
        scale: Scale,
    },
}

impl DotForm {
    /// What is subtracted from each code that `unpack` gives.
    pub fn offset(self) -> u8 {
        match self {
            DotForm::Int { offset, .. } => offset,
            _ => 0,
        }
    }

    /// Whether codes are bytes of a table that nibbles choose, which `unpack` gives by [`Unpack::look_up`]. Both nibbles of a
    /// byte, elements j and j + 16 of the 32 that share a scale, are looked up at once on GPUs, whose codes are then in
    /// pairs: 0, 16, 1, 17, ... in place of 0, 1, 2, 3, ...
    pub fn looks_up(self) -> bool {
        matches!(self, DotForm::Codebook { bits: 4, .. } | DotForm::BlockScaled { bits: 4, .. })
    }

    /// Whether activations are quantised to int8 for this form.
    pub fn wants_int8(self) -> bool {
        !matches!(self, DotForm::Float(_))
    }

    /// Bytes of `columns` activations as this form takes them, a multiple of [`Q8_BLOCK`] where they are int8.
    pub fn activation_bytes(self, columns: usize) -> usize {
        if self.wants_int8() { columns / Q8_BLOCK * Q8_BYTES } else { columns * 4 }
    }
}

/// The points of a [`DotForm::Grid`]: words of four elements, in 8 bits each, the first in the lowest.
///
/// # Panics
/// If there is no such grid.
pub const fn points(bits: u8, vector: u8) -> &'static [u32] {
    match (bits, vector) {
        (8, 4) => &iq3_xxs::POINTS,
        (9, 4) => &iq3_s::POINTS,
        (8, 8) => &iq2_xxs::POINTS,
        (9, 8) => &iq2_xs::POINTS,
        (10, 8) => &iq2_s::POINTS,
        (11, 8) => &grid::TERNARY,
        _ => panic!("no such grid"),
    }
}

/// The non-linear 4-bit codebook of GGML (`kvalues_iq4nl` in ggml-common.h, MIT licence).
pub const LUT4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// One GGML weight format.
#[derive(Debug)]
pub struct QuantFormat {
    /// Type id in GGUF tensor tables.
    pub id: u32,
    /// Lower-case GGML name.
    pub name: &'static str,
    /// Elements of a block.
    pub block: u32,
    /// Bytes of a block.
    pub bytes: u32,
    /// What rows must be a multiple of (elements): the block, or what vector loads of float formats need.
    pub multiple: u32,
    /// The parts of a block, in order, without gaps.
    pub fields: &'static [Field],
    /// The order in which [`crate::tensor::Layout::Rows16`] has the bytes of a block, so that a dot reads them front to
    /// back. None: as they are.
    pub stripes: &'static [Stripe],
    /// The dot product it wants.
    pub dot: DotForm,
    /// Reference decoder: one block of `bytes` bytes to `block` values.
    pub decode: fn(block: &[u8], out: &mut [f32]),
    /// Elements `e..e + 16` of a block over the kernel builder (`e` a multiple of 16); float formats have none.
    pub unpack: Option<fn(u: &mut dyn Unpack, e: u32) -> Unpacked>,
    /// Writes the float scales of a block so that random codes mean values around zero in proportion to `scale`: for
    /// synthetic weights. Float formats have none.
    pub set_scale: Option<fn(block: &mut [u8], scale: f32)>,
}

impl QuantFormat {
    /// Where byte `at` of a block is in the order of [`QuantFormat::stripes`].
    pub fn striped(&self, at: usize) -> usize {
        const WORD: usize = 4;
        let mut start = 0;
        for &Stripe { bytes, from } in self.stripes {
            if let Some(i) = from.iter().position(|&first| (first..first + bytes).contains(&(at as u32))) {
                let into = at - from[i] as usize;
                return start + (into / WORD * from.len() + i) * WORD + into % WORD;
            }
            start += bytes as usize * from.len();
        }
        at
    }
}

/// A handle to a [`QuantFormat`], compared, hashed and serialised by name.
#[derive(Clone, Copy)]
pub struct Format(pub &'static QuantFormat);

impl std::ops::Deref for Format {
    type Target = QuantFormat;
    fn deref(&self) -> &QuantFormat {
        self.0
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Format {}

impl std::hash::Hash for Format {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl serde::Serialize for Format {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0.name)
    }
}

impl<'de> serde::Deserialize<'de> for Format {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Format::by_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown quant format '{name}'")))
    }
}

impl Format {
    /// By GGUF type id.
    pub fn by_id(id: u32) -> Option<Format> {
        ALL.iter().find(|f| f.id == id).map(|f| Format(f))
    }

    /// By lower-case name.
    pub fn by_name(name: &str) -> Option<Format> {
        ALL.iter().find(|f| f.name == name).map(|f| Format(f))
    }

    /// Bytes of `elements` elements, a multiple of the block.
    pub fn bytes_of(self, elements: u64) -> u64 {
        elements / u64::from(self.0.block) * u64::from(self.0.bytes)
    }

    /// Decodes whole blocks: `bytes` holds `out.len()` elements.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn decode_into(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len() as u64, self.bytes_of(out.len() as u64), "{self}: bytes and elements disagree");
        for (b, o) in bytes.chunks_exact(self.0.bytes as usize).zip(out.chunks_exact_mut(self.0.block as usize)) {
            (self.0.decode)(b, o);
        }
    }
}

/// The f16 at byte `at`.
fn half(b: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Writes an f16 at byte `at`.
fn put_half(b: &mut [u8], at: usize, v: f32) {
    b[at..at + 2].copy_from_slice(&half::f16::from_f32(v).to_le_bytes());
}

/// The 6-bit scale and min of group `g` (0..8) in the 12 bytes of [`Scale::Super6Min`] (`get_scale_min_k4` in GGML).
fn super6min(s: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (s[g] & 63, s[g + 4] & 63)
    } else {
        ((s[g + 4] & 15) | (s[g - 4] >> 6 << 4), (s[g + 4] >> 4) | (s[g] >> 6 << 4))
    }
}

/// As [`super6min`], over a builder: the scale and what to add, in formats whose first fields are d, dmin, scales.
fn unpack_super6min(u: &mut dyn Unpack, g: u32) -> (Scaling, Scaling) {
    // Four groups at once.
    let [scales, mins] = if g < 4 {
        [0, 4].map(|at| {
            let six = u.quad(2, at);
            u.move_bits(six, 0, 6, 0)
        })
    } else {
        [(0, 0), (4, 4)].map(|(at, from)| {
            let (low, high) = (u.quad(2, 8), u.quad(2, at));
            let (low, high) = (u.move_bits(low, from, 4, 0), u.move_bits(high, 6, 2, 4));
            u.merge(low, high)
        })
    };
    let [scale, min] = [scales, mins].map(|four| Some(u.pick(four, g % 4, false)));
    let (d, dmin) = (u.half(0, 0), u.half(1, 0));
    (Scaling { factor: d, times: scale }, Scaling { factor: u.fscale(dmin, -1.0), times: min })
}
