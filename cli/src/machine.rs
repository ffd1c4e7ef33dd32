//! What this machine is: the best target that its CPU runs.

use crate::failure::usage;
use anyhow::Result;
use ir::target::{self, Isa, Target};

/// The best target that this CPU runs, and its instruction set.
pub fn native() -> Result<(&'static Target, Isa)> {
    let runs = |t: &'static Target| Some((t, t.cpu().filter(|&isa| microkernels::available(isa))?));
    let best = target::ALL.iter().rev().find_map(runs);
    best.ok_or_else(|| usage("this CPU runs none of the targets; rigc needs x86-64 with SSE4.1"))
}

/// The target that a name stands for, with a card if one is named; `native` is the best that this CPU runs.
pub fn target(name: &str, card: Option<&str>) -> Result<Target> {
    let target = if name == "native" { native()?.0 } else { Target::by_name(name)? };
    Ok(card.map_or(Ok(*target), |card| target.with_card(card))?)
}
