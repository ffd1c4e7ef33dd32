//! `Layout::Rows` to the interleaved layouts: for the dot microkernels, and for the warps of a GPU.
//!
//! Tiles of 16 or 32 rows, some cut into pieces; in a piece block after block; in a block unit after unit, in the layout's
//! order, each for the rows of the tile in turn. A permutation of bytes, so lossless; rows past the last are zero bytes. It
//! is written over the fields and stripes of the format alone. Next hop: the loader repacks from the reader's
//! buffers into the weight's memory.

use ir::abi::{TILE_ROWS, WARP_ROWS};
use ir::quant::Format;
use ir::tensor::Layout;
use rayon::prelude::*;

/// Bytes of `rows` x `columns` weights in `layout`, padding included.
pub fn bytes(layout: Layout, format: Format, rows: usize, columns: usize) -> usize {
    rows.next_multiple_of(layout.band_rows(format, columns)) * row_bytes(format, columns)
}

/// Brings `src` (`rows` rows of `columns` elements, as in the file) to `layout` in `dst`, of [`bytes`] bytes. Groups of
/// tiles are spread over the current rayon pool.
///
/// # Panics
/// If a length does not agree, or rows are no whole blocks or spans.
pub fn repack(layout: Layout, format: Format, src: &[u8], rows: usize, columns: usize, dst: &mut [u8]) {
    let row = row_bytes(format, columns);
    assert_eq!(src.len(), rows * row, "{format}: source bytes");
    assert_eq!(dst.len(), bytes(layout, format, rows, columns), "{format}: destination bytes");
    if row == 0 {
        return;
    }
    let parts = Parts::new(layout, format);
    assert_eq!(row % parts.bytes, 0, "{format}: {columns} columns are no whole spans");
    let cut = Cut::new(layout, format, columns);
    let band = cut.band_rows() * row;
    let bands = src.par_chunks(band).zip(dst.par_chunks_mut(band));
    match layout {
        Layout::Rows | Layout::Keys | Layout::Values => dst.copy_from_slice(src),
        Layout::Rows16 => bands.for_each(|(src, dst)| parts.band::<TILE_ROWS>(&cut, src, dst)),
        Layout::Rows32 => bands.for_each(|(src, dst)| parts.band::<WARP_ROWS>(&cut, src, dst)),
    }
}

/// The inverse of [`repack`]; `dst` gets the `rows` rows without padding.
///
/// # Panics
/// As [`repack`].
pub fn restore(layout: Layout, format: Format, src: &[u8], rows: usize, columns: usize, dst: &mut [u8]) {
    let (row, tile_rows) = (row_bytes(format, columns), layout.tile_rows());
    assert_eq!(dst.len(), rows * row, "{format}: destination bytes");
    assert_eq!(src.len(), bytes(layout, format, rows, columns), "{format}: source bytes");
    if row == 0 {
        return;
    }
    let (parts, cut) = (Parts::new(layout, format), Cut::new(layout, format, columns));
    let band = cut.band_rows() * row;
    for (dst, src) in dst.chunks_mut(band).zip(src.chunks(band)) {
        for Piece { tile, first, bytes, at } in cut.of_a_band() {
            let rows = dst.chunks_exact_mut(row).skip(tile * tile_rows).take(tile_rows);
            for (r, dst) in rows.enumerate() {
                parts.for_each_unit(bytes, |from, to, unit| {
                    dst[first + from..][..unit].copy_from_slice(&src[at + to * tile_rows + r * unit..][..unit]);
                });
            }
        }
    }
}

/// How a matrix is cut, in bytes.
struct Cut {
    tile_rows: usize,
    /// Tiles of a band.
    tiles: usize,
    /// Bytes of a row, and of its part in a piece; the last has what is left.
    row: usize,
    part: usize,
}

/// A piece: its tile in the band, the first byte and the bytes of each row that it has, and where it is in the band.
struct Piece {
    tile: usize,
    first: usize,
    bytes: usize,
    at: usize,
}

impl Cut {
    fn new(layout: Layout, format: Format, columns: usize) -> Cut {
        let pieces = layout.pieces(format, columns);
        let (row, part) = (row_bytes(format, columns), row_bytes(format, pieces.columns));
        Cut { tile_rows: layout.tile_rows(), tiles: pieces.tiles, row, part }
    }

    fn band_rows(&self) -> usize {
        self.tile_rows * self.tiles
    }

    /// The pieces of a band, in order.
    fn of_a_band(&self) -> impl Iterator<Item = Piece> {
        (0..self.row).step_by(self.part).flat_map(move |first| {
            let bytes = self.part.min(self.row - first);
            (0..self.tiles).map(move |tile| {
                let at = self.band_rows() * first + tile * self.tile_rows * bytes;
                Piece { tile, first, bytes, at }
            })
        })
    }
}

/// Units that lie together before and after.
struct Part {
    /// First byte of a span of blocks, and where it goes.
    from: usize,
    to: usize,
    bytes: usize,
    unit: usize,
}

/// The parts of a span of blocks.
struct Parts {
    parts: Vec<Part>,
    /// Bytes of all.
    bytes: usize,
}

