//! Generates kernels: `generate(spec, schedule, target)`, one file for each fused op.
//!
//! An op reads its figures off the spec's body, declares buffers in the order of the body's parameters, its results and
//! its workspaces, and builds the code. Invariant: a target is seen only as data, and formats only by their
//! [`DotForm`](ir::quant::DotForm) and `unpack`. Next hop: `codegen` chooses schedules, plans memory, emits.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod block;
mod body;
mod cache;
mod cpu;
mod elements;
mod generator;
mod gpu;
mod math;
pub mod ops;
pub mod schedule;

use ir::kernel::Kernel;
use ir::spec::{KernelSpec, Schedule};
use ir::target::Target;
use ir::{Error, Result, Verified};

/// A kernel and what it asks of the plan.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The kernel. Its parameters: the body's parameters, the results that are no updated state, the workspaces.
    pub kernel: Verified<Kernel>,
    /// What the last parameters are, which are workspaces of the size that the buffer states.
    pub workspaces: Vec<Workspace>,
}

/// Memory that a kernel needs while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workspace {
    /// Of any content.
    Scratch,
    /// Zero at launch; the kernel leaves it so.
    Zeroed,
}

/// Generates the kernel of a spec.
///
/// # Errors
/// [`Error::Unsupported`] for an unknown op or a body that the op does not cover, [`Error::Verify`] for a schedule that
/// fails its check.
pub fn generate(spec: &KernelSpec, schedule: &Schedule, target: &Target) -> Result<Generated> {
    schedule.check(spec.tokens, target).map_err(|what| Error::verify("schedule", what))?;
    let op = ops::ALL.iter().find(|op| op.name == spec.kind).ok_or_else(|| {
        Error::unsupported(format!("fused op '{}'", spec.kind), "the registry of fused ops has no such name")
    })?;
    let mut g = generator::Generator::new(spec, schedule, target)?;
    op.generate(&mut g)?;
    g.finish()
}
