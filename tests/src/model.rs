//! A GGUF file in memory, ready to build graphs from.

use ir::Verified;
use ir::front::{self, EntryShape, ModelConfig, Tensors};
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
    pub config: ModelConfig,
}

impl Model {
    /// Reads a file.
    ///
    /// # Panics
    /// If it is no model that can be built.
    pub fn new(file: Vec<u8>) -> Model {
        let header = gguf::parse(&file).unwrap_or_else(|e| panic!("{e}"));
        let tensors = Tensors::new(&header.tensors).unwrap_or_else(|e| panic!("{e}"));
        let config = front::config(&header.metadata, &tensors).unwrap_or_else(|e| panic!("{e}"));
        Model { file, header, tensors, config }
    }

    /// The graph of an entry point with the model's whole context.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn graph(&self, tokens: usize, kv: Format, all_logits: bool) -> Verified<Graph> {
        let shape = EntryShape { tokens, context: self.config.context, kv, all_logits };
        front::build(&self.config, &self.tensors, shape).unwrap_or_else(|e| panic!("{e}"))
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
