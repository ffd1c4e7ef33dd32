//! What the ops of mixtures of experts compute.

use super::super::{Gating, Groups, LEAST_WEIGHTS, Op};
use super::mismatch;
use super::ops::dot;
use crate::tensor::TensorType;
use crate::{Error, Result};
use std::cmp::Ordering;

/// [`Op::Route`] of rows of logits.
pub(super) fn route(op: &Op, logits: &[f32], experts: usize, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let Op::Route { k, gating, normalise, scale, groups } = *op else { return Err(mismatch("a route")) };
    let mut out = Vec::with_capacity(logits.len() / experts * 2 * k);
    for row in logits.chunks_exact(experts) {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let p = match gating {
            Gating::Softmax => softmax(&row),
            Gating::Sigmoid => row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Gating::SoftmaxOfChosen => row.clone(),
        };
        let ranked = if bias.is_some() || groups.is_some() { &p } else { &row };
        let bias = |e: usize| bias.map_or(0.0, |b| b[e]);
        let scores: Vec<f32> = ranked.iter().enumerate().map(|(e, &p)| comparable(p as f32 + bias(e))).collect();
        let ids = best(&scores, &allowed(&scores, groups), k);
        let chosen: Vec<f64> = ids.iter().map(|&e| p[e]).collect();
        let weights = if gating == Gating::SoftmaxOfChosen { softmax(&chosen) } else { chosen };
        let least = f64::from(LEAST_WEIGHTS);
        let sum = weights.iter().sum::<f64>();
        // NaN stays.
        let by =
            if normalise { f64::from(scale.0) / if sum < least { least } else { sum } } else { f64::from(scale.0) };
        out.extend(weights.iter().map(|w| (w * by) as f32));
        out.extend(ids.iter().map(|&e| e as f32));
    }
    Ok(out)
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| if m >= x { m } else { x });
    let weights: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// A score that every other compares with.
fn comparable(score: f32) -> f32 {
    if score < f32::MAX { score.max(f32::MIN) } else { f32::MAX }
}

/// The numbers of the `k` largest scores of those numbered, which are in order; equal ones by number.
pub(super) fn best(scores: &[f32], numbers: &[usize], k: usize) -> Vec<usize> {
    let mut numbers = numbers.to_vec();
    // A stable sort.
    numbers.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal));
    numbers.truncate(k);
    numbers
}

/// The experts that are chosen from, in order.
fn allowed(scores: &[f32], groups: Option<Groups>) -> Vec<usize> {
    let Some(Groups { count, used }) = groups else { return (0..scores.len()).collect() };
    let size = scores.len() / count;
    let of_group = |scores: &[f32]| {
        let two = best(scores, &(0..size).collect::<Vec<_>>(), 2);
        comparable(two.iter().map(|&e| scores[e]).reduce(|a, b| a + b).unwrap_or(0.0))
    };
    let groups: Vec<f32> = scores.chunks_exact(size).map(of_group).collect();
    let mut open = best(&groups, &(0..count).collect::<Vec<_>>(), used);
    open.sort_unstable();
    open.iter().flat_map(|&g| g * size..(g + 1) * size).collect()
}

/// The experts that the tokens of a routing use, token after token, and how many each uses.
fn chosen(routing: &[f32], ty: &TensorType, experts: usize) -> Result<(Vec<usize>, usize)> {
    let k = ty.columns() / 2;
    let ids = routing.chunks_exact(2 * k).flat_map(|row| &row[k..]);
    let number = |&id: &f32| {
        let known = (id >= 0.0 && id < experts as f32).then_some(id as usize);
        known.ok_or_else(|| Error::Limit { what: "an expert".into(), need: id as u64, have: experts as u64 - 1 })
    };
    Ok((ids.map(number).collect::<Result<_>>()?, k))
}

/// [`Op::ExpertMatMul`]; the flag says whether `x` has a row for each expert of a token.
pub(super) fn matmul(
    (w, ty): (&[f32], &TensorType),
    (x, of_experts): (&[f64], bool),
    routing: &[f32],
    routing_type: &TensorType,
) -> Result<Vec<f32>> {
    let (rows, columns) = (ty.shape[1], ty.columns());
    let (ids, k) = chosen(routing, routing_type, ty.shape[0])?;
    let mut out = vec![0.0; ids.len() * rows];
    let mut wide = vec![0.0; columns];
    for (e, w) in w.chunks_exact(rows * columns).enumerate() {
        let pairs: Vec<usize> = (0..ids.len()).filter(|&pair| ids[pair] == e).collect();
        for (r, w) in w.chunks_exact(columns).enumerate().filter(|_| !pairs.is_empty()) {
            wide.iter_mut().zip(w).for_each(|(d, &s)| *d = f64::from(s));
            for &pair in &pairs {
                let row = if of_experts { pair } else { pair / k };
                out[pair * rows + r] = dot(&wide, &x[row * columns..][..columns]) as f32;
            }
        }
    }
    Ok(out)
}

/// [`Op::ExpertRows`].
pub(super) fn rows(table: &[f32], ty: &TensorType, routing: &[f32], routing_type: &TensorType) -> Result<Vec<f32>> {
    let n = ty.elements() / ty.shape[0];
    let (ids, _) = chosen(routing, routing_type, ty.shape[0])?;
    Ok(ids.iter().flat_map(|&e| &table[e * n..][..n]).copied().collect())
}

/// [`Op::ExpertSum`].
pub(super) fn sum(y: &[f32], rows: usize, routing: &[f32], routing_type: &TensorType) -> Vec<f32> {
    let k = routing_type.columns() / 2;
    let mut out = Vec::with_capacity(y.len() / k);
    for (y, routing) in y.chunks_exact(k * rows).zip(routing.chunks_exact(2 * k)) {
        let weighted = |r: usize, slot: usize| f64::from(routing[slot]) * f64::from(y[slot * rows + r]);
        out.extend((0..rows).map(|r| (0..k).map(|slot| weighted(r, slot)).sum::<f64>() as f32));
    }
    out
}
