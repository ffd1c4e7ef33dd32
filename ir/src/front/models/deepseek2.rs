//! DeepSeek V2 and V3, GLM-4.7 Flash, Kimi K2: latent attention; mixtures of experts, chosen from groups of them where the file
//! says so, and an expert for all tokens; the first layers are dense. Adjacent elements are rotary pairs.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{
    Block, Dims, Latent, Logits, Moe, Norm, Rope, Scaling, embedding, expert_width, ffn, latent_attention, logits, moe,
    widths,
};
use crate::graph::{F32, Function, Gating, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let ((layers, width), norm) = (Dims::outer(n)?, Norm::rms(n.keys)?);
    let l = Latent::read(n, norm)?;
    let hidden = widths(n, layers)?;
    let mixture = Moe::read(n, expert_width(n)?)?.with_keys(n, Gating::Softmax)?;
    let dense = n.keys.opt_count("leading_dense_block_count", 0, layers)?.unwrap_or(0);
    let mut x = embedding(n, width, F32(1.0))?;
    let base = Rope::base(n, "rope.freq_base", 10_000.0)?;
    let (scaling, grown) = Scaling::of_scores(n, l.rotated, base)?;
    let rope = Rope::new(n, RopeStyle::Adjacent, (l.rotated, base), scaling)?;
    let scale = F32((grown / (l.key() as f64).sqrt()) as f32);
    for (layer, &hidden) in hidden.iter().enumerate() {
        x = Block::pre_norm(norm).layer(
            n,
            layer,
            x,
            |n, x| latent_attention(n, layer, x, &l, (rope, scale)),
            |n, x| match layer < dense {
                true => ffn(n, layer, x, hidden, Function::Silu),
                false => moe(n, layer, x, &mixture),
            },
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
