//! Whether kernels compute what they mean: a kernel on a device, with random operands, against the interpreter of graphs
//! on its body.
//!
//! A [`Case`] has operands and what the body makes of them, and compares what a kernel has left. Invariant: operands are a
//! function of the body and the [`Trial`]. Next hop: `artifact` checks every kernel of an artifact; [`ir::graph::interp`].

mod artifact;
mod step;

pub use artifact::{Verdict, check};

use crate::Result;
use crate::device::{self, Command, Held, Launch, Region, Shared};
use crate::random::{Rng, blocks};
use crate::repack;
use half::f16;
use ir::abi::{Control, KV_BLOCK, KvEncoding, Q8_BLOCK, Q8Step, f32_row_bytes};
use ir::graph::interp::{Q8, Value, run_body};
use ir::graph::{Graph, Op, Ref};
use ir::numerics;
use ir::quant::Format;
use ir::state::StateKind;
use ir::tensor::{Elem, TensorType, kv_bytes, kv_rows, kv_shape};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What outputs hold before a kernel runs: a NaN that no computation gives.
const POISON: u32 = 0x7fc0_dead;

/// An operand, as the interpreter and as the device want it.
struct Operand {
    value: Value,
    bytes: Vec<u8>,
}

/// The role of body parameter `n`: the last op that uses it and the operand's place there.
fn role(body: &Graph, n: usize) -> Option<(&Op, usize)> {
    let mut users = body.nodes().iter().filter_map(|node| {
        let at = node.inputs.iter().position(|r| body.node(r.node).op == Op::Param(n as u32))?;
        Some((&node.op, at))
    });
    users.next_back()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Rows padded as activation buffers are; `valid` rows have values, the others are poison.
fn padded(values: &[f32], rows: usize, columns: usize) -> Vec<u8> {
    let mut bytes = POISON.to_le_bytes().repeat(rows * f32_row_bytes(columns) / 4);
    for (t, row) in values.chunks_exact(columns).enumerate() {
        bytes[t * f32_row_bytes(columns)..][..columns * 4].copy_from_slice(&floats(row));
    }
    bytes
}

/// Columns of an activation: all dimensions but the first.
fn columns(ty: &TensorType) -> usize {
    ty.shape[1..].iter().product()
}

/// How operands are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Within +-2, weights of any codes.
    Usual,
    /// Zero blocks, subnormal numbers, one magnitude throughout a block, and gates far beyond +-88; the largest codes of a
    /// format and blocks of scale zero.
    Edges,
    /// As usual, but for a NaN or an infinity in some rows of activations.
    NotFinite,
}

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.uniform() * 2.0).collect()
}

/// Rows of activations. `most` is how much larger than usual [`Draw::Edges`] may make them.
fn activations(rng: &mut Rng, rows: usize, columns: usize, draw: Draw, most: f32) -> Vec<f32> {
    let mut all = random(rng, rows * columns);
    for row in all.chunks_exact_mut(columns) {
        match draw {
            Draw::Usual => {}
            Draw::Edges => {
                let by = if rng.below(2) == 0 { most } else { 1.0 };
                for block in row.chunks_mut(Q8_BLOCK) {
                    match rng.below(4) {
                        0 => block.fill(0.0),
                        1 => block.iter_mut().step_by(2).for_each(|x| *x *= f32::MIN_POSITIVE / 64.0),
                        2 => block.iter_mut().for_each(|x| *x = by.copysign(*x)),
                        _ => block.iter_mut().for_each(|x| *x *= by),
                    }
                }
            }
            Draw::NotFinite => {
                let bad = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
                row[rng.below(columns)] = bad[rng.below(bad.len())];
            }
        }
    }
    all
}

/// Blocks of weights; with [`Draw::Edges`] half of them have one byte throughout, so all of the smallest or largest codes, and
/// some the scale zero.
fn weights(format: Format, elements: usize, spread: f32, draw: Draw, rng: &mut Rng) -> Vec<u8> {
    let mut all = blocks(format, elements, spread, rng);
    let Some(set_scale) = format.set_scale.filter(|_| draw == Draw::Edges) else { return all };
    let mut values = vec![0.0; format.block as usize];
    for block in all.chunks_exact_mut(format.bytes as usize) {
        let Some(&byte) = [0x00, 0xff, 0x80, 0x7f].get(rng.below(8)) else { continue };
        block.fill(byte);
        set_scale(block, 1.0);
        (format.decode)(block, &mut values);
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        set_scale(block, if largest > 0.0 && rng.below(4) > 0 { spread / largest } else { 0.0 });
    }
    all
}

