//! The forms that a model takes inside rigc, and what they mean.
//!
//! `gguf` reads a file's header over bytes, `front` turns its metadata into a [`graph::Graph`], `codegen` rewrites the
//! graph and lowers it to [`kernel::Kernel`]s and a [`plan::Plan`], and the [`artifact::Manifest`] carries the result to
//! the runtime. Invariant: nothing here does I/O, uses `unsafe` or depends on the machine it runs on.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod abi;
mod activation;
pub mod artifact;
mod cursor;
pub mod error;
pub mod front;
pub mod gguf;
pub mod graph;
pub mod kernel;
pub mod kv;
pub mod numerics;
pub mod plan;
pub mod quant;
pub mod quote;
pub mod role;
pub mod spec;
pub mod state;
pub mod target;
pub mod tensor;
mod value;
mod verified;
pub mod work;

pub use error::{Error, Result};
pub use verified::Verified;
