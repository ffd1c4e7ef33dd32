//! Causal attention with grouped queries: projections, norms and rotation of heads, the KV cache, the output projection.

use super::ffn::gated;
use super::linear::{linear, linear_rows};
use super::{Norm, Rope, name};
use crate::Result;
use crate::front::Network;
use crate::graph::{F32, Function, Op, Ref};

/// What is normalised of queries and keys, with the weights `attn_q_norm` and `attn_k_norm`.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) enum HeadNorm {
    /// Nothing.
    None,
    /// Each head, with the same weights.
    Each(Norm),
    /// All heads together.
    All(Norm),
}

/// The attention of a layer.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    /// Elements of a head.
    pub head: usize,
    pub norm: HeadNorm,
    /// Without it, heads are not rotated.
    pub rope: Option<Rope>,
    /// Multiplies the scores.
    pub scale: F32,
    /// Positions that a token sees, itself among them; none: all.
    pub window: Option<usize>,
    /// Soft cap of the scores.
    pub cap: Option<F32>,
    /// Whether the softmax has a logit without a value for each head, `attn_sinks.weight`.
    pub sinks: bool,
    /// Multiplies the queries of each token, \[T, 1\].
    pub query_scale: Option<Ref>,
}

impl Attention {
    /// Plain attention, scaled by 1 / sqrt(head).
    pub fn new(heads: usize, kv_heads: usize, head: usize) -> Attention {
        Attention {
            heads,
            kv_heads,
            head,
            norm: HeadNorm::None,
            rope: None,
            scale: F32((1.0 / (head as f64).sqrt()) as f32),
            window: None,
            cap: None,
            sinks: false,
            query_scale: None,
        }
    }
}

/// The attention of layer `layer` over `x`: \[T, d\] -> \[T, d\]. Queries, keys and values are three matrices or, in that
/// order, the rows of `attn_qkv`.
pub(in crate::front) fn attention(n: &mut Network<'_>, layer: usize, x: Ref, a: &Attention) -> Result<Ref> {
    let width = n.columns(x);
    let counts = [a.heads, a.kv_heads, a.kv_heads].map(|heads| heads * a.head);
    let fused = name(layer, "attn_qkv");
    let mut first = 0;
    let [q, k, v] = [("attn_q", counts[0]), ("attn_k", counts[1]), ("attn_v", counts[2])].map(|(part, rows)| {
        let start = first;
        first += rows;
        if n.has(&format!("{fused}.weight")) {
            linear_rows(n, x, &fused, counts.iter().sum(), start as u32..first as u32)
        } else {
            linear(n, x, &name(layer, part), rows)
        }
    });
    let attended = over_cache(n, layer, [q?, k?, v?], a)?;
    linear(n, attended, &name(layer, "attn_output"), width)
}

/// The same with a gate for each element of the result, of which `attn_q` has the rows: of each head the query's, then the
/// gate's.
pub(in crate::front) fn gated_attention(n: &mut Network<'_>, layer: usize, x: Ref, a: &Attention) -> Result<Ref> {
    let (width, head) = (n.columns(x), a.head);
    let both = linear(n, x, &name(layer, "attn_q"), 2 * a.heads * head)?;
    let [q, gate] = [0, head].map(|first| n.add(Op::Slice { first, count: head, every: 2 * head }, &[both]));
    let [k, v] = ["attn_k", "attn_v"].map(|part| linear(n, x, &name(layer, part), a.kv_heads * head));
    let attended = over_cache(n, layer, [q?, k?, v?], a)?;
    let gated = gated(n, gate?, attended, Function::Sigmoid)?;
    linear(n, gated, &name(layer, "attn_output"), width)
}

/// What queries find, \[T, heads * head\], after keys and values, rows as their products give them, are appended.
fn over_cache(n: &mut Network<'_>, layer: usize, [q, k, v]: [Ref; 3], a: &Attention) -> Result<Ref> {
    let mut q = heads(n, q, &name(layer, "attn_q_norm"), (a.heads, a.head), a)?;
    let k = heads(n, k, &name(layer, "attn_k_norm"), (a.kv_heads, a.head), a)?;
    let v = split(n, v, (a.kv_heads, a.head))?;
    if let Some(scale) = a.query_scale {
        q = n.add(Op::Mul, &[q, scale])?;
    }
    let (k, v) = (n.append(format!("k.{layer}"), k, a.window)?, n.append(format!("v.{layer}"), v, a.window)?);
    attend(n, layer, (q, k, v), a)
}

/// The values that queries find in a KV cache: \[T, heads * head\].
pub(in crate::front) fn attend(
    n: &mut Network<'_>,
    layer: usize,
    (q, k, v): (Ref, Ref, Ref),
    a: &Attention,
) -> Result<Ref> {
    let sinks = if a.sinks { Some(n.vector(&name(layer, "attn_sinks.weight"), a.heads)?) } else { None };
    let operands: Vec<Ref> = [q, k, v, n.position].into_iter().chain(sinks).collect();
    n.add(Op::Attention { scale: a.scale, window: a.window, cap: a.cap }, &operands)
}

/// \[T, heads * head\] as heads.
pub(in crate::front) fn split(n: &mut Network<'_>, y: Ref, (heads, head): (usize, usize)) -> Result<Ref> {
    n.add(Op::Reshape(vec![n.shape.tokens, heads, head]), &[y])
}

/// Queries or keys as heads, normalised and rotated.
pub(in crate::front) fn heads(
    n: &mut Network<'_>,
    y: Ref,
    weights: &str,
    of: (usize, usize),
    a: &Attention,
) -> Result<Ref> {
    let y = match a.norm {
        HeadNorm::All(norm) => {
            let y = super::norm(n, y, weights, norm)?;
            split(n, y, of)?
        }
        HeadNorm::Each(norm) => {
            let y = split(n, y, of)?;
            super::norm(n, y, weights, norm)?
        }
        HeadNorm::None => split(n, y, of)?,
    };
    match a.rope {
        Some(Rope { style, angles }) => n.add(Op::Rope { style }, &[y, angles]),
        None => Ok(y),
    }
}
