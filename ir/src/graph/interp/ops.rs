//! What each primitive computes. Formulas stand in the doc of [`Op`]; the code here is their plainest form.

use super::super::{Angles, F32, Op, RopeStyle};
use super::{Q8, Value, experts, mismatch, recurrent};
use crate::abi::{KvEncoding, Q8_BLOCK, q8_scale};
use crate::tensor::{KvShape, TensorType, kv_shape};
use crate::{Error, Result};
use std::sync::Arc;

/// The results of `op` applied to values of these types, in a step of `tokens` tokens.
pub(super) fn apply(op: &Op, types: &[&TensorType], mut operands: Vec<Value>, tokens: usize) -> Result<Vec<Value>> {
    if operands.len() != types.len() {
        return Err(mismatch("as many values as types"));
    }
    let f32s = |i: usize| operands[i].f32();
    let position = |i: usize| Ok::<_, Error>(operands[i].i32()?[0] as usize);
    Ok(vec![match op {
        Op::Embed => embed(f32s(0)?, types[0].columns(), operands[1].i32()?)?.into(),
        Op::RmsNorm { eps } => {
            let w = if types.len() > 1 { Some(f32s(1)?) } else { None };
            rms_norm(f32s(0)?, w, types[0].columns(), f64::from(eps.0)).into()
        }
        Op::LayerNorm { eps } => {
            let b = if types.len() > 2 { Some(f32s(2)?) } else { None };
            layer_norm(f32s(0)?, f32s(1)?, b, f64::from(eps.0)).into()
        }
        Op::MatMul => matmul(f32s(0)?, &wide(&operands[1])?, types[0].columns()).into(),
        Op::HeadMatMul => head_matmul(f32s(0)?, &wide(&operands[1])?, types[0]).into(),
        Op::Quantize => Value::Q8(Arc::new(Q8::of(f32s(0)?))),
        Op::Add => combine(f32s(0)?, f32s(1)?, types, |a, b| a + b),
        Op::Mul => combine(f32s(0)?, f32s(1)?, types, |a, b| a * b),
        Op::Map(function) => f32s(0)?.iter().map(|&x| function.apply(f64::from(x)) as f32).collect::<Vec<f32>>().into(),
        Op::Reshape(_) | Op::Repack { .. } => operands.swap_remove(0),
        Op::Slice { first, count, every } => {
            let parts = f32s(0)?.chunks_exact(*every);
            parts.flat_map(|part| &part[*first..first + count]).copied().collect::<Vec<f32>>().into()
        }
        Op::Concat => concat(f32s(0)?, f32s(1)?, types[0], types[1]).into(),
        Op::RopeAngles(angles) => {
            let factors = if types.len() > 1 { Some(f32s(1)?) } else { None };
            rope_angles(position(0)?, tokens, angles, factors).into()
        }
        Op::PositionScale { length, slope, .. } => {
            let first = position(0)?;
            let scale = |p: usize| 1.0 + f64::from(slope.0) * ((p / length) as f64).ln_1p();
            (first..first + tokens).map(|p| scale(p) as f32).collect::<Vec<f32>>().into()
        }
        Op::Rope { style } => rope(f32s(0)?, f32s(1)?, *style, types[0], types[1].columns()).into(),
        Op::KvAppend => {
            let at = position(2)?;
            let x = operands.swap_remove(1);
            let Value::F32(mut state) = operands.swap_remove(0) else { return Err(mismatch("floats")) };
            kv_append(Arc::make_mut(&mut state).as_mut_slice(), x.f32()?, at, types[0])?;
            Value::F32(state)
        }
        Op::Attention { scale, window, cap } => {
            let [q, k, v] = [f32s(0)?, f32s(1)?, f32s(2)?];
            let sinks = if types.len() > 4 { Some(f32s(4)?) } else { None };
            let window = window.unwrap_or(usize::MAX);
            let score = |product: f64| {
                let score = product * f64::from(scale.0);
                cap.map_or(score, |F32(cap)| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            attention([q, k, v], position(3)?, (window, score), sinks, [types[0], types[1], types[2]])?.into()
        }
        Op::ShortConv => return recurrent::short_conv(operands, types),
        Op::DeltaRule { heads } => return recurrent::delta_rule(operands, types, *heads),
        Op::LastToken => {
            let x = f32s(0)?;
            x[x.len() - types[0].columns()..].to_vec().into()
        }
        Op::Route { .. } => {
            let bias = if types.len() > 1 { Some(f32s(1)?) } else { None };
            experts::route(op, f32s(0)?, types[0].columns(), bias)?.into()
        }
        Op::ExpertMatMul => {
            let of_experts = types[1].shape.len() == 3;
            experts::matmul((f32s(0)?, types[0]), (&wide(&operands[1])?, of_experts), f32s(2)?, types[2])?.into()
        }
        Op::ExpertRows => experts::rows(f32s(0)?, types[0], f32s(1)?, types[1])?.into(),
        Op::ExpertSum => experts::sum(f32s(0)?, types[0].columns(), f32s(1)?, types[1]).into(),
        Op::TopK { k } => top_k(f32s(0)?, types[0].columns(), *k).into(),
        Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Param(_) | Op::Fusion(_) => {
            return Err(mismatch("a primitive"));
        }
    }])
}

fn embed(table: &[f32], columns: usize, tokens: &[i32]) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(tokens.len() * columns);
    for &id in tokens {
        let row = usize::try_from(id).ok().and_then(|id| table.chunks_exact(columns).nth(id));
        out.extend_from_slice(row.ok_or_else(|| Error::Limit {
            what: "a token id".into(),
            need: id as u64,
            have: (table.len() / columns) as u64 - 1,
        })?);
    }
    Ok(out)
}

/// `f` of the elements of `a` and those of `b`: as many, a row, or one for each token.
fn combine(a: &[f32], b: &[f32], types: &[&TensorType], f: impl Fn(f32, f32) -> f32) -> Value {
    let pairs = |b: &mut dyn Iterator<Item = &f32>| a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect::<Vec<f32>>();
    let per_token = types[0] != types[1] && types[1].shape.len() > 1;
    if per_token {
        let row = a.len() / b.len();
        return pairs(&mut b.iter().flat_map(|b| std::iter::repeat_n(b, row))).into();
    }
    pairs(&mut b.iter().cycle()).into()
}

fn rms_norm(x: &[f32], w: Option<&[f32]>, columns: usize, eps: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(columns) {
        let inverse = inverse_root(row.iter().map(|&x| f64::from(x)), eps);
        let weight = |i: usize| w.map_or(1.0, |w| f64::from(w[i]));
        out.extend(row.iter().enumerate().map(|(i, &x)| (f64::from(x) * inverse * weight(i)) as f32));
    }
    out
}

fn layer_norm(x: &[f32], w: &[f32], b: Option<&[f32]>, eps: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(w.len()) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        let inverse = inverse_root(row.iter().map(|&x| f64::from(x) - mean), eps);
        let bias = |i: usize| b.map_or(0.0, |b| f64::from(b[i]));
        let normed = |(i, &x): (usize, &f32)| ((f64::from(x) - mean) * inverse * f64::from(w[i]) + bias(i)) as f32;
        out.extend(row.iter().enumerate().map(normed));
    }
    out
}

