//! Granite 3 and 4, dense: Llama's layers with scales of embeddings, scores, residuals and logits.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, embedding, logits};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let one = F32(1.0);
    let embedding_scale = n.keys.opt_factor("embedding_scale")?.unwrap_or(one);
    let residual_scale = n.keys.opt_factor("residual_scale")?.unwrap_or(one);
    let logit_scale = n.keys.opt_factor("logit_scale")?.unwrap_or(one);
    let score_scale = n.keys.opt_factor("attention.scale")?;
    let x = embedding(n, d.width, embedding_scale)?;
    let turns = n.keys.opt_bool("rope.scaling.finetuned")?.unwrap_or(true);
    let rope = Rope::read(n, RopeStyle::Adjacent, d.head)?;
    let x = Block { scale: residual_scale, ..Block::pre_norm(norm) }.dense(n, &d, x, Function::Silu, |_, plain| {
        Attention { rope: turns.then_some(rope), scale: score_scale.unwrap_or(plain.scale), ..plain }
    })?;
    logits(n, x, Logits { scale: F32(1.0 / logit_scale.0), ..Logits::plain(norm) })
}
