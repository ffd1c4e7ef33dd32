//! Tensor types: what an edge of the graph carries.

use crate::abi::{KV_BLOCK, LANE_BYTES, TILE_ROWS, WARP_ROWS};
use crate::kv::KvFormat;
use crate::quant::{self, Field, Format};
use serde::{Deserialize, Serialize};

/// Element type. Activations are f32 or [`Elem::Q8`]; weights and KV caches are of a GGML format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Elem {
    /// Token ids and positions.
    I32,
    /// int8 activations, 32 a block with an f32 scale: [`crate::abi::q8_row_bytes`].
    Q8,
    /// A GGML format; f32 is one.
    Ggml(Format),
}

impl Elem {
    /// f32.
    pub const F32: Elem = Elem::Ggml(quant::F32);
    /// f16.
    pub const F16: Elem = Elem::Ggml(quant::F16);

    /// The format of KV caches of these elements, if they are one's.
    pub fn kv(self) -> Option<&'static KvFormat> {
        if let Elem::Ggml(format) = self { KvFormat::of(format) } else { None }
    }
}

impl std::fmt::Display for Elem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Elem::I32 => f.write_str("i32"),
            Elem::Q8 => f.write_str("q8"),
            Elem::Ggml(q) => f.write_str(q.name),
        }
    }
}

/// How a tensor's elements lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum Layout {
    /// Row after row; quantised rows as in the GGUF file.
    #[default]
    Rows,
    /// Weights: tiles of 16 rows; in a tile block after block; in a block unit after unit, in the order of the format's
    /// [`stripes`](quant::QuantFormat::stripes), each for the 16 rows in turn. Large tiles are cut into [`Pieces`], and
    /// those of a band of tiles lie piece by piece. Rows are padded to whole bands with zero bytes.
    Rows16,
    /// The same for GPUs: 32 rows, one for each lane of a warp, field after field, with units of up to 16 bytes, a lane's
    /// widest load.
    Rows32,
    /// Keys of a KV cache, with the values of the layer in one memory: head after head; in a head, by blocks of
    /// [`KV_BLOCK`] positions, keys, then values. Keys are tiles of 16 positions, in a tile element after element, then
    /// scale after scale, each for the 16 positions in turn. Positions are padded to whole blocks.
    Keys,
    /// Values of a KV cache whose keys are [`Layout::Keys`], in their blocks of that memory: position after position.
    Values,
}

impl Layout {
    /// Whether it is one of KV caches alone.
    pub fn is_kv(self) -> bool {
        matches!(self, Layout::Keys | Layout::Values)
    }

    /// Rows that are interleaved.
    pub fn tile_rows(self) -> usize {
        match self {
            Layout::Rows | Layout::Values => 1,
            Layout::Rows16 | Layout::Keys => TILE_ROWS,
            Layout::Rows32 => WARP_ROWS,
        }
    }

    /// How tiles of rows of `columns` elements are cut.
    pub fn pieces(self, format: Format, columns: usize) -> Pieces {
        let tile = TILE_ROWS * format.bytes_of(columns as u64) as usize;
        if self != Layout::Rows16 || tile <= PIECE_BYTES {
            return Pieces { columns, count: 1, tiles: 1 };
        }
        let columns_each = columns.div_ceil(tile.div_ceil(PIECE_BYTES)).next_multiple_of(PIECE_COLUMNS);
        Pieces { columns: columns_each, count: columns.div_ceil(columns_each), tiles: BAND_TILES }
    }

    /// Rows of a band of tiles, to which rows are padded.
    pub fn band_rows(self, format: Format, columns: usize) -> usize {
        self.tile_rows() * self.pieces(format, columns).tiles
    }

    /// Consecutive blocks whose fields count as one: single float elements, until they make up a unit.
    pub fn span(self, format: Format) -> usize {
        if self == Layout::Rows32 && format.block == 1 { LANE_BYTES / format.bytes as usize } else { 1 }
    }

    /// Bytes of a field that stay together when rows are interleaved.
    pub fn unit(self, format: Format, field: &Field) -> usize {
        if self != Layout::Rows32 {
            return field.unit as usize;
        }
        let bytes = field.bytes as usize * self.span(format);
        (1 << bytes.trailing_zeros()).clamp(field.unit as usize, LANE_BYTES)
    }

    /// Where byte `at` of a block is before its rows are interleaved.
    pub fn reordered(self, format: Format, at: usize) -> usize {
        if self == Layout::Rows16 { format.striped(at) } else { at }
    }

    /// Suffix in text forms.
    pub fn suffix(self) -> &'static str {
        match self {
            Layout::Rows => "",
            Layout::Rows16 => "@rows16",
            Layout::Rows32 => "@rows32",
            Layout::Keys => "@keys",
            Layout::Values => "@values",
        }
    }
}

/// Columns that every piece of a tile but the last has a multiple of.
pub const PIECE_COLUMNS: usize = 256;
/// Bytes of a tile above which it is cut. A dot reads the activations of its piece, 1 to 4 KiB, and at most this many
/// bytes of weights: with both below half of an L1 cache of 32 KiB, which is what each of two threads of a core has, the
/// activations are still in L1 for the piece of the next tile. Weights are cut when they are loaded and kernels when they are
/// compiled, so a change of these figures is one of [`crate::abi::VERSION`].
const PIECE_BYTES: usize = 9 << 10;
/// Tiles of a band. The activations of a piece come to L1 once for all of them.
const BAND_TILES: usize = 4;

