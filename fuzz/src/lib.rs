//! What the targets and their seeds share.

use ir::artifact::Artifact;
use ir::target;
use runtime::ModelFile;
use tests::run::{self, Settings};
use tests::synthetic::{Synthetic, zoo};

/// A small model and its artifact, the same each time.
///
/// # Panics
/// If it cannot be compiled.
pub fn toy() -> (ModelFile, Artifact) {
    let small = Synthetic { vocab: 4, layers: 1, context: 2, ..zoo()[0].1.clone() };
    let file = run::file(small.gguf()).expect("a good file");
    let artifact = run::compile(&file, Settings::new(&target::ALL[0])).expect("a model that compiles");
    (file, artifact)
}
