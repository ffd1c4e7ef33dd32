//! The parts of a network: an architecture's file puts them together, layer by layer, from figures that only it knows.
//!
//! A part takes its tensors by the names that GGUF gives them, with the biases that the file has. Formulas are those of the
//! ops that it adds.

mod attention;
mod block;
mod delta_net;
mod dims;
mod ends;
mod ffn;
mod hybrid;
mod latent;
mod linear;
mod moe;
mod rope;

pub(super) use attention::{Attention, HeadNorm, attend, attention, gated_attention, heads, split};
pub(super) use block::Block;
pub(super) use delta_net::{DeltaNet, delta_net};
pub(super) use dims::Dims;
pub(super) use ends::{EMBEDDING, Logits, embedding, logits};
pub(super) use ffn::{ffn, gated, widths};
pub(super) use hybrid::hybrid;
pub(super) use latent::{Latent, latent_attention};
pub(super) use linear::{Norm, linear, map, norm, residual, rms_epsilon};
pub(super) use moe::{Gate, Moe, expert_width, moe, moe_by};
pub(super) use rope::{Rope, Scaling};

/// The name of a layer's tensor, without its ending.
pub(super) fn name(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}
