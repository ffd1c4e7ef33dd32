//! Tensors that a file carries beside the language model, which runs without them.

use super::Tensors;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a tensor is of, if it is beside a model whose blocks of these numbers predict further tokens.
fn beside(name: &str, predictors: &Range<usize>) -> Option<&'static str> {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    match name {
        _ if name.starts_with("v.") || name.starts_with("mm.") => Some("an image encoder"),
        _ if name.starts_with("a.") => Some("an audio encoder"),
        _ if name.contains(".nextn.") || block.is_some_and(|block| predictors.contains(&block)) => {
            Some("a predictor of further tokens")
        }
        _ => None,
    }
}

/// The tensors beside such a model, with what they are of.
pub(super) fn of(tensors: &Tensors, predictors: Range<usize>) -> impl Iterator<Item = (&str, &'static str)> {
    tensors.iter().filter_map(move |(name, _)| beside(name, &predictors).map(|what| (name, what)))
}

/// A sentence for each kind.
pub(super) fn sentences(tensors: &Tensors, predictors: Range<usize>) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, what) in of(tensors, predictors) {
        *counts.entry(what).or_default() += 1;
    }
    counts.into_iter().map(|(what, n)| format!("{n} tensors of {what} are not used")).collect()
}
