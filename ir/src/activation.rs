//! How rows of activations and of KV caches lie in memory, which generated code, microkernels and the runtime agree on.
//!
//! Part of the ABI: users find it as [`crate::abi`], whose version covers it. It is a module of its own because formats
//! need it too, and the ABI needs formats.

/// Row alignment of activation buffers, bytes.
pub const ROW_ALIGN: usize = 64;
/// Elements that share one scale in int8 activations.
pub const Q8_BLOCK: usize = 32;

/// Bytes of one row of `k` float activations: f32, padded to [`ROW_ALIGN`].
pub const fn f32_row_bytes(k: usize) -> usize {
    (k * 4).next_multiple_of(ROW_ALIGN)
}

/// Bytes of a block of int8 activations, a cache line: [`Q8_BLOCK`] codes, what the `Q8_*` offsets below say, and eight
/// bytes that nobody writes or reads. Element = scale * code.
pub const Q8_BYTES: usize = 64;
/// Where the scale of a block is, f32.
pub const Q8_SCALE: usize = Q8_BLOCK;
/// Where the sums of the first and of the last 16 codes are, i16.
pub const Q8_SUMS: usize = Q8_SCALE + 4;
/// Where the sum of all codes times the scale is, f32; for atoms alone, as are the starts.
pub const Q8_SCALED_SUM: usize = Q8_SUMS + 4;
/// Where the starts are, i32: what a dot with weight codes that have an offset begins with in place of 0. They are the sum of
/// all codes times the first of [`Q8_STARTS`], then those of the first and of the last 16 codes times the second.
pub const Q8_STARTS_AT: usize = Q8_SCALED_SUM + 4;
/// Factor of the sum of a block's codes in its start, and of the sums of half a block's codes in theirs.
pub const Q8_STARTS: [i32; 2] = [-128, -32];

/// The scale of a block of int8 activations or of an 8-bit KV row, and what its elements are multiplied by to become codes:
/// the largest magnitude / 127, and its reciprocal, 0 where the scale is zero or subnormal. A NaN or an infinity is one in
/// the scale.
pub fn q8_scale(block: &[f32]) -> (f32, f32) {
    // The bits of magnitudes are in order, those of NaN last.
    let largest = block.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    let scale = f32::from_bits(largest) / 127.0;
    (scale, if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale })
}

/// Bytes of one row of `k` int8 activations (`k` a multiple of 32): an odd number of cache lines, so that the same block of
/// several rows does not compete for one set of a cache.
pub const fn q8_row_bytes(k: usize) -> usize {
    ((k / Q8_BLOCK) | 1) * Q8_BYTES
}

/// Bytes of one position of one KV head of `head` elements in f16: just the elements.
pub const fn kv_f16_row_bytes(head: usize) -> usize {
    head * 2
}

/// Bytes of one position of one KV head of `head` elements in 8 bits: `head` rounded up to 32 codes (i8, the excess
/// zero), then one f16 scale for every 32 of them. Element = scale * code.
pub const fn kv_q8_row_bytes(head: usize) -> usize {
    let padded = head.next_multiple_of(Q8_BLOCK);
    padded + padded / Q8_BLOCK * 2
}
