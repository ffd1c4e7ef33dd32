//! Attention inner loops against f64.

use super::{Aligned, Rng, vector_isas};
use crate::table;
use ir::abi::{AccumulateFn, Atom, KV_BLOCK, KvEncoding, Meaning, Q8_BLOCK, ScoresFn, SoftmaxFn};
use ir::abi::{TILE_ROWS, kv_f16_row_bytes, kv_q8_row_bytes};
use ir::target::Isa;

/// Error of an output over the sum of the absolute products.
const TOLERANCE: f64 = 1e-5;
const ROWS: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 16, 21];
const POSITIONS: &[usize] = &[1, 2, 3, 7, 8, 9, 33, 63, 64];
const HEADS: &[usize] = &[4, 8, 12, 20, 24, 32, 40, 64, 96, 100, 128, 256, 512];

/// KV rows and their values.
fn kv_rows(rng: &mut Rng, q8: bool, head: usize, positions: usize) -> (Vec<u8>, Vec<Vec<f64>>) {
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
    (bytes, values)
}

/// The rows, whole tiles of them, as [`ir::tensor::Layout::Rows16`] has them.
fn tiles(rows: &[u8], q8: bool, head: usize) -> Aligned {
    let codes = if q8 { head.next_multiple_of(Q8_BLOCK) } else { 0 };
    let row_bytes = if q8 { kv_q8_row_bytes(head) } else { kv_f16_row_bytes(head) };
    let mut bytes = Vec::new();
    for tile in rows.chunks_exact(TILE_ROWS * row_bytes) {
        for at in (0..codes).chain((codes..row_bytes).step_by(2)) {
            let unit = if at < codes { 1 } else { 2 };
            bytes.extend(tile.chunks_exact(row_bytes).flat_map(|row| &row[at..at + unit]));
        }
    }
    Aligned::new(&bytes)
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
    for (name, q8, address) in atoms(|m| if let Meaning::Scores(e) = m { Some(e == KvEncoding::Codes) } else { None }) {
        // SAFETY: the entry of such an atom is of that type.
        let scores: ScoresFn = unsafe { std::mem::transmute(address) };
        let rng = &mut Rng::new(7);
        for &head in HEADS {
            let most = *ROWS.last().expect("rows");
            let q = rng.floats(most * head);
            let (keys, values) = kv_rows(rng, q8, head, KV_BLOCK);
            let keys = tiles(&keys, q8, head);
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
                            let beyond = p >= positions.next_multiple_of(TILE_ROWS);
                            assert!(!beyond || output.is_nan(), "{what} is past the positions");
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
    for (name, q8, address) in
        atoms(|m| if let Meaning::Accumulate(e) = m { Some(e == KvEncoding::Codes) } else { None })
    {
        // SAFETY: the entry of such an atom is of that type.
        let accumulate: AccumulateFn = unsafe { std::mem::transmute(address) };
        let rng = &mut Rng::new(8);
        for &head in HEADS {
            let most = *ROWS.last().expect("rows");
            let before = rng.floats(most * head);
            let (rows_of_v, values) = kv_rows(rng, q8, head, KV_BLOCK);
            let rows_of_v = Aligned::new(&rows_of_v);
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

/// Scores that count: of [`POSITIONS`], none, and such as a window leaves.
const SEEN: &[(usize, usize)] = &[(0, 0), (64, 64), (0, 1), (1, 2), (3, 64), (16, 33), (62, 63), (63, 64), (5, 5)];

#[test]
fn softmax_matches_the_oracle() {
    for (name, _, address) in atoms(|m| (m == Meaning::Softmax).then_some(false)) {
        // SAFETY: the entry of such an atom is of that type.
        let softmax: SoftmaxFn = unsafe { std::mem::transmute(address) };
        let rng = &mut Rng::new(9);
        for (first, end) in POSITIONS.iter().map(|&n| (0, n)).chain(SEEN.iter().copied()) {
            // The maximum stays, grows, is the first; scores lie near one another and far apart, and may be capped.
            let olds = [(100.0, 1.0), (0.25, 1.0), (0.25, 200.0), (-1e30, 30.0)];
            for ((old, spread), cap) in olds.into_iter().flat_map(|old| [0.0, 5.0, 50.0].map(|cap| (old, cap))) {
                for &head in HEADS {
                    let scores: Vec<f32> = rng.floats(KV_BLOCK).iter().map(|x| x * spread).collect();
                    let (before, old_sum) = (rng.floats(head), rng.float().abs());
                    let (mut weights, mut acc) = (vec![f32::NAN; KV_BLOCK], before.clone());
                    weights[first..end].copy_from_slice(&scores[first..end]);
                    let (mut max, mut sum) = (old, old_sum);
                    let (state, acc_at) = ((&raw mut max, &raw mut sum), acc.as_mut_ptr());
                    // SAFETY: as many floats as it wants.
                    unsafe { softmax(weights.as_mut_ptr(), state.0, state.1, acc_at, head, first, end, cap) };

                    let what =
                        format!("{name} head {head}, {first}..{end} of scores up to {spread} cap {cap}, after {old}");
                    let capped = |x: f32| {
                        let (x, cap) = (f64::from(x), f64::from(cap));
                        if cap == 0.0 { x } else { cap * (x / cap).tanh() }
                    };
                    let scores: Vec<f64> = scores.into_iter().map(capped).collect();
                    let top = scores[first..end].iter().fold(f64::from(old), |a, &b| a.max(b));
                    // A capped score is exact to a few units in the last place of its cap.
                    let slack = f64::from(cap) * 3e-7;
                    assert!((f64::from(max) - top).abs() <= slack, "{what}: the maximum is {max}, not {top}");
                    let weight = |x: f64| (x - f64::from(max)).exp();
                    let near = |output: f32, want: f64, what: &str| {
                        let error = (f64::from(output) - want).abs();
                        assert!(error <= (TOLERANCE + slack) * want.abs() + 2e-38, "{what}: {output}, not {want}");
                    };
                    for (p, &output) in weights.iter().enumerate() {
                        let want = if (first..end).contains(&p) { weight(scores[p]) } else { 0.0 };
                        near(output, want, &format!("{what}: score {p}"));
                    }
                    let all: f64 = scores[first..end].iter().map(|&x| weight(x)).sum();
                    let fade = weight(f64::from(old));
                    near(sum, f64::from(old_sum) * fade + all, &format!("{what}: the sum"));
                    for (d, (&output, &before)) in acc.iter().zip(&before).enumerate() {
                        near(output, f64::from(before) * fade, &format!("{what}: sum {d}"));
                    }
                }
            }
        }
    }
}

/// A score that is NaN or infinite leaves no finite result; -infinity counts 0. What a cap leaves of infinity is finite.
#[test]
fn softmax_of_what_is_not_finite() {
    for (name, _, address) in atoms(|m| (m == Meaning::Softmax).then_some(false)) {
        // SAFETY: the entry of such an atom is of that type.
        let softmax: SoftmaxFn = unsafe { std::mem::transmute(address) };
        const HEAD: usize = 24;
        for (at, cap) in (0..KV_BLOCK).flat_map(|at| [0.0, 30.0].map(|cap| (at, cap))) {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut scores = Rng::new(13).floats(KV_BLOCK);
                scores[at] = bad;
                let (mut max, mut sum, mut acc) = (0.5f32, 1.0f32, [1.0f32; HEAD]);
                let (state, acc_at) = ((&raw mut max, &raw mut sum), acc.as_mut_ptr());
                // SAFETY: as many floats as it wants.
                unsafe { softmax(scores.as_mut_ptr(), state.0, state.1, acc_at, HEAD, 0, KV_BLOCK, cap) };
                let counts = bad.is_nan() || (cap == 0.0 && bad > 0.0);
                assert_eq!(sum.is_nan(), counts, "{name}: {bad} at {at}, cap {cap}: the sum is {sum}");
                let largest = cap != 0.0 && bad > 0.0;
                assert!(!largest || (max == cap && scores[at] == 1.0), "{name}: {bad} at {at}: {max}");
                let none = bad == f32::NEG_INFINITY && (cap != 0.0 || scores[at] == 0.0);
                assert!(counts || largest || none, "{name}: {bad} at {at} counts {}", scores[at]);
            }
        }
    }
}
