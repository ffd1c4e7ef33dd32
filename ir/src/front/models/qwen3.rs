//! Qwen 3, dense: an RMS norm on each head of queries and keys; rotary pairs are the halves of a head; the head size is
//! independent of the model width.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, HeadNorm, Logits, Norm, Rope, attention, embedding, ffn, logits, widths};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    for (layer, &hidden) in hidden.iter().enumerate() {
        let a = Attention { norm: HeadNorm::Each(norm), rope, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = Block::pre_norm(norm).layer(
            n,
            layer,
            x,
            |n, x| attention(n, layer, x, &a),
            |n, x| ffn(n, layer, x, hidden, Function::Silu),
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
