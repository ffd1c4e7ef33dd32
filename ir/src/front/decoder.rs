//! The dense pre-norm decoder that most architectures are: RMS norms, grouped-query attention with rotary embedding, a
//! SiLU-gated feed-forward network, residuals. Architectures differ by their [`Traits`] and by which biases exist.

use super::{Builder, Keys, ModelConfig, Rope, Tensors};
use crate::graph::{F32, Op, Ref, RopeStyle};
use crate::{Error, Result};

/// What an architecture fixes and its metadata does not say.
pub(super) struct Traits {
    /// Where rotary pairs are.
    pub rope_style: RopeStyle,
    /// Whether `rope_freqs.weight` scales the frequencies, where it exists.
    pub rope_factors: bool,
    /// Whether each head of queries and keys is normalised.
    pub qk_norm: bool,
}

/// Bounds of metadata figures: beyond any known model, small enough for 64-bit products.
mod most {
    pub const LAYERS: usize = 1 << 10;
    pub const WIDTH: usize = 1 << 17;
    pub const HEADS: usize = 1 << 10;
    pub const HEAD: usize = 256;
    pub const FFN: usize = 1 << 20;
    pub const VOCAB: usize = 1 << 22;
    pub const CONTEXT: usize = 1 << 24;
    /// Query heads that share a KV head.
    pub const SHARE: usize = 16;
}

/// Head sizes are multiples of this.
const HEAD_MULTIPLE: usize = 8;

/// The factors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The embedding table.
const EMBEDDING: &str = "token_embd.weight";
/// The output matrix, where it is not the embedding table.
const OUTPUT: &str = "output.weight";

/// Tensors of a layer that mean what is not built.
const UNBUILT: &[(&str, &str, &str)] = &[
    (".attn_qkv.weight", "queries, keys and values in one matrix", "models with attn_q, attn_k and attn_v are"),
    (".ffn_gate.bias", "a bias of the feed-forward gate", "models without it are"),
    (".ffn_up.bias", "a bias of the feed-forward network's first matrix", "models without it are"),
];

/// Reads the figures of a dense decoder.
pub(super) fn config(keys: &Keys<'_>, tensors: &Tensors, traits: &Traits) -> Result<ModelConfig> {
    let context = keys.count("context_length", 1, most::CONTEXT)?;
    keys.refuse_unbuilt(context)?;
    for (part, feature, hint) in UNBUILT {
        if let Some((name, _)) =
            tensors.iter().find(|(name, _)| name.strip_prefix("blk.").is_some_and(|n| n.ends_with(part)))
        {
            return Err(Error::unsupported(format!("{feature} (tensor '{name}')"), *hint));
        }
    }
    let layers = keys.count("block_count", 1, most::LAYERS)?;
    let width = keys.count("embedding_length", 1, most::WIDTH)?;
    let heads = keys.count("attention.head_count", 1, most::HEADS)?;
    let kv_heads = keys.opt_count("attention.head_count_kv", 1, most::HEADS)?.unwrap_or(heads);
    let ffn = keys.count("feed_forward_length", 1, most::FFN)?;
    let head = head_size(keys, width, heads)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(Error::malformed(format!("{heads} query heads cannot share {kv_heads} KV heads evenly")));
    }
    if heads / kv_heads > most::SHARE {
        let what = "the number of query heads that share a KV head".into();
        return Err(Error::Limit { what, need: (heads / kv_heads) as u64, have: most::SHARE as u64 });
    }
    let dim = keys.opt_count("rope.dimension_count", 2, head)?.unwrap_or(head);
    if !dim.is_multiple_of(2) {
        return Err(Error::malformed(format!("{}.rope.dimension_count is {dim}, which is odd", keys.architecture)));
    }
    let theta = keys.opt_number("rope.freq_base", |x| x.is_finite() && x > 0.0)?.unwrap_or(F32(10000.0));
    let rms_eps =
        keys.opt_number("attention.layer_norm_rms_epsilon", |x| (0.0..1.0).contains(&x))?.ok_or_else(|| {
            Error::malformed(format!("{}.attention.layer_norm_rms_epsilon is missing", keys.architecture))
        })?;
    let table = tensors.get(EMBEDDING).ok_or_else(|| Error::malformed(format!("tensor '{EMBEDDING}' is missing")))?;
    let vocab = super::keys::bound("the vocabulary", table.rows() as u64, 1, most::VOCAB)?;
    let has = |name: &str| tensors.get(name).is_some();
    Ok(ModelConfig {
        architecture: keys.architecture.into(),
        layers,
        width,
        heads,
        kv_heads,
        head,
        ffn,
        vocab,
        context,
        rms_eps,
        rope: Rope { dim, theta, style: traits.rope_style, factors: traits.rope_factors && has(ROPE_FACTORS) },
        qkv_bias: has("blk.0.attn_q.bias"),
        qk_norm: traits.qk_norm,
        tied: !has(OUTPUT),
    })
}

