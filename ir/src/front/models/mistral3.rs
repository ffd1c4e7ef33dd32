//! Mistral Small and Ministral 3, Devstral 2: Llama's layers with YaRN, whose figures the file gives; queries grow with the
//! position.

use crate::Result;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, Scaling, embedding, logits};
use crate::front::{Network, most};
use crate::graph::{F32, Function, Op, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let x = embedding(n, d.width, F32(1.0))?;
    let (dim, base) = (Rope::dim(n, d.head)?, Rope::base(n, "rope.freq_base", 10_000.0)?);
    let scaling = Scaling::read(n, dim, base, true)?;
    let rope = Some(Rope::new(n, RopeStyle::Adjacent, (dim, base), scaling)?);
    let query_scale = match n.keys.opt_factor("attention.temperature_scale")? {
        Some(slope) => {
            let length = n.keys.count("rope.scaling.original_context_length", 1, most::CONTEXT)?;
            Some(n.add(Op::PositionScale { tokens: n.shape.tokens, length, slope }, &[n.position])?)
        }
        None => None,
    };
    let x =
        Block::pre_norm(norm).dense(n, &d, x, Function::Silu, |_, plain| Attention { rope, query_scale, ..plain })?;
    logits(n, x, Logits::plain(norm))
}
