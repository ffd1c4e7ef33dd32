//! IQ4_NL: 32 indices of 4 bits into [`super::LUT4`] with one f16 scale; element j is the low nibble of byte j, element
//! j + 16 the high one.
use super::{DotForm, Field, LUT4, QuantFormat, Scale, Unpack, Unpacked};

/// IQ4_NL.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 20,
    name: "iq4_nl",
    block: 32,
    bytes: 18,
    multiple: 32,
    fields: &[Field { name: "d", offset: 0, bytes: 2, unit: 2 }, Field { name: "qs", offset: 2, bytes: 16, unit: 4 }],
    stripes: &[],
    dot: DotForm::Codebook { bits: 4, group: 32, scale: Scale::Half },
    decode: |b, out| {
        let d = super::half(b, 0);
        for (e, o) in out.iter_mut().enumerate() {
            *o = d * f32::from(LUT4[usize::from(b[2 + e % 16] >> (e / 16 * 4) & 15)]);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(1, 0);
    let codes = u.look_up(qs, e / 16, &LUT4);
    Unpacked { codes, shift: 0, scale: u.half(0, 0).into(), plus: None }
}
