//! Phi 3 and 4: queries, keys and values in one matrix, gate and up in another; rotary frequencies have factors for contexts
//! up to the first one and others for longer ones. The window of the file is not applied, as in llama.cpp.

use crate::Result;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, Scaling, embedding, logits};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    n.keys.ignore("attention.sliding_window");
    let x = embedding(n, d.width, F32(1.0))?;
    let (dim, base) = (Rope::dim(n, d.head)?, Rope::base(n, "rope.freq_base", 10_000.0)?);
    let first = n.keys.opt_count("rope.scaling.original_context_length", 1, most::CONTEXT)?;
    let short = n.opt_vector("rope_factors_short.weight", dim / 2)?;
    let long = n.opt_vector("rope_factors_long.weight", dim / 2)?;
    let factors = if first.is_some_and(|first| n.shape.context > first) { long } else { short };
    let scaling = Scaling::read(n, dim, base, false)?;
    let rope = Some(Rope::with(n, RopeStyle::Halves, (dim, base), scaling, factors)?);
    let x = Block::pre_norm(norm).dense(n, &d, x, Function::Silu, |_, plain| Attention { rope, ..plain })?;
    logits(n, x, Logits::plain(norm))
}
