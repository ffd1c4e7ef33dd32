//! Gemma 2: norms before and after each part, GELU, soft caps on scores and logits; every other layer sees a window of
//! positions.

use crate::Result;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, embedding, logits};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

/// Layers of the model whose scores are scaled by the width of its heads in the residual stream.
const LAYERS_27B: usize = 46;

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let local = n.keys.pattern("attention.sliding_window_pattern", d.layers, 2)?;
    let window = n.keys.opt_count("attention.sliding_window", 1, most::CONTEXT)?.unwrap_or(4096);
    let cap = n.keys.opt_factor("attn_logit_softcapping")?.or(Some(F32(50.0)));
    let per_head = if d.layers == LAYERS_27B { d.width / d.heads } else { d.head };
    let x = embedding(n, d.width, F32((d.width as f64).sqrt() as f32))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    let x = Block::sandwich(norm).dense(n, &d, x, Function::Gelu, |layer, plain| Attention {
        rope,
        window: local[layer].then_some(window),
        cap,
        scale: F32((1.0 / (per_head as f64).sqrt()) as f32),
        ..plain
    })?;
    let cap = n.keys.opt_factor("final_logit_softcapping")?.or(Some(F32(30.0)));
    logits(n, x, Logits { cap, ..Logits::plain(norm) })
}
