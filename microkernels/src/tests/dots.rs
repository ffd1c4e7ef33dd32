//! Dots against [`QuantFormat::decode`], with random and with extreme codes.

use super::{Aligned, Rng, q8_block, vector_isas};
use crate::emulated::Emulated;
use crate::{entry, float, forms, int, table};
use ir::abi::{Atom, DotFn, Meaning, Q8_BLOCK, TILE_ROWS, f32_row_bytes, q8_row_bytes};
use ir::quant::{self, DotForm, FloatKind, Format, QuantFormat};
use ir::target::Isa;
use ir::tensor::PIECE_COLUMNS;

/// Error of an output over the sum of the absolute products.
const TOLERANCE: f64 = 1e-5;
/// Floats between the outputs of two tokens; the excess over a tile must stay untouched.
const STRIDE: usize = 19;

unsafe extern "C" fn emulated_int<F: forms::Form>(
    w: *const u8,
    a: *const u8,
    out: *mut f32,
    columns: usize,
    tokens: usize,
    a_stride: usize,
    out_stride: usize,
    add: usize,
) {
    // SAFETY: the caller keeps the contract.
    unsafe { int::dot::<_, F>(Emulated, w, a, out, columns, tokens, a_stride, out_stride, add) }
}

unsafe extern "C" fn emulated_float<E: float::Element>(
    w: *const u8,
    a: *const u8,
    out: *mut f32,
    columns: usize,
    tokens: usize,
    a_stride: usize,
    out_stride: usize,
    add: usize,
) {
    // SAFETY: the caller keeps the contract.
    unsafe { float::dot::<_, E>(Emulated, w, a, out, columns, tokens, a_stride, out_stride, add) }
}

/// The emulated dot of an atom.
fn emulated(atom: Atom) -> DotFn {
    match atom {
        Atom::DotF32 => emulated_float::<float::F32>,
        Atom::DotF16 => emulated_float::<float::F16>,
        Atom::DotBf16 => emulated_float::<float::Bf16>,
        Atom::DotU4Half => emulated_int::<forms::U4Half>,
        Atom::DotS8Half => emulated_int::<forms::S8Half>,
        Atom::DotU3Super6 => emulated_int::<forms::U3Super6>,
        Atom::DotU4Super6Min => emulated_int::<forms::U4Super6Min>,
        Atom::DotU5Super6Min => emulated_int::<forms::U5Super6Min>,
        Atom::DotU6Super8 => emulated_int::<forms::U6Super8>,
        Atom::DotLut4Split6 => emulated_int::<forms::Lut4Split6>,
        Atom::DotGrid8x4 => emulated_int::<forms::Grid8x4>,
        Atom::DotGrid9x4 => emulated_int::<forms::Grid9x4>,
        Atom::DotU4HalfMin => emulated_int::<forms::U4HalfMin>,
        Atom::DotU5Half => emulated_int::<forms::U5Half>,
        Atom::DotU5HalfMin => emulated_int::<forms::U5HalfMin>,
        Atom::DotLut4Half => emulated_int::<forms::Lut4Half>,
        Atom::DotE2M1Power => emulated_int::<forms::E2M1Power>,
        Atom::DotGrid8x8 => emulated_int::<forms::Grid8x8>,
        Atom::DotGrid9x8 => emulated_int::<forms::Grid9x8>,
        Atom::DotGrid10x8 => emulated_int::<forms::Grid10x8>,
        Atom::DotGrid11x8 => emulated_int::<forms::Grid11x8>,
        other => panic!("{} is no dot", other.name()),
    }
}

/// The dot of an instruction set that this machine has.
fn native(isa: Isa, atom: Atom) -> DotFn {
    // SAFETY: the entry of a dot is of that type.
    unsafe { std::mem::transmute(table(isa).expect("available")[atom as usize]) }
}

/// Every implementation of an atom.
fn implementations(atom: Atom) -> Vec<(String, DotFn)> {
    let native = vector_isas().into_iter().map(|isa| (format!("{isa:?}"), native(isa, atom)));
    let mut all: Vec<(String, DotFn)> = native.chain([("emulated".to_owned(), emulated(atom))]).collect();
    if crate::available(Isa::X86_64V4Vnni) {
        let mut plain = [0; Atom::ALL.len()];
        entry::v4::fill(&mut plain);
        // SAFETY: the entry of a dot is of that type.
        all.push(("without VBMI".to_owned(), unsafe { std::mem::transmute::<usize, DotFn>(plain[atom as usize]) }));
    }
    all
}

/// Every dot with a format of its form.
fn dots() -> impl Iterator<Item = (Atom, Format)> {
    Atom::ALL.iter().filter_map(|&atom| {
        let Meaning::Dot(form) = atom.meaning() else { return None };
        Some((atom, Format(quant::ALL.iter().find(|f| f.dot == form).expect("a format for each dot"))))
    })
}

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Codes {
    Random,
    /// Bytes of the weights from {0, 127, 128, 255}, activations all of this value.
    Extreme(i8),
}

