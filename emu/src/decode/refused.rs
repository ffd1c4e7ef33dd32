//! Instructions that the emulator knows and does not execute, by name.

use super::mods::Mods;
use crate::parse::ParseError;

/// Instruction, the modifier that makes it one of these (none: all of them are), and what they are about.
const REFUSED: &[(&str, &str, &str)] = &[
    ("tex", "", "textures"),
    ("tld4", "", "textures"),
    ("txq", "", "textures"),
    ("istypep", "", "textures"),
    ("suld", "", "surfaces"),
    ("sust", "", "surfaces"),
    ("sured", "", "surfaces"),
    ("suq", "", "surfaces"),
    ("wgmma", "", "products of warp groups"),
    ("tcgen05", "", "tensor memory"),
    ("tensormap", "", "tensor maps"),
    ("cp", "tensor", "tensor maps"),
    ("cp", "cp_mask", "copies of masked bytes"),
    ("cp", "reduce", "bulk copies that reduce"),
    ("mma", "sp", "sparse products"),
    ("mma", "block_scale", "block-scaled products"),
    ("alloca", "", "allocation on the stack"),
    ("stacksave", "", "allocation on the stack"),
    ("stackrestore", "", "allocation on the stack"),
    ("multimem", "", "memory of several devices"),
    ("clusterlaunchcontrol", "", "clusters of several CTAs"),
    ("cvt", "rs", "stochastic rounding"),
];

/// Refuses an instruction that is known and not executed.
pub(super) fn check(op: &str, mods: &[String], m: &Mods) -> Result<(), ParseError> {
    let has = |name: &str| name.is_empty() || mods.iter().any(|m| m.split("::").next() == Some(name));
    match REFUSED.iter().find(|row| row.0 == op && has(row.1)) {
        Some(row) => Err(m.error(format!("the emulator does not execute {}", row.2))),
        None => Ok(()),
    }
}
