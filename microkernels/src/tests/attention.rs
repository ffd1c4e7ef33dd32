//! Attention inner loops against f64.

use super::{Aligned, Rng, vector_isas};
use crate::table;
use ir::abi::{AccumulateFn, Atom, KV_BLOCK, Meaning, Q8_BLOCK, ScoresFn, kv_f16_row_bytes, kv_q8_row_bytes};
use ir::target::Isa;

/// Error of an output over the sum of the absolute products.
const TOLERANCE: f64 = 1e-5;
const ROWS: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 16, 21];
const POSITIONS: &[usize] = &[1, 2, 3, 7, 8, 9, 33, 63, 64];
const HEADS: &[usize] = &[8, 24, 32, 40, 64, 96, 128, 256];

/// KV rows and their values.
fn kv_rows(rng: &mut Rng, q8: bool, head: usize, positions: usize) -> (Aligned, Vec<Vec<f64>>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for _ in 0..positions {
        let start = bytes.len();
        if q8 {
            let codes: Vec<i8> = (0..head).map(|_| rng.byte() as i8).collect();
            bytes.extend(codes.iter().map(|&c| c as u8));
            bytes.resize(start + head.next_multiple_of(Q8_BLOCK), 0);
            let mut row = Vec::new();
            for block in codes.chunks(Q8_BLOCK) {
                let scale = half::f16::from_f32(rng.float());
                bytes.extend(scale.to_le_bytes());
                row.extend(block.iter().map(|&c| f64::from(scale.to_f32()) * f64::from(c)));
            }
            assert_eq!(bytes.len() - start, kv_q8_row_bytes(head));
            values.push(row);
        } else {
            let row: Vec<half::f16> = (0..head).map(|_| half::f16::from_f32(rng.float())).collect();
            bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
            assert_eq!(bytes.len() - start, kv_f16_row_bytes(head));
            values.push(row.iter().map(|x| f64::from(x.to_f32())).collect());
        }
    }
    (Aligned::new(&bytes), values)
}

/// The atoms of a kind on this machine: (name, whether rows are 8-bit, address).
fn atoms(kind: fn(Meaning) -> Option<bool>) -> Vec<(String, bool, usize)> {
    let of = |isa: Isa| {
        let table = table(isa).expect("available");
        Atom::ALL.iter().filter_map(move |&atom| {
            Some((format!("{} {isa:?}", atom.name()), kind(atom.meaning())?, table[atom as usize]))
        })
    };
    vector_isas().into_iter().flat_map(of).collect()
}

fn check(what: &str, output: f32, products: impl Iterator<Item = f64>) {
    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
    assert!((f64::from(output) - sum).abs() <= TOLERANCE * size, "{what}: {output}, not {sum}");
}

#[test]
fn scores_match_the_oracle() {
    for (name, q8, address) in atoms(|m| if let Meaning::Scores { q8 } = m { Some(q8) } else { None }) {
        // SAFETY: the entry of such an atom is of that type.
        let scores: ScoresFn = unsafe { std::mem::transmute(address) };
        let rng = &mut Rng::new(7);
        for &head in HEADS {
            let most = *ROWS.last().expect("rows");
            let q = rng.floats(most * head);
            let (keys, values) = kv_rows(rng, q8, head, KV_BLOCK);
            let mut whole: Option<Vec<f32>> = None;
            for &rows in ROWS.iter().rev() {
                for &positions in POSITIONS.iter().rev() {
                    let mut out = vec![f32::NAN; rows * KV_BLOCK];
                    // SAFETY: rows of that many floats, at least `positions` keys.
                    unsafe { scores(q.as_ptr(), keys.ptr(), out.as_mut_ptr(), head, positions, rows) };
                    let first = whole.get_or_insert_with(|| out.clone());
                    for (i, &output) in out.iter().enumerate() {
                        let (r, p) = (i / KV_BLOCK, i % KV_BLOCK);
                        let what = format!("{name} head {head}, {rows} rows, {positions} positions: {r} {p}");
                        if p >= positions {
                            assert!(output.is_nan(), "{what} is past the positions");
                            continue;
                        }
                        assert_eq!(output.to_bits(), first[i].to_bits(), "{what} depends on rows or positions");
                        let q = &q[r * head..][..head];
                        check(&what, output, q.iter().zip(&values[p]).map(|(&q, &k)| f64::from(q) * k));
                    }
                }
            }
        }
    }
}

#[test]
fn accumulate_matches_the_oracle() {
    for (name, q8, address) in atoms(|m| if let Meaning::Accumulate { q8 } = m { Some(q8) } else { None }) {
        // SAFETY: the entry of such an atom is of that type.
        let accumulate: AccumulateFn = unsafe { std::mem::transmute(address) };
        let rng = &mut Rng::new(8);
        for &head in HEADS {
            let most = *ROWS.last().expect("rows");
            let before = rng.floats(most * head);
            let (rows_of_v, values) = kv_rows(rng, q8, head, KV_BLOCK);
            for &positions in POSITIONS {
                let mut weights = vec![f32::NAN; most * KV_BLOCK];
                for row in weights.chunks_mut(KV_BLOCK) {
                    row[..positions].copy_from_slice(&rng.floats(positions));
                }
                let mut whole: Option<Vec<f32>> = None;
                for &rows in ROWS.iter().rev() {
                    let mut acc = before[..rows * head].to_vec();
                    // SAFETY: rows of that many floats, at least `positions` values.
                    unsafe {
                        accumulate(weights.as_ptr(), rows_of_v.ptr(), acc.as_mut_ptr(), head, positions, rows);
                    }
                    let first = whole.get_or_insert_with(|| acc.clone());
                    for (i, &output) in acc.iter().enumerate() {
                        let (r, d) = (i / head, i % head);
                        let what = format!("{name} head {head}, {rows} rows, {positions} positions: {r} {d}");
                        assert_eq!(output.to_bits(), first[i].to_bits(), "{what} depends on rows");
                        let weights = &weights[r * KV_BLOCK..][..positions];
                        let products = weights.iter().zip(&values).map(|(&w, v)| f64::from(w) * v[d]);
                        check(&what, output, [f64::from(before[i])].into_iter().chain(products));
                    }
                }
            }
        }
    }
}
