//! Gemma 3: norms before and after each part, an RMS norm on each head of queries and keys, GELU. Most layers see a window
//! of positions and have rotary frequencies of their own; the others see all.

use crate::Result;
use crate::front::parts::{Attention, Block, Dims, HeadNorm, Logits, Norm, Rope, Scaling, embedding, logits};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

/// Layers of the model whose scores are scaled by the width of its heads in the residual stream.
const LAYERS_27B: usize = 62;

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let local = n.keys.pattern("attention.sliding_window_pattern", d.layers, 6)?;
    let window = n.keys.count("attention.sliding_window", 1, most::CONTEXT)?;
    let per_head = if d.layers == LAYERS_27B { d.width / d.heads } else { d.head };
    let x = embedding(n, d.width, F32((d.width as f64).sqrt() as f32))?;
    let dim = Rope::dim(n, d.head)?;
    let base = Rope::base(n, "rope.freq_base_swa", 10_000.0)?;
    let near = Rope::with(n, RopeStyle::Halves, (dim, base), Scaling::none(), None)?;
    let far = Rope::read(n, RopeStyle::Halves, d.head)?;
    let x = Block::sandwich(norm).dense(n, &d, x, Function::Gelu, |layer, plain| Attention {
        norm: HeadNorm::Each(norm),
        rope: Some(if local[layer] { near } else { far }),
        window: local[layer].then_some(window),
        scale: F32((1.0 / (per_head as f64).sqrt()) as f32),
        ..plain
    })?;
    let cap = n.keys.opt_factor("final_logit_softcapping")?;
    logits(n, x, Logits { cap, ..Logits::plain(norm) })
}