/// Random logits, of which many are equal, some impossible, and in half of the rows a few NaN or infinite.
fn logits(rng: &mut Rng, n: usize) -> Vec<f32> {
    let infinite = rng.below(2) == 0;
    let one = |rng: &mut Rng| match rng.below(64) {
        8..16 => f32::NEG_INFINITY,
        16..32 => (rng.uniform() * 8.0).round(),
        32 if infinite => f32::INFINITY,
        33 if infinite => f32::NAN,
        _ => rng.uniform() * 10.0,
    };
    (0..n).map(|_| one(rng)).collect()
}

/// Divides by the length, if it is neither infinite nor tiny.
fn to_length_one(x: &mut [f32]) {
    let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length.is_finite() && length > 1e-3 {
        x.iter_mut().for_each(|x| *x /= length);
    }
}

/// Scores of sinks: near those of keys, or such that they are all, or nothing.
fn sinks(rng: &mut Rng, n: usize, draw: Draw) -> Vec<f32> {
    let extremes = [f32::NEG_INFINITY, -1e30, 1e30, 80.0, -80.0, 0.0];
    let one = |rng: &mut Rng| match draw {
        Draw::Usual => 4.0 * rng.uniform(),
        Draw::Edges => extremes[rng.below(extremes.len())],
        Draw::NotFinite if rng.below(4) == 0 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.below(3)],
        Draw::NotFinite => rng.uniform(),
    };
    (0..n).map(|_| one(rng)).collect()
}

/// Random weights of experts and different experts of each token: any, or the same few for most tokens.
fn routing(body: &Graph, ty: &TensorType, Trial { tokens, draw, .. }: Trial, rng: &mut Rng) -> Vec<f32> {
    let tables = body.nodes().iter().filter(|n| matches!(n.op, Op::ExpertMatMul | Op::ExpertRows));
    let experts = tables.map(|n| body.ty(n.inputs[0]).shape[0]).next().expect("a body of experts");
    let k = ty.columns() / 2;
    let favourites = if rng.below(2) == 0 { k + 1 } else { experts };
    let mut all = Vec::new();
    for _ in 0..tokens {
        let among = if rng.below(8) == 0 { experts } else { favourites.min(experts) };
        let mut ids: Vec<usize> = (0..among).map(|i| (i * 5 + 3) % experts).collect();
        if ids.iter().any(|id| ids.iter().filter(|other| *other == id).count() > 1) {
            ids = (0..among).collect();
        }
        for i in 0..k {
            let other = i + rng.below(ids.len() - i);
            ids.swap(i, other);
        }
        let mut weights: Vec<f32> = (0..k).map(|_| rng.uniform().abs()).collect();
        if draw == Draw::NotFinite && rng.below(4) == 0 {
            weights[rng.below(k)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.below(3)];
        }
        all.extend(weights);
        all.extend(ids[..k].iter().map(|&id| id as f32));
    }
    all
}

/// Random logits of experts, so far apart that rounding decides nothing, but many equal; some are impossible, and in half of the
/// rows a few NaN or infinite.
fn router(rng: &mut Rng, rows: usize, experts: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * experts);
    for _ in 0..rows {
        let infinite = rng.below(2) == 0;
        all.extend((0..experts).map(|_| match rng.below(64) {
            8..12 => f32::NEG_INFINITY,
            12 if infinite => f32::INFINITY,
            13 if infinite => f32::NAN,
            _ => (rng.uniform() * 40.0).round() / 8.0,
        }));
    }
    all
}

/// A KV cache of random values that its format holds exactly.
fn cache(ty: &TensorType, draw: Draw, rng: &mut Rng) -> Option<Operand> {
    let (head, encoding) = (ty.columns(), ty.elem.kv()?.encoding);
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..ty.rows() {
        if encoding == KvEncoding::Halves {
            for v in random(rng, head) {
                let v = f16::from_f32(v);
                values.push(v.to_f32());
                bytes.extend(v.to_le_bytes());
            }
            continue;
        }
        let padded = head.next_multiple_of(Q8_BLOCK);
        let extreme = draw == Draw::Edges && rng.below(2) == 0;
        let code = |rng: &mut Rng| if extreme { [-128, -127, 127, 0][rng.below(4)] } else { rng.next() as i8 };
        let codes: Vec<i8> = (0..padded).map(|i| if i < head { code(rng) } else { 0 }).collect();
        let scale = |rng: &mut Rng| if extreme && rng.below(4) == 0 { 0.0 } else { 0.01 + 0.005 * rng.uniform() };
        let scales: Vec<f16> = (0..padded / Q8_BLOCK).map(|_| f16::from_f32(scale(rng))).collect();
        values.extend((0..head).map(|i| scales[i / Q8_BLOCK].to_f32() * f32::from(codes[i])));
        bytes.extend(codes.iter().map(|&c| c as u8));
        bytes.extend(scales.iter().flat_map(|s| s.to_le_bytes()));
    }
    let mut laid = vec![0xff; kv_bytes(ty)? as usize];
    cache_units(ty, |from, to, n| laid[to..to + n].copy_from_slice(&bytes[from..from + n]))?;
    Some(Operand { value: values.into(), bytes: laid })
}

