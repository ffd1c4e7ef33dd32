//! Qwen 3, dense: an RMS norm on each head of queries and keys; rotary pairs are the halves of a head; the head size is
//! independent of the model width.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Block, Dims, HeadNorm, Logits, Norm, Rope, embedding, logits};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Halves, d.head)?);
    let x = Block::pre_norm(norm).dense(n, &d, x, Function::Silu, |_, plain| Attention {
        norm: HeadNorm::Each(norm),
        rope,
        ..plain
    })?;
    logits(n, x, Logits::plain(norm))
}
