//! Qwen 3.5, dense: a hybrid of gated delta nets and gated attention with SwiGLU networks.

use crate::Result;
use crate::front::Network;
use crate::front::parts::{Dims, ffn, hybrid, widths};
use crate::graph::{Function, HeadMap};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let hidden = widths(n, Dims::read(n)?.layers)?;
    hybrid(n, HeadMap::Tiled, |n, layer, x| ffn(n, layer, x, hidden[layer], Function::Silu))
}