/// 1 / sqrt(mean square + eps); the root over its square: NaN, not 0, of an infinity.
fn inverse_root(x: impl ExactSizeIterator<Item = f64>, eps: f64) -> f64 {
    let n = x.len() as f64;
    let mean = x.map(|x| x * x).sum::<f64>() / n + eps;
    mean.sqrt() / mean
}

/// The elements of activations.
fn wide(x: &Value) -> Result<Vec<f64>> {
    Ok(match x {
        Value::Q8(q) => q.values(),
        x => x.f32()?.iter().map(|&x| f64::from(x)).collect(),
    })
}

fn matmul(w: &[f32], x: &[f64], columns: usize) -> Vec<f32> {
    let (rows, tokens) = (w.len() / columns, x.len() / columns);
    let mut out = vec![0.0; tokens * rows];
    let mut wide = vec![0.0; columns];
    for (r, row) in w.chunks_exact(columns).enumerate() {
        wide.iter_mut().zip(row).for_each(|(d, &s)| *d = f64::from(s));
        for (t, x) in x.chunks_exact(columns).enumerate() {
            out[t * rows + r] = dot(&wide, x) as f32;
        }
    }
    out
}

/// Of each head its row of `x` times its matrix of `w`, which is of type `ty`.
fn head_matmul(w: &[f32], x: &[f64], ty: &TensorType) -> Vec<f32> {
    let (heads, columns) = (ty.shape[0], ty.columns());
    let matrices: Vec<&[f32]> = w.chunks_exact(w.len() / heads).collect();
    let rows = x.chunks_exact(columns).zip(matrices.iter().cycle());
    rows.flat_map(|(x, w)| matmul(w, x, columns)).collect()
}

