//! `Layout::Rows` to `Layout::Rows16`: interleaving the rows of a weight for the dot microkernels.
//!
//! Tiles of 16 rows; in a tile block after block; in a block field after field; in a field unit after unit, each for the
//! 16 rows in turn. A permutation of bytes, so lossless; rows past the last are zero bytes. It is written over the fields
//! of the format alone. Next hop: the loader repacks straight from the mapped file into the weight's memory.

use ir::abi::TILE_ROWS;
use ir::quant::{Field, Format};
use rayon::prelude::*;

/// Bytes of `rows` x `columns` weights in `Layout::Rows16`, padding included.
pub fn interleaved_bytes(format: Format, rows: usize, columns: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS) * row_bytes(format, columns)
}

/// Interleaves `src` (`rows` rows of `columns` elements, as in the file) into `dst`, of [`interleaved_bytes`] bytes.
/// Tiles are spread over the current rayon pool.
///
/// # Panics
/// If a length does not agree, or `columns` is no multiple of the format's block.
pub fn interleave(format: Format, src: &[u8], rows: usize, columns: usize, dst: &mut [u8]) {
    let row = row_bytes(format, columns);
    assert_eq!(src.len(), rows * row, "{format}: source bytes");
    assert_eq!(dst.len(), interleaved_bytes(format, rows, columns), "{format}: destination bytes");
    if row == 0 {
        return;
    }
    let groups = src.par_chunks(TILE_ROWS * row).zip(dst.par_chunks_mut(TILE_ROWS * row));
    groups.for_each(|(src, dst)| interleave_tile(format, src, dst));
}

/// The inverse of [`interleave`]; `dst` gets the `rows` rows without padding.
///
/// # Panics
/// As [`interleave`].
pub fn deinterleave(format: Format, src: &[u8], rows: usize, columns: usize, dst: &mut [u8]) {
    let row = row_bytes(format, columns);
    assert_eq!(dst.len(), rows * row, "{format}: destination bytes");
    assert_eq!(src.len(), interleaved_bytes(format, rows, columns), "{format}: source bytes");
    if row == 0 {
        return;
    }
    for (dst, src) in dst.chunks_mut(TILE_ROWS * row).zip(src.chunks(TILE_ROWS * row)) {
        for_each_unit(format, row, |at, unit, tile_at| {
            for (r, dst) in dst.chunks_exact_mut(row).enumerate() {
                dst[at..at + unit].copy_from_slice(&src[tile_at + r * unit..][..unit]);
            }
        });
    }
}

/// Calls `f(byte in the row, bytes of the unit, byte in the tile)` for every unit of a row.
fn for_each_unit(format: Format, row: usize, mut f: impl FnMut(usize, usize, usize)) {
    let block = format.bytes as usize;
    for start in (0..row).step_by(block) {
        for field in format.fields {
            let (offset, bytes, unit) = parts(field);
            for at in (offset..offset + bytes).step_by(unit) {
                f(start + at, unit, (start + offset) * TILE_ROWS + (at - offset) * TILE_ROWS);
            }
        }
    }
}

/// One tile: `src` has 1 to 16 rows, `dst` 16.
fn interleave_tile(format: Format, src: &[u8], dst: &mut [u8]) {
    let row = dst.len() / TILE_ROWS;
    if src.len() < dst.len() {
        let mut padded = vec![0; dst.len()];
        padded[..src.len()].copy_from_slice(src);
        return interleave_tile(format, &padded, dst);
    }
    // A format of one field has no boundaries between blocks: the whole row is one run of units. Its rows are often a
    // power of two apart, where 16 cache lines at once evict one another: a piece of each is brought together first.
    if let [field] = format.fields {
        const PIECE: usize = 256;
        let mut near = [0; PIECE * TILE_ROWS];
        for (p, dst) in dst.chunks_mut(PIECE * TILE_ROWS).enumerate() {
            let bytes = dst.len() / TILE_ROWS;
            for (r, near) in near.chunks_exact_mut(PIECE).enumerate() {
                near[..bytes].copy_from_slice(&src[r * row + p * PIECE..][..bytes]);
            }
            interleave_run(field.unit, &near, PIECE, bytes, dst);
        }
        return;
    }
    let block = format.bytes as usize;
    for (b, dst) in dst.chunks_exact_mut(block * TILE_ROWS).enumerate() {
        for field in format.fields {
            let (offset, bytes, _) = parts(field);
            let dst = &mut dst[offset * TILE_ROWS..][..bytes * TILE_ROWS];
            interleave_run(field.unit, &src[b * block + offset..], row, bytes, dst);
        }
    }
}

