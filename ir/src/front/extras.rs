//! Tensors that a file carries beside the language model, which runs without them.

use super::Tensors;
use std::collections::BTreeMap;

/// What a tensor is of, if it is beside a model of so many layers.
fn beside(name: &str, layers: usize) -> Option<&'static str> {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    match name {
        _ if name.starts_with("v.") || name.starts_with("mm.") => Some("an image encoder"),
        _ if name.starts_with("a.") => Some("an audio encoder"),
        _ if name.contains(".nextn.") || block.is_some_and(|block| block >= layers) => {
            Some("a predictor of further tokens")
        }
        _ => None,
    }
}

/// The tensors beside a model of so many layers, with what they are of.
pub(super) fn of(tensors: &Tensors, layers: usize) -> impl Iterator<Item = (&str, &'static str)> {
    tensors.iter().filter_map(move |(name, _)| beside(name, layers).map(|what| (name, what)))
}

/// A sentence for each kind.
pub(super) fn sentences(tensors: &Tensors, layers: usize) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, what) in of(tensors, layers) {
        *counts.entry(what).or_default() += 1;
    }
    counts.into_iter().map(|(what, n)| format!("{n} tensors of {what} are not used")).collect()
}