/// Calls `f(byte in rows one after the other, byte in the layout of the type, bytes)` for each unit of a KV cache.
fn cache_units(ty: &TensorType, mut f: impl FnMut(usize, usize, usize)) -> Option<()> {
    let rows = kv_rows(ty)?;
    let (positions, head, tile) = (kv_shape(ty)?.positions, ty.columns(), ty.layout.tile_rows());
    let codes = match ty.elem.kv()?.encoding {
        KvEncoding::Halves => 0,
        KvEncoding::Codes => head.next_multiple_of(Q8_BLOCK),
    };
    for row in 0..ty.rows() {
        let (h, p) = (row / positions, row % positions);
        let first = h * rows.head + p / KV_BLOCK * rows.block + p % KV_BLOCK / tile * tile * rows.row;
        for at in (0..codes).chain((codes..rows.row).step_by(2)) {
            let unit = if at < codes { 1 } else { 2 };
            f(row * rows.row + at, first + at * tile + p % tile * unit, unit);
        }
    }
    Some(())
}

/// The values of a KV cache's bytes.
fn decode_cache(ty: &TensorType, bytes: &[u8]) -> Option<Vec<f32>> {
    let (head, encoding) = (ty.columns(), ty.elem.kv()?.encoding);
    let row_bytes = kv_rows(ty)?.row;
    let half = |b: &[u8], at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let mut rows = vec![0; ty.rows() * row_bytes];
    cache_units(ty, |to, from, n| rows[to..to + n].copy_from_slice(&bytes[from..from + n]))?;
    let mut values = Vec::new();
    for row in rows.chunks_exact(row_bytes) {
        if encoding == KvEncoding::Halves {
            values.extend((0..head).map(|i| half(row, 2 * i)));
        } else {
            let scales = head.next_multiple_of(Q8_BLOCK);
            values.extend((0..head).map(|i| half(row, scales + i / Q8_BLOCK * 2) * f32::from(row[i] as i8)));
        }
    }
    Some(values)
}

