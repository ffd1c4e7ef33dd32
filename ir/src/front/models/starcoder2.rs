//! StarCoder 2: layer norms with biases, biases everywhere, GELU without a gate; rotary pairs are the halves of a head.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, embedding, logits};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::layer(n.keys)?);
    let x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    let x = Block::pre_norm(norm).dense(n, &d, x, Function::Gelu, |_, plain| Attention { rope, ..plain })?;
    logits(n, x, Logits::plain(norm))
}
