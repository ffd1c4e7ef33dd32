//! GLM-4: norms before and after each part; gate and up in one matrix; half of each head is rotated, in adjacent pairs.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, embedding, logits};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Adjacent, d.head)?);
    let x = Block::sandwich(norm).dense(n, &d, x, Function::Silu, |_, plain| Attention { rope, ..plain })?;
    logits(n, x, Logits::plain(norm))
}
