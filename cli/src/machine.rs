//! What this machine is: the best target that its CPU runs.

use crate::failure::usage;
use anyhow::Result;
use ir::target::{self, Isa, Target};
use runtime::device::Kind;

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

/// The kind of device that `--device` names.
pub fn device(name: &str) -> Result<Kind> {
    let known = Kind::ALL.iter().find(|(n, _)| *n == name);
    known.map(|&(_, kind)| kind).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|(name, _)| *name).collect();
        usage(format!("device '{name}' is not supported; the devices are {}", names.join(", ")))
    })
}

/// The target of a device that has no other.
pub fn default_target(device: Kind) -> &'static str {
    match device {
        Kind::Auto | Kind::Cpu => "native",
        Kind::Emu => "sm_120",
    }
}