/// One row of random weights.
fn weight_row(rng: &mut Rng, format: &QuantFormat, k: usize, codes: Codes) -> Vec<u8> {
    let mut row = Vec::new();
    for _ in 0..k / format.block as usize {
        let start = row.len();
        let extreme = [0, 127, 128, 255][rng.below(4)];
        row.extend((0..format.bytes).map(|_| if codes == Codes::Random { rng.byte() } else { extreme }));
        match format.dot {
            DotForm::Float(FloatKind::F32) => row[start..].copy_from_slice(&rng.float().to_le_bytes()),
            DotForm::Float(FloatKind::F16) => {
                row[start..].copy_from_slice(&half::f16::from_f32(rng.float()).to_le_bytes());
            }
            DotForm::Float(FloatKind::Bf16) => {
                row[start..].copy_from_slice(&half::bf16::from_f32(rng.float()).to_le_bytes());
            }
            _ => {
                if let Some(set_scale) = format.set_scale {
                    set_scale(&mut row[start..], rng.float());
                }
                for field in format.fields.iter().filter(|f| f.name.starts_with(['d', 'm'])) {
                    let at = start + field.offset as usize;
                    row[at..at + 2].copy_from_slice(&half::f16::from_f32(rng.float()).to_le_bytes());
                }
            }
        }
    }
    row
}

/// [`ir::tensor::Layout::Rows16`] of one tile.
fn interleave(format: &QuantFormat, rows: &[Vec<u8>]) -> Vec<u8> {
    let mut tile = vec![0; rows[0].len() * rows.len()];
    for block in (0..rows[0].len()).step_by(format.bytes as usize) {
        for field in format.fields {
            let unit = field.unit as usize;
            for at in (field.offset as usize..(field.offset + field.bytes) as usize).step_by(unit) {
                let to = (block + format.striped(at)) * rows.len();
                for (row, to) in rows.iter().zip(tile[to..].chunks_mut(unit)) {
                    to.copy_from_slice(&row[block + at..][..unit]);
                }
            }
        }
    }
    tile
}

/// One row of int8 activations, and its values.
fn q8_row(rng: &mut Rng, k: usize, codes: Codes) -> (Vec<u8>, Vec<f64>) {
    let codes: Vec<i8> = (0..k)
        .map(|_| match codes {
            Codes::Random => (rng.below(255) as i32 - 127) as i8,
            Codes::Extreme(code) => code,
        })
        .collect();
    let (mut row, mut values) = (Vec::new(), Vec::new());
    for codes in codes.chunks(Q8_BLOCK) {
        let scale = rng.float();
        row.extend(q8_block(codes, scale));
        row.resize(row.len().next_multiple_of(64), 0xff);
        values.extend(codes.iter().map(|&c| f64::from(scale) * f64::from(c)));
    }
    row.resize(q8_row_bytes(k), 0xff);
    (row, values)
}

/// One row of f32 activations, and its values.
fn f32_row(rng: &mut Rng, k: usize) -> (Vec<u8>, Vec<f64>) {
    let values = rng.floats(k);
    let mut row: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    row.resize(f32_row_bytes(k), 0xff);
    (row, values.iter().map(|&v| f64::from(v)).collect())
}

/// A tile, activations of some tokens, and per token and row the dot and the sum of absolute products, in f64.
struct Case {
    tile: Aligned,
    activations: Aligned,
    expected: Vec<[(f64, f64); TILE_ROWS]>,
    format: Format,
    k: usize,
    a_stride: usize,
}

impl Case {
    fn new(seed: u64, format: Format, k: usize, tokens: usize, codes: Codes) -> Self {
        let rng = &mut Rng::new(seed);
        let rows: Vec<Vec<u8>> = (0..TILE_ROWS).map(|_| weight_row(rng, format.0, k, codes)).collect();
        let weights: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| {
                let mut out = vec![f32::NAN; k];
                format.decode_into(row, &mut out);
                out
            })
            .collect();
        let (mut activations, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..tokens {
            let (row, a) = if format.dot.wants_int8() { q8_row(rng, k, codes) } else { f32_row(rng, k) };
            activations.extend(row);
            expected.push(std::array::from_fn(|r| {
                let products = weights[r].iter().zip(&a).map(|(&w, &a)| f64::from(w) * a);
                products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
            }));
        }
        let tile = Aligned::new(&interleave(format.0, &rows));
        let a_stride = activations.len() / tokens;
        Case { tile, activations: Aligned::new(&activations), expected, format, k, a_stride }
    }

    /// The outputs for the first `tokens` tokens, from one call; what no output belongs to must stay NaN.
    fn run(&self, dot: DotFn, tokens: usize) -> Vec<[f32; TILE_ROWS]> {
        self.run_in_pieces(dot, tokens, self.k)
    }

