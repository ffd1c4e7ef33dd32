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

/// Tokens that matrix instructions take at once; steps have places for whole groups of them.
pub const STEP_TOKENS: usize = 8;
/// Numbers that go with each block of a token in a [`Q8Step`], each in a plane of its own.
pub const STEP_PLANES: usize = 5;

/// Where the int8 activations of a step lie that a GPU keeps between two kernels: first the codes in the order of their columns,
/// then those of both halves of each block in turn (column 0, 16, 1, 17, ..), then the planes. Blocks come in pairs, in a pair
/// token after token, and what a lane takes of both blocks for a matrix product lies together in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Q8Step {
    /// Pairs of blocks of a row.
    pub pairs: usize,
    /// Tokens, rounded up to [`STEP_TOKENS`].
    pub tokens: usize,
}

impl Q8Step {
    /// Bytes of the codes of a pair of blocks of a token.
    pub const PAIR_BYTES: usize = 2 * Q8_BLOCK;
    /// Bytes of the numbers of a plane for a pair of blocks and a pair of tokens.
    pub const PLANE_BYTES: usize = 16;

    /// Of `tokens` rows of so many columns.
    pub fn new(columns: usize, tokens: usize) -> Q8Step {
        Q8Step { pairs: columns.div_ceil(2 * Q8_BLOCK), tokens: tokens.next_multiple_of(STEP_TOKENS) }
    }

    /// Bytes of all codes in one order.
    pub fn order_bytes(self) -> usize {
        self.pairs * self.tokens * Q8Step::PAIR_BYTES
    }

    /// Bytes of a plane.
    pub fn plane_bytes(self) -> usize {
        self.pairs * (self.tokens / 2) * Q8Step::PLANE_BYTES
    }

    /// Bytes of all of it.
    pub fn bytes(self) -> usize {
        2 * self.order_bytes() + STEP_PLANES * self.plane_bytes()
    }

    /// Byte, from its order on, of word `word` of eight of a block of a token. In the order of columns a lane takes words w and
    /// w + 4 of a block, in the other one words 2 w and 2 w + 1.
    pub fn word_at(self, in_turn: bool, block: usize, token: usize, word: usize) -> usize {
        let (lane, second) = if in_turn { (word / 2, word % 2) } else { (word % 4, word / 4) };
        (block / 2 * self.tokens + token) * Q8Step::PAIR_BYTES + lane * 16 + block % 2 * 8 + second * 4
    }

    /// Byte of number `plane` of a block of a token.
    pub fn number_at(self, plane: usize, block: usize, token: usize) -> usize {
        let pair = (block / 2 * (self.tokens / 2) + token / 2) * Q8Step::PLANE_BYTES;
        2 * self.order_bytes() + plane * self.plane_bytes() + pair + (block % 2 * 2 + token % 2) * 4
    }
}