/// A run of units: the first `bytes` bytes of 16 rows that are `stride` bytes apart.
fn interleave_run(unit: u32, src: &[u8], stride: usize, bytes: usize, dst: &mut [u8]) {
    match unit {
        4 => interleave_words::<4, 2>(src, stride, bytes, dst),
        2 => interleave_words::<2, 4>(src, stride, bytes, dst),
        1 => interleave_words::<1, 8>(src, stride, bytes, dst),
        n => {
            let n = n as usize;
            for (u, dst) in dst.chunks_exact_mut(n * TILE_ROWS).enumerate() {
                for (r, dst) in dst.chunks_exact_mut(n).enumerate() {
                    dst.copy_from_slice(&src[r * stride + u * n..][..n]);
                }
            }
        }
    }
}

/// [`interleave_run`] for units of `N` bytes, `K` = 8 / `N` of which fill a 64-bit word: squares of `K` rows by `K` units
/// are transposed in `K` words.
fn interleave_words<const N: usize, const K: usize>(src: &[u8], stride: usize, bytes: usize, dst: &mut [u8]) {
    const WORD: usize = 8;
    let (words, rest) = dst.split_at_mut(bytes / WORD * WORD * TILE_ROWS);
    // A word of each row at a time; the words of one unit lie side by side.
    for (c, out) in words.as_chunks_mut::<WORD>().0.as_chunks_mut::<TILE_ROWS>().0.iter_mut().enumerate() {
        for r in (0..TILE_ROWS).step_by(K) {
            let square =
                transpose::<N, K>(std::array::from_fn(|i| u64::from_le_bytes(piece(src, (r + i) * stride + c * WORD))));
            for (i, word) in square.into_iter().enumerate() {
                out[(i * TILE_ROWS + r) / K] = word.to_le_bytes();
            }
        }
    }
    let done = bytes / WORD * WORD;
    for (u, out) in rest.as_chunks_mut::<N>().0.as_chunks_mut::<TILE_ROWS>().0.iter_mut().enumerate() {
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

/// Offset, bytes and unit of a field.
fn parts(field: &Field) -> (usize, usize, usize) {
    (field.offset as usize, field.bytes as usize, field.unit as usize)
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
        for format in quant::ALL.iter().map(|f| Format(f)) {
            for (rows, blocks) in [(1, 1), (15, 3), (16, 2), (17, 5), (40, 3)] {
                let columns = blocks * format.block as usize;
                let row = row_bytes(format, columns);
                let src = noise(rows * row);
                let mut tiles = vec![0xaa; interleaved_bytes(format, rows, columns)];
                interleave(format, &src, rows, columns, &mut tiles);

                let mut want = Vec::new();
                for tile in 0..rows.div_ceil(TILE_ROWS) {
                    for b in 0..blocks {
                        for field in format.fields {
                            let (offset, bytes, unit) = parts(field);
                            for u in 0..bytes / unit {
                                for r in tile * TILE_ROWS..(tile + 1) * TILE_ROWS {
                                    let at = r * row + b * format.bytes as usize + offset + u * unit;
                                    want.extend((at..at + unit).map(|i| if r < rows { src[i] } else { 0 }));
                                }
                            }
                        }
                    }
                }
                assert!(tiles == want, "{format}, {rows} rows of {blocks} blocks");

                let mut back = vec![0x55; src.len()];
                deinterleave(format, &tiles, rows, columns, &mut back);
                assert!(back == src, "{format}, {rows} rows of {blocks} blocks: back");
            }
        }
    }

    #[test]
    fn fields_tile_the_block() {
        for f in quant::ALL {
            let mut at = 0;
            for field in f.fields {
                assert_eq!((field.offset, field.bytes % field.unit), (at, 0), "{}.{}", f.name, field.name);
                at += field.bytes;
            }
            assert_eq!(at, f.bytes, "{}", f.name);
        }
    }
}