/// Body parameter `n`, drawn at random; `None` for one that nothing uses, or as no kernel does.
fn operand(body: &Graph, n: usize, ty: &TensorType, trial: Trial, rng: &mut Rng) -> Option<Operand> {
    let (op, at) = role(body, n)?;
    let Trial { position, tokens, draw, .. } = trial;
    let weight_format = || if let Elem::Ggml(format) = ty.elem { Some(format) } else { None };
    let plain = |values: Vec<f32>| Operand { bytes: floats(&values), value: values.into() };
    let rows = |values: Vec<f32>| Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() };
    Some(match (op, at) {
        (Op::KvAppend | Op::RopeAngles(_) | Op::PositionScale { .. } | Op::Attention { .. }, _)
            if ty.elem == Elem::I32 =>
        {
            Operand { value: vec![position as i32].into(), bytes: Vec::new() }
        }
        (Op::Embed, 1) => {
            let embed = body.nodes().iter().find(|n| n.op == Op::Embed)?;
            let vocab = body.ty(embed.inputs[0]).rows();
            let ids: Vec<i32> = (0..tokens).map(|_| rng.below(vocab) as i32).collect();
            let mut bytes: Vec<u8> = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
            bytes.resize(ty.elements() * 4, 0);
            Operand { value: ids.into(), bytes }
        }
        (Op::KvAppend, 0) | (Op::Attention { .. }, 1 | 2) => cache(ty, draw, rng)?,
        (Op::Repack { .. }, _) => {
            let format = weight_format()?;
            Operand { value: Vec::<f32>::new().into(), bytes: blocks(format, ty.elements(), 1.0, rng) }
        }
        (Op::ShortConv, 0 | 2) | (Op::DeltaRule { .. } | Op::ExpertRows, 0) => plain(random(rng, ty.elements())),
        (Op::DeltaRule { .. }, 1..) => {
            let mut values = activations(rng, tokens, columns(ty), draw, 2.0);
            match at {
                2 => values.chunks_mut(ty.columns()).for_each(to_length_one),
                4 => values.iter_mut().for_each(|x| *x = -x.abs() * if draw == Draw::Edges { 20.0 } else { 1.0 }),
                5 => values.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
                _ => {}
            }
            rows(values)
        }
        (Op::MatMul | Op::HeadMatMul | Op::Embed | Op::ExpertMatMul, 0) => {
            let format = weight_format()?;
            let all = weights(format, ty.elements(), 1.0 / (ty.columns() as f32).sqrt(), draw, rng);
            let mut values = vec![0.0; ty.elements()];
            format.decode_into(&all, &mut values);
            let (rows, columns) = (ty.rows() / ty.matrices(), ty.columns());
            let size = repack::bytes(ty.layout, format, rows, columns);
            let mut bytes = vec![0; ty.matrices() * size];
            for (from, to) in all.chunks_exact(all.len() / ty.matrices()).zip(bytes.chunks_exact_mut(size)) {
                repack::repack(ty.layout, format, from, rows, columns, to);
            }
            Operand { value: values.into(), bytes }
        }
        (Op::ExpertMatMul, 2) | (Op::ExpertRows | Op::ExpertSum, 1) => rows(routing(body, ty, trial, rng)),
        (Op::Route { .. }, 0) => rows(router(rng, tokens, columns(ty))),
        (Op::TopK { .. }, _) => rows(logits(rng, tokens * columns(ty))),
        (Op::Attention { .. }, 4) => plain(sinks(rng, ty.elements(), draw)),
        (Op::MatMul, 1) if ty.elem == Elem::Q8 => {
            let mut x = Q8::of(&activations(rng, tokens, ty.columns(), draw, 400.0));
            // Kernels take scales of 22 bits.
            x.scales.iter_mut().for_each(|scale| *scale = f32::from_bits(scale.to_bits() & !3));
            let size = Q8Step::new(ty.columns(), ty.shape[0]).bytes();
            let mut bytes = POISON.to_le_bytes().repeat(size / 4);
            step::encode(&x, ty.columns(), ty.shape[0], &mut bytes);
            Operand { value: Value::Q8(Arc::new(x)), bytes }
        }
        _ if ty.shape.len() == 1 => plain(random(rng, ty.elements()).iter().map(|v| 1.5 + v * 0.5).collect()),
        _ => {
            // Scores of attention stay small, so that a weight is no more uncertain than other sums.
            let most = if matches!(op, Op::Attention { .. }) { 2.0 } else { 400.0 };
            rows(activations(rng, tokens.min(ty.shape[0]), columns(ty), draw, most))
        }
    })
}

/// The largest difference of one output, or of a part of its rows, from the interpreter's, and how large a difference is
/// tolerated.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Largest |device - interpreter|.
    pub error: f32,
    /// The bound of [`parts`].
    pub bound: f32,
}

/// The columns of a kernel's output that are compared with the interpreter's by themselves, and the tolerance relative to
/// their largest magnitude. What is selected is exact. Else it is the rounding of f32 sums; where a kernel rounds what it
/// has computed itself to codes (int8 rows after a norm, KV caches), one code of a block may fall to the other side, or its
/// scale.
fn parts(body: &Graph, output: Ref) -> Vec<(Range<usize>, f32)> {
    let ty = body.ty(output);
    let promised = |name| numerics::op(name).map_or(0.0, |op| op.error);
    if let Op::TopK { k } = body.node(output.node).op {
        return vec![(0..2 * k, 0.0), (2 * k..2 * k + 1, promised("top_k"))];
    }
    if let Op::DeltaRule { .. } = body.node(output.node).op {
        return vec![(0..columns(ty), promised("delta_rule"))];
    }
    if let Op::Route { k, .. } = body.node(output.node).op {
        return vec![(0..k, promised("route")), (k..2 * k, 0.0)];
    }
    let requantises = body
        .nodes()
        .iter()
        .any(|n| n.op == Op::Quantize && !matches!(body.node(n.inputs[0].node).op, Op::Param(_) | Op::LastToken));
    let int8_cache = kv_bytes(ty).is_some() && ty.elem.kv().is_some_and(|kv| kv.encoding == KvEncoding::Codes);
    let tolerance = match (requantises, int8_cache, ty.elem == Elem::F16) {
        // A code, and a step of the block's f16 scale.
        (_, true, _) => promised("kv_append"),
        (true, ..) => promised("quantize"),
        (false, false, true) => 1e-3,
        (false, false, false) => promised("matmul"),
    };
    vec![(0..columns(ty), tolerance)]
}