/// `attention.key_length` where it is given, else width / heads.
fn head_size(keys: &Keys<'_>, width: usize, heads: usize) -> Result<usize> {
    let key = keys.opt_count("attention.key_length", 1, most::HEAD)?;
    let value = keys.opt_count("attention.value_length", 1, most::HEAD)?;
    let head = match key {
        Some(head) => head,
        None if width.is_multiple_of(heads) => {
            super::keys::bound("the head size", (width / heads) as u64, 1, most::HEAD)?
        }
        None => return Err(Error::malformed(format!("a width of {width} cannot be split into {heads} heads"))),
    };
    if value.is_some_and(|v| v != head) {
        let feature = format!("{}.attention.value_length other than the key length {head}", keys.architecture);
        return Err(Error::unsupported(feature, "keys and values of the same size are built"));
    }
    if !head.is_multiple_of(HEAD_MULTIPLE) {
        let hint = format!("head sizes are multiples of {HEAD_MULTIPLE} up to {}", most::HEAD);
        return Err(Error::unsupported(format!("a head size of {head}"), hint));
    }
    Ok(head)
}

/// Builds a dense decoder.
pub(super) fn build(c: &ModelConfig, b: &mut Builder<'_>) -> Result<()> {
    let tokens = b.shape.tokens;
    let table = b.matrix(EMBEDDING, c.vocab, c.width)?;
    let mut x = b.add(Op::Embed, &[table, b.tokens])?;
    let mut operands = vec![b.position];
    if c.rope.factors {
        operands.push(b.vector(ROPE_FACTORS, c.rope.dim / 2)?);
    }
    let angles = b.add(Op::RopeAngles { tokens, dim: c.rope.dim, theta: c.rope.theta }, &operands)?;
    let mut caches = Vec::with_capacity(c.layers);
    for layer in 0..c.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = norm(c, b, x, &name("attn_norm.weight"))?;
        let queries = heads(c, b, normed, &name("attn_q"), c.heads, Some(angles))?;
        let keys = heads(c, b, normed, &name("attn_k"), c.kv_heads, Some(angles))?;
        let values = heads(c, b, normed, &name("attn_v"), c.kv_heads, None)?;
        let mut append = |cache: &str, new: Ref| {
            let state = b.state(&format!("{cache}.{layer}"), c.kv_heads, c.head)?;
            b.add(Op::KvAppend, &[state, new, b.position])
        };
        let (k, v) = (append("k", keys)?, append("v", values)?);
        caches.push((k, v));
        let scale = F32((1.0 / (c.head as f64).sqrt()) as f32);
        let attended = b.add(Op::Attention { scale, window: None, cap: None }, &[queries, k, v, b.position])?;
        let projected = linear(b, attended, &name("attn_output"), c.width, c.heads * c.head)?;
        x = b.add(Op::Add, &[projected, x])?;

        let normed = norm(c, b, x, &name("ffn_norm.weight"))?;
        let gate = linear(b, normed, &name("ffn_gate"), c.ffn, c.width)?;
        let up = linear(b, normed, &name("ffn_up"), c.ffn, c.width)?;
        let gate = b.add(Op::Silu, &[gate])?;
        let hidden = b.add(Op::Mul, &[gate, up])?;
        let down = linear(b, hidden, &name("ffn_down"), c.width, c.ffn)?;
        x = b.add(Op::Add, &[down, x])?;
    }
    if !b.shape.all_logits {
        x = b.add(Op::LastToken, &[x])?;
    }
    let normed = norm(c, b, x, "output_norm.weight")?;
    let output = if c.tied { table } else { b.matrix(OUTPUT, c.vocab, c.width)? };
    let logits = b.add(Op::MatMul, &[output, normed])?;
    b.output("logits", logits)?;
    for (layer, (k, v)) in caches.into_iter().enumerate() {
        b.output(format!("k.{layer}"), k)?;
        b.output(format!("v.{layer}"), v)?;
    }
    Ok(())
}

fn norm(c: &ModelConfig, b: &mut Builder<'_>, x: Ref, weight: &str) -> Result<Ref> {
    let weight = b.vector(weight, c.width)?;
    b.add(Op::RmsNorm { eps: c.rms_eps }, &[x, weight])
}

/// x times `part`.weight transposed, plus `part`.bias where it exists.
fn linear(b: &mut Builder<'_>, x: Ref, part: &str, rows: usize, columns: usize) -> Result<Ref> {
    let weight = b.matrix(&format!("{part}.weight"), rows, columns)?;
    let y = b.add(Op::MatMul, &[weight, x])?;
    match b.opt_vector(&format!("{part}.bias"), rows)? {
        Some(bias) => b.add(Op::Add, &[y, bias]),
        None => Ok(y),
    }
}

/// Queries, keys or values \[T, heads, head\]; with `angles` normalised, where the model does that, and rotated.
fn heads(c: &ModelConfig, b: &mut Builder<'_>, x: Ref, part: &str, heads: usize, angles: Option<Ref>) -> Result<Ref> {
    let y = linear(b, x, part, heads * c.head, c.width)?;
    let y = b.add(Op::Reshape(vec![b.shape.tokens, heads, c.head]), &[y])?;
    let Some(angles) = angles else { return Ok(y) };
    let y = if c.qk_norm {
        let weight = b.vector(&format!("{part}_norm.weight"), c.head)?;
        b.add(Op::RmsNorm { eps: c.rms_eps }, &[y, weight])?
    } else {
        y
    };
    b.add(Op::Rope { style: c.rope.style }, &[y, angles])
}
