//! Command R7B and Command A: Command R's layers, of which three of four see a window of positions, and only those are
//! rotated.

use crate::Result;
use crate::front::parts::{
    Attention, Dims, Logits, Norm, Rope, attention, embedding, ffn, logits, name, norm as normed, residual, widths,
};
use crate::front::{Network, most};
use crate::graph::{F32, Function, Ref, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::layer(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let window = n.keys.count("attention.sliding_window", 1, most::CONTEXT)?;
    let local = n.keys.pattern("attention.sliding_window_pattern", d.layers, 4)?;
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Rope::read(n, RopeStyle::Adjacent, d.head)?;
    for layer in 0..d.layers {
        let a = Attention {
            rope: local[layer].then_some(rope),
            window: local[layer].then_some(window),
            ..Attention::new(d.heads, d.kv_heads[layer], d.head)
        };
        x = parallel(n, layer, x, norm, &a, hidden[layer])?;
    }
    let scale = n.keys.opt_factor("logit_scale")?.unwrap_or(F32(1.0));
    logits(n, x, Logits { scale, ..Logits::plain(norm) })
}

/// x + attention(h) + ffn(h), h the norm of x.
pub(super) fn parallel(
    n: &mut Network<'_>,
    layer: usize,
    x: Ref,
    norm: Norm,
    a: &Attention,
    hidden: usize,
) -> Result<Ref> {
    let h = normed(n, x, &name(layer, "attn_norm"), norm)?;
    let attended = attention(n, layer, h, a)?;
    let x = residual(n, x, attended)?;
    let fed = ffn(n, layer, h, hidden, Function::Silu)?;
    residual(n, x, fed)
}
