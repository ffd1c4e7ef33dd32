//! Qwen 2 and 2.5, dense: biases on queries, keys and values; rotary pairs are the halves of a head.

use crate::front::{Architecture, decoder};
use crate::graph::RopeStyle;

const TRAITS: decoder::Traits = decoder::Traits { rope_style: RopeStyle::Halves, rope_factors: false, qk_norm: false };

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    config: |keys, tensors| decoder::config(keys, tensors, &TRAITS),
    build: decoder::build,
};
