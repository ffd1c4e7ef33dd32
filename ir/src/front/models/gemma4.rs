//! Gemma 4: Gemma 3's layers, of which those that see all positions have heads of another size, rotated in part, and may take
//! their values from the key matrix. Values are normalised, scores are not scaled. The last layers may use the KV caches of
//! earlier ones, and each layer may have an embedding of the tokens of its own, and a mixture of experts beside its network.

use crate::Result;
use crate::front::parts::{
    Attention, Block, Dims, Gate, HeadNorm, Logits, Moe, Norm, Rope, Scaling, attend, embedding, expert_width, ffn,
    gated, heads, linear, logits, map, moe_by, name, norm as normed, residual, rms_epsilon, split, widths,
};
use crate::front::{Network, most};
use crate::graph::{F32, Function, Op, Ref, RopeStyle};

/// Figures of the embeddings of each layer.
const LAYER_INPUT: &str = "embedding_length_per_layer_input";

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let local = n.keys.pattern("attention.sliding_window_pattern", d.layers, 6)?;
    let window = n.keys.count("attention.sliding_window", 1, most::CONTEXT)?;
    let local_head = n.keys.opt_count("attention.key_length_swa", 4, most::HEAD)?.unwrap_or(d.head);
    n.keys.ignore("attention.value_length_swa");
    let shared = n.keys.opt_count("attention.shared_kv_layers", 0, d.layers - 1)?.unwrap_or(0);
    let own = d.layers - shared;
    let inputs = n.keys.opt_count(LAYER_INPUT, 0, most::WIDTH)?.filter(|&width| width > 0);

    let mut x = embedding(n, d.width, F32((d.width as f64).sqrt() as f32))?;
    let layer_inputs = match inputs {
        Some(width) => Some((width, layer_inputs(n, x, d.layers, width, norm)?)),
        None => None,
    };
    let (near_base, far_base) =
        (Rope::base(n, "rope.freq_base_swa", 10_000.0)?, Rope::base(n, "rope.freq_base", 10_000.0)?);
    let near_dim = n.keys.opt_count("rope.dimension_count_swa", 2, local_head)?.unwrap_or(local_head);
    let near = Rope::with(n, RopeStyle::Halves, (near_dim, near_base), Scaling::none(), None)?;
    let far_dim = Rope::dim(n, d.head)?;
    let far = Rope::new(n, RopeStyle::Halves, (far_dim, far_base), Scaling::none())?;
    let mut caches: Vec<(Ref, Ref)> = Vec::with_capacity(own);
    for layer in 0..d.layers {
        let head = if local[layer] { local_head } else { d.head };
        let a = Attention {
            norm: HeadNorm::Each(norm),
            rope: Some(if local[layer] { near } else { far }),
            window: local[layer].then_some(window),
            scale: F32(1.0),
            ..Attention::new(d.heads, d.kv_heads[layer], head)
        };
        // The last layer of its kind with a cache.
        let cache = (layer >= own).then(|| caches[if local[layer] { own - 2 } else { own - 1 }]);
        let mut used = cache;
        let mixed = n.has(&name(layer, "ffn_gate_inp.weight"));
        let block = Block::sandwich(norm);
        // Its norms are its own.
        let block = if mixed { Block { before: [block.before[0], None], ..block } } else { block };
        x = block.layer(
            n,
            layer,
            x,
            |n, x| self_attention(n, layer, x, &a, &mut used),
            |n, x| match mixed {
                true => dense_and_mixed(n, layer, x, hidden[layer], norm),
                false => ffn(n, layer, x, hidden[layer], Function::Gelu),
            },
        )?;
        caches.extend(used.filter(|_| cache.is_none()));
        if let Some((width, inputs)) = layer_inputs {
            let input = n.add(Op::Slice { first: layer * width, count: width, every: d.layers * width }, &[inputs])?;
            x = add_input(n, layer, x, input, norm)?;
        }
        if let Some(scale) = n.opt_vector(&name(layer, "layer_output_scale.weight"), 1)? {
            x = n.add(Op::Mul, &[x, scale])?;
        }
    }
    let cap = n.keys.opt_factor("final_logit_softcapping")?;
    logits(n, x, Logits { cap, ..Logits::plain(norm) })
}