/// How a kernel is run.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Position of the first token.
    pub position: usize,
    /// Tokens of the step.
    pub tokens: usize,
    /// Of the operands.
    pub seed: u64,
    /// How operands are drawn.
    pub draw: Draw,
}

impl Trial {
    /// What a step of it has in its control words.
    pub fn control(self) -> Control {
        Control { position: self.position as u32, tokens: self.tokens as u32 }
    }
}

/// A kernel as it is to be checked.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its meaning.
    pub body: &'a Graph,
    /// The buffers that it takes.
    pub buffers: &'a [Buffer],
}

/// A buffer that a kernel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Its size.
    pub bytes: u64,
    /// Whether it has to be zero at launch, and is left so.
    pub zeroed: bool,
}

/// A kernel's operands and results.
pub struct Case<'a> {
    subject: Subject<'a>,
    operands: Vec<Operand>,
    /// What its buffers hold before it runs; those that it takes from elsewhere, nothing.
    pub before: Vec<Vec<u8>>,
    /// What the interpreter of graphs makes of its body.
    expected: Vec<Value>,
}

impl<'a> Case<'a> {
    /// Draws operands and interprets the body.
    ///
    /// # Errors
    /// In words, if the body is none that a kernel can have, or does not fit the buffers.
    pub fn new(subject: Subject<'a>, trial: Trial) -> std::result::Result<Case<'a>, String> {
        let Trial { tokens, seed, .. } = trial;
        let Subject { name, body, buffers } = subject;
        let mut rng = Rng::new(seed);
        let wrong = |e: ir::Error| format!("{name}: {e}");
        let params = body.params().map_err(wrong)?;
        let operands = params.iter().enumerate().map(|(n, ty)| operand(body, n, ty, trial, &mut rng));
        let operands: Vec<Operand> = operands
            .collect::<Option<_>>()
            .ok_or_else(|| format!("{name}: what a parameter of it is for is not known"))?;
        let expected = run_body(body, operands.iter().map(|o| o.value.clone()).collect(), tokens).map_err(wrong)?;
        let before = |(i, buffer): (usize, &Buffer)| {
            // What kernels find zero, results, and workspaces.
            let fill = if buffer.zeroed { [0; 4] } else { POISON.to_le_bytes() };
            let fill = || fill.into_iter().cycle().take(buffer.bytes as usize).collect();
            let bytes: Vec<u8> = operands.get(i).map_or_else(fill, |o| o.bytes.clone());
            let fits = bytes.is_empty() || bytes.len() as u64 == buffer.bytes;
            let (want, have) = (buffer.bytes, bytes.len());
            fits.then_some(bytes).ok_or_else(|| format!("{name}: buffer {i} has {want} bytes, its operand {have}"))
        };
        let before = buffers.iter().enumerate().map(before).collect::<std::result::Result<_, String>>()?;
        Ok(Case { subject, operands, before, expected })
    }

    /// What the kernel has left in its buffers against what was expected. Elements that are not finite in the interpreter
    /// have to be so here.
    ///
    /// # Errors
    /// In words: which output differs otherwise, or which counter is left changed.
    pub fn compare(&self, after: &[Vec<u8>]) -> std::result::Result<Vec<Difference>, String> {
        let Subject { name, body, buffers } = self.subject;
        let counters = after.iter().zip(buffers).filter(|(_, buffer)| buffer.zeroed);
        if counters.flat_map(|(bytes, _)| bytes).any(|&b| b != 0) {
            return Err(format!("{name}: a counter is left changed"));
        }
        let mut next = self.operands.len();
        let mut differences = Vec::new();
        for ((_, output), expected) in body.outputs().iter().zip(&self.expected) {
            let producer = body.node(output.node);
            let ty = body.ty(*output);
            let update = producer.op.update().filter(|&(_, new)| new == output.result);
            let updated = update.map(|(old, _)| match body.node(producer.inputs[old].node).op {
                Op::Param(n) => n as usize,
                _ => usize::MAX,
            });
            let at = updated.unwrap_or(next);
            next += usize::from(updated.is_none());
            let bytes = after.get(at).ok_or_else(|| format!("{name}: there is no buffer {at}"))?;
            if let (Op::Repack { layout }, Elem::Ggml(format)) = (&producer.op, ty.elem) {
                let mut twin = vec![0; bytes.len()];
                repack::repack(*layout, format, &self.operands[0].bytes, ty.rows(), ty.columns(), &mut twin);
                if *bytes != twin {
                    return Err(format!("{name}: the bytes are not those that the host gives"));
                }
                continue;
            }
            let expected: Cow<'_, [f32]> = match expected {
                Value::Q8(codes) => codes.values().iter().map(|&v| v as f32).collect(),
                floats => Cow::Borrowed(floats.f32().map_err(|e| format!("{name}: {e}"))?),
            };
            let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let actual: Vec<f32> = match updated {
                Some(_) if StateKind::of(ty) == Some(StateKind::Recurrent) => {
                    bytes.chunks_exact(4).map(float).collect()
                }
                Some(_) => decode_cache(ty, bytes).ok_or_else(|| format!("{name}: no KV cache is of type {ty}"))?,
                None if ty.elem == Elem::Q8 => {
                    step::decode(bytes, ty.columns(), expected.len() / ty.columns(), ty.rows())
                        .map_err(|e| format!("{name}: {e}"))?
                }
                None => bytes
                    .chunks_exact(f32_row_bytes(columns(ty)))
                    .take(expected.len() / columns(ty))
                    .flat_map(|row| row[..columns(ty) * 4].chunks_exact(4))
                    .map(float)
                    .collect(),
            };
            if actual.len() != expected.len() {
                return Err(format!("{name}: an output has {} elements, expected {}", actual.len(), expected.len()));
            }
            for (part, tolerance) in parts(body, *output) {
                let rows = actual.chunks_exact(columns(ty)).zip(expected.chunks_exact(columns(ty)));
                let pairs = rows.flat_map(|(a, e)| a[part.clone()].iter().zip(&e[part.clone()]));
                let (mut error, mut largest) = (0f32, 0f32);
                for (&a, &e) in pairs {
                    // What is selected has to be the same infinity.
                    if a.is_finite() != e.is_finite() || (tolerance == 0.0 && !e.is_finite() && a != e) {
                        return Err(format!("{name}: an output element is {a}, expected {e}"));
                    }
                    if e.is_finite() {
                        (largest, error) = (largest.max(e.abs()), error.max((a - e).abs()));
                    }
                }
                differences.push(Difference { error, bound: tolerance * largest });
            }
        }
        Ok(differences)
    }
}

