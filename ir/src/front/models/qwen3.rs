//! Qwen 3, dense: an RMS norm on each head of queries and keys; rotary pairs are the halves of a head; the head size is
//! independent of the model width.

use crate::front::{Architecture, decoder};
use crate::graph::RopeStyle;

const TRAITS: decoder::Traits = decoder::Traits { rope_style: RopeStyle::Halves, rope_factors: false, qk_norm: true };

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    config: |keys, tensors| decoder::config(keys, tensors, &TRAITS),
    build: decoder::build,
};
