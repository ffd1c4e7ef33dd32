//! From a graph to an artifact: passes, lowering, memory planning, backends.
//!
//! Invariant: pure; the same input gives the same bytes on every machine. Next hop: the artifact is all that the runtime
//! sees.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod assembly;
pub mod back;
mod compile;
mod lower;
mod memory;
pub mod passes;
pub mod predict;

pub use compile::{Compiled, Listing, Model, Options, STAGES, compile, stages};
pub use kernels_gen::schedule;
pub use lower::{KernelTable, TableKernel, lower};
