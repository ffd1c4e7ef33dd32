//! What runs a compiled model: text in, tokens through the executor, text out.
#![deny(missing_docs)]

pub mod artifact;
pub mod chat;
pub mod conform;
pub mod device;
pub mod error;
pub mod executor;
pub mod generate;
pub mod measure;
pub mod model_file;
pub mod random;
pub mod reader;
pub mod repack;
pub mod sampler;
pub mod sys;
pub mod text;
pub mod tokenizer;

pub use error::{Error, Result};
pub use executor::Executor;
pub use model_file::ModelFile;
