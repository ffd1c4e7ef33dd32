//! Q8_0: 32 signed codes of 8 bits with one f16 scale.
use super::{DotForm, Field, QuantFormat, Scale, Unpack, Unpacked};

/// Q8_0.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 8,
    name: "q8_0",
    block: 32,
    bytes: 34,
    multiple: 32,
    fields: &[Field { name: "d", offset: 0, bytes: 2, unit: 2 }, Field { name: "qs", offset: 2, bytes: 32, unit: 4 }],
    stripes: &[],
    dot: DotForm::Int { bits: 8, offset: 0, group: 32, scale: Scale::Half },
    decode: |b, out| {
        let d = super::half(b, 0);
        for j in 0..32 {
            out[j] = d * f32::from(b[2 + j] as i8);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    Unpacked { codes: u.words(1, e), shift: 0, scale: u.half(0, 0).into(), plus: None }
}
