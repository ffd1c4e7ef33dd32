//! Metadata under a model's own prefix (`llama.block_count`), bounded. Every key is read by the architecture or known to
//! say nothing that concerns the computation, or else the file is refused by its name.

use super::most;
use crate::gguf::{Metadata, Value};
use crate::graph::F32;
use crate::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Keys of one architecture.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    /// `general.architecture`.
    pub architecture: &'a str,
    read: RefCell<BTreeSet<String>>,
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

/// Keys that change nothing: they repeat the tensor table, or say how a model was made.
const HARMLESS: &[&str] = &[
    "vocab_size",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "rope.dimension_count",
];

impl<'a> Keys<'a> {
    /// The keys of `architecture`.
    pub fn new(metadata: &'a Metadata, architecture: &'a str) -> Self {
        Keys { metadata, architecture, read: RefCell::default() }
    }

    /// The whole name of a key; it counts as read.
    fn full(&self, key: &str) -> String {
        self.read.borrow_mut().insert(key.into());
        format!("{}.{key}", self.architecture)
    }

    /// Marks a key as read that the architecture takes no notice of.
    pub fn ignore(&self, key: &str) {
        self.full(key);
    }

    /// A count in `least..=most`, if the key is there; the same for every layer.
    pub fn opt_count(&self, key: &str, least: usize, most: usize) -> Result<Option<usize>> {
        let key = self.full(key);
        if let Some(Value::Array(_)) = self.metadata.get(&key) {
            let hint = "models whose layers are all alike in this are";
            return Err(Error::unsupported(format!("'{key}' with a figure for each layer"), hint));
        }
        self.metadata.opt_u64(&key)?.map(|n| bound(&format!("metadata key '{key}'"), n, least, most)).transpose()
    }

    /// A count in `least..=most`.
    pub fn count(&self, key: &str, least: usize, most: usize) -> Result<usize> {
        self.opt_count(key, least, most)?.ok_or_else(|| self.missing(key))
    }

    /// The error for a key that has to be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::malformed(format!("metadata key '{}' is missing", self.full(key)))
    }

    /// A count for each of `layers` layers, in `least..=most`: one for all, or an array.
    pub fn opt_counts(&self, key: &str, layers: usize, least: usize, most: usize) -> Result<Option<Vec<usize>>> {
        let full = self.full(key);
        let Some(Value::Array(array)) = self.metadata.get(&full) else {
            return Ok(self.opt_count(key, least, most)?.map(|n| vec![n; layers]));
        };
        let numbers = array.numbers().ok_or_else(|| Error::malformed(format!("'{full}' is no array of numbers")))?;
        if numbers.len() < layers {
            let what = format!("metadata key '{full}' has {} figures for {layers} layers", numbers.len());
            return Err(Error::malformed(what));
        }
        let what = format!("a figure of metadata key '{full}'");
        numbers[..layers].iter().map(|&n| bound(&what, n, least, most)).collect::<Result<_>>().map(Some)
    }

    /// A number that `valid` accepts, if the key is there.
    pub fn opt_number(&self, key: &str, valid: impl Fn(f32) -> bool) -> Result<Option<F32>> {
        let key = self.full(key);
        match self.metadata.opt_f32(&key)? {
            Some(x) if !valid(x) => Err(Error::malformed(format!("metadata key '{key}' is {x}, which makes no sense"))),
            x => Ok(x.map(F32)),
        }
    }

    /// A factor: finite and positive. 0 counts as missing, as converters write it.
    pub fn opt_factor(&self, key: &str) -> Result<Option<F32>> {
        Ok(self.opt_number(key, |x| x.is_finite() && x >= 0.0)?.filter(|x| x.0 != 0.0))
    }

    /// A word, if the key is there.
    pub fn opt_word(&self, key: &str) -> Result<Option<&'a str>> {
        self.metadata.opt_str(&self.full(key))
    }

    /// A truth value, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.metadata.opt_bool(&self.full(key))
    }

    /// Which of `layers` layers a pattern names: an array of truth values, or every but the last of each so many.
    pub fn pattern(&self, key: &str, layers: usize, default: usize) -> Result<Vec<bool>> {
        let full = self.full(key);
        let period = match self.metadata.get(&full) {
            Some(Value::Array(_)) => {
                let flags = self.opt_counts(key, layers, 0, 1)?.unwrap_or_default();
                return Ok(flags.into_iter().map(|flag| flag == 1).collect());
            }
            _ => self.opt_count(key, 0, most::LAYERS)?.unwrap_or(default),
        };
        Ok((0..layers).map(|layer| period > 0 && layer % period + 1 < period).collect())
    }

    /// Whether a key is a window that hides nothing.
    fn is_wide(&self, key: &str, name: &str) -> bool {
        let number = |key: &str| self.metadata.opt_u64(key).ok().flatten();
        let context = number(&format!("{}.context_length", self.architecture));
        name == "attention.sliding_window" && number(key) >= context
    }

    /// Refuses keys under the prefix that were not read and may matter.
    pub fn finish(&self) -> Result<()> {
        let prefix = format!("{}.", self.architecture);
        let read = self.read.borrow();
        for (key, value) in self.metadata.iter() {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let one = NEUTRAL_AT_ONE.contains(&name) && matches!(value, Value::F32(1.0) | Value::F64(1.0));
            if read.contains(name) || HARMLESS.contains(&name) || one || is_neutral(value) || self.is_wide(key, name) {
                continue;
            }
            let hint = format!("'{}' models are built without it, so the results could be wrong", self.architecture);
            return Err(Error::unsupported(format!("metadata key '{key}'"), hint));
        }
        Ok(())
    }
}

/// Factors that change nothing where they are 1.
const NEUTRAL_AT_ONE: &[&str] = &["logit_scale", "embedding_scale", "residual_scale", "expert_weights_scale"];

/// Whether a value turns a feature off, whatever it is.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Array(array) => array.numbers().is_some_and(|all| all.iter().all(|&n| n == 0)),
        Value::Bool(on) => !on,
        Value::String(word) => word.is_empty() || word == b"none",
        Value::F32(x) => *x == 0.0,
        Value::F64(x) => *x == 0.0,
        Value::U8(0) | Value::U16(0) | Value::U32(0) | Value::U64(0) => true,
        Value::I8(0) | Value::I16(0) | Value::I32(0) | Value::I64(0) => true,
        _ => false,
    }
}
