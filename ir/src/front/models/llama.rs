//! Llama 1 to 3 and what shares their layers (Mistral 7B, SmolLM2): GGUF permutes the rows of the query and key matrices,
//! so that rotary pairs are adjacent; Llama 3.1 scales its rotary frequencies by `rope_freqs.weight`.

use crate::front::{Architecture, decoder};
use crate::graph::RopeStyle;

const TRAITS: decoder::Traits =
    decoder::Traits { rope_style: RopeStyle::Adjacent, rope_factors: true, qk_norm: false };

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    config: |keys, tensors| decoder::config(keys, tensors, &TRAITS),
    build: decoder::build,
};
