//! OLMo 2 and 3: norms after each part only, and on queries and keys over all heads together. In OLMo 3 three layers of four
//! see a window of positions and have rotary frequencies that are not scaled.

use crate::Result;
use crate::front::parts::{
    Attention, Block, Dims, HeadNorm, Logits, Norm, Rope, Scaling, attention, embedding, ffn, logits, widths,
};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let window = n.keys.opt_count("attention.sliding_window", 1, most::CONTEXT)?;
    let local = match window {
        Some(_) => n.keys.pattern("attention.sliding_window_pattern", d.layers, 4)?,
        None => vec![false; d.layers],
    };
    let mut x = embedding(n, d.width, F32(1.0))?;
    let (dim, base) = (Rope::dim(n, d.head)?, Rope::base(n, "rope.freq_base", 10_000.0)?);
    let scaling = Scaling::read(n, dim, base, false)?;
    let far = Rope::new(n, RopeStyle::Halves, (dim, base), scaling)?;
    let near = Rope::new(n, RopeStyle::Halves, (dim, base), Scaling::none())?;
    for layer in 0..d.layers {
        let a = Attention {
            norm: HeadNorm::All(norm),
            rope: Some(if local[layer] { near } else { far }),
            window: window.filter(|_| local[layer]),
            ..Attention::new(d.heads, d.kv_heads[layer], d.head)
        };
        x = Block::post_norm(norm).layer(
            n,
            layer,
            x,
            |n, x| attention(n, layer, x, &a),
            |n, x| ffn(n, layer, x, hidden[layer], Function::Silu),
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
