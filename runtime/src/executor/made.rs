//! Weights and KV caches that are made instead of loaded, for measurements: of random values that repeat, so that they
//! take no file and no time.
//!
//! Invariant: every byte is written, and every number of a weight is finite. Next hop: [`Held`].

use crate::device::{Held, Region};
use crate::random::{Rng, blocks};
use crate::{Error, Result, repack};
use ir::artifact::{Manifest, State, Weight};
use ir::quant;
use ir::tensor::{Elem, TensorType};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Bytes that are drawn at random before they repeat, unless a band of rows is longer.
const PATTERN: u64 = 1 << 20;
/// Alignment of each weight.
const ALIGN: u64 = 64;

/// Bytes of all weights.
pub(super) fn bytes(manifest: &Manifest) -> u64 {
    let bytes = |w: &Weight| w.ty.weight_bytes().unwrap_or(0).next_multiple_of(ALIGN);
    manifest.weights.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Makes all weights; where each is.
pub(super) fn weights(held: &mut Held, manifest: &Manifest, seed: u64) -> Result<Vec<Region>> {
    let whole = held.alloc(bytes(manifest), "the weights' memory")?;
    let mut rng = Rng::new(seed);
    // Layers have weights of the same types.
    let mut patterns: HashMap<&TensorType, Vec<u8>> = HashMap::new();
    let (mut regions, mut offset) = (Vec::with_capacity(manifest.weights.len()), whole.offset);
    for weight in &manifest.weights {
        let no_weight = || Error::device(format!("weight '{}' is of type {}", weight.name, weight.ty));
        let bytes = weight.ty.weight_bytes().ok_or_else(no_weight)?;
        let region = Region { offset, bytes, ..whole };
        let pattern = match patterns.entry(&weight.ty) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(pattern(weight, &mut rng).ok_or_else(no_weight)?),
        };
        held.fill(region, pattern)?;
        regions.push(region);
        offset += bytes.next_multiple_of(ALIGN);
    }
    Ok(regions)
}

/// Some first bands of a weight in its layout.
fn pattern(weight: &Weight, rng: &mut Rng) -> Option<Vec<u8>> {
    let Elem::Ggml(format) = weight.ty.elem else { return None };
    let (columns, layout) = (weight.ty.columns(), weight.ty.layout);
    if weight.ty.shape.len() == 1 {
        let value = |_| 1.0 + rng.uniform() * 0.25;
        return (format == quant::F32).then(|| (0..columns).map(value).flat_map(f32::to_le_bytes).collect());
    }
    let band = layout.band_rows(format, columns);
    let row = format.bytes_of(columns as u64);
    let bands = (PATTERN / (band as u64 * row).max(1)).max(1) as usize;
    let rows = (bands * band).min(weight.ty.rows());
    let values = blocks(format, rows * columns, 1.0 / (columns as f32).sqrt(), rng);
    let mut bytes = vec![0; repack::bytes(layout, format, rows, columns)];
    repack::repack(layout, format, &values, rows, columns, &mut bytes);
    Some(bytes)
}

/// Fills KV caches, of f16, with values of attention.
pub(super) fn caches(held: &mut Held, states: &[(&State, Region)], seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    for (state, region) in states {
        if state.ty.elem != Elem::F16 {
            return Err(Error::device(format!("a KV cache of {} cannot be made; use f16", state.ty.elem)));
        }
        let value = |_| half::f16::from_f32(rng.uniform()).to_le_bytes();
        let pattern: Vec<u8> = (0..PATTERN.min(region.bytes) / 2).flat_map(value).collect();
        held.fill(*region, &pattern)?;
    }
    Ok(())
}
