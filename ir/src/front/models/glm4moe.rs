//! GLM-4.5: mixtures of experts, chosen with a bias and weighted by sigmoids, and an expert for all tokens; the first layers are
//! dense. Half of each head is rotated, the halves of that being the pairs.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{
    Attention, Block, Dims, HeadNorm, Logits, Moe, Norm, Rope, attention, embedding, expert_width, ffn, logits, moe,
    name, widths,
};
use crate::graph::{F32, Function, Gating, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let mixture = Moe::read(n, expert_width(n)?)?.with_keys(n, Gating::Sigmoid)?;
    let dense = n.keys.opt_count("leading_dense_block_count", 0, d.layers)?.unwrap_or(0);
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    for (layer, &hidden) in hidden.iter().enumerate() {
        let normed = n.has(&format!("{}.weight", name(layer, "attn_q_norm")));
        let heads = if normed { HeadNorm::Each(norm) } else { HeadNorm::None };
        let a = Attention { norm: heads, rope, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = Block::renamed(norm).layer(
            n,
            layer,
            x,
            |n, x| attention(n, layer, x, &a),
            |n, x| match layer < dense {
                true => ffn(n, layer, x, hidden, Function::Silu),
                false => moe(n, layer, x, &mixture),
            },
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