/// The heads of `a`, each followed by that of `b` or by the only one of its token.
fn concat(a: &[f32], b: &[f32], a_type: &TensorType, b_type: &TensorType) -> Vec<f32> {
    let (of_a, of_b) = (a_type.columns(), b_type.columns());
    let share = a_type.shape[1] / b_type.shape[1];
    let second = |i: usize| &b[i / share * of_b..][..of_b];
    a.chunks_exact(of_a).enumerate().flat_map(|(i, a)| a.iter().chain(second(i))).copied().collect()
}

/// Eight running sums, added in order.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for (s, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *s += a * b;
        }
    }
    sums.iter().sum::<f64>() + tail
}

fn rope_angles(position: usize, tokens: usize, angles: &Angles, factors: Option<&[f32]>) -> Vec<f32> {
    let Angles { dim, theta, divisors, magnitude, .. } = angles;
    let mut out = Vec::with_capacity(tokens * dim);
    for t in 0..tokens {
        for i in 0..dim / 2 {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            let divisor = divisors.get(i).map_or(1.0, |d| f64::from(d.0));
            let frequency = f64::from(theta.0).powf(-((2 * i) as f64) / *dim as f64) / factor / divisor;
            let angle = (position + t) as f64 * frequency;
            out.extend([angle.cos(), angle.sin()].map(|x| (x * f64::from(magnitude.0)) as f32));
        }
    }
    out
}

fn rope(x: &[f32], angles: &[f32], style: RopeStyle, ty: &TensorType, dim: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    let (heads, head) = (ty.shape[1], ty.shape[2]);
    for (token, angles) in out.chunks_exact_mut(heads * head).zip(angles.chunks_exact(dim)) {
        for x in token.chunks_exact_mut(head) {
            for (i, angle) in angles.chunks_exact(2).enumerate() {
                let (a, b) = match style {
                    RopeStyle::Adjacent => (2 * i, 2 * i + 1),
                    RopeStyle::Halves => (i, i + dim / 2),
                };
                let [xa, xb, cos, sin] = [x[a], x[b], angle[0], angle[1]].map(f64::from);
                x[a] = (xa * cos - xb * sin) as f32;
                x[b] = (xb * cos + xa * sin) as f32;
            }
        }
    }
    out
}

/// The figures of a KV cache in which a step has got to `end`.
fn cache(ty: &TensorType, end: usize) -> Result<KvShape> {
    let cache = kv_shape(ty).ok_or_else(|| mismatch("a KV cache"))?;
    if !cache.ring && end > cache.positions {
        let (need, have) = (end as u64, cache.positions as u64);
        return Err(Error::Limit { what: "the context".into(), need, have });
    }
    Ok(cache)
}

