//! Q4_1: as Q4_0 with unsigned codes and an f16 minimum m: value = d code + m.
use super::{DotForm, Field, QuantFormat, Scale, Unpack, Unpacked};

/// Q4_1.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 3,
    name: "q4_1",
    block: 32,
    bytes: 20,
    multiple: 32,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "m", offset: 2, bytes: 2, unit: 2 },
        Field { name: "qs", offset: 4, bytes: 16, unit: 4 },
    ],
    stripes: &[],
    dot: DotForm::Int { bits: 4, offset: 0, group: 32, scale: Scale::HalfMin },
    decode: |b, out| {
        let (d, m) = (super::half(b, 0), super::half(b, 2));
        for j in 0..16 {
            out[j] = d * f32::from(b[4 + j] & 15) + m;
            out[j + 16] = d * f32::from(b[4 + j] >> 4) + m;
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| {
        super::put_half(b, 0, scale);
        super::put_half(b, 2, scale * -7.5);
    }),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(2, 0);
    let (codes, shift) = u.part(qs, e / 16 * 4, 4);
    Unpacked { codes, shift, scale: u.half(0, 0).into(), plus: Some(u.half(1, 0).into()) }
}
