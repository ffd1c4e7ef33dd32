//! SmolLM 3: Llama's layers, of which every fourth is not rotated.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, Logits, Norm, Rope, embedding, logits};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let x = embedding(n, d.width, F32(1.0))?;
    let rope = Rope::read(n, RopeStyle::Adjacent, d.head)?;
    let x = Block::pre_norm(norm).dense(n, &d, x, Function::Silu, |layer, plain| Attention {
        rope: (!(layer + 1).is_multiple_of(4)).then_some(rope),
        ..plain
    })?;
    logits(n, x, Logits::plain(norm))
}