/// `x` is \[n, G, h\].
fn kv_append(state: &mut [f32], x: &[f32], position: usize, ty: &TensorType) -> Result<()> {
    let tokens = x.len() / (ty.shape[0] * ty.columns());
    let KvShape { heads, positions, head, .. } = cache(ty, position + tokens)?;
    for (t, token) in x.chunks_exact(heads * head).enumerate() {
        for (g, x) in token.chunks_exact(head).enumerate() {
            let row = &mut state[(g * positions + (position + t) % positions) * head..][..head];
            row.copy_from_slice(x);
            match ty.elem.kv().map(|kv| kv.encoding) {
                Some(KvEncoding::Halves) => row.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
                Some(KvEncoding::Codes) => row.chunks_mut(Q8_BLOCK).for_each(round_kv_q8),
                None => return Err(mismatch("a KV cache")),
            }
        }
    }
    Ok(())
}

fn round_kv_q8(block: &mut [f32]) {
    let (scale, inverse) = q8_scale(block);
    let rounded = half::f16::from_f32(scale).to_f32();
    block.iter_mut().for_each(|x| *x = rounded * (*x * inverse).round_ties_even());
}

/// `q` is \[n, H, h\]; `score` makes a score of a product.
fn attention(
    [q, k, v]: [&[f32]; 3],
    position: usize,
    (window, score): (usize, impl Fn(f64) -> f64),
    sinks: Option<&[f32]>,
    [q_type, k_type, v_type]: [&TensorType; 3],
) -> Result<Vec<f32>> {
    let (heads, head, value) = (q_type.shape[1], q_type.shape[2], v_type.columns());
    let tokens = q.len() / (heads * head);
    let KvShape { heads: kv_heads, positions, .. } = cache(k_type, position + tokens)?;
    let share = heads / kv_heads;
    let mut out = Vec::with_capacity(tokens * heads * value);
    for (t, token) in q.chunks_exact(heads * head).enumerate() {
        let end = position + t + 1;
        let first = end.saturating_sub(window);
        for (i, q) in token.chunks_exact(head).enumerate() {
            let row = |j: usize| i / share * positions + j % positions;
            let wide: Vec<f64> = q.iter().map(|&q| f64::from(q)).collect();
            let keys = (first..end).map(|j| &k[row(j) * head..][..head]);
            let mut weights: Vec<f64> =
                keys.map(|k| score(k.iter().zip(&wide).map(|(&k, q)| f64::from(k) * q).sum::<f64>())).collect();
            let sink = sinks.map_or(f64::NEG_INFINITY, |s| f64::from(s[i]));
            let max = weights.iter().copied().fold(sink, f64::max);
            weights.iter_mut().for_each(|w| *w = (*w - max).exp());
            let sum = weights.iter().sum::<f64>() + (sink - max).exp();
            let mut acc = vec![0.0; value];
            let values = (first..end).map(|j| &v[row(j) * value..][..value]);
            for (v, w) in values.zip(&weights) {
                acc.iter_mut().zip(v).for_each(|(a, &v)| *a += w * f64::from(v));
            }
            out.extend(acc.iter().map(|a| (a / sum) as f32));
        }
    }
    Ok(out)
}

fn top_k(x: &[f32], columns: usize, k: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / columns * (2 * k + 1));
    for row in x.chunks_exact(columns) {
        let row: Vec<f32> = row.iter().map(|x| if *x < f32::MAX { *x } else { f32::MAX }).collect();
        let ids = experts::best(&row, &(0..columns).collect::<Vec<_>>(), k);
        out.extend(ids.iter().map(|&id| row[id]));
        out.extend(ids.iter().map(|&id| id as f32));
        let max = f64::from(row[ids[0]].max(f32::MIN));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        out.push((max + sum.ln()) as f32);
    }
    out
}
