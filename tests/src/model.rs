//! A GGUF file in memory, ready to build graphs from.

use ir::Verified;
use ir::front::{self, EntryShape, Figures, Tensors};
use ir::gguf::{self, Header};
use ir::graph::Graph;
use ir::graph::interp::Weights;
use ir::quant::Format;

/// A model and its file.
#[derive(Debug)]
pub struct Model {
    /// The bytes of the file.
    pub file: Vec<u8>,
    /// Its header.
    pub header: Header,
    /// Its tensors.
    pub tensors: Tensors,
    /// Its figures.
    pub figures: Figures,
}

impl Model {
    /// Reads a file.
    ///
    /// # Panics
    /// If it is no model that can be built.
    pub fn new(file: Vec<u8>) -> Model {
        let header = gguf::parse(&file).unwrap_or_else(|e| panic!("{e}"));
        let tensors = Tensors::new(&header.tensors).unwrap_or_else(|e| panic!("{e}"));
        let front = front::Model::read(&header.metadata, &tensors);
        let figures = front.and_then(|model| model.figures()).unwrap_or_else(|e| panic!("{e}"));
        Model { file, header, tensors, figures }
    }

    /// The graph of an entry point with the model's whole context, in which steps may be as long, so that no cache is a ring.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn graph(&self, tokens: usize, kv: Format, all_logits: bool) -> Verified<Graph> {
        self.build(EntryShape { tokens, context: self.figures.context, step: self.figures.context, kv, all_logits })
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The graph of an entry point.
    ///
    /// # Errors
    /// What the front says.
    pub fn build(&self, shape: EntryShape) -> ir::Result<Verified<Graph>> {
        front::Model::read(&self.header.metadata, &self.tensors)?.build(shape)
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.header.tensor(name).map(|t| &self.file[t.offset as usize..][..t.bytes as usize])
    }

    /// The decoded weights of a graph.
    ///
    /// # Panics
    /// If the file lacks one.
    pub fn weights(&self, graph: &Graph) -> Weights {
        let mut weights = Weights::default();
        weights.load(graph, |name| self.bytes(name)).unwrap_or_else(|e| panic!("{e}"));
        weights
    }
}
