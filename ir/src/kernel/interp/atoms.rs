//! What each atom computes, in its plainest form: sums in f64, exponentials rounded once.

use super::memory::{Memory, Place};
use super::{Fault, fault};
use crate::abi::{
    Atom, KV_BLOCK, KvEncoding, Meaning, Q8_BLOCK, Q8_BYTES, Q8_SCALE, Q8_SCALED_SUM, Q8_STARTS, Q8_STARTS_AT, Q8_SUMS,
    TILE_ROWS, q8_row_bytes, q8_scale,
};
use crate::quant::{self, DotForm, Format};
use crate::tensor::Layout;
use half::f16;

/// An operand of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand {
    Place(Place),
    Int(u32),
    Float(f32),
    Null,
}

/// The operands of a call, in their order, and the memory they are in.
pub(super) struct Call<'m, 'k> {
    pub memory: &'m mut Memory<'k>,
    pub operands: Vec<Operand>,
}

/// Executes an atom; its operands are those of its function type in [`crate::abi`].
pub(super) fn execute(atom: Atom, call: &mut Call<'_, '_>) -> Result<(), Fault> {
    match atom.meaning() {
        Meaning::Dot(form) => dot(form, call),
        Meaning::Scores(encoding) => scores(encoding, call),
        Meaning::Accumulate(encoding) => accumulate(encoding, call),
        Meaning::Softmax => softmax(call),
        Meaning::SiluTimes => silu_times(call),
        Meaning::Quantize => quantize(call),
        Meaning::RopeAngles => rope_angles(call),
        Meaning::Barrier => fault("the barrier is a statement".into()),
    }
}

impl Call<'_, '_> {
    fn int(&self, n: usize) -> usize {
        match self.operands[n] {
            Operand::Int(v) => v as usize,
            _ => 0,
        }
    }

    fn float(&self, n: usize) -> f32 {
        match self.operands[n] {
            Operand::Float(v) => v,
            _ => 0.0,
        }
    }

    /// Bytes from `at` on after the address that an operand is.
    fn bytes(&mut self, n: usize, at: usize, count: usize) -> Result<&mut [u8], Fault> {
        match self.operands[n] {
            Operand::Place(place) => self.memory.bytes(Place { at: place.at + at as u64, ..place }, count),
            _ => fault(format!("operand {n} is no address")),
        }
    }

    /// Floats from element `at` on.
    fn floats(&mut self, n: usize, at: usize, count: usize) -> Result<Vec<f32>, Fault> {
        Ok(floats(self.bytes(n, at * 4, count * 4)?))
    }

