//! IEEE single: one value a block.
use super::{DotForm, Field, FloatKind, QuantFormat};

/// IEEE single.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 0,
    name: "f32",
    block: 1,
    bytes: 4,
    multiple: 4,
    fields: &[Field { name: "x", offset: 0, bytes: 4, unit: 4 }],
    stripes: &[],
    dot: DotForm::Float(FloatKind::F32),
    decode: |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
    unpack: None,
    set_scale: None,
};
