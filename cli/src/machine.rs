//! What this machine is: the best target that its CPU runs.

use crate::failure::usage;
use anyhow::Result;
use ir::target::{self, Target};

/// The target that a name stands for; `native` is the best that this CPU runs.
pub fn target(name: &str) -> Result<&'static Target> {
    if name == "native" {
        let best = target::ALL.iter().rev().find(|t| microkernels::available(t.isa));
        return best.ok_or_else(|| usage("this CPU runs none of the targets; rigc needs x86-64 with SSE4.1"));
    }
    Ok(Target::by_name(name)?)
}

/// Checks that `--device` names a device of this build.
pub fn device(name: &str) -> Result<()> {
    match name {
        "auto" | "cpu" => Ok(()),
        _ => Err(usage(format!("device '{name}' is not supported; use --device cpu"))),
    }
}
