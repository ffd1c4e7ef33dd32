//! IEEE half: one value a block.
use super::{DotForm, Field, FloatKind, QuantFormat};

/// IEEE half.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 1,
    name: "f16",
    block: 1,
    bytes: 2,
    multiple: 8,
    fields: &[Field { name: "x", offset: 0, bytes: 2, unit: 2 }],
    stripes: &[],
    dot: DotForm::Float(FloatKind::F16),
    decode: |b, out| out[0] = super::half(b, 0),
    unpack: None,
    set_scale: None,
};
