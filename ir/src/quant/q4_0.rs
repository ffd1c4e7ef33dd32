//! Q4_0: 32 codes of 4 bits with one f16 scale; element j is the low nibble of byte j, element j + 16 the high one.
use super::{DotForm, Field, QuantFormat, Scale, Unpack, Unpacked};

/// Q4_0.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 2,
    name: "q4_0",
    block: 32,
    bytes: 18,
    multiple: 32,
    fields: &[Field { name: "d", offset: 0, bytes: 2, unit: 2 }, Field { name: "qs", offset: 2, bytes: 16, unit: 4 }],
    stripes: &[],
    dot: DotForm::Int { bits: 4, offset: 8, group: 32, scale: Scale::Half },
    decode: |b, out| {
        let d = super::half(b, 0);
        for j in 0..16 {
            out[j] = d * (f32::from(b[2 + j] & 15) - 8.0);
            out[j + 16] = d * (f32::from(b[2 + j] >> 4) - 8.0);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(1, 0);
    let (codes, shift) = u.part(qs, e / 16 * 4, 4);
    Unpacked { codes, shift, scale: u.half(0, 0).into(), plus: None }
}
