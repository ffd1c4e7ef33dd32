//! Qwen 3 with mixtures of experts, weighted by a softmax over all and normalised.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{
    Attention, Block, Dims, HeadNorm, Logits, Moe, Norm, Rope, attention, embedding, expert_width, logits, moe,
};
use crate::graph::{F32, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let mixture = Moe::read(n, expert_width(n)?)?;
    n.keys.ignore("feed_forward_length");
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    for layer in 0..d.layers {
        let a = Attention { norm: HeadNorm::Each(norm), rope, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = Block::pre_norm(norm).layer(
            n,
            layer,
            x,
            |n, x| attention(n, layer, x, &a),
            |n, x| moe(n, layer, x, &mixture),
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
