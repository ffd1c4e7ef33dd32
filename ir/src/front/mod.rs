//! From a GGUF file's metadata and tensor table to a graph.
//!
//! [`Model::read`] finds the architecture and the figures that other crates need, [`Model::build`] makes the graph of one
//! entry point. Architectures are files of `models/`, made of the [`parts`]. Invariant: every figure is bounded before it
//! sizes anything; every key under the architecture's prefix and every tensor of the file is used, skipped with a word, or
//! refused by its name. Next hop: `codegen`'s passes.

mod extras;
mod keys;
mod models;
mod network;
mod parts;

use crate::gguf::{Metadata, TensorInfo};
use crate::graph::Graph;
use crate::kv::KvFormat;
use crate::quant::Format;
use crate::quote::quoted;
use crate::tensor::{Elem, TensorType};
use crate::{Error, Result, Verified};
use keys::Keys;
use network::Network;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// A model architecture.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Adds the computation and its outputs to the graph.
    build: fn(&mut Network<'_>) -> Result<()>,
}

/// Bounds of metadata figures: beyond any known model, small enough for 64-bit products.
mod most {
    pub const LAYERS: usize = 1 << 10;
    pub const WIDTH: usize = 1 << 17;
    pub const HEADS: usize = 1 << 10;
    pub const HEAD: usize = 512;
    pub const FFN: usize = 1 << 20;
    pub const EXPERTS: usize = 1 << 12;
    pub const VOCAB: usize = 1 << 22;
    pub const CONTEXT: usize = 1 << 24;
    /// Query heads that share a KV head.
    pub const SHARE: usize = 32;
}

/// The figures of a model that concern more than its graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Figures {
    /// `general.architecture`.
    pub architecture: String,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Layers, with those that are skipped.
    pub layers: usize,
    /// Model width.
    pub width: usize,
}

/// The shape of one entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryShape {
    /// Most tokens of a step, T.
    pub tokens: usize,
    /// Positions of the KV caches.
    pub context: usize,
    /// Most tokens of a step of any entry point of the model: what rings of windows have room for.
    pub step: usize,
    /// Format of the KV caches, one of [`crate::kv::ALL`].
    pub kv: Format,
    /// Logits for every token (output \[T, vocab\]) or for the step's last only (\[1, vocab\]).
    pub all_logits: bool,
}

/// The tensors of a model, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tensors(BTreeMap<String, TensorType>);

impl Tensors {
    /// The tensor tables of a model's files.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor whose format is not built.
    pub fn new<'a>(tensors: impl IntoIterator<Item = &'a TensorInfo>) -> Result<Tensors> {
        let typed = |t: &TensorInfo| Ok((t.name.clone(), TensorType::new(Elem::Ggml(t.format()?), t.shape())));
        tensors.into_iter().map(typed).collect::<Result<_>>().map(Tensors)
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&TensorType> {
        self.0.get(name)
    }

    /// All tensors, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.0.iter().map(|(name, ty)| (name.as_str(), ty))
    }
}

/// A model's header, of an architecture that is built.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    metadata: &'a Metadata,
    tensors: &'a Tensors,
    architecture: &'static Architecture,
}

impl<'a> Model<'a> {
    /// Finds the architecture.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that is not built.
    pub fn read(metadata: &'a Metadata, tensors: &'a Tensors) -> Result<Model<'a>> {
        let architecture = architecture(metadata.str("general.architecture")?)?;
        if tensors.0.is_empty() {
            return Err(Error::malformed("the file has no tensors; it may hold a vocabulary only"));
        }
        Ok(Model { metadata, tensors, architecture })
    }

    /// The figures.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a missing or absurd figure, [`Error::Limit`] for one that is too large.
    pub fn figures(&self) -> Result<Figures> {
        let table = self.tensors.get(parts::EMBEDDING);
        let table = table.ok_or_else(|| Error::malformed(format!("tensor '{}' is missing", parts::EMBEDDING)))?;
        let keys = Keys::new(self.metadata, self.architecture.name);
        Ok(Figures {
            architecture: self.architecture.name.into(),
            vocab: keys::bound("the vocabulary", table.rows() as u64, 1, most::VOCAB)?,
            context: keys.count("context_length", 1, most::CONTEXT)?,
            layers: keys.count("block_count", 1, most::LAYERS)?,
            width: keys.count("embedding_length", 1, most::WIDTH)?,
        })
    }

    /// What the file carries beside the language model and is not used, a sentence for each kind.
    ///
    /// # Errors
    /// As [`Model::figures`].
    pub fn skipped(&self) -> Result<Vec<String>> {
        Ok(extras::sentences(self.tensors, blocks(&Keys::new(self.metadata, self.architecture.name))?))
    }

    /// The graph of an entry point: inputs are token ids and a position; outputs are `logits` and the states of the layers,
    /// as `k.i` and `v.i`, the KV caches of layer i, or `conv.i` and `delta.i`, its recurrent states.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a tensor that is missing or of another shape than the figures ask for, and for a missing or
    /// absurd figure; [`Error::Unsupported`] for a tensor, a key or a value that has no place in the architecture;
    /// [`Error::Limit`] for figures that are too large and an entry point that the model cannot have.
    pub fn build(&self, shape: EntryShape) -> Result<Verified<Graph>> {
        if KvFormat::of(shape.kv).is_none() {
            let hint = format!("use {}", KvFormat::names(""));
            return Err(Error::unsupported(format!("a KV cache of format {}", shape.kv), hint));
        }
        let keys = Keys::new(self.metadata, self.architecture.name);
        let context = keys.count("context_length", 1, most::CONTEXT)?;
        keys::bound("the KV cache's context", shape.context as u64, 1, context)?;
        keys::bound("the tokens of a step", shape.tokens as u64, 1, shape.step.min(shape.context))?;
        let extras = extras::of(self.tensors, blocks(&keys)?).map(|(name, _)| name.to_owned());
        let mut network = Network::new(&keys, self.tensors, shape, extras.collect())?;
        (self.architecture.build)(&mut network)?;
        network.finish()
    }
}

/// The numbers of the blocks that predict further tokens; those before are the layers of the language model.
fn blocks(keys: &Keys<'_>) -> Result<Range<usize>> {
    let blocks = keys.count("block_count", 1, most::LAYERS)?;
    let predictors = keys.opt_count("nextn_predict_layers", 0, blocks - 1)?.unwrap_or(0);
    Ok(blocks - predictors..blocks)
}

fn architecture(name: &str) -> Result<&'static Architecture> {
    models::ALL.iter().find(|a| a.name == name).ok_or_else(|| {
        let names: Vec<_> = models::ALL.iter().map(|a| a.name).collect();
        Error::unsupported(
            format!("model architecture {}", quoted(name)),
            format!("the architectures are {}", names.join(", ")),
        )
    })
}
