//! Metadata under a model's own prefix (`llama.block_count`), bounded, and the features whose keys mean that a model
//! computes something that is not built.

use crate::gguf::{Metadata, Value};
use crate::graph::F32;
use crate::quote::quoted;
use crate::{Error, Result};

/// Keys of one architecture.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    /// `general.architecture`.
    pub architecture: &'a str,
}

/// `value` if it lies in `least..=most`.
pub(super) fn bound(what: &str, value: u64, least: usize, most: usize) -> Result<usize> {
    if value > most as u64 {
        return Err(Error::Limit { what: what.into(), need: value, have: most as u64 });
    }
    if value < least as u64 {
        return Err(Error::malformed(format!("{what} is {value}, at least {least} is expected")));
    }
    Ok(value as usize)
}

/// Counts that mean a feature unless they are 0.
const COUNTS: &[(&str, &str)] = &[
    ("expert_count", "a mixture of experts"),
    ("attention.kv_lora_rank", "multi-head latent attention"),
    ("attention.key_length_mla", "multi-head latent attention"),
    ("nextn_predict_layers", "multi-token prediction layers"),
];

/// Factors that mean a feature unless they have this value or are missing.
const FACTORS: &[(&str, f32, &str)] = &[
    ("attn_logit_softcapping", 0.0, "soft-capping of attention scores"),
    ("final_logit_softcapping", 0.0, "soft-capping of logits"),
    ("attention.scale", 0.0, "a scale of attention scores"),
    ("attention.clamp_kqv", 0.0, "clamping of queries, keys and values"),
    ("attention.max_alibi_bias", 0.0, "ALiBi position biases"),
    ("logit_scale", 1.0, "a scale of logits"),
    ("embedding_scale", 1.0, "a scale of embeddings"),
    ("residual_scale", 1.0, "a scale of residuals"),
    ("rope.scale_linear", 1.0, "linear RoPE scaling"),
    ("rope.scaling.attn_factor", 1.0, "an attention factor of RoPE scaling"),
];

impl<'a> Keys<'a> {
    /// The keys of `architecture`.
    pub fn new(metadata: &'a Metadata, architecture: &'a str) -> Self {
        Keys { metadata, architecture }
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A count in `least..=most`, if the key is there.
    pub fn opt_count(&self, key: &str, least: usize, most: usize) -> Result<Option<usize>> {
        let key = self.full(key);
        if let Some(Value::Array(_)) = self.metadata.get(&key) {
            let hint = "models whose layers are all alike are";
            return Err(Error::unsupported(format!("'{key}' with a figure for each layer"), hint));
        }
        self.metadata.opt_u64(&key)?.map(|n| bound(&format!("metadata key '{key}'"), n, least, most)).transpose()
    }

    /// A count in `least..=most`.
    pub fn count(&self, key: &str, least: usize, most: usize) -> Result<usize> {
        match self.opt_count(key, least, most)? {
            Some(n) => Ok(n),
            None => Err(Error::malformed(format!("metadata key '{}' is missing", self.full(key)))),
        }
    }

    /// A number that `valid` accepts, if the key is there.
    pub fn opt_number(&self, key: &str, valid: impl Fn(f32) -> bool) -> Result<Option<F32>> {
        let key = self.full(key);
        match self.metadata.opt_f32(&key)? {
            Some(x) if !valid(x) => Err(Error::malformed(format!("metadata key '{key}' is {x}, which makes no sense"))),
            x => Ok(x.map(F32)),
        }
    }

    /// Refuses the features that no dense decoder of this crate builds.
    pub fn refuse_unbuilt(&self, context: usize) -> Result<()> {
        let refuse = |feature: String| {
            let hint = format!("only '{}' models without it can be compiled", self.architecture);
            Err(Error::unsupported(feature, hint))
        };
        for (key, feature) in COUNTS {
            if self.opt_count(key, 0, usize::MAX)?.is_some_and(|n| n != 0) {
                return refuse(format!("{feature} ('{}')", self.full(key)));
            }
        }
        for (key, neutral, feature) in FACTORS {
            if self.opt_number(key, |_| true)?.is_some_and(|x| x.0 != *neutral) {
                return refuse(format!("{feature} ('{}')", self.full(key)));
            }
        }
        if let Some(window) = self.opt_count("attention.sliding_window", 0, usize::MAX)?
            && window != 0
            && window < context
        {
            return refuse(format!("a sliding window of {window} ('{}')", self.full("attention.sliding_window")));
        }
        for key in ["attention.causal", "use_parallel_residual"] {
            let neutral = key == "attention.causal";
            if self.metadata.opt_bool(&self.full(key))?.is_some_and(|b| b != neutral) {
                return refuse(format!("'{}' = {}", self.full(key), !neutral));
            }
        }
        let factor = self.opt_number("rope.scaling.factor", |_| true)?.map_or(1.0, |f| f.0);
        let scaled = factor != 0.0 && factor != 1.0;
        match self.metadata.opt_str(&self.full("rope.scaling.type"))? {
            Some("none") => Ok(()),
            Some("linear") | None if !scaled => Ok(()),
            kind => refuse(format!(
                "RoPE scaling {} ('{}')",
                quoted(kind.unwrap_or("linear")),
                self.full("rope.scaling.type")
            )),
        }
    }
}