impl Parts {
    fn new(layout: Layout, format: Format) -> Parts {
        let span = layout.span(format);
        let mut parts: Vec<Part> = Vec::new();
        for field in format.fields {
            let (first, unit) = (field.offset as usize, layout.unit(format, field));
            for from in (first..first + field.bytes as usize * span).step_by(unit) {
                let to = layout.reordered(format, from);
                match parts.last_mut() {
                    Some(p) if p.unit == unit && (p.from + p.bytes, p.to + p.bytes) == (from, to) => p.bytes += unit,
                    _ => parts.push(Part { from, to, bytes: unit, unit }),
                }
            }
        }
        Parts { parts, bytes: format.bytes as usize * span }
    }

    /// Calls `f(byte in the row, where it goes, bytes of the unit)` for every unit of a row.
    fn for_each_unit(&self, row: usize, mut f: impl FnMut(usize, usize, usize)) {
        for start in (0..row).step_by(self.bytes) {
            for part in &self.parts {
                for at in (0..part.bytes).step_by(part.unit) {
                    f(start + part.from + at, start + part.to + at, part.unit);
                }
            }
        }
    }

    /// One band of tiles: `src` has up to as many rows as `dst`.
    fn band<const ROWS: usize>(&self, cut: &Cut, src: &[u8], dst: &mut [u8]) {
        for Piece { tile, first, bytes, at } in cut.of_a_band() {
            let dst = &mut dst[at..][..bytes * ROWS];
            let start = (tile * ROWS * cut.row).min(src.len());
            let rows = &src[start..(start + ROWS * cut.row).min(src.len())];
            if rows.len() == ROWS * cut.row {
                self.interleave::<ROWS>(&rows[first..], cut.row, dst);
                continue;
            }
            let mut padded = vec![0; dst.len()];
            for (to, from) in padded.chunks_exact_mut(bytes).zip(rows.chunks_exact(cut.row)) {
                to.copy_from_slice(&from[first..][..bytes]);
            }
            self.interleave::<ROWS>(&padded, bytes, dst);
        }
    }

    /// A piece: `src` has `ROWS` rows, `stride` bytes apart, of which `dst` has room for the first bytes.
    fn interleave<const ROWS: usize>(&self, src: &[u8], stride: usize, dst: &mut [u8]) {
        // One part has no boundaries between spans: the whole row is one run of units. Its rows are often a power of
        // two apart, where that many cache lines at once evict one another: some bytes of each are brought together first.
        if let &[Part { unit, .. }] = self.parts.as_slice() {
            const NEAR: usize = 256;
            let mut near = [[0; NEAR]; ROWS];
            for (p, dst) in dst.chunks_mut(NEAR * ROWS).enumerate() {
                let bytes = dst.len() / ROWS;
                for (r, near) in near.iter_mut().enumerate() {
                    near[..bytes].copy_from_slice(&src[r * stride + p * NEAR..][..bytes]);
                }
                interleave_run::<ROWS>(unit, near.as_flattened(), NEAR, bytes, dst);
            }
            return;
        }
        for (b, dst) in dst.chunks_exact_mut(self.bytes * ROWS).enumerate() {
            for &Part { from, to, bytes, unit } in &self.parts {
                let dst = &mut dst[to * ROWS..][..bytes * ROWS];
                interleave_run::<ROWS>(unit, &src[b * self.bytes + from..], stride, bytes, dst);
            }
        }
    }
}

/// A run of units: the first `bytes` bytes of `ROWS` rows that are `stride` bytes apart.
fn interleave_run<const ROWS: usize>(unit: usize, src: &[u8], stride: usize, bytes: usize, dst: &mut [u8]) {
    match unit {
        4 => interleave_words::<4, 2, ROWS>(src, stride, bytes, dst),
        2 => interleave_words::<2, 4, ROWS>(src, stride, bytes, dst),
        1 => interleave_words::<1, 8, ROWS>(src, stride, bytes, dst),
        n => {
            for (u, dst) in dst.chunks_exact_mut(n * ROWS).enumerate() {
                for (r, dst) in dst.chunks_exact_mut(n).enumerate() {
                    dst.copy_from_slice(&src[r * stride + u * n..][..n]);
                }
            }
        }
    }
}

/// [`interleave_run`] for units of `N` bytes, `K` = 8 / `N` of which fill a 64-bit word: squares of `K` rows by `K` units
/// are transposed in `K` words.
fn interleave_words<const N: usize, const K: usize, const ROWS: usize>(
    src: &[u8],
    stride: usize,
    bytes: usize,
    dst: &mut [u8],
) {
    const WORD: usize = 8;
    let (words, rest) = dst.split_at_mut(bytes / WORD * WORD * ROWS);
    // A word of each row at a time; the words of one unit lie side by side.
    for (c, out) in words.as_chunks_mut::<WORD>().0.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        for r in (0..ROWS).step_by(K) {
            let square =
                transpose::<N, K>(std::array::from_fn(|i| u64::from_le_bytes(piece(src, (r + i) * stride + c * WORD))));
            for (i, word) in square.into_iter().enumerate() {
                out[(i * ROWS + r) / K] = word.to_le_bytes();
            }
        }
    }
    let done = bytes / WORD * WORD;
    for (u, out) in rest.as_chunks_mut::<N>().0.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        for (r, out) in out.iter_mut().enumerate() {
            *out = piece(src, r * stride + done + u * N);
        }
    }
}