/// How the tiles of a matrix are cut into pieces of columns. Memory has a band of tiles after the other, and in a band the
/// first piece of each tile, then the second of each, and so on. With two pieces and four tiles:
///
/// ```text
///              columns ->        in memory
/// tile 0:   piece 0 | piece 1    0.0 1.0 2.0 3.0  0.1 1.1 2.1 3.1
/// tile 1:   piece 0 | piece 1    (tile.piece)
/// tile 2:   piece 0 | piece 1
/// tile 3:   piece 0 | piece 1
/// ```
///
/// A matrix whose tiles are not cut has one piece a tile and one tile a band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// Columns of a piece; the last has what is left.
    pub columns: usize,
    /// Pieces of a tile.
    pub count: usize,
    /// Tiles of a band.
    pub tiles: usize,
}

/// Element type, shape (slowest dimension first) and layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub elem: Elem,
    /// Dimensions, slowest first: a weight matrix is \[rows, columns\], columns being the contraction length; those of experts
    /// are \[experts, rows, columns\], one matrix after the other, each laid out by itself.
    pub shape: Vec<usize>,
    /// Memory layout.
    pub layout: Layout,
}

impl TensorType {
    /// A type in [`Layout::Rows`].
    pub fn new(elem: Elem, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { elem, shape: shape.into(), layout: Layout::Rows }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the fastest dimension.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the fastest.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The matrices of a weight: one for each expert where it has three dimensions, else one.
    pub fn matrices(&self) -> usize {
        if self.shape.len() == 3 { self.shape[0] } else { 1 }
    }

    /// Bytes of a weight in its layout, padding of each matrix included; `None` if it is no GGML format.
    pub fn weight_bytes(&self) -> Option<u64> {
        let Elem::Ggml(format) = self.elem else { return None };
        let matrices = self.matrices();
        let rows = (self.rows() / matrices).next_multiple_of(self.layout.band_rows(format, self.columns()));
        Some(matrices as u64 * rows as u64 * format.bytes_of(self.columns() as u64))
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[", self.elem)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        write!(f, "]{}", self.layout.suffix())
    }
}

/// How the rows of a KV cache lie in memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvRows {
    /// Of one position of one head.
    pub row: usize,
    /// From [`KV_BLOCK`] positions of a head to the next.
    pub block: usize,
    /// From a head to the next.
    pub head: usize,
    /// From the beginning of the layer's memory to the first row.
    pub first: usize,
}

/// The figures of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// KV heads.
    pub heads: usize,
    /// Positions that it holds.
    pub positions: usize,
    /// Elements of a row.
    pub head: usize,
    /// Whether it holds the last positions alone: position p lies where p mod `positions` would.
    pub ring: bool,
}

/// The figures of a KV cache, \[heads, positions, head\] or, as a ring, \[heads, blocks, [`KV_BLOCK`], head\]; `None` for
/// other shapes.
pub fn kv_shape(ty: &TensorType) -> Option<KvShape> {
    match *ty.shape.as_slice() {
        [heads, positions, head] => Some(KvShape { heads, positions, head, ring: false }),
        [heads, blocks, KV_BLOCK, head] => {
            Some(KvShape { heads, positions: blocks.checked_mul(KV_BLOCK)?, head, ring: true })
        }
        _ => None,
    }
}

/// The rows of a KV cache of a GGML format, which are those of [`crate::abi`]; `None` if the type is not one of a KV cache.
pub fn kv_rows(ty: &TensorType) -> Option<KvRows> {
    let KvShape { positions: context, head, .. } = kv_shape(ty)?;
    let row = kv_row_bytes(ty.elem, head)?;
    let half = row.checked_mul(KV_BLOCK)?;
    if !ty.layout.is_kv() {
        return Some(KvRows { row, block: half, head: context.checked_mul(row)?, first: 0 });
    }
    let block = half.checked_mul(2)?;
    let first = if ty.layout == Layout::Values { half } else { 0 };
    Some(KvRows { row, block, head: context.div_ceil(KV_BLOCK).checked_mul(block)?, first })
}

/// Bytes of a KV cache from its first row on.
pub fn kv_bytes(ty: &TensorType) -> Option<u64> {
    let rows = kv_rows(ty)?;
    (*ty.shape.first()? as u64).checked_mul(rows.head as u64)?.checked_sub(rows.first as u64)
}

/// Bytes of one position of one head in a KV cache of `elem`.
pub fn kv_row_bytes(elem: Elem, head: usize) -> Option<usize> {
    elem.kv().map(|kv| kv.encoding.row_bytes(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_share_a_memory_without_gaps() {
        let (heads, head) = (3, 24);
        for elem in crate::kv::ALL.iter().map(|kv| Elem::Ggml(kv.format)) {
            for context in [1, KV_BLOCK, 3 * KV_BLOCK + 5] {
                let of = |layout| TensorType { elem, shape: vec![heads, context, head], layout };
                let mut blocks: Vec<(usize, usize)> = Vec::new();
                for ty in [of(Layout::Keys), of(Layout::Values)] {
                    let rows = kv_rows(&ty).expect("a KV format");
                    let first = |i: usize, b: usize| rows.first + i * rows.head + b * rows.block;
                    let each = (0..heads).flat_map(|i| (0..context.div_ceil(KV_BLOCK)).map(move |b| (i, b)));
                    blocks.extend(each.map(|(i, b)| (first(i, b), first(i, b) + KV_BLOCK * rows.row)));
                    let all = (heads * rows.head) as u64;
                    assert_eq!(kv_bytes(&ty), Some(all - rows.first as u64), "{ty}");
                }
                blocks.sort_unstable();
                let ends = std::iter::once(0).chain(blocks.iter().map(|b| b.1));
                assert!(blocks.iter().map(|b| b.0).eq(ends.take(blocks.len())), "{elem} {context}: {blocks:?}");
                assert_eq!(blocks.last().map(|b| b.1 as u64), kv_bytes(&of(Layout::Keys)), "{elem} {context}");
            }
        }
    }
}
