//! Quantising and SiLU against their definitions.

use super::{Rng, q8_block, vector_isas};
use crate::table;
use ir::abi::{Atom, Q8_BLOCK, Q8_BYTES, Q8_SCALE, QuantizeFn, SiluTimesFn, TILE_ROWS, q8_row_bytes};

#[test]
fn quantize_follows_its_definition() {
    for isa in vector_isas() {
        // SAFETY: the entry of the atom is of that type.
        let quantize: QuantizeFn =
            unsafe { std::mem::transmute(table(isa).expect("available")[Atom::Quantize as usize]) };
        let rng = &mut Rng::new(10);
        for k in [32, 64, 96, 160, 2048] {
            for weighted in [false, true] {
                let (mut x, weights, factor) = (rng.floats(k), rng.floats(k), rng.float());
                // Zeros, a tie between two codes, and both ends; scales about the smallest normal number, and the largest.
                match k {
                    32 => x.fill(0.0),
                    160 => {
                        let sizes = [1e-45, 1e-37, 1.6e-36, 1e-35, 3e38];
                        x.chunks_mut(Q8_BLOCK)
                            .zip(sizes)
                            .for_each(|(block, size)| block.iter_mut().for_each(|x| *x *= size / 2.0));
                    }
                    64 => x[..4].copy_from_slice(&[127.0, 0.5, -1.5, -127.0]),
                    _ => {}
                }
                let mut out = vec![0xaa; q8_row_bytes(k)];
                let weights_at = if weighted { weights.as_ptr() } else { std::ptr::null() };
                // SAFETY: `k` floats each, and a row.
                unsafe { quantize(x.as_ptr(), out.as_mut_ptr(), k, factor, weights_at) };

                let values: Vec<f32> =
                    (0..k).map(|c| if weighted { x[c] * factor * weights[c] } else { x[c] }).collect();
                for (b, block) in values.chunks(Q8_BLOCK).enumerate() {
                    let scale = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
                    let inverse = if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale };
                    let codes: Vec<i8> = block.iter().map(|v| (v * inverse).round_ties_even() as i8).collect();
                    let mut expected = q8_block(&codes, scale);
                    expected.resize(64, 0xaa);
                    assert_eq!(out[b * 64..][..64], expected, "{isa:?}, block {b} of {k}, weighted: {weighted}");
                }
                assert!(out[k / Q8_BLOCK * 64..].iter().all(|&b| b == 0xaa), "{isa:?}: past the row of {k}");
            }
        }
    }
}

/// Wherever a NaN or an infinity is in a block, the scale of that block is one, and no other.
#[test]
fn quantize_keeps_what_is_not_finite() {
    for isa in vector_isas() {
        // SAFETY: the entry of the atom is of that type.
        let quantize: QuantizeFn =
            unsafe { std::mem::transmute(table(isa).expect("available")[Atom::Quantize as usize]) };
        let rng = &mut Rng::new(12);
        const K: usize = 3 * Q8_BLOCK;
        for at in 0..K {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = rng.floats(K);
                x[at] = bad;
                let mut out = vec![0; q8_row_bytes(K)];
                // SAFETY: `K` floats, and a row.
                unsafe { quantize(x.as_ptr(), out.as_mut_ptr(), K, 1.0, std::ptr::null()) };
                for block in 0..K / Q8_BLOCK {
                    let scale = &out[block * Q8_BYTES + Q8_SCALE..][..4];
                    let scale = f32::from_le_bytes(scale.try_into().expect("four bytes"));
                    assert_eq!(
                        scale.is_finite(),
                        block != at / Q8_BLOCK,
                        "{isa:?}: {bad} at {at}, block {block}: {scale}"
                    );
                }
            }
        }
    }
}

/// Gates past which e^-gate is infinite, and what is none.
#[test]
fn silu_times_of_edges() {
    let least = 6e-37;
    for isa in vector_isas() {
        // SAFETY: the entry of the atom is of that type.
        let silu_times: SiluTimesFn =
            unsafe { std::mem::transmute(table(isa).expect("available")[Atom::SiluTimes as usize]) };
        for gate in [-87.0, -88.0, -88.5, -89.0, -90.0, -1e3, -1e30, f32::MIN, -0.0, 0.0, 1e-45, 88.0, 1e3, f32::MAX] {
            let (up, mut y) = ([0.5f32; TILE_ROWS], [gate; TILE_ROWS]);
            // SAFETY: one row of 16 floats each.
            unsafe { silu_times(up.as_ptr(), y.as_mut_ptr(), 1, TILE_ROWS) };
            let want = f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * 0.5;
            let near = |y: f32| (f64::from(y) - want).abs() <= 1e-6 * want.abs() + least;
            assert!(y.into_iter().all(near), "{isa:?}: silu({gate}) / 2 is {y:?}, not {want}");
        }
        for gate in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (up, mut y) = ([0.5f32; TILE_ROWS], [1.0; TILE_ROWS]);
            y[5] = gate;
            // SAFETY: one row of 16 floats each.
            unsafe { silu_times(up.as_ptr(), y.as_mut_ptr(), 1, TILE_ROWS) };
            let kept = y.iter().enumerate().all(|(i, y)| y.is_finite() == (i != 5));
            assert!(kept, "{isa:?}: silu({gate}) is {y:?}");
        }
    }
}

#[test]
fn silu_times_matches_the_oracle() {
    for isa in vector_isas() {
        // SAFETY: the entry of the atom is of that type.
        let silu_times: SiluTimesFn =
            unsafe { std::mem::transmute(table(isa).expect("available")[Atom::SiluTimes as usize]) };
        let rng = &mut Rng::new(11);
        for (tokens, stride, spread) in [(1, 16, 1.0), (3, 20, 30.0), (8, 48, 1e3)] {
            let gate: Vec<f32> = rng.floats(tokens * TILE_ROWS).iter().map(|x| x * spread).collect();
            let up = rng.floats(tokens * TILE_ROWS);
            let mut out = vec![f32::NAN; tokens * stride];
            for (out, gate) in out.chunks_mut(stride).zip(gate.chunks(TILE_ROWS)) {
                out[..TILE_ROWS].copy_from_slice(gate);
            }
            // SAFETY: `tokens` rows of 16 floats each.
            unsafe { silu_times(up.as_ptr(), out.as_mut_ptr(), tokens, stride) };
            for (i, output) in out.into_iter().enumerate() {
                let (t, r) = (i / stride, i % stride);
                if r >= TILE_ROWS {
                    assert!(output.is_nan(), "{isa:?}: {t} {r} is past the tile");
                    continue;
                }
                let (gate, up) = (f64::from(gate[t * TILE_ROWS + r]), f64::from(up[t * TILE_ROWS + r]));
                let want = gate / (1.0 + (-gate).exp()) * up;
                let error = (f64::from(output) - want).abs();
                assert!(error <= 1e-6 * want.abs() + 1e-30, "{isa:?} {t} {r}: {output}, not {want}");
            }
        }
    }
}