/// Attention over the layer's own KV cache, which it then gives, or over another's.
fn self_attention(
    n: &mut Network<'_>,
    layer: usize,
    x: Ref,
    a: &Attention,
    cache: &mut Option<(Ref, Ref)>,
) -> Result<Ref> {
    let width = n.columns(x);
    let q = linear(n, x, &name(layer, "attn_q"), a.heads * a.head)?;
    let q = heads(n, q, &name(layer, "attn_q_norm"), (a.heads, a.head), a)?;
    let (k, v) = match *cache {
        Some(cache) => {
            for part in ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"] {
                n.skip(&name(layer, part));
            }
            cache
        }
        None => append(n, layer, x, a)?,
    };
    *cache = Some((k, v));
    let attended = attend(n, layer, (q, k, v), a)?;
    linear(n, attended, &name(layer, "attn_output"), width)
}

/// Appends keys and values; without a matrix of their own, values are what the key matrix gives.
fn append(n: &mut Network<'_>, layer: usize, x: Ref, a: &Attention) -> Result<(Ref, Ref)> {
    let of = (a.kv_heads, a.head);
    let rows = a.kv_heads * a.head;
    let projected = linear(n, x, &name(layer, "attn_k"), rows)?;
    let k = heads(n, projected, &name(layer, "attn_k_norm"), of, a)?;
    let values = name(layer, "attn_v");
    let v = if n.has(&format!("{values}.weight")) { linear(n, x, &values, rows)? } else { projected };
    let v = split(n, v, of)?;
    let v = scaled(n, v)?;
    Ok((n.append(format!("k.{layer}"), k, a.window)?, n.append(format!("v.{layer}"), v, a.window)?))
}

/// A dense network and a mixture of experts beside each other, each with norms around it.
fn dense_and_mixed(n: &mut Network<'_>, layer: usize, x: Ref, hidden: usize, norm: Norm) -> Result<Ref> {
    let dense = normed(n, x, &name(layer, "ffn_norm"), norm)?;
    let dense = ffn(n, layer, dense, hidden, Function::Gelu)?;
    let dense = normed(n, dense, &name(layer, "post_ffw_norm_1"), norm)?;
    let width = n.columns(x);
    let routed = scaled(n, x)?;
    let routed = map(n, routed, Function::Scale(F32((1.0 / (width as f64).sqrt()) as f32)))?;
    let weights = n.vector(&name(layer, "ffn_gate_inp.scale"), width)?;
    let routed = n.add(Op::Mul, &[routed, weights])?;
    let mixture = Moe { gate: Gate::Times(Function::Gelu), ..Moe::read(n, expert_width(n)?)? };
    let mixed = normed(n, x, &name(layer, "pre_ffw_norm_2"), norm)?;
    let mixed = moe_by(n, layer, routed, mixed, &mixture)?;
    let mixed = normed(n, mixed, &name(layer, "post_ffw_norm_2"), norm)?;
    n.add(Op::Add, &[mixed, dense])
}

/// The RMS norm of the last dimension without weights.
fn scaled(n: &mut Network<'_>, x: Ref) -> Result<Ref> {
    let eps = rms_epsilon(n.keys)?;
    n.add(Op::RmsNorm { eps }, &[x])
}

/// What all layers get of the tokens besides, \[T, layers * width\]: of the embedded tokens, and of a table of its own.
fn layer_inputs(n: &mut Network<'_>, x: Ref, layers: usize, width: usize, norm: Norm) -> Result<Ref> {
    let (all, columns) = (layers * width, n.columns(x));
    let projected = linear(n, x, "per_layer_model_proj", all)?;
    let projected = map(n, projected, Function::Scale(F32((1.0 / (columns as f64).sqrt()) as f32)))?;
    let projected = split(n, projected, (layers, width))?;
    let projected = normed(n, projected, "per_layer_proj_norm", norm)?;
    let projected = n.add(Op::Reshape(vec![n.shape.tokens, all]), &[projected])?;
    let table = "per_layer_token_embd.weight";
    let table = n.matrix(table, n.rows(table), all)?;
    let embedded = n.add(Op::Embed, &[table, n.tokens])?;
    let embedded = map(n, embedded, Function::Scale(F32((width as f64).sqrt() as f32)))?;
    let sum = residual(n, projected, embedded)?;
    map(n, sum, Function::Scale(F32(std::f32::consts::FRAC_1_SQRT_2)))
}

/// x plus the norm of what the layer's input, gated by x, becomes.
fn add_input(n: &mut Network<'_>, layer: usize, x: Ref, input: Ref, norm: Norm) -> Result<Ref> {
    let width = n.columns(x);
    let gate = linear(n, x, &name(layer, "inp_gate"), n.columns(input))?;
    let gated = gated(n, gate, input, Function::Gelu)?;
    let y = linear(n, gated, &name(layer, "proj"), width)?;
    let y = normed(n, y, &name(layer, "post_norm"), norm)?;
    residual(n, x, y)
}
