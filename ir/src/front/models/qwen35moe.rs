//! Qwen 3.5 with experts, and one that all tokens use, which has a gate of its own.

use crate::Result;
use crate::front::parts::{Moe, expert_width, hybrid, moe};
use crate::front::{Network, most};
use crate::graph::HeadMap;

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    of(n, HeadMap::Tiled)
}

/// A model whose value heads belong to those of queries and keys so.
pub(super) fn of(n: &mut Network<'_>, heads: HeadMap) -> Result<()> {
    let mixture = Moe::read(n, expert_width(n)?)?;
    let shared = n.keys.count("expert_shared_feed_forward_length", 1, most::FFN)?;
    let mixture = Moe { shared, shared_gate: true, ..mixture };
    hybrid(n, heads, |n, layer, x| moe(n, layer, x, &mixture))
}
