//! From a GGUF file's metadata and tensor table to a graph.
//!
//! [`config`] reads the figures of a model, [`build`] makes the graph of one entry point. Architectures are files of
//! `models/`. Invariant: every figure is bounded before it sizes anything, every tensor of the file is used and has the
//! shape that the figures ask for; what is not built is refused by its name. Next hop: `codegen`'s passes.

mod builder;
mod decoder;
mod keys;
mod models;

use crate::gguf::{Metadata, TensorInfo};
use crate::graph::{F32, Graph, RopeStyle};
use crate::quant::{self, Format};
use crate::quote::quoted;
use crate::tensor::{Elem, TensorType};
use crate::{Error, Result, Verified};
use builder::Builder;
use keys::Keys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A model architecture: how its metadata is read and its graph is built.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Reads the figures.
    config: fn(&Keys<'_>, &Tensors) -> Result<ModelConfig>,
    /// Adds the computation and its outputs to the graph.
    build: fn(&ModelConfig, &mut Builder<'_>) -> Result<()>,
}

/// Values of `general.type` of files that are no models, and what those are.
const NO_MODELS: &[(&str, &str)] = &[
    ("adapter", "an adapter, such as a LoRA,"),
    ("imatrix", "an importance matrix for quantising"),
    ("mmproj", "a projector of images or sounds"),
];

/// The figures of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// Number of layers.
    pub layers: usize,
    /// Model width d.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head: usize,
    /// Hidden width of the feed-forward network.
    pub ffn: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Epsilon of every RMS norm.
    pub rms_eps: F32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub qk_norm: bool,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
}

/// Rotary embedding of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rope {
    /// Rotated elements of a head, from its start.
    pub dim: usize,
    /// Base of the frequencies.
    pub theta: F32,
    /// Where the pairs are.
    pub style: RopeStyle,
    /// Whether frequencies are divided by the factors of tensor `rope_freqs.weight`.
    pub factors: bool,
}

/// The shape of one entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryShape {
    /// Most tokens of a step, T.
    pub tokens: usize,
    /// Positions of the KV caches.
    pub context: usize,
    /// Format of the KV caches: [`quant::F16`] or [`quant::Q8_0`].
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

/// Reads the figures of a model.
///
/// # Errors
/// [`Error::Unsupported`] for an architecture or feature that is not built, [`Error::Malformed`] for a missing or absurd
/// figure, [`Error::Limit`] for one that is too large.
pub fn config(metadata: &Metadata, tensors: &Tensors) -> Result<ModelConfig> {
    if let Ok(Some(kind)) = metadata.opt_str("general.type")
        && let Some((_, what)) = NO_MODELS.iter().find(|(name, _)| *name == kind)
    {
        let hint = "give the model that it belongs to";
        return Err(Error::unsupported(format!("{what} (general.type '{kind}') alone"), hint));
    }
    let name = metadata.str("general.architecture")?;
    let architecture = architecture(name)?;
    if tensors.0.is_empty() {
        return Err(Error::malformed("the file has no tensors; it may hold a vocabulary only"));
    }
    (architecture.config)(&Keys::new(metadata, name), tensors)
}

/// The graph of an entry point: inputs are token ids and a position; outputs are `logits` and, for each layer i, the KV
/// caches `k.i` and `v.i`.
///
/// # Errors
/// [`Error::Malformed`] for a tensor that is missing or of another shape than the figures ask for,
/// [`Error::Unsupported`] for one that has no place in the architecture, [`Error::Limit`] for an entry point that the
/// model cannot have.
pub fn build(config: &ModelConfig, tensors: &Tensors, shape: EntryShape) -> Result<Verified<Graph>> {
    if shape.kv != quant::F16 && shape.kv != quant::Q8_0 {
        let hint = format!("use {} or {}", quant::F16, quant::Q8_0);
        return Err(Error::unsupported(format!("a KV cache of format {}", shape.kv), hint));
    }
    keys::bound("the KV cache's context", shape.context as u64, 1, config.context)?;
    keys::bound("the tokens of a step", shape.tokens as u64, 1, shape.context)?;
    let mut builder = Builder::new(tensors, shape)?;
    (architecture(&config.architecture)?.build)(config, &mut builder)?;
    builder.finish(&config.architecture)
}

fn architecture(name: &str) -> Result<&'static Architecture> {
    models::ALL.iter().copied().find(|a| a.name == name).ok_or_else(|| {
        let names: Vec<_> = models::ALL.iter().map(|a| a.name).collect();
        Error::unsupported(
            format!("model architecture {}", quoted(name)),
            format!("the architectures are {}", names.join(", ")),
        )
    })
}
