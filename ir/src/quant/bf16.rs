//! bfloat16: one value a block.
use super::{DotForm, Field, FloatKind, QuantFormat};

/// bfloat16.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 30,
    name: "bf16",
    block: 1,
    bytes: 2,
    multiple: 8,
    fields: &[Field { name: "x", offset: 0, bytes: 2, unit: 2 }],
    stripes: &[],
    dot: DotForm::Float(FloatKind::Bf16),
    decode: |b, out| out[0] = half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
    unpack: None,
    set_scale: None,
};
