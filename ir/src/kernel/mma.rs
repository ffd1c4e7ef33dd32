//! Matrix products of a warp: a row for each type, and where in the matrices the operands of a lane are.
//!
//! D = C + A B, where A is 16 x 32 bytes, B 32 x 8 signed bytes, C and D 16 x 8 i32 (PTX ISA, `mma.m16n8k32`). A lane has four
//! words of A, two of B and four elements of C; four lanes in turn share rows of A and columns of B. Sums wrap.

use super::eval::WARP;

/// The type of A's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mma {
    /// Signed bytes.
    S8,
    /// Unsigned bytes.
    U8,
}

/// Rows of A and C.
pub const MMA_ROWS: usize = 16;
/// Columns of B and C.
pub const MMA_COLUMNS: usize = 8;
/// Columns of A and rows of B.
pub const MMA_DEPTH: usize = 32;

/// Lanes that share a row of A or a column of B.
pub const MMA_SHARING: usize = 4;

/// Row of A, and its first column, of the four bytes of word `n` of a lane.
fn of_a(lane: usize, n: usize) -> (usize, usize) {
    (lane / MMA_SHARING + n % 2 * MMA_ROWS / 2, lane % MMA_SHARING * 4 + n / 2 * MMA_DEPTH / 2)
}

/// First row of B, and column, of the four bytes of word `n` of a lane.
fn of_b(lane: usize, n: usize) -> (usize, usize) {
    (lane % MMA_SHARING * 4 + n * MMA_DEPTH / 2, lane / MMA_SHARING)
}

/// Row and column of element `n` of C of a lane.
fn of_c(lane: usize, n: usize) -> (usize, usize) {
    (lane / MMA_SHARING + n / 2 * MMA_ROWS / 2, lane % MMA_SHARING * 2 + n % 2)
}

impl Mma {
    /// What each lane has of D, from what all have of A, B and C.
    pub(super) fn eval(
        self,
        a: impl Fn(usize) -> [u32; 4],
        b: impl Fn(usize) -> [u32; 2],
        c: impl Fn(usize) -> [u32; 4],
    ) -> [[u32; 4]; WARP] {
        let mut left = [[0i32; MMA_DEPTH]; MMA_ROWS];
        let mut right = [[0i32; MMA_COLUMNS]; MMA_DEPTH];
        for lane in 0..WARP {
            for (n, word) in a(lane).into_iter().enumerate() {
                let (row, first) = of_a(lane, n);
                for (i, byte) in word.to_le_bytes().into_iter().enumerate() {
                    left[row][first + i] = match self {
                        Mma::S8 => i32::from(byte as i8),
                        Mma::U8 => i32::from(byte),
                    };
                }
            }
            for (n, word) in b(lane).into_iter().enumerate() {
                let (first, column) = of_b(lane, n);
                for (i, byte) in word.to_le_bytes().into_iter().enumerate() {
                    right[first + i][column] = i32::from(byte as i8);
                }
            }
        }
        std::array::from_fn(|lane| {
            let old = c(lane);
            std::array::from_fn(|n| {
                let (row, column) = of_c(lane, n);
                (0..MMA_DEPTH).fold(old[n] as i32, |sum, k| sum.wrapping_add(left[row][k] * right[k][column])) as u32
            })
        })
    }
}
