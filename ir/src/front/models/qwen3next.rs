//! Qwen 3 Next: Qwen 3.5 with experts, but for the order of the heads of its delta nets.

use super::qwen35moe;
use crate::Result;
use crate::front::Network;
use crate::graph::HeadMap;

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    qwen35moe::of(n, HeadMap::Grouped)
}
