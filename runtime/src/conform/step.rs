//! int8 activations of a step as a GPU keeps them between kernels ([`Q8Step`]), for operands and results of kernels.

use ir::abi::{Q8_BLOCK, Q8Step};
use ir::graph::interp::Q8;

/// What the bias of a block is to its scale: `-1.5 * 2^23`.
const BIAS: f32 = -12_582_912.0;

/// The numbers of a block, in the order of the planes: its scale, the sums of all codes, of the first and of the last 16, and
/// its bias.
fn numbers(codes: &[i8], scale: f32) -> [[u8; 4]; 5] {
    let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>().to_le_bytes();
    let (first, last) = codes.split_at(Q8_BLOCK / 2);
    [scale.to_le_bytes(), sum(codes), sum(first), sum(last), (scale * BIAS).to_le_bytes()]
}

/// The places of a block's codes, in the order of its columns: their bytes in both orders.
fn places(of: Q8Step, block: usize, token: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..Q8_BLOCK).map(move |column| {
        // In turn: column 0, 16, 1, 17, ..
        let (half, within) = (column / 16, column % 16);
        let turn = 2 * within + half;
        [(false, column), (true, turn)].map(|(in_turn, at)| {
            let order = if in_turn { of.order_bytes() } else { 0 };
            order + of.word_at(in_turn, block, token, at / 4) + at % 4
        })
    })
}

/// Rows of codes in memory for `capacity` rows; `bytes` has what is not written.
pub(super) fn encode(x: &Q8, columns: usize, capacity: usize, bytes: &mut [u8]) {
    let (of, blocks) = (Q8Step::new(columns, capacity), columns / Q8_BLOCK);
    for (number, (codes, &scale)) in x.codes.chunks_exact(Q8_BLOCK).zip(&x.scales).enumerate() {
        let (token, block) = (number / blocks, number % blocks);
        for (&code, at) in codes.iter().zip(places(of, block, token)) {
            at.into_iter().for_each(|at| bytes[at] = code as u8);
        }
        for (plane, number) in numbers(codes, scale).into_iter().enumerate() {
            bytes[of.number_at(plane, block, token)..][..4].copy_from_slice(&number);
        }
    }
}

/// The values of the first rows of memory for `capacity` rows.
///
/// # Errors
/// In words, if both orders differ, or if what goes with a block is not of its codes.
pub(super) fn decode(bytes: &[u8], columns: usize, rows: usize, capacity: usize) -> Result<Vec<f32>, String> {
    let of = Q8Step::new(columns, capacity);
    let mut values = Vec::with_capacity(rows * columns);
    for token in 0..rows {
        for block in 0..columns / Q8_BLOCK {
            let mut codes = Vec::with_capacity(Q8_BLOCK);
            for [at, turn] in places(of, block, token) {
                if bytes[at] != bytes[turn] {
                    return Err(format!("the orders of codes differ in block {block} of token {token}"));
                }
                codes.push(bytes[at] as i8);
            }
            let number = |plane: usize| -> [u8; 4] {
                let at = of.number_at(plane, block, token);
                [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
            };
            let scale = f32::from_le_bytes(number(0));
            let expected = numbers(&codes, scale);
            if scale.is_finite() && (0..expected.len()).any(|plane| number(plane) != expected[plane]) {
                return Err(format!("the numbers of block {block} of token {token} are not those of its codes"));
            }
            values.extend(codes.iter().map(|&code| scale * f32::from(code)));
        }
    }
    Ok(values)
}
