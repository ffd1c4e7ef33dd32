//! Qwen's hybrids: most layers are gated delta nets; every fourth, or those that the file names, attends to all positions,
//! with a gate on what it gives.

use super::{
    Attention, Block, DeltaNet, Dims, HeadNorm, Logits, Norm, Rope, delta_net, embedding, gated_attention, logits,
};
use crate::Result;
use crate::front::Network;
use crate::graph::{F32, HeadMap, Ref, RopeStyle};

/// Adds a whole model with these feed-forward networks, which are given the number of the layer and its input.
pub(in crate::front) fn hybrid(
    n: &mut Network<'_>,
    heads: HeadMap,
    ffn: impl Fn(&mut Network<'_>, usize, Ref) -> Result<Ref>,
) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let net = DeltaNet::read(n, heads)?;
    let mut recurrent = n.keys.pattern("full_attention_interval", d.layers, 4)?;
    if let Some(flags) = n.keys.opt_counts("attention.recurrent_layers", d.layers, 0, 1)? {
        recurrent = flags.into_iter().map(|flag| flag == 1).collect();
    }
    // Of text, the positions of all sections are the same.
    n.keys.ignore("rope.dimension_sections");
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    let mut x = embedding(n, d.width, F32(1.0))?;
    for (layer, &recurrent) in recurrent.iter().enumerate() {
        let a = Attention { norm: HeadNorm::Each(norm), rope, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = Block::renamed(norm).layer(
            n,
            layer,
            x,
            |n, x| if recurrent { delta_net(n, layer, x, &net) } else { gated_attention(n, layer, x, &a) },
            |n, x| ffn(n, layer, x),
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