    /// The same with a call for every `columns` columns.
    fn run_in_pieces(&self, dot: DotFn, tokens: usize, columns: usize) -> Vec<[f32; TILE_ROWS]> {
        let mut out = vec![f32::NAN; tokens * STRIDE];
        for first in (0..self.k).step_by(columns) {
            let a_bytes = if self.format.dot.wants_int8() { first / Q8_BLOCK * 64 } else { first * 4 };
            // SAFETY: pieces of a tile, at least `tokens` rows of activations, STRIDE floats for each token, that are there
            // after the first.
            unsafe {
                let w = self.tile.ptr().add(TILE_ROWS * self.format.bytes_of(first as u64) as usize);
                let a = self.activations.ptr().add(a_bytes);
                let columns = columns.min(self.k - first);
                dot(w, a, out.as_mut_ptr(), columns, tokens, self.a_stride, STRIDE, usize::from(first > 0));
            }
        }
        out.chunks(STRIDE)
            .map(|token| {
                assert!(token[TILE_ROWS..].iter().all(|x| x.is_nan()), "wrote past the tile");
                std::array::from_fn(|r| token[r])
            })
            .collect()
    }

    fn check(&self, what: &str, outputs: &[[f32; TILE_ROWS]]) {
        for (t, (outputs, expected)) in outputs.iter().zip(&self.expected).enumerate() {
            for (r, (&output, &(sum, size))) in outputs.iter().zip(expected).enumerate() {
                let error = (f64::from(output) - sum).abs();
                assert!(error <= TOLERANCE * size, "{what} k {}: token {t} row {r}: {output}, not {sum}", self.k);
            }
        }
    }
}

/// Lengths to test: partial, whole and several panels.
fn lengths(format: Format) -> Vec<usize> {
    match format.multiple as usize {
        m @ ..32 => vec![m, 3 * m, 400, 64 * m + m],
        32 => vec![32, 96, 256, 544],
        m => vec![m, 3 * m],
    }
}

fn bits(outputs: &[[f32; TILE_ROWS]]) -> Vec<[u32; TILE_ROWS]> {
    outputs.iter().map(|token| token.map(f32::to_bits)).collect()
}

#[test]
fn dots_match_the_oracle_for_any_number_of_tokens() {
    for (atom, format) in dots() {
        for k in lengths(format) {
            let case = Case::new(k as u64 + atom as u64 * 1000, format, k, 128, Codes::Random);
            for (name, dot) in implementations(atom) {
                let what = format!("{} {name}", atom.name());
                let all = case.run(dot, 128);
                case.check(&what, &all);
                for tokens in (1..=17).chain([33]) {
                    let some = case.run(dot, tokens);
                    assert_eq!(bits(&some), bits(&all[..tokens]), "{what} k {k} depends on tokens, here {tokens}");
                }
            }
        }
    }
}

#[test]
fn pieces_add_up_to_the_bit() {
    for (atom, format) in dots() {
        let k = 3 * PIECE_COLUMNS + PIECE_COLUMNS.min(format.multiple.next_multiple_of(32) as usize);
        let case = Case::new(atom as u64, format, k, 40, Codes::Random);
        for (name, dot) in implementations(atom) {
            for tokens in [1, 3, 40] {
                let whole = case.run(dot, tokens);
                for columns in [PIECE_COLUMNS, 2 * PIECE_COLUMNS] {
                    let pieces = case.run_in_pieces(dot, tokens, columns);
                    assert_eq!(bits(&pieces), bits(&whole), "{} {name}: {tokens} tokens, {columns}", atom.name());
                }
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    for (atom, format) in dots().filter(|(_, format)| format.dot.wants_int8()) {
        for (seed, code) in [(1, 127), (2, -127)] {
            let case = Case::new(seed, format, 1024, 6, Codes::Extreme(code));
            for (name, dot) in implementations(atom) {
                for tokens in [1, 6] {
                    case.check(&format!("{} {name} {code}", atom.name()), &case.run(dot, tokens));
                }
            }
        }
    }
}

#[test]
fn integer_dots_agree_to_the_bit() {
    for (atom, format) in dots().filter(|(_, format)| format.dot.wants_int8()) {
        let case = Case::new(atom as u64, format, 2048, 5, Codes::Random);
        let expected = case.run(emulated(atom), 5);
        for isa in vector_isas() {
            assert_eq!(bits(&case.run(native(isa, atom), 5)), bits(&expected), "{} {isa:?}", atom.name());
        }
    }
}

#[test]
fn forms_describe_the_formats() {
    fn check<F: forms::Form>() {
        let format = quant::ALL.iter().find(|f| f.dot == F::DOT).expect("a format of the form");
        assert_eq!((F::BYTES, F::BLOCKS * Q8_BLOCK), (format.bytes as usize, format.block as usize), "{}", format.name);
    }
    check::<forms::U4Half>();
    check::<forms::S8Half>();
    check::<forms::U3Super6>();
    check::<forms::U4Super6Min>();
    check::<forms::U5Super6Min>();
    check::<forms::U6Super8>();
    check::<forms::Lut4Split6>();
    check::<forms::Grid8x4>();
    check::<forms::Grid9x4>();
    check::<forms::U4HalfMin>();
    check::<forms::U5Half>();
    check::<forms::U5HalfMin>();
    check::<forms::Lut4Half>();
    check::<forms::E2M1Power>();
    check::<forms::Grid8x8>();
    check::<forms::Grid9x8>();
    check::<forms::Grid10x8>();
    check::<forms::Grid11x8>();
}