/// Launches a kernel some times over its buffers, each launch but the first as early as the device lets it; what the buffers
/// then hold. An empty buffer has no memory.
///
/// # Errors
/// What the device says.
pub fn launch(
    device: &Shared,
    kernel: device::Kernel,
    times: usize,
    buffers: &[Buffer],
    before: &[Vec<u8>],
    control: Control,
) -> Result<Vec<Vec<u8>>> {
    let mut held = Held::new(device.clone());
    let place = |held: &mut Held, bytes: u64, contents: &[u8]| -> Result<Region> {
        let region = held.alloc(bytes, "a kernel that is checked")?;
        device::upload(&mut *held.device(), region, contents)?;
        Ok(region)
    };
    let mut regions: Vec<Option<Region>> = Vec::new();
    for (buffer, bytes) in buffers.iter().zip(before) {
        let region = (!bytes.is_empty()).then(|| place(&mut held, buffer.bytes, bytes));
        regions.push(region.transpose()?);
    }
    let words = [control.position, control.tokens].map(u32::to_le_bytes);
    let control = place(&mut held, 64, words.as_flattened())?;
    let command = |n| Command::Launch(Launch { kernel, buffers: regions.clone(), early: n > 0 });
    let recording = held.record(&(0..times).map(command).collect::<Vec<_>>(), control)?;
    held.device().replay(recording)?;
    held.device().sync()?;
    let mut after = before.to_vec();
    for (region, bytes) in regions.into_iter().zip(&mut after) {
        if let Some(region) = region {
            device::download(&mut *held.device(), region, bytes)?;
        }
    }
    held.unsettled = false;
    Ok(after)
}

/// How often a kernel is launched: on a GPU twice, so that the launches overlap, and the second finds what the first leaves.
pub fn launches(gpu: bool) -> usize {
    if gpu { 2 } else { 1 }
}
