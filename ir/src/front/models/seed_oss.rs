//! Seed-OSS: biases on queries, keys and values; rotary pairs are the halves of a head; the norm before the feed-forward
//! network is named after attention.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, embedding, logits};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    let x = Block::renamed(norm).dense(n, &d, x, Function::Silu, |_, plain| Attention { rope, ..plain })?;
    logits(n, x, Logits::plain(norm))
}
