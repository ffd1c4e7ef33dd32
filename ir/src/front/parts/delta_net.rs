//! Gated delta nets: linear attention over a recurrent state, after a short convolution over time.

use super::attention::split;
use super::ffn::gated;
use super::linear::{ensure, linear, map, norm};
use super::{Norm, name, rms_epsilon};
use crate::Result;
use crate::front::{Network, most};
use crate::graph::{F32, Function, HeadMap, Op, Ref};

/// Most tokens that a convolution sees.
const MOST_TAPS: usize = 64;

/// The gated delta net of a layer.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct DeltaNet {
    /// Elements of a head of queries, keys and values.
    pub head: usize,
    /// Heads of queries and of keys.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Tokens that the convolution sees, the current one among them.
    pub taps: usize,
    /// Which of the former belong to which of the latter.
    pub heads: HeadMap,
    /// Of norms.
    pub eps: F32,
}

impl DeltaNet {
    /// The figures of the file's `ssm` keys.
    pub fn read(n: &Network<'_>, heads: HeadMap) -> Result<DeltaNet> {
        let keys = n.keys;
        let head = keys.count("ssm.state_size", 1, most::HEAD)?;
        let key_heads = keys.count("ssm.group_count", 1, most::HEADS)?;
        let value_heads = keys.count("ssm.time_step_rank", 1, most::HEADS)?;
        let inner = keys.count("ssm.inner_size", 1, most::HEAD * most::HEADS)?;
        let taps = keys.count("ssm.conv_kernel", 2, MOST_TAPS)?;
        ensure(inner == head * value_heads && value_heads.is_multiple_of(key_heads), || {
            format!(
                "{key_heads} key heads, {value_heads} value heads of {head} and {inner} elements do not go together"
            )
        })?;
        Ok(DeltaNet { head, key_heads, value_heads, taps, heads, eps: rms_epsilon(keys)? })
    }
}

/// The delta net of layer `layer` over `x`: \[T, d\] -> \[T, d\]. Decay and strength of each value head are products of
/// `ssm_alpha` and `ssm_beta` or, in turn for the value heads of each key head, strength first, of `ssm_ba`.
pub(in crate::front) fn delta_net(n: &mut Network<'_>, layer: usize, x: Ref, d: &DeltaNet) -> Result<Ref> {
    let &DeltaNet { head, key_heads, value_heads, taps, .. } = d;
    let (keys, values) = (key_heads * head, value_heads * head);
    let channels = 2 * keys + values;
    let mix = linear(n, x, &name(layer, "attn_qkv"), channels)?;
    let kernel = n.matrix(&name(layer, "ssm_conv1d.weight"), channels, taps)?;
    let mix = n.recur(Op::ShortConv, format!("conv.{layer}"), &[taps - 1, channels], &[mix, kernel])?;
    let part = |n: &mut Network<'_>, first: usize, heads: usize| {
        let y = n.add(Op::Slice { first, count: heads * head, every: channels }, &[mix])?;
        let y = split(n, y, (heads, head))?;
        map(n, y, Function::Silu)
    };
    let (q, k) = (part(n, 0, key_heads)?, part(n, keys, key_heads)?);
    let v = part(n, 2 * keys, value_heads)?;
    let root = (head as f64).sqrt();
    let (q, k) = (of_length(n, q, d, 1.0 / root)?, of_length(n, k, d, 1.0)?);
    let (alpha, beta) = gates(n, layer, x, d)?;
    let bias = n.vector(&name(layer, "ssm_dt.bias"), value_heads)?;
    let decay = n.add(Op::Add, &[alpha, bias])?;
    let decay = map(n, decay, Function::Softplus)?;
    let rate = n.vector(&name(layer, "ssm_a"), value_heads)?;
    let decay = n.add(Op::Mul, &[decay, rate])?;
    let beta = map(n, beta, Function::Sigmoid)?;
    let (rule, state) = (Op::DeltaRule { heads: d.heads }, format!("delta.{layer}"));
    let o = n.recur(rule, state, &[value_heads, head, head], &[q, k, v, decay, beta])?;
    let o = norm(n, o, &name(layer, "ssm_norm"), Norm::Rms(d.eps))?;
    let o = n.add(Op::Reshape(vec![n.shape.tokens, values]), &[o])?;
    let gate = linear(n, x, &name(layer, "attn_gate"), values)?;
    let o = gated(n, gate, o, Function::Silu)?;
    let width = n.columns(x);
    linear(n, o, &name(layer, "ssm_out"), width)
}

/// Heads divided by sqrt(sum of squares + eps), times `by`.
fn of_length(n: &mut Network<'_>, y: Ref, d: &DeltaNet, by: f64) -> Result<Ref> {
    let size = d.head as f64;
    // The mean of squares takes the place of their sum.
    let eps = F32((f64::from(d.eps.0) / size) as f32);
    let y = n.add(Op::RmsNorm { eps }, &[y])?;
    map(n, y, Function::Scale(F32((by / size.sqrt()) as f32)))
}

/// What becomes the decay and the strength of each value head, \[T, value heads\].
fn gates(n: &mut Network<'_>, layer: usize, x: Ref, d: &DeltaNet) -> Result<(Ref, Ref)> {
    let fused = name(layer, "ssm_ba");
    if !n.has(&format!("{fused}.weight")) {
        let alpha = linear(n, x, &name(layer, "ssm_alpha"), d.value_heads)?;
        return Ok((alpha, linear(n, x, &name(layer, "ssm_beta"), d.value_heads)?));
    }
    let both = linear(n, x, &fused, 2 * d.value_heads)?;
    let count = d.value_heads / d.key_heads;
    let [beta, alpha] = [0, count].map(|first| n.add(Op::Slice { first, count, every: 2 * count }, &[both]));
    Ok((alpha?, beta?))
}
