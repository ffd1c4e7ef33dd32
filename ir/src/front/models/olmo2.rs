//! OLMo 2 and 3: norms after each part only, and on queries and keys over all heads together. In OLMo 3 three layers of four
//! see a window of positions and have rotary frequencies that are not scaled.

use crate::Result;
use crate::front::parts::{Attention, Block, Dims, HeadNorm, Logits, Norm, Rope, Scaling, embedding, logits};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let window = n.keys.opt_count("attention.sliding_window", 1, most::CONTEXT)?;
    let local = match window {
        Some(_) => n.keys.pattern("attention.sliding_window_pattern", d.layers, 4)?,
        None => vec![false; d.layers],
    };
    let x = embedding(n, d.width, F32(1.0))?;
    let (dim, base) = (Rope::dim(n, d.head)?, Rope::base(n, "rope.freq_base", 10_000.0)?);
    let scaling = Scaling::read(n, dim, base, false)?;
    let far = Rope::new(n, RopeStyle::Halves, (dim, base), scaling)?;
    let near = Rope::new(n, RopeStyle::Halves, (dim, base), Scaling::none())?;
    let x = Block::post_norm(norm).dense(n, &d, x, Function::Silu, |layer, plain| Attention {
        norm: HeadNorm::All(norm),
        rope: Some(if local[layer] { near } else { far }),
        window: window.filter(|_| local[layer]),
        ..plain
    })?;
    logits(n, x, Logits::plain(norm))
}