/// The `N` bytes from `at`.
#[inline(always)]
fn piece<const N: usize>(src: &[u8], at: usize) -> [u8; N] {
    let from = &src[at..at + N];
    std::array::from_fn(|i| from[i])
}

/// Transposes a `K` x `K` matrix of `N`-byte elements (`N` `K` = 8): word i is row i, its lowest bytes column 0. Each step
/// swaps the off-diagonal quarters of squares of twice the distance.
fn transpose<const N: usize, const K: usize>(mut m: [u64; K]) -> [u64; K] {
    let mut distance = 1;
    while distance < K {
        let bits = 8 * N * distance;
        // The lower `bits` bits of every 2 `bits`.
        let mask = u64::MAX / ((1 << bits) + 1);
        for i in (0..K).filter(|i| i & distance == 0) {
            let swap = (m[i] >> bits ^ m[i + distance]) & mask;
            m[i + distance] ^= swap;
            m[i] ^= swap << bits;
        }
        distance *= 2;
    }
    m
}

fn row_bytes(format: Format, columns: usize) -> usize {
    assert_eq!(columns % format.block as usize, 0, "{format}: {columns} columns are no whole blocks");
    format.bytes_of(columns as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::quant;

    /// Bytes that repeat with no period of the layout.
    fn noise(n: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn follows_the_definition_and_comes_back() {
        for (layout, format) in
            [Layout::Rows16, Layout::Rows32].into_iter().flat_map(|l| quant::ALL.iter().map(move |f| (l, Format(f))))
        {
            let (tile_rows, span) = (layout.tile_rows(), layout.span(format));
            let many = 40 * 256 / format.block as usize / span;
            for (rows, spans) in [(1, 1), (15, 3), (16, 2), (17, 5), (40, 3), (70, many), (128, many + 1)] {
                let columns = spans * span * format.block as usize;
                let row = row_bytes(format, columns);
                let src = noise(rows * row);
                let mut tiles = vec![0xaa; bytes(layout, format, rows, columns)];
                repack(layout, format, &src, rows, columns, &mut tiles);

                // Units by where they are in a row of the tile.
                let mut units = Vec::new();
                for s in 0..spans {
                    let start = s * span * format.bytes as usize;
                    for field in format.fields {
                        let unit = layout.unit(format, field);
                        let first = field.offset as usize;
                        for at in (first..first + field.bytes as usize * span).step_by(unit) {
                            let to = if layout == Layout::Rows16 { format.striped(at) } else { at };
                            units.push((start + to, start + at, unit));
                        }
                    }
                }
                units.sort_unstable();
                let pieces = layout.pieces(format, columns);
                let part = row_bytes(format, pieces.columns);
                let mut want = Vec::new();
                for band in 0..rows.div_ceil(tile_rows * pieces.tiles) {
                    for (p, t) in (0..pieces.count).flat_map(|p| (0..pieces.tiles).map(move |t| (p, t))) {
                        for &(_, at, unit) in units.iter().filter(|unit| unit.0 / part == p) {
                            let first = (band * pieces.tiles + t) * tile_rows;
                            for r in first..first + tile_rows {
                                let at = r * row + at;
                                want.extend((at..at + unit).map(|i| if r < rows { src[i] } else { 0 }));
                            }
                        }
                    }
                }
                assert!(tiles == want, "{format} {layout:?}, {rows} rows of {spans} spans");

                let mut back = vec![0x55; src.len()];
                restore(layout, format, &tiles, rows, columns, &mut back);
                assert!(back == src, "{format} {layout:?}, {rows} rows of {spans} spans: back");
            }
        }
    }

    #[test]
    fn fields_tile_the_block() {
        for f in quant::ALL {
            let mut at = 0;
            for field in f.fields {
                assert_eq!((field.offset, field.bytes % field.unit), (at, 0), "{}.{}", f.name, field.name);
                let unit = Layout::Rows32.unit(Format(f), field);
                assert_eq!(
                    field.bytes as usize * Layout::Rows32.span(Format(f)) % unit,
                    0,
                    "{}.{}",
                    f.name,
                    field.name
                );
                at += field.bytes;
            }
            assert_eq!(at, f.bytes, "{}", f.name);
        }
    }

    #[test]
    fn stripes_have_every_unit_once() {
        for f in quant::ALL {
            let mut places: Vec<usize> = (0..f.bytes as usize).map(|at| f.striped(at)).collect();
            for field in f.fields {
                for unit in places[field.offset as usize..][..field.bytes as usize].chunks(field.unit as usize) {
                    assert!(unit.windows(2).all(|p| p[1] == p[0] + 1), "{}.{}", f.name, field.name);
                }
            }
            places.sort_unstable();
            assert!(places.into_iter().eq(0..f.bytes as usize), "{}", f.name);
        }
    }
}