    fn set_float(&mut self, n: usize, at: usize, v: f32) -> Result<(), Fault> {
        self.bytes(n, at * 4, 4)?.copy_from_slice(&v.to_le_bytes());
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The values of a row of int8 activations.
fn decode_q8(row: &[u8], columns: usize) -> Vec<f32> {
    let scale = |block: &[u8]| floats(&block[Q8_SCALE..Q8_SCALE + 4])[0];
    let blocks = row.chunks_exact(Q8_BYTES).take(columns / Q8_BLOCK);
    blocks.flat_map(|b| b[..Q8_BLOCK].iter().map(move |&c| scale(b) * f32::from(c as i8))).collect()
}

/// The bytes of a row of a piece of [`Layout::Rows16`], in the order of the file.
fn row_of_piece(format: Format, piece: &[u8], row: usize) -> Vec<u8> {
    let (layout, block) = (Layout::Rows16, format.bytes as usize);
    let mut bytes = vec![0; piece.len() / TILE_ROWS];
    for start in (0..bytes.len()).step_by(block) {
        for field in format.fields {
            let (first, unit) = (field.offset as usize, layout.unit(format, field));
            for from in (first..first + field.bytes as usize).step_by(unit) {
                let at = (start + layout.reordered(format, from)) * TILE_ROWS + row * unit;
                bytes[start + from..][..unit].copy_from_slice(&piece[at..at + unit]);
            }
        }
    }
    bytes
}

/// [`crate::abi::DotFn`].
fn dot(form: DotForm, call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let [columns, tokens, stride, out_stride, add] = [3, 4, 5, 6, 7].map(|n| call.int(n));
    let Some(format) = quant::ALL.iter().find(|f| f.dot == form).map(|f| Format(f)) else {
        return fault(format!("no format has dots of the form {form:?}"));
    };
    let piece = call.bytes(0, 0, TILE_ROWS * format.bytes_of(columns as u64) as usize)?.to_vec();
    let mut rows = vec![vec![0.0; columns]; TILE_ROWS];
    rows.iter_mut().enumerate().for_each(|(r, row)| format.decode_into(&row_of_piece(format, &piece, r), row));
    for t in 0..tokens {
        let a = if form.wants_int8() {
            let row = call.bytes(1, t * stride, columns / Q8_BLOCK * Q8_BYTES)?;
            decode_q8(row, columns)
        } else {
            floats(call.bytes(1, t * stride, columns * 4)?)
        };
        for (r, row) in rows.iter().enumerate() {
            let at = t * out_stride + r;
            let before = if add == 0 { 0.0 } else { call.floats(2, at, 1)?[0] };
            let sum: f64 = row.iter().zip(&a).map(|(w, a)| f64::from(*w) * f64::from(*a)).sum();
            call.set_float(2, at, (sum + f64::from(before)) as f32)?;
        }
    }
    Ok(())
}

/// Element `d` of position `p` in keys of a block, of which a tile begins at every sixteenth position.
fn key(encoding: KvEncoding, tile: &[u8], head: usize, p: usize, d: usize) -> f32 {
    if encoding == KvEncoding::Halves {
        return half(tile, (d * TILE_ROWS + p) * 2);
    }
    let scales = head.next_multiple_of(Q8_BLOCK) * TILE_ROWS;
    f32::from(tile[d * TILE_ROWS + p] as i8) * half(tile, scales + (d / Q8_BLOCK * TILE_ROWS + p) * 2)
}

/// [`crate::abi::ScoresFn`].
fn scores(encoding: KvEncoding, call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let [head, positions, rows] = [3, 4, 5].map(|n| call.int(n));
    let tile_bytes = TILE_ROWS * encoding.row_bytes(head);
    for p in 0..positions {
        let tile = call.bytes(1, p / TILE_ROWS * tile_bytes, tile_bytes)?.to_vec();
        for r in 0..rows {
            let q = call.floats(0, r * head, head)?;
            let product =
                |(d, q): (usize, &f32)| f64::from(*q) * f64::from(key(encoding, &tile, head, p % TILE_ROWS, d));
            let sum: f64 = q.iter().enumerate().map(product).sum();
            call.set_float(2, r * KV_BLOCK + p, sum as f32)?;
        }
    }
    Ok(())
}

/// [`crate::abi::AccumulateFn`].
fn accumulate(encoding: KvEncoding, call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let [head, positions, rows] = [3, 4, 5].map(|n| call.int(n));
    let row_bytes = encoding.row_bytes(head);
    let value = |row: &[u8], d: usize| match encoding {
        KvEncoding::Halves => half(row, 2 * d),
        KvEncoding::Codes => f32::from(row[d] as i8) * half(row, head.next_multiple_of(Q8_BLOCK) + d / Q8_BLOCK * 2),
    };
    let values = call.bytes(1, 0, positions * row_bytes)?.to_vec();
    for r in 0..rows {
        let weights = call.floats(0, r * KV_BLOCK, positions)?;
        for d in 0..head {
            let before = call.floats(2, r * head + d, 1)?[0];
            let products = weights.iter().zip(values.chunks_exact(row_bytes));
            let sum: f64 = products.map(|(w, row)| f64::from(*w) * f64::from(value(row, d))).sum();
            call.set_float(2, r * head + d, (f64::from(before) + sum) as f32)?;
        }
    }
    Ok(())
}

fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

/// [`crate::abi::SoftmaxFn`].
fn softmax(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let ([head, first, end], cap) = ([4, 5, 6].map(|n| call.int(n)), call.float(7));
    let capped = |s: f32| if cap == 0.0 { s } else { (f64::from(cap) * f64::from(s / cap).tanh()) as f32 };
    let scores: Vec<f32> = call.floats(0, 0, KV_BLOCK)?.into_iter().map(capped).collect();
    let (before, sum) = (call.floats(1, 0, 1)?[0], call.floats(2, 0, 1)?[0]);
    let max = scores[first..end].iter().fold(before, |m, &s| m.max(s));
    let factor = exp(before - max);
    let mut total = f64::from(sum * factor);
    for (p, &score) in scores.iter().enumerate() {
        let weight = if (first..end).contains(&p) { exp(score - max) } else { 0.0 };
        total += f64::from(weight);
        call.set_float(0, p, weight)?;
    }
    call.set_float(1, 0, max)?;
    call.set_float(2, 0, total as f32)?;
    for (d, v) in call.floats(3, 0, head)?.into_iter().enumerate() {
        call.set_float(3, d, v * factor)?;
    }
    Ok(())
}

/// [`crate::abi::SiluTimesFn`].
fn silu_times(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let [tokens, stride] = [2, 3].map(|n| call.int(n));
    for t in 0..tokens {
        let up = call.floats(0, t * TILE_ROWS, TILE_ROWS)?;
        for (r, up) in up.into_iter().enumerate() {
            let at = t * stride + r;
            let gate = f64::from(call.floats(1, at, 1)?[0]);
            let silu = gate / (1.0 + (-gate).exp());
            call.set_float(1, at, (silu * f64::from(up)) as f32)?;
        }
    }
    Ok(())
}

/// [`crate::abi::QuantizeFn`].
fn quantize(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let (k, factor) = (call.int(2), call.float(3));
    let mut x = call.floats(0, 0, k)?;
    if let Operand::Place(_) = call.operands[4] {
        let weights = call.floats(4, 0, k)?;
        x.iter_mut().zip(weights).for_each(|(x, w)| *x = *x * factor * w);
    }
    call.bytes(1, 0, q8_row_bytes(k))?;
    for (number, x) in x.chunks_exact(Q8_BLOCK).enumerate() {
        let (scale, inverse) = q8_scale(x);
        let codes: Vec<i8> = x.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
        let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>();
        let (all, halves) = (sum(&codes), [sum(&codes[..Q8_BLOCK / 2]), sum(&codes[Q8_BLOCK / 2..])]);
        let block = call.bytes(1, number * Q8_BYTES, Q8_BYTES)?;
        block[..Q8_BLOCK].iter_mut().zip(&codes).for_each(|(to, c)| *to = *c as u8);
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(Q8_SCALE, &scale.to_le_bytes());
        put(Q8_SCALED_SUM, &(scale * all as f32).to_le_bytes());
        put(Q8_STARTS_AT, &(Q8_STARTS[0] * all).to_le_bytes());
        for (i, half) in halves.into_iter().enumerate() {
            put(Q8_SUMS + 2 * i, &(half as i16).to_le_bytes());
            put(Q8_STARTS_AT + 4 + 4 * i, &(Q8_STARTS[1] * half).to_le_bytes());
        }
    }
    Ok(())
}

/// [`crate::abi::RopeAnglesFn`].
fn rope_angles(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let ([position, tokens, dim], theta) = ([1, 2, 3].map(|n| call.int(n)), call.float(4));
    let factors = match call.operands[5] {
        Operand::Place(_) => call.floats(5, 0, dim / 2)?,
        _ => vec![1.0; dim / 2],
    };
    for t in 0..tokens {
        for (i, factor) in factors.iter().enumerate() {
            let frequency = f64::from(theta).powf(-2.0 * i as f64 / dim as f64) / f64::from(*factor);
            let angle = (position + t) as f64 * frequency;
            call.set_float(0, t * dim + 2 * i, angle.cos() as f32)?;
            call.set_float(0, t * dim + 2 * i + 1, angle.sin() as f32)?;
        }
    }
    Ok(())
}
