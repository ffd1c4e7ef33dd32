//! gpt-oss: mixtures of experts with biases and a clamped gate, weighted by a softmax over those that are chosen; attention with
//! sinks, in every other layer over a window; rotary pairs are the halves of a head.

use crate::Result;
use crate::front::parts::{
    Attention, Block, Dims, Gate, Logits, Moe, Norm, Rope, attention, embedding, expert_width, logits, moe,
};
use crate::front::{Network, most};
use crate::graph::{F32, Gating, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let mixture = Moe::read(n, expert_width(n)?)?;
    let mixture = Moe { gating: Gating::SoftmaxOfChosen, normalise: false, gate: Gate::Clamped, ..mixture };
    n.keys.ignore("feed_forward_length");
    let local = n.keys.pattern("attention.sliding_window_pattern", d.layers, 2)?;
    let window = n.keys.count("attention.sliding_window", 1, most::CONTEXT)?;
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    for (layer, &local) in local.iter().enumerate() {
        let window = local.then_some(window);
        let a = Attention { rope, window, sinks: true, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = Block::renamed(norm).layer(
            n,
            layer,
            x,
            |n, x| attention(n, layer, x, &a),
            |n, x| moe(n, layer, x, &mixture),
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
