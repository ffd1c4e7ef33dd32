//! EXAONE 4: norms after each part, and on each head of queries and keys. In the 32B three layers of four see a window of
//! positions, and only those are rotated.

use crate::Result;
use crate::front::parts::{Attention, Block, Dims, HeadNorm, Logits, Norm, Rope, embedding, logits};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

/// Layers of the model that has windows.
const LAYERS_32B: usize = 64;

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let window = n.keys.opt_count("attention.sliding_window", 0, most::CONTEXT)?.filter(|&w| w > 0);
    let window = window.filter(|_| d.layers == LAYERS_32B);
    let local = n.keys.pattern("attention.sliding_window_pattern", d.layers, 4)?;
    let x = embedding(n, d.width, F32(1.0))?;
    let rope = Rope::read(n, RopeStyle::Halves, d.head)?;
    let x = Block::post_norm(norm).dense(n, &d, x, Function::Silu, |layer, plain| Attention {
        norm: HeadNorm::Each(norm),
        rope: (window.is_none() || local[layer]).then_some(rope),
        window: window.filter(|_| local[layer]),
        ..plain
    })?;
    logits(n, x, Logits::plain(norm))
}
